//! A table of what each span cost, for a terminal.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::profile::{CROWDED, LOST, Profile, ProfileKind, Sample, UNSAMPLED, ValueType};

/// Distinct span paths that are kept apart; the profiler itself tells 8,192 apart.
const MAX_PATHS: usize = 10_000;

/// Where the path of spans beyond [`MAX_PATHS`] goes.
const OTHER: &str = "(other spans)";
const OUTSIDE: &str = "(outside spans)";
const TOTAL: &str = "total";

/// What each span cost, over the windows added.
///
/// Its `Display` is a table: spans as a tree by their paths, the costliest first.
///
/// ```text
/// shop: 10.0 s profiled
///
/// span                  CPU   share     self  samples  polls  migrations
/// checkout          0.080 s   80.0%  0.050 s        8     40           3
///   price           0.030 s   30.0%  0.030 s        3     12           0
/// (outside spans)   0.020 s   20.0%  0.020 s        2
/// total             0.100 s  100.0%  0.100 s       10
/// ```
///
/// CPU, share and samples of a span include those of the spans inside it, *self* leaves them out.
/// Polls and migrations are the span's own, counted when it is closed. Memory is bounded: beyond
/// 10,000 distinct paths, what is new is counted as `(other spans)`.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    service_name: Arc<str>,
    weight_type: Option<ValueType>,
    profiled: Duration,
    spans: BTreeMap<Arc<[Arc<str>]>, Numbers>,
    /// In the order of their rows: outside spans, then what no sample has a stack for.
    outside: [Numbers; OUTSIDES.len()],
    total: Numbers,
}

/// Names of the rows for samples without a span.
const OUTSIDES: [&str; 4] = [OUTSIDE, LOST, UNSAMPLED, CROWDED];

/// A row's numbers, its children excluded.
#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    samples: u64,
    weight: u64,
    polls: u64,
    migrations: u64,
}

impl Summary {
    /// A summary of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a window. The first decides what is counted: a profile of another weight type is passed
    /// over, and so is the profile of every span, which has each sample several times.
    pub fn add(&mut self, profile: &Profile) {
        let weight_type = *self.weight_type.get_or_insert(profile.weight_type);
        if profile.kind != ProfileKind::ProcessCpu || profile.weight_type != weight_type {
            return;
        }
        self.service_name = profile.service_name.clone();
        self.profiled += profile.duration;
        for usage in &profile.spans {
            let numbers = Numbers {
                samples: usage.samples,
                weight: usage.weight,
                polls: usage.polls,
                migrations: usage.migrations,
            };
            self.row(&usage.path).add(&numbers);
        }
        for sample in &profile.samples {
            let numbers = Numbers { samples: sample.count, weight: sample.weight, ..Numbers::default() };
            self.total.add(&numbers);
            if sample.span.is_none() {
                self.outside[outside(profile, sample)].add(&numbers);
            }
        }
    }

    fn row(&mut self, path: &Arc<[Arc<str>]>) -> &mut Numbers {
        let crowded = self.spans.len() >= MAX_PATHS && !self.spans.contains_key(path);
        self.spans.entry(if crowded { [OTHER.into()].into() } else { path.clone() }).or_default()
    }

    /// The spans with their children inside them.
    fn tree(&self) -> Node<'_> {
        let mut root = Node::default();
        for (path, numbers) in &self.spans {
            let mut node = &mut root;
            node.inclusive.add(numbers);
            for name in path.iter() {
                node = node.children.entry(name).or_default();
                node.inclusive.add(numbers);
            }
            node.own.add(numbers);
        }
        root
    }
}

/// Which row a sample without a span belongs to.
fn outside(profile: &Profile, sample: &Sample) -> usize {
    let mut frames = profile.frames(sample);
    let (first, second) = (frames.next(), frames.next());
    let named = first.filter(|_| second.is_none());
    OUTSIDES.iter().position(|&row| Some(row) == named).unwrap_or(0)
}

impl Numbers {
    fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.samples, other.samples),
            (&mut self.weight, other.weight),
            (&mut self.polls, other.polls),
            (&mut self.migrations, other.migrations),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

#[derive(Default)]
struct Node<'a> {
    own: Numbers,
    inclusive: Numbers,
    children: BTreeMap<&'a str, Node<'a>>,
}

/// A line of the table, as text.
type Cells = [String; 7];

impl Node<'_> {
    /// Writes the children's lines, costliest first and then by name.
    fn cells(&self, depth: usize, to_cells: &impl Fn(String, &Numbers, u64) -> Cells, out: &mut Vec<Cells>) {
        let mut children: Vec<_> = self.children.iter().collect();
        children.sort_by_key(|(_, node)| std::cmp::Reverse(node.inclusive.weight));
        for (name, node) in children {
            let shown = Numbers { polls: node.own.polls, migrations: node.own.migrations, ..node.inclusive };
            out.push(to_cells(format!("{:1$}{name}", "", depth * 2), &shown, node.own.weight));
            node.cells(depth + 1, to_cells, out);
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(weight_type) = self.weight_type else { return f.write_str("nothing profiled\n") };
        let weight = |weight: u64| match weight_type {
            ValueType::CPU => format!("{:.3} s", weight as f64 / 1e9),
            _ => weight.to_string(),
        };
        let of = match weight_type {
            ValueType::CPU => "CPU".to_owned(),
            ValueType { kind, unit: "count" } => kind.to_owned(),
            ValueType { kind, unit } => format!("{kind} {unit}"),
        };
        let total = self.total.weight;
        let span = |name: String, numbers: &Numbers, own_weight: u64| -> Cells {
            let share = format!("{:.1}%", 100.0 * numbers.weight as f64 / total.max(1) as f64);
            let counts = [numbers.samples, numbers.polls, numbers.migrations].map(|n| n.to_string());
            let [samples, polls, migrations] = counts;
            [name, weight(numbers.weight), share, weight(own_weight), samples, polls, migrations]
        };
        // What is no span is not polled.
        let other = |name: &str, numbers: &Numbers| {
            let mut cells = span(name.into(), numbers, numbers.weight);
            cells[5..].fill(String::new());
            cells
        };
        let header = ["span", &of, "share", "self", "samples", "polls", "migrations"];
        let mut lines = vec![header.map(str::to_owned)];
        self.tree().cells(0, &span, &mut lines);
        let outside = OUTSIDES.iter().zip(&self.outside).filter(|(_, n)| n.samples > 0 || n.weight > 0);
        lines.extend(outside.map(|(name, numbers)| other(name, numbers)));
        lines.push(other(TOTAL, &self.total));
        writeln!(f, "{}: {:.1} s profiled\n", self.service_name, self.profiled.as_secs_f64())?;
        table(f, &lines)
    }
}

/// Names to the left, numbers to the right.
fn table(f: &mut fmt::Formatter<'_>, lines: &[Cells]) -> fmt::Result {
    let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    for [name, numbers @ ..] in lines {
        let mut line = format!("{name:0$}", widths[0]);
        for (number, width) in numbers.iter().zip(&widths[1..]) {
            line += &format!("  {number:>width$}");
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

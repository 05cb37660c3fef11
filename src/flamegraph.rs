//! Draws profiles as a flame graph: one SVG that a browser opens, without any server.
//!
//! You add windows and get a picture of their sum. Equal profiles give equal bytes.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use inferno::flamegraph::color::{BackgroundColor, Color, PaletteMap};
use inferno::flamegraph::{Options, from_lines};

use crate::error::{Error, ErrorKind};
use crate::profile::{CROWDED, INCOMPLETE, Profile, ProfileKind, ValueType};

/// Distinct stacks that are kept apart: more than a page can show, and some 100 MB at worst.
const MAX_STACKS: usize = 100_000;

/// A flame graph of the windows added to it.
///
/// ```
/// # fn draw(windows: &[pollscope::Profile]) -> Result<(), Box<dyn std::error::Error>> {
/// let mut graph = pollscope::Flamegraph::new();
/// for window in windows {
///     graph.add(window);
/// }
/// graph.write_svg("checkout", std::fs::File::create("checkout.svg")?)?;
/// # Ok(())
/// # }
/// ```
///
/// Spans are blue, the kernel is purple, other code is red to yellow, and what is no code of the
/// program (`[lost samples]`, the runtime's collapsed frames) is grey. Memory is bounded: beyond
/// 100,000 distinct stacks, what is new is drawn as `[too many stacks]`.
#[derive(Clone, Debug, Default)]
pub struct Flamegraph {
    of: Option<(ProfileKind, ValueType)>,
    names: Names,
    /// Weights by stack, outermost frame first.
    stacks: HashMap<Vec<u32>, u64>,
}

/// Function names, each kept once.
#[derive(Clone, Debug, Default)]
struct Names {
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
    kernel: HashSet<u32>,
}

impl Flamegraph {
    /// A flame graph of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a window. The first decides what is drawn: a profile of another kind or another weight
    /// type cannot be added to it and is passed over.
    pub fn add(&mut self, profile: &Profile) {
        let of = (profile.kind, profile.weight_type);
        if *self.of.get_or_insert(of) != of {
            return;
        }
        for sample in profile.samples.iter().filter(|sample| sample.weight > 0) {
            let mut stack = Vec::new();
            for &at in sample.stack.iter().rev() {
                let location = &profile.locations[at as usize];
                let lines = location.lines.iter().rev();
                stack
                    .extend(lines.map(|line| self.names.number(&line.function, is_kernel(location.address))));
            }
            if stack.is_empty() {
                stack.push(self.names.number(INCOMPLETE, false));
            }
            if self.stacks.len() >= MAX_STACKS && !self.stacks.contains_key(&stack) {
                stack = vec![self.names.number(CROWDED, false)];
            }
            let weight = self.stacks.entry(stack).or_default();
            *weight = weight.saturating_add(sample.weight);
        }
    }

    /// Writes the picture, as an SVG that can be searched and zoomed in a browser.
    ///
    /// # Errors
    ///
    /// Without any sample there is nothing to draw; nothing is written then. Otherwise what `to` says.
    pub fn write_svg(&self, title: &str, to: impl Write) -> Result<(), Error> {
        let Some((_, weight_type)) = self.of.filter(|_| !self.stacks.is_empty()) else {
            return Err(Error::new(ErrorKind::Export, "no samples to draw a flame graph of"));
        };
        let mut palette = self.palette();
        let mut options = Options::default();
        options.title = drawable(title);
        options.palette_map = Some(&mut palette);
        options.bgcolors = Some(BackgroundColor::Grey);
        options.deterministic = true;
        // Lines come sorted by frames; sorted as text, `a` and `a::b` would be mixed up and drawn in
        // pieces. Of all its orders a flame chart's alone is taken as it is, from the last line on.
        options.flame_chart = true;
        (options.count_name, options.factor) = match weight_type {
            ValueType::CPU => ("ms of CPU".into(), 1e-6),
            ValueType { kind, unit: "count" } => (kind.into(), 1.0),
            ValueType { kind, unit } => (format!("{unit} of {kind}"), 1.0),
        };
        let lines = self.lines();
        from_lines(&mut options, lines.iter().rev().map(|line| &**line), BufWriter::new(to))
            .map_err(|error| Error::new(ErrorKind::Io, format!("cannot write the flame graph: {error}")))
    }

    /// Each stack as `outer;inner 12`, neighbors sharing the most frames.
    fn lines(&self) -> Vec<String> {
        let names: Vec<String> = self.names.names.iter().map(|name| drawable(name)).collect();
        let mut stacks: Vec<(Vec<&str>, u64)> = self
            .stacks
            .iter()
            .map(|(stack, &weight)| (stack.iter().map(|&at| &*names[at as usize]).collect(), weight))
            .collect();
        stacks.sort_unstable();
        let line = |(stack, weight): &(Vec<&str>, u64)| {
            let mut line = stack.join(";");
            let _ = write!(line, " {weight}");
            line
        };
        stacks.iter().map(line).collect()
    }

    fn palette(&self) -> PaletteMap {
        let mut palette = PaletteMap::default();
        // The frame below all, which inferno writes `all` into, has no name.
        palette.insert("", color("[all]", false));
        for (number, name) in (0..).zip(&self.names.names) {
            palette.insert(drawable(name), color(name, self.names.kernel.contains(&number)));
        }
        palette
    }
}

impl Profile {
    /// Draws this window alone as an SVG flame graph; see [`Flamegraph`](crate::Flamegraph), which
    /// draws several.
    ///
    /// # Errors
    ///
    /// Those of [`Flamegraph::write_svg`](crate::Flamegraph::write_svg).
    pub fn write_flamegraph(&self, title: &str, to: impl Write) -> Result<(), Error> {
        let mut graph = Flamegraph::new();
        graph.add(self);
        graph.write_svg(title, to)
    }
}

impl Names {
    fn number(&mut self, name: &str, is_kernel: bool) -> u32 {
        let number = match self.numbers.get(name) {
            Some(&number) => number,
            None => {
                let number = self.names.len() as u32;
                let name: Arc<str> = name.into();
                self.names.push(name.clone());
                self.numbers.insert(name, number);
                number
            }
        };
        if is_kernel {
            self.kernel.insert(number);
        }
        number
    }
}

/// The kernel has the upper half of the address space.
fn is_kernel(address: u64) -> bool {
    address >> 63 == 1
}

/// `name` as inferno reads it back: a semicolon would end the frame, a number after the last space
/// would be a count.
fn drawable(name: &str) -> String {
    let character = |c| match c {
        ';' => ':',
        c if c.is_control() => ' ',
        c => c,
    };
    let name: String = name.chars().map(character).collect();
    const NO_BREAK_SPACE: char = '\u{a0}';
    match name.trim() {
        "" => "?".into(),
        name => match name.rsplit_once(' ') {
            Some((start, end)) if end.chars().all(|c| c.is_ascii_digit() || c == '.') => {
                format!("{start}{NO_BREAK_SPACE}{end}")
            }
            _ => name.into(),
        },
    }
}

/// A family of colors says what a frame is, a shade tells its neighbors apart.
fn color(name: &str, is_kernel: bool) -> Color {
    // FNV-1a: the same name has the same shade in every picture, which std's hasher does not promise.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let shade =
        |from: u8, range: u8, bits: u32| from + ((hash >> bits & 0xff) * u64::from(range) / 255) as u8;
    let (r, g, b) = if name.starts_with("span:") {
        (shade(90, 50, 32), shade(150, 50, 40), shade(215, 40, 48))
    } else if name.starts_with('[') {
        let grey = shade(185, 35, 32);
        (grey, grey, grey)
    } else if is_kernel {
        (shade(180, 40, 32), shade(120, 50, 40), shade(200, 40, 48))
    } else {
        (shade(215, 40, 32), shade(90, 130, 40), shade(50, 40, 48))
    };
    Color { r, g, b }
}

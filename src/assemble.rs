//! From a window of addresses and numbers to profiles with names.

use std::collections::HashMap;
use std::sync::Arc;

use crate::aggregate::{Entry, Tally, Window};
use crate::follow::Tracking;
use crate::locate::Locations;
use crate::profile::{
    CROWDED, LOST, Profile, ProfileKind, Sample, SpanLabels, SpanUsage, UNSAMPLED, ValueType,
};
use crate::sample::{ANCESTOR_WORDS, Context};
use crate::settings::SpanScope;
use crate::span::path::{Book, Usage};
use crate::span::record::Identity;

/// How profiles are made.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) service_name: Arc<str>,
    pub(crate) scope: SpanScope,
    /// Whether a second profile has each sample under every open span.
    pub(crate) every_span: bool,
    pub(crate) trace_id_label: bool,
    pub(crate) span_name_label: bool,
    pub(crate) raw_stacks: bool,
    pub(crate) weight_type: ValueType,
}

/// Makes profiles; keeps the names it has found.
pub(crate) struct Assembler {
    options: Options,
    tracking: Arc<Tracking>,
    book: Book,
    locations: Locations,
}

/// A profile under way: samples by labels and stack.
type Samples = HashMap<(Option<Arc<SpanLabels>>, Vec<u32>), Tally>;

impl Assembler {
    pub(crate) fn new(options: Options, tracking: Arc<Tracking>) -> Self {
        let locations = Locations::new(options.raw_stacks);
        Self { options, tracking, book: Book::default(), locations }
    }

    /// What the user should read once about names that were not found.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        self.locations.take_notes()
    }

    /// The window's profiles: `process_cpu`, and `span` when it is asked for.
    pub(crate) fn assemble(&mut self, window: Window) -> Vec<Profile> {
        self.book.refresh();
        self.locations.begin();
        let mut once = Samples::new();
        let mut every = Samples::new();
        let mut by_path: HashMap<u32, Tally> = HashMap::new();
        for at in 0..window.generations.len() {
            // What came shortly before a change may have been taken shortly after it.
            let (now, later) = (&window.generations[at], window.generations.get(at + 1));
            self.locations.resolve(now, later);
            for entry in &now.entries {
                self.add(entry, &mut once, &mut every);
                if let Context::In(identity) = entry.context {
                    by_path.entry(identity.path).or_default().add(entry.tally.count, entry.tally.weight);
                }
            }
        }
        let lost = Tally { count: window.lost.count, weight: window.lost.weight };
        let unsampled = Tally { count: 0, weight: window.unsampled_ns };
        for (name, tally) in [(LOST, lost), (UNSAMPLED, unsampled), (CROWDED, window.crowded)] {
            if tally != Tally::default() {
                once.insert((None, vec![self.locations.named(name)]), tally);
            }
        }
        let spans = self.usage(&window.usage, &by_path);
        let (locations, mappings) = self.locations.take();
        let profile = |kind, samples: Samples, spans| Profile {
            service_name: self.options.service_name.clone(),
            kind,
            start: window.start,
            duration: window.duration,
            period: window.period,
            weight_type: self.options.weight_type,
            samples: in_order(samples),
            locations: locations.clone(),
            mappings: mappings.clone(),
            spans,
        };
        let mut profiles = vec![profile(ProfileKind::ProcessCpu, once, spans)];
        if self.options.every_span {
            profiles.push(profile(ProfileKind::EverySpan, every, Vec::new()));
        }
        profiles
    }

    fn add(&mut self, entry: &Entry, once: &mut Samples, every: &mut Samples) {
        let Context::In(identity) = entry.context else {
            let stack = self.locations.stack(&entry.stack, entry.complete, &[]);
            once.entry((None, stack)).or_default().add(entry.tally.count, entry.tally.weight);
            return;
        };
        let path = self.book.names(identity.path);
        let stack = self.locations.stack(&entry.stack, entry.complete, &path);
        let labels = self.labels(&identity, &path);
        once.entry((Some(labels.clone()), stack.clone()))
            .or_default()
            .add(entry.tally.count, entry.tally.weight);
        if !self.options.every_span || identity.span_id == 0 {
            return;
        }
        for (span_id, path) in open_spans(&identity, &entry.ancestors) {
            let name = self.book.names(path).last().cloned().unwrap_or_default();
            let labels =
                SpanLabels { name: self.span_name(name), span_id: Some(span_id), ..(*labels).clone() };
            every
                .entry((Some(labels.into()), stack.clone()))
                .or_default()
                .add(entry.tally.count, entry.tally.weight);
        }
    }

    fn labels(&self, identity: &Identity, path: &Arc<[Arc<str>]>) -> Arc<SpanLabels> {
        let (span_id, named) = match self.options.scope {
            SpanScope::LocalRoot => (identity.root_span_id, self.root_path(identity)),
            SpanScope::Innermost => (identity.span_id, path.clone()),
        };
        let has_trace = identity.trace_id != 0 && span_id != 0;
        Arc::new(SpanLabels {
            path: path.clone(),
            name: self.span_name(named.last().cloned().unwrap_or_default()),
            span_id: has_trace.then_some(span_id),
            trace_id: (has_trace && self.options.trace_id_label).then_some(identity.trace_id),
            fields: self.tracking.labels.pairs(identity.labels),
        })
    }

    /// The path of the local root. Without a trace that is the outermost span.
    fn root_path(&self, identity: &Identity) -> Arc<[Arc<str>]> {
        if identity.root_span_id != 0 {
            return self.book.names(identity.root_path);
        }
        self.book.names(identity.path).iter().take(1).cloned().collect()
    }

    fn span_name(&self, name: Arc<str>) -> Arc<str> {
        if self.options.span_name_label { name } else { "".into() }
    }

    fn usage(&self, usage: &[Usage], by_path: &HashMap<u32, Tally>) -> Vec<SpanUsage> {
        let mut spans: Vec<SpanUsage> = usage
            .iter()
            .enumerate()
            .map(|(path, usage)| {
                let tally = by_path.get(&(path as u32)).copied().unwrap_or_default();
                SpanUsage {
                    path: self.book.names(path as u32),
                    samples: tally.count,
                    weight: tally.weight,
                    polls: usage.polls,
                    migrations: usage.migrations,
                    closed: usage.closed,
                }
            })
            .filter(|span| !span.path.is_empty() && (span.samples, span.polls, span.closed) != (0, 0, 0))
            .collect();
        spans.sort_by(|a, b| a.path.cmp(&b.path));
        spans
    }
}

/// The ids and paths of the spans that were open in the trace, innermost first. Where they are more
/// than a sample has room for, the local root still is the last.
fn open_spans(identity: &Identity, ancestors: &[u64]) -> Vec<(u64, u32)> {
    let mut open = vec![(identity.span_id, identity.path)];
    let (ancestors, _) = ancestors.as_chunks::<ANCESTOR_WORDS>();
    open.extend(ancestors.iter().map(|&[span_id, path]| (span_id, path as u32)));
    if open.last().is_some_and(|&(span_id, _)| span_id != identity.root_span_id) {
        open.push((identity.root_span_id, identity.root_path));
    }
    open
}

/// The samples in an order that does not depend on the table's, heaviest first.
fn in_order(samples: Samples) -> Vec<Sample> {
    let mut samples: Vec<Sample> = samples
        .into_iter()
        .map(|((span, stack), tally)| Sample { stack, count: tally.count, weight: tally.weight, span })
        .collect();
    samples.sort_by(|a, b| b.weight.cmp(&a.weight).then_with(|| a.stack.cmp(&b.stack)));
    samples
}

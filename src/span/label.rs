//! Span fields as sample labels: only those that the user named, and few distinct values of each.
//!
//! A span's label set is its parent's with its own fields on top. A set is a small number, like a
//! path, and for the same reason.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};

use crate::patience;
use crate::settings::label_of_field;

/// The set of no labels.
pub(crate) const EMPTY: u32 = 0;

/// Distinct values of a field, after which the value is `other`: each one is a series to the server.
pub(crate) const MAX_VALUES: usize = 100;
/// Distinct sets of labels; a set beyond keeps the parent's.
const MAX_SETS: u32 = 10_000;
/// The longest value that Pyroscope takes, in bytes.
const MAX_VALUE_BYTES: usize = 2048;

/// A label's name and value.
pub(crate) type Pair = (Arc<str>, Arc<str>);

/// The label sets of one profiler.
pub(crate) struct Labels {
    /// The number of the first set with labels. Spans outlive the profiler that they were made under:
    /// its numbers mean nothing to the next one.
    first: u32,
    /// Field names as spans have them, each with the label's name.
    fields: Vec<(String, Arc<str>)>,
    sets: Mutex<Sets>,
    overflowed: AtomicU64,
}

#[derive(Default)]
struct Sets {
    sets: Vec<Arc<[Pair]>>,
    numbers: HashMap<Arc<[Pair]>, u32>,
    values: HashMap<Arc<str>, HashSet<Arc<str>>>,
}

impl Labels {
    /// Labels made from these span fields.
    pub(crate) fn new(fields: impl IntoIterator<Item = String>) -> Self {
        let fields = fields.into_iter().map(|field| {
            let label = label_of_field(&field);
            (field, label)
        });
        static NEXT: AtomicU32 = AtomicU32::new(EMPTY + 1);
        Self {
            first: NEXT.fetch_add(MAX_SETS, Ordering::Relaxed),
            fields: fields.collect(),
            sets: Mutex::new(Sets::default()),
            overflowed: AtomicU64::new(0),
        }
    }

    /// Whether no field is wanted, so that nothing needs to be looked at.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// `base` with the wanted fields that `record` has on top.
    pub(crate) fn with(&self, base: u32, record: impl FnOnce(&mut dyn Visit)) -> u32 {
        let mut found = Found { labels: self, pairs: Vec::new() };
        record(&mut found);
        if found.pairs.is_empty() {
            return base;
        }
        let pairs = found.pairs;
        let Some(mut sets) = patience::lock(&self.sets) else {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            return base;
        };
        let mut set = sets.get(self.first, base).to_vec();
        for (name, value) in pairs {
            let value = sets.bounded(&name, value, &self.overflowed);
            match set.iter_mut().find(|(existing, _)| *existing == name) {
                Some(pair) => pair.1 = value,
                None => set.push((name, value)),
            }
        }
        set.sort_unstable();
        sets.number(set.into(), self.first).unwrap_or_else(|| {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            base
        })
    }

    /// The labels of a set; none for another profiler's.
    pub(crate) fn pairs(&self, set: u32) -> Arc<[Pair]> {
        let sets = self.sets.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        sets.get(self.first, set).into()
    }

    /// How many values became `other`, or were left out, for being beyond a bound.
    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }
}

impl Sets {
    fn bounded(&mut self, name: &Arc<str>, value: String, overflowed: &AtomicU64) -> Arc<str> {
        let known = self.values.entry(name.clone()).or_default();
        if let Some(value) = known.get(&*value) {
            return value.clone();
        }
        if known.len() >= MAX_VALUES {
            overflowed.fetch_add(1, Ordering::Relaxed);
            return "other".into();
        }
        let value: Arc<str> = value.into();
        known.insert(value.clone());
        value
    }

    /// The set of a number; the empty one for a number that is none of these.
    fn get(&self, first: u32, number: u32) -> &[Pair] {
        let at = number.checked_sub(first).map(|at| at as usize);
        at.and_then(|at| self.sets.get(at)).map_or(&[], |set| set)
    }

    /// The number of a set; `None` when there are too many.
    fn number(&mut self, set: Arc<[Pair]>, first: u32) -> Option<u32> {
        if let Some(&number) = self.numbers.get(&set) {
            return Some(number);
        }
        let at = self.sets.len() as u32;
        if at >= MAX_SETS {
            return None;
        }
        self.sets.push(set.clone());
        self.numbers.insert(set, first + at);
        Some(first + at)
    }
}

/// Collects the wanted fields.
struct Found<'a> {
    labels: &'a Labels,
    pairs: Vec<(Arc<str>, String)>,
}

impl Found<'_> {
    fn take(&mut self, field: &Field, value: impl FnOnce() -> String) {
        if let Some((_, name)) = self.labels.fields.iter().find(|(wanted, _)| wanted == field.name()) {
            let mut value = value();
            let mut end = value.len().min(MAX_VALUE_BYTES);
            while !value.is_char_boundary(end) {
                end -= 1;
            }
            value.truncate(end);
            self.pairs.push((name.clone(), value));
        }
    }
}

impl Visit for Found<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, || value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, || format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(labels: &Labels, base: u32, value: &str) -> u32 {
        // A visitor is only ever called with fields of a real span.
        let span = tracing::info_span!("request", http.route = tracing::field::Empty, other = 1);
        let field = span.metadata().map(|m| m.fields().field("http.route").expect("declared"));
        let Some(field) = field else { return base };
        labels.with(base, |visit| visit.record_str(&field, value))
    }

    fn with_subscriber(test: impl FnOnce()) {
        tracing::subscriber::with_default(tracing_subscriber::registry(), test);
    }

    #[test]
    fn a_named_field_becomes_a_label_and_a_later_value_replaces_it() {
        with_subscriber(|| {
            let labels = Labels::new(["http.route".to_owned()]);
            let first = set(&labels, EMPTY, "/a");
            assert_eq!(*labels.pairs(first), [("http_route".into(), "/a".into())]);
            let second = set(&labels, first, "/b");
            assert_eq!(*labels.pairs(second), [("http_route".into(), "/b".into())]);
            assert_eq!(set(&labels, EMPTY, "/a"), first);
        });
    }

    #[test]
    fn a_field_that_nobody_named_stays_out() {
        with_subscriber(|| {
            let labels = Labels::new(["user".to_owned()]);
            assert_eq!(set(&labels, EMPTY, "/a"), EMPTY);
        });
    }

    #[test]
    fn a_set_of_one_profiler_is_none_of_the_next_one() {
        with_subscriber(|| {
            let (before, now) =
                (Labels::new(["http.route".to_owned()]), Labels::new(["http.route".to_owned()]));
            let old = set(&before, EMPTY, "/old");
            let new = set(&now, EMPTY, "/new");
            assert_eq!(*before.pairs(old), [("http_route".into(), "/old".into())]);
            assert_eq!(*now.pairs(new), [("http_route".into(), "/new".into())]);
            assert_eq!((now.pairs(old).len(), before.pairs(new).len()), (0, 0));
        });
    }

    #[test]
    fn values_beyond_the_bound_are_called_other_and_counted() {
        with_subscriber(|| {
            let labels = Labels::new(["http.route".to_owned()]);
            for n in 0..MAX_VALUES + 5 {
                set(&labels, EMPTY, &format!("/{n}"));
            }
            let beyond = set(&labels, EMPTY, "/one-more");
            assert_eq!(*labels.pairs(beyond), [("http_route".into(), "other".into())]);
            assert_eq!(labels.overflowed(), 6);
        });
    }
}

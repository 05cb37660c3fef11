//! Span fields as sample labels: only those that the user named, and few distinct values of each.
//!
//! A span's label set is its parent's with its own fields on top. A set is a small number, like a
//! path, and for the same reason.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use tracing::field::{Field, Visit};

use crate::settings::label_of_field;

/// The set of no labels.
pub(crate) const EMPTY: u32 = 0;

/// Distinct values of a field, after which the value is `other`: each one is a series to the server.
pub(crate) const MAX_VALUES: usize = 100;
/// Distinct sets of labels; a set beyond keeps the parent's.
const MAX_SETS: usize = 10_000;
/// The longest value that Pyroscope takes, in bytes.
const MAX_VALUE_BYTES: usize = 2048;
/// As in `path.rs`: some microseconds, and never a wait.
const LOCK_TRIES: u32 = 2000;

/// A label's name and value.
pub(crate) type Pair = (Arc<str>, Arc<str>);

/// The label sets of one profiler.
pub(crate) struct Labels {
    /// Field names as spans have them, each with the label's name.
    fields: Vec<(String, Arc<str>)>,
    sets: Mutex<Sets>,
    overflowed: AtomicU64,
}

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
        let empty: Arc<[Pair]> = Arc::from([]);
        Self {
            fields: fields.collect(),
            sets: Mutex::new(Sets {
                sets: vec![empty.clone()],
                numbers: HashMap::from([(empty, EMPTY)]),
                values: HashMap::new(),
            }),
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
        let Some(mut sets) = self.try_lock() else {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            return base;
        };
        let mut set = sets.sets[base as usize].to_vec();
        for (name, value) in pairs {
            let value = sets.bounded(&name, value, &self.overflowed);
            match set.iter_mut().find(|(existing, _)| *existing == name) {
                Some(pair) => pair.1 = value,
                None => set.push((name, value)),
            }
        }
        set.sort_unstable();
        sets.number(set.into(), base, &self.overflowed)
    }

    /// The labels of a set; none for a number that is not known.
    pub(crate) fn pairs(&self, set: u32) -> Arc<[Pair]> {
        let sets = self.sets.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        sets.sets.get(set as usize).cloned().unwrap_or_default()
    }

    /// How many values became `other`, or were left out, for being beyond a bound.
    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Sets>> {
        for _ in 0..LOCK_TRIES {
            match self.sets.try_lock() {
                Ok(guard) => return Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
        None
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

    fn number(&mut self, set: Arc<[Pair]>, base: u32, overflowed: &AtomicU64) -> u32 {
        if let Some(&number) = self.numbers.get(&set) {
            return number;
        }
        if self.sets.len() >= MAX_SETS {
            overflowed.fetch_add(1, Ordering::Relaxed);
            return base;
        }
        let number = self.sets.len() as u32;
        self.sets.push(set.clone());
        self.numbers.insert(set, number);
        number
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

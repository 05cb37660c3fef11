//! Samples of one window, merged by span and stack.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::module::Module;
use crate::ring::Lost;
use crate::sample::{Context, Head, Lists};
use crate::span::path::Usage;
use crate::span::record::Identity;

/// Distinct pairs of span and stack in a window. What comes after is counted under a frame of its
/// own: about 50 MiB at the very most, when every stack is new and deep.
const MAX_ENTRIES: usize = 50_000;

/// How many samples, and their weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) count: u64,
    pub(crate) weight: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, count: u64, weight: u64) {
        self.count += count;
        self.weight += weight;
    }
}

/// The samples of one span with one stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) context: Context,
    pub(crate) complete: bool,
    /// The open spans around the innermost one, as in [`Lists`].
    pub(crate) ancestors: Box<[u64]>,
    /// Leaf first: kernel addresses, which lie in the upper half of the address space, then user.
    pub(crate) stack: Box<[u64]>,
    pub(crate) tally: Tally,
}

/// Samples that were taken while the same objects were mapped.
#[derive(Debug, Default)]
pub(crate) struct Generation {
    pub(crate) modules: Vec<Arc<Module>>,
    pub(crate) entries: Vec<Entry>,
}

/// All that is known of one window of time.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) start: SystemTime,
    pub(crate) duration: Duration,
    /// What a sample stands for, in the unit of its weight; 1 when that varies.
    pub(crate) period: u64,
    pub(crate) generations: Vec<Generation>,
    pub(crate) lost: Lost,
    /// Samples whose stacks had no room in the table.
    pub(crate) crowded: Tally,
    /// CPU time that the process's clock knows of and no sample does, in nanoseconds.
    pub(crate) unsampled_ns: u64,
    /// What the spans of each path did in this window.
    pub(crate) usage: Vec<Usage>,
}

/// Which ids decide whether two samples are of the same span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grain {
    /// The innermost span's own id matters, not the local root's alone.
    pub(crate) own_ids: bool,
}

/// What makes samples the same: the words of their identity, ids and stack.
type Key = Box<[u64]>;

/// The table of the window that is under way.
pub(crate) struct Aggregate {
    grain: Grain,
    table: HashMap<Key, Tally>,
    key: Vec<u64>,
    done: Vec<Generation>,
    entries: usize,
    crowded: Tally,
}

impl Aggregate {
    pub(crate) fn new(grain: Grain) -> Self {
        Self {
            grain,
            table: HashMap::new(),
            key: Vec::new(),
            done: Vec::new(),
            entries: 0,
            crowded: Tally::default(),
        }
    }

    /// Adds a sample.
    pub(crate) fn add(&mut self, head: &Head, lists: &Lists<'_>) {
        let (kind, mut identity) = match head.context {
            Context::Outside => (0, Identity::default()),
            Context::In(identity) => (1, identity),
            Context::Unknown => (2, Identity::default()),
        };
        if !self.grain.own_ids {
            identity.span_id = 0;
        }
        self.key.clear();
        self.key.extend([
            kind | u64::from(head.complete) << 8 | (lists.ancestors.len() as u64) << 16,
            u64::from(identity.path) | u64::from(identity.root_path) << 32,
            u64::from(identity.labels),
            identity.span_id,
            identity.root_span_id,
            (identity.trace_id >> 64) as u64,
            identity.trace_id as u64,
        ]);
        self.key.extend(lists.ancestors);
        self.key.extend(lists.kernel);
        self.key.extend(lists.user);
        let (count, weight) = (head.count.into(), head.weight);
        if let Some(tally) = self.table.get_mut(&self.key[..]) {
            tally.add(count, weight);
        } else if self.entries >= MAX_ENTRIES {
            self.crowded.add(count, weight);
        } else {
            self.entries += 1;
            self.table.insert(self.key.as_slice().into(), Tally { count, weight });
        }
    }

    /// Objects were loaded or unloaded: what was added until now belongs to `modules`.
    pub(crate) fn end_generation(&mut self, modules: &[Arc<Module>]) {
        if !self.table.is_empty() {
            let entries = self.table.drain().map(|(key, tally)| entry(&key, tally)).collect();
            self.done.push(Generation { modules: modules.to_vec(), entries });
        }
    }

    /// Ends the window; what comes after belongs to the next.
    pub(crate) fn take(&mut self, modules: &[Arc<Module>]) -> (Vec<Generation>, Tally) {
        self.end_generation(modules);
        self.entries = 0;
        // A burst should not hold its memory for ever.
        self.table.shrink_to(1024);
        (std::mem::take(&mut self.done), std::mem::take(&mut self.crowded))
    }
}

fn entry(key: &[u64], tally: Tally) -> Entry {
    let identity = Identity {
        path: key[1] as u32,
        root_path: (key[1] >> 32) as u32,
        labels: key[2] as u32,
        span_id: key[3],
        root_span_id: key[4],
        trace_id: u128::from(key[5]) << 64 | u128::from(key[6]),
    };
    let (ancestors, stack) = key[7..].split_at((key[0] >> 16) as usize);
    Entry {
        context: match key[0] & 0xff {
            0 => Context::Outside,
            1 => Context::In(identity),
            _ => Context::Unknown,
        },
        complete: key[0] >> 8 & 1 != 0,
        ancestors: ancestors.into(),
        stack: stack.into(),
        tally,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(span_id: u64, count: u32) -> Head {
        let identity = Identity { path: 5, root_path: 4, labels: 3, span_id, root_span_id: 2, trace_id: 1 };
        Head { count, weight: u64::from(count) * 10, context: Context::In(identity), complete: true, tid: 1 }
    }

    const LISTS: Lists<'_> = Lists { ancestors: &[7, 8], kernel: &[u64::MAX], user: &[1, 2] };

    fn entries(own_ids: bool) -> Vec<Entry> {
        let mut aggregate = Aggregate::new(Grain { own_ids });
        aggregate.add(&sample(10, 1), &LISTS);
        aggregate.add(&sample(11, 2), &LISTS);
        aggregate.add(&sample(10, 3), &LISTS);
        let (mut generations, crowded) = aggregate.take(&[]);
        assert_eq!(crowded, Tally::default());
        assert_eq!(generations.len(), 1);
        generations.remove(0).entries
    }

    #[test]
    fn samples_of_one_local_root_merge_unless_each_span_counts() {
        let merged = entries(false);
        assert_eq!(merged.len(), 1);
        assert_eq!(merged[0].tally, Tally { count: 6, weight: 60 });
        assert_eq!(*merged[0].ancestors, [7, 8]);
        assert_eq!(*merged[0].stack, [u64::MAX, 1, 2]);
        let mut tallies: Vec<_> = entries(true).iter().map(|e| e.tally.count).collect();
        tallies.sort_unstable();
        assert_eq!(tallies, [2, 4]);
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let mut aggregate = Aggregate::new(Grain { own_ids: false });
        for n in 0..MAX_ENTRIES as u64 + 3 {
            aggregate.add(&sample(0, 1), &Lists { ancestors: &[], kernel: &[], user: &[n] });
        }
        let (generations, crowded) = aggregate.take(&[]);
        assert_eq!(generations[0].entries.len(), MAX_ENTRIES);
        assert_eq!(crowded, Tally { count: 3, weight: 30 });
    }
}

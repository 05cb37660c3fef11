//! Records of open spans, in a pool that is never unmapped.
//!
//! The layer opens a record when a span is made and closes it when the span is gone; the signal
//! handler of any thread may look at one at any time. Memory of a record is reused and never
//! returned, so such a look is always valid memory, and the sequence number tells whether it was
//! still the same span: a registry gives a span's id out again after a few thousand spans, so
//! neither an id nor an address says which span is meant.

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

/// Records a chunk.
const CHUNK_RECORDS: usize = 4096;
/// 1 Mi records of 128 bytes: 128 MiB at the very most, for a million spans open at once.
const CHUNKS: usize = 256;
/// How often the handler retries to count a sample while other threads count theirs.
const OBSERVE_TRIES: u32 = 16;

/// An identity's number that nobody has: the end of the free list, or no parent.
const NONE: u32 = u32::MAX;

/// The trace ids were asked for.
const LINKED: u32 = 1;
/// Somebody has taken it upon them to mark the OpenTelemetry span.
#[cfg(feature = "otel")]
const MARKED: u32 = 2;

/// What is known of one open span.
#[repr(C, align(128))]
pub(crate) struct SpanRecord {
    // read by every enter
    /// The span's id and its layer's key, mixed; 0 while the record is free.
    ident: AtomicU64,
    /// High half: sequence number, odd while a span lives here. Low half: samples that hit it.
    state: AtomicU64,

    // written by every enter
    polls: AtomicU32,
    migrations: AtomicU32,
    /// Number of the thread that entered last.
    last_thread: AtomicU32,
    /// [`LINKED`] and [`MARKED`].
    linked: AtomicU32,

    // copied by the handler
    path: AtomicU32,
    root_path: AtomicU32,
    labels: AtomicU32,
    parent: AtomicU32,
    span_id: AtomicU64,
    root_span_id: AtomicU64,
    trace_id_high: AtomicU64,
    trace_id_low: AtomicU64,

    // written when a child closes
    /// Samples of descendants that are closed.
    inherited: AtomicU64,

    /// The record's own place in the pool.
    index: AtomicU32,
    next_free: AtomicU32,
}

const _: () = assert!(size_of::<SpanRecord>() == 128);

/// A copy of what a sample needs to know of its span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) path: u32,
    /// The path of the span that `root_span_id` belongs to.
    pub(crate) root_path: u32,
    pub(crate) labels: u32,
    /// OpenTelemetry ids; 0 means none.
    pub(crate) span_id: u64,
    pub(crate) root_span_id: u64,
    pub(crate) trace_id: u128,
}

/// What a span was found to have done when it closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) path: u32,
    pub(crate) polls: u32,
    pub(crate) migrations: u32,
    /// Samples in the span and in all its descendants.
    pub(crate) samples: u64,
}

impl SpanRecord {
    const fn new() -> Self {
        Self {
            ident: AtomicU64::new(0),
            state: AtomicU64::new(0),
            polls: AtomicU32::new(0),
            migrations: AtomicU32::new(0),
            last_thread: AtomicU32::new(NONE),
            linked: AtomicU32::new(0),
            path: AtomicU32::new(0),
            root_path: AtomicU32::new(0),
            labels: AtomicU32::new(0),
            parent: AtomicU32::new(NONE),
            span_id: AtomicU64::new(0),
            root_span_id: AtomicU64::new(0),
            trace_id_high: AtomicU64::new(0),
            trace_id_low: AtomicU64::new(0),
            inherited: AtomicU64::new(0),
            index: AtomicU32::new(0),
            next_free: AtomicU32::new(NONE),
        }
    }

    #[inline]
    pub(crate) fn ident(&self) -> u64 {
        self.ident.load(Ordering::Acquire)
    }

    /// The number that tells this span from all that lived here before and will after.
    #[inline]
    pub(crate) fn sequence(&self) -> u32 {
        (self.state.load(Ordering::Relaxed) >> 32) as u32
    }

    /// Counts an enter by `thread`; whether the trace ids are still to be asked for.
    ///
    /// A span that two threads enter at the same instant may count one poll for both: an exact
    /// count would cost every enter a locked instruction.
    #[inline]
    pub(crate) fn entered(&self, thread: u32) -> bool {
        let polls = self.polls.load(Ordering::Relaxed);
        self.polls.store(polls.wrapping_add(1), Ordering::Relaxed);
        if self.last_thread.load(Ordering::Relaxed) != thread {
            if polls != 0 {
                self.migrations.store(self.migrations.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
            self.last_thread.store(thread, Ordering::Relaxed);
        }
        self.linked.load(Ordering::Acquire) & LINKED == 0
    }

    /// Counts an enter by the thread that entered last, of a span whose trace ids are known. False, with
    /// nothing counted, when it is any other: [`entered`](Self::entered) counts those.
    #[inline]
    pub(crate) fn entered_again(&self, thread: u32) -> bool {
        if self.last_thread.load(Ordering::Relaxed) != thread || self.linked.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.polls.store(self.polls.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        true
    }

    /// Signal side. Copies the identity and counts `samples`, provided that the span is still the
    /// one of `sequence`.
    pub(crate) fn observe(&self, sequence: u32, samples: u32) -> Option<Identity> {
        let identity = self.identity();
        // The copy is good if the sequence number is still the same after it.
        fence(Ordering::Acquire);
        let mut state = self.state.load(Ordering::Relaxed);
        for _ in 0..OBSERVE_TRIES {
            if (state >> 32) as u32 != sequence {
                return None;
            }
            let counted = (state as u32).saturating_add(samples);
            let next = (state & !0xffff_ffff) | u64::from(counted);
            match self.state.compare_exchange_weak(state, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(identity),
                Err(now) => state = now,
            }
        }
        // Only the count of this span's own samples missed this one: the label is right.
        Some(identity)
    }

    /// The identity as it is now.
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            path: self.path.load(Ordering::Relaxed),
            root_path: self.root_path.load(Ordering::Relaxed),
            labels: self.labels.load(Ordering::Relaxed),
            span_id: self.span_id.load(Ordering::Relaxed),
            root_span_id: self.root_span_id.load(Ordering::Relaxed),
            trace_id: u128::from(self.trace_id_high.load(Ordering::Relaxed)) << 64
                | u128::from(self.trace_id_low.load(Ordering::Relaxed)),
        }
    }

    /// The record of the parent span, which outlives this span.
    #[inline]
    pub(crate) fn parent(&self) -> Option<&'static SpanRecord> {
        POOL.get(self.parent.load(Ordering::Relaxed))
    }

    pub(crate) fn path(&self) -> u32 {
        self.path.load(Ordering::Relaxed)
    }

    pub(crate) fn labels(&self) -> u32 {
        self.labels.load(Ordering::Relaxed)
    }

    pub(crate) fn set_labels(&self, labels: u32) {
        self.labels.store(labels, Ordering::Relaxed);
    }

    /// Notes that there are no trace ids to ask for.
    pub(crate) fn set_unlinked(&self) {
        self.linked.fetch_or(LINKED, Ordering::Release);
    }

    /// What the span has done until now.
    pub(crate) fn life(&self) -> Life {
        Life {
            path: self.path(),
            polls: self.polls.load(Ordering::Relaxed),
            migrations: self.migrations.load(Ordering::Relaxed),
            samples: u64::from(self.state.load(Ordering::Relaxed) as u32)
                + self.inherited.load(Ordering::Relaxed),
        }
    }
}

/// What the OpenTelemetry link knows.
#[cfg(feature = "otel")]
impl SpanRecord {
    /// Whether the trace ids were asked for already.
    pub(crate) fn is_linked(&self) -> bool {
        self.linked.load(Ordering::Acquire) & LINKED != 0
    }

    /// True for the first caller in the span's life. Two threads may enter a span, or two children of
    /// it, for the first time at the same instant.
    pub(crate) fn claim_mark(&self) -> bool {
        self.linked.fetch_or(MARKED, Ordering::Relaxed) & MARKED == 0
    }

    /// Sets the trace ids: done before a thread first pushes the span on its stack. Threads that do
    /// it at the same instant store the same.
    pub(crate) fn set_link(&self, span_id: u64, root_span_id: u64, root_path: u32, trace_id: u128) {
        self.span_id.store(span_id, Ordering::Relaxed);
        self.root_span_id.store(root_span_id, Ordering::Relaxed);
        self.root_path.store(root_path, Ordering::Relaxed);
        self.trace_id_high.store((trace_id >> 64) as u64, Ordering::Relaxed);
        self.trace_id_low.store(trace_id as u64, Ordering::Relaxed);
        self.linked.fetch_or(LINKED, Ordering::Release);
    }
}

/// Takes a record for the span `ident`. `None` when a million spans are open already.
pub(crate) fn open(
    ident: u64,
    path: u32,
    labels: u32,
    parent: Option<&'static SpanRecord>,
) -> Option<&'static SpanRecord> {
    let record = POOL.take()?;
    // A handler that copies any of what follows will find the sequence number changed.
    fence(Ordering::Release);
    record.polls.store(0, Ordering::Relaxed);
    record.migrations.store(0, Ordering::Relaxed);
    record.last_thread.store(NONE, Ordering::Relaxed);
    record.linked.store(0, Ordering::Relaxed);
    record.path.store(path, Ordering::Relaxed);
    record.root_path.store(path, Ordering::Relaxed);
    record.labels.store(labels, Ordering::Relaxed);
    record.span_id.store(0, Ordering::Relaxed);
    record.root_span_id.store(0, Ordering::Relaxed);
    record.trace_id_high.store(0, Ordering::Relaxed);
    record.trace_id_low.store(0, Ordering::Relaxed);
    record.inherited.store(0, Ordering::Relaxed);
    let parent = parent.map_or(NONE, |p| p.index.load(Ordering::Relaxed));
    record.parent.store(parent, Ordering::Relaxed);
    record.ident.store(ident, Ordering::Release);
    Some(record)
}

/// Gives a record back once its span is closed; its samples are added to the parent's.
pub(crate) fn close(record: &'static SpanRecord) -> Life {
    let life = record.life();
    if life.samples != 0
        && let Some(parent) = record.parent()
    {
        parent.inherited.fetch_add(life.samples, Ordering::Relaxed);
    }
    record.ident.store(0, Ordering::Relaxed);
    POOL.give_back(record);
    life
}

struct Pool {
    chunks: [AtomicPtr<SpanRecord>; CHUNKS],
    /// Records ever taken from the chunks; those below are in use or in the free list.
    fresh: AtomicU32,
    /// High half: a count that makes each state of the list unique; low half: the first free one.
    free: AtomicU64,
}

static POOL: Pool = Pool {
    chunks: [const { AtomicPtr::new(std::ptr::null_mut()) }; CHUNKS],
    fresh: AtomicU32::new(0),
    free: AtomicU64::new(NONE as u64),
};

impl Pool {
    #[inline]
    fn get(&self, index: u32) -> Option<&'static SpanRecord> {
        let chunk = self.chunks.get(index as usize / CHUNK_RECORDS)?.load(Ordering::Acquire);
        if chunk.is_null() {
            return None;
        }
        // SAFETY: a chunk pointer that is not null leads to CHUNK_RECORDS records that are never freed.
        Some(unsafe { &*chunk.add(index as usize % CHUNK_RECORDS) })
    }

    fn take(&self) -> Option<&'static SpanRecord> {
        let record = self.take_used().or_else(|| self.take_fresh())?;
        // Odd: a span lives here, with no samples yet.
        let sequence = record.sequence().wrapping_add(1) | 1;
        record.state.store(u64::from(sequence) << 32, Ordering::Release);
        Some(record)
    }

    fn take_used(&self) -> Option<&'static SpanRecord> {
        let mut head = self.free.load(Ordering::Acquire);
        loop {
            let record = self.get(head as u32)?;
            let next = record.next_free.load(Ordering::Relaxed);
            let tagged = (head >> 32).wrapping_add(1) << 32 | u64::from(next);
            match self.free.compare_exchange_weak(head, tagged, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(record),
                Err(now) => head = now,
            }
        }
    }

    fn take_fresh(&self) -> Option<&'static SpanRecord> {
        let index = self
            .fresh
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < (CHUNKS * CHUNK_RECORDS) as u32).then_some(n + 1)
            })
            .ok()?;
        let chunk = &self.chunks[index as usize / CHUNK_RECORDS];
        if chunk.load(Ordering::Acquire).is_null() {
            let records: Box<[SpanRecord]> = (0..CHUNK_RECORDS).map(|_| SpanRecord::new()).collect();
            let records = Box::into_raw(records).cast::<SpanRecord>();
            let raced =
                chunk.compare_exchange(std::ptr::null_mut(), records, Ordering::AcqRel, Ordering::Acquire);
            if raced.is_err() {
                let slice = std::ptr::slice_from_raw_parts_mut(records, CHUNK_RECORDS);
                // SAFETY: made by Box::into_raw just above, and another thread's chunk was published instead.
                drop(unsafe { Box::from_raw(slice) });
            }
        }
        let record = self.get(index)?;
        record.index.store(index, Ordering::Relaxed);
        Some(record)
    }

    fn give_back(&self, record: &'static SpanRecord) {
        // Even: nobody lives here. A handler that copied the identity meanwhile will see it.
        let sequence = record.sequence().wrapping_add(1) & !1;
        record.state.store(u64::from(sequence) << 32, Ordering::Release);
        let index = record.index.load(Ordering::Relaxed);
        let mut head = self.free.load(Ordering::Relaxed);
        loop {
            record.next_free.store(head as u32, Ordering::Relaxed);
            let tagged = (head >> 32).wrapping_add(1) << 32 | u64::from(index);
            match self.free.compare_exchange_weak(head, tagged, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_span_is_not_observed_under_its_successor() {
        let first = open(11, 1, 0, None).expect("a record");
        let sequence = first.sequence();
        assert_eq!(first.observe(sequence, 2).expect("open").path, 1);
        assert_eq!(close(first).samples, 2);
        assert_eq!(first.observe(sequence, 1), None);
        // Whoever gets the same memory next has another sequence number.
        for _ in 0..100 {
            let next = open(12, 2, 0, None).expect("a record");
            if std::ptr::eq(next, first) {
                assert_ne!(next.sequence(), sequence);
                assert_eq!(next.observe(sequence, 1), None);
            }
            close(next);
        }
    }

    #[test]
    fn samples_of_descendants_reach_the_root() {
        let root = open(21, 1, 0, None).expect("a record");
        let child = open(22, 2, 0, Some(root)).expect("a record");
        let leaf = open(23, 3, 0, Some(child)).expect("a record");
        leaf.observe(leaf.sequence(), 5);
        child.observe(child.sequence(), 7);
        assert_eq!(close(leaf).samples, 5);
        assert_eq!(close(child).samples, 12);
        assert_eq!(close(root).samples, 12);
    }

    #[test]
    fn records_go_round_under_contention() {
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                scope.spawn(move || {
                    for round in 0..20_000u64 {
                        let ident = thread << 32 | round | 1 << 63;
                        let record = open(ident, thread as u32, 0, None).expect("a record");
                        assert_eq!(record.ident(), ident);
                        assert_eq!(record.identity().path, thread as u32);
                        close(record);
                    }
                });
            }
        });
    }

    #[test]
    fn polls_and_migrations_are_counted() {
        let record = open(31, 1, 0, None).expect("a record");
        for thread in [1, 1, 2, 1] {
            record.entered(thread);
        }
        // The short way is for a linked span and the last thread alone, and counts the same.
        assert!(!record.entered_again(1));
        record.set_unlinked();
        assert!(!record.entered_again(2));
        assert!(record.entered_again(1));
        let life = close(record);
        assert_eq!((life.polls, life.migrations), (5, 2));
    }
}

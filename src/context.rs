//! Which spans a thread is in: a stack that the thread writes and its own signal handler reads.
//!
//! Pushing writes the entry first and the new depth after it; popping stores the old depth. One
//! store of one word makes either visible, so a handler that interrupts anywhere sees the stack as
//! it was before or as it is after. Nobody else reads or writes it.

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, compiler_fence};

use crate::span::record::SpanRecord;

/// Spans that one thread can be in at once. Those entered deeper keep the label of the last one
/// here, and are counted.
pub(crate) const SPANS_DEPTH: usize = 64;

/// An ident that no span is left by: the chance that a span has it is 2⁻⁶⁴.
const LEFT: u64 = 0;

struct Entry {
    /// Null once the span was left while others above it stayed.
    record: AtomicPtr<SpanRecord>,
    /// `LEFT` from then on.
    ident: AtomicU64,
    sequence: AtomicU32,
}

impl Entry {
    #[inline]
    fn set(&self, ident: u64, record: &'static SpanRecord) {
        self.record.store(std::ptr::from_ref(record).cast_mut(), Ordering::Relaxed);
        self.ident.store(ident, Ordering::Relaxed);
        self.sequence.store(record.sequence(), Ordering::Relaxed);
    }
}

/// The spans that a thread is in, innermost last.
pub(crate) struct SpanStack {
    depth: AtomicU32,
    /// How often a span was entered deeper than there is room.
    too_deep: AtomicU64,
    entries: [Entry; SPANS_DEPTH],
}

/// What the handler finds on a thread's stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Innermost<T> {
    /// The thread is in no span.
    Outside,
    /// The innermost span that is open.
    In(T),
    /// All spans that the thread is in were closed meanwhile.
    Unknown,
}

impl SpanStack {
    pub(crate) const fn new() -> Self {
        Self {
            depth: AtomicU32::new(0),
            too_deep: AtomicU64::new(0),
            entries: [const {
                Entry {
                    record: AtomicPtr::new(std::ptr::null_mut()),
                    ident: AtomicU64::new(0),
                    sequence: AtomicU32::new(0),
                }
            }; SPANS_DEPTH],
        }
    }

    /// Enters a span if there is room and `and` agrees, which is asked last; whether it was entered.
    #[inline]
    pub(crate) fn push_if(
        &self,
        ident: u64,
        record: &'static SpanRecord,
        and: impl FnOnce() -> bool,
    ) -> bool {
        let depth = self.depth.load(Ordering::Relaxed);
        let Some(entry) = self.entries.get(depth as usize) else { return false };
        if !and() {
            return false;
        }
        entry.set(ident, record);
        // The reader is a signal handler of this same thread: the compiler's order is enough.
        compiler_fence(Ordering::Release);
        self.depth.store(depth + 1, Ordering::Relaxed);
        true
    }

    /// Enters a span.
    pub(crate) fn push(&self, ident: u64, record: &'static SpanRecord) {
        let mut depth = self.depth.load(Ordering::Relaxed);
        if depth as usize >= SPANS_DEPTH {
            depth = self.make_room(depth);
        }
        if let Some(entry) = self.entries.get(depth as usize) {
            entry.set(ident, record);
        } else {
            self.too_deep.store(self.too_deep.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        compiler_fence(Ordering::Release);
        self.depth.store(depth + 1, Ordering::Relaxed);
    }

    /// Drops spans that were closed and never left here: a program that holds an entered span across
    /// an `.await` leaves it on another thread than it entered it on. The new depth.
    #[cold]
    fn make_room(&self, depth: u32) -> u32 {
        if depth as usize > SPANS_DEPTH {
            return depth;
        }
        let mut kept = 0;
        for entry in &self.entries {
            let record = entry.record.load(Ordering::Relaxed);
            let sequence = entry.sequence.load(Ordering::Relaxed);
            // SAFETY: only records from the pool are stored here, and the pool is never unmapped.
            if unsafe { record.as_ref() }.is_none_or(|record| record.sequence() != sequence) {
                continue;
            }
            let to = &self.entries[kept];
            kept += 1;
            if std::ptr::eq(to, entry) {
                continue;
            }
            // A handler that interrupts here passes over the entry while it has no record.
            to.record.store(std::ptr::null_mut(), Ordering::Relaxed);
            compiler_fence(Ordering::Release);
            to.ident.store(entry.ident.load(Ordering::Relaxed), Ordering::Relaxed);
            to.sequence.store(sequence, Ordering::Relaxed);
            compiler_fence(Ordering::Release);
            to.record.store(record, Ordering::Relaxed);
        }
        self.depth.store(kept as u32, Ordering::Relaxed);
        kept as u32
    }

    /// Leaves a span: nearly always the innermost one.
    #[inline]
    pub(crate) fn pop(&self, ident: u64) {
        let below = self.depth.load(Ordering::Relaxed).wrapping_sub(1);
        if let Some(entry) = self.entries.get(below as usize)
            && entry.ident.load(Ordering::Relaxed) == ident
        {
            self.depth.store(below, Ordering::Relaxed);
        } else {
            self.pop_slowly(ident);
        }
    }

    #[cold]
    fn pop_slowly(&self, ident: u64) {
        let depth = self.depth.load(Ordering::Relaxed) as usize;
        let stored = depth.min(SPANS_DEPTH);
        let at = (0..stored).rev().find(|&at| self.entries[at].ident.load(Ordering::Relaxed) == ident);
        let Some(at) = at else {
            // One of those that found no room, or one that was never entered here.
            if depth > SPANS_DEPTH {
                self.depth.store(depth as u32 - 1, Ordering::Relaxed);
            }
            return;
        };
        self.entries[at].record.store(std::ptr::null_mut(), Ordering::Relaxed);
        self.entries[at].ident.store(LEFT, Ordering::Relaxed);
        if depth > SPANS_DEPTH {
            return;
        }
        // What was left out of order goes with what was entered after it, at the latest when the
        // stack is full.
        let mut depth = depth;
        while depth > 0 && self.entries[depth - 1].record.load(Ordering::Relaxed).is_null() {
            depth -= 1;
        }
        self.depth.store(depth as u32, Ordering::Relaxed);
    }

    /// Signal side. The innermost span that `observe` finds to be the one that was entered, going
    /// by the sequence number it was entered with.
    pub(crate) fn innermost<T>(
        &self,
        observe: impl Fn(&'static SpanRecord, u32) -> Option<T>,
    ) -> Innermost<T> {
        let depth = (self.depth.load(Ordering::Relaxed) as usize).min(SPANS_DEPTH);
        compiler_fence(Ordering::Acquire);
        let mut closed = false;
        for entry in self.entries[..depth].iter().rev() {
            // SAFETY: only records from the pool are stored here, and the pool is never unmapped.
            let Some(record) = (unsafe { entry.record.load(Ordering::Relaxed).as_ref() }) else { continue };
            match observe(record, entry.sequence.load(Ordering::Relaxed)) {
                Some(found) => return Innermost::In(found),
                None => closed = true,
            }
        }
        if closed { Innermost::Unknown } else { Innermost::Outside }
    }

    /// Forgets all spans: the thread ends, or another takes its place.
    pub(crate) fn clear(&self) {
        self.depth.store(0, Ordering::Relaxed);
    }

    pub(crate) fn too_deep(&self) -> u64 {
        self.too_deep.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::record;

    /// The path numbers of the open spans and, after each step, what a handler would see.
    struct Thread {
        stack: SpanStack,
        records: Vec<&'static SpanRecord>,
    }

    impl Thread {
        fn new(spans: u64) -> Self {
            let records = (0..spans).map(|n| record::open(n + 1, n as u32, 0, None).expect("a record"));
            Self { stack: SpanStack::new(), records: records.collect() }
        }
        fn enter(&self, n: usize) -> Option<u32> {
            self.stack.push(n as u64 + 1, self.records[n]);
            self.seen()
        }
        fn exit(&self, n: usize) -> Option<u32> {
            self.stack.pop(n as u64 + 1);
            self.seen()
        }
        fn seen(&self) -> Option<u32> {
            match self.stack.innermost(|record, sequence| record.observe(sequence, 1)) {
                Innermost::In(identity) => Some(identity.path),
                Innermost::Outside | Innermost::Unknown => None,
            }
        }
    }

    #[test]
    fn the_outer_span_comes_back() {
        let t = Thread::new(2);
        let seen = [t.enter(0), t.enter(1), t.exit(1), t.exit(0)];
        assert_eq!(seen, [Some(0), Some(1), Some(0), None]);
    }

    #[test]
    fn spans_left_out_of_order_leave_the_others_alone() {
        let t = Thread::new(3);
        let seen =
            [t.enter(0), t.enter(1), t.enter(2), t.exit(1), t.exit(0), t.exit(2), t.enter(1), t.exit(1)];
        assert_eq!(seen, [Some(0), Some(1), Some(2), Some(2), Some(2), None, Some(1), None]);
    }

    #[test]
    fn spans_left_out_of_order_for_ever_take_no_room() {
        let t = Thread::new(3);
        t.enter(0);
        for _ in 0..3 * SPANS_DEPTH {
            let seen = [t.enter(1), t.enter(2), t.exit(1), t.exit(2)];
            assert_eq!(seen, [Some(1), Some(2), Some(2), Some(0)]);
        }
        assert_eq!([t.exit(0), t.enter(1), t.exit(1)], [None, Some(1), None]);
        assert_eq!(t.stack.too_deep(), 0);
    }

    #[test]
    fn the_short_way_in_counts_nothing_when_there_is_no_room() {
        let t = Thread::new(SPANS_DEPTH as u64 + 1);
        let enter = |n: usize, and| t.stack.push_if(n as u64 + 1, t.records[n], || and);
        assert!(!enter(0, false));
        assert_eq!(t.seen(), None);
        assert!((0..SPANS_DEPTH).all(|n| enter(n, true)));
        assert_eq!(t.seen(), Some(SPANS_DEPTH as u32 - 1));
        let full = t.stack.push_if(99, t.records[SPANS_DEPTH], || panic!("asked without room"));
        assert!(!full);
    }

    #[test]
    fn a_span_entered_twice_is_left_twice() {
        let t = Thread::new(2);
        let seen = [t.enter(0), t.enter(1), t.enter(0), t.exit(0), t.exit(1), t.exit(0)];
        assert_eq!(seen, [Some(0), Some(1), Some(0), Some(1), Some(0), None]);
    }

    #[test]
    fn leaving_what_was_never_entered_changes_nothing() {
        let t = Thread::new(2);
        assert_eq!([t.exit(0), t.enter(0), t.exit(1), t.exit(0)], [None, Some(0), Some(0), None]);
    }

    #[test]
    fn a_span_that_was_closed_and_not_left_is_passed_over_and_makes_room() {
        let mut t = Thread::new(3);
        t.enter(0);
        t.enter(1);
        record::close(t.records[1]);
        assert_eq!(t.seen(), Some(0));
        record::close(t.records[0]);
        assert_eq!(t.stack.innermost(|record, sequence| record.observe(sequence, 1)), Innermost::Unknown);
        t.records[0] = record::open(1, 7, 0, None).expect("a record");
        // Entered again and again, and left somewhere else each time.
        for _ in 0..3 * SPANS_DEPTH {
            t.records[1] = record::open(2, 8, 0, None).expect("a record");
            assert_eq!(t.enter(1), Some(8));
            record::close(t.records[1]);
        }
        assert_eq!(t.stack.too_deep(), 0);
        assert_eq!([t.enter(0), t.exit(0)], [Some(7), None]);
    }

    #[test]
    fn spans_beyond_the_room_keep_the_last_label_and_are_counted() {
        let t = Thread::new(SPANS_DEPTH as u64 + 3);
        for n in 0..SPANS_DEPTH + 3 {
            t.enter(n);
        }
        let last = SPANS_DEPTH as u32 - 1;
        assert_eq!(t.seen(), Some(last));
        assert_eq!(t.stack.too_deep(), 3);
        for n in (SPANS_DEPTH..SPANS_DEPTH + 3).rev() {
            assert_eq!(t.exit(n), Some(last));
        }
        for n in (0..SPANS_DEPTH).rev() {
            assert_eq!(t.exit(n), n.checked_sub(1).map(|n| n as u32));
        }
    }
}

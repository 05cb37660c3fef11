//! The ring that carries samples from signal handlers to the collector.
//!
//! Many handlers write, each on its own thread; one collector reads. A writer reserves its words
//! with one compare-and-swap, writes them, and commits by storing the header last, so a writer that
//! is preempted half way holds up what comes after it and corrupts nothing. A ring without room
//! takes nothing and counts what it refused.

use std::sync::atomic::{AtomicU64, Ordering};

/// How often a writer tries to reserve before it gives the sample up as lost. Each failure means
/// that another writer succeeded meanwhile.
const RESERVE_TRIES: u32 = 64;

/// A bounded queue of variable-length messages of words.
pub(crate) struct Ring {
    words: Box<[AtomicU64]>,
    /// Words ever reserved; written by handlers.
    head: AtomicU64,
    /// Words ever read; written by the collector.
    tail: AtomicU64,
    /// Weight of refused messages, written by handlers.
    lost_count: AtomicU64,
    lost_weight: AtomicU64,
}

/// Messages that found no room: how many, and the sum of their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) count: u64,
    pub(crate) weight: u64,
}

impl Ring {
    /// A ring of `words` words, a power of two.
    pub(crate) fn new(words: usize) -> Self {
        assert!(words.is_power_of_two());
        Self {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            lost_count: AtomicU64::new(0),
            lost_weight: AtomicU64::new(0),
        }
    }

    pub(crate) fn words(&self) -> usize {
        self.words.len()
    }

    fn word(&self, position: u64) -> &AtomicU64 {
        // The mask keeps the index within the slice, so this cannot panic.
        &self.words[position as usize & (self.words.len() - 1)]
    }

    /// Signal side. Appends the concatenation of `parts`; when there is no room, counts `count`
    /// samples of `weight` in all as lost. Whether it was appended.
    pub(crate) fn push<const N: usize>(&self, parts: [&[u64]; N], count: u64, weight: u64) -> bool {
        let body = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        let Some(start) = self.reserve(body + 1) else {
            self.lost_count.fetch_add(count, Ordering::Relaxed);
            self.lost_weight.fetch_add(weight, Ordering::Relaxed);
            return false;
        };
        for (at, &word) in (start + 1..).zip(parts.into_iter().flatten()) {
            self.word(at).store(word, Ordering::Relaxed);
        }
        self.word(start).store(body + 1, Ordering::Release);
        true
    }

    fn reserve(&self, words: u64) -> Option<u64> {
        let mut head = self.head.load(Ordering::Relaxed);
        for _ in 0..RESERVE_TRIES {
            // The reader zeroes what it read before it moves the tail.
            let used = head.wrapping_sub(self.tail.load(Ordering::Acquire));
            if used + words > self.words.len() as u64 {
                return None;
            }
            let next = head + words;
            match self.head.compare_exchange_weak(head, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(head),
                Err(now) => head = now,
            }
        }
        None
    }

    /// Collector only. Copies the next committed message into `message`; false when there is none.
    pub(crate) fn pop(&self, message: &mut Vec<u64>) -> bool {
        let tail = self.tail.load(Ordering::Relaxed);
        let words = self.word(tail).load(Ordering::Acquire);
        if words == 0 {
            return false;
        }
        message.clear();
        message.extend((tail + 1..tail + words).map(|at| self.word(at).load(Ordering::Relaxed)));
        for at in tail..tail + words {
            self.word(at).store(0, Ordering::Relaxed);
        }
        self.tail.store(tail + words, Ordering::Release);
        true
    }

    /// Collector only. What was lost since the last call.
    pub(crate) fn take_lost(&self) -> Lost {
        Lost {
            count: self.lost_count.swap(0, Ordering::Relaxed),
            weight: self.lost_weight.swap(0, Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ring_counts_exactly_what_it_lost() {
        let ring = Ring::new(16);
        // Five words each with the header: three fit.
        let pushed: Vec<bool> = (0..5).map(|n| ring.push([&[n], &[n, n], &[n]], 1, 10)).collect();
        assert_eq!(pushed, [true, true, true, false, false]);
        assert_eq!(ring.take_lost(), Lost { count: 2, weight: 20 });
        assert_eq!(ring.take_lost(), Lost::default());
        let mut message = Vec::new();
        for n in 0..3 {
            assert!(ring.pop(&mut message));
            assert_eq!(message, [n, n, n, n]);
        }
        assert!(!ring.pop(&mut message));
        assert!(ring.push([&[7], &[], &[]], 1, 10));
    }

    #[test]
    fn messages_arrive_whole_or_are_counted_under_contention() {
        const WRITERS: u64 = 4;
        const EACH: u64 = 50_000;
        let ring = Ring::new(1024);
        let mut received = 0;
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let ring = &ring;
                    scope.spawn(move || {
                        for n in 0..EACH {
                            let body = vec![writer << 32 | n; (n % 30) as usize];
                            ring.push([&[body.len() as u64], &body, &[]], 1, 1);
                        }
                    })
                })
                .collect();
            let mut message = Vec::new();
            loop {
                let done = writers.iter().all(|w| w.is_finished());
                while ring.pop(&mut message) {
                    assert_eq!(message[0] as usize, message.len() - 1);
                    assert!(message[1..].windows(2).all(|w| w[0] == w[1]), "torn: {message:?}");
                    received += 1;
                }
                if done {
                    break;
                }
            }
        });
        assert_eq!(received + ring.take_lost().count, WRITERS * EACH);
    }
}

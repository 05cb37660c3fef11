//! Requests that wait for a server, oldest first, bounded in bytes and in age.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// More than this many bytes never wait: the oldest go first.
pub(crate) const MAX_BYTES: usize = 32 << 20;

/// Older than this a profile is not worth sending: Pyroscope refuses what began more than an hour
/// ago, and a minute is left for the window's length and for clocks that differ.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(60 * 60 - 60);

/// A request that waits.
pub(super) struct Waiting {
    /// The body, as it goes over the wire.
    pub(super) body: Vec<u8>,
    /// How often it was sent, or tried to.
    pub(super) attempts: u32,
    /// How often the server was there and did not take it.
    pub(super) turned_away: u32,
    since: Instant,
}

/// The requests that wait.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

impl Queue {
    /// Adds a request, and returns how many had to go for it.
    pub(super) fn push(&mut self, body: Vec<u8>, now: Instant) -> u64 {
        self.bytes += body.len();
        self.waiting.push_back(Waiting { body, attempts: 0, turned_away: 0, since: now });
        let mut dropped = 0;
        while self.bytes > MAX_BYTES {
            self.remove(0);
            dropped += 1;
        }
        dropped
    }

    /// Removes what has grown too old, and returns how many those were.
    pub(super) fn expire(&mut self, now: Instant) -> u64 {
        let mut dropped = 0;
        while self.waiting.front().is_some_and(|w| now.saturating_duration_since(w.since) > MAX_AGE) {
            self.remove(0);
            dropped += 1;
        }
        dropped
    }

    /// The request to try next: the oldest of those turned away least often, so that one request
    /// which the server chokes on does not hold up the others.
    pub(super) fn next(&self) -> Option<usize> {
        (0..self.waiting.len()).min_by_key(|&at| self.waiting[at].turned_away)
    }

    pub(super) fn get(&mut self, at: usize) -> &mut Waiting {
        &mut self.waiting[at]
    }

    pub(super) fn remove(&mut self, at: usize) {
        if let Some(gone) = self.waiting.remove(at) {
            self.bytes -= gone.body.len();
        }
    }

    /// Removes everything, and returns how many those were.
    pub(super) fn clear(&mut self) -> u64 {
        let dropped = self.len();
        *self = Self::default();
        dropped
    }

    pub(super) fn len(&self) -> u64 {
        self.waiting.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room() {
        let now = Instant::now();
        let mut queue = Queue::default();
        assert_eq!(queue.push(vec![1; MAX_BYTES / 2], now), 0);
        assert_eq!(queue.push(vec![2; MAX_BYTES / 2], now), 0);
        assert_eq!(queue.push(vec![3; 1], now), 1);
        assert_eq!(queue.get(0).body[0], 2);
        assert_eq!((queue.len(), queue.bytes()), (2, MAX_BYTES as u64 / 2 + 1));
        // One that is larger than all the room takes everything along, itself included.
        assert_eq!(queue.push(vec![4; MAX_BYTES + 1], now), 3);
        assert_eq!((queue.len(), queue.bytes()), (0, 0));
    }

    #[test]
    fn the_old_go() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.push(vec![1], now);
        queue.push(vec![2], now + Duration::from_secs(60));
        assert_eq!(queue.expire(now + MAX_AGE), 0);
        assert_eq!(queue.expire(now + MAX_AGE + Duration::from_secs(1)), 1);
        assert_eq!(queue.get(0).body, [2]);
    }

    #[test]
    fn a_request_turned_away_steps_back() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.push(vec![1], now);
        queue.push(vec![2], now);
        queue.get(0).turned_away = 1;
        assert_eq!(queue.next(), Some(1));
        queue.get(1).turned_away = 1;
        assert_eq!(queue.next(), Some(0));
    }
}

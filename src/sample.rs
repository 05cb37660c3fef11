//! One sample on its way through the ring: written as words by a handler, read by the collector.

use crate::span::record::Identity;

/// Spans around the innermost one that a sample names, when they are asked for.
pub(crate) const MAX_ANCESTORS: usize = 32;
/// Words of each: its OpenTelemetry id, and its path.
pub(crate) const ANCESTOR_WORDS: usize = 2;

/// Words before the lists.
const HEAD_WORDS: usize = 9;

/// Which span a sample belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Context {
    /// The thread was in no span.
    Outside,
    /// The thread was in this span.
    In(Identity),
    /// All spans that the thread is in were closed meanwhile: whose time it is cannot be told.
    Unknown,
}

/// What a handler knows beside the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Ticks that this signal stands for.
    pub(crate) count: u32,
    /// Their weight in all, in the period's unit.
    pub(crate) weight: u64,
    pub(crate) context: Context,
    /// Whether the outermost frame is the thread's entry.
    pub(crate) complete: bool,
    pub(crate) tid: i32,
}

impl Head {
    /// Signal side. The head as words, with the lengths of the lists that follow.
    pub(crate) fn encode(&self, ancestors: usize, kernel: usize, user: usize) -> [u64; HEAD_WORDS] {
        let (kind, identity) = match self.context {
            Context::Outside => (0, Identity::default()),
            Context::In(identity) => (1, identity),
            Context::Unknown => (2, Identity::default()),
        };
        let flags = kind | u64::from(self.complete) << 8;
        [
            u64::from(self.count) | flags << 32,
            self.weight,
            u64::from(identity.path) | u64::from(identity.root_path) << 32,
            u64::from(identity.labels) | (self.tid as u32 as u64) << 32,
            ancestors as u64 | (kernel as u64) << 16 | (user as u64) << 32,
            identity.span_id,
            identity.root_span_id,
            (identity.trace_id >> 64) as u64,
            identity.trace_id as u64,
        ]
    }

    /// The head and the lists of a message: ancestors, kernel and user addresses, each innermost
    /// first.
    pub(crate) fn decode(message: &[u64]) -> Option<(Self, Lists<'_>)> {
        let (head, lists) = message.split_at_checked(HEAD_WORDS)?;
        let low = |word: u64| word as u32;
        let high = |word: u64| (word >> 32) as u32;
        let flags = high(head[0]);
        let identity = Identity {
            path: low(head[2]),
            root_path: high(head[2]),
            labels: low(head[3]),
            span_id: head[5],
            root_span_id: head[6],
            trace_id: u128::from(head[7]) << 64 | u128::from(head[8]),
        };
        let (ancestors, lists) = lists.split_at_checked((head[4] & 0xffff) as usize)?;
        let (kernel, user) = lists.split_at_checked((head[4] >> 16 & 0xffff) as usize)?;
        let head = Self {
            count: low(head[0]),
            weight: head[1],
            context: match flags & 0xff {
                0 => Context::Outside,
                1 => Context::In(identity),
                _ => Context::Unknown,
            },
            complete: flags >> 8 != 0,
            tid: high(head[3]) as i32,
        };
        Some((head, Lists { ancestors, kernel, user }))
    }
}

/// The lists of a sample, each innermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lists<'a> {
    /// The spans around the innermost, as far as they are in its trace: [`ANCESTOR_WORDS`] each.
    pub(crate) ancestors: &'a [u64],
    pub(crate) kernel: &'a [u64],
    pub(crate) user: &'a [u64],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_comes_out_as_it_went_in() {
        let identity = Identity {
            path: 3,
            root_path: 2,
            labels: 9,
            span_id: 0xabc,
            root_span_id: 0xdef,
            trace_id: u128::MAX - 5,
        };
        for context in [Context::Outside, Context::In(identity), Context::Unknown] {
            let head = Head { count: 4, weight: 40_000_000, context, complete: true, tid: 1234 };
            let mut message = head.encode(1, 2, 3).to_vec();
            message.extend([1, 21, 22, 31, 32, 33]);
            let lists = Lists { ancestors: &[1], kernel: &[21, 22], user: &[31, 32, 33] };
            assert_eq!(Head::decode(&message), Some((head, lists)));
        }
    }
}

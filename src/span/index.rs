//! From a span's id to its record, with two loads and one comparison.
//!
//! A direct-mapped table of two ways. A span that finds both its places taken is kept in the
//! registry's extensions instead, which costs its enters a look-up (`layer.rs`).

use std::sync::atomic::{AtomicPtr, Ordering};

use super::record::SpanRecord;

const BITS: u32 = 16;
const PLACES: usize = 1 << BITS;

// 512 KiB of zero pages; only those that spans hash to become memory.
static TABLE: [AtomicPtr<SpanRecord>; PLACES] = [const { AtomicPtr::new(std::ptr::null_mut()) }; PLACES];

/// The bits of a registry's span id that say where the span is kept. Those above them count how
/// often the place was used, and so change with each span.
const SLOT_BITS: u32 = 51;

/// What tells the spans of a layer from those of other layers, made of the layer's number.
pub(crate) fn key(layer: u64) -> u64 {
    layer.wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// One number for a span id within a layer: a bijection of the id for each layer, so that spans of
/// one registry never meet; spans of two registries meet with a chance of 2⁻⁶⁴.
#[inline]
pub(crate) fn ident(key: u64, span_id: u64) -> u64 {
    // Odd, so multiplying loses nothing; it is 2⁵¹ divided by the golden ratio, which spreads
    // consecutive ids evenly over the bits of `place`.
    span_id.wrapping_mul(0x0004_f1bb_cdcb_fa53).wrapping_add(key)
}

/// The upper bits among those that only the id's slot bits reach. So a span has the place of the
/// one before it in its slot, which is still in the processor's cache.
#[inline]
fn place(ident: u64) -> usize {
    (ident >> (SLOT_BITS - BITS)) as usize % PLACES
}

/// The record of a span, if it stands in the table.
#[inline]
pub(crate) fn find(ident: u64) -> Option<&'static SpanRecord> {
    let first = place(ident);
    find_at(first, ident).or_else(|| find_at(first ^ 1, ident))
}

/// The record of a span, if it stands in the first of its places: nearly every one does.
#[inline]
pub(crate) fn find_first(ident: u64) -> Option<&'static SpanRecord> {
    find_at(place(ident), ident)
}

#[inline]
fn find_at(at: usize, ident: u64) -> Option<&'static SpanRecord> {
    let record = TABLE[at].load(Ordering::Acquire);
    // SAFETY: only records from the pool are stored here, and the pool is never unmapped.
    unsafe { record.as_ref() }.filter(|record| record.ident() == ident)
}

/// Puts a record in; false when both its places are taken.
pub(crate) fn insert(ident: u64, record: &'static SpanRecord) -> bool {
    let first = place(ident);
    let record = std::ptr::from_ref(record).cast_mut();
    [first, first ^ 1].into_iter().any(|at| {
        TABLE[at].compare_exchange(std::ptr::null_mut(), record, Ordering::Release, Ordering::Relaxed).is_ok()
    })
}

/// Takes a record out, if it is in.
pub(crate) fn remove(ident: u64, record: &'static SpanRecord) {
    let first = place(ident);
    let record = std::ptr::from_ref(record).cast_mut();
    for at in [first, first ^ 1] {
        if TABLE[at].load(Ordering::Relaxed) == record {
            TABLE[at].store(std::ptr::null_mut(), Ordering::Release);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::super::record;
    use super::*;

    #[test]
    fn a_span_is_found_until_it_is_removed_and_a_third_in_its_place_is_refused() {
        // Three idents that differ in lower bits alone compete for two places.
        let idents = [7 << 40 | 1, 7 << 40 | 2, 7 << 40 | 3];
        let records = idents.map(|ident| record::open(ident, 0, 0, None).expect("a record"));
        assert!(insert(idents[0], records[0]));
        assert!(insert(idents[1], records[1]));
        assert!(!insert(idents[2], records[2]));
        for at in 0..2 {
            assert!(std::ptr::eq(find(idents[at]).expect("in the table"), records[at]));
        }
        assert!(find(idents[2]).is_none());
        remove(idents[0], records[0]);
        assert!(find(idents[0]).is_none());
        assert!(find(idents[1]).is_some());
        remove(idents[1], records[1]);
        for record in records {
            record::close(record);
        }
    }

    #[test]
    fn ids_of_one_layer_never_share_an_ident() {
        let idents: HashSet<_> = (1..50_000).map(|id| ident(key(3), id)).collect();
        assert_eq!(idents.len(), 49_999);
    }

    #[test]
    fn a_span_has_the_place_of_the_one_before_it_in_the_registry_slot() {
        // A slot's number in the lower 51 bits, how often it was used above them.
        let places: HashSet<_> = (0..8192).map(|used| place(ident(key(3), used << SLOT_BITS | 77))).collect();
        assert_eq!(places.len(), 1);
    }

    #[test]
    fn spans_of_many_threads_open_at_once_find_room() {
        // A registry numbers the spans of each thread from one, with the thread's number 38 bits up.
        let ids = (0..8_u64).flat_map(|thread| (1..1000).map(move |n| thread << 38 | n));
        let mut taken: HashMap<usize, u32> = HashMap::new();
        for id in ids {
            *taken.entry(place(ident(key(3), id)) / 2).or_default() += 1;
        }
        let outside: u32 = taken.values().map(|spans| spans.saturating_sub(2)).sum();
        assert!(outside < 8_000 / 100, "{outside} of 8,000 spans have no place");
    }
}

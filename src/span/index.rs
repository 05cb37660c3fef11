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

/// One number for a span id within a layer: a bijection of the id for each layer, so that spans of
/// one registry never meet; spans of two registries meet with a chance of 2⁻⁶⁴.
#[inline]
pub(crate) fn ident(layer_key: u64, span_id: u64) -> u64 {
    // Both are odd, so multiplying loses nothing; the first is 2⁶⁴ divided by the golden ratio,
    // which spreads consecutive ids over the table's upper bits.
    span_id.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(layer_key.wrapping_mul(0xd6e8_feb8_6659_fd93))
}

#[inline]
fn place(ident: u64) -> usize {
    (ident >> (64 - BITS)) as usize
}

/// The record of a span, if it stands in the table.
#[inline]
pub(crate) fn find(ident: u64) -> Option<&'static SpanRecord> {
    let first = place(ident);
    for at in [first, first ^ 1] {
        let record = TABLE[at].load(Ordering::Acquire);
        // SAFETY: only records from the pool are stored here, and the pool is never unmapped.
        if let Some(record) = unsafe { record.as_ref() }
            && record.ident() == ident
        {
            return Some(record);
        }
    }
    None
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
    use super::super::record;
    use super::*;

    #[test]
    fn a_span_is_found_until_it_is_removed_and_a_third_in_its_place_is_refused() {
        // Three idents with the same upper bits compete for two places.
        let idents = [7 << 48 | 1, 7 << 48 | 2, 7 << 48 | 3];
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
        let idents: std::collections::HashSet<_> = (1..50_000).map(|id| ident(3, id)).collect();
        assert_eq!(idents.len(), 49_999);
    }
}

//! Names of the kernel's functions.
//!
//! You give [`Kernel::learn`] addresses and the text of `/proc/kallsyms`; it keeps the functions that
//! they lie in, and [`Kernel::name`] finds them again. The list itself, 200,000 names, is read anew
//! when an address lies in no function known so far, rather than held in memory: a program makes few
//! kinds of system calls, so that soon happens no more.

use std::collections::BTreeMap;
use std::io::{self, BufRead};
use std::sync::Arc;

/// Functions that were looked up. A busy server comes to some hundreds.
const MAX_FUNCTIONS: usize = 8192;

/// Whether an address belongs to the kernel: the upper half of the address space is its.
pub(super) fn is_kernel(address: u64) -> bool {
    address >> 63 != 0
}

/// What is known of the kernel's code.
#[derive(Default)]
pub(super) struct Kernel {
    /// By where each starts: where it ends, and its name if there is one.
    functions: BTreeMap<u64, (u64, Option<Arc<str>>)>,
}

/// The function found for an address so far.
struct Best {
    start: u64,
    /// Where the next function starts.
    end: u64,
    name: Option<Arc<str>>,
}

impl Kernel {
    /// Whether nothing is to be learned about `address`.
    pub(super) fn knows(&self, address: u64) -> bool {
        self.find(address).is_some()
    }

    /// The name of the function at `address`; `None` when it has none.
    pub(super) fn name(&self, address: u64) -> Option<Arc<str>> {
        self.find(address)?.clone()
    }

    fn find(&self, address: u64) -> Option<&Option<Arc<str>>> {
        let (_, (end, name)) = self.functions.range(..=address).next_back()?;
        (address < *end).then_some(name)
    }

    /// Finds the functions of `wanted`, which is sorted. False when the list holds no addresses: the
    /// kernel shows zeros to whom it does not trust.
    pub(super) fn learn(&mut self, wanted: &[u64], mut kallsyms: impl BufRead) -> io::Result<bool> {
        let mut best: Vec<Best> =
            wanted.iter().map(|_| Best { start: 0, end: u64::MAX, name: None }).collect();
        let mut line = Vec::new();
        let mut shown = false;
        loop {
            line.clear();
            if kallsyms.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let Some((address, name)) = function(&line) else { continue };
            shown |= address != 0;
            // The list is sorted only in parts, so each line is offered to the first address at or
            // after it, and as an end to the last one before it.
            let after = wanted.partition_point(|&wanted| wanted < address);
            if let Some(best) = best.get_mut(after).filter(|best| best.start < address) {
                (best.start, best.name) = (address, Some(name.into()));
            }
            if let Some(best) = after.checked_sub(1).and_then(|before| best.get_mut(before)) {
                best.end = best.end.min(address);
            }
        }
        if self.functions.len() + wanted.len() > MAX_FUNCTIONS {
            self.functions.clear();
        }
        // A function that starts before one address also starts before the next.
        for at in 1..best.len() {
            if best[at].start < best[at - 1].start {
                (best[at].start, best[at].name) = (best[at - 1].start, best[at - 1].name.clone());
            }
        }
        for at in (1..best.len()).rev() {
            best[at - 1].end = best[at - 1].end.min(best[at].end);
        }
        for (&address, best) in wanted.iter().zip(best) {
            match best.name {
                Some(_) if shown => self.functions.insert(best.start, (best.end, best.name)),
                _ => self.functions.insert(address, (address.saturating_add(1), None)),
            };
        }
        Ok(shown)
    }
}

/// The address and the name in a line of `/proc/kallsyms`, if it is of a function:
/// `ffffffff81000000 T name`, and the module in brackets if it is in one.
fn function(line: &[u8]) -> Option<(u64, &str)> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
    if !matches!(kind, "t" | "T" | "w" | "W") {
        return None;
    }
    Some((u64::from_str_radix(address, 16).ok()?, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
ffffffff81000100 T do_read
ffffffff81000300 t do_write
ffffffff81000200 D some_data
ffffffff81000400 T after
ffffffffc0000000 t of_module\t[mod]
";

    fn names(list: &str, wanted: &[u64]) -> (bool, Vec<Option<Arc<str>>>) {
        let mut kernel = Kernel::default();
        let shown = kernel.learn(wanted, list.as_bytes()).expect("readable");
        assert!(wanted.iter().all(|&address| kernel.knows(address)));
        (shown, wanted.iter().map(|&address| kernel.name(address)).collect())
    }

    #[test]
    fn an_address_lies_in_the_function_that_starts_last_before_it() {
        let wanted = [0xffff_ffff_8100_0010, 0xffff_ffff_8100_0100, 0xffff_ffff_8100_02ff];
        let (shown, found) = names(LIST, &wanted);
        assert!(shown);
        assert_eq!(found, [None, Some("do_read".into()), Some("do_read".into())]);
        let (_, found) = names(LIST, &[0xffff_ffff_8100_0301, 0xffff_ffff_c000_1234]);
        assert_eq!(found, [Some("do_write".into()), Some("of_module".into())]);
    }

    #[test]
    fn all_of_a_function_is_known_once_one_address_is() {
        let mut kernel = Kernel::default();
        kernel.learn(&[0xffff_ffff_8100_0110], LIST.as_bytes()).expect("readable");
        assert!(kernel.knows(0xffff_ffff_8100_02ff));
        assert!(!kernel.knows(0xffff_ffff_8100_0300));
        assert!(!kernel.knows(0xffff_ffff_8100_00ff));
    }

    #[test]
    fn zeros_are_no_addresses() {
        let (shown, found) = names("0000000000000000 T do_read\n", &[0xffff_ffff_8100_0010]);
        assert!(!shown);
        assert_eq!(found, [None]);
    }
}

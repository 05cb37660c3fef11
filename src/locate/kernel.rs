//! Names of the kernel's functions.
//!
//! You give [`Kernel::read`] the text of `/proc/kallsyms` once, and [`Kernel::learn`] addresses; it
//! keeps the functions that they lie in, and [`Kernel::name`] finds them again. Reading the list takes
//! the kernel a tenth of a second for 120,000 names, and a program comes to functions that are new for
//! many minutes, so the list is held: compressed, in about 1 MiB.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;

/// Functions that were looked up. A busy server comes to some hundreds.
const MAX_FUNCTIONS: usize = 8192;
/// Functions packed together: some 120 KiB, unpacked in half a millisecond.
const PACKED: usize = 4096;

/// Whether an address belongs to the kernel: the upper half of the address space is its.
pub(super) fn is_kernel(address: u64) -> bool {
    address >> 63 != 0
}

/// What is known of the kernel's code.
#[derive(Default)]
pub(super) struct Kernel {
    /// Those looked up, by where each starts: where it ends, and its name if there is one.
    functions: BTreeMap<u64, (u64, Option<Arc<str>>)>,
    /// All functions, by address.
    packs: Vec<Pack>,
    /// The list's modules; others may have been loaded since.
    modules: Option<String>,
}

/// Functions one after another.
struct Pack {
    /// Where its first starts.
    start: u64,
    /// Where the next pack starts.
    end: u64,
    /// For each function where it starts, in eight bytes, and its name up to a line's end.
    deflated: Box<[u8]>,
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

    /// Whether the list was read while the kernel had these modules loaded.
    pub(super) fn has_read(&self, modules: &str) -> bool {
        self.modules.as_deref() == Some(modules)
    }

    /// Reads the list. False when it holds no addresses: the kernel shows zeros to whom it does not
    /// trust.
    pub(super) fn read(&mut self, modules: String, mut kallsyms: impl BufRead) -> io::Result<bool> {
        let (mut functions, mut names) = (Vec::new(), String::new());
        let mut line = Vec::new();
        while kallsyms.read_until(b'\n', &mut line)? != 0 {
            if let Some((address, name)) = function(&line).filter(|(address, _)| *address != 0) {
                functions.push((address, names.len()));
                names.push_str(name);
                names.push('\n');
            }
            line.clear();
        }
        // The list is sorted only in parts. Of several names for one function the first counts.
        functions.sort_by_key(|&(start, _)| start);
        functions.dedup_by_key(|&mut (start, _)| start);
        let mut packs: Vec<Pack> = Vec::new();
        for part in functions.chunks(PACKED) {
            let mut deflate = DeflateEncoder::new(Vec::new(), Compression::fast());
            for &(start, name) in part {
                deflate.write_all(&start.to_le_bytes())?;
                let name = names[name..].split_inclusive('\n').next().unwrap_or("\n");
                deflate.write_all(name.as_bytes())?;
            }
            let start = part[0].0;
            if let Some(before) = packs.last_mut() {
                before.end = start;
            }
            packs.push(Pack { start, end: u64::MAX, deflated: deflate.finish()?.into() });
        }
        self.packs = packs;
        self.modules = Some(modules);
        // What was looked up may be another module's now.
        self.functions.clear();
        Ok(!self.packs.is_empty())
    }

    /// Looks up the functions of `wanted`, which is sorted.
    pub(super) fn learn(&mut self, wanted: &[u64]) -> io::Result<()> {
        if self.functions.len() + wanted.len() > MAX_FUNCTIONS {
            self.functions.clear();
        }
        let mut unpacked = (usize::MAX, Vec::new());
        for &address in wanted {
            if self.knows(address) {
                continue;
            }
            let before = self.packs.partition_point(|pack| pack.start <= address);
            let Some(at) = before.checked_sub(1) else {
                self.functions.insert(address, (address.saturating_add(1), None));
                continue;
            };
            if unpacked.0 != at {
                unpacked = (at, Vec::new());
                DeflateDecoder::new(&*self.packs[at].deflated).read_to_end(&mut unpacked.1)?;
            }
            let (mut start, mut end, mut name) = (address, self.packs[at].end, None);
            let mut rest = &*unpacked.1;
            while let Some((next, after)) = rest.split_first_chunk() {
                let next = u64::from_le_bytes(*next);
                if next > address {
                    end = next;
                    break;
                }
                let length = after.iter().position(|&byte| byte == b'\n').unwrap_or(after.len());
                (start, name) = (next, Some(&after[..length]));
                rest = after.get(length + 1..).unwrap_or_default();
            }
            let name = name.map(|name| String::from_utf8_lossy(name).into());
            self.functions.insert(start, (end, name));
        }
        Ok(())
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
        let shown = kernel.read(String::new(), list.as_bytes()).expect("readable");
        kernel.learn(wanted).expect("packed well");
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
        kernel.read(String::new(), LIST.as_bytes()).expect("readable");
        kernel.learn(&[0xffff_ffff_8100_0110]).expect("packed well");
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

    #[test]
    fn functions_of_all_packs_are_found() {
        let list: String =
            (0..3 * PACKED as u64).map(|n| format!("{:x} t f{n}\n", (1 << 63) + 16 * n)).collect();
        let wanted = [0, 1, PACKED - 1, PACKED, 2 * PACKED + 7, 3 * PACKED - 1].map(|n| n as u64);
        let (_, found) = names(&list, &wanted.map(|n| (1 << 63) + 16 * n + 15));
        assert_eq!(found, wanted.map(|n| Some(format!("f{n}").into())));
    }

    #[test]
    fn other_modules_ask_for_another_reading() {
        let mut kernel = Kernel::default();
        assert!(!kernel.has_read(""));
        kernel.read("ext4".into(), LIST.as_bytes()).expect("readable");
        kernel.learn(&[0xffff_ffff_c000_0010]).expect("packed well");
        assert!(kernel.has_read("ext4") && !kernel.has_read("ext4 btrfs"));
        let list = LIST.replace("of_module", "of_another");
        kernel.read("btrfs".into(), list.as_bytes()).expect("readable");
        kernel.learn(&[0xffff_ffff_c000_0010]).expect("packed well");
        assert_eq!(kernel.name(0xffff_ffff_c000_0010), Some("of_another".into()));
    }
}

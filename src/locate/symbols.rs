//! From addresses in an object to functions, files and lines.
//!
//! You give [`Symbols::find`] an object and addresses in it, and get what is known of each. Answers
//! are kept from one window to the next, up to a bound and as long as the object is loaded.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::entry::Role;
use super::name::readable;
use super::reader::{self, Place};
use crate::module::Module;
use crate::profile::Line;

/// Addresses whose names are kept: 7 MiB at most, since with debug info each takes about 450 bytes.
/// Then all are forgotten. A program's samples are at some thousands of addresses.
const MAX_KEPT: usize = 16_384;

/// Objects of which it is told that something is wrong with them.
const MAX_NOTES: usize = 100;

/// The functions at an address: the innermost inlined one first.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) lines: Box<[(Line, Role)]>,
    /// Whether the name is of the program's symbols, not made up from the address.
    pub(super) named: bool,
}

type ByAddress = HashMap<u64, Arc<Found>>;

/// What is known of the addresses of each object.
#[derive(Default)]
pub(super) struct Symbols {
    objects: Vec<(Arc<Module>, ByAddress)>,
    /// Names and files, each once.
    strings: HashSet<Arc<str>>,
    notes: Vec<String>,
    /// Objects of which was told already what is wrong with them.
    noted: HashSet<Arc<str>>,
}

impl Symbols {
    /// Forgets the objects that `stays` says no of, and everything if it became too much.
    pub(super) fn retain(&mut self, stays: impl Fn(&Module) -> bool) {
        let before = self.objects.len();
        self.objects.retain(|(module, _)| stays(module));
        if self.objects.iter().map(|(_, found)| found.len()).sum::<usize>() > MAX_KEPT {
            self.objects.clear();
        }
        if self.objects.len() < before {
            self.strings.retain(|string| Arc::strong_count(string) > 1);
        }
    }

    /// Problems met since the last call, one sentence each.
    pub(super) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// What is at each of `addresses` of this process, all of them in `module`.
    pub(super) fn find(&mut self, module: &Arc<Module>, addresses: &[u64]) -> Vec<Arc<Found>> {
        let at = self.objects.iter().position(|(known, _)| known == module).unwrap_or_else(|| {
            self.objects.push((module.clone(), ByAddress::new()));
            self.objects.len() - 1
        });
        let mut new: Vec<u64> =
            addresses.iter().copied().filter(|address| !self.objects[at].1.contains_key(address)).collect();
        new.sort_unstable();
        new.dedup();
        for (address, found) in new.iter().zip(self.read(module, &new)) {
            self.objects[at].1.insert(*address, Arc::new(found));
        }
        addresses.iter().map(|address| self.objects[at].1[address].clone()).collect()
    }

    /// Asks the object's file.
    fn read(&mut self, module: &Module, addresses: &[u64]) -> Vec<Found> {
        if addresses.is_empty() {
            return Vec::new();
        }
        let answers = reader::read(module, addresses);
        if let Some(why) = &answers.problem {
            self.note(module, why);
        }
        let found = |(nth, &address)| {
            let lines: Box<[_]> = answers.places(nth).map(|place| self.line(place)).collect();
            if lines.is_empty() { unnamed(module, address) } else { Found { lines, named: true } }
        };
        addresses.iter().enumerate().map(found).collect()
    }

    fn note(&mut self, module: &Module, why: &str) {
        if self.noted.len() < MAX_NOTES && self.noted.insert(module.name.clone()) {
            let (name, shown) = (&module.name, file_name(&module.name));
            self.notes
                .push(format!("names of {name} cannot be read: {why}; its frames show as {shown}!0xaddr"));
        }
    }

    fn line(&mut self, place: Place<'_>) -> (Line, Role) {
        let name = readable(place.function);
        let role = Role::of(&name);
        let file = place.file.map(|file| self.string(file));
        (Line { function: self.string(&name), file, line: place.line }, role)
    }

    fn string(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.strings.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.strings.insert(new.clone());
        new
    }
}

/// What to show for an address of which its file says nothing.
fn unnamed(module: &Module, address: u64) -> Found {
    let name = format!("{}!{:#x}", file_name(&module.name), address.wrapping_sub(module.bias));
    let role = Role::of(&name);
    Found { lines: Box::new([(Line { function: name.into(), file: None, line: 0 }, role)]), named: false }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

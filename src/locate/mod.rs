//! From addresses to the locations of a profile, and from a sample to its stack.
//!
//! Runs on the export thread. For each profile: [`Locations::begin`], then for each generation of a
//! window [`Locations::resolve`], which looks all its addresses up at once, and
//! [`Locations::stack`] for each of its entries; at the end [`Locations::take`].
//!
//! A stack reads, from the root: the spans (`span:checkout`), `[incomplete stack]` if the thread's
//! entry was not reached, one frame for how the thread came to the code (`[tokio worker]`), the code,
//! and the kernel's functions with `_[k]` at their ends, which is what flame graph tools know them by.
//! Raw stacks have neither spans nor that one frame, but all that stands behind it.

mod entry;
mod kernel;
mod name;
mod reader;
mod symbols;
mod table;

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::sync::Arc;

use self::entry::Role;
use self::kernel::{Kernel, is_kernel};
use self::symbols::{Found, Symbols};
use self::table::{Origin, Table};
use crate::aggregate::Generation;
use crate::module::Module;
use crate::profile::{INCOMPLETE, Line, Location, Mapping};

/// Stands for the kernel's part of a stack when the kernel does not tell its functions.
const KERNEL: &str = "[kernel]";

/// The locations of the profile under way, and the names that were found for earlier ones.
pub(crate) struct Locations {
    raw_stacks: bool,

    // kept from one profile to the next
    symbols: Symbols,
    kernel: Kernel,
    /// The kernel does not tell its functions, and is asked no more.
    kernel_hidden: bool,
    notes: Vec<String>,

    // of the profile under way
    profile: Table,
    /// The locations of the generation's addresses.
    at: HashMap<u64, u32>,
}

impl Locations {
    pub(crate) fn new(raw_stacks: bool) -> Self {
        Self {
            raw_stacks,
            symbols: Symbols::default(),
            kernel: Kernel::default(),
            kernel_hidden: false,
            notes: Vec::new(),
            profile: Table::default(),
            at: HashMap::new(),
        }
    }

    /// What the user should read about names that were not found: each of it comes once.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        self.notes.extend(self.symbols.take_notes());
        std::mem::take(&mut self.notes)
    }

    /// Begins a profile.
    pub(crate) fn begin(&mut self) {
        self.profile = Table::default();
    }

    /// Looks up all addresses of `now`. One that is in none of its objects may be in one that was
    /// loaded by `later`.
    pub(crate) fn resolve(&mut self, now: &Generation, later: Option<&Generation>) {
        self.at.clear();
        let later = later.map_or(&[][..], |later| &later.modules);
        self.symbols.retain(|module| now.modules.iter().chain(later).any(|known| **known == *module));
        let distinct: HashSet<u64> =
            now.entries.iter().flat_map(|entry| entry.stack.iter().copied()).collect();
        let (mut kernel, mut user): (Vec<u64>, Vec<u64>) = distinct.into_iter().partition(|&a| is_kernel(a));
        kernel.sort_unstable();
        for modules in [&now.modules, later] {
            for module in modules {
                let (mut here, rest) = user.into_iter().partition(|address| module.text.contains(address));
                user = rest;
                self.resolve_module(module, &mut here);
            }
        }
        // After the objects, whose first is the program: tools call a profile after its first mapping.
        self.resolve_kernel(&kernel);
        user.sort_unstable();
        for address in user {
            let function = format!("[unknown]!{address:#x}").into();
            let lines = Box::new([(Line { function, file: None, line: 0 }, Role::Code)]);
            let index = self.profile.code(None, address, &Arc::new(Found { lines, named: false }), 1);
            self.at.insert(address, index);
        }
    }

    fn resolve_module(&mut self, module: &Arc<Module>, addresses: &mut [u64]) {
        if addresses.is_empty() {
            return;
        }
        // In order, so that the same samples give the same profile.
        addresses.sort_unstable();
        let mapping = self.profile.mapping(Origin::Module(module.clone()));
        for (&address, found) in addresses.iter().zip(self.symbols.find(module, addresses)) {
            self.at.insert(address, self.profile.code(Some(mapping), address, &found, found.lines.len()));
        }
    }

    fn resolve_kernel(&mut self, addresses: &[u64]) {
        if addresses.is_empty() {
            return;
        }
        let all_known = addresses.iter().all(|&address| self.kernel.knows(address));
        if !all_known && !self.kernel_hidden {
            let why = match self.learn_kernel(addresses) {
                Ok(true) => None,
                Ok(false) => {
                    Some("/proc/kallsyms shows no addresses (sysctl kernel.kptr_restrict)".to_owned())
                }
                Err(error) => Some(format!("/proc/kallsyms: {error}")),
            };
            if let Some(why) = why {
                self.kernel_hidden = true;
                self.notes.push(format!(
                    "names of the kernel's functions cannot be read: {why}; they show as {KERNEL}"
                ));
            }
        }
        for &address in addresses {
            let index = match self.kernel.name(address) {
                None => self.named(KERNEL),
                Some(name) => {
                    let function = format!("{name}_[k]").into();
                    let lines = Box::new([(Line { function, file: None, line: 0 }, Role::Code)]);
                    let mapping = self.profile.mapping(Origin::Kernel);
                    self.profile.code(Some(mapping), address, &Arc::new(Found { lines, named: true }), 1)
                }
            };
            self.at.insert(address, index);
        }
    }

    /// Looks up functions of the kernel; false when it does not show where they are.
    fn learn_kernel(&mut self, addresses: &[u64]) -> io::Result<bool> {
        // A kernel without modules has no such file.
        let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
        let modules: Vec<&str> = modules.lines().filter_map(|line| line.split(' ').next()).collect();
        let modules = modules.join(" ");
        if !self.kernel.has_read(&modules) {
            let list = BufReader::with_capacity(1 << 16, File::open("/proc/kallsyms")?);
            if !self.kernel.read(modules, list)? {
                return Ok(false);
            }
        }
        self.kernel.learn(addresses)?;
        Ok(true)
    }

    /// The stack of a sample of the resolved generation, as indices of locations, leaf first.
    pub(crate) fn stack(&mut self, addresses: &[u64], complete: bool, path: &[Arc<str>]) -> Vec<u32> {
        let mut stack: Vec<u32> =
            addresses.iter().filter_map(|address| self.at.get(address).copied()).collect();
        // The functions of a kernel that does not tell them are one frame.
        let hidden = self.profile.find_named(KERNEL);
        stack.dedup_by(|a, b| a == b && Some(*a) == hidden);
        if !self.raw_stacks {
            self.collapse_entry(&mut stack);
        }
        if !complete {
            stack.push(self.named(INCOMPLETE));
        }
        if !self.raw_stacks {
            let mut frame = String::new();
            for span in path.iter().rev() {
                frame.clear();
                let _ = write!(frame, "span:{span}");
                stack.push(self.named(&frame));
            }
        }
        stack
    }

    /// Replaces the frames by which the thread came to the code by one.
    fn collapse_entry(&mut self, stack: &mut Vec<u32>) {
        let outermost_first = stack.iter().rev().flat_map(|&at| {
            let (location, found) = (&self.profile.locations[at as usize], &self.profile.found[at as usize]);
            location.lines.iter().enumerate().rev().map(move |(nth, line)| {
                (&*line.function, found.as_ref().map_or(Role::Code, |found| found.lines[nth].1))
            })
        });
        let Some(entry) = entry::entry(outermost_first) else { return };
        let mut left = entry.frames;
        while left > 0
            && let Some(at) = stack.pop()
        {
            let lines = self.profile.locations[at as usize].lines.len();
            if lines > left {
                // The rest of this location is inlined code of the program.
                stack.push(self.profile.inner_lines(at, lines - left));
            }
            left = left.saturating_sub(lines);
        }
        stack.push(self.named(entry.shown_as));
    }

    /// The location of a frame that is not code.
    pub(crate) fn named(&mut self, name: &str) -> u32 {
        self.profile.named(name)
    }

    /// Ends the profile.
    pub(crate) fn take(&mut self) -> (Vec<Location>, Vec<Mapping>) {
        self.at = HashMap::new();
        let table = std::mem::take(&mut self.profile);
        (table.locations, table.mappings)
    }
}

#[cfg(test)]
mod tests;

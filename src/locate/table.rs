//! The locations and mappings of one profile: each once, in the order in which they came.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use super::symbols::Found;
use crate::module::Module;
use crate::profile::{Line, Location, Mapping};

/// The tables that a profile's samples point into.
#[derive(Default)]
pub(super) struct Table {
    pub(super) locations: Vec<Location>,
    /// What was found for each location; `None` if it is not code.
    pub(super) found: Vec<Option<Arc<Found>>>,
    pub(super) mappings: Vec<Mapping>,
    /// What each mapping is of.
    origins: Vec<Origin>,
    /// By mapping, address and how many lines are left of it.
    code: HashMap<(Option<u32>, u64, usize), u32>,
    named: HashMap<Arc<str>, u32>,
}

/// What a mapping is of.
#[derive(Clone, PartialEq)]
pub(super) enum Origin {
    Kernel,
    Module(Arc<Module>),
}

impl Table {
    /// The location of a frame that is not code.
    pub(super) fn named(&mut self, name: &str) -> u32 {
        if let Some(&known) = self.named.get(name) {
            return known;
        }
        let name: Arc<str> = name.into();
        let line = Line { function: name.clone(), file: None, line: 0 };
        let index = self.push(Location { address: 0, mapping: None, lines: vec![line] }, None);
        self.named.insert(name, index);
        index
    }

    /// The location of that name, if there is one.
    pub(super) fn find_named(&self, name: &str) -> Option<u32> {
        self.named.get(name).copied()
    }

    /// The location of an address, with the innermost `lines` of what was found.
    pub(super) fn code(
        &mut self,
        mapping: Option<u32>,
        address: u64,
        found: &Arc<Found>,
        lines: usize,
    ) -> u32 {
        if let Some(&known) = self.code.get(&(mapping, address, lines)) {
            return known;
        }
        let kept = found.lines[..lines].iter().map(|(line, _)| line.clone()).collect();
        let index = self.push(Location { address, mapping, lines: kept }, Some(found.clone()));
        self.code.insert((mapping, address, lines), index);
        if let Some(mapping) = mapping {
            let mapping = &mut self.mappings[mapping as usize];
            mapping.has_functions |= found.named;
            mapping.has_lines |= found.lines.iter().any(|(line, _)| line.line > 0);
        }
        index
    }

    /// The same location without its outer functions.
    pub(super) fn inner_lines(&mut self, at: u32, lines: usize) -> u32 {
        let Location { mapping, address, .. } = self.locations[at as usize];
        match self.found[at as usize].clone() {
            Some(found) => self.code(mapping, address, &found, lines),
            None => at,
        }
    }

    fn push(&mut self, location: Location, found: Option<Arc<Found>>) -> u32 {
        self.locations.push(location);
        self.found.push(found);
        (self.locations.len() - 1) as u32
    }

    /// The index of the mapping of `origin`.
    pub(super) fn mapping(&mut self, origin: Origin) -> u32 {
        if let Some(at) = self.origins.iter().position(|known| *known == origin) {
            return at as u32;
        }
        self.mappings.push(match &origin {
            Origin::Kernel => Mapping {
                start: 1 << 63,
                end: u64::MAX,
                file_offset: 0,
                path: "[kernel.kallsyms]".into(),
                build_id: "".into(),
                has_functions: false,
                has_lines: false,
            },
            Origin::Module(module) => Mapping {
                start: module.text.start,
                end: module.text.end,
                file_offset: module.file_offset,
                path: module.name.clone(),
                build_id: hex(&module.build_id).into(),
                has_functions: false,
                has_lines: false,
            },
        });
        self.origins.push(origin);
        (self.origins.len() - 1) as u32
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

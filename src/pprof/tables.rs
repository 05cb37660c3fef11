//! The tables of one pprof: only what its samples use, with ids from 1.

use std::collections::HashMap;

use super::message as proto;
use crate::profile::{Profile, ValueType};

/// Gives out ids while samples are converted, and fills in the tables at the end.
pub(super) struct Tables<'a> {
    profile: &'a Profile,
    strings: HashMap<String, i64>,
    // The ids of the profile's own locations and mappings, in its own order; 0 for what is not used.
    locations: Vec<u64>,
    mappings: Vec<u64>,
}

impl<'a> Tables<'a> {
    /// For samples whose stacks have these locations.
    pub(super) fn new(profile: &'a Profile, locations: impl Iterator<Item = u32>) -> Self {
        let locations = ids(profile.locations.len(), locations);
        let used = locations.iter().zip(&profile.locations).filter(|&(&id, _)| id > 0);
        let mappings = ids(profile.mappings.len(), used.filter_map(|(_, location)| location.mapping));
        Self { profile, strings: HashMap::from([(String::new(), 0)]), locations, mappings }
    }

    pub(super) fn string(&mut self, text: &str) -> i64 {
        string(&mut self.strings, text)
    }

    pub(super) fn value_type(&mut self, of: ValueType) -> proto::ValueType {
        proto::ValueType { kind: self.string(of.kind), unit: self.string(of.unit) }
    }

    pub(super) fn label(&mut self, name: &str, value: &str) -> proto::Label {
        proto::Label { key: self.string(name), str: self.string(value) }
    }

    /// The id of a location that [`new`](Self::new) was told of.
    pub(super) fn location(&self, index: u32) -> u64 {
        self.locations[index as usize]
    }

    /// Moves the tables into `message`.
    pub(super) fn finish(mut self, message: &mut proto::Profile) {
        message.mapping = self.mappings();
        (message.location, message.function) = self.locations();
        message.string_table = vec![String::new(); self.strings.len()];
        for (text, at) in self.strings {
            message.string_table[at as usize] = text;
        }
    }

    fn mappings(&mut self) -> Vec<proto::Mapping> {
        let mut out = Vec::new();
        for (at, of) in self.profile.mappings.iter().enumerate().filter(|&(at, _)| self.mappings[at] > 0) {
            out.push(proto::Mapping {
                id: self.mappings[at],
                memory_start: of.start,
                memory_limit: of.end,
                file_offset: of.file_offset,
                filename: string(&mut self.strings, &of.path),
                build_id: string(&mut self.strings, &of.build_id),
                has_functions: of.has_functions,
                // Debug info gives all three, or there is none.
                has_filenames: of.has_lines,
                has_line_numbers: of.has_lines,
                has_inline_frames: of.has_lines,
            });
        }
        out
    }

    fn locations(&mut self) -> (Vec<proto::Location>, Vec<proto::Function>) {
        let mut locations = Vec::new();
        let mut functions: Vec<proto::Function> = Vec::new();
        let mut known = HashMap::new();
        for (&id, of) in self.locations.iter().zip(&self.profile.locations).filter(|&(&id, _)| id > 0) {
            let mut lines = Vec::with_capacity(of.lines.len());
            for line in &of.lines {
                let name = string(&mut self.strings, &line.function);
                let filename = string(&mut self.strings, line.file.as_deref().unwrap_or_default());
                let function_id = *known.entry((name, filename)).or_insert(functions.len() as u64 + 1);
                if function_id > functions.len() as u64 {
                    // No system name: where it equals the name, `go tool pprof` takes the name for a
                    // mangled one of C++ and makes `::poll` of `<T as Future>::poll`.
                    functions.push(proto::Function { id: function_id, name, system_name: 0, filename });
                }
                lines.push(proto::Line { function_id, line: line.line.into() });
            }
            let mapping_id = of.mapping.map_or(0, |at| self.mappings[at as usize]);
            locations.push(proto::Location { id, mapping_id, address: of.address, line: lines });
        }
        (locations, functions)
    }
}

/// Ids from 1 for those of `len` entries that are used.
fn ids(len: usize, used: impl Iterator<Item = u32>) -> Vec<u64> {
    let mut ids = vec![0; len];
    for at in used {
        ids[at as usize] = 1;
    }
    let mut last = 0;
    for id in ids.iter_mut().filter(|id| **id > 0) {
        last += 1;
        *id = last;
    }
    ids
}

fn string(strings: &mut HashMap<String, i64>, text: &str) -> i64 {
    if let Some(&at) = strings.get(text) {
        return at;
    }
    let at = strings.len() as i64;
    strings.insert(text.to_owned(), at);
    at
}

//! From addresses in an object to functions, files and lines.
//!
//! You give [`Symbols::find`] an object and addresses in it, and get what is known of each. Answers
//! are kept from one window to the next, up to a bound. What is not kept is the reader of the
//! object's file: after a window hardly any address is new, and its tables of a large program's
//! symbols and debug info would stay in memory for those few.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use blazesym::Pid;
use blazesym::helper::read_elf_build_id;
use blazesym::symbolize::source::{Elf, Process, Source};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolized, Symbolizer};

use super::entry::Role;
use super::name::readable;
use crate::module::Module;
use crate::profile::Line;

/// Addresses whose names are kept: some 200 bytes each, so 6 MiB at most. Then all are forgotten.
const MAX_KEPT: usize = 32_768;

/// The functions at an address: the innermost inlined one first.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) lines: Box<[(Line, Role)]>,
    /// Whether the name is of the program's symbols, not made up from the address.
    pub(super) named: bool,
}

/// What is known of the addresses of each object.
#[derive(Default)]
pub(super) struct Symbols {
    objects: Vec<(Arc<Module>, HashMap<u64, Arc<Found>>)>,
    /// Names and files, each once.
    strings: HashSet<Arc<str>>,
    notes: Vec<String>,
    /// Objects of which was told already what is wrong with them.
    noted: HashSet<Arc<str>>,
}

impl Symbols {
    /// Forgets the objects that `stays` says no of, and everything if it became too much.
    pub(super) fn retain(&mut self, stays: impl Fn(&Module) -> bool) {
        self.objects.retain(|(module, _)| stays(module));
        if self.objects.iter().map(|(_, found)| found.len()).sum::<usize>() > MAX_KEPT {
            self.objects.clear();
        }
        if self.objects.is_empty() {
            self.strings.clear();
        }
    }

    /// Problems met since the last call, one sentence each.
    pub(super) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// What is at each of `addresses` of this process, all of them in `module`.
    pub(super) fn find(&mut self, module: &Arc<Module>, addresses: &[u64]) -> Vec<Arc<Found>> {
        let at = self.objects.iter().position(|(known, _)| known == module).unwrap_or_else(|| {
            self.objects.push((module.clone(), HashMap::new()));
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

    /// Reads the object's file.
    fn read(&mut self, module: &Module, addresses: &[u64]) -> Vec<Found> {
        if addresses.is_empty() {
            return Vec::new();
        }
        let reader = Symbolizer::builder().enable_auto_reload(false).build();
        let symbols = self.symbols(&reader, module, addresses);
        let nothing = || Symbolized::Unknown(blazesym::symbolize::Reason::UnknownAddr);
        let mut symbols = symbols.into_iter();
        addresses
            .iter()
            .map(|&address| match symbols.next().unwrap_or_else(nothing) {
                Symbolized::Sym(symbol) if !symbol.name.is_empty() => self.found(&symbol),
                _ => self.unnamed(module, address),
            })
            .collect()
    }

    /// What the reader says; nothing at all if it cannot read the file.
    fn symbols<'r>(
        &mut self,
        reader: &'r Symbolizer,
        module: &Module,
        addresses: &[u64],
    ) -> Vec<Symbolized<'r>> {
        let Some(file) = &module.file else {
            // The vDSO is in no file; the reader finds it in this process's memory.
            let source = Source::Process(Process::new(Pid::Slf));
            return reader.symbolize(&source, Input::AbsAddr(addresses)).unwrap_or_default();
        };
        // Another version of a library may lie at its path by now; the program's own path is safe.
        let replaced = file.as_os_str() != "/proc/self/exe"
            && !module.build_id.is_empty()
            && matches!(read_elf_build_id(file), Ok(Some(id)) if *id != *module.build_id);
        if replaced {
            self.note(module, "the file was replaced since it was loaded");
            return Vec::new();
        }
        let offsets: Vec<u64> = addresses.iter().map(|address| address.wrapping_sub(module.bias)).collect();
        let mut source = Elf::new(file);
        let with_lines = reader.symbolize(&Source::Elf(source.clone()), Input::VirtOffset(&offsets));
        let error = match with_lines {
            Ok(symbols) => return symbols,
            Err(error) => error,
        };
        // The debug info may be of a kind that the reader does not know, such as compressed.
        source.debug_syms = false;
        reader.symbolize(&Source::Elf(source), Input::VirtOffset(&offsets)).unwrap_or_else(|_| {
            self.note(module, &root_cause(&error));
            Vec::new()
        })
    }

    fn note(&mut self, module: &Module, why: &str) {
        if self.noted.insert(module.name.clone()) {
            let (name, shown) = (&module.name, file_name(&module.name));
            self.notes
                .push(format!("names of {name} cannot be read: {why}; its frames show as {shown}!0xaddr"));
        }
    }

    fn found(&mut self, symbol: &Sym<'_>) -> Found {
        let inlined = symbol.inlined.iter().rev().map(|f| (&*f.name, f.code_info.as_ref()));
        let outermost = (&*symbol.name, symbol.code_info.as_deref());
        let lines = inlined.chain([outermost]).map(|(name, code)| self.line(name, code)).collect();
        Found { lines, named: true }
    }

    fn line(&mut self, name: &str, code: Option<&CodeInfo<'_>>) -> (Line, Role) {
        let name = readable(name);
        let role = Role::of(&name);
        let file = code.map(|code| self.string(&code.to_path().to_string_lossy()));
        let line = code.and_then(|code| code.line).unwrap_or(0);
        (Line { function: self.string(&name), file, line }, role)
    }

    fn unnamed(&mut self, module: &Module, address: u64) -> Found {
        let name = format!("{}!{:#x}", file_name(&module.name), address.wrapping_sub(module.bias));
        let role = Role::of(&name);
        Found { lines: Box::new([(Line { function: name.into(), file: None, line: 0 }, role)]), named: false }
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

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The innermost reason of an error, which names the obstacle.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

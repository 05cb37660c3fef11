//! The objects mapped into this process, from the loader's own list.
//!
//! Each object's unwind tables are used where they are mapped if the object cannot go away (the
//! program itself, the vDSO), and copied otherwise: a handler on another thread may be reading them
//! while the object is unloaded. The copy is made while the loader is held from unloading.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use framehop::{ExplicitModuleSectionInfo, Unwinder, UnwinderNative};

use crate::module::{Doubt, Module};
use crate::unwind::{CodeMap, Section};

/// Objects loaded and unloaded since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LoadCount {
    loaded: u64,
    unloaded: u64,
}

/// The mapped objects as of the last look.
#[derive(Default)]
pub(crate) struct Modules {
    list: Vec<Arc<Module>>,
    /// Those of the first look that are still there. What is loaded as the program starts is never
    /// unloaded, and what was loaded by then is rarely.
    settled: Vec<Arc<Module>>,
    count: LoadCount,
    unwinder: UnwinderNative<Section, framehop::MustNotAllocateDuringUnwind>,
}

/// One object as the loader describes it.
struct Found {
    module: Module,
    tables: Option<Tables>,
}

/// Unwind tables of an object, with the addresses that its file gives them.
struct Tables {
    eh_frame_hdr: (Range<u64>, Section),
    eh_frame: (Range<u64>, Section),
}

impl Modules {
    /// Looks again. When something was loaded or unloaded since the last look, what the samples of
    /// that time leave in doubt.
    pub(crate) fn refresh(&mut self) -> Option<Doubt> {
        let count = load_count();
        if count == self.count && !self.list.is_empty() {
            return None;
        }
        let found = list(&self.list);
        for gone in self.list.iter().filter(|old| !found.iter().any(|new| new.module == ***old)) {
            self.unwinder.remove_module(gone.text.start);
        }
        let known = std::mem::take(&mut self.list);
        let mut new = 0;
        for Found { module, tables } in found {
            if let Some(old) = known.iter().find(|old| ***old == module) {
                self.list.push(old.clone());
                continue;
            }
            self.unwinder.add_module(unwind_module(&module, tables));
            self.list.push(Arc::new(module));
            new += 1;
        }
        let gone = known.len() + new - self.list.len();
        let before = std::mem::replace(&mut self.count, count);
        let seen = LoadCount { loaded: before.loaded + new as u64, unloaded: before.unloaded + gone as u64 };
        if known.is_empty() {
            self.settled = self.list.clone();
        }
        self.settled.retain(|module| self.list.iter().any(|other| Arc::ptr_eq(module, other)));
        let stays = |module: &Arc<Module>| self.settled.iter().any(|other| Arc::ptr_eq(module, other));
        Some(Doubt::between(&known, &self.list, stays, count != seen))
    }

    pub(crate) fn list(&self) -> &[Arc<Module>] {
        &self.list
    }

    /// A map for the handlers, with the stacks that there are now.
    pub(crate) fn code_map(&self) -> CodeMap {
        CodeMap { unwinder: self.unwinder.clone(), stacks: writable_mappings() }
    }
}

fn unwind_module(module: &Module, tables: Option<Tables>) -> framehop::Module<Section> {
    let mut sections = ExplicitModuleSectionInfo {
        text_svma: Some(module.text.start - module.bias..module.text.end - module.bias),
        ..Default::default()
    };
    if let Some(tables) = tables {
        sections.eh_frame_hdr_svma = Some(tables.eh_frame_hdr.0);
        sections.eh_frame_hdr = Some(tables.eh_frame_hdr.1);
        sections.eh_frame_svma = Some(tables.eh_frame.0);
        sections.eh_frame = Some(tables.eh_frame.1);
    }
    framehop::Module::new(module.name.to_string(), module.text.clone(), module.bias, sections)
}

/// The mappings that may hold a stack, sorted by address.
fn writable_mappings() -> Arc<[Range<u64>]> {
    // Without it, threads that did not register give their leaf alone, marked as incomplete.
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter_map(writable_mapping).collect()
}

/// The range of one line of `/proc/self/maps`, if one may read and write there.
fn writable_mapping(line: &str) -> Option<Range<u64>> {
    let (range, rest) = line.split_once(' ')?;
    if !rest.starts_with("rw") {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

fn load_count() -> LoadCount {
    unsafe extern "C" fn first(
        info: *mut libc::dl_phdr_info,
        _bytes: libc::size_t,
        count: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: the loader passes its own description and the pointer given below.
        let (info, count) = unsafe { (&*info, &mut *count.cast::<LoadCount>()) };
        *count = LoadCount { loaded: info.dlpi_adds, unloaded: info.dlpi_subs };
        1
    }
    let mut count = LoadCount::default();
    // SAFETY: the callback writes to `count` alone, which lives until the call returns.
    unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut count).cast()) };
    count
}

struct Listing<'a> {
    known: &'a [Arc<Module>],
    found: Vec<Found>,
}

fn list(known: &[Arc<Module>]) -> Vec<Found> {
    unsafe extern "C" fn each(
        info: *mut libc::dl_phdr_info,
        _bytes: libc::size_t,
        listing: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: the loader passes its own description and the pointer given below.
        let (info, listing) = unsafe { (&*info, &mut *listing.cast::<Listing<'_>>()) };
        // SAFETY: the loader holds its lock, so what it describes stays mapped during this call.
        listing.found.extend(unsafe { describe(info, listing.known) });
        0
    }
    let mut listing = Listing { known, found: Vec::new() };
    // SAFETY: the callback writes to `listing` alone, which lives until the call returns.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut listing).cast()) };
    listing.found
}

/// # Safety
/// `info` is the loader's, and what it describes is mapped.
unsafe fn describe(info: &libc::dl_phdr_info, known: &[Arc<Module>]) -> Option<Found> {
    // SAFETY: the loader's name is a C string or null, its headers an array of that many.
    let (name, headers) = unsafe {
        let name = if info.dlpi_name.is_null() { c"" } else { CStr::from_ptr(info.dlpi_name) };
        (name.to_bytes(), std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum as usize))
    };
    let bias = info.dlpi_addr;
    let code = |p: &&libc::Elf64_Phdr| p.p_type == libc::PT_LOAD && p.p_flags & libc::PF_X != 0;
    let first = headers.iter().filter(code).min_by_key(|p| p.p_vaddr)?;
    let last = headers.iter().filter(code).max_by_key(|p| p.p_vaddr)?;
    let (file, name): (_, Arc<str>) = match name {
        b"" => {
            let name = fs::read_link("/proc/self/exe").unwrap_or_else(|_| "program".into());
            (Some(PathBuf::from("/proc/self/exe")), name.to_string_lossy().into())
        }
        name if name.contains(&b'/') => {
            let path = PathBuf::from(OsStr::from_bytes(name));
            (Some(path.clone()), path.to_string_lossy().into())
        }
        _ => (None, "[vdso]".into()),
    };
    let stays = file.as_ref().is_none_or(|file| file.as_os_str() == "/proc/self/exe");
    let module = Module {
        file,
        name,
        // SAFETY: note segments are mapped, as this function's caller vouches for.
        build_id: unsafe { build_id(headers, bias) },
        text: bias + first.p_vaddr..bias + last.p_vaddr + last.p_memsz,
        file_offset: first.p_offset,
        bias,
    };
    if known.iter().any(|known| **known == module) {
        return Some(Found { module, tables: None });
    }
    // SAFETY: as above; what stays is used in place, the rest is copied now.
    let tables = unsafe { tables(headers, bias, stays) };
    Some(Found { module, tables })
}

/// # Safety
/// The segments of `headers` are mapped at `bias`, for ever if `stays`.
unsafe fn tables(headers: &[libc::Elf64_Phdr], bias: u64, stays: bool) -> Option<Tables> {
    let section = |svma: &Range<u64>| {
        let (start, bytes) = ((bias + svma.start) as *const u8, (svma.end - svma.start) as usize);
        // SAFETY: the range was cut to a mapped segment below; it lives as long as is claimed.
        let bytes: &'static [u8] = unsafe { std::slice::from_raw_parts(start, bytes) };
        if stays { Section::Mapped(bytes) } else { Section::Copied(bytes.into()) }
    };
    let header = headers.iter().find(|p| p.p_type == libc::PT_GNU_EH_FRAME && is_mapped(headers, p))?;
    let eh_frame_hdr = header.p_vaddr..header.p_vaddr + header.p_memsz;
    // SAFETY: the header's own segment, at least 8 bytes of it.
    let start = unsafe {
        let bytes = (bias + header.p_vaddr) as *const u8;
        // Version 1, then how the pointer to .eh_frame is written: as every linker does, relative
        // to itself in four signed bytes (DW_EH_PE_pcrel | DW_EH_PE_sdata4).
        if header.p_memsz < 8 || *bytes != 1 || *bytes.add(1) != 0x1b {
            return None;
        }
        let offset = bytes.add(4).cast::<i32>().read_unaligned();
        (header.p_vaddr + 4).checked_add_signed(offset.into())?
    };
    let segment = headers
        .iter()
        .find(|p| p.p_type == libc::PT_LOAD && (p.p_vaddr..p.p_vaddr + p.p_memsz).contains(&start))?;
    // The section's length is nowhere in the headers. Where the search table comes after it, it
    // ends there; otherwise with its segment.
    let segment_end = segment.p_vaddr + segment.p_memsz;
    let end = if eh_frame_hdr.start > start { eh_frame_hdr.start.min(segment_end) } else { segment_end };
    let eh_frame = start..end;
    Some(Tables {
        eh_frame_hdr: (eh_frame_hdr.clone(), section(&eh_frame_hdr)),
        eh_frame: (eh_frame.clone(), section(&eh_frame)),
    })
}

/// Whether a part of an object lies in one of its segments that are loaded: objects may carry notes
/// for tools, which are in the file alone.
fn is_mapped(headers: &[libc::Elf64_Phdr], part: &libc::Elf64_Phdr) -> bool {
    headers.iter().any(|p| {
        p.p_type == libc::PT_LOAD
            && p.p_flags & libc::PF_R != 0
            && p.p_vaddr <= part.p_vaddr
            && part.p_vaddr + part.p_memsz <= p.p_vaddr + p.p_memsz
    })
}

/// The GNU build id in the object's notes; empty when it has none.
///
/// # Safety
/// The segments of `headers` are mapped at `bias`.
unsafe fn build_id(headers: &[libc::Elf64_Phdr], bias: u64) -> Vec<u8> {
    for header in headers.iter().filter(|p| p.p_type == libc::PT_NOTE && is_mapped(headers, p)) {
        let start = (bias + header.p_vaddr) as *const u8;
        // SAFETY: the notes lie in a mapped segment, as was checked above.
        let mut notes = unsafe { std::slice::from_raw_parts(start, header.p_memsz as usize) };
        while let Some((note, rest)) = split_note(notes) {
            if let Note { owner: b"GNU\0", kind: 3, contents } = note {
                return contents.to_vec();
            }
            notes = rest;
        }
    }
    Vec::new()
}

/// An entry of a note segment.
#[derive(Debug, PartialEq, Eq)]
struct Note<'a> {
    owner: &'a [u8],
    kind: u32,
    contents: &'a [u8],
}

/// The first note, and the bytes after it.
fn split_note(bytes: &[u8]) -> Option<(Note<'_>, &[u8])> {
    let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    let (owner_bytes, contents_bytes, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
    let owner = bytes.get(12..12 + owner_bytes)?;
    let start = 12 + owner_bytes.next_multiple_of(4);
    let contents = bytes.get(start..start.checked_add(contents_bytes)?)?;
    let rest = bytes.get(start + contents_bytes.next_multiple_of(4)..).unwrap_or_default();
    Some((Note { owner, kind, contents }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_comes_first_and_holds_this_function() {
        let mut modules = Modules::default();
        assert!(modules.refresh().is_some());
        assert!(modules.refresh().is_none(), "nothing was loaded meanwhile");
        let here = the_program_comes_first_and_holds_this_function as *const () as u64;
        assert!(modules.list()[0].text.contains(&here));
        assert!(modules.list().iter().any(|m| m.name.contains("libc")), "{:?}", modules.list());
    }

    #[test]
    fn a_note_is_split_at_its_padding() {
        let bytes = b"\x04\0\0\0\x03\0\0\0\x03\0\0\0GNU\0abc\0rest";
        let (note, rest) = split_note(bytes).expect("a note");
        assert_eq!(note, Note { owner: b"GNU\0", kind: 3, contents: b"abc" });
        assert_eq!(rest, b"rest");
        assert!(split_note(&bytes[..14]).is_none());
    }

    #[test]
    fn only_writable_mappings_are_stacks() {
        let line = "7ffc1000-7ffc3000 rw-p 00000000 00:00 0    [stack]";
        assert_eq!(writable_mapping(line), Some(0x7ffc_1000..0x7ffc_3000));
        assert_eq!(writable_mapping("1000-2000 r-xp 0 0 0"), None);
    }
}

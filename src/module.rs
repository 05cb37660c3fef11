//! A mapped object of this process: where it lies, and which file it came from.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// An executable or library that is mapped into this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// The file to read symbols from; `/proc/self/exe` for the program itself, so that a binary
    /// replaced on disk is still the one that runs. `None` for the vDSO.
    pub(crate) file: Option<PathBuf>,
    /// What to call it: the path as the loader knows it, or `[vdso]`.
    pub(crate) name: Arc<str>,
    /// The GNU build id as mapped; empty when it has none.
    pub(crate) build_id: Vec<u8>,
    /// Addresses of its executable segments in this process.
    pub(crate) text: Range<u64>,
    /// The offset of `text.start` in the file.
    pub(crate) file_offset: u64,
    /// What the loader added to the file's own virtual addresses.
    pub(crate) bias: u64,
}

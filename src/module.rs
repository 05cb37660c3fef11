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

/// Where a sample that was taken between two looks may be of another object than the first saw.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// All that came and went shows: it is where one object took the place of another.
    In(Vec<Range<u64>>),
    /// Something came and went unseen: it is wherever no object stays for ever.
    OutOf(Vec<Range<u64>>),
}

impl Doubt {
    /// `stays` tells the objects that are never unloaded; `unseen`, whether the loader did more than
    /// shows.
    pub(crate) fn between(
        before: &[Arc<Module>],
        after: &[Arc<Module>],
        stays: impl Fn(&Arc<Module>) -> bool,
        unseen: bool,
    ) -> Self {
        if unseen {
            return Self::OutOf(after.iter().filter(|m| stays(m)).map(|m| m.text.clone()).collect());
        }
        let gone = || before.iter().filter(|old| !after.contains(old));
        let new = after.iter().filter(|new| !before.contains(new));
        let both = new.flat_map(|new| gone().map(|gone| (&new.text, &gone.text)));
        let both = both.map(|(new, gone)| new.start.max(gone.start)..new.end.min(gone.end));
        Self::In(both.filter(|both| !both.is_empty()).collect())
    }

    /// Whether the object at this address is not certain.
    pub(crate) fn covers(&self, address: u64) -> bool {
        match self {
            Self::In(ranges) => ranges.iter().any(|range| range.contains(&address)),
            Self::OutOf(ranges) => !ranges.iter().any(|range| range.contains(&address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str, text: Range<u64>) -> Arc<Module> {
        let name = name.into();
        Arc::new(Module { file: None, name, build_id: Vec::new(), text, file_offset: 0, bias: 0 })
    }

    fn doubted(doubt: &Doubt) -> Vec<u64> {
        (0..80).filter(|&address| doubt.covers(address)).collect()
    }

    #[test]
    fn where_one_object_took_the_place_of_another_it_is_doubtful() {
        let before = [module("program", 10..20), module("left", 30..40), module("alone", 60..70)];
        let after = [module("program", 10..20), module("came", 36..50), module("alone", 68..75)];
        let between = |before, after| Doubt::between(before, after, |_| true, false);
        assert_eq!(doubted(&between(&before, &after)), [36, 37, 38, 39, 68, 69]);
        assert_eq!(doubted(&between(&before, &before)), []);
        assert_eq!(doubted(&between(&before, &before[..1])), [], "gone, and nothing came");
    }

    #[test]
    fn when_something_came_and_went_unseen_only_what_stays_is_certain() {
        let both = [module("program", 0..60), module("plugin", 60..70), module("libc", 72..80)];
        let doubt = Doubt::between(&both, &both, |module| &*module.name != "plugin", true);
        assert_eq!(doubted(&doubt), (60..72).collect::<Vec<_>>());
    }
}

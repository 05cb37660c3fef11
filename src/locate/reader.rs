//! Reads functions, files and lines out of an object's file.
//!
//! You give [`read`] an object and addresses in it; it opens the file, looks all of them up, and
//! closes it. Nothing of the file is kept: after a window or two hardly any address is new, and the
//! tables of a large program's debug info would stay in memory for those few.
//!
//! The work is done on a thread of its own. The C library gives each thread a heap, where the reader
//! allocates a great many small pieces; what is kept must not lie among them, or no page between them
//! is ever free again. Of a program with 27 MB of debug info, 40 MiB stayed resident otherwise, and 3
//! this way.

use std::ops::Range;

use blazesym::Pid;
use blazesym::helper::read_elf_build_id;
use blazesym::symbolize::source::{Elf, Process, Source};
use blazesym::symbolize::{CodeInfo, Input, Symbolized, Symbolizer};

use crate::module::Module;

/// What the file says of some addresses, in a few large pieces of memory.
#[derive(Default)]
pub(super) struct Answers {
    text: String,
    lines: Vec<AnswerLine>,
    /// Where the lines of each address end; it has none if nothing is known of it.
    ends: Vec<usize>,
    /// Why nothing is known of any.
    pub(super) problem: Option<String>,
}

/// A function and a place in it; the names are ranges of [`Answers::text`].
struct AnswerLine {
    function: Range<usize>,
    file: Option<Range<usize>>,
    line: u32,
}

/// A function, demangled but otherwise as the file names it, and a place in it.
pub(super) struct Place<'a> {
    pub(super) function: &'a str,
    pub(super) file: Option<&'a str>,
    /// 0 when unknown.
    pub(super) line: u32,
}

/// Looks up `addresses` of this process, all of them in `module`.
pub(super) fn read(module: &Module, addresses: &[u64]) -> Answers {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("pollscope-names".into());
        match thread.spawn_scoped(scope, || read_here(module, addresses)) {
            Ok(thread) => thread.join().unwrap_or_else(|_| Answers::problem("the reader of symbols failed")),
            Err(error) => Answers::problem(format!("no thread to read them on: {error}")),
        }
    })
}

fn read_here(module: &Module, addresses: &[u64]) -> Answers {
    let reader = Symbolizer::builder().enable_auto_reload(false).build();
    let Some(file) = &module.file else {
        // The vDSO is in no file; the reader finds it in this process's memory.
        let source = Source::Process(Process::new(Pid::Slf));
        return match reader.symbolize(&source, Input::AbsAddr(addresses)) {
            Ok(symbols) => Answers::copy(&symbols),
            Err(error) => Answers::problem(root_cause(&error)),
        };
    };
    // Another version of a library may lie at its path by now; the program's own path is safe.
    let replaced = file.as_os_str() != "/proc/self/exe"
        && !module.build_id.is_empty()
        && matches!(read_elf_build_id(file), Ok(Some(id)) if *id != *module.build_id);
    if replaced {
        return Answers::problem("the file was replaced since it was loaded");
    }
    let offsets: Vec<u64> = addresses.iter().map(|address| address.wrapping_sub(module.bias)).collect();
    let mut source = Elf::new(file);
    let with_lines = reader.symbolize(&Source::Elf(source.clone()), Input::VirtOffset(&offsets));
    let error = match with_lines {
        Ok(symbols) => return Answers::copy(&symbols),
        Err(error) => error,
    };
    // The debug info may be of a kind that the reader does not know, such as compressed.
    source.debug_syms = false;
    match reader.symbolize(&Source::Elf(source), Input::VirtOffset(&offsets)) {
        Ok(symbols) => Answers::copy(&symbols),
        Err(_) => Answers::problem(root_cause(&error)),
    }
}

/// The innermost reason of an error, which names the obstacle.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl Answers {
    fn problem(why: impl Into<String>) -> Self {
        Self { problem: Some(why.into()), ..Self::default() }
    }

    fn copy(symbols: &[Symbolized<'_>]) -> Self {
        let mut answers = Self::default();
        for symbol in symbols {
            if let Symbolized::Sym(symbol) = symbol
                && !symbol.name.is_empty()
            {
                // The reader lists them from the outermost on.
                for inlined in symbol.inlined.iter().rev() {
                    answers.add(&inlined.name, inlined.code_info.as_ref());
                }
                answers.add(&symbol.name, symbol.code_info.as_deref());
            }
            answers.ends.push(answers.lines.len());
        }
        answers
    }

    fn add(&mut self, function: &str, code: Option<&CodeInfo<'_>>) {
        let function = self.write(function);
        let file = code.map(|code| self.write(&code.to_path().to_string_lossy()));
        self.lines.push(AnswerLine { function, file, line: code.and_then(|code| code.line).unwrap_or(0) });
    }

    fn write(&mut self, text: &str) -> Range<usize> {
        let start = self.text.len();
        self.text.push_str(text);
        start..self.text.len()
    }

    /// The functions at the `nth` address asked for, the innermost inlined one first; none if nothing
    /// is known of it.
    pub(super) fn places(&self, nth: usize) -> impl Iterator<Item = Place<'_>> {
        let end = self.ends.get(nth).copied().unwrap_or(0);
        let start = nth.checked_sub(1).and_then(|before| self.ends.get(before).copied()).unwrap_or(0);
        self.lines[start..end].iter().map(|line| Place {
            function: &self.text[line.function.clone()],
            file: line.file.clone().map(|file| &self.text[file]),
            line: line.line,
        })
    }
}

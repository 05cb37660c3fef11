//! How a thread comes to the program's code: the frames above it that are the same in every program.
//!
//! You give [`entry`] the names of a stack, outermost first; it says how many of them are the start
//! of a thread, tokio's scheduler and the harness around a task, and what to call them in one word.
//! It knows these frames by name, and only those: what it does not know is the program's, and from
//! there on nothing is touched. So code that calls back into tokio stays whole, the innermost frame
//! always stays, and a program without names loses nothing.
//!
//! The lists are from stacks of tokio 1.54 on Rust 1.95, optimized with and without link-time
//! optimization, in both manglings.

/// What a frame is, told by its name. Of a run of frames, the greatest gives its name to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// The program's, or unknown.
    Code,
    /// Belongs to the entry if more of it follows.
    Perhaps,
    /// A step between others that says nothing of where the thread came from.
    Step,
    Thread,
    Main,
    Tokio,
    Blocking,
    CurrentThread,
    Worker,
}

/// The frames to collapse, and the frame to show for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) frames: usize,
    pub(super) shown_as: &'static str,
}

/// Looks for the entry among a stack's names and their roles, outermost first.
pub(super) fn entry<'a>(frames: impl IntoIterator<Item = (&'a str, Role)>) -> Option<Entry> {
    let mut found = Entry { frames: 0, shown_as: "" };
    let mut greatest = Role::Code;
    let mut last = "";
    let mut next = None;
    for (at, (name, role)) in frames.into_iter().enumerate() {
        if found.frames == at {
            // The first frame after the entry so far.
            next = Some(name);
        }
        match role {
            Role::Code => break,
            Role::Perhaps => {}
            _ => {
                found.frames = at + 1;
                greatest = greatest.max(role);
                last = name;
                next = None;
            }
        }
    }
    found.shown_as = match greatest {
        Role::Code | Role::Perhaps | Role::Step => return None,
        Role::Thread => "[thread]",
        Role::Main => "[main]",
        Role::Tokio => "[tokio]",
        Role::Blocking => "[tokio blocking]",
        Role::CurrentThread => "[tokio current_thread]",
        Role::Worker => "[tokio worker]",
    };
    // The innermost frame stays whatever it is, and so does one that holds inlined code.
    if next.is_none_or(|next| subject(last).is_some_and(|subject| !mentions(next, subject))) {
        found.frames -= 1;
    }
    (found.frames > 0).then_some(found)
}

/// Frames into which the code that they were compiled for is often inlined.
const HOLDERS: [&str; 5] = [
    "tokio::runtime::task::raw::poll<",
    "tokio::runtime::task::harness::Harness<",
    "tokio::runtime::task::core::Core<",
    "<tracing::instrument::Instrumented<",
    "std::sys::backtrace::__rust_begin_short_backtrace<",
];

/// The function or type that such a frame was compiled for, if its name tells: `price` of
/// `tokio::runtime::task::raw::poll<Instrumented<price>, Arc>`.
fn subject(name: &str) -> Option<&str> {
    let mut arguments = HOLDERS.iter().find_map(|holder| name.strip_prefix(holder))?;
    for _ in 0..4 {
        let word_end = arguments.find(|c: char| !is_word(c)).unwrap_or(arguments.len());
        let (word, rest) = arguments.split_at(word_end);
        match word {
            "Instrumented" | "BlockingTask" | "Pin" | "Box" | "AssertUnwindSafe" => {
                arguments = rest.strip_prefix('<')?;
            }
            "" | "dyn" | "fn" | "impl" => return None,
            // A parameter's own name: the older mangling does not tell what it stands for.
            _ if word.len() == 1 => return None,
            _ => return Some(word),
        }
    }
    None
}

fn mentions(name: &str, word: &str) -> bool {
    name.split(|c| !is_word(c)).any(|found| found == word)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

impl Role {
    /// The role of a function with this name, as `name::readable` gives it.
    pub(super) fn of(name: &str) -> Self {
        if is_unnamed_libc(name) {
            return Self::Perhaps;
        }
        let bare = without_arguments(name);
        let exact = EXACT.iter().find(|(known, _)| *known == bare);
        let found = exact.or_else(|| PREFIXES.iter().find(|(known, _)| bare.starts_with(known)));
        found.map_or(Self::Code, |(_, role)| *role)
    }
}

/// A frame of a C library that is installed without its symbol table, as they often are.
fn is_unnamed_libc(name: &str) -> bool {
    let Some((file, _)) = name.split_once("!0x") else { return false };
    ["libc.", "libc-", "libpthread", "ld-"].iter().any(|known| file.starts_with(known))
}

/// The name without generic arguments: `a::B<T>::c` is `a::B::c`. `<B<T> as C>::d` is `<B as C>::d`.
fn without_arguments(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut depth = 0_usize;
    let mut before = ' ';
    for c in name.chars() {
        match c {
            '<' if depth > 0 || is_word(before) => depth += 1,
            '>' if depth > 0 && before != '-' => depth -= 1,
            _ if depth == 0 => out.push(c),
            _ => {}
        }
        before = c;
    }
    out
}

const EXACT: &[(&str, Role)] = &[
    // The C library's `main` calls Rust's; a C program's own `main` is its code.
    ("main", Role::Perhaps),
    ("_start", Role::Main),
    ("__libc_start_call_main", Role::Main),
    ("__libc_start_main", Role::Main),
    ("__libc_start_main_impl", Role::Main),
    ("clone", Role::Thread),
    ("clone3", Role::Thread),
    ("__clone", Role::Thread),
    ("__clone3", Role::Thread),
    ("__GI___clone3", Role::Thread),
    ("start_thread", Role::Thread),
    ("std::sys::backtrace::__rust_begin_short_backtrace", Role::Thread),
    ("std::sys_common::backtrace::__rust_begin_short_backtrace", Role::Thread),
    ("__rust_try", Role::Step),
    ("std::panicking::try", Role::Step),
    ("std::panicking::try::do_call", Role::Step),
    ("std::panicking::catch_unwind", Role::Step),
    ("std::panicking::catch_unwind::do_call", Role::Step),
    ("std::panic::catch_unwind", Role::Step),
    ("std::thread::local::LocalKey::with", Role::Step),
    ("std::thread::local::LocalKey::try_with", Role::Step),
    ("core::ops::function::FnOnce::call_once", Role::Step),
    ("<alloc::boxed::Box as FnOnce>::call_once", Role::Step),
    ("<core::panic::unwind_safe::AssertUnwindSafe as FnOnce>::call_once", Role::Step),
    ("<core::panic::unwind_safe::AssertUnwindSafe as Future>::poll", Role::Step),
    ("<&F as FnOnce>::call_once", Role::Step),
    ("<&mut F as FnOnce>::call_once", Role::Step),
    ("<core::pin::Pin as Future>::poll", Role::Step),
    ("<&mut F as Future>::poll", Role::Step),
    ("<alloc::boxed::Box as Future>::poll", Role::Step),
    ("<tracing::instrument::Instrumented as Future>::poll", Role::Step),
    ("tokio::loom::std::unsafe_cell::UnsafeCell::with_mut", Role::Step),
    ("tokio::loom::std::unsafe_cell::UnsafeCell::with", Role::Step),
    ("tokio::task::coop::budget", Role::Step),
    ("tokio::task::coop::with_budget", Role::Step),
    ("tokio::runtime::coop::budget", Role::Step),
    ("tokio::runtime::coop::with_budget", Role::Step),
    ("tokio::runtime::context::set_scheduler", Role::Tokio),
    ("tokio::runtime::context::with_scheduler", Role::Tokio),
    ("tokio::runtime::context::scoped::Scoped::set", Role::Tokio),
    ("tokio::runtime::context::scoped::Scoped::with", Role::Tokio),
    ("tokio::runtime::context::runtime::enter_runtime", Role::Tokio),
    ("tokio::runtime::context::blocking::BlockingRegionGuard::block_on", Role::Tokio),
    ("tokio::runtime::park::CachedParkThread::block_on", Role::Tokio),
    ("tokio::runtime::runtime::Runtime::block_on", Role::Tokio),
    ("tokio::runtime::runtime::Runtime::block_on_inner", Role::Tokio),
    ("tokio::runtime::handle::Handle::block_on", Role::Tokio),
    ("tokio::runtime::handle::Handle::block_on_inner", Role::Tokio),
    ("tokio::runtime::scheduler::multi_thread::MultiThread::block_on", Role::Tokio),
    ("tokio::runtime::task::LocalNotified::run", Role::Tokio),
    ("tokio::runtime::task::UnownedTask::run", Role::Tokio),
    ("tokio::runtime::task::core::Core::poll", Role::Tokio),
    ("tokio::runtime::task::harness::Harness::poll", Role::Tokio),
    ("tokio::runtime::task::harness::Harness::poll_inner", Role::Tokio),
    ("tokio::runtime::task::harness::poll_future", Role::Tokio),
    ("tokio::runtime::task::raw::RawTask::poll", Role::Tokio),
    ("tokio::runtime::task::raw::poll", Role::Tokio),
    ("<tokio::runtime::blocking::task::BlockingTask as Future>::poll", Role::Blocking),
    ("tokio::runtime::scheduler::current_thread::Context::enter", Role::CurrentThread),
    ("tokio::runtime::scheduler::current_thread::Context::run_task", Role::CurrentThread),
    ("tokio::runtime::scheduler::current_thread::CoreGuard::block_on", Role::CurrentThread),
    ("tokio::runtime::scheduler::current_thread::CoreGuard::enter", Role::CurrentThread),
    ("tokio::runtime::scheduler::current_thread::CurrentThread::block_on", Role::CurrentThread),
    ("tokio::task::local::LocalSet::block_on", Role::CurrentThread),
    ("tokio::task::local::LocalSet::run_until", Role::CurrentThread),
    ("tokio::task::local::LocalSet::tick", Role::CurrentThread),
    ("tokio::task::local::LocalSet::with", Role::CurrentThread),
    ("<tokio::task::local::LocalSet as Future>::poll", Role::CurrentThread),
    ("<tokio::task::local::RunUntil as Future>::poll", Role::CurrentThread),
    ("tokio::runtime::scheduler::multi_thread::worker::Context::run", Role::Worker),
    ("tokio::runtime::scheduler::multi_thread::worker::Context::run_task", Role::Worker),
    ("tokio::runtime::scheduler::multi_thread::worker::Launch::launch", Role::Worker),
    ("tokio::runtime::scheduler::multi_thread::worker::maybe_move_runtime", Role::Worker),
    ("tokio::runtime::scheduler::multi_thread::worker::run", Role::Worker),
];

const PREFIXES: &[(&str, Role)] = &[
    // Its functions run tasks, or wait in functions of other names.
    ("tokio::runtime::blocking::pool::", Role::Blocking),
    ("std::rt::", Role::Main),
    ("std::sys::thread::unix::Thread::new", Role::Thread),
    ("std::sys::pal::unix::thread::Thread::new", Role::Thread),
    ("std::thread::Builder::spawn", Role::Thread),
    ("std::thread::lifecycle::spawn", Role::Thread),
    ("<std::thread::lifecycle::spawn_unchecked as FnOnce>", Role::Thread),
    ("<std::thread::Builder::spawn_unchecked_ as FnOnce>", Role::Thread),
];

#[cfg(test)]
#[path = "entry/tests.rs"]
mod tests;

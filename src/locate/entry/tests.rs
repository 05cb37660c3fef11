use super::*;
use crate::locate::name::readable;

/// The stack as it reads afterwards, outermost first, of names as demangled, innermost first.
fn collapsed(stack: &str) -> String {
    let names: Vec<String> =
        stack.split_whitespace().rev().map(|name| readable(&name.replace('~', " "))).collect();
    let frames = names.iter().map(|name| (&**name, Role::of(name)));
    let found = entry(frames);
    let shown = found.iter().map(|found| found.shown_as);
    let rest = names.iter().skip(found.map_or(0, |found| found.frames)).map(|name| &**name);
    shown.chain(rest).collect::<Vec<_>>().join("\n")
}

const THREAD: &str = "std::sys::backtrace::__rust_begin_short_backtrace
    core::ops::function::FnOnce::call_once{{vtable.shim}}
    <std::sys::thread::unix::Thread>::new::thread_start
    start_thread
    clone3";

const POOL: &str = "tokio::runtime::task::core::Core<T,S>::poll
    tokio::runtime::task::harness::Harness<T,S>::poll
    tokio::runtime::blocking::pool::Inner::run";

const WORKER: &str = "tokio::runtime::scheduler::multi_thread::worker::Context::run
    tokio::runtime::context::scoped::Scoped<T>::set
    tokio::runtime::context::runtime::enter_runtime
    tokio::runtime::scheduler::multi_thread::worker::run";

const TASK: &str = "tokio::runtime::task::core::Core<T,S>::poll
    tokio::runtime::task::harness::Harness<T,S>::poll
    tokio::runtime::scheduler::multi_thread::worker::Context::run_task";

const MAIN: &str = "std::sys::backtrace::__rust_begin_short_backtrace
    std::rt::lang_start::{{closure}}
    std::rt::lang_start_internal
    main
    __libc_start_call_main
    __libc_start_main_impl
    _start";

fn spawned(code: &str) -> String {
    collapsed(&[code, TASK, WORKER, POOL, THREAD].join(" "))
}

#[test]
fn a_spawned_task_begins_with_its_own_code() {
    assert_eq!(
        spawned("shop::show shop::price::{{closure}}::{{closure}} shop::price::{{closure}}"),
        "[tokio worker]\nshop::price\nshop::price\nshop::show"
    );
    assert_eq!(
        spawned(
            "shop::show shop::plain::{{closure}} <tracing::instrument::Instrumented<T>~as~core::future::future::Future>::poll"
        ),
        "[tokio worker]\nshop::plain\nshop::show"
    );
    // The task's code is inlined into the harness, and the older mangling does not tell.
    assert_eq!(spawned("shop::show"), "[tokio worker]\nshop::show");
}

#[test]
fn code_below_the_first_frame_of_the_program_stays() {
    assert_eq!(
        spawned(
            "shop::show
            tokio::runtime::park::CachedParkThread::block_on
            tokio::runtime::context::runtime::enter_runtime
            tokio::runtime::context::runtime_mt::exit_runtime
            tokio::runtime::scheduler::multi_thread::worker::block_in_place"
        ),
        "[tokio worker]
tokio::runtime::scheduler::multi_thread::worker::block_in_place
tokio::runtime::context::runtime_mt::exit_runtime
tokio::runtime::context::runtime::enter_runtime
tokio::runtime::park::CachedParkThread::block_on
shop::show"
    );
}

#[test]
fn a_worker_without_a_task_shows_what_it_does() {
    assert_eq!(
        collapsed(
            &[
                "epoll_wait mio::poll::Poll::poll tokio::runtime::io::driver::Driver::turn
                tokio::runtime::scheduler::multi_thread::worker::Context::park_internal",
                WORKER,
                POOL,
                THREAD
            ]
            .join(" ")
        ),
        "[tokio worker]
tokio::runtime::scheduler::multi_thread::worker::Context::park_internal
tokio::runtime::io::driver::Driver::turn
mio::poll::Poll::poll
epoll_wait"
    );
    assert_eq!(
        collapsed(&[WORKER, POOL, THREAD].join(" ")),
        "[tokio worker]\ntokio::runtime::scheduler::multi_thread::worker::Context::run"
    );
    // The code of a task that was inlined is the innermost frame.
    assert_eq!(spawned(""), "[tokio worker]\ntokio::runtime::task::core::Core<T,S>::poll");
}

#[test]
fn other_threads() {
    assert_eq!(collapsed(&["shop::show", POOL, THREAD].join(" ")), "[tokio blocking]\nshop::show");
    assert_eq!(collapsed(&["shop::show", THREAD].join(" ")), "[thread]\nshop::show");
    assert_eq!(collapsed(&["shop::show shop::main", MAIN].join(" ")), "[main]\nshop::main\nshop::show");
    // A thread that C code made, and C code that calls Rust.
    assert_eq!(collapsed("shop::callback work start_thread clone3"), "[thread]\nwork\nshop::callback");
    assert_eq!(
        collapsed("shop::ffi main __libc_start_call_main __libc_start_main_impl _start"),
        "[main]\nmain\nshop::ffi"
    );
}

#[test]
fn block_on_in_main_stays_below_main() {
    let runtime = "tokio::runtime::park::CachedParkThread::block_on
        tokio::runtime::context::runtime::enter_runtime
        tokio::runtime::runtime::Runtime::block_on";
    assert_eq!(
        collapsed(&["shop::show", runtime, "shop::main", MAIN].join(" ")),
        "[main]
shop::main
tokio::runtime::runtime::Runtime::block_on
tokio::runtime::context::runtime::enter_runtime
tokio::runtime::park::CachedParkThread::block_on
shop::show"
    );
}

#[test]
fn a_runtime_on_a_thread_of_its_own() {
    let current = "tokio::runtime::scheduler::current_thread::CoreGuard::block_on
        tokio::runtime::context::runtime::enter_runtime
        tokio::runtime::scheduler::current_thread::CurrentThread::block_on
        tokio::runtime::runtime::Runtime::block_on";
    let task = "tokio::runtime::task::core::Core<T,S>::poll
        tokio::runtime::task::harness::Harness<T,S>::poll
        tokio::runtime::scheduler::current_thread::Context::run_task
        std::thread::local::LocalKey<T>::with";
    assert_eq!(
        collapsed(&["shop::plain::{{closure}}", task, current, THREAD].join(" ")),
        "[tokio current_thread]\nshop::plain"
    );
    let local = "tokio::runtime::task::core::Core<T,S>::poll
        tokio::runtime::task::harness::Harness<T,S>::poll
        tokio::task::local::LocalSet::tick
        std::thread::local::LocalKey<T>::with
        tokio::runtime::scheduler::current_thread::Context::enter
        std::thread::local::LocalKey<T>::with";
    assert_eq!(
        collapsed(&["shop::plain::{{closure}}", local, current, THREAD].join(" ")),
        "[tokio current_thread]\nshop::plain"
    );
}

#[test]
fn names_of_version_0_tell_whose_code_was_inlined() {
    let worker = "<tokio::runtime::scheduler::multi_thread::worker::Context>::run_task
        tokio::runtime::scheduler::multi_thread::worker::run
        tokio::runtime::task::raw::poll::<tokio::runtime::blocking::task::BlockingTask<tokio::runtime::scheduler::multi_thread::worker::maybe_move_runtime::{closure#0}::{closure#0}>,~tokio::runtime::blocking::schedule::BlockingSchedule>
        std::sys::backtrace::__rust_begin_short_backtrace::<<tokio::runtime::blocking::pool::Spawner>::spawn_thread::{closure#0},~()>
        <std::thread::lifecycle::spawn_unchecked<<tokio::runtime::blocking::pool::Spawner>::spawn_thread::{closure#0},~()>::{closure#1}~as~core::ops::function::FnOnce<()>>::call_once::{shim:vtable#0}
        <std::sys::thread::unix::Thread>::new::thread_start
        start_thread
        clone3";
    let handle = "alloc::sync::Arc<tokio::runtime::scheduler::multi_thread::handle::Handle>";
    let hand = format!("shop::show tokio::runtime::task::raw::poll::<shop::Hand,~{handle}>");
    assert_eq!(
        collapsed(&[&hand, worker].join(" ")),
        "[tokio worker]\ntokio::runtime::task::raw::poll<Hand, Arc<Handle>>\nshop::show"
    );
    let all = format!(
        "shop::show shop::all::{{closure#0}}::{{closure#7}}
        tokio::runtime::task::raw::poll::<shop::all::{{closure#0}}::{{closure#7}},~{handle}>"
    );
    assert_eq!(collapsed(&[&all, worker].join(" ")), "[tokio worker]\nshop::all\nshop::show");
    let plain = format!(
        "shop::show shop::plain::{{closure#0}}
        tokio::runtime::task::raw::poll::<tracing::instrument::Instrumented<shop::plain::{{closure#0}}>,~{handle}>"
    );
    assert_eq!(collapsed(&[&plain, worker].join(" ")), "[tokio worker]\nshop::plain\nshop::show");
    assert_eq!(
        collapsed(
            "shop::show std::sys::backtrace::__rust_begin_short_backtrace::<shop::all::{closure#0}::{closure#9},~()> start_thread clone3"
        ),
        "[thread]\nstd::sys::backtrace::__rust_begin_short_backtrace<all, ()>\nshop::show"
    );
}

#[test]
fn a_c_library_without_symbols_does_not_stop_the_search() {
    let thread = "std::sys::backtrace::__rust_begin_short_backtrace
        <std::sys::thread::unix::Thread>::new::thread_start
        libc.so.6!0x94ac3
        libc.so.6!0x1268c0";
    assert_eq!(collapsed(&["shop::show", thread].join(" ")), "[thread]\nshop::show");
    let main = "std::rt::lang_start_internal main libc.so.6!0x29d90 __libc_start_main _start";
    assert_eq!(collapsed(&["shop::show shop::main", main].join(" ")), "[main]\nshop::main\nshop::show");
}

#[test]
fn what_has_no_names_is_left_alone() {
    let stack = "shop!0x1234 shop!0x5678 libc.so.6!0x94ac3 libc.so.6!0x1268c0";
    assert_eq!(collapsed(stack), "libc.so.6!0x1268c0\nlibc.so.6!0x94ac3\nshop!0x5678\nshop!0x1234");
    assert_eq!(collapsed("a b"), "b\na");
    assert_eq!(collapsed(""), "");
}

//! The handler allocates nothing, wherever it interrupts.
//!
//! The unit tests' allocator looks, at each call, whether the calling thread is within its handler.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::info_span;
use tracing_subscriber::prelude::*;

use crate::{Engine, Profiler, thread};

struct Watched;

#[global_allocator]
static WATCHED: Watched = Watched;

thread_local! {
    /// Calls of the allocator on this thread that seemed to come from its handler, once they are
    /// awaited; a call that nobody awaits ends the process.
    static CAUGHT: Cell<Option<u32>> = const { Cell::new(None) };
}

fn watch() {
    if thread::existing().is_some_and(|slot| slot.in_handler.load(Ordering::Relaxed)) {
        match CAUGHT.get() {
            Some(caught) => CAUGHT.set(Some(caught + 1)),
            // Going on might wait for ever, for a lock of the interrupted thread's own.
            None => {
                let text = b"the signal handler called the allocator\n";
                // SAFETY: both are async-signal-safe, and the text is as long as it says.
                unsafe {
                    libc::write(2, text.as_ptr().cast(), text.len());
                    libc::abort();
                }
            }
        }
    }
}

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        watch();
        // SAFETY: as this function's caller vouches for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        watch();
        // SAFETY: as this function's caller vouches for.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        watch();
        // SAFETY: as this function's caller vouches for.
        unsafe { System.realloc(memory, layout, bytes) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        watch();
        // SAFETY: as this function's caller vouches for.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[test]
fn the_allocator_notices_a_handler_that_allocates() {
    let slot = thread::current().expect("a slot");
    let caught = || {
        CAUGHT.set(Some(0));
        drop(std::hint::black_box(Box::new(1)));
        CAUGHT.take()
    };
    assert_eq!(caught(), Some(0));
    slot.in_handler.store(true, Ordering::SeqCst);
    let within = caught();
    slot.in_handler.store(false, Ordering::SeqCst);
    assert_eq!(within, Some(2), "once to take it, once to give it back");
}

/// Allocates all the time, on stacks of all depths, in spans within spans.
fn work(end: Instant) {
    #[inline(never)]
    fn descend(depth: u32) -> usize {
        let text = format!("{depth:?}");
        let below = if depth == 0 { 0 } else { info_span!("below").in_scope(|| descend(depth - 1)) };
        let mut table: HashMap<_, _> = (0..depth).map(|n| (n, text.clone())).collect();
        table.retain(|n, _| n % 2 == 0);
        below + table.len()
    }
    let mut depth = 0;
    while Instant::now() < end {
        depth = (depth + 7) % 90;
        std::hint::black_box(descend(depth));
    }
}

#[test]
fn the_handler_allocates_nothing() {
    for engine in [Engine::Perf, Engine::Timer] {
        let profiler =
            Profiler::builder("test").environment(None).engine(engine).hertz(5000).every_span().start();
        let profiler = profiler.expect("a profiler");
        let dispatch = tracing::Dispatch::new(tracing_subscriber::registry().with(profiler.layer()));
        let end = Instant::now() + Duration::from_secs(1);
        let run = || tracing::dispatcher::with_default(&dispatch, || work(end));
        std::thread::scope(|scope| {
            scope.spawn(run);
            scope.spawn(run);
        });
        let stats = profiler.stop();
        println!("{stats}");
        assert!(stats.signals > 100, "{stats}");
    }
}

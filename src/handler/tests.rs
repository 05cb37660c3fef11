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
    /// Calls of the allocator on this thread while its handler ran.
    static CAUGHT: Cell<u32> = const { Cell::new(0) };
}

fn watch() {
    if thread::existing().is_some_and(|slot| slot.in_handler.load(Ordering::Relaxed)) {
        // An abort would not say what for; a panic would allocate.
        CAUGHT.set(CAUGHT.get() + 1);
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
        let before = CAUGHT.get();
        drop(std::hint::black_box(Box::new(1)));
        CAUGHT.get() - before
    };
    assert_eq!(caught(), 0);
    slot.in_handler.store(true, Ordering::SeqCst);
    let within = caught();
    slot.in_handler.store(false, Ordering::SeqCst);
    assert_eq!(within, 2, "once to take it, once to give it back");
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
        let run = || {
            tracing::dispatcher::with_default(&dispatch, || work(end));
            CAUGHT.get()
        };
        let caught: Vec<u32> = std::thread::scope(|scope| {
            let threads = [scope.spawn(run), scope.spawn(run)];
            threads.map(|thread| thread.join().expect("no panic")).into()
        });
        let stats = profiler.stop();
        println!("{stats}");
        assert!(stats.signals > 100, "{stats}");
        assert_eq!(caught, [0, 0], "calls of the allocator within a handler");
    }
}

//! What found the ring full is in the profile, to the nanosecond, as `[lost samples]`.
//!
//! The ring overflows because its reader is held up: it asks the loader what is mapped, and the
//! loader is kept busy by the program.
#![cfg(target_os = "linux")]

mod support;

use std::ffi::{c_int, c_void};
use std::time::Duration;

use pollscope::Engine;
use support::{Recording, burn, runs_with, take_turn};

const HERTZ: u32 = 5000;
const PERIOD_NS: u64 = 1_000_000_000 / HERTZ as u64;

/// Burns at the end of a deep stack, which takes much room in the ring.
#[inline(never)]
fn burn_deep_down(depth: u32) {
    if depth == 0 {
        burn(Duration::from_secs(2));
    } else {
        burn_deep_down(depth - 1);
    }
    std::hint::black_box(depth);
}

/// Burns while no other thread can ask the loader anything.
fn burn_with_the_loader_held() {
    unsafe extern "C" fn first(_: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
        burn_deep_down(700);
        1
    }
    // SAFETY: the callback looks at nothing that it is given.
    unsafe { libc::dl_iterate_phdr(Some(first), std::ptr::null_mut()) };
}

fn check(engine: Engine, expected: &str) {
    let _turn = take_turn();
    let recording = Recording::default();
    let profiler =
        recording.builder().engine(engine).hertz(HERTZ).stack_depth(768).start().expect("a profiler");
    if !runs_with(&profiler.stats(), expected) {
        return;
    }
    burn_with_the_loader_held();
    let stats = profiler.stop();
    println!("{stats}");

    let (mut lost, mut taken) = ((0, 0), (0, 0));
    recording.for_each_sample(|profile, sample| {
        let frames: Vec<_> = profile.frames(sample).collect();
        let sum = match frames[..] {
            ["[unsampled]"] => return,
            ["[lost samples]"] => &mut lost,
            _ => &mut taken,
        };
        *sum = (sum.0 + sample.count, sum.1 + sample.weight);
    });
    assert!(stats.lost > 0, "the ring is smaller than two seconds of this");
    assert_eq!(lost, (stats.lost, stats.lost * PERIOD_NS));
    assert_eq!(taken, (stats.samples, stats.samples * PERIOD_NS));
}

#[test]
fn losses_are_counted_to_the_last_with_perf() {
    check(Engine::Perf, "perf");
}

#[test]
fn losses_are_counted_to_the_last_with_timers() {
    check(Engine::Timer, "timer");
}

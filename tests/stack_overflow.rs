//! Rust's own words on a stack overflow are still printed while the program is sampled at 5 kHz.
#![cfg(target_os = "linux")]

mod support;

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use pollscope::Engine;
use support::{Recording, burn, child, runs_with, take_turn};

/// Frames of 16 KiB: a signal seldom comes just where there is no room for it.
#[inline(never)]
#[allow(unconditional_recursion, reason = "that is the point")]
fn descend(depth: u64) -> u64 {
    let room = std::hint::black_box([depth; 2048]);
    descend(depth + 1) + room[depth as usize % room.len()]
}

fn check(test: &str, engine: Engine, expected: &str) {
    if child::part().is_some() {
        let profiler = Recording::default().builder().engine(engine).hertz(5000).start();
        let _profiler = profiler.expect("a profiler");
        let thread = std::thread::Builder::new().name("deep".into());
        let thread = thread.spawn(|| {
            burn(Duration::from_millis(20));
            descend(0)
        });
        let _ = thread.expect("a thread").join();
        unreachable!("the stack has no end");
    }
    let _turn = take_turn();
    let profiler = Recording::default().builder().engine(engine).start().expect("a profiler");
    if !runs_with(&profiler.stats(), expected) {
        return;
    }
    drop(profiler);
    for _ in 0..5 {
        let (output, text) = child::run(&mut child::command(test, "overflow"));
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{text}");
        assert!(text.contains("has overflowed its stack"), "{text}");
    }
}

#[test]
fn its_message_is_printed_with_perf() {
    check("its_message_is_printed_with_perf", Engine::Perf, "perf");
}

#[test]
fn its_message_is_printed_with_timers() {
    check("its_message_is_printed_with_timers", Engine::Timer, "timer");
}

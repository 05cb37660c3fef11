//! Stacks are complete, and their leaves are where the work is, where unwinding is hardest: in the
//! allocator, in copies of memory, in formatting.
//!
//! `.ci/run` looks at the same figure of optimized and stripped binaries.
#![cfg(target_os = "linux")]

mod support;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pollscope::Engine;
use support::{Recording, runs_with, take_turn};

const RUN: Duration = Duration::from_secs(2);

#[inline(never)]
fn work_allocate(end: Instant) {
    let mut sizes = 1usize;
    while Instant::now() < end {
        let mut kept = Vec::new();
        for _ in 0..200 {
            sizes = (sizes * 75 + 74) % 65_537;
            let mut bytes = Vec::<u8>::with_capacity(sizes % 4096 + 1);
            bytes.resize(sizes % 8192 + 1, 1);
            if sizes.is_multiple_of(3) {
                kept.push(bytes);
            } else {
                bytes.reserve_exact(sizes * 4);
                bytes.shrink_to(16);
            }
        }
        // Larger than what the allocator keeps: mapped and unmapped.
        drop(std::hint::black_box(vec![1u8; 1 << 20]));
        std::hint::black_box(&kept);
    }
}

#[inline(never)]
fn work_format(end: Instant) {
    let mut table = HashMap::new();
    while Instant::now() < end {
        for n in 0..300u64 {
            let key = format!("{n:08x}-{:.3}-{:?}", n as f64 / 7.0, Some("x"));
            table.entry(key).or_insert_with(String::new).push_str(&n.to_string());
        }
        if table.values().map(String::len).sum::<usize>() > 100_000 {
            table = HashMap::new();
        }
        let mut sorted: Vec<_> = table.keys().collect();
        sorted.sort_unstable();
        std::hint::black_box(sorted);
    }
}

fn check(engine: Engine, expected: &str) {
    let _turn = take_turn();
    let recording = Recording::default();
    let profiler =
        recording.builder().engine(engine).hertz(2000).raw_stacks(true).start().expect("a profiler");
    if !runs_with(&profiler.stats(), expected) {
        return;
    }
    let end = Instant::now() + RUN;
    std::thread::scope(|scope| {
        scope.spawn(|| work_allocate(end));
        scope.spawn(|| work_format(end));
    });
    let stats = profiler.stop();
    println!("{stats}");

    // The samples of the two, and those in which they were not reached from the thread's entry.
    let (mut samples, mut torn) = (0, 0);
    recording.for_each_sample(|profile, sample| {
        let frames: Vec<_> = profile.frames(sample).collect();
        let Some(at) = frames.iter().position(|f| f.ends_with("work_allocate") || f.ends_with("work_format"))
        else {
            return;
        };
        samples += sample.count;
        if !frames[..at].iter().any(|frame| frame.contains("start_thread") || frame.contains("thread_start"))
        {
            torn += sample.count;
            println!("{} × {frames:#?}", sample.count);
        }
    });
    assert!(stats.incomplete * 1000 <= stats.samples, "{} of {} incomplete", stats.incomplete, stats.samples);
    let stripped = recording.profiles().iter().all(|profile| !profile.mappings[0].has_functions);
    if stripped {
        println!("the names are stripped off this program: only what says that it is incomplete counts");
        return;
    }
    assert!(samples > 100, "{samples} samples");
    assert!(torn * 1000 <= samples, "{torn} of {samples} samples do not come from the thread's entry");
}

#[test]
fn stacks_reach_the_entry_of_the_thread_with_perf() {
    check(Engine::Perf, "perf");
}

#[test]
fn stacks_reach_the_entry_of_the_thread_with_timers() {
    check(Engine::Timer, "timer");
}

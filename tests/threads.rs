//! Threads that come and go all the time, with spans and without, while sampling at 5 kHz.
#![cfg(target_os = "linux")]

mod support;

use std::time::Duration;

use pollscope::{Engine, Profile};
use support::{Recording, burn, runs_with, take_turn};
use tracing::info_span;
use tracing_subscriber::prelude::*;

const THREADS: u32 = 3000;

#[inline(never)]
fn work_inside(time: Duration) {
    burn(time);
    std::hint::black_box(1);
}

#[inline(never)]
fn work_outside(time: Duration) {
    burn(time);
    std::hint::black_box(2);
}

/// One short life, in a span, or after one, or knowing of none. Some are long enough for a timer.
fn live(n: u32) {
    let time = Duration::from_micros(if n.is_multiple_of(10) { 8000 } else { 300 });
    match n % 6 {
        0 => info_span!("inside").in_scope(|| work_inside(time)),
        1 => {
            // It ends within its span.
            std::mem::forget(info_span!("inside").entered());
            work_inside(time);
        }
        2 => {
            info_span!("past").in_scope(|| std::hint::black_box(1));
            work_outside(time);
        }
        _ => work_outside(time),
    }
}

fn check(engine: Engine, expected: &str) {
    let _turn = take_turn();
    let recording = Recording::default();
    let profiler = recording.builder().engine(engine).hertz(5000).start().expect("a profiler");
    if !runs_with(&profiler.stats(), expected) {
        return;
    }
    let subscriber = tracing_subscriber::registry().with(profiler.layer());
    let dispatch = tracing::Dispatch::new(subscriber);
    std::thread::scope(|scope| {
        // Two at a time, so that a slot is given back here while another is taken there.
        for half in 0..2 {
            let dispatch = &dispatch;
            scope.spawn(move || {
                for n in (half..THREADS).step_by(2) {
                    let dispatch = dispatch.clone();
                    let life = move || tracing::dispatcher::with_default(&dispatch, || live(n / 2));
                    std::thread::spawn(life).join().expect("no panic");
                }
            });
        }
        // One that stays, to be confused with none of them.
        tracing::dispatcher::with_default(&dispatch, || {
            info_span!("stays").in_scope(|| burn(Duration::from_millis(500)))
        });
    });
    let stats = profiler.stop();
    println!("{stats}");

    let (mut inside, mut outside) = (0, 0);
    recording.for_each_sample(|profile, sample| {
        let name = sample.span.as_ref().map(|span| &*span.name);
        for frame in profile.frames(sample) {
            if frame.ends_with("work_inside") {
                assert_eq!(name, Some("inside"));
                inside += sample.count;
            } else if frame.ends_with("work_outside") {
                assert_eq!(name, None);
                outside += sample.count;
            }
        }
    });
    assert!(inside > 0 && outside > 0, "{inside} samples inside, {outside} outside");
    let weight: u64 = recording.profiles().iter().map(Profile::total_weight).sum();
    let ratio = weight as f64 / stats.cpu.as_nanos() as f64;
    assert!((0.98..1.02).contains(&ratio), "weight ÷ CPU {ratio}");
}

#[test]
fn short_threads_are_sampled_as_what_they_are_with_perf() {
    check(Engine::Perf, "perf");
}

#[test]
fn short_threads_are_sampled_as_what_they_are_with_timers() {
    check(Engine::Timer, "timer");
}

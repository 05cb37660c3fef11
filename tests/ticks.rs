//! Work that sleeps through every one of the scheduler's ticks: perf sees it. Timers do not, and must not
//! give its time to what the thread does next.
#![cfg(target_os = "linux")]

mod support;

use std::time::Duration;

use pollscope::Engine;
use support::{Recording, burn, burn_cpu, runs_with, take_turn, thread_cpu};

/// From how many ticks work is hidden at a time.
const TICKS: u32 = 50;

/// Nanoseconds from one of the scheduler's ticks to the next.
fn tick_ns() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &mut time) };
    time.tv_nsec
}

fn now_ns() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Works for half of the time from one tick to the next, again and again, beginning at this many eighths
/// of it. Some of the eight beginnings have the thread asleep at each tick of its processor.
#[inline(never)]
fn work_hidden(eighths: i64) {
    let tick_ns = tick_ns();
    for _ in 0..TICKS {
        let wake_ns = (now_ns() / tick_ns + 1) * tick_ns + tick_ns * eighths / 8;
        let wake = libc::timespec { tv_sec: wake_ns / 1_000_000_000, tv_nsec: wake_ns % 1_000_000_000 };
        // SAFETY: the time is valid, and nobody asks how much of the sleep was left.
        unsafe {
            libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &wake, std::ptr::null_mut());
        }
        burn(Duration::from_nanos(tick_ns as u64 / 2));
    }
    std::hint::black_box(1);
}

#[inline(never)]
fn work_seen(time: Duration) {
    burn_cpu(time);
    std::hint::black_box(2);
}

/// The samples' weight and the thread's CPU time, in nanoseconds, of the hidden work and the other.
struct Books {
    hidden_ns: (u64, u64),
    seen_ns: (u64, u64),
}

fn keep(engine: Engine, expected: &str) -> Option<Books> {
    let _turn = take_turn();
    let recording = Recording::default();
    let profiler = recording.builder().engine(engine).start().expect("a profiler");
    if !runs_with(&profiler.stats(), expected) {
        return None;
    }
    let (hidden_cpu, seen_cpu) = std::thread::spawn(|| {
        // Until the thread is found and sampled.
        work_seen(Duration::from_millis(500));
        let (mut hidden, mut seen) = (Duration::ZERO, Duration::from_millis(500));
        for eighths in 0..8 {
            let start = thread_cpu();
            work_hidden(eighths);
            hidden += thread_cpu() - start;
            work_seen(Duration::from_millis(50));
            seen += Duration::from_millis(50);
        }
        (hidden, seen)
    })
    .join()
    .expect("no panic");
    println!("{}", profiler.stop());
    let mut books =
        Books { hidden_ns: (0, hidden_cpu.as_nanos() as u64), seen_ns: (0, seen_cpu.as_nanos() as u64) };
    recording.for_each_sample(|profile, sample| {
        for frame in profile.frames(sample) {
            if frame.ends_with("work_hidden") {
                books.hidden_ns.0 += sample.weight;
            } else if frame.ends_with("work_seen") {
                books.seen_ns.0 += sample.weight;
            }
        }
    });
    for (name, (weight, cpu)) in [("hidden", books.hidden_ns), ("seen", books.seen_ns)] {
        println!("{expected}: {name}: {} ms sampled of {} ms", weight / 1_000_000, cpu / 1_000_000);
    }
    Some(books)
}

/// What chance may add: periods at the ends of stretches, and for timers a few ticks more.
const SLACK_NS: u64 = 100_000_000;

#[test]
fn perf_sees_work_between_the_ticks() {
    let Some(books) = keep(Engine::Perf, "perf") else { return };
    let (weight, cpu) = books.hidden_ns;
    assert!(weight.abs_diff(cpu) < SLACK_NS, "{weight} of {cpu}");
}

#[test]
fn what_timers_missed_is_not_given_to_what_comes_next() {
    let Some(books) = keep(Engine::Timer, "timer") else { return };
    let (weight, cpu) = books.seen_ns;
    // Of the first stretch, what came before the thread was found is in no sample.
    assert!((cpu / 4..cpu + SLACK_NS).contains(&weight), "{weight} of {cpu}");
}

//! errno is the interrupted thread's own: sampling at 5 kHz never changes it.
#![cfg(target_os = "linux")]

mod support;

use std::io::Error;
use std::time::{Duration, Instant};

use pollscope::Engine;
use support::{Recording, runs_with, take_turn};

const RUN: Duration = Duration::from_secs(1);

/// Where this thread keeps it.
fn errno() -> *mut i32 {
    // SAFETY: an address of this thread, good as long as it lives.
    unsafe { libc::__errno_location() }
}

/// Values that nothing but this test sets, each looked at for a while.
fn keep_odd_values(end: Instant) {
    let mut odd = 40_000;
    while Instant::now() < end {
        odd += 1;
        // SAFETY: this thread's own errno; volatile, since a signal may come between any two reads.
        unsafe {
            errno().write_volatile(odd);
            for _ in 0..10_000 {
                assert_eq!(errno().read_volatile(), odd);
            }
        }
    }
}

/// System calls that fail, each for a reason of its own.
fn fail_in_turn(end: Instant) {
    while Instant::now() < end {
        for _ in 0..100 {
            // SAFETY: none of these calls touches memory of ours, and each one fails.
            unsafe {
                fails(libc::close(-1), libc::EBADF);
                fails(libc::access(c"/not/there".as_ptr(), libc::F_OK), libc::ENOENT);
                fails(libc::kill(0, 1000), libc::EINVAL);
                fails(libc::chdir(c"/proc/self/stat".as_ptr()), libc::ENOTDIR);
            }
        }
    }
}

fn fails(result: i32, why: i32) {
    assert_eq!((result, Error::last_os_error().raw_os_error()), (-1, Some(why)));
}

fn check(engine: Engine, expected: &str) {
    let _turn = take_turn();
    let profiler = Recording::default().builder().engine(engine).hertz(5000).start().expect("a profiler");
    if !runs_with(&profiler.stats(), expected) {
        return;
    }
    let end = Instant::now() + RUN;
    std::thread::scope(|scope| {
        scope.spawn(|| keep_odd_values(end));
        scope.spawn(|| fail_in_turn(end));
    });
    let stats = profiler.stop();
    assert!(stats.signals > 100, "{stats}");
}

#[test]
fn errno_stays_with_perf() {
    check(Engine::Perf, "perf");
}

#[test]
fn errno_stays_with_timers() {
    check(Engine::Timer, "timer");
}

//! The weights add up to the CPU time that the process's own clock shows.
#![cfg(target_os = "linux")]

mod support;

use std::io::Read;
use std::time::{Duration, Instant};

use pollscope::{Engine, ProfileKind};
use support::{Recording, burn, runs_with, take_turn};

const RUN: Duration = Duration::from_secs(3);

/// What the samples say, and what the clock says.
struct Books {
    weight_ns: u64,
    unsampled_ns: u64,
    cpu_ns: u64,
}

impl Books {
    fn ratio(&self) -> f64 {
        self.weight_ns as f64 / self.cpu_ns as f64
    }

    fn unsampled_share(&self) -> f64 {
        self.unsampled_ns as f64 / self.cpu_ns as f64
    }
}

fn process_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Runs `work` under a profiler with this engine; `None` where it cannot run.
fn keep(engine: Engine, expected: &str, hertz: u32, work: impl Fn(Instant)) -> Option<Books> {
    let recording = Recording::default();
    let profiler = recording.builder().engine(engine).hertz(hertz).start().expect("a profiler");
    if !runs_with(&profiler.stats(), expected) {
        return None;
    }
    let before = process_cpu_ns();
    work(Instant::now() + RUN);
    let cpu_ns = process_cpu_ns() - before;
    let stats = profiler.stop();
    let mut books = Books { weight_ns: 0, unsampled_ns: stats.unsampled.as_nanos() as u64, cpu_ns };
    for profile in recording.profiles().iter().filter(|p| p.kind == ProfileKind::ProcessCpu) {
        books.weight_ns += profile.total_weight();
    }
    println!(
        "{expected}: weight ÷ CPU {:.4}, {:.2} % unsampled\n{stats}",
        books.ratio(),
        books.unsampled_share() * 100.0
    );
    Some(books)
}

fn on_two_threads(work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(&work);
        }
    });
}

fn calculate(end: Instant) {
    on_two_threads(|| {
        while Instant::now() < end {
            burn(Duration::from_millis(1));
        }
    });
}

/// Nearly all of the time is the kernel's.
fn call_the_system(end: Instant) {
    on_two_threads(|| {
        let mut zero = std::fs::File::open("/dev/zero").expect("/dev/zero");
        let mut buffer = vec![0; 1 << 16];
        while Instant::now() < end {
            for _ in 0..100 {
                zero.read_exact(&mut buffer).expect("zeros");
            }
        }
    });
}

/// Threads that are gone before the task list is read, as often as not.
fn many_short_threads(end: Instant) {
    while Instant::now() < end {
        on_two_threads(|| burn(Duration::from_millis(20)));
    }
}

fn check(engine: Engine, expected: &str) {
    let _turn = take_turn();
    for (name, work) in [("calculating", calculate as fn(Instant)), ("system calls", call_the_system)] {
        println!("{name}");
        let Some(books) = keep(engine, expected, 200, work) else { return };
        assert!((0.98..1.02).contains(&books.ratio()), "{name}: {}", books.ratio());
        assert!(books.unsampled_share() < 0.03, "{name}: {}", books.unsampled_share());
    }
    println!("short threads");
    let Some(books) = keep(engine, expected, 100, many_short_threads) else { return };
    assert!((0.98..1.02).contains(&books.ratio()), "short threads: {}", books.ratio());
    assert!(books.unsampled_share() > 0.0, "some of them were never seen");
}

#[test]
fn weights_add_up_with_perf() {
    check(Engine::Perf, "perf");
}

#[test]
fn weights_add_up_with_timers() {
    check(Engine::Timer, "timer");
}

#[test]
fn what_perf_may_not_see_is_unsampled() {
    let _turn = take_turn();
    // Only an ordinary user on a careful kernel gets this engine.
    let Some(books) = keep(Engine::Perf, "perf (user mode)", 200, call_the_system) else { return };
    assert!((0.98..1.02).contains(&books.ratio()), "{}", books.ratio());
    assert!(books.unsampled_share() > 0.5, "system calls are not seen: {}", books.unsampled_share());
}

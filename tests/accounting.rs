//! The weights add up to the CPU time that the process's own clock shows.
#![cfg(target_os = "linux")]

mod support;

use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use pollscope::{Engine, Profile};
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

/// Runs each of `work` on a thread of its own under a profiler with this engine, until the time it is
/// given; `None` where the engine cannot run. The threads exist before the profiler starts.
fn keep(engine: Engine, expected: &str, hertz: u32, work: &[fn(Instant)]) -> Option<Books> {
    let recording = Recording::default();
    let ready = Barrier::new(work.len() + 1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = work
            .iter()
            .map(|work| {
                let ready = &ready;
                scope.spawn(move || {
                    ready.wait();
                    work(Instant::now() + RUN);
                })
            })
            .collect();
        let profiler = recording.builder().engine(engine).hertz(hertz).start().expect("a profiler");
        let runs = runs_with(&profiler.stats(), expected);
        let before = process_cpu_ns();
        ready.wait();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        let cpu_ns = process_cpu_ns() - before;
        let stats = profiler.stop();
        let weight_ns = recording.profiles().iter().map(Profile::total_weight).sum();
        let books = Books { weight_ns, unsampled_ns: stats.unsampled.as_nanos() as u64, cpu_ns };
        let (ratio, unsampled) = (books.ratio(), books.unsampled_share() * 100.0);
        println!("{expected}: weight ÷ CPU {ratio:.4}, {unsampled:.2} % unsampled\n{stats}");
        runs.then_some(books)
    })
}

fn calculate(end: Instant) {
    while Instant::now() < end {
        burn(Duration::from_millis(1));
    }
}

/// Nearly all of the time is the kernel's.
fn call_the_system(end: Instant) {
    let mut zero = std::fs::File::open("/dev/zero").expect("/dev/zero");
    let mut buffer = vec![0; 1 << 16];
    while Instant::now() < end {
        for _ in 0..100 {
            zero.read_exact(&mut buffer).expect("zeros");
        }
    }
}

/// Threads that are gone before the task list is read, as often as not.
fn start_short_threads(end: Instant) {
    while Instant::now() < end {
        std::thread::spawn(|| burn(Duration::from_millis(20))).join().expect("no panic");
    }
}

/// One system call of several periods, which signals do not interrupt: reads a file that is one hole,
/// into the same buffer over and over.
fn make_a_long_call(_end: Instant) {
    let name = c"hole";
    // SAFETY: a new descriptor, which the file owns.
    let file = unsafe { std::fs::File::from_raw_fd(libc::memfd_create(name.as_ptr(), 0)) };
    let mut buffer = vec![0; 1 << 20];
    let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let parts = vec![part; 1024];
    file.set_len((buffer.len() * parts.len()) as u64).expect("a large file");
    // SAFETY: the kernel writes into the buffer, which nobody looks at meanwhile.
    let bytes = unsafe { libc::readv(file.as_raw_fd(), parts.as_ptr(), parts.len() as i32) };
    assert_eq!(bytes as usize, buffer.len() * parts.len());
}

fn check(engine: Engine, expected: &str) {
    let _turn = take_turn();
    for (name, work) in [("calculating", calculate as fn(Instant)), ("system calls", call_the_system)] {
        println!("{name}");
        let Some(books) = keep(engine, expected, 200, &[work, work]) else { return };
        assert!((0.98..1.02).contains(&books.ratio()), "{name}: {}", books.ratio());
        assert!(books.unsampled_share() < 0.03, "{name}: {}", books.unsampled_share());
    }
    // Where a thread ends within a period is chance, up to half a period each (standard deviation), so
    // the many threads below get short periods: 2 % is then several times what chance can do.
    println!("threads in a long call at their first tick");
    let Some(books) = keep(engine, expected, 200, &[make_a_long_call as fn(Instant); 64]) else { return };
    assert!((0.98..1.02).contains(&books.ratio()), "long calls: {}", books.ratio());
    println!("short threads");
    let Some(books) = keep(engine, expected, 500, &[start_short_threads, start_short_threads]) else {
        return;
    };
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
    let Some(books) = keep(Engine::Perf, "perf (user mode)", 200, &[call_the_system, call_the_system]) else {
        return;
    };
    assert!((0.98..1.02).contains(&books.ratio()), "{}", books.ratio());
    assert!(books.unsampled_share() > 0.5, "system calls are not seen: {}", books.unsampled_share());
}

//! What each engine adds to a context switch: `cargo bench --bench switch`.
//!
//! Two threads on one processor wake each other through pipes, so that each round is two switches and
//! four system calls. CPU is the process's own clock's, which has in it what the kernel does for perf
//! events and timers when a thread comes and goes. Each line is the median of measurements
//! taken in turn; the second `none` is the control.
//!
//! Options, after `--`: `--hz N` (100), `--turns N` (15).

use std::error::Error;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::time::Duration;
use std::{env, io, mem, thread};

use pollscope::{Engine, Profiler};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const SWITCHES: u32 = 100_000;

fn main() -> Result<()> {
    let (mut hertz, mut turns) = (100, 15);
    let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        let mut value = || {
            Ok::<u32, Box<dyn Error + Send + Sync>>(arguments.next().ok_or("a number is missing")?.parse()?)
        };
        match &*name {
            "--hz" => hertz = value()?,
            "--turns" => turns = value()?,
            _ => return Err(format!("{name} is not an option: --hz N, --turns N").into()),
        }
    }
    let mut rows =
        [Engine::Off, Engine::Perf, Engine::Timer, Engine::Off].map(|engine| (engine, "", Vec::new()));
    for _ in 0..turns {
        for (engine, name, took_ns) in &mut rows {
            let profiler =
                Profiler::builder("bench").environment(None).engine(*engine).hertz(hertz).start()?;
            took_ns.push(ping_pong()?);
            // What runs, which is not perf where the kernel refuses it.
            *name = profiler.stop().engine;
        }
    }
    println!("CPU of a context switch and the two system calls around it, at {hertz} Hz, median of {turns}");
    let mut off = None;
    for (_, name, mut took_ns) in rows {
        took_ns.sort_by(f64::total_cmp);
        let median = took_ns[took_ns.len() / 2];
        let added = median - *off.get_or_insert(median);
        println!("{name:<12}{median:>8.0} ns  {added:+.0} ns");
    }
    Ok(())
}

/// The process's CPU time for each switch between two threads.
fn ping_pong() -> Result<f64> {
    let (here, there) = (io::pipe()?, io::pipe()?);
    let turn = |mut from: PipeReader, mut to: PipeWriter| -> Result<PipeReader> {
        pin()?;
        // Time for the profiler to find this thread.
        thread::sleep(Duration::from_millis(300));
        let mut byte = [0];
        for _ in 0..SWITCHES / 2 {
            from.read_exact(&mut byte)?;
            to.write_all(&byte)?;
        }
        // Kept open for the other's last word.
        Ok(from)
    };
    let mut first = here.1.try_clone()?;
    let one = thread::spawn(move || turn(here.0, there.1));
    let other = thread::spawn(move || turn(there.0, here.1));
    thread::sleep(Duration::from_millis(600));
    let before_ns = process_cpu_ns();
    first.write_all(&[0])?;
    let [one, other] = [one, other].map(thread::JoinHandle::join);
    one.map_err(|_| "a thread panicked")??;
    other.map_err(|_| "a thread panicked")??;
    Ok((process_cpu_ns() - before_ns) as f64 / f64::from(SWITCHES))
}

/// Keeps the calling thread on the first processor.
fn pin() -> io::Result<()> {
    // SAFETY: a zeroed set is an empty one; both calls are given its size.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(0, &mut set);
        match libc::sched_setaffinity(0, mem::size_of_val(&set), &set) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn process_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

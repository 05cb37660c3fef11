//! Fork, exec and spawn while sampling at 5 kHz: none of it ends, hangs or confuses any process.
#![cfg(target_os = "linux")]

mod support;

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use pollscope::{Engine, Profiler, Signal};
use support::{Recording, burn, child, runs_with, take_turn};
use tracing::info_span;
use tracing_subscriber::prelude::*;

fn start(recording: &Recording, engine: Engine, expected: &str) -> Option<Profiler> {
    let profiler = recording.builder().engine(engine).hertz(5000).start().expect("a profiler");
    runs_with(&profiler.stats(), expected).then_some(profiler)
}

/// What a fork does of its own: spans, statistics, and the end of the profiler that it has no part of.
fn live_as_a_fork(profiler: Profiler) -> Result<(), &'static str> {
    for _ in 0..100 {
        info_span!("fork").in_scope(|| burn(Duration::from_micros(20)));
    }
    let stats = profiler.stats();
    if stats.engine != "none" || !stats.reason.contains("fork") {
        return Err("the fork says that it is sampled");
    }
    profiler.pause();
    if profiler.set_hertz(100).is_err() {
        return Err("a rate that goes was refused");
    }
    if !Profiler::builder("fork").start().is_err_and(|error| error.to_string().contains("after the fork")) {
        return Err("a second profiler was started");
    }
    drop(profiler);
    Ok(())
}

fn forks(engine: Engine, expected: &str) {
    let _turn = take_turn();
    let recording = Recording::default();
    let Some(running) = start(&recording, engine, expected) else { return };
    let subscriber = tracing_subscriber::registry().with(running.layer());
    let mut profiler = Some(running);
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..20 {
            let _span = info_span!("parent").entered();
            burn(Duration::from_millis(2));
            // SAFETY: the child runs what a program might that forks with one thread in its hands, and
            // ends without running anything of its parent's.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                let lived = profiler.take().map(live_as_a_fork);
                let code = i32::from(lived != Some(Ok(())));
                // SAFETY: ends the process, and nothing else.
                unsafe { libc::_exit(code) };
            }
            assert_eq!(wait_for(pid), 0, "a fork ended otherwise, or not in ten seconds");
        }
    });
    let stats = profiler.expect("this is the parent").stop();
    assert!(stats.engine == expected && stats.samples > 0, "{stats}");
    recording.for_each_sample(|_, sample| {
        assert!(sample.span.as_ref().is_none_or(|span| &*span.name == "parent"), "a fork's span");
    });
}

/// The child's wait status; it is killed when it does not end.
fn wait_for(pid: i32) -> i32 {
    let end = Instant::now() + Duration::from_secs(10);
    let mut status = -1;
    // SAFETY: writes the status of our own child.
    while unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } == 0 {
        if Instant::now() > end {
            // SAFETY: our own child, not waited for yet.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        std::thread::yield_now();
    }
    status
}

fn spawns(engine: Engine, expected: &str) {
    let _turn = take_turn();
    let recording = Recording::default();
    let Some(profiler) = start(&recording, engine, expected) else { return };
    for n in 0..40 {
        burn(Duration::from_millis(1));
        let mut command = Command::new("true");
        if n % 2 == 0 {
            // SAFETY: does nothing; having it makes the standard library fork instead of spawn.
            unsafe { command.pre_exec(|| Ok(())) };
        }
        let status = command.status().expect("a process");
        assert!(status.success(), "{status}");
    }
    drop(profiler);
}

/// In a child: replaces the sampled process by another program.
fn exec(test: &str, engine: Engine, expected: &str) {
    if child::part().is_some() {
        let profiler = start(&Recording::default(), engine, expected).expect("it runs in the parent");
        burn(Duration::from_micros(u64::from(std::process::id() % 1000)));
        let error = Command::new("true").exec();
        drop(profiler);
        panic!("no exec: {error}");
    }
    let _turn = take_turn();
    let Some(profiler) = start(&Recording::default(), engine, expected) else { return };
    drop(profiler);
    for _ in 0..12 {
        let (output, text) = child::run(&mut child::command(test, "exec"));
        assert!(output.status.success(), "{}: {text}", output.status);
    }
}

#[test]
fn forks_with_perf() {
    forks(Engine::Perf, "perf");
}

#[test]
fn forks_with_timers() {
    forks(Engine::Timer, "timer");
}

#[test]
fn spawns_with_perf() {
    spawns(Engine::Perf, "perf");
}

#[test]
fn spawns_with_timers() {
    spawns(Engine::Timer, "timer");
}

#[test]
fn exec_with_perf() {
    exec("exec_with_perf", Engine::Perf, "perf");
}

#[test]
fn exec_with_timers() {
    exec("exec_with_timers", Engine::Timer, "timer");
}

/// Where another signal than SIGURG must do, the profiler is stopped before.
#[test]
fn exec_after_stop_with_sigprof() {
    if child::part().is_some() {
        let profiler = Recording::default().builder().signal(Signal::Prof).hertz(5000).start();
        burn(Duration::from_millis(1));
        profiler.expect("a profiler").stop();
        panic!("no exec: {}", Command::new("true").exec());
    }
    for _ in 0..5 {
        let (output, text) = child::run(&mut child::command("exec_after_stop_with_sigprof", "exec"));
        assert!(output.status.success(), "{}: {text}", output.status);
    }
}

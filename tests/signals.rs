//! The signal is ours or it is not taken.
#![cfg(target_os = "linux")]

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pollscope::{Engine, ErrorKind, Signal};
use support::{Recording, burn, child, take_turn};

/// What somebody else's handler saw.
static SEEN: AtomicU32 = AtomicU32::new(0);

extern "C" fn somebody_else(_signal: libc::c_int) {
    SEEN.fetch_add(1, Ordering::Relaxed);
}

/// Installs a handler that is not the profiler's, or the default action; what was there before.
fn handle(signal: i32, handler: libc::sighandler_t) -> libc::sighandler_t {
    // SAFETY: the handler is async-signal-safe: it adds one to a number.
    unsafe {
        let (mut action, mut before): (libc::sigaction, libc::sigaction) = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(signal, &action, &mut before), 0);
        before.sa_sigaction
    }
}

const FOREIGN: fn() -> libc::sighandler_t = || somebody_else as *const () as usize;

fn raise(signal: i32) {
    // SAFETY: sends it to this thread.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

#[test]
fn a_signal_that_somebody_handles_is_left_alone() {
    let _turn = take_turn();
    for (signal, number) in [(Signal::Prof, libc::SIGPROF), (Signal::Realtime(3), libc::SIGRTMIN() + 3)] {
        let before = handle(number, FOREIGN());
        let recording = Recording::default();
        let error = recording.builder().signal(signal).start().expect_err("the signal is taken");
        assert_eq!(error.kind(), ErrorKind::InUse);
        assert!(error.to_string().contains(".signal("), "{error}");
        assert_eq!(handle(number, before), FOREIGN(), "it is still theirs");
    }
}

#[test]
fn with_another_signal_both_get_their_own() {
    let _turn = take_turn();
    let before = handle(libc::SIGPROF, FOREIGN());
    for signal in [Signal::Urg, Signal::Realtime(0)] {
        let recording = Recording::default();
        let profiler = recording.builder().signal(signal).engine(Engine::Timer).hertz(1000).start();
        let profiler = profiler.expect("a profiler");
        let seen = SEEN.load(Ordering::Relaxed);
        for _ in 0..100 {
            raise(libc::SIGPROF);
            burn(Duration::from_millis(2));
        }
        let stats = profiler.stop();
        assert_eq!(SEEN.load(Ordering::Relaxed) - seen, 100);
        assert!(stats.samples > 0 && stats.stray_signals == 0, "{stats}");
    }
    handle(libc::SIGPROF, before);
}

#[test]
fn a_signal_of_ours_that_somebody_sends_is_counted_and_nothing_else() {
    let _turn = take_turn();
    let profiler = Recording::default().builder().start().expect("a profiler");
    for _ in 0..100 {
        raise(libc::SIGURG);
    }
    assert_eq!(profiler.stop().stray_signals, 100);
}

#[test]
fn a_handler_that_is_installed_later_stops_sampling_and_is_said_once() {
    const TEST: &str = "a_handler_that_is_installed_later_stops_sampling_and_is_said_once";
    if child::part().is_some() {
        let profiler = Recording::default().builder().start().expect("a profiler");
        handle(libc::SIGURG, FOREIGN());
        let end = Instant::now() + Duration::from_secs(20);
        while !profiler.stats().reason.contains("got another handler") {
            assert!(Instant::now() < end, "{}", profiler.stats());
            burn(Duration::from_millis(10));
        }
        // It is theirs now, and theirs alone.
        let seen = SEEN.load(Ordering::Relaxed);
        burn(Duration::from_millis(200));
        assert_eq!(SEEN.load(Ordering::Relaxed), seen);
        profiler.stop();
        println!("the program went on");
        return;
    }
    let (output, text) = child::run(&mut child::command(TEST, "takeover"));
    assert!(output.status.success() && text.contains("the program went on"), "{text}");
    let said = text.lines().filter(|line| line.starts_with("pollscope: sampling stopped: signal "));
    assert_eq!(said.count(), 1, "{text}");
}

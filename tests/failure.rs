//! What the kernel or the disk refuses does not stop the program: each refusal is said once on
//! stderr, with the obstacle's name, and shows in the statistics.
//!
//! Each is met by a child, for which it is arranged.
#![cfg(target_os = "linux")]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pollscope::{Engine, File, Profiler};
use support::{Recording, burn, child};
use tracing::info_span;
use tracing_subscriber::prelude::*;

#[inline(never)]
fn work_on(time: Duration) {
    burn(time);
    std::hint::black_box(1);
}

/// The program: some threads in spans, sampled. It prints how it went.
fn program(builder: pollscope::Builder, recording: &Recording, threads: usize, time: Duration) {
    let profiler = builder.hertz(1000).stop_within(Duration::from_secs(60)).start().expect("a profiler");
    let dispatch = tracing::Dispatch::new(tracing_subscriber::registry().with(profiler.layer()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                tracing::dispatcher::with_default(&dispatch, || info_span!("on").in_scope(|| work_on(time)))
            });
        }
    });
    let stats = profiler.stop();
    println!("{stats}");
    let (mut right, mut wrong) = (0, 0);
    recording.for_each_sample(|profile, sample| {
        if profile.frames(sample).any(|frame| frame.ends_with("work_on")) {
            match sample.span.as_ref().is_some_and(|span| &*span.name == "on") {
                true => right += sample.count,
                false => wrong += sample.count,
            }
        }
    });
    println!("{right} right, {wrong} wrong; the program went on");
}

/// Runs the child, and expects it to have gone on and to have said these things once each.
fn meet(mut command: Command, said: &[&str]) -> String {
    let (output, text) = child::run(&mut command);
    println!("{text}");
    assert!(output.status.success() && text.contains("the program went on"), "{}", output.status);
    assert!(!text.contains("(0 right") && text.contains(", 0 wrong"));
    for words in said {
        let lines = text.lines().filter(|line| line.starts_with("pollscope: ") && line.contains(words));
        assert_eq!(lines.count(), 1, "{words} is said once");
    }
    text
}

/// The part of a child that has nothing of its own to arrange; false in the parent.
fn plays_a_part(threads: usize, engine: Engine) -> bool {
    if child::part().is_none() {
        return false;
    }
    let recording = Recording::default();
    program(recording.builder().engine(engine), &recording, threads, Duration::from_millis(60));
    true
}

#[test]
fn perf_refused_to_an_ordinary_user() {
    if plays_a_part(2, Engine::Auto) {
        return;
    }
    let Some(command) = child::command_as_nobody("perf_refused_to_an_ordinary_user", "user") else { return };
    let text = child::run(&mut { command }).1;
    if text.contains("engine perf at") {
        println!("skipped: this kernel lets ordinary users sample everything");
        return;
    }
    let command = child::command_as_nobody("perf_refused_to_an_ordinary_user", "user").expect("as before");
    let level = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").expect("a level");
    let reason = format!(
        "perf_event_open refused (EACCES): kernel.perf_event_paranoid is {}; using CPU timers",
        level.trim()
    );
    let text = meet(command, &[&reason]);
    assert!(text.contains(&format!("engine timer at 1000 Hz ({reason})")));
}

#[test]
fn few_descriptors() {
    if plays_a_part(80, Engine::Auto) {
        return;
    }
    let mut command = child::command("few_descriptors", "few");
    child::limit(&mut command, libc::RLIMIT_NOFILE, 64);
    let text = child::run(&mut command).1;
    if !text.contains("engine perf at") {
        println!("skipped: no perf events here, so nothing needs descriptors");
        return;
    }
    let reason = "perf_event_open refused (EMFILE): no file descriptors left (ulimit -n); \
                  using CPU timers for some threads";
    let mut command = child::command("few_descriptors", "few");
    child::limit(&mut command, libc::RLIMIT_NOFILE, 64);
    let text = meet(command, &[reason]);
    assert!(text.contains(&format!("; {reason})")), "it is in the statistics");
}

#[test]
fn little_memory_to_lock() {
    if plays_a_part(40, Engine::Auto) {
        return;
    }
    let Some(mut command) = child::command_as_nobody("little_memory_to_lock", "little") else { return };
    child::limit(&mut command, libc::RLIMIT_MEMLOCK, 64 << 10);
    meet(command, &[]);
}

#[test]
fn no_timers_left() {
    if plays_a_part(2, Engine::Timer) {
        return;
    }
    let Some(mut command) = child::command_as_nobody("no_timers_left", "none") else { return };
    child::limit(&mut command, libc::RLIMIT_SIGPENDING, 0);
    let (output, text) = child::run(&mut command);
    println!("{text}");
    assert!(output.status.success() && text.contains("the program went on"));
    let reason = "timer_create refused (EAGAIN): no timers left, each takes a pending signal (ulimit -i); \
                  some threads are not sampled";
    assert_eq!(text.matches(&format!("pollscope: {reason}")).count(), 1, "it is said once");
    assert!(text.contains(&format!("; {reason}), 0 threads")), "it is in the statistics");
    // All of it is unsampled, and shown as that.
    assert!(text.contains("\n0 samples, 0 lost"));
}

#[test]
fn a_program_that_its_user_may_not_read() {
    if plays_a_part(2, Engine::Timer) {
        return;
    }
    let test = "a_program_that_its_user_may_not_read";
    let Some(as_nobody) = child::command_as_nobody(test, "unreadable") else { return };
    let copy = std::env::temp_dir().join(format!("pollscope-unreadable-{}", std::process::id()));
    std::fs::copy("/proc/self/exe", &copy).expect("a copy");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(&copy, mode).expect("it is ours");
    let mut command = Command::new(&copy);
    command.args(as_nobody.get_args());
    command.envs(as_nobody.get_envs().filter_map(|(name, value)| Some((name, value?))));
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    let (output, text) = child::run(&mut command);
    let _ = std::fs::remove_file(&copy);
    println!("{text}");
    assert!(output.status.success() && text.contains("the program went on"), "{}", output.status);
    // Its functions have no names, so none is found to be right or wrong.
    assert!(text.contains("0 right, 0 wrong"));
    assert_eq!(text.matches("Permission denied").count(), 1, "it is said once");
}

#[test]
fn no_space_on_disk() {
    const TEST: &str = "no_space_on_disk";
    if let Some(dir) = child::part() {
        let recording = Recording::default();
        let builder = recording.builder().export(File::new(&dir)).window(Duration::from_millis(100));
        // Full from the first window on.
        let full = std::fs::write(Path::new(&dir).join("filling"), vec![1; 1 << 20]);
        assert!(full.is_err(), "a small file system");
        // For several windows.
        program(builder, &recording, 2, Duration::from_millis(800));
        return;
    }
    let dir = std::env::temp_dir().join(format!("pollscope-full-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
        .arg(&dir)
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        println!("skipped: this user may not mount a small file system");
        return;
    }
    let (output, text) = child::run(&mut child::command(TEST, dir.to_str().expect("plain text")));
    let unmounted = Command::new("umount").arg(&dir).status();
    let _ = std::fs::remove_dir(&dir);
    println!("{text}");
    assert!(unmounted.is_ok_and(|status| status.success()));
    assert!(output.status.success() && text.contains("the program went on"), "{}", output.status);
    let said: Vec<_> = text.lines().filter(|line| line.starts_with("pollscope: file: ")).collect();
    assert_eq!(said.len(), 1, "it is said once: {said:#?}");
    assert!(said[0].contains("free some space"), "{}", said[0]);
    assert!(text.contains("free some space") && text.contains("failed: "), "it is in the statistics");
}

/// Profiling never keeps a program from starting for want of an ordinary resource.
#[test]
fn without_anything_it_starts_all_the_same() {
    if child::part().is_some() {
        let profiler = Profiler::builder("test").environment(None).start().expect("a profiler");
        println!("{}\nthe program went on", profiler.stop());
        return;
    }
    let Some(mut command) = child::command_as_nobody("without_anything_it_starts_all_the_same", "bare")
    else {
        return;
    };
    child::limit(&mut command, libc::RLIMIT_SIGPENDING, 0);
    child::limit(&mut command, libc::RLIMIT_MEMLOCK, 0);
    child::limit(&mut command, libc::RLIMIT_NOFILE, 8);
    let (output, text) = child::run(&mut command);
    assert!(output.status.success() && text.contains("the program went on"), "{text}");
}

//! Libraries that are loaded, called and unloaded again and again while sampling at 5 kHz.
//!
//! Two libraries take turns, nearly always at the same addresses. The span says which one is
//! loaded: no sample may name the other one's function.
#![cfg(target_os = "linux")]

mod support;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pollscope::Engine;
use support::{Confusion, Recording, runs_with, take_turn};
use tracing::info_span;
use tracing_subscriber::prelude::*;

/// A directory that is gone when the test is.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Compiles a library with one function; `None` without a C compiler.
fn compile(dir: &Path, function: &str, padding: u32) -> Option<CString> {
    let source = dir.join(format!("{function}.c"));
    let library = source.with_extension("so");
    // Of different shape, so that the unwind tables of the one do not do for the other.
    let text = format!(
        "unsigned {function}(unsigned n, unsigned (*back)(unsigned)) {{\n\
           volatile unsigned room[{padding}], sum = 0;\n\
           for (unsigned i = 0; i < n; i++) {{ room[i % {padding}] = i; sum += room[i / 2 % {padding}]; }}\n\
           return sum + back(n);\n\
         }}\n"
    );
    std::fs::write(&source, text).expect("a source file");
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).status();
    match compiled {
        Ok(status) => assert!(status.success(), "{status}"),
        Err(error) => {
            println!("skipped: no C compiler (cc): {error}");
            return None;
        }
    }
    Some(CString::new(library.as_os_str().as_bytes()).expect("no zero in a path"))
}

extern "C" fn back(n: u32) -> u32 {
    std::hint::black_box(n)
}

/// Loads the library, works in it for a while, and unloads it.
fn visit(library: &CString, function: &CString, time: Duration) {
    type Function = extern "C" fn(u32, extern "C" fn(u32) -> u32) -> u32;
    // SAFETY: the library was made by this test; its function has this type, and is not called after
    // the library is unloaded.
    unsafe {
        let handle = libc::dlopen(library.as_ptr(), libc::RTLD_NOW);
        assert!(!handle.is_null());
        let found = libc::dlsym(handle, function.as_ptr());
        assert!(!found.is_null());
        let function: Function = std::mem::transmute(found);
        let end = Instant::now() + time;
        while Instant::now() < end {
            std::hint::black_box(function(2000, back));
        }
        assert_eq!(libc::dlclose(handle), 0);
    }
}

fn check(engine: Engine, expected: &str, hertz: u32) {
    let _turn = take_turn();
    let dir = Scratch(std::env::temp_dir().join(format!("pollscope-{expected}-{}", std::process::id())));
    std::fs::create_dir_all(&dir.0).expect("a directory");
    let functions = ["spin_alpha", "spin_beta"];
    let Some(alpha) = compile(&dir.0, functions[0], 16) else { return };
    let beta = compile(&dir.0, functions[1], 1024).expect("the compiler is there");
    let libraries = [alpha, beta];

    let recording = Recording::default();
    let profiler = recording
        .builder()
        .engine(engine)
        .hertz(hertz)
        .stop_within(Duration::from_secs(60))
        .start()
        .expect("a profiler");
    if !runs_with(&profiler.stats(), expected) {
        return;
    }
    let subscriber = tracing_subscriber::registry().with(profiler.layer());
    let visit_in_span = |which: usize, time| {
        let span = if which == 0 { info_span!("spin_alpha") } else { info_span!("spin_beta") };
        let name = CString::new(functions[which]).expect("no zero in it");
        span.in_scope(|| visit(&libraries[which], &name, time));
    };
    tracing::subscriber::with_default(subscriber, || {
        // Shorter than it takes the profiler to notice, and longer.
        for n in 0..40 {
            visit_in_span(n % 2, Duration::from_millis(3));
        }
        for n in 0..4 {
            visit_in_span(n % 2, Duration::from_millis(400));
        }
    });
    let stats = profiler.stop();

    let mut confusion = Confusion::default();
    recording.for_each_sample(|profile, sample| {
        let span = sample.span.as_ref().map_or("none", |span| &span.name);
        for frame in profile.frames(sample).filter(|frame| functions.contains(frame)) {
            confusion.add(frame, span, sample.count);
        }
    });
    println!("{expected}\n{confusion}\n{stats}");
    for function in functions {
        assert!(confusion.count(function, function) > 0, "{function} was loaded and is not named");
        assert_eq!(confusion.total(function), confusion.count(function, function), "misnamed {function}");
    }
}

#[test]
fn functions_are_named_while_they_are_loaded_with_perf() {
    check(Engine::Perf, "perf", 5000);
}

#[test]
fn functions_are_named_while_they_are_loaded_with_timers() {
    check(Engine::Timer, "timer", 5000);
}

//! What the profiler takes to start, in time and memory: `cargo bench --bench memory`.
//!
//! Memory is what is resident (VmRSS): before the start; after it, with spans followed and samples
//! taken; and after the first window is out, whose symbols were read. The window is a pprof file of
//! this program under load; the overhead bench shows the whole of the checkout example.

use std::error::Error;
use std::hint::black_box;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, fs};

use pollscope::{File, Profiler, export};
use tracing::info_span;
use tracing_subscriber::layer::SubscriberExt;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = env::temp_dir().join(format!("pollscope-memory-{}", std::process::id()));
    let (out, exported) = mpsc::channel();
    let before = resident_kib();
    println!("{:<32}{before:>8} KiB", "before the start");
    let report = |when: &str| {
        let now = resident_kib();
        println!("{when:<32}{now:>8} KiB  {:+.1} MB", (now as f64 - before as f64) / 1024.0);
    };

    let begin = Instant::now();
    let profiler = Profiler::builder("bench")
        .environment(None)
        .window(Duration::from_secs(1))
        .export(File::new(&dir))
        .export(export::each(move |_| {
            let _ = out.send(());
        }))
        .start()?;
    let started = begin.elapsed();
    report("after the start");

    let subscriber = tracing_subscriber::registry().with(profiler.layer());
    let _default = tracing::subscriber::set_default(subscriber);
    work(Duration::from_millis(700));
    report("after 0.7 s of samples");
    for window in ["after the first window", "after the second window"] {
        while exported.try_recv().is_err() {
            work(Duration::from_millis(50));
        }
        report(window);
    }
    let begin = Instant::now();
    profiler.stop();
    println!("start {started:.2?}, stop {:.2?}", begin.elapsed());
    fs::remove_dir_all(dir)?;
    Ok(())
}

/// Keeps a processor busy, in spans.
fn work(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        info_span!("work").in_scope(|| (0..1000_u64).for_each(|n| drop(black_box(n.to_string()))));
    }
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

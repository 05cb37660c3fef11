//! What the tests share: one profiler at a time, its profiles kept, and reading labels off stacks.

#![allow(dead_code, unreachable_pub, reason = "each test is a crate of its own and uses a part of it")]

#[cfg(target_os = "linux")]
pub mod child;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pollscope::{Builder, Profile, Profiler, Sample, Stats, export};

/// Profiles that a profiler made.
#[derive(Clone, Default)]
pub struct Recording {
    profiles: Arc<Mutex<Vec<Profile>>>,
}

impl Recording {
    /// A profiler that takes nothing from the environment and whose profiles are kept here.
    pub fn builder(&self) -> Builder {
        let profiles = self.profiles.clone();
        Profiler::builder("test").environment(None).export(export::each(move |profile| {
            profiles.lock().expect("no panic while it was held").push(profile.clone());
        }))
    }

    pub fn profiles(&self) -> MutexGuard<'_, Vec<Profile>> {
        self.profiles.lock().expect("no panic while it was held")
    }

    /// Calls `each` with every sample.
    pub fn for_each_sample(&self, mut each: impl FnMut(&Profile, &Sample)) {
        for profile in self.profiles().iter() {
            for sample in &profile.samples {
                each(profile, sample);
            }
        }
    }
}

/// A process has one profiler: tests that start one take turns.
pub fn take_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps a processor busy.
#[inline(always)]
pub fn burn(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        for n in 0..50u64 {
            std::hint::black_box(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
    }
}

/// Keeps a processor busy for this much of the thread's CPU time, whatever else runs on the machine.
#[cfg(target_os = "linux")]
#[inline(always)]
pub fn burn_cpu(time: Duration) {
    let end = thread_cpu() + time;
    while thread_cpu() < end {
        burn(Duration::from_micros(200));
    }
}

#[cfg(target_os = "linux")]
pub fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Whether the profiler runs with the engine that the test is about. Where the kernel refuses perf,
/// the test says so and is skipped.
pub fn runs_with(stats: &Stats, engine: &str) -> bool {
    let runs = stats.engine == engine;
    if !runs {
        println!("skipped: {}", stats.reason);
    }
    runs
}

/// Samples by what they are and how they are labelled.
#[derive(Default)]
pub struct Confusion {
    cells: BTreeMap<(String, String), u64>,
}

impl Confusion {
    pub fn add(&mut self, truth: &str, label: &str, count: u64) {
        *self.cells.entry((truth.to_owned(), label.to_owned())).or_default() += count;
    }

    pub fn count(&self, truth: &str, label: &str) -> u64 {
        self.cells.get(&(truth.to_owned(), label.to_owned())).copied().unwrap_or(0)
    }

    /// All samples that are `truth`, whatever their label.
    pub fn total(&self, truth: &str) -> u64 {
        self.cells.iter().filter(|((t, _), _)| t == truth).map(|(_, n)| n).sum()
    }

    /// The labels that samples of `truth` carry, with their counts.
    pub fn labels(&self, truth: &str) -> Vec<(&str, u64)> {
        self.cells.iter().filter(|((t, _), _)| t == truth).map(|((_, l), &n)| (l.as_str(), n)).collect()
    }
}

impl std::fmt::Display for Confusion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let truths: std::collections::BTreeSet<_> = self.cells.keys().map(|(t, _)| t.as_str()).collect();
        let labels: std::collections::BTreeSet<_> = self.cells.keys().map(|(_, l)| l.as_str()).collect();
        let mut text = format!("{:>14}", "work ╲ label");
        for label in &labels {
            write!(text, "{label:>10}")?;
        }
        for truth in truths {
            write!(text, "\n{truth:>14}")?;
            for label in &labels {
                write!(text, "{:>10}", self.count(truth, label))?;
            }
        }
        f.write_str(&text)
    }
}

//! The export thread: windows in, named profiles out to every exporter.
//!
//! Windows wait in a short queue while an exporter takes its time; when that is full the oldest is
//! given up and counted, so a slow disk or server costs memory for a few windows and no more.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::aggregate::Window;
use crate::assemble::Assembler;
use crate::error::Error;
use crate::export::Export;
use crate::report::Said;
use crate::stats::{ExporterStats, Stats};

/// Windows that wait at most: a minute and more of them at the default length.
const MAX_WAITING: usize = 8;

/// What the collector and the export thread share.
#[derive(Default)]
struct Shelf {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    windows: VecDeque<Window>,
    closed: bool,
    dropped: u64,
}

/// The collector's end of the queue.
#[derive(Clone, Default)]
pub(crate) struct Courier {
    shelf: Arc<Shelf>,
}

impl Courier {
    /// Hands a window over.
    pub(crate) fn send(&self, window: Window) {
        let mut waiting = self.lock();
        if waiting.windows.len() >= MAX_WAITING {
            waiting.windows.pop_front();
            waiting.dropped += 1;
        }
        waiting.windows.push_back(window);
        self.shelf.changed.notify_one();
    }

    /// No more windows will come.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.shelf.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.shelf.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next window, or `None` at `until`, or when the queue is closed and empty: then the
    /// second value is true.
    fn next(&self, until: Option<Instant>) -> (Option<Window>, bool) {
        let mut waiting = self.lock();
        loop {
            if let Some(window) = waiting.windows.pop_front() {
                return (Some(window), false);
            }
            if waiting.closed {
                return (None, true);
            }
            let wait = until.map(|until| until.saturating_duration_since(Instant::now()));
            waiting = match wait {
                Some(Duration::ZERO) => return (None, false),
                Some(wait) => {
                    let result = self.shelf.changed.wait_timeout(waiting, wait);
                    result.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.shelf.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Starts the export thread, which ends when the queue is closed and all was handed out; `done`
    /// is dropped then.
    pub(crate) fn start(
        &self,
        assembler: Assembler,
        exporters: Vec<Box<dyn Export>>,
        stats: Arc<Mutex<Stats>>,
        finish_within: Duration,
        done: Sender<()>,
    ) -> io::Result<()> {
        let courier = self.clone();
        lock_stats(&stats).exports =
            exporters.iter().map(|e| ExporterStats { name: e.name(), ..Default::default() }).collect();
        let round = Round { courier, assembler, exporters, stats, said: Said::new(), finish_within };
        let run = move || {
            round.run();
            drop(done);
        };
        thread::Builder::new().name("pollscope-export".into()).spawn(run).map(drop)
    }
}

fn lock_stats(stats: &Mutex<Stats>) -> MutexGuard<'_, Stats> {
    stats.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The export thread's state.
struct Round {
    courier: Courier,
    assembler: Assembler,
    exporters: Vec<Box<dyn Export>>,
    stats: Arc<Mutex<Stats>>,
    said: Said,
    finish_within: Duration,
}

impl Round {
    fn run(mut self) {
        let mut wake = None;
        loop {
            let (window, closed) = self.courier.next(wake);
            if closed {
                break;
            }
            if let Some(window) = window {
                self.deliver(window);
            }
            let now = Instant::now();
            wake = self.exporters.iter_mut().filter_map(|exporter| exporter.poll(now)).min();
            self.count();
        }
        let deadline = Instant::now() + self.finish_within;
        for at in 0..self.exporters.len() {
            let result = self.exporters[at].finish(deadline);
            self.note(at, result, 0);
        }
        self.count();
    }

    fn deliver(&mut self, window: Window) {
        let profiles = self.assembler.assemble(window);
        for note in self.assembler.take_notes() {
            self.said.once(note.clone(), || note);
        }
        for profile in &profiles {
            for at in 0..self.exporters.len() {
                let result = self.exporters[at].export(profile);
                self.note(at, result, 1);
            }
        }
    }

    fn note(&mut self, at: usize, result: Result<(), Error>, exported: u64) {
        let name = self.exporters[at].name();
        let mut stats = lock_stats(&self.stats);
        let Some(entry) = stats.exports.get_mut(at) else { return };
        match result {
            Ok(()) => entry.exported += exported,
            Err(error) => {
                entry.failed += 1;
                entry.last_error = Some(error.to_string());
                drop(stats);
                // By its kind: the text may name the window.
                self.said.once(format!("{name}: {:?}", error.kind()), || format!("{name}: {error}"));
            }
        }
    }

    fn count(&self) {
        let mut stats = lock_stats(&self.stats);
        stats.windows_dropped = self.courier.lock().dropped;
        for (entry, exporter) in stats.exports.iter_mut().zip(&self.exporters) {
            entry.delivery = exporter.stats();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Tally;
    use crate::ring::Lost;
    use std::time::SystemTime;

    fn window(unsampled_ns: u64) -> Window {
        Window {
            start: SystemTime::UNIX_EPOCH,
            duration: Duration::from_secs(10),
            period: 10_000_000,
            generations: Vec::new(),
            lost: Lost::default(),
            crowded: Tally::default(),
            unsampled_ns,
            usage: Vec::new(),
        }
    }

    #[test]
    fn a_full_queue_gives_up_its_oldest_window_and_counts_it() {
        let courier = Courier::default();
        for n in 0..MAX_WAITING as u64 + 2 {
            courier.send(window(n));
        }
        courier.close();
        let mut seen = Vec::new();
        while let (Some(window), false) = courier.next(None) {
            seen.push(window.unsampled_ns);
        }
        assert_eq!(seen, (2..MAX_WAITING as u64 + 2).collect::<Vec<_>>());
        assert_eq!(courier.lock().dropped, 2);
    }
}

//! The collector: one thread that owns sampling, empties the ring, and closes windows.
//!
//! It wakes some ten times a second, and when a thread registers. Naming and exporting happen on
//! another thread (`courier.rs`), so a slow server or a large binary never keeps the ring full.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::aggregate::{Aggregate, Grain, Window};
use crate::clock::{Ledger, process_cpu_ns, thread_cpu_ns};
use crate::courier::Courier;
use crate::handler::{Desk, no_handler_runs};
use crate::module::{Doubt, Module};
use crate::modules::Modules;
use crate::report::Said;
use crate::ring::Lost;
use crate::sample::{Context, Head};
use crate::sampler::{self, Sampler};
use crate::span::path::{self, Book, Usage};
use crate::stats::Stats;
use crate::thread as threads;
use crate::unwind::CodeMap;

/// How often the ring is emptied at least.
const DRAIN_EVERY: Duration = Duration::from_millis(100);
/// Sweeps of the task list may take a two-hundredth of one processor at most.
const SWEEP_SHARE: u32 = 200;
/// How often the task list is read although it is as long as before: one thread may have ended and
/// another begun.
const SWEEP_ANYWAY_EVERY: Duration = Duration::from_secs(1);
/// How often the signal's owner is checked.
const CHECK_SIGNAL_EVERY: Duration = Duration::from_secs(1);

/// How long the end waits for handlers to finish, which takes them microseconds unless they are
/// preempted: 10 ms at most.
const HANDLER_WAITS: u32 = 100;
const HANDLER_WAIT: Duration = Duration::from_micros(100);

/// Words of a sample with a deep stack.
const DEEP_SAMPLE_WORDS: u64 = 128;

/// What the profiler asks of its collector.
pub(crate) enum Command {
    /// Samples a second of CPU time.
    SetHertz(u32),
    /// Pauses sampling, or goes on.
    SetRunning(bool),
    Stop,
}

/// What stays the same while it runs.
pub(crate) struct Settings {
    pub(crate) window: Duration,
    pub(crate) grain: Grain,
    pub(crate) signal: i32,
    /// Samples are CPU time, so the process's clock tells what is missing.
    pub(crate) is_cpu_time: bool,
}

/// The collector's whole state.
pub(crate) struct Collector {
    settings: Settings,
    desk: &'static Desk,
    sampler: Sampler,
    courier: Courier,
    stats: Arc<Mutex<Stats>>,
    said: Said,

    // what is mapped
    modules: Modules,
    /// The objects that the samples of this generation were taken among.
    mapped: Vec<Arc<Module>>,
    /// What the last change leaves in doubt, until the next samples are in.
    doubt: Option<Doubt>,
    /// Maps that a handler may still be reading.
    #[expect(clippy::vec_box, reason = "handlers hold the addresses of what is boxed")]
    retired: Vec<Box<CodeMap>>,

    // the window under way
    start: (SystemTime, Instant),
    aggregate: Aggregate,
    ledger: Ledger,
    lost: Lost,
    usage_before: Vec<Usage>,
    book: Book,
    /// What came out of the ring last: messages, each after its length in words.
    batch: Vec<u64>,
    message: Vec<u64>,

    next_sweep: Instant,
    next_sweep_anyway: Instant,
    /// Threads at the last sweep.
    threads: Option<u64>,
    next_signal_check: Instant,
    registered: u32,
}

impl Collector {
    pub(crate) fn new(
        settings: Settings,
        desk: &'static Desk,
        sampler: Sampler,
        courier: Courier,
        stats: Arc<Mutex<Stats>>,
    ) -> Self {
        let now = Instant::now();
        Self {
            aggregate: Aggregate::new(settings.grain),
            settings,
            desk,
            sampler,
            courier,
            stats,
            said: Said::new(),
            modules: Modules::default(),
            mapped: Vec::new(),
            doubt: None,
            retired: Vec::new(),
            start: (SystemTime::now(), now),
            ledger: Ledger::default(),
            lost: Lost::default(),
            usage_before: Vec::new(),
            book: Book::default(),
            batch: Vec::new(),
            message: Vec::new(),
            next_sweep: now,
            next_sweep_anyway: now,
            threads: None,
            next_signal_check: now + CHECK_SIGNAL_EVERY,
            registered: 0,
        }
    }

    /// Attaches all threads that there are: sampling has begun when this returns.
    pub(crate) fn begin(&mut self) {
        sampler::set_collector(Some(thread::current()));
        // What a handler of an earlier profiler finished after that one's end is in nobody's profile.
        while self.desk.ring.pop(&mut self.message) {}
        self.desk.ring.take_lost();
        self.modules.refresh();
        self.publish_code();
        self.mapped = self.modules.list().to_vec();
        self.book.refresh();
        self.usage_before = self.book.usage();
        self.start = (SystemTime::now(), Instant::now());
        self.ledger.clock(process_cpu_ns());
        self.registered = threads::registered();
        self.sweep();
        self.tell_notes();
        self.publish_stats();
    }

    /// Works until it is told to stop, or until the profiler is gone.
    pub(crate) fn run(mut self, commands: &Receiver<Command>) {
        loop {
            match commands.try_recv() {
                Ok(Command::SetHertz(hz)) => self.set_hz(hz),
                Ok(Command::SetRunning(running)) => self.set_running(running),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    self.work(Instant::now());
                    thread::park_timeout(self.drain_interval());
                }
            }
        }
        self.end();
    }

    fn work(&mut self, now: Instant) {
        if self.registered != threads::registered() {
            self.registered = threads::registered();
            self.sampler.attach_registered();
        }
        if self.drain() {
            self.publish_code();
            // What was taken until now, while the doubt is fresh.
            if self.drain() {
                self.publish_code();
            }
        }
        if now >= self.next_sweep && self.threads_may_have_changed(now) {
            self.sweep();
        }
        self.tell_notes();
        if now >= self.next_signal_check {
            self.next_signal_check = now + CHECK_SIGNAL_EVERY;
            self.check_signal();
        }
        if now.saturating_duration_since(self.start.1) >= self.settings.window {
            self.close_window(false);
        }
        if !self.retired.is_empty() && no_handler_runs() {
            self.retired.clear();
        }
        self.publish_stats();
    }

    fn end(mut self) {
        // How many threads were sampled to the last.
        self.publish_stats();
        self.sampler.detach_all();
        sampler::set_collector(None);
        // A signal under way finds nothing to do from here on; a handler at work finishes first.
        self.retired.extend(self.desk.publish(None));
        let quiet = (0..HANDLER_WAITS).any(|_| {
            let quiet = no_handler_runs();
            if !quiet {
                thread::sleep(HANDLER_WAIT);
            }
            quiet
        });
        self.drain();
        self.close_window(true);
        if !quiet {
            // A thread was interrupted within its handler. Some memory is given up rather than
            // taken from under it.
            std::mem::forget(self.retired);
        }
        self.courier.close();
    }

    /// Half of what fills the ring when every processor is busy and stacks are deep.
    fn drain_interval(&self) -> Duration {
        let words_a_second = u64::from(self.sampler.hz()) * processors() as u64 * DEEP_SAMPLE_WORDS;
        let fill_ms = self.desk.ring.words() as u64 * 1000 / words_a_second.max(1);
        Duration::from_millis((fill_ms / 2).max(1)).min(DRAIN_EVERY)
    }

    /// Takes what the handlers wrote; whether the handlers need to know of other objects.
    fn drain(&mut self) -> bool {
        self.batch.clear();
        while self.desk.ring.pop(&mut self.message) {
            self.batch.push(self.message.len() as u64);
            self.batch.extend_from_slice(&self.message);
        }
        let lost = self.desk.ring.take_lost();
        // After the samples were taken out: if nothing has changed now, nothing had changed for them.
        let doubt = self.modules.refresh();
        let changed = doubt.is_some();
        // They were unwound by the map of the time before, until the handlers got another one.
        let earlier = std::mem::replace(&mut self.doubt, doubt);
        let tally = self.tally(earlier.as_ref());
        if changed {
            // These samples were taken before the change or about then.
            self.aggregate.end_generation(&self.mapped);
            self.mapped = self.modules.list().to_vec();
        }
        self.lost.count += lost.count;
        self.lost.weight += lost.weight;
        self.ledger.sampled(lost.weight);
        let mut stats = lock(&self.stats);
        stats.samples += tally.samples;
        stats.outside_spans += tally.outside_spans;
        stats.unknown_span += tally.unknown_span;
        stats.incomplete += tally.incomplete;
        stats.lost += lost.count;
        changed
    }

    /// Adds the batch up. A stack is good up to where it enters code that may have been another object's.
    fn tally(&mut self, earlier: Option<&Doubt>) -> Stats {
        let mut tally = Stats::default();
        let mut rest = &self.batch[..];
        while let Some((&words, after)) = rest.split_first() {
            let (message, after) = after.split_at(words as usize);
            rest = after;
            let Some((mut head, mut lists)) = Head::decode(message) else { continue };
            let doubts = [earlier, self.doubt.as_ref()];
            let is_doubtful = |&address: &u64| doubts.iter().flatten().any(|doubt| doubt.covers(address));
            if let Some(at) = lists.user.iter().position(is_doubtful) {
                lists.user = &lists.user[..at];
                head.complete = false;
            }
            let count = u64::from(head.count);
            tally.samples += count;
            match head.context {
                Context::Outside => tally.outside_spans += count,
                Context::Unknown => tally.unknown_span += count,
                Context::In(_) => {}
            }
            if !head.complete {
                tally.incomplete += count;
            }
            self.ledger.sampled(head.weight);
            self.aggregate.add(&head, &lists);
        }
        tally
    }

    fn threads_may_have_changed(&self, now: Instant) -> bool {
        now >= self.next_sweep_anyway || self.threads.is_none() || sampler::thread_count() != self.threads
    }

    fn sweep(&mut self) {
        self.threads = sampler::thread_count();
        let (begin, begin_cpu_ns) = (Instant::now(), thread_cpu_ns());
        let new = self.sampler.sweep();
        if !new.is_empty() {
            // Those that did not register have their stacks in new mappings perhaps: known before
            // the first signal.
            self.publish_code();
            self.sampler.attach(new);
        }
        let cost = Duration::from_nanos(thread_cpu_ns().saturating_sub(begin_cpu_ns));
        self.next_sweep = begin + DRAIN_EVERY.max(cost * SWEEP_SHARE);
        self.next_sweep_anyway = begin + SWEEP_ANYWAY_EVERY;
    }

    /// Says what happened to the sampler, and has it in the statistics.
    fn tell_notes(&mut self) {
        for note in self.sampler.take_notes() {
            let mut stats = lock(&self.stats);
            if !stats.reason.contains(&note) {
                stats.reason = format!("{}; {note}", stats.reason);
            }
            drop(stats);
            self.said.once(note.clone(), || note);
        }
    }

    fn publish_code(&mut self) {
        let code = self.modules.code_map();
        self.desk.warm_up(&code);
        self.retired.extend(self.desk.publish(Some(Box::new(code))));
    }

    /// Somebody may install a handler of their own later on: then the signal is theirs.
    fn check_signal(&mut self) {
        if self.sampler.is_running() && !sampler::is_installed(self.settings.signal) {
            self.set_running(false);
            let signal = self.settings.signal;
            self.said.once("signal", || {
                format!(
                    "sampling stopped: signal {signal} got another handler in this process; \
                     choose another signal by .signal(Signal::Realtime(n))"
                )
            });
            lock(&self.stats).reason = format!("stopped: signal {signal} got another handler");
        }
    }

    fn set_running(&mut self, running: bool) {
        if running == self.sampler.is_running() {
            return;
        }
        self.sampler.set_running(running);
        if self.drain() {
            self.publish_code();
        }
        self.ledger.clock(process_cpu_ns());
        if !running {
            self.ledger.pause();
        }
    }

    fn set_hz(&mut self, hz: u32) {
        // Nothing ticks while the weight of a tick changes.
        let running = self.sampler.is_running();
        self.set_running(false);
        self.sampler.set_hz(hz);
        if self.settings.is_cpu_time {
            self.desk.period.store(self.sampler.period_ns(), Ordering::Relaxed);
        }
        self.set_running(running);
    }

    fn close_window(&mut self, last: bool) {
        if self.sampler.is_running() {
            self.ledger.clock(process_cpu_ns());
        }
        let mut unsampled_ns = 0;
        if self.settings.is_cpu_time {
            // Each thread is somewhere within a period; at the end that is what is missing.
            let (perf, timer) = self.sampler.threads();
            let slack = if last { 0 } else { self.sampler.period_ns() * (perf + timer) as u64 };
            unsampled_ns = self.ledger.take_unsampled(slack);
        }
        let (generations, crowded) = self.aggregate.take(&self.mapped);
        self.book.refresh();
        let usage = self.book.usage();
        let before = std::mem::replace(&mut self.usage_before, usage);
        let now = (SystemTime::now(), Instant::now());
        let start = std::mem::replace(&mut self.start, now);
        self.courier.send(Window {
            start: start.0,
            // By the monotonic clock: the other one may jump.
            duration: now.1.saturating_duration_since(start.1),
            // The kernel adapts the period of other events to the rate, and each sample has its own.
            period: if self.settings.is_cpu_time { self.sampler.period_ns() } else { 1 },
            generations,
            lost: std::mem::take(&mut self.lost),
            crowded,
            unsampled_ns,
            usage: path::difference(&self.usage_before, &before),
        });
        let mut stats = lock(&self.stats);
        stats.cpu = Duration::from_nanos(self.ledger.total_cpu_ns());
        stats.unsampled += Duration::from_nanos(unsampled_ns);
    }

    fn publish_stats(&self) {
        let mut stats = lock(&self.stats);
        (stats.perf_threads, stats.timer_threads) = self.sampler.threads();
        stats.hertz = self.sampler.hz();
        stats.spans_too_deep = threads::slots().map(|slot| slot.spans.too_deep()).sum();
    }
}

fn lock(stats: &Mutex<Stats>) -> MutexGuard<'_, Stats> {
    stats.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Processors that this process may use, as of the first call: asking reads the files of its control
/// groups, which ten times a second was half of all that the collector did.
pub(crate) fn processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

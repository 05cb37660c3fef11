//! A profiler at work: the one place that knows all stages, and starts and stops their threads.

use std::process;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::aggregate::Grain;
use crate::assemble::{Assembler, Options};
use crate::collector::{Collector, Command, Settings as CollectorSettings, processors};
use crate::courier::Courier;
use crate::error::{Error, ErrorKind};
use crate::export::Export;
use crate::follow::{Follower, Tracking};
use crate::handler::{self, Desk};
use crate::report;
use crate::sampler::{self, Chosen, Sampler};
use crate::settings::{Event, MAX_STACK_DEPTH, Settings, SpanScope};
use crate::span::label::Labels;
use crate::span::path;
use crate::stats::Stats;
use crate::thread as threads;

/// Words of the ring for each processor: half a second of samples at the default rate with stacks
/// of 64 frames, and five times as deep ones still have the tenth until it is emptied.
const RING_WORDS_A_PROCESSOR: usize = 4096;
/// 512 KiB to 8 MiB.
const MIN_RING_WORDS: usize = 1 << 16;
const MAX_RING_WORDS: usize = 1 << 20;
/// Scratch areas are some 180 KiB each, of which a walk touches a third; no more handlers run at once
/// than there are processors, and as many again, since a thread may be preempted within its handler.
const MAX_SCRATCH_AREAS: usize = 64;
/// Stopping waits this much longer than the exporters may take, for what comes before and after.
const STOP_MARGIN: Duration = Duration::from_secs(2);

/// The process in which a profiler runs, or 0. The signal's handler, and the task list, are one a process.
static RUNNING: AtomicU32 = AtomicU32::new(0);
/// Made by the first profiler, used by all later ones.
static DESK: OnceLock<&'static Desk> = OnceLock::new();

/// Threads and state of a running profiler.
pub(crate) struct Running {
    /// The process that started it: a fork has none of its threads.
    process: u32,
    tracking: Arc<Tracking>,
    desk: &'static Desk,
    commands: Sender<Command>,
    collector: JoinHandle<()>,
    /// Disconnected when the export thread is done. Nobody locks it before the end; so the profiler
    /// may be shared between threads.
    exported: Mutex<Receiver<()>>,
    stop_within: Duration,
    stats: Arc<Mutex<Stats>>,
    before: Counters,
}

/// What is counted for the life of the process, and not of a profiler.
#[derive(Clone, Copy, Default)]
struct Counters {
    signals: u64,
    handler_ns: u64,
    strays: u64,
    names_overflowed: u64,
    too_deep: u64,
}

impl Counters {
    fn now(desk: &Desk) -> Self {
        let slots = || threads::slots();
        Self {
            signals: slots().map(|slot| slot.signals.load(Ordering::Relaxed)).sum(),
            handler_ns: slots().map(|slot| slot.handler_ns.load(Ordering::Relaxed)).sum(),
            strays: desk.strays.load(Ordering::Relaxed),
            names_overflowed: path::overflowed(),
            too_deep: slots().map(|slot| slot.spans.too_deep()).sum(),
        }
    }
}

impl Running {
    pub(crate) fn start(settings: &Settings, exporters: Vec<Box<dyn Export>>) -> Result<Self, Error> {
        let claim = Claim::take()?;
        let signal = settings.signal.number()?;
        let choice = sampler::choose_here(settings.engine, settings.event, signal);
        if choice.engine != Chosen::Nothing {
            sampler::install(signal)?;
        }
        if choice.refused {
            report::say(&choice.reason);
        }

        let desk = desk();
        let is_cpu_time = settings.event == Event::CpuClock;
        let period = if is_cpu_time { sampler::period_ns(settings.hertz) } else { 0 };
        desk.period.store(period, Ordering::Relaxed);
        desk.max_depth.store(settings.stack_depth, Ordering::Relaxed);
        desk.with_ancestors.store(settings.every_span, Ordering::Relaxed);
        let before = Counters::now(desk);

        let tracking = Arc::new(Tracking {
            active: AtomicBool::new(true),
            labels: Labels::new(settings.label_fields.iter().cloned()),
            unfollowed: AtomicU64::new(0),
            #[cfg(feature = "otel")]
            link: crate::otel::LinkOptions {
                every_span: settings.every_span || settings.scope == SpanScope::Innermost,
                traces_expected: settings.traces_expected,
                period_ns: AtomicU64::new(period),
            },
        });
        let stats = Arc::new(Mutex::new(Stats {
            engine: choice.engine.name(),
            reason: choice.reason,
            hertz: settings.hertz,
            ..Default::default()
        }));

        let (done, exported) = mpsc::channel();
        let courier = Courier::default();
        courier
            .start(assembler(settings, &tracking), exporters, stats.clone(), settings.stop_within, done)
            .map_err(|error| no_thread(&error))?;
        let collector_settings = CollectorSettings {
            window: settings.window,
            grain: Grain { own_ids: settings.every_span || settings.scope == SpanScope::Innermost },
            signal,
            is_cpu_time,
        };
        let collector_stats = stats.clone();
        let (commands, orders) = mpsc::channel();
        let (begun, beginning) = mpsc::channel::<()>();
        let closing = courier.clone();
        let (event, hertz) = (settings.event, settings.hertz);
        let collector = thread::Builder::new().name("pollscope".into()).spawn(move || {
            let sampler = Sampler::new(choice.engine, event, signal, hertz);
            let mut collector = Collector::new(collector_settings, desk, sampler, courier, collector_stats);
            collector.begin();
            drop(begun);
            collector.run(&orders);
            // The next profiler may start once nothing of this one samples.
            drop(claim);
        });
        let collector = collector.map_err(|error| {
            closing.close();
            no_thread(&error)
        })?;
        // Every thread that exists is sampled when this returns.
        let _ = beginning.recv();
        let process = process::id();
        let stop_within = settings.stop_within;
        let exported = Mutex::new(exported);
        Ok(Self { process, tracking, desk, commands, collector, exported, stop_within, stats, before })
    }

    pub(crate) fn follower<S>(&self) -> Follower<S> {
        Follower::new(self.tracking.clone())
    }

    pub(crate) fn set_hertz(&self, hertz: u32) {
        #[cfg(feature = "otel")]
        if self.tracking.link.period_ns.load(Ordering::Relaxed) != 0 {
            self.tracking.link.period_ns.store(sampler::period_ns(hertz), Ordering::Relaxed);
        }
        self.order(Command::SetHertz(hertz));
    }

    pub(crate) fn set_running(&self, running: bool) {
        self.order(Command::SetRunning(running));
    }

    fn order(&self, command: Command) {
        if !self.is_in_a_fork() {
            // If the collector is gone, there is nothing left to order.
            let _ = self.commands.send(command);
            self.collector.thread().unpark();
        }
    }

    fn is_in_a_fork(&self) -> bool {
        self.process != process::id()
    }

    pub(crate) fn stats(&self) -> Stats {
        if self.is_in_a_fork() {
            // Whoever held the lock at the time of the fork does not exist here.
            return Stats::of_nothing("this process is a fork of the one that is profiled");
        }
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (now, before) = (Counters::now(self.desk), self.before);
        stats.signals = now.signals - before.signals;
        stats.handler_time = Duration::from_nanos(now.handler_ns - before.handler_ns);
        stats.stray_signals = now.strays - before.strays;
        stats.names_overflowed = now.names_overflowed - before.names_overflowed;
        stats.spans_too_deep = now.too_deep - before.too_deep;
        stats.labels_overflowed = self.tracking.labels.overflowed();
        stats.spans_unfollowed = self.tracking.unfollowed.load(Ordering::Relaxed);
        stats
    }

    /// Stops sampling, and waits until the last window is out or the time is over.
    pub(crate) fn stop(self) -> Stats {
        if self.is_in_a_fork() {
            return self.stats();
        }
        self.tracking.active.store(false, Ordering::Relaxed);
        self.order(Command::Stop);
        let Self { exported, stop_within, .. } = &self;
        let exported = exported.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(RecvTimeoutError::Timeout) = exported.recv_timeout(*stop_within + STOP_MARGIN) {
            report::say(&format!("stopping took longer than {stop_within:?}: the last profiles may be lost"));
        }
        drop(exported);
        let stats = self.stats();
        // It has nothing left to do but to end.
        let _ = self.collector.join();
        stats
    }
}

fn assembler(settings: &Settings, tracking: &Arc<Tracking>) -> Assembler {
    let options = Options {
        service_name: settings.service_name.as_str().into(),
        scope: settings.scope,
        every_span: settings.every_span,
        trace_id_label: settings.trace_id_label,
        span_name_label: settings.span_name_label,
        raw_stacks: settings.raw_stacks,
        weight_type: settings.event.weight_type(),
    };
    Assembler::new(options, tracking.clone())
}

fn desk() -> &'static Desk {
    DESK.get_or_init(|| {
        let words = (processors() * RING_WORDS_A_PROCESSOR).clamp(MIN_RING_WORDS, MAX_RING_WORDS);
        let areas = (2 * processors() + 2).min(MAX_SCRATCH_AREAS);
        let desk = Box::leak(Box::new(Desk::new(words.next_power_of_two(), areas, MAX_STACK_DEPTH)));
        handler::set_desk(desk);
        desk
    })
}

fn no_thread(error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Kernel, format!("the profiler's own thread could not be started: {error}"))
}

/// The right to be the process's profiler.
struct Claim;

impl Claim {
    fn take() -> Result<Self, Error> {
        let here = process::id();
        let reason = match RUNNING.compare_exchange(0, here, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Ok(Self),
            Err(process) if process == here => {
                "a profiler runs in this process already: stop it, or use its layer() once more"
            }
            Err(_) => "this process is a fork of one that is profiled: start the profiler after the fork",
        };
        Err(Error::new(ErrorKind::InUse, reason))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        RUNNING.store(0, Ordering::Release);
    }
}

//! What a sample costs the thread it is taken on: `cargo bench --bench handler`.
//!
//! *Warm* is the signal handler alone, called again and again with the registers of a real signal that
//! met a thread under so many frames; the kernel's delivery of signals is not in it. *At work* is the
//! same by the profiler's own clock, at its default rate, in a thread that uses its caches itself:
//! there each sample finds little of the handler's memory in them, and may be interrupted too.

use std::hint::black_box;
use std::mem::{self, MaybeUninit};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{ptr, thread};

use pollscope::{Builder, Engine, Profiler, Signal, Stats, export};
use tracing::info_span;
use tracing_subscriber::layer::SubscriberExt;

/// Calls that are timed together, and how often.
const CALLS: u32 = 10;
const ROUNDS: usize = 300;
/// Calls until the collector is given time to empty the ring: of 200 frames they fill half of it.
const CALLS_A_DRAIN: u64 = 150;
/// The collector empties it ten times a second.
const A_DRAIN: Duration = Duration::from_millis(250);
const WORK: Duration = Duration::from_secs(3);

fn main() {
    let base = frames(|builder| measure_at_work(builder, 0, Duration::from_millis(200)));
    if base == 0 {
        return println!("nothing is sampled here");
    }
    println!("frames │ warm: fastest    median      mean │ at work: mean");
    // About: the deepest stack seen may be one that was reading the clock.
    for depth in [10, 50, 200] {
        let more = depth - base;
        let warm = measure_warm(more);
        let mut at_work = Duration::ZERO;
        let reached = frames(|builder| at_work = measure_at_work(builder, more, WORK));
        let mean = warm.iter().sum::<f64>() / warm.len() as f64;
        let (fastest, median) = (warm[0], warm[warm.len() / 2]);
        let at_work = at_work.as_nanos() as f64 / 1e3;
        println!("{reached:>6} │ {fastest:>10.2} µs {median:>6.2} µs {mean:>6.2} µs │ {at_work:>10.2} µs");
    }
}

/// How many frames the deepest stack of a profile has.
fn frames<T>(profiled: impl FnOnce(Builder) -> T) -> usize {
    let deepest = Arc::new(AtomicUsize::new(0));
    let seen = deepest.clone();
    let exporter = export::each(move |profile| {
        let in_span = profile.samples.iter().filter(|sample| sample.span.is_some());
        seen.fetch_max(in_span.map(|sample| sample.stack.len()).max().unwrap_or(0), Ordering::Relaxed);
    });
    profiled(builder().raw_stacks(true).export(exporter));
    deepest.load(Ordering::Relaxed)
}

fn builder() -> Builder {
    // The timer's signal says all there is to say, as often as it is handled.
    Profiler::builder("bench").signal(Signal::Prof).environment(None).engine(Engine::Timer)
}

/// Microseconds of a call, in order.
fn measure_warm(more: usize) -> Vec<f64> {
    let profiler = builder().start().expect("a profiler");
    let times = Mutex::new(Vec::new());
    let bench = || {
        with_a_tick(&|tick| {
            let mut calls: u64 = 0;
            let mut round = || {
                let begin = Instant::now();
                (0..CALLS).for_each(|_| tick.handle());
                let time = begin.elapsed();
                calls += u64::from(CALLS);
                if calls.is_multiple_of(CALLS_A_DRAIN) {
                    thread::sleep(A_DRAIN);
                    tick.handle();
                }
                time.as_nanos() as f64 / 1e3 / f64::from(CALLS)
            };
            *times.lock().expect("no panic") = (0..ROUNDS).map(|_| round()).collect();
        });
    };
    in_a_span(&profiler, &mut || under(more, &bench));
    assert_eq!(profiler.stop().lost, 0, "the ring was full");
    let mut times = times.into_inner().expect("no panic");
    times.sort_by(f64::total_cmp);
    times
}

/// What a signal takes while its thread works on memory of its own.
fn measure_at_work(builder: Builder, more: usize, time: Duration) -> Duration {
    let profiler = builder.start().expect("a profiler");
    let work = || {
        let mut memory = vec![1_u64; 1 << 19];
        let end = Instant::now() + time;
        while Instant::now() < end {
            memory.iter_mut().for_each(|word| *word = black_box(word.rotate_left(1)));
        }
    };
    in_a_span(&profiler, &mut || under(more, &work));
    let Stats { handler_time, signals, .. } = profiler.stop();
    handler_time.checked_div(signals as u32).unwrap_or_default()
}

/// Calls `work` in a span, on a thread of its own, whose stack is the same however it was made.
fn in_a_span(profiler: &Profiler, work: &mut (dyn FnMut() + Send)) {
    let subscriber = tracing_subscriber::registry().with(profiler.layer());
    let on_thread = || tracing::subscriber::with_default(subscriber, || info_span!("bench").in_scope(work));
    thread::scope(|scope| scope.spawn(on_thread).join().expect("no panic"));
}

/// Calls `work` under `more` frames more.
#[inline(never)]
fn under(more: usize, work: &dyn Fn()) {
    match more {
        0 => work(),
        _ => under(more - 1, work),
    }
    black_box(());
}

/// A signal as the kernel gave it to the handler.
struct Tick {
    handler: Handler,
    signal: i32,
    info: libc::siginfo_t,
    context: libc::ucontext_t,
}

type Handler = extern "C" fn(i32, *const libc::siginfo_t, *const libc::ucontext_t);

thread_local! {
    /// Where this thread wants its next signal copied to.
    static WANTED: AtomicPtr<MaybeUninit<Tick>> = const { AtomicPtr::new(ptr::null_mut()) };
}
/// The profiler's handler, as an address.
static HANDLER: AtomicUsize = AtomicUsize::new(0);

/// Waits for a signal of this thread and calls `work` with it, from the very function that the signal
/// interrupted: the registers in it stay true meanwhile.
#[inline(never)]
fn with_a_tick(work: &dyn Fn(&Tick)) {
    let mut tick = MaybeUninit::uninit();
    HANDLER.store(set_handler(catch as *const () as usize), Ordering::Release);
    WANTED.with(|wanted| {
        wanted.store(&raw mut tick, Ordering::Release);
        while !wanted.load(Ordering::Acquire).is_null() {
            std::hint::spin_loop();
        }
    });
    // At once: the profiler stops when it finds another handler than its own.
    set_handler(HANDLER.load(Ordering::Acquire));
    // SAFETY: `catch` filled it before it took the pointer away.
    work(unsafe { tick.assume_init_ref() });
    black_box(());
}

/// Sets SIGPROF's handler; the one before.
fn set_handler(handler: usize) -> usize {
    // SAFETY: a zeroed sigaction is valid; both handlers are made for SA_SIGINFO.
    unsafe {
        let (mut action, mut before): (libc::sigaction, libc::sigaction) = (mem::zeroed(), mem::zeroed());
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGPROF, &action, &mut before), 0);
        before.sa_sigaction
    }
}

extern "C" fn catch(signal: i32, info: *const libc::siginfo_t, context: *const libc::ucontext_t) {
    let address = HANDLER.load(Ordering::Acquire);
    // SAFETY: the profiler's own handler, which stays installed for the life of the process.
    let handler: Handler = unsafe { mem::transmute(address) };
    let wanted = WANTED.with(|wanted| wanted.load(Ordering::Acquire));
    if wanted.is_null() {
        return handler(signal, info, context);
    }
    // SAFETY: `with_a_tick` waits on this thread until the pointer is gone; the kernel's are good here.
    unsafe { (*wanted).write(Tick { handler, signal, info: *info, context: *context }) };
    WANTED.with(|wanted| wanted.store(ptr::null_mut(), Ordering::Release));
}

impl Tick {
    fn handle(&self) {
        (self.handler)(self.signal, &self.info, &self.context);
    }
}

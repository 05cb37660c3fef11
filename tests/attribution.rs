//! Every sample carries the span whose work it interrupted: the stack is the witness.
//!
//! Eight classes of spans, each burning CPU in a function of its own, in polls of 5 µs to 5 ms, on
//! workers that take tasks from each other, under all the ways a task can be run.

mod support;

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use pollscope::Engine;
use support::{Confusion, Recording, burn, runs_with, take_turn};
use tracing::{Instrument, Span, info_span};
use tracing_subscriber::prelude::*;

/// The classes' polls, in microseconds.
const POLL_US: [u64; 8] = [5, 20, 60, 150, 400, 1000, 2500, 5000];

const RUN: Duration = Duration::from_secs(4);

macro_rules! classes {
    ($($n:literal $work:ident $name:literal),*) => {
        $(
            #[inline(never)]
            fn $work() {
                burn(Duration::from_micros(POLL_US[$n]));
                std::hint::black_box($n);
            }
        )*
        fn work(class: usize) {
            match class {
                $($n => $work(),)*
                _ => unreachable!(),
            }
        }
        fn span(class: usize) -> Span {
            match class {
                $($n => info_span!($name),)*
                _ => unreachable!(),
            }
        }
        /// The function of each class, and the name of its span.
        const CLASSES: [(&str, &str); 8] = [$((stringify!($work), $name)),*];
    };
}

classes!(
    0 work_alpha "alpha", 1 work_beta "beta", 2 work_gamma "gamma", 3 work_delta "delta",
    4 work_epsilon "epsilon", 5 work_zeta "zeta", 6 work_eta "eta", 7 work_theta "theta"
);

#[inline(never)]
fn work_outside() {
    burn(Duration::from_micros(100));
    std::hint::black_box(9);
}

/// Some polls of a class, with a chance to move to another worker after each.
async fn polls(class: usize, n: usize) {
    for _ in 0..n {
        work(class);
        tokio::task::yield_now().await;
    }
}

fn instrumented(class: usize) -> impl Future<Output = ()> {
    // About two milliseconds of work each, one poll at least.
    let n = (2000 / POLL_US[class]).clamp(1, 40) as usize;
    polls(class, n).instrument(span(class))
}

/// All the ways to run a task, once.
async fn round() {
    // Spawned: any worker takes them.
    let tasks: Vec<_> = (0..8).map(|class| tokio::spawn(instrumented(class))).collect();
    work_outside();
    for task in tasks {
        task.await.expect("no panic");
    }
    // Several in one task.
    tokio::join!(instrumented(0), instrumented(3), instrumented(6));
    let mut set: FuturesUnordered<_> = (0..8).map(instrumented).collect();
    while set.next().await.is_some() {
        work_outside();
    }
    // The slower one is dropped half way.
    tokio::select! {
        () = polls(1, 3).instrument(span(1)) => {}
        () = polls(4, 1000).instrument(span(4)) => {}
    }
    let cancelled = tokio::spawn(polls(5, 1000).instrument(span(5)));
    tokio::task::yield_now().await;
    cancelled.abort();
    let _ = cancelled.await;
    // Blocking in both ways.
    async { tokio::task::block_in_place(|| work(2)) }.instrument(span(2)).await;
    let blocking = span(7);
    tokio::task::spawn_blocking(move || blocking.in_scope(|| work(7))).await.expect("no panic");
    // One within the other, across polls; the outer one comes back.
    async {
        work(6);
        polls(3, 4).instrument(span(3)).await;
        work(6);
        span(2).in_scope(|| work(2));
        work(6);
    }
    .instrument(span(6))
    .await;
    // Entered again while it is entered, and left out of order.
    let (outer, inner) = (span(4), span(5));
    outer.in_scope(|| {
        outer.in_scope(|| work(4));
        work(4);
    });
    let first = outer.enter();
    let second = inner.enter();
    drop(first);
    work(5);
    drop(second);
    work_outside();
}

fn attribution(engine: Engine, expected: &str, hertz: u32) {
    let _turn = take_turn();
    let recording = Recording::default();
    let profiler = recording.builder().engine(engine).hertz(hertz).start().expect("a profiler");
    let stats = profiler.stats();
    if !runs_with(&stats, expected) {
        return;
    }
    let subscriber = tracing_subscriber::registry().with(profiler.layer());
    tracing::dispatcher::with_default(&subscriber.into(), || {
        let dispatch = tracing::dispatcher::get_default(Clone::clone);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(3)
            .on_thread_start(move || {
                // For as long as the thread lives.
                std::mem::forget(tracing::dispatcher::set_default(&dispatch));
            })
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let end = Instant::now() + RUN;
            while Instant::now() < end {
                let both = [tokio::spawn(round()), tokio::spawn(round())];
                for round in both {
                    round.await.expect("no panic");
                }
            }
        });
    });
    let stats = profiler.stop();

    let mut confusion = Confusion::default();
    recording.for_each_sample(|profile, sample| {
        let frames: Vec<_> = profile.frames(sample).collect();
        let label = sample.span.as_ref().map_or("none", |span| span.path.last().expect("not empty"));
        let class_of =
            |frame: &str| CLASSES.iter().find(|(work, _)| frame.ends_with(work)).map(|&(_, name)| name);
        // The innermost: a class may run within another.
        let truth = frames
            .iter()
            .rev()
            .find_map(|frame| if frame.ends_with("work_outside") { Some("none") } else { class_of(frame) });
        if let Some(truth) = truth {
            confusion.add(truth, label, sample.count);
        }
    });
    println!("{expected} at {hertz} Hz\n{confusion}\n{stats}");

    for truth in CLASSES.iter().map(|&(_, name)| name).chain(["none"]) {
        let total = confusion.total(truth);
        assert!(total > 0, "no sample of {truth}");
        for (label, count) in confusion.labels(truth) {
            if label == "none" {
                assert!(count * 1000 <= total || truth == "none", "{count} of {total} {truth} without label");
            } else {
                assert_eq!(label, truth, "{count} samples of {truth}");
            }
        }
    }
    assert_eq!(stats.lost, 0, "the ring is large enough");
    assert!(stats.incomplete * 1000 <= stats.samples, "{} of {} incomplete", stats.incomplete, stats.samples);
}

#[test]
fn every_sample_is_of_its_span_with_perf() {
    attribution(Engine::Perf, "perf", 2000);
}

#[test]
fn every_sample_is_of_its_span_with_timers() {
    attribution(Engine::Timer, "timer", 250);
}

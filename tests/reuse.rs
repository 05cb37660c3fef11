//! A registry gives a span's id out again after a few thousand spans: the old name never comes back.
#![cfg(target_os = "linux")]

mod support;

use std::collections::HashSet;
use std::time::Duration;

use pollscope::Engine;
use support::{Confusion, Recording, burn, runs_with, take_turn};
use tracing::{Span, info_span};
use tracing_subscriber::prelude::*;

/// On two threads together.
const SPANS: usize = 100_000;

macro_rules! names {
    ($($n:literal $work:ident $name:literal),*) => {
        $(
            #[inline(never)]
            fn $work() {
                burn(Duration::from_micros(5));
                std::hint::black_box($n);
            }
        )*
        fn work(n: usize) {
            match n {
                $($n => $work(),)*
                _ => unreachable!(),
            }
        }
        fn span(n: usize) -> Span {
            match n {
                $($n => info_span!($name),)*
                _ => unreachable!(),
            }
        }
        const NAMES: &[(&str, &str)] = &[$((stringify!($work), $name)),*];
    };
}

names!(0 work_red "red", 1 work_green "green", 2 work_blue "blue", 3 work_grey "grey", 4 work_pink "pink");

/// Many short spans, whose names change while their ids come back; how many ids there were.
fn make_spans(first: usize) -> usize {
    let mut ids = HashSet::new();
    for n in (first..SPANS).step_by(2) {
        // Runs of a name are not as long as ids take to come back.
        let name = (n / 7 + n / 1000) % NAMES.len();
        let span = span(name);
        ids.insert(span.id());
        span.in_scope(|| work(name));
    }
    ids.len()
}

fn check(engine: Engine, expected: &str) {
    let _turn = take_turn();
    let recording = Recording::default();
    let profiler = recording
        .builder()
        .engine(engine)
        .hertz(5000)
        .stop_within(Duration::from_secs(60))
        .start()
        .expect("a profiler");
    if !runs_with(&profiler.stats(), expected) {
        return;
    }
    let dispatch = tracing::Dispatch::new(tracing_subscriber::registry().with(profiler.layer()));
    let ids: usize = std::thread::scope(|scope| {
        let threads = [0, 1].map(|first| {
            let dispatch = &dispatch;
            scope.spawn(move || tracing::dispatcher::with_default(dispatch, || make_spans(first)))
        });
        threads.map(|thread| thread.join().expect("no panic")).iter().sum()
    });
    let stats = profiler.stop();

    let mut confusion = Confusion::default();
    recording.for_each_sample(|profile, sample| {
        let label = sample.span.as_ref().map_or("none", |span| &span.name);
        for frame in profile.frames(sample) {
            if let Some((_, name)) = NAMES.iter().find(|(work, _)| frame.ends_with(work)) {
                confusion.add(name, label, sample.count);
            }
        }
    });
    println!("{expected}: {ids} ids for {SPANS} spans\n{confusion}\n{stats}");
    assert!(ids < SPANS / 2, "ids did not come back, so this shows nothing");
    for (_, name) in NAMES {
        assert!(confusion.count(name, name) > 0, "no sample of {name}");
        assert_eq!(
            confusion.total(name),
            confusion.count(name, name),
            "samples of {name} with another label"
        );
    }
}

#[test]
fn an_id_that_comes_back_does_not_bring_the_old_name_with_perf() {
    check(Engine::Perf, "perf");
}

#[test]
fn an_id_that_comes_back_does_not_bring_the_old_name_with_timers() {
    check(Engine::Timer, "timer");
}

//! What the layer knows of spans: how often they were polled, moved and closed, whichever way they are
//! used, to the last one; and which samples are theirs.
#![cfg(target_os = "linux")]

mod support;

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use pollscope::{Engine, Profiler};
use support::{Recording, burn_cpu, take_turn};
use tokio::runtime::{Builder as RuntimeBuilder, Runtime};
use tokio::task::LocalSet;
use tracing::{Dispatch, Instrument, Span, info_span};
use tracing_subscriber::prelude::*;

/// Runs `work` under a profiler and its layer alone; what it made of the spans.
fn recorded(work: impl FnOnce(&Dispatch)) -> Recording {
    let recording = Recording::default();
    let profiler = recording.builder().engine(Engine::Timer).hertz(250).start().expect("a profiler");
    let dispatch = dispatch(&profiler);
    tracing::dispatcher::with_default(&dispatch, || work(&dispatch));
    profiler.stop();
    recording
}

fn dispatch(profiler: &Profiler) -> Dispatch {
    tracing_subscriber::registry().with(profiler.layer()).into()
}

/// A line for each path: `polls/migrations/closed`.
fn lines(recording: &Recording) -> String {
    let mut paths: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    for profile in recording.profiles().iter() {
        for span in &profile.spans {
            let sums = paths.entry(span.path.join(" › ")).or_default();
            sums.0 += span.polls;
            sums.1 += span.migrations;
            sums.2 += span.closed;
        }
    }
    let line = |(path, (polls, moved, closed)): (&String, &(u64, u64, u64))| {
        format!("{path} {polls}/{moved}/{closed}\n")
    };
    paths.iter().map(line).collect()
}

fn check(work: impl FnOnce(&Dispatch), expected: &[&str]) {
    let _turn = take_turn();
    let lines = lines(&recorded(work));
    assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
}

/// A runtime whose threads all have this subscriber.
fn runtime(builder: &mut RuntimeBuilder, dispatch: &Dispatch) -> Runtime {
    let dispatch = dispatch.clone();
    let on_start = move || std::mem::forget(tracing::dispatcher::set_default(&dispatch));
    builder.on_thread_start(on_start).enable_all().build().expect("a runtime")
}

fn on_another_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().expect("no panic"))
}

#[test]
fn nested_entered_again_and_left_out_of_order() {
    check(
        |_| {
            let outer = info_span!("outer");
            outer.in_scope(|| info_span!("inner").in_scope(|| info_span!("leaf").in_scope(|| ())));
            // Within itself.
            outer.in_scope(|| outer.in_scope(|| ()));
            let inner = outer.in_scope(|| info_span!("inner"));
            let (left_first, left_last) = (outer.enter(), inner.enter());
            drop(left_first);
            drop(left_last);
        },
        &["outer 5/0/1", "outer › inner 2/0/2", "outer › inner › leaf 1/0/1"],
    );
}

#[test]
fn explicit_parents() {
    check(
        |_| {
            let parent = info_span!("parent");
            let current = info_span!("current").entered();
            info_span!(parent: &parent, "child").in_scope(|| info_span!("grandchild").in_scope(|| ()));
            info_span!(parent: None, "alone").in_scope(|| ());
            info_span!("contextual").in_scope(|| ());
            drop(current);
        },
        &[
            "alone 1/0/1",
            "current 1/0/1",
            "current › contextual 1/0/1",
            // A parent need not be entered.
            "parent 0/0/1",
            "parent › child 1/0/1",
            "parent › child › grandchild 1/0/1",
        ],
    );
}

#[test]
fn one_span_on_many_threads() {
    check(
        |dispatch| {
            let span = info_span!("wandering");
            span.in_scope(|| ());
            span.in_scope(|| ());
            on_another_thread(|| span.in_scope(|| ()));
            span.in_scope(|| ());
            // Made here, entered and closed elsewhere.
            let sent = info_span!("sent");
            on_another_thread(move || drop(sent.entered()));
            // On two threads at once, each in its own child.
            let barrier = Barrier::new(2);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let _default = tracing::dispatcher::set_default(dispatch);
                        let _child = info_span!(parent: &span, "child").entered();
                        barrier.wait();
                    });
                }
            });
        },
        &["sent 1/0/1", "wandering 4/2/1", "wandering › child 2/0/2"],
    );
}

#[test]
fn a_task_that_moves_from_worker_to_worker() {
    check(
        |dispatch| {
            // Each poll on a runtime of its own, so each on another thread.
            let runtimes: Vec<_> = (0..4)
                .map(|_| runtime(RuntimeBuilder::new_multi_thread().worker_threads(1), dispatch))
                .collect();
            let mut task = Box::pin(
                async {
                    for _ in 0..3 {
                        tokio::task::yield_now().await;
                    }
                }
                .instrument(info_span!("task")),
            );
            for runtime in &runtimes {
                let step = async move {
                    let done =
                        std::future::poll_fn(|cx| std::task::Poll::Ready(task.as_mut().poll(cx))).await;
                    (task, done.is_ready())
                };
                let done;
                (task, done) = runtime.block_on(runtime.spawn(step)).expect("no panic");
                assert_eq!(done, std::ptr::eq(runtime, &runtimes[3]));
            }
            // Dropping the task enters its span once more, here.
            drop(task);
        },
        &["task 5/4/1"],
    );
}

#[test]
fn every_way_to_run_a_task() {
    check(
        |dispatch| {
            let many = runtime(RuntimeBuilder::new_multi_thread().worker_threads(2), dispatch);
            let root = info_span!("root").entered();
            many.block_on(async {
                tokio::spawn(async {}.instrument(info_span!("spawned"))).await.expect("no panic");
                let blocking = info_span!("blocking");
                tokio::task::spawn_blocking(move || blocking.in_scope(|| ())).await.expect("no panic");
                let in_place = info_span!("in_place");
                let block = async move { tokio::task::block_in_place(|| in_place.in_scope(|| ())) };
                tokio::spawn(block).await.expect("no panic");
                // A task is in no span unless it is told to be.
                tokio::spawn(async { info_span!("loose").in_scope(|| ()) }).await.expect("no panic");
            });
            drop(root);
            let one = runtime(&mut RuntimeBuilder::new_current_thread(), dispatch);
            LocalSet::new().block_on(&one, async {
                let local = async { info_span!("inner").in_scope(|| ()) }.instrument(info_span!("local"));
                tokio::task::spawn_local(local).await.expect("no panic");
            });
        },
        // `Instrumented` enters once a poll, and once more to drop the future.
        &[
            "local 2/0/1",
            "local › inner 1/0/1",
            "loose 1/0/1",
            "root 1/0/1",
            "root › blocking 1/0/1",
            "root › in_place 1/0/1",
            "root › spawned 2/0/1",
        ],
    );
}

#[inline(never)]
fn work_ancestor() {
    burn_cpu(Duration::from_millis(60));
}

#[inline(never)]
fn work_descendant() {
    burn_cpu(Duration::from_millis(120));
}

/// The samples of the functions, by the path they are labelled with.
fn samples_by_path(recording: &Recording) -> BTreeMap<(String, String), u64> {
    let mut counts = BTreeMap::new();
    recording.for_each_sample(|profile, sample| {
        let work =
            profile.frames(sample).filter_map(|f| f.rsplit("::").next()).find(|f| f.starts_with("work_"));
        let path = sample.span.as_ref().map_or(String::new(), |span| span.path.join(" › "));
        if let Some(work) = work {
            *counts.entry((work.to_owned(), path)).or_default() += sample.count;
        }
    });
    counts
}

#[test]
fn samples_have_the_path_of_their_span_in_spawned_tasks_too() {
    let _turn = take_turn();
    let recording = recorded(|dispatch| {
        let many = runtime(RuntimeBuilder::new_multi_thread().worker_threads(2), dispatch);
        let root = info_span!("root");
        let end = Instant::now() + Duration::from_millis(400);
        many.block_on(async {
            while Instant::now() < end {
                let task = root.in_scope(|| {
                    work_ancestor();
                    tokio::spawn(async { work_descendant() }.instrument(info_span!("child")))
                });
                // The root is left, and open.
                task.await.expect("no panic");
            }
        });
    });
    let counts = samples_by_path(&recording);
    println!("{counts:?}");
    let paths: Vec<_> = counts.keys().map(|(work, path)| format!("{work} in {path}")).collect();
    assert_eq!(paths, ["work_ancestor in root", "work_descendant in root › child"]);
    let usage = recording.profiles().iter().flat_map(|p| p.spans.clone()).fold(
        BTreeMap::<_, u64>::new(),
        |mut sums, span| {
            *sums.entry(span.path.join(" › ")).or_default() += span.samples;
            sums
        },
    );
    // What a path did is what the samples say.
    for (path, samples) in &usage {
        let mut labelled = 0;
        recording.for_each_sample(|_, sample| {
            labelled +=
                sample.count * u64::from(sample.span.as_ref().is_some_and(|s| s.path.join(" › ") == *path));
        });
        assert_eq!(*samples, labelled, "{path}");
    }
}

#[test]
fn a_layer_without_its_profiler_does_nothing() {
    let _turn = take_turn();
    let start = || Recording::default().builder().engine(Engine::Timer).start().expect("a profiler");
    let first = start();
    let dispatch = dispatch(&first);
    tracing::dispatcher::with_default(&dispatch, || {
        let open = info_span!("open").entered();
        first.stop();
        let recording = Recording::default();
        let second = recording.builder().engine(Engine::Timer).start().expect("a profiler");
        info_span!("late").in_scope(|| info_span!("later").in_scope(|| ()));
        let later = self::dispatch(&second);
        tracing::dispatcher::with_default(&later, || info_span!("followed").in_scope(|| ()));
        second.stop();
        assert_eq!(lines(&recording), "followed 1/0/1\n");
        drop(open);
        assert_eq!(Span::current().id(), None);
    });
}

#[test]
fn two_layers_on_one_registry_with_more_spans_than_the_index_holds() {
    let _turn = take_turn();
    let recording = Recording::default();
    let profiler = recording.builder().engine(Engine::Timer).start().expect("a profiler");
    let subscriber = tracing_subscriber::registry().with(profiler.layer()).with(profiler.layer());
    tracing::subscriber::with_default(subscriber, || {
        let spans: Vec<_> = (0..60_000).map(|_| info_span!("crowd")).collect();
        for span in &spans {
            span.in_scope(|| ());
        }
    });
    profiler.stop();
    // Each span is followed by both.
    assert_eq!(lines(&recording), "crowd 120000/0/120000\n");
}

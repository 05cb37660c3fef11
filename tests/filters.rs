//! Layers and filters beside Pollscope's work as they do without it: what they saw they see, and what
//! nobody wants costs as little as before.
#![cfg(target_os = "linux")]

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};

use pollscope::{Engine, Profiler};
use support::{Recording, take_turn};
use tracing::{Dispatch, Level, Subscriber, debug, debug_span, info, info_span, warn};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry, fmt};

/// What an fmt layer wrote.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(text);
        Ok(text.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    /// A layer that writes `span:span: message` lines here.
    fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        fmt::layer()
            .without_time()
            .with_level(false)
            .with_target(false)
            .with_ansi(false)
            .with_writer(self.clone())
    }

    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut self.0.lock().expect("no panic"))).expect("text")
    }
}

/// Runs `work` with this subscriber on a thread of its own: asking what is enabled without doing it
/// leaves marks in the thread, which the next subscriber there stumbles over.
fn with<T: Send>(dispatch: &Dispatch, work: impl FnOnce() -> T + Send) -> T {
    let work = || tracing::dispatcher::with_default(dispatch, work);
    std::thread::scope(|scope| scope.spawn(work).join().expect("no panic"))
}

/// The same spans and events each time.
fn work(dispatch: &Dispatch) {
    with(dispatch, || {
        work_here();
        // Nothing is left in the thread: a registry that knows no filter would notice.
        tracing::subscriber::with_default(Registry::default(), work_here);
    });
}

fn work_here() {
    let _outer = info_span!("outer").entered();
    let _hidden = debug_span!("hidden").entered();
    let _inner = info_span!("inner").entered();
    warn!("warn");
    info!("info");
    debug!("debug");
}

/// What is asked for, by kind and level.
fn wanted(dispatch: &Dispatch) -> String {
    with(dispatch, || {
        let answers = [
            ("warn", tracing::event_enabled!(Level::WARN)),
            ("info", tracing::event_enabled!(Level::INFO)),
            ("debug", tracing::event_enabled!(Level::DEBUG)),
            ("info span", tracing::span_enabled!(Level::INFO)),
            ("debug span", tracing::span_enabled!(Level::DEBUG)),
        ];
        answers.iter().filter(|(_, wanted)| *wanted).map(|&(name, _)| name).collect::<Vec<_>>().join(", ")
    })
}

/// Each stack of layers without Pollscope's and with it, on either side.
fn stacks(log: &Log, profiler: &Profiler, filter: &str) -> Vec<(&'static str, [Dispatch; 3])> {
    let parse = || EnvFilter::new(filter);
    vec![
        (
            "no filter",
            [
                Registry::default().with(log.layer()).into(),
                Registry::default().with(profiler.layer()).with(log.layer()).into(),
                Registry::default().with(log.layer()).with(profiler.layer()).into(),
            ],
        ),
        (
            "filter of the other layer",
            [
                Registry::default().with(log.layer().with_filter(parse())).into(),
                Registry::default().with(profiler.layer()).with(log.layer().with_filter(parse())).into(),
                Registry::default().with(log.layer().with_filter(parse())).with(profiler.layer()).into(),
            ],
        ),
        (
            "global filter",
            [
                Registry::default().with(parse()).with(log.layer()).into(),
                Registry::default().with(parse()).with(profiler.layer()).with(log.layer()).into(),
                Registry::default().with(log.layer()).with(profiler.layer()).with(parse()).into(),
            ],
        ),
        (
            "in an Option, a Box and a Vec",
            [
                Registry::default().with(log.layer().with_filter(parse())).into(),
                Registry::default()
                    .with(Some(profiler.layer()))
                    .with(log.layer().with_filter(parse()))
                    .into(),
                Registry::default()
                    .with(vec![profiler.layer().boxed()])
                    .with(log.layer().with_filter(parse()))
                    .into(),
            ],
        ),
    ]
}

#[test]
fn a_layer_of_a_profiler_that_is_off_changes_nothing() {
    // What a callsite is asked for depends on all subscribers that there are.
    let _turn = take_turn();
    for profiler in [
        Recording::default().builder().enabled(false).start().expect("nothing to start"),
        Recording::default().builder().engine(Engine::Off).start().expect("nothing to start"),
    ] {
        let log = Log::default();
        for (name, [without, before, after]) in stacks(&log, &profiler, "info") {
            work(&without);
            let written = log.take();
            assert!(written.contains("outer:") && written.contains("info"), "{name}: {written}");
            for with in [&before, &after] {
                work(with);
                assert_eq!(log.take(), written, "{name}");
                assert_eq!(wanted(with), wanted(&without), "{name}");
            }
        }
        // Alone it wants nothing at all.
        assert_eq!(wanted(&Registry::default().with(profiler.layer()).into()), "");
    }
}

#[test]
fn a_layer_that_follows_spans_lets_the_others_see_what_they_saw() {
    let _turn = take_turn();
    let recording = Recording::default();
    let profiler = recording.builder().engine(Engine::Timer).start().expect("a profiler");
    let log = Log::default();
    for (name, [without, before, after]) in stacks(&log, &profiler, "info") {
        work(&without);
        let written = log.take();
        for with in [&before, &after] {
            work(with);
            assert_eq!(log.take(), written, "{name}");
            // No event is collected that nobody collected before.
            let events = |dispatch| wanted(dispatch).replace(", info span", "").replace(", debug span", "");
            assert_eq!(events(with), events(&without), "{name}");
        }
    }
    assert_eq!(wanted(&Registry::default().with(profiler.layer()).into()), "info span, debug span");
    profiler.stop();
}

/// The paths of the spans that `dispatch` shows to its profiler.
fn paths(with_layer: impl FnOnce(&Profiler) -> Dispatch) -> Vec<String> {
    let recording = Recording::default();
    let profiler = recording.builder().engine(Engine::Timer).start().expect("a profiler");
    work(&with_layer(&profiler));
    profiler.stop();
    let profiles = recording.profiles();
    let mut paths: Vec<_> = profiles.iter().flat_map(|p| &p.spans).map(|s| s.path.join(" › ")).collect();
    paths.dedup();
    paths
}

#[test]
fn spans_that_are_hidden_leave_their_children_to_their_parents() {
    let _turn = take_turn();
    let whole = ["outer", "outer › hidden", "outer › hidden › inner"];
    let without_debug = ["outer", "outer › inner"];
    // Hidden from another layer only.
    let other = |profiler: &Profiler| -> Dispatch {
        let log = Log::default().layer().with_filter(LevelFilter::INFO);
        Registry::default().with(profiler.layer()).with(log).into()
    };
    assert_eq!(paths(other), whole);
    // Hidden from all.
    let global =
        |profiler: &Profiler| Registry::default().with(profiler.layer()).with(LevelFilter::INFO).into();
    assert_eq!(paths(global), without_debug);
    // Hidden from the profiler's layer, while another layer has them.
    let ours = |profiler: &Profiler| -> Dispatch {
        let layer = profiler.layer().with_filter(filter_fn(|of| of.name() != "hidden"));
        Registry::default().with(layer).with(Log::default().layer()).into()
    };
    assert_eq!(paths(ours), without_debug);
}

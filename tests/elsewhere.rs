//! What other systems than Linux get, a developer's laptop perhaps: everything compiles and starts,
//! nothing is sampled and the stats say so, and the layer is as good as absent.
//!
//! `RUSTFLAGS="--cfg pollscope_unsupported" cargo test --no-default-features --test elsewhere` builds that
//! variant on Linux. Where threads can be sampled, the same is true of a profiler without an engine.

use pollscope::{Engine, File, Profiler, Stats};
use tracing::{Level, info, info_span};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::prelude::*;

const SUPPORTED: bool = cfg!(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(pollscope_unsupported)
));

/// A profiler with everything chosen that can be; elsewhere whatever the engine.
fn start(engine: Engine) -> Profiler {
    let engine = if SUPPORTED { Engine::Off } else { engine };
    Profiler::builder("laptop")
        .environment(None)
        .engine(engine)
        .every_span()
        .label_field("http.route")
        .export(File::new(std::env::temp_dir().join("pollscope-elsewhere")))
        .start()
        .expect("it starts everywhere")
}

fn check(stats: &Stats) {
    assert_eq!((stats.engine, stats.samples, stats.exports.len()), ("none", 0, 0));
    let reason = if SUPPORTED {
        "profiling is switched off"
    } else {
        "only Linux on x86_64 and aarch64 can be sampled"
    };
    assert_eq!(stats.reason, reason);
    assert!(stats.to_string().contains(reason), "{stats}");
}

/// Counts the spans and events that it is shown.
#[derive(Default)]
struct Counting(std::sync::Arc<std::sync::Mutex<(u32, u32)>>);

impl<S: tracing::Subscriber> Layer<S> for Counting {
    fn on_new_span(&self, _: &tracing::span::Attributes<'_>, _: &tracing::span::Id, _: Context<'_, S>) {
        self.0.lock().expect("no panic").0 += 1;
    }
    fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
        self.0.lock().expect("no panic").1 += 1;
    }
}

#[test]
fn it_starts_says_why_nothing_is_sampled_and_stops() {
    for engine in [Engine::Auto, Engine::Perf, Engine::Timer] {
        let profiler = start(engine);
        check(&profiler.stats());
        assert!(format!("{profiler:?}").contains("none"));
        profiler.set_hertz(1000).expect("within bounds");
        assert!(profiler.set_hertz(0).is_err());
        profiler.pause();
        profiler.resume();
        // There can be any number of them.
        let another = start(engine);
        check(&another.stop());
        check(&profiler.stop());
    }
}

#[test]
fn the_layer_asks_for_nothing_and_lets_everything_through() {
    let profiler = start(Engine::Auto);
    let alone = tracing_subscriber::registry().with(profiler.layer());
    tracing::subscriber::with_default(alone, || {
        assert!(info_span!("nobody wants it").is_disabled());
        assert!(!tracing::event_enabled!(Level::ERROR));
    });
    let counting = Counting::default();
    let counts = counting.0.clone();
    let both = tracing_subscriber::registry()
        .with(profiler.layer())
        .with(counting.with_filter(LevelFilter::INFO))
        .with(Some(profiler.layer()));
    tracing::subscriber::with_default(both, || {
        let span = info_span!("wanted", http.route = "/");
        span.in_scope(|| info!("an event"));
        span.record("http.route", "/other");
        tracing::debug!("hidden");
    });
    assert_eq!(*counts.lock().expect("no panic"), (1, 1));
    check(&profiler.stop());
}

#[test]
fn what_makes_no_sense_is_an_error_everywhere() {
    let error = Profiler::builder("laptop").environment(None).hertz(0).start().expect_err("out of bounds");
    assert_eq!(error.to_string(), "a rate of 0 Hz is out of bounds: 1 to 10000 go");
}

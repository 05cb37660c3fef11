//! What following a span costs the thread that runs it: `cargo bench --bench span`.
//!
//! `enter_exit` is one enter and exit of an open span; `life` is a span from new to closed, entered
//! once. What Pollscope adds is the difference between two subscribers of one table. The first one
//! has an empty layer, because a registry with no layer at all never frees a span.

use std::hint::black_box;

use divan::Bencher;
use opentelemetry::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, Span, SpanData, SpanProcessor};
use pollscope::Profiler;
use tracing::dispatcher::{self, Dispatch};
use tracing::info_span;
use tracing_opentelemetry::layer as otel_layer;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry;

/// Subscribers by what they are made of.
const SUBSCRIBERS: [&str; 4] =
    ["registry", "registry + pollscope", "registry + otel", "registry + pollscope + otel"];

#[divan::bench(args = SUBSCRIBERS, sample_count = 1000, sample_size = 1000)]
fn enter_exit(bencher: Bencher<'_, '_>, subscriber: &str) {
    under(subscriber, || {
        let span = info_span!("work");
        bencher.bench_local(|| black_box(&span).in_scope(|| black_box(())));
    });
}

#[divan::bench(args = SUBSCRIBERS, sample_count = 1000, sample_size = 100)]
fn life(bencher: Bencher<'_, '_>, subscriber: &str) {
    under(subscriber, || {
        bencher.bench_local(|| info_span!("work").in_scope(|| black_box(())));
    });
}

/// Calls `bench` with this subscriber as the thread's default, while the profiler samples at its
/// default rate.
fn under(subscriber: &str, bench: impl FnOnce()) {
    let profiler = Profiler::builder("bench").environment(None).start().expect("a profiler");
    let traces = SdkTracerProvider::builder().with_span_processor(Discard).build();
    let tracer = traces.tracer("bench");
    let dispatch = match subscriber {
        "registry" => Dispatch::new(registry().with(Nothing)),
        "registry + pollscope" => Dispatch::new(registry().with(profiler.layer())),
        "registry + otel" => Dispatch::new(registry().with(otel_layer().with_tracer(tracer))),
        _ => Dispatch::new(registry().with(profiler.layer()).with(otel_layer().with_tracer(tracer))),
    };
    dispatcher::with_default(&dispatch, bench);
}

struct Nothing;

impl<S: tracing::Subscriber> Layer<S> for Nothing {}

/// Takes finished OpenTelemetry spans, which without any processor would not be recorded.
#[derive(Debug)]
struct Discard;

impl SpanProcessor for Discard {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        drop(black_box(span));
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: std::time::Duration) -> OTelSdkResult {
        Ok(())
    }
}

fn main() {
    divan::main();
}

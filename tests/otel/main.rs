//! Profiles and OpenTelemetry spans point at each other: what is on the spans that the program exports,
//! and on the samples, whichever way the layers are put together.
#![cfg(all(target_os = "linux", feature = "otel"))]

mod close;
mod marks;
mod said;
mod scopes;
#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};
use pollscope::{Builder, Engine, Profiler, Stats};
use support::{Recording, burn_cpu};
use tracing::Dispatch;
use tracing_subscriber::prelude::*;

const PROFILE_ID: &str = "pyroscope.profile.id";

/// Keeps the spans that are exported.
#[derive(Clone, Debug, Default)]
struct Exported(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Exported {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().expect("no panic while it was held").extend(batch);
        Ok(())
    }
}

/// How the layers are put together.
#[derive(Clone, Debug)]
struct Stack {
    context_activation: bool,
    ours_first: bool,
    sampler: Sampler,
    max_attributes: u32,
}

impl Default for Stack {
    fn default() -> Self {
        Self { context_activation: true, ours_first: true, sampler: Sampler::AlwaysOn, max_attributes: 128 }
    }
}

impl Stack {
    /// All that should make no difference to ids.
    fn all() -> impl Iterator<Item = Self> {
        [(true, true), (true, false), (false, true), (false, false)].into_iter().map(
            |(context_activation, ours_first)| Self { context_activation, ours_first, ..Self::default() },
        )
    }

    fn dispatch(&self, profiler: &Profiler, exported: &Exported) -> (Dispatch, SdkTracerProvider) {
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exported.clone())
            .with_sampler(self.sampler.clone())
            .with_max_attributes_per_span(self.max_attributes)
            .build();
        let tracer = provider.tracer("test");
        let dispatch = if self.ours_first {
            let otel = tracing_opentelemetry::layer().with_tracer(tracer);
            let otel = otel.with_context_activation(self.context_activation);
            tracing_subscriber::registry().with(profiler.layer()).with(otel).into()
        } else {
            let otel = tracing_opentelemetry::layer().with_tracer(tracer);
            let otel = otel.with_context_activation(self.context_activation);
            tracing_subscriber::registry().with(otel).with(profiler.layer()).into()
        };
        (dispatch, provider)
    }

    /// Runs `work` under a profiler with these layers.
    fn run(&self, choose: impl FnOnce(Builder) -> Builder, work: impl FnOnce(&Dispatch)) -> Traced {
        let recording = Recording::default();
        let builder = recording.builder().engine(Engine::Timer).hertz(250);
        let profiler = choose(builder).start().expect("a profiler");
        let exported = Exported::default();
        let (dispatch, provider) = self.dispatch(&profiler, &exported);
        tracing::dispatcher::with_default(&dispatch, || work(&dispatch));
        drop(dispatch);
        provider.shutdown().expect("nothing to wait for");
        let stats = profiler.stop();
        let spans = std::mem::take(&mut *exported.0.lock().expect("no panic while it was held"));
        Traced { recording, stats, spans }
    }
}

/// What came out of a run.
struct Traced {
    recording: Recording,
    stats: Stats,
    spans: Vec<SpanData>,
}

impl Traced {
    fn span(&self, name: &str) -> &SpanData {
        self.spans.iter().find(|span| span.name == name).expect(name)
    }

    /// The values of an attribute of a span: one for each time it is there.
    fn attributes(span: &SpanData, key: &str) -> Vec<String> {
        span.attributes.iter().filter(|kv| kv.key.as_str() == key).map(|kv| kv.value.to_string()).collect()
    }

    fn number(span: &SpanData, key: &str) -> u64 {
        let values = Self::attributes(span, key);
        assert_eq!(values.len(), 1, "{key} of {}", span.name);
        values[0].parse().expect("a number")
    }

    /// Names of the spans that are marked as having a profile. Each mark is the span's own id, once.
    fn marked(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for span in &self.spans {
            let marks = Self::attributes(span, PROFILE_ID);
            if !marks.is_empty() {
                assert_eq!(marks, [span.span_context.span_id().to_string()], "{}", span.name);
                assert_eq!(marks[0].len(), 16);
                names.push(&*span.name);
            }
        }
        names.sort_unstable();
        names
    }

    /// Each exported span's id and the ids above it, as its own exporter knows them.
    fn ancestry(&self) -> HashMap<u64, Vec<u64>> {
        let parents: HashMap<u64, u64> = self
            .spans
            .iter()
            .map(|span| (id(span), u64::from_be_bytes(span.parent_span_id.to_bytes())))
            .collect();
        let chain = |&id: &u64| {
            std::iter::successors(Some(id), |id| {
                parents.get(id).copied().filter(|id| parents.contains_key(id))
            })
        };
        parents.keys().map(|id| (*id, chain(id).collect())).collect()
    }

    /// The samples of `process_cpu` by span name, ids and innermost span.
    fn labels(&self) -> BTreeMap<Label, u64> {
        let mut labels = BTreeMap::new();
        self.recording.for_each_sample(|profile, sample| {
            if let (pollscope::ProfileKind::ProcessCpu, Some(span)) = (profile.kind, &sample.span) {
                let label = Label {
                    innermost: span.path.last().expect("not empty").to_string(),
                    name: span.name.to_string(),
                    span_id: span.span_id,
                    trace_id: span.trace_id,
                };
                *labels.entry(label).or_default() += sample.count;
            }
        });
        labels
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Label {
    innermost: String,
    name: String,
    span_id: Option<u64>,
    trace_id: Option<u128>,
}

fn id(span: &SpanData) -> u64 {
    u64::from_be_bytes(span.span_context.span_id().to_bytes())
}

fn trace_id(span: &SpanData) -> u128 {
    u128::from_be_bytes(span.span_context.trace_id().to_bytes())
}

/// A parent in another process.
fn remote(trace: u128, span: u64) -> opentelemetry::Context {
    opentelemetry::Context::new().with_remote_span_context(SpanContext::new(
        TraceId::from(trace),
        SpanId::from(span),
        TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    ))
}

/// Long enough to be sampled.
#[inline(never)]
fn work() {
    burn_cpu(Duration::from_millis(100));
}

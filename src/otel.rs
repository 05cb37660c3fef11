//! The link with OpenTelemetry: ids from its spans, and what the profile knows back onto them.
//!
//! Ids are read when a span is first entered, which is when `tracing-opentelemetry` starts the
//! OpenTelemetry span anyway (unless its context activation is off); any earlier would take from the
//! program its chance to set a remote parent.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use opentelemetry::KeyValue;
use opentelemetry::trace::TraceContextExt;
use tracing::Dispatch;
use tracing::dispatcher::WeakDispatch;
use tracing::span::Id;
use tracing_opentelemetry::get_otel_context;

use crate::report;
use crate::span::record::SpanRecord;

/// Spans without a trace until the user is told: some may come before the subscriber is complete.
const SPANS_UNTIL_WARNED: u32 = 100;

/// The versions of the crates whose spans can be seen from here.
const TRACING_OPENTELEMETRY: &str = "0.34";
const OPENTELEMETRY: &str = "0.33";

/// Marks a span that has a profile, for Grafana.
const PROFILE_ID: &str = "pyroscope.profile.id";

/// What goes onto OpenTelemetry spans.
#[derive(Debug, Default)]
pub(crate) struct LinkOptions {
    /// Whether every span gets a profile id, and not the local root alone.
    pub(crate) every_span: bool,
    /// Something says that this program makes traces, so having none is worth a word.
    pub(crate) traces_expected: bool,
    /// Nanoseconds that a sample stands for; 0 when samples are not CPU time.
    pub(crate) period_ns: AtomicU64,
}

/// One layer's way to the OpenTelemetry layer beside it.
#[derive(Default)]
pub(crate) struct Linker {
    dispatch: OnceLock<WeakDispatch>,
    /// An OpenTelemetry context was seen on this layer's spans.
    answered: AtomicBool,
    /// Spans that had none.
    unanswered: AtomicU32,
    /// The user was told that the layers are in the wrong order.
    order_said: AtomicBool,
}

impl Linker {
    pub(crate) fn set_dispatch(&self, dispatch: &Dispatch) {
        // A subscriber is registered once for each dispatch made of it; any of them leads to it.
        let _ = self.dispatch.set(dispatch.downgrade());
    }

    pub(crate) fn has_dispatch(&self) -> bool {
        self.dispatch.get().is_some()
    }

    /// Reads the ids of a span that is entered for the first time, and of those of its ancestors
    /// that never were. `ancestry` begins with the span itself.
    pub(crate) fn link(
        &self,
        ancestry: impl Iterator<Item = (Id, &'static SpanRecord)>,
        options: &LinkOptions,
    ) {
        let unlinked: Vec<_> = ancestry.take_while(|(_, record)| !record.is_linked()).collect();
        for (id, record) in unlinked.into_iter().rev() {
            self.link_one(&id, record, options);
        }
    }

    /// Reads the ids of a span whose parent's are known.
    pub(crate) fn link_one(&self, id: &Id, record: &SpanRecord, options: &LinkOptions) {
        let Some(dispatch) = self.dispatch.get().and_then(WeakDispatch::upgrade) else {
            return record.set_unlinked();
        };
        let Some(context) = get_otel_context(id, &dispatch) else {
            self.note_unanswered(options);
            return record.set_unlinked();
        };
        self.answered.store(true, Ordering::Relaxed);
        let span = context.span();
        let ids = span.span_context();
        // The trace's store will not have what is not sampled.
        if !ids.is_valid() || !ids.is_sampled() {
            return record.set_unlinked();
        }
        let span_id = u64::from_be_bytes(ids.span_id().to_bytes());
        let trace_id = u128::from_be_bytes(ids.trace_id().to_bytes());
        // The local root is the first span of its trace in this process: its parent is in another
        // process, or in another trace, or there is none.
        let parent = record.parent().map(SpanRecord::identity).filter(|parent| parent.trace_id == trace_id);
        let (root_span_id, root_path) = match parent {
            Some(parent) => (parent.root_span_id, parent.root_path),
            None => (span_id, record.path()),
        };
        if (parent.is_none() || options.every_span) && record.claim_mark() {
            span.set_attribute(KeyValue::new(PROFILE_ID, format!("{span_id:016x}")));
        }
        record.set_link(span_id, root_span_id, root_path, trace_id);
    }

    /// Traces are expected and none is found: perhaps the program's OpenTelemetry layer is of another
    /// version of its crate than ours, whose spans cannot be seen from here.
    fn note_unanswered(&self, options: &LinkOptions) {
        if options.traces_expected
            && !self.answered.load(Ordering::Relaxed)
            && self.unanswered.fetch_add(1, Ordering::Relaxed) == SPANS_UNTIL_WARNED
        {
            report::say(&format!(
                "profiles are not linked with traces: no OpenTelemetry layer answers for the spans. \
                 There must be one of tracing-opentelemetry {TRACING_OPENTELEMETRY} (opentelemetry \
                 {OPENTELEMETRY}), the version that this pollscope links: `cargo tree -i \
                 tracing-opentelemetry` shows the program's"
            ));
        }
    }

    /// Writes what the profile knows of a span onto it, just before it closes.
    pub(crate) fn report(&self, record: &SpanRecord, id: &Id, options: &LinkOptions) {
        if record.identity().span_id == 0 {
            return;
        }
        let Some(dispatch) = self.dispatch.get().and_then(WeakDispatch::upgrade) else { return };
        let Some(context) = get_otel_context(id, &dispatch) else {
            if !self.order_said.swap(true, Ordering::Relaxed) {
                report::say(
                    "spans get no pollscope.* attributes, because the OpenTelemetry layer comes before \
                     Pollscope's: use registry().with(profiler.layer()).with(opentelemetry_layer)",
                );
            }
            return;
        };
        // A parent closes after all its children, whatever tasks they are in: nothing is missing.
        let life = record.life();
        let period_ns = options.period_ns.load(Ordering::Relaxed);
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let mut attributes = vec![
            KeyValue::new("pollscope.samples", number(life.samples)),
            KeyValue::new("pollscope.polls", i64::from(life.polls)),
            KeyValue::new("pollscope.migrations", i64::from(life.migrations)),
        ];
        if period_ns != 0 {
            // An estimate: a span shorter than the period has none or one.
            attributes
                .push(KeyValue::new("pollscope.cpu_ns", number(life.samples.saturating_mul(period_ns))));
        }
        context.span().set_attributes(attributes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The version that the manifest asks for, as written or as cargo publishes it.
    fn wanted(name: &str) -> String {
        let manifest = include_str!("../Cargo.toml");
        let (_, after) = manifest
            .split_once(&format!("\n{name} = {{"))
            .or_else(|| manifest.split_once(&format!("\n[dependencies.{name}]")))
            .expect("a dependency");
        let (_, version) = after.split_once("version = \"").expect("a version");
        version.split('"').next().unwrap_or_default().to_owned()
    }

    #[test]
    fn the_versions_that_are_named_are_those_that_are_linked() {
        assert_eq!(wanted("tracing-opentelemetry"), TRACING_OPENTELEMETRY);
        assert_eq!(wanted("opentelemetry"), OPENTELEMETRY);
    }
}

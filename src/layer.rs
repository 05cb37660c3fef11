//! The `tracing` layer: what a subscriber calls, and what it needs to know of us.

use std::any::TypeId;

use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Dispatch, Event, Metadata, Subscriber};
use tracing_subscriber::filter::{Filtered, LevelFilter};
use tracing_subscriber::layer::{Context, Filter, Layer};
use tracing_subscriber::registry::LookupSpan;

#[cfg(sampling)]
use crate::follow::Follower;
#[cfg(not(sampling))]
use crate::running::Follower;

/// A `tracing-subscriber` layer that follows spans for a [`Profiler`](crate::Profiler).
///
/// Put it before the OpenTelemetry layer: `registry().with(profiler.layer()).with(otel)`. It takes
/// part in no decision about spans or events other than its own. When nothing is sampled it follows
/// nothing, and asks for no span.
///
/// Where an OpenTelemetry layer answers (feature `otel`), spans of sampled traces get these attributes:
///
/// | attribute | on | is |
/// |---|---|---|
/// | `pyroscope.profile.id` | local roots: the first span of a trace in this process. With [`every_span`](crate::Builder::every_span) or [`SpanScope::Innermost`](crate::SpanScope::Innermost), all | the span's own id |
/// | `pollscope.samples` | all | samples of the span and of all spans within it |
/// | `pollscope.cpu_ns` | all, when CPU time is sampled | the samples times the sampling period: an estimate |
/// | `pollscope.polls` | all | how often it was entered. A future made by `instrument` enters once more when it is dropped |
/// | `pollscope.migrations` | all | how often it was entered on another thread than the time before |
///
/// The first is set when the span, or one within it, is first entered; a span of which neither ever
/// was has none of them. The others are set when it closes, which is when the last span within it has
/// closed, so spawned tasks with spans within it are counted to their ends. That needs the order
/// above. A span that has as many attributes as it may have (128 by default) takes no more.
///
/// The first enter also starts the OpenTelemetry span: a parent must be set before
/// (`OpenTelemetrySpanExt::set_parent`), even without context activation.
pub struct SpanLayer<S> {
    /// Declares that events are of no interest here. Without it the mere presence of a layer makes
    /// `tracing` collect every event that other layers' filters refuse.
    gate: Filtered<Nothing, Gate, S>,
    /// `None` when nothing is sampled.
    follower: Option<Follower<S>>,
}

impl<S> SpanLayer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    pub(crate) fn new(follower: Option<Follower<S>>) -> Self {
        Self { gate: Nothing.with_filter(Gate { spans: follower.is_some() }), follower }
    }

    #[cfg(all(sampling, feature = "otel"))]
    pub(crate) fn follower(&self) -> Option<&Follower<S>> {
        self.follower.as_ref()
    }
}

impl<S> Layer<S> for SpanLayer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attrs: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        // Clears what the gate left for this span in the thread's filter state.
        self.gate.on_new_span(attrs, id, ctx.clone());
        if let Some(follower) = &self.follower {
            follower.new_span(attrs, id, &ctx);
        }
    }

    #[inline]
    fn on_enter(&self, id: &Id, ctx: Context<'_, S>) {
        if let Some(follower) = &self.follower {
            follower.enter(id, &ctx);
        }
    }

    #[inline]
    fn on_exit(&self, id: &Id, _ctx: Context<'_, S>) {
        if let Some(follower) = &self.follower {
            follower.exit(id);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        if let Some(follower) = &self.follower {
            follower.record(id, values, &ctx);
        }
    }

    fn on_close(&self, id: Id, ctx: Context<'_, S>) {
        if let Some(follower) = &self.follower {
            follower.close(&id, &ctx);
        }
    }

    fn on_register_dispatch(&self, subscriber: &Dispatch) {
        if let Some(follower) = &self.follower {
            follower.set_dispatch(subscriber);
        }
        self.gate.on_register_dispatch(subscriber);
    }

    // What follows only passes on to the gate.

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        self.gate.on_event(event, ctx);
    }

    fn on_layer(&mut self, subscriber: &mut S) {
        self.gate.on_layer(subscriber);
    }

    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        self.gate.register_callsite(metadata)
    }

    fn enabled(&self, metadata: &Metadata<'_>, ctx: Context<'_, S>) -> bool {
        self.gate.enabled(metadata, ctx)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.gate.max_level_hint()
    }

    unsafe fn downcast_raw(&self, id: TypeId) -> Option<*const ()> {
        if id == TypeId::of::<Self>() {
            return Some(std::ptr::from_ref(self).cast());
        }
        // SAFETY: the gate is part of this layer and lives as long; its answer is passed on as it
        // is. Asked for the mark of a filtering layer, it is one: that is what the gate is for.
        unsafe { self.gate.downcast_raw(id) }
    }
}

/// The layer behind the gate.
struct Nothing;

impl<S: Subscriber> Layer<S> for Nothing {}

/// Lets spans through when they are followed, and never an event.
struct Gate {
    spans: bool,
}

impl<S> Filter<S> for Gate {
    fn enabled(&self, metadata: &Metadata<'_>, _ctx: &Context<'_, S>) -> bool {
        self.spans && metadata.is_span()
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.spans && metadata.is_span() { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // Spans of any level are followed; without them nothing is asked for.
        if self.spans { None } else { Some(LevelFilter::OFF) }
    }
}

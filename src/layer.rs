//! The `tracing` layer: tells each thread which spans it is in.
//!
//! Making a span computes its identity once; entering it finds the identity and pushes it on the
//! thread's stack; leaving pops it. A task that moves to another worker brings its span along,
//! because its next poll enters the span there.

use std::any::TypeId;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Dispatch, Event, Metadata, Subscriber};
use tracing_subscriber::filter::{Filtered, LevelFilter};
use tracing_subscriber::layer::{Context, Filter, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::span::label::{self, Labels};
use crate::span::record::{self, SpanRecord};
use crate::span::{index, path};
use crate::thread;

/// What the layers of one profiler share with it.
pub(crate) struct Tracking {
    /// False once the profiler has stopped: spans made from then on are not followed.
    pub(crate) active: AtomicBool,
    pub(crate) labels: Labels,
    /// Spans that were not followed, because a million were open.
    pub(crate) unfollowed: AtomicU64,
    #[cfg(feature = "otel")]
    pub(crate) link: crate::otel::LinkOptions,
}

/// A `tracing-subscriber` layer that follows spans for a [`Profiler`](crate::Profiler).
///
/// Put it before the OpenTelemetry layer: `registry().with(profiler.layer()).with(otel)`. It takes
/// part in no decision about spans or events other than its own.
pub struct SpanLayer<S> {
    tracking: Option<Arc<Tracking>>,
    /// Tells the spans of this layer's registry from those of others.
    key: u64,
    /// Declares that events are of no interest here. Without it the mere presence of a layer makes
    /// `tracing` collect every event that other layers' filters refuse.
    gate: Filtered<Nothing, SpansOnly, S>,
    #[cfg(feature = "otel")]
    linker: crate::otel::Linker,
}

static NEXT_KEY: AtomicU64 = AtomicU64::new(1);
/// Spans whose record is found through the registry, because the index had no room for them.
static OUTSIDE_INDEX: AtomicU64 = AtomicU64::new(0);

/// In a span's extensions: its record, when the index had no room.
struct Kept(&'static SpanRecord);

impl<S> SpanLayer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    /// Without `tracking`, a layer that does nothing.
    pub(crate) fn new(tracking: Option<Arc<Tracking>>) -> Self {
        Self {
            tracking,
            key: NEXT_KEY.fetch_add(1, Ordering::Relaxed),
            gate: Nothing.with_filter(SpansOnly),
            #[cfg(feature = "otel")]
            linker: Default::default(),
        }
    }

    #[inline]
    fn ident(&self, id: &Id) -> u64 {
        index::ident(self.key, id.into_u64())
    }

    #[inline]
    fn find(&self, ident: u64, id: &Id, ctx: &Context<'_, S>) -> Option<&'static SpanRecord> {
        index::find(ident).or_else(|| {
            if OUTSIDE_INDEX.load(Ordering::Relaxed) == 0 {
                return None;
            }
            find_in_registry(id, ctx)
        })
    }

    /// The record of the nearest span above `id` that this layer follows.
    fn find_parent(&self, attrs: &Attributes<'_>, id: &Id, ctx: &Context<'_, S>) -> Option<&'static SpanRecord> {
        if attrs.is_root() {
            return None;
        }
        let record = match attrs.parent() {
            Some(parent) => self.find(self.ident(parent), parent, ctx),
            None => {
                let current = ctx.current_span();
                let parent = current.id()?;
                self.find(self.ident(parent), parent, ctx)
            }
        };
        record.or_else(|| {
            // The parent is hidden from this layer by a filter, or older than it.
            let span = ctx.span(id)?;
            span.scope().skip(1).find_map(|ancestor| {
                let id = ancestor.id();
                self.find(self.ident(&id), &id, ctx)
            })
        })
    }
}

#[cold]
fn find_in_registry<S>(id: &Id, ctx: &Context<'_, S>) -> Option<&'static SpanRecord>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    ctx.span(id)?.extensions().get::<Kept>().map(|kept| kept.0)
}

impl<S> Layer<S> for SpanLayer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attrs: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        self.gate.on_new_span(attrs, id, ctx.clone());
        let Some(tracking) = &self.tracking else { return };
        if !tracking.active.load(Ordering::Relaxed) {
            return;
        }
        let parent = self.find_parent(attrs, id, &ctx);
        let path = path::child(parent.map_or(path::ROOT, SpanRecord::path), attrs.metadata());
        let mut labels = parent.map_or(label::EMPTY, SpanRecord::labels);
        if !tracking.labels.is_empty() {
            labels = tracking.labels.with(labels, |visit| attrs.record(visit));
        }
        let ident = self.ident(id);
        let Some(record) = record::open(ident, path, labels, parent) else {
            tracking.unfollowed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if !index::insert(ident, record)
            && let Some(span) = ctx.span(id)
        {
            OUTSIDE_INDEX.fetch_add(1, Ordering::Relaxed);
            span.extensions_mut().insert(Kept(record));
        }
    }

    #[inline]
    fn on_enter(&self, id: &Id, ctx: Context<'_, S>) {
        if self.tracking.is_none() {
            return;
        }
        let ident = self.ident(id);
        let Some(record) = self.find(ident, id, &ctx) else { return };
        let Some(slot) = thread::current() else { return };
        if record.entered(slot.index()) {
            self.link(record, id, &ctx);
        }
        slot.spans.push(ident, record);
    }

    #[inline]
    fn on_exit(&self, id: &Id, _ctx: Context<'_, S>) {
        if let Some(slot) = thread::existing() {
            slot.spans.pop(self.ident(id));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        let Some(tracking) = &self.tracking else { return };
        if !tracking.labels.is_empty()
            && let Some(record) = self.find(self.ident(id), id, &ctx)
        {
            record.set_labels(tracking.labels.with(record.labels(), |visit| values.record(visit)));
        }
    }

    fn on_close(&self, id: Id, ctx: Context<'_, S>) {
        if self.tracking.is_none() {
            return;
        }
        let ident = self.ident(&id);
        let (record, indexed) = match index::find(ident) {
            Some(record) => (record, true),
            None if OUTSIDE_INDEX.load(Ordering::Relaxed) == 0 => return,
            None => match find_in_registry(&id, &ctx) {
                Some(record) => (record, false),
                None => return,
            },
        };
        self.report(record, &id);
        if indexed {
            index::remove(ident, record);
        } else {
            OUTSIDE_INDEX.fetch_sub(1, Ordering::Relaxed);
        }
        path::closed(record::close(record));
    }

    // What follows only passes on to the gate.

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        self.gate.on_event(event, ctx);
    }

    fn on_layer(&mut self, subscriber: &mut S) {
        self.gate.on_layer(subscriber);
    }

    fn on_register_dispatch(&self, subscriber: &Dispatch) {
        #[cfg(feature = "otel")]
        self.linker.set_dispatch(subscriber);
        self.gate.on_register_dispatch(subscriber);
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

impl<S> SpanLayer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    #[cfg(feature = "otel")]
    #[cold]
    fn link(&self, _record: &'static SpanRecord, id: &Id, ctx: &Context<'_, S>) {
        let (Some(tracking), Some(span)) = (&self.tracking, ctx.span(id)) else { return };
        let ancestry = span.scope().filter_map(|ancestor| {
            let id = ancestor.id();
            self.find(self.ident(&id), &id, ctx).map(|record| (id, record))
        });
        self.linker.link(ancestry, &tracking.link);
    }

    #[cfg(not(feature = "otel"))]
    fn link(&self, record: &'static SpanRecord, _id: &Id, _ctx: &Context<'_, S>) {
        record.set_unlinked();
    }

    #[cfg(feature = "otel")]
    fn report(&self, record: &'static SpanRecord, id: &Id) {
        if let Some(tracking) = &self.tracking {
            self.linker.report(record, id, &tracking.link);
        }
    }

    #[cfg(not(feature = "otel"))]
    fn report(&self, _record: &'static SpanRecord, _id: &Id) {}
}

/// The layer behind the gate.
struct Nothing;

impl<S: Subscriber> Layer<S> for Nothing {}

/// Lets spans through, and no events.
struct SpansOnly;

impl<S> Filter<S> for SpansOnly {
    fn enabled(&self, metadata: &Metadata<'_>, _ctx: &Context<'_, S>) -> bool {
        metadata.is_span()
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.is_span() { Interest::always() } else { Interest::never() }
    }
}

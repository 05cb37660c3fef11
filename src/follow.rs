//! Following spans: what happens at each of their new, enter, exit, record and close.
//!
//! Making a span computes its identity once; entering it finds the identity and pushes it on the
//! thread's stack; leaving pops it. A task that moves to another worker brings its span along,
//! because its next poll enters the span there.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tracing::Dispatch;
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

#[cfg(feature = "otel")]
use crate::layer::SpanLayer;
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

/// Follows the spans of one registry for one profiler.
pub(crate) struct Follower<S> {
    tracking: Arc<Tracking>,
    /// Tells the spans of this registry from those of others.
    key: u64,
    #[cfg(feature = "otel")]
    linker: crate::otel::Linker,
    _registry: PhantomData<fn(S)>,
}

static NEXT_LAYER: AtomicU64 = AtomicU64::new(1);
/// Spans whose record is found through the registry, because the index had no room for them.
static OUTSIDE_INDEX: AtomicU64 = AtomicU64::new(0);

/// In a span's extensions: its records, one for each layer for which the index had no room.
struct Kept(Vec<&'static SpanRecord>);

impl<S> Follower<S> {
    pub(crate) fn new(tracking: Arc<Tracking>) -> Self {
        Self {
            tracking,
            key: index::key(NEXT_LAYER.fetch_add(1, Ordering::Relaxed)),
            #[cfg(feature = "otel")]
            linker: Default::default(),
            _registry: PhantomData,
        }
    }
}

impl<S> Follower<S>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
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
            find_in_registry(ident, id, ctx)
        })
    }

    /// The record of the nearest span above `id` that this layer follows.
    fn find_parent(
        &self,
        attrs: &Attributes<'_>,
        id: &Id,
        ctx: &Context<'_, S>,
    ) -> Option<&'static SpanRecord> {
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
fn find_in_registry<S>(ident: u64, id: &Id, ctx: &Context<'_, S>) -> Option<&'static SpanRecord>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let span = ctx.span(id)?;
    let extensions = span.extensions();
    extensions.get::<Kept>()?.0.iter().find(|record| record.ident() == ident).copied()
}

/// What the layer calls.
impl<S> Follower<S>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    #[cfg_attr(not(feature = "otel"), allow(unused_variables, reason = "only the OpenTelemetry link asks"))]
    pub(crate) fn set_dispatch(&self, dispatch: &Dispatch) {
        #[cfg(feature = "otel")]
        self.linker.set_dispatch(dispatch);
    }

    pub(crate) fn new_span(&self, attrs: &Attributes<'_>, id: &Id, ctx: &Context<'_, S>) {
        let tracking = &*self.tracking;
        if !tracking.active.load(Ordering::Relaxed) {
            return;
        }
        let parent = self.find_parent(attrs, id, ctx);
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
            let mut extensions = span.extensions_mut();
            match extensions.get_mut::<Kept>() {
                Some(kept) => kept.0.push(record),
                None => extensions.insert(Kept(vec![record])),
            }
        }
    }

    #[inline]
    pub(crate) fn enter(&self, id: &Id, ctx: &Context<'_, S>) {
        let ident = self.ident(id);
        if let Some(slot) = thread::existing()
            && let Some(record) = index::find_first(ident)
            && slot.spans.push_if(ident, record, || record.entered_again(slot.index()))
        {
            return;
        }
        self.enter_slowly(id, ctx);
    }

    /// As [`enter`](Self::enter), whatever is special: the span's first time, or its first on this
    /// thread, or the thread's first span.
    #[cold]
    #[inline(never)]
    fn enter_slowly(&self, id: &Id, ctx: &Context<'_, S>) {
        let ident = self.ident(id);
        let Some(record) = self.find(ident, id, ctx) else { return };
        let Some(slot) = thread::current() else { return };
        if record.entered(slot.index()) {
            self.link(record, id, ctx);
        }
        slot.spans.push(ident, record);
    }

    #[inline]
    pub(crate) fn exit(&self, id: &Id) {
        if let Some(slot) = thread::existing() {
            slot.spans.pop(self.ident(id));
        }
    }

    pub(crate) fn record(&self, id: &Id, values: &Record<'_>, ctx: &Context<'_, S>) {
        let labels = &self.tracking.labels;
        if !labels.is_empty()
            && let Some(record) = self.find(self.ident(id), id, ctx)
        {
            record.set_labels(labels.with(record.labels(), |visit| values.record(visit)));
        }
    }

    pub(crate) fn close(&self, id: &Id, ctx: &Context<'_, S>) {
        let ident = self.ident(id);
        let (record, indexed) = match index::find(ident) {
            Some(record) => (record, true),
            None if OUTSIDE_INDEX.load(Ordering::Relaxed) == 0 => return,
            None => match find_in_registry(ident, id, ctx) {
                Some(record) => (record, false),
                None => return,
            },
        };
        self.report(record, id);
        if indexed {
            index::remove(ident, record);
        } else {
            OUTSIDE_INDEX.fetch_sub(1, Ordering::Relaxed);
        }
        path::closed(record::close(record));
    }

    #[cfg(feature = "otel")]
    #[cold]
    fn link(&self, record: &'static SpanRecord, id: &Id, ctx: &Context<'_, S>) {
        if !self.linker.has_dispatch() {
            // `Option` and `Vec` do not tell the layers in them of their dispatch (tracing-subscriber
            // 0.3.23). The current one serves as well if this very layer is in it.
            tracing::dispatcher::get_default(|dispatch| {
                let layer = dispatch.downcast_ref::<SpanLayer<S>>();
                if layer.and_then(SpanLayer::follower).is_some_and(|follower| follower.key == self.key) {
                    self.linker.set_dispatch(dispatch);
                }
            });
        }
        if record.parent().is_none_or(SpanRecord::is_linked) {
            return self.linker.link_one(id, record, &self.tracking.link);
        }
        let Some(span) = ctx.span(id) else { return };
        let ancestry = span.scope().filter_map(|ancestor| {
            let id = ancestor.id();
            self.find(self.ident(&id), &id, ctx).map(|record| (id, record))
        });
        self.linker.link(ancestry, &self.tracking.link);
    }

    #[cfg(not(feature = "otel"))]
    fn link(&self, record: &'static SpanRecord, _id: &Id, _ctx: &Context<'_, S>) {
        record.set_unlinked();
    }

    #[cfg(feature = "otel")]
    fn report(&self, record: &'static SpanRecord, id: &Id) {
        self.linker.report(record, id, &self.tracking.link);
    }

    #[cfg(not(feature = "otel"))]
    fn report(&self, _record: &'static SpanRecord, _id: &Id) {}
}

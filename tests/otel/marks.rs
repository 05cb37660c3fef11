//! Which spans are marked as having a profile, and which ids their samples carry.

use std::sync::Barrier;

use opentelemetry_sdk::trace::Sampler;
use pollscope::SpanScope;
use tracing::field::Empty;
use tracing::{Span, info_span};
use tracing_opentelemetry::{OpenTelemetrySpanExt, SetParentError};
use tracing_subscriber::prelude::*;

use crate::support::take_turn;
use crate::{Exported, Stack, Traced, id, remote, trace_id, work};

/// Two local roots, one of them with a parent elsewhere, and spans within them.
fn two_traces() {
    info_span!("root").in_scope(|| info_span!("child").in_scope(|| info_span!("leaf").in_scope(work)));
    let request = info_span!("request");
    request.set_parent(remote(0xabc, 0xdef)).expect("not started");
    request.in_scope(|| info_span!("handler").in_scope(work));
    request.in_scope(work);
}

#[test]
fn local_roots_are_marked_and_their_ids_are_on_the_samples() {
    let _turn = take_turn();
    for stack in Stack::all() {
        let traced = stack.run(|b| b, |_| two_traces());
        assert_eq!(traced.marked(), ["request", "root"], "{stack:?}");
        assert_eq!(trace_id(traced.span("request")), 0xabc);
        let labels = traced.labels();
        for (innermost, root) in [("leaf", "root"), ("handler", "request"), ("request", "request")] {
            let root = traced.span(root);
            let of = |label: &&crate::Label| label.innermost == innermost;
            assert!(labels.keys().any(|label| of(&label)), "{stack:?}: no sample of {innermost}");
            for label in labels.keys().filter(of) {
                assert_eq!(label.name, root.name, "{stack:?}");
                assert_eq!(label.span_id, Some(id(root)), "{stack:?}");
                assert_eq!(label.trace_id, Some(trace_id(root)), "{stack:?}");
            }
        }
    }
}

#[test]
fn every_span_is_marked_where_every_span_has_a_profile() {
    let _turn = take_turn();
    let all = ["child", "handler", "leaf", "request", "root"];
    for stack in Stack::all() {
        assert_eq!(stack.run(|b| b.every_span(), |_| two_traces()).marked(), all, "{stack:?}");
        let innermost = stack.run(|b| b.span_scope(SpanScope::Innermost), |_| two_traces());
        assert_eq!(innermost.marked(), all, "{stack:?}");
    }
}

#[test]
fn what_is_not_sampled_has_a_name_and_no_id() {
    let _turn = take_turn();
    for stack in Stack::all() {
        let traced = Stack { sampler: Sampler::AlwaysOff, ..stack }.run(|b| b.every_span(), |_| two_traces());
        assert!(traced.spans.is_empty());
        let labels = traced.labels();
        assert!(!labels.is_empty());
        for label in labels.keys() {
            assert!(["root", "request"].contains(&&*label.name), "{label:?}");
            assert_eq!((label.span_id, label.trace_id), (None, None));
        }
    }
}

#[test]
fn a_span_that_is_never_entered_is_marked_when_a_span_in_it_is_entered() {
    let _turn = take_turn();
    for stack in Stack::all() {
        let traced = stack.run(
            |b| b,
            |_| {
                let parent = info_span!("parent");
                info_span!(parent: &parent, "child").in_scope(|| ());
                let idle = info_span!("idle");
                info_span!(parent: &idle, "idle_child");
            },
        );
        assert_eq!(traced.marked(), ["parent"], "{stack:?}");
        let idle = traced.span("idle");
        assert!(!idle.attributes.iter().any(|kv| kv.key.as_str().starts_with("pollscope.")));
    }
}

#[test]
fn a_span_that_joins_another_trace_is_a_local_root_of_its_own() {
    let _turn = take_turn();
    let traced = Stack::default().run(
        |b| b,
        |_| {
            info_span!("consumer").in_scope(|| {
                let message = info_span!("message");
                message.set_parent(remote(0x123, 0x456)).expect("not started");
                message.in_scope(|| info_span!("handle").in_scope(work));
                work();
            });
        },
    );
    assert_eq!(traced.marked(), ["consumer", "message"]);
    for (label, _) in traced.labels() {
        let root = traced.span(if label.innermost == "consumer" { "consumer" } else { "message" });
        assert_eq!((label.name, label.span_id), (root.name.to_string(), Some(id(root))));
    }
}

#[test]
fn the_mark_is_early_enough_for_spans_that_fill_up_later() {
    let _turn = take_turn();
    let traced = Stack { max_attributes: 10, ..Stack::default() }.run(
        |b| b,
        |_| {
            // The layer itself gives a span five attributes of its place and thread.
            let filled = info_span!("filled_later", a = Empty, b = Empty, c = Empty, d = Empty, e = Empty);
            filled.in_scope(|| ());
            for field in ["a", "b", "c", "d", "e"] {
                filled.record(field, 1);
            }
            // Nothing can be set on a span that is born full: it has no mark, and its profile is found
            // by its id all the same.
            info_span!("born_full", a = 1, b = 1, c = 1, d = 1, e = 1, f = 1).in_scope(|| ());
        },
    );
    assert_eq!(traced.span("born_full").attributes.len(), 10);
    assert_eq!(traced.marked(), ["filled_later"]);
}

#[test]
fn threads_that_enter_at_the_same_instant_mark_once() {
    let _turn = take_turn();
    const ROUNDS: usize = 300;
    let traced = Stack::default().run(
        |b| b,
        |dispatch| {
            for _ in 0..ROUNDS {
                // Never entered itself: whoever enters a child first reads its ids.
                let parent = info_span!("parent");
                let (start, done) = (Barrier::new(2), Barrier::new(2));
                std::thread::scope(|scope| {
                    for _ in 0..2 {
                        scope.spawn(|| {
                            let _default = tracing::dispatcher::set_default(dispatch);
                            let child = info_span!(parent: &parent, "child");
                            start.wait();
                            child.in_scope(|| ());
                            done.wait();
                        });
                    }
                });
            }
        },
    );
    assert_eq!(traced.spans.len(), 3 * ROUNDS);
    let marked = traced.marked();
    assert!(marked.iter().all(|name| *name == "parent"));
    assert_eq!(marked.len(), ROUNDS);
}

#[test]
fn each_of_several_subscribers_has_its_own_link() {
    let _turn = take_turn();
    let other = Exported::default();
    let recording = crate::Recording::default();
    let profiler = recording.builder().start().expect("a profiler");
    let exported = Exported::default();
    let (first, _provider) = Stack::default().dispatch(&profiler, &exported);
    let (second, _other_provider) = Stack::default().dispatch(&profiler, &other);
    tracing::dispatcher::with_default(&first, || {
        let _in_both = info_span!("first").entered();
        tracing::dispatcher::with_default(&second, || info_span!("second").in_scope(|| ()));
    });
    drop((first, second));
    let stats = profiler.stop();
    for (exported, name) in [(exported, "first"), (other, "second")] {
        let spans = std::mem::take(&mut *exported.0.lock().expect("no panic"));
        let traced = Traced { recording: recording.clone(), stats: stats.clone(), spans };
        assert_eq!(traced.marked(), [name]);
        assert_eq!(traced.spans.len(), 1);
    }
}

#[test]
fn layers_in_an_option_are_linked() {
    let _turn = take_turn();
    let recording = crate::Recording::default();
    let profiler = recording.builder().start().expect("a profiler");
    let exported = Exported::default();
    let provider =
        opentelemetry_sdk::trace::SdkTracerProvider::builder().with_simple_exporter(exported.clone()).build();
    let tracer = opentelemetry::trace::TracerProvider::tracer(&provider, "test");
    let subscriber = tracing_subscriber::registry()
        .with(Some(profiler.layer()))
        .with(Some(tracing_opentelemetry::layer().with_tracer(tracer)));
    tracing::subscriber::with_default(subscriber, || info_span!("root").in_scope(|| ()));
    let stats = profiler.stop();
    let spans = std::mem::take(&mut *exported.0.lock().expect("no panic"));
    assert_eq!(Traced { recording, stats, spans }.marked(), ["root"]);
}

#[test]
fn a_parent_can_be_set_until_the_first_enter() {
    let _turn = take_turn();
    for stack in Stack::all() {
        stack.run(
            |b| b,
            |_| {
                let span = info_span!("request");
                assert!(span.set_parent(remote(1, 2)).is_ok());
                let late = span.in_scope(|| Span::current().set_parent(remote(3, 4)));
                // Without context activation this works as long as nobody asks for the ids. The samples
                // of this poll need them.
                assert!(matches!(late, Err(SetParentError::AlreadyStarted)), "{stack:?}");
            },
        );
    }
}

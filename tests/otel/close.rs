//! What the profile knows of a span is on the span when it is exported: its samples and those of
//! everything within it, also in tasks that end after it was left.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pollscope::{Engine, ProfileKind, SpanScope};
use tokio::runtime::Builder as RuntimeBuilder;
use tracing::{Dispatch, Instrument, info_span};

use crate::support::{burn_cpu, runs_with, take_turn};
use crate::{Stack, Traced, id, work};

const POLLSCOPE: [&str; 4] =
    ["pollscope.samples", "pollscope.cpu_ns", "pollscope.polls", "pollscope.migrations"];

/// Requests that go on in tasks of their own after they were answered.
#[allow(clippy::async_yields_async, reason = "the request is over before the task that it leaves")]
fn requests(dispatch: &Dispatch) {
    let dispatch = dispatch.clone();
    let runtime = RuntimeBuilder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(move || std::mem::forget(tracing::dispatcher::set_default(&dispatch)))
        .build()
        .expect("a runtime");
    let end = Instant::now() + Duration::from_millis(1500);
    runtime.block_on(async {
        while Instant::now() < end {
            let request = async {
                burn_cpu(Duration::from_millis(4));
                let price = info_span!("price");
                async {
                    burn_cpu(Duration::from_millis(4));
                    tokio::task::yield_now().await;
                    burn_cpu(Duration::from_millis(4));
                }
                .instrument(price)
                .await;
                tokio::spawn(
                    async {
                        burn_cpu(Duration::from_millis(4));
                        info_span!("write").in_scope(|| burn_cpu(Duration::from_millis(4)));
                    }
                    .instrument(info_span!("audit")),
                )
            };
            let audit = tokio::spawn(request.instrument(info_span!("request"))).await.expect("no panic");
            audit.await.expect("no panic");
        }
    });
}

fn the_span_knows_what_the_profile_knows(engine: Engine, expected: &str) {
    let _turn = take_turn();
    let traced =
        Stack::default().run(|b| b.engine(engine).span_scope(SpanScope::Innermost).every_span(), requests);
    if !runs_with(&traced.stats, expected) {
        return;
    }
    assert_eq!(traced.stats.lost, 0);
    // By each span's id: samples of its own, and of it and all within, as the two profiles have them.
    let mut own: BTreeMap<u64, u64> = BTreeMap::new();
    let mut inclusive: BTreeMap<u64, u64> = BTreeMap::new();
    traced.recording.for_each_sample(|profile, sample| {
        if let Some(span_id) = sample.span.as_ref().and_then(|span| span.span_id) {
            let counts = match profile.kind {
                ProfileKind::ProcessCpu => &mut own,
                _ => &mut inclusive,
            };
            *counts.entry(span_id).or_default() += sample.count;
        }
    });
    // The exported spans say who is within whom.
    let mut within: BTreeMap<u64, u64> = BTreeMap::new();
    for (span, ancestry) in traced.ancestry() {
        for above in ancestry {
            *within.entry(above).or_default() += own.get(&span).copied().unwrap_or(0);
        }
    }
    let mut sampled = 0;
    for span in &traced.spans {
        let samples = Traced::number(span, "pollscope.samples");
        assert_eq!(samples, within[&id(span)], "{}: samples of it and all within it", span.name);
        assert_eq!(samples, inclusive.get(&id(span)).copied().unwrap_or(0), "{}: its own profile", span.name);
        assert_eq!(Traced::number(span, "pollscope.cpu_ns"), samples * 4_000_000, "at 250 Hz");
        // Each enters once more to be dropped, and `write` is no future.
        let polls = [("request", 3), ("price", 3), ("audit", 2), ("write", 1)];
        let (_, polls) = polls.iter().find(|(name, _)| *name == span.name).expect("one of ours");
        assert_eq!(Traced::number(span, "pollscope.polls"), *polls, "{}", span.name);
        assert!(Traced::number(span, "pollscope.migrations") < *polls);
        sampled += u64::from(samples > 0);
    }
    println!("{expected}: {} spans, {sampled} of them with samples", traced.spans.len());
    assert!(sampled > 20);
    assert!(within.iter().any(|(id, n)| *n > own.get(id).copied().unwrap_or(0)), "spans within spans");
}

#[test]
fn the_span_knows_what_the_profile_knows_with_timers() {
    the_span_knows_what_the_profile_knows(Engine::Timer, "timer");
}

#[test]
fn the_span_knows_what_the_profile_knows_with_perf() {
    the_span_knows_what_the_profile_knows(Engine::Perf, "perf");
}

#[test]
fn behind_the_other_layer_nothing_can_be_written_at_the_close() {
    let _turn = take_turn();
    for stack in Stack::all() {
        let traced = stack.run(|b| b, |_| info_span!("root").in_scope(work));
        let span = traced.span("root");
        for key in POLLSCOPE {
            assert_eq!(
                Traced::attributes(span, key).len(),
                usize::from(stack.ours_first),
                "{key}: {stack:?}"
            );
        }
    }
}

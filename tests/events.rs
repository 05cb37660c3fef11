//! What else than CPU time can be sampled, where the kernel has it.
#![cfg(target_os = "linux")]

mod support;

use pollscope::Event;
use support::{Recording, runs_with, take_turn};
use tracing::info_span;
use tracing_subscriber::prelude::*;

const PAGE_BYTES: usize = 4096;
const PAGES: usize = 20_000;

/// Writes to pages that the process does not have yet.
#[inline(never)]
fn work_touch() {
    let mut fresh = vec![0_u8; PAGES * PAGE_BYTES];
    for page in fresh.chunks_mut(PAGE_BYTES) {
        page[0] = 1;
    }
    std::hint::black_box(fresh);
}

#[test]
fn page_faults_are_those_of_the_span_that_makes_them() {
    let _turn = take_turn();
    let recording = Recording::default();
    let profiler = recording.builder().event(Event::PageFaults).hertz(1000).start().expect("a profiler");
    if !runs_with(&profiler.stats(), "perf") {
        return;
    }
    tracing::subscriber::with_default(tracing_subscriber::registry().with(profiler.layer()), || {
        info_span!("touch").in_scope(work_touch);
    });
    println!("{}", profiler.stop());
    let (mut in_span, mut elsewhere) = (0, 0);
    recording.for_each_sample(|profile, sample| {
        assert_eq!(profile.weight_type.to_string(), "page_faults/count");
        assert_eq!(profile.period, 1);
        let touches = profile.frames(sample).any(|frame| frame.ends_with("work_touch"));
        let in_its_span =
            sample.span.as_ref().is_some_and(|span| span.path.last().is_some_and(|n| &**n == "touch"));
        if in_its_span {
            in_span += sample.weight;
        }
        if touches && !in_its_span {
            elsewhere += sample.weight;
        }
    });
    assert_eq!(elsewhere, 0);
    // Each sample weighs as many faults as there were since the one before. The kernel may give the
    // vector larger pages, and then there are fewer.
    assert!(in_span > 0 && in_span < 2 * PAGES as u64, "{in_span} faults");
}

#[test]
fn an_event_that_is_not_there_is_named_with_the_reason() {
    let _turn = take_turn();
    let recording = Recording::default();
    let profiler = recording.builder().event(Event::CacheMisses).start().expect("a profiler");
    let stats = profiler.stop();
    if stats.engine.starts_with("perf") {
        return println!("skipped: this machine counts cache misses");
    }
    assert_eq!(stats.engine, "none");
    assert!(stats.reason.starts_with("perf_event_open refused ("), "{}", stats.reason);
    assert!(stats.reason.ends_with("CacheMisses needs perf, so nothing is sampled"), "{}", stats.reason);
}

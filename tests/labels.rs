//! Span fields as labels: from the span's attributes, from what is recorded later, from its parent,
//! and never more values than a server can bear.
#![cfg(target_os = "linux")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use pollscope::{Builder, Engine, ErrorKind, Profiler};
use support::{Recording, burn_cpu, take_turn};
use tracing::field::Empty;
use tracing::info_span;
use tracing_subscriber::prelude::*;

/// The labels of all samples of the spans that `work` makes: `span name=value,…`.
fn labels(fields: &[&str], work: impl FnOnce()) -> (BTreeSet<String>, u64) {
    let _turn = take_turn();
    let recording = Recording::default();
    let builder = recording.builder().engine(Engine::Timer).hertz(250);
    let builder = fields.iter().fold(builder, |builder, field| builder.label_field(*field));
    let profiler = builder.start().expect("a profiler");
    tracing::subscriber::with_default(tracing_subscriber::registry().with(profiler.layer()), work);
    let stats = profiler.stop();
    let mut found = BTreeSet::new();
    recording.for_each_sample(|_, sample| {
        if let Some(span) = &sample.span {
            let pairs = span.fields.iter().map(|(name, value)| format!("{name}={value}"));
            let pairs = pairs.collect::<Vec<_>>().join(",");
            found.insert(format!("{} {pairs}", span.path.last().expect("not empty")).trim_end().to_owned());
        }
    });
    (found, stats.labels_overflowed)
}

/// Long enough to be sampled.
fn work() {
    burn_cpu(Duration::from_millis(100));
}

#[test]
fn named_fields_are_labels_wherever_they_come_from() {
    let (found, _) = labels(&["http.route", "status", "tenant"], || {
        let request = info_span!("request", http.route = "/cart", status = Empty, user = "alice");
        // Not entered before it has a status, so no sample is of it without one.
        info_span!(parent: &request, "early").in_scope(work);
        request.record("status", 404);
        let _in = request.enter();
        work();
        info_span!("late", tenant = ?Some(7)).in_scope(work);
        info_span!("own", http.route = %"/other").in_scope(work);
        info_span!(parent: None, "alone").in_scope(work);
    });
    let expected = [
        "alone",
        "early http_route=/cart",
        "late http_route=/cart,status=404,tenant=Some(7)",
        "own http_route=/other,status=404",
        "request http_route=/cart,status=404",
    ];
    assert_eq!(found.iter().map(|line| &**line).collect::<Vec<_>>(), expected);
}

#[test]
fn a_field_that_nobody_names_is_no_label() {
    let (found, _) = labels(&[], || info_span!("request", user = "alice").in_scope(work));
    assert_eq!(found, BTreeSet::from(["request".into()]));
}

#[test]
fn of_two_fields_with_one_label_the_last_recorded_counts() {
    let (found, _) = labels(&["http.route", "http_route"], || {
        let request = info_span!("request", http.route = "/first", http_route = Empty);
        request.in_scope(work);
        request.record("http_route", "/second");
        request.in_scope(work);
    });
    assert_eq!(
        found,
        BTreeSet::from(["request http_route=/first".into(), "request http_route=/second".into()])
    );
}

#[test]
fn values_beyond_a_hundred_are_called_other() {
    let (found, overflowed) = labels(&["user"], || {
        for user in 0..150 {
            info_span!("warm", user).in_scope(|| ());
        }
        info_span!("known", user = 99).in_scope(work);
        info_span!("beyond", user = 150).in_scope(work);
    });
    assert_eq!(
        found.iter().filter(|l| !l.starts_with("warm")).collect::<Vec<_>>(),
        ["beyond user=other", "known user=99"]
    );
    assert_eq!(overflowed, 51);
}

#[test]
fn a_field_that_cannot_be_a_label_is_refused() {
    let refused = |builder: Builder| {
        let error = builder.environment(None).start().expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Config);
        error.to_string()
    };
    let builder = || Profiler::builder("test");
    assert_eq!(
        refused(builder().label_field("span.id")),
        "the span field \"span.id\" cannot be a label: \"span_id\" is kept for the profiler's own"
    );
    #[cfg(feature = "pyroscope")]
    {
        let pyroscope = pollscope::Pyroscope::new("http://localhost:1").label("http_route", "fixed");
        assert_eq!(
            refused(builder().label_field("http.route").export(pyroscope)),
            "the label \"http_route\" for Pyroscope is also made of a span field: name one of them otherwise"
        );
    }
}

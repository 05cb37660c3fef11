//! What is said on stderr, once, when spans and profiles do not find each other. Each test runs itself in
//! a process of its own, whose stderr it reads.

use std::process::Command;

use pollscope::{Engine, Environment, Profiler};
use tracing::info_span;
use tracing_subscriber::prelude::*;

use crate::{Exported, Stack, work};

/// What the profiler says while `work` runs. In the process that runs it, nothing.
fn said(test: &str, work: impl FnOnce()) -> Option<Vec<String>> {
    const CHILD: &str = "POLLSCOPE_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        work();
        return None;
    }
    let program = std::env::current_exe().expect("this test");
    let test = format!("said::{test}");
    let output = Command::new(program).args(["--exact", &test, "--nocapture"]).env(CHILD, "1").output();
    let output = output.expect("this test runs again");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stderr).expect("text");
    Some(text.lines().filter(|line| line.starts_with("pollscope:")).map(str::to_owned).collect())
}

/// Many spans, with a profiler that was told of traces or not, and no OpenTelemetry layer.
fn spans_without_traces(variables: &'static [(&str, &str)]) {
    let environment = Environment::from_fn(|name| {
        variables.iter().find(|(known, _)| *known == name).map(|&(_, value)| value.to_owned())
    });
    let builder = Profiler::builder("test").environment(environment).engine(Engine::Timer);
    let profiler = builder.start().expect("a profiler");
    let subscriber = tracing_subscriber::registry().with(profiler.layer());
    tracing::subscriber::with_default(subscriber, || {
        (0..500).for_each(|_| info_span!("span").in_scope(|| ()))
    });
    profiler.stop();
}

#[test]
fn traces_that_nobody_answers_for() {
    let spans = || spans_without_traces(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")]);
    let Some(lines) = said("traces_that_nobody_answers_for", spans) else { return };
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0]
            .starts_with("pollscope: profiles are not linked with traces: no OpenTelemetry layer answers")
    );
    assert!(lines[0].contains("tracing-opentelemetry 0."), "{lines:?}");
}

#[test]
fn traces_that_nobody_expects() {
    let spans = || {
        spans_without_traces(&[]);
        spans_without_traces(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"),
            ("OTEL_TRACES_EXPORTER", "none"),
        ]);
    };
    let Some(lines) = said("traces_that_nobody_expects", spans) else { return };
    assert_eq!(lines, [""; 0]);
}

#[test]
fn layers_in_the_wrong_order() {
    let spans = || {
        let stack = Stack { ours_first: false, ..Stack::default() };
        let profiler = crate::Recording::default().builder().start().expect("a profiler");
        let (dispatch, _provider) = stack.dispatch(&profiler, &Exported::default());
        tracing::dispatcher::with_default(&dispatch, || {
            (0..10).for_each(|_| info_span!("span").in_scope(work))
        });
        profiler.stop();
    };
    let Some(lines) = said("layers_in_the_wrong_order", spans) else { return };
    assert_eq!(
        lines,
        ["pollscope: spans get no pollscope.* attributes, because the OpenTelemetry layer comes before \
          Pollscope's: use registry().with(profiler.layer()).with(opentelemetry_layer)"]
    );
}

#[test]
fn layers_in_the_right_order() {
    let spans = || {
        let stack = Stack::default().run(|b| b.every_span(), |_| info_span!("span").in_scope(work));
        assert_eq!(stack.spans.len(), 1);
    };
    let Some(lines) = said("layers_in_the_right_order", spans) else { return };
    assert_eq!(lines, [""; 0]);
}

//! What Grafana makes of a span: the query of its flame graph, and what must be in that.

use std::collections::BTreeSet;

use super::flamegraph::Flamegraph;
use super::tempo::{Span, Trace};

/// What Grafana makes of the resource: a pair for each of the data source's tags that is there.
pub fn selector(trace: &Trace) -> String {
    let pairs: Vec<_> = [("service.name", "service_name"), ("service.namespace", "service_namespace")]
        .iter()
        .filter_map(|(key, label)| Some(format!(r#"{label}="{}""#, trace.resource.get(*key)?[0])))
        .collect();
    format!("{{{}}}", pairs.join(","))
}

/// Grafana's embedded flame graph asks for half a minute on either side.
pub fn around(span: &Span) -> (u64, u64) {
    (span.start_ms - 30_000, span.end_ms + 30_000)
}

/// The `work_` functions of a flame graph, each checked to be where its span is the innermost.
pub fn work(graph: &Flamegraph) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (stack, _) in &graph.stacks {
        let span = stack.iter().rfind(|frame| frame.starts_with("span:"));
        for frame in stack {
            if let Some(name) = frame.strip_prefix("checkout::work_") {
                assert_eq!(span.map(String::as_str), Some(&*format!("span:{name}")), "{stack:?}");
                all.insert(name.to_owned());
            }
        }
    }
    all
}

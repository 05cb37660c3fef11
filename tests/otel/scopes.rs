//! Whose id a sample carries: the local root's, the innermost span's, or each open span's in turn.

use std::collections::BTreeMap;

use pollscope::{Environment, ProfileKind, SpanScope};
use tracing::info_span;

use crate::support::take_turn;
use crate::{Stack, Traced, id, work};

/// Three levels, each with work of its own, and a child that outlives its parent's handle.
fn levels() {
    let outer = info_span!("outer");
    outer.in_scope(work);
    let middle = outer.in_scope(|| info_span!("middle"));
    let inner = middle.in_scope(|| {
        work();
        info_span!("inner")
    });
    // Nobody holds these any more; the child keeps them open.
    drop((middle, outer));
    inner.in_scope(work);
}

/// Samples by the name and the id they carry, of one kind of profile.
fn by_label(traced: &Traced, kind: ProfileKind) -> BTreeMap<(String, u64), u64> {
    let mut counts = BTreeMap::new();
    traced.recording.for_each_sample(|profile, sample| {
        if let (true, Some(span)) = (profile.kind == kind, &sample.span) {
            let span_id = span.span_id.expect("a trace");
            *counts.entry((span.name.to_string(), span_id)).or_default() += sample.count;
        }
    });
    counts
}

/// The names that samples carry, each with the id of the exported span of that name.
fn names(traced: &Traced, kind: ProfileKind) -> Vec<String> {
    let labels = by_label(traced, kind);
    for (name, span_id) in labels.keys() {
        assert_eq!(*span_id, id(traced.span(name)), "{name}");
    }
    labels.into_keys().map(|(name, _)| name).collect()
}

#[test]
fn the_local_root_by_default() {
    let _turn = take_turn();
    let traced = Stack::default().run(|b| b, |_| levels());
    assert_eq!(names(&traced, ProfileKind::ProcessCpu), ["outer"]);
    assert_eq!(
        traced.labels().keys().map(|l| &*l.innermost).collect::<Vec<_>>(),
        ["inner", "middle", "outer"]
    );
    assert!(by_label(&traced, ProfileKind::EverySpan).is_empty());
}

#[test]
fn the_trace_id_can_be_left_out() {
    let _turn = take_turn();
    let off = || Environment::from_fn(|name| (name == "POLLSCOPE_TRACE_ID_LABEL").then(|| "off".to_owned()));
    let by_code = Stack::default().run(|b| b.trace_id_label(false), |_| levels());
    let by_environment = Stack::default().run(|b| b.environment(off()), |_| levels());
    for traced in [by_code, by_environment] {
        assert_eq!(names(&traced, ProfileKind::ProcessCpu), ["outer"]);
        assert!(traced.labels().keys().all(|label| label.trace_id.is_none()));
    }
}

#[test]
fn the_innermost_span() {
    let _turn = take_turn();
    let traced = Stack::default().run(|b| b.span_scope(SpanScope::Innermost), |_| levels());
    assert_eq!(names(&traced, ProfileKind::ProcessCpu), ["inner", "middle", "outer"]);
    assert!(traced.labels().keys().all(|label| label.name == label.innermost));
}

#[test]
fn every_span_has_the_samples_of_all_within_it_and_cpu_time_counts_once() {
    let _turn = take_turn();
    let traced = Stack::default().run(|b| b.every_span(), |_| levels());
    assert_eq!(names(&traced, ProfileKind::ProcessCpu), ["outer"]);
    assert_eq!(names(&traced, ProfileKind::EverySpan), ["inner", "middle", "outer"]);
    // Whose own each sample is, its path tells.
    let mut own: BTreeMap<String, u64> = BTreeMap::new();
    traced.labels().into_iter().for_each(|(label, n)| *own.entry(label.innermost).or_default() += n);
    let inclusive = |name: &str| -> u64 {
        let labels = by_label(&traced, ProfileKind::EverySpan);
        labels.into_iter().filter(|((of, _), _)| of == name).map(|(_, n)| n).sum()
    };
    assert_eq!(inclusive("inner"), own["inner"]);
    assert_eq!(inclusive("middle"), own["inner"] + own["middle"]);
    assert_eq!(inclusive("outer"), own["inner"] + own["middle"] + own["outer"]);
    let mut once = 0;
    traced.recording.for_each_sample(|profile, sample| {
        once += if profile.kind == ProfileKind::ProcessCpu { sample.count } else { 0 };
    });
    assert_eq!(once, traced.stats.samples);
    // Each of them has the stack once, with the whole path in front.
    traced.recording.for_each_sample(|profile, sample| {
        if let (ProfileKind::EverySpan, Some(span)) = (profile.kind, &sample.span) {
            let frames: Vec<_> = profile.frames(sample).filter(|f| f.starts_with("span:")).collect();
            let path: Vec<_> = span.path.iter().map(|name| format!("span:{name}")).collect();
            assert_eq!(frames, path);
        }
    });
}

#[test]
fn deep_within_a_trace_names_and_the_local_root_stay_right() {
    let _turn = take_turn();
    let traced = Stack::default().run(
        |b| b.every_span(),
        |_| {
            // Deeper than paths are long, and than a sample has room for ancestors.
            let mut spans = vec![info_span!("root")];
            for _ in 0..80 {
                let parent = spans.last().expect("not empty");
                spans.push(info_span!(parent: parent, "again"));
            }
            let parent = spans.last().expect("not empty");
            let leaf = info_span!(parent: parent, "leaf");
            leaf.in_scope(work);
        },
    );
    let root = id(traced.span("root"));
    let labels = by_label(&traced, ProfileKind::EverySpan);
    let of_root: Vec<_> = labels.iter().filter(|((_, span_id), _)| *span_id == root).collect();
    let all = by_label(&traced, ProfileKind::ProcessCpu);
    let ((name, _), samples) = of_root.first().expect("the local root has its samples");
    assert_eq!((of_root.len(), &**name), (1, "root"));
    assert_eq!(**samples, all[&("root".to_owned(), root)]);
    // A path has 64 names: what is deeper is called as the 64th is.
    let others = labels.keys().filter(|(_, span_id)| *span_id != root);
    assert!(others.map(|(name, _)| name).all(|name| name == "again"));
    assert_eq!(labels.len(), 1 + 32 + 1);
}

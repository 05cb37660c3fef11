//! Writes a [`Profile`] in pprof's format: google's `profile.proto`, uncompressed.
//!
//! You give a profile; you get one pprof for a file, or as many parts of the same window as a
//! server takes, each complete in itself. Samples that differ in nothing a pprof can say are merged,
//! and those of no value left out. Equal profiles give equal bytes.

mod message;
mod tables;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use prost::Message;

use self::message as proto;
use self::tables::Tables;
use crate::profile::{Profile, ProfileKind, Sample, SpanLabels, ValueType};

/// What Pyroscope takes in one profile by default, counted before it merges equal ones.
#[cfg(feature = "pyroscope")]
const MAX_SAMPLES: usize = 16_000;

/// What Pyroscope takes in one profile by default, counted before compression.
#[cfg(feature = "pyroscope")]
const MAX_BYTES: usize = 4 << 20;

/// The whole profile.
pub(crate) fn encode(profile: &Profile) -> Vec<u8> {
    message(profile, &rows(profile)).encode_to_vec()
}

/// The profile in parts of the same window that Pyroscope takes one by one; none when it has no
/// samples. A sample too large for the server goes alone.
#[cfg(feature = "pyroscope")]
pub(crate) fn encode_parts(profile: &Profile) -> Vec<Vec<u8>> {
    let rows = rows(profile);
    let mut out = Vec::new();
    for part in rows.chunks(MAX_SAMPLES) {
        split(profile, part, &mut out);
    }
    out
}

/// Encodes `rows`, by halves where they are too many bytes at once. How many it will be depends on
/// how much the stacks share, so it is found by encoding; few windows are ever halved.
#[cfg(feature = "pyroscope")]
fn split(profile: &Profile, rows: &[Row<'_>], out: &mut Vec<Vec<u8>>) {
    let message = message(profile, rows);
    if rows.len() > 1 && message.encoded_len() > MAX_BYTES {
        let (left, right) = rows.split_at(rows.len() / 2);
        split(profile, left, out);
        split(profile, right, out);
    } else {
        out.push(message.encode_to_vec());
    }
}

/// A sample as a pprof knows it.
struct Row<'a> {
    stack: &'a [u32],
    labels: Vec<(&'a str, Cow<'a, str>)>,
    count: u64,
    weight: u64,
}

/// The samples by stack and labels. A span's path is no label, its frames are in the stack.
fn rows(profile: &Profile) -> Vec<Row<'_>> {
    let mut known = HashMap::new();
    let mut rows: Vec<Row<'_>> = Vec::new();
    for sample in profile.samples.iter().filter(|s| has_value(profile.kind, s)) {
        let told = sample.span.as_deref().map(|s| (s.span_id, s.trace_id, &*s.name, &*s.fields));
        let at = *known.entry((&*sample.stack, told)).or_insert(rows.len());
        if at == rows.len() {
            let labels = sample.span.as_deref().map(labels).unwrap_or_default();
            rows.push(Row { stack: &sample.stack, labels, count: 0, weight: 0 });
        }
        rows[at].count = rows[at].count.saturating_add(sample.count);
        rows[at].weight = rows[at].weight.saturating_add(sample.weight);
    }
    rows
}

/// Servers drop what is zero. CPU time that only the clocks know of is weight without a count.
fn has_value(kind: ProfileKind, sample: &Sample) -> bool {
    match kind {
        ProfileKind::ProcessCpu => sample.count > 0 || sample.weight > 0,
        ProfileKind::EverySpan => sample.weight > 0,
    }
}

fn labels(span: &SpanLabels) -> Vec<(&str, Cow<'_, str>)> {
    // Pyroscope takes ids of exactly these lengths, and takes any other for none.
    let span_id = span.span_id.map(|id| ("span_id", Cow::Owned(format!("{id:016x}"))));
    let trace_id = span.trace_id.map(|id| ("trace_id", Cow::Owned(format!("{id:032x}"))));
    let name = ("span_name", Cow::Borrowed(&*span.name));
    let fields = span.fields.iter().map(|(name, value)| (&**name, Cow::Borrowed(&**value)));
    let texts = std::iter::once(name).chain(fields).filter(|(_, value)| !value.is_empty());
    span_id.into_iter().chain(trace_id).chain(texts).collect()
}

/// What the values of a sample count. The weight comes last: that is the one shown first by tools
/// that do not read `default_sample_type`.
fn sample_types(profile: &Profile) -> Vec<ValueType> {
    match profile.kind {
        ProfileKind::ProcessCpu => vec![ValueType::SAMPLES, profile.weight_type],
        ProfileKind::EverySpan => vec![profile.weight_type],
    }
}

fn message(profile: &Profile, rows: &[Row<'_>]) -> proto::Profile {
    let mut tables = Tables::new(profile, rows.iter().flat_map(|row| row.stack).copied());
    let values = |row: &Row<'_>| match profile.kind {
        ProfileKind::ProcessCpu => vec![int(row.count), int(row.weight)],
        ProfileKind::EverySpan => vec![int(row.weight)],
    };
    let mut converted = proto::Profile {
        sample_type: sample_types(profile).into_iter().map(|of| tables.value_type(of)).collect(),
        sample: Vec::with_capacity(rows.len()),
        time_nanos: nanos(profile.start.duration_since(UNIX_EPOCH).unwrap_or_default()),
        duration_nanos: nanos(profile.duration),
        period_type: Some(tables.value_type(profile.weight_type)),
        // Without a period the server files the profile under a type that nobody looks at.
        period: int(profile.period.max(1)),
        default_sample_type: tables.string(profile.weight_type.kind),
        ..Default::default()
    };
    for row in rows {
        converted.sample.push(proto::Sample {
            location_id: row.stack.iter().map(|&at| tables.location(at)).collect(),
            value: values(row),
            label: row.labels.iter().map(|(name, value)| tables.label(name, value)).collect(),
        });
    }
    tables.finish(&mut converted);
    converted
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

//! What a pprof says, read by another decoder than ours.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use ::pprof::protos::{Message as _, Profile as Decoded};

use super::*;
use crate::export::sample;
use crate::profile::{Line, Location, Mapping, UNSAMPLED};

/// A pprof as text. Panics where it points to nothing or breaks a rule of the format.
fn text(pprof: &[u8]) -> String {
    let p = Decoded::decode(pprof).unwrap();
    let s = |at: i64| &*p.string_table[at as usize];
    let of = |v: &::pprof::protos::ValueType| format!("{}/{}", s(v.ty), s(v.unit));
    assert_eq!(s(0), "");
    assert_eq!(p.string_table.iter().collect::<HashSet<_>>().len(), p.string_table.len());
    let types: Vec<_> = p.sample_type.iter().map(of).collect();
    let period = format!("{} {}", p.period, of(p.period_type.as_ref().unwrap()));
    let mut out = format!("{}, default {}, period {period}\n", types.join(" "), s(p.default_sample_type));
    writeln!(out, "from {} for {}", p.time_nanos, p.duration_nanos).unwrap();
    for (at, m) in p.mapping.iter().enumerate() {
        assert_eq!(m.id, at as u64 + 1);
        let has = [m.has_functions, m.has_filenames, m.has_line_numbers, m.has_inline_frames];
        let has: String = "fnli".chars().zip(has).map(|(c, has)| if has { c } else { '-' }).collect();
        let (range, file) = (m.memory_start..m.memory_limit, s(m.filename));
        writeln!(out, "mapping {range:x?}+{:x} {file} [{}] {has}", m.file_offset, s(m.build_id)).unwrap();
    }
    for sample in &p.sample {
        assert_eq!(sample.value.len(), p.sample_type.len());
        writeln!(out, "{:?}", sample.value).unwrap();
        for label in &sample.label {
            writeln!(out, "  {}={}", s(label.key), s(label.str)).unwrap();
        }
        for &id in &sample.location_id {
            let location = &p.location[id as usize - 1];
            assert_eq!(location.id, id);
            assert!(!location.line.is_empty());
            let mapping = location.mapping_id.checked_sub(1).map(|at| s(p.mapping[at as usize].filename));
            for line in &location.line {
                let function = &p.function[line.function_id as usize - 1];
                assert_eq!(function.id, line.function_id);
                let (name, file) = (s(function.name), s(function.filename));
                let address = location.address;
                writeln!(out, "  - {name} {file}:{} {address:x} {}", line.line, mapping.unwrap_or("none"))
                    .unwrap();
            }
        }
    }
    out
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn named(function: &str, address: u64, mapping: Option<u32>) -> Location {
    let lines = vec![Line { function: function.into(), file: None, line: 0 }];
    Location { address, mapping, lines }
}

/// The sample profile with all that is rare: an inlined function, a library without names, frames
/// that are not code, CPU time without samples.
fn rich() -> Profile {
    let mut profile = sample::profile(at(1_000));
    let inlined = Line { function: "add".into(), file: Some("src/sum.rs".into()), line: 3 };
    profile.locations[1].lines.insert(0, inlined);
    profile.locations.push(named("libz.so!0x7f10", 0x7f10, Some(2)));
    profile.locations.push(named(UNSAMPLED, 0, None));
    profile.locations.push(named("span:checkout", 0, None));
    let mapping = |path: &str, start| Mapping {
        start,
        end: start + 0x100,
        file_offset: 0,
        path: path.into(),
        build_id: "".into(),
        has_functions: false,
        has_lines: false,
    };
    profile.mappings.push(mapping("/lib/unused.so", 0x6f00));
    profile.mappings.push(mapping("/lib/libz.so", 0x7f00));
    profile.samples[0].stack = vec![2, 1, 0, 4];
    profile.samples.push(Sample { stack: vec![3], count: 0, weight: 5_000_000, span: None });
    profile.samples.push(Sample { stack: vec![0], count: 0, weight: 0, span: None });
    profile
}

#[test]
fn a_profile_reads_as_it_was() {
    assert_eq!(
        text(&encode(&rich())),
        "\
samples/count cpu/nanoseconds, default cpu, period 10000000 cpu/nanoseconds
from 1000000000000 for 10000000000
mapping 1000..2000+1000 /srv/shop [c0ffee] fnli
mapping 7f00..8000+0 /lib/libz.so [] ----
[10, 100000000]
  span_id=00f067aa0ba902b7
  trace_id=0af7651916cd43dd8448eb211c80319c
  span_name=checkout
  route=/cart
  - libz.so!0x7f10 :0 7f10 /lib/libz.so
  - add src/sum.rs:3 1020 /srv/shop
  - price src/main.rs:7 1020 /srv/shop
  - main src/main.rs:7 1010 /srv/shop
  - span:checkout :0 0 none
[2, 20000000]
  - main src/main.rs:7 1010 /srv/shop
[0, 5000000]
  - [unsampled] :0 0 none
"
    );
}

#[test]
fn the_profile_of_every_span_has_one_type() {
    let mut profile = Profile { kind: ProfileKind::EverySpan, ..rich() };
    profile.samples.truncate(2);
    profile.samples[0].stack = vec![0];
    profile.samples[1].weight = 0;
    assert_eq!(
        text(&encode(&profile)),
        "\
cpu/nanoseconds, default cpu, period 10000000 cpu/nanoseconds
from 1000000000000 for 10000000000
mapping 1000..2000+1000 /srv/shop [c0ffee] fnli
[100000000]
  span_id=00f067aa0ba902b7
  trace_id=0af7651916cd43dd8448eb211c80319c
  span_name=checkout
  route=/cart
  - main src/main.rs:7 1010 /srv/shop
"
    );
}

#[test]
fn a_hardware_event_has_its_own_type() {
    let mut profile = sample::profile(at(0));
    profile.weight_type = ValueType { kind: "cycles", unit: "count" };
    let text = text(&encode(&profile));
    let first = "samples/count cycles/count, default cycles, period 10000000 cycles/count\n";
    assert!(text.starts_with(first), "{text}");
}

#[test]
fn samples_that_a_pprof_cannot_tell_apart_are_merged() {
    let mut profile = sample::profile(at(0));
    let mut other = profile.samples[0].clone();
    let span = other.span.as_deref().unwrap().clone();
    other.span =
        Some(Arc::new(SpanLabels { path: ["checkout".into(), "pay".into()].into(), ..span.clone() }));
    profile.samples.push(other.clone());
    other.span = Some(Arc::new(SpanLabels { trace_id: None, span_id: None, name: "".into(), ..span }));
    profile.samples.push(other);
    let values = Decoded::decode(&encode(&profile)[..]).unwrap().sample;
    let values: Vec<_> = values.into_iter().map(|s| (s.value[0], s.label.len())).collect();
    assert_eq!(values, [(20, 4), (2, 0), (10, 1)]);
}

#[test]
fn a_profile_without_samples_has_no_parts() {
    let mut profile = rich();
    profile.samples.drain(..3);
    assert!(encode_parts(&profile).is_empty());
    assert!(text(&encode(&profile)).starts_with("samples/count cpu/nanoseconds, "));
}

#[test]
fn extreme_numbers_stay_positive() {
    let mut profile = sample::profile(at(0));
    profile.period = 0;
    profile.samples[0].weight = u64::MAX;
    profile.duration = Duration::MAX;
    profile.start = UNIX_EPOCH - Duration::from_secs(1);
    let decoded = Decoded::decode(&encode(&profile)[..]).unwrap();
    let values = (decoded.period, decoded.sample[0].value[1], decoded.duration_nanos, decoded.time_nanos);
    assert_eq!(values, (1, i64::MAX, i64::MAX, 0));
}

/// `samples` samples, each of another two of `functions` functions with names of `name_bytes`.
fn large(samples: usize, functions: usize, name_bytes: usize) -> Profile {
    let mut profile = sample::profile(at(0));
    let span = profile.samples[0].span.clone();
    let name = "x".repeat(name_bytes);
    let location = |at| named(&format!("{at}{name}"), 0x1000 + at as u64, Some(0));
    profile.locations = (0..functions).map(location).collect();
    let sample = |at| Sample {
        stack: vec![(at % functions) as u32, (at / functions) as u32],
        count: 1,
        weight: at as u64 + 1,
        span: span.clone(),
    };
    profile.samples = (0..samples).map(sample).collect();
    profile
}

#[test]
fn parts_are_small_enough_and_add_up() {
    let cases = [
        // samples, functions, bytes of a name, parts
        (16_000, 200, 10, 1),
        (16_001, 200, 10, 2),
        (33_000, 300, 10, 3),
        (100, 100, 60 << 10, 2),
        (2, 2, 3 << 20, 2),
        (3, 3, 5 << 20, 3),
    ];
    for (samples, functions, name_bytes, expected) in cases {
        let profile = large(samples, functions, name_bytes);
        let parts = encode_parts(&profile);
        assert_eq!(parts.len(), expected, "{samples} samples");
        assert_eq!(parts, encode_parts(&profile));
        let mut total = 0;
        for part in &parts {
            let decoded = Decoded::decode(&part[..]).unwrap();
            assert!(decoded.sample.len() <= MAX_SAMPLES);
            assert!(part.len() <= MAX_BYTES || decoded.sample.len() == 1, "{} bytes", part.len());
            assert_eq!((decoded.time_nanos, decoded.duration_nanos), (0, 10_000_000_000));
            total += decoded.sample.iter().map(|s| s.value[1] as u64).sum::<u64>();
            // Complete in itself, which reading shows (of small ones, it is slow), and without what
            // it does not use.
            if decoded.sample.len() < 200 {
                text(part);
            }
            let used: HashSet<_> = decoded.sample.iter().flat_map(|s| &s.location_id).collect();
            assert_eq!(used.len(), decoded.location.len());
            assert_eq!(decoded.function.len(), decoded.location.len());
        }
        assert_eq!(total, profile.total_weight());
    }
}

//! What is in the picture.

use std::cmp::Reverse;
use std::time::UNIX_EPOCH;

use super::*;
use crate::export::sample;
use crate::profile::{Line, Location, Sample, UNSAMPLED};

/// The sample profile below a span, with frames of all families.
fn rich() -> Profile {
    let mut profile = sample::profile(UNIX_EPOCH);
    for (name, address) in [
        ("span:checkout", 0),
        ("[tokio]", 0x1030),
        ("do_syscall_64", u64::MAX),
        (UNSAMPLED, 0),
        ("main::retry<[u8; 4]> & 7", 0x1040),
    ] {
        let lines = vec![Line { function: name.into(), file: None, line: 0 }];
        profile.locations.push(Location { address, mapping: None, lines });
    }
    profile.samples[0].stack = vec![4, 1, 0, 3, 2];
    for (stack, weight) in [(vec![5], 5_000_000), (vec![6], 60_000_000), (vec![1, 0], 30_000_000)] {
        profile.samples.push(Sample { stack, count: 1, weight, span: None });
    }
    profile
}

/// The frames as `title fill`, left to right and bottom up.
fn frames(svg: &[u8]) -> Vec<String> {
    let svg = std::str::from_utf8(svg).unwrap();
    let between = |text: &str, from: &str, to: &str| {
        let text = text.split_once(from)?.1;
        Some(text.split_once(to)?.0.to_owned())
    };
    let (_, frames) = svg.split_once("id=\"frames\"").unwrap();
    let mut frames: Vec<_> = frames
        .split("<g>")
        .skip(1)
        .map(|g| {
            let title = between(g, "<title>", "</title>").unwrap();
            let number = |name: &str| between(g, name, "\"").unwrap().parse::<u64>().unwrap();
            let fill = between(g, "fill=\"rgb(", ")").unwrap();
            (number("fg:x=\""), Reverse(number(" y=\"")), format!("{title} {}", family(&fill)))
        })
        .collect();
    frames.sort();
    frames.into_iter().map(|(_, _, frame)| frame).collect()
}

fn family(rgb: &str) -> &'static str {
    let rgb: Vec<u8> = rgb.split(',').map(|n| n.trim().parse().unwrap()).collect();
    match rgb[..] {
        [r, g, b] if r == g && g == b => "grey",
        [r, _, b] if r >= 215 && b < 100 => "warm",
        [r, _, b] if r < 150 && b >= 215 => "blue",
        [r, g, b] if g < r && g < b => "purple",
        _ => "other",
    }
}

fn drawn(graph: &Flamegraph) -> Vec<u8> {
    let mut svg = Vec::new();
    graph.write_svg("shop", &mut svg).unwrap();
    svg
}

#[test]
fn frames_are_nested_counted_and_colored() {
    let mut svg = Vec::new();
    rich().write_flamegraph("shop & <co>", &mut svg).unwrap();
    assert!(std::str::from_utf8(&svg).unwrap().contains("shop &amp; &lt;co&gt;"));
    assert_eq!(
        frames(&svg),
        [
            "all (215 ms of CPU, 100%) grey",
            "[unsampled] (5 ms of CPU, 2.33%) grey",
            "main (50 ms of CPU, 23.26%) warm",
            "price (30 ms of CPU, 13.95%) warm",
            "main::retry&lt;[u8: 4]&gt; &amp;\u{a0}7 (60 ms of CPU, 27.91%) warm",
            "span:checkout (100 ms of CPU, 46.51%) blue",
            "[tokio] (100 ms of CPU, 46.51%) grey",
            "main (100 ms of CPU, 46.51%) warm",
            "price (100 ms of CPU, 46.51%) warm",
            "do_syscall_64 (100 ms of CPU, 46.51%) purple",
        ]
    );
}

#[test]
fn windows_add_up_in_any_order() {
    let (first, second) = (sample::profile(UNIX_EPOCH), rich());
    let mut graph = Flamegraph::new();
    graph.add(&first);
    graph.add(&second);
    // Each sample is in this one several times, it cannot be added.
    graph.add(&Profile { kind: ProfileKind::EverySpan, ..rich() });
    let svg = drawn(&graph);
    assert_eq!(frames(&svg)[0], "all (335 ms of CPU, 100%) grey");
    let mut other = Flamegraph::new();
    other.add(&second);
    other.add(&first);
    assert!(drawn(&other) == svg, "the order of adding shows");
}

#[test]
fn other_events_are_counted_in_their_own_unit() {
    let mut profile = sample::profile(UNIX_EPOCH);
    profile.weight_type = ValueType { kind: "cycles", unit: "count" };
    let mut svg = Vec::new();
    profile.write_flamegraph("shop", &mut svg).unwrap();
    assert_eq!(frames(&svg)[0], "all (120,000,000 cycles, 100%) grey");
}

#[test]
fn without_samples_nothing_is_written() {
    let mut svg = Vec::new();
    let error = Flamegraph::new().write_svg("shop", &mut svg).unwrap_err();
    assert_eq!(error.to_string(), "no samples to draw a flame graph of");
    assert!(svg.is_empty());
}

#[test]
fn what_the_writer_says_is_passed_on() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let error = rich().write_flamegraph("shop", full).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("No space left"), "{error}");
}

#[test]
fn memory_is_bounded() {
    let mut profile = sample::profile(UNIX_EPOCH);
    let location = |at: usize| {
        let lines = vec![Line { function: format!("f{at}").into(), file: None, line: 0 }];
        Location { address: at as u64, mapping: None, lines }
    };
    profile.locations = (0..400).map(location).collect();
    let stack = |at: u32| vec![at % 400, at / 400];
    let sample = |at| Sample { stack: stack(at), count: 1, weight: 1, span: None };
    profile.samples = (0..MAX_STACKS as u32 + 7).map(sample).collect();
    let mut graph = Flamegraph::new();
    graph.add(&profile);
    assert_eq!(graph.stacks.len(), MAX_STACKS + 1);
    assert_eq!(graph.stacks.values().sum::<u64>(), profile.total_weight());
}

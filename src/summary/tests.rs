//! The table as it is printed.

use std::time::UNIX_EPOCH;

use super::*;
use crate::export::sample;
use crate::profile::{Line, Location, SpanUsage};

fn usage(path: &[&str], samples: u64, polls: u64, migrations: u64) -> SpanUsage {
    SpanUsage {
        path: path.iter().map(|&name| name.into()).collect(),
        samples,
        weight: samples * 10_000_000,
        polls,
        migrations,
        closed: 1,
    }
}

/// A window of 25 samples, 10 of them in `checkout`'s tree, and 5 ms without any.
fn window() -> Profile {
    let mut profile = sample::profile(UNIX_EPOCH);
    for (name, count, weight) in [(LOST, 13, 130_000_000), (UNSAMPLED, 0, 5_000_000)] {
        let lines = vec![Line { function: name.into(), file: None, line: 0 }];
        let stack = vec![profile.locations.len() as u32];
        profile.locations.push(Location { address: 0, mapping: None, lines });
        profile.samples.push(Sample { stack, count, weight, span: None });
    }
    profile.spans = vec![
        usage(&["checkout"], 2, 40, 3),
        usage(&["checkout", "größe"], 3, 12, 0),
        usage(&["checkout", "price"], 4, 0, 0),
        usage(&["idle"], 0, 7, 7),
        // Its parent did nothing itself.
        usage(&["warm-up", "load"], 1, 1, 0),
    ];
    profile
}

#[test]
fn spans_are_a_tree_by_cost() {
    let mut summary = Summary::new();
    summary.add(&window());
    summary.add(&window());
    // Each sample is in this one several times, it cannot be added.
    summary.add(&Profile { kind: ProfileKind::EverySpan, ..window() });
    assert_eq!(
        summary.to_string(),
        "\
shop: 20.0 s profiled

span                 CPU   share     self  samples  polls  migrations
checkout         0.180 s   35.3%  0.040 s       18     80           6
  price          0.080 s   15.7%  0.080 s        8      0           0
  größe          0.060 s   11.8%  0.060 s        6     24           0
warm-up          0.020 s    3.9%  0.000 s        2      0           0
  load           0.020 s    3.9%  0.020 s        2      2           0
idle             0.000 s    0.0%  0.000 s        0     14          14
(outside spans)  0.040 s    7.8%  0.040 s        4
[lost samples]   0.260 s   51.0%  0.260 s       26
[unsampled]      0.010 s    2.0%  0.010 s        0
total            0.510 s  100.0%  0.510 s       50
"
    );
}

#[test]
fn other_events_are_plain_numbers() {
    let mut profile = sample::profile(UNIX_EPOCH);
    profile.weight_type = ValueType { kind: "cycles", unit: "count" };
    profile.spans = vec![usage(&["checkout"], 10, 1, 0)];
    let mut summary = Summary::new();
    summary.add(&profile);
    // Nanoseconds cannot be added to cycles.
    summary.add(&window());
    assert_eq!(
        summary.to_string(),
        "\
shop: 10.0 s profiled

span                cycles   share       self  samples  polls  migrations
checkout         100000000   83.3%  100000000       10      1           0
(outside spans)   20000000   16.7%   20000000        2
total            120000000  100.0%  120000000       12
"
    );
}

#[test]
fn nothing_is_a_summary_too() {
    assert_eq!(Summary::new().to_string(), "nothing profiled\n");
    let mut profile = sample::profile(UNIX_EPOCH);
    profile.samples.clear();
    let mut summary = Summary::new();
    summary.add(&profile);
    assert_eq!(
        summary.to_string(),
        "\
shop: 10.0 s profiled

span       CPU  share     self  samples  polls  migrations
total  0.000 s   0.0%  0.000 s        0
"
    );
}

#[test]
fn memory_is_bounded() {
    let mut profile = sample::profile(UNIX_EPOCH);
    profile.spans = (0..MAX_PATHS + 5).map(|at| usage(&[&format!("s{at}")], 1, 0, 0)).collect();
    let mut summary = Summary::new();
    summary.add(&profile);
    assert_eq!(summary.spans.len(), MAX_PATHS + 1);
    assert!(summary.to_string().contains("\n(other spans)"));
}

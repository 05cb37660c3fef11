//! A small profile. For tests.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::profile::{Line, Location, Mapping, Profile, ProfileKind, Sample, SpanLabels, ValueType};

pub(crate) const TRACE_ID: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
pub(crate) const SPAN_ID: u64 = 0x00f0_67aa_0ba9_02b7;

/// Ten samples of `checkout` in `price`, two outside all spans in `main`, at 100 Hz.
pub(crate) fn profile(start: SystemTime) -> Profile {
    let span = |name: &str| {
        Arc::new(SpanLabels {
            path: [name.into()].into(),
            name: name.into(),
            span_id: Some(SPAN_ID),
            trace_id: Some(TRACE_ID),
            fields: [(Arc::from("route"), Arc::from("/cart"))].into(),
        })
    };
    Profile {
        service_name: "shop".into(),
        kind: ProfileKind::ProcessCpu,
        start,
        duration: Duration::from_secs(10),
        period: 10_000_000,
        weight_type: ValueType::CPU,
        samples: vec![
            Sample { stack: vec![1, 0], count: 10, weight: 100_000_000, span: Some(span("checkout")) },
            Sample { stack: vec![0], count: 2, weight: 20_000_000, span: None },
        ],
        locations: vec![location("main", 0x1010), location("price", 0x1020)],
        mappings: vec![Mapping {
            start: 0x1000,
            end: 0x2000,
            file_offset: 0x1000,
            path: "/srv/shop".into(),
            build_id: "c0ffee".into(),
            has_functions: true,
            has_lines: true,
        }],
        spans: Vec::new(),
    }
}

fn location(function: &str, address: u64) -> Location {
    let lines = vec![Line { function: function.into(), file: Some("src/main.rs".into()), line: 7 }];
    Location { address, mapping: Some(0), lines }
}

//! What a collector gets, read by the protocol's own types.

use std::fmt::Write;
use std::time::SystemTime;

use opentelemetry_proto::tonic::collector::profiles::v1development::{
    ExportProfilesPartialSuccess, ExportProfilesServiceRequest,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use opentelemetry_proto::tonic::profiles::v1development::ProfilesDictionary;

use super::*;
use crate::export::delivery::script::{Act, Server};
use crate::export::sample;
use crate::profile::{ProfileKind, Sample, ValueType};

fn text(value: &Option<AnyValue>) -> &str {
    match value.as_ref().and_then(|v| v.value.as_ref()) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{other:?} is not text"),
    }
}

/// The request as text: the resource, the types, a line for each sample.
fn show(request: &ExportProfilesServiceRequest) -> String {
    let ProfilesDictionary {
        mapping_table,
        location_table,
        function_table,
        link_table,
        string_table,
        attribute_table,
        stack_table,
    } = request.dictionary.as_ref().unwrap();
    let string = |at: i32| &*string_table[at as usize];
    let of_resource = &request.resource_profiles[0];
    let mut out = String::new();
    for attribute in &of_resource.resource.as_ref().unwrap().attributes {
        writeln!(out, "{}={}", attribute.key, text(&attribute.value)).unwrap();
    }
    let profile = &of_resource.scope_profiles[0].profiles[0];
    let (kind, period) = (profile.sample_type.unwrap(), profile.period_type.unwrap());
    let named = |t: opentelemetry_proto::tonic::profiles::v1development::ValueType| {
        format!("{}/{}", string(t.type_strindex), string(t.unit_strindex))
    };
    writeln!(out, "{}, each {} {}", named(kind), profile.period, named(period)).unwrap();
    for sample in &profile.samples {
        write!(out, "{:?}", sample.values).unwrap();
        for &at in stack_table[sample.stack_index as usize].location_indices.iter().rev() {
            let location = &location_table[at as usize];
            let mapping = &mapping_table[location.mapping_index as usize];
            let build_id = &attribute_table[mapping.attribute_indices[0] as usize];
            for line in location.lines.iter().rev() {
                let function = &function_table[line.function_index as usize];
                write!(
                    out,
                    " {}({}:{} {:#x} {} {})",
                    string(function.name_strindex),
                    string(function.filename_strindex),
                    line.line,
                    location.address,
                    string(mapping.filename_strindex),
                    text(&build_id.value),
                )
                .unwrap();
            }
        }
        for &at in &sample.attribute_indices {
            let attribute = &attribute_table[at as usize];
            write!(out, " {}={}", string(attribute.key_strindex), text(&attribute.value)).unwrap();
        }
        let link = &link_table[sample.link_index as usize];
        writeln!(out, " trace={:x?} span={:x?}", link.trace_id, link.span_id).unwrap();
    }
    out
}

#[test]
fn a_request_reads_like_the_profile() {
    let server = Server::play([Act::ok()]);
    let mut otlp = Otlp::new(&server.url).service_namespace("acme").header("x-tenant", "a");
    otlp.check().unwrap();
    otlp.export(&sample::profile(SystemTime::now())).unwrap();
    assert_eq!(otlp.stats().sent, 1);
    let requests = server.requests();
    for line in [
        "POST /v1development/profiles HTTP/1.1\r\n",
        "content-type: application/x-protobuf\r\n",
        "x-tenant: a\r\n",
    ] {
        assert!(requests[0].head.contains(line), "{}", requests[0].head);
    }
    let request = ExportProfilesServiceRequest::decode(&requests[0].plain()[..]).unwrap();
    let expected = "\
service.name=shop
service.namespace=acme
service_namespace=acme
samples/count, each 10000000 cpu/nanoseconds
[10] main(src/main.rs:7 0x1010 /srv/shop c0ffee) price(src/main.rs:7 0x1020 /srv/shop c0ffee) \
span_name=checkout route=/cart trace=[a, f7, 65, 19, 16, cd, 43, dd, 84, 48, eb, 21, 1c, 80, 31, 9c] \
span=[0, f0, 67, aa, b, a9, 2, b7]
[2] main(src/main.rs:7 0x1010 /srv/shop c0ffee) trace=[] span=[]
";
    assert_eq!(show(&request), expected);
}

#[test]
fn without_gzip_the_body_is_plain() {
    let server = Server::play([Act::ok()]);
    let mut otlp = Otlp::new(&server.url).gzip(false);
    otlp.export(&sample::profile(SystemTime::now())).unwrap();
    let requests = server.requests();
    assert!(!requests[0].head.contains("content-encoding"), "{}", requests[0].head);
    assert!(ExportProfilesServiceRequest::decode(&requests[0].body[..]).is_ok());
}

#[test]
fn entry_0_of_every_table_means_nothing() {
    let profile = sample::profile(SystemTime::now());
    let dictionary = convert::requests(&profile, &Resource::default()).remove(0).dictionary.unwrap();
    assert_eq!(dictionary.string_table[0], "");
    assert_eq!(dictionary.mapping_table[0], Default::default());
    assert_eq!(dictionary.location_table[0], Default::default());
    assert_eq!(dictionary.function_table[0], Default::default());
    assert_eq!(dictionary.link_table[0], Default::default());
    assert_eq!(dictionary.attribute_table[0], Default::default());
    assert_eq!(dictionary.stack_table[0], Default::default());
}

#[test]
fn the_profile_of_every_span_is_not_added_to_the_usual_one() {
    let profile = crate::Profile { kind: ProfileKind::EverySpan, ..sample::profile(SystemTime::now()) };
    let shown = show(&convert::requests(&profile, &Resource::default())[0]);
    assert!(shown.contains("span/nanoseconds, each 10000000 cpu/nanoseconds\n[100000000] "), "{shown}");
}

#[test]
fn weights_that_are_no_multiple_of_the_period_add_up() {
    let mut profile = sample::profile(SystemTime::now());
    let sample = |weight| Sample { stack: vec![0], count: 0, weight, span: None };
    profile.samples = [4_000_000, 30_000_000, 4_000_000, 4_000_000, 27_000_000].map(sample).into();
    let request = convert::requests(&profile, &Resource::default()).remove(0);
    let samples = &request.resource_profiles[0].scope_profiles[0].profiles[0].samples;
    assert_eq!(samples.iter().map(|s| s.values[0]).collect::<Vec<_>>(), [3, 1, 2]);
}

#[test]
fn large_windows_go_in_parts() {
    let mut profile = sample::profile(SystemTime::now());
    let outside = profile.samples.pop().unwrap();
    profile.samples = vec![outside.clone(); 40_000];
    let sizes = |profile: &crate::Profile| -> Vec<usize> {
        let requests = convert::requests(profile, &Resource::default());
        requests.iter().map(|r| r.resource_profiles[0].scope_profiles[0].profiles[0].samples.len()).collect()
    };
    assert_eq!(sizes(&profile), [16_000, 16_000, 8_000]);
    // Few samples, but each with a megabyte of names.
    profile.locations = (0..8)
        .map(|i| crate::Location {
            address: i,
            mapping: None,
            lines: vec![crate::Line {
                function: format!("{i}{}", "x".repeat(1 << 20)).into(),
                file: None,
                line: 0,
            }],
        })
        .collect();
    profile.samples = (0..8).map(|i| Sample { stack: vec![i], ..outside.clone() }).collect();
    assert_eq!(sizes(&profile), [2, 2, 2, 2]);
}

#[test]
fn other_weights_keep_their_unit() {
    let cycles = ValueType { kind: "cycles", unit: "count" };
    let profile = crate::Profile { weight_type: cycles, ..sample::profile(SystemTime::now()) };
    let shown = show(&convert::requests(&profile, &Resource::default())[0]);
    assert!(shown.contains("samples/count, each 10000000 cycles/count"), "{shown}");
}

#[test]
fn a_success_may_hold_a_refusal() {
    let answer = |rejected_profiles| ExportProfilesServiceResponse {
        partial_success: Some(ExportProfilesPartialSuccess {
            rejected_profiles,
            error_message: "too old".into(),
        }),
    };
    assert_eq!(refused_part(&answer(1).encode_to_vec()).as_deref(), Some("too old"));
    assert_eq!(refused_part(&answer(0).encode_to_vec()), None);
    assert_eq!(refused_part(b""), None);
    assert_eq!(refused_part(b"{}"), None);
}

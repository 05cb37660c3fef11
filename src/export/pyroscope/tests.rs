//! What Pyroscope gets, read by other decoders than ours.

use std::time::{Duration, SystemTime};

use pprof::protos::{Message as _, Profile as Decoded};
use prost::Message as _;

use super::*;
use crate::export::delivery::script::{Act, Server, nobody};
use crate::export::sample;

/// The labels and the profiles of one push.
fn push(pyroscope: impl FnOnce(String) -> Pyroscope, profile: &Profile) -> (Vec<String>, Vec<Decoded>) {
    let server = Server::play([Act::ok()]);
    let mut pyroscope = pyroscope(server.url.clone());
    pyroscope.check().unwrap();
    pyroscope.export(profile).unwrap();
    let stats = pyroscope.stats();
    assert_eq!((stats.sent, stats.queued), (1, 0));
    let requests = server.requests();
    assert_eq!(requests[0].body.len() as u64, stats.sent_bytes);
    let mut request = PushRequest::decode(&requests[0].plain()[..]).unwrap();
    assert_eq!(request.series.len(), 1);
    let series = request.series.remove(0);
    let labels = series.labels.iter().map(|l| format!("{}={}", l.name, l.value)).collect();
    let profiles = series.samples.iter().map(|s| Decoded::decode(&s.raw_profile[..]).unwrap()).collect();
    (labels, profiles)
}

#[test]
fn a_push_carries_labels_and_a_profile() {
    let profile = sample::profile(SystemTime::now());
    let (labels, decoded) =
        push(|url| Pyroscope::new(url).label("region", "eu").service_namespace("acme"), &profile);
    assert_eq!(
        labels,
        [
            "__name__=process_cpu",
            "service_name=shop",
            "__delta__=false",
            "pyroscope_spy=pyroscope-rs",
            "region=eu",
            "service_namespace=acme",
        ]
    );
    let [decoded] = &decoded[..] else { panic!("{} profiles", decoded.len()) };
    assert_eq!(decoded.sample.len(), 2);
    assert_eq!(decoded.period, 10_000_000);
    let text = |at: i64| &*decoded.string_table[at as usize];
    let labels: Vec<_> =
        decoded.sample.iter().flat_map(|s| &s.label).map(|l| (text(l.key), text(l.str))).collect();
    assert!(labels.contains(&("span_id", "00f067aa0ba902b7")), "{labels:?}");
    assert!(labels.contains(&("trace_id", "0af7651916cd43dd8448eb211c80319c")), "{labels:?}");
}

#[test]
fn the_profile_of_every_span_is_a_type_of_its_own() {
    let profile = Profile { kind: ProfileKind::EverySpan, ..sample::profile(SystemTime::now()) };
    let (labels, _) = push(Pyroscope::new, &profile);
    assert_eq!(labels[0], "__name__=span");
}

#[test]
fn headers_and_path_are_as_the_server_wants_them() {
    let server = Server::play([Act::ok(), Act::ok()]);
    let profile = sample::profile(SystemTime::now());
    let url = format!("{}/team/", server.url);
    let mut first =
        Pyroscope::new(&url).basic_auth("aladdin", "open sesame").tenant_id("a").header("X-More", "m");
    let mut second = Pyroscope::new(&url).basic_auth("aladdin", "open sesame").bearer_token("t0ken");
    first.export(&profile).unwrap();
    second.export(&profile).unwrap();
    let heads: Vec<_> = server.requests().into_iter().map(|r| r.head).collect();
    for line in [
        "POST /team/push.v1.PusherService/Push HTTP/1.1\r\n",
        "content-type: application/proto\r\n",
        "content-encoding: gzip\r\n",
        "authorization: Basic YWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n",
        "x-scope-orgid: a\r\n",
        "x-more: m\r\n",
    ] {
        assert!(heads[0].contains(line), "{line} is not in {}", heads[0]);
    }
    assert!(
        heads[1].contains("authorization: Bearer t0ken\r\n") && !heads[1].contains("Basic"),
        "{}",
        heads[1]
    );
}

#[test]
fn an_empty_window_is_not_sent() {
    let mut profile = sample::profile(SystemTime::now());
    profile.samples.clear();
    let mut pyroscope = Pyroscope::new(nobody());
    pyroscope.export(&profile).unwrap();
    assert_eq!(pyroscope.stats(), ExportStats::default());
}

#[test]
fn secrets_are_not_shown() {
    let pyroscope = |url: &str| {
        Pyroscope::new(url)
            .basic_auth("user", "hunter2")
            .bearer_token("t0ken")
            .tenant_id("s3cret")
            .header("x-key", "k3y-value")
    };
    let mut shown = String::new();
    for url in ["http://me:swordfish@127.0.0.1:1", "http://me:swordfish@", "me:swordfish@host"] {
        let mut pyroscope = pyroscope(url);
        shown += &format!("{pyroscope:?} {:?}\n", pyroscope.check());
        shown += &format!("{:?}\n", pyroscope.export(&sample::profile(SystemTime::now())));
        shown += &format!("{:?}\n", pyroscope.finish(Instant::now() + Duration::from_millis(10)));
    }
    for secret in ["hunter2", "t0ken", "s3cret", "k3y-value", "swordfish"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(shown.contains("127.0.0.1:1"), "{shown}");
}

#[test]
fn wrong_settings_stop_the_start() {
    for wrong in [
        Pyroscope::new("localhost:4040"),
        Pyroscope::new("http://localhost").label("a-b", "c"),
        Pyroscope::new("http://localhost").header("a b", "c"),
        Pyroscope::new("http://localhost").timeout(Duration::ZERO),
    ] {
        let error = wrong.check().unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Config);
    }
}

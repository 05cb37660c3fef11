//! Tempo, and the traces read back from it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::process::{Process, demo_file, free_ports};
use super::{get, items, number, wait_for};

/// A running Tempo.
pub struct Tempo {
    /// HTTP, gRPC, OTLP by gRPC, OTLP by HTTP.
    ports: [u16; 4],
    // Killed at the end: asked to stop, it may take half a minute.
    _process: Process,
}

/// A span as Tempo has it.
#[derive(Debug)]
pub struct Span {
    pub name: String,
    pub id: String,
    pub is_root: bool,
    pub start_ms: u64,
    pub end_ms: u64,
    /// All values under each key, in case there are several.
    attributes: BTreeMap<String, Vec<String>>,
}

/// A trace: the attributes of the service, and its spans.
#[derive(Debug)]
pub struct Trace {
    pub resource: BTreeMap<String, Vec<String>>,
    pub spans: Vec<Span>,
}

impl Span {
    /// The one value under this key.
    pub fn attribute(&self, key: &str) -> &str {
        match self.attributes.get(key).map(Vec::as_slice) {
            Some([value]) => value,
            other => panic!("{key} is there not once but as {other:?}, in {self:#?}"),
        }
    }

    pub fn samples(&self) -> u64 {
        self.attribute("pollscope.samples").parse().expect("a number")
    }
}

impl Trace {
    pub fn root(&self) -> &Span {
        self.spans.iter().find(|span| span.is_root).expect("a trace has a root")
    }
}

impl Tempo {
    /// Starts with the demo's file, on loopback.
    pub fn start(binary: &str, directory: &Path) -> Self {
        let ports @ [http, grpc, otlp_grpc, otlp_http] = free_ports();
        let mut command = Command::new(binary);
        command
            .arg(format!("-config.file={}", demo_file("tempo.yaml").display()))
            .arg("-config.expand-env=true")
            .env("TEMPO_HOST", "127.0.0.1");
        for (name, port) in [
            ("TEMPO_PORT", http),
            ("TEMPO_GRPC_PORT", grpc),
            ("OTLP_GRPC_PORT", otlp_grpc),
            ("OTLP_HTTP_PORT", otlp_http),
        ] {
            command.env(name, port.to_string());
        }
        let mut process = Process::start(&mut command, directory, "tempo");
        wait_for("Tempo", || {
            process.check();
            super::agent().get(format!("http://127.0.0.1:{http}/ready")).call().ok()
        });
        Self { ports, _process: process }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// Where it takes traces.
    pub fn otlp_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[3])
    }

    pub fn version(&self) -> String {
        let info = get(&format!("{}/api/status/buildinfo", self.url()), &[]).expect("its version");
        info["version"].as_str().unwrap_or("?").to_owned()
    }

    /// The ids of the traces with a span that this TraceQL finds.
    pub fn search(&self, traceql: &str) -> Vec<String> {
        let query = [("q", traceql), ("limit", "5000")];
        let answer = get(&format!("{}/api/search", self.url()), &query).unwrap_or_default();
        let id = |trace: &Value| format!("{:0>32}", trace["traceID"].as_str().expect("an id"));
        items(&answer["traces"]).iter().map(id).collect()
    }

    /// Whether it makes metrics of spans, which Traces Drilldown begins with.
    pub fn has_metrics(&self, traceql: &str) -> bool {
        let query = [("q", traceql), ("since", "15m")];
        get(&format!("{}/api/metrics/query_range", self.url()), &query)
            .is_some_and(|answer| !items(&answer["series"]).is_empty())
    }

    /// A whole trace, if it is there.
    pub fn trace(&self, id: &str) -> Option<Trace> {
        let answer = get(&format!("{}/api/v2/traces/{id}", self.url()), &[])?;
        let mut trace = Trace { resource: BTreeMap::new(), spans: Vec::new() };
        for resource in items(&answer["trace"]["resourceSpans"]) {
            trace.resource = attributes(&resource["resource"]);
            for scope in items(&resource["scopeSpans"]) {
                trace.spans.extend(items(&scope["spans"]).iter().map(span));
            }
        }
        (!trace.spans.is_empty()).then_some(trace)
    }
}

fn span(value: &Value) -> Span {
    let nanos = |key: &str| number(&value[key]);
    Span {
        name: value["name"].as_str().expect("a name").to_owned(),
        id: hex_of_base64(value["spanId"].as_str().expect("an id")),
        is_root: value["parentSpanId"].as_str().unwrap_or_default().is_empty(),
        start_ms: nanos("startTimeUnixNano") / 1_000_000,
        end_ms: nanos("endTimeUnixNano") / 1_000_000,
        attributes: attributes(value),
    }
}

fn attributes(of: &Value) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for attribute in items(&of["attributes"]) {
        let key = attribute["key"].as_str().expect("a key").to_owned();
        // One of stringValue, intValue and so on.
        let value = attribute["value"].as_object().and_then(|value| value.values().next());
        let value =
            value.map_or_else(String::new, |v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
        all.entry(key).or_default().push(value);
    }
    all
}

/// Protobuf's JSON writes bytes in base64.
fn hex_of_base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.trim_end_matches('=').bytes();
    let bits: String = digits
        .map(|digit| format!("{:06b}", DIGITS.iter().position(|&d| d == digit).expect("base64")))
        .collect();
    bits.as_bytes()
        .as_chunks::<8>()
        .0
        .iter()
        .map(|byte| byte.iter().fold(0u8, |byte, bit| byte << 1 | (bit - b'0')))
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

//! What the real-server test works with: Pyroscope and Tempo as child processes, and their APIs as
//! Grafana uses them.

#![allow(unreachable_pub, reason = "part of one test, which is a crate of its own")]

pub mod flamegraph;
pub mod grafana;
pub mod process;
pub mod pyroscope;
pub mod tempo;

use std::time::{Duration, Instant};

use serde_json::Value;

/// HTTP to the servers on loopback, whatever proxies the environment names.
fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().proxy(None).timeout_global(Some(Duration::from_secs(30))).build().into()
}

/// GETs JSON; `None` when the server does not answer, or not with success and JSON.
pub fn get(url: &str, query: &[(&str, &str)]) -> Option<Value> {
    let request = agent().get(url).header("accept", "application/json").query_pairs(query.iter().copied());
    serde_json::from_str(&request.call().ok()?.body_mut().read_to_string().ok()?).ok()
}

/// POSTs JSON, and gives the answer; panics with the server's words when it refuses.
pub fn post(url: &str, body: &Value) -> Value {
    let config = agent().post(url).config().http_status_as_error(false).build();
    let mut answer = config
        .header("content-type", "application/json")
        .send(body.to_string())
        .unwrap_or_else(|error| panic!("{url}: {error}"));
    let text = answer.body_mut().read_to_string().unwrap_or_default();
    assert!(answer.status().is_success(), "{url} answered {} to {body}: {text}", answer.status());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{url}: {error}: {text}"))
}

/// Asks again and again, for a minute, until there is an answer.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match ask() {
            Some(answer) => return answer,
            None if Instant::now() < end => std::thread::sleep(Duration::from_millis(100)),
            None => panic!("waited a minute in vain for {what}"),
        }
    }
}

/// A number that the servers' JSON writes as a string.
pub fn number(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.parse().unwrap_or_else(|_| panic!("{text:?} is no number")),
        other => other.as_u64().unwrap_or_else(|| panic!("{other} is no number")),
    }
}

/// What an array holds; nothing when it is missing.
pub fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

//! The server's bad days, played by a script.

use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use super::script::{Act, Server, nobody};
use super::{Delivery, ExportStats, MAX_PAUSE, MAX_TURNED_AWAY, Said, Target, pause, queue};

/// Longer than any of these tests runs, however slow the machine.
const NEVER: Duration = Duration::from_secs(6 * 60 * 60);

const HOUR: Duration = Duration::from_secs(60 * 60);

/// A delivery to `url`, and what it says.
fn delivery(url: &str) -> (Delivery, Receiver<String>) {
    let mut target = Target::new("Pyroscope", url.to_owned(), "/push", "application/proto");
    target.timeout = NEVER;
    let mut delivery = Delivery::new(target);
    let (to, heard) = mpsc::channel();
    delivery.said = Said::to(move |text| drop(to.send(text.to_owned())));
    (delivery, heard)
}

fn plain(server: Server) -> Vec<String> {
    server.requests().iter().map(|r| String::from_utf8(r.plain()).unwrap()).collect()
}

/// What was counted, in one line; bytes left out.
fn counts(stats: ExportStats) -> String {
    let named = [
        (stats.sent, "sent"),
        (stats.retried, "retried"),
        (stats.rejected, "rejected"),
        (stats.unconfirmed, "unconfirmed"),
        (stats.dropped, "dropped"),
        (stats.queued, "queued"),
    ];
    let counted = named.iter().filter(|(n, _)| *n > 0).map(|(n, name)| format!("{n} {name}"));
    counted.collect::<Vec<_>>().join(", ")
}

/// Sends "one" into one act and "two" into a server that is well again; returns what the server got,
/// what was counted, and what was said.
fn bad_day(act: Act) -> (Vec<String>, String, Vec<String>) {
    let again = matches!(&act, Act::Answer(text) if text.contains(" 429 ") || text.contains(" 500 "));
    let server = Server::play([act, Act::ok()].into_iter().chain(again.then(Act::ok)));
    let (mut delivery, heard) = delivery(&server.url);
    let now = Instant::now();
    delivery.push(b"one", now).unwrap();
    delivery.poll(now);
    delivery.push(b"two", now).unwrap();
    assert_eq!(delivery.poll(now + HOUR / 2), None);
    let counts = counts(delivery.stats());
    drop(delivery);
    (plain(server), counts, heard.iter().collect())
}

#[test]
fn a_good_day() {
    let (got, counts, said) = bad_day(Act::ok());
    assert_eq!((got.join(" "), &*counts), ("one two".into(), "2 sent"));
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn what_the_server_turns_away_goes_again() {
    for status in [429, 500] {
        let (got, counts, said) = bad_day(Act::status(status, "", "not now"));
        assert_eq!((got.join(" "), &*counts), ("one two one".into(), "2 sent, 1 retried"));
        assert!(said.len() == 1 && said[0].contains(&format!("it answered {status}: not now")), "{said:?}");
    }
}

#[test]
fn what_the_server_refuses_does_not() {
    for (status, says) in [
        (400, "refused a profile (400): the name is missing"),
        (401, "does not accept our credentials (401): the name is missing"),
        (403, "does not accept our credentials (403): the name is missing"),
        (413, "refused a profile (413): the name is missing"),
        (415, "refused a profile (415): the name is missing"),
        (307, "refused a profile (307): the name is missing"),
    ] {
        let body = r#"{"code":"invalid_argument","message":"the name is missing"}"#;
        let (got, counts, said) = bad_day(Act::status(status, "location: http://127.0.0.1:1/\r\n", body));
        assert_eq!((got.join(" "), &*counts), ("one two".into(), "1 sent, 1 rejected"));
        assert!(said.len() == 1 && said[0].ends_with(says), "{said:?}");
    }
}

#[test]
fn what_may_be_stored_is_not_sent_again() {
    let acts = [
        Act::Closes,
        Act::Answer("HTTP/1.1 20".into()),
        Act::Answer("not HTTP at all\r\n\r\n".into()),
        Act::status(504, "", "waited in vain"),
    ];
    for act in acts {
        let (got, counts, said) = bad_day(act);
        assert_eq!((got.join(" "), &*counts), ("one two".into(), "1 sent, 1 unconfirmed"));
        assert!(
            said.len() == 1 && said[0].ends_with("as it may be stored, it is not sent again"),
            "{said:?}"
        );
    }
}

#[test]
fn an_answer_whose_body_breaks_off_is_an_answer() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{";
    let (got, counts, _) = bad_day(Act::Answer(answer.into()));
    assert_eq!((got.join(" "), &*counts), ("one two".into(), "2 sent"));
}

#[test]
fn a_connection_reset_after_the_body_is_not_tried_again() {
    let server = Server::play([Act::Resets]);
    let (mut delivery, _heard) = delivery(&server.url);
    let now = Instant::now();
    delivery.push(b"one", now).unwrap();
    assert_eq!(delivery.poll(now), None);
    assert_eq!(counts(delivery.stats()), "1 unconfirmed");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_connection_reset_before_the_end_of_the_body_is() {
    let server = Server::play([Act::Hangs, Act::ok()]);
    let (mut delivery, _heard) = delivery(&server.url);
    let now = Instant::now();
    // A body that no buffer between us and the server takes whole: some of it is still ours.
    let large: Vec<u8> = (0..32u32 << 18).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    delivery.target.gzip = false;
    delivery.push(&large[..queue::MAX_BYTES], now).unwrap();
    assert_eq!(delivery.poll(now).map(|at| at > now), Some(true));
    assert_eq!(counts(delivery.stats()), "1 queued");
    assert_eq!(delivery.poll(now + MAX_PAUSE), None);
    assert_eq!(counts(delivery.stats()), "1 sent, 1 retried");
    assert!(server.requests()[0].body == large[..queue::MAX_BYTES]);
}

#[test]
fn what_breaks_off_in_the_middle_again_and_again_is_given_up() {
    let server = Server::play((0..MAX_TURNED_AWAY).map(|_| Act::Hangs));
    let (mut delivery, _heard) = delivery(&server.url);
    delivery.target.gzip = false;
    let mut now = Instant::now();
    delivery.push(&vec![0; queue::MAX_BYTES], now).unwrap();
    while let Some(next) = delivery.poll(now) {
        now = next;
    }
    assert_eq!(counts(delivery.stats()), "9 retried, 1 dropped");
    assert!(server.requests().is_empty());
}

#[test]
fn a_tls_handshake_that_fails_has_sent_nothing() {
    let server = Server::play([Act::Hangs]);
    let (mut delivery, _heard) = delivery(&server.url.replace("http:", "https:"));
    let now = Instant::now();
    delivery.push(b"one", now).unwrap();
    assert!(delivery.poll(now).is_some());
    assert_eq!(counts(delivery.stats()), "1 queued");
    assert!(server.requests().is_empty());
}

#[test]
fn a_silent_server_costs_one_timeout() {
    let server = Server::play([Act::Silent, Act::ok()]);
    let (mut delivery, heard) = delivery(&server.url);
    delivery.target.timeout = Duration::from_secs(1);
    let now = Instant::now();
    delivery.push(b"one", now).unwrap();
    delivery.push(b"two", now).unwrap();
    let next = delivery.poll(now).unwrap();
    assert!(next > now);
    assert_eq!(counts(delivery.stats()), "1 unconfirmed, 1 queued");
    // Before the pause is over nothing goes out.
    assert_eq!(delivery.poll(now), Some(next));
    delivery.target.timeout = NEVER;
    assert_eq!(delivery.poll(next), None);
    assert_eq!(counts(delivery.stats()), "1 sent, 1 unconfirmed");
    assert_eq!(plain(server), ["one", "two"]);
    drop(delivery);
    assert!(heard.iter().next().unwrap().contains("no answer in time"));
}

#[test]
fn the_server_says_when_to_come_back() {
    let server = Server::play([Act::status(429, "Retry-After: 120\r\n", ""), Act::ok()]);
    let (mut delivery, _heard) = delivery(&server.url);
    let now = Instant::now();
    delivery.push(b"one", now).unwrap();
    let next = delivery.poll(now).unwrap();
    let asked = Duration::from_secs(120);
    assert!((asked..=asked * 11 / 10).contains(&(next - now)), "{:?}", next - now);
    assert_eq!(delivery.poll(now + asked - Duration::from_secs(1)), Some(next));
    // New windows do not go round it.
    delivery.push(b"two", now).unwrap();
    assert_eq!(delivery.poll(now + asked / 2), Some(next));
    delivery.queue.remove(1);
    assert_eq!(delivery.poll(next), None);
    assert_eq!(plain(server), ["one", "one"]);
}

#[test]
fn an_hour_away() {
    let (mut delivery, heard) = delivery(&nobody());
    let began = Instant::now();
    let window = Duration::from_secs(10);
    let mut tries = 0;
    for at in (0..720).map(|n| began + window * n) {
        delivery.push(b"window", at).unwrap();
        let before = delivery.failures;
        assert!(delivery.poll(at).is_some_and(|next| next > at && next <= at + MAX_PAUSE));
        tries += delivery.failures - before;
    }
    let stats = delivery.stats();
    // Two hours of windows; those of the last one are there, less the minute that is left for clocks.
    assert_eq!((stats.queued, stats.dropped), (355, 365));
    assert!(tries < 2 * 60 * 60 / 30 + 10, "{tries} tries");
    // It comes back, and gets each of them once.
    let back = delivery.pause_until.unwrap();
    delivery.queue.expire(back);
    let waiting = delivery.stats().queued;
    let server = Server::play((0..waiting).map(|_| Act::ok()));
    delivery.target.url = server.url.clone();
    delivery.sender = None;
    delivery.open().unwrap();
    while delivery.poll(back).is_some() {}
    assert_eq!((delivery.stats().sent, delivery.stats().queued), (waiting, 0));
    assert_eq!(plain(server).len() as u64, waiting);
    drop(delivery);
    let said: Vec<_> = heard.iter().collect();
    assert!(said.len() == 2 && said[0].contains("Connection refused"), "{said:?}");
    assert!(said[1].ends_with("given up: the server was away for an hour"), "{said:?}");
}

#[test]
fn what_waits_is_bounded_in_bytes() {
    let (mut delivery, heard) = delivery(&nobody());
    delivery.target.gzip = false;
    let now = Instant::now();
    for _ in 0..100 {
        delivery.push(&[0; 1 << 20], now).unwrap();
        delivery.poll(now);
    }
    let stats = delivery.stats();
    assert_eq!((stats.queued, stats.queued_bytes, stats.dropped), (32, 32 << 20, 68));
    drop(delivery);
    assert!(heard.iter().any(|text| text.ends_with("given up: more than 32 MiB wait")));
}

#[test]
fn a_request_that_the_server_chokes_on_is_given_up_and_holds_up_nothing() {
    let bad = || Act::status(500, "", "");
    let acts = [bad(), Act::ok()].into_iter().chain((1..MAX_TURNED_AWAY).map(|_| bad()));
    let server = Server::play(acts);
    let (mut delivery, _heard) = delivery(&server.url);
    let mut now = Instant::now();
    delivery.push(b"bad", now).unwrap();
    delivery.push(b"good", now).unwrap();
    while let Some(next) = delivery.poll(now) {
        now = next;
    }
    assert_eq!(counts(delivery.stats()), "1 sent, 9 retried, 1 dropped");
    let got = plain(server);
    assert_eq!(got[..3], ["bad", "good", "bad"]);
}

#[test]
fn the_end_brings_out_what_waits() {
    let server = Server::play([Act::status(500, "", ""), Act::ok(), Act::ok()]);
    let (mut delivery, _heard) = delivery(&server.url);
    let now = Instant::now();
    delivery.push(b"one", now).unwrap();
    delivery.push(b"two", now).unwrap();
    delivery.poll(now);
    assert_eq!(counts(delivery.stats()), "2 queued");
    delivery.finish(Instant::now() + NEVER).unwrap();
    assert_eq!(counts(delivery.stats()), "2 sent, 1 retried");
    assert_eq!(plain(server), ["one", "two", "one"]);
}

#[test]
fn the_end_does_not_wait_for_a_server_that_is_away() {
    let (mut delivery, _heard) = delivery(&nobody());
    delivery.push(b"one", Instant::now()).unwrap();
    let error = delivery.finish(Instant::now() + Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().ends_with(" was not reached before the end; profiles lost: 1"), "{error}");
    assert_eq!(delivery.stats().dropped, 1);
}

#[test]
fn a_server_that_repeats_the_secret_is_not_repeated() {
    let body = r#"{"message":"hunter2 is not a token, nor is s3cret"}"#;
    let server = Server::play([Act::status(401, "", body)]);
    let (mut delivery, heard) = delivery(&server.url.replace("http://", "http://user:hunter2@"));
    delivery.target.header("x-key".into(), "s3cret".into());
    let now = Instant::now();
    delivery.push(b"one", now).unwrap();
    delivery.poll(now);
    let shown = format!("{delivery:?}");
    drop(delivery);
    let said = heard.iter().collect::<String>();
    assert!(said.contains("*** is not a token, nor is ***"), "{said}");
    for secret in ["hunter2", "s3cret"] {
        assert!(!said.contains(secret) && !shown.contains(secret), "{said} {shown}");
    }
    let head = &server.requests()[0].head;
    assert!(head.contains("authorization: Basic dXNlcjpodW50ZXIy\r\n"), "{head}");
}

#[test]
fn pauses_double_to_a_minute_and_vary() {
    let seconds = |failures, random| pause(failures, None, random).as_secs_f64();
    assert_eq!([0, 1, 2, 5, 6, 40].map(|n| seconds(n, 0)), [1.0, 2.0, 4.0, 32.0, 60.0, 60.0]);
    assert_eq!(seconds(2, u64::MAX), 2.0);
    let asked = |seconds, random| pause(3, Some(Duration::from_secs(seconds)), random).as_secs_f64();
    assert_eq!([asked(0, 0), asked(7, 0), asked(86_400, 0)], [1.0, 7.0, 300.0]);
    assert_eq!(asked(10, u64::MAX), 11.0);
}

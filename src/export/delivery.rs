//! Brings requests to one server, through its bad days: sends, waits, tries again, gives up, counts.
//!
//! You give [`Delivery::push`] a body; it goes out at once, or waits in memory until the server takes
//! it. Nothing is delivered twice: a request goes out again only when the server certainly has not
//! got it. A call lasts little longer than one timeout, however much waits. Runs on the export thread.
//!
//! Time comes in as a parameter. Only the length of a request is measured by the real clock.

mod address;
mod answer;
mod http;
mod queue;
mod target;
mod text;

#[cfg(test)]
pub(crate) mod script;
#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;

use self::answer::Outcome;
use self::http::Sender;
use self::queue::Queue;
pub(crate) use self::target::{Target, config};
#[cfg(feature = "otlp")]
pub(crate) use self::text::percent_decode;
use super::stats::ExportStats;
use crate::error::{Error, ErrorKind};
use crate::report::Said;

/// The first pause after a failure. Each further one doubles it.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause, for a server that is simply not there.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// The longest pause that a server may ask for.
const MAX_ASKED_PAUSE: Duration = Duration::from_secs(5 * 60);

/// A request that the server has turned away this often is given up. Pyroscope answers 500 to what it
/// cannot read and 429 to what is too large, so tries must end. A server that is not there does not
/// count, as then no request is to blame.
const MAX_TURNED_AWAY: u32 = 10;

/// The way to one server.
pub(crate) struct Delivery {
    pub(crate) target: Target,
    // opened at the first request
    sender: Option<Sender>,
    queue: Queue,
    stats: ExportStats,
    said: Said,
    // how the server is doing
    failures: u32,
    pause_until: Option<Instant>,
    /// The server itself asked for the pause.
    asked: bool,
}

impl Delivery {
    pub(crate) fn new(target: Target) -> Self {
        Self {
            target,
            sender: None,
            queue: Queue::default(),
            stats: ExportStats::default(),
            said: Said::new(),
            failures: 0,
            pause_until: None,
            asked: false,
        }
    }

    /// Whether the address and the headers make sense.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.target.resolve().map(drop)
    }

    /// Takes a request's body, not yet compressed.
    pub(crate) fn push(&mut self, body: &[u8], now: Instant) -> Result<(), Error> {
        self.open()?;
        let body = if self.target.gzip { gzip(body) } else { body.to_vec() };
        let dropped = self.queue.push(body, now);
        self.drop_counted(dropped, "more than 32 MiB wait");
        Ok(())
    }

    /// Sends what is due, and returns when the next is; see [`Export::poll`](super::Export::poll).
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Instant> {
        // With a tenth of the timeout spent, another request could make this call two timeouts long.
        let patience = self.target.timeout / 10;
        let began = Instant::now();
        let expired = self.queue.expire(now);
        self.drop_counted(expired, "the server was away for an hour");
        while let Some(at) = self.queue.next() {
            if let Some(until) = self.pause_until.filter(|&until| until > now) {
                return Some(until);
            }
            if began.elapsed() > patience {
                return Some(now);
            }
            self.send(at, now, self.target.timeout);
        }
        None
    }

    /// Sends all that waits, until `deadline`, and gives up the rest.
    pub(crate) fn finish(&mut self, deadline: Instant) -> Result<(), Error> {
        // The pauses are ours to cut short, unless the server asked for one.
        if !self.asked {
            self.pause_until = None;
        }
        loop {
            let now = Instant::now();
            let left = deadline.saturating_duration_since(now);
            let Some(at) = self.queue.next() else { break };
            let pause = self.pause_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
            if left <= pause {
                break;
            }
            match pause.is_zero() {
                true => self.send(at, now, self.target.timeout.min(left)),
                false => thread::sleep(pause),
            }
        }
        let dropped = self.queue.clear();
        self.stats.dropped += dropped;
        match dropped {
            0 => Ok(()),
            n => Err(Error::new(
                ErrorKind::Export,
                format!("{} was not reached before the end; profiles lost: {n}", self.name()),
            )),
        }
    }

    pub(crate) fn stats(&self) -> ExportStats {
        ExportStats { queued: self.queue.len(), queued_bytes: self.queue.bytes(), ..self.stats }
    }

    fn open(&mut self) -> Result<&Sender, Error> {
        match self.sender {
            Some(ref sender) => Ok(sender),
            None => Ok(self.sender.insert(Sender::open(&self.target)?)),
        }
    }

    /// Sends the request at `at` in the queue, and does what follows from the answer.
    fn send(&mut self, at: usize, now: Instant, timeout: Duration) {
        // `push` has opened it, and nothing waits that was not pushed.
        let Some(sender) = &self.sender else { return };
        let waiting = self.queue.get(at);
        self.stats.retried += u64::from(waiting.attempts > 0);
        waiting.attempts += 1;
        let outcome = sender.send(&waiting.body, timeout);
        let bytes = waiting.body.len() as u64;
        match outcome {
            Outcome::Stored => {
                self.queue.remove(at);
                self.stats.sent += 1;
                self.stats.sent_bytes += bytes;
                self.server_is_well();
            }
            Outcome::PartlyStored { message } => {
                self.queue.remove(at);
                self.stats.rejected += 1;
                self.server_is_well();
                self.say("partly", |to| format!("{to} took only a part of a profile: {message}"));
            }
            Outcome::Refused { status, message } => {
                self.queue.remove(at);
                self.stats.rejected += 1;
                self.server_is_well();
                self.say(&format!("refused {status}"), |to| match status {
                    401 | 403 => format!("{to} does not accept our credentials ({status}): {message}"),
                    _ => format!("{to} refused a profile ({status}): {message}"),
                });
            }
            Outcome::Unknown { why } => {
                self.queue.remove(at);
                self.stats.unconfirmed += 1;
                self.pause(None, now);
                self.say("unknown", |to| {
                    format!(
                        "a profile was sent to {to}, but {why}; as it may be stored, it is not sent again"
                    )
                });
            }
            Outcome::Later { why, status, blamed, wait } => {
                waiting.turned_away += u32::from(blamed);
                let given_up = waiting.turned_away >= MAX_TURNED_AWAY;
                self.pause(wait, now);
                self.say(&format!("later {status:?}"), |to| {
                    format!("{to} does not take profiles now: {why}; they wait in memory and are sent again")
                });
                if given_up {
                    self.queue.remove(at);
                    self.drop_counted(1, "it was turned away 10 times");
                }
            }
        }
    }

    fn server_is_well(&mut self) {
        self.failures = 0;
        self.pause_until = None;
        self.asked = false;
    }

    fn pause(&mut self, asked: Option<Duration>, now: Instant) {
        let random = RandomState::new().hash_one(self.failures);
        self.pause_until = Some(now + pause(self.failures, asked, random));
        self.asked = asked.is_some();
        self.failures = self.failures.saturating_add(1);
    }

    fn drop_counted(&mut self, dropped: u64, why: &str) {
        self.stats.dropped += dropped;
        if dropped > 0 {
            self.say(why, |to| format!("a profile for {to} was given up: {why}"));
        }
    }

    /// Says a sentence about the server once, without what is secret.
    fn say(&mut self, reason: &str, text: impl FnOnce(&str) -> String) {
        let name = self.name();
        let sender = &self.sender;
        self.said.once(reason, || {
            let text = text(&name);
            sender.as_ref().map_or_else(|| text.clone(), |sender| sender.to.redact(&text))
        });
    }

    fn name(&self) -> String {
        match &self.sender {
            Some(sender) => format!("{} at {}", self.target.server, sender.to.shown),
            None => self.target.server.to_owned(),
        }
    }
}

/// How long to wait after `failures` failures and one more. What a server asks for is kept to and, so
/// that not all its clients come back together, a tenth exceeded at random; our own pauses are cut by
/// up to a half at random, for the same reason.
fn pause(failures: u32, asked: Option<Duration>, random: u64) -> Duration {
    let share = random as f64 / u64::MAX as f64;
    match asked {
        Some(asked) => asked.clamp(MIN_PAUSE, MAX_ASKED_PAUSE).mul_f64(1.0 + share / 10.0),
        None => MIN_PAUSE.saturating_mul(1 << failures.min(30)).min(MAX_PAUSE).mul_f64(1.0 - share / 2.0),
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::default());
    // Writing to memory does not fail.
    let _ = encoder.write_all(body);
    encoder.finish().unwrap_or_default()
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("target", &self.target).field("stats", &self.stats()).finish()
    }
}

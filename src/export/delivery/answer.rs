//! What a server's answer means for the profile that was sent.

use std::time::{Duration, SystemTime};

use super::text;

/// What became of one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The server has it.
    Stored,
    /// The server has it, but for a part that it refused.
    PartlyStored { message: String },
    /// The server certainly has not got it and may take it later. The request itself is to blame
    /// perhaps, unless the server is not there at all.
    Later { why: String, status: Option<u16>, blamed: bool, wait: Option<Duration> },
    /// The server will never take it.
    Refused { status: u16, message: String },
    /// It was sent, and nobody knows whether the server has it.
    Unknown { why: String },
}

/// Reads a whole answer. `partial` finds in the body of a success what was refused all the same.
pub(super) fn read(
    status: u16,
    retry_after: Option<&str>,
    body: &[u8],
    partial: fn(&[u8]) -> Option<String>,
    now: SystemTime,
) -> Outcome {
    let message = || text::message(body);
    match status {
        200..=299 => match partial(body) {
            None => Outcome::Stored,
            Some(message) => Outcome::PartlyStored { message: text::message(message.as_bytes()) },
        },
        // A gateway says so when it has passed the request on and waited in vain.
        504 => Outcome::Unknown { why: format!("it answered 504: {}", message()) },
        408 | 429 | 500..=599 => Outcome::Later {
            why: format!("it answered {status}: {}", message()),
            status: Some(status),
            blamed: true,
            wait: retry_after.and_then(|value| text::retry_after(value, now)),
        },
        _ => Outcome::Refused { status, message: message() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(status: u16) -> &'static str {
        match read(status, None, b"", |_| None, SystemTime::now()) {
            Outcome::Stored | Outcome::PartlyStored { .. } => "stored",
            Outcome::Later { .. } => "later",
            Outcome::Refused { .. } => "refused",
            Outcome::Unknown { .. } => "unknown",
        }
    }

    #[test]
    fn each_status_has_one_meaning() {
        for (meant, statuses) in [
            ("stored", &[200, 202, 204][..]),
            ("later", &[408, 429, 500, 502, 503, 529]),
            ("refused", &[301, 307, 400, 401, 403, 404, 413, 415, 422]),
            ("unknown", &[504]),
        ] {
            for &status in statuses {
                assert_eq!(meaning(status), meant, "{status}");
            }
        }
    }
}

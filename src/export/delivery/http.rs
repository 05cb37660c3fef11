//! One request, and what became of it.
//!
//! Whether a failed request may be sent again depends on how much of it went out. The body is read
//! from us piece by piece, after the connection stands and the headers are written; so as long as we
//! still hold some of it, the server cannot have all of it, and what it has not got whole it cannot
//! have stored.

use std::io::Read;
use std::time::{Duration, SystemTime};

use ureq::http::Request;
use ureq::{Agent, Error as HttpError, SendBody, Timeout};

use super::answer::{self, Outcome};
use super::target::{Resolved, Target};
use crate::error::Error;

/// More of an answer is not read.
const MAX_ANSWER_BYTES: u64 = 8 << 10;

pub(super) struct Sender {
    agent: Agent,
    partial: fn(&[u8]) -> Option<String>,
    pub(super) to: Resolved,
}

impl Sender {
    pub(super) fn open(target: &Target) -> Result<Self, Error> {
        let to = target.resolve()?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A connection kept from one window to the next may be closed by the server just when
            // the next request goes out, whose fate would then be unknown.
            .max_idle_connections(0)
            .user_agent(concat!("pollscope/", env!("CARGO_PKG_VERSION")));
        if to.loopback {
            config = config.proxy(None);
        }
        Ok(Self { agent: config.build().new_agent(), partial: target.partial, to })
    }

    /// Sends `body`, and waits for the answer until `timeout` has passed.
    pub(super) fn send(&self, body: &[u8], timeout: Duration) -> Outcome {
        let mut unsent = body;
        let result = self.post(&mut unsent, body.len(), timeout);
        let all_out = unsent.is_empty();
        match result {
            Ok(mut response) => {
                let mut answer = Vec::new();
                // The status says it all; of a body that breaks off, the beginning will do.
                let _ = response.body_mut().as_reader().take(MAX_ANSWER_BYTES).read_to_end(&mut answer);
                let retry_after = response.headers().get("retry-after").and_then(|v| v.to_str().ok());
                answer::read(
                    response.status().as_u16(),
                    retry_after,
                    &answer,
                    self.partial,
                    SystemTime::now(),
                )
            }
            Err(error) if all_out => Outcome::Unknown { why: describe(&error) },
            Err(error) => {
                // Breaking off in the middle is how some servers refuse what is too large for them.
                let blamed = unsent.len() < body.len();
                Outcome::Later { why: describe(&error), status: None, blamed, wait: None }
            }
        }
    }

    fn post(
        &self,
        body: &mut &[u8],
        len: usize,
        timeout: Duration,
    ) -> Result<ureq::http::Response<ureq::Body>, HttpError> {
        let mut request = Request::post(self.to.uri.clone()).header("content-length", len);
        for (name, value) in &self.to.headers {
            request = request.header(name, value);
        }
        let request = request.body(SendBody::from_reader(body)).map_err(HttpError::Http)?;
        let request = self.agent.configure_request(request).timeout_global(Some(timeout)).build();
        self.agent.run(request)
    }
}

/// What went wrong, without the addresses that some errors carry: a proxy's may hold a password.
fn describe(error: &HttpError) -> String {
    match error {
        HttpError::Io(error) => error.to_string(),
        HttpError::Timeout(Timeout::Connect | Timeout::Resolve) => "no connection in time".into(),
        HttpError::Timeout(_) => "no answer in time".into(),
        HttpError::HostNotFound => "no such host".into(),
        HttpError::ConnectProxyFailed(_) => "the proxy refused the connection".into(),
        HttpError::BadUri(_) | HttpError::InvalidProxyUrl => "the URL is wrong".into(),
        other => other.to_string(),
    }
}

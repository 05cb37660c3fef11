//! A server's address, and how we show who we are. What is secret of it is never shown.

use std::fmt;
use std::time::Duration;

use ureq::http::{HeaderName, HeaderValue, Uri};

use super::address::{self, Address};
use super::text;
use crate::error::{Error, ErrorKind};

/// How long a request may take, all in all, unless told otherwise.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where requests go. Nothing is checked until [`Target::resolve`].
#[derive(Clone)]
pub(crate) struct Target {
    /// The server's name in what is said, such as `Pyroscope`.
    pub(crate) server: &'static str,
    /// What the user gave, a name and a password perhaps included.
    pub(crate) url: String,
    /// What follows the user's path.
    pub(crate) path: &'static str,
    pub(crate) content_type: &'static str,
    /// Whether bodies are compressed.
    pub(crate) gzip: bool,
    pub(crate) timeout: Duration,
    /// Finds in the body of a success what the server refused all the same.
    pub(crate) partial: fn(&[u8]) -> Option<String>,
    authorization: Option<Authorization>,
    headers: Vec<(String, String)>,
}

#[derive(Clone)]
enum Authorization {
    Basic { user: String, password: String },
    Bearer(String),
}

/// A target that makes sense.
pub(super) struct Resolved {
    pub(super) uri: Uri,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// The server is on this machine: no proxy leads there.
    pub(super) loopback: bool,
    /// The address as it may be shown.
    pub(super) shown: String,
    secrets: Vec<String>,
}

impl Target {
    pub(crate) fn new(
        server: &'static str,
        url: String,
        path: &'static str,
        content_type: &'static str,
    ) -> Self {
        Self {
            server,
            url,
            path,
            content_type,
            gzip: true,
            timeout: DEFAULT_TIMEOUT,
            partial: |_| None,
            authorization: None,
            headers: Vec::new(),
        }
    }

    pub(crate) fn basic_auth(&mut self, user: String, password: String) {
        self.authorization = Some(Authorization::Basic { user, password });
    }

    pub(crate) fn bearer(&mut self, token: String) {
        self.authorization = Some(Authorization::Bearer(token));
    }

    /// Sets a header; a later one of the same name takes its place.
    pub(crate) fn header(&mut self, name: String, value: String) {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
        self.headers.push((name, value));
    }

    /// Reads the address and the headers, or says what is wrong with them.
    pub(super) fn resolve(&self) -> Result<Resolved, Error> {
        if self.timeout.is_zero() {
            return Err(config(format!("the timeout for {} is zero: it must be longer", self.server)));
        }
        let Address { uri, userinfo, shown } = Address::parse(self.server, &self.url, self.path)?;
        let authorization = match (&self.authorization, userinfo) {
            (Some(given), _) => Some(given.clone()),
            (None, Some((user, password))) => Some(Authorization::Basic { user, password }),
            (None, None) => None,
        };
        let mut secrets = Vec::new();
        let mut headers =
            vec![(ureq::http::header::CONTENT_TYPE, HeaderValue::from_static(self.content_type))];
        if self.gzip {
            headers.push((ureq::http::header::CONTENT_ENCODING, HeaderValue::from_static("gzip")));
        }
        if let Some(authorization) = authorization {
            let value = match authorization {
                Authorization::Basic { user, password } => {
                    let coded = text::base64(format!("{user}:{password}").as_bytes());
                    secrets.push(password);
                    secrets.push(coded.clone());
                    format!("Basic {coded}")
                }
                Authorization::Bearer(token) => {
                    secrets.push(token.clone());
                    format!("Bearer {token}")
                }
            };
            headers.push((ureq::http::header::AUTHORIZATION, self.value("authorization", &value)?));
        }
        for (name, value) in &self.headers {
            let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
                config(format!(
                    "the header name {name:?} for {} is not one: letters, digits and - go",
                    self.server
                ))
            })?;
            if RESERVED.contains(&parsed.as_str()) {
                return Err(config(format!(
                    "the header {name:?} for {} is set by the exporter itself",
                    self.server
                )));
            }
            let value_parsed = self.value(name, value)?;
            // A token given as a header takes the place of the one given otherwise.
            headers.retain(|(known, _)| *known != parsed);
            headers.push((parsed, value_parsed));
            // Shorter ones are flags, and taking them out of a sentence would only spoil it.
            if value.len() >= 4 {
                secrets.push(value.clone());
                secrets.extend(value.split_once(' ').map(|(_, token)| token.to_owned()));
            }
        }
        secrets.retain(|secret| !secret.is_empty());
        // The longest first, as one may be part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        let loopback = address::is_loopback(&uri);
        Ok(Resolved { uri, headers, loopback, shown, secrets })
    }

    fn value(&self, name: &str, value: &str) -> Result<HeaderValue, Error> {
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            config(format!(
                "the value of the header {name:?} for {} holds a character that no header may hold",
                self.server
            ))
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Headers that the request could not do without.
const RESERVED: [&str; 6] =
    ["content-type", "content-encoding", "content-length", "transfer-encoding", "host", "expect"];

impl Resolved {
    /// `text` without what is secret, however it came in there: a server may repeat a token.
    pub(super) fn redact(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = Address::parse(self.server, &self.url, "").map(|address| address.shown);
        let headers: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Target")
            .field("url", &url.as_deref().unwrap_or("(not a URL)"))
            .field("path", &self.path)
            .field("timeout", &self.timeout)
            .field("gzip", &self.gzip)
            .field("authorization", &self.authorization)
            .field("headers", &headers)
            .finish()
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic ***",
            Self::Bearer(_) => "Bearer ***",
        })
    }
}

pub(crate) fn config(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::new("Pyroscope", url.to_owned(), "/push", "application/proto")
    }

    fn header(resolved: &Resolved, name: &str) -> Option<String> {
        let (_, value) = resolved.headers.iter().find(|(known, _)| known == name)?;
        Some(value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_path_in_the_url_is_kept() {
        for (url, uri) in [
            ("http://localhost:4040", "http://localhost:4040/push"),
            ("http://localhost:4040/", "http://localhost:4040/push"),
            ("HTTPS://pyroscope.example/team/a/", "https://pyroscope.example/team/a/push"),
            ("http://[::1]:4040", "http://[::1]:4040/push"),
            ("http://user:p%40ss@host/x", "http://host/x/push"),
        ] {
            assert_eq!(target(url).resolve().unwrap().uri.to_string(), uri);
        }
    }

    #[test]
    fn user_and_password_come_from_the_url_or_from_the_setter() {
        let mut target = target("http://aladdin:open%20sesame@host");
        let basic = header(&target.resolve().unwrap(), "authorization");
        assert_eq!(basic.as_deref(), Some("Basic YWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
        target.basic_auth("a".into(), "b".into());
        assert_eq!(header(&target.resolve().unwrap(), "authorization").as_deref(), Some("Basic YTpi"));
        target.header("Authorization".into(), "Custom c".into());
        assert_eq!(header(&target.resolve().unwrap(), "authorization").as_deref(), Some("Custom c"));
    }

    #[test]
    fn headers_are_checked_and_their_values_never_shown() {
        let mut good = target("http://host");
        good.header("X-Token".into(), "old-secret".into());
        good.header("x-token".into(), "hunter2".into());
        good.basic_auth("user".into(), "swordfish".into());
        let resolved = good.resolve().unwrap();
        assert_eq!(header(&resolved, "x-token").as_deref(), Some("hunter2"));
        assert_eq!(resolved.redact("no: hunter2, swordfish, dXNlcjpzd29yZGZpc2g="), "no: ***, ***, ***");
        let shown = format!("{good:?} {:?}", resolved.headers);
        for secret in ["hunter2", "swordfish", "old-secret", "dXNlcjpzd29yZGZpc2g="] {
            assert!(!shown.contains(secret), "{shown}");
        }
        for (name, value) in
            [("a b", "secret"), ("", "secret"), ("x", "sec\nret"), ("Content-Length", "secret")]
        {
            let mut bad = target("http://host");
            bad.header(name.into(), value.into());
            let error = bad.resolve().err().expect(name).to_string();
            assert!(error.contains(&format!("{name:?}")) && !error.contains(value), "{error}");
        }
    }
}

//! A URL as a user writes it, perhaps with a password in it, which is never shown.

use std::net::IpAddr;

use ureq::http::Uri;

use super::target::config;
use super::text;
use crate::error::Error;

/// A URL, taken apart.
pub(super) struct Address {
    pub(super) uri: Uri,
    /// The name and the password in it, decoded.
    pub(super) userinfo: Option<(String, String)>,
    /// What may be shown of it.
    pub(super) shown: String,
}

impl Address {
    /// Reads `url` and puts `path` behind it.
    pub(super) fn parse(server: &str, url: &str, path: &str) -> Result<Self, Error> {
        // An address with an @ in it may hold a password, and until it is understood, nobody knows where.
        let quoted =
            if url.contains('@') { "(not shown: it may hold a password)".into() } else { format!("{url:?}") };
        let wrong = |what: &str| {
            config(format!(
                "the URL for {server}, {quoted}, {what}; it should look like http://host:4040/prefix"
            ))
        };
        let (scheme, rest) = url.trim().split_once("://").ok_or_else(|| wrong("has no http:// in front"))?;
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "http" && scheme != "https" {
            return Err(wrong("begins with neither http:// nor https://"));
        }
        if rest.contains(['?', '#']) {
            return Err(wrong("has a ? or a # in it"));
        }
        let (authority, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if prefix.contains('@') {
            return Err(wrong("has an @ behind a /: write %2F and %40 in names and passwords"));
        }
        let (userinfo, host) = match authority.rsplit_once('@') {
            Some((userinfo, host)) => (Some(userinfo), host),
            None => (None, authority),
        };
        let userinfo = match userinfo.map(|info| info.split_once(':').unwrap_or((info, ""))) {
            Some((user, password)) => {
                Some(text::percent_decode(user).zip(text::percent_decode(password)).ok_or_else(|| {
                    wrong("has a % in its name or password that stands for nothing: write %25")
                })?)
            }
            None => None,
        };
        let shown = format!("{scheme}://{host}{}", prefix.trim_end_matches('/'));
        let uri: Uri = format!("{shown}{path}").parse().map_err(|_| wrong("is not a URL"))?;
        let port_is_number = uri.authority().is_some_and(|a| a.port().is_none() == (a.as_str() == a.host()));
        if uri.host().is_none_or(str::is_empty) || !port_is_number {
            return Err(wrong("names no host or a wrong port"));
        }
        Ok(Self { uri, userinfo, shown })
    }
}

/// Whether the host is this machine.
pub(super) fn is_loopback(uri: &Uri) -> bool {
    let Some(host) = uri.host() else { return false };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => bare.eq_ignore_ascii_case("localhost") || bare.to_ascii_lowercase().ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_url_is_named_unless_it_may_hold_a_password() {
        for wrong in
            ["", "localhost:4040", "ftp://host", "http://", "http://host:port", "http://a b", "http://h?x=1"]
        {
            let error = Address::parse("Pyroscope", wrong, "").err().expect(wrong).to_string();
            assert!(error.contains(&format!("{wrong:?}")), "{error}");
        }
        for wrong in [
            "http://u:hunter2/@host",
            "http://u:hunter2@",
            "u:hunter2@host",
            "http://u:hunter2%@host",
            "http://u:1/hunter2@host",
        ] {
            let error = Address::parse("Pyroscope", wrong, "").err().expect(wrong);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn loopback_is_recognized() {
        for (host, loopback) in [
            ("localhost", true),
            ("api.localhost", true),
            ("127.0.0.2", true),
            ("[::1]", true),
            ("example.com", false),
            ("10.0.0.1", false),
        ] {
            let uri = format!("http://{host}:4040/").parse().unwrap();
            assert_eq!(is_loopback(&uri), loopback, "{host}");
        }
    }
}

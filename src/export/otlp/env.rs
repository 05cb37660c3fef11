//! OpenTelemetry's variables for exporters, as far as they concern profiles over HTTP.

use std::time::Duration;

use super::{Otlp, PATH};
use crate::environment::{Environment, wrong};
use crate::error::Error;
use crate::export::delivery::{config, percent_decode};

/// Reads the variables.
pub(super) fn read(environment: &Environment) -> Result<Otlp, Error> {
    let get = |name: String| environment.get(&name).map(|value| (name, value));
    // The one for profiles goes before the one for all signals.
    let setting = |what: &str| {
        get(format!("OTEL_EXPORTER_OTLP_PROFILES_{what}"))
            .or_else(|| get(format!("OTEL_EXPORTER_OTLP_{what}")))
    };
    let mut otlp = match get("OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT".into()) {
        // Taken as it is, says the specification.
        Some((_, url)) => Otlp::at(url, ""),
        None => Otlp::at(
            get("OTEL_EXPORTER_OTLP_ENDPOINT".into())
                .map_or_else(|| "http://localhost:4318".into(), |(_, url)| url),
            PATH,
        ),
    };
    if let Some((name, value)) = setting("PROTOCOL")
        && value != "http/protobuf"
    {
        return Err(wrong(&name, &value, "http/protobuf, as profiles go by no other protocol"));
    }
    if let Some((name, value)) = setting("TIMEOUT") {
        let millis = value.parse().ok().filter(|&millis| millis > 0);
        let millis = millis.ok_or_else(|| wrong(&name, &value, "a number of milliseconds, from 1"))?;
        otlp = otlp.timeout(Duration::from_millis(millis));
    }
    if let Some((name, value)) = setting("COMPRESSION") {
        otlp = match &*value {
            "gzip" => otlp.gzip(true),
            "none" => otlp.gzip(false),
            _ => return Err(wrong(&name, &value, "gzip, none")),
        };
    }
    if let Some((variable, value)) = setting("HEADERS") {
        for pair in value.split(',').filter(|pair| !pair.trim().is_empty()) {
            let (name, value) = pair
                .split_once('=')
                .and_then(|(name, value)| Some((name.trim(), percent_decode(value.trim())?)))
                .filter(|(name, _)| !name.is_empty())
                .ok_or_else(|| {
                    // Not shown: a token may be in it.
                    config(format!("{variable} is wrong: accepted is name=value,name=value, percent-encoded"))
                })?;
            otlp = otlp.header(name, value);
        }
    }
    Ok(otlp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::Export;

    fn from(vars: &[(&str, &str)]) -> Result<Otlp, Error> {
        let vars: Vec<_> = vars.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        read(&Environment::from_fn(move |name| {
            vars.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        }))
    }

    fn url(otlp: &Otlp) -> String {
        format!("{}{}", otlp.delivery.target.url, otlp.delivery.target.path)
    }

    #[test]
    fn the_endpoint_is_the_one_for_profiles_or_that_of_all_signals() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318");
        let own = ("OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT", "http://own:1/profiles");
        assert_eq!(url(&from(&[]).unwrap()), "http://localhost:4318/v1development/profiles");
        assert_eq!(url(&from(&[all]).unwrap()), "http://all:4318/v1development/profiles");
        assert_eq!(url(&from(&[all, own]).unwrap()), "http://own:1/profiles");
        assert_eq!(
            url(&Otlp::new("http://own:1/v1development/profiles")),
            "http://own:1/v1development/profiles"
        );
    }

    #[test]
    fn the_other_settings_are_read() {
        let otlp = from(&[
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
            ("OTEL_EXPORTER_OTLP_PROFILES_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_PROFILES_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hunter2, x-a = b ,"),
        ])
        .unwrap();
        assert_eq!(otlp.delivery.target.timeout, Duration::from_millis(2500));
        assert!(!otlp.delivery.target.gzip);
        assert!(otlp.check().is_ok());
        let shown = format!("{otlp:?}");
        assert!(shown.contains("authorization") && shown.contains("x-a"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_wrong_value_is_named_with_what_is_accepted() {
        for (what, value) in
            [("TIMEOUT", "soon"), ("TIMEOUT", "0"), ("COMPRESSION", "zip"), ("PROTOCOL", "grpc")]
        {
            let name = format!("OTEL_EXPORTER_OTLP_{what}");
            let error = from(&[(&name, value)]).expect_err(what).to_string();
            assert!(error.starts_with(&format!("{name} is {value:?}: accepted is ")), "{error}");
        }
        let error = from(&[("OTEL_EXPORTER_OTLP_HEADERS", "hunter2")]).unwrap_err().to_string();
        assert!(
            error.starts_with("OTEL_EXPORTER_OTLP_HEADERS is wrong") && !error.contains("hunter2"),
            "{error}"
        );
    }
}

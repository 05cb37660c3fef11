//! What the environment says: the same settings as the builder's, for whoever deploys the program.
//!
//! The environment goes before the code: who starts a program knows better than who wrote it.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::settings::{ENGINES, HERTZ, Settings, SpanScope, WINDOW};

/// The environment variables of this process, or a test's own.
///
/// A variable that is empty counts as not set.
pub struct Environment {
    get: Box<Get>,
}

/// From a variable's name to its value.
type Get = dyn Fn(&str) -> Option<String> + Send;

impl Environment {
    /// The process's own.
    pub fn process() -> Self {
        Self::from_fn(|name| std::env::var(name).ok())
    }

    /// Variables that `get` knows. For tests.
    pub fn from_fn(get: impl Fn(&str) -> Option<String> + Send + 'static) -> Self {
        Self { get: Box::new(get) }
    }

    /// A variable's value without blanks around it; `None` when it is not set or empty.
    pub fn get(&self, name: &str) -> Option<String> {
        let value = (self.get)(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// The value of an attribute in `OTEL_RESOURCE_ATTRIBUTES`.
    pub(crate) fn resource_attribute(&self, wanted: &str) -> Result<Option<String>, Error> {
        let pairs = self.pairs("OTEL_RESOURCE_ATTRIBUTES")?;
        Ok(pairs.into_iter().find(|(name, _)| name == wanted).map(|(_, value)| value))
    }

    /// A list such as `region=eu,tier=gold`.
    pub(crate) fn pairs(&self, name: &str) -> Result<Vec<(String, String)>, Error> {
        let Some(list) = self.get(name) else { return Ok(Vec::new()) };
        list.split(',')
            .filter(|pair| !pair.trim().is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=')?;
                let key = key.trim();
                (!key.is_empty()).then(|| (key.to_owned(), value.trim().to_owned()))
            })
            .collect::<Option<_>>()
            .ok_or_else(|| wrong(name, &list, "name=value,name=value"))
    }

    fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, Error> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let found = choices.iter().find(|(text, _)| text.eq_ignore_ascii_case(&value));
        match found {
            Some(&(_, choice)) => Ok(Some(choice)),
            None => {
                let accepted: Vec<_> = choices.iter().map(|&(text, _)| text).collect();
                Err(wrong(name, &value, &accepted.join(", ")))
            }
        }
    }

    fn switch(&self, name: &str) -> Result<Option<bool>, Error> {
        self.choice(
            name,
            &[("true", true), ("false", false), ("1", true), ("0", false), ("on", true), ("off", false)],
        )
    }

    fn duration(
        &self,
        name: &str,
        accepted: &str,
        is_accepted: impl Fn(Duration) -> bool,
    ) -> Result<Option<Duration>, Error> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let parsed = parse_duration(&value).filter(|&duration| is_accepted(duration));
        parsed.map(Some).ok_or_else(|| wrong(name, &value, &format!("a duration, {accepted}")))
    }

    /// Changes what variables say otherwise.
    pub(crate) fn apply(&self, settings: &mut Settings) -> Result<(), Error> {
        fn set<T>(setting: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *setting = value;
            }
        }
        let service_name =
            match self.get("PYROSCOPE_APPLICATION_NAME").or_else(|| self.get("OTEL_SERVICE_NAME")) {
                Some(name) => Some(name),
                None => self.resource_attribute("service.name")?,
            };
        set(&mut settings.service_name, service_name);
        set(&mut settings.enabled, self.switch("POLLSCOPE_ENABLED")?);
        const ENGINE: &str = "POLLSCOPE_ENGINE";
        if let Some(engine) = self.get(ENGINE) {
            let parsed = engine.to_ascii_lowercase().parse();
            settings.engine = parsed.map_err(|_| wrong(ENGINE, &engine, ENGINES))?;
        }
        let scopes = [
            ("local_root", (SpanScope::LocalRoot, false)),
            ("innermost", (SpanScope::Innermost, false)),
            ("every_span", (SpanScope::LocalRoot, true)),
        ];
        if let Some((scope, every_span)) = self.choice("POLLSCOPE_SCOPE", &scopes)? {
            (settings.scope, settings.every_span) = (scope, every_span);
        }
        set(&mut settings.trace_id_label, self.switch("POLLSCOPE_TRACE_ID_LABEL")?);
        set(&mut settings.span_name_label, self.switch("POLLSCOPE_SPAN_NAME_LABEL")?);
        set(&mut settings.raw_stacks, self.switch("POLLSCOPE_RAW_STACKS")?);
        let window = self.duration("PYROSCOPE_UPLOAD_INTERVAL", "100ms to 15s", |d| WINDOW.contains(&d))?;
        set(&mut settings.window, window);
        // Between two samples of a second of CPU time.
        let hertz = |interval: Duration| (1.0 / interval.as_secs_f64()).round() as u32;
        let interval = self.duration("PYROSCOPE_PROFILING_INTERVAL", "100us to 1s, such as 10ms", |d| {
            HERTZ.contains(&hertz(d))
        })?;
        set(&mut settings.hertz, interval.map(hertz));
        settings.traces_expected |= self.expects_traces();
        Ok(())
    }

    /// Whether something says that this program makes OpenTelemetry traces.
    fn expects_traces(&self) -> bool {
        let is = |name, value: &str| self.get(name).is_some_and(|set| set.eq_ignore_ascii_case(value));
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return false;
        }
        ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER"]
            .iter()
            .any(|name| self.get(name).is_some())
    }
}

/// `10s`, `1.5s`, `500ms`, `2m`; a number alone is seconds.
fn parse_duration(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit_seconds = match unit.trim() {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit_seconds).ok()
}

/// The error for a value that is not understood.
pub(crate) fn wrong(name: &str, value: &str, accepted: &str) -> Error {
    Error::new(ErrorKind::Config, format!("{name} is {value:?}: accepted is {accepted}"))
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The values may be secret.
        f.write_str("Environment")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::settings::Engine;

    pub(crate) fn variables(list: &[(&'static str, &'static str)]) -> Environment {
        let list = list.to_vec();
        Environment::from_fn(move |name| {
            list.iter().find(|(known, _)| *known == name).map(|&(_, value)| value.to_owned())
        })
    }

    fn applied(list: &[(&'static str, &'static str)]) -> Result<Settings, Error> {
        let mut settings = Settings::new("code".into());
        variables(list).apply(&mut settings).map(|()| settings)
    }

    #[test]
    fn the_environment_goes_before_the_code() {
        let settings = applied(&[
            ("OTEL_SERVICE_NAME", "checkout"),
            ("POLLSCOPE_ENGINE", "Timer"),
            ("POLLSCOPE_SCOPE", "every_span"),
            ("POLLSCOPE_TRACE_ID_LABEL", "off"),
            ("PYROSCOPE_UPLOAD_INTERVAL", "15s"),
            ("PYROSCOPE_PROFILING_INTERVAL", "2.5ms"),
            ("POLLSCOPE_RAW_STACKS", ""),
        ])
        .expect("all understood");
        assert_eq!(settings.service_name, "checkout");
        assert_eq!(settings.engine, Engine::Timer);
        assert_eq!((settings.scope, settings.every_span), (SpanScope::LocalRoot, true));
        assert!(!settings.trace_id_label && settings.span_name_label && !settings.raw_stacks);
        assert_eq!((settings.window, settings.hertz), (Duration::from_secs(15), 400));
        assert!(applied(&[("POLLSCOPE_ENABLED", "false")]).is_ok_and(|s| !s.is_on()));
    }

    #[test]
    fn traces_are_expected_where_something_says_so_and_nothing_says_no() {
        let expected = |list: &[_]| applied(list).expect("understood").traces_expected;
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");
        assert!(expected(&[endpoint]));
        assert!(expected(&[("OTEL_TRACES_EXPORTER", "otlp")]));
        assert!(!expected(&[]));
        assert!(!expected(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]));
        assert!(!expected(&[endpoint, ("OTEL_SDK_DISABLED", "true")]));
    }

    #[test]
    fn the_service_name_is_the_most_specific_one() {
        let all = [
            ("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=shop,service.name=by-attribute"),
            ("OTEL_SERVICE_NAME", "by-otel"),
            ("PYROSCOPE_APPLICATION_NAME", "by-pyroscope"),
        ];
        let name = |vars| applied(vars).expect("understood").service_name;
        assert_eq!(name(&all), "by-pyroscope");
        assert_eq!(name(&all[..2]), "by-otel");
        assert_eq!(name(&all[..1]), "by-attribute");
        assert_eq!(name(&[]), "code");
    }

    #[test]
    fn a_bad_value_names_the_variable_the_value_and_what_is_accepted() {
        for (name, value, says) in [
            ("POLLSCOPE_ENGINE", "fast", "POLLSCOPE_ENGINE is \"fast\": accepted is auto, perf, timer, off"),
            (
                "POLLSCOPE_ENABLED",
                "maybe",
                "POLLSCOPE_ENABLED is \"maybe\": accepted is true, false, 1, 0, on, off",
            ),
            (
                "PYROSCOPE_UPLOAD_INTERVAL",
                "soon",
                "PYROSCOPE_UPLOAD_INTERVAL is \"soon\": accepted is a duration, 100ms to 15s",
            ),
            (
                "PYROSCOPE_UPLOAD_INTERVAL",
                "1m",
                "PYROSCOPE_UPLOAD_INTERVAL is \"1m\": accepted is a duration, 100ms to 15s",
            ),
            (
                "PYROSCOPE_PROFILING_INTERVAL",
                "0",
                "PYROSCOPE_PROFILING_INTERVAL is \"0\": accepted is a duration, 100us to 1s, such as 10ms",
            ),
            (
                "PYROSCOPE_PROFILING_INTERVAL",
                "1us",
                "PYROSCOPE_PROFILING_INTERVAL is \"1us\": accepted is a duration, 100us to 1s",
            ),
            (
                "POLLSCOPE_SCOPE",
                "all",
                "POLLSCOPE_SCOPE is \"all\": accepted is local_root, innermost, every_span",
            ),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "a",
                "OTEL_RESOURCE_ATTRIBUTES is \"a\": accepted is name=value,name=value",
            ),
        ] {
            let error = applied(&[(name, value)]).expect_err(name).to_string();
            assert!(error.starts_with(says), "{error}");
        }
    }
}

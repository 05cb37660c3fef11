//! The labels that all profiles of a process carry, and the server's rules for them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::Error;
use crate::export::delivery::config;

pub(super) const SERVICE_NAMESPACE: &str = "service_namespace";

/// The most the server takes.
const MAX_LABELS: usize = 30;

/// `__name__`, `service_name`, `__delta__`, `pyroscope_spy`, and the server adds `span_name`, which it
/// finds in the samples.
const TAKEN: usize = 5;

/// Room for a `service_namespace` is always kept, so that adding one later breaks nothing.
const MAX_GIVEN: usize = MAX_LABELS - TAKEN - 1;
const _: () = assert!(MAX_GIVEN == 24, "the docs of Pyroscope::label say so");

const MAX_NAME_BYTES: usize = 1024;
const MAX_VALUE_BYTES: usize = 2048;

/// Names that mean something else on the server.
const RESERVED: [&str; 6] =
    ["service_name", "pyroscope_spy", "span_id", "trace_id", "span_name", "profile_id"];

#[derive(Debug, Default)]
pub(super) struct Labels(Vec<(String, String)>);

impl Labels {
    pub(super) fn set(&mut self, name: String, value: String) {
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, value));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        for (name, value) in self.iter() {
            let wrong = |what: &str| config(format!("the label {name:?} for Pyroscope {what}"));
            if !is_name(name) {
                return Err(wrong("has a wrong name: letters, digits, _ and . go, and no digit in front"));
            }
            if name.len() > MAX_NAME_BYTES {
                return Err(wrong("has a name of more than 1024 bytes"));
            }
            if name.starts_with("__") || RESERVED.contains(&name) {
                return Err(wrong("has a name that is kept for the profiler's own labels"));
            }
            if value.is_empty() {
                return Err(wrong("has no value"));
            }
            if value.len() > MAX_VALUE_BYTES {
                return Err(wrong("has a value of more than 2048 bytes"));
            }
        }
        let given = self.iter().filter(|&(name, _)| name != SERVICE_NAMESPACE).count();
        match given <= MAX_GIVEN {
            true => Ok(()),
            false => Err(config(format!(
                "there are {given} labels for Pyroscope, which takes {MAX_LABELS}, and {MAX_GIVEN} beside our own"
            ))),
        }
    }
}

impl Labels {
    /// Whether span fields can become these labels as well: the server would have two values for one
    /// name, or too many labels, and refuse every profile.
    pub(super) fn check_fields(&self, fields: &[Arc<str>]) -> Result<(), Error> {
        let fields: BTreeSet<&str> = fields.iter().map(|name| &**name).collect();
        if let Some((name, _)) = self.iter().find(|&(name, _)| fields.contains(name)) {
            return Err(config(format!(
                "the label {name:?} for Pyroscope is also made of a span field: name one of them otherwise"
            )));
        }
        let given = fields.len() + self.iter().filter(|&(name, _)| name != SERVICE_NAMESPACE).count();
        match given <= MAX_GIVEN {
            true => Ok(()),
            false => Err(config(format!(
                "there are {given} labels for Pyroscope, {} of them made of span fields; it takes \
                 {MAX_LABELS}, and {MAX_GIVEN} beside our own",
                fields.len()
            ))),
        }
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(labels: impl IntoIterator<Item = (String, String)>) -> Result<(), Error> {
        let mut all = Labels::default();
        labels.into_iter().for_each(|(name, value)| all.set(name, value));
        all.check()
    }

    #[test]
    fn wrong_labels_are_named() {
        for (name, value) in [
            ("", "x"),
            ("1a", "x"),
            ("a-b", "x"),
            ("ä", "x"),
            ("__name__", "x"),
            ("service_name", "x"),
            ("a", ""),
            ("b", &"x".repeat(2049)),
        ] {
            let error = checked([(name.to_owned(), value.to_owned())]).expect_err(name).to_string();
            assert!(error.contains(&format!("{name:?}")), "{error}");
        }
        assert!(checked([("http.route".to_owned(), "/".to_owned())]).is_ok());
    }

    #[test]
    fn there_is_room_for_24_and_a_namespace() {
        let labels = |n| (0..n).map(|i| (format!("l{i}"), "x".to_owned()));
        let namespace = (SERVICE_NAMESPACE.to_owned(), "shop".to_owned());
        assert!(checked(labels(24).chain([namespace])).is_ok());
        assert!(checked(labels(25)).unwrap_err().to_string().contains("25 labels"));
    }

    #[test]
    fn span_fields_need_names_and_room_of_their_own() {
        let mut labels = Labels::default();
        (0..23).for_each(|i| labels.set(format!("l{i}"), "x".into()));
        let checked = |fields: &[&str]| {
            labels.check_fields(&fields.iter().map(|&name| name.into()).collect::<Vec<Arc<str>>>())
        };
        assert!(checked(&["http_route", "http_route"]).is_ok());
        let error = checked(&["l7"]).unwrap_err().to_string();
        assert!(error.contains("\"l7\""), "{error}");
        let error = checked(&["http_route", "user"]).unwrap_err().to_string();
        assert!(
            error.starts_with("there are 25 labels for Pyroscope, 2 of them made of span fields"),
            "{error}"
        );
    }

    #[test]
    fn a_name_given_again_takes_the_new_value() {
        let mut labels = Labels::default();
        labels.set("a".into(), "1".into());
        labels.set("a".into(), "2".into());
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "2")]);
    }
}

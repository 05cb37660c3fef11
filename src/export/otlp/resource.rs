//! The resource: what all profiles of the process have in common.

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1 as proto;

use crate::error::Error;
use crate::export::delivery::config;

pub(super) const SERVICE_NAMESPACE: &str = "service.namespace";

/// Pyroscope's 30 labels without `__name__`, `__delta__`, `__otel__`, `service_name`, the `span_name`
/// from the samples, and the two names of the namespace.
const MAX_GIVEN: usize = 30 - 7;

#[derive(Debug, Default)]
pub(super) struct Resource(Vec<(String, String)>);

impl Resource {
    pub(super) fn set(&mut self, name: String, value: String) {
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, value));
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        for (name, value) in &self.0 {
            let wrong = |what: &str| config(format!("the resource attribute {name:?} for OTLP {what}"));
            if name.is_empty() || name.contains(char::is_control) {
                return Err(wrong("has a wrong name"));
            }
            if name == "service.name" || name == "service_name" || name.starts_with("__") {
                return Err(wrong("has a name that is kept for the profiler's own"));
            }
            if value.is_empty() {
                return Err(wrong("has no value"));
            }
        }
        let given = self.0.iter().filter(|(name, _)| name != SERVICE_NAMESPACE).count();
        match given <= MAX_GIVEN {
            true => Ok(()),
            false => Err(config(format!(
                "there are {given} resource attributes for OTLP, and Pyroscope takes {MAX_GIVEN} beside our own"
            ))),
        }
    }

    pub(super) fn encode(&self, service_name: &str) -> proto::Resource {
        let mut attributes = vec![string("service.name", service_name)];
        for (name, value) in &self.0 {
            attributes.push(string(name, value));
            // Grafana asks Pyroscope for the latter, which turns only `service.name` into a label of
            // its own spelling.
            if name == SERVICE_NAMESPACE && !self.0.iter().any(|(name, _)| name == "service_namespace") {
                attributes.push(string("service_namespace", value));
            }
        }
        proto::Resource { attributes, ..Default::default() }
    }
}

fn string(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_goes_under_both_names() {
        let mut resource = Resource::default();
        resource.set("service.namespace".into(), "shop".into());
        resource.set("region".into(), "eu".into());
        let keys: Vec<_> = resource.encode("checkout").attributes.into_iter().map(|a| a.key).collect();
        assert_eq!(keys, ["service.name", "service.namespace", "service_namespace", "region"]);
    }

    #[test]
    fn wrong_attributes_are_named() {
        for (name, value) in [("", "x"), ("service.name", "x"), ("__name__", "x"), ("a", "")] {
            let mut resource = Resource::default();
            resource.set(name.into(), value.into());
            let error = resource.check().expect_err(name).to_string();
            assert!(error.contains(&format!("{name:?}")), "{error}");
        }
        let mut resource = Resource::default();
        (0..24).for_each(|i| resource.set(format!("a{i}"), "x".into()));
        assert!(resource.check().unwrap_err().to_string().contains("24 resource attributes"));
    }
}

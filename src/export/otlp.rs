//! Pushes profiles by OTLP over HTTP, OpenTelemetry's own protocol.
//!
//! Profiles are an alpha signal there: where the server is Pyroscope, its own push is the safer way.

mod convert;
mod env;
mod resource;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceResponse;
use prost::Message;

use self::resource::Resource;
use super::delivery::{Delivery, Target};
use super::{Export, ExportStats};
use crate::environment::Environment;
use crate::error::Error;
use crate::profile::Profile;

/// Where a collector takes profiles.
const PATH: &str = "/v1development/profiles";

/// Pushes profiles by OTLP, as protobuf over HTTP.
///
/// ```
/// let otlp = pollscope::Otlp::new("http://localhost:4318")
///     .header("x-tenant", "team-a")
///     .resource("deployment.environment.name", "staging");
/// ```
///
/// In Pyroscope the CPU profile arrives under its usual name,
/// `process_cpu:cpu:nanoseconds:cpu:nanoseconds`, and that of every span as
/// `cpu:span:nanoseconds:cpu:nanoseconds`. What waits, for how long, and through which proxy is as
/// with the push to Pyroscope. Settings are checked when the profiler starts.
#[derive(Debug)]
pub struct Otlp {
    resource: Resource,
    delivery: Delivery,
}

impl Otlp {
    /// Pushes to the collector at `endpoint`, such as `http://localhost:4318`.
    ///
    /// `/v1development/profiles` is added, unless it is there already. A name and a password in the
    /// URL are used as HTTP basic authentication, and never shown.
    pub fn new(endpoint: impl Into<String>) -> Self {
        let endpoint = endpoint.into();
        let path = if endpoint.trim_end_matches('/').ends_with(PATH) { "" } else { PATH };
        Self::at(endpoint, path)
    }

    /// Pushes to where the variables of the OpenTelemetry specification say.
    ///
    /// | variable | meaning |
    /// |---|---|
    /// | `OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT` | the whole URL for profiles |
    /// | `OTEL_EXPORTER_OTLP_ENDPOINT` | the URL for all signals; `/v1development/profiles` is added. Default `http://localhost:4318` |
    /// | `OTEL_EXPORTER_OTLP_PROTOCOL` | `http/protobuf`, the default; nothing else is spoken |
    /// | `OTEL_EXPORTER_OTLP_HEADERS` | `name=value,…`, percent-encoded |
    /// | `OTEL_EXPORTER_OTLP_TIMEOUT` | milliseconds. Default 10000 |
    /// | `OTEL_EXPORTER_OTLP_COMPRESSION` | `gzip`, the default, or `none` |
    ///
    /// The last four exist as `OTEL_EXPORTER_OTLP_PROFILES_…` too, which goes first. A value that is
    /// not understood is an error that names the variable, the value, and what is accepted; the
    /// headers' values are never shown.
    pub fn from_env() -> Result<Self, Error> {
        env::read(&Environment::process())
    }

    fn at(endpoint: String, path: &'static str) -> Self {
        let mut target = Target::new("the OTLP collector", endpoint, path, "application/x-protobuf");
        target.partial = refused_part;
        Self { resource: Resource::default(), delivery: Delivery::new(target) }
    }

    /// Sets the name and the password of HTTP basic authentication.
    ///
    /// Grafana Cloud's OTLP gateway wants this. Takes the place of a bearer token.
    ///
    /// None by default.
    pub fn basic_auth(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.delivery.target.basic_auth(user.into(), password.into());
        self
    }

    /// Sets a token that is sent as `Authorization: Bearer …`.
    ///
    /// Takes the place of a name and a password.
    ///
    /// None by default.
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        self.delivery.target.bearer(token.into());
        self
    }

    /// Adds a header to each request, such as a key.
    ///
    /// A name given again takes its new value. Values count as secrets: they are never shown.
    ///
    /// None by default.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.delivery.target.header(name.into(), value.into());
        self
    }

    /// Adds an attribute to the resource, beside `service.name`.
    ///
    /// Pyroscope makes a label of each, under the same name, and takes 30 in all, which leaves room
    /// for 23. So only what is named here is sent, not all that traces say of the process. A name
    /// given again takes its new value.
    ///
    /// None by default.
    pub fn resource(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.resource.set(name.into(), value.into());
        self
    }

    /// Sets the namespace of the service: OpenTelemetry's `service.namespace`.
    ///
    /// It is sent as `service_namespace` too, the name under which Grafana asks Pyroscope for it.
    ///
    /// None by default.
    pub fn service_namespace(self, namespace: impl Into<String>) -> Self {
        self.resource(resource::SERVICE_NAMESPACE, namespace)
    }

    /// Sets whether requests are compressed with gzip.
    ///
    /// Without it they are several times as large, and take less time to make.
    ///
    /// `true` by default.
    pub fn gzip(mut self, gzip: bool) -> Self {
        self.delivery.target.gzip = gzip;
        self
    }

    /// Sets how long a request may take, from looking up the host to the end of the answer.
    ///
    /// With a longer time slow collectors get more profiles confirmed, and the other exporters wait
    /// longer for their turn; the program itself never waits.
    ///
    /// 10 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.delivery.target.timeout = timeout;
        self
    }
}

impl Export for Otlp {
    fn name(&self) -> &'static str {
        "otlp"
    }

    fn configure(&mut self, environment: &Environment) -> Result<(), Error> {
        if let Some(namespace) = environment.resource_attribute("service.namespace")? {
            self.resource.set(resource::SERVICE_NAMESPACE.into(), namespace);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        self.resource.check()?;
        self.delivery.check()
    }

    fn export(&mut self, profile: &Profile) -> Result<(), Error> {
        let now = Instant::now();
        for request in convert::requests(profile, &self.resource) {
            self.delivery.push(&request.encode_to_vec(), now)?;
        }
        self.delivery.poll(now);
        Ok(())
    }

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        self.delivery.poll(now)
    }

    fn finish(&mut self, deadline: Instant) -> Result<(), Error> {
        self.delivery.finish(deadline)
    }

    fn stats(&self) -> ExportStats {
        self.delivery.stats()
    }
}

/// A collector that drops profiles says so in the body of a success.
fn refused_part(body: &[u8]) -> Option<String> {
    let partial = ExportProfilesServiceResponse::decode(body).ok()?.partial_success?;
    (partial.rejected_profiles > 0).then_some(partial.error_message)
}

//! Pushes profiles to Grafana Pyroscope, or to Grafana Alloy on the way there.
//!
//! One series a request, and each request delivered once or counted: see [`ExportStats`].

mod labels;
mod message;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;

use self::labels::Labels;
use self::message::{LabelPair, PushRequest, RawProfile, Series};
use super::delivery::{Delivery, Target, config};
use super::{Export, ExportStats};
use crate::environment::Environment;
use crate::error::Error;
use crate::profile::{Profile, ProfileKind};

const SERVER_ADDRESS: &str = "PYROSCOPE_SERVER_ADDRESS";
const USER: &str = "PYROSCOPE_BASIC_AUTH_USER";
const PASSWORD: &str = "PYROSCOPE_BASIC_AUTH_PASSWORD";
/// The header that names the tenant.
const TENANT: &str = "X-Scope-OrgID";

/// Pushes profiles to Grafana Pyroscope.
///
/// ```
/// let pyroscope = pollscope::Pyroscope::new("http://localhost:4040")
///     .label("region", "eu-west-1")
///     .tenant_id("team-a");
/// ```
///
/// While the server is away, up to 32 MiB of compressed profiles wait in memory for up to an hour,
/// and are sent when it is back. Proxies named by `HTTP_PROXY`, `HTTPS_PROXY` or `ALL_PROXY` are used,
/// but not to reach this machine itself. Settings are checked when the profiler starts.
#[derive(Debug)]
pub struct Pyroscope {
    labels: Labels,
    delivery: Delivery,
}

impl Pyroscope {
    pub(crate) const NAME: &str = "pyroscope";

    /// Pushes to where the environment says, if it names a server.
    pub(crate) fn from_env(environment: &Environment) -> Option<Self> {
        environment.get(SERVER_ADDRESS).map(Self::new)
    }

    /// Pushes to the server at `url`, such as `http://localhost:4040` or
    /// `https://profiles-prod-001.grafana.net`.
    ///
    /// A path in the URL is kept, in front of Pyroscope's own. A name and a password in it are used
    /// like those of [`basic_auth`](Self::basic_auth), and never shown.
    pub fn new(url: impl Into<String>) -> Self {
        let target = Target::new("Pyroscope", url.into(), "/push.v1.PusherService/Push", "application/proto");
        Self { labels: Labels::default(), delivery: Delivery::new(target) }
    }

    /// Sets the name and the password of HTTP basic authentication.
    ///
    /// Grafana Cloud wants this: the name is the number of the stack's Pyroscope, the password an
    /// access policy token with the scope `profiles:write`. Takes the place of a bearer token.
    ///
    /// None by default.
    pub fn basic_auth(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.delivery.target.basic_auth(user.into(), password.into());
        self
    }

    /// Sets a token that is sent as `Authorization: Bearer …`.
    ///
    /// For servers behind a gateway that wants one. Takes the place of a name and a password.
    ///
    /// None by default.
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        self.delivery.target.bearer(token.into());
        self
    }

    /// Sets the tenant, sent as `X-Scope-OrgID`.
    ///
    /// A server with more than one tenant refuses profiles without it; one with a single tenant
    /// ignores it.
    ///
    /// None by default.
    pub fn tenant_id(self, tenant: impl Into<String>) -> Self {
        self.header(TENANT, tenant)
    }

    /// Adds a header to each request.
    ///
    /// A name given again takes its new value. Values count as secrets: they are never shown.
    ///
    /// None by default.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.delivery.target.header(name.into(), value.into());
        self
    }

    /// Adds a label to all profiles, such as a region or a version.
    ///
    /// Each combination of values is a series on the server, so a value should not change while the
    /// program runs. The server takes 30 labels, ours included, which leaves room for 24; each span
    /// field that is a label takes one of them away. A name given again takes its new value.
    ///
    /// None by default.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.set(name.into(), value.into());
        self
    }

    /// Sets the namespace of the service: OpenTelemetry's `service.namespace`.
    ///
    /// Where traces have one, Grafana asks for profiles that have the same, and finds none without.
    ///
    /// None by default.
    pub fn service_namespace(self, namespace: impl Into<String>) -> Self {
        self.label(labels::SERVICE_NAMESPACE, namespace)
    }

    /// Sets how long a request may take, from looking up the host to the end of the answer.
    ///
    /// With a longer time slow servers get more profiles confirmed, and the other exporters wait
    /// longer for their turn; the program itself never waits.
    ///
    /// 10 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.delivery.target.timeout = timeout;
        self
    }
}

impl Export for Pyroscope {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn configure(&mut self, environment: &Environment) -> Result<(), Error> {
        if let Some(url) = environment.get(SERVER_ADDRESS) {
            self.delivery.target.url = url;
        }
        match (environment.get(USER), environment.get(PASSWORD)) {
            (Some(user), Some(password)) => self.delivery.target.basic_auth(user, password),
            (None, None) => {}
            (Some(_), None) => return Err(config(format!("{USER} is set and {PASSWORD} is not: set both"))),
            (None, Some(_)) => return Err(config(format!("{PASSWORD} is set and {USER} is not: set both"))),
        }
        if let Some(tenant) = environment.get("PYROSCOPE_TENANT_ID") {
            self.delivery.target.header(TENANT.into(), tenant);
        }
        if let Some(namespace) = environment.resource_attribute("service.namespace")? {
            self.labels.set(labels::SERVICE_NAMESPACE.into(), namespace);
        }
        for (name, value) in environment.pairs("PYROSCOPE_LABELS")? {
            self.labels.set(name, value);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        self.labels.check()?;
        self.delivery.check()
    }

    fn check_fields(&self, labels: &[Arc<str>]) -> Result<(), Error> {
        self.labels.check_fields(labels)
    }

    fn export(&mut self, profile: &Profile) -> Result<(), Error> {
        let now = Instant::now();
        for raw_profile in crate::pprof::encode_parts(profile) {
            let request = PushRequest {
                series: vec![Series {
                    labels: self.series_labels(profile),
                    samples: vec![RawProfile { raw_profile }],
                }],
            };
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

impl Pyroscope {
    fn series_labels(&self, profile: &Profile) -> Vec<LabelPair> {
        let kind = match profile.kind {
            ProfileKind::ProcessCpu => "process_cpu",
            ProfileKind::EverySpan => "span",
        };
        let ours = [
            ("__name__", kind),
            ("service_name", &profile.service_name),
            // Each profile holds what happened in its window, and nothing of the one before.
            ("__delta__", "false"),
            // Pyroscope takes the language from this; `pyroscope-rs` is the one name that means Rust.
            ("pyroscope_spy", "pyroscope-rs"),
        ];
        ours.into_iter()
            .chain(self.labels.iter())
            .map(|(name, value)| LabelPair { name: name.into(), value: value.into() })
            .collect()
    }
}

//! What the environment adds: traces and profiles by OTLP, and the links into Grafana.

use std::env;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use crate::Result;

/// Traces by OTLP over HTTP.
pub(crate) struct Traces {
    provider: SdkTracerProvider,
    service: String,
}

impl Traces {
    /// As the environment says, if it names a collector.
    pub(crate) fn from_env(service: &'static str) -> Result<Option<Self>> {
        if env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_none() {
            return Ok(None);
        }
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().build()?;
        // The environment goes before the code, as with profiles: Grafana finds those by this name.
        let name = |resource: &Resource| resource.get(&"service.name".into()).map(|name| name.to_string());
        let mut resource = Resource::builder().build();
        if name(&resource).is_none_or(|name| name.starts_with("unknown_service")) {
            resource = Resource::builder().with_service_name(service).build();
        }
        let service = name(&resource).unwrap_or_default();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        Ok(Some(Self { provider, service }))
    }

    pub(crate) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("checkout")
    }

    /// Sends what is left, and says where to look.
    pub(crate) fn finish(self) -> Result<()> {
        self.provider.shutdown()?;
        print_links(&self.service);
        Ok(())
    }
}

/// Profiles by OTLP, if the environment names a collector for them.
#[cfg(feature = "otlp")]
pub(crate) fn otlp_profiles() -> Result<Option<pollscope::Otlp>> {
    Ok(match env::var_os("OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT") {
        Some(_) => Some(pollscope::Otlp::from_env()?),
        None => None,
    })
}

/// Profiles by OTLP need a feature of the crate.
#[cfg(not(feature = "otlp"))]
pub(crate) fn otlp_profiles() -> Result<Option<pollscope::File>> {
    match env::var_os("OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT") {
        Some(_) => Err("profiles by OTLP need the feature otlp: add --features otlp".into()),
        None => Ok(None),
    }
}

/// Where to look, in a Grafana with the data sources of examples/grafana. `GRAFANA_URL` says where it is.
fn print_links(service: &str) {
    let grafana = env::var("GRAFANA_URL").unwrap_or_else(|_| "http://localhost:3000".into());
    let requests = format!(r#"{{resource.service.name="{service}" && span.pollscope.samples > 0}}"#);
    let panes = format!(
        r#"{{"a":{{"datasource":"tempo","queries":[{{"refId":"A","queryType":"traceql","query":{requests:?}}}],"range":{{"from":"now-15m","to":"now"}}}}}}"#
    );
    let panes = percent_encoded(&panes);
    let service = percent_encoded(service);
    println!(
        "in Grafana, once examples/grafana is up:
  requests that cost CPU; open one, and any of its spans:
    {grafana}/explore?schemaVersion=1&orgId=1&panes={panes}
  Traces Drilldown:
    {grafana}/a/grafana-exploretraces-app/explore?var-ds=tempo&var-filters=resource.service.name%7C%3D%7C{service}
  Profiles Drilldown:
    {grafana}/a/grafana-pyroscope-app/explore?explorationType=flame-graph&var-dataSource=pyroscope&var-serviceName={service}&var-profileMetricId=process_cpu:cpu:nanoseconds:cpu:nanoseconds"
    );
}

fn percent_encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

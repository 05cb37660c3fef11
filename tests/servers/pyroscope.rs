//! Pyroscope, and what Grafana and its own client ask of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::flamegraph::Flamegraph;
use super::process::{Process, demo_file, free_ports};
use super::{get, post, wait_for};

/// A Pyroscope that can be stopped and started again with its data.
pub struct Pyroscope {
    binary: PathBuf,
    directory: PathBuf,
    /// HTTP, gRPC, gossip, raft.
    ports: [u16; 4],
    process: Option<Process>,
}

/// Which samples are asked for.
pub enum Of<'a> {
    All,
    Spans(&'a [&'a str]),
    Trace(&'a str),
}

impl Pyroscope {
    /// Starts with the demo's file; flags move every address to loopback.
    pub fn start(binary: &str, directory: &Path) -> Self {
        let mut pyroscope =
            Self { binary: binary.into(), directory: directory.into(), ports: free_ports(), process: None };
        pyroscope.resume();
        pyroscope
    }

    /// Starts again after [`stop`](Self::stop), at the same address.
    pub fn resume(&mut self) {
        let [http, grpc, gossip, raft] = self.ports;
        let flags = [
            format!("-config.file={}", demo_file("pyroscope.yaml").display()),
            format!("-server.http-listen-port={http}"),
            format!("-server.grpc-listen-port={grpc}"),
            format!("-memberlist.bind-port={gossip}"),
            format!("-metastore.address=127.0.0.1:{grpc}"),
            format!("-query-backend.address=127.0.0.1:{grpc}"),
            format!("-metastore.raft.server-id=127.0.0.1:{raft}"),
            format!("-metastore.raft.bind-address=127.0.0.1:{raft}"),
            format!("-metastore.raft.advertise-address=127.0.0.1:{raft}"),
        ];
        let on_loopback = [
            "server.http-listen-address",
            "server.grpc-listen-address",
            "memberlist.bind-addr",
            "memberlist.advertise-addr",
            "segment-writer.lifecycler.addr",
            "distributor.ring.instance-addr",
            "overrides-exporter.ring.instance-addr",
            "query-scheduler.ring.instance-addr",
            "query-frontend.instance-addr",
        ];
        let mut command = Command::new(&self.binary);
        command.args(flags).args(on_loopback.map(|flag| format!("-{flag}=127.0.0.1")));
        let mut process = Process::start(&mut command, &self.directory, "pyroscope");
        wait_for("Pyroscope", || {
            process.check();
            let text = |path| {
                let url = format!("{}{path}", self.url());
                super::agent().get(url).call().ok()?.body_mut().read_to_string().ok()
            };
            text("/ready")?;
            // Profiles are taken once a writer has joined.
            text("/ring-segment-writer")?.contains("ACTIVE").then_some(())
        });
        self.process = Some(process);
    }

    /// Stops in good order.
    pub fn stop(&mut self) {
        self.process.take().expect("it runs").terminate();
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    pub fn version(&self) -> String {
        let info = get(&format!("{}/api/v1/status/buildinfo", self.url()), &[]).expect("its version");
        info["data"]["version"].as_str().unwrap_or("?").to_owned()
    }

    /// The flame graph of what `selector` and `of` match and whose window begins in `[start_ms, end_ms)`.
    /// A span is asked for as Grafana's span details do.
    pub fn flamegraph(
        &self,
        profile_type: &str,
        selector: &str,
        of: &Of<'_>,
        (start_ms, end_ms): (u64, u64),
    ) -> Flamegraph {
        let mut query = json!({
            "profileTypeID": profile_type,
            "labelSelector": selector,
            "start": start_ms.to_string(),
            "end": end_ms.to_string(),
            // As many as there are: the server's default leaves small ones out.
            "maxNodes": "0",
        });
        let call = match of {
            Of::All => "SelectMergeStacktraces",
            Of::Spans(ids) => {
                query["spanSelector"] = json!(ids);
                "SelectMergeSpanProfile"
            }
            Of::Trace(id) => {
                query["traceIdSelector"] = json!([id]);
                "SelectMergeStacktraces"
            }
        };
        let answer = post(&format!("{}/querier.v1.QuerierService/{call}", self.url()), &query);
        Flamegraph::read(&answer["flamegraph"])
    }

    /// The most expensive spans, by Pyroscope's own command line.
    pub fn exemplars(&self, profilecli: &str, selector: &str) -> Vec<Value> {
        let output = Command::new(profilecli)
            .args([
                "query",
                "exemplars",
                "span",
                "--output",
                "json",
                "--url",
                &self.url(),
                "--query",
                selector,
            ])
            .output()
            .expect("profilecli runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "profilecli: {text}{}", String::from_utf8_lossy(&output.stderr));
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        super::items(&answer["exemplars"]).to_vec()
    }
}

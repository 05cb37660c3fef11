//! The profile behind every trace, on real servers: the checkout example pushes to a real Pyroscope and
//! a real Tempo, and everything is read back by the queries of Grafana and of Pyroscope's own client.
//!
//! Run by `tests/real_servers.sh`, which names the servers' programs; skipped without.
#![cfg(all(target_os = "linux", feature = "pyroscope"))]

mod servers;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use servers::flamegraph::Flamegraph;
use servers::grafana::{around, selector, work};
use servers::process::demo_file;
use servers::pyroscope::{Of, Pyroscope};
use servers::tempo::{Span, Tempo, Trace};
use servers::wait_for;

/// Spans of this many requests are looked at in each run.
const REQUESTS: usize = 100;
/// High, so that spans of a millisecond have samples.
const HERTZ: u64 = 4000;
const PERIOD_NS: u64 = 1_000_000_000 / HERTZ;

const PROCESS_CPU: &str = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";
const SAMPLES: &str = "process_cpu:samples:count:cpu:nanoseconds";
const SPAN_CPU: &str = "span:cpu:nanoseconds:cpu:nanoseconds";
/// What Pyroscope makes of the profile of every span when it comes by OTLP.
const OTLP_SPAN_CPU: &str = "cpu:span:nanoseconds:cpu:nanoseconds";

struct Setup {
    pyroscope: Pyroscope,
    tempo: Tempo,
    directory: PathBuf,
    checkout: String,
    profilecli: Option<String>,
}

impl Setup {
    /// `None` without the servers' programs.
    fn start() -> Option<Self> {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let pyroscope = variable("POLLSCOPE_TEST_PYROSCOPE")?;
        let tempo = variable("POLLSCOPE_TEST_TEMPO")?;
        let directory = env::temp_dir().join(format!("pollscope-real-servers-{}", std::process::id()));
        let make = |name: &str| {
            let directory = directory.join(name);
            fs::create_dir_all(&directory).expect("a directory");
            directory
        };
        Some(Self {
            pyroscope: Pyroscope::start(&pyroscope, &make("pyroscope")),
            tempo: Tempo::start(&tempo, &make("tempo")),
            checkout: variable("POLLSCOPE_TEST_CHECKOUT").expect("the example, built"),
            profilecli: variable("POLLSCOPE_TEST_PROFILECLI"),
            directory,
        })
    }

    /// The example as `service`, ready to run.
    fn load(&self, service: &str, seconds: u64, settings: &[(&str, &str)]) -> Command {
        let mut command = Command::new(&self.checkout);
        let out = self.directory.join(service);
        command
            .args(["--hz", &HERTZ.to_string(), "--requests-per-second", "40"])
            .args(["--seconds", &seconds.to_string()])
            .arg("--out")
            .arg(&out)
            .env_remove("OTEL_SERVICE_NAME")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", self.tempo.otlp_url())
            // So that spans lie on both sides of a window's end.
            .env("PYROSCOPE_UPLOAD_INTERVAL", "3s")
            .env_remove("OTEL_RESOURCE_ATTRIBUTES")
            .envs(settings.iter().copied());
        if service != "checkout" {
            // The name that the code gives is for whoever names nothing.
            command.env("OTEL_SERVICE_NAME", service);
        }
        command
    }

    /// Traces of `service` that have samples, once all of its requests have arrived.
    fn traces(&self, service: &str, requests: usize) -> Vec<(String, Trace)> {
        let roots = |more: &str| {
            self.tempo
                .search(&format!(r#"{{resource.service.name="{service}" && nestedSetParent<0 {more}}}"#))
        };
        wait_for("all traces", || (roots("").len() == requests).then_some(()));
        let linked = roots(r#"&& span.pyroscope.profile.id!="""#);
        assert_eq!(linked.len(), requests, "each request's first span has a profile");
        let sampled = roots("&& span.pollscope.samples>0");
        assert!(sampled.len() >= REQUESTS, "{} of {requests} requests have samples", sampled.len());
        let read = |id: String| {
            let trace = self.tempo.trace(&id).expect("a trace that was found");
            (id, trace)
        };
        sampled.into_iter().take(REQUESTS).map(read).collect()
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// Runs the example to its end; what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("the example runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the example failed: {text}{errors}");
    text + &errors
}

/// The number before these words.
fn number_before(text: &str, words: &str) -> u64 {
    let before = text.split(words).next().filter(|before| before.len() < text.len());
    let number = before.and_then(|before| before.rsplit(|c: char| !c.is_ascii_digit()).next());
    number.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no number before {words:?} in {text}"))
}

/// What was found in some flame graphs.
#[derive(Default)]
struct Found {
    roots: usize,
    inner: usize,
    samples: u64,
    /// Flame graphs with a sample more or less than their span counted: one may fall just when it closes.
    one_off: usize,
}

impl Found {
    /// Compares a flame graph with the samples that the span itself counted.
    fn check_total(&mut self, graph: &Flamegraph, span: &Span) {
        let samples = span.samples();
        let off = graph.total.abs_diff(samples * PERIOD_NS);
        assert!(off <= PERIOD_NS, "{} ns instead of {samples} samples in {span:#?}", graph.total);
        assert_eq!(span.attribute("pollscope.cpu_ns"), (samples * PERIOD_NS).to_string());
        self.one_off += usize::from(off > 0);
    }
}

/// Every span of these traces, as Grafana asks for it: the root by `process_cpu` and by its trace, each
/// span by the profile of every span.
fn check_spans(setup: &Setup, traces: &[(String, Trace)], span_cpu: &str) -> String {
    let pyroscope = &setup.pyroscope;
    let classes = ["audit", "checkout", "parse", "price", "render", "reserve", "sign"];
    let mut found = Found::default();
    let mut seen = BTreeSet::new();
    for (id, trace) in traces {
        let root = trace.root();
        let selector = selector(trace);
        let names: Vec<_> = trace.spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names.iter().copied().collect::<BTreeSet<_>>(), classes.into(), "{names:?}");
        let of_root = Of::Spans(&[&root.id]);
        let graph = pyroscope.flamegraph(PROCESS_CPU, &selector, &of_root, around(root));
        found.check_total(&graph, root);
        found.samples += root.samples();
        for (stack, _) in &graph.stacks {
            assert_eq!(stack[0], "span:checkout", "only this request's stacks: {stack:?}");
        }
        seen.extend(work(&graph));
        let by_trace = pyroscope.flamegraph(PROCESS_CPU, &selector, &Of::Trace(id), around(root));
        assert_eq!(by_trace.total, graph.total, "the trace has the samples of its root");
        found.roots += 1;
        for span in &trace.spans {
            assert_eq!(span.attribute("pyroscope.profile.id"), span.id);
            for key in ["pollscope.polls", "pollscope.migrations"] {
                span.attribute(key);
            }
            let of_span = Of::Spans(&[&span.id]);
            let graph = pyroscope.flamegraph(span_cpu, &selector, &of_span, around(span));
            found.check_total(&graph, span);
            let work = work(&graph);
            if span.is_root {
                continue;
            }
            // A sample may fall between the work, in the span's own code.
            assert!(work.is_empty() || work == [span.name.clone()].into(), "{work:?} in {span:#?}");
            for (stack, _) in &graph.stacks {
                let above = ["span:checkout".to_owned(), format!("span:{}", span.name)];
                assert_eq!(stack[..2], above, "only this span's stacks: {stack:?}");
            }
            found.inner += usize::from(span.samples() > 0);
        }
    }
    assert!(seen.is_subset(&classes.map(str::to_owned).into()), "{seen:?}");
    assert!(seen.len() >= 5, "most kinds of work were met: {seen:?}");
    let Found { roots, inner, samples, one_off } = found;
    format!(
        "{roots} root spans and {inner} inner spans opened their own flame graphs, and those without \
         samples none; {samples} samples, by span and by trace; off by a sample: {one_off}"
    )
}

/// A run of the example, and all that must be true of its spans.
fn check_run(setup: &Setup, service: &str, otlp: bool, namespace: bool) {
    let url = match otlp {
        true => ("OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT", setup.pyroscope.url() + "/v1development/profiles"),
        false => ("PYROSCOPE_SERVER_ADDRESS", setup.pyroscope.url()),
    };
    let mut settings = vec![(url.0, &*url.1)];
    if namespace {
        settings.push(("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=shop"));
    }
    let output = run(&mut setup.load(service, 8, &settings));
    let requests = number_before(&output, " requests in") as usize;
    let traces = setup.traces(service, requests);
    let selects = selector(&traces[0].1);
    assert_eq!(selects.contains("service_namespace"), namespace, "{selects}");
    let span_cpu = if otlp { OTLP_SPAN_CPU } else { SPAN_CPU };
    println!(
        "{selects} by {}: {}",
        if otlp { "OTLP" } else { "push" },
        check_spans(setup, &traces, span_cpu)
    );
}

/// With the scope `innermost`, the usual profile has each sample with the span that did the work itself.
fn check_innermost(setup: &Setup) {
    let service = "innermost";
    let url = setup.pyroscope.url();
    let settings = [("PYROSCOPE_SERVER_ADDRESS", &*url), ("POLLSCOPE_SCOPE", "innermost")];
    let output = run(&mut setup.load(service, 8, &settings));
    let traces = setup.traces(service, number_before(&output, " requests in") as usize);
    let mut samples = 0;
    for (_, trace) in &traces {
        let mut sum_ns = 0;
        for span in &trace.spans {
            let of_span = Of::Spans(&[&span.id]);
            let graph = setup.pyroscope.flamegraph(PROCESS_CPU, &selector(trace), &of_span, around(span));
            sum_ns += graph.total;
            if !span.is_root {
                Found::default().check_total(&graph, span);
            }
            let work = work(&graph);
            assert!(work.is_empty() || work == [span.name.clone()].into(), "{work:?} in {span:#?}");
        }
        let root = trace.root().samples();
        assert!(sum_ns.abs_diff(root * PERIOD_NS) <= PERIOD_NS, "{sum_ns} ns are not {root} samples");
        samples += root;
    }
    println!("scope innermost: {} root spans and their inner ones share {samples} samples out", traces.len());
}

/// Pyroscope's own client lists the most expensive spans, and Tempo has their traces.
fn check_exemplars(setup: &Setup, service: &str) {
    let Some(profilecli) = &setup.profilecli else {
        println!("profilecli: skipped, as it was not given");
        return;
    };
    let selector = format!(r#"{{service_name="{service}"}}"#);
    let exemplars = setup.pyroscope.exemplars(profilecli, &selector);
    assert!(!exemplars.is_empty(), "the most expensive spans");
    for exemplar in &exemplars {
        let text = |key: &str| exemplar[key].as_str().expect(key);
        assert_eq!(exemplar["labels"]["span_name"], "checkout");
        let trace = setup.tempo.trace(text("trace_id")).expect("its trace is in Tempo");
        assert_eq!(trace.root().id, text("span_id"));
        let value_ns = exemplar["value"].as_u64().expect("a value");
        // Of one window: a request may lie in two.
        let most_ns = trace.root().samples() * PERIOD_NS;
        assert!((PERIOD_NS..=most_ns).contains(&value_ns), "{exemplar} with at most {most_ns} ns");
    }
    println!("profilecli query exemplars span: {} spans by name, each trace in Tempo", exemplars.len());
}

/// Pyroscope goes away in the middle of a run and comes back: nothing is lost, nothing counted twice.
fn check_restart(setup: &mut Setup) {
    let service = "restart";
    let url = setup.pyroscope.url();
    let settings = [("PYROSCOPE_SERVER_ADDRESS", &*url), ("PYROSCOPE_UPLOAD_INTERVAL", "3s")];
    // Time enough to catch up: pauses between tries double, and the server confirms two profiles a second.
    let mut command = setup.load(service, 50, &settings);
    let stored = |setup: &Setup| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let range = ((now - Duration::from_secs(600)).as_millis() as u64, now.as_millis() as u64);
        let selector = format!(r#"{{service_name="{service}"}}"#);
        setup.pyroscope.flamegraph(SAMPLES, &selector, &Of::All, range).total
    };
    let running = std::thread::spawn(move || run(&mut command));
    wait_for("the first windows", || (stored(setup) > 0).then_some(()));
    setup.pyroscope.stop();
    // Long enough for windows to find nobody.
    std::thread::sleep(Duration::from_secs(5));
    setup.pyroscope.resume();
    let output = running.join().expect("the example's run");
    assert!(output.contains("does not take profiles now"), "windows found nobody: {output}");
    let samples = number_before(&output, " samples, ") + number_before(&output, " lost, ");
    let (stored, unsure) = (stored(setup), output.contains(" unconfirmed"));
    // A request that was under way when the server ended may be lost, but then the profiler says so.
    assert!(stored == samples || stored < samples && unsure, "{stored} of {samples} are stored: {output}");
    let retried = number_before(&output, " tried again");
    println!(
        "Pyroscope restarted during a run: {stored} of {samples} samples are there, {retried} tries again"
    );
}

/// The demo's data sources ask for what was asked for here.
fn check_provisioning() {
    let text = fs::read_to_string(demo_file("provisioning/datasources/datasources.yaml")).expect("the file");
    let after = |key: &str| -> Vec<_> {
        let line = |line: &str| Some(line.trim().strip_prefix(key)?.trim().to_owned());
        text.lines().filter_map(line).collect()
    };
    assert_eq!(after("profileTypeId:"), [SPAN_CPU, PROCESS_CPU]);
    let tags = [
        "{ key: service.name, value: service_name }",
        "{ key: service.namespace, value: service_namespace }",
    ];
    assert_eq!(after("- { key:").len(), 4);
    for tag in tags {
        assert_eq!(text.matches(tag).count(), 2, "{tag}");
    }
}

#[test]
fn grafana_finds_the_profile_of_every_span() {
    check_provisioning();
    let Some(mut setup) = Setup::start() else {
        // Past the test harness, which shows nothing of a test that passes.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: the real servers, as POLLSCOPE_TEST_PYROSCOPE and POLLSCOPE_TEST_TEMPO name no programs \
             (tests/real_servers.sh sets them)"
        );
        return;
    };
    println!("Pyroscope {}, Tempo {}", setup.pyroscope.version(), setup.tempo.version());
    check_run(&setup, "checkout", false, false);
    assert!(setup.tempo.has_metrics("{nestedSetParent<0} | rate()"), "Traces Drilldown needs metrics");
    check_exemplars(&setup, "checkout");
    check_run(&setup, "push-in-namespace", false, true);
    check_run(&setup, "otlp", true, false);
    check_run(&setup, "otlp-in-namespace", true, true);
    check_innermost(&setup);
    check_restart(&mut setup);
}

//! The builder and the environment say the same, whoever starts the program has the last word, and no
//! secret of either is shown.
#![cfg(target_os = "linux")]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use pollscope::{
    Builder, Engine, Environment, ErrorKind, Profile, ProfileKind, Profiler, SpanLabels, SpanScope,
};
use support::{Recording, burn_cpu, take_turn};
use tracing::info_span;
use tracing_subscriber::prelude::*;

type Variables = &'static [(&'static str, &'static str)];

fn environment(variables: Variables) -> Environment {
    Environment::from_fn(move |name| {
        variables.iter().find(|(known, _)| *known == name).map(|&(_, value)| value.to_owned())
    })
}

/// What a short run under these variables makes, with two nested spans in it.
fn profiles(
    variables: Variables,
    choose: impl FnOnce(Builder) -> Builder,
) -> (Vec<Profile>, pollscope::Stats) {
    let recording = Recording::default();
    let builder = recording.builder().engine(Engine::Timer).environment(environment(variables));
    let profiler = choose(builder).start().expect("understood");
    let subscriber = tracing_subscriber::registry().with(profiler.layer());
    tracing::subscriber::with_default(subscriber, || {
        info_span!("outer").in_scope(|| {
            info_span!("inner").in_scope(|| burn_cpu(Duration::from_millis(100)));
        });
    });
    let stats = profiler.stop();
    (recording.profiles().clone(), stats)
}

#[test]
fn each_variable_goes_before_the_code() {
    let _turn = take_turn();
    let (made, _) = profiles(&[("PYROSCOPE_APPLICATION_NAME", "renamed")], |b| b);
    assert_eq!(&*made[0].service_name, "renamed");
    let (made, _) = profiles(&[("OTEL_SERVICE_NAME", "by-otel")], |b| b);
    assert_eq!(&*made[0].service_name, "by-otel");
    let (made, _) = profiles(&[("OTEL_RESOURCE_ATTRIBUTES", "a=b,service.name=by-attribute")], |b| b);
    assert_eq!(&*made[0].service_name, "by-attribute");

    let (_, stats) = profiles(&[("POLLSCOPE_ENGINE", "off")], |b| b);
    assert_eq!(stats.engine, "none");
    let (_, stats) = profiles(&[("PYROSCOPE_PROFILING_INTERVAL", "4ms")], |b| b.hertz(10));
    assert_eq!(stats.hertz, 250);
    let kinds = |made: &[Profile]| made.iter().map(|profile| profile.kind).collect::<Vec<_>>();
    let (made, _) = profiles(&[("POLLSCOPE_SCOPE", "every_span")], |b| b.span_scope(SpanScope::Innermost));
    assert_eq!(kinds(&made)[..2], [ProfileKind::ProcessCpu, ProfileKind::EverySpan]);
    let (made, _) = profiles(&[("POLLSCOPE_SCOPE", "local_root")], |b| b.every_span());
    assert!(kinds(&made).iter().all(|kind| *kind == ProfileKind::ProcessCpu));

    // The spans that samples were taken in, and what they are called.
    let names = |made: &[Profile]| {
        let spans = made.iter().flat_map(|profile| profile.samples.iter().filter_map(|s| s.span.clone()));
        let pair =
            |span: Arc<SpanLabels>| (span.path.last().expect("not empty").to_string(), span.name.to_string());
        let names: BTreeSet<_> = spans.map(pair).collect();
        assert!(names.iter().any(|(innermost, _)| innermost == "inner"), "{names:?}");
        names
    };
    let (made, _) = profiles(&[("POLLSCOPE_SCOPE", "innermost")], |b| b);
    assert!(names(&made).iter().all(|(innermost, name)| name == innermost));
    let (made, _) = profiles(&[], |b| b);
    assert!(names(&made).iter().all(|(_, name)| name == "outer"));
    let (made, _) = profiles(&[("POLLSCOPE_SPAN_NAME_LABEL", "off")], |b| b);
    assert!(names(&made).iter().all(|(_, name)| name.is_empty()));

    let frames = |made: &[Profile]| {
        let all = made.iter().flat_map(|profile| profile.samples.iter().flat_map(|s| profile.frames(s)));
        all.filter(|frame| frame.starts_with("span:")).count()
    };
    let (made, _) = profiles(&[], |b| b);
    assert!(frames(&made) > 0);
    let (made, _) = profiles(&[("POLLSCOPE_RAW_STACKS", "1")], |b| b);
    assert_eq!(frames(&made), 0);
}

#[test]
fn the_upload_interval_is_the_window() {
    let _turn = take_turn();
    let (window, windows) = std::sync::mpsc::channel();
    let profiler = Profiler::builder("test")
        .engine(Engine::Timer)
        .window(Duration::from_secs(15))
        .environment(environment(&[("PYROSCOPE_UPLOAD_INTERVAL", "200ms")]))
        .export(pollscope::export::each(move |profile| {
            // Nobody listens any more once the first has come.
            let _ = window.send(profile.duration);
        }))
        .start()
        .expect("understood");
    let first = windows.recv_timeout(Duration::from_secs(14)).expect("a window before the code's is over");
    assert!(first >= Duration::from_millis(200));
    profiler.stop();
}

/// Whether something in this process handles SIGPROF, by the kernel's own account.
fn handles_sigprof() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a mask");
    u64::from_str_radix(caught.trim(), 16).expect("a mask") & 1 << (libc::SIGPROF - 1) != 0
}

#[test]
fn switched_off_it_costs_nothing() {
    // In a process of its own: other tests here install the handler.
    const CHILD: &str = "POLLSCOPE_TEST_CHILD";
    if std::env::var_os(CHILD).is_none() {
        let program = std::env::current_exe().expect("this test");
        let output = std::process::Command::new(program)
            .args(["--exact", "switched_off_it_costs_nothing", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .expect("this test runs again");
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(!said.contains("pollscope:"), "{said}");
        return;
    }
    let threads = || std::fs::read_dir("/proc/self/task").expect("/proc").count();
    let before = threads();
    let off = [("POLLSCOPE_ENABLED", "false"), ("PYROSCOPE_SERVER_ADDRESS", "no url: nobody looks")];
    let profiler = Profiler::builder("test")
        .export(pollscope::File::new("/proc/nowhere"))
        .environment(environment(Box::leak(Box::new(off))))
        .start()
        .expect("nothing to start");
    let subscriber = tracing_subscriber::registry().with(profiler.layer());
    tracing::subscriber::with_default(subscriber, || {
        let span = info_span!("nobody wants it");
        assert!(span.is_disabled());
        assert!(!tracing::event_enabled!(tracing::Level::ERROR));
    });
    assert_eq!(threads(), before);
    assert!(!handles_sigprof());
    let stats = profiler.stop();
    assert_eq!((stats.engine, &*stats.reason), ("none", "profiling is switched off"));
    assert_eq!((stats.hertz, stats.samples, stats.exports.len()), (0, 0, 0));
}

fn refused(variables: Variables, choose: impl FnOnce(Builder) -> Builder) -> String {
    let builder = Profiler::builder("test").environment(environment(variables));
    let error = choose(builder).start().expect_err("not understood");
    assert_eq!(error.kind(), ErrorKind::Config);
    format!("{error}")
}

#[test]
fn a_bad_value_names_the_variable_the_value_and_what_is_accepted() {
    for (variables, says) in [
        (
            &[("POLLSCOPE_ENABLED", "maybe")] as Variables,
            "POLLSCOPE_ENABLED is \"maybe\": accepted is true, false, 1, 0, on, off",
        ),
        (&[("POLLSCOPE_ENGINE", "ebpf")], "POLLSCOPE_ENGINE is \"ebpf\": accepted is auto, perf, timer, off"),
        (
            &[("POLLSCOPE_SCOPE", "all")],
            "POLLSCOPE_SCOPE is \"all\": accepted is local_root, innermost, every_span",
        ),
        (
            &[("POLLSCOPE_TRACE_ID_LABEL", "x")],
            "POLLSCOPE_TRACE_ID_LABEL is \"x\": accepted is true, false, 1, 0, on, off",
        ),
        (
            &[("POLLSCOPE_SPAN_NAME_LABEL", "x")],
            "POLLSCOPE_SPAN_NAME_LABEL is \"x\": accepted is true, false, 1, 0, on, off",
        ),
        (
            &[("POLLSCOPE_RAW_STACKS", "x")],
            "POLLSCOPE_RAW_STACKS is \"x\": accepted is true, false, 1, 0, on, off",
        ),
        (
            &[("PYROSCOPE_UPLOAD_INTERVAL", "1h")],
            "PYROSCOPE_UPLOAD_INTERVAL is \"1h\": accepted is a duration, 100ms to 15s",
        ),
        (
            &[("PYROSCOPE_PROFILING_INTERVAL", "3s")],
            "PYROSCOPE_PROFILING_INTERVAL is \"3s\": accepted is a duration, 100us to 1s, such as 10ms",
        ),
        (
            &[("OTEL_RESOURCE_ATTRIBUTES", "a")],
            "OTEL_RESOURCE_ATTRIBUTES is \"a\": accepted is name=value,name=value",
        ),
    ] {
        assert_eq!(refused(variables, |b| b), says);
    }
}

/// A server that takes one request; what it was asked.
#[cfg(feature = "pyroscope")]
fn one_request(listener: TcpListener) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let (mut stream, _): (TcpStream, _) = listener.accept().expect("a request");
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text").to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.expect("a length").parse().expect("a number")];
        stream.read_exact(&mut body).expect("a body");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("an answer");
        head
    })
}

#[test]
#[cfg(feature = "pyroscope")]
fn a_server_in_the_environment_adds_an_exporter_or_takes_the_place_of_the_one_in_the_code() {
    let _turn = take_turn();
    for in_the_code in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/prefix", listener.local_addr().expect("an address"));
        let server = one_request(listener);
        let variables: &'static [(&str, String)] = Box::leak(Box::new([
            ("PYROSCOPE_SERVER_ADDRESS", url),
            ("PYROSCOPE_BASIC_AUTH_USER", "user".into()),
            ("PYROSCOPE_BASIC_AUTH_PASSWORD", "hunter2".into()),
            ("PYROSCOPE_TENANT_ID", "team-a".into()),
            ("PYROSCOPE_LABELS", "region=eu, tier=gold".into()),
        ]));
        let environment = Environment::from_fn(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
        });
        let mut builder = Profiler::builder("test").engine(Engine::Timer).environment(environment);
        if in_the_code {
            builder = builder.export(pollscope::Pyroscope::new("http://127.0.0.1:1").basic_auth("a", "b"));
        }
        let profiler = builder.start().expect("understood");
        burn_cpu(Duration::from_millis(60));
        let stats = profiler.stop();
        let head = server.join().expect("no panic");
        assert!(head.starts_with("post /prefix/push.v1.pusherservice/push "), "{head}");
        // base64 of `user:hunter2`, in lower case as the rest.
        assert!(head.contains("authorization: basic dxnlcjpodw50zxiy"), "{head}");
        assert!(head.contains("x-scope-orgid: team-a"), "{head}");
        assert_eq!(stats.exports.len(), 1);
        assert_eq!((stats.exports[0].name, stats.exports[0].failed), ("pyroscope", 0));
    }
}

#[test]
#[cfg(feature = "pyroscope")]
fn half_of_a_name_and_password_is_refused() {
    let server = ("PYROSCOPE_SERVER_ADDRESS", "http://localhost:4040");
    let user: &'static [_] = Box::leak(Box::new([server, ("PYROSCOPE_BASIC_AUTH_USER", "user")]));
    assert!(
        refused(user, |b| b)
            .starts_with("PYROSCOPE_BASIC_AUTH_USER is set and PYROSCOPE_BASIC_AUTH_PASSWORD is not")
    );
    let password: &'static [_] = Box::leak(Box::new([server, ("PYROSCOPE_BASIC_AUTH_PASSWORD", "hunter2")]));
    let error = refused(password, |b| b);
    assert!(error.starts_with("PYROSCOPE_BASIC_AUTH_PASSWORD is set and PYROSCOPE_BASIC_AUTH_USER is not"));
    assert!(!error.contains("hunter2"));
}

#[test]
#[cfg(feature = "pyroscope")]
fn no_secret_is_shown() {
    let secret = |url: &str| {
        pollscope::Pyroscope::new(url)
            .basic_auth("user", "hunter2")
            .header("x-key", "swordfish")
            .tenant_id("team-a")
    };
    let shown = [
        format!("{:?}", secret("http://u:opensesame@localhost:4040")),
        format!("{:?}", secret("http://localhost:4040").bearer_token("swordfish")),
        format!("{:?}", Profiler::builder("test").export(secret("http://u:opensesame@localhost:4040"))),
        format!("{:?}", Environment::from_fn(|_| Some("hunter2".into()))),
        // Addresses that make no sense, with a password somewhere in them.
        refused(&[], |b| b.export(secret("http://u:opensesame/@localhost:4040"))),
        refused(&[], |b| b.export(secret("u:opensesame@localhost"))),
        refused(&[("PYROSCOPE_SERVER_ADDRESS", "http://u:opensesame@localhost:port")], |b| b),
        refused(&[], |b| b.export(secret("http://localhost").header("x y", "swordfish"))),
    ];
    for text in shown {
        for word in ["hunter2", "swordfish", "opensesame"] {
            assert!(!text.contains(word), "{text}");
        }
    }
}

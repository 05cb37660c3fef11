//! What sampling adds to the CPU of a request: `cargo bench --bench overhead`.
//!
//! Runs the checkout example at a fixed rate of requests, with `--engine off` (A) and with another
//! engine (B) in turn, A B B A, so that what changes slowly cancels out; the two As of a pair against
//! each other say how far equal runs come apart by chance. CPU is the process's own: the service,
//! its client, and the profiler. *Steady* is from the second window of 10 s on, by the process's CPU
//! clock; *whole* is by `wait4`, and has in it what is done once: the start, reading the symbols, and
//! drawing the flame graph at the end.
//!
//! Options, after `--`: `--pairs N` (10), `--seconds N` of each run (43), `--requests-per-second N`
//! (400), `--engine NAME` (auto), `--hz N` (100). `--traces`: the example makes OpenTelemetry traces
//! in all runs and sends them here. Without it, nobody looks at the spans of A, so they are never made;
//! with it, what is added is the profiler alone.

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, mem, thread};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let options = Options::from_args()?;
    println!(
        "checkout{}, {} requests/s for {} s a run; A: --engine off, B: --engine {} at {} Hz",
        if options.traces.is_some() { " with traces" } else { "" },
        options.rate,
        options.seconds,
        options.engine,
        options.hz
    );
    let (mut off, mut on) = (Vec::new(), Vec::new());
    let (mut added, mut control, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 1..=options.pairs {
        let (a, b) = (options.run("off")?, options.run(&options.engine)?);
        let (c, d) = (options.run(&options.engine)?, options.run("off")?);
        let [a_us, b_us, c_us, d_us] = [&a, &b, &c, &d].map(|run| run.steady_us);
        added.push(100.0 * ((b_us + c_us) / (a_us + d_us) - 1.0));
        control.push(100.0 * (a_us / d_us - 1.0));
        whole.push(100.0 * ((b.whole_us + c.whole_us) / (a.whole_us + d.whole_us) - 1.0));
        let added = added[pair - 1];
        println!("{pair:>3}: A {a_us:.1}  B {b_us:.1}  B {c_us:.1}  A {d_us:.1} µs a request: {added:+.2} %");
        off.extend([a, d]);
        on.extend([b, c]);
    }
    println!("\n{:<34}{:>10}{:>10}", "", "off", options.engine);
    let row = |name: &str, of: fn(&Run) -> f64| {
        let mean = |runs: &[Run]| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
        println!("{name:<34}{:>10.2}{:>10.2}", mean(&off), mean(&on));
    };
    row("steady CPU a request, µs", |run| run.steady_us);
    row("whole CPU a request, µs", |run| run.whole_us);
    row("  of it in the handler", |run| run.handler_us);
    row("  of it on the profiler's threads", |run| run.threads_us);
    row("most memory, MB", |run| run.peak_mb);
    println!("\nadded, steady:            {}", interval(&added));
    println!("added, whole:             {}", interval(&whole));
    println!("A against A, no effect:   {}", interval(&control));
    Ok(())
}

/// What one run of the example took.
struct Run {
    /// CPU a request, as are the next three.
    steady_us: f64,
    whole_us: f64,
    handler_us: f64,
    threads_us: f64,
    peak_mb: f64,
}

impl Options {
    fn run(&self, engine: &str) -> Result<Run> {
        let mut command = Command::new(&self.example);
        let [seconds, rate, hz] = [self.seconds, self.rate, self.hz].map(|n| n.to_string());
        command.args(["--engine", engine, "--seconds", &seconds, "--requests-per-second", &rate]);
        command.args(["--hz", &hz, "--out"]).arg(&self.out).stdout(Stdio::piped());
        if let Some(address) = self.traces {
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"));
        }
        let mut child = command.spawn()?;
        let Waited { usage, threads_ns, steady } = self.wait(&child)?;
        let output = io::read_to_string(child.stdout.take().ok_or("no output")?)?;
        // "… 242 signals, 20.1 µs each in the handler … 1998 requests in 5 s"
        let number = |what: &str| -> Option<f64> {
            let before = output.split_once(what)?.0;
            before.rsplit(|c: char| c.is_whitespace()).next()?.parse().ok()
        };
        let requests = number(" requests in").ok_or_else(|| format!("no requests in: {output}"))?;
        let handler_us =
            number(" signals,").unwrap_or(0.0) * number(" µs each in the handler").unwrap_or(0.0);
        let us = |time: libc::timeval| time.tv_sec as f64 * 1e6 + time.tv_usec as f64;
        Ok(Run {
            steady_us: steady * 1e6 / f64::from(self.rate),
            whole_us: (us(usage.ru_utime) + us(usage.ru_stime)) / requests,
            handler_us: handler_us / requests,
            threads_us: threads_ns as f64 / 1e3 / requests,
            peak_mb: usage.ru_maxrss as f64 / 1024.0,
        })
    }
}

/// What was seen of a process.
struct Waited {
    usage: libc::rusage,
    /// CPU of the profiler's threads, as of shortly before its end.
    threads_ns: u64,
    /// Processors it kept busy in its steady part.
    steady: f64,
}

/// When the first window is out, and what was new in it named.
const WARM: Duration = Duration::from_secs(12);

impl Options {
    fn wait(&self, child: &Child) -> Result<Waited> {
        let begin = Instant::now();
        let end = Duration::from_secs(self.seconds.into()).saturating_sub(Duration::from_secs(1));
        let (mut threads_ns, mut first, mut last) = (HashMap::new(), None, None);
        loop {
            // SAFETY: a zeroed rusage is valid, and this process's own child is waited for once.
            let (ended, status, usage) = unsafe {
                let (mut status, mut usage) = (0, mem::zeroed());
                (libc::wait4(child.id() as i32, &mut status, libc::WNOHANG, &mut usage), status, usage)
            };
            match ended {
                0 => look_at_threads(child.id(), &mut threads_ns),
                -1 => return Err(io::Error::last_os_error().into()),
                _ if status != 0 => return Err(format!("the example failed: status {status}").into()),
                _ => {
                    let (Some((t0, cpu0)), Some((t1, cpu1))) = (first, last) else {
                        return Err("a run must last some seconds more than 13".into());
                    };
                    let steady = (cpu1 - cpu0) / (t1 - t0);
                    return Ok(Waited { usage, threads_ns: threads_ns.into_values().sum(), steady });
                }
            }
            let now = begin.elapsed();
            if (WARM..end).contains(&now) {
                let reading = (now.as_secs_f64(), cpu_seconds(child.id()));
                first = first.or(Some(reading));
                last = Some(reading);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What the CPU clock of a process shows.
fn cpu_seconds(process: u32) -> f64 {
    // The kernel's name for a process's CPU clock: the id inverted, then CPUCLOCK_SCHED (2).
    let clock = (!(process as i32) << 3) | 2;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec; a process that is gone gives an error, and zero.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Notes the CPU of a process's threads whose names begin with the profiler's.
fn look_at_threads(process: u32, threads_ns: &mut HashMap<PathBuf, u64>) {
    for task in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").starts_with("pollscope")
            && let Some(ns) = read("schedstat").split(' ').next().and_then(|ns| ns.parse().ok())
        {
            threads_ns.insert(task.path(), ns);
        }
    }
}

/// The mean of percentages, and within what it lies with 95 % confidence.
fn interval(percents: &[f64]) -> String {
    let n = percents.len() as f64;
    let mean = percents.iter().sum::<f64>() / n;
    if n < 2.0 {
        return format!("{mean:+.2} %");
    }
    let variance = percents.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / (n - 1.0);
    // Student's t, within 2 % of the tables from five pairs on.
    let freedom = n - 1.0;
    let t = 1.96 + 2.37 / freedom + 2.82 / freedom.powi(2);
    let half = t * (variance / n).sqrt();
    format!("{mean:+.2} % ± {half:.2} ({:+.2} to {:+.2} %, 95 % confidence)", mean - half, mean + half)
}

struct Options {
    pairs: usize,
    seconds: u32,
    rate: u32,
    engine: String,
    hz: u32,
    /// Who takes the example's traces.
    traces: Option<SocketAddr>,
    example: PathBuf,
    out: PathBuf,
}

impl Options {
    fn from_args() -> Result<Self> {
        let mut options = Self {
            pairs: 10,
            seconds: 43,
            rate: 400,
            engine: "auto".into(),
            hz: 100,
            traces: None,
            example: build_example()?,
            out: env::temp_dir().join(format!("pollscope-overhead-{}", std::process::id())),
        };
        // Cargo passes --bench.
        let mut args = env::args().skip(1).filter(|arg| arg != "--bench");
        while let Some(name) = args.next() {
            if name == "--traces" {
                options.traces = Some(take_traces()?);
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            match &*name {
                "--pairs" => options.pairs = value.parse()?,
                "--seconds" => options.seconds = value.parse()?,
                "--requests-per-second" => options.rate = value.parse()?,
                "--engine" => options.engine = value,
                "--hz" => options.hz = value.parse()?,
                _ => return Err(format!("no such option: {name}").into()),
            }
        }
        Ok(options)
    }
}

/// Takes whatever is posted, answers that all is well, and forgets it.
fn take_traces() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A connection that breaks off is the example's end.
            thread::spawn(move || take_posts(&stream));
        }
    });
    Ok(address)
}

fn take_posts(mut stream: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut bytes = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(length) = line.strip_prefix("content-length:") {
                bytes = length.trim().parse().map_err(io::Error::other)?;
            }
        }
        io::copy(&mut reader.by_ref().take(bytes), &mut io::sink())?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.out);
    }
}

/// Builds the example as people would, into the target directory that this program is in.
fn build_example() -> Result<PathBuf> {
    let built = Command::new(env!("CARGO")).args(["build", "--release", "--example", "checkout"]).status()?;
    if !built.success() {
        return Err("the example does not build".into());
    }
    let this = env::current_exe()?;
    let release = this.parent().and_then(Path::parent).ok_or("this program is not in a target directory")?;
    Ok(release.join("examples/checkout"))
}

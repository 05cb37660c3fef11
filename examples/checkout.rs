//! A shop's checkout service under load, profiled by span.
//!
//! `cargo run --release --example checkout` starts the service, loads it over HTTP from the same
//! process for ten seconds, and shows where the requests spent their CPU. Everything that a span does
//! itself is in a function named after it (`work_price` for `price`), so the stacks tell whether
//! the labels are right.
//!
//! Options: `--seconds N` (10), `--engine auto|perf|timer|off`, `--hz N` (100), `--out DIR` (profiles),
//! `--requests-per-second N` (as fast as it goes). Profiles are pushed as well when
//! `PYROSCOPE_SERVER_ADDRESS` is set (or, by OTLP, `OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT` with the
//! feature `otlp`), and traces when `OTEL_EXPORTER_OTLP_ENDPOINT` is: then it says where to look.

mod load;
mod online;
mod options;

use std::error::Error;
use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::RawQuery;
use axum::{Router, routing::get};
use pollscope::{Engine, File, Flamegraph, Profiler, Summary, export};
use tokio::net::TcpListener;
use tracing::{Instrument, Span, instrument};
use tracing_subscriber::prelude::*;

use options::Options;

const SERVICE: &str = "checkout";

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let report = Arc::new(Mutex::new((Summary::new(), Flamegraph::new())));
    let mut builder = Profiler::builder(SERVICE)
        .engine(options.engine)
        .hertz(options.hz)
        .every_span()
        .export(File::new(&options.out))
        .export(export::each({
            let report = report.clone();
            move |profile| {
                let (summary, flamegraph) = &mut *report.lock().expect("no panic while it was held");
                summary.add(profile);
                flamegraph.add(profile);
            }
        }));
    if let Some(otlp) = online::otlp_profiles()? {
        builder = builder.export(otlp);
    }
    let profiler = builder.start()?;
    let traces = online::Traces::from_env(SERVICE)?;
    let otel = traces.as_ref().map(|t| tracing_opentelemetry::layer().with_tracer(t.tracer()));
    tracing_subscriber::registry().with(profiler.layer()).with(otel).init();

    let requests = serve_under_load(&options)?;

    let stats = profiler.stop();
    let (summary, flamegraph) = &*report.lock().expect("no panic while it was held");
    println!("{summary}\n{stats}\n{requests} requests in {} s", options.seconds);
    if options.engine != Engine::Off {
        let svg = format!("{}/flamegraph.svg", options.out);
        flamegraph.write_svg("checkout: CPU by span", std::fs::File::create(&svg)?)?;
        println!("flame graph: {svg}\nprofiles:    {}/*.pb.gz (go tool pprof understands them)", options.out);
    }
    if let Some(traces) = traces {
        traces.finish()?;
    }
    Ok(())
}

// The service: each span and its work.

#[instrument(skip_all)]
async fn checkout(RawQuery(cart): RawQuery) -> String {
    let cart = work_checkout(cart.unwrap_or_default());
    let items = parse(&cart).await;
    let audit = tokio::spawn(audit(items.clone()).in_current_span());
    let total = price(&items).await;
    reserve().await;
    let sign = Span::current();
    let signature = tokio::task::spawn_blocking(move || sign.in_scope(|| sign_off(total)));
    let (audited, signature) = tokio::join!(audit, signature);
    render(&items, total, audited.unwrap_or_default() ^ signature.unwrap_or_default()).await
}

#[instrument(skip_all)]
async fn parse(cart: &str) -> Vec<u64> {
    work_parse(cart)
}

#[instrument(skip_all)]
async fn price(items: &[u64]) -> u64 {
    let mut total = 0;
    for part in items.chunks(16) {
        total += work_price(part);
        // The rest of the work may be polled by another worker.
        tokio::task::yield_now().await;
    }
    total
}

#[instrument(skip_all)]
async fn reserve() {
    tokio::time::sleep(Duration::from_millis(1)).await;
    work_reserve();
}

#[instrument(skip_all)]
async fn audit(items: Vec<u64>) -> u64 {
    work_audit(&items)
}

#[instrument(name = "sign", skip_all)]
fn sign_off(total: u64) -> u64 {
    work_sign(total)
}

#[instrument(skip_all)]
async fn render(items: &[u64], total: u64, signature: u64) -> String {
    work_render(items, total, signature)
}

#[inline(never)]
fn work_checkout(cart: String) -> String {
    (0..40).fold(cart, |cart, _| black_box(cart.to_ascii_lowercase()))
}

#[inline(never)]
fn work_parse(cart: &str) -> Vec<u64> {
    let numbers = || cart.split('&').filter_map(|item| item.split_once('=')?.1.parse::<u64>().ok());
    (0..30).for_each(|_| drop(black_box(numbers().collect::<Vec<_>>())));
    numbers().collect()
}

#[inline(never)]
fn work_price(items: &[u64]) -> u64 {
    let discounted = |price: u64| (0..1200).fold(price as f64, |p, _| black_box(p * 0.999_99)) as u64;
    items.iter().map(|&item| discounted(item)).sum()
}

#[inline(never)]
fn work_reserve() {
    let mut stock = (0..5000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect::<Vec<_>>();
    stock.sort_unstable();
    black_box(stock);
}

#[inline(never)]
fn work_audit(items: &[u64]) -> u64 {
    let mix = |sum: u64, item: &u64| (sum ^ item).wrapping_mul(0x0100_0000_01b3).rotate_left(13);
    (0..2000).fold(0, |sum, _| black_box(items.iter().fold(sum, mix)))
}

#[inline(never)]
fn work_sign(total: u64) -> u64 {
    (0..150_000).fold(total, |sum, n| black_box(sum.rotate_left(5) ^ n))
}

#[inline(never)]
fn work_render(items: &[u64], total: u64, signature: u64) -> String {
    let row = |item: &u64| format!("<tr><td>{item}</td><td>{:.2}</td></tr>", *item as f64 / 100.0);
    // Its size is known after the first time, or so one might think.
    let sizes = (0..8).map(|_| black_box(items.iter().map(row).collect::<String>()).len());
    let (rows, longest) = (items.iter().map(row).collect::<String>(), sizes.max().unwrap_or_default());
    format!("<table>{rows}</table><b>{total}</b><i>{signature:x}</i><p>{longest}</p>")
}

// Around it.

fn serve_under_load(options: &Options) -> Result<u64> {
    let workers = std::thread::available_parallelism()?.get().max(2);
    let service = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let listener = service.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    service.spawn(async { axum::serve(listener, Router::new().route("/checkout", get(checkout))).await });
    load::run(address, Duration::from_secs(options.seconds), options.requests_per_second)
}

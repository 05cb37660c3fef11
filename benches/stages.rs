//! What happens to 16,000 samples after their signals: `cargo bench --bench stages`.
//!
//! Each stage alone, on as many different stacks of 50 frames as one profile may hold: from the ring to
//! the window's table, to names, to a pprof. The stages are no part of the crate's interface, so
//! their sources are compiled into this program.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_imports,
    reason = "sources that the library uses whole"
)]

#[path = "../src/aggregate.rs"]
mod aggregate;
#[path = "../src/export"]
mod export {
    // For the tests beside the sources, which cargo has compiled in a bench without a harness too.
    pub(crate) mod sample;
}
#[path = "../src/locate/mod.rs"]
mod locate;
#[path = "../src/module.rs"]
mod module;
#[path = "../src/modules.rs"]
mod modules;
#[path = "../src/patience.rs"]
mod patience;
#[path = "../src/pprof/mod.rs"]
mod pprof;
#[path = "../src/profile.rs"]
mod profile;
#[path = "../src/regs.rs"]
mod regs;
#[path = "../src/ring.rs"]
mod ring;
#[path = "../src/sample.rs"]
mod sample;
#[path = "../src/span"]
mod span {
    pub(crate) mod path;
    pub(crate) mod record;
}
#[path = "../src/unwind.rs"]
mod unwind;

use divan::Bencher;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aggregate::{Aggregate, Generation, Grain};
use locate::Locations;
use module::Module;
use profile::{Profile, ProfileKind, Sample, SpanLabels, ValueType};
use ring::Ring;
use sample::{Context, Head, Lists};

const SAMPLES: u64 = 16_000;
const FRAMES: u64 = 50;
/// Different addresses among all stacks: what a large service comes to in a window.
const ADDRESSES: u64 = 20_000;

const HEAD: Head = Head { count: 1, weight: 10_000_000, context: Context::Outside, complete: true, tid: 1 };

fn main() {
    divan::main();
}

fn modules() -> Vec<Arc<Module>> {
    let mut modules = modules::Modules::default();
    modules.refresh();
    modules.list().to_vec()
}

/// Stacks of addresses in this program.
fn stacks(program: &Module) -> Vec<Vec<u64>> {
    let step = (program.text.end - program.text.start) / ADDRESSES;
    let address = |n: u64| program.text.start + n % ADDRESSES * step;
    (0..SAMPLES).map(|n| (0..FRAMES).map(|frame| address(n * 7 + frame * 131)).collect()).collect()
}

fn aggregated() -> Generation {
    let modules = modules();
    let mut aggregate = Aggregate::new(Grain { own_ids: false });
    for stack in stacks(&modules[0]) {
        aggregate.add(&HEAD, &Lists { ancestors: &[], kernel: &[], user: &stack });
    }
    aggregate.take(&modules).0.remove(0)
}

/// One sample into the ring.
#[divan::bench(sample_count = 100, sample_size = 500)]
fn ring_push(bencher: Bencher<'_, '_>) {
    let ring = Ring::new(1 << 16);
    let stack = [1; FRAMES as usize];
    let words = HEAD.encode(0, 0, stack.len());
    let mut message = Vec::new();
    bencher
        .with_inputs(|| while ring.pop(&mut message) {})
        .bench_local_values(|()| ring.push([&words, &[], &[], &stack], 1, 1));
}

/// All samples into the window's table.
#[divan::bench]
fn aggregate_16_000(bencher: Bencher<'_, '_>) {
    let stacks = stacks(&modules()[0]);
    bencher.with_inputs(|| Aggregate::new(Grain { own_ids: false })).bench_local_refs(|aggregate| {
        for stack in &stacks {
            aggregate.add(&HEAD, &Lists { ancestors: &[], kernel: &[], user: stack });
        }
    });
}

/// Names for all stacks of the first window.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn symbolize_16_000_cold(bencher: Bencher<'_, '_>) {
    let generation = aggregated();
    bencher.with_inputs(|| Locations::new(false)).bench_local_refs(|locations| named(locations, &generation));
}

/// The same again, as of a later window.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn symbolize_16_000_cached(bencher: Bencher<'_, '_>) {
    let (mut locations, generation) = (Locations::new(false), aggregated());
    named(&mut locations, &generation);
    bencher.bench_local(|| named(&mut locations, &generation));
}

/// The profile as a pprof.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn encode_16_000(bencher: Bencher<'_, '_>) {
    let profile = named(&mut Locations::new(false), &aggregated());
    bencher.bench_local(|| pprof::encode(&profile));
}

fn named(locations: &mut Locations, generation: &Generation) -> Profile {
    let path: Arc<[Arc<str>]> = Arc::from(["checkout".into(), "price".into()]);
    let span = Arc::new(SpanLabels {
        path: path.clone(),
        name: "price".into(),
        span_id: Some(1),
        trace_id: Some(1),
        fields: Arc::from([]),
    });
    locations.begin();
    locations.resolve(generation, None);
    let sample = |entry: &aggregate::Entry| Sample {
        stack: locations.stack(&entry.stack, true, &path),
        count: 1,
        weight: 10_000_000,
        span: Some(span.clone()),
    };
    let samples = generation.entries.iter().map(sample).collect();
    let (locations, mappings) = locations.take();
    Profile {
        service_name: "bench".into(),
        kind: ProfileKind::ProcessCpu,
        start: SystemTime::now(),
        duration: Duration::from_secs(10),
        period: 10_000_000,
        weight_type: ValueType::CPU,
        samples,
        locations,
        mappings,
        spans: Vec::new(),
    }
}

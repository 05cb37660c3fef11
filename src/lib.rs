//! A CPU profiler for tokio programs that knows which request it is looking at.
#![cfg_attr(docsrs, feature(doc_cfg))]

// What the user chooses and holds.
mod builder;
mod environment;
mod profiler;
#[cfg_attr(not(sampling), path = "inert.rs")]
mod running;
mod settings;

// Which spans a thread is in.
#[cfg(sampling)]
mod context;
#[cfg(sampling)]
mod follow;
mod layer;
#[cfg(all(sampling, feature = "otel"))]
mod otel;
#[cfg(sampling)]
mod span;
#[cfg(sampling)]
mod thread;

// From a signal to the ring.
#[cfg(sampling)]
mod handler;
#[cfg(sampling)]
mod module;
#[cfg(sampling)]
mod modules;
#[cfg(sampling)]
mod regs;
#[cfg(sampling)]
mod ring;
#[cfg(sampling)]
mod sample;
#[cfg(sampling)]
mod sampler;
#[cfg(sampling)]
mod unwind;

// From the ring to a window, and to names.
#[cfg(sampling)]
mod aggregate;
#[cfg(sampling)]
mod assemble;
#[cfg(sampling)]
mod clock;
#[cfg(sampling)]
mod collector;
#[cfg(sampling)]
mod courier;
#[cfg(sampling)]
mod locate;

// Out of the process.
mod error;
pub mod export;
mod flamegraph;
mod pprof;
mod profile;
#[cfg(any(sampling, feature = "pyroscope", feature = "otlp"))]
mod report;
mod stats;
mod summary;

pub use builder::Builder;
pub use environment::Environment;
pub use error::{Error, ErrorKind};
pub use export::File;
#[cfg(feature = "otlp")]
pub use export::Otlp;
#[cfg(feature = "pyroscope")]
pub use export::Pyroscope;
pub use flamegraph::Flamegraph;
pub use layer::SpanLayer;
pub use profile::{Line, Location, Mapping, Profile, ProfileKind, Sample, SpanLabels, SpanUsage, ValueType};
pub use profiler::Profiler;
pub use settings::{Engine, Event, Signal, SpanScope};
pub use stats::{ExporterStats, Stats};
pub use summary::Summary;

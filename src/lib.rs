//! A CPU profiler for tokio programs that knows which request it is looking at.
//!
//! Add one `tracing-subscriber` layer and keep your `#[instrument]` spans: every CPU sample carries
//! the span that was being polled, wherever its task has moved. Profiles go to Grafana Pyroscope, by
//! OTLP, or into files that `go tool pprof` reads; the link from a trace to its flame graph goes onto
//! the OpenTelemetry span.
//!
//! ```no_run
//! use tracing_subscriber::prelude::*;
//!
//! # fn main() -> Result<(), pollscope::Error> {
//! let profiler = pollscope::Profiler::builder("checkout")     // service.name
//!     .export(pollscope::File::new("profiles"))               // or Pyroscope::new("http://localhost:4040")
//!     .start()?;
//! tracing_subscriber::registry()
//!     .with(profiler.layer())                                 // before an OpenTelemetry layer
//!     .init();
//! // … the program; when `profiler` is dropped, the last profile is delivered.
//! # Ok(())
//! # }
//! ```
//!
//! No frame pointers, no `tokio_unstable`, no wrapped `spawn`, no special `main`, no privileges. It
//! works on Linux, on x86_64 and aarch64; elsewhere it compiles, starts, and says that nothing is
//! sampled ([`Stats::reason`]).
//!
//! # What to read next
//!
//! [`Builder`] has everything that can be chosen, and the environment variables that say the same.
//! [`Stats`] tells what the profiler did and what it could not do. [`export::Export`] is how profiles
//! leave the process; [`Profile`] is what an exporter gets.
//!
//! # What it promises
//!
//! A sample is right, or it says what it is not: a stack that does not reach its thread's entry has
//! an `[incomplete stack]` frame, samples that found no room are `[lost samples]`, and CPU time that
//! the kernel's clock knows of and no sample does is `[unsampled]`. All of them are counted.
//!
//! The signal handler allocates nothing, takes no lock and keeps `errno`. The application's threads
//! never wait for samples to be named or sent. One that enters its first span, or makes a kind of span
//! or label that is new, takes a lock that others hold for microseconds; it gives up after a tenth of a
//! second, and what it then cannot label is counted or unlabelled. What the kernel refuses is said once, on stderr, and something lesser
//! is done.
//!
//! # Features
//!
//! `pyroscope` (default): the push to Pyroscope. `otel` (default): the link with the spans of
//! `tracing-opentelemetry` 0.34. `otlp`: profiles by OTLP. Without any there are files, flame graphs
//! and summaries.
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
mod patience;
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

//! A CPU profiler for tokio programs that knows which request it is looking at.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;
#[cfg(feature = "pyroscope")]
mod pprof;
mod profile;
#[cfg(any(feature = "pyroscope", feature = "otlp"))]
mod report;

pub mod export;

pub use error::{Error, ErrorKind};
#[cfg(feature = "otlp")]
pub use export::Otlp;
#[cfg(feature = "pyroscope")]
pub use export::Pyroscope;
pub use profile::{Line, Location, Mapping, Profile, ProfileKind, Sample, SpanLabels, SpanUsage, ValueType};

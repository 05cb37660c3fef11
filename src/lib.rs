//! A CPU profiler for tokio programs that knows which request it is looking at.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;
mod profile;

pub mod export;

pub use error::{Error, ErrorKind};
pub use profile::{Line, Location, Mapping, Profile, ProfileKind, Sample, SpanLabels, SpanUsage, ValueType};

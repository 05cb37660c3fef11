//! One window's profile, as every exporter gets it.
//!
//! A [`Profile`] is plain data with names in it: no address needs resolving any more and no id
//! needs looking up. Samples with the same stack and the same labels are already merged.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The outermost frame of a stack that does not reach its thread's entry.
pub(crate) const INCOMPLETE: &str = "[incomplete stack]";
/// Stands for samples that found the ring full.
pub(crate) const LOST: &str = "[lost samples]";
/// Stands for CPU time that the clocks know of and no sample does.
pub(crate) const UNSAMPLED: &str = "[unsampled]";
/// Stands for samples whose stacks had no room in the window's table.
pub(crate) const CROWDED: &str = "[too many stacks]";

/// Which profile type this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProfileKind {
    /// Every sample once, labelled with its span: Pyroscope's `process_cpu`.
    ProcessCpu,
    /// Every sample once for each span open at that moment: Pyroscope's `span`.
    EverySpan,
}

/// What a number counts, and in which unit, in pprof's words (`cpu`, `nanoseconds`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ValueType {
    /// What is counted, such as `cpu`, `samples`, `cycles`.
    pub kind: &'static str,
    /// The unit, such as `nanoseconds` or `count`.
    pub unit: &'static str,
}

impl ValueType {
    /// CPU time in nanoseconds.
    pub const CPU: Self = Self { kind: "cpu", unit: "nanoseconds" };
    /// A number of samples.
    pub const SAMPLES: Self = Self { kind: "samples", unit: "count" };
}

/// The CPU time of one window of time, by stack and by span.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The service this process is part of (OpenTelemetry's `service.name`).
    pub service_name: Arc<str>,
    /// Which profile type this is.
    pub kind: ProfileKind,
    /// The window's start.
    pub start: SystemTime,
    /// The window's length.
    pub duration: Duration,
    /// How much of `weight_type` lies between two samples of a thread, in its unit; 1 when that varies,
    /// as with everything but CPU time.
    pub period: u64,
    /// What [`Sample::weight`] counts.
    pub weight_type: ValueType,
    /// The samples, merged by stack and labels.
    pub samples: Vec<Sample>,
    /// The locations that the samples' stacks point into.
    pub locations: Vec<Location>,
    /// The mapped objects that the locations point into.
    pub mappings: Vec<Mapping>,
    /// What each span path did in this window.
    pub spans: Vec<SpanUsage>,
}

/// Samples that share a stack and labels.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Indices into [`Profile::locations`], leaf first.
    pub stack: Vec<u32>,
    /// How many samples these are. Zero for CPU time that only the clocks know of.
    pub count: u64,
    /// Their weight, in the unit of [`Profile::weight_type`].
    pub weight: u64,
    /// The span they belong to; `None` outside all spans.
    pub span: Option<Arc<SpanLabels>>,
}

/// What a sample says about its span.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpanLabels {
    /// Names of the spans from the trace's root in this process down to the innermost.
    pub path: Arc<[Arc<str>]>,
    /// The name of the span that `span_id` belongs to.
    pub name: Arc<str>,
    /// The OpenTelemetry span id that Grafana will ask for; `None` when the trace is not sampled
    /// or there is no trace.
    pub span_id: Option<u64>,
    /// The OpenTelemetry trace id, under the same conditions.
    pub trace_id: Option<u128>,
    /// The span fields that the user named as labels.
    pub fields: Arc<[(Arc<str>, Arc<str>)]>,
}

/// One place in the code, or a named frame that is not code (`[lost samples]`, `span:price`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// The address in the process; 0 for a frame that is not code.
    pub address: u64,
    /// Index into [`Profile::mappings`].
    pub mapping: Option<u32>,
    /// The functions at this address: innermost inlined function first, the one that really
    /// is called last. Never empty.
    pub lines: Vec<Line>,
}

/// A function, and the line in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// The function's name as a reader wants it.
    pub function: Arc<str>,
    /// The source file, when debug info names it.
    pub file: Option<Arc<str>>,
    /// The line, when debug info names it; else 0.
    pub line: u32,
}

/// A mapped executable or library.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// Where its executable part starts in memory.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
    /// The offset of `start` in the file.
    pub file_offset: u64,
    /// The file.
    pub path: Arc<str>,
    /// The GNU build id in lowercase hex; empty when the file has none.
    pub build_id: Arc<str>,
    /// Whether names were found for this object.
    pub has_functions: bool,
    /// Whether line numbers were found for this object.
    pub has_lines: bool,
}

/// What the spans of one path did in a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanUsage {
    /// Names from the root down.
    pub path: Arc<[Arc<str>]>,
    /// Samples in the span itself, its children excluded.
    pub samples: u64,
    /// Their weight, in the unit of [`Profile::weight_type`].
    pub weight: u64,
    /// How often spans of this path were entered, and so polled if their work is async; a future made
    /// by `instrument` enters its span once more when it is dropped. Counted when a span closes.
    pub polls: u64,
    /// How often spans of this path were entered on another thread than the time before. Counted
    /// when a span closes.
    pub migrations: u64,
    /// How many spans of this path were closed.
    pub closed: u64,
}

impl Profile {
    /// The sum of all weights, in the unit of `weight_type`.
    pub fn total_weight(&self) -> u64 {
        self.samples.iter().map(|s| s.weight).sum()
    }

    /// The function names of a sample's stack, outermost first.
    pub fn frames<'a>(&'a self, sample: &'a Sample) -> impl Iterator<Item = &'a str> {
        sample
            .stack
            .iter()
            .rev()
            .flat_map(|&at| self.locations[at as usize].lines.iter().rev())
            .map(|line| &*line.function)
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.unit)
    }
}

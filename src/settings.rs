//! What the user may choose, with its defaults and its bounds.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
#[cfg(sampling)]
use crate::profile::ValueType;

/// Samples a second of CPU time, of each thread.
pub(crate) const DEFAULT_HERTZ: u32 = 100;
/// The kernel's own bound for perf events is 100,000 (`kernel.perf_event_max_sample_rate`); a tenth
/// of that already costs a quarter of the CPU.
pub(crate) const HERTZ: RangeInclusive<u32> = 1..=10_000;

/// How much time one profile covers.
pub(crate) const DEFAULT_WINDOW: Duration = Duration::from_secs(10);
/// Grafana asks for a span's start ± 30 s and gets the windows that begin in there: with longer ones
/// it would miss some.
pub(crate) const WINDOW: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(15);

/// Frames kept of a stack, leaf first.
pub(crate) const DEFAULT_STACK_DEPTH: usize = 256;
/// Pyroscope takes 1000 frames in all and cuts deeper stacks at the leaf; our own span frames (64 at
/// most) and the kernel's (136) need room among them.
pub(crate) const MAX_STACK_DEPTH: usize = 768;
const _: () = assert!(MAX_STACK_DEPTH + 64 + 136 < 1000);

/// How long stopping may take.
pub(crate) const DEFAULT_STOP_WITHIN: Duration = Duration::from_secs(5);

/// What interrupts the program to take samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Engine {
    /// The engine that accounts for all CPU: perf where the kernel lets it see kernel mode too,
    /// else the timer.
    #[default]
    Auto,
    /// Kernel perf events, a descriptor for each thread. Without the right to see kernel mode, the
    /// time in system calls is missing from the samples and shown as unsampled.
    Perf,
    /// A POSIX timer on each thread's CPU clock. Needs no privilege. Sees what the scheduler's ticks meet.
    Timer,
    /// Nothing is sampled, spans are not followed, and no thread is started.
    Off,
}

impl FromStr for Engine {
    type Err = Error;

    /// Reads `auto`, `perf`, `timer` or `off`.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(Self::Auto),
            "perf" => Ok(Self::Perf),
            "timer" => Ok(Self::Timer),
            "off" => Ok(Self::Off),
            _ => Err(Error::new(ErrorKind::Config, format!("no engine is called {text:?}: {ENGINES} are"))),
        }
    }
}

/// The engines' names.
pub(crate) const ENGINES: &str = "auto, perf, timer, off";

/// What is sampled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// CPU time. The only one that the timer engine knows.
    #[default]
    CpuClock,
    /// CPU cycles (a hardware counter; many virtual machines have none).
    Cycles,
    /// Retired instructions (a hardware counter).
    Instructions,
    /// Misses of the last-level cache (a hardware counter).
    CacheMisses,
    /// Page faults.
    PageFaults,
    /// Context switches.
    ContextSwitches,
}

impl Event {
    /// Whether samples are a fixed amount of it apart. For the others the kernel adapts the amount
    /// to the wanted rate.
    #[cfg(sampling)]
    pub(crate) fn has_fixed_period(self) -> bool {
        self == Self::CpuClock
    }

    #[cfg(sampling)]
    pub(crate) fn weight_type(self) -> ValueType {
        let count = |kind| ValueType { kind, unit: "count" };
        match self {
            Self::CpuClock => ValueType::CPU,
            Self::Cycles => count("cycles"),
            Self::Instructions => count("instructions"),
            Self::CacheMisses => count("cache_misses"),
            Self::PageFaults => count("page_faults"),
            Self::ContextSwitches => count("context_switches"),
        }
    }
}

/// Which signal interrupts threads to take a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Signal {
    /// SIGURG, which does nothing to a program that has no handler for it.
    ///
    /// That matters to a program that replaces itself by `exec`: a perf event's signal that is under
    /// way then reaches the new program, which has no handler yet, and any of the other signals here
    /// would end it. Go's runtime interrupts its threads by this signal, for the same reason.
    Urg,
    /// SIGPROF, which other profilers use.
    Prof,
    /// SIGRTMIN plus this number, for programs in which something else handles the other two.
    Realtime(u8),
}

/// Which span's id a sample of `process_cpu` carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SpanScope {
    /// The first span of the trace in this process: what all of Grafana's span profiles do. Its flame
    /// graph includes its descendants'.
    #[default]
    LocalRoot,
    /// The innermost span: a parent's flame graph then lacks its children.
    Innermost,
}

/// Everything that the user chose, exporters aside.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) service_name: String,
    pub(crate) enabled: bool,
    pub(crate) engine: Engine,
    pub(crate) event: Event,
    pub(crate) signal: Signal,
    pub(crate) hertz: u32,
    pub(crate) window: Duration,
    pub(crate) stack_depth: usize,
    pub(crate) scope: SpanScope,
    pub(crate) every_span: bool,
    pub(crate) trace_id_label: bool,
    pub(crate) span_name_label: bool,
    pub(crate) label_fields: Vec<String>,
    pub(crate) raw_stacks: bool,
    pub(crate) stop_within: Duration,
    /// Something says that this program makes OpenTelemetry traces.
    pub(crate) traces_expected: bool,
}

impl Settings {
    pub(crate) fn new(service_name: String) -> Self {
        Self {
            service_name,
            enabled: true,
            engine: Engine::default(),
            event: Event::default(),
            signal: Signal::Urg,
            hertz: DEFAULT_HERTZ,
            window: DEFAULT_WINDOW,
            stack_depth: DEFAULT_STACK_DEPTH,
            scope: SpanScope::default(),
            every_span: false,
            trace_id_label: true,
            span_name_label: true,
            label_fields: Vec::new(),
            raw_stacks: false,
            stop_within: DEFAULT_STOP_WITHIN,
            traces_expected: false,
        }
    }

    /// Whether anything is to be done at all.
    pub(crate) fn is_on(&self) -> bool {
        self.enabled && self.engine != Engine::Off
    }

    /// Says what is out of bounds, and what the bounds are.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |what: String| Err(Error::new(ErrorKind::Config, what));
        if self.service_name.trim().is_empty() {
            return wrong("the service has no name: profiles are found by it".into());
        }
        check_hertz(self.hertz)?;
        if !WINDOW.contains(&self.window) {
            return wrong(format!("a window of {:?} is out of bounds: 100 ms to 15 s go", self.window));
        }
        if !(1..=MAX_STACK_DEPTH).contains(&self.stack_depth) {
            return wrong(format!(
                "a stack depth of {} is out of bounds: 1 to {MAX_STACK_DEPTH} go",
                self.stack_depth
            ));
        }
        for field in &self.label_fields {
            let label = label_of_field(field);
            if label.starts_with("__") || RESERVED_LABELS.contains(&&*label) {
                return wrong(format!(
                    "the span field {field:?} cannot be a label: {label:?} is kept for the profiler's own"
                ));
            }
            if label.is_empty() || label.starts_with(|first: char| first.is_ascii_digit()) {
                return wrong(format!(
                    "the span field {field:?} cannot be a label: labels begin with a letter or _"
                ));
            }
        }
        Ok(())
    }
}

/// Labels that mean something else already.
const RESERVED_LABELS: [&str; 6] =
    ["span_id", "trace_id", "span_name", "profile_id", "service_name", "pyroscope_spy"];

/// The name of the label that a span's field becomes: its dots become underscores, because a label
/// with a dot is seen by few clients.
pub(crate) fn label_of_field(field: &str) -> Arc<str> {
    field.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect::<String>().into()
}

pub(crate) fn check_hertz(hertz: u32) -> Result<(), Error> {
    match HERTZ.contains(&hertz) {
        true => Ok(()),
        false => {
            let (least, most) = (HERTZ.start(), HERTZ.end());
            let text = format!("a rate of {hertz} Hz is out of bounds: {least} to {most} go");
            Err(Error::new(ErrorKind::Config, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_bounds_is_named_with_its_bounds() {
        let refused = |change: fn(&mut Settings)| {
            let mut settings = Settings::new("checkout".into());
            assert!(settings.check().is_ok());
            change(&mut settings);
            settings.check().expect_err("out of bounds").to_string()
        };
        for (error, says) in [
            (refused(|s| s.service_name = " ".into()), "the service has no name"),
            (refused(|s| s.hertz = 0), "a rate of 0 Hz is out of bounds: 1 to 10000 go"),
            (
                refused(|s| s.window = Duration::from_secs(16)),
                "a window of 16s is out of bounds: 100 ms to 15 s go",
            ),
            (refused(|s| s.stack_depth = 769), "a stack depth of 769 is out of bounds: 1 to 768 go"),
            (
                refused(|s| s.label_fields = vec!["span.id".into()]),
                "the span field \"span.id\" cannot be a label",
            ),
            (
                refused(|s| s.label_fields = vec!["2xx".into()]),
                "the span field \"2xx\" cannot be a label: labels begin with a letter or _",
            ),
        ] {
            assert!(error.starts_with(says), "{error}");
        }
    }
}

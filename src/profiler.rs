//! The profiler as its user holds it.

use tracing::Subscriber;
use tracing_subscriber::registry::LookupSpan;

use crate::builder::Builder;
use crate::error::Error;
use crate::export::Export;
use crate::layer::SpanLayer;
use crate::running::Running;
use crate::settings::{self, Settings};
use crate::stats::Stats;

/// A running profiler.
///
/// It samples every thread of the process until it is stopped or dropped, which delivers the last
/// profile: keep it until the end of `main`. A process that ends otherwise, by `process::exit`, by
/// `exec` or a signal, loses the window under way.
///
/// ```no_run
/// # fn main() -> Result<(), pollscope::Error> {
/// use tracing_subscriber::prelude::*;
///
/// let profiler = pollscope::Profiler::builder("checkout")
///     .export(pollscope::File::new("profiles"))
///     .start()?;
/// tracing_subscriber::registry().with(profiler.layer()).init();
/// # Ok(())
/// # }
/// ```
#[must_use = "sampling stops when the profiler is dropped"]
pub struct Profiler {
    /// `None` when nothing is sampled, or no more.
    running: Option<Running>,
    /// What to tell when nothing is sampled.
    idle: Stats,
}

impl Profiler {
    /// Begins to choose. The name is what OpenTelemetry calls `service.name`: Grafana finds profiles
    /// by it, so it should be the same as in the traces.
    pub fn builder(service_name: impl Into<String>) -> Builder {
        Builder::new(service_name.into())
    }

    #[cfg(sampling)]
    pub(crate) fn start(settings: Settings, exporters: Vec<Box<dyn Export>>) -> Result<Self, Error> {
        if !settings.is_on() {
            return Ok(Self::idle("profiling is switched off"));
        }
        Ok(Self { running: Some(Running::start(&settings, exporters)?), idle: Stats::default() })
    }

    #[cfg(not(sampling))]
    pub(crate) fn start(settings: Settings, _exporters: Vec<Box<dyn Export>>) -> Result<Self, Error> {
        let reason = if settings.is_on() {
            "only Linux on x86_64 and aarch64 can be sampled"
        } else {
            "profiling is switched off"
        };
        Ok(Self::idle(reason))
    }

    fn idle(reason: &str) -> Self {
        Self { running: None, idle: Stats::of_nothing(reason) }
    }

    /// A layer that follows the spans of one subscriber; make one for each, of any number.
    ///
    /// Add it before the OpenTelemetry layer. When nothing is sampled it asks for no span and costs
    /// nothing.
    pub fn layer<S>(&self) -> SpanLayer<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        SpanLayer::new(self.running.as_ref().map(Running::follower))
    }

    /// Changes the rate: samples a second of CPU time, of each thread, from 1 to 10,000.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a rate out of bounds.
    pub fn set_hertz(&self, hertz: u32) -> Result<(), Error> {
        settings::check_hertz(hertz)?;
        if let Some(running) = &self.running {
            running.set_hertz(hertz);
        }
        Ok(())
    }

    /// Stops taking samples, until [`resume`](Self::resume). Spans are still followed.
    pub fn pause(&self) {
        if let Some(running) = &self.running {
            running.set_running(false);
        }
    }

    /// Takes samples again after [`pause`](Self::pause).
    pub fn resume(&self) {
        if let Some(running) = &self.running {
            running.set_running(true);
        }
    }

    /// What was done, and what could not be done, up to now.
    pub fn stats(&self) -> Stats {
        self.running.as_ref().map_or_else(|| self.idle.clone(), Running::stats)
    }

    /// Stops, delivers the last profile, and tells what was done. Waits for as long as
    /// [`Builder::stop_within`] says at most, and a little for the profiler's own work.
    pub fn stop(mut self) -> Stats {
        self.running.take().map_or_else(|| self.idle.clone(), Running::stop)
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

impl std::fmt::Debug for Profiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stats = self.stats();
        f.debug_struct("Profiler").field("engine", &stats.engine).field("reason", &stats.reason).finish()
    }
}

/// A program may keep it where all its threads see it.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Profiler>();
};

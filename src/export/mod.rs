//! Where profiles go.
//!
//! An exporter gets each window's profile on the profiler's export thread, one at a time, and may
//! take as long as it needs: windows wait in a bounded queue meanwhile, and the application's
//! threads never do.

use std::sync::Arc;
use std::time::Instant;

use crate::environment::Environment;
use crate::error::Error;
use crate::profile::Profile;

#[cfg(any(feature = "pyroscope", feature = "otlp"))]
mod delivery;
mod each;
mod file;
#[cfg(feature = "otlp")]
mod otlp;
#[cfg(feature = "pyroscope")]
mod pyroscope;
#[cfg(test)]
pub(crate) mod sample;
mod stats;

pub use each::each;
pub use file::File;
#[cfg(feature = "otlp")]
pub use otlp::Otlp;
#[cfg(feature = "pyroscope")]
pub use pyroscope::Pyroscope;
pub use stats::ExportStats;

/// Something that takes profiles out of the process.
pub trait Export: Send {
    /// A short name for logs and statistics, such as `file`.
    fn name(&self) -> &'static str;

    /// Takes over what the environment says; called once, before [`check`](Self::check).
    fn configure(&mut self, environment: &Environment) -> Result<(), Error> {
        let _ = environment;
        Ok(())
    }

    /// Says whether the settings make sense; called once, when the profiler starts, which fails with
    /// the error. It does not connect to anything.
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Says whether these labels, made of span fields, can be beside its own; called once, after
    /// [`check`](Self::check).
    fn check_fields(&self, labels: &[Arc<str>]) -> Result<(), Error> {
        let _ = labels;
        Ok(())
    }

    /// Takes one window's profile. An error is counted and said once; the next window comes all
    /// the same. Delivering later what could not be delivered now is no error.
    fn export(&mut self, profile: &Profile) -> Result<(), Error>;

    /// Does the held back work that is due at `now`, and returns when it wants to be called again:
    /// `None` when nothing waits, `now` or earlier when there is more to do at once.
    ///
    /// The time comes in as a parameter, so a test can let an hour pass.
    fn poll(&mut self, now: Instant) -> Option<Instant> {
        let _ = now;
        None
    }

    /// Delivers whatever is still held back; called once, when the profiler stops. The process
    /// waits for it until `deadline` at most.
    fn finish(&mut self, deadline: Instant) -> Result<(), Error> {
        let _ = deadline;
        Ok(())
    }

    /// What became of the profiles so far.
    fn stats(&self) -> ExportStats {
        ExportStats::default()
    }
}

//! Where profiles go.
//!
//! An exporter gets each window's profile on the profiler's export thread, one at a time, and may
//! take as long as it needs: windows wait in a bounded queue meanwhile, and the application's
//! threads never do.

use std::time::Instant;

use crate::error::Error;
use crate::profile::Profile;

/// Something that takes profiles out of the process.
pub trait Export: Send {
    /// A short name for logs and statistics, such as `file`.
    fn name(&self) -> &'static str;

    /// Takes one window's profile. An error is counted and said once; the next window comes all
    /// the same.
    fn export(&mut self, profile: &Profile) -> Result<(), Error>;

    /// Delivers whatever is still held back; called once, when the profiler stops. The process
    /// waits for it until `deadline` at most.
    fn finish(&mut self, deadline: Instant) -> Result<(), Error> {
        let _ = deadline;
        Ok(())
    }
}

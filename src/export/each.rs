//! Profiles for a closure: a test that looks at them, a program with a use of its own.

use std::fmt;

use super::Export;
use crate::error::Error;
use crate::profile::Profile;

/// Calls `take` with each profile, on the profiler's export thread.
///
/// ```
/// # use std::sync::mpsc;
/// let (to, profiles) = mpsc::channel();
/// let exporter = pollscope::export::each(move |profile| {
///     let _ = to.send(profile.clone());
/// });
/// # let _: (Box<dyn pollscope::export::Export>, mpsc::Receiver<pollscope::Profile>) =
/// #     (Box::new(exporter), profiles);
/// ```
pub fn each(take: impl FnMut(&Profile) + Send + 'static) -> impl Export + fmt::Debug {
    Each { take }
}

struct Each<F> {
    take: F,
}

impl<F: FnMut(&Profile) + Send> Export for Each<F> {
    fn name(&self) -> &'static str {
        "each"
    }

    fn export(&mut self, profile: &Profile) -> Result<(), Error> {
        (self.take)(profile);
        Ok(())
    }
}

impl<F> fmt::Debug for Each<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Each")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::UNIX_EPOCH;

    use super::super::{Export, sample};

    #[test]
    fn each_profile_is_seen_once() {
        let (to, seen) = mpsc::channel();
        let mut exporter = super::each(move |profile| to.send(profile.total_weight()).unwrap());
        exporter.export(&sample::profile(UNIX_EPOCH)).unwrap();
        drop(exporter);
        assert_eq!(seen.iter().collect::<Vec<_>>(), [120_000_000]);
    }
}

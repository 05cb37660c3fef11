//! CPU clocks, and how much of it the samples account for.

/// CPU time of the whole process, user and kernel, in nanoseconds.
pub(crate) fn process_cpu_ns() -> u64 {
    read_ns(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time of the calling thread, in nanoseconds.
pub(crate) fn thread_cpu_ns() -> u64 {
    read_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Time since some moment in the past, in nanoseconds; never goes back.
pub(crate) fn monotonic_ns() -> u64 {
    read_ns(libc::CLOCK_MONOTONIC)
}

/// How far apart the scheduler's ticks are: the coarse clock goes forward with them.
pub(crate) fn tick_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec; every kernel has this clock.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &mut time) };
    time.tv_nsec as u64
}

/// Async-signal-safe.
fn read_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec, through the vDSO or a system call.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Compares the CPU time that passed with the weight of the samples that were taken.
///
/// A sample stands for a whole period though its thread is somewhere within one, so the two differ
/// by less than a period for each thread at any moment: that much is not yet unsampled.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    last_cpu_ns: Option<u64>,
    total_cpu_ns: u64,
    accounted_ns: u64,
}

impl Ledger {
    /// The clock's reading now, counted from the last reading on.
    pub(crate) fn clock(&mut self, cpu_ns: u64) {
        if let Some(last) = self.last_cpu_ns {
            self.total_cpu_ns += cpu_ns.saturating_sub(last);
        }
        self.last_cpu_ns = Some(cpu_ns);
    }

    /// Sampling pauses: what the clock counts until its next reading is nobody's loss.
    pub(crate) fn pause(&mut self) {
        self.last_cpu_ns = None;
    }

    /// Samples of this weight were taken, or lost and counted.
    pub(crate) fn sampled(&mut self, weight_ns: u64) {
        self.accounted_ns += weight_ns;
    }

    /// What no sample stands for, beyond what `slack_ns` explains; it counts as accounted for then.
    pub(crate) fn take_unsampled(&mut self, slack_ns: u64) -> u64 {
        let missing = self.total_cpu_ns.saturating_sub(self.accounted_ns);
        if missing <= slack_ns {
            return 0;
        }
        self.accounted_ns += missing;
        missing
    }

    pub(crate) fn total_cpu_ns(&self) -> u64 {
        self.total_cpu_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_sample_stands_for_is_told_once() {
        let mut ledger = Ledger::default();
        ledger.clock(1_000);
        ledger.clock(1_100);
        ledger.sampled(70);
        assert_eq!(ledger.take_unsampled(30), 0);
        assert_eq!(ledger.take_unsampled(0), 30);
        assert_eq!(ledger.take_unsampled(0), 0);
        // Samples that come late make up for what was told too early.
        ledger.sampled(10);
        ledger.clock(1_150);
        assert_eq!(ledger.take_unsampled(0), 40);
        assert_eq!(ledger.total_cpu_ns(), 150);
    }

    #[test]
    fn a_pause_is_not_unsampled() {
        let mut ledger = Ledger::default();
        ledger.clock(0);
        ledger.pause();
        ledger.clock(5_000);
        ledger.clock(5_010);
        assert_eq!(ledger.take_unsampled(0), 10);
    }
}

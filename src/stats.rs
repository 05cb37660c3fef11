//! What the profiler knows of itself.

use std::fmt;
use std::time::Duration;

use crate::export::ExportStats;

/// What the profiler did and what it could not do, since it started.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// What takes the samples: `perf`, `perf (user mode)`, `timer`, or `none`.
    pub engine: &'static str,
    /// Why it is that one.
    pub reason: String,
    /// Samples a second of CPU time, of each thread.
    pub hertz: u32,
    /// Threads sampled now by a perf event.
    pub perf_threads: usize,
    /// Threads sampled now by a timer.
    pub timer_threads: usize,
    /// Samples taken, lost ones excluded.
    pub samples: u64,
    /// Samples that found the ring full; they are in the profile as `[lost samples]`.
    pub lost: u64,
    /// Samples outside all spans.
    pub outside_spans: u64,
    /// Samples on threads all of whose spans were closed without being left; they have no span.
    pub unknown_span: u64,
    /// Samples whose stack does not reach the thread's entry; they have an `[incomplete stack]` frame.
    pub incomplete: u64,
    /// CPU time of the process while it was sampled, by the kernel's clock.
    pub cpu: Duration,
    /// The part of it that no sample stands for; it is in the profile as `[unsampled]`.
    pub unsampled: Duration,
    /// Signals that the handler worked on.
    pub signals: u64,
    /// The time it took for all of them.
    pub handler_time: Duration,
    /// Signals that came from somebody else, or too late.
    pub stray_signals: u64,
    /// Enters of spans nested deeper than 64 on a thread; their samples carry the 64th's label.
    pub spans_too_deep: u64,
    /// Spans called `other`, for being beyond the 500 distinct names or 8,192 distinct paths.
    pub names_overflowed: u64,
    /// Labelled field values called `other`, for being beyond the 100 distinct ones of a field.
    pub labels_overflowed: u64,
    /// Spans not followed, because more than a million were open.
    pub spans_unfollowed: u64,
    /// Windows given up because exporting them took too long.
    pub windows_dropped: u64,
    /// What became of the profiles, for each exporter.
    pub exports: Vec<ExporterStats>,
}

/// What became of the profiles that one exporter was given.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ExporterStats {
    /// The exporter's name.
    pub name: &'static str,
    /// Profiles it took.
    pub exported: u64,
    /// Profiles it failed on.
    pub failed: u64,
    /// The last failure.
    pub last_error: Option<String>,
    /// What it counted itself.
    pub delivery: ExportStats,
}

impl Stats {
    /// Of a profiler that samples nothing, and why.
    pub(crate) fn of_nothing(reason: &str) -> Self {
        Self { engine: "none", reason: reason.into(), ..Self::default() }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "engine {} at {} Hz ({}), {} threads",
            self.engine,
            self.hertz,
            self.reason,
            self.perf_threads + self.timer_threads
        )?;
        let mean =
            self.handler_time.checked_div(self.signals.min(u32::MAX.into()) as u32).unwrap_or_default();
        writeln!(
            f,
            "{} samples, {} lost, {} outside spans, {} of unknown span, {} with an incomplete stack",
            self.samples, self.lost, self.outside_spans, self.unknown_span, self.incomplete
        )?;
        write!(
            f,
            "{:.3} s CPU, {:.3} s of it unsampled; {} signals, {:.1} µs each in the handler",
            self.cpu.as_secs_f64(),
            self.unsampled.as_secs_f64(),
            self.signals,
            mean.as_nanos() as f64 / 1e3
        )?;
        for export in &self.exports {
            write!(f, "\n{}: {} profiles", export.name, export.exported)?;
            if let Some(error) = &export.last_error {
                write!(f, ", {} failed: {error}", export.failed)?;
            }
            let delivery = &export.delivery;
            for (count, what) in [
                (delivery.retried, "tried again"),
                (delivery.rejected, "refused"),
                (delivery.unconfirmed, "unconfirmed"),
                (delivery.dropped, "given up"),
                (delivery.queued, "waiting"),
            ] {
                if count > 0 {
                    write!(f, ", {count} {what}")?;
                }
            }
        }
        if self.windows_dropped > 0 {
            write!(f, "\n{} windows given up, as exporting took too long", self.windows_dropped)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_profiles_is_shown_where_it_is_not_the_usual() {
        let delivery = ExportStats { sent: 7, retried: 3, unconfirmed: 1, queued: 4, ..Default::default() };
        let exporter = |name, delivery| ExporterStats { name, exported: 8, delivery, ..Default::default() };
        let stats = Stats {
            exports: vec![exporter("file", ExportStats::default()), exporter("pyroscope", delivery)],
            windows_dropped: 2,
            ..Stats::of_nothing("a test")
        };
        let text = stats.to_string();
        let end: Vec<_> = text.lines().rev().take(3).collect();
        assert_eq!(
            end,
            [
                "2 windows given up, as exporting took too long",
                "pyroscope: 8 profiles, 3 tried again, 1 unconfirmed, 4 waiting",
                "file: 8 profiles",
            ]
        );
    }
}

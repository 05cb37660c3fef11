//! Which engine runs, and why.

use std::fs;
use std::io;

use super::perf::{self, Setting};

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
    /// A POSIX timer on each thread's CPU clock. Needs no privilege.
    Timer,
    /// Nothing is sampled; spans are still counted.
    Off,
}

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
    pub(crate) fn has_fixed_period(self) -> bool {
        self == Self::CpuClock
    }
}

/// The engine that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) engine: Chosen,
    /// Why, for a person.
    pub(crate) reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chosen {
    Perf { kernel: bool },
    Timer,
    Nothing,
}

/// Chooses. `probe` tries an event and says how the kernel answers.
pub(crate) fn choose(
    wanted: Engine,
    event: Event,
    signal: i32,
    probe: impl Fn(Setting) -> io::Result<()>,
) -> Choice {
    let choice = |engine, reason: String| Choice { engine, reason };
    let timer_or_nothing = |reason: String| match event {
        Event::CpuClock => choice(Chosen::Timer, format!("{reason}; using CPU timers")),
        _ => choice(Chosen::Nothing, format!("{reason}; {event:?} needs perf, so nothing is sampled")),
    };
    match wanted {
        Engine::Off => return choice(Chosen::Nothing, "sampling is switched off".into()),
        Engine::Timer if event == Event::CpuClock => {
            return choice(Chosen::Timer, "CPU timers were asked for".into());
        }
        Engine::Timer => return timer_or_nothing("CPU timers measure CPU time only".into()),
        Engine::Auto | Engine::Perf => {}
    }
    let setting = |kernel| Setting { event, kernel, signal };
    let refusal = match probe(setting(true)) {
        Ok(()) => return choice(Chosen::Perf { kernel: true }, "perf samples user and kernel mode".into()),
        Err(error) => explain(&error),
    };
    // What the time in system calls would be missing from is not the whole CPU time.
    if wanted == Engine::Auto && event == Event::CpuClock {
        return timer_or_nothing(refusal);
    }
    match probe(setting(false)) {
        Ok(()) => {
            let reason = format!("{refusal}; perf samples user mode only, time in system calls is unsampled");
            choice(Chosen::Perf { kernel: false }, reason)
        }
        Err(error) => timer_or_nothing(explain(&error)),
    }
}

/// As [`choose`] with the real kernel.
pub(crate) fn choose_here(wanted: Engine, event: Event, signal: i32) -> Choice {
    choose(wanted, event, signal, perf::probe)
}

/// Names the real obstacle behind a refused `perf_event_open`.
pub(crate) fn explain(error: &io::Error) -> String {
    let paranoid = || {
        let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
        level.map_or_else(|_| "unreadable".into(), |level| level.trim().to_owned())
    };
    let (name, why) = match error.raw_os_error() {
        Some(libc::EACCES) => ("EACCES", format!("kernel.perf_event_paranoid is {}", paranoid())),
        Some(libc::EPERM) => (
            "EPERM",
            format!("a seccomp filter or kernel.perf_event_paranoid ({}) forbids it", paranoid()),
        ),
        Some(libc::ENOSYS) => ("ENOSYS", "a seccomp filter hides it, or this kernel has no perf".into()),
        Some(libc::ENOENT) => ("ENOENT", "this machine has no such event".into()),
        Some(libc::EOPNOTSUPP) => ("EOPNOTSUPP", "this machine cannot sample this event".into()),
        Some(libc::EMFILE) => ("EMFILE", "no file descriptors left (ulimit -n)".into()),
        Some(libc::ENFILE) => ("ENFILE", "the system has no file descriptors left".into()),
        _ => return format!("perf_event_open refused: {error}"),
    };
    format!("perf_event_open refused ({name}): {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(user: Result<(), i32>, kernel: Result<(), i32>) -> impl Fn(Setting) -> io::Result<()> {
        move |setting| if setting.kernel { kernel } else { user }.map_err(io::Error::from_raw_os_error)
    }

    fn chosen(wanted: Engine, event: Event, probe: impl Fn(Setting) -> io::Result<()>) -> (Chosen, String) {
        let choice = choose(wanted, event, 27, probe);
        (choice.engine, choice.reason)
    }

    #[test]
    fn auto_takes_the_engine_that_accounts_for_all_cpu() {
        let (engine, _) = chosen(Engine::Auto, Event::CpuClock, kernel(Ok(()), Ok(())));
        assert_eq!(engine, Chosen::Perf { kernel: true });
        let (engine, reason) = chosen(Engine::Auto, Event::CpuClock, kernel(Ok(()), Err(libc::EACCES)));
        assert_eq!(engine, Chosen::Timer);
        assert!(reason.starts_with("perf_event_open refused (EACCES): kernel.perf_event_paranoid is "));
        assert!(reason.ends_with("; using CPU timers"), "{reason}");
    }

    #[test]
    fn perf_without_the_kernel_is_taken_when_asked_for_and_says_what_is_missing() {
        let (engine, reason) = chosen(Engine::Perf, Event::CpuClock, kernel(Ok(()), Err(libc::EACCES)));
        assert_eq!(engine, Chosen::Perf { kernel: false });
        assert!(reason.contains("time in system calls is unsampled"), "{reason}");
    }

    #[test]
    fn a_counter_that_is_not_there_gives_nothing_and_says_why() {
        let absent = || kernel(Err(libc::ENOENT), Err(libc::ENOENT));
        let (engine, reason) = chosen(Engine::Auto, Event::Cycles, absent());
        assert_eq!(engine, Chosen::Nothing);
        assert!(reason.contains("ENOENT") && reason.contains("Cycles needs perf"), "{reason}");
        assert_eq!(chosen(Engine::Perf, Event::CpuClock, absent()).0, Chosen::Timer);
    }
}

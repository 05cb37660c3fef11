//! Which engine runs, and why.

use std::fs;
use std::io;

use super::perf::{self, Setting};
use crate::settings::{Engine, Event};

/// The engine that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) engine: Chosen,
    /// Why, for a person.
    pub(crate) reason: String,
    /// Something better was refused.
    pub(crate) refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chosen {
    Perf { kernel: bool },
    Timer,
    Nothing,
}

impl Chosen {
    /// As [`Stats::engine`](crate::Stats::engine) says it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Perf { kernel: true } => "perf",
            Self::Perf { kernel: false } => "perf (user mode)",
            Self::Timer => "timer",
            Self::Nothing => "none",
        }
    }
}

/// Chooses. `probe` tries an event and says how the kernel answers.
pub(crate) fn choose(
    wanted: Engine,
    event: Event,
    signal: i32,
    probe: impl Fn(Setting) -> io::Result<()>,
) -> Choice {
    let as_wanted = |engine, reason: &str| Choice { engine, reason: reason.into(), refused: false };
    let lesser = |engine, reason| Choice { engine, reason, refused: true };
    let timer_or_nothing = |reason: String| match event {
        Event::CpuClock => lesser(Chosen::Timer, format!("{reason}; using CPU timers")),
        _ => lesser(Chosen::Nothing, format!("{reason}; {event:?} needs perf, so nothing is sampled")),
    };
    match wanted {
        Engine::Off => return as_wanted(Chosen::Nothing, "sampling is switched off"),
        Engine::Timer if event == Event::CpuClock => {
            return as_wanted(Chosen::Timer, "CPU timers were asked for");
        }
        Engine::Timer => return timer_or_nothing("CPU timers measure CPU time only".into()),
        Engine::Auto | Engine::Perf => {}
    }
    let setting = |kernel| Setting { event, kernel, signal };
    let refusal = match probe(setting(true)) {
        Ok(()) => return as_wanted(Chosen::Perf { kernel: true }, "perf samples user and kernel mode"),
        Err(error) => explain(&error),
    };
    // What the time in system calls would be missing from is not the whole CPU time.
    if wanted == Engine::Auto && event == Event::CpuClock {
        return timer_or_nothing(refusal);
    }
    match probe(setting(false)) {
        Ok(()) => {
            let reason = format!("{refusal}; perf samples user mode only, time in system calls is unsampled");
            lesser(Chosen::Perf { kernel: false }, reason)
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
        Some(libc::EPERM) => {
            ("EPERM", format!("a seccomp filter or kernel.perf_event_paranoid ({}) forbids it", paranoid()))
        }
        Some(libc::ENOSYS) => ("ENOSYS", "a seccomp filter hides it, or this kernel has no perf".into()),
        Some(libc::ENOENT) => ("ENOENT", "this machine has no such event".into()),
        Some(libc::EOPNOTSUPP) => ("EOPNOTSUPP", "this machine cannot sample this event".into()),
        Some(libc::EMFILE) => ("EMFILE", "no file descriptors left (ulimit -n)".into()),
        Some(libc::ENFILE) => ("ENFILE", "the system has no file descriptors left".into()),
        _ => return format!("perf_event_open refused: {error}"),
    };
    format!("perf_event_open refused ({name}): {why}")
}

/// Names the real obstacle behind a refused `timer_create`.
pub(crate) fn explain_timer(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => {
            "timer_create refused (EAGAIN): no timers left, each takes a pending signal (ulimit -i)".into()
        }
        _ => format!("timer_create refused: {error}"),
    }
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

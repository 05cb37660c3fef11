//! The timer engine: a POSIX timer on each thread's own CPU clock.
//!
//! Needs no privilege and counts all CPU, user and kernel. The kernel looks at these timers on the
//! scheduler's tick (CONFIG_HZ, often 250 a second), so a faster rate arrives as signals that stand
//! for several periods each (overruns). Overruns also come of one long system call, whose signal
//! waits until it returns: they are its. And they come of many short bursts of work between which the
//! thread slept, none of which met a tick: nobody knows what that time went to.

use std::io;
use std::mem;
use std::sync::atomic::Ordering;

use super::Ticks;
use crate::thread::{self, ThreadSlot};

/// Marks a signal's value as one of ours; the slot's number is below it.
const MARK: usize = 0x9011_5c09 << 32;

/// A running timer; it is deleted when dropped.
pub(crate) struct ThreadTimer {
    id: libc::timer_t,
}

/// How a timer's siginfo is laid out: `struct siginfo` of Linux on 64-bit machines.
#[repr(C)]
struct TimerInfo {
    signal: i32,
    errno: i32,
    code: i32,
    _pad: i32,
    timer_id: i32,
    overrun: i32,
    value: usize,
}

const _: () = assert!(size_of::<TimerInfo>() <= size_of::<libc::siginfo_t>());

impl ThreadTimer {
    /// Makes a timer that sends `signal` to the slot's thread. EAGAIN: no timers left (each takes
    /// one of RLIMIT_SIGPENDING). EINVAL: the thread is gone.
    pub(crate) fn new(slot: &ThreadSlot, signal: i32) -> io::Result<Self> {
        let tid = slot.tid();
        // The kernel's name for a thread's CPU clock: the id inverted, then CPUCLOCK_PERTHREAD (4)
        // and CPUCLOCK_SCHED (2); see clock_getcpuclockid(3) and the kernel's posix-timers.h.
        let clock = (!tid << 3) | 4 | 2;
        // SAFETY: a zeroed sigevent is valid, its fields are set as SIGEV_THREAD_ID asks; the id is
        // written on success.
        unsafe {
            let mut event: libc::sigevent = mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal;
            event.sigev_notify_thread_id = tid;
            event.sigev_value.sival_ptr = (MARK | slot.index() as usize) as *mut libc::c_void;
            let mut id: libc::timer_t = mem::zeroed();
            if libc::timer_create(clock, &mut event, &mut id) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self { id })
        }
    }

    /// Starts ticking every `period_ns` of the thread's CPU time, first after `first_ns`.
    pub(crate) fn start(&self, first_ns: u64, period_ns: u64) -> io::Result<()> {
        self.set(first_ns, period_ns)
    }

    /// Stops ticking until it is started again.
    pub(crate) fn stop(&self) -> io::Result<()> {
        self.set(0, 0)
    }

    fn set(&self, first_ns: u64, period_ns: u64) -> io::Result<()> {
        let time = |ns: u64| libc::timespec {
            tv_sec: (ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (ns % 1_000_000_000) as libc::c_long,
        };
        let setting = libc::itimerspec { it_value: time(first_ns), it_interval: time(period_ns) };
        // SAFETY: the timer is alive until drop; the old setting is not asked for.
        match unsafe { libc::timer_settime(self.id, 0, &setting, std::ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Whether a started timer's thread still exists: the kernel forgets the interval with it.
    pub(crate) fn is_alive(&self) -> bool {
        // SAFETY: the timer is alive until drop; the setting is written on success.
        unsafe {
            let mut setting: libc::itimerspec = mem::zeroed();
            libc::timer_gettime(self.id, &mut setting) == 0
                && (setting.it_interval.tv_sec, setting.it_interval.tv_nsec) != (0, 0)
        }
    }
}

impl Drop for ThreadTimer {
    fn drop(&mut self) {
        // SAFETY: made by timer_create and deleted once.
        unsafe { libc::timer_delete(self.id) };
    }
}

/// Signal side. The thread that a timer's signal was made for.
pub(crate) fn thread_of(info: &libc::siginfo_t) -> Option<&'static ThreadSlot> {
    let value = timer_info(info).value;
    (value & !0xffff_ffff == MARK).then(|| thread::slot(value as u32)).flatten()
}

/// How often a thread's sleeps are counted, for what may come: it would be a fifth of each signal's time.
const COUNT_SLEEPS_EVERY_NS: u64 = 50_000_000;

/// Signal side. The ticks that a timer's signal stands for, as far as the thread can have spent their
/// time where it is now.
pub(crate) fn ticks(
    info: &libc::siginfo_t,
    slot: &ThreadSlot,
    now_ns: u64,
    period_ns: u64,
    tick_ns: u64,
) -> Ticks {
    let overrun = timer_info(info).overrun.max(0) as u32;
    let mut count = overrun.saturating_add(1);
    let is_long = u64::from(overrun) * period_ns > MISSED_TICKS * tick_ns;
    let counted_ns = slot.sleeps_counted_ns.load(Ordering::Relaxed);
    if is_long || now_ns.saturating_sub(counted_ns) >= COUNT_SLEEPS_EVERY_NS {
        slot.sleeps_counted_ns.store(now_ns, Ordering::Relaxed);
        let sleeps = sleeps();
        let before = slot.sleeps.swap(sleeps, Ordering::Relaxed);
        if is_long {
            count = long_periods(overrun, sleeps.saturating_sub(before), period_ns, tick_ns);
        }
    }
    Ticks { count, weight: period_ns * u64::from(count), kernel_depth: 0 }
}

/// How many of the scheduler's ticks bursts of work at random moments may miss in a row, before
/// something other than chance keeps them apart: it happens once in e⁸ signals.
const MISSED_TICKS: u64 = 8;

/// The periods that a signal stands for whose overrun is longer than that, of a thread that went to sleep
/// `sleeps` times meanwhile, or a few times more.
fn long_periods(overrun: u32, sleeps: u64, period_ns: u64, tick_ns: u64) -> u32 {
    // Work that no tick met was in bursts shorter than a tick, and the thread slept between them. If
    // it did not sleep that often, the time was spent in one go.
    if sleeps.saturating_mul(tick_ns) < u64::from(overrun) * period_ns {
        return overrun.saturating_add(1);
    }
    (tick_ns / period_ns.max(1)).max(1) as u32
}

/// Async-signal-safe. How often the calling thread gave its processor up by itself.
fn sleeps() -> u64 {
    // SAFETY: a zeroed rusage is valid, and the call writes no more than one; should a filter forbid it,
    // the answer stays zero, and overruns count as one long call.
    unsafe {
        let mut usage: libc::rusage = mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage.ru_nvcsw as u64
    }
}

fn timer_info(info: &libc::siginfo_t) -> &TimerInfo {
    // SAFETY: called for SI_TIMER only, whose layout this is; it is no larger than siginfo_t.
    unsafe { &*std::ptr::from_ref(info).cast() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK_NS: u64 = 4_000_000;

    #[test]
    fn one_long_call_is_where_the_thread_is() {
        assert_eq!(long_periods(29, 10, 10_000_000, TICK_NS), 30);
        assert_eq!(long_periods(u32::MAX, 0, 10_000_000, TICK_NS), u32::MAX);
    }

    #[test]
    fn bursts_that_no_tick_met_are_not_where_the_thread_is_now() {
        assert_eq!(long_periods(29, 290, 10_000_000, TICK_NS), 1);
        // At this rate a tick stands for four periods.
        assert_eq!(long_periods(290, 290, 1_000_000, TICK_NS), 4);
    }
}

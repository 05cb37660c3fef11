//! Sampling every thread of the process: attaching, detaching, starting, stopping.
//!
//! All of it happens on the collector thread, which alone owns the events and timers. A thread that
//! registers wakes it; the others are found in the process's task list.

mod choice;
pub(crate) mod perf;
mod signal;
pub(crate) mod timer;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};
use std::thread::Thread;

pub(crate) use choice::{Chosen, choose_here};
pub(crate) use signal::{install, is_installed};

use crate::sampler::perf::ThreadEvent;
use crate::sampler::timer::ThreadTimer;
use crate::settings::Event;
use crate::thread::{self, ThreadSlot};

/// What a signal stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticks {
    pub(crate) count: u32,
    /// In the period's unit, of all ticks together.
    pub(crate) weight: u64,
    /// Kernel addresses found.
    pub(crate) kernel_depth: usize,
}

/// The collector, to wake when a thread registers.
static COLLECTOR: Mutex<Option<Thread>> = Mutex::new(None);

/// Tells which thread to wake; none when sampling ends.
pub(crate) fn set_collector(thread: Option<Thread>) {
    *COLLECTOR.lock().unwrap_or_else(PoisonError::into_inner) = thread;
}

/// Wakes the collector, so that a thread that has just registered is sampled soon. Does not wait:
/// if the lock is taken just now, the next sweep finds the thread.
pub(crate) fn thread_registered() {
    if let Ok(collector) = COLLECTOR.try_lock()
        && let Some(thread) = &*collector
    {
        thread.unpark();
    }
}

/// What samples one thread.
enum Attached {
    Perf(ThreadEvent),
    Timer(ThreadTimer),
}

/// Nanoseconds between two ticks at this rate.
pub(crate) fn period_ns(hertz: u32) -> u64 {
    1_000_000_000 / u64::from(hertz)
}

/// A share of the descriptors that the process may open: the rest is the program's.
const DESCRIPTOR_SHARE: u64 = 4;

/// A perf event goes on with its first period while its thread is in a system call, so a very short
/// one would have the thread interrupted without end: an interrupt takes some 20 µs.
const SHORTEST_FIRST_NS: u64 = 100_000;

/// The events and timers of all threads.
pub(crate) struct Sampler {
    choice: Chosen,
    event: Event,
    signal: i32,
    hz: u32,
    running: bool,
    attached: HashMap<i32, (&'static ThreadSlot, Attached)>,
    /// Threads that could not be attached, so that each is tried once.
    refused: HashSet<i32>,
    random: Random,
    /// Things to say once.
    notes: Vec<String>,
    rings_missing: bool,
}

impl Sampler {
    pub(crate) fn new(choice: Chosen, event: Event, signal: i32, hz: u32) -> Self {
        Self {
            choice,
            event,
            signal,
            hz,
            running: true,
            attached: HashMap::new(),
            refused: HashSet::new(),
            random: Random::new(),
            notes: Vec::new(),
            rings_missing: false,
        }
    }

    /// Ticks a second of CPU time.
    pub(crate) fn hz(&self) -> u32 {
        self.hz
    }

    /// Nanoseconds of CPU time between two ticks.
    pub(crate) fn period_ns(&self) -> u64 {
        period_ns(self.hz)
    }

    /// Detaches threads that are gone, and finds those that are new.
    pub(crate) fn sweep(&mut self) -> Vec<i32> {
        if self.choice == Chosen::Nothing {
            return Vec::new();
        }
        let Ok(tasks) = fs::read_dir("/proc/self/task") else {
            // Registered threads are known from their slots; the others show as unsampled.
            return thread::slots()
                .map(ThreadSlot::tid)
                .filter(|&tid| tid != 0 && self.is_new(tid))
                .collect();
        };
        let tids: Vec<i32> =
            tasks.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        // A thread's number may be another thread's by now, hence the second question.
        let running = self.running;
        self.attached.retain(|tid, (_, attached)| tids.contains(tid) && attached.is_alive(running));
        self.refused.retain(|tid| tids.contains(tid));
        for slot in thread::slots().filter(|slot| slot.tid() != 0) {
            // One that registered after the list was read is not in it either.
            if !tids.contains(&slot.tid()) && !exists(slot.tid()) {
                slot.give_back();
            }
        }
        tids.into_iter().filter(|&tid| self.is_new(tid)).collect()
    }

    /// Attaches the threads that have registered and are not attached yet.
    pub(crate) fn attach_registered(&mut self) {
        let tids = thread::slots().map(ThreadSlot::tid).filter(|&tid| tid != 0);
        self.attach(tids);
    }

    /// Attaches those of these threads that are new.
    pub(crate) fn attach(&mut self, tids: impl IntoIterator<Item = i32>) {
        for tid in tids {
            if self.is_new(tid) {
                self.attach_one(tid);
            }
        }
    }

    fn is_new(&self, tid: i32) -> bool {
        !self.attached.contains_key(&tid) && !self.refused.contains(&tid)
    }

    fn attach_one(&mut self, tid: i32) {
        if self.choice == Chosen::Nothing {
            return;
        }
        let Some(slot) = thread::take(tid) else { return };
        match self.open(slot) {
            Ok(attached) => {
                self.attached.insert(tid, (slot, attached));
            }
            // Gone already: its CPU shows as unsampled.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => {}
            Err(error) => {
                self.refused.insert(tid);
                self.notes.push(format!("{}; some threads are not sampled", choice::explain_timer(&error)));
            }
        }
    }

    fn open(&mut self, slot: &'static ThreadSlot) -> io::Result<Attached> {
        let (period, shortest) = (self.period_ns(), SHORTEST_FIRST_NS.min(self.period_ns()));
        let first = shortest + self.random.below(period - shortest + 1);
        if let Chosen::Perf { kernel } = self.choice {
            let setting = perf::Setting { event: self.event, kernel, signal: self.signal };
            let opened = if self.attached.len() as u64 >= max_descriptors() / DESCRIPTOR_SHARE {
                Err(io::Error::from_raw_os_error(libc::EMFILE))
            } else {
                ThreadEvent::open(setting, slot, first, self.hz)
            };
            match opened {
                Ok(mut event) => {
                    if !event.has_ring() && !self.rings_missing {
                        self.rings_missing = true;
                        self.notes.push(
                            "some kernel stacks are missing: perf's memory limit is reached \
                             (ulimit -l, kernel.perf_event_mlock_kb)"
                                .into(),
                        );
                    }
                    if self.running {
                        event.enable()?;
                    }
                    return Ok(Attached::Perf(event));
                }
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Err(error),
                Err(error) if !self.event.has_fixed_period() => return Err(error),
                Err(error) => {
                    self.notes
                        .push(format!("{}; using CPU timers for some threads", choice::explain(&error)));
                }
            }
        }
        let timer = ThreadTimer::new(slot, self.signal)?;
        if self.running {
            timer.start(first, self.period_ns())?;
        }
        Ok(Attached::Timer(timer))
    }

    /// Stops or goes on ticking, on every thread.
    pub(crate) fn set_running(&mut self, running: bool) {
        self.running = running;
        let period = self.period_ns();
        for (_, attached) in self.attached.values_mut() {
            // A thread that is gone answers with an error; the next sweep drops it.
            let _ = match attached {
                Attached::Perf(event) if running => event.enable(),
                Attached::Perf(event) => event.disable(),
                Attached::Timer(timer) if running => timer.start(1 + self.random.below(period), period),
                Attached::Timer(timer) => timer.stop(),
            };
        }
    }

    /// Changes the rate, on every thread.
    pub(crate) fn set_hz(&mut self, hz: u32) {
        self.hz = hz;
        let period = self.period_ns();
        let fixed = self.event.has_fixed_period();
        for (_, attached) in self.attached.values_mut() {
            let _ = match attached {
                Attached::Perf(event) => event.set_period(if fixed { period } else { hz.into() }),
                Attached::Timer(timer) if self.running => timer.start(1 + self.random.below(period), period),
                Attached::Timer(_) => Ok(()),
            };
        }
    }

    /// Detaches all threads. Their slots stay until they end: they hold their spans.
    pub(crate) fn detach_all(&mut self) {
        self.attached.clear();
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running
    }

    /// How many threads have an event and how many a timer.
    pub(crate) fn threads(&self) -> (usize, usize) {
        let perf = self.attached.values().filter(|(_, a)| matches!(a, Attached::Perf(_))).count();
        (perf, self.attached.len() - perf)
    }

    /// What happened that the user should read once.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }
}

impl Attached {
    fn is_alive(&self, running: bool) -> bool {
        match self {
            Self::Perf(event) => event.is_alive(),
            // A timer that is stopped looks like one whose thread is gone.
            Self::Timer(timer) => !running || timer.is_alive(),
        }
    }
}

/// How many threads the process has, as the links of its task list: a hundredth of what reading the
/// list costs.
pub(crate) fn thread_count() -> Option<u64> {
    fs::metadata("/proc/self/task").ok().map(|list| list.nlink())
}

/// Whether the process has such a thread.
fn exists(tid: i32) -> bool {
    // SAFETY: signal 0 is never sent, only checked.
    let asked = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, 0) };
    // Where a filter forbids the question, a slot is kept too long rather than shared by two threads.
    asked == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// How many descriptors the process may open.
fn max_descriptors() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one rlimit.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit.rlim_cur
}

/// Random phases; nothing here needs more than that threads don't tick in step (xorshift64*).
struct Random(u64);

impl Random {
    fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self(RandomState::new().hash_one(0) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::thread_count;

    #[test]
    fn the_count_tells_when_a_thread_came() {
        // Other tests' threads come and go: so many more at once are these.
        const MORE: u64 = 200;
        let before = thread_count().expect("a task list");
        let gate = std::sync::Mutex::new(());
        std::thread::scope(|scope| {
            let shut = gate.lock();
            for _ in 0..MORE {
                scope.spawn(|| drop(gate.lock()));
            }
            let now = thread_count().expect("a task list");
            assert!(now + 50 > before + MORE, "{before} then {now}");
            drop(shut);
        });
    }
}

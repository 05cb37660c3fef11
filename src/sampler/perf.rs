//! The perf engine: one `perf_event_open` descriptor a thread, whose overflow signals that thread.
//!
//! Each descriptor has a ring of one page, in which the kernel leaves a record for every overflow:
//! its number tells how many ticks a signal stands for (signals merge while a thread is in a long
//! system call), and its call chain is the kernel's part of the stack.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use perf_event::events::{Hardware, Software};
use perf_event::{Builder, Counter, SampleFlag};

use super::Ticks;
use crate::settings::Event;
use crate::thread::{self, ThreadSlot};

/// The two pages mapped: the kernel's control page, and the ring.
const PAGE_BYTES: usize = 4096;
/// Where in the control page the kernel writes how far it is, and we how far we are
/// (`struct perf_event_mmap_page`; a fixed part of the kernel's interface).
const DATA_HEAD: usize = 1024;
const DATA_TAIL: usize = 1032;
/// Records that a signal looks at. The smallest has 24 bytes, so a page holds no more.
const MAX_RECORDS: usize = PAGE_BYTES / 24 + 1;

const RECORD_LOST: u32 = 2;
const RECORD_SAMPLE: u32 = 9;
/// Markers in a call chain are "negative" addresses from here up (`PERF_CONTEXT_MAX`).
const FIRST_MARKER: u64 = -4095i64 as u64;

/// An open descriptor; closed when dropped, after which its thread gets no more signals.
pub(crate) struct ThreadEvent {
    counter: Counter,
    slot: &'static ThreadSlot,
    /// The two mapped pages; null when the kernel refused them.
    pages: *mut u8,
}

/// What to sample, the same for all threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) event: Event,
    /// Whether the time in the kernel counts.
    pub(crate) kernel: bool,
    pub(crate) signal: i32,
}

impl ThreadEvent {
    /// Opens a disabled event on the slot's thread. EACCES, EPERM: not allowed. ENOENT, EOPNOTSUPP:
    /// no such event here. EMFILE: no descriptors left. ESRCH: the thread is gone.
    pub(crate) fn open(setting: Setting, slot: &'static ThreadSlot, first: u64, hz: u32) -> io::Result<Self> {
        let counter = build(setting, slot.tid(), first, hz)?;
        let fd = counter.as_raw_fd();
        deliver_to(fd, slot.tid(), setting.signal)?;
        // Without the ring a signal counts as one tick, and kernel stacks are missing.
        let pages = map_ring(fd).unwrap_or(std::ptr::null_mut());
        slot.perf_ring.store(pages, Ordering::Relaxed);
        let first_ns = if setting.event.has_fixed_period() { first } else { 0 };
        slot.first_period_ns.store(first_ns, Ordering::Relaxed);
        slot.lost_period_ns.store(0, Ordering::Relaxed);
        slot.perf_fd.store(fd, Ordering::Release);
        set_thread_of_fd(fd, Some(slot))?;
        Ok(Self { counter, slot, pages })
    }

    pub(crate) fn has_ring(&self) -> bool {
        !self.pages.is_null()
    }

    pub(crate) fn enable(&mut self) -> io::Result<()> {
        self.counter.enable()
    }

    pub(crate) fn disable(&mut self) -> io::Result<()> {
        self.counter.disable()
    }

    /// Changes the period in nanoseconds, or for an event without a fixed one the rate in hertz.
    pub(crate) fn set_period(&mut self, period: u64) -> io::Result<()> {
        self.slot.first_period_ns.store(0, Ordering::Relaxed);
        set_period(self.counter.as_raw_fd(), period)
    }

    /// Whether the event's thread still exists: the kernel hangs up when it ends.
    pub(crate) fn is_alive(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.counter.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, no waiting.
        unsafe { libc::poll(&mut poll, 1, 0) };
        poll.revents & libc::POLLHUP == 0
    }
}

impl Drop for ThreadEvent {
    fn drop(&mut self) {
        let _ = self.counter.disable();
        let _ = set_thread_of_fd(self.counter.as_raw_fd(), None);
        self.slot.perf_fd.store(-1, Ordering::Release);
        self.slot.perf_ring.store(std::ptr::null_mut(), Ordering::SeqCst);
        // A handler that took the ring's address before that is still reading it; it takes
        // microseconds, unless its thread is preempted.
        while self.slot.in_handler.load(Ordering::SeqCst) && self.is_alive() {
            std::thread::yield_now();
        }
        if !self.pages.is_null() {
            // SAFETY: mapped by map_ring with this length, and no handler reads it any more.
            unsafe { libc::munmap(self.pages.cast(), 2 * PAGE_BYTES) };
        }
    }
}

fn build(setting: Setting, tid: i32, first: u64, hz: u32) -> io::Result<Counter> {
    let mut builder = match setting.event {
        Event::CpuClock => Builder::new(Software::CPU_CLOCK),
        Event::PageFaults => Builder::new(Software::PAGE_FAULTS),
        Event::ContextSwitches => Builder::new(Software::CONTEXT_SWITCHES),
        Event::Cycles => Builder::new(Hardware::CPU_CYCLES),
        Event::Instructions => Builder::new(Hardware::INSTRUCTIONS),
        Event::CacheMisses => Builder::new(Hardware::CACHE_MISSES),
    };
    builder
        .observe_pid(tid)
        .any_cpu()
        .exclude_kernel(!setting.kernel)
        .exclude_callchain_user(true)
        // The weight of each sample; then its kernel stack.
        .sample(SampleFlag::PERIOD);
    if setting.kernel {
        builder.sample(SampleFlag::CALLCHAIN);
    }
    if setting.event.has_fixed_period() {
        builder.sample_period(first);
    } else {
        builder.sample_frequency(hz.into());
    }
    builder.build()
}

/// Whether such an event can be had at all; asked for the calling thread, and closed again.
pub(crate) fn probe(setting: Setting) -> io::Result<()> {
    build(setting, 0, 1_000_000_000, 1).map(drop)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the kernel send `signal` to thread `tid` at each overflow.
fn deliver_to(fd: i32, tid: i32, signal: i32) -> io::Result<()> {
    /// `struct f_owner_ex`
    #[repr(C)]
    struct Owner {
        kind: i32,
        id: i32,
    }
    const F_SETOWN_EX: i32 = 15;
    const F_SETSIG: i32 = 10;
    const F_OWNER_TID: i32 = 0;
    let owner = Owner { kind: F_OWNER_TID, id: tid };
    // SAFETY: three settings of a descriptor that we own; the kernel reads `owner` and no more.
    unsafe {
        check(libc::fcntl(fd, F_SETOWN_EX, &owner))?;
        check(libc::fcntl(fd, F_SETSIG, signal))?;
        check(libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK))
    }
}

fn map_ring(fd: i32) -> io::Result<*mut u8> {
    let (read_write, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let pages = unsafe { libc::mmap(std::ptr::null_mut(), 2 * PAGE_BYTES, read_write, shared, fd, 0) };
    if pages == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(pages.cast()) }
}

/// Async-signal-safe: one system call.
fn set_period(fd: i32, period: u64) -> io::Result<()> {
    // PERF_EVENT_IOC_PERIOD: _IOW('$', 4, __u64)
    const IOC_PERIOD: libc::c_ulong = 0x4008_2404;
    // SAFETY: the kernel reads the period and no more.
    check(unsafe { libc::ioctl(fd, IOC_PERIOD as _, &period) })
}

/// Descriptors in one part of the table.
const PART: usize = 1024;
const PARTS: usize = 1024;
/// Which thread's slot a descriptor belongs to: the slot's number and one, in parts made as needed.
static THREAD_OF_FD: [AtomicPtr<AtomicU32>; PARTS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; PARTS];

fn entry_of_fd(fd: i32) -> Option<&'static AtomicU32> {
    let fd = usize::try_from(fd).ok()?;
    let part = THREAD_OF_FD.get(fd / PART)?.load(Ordering::Acquire);
    // SAFETY: a part that is not null has PART entries and is never freed.
    (!part.is_null()).then(|| unsafe { &*part.add(fd % PART) })
}

/// Collector only.
fn set_thread_of_fd(fd: i32, slot: Option<&ThreadSlot>) -> io::Result<()> {
    let part = usize::try_from(fd).ok().and_then(|fd| THREAD_OF_FD.get(fd / PART));
    let part = part.ok_or_else(|| io::Error::from_raw_os_error(libc::EMFILE))?;
    if part.load(Ordering::Relaxed).is_null() {
        let entries: Box<[AtomicU32]> = (0..PART).map(|_| AtomicU32::new(0)).collect();
        part.store(Box::into_raw(entries).cast(), Ordering::Release);
    }
    if let Some(entry) = entry_of_fd(fd) {
        entry.store(slot.map_or(0, |slot| slot.index() + 1), Ordering::Release);
    }
    Ok(())
}

/// How a descriptor's siginfo is laid out: `struct siginfo` of Linux on 64-bit machines.
#[repr(C)]
struct PollInfo {
    signal: i32,
    errno: i32,
    code: i32,
    _pad: i32,
    band: i64,
    fd: i32,
}

const _: () = assert!(size_of::<PollInfo>() <= size_of::<libc::siginfo_t>());

/// Signal side. The thread that a descriptor's signal was made for.
pub(crate) fn thread_of(info: &libc::siginfo_t) -> Option<&'static ThreadSlot> {
    // POLL_IN to POLL_HUP: how F_SETSIG marks its signals.
    if !(1..=6).contains(&info.si_code) {
        return None;
    }
    // SAFETY: that si_code has this layout; it is no larger than siginfo_t.
    let fd = unsafe { &*std::ptr::from_ref(info).cast::<PollInfo>() }.fd;
    let number = entry_of_fd(fd)?.load(Ordering::Acquire).checked_sub(1)?;
    thread::slot(number).filter(|slot| slot.perf_fd.load(Ordering::Acquire) == fd)
}

/// Signal side. The ticks since the last signal of this thread, and the kernel's part of the last
/// one's stack, written to `kernel`. A `period` of 0: each tick weighs what the kernel says.
pub(crate) fn ticks(slot: &ThreadSlot, period: u64, kernel: &mut [u64]) -> Ticks {
    // The first period is random, so that threads do not tick in step; it stands for a whole one.
    let first_ns = slot.first_period_ns.load(Ordering::Relaxed);
    if first_ns != 0 {
        slot.first_period_ns.store(0, Ordering::Relaxed);
        // If it fails, the thread goes on ticking too often and its samples weigh too much.
        let _ = set_period(slot.perf_fd.load(Ordering::Relaxed), period);
    }
    let pages = slot.perf_ring.load(Ordering::SeqCst);
    if pages.is_null() {
        return Ticks { count: 1, weight: period.max(1), kernel_depth: 0 };
    }
    // SAFETY: the collector unmaps the pages only once this slot was seen outside the handler.
    let Read { mut ticks, lost } = unsafe { read_ring(pages, kernel) };
    // The kernel reports what was lost when there is room again: after the next signal.
    let lost_ns = slot.lost_period_ns.swap(first_ns, Ordering::Relaxed);
    ticks.count = match (first_ns, lost_ns) {
        (0, 0) => ticks.count + lost,
        (0, lost_ns) => ticks.count + periods_of(lost, lost_ns, period),
        (first_ns, _) => first_ticks(ticks.count + lost, first_ns, period),
    };
    if period != 0 {
        // The kernel goes on reporting the first period of a clock event after it was changed.
        ticks.weight = period * u64::from(ticks.count);
    }
    ticks
}

/// The kernel raises a clock event's shorter periods to this.
const MIN_PERIOD_NS: u64 = 10_000;

/// How many whole periods the first signal stands for. The first tick stands for one; those that
/// came after it, in a long system call, were the first period apart.
fn first_ticks(ticks: u32, first_ns: u64, period_ns: u64) -> u32 {
    ticks.min(1) + periods_of(ticks.saturating_sub(1), first_ns, period_ns)
}

/// How many whole periods ticks stand for that were `apart_ns` apart.
fn periods_of(ticks: u32, apart_ns: u64, period_ns: u64) -> u32 {
    (u64::from(ticks) * apart_ns.max(MIN_PERIOD_NS) / period_ns.max(1)) as u32
}

/// What a signal found in its ring.
struct Read {
    ticks: Ticks,
    /// Ticks without a record, because the ring was full during a long system call.
    lost: u32,
}

/// # Safety
/// `pages` are a perf event's control page and one page of ring, read by this thread alone.
unsafe fn read_ring(pages: *mut u8, kernel: &mut [u64]) -> Read {
    // SAFETY: both lie in the control page and are aligned.
    let (head, tail) =
        unsafe { (&*pages.add(DATA_HEAD).cast::<AtomicU64>(), &*pages.add(DATA_TAIL).cast::<AtomicU64>()) };
    let word = |position: u64| {
        // SAFETY: the position is cut to the ring's page; records are aligned to 8 bytes.
        unsafe {
            pages.add(PAGE_BYTES + (position as usize & (PAGE_BYTES - 8))).cast::<u64>().read_volatile()
        }
    };
    let (end, mut at) = (head.load(Ordering::Acquire), tail.load(Ordering::Relaxed));
    let mut ticks = Ticks { count: 0, weight: 0, kernel_depth: 0 };
    let mut lost = 0;
    for _ in 0..MAX_RECORDS {
        if at >= end {
            break;
        }
        let header = word(at);
        let (kind, bytes) = (header as u32, header >> 48);
        match kind {
            RECORD_SAMPLE => {
                ticks.count += 1;
                // PERF_SAMPLE_PERIOD comes before PERF_SAMPLE_CALLCHAIN in a record.
                ticks.weight += word(at + 8);
                let entries = if bytes > 16 { word(at + 16).min((bytes - 24) / 8) } else { 0 };
                ticks.kernel_depth = 0;
                for entry in 0..entries {
                    let address = word(at + 24 + entry * 8);
                    if address < FIRST_MARKER
                        && let Some(room) = kernel.get_mut(ticks.kernel_depth)
                    {
                        *room = address;
                        ticks.kernel_depth += 1;
                    }
                }
            }
            RECORD_LOST => lost += word(at + 16) as u32,
            _ => {}
        }
        // A record of no length would be read for ever.
        at += bytes.max(8);
    }
    tail.store(end, Ordering::Release);
    // Each counts like those that have a record.
    ticks.weight += ticks.weight / u64::from(ticks.count.max(1)) * u64::from(lost);
    Read { ticks, lost }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_the_first_period_weigh_what_they_are_apart() {
        assert_eq!(first_ticks(0, 1, 10_000_000), 0);
        assert_eq!(first_ticks(1, 1, 10_000_000), 1);
        // A thread was found 50 ms before the end of a system call.
        assert_eq!(first_ticks(501, 100_000, 10_000_000), 6);
        assert_eq!(first_ticks(6, 10_000_000, 10_000_000), 6);
        assert_eq!(first_ticks(5001, 1, 10_000_000), 6);
        // Those that did not fit into the ring then and are reported after the next signal.
        assert_eq!(periods_of(288, 10_000, 5_000_000), 0);
        assert_eq!(periods_of(288, 100_000, 5_000_000), 5);
    }
}

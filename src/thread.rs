//! The threads of this process, each with a slot that its signal handler works on.
//!
//! A slot holds the thread's span stack and what the handler needs to know of the thread. A thread
//! takes one when it first enters a span; the collector takes one for each thread that it finds in
//! the task list. Slots are reused and never unmapped: the handler may hold one at any time.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::context::SpanStack;
use crate::patience;

/// Slots a chunk.
const CHUNK_SLOTS: usize = 64;
/// 16,384 threads; those beyond are not sampled, and their CPU is shown as unsampled.
const CHUNKS: usize = 256;
/// Enters of spans after which a thread that got no slot asks again.
const ASK_AGAIN_AFTER: u32 = 1000;

/// One thread.
pub(crate) struct ThreadSlot {
    // written by the thread itself
    pub(crate) spans: SpanStack,

    // written when the slot is taken or given back
    index: u32,
    /// The kernel's thread id; 0 while the slot is free.
    tid: AtomicI32,
    /// The thread said good-bye; only the kernel's task list tells when it is really gone.
    ended: AtomicBool,
    /// Where the thread's stack ends; 0 when only the map of all stacks tells.
    stack_end: AtomicU64,

    // written by the collector before the thread's first signal
    /// The perf descriptor that signals for this thread, or -1.
    pub(crate) perf_fd: AtomicI32,
    /// The descriptor's ring of two pages, or null.
    pub(crate) perf_ring: AtomicPtr<u8>,
    /// The descriptor's first, random period while it still runs, in nanoseconds; 0 after that.
    pub(crate) first_period_ns: AtomicU64,

    // written by the handler
    /// How far apart ticks were that the kernel may still report as lost; 0 when a whole period.
    pub(crate) lost_period_ns: AtomicU64,
    /// How often the thread had gone to sleep when that was counted last, and when it was.
    pub(crate) sleeps: AtomicU64,
    pub(crate) sleeps_counted_ns: AtomicU64,
    /// Set while the handler runs: what it reads must stay.
    pub(crate) in_handler: AtomicBool,
    pub(crate) signals: AtomicU64,
    pub(crate) handler_ns: AtomicU64,
}

impl ThreadSlot {
    fn new(index: u32) -> Self {
        Self {
            spans: SpanStack::new(),
            index,
            tid: AtomicI32::new(0),
            ended: AtomicBool::new(false),
            stack_end: AtomicU64::new(0),
            perf_fd: AtomicI32::new(-1),
            perf_ring: AtomicPtr::new(std::ptr::null_mut()),
            first_period_ns: AtomicU64::new(0),
            lost_period_ns: AtomicU64::new(0),
            sleeps: AtomicU64::new(0),
            sleeps_counted_ns: AtomicU64::new(0),
            in_handler: AtomicBool::new(false),
            signals: AtomicU64::new(0),
            handler_ns: AtomicU64::new(0),
        }
    }

    /// The slot's own number.
    #[inline]
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    #[inline]
    pub(crate) fn tid(&self) -> i32 {
        self.tid.load(Ordering::Acquire)
    }

    pub(crate) fn stack_end(&self) -> u64 {
        self.stack_end.load(Ordering::Relaxed)
    }

    /// Collector only, once the thread has no event or timer any more: frees the slot.
    pub(crate) fn give_back(&self) {
        self.spans.clear();
        self.tid.store(0, Ordering::Release);
    }
}

static CHUNK_TABLE: [AtomicPtr<ThreadSlot>; CHUNKS] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; CHUNKS];
/// Held while a slot is taken, never across a system call.
static TAKING: Mutex<()> = Mutex::new(());
/// Counts threads that registered, so that the collector knows when to look.
static REGISTERED: AtomicU32 = AtomicU32::new(0);

/// The slot of this number, if it was ever made.
#[inline]
pub(crate) fn slot(index: u32) -> Option<&'static ThreadSlot> {
    let chunk = CHUNK_TABLE.get(index as usize / CHUNK_SLOTS)?.load(Ordering::Acquire);
    if chunk.is_null() {
        return None;
    }
    // SAFETY: a chunk pointer that is not null leads to CHUNK_SLOTS slots that are never freed.
    Some(unsafe { &*chunk.add(index as usize % CHUNK_SLOTS) })
}

/// All slots ever made, free ones included.
pub(crate) fn slots() -> impl Iterator<Item = &'static ThreadSlot> {
    (0..(CHUNKS * CHUNK_SLOTS) as u32).map_while(slot)
}

/// The slot of a thread: the one it has, or one that it gets. `None` beyond the bound, or when the
/// lock is not to be had.
pub(crate) fn take(tid: i32) -> Option<&'static ThreadSlot> {
    let _taking = patience::lock(&TAKING)?;
    let mut free = None;
    for slot in slots() {
        match slot.tid() {
            0 => free = free.or(Some(slot)),
            other if other == tid && !slot.ended.load(Ordering::Relaxed) => return Some(slot),
            _ => {}
        }
    }
    let slot = free.or_else(grow)?;
    slot.ended.store(false, Ordering::Relaxed);
    slot.stack_end.store(0, Ordering::Relaxed);
    slot.sleeps.store(0, Ordering::Relaxed);
    slot.sleeps_counted_ns.store(0, Ordering::Relaxed);
    slot.spans.clear();
    slot.tid.store(tid, Ordering::Release);
    Some(slot)
}

fn grow() -> Option<&'static ThreadSlot> {
    let chunk = CHUNK_TABLE.iter().position(|chunk| chunk.load(Ordering::Relaxed).is_null())?;
    let first = (chunk * CHUNK_SLOTS) as u32;
    let slots: Box<[ThreadSlot]> = (first..first + CHUNK_SLOTS as u32).map(ThreadSlot::new).collect();
    CHUNK_TABLE[chunk].store(Box::into_raw(slots).cast(), Ordering::Release);
    slot(first)
}

thread_local! {
    /// The thread's slot, once it has one and until it ends.
    static MINE: Cell<Option<&'static ThreadSlot>> = const { Cell::new(None) };
    /// The thread is running its last destructors.
    static ENDED: Cell<bool> = const { Cell::new(false) };
    /// There was no slot; after so many enters it is asked for again.
    static REFUSED: Cell<u32> = const { Cell::new(0) };
    static AT_END: AtEnd = const { AtEnd };
}

/// Gives notice when the thread ends, so that its number is not taken for a later thread's.
struct AtEnd;

impl Drop for AtEnd {
    fn drop(&mut self) {
        ENDED.set(true);
        if let Some(slot) = MINE.take() {
            slot.spans.clear();
            slot.ended.store(true, Ordering::Release);
        }
    }
}

/// The slot of the calling thread, taken when it has none yet.
#[inline]
pub(crate) fn current() -> Option<&'static ThreadSlot> {
    existing().or_else(register)
}

/// The slot of the calling thread, if it has one.
#[inline]
pub(crate) fn existing() -> Option<&'static ThreadSlot> {
    MINE.get()
}

#[cold]
fn register() -> Option<&'static ThreadSlot> {
    if ENDED.get() {
        return None;
    }
    let enters = REFUSED.get();
    if enters > 0 {
        REFUSED.set(enters - 1);
        return None;
    }
    let Some(slot) = take(current_tid()) else {
        REFUSED.set(ASK_AGAIN_AFTER);
        return None;
    };
    slot.stack_end.store(current_stack_end(), Ordering::Relaxed);
    MINE.set(Some(slot));
    // Touching it arms its destructor; when that has run already, the task list must do.
    let _ = AT_END.try_with(|_| ());
    REGISTERED.fetch_add(1, Ordering::Release);
    crate::sampler::thread_registered();
    Some(slot)
}

/// How many threads registered until now.
pub(crate) fn registered() -> u32 {
    REGISTERED.load(Ordering::Acquire)
}

/// The kernel's id of the calling thread. Async-signal-safe.
#[inline]
pub(crate) fn current_tid() -> i32 {
    // SAFETY: gettid takes nothing and cannot fail.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}

/// Where the calling thread's stack ends; 0 when the C library does not tell.
fn current_stack_end() -> u64 {
    // SAFETY: zeroed attributes are what pthread_getattr_np expects to fill; it is asked about the
    // calling thread, which is alive, and what it filled is destroyed once.
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        if libc::pthread_getattr_np(libc::pthread_self(), &mut attributes) != 0 {
            return 0;
        }
        let mut start = std::ptr::null_mut();
        let mut bytes = 0;
        let found = libc::pthread_attr_getstack(&attributes, &mut start, &mut bytes) == 0;
        libc::pthread_attr_destroy(&mut attributes);
        if found { start as u64 + bytes as u64 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_its_slot_and_its_stack_lies_below_the_end() {
        std::thread::spawn(|| {
            let slot = current().expect("a slot");
            assert_eq!(slot.tid(), current_tid());
            assert!(std::ptr::eq(slot, current().expect("a slot")));
            assert!(std::ptr::eq(slot, take(current_tid()).expect("a slot")));
            let here = std::ptr::from_ref(&slot) as u64;
            assert!(here < slot.stack_end() && slot.stack_end() - here < 1 << 30);
        })
        .join()
        .expect("no panic");
    }

    #[test]
    fn the_slot_of_an_ended_thread_is_not_handed_to_its_successor() {
        let (slot, tid) =
            std::thread::spawn(|| (current().expect("a slot"), current_tid())).join().expect("no panic");
        // The kernel may give the number to a new thread before the collector has noticed.
        let successor = take(tid).expect("a slot");
        assert!(!std::ptr::eq(slot, successor));
        successor.give_back();
    }
}

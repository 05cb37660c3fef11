//! The signal handler: registers in, one sample out.
//!
//! Everything here runs inside a signal handler, on whatever thread the kernel interrupted and
//! between any two of its instructions: no allocation, no lock, no log, no formatting, no unbounded
//! loop, no panic. `errno` is what it was when the handler returns.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};

use crate::clock::{monotonic_ns, tick_ns};
use crate::context::Innermost;
use crate::regs::Registers;
use crate::ring::Ring;
use crate::sample::{ANCESTOR_WORDS, Context, Head, MAX_ANCESTORS};
use crate::sampler::{perf, timer};
use crate::span::record::SpanRecord;
use crate::thread::{self, ThreadSlot};
use crate::unwind::{CodeMap, ScratchPool, walk};

/// What the handlers of all threads work with. Made once and kept for the life of the process, so
/// that a signal that arrives late finds it whole.
pub(crate) struct Desk {
    // written by handlers
    pub(crate) ring: Ring,
    pub(crate) scratch: ScratchPool,
    /// Signals that belong to nothing of ours.
    pub(crate) strays: AtomicU64,
    /// Samples without a stack, because all scratch areas were taken.
    pub(crate) without_scratch: AtomicU64,

    /// How far apart the scheduler's ticks are.
    tick_ns: u64,

    // written by the collector
    /// Null while nothing is sampled.
    code: AtomicPtr<CodeMap>,
    /// The weight of one tick of a fixed period, in its unit.
    pub(crate) period: AtomicU64,
    pub(crate) max_depth: AtomicUsize,
    /// Whether samples carry the ids of all open spans.
    pub(crate) with_ancestors: AtomicBool,
}

impl Desk {
    pub(crate) fn new(ring_words: usize, scratch_areas: usize, max_depth: usize) -> Self {
        Self {
            ring: Ring::new(ring_words),
            scratch: ScratchPool::new(scratch_areas, max_depth),
            strays: AtomicU64::new(0),
            without_scratch: AtomicU64::new(0),
            tick_ns: tick_ns(),
            code: AtomicPtr::new(std::ptr::null_mut()),
            period: AtomicU64::new(0),
            max_depth: AtomicUsize::new(max_depth),
            with_ancestors: AtomicBool::new(false),
        }
    }

    /// Collector only. Publishes a code map, or none to stop sampling. The old one comes back: it
    /// may be dropped once [`no_handler_runs`] was true after this call.
    pub(crate) fn publish(&self, code: Option<Box<CodeMap>>) -> Option<Box<CodeMap>> {
        let new = code.map_or(std::ptr::null_mut(), Box::into_raw);
        // Sequentially consistent with the handler's flag: a handler either shows itself before
        // this swap, or finds the new map.
        let old = self.code.swap(new, Ordering::SeqCst);
        // SAFETY: every pointer stored here came from Box::into_raw, and the swap took it out.
        (!old.is_null()).then(|| unsafe { Box::from_raw(old) })
    }
}

impl Desk {
    /// Collector only. Unwinds from here once on each scratch area, so that the first signal finds
    /// their memory and the tables' first pages present: 60 µs that no thread of the program pays.
    pub(crate) fn warm_up(&self, code: &CodeMap) {
        for area in 0..self.scratch.len() {
            if let Some(mut taken) = self.scratch.take(area) {
                let depth = self.max_depth.load(Ordering::Relaxed);
                // SAFETY: the calling thread's own stack, in a map made after the thread began.
                unsafe { walk(Registers::here(), code, 0, taken.scratch(), depth) };
            }
        }
    }
}

/// Whether no handler was running on any thread at some moment of this call for each of them.
pub(crate) fn no_handler_runs() -> bool {
    thread::slots().all(|slot| !slot.in_handler.load(Ordering::SeqCst))
}

/// Threads that begin with the same scratch area: what the unwinder learns from one's stack serves the
/// others, and few enough that they seldom meet there.
const THREADS_AN_AREA: usize = 8;

static DESK: AtomicPtr<Desk> = AtomicPtr::new(std::ptr::null_mut());

/// Gives the handlers their desk, for the life of the process.
pub(crate) fn set_desk(desk: &'static Desk) {
    DESK.store(std::ptr::from_ref(desk).cast_mut(), Ordering::Release);
}

/// The handler itself.
pub(crate) extern "C" fn on_signal(_signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: errno belongs to this thread, and its address is good as long as the thread lives.
    let errno = unsafe { &mut *libc::__errno_location() };
    let saved = *errno;
    // SAFETY: the desk is leaked; the kernel passes a valid siginfo and ucontext to a handler that
    // was installed with SA_SIGINFO, and the interrupted thread is this one.
    unsafe {
        if let Some(desk) = DESK.load(Ordering::Acquire).as_ref() {
            on_tick(desk, &*info, &*context.cast::<libc::ucontext_t>());
        }
    }
    *errno = saved;
}

fn on_tick(desk: &Desk, info: &libc::siginfo_t, context: &libc::ucontext_t) {
    let slot = match info.si_code {
        libc::SI_TIMER => timer::thread_of(info),
        _ => perf::thread_of(info),
    };
    // A signal of somebody else, or one that was still under way when its thread's slot was given
    // to another thread.
    let Some(slot) = slot.filter(|slot| slot.tid() == thread::current_tid()) else {
        desk.strays.fetch_add(1, Ordering::Relaxed);
        return;
    };
    slot.in_handler.store(true, Ordering::SeqCst);
    let code = desk.code.load(Ordering::SeqCst);
    // SAFETY: a published map is dropped only after this slot was seen outside the handler.
    if let Some(code) = unsafe { code.as_ref() } {
        let begin_ns = monotonic_ns();
        sample(desk, code, slot, info, context, begin_ns);
        slot.handler_ns.fetch_add(monotonic_ns().saturating_sub(begin_ns), Ordering::Relaxed);
        slot.signals.fetch_add(1, Ordering::Relaxed);
    }
    slot.in_handler.store(false, Ordering::SeqCst);
}

fn sample(
    desk: &Desk,
    code: &CodeMap,
    slot: &ThreadSlot,
    info: &libc::siginfo_t,
    context: &libc::ucontext_t,
    now_ns: u64,
) {
    let period = desk.period.load(Ordering::Relaxed);
    let mut taken = desk.scratch.take(slot.index() as usize / THREADS_AN_AREA);
    let mut no_room = [];
    let kernel_room = taken.as_mut().map_or(&mut no_room[..], |taken| &mut taken.scratch().kernel[..]);
    let ticks = match info.si_code {
        libc::SI_TIMER => timer::ticks(info, slot, now_ns, period, desk.tick_ns),
        _ => perf::ticks(slot, period, kernel_room),
    };
    if ticks.count == 0 {
        // An earlier signal accounted for this one's ticks already.
        return;
    }
    let mut ancestors = [0; MAX_ANCESTORS * ANCESTOR_WORDS];
    let mut ancestor_words = 0;
    let observed = slot.spans.innermost(|record, sequence| {
        record.observe(sequence, ticks.count).map(|identity| (record, sequence, identity))
    });
    let context_found = match observed {
        Innermost::Outside => Context::Outside,
        Innermost::Unknown => Context::Unknown,
        Innermost::In((record, sequence, identity)) => {
            if desk.with_ancestors.load(Ordering::Relaxed) {
                ancestor_words = collect_ancestors(record, sequence, identity.trace_id, &mut ancestors);
            }
            Context::In(identity)
        }
    };
    let registers = Registers::interrupted(context);
    let pc = registers.pc;
    let max_depth = desk.max_depth.load(Ordering::Relaxed);
    let (complete, kernel, user) = match taken.as_mut() {
        Some(taken) => {
            let scratch = taken.scratch();
            // SAFETY: the stack of this very thread: what lies above its stack pointer stays mapped
            // while it runs this handler.
            let walk = unsafe { walk(registers, code, slot.stack_end(), scratch, max_depth) };
            (walk.complete, &scratch.kernel[..ticks.kernel_depth], &scratch.frames[..walk.depth])
        }
        None => {
            desk.without_scratch.fetch_add(1, Ordering::Relaxed);
            (false, &[][..], std::slice::from_ref(&pc))
        }
    };
    let head =
        Head { count: ticks.count, weight: ticks.weight, context: context_found, complete, tid: slot.tid() };
    let ancestors = &ancestors[..ancestor_words];
    let words = head.encode(ancestors.len(), kernel.len(), user.len());
    desk.ring.push([&words, ancestors, kernel, user], ticks.count.into(), ticks.weight);
}

/// Writes the spans around `record` in its trace; how many words.
fn collect_ancestors(record: &SpanRecord, sequence: u32, trace_id: u128, words: &mut [u64]) -> usize {
    let mut count = 0;
    let mut next = record.parent();
    // A parent stays open while its child is, so each of these records is its span's as long as the
    // child is open, which is asked at the end.
    for [id, path] in words.as_chunks_mut::<ANCESTOR_WORDS>().0 {
        let Some(ancestor) = next else { break };
        let identity = ancestor.identity();
        if identity.trace_id != trace_id || identity.span_id == 0 {
            break;
        }
        *id = identity.span_id;
        *path = identity.path.into();
        count += ANCESTOR_WORDS;
        next = ancestor.parent();
    }
    fence(Ordering::Acquire);
    if record.sequence() == sequence { count } else { 0 }
}

#[cfg(test)]
mod tests;

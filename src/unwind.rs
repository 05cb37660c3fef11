//! From registers to a stack of code addresses, without allocating.
//!
//! You give [`walk`] registers, the code map, and where the stack ends; it fills `frames` with the
//! addresses to look up, leaf first, and says whether it reached the thread's entry. It reads the
//! stack between the stack pointer and the end only, and unwind tables that [`CodeMap`] holds.

use std::cell::UnsafeCell;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use framehop::{CacheNative, FrameAddress, MustNotAllocateDuringUnwind, Unwinder, UnwinderNative};

use crate::regs::Registers;

/// Unwind tables: where the object has them mapped, or a copy that outlives the object.
#[derive(Clone)]
pub(crate) enum Section {
    Mapped(&'static [u8]),
    Copied(Arc<[u8]>),
}

impl Default for Section {
    fn default() -> Self {
        Self::Mapped(&[])
    }
}

impl Deref for Section {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Copied(bytes) => bytes,
        }
    }
}

/// All code of the process and all memory that may be a stack, as of one moment.
#[derive(Clone)]
pub(crate) struct CodeMap {
    pub(crate) unwinder: UnwinderNative<Section, MustNotAllocateDuringUnwind>,
    /// Readable and writable mappings, sorted: one of them holds the stack of a thread that did not
    /// tell its own.
    pub(crate) stacks: Arc<[Range<u64>]>,
}

impl CodeMap {
    /// Where the mapping that holds `sp` ends; `None` when there was none when the map was made.
    fn stack_end(&self, sp: u64) -> Option<u64> {
        let after = self.stacks.partition_point(|range| range.start <= sp);
        let range = self.stacks.get(after.checked_sub(1)?)?;
        range.contains(&sp).then_some(range.end)
    }
}

/// What a walk needs to write on: kept off the interrupted thread's stack, which may be small.
pub(crate) struct Scratch {
    rules: Rules,
    /// The addresses found, leaf first.
    pub(crate) frames: Vec<u64>,
    /// The kernel's part of the stack, leaf first.
    pub(crate) kernel: Vec<u64>,
}

/// The unwinding rules of addresses seen before. A rule that has to be found anew costs more than all
/// else in a sample: the tables are in nobody's cache.
struct Rules {
    /// Of interrupted instructions: ever new ones, which would push out the others.
    leaf: Cache,
    /// Of return addresses, which are the same few again and again. One cache has 509 places, and of
    /// two addresses with the same place neither stays: with 30 frames two such are likely in a
    /// single cache, and rare in four.
    callers: [Cache; CALLER_CACHES],
}

type Cache = CacheNative<MustNotAllocateDuringUnwind>;

const CALLER_CACHES: usize = 4;

impl Rules {
    fn new() -> Self {
        Self { leaf: Cache::new_in(), callers: std::array::from_fn(|_| Cache::new_in()) }
    }

    fn of(&mut self, address: FrameAddress) -> &mut Cache {
        match address {
            FrameAddress::InstructionPointer(_) => &mut self.leaf,
            // 509 places: the quotient is independent of the place.
            FrameAddress::ReturnAddress(address) => {
                &mut self.callers[(u64::from(address) / 509) as usize % CALLER_CACHES]
            }
        }
    }
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    /// How many of `frames` are filled.
    pub(crate) depth: usize,
    /// The outermost is the thread's entry.
    pub(crate) complete: bool,
}

/// Unwinds from `registers`. `known_end` is where the thread's own stack ends, or 0.
///
/// # Safety
/// The memory from `registers.sp` to `known_end`, or to the end of the mapping in `code` that holds
/// `registers.sp`, must be readable for as long as the call takes.
pub(crate) unsafe fn walk(
    registers: Registers,
    code: &CodeMap,
    known_end: u64,
    scratch: &mut Scratch,
    max_depth: usize,
) -> Walk {
    let start = registers.sp;
    // A thread may run on another stack than its own: an alternate signal stack, a coroutine's.
    let within_own = known_end > start && known_end - start <= MAX_STACK_BYTES;
    let end = if within_own { known_end } else { code.stack_end(start).unwrap_or(start) };
    let mut read_stack = |address: u64| {
        if address < start || address.checked_add(8).is_none_or(|after| after > end) {
            return Err(());
        }
        // SAFETY: within the stack as bounded above, which the caller vouches for.
        Ok(unsafe { (address as *const u64).read_unaligned() })
    };
    let Scratch { rules, frames, .. } = scratch;
    let mut address = FrameAddress::from_instruction_pointer(registers.pc);
    let mut registers = registers.unwind;
    let mut depth = 0;
    for frame in frames.iter_mut().take(max_depth) {
        *frame = address.address_for_lookup();
        depth += 1;
        let rules = rules.of(address);
        address = match code.unwinder.unwind_frame(address, &mut registers, rules, &mut read_stack) {
            Ok(None) => return Walk { depth, complete: true },
            Ok(Some(caller)) => match FrameAddress::from_return_address(caller) {
                Some(caller) => caller,
                None => break,
            },
            Err(_) => break,
        };
    }
    Walk { depth, complete: false }
}

/// Linux gives a main thread 8 MiB and lets a program ask for more; beyond this, a stack pointer
/// and an end do not belong together.
const MAX_STACK_BYTES: u64 = 1 << 30;

/// A few scratch areas for all threads: as many handlers run at once as there are processors, and
/// some more when one is preempted.
pub(crate) struct ScratchPool {
    areas: Box<[Area]>,
}

struct Area {
    taken: AtomicBool,
    scratch: UnsafeCell<Scratch>,
}

// SAFETY: an area's scratch is touched only by who swapped `taken` from false to true.
unsafe impl Sync for Area {}

/// Exclusive use of a scratch area, given back when dropped.
pub(crate) struct Taken<'a>(&'a Area);

impl ScratchPool {
    pub(crate) fn new(areas: usize, max_depth: usize) -> Self {
        let area = || Area {
            taken: AtomicBool::new(false),
            scratch: UnsafeCell::new(Scratch {
                rules: Rules::new(),
                frames: vec![0; max_depth],
                kernel: vec![0; MAX_KERNEL_FRAMES],
            }),
        };
        Self { areas: (0..areas).map(|_| area()).collect() }
    }

    /// Signal side. A free area, tried from `first` on; `None` when all are taken.
    pub(crate) fn take(&self, first: usize) -> Option<Taken<'_>> {
        (0..self.areas.len())
            .map(|n| &self.areas[(first + n) % self.areas.len()])
            .find(|area| {
                // Looking first keeps the areas of others in their caches.
                !area.taken.load(Ordering::Relaxed) && !area.taken.swap(true, Ordering::Acquire)
            })
            .map(Taken)
    }

    pub(crate) fn len(&self) -> usize {
        self.areas.len()
    }
}

/// The kernel records at most 127 frames (`kernel.perf_event_max_stack`) and a few markers.
pub(crate) const MAX_KERNEL_FRAMES: usize = 136;

impl Taken<'_> {
    pub(crate) fn scratch(&mut self) -> &mut Scratch {
        // SAFETY: this guard is the only one for the area until it is dropped.
        unsafe { &mut *self.0.scratch.get() }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules;

    #[inline(never)]
    fn walk_here(depth: u32, pool: &ScratchPool, code: &CodeMap, max_depth: usize) -> (Walk, Vec<u64>) {
        if depth > 0 {
            return std::hint::black_box(walk_here(depth - 1, pool, code, max_depth));
        }
        let mut taken = pool.take(0).expect("a free area");
        // SAFETY: the stack of this very thread, bounded by a map of its mappings made before.
        let walk = unsafe { walk(Registers::here(), code, 0, taken.scratch(), max_depth) };
        let frames = taken.scratch().frames[..walk.depth].to_vec();
        (walk, frames)
    }

    fn code_map() -> CodeMap {
        let mut modules = modules::Modules::default();
        modules.refresh();
        modules.code_map()
    }

    #[test]
    fn a_walk_reaches_the_entry_of_the_thread() {
        let (code, pool) = (code_map(), ScratchPool::new(1, 256));
        let (shallow, _) = walk_here(0, &pool, &code, 256);
        let (deep, frames) = walk_here(20, &pool, &code, 256);
        assert!(shallow.complete && deep.complete, "{shallow:?} {deep:?}");
        assert_eq!(deep.depth, shallow.depth + 20, "{frames:x?}");
    }

    #[test]
    fn a_stack_deeper_than_the_bound_keeps_the_leaf_and_says_so() {
        let (code, pool) = (code_map(), ScratchPool::new(1, 256));
        let (_, whole) = walk_here(30, &pool, &code, 256);
        let (walk, leaf) = walk_here(30, &pool, &code, 8);
        assert_eq!((walk.depth, walk.complete), (8, false));
        // The first frames are this test's own; from the recursion on they are the same.
        assert_eq!(leaf[2..8], whole[2..8]);
    }

    #[test]
    fn an_unknown_stack_gives_the_leaf_alone() {
        let mut code = code_map();
        code.stacks = Arc::from([]);
        let pool = ScratchPool::new(1, 256);
        let (walk, _) = walk_here(0, &pool, &code, 256);
        assert_eq!((walk.depth, walk.complete), (1, false));
    }

    #[test]
    fn a_second_walk_finds_the_rules_of_the_first() {
        let (code, pool) = (code_map(), ScratchPool::new(1, 256));
        let misses = || {
            let mut taken = pool.take(0).expect("a free area");
            let callers = &taken.scratch().rules.callers;
            callers.iter().map(|cache| cache.stats().misses()).sum::<u64>()
        };
        let [first, second, third] = std::array::from_fn(|_| (walk_here(20, &pool, &code, 256).1, misses()));
        assert!(first.1 > 0, "{first:?}");
        // Where the program is loaded is chance, so two addresses may share a place and push each other
        // out; the unwinder looks up what lies before a return address.
        let callers = &third.0[1..];
        let place = |address: u64| (address / 509 % CALLER_CACHES as u64, (address - 1) % 509);
        let is_pushed_out = |a: &&u64| callers.iter().any(|b| b != *a && place(*b) == place(**a));
        let pushed_out = callers.iter().filter(is_pushed_out).count() as u64;
        assert!(third.1 - second.1 <= pushed_out, "{second:?} {third:?}");
    }

    #[test]
    fn areas_are_taken_by_one_at_a_time() {
        let pool = ScratchPool::new(2, 8);
        let first = pool.take(0).expect("free");
        let second = pool.take(0).expect("free");
        assert!(pool.take(0).is_none());
        drop(first);
        assert!(pool.take(1).is_some());
        drop(second);
    }
}

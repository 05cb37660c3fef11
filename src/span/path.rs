//! Span paths as numbers: the names of the spans from the root down, `checkout › price`.
//!
//! A path is its parent's path and one name more, so it is known when a span is made and needs no
//! walk when a sample falls. Names and paths are kept for the life of the process and are bounded;
//! what comes after the bound is called `other`, and counted.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tracing::Metadata;

use super::record::Life;
use crate::patience;

/// The path of no span at all; the parent of root spans.
pub(crate) const ROOT: u32 = 0;
/// The path of spans beyond the bounds.
pub(crate) const OTHER: u32 = 1;

/// Distinct names, after which spans are called `other`: a name is a series label in Pyroscope,
/// and each value costs the server a series.
pub(crate) const MAX_NAMES: usize = 500;
/// Distinct paths. Recursion through spans makes a path per level.
const MAX_PATHS: usize = 8192;
/// Spans that a path names; deeper ones share the path of their ancestor at this level.
const MAX_LEVELS: u16 = 64;
/// What the spans of one path did, in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) polls: u64,
    pub(crate) migrations: u64,
    pub(crate) closed: u64,
}

struct Node {
    parent: u32,
    level: u16,
    name: Arc<str>,
    counts: &'static Counts,
}

#[derive(Default)]
struct Counts {
    polls: AtomicU64,
    migrations: AtomicU64,
    closed: AtomicU64,
}

struct Paths {
    nodes: Vec<Node>,
    by_name: HashMap<(u32, Arc<str>), u32>,
    names: HashSet<Arc<str>>,
    /// How many places of `KNOWN` are taken.
    known: usize,
}

static PATHS: Mutex<Option<Paths>> = Mutex::new(None);
/// The counts of each path, for `closed` to find without the lock.
static COUNTS: [AtomicPtr<Counts>; MAX_PATHS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; MAX_PATHS];
static OVERFLOWED: AtomicU64 = AtomicU64::new(0);

impl Paths {
    fn new() -> Self {
        let mut paths = Self { nodes: Vec::new(), by_name: HashMap::new(), names: HashSet::new(), known: 0 };
        paths.add(ROOT, 0, "".into());
        paths.add(ROOT, 1, "other".into());
        paths
    }

    fn add(&mut self, parent: u32, level: u16, name: Arc<str>) -> u32 {
        let path = self.nodes.len() as u32;
        let counts: &'static Counts = Box::leak(Box::default());
        COUNTS[path as usize].store(std::ptr::from_ref(counts).cast_mut(), Ordering::Release);
        self.nodes.push(Node { parent, level, name, counts });
        path
    }

    fn child(&mut self, parent: u32, name: &str) -> u32 {
        let level = self.nodes[parent as usize].level;
        if level >= MAX_LEVELS {
            OVERFLOWED.fetch_add(1, Ordering::Relaxed);
            return parent;
        }
        let name: Arc<str> = name.into();
        if let Some(&path) = self.by_name.get(&(parent, name.clone())) {
            return path;
        }
        let name_is_new = !self.names.contains(&name);
        if self.nodes.len() >= MAX_PATHS || (name_is_new && self.names.len() >= MAX_NAMES) {
            OVERFLOWED.fetch_add(1, Ordering::Relaxed);
            return OTHER;
        }
        self.names.insert(name.clone());
        let path = self.add(parent, level + 1, name.clone());
        self.by_name.insert((parent, name), path);
        path
    }
}

fn lock() -> MutexGuard<'static, Option<Paths>> {
    PATHS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Places in the table of known children: a power of two, and twice as many as are ever taken.
const PLACES: usize = 1 << 14;
const MAX_KNOWN: usize = PLACES / 2;

/// A span's metadata and its parent's path as one number, and the path they make. Entries are added
/// under the lock of `PATHS` and never change, so they are found without it.
static KNOWN: [(AtomicU64, AtomicU32); PLACES] = [const { (AtomicU64::new(0), AtomicU32::new(0)) }; PLACES];

/// The place of a key, or the free one where it would be.
#[inline]
fn place(key: u64) -> &'static (AtomicU64, AtomicU32) {
    // 2⁶⁴ divided by the golden ratio spreads the keys over the upper bits.
    let mut at = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - PLACES.trailing_zeros())) as usize;
    loop {
        // Half of the places are always free, so this ends.
        let place = &KNOWN[at];
        let taken = place.0.load(Ordering::Acquire);
        if taken == key || taken == 0 {
            return place;
        }
        at = (at + 1) % PLACES;
    }
}

/// The path of a span made under `parent`.
#[inline]
pub(crate) fn child(parent: u32, metadata: &'static Metadata<'static>) -> u32 {
    // An address in user space has at most 52 bits unless a program asks for more, and the three
    // lowest of a `Metadata`'s are zero; a path has 13.
    const _: () = assert!(MAX_PATHS <= 1 << 13 && align_of::<Metadata<'static>>() >= 8);
    let key = (std::ptr::from_ref(metadata) as u64 >> 3) << 13 | u64::from(parent);
    let (known, path) = place(key);
    if known.load(Ordering::Acquire) == key {
        path.load(Ordering::Relaxed)
    } else {
        learn(parent, metadata, key)
    }
}

#[cold]
fn learn(parent: u32, metadata: &'static Metadata<'static>, key: u64) -> u32 {
    let Some(mut paths) = patience::lock(&PATHS) else {
        OVERFLOWED.fetch_add(1, Ordering::Relaxed);
        return OTHER;
    };
    let paths = paths.get_or_insert_with(Paths::new);
    let path = paths.child(parent, metadata.name());
    let (known, value) = place(key);
    if known.load(Ordering::Relaxed) == 0 && paths.known < MAX_KNOWN {
        paths.known += 1;
        value.store(path, Ordering::Relaxed);
        known.store(key, Ordering::Release);
    }
    path
}

/// Adds what a span did to its path.
#[inline]
pub(crate) fn closed(life: Life) {
    let Some(counts) = COUNTS.get(life.path as usize) else { return };
    // SAFETY: only leaked boxes are stored here.
    let Some(counts) = (unsafe { counts.load(Ordering::Acquire).as_ref() }) else { return };
    counts.closed.fetch_add(1, Ordering::Relaxed);
    counts.polls.fetch_add(u64::from(life.polls), Ordering::Relaxed);
    if life.migrations != 0 {
        counts.migrations.fetch_add(u64::from(life.migrations), Ordering::Relaxed);
    }
}

/// How many spans got the name `other`, or their ancestor's path, for being beyond a bound.
pub(crate) fn overflowed() -> u64 {
    OVERFLOWED.load(Ordering::Relaxed)
}

/// Thread side. A copy of the known paths that grows with them.
#[derive(Default)]
pub(crate) struct Book {
    paths: Vec<Arc<[Arc<str>]>>,
}

impl Book {
    /// Takes over the paths that are new since the last time.
    pub(crate) fn refresh(&mut self) {
        let mut guard = lock();
        let nodes = &guard.get_or_insert_with(Paths::new).nodes;
        for (at, node) in nodes.iter().enumerate().skip(self.paths.len()) {
            let path = match at as u32 {
                ROOT => Arc::from([]),
                _ => self.paths[node.parent as usize].iter().cloned().chain([node.name.clone()]).collect(),
            };
            self.paths.push(path);
        }
    }

    /// The names from the root down; empty for a number that is not known.
    pub(crate) fn names(&self, path: u32) -> Arc<[Arc<str>]> {
        self.paths.get(path as usize).cloned().unwrap_or_default()
    }

    /// What the spans of each path did until now, by path number.
    pub(crate) fn usage(&self) -> Vec<Usage> {
        let guard = lock();
        let nodes = guard.as_ref().map_or(&[][..], |paths| &paths.nodes[..]);
        nodes
            .iter()
            .map(|node| Usage {
                polls: node.counts.polls.load(Ordering::Relaxed),
                migrations: node.counts.migrations.load(Ordering::Relaxed),
                closed: node.counts.closed.load(Ordering::Relaxed),
            })
            .collect()
    }
}

/// What was done between two readings of [`Book::usage`], by path number.
pub(crate) fn difference(now: &[Usage], before: &[Usage]) -> Vec<Usage> {
    let before = before.iter().copied().chain(std::iter::repeat(Usage::default()));
    let done = |(now, before): (&Usage, Usage)| Usage {
        polls: now.polls - before.polls,
        migrations: now.migrations - before.migrations,
        closed: now.closed - before.closed,
    };
    now.iter().zip(before).map(done).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(paths: &Paths, mut path: u32) -> String {
        let mut names = Vec::new();
        while path != ROOT {
            let node = &paths.nodes[path as usize];
            names.push(&*node.name);
            path = node.parent;
        }
        names.reverse();
        names.join(" › ")
    }

    // `add` publishes counts under the path's number, which a second `Paths` would take from the
    // real one: harmless here, since these tests look at names only.
    #[test]
    fn a_path_is_the_same_number_each_time() {
        let mut paths = Paths::new();
        let checkout = paths.child(ROOT, "checkout");
        let price = paths.child(checkout, "price");
        assert_eq!(names(&paths, price), "checkout › price");
        assert_eq!(paths.child(checkout, "price"), price);
        assert_ne!(paths.child(ROOT, "price"), price);
    }

    #[test]
    fn threads_that_meet_a_span_at_once_agree_on_its_path() {
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            let span = tracing::info_span!("met at once");
            let metadata = span.metadata().expect("enabled");
            let start = std::sync::Barrier::new(4);
            let paths = std::thread::scope(|scope| {
                let ask = || {
                    start.wait();
                    child(child(ROOT, metadata), metadata)
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
                threads.into_iter().map(|t| t.join().expect("no panic")).collect::<Vec<_>>()
            });
            let mut book = Book::default();
            book.refresh();
            assert_eq!(*book.names(paths[0]), ["met at once".into(), "met at once".into()]);
            assert!(paths.iter().all(|path| path == &paths[0]), "{paths:?}");
        });
    }

    #[test]
    fn names_beyond_the_bound_are_called_other() {
        let mut paths = Paths::new();
        for n in 0..MAX_NAMES {
            assert_ne!(paths.child(ROOT, &format!("span {n}")), OTHER);
        }
        assert_eq!(names(&paths, paths.nodes.len() as u32 - 1), format!("span {}", MAX_NAMES - 1));
        assert_eq!(paths.child(ROOT, "one more"), OTHER);
        // Known names still make new paths.
        assert_ne!(paths.child(2, "span 1"), OTHER);
    }

    #[test]
    fn recursion_stops_at_the_deepest_level() {
        let mut paths = Paths::new();
        let mut path = ROOT;
        for _ in 0..10 * MAX_LEVELS {
            path = paths.child(path, "again");
        }
        assert_eq!(names(&paths, path).split(" › ").count(), MAX_LEVELS as usize);
    }
}

//! Locks that threads of the application take: each is held for microseconds, and waited for a little.
//!
//! Whoever holds one may be preempted meanwhile, so a thread that finds it taken lets others run. It
//! does not wait for ever: after a fork, the thread that held the lock may not exist any more, and
//! that will not change.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::thread;
use std::time::Duration;

/// Tries while the holder is likely to be running, some microseconds in all.
const SPINS: u32 = 200;
/// Pauses in which others run: a tenth of a second in all, some turns of the scheduler.
const PAUSES: u32 = 1000;
const PAUSE: Duration = Duration::from_micros(50);

/// A holder was given up: from then on nobody pauses for one.
static GIVEN_UP: AtomicBool = AtomicBool::new(false);

/// The lock; `None` when its holder never gives it back.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    lock_unless(mutex, &GIVEN_UP)
}

fn lock_unless<'a, T>(mutex: &'a Mutex<T>, given_up: &AtomicBool) -> Option<MutexGuard<'a, T>> {
    for n in 0..SPINS + PAUSES {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if n < SPINS => std::hint::spin_loop(),
            Err(TryLockError::WouldBlock) if given_up.load(Ordering::Relaxed) => return None,
            Err(TryLockError::WouldBlock) => thread::sleep(PAUSE),
        }
    }
    given_up.store(true, Ordering::Relaxed);
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_holder_that_is_slow_is_waited_for() {
        let mutex = Mutex::new(1);
        thread::scope(|scope| {
            let (taken, is_taken) = mpsc::channel();
            let mutex = &mutex;
            scope.spawn(move || {
                let mut guard = mutex.lock().expect("nobody panicked");
                taken.send(()).expect("the test waits");
                // As if it were preempted: others run in between.
                (0..20).for_each(|_| thread::yield_now());
                *guard = 2;
            });
            is_taken.recv().expect("it took the lock");
            assert_eq!(lock(mutex).map(|guard| *guard), Some(2));
        });
    }

    #[test]
    fn a_holder_that_does_not_exist_any_more_is_given_up() {
        let mutex = Mutex::new(1);
        std::mem::forget(mutex.lock());
        let given_up = AtomicBool::new(false);
        assert!(lock_unless(&mutex, &given_up).is_none());
        assert!(given_up.load(Ordering::Relaxed));
    }
}

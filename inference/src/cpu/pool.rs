//! A small thread pool that parks.
//!
//! A thread looks for some microseconds before it parks, so that the products of one step follow
//! each other without a wake, and no more, so that a busy machine loses nothing to it.
//!
//! The caller works, too: it starts at once, and helpers that wake in time take items from the same
//! list. A helper that wakes late finds nothing and costs nothing. Which thread
//! takes which item never matters: every item is computed by itself.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::Level;

/// Threads for [`Pool::for_each`], and the level of instructions that they use.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) level: Level,
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `threads` threads, the caller's included.
    pub(crate) fn new(threads: NonZeroUsize, level: Level) -> io::Result<Self> {
        let mut pool = Self::alone(level);
        for _ in 1..threads.get() {
            let shared = Arc::clone(&pool.shared);
            let builder = std::thread::Builder::new().name("inference".to_owned());
            pool.helpers.push(builder.spawn(move || shared.help())?);
        }
        Ok(pool)
    }

    /// No thread but the caller's.
    pub(crate) fn alone(level: Level) -> Self {
        Self {
            level,
            shared: Arc::default(),
            helpers: Vec::new(),
        }
    }

    /// The number of threads, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `work` once for every item, on any thread, and returns when all are done. With
    /// `alone`, the caller does it all: right for work that is shorter than waking a thread.
    pub(crate) fn for_each<I: Iterator + Send>(
        &self,
        items: I,
        alone: bool,
        work: impl Fn(I::Item) + Sync,
    ) {
        if alone || self.helpers.is_empty() {
            items.for_each(work);
            return;
        }
        let items = Mutex::new(items);
        self.shared.run(&|| {
            loop {
                let item = lock(&items).next();
                match item {
                    Some(item) => work(item),
                    None => break,
                }
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.state).stop = true;
        self.shared.wake.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper that panicked has nothing left to tell.
            let _ = helper.join();
        }
    }
}

/// What all threads run at the same time; it takes its own share of the work.
type Task<'a> = &'a (dyn Fn() + Sync);

/// How often a thread looks before it parks: some microseconds, as between two products of a step.
/// Waking a parked one takes longer than many a product.
const LOOKS: usize = 400;

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// The number of the last offer, to be looked at without the lock: a hint, and no more.
    offered: AtomicU64,
    /// Whether helpers are inside: a hint, too.
    occupied: AtomicBool,
    wake: Condvar,
    done: Condvar,
}

#[derive(Default)]
struct State {
    /// The task on offer, and a number that differs from the one before.
    task: Option<Task<'static>>,
    number: u64,
    /// Helpers inside the task.
    inside: usize,
    panicked: bool,
    stop: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    #[allow(unsafe_code, clippy::panic)]
    fn run(&self, task: Task<'_>) {
        // Justified: the borrowed data of one step (weights, activations, cache) reaches threads
        // that outlive the step, without a copy or a reference count for each operation.
        // SAFETY: only the lifetime is changed. The task is reachable through `state.task` alone.
        // A helper takes it and counts itself `inside` under one lock. `Retract` runs on every way
        // out of this function, also when the task panics here: it removes the task under that lock
        // and waits until nobody is inside. So no use of the reference outlives this call.
        let task = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(task) };
        {
            let mut state = lock(&self.state);
            state.task = Some(task);
            state.number += 1;
            self.offered.store(state.number, Ordering::Release);
        }
        self.wake.notify_all();
        let retract = Retract(self);
        task();
        drop(retract);
        assert!(!lock(&self.state).panicked, "a helper thread panicked");
    }

    fn help(&self) {
        let mut seen = 0;
        let mut looked = true;
        let mut state = lock(&self.state);
        loop {
            if state.stop {
                return;
            }
            let offer = state.task.filter(|_| state.number != seen);
            let Some(task) = offer else {
                if !looked {
                    drop(state);
                    look(|| self.offered.load(Ordering::Acquire) != seen);
                    looked = true;
                    state = lock(&self.state);
                    continue;
                }
                state = self
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            seen = state.number;
            looked = false;
            state.inside += 1;
            self.occupied.store(true, Ordering::Release);
            drop(state);
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(task));
            state = lock(&self.state);
            state.panicked |= result.is_err();
            state.inside -= 1;
            if state.inside == 0 {
                self.occupied.store(false, Ordering::Release);
                self.done.notify_all();
            }
        }
    }
}

/// Takes the task back, and waits for those inside.
struct Retract<'a>(&'a Shared);

impl Drop for Retract<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.task = None;
        if state.inside > 0 {
            drop(state);
            look(|| !self.0.occupied.load(Ordering::Acquire));
            state = lock(&self.0.state);
        }
        while state.inside > 0 {
            state = self
                .0
                .done
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Waits for a moment, or until `seen`.
fn look(seen: impl Fn() -> bool) {
    for _ in 0..LOOKS {
        if seen() {
            return;
        }
        std::hint::spin_loop();
    }
}

/// No invariant spans a panic here: a poisoned lock is as good as another.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn pool(threads: usize) -> Pool {
        Pool::new(
            NonZeroUsize::new(threads).expect("threads"),
            Level::Baseline,
        )
        .expect("a pool")
    }

    #[test]
    fn every_item_is_done_once_and_before_the_return() {
        for threads in [1, 2, 5] {
            let pool = pool(threads);
            for round in 0..2_000 {
                let mut data = vec![0usize; round % 17];
                pool.for_each(data.iter_mut().enumerate(), false, |(i, slot)| {
                    *slot += i + 1
                });
                assert!(data.iter().enumerate().all(|(i, value)| *value == i + 1));
            }
        }
    }

    #[test]
    fn a_panic_anywhere_reaches_the_caller_and_leaves_no_borrow() {
        let pool = pool(3);
        for _ in 0..50 {
            let done = AtomicUsize::new(0);
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.for_each(0..100, false, |item| {
                    assert_ne!(item, 50, "provoked");
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }));
            assert!(result.is_err());
            assert!(done.load(Ordering::Relaxed) < 100);
        }
    }
}

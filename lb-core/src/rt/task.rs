//! The executor's tasks: `!Send` futures in a slab, a run queue, and wakers that are names.
//!
//! A waker is no pointer but a number (runtime, generation, index): cloning and dropping it is
//! free, and a stale one, even of a runtime that has ended, wakes nothing or at worst polls a
//! task once more than needed.
//! Read next: `runtime.rs`, which runs the queue.
#![allow(unsafe_code, reason = "a RawWaker cannot be made without")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr;
use std::task::{Context, RawWaker, RawWakerVTable, Waker};

use super::pages::Pages;
use super::{context, remote};

/// Names a spawned task. A name whose task has ended is harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskId {
    index: u32,
    generation: u16,
}

/// Spawns a task on the calling thread's runtime: one heap allocation.
///
/// # Panics
/// Outside of a runtime.
pub fn spawn(future: impl Future<Output = ()> + 'static) -> TaskId {
    context::with(|core| core.tasks.insert(Box::pin(future)))
}

/// Drops the task's future, at once or, if it is the running one, at the end of its poll. Nothing
/// happens if it has ended.
pub fn abort(task: TaskId) {
    let future = context::try_with(|core| core.tasks.remove(task)).flatten();
    drop(future); // may spawn, wake or abort: so not while the slab is borrowed
}

/// Has the calling task polled again behind what the next turn of the engine brings, for which that
/// turn does not wait.
///
/// # Panics
/// Outside of a runtime.
pub fn wake_after_turn(cx: &Context<'_>) {
    context::with(|core| core.tasks.later.borrow_mut().push(cx.waker().clone()));
}

/// Tasks that panicked on the calling thread's runtime. A panic ends its task and no other.
#[must_use]
pub fn panics() -> u64 {
    context::try_with(|core| core.tasks.panics.get()).unwrap_or(0)
}

type BoxFuture = Pin<Box<dyn Future<Output = ()>>>;

/// The future given to `block_on` has this index and no entry in the slab.
pub(crate) const MAIN: u32 = u32::MAX;

struct Entry {
    future: Option<BoxFuture>,
    generation: u16,
    live: bool,
    scheduled: bool,
}

pub(crate) struct Tasks {
    runtime: u16,
    entries: RefCell<Pages<Entry>>,
    vacant: RefCell<Vec<u32>>,
    ready: RefCell<VecDeque<u32>>,
    /// Who is ready behind the next turn of the engine.
    later: RefCell<Vec<Waker>>,
    main_ready: Cell<bool>,
    live: Cell<usize>,
    panics: Cell<u64>,
}

impl Tasks {
    pub(crate) fn new(runtime: u16) -> Self {
        Self {
            runtime,
            entries: RefCell::default(),
            vacant: RefCell::default(),
            ready: RefCell::default(),
            later: RefCell::default(),
            main_ready: Cell::new(true),
            live: Cell::new(0),
            panics: Cell::new(0),
        }
    }

    /// Number of tasks that have not ended.
    pub(crate) fn live(&self) -> usize {
        self.live.get()
    }

    fn insert(&self, future: BoxFuture) -> TaskId {
        let mut entries = self.entries.borrow_mut();
        let index = self.vacant.borrow_mut().pop().unwrap_or_else(|| {
            entries.push(Entry {
                future: None,
                generation: 0,
                live: false,
                scheduled: false,
            })
        });
        let entry = &mut entries[index];
        entry.future = Some(future);
        entry.live = true;
        entry.scheduled = true;
        self.live.set(self.live.get() + 1);
        self.ready.borrow_mut().push_back(index);
        TaskId {
            index,
            generation: entry.generation,
        }
    }

    /// Ends a task; the caller drops the future that is handed out, if it is not being polled.
    #[must_use]
    fn remove(&self, task: TaskId) -> Option<BoxFuture> {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.get_mut(task.index)?;
        if !entry.live || entry.generation != task.generation {
            return None;
        }
        entry.live = false;
        let future = entry.future.take();
        if future.is_some() {
            self.vacate(entry, task.index);
        } // else it is running: `run_one` vacates it
        future
    }

    fn vacate(&self, entry: &mut Entry, index: u32) {
        entry.live = false;
        entry.generation = entry.generation.wrapping_add(1);
        self.live.set(self.live.get() - 1);
        self.vacant.borrow_mut().push(index);
    }

    pub(crate) fn wake(&self, index: u32, generation: u16) {
        if index == MAIN {
            self.main_ready.set(true);
            return;
        }
        if let Some(entry) = self.entries.borrow_mut().get_mut(index)
            && entry.generation == generation
            && !entry.scheduled
        {
            entry.scheduled = true;
            self.ready.borrow_mut().push_back(index);
        }
    }

    pub(crate) fn take_main_ready(&self) -> bool {
        self.main_ready.replace(false)
    }

    /// True if there is something to poll without waiting for the engine.
    pub(crate) fn has_ready(&self) -> bool {
        self.main_ready.get() || !self.ready.borrow().is_empty() || !self.later.borrow().is_empty()
    }

    /// The engine has turned, and has woken whom it woke.
    pub(crate) fn wake_later(&self) {
        let mut later = std::mem::take(&mut *self.later.borrow_mut());
        later.drain(..).for_each(Waker::wake);
        *self.later.borrow_mut() = later; // it keeps its memory
    }

    /// Polls ready tasks, `polls_max` at most, so that the engine is never starved.
    pub(crate) fn run(&self, polls_max: usize) {
        for _ in 0..polls_max {
            let Some(index) = self.ready.borrow_mut().pop_front() else {
                return;
            };
            self.run_one(index);
        }
    }

    fn run_one(&self, index: u32) {
        let (future, generation) = {
            let mut entries = self.entries.borrow_mut();
            let entry = &mut entries[index];
            entry.scheduled = false;
            (entry.future.take(), entry.generation)
        };
        let Some(mut future) = future else { return };
        let waker = self.waker(index, generation);
        let poll = || future.as_mut().poll(&mut Context::from_waker(&waker));
        let ended = match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(poll) => poll.is_ready(),
            Err(_) => {
                self.panics.set(self.panics.get() + 1);
                true
            }
        };
        let mut entries = self.entries.borrow_mut();
        let entry = &mut entries[index];
        if entry.live && !ended {
            entry.future = Some(future);
            return;
        }
        entry.live = false; // from here on a waker in the future's drop finds nothing
        drop(entries);
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(future)));
        if dropped.is_err() {
            self.panics.set(self.panics.get() + 1);
        }
        let mut entries = self.entries.borrow_mut();
        self.vacate(&mut entries[index], index);
    }

    /// Drops every task, those included that a drop spawns.
    pub(crate) fn clear(&self) {
        loop {
            let found = self
                .entries
                .borrow()
                .iter()
                .find(|(_, entry)| entry.future.is_some())
                .map(|(index, entry)| TaskId {
                    index,
                    generation: entry.generation,
                });
            let Some(task) = found else { return };
            let future = self.remove(task);
            drop(future);
        }
    }

    pub(crate) fn waker(&self, index: u32, generation: u16) -> Waker {
        let name = WakerName {
            runtime: self.runtime,
            generation,
            index,
        };
        // SAFETY: the vtable's functions take the data for a number and never dereference it, so
        // the waker may be sent to and used on any thread, for ever.
        unsafe { Waker::from_raw(name.raw()) }
    }
}

/// What a waker's data says: 16 bits runtime, 16 bits generation, 32 bits index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct WakerName {
    runtime: u16,
    generation: u16,
    index: u32,
}

const _: () = assert!(usize::BITS == 64, "a waker's name fills a 64-bit pointer");

impl WakerName {
    fn raw(self) -> RawWaker {
        let bits =
            (self.runtime as usize) << 48 | (self.generation as usize) << 32 | self.index as usize;
        RawWaker::new(ptr::without_provenance(bits), &VTABLE)
    }

    fn of(data: *const ()) -> Self {
        let bits = data.addr();
        Self {
            runtime: (bits >> 48) as u16,
            generation: (bits >> 32) as u16,
            index: bits as u32,
        }
    }

    fn wake(self) {
        let local = context::try_with(|core| {
            let local = core.tasks.runtime == self.runtime;
            if local {
                core.tasks.wake(self.index, self.generation);
            }
            local
        });
        if local != Some(true) {
            remote::wake(self.runtime, self.index, self.generation);
        }
    }
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(
    |data| RawWaker::new(data, &VTABLE),
    |data| WakerName::of(data).wake(),
    |data| WakerName::of(data).wake(),
    |_| {},
);

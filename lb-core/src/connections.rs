//! The client connections of one worker: counted, and closed when the process drains, without
//! each of them having to listen for that.
//!
//! Invariant: a connection is in the registry, and in its listener's `active` gauge, exactly as
//! long as its [`Registration`] lives, however its task ends (return, abort or panic).
//! Read next: `worker.rs` (who owns the registry), `rt/mod.rs` (`spawn` and `abort`).

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use crate::metrics::ListenerCounters;
use crate::rt::{self, TaskId};

/// The client connections of one worker.
#[derive(Debug, Default)]
pub struct Registry {
    entries: Rc<RefCell<Entries>>,
}

impl Registry {
    /// Spawns the task of a new client connection: the future that `serve` makes of its
    /// [`Registration`]. Counts it as accepted and active on `listener`.
    ///
    /// ```ignore
    /// let shard = Arc::clone(stats.shard(worker.index));
    /// worker.connections.spawn(shard, |registration| lb_l4::serve(stream, service, registration));
    /// ```
    pub fn spawn<F>(&self, listener: Arc<ListenerCounters>, serve: impl FnOnce(Registration) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        listener.accepted.increment();
        listener.active.increment();
        let slot = self.entries.borrow_mut().insert();
        let task = rt::spawn(serve(Registration {
            entries: Rc::clone(&self.entries),
            listener,
            slot,
        }));
        self.entries.borrow_mut().slots[slot as usize].task = Some(task);
    }

    /// Number of connections.
    pub fn len(&self) -> usize {
        let entries = self.entries.borrow();
        entries.slots.len() - entries.free.len()
    }

    /// True without connections.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the connections that are idle: between two exchanges, with nothing to lose.
    pub fn close_idle(&self) {
        self.abort_where(|slot| slot.idle);
    }

    /// Ends every connection, whatever it is doing.
    pub fn abort_all(&self) {
        self.abort_where(|_| true);
    }

    fn abort_where(&self, matches: impl Fn(&Slot) -> bool) {
        // Collected first: an abort may drop a `Registration`, which borrows the entries.
        let tasks: Vec<TaskId> = {
            let entries = self.entries.borrow();
            entries
                .slots
                .iter()
                .filter(|slot| matches(slot))
                .filter_map(|slot| slot.task)
                .collect()
        };
        for task in tasks {
            rt::abort(task);
        }
    }
}

/// A client connection's place in the registry; dropped with the connection's task.
#[derive(Debug)]
pub struct Registration {
    entries: Rc<RefCell<Entries>>,
    listener: Arc<ListenerCounters>,
    slot: u32,
}

impl Registration {
    /// Tells whether the connection may be closed at any moment without losing anything: true
    /// while a keep-alive connection waits for its next request. A connection starts as busy.
    pub fn set_idle(&self, idle: bool) {
        self.entries.borrow_mut().slots[self.slot as usize].idle = idle;
    }

    /// This worker's counters of the listener that accepted the connection.
    pub fn listener(&self) -> &ListenerCounters {
        &self.listener
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.listener.active.decrement();
        self.entries.borrow_mut().remove(self.slot);
    }
}

/// A slab: a freed slot is used again, so that a slot's number stays small.
#[derive(Debug, Default)]
struct Entries {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Entries {
    fn insert(&mut self) -> u32 {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        let slot = u32::try_from(self.slots.len()).expect("fewer connections than descriptors");
        self.slots.push(Slot::default());
        slot
    }

    fn remove(&mut self, slot: u32) {
        self.slots[slot as usize] = Slot::default();
        self.free.push(slot);
    }
}

#[derive(Debug, Default)]
struct Slot {
    /// `None` in a free slot, and for the moment between `insert` and the spawn.
    task: Option<TaskId>,
    idle: bool,
}

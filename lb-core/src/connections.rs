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

use crate::balance::BackendId;
use crate::metrics::{ListenerCounters, WorkerMetrics};
use crate::rt::{self, TaskId};

/// The client connections of one worker.
#[derive(Debug, Default)]
pub struct Registry {
    entries: Rc<RefCell<Entries>>,
}

impl Registry {
    /// Without connections; `metrics` shows how many there are.
    pub fn new(metrics: Arc<WorkerMetrics>) -> Self {
        let entries = Entries {
            metrics,
            ..Entries::default()
        };
        Self {
            entries: Rc::new(RefCell::new(entries)),
        }
    }

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

    /// Ends the connections that are relayed to backends that `matches`, whatever they are doing.
    pub fn abort_sessions(&self, matches: impl Fn(BackendId) -> bool) {
        self.abort_where(|slot| slot.backend.is_some_and(&matches));
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

    /// Tells that the connection is relayed to a backend until it ends.
    pub fn set_backend(&self, backend: BackendId) {
        self.entries.borrow_mut().slots[self.slot as usize].backend = Some(backend);
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
    metrics: Arc<WorkerMetrics>,
}

impl Entries {
    fn insert(&mut self) -> u32 {
        self.metrics.connections.increment();
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        let slot = u32::try_from(self.slots.len()).expect("fewer connections than descriptors");
        self.slots.push(Slot::default());
        slot
    }

    fn remove(&mut self, slot: u32) {
        self.metrics.connections.decrement();
        self.slots[slot as usize] = Slot::default();
        self.free.push(slot);
    }
}

#[derive(Debug, Default)]
struct Slot {
    /// `None` in a free slot, and for the moment between `insert` and the spawn.
    task: Option<TaskId>,
    idle: bool,
    backend: Option<BackendId>,
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::rc::Rc;

    use super::*;
    use crate::rt::{Config, Notify, Runtime, yield_now};

    fn run<F: Future>(body: impl FnOnce(Registry, Arc<ListenerCounters>) -> F) -> F::Output {
        let mut runtime = Runtime::new(&Config::default()).expect("epoll is there");
        runtime.block_on(body(Registry::default(), Arc::default()))
    }

    async fn idle(registration: Registration) {
        registration.set_idle(true);
        pending().await
    }

    async fn busy(_registration: Registration) {
        pending().await
    }

    #[test]
    fn a_connection_is_counted_while_it_lives() {
        run(|registry, listener| async move {
            let end = Rc::new(Notify::new());
            let ended = Rc::clone(&end);
            registry.spawn(Arc::clone(&listener), |registration| async move {
                ended.notified().await;
                assert_eq!(registration.listener().accepted.get(), 1);
            });
            assert_eq!((registry.len(), listener.active.get()), (1, 1));
            yield_now().await;
            end.notify();
            yield_now().await;
            assert!(registry.is_empty());
            assert_eq!((listener.accepted.get(), listener.active.get()), (1, 0));
        });
    }

    #[test]
    fn only_idle_connections_are_closed_by_close_idle() {
        run(|registry, listener| async move {
            registry.spawn(Arc::clone(&listener), idle);
            registry.spawn(Arc::clone(&listener), busy);
            registry.spawn(Arc::clone(&listener), idle);
            // Not polled yet, so none has said that it is idle.
            registry.close_idle();
            assert_eq!(registry.len(), 3);
            yield_now().await;
            registry.close_idle();
            assert_eq!((registry.len(), listener.active.get()), (1, 1));
            registry.abort_all();
            assert_eq!((registry.len(), listener.active.get()), (0, 0));
        });
    }

    #[test]
    fn a_panic_takes_the_connection_out_too() {
        run(|registry, listener| async move {
            registry.spawn(Arc::clone(&listener), |registration| async move {
                assert!(registration.listener().active.get() > 1, "meant to fail");
            });
            yield_now().await;
            assert_eq!((registry.len(), listener.active.get()), (0, 0));
        });
    }

    #[test]
    fn a_task_may_close_the_others_and_itself() {
        run(|registry, listener| async move {
            let registry = Rc::new(registry);
            let own = Rc::clone(&registry);
            registry.spawn(Arc::clone(&listener), idle);
            registry.spawn(Arc::clone(&listener), |registration| async move {
                own.abort_all();
                drop(registration);
                pending().await
            });
            yield_now().await;
            assert!(registry.is_empty());
        });
    }

    #[test]
    fn places_are_used_again() {
        run(|registry, listener| async move {
            for _ in 0..100 {
                registry.spawn(Arc::clone(&listener), |_| ready(()));
                yield_now().await;
            }
            assert_eq!(registry.entries.borrow().slots.len(), 1);
            registry.spawn(Arc::clone(&listener), busy);
            yield_now().await;
            registry.close_idle();
            assert_eq!(registry.len(), 1, "a place starts as busy again");
        });
    }

    #[test]
    fn the_end_of_the_runtime_ends_the_connections() {
        let listener = Arc::<ListenerCounters>::default();
        let registry = Registry::default();
        {
            let mut runtime = Runtime::new(&Config::default()).expect("epoll is there");
            runtime.block_on(async {
                registry.spawn(Arc::clone(&listener), busy);
                yield_now().await;
            });
        }
        assert_eq!((registry.len(), listener.active.get()), (0, 0));
    }
}

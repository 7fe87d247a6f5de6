//! How workers help each other out where a backend may have so many connections of each worker
//! only: who wants one, and whose room the connections take that have gone to another.
//!
//! Invariant: room is neither made nor lost. A connection that has left its worker takes that
//! one's room for as long as its [`Room`] lives, wherever it is.
//! Read next: `backend.rs`.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use super::Backend;

/// Of one backend. Most have no limit, and so nothing in here.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    shares: OnceLock<Box<[Share]>>,
}

/// Of one worker; all on few cache lines, as they are read together and rarely written.
#[derive(Debug, Default)]
struct Share {
    /// Connections that it lacks and nobody has promised.
    wanted: AtomicU32,
    /// Connections that it may have beyond its limit, or has to keep below it.
    allowance: AtomicI32,
}

impl Sharing {
    fn of(&self, workers: usize) -> &[Share] {
        self.shares
            .get_or_init(|| (0..workers).map(|_| Share::default()).collect())
    }

    fn get(&self, worker: usize) -> Option<&Share> {
        self.shares.get()?.get(worker)
    }
}

impl Backend {
    /// Says how many connections `worker` lacks.
    pub fn set_wanted(&self, worker: usize, count: u32) {
        let sharing = &self.state.sharing;
        if count > 0 || sharing.shares.get().is_some() {
            let wanted = &sharing.of(self.workers())[worker].wanted;
            wanted.store(count, Ordering::Relaxed);
        }
    }

    /// Whether any worker but `own` lacks a connection.
    pub fn is_wanted_elsewhere(&self, own: usize) -> bool {
        let shares = self.state.sharing.shares.get();
        shares.is_some_and(|shares| {
            let mut all = shares.iter().enumerate();
            all.any(|(worker, it)| worker != own && it.wanted.load(Ordering::Relaxed) > 0)
        })
    }

    /// Promises a connection to a worker that lacks one: the next one after `own`.
    pub fn promise(&self, own: usize) -> Option<usize> {
        let shares = self.state.sharing.shares.get()?;
        let others = (own + 1..shares.len()).chain(0..own);
        let less = |count: u32| count.checked_sub(1);
        let take = |worker: &usize| {
            let wanted = &shares[*worker].wanted;
            let taken = wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            taken.is_ok()
        };
        others.into_iter().find(take)
    }

    /// Takes the promise to `worker` back: it lacks a connection still.
    pub fn break_promise(&self, worker: usize) {
        if let Some(share) = self.state.sharing.get(worker) {
            share.wanted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many connections `worker` may have beyond its limit; below zero, how many it has to
    /// keep below it.
    pub fn allowance(&self, worker: usize) -> i64 {
        let share = self.state.sharing.get(worker);
        share.map_or(0, |it| it.allowance.load(Ordering::Relaxed).into())
    }

    fn allow(&self, worker: usize, difference: i32) {
        let allowance = &self.state.sharing.of(self.workers())[worker].allowance;
        allowance.fetch_add(difference, Ordering::Relaxed);
    }
}

/// The room of a connection that has left its worker. Dropped, that worker has it back.
#[derive(Debug)]
pub struct Room {
    backend: Arc<Backend>,
    owner: usize,
    /// Where the connection is; `None` on its way.
    holder: Option<usize>,
}

impl Room {
    /// For a connection to `backend` that leaves the worker `owner`.
    pub fn lend(backend: &Arc<Backend>, owner: usize) -> Self {
        backend.allow(owner, -1);
        Self {
            backend: Arc::clone(backend),
            owner,
            holder: None,
        }
    }

    /// Where the connection leads to.
    pub const fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The connection has come to `worker`; `None` where that is where it came from.
    #[must_use]
    pub fn held_by(mut self, worker: usize) -> Option<Self> {
        self.leave();
        if worker == self.owner {
            return None;
        }
        self.backend.allow(worker, 1);
        self.holder = Some(worker);
        Some(self)
    }

    /// The connection goes on to another worker.
    pub fn leave(&mut self) {
        if let Some(holder) = self.holder.take() {
            self.backend.allow(holder, -1);
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.leave();
        self.backend.allow(self.owner, 1);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::balance::{Cluster, Context};
    use crate::plan;

    fn backend() -> Arc<Backend> {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let plan = plan::Cluster::new("c", vec![address.into()]);
        Arc::clone(&Cluster::build(&plan, &Context::new(1, 3), None).backends()[0])
    }

    fn allowances(backend: &Backend) -> [i64; 3] {
        [0, 1, 2].map(|worker| backend.allowance(worker))
    }

    #[test]
    fn a_promise_is_made_once_for_each_that_is_wanted() {
        let backend = backend();
        backend.set_wanted(1, 0);
        assert!(!backend.is_wanted_elsewhere(0) && backend.promise(0).is_none());
        backend.set_wanted(1, 2);
        assert!(backend.is_wanted_elsewhere(0) && backend.is_wanted_elsewhere(2));
        assert!(!backend.is_wanted_elsewhere(1), "not by another");
        assert_eq!(backend.promise(1), None);
        backend.set_wanted(0, 1);
        assert_eq!(
            [2, 2, 2, 2].map(|own| backend.promise(own)),
            [Some(0), Some(1), Some(1), None]
        );
        backend.break_promise(1);
        assert_eq!(backend.promise(0), Some(1));
    }

    #[test]
    fn room_goes_with_a_connection_and_comes_back() {
        let backend = backend();
        assert_eq!(allowances(&backend), [0, 0, 0]);
        let room = Room::lend(&backend, 0);
        assert_eq!(allowances(&backend), [-1, 0, 0], "on its way");
        let mut room = room.held_by(1).unwrap();
        assert_eq!(allowances(&backend), [-1, 1, 0]);
        room.leave();
        let room = room.held_by(2).unwrap();
        assert_eq!(allowances(&backend), [-1, 0, 1]);
        drop(room);
        assert_eq!(allowances(&backend), [0, 0, 0], "it was closed there");
        let room = Room::lend(&backend, 0).held_by(1).unwrap();
        assert!(room.held_by(0).is_none());
        assert_eq!(allowances(&backend), [0, 0, 0], "it came home");
        drop(Room::lend(&backend, 2));
        assert_eq!(allowances(&backend), [0, 0, 0], "it ended on its way");
    }
}

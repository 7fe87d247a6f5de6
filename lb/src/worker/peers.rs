//! The workers as they see each other: how many connections each has, how one that was accepted
//! reaches another, and how they help out with connections to backends. The kernel chooses the
//! accepting worker by a hash, which is uneven for connections that stay.
//!
//! Invariant: while the workers are about even, an accepted connection costs one look at one other
//! worker. One that is handed over is counted at once, so that not all hand to the same worker.
//! Read next: `listeners.rs` (who asks).

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use lb_core::metrics::WorkerMetrics;
use lb_core::rt::{Accepted, Handle};
use lb_l7::{Message, Workers};

use super::LOCAL;
use crate::snapshot::Listener;

/// Connections that a worker may have above another, and a share of what that one has: less is no
/// more than the coming and going of short connections.
const SLACK: u64 = 8;
const SLACK_SHARE: u64 = 32;

/// All workers, once they have started; until then each keeps what it accepts.
#[derive(Default)]
pub(crate) struct Peers {
    all: OnceLock<Box<[Peer]>>,
    /// They end one by one: each keeps what it accepts.
    are_draining: AtomicBool,
}

/// One worker.
pub(crate) struct Peer {
    pub(super) metrics: Arc<WorkerMetrics>,
    pub(super) runtime: Handle,
}

impl Peers {
    /// Says who there is; once.
    pub(crate) fn meet(&self, all: impl Iterator<Item = Peer>) {
        let is_first = self.all.set(all.collect()).is_ok();
        debug_assert!(is_first, "workers start once");
    }

    /// From here on nothing is handed over.
    pub(super) fn drain(&self) {
        self.are_draining.store(true, Ordering::Relaxed);
    }

    /// The worker with the fewest connections, if `own` has clearly more than the one that it
    /// looks at: another one each time, by `turn`.
    pub(super) fn lighter_than(&self, own: usize, turn: &Cell<usize>) -> Option<&Peer> {
        let all = self.all.get()?;
        if all.len() < 2 || self.are_draining.load(Ordering::Relaxed) {
            return None;
        }
        let offset = turn.get() % (all.len() - 1);
        turn.set(offset + 1);
        let load = all[own].metrics.load();
        let other = &all[(own + 1 + offset) % all.len()];
        if !is_clearly_more(load, other.metrics.load()) {
            return None;
        }
        all.iter().min_by_key(|peer| peer.metrics.load())
    }
}

impl Workers for Peers {
    fn tell(&self, worker: usize, message: Message) {
        if let Some(peer) = self.all.get().and_then(|all| all.get(worker)) {
            peer.runtime.spawn(|| {
                LOCAL.with(|local| local.get().map(|local| message(&local.http)));
                std::future::ready(())
            });
        }
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.all.get().map_or(0, |all| all.len());
        f.debug_tuple("Peers").field(&count).finish()
    }
}

const fn is_clearly_more(own: u64, other: u64) -> bool {
    own > other + SLACK + other / SLACK_SHARE
}

impl Peer {
    /// Has the worker serve a connection of `listener`.
    pub(super) fn serve(&self, listener: Arc<Listener>, accepted: Accepted) {
        self.metrics.hand();
        let metrics = Arc::clone(&self.metrics);
        // A worker that has ended is one of a process that ends: the connection closes with it.
        self.runtime.spawn(move || {
            LOCAL.with(|local| {
                if let Some(local) = local.get() {
                    local.listeners.take(local, &listener, accepted);
                }
            });
            metrics.taken();
            std::future::ready(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_core::rt::{Config, Runtime};

    /// Workers with these numbers of connections.
    fn peers(connections: &[u64]) -> Peers {
        let runtime = Runtime::new(&Config::default()).unwrap();
        let peers = Peers::default();
        peers.meet(connections.iter().map(|count| {
            let metrics = Arc::<WorkerMetrics>::default();
            metrics.connections.set(*count);
            Peer {
                metrics,
                runtime: runtime.handle(),
            }
        }));
        peers
    }

    fn lightest(peers: &Peers, own: usize, turn: &Cell<usize>) -> Option<u64> {
        let lighter = peers.lighter_than(own, turn);
        lighter.map(|peer| peer.metrics.connections.get())
    }

    #[test]
    fn a_little_more_is_kept_and_clearly_more_is_handed_over() {
        let turn = Cell::default();
        assert_eq!(lightest(&Peers::default(), 0, &turn), None, "nobody yet");
        assert_eq!(lightest(&peers(&[100]), 0, &turn), None, "nobody else");
        for (own, other, expected) in [
            (8, 0, None),
            (9, 0, Some(0)),
            (512, 488, Some(488)),
            (511, 488, None),
            (0, 900, None),
        ] {
            assert_eq!(
                lightest(&peers(&[own, other]), 0, &turn),
                expected,
                "{own} {other}"
            );
        }
    }

    #[test]
    fn each_of_the_others_has_its_turn_and_the_least_gets_it() {
        let peers = peers(&[50, 60, 10, 45]);
        let turn = Cell::default();
        let seen: Vec<_> = (0..6).map(|_| lightest(&peers, 0, &turn)).collect();
        assert_eq!(seen, [None, Some(10), None, None, Some(10), None]);
    }

    #[test]
    fn what_is_on_its_way_counts() {
        let peers = peers(&[20, 0]);
        let turn = Cell::default();
        for _ in 0..12 {
            let other = peers.lighter_than(0, &turn).unwrap();
            other.metrics.hand();
        }
        assert_eq!(lightest(&peers, 0, &turn), None);
    }

    #[test]
    fn at_the_end_each_keeps_its_own() {
        let peers = peers(&[100, 0]);
        assert_eq!(lightest(&peers, 0, &Cell::default()), Some(0));
        peers.drain();
        assert_eq!(lightest(&peers, 0, &Cell::default()), None);
    }
}

//! What one worker does for all of them: the time of slow starts and ejections passes, and the
//! affinity table forgets.
//!
//! Invariant: one worker does it, in small pieces; a process without anything to do wakes for its
//! heartbeat only.
//! Read next: `lb_core::balance::Cluster::tick`, `lb_core::balance::affinity::Sweeper`.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lb_core::balance::affinity::{AffinityTable, Sweeper};
use lb_core::balance::{BackendId, Cluster};
use lb_core::rt;

use super::HEARTBEAT;
use crate::change::Change;
use crate::log::log;

/// Time between two rounds: shares grow and ejections end by steps of it.
const ROUND: Duration = Duration::from_millis(100);

/// The chores, for as long as the worker runs.
pub(super) struct Chores(Rc<Work>);

#[derive(Default)]
struct Work {
    clusters: RefCell<Vec<Arc<Cluster>>>,
    /// The backends that were ejected when last seen.
    ejected: RefCell<HashSet<BackendId>>,
    /// Whether anything was ever remembered. It is forgotten long after the cluster has gone.
    remembers: Cell<bool>,
}

impl Chores {
    pub(super) fn start(affinity: Arc<AffinityTable>) -> Self {
        let work = Rc::new(Work::default());
        rt::spawn(Rc::clone(&work).run(affinity));
        Self(work)
    }

    /// Takes up what has changed.
    pub(super) fn apply(&self, change: &Change) {
        self.0.clusters.replace(change.ticking.clone());
        let known = change.ticking.iter().flat_map(|it| it.backends());
        let known: HashSet<_> = known.map(|backend| backend.id()).collect();
        let mut ejected = self.0.ejected.borrow_mut();
        ejected.retain(|backend| known.contains(backend));
        self.0
            .remembers
            .set(self.0.remembers.get() || change.remembers);
    }
}

impl Work {
    async fn run(self: Rc<Self>, affinity: Arc<AffinityTable>) {
        let mut sweeper = None;
        loop {
            let now = rt::now();
            for cluster in &*self.clusters.borrow() {
                cluster.tick(now);
                self.tell_ejections(cluster);
            }
            if self.remembers.get() {
                let begin = || Sweeper::new(Arc::clone(&affinity), now);
                sweeper.get_or_insert_with(begin).turn(now);
            }
            let idle = self.clusters.borrow().is_empty() && !self.remembers.get();
            rt::sleep(if idle { HEARTBEAT } else { ROUND }).await;
        }
    }

    /// Writes to the log what has changed. One that is ejected again before it was seen to be back
    /// is not told again; the metrics count it.
    fn tell_ejections(&self, cluster: &Cluster) {
        let mut ejected = self.ejected.borrow_mut();
        for backend in cluster.backends() {
            let (name, address) = (&backend.name, backend.address);
            match backend.is_ejected() {
                true if ejected.insert(backend.id()) => log!(
                    Warn,
                    "backend is ejected",
                    cluster = cluster.name,
                    backend = name,
                    address = address,
                    times = backend.ejections()
                ),
                false if ejected.remove(&backend.id()) => log!(
                    Info,
                    "backend is tried again",
                    cluster = cluster.name,
                    backend = name,
                    address = address
                ),
                _ => {}
            }
        }
    }
}

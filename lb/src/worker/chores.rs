//! What one worker does for all of them: the time of slow starts and ejections passes, and the
//! affinity table forgets.
//!
//! Invariant: one worker does it, in small pieces; a process without anything to do wakes for its
//! heartbeat only.
//! Read next: `lb_core::balance::Cluster::tick`, `lb_core::balance::affinity::Sweeper`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lb_core::balance::Cluster;
use lb_core::balance::affinity::{AffinityTable, Sweeper};
use lb_core::plan::Affinity;
use lb_core::rt;

use super::HEARTBEAT;
use crate::snapshot::Snapshot;

/// Time between two rounds: shares grow and ejections end by steps of it.
const ROUND: Duration = Duration::from_millis(100);

/// The chores, for as long as the worker runs.
pub(super) struct Chores(Rc<Work>);

#[derive(Default)]
struct Work {
    clusters: RefCell<Vec<Arc<Cluster>>>,
    /// Whether anything was ever remembered. It is forgotten long after the cluster has gone.
    remembers: Cell<bool>,
}

impl Chores {
    pub(super) fn start(affinity: Arc<AffinityTable>) -> Self {
        let work = Rc::new(Work::default());
        rt::spawn(Rc::clone(&work).run(affinity));
        Self(work)
    }

    /// Makes these the chores of `snapshot`.
    pub(super) fn apply(&self, snapshot: &Snapshot) {
        let clusters = snapshot.clusters.iter();
        let ticking = clusters.filter(|cluster| cluster.needs_tick()).cloned();
        self.0.clusters.replace(ticking.collect());
        let uses_table = |cluster: &Arc<Cluster>| {
            matches!(
                cluster.affinity(),
                Some(Affinity::ClientAddress { .. } | Affinity::Header { .. })
            )
        };
        let uses_table = snapshot.clusters.iter().any(uses_table);
        self.0.remembers.set(self.0.remembers.get() || uses_table);
    }
}

impl Work {
    async fn run(self: Rc<Self>, affinity: Arc<AffinityTable>) {
        let mut sweeper = None;
        loop {
            let now = rt::now();
            for cluster in &*self.clusters.borrow() {
                cluster.tick(now);
            }
            if self.remembers.get() {
                let begin = || Sweeper::new(Arc::clone(&affinity), now);
                sweeper.get_or_insert_with(begin).turn(now);
            }
            let idle = self.clusters.borrow().is_empty() && !self.remembers.get();
            rt::sleep(if idle { HEARTBEAT } else { ROUND }).await;
        }
    }
}

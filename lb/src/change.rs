//! What is different between two snapshots: all that a worker is told, and all that it does.
//!
//! Invariant: a worker that has taken up every change in order runs the last snapshot; a change
//! costs a worker what it changes, however much else is in the plan.
//! Read next: `worker/mod.rs` (who takes it up), `control/reload.rs` (who makes it).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use lb_core::balance::{BackendId, Cluster};
use lb_core::plan::Affinity;

use crate::snapshot::{ClusterChecks, Listener, ListenerKey, Snapshot};

/// The difference between a snapshot and the one before.
pub(crate) struct Change {
    /// Of the snapshot that it leads to.
    pub(crate) generation: u64,
    /// Those that are new, or serve otherwise than before.
    pub(crate) listeners: Vec<Arc<Listener>>,
    /// Those that are there no more.
    pub(crate) closed: Vec<Arc<Listener>>,
    /// Those that are new, different or gone.
    pub(crate) clusters: Vec<ClusterChange>,
    /// The backends that are in no cluster any more; none of them comes back under its id.
    pub(crate) gone: HashSet<BackendId>,
    /// All clusters in which something happens by the passing of time.
    pub(crate) ticking: Vec<Arc<Cluster>>,
    /// All clusters to whose backends connections are kept ready.
    pub(crate) kept_ready: Vec<Arc<Cluster>>,
    /// Whether any cluster remembers its clients.
    pub(crate) remembers: bool,
}

/// A cluster before and after.
pub(crate) struct ClusterChange {
    pub(crate) before: Option<Arc<Cluster>>,
    pub(crate) after: Option<Arc<Cluster>>,
    /// Of `after`, if it has checks.
    pub(crate) checks: Option<Arc<ClusterChecks>>,
}

impl Change {
    /// From `before`, or from nothing, to `after`.
    pub(crate) fn between(before: Option<&Snapshot>, after: &Snapshot, generation: u64) -> Self {
        let (closed, listeners) = listeners(before, after);
        let clusters = clusters(before, after);
        let ids = |cluster: &Option<Arc<Cluster>>| -> Vec<BackendId> {
            let backends = cluster.iter().flat_map(|it| it.backends());
            backends.map(|backend| backend.id()).collect()
        };
        let mut gone: HashSet<_> = clusters.iter().flat_map(|it| ids(&it.before)).collect();
        for id in clusters.iter().flat_map(|it| ids(&it.after)) {
            gone.remove(&id);
        }
        let remembers = |cluster: &Arc<Cluster>| {
            matches!(
                cluster.affinity(),
                Some(Affinity::ClientAddress { .. } | Affinity::Header { .. })
            )
        };
        let ticking = after.clusters.iter().filter(|it| it.needs_tick());
        let asks = |it: &&Arc<Cluster>| it.exchanges.connections_ready > 0;
        let kept_ready = after.clusters.iter().filter(asks);
        Self {
            generation,
            listeners,
            closed,
            clusters,
            gone,
            ticking: ticking.cloned().collect(),
            kept_ready: kept_ready.cloned().collect(),
            remembers: after.clusters.iter().any(remembers),
        }
    }
}

impl Change {
    /// Has no connection kept to the backends that are gone, wherever one is used or on its way.
    pub(crate) fn retire(&self) {
        let clusters = self.clusters.iter().filter_map(|it| it.before.as_ref());
        let backends = clusters.flat_map(|it| it.backends());
        for backend in backends.filter(|it| self.gone.contains(&it.id())) {
            backend.set_gone();
        }
    }
}

/// The listeners that are closed, and those that are new or serve otherwise.
fn listeners(
    before: Option<&Snapshot>,
    after: &Snapshot,
) -> (Vec<Arc<Listener>>, Vec<Arc<Listener>>) {
    let before = before.map_or(&[][..], |it| &it.listeners);
    let (before, after) = differing(before, &after.listeners);
    let stay: HashSet<&ListenerKey> = after.iter().map(|it| &it.key).collect();
    let closed = before.into_iter().filter(|it| !stay.contains(&it.key));
    let closed = closed.cloned().collect();
    (closed, after.into_iter().cloned().collect())
}

/// The clusters that are not as they were, by name.
fn clusters(before: Option<&Snapshot>, after: &Snapshot) -> Vec<ClusterChange> {
    let clusters = before.map_or(&[][..], |it| &it.clusters);
    let (old, new) = differing(clusters, &after.clusters);
    let mut old: HashMap<&str, &Arc<Cluster>> = old.iter().map(|it| (&*it.name, *it)).collect();
    let mut changes: Vec<_> = new
        .into_iter()
        .map(|cluster| ClusterChange {
            before: old.remove(&*cluster.name).cloned(),
            after: Some(Arc::clone(cluster)),
            checks: after.checks(&cluster.name).cloned(),
        })
        .collect();
    changes.extend(old.into_values().map(|cluster| ClusterChange {
        before: Some(Arc::clone(cluster)),
        after: None,
        checks: None,
    }));
    changes
}

/// The parts of either list that are not, as the same object, in the other one.
fn differing<'a, T>(
    before: &'a [Arc<T>],
    after: &'a [Arc<T>],
) -> (Vec<&'a Arc<T>>, Vec<&'a Arc<T>>) {
    let same = |(a, b): &(&Arc<T>, &Arc<T>)| Arc::ptr_eq(a, b);
    let head = before.iter().zip(after).take_while(same).count();
    let (before, after) = (&before[head..], &after[head..]);
    let pairs = before.iter().rev().zip(after.iter().rev());
    let tail = pairs.take_while(same).count();
    let (before, after) = (&before[..before.len() - tail], &after[..after.len() - tail]);
    let of = |list: &[Arc<T>]| list.iter().map(Arc::as_ptr).collect::<HashSet<_>>();
    let (old, new) = (of(before), of(after));
    let before = before.iter().filter(|it| !new.contains(&Arc::as_ptr(it)));
    let after = after.iter().filter(|it| !old.contains(&Arc::as_ptr(it)));
    (before.collect(), after.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_both_lists_is_found_wherever_it_is() {
        let parts: Vec<Arc<u32>> = (0..8).map(Arc::new).collect();
        let list = |of: &[usize]| {
            of.iter()
                .map(|at| Arc::clone(&parts[*at]))
                .collect::<Vec<_>>()
        };
        let numbers = |of: Vec<&Arc<u32>>| of.into_iter().map(|it| **it).collect::<Vec<_>>();
        for (before, after, gone, new) in [
            (&[0, 1, 2][..], &[0, 1, 2][..], &[][..], &[][..]),
            (&[], &[3, 4], &[], &[3, 4]),
            (&[0, 1, 2], &[], &[0, 1, 2], &[]),
            (&[0, 1, 2], &[0, 5, 2], &[1], &[5]),
            (&[0, 1, 2], &[6, 0, 1, 2], &[], &[6]),
            (&[0, 1, 2, 3], &[2, 1, 0, 7], &[3], &[7]),
            (&[0, 1], &[0, 1, 2], &[], &[2]),
        ] {
            let (before, after) = (list(before), list(after));
            let (only_before, only_after) = differing(&before, &after);
            assert_eq!((&*numbers(only_before), &*numbers(only_after)), (gone, new));
        }
    }
}

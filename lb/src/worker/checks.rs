//! The health checks that run on one worker.
//!
//! Invariant: each backend of a cluster with checks is checked by exactly one worker, the one
//! that its address hashes to, whatever else is in the plan; a snapshot that leaves a backend as
//! it was does not disturb its checks.
//! Read next: `lb_l4::check_tcp`, `lb_core::balance::HealthState`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use lb_core::balance::{Backend, BackendId, Cluster, HealthState, Transition};
use lb_core::plan::Health;
use lb_core::rt::{self, TaskId};

use crate::log::log;
use crate::snapshot::Snapshot;

/// The checks under way.
#[derive(Default)]
pub(super) struct Checks {
    running: RefCell<HashMap<BackendId, Running>>,
}

struct Running {
    task: TaskId,
    health: Health,
}

impl Checks {
    /// Makes these the checks of `snapshot` that are `worker`'s.
    pub(super) fn apply(&self, snapshot: &Snapshot, worker: usize, workers: usize) {
        let mut running = self.running.borrow_mut();
        let mut before = std::mem::take(&mut *running);
        for (cluster, backend, health) in mine(snapshot, worker, workers) {
            let id = backend.id();
            let check = match before.remove(&id) {
                Some(check) if check.health == *health => check,
                changed => {
                    changed.inspect(|check| rt::abort(check.task));
                    let name = cluster.name.clone();
                    let task = rt::spawn(check(name, Arc::clone(backend), health.clone()));
                    Running {
                        task,
                        health: health.clone(),
                    }
                }
            };
            running.insert(id, check);
        }
        for check in before.into_values() {
            rt::abort(check.task);
        }
    }
}

fn mine(
    snapshot: &Snapshot,
    worker: usize,
    workers: usize,
) -> impl Iterator<Item = (&Cluster, &Arc<Backend>, &Health)> {
    let checked = snapshot
        .clusters
        .iter()
        .filter_map(|it| Some((it, it.health.as_ref()?)));
    checked
        .flat_map(|(cluster, health)| {
            cluster
                .backends()
                .iter()
                .map(move |backend| (&**cluster, backend, health))
        })
        .filter(move |(_, backend, _)| hash(&backend.address) % workers as u64 == worker as u64)
}

/// Checks one backend until the task is aborted.
async fn check(cluster: String, backend: Arc<Backend>, health: Health) {
    let mut state = HealthState::new(backend.is_healthy(), health.rise, health.fall);
    let mut jitter = Jitter(hash(&(backend.address, rt::now())));
    rt::sleep(jitter.up_to(health.interval / 10)).await;
    loop {
        let result = lb_l4::check_tcp(backend.address, health.timeout).await;
        match state.on_result(result.is_ok()) {
            Some(Transition::Up) => {
                backend.set_healthy(true);
                let (backend, address) = (&backend.name, backend.address);
                log!(
                    Info,
                    "backend is up",
                    cluster = cluster,
                    backend = backend,
                    address = address
                );
            }
            Some(Transition::Down) => {
                backend.set_healthy(false);
                let (backend, address) = (&backend.name, backend.address);
                let reason = result.map_or_else(|error| error.to_string(), |()| String::new());
                log!(
                    Warn,
                    "backend is down",
                    cluster = cluster,
                    backend = backend,
                    address = address,
                    reason = reason
                );
            }
            None => {}
        }
        let tenth = health.interval / 10;
        rt::sleep(health.interval - tenth + jitter.up_to(tenth * 2)).await;
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Spreads the checks of many backends, and of many balancers, over time (splitmix64).
struct Jitter(u64);

impl Jitter {
    fn up_to(&mut self, bound: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos((mixed ^ (mixed >> 31)) % nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_in_bounds_and_varies() {
        let mut jitter = Jitter(7);
        let bound = Duration::from_millis(10);
        let samples: Vec<_> = (0..1000).map(|_| jitter.up_to(bound)).collect();
        assert!(samples.iter().all(|sample| *sample < bound));
        assert!(samples.iter().any(|sample| *sample < bound / 10));
        assert!(samples.iter().any(|sample| *sample > bound / 10 * 9));
        assert_eq!(jitter.up_to(Duration::ZERO), Duration::ZERO);
    }
}

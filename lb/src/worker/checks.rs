//! The health checks that run on one worker.
//!
//! Invariant: each backend of a cluster with checks is checked by exactly one worker, the one
//! that its address hashes to, whatever else is in the plan; a change that leaves a backend as it
//! was does not disturb its checks.
//! Read next: `../checker.rs` (the checks), `lb_core::balance::HealthState`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use lb_core::balance::{Backend, BackendId, HealthState, Transition};
use lb_core::plan::Health;
use lb_core::rt::{self, TaskId};

use crate::change::ClusterChange;
use crate::checker::{Checker, LastError};
use crate::log::log;

/// Longest pause before the first check of a backend, which spreads those of many.
const FIRST_PAUSE_MAX: Duration = Duration::from_millis(500);

/// The checks under way.
#[derive(Default)]
pub(super) struct Checks {
    running: RefCell<HashMap<BackendId, Running>>,
}

struct Running {
    task: TaskId,
    backend: Arc<Backend>,
    checker: Arc<Checker>,
}

impl Checks {
    /// Takes up what has changed of the checks that are `worker`'s.
    pub(super) fn apply(&self, changes: &[ClusterChange], worker: usize, workers: usize) {
        let mut running = self.running.borrow_mut();
        let mut before = HashMap::new();
        for cluster in changes.iter().filter_map(|it| it.before.as_ref()) {
            let ids = cluster.backends().iter().map(|it| it.id());
            before.extend(ids.filter_map(|id| Some((id, running.remove(&id)?))));
        }
        for change in changes {
            let Some((cluster, checks)) = change.after.as_ref().zip(change.checks.as_ref()) else {
                continue;
            };
            let Some(health) = &cluster.health else {
                continue;
            };
            let is_mine =
                |backend: &Backend| hash(&backend.address) % workers as u64 == worker as u64;
            for backend in cluster.backends().iter().filter(|it| is_mine(it)) {
                let id = backend.id();
                let check = match before.remove(&id) {
                    Some(check) if Arc::ptr_eq(&check.checker, &checks.checker) => check,
                    changed => {
                        changed.inspect(|check| rt::abort(check.task));
                        let check = Check {
                            worker,
                            cluster: cluster.name.clone(),
                            backend: Arc::clone(backend),
                            health: health.clone(),
                            checker: Arc::clone(&checks.checker),
                            last_error: checks.last_error(backend),
                        };
                        Running {
                            task: rt::spawn(check.run()),
                            backend: Arc::clone(backend),
                            checker: Arc::clone(&checks.checker),
                        }
                    }
                };
                running.insert(id, check);
            }
        }
        for check in before.into_values() {
            rt::abort(check.task);
            // The snapshot made it healthy, but a check may have ended since.
            check.backend.set_healthy(true);
        }
    }
}

/// The checks of one backend.
struct Check {
    worker: usize,
    cluster: String,
    backend: Arc<Backend>,
    health: Health,
    checker: Arc<Checker>,
    last_error: Arc<LastError>,
}

impl Check {
    /// Checks until the task is aborted.
    async fn run(self) {
        let Self {
            backend, health, ..
        } = &self;
        let mut state = HealthState::new(backend.is_healthy(), health.rise, health.fall);
        let mut jitter = Jitter(hash(&(backend.address, rt::now())));
        let mut address = backend.address;
        if let Some(port) = health.port {
            address.set_port(port);
        }
        rt::sleep(jitter.up_to(FIRST_PAUSE_MAX.min(health.interval))).await;
        loop {
            let result = self.checker.check(address, health.timeout).await;
            let counters = backend.counters(self.worker);
            match &result {
                Ok(()) => counters.checks_succeeded.increment(),
                Err(_) => counters.checks_failed.increment(),
            }
            self.last_error.set(&result);
            if let Some(transition) = state.on_result(result.is_ok()) {
                self.take(transition, result);
            }
            let deviation = health.interval * u32::from(health.jitter) / 100;
            rt::sleep(health.interval - deviation + jitter.up_to(deviation * 2)).await;
        }
    }

    fn take(&self, transition: Transition, result: Result<(), String>) {
        self.backend.set_healthy(transition == Transition::Up);
        let (cluster, backend) = (&self.cluster, &self.backend.name);
        let (address, check) = (self.backend.address, self.health.check.kind());
        match transition {
            Transition::Up => log!(
                Info,
                "backend is up",
                cluster = cluster,
                backend = backend,
                address = address,
                check = check
            ),
            Transition::Down => log!(
                Warn,
                "backend is down",
                cluster = cluster,
                backend = backend,
                address = address,
                check = check,
                reason = result.err().unwrap_or_default()
            ),
        }
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

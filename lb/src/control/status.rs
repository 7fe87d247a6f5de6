//! What the control thread knows of the running process; the admin API and the demo read it.
//!
//! Invariant: only the control loop changes it, and all on one thread.
//! Read next: `../admin/pages.rs` (how it is shown).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lb_core::metrics::{ControlMetrics, Kind, Report, Text, WorkerMetrics};
use lb_core::rt::probe::Probe;
use lb_core::snapshot::Publisher;

use crate::config::{Problem, Settings};
use crate::log;
use crate::snapshot::Snapshot;
use crate::worker::{HEARTBEAT, WorkerHandle};

/// A worker without a heartbeat for this long is stuck.
const HEARTBEAT_LATE: Duration = HEARTBEAT.saturating_mul(5);

/// The running process.
pub(crate) struct Status {
    pub(crate) engine: Probe,
    pub(crate) publisher: RefCell<Publisher<Snapshot>>,
    pub(crate) workers: Vec<WorkerHandle>,
    pub(crate) metrics: ControlMetrics,
    pub(crate) settings: RefCell<Settings>,
    /// Why the configuration read last was refused; empty if it runs.
    pub(crate) problems: RefCell<Vec<Problem>>,
    pub(crate) draining: Cell<bool>,
}

impl Status {
    /// What runs.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.publisher.borrow().current()
    }

    /// Whether every listener of the snapshot accepts, on all workers; else what is missing.
    pub(crate) fn ready(&self) -> Result<(), String> {
        if self.draining.get() {
            return Err("draining".to_owned());
        }
        let published = self.publisher.borrow().generation();
        let behind = self
            .workers
            .iter()
            .position(|worker| worker.metrics.config_generation.get() < published);
        match behind {
            Some(index) => Err(format!(
                "worker {index} has not taken up configuration generation {published} yet"
            )),
            None => Ok(()),
        }
    }

    /// Whether the loop of every worker turns; else which does not.
    pub(crate) fn live(&self) -> Result<(), String> {
        let late = self
            .workers
            .iter()
            .map(WorkerHandle::since_heartbeat)
            .enumerate();
        let late = late.filter(|(_, since)| *since > HEARTBEAT_LATE && !self.draining.get());
        let stuck: Vec<_> = late
            .map(|(index, since)| format!("worker {index} for {} s", since.as_secs()))
            .collect();
        if stuck.is_empty() {
            Ok(())
        } else {
            Err(format!("stuck: {}", stuck.join(", ")))
        }
    }

    /// The metrics page.
    pub(crate) fn metrics_page(&self) -> String {
        let snapshot = self.snapshot();
        let workers: Vec<Arc<WorkerMetrics>> = self
            .workers
            .iter()
            .map(|worker| Arc::clone(&worker.metrics))
            .collect();
        let listeners: Vec<_> = snapshot
            .listeners
            .iter()
            .map(|listener| Arc::clone(&listener.stats))
            .collect();
        let mut text = Text::default();
        let report = Report {
            control: &self.metrics,
            workers: &workers,
            listeners: &listeners,
            clusters: &snapshot.clusters,
        };
        report.write(&mut text);
        text.family(
            "lb_log_lines_dropped_total",
            Kind::Counter,
            "Log lines that were not written because stderr was too slow.",
        )
        .sample(&[], log::dropped());
        text.finish()
    }

    /// Sessions and exchanges that each backend has taken, by the backend's name.
    pub(crate) fn taken_by_backend(&self) -> BTreeMap<String, u64> {
        let snapshot = self.snapshot();
        let backends = snapshot
            .clusters
            .iter()
            .flat_map(|cluster| cluster.backends());
        backends
            .map(|backend| {
                let exchanges = backend.sum(|shard| shard.exchanges.get());
                (backend.name.clone(), exchanges)
            })
            .collect()
    }
}

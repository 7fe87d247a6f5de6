//! What the control thread knows of the running process; the admin API and the demo read it.
//!
//! Invariant: only the control loop changes it, and all on one thread.
//! Read next: `../admin/pages.rs` (how it is shown).

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lb_core::metrics::{ControlMetrics, Kind, Report, Text, WorkerMetrics};
use lb_core::rt::probe::Probe;

use crate::access_log::AccessLogs;
use crate::config::{Problem, Settings};
use crate::kubernetes::KubernetesState;
use crate::log;
use crate::snapshot::{Ground, Snapshot};
use crate::worker::{HEARTBEAT, WorkerHandle};

/// A worker without a heartbeat for this long is stuck.
const HEARTBEAT_LATE: Duration = HEARTBEAT.saturating_mul(5);

/// The running process.
pub(crate) struct Status {
    pub(crate) engine: Probe,
    pub(crate) ground: Ground,
    pub(crate) running: RefCell<Running>,
    pub(crate) workers: Vec<WorkerHandle>,
    pub(crate) metrics: ControlMetrics,
    pub(crate) settings: RefCell<Settings>,
    /// Why the configuration read last was refused; empty if it runs.
    pub(crate) problems: RefCell<Vec<Problem>>,
    /// Kubernetes objects, if they are a source.
    pub(crate) objects: Option<Rc<KubernetesState>>,
    pub(crate) draining: Cell<bool>,
    /// Where the admin API is bound, if it is.
    pub(crate) admin_address: Cell<Option<SocketAddr>>,
    pub(crate) access_logs: AccessLogs,
}

/// What the workers run, or have been told to run.
pub(crate) struct Running {
    /// One more with each change.
    pub(crate) generation: u64,
    pub(crate) snapshot: Arc<Snapshot>,
}

impl Status {
    /// The generation of the snapshot that a process starts with.
    pub(crate) const FIRST_GENERATION: u64 = 1;

    /// What runs.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.running.borrow().snapshot)
    }

    /// How many snapshots have run, with this one.
    pub(crate) fn generation(&self) -> u64 {
        self.running.borrow().generation
    }

    /// Whether every listener of the snapshot accepts, on all workers; else what is missing.
    pub(crate) fn ready(&self) -> Result<(), String> {
        if self.draining.get() {
            return Err("draining".to_owned());
        }
        let published = self.generation();
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
        match self.draining.get() {
            true => Ok(()), // workers end one by one
            false => all_beat(self.workers.iter().map(WorkerHandle::since_heartbeat)),
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
        self.write_affinity(&mut text);
        write_certificates(&snapshot, &mut text);
        write_revocation_lists(&snapshot, &mut text);
        if let Some(objects) = &self.objects {
            objects.write_metrics(&mut text);
        }
        text.family(
            "lb_log_lines_dropped_total",
            Kind::Counter,
            "Log lines that were not written because stderr was too slow.",
        )
        .sample(&[], log::dropped());
        text.family(
            "lb_access_log_lines_dropped_total",
            Kind::Counter,
            "Access log lines that were not written, because their file was too slow or full.",
        )
        .sample(&[], self.access_logs.dropped());
        text.finish()
    }

    fn write_affinity(&self, text: &mut Text) {
        let table = &self.ground.affinity;
        text.family(
            "lb_affinity_entries",
            Kind::Gauge,
            "Clients that affinity remembers, of all clusters; counted anew every 16 s.",
        )
        .sample(&[], table.len());
        text.family(
            "lb_affinity_entries_max",
            Kind::Gauge,
            "Clients that the affinity table can remember at most.",
        )
        .sample(&[], table.capacity());
        text.family(
            "lb_affinity_evictions_total",
            Kind::Counter,
            "Clients forgotten before their time, to make room for others.",
        )
        .sample(&[], table.evictions());
    }

    /// Client connections open.
    pub(crate) fn connections(&self) -> u64 {
        let snapshot = self.snapshot();
        let listeners = snapshot.listeners.iter();
        listeners
            .map(|listener| listener.stats.sum(|shard| shard.active.get()))
            .sum()
    }

    /// Where a listener is bound.
    pub(crate) fn bound(&self, listener: &str) -> Option<SocketAddr> {
        let snapshot = self.snapshot();
        let found = snapshot
            .listeners
            .iter()
            .find(|it| it.stats.name() == listener);
        found.map(|listener| listener.bound)
    }
}

/// `since` has the time since each worker's last heartbeat.
fn all_beat(since: impl Iterator<Item = Duration>) -> Result<(), String> {
    let late = since
        .enumerate()
        .filter(|(_, since)| *since > HEARTBEAT_LATE);
    let stuck: Vec<_> = late
        .map(|(index, since)| format!("worker {index} for {} s", since.as_secs()))
        .collect();
    if stuck.is_empty() {
        Ok(())
    } else {
        Err(format!("stuck: {}", stuck.join(", ")))
    }
}

/// Most certificates on the page of metrics.
const CERTIFICATES_MAX: usize = 1000;

/// When certificates end, for an alert some weeks before: those that end first.
fn write_certificates(snapshot: &Snapshot, text: &mut Text) {
    let mut family = text.family(
        "lb_tls_certificate_not_after_seconds",
        Kind::Gauge,
        "When the certificate ends to be valid, in seconds since 1970.",
    );
    let mut all = Vec::new();
    for listener in &snapshot.listeners {
        let certificates = listener.tls.iter().flat_map(|tls| tls.certificates());
        all.extend(certificates.map(|it| (it.not_after, listener.stats.name(), &*it.plan.name)));
    }
    all.sort_unstable();
    all.dedup(); // one may be shown for several names
    for (not_after, listener, name) in all.into_iter().take(CERTIFICATES_MAX) {
        let labels = [("listener", listener), ("certificate", name)];
        let since = not_after.duration_since(SystemTime::UNIX_EPOCH);
        family.sample(&labels, since.unwrap_or_default().as_secs());
    }
}

/// When lists of revoked certificates are overdue, for an alert before clients are refused.
fn write_revocation_lists(snapshot: &Snapshot, text: &mut Text) {
    let mut family = text.family(
        "lb_tls_crl_next_update_seconds",
        Kind::Gauge,
        "When the list of revoked certificates is overdue, in seconds since 1970.",
    );
    for listener in &snapshot.listeners {
        let mut shown: Vec<&str> = Vec::new();
        for list in listener.tls.iter().flat_map(|tls| tls.revocation_lists()) {
            // Of several lists of one authority, the one that ends first.
            if shown.contains(&&*list.issuer) {
                continue;
            }
            shown.push(&list.issuer);
            let labels = [
                ("listener", listener.stats.name()),
                ("issuer", &*list.issuer),
            ];
            let since = list.next_update.duration_since(SystemTime::UNIX_EPOCH);
            family.sample(&labels, since.unwrap_or_default().as_secs());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_without_a_heartbeat_is_named() {
        let seconds = |list: &[u64]| all_beat(list.iter().copied().map(Duration::from_secs));
        assert_eq!(seconds(&[0, 1, 5]), Ok(()));
        assert_eq!(
            seconds(&[0, 9, 1, 7]),
            Err("stuck: worker 1 for 9 s, worker 3 for 7 s".into())
        );
    }
}

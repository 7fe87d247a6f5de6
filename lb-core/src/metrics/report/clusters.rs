//! What is counted by cluster and by backend.
//!
//! Invariant: backends of one name are told apart by their address.
//! Read next: `../text.rs` (how a family is written).

use super::Report;
use crate::balance::{Backend, State};
use crate::metrics::{BackendTlsFailure, Kind, Text};

impl Report<'_> {
    pub(super) fn write_queues(&self, text: &mut Text) {
        let mut family = text.family(
            "lb_cluster_queued",
            Kind::Gauge,
            "Exchanges that wait for a connection to a backend.",
        );
        for cluster in self.clusters {
            let shards = cluster.counters().iter();
            let queued: u64 = shards.map(|shard| shard.queued.get()).sum();
            family.sample(&[("cluster", &cluster.name)], queued);
        }
        self.per_cluster(
            text,
            "lb_cluster_queue_entered_total",
            "Exchanges that had to wait for a connection to a backend.",
            |shard| shard.queue_entered.get(),
        );
        self.per_cluster(
            text,
            "lb_cluster_queue_failed_total",
            "Exchanges that waited in vain, or found too many waiting.",
            |shard| shard.queue_failed.get(),
        );
    }

    pub(super) fn write_clusters(&self, text: &mut Text) {
        self.per_cluster(
            text,
            "lb_cluster_retries_total",
            "Attempts after the first, for sessions and exchanges.",
            |shard| shard.retries.get(),
        );
        self.per_cluster(
            text,
            "lb_cluster_retries_denied_total",
            "Retries that were not made for want of budget.",
            |shard| shard.retries_denied.get(),
        );
        self.write_queues(text);
        self.per_cluster(
            text,
            "lb_cluster_unavailable_total",
            "Sessions and exchanges that found no backend to take them.",
            |shard| shard.unavailable.get(),
        );
        let mut family = text.family(
            "lb_cluster_panicking",
            Kind::Gauge,
            "1 while health is ignored because too few backends are healthy.",
        );
        for cluster in self.clusters {
            family.sample(
                &[("cluster", &cluster.name)],
                u8::from(cluster.is_panicking()),
            );
        }
        self.per_cluster(
            text,
            "lb_cluster_affinity_hits_total",
            "Choices of a backend that affinity made.",
            |shard| shard.affinity_kept.get(),
        );
        self.per_cluster(
            text,
            "lb_cluster_affinity_misses_total",
            "Choices of a backend that affinity left to the scheduler, and remembered.",
            |shard| shard.affinity_chosen.get(),
        );
        let mut family = text.family(
            "lb_cluster_connect_duration_seconds",
            Kind::Histogram,
            "From the start of a connection attempt to its success.",
        );
        for cluster in self.clusters {
            let shards = cluster.counters().iter().map(|shard| &shard.connect_time);
            family.histogram(&[("cluster", &cluster.name)], shards);
        }
        self.write_backend_handshakes(text);
    }

    fn write_backend_handshakes(&self, text: &mut Text) {
        let mut family = text.family(
            "lb_cluster_tls_handshake_failures_total",
            Kind::Counter,
            "TLS handshakes with backends that failed, by why; health checks not counted.",
        );
        for cluster in self.clusters.iter().filter(|it| it.tls.is_some()) {
            for failure in BackendTlsFailure::ALL {
                let shards = cluster.counters().iter();
                let count: u64 = shards.map(|shard| shard.tls.failures(failure)).sum();
                let labels = [("cluster", &*cluster.name), ("reason", failure.name())];
                family.sample(&labels, count);
            }
        }
    }

    pub(super) fn write_backends(&self, text: &mut Text) {
        self.per_backend(
            text,
            "lb_backend_healthy",
            Kind::Gauge,
            "1 if the backend passes its health checks or has none.",
            |backend| u64::from(backend.is_healthy()),
        );
        self.write_states(text);
        self.per_backend(
            text,
            "lb_backend_in_flight",
            Kind::Gauge,
            "Sessions and exchanges under way.",
            |backend| u64::from(backend.in_flight()),
        );
        self.per_backend(
            text,
            "lb_backend_ejections_total",
            Kind::Counter,
            "Times that the backend was left out because too many sessions or exchanges failed.",
            Backend::ejections,
        );
        self.per_backend(
            text,
            "lb_backend_weight",
            Kind::Gauge,
            "Share of the load relative to the cluster's other backends.",
            |backend| u64::from(backend.weight),
        );
        self.per_backend(
            text,
            "lb_backend_connections_total",
            Kind::Counter,
            "Connections established, health checks not counted.",
            |backend| backend.sum(|shard| shard.connections.get()),
        );
        self.per_backend(
            text,
            "lb_backend_connections_active",
            Kind::Gauge,
            "Connections open, idle ones in a pool included.",
            |backend| backend.sum(|shard| shard.connections_active.get()),
        );
        self.per_backend(
            text,
            "lb_backend_connections_idle",
            Kind::Gauge,
            "Idle connections in the pools of HTTP.",
            |backend| backend.sum(|shard| shard.connections_idle.get()),
        );
        self.per_backend(
            text,
            "lb_backend_connections_taken_over_total",
            Kind::Counter,
            "Idle connections of HTTP that a worker gave to another one whose own were all busy.",
            |backend| backend.sum(|shard| shard.connections_taken.get()),
        );
        self.per_backend(
            text,
            "lb_backend_connect_failures_total",
            Kind::Counter,
            "Connection attempts that failed or timed out.",
            |backend| backend.sum(|shard| shard.connect_failures.get()),
        );
        self.write_backend_exchanges(text);
    }

    fn write_backend_exchanges(&self, text: &mut Text) {
        self.per_backend(
            text,
            "lb_backend_exchanges_total",
            Kind::Counter,
            "HTTP exchanges begun.",
            |backend| backend.sum(|shard| shard.exchanges.get()),
        );
        self.per_backend(
            text,
            "lb_backend_exchanges_active",
            Kind::Gauge,
            "HTTP exchanges under way.",
            |backend| backend.sum(|shard| shard.exchanges_active.get()),
        );
    }

    /// One of the states is 1, so that a change is no gap in a series.
    fn write_states(&self, text: &mut Text) {
        let mut family = text.family(
            "lb_backend_state",
            Kind::Gauge,
            "1 for the state that the backend is in.",
        );
        for cluster in self.clusters {
            for backend in cluster.backends() {
                let (address, now) = (
                    crate::rt::shown(backend.address).to_string(),
                    backend.state(),
                );
                for state in State::ALL {
                    let labels = [
                        ("cluster", &*cluster.name),
                        ("backend", &*backend.name),
                        ("address", &*address),
                        ("state", state.name()),
                    ];
                    family.sample(&labels, u8::from(state == now));
                }
            }
        }
    }

    pub(super) fn write_checks(&self, text: &mut Text) {
        let mut family = text.family(
            "lb_backend_health_checks_total",
            Kind::Counter,
            "Health checks that are over, by their result.",
        );
        for cluster in self.clusters.iter().filter(|it| it.health.is_some()) {
            for backend in cluster.backends() {
                let address = crate::rt::shown(backend.address).to_string();
                let mut sample = |result, count| {
                    let labels = [
                        ("cluster", &*cluster.name),
                        ("backend", &*backend.name),
                        ("address", &*address),
                        ("result", result),
                    ];
                    family.sample(&labels, count);
                };
                sample("success", backend.sum(|shard| shard.checks_succeeded.get()));
                sample("failure", backend.sum(|shard| shard.checks_failed.get()));
            }
        }
    }
}

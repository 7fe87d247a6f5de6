//! The series that are exported, family by family.
//!
//! Invariant: labels are names from the plan, never from traffic, so their number is bounded by
//! the configuration. Histograms stand per listener and per cluster, not per backend.
//! Read next: `text.rs` (how a family is written).

use std::sync::Arc;

use super::{
    BackendTlsFailure, ClusterCounters, ControlMetrics, FlowEnd, FlowShed, Http2Counters, Kind,
    ListenerCounters, ListenerKind, ListenerStats, Refusal, SessionEnd, StatusClass, Text,
    TlsFailure, WorkerMetrics,
};
use crate::balance::{Backend, Cluster, State};
use crate::plan::TlsVersion;

/// Everything that has counters, as the current snapshot has it.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// The control thread's.
    pub control: &'a ControlMetrics,
    /// In the order of their indices.
    pub workers: &'a [Arc<WorkerMetrics>],
    /// Every listener of the plan.
    pub listeners: &'a [Arc<ListenerStats>],
    /// Every cluster of the plan.
    pub clusters: &'a [Arc<Cluster>],
}

impl Report<'_> {
    /// Writes all families. About 2 µs a listener and a backend: for the control thread.
    pub fn write(&self, text: &mut Text) {
        self.write_config(text);
        self.write_workers(text);
        self.write_connections(text);
        self.write_sessions(text);
        self.write_flows(text);
        self.write_http2(text);
        self.write_resets(text);
        self.write_exchanges(text);
        self.write_clusters(text);
        self.write_backends(text);
        self.write_checks(text);
    }

    fn write_config(&self, text: &mut Text) {
        text.family(
            "lb_config_generation",
            Kind::Gauge,
            "Generation of the configuration that was published last.",
        )
        .sample(&[], self.control.config_generation.get());
        text.family(
            "lb_config_last_reload_successful",
            Kind::Gauge,
            "1 if the configuration read last is the one that runs, 0 if it was refused.",
        )
        .sample(&[], self.control.last_reload_successful.get());
        let mut reloads = text.family(
            "lb_config_reloads_total",
            Kind::Counter,
            "Changes of the configuration, by what became of them.",
        );
        reloads.sample(
            &[("result", "success")],
            self.control.reloads_succeeded.get(),
        );
        reloads.sample(&[("result", "failure")], self.control.reloads_failed.get());
    }

    fn write_workers(&self, text: &mut Text) {
        let published = self.control.config_generation.get();
        self.per_worker(
            text,
            "lb_worker_config_lag",
            Kind::Gauge,
            "Generations by which a worker is behind the configuration published last.",
            |worker| published.saturating_sub(worker.config_generation.get()),
        );
        self.per_worker(
            text,
            "lb_worker_task_panics_total",
            Kind::Counter,
            "Tasks that ended in a panic.",
            |worker| worker.task_panics.get(),
        );
        self.per_worker(
            text,
            "lb_worker_buffers_in_use",
            Kind::Gauge,
            "Receive buffers that are lent out.",
            |worker| worker.buffers_in_use.get(),
        );
        self.per_worker(
            text,
            "lb_worker_datagrams_unsent_total",
            Kind::Counter,
            "Datagrams that the kernel refused to send: no room, no route, not allowed.",
            |worker| worker.datagrams_unsent.get(),
        );
        self.per_worker(
            text,
            "lb_worker_datagrams_overflowed_total",
            Kind::Counter,
            "Receives of datagrams that were dropped, as too many waited already.",
            |worker| worker.datagrams_overflowed.get(),
        );
        let mut connections = text.family(
            "lb_worker_connections",
            Kind::Gauge,
            "Client connections open, of all listeners, by the worker that serves them.",
        );
        for worker in 0..self.workers.len() {
            let open = self
                .listeners
                .iter()
                .map(|listener| listener.shard(worker).active.get());
            connections.sample(&[("worker", &worker.to_string())], open.sum::<u64>());
        }
        self.per_worker(
            text,
            "lb_worker_connections_handed_over_total",
            Kind::Counter,
            "Client connections handed to a worker that had fewer.",
            |worker| worker.handed_over.get(),
        );
    }

    fn write_connections(&self, text: &mut Text) {
        let all = |_| true;
        self.per_listener(
            text,
            "lb_client_connections_total",
            Kind::Counter,
            "Client connections accepted.",
            all,
            |shard| shard.accepted.get(),
        );
        self.per_listener(
            text,
            "lb_client_connections_active",
            Kind::Gauge,
            "Client connections open.",
            all,
            |shard| shard.active.get(),
        );
        self.write_refusals(text);
        self.write_handshakes(text);
        self.per_listener(
            text,
            "lb_accept_pauses_total",
            Kind::Counter,
            "Times that accepting paused because descriptors or memory ran out.",
            all,
            |shard| shard.accept_pauses.get(),
        );
        self.per_listener(
            text,
            "lb_client_received_bytes_total",
            Kind::Counter,
            "Bytes received from clients.",
            all,
            |shard| shard.received_bytes.get(),
        );
        self.per_listener(
            text,
            "lb_client_sent_bytes_total",
            Kind::Counter,
            "Bytes sent to clients.",
            all,
            |shard| shard.sent_bytes.get(),
        );
    }

    fn write_refusals(&self, text: &mut Text) {
        let mut family = text.family(
            "lb_client_connections_refused_total",
            Kind::Counter,
            "Client connections closed instead of being served, by the reason.",
        );
        for listener in self.listeners {
            for refusal in Refusal::ALL {
                let labels = [("listener", listener.name()), ("reason", refusal.name())];
                family.sample(&labels, listener.sum(|shard| shard.refusals(refusal)));
            }
        }
    }

    fn write_handshakes(&self, text: &mut Text) {
        let with_tls = || self.listeners.iter().filter(|listener| listener.has_tls);
        let mut family = text.family(
            "lb_tls_handshakes_total",
            Kind::Counter,
            "TLS handshakes with clients, by version and whether a session was resumed.",
        );
        for listener in with_tls() {
            for (version, resumed) in TlsVersion::ALL
                .into_iter()
                .flat_map(|it| [(it, false), (it, true)])
            {
                let labels = [
                    ("listener", listener.name()),
                    ("version", version.name()),
                    ("resumed", if resumed { "true" } else { "false" }),
                ];
                let count = listener.sum(|shard| shard.tls.handshakes(version, resumed));
                family.sample(&labels, count);
            }
        }
        let mut family = text.family(
            "lb_tls_handshake_failures_total",
            Kind::Counter,
            "TLS handshakes with clients that failed, by the reason.",
        );
        for listener in with_tls() {
            for failure in TlsFailure::ALL {
                let labels = [("listener", listener.name()), ("reason", failure.name())];
                family.sample(&labels, listener.sum(|shard| shard.tls.failures(failure)));
            }
        }
    }

    fn write_sessions(&self, text: &mut Text) {
        let mut family = text.family(
            "lb_sessions_total",
            Kind::Counter,
            "TCP sessions that ended, by the reason.",
        );
        for listener in self.of_kind(ListenerKind::Tcp) {
            for end in SessionEnd::ALL {
                let labels = [("listener", listener.name()), ("end", end.name())];
                family.sample(&labels, listener.sum(|shard| shard.sessions(end)));
            }
        }
    }

    fn write_http2(&self, text: &mut Text) {
        type Number = fn(&ListenerCounters) -> u64;
        let families: [(&str, Kind, &str, Number); 5] = [
            (
                "lb_http2_connections_total",
                Kind::Counter,
                "Client connections that speak HTTP/2.",
                |shard| shard.http2.connections.get(),
            ),
            (
                "lb_http2_connections_active",
                Kind::Gauge,
                "Client connections open that speak HTTP/2.",
                |shard| shard.http2.connections_active.get(),
            ),
            (
                "lb_http2_streams_total",
                Kind::Counter,
                "HTTP/2 streams that clients have begun.",
                |shard| shard.http2.streams.get(),
            ),
            (
                "lb_http2_offences_total",
                Kind::Counter,
                "HTTP/2 connections ended as the client broke the rules of the protocol.",
                |shard| shard.http2.offences.get(),
            ),
            (
                "lb_http2_floods_total",
                Kind::Counter,
                "HTTP/2 connections ended as the client did what costs us more than it.",
                |shard| shard.http2.floods.get(),
            ),
        ];
        for (name, kind, help, number) in families {
            self.per_listener(
                text,
                name,
                kind,
                help,
                |it| it == ListenerKind::Http,
                number,
            );
        }
    }

    /// By the codes that have occurred: of the others, there would be too many series of zero.
    fn write_resets(&self, text: &mut Text) {
        type Number = fn(&ListenerCounters, usize) -> u64;
        let families: [(&str, &str, Number); 2] = [
            (
                "lb_http2_resets_received_total",
                "HTTP/2 streams that clients have reset, by the error code, if there were any.",
                |shard, code| shard.http2.resets_received[code].get(),
            ),
            (
                "lb_http2_resets_sent_total",
                "HTTP/2 streams of clients that we have reset, by the error code, if there were any.",
                |shard, code| shard.http2.resets_sent[code].get(),
            ),
        ];
        for (name, help, number) in families {
            let mut family = text.family(name, Kind::Counter, help);
            for listener in self.of_kind(ListenerKind::Http) {
                for (code, code_name) in Http2Counters::RESET_CODES.iter().enumerate() {
                    let count = listener.sum(|shard| number(shard, code));
                    if count > 0 {
                        let labels = [("listener", listener.name()), ("code", code_name)];
                        family.sample(&labels, count);
                    }
                }
            }
        }
    }

    fn write_flows(&self, text: &mut Text) {
        type Number = fn(&ListenerCounters) -> u64;
        let families: [(&str, &str, Number); 3] = [
            (
                "lb_udp_received_datagrams_total",
                "Datagrams received from clients.",
                |shard| shard.flows.received.get(),
            ),
            (
                "lb_udp_sent_datagrams_total",
                "Datagrams sent to clients.",
                |shard| shard.flows.sent.get(),
            ),
            (
                "lb_udp_flows_moved_total",
                "Times that a flow went on to another backend.",
                |shard| shard.flows.moved.get(),
            ),
        ];
        let is_udp = |kind| kind == ListenerKind::Udp;
        for (name, help, number) in families {
            self.per_listener(text, name, Kind::Counter, help, is_udp, number);
        }
        let mut ended = text.family(
            "lb_udp_flows_total",
            Kind::Counter,
            "UDP flows that ended, by the reason.",
        );
        for listener in self.of_kind(ListenerKind::Udp) {
            for end in FlowEnd::ALL {
                let labels = [("listener", listener.name()), ("end", end.name())];
                ended.sample(&labels, listener.sum(|shard| shard.flows.ends(end)));
            }
        }
        let mut shed = text.family(
            "lb_udp_flows_shed_total",
            Kind::Counter,
            "UDP flows that were not begun, by the reason; their datagrams were dropped.",
        );
        for listener in self.of_kind(ListenerKind::Udp) {
            for why in FlowShed::ALL {
                let labels = [("listener", listener.name()), ("reason", why.name())];
                shed.sample(&labels, listener.sum(|shard| shard.flows.sheds(why)));
            }
        }
    }

    fn write_exchanges(&self, text: &mut Text) {
        let mut family = text.family(
            "lb_exchanges_total",
            Kind::Counter,
            "HTTP exchanges answered, by the class of the status.",
        );
        for listener in self.of_kind(ListenerKind::Http) {
            for class in StatusClass::ALL {
                let labels = [("listener", listener.name()), ("status", class.name())];
                family.sample(&labels, listener.sum(|shard| shard.exchanges(class)));
            }
        }
        self.per_listener(
            text,
            "lb_exchanges_active",
            Kind::Gauge,
            "HTTP exchanges under way.",
            |kind| kind == ListenerKind::Http,
            |shard| shard.exchanges_active.get(),
        );
        self.per_listener(
            text,
            "lb_exchanges_aborted_total",
            Kind::Counter,
            "HTTP exchanges whose client was gone before it had its response.",
            |kind| kind == ListenerKind::Http,
            |shard| shard.exchanges_aborted.get(),
        );
        self.per_listener(
            text,
            "lb_upgrades_total",
            Kind::Counter,
            "Connections that went on in another protocol, as WebSockets do.",
            |kind| kind == ListenerKind::Http,
            |shard| shard.upgrades.get(),
        );
        self.per_listener(
            text,
            "lb_upgrades_active",
            Kind::Gauge,
            "Connections open that went on in another protocol.",
            |kind| kind == ListenerKind::Http,
            |shard| shard.upgrades_active.get(),
        );
        let mut family = text.family(
            "lb_exchange_duration_seconds",
            Kind::Histogram,
            "From the end of a request's head to the end of its response.",
        );
        for listener in self.of_kind(ListenerKind::Http) {
            let shards = listener.shards.iter().map(|shard| &shard.exchange_time);
            family.histogram(&[("listener", listener.name())], shards);
        }
    }

    fn write_queues(&self, text: &mut Text) {
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

    fn write_clusters(&self, text: &mut Text) {
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

    fn write_backends(&self, text: &mut Text) {
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

    fn write_checks(&self, text: &mut Text) {
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

    fn of_kind(&self, kind: ListenerKind) -> impl Iterator<Item = &ListenerStats> {
        self.listeners
            .iter()
            .map(|listener| &**listener)
            .filter(move |it| it.kind == kind)
    }

    fn per_worker(
        &self,
        text: &mut Text,
        name: &str,
        kind: Kind,
        help: &str,
        number: impl Fn(&WorkerMetrics) -> u64,
    ) {
        let mut family = text.family(name, kind, help);
        for (index, worker) in self.workers.iter().enumerate() {
            family.sample(&[("worker", &index.to_string())], number(worker));
        }
    }

    fn per_listener(
        &self,
        text: &mut Text,
        name: &str,
        kind: Kind,
        help: &str,
        applies: impl Fn(ListenerKind) -> bool,
        number: impl Fn(&ListenerCounters) -> u64,
    ) {
        let mut family = text.family(name, kind, help);
        for listener in self
            .listeners
            .iter()
            .filter(|listener| applies(listener.kind))
        {
            family.sample(&[("listener", listener.name())], listener.sum(&number));
        }
    }

    fn per_cluster(
        &self,
        text: &mut Text,
        name: &str,
        help: &str,
        number: impl Fn(&ClusterCounters) -> u64,
    ) {
        let mut family = text.family(name, Kind::Counter, help);
        for cluster in self.clusters {
            let sum: u64 = cluster.counters().iter().map(&number).sum();
            family.sample(&[("cluster", &cluster.name)], sum);
        }
    }

    /// Two names of one address are two backends nowhere, but one name may resolve to two
    /// addresses: the address keeps the series apart.
    fn per_backend(
        &self,
        text: &mut Text,
        name: &str,
        kind: Kind,
        help: &str,
        number: impl Fn(&Backend) -> u64,
    ) {
        let mut family = text.family(name, kind, help);
        for cluster in self.clusters {
            for backend in cluster.backends() {
                let address = crate::rt::shown(backend.address).to_string();
                let labels = [
                    ("cluster", &*cluster.name),
                    ("backend", &*backend.name),
                    ("address", &*address),
                ];
                family.sample(&labels, number(backend));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::text::tests::{Scraped, scrape};
    use std::net::SocketAddr;

    use super::*;
    use crate::balance::Context;
    use crate::plan;

    struct Everything {
        control: ControlMetrics,
        workers: Vec<Arc<WorkerMetrics>>,
        listeners: Vec<Arc<ListenerStats>>,
        clusters: Vec<Arc<Cluster>>,
    }

    impl Everything {
        /// Two workers, listeners `web` (HTTP) and `db` (TCP), and the cluster `a` with two
        /// backends of the same name.
        fn new() -> Self {
            let listener = |name: &str, protocol| {
                let address = "127.0.0.1:0".parse().unwrap();
                let plan = plan::Listener {
                    name: name.into(),
                    address,
                    edge: plan::Edge::default(),
                    access_log: plan::ListenerLog::default(),
                    protocol,
                };
                Arc::new(ListenerStats::build(&plan, 2, None))
            };
            let backend = |address: &str| plan::Backend {
                name: "web:80".into(),
                weight: 3,
                ..address.parse::<SocketAddr>().unwrap().into()
            };
            let backends = vec![backend("10.0.0.1:80"), backend("[2001:db8::1]:80")];
            let mut cluster = plan::Cluster::new("a", backends);
            cluster.health = Some(plan::Health::default());
            Self {
                control: ControlMetrics::default(),
                workers: vec![Arc::default(), Arc::default()],
                listeners: vec![
                    listener("web", plan::Protocol::Http(plan::Http::default())),
                    listener("db", plan::Protocol::Tcp(plan::Tcp::to("a"))),
                ],
                clusters: vec![Arc::new(Cluster::build(
                    &cluster,
                    &Context::new(1, 2),
                    None,
                ))],
            }
        }

        fn scrape(&self) -> Scraped {
            let Self {
                control,
                workers,
                listeners,
                clusters,
            } = self;
            let mut text = Text::default();
            Report {
                control,
                workers,
                listeners,
                clusters,
            }
            .write(&mut text);
            scrape(&text.finish())
        }
    }

    #[test]
    fn a_page_is_valid_with_nothing_and_with_everything() {
        let control = ControlMetrics::default();
        let mut text = Text::default();
        Report {
            control: &control,
            workers: &[],
            listeners: &[],
            clusters: &[],
        }
        .write(&mut text);
        assert_eq!(scrape(&text.finish()).value("lb_config_generation"), 0.0);
        assert_eq!(
            Everything::new().scrape().value("lb_config_generation"),
            0.0
        );
    }

    #[test]
    fn workers_shards_are_added_up() {
        let everything = Everything::new();
        let [web, db] = &everything.listeners[..] else {
            unreachable!()
        };
        web.shard(0).accepted.add(2);
        web.shard(1).accepted.add(3);
        web.shard(1).active.increment();
        db.shard(1).active.increment();
        web.shard(0).exchange_answered(404);
        web.shard(1).exchange_answered(418);
        web.shard(0).exchange_time.observe(Duration::from_millis(3));
        db.shard(0).sent_bytes.add(1 << 60);
        db.shard(1).session_ended(SessionEnd::Idle);
        let page = everything.scrape();
        assert_eq!(
            page.value("lb_client_connections_total{listener=\"web\"}"),
            5.0
        );
        assert_eq!(
            page.value("lb_client_connections_active{listener=\"web\"}"),
            1.0
        );
        assert_eq!(page.value("lb_worker_connections{worker=\"0\"}"), 0.0);
        assert_eq!(page.value("lb_worker_connections{worker=\"1\"}"), 2.0);
        assert_eq!(
            page.value("lb_exchanges_total{listener=\"web\",status=\"4xx\"}"),
            2.0
        );
        assert_eq!(
            page.value("lb_exchange_duration_seconds_count{listener=\"web\"}"),
            1.0
        );
        assert_eq!(
            page.value("lb_client_sent_bytes_total{listener=\"db\"}"),
            (1_u64 << 60) as f64
        );
        assert_eq!(
            page.value("lb_sessions_total{end=\"idle\",listener=\"db\"}"),
            1.0
        );
    }

    #[test]
    fn a_listener_shows_only_what_it_can_count() {
        let page = Everything::new().scrape();
        assert!(page.has("lb_exchanges_total{listener=\"web\",status=\"2xx\"}"));
        assert!(!page.has("lb_exchanges_total{listener=\"db\",status=\"2xx\"}"));
        assert!(!page.has("lb_exchange_duration_seconds_count{listener=\"db\"}"));
        assert!(!page.has("lb_sessions_total{end=\"idle\",listener=\"web\"}"));
    }

    #[test]
    fn flows_are_counted_of_udp_listeners_only() {
        let mut everything = Everything::new();
        let dns = plan::Listener {
            name: "dns".into(),
            address: "127.0.0.1:53".parse().unwrap(),
            protocol: plan::Protocol::Udp(plan::Udp::to("a")),
            edge: plan::Edge::default(),
            access_log: plan::ListenerLog::default(),
        };
        let dns = Arc::new(ListenerStats::build(&dns, 2, None));
        dns.shard(0).flows.received.add(3);
        dns.shard(1).flows.shed(FlowShed::Source);
        dns.shard(1).flows.ended(FlowEnd::Idle);
        everything.listeners.push(dns);
        let page = everything.scrape();
        let of = |series: &str| page.value(series);
        assert_eq!(of("lb_udp_received_datagrams_total{listener=\"dns\"}"), 3.0);
        let shed = "lb_udp_flows_shed_total{listener=\"dns\",reason=\"source\"}";
        assert_eq!(of(shed), 1.0);
        assert_eq!(of("lb_udp_flows_total{end=\"idle\",listener=\"dns\"}"), 1.0);
        assert!(!page.has("lb_udp_sent_datagrams_total{listener=\"db\"}"));
    }

    #[test]
    fn backends_of_one_name_are_told_apart_by_address() {
        let everything = Everything::new();
        let [first, second] = everything.clusters[0].backends() else {
            unreachable!()
        };
        first.counters(0).connections.increment();
        first.counters(1).connections.increment();
        second.counters(1).connect_failures.increment();
        second.set_healthy(false);
        everything.clusters[0].counters().of(1).retries.increment();
        let page = everything.scrape();
        let of = |name: &str, address: &str| {
            page.value(&format!(
                "{name}{{address=\"{address}\",backend=\"web:80\",cluster=\"a\"}}"
            ))
        };
        assert_eq!(of("lb_backend_connections_total", "10.0.0.1:80"), 2.0);
        assert_eq!(of("lb_backend_connections_total", "[2001:db8::1]:80"), 0.0);
        assert_eq!(
            of("lb_backend_connect_failures_total", "[2001:db8::1]:80"),
            1.0
        );
        assert_eq!(of("lb_backend_healthy", "10.0.0.1:80"), 1.0);
        assert_eq!(of("lb_backend_healthy", "[2001:db8::1]:80"), 0.0);
        assert_eq!(of("lb_backend_weight", "10.0.0.1:80"), 3.0);
        assert_eq!(page.value("lb_cluster_retries_total{cluster=\"a\"}"), 1.0);
    }

    #[test]
    fn a_backend_is_in_one_state_and_its_checks_are_counted() {
        let everything = Everything::new();
        let [first, second] = everything.clusters[0].backends() else {
            unreachable!()
        };
        second.set_healthy(false);
        second.counters(0).checks_failed.add(3);
        first.counters(1).checks_succeeded.increment();
        let page = everything.scrape();
        let of = |name: &str, address: &str, label: &str| {
            page.value(&format!(
                "{name}{{address=\"{address}\",backend=\"web:80\",cluster=\"a\",{label}}}"
            ))
        };
        let (first, second) = ("10.0.0.1:80", "[2001:db8::1]:80");
        for state in State::ALL {
            let label = format!("state=\"{state}\"");
            let is = |wanted| f64::from(u8::from(state == wanted));
            assert_eq!(of("lb_backend_state", first, &label), is(State::Ready));
            assert_eq!(of("lb_backend_state", second, &label), is(State::Unhealthy));
        }
        let checks = "lb_backend_health_checks_total";
        assert_eq!(of(checks, first, "result=\"success\""), 1.0);
        assert_eq!(of(checks, second, "result=\"failure\""), 3.0);
        assert_eq!(page.value("lb_cluster_panicking{cluster=\"a\"}"), 0.0);
    }

    #[test]
    fn a_worker_behind_the_configuration_shows() {
        let everything = Everything::new();
        everything.control.config_generation.set(7);
        everything.control.reloads_failed.increment();
        everything.workers[0].config_generation.set(7);
        everything.workers[1].config_generation.set(5);
        everything.workers[1].task_panics.increment();
        let page = everything.scrape();
        assert_eq!(page.value("lb_config_generation"), 7.0);
        assert_eq!(
            page.value("lb_config_reloads_total{result=\"failure\"}"),
            1.0
        );
        assert_eq!(page.value("lb_worker_config_lag{worker=\"0\"}"), 0.0);
        assert_eq!(page.value("lb_worker_config_lag{worker=\"1\"}"), 2.0);
        assert_eq!(page.value("lb_worker_task_panics_total{worker=\"1\"}"), 1.0);
    }
}

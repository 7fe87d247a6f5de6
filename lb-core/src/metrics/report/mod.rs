//! The series that are exported, family by family.
//!
//! Invariant: labels are names from the plan, never from traffic, so their number is bounded by
//! the configuration. Histograms stand per listener and per cluster, not per backend.
//! Read next: `listeners.rs`, `clusters.rs`, `../text.rs` (how a family is written).

mod clusters;
mod listeners;

use std::sync::Arc;

use super::{
    ClusterCounters, ControlMetrics, Kind, ListenerCounters, ListenerKind, ListenerStats, Text,
    WorkerMetrics,
};
use crate::balance::{Backend, Cluster};

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

    use crate::metrics::text::tests::{Scraped, scrape};
    use std::net::SocketAddr;

    use super::*;
    use crate::balance::{Context, State};
    use crate::metrics::{FlowEnd, FlowShed, SessionEnd};
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

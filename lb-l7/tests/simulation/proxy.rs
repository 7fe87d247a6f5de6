//! The exchange under test, on the simulated network.
//!
//! Invariant checked here: when it ends, nothing is in flight, counted or open any more.
//! Read next: `main.rs`, `operations/mod.rs` (who use it).

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lb_core::balance::{Cluster, Context};
use lb_core::metrics::ListenerCounters;
use lb_core::plan;
use lb_core::rt::{self, ListenOptions, TcpListener, sim};
use lb_core::snapshot::Current;
use lb_core::worker::Worker;
use lb_l7::{HttpService, HttpWorker};

/// A listener on any port.
pub(crate) fn listen() -> (TcpListener, SocketAddr) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = TcpListener::bind(any, &ListenOptions::default()).expect("bind");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// The exchange under test.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) worker: Rc<Worker>,
    http: Rc<HttpWorker>,
    cluster: Arc<Cluster>,
    counters: Arc<ListenerCounters>,
    accepting: rt::TaskId,
}

impl Proxy {
    /// Serves `http`, of which everything goes to `cluster`.
    pub(crate) fn start(http: &plan::Http, cluster: &plan::Cluster) -> Self {
        Self::start_as(http, cluster, |service| service)
    }

    /// As [`Self::start`], with a service that `finish` completes.
    pub(crate) fn start_as(
        http: &plan::Http,
        cluster: &plan::Cluster,
        finish: impl FnOnce(HttpService) -> HttpService,
    ) -> Self {
        let cluster = Arc::new(Cluster::build(cluster, &Context::new(1, 1), None));
        let by_name = |_: &str| Some(Arc::clone(&cluster));
        let service = HttpService::build(http, &by_name).expect("a service");
        let current = Rc::new(Current::new(Arc::new(finish(service))));
        let worker = Rc::new(Worker::new(0, Arc::default()));
        let http = HttpWorker::new(Rc::clone(&worker));
        http.keep_ready([&cluster]);
        let counters = Arc::<ListenerCounters>::default();
        let (listener, address) = listen();
        let accepting = rt::spawn({
            let (worker, http) = (Rc::clone(&worker), Rc::clone(&http));
            let counters = Arc::clone(&counters);
            async move {
                loop {
                    let Ok(client) = listener.accept().await else {
                        rt::sleep(Duration::from_millis(10)).await;
                        continue;
                    };
                    let (current, http) = (Rc::clone(&current), Rc::clone(&http));
                    worker.connections.spawn(Arc::clone(&counters), |it| {
                        lb_l7::serve(client, current, http, it)
                    });
                }
            }
        });
        Self {
            address,
            worker,
            http,
            cluster,
            counters,
            accepting,
        }
    }

    /// Waits until nobody is served any more and no connection is kept.
    pub(crate) async fn settle(&self) {
        self.http.keep_ready([]);
        loop {
            rt::sleep(Duration::from_secs(5)).await;
            let backends = self.cluster.backends().iter();
            let mut counters = backends.map(|it| it.counters(0).connections_active.get());
            let has_ended = counters.all(|it| it == 0);
            if self.worker.connections.is_empty() && self.http.pooled() == 0 && has_ended {
                return;
            }
        }
    }

    /// Looks for what was left behind.
    pub(crate) async fn end(self) {
        rt::abort(self.accepting);
        assert_eq!(self.counters.exchanges_active.get(), 0);
        for backend in self.cluster.backends() {
            let counters = backend.counters(0);
            assert_eq!(backend.in_flight(), 0);
            assert_eq!(counters.exchanges_active.get(), 0);
            assert_eq!(counters.connections_active.get(), 0);
        }
        drop((self.http, self.worker));
        // Clients and backends that wait for a side that has gone silent.
        while rt::stats().tasks > 0 {
            rt::sleep(Duration::from_secs(10)).await;
        }
        rt::sleep(Duration::from_secs(1)).await;
        assert_eq!(sim::live_sockets(), 0, "sockets are left");
    }
}

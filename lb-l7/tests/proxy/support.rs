//! A proxy on a thread of its own. Read next: `ends.rs` (its backends and clients).

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lb_core::balance::{Cluster, Context};
use lb_core::lines::LineSink;
use lb_core::metrics::ListenerStats;
use lb_core::plan::{self, Balance, Forwarded, HttpLimits, HttpTimeouts};
use lb_core::rt::probe::{EngineChoice, probe};
use lb_core::rt::{self, EngineKind, ListenOptions, Runtime};
use lb_core::snapshot::Current;
use lb_core::worker::Worker;
use lb_l7::tls::{TlsAcceptor, TlsContext};
use lb_l7::{HttpService, HttpWorker, Log};

/// Scripted backends and a plain client.
#[path = "ends.rs"]
#[allow(dead_code, reason = "shared with the tests of the program")]
mod ends;
pub(crate) use ends::*;

/// Runs `test` on every engine.
pub(crate) fn on_each_engine(test: impl Fn(EngineKind)) {
    test(EngineKind::Epoll);
    match probe(EngineChoice::Only(EngineKind::Uring)) {
        Ok(_) => test(EngineKind::Uring),
        Err(reason) => eprintln!("skipped on io_uring: {reason}"),
    }
}

/// An HTTP listener's settings: short deadlines, everything to the cluster `main`.
pub(crate) fn http_plan() -> plan::Http {
    plan::Http {
        routes: Vec::new(),
        default_cluster: Some("main".to_owned()),
        limits: HttpLimits {
            head_bytes_max: 8 * 1024,
            headers_max: 64,
            body_bytes_max: None,
            requests_per_connection_max: None,
        },
        timeouts: HttpTimeouts {
            request_head: PATIENCE,
            keep_alive: PATIENCE,
            body_idle: PATIENCE,
            response_head: PATIENCE,
        },
        forwarded: Forwarded::Append,
        ..plan::Http::default()
    }
}

/// A cluster of `backends`, in turns, three tries.
pub(crate) fn cluster_plan(name: &str, backends: &[SocketAddr]) -> plan::Cluster {
    let backends = backends.iter().map(|&address| address.into()).collect();
    plan::Cluster {
        balance: Balance::RoundRobin,
        connect_timeout: PATIENCE,
        pool_idle_max: 16,
        pool_idle_timeout: PATIENCE,
        ..plan::Cluster::new(name, backends)
    }
}

/// A proxy on a thread of its own.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) clusters: Vec<Arc<Cluster>>,
    pub(crate) stats: Arc<ListenerStats>,
    pub(crate) draining: Arc<AtomicBool>,
    pub(crate) log: Arc<Mutex<Vec<u8>>>,
    /// What is to be served from now on, until it is.
    next: Arc<Mutex<Option<Arc<HttpService>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// A proxy to one cluster, with the usual settings.
    pub(crate) fn to(engine: EngineKind, backends: &[SocketAddr]) -> Self {
        Self::start(engine, http_plan(), &[cluster_plan("main", backends)])
    }

    pub(crate) fn start(engine: EngineKind, http: plan::Http, clusters: &[plan::Cluster]) -> Self {
        Self::start_logging(engine, http, clusters, true, || ())
    }

    /// With or without an access log; `on_thread` is called on the proxy's thread.
    pub(crate) fn start_logging(
        engine: EngineKind,
        http: plan::Http,
        clusters: &[plan::Cluster],
        logs: bool,
        on_thread: impl FnOnce() + Send + 'static,
    ) -> Self {
        let clusters: Vec<Arc<Cluster>> = clusters
            .iter()
            .map(|plan| Arc::new(Cluster::build(plan, &Context::new(1, 1), None)))
            .collect();
        let log = Arc::new(Mutex::new(Vec::with_capacity(1 << 20)));
        let mut service = service(&http, &clusters);
        if logs {
            let sink = Arc::new(Sink(Arc::clone(&log)));
            let format = plan::LogFormat::Json;
            service = service.logged(Log::new("test", &http.routes, &format, sink).unwrap());
        }
        let service = Arc::new(service);
        let tls = http.tls.as_ref().map(|tls| {
            let context = TlsContext::new().unwrap();
            Arc::new(TlsAcceptor::build(tls, &context, None).unwrap())
        });
        let listener = plan::Listener {
            name: "test".to_owned(),
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            edge: plan::Edge::default(),
            access_log: plan::ListenerLog::default(),
            protocol: plan::Protocol::Http(http),
        };
        let stats = Arc::new(ListenerStats::build(&listener, 1, None));
        let (stop, draining) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let next = Arc::<Mutex<Option<Arc<HttpService>>>>::default();
        let (send_address, address) = mpsc::channel();
        let thread = {
            let (stop, draining) = (Arc::clone(&stop), Arc::clone(&draining));
            let (stats, next) = (Arc::clone(&stats), Arc::clone(&next));
            thread::spawn(move || {
                on_thread();
                let config = rt::Config {
                    engine,
                    ..rt::Config::default()
                };
                let mut runtime = Runtime::new(&config).unwrap();
                runtime.block_on(async {
                    let current = Rc::new(Current::new(service));
                    rt::spawn(follow(next, Rc::clone(&current)));
                    let proxy = accept(current, tls, stats, send_address, draining);
                    rt::select(proxy, until(&stop)).await
                });
            })
        };
        let address = address.recv_timeout(PATIENCE).expect("the proxy to listen");
        Self {
            address,
            clusters,
            stats,
            draining,
            log,
            next,
            stop,
            thread: Some(thread),
        }
    }

    /// Serves what begins from now on by `http`.
    pub(crate) fn reload(&self, http: &plan::Http) {
        let service = Arc::new(service(http, &self.clusters));
        *self.next.lock().unwrap() = Some(service);
        while self.next.lock().unwrap().is_some() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn connect(&self) -> Client {
        Client::to(self.address)
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self, request: &str) -> Response {
        let mut client = self.connect();
        client.send(request.as_bytes());
        client.response()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(
            ended.is_ok() || thread::panicking(),
            "the proxy's thread panicked"
        );
    }
}

fn service(http: &plan::Http, clusters: &[Arc<Cluster>]) -> HttpService {
    let by_name = |name: &str| {
        let mut clusters = clusters.iter();
        clusters.find(|it| it.name == name).map(Arc::clone)
    };
    HttpService::build(http, &by_name).unwrap()
}

async fn follow(next: Arc<Mutex<Option<Arc<HttpService>>>>, current: Rc<Current<HttpService>>) {
    let switch = || {
        let mut next = next.lock().unwrap();
        if let Some(service) = next.take() {
            current.set(service); // before it is seen to be taken
        }
    };
    loop {
        switch();
        rt::sleep(Duration::from_millis(10)).await;
    }
}

async fn accept(
    current: Rc<Current<HttpService>>,
    tls: Option<Arc<TlsAcceptor>>,
    stats: Arc<ListenerStats>,
    send_address: mpsc::Sender<SocketAddr>,
    draining: Arc<AtomicBool>,
) {
    let options = ListenOptions {
        reuse_port: false,
        backlog: 128,
        v6_only: false,
    };
    let listener = rt::TcpListener::bind((Ipv4Addr::LOCALHOST, 0).into(), &options).unwrap();
    let worker = Rc::new(Worker::new(0, Arc::default()));
    let http = HttpWorker::new(Rc::clone(&worker));
    send_address.send(listener.local_addr().unwrap()).unwrap();
    rt::spawn({
        let worker = Rc::clone(&worker);
        async move {
            until(&draining).await;
            worker.draining.set(true);
            worker.connections.close_idle();
        }
    });
    loop {
        let stream = listener.accept().await.unwrap();
        let (current, http) = (Rc::clone(&current), Rc::clone(&http));
        let shard = Arc::clone(stats.shard(0));
        let Some(tls) = tls.clone() else {
            worker
                .connections
                .spawn(shard, |it| lb_l7::serve(stream, current, http, it));
            continue;
        };
        worker.connections.spawn(shard, |registration| async move {
            let stream = tls.accept(stream).await.unwrap();
            lb_l7::serve(stream, current, http, registration).await;
        });
    }
}

async fn until(flag: &AtomicBool) {
    while !flag.load(Ordering::Relaxed) {
        rt::sleep(Duration::from_millis(10)).await;
    }
}

struct Sink(Arc<Mutex<Vec<u8>>>);

impl LineSink for Sink {
    /// The oldest lines go when there are too many: keeping all would allocate.
    fn write(&self, mut lines: Vec<u8>) -> Vec<u8> {
        let mut kept = self.0.lock().unwrap();
        if kept.len() + lines.len() > kept.capacity() {
            kept.clear();
        }
        kept.extend_from_slice(&lines);
        lines.clear();
        lines
    }
}

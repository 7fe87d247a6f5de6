//! What the HTTP connections of one worker share: idle backend connections, the date, the log.
//!
//! Invariant: it never leaves its thread, so nothing in it is locked.
//! Read next: `connection.rs` (its user), `pool.rs`.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lb_core::balance::{Backend, BackendId, Cluster};
use lb_core::rt::{self, TcpStream};
use lb_core::worker::Worker;

use crate::budget::Budget;
use crate::date::DateCache;
use crate::http2::client::Backends;
use crate::http2::server::Clients;
use crate::lending::Workers;
use crate::link::BackendLink;
use crate::log::Records;
use crate::pool::{BackendConnection, Pool};
use crate::queue::Queue;
use crate::request_id::RequestIds;
use crate::rooms::Rooms;
use crate::stream::Stream;

/// The HTTP side of one worker.
#[derive(Debug)]
pub struct HttpWorker {
    pub(crate) worker: Rc<Worker>,
    pub(crate) pool: Pool,
    /// Exchanges that wait for a connection.
    pub(crate) queue: Rc<Queue>,
    budgets: RefCell<HashMap<String, Budget>>,
    pub(crate) date: DateCache,
    pub(crate) records: Records,
    pub(crate) request_ids: RequestIds,
    pub(crate) rooms: Rooms,
    pub(crate) clients: Clients,
    pub(crate) backends: Backends,
    /// Bytes of request bodies that are held until a backend has answered.
    pub(crate) gathered: Cell<usize>,
    /// Clusters whose backends are to have connections ready.
    warm: RefCell<Vec<Arc<Cluster>>>,
    /// All workers, if there are others.
    pub(crate) workers: OnceCell<Arc<dyn Workers>>,
}

impl HttpWorker {
    /// How often idle connections are looked through, and log lines handed over.
    const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

    /// Without idle connections; starts a task on the calling thread's runtime that closes the
    /// ones that grow old. It ends when the last owner of the `HttpWorker` is gone.
    pub fn new(worker: Rc<Worker>) -> Rc<Self> {
        let http = Rc::new(Self {
            worker,
            pool: Pool::default(),
            queue: Rc::default(),
            budgets: RefCell::default(),
            date: DateCache::default(),
            records: Records::default(),
            request_ids: RequestIds::new(),
            rooms: Rooms::default(),
            clients: Clients::default(),
            backends: Backends::default(),
            gathered: Cell::default(),
            warm: RefCell::default(),
            workers: OnceCell::new(),
        });
        let weak = Rc::downgrade(&http);
        rt::spawn(async move {
            loop {
                rt::sleep(Self::SWEEP_INTERVAL).await;
                let Some(http) = weak.upgrade() else { return };
                http.sweep();
                http.warm_up();
            }
        });
        http
    }

    /// Says by what the other workers are reached, once; without, connections are not shared.
    pub fn meet(&self, workers: Arc<dyn Workers>) {
        let is_first = self.workers.set(workers).is_ok();
        debug_assert!(is_first, "they stay");
    }

    /// Closes idle connections to backends that are `gone` from the plan.
    pub fn close_pools(&self, gone: impl Fn(BackendId) -> bool) {
        self.pool.retain(|backend| !gone(backend));
        self.backends.retain(|backend| !gone(backend));
    }

    /// Keeps connections ready to the backends of those of `clusters` that ask for it, and no others.
    pub fn keep_ready<'c>(&self, clusters: impl IntoIterator<Item = &'c Arc<Cluster>>) {
        let asks = |it: &&Arc<Cluster>| it.exchanges.connections_ready > 0;
        let clusters = clusters.into_iter().filter(asks).cloned();
        *self.warm.borrow_mut() = clusters.collect();
    }

    /// Connects to backends that have too few connections ready.
    fn warm_up(self: &Rc<Self>) {
        for cluster in self.warm.borrow().iter() {
            for backend in cluster.backends() {
                let ready = usize::from(cluster.exchanges.connections_ready);
                let counters = backend.counters(self.worker.index);
                let coming = usize::try_from(counters.connecting.get()).unwrap_or(usize::MAX);
                let lacking = ready.saturating_sub(self.pool.idle(backend.id()) + coming);
                let lacking = lacking.min(self.room(cluster, backend));
                if backend.is_healthy() && !backend.is_ejected() {
                    for _ in 0..lacking {
                        rt::spawn(make_ready(
                            Rc::clone(self),
                            Arc::clone(cluster),
                            Arc::clone(backend),
                        ));
                    }
                }
            }
        }
    }

    /// How many connections to `backend` may be opened beside those that there are.
    pub(crate) fn room(&self, cluster: &Cluster, backend: &Backend) -> usize {
        let Some(max) = cluster.exchanges.connections_max else {
            return usize::MAX;
        };
        let own = self.worker.index;
        let counters = backend.counters(own);
        let open = counters.connections_active.get() + counters.connecting.get();
        let most = u64::try_from(i64::from(max) + backend.allowance(own)).unwrap_or(0);
        usize::try_from(most.saturating_sub(open)).unwrap_or(usize::MAX)
    }

    /// Number of idle connections to backends.
    pub fn pooled(&self) -> usize {
        self.pool.len() + self.backends.idle()
    }

    /// Hands the log lines over that have gathered; also done every second.
    pub fn flush_access_log(&self) {
        self.worker.lines.flush();
    }

    /// Whether `cluster` may see one more retry, which is counted.
    pub(crate) fn may_retry(&self, cluster: &Cluster) -> bool {
        let Some(budget) = cluster.exchanges.retry_budget else {
            return true;
        };
        let counters = cluster.counters().of(self.worker.index);
        let mut budgets = self.budgets.borrow_mut();
        if !budgets.contains_key(&cluster.name) {
            budgets.insert(cluster.name.clone(), Budget::default());
        }
        let own = budgets.get_mut(&cluster.name);
        let is_allowed = own.is_none_or(|it| it.take(budget, counters.exchanges.get(), rt::now()));
        if !is_allowed {
            counters.retries_denied.increment();
        }
        is_allowed
    }

    fn sweep(&self) {
        let now = rt::now();
        self.pool.sweep(now);
        self.backends.sweep();
        self.budgets.borrow_mut().retain(|_, it| !it.is_old(now));
        self.flush_access_log();
        if self.worker.draining.get() {
            self.clients.drain();
        }
    }
}

/// Puts a new connection into the pool; whether it fails is found out by those who need one.
async fn make_ready(http: Rc<HttpWorker>, cluster: Arc<Cluster>, backend: Arc<Backend>) {
    let worker = http.worker.index;
    let connecting = backend.counters(worker).connecting.hold();
    let stream = rt::timeout(cluster.connect_timeout, TcpStream::connect(backend.address));
    let Ok(Ok(stream)) = stream.await else { return };
    drop(connecting);
    let link = BackendLink::Http1(Stream::Plain(stream));
    let connection = BackendConnection::new(link, Arc::clone(&backend), worker);
    let connection = match cluster.exchanges.connections_max {
        Some(_) => connection.of_few(&http.queue),
        None => connection,
    };
    http.keep(connection, &cluster);
}

//! The worker threads: each has a runtime, its own sockets for every listener, and no lock to
//! share with the others.
//!
//! Invariant: a worker is told things only through its mailbox, so whatever it does for the
//! control thread happens between two polls of its tasks.
//! Read next: `listeners.rs` (accepting), then `lb_l4` and `lb_l7` (serving).

mod checks;
mod chores;
mod listeners;
mod peers;
mod tls;

use std::cell::{Cell, OnceCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use lb_core::balance::BackendId;
use lb_core::balance::affinity::AffinityTable;
use lb_core::metrics::WorkerMetrics;
use lb_core::rt::{self, EngineKind, Handle, Notify, Runtime};
use lb_core::worker::Worker;
use lb_l7::HttpWorker;

use self::checks::Checks;
use self::chores::Chores;
use self::listeners::Listeners;
use self::peers::Peer;
pub(crate) use self::peers::Peers;
pub(crate) use self::tls::{log_backend_failures, log_http2};
use crate::change::Change;
use crate::log::log;
use crate::snapshot::ListenerKey;

/// Time between two heartbeats of a worker.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);

/// How often a draining worker looks whether its last connection has ended.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// One socket for each listener that is new to a worker.
pub(crate) type Sockets = HashMap<ListenerKey, BoundSocket>;

/// A socket that was bound for a worker.
#[derive(Debug)]
pub(crate) enum BoundSocket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl BoundSocket {
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
    }
}

/// What a worker thread starts with.
pub(crate) struct Start {
    /// From 0 to `workers` - 1.
    pub(crate) index: usize,
    pub(crate) workers: usize,
    pub(crate) engine: EngineKind,
    /// The core to run on.
    pub(crate) cpu: Option<usize>,
    /// From nothing to what it is to run.
    pub(crate) change: Arc<Change>,
    pub(crate) sockets: Sockets,
    /// What remembers clients, for the worker that looks after it.
    pub(crate) affinity: Arc<AffinityTable>,
    pub(crate) peers: Arc<Peers>,
}

/// The control thread's end of a worker.
pub(crate) struct WorkerHandle {
    pub(crate) metrics: Arc<WorkerMetrics>,
    /// When the worker's loop last turned for its heartbeat, in nanoseconds of [`rt::now`].
    heartbeat_nanos: Arc<AtomicU64>,
    peers: Arc<Peers>,
    runtime: Handle,
}

/// A worker whose runtime is being set up.
pub(crate) struct Starting {
    metrics: Arc<WorkerMetrics>,
    heartbeat_nanos: Arc<AtomicU64>,
    peers: Arc<Peers>,
    runtime: Receiver<io::Result<Handle>>,
}

impl Starting {
    /// Waits until the worker accepts.
    pub(crate) fn up(self) -> io::Result<WorkerHandle> {
        let ended = |_| io::Error::other("a worker ended at its start");
        let runtime = self.runtime.recv().map_err(ended)??;
        let Self {
            metrics,
            heartbeat_nanos,
            peers,
            ..
        } = self;
        Ok(WorkerHandle {
            metrics,
            heartbeat_nanos,
            peers,
            runtime,
        })
    }
}

impl WorkerHandle {
    /// Starts a worker. `on_end` is called when its thread ends, for whatever reason.
    pub(crate) fn start(
        start: Start,
        on_end: impl FnOnce() + Send + 'static,
    ) -> io::Result<Starting> {
        let metrics = Arc::new(WorkerMetrics::default());
        let heartbeat_nanos = Arc::new(AtomicU64::new(rt::now().as_nanos()));
        let (started, runtime) = crossbeam_channel::bounded(1);
        let peers = Arc::clone(&start.peers);
        let thread = Thread {
            metrics: Arc::clone(&metrics),
            heartbeat_nanos: Arc::clone(&heartbeat_nanos),
            _ended: OnDrop(Some(on_end)),
        };
        std::thread::Builder::new()
            .name(format!("lb-worker-{}", start.index))
            .spawn(move || thread.run(start, &started))?;
        Ok(Starting {
            metrics,
            heartbeat_nanos,
            peers,
            runtime,
        })
    }

    /// As the other workers see it.
    pub(crate) fn peer(&self) -> Peer {
        Peer {
            metrics: Arc::clone(&self.metrics),
            runtime: self.runtime.clone(),
        }
    }

    /// Has the worker take up a change, with the sockets of new listeners. Sessions of backends
    /// that are gone have `drain_timeout` to end.
    pub(crate) fn apply(&self, change: Arc<Change>, sockets: Sockets, drain_timeout: Duration) {
        self.tell(move |local| local.apply(&change, sockets, drain_timeout));
    }

    /// Has the worker stop accepting, and end when its last connection has.
    pub(crate) fn drain(&self) {
        self.peers.drain();
        self.tell(Local::drain);
    }

    /// Has the worker cut its connections and end.
    pub(crate) fn abort(&self) {
        self.tell(|local| {
            local.worker.connections.abort_all();
            local.end.notify();
        });
    }

    /// How long ago the worker's loop last turned for its heartbeat.
    pub(crate) fn since_heartbeat(&self) -> Duration {
        let last = self.heartbeat_nanos.load(Ordering::Relaxed);
        Duration::from_nanos(rt::now().as_nanos().saturating_sub(last))
    }

    /// Nothing happens if the worker has ended.
    fn tell(&self, message: impl FnOnce(&Rc<Local>) + Send + 'static) {
        self.runtime.spawn(|| {
            LOCAL.with(|local| local.get().map(message));
            std::future::ready(())
        });
    }
}

/// What belongs to one worker thread, for messages that arrive on it.
struct Local {
    worker: Rc<Worker>,
    /// How many of them there are.
    workers: usize,
    http: Rc<HttpWorker>,
    listeners: Listeners,
    checks: Checks,
    /// `None` where another worker does them.
    chores: Option<Chores>,
    peers: Arc<Peers>,
    /// Whose load is looked at next.
    peer_turn: Cell<usize>,
    end: Notify,
}

thread_local! {
    static LOCAL: OnceCell<Rc<Local>> = const { OnceCell::new() };
}

/// A worker thread before its runtime.
struct Thread<F: FnOnce()> {
    metrics: Arc<WorkerMetrics>,
    heartbeat_nanos: Arc<AtomicU64>,
    _ended: OnDrop<F>,
}

impl<F: FnOnce()> Thread<F> {
    fn run(self, start: Start, started: &Sender<io::Result<Handle>>) {
        let config = rt::Config {
            engine: start.engine,
            cpu: start.cpu,
            ..rt::Config::default()
        };
        let mut runtime = match Runtime::new(&config) {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error))),
        };
        // What shares the CPU with a worker must not keep it for milliseconds; it is no loss if that
        // cannot be had.
        let _ = rt::take_short_turns();
        let handle = runtime.handle();
        runtime.block_on(async {
            let worker = Rc::new(Worker::new(start.index, Arc::clone(&self.metrics)));
            let local = Rc::new(Local {
                http: HttpWorker::new(Rc::clone(&worker)),
                worker,
                workers: start.workers,
                listeners: Listeners::default(),
                checks: Checks::default(),
                chores: (start.index == 0).then(|| Chores::start(start.affinity)),
                peers: start.peers,
                peer_turn: Cell::default(),
                end: Notify::new(),
            });
            let peers = Arc::clone(&local.peers);
            local.http.meet(peers);
            LOCAL.with(|place| drop(place.set(Rc::clone(&local))));
            rt::spawn(beat(
                Arc::clone(&self.heartbeat_nanos),
                Arc::clone(&self.metrics),
            ));
            local.apply(&start.change, start.sockets, Duration::ZERO);
            // Nobody waits any more if the control thread has gone.
            let _ = started.send(Ok(handle));
            local.end.notified().await;
            local.http.flush_access_log();
        });
    }
}

impl Local {
    fn apply(self: &Rc<Self>, change: &Change, sockets: Sockets, drain_timeout: Duration) {
        let complete = self.listeners.apply(self, change, sockets);
        self.checks
            .apply(&change.clusters, self.worker.index, self.workers);
        if let Some(chores) = &self.chores {
            chores.apply(change);
        }
        if !change.gone.is_empty() {
            change.retire();
            self.http
                .close_pools(|backend| change.gone.contains(&backend));
            self.end_sessions(change.gone.clone(), drain_timeout);
        }
        self.http.keep_ready(&change.kept_ready);
        if complete {
            self.worker.metrics.config_generation.set(change.generation);
        }
    }

    /// Cuts the sessions of backends that are gone, once these have had time to end.
    fn end_sessions(self: &Rc<Self>, gone: HashSet<BackendId>, drain_timeout: Duration) {
        let local = Rc::clone(self);
        rt::spawn(async move {
            rt::sleep(drain_timeout).await;
            let sessions = &local.worker.connections;
            sessions.abort_sessions(|backend| gone.contains(&backend));
        });
    }

    fn drain(self: &Rc<Self>) {
        let local = Rc::clone(self);
        self.worker.draining.set(true);
        rt::spawn(async move {
            local.listeners.close_all().await;
            while !local.worker.connections.is_empty() {
                local.worker.connections.close_idle();
                rt::sleep(DRAIN_POLL).await;
            }
            local.end.notify();
        });
    }
}

/// Shows that the loop turns, and copies what only the thread itself can see.
async fn beat(heartbeat_nanos: Arc<AtomicU64>, metrics: Arc<WorkerMetrics>) {
    let mut panics_seen = 0;
    let mut datagrams_seen = (0, 0);
    loop {
        heartbeat_nanos.store(rt::now_precise().as_nanos(), Ordering::Relaxed);
        let stats = rt::stats();
        metrics.buffers_in_use.set(stats.buffers as u64);
        metrics.task_panics.add(stats.panics - panics_seen);
        if stats.panics > panics_seen {
            log!(
                Error,
                "a task panicked; its connection was closed",
                total = stats.panics
            );
        }
        panics_seen = stats.panics;
        let datagrams = (stats.datagrams_unsent, stats.datagrams_overflowed);
        metrics.datagrams_unsent.add(datagrams.0 - datagrams_seen.0);
        metrics
            .datagrams_overflowed
            .add(datagrams.1 - datagrams_seen.1);
        datagrams_seen = datagrams;
        rt::sleep(HEARTBEAT).await;
    }
}

/// Calls a function when it goes out of scope, on a panic too.
struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(function) = self.0.take() {
            function();
        }
    }
}

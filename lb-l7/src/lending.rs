//! Workers help each other out with idle connections: where requests wait because a backend may
//! have no more connections of their worker, one that is idle on another worker comes over.
//!
//! Invariant: a worker gives none to a backend that its own requests wait for, and a connection
//! takes the room of the worker that opened it wherever it is, so their number stays bounded.
//! Read next: `queue.rs` (who waits), `lb_core::balance::Room`.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use lb_core::balance::{Backend, BackendId, Cluster, Room};
use lb_core::rt::{self, Instant};

use crate::pool::{BackendConnection, History};
use crate::stream::DetachedStream;
use crate::worker::HttpWorker;

/// What one worker has another do.
pub type Message = Box<dyn FnOnce(&Rc<HttpWorker>) + Send>;

/// All workers of the process, as each reaches the others.
pub trait Workers: fmt::Debug + Send + Sync {
    /// Has `worker` handle a message; one that has ended does not.
    fn tell(&self, worker: usize, message: Message);
}

/// A connection between two workers.
struct Moving {
    stream: DetachedStream,
    room: Room,
    history: History,
    /// When it has been idle for too long.
    until: Instant,
    cluster: Arc<Cluster>,
}

/// That a request waits for a connection to any of some backends.
pub(crate) struct Wish<'h> {
    http: &'h HttpWorker,
    cluster: &'h Arc<Cluster>,
    backends: Vec<Arc<Backend>>,
}

impl Wish<'_> {
    pub(crate) fn backends(&self) -> Vec<BackendId> {
        self.backends.iter().map(|it| it.id()).collect()
    }

    /// Says what is lacking, and asks a worker that has it idle. The others find out when they
    /// put one back.
    pub(crate) fn ask(&self) {
        for backend in &self.backends {
            self.http.count_wishes(backend);
        }
        for backend in &self.backends {
            if self.http.ask_others(self.cluster, backend) {
                return;
            }
        }
    }
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        for backend in &self.backends {
            self.http.count_wishes(backend);
        }
    }
}

impl HttpWorker {
    /// To be had while a request waits for one of `backends`, in the queue for them.
    pub(crate) fn wish<'h>(
        &'h self,
        cluster: &'h Arc<Cluster>,
        backends: Vec<Arc<Backend>>,
    ) -> Wish<'h> {
        Wish {
            http: self,
            cluster,
            backends,
        }
    }

    fn count_wishes(&self, backend: &Backend) {
        if self.workers.get().is_some() {
            backend.set_wanted(self.worker.index, self.queue.waiting(backend.id()));
        }
    }

    /// Asks a worker with an idle connection for it; false if there is none.
    fn ask_others(&self, cluster: &Arc<Cluster>, backend: &Arc<Backend>) -> bool {
        let Some(workers) = self.workers.get() else {
            return false;
        };
        let own = self.worker.index;
        let mut others = (own + 1..backend.workers()).chain(0..own);
        let is_idle = |it: &usize| backend.counters(*it).connections_idle.get() > 0;
        let Some(other) = others.find(is_idle) else {
            return false;
        };
        let (cluster, backend) = (Arc::clone(cluster), Arc::clone(backend));
        workers.tell(other, Box::new(move |http| http.offer(&cluster, &backend)));
        true
    }

    /// Keeps a connection after an exchange, for the next one or for a worker that lacks one.
    pub(crate) fn keep(self: &Rc<Self>, connection: BackendConnection, cluster: &Arc<Cluster>) {
        let is_wanted =
            connection.is_of_few() && connection.backend.is_wanted_elsewhere(self.worker.index);
        let backend = is_wanted.then(|| Arc::clone(&connection.backend));
        self.pool.put(connection, cluster, rt::now());
        if let Some(backend) = backend {
            self.offer(cluster, &backend);
        }
    }

    /// Gives an idle connection to a worker that lacks one, if nobody here waits for it.
    fn offer(self: &Rc<Self>, cluster: &Arc<Cluster>, backend: &Arc<Backend>) {
        let own = self.worker.index;
        if self.queue.is_wanted(backend.id()) || !backend.is_wanted_elsewhere(own) {
            return;
        }
        let Some((connection, until)) = self.pool.take_oldest(backend.id(), cluster) else {
            return;
        };
        match backend.promise(own) {
            None => self.pool.put_until(connection, cluster, rt::now(), until),
            Some(asker) => {
                let (http, cluster) = (Rc::clone(self), Arc::clone(cluster));
                rt::spawn(give(http, connection, until, cluster, asker));
            }
        }
    }

    /// Takes what another worker has given.
    fn take(self: &Rc<Self>, moving: Moving) {
        let (own, cluster) = (self.worker.index, moving.cluster);
        let backend = Arc::clone(moving.room.backend());
        if let Some(stream) = moving.stream.attach() {
            let connection = BackendConnection::taken(stream, moving.room, own, moving.history);
            let connection = match cluster.exchanges.connections_max {
                Some(_) => connection.of_few(&self.queue),
                None => connection,
            };
            backend.counters(own).connections_taken.increment();
            let until = moving.until;
            self.pool.put_until(connection, &cluster, rt::now(), until);
            self.count_wishes(&backend);
        } else {
            self.count_wishes(&backend);
            if self.queue.waiting(backend.id()) > 0 {
                self.ask_others(&cluster, &backend);
            }
        }
    }
}

/// Takes a connection out of this worker's service and sends it to `asker`.
async fn give(
    http: Rc<HttpWorker>,
    connection: BackendConnection,
    until: Instant,
    cluster: Arc<Cluster>,
    asker: usize,
) {
    let backend = Arc::clone(&connection.backend);
    let Some(workers) = http.workers.get() else {
        return;
    };
    let Some((stream, room, history)) = connection.give_up() else {
        return;
    };
    match stream.detach().await {
        Some(stream) => {
            let moving = Moving {
                stream,
                room,
                history,
                until,
                cluster,
            };
            workers.tell(asker, Box::new(move |http| http.take(moving)));
        }
        None => {
            drop(room);
            backend.break_promise(asker);
            http.offer(&cluster, &backend);
        }
    }
}

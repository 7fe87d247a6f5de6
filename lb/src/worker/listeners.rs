//! The listeners of one worker: an accept loop each.
//!
//! Invariant: a listener that stays in the plan keeps its socket, and with it the connections in
//! its queue; only what is done with new connections is replaced. A listener that leaves the
//! plan first takes what is in its queue.
//! Read next: `lb_l4::serve` and `lb_l7::serve` (what a connection becomes).

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lb_core::connections::Registration;
use lb_core::metrics::ListenerCounters;
use lb_core::rt::{self, Accepted, TaskId, TcpListener, TcpStream, UdpSocket};
use lb_core::snapshot::Current;
use lb_l4::limits::{Gate, Permit};
use lb_l4::{Client, TcpService, UdpListener};
use lb_l7::tls::TlsAcceptor;
use lb_l7::{HttpService, HttpWorker};

use super::{BoundSocket, Local, Sockets, tls};
use crate::change::Change;
use crate::log::{Limiter, log};
use crate::snapshot::{Listener, ListenerKey, Service};

/// How long accepting pauses when descriptors or memory have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The open listeners.
#[derive(Default)]
pub(super) struct Listeners {
    open: RefCell<HashMap<ListenerKey, Open>>,
    /// Those that have left the plan while flows of theirs go on.
    draining: RefCell<HashMap<ListenerKey, TaskId>>,
}

enum Open {
    Tcp(Accepting),
    Udp(UdpListener),
}

/// An accept loop.
struct Accepting {
    socket: Rc<TcpListener>,
    serving: Rc<Serving>,
    task: TaskId,
}

impl Listeners {
    /// Takes up what has changed; `sockets` has those of the listeners that are new. False if one
    /// of them has no socket.
    pub(super) fn apply(&self, local: &Rc<Local>, change: &Change, mut sockets: Sockets) -> bool {
        let mut open = self.open.borrow_mut();
        for closed in &change.closed {
            let Some(gone) = open.remove(&closed.key) else {
                continue;
            };
            let is_udp = matches!(gone, Open::Udp(_));
            let task = rt::spawn(gone.close());
            if is_udp {
                let mut draining = self.draining.borrow_mut();
                draining.insert(closed.key.clone(), task);
            }
        }
        let mut complete = true;
        for listener in &change.listeners {
            if let Some(open) = open.get(&listener.key) {
                open.switch(listener, local.worker.index);
                continue;
            }
            // It came back: its old socket would keep a share of the datagrams.
            if let Some(task) = self.draining.borrow_mut().remove(&listener.key) {
                rt::abort(task);
            }
            let socket = sockets.remove(&listener.key);
            match socket.map(|socket| Open::new(local, listener, socket)) {
                Some(Ok(new)) => drop(open.insert(listener.key.clone(), new)),
                Some(Err(error)) => {
                    let (name, worker) = (listener.stats.name(), local.worker.index);
                    log!(
                        Error,
                        "cannot listen",
                        listener = name,
                        worker = worker,
                        error = error
                    );
                    complete = false;
                }
                None => complete = false,
            }
        }
        complete
    }

    /// Serves a connection of `listener` that another worker accepted: as the listener is served
    /// here, if it is (still, or already).
    pub(super) fn take(&self, local: &Rc<Local>, listener: &Arc<Listener>, accepted: Accepted) {
        let serving = match self.open.borrow().get(&listener.key) {
            Some(Open::Tcp(open)) => Some(Rc::clone(&open.serving)),
            _ => Serving::new(local, listener).map(Rc::new),
        };
        if let Some(serving) = serving {
            serving.attach(accepted);
        }
    }

    /// Stops accepting, and returns when the queues are empty.
    pub(super) async fn close_all(&self) {
        for listener in self.open.take().into_values() {
            match listener {
                // Its flows are among the connections, which are waited for anyway.
                Open::Udp(_) => drop(rt::spawn(listener.close())),
                Open::Tcp(_) => listener.close().await,
            }
        }
    }
}

impl Open {
    fn new(
        local: &Rc<Local>,
        listener: &Arc<Listener>,
        socket: BoundSocket,
    ) -> std::io::Result<Self> {
        match (socket, &listener.service) {
            (BoundSocket::Tcp(socket), _) => Accepting::new(local, listener, socket).map(Self::Tcp),
            (BoundSocket::Udp(socket), Service::Udp(udp)) => {
                let socket = UdpSocket::from_std(socket)?;
                let counters = Arc::clone(listener.stats.shard(local.worker.index));
                let (service, worker) = (Arc::clone(udp), Rc::clone(&local.worker));
                let open = UdpListener::start(socket, service, worker, counters);
                Ok(Self::Udp(open))
            }
            (BoundSocket::Udp(_), _) => Err(std::io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Serves as `listener` says from now on.
    fn switch(&self, listener: &Arc<Listener>, worker: usize) {
        match (self, &listener.service) {
            (Self::Udp(open), Service::Udp(udp)) => {
                let counters = Arc::clone(listener.stats.shard(worker));
                open.switch(Arc::clone(udp), counters);
            }
            (Self::Tcp(open), _) => open.serving.switch(listener),
            (Self::Udp(_), _) => {} // a key says which transport it is
        }
    }

    async fn close(self) {
        match self {
            Self::Tcp(open) => open.close().await,
            Self::Udp(open) => open.close().await,
        }
    }
}

impl Accepting {
    fn new(
        local: &Rc<Local>,
        listener: &Arc<Listener>,
        socket: std::net::TcpListener,
    ) -> std::io::Result<Self> {
        let socket = Rc::new(TcpListener::from_std(socket)?);
        let serving = Serving::new(local, listener).ok_or(std::io::ErrorKind::InvalidInput)?;
        let serving = Rc::new(serving);
        let task = rt::spawn(accept(Rc::clone(&socket), Rc::clone(&serving)));
        Ok(Self {
            socket,
            serving,
            task,
        })
    }

    /// Connections that clients believe established are served, not reset.
    async fn close(self) {
        rt::abort(self.task);
        for _ in 0..2 {
            while let Some(Ok(accepted)) = rt::poll_once(self.socket.accept_detached()).await {
                self.serving.attach(accepted);
            }
            rt::yield_now().await; // a completion may be on its way
        }
    }
}

/// Takes connections as long as the listener is open.
async fn accept(socket: Rc<TcpListener>, serving: Rc<Serving>) {
    static PAUSES: Limiter = Limiter::new();
    loop {
        match socket.accept_detached().await {
            Ok(accepted) => serving.place(accepted),
            Err(error) => {
                serving.role.borrow().counters.accept_pauses.increment();
                if PAUSES.allows() {
                    let advice = "raise the limit on open files (ulimit -n, LimitNOFILE=)";
                    log!(Warn, "accepting pauses", error = error, advice = advice);
                }
                rt::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What becomes of a listener's connections.
struct Serving {
    local: Rc<Local>,
    role: RefCell<Role>,
}

/// The part that a new snapshot replaces.
struct Role {
    /// What it was made of.
    listener: Arc<Listener>,
    counters: Arc<ListenerCounters>,
    gate: Option<Arc<Gate>>,
    tls: Option<Arc<TlsAcceptor>>,
    current: CurrentService,
}

enum CurrentService {
    Http(Rc<Current<HttpService>>),
    Tcp(Rc<Current<TcpService>>),
}

impl Role {
    /// `None` of a service that takes no connections: a key says which transport it is.
    fn new(listener: &Arc<Listener>, worker: usize) -> Option<Self> {
        let current = match &listener.service {
            Service::Http(http) => CurrentService::Http(Rc::new(Current::new(Arc::clone(http)))),
            Service::Tcp(tcp) => CurrentService::Tcp(Rc::new(Current::new(Arc::clone(tcp)))),
            Service::Udp(_) => return None,
        };
        Some(Self {
            listener: Arc::clone(listener),
            counters: Arc::clone(listener.stats.shard(worker)),
            gate: listener.gate.clone(),
            tls: listener.tls.clone(),
            current,
        })
    }
}

impl Serving {
    /// As [`Role::new`].
    fn new(local: &Rc<Local>, listener: &Arc<Listener>) -> Option<Self> {
        Some(Self {
            local: Rc::clone(local),
            role: RefCell::new(Role::new(listener, local.worker.index)?),
        })
    }

    /// Has an accepted connection served: here, or by a worker that has clearly fewer.
    fn place(&self, accepted: Accepted) {
        let Local {
            worker,
            peers,
            peer_turn,
            ..
        } = &*self.local;
        match peers.lighter_than(worker.index, peer_turn) {
            Some(peer) => {
                worker.metrics.handed_over.increment();
                peer.serve(Arc::clone(&self.role.borrow().listener), accepted);
            }
            None => self.attach(accepted),
        }
    }

    /// Serves an accepted connection on this worker.
    fn attach(&self, accepted: Accepted) {
        static FAILURES: Limiter = Limiter::new();
        match accepted.attach() {
            Ok(stream) => self.take(stream),
            Err(error) => {
                if FAILURES.allows() {
                    log!(Error, "a connection cannot be served", error = error);
                }
            }
        }
    }

    /// New connections, and the next exchanges of those that are there, are served as
    /// `listener` says.
    fn switch(&self, listener: &Arc<Listener>) {
        let role = &mut *self.role.borrow_mut();
        match (&role.current, &listener.service) {
            (CurrentService::Http(current), Service::Http(http)) => current.set(Arc::clone(http)),
            (CurrentService::Tcp(current), Service::Tcp(tcp)) => current.set(Arc::clone(tcp)),
            _ => {
                if let Some(new) = Role::new(listener, self.local.worker.index) {
                    *role = new;
                }
            }
        }
        role.counters = Arc::clone(listener.stats.shard(self.local.worker.index));
        role.gate.clone_from(&listener.gate);
        role.tls.clone_from(&listener.tls);
        role.listener = Arc::clone(listener);
    }

    fn take(&self, stream: TcpStream) {
        let role = self.role.borrow();
        match &role.gate {
            Some(gate) => self.admit(stream, gate, &role),
            None => self.serve(stream, &role),
        }
    }

    fn serve(&self, stream: TcpStream, role: &Role) {
        let Local { worker, http, .. } = &*self.local;
        let counters = Arc::clone(&role.counters);
        match &role.current {
            CurrentService::Http(current) => {
                let (current, http) = (Rc::clone(current), Rc::clone(http));
                let Some(acceptor) = role.tls.clone() else {
                    return worker.connections.spawn(counters, |registration| {
                        lb_l7::serve(stream, current, http, registration)
                    });
                };
                let listener = Arc::clone(&role.listener);
                worker.connections.spawn(counters, |registration| {
                    tls::serve(
                        stream,
                        None,
                        acceptor,
                        listener,
                        current,
                        http,
                        registration,
                    )
                });
            }
            CurrentService::Tcp(current) => {
                let (service, worker_too) = (current.get(), Rc::clone(worker));
                worker.connections.spawn(counters, |registration| {
                    lb_l4::serve(stream, service, worker_too, registration)
                });
            }
        }
    }
    /// Serves a connection that may be served.
    fn admit(&self, stream: TcpStream, gate: &Arc<Gate>, role: &Role) {
        let Local { worker, http, .. } = &*self.local;
        let counters = Arc::clone(&role.counters);
        let Ok(peer) = stream.peer_addr() else {
            return; // gone already
        };
        let permit = match gate.admit(peer.ip(), rt::now()) {
            Ok(permit) => permit,
            Err(refusal) => {
                counters.accepted.increment();
                counters.refused(refusal);
                if let CurrentService::Tcp(current) = &role.current {
                    current.get().log_refused(peer, refusal, &worker.lines);
                }
                return stream.reset();
            }
        };
        let gate = Arc::clone(gate);
        match &role.current {
            CurrentService::Http(current) => {
                let (current, http) = (Rc::clone(current), Rc::clone(http));
                let tls = role.tls.clone();
                let listener = Arc::clone(&role.listener);
                worker.connections.spawn(counters, |registration| {
                    serve_http(
                        stream,
                        peer,
                        gate,
                        permit,
                        tls,
                        listener,
                        current,
                        http,
                        registration,
                    )
                });
            }
            CurrentService::Tcp(current) => {
                let (service, worker_too) = (current.get(), Rc::clone(worker));
                worker.connections.spawn(counters, |registration| {
                    lb_l4::serve_admitted(
                        stream,
                        peer,
                        gate,
                        permit,
                        service,
                        worker_too,
                        registration,
                    )
                });
            }
        }
    }
}

/// Serves an HTTP connection from `peer` that `gate` has admitted.
async fn serve_http(
    stream: TcpStream,
    peer: SocketAddr,
    gate: Arc<Gate>,
    mut permit: Permit,
    tls: Option<Arc<TlsAcceptor>>,
    listener: Arc<Listener>,
    current: Rc<Current<HttpService>>,
    http: Rc<HttpWorker>,
    registration: Registration,
) {
    registration.set_idle(true); // nothing is lost when we drain
    let identified = gate.identify(&stream, Client::peer(peer), &mut permit);
    match Box::pin(identified).await {
        Ok(client) => {
            let address = client.address;
            match tls {
                Some(acceptor) => {
                    let address = Some(address);
                    tls::serve(
                        stream,
                        address,
                        acceptor,
                        listener,
                        current,
                        http,
                        registration,
                    )
                    .await;
                }
                None => {
                    let peer = lb_l7::Peer::new(address, None);
                    lb_l7::serve_client(stream, peer, current, http, registration).await;
                }
            }
        }
        Err(refusal) => {
            registration.listener().refused(refusal);
            stream.reset();
        }
    }
}

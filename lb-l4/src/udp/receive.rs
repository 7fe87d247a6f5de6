//! A listener's socket, and what becomes of what clients send to it.
//!
//! Invariant: a datagram goes to the flow of its addresses, or begins one, or is dropped and
//! counted. A flow's backend is looked at with each datagram: one that is gone, or does not work,
//! gets no more.
//! Read next: `flow.rs`.

use std::cell::{Cell, Ref, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lb_core::balance::{Backend, BackendId, Choice, State, Tried};
use lb_core::metrics::{FlowShed, ListenerCounters, Refusal};
use lb_core::plan;
use lb_core::rt::{Datagrams, Notify, Received, UdpSocket, now, sleep, yield_now};
use lb_core::snapshot::Held;
use lb_core::worker::Worker;

use super::UdpService;
use super::flow::{self, Flow};
use super::proxied::{self, Caller, Way};
use super::table::{Key, Table};
use crate::limits::Gate;

/// Receives in a row before other tasks have a turn.
const RECEIVES_PER_TURN: usize = 64;
/// Pause after a receive that failed, which a bound socket has no reason to.
const PAUSE: Duration = Duration::from_millis(100);

/// A listener of one worker, as its flows see it.
pub(super) struct Front {
    pub(super) socket: UdpSocket,
    pub(super) worker: Rc<Worker>,
    pub(super) table: RefCell<Table<Flow>>,
    role: RefCell<Role>,
    /// Grows with each new role.
    pub(super) epoch: Cell<u32>,
    /// No flow begins any more, and those that are silent end soon.
    pub(super) is_draining: Cell<bool>,
    /// All flows end now.
    pub(super) has_ended: Cell<bool>,
    empty: Notify,
}

/// Why no flow begins.
enum Turned {
    Refused(Refusal),
    Shed(FlowShed),
}

/// The part that a new snapshot replaces.
struct Role {
    service: Held<UdpService>,
    counters: Arc<ListenerCounters>,
    members: HashMap<BackendId, Arc<Backend>>,
}

impl Role {
    fn new(service: Arc<UdpService>, counters: Arc<ListenerCounters>) -> Self {
        let backends = service.cluster.backends().iter();
        Self {
            members: backends.map(|it| (it.id(), Arc::clone(it))).collect(),
            service: Held::new(service),
            counters,
        }
    }
}

/// Takes datagrams as long as the listener is open.
pub(super) async fn receive(front: Rc<Front>) {
    loop {
        for _ in 0..RECEIVES_PER_TURN {
            match front.socket.recv().await {
                Ok(received) => front.on_received(received),
                Err(_not_of_this_socket) => sleep(PAUSE).await,
            }
        }
        yield_now().await;
    }
}

impl Front {
    pub(super) fn new(
        socket: UdpSocket,
        service: Arc<UdpService>,
        worker: Rc<Worker>,
        counters: Arc<ListenerCounters>,
    ) -> Self {
        Self {
            socket,
            worker,
            table: RefCell::new(Table::new()),
            role: RefCell::new(Role::new(service, counters)),
            epoch: Cell::new(0),
            is_draining: Cell::new(false),
            has_ended: Cell::new(false),
            empty: Notify::new(),
        }
    }

    pub(super) fn service(&self) -> Held<UdpService> {
        self.role.borrow().service.clone()
    }

    pub(super) fn plan(&self) -> Ref<'_, plan::Udp> {
        Ref::map(self.role.borrow(), |role| &role.service.plan)
    }

    pub(super) fn count(&self, f: impl FnOnce(&ListenerCounters)) {
        f(&self.role.borrow().counters);
    }

    fn on_received(self: &Rc<Self>, received: Received) {
        let Received {
            datagrams,
            peer,
            local,
        } = received;
        self.count(|counters| {
            counters.flows.received.add(datagrams.count() as u64);
            counters.received_bytes.add(datagrams.len() as u64);
        });
        if peer.port() == 0 {
            return; // nobody can be answered there: forged
        }
        let way = Way { peer, local };
        if self.reads_headers() {
            return self.on_proxied(way, datagrams);
        }
        self.pass(&Caller::of(way), datagrams);
    }

    fn reads_headers(&self) -> bool {
        let role = self.role.borrow();
        let gate = role.service.gate.as_ref();
        gate.is_some_and(|gate| gate.reads_headers())
    }

    /// Datagrams that each begin with a header, if they come from a proxy that is believed.
    fn on_proxied(self: &Rc<Self>, way: Way, mut datagrams: Datagrams) {
        let service = self.service();
        let trusts = |gate: &Arc<Gate>| gate.trusts(way.peer.ip());
        if !service.gate.as_ref().is_some_and(trusts) {
            return self.count(|counters| counters.refused(Refusal::Untrusted));
        }
        loop {
            let more = datagrams.count() > 1;
            let mut one = if more {
                datagrams.split_to(1)
            } else {
                datagrams.share()
            };
            match proxied::caller(way, &one) {
                Some((caller, header)) => {
                    one.advance(header);
                    self.pass(&caller, one);
                }
                None => self.count(|counters| counters.refused(Refusal::Proxy)),
            }
            if !more {
                return;
            }
        }
    }

    /// Gives a caller's datagrams to its flow, which begins if there is none.
    fn pass(self: &Rc<Self>, caller: &Caller, mut datagrams: Datagrams) {
        loop {
            let found = self.table.borrow_mut().find(&caller.key).map(Rc::clone);
            let flow = match found.map_or_else(|| self.begin(caller), Ok) {
                Ok(flow) => flow,
                Err(Turned::Shed(why)) => {
                    return self.count(|counters| counters.flows.shed(why));
                }
                Err(Turned::Refused(why)) => return self.count(|counters| counters.refused(why)),
            };
            if caller.is_told {
                flow.answer_by(caller.way);
            }
            let plan = self.plan();
            let count = datagrams.count();
            let taken = flow.takes(&plan, count).max(1);
            let part = (taken < count).then(|| datagrams.split_to(taken));
            let Some(part) = part else {
                return flow.forward(&plan, datagrams);
            };
            flow.forward(&plan, part);
        }
    }

    #[cold]
    fn begin(self: &Rc<Self>, caller: &Caller) -> Result<Rc<Flow>, Turned> {
        if self.is_draining.get() {
            return Err(Turned::Shed(FlowShed::Draining));
        }
        let role = self.role.borrow();
        let admit = |gate: &Arc<Gate>| {
            let client = caller.key.client.ip();
            gate.admit_flow(client, caller.is_told, now())
        };
        let permit = role.service.gate.as_ref().map(admit);
        let permit = permit.transpose().map_err(Turned::Refused)?;
        let mut table = self.table.borrow_mut();
        let make = || Flow::new(Rc::clone(self), caller, &role.service, permit);
        let flow = table.begin(caller.key, &role.service.plan, make);
        let flow = flow.map_err(Turned::Shed)?;
        let (counters, task) = (Arc::clone(&role.counters), Rc::clone(&flow));
        self.worker
            .connections
            .spawn(counters, |registration| flow::run(task, registration));
        Ok(flow)
    }

    /// The backend of the id in the cluster that is served now.
    pub(super) fn member(&self, id: BackendId) -> Option<Arc<Backend>> {
        self.role.borrow().members.get(&id).map(Arc::clone)
    }

    /// Whether a new flow of `key` would go to a backend that works, and is another than `id`.
    pub(super) fn has_better(&self, key: &Key, id: BackendId) -> bool {
        let role = self.role.borrow();
        let tried = Tried::default();
        let mut choice = Choice::new(self.worker.index, now(), key.client, &tried);
        choice.local = key.local;
        let lease = role.service.cluster.pick(&choice);
        lease.is_some_and(|lease| lease.backend().id() != id && is_usable(lease.backend()))
    }

    pub(super) fn switch(&self, service: Arc<UdpService>, counters: Arc<ListenerCounters>) {
        *self.role.borrow_mut() = Role::new(service, counters);
        self.epoch.set(self.epoch.get().wrapping_add(1));
        self.wake_all(); // deadlines may have changed
    }

    pub(super) fn drain(&self) {
        self.is_draining.set(true);
        self.wake_all();
    }

    pub(super) fn end(&self) {
        self.is_draining.set(true);
        self.has_ended.set(true);
        self.wake_all();
    }

    fn wake_all(&self) {
        self.table.borrow().iter().for_each(|flow| flow.wake());
    }

    /// Returns when there is no flow.
    pub(super) async fn emptied(&self) {
        while self.table.borrow().live() > 0 {
            self.empty.notified().await;
        }
    }

    /// A flow is over.
    pub(super) fn on_end(&self, key: &Key, flow: &Flow) {
        let mut table = self.table.borrow_mut();
        table.end(key, flow);
        if table.live() == 0 && self.is_draining.get() {
            self.empty.notify();
        }
    }
}

/// Whether flows may stay on a backend without a look for a better one.
#[inline]
pub(super) fn is_usable(backend: &Backend) -> bool {
    matches!(backend.state(), State::Ready | State::Draining)
}

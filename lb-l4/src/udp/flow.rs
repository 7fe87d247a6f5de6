//! One flow: a backend for it, a socket connected to that, and the replies. When the backend is
//! not reached, leaves or fails its checks, the flow goes on with another.
//!
//! Invariant: a flow is in the table, counted, and holds its descriptor exactly as long as its
//! task lives; what a client sends before there is a socket waits, a little.
//! Read next: `activity.rs` (when it ends).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lb_core::balance::{Backend, Choice, Cluster, Fault, Lease, Tried};
use lb_core::connections::Registration;
use lb_core::metrics::{FlowEnd, FlowShed};
use lb_core::plan;
use lb_core::rt::{
    Datagrams, Instant, Received, Sleep, UdpSocket, is_own_shortage, now, sleep_until,
};

use super::UdpService;
use super::activity::Activity;
use super::proxied::{Caller, Way, with_header};
use super::receive::{Front, is_usable};
use super::table::Key;
use crate::limits::Permit;
use crate::log::{Ended, Record, Transport};

/// Receives that may wait for the socket: until the flow's task has its turn.
const WAITING_MAX: usize = 16;
/// Replies in a row before other tasks have a turn.
const REPLIES_PER_TURN: usize = 64;
/// How often a flow on a failing backend asks whether there is a better one.
const DOUBT_PAUSE: Duration = Duration::from_millis(100);

/// A flow, as the receiving task and its own see it.
pub(super) struct Flow {
    front: Rc<Front>,
    key: Key,
    /// Where its client is answered.
    way: Cell<Way>,
    /// What stands ahead of each datagram to a backend.
    header: Option<Box<[u8]>>,
    /// Its share of the listener's limits.
    permit: Cell<Option<Permit>>,
    /// If there was a log when it began.
    record: RefCell<Option<Box<Record>>>,
    leg: RefCell<Option<Leg>>,
    /// What came while there was no leg, or it was to be left.
    waiting: RefCell<Vec<Datagrams>>,
    activity: Cell<Activity>,
    /// The leg is to be left: its backend takes no more.
    leaves: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    end: Cell<FlowEnd>,
}

/// A flow's way to one backend.
struct Leg {
    socket: UdpSocket,
    backend: RefCell<Arc<Backend>>,
    /// Of the front, when `backend` was looked up in its cluster.
    epoch: Cell<u32>,
    /// When to doubt a failing backend again.
    doubt_at: Cell<Instant>,
}

/// What became of a leg.
enum Outcome {
    End(FlowEnd),
    /// The backend is another's task now: choose anew.
    Moved,
    /// The backend was not reached.
    Refused(u16),
}

impl Flow {
    pub(super) fn new(
        front: Rc<Front>,
        caller: &Caller,
        service: &UdpService,
        permit: Option<Permit>,
    ) -> Self {
        let plan = &service.plan;
        let port = || front.socket.local_addr().port();
        let record = || {
            let Key { client, local } = caller.key;
            let local = SocketAddr::new(local, caller.port().unwrap_or_else(port));
            Record::begin(Transport::Udp, client, Some(local))
        };
        let record = service.log.as_ref().map(|_| record());
        Self {
            header: plan.proxy_out.map(|proxy| caller.header(proxy, port())),
            front,
            key: caller.key,
            way: Cell::new(caller.way),
            permit: Cell::new(permit),
            record: RefCell::new(record),
            leg: RefCell::default(),
            waiting: RefCell::default(),
            activity: Cell::new(Activity::new(now())),
            leaves: Cell::new(false),
            waker: RefCell::default(),
            end: Cell::new(FlowEnd::Drained),
        }
    }

    /// The client is reached by another proxy now, perhaps.
    pub(super) fn answer_by(&self, way: Way) {
        self.way.set(way);
    }

    fn send_by(&self, socket: &UdpSocket, datagrams: Datagrams) {
        match &self.header {
            None => socket.send(datagrams),
            Some(header) => with_header(header, &datagrams, |all| socket.send(all)),
        }
    }

    /// How many of the client's next `count` datagrams it takes.
    pub(super) fn takes(&self, plan: &plan::Udp, count: usize) -> usize {
        self.activity.get().takes(plan, count)
    }

    /// Sends what the client sent on to the backend.
    pub(super) fn forward(&self, plan: &plan::Udp, datagrams: Datagrams) {
        if let Some(record) = &*self.record.borrow() {
            record.moved(datagrams.len() as u64, 0);
            record.moved_datagrams(datagrams.count(), 0);
        }
        let mut activity = self.activity.get();
        activity.on_requests(now(), datagrams.count());
        self.activity.set(activity);
        if activity.is_full(plan) {
            self.front.table.borrow_mut().detach(&self.key, self);
        }
        match &*self.leg.borrow() {
            Some(leg) if leg.is_good(self) => self.send_by(&leg.socket, datagrams),
            leg => {
                self.leaves.set(leg.is_some());
                let mut waiting = self.waiting.borrow_mut();
                if waiting.len() < WAITING_MAX {
                    waiting.push(datagrams);
                }
                self.wake();
            }
        }
    }

    /// Has its task look again.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn sleeps(&self, cx: &Context<'_>) {
        match &mut *self.waker.borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            place => *place = Some(cx.waker().clone()),
        }
    }

    /// Sends what the backend sent on to the client.
    fn reply(&self, received: Received) {
        let Received { datagrams, .. } = received;
        if let Some(record) = &*self.record.borrow() {
            record.moved(0, datagrams.len() as u64);
            record.moved_datagrams(0, datagrams.count());
        }
        self.front.count(|counters| {
            counters.flows.sent.add(datagrams.count() as u64);
            counters.sent_bytes.add(datagrams.len() as u64);
        });
        let mut activity = self.activity.get();
        activity.on_replies(now(), datagrams.count());
        self.activity.set(activity);
        let Way { peer, local } = self.way.get();
        self.front.socket.reply(datagrams, peer, local);
    }

    fn ends_at(&self, plan: &plan::Udp) -> Instant {
        if self.front.has_ended.get() {
            return Instant::START;
        }
        let activity = self.activity.get();
        activity.ends_at(plan, self.front.is_draining.get())
    }
}

impl Leg {
    /// Whether the backend still takes datagrams: a look at its health, mostly.
    fn is_good(&self, flow: &Flow) -> bool {
        if self.epoch.get() != flow.front.epoch.get() {
            let id = self.backend.borrow().id();
            let Some(backend) = flow.front.member(id) else {
                return false;
            };
            self.backend.replace(backend);
            self.epoch.set(flow.front.epoch.get());
        }
        is_usable(&self.backend.borrow()) || self.is_the_best(flow)
    }

    /// A backend that fails or is about to end is kept while there is none that works.
    #[cold]
    fn is_the_best(&self, flow: &Flow) -> bool {
        if now() < self.doubt_at.get() {
            return true;
        }
        self.doubt_at.set(now() + DOUBT_PAUSE);
        let id = self.backend.borrow().id();
        !flow.front.has_better(&flow.key, id)
    }
}

/// Ends the flow when its task does, however that comes.
struct Ending(Rc<Flow>);

impl Drop for Ending {
    fn drop(&mut self) {
        let flow = &self.0;
        flow.front.on_end(&flow.key, flow);
        flow.front
            .count(|counters| counters.flows.ended(flow.end.get()));
        flow.leg.take();
        flow.waiting.take();
        flow.permit.take();
        if let (Some(record), Some(log)) = (flow.record.take(), &flow.front.service().log) {
            let lines = &flow.front.worker.lines;
            record.finish(log, lines, Ended::of_flow(flow.end.get()));
        }
    }
}

impl Ended {
    fn of_flow(end: FlowEnd) -> Self {
        let status = match end {
            FlowEnd::Answered | FlowEnd::Drained | FlowEnd::Idle => 200,
            FlowEnd::Unavailable => 502,
        };
        let name = end.name();
        Self { name, status }
    }
}

/// Runs a flow to its end.
pub(super) async fn run(flow: Rc<Flow>, _registration: Registration) {
    let ending = Ending(flow);
    let flow = &*ending.0;
    let mut tried = Tried::default();
    let mut epoch = flow.front.epoch.get();
    let end = loop {
        if let Some(end) = request(flow).await {
            break end;
        }
        let current = flow.front.epoch.get();
        if std::mem::replace(&mut epoch, current) != current {
            tried = Tried::default(); // its numbers are those of another cluster
        }
        match leg(flow, &mut tried).await {
            Outcome::End(end) => break end,
            Outcome::Moved => {}
            Outcome::Refused(index) => tried.insert(index),
        }
        flow.leg.take();
        flow.leaves.set(false);
        flow.front
            .count(|counters| counters.flows.moved.increment());
        if let Some(record) = &*flow.record.borrow() {
            record.retried();
        }
    };
    flow.end.set(end);
}

/// Waits for a datagram of the client; `Some` if the flow ends instead.
async fn request(flow: &Flow) -> Option<FlowEnd> {
    let mut deadline = Deadline::new(flow);
    poll_fn(|cx| {
        if !flow.waiting.borrow().is_empty() {
            return Poll::Ready(None);
        }
        flow.sleeps(cx);
        deadline.poll(flow, cx).map(Some)
    })
    .await
}

/// Goes one way: from the choice of a backend to the end of its use.
async fn leg(flow: &Flow, tried: &mut Tried) -> Outcome {
    let service = flow.front.service();
    let (lease, socket) = match connect(flow, &service.cluster, tried) {
        Ok(connected) => connected,
        Err(end) => return Outcome::End(end),
    };
    let backend = lease.backend();
    let own = backend.counters(flow.front.worker.index);
    own.connections.increment();
    let _active = own.connections_active.hold();
    if let Some(record) = &*flow.record.borrow() {
        let is_first = record.connected(backend, None);
        record.routed(&service.cluster.name, None);
        if is_first && let Some(log) = &service.log {
            record.write_start(log, &flow.front.worker.lines);
        }
    }
    for datagrams in flow.waiting.borrow_mut().drain(..) {
        flow.send_by(&socket, datagrams);
    }
    flow.leg.replace(Some(Leg {
        socket,
        backend: RefCell::new(Arc::clone(backend)),
        epoch: Cell::new(flow.front.epoch.get()),
        doubt_at: Cell::new(now()),
    }));
    let outcome = relay(flow, &lease, tried).await;
    if let Outcome::Refused(_) = outcome {
        own.connect_failures.increment();
    }
    outcome
}

/// A backend that a socket can be connected to, and that socket. Nothing is sent by it, so this
/// fails only where there is no route, or nothing left to make a socket of.
fn connect<'a>(
    flow: &Flow,
    cluster: &'a Cluster,
    tried: &mut Tried,
) -> Result<(Lease<'a>, UdpSocket), FlowEnd> {
    let worker = flow.front.worker.index;
    let counters = cluster.counters().of(worker);
    for _ in 0..cluster.tries_max {
        if tried.len() >= cluster.tries_max {
            *tried = Tried::default(); // all the same: one may have come back
        }
        let mut choice = Choice::new(worker, now(), flow.key.client, tried);
        choice.local = flow.key.local;
        let Some(lease) = cluster.pick(&choice) else {
            if tried.is_empty() {
                break;
            }
            *tried = Tried::default();
            continue;
        };
        if !tried.is_empty() {
            counters.retries.increment();
        }
        match UdpSocket::connect(lease.backend().address) {
            Ok(socket) => return Ok((lease, socket)),
            Err(error) if is_own_shortage(&error) => {
                let shed = FlowShed::Resources;
                flow.front.count(|counters| counters.flows.shed(shed));
                return Err(FlowEnd::Unavailable);
            }
            Err(_unreachable) => {
                lease.failed(Fault::Connect);
                let own = lease.backend().counters(worker);
                own.connect_failures.increment();
                tried.insert(lease.backend().index);
            }
        }
    }
    counters.unavailable.increment();
    Err(FlowEnd::Unavailable)
}

/// Passes replies on until the flow ends, or leaves the backend.
async fn relay(flow: &Flow, lease: &Lease<'_>, tried: &mut Tried) -> Outcome {
    let begun = now();
    let mut has_reply = false;
    let mut deadline = Deadline::new(flow);
    poll_fn(|cx| {
        for _ in 0..REPLIES_PER_TURN {
            let leg = flow.leg.borrow();
            let polled = leg.as_ref().map(|leg| leg.socket.poll_recv(cx));
            drop(leg);
            match polled {
                Some(Poll::Ready(Ok(received))) => {
                    flow.reply(received);
                    if !std::mem::replace(&mut has_reply, true) {
                        lease.answered(now().saturating_duration_since(begun));
                        *tried = Tried::default();
                    }
                    if flow.activity.get().is_answered(&flow.front.plan()) {
                        return Poll::Ready(Outcome::End(FlowEnd::Answered));
                    }
                }
                Some(Poll::Ready(Err(_icmp))) => {
                    lease.failed(Fault::Connect);
                    return Poll::Ready(Outcome::Refused(lease.backend().index));
                }
                Some(Poll::Pending) => {
                    if flow.leaves.get() {
                        return Poll::Ready(Outcome::Moved);
                    }
                    flow.sleeps(cx);
                    return deadline.poll(flow, cx).map(|end| {
                        report_silence(flow, lease, end);
                        Outcome::End(end)
                    });
                }
                None => return Poll::Ready(Outcome::Moved),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// A backend that owes replies, and never gave one, has failed.
fn report_silence(flow: &Flow, lease: &Lease<'_>, end: FlowEnd) {
    let owes = flow.front.service().plan.replies.is_some();
    if owes && end == FlowEnd::Idle && !flow.activity.get().has_reply() {
        lease.failed(Fault::Timeout);
    }
}

/// When a flow is over: a timer that is armed rarely, since datagrams only put it off.
struct Deadline {
    sleep: Sleep,
    is_armed: bool,
}

impl Deadline {
    fn new(flow: &Flow) -> Self {
        Self {
            sleep: sleep_until(flow.ends_at(&flow.front.plan())),
            is_armed: false,
        }
    }

    fn poll(&mut self, flow: &Flow, cx: &mut Context<'_>) -> Poll<FlowEnd> {
        let ends_at = flow.ends_at(&flow.front.plan());
        let now = now();
        if now >= ends_at {
            return Poll::Ready(if flow.front.is_draining.get() {
                FlowEnd::Drained
            } else {
                FlowEnd::Idle
            });
        }
        let fires_at = self.sleep.deadline();
        if !self.is_armed || now >= fires_at || ends_at < fires_at {
            // Not moved but anew: one that is due may wait for its tick, and would not be looked
            // at when that comes, since the deadline is another by then.
            self.sleep = sleep_until(ends_at);
            self.is_armed = true;
            // Not due yet, as was seen above.
            return Pin::new(&mut self.sleep).poll(cx).map(|()| FlowEnd::Idle);
        }
        Poll::Pending
    }
}

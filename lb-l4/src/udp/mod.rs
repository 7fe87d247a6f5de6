//! UDP: what a client sends to one of our addresses is a flow, and goes to one backend.
//!
//! Invariant: datagrams keep their sizes, and those of one flow their order; a reply leaves from
//! the address that the client sent to. No lock, and no allocation for a datagram of a flow that
//! is there.
//! Read next: `receive.rs` (from the client), `flow.rs` (to the backend and back), `table.rs`.

mod activity;
mod flow;
mod proxied;
mod receive;
mod table;

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use lb_core::balance::Cluster;
use lb_core::metrics::ListenerCounters;
use lb_core::plan;
use lb_core::rt::{self, TaskId, UdpSocket};
use lb_core::worker::Worker;

use self::receive::Front;
use crate::limits::Gate;
use crate::log::SessionLog;

/// What a UDP listener does with its datagrams; part of a snapshot.
#[derive(Debug)]
pub struct UdpService {
    cluster: Arc<Cluster>,
    plan: plan::Udp,
    gate: Option<Arc<Gate>>,
    log: Option<SessionLog>,
}

impl UdpService {
    /// Builds the service of a valid plan's listener; `cluster` is the one that it names.
    #[must_use]
    pub const fn build(plan: plan::Udp, cluster: Arc<Cluster>) -> Self {
        Self {
            cluster,
            plan,
            gate: None,
            log: None,
        }
    }

    /// Lets in only what `gate` does: flows are what it counts.
    #[must_use]
    pub fn guarded_by(self, gate: Option<Arc<Gate>>) -> Self {
        Self { gate, ..self }
    }

    /// Writes a line to `log` for each flow.
    #[must_use]
    pub fn logged(self, log: Option<SessionLog>) -> Self {
        Self { log, ..self }
    }

    /// Where its flows go.
    #[must_use]
    pub const fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }
}

/// A UDP listener of one worker at work. Dropping it ends it and its flows.
pub struct UdpListener {
    front: Rc<Front>,
    receiving: TaskId,
}

impl UdpListener {
    /// Serves what `socket` receives, until it is closed or dropped.
    #[must_use]
    pub fn start(
        socket: UdpSocket,
        service: Arc<UdpService>,
        worker: Rc<Worker>,
        counters: Arc<ListenerCounters>,
    ) -> Self {
        let front = Rc::new(Front::new(socket, service, worker, counters));
        let receiving = rt::spawn(receive::receive(Rc::clone(&front)));
        Self { front, receiving }
    }

    /// Serves `service` from now on. Flows whose backend is in its cluster too stay; each other
    /// goes to a backend of it with its client's next datagram.
    pub fn switch(&self, service: Arc<UdpService>, counters: Arc<ListenerCounters>) {
        self.front.switch(service, counters);
    }

    /// Begins no flow any more, and returns when the last one is over. A flow that is silent for
    /// five seconds is, from now on.
    pub async fn close(self) {
        self.front.drain();
        self.front.emptied().await;
    }
}

impl Drop for UdpListener {
    fn drop(&mut self) {
        rt::abort(self.receiving);
        self.front.end();
    }
}

impl fmt::Debug for UdpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpListener").finish_non_exhaustive()
    }
}

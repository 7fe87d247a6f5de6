//! A session as it is counted and logged.
//!
//! Invariant: each session is counted once, and has its line if there is a log, however it ends:
//! one that is cut ends as `Drained`.
//! Read next: `../log/mod.rs`, `mod.rs` (whose sessions these are).

use std::cell::{Cell, OnceCell};
use std::net::SocketAddr;
use std::rc::Rc;

use lb_core::connections::Registration;
use lb_core::metrics::{ListenerCounters, Refusal, SessionEnd};
use lb_core::rt::TcpStream;
use lb_core::snapshot::Held;
use lb_core::worker::Worker;

use super::TcpService;
use crate::client::Client;
use crate::log::{Ended, Record, Side, Transport};

/// One session's, from its accepted connection to its end.
pub(super) struct Entry {
    pub(super) service: Held<TcpService>,
    pub(super) worker: Rc<Worker>,
    pub(super) registration: Registration,
    /// If there is a log, and the client is known.
    record: OnceCell<Box<Record>>,
    end: Cell<SessionEnd>,
}

impl Entry {
    pub(super) const fn new(
        service: Held<TcpService>,
        worker: Rc<Worker>,
        registration: Registration,
    ) -> Self {
        Self {
            service,
            worker,
            registration,
            record: OnceCell::new(),
            end: Cell::new(SessionEnd::Drained),
        }
    }

    pub(super) fn counters(&self) -> &ListenerCounters {
        self.registration.listener()
    }

    pub(super) fn record(&self) -> Option<&Record> {
        self.record.get().map(|record| &**record)
    }

    /// The session of `peer` begins.
    pub(super) fn begins(&self, peer: SocketAddr, stream: &TcpStream) {
        if self.service.log().is_some() {
            let local = stream.local_addr().ok();
            let record = || Record::begin(Transport::Tcp, peer, local);
            self.record.get_or_init(record);
        }
    }

    /// A proxy said who the client is, perhaps.
    pub(super) fn identified(&self, client: &Client) {
        if let Some(record) = self.record() {
            record.told(client.address, client.local());
        }
    }

    /// The session has a backend, and is relayed from now on.
    pub(super) fn started(&self) {
        if let (Some(record), Some(log)) = (self.record(), self.service.log()) {
            record.write_start(log, &self.worker.lines);
        }
    }

    pub(super) fn refused(&self, why: Refusal) {
        self.counters().refused(why);
        if let Some(record) = self.record() {
            record.refused(why);
        }
    }

    pub(super) fn ends(&self, end: SessionEnd) {
        self.end.set(end);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let end = self.end.get();
        self.counters().session_ended(end);
        if let (Some(record), Some(log)) = (self.record.take(), self.service.log()) {
            match end {
                SessionEnd::Finished | SessionEnd::Reset => {}
                SessionEnd::Abandoned => record.ended_by(Side::Client, false),
                _ => record.ended_by_us(),
            }
            record.finish(log, &self.worker.lines, Ended::of(end));
        }
    }
}

impl Ended {
    /// nginx has no number for a client that left before there was a backend; 499 is that of HTTP.
    pub(super) const fn of(end: SessionEnd) -> Self {
        let status = match end {
            SessionEnd::Abandoned => 499,
            SessionEnd::Drained
            | SessionEnd::Expired
            | SessionEnd::Finished
            | SessionEnd::Idle
            | SessionEnd::Reset => 200,
            SessionEnd::Refused => 403,
            SessionEnd::Resources => 500,
            SessionEnd::Unavailable => 502,
        };
        let name = end.name();
        Self { name, status }
    }
}

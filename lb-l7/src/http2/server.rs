//! The server's end: a client's connection, each of whose streams is an exchange in a task of its
//! own.
//!
//! Invariant: a stream's task holds its place among the streams that the client may have open,
//! also when the client has reset it: who resets streams cannot have more served at once.
//! Read next: `driver.rs` (the connection's task), `../connection.rs` (who serves a stream).

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use lb_core::connections::Registration;
use lb_core::metrics::Counter;
use lb_core::plan::Http2;
use lb_core::rt::{self, Chunk};
use lb_core::snapshot::Current;

use super::core::{Core, Phase, Role};
use super::driver::{Deadlines, Driver, Shared, broken};
use super::frame::ErrorCode;
use super::offence::{self, OffendingPeer};
use super::settings::LocalSettings;
use super::streams::StreamKey;
use crate::connection::{Connection, First, Peer, Place, Served};
use crate::link::{ClientLink, Http2Stream};
use crate::rooms::Rooms;
use crate::service::HttpService;
use crate::stream::Stream;
use crate::worker::HttpWorker;

/// What a client's connection begins with, as far as it tells HTTP/2 from any other.
const MARK: &[u8] = b"PRI * ";

/// Whether these are the first bytes of HTTP/2 with prior knowledge (RFC 9113 section 3.3).
pub(crate) fn is_http2(first: &[u8]) -> bool {
    first.starts_with(MARK)
}

/// Whether more bytes are needed to tell whether it is.
pub(crate) fn may_become_http2(first: &[u8]) -> bool {
    first.len() < MARK.len() && MARK.starts_with(first)
}

/// The request with which a connection of HTTP/1.1 became one of HTTP/2.
#[derive(Debug)]
pub(crate) struct FirstStream {
    /// Head and body, complete, as they came.
    pub(crate) request: Chunk,
    /// The payload of a SETTINGS frame, acceptable.
    pub(crate) settings: Vec<u8>,
}

/// A client's connection, and whatever its streams need.
pub(crate) struct ServerConnection {
    pub(crate) peer: Peer,
    pub(crate) current: Rc<Current<HttpService>>,
    pub(crate) http: Rc<HttpWorker>,
    pub(crate) registration: Rc<Registration>,
}

impl ServerConnection {
    /// Serves the client until its connection ends. `first` is what was received of it; there may be
    /// a stream before that.
    pub(crate) async fn serve(
        self,
        stream: Stream,
        first: Chunk,
        first_stream: Option<FirstStream>,
    ) {
        let service = self.current.get();
        let (settings, head_bytes_max) = (service.http2, service.rules.head_bytes_max);
        let deadlines = Deadlines {
            idle: service.timeouts.keep_alive,
            silence: settings.ping_interval,
        };
        drop(service);
        self.registration.set_idle(false);
        let shared = Rc::new(Shared {
            core: RefCell::new(Core::new(
                Role::Server,
                local_settings(&settings, head_bytes_max),
            )),
            local: stream.tcp().local_addr().ok(),
            alert: Cell::new(None),
        });
        self.http.clients.add(&shared);
        let counters = &self.registration.listener().http2;
        counters.connections.increment();
        let _active = counters.connections_active.hold();
        {
            let mut core = shared.core.borrow_mut();
            let begun = first_stream.map_or(Ok(()), |it| core.begin_upgraded(it));
            if let Err(error) = begun.and_then(|()| core.receive(first)) {
                core.fail(Some(error));
            }
        }
        self.begin(&shared);
        let driver = Driver::new(&shared, stream, deadlines);
        driver.run(|| self.begin(&shared)).await;
        let mut core = shared.core.borrow_mut();
        self.count(&mut core);
        let client = OffendingPeer::Client {
            local: shared.local,
            address: self.peer.socket_address(),
        };
        offence::report(core.failure, client);
    }

    /// Has the requests served that have come.
    fn begin(&self, shared: &Rc<Shared>) {
        loop {
            let mut core = shared.core.borrow_mut();
            let Some(key) = core.begun.pop_front() else {
                return self.count(&mut core);
            };
            let head = core.streams.get(key).and_then(|it| it.heads.pop_front());
            drop(core);
            let stream = ServerStream {
                shared: Rc::clone(shared),
                key,
            };
            if let Some(head) = head {
                let connection = Connection::new(
                    ClientLink::Http2(Box::new(stream)),
                    self.peer.clone(),
                    Rc::clone(&self.current),
                    Rc::clone(&self.http),
                    Place::Shared(Rc::clone(&self.registration)),
                );
                let guest = Rooms::serve(connection, Ok(First::OfRequest(head)));
                rt::spawn(async move {
                    if let Served::Switched(other) = guest.await {
                        other.await;
                    }
                });
            }
        }
    }
}

impl ServerConnection {
    /// Passes on what was counted since the last time.
    fn count(&self, core: &mut Core) {
        let counts = std::mem::take(&mut core.counts);
        let counters = &self.registration.listener().http2;
        counters.streams.add(counts.streams);
        counters.offences.add(counts.offences);
        counters.floods.add(counts.floods);
        if core.resets_counted.has_new {
            let resets = std::mem::take(&mut core.resets_counted);
            let add = |counters: &[Counter], counts: &[u32]| {
                let both = counters.iter().zip(counts);
                both.for_each(|(counter, &count)| counter.add(count.into()));
            };
            add(&counters.resets_received, &resets.received);
            add(&counters.resets_sent, &resets.sent);
        }
    }
}

fn local_settings(settings: &Http2, head_bytes_max: usize) -> LocalSettings {
    LocalSettings {
        streams_max: settings.streams_max,
        window: settings.window_bytes,
        head_bytes_max,
    }
}

/// The HTTP/2 connections of one worker's clients, to tell them when it drains.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    connections: RefCell<Vec<Weak<Shared>>>,
}

impl Clients {
    /// Below this, connections that have ended are not looked for.
    const KEPT: usize = 64;

    fn add(&self, shared: &Rc<Shared>) {
        let mut connections = self.connections.borrow_mut();
        if connections.len() == connections.capacity().max(Self::KEPT) {
            connections.retain(|it| it.strong_count() > 0);
        }
        connections.push(Rc::downgrade(shared));
    }

    /// Asks all clients to begin no more streams; those under way, and on their way, are served.
    pub(crate) fn drain(&self) {
        let connections = std::mem::take(&mut *self.connections.borrow_mut());
        for shared in connections.iter().filter_map(Weak::upgrade) {
            shared.core.borrow_mut().go_away(Phase::Warned);
        }
    }
}

/// A client's stream.
#[derive(Debug)]
struct ServerStream {
    shared: Rc<Shared>,
    key: StreamKey,
}

impl Drop for ServerStream {
    fn drop(&mut self) {
        self.shared.core.borrow_mut().release(self.key);
    }
}

impl Http2Stream for ServerStream {
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        let received = self.shared.core.borrow_mut().poll_recv(self.key, cx);
        received.map_err(broken)
    }

    fn is_received(&self) -> bool {
        self.shared.core.borrow_mut().is_received(self.key)
    }

    fn is_websocket(&self) -> bool {
        let mut core = self.shared.core.borrow_mut();
        core.streams.get(self.key).is_some_and(|it| it.is_websocket)
    }

    fn take_secrets(&self) -> Option<Chunk> {
        let mut core = self.shared.core.borrow_mut();
        core.streams.get(self.key)?.secrets.take()
    }

    fn keep_secret(&self, names: Chunk) {
        let mut core = self.shared.core.borrow_mut();
        if let Some(stream) = core.streams.get(self.key) {
            stream.secrets = Some(names);
        }
    }

    fn take_trailers(&self) -> Option<Chunk> {
        let mut core = self.shared.core.borrow_mut();
        core.streams.get(self.key)?.trailers.take()
    }

    fn poll_send_head(
        &self,
        cx: &mut Context<'_>,
        head: &mut Chunk,
        ends: bool,
    ) -> Poll<io::Result<()>> {
        let mut core = self.shared.core.borrow_mut();
        if let Some(ended) = core.ended(self.key) {
            return Poll::Ready(Err(broken(ended)));
        }
        if core.is_clogged() {
            core.wait_for_turn(self.key, cx);
            return Poll::Pending;
        }
        core.send_head(self.key, head, ends);
        Poll::Ready(Ok(()))
    }

    fn poll_send_data(
        &self,
        cx: &mut Context<'_>,
        data: &mut Chunk,
        ends: bool,
    ) -> Poll<io::Result<()>> {
        let mut core = self.shared.core.borrow_mut();
        core.poll_send(self.key, data, ends, cx).map_err(broken)
    }

    fn room(&self) -> usize {
        self.shared.core.borrow_mut().room(self.key)
    }

    fn poll_send_trailers(
        &self,
        _: &mut Context<'_>,
        trailers: &mut Chunk,
    ) -> Poll<io::Result<()>> {
        let mut core = self.shared.core.borrow_mut();
        if let Some(ended) = core.ended(self.key) {
            return Poll::Ready(Err(broken(ended)));
        }
        core.send_trailers(self.key, trailers);
        Poll::Ready(Ok(()))
    }

    fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.shared
            .core
            .borrow_mut()
            .poll_ended(self.key, cx)
            .map(broken)
    }

    fn reset(&self) {
        let mut core = self.shared.core.borrow_mut();
        core.reset(self.key, ErrorCode::INTERNAL_ERROR);
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.local_addr()
    }
}

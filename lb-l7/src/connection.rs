//! The life of a client's connection: idle, a head, an exchange, and again, until it ends.
//!
//! Invariant: requests are answered in the order in which they came, and a connection that we end
//! ends such that the client can read our last answer.
//! Read next: `admit.rs` (what a head becomes), `exchange.rs` (what happens to it).

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use lb_core::connections::Registration;
use lb_core::rt::{self, Chunk, Instant, Sleep};
use lb_core::snapshot::{Current, Held};

use crate::admit::{Admission, Refused, Request, admit};
use crate::collect::HeadCollector;
use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::http1::response::ClientConnection;
use crate::http2::h2c::Offer;
use crate::http2::server;
use crate::http2::start::{Http2, Http2Start};
use crate::link::ClientLink;
use crate::log::{Early, Outcome};
use crate::respond::Answer;
use crate::rooms::Rooms;
use crate::service::HttpService;
use crate::stream::Stream;
use crate::tls::TlsFacts;
use crate::upgrade::{Switched, Upgrade};
use crate::worker::HttpWorker;

/// How long a client may go on sending after we have ended our side.
const LINGER: Duration = Duration::from_secs(2);
/// How long a client has to take our last bytes.
const LAST_SEND: Duration = Duration::from_secs(10);

/// Serves a client until its connection ends. What is `current` when a request comes serves it.
///
/// The future is what an idle connection costs; a test keeps it small.
pub fn serve<S: Into<Stream>>(
    client: S,
    current: Rc<Current<HttpService>>,
    http: Rc<HttpWorker>,
    registration: Registration,
) -> impl Future<Output = ()> + use<S> {
    let client = client.into();
    let unknown = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
    let peer = Peer::new(client.tcp().peer_addr().unwrap_or(unknown), None);
    serve_client(client, peer, current, http, registration)
}

/// As [`serve`], for a client of which more is known than the socket says.
pub fn serve_client<S: Into<Stream>>(
    client: S,
    peer: Peer,
    current: Rc<Current<HttpService>>,
    http: Rc<HttpWorker>,
    registration: Registration,
) -> impl Future<Output = ()> {
    let link = ClientLink::Http1(client.into());
    let mut connection = Connection::new(link, peer, current, http, Place::Own(registration));
    async move {
        let other = loop {
            let waited = connection.wait_for_request().await;
            match Rooms::serve(connection, waited).await {
                Served::Again(again) => connection = again,
                Served::Switched(other) => break other,
                Served::Over => return,
            }
        };
        other.await;
    }
}

/// Who is at the other end of a client's connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The client's address: the socket's, or what a proxy in front of us said.
    pub address: IpAddr,
    /// The client's port.
    pub port: u16,
    /// What its handshake agreed on; `None` in the clear.
    pub tls: Option<Rc<TlsFacts>>,
}

impl Peer {
    /// A client at `address`.
    #[must_use]
    pub const fn new(address: SocketAddr, tls: Option<Rc<TlsFacts>>) -> Self {
        Self {
            address: address.ip(),
            port: address.port(),
            tls,
        }
    }

    /// Address and port.
    #[must_use]
    pub const fn socket_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// Whether a request for `host` may come by its connection: whether the client has shown the
    /// certificate that the host asks for, if it does.
    pub(crate) fn may_ask(&self, host: &[u8]) -> bool {
        let policy = self.tls.as_ref().and_then(|tls| tls.policy.as_ref());
        policy.is_none_or(|policy| policy.admits(host))
    }

    /// `http` or `https`.
    #[must_use]
    pub const fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// A client's connection, or one stream of it, which takes one request only.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: ClientLink,
    pub(crate) peer: Peer,
    pub(crate) http: Rc<HttpWorker>,
    pub(crate) registration: Place,
    /// The one timer of the connection, moved from deadline to deadline.
    pub(crate) sleep: Sleep,
    /// Exchanges begun.
    pub(crate) exchanges: u32,
    pub(crate) current: Rc<Current<HttpService>>,
}

/// The place among the worker's connections: a connection's own, or the one that its streams share.
#[derive(Debug)]
pub(crate) enum Place {
    Own(Registration),
    Shared(Rc<Registration>),
}

impl Deref for Place {
    type Target = Registration;

    fn deref(&self) -> &Registration {
        match self {
            Self::Own(registration) => registration,
            Self::Shared(registration) => registration,
        }
    }
}

impl Place {
    pub(crate) fn share(self) -> Rc<Registration> {
        match self {
            Self::Own(registration) => Rc::new(registration),
            Self::Shared(registration) => registration,
        }
    }
}

/// What was received on a connection that waited for it.
pub(crate) enum First {
    OfHttp2(Chunk),
    /// What is at hand of a request; on a stream, all of its head.
    OfRequest(Chunk),
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The client has ended its side, or knows that we do: what was sent is all that matters.
    Close,
    /// The client is gone.
    Gone,
    /// The client may be sending still: closing at once would reset the connection, and the
    /// client would not see our answer (RFC 9112 section 9.6).
    Linger,
    /// The response is incomplete, and nothing but a reset says so.
    Reset,
}

/// What follows an exchange.
#[derive(Debug)]
pub(crate) enum Next {
    End(End),
    Request,
    Switch(Switched),
    /// The client speaks HTTP/2.
    Http2(Http2),
}

/// What has become of a connection.
pub(crate) enum Served {
    /// Another request may follow.
    Again(Connection),
    /// Another protocol follows, served by this: in a box of its own, as most connections never
    /// need the room.
    Switched(Pin<Box<dyn Future<Output = ()>>>),
    Over,
}

impl Connection {
    pub(crate) fn new(
        client: ClientLink,
        peer: Peer,
        current: Rc<Current<HttpService>>,
        http: Rc<HttpWorker>,
        registration: Place,
    ) -> Self {
        Self {
            client,
            peer,
            current,
            http,
            registration,
            sleep: rt::sleep_until(Instant::default()),
            exchanges: 0,
        }
    }

    /// Serves the request that was waited for, and ends the connection if it is to end after that,
    /// or without one.
    pub(crate) async fn serve_one(mut self, waited: Result<First, End>) -> Served {
        let next = match waited {
            Ok(First::OfRequest(first)) => self.exchange(first).await,
            Ok(First::OfHttp2(first)) => {
                return Served::Switched(Box::pin(self.serve_http2(first)));
            }
            Err(end) => Next::End(end),
        };
        match next {
            Next::Request => return Served::Again(self),
            Next::Http2(how) => {
                let connection = self;
                let start = Http2Start { connection, how };
                return Served::Switched(Box::pin(start.run()));
            }
            Next::Switch(switched) => {
                let connection = self;
                let upgrade = Upgrade {
                    connection,
                    switched,
                };
                return Served::Switched(Box::pin(upgrade.run()));
            }
            Next::End(End::Close | End::Linger) if self.client.is_http2() => {}
            Next::End(End::Close) => drop(self.finish().await),
            Next::End(End::Gone) => {}
            Next::End(End::Linger) => self.linger().await,
            Next::End(End::Reset) => self.client.reset_on_drop(),
        }
        Served::Over
    }

    async fn exchange(&mut self, mut first: Chunk) -> Next {
        if self.exchanges == 0 && server::may_become_http2(&first) {
            first = self.collect_mark(first).await;
            if self.speaks_http2(&first) {
                return Next::Http2(Http2::Preface(first));
            }
        }
        let service = self.current.get();
        let request = match self.receive_request(first, &service).await {
            Ok(Ok(request)) => request,
            Ok(Err(offer)) => return Next::Http2(Http2::Offered(offer)),
            Err(refused) => return Next::End(self.refuse(refused, &service).await),
        };
        self.exchanges = self.exchanges.saturating_add(1);
        Exchange::new(self, service, request).run().await
    }

    /// The first bytes of the next request, or how the connection ends without one.
    fn wait_for_request(&mut self) -> impl Future<Output = Result<First, End>> {
        let is_drained = self.http.worker.draining.get() && self.exchanges > 0;
        let mut is_armed = false;
        poll_fn(move |cx| {
            let first = ready!(self.poll_request(cx, is_drained, &mut is_armed));
            self.registration.set_idle(false);
            Poll::Ready(first.map(|first| self.told_apart(first)))
        })
    }

    fn told_apart(&self, first: Chunk) -> First {
        if self.exchanges == 0 && self.speaks_http2(&first) {
            First::OfHttp2(first)
        } else {
            First::OfRequest(first)
        }
    }

    fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        is_drained: bool,
        is_armed: &mut bool,
    ) -> Poll<Result<Chunk, End>> {
        if let Poll::Ready(received) = self.client.poll_recv(cx) {
            return Poll::Ready(match received {
                Ok(chunk) if !chunk.is_empty() => Ok(chunk),
                Ok(_) => Err(End::Close),
                Err(_) => Err(End::Gone),
            });
        }
        if is_drained {
            return Poll::Ready(Err(End::Close));
        }
        if !std::mem::replace(is_armed, true) {
            let keep_alive = self.current.get().timeouts.keep_alive;
            self.sleep.set_deadline(rt::now() + keep_alive);
        }
        // Idle only when the last response has left: an idle connection may be dropped.
        if self.client.poll_flush(cx).is_ready() {
            self.registration.set_idle(true);
        }
        Pin::new(&mut self.sleep).poll(cx).map(|()| Err(End::Close))
    }

    /// The next request, or an offer to go on in HTTP/2.
    async fn receive_request(
        &mut self,
        first: Chunk,
        service: &Held<HttpService>,
    ) -> Result<Result<Request, Box<Offer>>, Refused> {
        match self.admit(first, service)? {
            Admission::Admitted(request) => Ok(Ok(request)),
            Admission::Http2(offer) => Ok(Err(offer)),
            Admission::Incomplete(first) => self.receive_rest(first, service).await,
        }
    }

    /// A request whose head comes in pieces.
    async fn receive_rest(
        &mut self,
        first: Chunk,
        service: &Held<HttpService>,
    ) -> Result<Result<Request, Box<Offer>>, Refused> {
        let deadline = rt::now() + service.timeouts.request_head;
        let mut collector = HeadCollector::new(service.rules.head_bytes_max);
        let mut piece = first;
        let rest = loop {
            if let Some(rest) = collector.add(piece) {
                break rest;
            }
            piece = match self.receive_until(deadline).await {
                Some(Ok(piece)) if !piece.is_empty() => piece,
                Some(_) => return Err(Failure::ClientGone.into()),
                None => return Err(Failure::HeadTimeout.into()),
            };
        };
        let head = collector.finish();
        self.client.unread(rest);
        match self.admit(head, service)? {
            Admission::Admitted(request) => Ok(Ok(request)),
            Admission::Http2(offer) => Ok(Err(offer)),
            // The parser wants more than a blank line at the end: an empty line before the head
            // was all there is.
            Admission::Incomplete(_) => Err(Failure::HeadTimeout.into()),
        }
    }

    fn admit(&self, received: Chunk, service: &HttpService) -> Result<Admission, Refused> {
        self.registration
            .listener()
            .received_bytes
            .add(received.len() as u64);
        let requests = self.exchanges.saturating_add(1);
        admit(
            received,
            &self.client,
            &self.peer,
            service,
            (&self.http, requests),
        )
    }

    /// Answers what was no acceptable request; nothing can follow it.
    async fn refuse(&mut self, refused: Refused, service: &HttpService) -> End {
        let Refused { failure, is_grpc } = refused;
        let status = failure.status();
        let listener = self.registration.listener();
        let Some(status) = status else {
            self.log_refused(service, 0, [0, 0]);
            return End::Gone;
        };
        listener.exchange_answered(status);
        let answer = Answer {
            status,
            reason: failure.reason(),
            connection: ClientConnection::Close,
            without_body: false,
            location: &[],
        };
        let mut answer = answer.outgoing_to(&self.client, is_grpc, &self.http.date.text());
        listener.sent_bytes.add(answer.len() as u64);
        let sizes = [answer.len() as u64, u64::from(answer.head_len)];
        self.log_refused(service, status, sizes);
        // The answer before it may still be on its way.
        if self.flush().await.is_err() {
            return End::Gone;
        }
        let sent = poll_fn(|cx| self.client.poll_send(cx, &mut answer)).await;
        sent.map_or(End::Gone, |()| End::Linger)
    }

    /// Logs what was no acceptable request; `sizes` are those of the answer and of its head.
    fn log_refused(&self, service: &HttpService, status: u16, [sent_bytes, head_bytes]: [u64; 2]) {
        let Some(log) = &service.log else { return };
        let early = Early {
            request: None,
            peer: &self.peer,
            link: &self.client,
            route: None,
            request_id: None,
            requests: self.exchanges.saturating_add(1),
        };
        let mut record = self.http.records.begin(log, &early);
        record.head_bytes = head_bytes;
        let outcome = Outcome {
            status,
            sent_bytes,
            duration: Duration::ZERO,
            cluster: None,
        };
        self.http
            .records
            .write(&self.http.worker.lines, log, record, &outcome);
    }

    /// Ends our side and lets the client read in peace, until it ends its own.
    async fn linger(&mut self) {
        self.registration.set_idle(true); // nothing is lost when we drain
        if self.flush().await.is_err() || poll_fn(|cx| self.client.poll_shutdown(cx)).await.is_err()
        {
            return;
        }
        let deadline = rt::now() + LINGER;
        while let Some(Ok(chunk)) = self.receive_until(deadline).await {
            if chunk.is_empty() {
                return;
            }
        }
    }

    /// Ends our side such that the client knows that it has everything: by closing, and over TLS
    /// by saying so first (RFC 8446 section 6.1).
    async fn finish(&mut self) -> io::Result<()> {
        self.flush().await?;
        if self.peer.tls.is_some() && !self.client.is_http2() {
            // There is room for a few bytes: everything else has left.
            let _ = poll_fn(|cx| Poll::Ready(self.client.poll_shutdown(cx))).await;
            self.flush().await?;
        }
        Ok(())
    }

    /// Waits until what was sent has left, but not for ever.
    pub(crate) fn flush(&mut self) -> impl Future<Output = io::Result<()>> {
        self.sleep.set_deadline(rt::now() + LAST_SEND);
        poll_fn(move |cx| {
            if let Poll::Ready(flushed) = self.client.poll_flush(cx) {
                return Poll::Ready(flushed);
            }
            Pin::new(&mut self.sleep)
                .poll(cx)
                .map(|()| Err(io::ErrorKind::TimedOut.into()))
        })
    }

    /// What is received next; `None` when the deadline is first.
    pub(crate) fn receive_until(
        &mut self,
        deadline: Instant,
    ) -> impl Future<Output = Option<io::Result<Chunk>>> {
        self.sleep.set_deadline(deadline);
        poll_fn(move |cx| {
            if let Poll::Ready(received) = self.client.poll_recv(cx) {
                return Poll::Ready(Some(received));
            }
            Pin::new(&mut self.sleep).poll(cx).map(|()| None)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the future that `_serve` makes, without making one.
    const fn future_bytes<A, B, C, D, F: Future>(_serve: &impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_is_small() {
        // With its places in the tables of sockets, timers, tasks and connections: 512.
        let bytes = future_bytes(&serve::<Stream>);
        assert!(bytes <= 160, "{bytes} bytes a connection");
    }
}

//! One connection, and what it takes to make one request on it.
//!
//! Invariant: latency counts from the moment that the request was due, whatever came between it
//! and the answer: waiting for this connection, opening it, a lost one that had to be replaced.
//! Read next: `http.rs` and `tcp.rs`, what an exchange is; `../tls/client.rs`.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use lb_core::rt::{self, Chunk, Elapsed, Instant, Notify, TcpStream};
use lb_l7::stream::Stream;

use super::config::{Config, Scheme};
use super::http::{Http, Visitor};
use super::http2::{Http2, Session as Session2};
use super::recorder::{Failure, OriginId, Recorder};
use super::sources::{Clients, Sources};
use super::tcp::Tcp;
use super::websocket::WebSocket;
use crate::tls::{Dialer, Session};

/// How long to wait for a server to close a connection that it said it would close.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// Connections on which a request that servers do not process is tried.
const TRIES_MAX: usize = 4;

/// What all connections of a thread share.
pub(super) struct Client {
    address: SocketAddr,
    timeout: Duration,
    /// A connection of its own for each request.
    one_each: bool,
    /// Requests after which a connection is replaced.
    requests_max: u64,
    protocol: Protocol,
    /// Makes the handshakes, where there are any.
    dialer: Option<Dialer>,
    /// Who comes next, where clients have addresses of their own.
    clients: Option<RefCell<Clients>>,
    pub(super) recorder: RefCell<Recorder>,
    /// Why the first connection that failed to open did.
    pub(super) connect_error: RefCell<Option<io::Error>>,
}

enum Protocol {
    Http(Http),
    Http2(Http2),
    Tcp(Tcp),
    WebSocket(WebSocket),
}

/// A complete answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// Why it does not count, although the exchange went well.
    pub(super) failure: Option<Failure>,
    /// Bytes received.
    pub(super) bytes: u64,
    /// Who gave it, as far as the answer itself says.
    pub(super) origin: Option<OriginId>,
    /// The connection serves further requests.
    pub(super) keep_alive: bool,
}

/// A place for a connection over HTTP/2, which some share.
#[derive(Default)]
pub(super) struct Place {
    session: RefCell<Option<Rc<Session2>>>,
    /// Requests made on it.
    requests: Cell<u64>,
    /// Somebody opens it.
    is_opening: Cell<bool>,
    opened: Notify,
}

impl Place {
    /// The session, if there is one that takes requests.
    fn session(&self) -> Option<Rc<Session2>> {
        let session = self.session.borrow();
        session
            .as_ref()
            .filter(|session| !session.is_over())
            .cloned()
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_open = self.session().is_some();
        f.debug_struct("Place")
            .field("is_open", &is_open)
            .finish_non_exhaustive()
    }
}

/// A place for a connection, filled while there is one.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Option<Stream>,
    /// The connection that it shares with others, over HTTP/2.
    place: Rc<Place>,
    /// It was opened since the last request.
    is_new: bool,
    /// What its handshake was, over TLS.
    session: Option<Session>,
    /// The client that it is, where clients have addresses of their own.
    client: Option<usize>,
    /// Who is at the other end, if it was asked.
    origin: Option<OriginId>,
    /// Requests made on the stream.
    requests: u64,
    /// Number of the next message.
    message: usize,
    /// Who sends requests of several kinds.
    visitor: Visitor,
}

impl Connection {
    /// Nothing open yet. `number` tells the connections of a thread apart: their messages begin
    /// far from each other.
    pub(super) fn new(number: usize, place: Rc<Place>) -> Self {
        Self {
            stream: None,
            place,
            is_new: false,
            session: None,
            client: None,
            origin: None,
            requests: 0,
            message: number.wrapping_mul(1_021),
            visitor: Visitor::default(),
        }
    }

    /// Whether it is open, for the first time.
    pub(super) fn is_open(&self) -> bool {
        self.stream.is_some() || self.place.session().is_some()
    }

    /// How long its client thinks before the next request, if it does.
    pub(super) const fn think(&mut self) -> Option<Duration> {
        self.visitor.think.take()
    }

    /// Whether it is open and nobody has ended it, as far as was known when this was asked last;
    /// for one on which nothing happens.
    pub(super) async fn is_held(&self) -> bool {
        match &self.stream {
            // To look for an end is what makes the kernel tell of it.
            Some(stream) => rt::poll_once(stream.recv()).await.is_none(),
            None => self.place.session().is_some(),
        }
    }

    /// What was opened so far is what the run begins with.
    pub(super) const fn begin(&mut self) {
        self.is_new = false;
    }
}

impl Client {
    /// For the connections of thread number `thread`, to `address` over TCP.
    ///
    /// # Errors
    /// When TLS cannot be spoken as it is asked for.
    pub(super) fn new(config: &Config, address: SocketAddr, thread: usize) -> io::Result<Self> {
        let protocol = match config.url.scheme {
            _ if config.is_http2() => Protocol::Http2(Http2::new(config)),
            Scheme::Http | Scheme::H2c | Scheme::Https => Protocol::Http(Http::new(config, thread)),
            Scheme::Ws | Scheme::Wss => Protocol::WebSocket(WebSocket::new(config)),
            Scheme::Tcp | Scheme::Udp => Protocol::Tcp(Tcp::new(&config.tcp)),
        };
        let clients = |sources| RefCell::new(Clients::new(sources, thread, config.threads));
        let dialer = config.url.scheme.is_secure().then(|| {
            let alpn: &[u8] = if config.is_http2() {
                b"h2"
            } else {
                b"http/1.1"
            };
            Dialer::new(&config.tls, config.url.host(), &[alpn], thread).map_err(io::Error::other)
        });
        let watched = config.sources.map_or(0, |sources| sources.count);
        Ok(Self {
            address,
            timeout: config.timeout,
            one_each: config.new_connections,
            requests_max: match config.requests_per_connection {
                _ if config.new_connections => 1,
                None => u64::MAX,
                Some(requests) => requests,
            },
            protocol,
            dialer: dialer.transpose()?,
            clients: config.sources.map(clients),
            recorder: RefCell::new(Recorder::new(config.delayed_after, watched)),
            connect_error: RefCell::new(None),
        })
    }

    /// Opens the connection, within the time limit, and asks who is there if that is wanted.
    pub(super) async fn open(&self, connection: &mut Connection) -> Result<(), Failure> {
        let Protocol::Http2(http2) = &self.protocol else {
            let stream = self.open_stream(connection).await?;
            connection.stream = Some(stream);
            connection.requests = 0;
            return Ok(());
        };
        let place = Rc::clone(&connection.place);
        while place.session().is_none() {
            if place.is_opening.replace(true) {
                place.opened.notified().await;
                continue;
            }
            let opened = async {
                let stream = self.open_stream(connection).await?;
                let opened = rt::timeout(self.timeout, http2.open(stream)).await;
                opened.unwrap_or(Err(Failure::Timeout))
            };
            let opened = opened.await;
            place.is_opening.set(false);
            place.opened.notify();
            place.requests.set(0);
            *place.session.borrow_mut() = Some(Rc::new(opened?));
        }
        Ok(())
    }

    /// Opens a connection that is nobody else's.
    async fn open_stream(&self, connection: &mut Connection) -> Result<Stream, Failure> {
        let connected = rt::timeout(self.timeout, self.connect(connection))
            .await
            .unwrap_or_else(|Elapsed| Err(io::ErrorKind::TimedOut.into()));
        let stream = connected.map_err(|error| {
            self.connect_error.borrow_mut().get_or_insert(error);
            Failure::Connect
        })?;
        connection.is_new = true;
        let greeting = async {
            match &self.protocol {
                Protocol::Tcp(tcp) => tcp.ask_name(&stream).await,
                Protocol::WebSocket(websocket) => websocket.upgrade(&stream).await,
                Protocol::Http(_) | Protocol::Http2(_) => Ok(None),
            }
        };
        let greeted = rt::timeout(self.timeout, greeting).await;
        let name = greeted.unwrap_or(Err(Failure::Timeout))?;
        connection.origin = name.map(|name| self.recorder.borrow_mut().origin(&name));
        Ok(stream)
    }

    async fn connect(&self, connection: &mut Connection) -> io::Result<Stream> {
        let stream = self.connect_tcp(connection).await?;
        let Some(dialer) = &self.dialer else {
            return Ok(Stream::Plain(stream));
        };
        let (stream, session) = dialer.secure(stream).await?;
        connection.session = Some(session);
        Ok(Stream::Tls(stream))
    }

    async fn connect_tcp(&self, connection: &mut Connection) -> io::Result<TcpStream> {
        let Some(clients) = &self.clients else {
            return TcpStream::connect(self.address).await;
        };
        // A lost connection is replaced by its own client.
        let client = match connection.client {
            Some(client) if !self.one_each => client,
            _ => clients.borrow_mut().next(),
        };
        connection.client = Some(client);
        let source = SocketAddr::new(Sources::address(client), 0);
        TcpStream::connect_from(source, self.address).await
    }

    /// Makes request `number`, which was due at `due`; `counts` says whether what ends at a given time
    /// is recorded.
    pub(super) async fn request(
        &self,
        connection: &mut Connection,
        due: Instant,
        number: u64,
        counts: impl Fn(Instant) -> bool,
    ) -> Result<(), Failure> {
        let result = self.exchange(connection, number).await;
        let is_new = std::mem::take(&mut connection.is_new);
        let now = rt::now_precise();
        let outcome = match &result {
            Ok(Answer {
                failure: None,
                bytes,
                origin,
                ..
            }) => Ok((*bytes, *origin)),
            Ok(Answer {
                failure: Some(failure),
                ..
            })
            | Err(failure) => Err(*failure),
        };
        if counts(now) {
            let mut recorder = self.recorder.borrow_mut();
            if is_new {
                recorder.reconnect(connection.session);
            }
            if let Some(kind) = &connection.visitor.kind {
                recorder.of_kind(kind, outcome.is_ok());
            }
            match outcome {
                Ok((bytes, origin)) => {
                    let latency = now.saturating_duration_since(due);
                    let origin = origin.or(connection.origin);
                    recorder.complete(latency, bytes, origin);
                    if let Some((client, origin)) = connection.client.zip(origin) {
                        recorder.answered(client, origin);
                    }
                }
                Err(failure) => recorder.fail(failure),
            }
        }
        self.after(connection, &result).await;
        outcome.map(|_| ())
    }

    async fn exchange(&self, connection: &mut Connection, number: u64) -> Result<Answer, Failure> {
        if let Protocol::Http2(http2) = &self.protocol {
            return self.exchange_shared(http2, connection).await;
        }
        let is_usable = match &connection.stream {
            Some(stream) => !is_stale(stream).await,
            None => false,
        };
        if !is_usable {
            connection.stream = None;
            self.open(connection).await?;
        }
        let stream = connection.stream.as_ref().ok_or(Failure::Connect)?;
        connection.message = connection.message.wrapping_add(1);
        connection.requests += 1;
        let is_last = connection.requests >= self.requests_max;
        let (message, recorder) = (connection.message, &self.recorder);
        let visitor = &mut connection.visitor;
        let exchange = async {
            match &self.protocol {
                Protocol::Http(http) => {
                    http.exchange(stream, number, is_last, visitor, recorder)
                        .await
                }
                Protocol::Tcp(tcp) => tcp.exchange(stream, message, recorder).await,
                Protocol::WebSocket(websocket) => websocket.exchange(stream, message).await,
                Protocol::Http2(_) => Err(Failure::Connect),
            }
        };
        rt::timeout(self.timeout, exchange)
            .await
            .unwrap_or(Err(Failure::Timeout))
    }

    /// The same on a connection that others use, too.
    async fn exchange_shared(
        &self,
        http2: &Http2,
        connection: &mut Connection,
    ) -> Result<Answer, Failure> {
        for _ in 0..TRIES_MAX {
            self.open(connection).await?;
            let place = &connection.place;
            let Some(session) = place.session() else {
                continue;
            };
            place.requests.set(place.requests.get() + 1);
            if place.requests.get() >= self.requests_max {
                // The last to use it has it closed.
                place.session.take();
            }
            let exchange = http2.exchange(&session, &self.recorder);
            match rt::timeout(self.timeout, exchange).await {
                Ok(Some(result)) => return result,
                Ok(None) => {}
                Err(Elapsed) => return Err(Failure::Timeout),
            }
        }
        Err(Failure::Reset)
    }

    /// Keeps the connection for the next request, or ends it.
    async fn after(&self, connection: &mut Connection, result: &Result<Answer, Failure>) {
        let Ok(Answer { keep_alive, .. }) = result else {
            connection.stream = None;
            return;
        };
        if *keep_alive && connection.requests < self.requests_max {
            return;
        }
        if let Some(stream) = connection.stream.take()
            && !keep_alive
        {
            // Who closes first keeps the address for a minute: let it be the server, as it said.
            let _ = rt::timeout(CLOSE_WAIT, stream.recv()).await;
        }
    }
}

/// Whether an idle connection must not be used again.
async fn is_stale(stream: &Stream) -> bool {
    match stream {
        Stream::Plain(stream) => stream.is_stale(),
        // Tickets may come at any time: only what gets through to the reader is too much.
        Stream::Tls(_) => rt::poll_once(stream.recv()).await.is_some(),
    }
}

/// The next bytes of an answer, of which there have to be some.
pub(super) async fn receive(stream: &Stream) -> Result<Chunk, Failure> {
    match stream.recv().await {
        Ok(input) if input.is_empty() => Err(Failure::Short),
        Ok(input) => Ok(input),
        Err(_) => Err(Failure::Reset),
    }
}

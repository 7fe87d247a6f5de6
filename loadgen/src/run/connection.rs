//! One connection, and what it takes to make one request on it.
//!
//! Invariant: latency counts from the moment that the request was due, whatever came between it
//! and the answer: waiting for this connection, opening it, a lost one that had to be replaced.
//! Read next: `http.rs` and `tcp.rs`, what an exchange is; `../tls/client.rs`.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use lb_core::rt::{self, Chunk, Elapsed, Instant, TcpStream};
use lb_l7::stream::Stream;

use super::config::{Config, Scheme};
use super::http::Http;
use super::recorder::{Failure, OriginId, Recorder};
use super::sources::{Clients, Sources};
use super::tcp::Tcp;
use crate::tls::{Dialer, Session};

/// How long to wait for a server to close a connection that it said it would close.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// What all connections of a thread share.
pub(super) struct Client {
    address: SocketAddr,
    timeout: Duration,
    /// A connection of its own for each request.
    one_each: bool,
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
    Tcp(Tcp),
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

/// A place for a connection, filled while there is one.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Option<Stream>,
    /// What its handshake was, over TLS.
    session: Option<Session>,
    /// The client that it is, where clients have addresses of their own.
    client: Option<usize>,
    /// Who is at the other end, if it was asked.
    origin: Option<OriginId>,
    /// Number of the next message.
    message: usize,
}

impl Connection {
    /// Nothing open yet. `number` tells the connections of a thread apart: their messages begin
    /// far from each other.
    pub(super) const fn new(number: usize) -> Self {
        Self {
            stream: None,
            session: None,
            client: None,
            origin: None,
            message: number.wrapping_mul(1_021),
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.stream.is_some()
    }
}

impl Client {
    /// For the connections of thread number `thread`, to `address` over TCP.
    ///
    /// # Errors
    /// When TLS cannot be spoken as it is asked for.
    pub(super) fn new(config: &Config, address: SocketAddr, thread: usize) -> io::Result<Self> {
        let protocol = match config.url.scheme {
            Scheme::Http | Scheme::Https => {
                Protocol::Http(Http::new(&config.url, &config.http, config.new_connections))
            }
            Scheme::Tcp | Scheme::Udp => Protocol::Tcp(Tcp::new(&config.tcp)),
        };
        let clients = |sources| RefCell::new(Clients::new(sources, thread, config.threads));
        let dialer = config.url.scheme.is_secure().then(|| {
            Dialer::new(&config.tls, config.url.host(), &[b"http/1.1"], thread)
                .map_err(io::Error::other)
        });
        let watched = config.sources.map_or(0, |sources| sources.count);
        Ok(Self {
            address,
            timeout: config.timeout,
            one_each: config.new_connections,
            protocol,
            dialer: dialer.transpose()?,
            clients: config.sources.map(clients),
            recorder: RefCell::new(Recorder::new(config.delayed_after, watched)),
            connect_error: RefCell::new(None),
        })
    }

    /// Opens the connection, within the time limit, and asks who is there if that is wanted.
    pub(super) async fn open(&self, connection: &mut Connection) -> Result<(), Failure> {
        let connected = rt::timeout(self.timeout, self.connect(connection))
            .await
            .unwrap_or_else(|Elapsed| Err(io::ErrorKind::TimedOut.into()));
        let stream = connected.map_err(|error| {
            self.connect_error.borrow_mut().get_or_insert(error);
            Failure::Connect
        })?;
        if let Protocol::Tcp(tcp) = &self.protocol {
            let asked = rt::timeout(self.timeout, tcp.ask_name(&stream)).await;
            let name = asked.unwrap_or(Err(Failure::Timeout))?;
            connection.origin = name.map(|name| self.recorder.borrow_mut().origin(&name));
        }
        connection.stream = Some(stream);
        Ok(())
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

    /// Makes one request that was due at `due`; `counts` says whether what ends at a given time
    /// is recorded.
    pub(super) async fn request(
        &self,
        connection: &mut Connection,
        due: Instant,
        counts: impl Fn(Instant) -> bool,
    ) -> Result<(), Failure> {
        let reopen = match &connection.stream {
            Some(stream) => is_stale(stream).await,
            None => true,
        };
        let result = self.exchange(connection, reopen).await;
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
            if reopen && outcome != Err(Failure::Connect) {
                recorder.reconnect(connection.session);
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

    async fn exchange(&self, connection: &mut Connection, reopen: bool) -> Result<Answer, Failure> {
        if reopen {
            connection.stream = None;
            self.open(connection).await?;
        }
        let stream = connection.stream.as_ref().ok_or(Failure::Connect)?;
        connection.message = connection.message.wrapping_add(1);
        let exchange = async {
            match &self.protocol {
                Protocol::Http(http) => http.exchange(stream, &self.recorder).await,
                Protocol::Tcp(tcp) => {
                    tcp.exchange(stream, connection.message, &self.recorder)
                        .await
                }
            }
        };
        rt::timeout(self.timeout, exchange)
            .await
            .unwrap_or(Err(Failure::Timeout))
    }

    /// Keeps the connection for the next request, or ends it.
    async fn after(&self, connection: &mut Connection, result: &Result<Answer, Failure>) {
        let Ok(Answer { keep_alive, .. }) = result else {
            connection.stream = None;
            return;
        };
        if *keep_alive && !self.one_each {
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

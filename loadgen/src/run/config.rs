//! What a run is to do.
//!
//! Invariant: nothing below this file reads flags.
//! Read next: `mod.rs`, which carries it out.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use lb_core::rt::EngineKind;

use super::LoadMode;
use super::mix::Mix;
use super::replay::Replay;
use super::sources::Sources;
use crate::tcp::TcpMode;
use crate::tls::TlsRequest;
#[cfg(doc)]
use crate::udp;

/// [`Config::delayed_after`] unless said otherwise.
pub const DELAYED_AFTER: Duration = Duration::from_millis(100);

/// Settings of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What to load.
    pub url: Url,
    /// When requests are sent.
    pub mode: LoadMode,
    /// Connections over all threads, at least one a thread.
    pub connections: usize,
    /// Length of the measured window.
    pub duration: Duration,
    /// Load before the window.
    pub warm_up: Duration,
    /// Time limit of a request, and of opening a connection. Open loop: also how long after the
    /// window the run goes on to work off what was due within it.
    pub timeout: Duration,
    /// A connection of its own for each request; opening it is part of the latency.
    pub new_connections: bool,
    /// Requests after which a connection is replaced by a new one, at least 1; `None`: it lasts.
    pub requests_per_connection: Option<u64>,
    /// Connections begin evenly over this time, and not all before the start.
    pub ramp_up: Duration,
    /// Further connections, opened before the start, on which nothing happens.
    pub idle: usize,
    /// What one request is, where HTTP is spoken.
    pub http: HttpRequest,
    /// HTTP/2 for `https://`.
    pub http2: bool,
    /// HTTP/2: requests that a connection has under way at a time, at least 1.
    pub streams: usize,
    /// HTTP/2: requests are gRPC calls that echo.
    pub grpc: Option<Grpc>,
    /// Several kinds of requests instead of the one, over HTTP/1.1.
    pub mix: Option<Arc<Mix>>,
    /// Requests of a log instead of the one, with [`LoadMode::Replay`], over HTTP/1.1.
    pub replay: Option<Arc<Replay>>,
    /// What connections offer, for `https://`.
    pub tls: TlsRequest,
    /// What one request is, for `tcp://`.
    pub tcp: TcpRequest,
    /// What is sent, for `udp://`.
    pub udp: UdpRequest,
    /// Addresses that clients come from; `None`: the kernel's choice.
    pub sources: Option<Sources>,
    /// An answer that takes longer counts as delayed.
    pub delayed_after: Duration,
    /// Generator threads, at least one.
    pub threads: usize,
    /// Core of the first thread; the others get the cores after it. `None`: not pinned.
    pub cpu: Option<usize>,
    /// Runtime engine.
    pub engine: EngineKind,
}

impl Config {
    /// A closed loop over 64 connections for ten seconds, on one thread.
    pub fn new(url: Url, engine: EngineKind) -> Self {
        Self {
            url,
            mode: LoadMode::Closed,
            connections: 64,
            duration: Duration::from_secs(10),
            warm_up: Duration::ZERO,
            timeout: Duration::from_secs(10),
            new_connections: false,
            requests_per_connection: None,
            ramp_up: Duration::ZERO,
            idle: 0,
            http: HttpRequest::default(),
            http2: false,
            streams: 1,
            grpc: None,
            mix: None,
            replay: None,
            tls: TlsRequest::default(),
            tcp: TcpRequest::default(),
            udp: UdpRequest::default(),
            sources: None,
            delayed_after: DELAYED_AFTER,
            threads: 1,
            cpu: None,
            engine,
        }
    }
}

impl Config {
    /// Whether requests share connections by HTTP/2.
    pub fn is_http2(&self) -> bool {
        self.http2 || self.url.scheme == Scheme::H2c
    }

    /// The method of its requests.
    pub fn method(&self) -> &str {
        if self.grpc.is_some() {
            "POST"
        } else {
            &self.http.method
        }
    }
}

/// A gRPC call: so many messages, each of which comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grpc {
    /// Messages of a call: 1 for a unary one, or more to be streamed both ways.
    pub messages: usize,
    /// Bytes of each.
    pub message: usize,
}

impl Grpc {
    /// The messages, each after its flag and length.
    pub(super) fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for number in 0..self.messages {
            body.push(0);
            body.extend_from_slice(&(self.message as u32).to_be_bytes());
            body.resize(body.len() + self.message, number as u8);
        }
        body
    }
}

/// One HTTP request, the same each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// Method, as in RFC 9110 §9.
    pub method: String,
    /// Headers besides Host, Content-Length and Connection; a Host here replaces the URL's.
    pub headers: Vec<(String, String)>,
    /// Bytes of body; with 0 there is none.
    pub body: usize,
    /// Each answer's body has to be the one that the origin it names sends (`loadgen origin`).
    pub verify: bool,
}

impl Default for HttpRequest {
    /// GET without further headers.
    fn default() -> Self {
        Self {
            method: "GET".into(),
            headers: Vec::new(),
            body: 0,
            verify: false,
        }
    }
}

/// One request over TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpRequest {
    /// What the server does, and so what its answer has to be.
    pub mode: TcpMode,
    /// Bytes of an echo message, at least 1.
    pub message: usize,
    /// Ask each new connection for its origin's name.
    pub who: bool,
}

impl Default for TcpRequest {
    /// Echo of 64 bytes.
    fn default() -> Self {
        Self {
            mode: TcpMode::Echo,
            message: 64,
            who: false,
        }
    }
}

/// What is sent over UDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpRequest {
    /// Bytes of a datagram, from [`udp::HEADER_BYTES`] to [`udp::DATAGRAM_BYTES_MAX`].
    pub message: usize,
    /// A stream that a sink counts, rather than echoes.
    pub one_way: bool,
    /// Closed loop: datagrams of a flow that may be under way; at least 1, one-way at least 2.
    pub window: usize,
    /// Datagrams handed to the kernel at a time (UDP_SEGMENT), at least 1.
    pub gso: usize,
}

impl UdpRequest {
    /// Datagrams of a one-way flow that may be under way unless said otherwise.
    pub const ONE_WAY_WINDOW: usize = 16;
}

impl Default for UdpRequest {
    /// Echo of 64 bytes, one at a time.
    fn default() -> Self {
        Self {
            message: 64,
            one_way: false,
            window: 1,
            gso: 1,
        }
    }
}

/// Where to send requests: `http://HOST[:PORT][/PATH]`, `https://…`, `h2c://…`, `ws://…`,
/// `wss://…`, `tcp://HOST:PORT` or `udp://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// The whole, as written.
    pub text: String,
    /// What is spoken there.
    pub scheme: Scheme,
    /// Host and, unless left out, port: the Host header.
    pub authority: String,
    /// Path and query, beginning with `/`; empty for `tcp://` and `udp://`.
    pub path: String,
}

/// What is spoken at a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP/1.1 without TLS.
    Http,
    /// HTTP/2 without TLS, by prior knowledge (RFC 9113 §3.3).
    H2c,
    /// HTTP/1.1 or, with [`Config::http2`], HTTP/2 over TLS.
    Https,
    /// Bytes, as [`TcpRequest`] says.
    Tcp,
    /// Datagrams, as [`UdpRequest`] says.
    Udp,
    /// Messages of a WebSocket, as [`TcpRequest::message`] says, each echoed.
    Ws,
    /// The same over TLS.
    Wss,
}

impl Scheme {
    /// How a URL of it begins.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Http => "http://",
            Self::H2c => "h2c://",
            Self::Https => "https://",
            Self::Tcp => "tcp://",
            Self::Udp => "udp://",
            Self::Ws => "ws://",
            Self::Wss => "wss://",
        }
    }

    /// Whether requests of it have a path and headers.
    pub const fn is_http(self) -> bool {
        !matches!(self, Self::Tcp | Self::Udp)
    }

    /// Whether its connections begin with a handshake.
    pub const fn is_secure(self) -> bool {
        matches!(self, Self::Https | Self::Wss)
    }
}

impl Url {
    /// The authority without its port.
    pub fn host(&self) -> &str {
        match self.authority.rsplit_once(':') {
            Some((host, port)) if is_port(port) => host,
            _ => &self.authority,
        }
    }

    /// Looks the host up; the first of its addresses.
    ///
    /// # Errors
    /// When it has none.
    pub fn resolve(&self) -> io::Result<SocketAddr> {
        let has_port = self.authority.rsplit(':').next().is_some_and(is_port);
        let addresses = if has_port {
            self.authority.to_socket_addrs()
        } else {
            let port = if self.scheme.is_secure() { 443 } else { 80 };
            format!("{}:{port}", self.authority).to_socket_addrs()
        };
        addresses?
            .next()
            .ok_or_else(|| io::Error::other("the host has no address"))
    }
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "write for example http://127.0.0.1:8080/, tcp://127.0.0.1:9000 or \
                       udp://127.0.0.1:9000";
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| format!("`{text}` is no URL; {example}"))?;
        let (name, scheme) = (
            scheme,
            match scheme {
                "http" => Scheme::Http,
                "h2c" => Scheme::H2c,
                "https" => Scheme::Https,
                "ws" => Scheme::Ws,
                "wss" => Scheme::Wss,
                "tcp" => Scheme::Tcp,
                "udp" => Scheme::Udp,
                _ => return Err(format!("`{scheme}://` is not supported; {example}")),
            },
        );
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.is_empty() || authority.contains(['@', ' ']) || path.contains([' ', '#']) {
            return Err(format!("`{text}` is no URL; {example}"));
        }
        let port = authority
            .rsplit_once(':')
            .filter(|(_, port)| !port.ends_with(']'));
        if port.is_some_and(|(_, port)| !is_port(port)) {
            return Err(format!(
                "`{text}` has no port between 1 and 65535; {example}"
            ));
        }
        let path = match (scheme, path) {
            (_, path) if scheme.is_http() && path.starts_with('/') => path.to_owned(),
            (_, path) if scheme.is_http() => format!("/{path}"),
            (_, "" | "/") => String::new(),
            _ => return Err(format!("`{text}`: a {name}:// URL has no path")),
        };
        if !scheme.is_http() && port.is_none() {
            return Err(format!("`{text}` needs a port; {example}"));
        }
        Ok(Self {
            text: text.to_owned(),
            scheme,
            authority: authority.to_owned(),
            path,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn a_url_is_split_into_what_a_request_needs() {
        let url = parse("http://shop.example:8080/cart?x=1");
        assert_eq!(
            (url.scheme, url.authority.as_str()),
            (Scheme::Http, "shop.example:8080")
        );
        assert_eq!(url.path, "/cart?x=1");
        assert_eq!(parse("http://shop.example").path, "/");
        assert_eq!(parse("http://shop.example?x=1").path, "/?x=1");
        assert_eq!(parse("tcp://[::1]:9000").authority, "[::1]:9000");
        assert_eq!(parse("https://[::1]:9000").host(), "[::1]");
        assert_eq!(parse("https://shop.example").host(), "shop.example");
    }

    #[test]
    fn addresses_resolve_with_and_without_a_port() {
        let address = |text: &str| parse(text).resolve().unwrap().to_string();
        assert_eq!(address("http://127.0.0.1/"), "127.0.0.1:80");
        assert_eq!(address("http://[::1]/"), "[::1]:80");
        assert_eq!(address("https://[::1]/"), "[::1]:443");
        assert_eq!(address("tcp://[::1]:9000"), "[::1]:9000");
    }

    #[test]
    fn what_is_no_url_is_refused_with_an_example() {
        for bad in [
            "127.0.0.1:80",
            "ftp://a/",
            "http://",
            "http:///x",
            "http://a:b/",
            "http://a:99999/",
            "http://user@a/",
            "http://a/x y",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:1/path",
            "udp://127.0.0.1",
            "udp://127.0.0.1:1/path",
        ] {
            let error = bad.parse::<Url>().unwrap_err();
            assert!(
                error.contains(bad) || error.contains("not supported"),
                "{error}"
            );
        }
    }
}

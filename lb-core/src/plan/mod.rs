//! The plan: what to run, complete and valid. Sources (flags, YAML, later Kubernetes objects)
//! compile into it; nothing below it reads user input.
//!
//! Invariant: names are resolved. Every cluster that a listener or route mentions exists in
//! `clusters`, every address is a socket address; `Plan::validate` checks it.
//! Read next: `validate.rs` and `cluster_rules.rs` (what a valid plan is), `balance/mod.rs` (a cluster at work),
//! `snapshot.rs` (how it reaches the workers).

mod affinity;
mod balance;
mod cluster;
mod cluster_rules;
mod edge;
mod exchange;
mod exchange_rules;
mod health;
mod http;
mod http2;
mod http_rules;
mod log;
mod tcp;
mod tls;
mod tls_rules;
mod udp;
mod validate;
mod validate_listener;

use std::net::SocketAddr;
use std::sync::Arc;

pub use affinity::{Affinity, CookieAffinity, CookieKey, CookieMode, SameSite, Secure};
pub use balance::{Balance, HashKey, UnknownBalance};
pub use cluster::{Backend, Cluster, Condition, Outlier, Tier};
pub use edge::{Access, ConnectionLimits, Edge, KeepAlive, ListenSocket, ProxyIn, Rate, TcpSocket};
pub use exchange::{ClusterExchanges, Exchanges, RetryBudget};
pub use health::{
    Check, GrpcCheck, Health, HttpCheck, MalformedStatusRange, StatusRange, TlsCheck, UdpCheck,
    Verify,
};
pub use http::{
    Forwarded, HostMatching, Http, HttpLimits, HttpTimeouts, Matching, PathForm, PathMatch,
    Redirect, RequestId, Rewrite, Route, RouteAction, Scheme,
};
pub use http_rules::{PATTERN_BYTES_MAX, PATTERN_PROGRAM_BYTES_MAX, parse_pattern};
pub use http2::{BackendProtocol, Http2};
pub use log::{AccessLog, ListenerLog, LogFormat, LogTarget};
pub use tcp::{
    BackendLimit, BackendSocket, Otherwise, ProxyOut, ProxyVersion, Relay, ServerName, ServerNames,
    Source, Tcp,
};
pub use tls::{
    BackendTls, Certificate, ClientAuth, KeyForm, PrivateKey, TicketKey, TlsGroup, TlsServer,
    TlsSuite, TlsVersion, UnknownNames, UnknownTlsWord,
};
pub use udp::Udp;
pub use validate::{BACKENDS_MAX, Place, PlanError, TIMEOUT_MAX, TRIES_LIMIT};

/// Everything that the workers are to serve.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Addresses to accept on. Names are unique, and so are addresses, but that UDP has its own.
    pub listeners: Vec<Arc<Listener>>,
    /// Named sets of backends. Names are unique. Shared, as the listeners are, with
    /// the plan before where nothing has changed: what is the same by address is not looked at again.
    pub clusters: Vec<Arc<Cluster>>,
    /// Seed of the hash tables; nodes that share it agree on every choice.
    pub hash_seed: u64,
    /// What affinity cookies are keyed with; nodes that share it accept each other's. `None`
    /// leaves it to a random key that lasts as long as the process.
    pub cookie_key: Option<CookieKey>,
}

/// One address to accept on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Name in logs and metrics; from the user, or made from the address.
    pub name: String,
    /// Address to bind.
    pub address: SocketAddr,
    /// What is asked of connections before they are served.
    pub edge: Edge,
    /// Whether and how what it serves is logged.
    pub access_log: ListenerLog,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// What a listener does with a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, routed by host and path.
    Http(Http),
    /// Bytes relayed to one cluster.
    Tcp(Tcp),
    /// Datagrams relayed to one cluster.
    Udp(Udp),
}

/// The settings of an HTTP listener; by default without a route.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Http {
    /// Routes; the most specific match wins whatever their order.
    pub routes: Vec<Route>,
    /// Where a request goes that no route matches; `None` answers 404.
    pub default_cluster: Option<String>,
    /// Limits on what a client may send.
    pub limits: HttpLimits,
    /// Deadlines.
    pub timeouts: HttpTimeouts,
    /// What is done with X-Forwarded-* headers.
    pub forwarded: Forwarded,
    /// HTTP/2 with clients.
    pub http2: Http2,
}

/// One routing rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Host in lower case without port: exact (`shop.example`), one wildcard label
    /// (`*.example`), or `None` for any.
    pub host: Option<String>,
    /// Path prefix, matched element by element: `/a` matches `/a` and `/a/b`, not `/ab`.
    pub path_prefix: String,
    /// Name of the cluster.
    pub cluster: String,
}

/// Limits on what an HTTP client may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Longest request head in bytes; more is answered 431 (414 if the request line alone is
    /// longer). From [`Self::HEAD_BYTES_LEAST`] to [`Self::HEAD_BYTES_LIMIT`].
    pub head_bytes_max: u32,
    /// Largest number of header fields in a head; more is answered 431. At least 1, at most
    /// [`Self::HEADERS_LIMIT`].
    pub headers_max: u16,
    /// Largest request body in bytes, `None` for no limit; more is answered 413.
    pub body_bytes_max: Option<u64>,
    /// Requests on one client connection before it is closed, at least 1; `None` for no limit.
    pub requests_per_connection_max: Option<u32>,
}

impl HttpLimits {
    /// One receive buffer (16 KiB) less 1 KiB, the room to add fields of our own.
    pub const HEAD_BYTES_LIMIT: u32 = 15 * 1024;
    /// All that there is room for: cookies grow, and the buffer is held only while a head is
    /// incomplete.
    pub const HEAD_BYTES_DEFAULT: u32 = Self::HEAD_BYTES_LIMIT;
    /// What the shortest useful browser request needs; less is surely a slip.
    pub const HEAD_BYTES_LEAST: u32 = 256;
    /// As HAProxy and Apache.
    pub const HEADERS_DEFAULT: u16 = 100;
    /// Bounds the table on the stack in which a head is parsed.
    pub const HEADERS_LIMIT: u16 = 256;
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            head_bytes_max: Self::HEAD_BYTES_DEFAULT,
            headers_max: Self::HEADERS_DEFAULT,
            body_bytes_max: None,
            requests_per_connection_max: None,
        }
    }
}

/// Deadlines of an HTTP listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpTimeouts {
    /// From the first byte of a request head to its last; 408 after it.
    pub request_head: Duration,
    /// Idle time between two requests of a connection before it is closed.
    pub keep_alive: Duration,
    /// Between two reads of a body, or while a peer takes nothing.
    pub body_idle: Duration,
    /// From the request's last byte sent to the response head; 504 after it.
    pub response_head: Duration,
}

impl HttpTimeouts {
    /// Ample for a slow phone, short for a connection that trickles bytes to hold a slot.
    pub const REQUEST_HEAD_DEFAULT: Duration = Duration::from_secs(15);
    /// As nginx. Longer than the 60 s of the cloud balancers that stand in front of us, which
    /// would otherwise reuse a connection while we close it.
    pub const KEEP_ALIVE_DEFAULT: Duration = Duration::from_secs(75);
    /// As nginx's client_body_timeout and send_timeout.
    pub const BODY_IDLE_DEFAULT: Duration = Duration::from_secs(60);
    /// As nginx's proxy_read_timeout.
    pub const RESPONSE_HEAD_DEFAULT: Duration = Duration::from_secs(60);
}

impl Default for HttpTimeouts {
    fn default() -> Self {
        Self {
            request_head: Self::REQUEST_HEAD_DEFAULT,
            keep_alive: Self::KEEP_ALIVE_DEFAULT,
            body_idle: Self::BODY_IDLE_DEFAULT,
            response_head: Self::RESPONSE_HEAD_DEFAULT,
        }
    }
}

/// What is done with X-Forwarded-For, -Proto and -Host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Forwarded {
    /// The client's address is appended to what the request carries.
    #[default]
    Append,
    /// Nothing is added or removed.
    Off,
    /// What the request carries is discarded first: for an edge that trusts no client.
    Replace,
}

//! The plan: what to run, complete and valid. Sources (flags, YAML, later Kubernetes objects)
//! compile into it; nothing below it reads user input.
//!
//! Invariant: names are resolved. Every cluster that a listener or route mentions exists in
//! `clusters`, every address is a socket address; `Plan::validate` checks it.
//! Read next: `balance/mod.rs` (a cluster at work), `snapshot.rs` (how it reaches the workers).

use std::net::SocketAddr;
use std::time::Duration;

/// Most backends that one session or exchange may try; the bound of [`Cluster::tries_max`].
pub const TRIES_LIMIT: u8 = 8;

/// Most backends of a cluster. A quarter of what the 16-bit tables could name.
pub const BACKENDS_MAX: usize = 16_384;

/// Everything that the workers are to serve.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Addresses to accept on. Names and addresses are unique.
    pub listeners: Vec<Listener>,
    /// Named sets of backends. Names are unique.
    pub clusters: Vec<Cluster>,
    /// Seed of the hash tables; nodes that share it agree on every choice.
    pub hash_seed: u64,
}

/// One address to accept on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Name in logs and metrics; from the user, or made from the address.
    pub name: String,
    /// Address to bind.
    pub address: SocketAddr,
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
}

/// The settings of a TCP listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    /// Name of the cluster.
    pub cluster: String,
    /// A session that moves no byte in either direction for this long is closed.
    pub idle_timeout: Duration,
}

/// The settings of an HTTP listener.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// longer). At most 16,384 less 1,024.
    pub head_bytes_max: u32,
    /// Largest number of header fields in a head; more is answered 431.
    pub headers_max: u16,
    /// Largest request body in bytes, `None` for no limit; more is answered 413.
    pub body_bytes_max: Option<u64>,
    /// Requests on one client connection before it is closed; `None` for no limit.
    pub requests_per_connection_max: Option<u32>,
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

/// A named set of backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Name in logs and metrics.
    pub name: String,
    /// The backends, in the order given.
    pub backends: Vec<Backend>,
    /// How one of them is chosen.
    pub balance: Balance,
    /// Active health checks.
    pub health: Option<Health>,
    /// Deadline for one connection attempt; after it, the next backend is tried.
    pub connect_timeout: Duration,
    /// Number of backends tried for one connection or request, at least 1.
    pub tries_max: u8,
    /// Idle HTTP connections that each worker keeps to each backend.
    pub pool_idle_max: u16,
    /// How long an idle HTTP connection to a backend is kept.
    pub pool_idle_timeout: Duration,
}

/// One address to send to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    /// As the user wrote it; in logs, metrics and as label.
    pub name: String,
    /// Share of the load relative to the others; 0 takes no new load.
    pub weight: u16,
}

/// A scheduler, by its IPVS name where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// Maglev hashing of the client's address.
    Maglev,
    /// Each in turn, weighted.
    #[default]
    RoundRobin,
}

/// Active health checks of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What a check does.
    pub check: Check,
    /// Time between two checks of one backend; each is jittered by up to a tenth.
    pub interval: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// Successes in a row that make an unhealthy backend healthy.
    pub rise: u8,
    /// Failures in a row that make a healthy backend unhealthy.
    pub fall: u8,
}

/// What a health check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// A TCP connection is established and closed.
    Tcp,
}

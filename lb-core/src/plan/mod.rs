//! The plan: what to run, complete and valid. Sources (flags, YAML, later Kubernetes objects)
//! compile into it; nothing below it reads user input.
//!
//! Invariant: names are resolved. Every cluster that a listener or route mentions exists in
//! `clusters`, every address is a socket address; `Plan::validate` checks it.
//! Read next: `validate.rs` (what a valid plan is), `balance/mod.rs` (a cluster at work),
//! `snapshot.rs` (how it reaches the workers).

mod validate;

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

pub use validate::{BACKENDS_MAX, Place, PlanError, TIMEOUT_MAX, TRIES_LIMIT};

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

impl Tcp {
    /// Longer than a database's connection pool leaves a connection idle, shorter than forever:
    /// a peer that vanished without a word must not hold a session for good.
    pub const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_hours(1);

    /// Relays to `cluster`, with defaults otherwise.
    pub fn to(cluster: impl Into<String>) -> Self {
        Self {
            cluster: cluster.into(),
            idle_timeout: Self::IDLE_TIMEOUT_DEFAULT,
        }
    }
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

/// A named set of backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Name in logs and metrics.
    pub name: String,
    /// The backends, in the order given; their addresses are unique, at most [`BACKENDS_MAX`].
    /// None is valid: a set that is empty for now, whose sessions are reset and whose requests
    /// are answered 503.
    pub backends: Vec<Backend>,
    /// How one of them is chosen.
    pub balance: Balance,
    /// Active health checks.
    pub health: Option<Health>,
    /// Deadline for one connection attempt; after it, the next backend is tried.
    pub connect_timeout: Duration,
    /// Number of backends tried for one connection or request, 1 to [`TRIES_LIMIT`].
    pub tries_max: u8,
    /// Idle HTTP connections that each worker keeps to each backend.
    pub pool_idle_max: u16,
    /// How long an idle HTTP connection to a backend is kept.
    pub pool_idle_timeout: Duration,
}

impl Cluster {
    /// A backend in reach answers in milliseconds; this allows for the second and the third
    /// SYN (after 1 s and 3 s) should the first be lost.
    pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
    /// As ingress-nginx.
    pub const TRIES_DEFAULT: u8 = 3;
    /// Covers what one worker keeps busy at 10,000 requests a second and 5 ms each.
    pub const POOL_IDLE_DEFAULT: u16 = 64;
    /// Half of nginx's: backends should keep theirs longer than we do, or a connection is closed
    /// under a request that reuses it.
    pub const POOL_IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

    /// A cluster of `backends` with defaults otherwise.
    pub fn new(name: impl Into<String>, backends: Vec<Backend>) -> Self {
        Self {
            name: name.into(),
            backends,
            balance: Balance::default(),
            health: None,
            connect_timeout: Self::CONNECT_TIMEOUT_DEFAULT,
            tries_max: Self::TRIES_DEFAULT,
            pool_idle_max: Self::POOL_IDLE_DEFAULT,
            pool_idle_timeout: Self::POOL_IDLE_TIMEOUT_DEFAULT,
        }
    }
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

impl Backend {
    /// What a backend weighs when nothing is said.
    pub const WEIGHT_DEFAULT: u16 = 1;
}

impl From<SocketAddr> for Backend {
    /// Named after its address.
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            name: address.to_string(),
            weight: Self::WEIGHT_DEFAULT,
        }
    }
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

impl Balance {
    /// Every scheduler with its name.
    pub const NAMES: [(&str, Self); 2] = [("mh", Self::Maglev), ("rr", Self::RoundRobin)];
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Maglev => "mh",
            Self::RoundRobin => "rr",
        })
    }
}

impl FromStr for Balance {
    type Err = UnknownBalance;

    fn from_str(name: &str) -> Result<Self, UnknownBalance> {
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known
            .map(|&(_, balance)| balance)
            .ok_or_else(|| UnknownBalance {
                name: name.to_owned(),
            })
    }
}

/// A name that no scheduler has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no scheduler is called {name:?}; valid names: {}", Balance::NAMES.map(|(name, _)| name).join(", "))]
pub struct UnknownBalance {
    /// The name given.
    pub name: String,
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

impl Default for Health {
    /// As HAProxy: a dead backend is found within 6 s and trusted again within 4 s.
    fn default() -> Self {
        Self {
            check: Check::Tcp,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }
    }
}

/// What a health check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// A TCP connection is established and closed.
    Tcp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheduler_is_found_by_the_name_it_shows() {
        for (name, balance) in Balance::NAMES {
            assert_eq!(name.parse(), Ok(balance));
            assert_eq!(balance.to_string(), name);
        }
    }

    #[test]
    fn an_unknown_scheduler_is_refused_with_the_valid_names() {
        let error = "RR".parse::<Balance>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "no scheduler is called \"RR\"; valid names: mh, rr"
        );
    }
}

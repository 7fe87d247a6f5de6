//! A cluster as planned: its backends, how they are checked, chosen and connected to.
//!
//! Invariant: `cluster_rules.rs` has the ranges, and what cannot be combined.
//! Read next: `balance.rs` (schedulers), `affinity.rs`, `../balance/mod.rs` (a cluster at work).

use std::net::SocketAddr;
use std::time::Duration;

use super::{Affinity, BackendProtocol, BackendTls, Balance, ClusterExchanges, HashKey, Health};

/// A named set of backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Name in logs and metrics.
    pub name: String,
    /// The backends, in the order given; their addresses are unique, at most [`BACKENDS_MAX`]. Not
    /// all have weight 0.
    ///
    /// None is valid: a set that is empty for now (a Kubernetes Service without endpoints), whose
    /// sessions are reset and whose requests are answered 503.
    ///
    /// [`BACKENDS_MAX`]: super::BACKENDS_MAX
    pub backends: Vec<Backend>,
    /// How one of them is chosen.
    pub balance: Balance,
    /// What a hashing scheduler hashes; `None` is what [`HashKey::of`] says of the scheduler.
    pub hash_key: Option<HashKey>,
    /// `dh`, `mh`, `ring` and `sh` pass over a backend that would have more in flight than this
    /// share of the mean load, in percent, more than 100. See [`Cluster::BOUNDED_LOAD_DEFAULT`].
    pub bounded_load: Option<u16>,
    /// What makes later connections or requests of a client go where its first one went.
    pub affinity: Option<Affinity>,
    /// How long the share of a backend grows, from a tenth to all of its weight, after it was
    /// added or became healthy; see [`Balance::can_start_slowly`].
    pub slow_start: Option<Duration>,
    /// Health is ignored while fewer than this share of the tier in use is healthy, in percent, 0
    /// to 100; 0 ignores it only while no backend of any tier is.
    pub panic_threshold: u8,
    /// When failing sessions and exchanges make a backend be left out for a time.
    pub outlier: Option<Outlier>,
    /// Active health checks.
    pub health: Option<Health>,
    /// Deadline for one connection attempt; after it, the next backend is tried.
    pub connect_timeout: Duration,
    /// Number of backends tried for one connection or request, 1 to [`TRIES_LIMIT`](super::TRIES_LIMIT).
    pub tries_max: u8,
    /// Idle HTTP connections that each worker keeps to each backend.
    pub pool_idle_max: u16,
    /// How long an idle HTTP connection to a backend is kept.
    pub pool_idle_timeout: Duration,
    /// How HTTP exchanges reach the backends.
    pub exchanges: ClusterExchanges,
    /// How HTTP connections to backends are encrypted; `None`: they are not.
    pub tls: Option<BackendTls>,
    /// The version of HTTP that its backends are spoken to in.
    pub protocol: BackendProtocol,
}

impl Cluster {
    /// A backend in reach answers in milliseconds; this allows for the second and the third
    /// SYN (after 1 s and 3 s) should the first be lost.
    pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
    /// As ingress-nginx.
    pub const TRIES_DEFAULT: u8 = 3;
    /// Covers what one worker keeps busy at 50,000 requests a second and 5 ms each. Fewer are used
    /// up by clients of HTTP/2, whose requests come many at a time: with 64, most connections were
    /// closed after one request at 256 in flight.
    pub const POOL_IDLE_DEFAULT: u16 = 256;
    /// Half of nginx's: backends should keep theirs longer than we do, or a connection is closed
    /// under a request that reuses it.
    pub const POOL_IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

    /// A bounded load that keeps backends within a quarter of the mean, and moves few keys.
    pub const BOUNDED_LOAD_DEFAULT: u16 = 125;

    /// A cluster of `backends` with defaults otherwise.
    pub fn new(name: impl Into<String>, backends: Vec<Backend>) -> Self {
        Self {
            name: name.into(),
            backends,
            balance: Balance::default(),
            hash_key: None,
            bounded_load: None,
            affinity: None,
            slow_start: None,
            panic_threshold: 0,
            outlier: None,
            health: None,
            connect_timeout: Self::CONNECT_TIMEOUT_DEFAULT,
            tries_max: Self::TRIES_DEFAULT,
            pool_idle_max: Self::POOL_IDLE_DEFAULT,
            pool_idle_timeout: Self::POOL_IDLE_TIMEOUT_DEFAULT,
            exchanges: ClusterExchanges::default(),
            tls: None,
            protocol: BackendProtocol::default(),
        }
    }
}

/// One address to send to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Backend {
    /// Where it listens; a Unix socket by the address that stands for it, see
    /// [`unix_address`](crate::rt::unix_address).
    pub address: SocketAddr,
    /// As the user wrote it; in logs, metrics and as label.
    pub name: String,
    /// Share of the load relative to the others; 0 is [`Condition::Draining`].
    pub weight: u16,
    /// Whether it is used from the start, or when the others are gone.
    pub tier: Tier,
    /// Whether its source says that it takes load.
    pub condition: Condition,
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
            name: crate::rt::shown(address).to_string(),
            weight: Self::WEIGHT_DEFAULT,
            tier: Tier::default(),
            condition: Condition::default(),
        }
    }
}

/// When a backend of a cluster is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Tier {
    /// From the start.
    #[default]
    Primary,
    /// Only while no primary one can be used.
    Backup,
}

/// What the source of a backend says of it, whatever the health checks find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Condition {
    /// Takes load.
    #[default]
    Ready,
    /// About to end and still serving: takes load only while no ready backend is left (KEP-1669).
    Serving,
    /// About to end: takes no new load, not even what affinity holds.
    Terminating,
    /// Takes no new load but that which affinity holds.
    Draining,
}

/// Passive health: which failures of sessions and exchanges eject a backend, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlier {
    /// Failures in a row that eject, at least 1; `None` does not count them.
    pub failures: Option<u16>,
    /// Share of failures within [`Outlier::window`] that ejects, in percent, 1 to 100; `None` does
    /// not look at it.
    pub ratio: Option<u8>,
    /// Number of answers within the window below which the ratio says nothing, at least 1.
    pub requests_least: u16,
    /// Time over which the ratio is taken.
    pub window: Duration,
    /// How long the first ejection lasts; each further one lasts as much longer again, and time
    /// without a failure makes it shorter.
    pub ejection: Duration,
    /// Longest ejection.
    pub ejection_max: Duration,
    /// Largest share of the backends ejected at a time, in percent, 1 to 100; one may always be
    /// when there are two or more.
    pub ejected_max: u8,
}

impl Default for Outlier {
    /// As Envoy: five failures in a row, 30 s up to 5 min; but half of the backends may be ejected,
    /// as small sets are common.
    fn default() -> Self {
        Self {
            failures: Some(5),
            ratio: None,
            requests_least: 20,
            window: Duration::from_secs(10),
            ejection: Duration::from_secs(30),
            ejection_max: Duration::from_mins(5),
            ejected_max: 50,
        }
    }
}

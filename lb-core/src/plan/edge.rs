//! What a listener asks of a connection before it is served, and of its own socket.
//!
//! Invariant: the default asks nothing, and costs a connection nothing.
//! Read next: `tcp.rs` (TCP listeners), `lb_l4::limits` (the rules at work).

use std::time::Duration;

use crate::prefixes::Prefix;

/// The rules of a listener for its connections.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Edge {
    /// Connections begin with a PROXY protocol header; `None`: they do not.
    pub proxy_in: Option<ProxyIn>,
    /// Which clients may connect.
    pub access: Access,
    /// How many.
    pub limits: ConnectionLimits,
    /// Settings of the listening socket, and by inheritance of the client connections.
    pub socket: ListenSocket,
}

/// How PROXY protocol headers are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyIn {
    /// Who may say on whose behalf a connection is; connections from elsewhere are refused. At
    /// least one.
    pub trusted: Vec<Prefix>,
    /// How long a header may take.
    pub timeout: Duration,
}

impl ProxyIn {
    /// A proxy sends it at once; this allows for the second SYN, after a second, and one lost
    /// segment. "At least 3 seconds to cover a TCP retransmit" (proxy-protocol.txt, section 2).
    pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
}

/// Lists of clients. The longest prefix that a client is in decides; a client in none may connect
/// unless there is something in `allow`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// May connect.
    pub allow: Vec<Prefix>,
    /// May not.
    pub deny: Vec<Prefix>,
}

/// How many connections a listener takes. What is above is reset at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionLimits {
    /// Open at a time, over all workers, at least 1.
    pub connections_max: Option<u32>,
    /// Open at a time from one IPv4 address or IPv6 /64, at least 1 and at most
    /// [`Self::PER_SOURCE_LIMIT`].
    pub per_source_max: Option<u32>,
    /// New ones.
    pub rate: Option<Rate>,
}

impl ConnectionLimits {
    /// Largest limit for one source.
    pub const PER_SOURCE_LIMIT: u32 = (1 << 20) - 1;
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In the long run, 1 to [`Self::PER_SECOND_LIMIT`].
    pub per_second: u32,
    /// At once after a pause, at least 1.
    pub burst: u32,
}

impl Rate {
    /// One each microsecond.
    pub const PER_SECOND_LIMIT: u32 = 1_000_000;
}

/// Settings of a listening socket. `None` leaves the kernel's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ListenSocket {
    /// Connections that may wait to be accepted, on each worker's socket; the kernel cuts it to
    /// net.core.somaxconn.
    pub backlog: u32,
    /// TCP_DEFER_ACCEPT: a connection is accepted when its first bytes are there, or after this
    /// time (in whole seconds, at least one).
    pub defer_accept: Option<Duration>,
    /// TCP_FASTOPEN: connections whose SYN brought bytes that may wait (RFC 7413).
    pub fast_open: Option<u32>,
    /// IPV6_V6ONLY: `[::]` takes no IPv4 clients.
    pub v6_only: bool,
    /// Whatever comes is dropped by the kernel, without a word to who sent it: as kube-proxy has it
    /// for a Service that has endpoints, but none that may be used here.
    pub drops_all: bool,
    /// IP_FREEBIND: the address may be none of this machine's (yet): one that a VRRP or BGP daemon
    /// brings.
    pub free_bind: bool,
    /// Permissions of a Unix socket's file; `None` for [`Self::MODE_DEFAULT`].
    pub mode: Option<u32>,
    /// What clients' connections inherit.
    pub tcp: TcpSocket,
}

impl ListenSocket {
    /// For all users, as an address on loopback is.
    pub const MODE_DEFAULT: u32 = 0o666;

    /// Covers a second of 4,000 connections a second while a worker is busy otherwise.
    pub const BACKLOG_DEFAULT: u32 = 4096;
}

impl Default for ListenSocket {
    fn default() -> Self {
        Self {
            backlog: Self::BACKLOG_DEFAULT,
            defer_accept: None,
            fast_open: None,
            v6_only: false,
            drops_all: false,
            free_bind: false,
            mode: None,
            tcp: TcpSocket::default(),
        }
    }
}

/// Settings of a connection's socket. `None` leaves the kernel's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TcpSocket {
    /// SO_KEEPALIVE and its times.
    pub keep_alive: Option<KeepAlive>,
    /// TCP_USER_TIMEOUT: how long sent bytes may wait for their acknowledgement.
    pub user_timeout: Option<Duration>,
    /// TCP_CONGESTION: one of net.ipv4.tcp_available_congestion_control.
    pub congestion: Option<String>,
}

/// When a silent peer is asked whether it is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeepAlive {
    /// TCP_KEEPIDLE: after this silence, in whole seconds, 1 to 32,767.
    pub idle: Duration,
    /// TCP_KEEPINTVL: again after this, in whole seconds, 1 to 32,767.
    pub interval: Duration,
    /// TCP_KEEPCNT: this many times, 1 to 127, before the connection is given up.
    pub count: u8,
}

impl Default for KeepAlive {
    /// A vanished peer is found after a minute and a half.
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(60),
            interval: Duration::from_secs(10),
            count: 3,
        }
    }
}

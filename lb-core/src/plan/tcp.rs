//! What a TCP listener does with its sessions.
//!
//! Invariant: plain data; `Plan::validate` says what is allowed.
//! Read next: `edge.rs` (what every listener may ask of connections).

use std::net::IpAddr;
use std::time::Duration;

use super::TcpSocket;

/// The settings of a TCP listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    /// Name of the cluster; `None` only beside server names, where it is where the others go.
    pub cluster: Option<String>,
    /// A session that moves no byte in either direction for this long is closed.
    pub idle_timeout: Duration,
    /// A session older than this is closed, whatever it is doing.
    pub lifetime: Option<Duration>,
    /// How bytes are moved.
    pub relay: Relay,
    /// Backends are told who the client is.
    pub proxy_out: Option<ProxyOut>,
    /// How many sessions a backend gets.
    pub backend_limit: Option<BackendLimit>,
    /// Settings of the sockets of backend connections.
    pub backend_socket: BackendSocket,
    /// Sessions are TLS, routed by what their ClientHello asks for.
    pub server_names: Option<ServerNames>,
}

impl Tcp {
    /// Longer than a database's connection pool leaves a connection idle, shorter than forever:
    /// a peer that vanished without a word must not hold a session for good.
    pub const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_hours(1);

    /// Relays to `cluster`, with defaults otherwise.
    pub fn to(cluster: impl Into<String>) -> Self {
        Self {
            cluster: Some(cluster.into()),
            ..Self::default()
        }
    }

    /// Names of all clusters that sessions may go to.
    pub fn clusters(&self) -> impl Iterator<Item = &str> {
        let routes = self.server_names.iter().flat_map(|names| &names.routes);
        let routed = routes.map(|route| &*route.cluster);
        self.cluster.as_deref().into_iter().chain(routed)
    }
}

impl Default for Tcp {
    /// Leads nowhere yet.
    fn default() -> Self {
        Self {
            cluster: None,
            idle_timeout: Self::IDLE_TIMEOUT_DEFAULT,
            lifetime: None,
            relay: Relay::default(),
            proxy_out: None,
            backend_limit: None,
            backend_socket: BackendSocket::default(),
            server_names: None,
        }
    }
}

/// How a session's bytes are moved from one socket to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Relay {
    /// `Copy`, and `Splice` for a direction as long as it moves bulk data.
    #[default]
    Auto,
    /// By way of our buffers: the cheapest for small messages.
    Copy,
    /// By `splice(2)`, inside of the kernel: the cheapest for bulk data.
    Splice,
}

impl Relay {
    /// Every way with its name.
    pub const NAMES: [(&str, Self); 3] = [
        ("auto", Self::Auto),
        ("copy", Self::Copy),
        ("splice", Self::Splice),
    ];

    /// Its name on the command line and in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Copy => "copy",
            Self::Splice => "splice",
        }
    }
}

/// How backends are told who the client is, ahead of its bytes (proxy-protocol.txt).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyOut {
    /// The form of the header.
    pub version: ProxyVersion,
    /// With a CRC-32C; version 2 only.
    pub checksum: bool,
}

/// Versions of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary, with the server name and protocol that the client asked for where these are known.
    V2,
}

/// How many sessions a backend gets, and what happens to those above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendLimit {
    /// Sessions and exchanges under way on a backend, of all listeners, up to which it gets more;
    /// at least 1.
    pub connections_max: u32,
    /// Sessions of the listener that may wait for room, the first come first; those above are
    /// refused.
    pub queue_max: u32,
    /// How long a session may wait.
    pub queue_timeout: Duration,
}

impl BackendLimit {
    /// A burst may wait, a crowd may not.
    pub const QUEUE_DEFAULT: u32 = 1024;
    /// As HAProxy's connect timeout is in its examples: longer than clients like to wait.
    pub const QUEUE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
}

/// Settings of the sockets of backend connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct BackendSocket {
    /// As for clients' connections.
    pub tcp: TcpSocket,
    /// Where the connections come from.
    pub source: Source,
    /// IP_LOCAL_PORT_RANGE: the first and the last port that the kernel may choose, within
    /// net.ipv4.ip_local_port_range; Linux 6.3.
    pub ports: Option<(u16, u16)>,
    /// SO_BINDTODEVICE: the network device to go through.
    pub device: Option<String>,
    /// SO_MARK: for routing rules and filters.
    pub mark: Option<u32>,
}

impl BackendSocket {
    /// Longest name of a device (IFNAMSIZ, less the zero).
    pub const DEVICE_BYTES_MAX: usize = 15;
}

/// The source address of backend connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Source {
    /// This address, for backends of its family.
    Address(IpAddr),
    /// As routing has it.
    #[default]
    Any,
    /// The client's (IP_TRANSPARENT), for backends of its family: answers must be routed back
    /// through this machine.
    Client,
}

/// Where TLS sessions go, without being terminated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerNames {
    /// The most specific match wins whatever their order.
    pub routes: Vec<ServerName>,
    /// How long a ClientHello may take.
    pub hello_timeout: Duration,
    /// What a client gets for which there is neither route nor cluster.
    pub otherwise: Otherwise,
}

impl ServerNames {
    /// As long as a PROXY header may take, and for the same reason.
    pub const HELLO_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
}

/// One rule for TLS sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerName {
    /// In lower case: exact, or one wildcard label (`*.example`).
    pub name: String,
    /// Application protocols (RFC 7301) of which the client offers one; empty for any.
    pub protocols: Vec<String>,
    /// Name of the cluster.
    pub cluster: String,
}

/// The answer to a TLS client that leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Otherwise {
    /// A fatal alert: unrecognized_name or no_application_protocol.
    #[default]
    Alert,
    /// A reset.
    Reset,
}

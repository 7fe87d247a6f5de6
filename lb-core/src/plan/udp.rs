//! The settings of a UDP listener.
//!
//! Invariant: `validate.rs` has the ranges; the types leave nothing but them open.
//! Read next: `mod.rs` (the other protocols), `lb_l4::udp` (flows at work).

use std::time::Duration;

use super::ProxyOut;

/// The settings of a UDP listener. A flow is what one client address sends to one of our
/// addresses, and what comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Udp {
    /// Name of the cluster.
    pub cluster: String,
    /// A flow without a datagram in either direction for this long is over.
    pub idle_timeout: Duration,
    /// Datagrams with which a backend answers each one of a client, at least 1: a flow whose
    /// datagrams are all answered is over. `None` leaves it to the idle timeout.
    pub replies: Option<u32>,
    /// Datagrams of a client that one flow takes, at least 1; the next begins another, perhaps on
    /// another backend. `None` for no limit.
    pub requests: Option<u32>,
    /// Most flows of a worker at a time, 1 to [`Self::FLOWS_LIMIT`]; datagrams that would begin
    /// more are dropped.
    pub flows_max: u32,
    /// Most flows of a worker at a time from one source: an IPv4 address, or an IPv6 /64, which is
    /// what one site has. `None` for no limit.
    pub flows_per_source_max: Option<u32>,
    /// Each datagram to a backend begins with a header that says who the client is; version 2.
    pub proxy_out: Option<ProxyOut>,
}

impl Udp {
    /// As Envoy and Cilium. A connection tracker that forgets after 30 s (Linux, one-way) cuts
    /// those who keep alive every 25 s when one such datagram is lost; nginx's 10 minutes hold a
    /// socket that long for each DNS query.
    pub const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_mins(1);
    /// Each flow has a socket with a port of its own, of which Linux gives out 28,231.
    pub const FLOWS_DEFAULT: u32 = 16_384;
    /// More flows than descriptors or ports that a worker can have.
    pub const FLOWS_LIMIT: u32 = 1 << 20;

    /// Relays to `cluster`, with defaults otherwise.
    pub fn to(cluster: impl Into<String>) -> Self {
        Self {
            cluster: cluster.into(),
            idle_timeout: Self::IDLE_TIMEOUT_DEFAULT,
            replies: None,
            requests: None,
            flows_max: Self::FLOWS_DEFAULT,
            flows_per_source_max: None,
            proxy_out: None,
        }
    }
}

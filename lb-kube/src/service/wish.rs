//! What a Service asks for.
//!
//! Invariant: plain data, and all that is made of a Service follows from it.
//! Read next: `read.rs` (how it is read), `claims.rs` (what of it is granted).

use std::net::IpAddr;
use std::time::Duration;

use lb_core::prefixes::Prefix;

use crate::problem::Problem;

/// A Service as it is served.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wish {
    /// Creation in nanoseconds; the oldest wins. What does not say it is the youngest.
    pub(crate) created: i128,
    pub(crate) ports: Vec<WishedPort>,
    /// The first is the primary one.
    pub(crate) families: Vec<Family>,
    /// The name outside that it stands for.
    pub(crate) external_name: Option<String>,
    pub(crate) cluster_ips: Vec<IpAddr>,
    pub(crate) external_ips: Vec<IpAddr>,
    pub(crate) balancer: Option<BalancerWish>,
    pub(crate) external_policy: Policy,
    pub(crate) internal_policy: Policy,
    pub(crate) affinity: Option<Duration>,
    pub(crate) publish_not_ready: bool,
    pub(crate) distribution: Distribution,
    pub(crate) problems: Vec<Problem>,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WishedPort {
    /// Its position in `spec.ports`.
    pub(crate) index: usize,
    /// Its name; empty if it has none.
    pub(crate) name: String,
    pub(crate) number: u16,
    pub(crate) transport: Transport,
    pub(crate) target: TargetPort,
    pub(crate) node_port: NodePortWish,
}

impl WishedPort {
    /// What tells it from the others of its Service.
    pub(crate) fn id(&self) -> String {
        if self.name.is_empty() {
            self.number.to_string()
        } else {
            self.name.clone()
        }
    }

    pub(crate) fn field(&self, field: &str) -> String {
        format!("spec.ports[{}].{field}", self.index)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TargetPort {
    Number(u16),
    Name(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodePortWish {
    None,
    /// Any that is free.
    Any,
    This(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Policy {
    Cluster,
    Local,
    /// It says something else: what it governs is not served.
    Unknown,
}

/// What is asked of a load balancer that is us.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BalancerWish {
    /// The addresses it has, or asks for; none leaves it to the pool.
    pub(crate) fixed: Vec<IpAddr>,
    /// Who may connect; empty is everybody.
    pub(crate) allow: Vec<Prefix>,
    /// Where its health is asked, with `externalTrafficPolicy: Local`.
    pub(crate) health_port: NodePortWish,
}

/// `trafficDistribution`, of which the controller makes hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distribution {
    Anywhere,
    SameNode,
    SameZone,
}

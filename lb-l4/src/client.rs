//! Who a connection is from, as far as we know.
//!
//! Invariant: what a trusted proxy said stands before what the socket shows.
//! Read next: `limits/mod.rs` (who finds out), `tcp/connect.rs` (who passes it on).

use std::net::SocketAddr;

use crate::proxy_protocol::{Origin, Received, Tlvs};

/// A client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its address: what balancing, limits and logs see.
    pub address: SocketAddr,
    /// Boxed, since most sessions have none and all have room for it.
    told: Option<Box<Told>>,
}

/// What a proxy said.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    local: Option<SocketAddr>,
    received: Received,
}

impl Client {
    /// The other end of a connection.
    #[must_use]
    pub const fn peer(address: SocketAddr) -> Self {
        Self {
            address,
            told: None,
        }
    }

    /// As a trusted proxy at the other end said.
    #[must_use]
    pub fn told_by(mut self, received: Received) -> Self {
        let mut local = None;
        if let Origin::Proxied(addresses) = received.origin {
            self.address = canonical(addresses.source);
            local = Some(canonical(addresses.destination));
        }
        self.told = Some(Box::new(Told { local, received }));
        self
    }

    /// The address that it connected to, if a proxy said so; else the socket has it.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.told.as_ref().and_then(|told| told.local)
    }

    /// What else the proxy said.
    #[must_use]
    pub fn tlvs(&self) -> Tlvs<'_> {
        let told = self.told.as_ref();
        told.map(|told| told.received.tlvs()).unwrap_or_default()
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

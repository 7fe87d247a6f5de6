//! What a choice is made from: the client, what of its request is hashed, what was tried.
//!
//! Invariant: borrowed and inline; making a choice allocates nothing.
//! Read next: `mod.rs` (`Cluster::pick`), `lease.rs` (what comes of it).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::plan::TRIES_LIMIT;
use crate::rt::Instant;

/// What a scheduler and affinity may look at.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// The worker that asks.
    pub worker: usize,
    /// The time of the turn.
    pub now: Instant,
    /// The client.
    pub client: SocketAddr,
    /// The address that the client connected to.
    pub local: IpAddr,
    /// [`Cluster::hash_of`](super::Cluster::hash_of) what the cluster's hash key names in the
    /// request; `None` when it has none, or names something of the connection.
    pub hash: Option<u64>,
    /// The same of the affinity header's value.
    pub affinity: Option<u64>,
    /// Value of the affinity cookie, as the client sent it.
    pub cookie: Option<&'a [u8]>,
    /// What was tried for this session or exchange.
    pub tried: &'a Tried,
}

impl<'a> Choice<'a> {
    /// A choice by what is known of the connection only.
    pub const fn new(worker: usize, now: Instant, client: SocketAddr, tried: &'a Tried) -> Self {
        Self {
            worker,
            now,
            client,
            local: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            hash: None,
            affinity: None,
            cookie: None,
            tried,
        }
    }
}

/// The backends that a session or exchange has tried, by
/// [`Backend::index`](super::Backend::index); 18 bytes, inline.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tried {
    indices: [u16; TRIES_LIMIT as usize],
    len: u8,
}

impl Tried {
    /// Remembers one more, up to [`TRIES_LIMIT`] of them.
    pub fn insert(&mut self, index: u16) {
        debug_assert!(
            self.len < TRIES_LIMIT,
            "a valid plan tries no more than TRIES_LIMIT"
        );
        if let Some(place) = self.indices.get_mut(usize::from(self.len)) {
            *place = index;
            self.len += 1;
        }
    }

    /// Whether the backend was tried.
    #[inline]
    pub fn contains(&self, index: u16) -> bool {
        self.indices[..usize::from(self.len)].contains(&index)
    }

    /// Number of backends tried.
    pub fn len(&self) -> u8 {
        self.len
    }

    /// True before the first try.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

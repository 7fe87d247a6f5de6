//! One end of a simulated connection: what has arrived, what is under way to it, what is over.
//!
//! Invariant: both ends exist until both are closed, so that a late segment finds its end.
//! Read next: `network/`, which moves the segments.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::network::Fd;

/// What travels from one end to the other, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Bytes(Box<[u8]>),
    End,
    Reset,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// The other end; none while it connects.
    pub(super) peer: Option<Fd>,
    /// Bytes of this end's sending that may be held by the network and the other end.
    pub(super) window: usize,

    /// Segments on their way to this end, and when the last of them arrives.
    pub(super) flight: VecDeque<Segment>,
    pub(super) last_arrival: u64,
    /// Arrived and not read.
    pub(super) arrived: VecDeque<u8>,
    /// The end of the other side has arrived.
    pub(super) peer_ended: bool,
    /// This end was told that the connection is broken.
    pub(super) reset: bool,

    /// This end has sent its end.
    pub(super) ended: bool,
    /// This end has sent a reset, or the network has in its name: nothing it sends arrives.
    pub(super) broken: bool,
    /// A write found no room.
    pub(super) blocked: bool,
    pub(super) reset_on_close: bool,
    /// Its owner is gone.
    pub(super) closed: bool,
    /// From then on nothing arrives any more.
    pub(super) silent_from: Option<u64>,
}

impl Stream {
    pub(super) const fn new(local: SocketAddr, remote: SocketAddr, window: usize) -> Self {
        Self {
            local,
            remote,
            peer: None,
            window,
            flight: VecDeque::new(),
            last_arrival: 0,
            arrived: VecDeque::new(),
            peer_ended: false,
            reset: false,
            ended: false,
            broken: false,
            blocked: false,
            reset_on_close: false,
            closed: false,
            silent_from: None,
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.peer.is_some() && !self.reset
    }

    /// Bytes that the other end has sent and this end has not read.
    pub(super) fn held(&self) -> usize {
        let bytes = |segment: &Segment| match segment {
            Segment::Bytes(bytes) => bytes.len(),
            Segment::End | Segment::Reset => 0,
        };
        self.arrived.len() + self.flight.iter().map(bytes).sum::<usize>()
    }
}

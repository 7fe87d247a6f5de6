//! UDP in memory: datagrams that get lost, doubled and out of order, by seed.
//!
//! Invariant: a datagram arrives whole or not at all, at a socket that its addresses fit; one that
//! no socket takes comes back to a connected sender as ECONNREFUSED.
//! Read next: `network/` (TCP), `mod.rs` (the engine around both).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;

use super::Sim;
use super::faults::{Faults, Random, Settings, mix};
use crate::rt::UdpOptions;
use crate::rt::socket::{Key, Slots};
use crate::rt::udp::buffer::{Arrival, CAPACITY, Datagrams, HEADROOM, pool};
use crate::rt::udp::socket::Slot;

/// Ports for those who ask for any: Linux's `ip_local_port_range`.
const PORTS: std::ops::Range<u16> = 32_768..60_999;
/// Chance that datagrams sent together travel together, and are received as one.
const TOGETHER_PER_MILLE: u32 = 500;

/// An open socket.
struct End {
    key: Key,
    local: SocketAddr,
    peer: Option<SocketAddr>,
    options: UdpOptions,
}

impl End {
    /// True if a datagram to `to` may come here.
    fn is_at(&self, to: SocketAddr) -> bool {
        let any = match self.local.ip() {
            IpAddr::V4(ip) => ip.is_unspecified() && to.is_ipv4(),
            IpAddr::V6(ip) => ip.is_unspecified() && (to.is_ipv6() || !self.options.v6_only),
        };
        self.local.port() == to.port() && (any || self.local.ip() == to.ip())
    }
}

/// What is under way. Compared by time, then by the order in which it was sent.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    at: u64,
    order: u64,
    from: SocketAddr,
    to: SocketAddr,
    /// The sender, as its port may be another's when the answer comes.
    sender: (u32, u32),
    load: Load,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Load {
    Datagrams { bytes: Box<[u8]>, segment: usize },
    Unreachable,
}

pub(super) struct Post {
    pub(super) faults: Faults,
    random: Random,
    ends: Vec<Option<End>>,
    flights: BinaryHeap<Reverse<Flight>>,
    sent: u64,
    port: u16,
    trace: u64,
}

impl Post {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            faults: settings.faults.clone(),
            // Dice of its own: a datagram changes nothing of a program's TCP.
            random: Random::new(mix(settings.seed ^ 0x6461_7461_6772_616D)),
            ends: Vec::new(),
            flights: BinaryHeap::new(),
            sent: 0,
            port: PORTS.start,
            trace: 0,
        }
    }

    /// When the next datagram arrives.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.flights.peek().map(|Reverse(flight)| flight.at)
    }

    /// A hash of all that has happened so far.
    pub(super) const fn trace(&self) -> u64 {
        self.trace
    }

    /// Open sockets.
    pub(super) fn live(&self) -> usize {
        self.ends.iter().flatten().count()
    }

    fn bind(&mut self, address: SocketAddr, options: &UdpOptions) -> io::Result<SocketAddr> {
        let local = self.with_port(address)?;
        let ends = || self.ends.iter().flatten().filter(|end| end.peer.is_none());
        let taken =
            ends().any(|end| end.is_at(local) && !(end.options.reuse_port && options.reuse_port));
        if taken {
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        Ok(local)
    }

    fn with_port(&mut self, mut address: SocketAddr) -> io::Result<SocketAddr> {
        for _ in PORTS {
            if address.port() != 0 {
                return Ok(address);
            }
            let port = self.port;
            self.port = if port + 1 < PORTS.end {
                port + 1
            } else {
                PORTS.start
            };
            let mut ends = self.ends.iter().flatten();
            if !ends.any(|end| end.local.port() == port) {
                address.set_port(port);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))
    }

    fn insert(&mut self, slots: &mut Slots, end: End) -> Key {
        let place = self.ends.iter().position(Option::is_none);
        let place = place.unwrap_or(self.ends.len());
        let fd = RawFd::try_from(place).expect("fewer sockets than descriptors there are");
        let mut slot = Slot::new(fd, end.local, end.peer);
        slot.segment_max = CAPACITY as u32;
        let key = slots.udp.slots.insert(slot);
        let end = Some(End { key, ..end });
        match self.ends.get_mut(place) {
            Some(vacant) => *vacant = end,
            None => self.ends.push(end),
        }
        key
    }

    fn launch(&mut self, now: u64, key: Key, from: SocketAddr, to: SocketAddr, load: Load) {
        let mut at = now + self.random.nanos(&self.faults.latency);
        if self.random.chance(self.faults.stall_per_mille) {
            at += self.random.nanos(&self.faults.stall);
        }
        self.sent += 1;
        self.flights.push(Reverse(Flight {
            at,
            order: self.sent,
            from,
            to,
            sender: (key.index, key.generation),
            load,
        }));
    }

    /// Sends what travels together, once, twice or not at all.
    fn send(&mut self, now: u64, key: Key, from: SocketAddr, to: SocketAddr, part: (&[u8], usize)) {
        let (bytes, segment) = part;
        let mut copies = u32::from(!self.random.chance(self.faults.loss_per_mille));
        copies += u32::from(self.random.chance(self.faults.duplicate_per_mille));
        for _ in 0..copies {
            let bytes = bytes.into();
            self.launch(now, key, from, to, Load::Datagrams { bytes, segment });
        }
    }

    /// Whose a datagram is: a socket connected to its sender before others; of several that are
    /// bound to one address always the same for one sender.
    fn recipient(&self, from: SocketAddr, to: SocketAddr) -> Option<Key> {
        let fitting = || self.ends.iter().flatten().filter(|end| end.is_at(to));
        if let Some(end) = fitting().find(|end| end.peer == Some(from)) {
            return Some(end.key);
        }
        let exact = fitting().any(|end| end.peer.is_none() && end.local.ip() == to.ip());
        let bound: Vec<_> = fitting()
            .filter(|end| end.peer.is_none() && (!exact || end.local.ip() == to.ip()))
            .collect();
        let hash = mix(u64::from(from.port()));
        let at = hash.checked_rem(bound.len() as u64)?;
        Some(bound[usize::try_from(at).ok()?].key)
    }

    fn note(&mut self, fact: u64) {
        self.trace = mix(self.trace.wrapping_add(fact));
    }

    fn arrive(&mut self, slots: &mut Slots, flight: &Flight) {
        let Flight { at, from, to, .. } = *flight;
        self.note(mix(at) ^ u64::from(from.port()) << 16 ^ u64::from(to.port()));
        let sender = Key {
            index: flight.sender.0,
            generation: flight.sender.1,
        };
        match &flight.load {
            Load::Unreachable => {
                let slot = slots.udp.slots.find(sender);
                if let Some(slot) = slot.filter(|slot| slot.connected == Some(to)) {
                    slot.on_error(libc::ECONNREFUSED);
                }
            }
            Load::Datagrams { bytes, segment } => match self.recipient(from, to) {
                Some(key) => deliver(slots, key, flight, bytes, *segment),
                None => self.launch(at, sender, from, to, Load::Unreachable),
            },
        }
    }
}

fn deliver(slots: &mut Slots, key: Key, flight: &Flight, bytes: &[u8], segment: usize) {
    let Some(number) = pool().acquire() else {
        slots.udp.slots.overflows += 1;
        return;
    };
    pool().room(number)[HEADROOM..][..bytes.len()].copy_from_slice(bytes);
    let arrival = Arrival {
        start: HEADROOM as u32,
        len: bytes.len() as u32,
        segment: segment as u32,
        peer: flight.from,
        local: flight.to.ip(),
    };
    if !slots.udp.slots.get(key).on_received(number, arrival) {
        slots.udp.slots.overflows += 1;
    }
}

impl Sim {
    pub(crate) fn bind_datagrams(
        &mut self,
        slots: &mut Slots,
        address: SocketAddr,
        options: &UdpOptions,
    ) -> io::Result<Key> {
        let local = self.post.bind(address, options)?;
        let end = End {
            key: NOBODY,
            local,
            peer: None,
            options: *options,
        };
        Ok(self.post.insert(slots, end))
    }

    pub(crate) fn connect_datagrams(
        &mut self,
        slots: &mut Slots,
        source: Option<SocketAddr>,
        peer: SocketAddr,
    ) -> io::Result<Key> {
        if self
            .post
            .random
            .chance(self.post.faults.descriptor_per_mille)
        {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let local = source.unwrap_or_else(|| SocketAddr::new(loopback(peer), 0));
        let end = End {
            key: NOBODY,
            local: self.post.with_port(local)?,
            peer: Some(peer),
            options: UdpOptions::default(),
        };
        Ok(self.post.insert(slots, end))
    }

    pub(crate) fn close_datagrams(&mut self, slots: &mut Slots, key: Key) {
        let fd = slots.udp.slots.get(key).fd;
        if let Some(end) = self.post.ends.get_mut(fd as usize) {
            *end = None;
        }
        slots.udp.slots.vacate_if_done(key);
    }

    pub(crate) fn send_datagrams(&mut self, slots: &mut Slots) {
        let now = self.network.now();
        for (key, outgoing) in slots.udp.slots.take_outgoing() {
            let slot = slots.udp.slots.get(key);
            let Some(to) = outgoing.to.or(slot.connected) else {
                continue;
            };
            let ip = match outgoing.from {
                Some(ip) => ip,
                None if slot.is_wildcard => loopback(to),
                None => slot.local.ip(),
            };
            let from = SocketAddr::new(ip, slot.local.port());
            let datagrams: &Datagrams = &outgoing.datagrams;
            if self.post.random.chance(TOGETHER_PER_MILLE) {
                let part = (&datagrams[..], datagrams.segment());
                self.post.send(now, key, from, to, part);
            } else {
                for datagram in datagrams.iter() {
                    let part = (datagram, datagram.len());
                    self.post.send(now, key, from, to, part);
                }
            }
        }
    }

    /// Brings what has arrived by now.
    pub(super) fn bring_datagrams(&mut self, slots: &mut Slots) {
        let now = self.network.now();
        while self.post.next_due().is_some_and(|at| at <= now) {
            if let Some(Reverse(flight)) = self.post.flights.pop() {
                self.post.arrive(slots, &flight);
            }
        }
    }
}

const NOBODY: Key = Key {
    index: u32::MAX,
    generation: 0,
};

const fn loopback(peer: SocketAddr) -> IpAddr {
    match peer {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

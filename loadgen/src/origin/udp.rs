//! A UDP origin: sends echoes back with its name, counts one-way streams and reports on them.
//!
//! A thread of its own for each address, blocked in its receive: it has no time to share.
//! Invariant: what is no datagram of ours is sent back as it came. Sources beyond
//! [`SOURCES_MAX`] make the sink forget all others: memory is bounded whatever clients do.
//! Read next: `../udp/mod.rs` (the conversation), `impairment.rs`.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use super::impairment::{Impairment, Way};
use crate::gate::Gate;
use crate::tcp::SplitMix64;
use crate::udp::{self, Header, Kind, NAME_BYTES_MAX, Tally};

/// How often a thread that receives nothing looks whether it is to end.
const STOP_POLL: Duration = Duration::from_millis(100);

/// Sources that a sink counts at a time.
const SOURCES_MAX: usize = 65_536;

/// One address.
pub(super) struct Udp {
    socket: UdpSocket,
    name: [u8; NAME_BYTES_MAX],
    impairment: Impairment,
    random: SplitMix64,
    /// One that is to come after the next.
    held: Option<(Vec<u8>, SocketAddr)>,
    sources: HashMap<u64, Tally>,
}

impl Udp {
    /// Binds `address`; the name is cut to [`NAME_BYTES_MAX`] bytes.
    pub(super) fn bind(address: SocketAddr) -> io::Result<(UdpSocket, SocketAddr)> {
        let explain =
            |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        let socket = UdpSocket::bind(address).map_err(explain)?;
        socket.set_read_timeout(Some(STOP_POLL))?;
        // Older kernels have no coalescing; then datagrams come one by one.
        let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
        udp::enlarge_buffer(&socket);
        let address = socket.local_addr()?;
        Ok((socket, address))
    }

    pub(super) fn new(socket: UdpSocket, name: &str, impairment: Impairment) -> Self {
        Self {
            socket,
            name: udp::name_field(name),
            impairment,
            random: SplitMix64::new(1),
            held: None,
            sources: HashMap::new(),
        }
    }

    /// Serves until the gate opens.
    pub(super) fn serve(mut self, stop: &Gate) {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        while !stop.is_open() {
            // Errors are those of earlier sends (nobody there any more) and the poll's time limit.
            let Ok((length, client)) = self.socket.recv_from(&mut buffer) else {
                self.release();
                continue;
            };
            let mut rest = &mut buffer[..length];
            while !rest.is_empty() {
                let piece = udp::cut(rest).next().map_or(rest.len(), <[u8]>::len);
                let (datagram, after) = rest.split_at_mut(piece);
                self.pass(datagram, client);
                rest = after;
            }
        }
    }

    /// Takes in a datagram, unless something happens to it.
    fn pass(&mut self, datagram: &mut [u8], client: SocketAddr) {
        match self.impairment.draw(&mut self.random) {
            Way::Lost => return,
            Way::ComesLater if self.held.is_none() => {
                self.held = Some((datagram.to_vec(), client));
                return;
            }
            Way::ComesTwice => self.answer(&mut datagram.to_vec(), client),
            Way::ComesLater | Way::Comes => {}
        }
        self.answer(datagram, client);
        self.release();
    }

    /// Takes in what was held back.
    fn release(&mut self) {
        if let Some((mut datagram, client)) = self.held.take() {
            self.answer(&mut datagram, client);
        }
    }

    fn answer(&mut self, datagram: &mut [u8], client: SocketAddr) {
        // A client that has gone away is nobody's failure.
        let _ = match Header::read(datagram) {
            Some(header) if header.kind == Kind::OneWay => {
                self.count(&header, datagram);
                return;
            }
            Some(header) if header.kind == Kind::OneWayAsking => {
                self.count(&header, datagram);
                let tally = self.sources.entry(header.source).or_default();
                let report = udp::report(&header, tally, &self.name);
                self.socket.send_to(&report, client)
            }
            Some(header) if header.kind == Kind::Echo => {
                udp::sign(datagram, &self.name);
                self.socket.send_to(datagram, client)
            }
            _ => self.socket.send_to(datagram, client),
        };
    }

    /// One that is damaged is not received.
    fn count(&mut self, header: &Header, datagram: &[u8]) {
        if !udp::is_whole(datagram, header) {
            return;
        }
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&header.source) {
            self.sources.clear();
        }
        self.sources
            .entry(header.source)
            .or_default()
            .see(header.sequence);
    }
}

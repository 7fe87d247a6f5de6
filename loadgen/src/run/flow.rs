//! One UDP client: a socket, its place in a sequence, and what it waits for.
//!
//! Invariant: a datagram is answered, lost or given up exactly once. Answers are matched by
//! source and sequence, so one that comes late, twice or to the wrong client is found out.
//! Read next: `udp.rs` (the thread that drives the flows), `../udp/mod.rs` (the conversation).

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use lb_core::rt::Instant;
use nix::sys::socket::{setsockopt, sockopt};

use super::config::UdpRequest;
use super::summary::Datagrams;
use crate::udp::{self, Arrival, Counts, Header, Kind, NAME_BYTES_MAX, Tally};

/// One client.
pub(super) struct Flow {
    socket: UdpSocket,
    source: u64,
    request: UdpRequest,
    /// Sequence number of the next datagram.
    next: u64,
    /// What must still be answered, oldest first. One-way: those that asked for a report.
    waiting: VecDeque<Waiting>,
    /// Echo: the answers.
    tally: Tally,
    /// One-way: the last report.
    counts: Counts,
    /// One-way: the first datagram that no report covers.
    unreported: u64,
    late: u64,
    corrupted: u64,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    sequence: u64,
    due: Instant,
    sent: Instant,
}

/// What came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received<'buffer> {
    /// When the first of what was answered was due.
    pub(super) due: Instant,
    /// Datagrams that this answers: 1 for an echo, any number for a report.
    pub(super) datagrams: u64,
    /// Bytes of each of them.
    pub(super) bytes: u64,
    /// Who answered.
    pub(super) origin: Option<&'buffer str>,
}

impl Flow {
    /// A socket that talks to `address` alone, from `source_address` if that is given.
    pub(super) fn open(
        address: SocketAddr,
        source_address: Option<IpAddr>,
        source: u64,
        request: &UdpRequest,
    ) -> io::Result<Self> {
        let any = match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((source_address.unwrap_or(any), 0))?;
        socket.connect(address)?;
        socket.set_nonblocking(true)?;
        udp::enlarge_buffer(&socket);
        if request.gso > 1 {
            let segment = libc_int(request.message);
            setsockopt(&socket, sockopt::UdpGsoSegment, &segment)?;
        }
        Ok(Self {
            socket,
            source,
            request: request.clone(),
            next: 0,
            waiting: VecDeque::with_capacity(request.window.min(1024)),
            tally: Tally::default(),
            counts: Counts::default(),
            unreported: 0,
            late: 0,
            corrupted: 0,
        })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Datagrams that a closed loop may send now.
    pub(super) fn room(&self) -> usize {
        let window = self.request.window;
        if !self.request.one_way {
            return window - window.min(self.waiting.len());
        }
        // Half a window at a time: the report on one half comes while the other is under way.
        let under_way = usize::try_from(self.next - self.unreported).unwrap_or(usize::MAX);
        let burst = window.div_ceil(2);
        if window.saturating_sub(under_way) >= burst {
            burst
        } else {
            0
        }
    }

    /// Sends up to `count` datagrams, all due at `due`; how many went out, which is at least one.
    ///
    /// # Errors
    /// When none did.
    pub(super) fn send(
        &mut self,
        count: usize,
        due: Instant,
        now: Instant,
        buffer: &mut Vec<u8>,
    ) -> io::Result<usize> {
        let count = count.min(self.request.gso).max(1);
        let length = self.request.message;
        buffer.resize(length * count, 0);
        for (place, bytes) in buffer.chunks_exact_mut(length).enumerate() {
            udp::fill(bytes, &self.header(self.next + place as u64));
        }
        self.socket.send(buffer)?;
        for _ in 0..count {
            if self.header(self.next).kind != Kind::OneWay {
                self.waiting.push_back(Waiting {
                    sequence: self.next,
                    due,
                    sent: now,
                });
            }
            self.next += 1;
        }
        Ok(count)
    }

    /// Asks once more for a report on everything, by one more datagram.
    pub(super) fn ask(&mut self, now: Instant, buffer: &mut Vec<u8>) -> io::Result<()> {
        let length = self.request.message;
        buffer.resize(length, 0);
        let header = Header {
            kind: Kind::OneWayAsking,
            ..self.header(self.next)
        };
        udp::fill(buffer, &header);
        self.socket.send(buffer)?;
        self.waiting.push_back(Waiting {
            sequence: self.next,
            due: now,
            sent: now,
        });
        self.next += 1;
        Ok(())
    }

    fn header(&self, sequence: u64) -> Header {
        let burst = self.request.window.div_ceil(2) as u64;
        let kind = match self.request.one_way {
            false => Kind::Echo,
            true if (sequence + 1).is_multiple_of(burst) => Kind::OneWayAsking,
            true => Kind::OneWay,
        };
        Header {
            kind,
            length: self.request.message,
            source: self.source,
            sequence,
            name: [0; NAME_BYTES_MAX],
        }
    }

    /// Takes one datagram in; `None` if it answers nothing.
    ///
    /// # Errors
    /// Those of `recv(2)`: would block, refused.
    pub(super) fn receive<'buffer>(
        &mut self,
        buffer: &'buffer mut [u8],
    ) -> io::Result<Option<Received<'buffer>>> {
        let length = self.socket.recv(buffer)?;
        let bytes = &buffer[..length];
        let Some(header) = Header::read(bytes) else {
            self.corrupted += 1;
            return Ok(None);
        };
        let is_ours = header.source == self.source && header.sequence < self.next;
        let kind = if self.request.one_way {
            Kind::Report
        } else {
            Kind::Echo
        };
        if !is_ours || header.kind != kind {
            self.corrupted += 1;
            return Ok(None);
        }
        let name = udp::signature_of(bytes);
        Ok(if self.request.one_way {
            self.take_report(&header, bytes, name)
        } else {
            self.take_echo(&header, bytes, name)
        })
    }

    fn take_echo<'buffer>(
        &mut self,
        header: &Header,
        bytes: &[u8],
        origin: Option<&'buffer str>,
    ) -> Option<Received<'buffer>> {
        if bytes.len() != self.request.message || !udp::is_whole(bytes, header) {
            self.corrupted += 1;
            return None;
        }
        if self.tally.see(header.sequence) == Arrival::Duplicate {
            return None;
        }
        let mut waiting = self.waiting.iter();
        let Some(place) = waiting.position(|waiting| waiting.sequence == header.sequence) else {
            self.late += 1;
            return None;
        };
        let waiting = self.waiting.remove(place)?;
        Some(Received {
            due: waiting.due,
            datagrams: 1,
            bytes: bytes.len() as u64,
            origin,
        })
    }

    fn take_report<'buffer>(
        &mut self,
        header: &Header,
        bytes: &[u8],
        origin: Option<&'buffer str>,
    ) -> Option<Received<'buffer>> {
        let counts = Counts::read(bytes)?;
        let mut due = None;
        while let Some(waiting) = self.waiting.front()
            && waiting.sequence <= header.sequence
        {
            due = due.or(Some(waiting.due));
            self.waiting.pop_front();
        }
        self.unreported = self.unreported.max(header.sequence + 1);
        // One that was overtaken by a later report says nothing new.
        let datagrams = counts.received.checked_sub(self.counts.received)?;
        self.counts = counts;
        Some(Received {
            due: due?,
            datagrams,
            bytes: self.request.message as u64,
            origin,
        })
    }

    /// The oldest that has waited since before `since`, no longer waited for; when it was due.
    pub(super) fn expire(&mut self, since: Instant) -> Option<Instant> {
        let oldest = self.waiting.front()?;
        if oldest.sent > since {
            return None;
        }
        let Waiting { sequence, due, .. } = self.waiting.pop_front()?;
        self.unreported = self.unreported.max(sequence + 1);
        Some(due)
    }

    /// The oldest, no longer waited for whatever its age; when it was due.
    pub(super) fn give_up(&mut self) -> Option<Instant> {
        self.expire(Instant::default() + Duration::MAX)
    }

    /// Whether answers are still to come.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the last report covers everything that was sent.
    pub(super) const fn is_reported(&self) -> bool {
        self.unreported == self.next && self.counts.received + self.counts.missing == self.next
    }

    /// What became of everything that was sent.
    pub(super) fn datagrams(&self) -> Datagrams {
        let (received, duplicated, reordered) = if self.request.one_way {
            let Counts {
                received,
                duplicated,
                reordered,
                ..
            } = self.counts;
            (received, duplicated, reordered)
        } else {
            let tally = &self.tally;
            (tally.received(), tally.duplicated(), tally.reordered())
        };
        Datagrams {
            sent: self.next,
            received,
            lost: self.next.saturating_sub(received),
            duplicated,
            reordered,
            late: self.late,
            corrupted: self.corrupted,
        }
    }
}

fn libc_int(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flow and the socket that it talks to.
    fn pair(request: &UdpRequest) -> (Flow, UdpSocket) {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let flow = Flow::open(server.local_addr().unwrap(), None, 42, request).unwrap();
        (flow, server)
    }

    fn at(millis: u64) -> Instant {
        Instant::default() + Duration::from_millis(millis)
    }

    /// The next datagram at the server, and who sent it.
    fn next(server: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 2000];
        let (length, client) = server.recv_from(&mut buffer).unwrap();
        buffer.truncate(length);
        (buffer, client)
    }

    fn received(flow: &mut Flow) -> Option<(Instant, u64)> {
        let mut buffer = [0; 2000];
        loop {
            match flow.receive(&mut buffer) {
                Ok(received) => return received.map(|r| (r.due, r.datagrams)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn echoes_are_matched_whatever_their_order() {
        let request = UdpRequest {
            window: 4,
            ..UdpRequest::default()
        };
        let (mut flow, server) = pair(&request);
        let mut buffer = Vec::new();
        for millis in 1..=4 {
            flow.send(1, at(millis), at(millis), &mut buffer).unwrap();
        }
        assert_eq!(flow.room(), 0);
        let sent: Vec<_> = (0..4).map(|_| next(&server)).collect();
        let answer = |place: usize| server.send_to(&sent[place].0, sent[place].1).unwrap();
        answer(2);
        assert_eq!(received(&mut flow), Some((at(3), 1)));
        answer(0);
        assert_eq!(received(&mut flow), Some((at(1), 1)));
        answer(0);
        assert_eq!(received(&mut flow), None, "a copy");
        assert_eq!(flow.expire(at(1)), None);
        assert_eq!(flow.expire(at(3)), Some(at(2)), "the second is given up");
        answer(1);
        assert_eq!(received(&mut flow), None, "and comes late");
        let mut damaged = sent[3].0.clone();
        damaged[63] ^= 1;
        server.send_to(&damaged, sent[3].1).unwrap();
        server.send_to(b"hello", sent[3].1).unwrap();
        assert_eq!((received(&mut flow), received(&mut flow)), (None, None));
        let expected = Datagrams {
            sent: 4,
            received: 3,
            lost: 1,
            duplicated: 1,
            reordered: 2,
            late: 1,
            corrupted: 2,
        };
        assert_eq!(flow.datagrams(), expected);
        assert!(flow.is_waiting());
    }

    #[test]
    fn a_stream_goes_on_when_the_sink_reports_and_counts_what_it_did_not_get() {
        let request = UdpRequest {
            one_way: true,
            window: 4,
            message: 1200,
            ..UdpRequest::default()
        };
        let (mut flow, server) = pair(&request);
        let mut buffer = Vec::new();
        let mut tally = Tally::default();
        for place in 0..4 {
            assert!(flow.room() > 0 || place % 2 == 1, "{place}");
            flow.send(1, at(place), at(place), &mut buffer).unwrap();
        }
        assert_eq!(flow.room(), 0);
        let sent: Vec<_> = (0..4).map(|_| next(&server)).collect();
        for place in [0, 3] {
            tally.see(place);
        }
        let asked = Header::read(&sent[3].0).unwrap();
        assert_eq!(asked.kind, Kind::OneWayAsking);
        let report = udp::report(&asked, &tally, &udp::name_field("blue"));
        server.send_to(&report, sent[3].1).unwrap();
        assert_eq!(received(&mut flow), Some((at(1), 2)));
        assert!(!flow.is_waiting() && flow.is_reported());
        assert_eq!(flow.room(), 2);
        let datagrams = flow.datagrams();
        assert_eq!((datagrams.sent, datagrams.lost), (4, 2));
    }

    #[test]
    fn segments_leave_as_one_and_arrive_as_many() {
        let request = UdpRequest {
            one_way: true,
            window: 16,
            gso: 8,
            message: 1200,
        };
        let (mut flow, server) = pair(&request);
        assert_eq!(flow.send(20, at(0), at(0), &mut Vec::new()).unwrap(), 8);
        for sequence in 0..8 {
            let (bytes, _) = next(&server);
            let header = Header::read(&bytes).unwrap();
            assert_eq!((bytes.len(), header.sequence), (1200, sequence));
            assert!(udp::is_whole(&bytes, &header));
        }
    }
}

//! Bytes and ends on their way.
//!
//! Invariant: a segment arrives after those that were sent before it, and takes room at the receiver
//! until it is read.
//! Read next: `ending.rs`.
use std::io;

use super::{Event, Fd, Happening, Network, Socket};
use crate::rt::sim::stream::Segment;

/// What a read gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    Bytes(usize),
    End,
    Nothing,
    Reset,
}

impl Network {
    pub(crate) fn read(&mut self, fd: Fd, room: &mut [u8]) -> Read {
        let short = self.random.chance(self.faults.short_per_mille);
        let (now, latency) = (self.now, self.latency());
        let Socket::Stream(stream) = &mut self.sockets[fd] else {
            unreachable!("no stream")
        };
        let mut count = stream.arrived.len().min(room.len());
        if count == 0 {
            return match (stream.reset, stream.peer_ended) {
                (true, _) => Read::Reset,
                (false, true) => Read::End,
                (false, false) => Read::Nothing,
            };
        }
        if short {
            count = self.random.size(&(1..=count));
        }
        let (front, back) = stream.arrived.as_slices();
        let from_front = count.min(front.len());
        room[..from_front].copy_from_slice(&front[..from_front]);
        room[from_front..count].copy_from_slice(&back[..count - from_front]);
        stream.arrived.drain(..count);
        if let Some(peer) = stream.peer
            && std::mem::take(&mut self.stream(peer).blocked)
        {
            self.plan(now + latency, peer, Event::Room);
        }
        self.note(count as u64);
        Read::Bytes(count)
    }

    /// True if a read would give something.
    pub(crate) fn is_readable(&mut self, fd: Fd) -> bool {
        let stream = self.stream(fd);
        !stream.arrived.is_empty() || stream.peer_ended || stream.reset
    }

    pub(crate) fn is_reset(&mut self, fd: Fd) -> bool {
        self.stream(fd).reset
    }

    /// Takes as many bytes as there is room for, 0 for none: `Writable` follows then.
    pub(crate) fn write(&mut self, fd: Fd, first: &[u8], second: &[u8]) -> Result<usize, i32> {
        let short = self.random.chance(self.faults.short_per_mille);
        let stream = self.stream(fd);
        let (window, broken) = (stream.window, stream.broken);
        if stream.ended || stream.reset {
            return Err(libc::EPIPE);
        }
        let Some(peer) = stream.peer else {
            return Err(libc::ENOTCONN);
        };
        let wanted = first.len() + second.len();
        if broken || self.stream(peer).reset {
            return Ok(wanted); // lost; word of it is under way
        }
        let room = window.saturating_sub(self.stream(peer).held());
        let mut count = wanted.min(room);
        if short && count > 1 {
            count = self.random.size(&(1..=count));
        }
        if count < wanted {
            // A reader with nothing left to read frees no room; then the room there is will do.
            self.stream(fd).blocked = count == room;
            if count < room {
                let latency = self.latency();
                self.plan(self.now + latency, fd, Event::Room);
            }
        }
        let from_first = count.min(first.len());
        self.transmit(fd, peer, &first[..from_first]);
        self.transmit(fd, peer, &second[..count - from_first]);
        self.note(count as u64);
        Ok(count)
    }

    fn transmit(&mut self, fd: Fd, peer: Fd, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.stream(fd).broken {
            if self.random.chance(self.faults.reset_per_mille) {
                return self.break_both(fd, peer);
            }
            let size = self.random.size(&self.faults.segment).clamp(1, bytes.len());
            let (segment, rest) = bytes.split_at(size);
            bytes = rest;
            self.dispatch(peer, Segment::Bytes(segment.into()));
        }
    }

    /// Puts a segment on its way to `fd`, behind those that are under way.
    pub(super) fn dispatch(&mut self, fd: Fd, segment: Segment) {
        let mut at = self.now + self.latency();
        if self.random.chance(self.faults.stall_per_mille) {
            at += self.random.nanos(&self.faults.stall);
        }
        let stream = self.stream(fd);
        at = at.max(stream.last_arrival);
        stream.last_arrival = at;
        stream.flight.push_back(segment);
        if stream.silent_from.is_none_or(|from| at < from) {
            self.plan(at, fd, Event::Arrive);
        }
    }

    pub(super) fn on_arrive(&mut self, fd: Fd) -> Option<Happening> {
        let stream = self.stream(fd);
        // The events of segments that a reset has swept away find nothing.
        match stream.flight.pop_front()? {
            Segment::Reset => {
                stream.flight.clear();
                let told = std::mem::replace(&mut stream.reset, true) || stream.closed;
                (!told).then_some(Happening::Failed(fd, libc::ECONNRESET))
            }
            Segment::Bytes(_) if stream.closed => {
                // Nobody will read it. Linux answers with a reset, and drops what is unsent.
                self.break_towards_peer(fd);
                None
            }
            Segment::Bytes(bytes) => {
                stream.arrived.extend(bytes.iter());
                Some(Happening::Readable(fd))
            }
            Segment::End => {
                stream.peer_ended = true;
                (!stream.closed).then_some(Happening::Readable(fd))
            }
        }
    }

    pub(crate) fn shutdown(&mut self, fd: Fd) -> io::Result<()> {
        let stream = self.stream(fd);
        let Some(peer) = stream.peer.filter(|_| !stream.reset) else {
            return Err(io::Error::from_raw_os_error(libc::ENOTCONN));
        };
        if !std::mem::replace(&mut stream.ended, true) && !stream.broken {
            self.dispatch(peer, Segment::End);
        }
        Ok(())
    }
}

//! How a socket ends: by a close, or by a reset.
//!
//! Invariant: a name is free again only when both ends of its connection are closed.
//! Read next: `../mod.rs`, the engine.
use super::{Fd, Network, Socket};
use crate::rt::sim::stream::Segment;

impl Network {
    pub(crate) fn set_reset_on_close(&mut self, fd: Fd) {
        self.stream(fd).reset_on_close = true;
    }

    pub(crate) fn close(&mut self, fd: Fd) {
        self.note(fd as u64);
        if let Socket::Listener(listener) = &mut self.sockets[fd] {
            let queue = std::mem::take(&mut listener.queue);
            self.vacate(fd);
            for waiting in queue {
                self.stream(waiting).reset_on_close = true;
                self.close_stream(waiting);
            }
            return;
        }
        self.close_stream(fd);
    }

    pub(super) fn close_stream(&mut self, fd: Fd) {
        let stream = self.stream(fd);
        stream.closed = true;
        let Some(peer) = stream.peer else {
            return self.vacate(fd); // was still connecting
        };
        // Linux resets, too, when bytes were left unread.
        let resets = stream.reset_on_close || !stream.arrived.is_empty();
        let over = stream.reset || stream.broken;
        let ended = std::mem::replace(&mut stream.ended, true);
        stream.arrived.clear();
        match (over, resets) {
            (true, _) => {}
            (false, true) => self.break_towards_peer(fd),
            (false, false) if !ended => self.dispatch(peer, Segment::End),
            (false, false) => {}
        }
        if self.stream(peer).closed {
            self.vacate(fd);
            self.vacate(peer);
        }
    }

    /// `fd` sends a reset: some of what it sent before still arrives, nothing that it sends after.
    pub(super) fn break_towards_peer(&mut self, fd: Fd) {
        let Some(peer) = self.stream(fd).peer else {
            return;
        };
        if std::mem::replace(&mut self.stream(fd).broken, true) {
            return;
        }
        let under_way = self.stream(peer).flight.len();
        let kept = self.random.size(&(0..=under_way));
        self.stream(peer).flight.truncate(kept);
        self.dispatch(peer, Segment::Reset);
    }

    pub(super) fn break_both(&mut self, fd: Fd, peer: Fd) {
        self.break_towards_peer(fd);
        self.break_towards_peer(peer);
    }
}

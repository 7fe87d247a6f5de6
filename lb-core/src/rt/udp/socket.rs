//! The datagram sockets of a runtime: one slot each, with what has been received and who waits,
//! and one list of what is to be sent with the next turn.
//!
//! Invariant: a slot is reused only when its owner has dropped it and the engine has no operation
//! of it under way. What is sent leaves in the order it was handed over, socket by socket.
//! Read next: `send.rs` (how the list leaves), `epoll.rs`, `uring.rs`.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::task::Waker;

use super::buffer::{Arrival, Datagrams, Queue, pool};
use crate::rt::socket::Key;

/// Receives that may wait in a socket; what comes then is dropped, as by a full socket buffer.
pub(crate) const QUEUE_MAX: usize = 512;
/// The end of a list.
pub(super) const NONE: u32 = u32::MAX;
/// Generations fit 24 bits: the rest of a completion's 64 bits names slot and operation.
const GENERATION_MASK: u32 = (1 << 24) - 1;

pub(crate) struct Slot {
    pub(crate) fd: RawFd,
    pub(crate) generation: u32,
    pub(crate) is_open: bool,
    /// The owner is gone; the slot goes when `operations` reaches zero.
    pub(crate) closing: bool,
    /// Operations of which the engine still owes the last completion.
    pub(crate) operations: u8,
    /// uring: a receive, or a poll for one, is under way.
    pub(crate) armed: bool,
    /// uring: the kernel knows no multishot receive of messages: poll, then receive.
    pub(crate) polls: bool,
    /// A receive may give something.
    pub(crate) readable: bool,
    /// There was no buffer for it; it waits in `Slots::starved`.
    pub(crate) starved: bool,
    /// Not yet told, 0 for none.
    pub(crate) error: i32,
    /// The socket's family: IPv4 peers of an IPv6 socket are mapped.
    pub(crate) is_ipv6: bool,
    /// Bound to no address: each datagram says which of ours it came to, or leaves from.
    pub(crate) is_wildcard: bool,
    pub(crate) connected: Option<SocketAddr>,
    pub(crate) local: SocketAddr,
    /// Largest datagrams to send many of at once, in bytes; 0 where that is refused.
    pub(crate) segment_max: u32,
    pub(crate) queue: Queue,
    pub(crate) waker: Option<Waker>,
    /// Ends of its list in `Slots::outgoing`.
    pub(super) first: u32,
    pub(super) last: u32,
}

impl Slot {
    /// Of a socket that has just been made.
    pub(crate) const fn new(fd: RawFd, local: SocketAddr, connected: Option<SocketAddr>) -> Self {
        Self {
            fd,
            generation: 0,
            is_open: true,
            closing: false,
            operations: 0,
            armed: false,
            polls: false,
            readable: true,
            starved: false,
            error: 0,
            is_ipv6: local.is_ipv6(),
            is_wildcard: local.ip().is_unspecified(),
            connected,
            local,
            segment_max: 0,
            queue: Queue::new(),
            waker: None,
            first: NONE,
            last: NONE,
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The engine received into a buffer, which it gives up. False if it is dropped.
    pub(crate) fn on_received(&mut self, number: u16, arrival: Arrival) -> bool {
        if self.closing || self.queue.len() >= QUEUE_MAX {
            pool().release(number);
            return self.closing;
        }
        self.queue.push(number, arrival);
        self.wake();
        true
    }

    /// A receive, or an earlier send, has failed; the socket goes on.
    pub(crate) fn on_error(&mut self, errno: i32) {
        self.error = errno;
        self.wake();
    }

    /// epoll: there may be something to receive.
    pub(crate) fn on_readable(&mut self) {
        self.readable = true;
        self.wake();
    }

    pub(crate) const fn has_input(&self) -> bool {
        self.queue.len() > 0 || self.error != 0
    }
}

/// What is to be sent with the next turn.
pub(crate) struct Outgoing {
    pub(crate) datagrams: Datagrams,
    /// `None` on a connected socket.
    pub(crate) to: Option<SocketAddr>,
    /// Which of our addresses it leaves from; `None` where the socket's own will do.
    pub(crate) from: Option<IpAddr>,
    pub(super) next: u32,
}

/// All datagram sockets of a runtime.
#[derive(Default)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    /// Where generations start, so that names of an earlier runtime of this thread are stale.
    first_generation: u32,
    /// Sockets that wait for a buffer.
    pub(crate) starved: Vec<Key>,
    /// In the order handed over; each entry names the next of its socket.
    pub(super) outgoing: Vec<Option<Outgoing>>,
    /// Sockets with entries there.
    pub(super) dirty: Vec<Key>,
    /// Datagrams that were received while `QUEUE_MAX` waited, and dropped.
    pub(crate) overflows: u64,
    /// Datagrams that the kernel refused to send.
    pub(crate) unsent: u64,
    /// Someone was woken outside of a turn, which must not wait then.
    pub(super) woke: bool,
}

impl Slots {
    pub(crate) fn new(first_generation: u32) -> Self {
        Self {
            first_generation: first_generation & GENERATION_MASK,
            ..Self::default()
        }
    }

    /// Sockets that are open, those included whose last completions are awaited.
    pub(crate) const fn live(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    pub(crate) fn insert(&mut self, slot: Slot) -> Key {
        let (index, generation) = if let Some(index) = self.vacant.pop() {
            (index, self.slots[index as usize].generation)
        } else {
            (self.slots.len() as u32, self.first_generation)
        };
        let slot = Slot { generation, ..slot };
        match self.slots.get_mut(index as usize) {
            Some(place) => *place = slot,
            None => self.slots.push(slot),
        }
        Key { index, generation }
    }

    /// The slot of a name, `None` if it has been reused or vacated.
    pub(crate) fn find(&mut self, key: Key) -> Option<&mut Slot> {
        self.slots
            .get_mut(key.index as usize)
            .filter(|slot| slot.generation == key.generation && slot.is_open)
    }

    /// The slot of a name that its owner holds.
    ///
    /// # Panics
    /// When a socket is used on another runtime than its own.
    pub(crate) fn get(&mut self, key: Key) -> &mut Slot {
        self.find(key)
            .expect("a socket is used on the runtime that made it")
    }

    /// Marks the owner gone: drops what waits, so that only operations under way hold anything.
    pub(crate) fn abandon(&mut self, key: Key) {
        let slot = self.get(key);
        slot.closing = true;
        slot.waker = None;
        while slot.queue.pop().is_some() {}
    }

    /// Vacates a slot whose owner is gone, once the engine has no operation of it.
    pub(crate) fn vacate_if_done(&mut self, key: Key) {
        let Some(slot) = self.find(key) else { return };
        if !slot.closing || slot.operations > 0 {
            return;
        }
        slot.is_open = false;
        slot.generation = slot.generation.wrapping_add(1) & GENERATION_MASK;
        self.vacant.push(key.index);
    }

    /// Notes that there was no buffer for a socket.
    pub(crate) fn starve(&mut self, key: Key) {
        let slot = self.get(key);
        if !std::mem::replace(&mut slot.starved, true) {
            self.starved.push(key);
        }
    }

    /// Hands datagrams over, to leave with the next turn.
    pub(crate) fn send(
        &mut self,
        key: Key,
        datagrams: Datagrams,
        to: Option<SocketAddr>,
        from: Option<IpAddr>,
    ) {
        let entry = self.outgoing.len() as u32;
        let slot = self.get(key);
        let previous = std::mem::replace(&mut slot.last, entry);
        if previous == NONE {
            slot.first = entry;
            self.dirty.push(key);
        } else if let Some(previous) = &mut self.outgoing[previous as usize] {
            previous.next = entry;
        }
        self.outgoing.push(Some(Outgoing {
            datagrams,
            to,
            from,
            next: NONE,
        }));
    }

    /// Takes everything, in the order handed over.
    pub(crate) fn take_outgoing(&mut self) -> Vec<(Key, Outgoing)> {
        let mut taken = Vec::new();
        for key in std::mem::take(&mut self.dirty) {
            while let Some(outgoing) = self.next_outgoing(key) {
                taken.push((key, outgoing));
            }
        }
        self.outgoing.clear();
        taken
    }

    /// Takes the next entry of a socket's list.
    pub(super) fn next_outgoing(&mut self, key: Key) -> Option<Outgoing> {
        let slot = self.find(key)?;
        let entry = slot.first;
        if entry == NONE {
            return None;
        }
        let outgoing = self.outgoing[entry as usize].take()?;
        let slot = self.get(key);
        slot.first = outgoing.next;
        if outgoing.next == NONE {
            slot.last = NONE;
        }
        Some(outgoing)
    }

    /// Names of all open sockets; for the end of the runtime.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let key = |(index, slot): (usize, &Slot)| Key {
            index: index as u32,
            generation: slot.generation,
        };
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.is_open)
            .map(key)
            .collect()
    }
}

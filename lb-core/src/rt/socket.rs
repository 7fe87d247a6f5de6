//! The sockets of a runtime: one slot each, with what has been received, what is being sent and
//! who waits. Engines report here what happened (`received`, `sent`, …); `net.rs` asks from here.
//!
//! Invariant: a slot is reused only when its owner has dropped it and the engine has no operation
//! of it under way; until then a late completion finds it and gives back what it carries.
//! Read next: `engine.rs` (the operations), `net.rs` (the public types).

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::task::Waker;

use super::buffer::{Chunk, Queue, pool};
use super::pages::Pages;
use super::splice::Input;
use super::{sys, udp};

/// Chunks that may wait in a socket before the engine is told to stop receiving.
pub(crate) const QUEUE_MAX: usize = 4;
/// Bytes of a receive that found the pool exhausted: few, as every socket may need so many.
pub(crate) const SMALL: usize = 2048;
/// Accepted connections that may wait before the engine is told to stop accepting.
pub(crate) const ACCEPTED_MAX: usize = 256;

/// Names a slot; a name whose socket has closed is found to be stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Connecting,
    Listener,
    Stream,
    Vacant,
}

pub(crate) struct Slot {
    pub(crate) fd: RawFd,
    pub(crate) generation: u32,
    pub(crate) kind: Kind,
    /// The owner is gone; the slot goes when `operations` reaches zero.
    pub(crate) closing: bool,
    /// Operations of which the engine still owes the last completion.
    pub(crate) operations: u8,

    /// A receive (or accept) is under way in the engine.
    pub(crate) armed: bool,
    /// It was told to stop and has not yet.
    pub(crate) stopping: bool,
    /// Receive one chunk at a time: the reader was slower than the socket.
    pub(crate) one_at_a_time: bool,
    /// uring: there was no buffer for it; it waits in `Slots::starved`.
    pub(crate) starved: bool,
    /// The peer has ended its side.
    pub(crate) ended: bool,
    /// The error that ended the connection, 0 for none.
    pub(crate) error: i32,
    /// The error that ended our side alone, 0 for none: the peer's answer may still arrive.
    pub(crate) send_error: i32,
    /// uring: a poll for errors is under way, see `watch`.
    pub(crate) watched: bool,
    /// A read may give something: set by epoll, and on all engines for a direct reader.
    pub(crate) readable: bool,
    /// epoll: the peer has ended, so the last read is not short.
    pub(crate) hung_up: bool,
    /// A send may take something: kept by epoll, and on all engines for splices.
    pub(crate) writable: bool,
    /// The reader takes bytes from the socket itself: the engine is not to receive.
    pub(crate) direct: bool,
    /// uring: a poll for input, or for room, is under way.
    pub(crate) polled_in: bool,
    pub(crate) polled_out: bool,

    pub(crate) queue: Queue,
    pub(crate) unread: Option<Chunk>,
    pub(crate) rare: Option<Box<Rare>>,
    pub(crate) recv_waker: Option<Waker>,

    /// What is being sent; `None`s when no send is under way.
    pub(crate) sending: [Option<Chunk>; 2],
    pub(crate) send_waker: Option<Waker>,
    /// uring: place of the send's or connect's addresses, which the kernel reads.
    pub(crate) message: u32,
}

/// What few sockets need, so that the others hold no room for it.
#[derive(Default)]
pub(crate) struct Rare {
    /// Received while the pool was exhausted. Nothing more is, nor in the queue, while it waits.
    pub(crate) spare: Option<Chunk>,
    /// uring: where such a receive writes to while it is under way.
    pub(crate) room: Option<Box<[u8; SMALL]>>,
    /// A listener's connections that wait to be taken.
    pub(crate) accepted: VecDeque<RawFd>,
}

impl Slot {
    const fn vacant() -> Self {
        Self {
            fd: -1,
            generation: 0,
            kind: Kind::Vacant,
            closing: false,
            operations: 0,
            armed: false,
            stopping: false,
            one_at_a_time: false,
            starved: false,
            ended: false,
            error: 0,
            send_error: 0,
            watched: false,
            readable: false,
            hung_up: false,
            writable: true,
            direct: false,
            polled_in: false,
            polled_out: false,
            queue: Queue::new(),
            unread: None,
            rare: None,
            recv_waker: None,
            sending: [None, None],
            send_waker: None,
            message: u32::MAX,
        }
    }

    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// True if bytes wait that were received while the pool was exhausted.
    pub(crate) const fn has_spare(&self) -> bool {
        matches!(&self.rare, Some(rare) if rare.spare.is_some())
    }

    /// A listener's connections that wait to be taken.
    pub(crate) fn accepted(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.accepted.len())
    }

    /// True while a send is under way.
    pub(crate) const fn is_sending(&self) -> bool {
        self.sending[0].is_some()
    }

    /// The bytes of the send that the kernel has not taken yet.
    pub(crate) fn unsent(&self) -> (&[u8], &[u8]) {
        let part = |index: usize| self.sending[index].as_deref().unwrap_or_default();
        (part(0), part(1))
    }

    /// The error that a send meets, if any.
    pub(crate) fn send_failure(&self) -> Option<io::Error> {
        let errno = if self.error != 0 {
            self.error
        } else {
            self.send_error
        };
        (errno != 0).then(|| io::Error::from_raw_os_error(errno))
    }

    /// True if a receive would give something without waiting.
    pub(crate) const fn has_input(&self) -> bool {
        self.has_bytes() || self.ended || self.error != 0
    }

    /// True if the peer has ended its side, and a receive would say so.
    pub(crate) const fn is_at_end(&self) -> bool {
        self.ended && !self.has_bytes()
    }

    const fn has_bytes(&self) -> bool {
        self.unread.is_some() || self.queue.len() > 0 || self.has_spare()
    }

    /// Where the next bytes are, as far as that is known.
    pub(crate) const fn input(&self) -> Option<Input> {
        if self.has_input() {
            Some(Input::Received)
        } else if self.readable && !self.armed {
            Some(Input::InSocket)
        } else {
            None
        }
    }

    /// What has been received, the error or the end, in this order; `None` if nothing has.
    pub(crate) fn take_input(&mut self) -> Option<io::Result<Chunk>> {
        let chunk = self.unread.take().or_else(|| self.queue.pop());
        let spare = || self.rare.as_mut().and_then(|rare| rare.spare.take());
        if let Some(chunk) = chunk.or_else(spare) {
            return Some(Ok(chunk));
        }
        if self.error != 0 {
            return Some(Err(io::Error::from_raw_os_error(self.error)));
        }
        self.ended.then(|| Ok(Chunk::empty()))
    }

    fn wake_receiver(&mut self) {
        if let Some(waker) = self.recv_waker.take() {
            waker.wake();
        }
    }

    fn wake_sender(&mut self) {
        if let Some(waker) = self.send_waker.take() {
            waker.wake();
        }
    }

    /// A reader that takes from the socket itself may find something.
    pub(crate) fn on_readable(&mut self) {
        self.readable = true;
        self.wake_receiver();
    }

    /// A splice into the socket may find room.
    pub(crate) fn on_writable(&mut self) {
        self.writable = true;
        self.wake_sender();
    }

    /// The engine received `len` bytes into a buffer, which it gives up.
    pub(crate) fn on_received(&mut self, buffer: u16, len: usize) {
        if self.closing {
            pool().release(buffer);
            return;
        }
        self.queue.push(buffer, len);
        self.wake_receiver();
    }

    /// The engine received a few bytes for which there was no buffer.
    pub(crate) fn on_received_small(&mut self, bytes: &[u8]) {
        debug_assert!(
            self.queue.len() == 0 && !self.has_spare(),
            "bytes would change places"
        );
        if !self.closing {
            self.rare().spare = Some(Chunk::from_vec(bytes.to_vec()));
            self.wake_receiver();
        }
    }

    /// The peer has ended its side.
    pub(crate) fn on_end(&mut self) {
        // Linux tells a socket's error once. A send that failed had it, and a receive takes the
        // break for an end; only EPIPE says that there was none (our shutdown, or the peer's end).
        if self.send_error != 0 && self.send_error != libc::EPIPE {
            return self.on_error(self.send_error);
        }
        self.ended = true;
        self.wake_receiver();
    }

    /// The connection has failed, in whatever operation. What is being sent stays: the kernel may
    /// still read it.
    pub(crate) fn on_error(&mut self, errno: i32) {
        if self.error == 0 {
            self.error = errno;
        }
        self.wake_receiver();
        self.wake_sender();
    }

    /// A send failed, and nothing of it is under way any more.
    pub(crate) fn on_send_error(&mut self, errno: i32) {
        self.send_error = errno;
        self.sending = [None, None];
        self.wake_receiver(); // `broken` may wait there
        self.wake_sender();
    }

    /// The kernel took `count` bytes; true when nothing is left to send.
    pub(crate) fn on_sent(&mut self, mut count: usize) -> bool {
        for part in &mut self.sending {
            if let Some(chunk) = part {
                let taken = count.min(chunk.len());
                count -= taken;
                chunk.advance(taken);
                if chunk.is_empty() {
                    *part = None;
                }
            }
        }
        if self.sending[0].is_none() {
            self.sending.swap(0, 1);
        }
        let done = !self.is_sending();
        if done {
            self.wake_sender();
        }
        done
    }

    /// The connection is established.
    pub(crate) fn on_connected(&mut self) {
        self.kind = Kind::Stream;
        self.wake_sender();
    }

    /// A connection was accepted; its descriptor is given up to the slot.
    pub(crate) fn on_accepted(&mut self, fd: RawFd) -> bool {
        if self.closing {
            return false;
        }
        self.rare().accepted.push_back(fd);
        self.wake_receiver();
        true
    }

    /// sim: a connection waits; `accept` will find it.
    pub(crate) fn on_acceptable(&mut self) {
        self.wake_receiver();
    }

    /// Accepting failed; the next call of `accept` says so and tries again.
    pub(crate) fn on_accept_error(&mut self, errno: i32) {
        self.error = errno;
        self.wake_receiver();
    }
}

/// All sockets of a runtime.
pub(crate) struct Slots {
    slots: Pages<Slot>,
    vacant: Vec<u32>,
    /// Where generations start, so that names of an earlier runtime of this thread are stale.
    first_generation: u32,
    /// uring: sockets that wait for a buffer.
    pub(crate) starved: Vec<Key>,
    /// Times that a receive found the pool exhausted.
    pub(crate) starvations: u64,
    /// Sockets of datagrams have slots of their own.
    pub(crate) udp: udp::Sockets,
}

/// Generations fit 24 bits: the rest of a completion's 64 bits names slot and operation.
const GENERATION_MASK: u32 = (1 << 24) - 1;

impl Slots {
    pub(crate) fn new(first_generation: u32) -> Self {
        Self {
            slots: Pages::new(),
            vacant: Vec::new(),
            first_generation: first_generation & GENERATION_MASK,
            starved: Vec::new(),
            starvations: 0,
            udp: udp::Sockets::new(first_generation),
        }
    }

    /// Sockets that are open, those included whose last completions are awaited.
    pub(crate) fn live(&self) -> usize {
        self.slots.len() - self.vacant.len() + self.udp.slots.live()
    }

    pub(crate) fn insert(&mut self, fd: RawFd, kind: Kind) -> Key {
        let index = self.vacant.pop().unwrap_or_else(|| {
            let generation = self.first_generation;
            self.slots.push(Slot {
                generation,
                ..Slot::vacant()
            })
        });
        let slot = &mut self.slots[index];
        slot.fd = fd;
        slot.kind = kind;
        Key {
            index,
            generation: slot.generation,
        }
    }

    /// The slot of a name, `None` if it has been reused or vacated.
    pub(crate) fn find(&mut self, key: Key) -> Option<&mut Slot> {
        self.slots
            .get_mut(key.index)
            .filter(|slot| slot.generation == key.generation && slot.kind != Kind::Vacant)
    }

    /// The slot of a name that its owner holds.
    ///
    /// # Panics
    /// When a socket is used on another runtime than its own.
    pub(crate) fn get(&mut self, key: Key) -> &mut Slot {
        self.find(key)
            .expect("a socket is used on the runtime that made it")
    }

    /// Vacates a slot whose owner is gone, once the engine has no operation of it.
    pub(crate) fn vacate_if_done(&mut self, key: Key) {
        let Some(slot) = self.find(key) else { return };
        if !slot.closing || slot.operations > 0 {
            return;
        }
        while let Some(chunk) = slot.queue.pop() {
            drop(chunk);
        }
        let generation = slot.generation.wrapping_add(1) & GENERATION_MASK;
        *slot = Slot {
            generation,
            ..Slot::vacant()
        };
        self.vacant.push(key.index);
    }

    /// Notes that there was no buffer for a socket.
    pub(crate) fn starve(&mut self, key: Key) {
        self.starvations += 1;
        let slot = self.get(key);
        if !std::mem::replace(&mut slot.starved, true) {
            self.starved.push(key);
        }
    }

    /// Marks the owner gone: drops what waits, so that only operations under way hold anything.
    pub(crate) fn abandon(&mut self, key: Key) {
        let slot = self.get(key);
        slot.closing = true;
        slot.unread = None;
        slot.recv_waker = None;
        slot.send_waker = None;
        while let Some(chunk) = slot.queue.pop() {
            drop(chunk);
        }
        if let Some(rare) = &mut slot.rare {
            rare.spare = None; // its room the kernel may still write to
            for fd in rare.accepted.drain(..) {
                sys::close(fd);
            }
        }
    }

    /// Names of all open sockets; for the end of the runtime.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let key = |(index, slot): (u32, &Slot)| Key {
            index,
            generation: slot.generation,
        };
        self.slots
            .iter()
            .filter(|(_, slot)| slot.kind != Kind::Vacant)
            .map(key)
            .collect()
    }
}

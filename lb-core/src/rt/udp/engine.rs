//! What datagram sockets ask of an engine.
//!
//! Invariant: sends go by system call on both engines of the kernel, all that a turn's tasks
//! handed over at its end: they do not wait, so there is nothing for a completion to tell.
//! Read next: `epoll.rs` (the plainest), `uring.rs`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use super::buffer::pool;
use super::socket::Slot;
use super::{Sockets, UdpOptions, buffer, epoll, send, sys};
use crate::rt::engine::Engine;
use crate::rt::socket::{Key, Slots};
use crate::rt::sys as system;

impl Engine {
    pub(super) fn bind_datagrams(
        &mut self,
        slots: &mut Slots,
        address: SocketAddr,
        options: &UdpOptions,
    ) -> io::Result<Key> {
        if let Self::Sim(sim) = self {
            return sim.bind_datagrams(slots, address, options);
        }
        let fd = sys::bind(address, options)?;
        let slot = system::local_addr(fd).and_then(|local| bound(fd, local, options));
        let slot = slot.inspect_err(|_| system::close(fd))?;
        self.attach_datagrams(slots, slot)
            .inspect_err(|_| system::close(fd))
    }

    pub(super) fn connect_datagrams(
        &mut self,
        slots: &mut Slots,
        source: Option<SocketAddr>,
        peer: SocketAddr,
    ) -> io::Result<Key> {
        if let Self::Sim(sim) = self {
            return sim.connect_datagrams(slots, source, peer);
        }
        let fd = sys::connect(source, peer)?;
        let slot = system::local_addr(fd).map(|local| {
            let mut slot = Slot::new(fd, local, Some(peer));
            slot.segment_max = offload(fd, true);
            slot
        });
        let slot = slot.inspect_err(|_| system::close(fd))?;
        self.attach_datagrams(slots, slot)
            .inspect_err(|_| system::close(fd))
    }

    /// Takes a new slot's descriptor into service.
    pub(super) fn attach_datagrams(&mut self, slots: &mut Slots, slot: Slot) -> io::Result<Key> {
        let fd = slot.fd;
        let key = slots.udp.slots.insert(slot);
        if let Self::Epoll(epoll) = self
            && let Err(error) = epoll.attach_datagrams(fd, key)
        {
            slots.udp.slots.abandon(key);
            slots.udp.slots.vacate_if_done(key);
            return Err(error);
        }
        Ok(key)
    }

    /// Someone waits for datagrams.
    pub(super) fn want_datagrams(&mut self, slots: &mut Slots, key: Key) {
        match self {
            Self::Epoll(_) => epoll::receive(&mut slots.udp, key),
            Self::Sim(_) => {}
            Self::Uring(uring) => uring.want_datagrams(slots, key),
        }
    }

    /// The owner is gone: what it handed over still leaves.
    pub(super) fn close_datagrams(&mut self, slots: &mut Slots, key: Key) {
        self.send_datagrams(slots);
        slots.udp.slots.abandon(key);
        match self {
            Self::Epoll(_) => {
                system::close(slots.udp.slots.get(key).fd); // leaves the epoll set with it
                slots.udp.slots.vacate_if_done(key);
            }
            Self::Sim(sim) => sim.close_datagrams(slots, key),
            Self::Uring(uring) => uring.close_datagrams(slots, key),
        }
    }

    /// Sends what was handed over, and receives again where there was no buffer. Returns how long
    /// the turn may wait now.
    pub(crate) fn begin_datagrams(
        &mut self,
        slots: &mut Slots,
        wait_ns: Option<u64>,
    ) -> Option<u64> {
        self.send_datagrams(slots);
        if let Self::Uring(uring) = self {
            uring.refill_datagrams();
        }
        if !slots.udp.slots.starved.is_empty() {
            self.feed_starved(slots);
        }
        if std::mem::take(&mut slots.udp.slots.woke) {
            return Some(0);
        }
        wait_ns
    }

    fn send_datagrams(&mut self, slots: &mut Slots) {
        if slots.udp.slots.dirty.is_empty() {
            return;
        }
        if let Self::Sim(sim) = self {
            return sim.send_datagrams(slots);
        }
        let Sockets {
            slots,
            outbox,
            batch,
            ..
        } = &mut slots.udp;
        let outbox = outbox.get_or_insert_with(sys::Outbox::new);
        send::flush(slots, outbox, batch);
    }

    #[cold]
    fn feed_starved(&mut self, slots: &mut Slots) {
        let Some(number) = pool().acquire() else {
            return;
        };
        pool().release(number);
        for key in std::mem::take(&mut slots.udp.slots.starved) {
            let Some(slot) = slots.udp.slots.find(key) else {
                continue;
            };
            slot.starved = false;
            slot.on_readable();
            slots.udp.slots.woke = true;
        }
    }

    /// Buffers that wait in this engine for datagrams.
    pub(crate) fn datagram_buffers_waiting(&self, slots: &Slots) -> usize {
        let lent = match self {
            Self::Uring(uring) => uring.lent_for_datagrams(),
            Self::Epoll(_) | Self::Sim(_) => 0,
        };
        lent + slots.udp.inbox.as_ref().map_or(0, |inbox| inbox.ready())
    }

    /// Closes all datagram sockets; for the end of the runtime.
    pub(crate) fn finish_datagrams(&mut self, slots: &mut Slots) {
        self.send_datagrams(slots);
        for key in slots.udp.slots.keys() {
            if !slots.udp.slots.get(key).closing {
                self.close_datagrams(slots, key);
            }
        }
    }
}

/// The slot of a bound socket, with what it needs asked of the kernel.
pub(super) fn bound(fd: RawFd, local: SocketAddr, options: &UdpOptions) -> io::Result<Slot> {
    let mut slot = Slot::new(fd, local, None);
    if slot.is_wildcard {
        sys::tell_local(fd, slot.is_ipv6)?;
    }
    slot.segment_max = offload(fd, options.offload);
    Ok(slot)
}

/// Asks for datagrams many at once; returns the largest to send so, 0 for none.
fn offload(fd: RawFd, wanted: bool) -> u32 {
    if !wanted {
        return 0;
    }
    let _ = sys::receive_many(fd); // one by one, then
    if sys::sends_many(fd) {
        buffer::CAPACITY as u32
    } else {
        0
    }
}

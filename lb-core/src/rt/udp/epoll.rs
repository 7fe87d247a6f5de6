//! Datagrams on the epoll engine, and on io_uring where that knows no multishot receive of
//! messages: edge-triggered readiness, then as many messages as there are with one call.
//!
//! Invariant: `readable` may be wrongly true, never wrongly false: an edge sets it, and only a
//! call that ran dry clears it.
//! Read next: `sys.rs`.

use std::io;
use std::os::fd::RawFd;

use super::Sockets;
use super::sys::{Came, Inbox};
use crate::rt::epoll::{Epoll, pack};
use crate::rt::socket::{Key, Slots};
use crate::rt::sys as system;

/// Marks the events of datagram sockets: generations leave the top byte free.
pub(crate) const EVENT: u64 = 1 << 63;

impl Epoll {
    pub(super) fn attach_datagrams(&self, fd: RawFd, key: Key) -> io::Result<()> {
        let interest = libc::EPOLLIN | libc::EPOLLET;
        system::epoll_add(self.fd, fd, interest, EVENT | pack(key))
    }

    /// Input, or an error, which the next receive tells.
    pub(crate) fn on_datagrams(slots: &mut Slots, key: Key) {
        if let Some(slot) = slots.udp.slots.find(key) {
            slot.on_readable();
        }
    }
}

/// Receives what there is, unless something waits to be taken already.
pub(super) fn receive(sockets: &mut Sockets, key: Key) {
    let Sockets { slots, inbox, .. } = sockets;
    let inbox = inbox.get_or_insert_with(Inbox::new);
    let mut dropped = 0;
    let slot = slots.get(key);
    while slot.readable && !slot.has_input() {
        match inbox.receive(slot, &mut dropped) {
            Ok(Came::Some) => {}
            Ok(Came::All) => slot.readable = false,
            Ok(Came::Starved) => {
                slots.starve(key);
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // It is told once; what comes after it is received later.
            Err(error) => slot.on_error(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }
    slots.overflows += dropped;
}

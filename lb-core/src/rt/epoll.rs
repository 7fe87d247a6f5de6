//! The engine for wherever io_uring is blocked: edge-triggered readiness.
//!
//! Invariant: `readable` and `writable` may be wrongly true (a call then finds nothing and clears
//! them), never wrongly false: an edge sets them, and only a call that ran dry clears them.
//! Read next: `uring.rs`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use super::buffer::{self, pool};
use super::options::ConnectFrom;
use super::socket::{Key, Kind, SMALL, Slots};
use super::{sys, udp};

/// Events taken by one wait.
const EVENTS: usize = 512;
/// The mailbox's event; no slot has this name.
const MAILBOX: u64 = u64::MAX;

pub(crate) struct Epoll {
    pub(crate) fd: RawFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub(crate) fn new(mailbox: RawFd) -> io::Result<Self> {
        let fd = sys::epoll_create()?;
        sys::epoll_add(fd, mailbox, libc::EPOLLIN, MAILBOX).inspect_err(|_| sys::close(fd))?;
        Ok(Self {
            fd,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS],
        })
    }

    pub(crate) fn attach(&mut self, slots: &mut Slots, key: Key) -> io::Result<()> {
        let slot = slots.get(key);
        let interest = match slot.kind {
            Kind::Listener => libc::EPOLLIN | libc::EPOLLET,
            _ => libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET,
        };
        // A connection that was just accepted mostly brings its first request along.
        slot.readable = slot.kind == Kind::Stream;
        sys::epoll_add(self.fd, slot.fd, interest, pack(key))
    }

    pub(crate) fn connect(
        &mut self,
        slots: &mut Slots,
        from: ConnectFrom<'_>,
        address: SocketAddr,
    ) -> io::Result<Key> {
        let fd = from.open(address)?;
        let established = sys::connect(fd, address).inspect_err(|_| sys::close(fd))?;
        let kind = if established {
            Kind::Stream
        } else {
            Kind::Connecting
        };
        let key = slots.insert(fd, kind);
        if let Err(error) = self.attach(slots, key) {
            slots.abandon(key);
            self.close(slots, key);
            return Err(error);
        }
        let slot = slots.get(key);
        slot.readable = false;
        slot.writable = established;
        Ok(key)
    }

    pub(crate) fn want_input(&mut self, slots: &mut Slots, key: Key) {
        match slots.get(key).kind {
            Kind::Listener => accept(slots, key),
            Kind::Stream => receive(slots, key),
            Kind::Connecting | Kind::Vacant => {}
        }
    }

    pub(crate) fn start_send(&mut self, slots: &mut Slots, key: Key) {
        let slot = slots.get(key);
        while slot.writable {
            let (first, second) = slot.unsent();
            let wanted = first.len() + second.len();
            match sys::send(slot.fd, first, second, slot.holds_last) {
                Ok(count) => {
                    if slot.on_sent(count) {
                        return;
                    }
                    slot.writable = count == wanted;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => slot.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return slot.on_send_error(errno(&error)),
            }
        }
    }

    pub(crate) fn close(&mut self, slots: &mut Slots, key: Key) {
        let slot = slots.get(key);
        slot.sending = [None, None];
        sys::close(slot.fd); // leaves the epoll set with it
        slots.vacate_if_done(key);
    }

    pub(crate) fn turn(&mut self, slots: &mut Slots, wait_ns: Option<u64>) -> io::Result<bool> {
        let count = match sys::epoll_wait(self.fd, &mut self.events, wait_ns) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        let mut signalled = false;
        for at in 0..count {
            let libc::epoll_event { events, u64: data } = self.events[at];
            if data == MAILBOX {
                signalled = true;
            } else if data & udp::EPOLL_EVENT != 0 {
                Self::on_datagrams(slots, unpack(data & !udp::EPOLL_EVENT));
            } else {
                self.on_event(slots, unpack(data), events as i32);
            }
        }
        Ok(signalled)
    }

    fn on_event(&mut self, slots: &mut Slots, key: Key, events: i32) {
        let Some(slot) = slots.find(key) else { return };
        if slot.kind == Kind::Connecting {
            if events & (libc::EPOLLOUT | libc::EPOLLERR | libc::EPOLLHUP) == 0 {
                return;
            }
            slot.writable = true;
            match sys::take_error(slot.fd) {
                0 => slot.on_connected(),
                errno => return slot.on_error(errno),
            }
            // The same edge may bring the first bytes of a peer that speaks first.
        }
        if events & libc::EPOLLERR != 0
            && let errno @ 1.. = sys::take_error(slot.fd)
        {
            // What was received before stays readable: the error comes after it.
            receive_before_error(slots, key, errno);
            return;
        }
        if events & (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP) != 0 {
            slot.hung_up |= events & (libc::EPOLLRDHUP | libc::EPOLLHUP) != 0;
            slot.on_readable();
        }
        if events & (libc::EPOLLOUT | libc::EPOLLHUP) != 0 {
            if slot.is_sending() {
                slot.writable = true;
                self.start_send(slots, key);
            } else {
                slot.on_writable();
            }
        }
    }

    #[expect(clippy::unused_self, reason = "as the other engines'")]
    pub(crate) fn finish(&mut self, slots: &mut Slots) {
        for key in slots.keys() {
            if !slots.get(key).closing {
                slots.abandon(key);
            }
            sys::close(slots.get(key).fd);
            slots.vacate_if_done(key);
        }
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        sys::close(self.fd);
    }
}

/// Takes one connection. It is tried without waiting for an edge: a connection that came while
/// there was no descriptor for it gives none.
fn accept(slots: &mut Slots, key: Key) {
    let slot = slots.get(key);
    loop {
        match sys::accept(slot.fd) {
            Ok(fd) => {
                slot.on_accepted(fd);
                return;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if is_transient(&error) => {}
            Err(error) => return slot.on_accept_error(errno(&error)),
        }
    }
}

/// Errors of a connection that ended while it waited to be accepted: not the listener's.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionReset
    )
}

fn receive(slots: &mut Slots, key: Key) {
    let slot = slots.get(key);
    while slot.readable && !slot.has_input() {
        let Some(buffer) = pool().acquire() else {
            return receive_small(slots, key);
        };
        match sys::recv(slot.fd, pool().room(buffer)) {
            Ok(0) => {
                pool().release(buffer);
                slot.on_end();
            }
            Ok(len) => {
                // A read that did not fill its buffer took all there was, unless the end follows.
                slot.readable = len == buffer::CAPACITY || slot.hung_up;
                slot.on_received(buffer, len);
            }
            Err(error) => {
                pool().release(buffer);
                match error.kind() {
                    io::ErrorKind::WouldBlock => slot.readable = false,
                    io::ErrorKind::Interrupted => {}
                    _ => slot.on_error(errno(&error)),
                }
            }
        }
    }
}

/// Receives without a buffer of the pool: chunks that nobody drops must not stop the others.
#[cold]
fn receive_small(slots: &mut Slots, key: Key) {
    slots.starvations += 1;
    let slot = slots.get(key);
    let mut room = [0; SMALL];
    match sys::recv(slot.fd, &mut room) {
        Ok(0) => slot.on_end(),
        Ok(len) => {
            slot.readable = len == SMALL || slot.hung_up;
            slot.on_received_small(&room[..len]);
        }
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock => slot.readable = false,
            io::ErrorKind::Interrupted => {}
            _ => slot.on_error(errno(&error)),
        },
    }
}

/// Takes what was received before the connection failed, then notes the error.
pub(crate) fn receive_before_error(slots: &mut Slots, key: Key, error: i32) {
    let slot = slots.get(key);
    while !slot.has_spare()
        && let Some(buffer) = pool().acquire()
    {
        match sys::recv(slot.fd, pool().room(buffer)) {
            Ok(len @ 1..) => slot.on_received(buffer, len),
            _ => {
                pool().release(buffer);
                break;
            }
        }
    }
    slot.readable = false;
    slot.on_error(error);
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

pub(crate) const fn pack(key: Key) -> u64 {
    (key.generation as u64) << 32 | key.index as u64
}

const fn unpack(data: u64) -> Key {
    Key {
        index: data as u32,
        generation: (data >> 32) as u32,
    }
}

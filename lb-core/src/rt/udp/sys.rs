//! System calls of datagram sockets: opening them, and receiving and sending many at once.
//!
//! Invariant: every function takes descriptors that the caller owns; memory that a call is given
//! is held by the `Inbox` or `Outbox` during it.
//! Read next: `wire.rs` (what is in the bytes), `send.rs`.
#![allow(unsafe_code, reason = "system calls")]

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{FromRawFd, RawFd};

use super::UdpOptions;
use super::buffer::{self, Arrival, CAPACITY, HEADROOM, pool};
use super::socket::Slot;
use super::wire::{self, CONTROL_MAX, Control, NAME_MAX, Name};
use crate::rt::raw_addr::RawAddr;
use crate::rt::sys::{self as system, set_option};

/// Messages of one receive.
pub(super) const BATCH: usize = 32;
/// Messages of one receive of a connected socket: what answers one flow.
const BATCH_CONNECTED: usize = 8;

/// Bytes that may wait in a bound socket, which all peers share: what 100,000 datagrams a second
/// bring while the thread is elsewhere for 50 ms. Only what waits takes memory.
const RECEIVE_ROOM: libc::c_int = 4 * 1024 * 1024;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn socket(address: &SocketAddr) -> io::Result<RawFd> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    check(unsafe { libc::socket(family, kind, 0) })
}

/// A bound socket.
pub(super) fn bind(address: SocketAddr, options: &UdpOptions) -> io::Result<RawFd> {
    let fd = socket(&address)?;
    let bound = || {
        if options.reuse_port {
            set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        if address.is_ipv6() {
            let v6_only = options.v6_only.into();
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, v6_only)?;
        }
        if options.free_bind {
            set_option(fd, libc::IPPROTO_IP, libc::IP_FREEBIND, 1)?;
        }
        make_room(fd);
        system::bind(fd, address)
    };
    bound().inspect_err(|_| system::close(fd))?;
    Ok(fd)
}

/// Has more datagrams wait than the kernel would: with CAP_NET_ADMIN as many as are wanted, else up
/// to net.core.rmem_max.
fn make_room(fd: RawFd) {
    let forced = set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_ROOM);
    if forced.is_err() {
        let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_ROOM);
    }
}

/// Gives a descriptor that the caller owns to the standard library.
pub(super) fn into_std(fd: RawFd) -> std::net::UdpSocket {
    // SAFETY: open, and the caller's, who gives it up.
    unsafe { std::net::UdpSocket::from_raw_fd(fd) }
}

/// A connected socket, bound to `source` if there is one.
pub(super) fn connect(source: Option<SocketAddr>, peer: SocketAddr) -> io::Result<RawFd> {
    let fd = socket(&peer)?;
    let connected = || {
        if let Some(source) = source {
            system::bind(fd, source)?;
        }
        let raw = RawAddr::new(peer);
        // SAFETY: `raw` outlives the call and holds `len` valid bytes.
        check(unsafe { libc::connect(fd, raw.as_ptr(), raw.len) })
    };
    connected().inspect_err(|_| system::close(fd))?;
    Ok(fd)
}

/// Asks for our own address with each datagram: on sockets bound to none.
pub(super) fn tell_local(fd: RawFd, is_ipv6: bool) -> io::Result<()> {
    if is_ipv6 {
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    } else {
        set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    }
}

/// Asks for many datagrams at once (UDP_GRO, Linux 5.0).
pub(super) fn receive_many(fd: RawFd) -> io::Result<()> {
    set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Whether many may be sent at once (UDP_SEGMENT, Linux 4.18).
pub(super) fn sends_many(fd: RawFd) -> bool {
    system::option(fd, libc::SOL_UDP, libc::UDP_SEGMENT).is_ok()
}

/// Memory for receiving: buffers ahead of their datagrams.
pub(crate) struct Inbox {
    headers: [libc::mmsghdr; BATCH],
    parts: [libc::iovec; BATCH],
    names: [Name; BATCH],
    controls: [Control; BATCH],
    /// Buffers, the first `ready` of them acquired.
    numbers: [u16; BATCH],
    ready: usize,
}

/// What came of a receive.
pub(super) enum Came {
    /// Something, and there may be more.
    Some,
    /// All there was, if anything.
    All,
    /// There is no buffer.
    Starved,
}

impl Inbox {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            // SAFETY: all zeroes is a valid, empty mmsghdr.
            headers: unsafe { mem::zeroed() },
            parts: [system::io_slice(&[]); BATCH],
            names: [Name::EMPTY; BATCH],
            controls: [Control::EMPTY; BATCH],
            numbers: [0; BATCH],
            ready: 0,
        })
    }

    /// Receives what waits in a socket, up to `BATCH` messages, into its slot.
    pub(super) fn receive(&mut self, slot: &mut Slot, dropped: &mut u64) -> io::Result<Came> {
        let wanted = if slot.connected.is_some() {
            BATCH_CONNECTED
        } else {
            BATCH
        };
        let count = self.prepare(wanted, slot.connected.is_none());
        if count == 0 {
            return Ok(Came::Starved);
        }
        let flags = libc::MSG_DONTWAIT;
        let headers = self.headers.as_mut_ptr();
        // SAFETY: `count` headers, whose pointers lead to buffers, names and controls that this
        // holds, were set by `prepare`; no timeout.
        let got = check(unsafe {
            libc::recvmmsg(
                slot.fd,
                headers,
                count as u32,
                flags as _,
                std::ptr::null_mut(),
            )
        });
        let got = match got {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Came::All),
            other => other? as usize,
        };
        for at in 0..got {
            let arrival = self.arrival(at, slot);
            if !slot.on_received(self.numbers[at], arrival) {
                *dropped += 1;
            }
        }
        self.numbers.copy_within(got..self.ready, 0);
        self.ready -= got;
        Ok(if got < count { Came::All } else { Came::Some })
    }

    /// Sets up to `wanted` headers; returns for how many there are buffers.
    fn prepare(&mut self, wanted: usize, with_names: bool) -> usize {
        while self.ready < wanted {
            let Some(number) = pool().acquire() else {
                break;
            };
            self.numbers[self.ready] = number;
            self.ready += 1;
        }
        let count = wanted.min(self.ready);
        for at in 0..count {
            let room = &mut pool().room(self.numbers[at])[HEADROOM..];
            self.parts[at] = libc::iovec {
                iov_base: room.as_mut_ptr().cast(),
                iov_len: room.len(),
            };
            let header = &mut self.headers[at].msg_hdr;
            header.msg_name = self.names[at].bytes.as_mut_ptr().cast();
            header.msg_namelen = if with_names { NAME_MAX as u32 } else { 0 };
            header.msg_iov = &raw mut self.parts[at];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[at].bytes.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_MAX as _;
        }
        count
    }

    fn arrival(&self, at: usize, slot: &Slot) -> Arrival {
        let header = &self.headers[at];
        let name = &self.names[at].bytes[..(header.msg_hdr.msg_namelen as usize).min(NAME_MAX)];
        let control = header.msg_hdr.msg_controllen;
        let control = &self.controls[at].bytes[..control.min(CONTROL_MAX)];
        arrival(HEADROOM, header.msg_len as usize, name, control, slot)
    }

    /// Buffers that wait for datagrams.
    pub(super) const fn ready(&self) -> usize {
        self.ready
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        for number in &self.numbers[..self.ready] {
            buffer::release(*number);
        }
    }
}

/// What a receive says of `len` bytes that begin at `start` of their buffer.
pub(super) fn arrival(
    start: usize,
    len: usize,
    name: &[u8],
    control: &[u8],
    slot: &Slot,
) -> Arrival {
    let told = wire::told_in(control);
    let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
    let peer = slot.connected.or_else(|| wire::address_in(name));
    let len = len.min(CAPACITY - start) as u32;
    Arrival {
        start: start as u32,
        len,
        segment: told.segment.unwrap_or(len).min(len),
        peer: peer.unwrap_or(nobody),
        local: told.local.unwrap_or_else(|| slot.local.ip().to_canonical()),
    }
}

/// Messages of one send.
pub(super) const MESSAGES: usize = 64;
/// Pieces of memory of one send.
pub(super) const PARTS: usize = 256;

/// One message of a send: where to and from, and which pieces of memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message {
    pub(super) to: Option<SocketAddr>,
    pub(super) from: Option<IpAddr>,
    /// Of `Outbox::parts`.
    pub(super) first: usize,
    pub(super) parts: usize,
    pub(super) bytes: usize,
    /// Bytes of each datagram but the last.
    pub(super) segment: usize,
    pub(super) datagrams: usize,
}

impl Message {
    /// One datagram in one piece, of a connected socket: nothing has to be said about it.
    const fn is_plain(&self) -> bool {
        self.to.is_none() && self.from.is_none() && self.datagrams == 1 && self.parts == 1
    }
}

/// Memory for sending.
pub(crate) struct Outbox {
    headers: [libc::mmsghdr; MESSAGES],
    parts: [libc::iovec; PARTS],
    names: [Name; MESSAGES],
    controls: [Control; MESSAGES],
}

impl Outbox {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            // SAFETY: all zeroes is a valid, empty mmsghdr.
            headers: unsafe { mem::zeroed() },
            parts: [system::io_slice(&[]); PARTS],
            names: [Name::EMPTY; MESSAGES],
            controls: [Control::EMPTY; MESSAGES],
        })
    }

    /// Sends `messages`, which are no more than `MESSAGES` and made of `pieces`, no more than
    /// `PARTS`; returns how many the kernel took. The error is of the first.
    pub(super) fn send<'a>(
        &mut self,
        slot: &Slot,
        messages: &[Message],
        mut pieces: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<usize> {
        if let [message] = messages
            && message.is_plain()
            && let Some(piece) = pieces.by_ref().nth(message.first)
        {
            return send_one(slot.fd, piece).map(|()| 1);
        }
        for (part, piece) in self.parts.iter_mut().zip(pieces) {
            *part = system::io_slice(piece);
        }
        for (at, message) in messages.iter().enumerate() {
            self.set_header(at, message, slot.is_ipv6);
        }
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        let headers = self.headers.as_mut_ptr();
        // SAFETY: `set_header` has set as many headers; their pointers lead to names, controls
        // and parts that this holds, and the parts to `pieces`, all of which outlive the call.
        let sent =
            check(unsafe { libc::sendmmsg(slot.fd, headers, messages.len() as u32, flags as _) });
        sent.map(|sent| sent as usize)
    }

    fn set_header(&mut self, at: usize, message: &Message, is_ipv6: bool) {
        let name_len = message.to.map_or(0, |to| self.names[at].set(to, is_ipv6));
        let mut control_len = 0;
        if let Some(ip) = message.from {
            control_len = self.controls[at].leave_from(0, ip, is_ipv6);
        }
        if message.datagrams > 1 {
            control_len = self.controls[at].segment(control_len, message.segment as u16);
        }
        let parts = &mut self.parts[message.first..][..message.parts];
        let header = &mut self.headers[at].msg_hdr;
        header.msg_name = self.names[at].bytes.as_mut_ptr().cast();
        header.msg_namelen = name_len as u32;
        header.msg_iov = parts.as_mut_ptr();
        header.msg_iovlen = parts.len() as _;
        header.msg_control = self.controls[at].bytes.as_mut_ptr().cast();
        header.msg_controllen = control_len as _;
    }
}

/// Sends one datagram on a connected socket: the common case, and the cheapest call.
fn send_one(fd: RawFd, datagram: &[u8]) -> io::Result<()> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: `datagram` is valid for the read.
    let sent = unsafe { libc::send(fd, datagram.as_ptr().cast(), datagram.len(), flags) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

//! The io_uring engine's output: connects and sends, with the addresses that the kernel reads
//! meanwhile.
//!
//! Invariant: what a send reads is held by its slot, or by a message that no other operation has,
//! until its completion. Read next: `uring_poll.rs` (splices).
#![allow(unsafe_code, reason = "submission entries point to memory")]

use std::io;
use std::net::SocketAddr;

use io_uring::opcode;
use io_uring::types::Fd;

use super::options::ConnectFrom;
use super::raw_addr::RawAddr;
use super::socket::{Key, Kind, Slot, Slots};
use super::sys;
use super::unix::is_unix;
use super::uring::{Operation, Uring};

/// Addresses that the kernel reads while an operation is under way; boxed, so that they stay put.
pub(super) struct Message {
    header: libc::msghdr,
    parts: [libc::iovec; 2],
    address: RawAddr,
}

impl Uring {
    pub(crate) fn connect(
        &mut self,
        slots: &mut Slots,
        from: ConnectFrom<'_>,
        address: SocketAddr,
    ) -> io::Result<Key> {
        let fd = from.open(address)?;
        if is_unix(address.ip()) {
            // Done at once or refused; the ring would try again and again while a queue is full.
            sys::connect(fd, address).inspect_err(|_| sys::close(fd))?;
            return Ok(slots.insert(fd, Kind::Stream));
        }
        let key = slots.insert(fd, Kind::Connecting);
        let slot = slots.get(key);
        slot.message = self.take_message();
        slot.operations += 1;
        let message = &mut self.messages[slot.message as usize];
        message.address = RawAddr::new(address);
        let entry = opcode::Connect::new(Fd(fd), message.address.as_ptr(), message.address.len);
        self.push(&entry.build().user_data(Operation::Connect.name(key)));
        Ok(key)
    }

    fn take_message(&mut self) -> u32 {
        self.messages_vacant.pop().unwrap_or_else(|| {
            let parts = [sys::io_slice(&[]), sys::io_slice(&[])];
            let address = RawAddr::new(SocketAddr::from(([0, 0, 0, 0], 0)));
            let header = sys::message_of(&mut [parts[0], parts[1]]);
            self.messages.push(Box::new(Message {
                header,
                parts,
                address,
            }));
            self.messages.len() as u32 - 1
        })
    }

    pub(crate) fn start_send(&mut self, slots: &mut Slots, key: Key) {
        let slot = slots.get(key);
        slot.operations += 1;
        // WAITALL: the kernel goes on by itself after a short send.
        let mut flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        if slot.holds_last {
            flags |= libc::MSG_MORE;
        }
        let (first, second) = slot.unsent();
        let entry = if second.is_empty() {
            opcode::Send::new(Fd(slot.fd), first.as_ptr(), first.len() as u32)
                .flags(flags)
                .build()
        } else {
            let parts = [sys::io_slice(first), sys::io_slice(second)];
            if slot.message == u32::MAX {
                slot.message = self.take_message();
            }
            let message = &mut self.messages[slot.message as usize];
            message.parts = parts;
            message.header = sys::message_of(&mut message.parts);
            let header = &raw const message.header;
            opcode::SendMsg::new(Fd(slot.fd), header)
                .flags(flags as u32)
                .build()
        };
        self.push(&entry.user_data(Operation::Send.name(key)));
    }

    pub(super) fn on_send(&mut self, slots: &mut Slots, key: Key, result: i32) {
        let slot = slots.get(key);
        slot.operations -= 1;
        self.end_message(slot);
        if slot.closing {
            slot.sending = [None, None];
            return slots.vacate_if_done(key);
        }
        match result {
            count @ 0.. => {
                if !slot.on_sent(count as usize) {
                    self.start_send(slots, key);
                }
            }
            error if [-libc::EINTR, -libc::EAGAIN].contains(&error) => self.start_send(slots, key),
            error => slot.on_send_error(-error),
        }
    }

    pub(super) fn on_connect(&mut self, slots: &mut Slots, key: Key, result: i32) {
        let slot = slots.get(key);
        slot.operations -= 1;
        self.end_message(slot);
        if slot.closing {
            return slots.vacate_if_done(key);
        }
        match result {
            0 => slot.on_connected(),
            error => slot.on_error(-error),
        }
    }

    fn end_message(&mut self, slot: &mut Slot) {
        if slot.message != u32::MAX {
            self.messages_vacant
                .push(std::mem::replace(&mut slot.message, u32::MAX));
        }
    }
}

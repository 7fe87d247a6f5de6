//! The io_uring engine for readers and writers that use the socket themselves, by splice.
//!
//! Invariant: the kernel receives for a socket, or a reader does, never both: a poll for input is
//! begun only when the receive has had its last completion.
//! Read next: `splice.rs`.

use io_uring::opcode;
use io_uring::types::Fd;

use super::socket::{Key, Kind, Slots};
use super::uring::{Operation, Uring};

impl Uring {
    /// Ends the receive, then polls for input, once: the reader asks again when it ran dry.
    pub(crate) fn want_readiness(&mut self, slots: &mut Slots, key: Key) {
        let slot = slots.get(key);
        if slot.armed {
            return self.stop(slot, Operation::Receive, key);
        }
        if slot.polled_in || slot.closing || slot.kind != Kind::Stream {
            return;
        }
        slot.polled_in = true;
        slot.operations += 1;
        let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
        let entry = opcode::PollAdd::new(Fd(slot.fd), events).build();
        self.push(&entry.user_data(Operation::Readable.name(key)));
    }

    /// Polls for room, once.
    pub(crate) fn want_room(&mut self, slots: &mut Slots, key: Key) {
        let slot = slots.get(key);
        if slot.polled_out || slot.closing {
            return;
        }
        slot.polled_out = true;
        slot.operations += 1;
        let entry = opcode::PollAdd::new(Fd(slot.fd), libc::POLLOUT as u32).build();
        self.push(&entry.user_data(Operation::Writable.name(key)));
    }

    /// Ends the receive and the polls; true when nothing is under way any more.
    pub(crate) fn let_go(&mut self, slots: &mut Slots, key: Key) -> bool {
        let slot = slots.get(key);
        self.stop(slot, Operation::Receive, key);
        if slot.polled_in {
            self.cancel(Operation::Readable, key);
        }
        if slot.polled_out {
            self.cancel(Operation::Writable, key);
        }
        slot.operations == 0
    }

    /// A receive ended without input while someone waits for it: goes on as that one wishes.
    pub(super) fn input_stopped(&mut self, slots: &mut Slots, key: Key) {
        let slot = slots.get(key);
        if slot.direct {
            slot.on_readable(); // perhaps: that costs a call, and a poll a turn
        } else {
            self.want_input(slots, key);
        }
    }

    pub(super) fn on_polled_in(slots: &mut Slots, key: Key) {
        let slot = slots.get(key);
        slot.operations -= 1;
        slot.polled_in = false;
        slot.on_readable();
        slots.vacate_if_done(key);
    }

    pub(super) fn on_polled_out(slots: &mut Slots, key: Key) {
        let slot = slots.get(key);
        slot.operations -= 1;
        slot.polled_out = false;
        slot.on_writable();
        slots.vacate_if_done(key);
    }
}

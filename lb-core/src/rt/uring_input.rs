//! The io_uring engine's input: multishot receives and accepts, and what becomes of each completion.
//!
//! Invariant: one operation at a time receives for a socket, and a buffer that a completion brings
//! goes to the socket's queue or back to the pool.
//! Read next: `uring_output.rs`, `uring_poll.rs` (readers that use the socket themselves).
#![allow(unsafe_code, reason = "submission entries point to memory")]

use std::io;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};

use super::buffer::{self, pool};
use super::epoll;
use super::ring::GROUP;
use super::socket::{ACCEPTED_MAX, Key, Kind, QUEUE_MAX, SMALL, Slot, Slots};
use super::sys;
use super::uring::{NOBODY, Operation, Uring};

/// Most bytes that a multishot receive takes, so that a reader who is slow holds few: else the kernel
/// goes on for 32 buffers before we learn of the first. Kernels before 6.17 refuse to be told.
const RECEIVE_BYTES: u32 = 7 * buffer::CAPACITY as u32;

impl Uring {
    /// Begins a receive of no file with a limit: a kernel that knows none refuses that before it
    /// looks for the file.
    pub(super) fn probe_limits(&mut self) -> io::Result<bool> {
        let entry = limited(opcode::RecvMulti::new(Fd(-1), GROUP).build());
        self.push(&entry.user_data(Operation::Forget.name(NOBODY)));
        self.submission.sync();
        self.submitter.submit_and_wait(1)?;
        self.submission.sync();
        self.completion.sync();
        let result = self.completion.next().map(|entry| entry.result());
        self.completion.sync();
        Ok(result == Some(-libc::EBADF))
    }

    pub(crate) fn want_input(&mut self, slots: &mut Slots, key: Key) {
        let slot = slots.get(key);
        if slot.armed || slot.closing || slot.direct || slot.has_spare() {
            return;
        }
        let (entry, operation) = match slot.kind {
            Kind::Listener => {
                let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
                (
                    opcode::AcceptMulti::new(Fd(slot.fd)).flags(flags).build(),
                    Operation::Accept,
                )
            }
            Kind::Stream if slot.starved => (small_receive_entry(slot), Operation::Receive),
            Kind::Stream => {
                let entry = receive_entry(slot, self.takes_limits);
                (entry, Operation::Receive)
            }
            Kind::Connecting | Kind::Vacant => return,
        };
        slot.armed = true;
        slot.operations += 1;
        self.push(&entry.user_data(operation.name(key)));
    }

    /// Sees to it that an error of the connection is noticed: by the receive that is under way, or
    /// where none may be, since input waits, by a poll for errors alone.
    pub(crate) fn watch(&mut self, slots: &mut Slots, key: Key) {
        if !slots.get(key).has_input() {
            return self.want_input(slots, key);
        }
        let slot = slots.get(key);
        if slot.armed || slot.watched || slot.error != 0 || slot.kind != Kind::Stream {
            return;
        }
        slot.watched = true;
        slot.operations += 1;
        // Multishot: the end of the peer's side is always reported too, and is no error.
        let errors = (libc::POLLERR | libc::POLLHUP) as u32;
        let entry = opcode::PollAdd::new(Fd(slot.fd), errors)
            .multi(true)
            .build();
        self.push(&entry.user_data(Operation::Watch.name(key)));
    }

    pub(super) fn on_watch(slots: &mut Slots, key: Key, result: i32, flags: u32) {
        let slot = slots.get(key);
        if !cqueue::more(flags) {
            slot.operations -= 1;
            slot.watched = false;
        }
        if slot.closing {
            return slots.vacate_if_done(key);
        }
        // A receive that was armed since is told of the error itself.
        if result > 0
            && !slot.armed
            && let errno @ 1.. = sys::take_error(slot.fd)
        {
            epoll::receive_before_error(slots, key, errno);
        }
    }

    pub(super) fn on_receive(&mut self, slots: &mut Slots, key: Key, result: i32, flags: u32) {
        let slot = slots.get(key);
        let last = !cqueue::more(flags);
        let stopped = last && end_input(slot);
        // It may have come to its limit, with a reader that keeps up.
        let goes_on = last && !stopped && result > 0 && !slot.one_at_a_time && !slot.closing;
        let lent = cqueue::buffer_select(flags);
        if lent.is_some() {
            self.buffers.on_taken();
        }
        match (result, lent) {
            (1.., Some(buffer)) => {
                let len = result as usize;
                // A reader that keeps up is given many at once again.
                slot.one_at_a_time &= len == buffer::CAPACITY;
                slot.on_received(buffer, len);
                if slot.queue.len() >= QUEUE_MAX {
                    slot.one_at_a_time = true;
                    self.stop(slot, Operation::Receive, key);
                }
            }
            (1.., None) => {
                let room = slot
                    .rare()
                    .room
                    .take()
                    .expect("a receive without a buffer has room");
                slot.on_received_small(&room[..result as usize]);
            }
            (_, Some(buffer)) => pool().release(buffer),
            (_, None) => drop(slot.rare.as_mut().map(|rare| rare.room.take())),
        }
        match -result {
            0 => slot.on_end(),
            libc::ENOBUFS if !slot.closing => {
                self.buffers.grow();
                if self.buffers.refill() == 0 {
                    slots.starve(key);
                }
            }
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
            errno @ 1.. => slot.on_error(errno),
            _ => {}
        }
        let slot = slots.get(key);
        if goes_on && !slot.one_at_a_time {
            return self.want_input(slots, key);
        }
        // A reader that came while the operation was stopping waits for a new one.
        if (stopped || result < 0) && slot.recv_waker.is_some() && !slot.has_input() {
            self.input_stopped(slots, key);
        }
        if last {
            slots.vacate_if_done(key);
        }
    }

    pub(super) fn on_accept(&mut self, slots: &mut Slots, key: Key, result: i32, flags: u32) {
        let slot = slots.get(key);
        let last = !cqueue::more(flags);
        let stopped = last && end_input(slot);
        if result >= 0 {
            if !slot.on_accepted(result) {
                sys::close(result);
            }
            if !last && slot.accepted() >= ACCEPTED_MAX {
                self.stop(slot, Operation::Accept, key);
            }
        } else if !is_accept_transient(-result) {
            slot.on_accept_error(-result);
        }
        let slot = slots.get(key);
        if last && (stopped || result < 0) && slot.recv_waker.is_some() {
            self.want_input(slots, key);
        }
        if last {
            slots.vacate_if_done(key);
        }
    }

    /// Receives again where there was no buffer, for as many as there are buffers now.
    pub(super) fn feed_starved(&mut self, slots: &mut Slots) {
        if slots.starved.is_empty() {
            return;
        }
        let fed = self.buffers.refill().min(slots.starved.len());
        for key in slots.starved.drain(..fed).collect::<Vec<_>>() {
            if let Some(slot) = slots.find(key) {
                slot.starved = false;
                self.want_input(slots, key);
            }
        }
    }
}

/// Without a buffer of the pool: chunks that nobody drops must not stop the others. The slot holds
/// the memory until the operation's completion.
#[cold]
fn small_receive_entry(slot: &mut Slot) -> squeue::Entry {
    let fd = Fd(slot.fd);
    let room = slot.rare().room.get_or_insert_with(|| Box::new([0; SMALL]));
    opcode::Recv::new(fd, room.as_mut_ptr(), SMALL as u32).build()
}

fn receive_entry(slot: &Slot, takes_limits: bool) -> squeue::Entry {
    if slot.one_at_a_time {
        let entry = opcode::Recv::new(Fd(slot.fd), std::ptr::null_mut(), 0)
            .buf_group(GROUP)
            .build();
        return entry.flags(squeue::Flags::BUFFER_SELECT);
    }
    let entry = opcode::RecvMulti::new(Fd(slot.fd), GROUP).build();
    if takes_limits { limited(entry) } else { entry }
}

/// Has a multishot receive end after so many bytes.
fn limited(mut entry: squeue::Entry) -> squeue::Entry {
    const { assert!(size_of::<squeue::Entry>() == 64, "an io_uring_sqe") };
    // SAFETY: an entry is an io_uring_sqe, in which `optlen` is the four bytes at 44, aligned.
    unsafe { (&raw mut entry).cast::<u32>().add(11).write(RECEIVE_BYTES) };
    entry
}

/// An input operation's last completion; true if it had been told to stop.
const fn end_input(slot: &mut Slot) -> bool {
    slot.operations -= 1;
    slot.armed = false;
    std::mem::replace(&mut slot.stopping, false)
}

/// Errors of a connection that ended while it waited to be accepted, not of the listener, and
/// the end of an accept that was told to stop.
const fn is_accept_transient(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECANCELED
            | libc::ECONNABORTED
            | libc::ECONNRESET
            | libc::EINTR
            | libc::EAGAIN
            | libc::EPROTO
    )
}

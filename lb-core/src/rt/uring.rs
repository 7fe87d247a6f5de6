//! The io_uring engine: multishot receive and accept into lent buffers, one submission a turn.
//!
//! Invariant: every operation carries its slot's name and kind in `user_data`, and the slot counts
//! it until its last completion, so memory that the kernel may use is never given up before.
//! Never IORING_OP_SPLICE or _SHUTDOWN (they always go to a kernel worker thread); no SQPOLL.
//! Read next: `buffer.rs`, `ring.rs` (the ring of lent buffers).
#![allow(unsafe_code, reason = "submission entries point to memory")]

use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter, cqueue, opcode, squeue};

use super::buffer::{self, pool};
use super::epoll;
use super::options::ConnectFrom;
use super::ring::{BufferRing, GROUP};
use super::ring_flags::RingFlags;
use super::socket::{ACCEPTED_MAX, Key, Kind, QUEUE_MAX, SMALL, Slot, Slots};
use super::sys::{self, RawAddr};
use super::udp;
use super::unix::is_unix;

/// Entries of the submission queue; a fuller one is submitted early.
const ENTRIES: u32 = 1024;
/// Turns of a millisecond that the end of a runtime waits for what it has cancelled.
const FINISH_TURNS: u32 = 5000;
/// Most bytes that a multishot receive takes, so that a reader who is slow holds few: else the kernel
/// goes on for 32 buffers before we learn of the first. Kernels before 6.17 refuse to be told.
const RECEIVE_BYTES: u32 = 7 * buffer::CAPACITY as u32;
/// IORING_ENTER_GETEVENTS, which the io-uring crate keeps to itself.
const ENTER_GETEVENTS: u32 = 1;

/// What an operation is, in the top byte of its `user_data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Operation {
    Accept,
    Connect,
    Datagrams,
    Forget,
    Mailbox,
    Readable,
    Receive,
    Send,
    Watch,
    Writable,
}

impl Operation {
    const ALL: [Self; 10] = [
        Self::Accept,
        Self::Connect,
        Self::Datagrams,
        Self::Forget,
        Self::Mailbox,
        Self::Readable,
        Self::Receive,
        Self::Send,
        Self::Watch,
        Self::Writable,
    ];

    /// 8 bits operation, 24 bits generation, 32 bits slot.
    pub(crate) const fn name(self, key: Key) -> u64 {
        (self as u64) << 56 | (key.generation as u64) << 32 | key.index as u64
    }

    fn of(user_data: u64) -> (Self, Key) {
        let operation = Self::ALL[(user_data >> 56) as usize];
        let generation = (user_data >> 32) as u32 & 0x00FF_FFFF;
        (
            operation,
            Key {
                index: user_data as u32,
                generation,
            },
        )
    }
}

/// No slot: for operations of the engine itself.
pub(crate) const NOBODY: Key = Key {
    index: 0,
    generation: 0,
};

/// Addresses that the kernel reads while an operation is under way; boxed, so that they stay put.
struct Message {
    header: libc::msghdr,
    parts: [libc::iovec; 2],
    address: RawAddr,
}

pub(crate) struct Uring {
    // These borrow from `ring`, and write to it when they are dropped: see `drop`.
    pub(crate) submitter: Submitter<'static>,
    submission: ManuallyDrop<SubmissionQueue<'static>>,
    completion: ManuallyDrop<CompletionQueue<'static>>,
    ring: *mut IoUring,
    buffers: BufferRing,
    /// Receives of datagrams, from the first on.
    pub(crate) datagrams: Option<udp::Receiver>,
    #[expect(clippy::vec_box, reason = "the kernel reads them where they are")]
    messages: Vec<Box<Message>>,
    messages_vacant: Vec<u32>,
    mailbox: RawFd,
    mailbox_armed: bool,
    signalled: bool,
    /// Whether a receive can be told how many bytes it is to take.
    takes_limits: bool,
}

impl Uring {
    pub(crate) fn new(mailbox: RawFd, flags: RingFlags) -> io::Result<Self> {
        Self::with_entries(mailbox, flags, ENTRIES).map(|(uring, _)| uring)
    }

    /// Makes a small ring as workers do, and sees whether all that they use works.
    pub(crate) fn probe() -> io::Result<RingFlags> {
        let (ring, flags) = RingFlags::default().build_or_weaken(8)?;
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let used = [
            opcode::AcceptMulti::CODE,
            opcode::AsyncCancel::CODE,
            opcode::Close::CODE,
            opcode::Connect::CODE,
            opcode::PollAdd::CODE,
            opcode::RecvMulti::CODE,
            opcode::Send::CODE,
            opcode::SendMsg::CODE,
            // Came with the kernel that brought multishot receive, which has no number of its own.
            opcode::SendZc::CODE,
        ];
        if used.iter().any(|code| !probe.is_supported(*code)) || !ring.params().is_feature_ext_arg()
        {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        <BufferRing>::register(&ring.submitter(), 8)?.unregister(&ring.submitter());
        Ok(flags)
    }

    fn with_entries(
        mailbox: RawFd,
        flags: RingFlags,
        entries: u32,
    ) -> io::Result<(Self, RingFlags)> {
        let (ring, flags) = flags.build_or_weaken(entries)?;
        let ring = Box::into_raw(Box::new(ring));
        // SAFETY: `ring` stays where it is until `drop`, which first drops what borrows from it;
        // nothing else uses the pointer.
        let (mut submitter, submission, completion) = unsafe { &mut *ring }.split();
        let _ = submitter.register_ring_fd(); // saves a look-up a call; refused before 5.18
        let buffers = <BufferRing>::register(&submitter, <BufferRing>::ENTRIES)?;
        let mut uring = Self {
            submitter,
            submission: ManuallyDrop::new(submission),
            completion: ManuallyDrop::new(completion),
            ring,
            buffers,
            datagrams: None,
            messages: Vec::new(),
            messages_vacant: Vec::new(),
            mailbox,
            mailbox_armed: false,
            signalled: false,
            takes_limits: false,
        };
        uring.takes_limits = uring.probe_limits()?;
        Ok((uring, flags))
    }

    /// Begins a receive of no file with a limit: a kernel that knows none refuses that before it
    /// looks for the file.
    fn probe_limits(&mut self) -> io::Result<bool> {
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

    /// Buffers that the kernel has to receive into.
    pub(crate) fn lent(&self) -> usize {
        self.buffers.lent()
    }

    pub(crate) fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what `entry` points to is a lent buffer, a chunk held by the slot, a `Message`
        // held by the slot, or nothing; each stays until the operation's last completion.
        while unsafe { self.submission.push(entry) }.is_err() {
            self.submission.sync();
            let _ = self.submitter.submit(); // an error shows again in `turn`
            self.submission.sync();
        }
    }

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

    fn on_watch(slots: &mut Slots, key: Key, result: i32, flags: u32) {
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

    /// Tells a multishot operation to stop; its last completion says that it has.
    pub(super) fn stop(&mut self, slot: &mut Slot, operation: Operation, key: Key) {
        if slot.armed && !slot.stopping {
            slot.stopping = true;
            self.cancel(operation, key);
        }
    }

    pub(crate) fn cancel(&mut self, operation: Operation, key: Key) {
        let entry = opcode::AsyncCancel::new(operation.name(key)).build();
        let entry = entry.flags(squeue::Flags::SKIP_SUCCESS);
        self.push(&entry.user_data(Operation::Forget.name(NOBODY)));
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

    pub(crate) fn close(&mut self, slots: &mut Slots, key: Key) {
        let slot = slots.get(key);
        let is_listener = slot.kind == Kind::Listener;
        self.stop(
            slot,
            if is_listener {
                Operation::Accept
            } else {
                Operation::Receive
            },
            key,
        );
        if slot.is_sending() {
            self.cancel(Operation::Send, key);
        }
        let polls = [
            (slot.watched, Operation::Watch),
            (slot.polled_in, Operation::Readable),
            (slot.polled_out, Operation::Writable),
        ];
        for (_, poll) in polls.iter().filter(|(under_way, _)| *under_way) {
            self.cancel(*poll, key);
        }
        if slot.kind == Kind::Connecting && slot.operations > 0 {
            self.cancel(Operation::Connect, key);
        }
        // Operations under way hold the file, not its number, so that may go at once.
        if is_listener {
            // At once, not with the next turn: from here on it must accept nothing.
            self.submit_now();
            sys::close(slot.fd);
        } else {
            let entry = opcode::Close::new(Fd(slot.fd))
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS);
            self.push(&entry.user_data(Operation::Forget.name(NOBODY)));
        }
        slots.vacate_if_done(key);
    }

    pub(crate) fn submit_now(&mut self) {
        self.submission.sync();
        let _ = self.submitter.submit();
    }

    pub(crate) fn turn(&mut self, slots: &mut Slots, wait_ns: Option<u64>) -> io::Result<bool> {
        self.arm_mailbox();
        self.feed_starved(slots);
        self.buffers.refill();
        self.enter(wait_ns)?;
        self.reap(slots);
        Ok(std::mem::take(&mut self.signalled))
    }

    fn arm_mailbox(&mut self) {
        if !self.mailbox_armed {
            self.mailbox_armed = true;
            let entry = opcode::PollAdd::new(Fd(self.mailbox), libc::POLLIN as u32).multi(true);
            self.push(&entry.build().user_data(Operation::Mailbox.name(NOBODY)));
        }
    }

    /// Submits and, if nothing has completed, waits.
    fn enter(&mut self, wait_ns: Option<u64>) -> io::Result<()> {
        self.submission.sync();
        self.completion.sync();
        let waits = self.completion.is_empty() && wait_ns != Some(0);
        let result = match wait_ns {
            _ if !waits => self.enter_without_waiting(),
            None => self.submitter.submit_and_wait(1),
            Some(ns) => {
                let time = Timespec::new()
                    .sec(ns / 1_000_000_000)
                    .nsec((ns % 1_000_000_000) as u32);
                self.submitter
                    .submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        self.submission.sync();
        match result.map_err(|error| (error.raw_os_error(), error)) {
            // EBUSY: completions that did not fit wait in the kernel; `reap` makes room.
            Ok(_) | Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => {
                Ok(())
            }
            Err((_, error)) => Err(error),
        }
    }

    /// Submits, and has the kernel run the work that it deferred to this thread.
    fn enter_without_waiting(&self) -> io::Result<usize> {
        let count = self.submission.len() as u32;
        // SAFETY: no argument is passed, and what the entries point to is valid, see `push`.
        unsafe {
            self.submitter
                .enter::<libc::sigset_t>(count, 0, ENTER_GETEVENTS, None)
        }
    }

    fn reap(&mut self, slots: &mut Slots) {
        self.completion.sync();
        while let Some(entry) = self.completion.next() {
            let (operation, key) = Operation::of(entry.user_data());
            let (result, flags) = (entry.result(), entry.flags());
            match operation {
                Operation::Receive => self.on_receive(slots, key, result, flags),
                Operation::Send => self.on_send(slots, key, result),
                Operation::Accept => self.on_accept(slots, key, result, flags),
                Operation::Connect => self.on_connect(slots, key, result),
                Operation::Datagrams => self.on_datagrams(slots, key, result, flags),
                Operation::Watch => Self::on_watch(slots, key, result, flags),
                Operation::Readable => Self::on_polled_in(slots, key),
                Operation::Writable => Self::on_polled_out(slots, key),
                Operation::Mailbox => {
                    self.signalled = true;
                    self.mailbox_armed = cqueue::more(flags);
                }
                Operation::Forget => {}
            }
        }
        self.completion.sync();
    }

    fn on_receive(&mut self, slots: &mut Slots, key: Key, result: i32, flags: u32) {
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

    fn on_send(&mut self, slots: &mut Slots, key: Key, result: i32) {
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

    fn on_accept(&mut self, slots: &mut Slots, key: Key, result: i32, flags: u32) {
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

    fn on_connect(&mut self, slots: &mut Slots, key: Key, result: i32) {
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

    /// Receives again where there was no buffer, for as many as there are buffers now.
    fn feed_starved(&mut self, slots: &mut Slots) {
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

    /// Cancels everything and waits for it, so that the kernel writes nowhere any more.
    pub(crate) fn finish(&mut self, slots: &mut Slots) {
        for key in slots.keys() {
            if !slots.get(key).closing {
                slots.abandon(key);
                self.close(slots, key);
            }
        }
        for _ in 0..FINISH_TURNS {
            if self.turn(slots, Some(1_000_000)).is_err() {
                break;
            }
            if slots.live() == 0 {
                return;
            }
        }
        // What cannot be cancelled may still be read or written: leak its memory.
        std::mem::forget(std::mem::take(&mut self.messages));
        std::mem::forget(std::mem::replace(slots, Slots::new(0)));
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.buffers.unregister(&self.submitter);
        self.end_datagrams();
        let _ = self.submitter.unregister_ring_fd();
        // SAFETY: not used after this, nor dropped again.
        unsafe { ManuallyDrop::drop(&mut self.submission) };
        // SAFETY: not used after this, nor dropped again.
        unsafe { ManuallyDrop::drop(&mut self.completion) };
        // SAFETY: made by Box::into_raw in `with_entries`. Of what borrows from it only the
        // submitter is left, which has nothing to do when it is dropped.
        drop(unsafe { Box::from_raw(self.ring) });
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

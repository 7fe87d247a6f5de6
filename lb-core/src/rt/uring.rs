//! The io_uring engine: the ring, its operations and their names, one submission a turn.
//!
//! Invariant: every operation carries its slot's name and kind in `user_data`, and the slot counts
//! it until its last completion, so memory that the kernel may use is never given up before.
//! Never IORING_OP_SPLICE or _SHUTDOWN (they always go to a kernel worker thread); no SQPOLL.
//! Read next: `uring_input.rs`, `uring_output.rs`, `ring.rs` (the ring of lent buffers).
#![allow(unsafe_code, reason = "submission entries point to memory")]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::RawFd;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter, cqueue, opcode, squeue};

use super::ring::BufferRing;
use super::ring_flags::RingFlags;
use super::socket::{Key, Kind, Slot, Slots};
use super::sys;
use super::udp;
use super::uring_output::Message;

/// Entries of the submission queue; a fuller one is submitted early.
const ENTRIES: u32 = 1024;
/// Turns of a millisecond that the end of a runtime waits for what it has cancelled.
const FINISH_TURNS: u32 = 5000;
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

pub(crate) struct Uring {
    // These borrow from `ring`, and write to it when they are dropped: see `drop`.
    pub(crate) submitter: Submitter<'static>,
    pub(super) submission: ManuallyDrop<SubmissionQueue<'static>>,
    pub(super) completion: ManuallyDrop<CompletionQueue<'static>>,
    ring: *mut IoUring,
    pub(super) buffers: BufferRing,
    /// Receives of datagrams, from the first on.
    pub(crate) datagrams: Option<udp::Receiver>,
    #[expect(clippy::vec_box, reason = "the kernel reads them where they are")]
    pub(super) messages: Vec<Box<Message>>,
    pub(super) messages_vacant: Vec<u32>,
    mailbox: RawFd,
    mailbox_armed: bool,
    signalled: bool,
    /// Whether a receive can be told how many bytes it is to take.
    pub(super) takes_limits: bool,
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

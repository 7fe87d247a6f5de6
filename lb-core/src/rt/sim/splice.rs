//! The simulated engine's splices: bytes move by way of memory, less of them and later than asked
//! for, as the seed has it.
//!
//! Invariant: as on a kernel, what a splice into a pipe took is in the pipe, and what it did not
//! take is still in the socket.
//! Read next: `network/`.

use std::collections::VecDeque;
use std::io;

use super::network::{Fd, Read};
use super::{Request, Sim, fd_of};
use crate::rt::pipe::{Kind, Pipe};
use crate::rt::socket::{Key, Slots};

/// Chance that a splice says that it would have to wait, although it need not.
const HESITATES_PER_MILLE: u32 = 100;
/// Most bytes of one splice: small, so that streams are cut in many places.
const MOVE_MAX: usize = 32 * 1024;

impl Sim {
    /// As on the two kinds of engine: a receive that completes later must be stopped, which takes
    /// a turn in which more may be received; one that completes at once is not under way.
    pub(crate) fn want_readiness(&mut self, slots: &mut Slots, key: Key) {
        let later = self.completes_later(slots, key);
        let slot = slots.get(key);
        if slot.armed && later {
            if !std::mem::replace(&mut slot.stopping, true) {
                self.ask(slots, key, Request::StopReceive);
            }
            return;
        }
        slot.armed = false;
        if !std::mem::replace(&mut slot.polled_in, true) {
            self.ask(slots, key, Request::TellReadiness);
        }
    }

    pub(super) fn stop_receive(&mut self, slots: &mut Slots, key: Key) {
        let slot = slots.get(key);
        slot.armed = false;
        slot.stopping = false;
        if slot.direct {
            slot.on_readable();
        } else if slot.recv_waker.is_some() && !slot.has_input() {
            self.want_input(slots, key);
        }
    }

    pub(super) fn tell_readiness(&mut self, slots: &mut Slots, key: Key) {
        let fd = fd_of(slots, key);
        slots.get(key).polled_in = false;
        if slots.get(key).direct && self.network.is_readable(fd) {
            slots.get(key).on_readable();
        }
    }

    pub(crate) fn open_pipe(&mut self) -> io::Result<Kind> {
        if self.network.lacks_descriptor() {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        Ok(Kind::Memory(VecDeque::new()))
    }

    pub(crate) fn splice_in(
        &mut self,
        slots: &mut Slots,
        key: Key,
        pipe: &mut Pipe,
        max: usize,
    ) -> io::Result<usize> {
        if self.network.chance(HESITATES_PER_MILLE) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut room = vec![0; max.min(MOVE_MAX)];
        let count = self.recv_direct(slots, key, &mut room)?;
        memory(pipe).extend(&room[..count]);
        pipe.set_len(count);
        Ok(count)
    }

    pub(crate) fn recv_direct(
        &mut self,
        slots: &mut Slots,
        key: Key,
        room: &mut [u8],
    ) -> io::Result<usize> {
        match self.network.read(fd_of(slots, key), room) {
            Read::Bytes(count) => Ok(count),
            Read::End => Ok(0),
            Read::Nothing => Err(io::ErrorKind::WouldBlock.into()),
            Read::Reset => Err(io::Error::from_raw_os_error(libc::ECONNRESET)),
        }
    }

    pub(crate) fn splice_out(
        &mut self,
        slots: &mut Slots,
        key: Key,
        pipe: &mut Pipe,
    ) -> io::Result<usize> {
        let fd: Fd = fd_of(slots, key);
        let bytes = memory(pipe);
        let (first, second) = bytes.as_slices();
        let count = self
            .network
            .write(fd, first, second)
            .map_err(io::Error::from_raw_os_error)?;
        bytes.drain(..count);
        let left = bytes.len();
        pipe.set_len(left);
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(count)
    }
}

/// The bytes of a pipe that this engine made.
fn memory(pipe: &mut Pipe) -> &mut VecDeque<u8> {
    match pipe.kind() {
        Kind::Memory(bytes) => bytes,
        Kind::Kernel { .. } => unreachable!("a pipe of another engine"),
    }
}

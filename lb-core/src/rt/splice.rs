//! Moving bytes from socket to socket inside of the kernel: readiness, and `splice(2)` by way of a
//! pipe.
//!
//! Invariant: what the runtime received into chunks is taken before what is left in the socket, so
//! that bytes keep their order when a reader changes from one way to the other.
//! Read next: `pipe.rs`, `net.rs` (the same streams by chunks).

use std::io;
use std::task::{Context, Poll};

use super::buffer::Chunk;
use super::net::{TcpStream, store, with_io};
use super::pipe::Pipe;
use super::runtime::Io;
use super::socket::Slot;

/// Where a stream's next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Received already, or the end or an error is known: `poll_recv` gives it at once.
    Received,
    /// Mostly in the socket, or the end or an error is: `splice_to` tells.
    InSocket,
}

impl TcpStream {
    /// Waits for input without receiving it; the runtime's own receive is stopped for that. The
    /// next `recv` starts it again. It takes the place of a waiting receive.
    pub fn poll_readable(&self, cx: &Context<'_>) -> Poll<Input> {
        with_io(|io| {
            let Io { slots, engine, .. } = io;
            let key = self.socket.key;
            let slot = slots.get(key);
            if let Some(input) = slot.input() {
                return Poll::Ready(input);
            }
            slot.direct = true;
            engine.want_readiness(slots, key);
            let slot = slots.get(key);
            if let Some(input) = slot.input() {
                return Poll::Ready(input);
            }
            store(&mut slot.recv_waker, cx);
            Poll::Pending
        })
    }

    /// Moves up to `max` bytes that wait in the socket into `pipe`, which is empty; 0 at the end
    /// of the stream. To be called when `poll_readable` said [`Input::InSocket`].
    ///
    /// # Errors
    /// `WouldBlock` when nothing waits. All others mean that bytes of this connection cannot be
    /// moved so; a receive then gives what there is, and the error if the connection failed.
    pub fn splice_to(&self, pipe: &mut Pipe, max: usize) -> io::Result<usize> {
        with_io(|io| {
            let Io { slots, engine, .. } = io;
            let key = self.socket.key;
            debug_assert!(!slots.get(key).has_input(), "bytes would change places");
            let taken = engine.splice_in(slots, key, pipe, max);
            let slot = slots.get(key);
            slot.readable = engine.may_have_more(&taken, max);
            on_taken(slot, taken)
        })
    }

    /// Receives up to `max` bytes that wait in the socket into a buffer larger than those that are
    /// lent, which takes 128 KiB; an empty chunk at the end of the stream. To be called as `splice_to`, where bulk data is to be
    /// copied. `None` when too many such buffers are held: the bytes are to be received as usual.
    ///
    /// # Errors
    /// As `splice_to`.
    pub fn recv_large(&self, max: usize) -> Option<io::Result<Chunk>> {
        with_io(|io| {
            let Io { slots, engine, .. } = io;
            let key = self.socket.key;
            debug_assert!(!slots.get(key).has_input(), "bytes would change places");
            Chunk::large(|room| {
                let most = room.len().min(max);
                let room = &mut room[..most];
                let taken = engine.recv_direct(slots, key, room);
                let slot = slots.get(key);
                // Without more than there was, the last call is not short: it meets the end.
                slot.readable = taken
                    .as_ref()
                    .is_ok_and(|count| *count == room.len() || slot.hung_up);
                on_taken(slot, taken)
            })
        })
    }

    /// Moves bytes out of `pipe`, which has some, to the peer; how many. Waits for the send before
    /// it, and for room.
    ///
    /// # Errors
    /// What ended the connection, EPIPE or ECONNRESET mostly, in this or an earlier send. What is
    /// still in the pipe was not sent.
    pub fn poll_splice_from(&self, cx: &Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        with_io(|io| {
            let Io { slots, engine, .. } = io;
            let key = self.socket.key;
            let slot = slots.get(key);
            if let Some(error) = slot.send_failure() {
                return Poll::Ready(Err(error));
            }
            if slot.is_sending() || !slot.writable {
                store(&mut slot.send_waker, cx);
                return Poll::Pending;
            }
            match engine.splice_out(slots, key, pipe) {
                Ok(count) => Poll::Ready(Ok(count)),
                Err(error) if is_would_block(&error) => {
                    let slot = slots.get(key);
                    slot.writable = false;
                    store(&mut slot.send_waker, cx);
                    engine.want_room(slots, key);
                    Poll::Pending
                }
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    slots.get(key).on_send_error(errno);
                    Poll::Ready(Err(error))
                }
            }
        })
    }
}

/// Notes the end or the error of a reader that takes from the socket itself.
fn on_taken(slot: &mut Slot, taken: io::Result<usize>) -> io::Result<usize> {
    match taken {
        Ok(0) => {
            slot.on_end();
            match slot.error {
                0 => Ok(0),
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        }
        Err(error) if !is_would_block(&error) && !is_refusal(&error) => {
            slot.on_error(error.raw_os_error().unwrap_or(libc::EIO));
            Err(error)
        }
        taken => taken,
    }
}

fn is_would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Errors that are the system's, not the connection's: nothing was taken.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBADF | libc::EINVAL | libc::ENOMEM | libc::ENOSYS | libc::EPERM)
    )
}

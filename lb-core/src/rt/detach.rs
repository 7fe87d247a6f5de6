//! Idle connections that go from one thread's runtime to another's.
//!
//! Invariant: a connection is handed over only when nothing was received that nobody took, and the
//! engine has no operation of it; what its peer says on the way ends it.
//! Read next: `net.rs` (the streams), `engine.rs` (`let_go`).

use std::fmt;
use std::future::poll_fn;
use std::os::fd::RawFd;
use std::task::{Context, Poll};

use super::net::{TcpStream, store, with_io};
use super::runtime::Io;
use super::socket::Slots;
use super::sys;

/// An idle connection that belongs to no runtime. Dropping it closes it.
pub struct Detached {
    fd: RawFd,
}

impl TcpStream {
    /// Takes an idle connection away from this runtime, so that it can be sent to another thread;
    /// `None`, and it is closed, when it is not idle: something was received or is being sent, or
    /// it has ended. Always `None` on the `sim` engine. Dropping the future closes the connection.
    pub async fn detach(self) -> Option<Detached> {
        poll_fn(|cx| self.poll_detach(cx)).await
    }

    fn poll_detach(&self, cx: &Context<'_>) -> Poll<Option<Detached>> {
        with_io(|io| {
            let Io { slots, engine, .. } = io;
            let key = self.socket.key;
            let slot = slots.get(key);
            if slot.has_input() || slot.is_sending() || slot.send_error != 0 || slot.watched {
                return Poll::Ready(None);
            }
            slot.direct = true; // a receive that ends is not begun again
            match engine.let_go(slots, key) {
                Err(_) => Poll::Ready(None),
                Ok(true) => Poll::Ready(Some(take(slots, key))),
                Ok(false) => {
                    let slot = slots.get(key);
                    store(&mut slot.recv_waker, cx);
                    store(&mut slot.send_waker, cx);
                    Poll::Pending
                }
            }
        })
    }
}

/// Vacates the slot, and leaves its descriptor open.
fn take(slots: &mut Slots, key: super::socket::Key) -> Detached {
    let fd = slots.get(key).fd;
    slots.abandon(key);
    slots.vacate_if_done(key);
    Detached { fd }
}

impl Detached {
    /// Takes the connection into service on the calling thread's runtime; `None`, and it is
    /// closed, when its peer has ended it or has spoken meanwhile, or it cannot be watched.
    #[must_use]
    pub fn attach(self) -> Option<TcpStream> {
        if sys::peek_ready(self.fd) {
            return None;
        }
        let fd = std::mem::ManuallyDrop::new(self).fd; // the slot's from here on
        let stream = with_io(|io| TcpStream::attach(io, fd)).ok()?;
        // From here on the engine looks whether it ends.
        (!stream.is_stale()).then_some(stream)
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        sys::close(self.fd);
    }
}

impl fmt::Debug for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Detached").field(&self.fd).finish()
    }
}

//! Pipes through which `splice(2)` moves bytes from socket to socket, pooled by runtime.
//!
//! Invariant: a pipe has one holder. The pool takes back only what is empty: a pipe with bytes in
//! it is closed, so that no session ever sees another's bytes.
//! Read next: `splice.rs` (sockets and pipes together).
#![allow(unsafe_code, reason = "system calls")]

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::context;

/// Bytes asked for in a pipe: the most that an unprivileged process gets by default.
const CAPACITY: usize = 1024 * 1024;
/// What is asked for when that is refused: a user's pages for pipes are limited, too.
const CAPACITY_MODEST: usize = 256 * 1024;
/// A smaller pipe moves no more with a call than copying does: there is no use for it.
const CAPACITY_LEAST: usize = 64 * 1024;
/// Empty pipes that wait for use: what sessions hold while their sinks are full comes and goes.
const IDLE_MAX: usize = 64;
/// Pipes of a runtime in use at once: slow readers may hold that many MiB of the kernel's memory.
const IN_USE_MAX: usize = 256;

/// A pipe between two sockets. Dropped empty, it waits for its next use.
pub struct Pipe {
    ends: ManuallyDrop<Box<Ends>>,
    not_send: PhantomData<*const ()>,
}

/// What a pipe is made of.
pub(crate) struct Ends {
    pub(crate) kind: Kind,
    /// Bytes inside.
    len: usize,
}

pub(crate) enum Kind {
    Kernel {
        read: OwnedFd,
        write: OwnedFd,
    },
    /// sim: the bytes themselves.
    Memory(VecDeque<u8>),
}

impl Pipe {
    /// An empty pipe; none when descriptors, the user's pages or the runtime's own limit are used
    /// up: then the bytes are to be copied.
    ///
    /// # Panics
    /// Outside of a runtime.
    #[must_use]
    pub fn acquire() -> Option<Self> {
        context::with(|core| {
            let io = &mut *core.io.borrow_mut();
            io.pipes.acquire(|| io.engine.open_pipe())
        })
    }

    /// Bytes inside.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len
    }

    /// True without bytes inside.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.len == 0
    }

    pub(crate) fn kind(&mut self) -> &mut Kind {
        &mut self.ends.kind
    }

    /// Moves what `fd`, a stream socket, has received into the pipe, `max` bytes at most. 0 at
    /// the end of the stream. The pipe must be empty: else a full one looks like a socket without
    /// input, as both say `WouldBlock`.
    pub(crate) fn fill(&mut self, fd: RawFd, max: usize) -> io::Result<usize> {
        debug_assert!(self.is_empty(), "a full pipe looks like an idle socket");
        let Kind::Kernel { write, .. } = &self.ends.kind else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let count = splice(fd, write.as_raw_fd(), max)?;
        self.ends.len += count;
        Ok(count)
    }

    /// Moves bytes out of the pipe into the stream socket `fd`.
    pub(crate) fn drain(&mut self, fd: RawFd) -> io::Result<usize> {
        let Kind::Kernel { read, .. } = &self.ends.kind else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let count = splice(read.as_raw_fd(), fd, self.ends.len)?;
        self.ends.len -= count;
        Ok(count)
    }

    /// sim: bytes have been put into the pipe's memory, or taken out of it.
    pub(crate) fn set_len(&mut self, len: usize) {
        self.ends.len = len;
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // SAFETY: this is the drop, after which nothing uses `ends`.
        let ends = unsafe { ManuallyDrop::take(&mut self.ends) };
        // Outside of a runtime there is no pool any more: it is closed.
        context::try_with(|core| core.io.borrow_mut().pipes.release(ends));
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").field("len", &self.ends.len).finish()
    }
}

/// The pipes of a runtime.
#[derive(Default)]
pub(crate) struct Pipes {
    #[expect(clippy::vec_box, reason = "a `Pipe` is this box")]
    idle: Vec<Box<Ends>>,
    in_use: usize,
    uses: u64,
}

impl Pipes {
    /// Pipes that are held.
    pub(crate) const fn in_use(&self) -> usize {
        self.in_use
    }

    /// Times that a pipe was taken.
    pub(crate) const fn uses(&self) -> u64 {
        self.uses
    }

    fn acquire(&mut self, open: impl FnOnce() -> io::Result<Kind>) -> Option<Pipe> {
        if self.in_use >= IN_USE_MAX {
            return None;
        }
        let ends = match self.idle.pop() {
            Some(ends) => ends,
            None => Box::new(Ends {
                kind: open().ok()?,
                len: 0,
            }),
        };
        self.in_use += 1;
        self.uses += 1;
        Some(Pipe {
            ends: ManuallyDrop::new(ends),
            not_send: PhantomData,
        })
    }

    fn release(&mut self, ends: Box<Ends>) {
        // One that outlived its runtime may come back to the next one's pool.
        self.in_use = self.in_use.saturating_sub(1);
        if ends.len == 0 && self.idle.len() < IDLE_MAX {
            self.idle.push(ends);
        }
    }
}

/// Opens a pipe as large as the system lets us.
pub(crate) fn open() -> io::Result<Kind> {
    let mut ends = [0; 2];
    // SAFETY: two descriptors are written to `ends`.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: new descriptors, which nobody else has.
    let [read, write] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    if set_capacity(&write, CAPACITY).is_err() {
        let _ = set_capacity(&write, CAPACITY_MODEST); // what it has may do
    }
    if capacity(&write)? < CAPACITY_LEAST {
        return Err(io::ErrorKind::QuotaExceeded.into());
    }
    Ok(Kind::Kernel { read, write })
}

fn set_capacity(pipe: &OwnedFd, bytes: usize) -> io::Result<()> {
    // SAFETY: no pointers.
    match unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, bytes as libc::c_int) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn capacity(pipe: &OwnedFd) -> io::Result<usize> {
    // SAFETY: no pointers.
    let bytes = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_GETPIPE_SZ) };
    usize::try_from(bytes).map_err(|_| io::Error::last_os_error())
}

/// Moves bytes without waiting. A socket that is closed for sending raises SIGPIPE, which Rust
/// programs ignore: splice has no MSG_NOSIGNAL.
fn splice(from: RawFd, to: RawFd, max: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    let none = std::ptr::null_mut();
    loop {
        // SAFETY: without offsets no memory is referred to.
        let count = unsafe { libc::splice(from, none, to, none, max, flags) };
        let moved = usize::try_from(count).map_err(|_| io::Error::last_os_error());
        if !matches!(&moved, Err(error) if error.kind() == io::ErrorKind::Interrupted) {
            return moved;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_takes_back_empty_pipes_only() {
        let mut pipes = Pipes::default();
        let open = || Ok(Kind::Memory(VecDeque::new()));
        let first = pipes.acquire(open).expect("a pipe");
        let mut second = pipes.acquire(open).expect("a pipe");
        second.set_len(1);
        assert_eq!(pipes.in_use(), 2);
        for pipe in [first, second] {
            let mut pipe = ManuallyDrop::new(pipe);
            // SAFETY: the pipe itself is never dropped.
            pipes.release(unsafe { ManuallyDrop::take(&mut pipe.ends) });
        }
        assert_eq!((pipes.in_use(), pipes.idle.len()), (0, 1));
        let refused = || Err(io::ErrorKind::QuotaExceeded.into());
        assert!(pipes.acquire(refused).is_some_and(|pipe| {
            let pipe = ManuallyDrop::new(pipe);
            pipe.is_empty()
        }));
        assert!(pipes.acquire(refused).is_none());
    }

    #[test]
    fn a_pipe_is_large() {
        let Ok(Kind::Kernel { write, .. }) = open() else {
            return; // this user's pages for pipes are used up
        };
        assert!(capacity(&write).expect("a capacity") >= CAPACITY_LEAST);
    }
}

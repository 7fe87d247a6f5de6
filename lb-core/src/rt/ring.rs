//! The ring of buffers lent to the kernel, from which receives take theirs: one for streams, one
//! for datagrams.
//!
//! Invariant: a buffer's number is in the kernel's ring, or in the pool's or a chunk's hands,
//! never in both; `lent` counts the former.
//! Read next: `buffer.rs`.
#![allow(unsafe_code, reason = "memory shared with the kernel")]

use std::io;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use super::buffer::{CAPACITY, pool};
use super::sys;

/// The group of buffers that a worker's streams receive into.
pub(crate) const GROUP: u16 = Streams::GROUP;
/// Buffers lent at first: 1 MiB, which stays in the second-level cache.
const LENT_FIRST: u16 = 64;

/// Whose buffers a ring lends. A number taken with `acquire` is its holder's alone until it is
/// given back with `release`, and has `CAPACITY` bytes at its address meanwhile.
pub(crate) trait Lender {
    /// Names the ring to the kernel.
    const GROUP: u16;
    const CAPACITY: usize;
    fn acquire() -> Option<u16>;
    fn address(number: u16) -> NonNull<u8>;
    fn release(number: u16);
}

/// The pool of buffers for streams.
pub(crate) struct Streams;

impl Lender for Streams {
    const GROUP: u16 = 0;
    const CAPACITY: usize = CAPACITY;

    fn acquire() -> Option<u16> {
        pool().acquire()
    }

    fn address(number: u16) -> NonNull<u8> {
        pool().address(number)
    }

    fn release(number: u16) {
        pool().release(number);
    }
}

pub(crate) struct BufferRing<L = Streams> {
    entries: NonNull<BufRingEntry>,
    count: u16,
    tail: u16,
    lent: u16,
    /// Buffers to keep lent; doubles when receives find none.
    target: u16,
    lender: PhantomData<L>,
}

impl<L: Lender> BufferRing<L> {
    /// Entries of the ring, so the most buffers that are ever lent at once.
    pub(crate) const ENTRIES: u16 = 1024;

    /// Registers an empty ring of `count` entries, a power of two.
    pub(crate) fn register(submitter: &Submitter<'_>, count: u16) -> io::Result<Self> {
        let bytes = Self::bytes(count);
        let memory = sys::map_anonymous(bytes)?;
        // SAFETY: page-aligned, zeroed, `bytes` long, and unmapped only by `unregister`, or when
        // the process ends.
        let registered = unsafe {
            submitter.register_buf_ring_with_flags(memory.addr() as u64, count, L::GROUP, 0)
        };
        if let Err(error) = registered {
            // SAFETY: refused, so the kernel does not refer to it; nor does anyone else yet.
            unsafe { sys::unmap(memory, bytes) };
            return Err(error);
        }
        let entries = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            entries,
            count,
            tail: 0,
            lent: 0,
            target: LENT_FIRST.min(count),
            lender: PhantomData,
        })
    }

    fn bytes(count: u16) -> usize {
        usize::from(count) * size_of::<BufRingEntry>()
    }

    pub(crate) fn lent(&self) -> usize {
        usize::from(self.lent)
    }

    /// A completion brought one of the buffers back.
    pub(crate) const fn on_taken(&mut self) {
        self.lent -= 1;
    }

    /// A receive found no buffer: lend more from now on.
    pub(crate) fn grow(&mut self) {
        self.target = (self.target * 2).min(self.count);
    }

    /// Lends buffers up to the target; returns how many the kernel has.
    pub(crate) fn refill(&mut self) -> usize {
        let before = self.tail;
        while self.lent < self.target {
            let Some(number) = L::acquire() else {
                break;
            };
            let at = usize::from(self.tail & (self.count - 1));
            // SAFETY: `at` is below `count`. The kernel does not read entries at or past the tail.
            let entry = unsafe { self.entries.add(at).as_mut() };
            entry.set_addr(L::address(number).addr().get() as u64);
            entry.set_len(L::CAPACITY as u32);
            entry.set_bid(number);
            self.tail = self.tail.wrapping_add(1);
            self.lent += 1;
        }
        if self.tail != before {
            self.publish();
        }
        self.lent()
    }

    fn publish(&self) {
        // SAFETY: the entries are a registered ring, in which the tail lies.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: valid as long as the ring; shared with the kernel, so atomic; release, so that
        // the entries are seen before it.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }.store(self.tail, Ordering::Release);
    }

    /// Takes the ring back from the kernel, and its buffers to the pool.
    pub(crate) fn unregister(&mut self, submitter: &Submitter<'_>) {
        if submitter.unregister_buf_ring(L::GROUP).is_err() {
            return; // the kernel may still write: leak it all
        }
        for back in 1..=self.lent {
            let at = usize::from(self.tail.wrapping_sub(back) & (self.count - 1));
            // SAFETY: `at` is below `count`; the kernel has let go of the ring.
            let entry = unsafe { self.entries.add(at).as_ref() };
            L::release(entry.bid());
        }
        self.lent = 0;
        // SAFETY: the mapping made in `register`, which nothing refers to any more.
        unsafe { sys::unmap(self.entries.as_ptr().cast(), Self::bytes(self.count)) };
    }
}

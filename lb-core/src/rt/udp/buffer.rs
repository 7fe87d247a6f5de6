//! Buffers for datagrams: a pool of its own a thread, each wide enough for the largest that UDP
//! can bring, and the received datagrams that lie in them.
//!
//! Invariant: a buffer has one holder at a time (the free list, an engine, or the `Datagrams` that
//! share it, counted), and the pool's memory lives as long as any of them.
//! Read next: `socket.rs` (queues of received buffers), `sys.rs`.
#![allow(
    unsafe_code,
    reason = "memory that the kernel writes to cannot be borrowed by rustc"
)]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::slice;

use crate::rt::ring::Lender;
use crate::rt::sys as system;

/// Room in front of a payload, for what a multishot receive writes there.
pub(crate) const HEADROOM: usize = 128;
/// Bytes in one buffer: what one receive gives at most, one datagram or many of one sender.
pub(crate) const CAPACITY: usize = HEADROOM + 65_536;
/// Distance between buffers, an odd number of cache lines: see the buffers for streams.
const STRIDE: usize = CAPACITY + 64;
/// Buffers in a thread's pool: address space only, memory is taken when one is first written.
const COUNT: usize = 1024;

thread_local! {
    static POOL: Cell<Option<&'static Pool>> = const { Cell::new(None) };
    static POOL_OWNER: PoolOwner = const { PoolOwner };
}

/// Frees the thread's pool when the thread ends, if nothing of it is held any more.
struct PoolOwner;

impl Drop for PoolOwner {
    fn drop(&mut self) {
        let Some(pool) = POOL.take() else { return };
        if pool.in_use.get() > 0 {
            return; // held by another thread-local, or by memory that was forgotten: leak it
        }
        // SAFETY: made by Box::leak in `make_pool`; nothing refers to it: nothing is in use, and
        // the thread-local pointer is gone.
        let pool = unsafe { Box::from_raw(ptr::from_ref(pool).cast_mut()) };
        // SAFETY: the mapping of this pool, to which nothing refers as nothing is in use.
        unsafe { system::unmap(pool.base.as_ptr(), STRIDE * COUNT) };
    }
}

/// The calling thread's pool, made at first use.
pub(crate) fn pool() -> &'static Pool {
    POOL.get().unwrap_or_else(make_pool)
}

/// Buffers of the calling thread that are lent out; makes no pool.
pub(crate) fn in_use() -> usize {
    POOL.get().map_or(0, |pool| pool.in_use.get())
}

/// Ends one holder of a buffer, unless the thread is ending and its pool is gone.
pub(crate) fn release(number: u16) {
    if let Some(pool) = POOL.get() {
        pool.release(number);
    }
}

#[cold]
fn make_pool() -> &'static Pool {
    let base = system::map_anonymous(STRIDE * COUNT)
        .ok()
        .and_then(NonNull::new);
    let base = base.expect("64 MiB of address space for a thread's datagrams");
    let pool: &'static Pool = Box::leak(Box::new(Pool::new(base)));
    POOL.set(Some(pool));
    let _ = POOL_OWNER.try_with(|_| {}); // registers the destructor
    pool
}

/// Where in its buffer a receive has put what, and whose it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// First byte of the payload.
    pub(crate) start: u32,
    pub(crate) len: u32,
    /// Bytes of each datagram but the last, which may be shorter.
    pub(crate) segment: u32,
    pub(crate) peer: SocketAddr,
    pub(crate) local: IpAddr,
}

struct Slot {
    refs: Cell<u32>,
    next: Cell<u16>,
    arrival: Cell<Arrival>,
}

impl Slot {
    const fn new() -> Self {
        let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self {
            refs: Cell::new(0),
            next: Cell::new(0),
            arrival: Cell::new(Arrival {
                start: 0,
                len: 0,
                segment: 0,
                peer: SocketAddr::new(nobody, 0),
                local: nobody,
            }),
        }
    }
}

pub(crate) struct Pool {
    base: NonNull<u8>,
    slots: Box<[Slot]>,
    /// Returned buffers, the warmest on top.
    free: RefCell<Vec<u16>>,
    /// Buffers from here on were never used.
    fresh: Cell<usize>,
    in_use: Cell<usize>,
}

impl Pool {
    fn new(base: NonNull<u8>) -> Self {
        Self {
            base,
            slots: (0..COUNT).map(|_| Slot::new()).collect(),
            free: RefCell::default(),
            fresh: Cell::new(0),
            in_use: Cell::new(0),
        }
    }

    /// A buffer for the caller alone; `None` when all are in use.
    pub(crate) fn acquire(&self) -> Option<u16> {
        let number = match self.free.borrow_mut().pop() {
            Some(number) => number,
            None if self.fresh.get() < COUNT => {
                let fresh = self.fresh.get();
                self.fresh.set(fresh + 1);
                fresh as u16
            }
            None => return None,
        };
        self.slots[usize::from(number)].refs.set(1);
        self.in_use.set(self.in_use.get() + 1);
        Some(number)
    }

    /// Ends one holder of a buffer.
    pub(crate) fn release(&self, number: u16) {
        let slot = &self.slots[usize::from(number)];
        let refs = slot.refs.get() - 1;
        slot.refs.set(refs);
        if refs == 0 {
            self.in_use.set(self.in_use.get() - 1);
            self.free.borrow_mut().push(number);
        }
    }

    fn share(&self, number: u16) {
        let refs = &self.slots[usize::from(number)].refs;
        refs.set(refs.get() + 1);
    }

    pub(crate) fn address(&self, number: u16) -> NonNull<u8> {
        assert!(usize::from(number) < COUNT);
        // SAFETY: inside of the mapping of STRIDE * COUNT bytes.
        unsafe { self.base.add(usize::from(number) * STRIDE) }
    }

    /// The whole of a buffer, for an engine that has acquired it and not yet passed it on.
    #[expect(
        clippy::mut_from_ref,
        reason = "the caller is the buffer's only holder"
    )]
    pub(crate) fn room(&self, number: u16) -> &mut [u8] {
        debug_assert_eq!(self.slots[usize::from(number)].refs.get(), 1);
        // SAFETY: CAPACITY bytes of the mapping, initialised (anonymous pages are zero), with no
        // other holder: the caller acquired it and has not shared it.
        unsafe { slice::from_raw_parts_mut(self.address(number).as_ptr(), CAPACITY) }
    }
}

/// The wide buffers as a ring of lent ones takes them.
pub(crate) struct Wide;

impl Lender for Wide {
    const GROUP: u16 = 1;
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

/// Received buffers waiting in order, linked through the pool: no memory of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queue {
    head: u16,
    tail: u16,
    count: u16,
}

impl Queue {
    pub(crate) const fn new() -> Self {
        Self {
            head: 0,
            tail: 0,
            count: 0,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.count as usize
    }

    /// Appends a buffer that its owner gives up.
    pub(crate) fn push(&mut self, number: u16, arrival: Arrival) {
        debug_assert!(arrival.start as usize + arrival.len as usize <= CAPACITY);
        let pool = pool();
        pool.slots[usize::from(number)].arrival.set(arrival);
        if self.count == 0 {
            self.head = number;
        } else {
            pool.slots[usize::from(self.tail)].next.set(number);
        }
        self.tail = number;
        self.count += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<Received> {
        if self.count == 0 {
            return None;
        }
        let number = self.head;
        let slot = &pool().slots[usize::from(number)];
        self.head = slot.next.get();
        self.count -= 1;
        let arrival = slot.arrival.get();
        Some(Received {
            datagrams: Datagrams {
                owner: Owner::Pool(number),
                start: arrival.start,
                len: arrival.len,
                segment: arrival.segment,
                not_send: PhantomData,
            },
            peer: arrival.peer,
            local: arrival.local,
        })
    }
}

/// What one receive brought: datagrams of one sender, and between which addresses they went.
#[derive(Debug)]
pub struct Received {
    /// The datagrams, at least one.
    pub datagrams: Datagrams,
    /// Who sent them; an IPv4 peer of a dual-stack socket shows as IPv4.
    pub peer: SocketAddr,
    /// Our address that they were sent to.
    pub local: IpAddr,
}

/// One or more datagrams in a row, all of one size but the last, which may be shorter: as they
/// are received (UDP_GRO) and sent (UDP_SEGMENT) at once. The buffer is lent by the runtime;
/// dropping gives it back.
pub struct Datagrams {
    owner: Owner,
    /// First byte, counted from the start of the owner's memory.
    start: u32,
    len: u32,
    segment: u32,
    not_send: PhantomData<*const ()>,
}

enum Owner {
    Pool(u16),
    Heap(Rc<[u8]>),
}

impl Datagrams {
    /// Largest payload of one datagram over IPv4, in bytes.
    pub const DATAGRAM_MAX: usize = 65_507;

    /// One datagram with a copy of `bytes`, which may be empty. Sending more than
    /// [`DATAGRAM_MAX`](Self::DATAGRAM_MAX) fails.
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Self {
        Self::train(bytes, bytes.len())
    }

    /// A copy of `bytes` as datagrams of `segment` bytes each, the last with what is left.
    ///
    /// # Panics
    /// With a `segment` of 0 and bytes, or more than 65,535 bytes.
    #[must_use]
    pub fn train(bytes: &[u8], segment: usize) -> Self {
        assert!(segment > 0 || bytes.is_empty(), "segments of no bytes");
        assert!(bytes.len() <= 65_535, "more than fits one send");
        let (owner, start) = pool().acquire().map_or_else(
            || (Owner::Heap(bytes.into()), 0),
            |number| {
                pool().room(number)[HEADROOM..][..bytes.len()].copy_from_slice(bytes);
                (Owner::Pool(number), HEADROOM as u32)
            },
        );
        Self {
            owner,
            start,
            len: bytes.len() as u32,
            segment: segment.min(bytes.len()) as u32,
            not_send: PhantomData,
        }
    }

    /// Bytes of each datagram but the last, which has as many or fewer; 0 for an empty one.
    #[must_use]
    pub const fn segment(&self) -> usize {
        self.segment as usize
    }

    /// How many datagrams these are, at least 1.
    #[must_use]
    pub fn count(&self) -> usize {
        if self.segment == 0 {
            1
        } else {
            self.len().div_ceil(self.segment as usize)
        }
    }

    /// Each datagram's payload, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let segment = self.segment().max(1);
        (0..self.count()).map(move |at| {
            let start = at * segment;
            &self[start..self.len().min(start + segment)]
        })
    }

    /// Splits off the first `count` datagrams, fewer than there are. Both parts hold the buffer;
    /// nothing is copied.
    ///
    /// # Panics
    /// With as many datagrams as there are, or none.
    #[must_use]
    pub fn split_to(&mut self, count: usize) -> Self {
        assert!(0 < count && count < self.count(), "a part of the datagrams");
        let bytes = count as u32 * self.segment;
        let mut first = self.share();
        first.len = bytes;
        self.start += bytes;
        self.len -= bytes;
        self.segment = self.segment.min(self.len);
        first
    }

    /// Cuts the first `count` bytes off a single datagram; nothing is copied.
    ///
    /// # Panics
    /// With several datagrams, or fewer bytes.
    pub fn advance(&mut self, count: usize) {
        assert!(
            self.count() == 1 && count <= self.len(),
            "a part of one datagram"
        );
        self.start += count as u32;
        self.len -= count as u32;
        self.segment = self.len;
    }

    /// A second holder of the same datagrams; nothing is copied.
    #[must_use]
    pub fn share(&self) -> Self {
        let owner = match &self.owner {
            Owner::Pool(number) => {
                pool().share(*number);
                Owner::Pool(*number)
            }
            Owner::Heap(bytes) => Owner::Heap(Rc::clone(bytes)),
        };
        Self { owner, ..*self }
    }
}

impl Deref for Datagrams {
    type Target = [u8];

    /// All payloads, one after the other.
    fn deref(&self) -> &[u8] {
        let (start, len) = (self.start as usize, self.len as usize);
        match &self.owner {
            Owner::Pool(number) => {
                let buffer = pool().address(*number);
                // SAFETY: `start` and `len` are inside of the buffer: see `Queue::push`, `train`
                // and `split_to`.
                let first = unsafe { buffer.add(start) };
                // SAFETY: initialised bytes inside of a buffer that this holds; nobody writes to
                // a buffer that `Datagrams` hold.
                unsafe { slice::from_raw_parts(first.as_ptr(), len) }
            }
            Owner::Heap(bytes) => &bytes[start..start + len],
        }
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        // Without a pool the thread is ending and the pool was leaked for this one's sake.
        if let Owner::Pool(number) = &self.owner {
            release(*number);
        }
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Datagrams({} of {} bytes)", self.count(), self.segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_train_falls_into_its_datagrams() {
        let sizes = |bytes: usize, segment: usize| {
            let train = Datagrams::train(&vec![7; bytes], segment);
            let sizes: Vec<_> = train.iter().map(<[u8]>::len).collect();
            assert_eq!(sizes.len(), train.count());
            sizes
        };
        assert_eq!(sizes(10, 4), [4, 4, 2]);
        assert_eq!(sizes(8, 4), [4, 4]);
        assert_eq!(sizes(3, 4), [3]);
        assert_eq!(sizes(0, 0), [0], "an empty datagram is one");
    }

    #[test]
    fn parts_of_a_train_are_trains() {
        let mut rest = Datagrams::train(b"aabbccd", 2);
        let first = rest.split_to(1);
        assert_eq!((first.count(), &first[..]), (1, &b"aa"[..]));
        assert_eq!((rest.count(), &rest[..]), (3, &b"bbccd"[..]));
        let second = rest.split_to(2);
        assert_eq!((second.count(), &second[..]), (2, &b"bbcc"[..]));
        assert_eq!((rest.count(), rest.segment(), &rest[..]), (1, 1, &b"d"[..]));
    }

    #[test]
    fn an_exhausted_pool_is_no_failure_and_all_comes_back() {
        let before = in_use();
        let mut held: Vec<_> = (0..COUNT + 10)
            .map(|at| Datagrams::copy_from(&at.to_le_bytes()))
            .collect();
        assert!(pool().acquire().is_none());
        let last = held.pop().expect("one").share();
        assert_eq!(last[..], (COUNT + 9).to_le_bytes());
        drop(held);
        assert_eq!(in_use(), before);
    }

    #[test]
    fn shared_datagrams_hold_their_buffer_together() {
        let before = in_use();
        let first = Datagrams::copy_from(b"abc");
        let second = first.share();
        drop(first);
        assert_eq!(in_use(), before + 1);
        assert_eq!(second[..], *b"abc");
        drop(second);
        assert_eq!(in_use(), before);
    }
}

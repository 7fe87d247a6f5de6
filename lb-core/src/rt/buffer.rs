//! Buffers: one pool a thread, lent to the kernel for receives and to tasks as `Chunk`s.
//!
//! Invariant: a buffer has one holder at a time (the free list, an engine, or the `Chunk`s that
//! share it, counted), and the pool's memory lives as long as any of them.
//! Read next: `socket.rs` (queues of received buffers), `uring.rs` (lending to the kernel).
#![allow(
    unsafe_code,
    reason = "memory that the kernel writes to cannot be borrowed by rustc"
)]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::slice;

use super::sys;

/// Bytes in one buffer of the pool.
pub(crate) const CAPACITY: usize = 16 * 1024;
/// Distance between buffers. The three odd cache lines spread their first bytes over the sets of
/// the L1 cache, where a multiple of the page size would put all of them into one.
const STRIDE: usize = CAPACITY + 192;
/// Buffers in a thread's pool: address space only, memory is taken when one is first written.
const COUNT: usize = 16 * 1024;

/// Bytes in a large buffer, for bulk data: each call of the kernel costs, however much it moves.
/// A receive and a send of so many leave room in a second-level cache.
pub(crate) const LARGE: usize = 128 * 1024;
/// Large buffers of a thread that chunks may hold: slow readers must not take all memory.
const LARGE_MAX: usize = 256;
/// Large buffers that are kept for their next use.
const LARGE_IDLE_MAX: usize = 16;

/// `Chunk::owner` of memory that is never given back.
const STATIC: u32 = u32::MAX;
/// Set in `owner` for memory on the heap; the rest is its index.
const HEAP: u32 = 1 << 31;

const _: () = assert!(COUNT < u16::MAX as usize, "a buffer's number fits 16 bits");

thread_local! {
    static POOL: Cell<Option<&'static Pool>> = const { Cell::new(None) };
    static POOL_OWNER: PoolOwner = const { PoolOwner };
}

/// Frees the thread's pool when the thread ends, if nothing of it is held any more.
struct PoolOwner;

impl Drop for PoolOwner {
    fn drop(&mut self) {
        let Some(pool) = POOL.take() else { return };
        if pool.in_use.get() > 0 || pool.heap.borrow().live() > 0 {
            return; // held by another thread-local, or by memory that was forgotten: leak it
        }
        // SAFETY: made by Box::leak in `pool`; nothing refers to it: nothing is in use, and the
        // thread-local pointer is gone.
        let pool = unsafe { Box::from_raw(ptr::from_ref(pool).cast_mut()) };
        // SAFETY: the mapping of this pool, to which nothing refers as nothing is in use.
        unsafe { sys::unmap(pool.base.as_ptr(), STRIDE * COUNT) };
    }
}

/// The calling thread's pool, made at first use.
pub(crate) fn pool() -> &'static Pool {
    POOL.get().unwrap_or_else(make_pool)
}

#[cold]
fn make_pool() -> &'static Pool {
    let base = sys::map_anonymous(STRIDE * COUNT)
        .ok()
        .and_then(NonNull::new);
    let base = base.expect("256 MiB of address space for a thread's buffer pool");
    let pool: &'static Pool = Box::leak(Box::new(Pool::new(base)));
    POOL.set(Some(pool));
    let _ = POOL_OWNER.try_with(|_| {}); // registers the destructor
    pool
}

/// Numbers of buffers waiting in order, linked through the pool: no memory of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queue {
    head: u16,
    tail: u16,
    count: u16,
}

impl Queue {
    const NONE: u16 = u16::MAX;

    pub(crate) const fn new() -> Self {
        Self {
            head: Self::NONE,
            tail: Self::NONE,
            count: 0,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.count as usize
    }

    /// Appends a buffer that its owner gives up, with `len` bytes written.
    pub(crate) fn push(&mut self, number: u16, len: usize) {
        let pool = pool();
        let slot = &pool.slots[usize::from(number)];
        slot.next.set(Self::NONE);
        slot.len.set(len as u32);
        if self.count == 0 {
            self.head = number;
        } else {
            pool.slots[usize::from(self.tail)].next.set(number);
        }
        self.tail = number;
        self.count += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<Chunk> {
        if self.count == 0 {
            return None;
        }
        let number = self.head;
        let slot = &pool().slots[usize::from(number)];
        self.head = slot.next.get();
        self.count -= 1;
        Some(Chunk::lent(number, slot.len.get()))
    }
}

struct Slot {
    refs: Cell<u32>,
    len: Cell<u32>,
    next: Cell<u16>,
}

pub(crate) struct Pool {
    base: NonNull<u8>,
    slots: Box<[Slot]>,
    /// Returned buffers, the warmest on top.
    free: RefCell<Vec<u16>>,
    /// Buffers from here on were never used.
    fresh: Cell<usize>,
    in_use: Cell<usize>,
    in_use_max: Cell<usize>,
    heap: RefCell<Heap>,
}

impl Pool {
    fn new(base: NonNull<u8>) -> Self {
        let slot = || Slot {
            refs: Cell::new(0),
            len: Cell::new(0),
            next: Cell::new(0),
        };
        Self {
            base,
            slots: (0..COUNT).map(|_| slot()).collect(),
            free: RefCell::default(),
            fresh: Cell::new(0),
            in_use: Cell::new(0),
            in_use_max: Cell::new(COUNT),
            heap: RefCell::default(),
        }
    }

    /// Limits the buffers in use, 1 to 16,384.
    pub(crate) fn set_limit(&self, in_use_max: usize) {
        self.in_use_max.set(in_use_max.clamp(1, COUNT));
    }

    /// Buffers that are lent out, to engines or tasks.
    pub(crate) fn in_use(&self) -> usize {
        self.in_use.get()
    }

    /// Chunks on the heap.
    pub(crate) fn heap_live(&self) -> usize {
        self.heap.borrow().live()
    }

    pub(crate) fn has_free(&self) -> bool {
        self.in_use.get() < self.in_use_max.get()
    }

    /// A buffer for the caller alone; `None` at the limit.
    pub(crate) fn acquire(&self) -> Option<u16> {
        if !self.has_free() {
            return None;
        }
        let number = self.free.borrow_mut().pop().unwrap_or_else(|| {
            let fresh = self.fresh.get();
            self.fresh.set(fresh + 1);
            fresh as u16
        });
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

/// Bytes that did not come from the pool, with their number of holders.
#[derive(Default)]
struct Heap {
    entries: Vec<(Box<[u8]>, u32)>,
    vacant: Vec<u32>,
    /// Large buffers that chunks hold, and those that wait for their next use.
    large: usize,
    large_idle: Vec<Box<[u8]>>,
}

impl Heap {
    fn live(&self) -> usize {
        self.entries.len() - self.vacant.len()
    }

    fn insert(&mut self, bytes: Box<[u8]>) -> u32 {
        if let Some(index) = self.vacant.pop() {
            self.entries[index as usize] = (bytes, 1);
            return index;
        }
        self.entries.push((bytes, 1));
        self.entries.len() as u32 - 1
    }

    fn release(&mut self, index: u32) {
        let (bytes, refs) = &mut self.entries[index as usize];
        *refs -= 1;
        if *refs == 0 {
            let bytes = std::mem::take(bytes);
            self.vacant.push(index);
            if bytes.len() == LARGE {
                self.release_large(bytes);
            }
        }
    }

    fn acquire_large(&mut self) -> Option<Box<[u8]>> {
        if self.large == LARGE_MAX {
            return None;
        }
        self.large += 1;
        let idle = self.large_idle.pop();
        Some(idle.unwrap_or_else(|| vec![0; LARGE].into_boxed_slice()))
    }

    fn release_large(&mut self, bytes: Box<[u8]>) {
        // Bytes of another origin may have this length.
        self.large = self.large.saturating_sub(1);
        if self.large_idle.len() < LARGE_IDLE_MAX {
            self.large_idle.push(bytes);
        }
    }
}

/// Bytes on their way through: lent by the pool, static, or on the heap. Moving it moves 16
/// bytes; dropping it gives the buffer back. An empty chunk from a receive is the end of stream.
pub struct Chunk {
    start: NonNull<u8>,
    len: u32,
    owner: u32,
    not_send: PhantomData<*const ()>,
}

impl Chunk {
    /// Bytes that live for ever: no buffer is held.
    ///
    /// # Panics
    /// With 4 GiB or more.
    #[must_use]
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        assert!(bytes.len() < u32::MAX as usize);
        // SAFETY: a slice's pointer is never null.
        let start = unsafe { NonNull::new_unchecked(bytes.as_ptr().cast_mut()) };
        Self {
            start,
            len: bytes.len() as u32,
            owner: STATIC,
            not_send: PhantomData,
        }
    }

    /// No bytes and no buffer.
    #[must_use]
    pub const fn empty() -> Self {
        Self::from_static(&[])
    }

    /// Bytes on the heap; for what is rare or large.
    ///
    /// # Panics
    /// With 4 GiB or more.
    #[must_use]
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let bytes = bytes.into_boxed_slice();
        let len = u32::try_from(bytes.len()).expect("a chunk below 4 GiB");
        if len == 0 {
            return Self::empty();
        }
        let start = NonNull::from(&*bytes).cast();
        let owner = HEAP | pool().heap.borrow_mut().insert(bytes);
        Self {
            start,
            len,
            owner,
            not_send: PhantomData,
        }
    }

    /// Fills a large buffer, of 128 KiB, by `receive`, which says how many bytes it wrote; `None`
    /// when chunks hold too many large buffers already. For bulk data only.
    pub fn large<E>(
        receive: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Option<Result<Self, E>> {
        let heap = &pool().heap;
        let mut bytes = heap.borrow_mut().acquire_large()?;
        match receive(&mut bytes) {
            Ok(count @ 1..) => {
                let start = NonNull::from(&*bytes).cast();
                let owner = HEAP | heap.borrow_mut().insert(bytes);
                let len = count.min(LARGE) as u32;
                Some(Ok(Self {
                    start,
                    len,
                    owner,
                    not_send: PhantomData,
                }))
            }
            nothing => {
                heap.borrow_mut().release_large(bytes);
                Some(nothing.map(|_| Self::empty()))
            }
        }
    }

    fn lent(number: u16, len: u32) -> Self {
        debug_assert!(len as usize <= CAPACITY);
        let start = pool().address(number);
        Self {
            start,
            len,
            owner: u32::from(number),
            not_send: PhantomData,
        }
    }

    /// Drops the first `count` bytes.
    ///
    /// # Panics
    /// With fewer bytes than that.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "advance past the end of a chunk");
        // SAFETY: still inside of, or at the end of, the same buffer.
        self.start = unsafe { self.start.add(count) };
        self.len -= count as u32;
    }

    /// Keeps the first `count` bytes; nothing happens if there are fewer.
    pub fn truncate(&mut self, count: usize) {
        self.len = self.len.min(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Splits off the first `count` bytes. Both parts hold the buffer; nothing is copied.
    ///
    /// # Panics
    /// With fewer bytes than that.
    #[must_use]
    pub fn split_to(&mut self, count: usize) -> Self {
        let mut first = self.share();
        self.advance(count);
        first.truncate(count);
        first
    }

    /// The bytes to write to, where they are in a buffer of the pool that nobody else holds.
    pub fn own_mut(&mut self) -> Option<&mut [u8]> {
        // Set in the owners of all other memory.
        if self.owner & HEAP != 0 || pool().slots[self.owner as usize].refs.get() != 1 {
            return None;
        }
        // SAFETY: `len` initialised bytes of a buffer that only this chunk holds, and this chunk is
        // borrowed for as long as the slice lives: no other holder can come to be meanwhile.
        Some(unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len as usize) })
    }

    /// A second holder of the same bytes; nothing is copied.
    #[must_use]
    pub fn share(&self) -> Self {
        if self.owner == STATIC {
            // nobody counts
        } else if self.owner & HEAP != 0 {
            pool().heap.borrow_mut().entries[(self.owner & !HEAP) as usize].1 += 1;
        } else {
            let refs = &pool().slots[self.owner as usize].refs;
            refs.set(refs.get() + 1);
        }
        Self {
            start: self.start,
            len: self.len,
            owner: self.owner,
            not_send: PhantomData,
        }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes inside of a buffer that this chunk holds; nobody writes
        // to a buffer that a chunk holds.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len as usize) }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if self.owner == STATIC {
            return;
        }
        // Without a pool the thread is ending and the pool was leaked for this chunk's sake.
        let Some(pool) = POOL.get() else { return };
        if self.owner & HEAP != 0 {
            pool.heap.borrow_mut().release(self.owner & !HEAP);
        } else {
            pool.release(self.owner as u16);
        }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({:?})", self.escape_ascii().to_string())
    }
}

/// A buffer to write to, then to be sent as a [`Chunk`].
pub struct Buffer {
    bytes: Room,
    len: usize,
}

enum Room {
    Lent(u16),
    Heap(Box<[u8]>),
}

impl Buffer {
    /// Bytes that a buffer takes.
    pub const CAPACITY: usize = CAPACITY;

    /// An empty buffer: from the pool, or from the heap when that is exhausted.
    #[must_use]
    pub fn new() -> Self {
        let bytes = pool().acquire().map_or_else(
            || Room::Heap(vec![0; CAPACITY].into_boxed_slice()),
            Room::Lent,
        );
        Self { bytes, len: 0 }
    }

    /// Bytes written.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True if nothing is written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that still fit.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        CAPACITY - self.len
    }

    /// Appends all of `bytes`; false, and nothing is appended, when they do not fit.
    #[must_use]
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let len = self.len;
        let Some(room) = self.room().get_mut(len..len + bytes.len()) else {
            return false;
        };
        room.copy_from_slice(bytes);
        self.len += bytes.len();
        true
    }

    /// Appends what `write` writes to the start of the room that is left; it says how much.
    ///
    /// # Errors
    /// Those of `write`; nothing is appended then.
    pub fn fill<E>(
        &mut self,
        write: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let len = self.len;
        let room = &mut self.room()[len..];
        let (most, written) = (room.len(), write(room)?);
        self.len += written.min(most);
        Ok(written)
    }

    /// What is written.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match &self.bytes {
            // SAFETY: `len` initialised bytes of a buffer that only this value holds.
            Room::Lent(number) => unsafe {
                slice::from_raw_parts(pool().address(*number).as_ptr(), self.len)
            },
            Room::Heap(bytes) => &bytes[..self.len],
        }
    }

    /// Forgets what is written.
    pub const fn clear(&mut self) {
        self.len = 0;
    }

    /// The written bytes, to be sent or kept; the buffer goes along.
    #[must_use]
    pub fn freeze(mut self) -> Chunk {
        match std::mem::replace(&mut self.bytes, Room::Heap(Box::default())) {
            Room::Lent(number) => Chunk::lent(number, self.len as u32),
            Room::Heap(bytes) => {
                let mut bytes = bytes.into_vec();
                bytes.truncate(self.len);
                Chunk::from_vec(bytes)
            }
        }
    }

    #[inline]
    fn room(&mut self) -> &mut [u8] {
        match &mut self.bytes {
            Room::Lent(number) => pool().room(*number),
            Room::Heap(bytes) => bytes,
        }
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let (Room::Lent(number), Some(pool)) = (&self.bytes, POOL.get()) {
            pool.release(*number);
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Buffer({:?})",
            self.as_slice().escape_ascii().to_string()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_buffer_with_one_holder_is_written_to() {
        let mut buffer = Buffer::new();
        assert!(buffer.push(b"received"));
        let mut chunk = buffer.freeze();
        chunk.own_mut().unwrap()[0] = b'R';
        let second = chunk.share();
        assert_eq!(chunk.own_mut(), None);
        drop(second);
        assert_eq!(chunk.own_mut().unwrap(), b"Received");
        assert_eq!(Chunk::from_static(b"for ever").own_mut(), None);
        assert_eq!(Chunk::from_vec(vec![1, 2]).own_mut(), None);
    }

    #[test]
    fn a_chunk_is_sixteen_bytes() {
        assert_eq!(size_of::<Chunk>(), 16);
        assert_eq!(size_of::<Option<Chunk>>(), 16);
    }

    #[test]
    fn parts_share_one_buffer_and_give_it_back_last() {
        let before = pool().in_use();
        let mut buffer = Buffer::new();
        assert!(buffer.push(b"headbody"));
        let mut chunk = buffer.freeze();
        let head = chunk.split_to(4);
        assert_eq!((&*head, &*chunk), (&b"head"[..], &b"body"[..]));
        drop(chunk);
        assert_eq!(pool().in_use(), before + 1);
        assert_eq!(&*head, b"head");
        drop(head);
        assert_eq!(pool().in_use(), before);
    }

    #[test]
    fn heap_chunks_are_counted_and_their_places_reused() {
        let before = pool().heap_live();
        let mut first = Chunk::from_vec(b"abc".to_vec());
        let second = first.share();
        first.advance(1);
        assert_eq!((&*first, &*second), (&b"bc"[..], &b"abc"[..]));
        drop(first);
        assert_eq!(pool().heap_live(), before + 1);
        drop(second);
        assert_eq!(pool().heap_live(), before);
    }

    #[test]
    fn a_full_buffer_takes_nothing_more() {
        let mut buffer = Buffer::new();
        assert!(buffer.push(&[1; Buffer::CAPACITY - 1]));
        assert!(!buffer.push(&[2; 2]));
        assert!(buffer.push(&[3]));
        assert_eq!(buffer.remaining(), 0);
        assert_eq!(buffer.as_slice().last(), Some(&3));
    }

    #[test]
    fn at_the_limit_buffers_come_from_the_heap() {
        std::thread::spawn(|| {
            pool().set_limit(2);
            let buffers: Vec<Buffer> = (0..3).map(|_| Buffer::new()).collect();
            assert!(matches!(buffers[2].bytes, Room::Heap(_)));
            assert_eq!(pool().acquire(), None);
            drop(buffers);
            assert!(pool().acquire().is_some());
        })
        .join()
        .expect("the thread");
    }

    #[test]
    fn a_chunk_may_outlive_its_threads_pool() {
        thread_local!(static LATE: RefCell<Option<Chunk>> = const { RefCell::new(None) });
        std::thread::spawn(|| {
            LATE.with(|late| *late.borrow_mut() = Some(Chunk::from_vec(vec![7; 9])));
            let _ = Buffer::new();
        })
        .join()
        .expect("the thread");
    }
}

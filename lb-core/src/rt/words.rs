//! Atomic words for large shared tables.
//!
//! Invariant: they are zero at first, and memory that nobody has written to costs nothing: the
//! kernel gives a page at its first write.
//! Read next: `balance/affinity/table.rs`, which is made of them.

#![allow(unsafe_code, reason = "zeroed memory is taken as it is")]

// In a model, every access is a point at which loom may switch threads.
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, fence};

/// `len` words, all zero. Writing zeros would touch each page of a table that may stay unused.
#[cfg(not(loom))]
pub(crate) fn zeroed(len: usize) -> Box<[AtomicU64]> {
    let words = Box::<[AtomicU64]>::new_zeroed_slice(len);
    // SAFETY: an AtomicU64 has the representation of a u64, for which all bytes zero are a value;
    // the box owns the memory before and after.
    unsafe { words.assume_init() }
}

/// `len` words, all zero.
#[cfg(loom)]
pub(crate) fn zeroed(len: usize) -> Box<[AtomicU64]> {
    (0..len).map(|_| AtomicU64::new(0)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn words_are_zero_and_writable() {
        let words = zeroed(100_000);
        assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        words[99_999].store(1, Ordering::Relaxed);
        assert_eq!(words[99_999].load(Ordering::Relaxed), 1);
        assert!(zeroed(0).is_empty());
    }
}

//! A table that grows by pages: its entries stay where they are.
//!
//! Invariant: an index once given out names the same entry for ever. Growing copies nothing and
//! leaves no hole of half the table's size behind in the allocator, as a doubled `Vec` does: the
//! memory of an idle connection is that of its entries.
//! Read next: `socket.rs`, `task.rs`, `timer.rs` (its users).

use std::ops::{Index, IndexMut};

/// Entries of a page.
const PAGE: usize = 128;

/// A table of `T`.
#[derive(Debug)]
pub(crate) struct Pages<T> {
    pages: Vec<Vec<T>>,
    len: usize,
}

impl<T> Pages<T> {
    pub(crate) const fn new() -> Self {
        Self {
            pages: Vec::new(),
            len: 0,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Appends an entry; its index.
    ///
    /// # Panics
    /// Beyond 2^32 entries.
    pub(crate) fn push(&mut self, entry: T) -> u32 {
        let index = u32::try_from(self.len).expect("fewer entries than descriptors and tasks");
        if self.len.is_multiple_of(PAGE) {
            self.pages.push(Vec::with_capacity(PAGE));
        }
        self.pages[self.len / PAGE].push(entry);
        self.len += 1;
        index
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let index = index as usize;
        self.pages.get_mut(index / PAGE)?.get_mut(index % PAGE)
    }

    /// All entries with their indices.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(self.pages.iter().flatten())
    }
}

impl<T> Index<u32> for Pages<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        &self.pages[index as usize / PAGE][index as usize % PAGE]
    }
}

impl<T> IndexMut<u32> for Pages<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.pages[index as usize / PAGE][index as usize % PAGE]
    }
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_index_and_their_place() {
        let mut pages = Pages::new();
        assert_eq!(pages.push(0_u64), 0);
        let first = &raw const pages[0];
        for number in 1..1000 {
            assert_eq!(u64::from(pages.push(number)), number);
        }
        assert_eq!(first, &raw const pages[0]);
        pages[500] += 1;
        assert_eq!((pages[500], pages[499], pages.len()), (501, 499, 1000));
        assert!(pages.get_mut(1000).is_none());
        let sum: u64 = pages.iter().map(|(_, number)| *number).sum();
        assert_eq!(sum, 999 * 1000 / 2 + 1);
        assert!(
            pages
                .iter()
                .all(|(index, number)| index == 500 || u64::from(index) == *number)
        );
    }
}

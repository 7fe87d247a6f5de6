//! What a worker serves now, and what was begun on it: one immutable value at a time.
//!
//! Invariant: who took a value keeps it to its end, whatever is served meanwhile; taking it writes
//! to nothing that another core reads.
//! Read next: `worker.rs`, `balance/mod.rs` (the largest part of the value).

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

/// What a listener serves now, within one worker: sessions and exchanges take it at their start
/// and end on it. Taking it is a plain increment; the cores share no counter.
#[derive(Debug)]
pub struct Current<T> {
    held: RefCell<Held<T>>,
}

impl<T> Current<T> {
    /// Serves `value` until the first [`Current::set`].
    pub fn new(value: Arc<T>) -> Self {
        Self {
            held: RefCell::new(Held::new(value)),
        }
    }

    /// What is served now.
    pub fn get(&self) -> Held<T> {
        self.held.borrow().clone()
    }

    /// Serves `value` from now on.
    pub fn set(&self, value: Arc<T>) {
        self.held.replace(Held::new(value));
    }
}

/// A worker-local owner of a shared value: cloned and dropped without an atomic operation.
#[expect(
    clippy::redundant_allocation,
    reason = "the Rc counts this worker's owners, the Arc the workers"
)]
pub struct Held<T>(Rc<Arc<T>>);

impl<T> Held<T> {
    /// Owns `value`; one allocation.
    pub fn new(value: Arc<T>) -> Self {
        Self(Rc::new(value))
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T: fmt::Debug> fmt::Debug for Held<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_the_current_value_keeps_it() {
        let current = Current::new(Arc::new("a"));
        let session = current.get();
        current.set(Arc::new("b"));
        assert_eq!((*session, *current.get()), ("a", "b"));
    }
}

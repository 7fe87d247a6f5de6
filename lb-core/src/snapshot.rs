//! How a new plan reaches the workers: one immutable value behind one swap.
//!
//! Invariant: a reader sees one value or the next, never parts of both, and the generation it
//! reports is that of the value it holds. What began on a value ends on it.
//! Read next: `worker.rs` (a reader), `balance/mod.rs` (the largest part of the value).

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use crossbeam_utils::CachePadded;

/// The writing end, on the control thread.
#[derive(Debug)]
pub struct Publisher<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Publisher<T> {
    /// Publishes the first value, as generation 1.
    pub fn new(value: T) -> Self {
        let generation = 1;
        Self {
            shared: Arc::new(Shared {
                current: ArcSwap::from_pointee(Published {
                    generation,
                    value: Arc::new(value),
                }),
                generation: CachePadded::new(AtomicU64::new(generation)),
            }),
        }
    }

    /// Replaces the value and returns its generation, one more than the last. Workers notice at
    /// their next [`Subscriber::refresh`]; a sleeping one must be woken by the caller.
    pub fn publish(&mut self, value: T) -> u64 {
        let generation = self.generation() + 1;
        self.shared.current.store(Arc::new(Published {
            generation,
            value: Arc::new(value),
        }));
        // After the value: who sees this generation finds that value or a later one.
        self.shared.generation.store(generation, Ordering::Release);
        generation
    }

    /// The generation published last.
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Relaxed)
    }

    /// The value published last.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.shared.current.load().value)
    }

    /// A reading end, to be moved to a worker; it holds the current value already.
    pub fn subscribe(&self) -> Subscriber<T> {
        Subscriber {
            held: self.shared.current.load_full(),
            shared: Arc::clone(&self.shared),
        }
    }
}

/// The reading end, one for each worker.
#[derive(Debug)]
pub struct Subscriber<T> {
    shared: Arc<Shared<T>>,
    held: Arc<Published<T>>,
}

impl<T> Subscriber<T> {
    /// Takes up a newer value, if there is one, and returns it. Otherwise one load of a line
    /// that nobody writes: cheap enough for every turn of the loop.
    pub fn refresh(&mut self) -> Option<&Arc<T>> {
        if self.shared.generation.load(Ordering::Acquire) <= self.held.generation {
            return None;
        }
        self.held = self.shared.current.load_full();
        Some(&self.held.value)
    }

    /// The value held, as of the last refresh.
    pub fn value(&self) -> &Arc<T> {
        &self.held.value
    }

    /// The generation of the value held.
    pub fn generation(&self) -> u64 {
        self.held.generation
    }
}

#[derive(Debug)]
struct Shared<T> {
    current: ArcSwap<Published<T>>,
    generation: CachePadded<AtomicU64>,
}

#[derive(Debug)]
struct Published<T> {
    generation: u64,
    value: Arc<T>,
}

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
    fn a_subscriber_holds_the_value_it_was_born_with() {
        let publisher = Publisher::new("a");
        let mut subscriber = publisher.subscribe();
        assert_eq!((**subscriber.value(), subscriber.generation()), ("a", 1));
        assert_eq!(subscriber.refresh(), None);
    }

    #[test]
    fn refresh_takes_up_the_latest_value_once() {
        let mut publisher = Publisher::new("a");
        let mut subscriber = publisher.subscribe();
        assert_eq!(publisher.publish("b"), 2);
        assert_eq!(publisher.publish("c"), 3);
        assert_eq!(subscriber.refresh().map(|value| **value), Some("c"));
        assert_eq!(subscriber.generation(), 3);
        assert_eq!(subscriber.refresh(), None);
    }

    #[test]
    fn an_old_value_is_freed_when_its_last_reader_moves_on() {
        let mut publisher = Publisher::new(String::from("a"));
        let mut subscriber = publisher.subscribe();
        let old = Arc::downgrade(subscriber.value());
        publisher.publish(String::from("b"));
        assert!(old.upgrade().is_some(), "the subscriber still holds it");
        subscriber.refresh();
        assert!(old.upgrade().is_none());
    }

    #[test]
    fn readers_never_see_a_value_go_back() {
        const LAST: u64 = 20_000;
        let mut publisher = Publisher::new(1_u64);
        let mut subscriber = publisher.subscribe();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while subscriber.generation() < LAST {
                    let before = **subscriber.value();
                    if let Some(value) = subscriber.refresh() {
                        assert!(**value > before);
                    }
                    // The value is its own generation here, so tearing would show.
                    assert_eq!(**subscriber.value(), subscriber.generation());
                }
            });
            for value in 2..=LAST {
                publisher.publish(value);
            }
        });
    }

    #[test]
    fn what_took_the_current_value_keeps_it() {
        let current = Current::new(Arc::new("a"));
        let session = current.get();
        current.set(Arc::new("b"));
        assert_eq!((*session, *current.get()), ("a", "b"));
    }
}

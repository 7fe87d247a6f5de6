//! Sessions that wait until a backend has room, the first come first.
//!
//! Invariant: only the first in the queue tries to leave it, so nobody is overtaken; who leaves it,
//! in whatever way, lets the next one try. The lock is taken only while somebody waits.
//! Read next: `../tcp/connect.rs` (who waits).

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The sessions of one listener, of all workers.
#[derive(Default)]
pub(crate) struct Queue {
    /// As long as `waiting`, to be looked at without the lock.
    length: AtomicUsize,
    tickets: AtomicU64,
    waiting: Mutex<VecDeque<Waiter>>,
}

struct Waiter {
    ticket: u64,
    waker: Option<Waker>,
    is_called: bool,
}

/// A session's place in the queue; dropped, it is free.
#[derive(Debug)]
pub(crate) struct Place<'q> {
    queue: &'q Queue,
    ticket: u64,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.length.load(Ordering::SeqCst) == 0
    }

    /// A place at the end; `None` if `most` wait already.
    pub(crate) fn join(&self, most: usize) -> Option<Place<'_>> {
        let mut waiting = self.lock();
        if waiting.len() >= most {
            return None;
        }
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        waiting.push_back(Waiter {
            ticket,
            waker: None,
            is_called: true, // there may be room since it was looked for
        });
        self.length.store(waiting.len(), Ordering::SeqCst);
        Some(Place {
            queue: self,
            ticket,
        })
    }

    /// A backend may have room again: the first is to try.
    pub(crate) fn call(&self) {
        if !self.is_empty() {
            Self::call_first(&mut self.lock());
        }
    }

    fn call_first(waiting: &mut VecDeque<Waiter>) {
        if let Some(first) = waiting.front_mut() {
            first.is_called = true;
            if let Some(waker) = first.waker.take() {
                waker.wake();
            }
        }
    }

    /// What a panic left is as good as before: each change is whole.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiter>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl Place<'_> {
    /// Ready when it is the first and was called since it was ready last.
    pub(crate) fn poll_called(&self, cx: &Context<'_>) -> Poll<()> {
        let mut waiting = self.queue.lock();
        let mut waiters = waiting.iter_mut().enumerate();
        let Some((index, waiter)) = waiters.find(|(_, waiter)| waiter.ticket == self.ticket) else {
            return Poll::Ready(()); // not reached: it is there until it is dropped
        };
        if index == 0 && std::mem::take(&mut waiter.is_called) {
            return Poll::Ready(());
        }
        match &mut waiter.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => waiter.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Whether it is its turn.
    pub(crate) fn is_first(&self) -> bool {
        let waiting = self.queue.lock();
        waiting
            .front()
            .is_some_and(|first| first.ticket == self.ticket)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock();
        waiting.retain(|waiter| waiter.ticket != self.ticket);
        self.queue.length.store(waiting.len(), Ordering::SeqCst);
        Queue::call_first(&mut waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_is_called_and_nobody_is_overtaken() {
        let cx = &Context::from_waker(Waker::noop());
        let queue = Queue::default();
        let first = queue.join(2).unwrap();
        let second = queue.join(2).unwrap();
        assert!(queue.join(2).is_none(), "full");
        assert!(first.poll_called(cx).is_ready(), "it looks once");
        assert!(first.poll_called(cx).is_pending() && second.poll_called(cx).is_pending());
        queue.call();
        assert!(second.poll_called(cx).is_pending());
        assert!(first.poll_called(cx).is_ready());
        drop(first);
        assert!(second.is_first() && second.poll_called(cx).is_ready());
        drop(second);
        assert!(queue.is_empty());
    }

    #[test]
    fn who_gives_up_in_the_middle_changes_nothing_for_the_first() {
        let cx = &Context::from_waker(Waker::noop());
        let queue = Queue::default();
        let first = queue.join(9).unwrap();
        let second = queue.join(9).unwrap();
        let third = queue.join(9).unwrap();
        drop(second);
        assert!(first.is_first() && !third.is_first());
        drop(first);
        assert!(third.poll_called(cx).is_ready());
    }
}

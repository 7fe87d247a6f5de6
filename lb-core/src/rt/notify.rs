//! A local event, for tasks of one thread.
//!
//! Invariant: a notification is never lost: with nobody waiting it is kept for the next waiter
//! (one, however many there were), and a waiter that leaves takes none along: what it was woken
//! for, but has not seen, is kept.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Wakes tasks of the same thread.
#[derive(Debug, Default)]
pub struct Notify {
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: bool,
    tickets: u64,
    waiting: Vec<(u64, Waker)>,
}

impl Notify {
    /// An event that has not happened.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes everyone who waits now; with nobody waiting, the next to wait returns at once.
    pub fn notify(&self) {
        let waiting = {
            let mut state = self.state.borrow_mut();
            state.kept = state.waiting.is_empty();
            std::mem::take(&mut state.waiting)
        };
        for (_, waker) in waiting {
            waker.wake();
        }
    }

    /// Waits for the next notification.
    pub const fn notified(&self) -> Notified<'_> {
        Notified {
            notify: self,
            ticket: None,
        }
    }
}

/// The future of [`Notify::notified`].
#[derive(Debug)]
#[must_use = "a future waits only when it is awaited"]
pub struct Notified<'a> {
    notify: &'a Notify,
    /// Names this waiter; it has been notified when its ticket is no longer waiting.
    ticket: Option<u64>,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.notify.state.borrow_mut();
        if let Some(ticket) = self.ticket {
            let Some((_, waker)) = state
                .waiting
                .iter_mut()
                .find(|(waiting, _)| *waiting == ticket)
            else {
                self.ticket = None;
                return Poll::Ready(());
            };
            waker.clone_from(cx.waker());
            return Poll::Pending;
        }
        if std::mem::take(&mut state.kept) {
            return Poll::Ready(());
        }
        state.tickets += 1;
        state.waiting.push((state.tickets, cx.waker().clone()));
        self.ticket = Some(state.tickets);
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let state = &mut *self.notify.state.borrow_mut();
            match state
                .waiting
                .iter()
                .position(|(waiting, _)| *waiting == ticket)
            {
                Some(place) => drop(state.waiting.remove(place)),
                None => state.kept = true,
            }
        }
    }
}

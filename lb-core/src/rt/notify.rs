//! A local event, for tasks of one thread.
//!
//! Invariant: a notification is never lost: with nobody waiting it is kept for the next waiter
//! (one, however many there were).

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Wakes tasks of the same thread.
#[derive(Debug, Default)]
pub struct Notify {
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: bool,
    round: u64,
    waiting: Vec<Waker>,
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
            if state.waiting.is_empty() {
                state.kept = true;
                return;
            }
            state.round += 1;
            std::mem::take(&mut state.waiting)
        };
        for waker in waiting {
            waker.wake();
        }
    }

    /// Waits for the next notification.
    pub async fn notified(&self) {
        let mut since = None;
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            match since {
                None if state.kept => {
                    state.kept = false;
                    return Poll::Ready(());
                }
                None => since = Some(state.round),
                Some(round) if round != state.round => return Poll::Ready(()),
                Some(_) => {}
            }
            if !state
                .waiting
                .iter()
                .any(|waker| waker.will_wake(cx.waker()))
            {
                state.waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

//! A one-way signal between threads: closed until someone opens it, then open for good.
//!
//! Invariant: whoever waits when it opens is woken, and whoever comes later does not wait.

use std::future::poll_fn;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// Starts or stops tasks on other threads.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    opened: Condvar,
}

#[derive(Debug, Default)]
struct State {
    open: bool,
    waiting: Vec<Waker>,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens it and wakes everyone who waits.
    pub fn open(&self) {
        let waiting = {
            let mut state = self.state();
            state.open = true;
            std::mem::take(&mut state.waiting)
        };
        self.opened.notify_all();
        waiting.into_iter().for_each(Waker::wake);
    }

    /// True once it has been opened.
    pub fn is_open(&self) -> bool {
        self.state().open
    }

    /// Waits until it is open.
    pub async fn opened(&self) {
        poll_fn(|cx| {
            let mut state = self.state();
            if state.open {
                return Poll::Ready(());
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

    /// Blocks the thread until it is open.
    pub fn wait(&self) {
        let mut state = self.state();
        while !state.open {
            state = self
                .opened
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use lb_core::rt::{Config, Runtime};

    #[test]
    fn opens_for_those_who_wait_on_other_threads_and_those_who_come_later() {
        let gate = Arc::new(Gate::new());
        let waiting = std::thread::spawn({
            let gate = Arc::clone(&gate);
            move || {
                let mut runtime = Runtime::new(&Config::default()).unwrap();
                runtime.block_on(gate.opened());
                runtime.block_on(gate.opened());
            }
        });
        assert!(!gate.is_open());
        gate.open();
        gate.wait();
        waiting.join().unwrap();
        assert!(gate.is_open());
    }
}

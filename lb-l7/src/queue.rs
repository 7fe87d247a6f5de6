//! Exchanges of one worker that wait for a connection to a backend, the first come first.
//!
//! Invariant: a connection that becomes free calls one waiter, the first that can use it; who was
//! called and leaves calls the next. Nobody who waits is overtaken by one who has just come.
//! Read next: `reach.rs` (who waits), `pool.rs` (who calls).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use lb_core::balance::BackendId;

/// The exchanges that wait on one worker.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    tickets: Cell<u64>,
    waiting: RefCell<VecDeque<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    /// Any of these will do.
    backends: Vec<BackendId>,
    waker: Option<Waker>,
    /// The backend that has room.
    called_by: Option<BackendId>,
}

/// A place in the queue; dropped, it is free.
#[derive(Debug)]
pub(crate) struct Place<'q> {
    queue: &'q Queue,
    ticket: u64,
}

impl Queue {
    /// A place at the end, for a connection to any of `backends`.
    pub(crate) fn join(&self, backends: Vec<BackendId>) -> Place<'_> {
        let ticket = self.tickets.get();
        self.tickets.set(ticket + 1);
        self.waiting.borrow_mut().push_back(Waiter {
            ticket,
            backends,
            waker: None,
            called_by: None,
        });
        Place {
            queue: self,
            ticket,
        }
    }

    /// Whether somebody waits for `backend`.
    pub(crate) fn is_wanted(&self, backend: BackendId) -> bool {
        let waiting = self.waiting.borrow();
        waiting.iter().any(|it| it.backends.contains(&backend))
    }

    /// How many wait for `backend`, and have not been called.
    pub(crate) fn waiting(&self, backend: BackendId) -> u32 {
        let waiting = self.waiting.borrow();
        let wants = |it: &&Waiter| it.called_by.is_none() && it.backends.contains(&backend);
        u32::try_from(waiting.iter().filter(wants).count()).unwrap_or(u32::MAX)
    }

    /// There is room for one more connection to `backend`, or an idle one.
    pub(crate) fn call(&self, backend: BackendId) {
        let mut waiting = self.waiting.borrow_mut();
        let first = waiting
            .iter_mut()
            .find(|it| it.called_by.is_none() && it.backends.contains(&backend));
        if let Some(first) = first {
            first.called_by = Some(backend);
            if let Some(waker) = first.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Place<'_> {
    /// Ready when it has been called.
    pub(crate) fn poll_called(&self, cx: &Context<'_>) -> Poll<()> {
        let mut waiting = self.queue.waiting.borrow_mut();
        let own = waiting.iter_mut().find(|it| it.ticket == self.ticket);
        let Some(own) = own.filter(|it| it.called_by.is_none()) else {
            return Poll::Ready(());
        };
        own.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether the first in the queue for `backend` is this one.
    pub(crate) fn is_first(&self, backend: BackendId) -> bool {
        let waiting = self.queue.waiting.borrow();
        let mut all = waiting.iter();
        let first = all.find(|it| it.backends.contains(&backend));
        first.is_none_or(|first| first.ticket == self.ticket)
    }

    /// Waits again: another was faster, or this one was too early.
    pub(crate) fn rejoin(&self) {
        let mut waiting = self.queue.waiting.borrow_mut();
        if let Some(own) = waiting.iter_mut().find(|it| it.ticket == self.ticket) {
            own.called_by = None;
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.queue.waiting.borrow_mut();
        let index = waiting.iter().position(|it| it.ticket == self.ticket);
        let own = index.and_then(|index| waiting.remove(index));
        drop(waiting);
        // It may have found room elsewhere; whoever is called in vain waits again.
        if let Some(backend) = own.and_then(|own| own.called_by) {
            self.queue.call(backend);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use lb_core::balance::{Cluster, Context as Surroundings};
    use lb_core::plan;

    use super::*;

    fn is_called(place: &Place<'_>) -> bool {
        let cx = &Context::from_waker(Waker::noop());
        place.poll_called(cx).is_ready()
    }

    #[test]
    fn the_first_that_can_use_it_is_called() {
        let backends = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)).into());
        let plan = plan::Cluster::new("c", backends.into());
        let cluster = Cluster::build(&plan, &Surroundings::new(1, 1), None);
        let [a, b] = [0, 1].map(|index: usize| cluster.backends()[index].id());
        let queue = Queue::default();
        let first = queue.join(vec![a]);
        let second = queue.join(vec![a, b]);
        assert!(queue.is_wanted(b) && !is_called(&first) && !is_called(&second));
        queue.call(b);
        assert!(!is_called(&first) && is_called(&second));
        second.rejoin();
        queue.call(a);
        assert!(is_called(&first) && !is_called(&second));
        assert!(first.is_first(a) && !second.is_first(a) && second.is_first(b));
        drop(first);
        assert!(
            is_called(&second),
            "who was called and leaves calls the next"
        );
        drop(second);
        assert!(!queue.is_wanted(a));
        queue.call(a); // nobody is there
    }
}

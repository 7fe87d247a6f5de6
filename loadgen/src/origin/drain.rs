//! A graceful end: no more connections, and those that there are end with what is under way.
//!
//! Invariant: a connection counts as open until its task is over.
//! Read next: `http.rs`, which says so in its answers.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use lb_core::rt::{self, Either, Notify, TcpListener, TcpStream};

/// What all connections of a thread share.
#[derive(Debug, Default)]
pub(super) struct Drain {
    has_begun: Cell<bool>,
    begun: Notify,
    open: Cell<usize>,
    one_ended: Notify,
}

/// A connection that is open.
#[derive(Debug)]
pub(super) struct Open(Rc<Drain>);

impl Drain {
    pub(super) const fn has_begun(&self) -> bool {
        self.has_begun.get()
    }

    /// The next connection, however long it takes: out of descriptors, it waits for some. `None`
    /// once there are to be no more.
    pub(super) async fn accept(&self, listener: &TcpListener) -> Option<TcpStream> {
        while !self.has_begun() {
            match rt::select(listener.accept(), self.begun.notified()).await {
                Either::First(Ok(stream)) => return Some(stream),
                Either::First(Err(_)) => rt::sleep(rt::TICK).await,
                Either::Second(()) => {}
            }
        }
        None
    }

    /// One more connection.
    pub(super) fn open(self: &Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        Open(Rc::clone(self))
    }

    /// Begins, and waits until all connections have ended, but no longer than `limit`.
    pub(super) async fn finish(&self, limit: Duration) {
        self.has_begun.set(true);
        self.begun.notify();
        if limit.is_zero() {
            return;
        }
        let ended = async {
            while self.open.get() > 0 {
                self.one_ended.notified().await;
            }
        };
        // Those that are left are cut off.
        let _ = rt::timeout(limit, ended).await;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.one_ended.notify();
    }
}

//! Idle connections to backends, kept by each worker for its next exchanges.
//!
//! Invariant: a connection in here had a complete response behind it when it came, and one that
//! leaves was neither ended nor written to by its backend as far as the runtime knows.
//! Read next: `exchange.rs` (who takes and puts).

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;

use lb_core::balance::{Backend, BackendId, Cluster};
use lb_core::rt::Instant;

use crate::link::BackendLink;

/// What an exchange has of a backend: a connection, counted as long as it lives, in the pool or out
/// of it; or a stream of a connection, which counts itself.
#[derive(Debug)]
pub(crate) struct BackendConnection {
    pub(crate) link: BackendLink,
    pub(crate) backend: Arc<Backend>,
    worker: usize,
}

impl BackendConnection {
    /// Takes over a connection just established by `worker`, or a stream of one.
    pub(crate) fn new(link: BackendLink, backend: Arc<Backend>, worker: usize) -> Self {
        if !link.is_http2() {
            let counters = backend.counters(worker);
            counters.connections.increment();
            counters.connections_active.increment();
        }
        Self {
            link,
            backend,
            worker,
        }
    }
}

impl Drop for BackendConnection {
    fn drop(&mut self) {
        if !self.link.is_http2() {
            let counters = self.backend.counters(self.worker);
            counters.connections_active.decrement();
        }
    }
}

/// The idle connections of one worker, by backend. The one used last is the one used next: it is
/// warm, and the rest may grow old and go.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    stacks: RefCell<HashMap<BackendId, Stack, BuildHasherDefault<IdHasher>>>,
}

#[derive(Debug, Default)]
struct Stack {
    /// The oldest in front.
    idle: VecDeque<Idle>,
    used_at: Instant,
}

#[derive(Debug)]
struct Idle {
    connection: BackendConnection,
    until: Instant,
}

impl Pool {
    /// How long an empty stack is kept: its memory is used again, mostly within microseconds.
    const EMPTY_STACK_KEPT: Duration = Duration::from_secs(60);

    /// A connection to `backend` that may be used, if there is one.
    pub(crate) fn take(&self, backend: BackendId) -> Option<BackendConnection> {
        let mut stacks = self.stacks.borrow_mut();
        let idle = &mut stacks.get_mut(&backend)?.idle;
        while let Some(Idle { connection, .. }) = idle.pop_back() {
            if !connection.link.is_stale() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection of a backend of `cluster`; the oldest goes when there are too many.
    pub(crate) fn put(&self, connection: BackendConnection, cluster: &Cluster, now: Instant) {
        if cluster.pool_idle_max == 0 {
            return;
        }
        let mut stacks = self.stacks.borrow_mut();
        let stack = stacks.entry(connection.backend.id()).or_default();
        if stack.idle.len() >= usize::from(cluster.pool_idle_max) {
            stack.idle.pop_front();
        }
        stack.used_at = now;
        stack.idle.push_back(Idle {
            connection,
            until: now + cluster.pool_idle_timeout,
        });
    }

    /// Closes what has been idle for too long, or was ended by its backend.
    pub(crate) fn sweep(&self, now: Instant) {
        self.stacks.borrow_mut().retain(|_, stack| {
            stack
                .idle
                .retain(|idle| now < idle.until && !idle.connection.link.is_stale());
            !stack.idle.is_empty() || now < stack.used_at + Self::EMPTY_STACK_KEPT
        });
    }

    /// Closes the connections to backends that are not `present` any more.
    pub(crate) fn retain(&self, present: impl Fn(BackendId) -> bool) {
        self.stacks
            .borrow_mut()
            .retain(|backend, _| present(*backend));
    }

    /// Number of connections.
    pub(crate) fn len(&self) -> usize {
        self.stacks
            .borrow()
            .values()
            .map(|stack| stack.idle.len())
            .sum()
    }
}

/// Ids are small numbers of our own making: spreading them over the high bits is enough.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        self.0 = (self.0.rotate_left(5) ^ u64::from(number)).wrapping_mul(GOLDEN);
    }
}

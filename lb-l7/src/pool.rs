//! Idle connections to backends, kept by each worker for its next exchanges.
//!
//! Invariant: a connection in here had a complete response behind it when it came, and one that
//! leaves was neither ended nor written to by its backend as far as the runtime knows.
//! Read next: `reach.rs` (who takes and puts), `lending.rs` (connections of other workers).

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lb_core::balance::{Backend, BackendId, Cluster, Room};
use lb_core::rt::{self, Instant};

use crate::link::BackendLink;
use crate::queue::Queue;
use crate::stream::Stream;

/// What an exchange has of a backend: a connection, counted as long as it lives, in the pool or out
/// of it; or a stream of a connection, which counts itself.
#[derive(Debug)]
pub(crate) struct BackendConnection {
    pub(crate) link: BackendLink,
    pub(crate) backend: Arc<Backend>,
    history: History,
    place: Place,
}

/// What a connection has behind it, whichever workers have had it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct History {
    made_at: Instant,
    /// Exchanges begun on it.
    exchanges: u32,
}

/// What its worker counts of it.
#[derive(Debug)]
struct Place {
    /// `None` of a stream.
    counted: Option<Arc<Backend>>,
    worker: usize,
    is_idle: bool,
    /// Who is to be told that there is room when it is gone.
    queue: Option<Rc<Queue>>,
    /// Where it has come from another worker.
    room: Option<Room>,
}

impl BackendConnection {
    /// Takes over a connection just established by `worker`, or a stream of one.
    pub(crate) fn new(link: BackendLink, backend: Arc<Backend>, worker: usize) -> Self {
        if !link.is_http2() {
            backend.counters(worker).connections.increment();
        }
        let history = History {
            made_at: rt::now(),
            exchanges: 0,
        };
        Self::at(link, backend, worker, history)
    }

    fn at(link: BackendLink, backend: Arc<Backend>, worker: usize, history: History) -> Self {
        let counted = (!link.is_http2()).then(|| Arc::clone(&backend));
        if let Some(backend) = &counted {
            backend.counters(worker).connections_active.increment();
        }
        Self {
            link,
            backend,
            history,
            place: Place {
                counted,
                worker,
                is_idle: false,
                queue: None,
                room: None,
            },
        }
    }

    /// Takes over a connection that another worker has given up, with the room that it takes.
    pub(crate) fn taken(stream: Stream, room: Room, worker: usize, history: History) -> Self {
        let backend = Arc::clone(room.backend());
        let mut taken = Self::at(BackendLink::Http1(stream), backend, worker, history);
        taken.place.room = room.held_by(worker);
        taken
    }

    /// Gives up an idle connection of this worker; `None` of what is not one.
    pub(crate) fn give_up(mut self) -> Option<(Stream, Room, History)> {
        let BackendLink::Http1(stream) = self.link else {
            return None;
        };
        let room = match self.place.room.take() {
            Some(mut room) => {
                room.leave();
                room
            }
            None => Room::lend(&self.backend, self.place.worker),
        };
        Some((stream, room, self.history))
    }

    /// The connection is one of a limited number: who waits in `queue` is called when it is gone.
    pub(crate) fn of_few(mut self, queue: &Rc<Queue>) -> Self {
        self.place.queue = Some(Rc::clone(queue));
        self
    }

    /// Whether it is one of a limited number.
    pub(crate) const fn is_of_few(&self) -> bool {
        self.place.queue.is_some()
    }

    /// Counts an exchange that begins on it.
    pub(crate) const fn begin(&mut self) {
        self.history.exchanges = self.history.exchanges.saturating_add(1);
    }

    /// It enters the pool, or leaves it.
    fn set_idle(&mut self, is_idle: bool) {
        self.place.is_idle = is_idle;
        let idle = &self.backend.counters(self.place.worker).connections_idle;
        if is_idle {
            idle.increment();
        } else {
            idle.decrement();
        }
    }

    /// Whether it may be used for another exchange of `cluster`.
    fn is_good(&self, cluster: &Cluster, now: Instant) -> bool {
        let settings = &cluster.exchanges;
        self.link.is_for(cluster)
            && !self.backend.is_gone()
            && settings
                .connection_exchanges_max
                .is_none_or(|max| self.history.exchanges < max)
            && settings
                .connection_age_max
                .is_none_or(|age| now < self.history.made_at + age)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(backend) = &self.counted else { return };
        let counters = backend.counters(self.worker);
        if self.is_idle {
            counters.connections_idle.decrement();
        }
        counters.connections_active.decrement();
        self.room = None;
        if let Some(queue) = &self.queue {
            queue.call(backend.id());
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
    pub(crate) fn take(&self, backend: BackendId, cluster: &Cluster) -> Option<BackendConnection> {
        let has_age = cluster.exchanges.connection_age_max.is_some();
        let now = if has_age { rt::now() } else { Instant::START };
        let mut stacks = self.stacks.borrow_mut();
        let idle = &mut stacks.get_mut(&backend)?.idle;
        while let Some(Idle { mut connection, .. }) = idle.pop_back() {
            connection.set_idle(false);
            if !connection.link.is_stale() && connection.is_good(cluster, now) {
                return Some(connection);
            }
        }
        None
    }

    /// The connection to `backend` that was used longest ago, and how long it may be kept: for
    /// whoever can use it better.
    pub(crate) fn take_oldest(
        &self,
        backend: BackendId,
        cluster: &Cluster,
    ) -> Option<(BackendConnection, Instant)> {
        let now = rt::now();
        let mut stacks = self.stacks.borrow_mut();
        let idle = &mut stacks.get_mut(&backend)?.idle;
        while let Some(Idle {
            mut connection,
            until,
        }) = idle.pop_front()
        {
            connection.set_idle(false);
            if !connection.link.is_stale() && connection.is_good(cluster, now) {
                return Some((connection, until));
            }
        }
        None
    }

    /// Number of connections to `backend`.
    pub(crate) fn idle(&self, backend: BackendId) -> usize {
        let stacks = self.stacks.borrow();
        stacks.get(&backend).map_or(0, |stack| stack.idle.len())
    }

    /// Keeps a connection of a backend of `cluster`; the oldest goes when there are too many.
    pub(crate) fn put(&self, connection: BackendConnection, cluster: &Cluster, now: Instant) {
        self.put_until(connection, cluster, now, now + cluster.pool_idle_timeout);
    }

    /// As [`put`](Self::put), for one that has been idle before.
    pub(crate) fn put_until(
        &self,
        mut connection: BackendConnection,
        cluster: &Cluster,
        now: Instant,
        until: Instant,
    ) {
        if cluster.pool_idle_max == 0 || !connection.is_good(cluster, now) {
            return;
        }
        if let Some(queue) = &connection.place.queue {
            queue.call(connection.backend.id());
        }
        connection.set_idle(true);
        let mut stacks = self.stacks.borrow_mut();
        let stack = stacks.entry(connection.backend.id()).or_default();
        if stack.idle.len() >= usize::from(cluster.pool_idle_max) {
            stack.idle.pop_front();
        }
        stack.used_at = now;
        stack.idle.push_back(Idle { connection, until });
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

//! The runtime of one thread: the loop that runs tasks, fires timers and turns the engine.
//!
//! Invariant: the thread waits only in `Engine::turn`, and only when no task is ready. Tasks are
//! polled with nothing of the runtime borrowed.
//! Read next: `task.rs`, `engine.rs`.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use super::buffer::pool;
use super::engine::{Engine, EngineKind};
use super::epoll::Epoll;
use super::pipe::Pipes;
use super::remote::{Handle, Inbox};
use super::ring_flags::RingFlags;
use super::socket::Slots;
use super::task::{MAIN, Tasks};
use super::timer::Timers;
use super::uring::Uring;
use super::{context, sim, sys, udp};

/// Polls between two turns of the engine, so that neither waits long for the other.
const POLLS_PER_TURN: usize = 256;

/// Settings of a runtime.
#[derive(Debug, Clone)]
pub struct Config {
    /// The engine to run on; [`probe`](super::probe::probe) says which one this machine offers.
    pub engine: EngineKind,
    /// Core to pin the thread to.
    pub cpu: Option<usize>,
    /// Buffers of 16 KiB that may be in use at once, 1 to 16,384; beyond them receives
    /// are small and come from the heap.
    pub buffers_max: usize,
    /// uring: set-up flags to ask for; those that the kernel refuses are dropped one by one.
    pub ring_flags: RingFlags,
    /// sim: the network and its seed.
    pub sim: sim::Settings,
}

impl Default for Config {
    /// The `epoll` engine, not pinned.
    fn default() -> Self {
        Self {
            engine: EngineKind::Epoll,
            cpu: None,
            buffers_max: usize::MAX,
            ring_flags: RingFlags::default(),
            sim: sim::Settings::default(),
        }
    }
}

/// What a runtime holds at the moment; for metrics and for tests that look for leaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Tasks that have not ended, the one of `block_on` not counted.
    pub tasks: usize,
    /// Open sockets, and closed ones whose last completion is awaited.
    pub sockets: usize,
    /// Armed timers.
    pub timers: usize,
    /// Buffers held by tasks and sockets; those lent to the kernel are not counted.
    pub buffers: usize,
    /// Chunks on the heap.
    pub heap_chunks: usize,
    /// Pipes held by sessions.
    pub pipes: usize,
    /// Times that a session took a pipe, to splice once.
    pub splices: u64,
    /// Times that a receive found the pool exhausted.
    pub starvations: u64,
    /// Receives of datagrams that were dropped since too many waited in their socket.
    pub datagrams_overflowed: u64,
    /// Datagrams that the kernel refused to send: no room, no route, not allowed.
    pub datagrams_unsent: u64,
    /// Tasks that panicked.
    pub panics: u64,
    /// Turns of the loop.
    pub turns: u64,
}

/// What the calling thread's runtime holds; nothing outside of one.
#[must_use]
pub fn stats() -> Stats {
    context::try_with(Core::stats).unwrap_or_default()
}

/// Turns of the calling thread's runtime so far; 0 outside of one.
#[must_use]
pub fn turns() -> u64 {
    context::try_with(|core| core.turns.get()).unwrap_or_default()
}

/// The runtime of the calling thread. Dropping it drops its tasks and closes their sockets.
pub struct Runtime {
    core: Box<Core>,
    not_send: PhantomData<*const ()>,
}

pub(crate) struct Io {
    pub(crate) slots: Slots,
    pub(crate) engine: Engine,
    pub(crate) pipes: Pipes,
}

pub(crate) struct Core {
    pub(crate) now: Cell<u64>,
    pub(crate) is_virtual: bool,
    pub(crate) tasks: Tasks,
    pub(crate) timers: RefCell<Timers>,
    pub(crate) io: RefCell<Io>,
    inbox: Inbox,
    turns: Cell<u64>,
}

impl Runtime {
    /// Makes the calling thread's runtime, and pins the thread if that is asked for.
    ///
    /// # Errors
    /// When the engine is refused (see [`probe`](super::probe::probe)), the core does not exist,
    /// or the thread has a runtime already.
    pub fn new(config: &Config) -> io::Result<Self> {
        /// Each runtime's sockets have generations of their own, see `Slots::first_generation`.
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        if let Some(cpu) = config.cpu {
            sys::pin_thread(cpu)?;
        }
        pool().set_limit(config.buffers_max);
        let inbox = Inbox::new()?;
        let engine = match config.engine {
            EngineKind::Epoll => Engine::Epoll(Epoll::new(inbox.event_fd())?),
            EngineKind::Sim => Engine::Sim(Box::new(sim::Sim::new(inbox.event_fd(), &config.sim))),
            EngineKind::Uring => {
                Engine::Uring(Box::new(Uring::new(inbox.event_fd(), config.ring_flags)?))
            }
        };
        let now = engine.now_ns();
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let core = Box::new(Core {
            now: Cell::new(now),
            is_virtual: config.engine == EngineKind::Sim,
            tasks: Tasks::new(inbox.runtime()),
            timers: RefCell::new(Timers::new(now)),
            io: RefCell::new(Io {
                slots: Slots::new(serial.wrapping_mul(0x9E37)),
                engine,
                pipes: Pipes::default(),
            }),
            inbox,
            turns: Cell::new(0),
        });
        if !context::enter(&core) {
            return Err(io::Error::other("this thread has a runtime already"));
        }
        Ok(Self {
            core,
            not_send: PhantomData,
        })
    }

    /// A way to reach this runtime from other threads.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.core.inbox.handle()
    }

    /// Runs the tasks until `future` is ready.
    ///
    /// # Panics
    /// When `future` does, or the engine fails for good (the ring or epoll descriptor is broken).
    pub fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        self.core.now.set(self.core.io.borrow().engine.now_ns());
        let mut future = pin!(future);
        let waker = self.core.tasks.waker(MAIN, 0);
        self.core.tasks.wake(MAIN, 0);
        loop {
            if self.core.tasks.take_main_ready()
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return output;
            }
            self.core.turn();
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.core.inbox.close();
        self.core.tasks.clear();
        {
            let Io { slots, engine, .. } = &mut *self.core.io.borrow_mut();
            engine.finish(slots);
        }
        context::leave();
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("stats", &self.core.stats())
            .finish_non_exhaustive()
    }
}

impl Core {
    fn turn(&self) {
        self.turns.set(self.turns.get() + 1);
        self.tasks.run(POLLS_PER_TURN);
        let signalled = {
            let Io { slots, engine, .. } = &mut *self.io.borrow_mut();
            let wait_ns = self.wait_ns(engine);
            let signalled = engine
                .turn(slots, wait_ns)
                .expect("the engine's own descriptor works");
            self.now.set(engine.now_ns());
            signalled
        };
        self.timers.borrow_mut().advance(self.now.get());
        if signalled {
            self.inbox.drain();
        }
        self.tasks.wake_later();
    }

    /// How long the engine may wait: not at all with work to do, for ever without timers.
    fn wait_ns(&self, engine: &Engine) -> Option<u64> {
        if self.tasks.has_ready() {
            return Some(0);
        }
        let due = self.timers.borrow().next_due_ns()?;
        Some(due.saturating_sub(engine.now_ns()))
    }

    fn stats(&self) -> Stats {
        let Io {
            slots,
            engine,
            pipes,
        } = &*self.io.borrow();
        let lent = match engine {
            Engine::Uring(uring) => uring.lent(),
            Engine::Epoll(_) | Engine::Sim(_) => 0,
        };
        let datagram_buffers = udp::buffer::in_use() - engine.datagram_buffers_waiting(slots);
        Stats {
            tasks: self.tasks.live(),
            sockets: slots.live(),
            timers: self.timers.borrow().armed(),
            buffers: pool().in_use() - lent + datagram_buffers,
            heap_chunks: pool().heap_live(),
            pipes: pipes.in_use(),
            splices: pipes.uses(),
            starvations: slots.starvations,
            datagrams_overflowed: slots.udp.slots.overflows,
            datagrams_unsent: slots.udp.slots.unsent,
            panics: super::panics(),
            turns: self.turns.get(),
        }
    }
}

//! The runtime: one thread, one engine, one executor of `!Send` tasks, one timer wheel.
//!
//! Three engines (`uring`, `epoll`, `sim`) stand behind the same types, so protocol code is
//! written once: [`TcpListener`], [`TcpStream`], [`Chunk`], [`sleep`], [`timeout`], [`spawn`].
//! Invariant: no call in here blocks the thread, except the one wait in the loop's turn.

#![allow(unused_variables, missing_docs, dead_code, clippy::unimplemented)]
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Which engine to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind { Uring, Epoll, Sim }

/// Runtime settings of one thread.
#[derive(Debug, Clone)]
pub struct Config {
    pub engine: EngineKind,
    /// Core to pin the thread to.
    pub cpu: Option<usize>,
    /// seed for the sim engine.
    pub seed: u64,
}

/// The runtime of the calling thread. Dropping it drops all its tasks and closes their sockets.
pub struct Runtime { _p: std::marker::PhantomData<*const ()> }
impl Runtime {
    pub fn new(config: &Config) -> io::Result<Runtime> { unimplemented!() }
    /// Runs tasks until `future` is ready.
    pub fn block_on<F: Future>(&mut self, future: F) -> F::Output { unimplemented!() }
    /// A `Send + Sync + Clone` handle by which other threads reach this runtime.
    pub fn handle(&self) -> Handle { unimplemented!() }
}

/// Reaches a runtime from another thread.
#[derive(Debug, Clone)]
pub struct Handle;
impl Handle {
    /// Runs `make` on the runtime's thread and spawns the future that it returns.
    /// False when the runtime has ended.
    pub fn spawn<M, F>(&self, make: M) -> bool
    where M: FnOnce() -> F + Send + 'static, F: Future<Output = ()> + 'static { unimplemented!() }
}

/// Names a spawned task; stale names are harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskId(u64);
/// Spawns a task on the calling thread's runtime. One heap allocation.
pub fn spawn(future: impl Future<Output = ()> + 'static) -> TaskId { unimplemented!() }
/// Drops the task's future before its next poll (no-op for an ended task).
pub fn abort(task: TaskId) { unimplemented!() }
/// Lets other tasks run first.
pub async fn yield_now() { unimplemented!() }

/// Monotonic nanoseconds (virtual on the sim engine); cached, refreshed once per loop turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);
impl Instant {
    pub fn as_nanos(self) -> u64 { self.0 }
    pub fn saturating_duration_since(self, earlier: Instant) -> Duration { Duration::from_nanos(self.0.saturating_sub(earlier.0)) }
}
impl std::ops::Add<Duration> for Instant { type Output = Instant; fn add(self, d: Duration) -> Instant { Instant(self.0 + d.as_nanos() as u64) } }
/// The loop turn's time (cheap).
pub fn now() -> Instant { unimplemented!() }
/// The time right now, read from the clock (about 20 ns); for measuring, as in loadgen.
pub fn now_precise() -> Instant { unimplemented!() }

pub async fn sleep(duration: Duration) { unimplemented!() }
pub async fn sleep_until(at: Instant) { unimplemented!() }
/// The deadline passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;
/// `future`, or `Err(Elapsed)` after `duration` (about 10 ms coarse; `sleep` likewise unless
/// `sleep_precise`). The timer is armed only when `future` was pending once.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> { unimplemented!() }
pub async fn timeout_at<F: Future>(at: Instant, future: F) -> Result<F::Output, Elapsed> { unimplemented!() }
/// Sleeps to within about 50 µs: for open-loop load generation, where 10 ms is too coarse.
pub async fn sleep_until_precise(at: Instant) { unimplemented!() }

/// Both to their ends.
pub async fn join<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) { unimplemented!() }
/// The first of the two that ends; the other is dropped. `a` is polled first.
pub enum Either<A, B> { First(A), Second(B) }
pub async fn select<A: Future, B: Future>(a: A, b: B) -> Either<A::Output, B::Output> { unimplemented!() }

/// A local (same-thread) event: `notify` wakes every current waiter of `notified`.
/// A notification with nobody waiting is kept for the next waiter.
#[derive(Debug, Default)]
pub struct Notify;
impl Notify {
    pub fn new() -> Notify { Notify }
    pub fn notify(&self) { unimplemented!() }
    pub async fn notified(&self) { unimplemented!() }
}

/// Bytes lent by the runtime's buffer pool (or static, or on the heap): 16 bytes wide, cheap to
/// move, goes back to its pool on drop. Derefs to `[u8]`. Empty chunk from `recv` = end of stream.
#[derive(Debug)]
pub struct Chunk { _p: std::marker::PhantomData<*const ()> }
impl Chunk {
    pub const fn from_static(bytes: &'static [u8]) -> Chunk { unimplemented!() }
    pub fn from_vec(bytes: Vec<u8>) -> Chunk { unimplemented!() }
    /// Drops the first `count` bytes. Panics if there are fewer.
    pub fn advance(&mut self, count: usize) { unimplemented!() }
    /// Keeps the first `count` bytes (no-op if shorter).
    pub fn truncate(&mut self, count: usize) { unimplemented!() }
    /// Splits off the first `count` bytes; both share the buffer, which goes back when both are dropped.
    pub fn split_to(&mut self, count: usize) -> Chunk { unimplemented!() }
    /// A second owner of the same bytes (no copy).
    pub fn share(&self) -> Chunk { unimplemented!() }
}
impl std::ops::Deref for Chunk { type Target = [u8]; fn deref(&self) -> &[u8] { unimplemented!() } }

/// A writable buffer from the same pool, `Buffer::CAPACITY` bytes, to be frozen into a `Chunk`.
#[derive(Debug)]
pub struct Buffer { _p: std::marker::PhantomData<*const ()> }
impl Buffer {
    pub const CAPACITY: usize = 16 * 1024;
    /// Never fails: from the pool, or from the heap when the pool is exhausted.
    pub fn new() -> Buffer { unimplemented!() }
    pub fn len(&self) -> usize { unimplemented!() }
    pub fn is_empty(&self) -> bool { self.len() == 0 }
    pub fn remaining(&self) -> usize { unimplemented!() }
    /// Appends all of `bytes`, or nothing and `false` when they do not fit.
    #[must_use]
    pub fn push(&mut self, bytes: &[u8]) -> bool { unimplemented!() }
    pub fn as_slice(&self) -> &[u8] { unimplemented!() }
    pub fn clear(&mut self) { unimplemented!() }
    pub fn freeze(self) -> Chunk { unimplemented!() }
}

/// Settings of a listening socket.
#[derive(Debug, Clone)]
pub struct ListenOptions {
    /// SO_REUSEPORT, so that each worker has its own queue.
    pub reuse_port: bool,
    /// `listen(2)` backlog.
    pub backlog: u32,
    /// IPV6_V6ONLY; false lets `[::]` take IPv4 too.
    pub v6_only: bool,
}

pub struct TcpListener { _p: std::marker::PhantomData<*const ()> }
impl TcpListener {
    /// Binds and listens. Accepted connections have TCP_NODELAY.
    pub fn bind(address: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> { unimplemented!() }
    /// Takes over a listening socket (hand-over, socket activation).
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<TcpListener> { unimplemented!() }
    pub fn local_addr(&self) -> io::Result<SocketAddr> { unimplemented!() }
    /// The next connection. `Err` with EMFILE/ENFILE/ENOBUFS/ENOMEM means: wait and call again.
    /// Dropping the listener closes it; connections that were accepted but not yet taken are closed.
    pub async fn accept(&self) -> io::Result<TcpStream> { unimplemented!() }
}

/// A TCP connection. All methods take `&self`: one task may receive while another part of it
/// sends (`join`). At most one waiter for receive and one for send at a time.
/// Dropping it cancels what is outstanding and closes; data that `send` took but the kernel has
/// not yet is lost then: `flush` first.
pub struct TcpStream { _p: std::marker::PhantomData<*const ()> }
impl TcpStream {
    /// Connects (TCP_NODELAY set). Put it in `timeout` for a deadline; dropping the future cancels.
    pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> { unimplemented!() }
    /// As `connect`, from the given source address (port 0: any port).
    pub async fn connect_from(source: SocketAddr, address: SocketAddr) -> io::Result<TcpStream> { unimplemented!() }
    /// Next bytes; an empty chunk at end of stream (again and again). Cancel-safe: a dropped
    /// future loses nothing.
    pub async fn recv(&self) -> io::Result<Chunk> { unimplemented!() }
    /// What has been received already, without waiting.
    pub fn try_recv(&self) -> Option<io::Result<Chunk>> { unimplemented!() }
    /// Gives back bytes taken by `recv` but not used: the next `recv` returns them first.
    pub fn unread(&self, chunk: Chunk) { unimplemented!() }
    /// Starts sending all of `chunk` as soon as the previous send is done, and returns then:
    /// one send is under way while the caller goes on. An error of an earlier send is returned here.
    pub async fn send(&self, chunk: Chunk) -> io::Result<()> { unimplemented!() }
    /// As `send`, two chunks in one system operation: head and body.
    pub async fn send_two(&self, head: Chunk, body: Chunk) -> io::Result<()> { unimplemented!() }
    /// Waits until everything sent has been taken by the kernel.
    pub async fn flush(&self) -> io::Result<()> { unimplemented!() }
    /// Flushes, then half-closes our side (FIN).
    pub async fn shutdown(&self) -> io::Result<()> { unimplemented!() }
    /// Closes with a reset (SO_LINGER 0) instead of a FIN.
    pub fn reset(self) { unimplemented!() }
    /// True if the peer has ended or reset the connection, or unexpected bytes wait: an idle
    /// pooled connection of which this is true must not be used. No system call.
    pub fn is_stale(&self) -> bool { unimplemented!() }
    /// Waits for a reset or error of the connection (not for a plain end of stream).
    pub async fn broken(&self) -> io::Error { unimplemented!() }
    pub fn peer_addr(&self) -> io::Result<SocketAddr> { unimplemented!() }
    pub fn local_addr(&self) -> io::Result<SocketAddr> { unimplemented!() }
}

//! What every behaviour needs: an engine to run on, a watchdog, a process of its own, connected
//! pairs, and a byte pattern in which every lost, doubled or reordered byte shows.
//!
//! Invariant: a behaviour that hangs fails, within `WATCHDOG`, with its name.

use lb_core::rt::{
    self, Chunk, Config, EngineKind, Instant, ListenOptions, Runtime, TcpListener, TcpStream,
};
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic;
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// No behaviour takes a tenth of this, on a busy machine.
const WATCHDOG: Duration = Duration::from_secs(180);
/// Set in the child process that `Engine::alone` starts.
const ALONE: &str = "LB_CONFORMANCE_ALONE";
/// A sleep is never early and, on an idle machine, at most this late.
pub(crate) const GRANULARITY: Duration = Duration::from_millis(25);

/// Makes one test per behaviour and engine.
macro_rules! on_every_engine {
    ($($behaviour:ident),+ $(,)?) => {
        mod uring { on_every_engine!(@tests Uring: $($behaviour),+); }
        mod epoll { on_every_engine!(@tests Epoll: $($behaviour),+); }
        mod sim { on_every_engine!(@tests Sim: $($behaviour),+); }
    };
    (@tests $kind:ident: $($behaviour:ident),+) => {
        $(
            #[test]
            fn $behaviour() {
                let test = concat!(module_path!(), "::", stringify!($behaviour));
                let engine = crate::harness::Engine::new(lb_core::rt::EngineKind::$kind, test);
                engine.check(super::$behaviour);
            }
        )+
    };
}

/// The engine that a behaviour runs on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Engine {
    kind: EngineKind,
    /// As the test runner names it: `module::engine::behaviour`.
    test: &'static str,
}

impl Engine {
    pub(crate) fn new(kind: EngineKind, path: &'static str) -> Self {
        let test = path.split_once("::").map_or(path, |(_crate, test)| test);
        Self { kind, test }
    }

    /// Runs `behaviour` under the watchdog; skips it by name where the kernel refuses io_uring.
    pub(crate) fn check(self, behaviour: fn(Self)) {
        if self.kind == EngineKind::Uring
            && let Err(error) = Runtime::new(&self.config())
        {
            eprintln!("skipped {}: io_uring is not available: {error}", self.test);
            return;
        }
        let (done, ended) = channel();
        let body = thread::spawn(move || {
            behaviour(self);
            let _ = done.send(());
        });
        match ended.recv_timeout(WATCHDOG) {
            Err(RecvTimeoutError::Timeout) => panic!("{} hangs", self.test),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
        }
        if let Err(cause) = body.join() {
            panic::resume_unwind(cause);
        }
    }

    /// Runs `behaviour` in a process of its own, for what concerns the whole process (the number
    /// of descriptors). `limit` is the process's RLIMIT_NOFILE, if it is to be lowered.
    pub(crate) fn alone(self, limit: Option<u32>, behaviour: impl FnOnce()) {
        if std::env::var_os(ALONE).is_some() {
            return behaviour();
        }
        let lower = limit.map_or_else(String::new, |limit| format!("ulimit -n {limit} && "));
        let output = Command::new("sh")
            .arg("-c")
            .arg(format!("{lower}exec \"$0\" \"$@\""))
            .arg(std::env::current_exe().expect("the path of this test program"))
            .args(["--exact", self.test, "--nocapture", "--test-threads=1"])
            .env(ALONE, "1")
            .output()
            .expect("sh starts");
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success() && out.contains("1 passed"),
            "{} alone in a process: {}\n{out}\n{err}",
            self.test,
            output.status
        );
    }

    pub(crate) fn is_sim(self) -> bool {
        self.kind == EngineKind::Sim
    }

    pub(crate) fn config(self) -> Config {
        Config {
            engine: self.kind,
            cpu: None,
            ..Config::default()
        }
    }

    pub(crate) fn runtime(self) -> Runtime {
        Runtime::new(&self.config()).expect("a runtime starts")
    }

    /// Runs `future` on a fresh runtime whose pool has so many buffers.
    pub(crate) fn run_with_buffers<F: Future>(self, buffers_max: usize, future: F) -> F::Output {
        let config = Config {
            buffers_max,
            ..self.config()
        };
        let mut runtime = Runtime::new(&config).expect("a runtime starts");
        runtime.block_on(future)
    }

    /// Runs `future` on a fresh runtime.
    pub(crate) fn run<F: Future>(self, future: F) -> F::Output {
        self.runtime().block_on(future)
    }
}

/// Some port of the loopback.
pub(crate) fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// A listener with a queue of its own.
pub(crate) fn listen() -> (TcpListener, SocketAddr) {
    listen_with_backlog(1024)
}

pub(crate) fn listen_with_backlog(backlog: u32) -> (TcpListener, SocketAddr) {
    let options = ListenOptions {
        reuse_port: false,
        backlog,
        v6_only: true,
    };
    let listener = TcpListener::bind(any_port(), &options).expect("bind");
    let address = listener
        .local_addr()
        .expect("a bound listener has an address");
    (listener, address)
}

/// Two ends of one connection: the connecting and the accepted one.
pub(crate) async fn pair() -> (TcpStream, TcpStream) {
    let (listener, address) = listen();
    pair_at(&listener, address).await
}

pub(crate) async fn pair_at(listener: &TcpListener, address: SocketAddr) -> (TcpStream, TcpStream) {
    let (client, server) = rt::join(TcpStream::connect(address), listener.accept()).await;
    (client.expect("connect"), server.expect("accept"))
}

/// Waits until `condition` holds, which depends on the network having moved.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if condition() {
            return;
        }
        rt::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}

/// Receives exactly `count` bytes; gives back what came with them.
pub(crate) async fn receive(stream: &TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count);
    while bytes.len() < count {
        let mut chunk = stream.recv().await.expect("receive");
        assert!(
            !chunk.is_empty(),
            "the stream ended after {} of {count} bytes",
            bytes.len()
        );
        let taken = chunk.split_to(chunk.len().min(count - bytes.len()));
        bytes.extend_from_slice(&taken);
        if !chunk.is_empty() {
            stream.unread(chunk);
        }
    }
    bytes
}

/// Receives until the stream ends or breaks.
pub(crate) async fn receive_to_end(stream: &TcpStream) -> (Vec<u8>, io::Result<()>) {
    let mut bytes = Vec::new();
    loop {
        match stream.recv().await {
            Ok(chunk) if chunk.is_empty() => return (bytes, Ok(())),
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(error) => return (bytes, Err(error)),
        }
    }
}

/// Sends until the connection says that it is broken.
pub(crate) async fn send_until_error(stream: &TcpStream) -> io::Error {
    for _ in 0..3_000 {
        if let Err(error) = stream.send(Chunk::from_static(b"anybody there?")).await {
            return error;
        }
        rt::sleep(Duration::from_millis(5)).await;
    }
    panic!("sending to a closed connection never failed");
}

pub(crate) fn assert_broken(error: &io::Error) {
    assert!(
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        ),
        "{error:?}"
    );
}

/// An endless byte sequence, different for each seed, in which no two places look alike.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    seed: u64,
    offset: u64,
}

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, offset: 0 }
    }

    /// Bytes made or checked so far.
    pub(crate) fn offset(&self) -> usize {
        usize::try_from(self.offset).expect("64-bit")
    }

    /// The next `count` bytes.
    pub(crate) fn make(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 16);
        let skipped = self.offset % 8;
        let mut word = self.offset / 8;
        // By words: tests make many mebibytes of this, without optimisation.
        while (bytes.len() as u64) < skipped + count as u64 {
            bytes.extend_from_slice(&mix(word.wrapping_add(self.seed << 40)).to_le_bytes());
            word += 1;
        }
        self.offset += count as u64;
        bytes.drain(..usize::try_from(skipped).expect("below 8"));
        bytes.truncate(count);
        bytes
    }

    /// Panics unless `bytes` are the next ones.
    pub(crate) fn check(&mut self, bytes: &[u8]) {
        let (seed, start) = (self.seed, self.offset);
        let expected = self.make(bytes.len());
        if bytes != expected {
            let wrong = bytes
                .iter()
                .zip(&expected)
                .take_while(|(is, should)| is == should);
            panic!(
                "stream {seed} is wrong from byte {}",
                start + wrong.count() as u64
            );
        }
    }
}

/// Sends `total` bytes of `pattern` in chunks of `size`.
pub(crate) async fn send_pattern(
    stream: &TcpStream,
    pattern: &mut Pattern,
    total: usize,
    size: usize,
) -> io::Result<()> {
    let end = pattern.offset() + total;
    while pattern.offset() < end {
        let bytes = pattern.make(size.min(end - pattern.offset()));
        stream.send(Chunk::from_vec(bytes)).await?;
    }
    Ok(())
}

/// Receives to the end of the stream, all of which must be the next `total` bytes of `pattern`.
pub(crate) async fn expect_pattern(stream: &TcpStream, pattern: &mut Pattern, total: usize) {
    let end = pattern.offset() + total;
    loop {
        let chunk = stream.recv().await.expect("receive");
        if chunk.is_empty() {
            break;
        }
        pattern.check(&chunk);
    }
    assert_eq!(pattern.offset(), end, "bytes until the end of the stream");
}

/// Small, seeded, and enough for choosing sizes and pauses.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0x5851_f42d_4c95_7f2d))
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % bound
    }

    pub(crate) fn size(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).expect("below a usize")
    }

    /// Stops for a moment: some turns of the loop, or some fractions of a millisecond.
    pub(crate) async fn pause(&mut self) {
        if self.below(2) == 0 {
            for _ in 0..self.below(12) {
                rt::yield_now().await;
            }
        } else {
            let pause = Duration::from_micros(self.below(400));
            rt::sleep_until_precise(in_future(pause)).await;
        }
    }
}

pub(crate) fn in_future(duration: Duration) -> Instant {
    rt::now() + duration
}

/// Counts this process's descriptors. Says nothing about others: call it only when `alone`.
pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}

/// The finaliser of splitmix64 (public domain, Sebastiano Vigna).
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

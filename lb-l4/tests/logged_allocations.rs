//! A logged session allocates no more than one without a log.
#[path = "../../lb-core/tests/counting/mod.rs"]
mod counting;
#[allow(dead_code, reason = "shared with the other test programs")]
mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use counting::{allocations, count_this_thread};
use harness::{Front, listen, on_each_engine};
use lb_core::lines::LineSink;
use lb_core::plan::{AccessLog, LogFormat, LogTarget};
use lb_core::rt::{Chunk, TcpStream, spawn};
use lb_l4::SessionLog;

/// Counts lines, and gives their buffer back.
#[derive(Default)]
struct Sink(AtomicUsize);

impl LineSink for Sink {
    fn write(&self, mut lines: Vec<u8>) -> Vec<u8> {
        let count = lines.iter().filter(|byte| **byte == b'\n').count();
        self.0.fetch_add(count, Ordering::Relaxed);
        lines.clear();
        lines
    }
}

/// The only test of this program: another one's allocations would be counted too.
#[test]
fn none_for_a_line() {
    count_this_thread();
    on_each_engine(|| async {
        let plain = sessions(None).await;
        let sink = Arc::new(Sink::default());
        let log = AccessLog {
            target: LogTarget::Stdout,
            format: LogFormat::Json,
            starts: true,
        };
        let log = SessionLog::new("front", &log, Arc::<Sink>::clone(&sink));
        let logged = sessions(Some(log.expect("a format"))).await;
        assert!(sink.0.load(Ordering::Relaxed) > 100, "lines are written");
        assert!(logged <= plain + 4, "{logged} with a log, {plain} without");
    });
}

/// The allocations of two hundred sessions, after as many.
async fn sessions(log: Option<SessionLog>) -> u64 {
    let (backend, address) = listen();
    let front = Front::of(&[address]).log(log).serve();
    let server = spawn(async move {
        while let Ok(stream) = backend.accept().await {
            drop(stream.recv().await);
        }
    });
    let mut before = 0;
    for round in 0..400 {
        if round == 200 {
            before = allocations();
        }
        let client = TcpStream::connect(front.address).await.expect("connect");
        client
            .send(Chunk::from_static(b"hello"))
            .await
            .expect("send");
        client.shutdown().await.expect("shutdown");
        while client.recv().await.is_ok_and(|chunk| !chunk.is_empty()) {}
    }
    let made = allocations() - before;
    lb_core::rt::abort(server);
    made
}

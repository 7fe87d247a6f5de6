//! A relayed chunk costs no heap allocation, nor does a splice.
#[path = "../../lb-core/tests/counting/mod.rs"]
mod counting;
#[allow(dead_code, reason = "shared with the other test programs")]
mod harness;

use std::time::Duration;

use counting::{allocations, count_this_thread};
use harness::{Front, balance, listen, on_each_engine};
use lb_core::plan::Relay;
use lb_core::rt::{Buffer, Chunk, TcpStream, spawn};

/// The only test of this program: another one's allocations would be counted too.
#[test]
fn none_per_relayed_chunk() {
    count_this_thread();
    on_each_engine(|| async {
        let (backend, address) = listen();
        let (front, counters) = balance(&[address], Duration::from_secs(60));
        let client = TcpStream::connect(front).await.expect("connect");
        let server = backend.accept().await.expect("accept");
        spawn(async move {
            while let Ok(chunk) = server.recv().await {
                if chunk.is_empty() || server.send(chunk).await.is_err() {
                    return;
                }
            }
        });
        for _ in 0..200 {
            echo(&client).await;
        }
        let before = allocations();
        assert!(before > 0, "the allocator counts");
        let bytes = counters.received_bytes.get();
        for _ in 0..2000 {
            echo(&client).await;
        }
        assert_eq!(allocations() - before, 0);
        assert_eq!(counters.received_bytes.get() - bytes, 2000 * 64);
    });
    for relay in [Relay::Copy, Relay::Splice] {
        on_each_engine(|| bulk(relay));
    }
}

/// Buffers and pipes of bulk data are used again.
async fn bulk(relay: Relay) {
    static BLOCK: [u8; 1 << 20] = [7; 1 << 20];
    const BLOCKS: usize = 64;
    let (backend, address) = listen();
    let front = Front::of(&[address]).relay(relay).serve();
    let client = TcpStream::connect(front.address).await.expect("connect");
    let server = backend.accept().await.expect("accept");
    spawn(async move {
        for _ in 0..2 * BLOCKS {
            let sent = server.send(Chunk::from_static(&BLOCK)).await;
            sent.expect("send");
        }
        drop(server.recv().await);
    });
    receive_bulk(&client, BLOCKS << 20).await;
    let before = allocations();
    receive_bulk(&client, BLOCKS << 20).await;
    let made = allocations() - before;
    // The tables of what is ready and what is free grow to their size in a while.
    assert!(made <= 4, "{made} allocations, {relay:?}");
}

async fn receive_bulk(client: &TcpStream, count: usize) {
    let mut received = 0;
    while received < count {
        let mut chunk = client.recv().await.expect("receive");
        assert!(!chunk.is_empty(), "ended after {received} bytes");
        let taken = chunk.split_to(chunk.len().min(count - received));
        received += taken.len();
        client.unread(chunk);
    }
}

async fn echo(client: &TcpStream) {
    let mut message = Buffer::new();
    assert!(message.push(&[7; 64]));
    client.send(message.freeze()).await.expect("send");
    let mut received = 0;
    while received < 64 {
        received += client.recv().await.expect("receive").len();
    }
}

//! A relayed chunk costs no heap allocation, nor does a splice.
#![allow(unsafe_code, reason = "a global allocator that counts")]

#[allow(dead_code, reason = "shared with the other test programs")]
mod harness;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use harness::{Front, balance, listen, on_each_engine};
use lb_core::plan::Relay;
use lb_core::rt::{Buffer, Chunk, TcpStream, spawn};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The only test of this program: another one's allocations would be counted too.
#[test]
fn none_per_relayed_chunk() {
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
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let bytes = counters.received_bytes.get();
        for _ in 0..2000 {
            echo(&client).await;
        }
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0);
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
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    receive_bulk(&client, BLOCKS << 20).await;
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    // The tables of what is ready and what is free grow to their size in a while.
    assert!(allocations <= 4, "{allocations} allocations, {relay:?}");
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

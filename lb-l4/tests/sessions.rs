//! Sessions through real sockets, on both engines.

mod harness;

use std::time::Duration;

use harness::{balance, in_virtual_time, listen, on_each_engine, receive, refusing};
use lb_core::metrics::{ListenerCounters, SessionEnd};
use lb_core::rt::{Chunk, TcpStream, join, sleep, spawn, timeout};

const LONG: Duration = Duration::from_secs(3600);

/// Waits until a session has ended in this way.
async fn ended(counters: &ListenerCounters, end: SessionEnd) {
    let seen = async {
        while counters.sessions(end) == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = timeout(Duration::from_secs(60), seen).await;
    assert!(waited.is_ok(), "no session ended as {end:?}");
}

#[test]
fn bytes_go_both_ways_complete_and_in_order() {
    on_each_engine(|| async {
        let (backend, address) = listen();
        let (front, counters) = balance(&[address], LONG);
        let client = TcpStream::connect(front).await.expect("connect");
        let server = backend.accept().await.expect("accept");
        let up: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 7) as u8).collect();
        let down: Vec<u8> = (0..2_000_000_u32).map(|at| (at / 3) as u8).collect();
        let sends = join(
            client.send(Chunk::from_vec(up.clone())),
            server.send(Chunk::from_vec(down.clone())),
        );
        let receives = join(receive(&server, up.len()), receive(&client, down.len()));
        let ((sent, answered), (got_up, got_down)) = join(sends, receives).await;
        sent.expect("send");
        answered.expect("send");
        assert!(got_up == up && got_down == down);
        assert_eq!(counters.received_bytes.get(), up.len() as u64);
        assert_eq!(counters.sent_bytes.get(), down.len() as u64);
    });
}

#[test]
fn a_half_close_is_carried_through_and_the_answer_still_arrives() {
    on_each_engine(|| async {
        let (backend, address) = listen();
        let (front, counters) = balance(&[address], LONG);
        let client = TcpStream::connect(front).await.expect("connect");
        let server = backend.accept().await.expect("accept");
        client
            .send(Chunk::from_static(b"question"))
            .await
            .expect("send");
        client.shutdown().await.expect("shutdown");
        assert_eq!(receive(&server, 8).await, b"question");
        assert!(server.recv().await.expect("the end").is_empty());
        server
            .send(Chunk::from_static(b"answer"))
            .await
            .expect("send");
        server.shutdown().await.expect("shutdown");
        assert_eq!(receive(&client, 6).await, b"answer");
        assert!(client.recv().await.expect("the end").is_empty());
        ended(&counters, SessionEnd::Finished).await;
    });
}

#[test]
fn a_reset_of_either_side_resets_the_other() {
    on_each_engine(|| async {
        for client_resets in [true, false] {
            let (backend, address) = listen();
            let (front, counters) = balance(&[address], LONG);
            let client = TcpStream::connect(front).await.expect("connect");
            let server = backend.accept().await.expect("accept");
            let (first, second) = if client_resets {
                (client, server)
            } else {
                (server, client)
            };
            first.send(Chunk::from_static(b"x")).await.expect("send");
            assert_eq!(receive(&second, 1).await, b"x");
            first.reset();
            second.recv().await.expect_err("a reset, not an end");
            ended(&counters, SessionEnd::Reset).await;
        }
    });
}

#[test]
fn what_a_backend_said_before_it_closed_is_delivered() {
    on_each_engine(|| async {
        let (backend, address) = listen();
        let (front, _) = balance(&[address], LONG);
        let client = TcpStream::connect(front).await.expect("connect");
        let server = backend.accept().await.expect("accept");
        let words: Vec<u8> = (0..100_000_u32).map(|at| at as u8).collect();
        server
            .send(Chunk::from_vec(words.clone()))
            .await
            .expect("send");
        server.flush().await.expect("flush");
        drop(server);
        assert!(receive(&client, words.len()).await == words);
        assert!(client.recv().await.expect("the end").is_empty());
    });
}

#[test]
fn the_next_backend_is_tried_and_no_more_than_allowed() {
    on_each_engine(|| async {
        let (backend, address) = listen();
        let (front, _) = balance(&[refusing(), refusing(), address], LONG);
        for _ in 0..6 {
            let client = TcpStream::connect(front).await.expect("connect");
            let server = backend.accept().await.expect("accept");
            client
                .send(Chunk::from_static(b"hello"))
                .await
                .expect("send");
            assert_eq!(receive(&server, 5).await, b"hello");
        }
        let (front, counters) = balance(&[refusing(), refusing()], LONG);
        let client = TcpStream::connect(front).await.expect("connect");
        client
            .recv()
            .await
            .expect_err("nothing to connect to: a reset");
        ended(&counters, SessionEnd::Unavailable).await;
    });
}

#[test]
fn an_idle_session_ends_and_a_busy_one_does_not() {
    in_virtual_time(|| async {
        let (backend, address) = listen();
        let (front, counters) = balance(&[address], Duration::from_millis(400));
        let busy = TcpStream::connect(front).await.expect("connect");
        let server = backend.accept().await.expect("accept");
        spawn(async move {
            while let Ok(chunk) = server.recv().await {
                if chunk.is_empty() || server.send(chunk).await.is_err() {
                    return;
                }
            }
        });
        let idle = TcpStream::connect(front).await.expect("connect");
        let _other = backend.accept().await.expect("accept");
        let wait = idle.recv();
        let exchange = async {
            loop {
                busy.send(Chunk::from_static(b"x"))
                    .await
                    .expect("still open");
                assert_eq!(receive(&busy, 1).await, b"x");
                sleep(Duration::from_millis(20)).await;
            }
        };
        let first = lb_core::rt::select(wait, exchange).await;
        assert!(matches!(first, lb_core::rt::Either::First(_)));
        ended(&counters, SessionEnd::Idle).await;
        busy.send(Chunk::from_static(b"x"))
            .await
            .expect("still open");
        assert_eq!(receive(&busy, 1).await, b"x");
    });
}

#[test]
fn a_sink_that_does_not_read_stops_the_source() {
    on_each_engine(|| async {
        let (backend, address) = listen();
        let (front, counters) = balance(&[address], LONG);
        let client = TcpStream::connect(front).await.expect("connect");
        let _server = backend.accept().await.expect("accept");
        let flood = async {
            loop {
                client
                    .send(Chunk::from_vec(vec![1; 65_536]))
                    .await
                    .expect("send");
            }
        };
        assert!(
            timeout(Duration::from_secs(2), flood).await.is_err(),
            "the flood went on"
        );
        // What the sockets' buffers hold, and little more.
        let held = lb_core::rt::stats().buffers;
        assert!(
            held <= 64,
            "{held} buffers; {} bytes passed",
            counters.received_bytes.get()
        );
    });
}

//! Sessions through real sockets, on both engines.
#[expect(dead_code, reason = "other tests use the rest")]
mod harness;

use std::sync::Arc;
use std::time::Duration;

use harness::{
    Front, Hanging, Serving, balance, in_virtual_time, listen, on_a_wide_network, on_each_engine,
    receive, refusing,
};
use lb_core::metrics::{ListenerCounters, SessionEnd};
use lb_core::plan::Relay;
use lb_core::rt::sim::{self, Faults};
use lb_core::rt::{Chunk, TcpListener, TcpStream, join, sleep, spawn, stats, timeout, yield_now};

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

/// A direct connection would give the answer too, and only then the reset.
#[test]
fn what_a_backend_said_before_it_reset_is_delivered() {
    on_each_engine(|| async {
        let (backend, address) = listen();
        let (front, _) = balance(&[address], LONG);
        let words: Vec<u8> = (0..20_000_u32).map(|at| at as u8).collect();
        for _ in 0..20 {
            let client = TcpStream::connect(front).await.expect("connect");
            let server = backend.accept().await.expect("accept");
            let chunk = Chunk::from_vec(words.clone());
            server.send(chunk).await.expect("send");
            server.flush().await.expect("flush");
            server.reset();
            assert!(receive(&client, words.len()).await == words);
            client.recv().await.expect_err("a reset, not an end");
        }
    });
}

#[test]
fn a_client_that_has_said_all_before_the_backend_is_reached_gets_its_answer() {
    on_each_engine(|| async {
        let hanging = Hanging::new().await;
        let (backend, address) = listen();
        let front = Front::of(&[hanging.address, address]);
        let front = front.connect_timeout(Duration::from_millis(200)).serve();
        let client = TcpStream::connect(front.address).await.expect("connect");
        client
            .send(Chunk::from_static(b"question"))
            .await
            .expect("send");
        client.shutdown().await.expect("shutdown");
        let server = backend.accept().await.expect("accept");
        assert_eq!(receive(&server, 8).await, b"question");
        assert!(server.recv().await.expect("the end").is_empty());
        server
            .send(Chunk::from_static(b"answer"))
            .await
            .expect("send");
        drop(server);
        assert_eq!(receive(&client, 6).await, b"answer");
        let slow = front.cluster.backends()[0].counters(0);
        assert_eq!(
            (slow.connect_failures.get(), slow.connections.get()),
            (1, 0)
        );
    });
}

#[test]
fn a_client_that_is_reset_ends_the_search_for_a_backend() {
    on_each_engine(|| async {
        let hanging = Hanging::new().await;
        let front = Front::of(&[hanging.address]).serve();
        let client = TcpStream::connect(front.address).await.expect("connect");
        while front.counters.active.get() == 0 {
            sleep(Duration::from_millis(10)).await;
        }
        sleep(Duration::from_millis(50)).await; // it is connecting now; if not, all the same
        client.reset();
        ended(&front.counters, SessionEnd::Abandoned).await;
        let counters = front.cluster.counters().of(0);
        assert_eq!(counters.unavailable.get(), 0, "it was the client's doing");
        assert_eq!(
            front.cluster.backends()[0]
                .counters(0)
                .connect_failures
                .get(),
            0
        );
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
        let front = Front::of(&[refusing(), refusing(), refusing()]);
        let front = front.tries_max(2).serve();
        let client = TcpStream::connect(front.address).await.expect("connect");
        client
            .recv()
            .await
            .expect_err("nothing to connect to: a reset");
        ended(&front.counters, SessionEnd::Unavailable).await;
        let counters = front.cluster.counters().of(0);
        assert_eq!((counters.retries.get(), counters.unavailable.get()), (1, 1));
        let failures = front.cluster.backends().iter();
        let failures = failures.map(|it| it.counters(0).connect_failures.get());
        assert_eq!(failures.sum::<u64>(), 2);
    });
}

#[test]
fn our_own_lack_of_descriptors_is_no_fault_of_a_backend() {
    in_virtual_time(|| async {
        let (_backend, address) = listen();
        let front = Front::of(&[address]).serve();
        let none_left = async {
            sim::set_faults(Faults {
                descriptor_per_mille: 1000,
                ..Faults::default()
            });
        };
        // The client has asked for its own by then.
        let (client, ()) = join(TcpStream::connect(front.address), none_left).await;
        client.expect("connect").recv().await.expect_err("a reset");
        ended(&front.counters, SessionEnd::Resources).await;
        assert_eq!(front.cluster.counters().of(0).unavailable.get(), 1);
        let own = front.cluster.backends()[0].counters(0);
        assert_eq!(own.connect_failures.get(), 0);
    });
}

#[test]
fn a_session_waits_for_a_descriptor_to_be_given_back() {
    in_virtual_time(|| async {
        let (backend, address) = listen();
        let front = Front::of(&[address]).serve();
        let lacking = |per_mille| {
            sim::set_faults(Faults {
                descriptor_per_mille: per_mille,
                ..Faults::default()
            });
        };
        let shortage = async {
            lacking(1000);
            sleep(Duration::from_secs(1)).await;
            lacking(0);
        };
        let (client, ()) = join(TcpStream::connect(front.address), shortage).await;
        let client = client.expect("connect");
        let server = backend.accept().await.expect("accept");
        let sent = client.send(Chunk::from_static(b"hello")).await;
        sent.expect("send");
        assert_eq!(receive(&server, 5).await, b"hello");
    });
}

#[test]
fn nothing_is_left_of_a_session_however_it_ended() {
    on_each_engine(|| async {
        let (backend, address) = listen();
        let front = Front::of(&[address]).serve();
        // The first session leaves what stays: an accept that is under way.
        let mut before = None;
        for round in 0..12 {
            session_of_kind(round % 4, &front, &backend).await;
            let rest = front.rest().await;
            assert_eq!(*before.get_or_insert(rest), rest, "round {round}");
        }
        let own = front.cluster.backends()[0].counters(0);
        assert_eq!(
            (own.connections.get(), own.connections_active.get()),
            (12, 0)
        );
        assert_eq!(
            (front.counters.accepted.get(), front.counters.active.get()),
            (12, 0)
        );
    });
}

async fn session_of_kind(kind: u32, front: &Serving, backend: &TcpListener) {
    let client = TcpStream::connect(front.address).await.expect("connect");
    let server = backend.accept().await.expect("accept");
    let chunk = Chunk::from_vec(vec![1; 50_000]);
    client.send(chunk).await.expect("send");
    receive(&server, 10).await;
    match kind {
        0 => drop((client, server)), // with input unread
        1 => {
            client.reset();
            server.recv().await.expect("what was received before");
        }
        2 => {
            server.reset();
            client.recv().await.expect_err("a reset");
        }
        _ => {
            client.shutdown().await.expect("shutdown");
            while !server.recv().await.expect("receive").is_empty() {}
            server.shutdown().await.expect("shutdown");
            assert!(client.recv().await.expect("the end").is_empty());
        }
    }
}

/// However much can be moved at once, a session leaves the thread to the others in between. The
/// seeds decide which sockets complete a send or receive at once.
#[test]
fn a_flood_does_not_starve_other_tasks() {
    const FLOOD: usize = 8 << 20;
    let relays = [Relay::Copy, Relay::Splice, Relay::Auto];
    for (seed, relay) in (0..18).zip(relays.into_iter().cycle()) {
        on_a_wide_network(seed, || async {
            let (backend, address) = listen();
            let front = Front::of(&[address]).relay(relay).serve();
            let client = TcpStream::connect(front.address).await.expect("connect");
            let server = backend.accept().await.expect("accept");
            let chunk = Chunk::from_vec(vec![1; FLOOD]);
            client.send(chunk).await.expect("send");
            let counters = Arc::clone(&front.counters);
            spawn(async move {
                let mut before = 0;
                while before < FLOOD as u64 {
                    yield_now().await;
                    let moved = counters.received_bytes.get();
                    // A poll, and what its last splice moved beyond its share.
                    assert!(
                        moved - before <= 2 << 20,
                        "{} bytes at once",
                        moved - before
                    );
                    before = moved;
                }
            });
            receive(&server, FLOOD).await;
            assert_eq!(stats().panics, 0, "seed {seed}");
        });
    }
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
        // A reset: to the client, an end would mean that it has been told all.
        assert!(matches!(first, lb_core::rt::Either::First(Err(_))));
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
        let held = stats().buffers;
        assert!(
            held <= 64,
            "{held} buffers; {} bytes passed",
            counters.received_bytes.get()
        );
    });
}

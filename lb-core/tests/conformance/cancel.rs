//! Futures dropped half way: nothing is lost, nothing is left behind, nobody is hurt.

use crate::harness::{
    Engine, Pattern, Random, descriptors, eventually, expect_pattern, listen, pair, receive,
    receive_to_end,
};
use lb_core::rt::{self, Chunk, Either, TcpStream};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

on_every_engine!(
    a_dropped_recv_loses_nothing,
    a_dropped_recv_loses_no_end,
    a_dropped_recv_loses_no_reset,
    a_recv_dropped_after_its_wake_leaves_the_bytes,
    a_dropped_send_is_sent_whole_or_not_at_all,
    a_dropped_flush_changes_nothing,
    a_dropped_shutdown_can_be_repeated,
    a_dropped_broken_can_be_repeated,
    a_dropped_accept_loses_no_connection,
    a_dropped_connect_leaves_nothing,
    a_dropped_listener_closes_what_it_accepted,
    a_dropped_listener_frees_its_port,
    aborted_tasks_leave_no_descriptor,
    a_dropped_runtime_closes_everything,
    what_outlives_its_runtime_is_harmless,
    what_outlives_its_runtime_is_strange_to_the_next,
);

fn a_dropped_recv_loses_nothing(engine: Engine) {
    const TOTAL: usize = 400_000;
    engine.run(async {
        let (client, server) = pair().await;
        rt::spawn(async move {
            let (mut pattern, mut random) = (Pattern::new(1), Random::new(1));
            while pattern.offset() < TOTAL {
                let size = (1 + random.size(3_000)).min(TOTAL - pattern.offset());
                client
                    .send(Chunk::from_vec(pattern.make(size)))
                    .await
                    .expect("send");
                random.pause().await;
            }
            client.shutdown().await.expect("shutdown");
        });
        let (mut pattern, mut random) = (Pattern::new(1), Random::new(2));
        let mut cancelled = 0;
        loop {
            match rt::select(server.recv(), random.pause()).await {
                Either::First(chunk) => match chunk.expect("receive") {
                    chunk if chunk.is_empty() => break,
                    chunk => pattern.check(&chunk),
                },
                Either::Second(()) => cancelled += 1,
            }
        }
        assert_eq!(pattern.offset(), TOTAL);
        assert!(cancelled > 0, "the test cancels something");
    });
}

fn a_dropped_recv_loses_no_end(engine: Engine) {
    engine.run(async {
        for round in 0..40 {
            let (client, server) = pair().await;
            let mut random = Random::new(round);
            let end = async {
                random.pause().await;
                client.shutdown().await.expect("shutdown");
            };
            rt::join(end, poll_times(server.recv(), round)).await;
            assert!(server.recv().await.expect("end").is_empty());
        }
    });
}

fn a_dropped_recv_loses_no_reset(engine: Engine) {
    engine.run(async {
        for round in 0..40 {
            let (client, server) = pair().await;
            let mut random = Random::new(round);
            let end = async {
                random.pause().await;
                client.reset();
            };
            rt::join(end, poll_times(server.recv(), round)).await;
            assert!(server.recv().await.is_err(), "round {round}");
        }
    });
}

/// Polls `future` at most `count` times, one turn apart, and drops it.
async fn poll_times<F: Future>(future: F, count: u64) {
    let turns = async {
        for _ in 0..count {
            rt::yield_now().await;
        }
    };
    rt::select(turns, future).await;
}

/// The bytes wake the receiver, but another branch ends first in the same turn.
fn a_recv_dropped_after_its_wake_leaves_the_bytes(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        for _ in 0..20 {
            let mut woken = false;
            {
                let mut recv = pin!(server.recv());
                let client = &client;
                let mut send = pin!(async move {
                    client
                        .send(Chunk::from_static(b"kept"))
                        .await
                        .expect("send");
                });
                let mut sent = false;
                poll_fn(|context| {
                    if !woken {
                        assert!(recv.as_mut().poll(context).is_pending());
                        woken = true;
                    }
                    sent = sent || send.as_mut().poll(context).is_ready();
                    if sent { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
                rt::sleep(Duration::from_millis(2)).await;
            }
            assert_eq!(receive(&server, 4).await, b"kept");
        }
    });
}

fn a_dropped_send_is_sent_whole_or_not_at_all(engine: Engine) {
    const SIZE: usize = 50_000;
    engine.run(async {
        let (client, server) = pair().await;
        let (accepted, over) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let (sent, ended) = (Rc::clone(&accepted), Rc::clone(&over));
        rt::spawn(async move {
            let mut random = Random::new(1);
            for index in 0..600_u32 {
                // Every block says which attempt it was, so that a part of one would show.
                let block = index.to_le_bytes().repeat(SIZE / 4);
                let send = client.send(Chunk::from_vec(block));
                if let Either::First(done) = rt::select(send, random.pause()).await {
                    done.expect("send");
                    sent.set(sent.get() + 1);
                }
            }
            client.shutdown().await.expect("shutdown");
            ended.set(true);
        });
        let mut blocks = 0;
        let mut random = Random::new(2);
        let mut last = None;
        loop {
            let first = server.recv().await.expect("receive");
            if first.is_empty() {
                break;
            }
            server.unread(first);
            let block = receive(&server, SIZE).await;
            assert!(
                block.chunks_exact(4).all(|word| word == &block[..4]),
                "block {blocks} is torn"
            );
            let index = u32::from_le_bytes(block[..4].try_into().expect("four bytes"));
            assert!(last < Some(index), "block {index} after {last:?}");
            last = Some(index);
            blocks += 1;
            if random.below(4) == 0 {
                rt::sleep(Duration::from_millis(2)).await;
            }
        }
        assert!(over.get());
        assert_eq!(blocks, accepted.get());
        assert!(blocks > 0);
    });
}

fn a_dropped_flush_changes_nothing(engine: Engine) {
    const TOTAL: usize = 6 << 20;
    engine.run(async {
        let (client, server) = pair().await;
        client
            .send(Chunk::from_vec(Pattern::new(1).make(TOTAL)))
            .await
            .expect("send");
        for polls in 0..10 {
            poll_times(client.flush(), polls).await;
        }
        let end = async {
            client.flush().await.expect("flush");
            client.shutdown().await.expect("shutdown");
        };
        rt::join(end, expect_pattern(&server, &mut Pattern::new(1), TOTAL)).await;
    });
}

fn a_dropped_shutdown_can_be_repeated(engine: Engine) {
    const TOTAL: usize = 6 << 20;
    engine.run(async {
        let (client, server) = pair().await;
        client
            .send(Chunk::from_vec(Pattern::new(1).make(TOTAL)))
            .await
            .expect("send");
        for polls in 0..10 {
            poll_times(client.shutdown(), polls).await;
        }
        let end = async { client.shutdown().await.expect("shutdown") };
        rt::join(end, expect_pattern(&server, &mut Pattern::new(1), TOTAL)).await;
        client.shutdown().await.expect("once more is no error");
    });
}

fn a_dropped_broken_can_be_repeated(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        for polls in 0..10 {
            poll_times(server.broken(), polls).await;
        }
        client
            .send(Chunk::from_static(b"alive"))
            .await
            .expect("send");
        assert_eq!(receive(&server, 5).await, b"alive");
        client.reset();
        server.broken().await;
    });
}

fn a_dropped_accept_loses_no_connection(engine: Engine) {
    const CLIENTS: usize = 200;
    engine.run(async {
        let (listener, address) = listen();
        let echoed = Rc::new(Cell::new(0));
        for index in 0..CLIENTS {
            let echoed = Rc::clone(&echoed);
            rt::spawn(async move {
                let mut random = Random::new(index as u64);
                random.pause().await;
                let stream = TcpStream::connect(address).await.expect("connect");
                stream
                    .send(Chunk::from_static(b"served?"))
                    .await
                    .expect("send");
                assert_eq!(receive(&stream, 7).await, b"served?");
                echoed.set(echoed.get() + 1);
            });
        }
        let mut random = Random::new(99);
        let mut cancelled = 0;
        let serve = async {
            loop {
                match rt::select(listener.accept(), random.pause()).await {
                    Either::First(stream) => {
                        let stream = stream.expect("accept");
                        rt::spawn(async move {
                            let bytes = receive(&stream, 7).await;
                            stream.send(Chunk::from_vec(bytes)).await.expect("send");
                            let _ = receive_to_end(&stream).await;
                        });
                    }
                    Either::Second(()) => cancelled += 1,
                }
            }
        };
        let all = eventually("every client is served", || echoed.get() == CLIENTS);
        rt::select(serve, all).await;
        assert!(cancelled > 0, "the test cancels something");
    });
}

fn a_dropped_connect_leaves_nothing(engine: Engine) {
    engine.alone(None, || {
        engine.run(async {
            let (listener, address) = listen();
            rt::spawn(async move {
                loop {
                    let stream = listener.accept().await.expect("accept");
                    rt::spawn(async move { drop(receive_to_end(&stream).await) });
                }
            });
            drop(TcpStream::connect(address).await.expect("connect"));
            rt::sleep(Duration::from_millis(20)).await;
            let before = descriptors();
            for polls in 0..60 {
                poll_times(TcpStream::connect(address), polls % 6).await;
            }
            eventually("all descriptors are back", || descriptors() <= before).await;
        });
    });
}

fn a_dropped_listener_closes_what_it_accepted(engine: Engine) {
    engine.alone(None, || {
        engine.run(async {
            drop(pair().await);
            rt::sleep(Duration::from_millis(20)).await;
            let before = descriptors();
            let (listener, address) = listen();
            // Accepting is under way when the clients come, and nobody takes them.
            poll_times(listener.accept(), 2).await;
            let mut clients = Vec::new();
            for _ in 0..10 {
                clients.push(TcpStream::connect(address).await.expect("connect"));
            }
            rt::sleep(Duration::from_millis(20)).await;
            drop(listener);
            for client in &clients {
                let (bytes, _end_or_reset) = receive_to_end(client).await;
                assert!(bytes.is_empty());
            }
            drop(clients);
            eventually("all descriptors are back", || descriptors() <= before).await;
        });
    });
}

fn a_dropped_listener_frees_its_port(engine: Engine) {
    engine.run(async {
        let (listener, address) = listen();
        poll_times(listener.accept(), 2).await;
        drop(listener);
        rt::sleep(Duration::from_millis(20)).await;
        let refused = TcpStream::connect(address)
            .await
            .map(drop)
            .expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

fn aborted_tasks_leave_no_descriptor(engine: Engine) {
    engine.alone(None, || {
        engine.run(async {
            drop(pair().await);
            rt::sleep(Duration::from_millis(20)).await;
            let before = descriptors();
            for round in 0..30 {
                let (client, server) = pair().await;
                let relay = rt::spawn(async move {
                    let block = Chunk::from_vec(vec![7; 1 << 16]);
                    let send = async { while server.send(block.share()).await.is_ok() {} };
                    drop(rt::join(receive_to_end(&server), send).await);
                });
                for _ in 0..round {
                    rt::yield_now().await;
                }
                rt::abort(relay);
                let (bytes, _end_or_reset) = receive_to_end(&client).await;
                assert!(bytes.iter().all(|byte| *byte == 7));
            }
            eventually("all descriptors are back", || descriptors() <= before).await;
        });
    });
}

fn a_dropped_runtime_closes_everything(engine: Engine) {
    engine.alone(None, || {
        let before = descriptors();
        for _ in 0..5 {
            let mut runtime = engine.runtime();
            let kept = runtime.block_on(async {
                let (listener, address) = listen();
                for _ in 0..10 {
                    let (client, server) = crate::harness::pair_at(&listener, address).await;
                    rt::spawn(async move {
                        while server.recv().await.is_ok() {
                            rt::sleep(Duration::from_millis(5)).await;
                        }
                    });
                    rt::spawn(async move {
                        let block = Chunk::from_vec(vec![7; 1 << 16]);
                        while client.send(block.share()).await.is_ok() {}
                    });
                }
                rt::spawn(async move { drop(listener.accept().await) });
                rt::sleep(Duration::from_millis(30)).await;
                pair().await
            });
            drop(kept);
            drop(runtime);
        }
        assert_eq!(descriptors(), before);
    });
}

fn what_outlives_its_runtime_is_harmless(engine: Engine) {
    let mut runtime = engine.runtime();
    let kept = runtime.block_on(async {
        let (client, server) = pair().await;
        client
            .send(Chunk::from_static(b"kept"))
            .await
            .expect("send");
        let chunk = server.recv().await.expect("receive");
        (client, Rc::new(server), chunk, listen())
    });
    let (client, server, chunk, listener) = kept;
    let held = Rc::clone(&server);
    let mut recv = Box::pin(async move { held.recv().await });
    let mut sleep = Box::pin(rt::sleep(Duration::from_secs(3600)));
    runtime.block_on(poll_fn(|context| {
        assert!(recv.as_mut().poll(context).is_pending());
        assert!(sleep.as_mut().poll(context).is_pending());
        Poll::Ready(())
    }));
    drop(runtime);
    assert_eq!(&*chunk, b"kept");
    let copy = chunk.share();
    drop((chunk, recv, sleep, client, server, listener));
    assert_eq!(&*copy, b"kept");
}

/// A stream of a runtime that has ended must not touch the slots of the one that runs now.
fn what_outlives_its_runtime_is_strange_to_the_next(engine: Engine) {
    let mut first = engine.runtime();
    let old = first.block_on(async {
        let (client, server) = pair().await;
        client.send(Chunk::from_static(b"old")).await.expect("send");
        let chunk = server.recv().await.expect("receive");
        (client, server, chunk, rt::spawn(std::future::pending()))
    });
    drop(first);
    let mut second = engine.runtime();
    let ended = Rc::new(RefCell::new(Vec::new()));
    let order = Rc::clone(&ended);
    second.block_on(async move {
        let (client, server) = pair().await;
        client.send(Chunk::from_static(b"new")).await.expect("send");
        let task = Rc::clone(&order);
        rt::spawn(async move {
            rt::sleep(Duration::from_millis(20)).await;
            task.borrow_mut().push("task");
        });
        let (old_client, old_server, old_chunk, _old_task) = old;
        assert_eq!(&*old_chunk, b"old");
        drop((old_client, old_server, old_chunk));
        assert_eq!(receive(&server, 3).await, b"new");
        server
            .send(Chunk::from_static(b"back"))
            .await
            .expect("send");
        assert_eq!(receive(&client, 4).await, b"back");
        rt::sleep(Duration::from_millis(60)).await;
        order.borrow_mut().push("end");
    });
    assert_eq!(*ended.borrow(), ["task", "end"]);
}

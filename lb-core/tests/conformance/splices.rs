//! Readiness, pipes, and bytes that move from socket to socket without being received.

use crate::harness::{
    Engine, Pattern, Random, assert_broken, descriptors, eventually, expect_pattern, pair, receive,
    send_pattern,
};
use lb_core::rt::{self, Chunk, Input, Pipe, TcpStream};
use std::future::poll_fn;
use std::io;
use std::task::{Poll, ready};
use std::time::Duration;

on_every_engine!(
    bytes_keep_their_order_from_way_to_way,
    a_splice_waits_for_input,
    what_was_received_comes_before_what_is_in_the_socket,
    an_end_is_told_by_a_splice_and_stays,
    a_reset_is_told_after_the_bytes_before_it,
    a_reset_wakes_who_waits_for_input,
    a_full_sink_makes_a_splice_wait,
    large_chunks_are_large_and_complete,
    after_splices_a_break_is_noticed,
    after_splices_a_closed_connection_is_stale,
    a_broken_sink_fails_and_the_pipe_is_not_used_again,
    a_chunk_that_is_being_sent_goes_first,
    a_dropped_wait_for_input_loses_nothing,
    a_stream_dropped_amid_waits_leaves_nothing,
    a_pipe_with_bytes_is_closed,
    pipes_run_out_and_come_back,
    without_descriptors_there_is_no_pipe,
);

/// A pipe, once there is one: other tests may have taken all that a user is given.
async fn acquire() -> Pipe {
    for _ in 0..3_000 {
        if let Some(pipe) = Pipe::acquire() {
            return pipe;
        }
        rt::sleep(Duration::from_millis(10)).await;
    }
    panic!("there never is a pipe");
}

async fn readable(stream: &TcpStream) -> Input {
    poll_fn(|cx| stream.poll_readable(cx)).await
}

/// One splice into the pipe, after readiness; `None` when bytes were received instead.
async fn fill(stream: &TcpStream, pipe: &mut Pipe, max: usize) -> Option<io::Result<usize>> {
    loop {
        if readable(stream).await == Input::Received {
            return None;
        }
        match stream.splice_to(pipe, max) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            moved => return Some(moved),
        }
    }
}

async fn drain(stream: &TcpStream, pipe: &mut Pipe) -> io::Result<()> {
    while !pipe.is_empty() {
        poll_fn(|cx| stream.poll_splice_from(cx, pipe)).await?;
    }
    Ok(())
}

/// Passes everything on, its end too; `splices` says before each step whether to splice.
async fn relay(from: &TcpStream, to: &TcpStream, mut splices: impl FnMut() -> bool) {
    loop {
        if splices() && readable(from).await == Input::InSocket {
            let mut pipe = acquire().await;
            match from.splice_to(&mut pipe, 100_000) {
                Ok(0) => break,
                Ok(_) => drain(to, &mut pipe).await.expect("the sink is well"),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        } else {
            let chunk = from.recv().await.expect("the source is well");
            if chunk.is_empty() {
                break;
            }
            to.send(chunk).await.expect("the sink is well");
        }
    }
    to.shutdown().await.expect("the sink is well");
}

fn bytes_keep_their_order_from_way_to_way(engine: Engine) {
    const TOTAL: usize = 3_000_000;
    engine.run(async {
        for seed in 0..4 {
            let (client, front) = pair().await;
            let (back, server) = pair().await;
            rt::spawn(async move {
                let mut random = Random::new(seed);
                relay(&front, &back, || seed == 0 || random.below(3) > 0).await;
            });
            let sends = async {
                let (mut pattern, mut random) = (Pattern::new(seed), Random::new(seed));
                while pattern.offset() < TOTAL {
                    let total = (1 + random.size(200_000)).min(TOTAL - pattern.offset());
                    let size = 1 + random.size(70_000);
                    let sent = send_pattern(&client, &mut pattern, total, size).await;
                    sent.expect("send");
                    random.pause().await;
                }
                client.shutdown().await.expect("shutdown");
            };
            let mut pattern = Pattern::new(seed);
            rt::join(sends, expect_pattern(&server, &mut pattern, TOTAL)).await;
        }
        assert!(rt::stats().splices > 0 && rt::stats().pipes == 0);
    });
}

fn a_splice_waits_for_input(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        let mut pipe = acquire().await;
        for round in 0..20 {
            let idle = rt::timeout(Duration::from_millis(5), fill(&server, &mut pipe, 100)).await;
            assert!(idle.is_err(), "round {round}: nothing was sent");
            let sent = client.send(Chunk::from_static(b"0123456789")).await;
            sent.expect("send");
            let mut moved = 0;
            while moved < 10 {
                let count = fill(&server, &mut pipe, 10).await.expect("in the socket");
                moved += count.expect("a splice");
                drain(&server, &mut pipe).await.expect("back");
            }
            assert_eq!(receive(&client, 10).await, b"0123456789");
        }
    });
}

/// The engine receives before it is told that the reader would splice.
fn what_was_received_comes_before_what_is_in_the_socket(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        let (back, sink) = pair().await;
        rt::spawn(async move {
            let sent = send_pattern(&client, &mut Pattern::new(1), 100_000, 9_000).await;
            sent.expect("send");
            std::future::pending::<()>().await;
        });
        let mut expected = Pattern::new(1);
        expected.check(&receive(&server, 10).await);
        rt::sleep(Duration::from_millis(20)).await; // more is received
        let mut pipe = acquire().await;
        while expected.offset() < 100_000 {
            match fill(&server, &mut pipe, 5_000).await {
                None => expected.check(&server.recv().await.expect("received")),
                Some(count) => {
                    let count = count.expect("a splice");
                    assert!((1..=5_000).contains(&count) && pipe.len() == count);
                    drain(&back, &mut pipe).await.expect("the sink is well");
                    expected.check(&receive(&sink, count).await);
                }
            }
        }
    });
}

fn an_end_is_told_by_a_splice_and_stays(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        let mut pipe = acquire().await;
        let waits = fill(&server, &mut pipe, 100);
        let (moved, ended) = rt::join(waits, client.shutdown()).await;
        ended.expect("shutdown");
        assert_eq!(moved.expect("in the socket").expect("an end"), 0);
        assert_eq!(readable(&server).await, Input::Received);
        for _ in 0..2 {
            assert!(server.recv().await.expect("the end").is_empty());
        }
        server
            .send(Chunk::from_static(b"still open"))
            .await
            .expect("send");
        assert_eq!(receive(&client, 10).await, b"still open");
    });
}

fn a_reset_is_told_after_the_bytes_before_it(engine: Engine) {
    engine.run(async {
        for round in 0..20 {
            let (client, server) = pair().await;
            let (back, sink) = pair().await;
            let mut pattern = Pattern::new(round);
            let sent = send_pattern(&client, &mut pattern, 50_000, 50_000).await;
            sent.expect("send");
            // Before, while or after the bytes are spliced.
            for _ in 0..round {
                rt::yield_now().await;
            }
            client.reset();
            let mut pipe = acquire().await;
            let mut expected = Pattern::new(round);
            let error = loop {
                let bytes = match fill(&server, &mut pipe, 7_000).await {
                    Some(Err(error)) => break error,
                    Some(Ok(count)) => {
                        assert!(count > 0, "a reset is no end");
                        drain(&back, &mut pipe).await.expect("the sink is well");
                        receive(&sink, count).await
                    }
                    None => match server.recv().await {
                        Ok(chunk) => chunk.to_vec(),
                        Err(error) => break error,
                    },
                };
                assert!(!bytes.is_empty(), "a reset is no end");
                expected.check(&bytes);
            };
            assert_broken(&error);
            assert_broken(&server.recv().await.expect_err("it stays broken"));
        }
    });
}

fn a_reset_wakes_who_waits_for_input(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        let mut pipe = acquire().await;
        let reset = async {
            rt::sleep(Duration::from_millis(5)).await;
            client.reset();
        };
        let (moved, ()) = rt::join(fill(&server, &mut pipe, 100), reset).await;
        let error = match moved {
            Some(moved) => moved.expect_err("a reset"),
            None => server.recv().await.expect_err("a reset"),
        };
        assert_broken(&error);
    });
}

fn large_chunks_are_large_and_complete(engine: Engine) {
    const TOTAL: usize = 6_000_000;
    engine.run(async {
        let (client, server) = pair().await;
        rt::spawn(async move {
            let sent = send_pattern(&client, &mut Pattern::new(1), TOTAL, 1 << 20).await;
            sent.expect("send");
            client.shutdown().await.expect("shutdown");
        });
        let (mut pattern, mut largest) = (Pattern::new(1), 0);
        loop {
            let received = match readable(&server).await {
                Input::Received => server.recv().await,
                Input::InSocket => server.recv_large(usize::MAX).expect("few are held"),
            };
            match received {
                Ok(chunk) if chunk.is_empty() => break,
                Ok(chunk) => {
                    pattern.check(&chunk);
                    largest = largest.max(chunk.len());
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert_eq!(pattern.offset(), TOTAL);
        assert!(largest > 16 * 1024, "{largest} bytes at most");
        let mut held = Vec::new();
        let (client, server) = pair().await;
        while held.len() < 1000 {
            client.send(Chunk::from_static(b"x")).await.expect("send");
            while readable(&server).await == Input::Received {
                drop(server.recv().await);
            }
            match server.recv_large(usize::MAX) {
                Some(Err(error)) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                Some(chunk) => held.push(chunk.expect("a byte")),
                None => break,
            }
        }
        assert!(held.len() < 1000, "slow readers could hold all memory");
        assert_eq!(receive(&server, 1).await, b"x", "it is received as usual");
    });
}

/// Lets `server` splice, so that the engine's own receive is stopped.
async fn splice_once(client: &TcpStream, server: &TcpStream) {
    client.send(Chunk::from_static(b"x")).await.expect("send");
    let mut pipe = acquire().await;
    if fill(server, &mut pipe, 10).await.is_none() {
        drop(server.recv().await);
    }
    drop(pipe);
    let mut pipe = acquire().await;
    let idle = rt::timeout(Duration::from_millis(20), fill(server, &mut pipe, 10)).await;
    assert!(idle.is_err(), "nothing was sent");
}

fn after_splices_a_break_is_noticed(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        splice_once(&client, &server).await;
        let reset = async {
            rt::sleep(Duration::from_millis(5)).await;
            client.reset();
        };
        let (error, ()) = rt::join(server.broken(), reset).await;
        assert_broken(&error);
    });
}

fn after_splices_a_closed_connection_is_stale(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        splice_once(&client, &server).await;
        assert!(!server.is_stale());
        drop(client);
        eventually("it is stale", || server.is_stale()).await;
    });
}

/// Both ends hold some; the pipe holds the rest, until the reader reads.
fn a_full_sink_makes_a_splice_wait(engine: Engine) {
    const TOTAL: usize = 24 << 20;
    engine.run(async {
        let (client, front) = pair().await;
        let (back, server) = pair().await;
        let sender = rt::spawn(async move {
            let sent = send_pattern(&client, &mut Pattern::new(1), TOTAL, 1 << 20).await;
            sent.expect("send");
            client.shutdown().await.expect("shutdown");
        });
        let spliced = std::rc::Rc::new(std::cell::Cell::new(0_u64));
        let counted = std::rc::Rc::clone(&spliced);
        rt::spawn(async move {
            relay(&front, &back, || {
                counted.set(counted.get() + 1);
                true
            })
            .await;
        });
        // Until it takes nothing more.
        let mut before = u64::MAX;
        while before != spliced.get() || before == 0 {
            before = spliced.get();
            rt::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(rt::stats().pipes, 1, "it waits with bytes in its pipe");
        expect_pattern(&server, &mut Pattern::new(1), TOTAL).await;
        rt::abort(sender);
        eventually("the relay ends", || rt::stats().pipes == 0).await;
    });
}

fn a_broken_sink_fails_and_the_pipe_is_not_used_again(engine: Engine) {
    engine.run(async {
        let (client, front) = pair().await;
        let (back, server) = pair().await;
        server.reset();
        let mut pipe = acquire().await;
        let error = loop {
            // A first send may still find the connection whole.
            client
                .send(Chunk::from_static(b"lost"))
                .await
                .expect("send");
            if pipe.is_empty() {
                let moved = fill(&front, &mut pipe, 4).await.expect("in the socket");
                moved.expect("bytes");
            }
            if let Err(error) = drain(&back, &mut pipe).await {
                break error;
            }
            rt::sleep(Duration::from_millis(1)).await;
        };
        assert_broken(&error);
        assert!(!pipe.is_empty(), "what was not sent is in the pipe");
        drop(pipe);
        assert!(acquire().await.is_empty());
        assert!(back.flush().await.is_err(), "the failure stays");
    });
}

fn a_chunk_that_is_being_sent_goes_first(engine: Engine) {
    const CHUNK: usize = 8 << 20;
    engine.run(async {
        let (client, front) = pair().await;
        let (back, server) = pair().await;
        let (mut pattern, mut tail) = (Pattern::new(1), Pattern::new(2));
        client
            .send(Chunk::from_vec(tail.make(50)))
            .await
            .expect("send");
        let sends = async {
            let chunk = Chunk::from_vec(pattern.make(CHUNK));
            back.send(chunk).await.expect("send");
            let mut left = 50;
            let mut pipe = acquire().await;
            while left > 0 {
                let count = fill(&front, &mut pipe, 50).await.expect("in the socket");
                left -= count.expect("bytes");
                drain(&back, &mut pipe).await.expect("the sink is well");
            }
        };
        let (bytes, ()) = rt::join(receive(&server, CHUNK + 50), sends).await;
        Pattern::new(1).check(&bytes[..CHUNK]);
        Pattern::new(2).check(&bytes[CHUNK..]);
    });
}

/// The wait is given up for a receive and the other way round, at any moment.
fn a_dropped_wait_for_input_loses_nothing(engine: Engine) {
    const TOTAL: usize = 300_000;
    engine.run(async {
        let (client, server) = pair().await;
        let (back, sink) = pair().await;
        rt::spawn(async move {
            let (mut pattern, mut random) = (Pattern::new(1), Random::new(1));
            while pattern.offset() < TOTAL {
                let size = (1 + random.size(3_000)).min(TOTAL - pattern.offset());
                let bytes = Chunk::from_vec(pattern.make(size));
                client.send(bytes).await.expect("send");
                random.pause().await;
            }
            client.shutdown().await.expect("shutdown");
        });
        let (mut expected, mut random) = (Pattern::new(1), Random::new(2));
        let mut pipe = acquire().await;
        loop {
            if random.below(2) == 0 {
                let waits = fill(&server, &mut pipe, 2_000);
                if let rt::Either::First(Some(moved)) = rt::select(waits, random.pause()).await {
                    let count = moved.expect("bytes");
                    if count == 0 {
                        break;
                    }
                    drain(&back, &mut pipe).await.expect("the sink is well");
                    expected.check(&receive(&sink, count).await);
                }
            } else if let rt::Either::First(chunk) = rt::select(server.recv(), random.pause()).await
            {
                let chunk = chunk.expect("receive");
                if chunk.is_empty() {
                    break;
                }
                expected.check(&chunk);
            }
        }
        assert_eq!(expected.offset(), TOTAL);
    });
}

fn a_stream_dropped_amid_waits_leaves_nothing(engine: Engine) {
    engine.run(async {
        let before = rt::stats();
        for round in 0..40 {
            let (client, front) = pair().await;
            let (back, server) = pair().await;
            let mut random = Random::new(round);
            let flood = async {
                let mut pattern = Pattern::new(1);
                if round % 2 == 0 {
                    let _ = send_pattern(&client, &mut pattern, 20 << 20, 1 << 20).await;
                }
                std::future::pending::<()>().await;
            };
            // Waits for input, or with bytes in its pipe for room.
            let relays = relay(&front, &back, || true);
            rt::select(rt::join(flood, relays), random.pause()).await;
            drop(server);
        }
        eventually("every socket is closed", || {
            let now = rt::stats();
            (now.sockets, now.pipes) == (before.sockets, 0)
        })
        .await;
    });
}

fn a_pipe_with_bytes_is_closed(engine: Engine) {
    engine.alone(None, || {
        engine.run(async {
            let (client, server) = pair().await;
            drop(acquire().await);
            let before = descriptors();
            client.send(Chunk::from_static(b"x")).await.expect("send");
            let mut pipe = acquire().await;
            assert_eq!(descriptors(), before, "the pipe that was there already");
            let moved = fill(&server, &mut pipe, 10).await.expect("in the socket");
            assert_eq!(moved.expect("bytes"), 1);
            drop(pipe);
            assert!(engine.is_sim() || descriptors() == before - 2);
            assert!(acquire().await.is_empty());
            assert_eq!(descriptors(), before);
        });
    });
}

fn pipes_run_out_and_come_back(engine: Engine) {
    engine.run(async {
        let pipes: Vec<Pipe> = std::iter::from_fn(Pipe::acquire).collect();
        assert!(!pipes.is_empty() && rt::stats().pipes == pipes.len());
        assert!(Pipe::acquire().is_none());
        drop(pipes);
        assert_eq!(rt::stats().pipes, 0);
        drop(acquire().await);
    });
}

fn without_descriptors_there_is_no_pipe(engine: Engine) {
    if engine.is_sim() {
        return; // its pipes need none
    }
    engine.alone(Some(64), || {
        engine.run(async {
            let (client, server) = pair().await;
            let mut files = Vec::new();
            while let Ok(file) = std::fs::File::open("/dev/null") {
                files.push(file);
            }
            assert!(Pipe::acquire().is_none());
            files.truncate(files.len() - 2);
            let mut pipe = acquire().await;
            client.send(Chunk::from_static(b"x")).await.expect("send");
            let moved = fill(&server, &mut pipe, 10).await.expect("in the socket");
            assert_eq!(moved.expect("bytes"), 1);
            let all = poll_fn(|cx| {
                let count = ready!(client.poll_splice_from(cx, &mut pipe));
                Poll::Ready(count)
            });
            assert_eq!(all.await.expect("room"), 1);
        });
    });
}

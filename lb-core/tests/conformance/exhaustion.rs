//! Nothing left: no buffers, no descriptors. And nothing left behind after thousands of
//! connections.

use crate::harness::{
    Engine, Pattern, descriptors, eventually, expect_pattern, listen, pair, pair_at, receive,
    receive_to_end,
};
use lb_core::rt::{self, Buffer, Chunk, TcpStream};
use std::cell::Cell;
use std::fs::File;
use std::rc::Rc;
use std::time::Duration;

on_every_engine!(
    more_unread_bytes_than_buffers,
    more_streams_than_buffers,
    streams_that_nobody_reads_starve_no_reader,
    chunks_that_nobody_drops_starve_no_reader,
    held_chunks_do_not_stop_other_streams,
    held_buffers_do_not_stop_streams,
    held_chunks_keep_their_bytes,
    out_of_descriptors_accepting_pauses_and_resumes,
    out_of_descriptors_connecting_is_an_error,
    thousands_of_connections_leave_nothing,
);

/// Far more bytes wait on far more streams than the pool has buffers.
fn more_unread_bytes_than_buffers(engine: Engine) {
    const STREAMS: usize = 400;
    const EACH: usize = 100_000;
    engine.run(async {
        let (listener, address) = listen();
        let mut servers = Vec::new();
        for seed in 0..STREAMS {
            let (client, server) = pair_at(&listener, address).await;
            rt::spawn(async move {
                let bytes = Pattern::new(seed as u64).make(EACH);
                client.send(Chunk::from_vec(bytes)).await.expect("send");
                client.shutdown().await.expect("shutdown");
                drop(receive_to_end(&client).await);
            });
            servers.push(server);
        }
        // Give every receive that is armed without being asked for the time to take a buffer.
        rt::sleep(Duration::from_millis(100)).await;
        for (seed, server) in servers.iter().enumerate().rev() {
            expect_pattern(server, &mut Pattern::new(seed as u64), EACH).await;
        }
    });
}

/// Many relays at once with few buffers: slow, but everything arrives.
fn more_streams_than_buffers(engine: Engine) {
    const STREAMS: u64 = 60;
    const EACH: usize = 100_000;
    engine.run_with_buffers(24, async {
        let done = Rc::new(Cell::new(0));
        for seed in 0..STREAMS {
            let (client, server) = pair().await;
            rt::spawn(async move {
                let bytes = Pattern::new(seed).make(EACH);
                client.send(Chunk::from_vec(bytes)).await.expect("send");
                client.shutdown().await.expect("shutdown");
                drop(receive_to_end(&client).await);
            });
            let done = Rc::clone(&done);
            rt::spawn(async move {
                expect_pattern(&server, &mut Pattern::new(seed), EACH).await;
                done.set(done.get() + 1);
            });
        }
        eventually("every stream is done", || done.get() == STREAMS).await;
        assert!(engine.is_sim() || rt::stats().buffers <= 24);
    });
}

/// What was received before anyone asked must not keep the buffers from those who ask.
fn streams_that_nobody_reads_starve_no_reader(engine: Engine) {
    engine.run_with_buffers(16, async {
        let mut unread = Vec::new();
        for seed in 0..40 {
            let (client, server) = pair().await;
            // Someone waited once, so that a receive may be under way in the engine.
            assert!(rt::poll_once(server.recv()).await.is_none());
            let bytes = Pattern::new(seed).make(50_000);
            client.send(Chunk::from_vec(bytes)).await.expect("send");
            unread.push((client, server));
        }
        rt::sleep(Duration::from_millis(50)).await;
        let (client, server) = pair().await;
        let echo = async {
            client
                .send(Chunk::from_static(b"alive?"))
                .await
                .expect("send");
            receive(&server, 6).await
        };
        let echoed = rt::timeout(Duration::from_secs(10), echo).await;
        assert!(echoed.is_ok(), "one reader waits for what nobody reads");
        for (seed, (_client, server)) in unread.iter().enumerate() {
            let bytes = receive(server, 50_000).await;
            Pattern::new(seed as u64).check(&bytes);
        }
    });
}

/// Sends that are stuck hold chunks: the clients that do not read must not stop the others.
fn chunks_that_nobody_drops_starve_no_reader(engine: Engine) {
    engine.run_with_buffers(16, async {
        let (client, server) = pair().await;
        let (other_client, other_server) = pair().await;
        let mut held = Vec::new();
        for _ in 0..16 {
            client
                .send(Chunk::from_static(b"held"))
                .await
                .expect("send");
            let received = rt::timeout(Duration::from_secs(1), server.recv()).await;
            let Ok(chunk) = received else { break };
            held.push(chunk.expect("receive"));
        }
        let echo = async {
            other_client
                .send(Chunk::from_static(b"alive?"))
                .await
                .expect("send");
            receive(&other_server, 6).await
        };
        let echoed = rt::timeout(Duration::from_secs(10), echo).await;
        assert!(echoed.is_ok(), "{} held chunks stop everyone", held.len());
    });
}

/// Sessions whose clients do not read hold chunks for as long as they like: others must go on.
fn held_chunks_do_not_stop_other_streams(engine: Engine) {
    const CHUNKS: usize = 3_000;
    engine.run(async {
        let (client, server) = pair().await;
        let (other_client, other_server) = pair().await;
        let mut held = Vec::new();
        let mut pattern = Pattern::new(1);
        let mut check = Pattern::new(1);
        for _ in 0..CHUNKS {
            client
                .send(Chunk::from_vec(pattern.make(700)))
                .await
                .expect("send");
            let mut left = 700;
            while left > 0 {
                let chunk = server.recv().await.expect("receive");
                left -= chunk.len();
                held.push(chunk);
            }
        }
        let alive = async {
            other_client
                .send(Chunk::from_static(b"alive?"))
                .await
                .expect("send");
            receive(&other_server, 6).await
        };
        let answer = rt::timeout(Duration::from_secs(20), alive).await;
        assert_eq!(answer.expect("other streams go on"), b"alive?");
        for chunk in held {
            check.check(&chunk);
        }
        assert_eq!(check.offset(), CHUNKS * 700);
    });
}

fn held_buffers_do_not_stop_streams(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        let held: Vec<Buffer> = (0..3_000)
            .map(|index: u32| {
                let mut buffer = Buffer::new();
                assert!(buffer.push(&index.to_le_bytes()));
                buffer
            })
            .collect();
        for _ in 0..20 {
            client
                .send(Chunk::from_static(b"alive?"))
                .await
                .expect("send");
            assert_eq!(receive(&server, 6).await, b"alive?");
        }
        for (index, buffer) in (0_u32..).zip(&held) {
            assert_eq!(buffer.as_slice(), index.to_le_bytes());
        }
    });
}

/// A chunk's buffer is not lent again while any part of the chunk lives.
fn held_chunks_keep_their_bytes(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        let mut parts = Vec::new();
        for round in 0..500_u32 {
            let message = round.to_le_bytes().repeat(8);
            client.send(Chunk::from_vec(message)).await.expect("send");
            let mut left = 32;
            while left > 0 {
                let mut chunk = server.recv().await.expect("receive");
                let offset = 32 - left;
                left -= chunk.len();
                // Keep some from the front, some from the back, some twice; drop the others.
                let front = chunk.split_to(chunk.len() / 2);
                let middle = offset + front.len();
                match round % 4 {
                    0 => parts.push((round, offset, front)),
                    1 => parts.push((round, middle, chunk)),
                    2 => parts.push((round, middle, chunk.share())),
                    _ => {}
                }
            }
        }
        for (round, offset, part) in parts {
            let message = round.to_le_bytes().repeat(8);
            assert_eq!(&*part, &message[offset..offset + part.len()]);
        }
    });
}

fn out_of_descriptors_accepting_pauses_and_resumes(engine: Engine) {
    if engine.is_sim() {
        // Has no descriptors; failing accepts are among its faults, see `simulation.rs`.
        return;
    }
    engine.alone(Some(256), || {
        engine.run(async {
            let (listener, address) = listen();
            let (client, server) = pair_at(&listener, address).await;
            let mut fillers: Vec<File> = Vec::new();
            while let Ok(file) = File::open("/dev/null") {
                fillers.push(file);
            }
            // Connecting takes the last descriptor, accepting finds none.
            fillers.pop();
            let waiting = TcpStream::connect(address).await.expect("connect");
            waiting
                .send(Chunk::from_static(b"patience"))
                .await
                .expect("send");
            for _ in 0..3 {
                let error = listener
                    .accept()
                    .await
                    .map(drop)
                    .expect_err("no descriptor is left");
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                client
                    .send(Chunk::from_static(b"go on"))
                    .await
                    .expect("send");
                assert_eq!(receive(&server, 5).await, b"go on");
                rt::sleep(Duration::from_millis(5)).await;
            }
            drop(fillers);
            let served = loop {
                // An error which was seen before the descriptors came back may be told still.
                match rt::timeout(Duration::from_secs(20), listener.accept()).await {
                    Ok(Ok(stream)) => break stream,
                    Ok(Err(error)) => assert_eq!(error.raw_os_error(), Some(libc::EMFILE)),
                    Err(rt::Elapsed) => panic!("accepting does not resume"),
                }
            };
            assert_eq!(receive(&served, 8).await, b"patience");
        });
    });
}

fn out_of_descriptors_connecting_is_an_error(engine: Engine) {
    if engine.is_sim() {
        return;
    }
    engine.alone(Some(256), || {
        engine.run(async {
            let (listener, address) = listen();
            let mut fillers: Vec<File> = Vec::new();
            while let Ok(file) = File::open("/dev/null") {
                fillers.push(file);
            }
            for _ in 0..3 {
                let error = TcpStream::connect(address)
                    .await
                    .map(drop)
                    .expect_err("none left");
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
            }
            drop(fillers);
            drop(pair_at(&listener, address).await);
        });
    });
}

fn thousands_of_connections_leave_nothing(engine: Engine) {
    const ROUNDS: usize = 60;
    const AT_ONCE: usize = 50;
    engine.alone(None, || {
        engine.run(async {
            let (listener, address) = listen();
            rt::spawn(async move {
                loop {
                    let stream = listener.accept().await.expect("accept");
                    rt::spawn(async move {
                        while let Ok(chunk) = stream.recv().await {
                            if chunk.is_empty() || stream.send(chunk).await.is_err() {
                                break;
                            }
                        }
                        if stream.flush().await.is_ok() {
                            let _ = stream.shutdown().await;
                        }
                    });
                }
            });
            churn(address, AT_ONCE).await;
            rt::sleep(Duration::from_millis(50)).await;
            let before = descriptors();
            for _ in 0..ROUNDS {
                churn(address, AT_ONCE).await;
            }
            eventually("all descriptors are back", || descriptors() <= before).await;
        });
    });
}

/// Opens `count` connections at once, and ends them in every way there is.
async fn churn(address: std::net::SocketAddr, count: usize) {
    let done = Rc::new(Cell::new(0));
    for index in 0..count {
        let done = Rc::clone(&done);
        rt::spawn(async move {
            let stream = TcpStream::connect(address).await.expect("connect");
            stream
                .send(Chunk::from_static(b"ping"))
                .await
                .expect("send");
            if index % 5 != 0 {
                assert_eq!(receive(&stream, 4).await, b"ping");
            }
            match index % 4 {
                0 => stream.reset(),
                1 => stream.shutdown().await.expect("shutdown"),
                2 => {
                    stream.shutdown().await.expect("shutdown");
                    drop(receive_to_end(&stream).await);
                }
                _ => {}
            }
            done.set(done.get() + 1);
        });
    }
    eventually("a round of connections", || done.get() == count).await;
}

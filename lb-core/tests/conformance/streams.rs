//! Bytes through a healthy connection arrive once, in order, and no faster than they are read.

use crate::harness::{
    Engine, Pattern, Random, eventually, expect_pattern, in_future, pair, receive, receive_to_end,
    send_pattern,
};
use lb_core::rt::{self, Buffer, Chunk, Elapsed, TcpStream};
use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

const MIB: usize = 1024 * 1024;

on_every_engine!(
    echo,
    many_chunks_arrive_in_order,
    half_close_by_the_client,
    half_close_by_the_server,
    what_is_held_leaves_with_the_end,
    both_ends_close_at_once,
    the_end_is_told_again_and_again,
    eight_mebibytes_to_a_slow_reader,
    both_directions_in_one_task,
    a_sender_waits_for_its_reader,
    a_single_send_larger_than_all_socket_buffers,
    send_two_sends_head_and_body_in_order,
    an_empty_send_sends_nothing,
    every_kind_of_chunk_can_be_sent,
    unread_bytes_come_first,
    try_recv_does_not_wait,
    flush_waits_for_the_kernel,
    shutdown_flushes_first,
    streams_do_not_mix,
    a_fast_sender_starves_nobody,
    who_is_not_read_holds_few_buffers,
);

/// Whether a receive of many buffers can be told how many: from Linux 6.17 on.
fn takes_few_at_once() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
    let mut numbers = release.split(|it: char| !it.is_ascii_digit());
    let mut number = || numbers.next().and_then(|it| it.parse::<u32>().ok());
    (number(), number()) >= (Some(6), Some(17))
}

fn who_is_not_read_holds_few_buffers(engine: Engine) {
    const CONNECTIONS: usize = 8;
    if engine.is_sim() || !takes_few_at_once() {
        return;
    }
    engine.run(async {
        let (listener, address) = crate::harness::listen();
        let mut unread = Vec::new();
        for _ in 0..CONNECTIONS {
            let sender = thread::spawn(move || {
                let mut stream = std::net::TcpStream::connect(address).expect("connect");
                stream.write_all(b"first").expect("write");
                stream
            });
            let stream = listener.accept().await.expect("accept");
            assert_eq!(receive(&stream, 5).await, b"first");
            assert!(!stream.is_stale()); // it goes on to receive
            unread.push((stream, sender.join().expect("a sender")));
        }
        rt::sleep(Duration::from_millis(20)).await;
        let mut streams = Vec::new();
        for (stream, mut sender) in unread {
            thread::spawn(move || sender.write_all(&vec![7; 4 * MIB]));
            streams.push(stream);
        }
        thread::sleep(Duration::from_millis(200)); // much has come when it looks again
        eventually("all to have received", || {
            streams.iter().all(TcpStream::is_stale)
        })
        .await;
        rt::sleep(Duration::from_millis(100)).await;
        let held = rt::stats().buffers;
        assert!(held <= CONNECTIONS * 8, "{held} buffers of 16 KiB");
    });
}

fn echo(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        rt::spawn(echo_to_end(server));
        for message in ["one", "two", "a somewhat longer third"] {
            client
                .send(Chunk::from_vec(message.as_bytes().to_vec()))
                .await
                .expect("send");
            assert_eq!(receive(&client, message.len()).await, message.as_bytes());
        }
        client.shutdown().await.expect("shutdown");
        assert!(client.recv().await.expect("end").is_empty());
    });
}

async fn echo_to_end(stream: TcpStream) {
    loop {
        let chunk = stream.recv().await.expect("receive");
        if chunk.is_empty() {
            return stream.shutdown().await.expect("shutdown");
        }
        stream.send(chunk).await.expect("send");
    }
}

fn many_chunks_arrive_in_order(engine: Engine) {
    const TOTAL: usize = MIB;
    engine.run(async {
        let (client, server) = pair().await;
        rt::spawn(async move {
            let (mut pattern, mut random) = (Pattern::new(1), Random::new(1));
            while pattern.offset() < TOTAL {
                let size = (1 + random.size(1_500)).min(TOTAL - pattern.offset());
                client
                    .send(Chunk::from_vec(pattern.make(size)))
                    .await
                    .expect("send");
                if random.below(50) == 0 {
                    random.pause().await;
                }
            }
            client.shutdown().await.expect("shutdown");
        });
        expect_pattern(&server, &mut Pattern::new(1), TOTAL).await;
    });
}

fn half_close_by_the_client(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        half_close(&client, &server).await;
    });
}

fn half_close_by_the_server(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        half_close(&server, &client).await;
    });
}

/// `first` stops sending, `second` goes on for a long while, then stops too.
async fn half_close(first: &TcpStream, second: &TcpStream) {
    send_pattern(first, &mut Pattern::new(1), 5_000, 1_000)
        .await
        .expect("send");
    first.shutdown().await.expect("shutdown");
    expect_pattern(second, &mut Pattern::new(1), 5_000).await;

    let mut answer = Pattern::new(2);
    let send = async {
        send_pattern(second, &mut answer, 300_000, 4_096)
            .await
            .expect("send after their end");
        second.shutdown().await.expect("shutdown");
    };
    rt::join(send, expect_pattern(first, &mut Pattern::new(2), 300_000)).await;
    assert!(second.recv().await.expect("still a clean end").is_empty());
}

fn what_is_held_leaves_with_the_end(engine: Engine) {
    engine.run(async {
        for size in [1, 100, 20_000, 3_000_000] {
            for shuts_down in [false, true] {
                let (client, server) = pair().await;
                let send = async move {
                    server.hold_last();
                    send_pattern(&server, &mut Pattern::new(4), size, size)
                        .await
                        .expect("send");
                    server.flush().await.expect("flush");
                    if shuts_down {
                        server.shutdown().await.expect("shutdown");
                        assert!(server.recv().await.expect("their end").is_empty());
                    }
                };
                let receive = async move {
                    expect_pattern(&client, &mut Pattern::new(4), size).await;
                };
                rt::join(send, receive).await;
            }
        }
    });
}

fn both_ends_close_at_once(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        let end = async |stream: &TcpStream| {
            send_pattern(stream, &mut Pattern::new(3), 100, 100)
                .await
                .expect("send");
            stream.shutdown().await.expect("shutdown");
            expect_pattern(stream, &mut Pattern::new(3), 100).await;
        };
        rt::join(end(&client), end(&server)).await;
    });
}

fn the_end_is_told_again_and_again(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        client.shutdown().await.expect("shutdown");
        for _ in 0..5 {
            assert!(server.recv().await.expect("end").is_empty());
        }
        let at_once = server
            .try_recv()
            .expect("the end is known")
            .expect("no error");
        assert!(at_once.is_empty());
    });
}

fn eight_mebibytes_to_a_slow_reader(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        rt::spawn(async move {
            send_pattern(&client, &mut Pattern::new(1), 8 * MIB, 64 * 1024)
                .await
                .expect("send");
            client.shutdown().await.expect("shutdown");
        });
        let (mut pattern, mut random) = (Pattern::new(1), Random::new(1));
        loop {
            let chunk = server.recv().await.expect("receive");
            if chunk.is_empty() {
                break;
            }
            pattern.check(&chunk);
            if random.below(8) == 0 {
                random.pause().await;
            }
        }
        assert_eq!(pattern.offset(), 8 * MIB);
    });
}

fn both_directions_in_one_task(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        let talk = async |stream: &TcpStream, sends: u64, expects: u64| {
            let send = async {
                let mut pattern = Pattern::new(sends);
                send_pattern(stream, &mut pattern, 2 * MIB, 10_000)
                    .await
                    .expect("send");
                stream.shutdown().await.expect("shutdown");
            };
            rt::join(
                send,
                expect_pattern(stream, &mut Pattern::new(expects), 2 * MIB),
            )
            .await;
        };
        rt::join(talk(&client, 1, 2), talk(&server, 2, 1)).await;
    });
}

fn a_sender_waits_for_its_reader(engine: Engine) {
    const BOUND: usize = 32 * MIB;
    engine.run(async {
        let (client, server) = pair().await;
        let mut pattern = Pattern::new(1);
        loop {
            // A send which is dropped before it is accepted sends nothing.
            let mut attempt = pattern.clone();
            let chunk = Chunk::from_vec(attempt.make(64 * 1024));
            match rt::timeout(Duration::from_secs(1), client.send(chunk)).await {
                Ok(sent) => sent.expect("send"),
                Err(Elapsed) => break,
            }
            pattern = attempt;
            assert!(
                pattern.offset() < BOUND,
                "a reader that does not read does not slow its sender"
            );
        }
        let accepted = pattern.offset();
        let end = async { client.shutdown().await.expect("shutdown") };
        rt::join(end, expect_pattern(&server, &mut Pattern::new(1), accepted)).await;
    });
}

fn a_single_send_larger_than_all_socket_buffers(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        let bytes = Pattern::new(1).make(16 * MIB);
        client
            .send(Chunk::from_vec(bytes))
            .await
            .expect("the first send is accepted at once");
        let end = async { client.shutdown().await.expect("shutdown") };
        rt::join(end, expect_pattern(&server, &mut Pattern::new(1), 16 * MIB)).await;
    });
}

fn send_two_sends_head_and_body_in_order(engine: Engine) {
    let sizes = [
        (10, 20),
        (1, 0),
        (0, 1),
        (0, 0),
        (300, 3 * MIB),
        (2 * MIB, 300),
        (40_000, 1),
    ];
    engine.run(async move {
        let (client, server) = pair().await;
        rt::spawn(async move {
            let mut pattern = Pattern::new(1);
            for (head, body) in sizes {
                let head = Chunk::from_vec(pattern.make(head));
                let body = Chunk::from_vec(pattern.make(body));
                client.send_two(head, body).await.expect("send");
            }
            client.shutdown().await.expect("shutdown");
        });
        let total = sizes.iter().map(|(head, body)| head + body).sum();
        expect_pattern(&server, &mut Pattern::new(1), total).await;
    });
}

fn an_empty_send_sends_nothing(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        for _ in 0..3 {
            client.send(Chunk::from_static(b"")).await.expect("send");
            client.flush().await.expect("flush");
        }
        let nothing = rt::timeout(Duration::from_millis(50), server.recv()).await;
        assert!(nothing.is_err(), "neither bytes nor an end");
        client.send(Chunk::from_static(b"x")).await.expect("send");
        assert_eq!(receive(&server, 1).await, b"x");
    });
}

fn every_kind_of_chunk_can_be_sent(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        let mut buffer = Buffer::new();
        assert!(buffer.push(b"from a buffer, "));
        let mut frozen = buffer.freeze();
        let front = frozen.split_to(5);
        let mut cut = Chunk::from_static(b"<<from a cut static, >>");
        cut.advance(2);
        cut.truncate(cut.len() - 2);
        client
            .send(Chunk::from_vec(b"bounced, ".to_vec()))
            .await
            .expect("send");
        let bounced = server.recv().await.expect("receive");
        for chunk in [
            front.share(),
            frozen.share(),
            cut,
            Chunk::from_static(b"static, "),
        ] {
            server.send(chunk).await.expect("send");
        }
        server.send(bounced).await.expect("send");
        server.send_two(front, frozen).await.expect("send");
        server.shutdown().await.expect("shutdown");
        let (bytes, end) = receive_to_end(&client).await;
        end.expect("a clean end");
        let expected = "from a buffer, from a cut static, static, bounced, from a buffer, ";
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
    });
}

fn unread_bytes_come_first(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        client
            .send(Chunk::from_static(b"head body"))
            .await
            .expect("send");
        client.shutdown().await.expect("shutdown");
        let mut head = Chunk::from_vec(receive(&server, 9).await);
        let _ = head.split_to(5);
        server.unread(head);
        assert_eq!(&*server.recv().await.expect("receive"), b"body");
        server.unread(Chunk::from_static(b"again"));
        assert_eq!(
            &*server
                .try_recv()
                .expect("there is something")
                .expect("no error"),
            b"again"
        );
        server.unread(Chunk::from_static(b""));
        assert!(
            server
                .recv()
                .await
                .expect("nothing given back: the end")
                .is_empty()
        );
        server.unread(Chunk::from_static(b"even at the end"));
        assert_eq!(&*server.recv().await.expect("receive"), b"even at the end");
        assert!(server.recv().await.expect("end").is_empty());
    });
}

fn try_recv_does_not_wait(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        assert!(server.try_recv().is_none());
        client
            .send(Chunk::from_static(b"here"))
            .await
            .expect("send");
        let mut bytes = Vec::new();
        eventually("bytes without waiting", || {
            if let Some(chunk) = server.try_recv() {
                bytes.extend_from_slice(&chunk.expect("receive"));
            }
            bytes.len() == 4
        })
        .await;
        assert_eq!(bytes, b"here");
        assert!(server.try_recv().is_none());
    });
}

fn flush_waits_for_the_kernel(engine: Engine) {
    const TOTAL: usize = 12 * MIB;
    engine.run(async {
        let (client, server) = pair().await;
        client.flush().await.expect("nothing to flush");
        let flushed = Rc::new(Cell::new(false));
        let sender = async {
            client
                .send(Chunk::from_vec(Pattern::new(1).make(TOTAL)))
                .await
                .expect("send");
            client.flush().await.expect("flush");
            flushed.set(true);
            // All of it is the kernel's now: dropping the stream loses nothing.
            drop(client);
        };
        let reader = async {
            let mut pattern = Pattern::new(1);
            rt::sleep(Duration::from_millis(30)).await;
            assert!(
                !flushed.get(),
                "twelve mebibytes were flushed with nobody reading"
            );
            expect_pattern(&server, &mut pattern, TOTAL).await;
        };
        rt::join(sender, reader).await;
    });
}

fn shutdown_flushes_first(engine: Engine) {
    const TOTAL: usize = 6 * MIB;
    engine.run(async {
        let (client, server) = pair().await;
        rt::spawn(async move {
            client
                .send(Chunk::from_vec(Pattern::new(1).make(TOTAL)))
                .await
                .expect("send");
            client.shutdown().await.expect("shutdown");
        });
        rt::sleep(Duration::from_millis(20)).await;
        expect_pattern(&server, &mut Pattern::new(1), TOTAL).await;
    });
}

fn streams_do_not_mix(engine: Engine) {
    const STREAMS: u64 = 100;
    engine.run(async {
        let done = Rc::new(Cell::new(0));
        for seed in 0..STREAMS {
            let (client, server) = pair().await;
            let done = Rc::clone(&done);
            rt::spawn(echo_to_end(server));
            rt::spawn(async move {
                let mut random = Random::new(seed);
                let send = async {
                    let mut pattern = Pattern::new(seed);
                    for _ in 0..20 {
                        let size = 1 + random.size(5_000);
                        send_pattern(&client, &mut pattern, size, size)
                            .await
                            .expect("send");
                        random.pause().await;
                    }
                    client.shutdown().await.expect("shutdown");
                    pattern.offset()
                };
                let (sent, (bytes, end)) = rt::join(send, receive_to_end(&client)).await;
                end.expect("a clean end");
                Pattern::new(seed).check(&bytes);
                assert_eq!(bytes.len(), sent);
                done.set(done.get() + 1);
            });
        }
        eventually("every stream is done", || done.get() == STREAMS).await;
    });
}

/// A stream that always has bytes must not keep the loop from its other work.
fn a_fast_sender_starves_nobody(engine: Engine) {
    if engine.is_sim() {
        // Nobody outside the loop can send on the simulated network.
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let sender = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let block = vec![7; 256 * 1024];
        while stream.write_all(&block).is_ok() {}
    });
    engine.run(async {
        let stream = TcpStream::connect(address).await.expect("connect");
        let reader = async { while stream.recv().await.is_ok() {} };
        let others = async {
            let (client, server) = pair().await;
            for _ in 0..20 {
                client
                    .send(Chunk::from_static(b"still there?"))
                    .await
                    .expect("send");
                assert_eq!(receive(&server, 12).await, b"still there?");
            }
            rt::sleep_until(in_future(Duration::from_millis(50))).await;
        };
        rt::select(reader, others).await;
    });
    sender
        .join()
        .expect("the sender ends once its reader is gone");
}

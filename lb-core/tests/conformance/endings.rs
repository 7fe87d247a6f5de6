//! How connections end: what the other side sees, and that no ending is more than an error.

use crate::harness::{
    Engine, Pattern, assert_broken, descriptors, eventually, expect_pattern, listen, pair,
    receive_to_end, send_pattern, send_until_error,
};
use lb_core::rt::{self, Buffer, Chunk, Either, TcpStream};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

on_every_engine!(
    a_drop_is_an_end_of_stream,
    a_reset_is_seen_by_a_waiting_recv,
    a_reset_is_seen_by_a_later_recv,
    a_reset_is_seen_by_send,
    a_reset_is_seen_by_a_waiting_send,
    a_reset_is_seen_by_broken,
    a_reset_behind_unread_bytes_is_seen_by_broken,
    broken_does_not_take_an_end_for_a_break,
    an_end_is_seen_by_gone_once_everything_before_it_is_taken,
    a_reset_is_seen_by_gone,
    bytes_before_a_reset_are_never_wrong,
    a_reset_connection_stays_broken,
    sending_after_the_peer_closed_is_an_error,
    sending_after_our_shutdown_is_an_error,
    an_answer_outlives_a_failed_send,
    a_reset_told_to_a_send_is_no_end_for_recv,
    a_failed_send_is_seen_by_broken,
    an_idle_connection_is_not_stale,
    a_closed_idle_connection_is_stale,
    a_reset_idle_connection_is_stale,
    an_idle_connection_with_unexpected_bytes_is_stale,
    a_drop_amid_a_send_sends_a_correct_prefix,
    a_drop_amid_a_send_releases_the_descriptor,
    resetting_amid_a_send_is_a_reset,
);

fn a_drop_is_an_end_of_stream(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        send_pattern(&client, &mut Pattern::new(1), 1_000, 100)
            .await
            .expect("send");
        client.flush().await.expect("flush");
        drop(client);
        expect_pattern(&server, &mut Pattern::new(1), 1_000).await;
    });
}

fn a_reset_is_seen_by_a_waiting_recv(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        let reset = async {
            rt::sleep(Duration::from_millis(20)).await;
            client.reset();
        };
        let (error, ()) = rt::join(server.recv(), reset).await;
        assert_eq!(
            error.expect_err("reset").kind(),
            io::ErrorKind::ConnectionReset
        );
    });
}

fn a_reset_is_seen_by_a_later_recv(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        client.reset();
        rt::sleep(Duration::from_millis(20)).await;
        let (bytes, end) = receive_to_end(&server).await;
        assert!(bytes.is_empty());
        assert_eq!(
            end.expect_err("reset").kind(),
            io::ErrorKind::ConnectionReset
        );
    });
}

fn a_reset_is_seen_by_send(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        client.reset();
        assert_broken(&send_until_error(&server).await);
    });
}

fn a_reset_is_seen_by_a_waiting_send(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        let send = async {
            let mut pattern = Pattern::new(1);
            send_pattern(&client, &mut pattern, 256 * 1024 * 1024, 1024 * 1024).await
        };
        let reset = async {
            rt::sleep(Duration::from_millis(300)).await;
            server.reset();
        };
        let (sent, ()) = rt::join(send, reset).await;
        assert_broken(&sent.expect_err("the reader has reset"));
    });
}

fn a_reset_is_seen_by_broken(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        let reset = async {
            rt::sleep(Duration::from_millis(20)).await;
            client.reset();
        };
        let ((error, receive), ()) =
            rt::join(rt::join(server.broken(), server.recv()), reset).await;
        assert_broken(&error);
        assert_broken(&receive.expect_err("the waiting recv sees it too"));
    });
}

/// While the other side of a relay is blocked nobody receives; a reset must still be noticed.
fn a_reset_behind_unread_bytes_is_seen_by_broken(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        let mut pattern = Pattern::new(1);
        let fill = send_pattern(&client, &mut pattern, 64 * 1024 * 1024, 64 * 1024);
        let full = rt::timeout(Duration::from_millis(500), fill).await;
        assert!(full.is_err(), "nobody reads");
        let reset = async {
            rt::sleep(Duration::from_millis(20)).await;
            client.reset();
        };
        let (error, ()) = rt::join(server.broken(), reset).await;
        assert_broken(&error);
    });
}

fn broken_does_not_take_an_end_for_a_break(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        client
            .send(Chunk::from_static(b"last words"))
            .await
            .expect("send");
        client.shutdown().await.expect("shutdown");
        let early = rt::timeout(Duration::from_millis(100), server.broken()).await;
        assert!(early.is_err(), "{early:?}");
        let (bytes, end) = receive_to_end(&server).await;
        assert_eq!(
            (bytes.as_slice(), end.is_ok()),
            (b"last words".as_slice(), true)
        );
        let early = rt::timeout(Duration::from_millis(100), server.broken()).await;
        assert!(early.is_err(), "{early:?}");
        client.reset();
        assert_broken(&server.broken().await);
    });
}

fn an_end_is_seen_by_gone_once_everything_before_it_is_taken(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        let gone = || std::future::poll_fn(|cx| server.poll_gone(cx));
        let early = rt::timeout(Duration::from_millis(50), gone()).await;
        assert!(early.is_err(), "nobody has ended anything");
        let last_words = Chunk::from_static(b"last words");
        client.send(last_words).await.expect("send");
        client.shutdown().await.expect("shutdown");
        let early = rt::timeout(Duration::from_millis(100), gone()).await;
        assert!(early.is_err(), "bytes wait to be taken");
        let received = server.recv().await.expect("receive");
        server.unread(received);
        let early = rt::timeout(Duration::from_millis(50), gone()).await;
        assert!(early.is_err(), "they were given back");
        assert_eq!(&*server.recv().await.expect("receive"), b"last words");
        gone().await;
        gone().await;
        server.send(Chunk::from_static(b"so")).await.expect("send");
        assert_eq!(&*client.recv().await.expect("our side goes on"), b"so");

        let (client, server) = pair().await;
        let end = async {
            rt::sleep(Duration::from_millis(20)).await;
            client.shutdown().await.expect("shutdown");
        };
        rt::join(std::future::poll_fn(|cx| server.poll_gone(cx)), end).await;
    });
}

fn a_reset_is_seen_by_gone(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        let reset = async {
            rt::sleep(Duration::from_millis(20)).await;
            client.reset();
        };
        rt::join(std::future::poll_fn(|cx| server.poll_gone(cx)), reset).await;
    });
}

fn bytes_before_a_reset_are_never_wrong(engine: Engine) {
    engine.run(async {
        for size in [1, 1_000, 70_000, 3_000_000] {
            let (client, server) = pair().await;
            client
                .send(Chunk::from_vec(Pattern::new(1).make(size)))
                .await
                .expect("send");
            client.reset();
            let (bytes, end) = receive_to_end(&server).await;
            Pattern::new(1).check(&bytes);
            assert_broken(&end.expect_err("reset"));
        }
    });
}

/// Linux tells a socket error once; we tell it as often as we are asked.
fn a_reset_connection_stays_broken(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        client.reset();
        assert_broken(&server.broken().await);
        for _ in 0..3 {
            let (_, end) = receive_to_end(&server).await;
            assert!(end.is_err(), "no clean end after a reset");
            assert_broken(&send_until_error(&server).await);
            assert!(server.flush().await.is_err());
            assert!(server.shutdown().await.is_err());
            assert_broken(&server.broken().await);
            assert!(server.is_stale());
        }
    });
}

fn sending_after_the_peer_closed_is_an_error(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        drop(server);
        assert_broken(&send_until_error(&client).await);
        assert_broken(&send_until_error(&client).await);
    });
}

fn sending_after_our_shutdown_is_an_error(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        client.shutdown().await.expect("shutdown");
        assert_broken(&send_until_error(&client).await);
        // The other direction is not concerned.
        server
            .send(Chunk::from_static(b"answer"))
            .await
            .expect("send");
        drop_after_flush(server).await;
        let (bytes, end) = receive_to_end(&client).await;
        assert_eq!(bytes, b"answer");
        end.expect("a clean end");
    });
}

/// A backend that refuses an upload answers, then closes with our bytes unread, which resets.
fn an_answer_outlives_a_failed_send(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        let upload = async {
            let block = vec![1; 64 * 1024];
            while client.send(Chunk::from_vec(block.clone())).await.is_ok() {}
            rt::sleep(Duration::from_millis(30)).await;
            receive_to_end(&client).await
        };
        let refuse = async {
            let _ = server.recv().await.expect("the first of the upload");
            let mut answer = Pattern::new(1);
            send_pattern(&server, &mut answer, 20_000, 5_000)
                .await
                .expect("answer");
            server.shutdown().await.expect("shutdown");
            rt::sleep(Duration::from_millis(30)).await;
            server.reset();
        };
        let ((bytes, _end_or_reset), ()) = rt::join(upload, refuse).await;
        let mut answer = Pattern::new(1);
        answer.check(&bytes);
        assert_eq!(answer.offset(), 20_000);
    });
}

fn a_reset_told_to_a_send_is_no_end_for_recv(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        send_pattern(&client, &mut Pattern::new(1), 20_000, 5_000)
            .await
            .expect("send");
        client.flush().await.expect("flush");
        // Nobody receives while the sends find out.
        client.reset();
        assert_broken(&send_until_error(&server).await);
        let (bytes, end) = receive_to_end(&server).await;
        Pattern::new(1).check(&bytes);
        assert!(end.is_err(), "a torn stream ends cleanly");
    });
}

fn a_failed_send_is_seen_by_broken(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        client
            .send(Chunk::from_static(b"unread"))
            .await
            .expect("send");
        client.shutdown().await.expect("shutdown");
        let reset = async {
            rt::sleep(Duration::from_millis(20)).await;
            drop(client);
            send_until_error(&server).await
        };
        let (seen, failed) = rt::join(server.broken(), reset).await;
        assert_broken(&seen);
        assert_broken(&failed);
    });
}

async fn drop_after_flush(stream: TcpStream) {
    stream.flush().await.expect("flush");
}

fn an_idle_connection_is_not_stale(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        assert!(!client.is_stale());
        client
            .send(Chunk::from_static(b"request"))
            .await
            .expect("send");
        let _ = server.recv().await.expect("receive");
        server
            .send(Chunk::from_static(b"response"))
            .await
            .expect("send");
        let _ = client.recv().await.expect("receive");
        rt::sleep(Duration::from_millis(60)).await;
        assert!(!client.is_stale());
    });
}

fn a_closed_idle_connection_is_stale(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        drop(server);
        eventually("the end is noticed", || client.is_stale()).await;
        assert!(client.is_stale(), "and not forgotten");
    });
}

fn a_reset_idle_connection_is_stale(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        server.reset();
        eventually("the reset is noticed", || client.is_stale()).await;
    });
}

fn an_idle_connection_with_unexpected_bytes_is_stale(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        server.send(Chunk::from_static(b"408")).await.expect("send");
        eventually("the bytes are noticed", || client.is_stale()).await;
        let (client, _server) = pair().await;
        client.unread(Chunk::from_static(b"rest"));
        assert!(
            client.is_stale(),
            "bytes given back are unexpected on an idle connection, too"
        );
    });
}

/// The kernel may still read from a buffer whose owner is gone: it must not be reused before.
fn a_drop_amid_a_send_sends_a_correct_prefix(engine: Engine) {
    engine.run(async {
        for round in 0..8 {
            let (client, server) = pair().await;
            let mut pattern = Pattern::new(round);
            loop {
                let mut buffer = Buffer::new();
                let mut attempt = pattern.clone();
                assert!(buffer.push(&attempt.make(Buffer::CAPACITY)));
                let send = client.send(buffer.freeze());
                match rt::timeout(Duration::from_millis(100), send).await {
                    Ok(sent) => sent.expect("send"),
                    Err(_) => break,
                }
                pattern = attempt;
            }
            drop(client);
            let scribble: Vec<Buffer> = (0..64)
                .map(|_| {
                    let mut buffer = Buffer::new();
                    assert!(buffer.push(&[0xee; Buffer::CAPACITY]));
                    buffer
                })
                .collect();
            let (bytes, _either) = receive_to_end(&server).await;
            Pattern::new(round).check(&bytes);
            assert!(bytes.len() <= pattern.offset());
            drop(scribble);
        }
    });
}

fn a_drop_amid_a_send_releases_the_descriptor(engine: Engine) {
    engine.alone(None, || {
        engine.run(async {
            drop(pair().await);
            rt::sleep(Duration::from_millis(20)).await;
            let before = descriptors();
            for _ in 0..20 {
                let (client, server) = pair().await;
                client
                    .send(Chunk::from_vec(vec![1; 16 << 20]))
                    .await
                    .expect("send");
                rt::sleep(Duration::from_millis(1)).await;
                drop(client);
                drop(server);
            }
            eventually("all descriptors are back", || descriptors() <= before).await;
        });
    });
}

fn resetting_amid_a_send_is_a_reset(engine: Engine) {
    engine.run(async {
        let (listener, address) = listen();
        let ended = Rc::new(RefCell::new(None));
        let seen = Rc::clone(&ended);
        rt::spawn(async move {
            let server = listener.accept().await.expect("accept");
            rt::sleep(Duration::from_millis(50)).await;
            let (bytes, end) = receive_to_end(&server).await;
            Pattern::new(1).check(&bytes);
            *seen.borrow_mut() = Some(end);
        });
        let client = TcpStream::connect(address).await.expect("connect");
        let sending = Cell::new(0);
        let flood = async {
            let mut pattern = Pattern::new(1);
            while client
                .send(Chunk::from_vec(pattern.make(256 * 1024)))
                .await
                .is_ok()
            {
                sending.set(sending.get() + 1);
            }
        };
        let Either::Second(()) = rt::select(flood, rt::sleep(Duration::from_millis(30))).await
        else {
            panic!("sending fails before the reset")
        };
        assert!(sending.get() > 0);
        client.reset();
        eventually("the other side sees the end", || ended.borrow().is_some()).await;
        let end = ended.borrow_mut().take().expect("just seen");
        assert_broken(&end.expect_err("reset"));
    });
}

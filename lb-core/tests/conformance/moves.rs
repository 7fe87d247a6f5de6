//! An idle connection goes to another thread's runtime, or ends if it is not idle.

use crate::harness::{Engine, eventually, listen, pair, pair_at, receive};
use lb_core::rt::{self, Chunk, Detached, Runtime, TcpStream};
use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

on_every_engine!(
    an_idle_connection_goes_on_elsewhere,
    a_connection_goes_to_and_fro,
    what_was_received_and_not_taken_stays,
    what_the_peer_says_on_the_way_ends_it,
    a_detached_connection_is_closed_on_drop,
    a_detach_that_is_given_up_closes,
);

async fn say(stream: &TcpStream, text: &'static str) {
    stream
        .send(Chunk::from_static(text.as_bytes()))
        .await
        .expect("send");
}

/// A connection that has been used, whose receive is under way; and its peer.
async fn used() -> (TcpStream, TcpStream) {
    let (mine, peer) = pair().await;
    say(&mine, "ask").await;
    assert_eq!(receive(&peer, 3).await, b"ask");
    say(&peer, "tell").await;
    assert_eq!(receive(&mine, 4).await, b"tell");
    assert!(!mine.is_stale());
    rt::sleep(Duration::from_millis(20)).await; // what it asked for is under way
    (mine, peer)
}

fn an_idle_connection_goes_on_elsewhere(engine: Engine) {
    engine.run(async {
        let (mine, peer) = used().await;
        let detached = mine.detach().await;
        if engine.is_sim() {
            assert!(detached.is_none(), "threads share no simulation");
            return;
        }
        let detached = detached.expect("idle");
        let other = thread::spawn(move || {
            engine.run(async {
                let stream = detached.attach().expect("nothing was said");
                say(&stream, "from elsewhere").await;
                assert_eq!(receive(&stream, 5).await, b"still");
                assert!(!stream.is_stale());
            });
        });
        assert_eq!(receive(&peer, 14).await, b"from elsewhere");
        say(&peer, "still").await;
        assert!(peer.recv().await.expect("end").is_empty());
        other.join().expect("the other thread");
    });
}

fn a_connection_goes_to_and_fro(engine: Engine) {
    if engine.is_sim() {
        return;
    }
    engine.run(async {
        let (mut mine, peer) = used().await;
        for _ in 0..50 {
            let detached = mine.detach().await.expect("idle");
            mine = detached.attach().expect("nothing was said");
            say(&mine, "ask").await;
            assert_eq!(receive(&peer, 3).await, b"ask");
            say(&peer, "tell").await;
            assert_eq!(receive(&mine, 4).await, b"tell");
        }
    });
}

fn what_was_received_and_not_taken_stays(engine: Engine) {
    engine.run(async {
        let (mine, peer) = used().await;
        say(&peer, "unasked").await;
        eventually("it to arrive", || mine.is_stale()).await;
        assert!(mine.detach().await.and_then(Detached::attach).is_none());
        assert!(peer.recv().await.is_err() || peer.recv().await.expect("end").is_empty());

        let (mine, peer) = used().await;
        peer.shutdown().await.expect("shutdown");
        eventually("the end to arrive", || mine.is_stale()).await;
        assert!(mine.detach().await.and_then(Detached::attach).is_none());
    });
}

fn what_the_peer_says_on_the_way_ends_it(engine: Engine) {
    if engine.is_sim() {
        return;
    }
    for ends in [false, true] {
        engine.run(async {
            let (listener, address) = listen();
            let peer = thread::spawn(move || std::net::TcpStream::connect(address).expect("it"));
            let mine = listener.accept().await.expect("accept");
            let mut peer = peer.join().expect("the peer");
            let waiting = rt::timeout(Duration::from_millis(20), mine.recv()).await;
            assert!(waiting.is_err());
            let detached = mine.detach().await.expect("idle");
            if ends {
                peer.shutdown(std::net::Shutdown::Write).expect("shutdown");
            } else {
                peer.write_all(b"unasked").expect("write");
            }
            rt::sleep(Duration::from_millis(20)).await; // loopback
            assert!(detached.attach().is_none());
            // Unread bytes make the close a reset.
            assert!(!matches!(peer.read(&mut [0; 8]), Ok(1..)));
        });
    }
}

fn a_detached_connection_is_closed_on_drop(engine: Engine) {
    engine.run(async {
        let (mine, peer) = used().await;
        drop(mine.detach().await);
        assert!(peer.recv().await.expect("end").is_empty());
    });
}

fn a_detach_that_is_given_up_closes(engine: Engine) {
    let mut runtime: Runtime = engine.runtime();
    runtime.block_on(async {
        let (listener, address) = listen();
        let (mine, peer) = pair_at(&listener, address).await;
        let waiting = rt::timeout(Duration::from_millis(20), mine.recv()).await;
        assert!(waiting.is_err());
        let detached = rt::timeout(Duration::ZERO, mine.detach()).await;
        drop(detached);
        assert!(peer.recv().await.expect("end").is_empty());
        let (again, other) = pair_at(&listener, address).await;
        say(&again, "ask").await;
        assert_eq!(receive(&other, 3).await, b"ask");
    });
}

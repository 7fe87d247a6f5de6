//! Sessions whose bytes are spliced, or are spliced and copied by turns, through real sockets on
//! both engines: every byte is checked.

#[allow(dead_code, reason = "shared with the other test programs")]
mod harness;
#[path = "harness/stream.rs"]
mod stream;

use std::cell::Cell;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use harness::{Front, Serving, in_virtual_time, listen, on_each_engine, receive};
use lb_core::metrics::SessionEnd;
use lb_core::plan::Relay;
use lb_core::rt::{
    Chunk, TcpListener, TcpStream, join, select, sleep, spawn, stats, timeout, yield_now,
};
use stream::{Sequence, mix};

/// What a kernel's socket buffers and a pipe hold is less than half of this.
const FLOOD: usize = 64 << 20;

/// A session through `front`: the client's end and the backend's.
async fn session(front: &Serving, backend: &TcpListener) -> (TcpStream, TcpStream) {
    let (client, server) = join(TcpStream::connect(front.address), backend.accept()).await;
    (client.expect("connect"), server.expect("accept"))
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..6000 {
        if condition() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}

/// Says `count` bytes and the end, and checks what is said to it, to its end.
async fn talk(stream: &TcpStream, says: Sequence, hears: Sequence, count: usize) {
    let speak = async {
        let mut says = says;
        says.send(stream, count).await.expect("send");
        stream.shutdown().await.expect("shutdown");
    };
    let listen = async {
        let mut hears = hears;
        hears.expect(stream, usize::MAX).await.expect("receive");
        hears.place
    };
    let ((), heard) = join(speak, listen).await;
    assert_eq!(heard, count);
}

#[test]
fn bulk_both_ways_at_once() {
    const COUNT: usize = 8_000_000;
    for relay in [Relay::Splice, Relay::Auto] {
        on_each_engine(|| async move {
            let (backend, address) = listen();
            let front = Front::of(&[address]).relay(relay).serve();
            let (client, server) = session(&front, &backend).await;
            let (up, down) = (Sequence::new(1), Sequence::new(2));
            join(
                talk(&client, up.clone(), down.clone(), COUNT),
                talk(&server, down, up, COUNT),
            )
            .await;
            drop((client, server));
            front.rest().await;
            let counters = &front.counters;
            assert_eq!(counters.received_bytes.get(), COUNT as u64);
            assert_eq!(counters.sent_bytes.get(), COUNT as u64);
            assert_eq!(counters.sessions(SessionEnd::Finished), 1);
            assert!(stats().splices > 0, "{relay:?} copied all");
        });
    }
}

/// The whole question, its end, and only then the whole answer: in both roles.
#[test]
fn half_closes_both_ways() {
    const COUNT: usize = 3_000_000;
    on_each_engine(|| async {
        let (backend, address) = listen();
        let front = Front::of(&[address]).relay(Relay::Splice).serve();
        for client_asks in [true, false] {
            let (client, server) = session(&front, &backend).await;
            let (asking, answering) = if client_asks {
                (client, server)
            } else {
                (server, client)
            };
            let ask = async {
                let sent = Sequence::new(1).send(&asking, COUNT).await;
                sent.expect("send");
                asking.shutdown().await.expect("shutdown");
                let mut answer = Sequence::new(2);
                let heard = answer.expect(&asking, usize::MAX).await;
                heard.expect("receive");
                assert_eq!(answer.place, COUNT);
            };
            let answer = async {
                let mut question = Sequence::new(1);
                let heard = question.expect(&answering, usize::MAX).await;
                heard.expect("receive");
                assert_eq!(question.place, COUNT);
                let sent = Sequence::new(2).send(&answering, COUNT).await;
                sent.expect("send");
                answering.shutdown().await.expect("shutdown");
            };
            join(ask, answer).await;
        }
        front.rest().await;
        assert_eq!(front.counters.sessions(SessionEnd::Finished), 2);
    });
}

/// A question of a few bytes, an answer of many, again and again on one connection.
#[test]
fn small_and_large_by_turns() {
    on_each_engine(|| async {
        let (backend, address) = listen();
        let front = Front::of(&[address]).serve();
        let (client, server) = session(&front, &backend).await;
        let sizes = [
            10, 2_000_000, 1, 70_000, 100, 100, 100, 100, 100, 900_000, 5,
        ];
        let serve = async {
            let mut says = Sequence::new(1);
            for size in sizes {
                receive(&server, 4).await;
                says.send(&server, size).await.expect("send");
            }
        };
        let ask = async {
            let mut hears = Sequence::new(1);
            for size in sizes {
                let sent = client.send(Chunk::from_static(b"more")).await;
                sent.expect("send");
                let end = hears.place + size;
                hears.expect(&client, end).await.expect("receive");
                assert_eq!(hears.place, end, "not less, not more");
            }
        };
        join(serve, ask).await;
        assert!(stats().splices > 0);
    });
}

#[test]
fn a_slow_reader_slows_the_source_and_gets_all() {
    on_each_engine(|| async {
        let (backend, address) = listen();
        let front = Front::of(&[address]).relay(Relay::Splice).serve();
        let (client, server) = session(&front, &backend).await;
        let sent = Rc::new(Cell::new(0));
        let progress = Rc::clone(&sent);
        spawn(async move {
            let mut says = Sequence::new(1);
            while says.place < FLOOD {
                says.send(&server, 1 << 20).await.expect("send");
                progress.set(says.place);
            }
            server.shutdown().await.expect("shutdown");
            // It stays open until the other end has had enough.
            drop(server.recv().await);
        });
        let mut hears = Sequence::new(1);
        hears.expect(&client, 1).await.expect("receive");
        let mut before = usize::MAX;
        while before != sent.get() || before == 0 {
            before = sent.get();
            sleep(Duration::from_millis(300)).await;
        }
        assert!(before < FLOOD, "the source was not stopped");
        assert_eq!(stats().pipes, 1, "what is on its way waits in a pipe");
        for _ in 0..20 {
            let end = hears.place + 100_000;
            hears.expect(&client, end).await.expect("receive");
            sleep(Duration::from_millis(1)).await;
        }
        hears.expect(&client, usize::MAX).await.expect("receive");
        assert_eq!(hears.place, FLOOD);
        eventually("no pipe is held", || stats().pipes == 0).await;
    });
}

/// Whoever resets, and whether bytes wait in a pipe then or not: the other end gets what was said
/// before, as far as it arrives, and then a reset.
#[test]
fn a_reset_amid_a_splice() {
    on_each_engine(|| async {
        let (backend, address) = listen();
        let front = Front::of(&[address]).relay(Relay::Splice).serve();
        let mut before = None;
        for round in 0..12 {
            let (client, server) = session(&front, &backend).await;
            let (speaker, listener) = if round % 2 == 0 {
                (client, server)
            } else {
                (server, client)
            };
            let speaks = async {
                let speaks = Sequence::new(round).send(&speaker, FLOOD).await;
                speaks.expect_err("it is cut off");
            };
            let mut hears = Sequence::new(round);
            let listens = async {
                hears.expect(&listener, 500_000).await.expect("receive");
                if round % 4 < 2 {
                    // Until the pipe, too, is full.
                    eventually("a pipe is held", || stats().pipes == 1).await;
                }
                listener.reset();
            };
            join(speaks, listens).await;
            let error = speaker.recv().await.expect_err("a reset, not an end");
            assert!(error.raw_os_error().is_some());
            drop(speaker);
            let rest = front.rest().await;
            assert_eq!(rest.pipes, 0, "round {round}");
            assert_eq!(*before.get_or_insert(rest), rest, "round {round}");
        }
        assert_eq!(front.counters.sessions(SessionEnd::Reset), 12);
    });
}

/// As the test above, but it is the speaker that resets.
#[test]
fn a_speaker_that_resets_amid_a_splice() {
    on_each_engine(|| async {
        let (backend, address) = listen();
        let front = Front::of(&[address]).relay(Relay::Splice).serve();
        for round in 0..8 {
            let (client, server) = session(&front, &backend).await;
            let (speaker, listener) = if round % 2 == 0 {
                (client, server)
            } else {
                (server, client)
            };
            let speaks = async {
                let mut says = Sequence::new(round);
                let sent = says.send(&speaker, 2_000_000).await;
                sent.expect("send");
                speaker.reset();
            };
            let mut hears = Sequence::new(round);
            let listens = hears.expect(&listener, usize::MAX);
            let ((), heard) = join(speaks, listens).await;
            heard.expect_err("a reset, not an end");
            assert!(hears.place <= 2_000_000);
            drop(listener);
            assert_eq!(front.rest().await.pipes, 0);
        }
        assert_eq!(front.counters.sessions(SessionEnd::Reset), 8);
    });
}

/// What was in a pipe when its sink failed has not been moved, and is not counted.
#[test]
fn bytes_that_a_failed_sink_did_not_take_are_not_counted() {
    on_each_engine(|| async {
        let (backend, address) = listen();
        let front = Front::of(&[address]).relay(Relay::Splice).serve();
        let (client, server) = session(&front, &backend).await;
        let mut says = Sequence::new(1);
        let flood = timeout(Duration::from_millis(500), says.send(&server, FLOOD));
        assert!(flood.await.is_err(), "nobody reads");
        eventually("a pipe is held", || stats().pipes == 1).await;
        let sent_by_backend = says.place as u64;
        client.reset();
        front.rest().await;
        let counted = front.counters.sent_bytes.get();
        assert!(counted > 0 && counted < sent_by_backend, "{counted} bytes");
        assert_eq!(front.counters.sessions(SessionEnd::Reset), 1);
        assert_eq!(stats().pipes, 0);
    });
}

#[test]
fn a_full_pipe_does_not_keep_an_idle_session() {
    in_virtual_time(|| async {
        let (backend, address) = listen();
        let mut front = Front::of(&[address]).relay(Relay::Splice);
        front.idle_timeout(Duration::from_secs(5));
        let front = front.serve();
        let (client, server) = session(&front, &backend).await;
        let flood = async {
            let sent = Sequence::new(1).send(&server, FLOOD).await;
            sent.expect_err("the session ends")
        };
        let (_error, ()) = join(flood, async {
            sleep(Duration::from_secs(2)).await;
            assert_eq!(stats().pipes, 1, "nobody reads");
        })
        .await;
        assert_eq!(front.rest().await.pipes, 0);
        assert_eq!(front.counters.sessions(SessionEnd::Idle), 1);
        drop(client);
    });
}

/// A splice that moves bytes keeps the session, however slowly.
#[test]
fn a_slow_splice_is_not_idle() {
    in_virtual_time(|| async {
        let (backend, address) = listen();
        let mut front = Front::of(&[address]).relay(Relay::Splice);
        front.idle_timeout(Duration::from_secs(5));
        let front = front.serve();
        let (client, server) = session(&front, &backend).await;
        for round in 0..20 {
            let sent = server.send(Chunk::from_static(b"still here")).await;
            sent.expect("send");
            assert_eq!(receive(&client, 10).await, b"still here", "round {round}");
            sleep(Duration::from_secs(3)).await;
        }
        assert!(stats().splices > 0);
    });
}

/// One end in two is dropped or reset at some moment, while both speak.
#[test]
fn ends_that_are_killed_at_random_under_load() {
    const SESSIONS: u64 = 120;
    on_each_engine(|| async {
        let (backend, address) = listen();
        let front = Front::of(&[address]).relay(Relay::Auto).serve();
        let before = front.rest().await;
        let over = Rc::new(Cell::new(0));
        for seed in 0..SESSIONS {
            let (client, server) = session(&front, &backend).await;
            for (stream, own, other) in [
                (client, 2 * seed, 2 * seed + 1),
                (server, 2 * seed + 1, 2 * seed),
            ] {
                let over = Rc::clone(&over);
                spawn(async move {
                    noisy(stream, own, other).await;
                    over.set(over.get() + 1);
                });
            }
            if seed % 8 == 7 {
                sleep(Duration::from_millis(1)).await;
            }
        }
        eventually("all are over", || over.get() == 2 * SESSIONS).await;
        let after = front.rest().await;
        assert_eq!((after.tasks, after.pipes), (before.tasks, 0));
        assert!(after.sockets <= before.sockets + 1, "an accept under way");
    });
}

/// Speaks and listens; of two ends that talk, one leaves at some moment.
async fn noisy(stream: TcpStream, own: u64, other: u64) {
    let total = (mix(own) % 3_000_000) as usize;
    let speaks = async {
        let said = Sequence::new(own).send(&stream, total).await;
        if said.is_ok() {
            let _ = stream.shutdown().await;
        }
    };
    let listens = async {
        let mut hears = Sequence::new(other);
        let _ = hears.expect(&stream, usize::MAX).await;
    };
    let leaves = async {
        if mix(own / 2).is_multiple_of(2) && (own ^ mix(own / 2) >> 1).is_multiple_of(2) {
            for _ in 0..mix(own) % 300 {
                yield_now().await;
            }
        } else {
            sleep(Duration::from_secs(3600)).await;
        }
    };
    select(join(speaks, listens), leaves).await;
    if own.is_multiple_of(3) {
        stream.reset_on_drop();
    }
}

/// Set in the process that a test runs in alone.
const ALONE: &str = "LB_L4_ALONE";

/// Runs `body` in a process of its own with so many descriptors, or as many as it may have.
fn alone(test: &str, descriptors: u32, body: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "ulimit -n {descriptors} || ulimit -n $(ulimit -Hn); exec \"$0\" \"$@\""
        ))
        .arg(std::env::current_exe().expect("the path of this test program"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .output()
        .expect("sh starts");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{told}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Five thousand at a time, where the system gives four descriptors for each.
#[test]
fn thousands_of_sessions_at_a_time() {
    const EACH: usize = 5_000;
    alone("thousands_of_sessions_at_a_time", 20_600, || {
        on_each_engine(|| async {
            let (backend, address) = listen();
            let front = Front::of(&[address]).relay(Relay::Splice).serve();
            let mut ends = Vec::new();
            let mut files = Vec::new();
            while files.len() < 20_200
                && let Ok(file) = std::fs::File::open("/dev/null")
            {
                files.push(file);
            }
            let sessions = (files.len() - 150) / 4;
            drop(files);
            for _ in 0..sessions {
                ends.push(session(&front, &backend).await);
            }
            let over = Rc::new(Cell::new(0));
            for (seed, (client, server)) in (0_u64..).zip(ends) {
                let over = Rc::clone(&over);
                spawn(async move {
                    let (up, down) = (Sequence::new(2 * seed), Sequence::new(2 * seed + 1));
                    join(
                        talk(&client, up.clone(), down.clone(), EACH),
                        talk(&server, down, up, EACH),
                    )
                    .await;
                    over.set(over.get() + 1);
                });
            }
            eventually("all are over", || over.get() == sessions).await;
            assert_eq!(stats().panics, 0);
            let rest = front.rest().await;
            assert_eq!(rest.pipes, 0);
            let finished = front.counters.sessions(SessionEnd::Finished);
            assert_eq!(finished, sessions as u64);
        });
    });
}

/// Without descriptors for pipes bytes are copied; with them they are spliced again.
#[test]
fn where_pipes_cannot_be_had_bytes_are_copied() {
    const COUNT: usize = 4_000_000;
    alone("where_pipes_cannot_be_had_bytes_are_copied", 128, || {
        on_each_engine(|| async {
            let (backend, address) = listen();
            let front = Front::of(&[address]).relay(Relay::Splice).serve();
            let (client, server) = session(&front, &backend).await;
            let mut files = Vec::new();
            while let Ok(file) = std::fs::File::open("/dev/null") {
                files.push(file);
            }
            let (mut says, mut hears) = (Sequence::new(1), Sequence::new(1));
            for _ in 0..2 {
                let splices = stats().splices;
                let end = hears.place + COUNT;
                let both = join(says.send(&server, COUNT), hears.expect(&client, end)).await;
                both.0.expect("send");
                both.1.expect("receive");
                assert_eq!(hears.place, end);
                assert_eq!(stats().splices > splices, files.is_empty());
                files.clear();
            }
        });
    });
}

//! Datagrams: whole or not at all, each with its own size, from and to the right addresses.

use crate::harness::{Engine, Random, eventually};
use lb_core::rt::{self, Datagrams, Received, UdpOptions, UdpSocket};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

on_every_engine! {
    a_question_and_its_answer,
    sizes_are_kept_exactly,
    the_largest_datagram_and_the_empty_one,
    trains_arrive_datagram_by_datagram,
    without_offload_nothing_else_changes,
    a_reply_leaves_from_where_the_client_knocked,
    ipv4_clients_of_a_dual_stack_socket,
    a_connected_socket_hears_its_peer_alone,
    nobody_at_the_port_is_told,
    an_unreachable_client_does_not_trouble_the_others,
    many_senders_in_one_turn,
    what_was_handed_over_leaves_before_the_close,
    a_burst_waits_while_the_thread_is_elsewhere,
    a_dropped_receive_loses_nothing,
    closed_sockets_leave_nothing_behind,
    a_reader_that_holds_all_buffers_gets_more_later,
    a_port_that_is_taken_is_refused,
}

fn any(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an ip"), 0)
}

fn alone() -> UdpOptions {
    UdpOptions {
        reuse_port: false,
        ..UdpOptions::default()
    }
}

fn bind(ip: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(any(ip), &alone()).expect("bind");
    let address = socket.local_addr();
    (socket, address)
}

/// A bound socket and one connected to it.
fn pair() -> (UdpSocket, UdpSocket) {
    let (server, address) = bind("127.0.0.1");
    let client = UdpSocket::connect(address).expect("connect");
    (client, server)
}

async fn receive(socket: &UdpSocket) -> Received {
    socket.recv().await.expect("a datagram")
}

/// The next `count` datagrams, each by itself.
async fn receive_each(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while all.len() < count {
        let received = receive(socket).await;
        all.extend(received.datagrams.iter().map(<[u8]>::to_vec));
    }
    assert_eq!(all.len(), count);
    all
}

fn numbered(number: usize, size: usize) -> Vec<u8> {
    let mut bytes = vec![number as u8; size];
    bytes[..2].copy_from_slice(&(number as u16).to_le_bytes());
    bytes
}

/// The simulated network lets datagrams overtake each other.
fn sorted(engine: Engine, mut datagrams: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    if engine.is_sim() {
        datagrams.sort();
    }
    datagrams
}

/// More than the kernel keeps unless it is asked to (some 270 short ones).
fn a_burst_waits_while_the_thread_is_elsewhere(engine: Engine) {
    if engine.is_sim() {
        return; // has no buffers to be full
    }
    engine.run(async {
        let (server, address) = bind("127.0.0.1");
        let client = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        for number in 0..400 {
            let sent = client.send_to(&numbered(number, 64), address);
            assert_eq!(sent.expect("send"), 64);
        }
        receive_each(&server, 400).await;
    });
}

fn a_question_and_its_answer(engine: Engine) {
    engine.run(async {
        let (client, server) = pair();
        client.send(Datagrams::copy_from(b"who is there?"));
        let question = receive(&server).await;
        assert_eq!(question.datagrams[..], *b"who is there?");
        assert_eq!(question.peer, client.local_addr());
        assert_eq!(question.local, IpAddr::V4(Ipv4Addr::LOCALHOST));
        server.send_to(Datagrams::copy_from(b"me"), question.peer);
        let answer = receive(&client).await;
        assert_eq!(answer.datagrams[..], *b"me");
        assert_eq!(answer.peer, server.local_addr());
    });
}

fn sizes_are_kept_exactly(engine: Engine) {
    engine.run(async move {
        let (client, server) = pair();
        let mut random = Random::new(1);
        let mut size = 64;
        let mut sent = Vec::new();
        for number in 0..300 {
            // Runs of one size, as the kernel joins them, among others.
            if random.below(3) == 0 {
                size = 2 + random.size(1400);
            }
            sent.push(numbered(number, size));
            client.send(Datagrams::copy_from(&sent[number]));
            if number % 50 == 49 {
                let expected = sent.split_off(number - 49);
                let received = receive_each(&server, 50).await;
                assert!(sorted(engine, received) == sorted(engine, expected.clone()));
                sent.extend(expected);
            }
        }
    });
}

fn the_largest_datagram_and_the_empty_one(engine: Engine) {
    engine.run(async {
        let (client, server) = pair();
        for size in [0, Datagrams::DATAGRAM_MAX, 0, 1, 65_000] {
            client.send(Datagrams::copy_from(&vec![5; size]));
            let received = receive(&server).await;
            assert_eq!(received.datagrams.count(), 1);
            assert_eq!(received.datagrams.len(), size);
            server.send_to(received.datagrams, received.peer);
            assert_eq!(receive(&client).await.datagrams.len(), size);
        }
    });
}

fn trains_arrive_datagram_by_datagram(engine: Engine) {
    engine.run(async {
        let (client, server) = pair();
        for (bytes, segment) in [(1000, 100), (1050, 100), (60_000, 1200), (64, 1), (100, 1)] {
            let train: Vec<u8> = (0..bytes).map(|at| (at / segment) as u8).collect();
            client.send(Datagrams::train(&train, segment));
            let count = bytes.div_ceil(segment);
            let mut received = receive_each(&server, count).await;
            received.sort();
            let expected: Vec<_> = train.chunks(segment).map(<[u8]>::to_vec).collect();
            assert!(received == expected, "{bytes} bytes by {segment}");
        }
    });
}

fn without_offload_nothing_else_changes(engine: Engine) {
    engine.run(async move {
        let options = UdpOptions {
            offload: false,
            ..alone()
        };
        let server = UdpSocket::bind(any("127.0.0.1"), &options).expect("bind");
        let client = UdpSocket::connect(server.local_addr()).expect("connect");
        let train: Vec<u8> = (0..2000).map(|at| (at / 100) as u8).collect();
        client.send(Datagrams::train(&train, 100));
        let received = sorted(engine, receive_each(&server, 20).await);
        assert_eq!(received.concat(), train);
        server.send_to(Datagrams::train(&train, 100), client.local_addr());
        let received = sorted(engine, receive_each(&client, 20).await);
        assert_eq!(received.concat(), train);
    });
}

fn a_reply_leaves_from_where_the_client_knocked(engine: Engine) {
    engine.run(async {
        for (wildcard, ip) in [
            ("0.0.0.0", "127.0.0.2"),
            ("[::]", "127.0.0.3"),
            ("[::]", "[::1]"),
        ] {
            let wildcard = format!("{wildcard}:0").parse().expect("an address");
            let server = UdpSocket::bind(wildcard, &alone()).expect("bind");
            let port = server.local_addr().port();
            let address: SocketAddr = format!("{ip}:{port}").parse().expect("an address");
            let client = UdpSocket::connect(address).expect("connect");
            client.send(Datagrams::copy_from(b"hello"));
            let received = receive(&server).await;
            assert_eq!(received.local, address.ip());
            assert_eq!(received.peer, client.local_addr());
            server.reply(received.datagrams, received.peer, received.local);
            // The client is connected: from anywhere else it would not hear it.
            assert_eq!(receive(&client).await.datagrams[..], *b"hello");
        }
    });
}

fn ipv4_clients_of_a_dual_stack_socket(engine: Engine) {
    engine.run(async {
        let server = UdpSocket::bind("[::]:0".parse().expect("an address"), &alone());
        let server = server.expect("bind");
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), server.local_addr().port());
        let client = UdpSocket::connect(address).expect("connect");
        for round in 0..3u8 {
            client.send(Datagrams::train(&[round; 10], 5));
            for _ in 0..2 {
                let received = receive(&server).await;
                assert!(received.peer.is_ipv4() && received.local.is_ipv4());
                let datagrams = received.datagrams.iter().count();
                server.reply(received.datagrams, received.peer, received.local);
                if datagrams == 2 {
                    break;
                }
            }
            assert_eq!(receive_each(&client, 2).await, [[round; 5], [round; 5]]);
        }
    });
}

fn a_connected_socket_hears_its_peer_alone(engine: Engine) {
    engine.run(async {
        let (client, server) = pair();
        let (stranger, _) = bind("127.0.0.1");
        stranger.send_to(Datagrams::copy_from(b"psst"), client.local_addr());
        rt::sleep(Duration::from_millis(20)).await;
        server.send_to(Datagrams::copy_from(b"hello"), client.local_addr());
        assert_eq!(receive(&client).await.datagrams[..], *b"hello");
        assert!(client.try_recv().is_none());
    });
}

fn nobody_at_the_port_is_told(engine: Engine) {
    engine.run(async {
        let (gone, address) = bind("127.0.0.1");
        let client = UdpSocket::connect(address).expect("connect");
        drop(gone);
        rt::sleep(Duration::from_millis(20)).await;
        client.send(Datagrams::copy_from(b"anybody?"));
        let error = client.recv().await.expect_err("nobody is there");
        assert_eq!(error.raw_os_error(), Some(libc_econnrefused()));
        // The socket goes on: somebody may come.
        let server = UdpSocket::bind(address, &alone()).expect("bind");
        client.send(Datagrams::copy_from(b"anybody?"));
        assert_eq!(receive(&server).await.datagrams[..], *b"anybody?");
        server.send_to(Datagrams::copy_from(b"yes"), client.local_addr());
        assert_eq!(receive(&client).await.datagrams[..], *b"yes");
    });
}

/// 111 on every architecture of Linux that we build for.
fn libc_econnrefused() -> i32 {
    111
}

fn an_unreachable_client_does_not_trouble_the_others(engine: Engine) {
    engine.run(async {
        let (client, server) = pair();
        let (gone, nowhere) = bind("127.0.0.1");
        drop(gone);
        rt::sleep(Duration::from_millis(20)).await;
        for _ in 0..3 {
            server.send_to(Datagrams::copy_from(b"lost"), nowhere);
            server.send_to(Datagrams::copy_from(b"heard"), client.local_addr());
            assert_eq!(receive(&client).await.datagrams[..], *b"heard");
        }
        assert!(server.try_recv().is_none());
    });
}

fn many_senders_in_one_turn(engine: Engine) {
    engine.run(async {
        let (server, address) = bind("127.0.0.1");
        let clients: Vec<_> = (0..100)
            .map(|_| UdpSocket::connect(address).expect("connect"))
            .collect();
        for (number, client) in clients.iter().enumerate() {
            client.send(Datagrams::copy_from(&numbered(number, 40)));
            client.send(Datagrams::copy_from(&numbered(number, 40)));
        }
        let mut echoed = 0;
        while echoed < 200 {
            let received = receive(&server).await;
            echoed += received.datagrams.count();
            server.reply(received.datagrams, received.peer, received.local);
        }
        for (number, client) in clients.iter().enumerate() {
            let expected = numbered(number, 40);
            assert_eq!(receive_each(client, 2).await, [expected.clone(), expected]);
        }
    });
}

fn what_was_handed_over_leaves_before_the_close(engine: Engine) {
    engine.run(async {
        let (client, server) = pair();
        client.send(Datagrams::copy_from(b"last words"));
        drop(client);
        assert_eq!(receive(&server).await.datagrams[..], *b"last words");
    });
}

fn a_dropped_receive_loses_nothing(engine: Engine) {
    engine.run(async {
        let (client, server) = pair();
        for number in 0..20u8 {
            let early = rt::timeout(Duration::from_millis(1), server.recv()).await;
            assert!(early.is_err(), "nothing was sent");
            client.send(Datagrams::copy_from(&[number]));
            assert_eq!(receive(&server).await.datagrams[..], [number]);
        }
    });
}

fn closed_sockets_leave_nothing_behind(engine: Engine) {
    engine.run(async {
        let before = rt::stats();
        for _ in 0..50 {
            let (client, server) = pair();
            let stays = rt::timeout(Duration::ZERO, server.recv()).await;
            assert!(stays.is_err());
            for _ in 0..5 {
                client.send(Datagrams::copy_from(b"nobody takes this"));
            }
            let _ = rt::timeout(Duration::from_millis(1), client.recv()).await;
        }
        eventually("all is given back", || {
            let now = rt::stats();
            (now.sockets, now.buffers) == (before.sockets, before.buffers)
        })
        .await;
    });
}

fn a_reader_that_holds_all_buffers_gets_more_later(engine: Engine) {
    engine.run(async {
        let (client, server) = pair();
        let mut held = Vec::new();
        // More than a thread's buffers: those who hold on lose datagrams, and nothing else.
        for _ in 0..1100 {
            client.send(Datagrams::copy_from(b"x"));
            match rt::timeout(Duration::from_millis(20), server.recv()).await {
                Ok(received) => held.push(received.expect("a datagram")),
                Err(_) => break,
            }
        }
        assert!(held.len() > 200, "{} held", held.len());
        held.clear();
        client.send(Datagrams::copy_from(b"fresh"));
        while receive(&server).await.datagrams[..] != *b"fresh" {}
    });
}

fn a_port_that_is_taken_is_refused(engine: Engine) {
    engine.run(async {
        let (_server, address) = bind("127.0.0.1");
        let error = UdpSocket::bind(address, &UdpOptions::default()).expect_err("taken");
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        // Workers share theirs.
        let first = UdpSocket::bind(any("127.0.0.1"), &UdpOptions::default()).expect("bind");
        UdpSocket::bind(first.local_addr(), &UdpOptions::default()).expect("shared");
    });
}

/// What the simulated network does to datagrams follows from its seed, and all of it happens.
#[test]
fn the_simulated_network_loses_doubles_and_reorders_by_seed() {
    let history = |seed| {
        let config = rt::Config {
            engine: rt::EngineKind::Sim,
            sim: rt::sim::Settings {
                seed,
                faults: rt::sim::Faults {
                    loss_per_mille: 100,
                    duplicate_per_mille: 100,
                    ..rt::sim::Faults::default()
                },
            },
            ..rt::Config::default()
        };
        let mut runtime = rt::Runtime::new(&config).expect("a runtime");
        runtime.block_on(async {
            let (client, server) = pair();
            let mut arrived = Vec::new();
            for number in 0..200u8 {
                client.send(Datagrams::copy_from(&[number]));
                rt::sleep_until_precise(rt::now() + Duration::from_micros(50)).await;
                while let Some(received) = server.try_recv() {
                    arrived.push(received.expect("a datagram").datagrams[0]);
                }
            }
            arrived
        })
    };
    let first = history(7);
    assert_eq!(first, history(7));
    assert_ne!(first, history(8));
    let is_missing = |number: u8| !first.contains(&number);
    assert!((0..190).any(is_missing), "some are lost");
    assert!(
        first.windows(2).any(|pair| pair[0] > pair[1]),
        "some overtake"
    );
    let mut unique = first.clone();
    unique.sort_unstable();
    unique.dedup();
    assert!(unique.len() < first.len(), "some come twice");
}

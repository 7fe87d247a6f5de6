//! Connecting and listening: refusal, deadlines, addresses, ports in use.

use crate::harness::{
    Engine, any_port, descriptors, eventually, listen, listen_with_backlog, pair, pair_at, receive,
};
use lb_core::rt::{self, Chunk, Either, ListenOptions, TcpListener, TcpStream};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

on_every_engine!(
    connecting_to_a_closed_port_is_refused,
    refused_connects_leave_nothing,
    a_connect_that_hangs_can_be_given_up,
    both_ends_agree_on_their_addresses,
    connect_from_chooses_the_source_address,
    a_port_in_use_is_an_error,
    reuse_port_shares_a_port,
    a_port_can_be_bound_again_at_once,
    a_peer_that_speaks_first_is_heard,
    connections_wait_for_accept,
    several_tasks_accept_from_one_listener,
    ipv6_works_like_ipv4,
    a_dual_stack_listener_takes_both,
    a_listener_can_be_taken_over,
);

fn connecting_to_a_closed_port_is_refused(engine: Engine) {
    engine.run(async {
        let (listener, address) = listen();
        drop(listener);
        for _ in 0..3 {
            let error = TcpStream::connect(address)
                .await
                .map(drop)
                .expect_err("nobody listens");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
    });
}

fn refused_connects_leave_nothing(engine: Engine) {
    engine.alone(None, || {
        engine.run(async {
            let (listener, address) = listen();
            drop(listener);
            TcpStream::connect(address)
                .await
                .map(drop)
                .expect_err("nobody listens");
            let before = descriptors();
            for _ in 0..100 {
                TcpStream::connect(address)
                    .await
                    .map(drop)
                    .expect_err("nobody listens");
            }
            eventually("all descriptors are back", || descriptors() <= before).await;
        });
    });
}

/// A listener whose queue is full answers no more.
fn a_connect_that_hangs_can_be_given_up(engine: Engine) {
    engine.run(async {
        let (listener, address) = listen_with_backlog(1);
        let mut connected = Vec::new();
        loop {
            let connect = TcpStream::connect(address);
            match rt::timeout(Duration::from_millis(400), connect).await {
                Ok(stream) => connected.push(stream.expect("connect")),
                Err(rt::Elapsed) => break,
            }
            assert!(
                connected.len() < 100,
                "a full listener still takes connections"
            );
        }
        // The loop is none the worse for it.
        let stream = listener.accept().await.expect("accept");
        stream
            .send(Chunk::from_static(b"hello"))
            .await
            .expect("send");
        let mut greeted = 0;
        for client in &connected {
            let hello = rt::timeout(Duration::from_millis(50), receive(client, 5)).await;
            greeted += usize::from(hello.is_ok());
        }
        assert_eq!(greeted, 1);
    });
}

fn both_ends_agree_on_their_addresses(engine: Engine) {
    engine.run(async {
        let (listener, address) = listen();
        let (client, server) = pair_at(&listener, address).await;
        assert_ne!(address.port(), 0);
        assert_eq!(client.peer_addr().expect("peer"), address);
        assert_eq!(server.local_addr().expect("local"), address);
        assert_eq!(
            client.local_addr().expect("local"),
            server.peer_addr().expect("peer")
        );
    });
}

fn connect_from_chooses_the_source_address(engine: Engine) {
    engine.run(async {
        let (listener, address) = listen();
        let source = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 77), 0));
        let connect = TcpStream::connect_from(source, address);
        let (client, server) = rt::join(connect, listener.accept()).await;
        let (client, server) = (client.expect("connect"), server.expect("accept"));
        let seen = server.peer_addr().expect("peer");
        assert_eq!(seen.ip(), source.ip());
        assert_eq!(seen, client.local_addr().expect("local"));
    });
}

fn a_port_in_use_is_an_error(engine: Engine) {
    engine.run(async {
        let (_listener, address) = listen();
        let options = ListenOptions {
            reuse_port: false,
            backlog: 8,
            v6_only: true,
        };
        let error = TcpListener::bind(address, &options)
            .map(drop)
            .expect_err("in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    });
}

fn reuse_port_shares_a_port(engine: Engine) {
    engine.run(async {
        let options = ListenOptions {
            reuse_port: true,
            backlog: 64,
            v6_only: true,
        };
        let first = TcpListener::bind(any_port(), &options).expect("bind");
        let address = first.local_addr().expect("address");
        let second = TcpListener::bind(address, &options).expect("bind the same port");
        let mut taken = [0, 0];
        // The kernel spreads by a hash of the addresses: 64 on one side would be a wonder.
        for _ in 0..64 {
            let client = TcpStream::connect(address).await.expect("connect");
            match rt::select(first.accept(), second.accept()).await {
                Either::First(stream) => {
                    stream.expect("accept");
                    taken[0] += 1;
                }
                Either::Second(stream) => {
                    stream.expect("accept");
                    taken[1] += 1;
                }
            }
            drop(client);
        }
        assert!(taken.iter().all(|count| *count > 0), "{taken:?}");
    });
}

/// Connections in TIME_WAIT do not keep a restarted server from its port.
fn a_port_can_be_bound_again_at_once(engine: Engine) {
    engine.run(async {
        let (listener, address) = listen();
        let (client, server) = pair_at(&listener, address).await;
        drop(listener);
        drop(server);
        assert!(client.recv().await.expect("end").is_empty());
        drop(client);
        rt::sleep(Duration::from_millis(10)).await;
        let options = ListenOptions {
            reuse_port: false,
            backlog: 8,
            v6_only: true,
        };
        TcpListener::bind(address, &options).expect("bind again");
    });
}

/// The connection and the greeting are there before the engine looks: one event for both.
fn a_peer_that_speaks_first_is_heard(engine: Engine) {
    if engine.is_sim() {
        return; // all of it runs on one thread, which cannot be held up
    }
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = server.local_addr().expect("an address");
    let (greeted, is_greeted) = std::sync::mpsc::channel();
    let greeter = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().expect("accept");
        stream.write_all(b"hello").expect("write");
        greeted.send(()).expect("the test waits");
        stream
    });
    engine.run(async {
        let mut connect = std::pin::pin!(TcpStream::connect(address));
        rt::poll_once(connect.as_mut()).await;
        rt::yield_now().await; // what was asked for is submitted
        is_greeted.recv().expect("the greeting");
        let client = connect.await.expect("connect");
        assert_eq!(receive(&client, 5).await, b"hello");
    });
    drop(greeter.join().expect("the greeter"));
}

fn connections_wait_for_accept(engine: Engine) {
    engine.run(async {
        let (listener, address) = listen();
        let mut clients = Vec::new();
        for index in 0..50_u8 {
            let client = TcpStream::connect(address).await.expect("connect");
            client
                .send(Chunk::from_vec(vec![index]))
                .await
                .expect("send");
            client.flush().await.expect("flush");
            clients.push(client);
        }
        let mut seen = Vec::new();
        for _ in 0..50 {
            let server = listener.accept().await.expect("accept");
            seen.push(receive(&server, 1).await[0]);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..50).collect::<Vec<u8>>());
    });
}

fn several_tasks_accept_from_one_listener(engine: Engine) {
    engine.run(async {
        let (listener, address) = listen();
        let listener = Rc::new(listener);
        let accepted = Rc::new(std::cell::Cell::new(0));
        for _ in 0..4 {
            let (listener, accepted) = (Rc::clone(&listener), Rc::clone(&accepted));
            rt::spawn(async move {
                loop {
                    drop(listener.accept().await.expect("accept"));
                    accepted.set(accepted.get() + 1);
                }
            });
        }
        for _ in 0..40 {
            drop(TcpStream::connect(address).await.expect("connect"));
        }
        eventually("all are accepted", || accepted.get() == 40).await;
    });
}

fn ipv6_works_like_ipv4(engine: Engine) {
    engine.run(async {
        let options = ListenOptions {
            reuse_port: false,
            backlog: 8,
            v6_only: true,
        };
        let any = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        let Ok(listener) = TcpListener::bind(any, &options) else {
            eprintln!("skipped ipv6_works_like_ipv4: this machine has no IPv6 loopback");
            return;
        };
        let address = listener.local_addr().expect("address");
        let (client, server) = pair_at(&listener, address).await;
        assert_eq!(client.peer_addr().expect("peer"), address);
        client.send(Chunk::from_static(b"six")).await.expect("send");
        assert_eq!(receive(&server, 3).await, b"six");
    });
}

fn a_dual_stack_listener_takes_both(engine: Engine) {
    engine.run(async {
        let options = ListenOptions {
            reuse_port: false,
            backlog: 8,
            v6_only: false,
        };
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let Ok(listener) = TcpListener::bind(any, &options) else {
            eprintln!("skipped a_dual_stack_listener_takes_both: this machine has no IPv6");
            return;
        };
        let port = listener.local_addr().expect("address").port();
        for address in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ] {
            let (client, server) = pair_at(&listener, SocketAddr::from((address, port))).await;
            client.send(Chunk::from_static(b"hi")).await.expect("send");
            assert_eq!(receive(&server, 2).await, b"hi");
            let seen = server.peer_addr().expect("peer").ip();
            assert_eq!(seen.to_canonical(), address);
        }
    });
}

fn a_listener_can_be_taken_over(engine: Engine) {
    if engine.is_sim() {
        // The simulated network knows no descriptors from elsewhere.
        return;
    }
    engine.run(async {
        let listener = std::net::TcpListener::bind(any_port()).expect("bind");
        let address = listener.local_addr().expect("address");
        let listener = TcpListener::from_std(listener).expect("take over");
        assert_eq!(listener.local_addr().expect("address"), address);
        let (client, server) = pair_at(&listener, address).await;
        client.send(Chunk::from_static(b"hi")).await.expect("send");
        assert_eq!(receive(&server, 2).await, b"hi");
        drop(pair().await);
    });
}

//! Datagrams: our generator against our origins, and against servers that lose, copy, swap and
//! damage them.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use lb_core::rt::EngineKind;
use loadgen::gate::Gate;
use loadgen::origin::{self, Impairment, Origin};
use loadgen::run::{self, Config, LoadMode, RunError, Sources, UdpRequest};

use crate::support::{ANY, run, short};

fn origin(names: &str, addresses: usize) -> Origin {
    let config = origin::Config {
        udp: vec![ANY; addresses],
        name: Some(names.into()),
        ..origin::Config::new(EngineKind::Epoll)
    };
    Origin::start(&config).unwrap()
}

fn config(address: SocketAddr, udp: UdpRequest) -> Config {
    Config {
        udp,
        ..short(&format!("udp://{address}"), EngineKind::Epoll)
    }
}

/// A server that answers each datagram with those that `script` makes of it, and lives as long
/// as the test process.
fn serve(script: impl Fn(u64, &[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind(ANY).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        for number in 0.. {
            let (length, client) = socket.recv_from(&mut buffer).unwrap();
            for answer in script(number, &buffer[..length]) {
                socket.send_to(&answer, client).unwrap();
            }
        }
    });
    address
}

#[test]
fn echoes_of_every_size_come_back_from_whoever_says_so() {
    let origin = origin("blue", 1);
    for message in [40, 64, 1200, 40_000] {
        let request = UdpRequest {
            message,
            window: 2,
            ..UdpRequest::default()
        };
        let summary = run(&Config {
            connections: 2,
            threads: 2,
            ..config(origin.udp()[0], request)
        });
        assert!(summary.is_clean(), "{summary}");
        assert_eq!(summary.bytes_received, summary.completed * message as u64);
        assert_eq!(summary.per_origin["blue"], summary.completed);
        let datagrams = summary.datagrams.unwrap();
        assert_eq!((datagrams.lost, datagrams.duplicated), (0, 0), "{summary}");
        assert_eq!(datagrams.sent, datagrams.received);
    }
}

#[test]
fn an_open_loop_sends_what_is_due() {
    let origin = origin("blue", 1);
    let summary = run(&Config {
        mode: LoadMode::Open { rate_per_s: 400.0 },
        warm_up: Duration::from_millis(100),
        duration: Duration::from_millis(500),
        ..config(origin.udp()[0], UdpRequest::default())
    });
    assert!(summary.is_clean(), "{summary}");
    assert_eq!(summary.completed, 200);
    assert_eq!(summary.datagrams.unwrap().sent, 240, "with the warm-up");
}

#[test]
fn a_stream_is_counted_by_its_sink() {
    let origin = origin("blue", 1);
    for (gso, mode) in [
        (1, LoadMode::Closed),
        (8, LoadMode::Closed),
        (1, LoadMode::Open { rate_per_s: 1000.0 }),
    ] {
        let request = UdpRequest {
            message: 1200,
            one_way: true,
            window: 16,
            gso,
        };
        let summary = run(&Config {
            mode,
            ..config(origin.udp()[0], request)
        });
        assert!(summary.is_clean(), "{summary}");
        let datagrams = summary.datagrams.unwrap();
        assert_eq!(datagrams.sent, datagrams.received, "{summary}");
        assert_eq!(summary.per_origin["blue"], summary.completed);
    }
}

#[test]
fn what_a_server_does_to_datagrams_is_told_apart() {
    // The first greets; from then on of every four one is lost, one copied, one damaged.
    let server = serve(|number, datagram| match number % 4 {
        0 => vec![],
        1 => vec![datagram.to_vec(), datagram.to_vec()],
        2 => {
            let mut damaged = datagram.to_vec();
            damaged[50] ^= 1;
            vec![damaged]
        }
        _ => vec![datagram.to_vec()],
    });
    let summary = run(&Config {
        mode: LoadMode::Open { rate_per_s: 200.0 },
        duration: Duration::from_millis(400),
        timeout: Duration::from_secs(5),
        connections: 1,
        ..config(server, UdpRequest::default())
    });
    let datagrams = summary.datagrams.unwrap();
    assert_eq!((datagrams.sent, datagrams.received), (80, 40), "{summary}");
    assert_eq!(
        (datagrams.lost, datagrams.duplicated),
        (40, 20),
        "{summary}"
    );
    assert_eq!(
        (datagrams.corrupted, datagrams.reordered),
        (20, 0),
        "{summary}"
    );
    assert_eq!((summary.completed, summary.errors.timeout), (40, 40));
    assert!(summary.per_origin.is_empty(), "it gave no name: {summary}");
}

#[test]
fn a_sink_that_loses_some_is_found_out() {
    let origin = origin("sink", 1);
    let address = origin.udp()[0];
    // A relay that loses every tenth datagram on its way to the sink.
    let relay = UdpSocket::bind(ANY).unwrap();
    let relay_address = relay.local_addr().unwrap();
    thread::spawn(move || {
        let (mut buffer, mut client, mut number) = ([0; 2048], None, 0_u64);
        loop {
            let (length, from) = relay.recv_from(&mut buffer).unwrap();
            if from == address {
                let to: SocketAddr = client.unwrap();
                relay.send_to(&buffer[..length], to).unwrap();
                continue;
            }
            client = Some(from);
            number += 1;
            if !number.is_multiple_of(10) {
                relay.send_to(&buffer[..length], address).unwrap();
            }
        }
    });
    let request = UdpRequest {
        one_way: true,
        window: 16,
        ..UdpRequest::default()
    };
    let summary = run(&Config {
        connections: 1,
        timeout: Duration::from_millis(100),
        ..config(relay_address, request)
    });
    drop(origin);
    let datagrams = summary.datagrams.unwrap();
    assert!(datagrams.lost > 0 && !summary.is_clean(), "{summary}");
    assert_eq!(summary.errors.timeout, datagrams.lost);
    let share = datagrams.lost as f64 / datagrams.sent as f64;
    assert!((0.05..0.2).contains(&share), "{summary}");
}

#[test]
fn nobody_there_is_said_at_once() {
    let address = UdpSocket::bind(ANY).unwrap().local_addr().unwrap();
    let error = run::run(
        &config(address, UdpRequest::default()),
        &mut (),
        &Gate::new(),
    )
    .unwrap_err();
    assert!(matches!(error, RunError::Connect { .. }), "{error:?}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn flows_may_come_from_many_addresses() {
    let origin = origin("blue", 1);
    let summary = run(&Config {
        connections: 6,
        sources: Some(Sources {
            count: 3,
            skew: None,
        }),
        ..config(origin.udp()[0], UdpRequest::default())
    });
    assert!(summary.is_clean(), "{summary}");
    let affinity = summary.affinity.unwrap();
    assert_eq!((affinity.clients, affinity.broken), (3, 0), "{summary}");
    assert_eq!(affinity.kept, summary.completed - 3);
}

#[test]
fn an_origin_loses_copies_and_swaps_as_it_is_told_to() {
    let origin = Origin::start(&origin::Config {
        udp: vec![ANY],
        impairment: Impairment {
            lost: 0.1,
            duplicated: 0.2,
            reordered: 0.1,
        },
        ..origin::Config::new(EngineKind::Epoll)
    })
    .unwrap();
    for one_way in [false, true] {
        let request = UdpRequest {
            one_way,
            window: 32,
            ..UdpRequest::default()
        };
        let summary = run(&Config {
            mode: LoadMode::Open { rate_per_s: 2000.0 },
            duration: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            connections: 1,
            ..config(origin.udp()[0], request)
        });
        let datagrams = summary.datagrams.unwrap();
        let share = |count: u64| count as f64 / datagrams.sent as f64;
        assert!((0.05..0.15).contains(&share(datagrams.lost)), "{summary}");
        let copies = share(datagrams.duplicated);
        assert!((0.14..0.26).contains(&copies), "{summary}");
        let swapped = share(datagrams.reordered);
        assert!((0.05..0.16).contains(&swapped), "{summary}");
        assert_eq!(datagrams.sent, datagrams.received + datagrams.lost);
        assert_eq!(summary.errors.timeout, datagrams.lost, "{summary}");
    }
}

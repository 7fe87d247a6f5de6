//! Clients with addresses of their own, and whether they stay with their origins.

use std::io::Write;

use lb_core::rt::EngineKind;
use loadgen::gate::Gate;
use loadgen::run::{self, Config, RunError, Sources};

use crate::support::{on_each_engine, read_head, run, serve, short};

fn in_turn(count: usize) -> Option<Sources> {
    Some(Sources { count, skew: None })
}

/// A server whose answers are from an origin called by the client's address, or by its port.
fn naming(by_port: bool) -> String {
    let address = serve(move |mut stream| {
        let client = stream.peer_addr().unwrap();
        let name = if by_port {
            client.port().to_string()
        } else {
            client.ip().to_string()
        };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Origin: {name}\r\n\r\n");
        while read_head(&mut stream).is_some() && stream.write_all(answer.as_bytes()).is_ok() {}
    });
    format!("http://{address}/")
}

#[test]
fn clients_come_from_their_addresses_and_affinity_is_seen_kept() {
    on_each_engine(|engine| {
        for new_connections in [false, true] {
            let summary = run(&Config {
                connections: 6,
                sources: in_turn(3),
                new_connections,
                ..short(&naming(false), engine)
            });
            assert!(summary.is_clean(), "{summary}");
            let names: Vec<&str> = summary.per_origin.keys().map(String::as_str).collect();
            assert_eq!(names, ["127.1.1.1", "127.1.1.2", "127.1.1.3"]);
            let affinity = summary.affinity.unwrap();
            assert_eq!((affinity.clients, affinity.broken), (3, 0), "{summary}");
        }
    });
}

#[test]
fn affinity_is_seen_broken() {
    on_each_engine(|engine| {
        let summary = run(&Config {
            connections: 1,
            sources: in_turn(1),
            new_connections: true,
            ..short(&naming(true), engine)
        });
        assert!(summary.is_clean(), "{summary}");
        let affinity = summary.affinity.unwrap();
        assert_eq!(affinity.clients, 1);
        // The kernel gives a port again at once only if it has to.
        assert!(affinity.broken > affinity.kept, "{summary}");
    });
}

#[test]
fn addresses_of_this_machine_reach_only_this_machine() {
    let config = Config {
        sources: in_turn(3),
        ..short("http://[::1]:1/", EngineKind::Epoll)
    };
    let error = run::run(&config, &mut (), &Gate::new()).unwrap_err();
    assert!(matches!(error, RunError::Sources { .. }), "{error:?}");
}

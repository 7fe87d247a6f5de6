//! Connections that go on in another protocol: agreed on by head, relayed byte for byte, ended by
//! either side or by silence.

use std::net::Shutdown;
use std::time::Duration;

use crate::support::{Backend, Client, Proxy, cluster_plan, http_plan, ok, on_each_engine};

const REQUEST: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n";

/// Switches when asked to, says hello at once, then echoes until the end.
fn echo_after_hello(mut connection: Client, _: usize) {
    while let Some(request) = connection.request() {
        if !request.head.contains("Upgrade: websocket\r\n") {
            connection.send(&ok(request.head.as_bytes()));
            continue;
        }
        assert!(request.head.contains("Connection: upgrade\r\n"));
        connection.send(&[SWITCHING, b"hello"].concat());
        while let Ok(bytes) = connection.take(1) {
            connection.send(&bytes);
        }
        connection.send(b"bye");
        return;
    }
}

#[test]
fn bytes_go_both_ways_after_a_switch() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(echo_after_hello);
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        client.get("/before");
        // What is sent behind the head belongs to the new protocol.
        client.send(&[REQUEST.as_bytes(), b"early"].concat());
        let head = client.head().unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        for field in [
            "Connection: upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Accept: y",
        ] {
            assert!(head.contains(&format!("{field}\r\n")), "{head}");
        }
        assert_eq!(client.take(10).unwrap(), b"helloearly");
        let listener = proxy.stats.shard(0);
        assert_eq!(listener.upgrades.get(), 1);
        assert_eq!(listener.upgrades_active.get(), 1);
        assert_eq!(proxy.clusters[0].backends()[0].in_flight(), 1);
        client.send(b"0123456789");
        assert_eq!(client.take(10).unwrap(), b"0123456789");
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.rest().unwrap(), b"bye");
    });
}

#[test]
fn a_backend_that_does_not_switch_answers_as_ever() {
    on_each_engine(|engine| {
        let backend = Backend::responding(|request| ok(request.head.as_bytes()));
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        for _ in 0..2 {
            client.send(REQUEST.as_bytes());
            let seen = client.response();
            assert_eq!(seen.status, 200);
            assert!(
                seen.text().contains("Connection: upgrade\r\n"),
                "{}",
                seen.text()
            );
        }
    });
}

/// Who could switch a backend to HTTP/2 would send requests that nobody looks at.
#[test]
fn some_upgrades_are_not_asked_for() {
    on_each_engine(|engine| {
        let backend = Backend::echo();
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        for (fields, body) in [
            (
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA",
                "",
            ),
            ("Connection: Upgrade\r\nUpgrade: websocket, H2C", ""),
            ("Connection: Upgrade\r\nUpgrade: HTTP/2.0", ""),
            ("Connection: Upgrade\r\nUpgrade: TLS/1.2", ""),
            ("Connection: Upgrade\r\nUpgrade: a\r\nUpgrade: b", ""),
            ("Connection: Upgrade\r\nUpgrade: a b", ""),
            ("Connection: Upgrade", ""),
            ("Upgrade: websocket", ""),
            (
                "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2",
                "ab",
            ),
        ] {
            let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}");
            client.send(request.as_bytes());
            let seen = client.response();
            let lower = seen.text().to_lowercase();
            assert_eq!(seen.status, 200, "{fields}");
            assert!(!lower.contains("upgrade"), "{fields}: {lower}");
        }
        let old = proxy.ask("GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert!(!old.text().to_lowercase().contains("upgrade"));
    });
}

#[test]
fn a_switch_that_names_no_protocol_or_was_not_asked_for_is_502() {
    on_each_engine(|engine| {
        for head in [
            "HTTP/1.1 101 x\r\nConnection: upgrade\r\n\r\n",
            "HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n",
            "HTTP/1.0 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        ] {
            let backend = Backend::responding(move |_| head.as_bytes().to_vec());
            let proxy = Proxy::to(engine, &[backend.address]);
            assert_eq!(proxy.ask(REQUEST).status, 502, "{head}");
        }
        let backend = Backend::responding(|_| SWITCHING.to_vec());
        let proxy = Proxy::to(engine, &[backend.address]);
        assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status, 502);
    });
}

#[test]
fn upgrades_can_be_switched_off() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(echo_after_hello);
        let mut http = http_plan();
        http.exchanges.upgrades = false;
        let proxy = Proxy::start(engine, http, &[cluster_plan("main", &[backend.address])]);
        let seen = proxy.ask(REQUEST);
        assert_eq!(seen.status, 200);
        assert!(!seen.text().contains("pgrade"), "{}", seen.text());
    });
}

#[test]
fn silence_ends_it_and_moving_bytes_do_not() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(echo_after_hello);
        let mut http = http_plan();
        http.timeouts.keep_alive = Duration::from_millis(20);
        http.timeouts.body_idle = Duration::from_millis(20);
        http.exchanges.upgrade_idle = Duration::from_millis(400);
        let proxy = Proxy::start(engine, http, &[cluster_plan("main", &[backend.address])]);
        let mut client = proxy.connect();
        client.send(REQUEST.as_bytes());
        client.head().unwrap();
        client.take(5).unwrap();
        for _ in 0..6 {
            std::thread::sleep(Duration::from_millis(100));
            client.send(b"x");
            assert_eq!(client.take(1).unwrap(), b"x");
        }
        assert!(client.rest().is_err(), "reset: neither side had ended it");
    });
}

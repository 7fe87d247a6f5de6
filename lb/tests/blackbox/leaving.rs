//! Clients that give up while their request is being served: the backend is told, the log and the
//! metric say so; in the clear, over TLS, and beside nginx, which does the same.
//!
//! Read next: `exchanges.rs` (exchanges that come to their end).

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use lb_core::rt::now_precise;
use rustls::version::{TLS12, TLS13};

use crate::ends::{Backend, ok};
use crate::harness::{DEADLINE, Folder, Lb, on_both_engines, skip, wait_until};
use crate::others::Other;
use crate::tls::{Authority, Tls, client, connect};

on_both_engines!(
    a_command_that_gives_up_ends_its_exchange,
    who_ends_its_side_is_taken_for_gone_as_by_nginx,
    who_says_so_is_waited_for,
    over_tls_likewise,
);

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n";
const ABORTED: &str = "lb_exchanges_aborted_total{listener=\"web\"}";

/// Takes requests and answers none, but tells of each, and of the end of each connection.
fn silent() -> (Backend, Receiver<&'static str>) {
    let (tell, told) = mpsc::channel();
    let backend = Backend::scripted(move |mut connection, _| {
        while connection.request().is_some() {
            let _ = tell.send("asked");
        }
        let _ = tell.send("ended");
    });
    (backend, told)
}

fn assert_told(told: &Receiver<&'static str>, expected: &[&'static str]) {
    for expected in expected {
        assert_eq!(told.recv_timeout(DEADLINE), Ok(*expected));
    }
}

/// `lb` with a log, and with `settings` of its listener.
fn start(engine: &str, folder: &Folder, backend: SocketAddr, settings: &str) -> Lb {
    let path = folder.write(
        "lb.yaml",
        &format!(
            "access_log: {{to: {}, format: '$status $sent_bytes'}}\n\
             listeners:\n- {{name: web, address: '127.0.0.1:0', http: {{cluster: c{settings}}}}}\n\
             clusters:\n  c: {{backends: ['{backend}']}}\n",
            folder.path("access.log")
        ),
    );
    Lb::start(engine, &["--config", &path])
}

fn assert_logged(folder: &Folder, lines: &[&str]) {
    let read = || std::fs::read_to_string(folder.path("access.log")).unwrap_or_default();
    wait_until("the lines", || read().lines().count() >= lines.len());
    assert_eq!(read().lines().collect::<Vec<_>>(), lines);
}

fn a_command_that_gives_up_ends_its_exchange(engine: &str) {
    let (backend, told) = silent();
    let folder = Folder::new();
    let lb = start(engine, &folder, backend.address, "");
    let url = format!("http://{}/", lb.listener("web"));
    let curl = Command::new("curl")
        .args(["-s", "--max-time", "0.3", &url])
        .status();
    let Ok(status) = curl else {
        return skip("curl is missing");
    };
    assert_eq!(status.code(), Some(28), "curl's own word for a timeout");
    assert_told(&told, &["asked", "ended"]);
    assert_logged(&folder, &["499 0"]);
    assert_eq!(lb.metric(ABORTED), 1.0);
    assert_eq!(lb.metric("lb_exchanges_active{listener=\"web\"}"), 0.0);
}

/// Sends a request, ends its side when the backend has it, and reads what comes.
fn ask_and_end(edge: SocketAddr, told: &Receiver<&'static str>) -> std::io::Result<Vec<u8>> {
    let mut client = TcpStream::connect(edge).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.write_all(GET).unwrap();
    assert_told(told, &["asked"]);
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).map(|_| answer)
}

fn who_ends_its_side_is_taken_for_gone_as_by_nginx(engine: &str) {
    let (backend, told) = silent();
    let folder = Folder::new();
    let lb = start(engine, &folder, backend.address, "");
    assert_eq!(ask_and_end(lb.listener("web"), &told).unwrap(), b"");
    assert_told(&told, &["ended"]);
    let nginx = Other::nginx(1, |_, ports| {
        format!(
            "server {{ listen 127.0.0.1:{}; location / {{ proxy_pass http://{}; }} }}",
            ports[0], backend.address
        )
    });
    if let Some(nginx) = nginx {
        assert_eq!(ask_and_end(nginx.addresses[0], &told).unwrap(), b"");
        assert_told(&told, &["ended"]);
    }
}

fn who_says_so_is_waited_for(engine: &str) {
    let (tell, told) = mpsc::channel();
    let backend = Backend::responding(move |_| {
        let _ = tell.send("asked");
        std::thread::sleep(Duration::from_millis(100));
        ok(b"late")
    });
    let folder = Folder::new();
    let lb = start(
        engine,
        &folder,
        backend.address,
        ", ignore_client_abort: true",
    );
    let answer = ask_and_end(lb.listener("web"), &told).unwrap();
    assert!(answer.ends_with(b"\r\n\r\nlate"));
    let config = lb.config().to_string();
    assert!(config.contains("\"ignore_client_abort\":true"), "{config}");
    assert_eq!(lb.metric(ABORTED), 0.0);
}

fn over_tls_likewise(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let server = authority.server(&["shop.example"]);
    let both = folder.write("pair.pem", &[server.certificate, server.key].concat());
    let (silent, told) = silent();
    let tls = format!(", tls: {{certificate: '{both}'}}");
    let lb = start(engine, &folder, silent.address, &tls);
    let leave: [fn(Tls); 3] = [
        drop,
        |mut client| {
            client.conn.send_close_notify();
            client.flush().unwrap();
            // The connection below stays open: the word is enough.
            let mut rest = Vec::new();
            let ended = client.sock.read_to_end(&mut rest);
            assert!(ended.is_ok(), "{ended:?}");
        },
        |mut client| {
            client.conn.send_close_notify();
            client.flush().unwrap();
        },
    ];
    let (mut count, since) = (0, now_precise());
    for version in [&TLS12, &TLS13] {
        for leave in leave {
            let config = client(&authority, None, &[version]);
            let mut client = connect(&config, lb.listener("web"), "shop.example");
            client.write_all(GET).unwrap();
            assert_told(&told, &["asked"]);
            leave(client);
            assert_told(&told, &["ended"]);
            count += 1;
        }
    }
    for version in [&TLS12, &TLS13] {
        // In one packet with the request: the backend may not even have been asked.
        let config = client(&authority, None, &[version]);
        let mut client = connect(&config, lb.listener("web"), "shop.example");
        client.conn.complete_io(&mut client.sock).unwrap();
        client.conn.writer().write_all(GET).unwrap();
        client.conn.send_close_notify();
        let mut packet = Vec::new();
        while client.conn.wants_write() {
            client.conn.write_tls(&mut packet).unwrap();
        }
        client.sock.write_all(&packet).unwrap();
        let mut rest = Vec::new();
        let ended = client.sock.read_to_end(&mut rest);
        assert!(ended.is_ok(), "{ended:?}");
        count += 1;
    }
    assert!(
        now_precise().saturating_duration_since(since) < DEADLINE / 2,
        "not by some later event"
    );
    assert_logged(&folder, &vec!["499 0"; count]);
    assert_eq!(lb.metric(ABORTED), count as f64);
}

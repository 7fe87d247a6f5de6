//! HTTP/2 with other people's clients: by `Upgrade: h2c`, and by itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread;

use crate::client;
use crate::harness::{Folder, Lb, on_both_engines, skip};

on_both_engines!(
    curl_upgrades_to_http2,
    nghttp_upgrades_to_http2,
    an_offer_of_http2_never_reaches_a_backend,
);

/// Runs a client of others; `None` if it is not here.
fn client_of_others(program: &str, arguments: &[&str]) -> Option<Output> {
    let output = Command::new(program).args(arguments).output();
    if output.is_err() {
        skip(&format!("no {program}"));
    }
    output.ok()
}

/// Answers with the request as it came, head and body.
fn mirror() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || mirror_one(BufReader::new(stream.unwrap())));
        }
    });
    address
}

fn mirror_one(mut reader: BufReader<TcpStream>) {
    loop {
        let mut whole = String::new();
        while !whole.ends_with("\r\n\r\n") {
            if reader.read_line(&mut whole).unwrap_or(0) == 0 {
                return;
            }
        }
        let lower = whole.to_ascii_lowercase();
        let length = lower.split("\r\ncontent-length: ").nth(1);
        let length = length.and_then(|it| it.split("\r\n").next()?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).unwrap();
        whole += &String::from_utf8(body).unwrap();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{whole}",
            whole.len()
        );
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn assert_is_unoffered(head: &str) {
    let head = head.to_ascii_lowercase();
    for word in ["upgrade", "http2-settings", "h2c"] {
        assert!(!head.contains(word), "{word} in {head}");
    }
}

fn curl_upgrades_to_http2(engine: &str) {
    let http = format!("web@127.0.0.1:0={}", mirror());
    let lb = Lb::start(engine, &["--http", &http]);
    let url = format!("http://{}/a?b", lb.listener("web"));
    let again = format!("http://{}/again", lb.listener("web"));
    let version = [
        "-sS",
        "--max-time",
        "20",
        "--http2",
        "-w",
        "%{http_version}\n",
    ];
    let run = |more: &[&str]| {
        let output = client_of_others("curl", &[&version[..], more].concat())?;
        assert!(output.status.success(), "{output:?}");
        Some(String::from_utf8(output.stdout).unwrap())
    };
    let Some(text) = run(&[&url, &again]) else {
        return;
    };
    let (first, second) = text.split_once("\r\n\r\n2\n").expect("HTTP/2, twice");
    assert!(first.starts_with("GET /a?b HTTP/1.1\r\n"), "{first}");
    assert_is_unoffered(first);
    assert!(
        second.starts_with("GET /again ") && second.ends_with("\r\n\r\n2\n"),
        "{second}"
    );
    assert_eq!(
        lb.metric("lb_http2_connections_total{listener=\"web\"}"),
        1.0
    );
    assert_eq!(lb.metric("lb_http2_streams_total{listener=\"web\"}"), 2.0);

    let body = "x".repeat(5000);
    let text = run(&["-d", &body, &url]).unwrap();
    let (head, rest) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /a?b HTTP/1.1\r\n"), "{head}");
    assert_is_unoffered(head);
    assert_eq!(rest, format!("{body}2\n"));
    // Too long a body to be waited for: it is served as it came.
    let body = "x".repeat(50_000);
    let text = run(&["-d", &body, &url]).unwrap();
    assert!(
        text.ends_with(&format!("\r\n\r\n{body}1.1\n")),
        "{}",
        text.len()
    );
    let head = run(&["-I", &url]).unwrap();
    assert!(head.contains("HTTP/2 200"), "{head}");
}

fn nghttp_upgrades_to_http2(engine: &str) {
    let http = format!("web@127.0.0.1:0={}", mirror());
    let lb = Lb::start(engine, &["--http", &http]);
    let urls = ["/a", "/b", "/c"].map(|path| format!("http://{}{path}", lb.listener("web")));
    let folder = Folder::new();
    let body = folder.write("body", &"x".repeat(100_000));
    // With a body it asks for OPTIONS * first, and sends the body on a stream of its own.
    for more in [&["-u"][..], &["-u", "-d", &body]] {
        let urls = urls.each_ref().map(String::as_str);
        let arguments = [more, &["-v"], &urls].concat();
        let Some(output) = client_of_others("nghttp", &arguments) else {
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("HTTP Upgrade success"),
            "{text}"
        );
        for path in ["/a", "/b", "/c"] {
            let method = if more.len() > 1 { "POST" } else { "GET" };
            assert!(
                text.contains(&format!("{method} {path} HTTP/1.1")),
                "{path} in {text}"
            );
        }
    }
}

fn an_offer_of_http2_never_reaches_a_backend(engine: &str) {
    let folder = Folder::new();
    let config = format!(
        "listeners:\n\
         - {{name: on, address: '127.0.0.1:0', http: {{cluster: web}}}}\n\
         - {{name: off, address: '127.0.0.1:0', http: {{cluster: web, http2: off}}}}\n\
         clusters: {{web: {{backends: ['{}']}}}}\n",
        mirror()
    );
    let path = folder.write("lb.yaml", &config);
    let lb = Lb::start(engine, &["--config", &path]);
    let offers = [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "HTTP2-Settings: AAMAAABk\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: H2C\r\nHTTP2-Settings: AAMAAABk!\r\n",
    ];
    for (nth, offer) in offers.iter().enumerate() {
        for listener in ["on", "off"] {
            if nth == 0 && listener == "on" {
                continue; // accepted
            }
            let mut connection = client::Connection::open(lb.listener(listener));
            connection.send(&format!("GET / HTTP/1.1\r\nHost: a\r\n{offer}\r\n"));
            let answer = connection.receive();
            assert_eq!(answer.status, 200, "{offer}");
            assert_is_unoffered(&answer.body);
        }
    }
    // What follows an offer that is accepted is HTTP/2 or nothing.
    let mut stream = TcpStream::connect(lb.listener("on")).unwrap();
    stream
        .set_read_timeout(Some(crate::harness::DEADLINE))
        .unwrap();
    let smuggled = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", offers[0]);
    let sent = format!("{smuggled}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.write_all(sent.as_bytes()).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    let got = String::from_utf8_lossy(&got);
    assert!(got.starts_with("HTTP/1.1 101 "), "{got}");
    assert!(!got.contains("smuggled"), "{got}");
    assert_eq!(lb.metric("lb_http2_offences_total{listener=\"on\"}"), 1.0);
}

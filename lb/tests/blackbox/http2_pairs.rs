//! Each pairing of HTTP/1.1 and HTTP/2, in the clear and over TLS, with `curl` as the client: every
//! kind of exchange is the same whatever is spoken at the two ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::harness::{Folder, Lb, on_both_engines, skip, wait_until};

on_both_engines!(every_pairing_is_alike);

const BODY: usize = 10 << 20;

/// What the backends of a test have seen.
#[derive(Default)]
struct Seen {
    /// Exchanges that were broken off.
    cancelled: AtomicU64,
    waiting: AtomicU64,
}

/// HTTP/1.1: the path says what is answered.
fn old(seen: &Arc<Seen>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::clone(seen);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let seen = Arc::clone(&seen);
            thread::spawn(move || old_one(BufReader::new(stream.unwrap()), &seen));
        }
    });
    address
}

fn old_one(mut stream: BufReader<TcpStream>, seen: &Seen) -> Option<()> {
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            (stream.read_line(&mut head).ok()? > 0).then_some(())?;
        }
        let head = head.to_ascii_lowercase();
        let path = head.split(' ').nth(1)?.to_owned();
        let answer: Vec<u8> = match &*path {
            "/echo" | "/asked" => {
                if path == "/asked" {
                    assert!(head.contains("expect: 100-continue"), "{head}");
                    let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
                    stream.get_mut().write_all(go_on).ok()?;
                }
                let body = old_body(&mut stream, &head)?;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                [head.as_bytes(), &body].concat()
            }
            "/same" => {
                b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 5\r\n\r\n".to_vec()
            }
            "/big" => {
                let big = head.split("\r\nx-big: ").nth(1)?.lines().next()?;
                let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Big: ";
                format!("{head}{big}\r\n\r\nhello").into_bytes()
            }
            "/none" => b"HTTP/1.1 204 No Content\r\nX-Kind: none\r\n\r\n".to_vec(),
            "/trailers" => {
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                4\r\nbody\r\n0\r\nX-Sum: 4\r\n\r\n"
                    .to_vec()
            }
            "/hints" => b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n\
                HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate"
                .to_vec(),
            "/early" => {
                let early = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\
                    Connection: close\r\n\r\nearly";
                stream.get_mut().write_all(early).ok()?;
                stream.get_mut().shutdown(std::net::Shutdown::Write).ok()?;
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
                return None;
            }
            "/wait" => {
                seen.waiting.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0]);
                seen.cancelled.fetch_add(1, Ordering::SeqCst);
                return None;
            }
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..]
                .iter()
                .take(if head.starts_with("head ") { 38 } else { 99 })
                .copied()
                .collect(),
        };
        stream.get_mut().write_all(&answer).ok()?;
    }
}

fn old_body(stream: &mut BufReader<TcpStream>, head: &str) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if let Some(length) = head.split("\r\ncontent-length: ").nth(1) {
        let length: u64 = length.lines().next()?.parse().ok()?;
        stream.take(length).read_to_end(&mut body).ok()?;
        return Some(body);
    }
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let size = u64::from_str_radix(line.trim_end(), 16).ok()?;
        stream.take(size).read_to_end(&mut body).ok()?;
        stream.read_line(&mut line).ok()?;
        if size == 0 {
            return Some(body);
        }
    }
}

/// The same by HTTP/2.
fn new(seen: &Arc<Seen>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::clone(seen);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.ok()?;
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(new_one(request, respond, Arc::clone(&seen)));
                    }
                    Some(())
                });
            }
        });
    });
    address
}

async fn new_one(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<bytes::Bytes>,
    seen: Arc<Seen>,
) -> Option<()> {
    let (head, mut body) = request.into_parts();
    let response = |status: u16| http::Response::builder().status(status);
    let empty = |it: http::response::Builder| it.body(()).unwrap();
    match head.uri.path() {
        "/echo" | "/asked" => {
            if head.uri.path() == "/asked" {
                assert_eq!(head.headers["expect"], "100-continue");
                respond.send_informational(empty(response(100))).ok()?;
            }
            let mut whole = Vec::new();
            while let Some(data) = body.data().await {
                let data = data.ok()?;
                body.flow_control().release_capacity(data.len()).ok()?;
                whole.extend_from_slice(&data);
            }
            let answer = response(200).header("content-length", whole.len());
            let mut stream = respond.send_response(empty(answer), false).ok()?;
            stream.send_data(whole.into(), true).ok()?;
        }
        "/same" => {
            let answer = response(304).header("etag", "\"x\"");
            respond.send_response(empty(answer), true).ok()?;
        }
        "/big" => {
            let answer = response(200).header("x-big", head.headers["x-big"].clone());
            let mut stream = respond.send_response(empty(answer), false).ok()?;
            stream.send_data("hello".into(), true).ok()?;
        }
        "/none" => {
            let answer = response(204).header("x-kind", "none");
            respond.send_response(empty(answer), true).ok()?;
        }
        "/trailers" => {
            let mut stream = respond.send_response(empty(response(200)), false).ok()?;
            stream.send_data("body".into(), false).ok()?;
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-sum", "4".parse().unwrap());
            stream.send_trailers(trailers).ok()?;
        }
        "/hints" => {
            let hints = response(103).header("link", "</a.css>");
            respond.send_informational(empty(hints)).ok()?;
            let mut stream = respond.send_response(empty(response(200)), false).ok()?;
            stream.send_data("late".into(), true).ok()?;
        }
        "/early" => {
            let mut stream = respond.send_response(empty(response(413)), false).ok()?;
            stream.send_data("early".into(), true).ok()?;
        }
        "/wait" => {
            seen.waiting.fetch_add(1, Ordering::SeqCst);
            let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            assert_eq!(reset.unwrap(), h2::Reason::CANCEL);
            seen.cancelled.fetch_add(1, Ordering::SeqCst);
        }
        _ => {
            let answer = empty(response(200).header("content-length", 5));
            let is_head = head.method == "HEAD";
            let mut stream = respond.send_response(answer, is_head).ok()?;
            if !is_head {
                stream.send_data("hello".into(), true).ok()?;
            }
        }
    }
    Some(())
}

fn curl(arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "20", "-k"]);
    command.args(arguments).output().ok()
}

fn every_pairing_is_alike(engine: &str) {
    let seen = Arc::new(Seen::default());
    let folder = Folder::new();
    let own = rcgen::generate_simple_self_signed(vec!["test.example".to_owned()]).unwrap();
    let pem = [own.signing_key.serialize_pem(), own.cert.pem()].concat();
    let pem = folder.write("own.pem", &pem);
    let body = folder.write("body", &"0123456789abcdef".repeat(BODY / 16));
    let tls = format!("tls: {{certificate: '{pem}'}}");
    let config = format!(
        "listeners:\n\
         - {{name: old, address: '127.0.0.1:0', http: {{cluster: old}}}}\n\
         - {{name: new, address: '127.0.0.1:0', http: {{cluster: new}}}}\n\
         - {{name: old-tls, address: '127.0.0.1:0', http: {{cluster: old, {tls}}}}}\n\
         - {{name: new-tls, address: '127.0.0.1:0', http: {{cluster: new, {tls}}}}}\n\
         clusters:\n  old: {{backends: ['{}']}}\n  new: {{protocol: http2, backends: ['{}']}}\n",
        old(&seen),
        new(&seen)
    );
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &config)]);
    if curl(&["--version"]).is_none() {
        return skip("no curl");
    }
    for backend in ["old", "new"] {
        for (version, secure) in [
            ("--http1.1", false),
            ("--http2-prior-knowledge", false),
            ("--http1.1", true),
            ("--http2", true),
        ] {
            let listener = format!("{backend}{}", if secure { "-tls" } else { "" });
            let scheme = if secure { "https" } else { "http" };
            let url = format!("{scheme}://{}", lb.listener(&listener));
            let pairing = Pairing {
                version,
                url,
                body: &body,
                seen: &seen,
            };
            pairing.check(&format!("{version} to {listener}"));
        }
    }
}

struct Pairing<'a> {
    version: &'a str,
    url: String,
    body: &'a str,
    seen: &'a Seen,
}

impl Pairing<'_> {
    /// Heads and body of what is answered.
    fn ask(&self, path: &str, arguments: &[&str]) -> String {
        let url = format!("{}{path}", self.url);
        let all = [&[self.version, "-i"], arguments, &[&*url]].concat();
        let output = curl(&all).expect("it is there");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{path}: {output:?}");
        text.to_ascii_lowercase()
    }

    fn check(&self, what: &str) {
        let number = if self.version == "--http1.1" {
            "1.1"
        } else {
            "2"
        };
        let is = |text: &str, status: u16| {
            let begins = text.starts_with(&format!("http/{number} {status}"));
            assert!(begins, "{what}: {}", &text[..text.len().min(300)]);
        };
        let get = self.ask("/", &[]);
        is(&get, 200);
        assert!(get.ends_with("\r\n\r\nhello"), "{what}: {get}");
        let head = self.ask("/", &["-I"]);
        is(&head, 200);
        assert!(head.contains("content-length: 5\r\n"), "{what}: {head}");
        let none = self.ask("/none", &[]);
        is(&none, 204);
        assert!(
            none.contains("x-kind: none") && none.ends_with("\r\n\r\n"),
            "{what}: {none}"
        );
        let same = self.ask("/same", &["-H", "If-None-Match: \"x\""]);
        is(&same, 304);
        assert!(
            same.contains("etag: \"x\"\r\n") && same.ends_with("\r\n\r\n"),
            "{what}: {same}"
        );
        let field = format!("X-Big: {}", "b".repeat(14_500));
        let big = self.ask("/big", &["-H", &field]);
        is(&big, 200);
        let field = field.to_lowercase() + "\r\n";
        assert!(big.contains(&field) && big.ends_with("hello"), "{what}");
        let over = format!("X-Big: {}", "b".repeat(16_000));
        is(&self.ask("/big", &["-H", &over]), 431);
        let asked = ["-H", "Expect: 100-continue", "--data-binary", "abc"];
        let asked = self.ask("/asked", &asked);
        is(&asked, 100);
        assert!(asked.ends_with("\r\n\r\nabc"), "{what}: {asked}");
        let file = format!("@{}", self.body);
        for more in [&[][..], &["-H", "Transfer-Encoding: chunked"]] {
            let is_old = self.version == "--http1.1";
            let more = if is_old { more } else { &[] };
            let upload = ["-H", "Expect:", "--data-binary", &file];
            let echo = self.ask("/echo", &[&upload, more].concat());
            is(&echo, 200);
            let (_, got) = echo.split_once("\r\n\r\n").unwrap();
            assert!(got.len() == BODY, "{what}: {} bytes", got.len());
            assert!(
                got.as_bytes()
                    .chunks(16)
                    .all(|it| it == b"0123456789abcdef"),
                "{what}"
            );
        }
        let trailers = self.ask("/trailers", &[]);
        is(&trailers, 200);
        let (_, rest) = trailers.split_once("\r\n\r\n").unwrap();
        assert!(
            rest.starts_with("body") && rest.contains("x-sum: 4"),
            "{what}: {trailers}"
        );
        let hints = self.ask("/hints", &[]);
        is(&hints, 103);
        assert!(
            hints.contains("link: </a.css>") && hints.ends_with("late"),
            "{what}: {hints}"
        );
        self.early(what, &file);
        self.abort(what);
    }

    /// An answer that does not wait for the body. Where a reset comes right behind it, as the RFC
    /// has it, some versions of curl throw it away: nghttp does not.
    fn early(&self, what: &str, file: &str) {
        let early = if self.version == "--http1.1" {
            self.ask("/early", &["-H", "Expect:", "--data-binary", file])
        } else {
            let url = format!("{}/early", self.url);
            let mut command = Command::new("nghttp");
            let output = command.args(["-v", "-t", "20", "-d", &file[1..], &url]);
            let Ok(output) = output.output() else {
                return skip("no nghttp");
            };
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let has_all = early.contains(" 413") && early.contains("early");
        assert!(has_all, "{what}: {early}");
    }

    /// A client that leaves cancels the backend's exchange.
    fn abort(&self, what: &str) {
        let before = self.seen.cancelled.load(Ordering::SeqCst);
        let waiting = self.seen.waiting.load(Ordering::SeqCst);
        let wait = || {
            wait_until("the request", || {
                self.seen.waiting.load(Ordering::SeqCst) > waiting
            });
        };
        if self.version == "--http1.1" {
            // An end of what a client sends may be a half-close: only a reset is unmistakable.
            let Some(address) = self.url.strip_prefix("http://") else {
                return;
            };
            let mut stream = TcpStream::connect(address).unwrap();
            let request = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n";
            stream.write_all(request).unwrap();
            wait();
            let socket = socket2::SockRef::from(&stream);
            socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
            drop(stream);
        } else {
            let url = format!("{}/wait", self.url);
            let mut command = Command::new("curl");
            let mut client = command.args(["-sk", self.version, &url]).spawn().unwrap();
            wait();
            client.kill().unwrap();
            client.wait().unwrap();
        }
        wait_until(what, || self.seen.cancelled.load(Ordering::SeqCst) > before);
    }
}

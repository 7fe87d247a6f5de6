//! What comes behind a request's body: passed on whatever is spoken at the two ends, but for what
//! frames or routes a message, or belongs to a connection.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use crate::ends::{Backend, Client, ok};
use crate::harness::{DEADLINE, Folder, Lb, on_both_engines};
use crate::http2_frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, POST, RST_STREAM, frame, open, receive,
};

on_both_engines!(
    trailers_of_frames_are_passed_on,
    trailers_of_chunks_are_passed_on
);

type Fields = &'static [(&'static str, &'static str)];

const PROTOCOL_ERROR: u32 = 1;

/// What a backend has got of a request.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    /// The body, but not its end.
    Body,
    /// An end before that of the request.
    Cut,
}

/// HTTP/1.1: answers with what comes behind the body of each request, which is `hello`.
fn old(seen: Sender<Got>) -> Backend {
    Backend::scripted(move |mut connection, _| {
        while connection.head().is_ok() {
            assert_eq!(connection.line_end(b"hello").unwrap(), "5\r\nhello");
            seen.send(Got::Body).unwrap();
            let Ok(behind) = connection.line_end(b"\r\n\r\n") else {
                return seen.send(Got::Cut).unwrap();
            };
            let behind = behind.strip_prefix("\r\n0\r\n").expect("the last chunk");
            connection.send(&ok(behind.trim_end().as_bytes()));
        }
    })
}

/// The same by HTTP/2.
fn new(seen: Sender<Got>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let seen = seen.clone();
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(new_one(request.into_body(), respond, seen.clone()));
                    }
                });
            }
        });
    });
    address
}

async fn new_one(
    mut body: h2::RecvStream,
    mut respond: h2::server::SendResponse<bytes::Bytes>,
    seen: Sender<Got>,
) {
    let mut whole = Vec::new();
    while let Some(data) = body.data().await {
        let Ok(data) = data else {
            return seen.send(Got::Cut).unwrap();
        };
        whole.extend_from_slice(&data);
        if whole == b"hello" && !data.is_empty() {
            seen.send(Got::Body).unwrap();
        }
    }
    let Ok(trailers) = body.trailers().await else {
        return seen.send(Got::Cut).unwrap();
    };
    let trailers = trailers.unwrap_or_default();
    let lines = trailers.iter().map(|(name, value)| {
        let value = value.to_str().unwrap();
        format!("{name}: {value}")
    });
    let lines = lines.collect::<Vec<_>>().join("\r\n");
    let mut stream = respond
        .send_response(http::Response::new(()), false)
        .unwrap();
    stream.send_data(lines.into(), true).unwrap();
}

fn start(engine: &str, folder: &Folder, old: SocketAddr, new: SocketAddr) -> Lb {
    let config = format!(
        "listeners:\n\
         - {{name: old, address: '127.0.0.1:0', http: {{cluster: old}}}}\n\
         - {{name: new, address: '127.0.0.1:0', http: {{cluster: new}}}}\n\
         clusters:\n  old: {{backends: ['{old}']}}\n  new: {{protocol: http2, backends: ['{new}']}}\n"
    );
    Lb::start(engine, &["--config", &folder.write("lb.yaml", &config)])
}

/// What a stream of a client ended with.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Body(String),
    Reset(u32),
}

/// A connection of frames, whose requests are sent at once or with the trailers later.
struct Frames<'a> {
    stream: TcpStream,
    id: u32,
    seen: &'a Receiver<Got>,
}

impl Frames<'_> {
    fn ask(&mut self, trailers: Fields, apart: bool) -> End {
        self.id += 2;
        let mut block = Vec::new();
        for (name, value) in trailers {
            block.extend_from_slice(&[0, name.len() as u8]);
            block.extend_from_slice(name.as_bytes());
            block.push(value.len() as u8);
            block.extend_from_slice(value.as_bytes());
        }
        let first = [
            frame(HEADERS, END_HEADERS, self.id, POST),
            frame(DATA, 0, self.id, b"hello"),
        ];
        let last = frame(HEADERS, END_HEADERS | END_STREAM, self.id, &block);
        let mut client = Client::new(self.stream.try_clone().unwrap());
        if apart {
            client.send(&first.concat());
            assert_eq!(self.seen.recv_timeout(DEADLINE), Ok(Got::Body));
            client.send(&last);
        } else {
            client.send(&[&first.concat()[..], &last].concat());
            assert_eq!(self.seen.recv_timeout(DEADLINE), Ok(Got::Body));
        }
        self.end()
    }

    fn end(&mut self) -> End {
        let mut body = Vec::new();
        loop {
            let (kind, flags, id, payload) = receive(&mut self.stream).expect("an end");
            match kind {
                _ if id != self.id => {}
                RST_STREAM => return End::Reset(u32::from_be_bytes(payload.try_into().unwrap())),
                DATA => body.extend(payload),
                _ => {}
            }
            if id == self.id && [DATA, HEADERS].contains(&kind) && flags & END_STREAM != 0 {
                return End::Body(String::from_utf8(body).unwrap());
            }
        }
    }
}

fn trailers_of_frames_are_passed_on(engine: &str) {
    let (send, seen) = mpsc::channel();
    let folder = Folder::new();
    let old = old(send.clone());
    let lb = start(engine, &folder, old.address, new(send));
    let passed: [(Fields, &str); 4] = [
        (&[("x-sum", "5")], "x-sum: 5"),
        (
            &[("x-sum", "5"), ("x-more", "a, b")],
            "x-sum: 5\r\nx-more: a, b",
        ),
        (
            &[("content-length", "7"), ("x-sum", "5"), ("host", "other")],
            "x-sum: 5",
        ),
        (&[("content-length", "5")], ""),
    ];
    let refused: [Fields; 7] = [
        &[("transfer-encoding", "chunked")],
        &[("connection", "close")],
        &[("keep-alive", "1")],
        &[("proxy-connection", "close")],
        &[("upgrade", "h2c")],
        &[("x-sum", "5"), ("te", "gzip")],
        &[(":path", "/")],
    ];
    for listener in ["old", "new"] {
        let mut client = Frames {
            stream: open(lb.listener(listener)),
            id: 1,
            seen: &seen,
        };
        for apart in [false, true] {
            for (trailers, expected) in passed {
                let got = client.ask(trailers, apart);
                let expected = End::Body(expected.to_owned());
                assert_eq!(got, expected, "{listener}, {apart}: {trailers:?}");
            }
        }
        for trailers in refused {
            let got = client.ask(trailers, true);
            assert_eq!(got, End::Reset(PROTOCOL_ERROR), "{listener}: {trailers:?}");
            let got = seen.recv_timeout(DEADLINE);
            assert_eq!(got, Ok(Got::Cut), "{listener}: {trailers:?}");
        }
        let again = client.ask(passed[0].0, false);
        assert_eq!(again, End::Body("x-sum: 5".to_owned()), "it goes on");
    }
}

fn trailers_of_chunks_are_passed_on(engine: &str) {
    let (send, seen) = mpsc::channel();
    let folder = Folder::new();
    let old = old(send.clone());
    let lb = start(engine, &folder, old.address, new(send));
    let first = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let mut client = Client::to(lb.listener("new"));
    for (lines, expected) in [
        ("X-Sum: 5\r\n", "x-sum: 5"),
        ("X-Sum: 5\r\nX-More:  a, b \r\n", "x-sum: 5\r\nx-more: a, b"),
        (
            // HTTP/2 knows none of these (RFC 9113 section 8.2.2).
            "Connection: close\r\nKeep-Alive: 1\r\nX-Sum: 5\r\nTE: gzip\r\nUpgrade: h2c\r\n\
             Proxy-Connection: close\r\n",
            "x-sum: 5",
        ),
        ("", ""),
    ] {
        let last = format!("0\r\n{lines}\r\n");
        for apart in [false, true] {
            if apart {
                client.send(first.as_bytes());
                assert_eq!(seen.recv_timeout(DEADLINE), Ok(Got::Body));
                client.send(last.as_bytes());
            } else {
                client.send(format!("{first}{last}").as_bytes());
                assert_eq!(seen.recv_timeout(DEADLINE), Ok(Got::Body));
            }
            let got = client.response();
            let got = (got.status, got.text());
            assert_eq!(got, (200, expected), "{apart}: {lines:?}");
        }
    }
    for line in [
        "Content-Length: 5",
        "HOST: other",
        "Transfer-Encoding: chunked",
        "X-Sum : 5",
        ":path: /",
        " X-Sum: 5",
    ] {
        let last = format!("0\r\nX-A: b\r\n{line}\r\n\r\n");
        let mut client = Client::to(lb.listener("new"));
        client.send(first.as_bytes());
        assert_eq!(seen.recv_timeout(DEADLINE), Ok(Got::Body));
        client.send(last.as_bytes());
        assert_eq!(client.response().status, 400, "{line:?}");
        assert!(client.is_closed(), "{line:?}");
        assert_eq!(seen.recv_timeout(DEADLINE), Ok(Got::Cut), "{line:?}");
        let mut client = Client::to(lb.listener("new"));
        client.send(format!("{first}{last}").as_bytes());
        assert_eq!(client.response().status, 400, "{line:?}");
        assert!(seen.try_recv().is_err(), "{line:?}: nothing was passed on");
    }
}

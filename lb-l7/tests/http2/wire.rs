//! Clients that do not keep to the protocol, byte by byte, and what they get for it.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::{Backend, PATIENCE, Proxy, on_each_engine};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const SETTINGS: (u8, u8, u32, &[u8]) = (4, 0, 0, b"");
/// GET http://test/
pub(crate) const GET: &[u8] = b"\x82\x86\x84\x41\x04test";
/// POST http://test/
pub(crate) const POST: &[u8] = b"\x83\x86\x84\x41\x04test";

pub(crate) type Frame<'a> = (u8, u8, u32, &'a [u8]);

pub(crate) fn bytes((kind, flags, stream, payload): Frame<'_>) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    let mut out = vec![len[1], len[2], len[3], kind, flags];
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// What a hostile client is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// GOAWAY with this code.
    GoAway(u32),
    /// RST_STREAM with this code.
    Reset(u32),
    /// A response.
    Response,
    /// The connection ends.
    End,
}

/// What the peer says first but SETTINGS, WINDOW_UPDATE, and acknowledgements.
pub(crate) fn told(stream: &mut TcpStream) -> Told {
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return Told::End;
        }
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; len];
        stream.read_exact(&mut payload).unwrap();
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match head[3] {
            7 => return Told::GoAway(code(4)),
            3 => return Told::Reset(code(0)),
            1 => return Told::Response,
            _ => {}
        }
    }
}

pub(crate) fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What follows these frames behind a preface and SETTINGS.
fn after(proxy: &Proxy, frames: &[Frame<'_>]) -> Told {
    let mut stream = connect(proxy);
    let frames = std::iter::once(&SETTINGS).chain(frames);
    let sent: Vec<u8> = frames.flat_map(|it| bytes(*it)).collect();
    stream.write_all(&[PREFACE, &sent].concat()).unwrap();
    told(&mut stream)
}

pub(crate) const PROTOCOL: u32 = 1;
pub(crate) const FLOW_CONTROL: u32 = 3;
pub(crate) const CLOSED: u32 = 5;
pub(crate) const SIZE: u32 = 6;
pub(crate) const COMPRESSION: u32 = 9;

const CASES: &[(&str, &[Frame<'_>], Told)] = &[
    ("a request", &[(1, 5, 1, GET)], Told::Response),
    (
        "unknown frames",
        &[(0xBE, 0xFF, 3, b"x"), (1, 5, 1, GET)],
        Told::Response,
    ),
    (
        "priority",
        &[(2, 0, 1, b"\0\0\0\0\x10"), (1, 5, 1, GET)],
        Told::Response,
    ),
    (
        "DATA on stream 0",
        &[(0, 1, 0, b"x")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "HEADERS on stream 0",
        &[(1, 5, 0, GET)],
        Told::GoAway(PROTOCOL),
    ),
    (
        "SETTINGS on a stream",
        &[(4, 0, 1, b"")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "PING on a stream",
        &[(6, 0, 1, b"12345678")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "GOAWAY on a stream",
        &[(7, 0, 1, b"12345678")],
        Told::GoAway(PROTOCOL),
    ),
    ("an even stream", &[(1, 5, 2, GET)], Told::GoAway(PROTOCOL)),
    (
        "a push",
        &[(5, 4, 1, b"\0\0\0\x02")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "DATA on an idle stream",
        &[(0, 1, 1, b"x")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "RST_STREAM on an idle one",
        &[(3, 0, 1, b"\0\0\0\0")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "WINDOW_UPDATE on an idle one",
        &[(8, 0, 1, b"\0\0\0\x01")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "a lower stream",
        &[(1, 4, 5, POST), (1, 5, 3, GET)],
        Told::GoAway(PROTOCOL),
    ),
    (
        "a frame too long",
        &[(0xBE, 0, 0, &[0; 16_385])],
        Told::GoAway(SIZE),
    ),
    ("a short PING", &[(6, 0, 0, b"1234567")], Told::GoAway(SIZE)),
    (
        "a short RST_STREAM",
        &[(1, 4, 1, POST), (3, 0, 1, b"\0\0\0")],
        Told::GoAway(SIZE),
    ),
    (
        "a short WINDOW_UPDATE",
        &[(8, 0, 0, b"\0\0\x01")],
        Told::GoAway(SIZE),
    ),
    (
        "broken SETTINGS",
        &[(4, 0, 0, b"\0\0\0")],
        Told::GoAway(SIZE),
    ),
    (
        "SETTINGS in an ACK",
        &[(4, 1, 0, b"\0\x03\0\0\0\0")],
        Told::GoAway(SIZE),
    ),
    (
        "a window of nothing",
        &[(8, 0, 0, b"\0\0\0\0")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "a window too large",
        &[(8, 0, 0, b"\x7f\xff\xff\xff")],
        Told::GoAway(FLOW_CONTROL),
    ),
    (
        "a stream's window too large",
        &[(1, 4, 1, POST), (8, 0, 1, b"\x7f\xff\xff\xff")],
        Told::Reset(FLOW_CONTROL),
    ),
    (
        "a stream's window of nothing",
        &[(1, 4, 1, POST), (8, 0, 1, b"\0\0\0\0")],
        Told::Reset(PROTOCOL),
    ),
    (
        "an index nowhere",
        &[(1, 5, 1, b"\xff\x7f")],
        Told::GoAway(COMPRESSION),
    ),
    (
        "a broken block",
        &[(1, 5, 1, b"\x40")],
        Told::GoAway(COMPRESSION),
    ),
    (
        "CONTINUATION of nothing",
        &[(9, 4, 1, b"")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "an interrupted head",
        &[(1, 1, 1, GET), (6, 0, 0, b"12345678")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "too much padding",
        &[(1, 0xD, 1, b"\xff\x82")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "padded DATA too short",
        &[(1, 4, 1, POST), (0, 8, 1, b"\x05abc")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "capitals",
        &[(1, 5, 1, b"\x82\x86\x84\x41\x04test\x00\x01A\x01b")],
        Told::Reset(PROTOCOL),
    ),
    (
        "a line end",
        &[(1, 5, 1, b"\x82\x86\x84\x41\x04test\x00\x01a\x04b\r\nc")],
        Told::Reset(PROTOCOL),
    ),
    (
        "Connection",
        &[(1, 5, 1, b"\x82\x86\x84\x41\x04test\x00\x0aconnection\x01x")],
        Told::Reset(PROTOCOL),
    ),
    (
        "no path",
        &[(1, 5, 1, b"\x82\x86\x41\x04test")],
        Told::Reset(PROTOCOL),
    ),
    (
        "no method",
        &[(1, 5, 1, b"\x86\x84\x41\x04test")],
        Told::Reset(PROTOCOL),
    ),
    (
        "a response's field",
        &[(1, 5, 1, b"\x82\x86\x84\x41\x04test\x88")],
        Told::Reset(PROTOCOL),
    ),
    (
        "a late pseudo-field",
        &[(1, 5, 1, b"\x82\x86\x41\x04test\x00\x01a\x01b\x84")],
        Told::Reset(PROTOCOL),
    ),
    (
        "DATA behind the end",
        &[(1, 5, 1, b"\x82\x86\x85\x41\x04test"), (0, 1, 1, b"x")],
        Told::Reset(CLOSED),
    ),
    (
        "less than was declared",
        &[
            (1, 4, 1, b"\x83\x86\x84\x41\x04test\x0f\x0d\x015"),
            (0, 1, 1, b"abcd"),
        ],
        Told::Reset(PROTOCOL),
    ),
    (
        "more than was declared",
        &[
            (1, 4, 1, b"\x83\x86\x84\x41\x04test\x0f\x0d\x013"),
            (0, 0, 1, b"abcd"),
        ],
        Told::Reset(PROTOCOL),
    ),
    (
        "trailers that do not end",
        &[(1, 4, 1, POST), (1, 4, 1, b"\x00\x01a\x01b")],
        Told::Reset(PROTOCOL),
    ),
    (
        "pseudo-fields in trailers",
        &[(1, 4, 1, POST), (1, 5, 1, b"\x82")],
        Told::Reset(PROTOCOL),
    ),
];

#[test]
fn what_breaks_the_rules_is_refused() {
    on_each_engine(|engine| {
        // Slow enough that no answer comes first.
        let backend = Backend::responding(|request| {
            if request.head.contains("index") {
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
            crate::support::ok(b"x")
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        for (what, frames, expected) in CASES {
            assert_eq!(after(&proxy, frames), *expected, "{what}");
        }
    });
}

/// Sends `frame` of an odd stream each, until told to stop.
fn flood(proxy: &Proxy, count: u32, frames: impl Fn(u32) -> Vec<u8>) -> Told {
    let mut stream = connect(proxy);
    stream
        .write_all(&[PREFACE, &bytes(SETTINGS)].concat())
        .unwrap();
    let mut sender = stream.try_clone().unwrap();
    let all: Vec<Vec<u8>> = (0..count).map(|nth| frames(2 * nth + 1)).collect();
    let sending = std::thread::spawn(move || {
        for frames in all {
            if sender.write_all(&frames).is_err() {
                return;
            }
        }
    });
    let told = loop {
        match told(&mut stream) {
            Told::Response | Told::Reset(_) => {}
            told => break told,
        }
    };
    drop(stream);
    sending.join().unwrap();
    told
}

#[test]
fn floods_end_the_connection() {
    const CALM: u32 = 11;
    on_each_engine(|engine| {
        let backend = Backend::named("x");
        let proxy = Proxy::to(engine, &[backend.address]);
        let upload = |it| bytes((1, 4, it, POST));
        type Flood<'a> = Box<dyn Fn(u32) -> Vec<u8> + 'a>;
        let floods: Vec<(&str, Flood<'_>)> = vec![
            (
                "rapid reset",
                Box::new(|it| [upload(it), bytes((3, 0, it, b"\0\0\0\x08"))].concat()),
            ),
            (
                "MadeYouReset",
                Box::new(|it| [upload(it), bytes((8, 0, it, b"\0\0\0\0"))].concat()),
            ),
            ("PING", Box::new(|_| bytes((6, 0, 0, b"12345678")))),
            ("SETTINGS", Box::new(|_| bytes((4, 0, 0, b"")))),
            ("PRIORITY", Box::new(|_| bytes((2, 0, 1, b"\0\0\0\0\x10")))),
            (
                "malformed requests",
                Box::new(|it| bytes((1, 5, it, b"\x82"))),
            ),
        ];
        for (what, frames) in &floods {
            assert_eq!(flood(&proxy, 20_000, frames), Told::GoAway(CALM), "{what}");
        }
        let empty = |it| match it {
            1 => upload(1),
            _ => bytes((0, 0, 1, b"")),
        };
        assert_eq!(
            flood(&proxy, 20_000, empty),
            Told::GoAway(CALM),
            "empty DATA"
        );
        let continued = |it| match it {
            1 => bytes((1, 1, 1, GET)),
            _ => bytes((9, 0, 1, b"")),
        };
        assert_eq!(
            flood(&proxy, 20_000, continued),
            Told::GoAway(CALM),
            "CONTINUATION"
        );
        assert_eq!(after(&proxy, &[(1, 5, 1, GET)]), Told::Response);
    });
}

#[test]
fn a_head_that_unpacks_to_much_is_too_long() {
    on_each_engine(|engine| {
        let backend = Backend::named("x");
        let proxy = Proxy::to(engine, &[backend.address]);
        // A field of 4000 bytes is put into the table, then meant a thousand times.
        let mut block = GET.to_vec();
        block.extend_from_slice(b"\x40\x01a\x7f\xa1\x1e");
        block.extend_from_slice(&[b'x'; 4000]);
        block.extend_from_slice(&[0xBE; 1000]);
        let mut stream = connect(&proxy);
        let sent = [PREFACE, &bytes(SETTINGS), &bytes((1, 5, 1, &block))].concat();
        stream.write_all(&sent).unwrap();
        assert_eq!(told(&mut stream), Told::Response, "431");
        stream.write_all(&bytes((1, 5, 3, GET))).unwrap();
        assert_eq!(told(&mut stream), Told::Response, "the connection goes on");
    });
}

#[test]
fn who_sends_more_than_the_window_is_reset() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| {
            let _ = connection.head();
            std::thread::sleep(PATIENCE / 4); // and reads nothing
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut stream = connect(&proxy);
        let mut sender = stream.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            let start = [PREFACE, &bytes(SETTINGS), &bytes((1, 4, 1, POST))].concat();
            let _ = sender.write_all(&start);
            let data = bytes((0, 0, 1, &[0; 16_384]));
            while sender.write_all(&data).is_ok() {}
        });
        let told = told(&mut stream);
        assert!(
            matches!(told, Told::Reset(FLOW_CONTROL) | Told::GoAway(FLOW_CONTROL)),
            "{told:?}"
        );
        drop(stream.shutdown(std::net::Shutdown::Both));
        sending.join().unwrap();
    });
}

#[test]
fn pieces_of_any_size_are_understood() {
    on_each_engine(|engine| {
        let backend = Backend::echo();
        let proxy = Proxy::to(engine, &[backend.address]);
        let data = bytes((0, 9, 1, b"\x03hello\0\0\0"));
        let sent = [PREFACE, &bytes(SETTINGS), &bytes((1, 4, 1, POST)), &data].concat();
        let mut stream = connect(&proxy);
        stream.set_nodelay(true).unwrap();
        for (nth, byte) in sent.iter().enumerate() {
            stream.write_all(&[*byte]).unwrap();
            match nth {
                // Surely a piece of its own, though it does not tell the version of HTTP.
                0..3 => std::thread::sleep(std::time::Duration::from_millis(20)),
                _ => std::thread::yield_now(),
            }
        }
        assert_eq!(told(&mut stream), Told::Response);
    });
}

#[test]
fn a_request_whose_head_has_left_is_not_sent_again() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    on_each_engine(|engine| {
        let heads = Arc::<AtomicUsize>::default();
        // Each lets one byte of a body come, and breaks the connection once there is a request.
        let backends = [0, 1].map(|_| {
            let heads = Arc::clone(&heads);
            Backend::scripted(move |connection, _| {
                let mut stream = connection.stream;
                stream
                    .write_all(&bytes((4, 0, 0, b"\0\x04\0\0\0\x01")))
                    .unwrap();
                stream.read_exact(&mut [0; 24]).unwrap();
                let mut head = [0; 9];
                while stream.read_exact(&mut head).is_ok() {
                    let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                    stream.read_exact(&mut vec![0; len]).unwrap();
                    if head[3] == 1 {
                        heads.fetch_add(1, Ordering::Relaxed);
                    } else if head[3] == 0 {
                        return;
                    }
                }
            })
        });
        let addresses = backends.each_ref().map(|it| it.address);
        let proxy = crate::peers::proxy_to_http2(engine, &addresses);
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(proxy.ask(post).status, 502);
        assert_eq!(heads.load(Ordering::Relaxed), 1);
        let get = "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(proxy.ask(get).status, 502);
        assert_eq!(heads.load(Ordering::Relaxed), 3, "what may be repeated is");
    });
}

#[test]
fn what_must_not_be_indexed_stays_so() {
    on_each_engine(|engine| {
        // Answers with the head that it got, as it came, in a header that must not be indexed.
        let (send, heads) = std::sync::mpsc::channel();
        let send = std::sync::Mutex::new(send);
        let backend = Backend::scripted(move |connection, _| {
            let mut stream = connection.stream;
            stream.write_all(&bytes(SETTINGS)).unwrap();
            stream.read_exact(&mut [0; 24]).unwrap();
            let mut head = [0; 9];
            while stream.read_exact(&mut head).is_ok() {
                let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let mut payload = vec![0; len];
                stream.read_exact(&mut payload).unwrap();
                if head[3] == 1 {
                    send.lock().unwrap().send(payload).unwrap();
                    let id = u32::from_be_bytes(head[5..].try_into().unwrap());
                    let answer = bytes((1, 5, id, b"\x88\x10\x05x-pin\x041234"));
                    stream.write_all(&answer).unwrap();
                }
            }
        });
        let proxy = crate::peers::proxy_to_http2(engine, &[backend.address]);
        let mut stream = connect(&proxy);
        let block = [GET, b"\x10\x07x-token\x05abcde\x00\x05x-two\x01b"].concat();
        stream
            .write_all(&[PREFACE, &bytes(SETTINGS)].concat())
            .unwrap();
        let has = |block: &[u8], field: &[u8]| block.windows(field.len()).any(|it| it == field);
        // What is seen often is indexed, but for this.
        for id in [1, 3, 5, 7] {
            stream.write_all(&bytes((1, 5, id, &block))).unwrap();
            let got = heads.recv_timeout(PATIENCE).unwrap();
            assert!(has(&got, b"\x10\x07x-token\x05abcde"), "{got:?}");
            assert_eq!(has(&got, b"x-two"), id < 5, "{got:?}");
            let answer = loop {
                let mut head = [0; 9];
                stream.read_exact(&mut head).unwrap();
                let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
                stream.read_exact(&mut payload).unwrap();
                if head[3] == 1 {
                    break payload;
                }
            };
            assert!(has(&answer, b"\x10\x05x-pin"), "{answer:?}");
        }
    });
}

#[test]
fn who_has_finished_sending_gets_the_answers() {
    on_each_engine(|engine| {
        let backend = Backend::responding(|_| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            crate::support::ok(b"late")
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut stream = connect(&proxy);
        let both = [bytes((1, 5, 1, GET)), bytes((1, 5, 3, GET))].concat();
        stream
            .write_all(&[PREFACE, &bytes(SETTINGS), &both].concat())
            .unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        let answers = got.windows(4).filter(|it| it == b"late").count();
        assert_eq!(answers, 2);
    });
}

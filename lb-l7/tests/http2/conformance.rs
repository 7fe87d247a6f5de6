//! What RFC 9113 and RFC 7541 ask of a server, section by section: the error, and whether it is the
//! stream's or the connection's.
//!
//! Read next: `wire.rs` (more of it, and floods), `backends.rs` (the same of a client).

use std::io::Write;
use std::thread;
use std::time::Duration;

use crate::support::{Backend, Proxy, ok, on_each_engine};
use crate::wire::{
    CLOSED, COMPRESSION, FLOW_CONTROL, Frame, GET, POST, PREFACE, PROTOCOL, SETTINGS, SIZE, Told,
    bytes, connect, told,
};

/// GET http://test/index.html, which takes its time.
const SLOW: &[u8] = b"\x82\x86\x85\x41\x04test";
const CANCEL: &[u8] = b"\0\0\0\x08";

/// Fields that are in no table and stay out of them.
pub(crate) fn literal(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        assert!(name.len() < 127 && value.len() < 127);
        out.extend_from_slice(&[0, name.len() as u8]);
        out.extend_from_slice(name.as_bytes());
        out.push(value.len() as u8);
        out.extend_from_slice(value.as_bytes());
    }
    out
}

/// What a client is told of frames behind a preface and SETTINGS; a response that comes before an
/// error does not count.
fn after(proxy: &Proxy, first: &[u8], frames: &[Frame<'_>], expected: &Told) -> Told {
    let mut stream = connect(proxy);
    let frames: Vec<u8> = frames.iter().flat_map(|it| bytes(*it)).collect();
    stream.write_all(&[first, &frames].concat()).unwrap();
    loop {
        match told(&mut stream) {
            Told::Response if *expected != Told::Response => {}
            told => return told,
        }
    }
}

/// Slow where the path is that of `SLOW`.
fn backend() -> Backend {
    Backend::responding(|request| {
        if request.head.contains("index") {
            thread::sleep(Duration::from_millis(150));
        }
        ok(b"x")
    })
}

type Case<'a> = (&'a str, &'a [Frame<'a>], Told);

fn check(cases: &[Case<'_>]) {
    let first = [PREFACE, &bytes(SETTINGS)].concat();
    on_each_engine(|engine| {
        let backend = backend();
        let proxy = Proxy::to(engine, &[backend.address]);
        for (what, frames, expected) in cases {
            assert_eq!(after(&proxy, &first, frames, expected), *expected, "{what}");
        }
    });
}

#[test]
fn a_connection_begins_with_preface_and_settings() {
    let begin = |frame: Frame<'_>| [PREFACE, &bytes(frame)].concat();
    let cases = [
        (begin((1, 5, 1, GET)), PROTOCOL),
        (begin((6, 0, 0, b"12345678")), PROTOCOL),
        (begin((4, 1, 0, b"")), PROTOCOL), // an acknowledgement is none
        (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(), PROTOCOL),
        (b"PRI * HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), PROTOCOL),
    ];
    on_each_engine(|engine| {
        let backend = backend();
        let proxy = Proxy::to(engine, &[backend.address]);
        for (first, code) in &cases {
            let expected = Told::GoAway(*code);
            assert_eq!(after(&proxy, first, &[], &expected), expected, "{first:?}");
        }
    });
}

/// RFC 9113 section 5.1.
#[test]
fn states_of_streams() {
    check(STATES);
}

const UPLOAD: Frame<'_> = (1, 4, 1, POST);
const SLOW_HEAD: Frame<'_> = (1, 5, 1, SLOW);

const STATES: &[Case<'_>] = &[
    // Idle.
    (
        "CONTINUATION, idle",
        &[(9, 4, 1, b"")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "PRIORITY, idle",
        &[(2, 0, 5, b"\0\0\0\0\x10"), (1, 5, 1, GET)],
        Told::Response,
    ),
    // Half-closed, by the client.
    (
        "HEADERS, half-closed",
        &[SLOW_HEAD, (1, 5, 1, GET)],
        Told::Reset(CLOSED),
    ),
    (
        "DATA, half-closed",
        &[SLOW_HEAD, (0, 1, 1, b"x")],
        Told::Reset(CLOSED),
    ),
    (
        "CONTINUATION, half-closed",
        &[SLOW_HEAD, (9, 4, 1, b"")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "what may come, half-closed",
        &[
            SLOW_HEAD,
            (8, 0, 1, b"\0\0\0\x01"),
            (2, 0, 1, b"\0\0\0\0\x10"),
        ],
        Told::Response,
    ),
    // Closed, by a reset.
    (
        "DATA, reset",
        &[UPLOAD, (3, 0, 1, CANCEL), (0, 1, 1, b"x")],
        Told::Reset(CLOSED),
    ),
    (
        "HEADERS, reset",
        &[UPLOAD, (3, 0, 1, CANCEL), (1, 5, 1, GET)],
        Told::GoAway(CLOSED),
    ),
    (
        "CONTINUATION, reset",
        &[UPLOAD, (3, 0, 1, CANCEL), (9, 4, 1, b"")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "what may come, reset",
        &[
            UPLOAD,
            (3, 0, 1, CANCEL),
            (8, 0, 1, b"\0\0\0\x01"),
            (3, 0, 1, CANCEL),
            (2, 0, 1, b"\0\0\0\0\x10"),
            (1, 5, 3, GET),
        ],
        Told::Response,
    ),
    // Section 5.1.1.
    ("an even id", &[(1, 5, 2, GET)], Told::GoAway(PROTOCOL)),
    (
        "an id passed over",
        &[(1, 4, 5, POST), (1, 5, 3, GET)],
        Told::GoAway(PROTOCOL),
    ),
    (
        "an id used before",
        &[
            (1, 5, 1, SLOW),
            (3, 0, 1, CANCEL),
            (1, 4, 5, POST),
            (1, 5, 1, GET),
        ],
        Told::GoAway(CLOSED),
    ),
    (
        "the highest id",
        &[(1, 5, 0x7fff_ffff, GET)],
        Told::Response,
    ),
];

#[test]
fn a_stream_that_is_complete_is_closed() {
    on_each_engine(|engine| {
        let backend = backend();
        let proxy = Proxy::to(engine, &[backend.address]);
        for (frame, expected) in [
            (bytes((0, 1, 1, b"x")), Told::Reset(CLOSED)),
            (bytes((1, 5, 1, GET)), Told::GoAway(CLOSED)),
            (bytes((9, 4, 1, b"")), Told::GoAway(PROTOCOL)),
            (
                [bytes((8, 0, 1, b"\0\0\0\x01")), bytes((1, 5, 3, GET))].concat(),
                Told::Response,
            ),
            (
                [bytes((3, 0, 1, CANCEL)), bytes((1, 5, 3, GET))].concat(),
                Told::Response,
            ),
        ] {
            let mut stream = connect(&proxy);
            let start = [PREFACE, &bytes(SETTINGS), &bytes((1, 5, 1, GET))].concat();
            stream.write_all(&start).unwrap();
            assert_eq!(told(&mut stream), Told::Response);
            thread::sleep(Duration::from_millis(20)); // its end has come
            stream.write_all(&frame).unwrap();
            assert_eq!(told(&mut stream), expected, "{frame:?}");
        }
    });
}

/// RFC 9113 section 5.1.2.
#[test]
fn more_streams_than_are_allowed_are_refused() {
    const REFUSED: u32 = 7;
    on_each_engine(|engine| {
        let backend = backend();
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut stream = connect(&proxy);
        let requests = (0..200).flat_map(|nth| bytes((1, 5, 2 * nth + 1, SLOW)));
        let start = [PREFACE, &bytes(SETTINGS), &requests.collect::<Vec<u8>>()].concat();
        stream.write_all(&start).unwrap();
        let (mut refused, mut answered) = (0, 0);
        while refused + answered < 200 {
            match told(&mut stream) {
                Told::Reset(REFUSED) => refused += 1,
                Told::Response => answered += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(refused > 0 && answered > 0, "{refused} {answered}");
    });
}

/// RFC 9113 sections 4 and 6.
#[test]
fn frames_have_sizes_streams_and_flags() {
    check(FRAMES);
}

const WITH_PRIORITY: &[u8] = b"\0\0\0\0\x10\x82\x86\x84\x41\x04test";
const ON_ITSELF: &[u8] = b"\0\0\0\x01\x10\x82\x86\x84\x41\x04test";
const PADDED: &[u8] = b"\x03\x82\x86\x84\x41\x04test\0\0\0";
const LONGEST: &[u8] = &[0; 16_384];
const TOO_LONG: &[u8] = &[0; 16_385];
const HALF: &[u8] = b"\x82\x86\x84";
const REST: &[u8] = b"\x41\x04test";

const FRAMES: &[Case<'_>] = &[
    // 4.1
    (
        "flags that mean nothing",
        &[(6, 0xFE, 0, b"12345678"), (1, 0xD5, 1, GET)],
        Told::Response,
    ),
    (
        "the reserved bit",
        &[(1, 5, 0x8000_0001, GET)],
        Told::Response,
    ),
    // 4.2
    (
        "the longest DATA",
        &[UPLOAD, (0, 1, 1, LONGEST)],
        Told::Response,
    ),
    (
        "DATA too long",
        &[UPLOAD, (0, 0, 1, TOO_LONG)],
        Told::GoAway(SIZE),
    ),
    (
        "HEADERS too long",
        &[(1, 5, 1, TOO_LONG)],
        Told::GoAway(SIZE),
    ),
    // 4.3
    (
        "a head, then DATA",
        &[(1, 0, 1, GET), (0, 1, 1, b"x")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "a head, then another",
        &[(1, 1, 1, GET), (1, 5, 3, GET)],
        Told::GoAway(PROTOCOL),
    ),
    (
        "a head, then PRIORITY",
        &[(1, 1, 1, GET), (2, 0, 1, b"\0\0\0\0\x10")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "a head, then what is unknown",
        &[(1, 1, 1, GET), (0xBE, 0, 1, b"")],
        Told::GoAway(PROTOCOL),
    ),
    // 6.1
    (
        "DATA, nothing but padding",
        &[UPLOAD, (0, 9, 1, b"\x02ab")],
        Told::Response,
    ),
    (
        "DATA, padded without a length",
        &[UPLOAD, (0, 9, 1, b"")],
        Told::GoAway(SIZE),
    ),
    (
        "DATA, padding as long as all",
        &[UPLOAD, (0, 9, 1, b"\x03ab")],
        Told::GoAway(PROTOCOL),
    ),
    // 6.2
    ("HEADERS, padded", &[(1, 0xD, 1, PADDED)], Told::Response),
    (
        "HEADERS, padded without a length",
        &[(1, 0xD, 1, b"")],
        Told::GoAway(SIZE),
    ),
    (
        "HEADERS with a priority",
        &[(1, 0x25, 1, WITH_PRIORITY)],
        Told::Response,
    ),
    (
        "HEADERS that depend on themselves",
        &[(1, 0x25, 1, ON_ITSELF)],
        Told::Response,
    ), // RFC 9113 5.3
    (
        "HEADERS, a short priority",
        &[(1, 0x25, 1, b"\0\0\0")],
        Told::GoAway(SIZE),
    ),
    // 6.3
    (
        "PRIORITY on stream 0",
        &[(2, 0, 0, b"\0\0\0\0\x10")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "PRIORITY, short",
        &[UPLOAD, (2, 0, 1, b"\0\0\0\0")],
        Told::Reset(SIZE),
    ),
    (
        "PRIORITY, long",
        &[(2, 0, 1, b"\0\0\0\0\x10\0")],
        Told::GoAway(SIZE),
    ),
    // 6.4
    (
        "RST_STREAM on stream 0",
        &[(3, 0, 0, CANCEL)],
        Told::GoAway(PROTOCOL),
    ),
    (
        "RST_STREAM, long",
        &[UPLOAD, (3, 0, 1, b"\0\0\0\x08\0")],
        Told::GoAway(SIZE),
    ),
    (
        "RST_STREAM, unknown code",
        &[UPLOAD, (3, 0, 1, b"\0\0\xff\0"), (1, 5, 3, GET)],
        Told::Response,
    ),
    // 6.5
    (
        "SETTINGS, unknown",
        &[(4, 0, 0, b"\xff\0\0\0\0\x01"), (1, 5, 1, GET)],
        Told::Response,
    ),
    (
        "a push enabled twice",
        &[(4, 0, 0, b"\0\x02\0\0\0\x02")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "an initial window too large",
        &[(4, 0, 0, b"\0\x04\x80\0\0\0")],
        Told::GoAway(FLOW_CONTROL),
    ),
    (
        "frames too short",
        &[(4, 0, 0, b"\0\x05\0\0\x3f\xff")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "frames too long",
        &[(4, 0, 0, b"\0\x05\x01\0\0\0")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "extended CONNECT twice",
        &[(4, 0, 0, b"\0\x08\0\0\0\x02")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "no priorities twice",
        &[(4, 0, 0, b"\0\x09\0\0\0\x02")],
        Told::GoAway(PROTOCOL),
    ),
    // 6.7
    (
        "a PING of nobody, acknowledged",
        &[(6, 1, 0, b"12345678"), (1, 5, 1, GET)],
        Told::Response,
    ),
    (
        "a long PING",
        &[(6, 0, 0, b"123456789")],
        Told::GoAway(SIZE),
    ),
    // 6.8
    (
        "a short GOAWAY",
        &[(7, 0, 0, b"\0\0\0\0\0\0\0")],
        Told::GoAway(SIZE),
    ),
    (
        "GOAWAY, unknown code",
        &[(7, 0, 0, b"\0\0\0\0\0\0\xff\0why"), (1, 5, 1, GET)],
        Told::Response,
    ),
    // 6.9
    (
        "WINDOW_UPDATE, short, of a stream",
        &[UPLOAD, (8, 0, 1, b"\0\0\x01")],
        Told::GoAway(SIZE),
    ),
    (
        "a window of a reserved bit",
        &[(8, 0, 0, b"\x80\0\0\0")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "a window too large, in two steps",
        &[(8, 0, 0, b"\x7f\xff\0\0"), (8, 0, 0, b"\0\0\xff\xff")],
        Told::GoAway(FLOW_CONTROL),
    ),
    (
        "an initial window that makes one too large",
        &[
            UPLOAD,
            (8, 0, 1, b"\0\0\0\x01"),
            (4, 0, 0, b"\0\x04\x7f\xff\xff\xff"),
        ],
        Told::GoAway(FLOW_CONTROL),
    ),
    // 6.10
    (
        "CONTINUATION on stream 0",
        &[(1, 1, 1, HALF), (9, 4, 0, REST)],
        Told::GoAway(PROTOCOL),
    ),
    (
        "CONTINUATION of another",
        &[(1, 1, 1, HALF), (9, 4, 3, REST)],
        Told::GoAway(PROTOCOL),
    ),
    (
        "a head in two frames",
        &[(1, 1, 1, HALF), (9, 4, 1, REST)],
        Told::Response,
    ),
    (
        "a head in four frames",
        &[
            (1, 1, 1, HALF),
            (9, 0, 1, b""),
            (9, 0, 1, REST),
            (9, 4, 1, b""),
        ],
        Told::Response,
    ),
    (
        "CONTINUATION of what is complete",
        &[(1, 0, 1, HALF), (9, 4, 1, REST), (9, 4, 1, b"")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "CONTINUATION behind DATA",
        &[UPLOAD, (0, 0, 1, b"x"), (9, 4, 1, b"")],
        Told::GoAway(PROTOCOL),
    ),
    (
        "a push",
        &[UPLOAD, (5, 4, 1, b"\0\0\0\x02")],
        Told::GoAway(PROTOCOL),
    ),
];

/// RFC 7541.
#[test]
fn heads_are_compressed_as_they_should() {
    let behind = |more: &[u8]| [GET, more].concat();
    let cases = [
        ("index 0", behind(b"\x80")),
        ("a name at an index nowhere", behind(b"\x7f\x40\x01a")),
        ("a size behind a field", behind(b"\x20")),
        ("a size too large", [b"\x3f\xe2\x1f", GET].concat()),
        (
            "a number without an end",
            behind(b"\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ),
        ("a text behind the end", behind(b"\x00\x01a\x05b")),
        ("Huffman, padded with zeros", behind(b"\x00\x81\x18\x01b")),
        (
            "Huffman, too much padding",
            behind(b"\x00\x82\x1f\xff\x01b"),
        ),
        ("Huffman, its end", behind(b"\x00\x84\xff\xff\xff\xff\x01b")),
    ];
    for (what, block) in &cases {
        check(&[(what, &[(1, 5, 1, block)], Told::GoAway(COMPRESSION))]);
    }
    let fine = [
        [b"\x20\x3f\xe1\x1f", GET].concat(), // two sizes
        behind(b"\x00\x81\x1f\x01b"),        // a name in Huffman
        behind(b"\x10\x01a\x01b\x40\x01a\x01b\xbe"),
    ];
    for block in &fine {
        check(&[("fine", &[(1, 5, 1, block)], Told::Response)]);
    }
}

const PLAIN: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "test"),
];

/// Fields that make a request malformed: RFC 9113 sections 8.2, 8.2.2, 8.3 and 8.1.1.
const MALFORMED: &[(&str, &str)] = &[
    ("A", "b"),
    ("", "b"),
    ("a b", "c"),
    ("a:b", "c"),
    ("a", "b\0c"),
    ("a", "b\rc"),
    ("a", "b\nc"),
    ("a", " b"),
    ("a", "b "),
    ("a", "b\t"),
    ("a\u{e9}", "b"),
    ("a\x7f", "b"),
    ("connection", "close"),
    ("keep-alive", "x"),
    ("proxy-connection", "x"),
    ("transfer-encoding", "chunked"),
    ("upgrade", "x"),
    ("te", "gzip"),
    ("te", "trailers, gzip"),
    (":unknown", "x"),
    (":status", "200"),
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "test"),
    (":protocol", "websocket"),
    ("host", "other"),
    ("content-length", "1"),
    ("content-length", ""),
    ("content-length", "+0"),
    ("content-length", "0x0"),
    ("content-length", "18446744073709551616"),
];

/// Pseudo-fields, in the place of those of the same name: sections 8.3.1 and 8.5.
const MALFORMED_INSTEAD: &[(&str, &str)] = &[
    (":method", ""),
    (":method", "G ET"),
    (":scheme", ""),
    (":scheme", "ht tp"),
    (":path", ""),
    (":path", "a"),
    (":path", "*"),
    (":path", "/a b"),
    (":path", "http://test/"),
    (":authority", ""),
    (":authority", "user@test"),
    (":method", "CONNECT"),
];

const FINE: &[(&str, &str)] = &[
    ("te", "trailers"),
    ("host", "TEST"),
    ("a", ""),
    ("a", "b\tc"),
    ("content-length", "0"),
    ("!#$%&'*+-.^_`|~0", "\u{e9}"),
];

#[test]
fn malformed_requests_reset_their_streams() {
    let with = |field: &(&'static str, &'static str)| literal(&[&PLAIN[..], &[*field]].concat());
    let instead = |(name, value): &(&'static str, &'static str)| {
        literal(&PLAIN.map(|it| if it.0 == *name { (*name, *value) } else { it }))
    };
    let without = |name: &&str| {
        let left: Vec<_> = PLAIN.into_iter().filter(|it| it.0 != *name).collect();
        literal(&left)
    };
    let others = [
        literal(&[PLAIN[0], PLAIN[1], ("a", "b"), PLAIN[2], PLAIN[3]]),
        literal(&[(":method", "CONNECT")]),
        literal(&[&PLAIN[..], &[("content-length", "0"); 2]].concat()),
    ];
    let malformed = MALFORMED.iter().map(with);
    let malformed = malformed.chain(MALFORMED_INSTEAD.iter().map(instead));
    let malformed = malformed.chain([":method", ":scheme", ":path"].iter().map(without));
    for block in malformed.chain(others) {
        let what = String::from_utf8_lossy(&block);
        let frames: [Frame<'_>; 2] = [(1, 5, 1, &block), (1, 4, 3, POST)];
        check(&[(&what, &frames, Told::Reset(PROTOCOL))]);
    }
    for block in FINE.iter().map(with) {
        let what = String::from_utf8_lossy(&block);
        check(&[(&what, &[(1, 5, 1, &block)], Told::Response)]);
    }
}

#[test]
fn malformed_bodies_and_trailers_reset_their_streams() {
    let sized = |len: &'static str| [POST, &literal(&[("content-length", len)])].concat();
    let three = sized("3");
    let trailers = |name: &'static str| literal(&[(name, "x")]);
    let (pseudo, upper) = (trailers(":path"), trailers("X"));
    let (connection, fine) = (trailers("connection"), trailers("x-sum"));
    let upload: Frame<'_> = (1, 4, 1, &three);
    let open: Frame<'_> = (1, 4, 1, POST);
    let reset = Told::Reset(PROTOCOL);
    check(&[
        (
            "three",
            &[upload, (0, 0, 1, b"a"), (0, 1, 1, b"bc")],
            Told::Response,
        ),
        (
            "three, padded",
            &[upload, (0, 9, 1, b"\x01abcx")],
            Told::Response,
        ),
        (
            "two",
            &[upload, (0, 0, 1, b"a"), (0, 1, 1, b"b")],
            Told::Reset(PROTOCOL),
        ),
        (
            "four",
            &[upload, (0, 0, 1, b"ab"), (0, 1, 1, b"cd")],
            Told::Reset(PROTOCOL),
        ),
        (
            "two, then trailers",
            &[upload, (0, 0, 1, b"ab"), (1, 5, 1, &fine)],
            Told::Reset(PROTOCOL),
        ),
        (
            "trailers",
            &[open, (0, 0, 1, b"ab"), (1, 5, 1, &fine)],
            Told::Response,
        ),
        (
            "trailers that do not end",
            &[open, (1, 4, 1, &fine)],
            Told::Reset(PROTOCOL),
        ),
        (
            "trailers, pseudo",
            &[open, (1, 5, 1, &pseudo)],
            Told::Reset(PROTOCOL),
        ),
        (
            "trailers, capital",
            &[open, (1, 5, 1, &upper)],
            Told::Reset(PROTOCOL),
        ),
        (
            "trailers of a connection",
            &[open, (1, 5, 1, &connection)],
            reset,
        ),
    ]);
}

/// As many windows, PINGs and priorities as there is data to answer are no flood: grpc-go measures
/// the way with a PING for each DATA frame that comes.
#[test]
fn who_answers_data_is_no_flood() {
    on_each_engine(|engine| {
        let backend = Backend::named("x");
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut stream = connect(&proxy);
        stream
            .write_all(&[PREFACE, &bytes(SETTINGS)].concat())
            .unwrap();
        for id in (1..5_000).step_by(2) {
            let frames = [
                bytes((1, 5, id, GET)),
                bytes((6, 0, 0, b"12345678")),
                bytes((8, 0, 0, b"\0\0\0\x01")),
                bytes((8, 0, id, b"\0\0\0\x01")),
            ];
            stream.write_all(&frames.concat()).unwrap();
            assert_eq!(told(&mut stream), Told::Response, "{id}");
        }
    });
}

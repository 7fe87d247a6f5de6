//! What is remembered of a client's requests changes none of them: whatever comes on one connection,
//! in whatever order and coding, is answered as it is on connections of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use lb_core::plan::{self, Rewrite, Route, RouteAction};
use lb_core::rt::EngineKind;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::support::{Backend, Client, Proxy, cluster_plan, http_plan, ok, on_each_engine};
use crate::wire::{PREFACE, SETTINGS, bytes, connect};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const METHODS: [&str; 3] = ["GET", "POST", "PUT"];
const PATHS: [&str; 3] = ["/a", "/b?c", "/moved/d"];
const HOSTS: [&str; 2] = ["one", "two"];
const EXTRAS: [&[(&str, &str)]; 5] = [
    &[],
    &[("x-a", "1")],
    &[("x-a", "2")],
    &[("authorization", "x")],
    &[("content-type", "application/grpc"), ("te", "trailers")],
];
const LENGTHS: [Option<&str>; 4] = [None, Some("0"), Some("5"), Some("7")];

/// A head, by the places of its parts in the lists above.
#[derive(Debug, Clone)]
struct Head {
    method: usize,
    path: usize,
    host: usize,
    extra: usize,
    length: usize,
    /// Whether what is not in the table of HPACK is put there.
    indexes: bool,
}

impl Head {
    fn fields(&self) -> Vec<(&'static str, &'static str)> {
        let mut fields = vec![
            (":method", METHODS[self.method]),
            (":scheme", "http"),
            (":path", PATHS[self.path]),
            (":authority", HOSTS[self.host]),
        ];
        fields.extend_from_slice(EXTRAS[self.extra]);
        fields.extend(LENGTHS[self.length].map(|it| ("content-length", it)));
        fields
    }
}

/// What comes behind a head.
#[derive(Debug, Clone)]
struct Body {
    /// Nothing: the head ends the stream.
    is_none: bool,
    /// Bytes of each frame.
    pieces: Vec<usize>,
    has_trailers: bool,
    /// Whether it comes once the head was received.
    is_late: bool,
}

#[derive(Debug, Clone)]
enum Step {
    /// The same head with each of these bodies, one after the other or all at once.
    Ask(Head, Vec<Body>, bool),
    /// The table of HPACK is emptied, and may be as large as before.
    EmptyTable,
    /// Other routes from now on, between these requests and one that is the same.
    Reload(Head, Vec<Body>),
}

fn head() -> impl Strategy<Value = Head> {
    let places = (0..3_usize, 0..3_usize, 0..2_usize, 0..5_usize, 0..4_usize);
    (places, prop::bool::weighted(0.7)).prop_map(
        |((method, path, host, extra, length), indexes)| Head {
            method,
            path,
            host,
            extra,
            length,
            indexes,
        },
    )
}

fn body() -> impl Strategy<Value = Body> {
    let piece = prop::sample::select(vec![0_usize, 2, 5, 5]);
    let pieces = prop::collection::vec(piece, 1..3);
    let (seldom, often) = (prop::bool::weighted(0.2), prop::bool::weighted(0.4));
    (often, pieces, seldom, often).prop_map(|(is_none, pieces, has_trailers, is_late)| Body {
        is_none,
        pieces,
        has_trailers,
        is_late,
    })
}

/// Heads that are alike: with the table emptied between them, the same bytes mean another one.
fn heads() -> impl Strategy<Value = Vec<Head>> {
    let likeness = prop::bool::weighted(0.7);
    let others = prop::collection::vec((head(), likeness), 1..3);
    (head(), others).prop_map(|(first, others)| {
        let others = others.into_iter().map(|(other, is_alike)| match is_alike {
            true => Head {
                path: other.path,
                host: other.host,
                ..first.clone()
            },
            false => other,
        });
        others.chain([first.clone()]).collect()
    })
}

/// Steps with few heads: they come again behind anything else.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    heads().prop_flat_map(|heads| {
        let bodies = || prop::collection::vec(body(), 1..6);
        let heads = prop::sample::select(heads);
        let reload = (heads.clone(), bodies());
        let step = prop_oneof![
            6 => (heads, bodies(), any::<bool>())
                .prop_map(|(head, bodies, together)| Step::Ask(head, bodies, together)),
            2 => Just(Step::EmptyTable),
            1 => reload.prop_map(|(head, bodies)| Step::Reload(head, bodies)),
        ];
        prop::collection::vec(step, 1..24)
    })
}

/// What a stream ended with: the body of its answer, which is the request as the backend got it.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Body(String),
    Reset(u32),
}

/// A connection that codes heads as it is told to.
struct Connection {
    stream: TcpStream,
    id: u32,
    /// The table of HPACK, the newest first.
    table: Vec<(&'static str, &'static str)>,
    empties_table: bool,
    /// What has come of each stream, and whether that is all.
    streams: BTreeMap<u32, (End, bool)>,
}

impl Connection {
    fn to(proxy: &Proxy) -> Self {
        let mut stream = connect(proxy);
        stream.set_nodelay(true).unwrap();
        let window = bytes((WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()));
        let first = [PREFACE, &bytes(SETTINGS), &window].concat();
        stream.write_all(&first).unwrap();
        Self {
            stream,
            id: 1,
            table: Vec::new(),
            empties_table: false,
            streams: BTreeMap::new(),
        }
    }

    /// What becomes of the requests, sent all at once.
    fn ask(&mut self, head: &Head, bodies: &[Body]) -> Vec<End> {
        let first = self.id;
        let mut frames = Vec::new();
        for body in bodies {
            let block = self.block(head);
            let flags = END_HEADERS | if body.is_none { END_STREAM } else { 0 };
            frames.extend(bytes((HEADERS, flags, self.id, &block)));
            if !body.is_none {
                if body.is_late {
                    self.stream.write_all(&frames).unwrap();
                    frames.clear();
                    self.wait();
                }
                self.put(body, &mut frames);
            }
            self.id += 2;
        }
        self.stream.write_all(&frames).unwrap();
        self.ends(first, bodies.len())
    }

    fn block(&mut self, head: &Head) -> Vec<u8> {
        let mut block = Vec::new();
        if std::mem::take(&mut self.empties_table) {
            block.extend_from_slice(b"\x20\x3f\xe1\x1f"); // 0, then 4096 bytes
            self.table.clear();
        }
        for (name, value) in head.fields() {
            let known = self.table.iter().position(|it| *it == (name, value));
            if let Some(place) = known {
                block.push(0x80 | (62 + place) as u8);
                continue;
            }
            let is_put = head.indexes && self.table.len() < 40;
            if is_put {
                self.table.insert(0, (name, value));
            }
            block.extend_from_slice(&[if is_put { 0x40 } else { 0 }, name.len() as u8]);
            block.extend_from_slice(name.as_bytes());
            block.push(value.len() as u8);
            block.extend_from_slice(value.as_bytes());
        }
        block
    }

    fn put(&self, body: &Body, frames: &mut Vec<u8>) {
        for (nth, len) in body.pieces.iter().enumerate() {
            let is_last = nth + 1 == body.pieces.len() && !body.has_trailers;
            let flags = if is_last { END_STREAM } else { 0 };
            frames.extend(bytes((DATA, flags, self.id, &b"hello"[..*len])));
        }
        if body.has_trailers {
            let block = b"\x00\x03x-b\x01c";
            frames.extend(bytes((HEADERS, END_HEADERS | END_STREAM, self.id, block)));
        }
    }

    /// Waits until everything before this was received.
    fn wait(&mut self) {
        let ping = bytes((PING, 0, 0, b"12345678"));
        self.stream.write_all(&ping).unwrap();
        while self.receive() != PING {}
    }

    fn ends(&mut self, first: u32, count: usize) -> Vec<End> {
        let ids = (first..).step_by(2).take(count);
        let end = |id| loop {
            if let Some((_, true)) = self.streams.get(&id) {
                return self.streams.remove(&id).unwrap().0;
            }
            assert_ne!(self.receive(), GOAWAY);
        };
        ids.map(end).collect()
    }

    /// Takes in the next frame; its kind.
    fn receive(&mut self) -> u8 {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).unwrap();
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        let (len, kind, flags, id) = (number(0) >> 8, head[3], head[4], number(5));
        let mut payload = vec![0; len as usize];
        self.stream.read_exact(&mut payload).unwrap();
        if ![DATA, HEADERS, RST_STREAM].contains(&kind) {
            return kind;
        }
        let begun = || (End::Body(String::new()), false);
        let (end, is_whole) = self.streams.entry(id).or_insert_with(begun);
        match (kind, &mut *end) {
            _ if *is_whole => {} // RST_STREAM behind an answer
            (RST_STREAM, _) => *end = End::Reset(u32::from_be_bytes(payload.try_into().unwrap())),
            (DATA, End::Body(body)) => body.push_str(str::from_utf8(&payload).unwrap()),
            _ => {}
        }
        *is_whole |= kind == RST_STREAM || flags & END_STREAM != 0;
        kind
    }
}

/// Answers with its name and the request, its body in one piece however it came.
fn backend(name: &'static str) -> Backend {
    Backend::scripted(move |mut connection, _| {
        while let Some(request) = record(&mut connection) {
            connection.send(&ok(format!("{name}: {request}").as_bytes()));
        }
    })
}

fn record(connection: &mut Client) -> Option<String> {
    let mut request = connection.head().ok()?;
    let lower = request.to_ascii_lowercase();
    if let Some(length) = lower.split("\r\ncontent-length: ").nth(1) {
        let length = length.lines().next()?.parse().ok()?;
        request.push_str(str::from_utf8(&connection.take(length).ok()?).ok()?);
    } else if lower.contains("\r\ntransfer-encoding: chunked\r\n") {
        while let size @ 1.. = {
            let line = connection.line_end(b"\r\n").ok()?;
            usize::from_str_radix(line.trim_end(), 16).ok()?
        } {
            let data = connection.take(size + 2).ok()?;
            request.push_str(str::from_utf8(&data[..size]).ok()?);
        }
        let mut line = String::new();
        while line != "\r\n" {
            line = connection.line_end(b"\r\n").ok()?;
            write!(request, "\nbehind: {line:?}").ok()?;
        }
    }
    Some(request)
}

/// Two sets of routes that send the same request to different places.
fn routes() -> [plan::Http; 2] {
    let moved = Route {
        action: RouteAction::Cluster {
            name: "other".to_owned(),
            rewrite: Some(Rewrite::Prefix("/new".to_owned())),
        },
        ..Route::to(None, "/moved", "other")
    };
    let first = plan::Http {
        routes: vec![Route::to(Some("two"), "/b", "other")],
        ..http_plan()
    };
    let second = plan::Http {
        routes: vec![moved],
        default_cluster: Some("other".to_owned()),
        ..http_plan()
    };
    [first, second]
}

fn start(engine: EngineKind, main: SocketAddr, other: SocketAddr) -> Proxy {
    let clusters = [
        cluster_plan("main", &[main]),
        cluster_plan("other", &[other]),
    ];
    let [http, _] = routes();
    // A log has its own way with ids.
    Proxy::start_logging(engine, http, &clusters, false, || ())
}

fn check(proxy: &Proxy, steps: &[Step]) -> Result<(), TestCaseError> {
    let plans = routes();
    let mut generation = 0;
    proxy.reload(&plans[0]);
    let mut shared = Connection::to(proxy);
    for step in steps {
        match step {
            Step::EmptyTable => shared.empties_table = true,
            Step::Ask(head, bodies, together) => {
                let at_once = if *together { bodies.len() } else { 1 };
                for bodies in bodies.chunks(at_once) {
                    compare(proxy, &mut shared, head, bodies)?;
                }
            }
            Step::Reload(head, bodies) => {
                compare(proxy, &mut shared, head, bodies)?;
                generation += 1;
                proxy.reload(&plans[generation % 2]);
                compare(proxy, &mut shared, head, &bodies[bodies.len() - 1..])?;
            }
        }
    }
    Ok(())
}

/// Whether requests on the `shared` connection become what they become on their own.
fn compare(
    proxy: &Proxy,
    shared: &mut Connection,
    head: &Head,
    bodies: &[Body],
) -> Result<(), TestCaseError> {
    let got = shared.ask(head, bodies);
    let alone = bodies.iter().flat_map(|body| {
        let body = std::slice::from_ref(body);
        Connection::to(proxy).ask(head, body)
    });
    prop_assert_eq!(got, alone.collect::<Vec<_>>());
    Ok(())
}

#[test]
fn what_is_remembered_changes_no_request() {
    on_each_engine(|engine| {
        let (main, other) = (backend("main"), backend("other"));
        let proxy = start(engine, main.address, other.address);
        let mut runner = TestRunner::new(Config {
            cases: 32,
            failure_persistence: None,
            ..Config::default()
        });
        runner
            .run(&steps(), |steps| check(&proxy, &steps))
            .unwrap_or_else(|error| panic!("{error}"));
    });
}

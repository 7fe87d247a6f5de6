//! Connections of HTTP/2 to backends: as many as streams need, whatever the backend allows and
//! changes under way; and how little is held for ends that do not read.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use crate::client;
use crate::harness::{DEADLINE, Folder, Lb, on_both_engines, wait_until};
use crate::http2_frames::{
    DATA, END_HEADERS, END_STREAM, GET, GOAWAY, HEADERS, POST, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    frame, open, receive,
};

on_both_engines!(
    connections_are_opened_as_streams_need_them,
    each_stream_is_balanced,
    a_refused_stream_goes_elsewhere,
    connections_of_few_requests_lose_none,
    a_limit_may_change_under_way,
    who_takes_no_streams_is_left,
    who_says_nothing_is_left,
    a_client_that_does_not_read_holds_little,
    a_backend_that_does_not_read_stops_uploads,
);

/// `lb` with a listener and a cluster of this protocol, of the same name.
fn start(engine: &str, folder: &Folder, protocol: &str, backends: &[SocketAddr], more: &str) -> Lb {
    let backends: Vec<_> = backends.iter().map(|it| format!("'{it}'")).collect();
    let config = format!(
        "listeners: [{{name: web, address: '127.0.0.1:0', http: {{cluster: web}}}}]\n\
         clusters: {{web: {{protocol: {protocol}, backends: [{}]{more}}}}}\n",
        backends.join(", ")
    );
    Lb::start(engine, &["--config", &folder.write("lb.yaml", &config)])
}

/// A backend's series of a metric.
fn of_backend(metric: &str, address: SocketAddr) -> String {
    format!("{metric}{{cluster=\"web\",backend=\"{address}\",address=\"{address}\"}}")
}

/// A backend whose every connection, with the client's preface read, is handled on a thread.
fn backend(handle: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let handle = Arc::clone(&handle);
            let stream = stream.unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            thread::spawn(move || handle(stream, number));
        }
    });
    address
}

fn limit(streams: u32) -> Vec<u8> {
    let setting = [&[0, 3][..], &streams.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &setting)
}

/// Reads the preface, which `receive` cannot.
fn skip_preface(stream: &mut TcpStream) {
    std::io::Read::read_exact(stream, &mut [0; 24]).unwrap();
}

/// An answer with the number of its connection.
fn answer(id: u32, number: usize) -> Vec<u8> {
    let body = number.to_string();
    [
        frame(HEADERS, END_HEADERS, id, b"\x88"),
        frame(DATA, END_STREAM, id, body.as_bytes()),
    ]
    .concat()
}

fn connections_are_opened_as_streams_need_them(engine: &str) {
    const STREAMS: usize = 100;
    for (allowed, expected) in [(1, 100), (10, 10), (100, 1)] {
        // Nothing is answered before all of them are there.
        let all = Arc::new(Barrier::new(STREAMS));
        let address = backend(move |mut stream, number| {
            skip_preface(&mut stream);
            stream.write_all(&limit(allowed)).unwrap();
            let writer = stream.try_clone().unwrap();
            while let Some((kind, _, id, _)) = receive(&mut stream) {
                if kind == HEADERS {
                    let (all, mut writer) = (Arc::clone(&all), writer.try_clone().unwrap());
                    thread::spawn(move || {
                        all.wait();
                        writer.write_all(&answer(id, number)).unwrap();
                    });
                }
            }
        });
        let folder = Folder::new();
        let lb = start(engine, &folder, "http2", &[address], "");
        let mut client = open(lb.listener("web"));
        for nth in 0..STREAMS as u32 {
            let request = frame(HEADERS, END_STREAM | END_HEADERS, 2 * nth + 1, GET);
            client.write_all(&request).unwrap();
        }
        let mut ended = 0;
        while ended < STREAMS {
            let (kind, flags, id, payload) = receive(&mut client).expect("an answer");
            assert_ne!(kind, RST_STREAM, "{id} {payload:?}");
            ended += usize::from(kind == DATA && flags & END_STREAM != 0);
        }
        let total = of_backend("lb_backend_connections_total", address);
        assert_eq!(
            lb.metric(&total),
            f64::from(expected),
            "{allowed} a connection"
        );
    }
}

/// Streams of one connection go to all backends, in turn, whatever those speak.
fn each_stream_is_balanced(engine: &str) {
    let counts: Arc<[AtomicU64; 3]> = Arc::default();
    let backends: Vec<_> = (0..3)
        .map(|nth| {
            let counts = Arc::clone(&counts);
            backend(move |mut stream, number| {
                skip_preface(&mut stream);
                stream.write_all(&limit(100)).unwrap();
                while let Some((kind, _, id, _)) = receive(&mut stream) {
                    if kind == HEADERS {
                        counts[nth].fetch_add(1, Ordering::SeqCst);
                        stream.write_all(&answer(id, number)).unwrap();
                    }
                }
            })
        })
        .collect();
    let folder = Folder::new();
    let lb = start(engine, &folder, "http2", &backends, "");
    let mut client = open(lb.listener("web"));
    for nth in 0..90 {
        let request = frame(HEADERS, END_STREAM | END_HEADERS, 2 * nth + 1, GET);
        client.write_all(&request).unwrap();
    }
    let mut ended = 0;
    while ended < 90 {
        let (kind, flags, ..) = receive(&mut client).expect("an answer");
        ended += usize::from(kind == DATA && flags & END_STREAM != 0);
    }
    let counts = counts.each_ref().map(|it| it.load(Ordering::SeqCst));
    assert_eq!(counts, [30; 3]);
}

/// A backend that takes no stream any more costs no request, whatever its method.
fn a_refused_stream_goes_elsewhere(engine: &str) {
    const REFUSED_STREAM: &[u8] = b"\0\0\0\x07";
    let refuses = |with_go_away: bool| {
        backend(move |mut stream, _| {
            skip_preface(&mut stream);
            stream.write_all(&limit(100)).unwrap();
            while let Some((kind, _, id, _)) = receive(&mut stream) {
                if kind == HEADERS {
                    let refusal = match with_go_away {
                        true => frame(GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\0"),
                        false => frame(RST_STREAM, 0, id, REFUSED_STREAM),
                    };
                    stream.write_all(&refusal).unwrap();
                }
            }
        })
    };
    let takes = backend(|mut stream, number| {
        skip_preface(&mut stream);
        stream.write_all(&limit(100)).unwrap();
        while let Some((kind, _, id, _)) = receive(&mut stream) {
            if kind == HEADERS {
                stream.write_all(&answer(id, number)).unwrap();
            }
        }
    });
    let folder = Folder::new();
    let backends = [refuses(false), takes, refuses(true)];
    let more = ", retry_budget: none";
    let lb = start(engine, &folder, "http2", &backends, more);
    let mut client = open(lb.listener("web"));
    for nth in 0..30 {
        // Neither is repeatable: POST, and without a body.
        let request = frame(HEADERS, END_STREAM | END_HEADERS, 2 * nth + 1, POST);
        client.write_all(&request).unwrap();
        let mut body = Vec::new();
        loop {
            let (kind, flags, id, payload) = receive(&mut client).expect("an answer");
            assert_ne!(kind, RST_STREAM, "{id} {payload:?}");
            if kind == DATA {
                body.extend_from_slice(&payload);
                if flags & END_STREAM != 0 {
                    break;
                }
            }
        }
        assert_eq!(
            body, b"0",
            "the one connection of the backend that takes it"
        );
    }
}

/// A backend that ends each connection after five requests, as nginx does after `keepalive_requests`:
/// what it has not looked at goes to the next connection, whoever has opened that.
fn connections_of_few_requests_lose_none(engine: &str) {
    const STREAMS: u32 = 100;
    let address = backend(move |mut stream, number| {
        skip_preface(&mut stream);
        stream.write_all(&limit(10)).unwrap();
        let mut last = 0;
        for nth in 1..=5 {
            last = loop {
                match receive(&mut stream) {
                    Some((HEADERS, _, id, _)) => break id,
                    Some(_) => {}
                    None => return,
                }
            };
            if nth < 5 {
                stream.write_all(&answer(last, number)).unwrap();
            }
        }
        let go_away = frame(GOAWAY, 0, 0, &[&last.to_be_bytes()[..], &[0; 4]].concat());
        stream.write_all(&go_away).unwrap();
        // More may come, which it has told that it does not take.
        thread::sleep(Duration::from_millis(20));
        stream.write_all(&answer(last, number)).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        while receive(&mut stream).is_some() {}
    });
    let folder = Folder::new();
    let lb = start(engine, &folder, "http2", &[address], "");
    let mut client = open(lb.listener("web"));
    for nth in 0..STREAMS {
        let request = frame(HEADERS, END_STREAM | END_HEADERS, 2 * nth + 1, POST);
        client.write_all(&request).unwrap();
    }
    let mut ended = 0;
    while ended < STREAMS {
        let (kind, flags, _, payload) = receive(&mut client).expect("an answer");
        assert_ne!(kind, RST_STREAM, "{payload:?}");
        if kind == HEADERS {
            assert_eq!(payload[0], 0x88, "200, not {payload:?}");
        }
        ended += u32::from(kind == DATA && flags & END_STREAM != 0);
    }
}

/// What the backend of the next test is told to do.
enum Order {
    Say(Vec<u8>),
    /// Answers what is oldest on this connection.
    Answer,
}

/// A connection of a backend that does as it is told: it says which requests come.
fn obedient(streams: Sender<(usize, u32)>, orders: Receiver<Receiver<Order>>) -> SocketAddr {
    let orders = std::sync::Mutex::new(orders);
    let streams = std::sync::Mutex::new(streams);
    backend(move |mut stream, number| {
        let orders = orders.lock().unwrap().recv().unwrap();
        let streams = streams.lock().unwrap().clone();
        skip_preface(&mut stream);
        let mut writer = stream.try_clone().unwrap();
        let (waits, waiting) = mpsc::channel();
        thread::spawn(move || {
            for order in orders {
                let said = match order {
                    Order::Say(bytes) => bytes,
                    Order::Answer => answer(waiting.recv().unwrap(), number),
                };
                if writer.write_all(&said).is_err() {
                    return;
                }
            }
        });
        while let Some((kind, flags, id, _)) = receive(&mut stream) {
            match kind {
                HEADERS => {
                    let _ = waits.send(id);
                    let _ = streams.send((number, id));
                }
                SETTINGS if flags & 1 == 1 => drop(streams.send((number, 0))),
                _ => {}
            }
        }
    })
}

fn a_limit_may_change_under_way(engine: &str) {
    let (said, heard) = mpsc::channel();
    let (give, given) = mpsc::channel();
    let address = obedient(said, given);
    let folder = Folder::new();
    let lb = start(engine, &folder, "http2", &[address], "");
    // All by one client's connection, and so by one worker.
    let mut client = open(lb.listener("web"));
    let mut next = 1;
    let mut ask = || {
        let request = frame(HEADERS, END_STREAM | END_HEADERS, next, GET);
        client.write_all(&request).unwrap();
        next += 2;
    };
    let next_is = |expected: (usize, bool), what: &str| {
        let (number, id) = heard.recv_timeout(DEADLINE).expect(what);
        assert_eq!((number, id != 0), expected, "{what}");
    };
    let connection = || {
        let (send, receive) = mpsc::channel();
        give.send(receive).unwrap();
        send
    };
    let first = connection();
    first.send(Order::Say(limit(4))).unwrap();
    (0..4).for_each(|_| ask());
    next_is((0, false), "SETTINGS are acknowledged");
    (0..4).for_each(|_| next_is((0, true), "four on the first connection"));
    first.send(Order::Say(limit(1))).unwrap();
    next_is((0, false), "the change is acknowledged");
    let second = connection();
    second.send(Order::Say(limit(100))).unwrap();
    (0..3).for_each(|_| first.send(Order::Answer).unwrap());
    wait_until("three answers", || {
        lb.metric("lb_exchanges_active{listener=\"web\"}") == 1.0
    });
    ask();
    next_is((1, false), "SETTINGS are acknowledged");
    next_is((1, true), "one is left on the first, which takes no more");
    first.send(Order::Say(limit(3))).unwrap();
    next_is((0, false), "another change is acknowledged");
    (0..2).for_each(|_| ask());
    (0..2).for_each(|_| next_is((0, true), "it takes two more"));
    ask();
    next_is((1, true), "and not a third");
    for _ in 0..3 {
        first.send(Order::Answer).unwrap();
    }
    for _ in 0..2 {
        second.send(Order::Answer).unwrap();
    }
    wait_until("all answers", || {
        lb.metric("lb_exchanges_active{listener=\"web\"}") == 0.0
    });
    let total = of_backend("lb_backend_connections_total", address);
    assert_eq!(lb.metric(&total), 2.0);
}

fn who_takes_no_streams_is_left(engine: &str) {
    let ended = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&ended);
    let address = backend(move |mut stream, _| {
        skip_preface(&mut stream);
        stream.write_all(&limit(0)).unwrap();
        while receive(&mut stream).is_some() {}
        count.fetch_add(1, Ordering::Relaxed);
    });
    let folder = Folder::new();
    let lb = start(engine, &folder, "http2", &[address], "");
    for nth in 1..=5 {
        assert_eq!(client::get(lb.listener("web"), "/").status, 503);
        wait_until("its connection to end", || {
            ended.load(Ordering::Relaxed) == nth
        });
    }
}

fn who_says_nothing_is_left(engine: &str) {
    let address = backend(|mut stream, _| while receive(&mut stream).is_some() {});
    let folder = Folder::new();
    let more = ", connect_timeout: 100ms";
    let lb = start(engine, &folder, "http2", &[address], more);
    for _ in 0..5 {
        assert_eq!(client::get(lb.listener("web"), "/").status, 503);
    }
    let failures = of_backend("lb_backend_connect_failures_total", address);
    assert_eq!(lb.metric(&failures), 5.0);
    let active = of_backend("lb_backend_connections_active", address);
    wait_until("their connections to end", || lb.metric(&active) == 0.0);
}

/// Answers each request with a body that does not end, as fast as it is taken: by HTTP/1.1.
fn endless() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n";
                let body = vec![b'x'; 1 << 16];
                let mut sent = stream.write_all(head);
                while sent.is_ok() {
                    sent = stream.write_all(&body);
                }
            });
        }
    });
    address
}

/// The same by HTTP/2: as much as the windows allow.
fn endless_streams() -> SocketAddr {
    backend(|mut stream, _| {
        skip_preface(&mut stream);
        stream.write_all(&frame(SETTINGS, 0, 0, b"")).unwrap();
        // Those of a stream, of the connection.
        let mut windows = std::collections::BTreeMap::new();
        let (mut whole, mut initial) = (65_535_i64, 65_535_i64);
        let number = |bytes: &[u8]| i64::from(u32::from_be_bytes(bytes.try_into().unwrap()));
        while let Some((kind, flags, id, payload)) = receive(&mut stream) {
            match kind {
                SETTINGS if flags & 1 == 0 => {
                    let mut settings = payload.chunks(6);
                    if let Some(it) = settings.find(|it| it[..2] == [0, 4]) {
                        initial = number(&it[2..]);
                    }
                    stream.write_all(&frame(SETTINGS, 1, 0, b"")).unwrap();
                }
                WINDOW_UPDATE if id == 0 => whole += number(&payload),
                WINDOW_UPDATE => *windows.entry(id).or_insert(0) += number(&payload),
                HEADERS => {
                    windows.insert(id, initial);
                    let head = frame(HEADERS, END_HEADERS, id, b"\x88");
                    stream.write_all(&head).unwrap();
                }
                _ => {}
            }
            for (id, window) in &mut windows {
                while *window > 0 && whole > 0 {
                    let len = 16_384.min(*window).min(whole);
                    let data = frame(DATA, 0, *id, &vec![b'x'; len as usize]);
                    if stream.write_all(&data).is_err() {
                        return;
                    }
                    (*window, whole) = (*window - len, whole - len);
                }
            }
        }
    })
}

fn a_client_that_does_not_read_holds_little(engine: &str) {
    for (protocol, address) in [("http1", endless()), ("http2", endless_streams())] {
        let folder = Folder::new();
        let lb = start(engine, &folder, protocol, &[address], "");
        let before = lb.resident_bytes();
        // Large windows and nothing is read; windows of nothing; and of a byte.
        let mut clients = Vec::new();
        for window in [i32::MAX as u32, 0, 1] {
            for _ in 0..4 {
                let mut stream = open(lb.listener("web"));
                let setting = [&[0, 4][..], &window.to_be_bytes()].concat();
                stream.write_all(&frame(SETTINGS, 0, 0, &setting)).unwrap();
                let more = frame(WINDOW_UPDATE, 0, 0, b"\x3f\xff\xff\xff");
                stream.write_all(&more).unwrap();
                for nth in 0..20 {
                    let request = frame(HEADERS, END_STREAM | END_HEADERS, 2 * nth + 1, GET);
                    stream.write_all(&request).unwrap();
                }
                clients.push(stream);
            }
        }
        wait_until("all to be served", || {
            lb.metric("lb_exchanges_active{listener=\"web\"}") == 240.0
        });
        thread::sleep(Duration::from_millis(500));
        let held = lb.resident_bytes().saturating_sub(before);
        // The kernel fills up to 32 buffers of a socket before it can be told to stop.
        let each = if engine == "uring" { 640 } else { 256 };
        assert!(
            held < (240 * each) << 10,
            "{} MiB are held of {protocol}",
            held >> 20
        );
        drop(clients);
        wait_until("all to be forgotten", || {
            lb.metric("lb_exchanges_active{listener=\"web\"}") == 0.0
        });
    }
}

fn a_backend_that_does_not_read_stops_uploads(engine: &str) {
    // Reads the heads and no more.
    let old = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let new = backend(|mut stream, _| {
        skip_preface(&mut stream);
        let nothing = frame(SETTINGS, 0, 0, b"\0\x04\0\0\0\0");
        stream.write_all(&nothing).unwrap();
        while receive(&mut stream).is_some() {}
    });
    for (protocol, address) in [("http1", old.local_addr().unwrap()), ("http2", new)] {
        let folder = Folder::new();
        let lb = start(engine, &folder, protocol, &[address], "");
        let before = lb.resident_bytes();
        let taken: Vec<_> = (0..8)
            .map(|nth| upload(lb.listener("web"), nth % 2 == 0))
            .collect();
        let all = || {
            taken
                .iter()
                .map(|it| it.0.load(Ordering::Relaxed))
                .sum::<u64>()
        };
        // As long as anything moves.
        let mut last = 0;
        wait_until("uploads to stop", || {
            thread::sleep(Duration::from_millis(300));
            std::mem::replace(&mut last, all()) == all() && last > 0
        });
        let held = lb.resident_bytes().saturating_sub(before);
        assert!(held < 32 << 20, "{} MiB are held of {protocol}", held >> 20);
        // What sockets of the kernel hold, too: nobody has sent a quarter of all.
        assert!(
            all() < 8 * UPLOAD / 4,
            "{} bytes are taken for {protocol}",
            all()
        );
        for (_, stream) in &taken {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

const UPLOAD: u64 = 256 << 20;

/// Uploads on a thread, by HTTP/1.1 or HTTP/2 as windows allow: bytes taken, and the connection.
fn upload(address: SocketAddr, is_http2: bool) -> (Arc<AtomicU64>, TcpStream) {
    let taken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&taken);
    let mut stream = match is_http2 {
        true => open(address),
        false => TcpStream::connect(address).unwrap(),
    };
    let connection = stream.try_clone().unwrap();
    let head = match is_http2 {
        true => frame(HEADERS, END_HEADERS, 1, POST),
        false => format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {UPLOAD}\r\n\r\n").into(),
    };
    stream.write_all(&head).unwrap();
    stream.set_write_timeout(None).unwrap();
    thread::spawn(move || {
        let piece = vec![b'x'; 16_384];
        let mut window = 65_535_i64;
        while count.load(Ordering::Relaxed) < UPLOAD {
            // Heeds the window of the connection, which here is never smaller than the stream's.
            while is_http2 && window < 16_384 {
                match receive(&mut stream) {
                    Some((WINDOW_UPDATE, _, 1, payload)) => {
                        let more = u32::from_be_bytes(payload.try_into().unwrap());
                        window += i64::from(more);
                    }
                    Some((SETTINGS, 0, _, payload)) => {
                        let at = payload.chunks(6).find(|it| it[..2] == [0, 4]).unwrap();
                        let initial = u32::from_be_bytes(at[2..].try_into().unwrap());
                        window += i64::from(initial) - 65_535;
                    }
                    Some(_) => {}
                    None => return,
                }
            }
            let data = match is_http2 {
                true => frame(DATA, 0, 1, &piece),
                false => piece.clone(),
            };
            if stream.write_all(&data).is_err() {
                return;
            }
            window -= 16_384;
            count.fetch_add(16_384, Ordering::Relaxed);
        }
    });
    (taken, connection)
}

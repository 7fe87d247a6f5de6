//! How bodies end in frames: the last data says so wherever the end is known with it, in either
//! direction, by frames that are looked at one by one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::harness::{DEADLINE, Folder, Lb, on_both_engines};
use crate::http2_frames::{
    DATA, END_HEADERS, END_STREAM, GET, HEADERS, POST, SETTINGS, frame, open, receive,
};

on_both_engines!(
    a_body_in_chunks_ends_with_its_last_data,
    a_body_of_frames_ends_with_its_last_data,
);

fn start(engine: &str, folder: &Folder, protocol: &str, backend: SocketAddr) -> Lb {
    let config = format!(
        "listeners: [{{name: web, address: '127.0.0.1:0', http: {{cluster: web}}}}]\n\
         clusters: {{web: {{protocol: {protocol}, backends: ['{backend}']}}}}\n"
    );
    Lb::start(engine, &["--config", &folder.write("lb.yaml", &config)])
}

/// Serves each connection on a thread.
fn backend(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = serve.clone();
            let stream = stream.unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// The frames of stream 1 up to its end: kind, whether it ends the stream, payload of DATA.
fn frames(stream: &mut TcpStream) -> Vec<(u8, bool, String)> {
    let mut seen = Vec::new();
    loop {
        let (kind, flags, id, payload) = receive(stream).expect("a whole message");
        if id != 1 || ![HEADERS, DATA].contains(&kind) {
            continue;
        }
        let ends = flags & END_STREAM != 0;
        let text = String::from_utf8_lossy(&payload).into_owned();
        seen.push((kind, ends, if kind == DATA { text } else { String::new() }));
        if ends {
            return seen;
        }
    }
}

fn data(text: &str, ends: bool) -> (u8, bool, String) {
    (DATA, ends, text.to_owned())
}

fn head(ends: bool) -> (u8, bool, String) {
    (HEADERS, ends, String::new())
}

fn a_body_in_chunks_ends_with_its_last_data(engine: &str) {
    let folder = Folder::new();
    let chunks: [(&str, Vec<_>); 3] = [
        (
            "4\r\nlast\r\n0\r\n\r\n",
            vec![head(false), data("last", true)],
        ),
        (
            "5\r\nfirst\r\n4\r\nlast\r\n0\r\n\r\n",
            vec![head(false), data("first", false), data("last", true)],
        ),
        (
            "4\r\nlast\r\n0\r\nx-a: b\r\n\r\n",
            vec![head(false), data("last", false), head(true)],
        ),
    ];
    for (body, expected) in chunks {
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let old = backend(move |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(answer.as_bytes()).unwrap();
            let _ = stream.read(&mut [0]);
        });
        let lb = start(engine, &folder, "http1", old);
        let mut client = open(lb.listener("web"));
        let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, GET);
        client.write_all(&request).unwrap();
        assert_eq!(frames(&mut client), expected, "{body:?}");
    }
}

fn a_body_of_frames_ends_with_its_last_data(engine: &str) {
    let folder = Folder::new();
    // It sends back what it has got, frame by frame.
    let new = backend(|mut stream| {
        stream.read_exact(&mut [0; 24]).unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, b"")).unwrap();
        let got = frames(&mut stream);
        let mut out = frame(HEADERS, END_HEADERS, 1, b"\x88");
        for (_, ends, text) in got.iter().filter(|(kind, ..)| *kind == DATA) {
            let flags = if *ends { END_STREAM } else { 0 };
            out.extend(frame(DATA, flags, 1, text.as_bytes()));
        }
        stream.write_all(&out).unwrap();
        while receive(&mut stream).is_some() {}
    });
    let lb = start(engine, &folder, "http2", new);
    let mut client = open(lb.listener("web"));
    let request = [
        frame(HEADERS, END_HEADERS, 1, POST),
        frame(DATA, END_STREAM, 1, b"all of it"),
    ];
    client.write_all(&request.concat()).unwrap();
    let expected = [head(false), data("all of it", true)];
    assert_eq!(frames(&mut client), expected);
}

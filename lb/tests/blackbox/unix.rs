//! Unix sockets: to listen on, and to reach backends by.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread;

use rustix::process::Signal;

use crate::client::get;
use crate::harness::{DEADLINE, Folder, Lb, on_both_engines, output, wait_until};
use crate::origin::HttpOrigin;

on_both_engines!(
    sessions_between_unix_sockets,
    http_over_unix_sockets_both_ways,
    a_backend_that_is_gone_is_passed_over,
    backends_are_told_by_the_proxy_protocol,
    a_header_is_believed_from_who_may_connect,
    the_file_has_its_mode_and_goes_with_the_listener,
    abstract_names,
    many_bytes_arrive_unchanged,
);

/// A backend that answers `name:` and each line that it is sent.
fn echo(folder: &Folder, name: &'static str) -> String {
    let path = folder.path(name);
    let listener = UnixListener::bind(&path).unwrap();
    serve(listener, name);
    format!("unix:{path}")
}

fn serve(listener: UnixListener, name: &'static str) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                for line in lines.map_while(Result::ok) {
                    let _ = stream.write_all(format!("{name}:{line}\n").as_bytes());
                }
            });
        }
    });
}

fn connect(path: &str) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn ask(path: &str, line: &str) -> String {
    ask_by(connect(path), line)
}

fn ask_by(mut stream: UnixStream, line: &str) -> String {
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer.trim_end().to_owned()
}

fn sessions_between_unix_sockets(engine: &str) {
    let folder = Folder::new();
    let (a, b) = (echo(&folder, "a"), echo(&folder, "b"));
    let front = folder.path("front");
    let lb = Lb::start(engine, &["--tcp", &format!("db@unix:{front}={a},{b}")]);
    let mut answers: Vec<_> = (0..4).map(|_| ask(&front, "x")).collect();
    answers.sort();
    assert_eq!(answers, ["a:x", "a:x", "b:x", "b:x"]);
    // A half-close is passed on as one.
    let mut stream = connect(&front);
    stream.write_all(b"1\n2\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert_eq!(all.lines().count(), 2);
    let shown = &lb.status()["clusters"][0]["backends"];
    assert!(shown.to_string().contains(&a), "{shown}");
    let listening = lb.event("listening")["address"].clone();
    assert_eq!(listening, format!("unix:{front}"));
}

fn http_over_unix_sockets_both_ways(engine: &str) {
    let folder = Folder::new();
    let origin = HttpOrigin::start("origin");
    let middle = folder.path("middle");
    let first = format!("first@127.0.0.1:0=unix:{middle}");
    let second = format!("second@unix:{middle}={}", origin.address);
    let lb = Lb::start(engine, &["--http", &first, "--http", &second]);
    for _ in 0..3 {
        let response = get(lb.listener("first"), "/");
        assert_eq!((response.status, &*response.body), (200, "origin"));
    }
}

fn a_backend_that_is_gone_is_passed_over(engine: &str) {
    let folder = Folder::new();
    let there = echo(&folder, "there");
    let stale = folder.path("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let front = folder.path("front");
    let never = folder.path("never");
    let tcp = format!("db@unix:{front}=unix:{stale},unix:{never},{there}");
    let _lb = Lb::start(engine, &["--tcp", &tcp]);
    for _ in 0..6 {
        assert_eq!(ask(&front, "x"), "there:x");
    }
}

/// What a backend gets when a client of `front` connects and ends.
fn received(engine: &str, version: &str, front: &str, folder: &Folder) -> Vec<u8> {
    let path = folder.path(version);
    let backend = UnixListener::bind(&path).unwrap();
    let tcp = format!("db@unix:{front}=unix:{path}");
    let _lb = Lb::start(engine, &["--tcp", &tcp, "--proxy-out", version]);
    drop(connect(front));
    let mut bytes = Vec::new();
    backend.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
    bytes
}

fn backends_are_told_by_the_proxy_protocol(engine: &str) {
    let folder = Folder::new();
    let front = folder.path("front");
    let v1 = received(engine, "v1", &folder.path("other"), &folder);
    assert_eq!(v1, b"PROXY UNKNOWN\r\n");
    let v2 = received(engine, "v2", &front, &folder);
    let block = &v2[12..];
    assert_eq!(block[..4], [0x21, 0x31, 0, 216], "AF_UNIX, STREAM");
    assert_eq!(block[4..112], [0; 108], "a client without a name");
    let told: Vec<u8> = block[112..]
        .iter()
        .copied()
        .take_while(|it| *it != 0)
        .collect();
    assert_eq!(String::from_utf8(told).unwrap(), front);
}

fn a_header_is_believed_from_who_may_connect(engine: &str) {
    let folder = Folder::new();
    let (front, back) = (folder.path("front"), echo(&folder, "a"));
    let tcp = format!("db@unix:{front}={back}");
    let flags = [
        "--tcp",
        &tcp,
        "--proxy-in",
        "10.0.0.0/8",
        "--proxy-out",
        "v1",
    ];
    let _lb = Lb::start(engine, &flags);
    let mut stream = connect(&front);
    let header = "PROXY TCP4 192.0.2.7 192.0.2.1 40000 80";
    stream
        .write_all(format!("{header}\r\n").as_bytes())
        .unwrap();
    assert_eq!(ask_by(stream, "x"), format!("a:{header}"));
}

fn the_file_has_its_mode_and_goes_with_the_listener(engine: &str) {
    let folder = Folder::new();
    let back = echo(&folder, "a");
    let front = folder.path("front");
    let yaml = |socket: &str| {
        format!(
            "listeners: [{{name: db, address: 'unix:{front}', socket: {{{socket}}}, tcp: {{cluster: \
             c}}}}]\nclusters: {{c: {{backends: ['{back}']}}}}\n"
        )
    };
    drop(UnixListener::bind(&front).unwrap()); // what a crash leaves
    let config = folder.write("lb.yaml", &yaml("mode: 600"));
    let lb = Lb::start(engine, &["--config", &config]);
    let mode = || fs::metadata(&front).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    assert_eq!(ask(&front, "x"), "a:x");
    let before = fs::metadata(&front).unwrap().ino();
    folder.replace("lb.yaml", &yaml("mode: 660"));
    lb.wait_for_generation(2);
    assert_eq!(mode(), 0o660);
    assert_ne!(fs::metadata(&front).unwrap().ino(), before);
    assert_eq!(ask(&front, "x"), "a:x");
    let second = output(&["--tcp", &format!("unix:{front}={back}"), "--admin", "off"]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another process listens there"), "{said}");
    lb.signal(Signal::TERM);
    let (status, _) = lb.wait();
    assert!(status.success());
    assert!(!fs::exists(&front).unwrap(), "removed at the end");
}

fn abstract_names(engine: &str) {
    let name = |end: &str| format!("lb-test-{}-{engine}-{end}", std::process::id());
    let address = |name: &str| SocketAddr::from_abstract_name(name).unwrap();
    let (front, back) = (name("front"), name("back"));
    serve(UnixListener::bind_addr(&address(&back)).unwrap(), "a");
    let _lb = Lb::start(engine, &["--tcp", &format!("unix:@{front}=unix:@{back}")]);
    let stream = UnixStream::connect_addr(&address(&front)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(ask_by(stream, "x"), "a:x");
}

/// By copying first, then by splices.
fn many_bytes_arrive_unchanged(engine: &str) {
    let folder = Folder::new();
    let (front, back) = (folder.path("front"), folder.path("back"));
    let backend = UnixListener::bind(&back).unwrap();
    let lb = Lb::start(engine, &["--tcp", &format!("db@unix:{front}=unix:{back}")]);
    let byte = |at: u32| (at.wrapping_mul(7919) >> 8) as u8;
    let bytes: Vec<u8> = (0..16 << 20).map(byte).collect();
    let sent = bytes.clone();
    let mut client = connect(&front);
    let sender = thread::spawn(move || client.write_all(&sent));
    let mut received = Vec::new();
    let (mut stream, _) = backend.accept().unwrap();
    stream.read_to_end(&mut received).unwrap();
    sender.join().unwrap().unwrap();
    assert!(received == bytes);
    drop(stream);
    wait_until("the session to end", || {
        lb.metric("lb_client_connections_active{listener=\"db\"}") == 0.0
    });
}

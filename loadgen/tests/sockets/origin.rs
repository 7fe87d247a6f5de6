//! Our origins, spoken to by hand.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use lb_core::rt::{EngineKind, now_precise};
use loadgen::origin::{Config, Delay, Origin};
use loadgen::tcp::{TcpMode, pattern};

use crate::support::{ANY, PATIENCE, on_each_engine};

fn start(engine: EngineKind, change: impl FnOnce(&mut Config)) -> Origin {
    let mut config = Config {
        http: vec![ANY],
        tcp: vec![ANY],
        body: 4,
        name: Some("blue".into()),
        ..Config::new(engine)
    };
    change(&mut config);
    Origin::start(&config).unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What comes back for `request` up to the end of the connection, whose our side is ended.
fn answer(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = connect(address);
    stream.write_all(request).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

const HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\nX-Origin: blue\r\n";

#[test]
fn each_pipelined_request_is_answered_in_order() {
    let keep = format!("{HEAD}\r\nblue");
    let close = format!("{HEAD}Connection: close\r\n\r\nblue");
    on_each_engine(|engine| {
        let origin = start(engine, |_| {});
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(
            answer(origin.http()[0], get.repeat(40).as_bytes()),
            keep.repeat(40)
        );
        let mixed = format!(
            "{get}POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc\
             HEAD / HTTP/1.1\r\n\r\n\
             PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
             GET / HTTP/1.1\r\nConnection: close\r\n\r\n{get}"
        );
        let expected = format!("{keep}{keep}{HEAD}\r\n{keep}{close}");
        assert_eq!(answer(origin.http()[0], mixed.as_bytes()), expected);
    });
}

#[test]
fn a_request_may_come_byte_by_byte() {
    on_each_engine(|engine| {
        let origin = start(engine, |_| {});
        let mut stream = connect(origin.http()[0]);
        stream.set_nodelay(true).unwrap();
        for byte in b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab" {
            stream.write_all(&[*byte]).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, format!("{HEAD}\r\nblue"));
    });
}

#[test]
fn a_client_that_waits_for_continue_gets_it() {
    on_each_engine(|engine| {
        let origin = start(engine, |_| {});
        let mut stream = connect(origin.http()[0]);
        stream
            .write_all(b"PUT / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
            .unwrap();
        let mut interim = [0; 25];
        stream.read_exact(&mut interim).unwrap();
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"ab").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, format!("{HEAD}\r\nblue"));
    });
}

#[test]
fn what_is_no_http_is_refused_after_the_answers_owed() {
    on_each_engine(|engine| {
        let origin = start(engine, |_| {});
        let text = answer(
            origin.http()[0],
            b"GET / HTTP/1.1\r\n\r\nnonsense \x01\r\n\r\n",
        );
        assert!(
            text.starts_with(&format!("{HEAD}\r\nblueHTTP/1.1 400 ")),
            "{text}"
        );
    });
}

#[test]
fn an_echo_is_everything_that_was_sent_and_names_its_origin() {
    on_each_engine(|engine| {
        let origin = start(engine, |_| {});
        assert_eq!(answer(origin.tcp()[0], b"WHO\nhello"), "blue\nhello");
        assert_eq!(answer(origin.tcp()[0], b"hello WHO\n"), "hello WHO\n");
        let long = "0123456789".repeat(20_000);
        let (address, sent) = (origin.tcp()[0], long.clone());
        let mut stream = connect(address);
        let mut writer = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            writer.write_all(sent.as_bytes()).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = String::new();
        stream.read_to_string(&mut back).unwrap();
        writing.join().unwrap();
        assert!(back == long, "{} bytes of {}", back.len(), long.len());
    });
}

#[test]
fn each_line_is_answered_with_bulk_data() {
    on_each_engine(|engine| {
        let origin = start(engine, |config| config.tcp_mode = TcpMode::Stream(1000));
        let mut stream = connect(origin.tcp()[0]);
        stream.write_all(b"WHO\nGO\nGO\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let bulk = &pattern()[..1000];
        assert!(
            answer == [b"blue\n", bulk, bulk].concat(),
            "{} bytes",
            answer.len()
        );
    });
}

#[test]
fn a_delay_is_kept() {
    on_each_engine(|engine| {
        let delay = Duration::from_millis(30);
        let origin = start(engine, |config| config.service.delay = Delay::Fixed(delay));
        let before = now_precise();
        let get = "GET / HTTP/1.1\r\n\r\n".repeat(2);
        assert_eq!(
            answer(origin.http()[0], get.as_bytes()),
            format!("{HEAD}\r\nblue").repeat(2)
        );
        assert!(now_precise().saturating_duration_since(before) >= 2 * delay);
    });
}

#[test]
fn several_threads_share_the_ports_and_stop_when_dropped() {
    on_each_engine(|engine| {
        let origin = start(engine, |config| config.threads = 3);
        let address = origin.http()[0];
        for _ in 0..20 {
            assert!(answer(address, b"GET / HTTP/1.1\r\n\r\n").ends_with("blue"));
        }
        let mut idle = connect(address);
        idle.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        idle.read_exact(&mut [0; 4]).unwrap();
        drop(origin);
        if let Err(error) = idle.read_to_end(&mut Vec::new()) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    });
}

#[test]
fn a_reset_is_one_and_no_answer() {
    on_each_engine(|engine| {
        let origin = start(engine, |config| config.service.reset_rate = 1.0);
        for (address, request) in [
            (origin.http()[0], &b"GET / HTTP/1.1\r\n\r\n"[..]),
            (origin.tcp()[0], b"hello"),
        ] {
            let mut stream = connect(address);
            stream.write_all(request).unwrap();
            let error = stream.read(&mut [0; 64]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    });
}

#[test]
fn an_origin_that_drains_ends_connections_with_their_answers() {
    on_each_engine(|engine| {
        let origin = start(engine, |config| {
            config.drain = PATIENCE;
            config.service.delay = Delay::Fixed(Duration::from_millis(300));
        });
        let (http, tcp) = (origin.http()[0], origin.tcp()[0]);
        let get = b"GET / HTTP/1.1\r\n\r\n";
        let [mut idle, mut busy] = [connect(http), connect(http)];
        let mut echo = connect(tcp);
        idle.write_all(get).unwrap();
        idle.read_exact(&mut vec![0; HEAD.len() + 6]).unwrap();
        busy.write_all(get).unwrap();
        echo.write_all(b"hello").unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let stopping = std::thread::spawn(move || drop(origin));
        let refused = (0..).find(|_| {
            std::thread::sleep(Duration::from_millis(5));
            TcpStream::connect(http).is_err()
        });
        assert!(refused.is_some(), "no more are accepted");
        assert!(!stopping.is_finished(), "it waits for those that are open");
        idle.write_all(get).unwrap();
        let closing = format!("{HEAD}Connection: close\r\n\r\nblue");
        let mut last = String::new();
        idle.read_to_string(&mut last).unwrap();
        assert_eq!(last, closing, "what is idle is served once more");
        let mut last = String::new();
        busy.read_to_string(&mut last).unwrap();
        assert!(last.ends_with("\r\n\r\nblue"), "{last}");
        echo.read_exact(&mut [0; 5]).unwrap();
        drop(echo);
        stopping.join().unwrap();
    });
}

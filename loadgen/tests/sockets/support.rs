//! Engines, scripted servers and short runs.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use lb_core::rt::EngineKind;
use lb_core::rt::probe::{EngineChoice, probe};
use loadgen::gate::Gate;
use loadgen::run::{self, Config, Summary};

/// Long enough for a machine that is busy with everything else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Any free port of this machine.
pub(crate) const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Runs `test` on each engine; says which one this machine does not have.
pub(crate) fn on_each_engine(test: impl Fn(EngineKind)) {
    test(EngineKind::Epoll);
    match probe(EngineChoice::Only(EngineKind::Uring)) {
        Ok(_) => test(EngineKind::Uring),
        Err(reason) => eprintln!("skipped on uring: {reason}"),
    }
}

/// Runs `config` to its end.
pub(crate) fn run(config: &Config) -> Summary {
    run::run(config, &mut (), &Gate::new()).unwrap()
}

/// A quarter of a second of closed loop over two connections.
pub(crate) fn short(url: &str, engine: EngineKind) -> Config {
    Config {
        connections: 2,
        duration: Duration::from_millis(250),
        timeout: PATIENCE,
        ..Config::new(url.parse().unwrap(), engine)
    }
}

/// A server that does `script` with each connection, in a thread of its own. It lives as long as
/// the test process.
pub(crate) fn serve(script: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(ANY).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, script) = (stream.unwrap(), script.clone());
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || script(stream));
        }
    });
    address
}

/// A server that sends `answer` for each request head that it receives.
pub(crate) fn serve_http(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer = answer.into();
    serve(move |mut stream| {
        while read_head(&mut stream).is_some() {
            if stream.write_all(&answer).is_err() {
                break;
            }
        }
    })
}

/// The next head on the connection; `None` at its end.
pub(crate) fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    Some(String::from_utf8(head).unwrap())
}

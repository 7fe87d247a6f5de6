//! Origins to balance between: each answers with its name.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// An HTTP origin: `name` to every request. A path that begins with `/wait` is answered only
/// when [`HttpOrigin::release`] is called.
pub(crate) struct HttpOrigin {
    pub(crate) address: SocketAddr,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    open: bool,
    waiting: usize,
}

impl HttpOrigin {
    pub(crate) fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Arc::new(Gate::default());
        let gate_too = Arc::clone(&gate);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let gate = Arc::clone(&gate_too);
                thread::spawn(move || answer(stream.unwrap(), name, &gate));
            }
        });
        Self { address, gate }
    }

    /// Waits until a request waits for its answer.
    pub(crate) fn wait_for_waiting(&self) {
        let state = self.gate.state.lock().unwrap();
        drop(
            self.gate
                .changed
                .wait_while(state, |state| state.waiting == 0)
                .unwrap(),
        );
    }

    /// Answers the requests that wait, and all later ones at once.
    pub(crate) fn release(&self) {
        self.gate.state.lock().unwrap().open = true;
        self.gate.changed.notify_all();
    }
}

fn answer(stream: TcpStream, name: &str, gate: &Gate) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut request_line = String::new();
        if reader.read_line(&mut request_line).unwrap_or(0) == 0 {
            return;
        }
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
        }
        if request_line.contains(" /wait") {
            let mut state = gate.state.lock().unwrap();
            state.waiting += 1;
            gate.changed.notify_all();
            drop(gate.changed.wait_while(state, |state| !state.open).unwrap());
        }
        let length = name.len();
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}");
        if reader.get_mut().write_all(response.as_bytes()).is_err() {
            return;
        }
    }
}

/// An HTTP origin that answers with the head of the request.
pub(crate) fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || echo_heads(BufReader::new(stream.unwrap())));
        }
    });
    address
}

fn echo_heads(mut reader: BufReader<TcpStream>) {
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let length = head.len();
        let response =
            format!("HTTP/1.1 200 OK\r\nX-Origin: echo\r\nContent-Length: {length}\r\n\r\n{head}");
        if reader.get_mut().write_all(response.as_bytes()).is_err() {
            return;
        }
    }
}

/// A TCP origin: greets with its name and a line feed, then sends back what it gets.
pub(crate) fn tcp(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut buffer = [0; 4096];
                if writeln!(stream, "{name}").is_err() {
                    return;
                }
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// An address of this machine where nobody listens.
pub(crate) fn nowhere() -> SocketAddr {
    // Bound and not listening: connections are refused, and nobody else gets the port.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// A TCP session through `lb`, greeted.
pub(crate) struct Session {
    stream: BufReader<TcpStream>,
    pub(crate) origin: String,
}

impl Session {
    pub(crate) fn open(address: SocketAddr) -> Self {
        Self::try_open(address).expect("a session")
    }

    pub(crate) fn try_open(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream
            .set_read_timeout(Some(crate::harness::DEADLINE))
            .unwrap();
        let mut stream = BufReader::new(stream);
        let mut origin = String::new();
        stream.read_line(&mut origin).ok()?;
        let origin = origin.strip_suffix('\n')?.to_owned();
        Some(Self { stream, origin })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.stream.get_ref().local_addr().unwrap()
    }

    /// Whether a line comes back.
    pub(crate) fn echoes(&mut self) -> bool {
        let mut line = String::new();
        writeln!(self.stream.get_mut(), "hello").is_ok()
            && self.stream.read_line(&mut line).is_ok()
            && line == "hello\n"
    }
}

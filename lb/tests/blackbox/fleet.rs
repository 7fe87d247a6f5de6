//! Origins that can be told to misbehave, to die and to come back, each with its name as answer.
//!
//! They speak HTTP; through a TCP listener an HTTP connection is a session like any other.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::harness::wait_until;

/// Some origins, named `0`, `1` and so on.
pub(crate) struct Fleet {
    pub(crate) origins: Vec<Origin>,
}

impl Fleet {
    pub(crate) fn start(count: usize) -> Self {
        Self {
            origins: (0..count)
                .map(|name| Origin::start(&name.to_string()))
                .collect(),
        }
    }

    /// The addresses as a YAML list, by weight where `weight` gives one.
    pub(crate) fn yaml(&self, weight: impl Fn(usize) -> u16) -> String {
        let backends = self.origins.iter().enumerate();
        let backends = backends.map(|(at, it)| format!("'{}/{}'", it.address, weight(at)));
        format!("[{}]", backends.collect::<Vec<_>>().join(", "))
    }

    /// The requests answered by each, health checks not counted.
    pub(crate) fn served(&self) -> Vec<u64> {
        self.origins.iter().map(Origin::served).collect()
    }

    /// The requests to `/hold…` that wait at each.
    pub(crate) fn holding(&self) -> Vec<usize> {
        self.origins.iter().map(Origin::holding).collect()
    }

    /// Waits until so many requests wait.
    pub(crate) fn wait_for_held(&self, count: usize) {
        // More often than `wait_until` looks, for there are many of them.
        for _ in 0..5000 {
            if self.holding().iter().sum::<usize>() == count {
                return;
            }
            thread::sleep(Duration::from_micros(200));
        }
        wait_until(&format!("{count} held requests"), || {
            self.holding().iter().sum::<usize>() == count
        });
    }

    /// Answers the requests that wait.
    pub(crate) fn release(&self) {
        self.origins.iter().for_each(Origin::release);
    }
}

/// One origin.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    name: String,
    alive: AtomicBool,
    /// `/health` is answered with 503.
    sick: AtomicBool,
    /// Connections are reset once a request has come.
    resets: AtomicBool,
    status: AtomicU16,
    served: AtomicU64,
    connections: Mutex<(u64, HashMap<u64, TcpStream>)>,
    gate: Mutex<Gate>,
    opened: Condvar,
}

#[derive(Default)]
struct Gate {
    holding: usize,
    /// Counts the times that it was opened.
    openings: u64,
}

impl Origin {
    /// On an address of its own, so that its port is still free when it comes back.
    pub(crate) fn start(name: &str) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let process = std::process::id();
        let address = Ipv4Addr::new(
            127,
            64 + (process % 128) as u8,
            (process / 128) as u8,
            NEXT.fetch_add(1, Ordering::Relaxed),
        );
        let listener = TcpListener::bind((address, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            alive: AtomicBool::new(true),
            sick: AtomicBool::new(false),
            resets: AtomicBool::new(false),
            status: AtomicU16::new(200),
            served: AtomicU64::new(0),
            connections: Mutex::default(),
            gate: Mutex::default(),
            opened: Condvar::new(),
        });
        let accepting = Some(Shared::accept(&shared, listener));
        Self {
            address,
            shared,
            accepting,
        }
    }

    /// As the end of a process: nobody listens, and all connections end.
    pub(crate) fn kill(&mut self) {
        self.shared.alive.store(false, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes it up
        self.accepting.take().unwrap().join().unwrap();
        for stream in self.shared.connections.lock().unwrap().1.values() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Listens again where it was.
    pub(crate) fn revive(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        self.shared.alive.store(true, Ordering::SeqCst);
        self.accepting = Some(Shared::accept(&self.shared, listener));
    }

    /// Whether `/health` is answered with 503.
    pub(crate) fn set_sick(&self, sick: bool) {
        self.shared.sick.store(sick, Ordering::SeqCst);
    }

    /// Whether a request leads to a reset of its connection.
    pub(crate) fn set_resets(&self, resets: bool) {
        self.shared.resets.store(resets, Ordering::SeqCst);
    }

    /// The status of its answers.
    pub(crate) fn set_status(&self, status: u16) {
        self.shared.status.store(status, Ordering::SeqCst);
    }

    pub(crate) fn served(&self) -> u64 {
        self.shared.served.load(Ordering::SeqCst)
    }

    fn holding(&self) -> usize {
        self.shared.gate.lock().unwrap().holding
    }

    fn release(&self) {
        self.shared.gate.lock().unwrap().openings += 1;
        self.shared.opened.notify_all();
    }
}

impl Shared {
    fn accept(shared: &Arc<Self>, listener: TcpListener) -> JoinHandle<()> {
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if !shared.alive.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.serve(stream));
            }
        })
    }

    fn serve(&self, stream: TcpStream) {
        let Ok(handle) = stream.try_clone() else {
            return;
        };
        let id = {
            let mut connections = self.connections.lock().unwrap();
            connections.0 += 1;
            let id = connections.0;
            connections.1.insert(id, handle);
            id
        };
        let mut stream = BufReader::new(stream);
        loop {
            let over = self.exchange(&mut stream).is_none();
            if over || !self.alive.load(Ordering::SeqCst) {
                break;
            }
        }
        self.connections.lock().unwrap().1.remove(&id);
    }

    /// `None` when the connection is over.
    fn exchange(&self, stream: &mut BufReader<TcpStream>) -> Option<()> {
        let mut request_line = String::new();
        stream
            .read_line(&mut request_line)
            .ok()
            .filter(|&count| count > 0)?;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            stream
                .read_line(&mut line)
                .ok()
                .filter(|&count| count > 0)?;
        }
        let path = request_line.split(' ').nth(1).unwrap_or_default();
        let mut status = 200;
        if path.starts_with("/health") {
            if self.sick.load(Ordering::SeqCst) {
                status = 503;
            }
        } else {
            self.served.fetch_add(1, Ordering::SeqCst);
            if self.resets.load(Ordering::SeqCst) {
                let linger = Some(Duration::ZERO);
                let _ = socket2::SockRef::from(stream.get_ref()).set_linger(linger);
                return None;
            }
            if path.starts_with("/hold") {
                self.hold();
            }
            status = self.status.load(Ordering::SeqCst);
        }
        let (name, length) = (&self.name, self.name.len());
        let response = format!("HTTP/1.1 {status} Said\r\nContent-Length: {length}\r\n\r\n{name}");
        stream.get_mut().write_all(response.as_bytes()).ok()
    }

    fn hold(&self) {
        let mut gate = self.gate.lock().unwrap();
        gate.holding += 1;
        let before = gate.openings;
        let mut gate = self
            .opened
            .wait_while(gate, |gate| gate.openings == before)
            .unwrap();
        gate.holding -= 1;
    }
}

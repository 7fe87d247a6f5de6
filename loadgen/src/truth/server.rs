//! A server that plays a script, to some microseconds.
//!
//! It speaks as much HTTP/1.1 as load generators need. A thread for each connection reads, and one
//! thread writes every answer when it is due, so that hundreds due at once need no hundred threads
//! to wake.
//! Invariant: the server shares nothing with the generator but the machine.
//! Read next: `script.rs`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use lb_core::rt::{Instant, now_precise};

use super::script::{Played, Script};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const HEAD_END: &[u8] = b"\r\n\r\n";
const HEAD_BYTES_MAX: usize = 8192;

/// How long before an answer is due its writer stops sleeping and looks at the clock instead:
/// more than the kernel wakes it late.
const AWAKE_BEFORE: Duration = Duration::from_micros(500);

/// Starts a server, whose threads end with the program.
///
/// # Errors
/// When it cannot listen.
pub(super) fn start(script: &'static Script) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let server = Arc::new(Server {
        state: Mutex::new(State {
            played: Played::new(script),
            began: None,
            due: BinaryHeap::new(),
            answers: 0,
        }),
        earlier: Condvar::new(),
    });
    let writer = Arc::clone(&server);
    thread::spawn(move || writer.answer_all());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let server = Arc::clone(&server);
            thread::spawn(move || server.read_all(stream));
        }
    });
    Ok(address)
}

#[derive(Debug)]
struct Server {
    state: Mutex<State>,
    /// Told when something is due before all that was due so far.
    earlier: Condvar,
}

#[derive(Debug)]
struct State {
    played: Played,
    /// When the first request arrived.
    began: Option<Instant>,
    due: BinaryHeap<Reverse<Due>>,
    /// So many have been due, by which those of one moment keep their order.
    answers: u64,
}

/// An answer to be written.
#[derive(Debug)]
struct Due {
    at: Instant,
    number: u64,
    to: Arc<TcpStream>,
}

impl Server {
    fn read_all(&self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let stream = Arc::new(stream);
        let mut head = Vec::with_capacity(HEAD_BYTES_MAX);
        let mut buffer = [0; HEAD_BYTES_MAX];
        while let Ok(count @ 1..) = (&*stream).read(&mut buffer) {
            let now = now_precise();
            head.extend_from_slice(&buffer[..count]);
            while let Some(end) = head.windows(4).position(|four| four == HEAD_END) {
                head.drain(..end + HEAD_END.len());
                self.arrived(now, &stream);
            }
            if head.len() > HEAD_BYTES_MAX {
                return;
            }
        }
    }

    fn arrived(&self, now: Instant, stream: &Arc<TcpStream>) {
        let mut state = self.lock();
        let began = *state.began.get_or_insert(now);
        // Those who read may overtake each other on their way here.
        let at = began + state.played.answered(now.saturating_duration_since(began));
        state.answers += 1;
        let number = state.answers;
        let to = Arc::clone(stream);
        state.due.push(Reverse(Due { at, number, to }));
        self.earlier.notify_one();
    }

    fn answer_all(&self) {
        let mut state = self.lock();
        loop {
            let now = now_precise();
            let left = state
                .due
                .peek()
                .map(|Reverse(due)| due.at.saturating_duration_since(now));
            match left {
                None => state = self.wait(state, Duration::from_secs(1)),
                Some(Duration::ZERO) => {
                    if let Some(Reverse(due)) = state.due.pop() {
                        drop(state);
                        // A client that has gone needs no answer.
                        let _ = (&*due.to).write_all(ANSWER);
                        state = self.lock();
                    }
                }
                Some(left) if left > AWAKE_BEFORE => {
                    state = self.wait(state, left - AWAKE_BEFORE);
                }
                Some(_) => {
                    drop(state);
                    std::hint::spin_loop();
                    state = self.lock();
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        at_most: Duration,
    ) -> MutexGuard<'a, State> {
        let waited = self.earlier.wait_timeout(state, at_most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::SERVICES;
    use super::*;

    #[test]
    fn answers_come_no_sooner_than_the_script_says() {
        let address = start(&SERVICES).unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let mut answer = [0; ANSWER.len()];
        for service in &SERVICES.services[..6] {
            let asked = now_precise();
            // In two pieces, and the next begins with the second.
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").unwrap();
            stream.write_all(b"\r\n").unwrap();
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, ANSWER);
            let took = now_precise().saturating_duration_since(asked);
            assert!(took >= *service, "{took:?}");
        }
    }
}

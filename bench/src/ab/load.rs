//! The load: closed-loop clients and the echo origin, in one thread on one epoll.
//!
//! Invariant: every connection has at most one message under way, and every reply is compared
//! with what was sent; a lost, mixed-up or changed byte fails the round. Clients and origin share
//! a thread so that the load costs no context switches of its own and is lean enough to keep a
//! forwarder on the other core busy. Read next: `report.rs`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::monotonic;

/// Room for the number of the message and of its connection.
pub(super) const SMALLEST_MESSAGE_BYTES: usize = 16;
/// A message must fit into empty socket buffers, so that no write is ever short.
pub(super) const LARGEST_MESSAGE_BYTES: usize = 16 * 1024;

/// A forwarder that answers nothing for so long has lost a message.
const SILENCE_MS: u16 = 5000;
const EVENTS_PER_TURN: usize = 128;

/// Clients and origin.
#[derive(Debug)]
pub(super) struct Load {
    epoll: Epoll,
    listener: TcpListener,
    origin: SocketAddr,
    echoes: Vec<TcpStream>,
    clients: Vec<Client>,
    scratch: Box<[u8]>,
    message_bytes: usize,
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    /// The message under way, in full.
    message: Box<[u8]>,
    number: u64,
    /// Bytes of its echo that have come back.
    echoed: usize,
}

/// Whether a client whose reply is complete sends the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Again,
    Rest,
}

/// Whose socket an event is about; packed into epoll's 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Listener,
    Echo(u32),
    Client(u32),
}

impl Load {
    /// An origin on a free port of loopback, and no clients yet.
    pub(super) fn new(message_bytes: usize) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let origin = listener.local_addr()?;
        watch(&epoll, &listener, Token::Listener)?;
        Ok(Self {
            epoll,
            listener,
            origin,
            echoes: Vec::new(),
            clients: Vec::new(),
            scratch: vec![0; LARGEST_MESSAGE_BYTES].into(),
            message_bytes,
        })
    }

    /// The backend that the forwarder is to use.
    pub(super) fn origin(&self) -> SocketAddr {
        self.origin
    }

    /// Opens `count` more connections and sends the first message on each. It waits for each
    /// echo before it opens the next, so that no accept queue overflows.
    pub(super) fn open(&mut self, forwarder: SocketAddr, count: u32) -> io::Result<()> {
        for _ in 0..count {
            let stream = TcpStream::connect(forwarder)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let index = self.clients.len() as u32;
            watch(&self.epoll, &stream, Token::Client(index))?;
            let message = vec![0; self.message_bytes].into();
            let mut client = Client {
                stream,
                message,
                number: 0,
                echoed: 0,
            };
            client.send_next(index)?;
            self.clients.push(client);
            while self.turn(Then::Rest)? == 0 {}
        }
        Ok(())
    }

    /// One message on each connection, one after the other.
    pub(super) fn echo_once(&mut self) -> io::Result<()> {
        for index in 0..self.clients.len() {
            self.clients[index].send_next(index as u32)?;
            while self.turn(Then::Rest)? == 0 {}
        }
        Ok(())
    }

    /// All connections at once, each in a closed loop, for `duration`; then waits for the last
    /// replies. Returns how many replies came, the last ones included.
    pub(super) fn run_for(&mut self, duration: Duration) -> io::Result<u64> {
        let end = monotonic() + duration;
        for index in 0..self.clients.len() {
            self.clients[index].send_next(index as u32)?;
        }
        let mut replies = 0;
        while monotonic() < end {
            replies += self.turn(Then::Again)?;
        }
        let mut under_way = self.clients.len() as u64;
        while under_way > 0 {
            let last = self.turn(Then::Rest)?;
            replies += last;
            under_way -= last;
        }
        Ok(replies)
    }

    /// Waits for events and serves them. Returns how many replies they completed.
    fn turn(&mut self, then: Then) -> io::Result<u64> {
        let mut events = [EpollEvent::empty(); EVENTS_PER_TURN];
        let count = match self.epoll.wait(&mut events, EpollTimeout::from(SILENCE_MS)) {
            Ok(0) => return Err(io::Error::new(ErrorKind::TimedOut, "no reply for 5 s")),
            Err(Errno::EINTR) => 0, // a profiler came by
            count => count?,
        };
        let mut replies = 0;
        for event in &events[..count] {
            match Token::unpack(event.data()) {
                Token::Listener => self.accept()?,
                Token::Echo(index) => self.echo(index as usize)?,
                Token::Client(index) => replies += u64::from(self.receive(index, then)?),
            }
        }
        Ok(replies)
    }

    fn accept(&mut self) -> io::Result<()> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        watch(&self.epoll, &stream, Token::Echo(self.echoes.len() as u32))?;
        self.echoes.push(stream);
        Ok(())
    }

    fn echo(&mut self, index: usize) -> io::Result<()> {
        let mut stream = &self.echoes[index];
        let count = received(stream.read(&mut self.scratch))?;
        stream.write_all(&self.scratch[..count])
    }

    /// True if the reply is complete now.
    fn receive(&mut self, index: u32, then: Then) -> io::Result<bool> {
        let client = &mut self.clients[index as usize];
        let count = received(client.stream.read(&mut self.scratch))?;
        let expected = client.message.get(client.echoed..client.echoed + count);
        if expected != Some(&self.scratch[..count]) {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "a reply differs from its message",
            ));
        }
        client.echoed += count;
        let complete = client.echoed == client.message.len();
        if complete && then == Then::Again {
            client.send_next(index)?;
        }
        Ok(complete)
    }
}

impl Client {
    /// Sends a message like no other of this run: its number, its connection, then a pattern.
    fn send_next(&mut self, index: u32) -> io::Result<()> {
        self.number += 1;
        self.echoed = 0;
        self.message[..8].copy_from_slice(&self.number.to_le_bytes());
        self.message[8..12].copy_from_slice(&index.to_le_bytes());
        self.message[12..].fill(self.number as u8 ^ index as u8);
        // A message fits into the socket buffer: WouldBlock would be an error indeed.
        self.stream.write_all(&self.message)
    }
}

impl Token {
    fn pack(self) -> u64 {
        match self {
            Self::Listener => 0,
            Self::Echo(index) => 1 << 32 | u64::from(index),
            Self::Client(index) => 2 << 32 | u64::from(index),
        }
    }

    fn unpack(data: u64) -> Self {
        match data >> 32 {
            0 => Self::Listener,
            1 => Self::Echo(data as u32),
            _ => Self::Client(data as u32),
        }
    }
}

fn watch(epoll: &Epoll, socket: &impl AsFd, token: Token) -> io::Result<()> {
    Ok(epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, token.pack()))?)
}

/// No connection ends during a measurement, so the end of a stream is an error.
fn received(read: io::Result<usize>) -> io::Result<usize> {
    match read? {
        0 => Err(io::Error::new(
            ErrorKind::UnexpectedEof,
            "a connection was closed",
        )),
        count => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_packing() {
        for token in [Token::Listener, Token::Echo(0), Token::Client(u32::MAX)] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }

    /// Without a forwarder in between, clients talk to the origin itself.
    #[test]
    fn clients_count_what_the_origin_echoes() {
        let mut load = Load::new(SMALLEST_MESSAGE_BYTES).unwrap();
        load.open(load.origin(), 3).unwrap();
        load.echo_once().unwrap();
        assert!(load.run_for(Duration::from_millis(20)).unwrap() > 0);
        assert!(load.clients.iter().all(|client| client.number >= 3));
    }

    #[test]
    fn a_changed_byte_fails_the_round() {
        let mut load = Load::new(64).unwrap();
        load.open(load.origin(), 1).unwrap();
        load.clients[0].send_next(0).unwrap();
        load.clients[0].message[63] ^= 1;
        let error = loop {
            if let Err(error) = load.turn(Then::Rest) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}

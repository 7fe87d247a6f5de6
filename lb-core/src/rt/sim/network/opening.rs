//! Listening, connecting, accepting.
//!
//! Invariant: an attempt that nobody answers ends with a time-out; what is in a listener's queue is
//! established at both ends.
//! Read next: `moving.rs`.
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    CONNECT_TIMEOUT_NS, Event, Fd, Happening, Listener, Network, PORTS, RETRIES_MAX, RETRY_NS,
    Socket,
};
use crate::rt::ListenOptions;
use crate::rt::sim::stream::Stream;

impl Network {
    pub(crate) fn listen(
        &mut self,
        mut address: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<Fd> {
        if address.port() == 0 {
            address.set_port(self.any_port()?);
        }
        let taken = self.listeners().any(|(_, other)| {
            other.overlaps(address, options) && !(other.options.reuse_port && options.reuse_port)
        });
        if taken {
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        let (options, queue) = (*options, VecDeque::new());
        Ok(self.insert(Socket::Listener(Listener {
            address,
            options,
            queue,
        })))
    }

    /// Begins to connect; `Connected` or `Failed` follows.
    pub(crate) fn connect(
        &mut self,
        source: Option<SocketAddr>,
        remote: SocketAddr,
    ) -> io::Result<Fd> {
        if self.random.chance(self.faults.descriptor_per_mille) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let mut local = source.unwrap_or_else(|| match remote.ip() {
            IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
        });
        if local.port() == 0 {
            local.set_port(self.any_port()?);
        }
        let window = self.random.size(&self.faults.window).max(1);
        let fd = self.insert(Socket::Stream(Box::new(Stream::new(local, remote, window))));
        let latency = self.latency();
        if self.random.chance(self.faults.hang_per_mille) {
            self.plan(
                self.now + CONNECT_TIMEOUT_NS,
                fd,
                Event::Answer(libc::ETIMEDOUT),
            );
        } else if self.random.chance(self.faults.refuse_per_mille) {
            self.plan(
                self.now + 2 * latency,
                fd,
                Event::Answer(libc::ECONNREFUSED),
            );
        } else {
            self.plan(self.now + latency, fd, Event::Knock(0));
        }
        Ok(fd)
    }

    /// The next connection of a listener; none when none waits.
    pub(crate) fn accept(&mut self, fd: Fd) -> Result<Option<Fd>, i32> {
        let fails = self.faults.accept_per_mille;
        let Socket::Listener(listener) = &mut self.sockets[fd] else {
            unreachable!("{fd} is no listener")
        };
        if listener.queue.is_empty() {
            return Ok(None);
        }
        if self.random.chance(fails) {
            return Err(libc::EMFILE);
        }
        Ok(listener.queue.pop_front())
    }

    pub(crate) fn local_addr(&self, fd: Fd) -> SocketAddr {
        match &self.sockets[fd] {
            Socket::Listener(listener) => listener.address,
            Socket::Stream(stream) => stream.local,
            Socket::Vacant => unreachable!("{fd} is closed"),
        }
    }

    pub(crate) fn peer_addr(&self, fd: Fd) -> io::Result<SocketAddr> {
        match &self.sockets[fd] {
            Socket::Stream(stream) if stream.is_open() => Ok(stream.remote),
            _ => Err(io::Error::from_raw_os_error(libc::ENOTCONN)),
        }
    }

    fn listeners(&self) -> impl Iterator<Item = (Fd, &Listener)> {
        self.sockets
            .iter()
            .enumerate()
            .filter_map(|(fd, socket)| match socket {
                Socket::Listener(listener) => Some((fd, listener)),
                Socket::Stream(_) | Socket::Vacant => None,
            })
    }

    fn any_port(&mut self) -> io::Result<u16> {
        for _ in PORTS {
            let port = self.port;
            self.port = if port + 1 < PORTS.end {
                port + 1
            } else {
                PORTS.start
            };
            let taken = self.sockets.iter().any(|socket| match socket {
                Socket::Listener(listener) => listener.address.port() == port,
                Socket::Stream(stream) => stream.local.port() == port,
                Socket::Vacant => false,
            });
            if !taken {
                return Ok(port);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))
    }

    pub(super) fn on_knock(&mut self, client: Fd, attempt: u32) -> Option<Happening> {
        let remote = self.stream(client).remote;
        let latency = self.latency();
        let found: Vec<Fd> = self
            .listeners()
            .filter(|(_, listener)| listener.answers(remote))
            .map(|(fd, _)| fd)
            .collect();
        if found.is_empty() {
            self.plan(
                self.now + latency,
                client,
                Event::Answer(libc::ECONNREFUSED),
            );
            return None;
        }
        let fd = found[self.random.size(&(0..=found.len() - 1))];
        let Socket::Listener(listener) = &mut self.sockets[fd] else {
            return None;
        };
        if listener.queue.len() > listener.options.backlog as usize {
            let pause = RETRY_NS << attempt;
            if attempt < RETRIES_MAX {
                self.plan(self.now + pause, client, Event::Knock(attempt + 1));
            } else {
                self.plan(self.now + pause, client, Event::Answer(libc::ETIMEDOUT));
            }
            return None;
        }
        let server = self.establish(client, self.now + latency);
        let Socket::Listener(listener) = &mut self.sockets[fd] else {
            return None;
        };
        listener.queue.push_back(server);
        self.plan(self.now + latency, client, Event::Answer(0));
        Some(Happening::Acceptable(fd))
    }

    /// Makes the accepting end. Nothing reaches the client before it knows that it is connected.
    fn establish(&mut self, client: Fd, known_at: u64) -> Fd {
        let window = self.random.size(&self.faults.window).max(1);
        let silent = self.random.chance(self.faults.silence_per_mille);
        let ending = silent.then(|| self.now + self.random.next() % RETRY_NS);
        let stream = self.stream(client);
        let mut accepted = Stream::new(stream.remote, stream.local, window);
        accepted.peer = Some(client);
        accepted.silent_from = ending;
        let server = self.insert(Socket::Stream(Box::new(accepted)));
        let stream = self.stream(client);
        stream.peer = Some(server);
        stream.last_arrival = known_at;
        stream.silent_from = ending;
        server
    }

    pub(super) fn on_answer(&mut self, fd: Fd, errno: i32) -> Option<Happening> {
        let stream = self.stream(fd);
        if stream.reset || stream.closed {
            return None; // told already, or nobody is left to be told
        }
        if errno == 0 {
            return Some(Happening::Connected(fd));
        }
        stream.reset = true;
        Some(Happening::Failed(fd, errno))
    }
}

impl Listener {
    /// True if a connection attempt to `remote` comes here.
    fn answers(&self, remote: SocketAddr) -> bool {
        let (own, other) = (self.address, remote);
        let any = match own.ip() {
            IpAddr::V4(ip) => ip.is_unspecified() && other.is_ipv4(),
            IpAddr::V6(ip) => ip.is_unspecified() && (other.is_ipv6() || !self.options.v6_only),
        };
        own.port() == other.port() && (any || own.ip() == other.ip())
    }

    fn overlaps(&self, address: SocketAddr, options: &ListenOptions) -> bool {
        let other = Self {
            address,
            options: *options,
            queue: VecDeque::new(),
        };
        self.answers(address) || other.answers(self.address)
    }
}

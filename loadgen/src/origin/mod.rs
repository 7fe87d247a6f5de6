//! Origin servers: what stands behind a load balancer under test.
//!
//! They share a core with the generator, so they do as little as they can: the answer is made
//! once, a request head seen before is recognised by its bytes, echoed bytes are never copied.
//! Invariant: every answer names its origin, so that the client can count who answered.
//! Read next: `http.rs`, `http2.rs`, `websocket.rs`, `tcp.rs`, `udp.rs`; `service.rs`, `drain.rs`.

mod delay;
mod drain;
mod http;
mod http2;
mod impairment;
mod service;
mod tcp;
mod udp;
mod websocket;

pub use delay::Delay;
pub use impairment::Impairment;
pub use service::{Service, SlowStart};

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lb_core::rt::{self, EngineKind, ListenOptions, Runtime, TcpListener};
use rustls::ServerConfig;

use crate::gate::Gate;
use crate::pin;
use crate::tcp::TcpMode;
use crate::tls::Identity;
use drain::Drain;
use http::Http;
#[cfg(test)]
pub(crate) use http::body_of;
use service::{Counter, Slowness};
use tcp::Tcp;
use udp::Udp;

/// What to serve.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Addresses for HTTP/1.1, HTTP/2 (by prior knowledge), gRPC and WebSocket; port 0 takes any
    /// free port.
    pub http: Vec<SocketAddr>,
    /// Addresses for the same over TLS; HTTP/2 by ALPN.
    pub https: Vec<SocketAddr>,
    /// Addresses for TCP.
    pub tcp: Vec<SocketAddr>,
    /// Addresses for UDP, each served by a thread of its own.
    pub udp: Vec<SocketAddr>,
    /// Bytes in the body of each HTTP answer.
    pub body: usize,
    /// What requests over HTTP and TCP take, and how many of them fail.
    pub service: Service,
    /// What happens to datagrams on their way in.
    pub impairment: Impairment,
    /// How long connections may go on once the origins are stopped, which accept no more then.
    pub drain: Duration,
    /// Name of the origin; numbered if there are several addresses of a kind. Without it, each
    /// address is a name.
    pub name: Option<String>,
    /// Who the origins are over TLS; `None`: a certificate made at start.
    pub identity: Option<Identity>,
    /// What TCP connections are answered.
    pub tcp_mode: TcpMode,
    /// Threads, at least one; each accepts on every address.
    pub threads: usize,
    /// Core of the first thread; the others get the cores after it. `None`: not pinned.
    pub cpu: Option<usize>,
    /// Runtime engine.
    pub engine: EngineKind,
}

impl Config {
    /// Serves nothing yet: 64-byte answers and echo, at once, from one thread.
    pub const fn new(engine: EngineKind) -> Self {
        Self {
            http: Vec::new(),
            https: Vec::new(),
            tcp: Vec::new(),
            udp: Vec::new(),
            body: 64,
            service: Service::AT_ONCE,
            impairment: Impairment::NONE,
            drain: Duration::ZERO,
            name: None,
            identity: None,
            tcp_mode: TcpMode::Echo,
            threads: 1,
            cpu: None,
            engine,
        }
    }
}

/// Running origins. Dropping it stops them and closes their connections.
#[derive(Debug)]
pub struct Origin {
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
    tcp: Vec<SocketAddr>,
    udp: Vec<SocketAddr>,
    slowness: Slowness,
    stop: Arc<Gate>,
    threads: Vec<JoinHandle<()>>,
}

impl Origin {
    /// Starts to serve; every address accepts when this returns.
    ///
    /// # Errors
    /// An address that cannot be bound, a core that does not exist, an engine that is refused;
    /// the text says which.
    pub fn start(config: &Config) -> io::Result<Self> {
        let mut origin = Self {
            http: Vec::new(),
            https: Vec::new(),
            tcp: Vec::new(),
            udp: Vec::new(),
            slowness: Slowness::default(),
            stop: Arc::new(Gate::new()),
            threads: Vec::new(),
        };
        let mut config = config.clone();
        let tls = tls(&config)?;
        for index in 0..config.threads {
            let bound = origin.start_thread(&config, &tls, index)?;
            // The first thread has chosen the ports where any would do.
            (config.http, config.https, config.tcp) = (bound.http, bound.https, bound.tcp);
        }
        for (number, address) in config.udp.iter().enumerate() {
            let name = |address| config.name_of(number, config.udp.len(), address);
            origin.start_udp(*address, name, &config)?;
        }
        (origin.http, origin.https, origin.tcp) = (config.http, config.https, config.tcp);
        Ok(origin)
    }

    /// The HTTP addresses, with the ports really bound.
    pub fn http(&self) -> &[SocketAddr] {
        &self.http
    }

    /// The addresses for HTTP over TLS, with the ports really bound.
    pub fn https(&self) -> &[SocketAddr] {
        &self.https
    }

    /// The TCP addresses, with the ports really bound.
    pub fn tcp(&self) -> &[SocketAddr] {
        &self.tcp
    }

    /// The UDP addresses, with the ports really bound.
    pub fn udp(&self) -> &[SocketAddr] {
        &self.udp
    }

    /// From now on every answer over HTTP and TCP takes `extra` longer than its service time.
    pub fn slow_down(&self, extra: Duration) {
        self.slowness.set(extra);
    }

    fn start_udp(
        &mut self,
        address: SocketAddr,
        name: impl FnOnce(SocketAddr) -> String,
        config: &Config,
    ) -> io::Result<()> {
        let (socket, address) = Udp::bind(address)?;
        let udp = Udp::new(socket, &name(address), config.impairment);
        let (cpu, stop) = (config.cpu, Arc::clone(&self.stop));
        let thread = thread::Builder::new().name(format!("udp-{}", address.port()));
        self.threads.push(thread.spawn(move || {
            if let Some(error) = cpu.and_then(|cpu| pin::this_thread(cpu).err()) {
                eprintln!("{address} is served without a core of its own: {error}");
            }
            udp.serve(&stop);
        })?);
        self.udp.push(address);
        Ok(())
    }

    fn start_thread(
        &mut self,
        config: &Config,
        tls: &Option<Arc<ServerConfig>>,
        index: usize,
    ) -> io::Result<Bound> {
        let (bound, is_bound) = sync_channel(1);
        let stop = Arc::clone(&self.stop);
        let thread = Thread {
            config: config.clone(),
            tls: tls.clone(),
            index,
            slowness: self.slowness.clone(),
        };
        let body = move || thread.serve(&stop, &bound);
        self.threads.push(
            thread::Builder::new()
                .name(format!("origin-{index}"))
                .spawn(body)?,
        );
        is_bound
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("an origin thread died")))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.open();
        for thread in self.threads.drain(..) {
            // A panic was printed by its thread; there is nothing more to do about it.
            let _ = thread.join();
        }
    }
}

/// How connections are secured, if any are to be.
fn tls(config: &Config) -> io::Result<Option<Arc<ServerConfig>>> {
    if config.https.is_empty() {
        return Ok(None);
    }
    let identity = match &config.identity {
        Some(identity) => Ok(identity.clone()),
        None => Identity::self_signed(&["localhost", "127.0.0.1"]),
    };
    let server = identity.and_then(|identity| identity.server(&[b"h2", b"http/1.1"]));
    server.map(Some).map_err(io::Error::other)
}

/// Addresses with the ports really bound.
#[derive(Debug, Default)]
struct Bound {
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
    tcp: Vec<SocketAddr>,
}

/// What one thread is to do.
struct Thread {
    config: Config,
    tls: Option<Arc<ServerConfig>>,
    index: usize,
    slowness: Slowness,
}

impl Thread {
    /// Binds every address, reports that, and serves until the gate opens.
    fn serve(&self, stop: &Gate, bound: &SyncSender<io::Result<Bound>>) {
        let runtime = Runtime::new(&rt::Config {
            engine: self.config.engine,
            cpu: self.config.cpu.map(|first| first + self.index),
            ..rt::Config::default()
        });
        let mut runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = bound.send(Err(error));
                return;
            }
        };
        runtime.block_on(async {
            let drain = Rc::new(Drain::default());
            let started = self.listen(&drain);
            let is_serving = started.is_ok();
            if bound.send(started).is_ok() && is_serving {
                stop.opened().await;
                drain.finish(self.config.drain).await;
            }
        });
    }

    fn listen(&self, drain: &Rc<Drain>) -> io::Result<Bound> {
        let config = &self.config;
        Ok(Bound {
            http: self.listen_http(&config.http, None, drain)?,
            https: self.listen_http(&config.https, self.tls.as_ref(), drain)?,
            tcp: self.listen_tcp(drain)?,
        })
    }

    fn listen_http(
        &self,
        addresses: &[SocketAddr],
        tls: Option<&Arc<ServerConfig>>,
        drain: &Rc<Drain>,
    ) -> io::Result<Vec<SocketAddr>> {
        let mut bound = Vec::new();
        for (number, address) in addresses.iter().enumerate() {
            let (listener, address) = bind(*address)?;
            let name = self.config.name_of(number, addresses.len(), address);
            let counter = self.counter(address);
            let drain = Rc::clone(drain);
            let http = Http::new(&name, self.config.body, counter, drain, tls.cloned());
            rt::spawn(Rc::new(http).serve(listener));
            bound.push(address);
        }
        Ok(bound)
    }

    fn listen_tcp(&self, drain: &Rc<Drain>) -> io::Result<Vec<SocketAddr>> {
        let (addresses, mut bound) = (&self.config.tcp, Vec::new());
        for (number, address) in addresses.iter().enumerate() {
            let (listener, address) = bind(*address)?;
            let name = self.config.name_of(number, addresses.len(), address);
            let tcp = Tcp::new(&name, self.config.tcp_mode, self.counter(address));
            rt::spawn(Rc::new(tcp).serve(listener, Rc::clone(drain)));
            bound.push(address);
        }
        Ok(bound)
    }

    fn counter(&self, address: SocketAddr) -> Counter {
        let seed = self.index as u64 * 65_536 + u64::from(address.port());
        Counter::new(
            self.config.service,
            self.slowness.clone(),
            seed,
            rt::now_precise(),
        )
    }
}

impl Config {
    fn name_of(&self, number: usize, count: usize, address: SocketAddr) -> String {
        match &self.name {
            None => address.to_string(),
            Some(name) if count == 1 => name.clone(),
            Some(name) => format!("{name}-{}", number + 1),
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let explain = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
    let listener = TcpListener::bind(address, &ListenOptions::default()).map_err(explain)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbered_only_where_they_have_to_be() {
        let address: SocketAddr = "127.0.0.1:8081".parse().unwrap();
        let mut config = Config::new(EngineKind::Epoll);
        assert_eq!(config.name_of(0, 2, address), "127.0.0.1:8081");
        config.name = Some("blue".into());
        assert_eq!(config.name_of(0, 1, address), "blue");
        assert_eq!(config.name_of(1, 2, address), "blue-2");
    }

    #[test]
    fn an_address_in_use_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let config = Config {
            http: vec![address],
            ..Config::new(EngineKind::Epoll)
        };
        let error = Origin::start(&config).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}

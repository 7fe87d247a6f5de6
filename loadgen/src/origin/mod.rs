//! Origin servers: what stands behind a load balancer under test.
//!
//! They share a core with the generator, so they do as little as they can: the answer is made
//! once, a request head seen before is recognised by its bytes, echoed bytes are never copied.
//! Invariant: every answer names its origin, so that the client can count who answered.
//! Read next: `http.rs`, `tcp.rs`, `udp.rs`.

mod delay;
mod http;
mod service;
mod tcp;
mod udp;

pub use delay::Delay;
pub use service::Service;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lb_core::rt::{self, EngineKind, ListenOptions, Runtime, TcpListener, TcpStream};

use crate::gate::Gate;
use crate::pin;
use crate::tcp::TcpMode;
use http::Http;
use service::{Counter, Slowness};
use tcp::Tcp;
use udp::Udp;

/// What to serve.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Addresses for HTTP/1.1; port 0 takes any free port.
    pub http: Vec<SocketAddr>,
    /// Addresses for TCP.
    pub tcp: Vec<SocketAddr>,
    /// Addresses for UDP, each served by a thread of its own.
    pub udp: Vec<SocketAddr>,
    /// Bytes in the body of each HTTP answer.
    pub body: usize,
    /// What requests over HTTP and TCP take, and how many of them fail.
    pub service: Service,
    /// Name of the origin; numbered if there are several addresses of a kind. Without it, each
    /// address is a name.
    pub name: Option<String>,
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
            tcp: Vec::new(),
            udp: Vec::new(),
            body: 64,
            service: Service::AT_ONCE,
            name: None,
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
            tcp: Vec::new(),
            udp: Vec::new(),
            slowness: Slowness::default(),
            stop: Arc::new(Gate::new()),
            threads: Vec::new(),
        };
        let mut config = config.clone();
        for index in 0..config.threads {
            let bound = origin.start_thread(&config, index)?;
            // The first thread has chosen the ports where any would do.
            (config.http, config.tcp) = bound;
        }
        for (number, address) in config.udp.iter().enumerate() {
            let name = |address| config.name_of(number, config.udp.len(), address);
            origin.start_udp(*address, name, config.cpu)?;
        }
        (origin.http, origin.tcp) = (config.http, config.tcp);
        Ok(origin)
    }

    /// The HTTP addresses, with the ports really bound.
    pub fn http(&self) -> &[SocketAddr] {
        &self.http
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
        cpu: Option<usize>,
    ) -> io::Result<()> {
        let (socket, address) = Udp::bind(address)?;
        let (udp, stop) = (Udp::new(socket, &name(address)), Arc::clone(&self.stop));
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

    fn start_thread(&mut self, config: &Config, index: usize) -> io::Result<Addresses> {
        let (bound, is_bound) = sync_channel(1);
        let (config, stop) = (config.clone(), Arc::clone(&self.stop));
        let slowness = self.slowness.clone();
        let body = move || serve(&config, index, &slowness, &stop, &bound);
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

/// HTTP and TCP addresses.
type Addresses = (Vec<SocketAddr>, Vec<SocketAddr>);

/// One thread: binds every address, reports that, and serves until the gate opens.
fn serve(
    config: &Config,
    index: usize,
    slowness: &Slowness,
    stop: &Gate,
    bound: &SyncSender<io::Result<Addresses>>,
) {
    let runtime = Runtime::new(&rt::Config {
        engine: config.engine,
        cpu: config.cpu.map(|first| first + index),
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
        let started = listen(config, slowness, index);
        let is_serving = started.is_ok();
        if bound.send(started).is_ok() && is_serving {
            stop.opened().await;
        }
    });
}

fn listen(config: &Config, slowness: &Slowness, thread: usize) -> io::Result<Addresses> {
    let mut bound = Addresses::default();
    let counter = |address: SocketAddr| {
        let seed = thread as u64 * 65_536 + u64::from(address.port());
        Counter::new(config.service, slowness.clone(), seed)
    };
    for (number, address) in config.http.iter().enumerate() {
        let (listener, address) = bind(*address)?;
        let name = config.name_of(number, config.http.len(), address);
        let http = Http::new(&name, config.body, counter(address));
        rt::spawn(Rc::new(http).serve(listener));
        bound.0.push(address);
    }
    for (number, address) in config.tcp.iter().enumerate() {
        let (listener, address) = bind(*address)?;
        let name = config.name_of(number, config.tcp.len(), address);
        let tcp = Tcp::new(&name, config.tcp_mode, counter(address));
        rt::spawn(Rc::new(tcp).serve(listener));
        bound.1.push(address);
    }
    Ok(bound)
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

/// The next connection, however long it takes: out of descriptors, it waits for some.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok(stream) => return stream,
            Err(_) => rt::sleep(rt::TICK).await,
        }
    }
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

//! A proxy on a thread of its own, scripted backends and a plain blocking client.
//!
//! Everything binds port 0 and is gone when it is dropped, so tests run side by side.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lb_core::balance::{Cluster, Context};
use lb_core::lines::LineSink;
use lb_core::metrics::ListenerStats;
use lb_core::plan::{self, Balance, Forwarded, HttpLimits, HttpTimeouts};
use lb_core::rt::probe::{EngineChoice, probe};
use lb_core::rt::{self, EngineKind, ListenOptions, Runtime};
use lb_core::snapshot::Current;
use lb_core::worker::Worker;
use lb_l7::tls::{TlsAcceptor, TlsContext};
use lb_l7::{HttpService, HttpWorker, Log};

/// Longer than anything here takes, shorter than a patient reader of test output.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `test` on every engine.
pub(crate) fn on_each_engine(test: impl Fn(EngineKind)) {
    test(EngineKind::Epoll);
    match probe(EngineChoice::Only(EngineKind::Uring)) {
        Ok(_) => test(EngineKind::Uring),
        Err(reason) => eprintln!("skipped on io_uring: {reason}"),
    }
}

/// An HTTP listener's settings: short deadlines, everything to the cluster `main`.
pub(crate) fn http_plan() -> plan::Http {
    plan::Http {
        routes: Vec::new(),
        default_cluster: Some("main".to_owned()),
        limits: HttpLimits {
            head_bytes_max: 8 * 1024,
            headers_max: 64,
            body_bytes_max: None,
            requests_per_connection_max: None,
        },
        timeouts: HttpTimeouts {
            request_head: PATIENCE,
            keep_alive: PATIENCE,
            body_idle: PATIENCE,
            response_head: PATIENCE,
        },
        forwarded: Forwarded::Append,
        ..plan::Http::default()
    }
}

/// A cluster of `backends`, in turns, three tries.
pub(crate) fn cluster_plan(name: &str, backends: &[SocketAddr]) -> plan::Cluster {
    let backends = backends.iter().map(|&address| address.into()).collect();
    plan::Cluster {
        balance: Balance::RoundRobin,
        connect_timeout: PATIENCE,
        pool_idle_max: 16,
        pool_idle_timeout: PATIENCE,
        ..plan::Cluster::new(name, backends)
    }
}

/// A proxy on a thread of its own.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) clusters: Vec<Arc<Cluster>>,
    pub(crate) stats: Arc<ListenerStats>,
    pub(crate) draining: Arc<AtomicBool>,
    pub(crate) log: Arc<Mutex<Vec<u8>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// A proxy to one cluster, with the usual settings.
    pub(crate) fn to(engine: EngineKind, backends: &[SocketAddr]) -> Self {
        Self::start(engine, http_plan(), &[cluster_plan("main", backends)])
    }

    pub(crate) fn start(engine: EngineKind, http: plan::Http, clusters: &[plan::Cluster]) -> Self {
        Self::start_logging(engine, http, clusters, true, || ())
    }

    /// With or without an access log; `on_thread` is called on the proxy's thread.
    pub(crate) fn start_logging(
        engine: EngineKind,
        http: plan::Http,
        clusters: &[plan::Cluster],
        logs: bool,
        on_thread: impl FnOnce() + Send + 'static,
    ) -> Self {
        let clusters: Vec<Arc<Cluster>> = clusters
            .iter()
            .map(|plan| Arc::new(Cluster::build(plan, &Context::new(1, 1), None)))
            .collect();
        let by_name = |name: &str| {
            clusters
                .iter()
                .find(|cluster| cluster.name == name)
                .map(Arc::clone)
        };
        let log = Arc::new(Mutex::new(Vec::with_capacity(1 << 20)));
        let mut service = HttpService::build(&http, &by_name).unwrap();
        if logs {
            let sink = Arc::new(Sink(Arc::clone(&log)));
            let format = plan::LogFormat::Json;
            service = service.logged(Log::new("test", &http.routes, &format, sink).unwrap());
        }
        let service = Arc::new(service);
        let tls = http.tls.as_ref().map(|tls| {
            let context = TlsContext::new().unwrap();
            Arc::new(TlsAcceptor::build(tls, &context, None).unwrap())
        });
        let listener = plan::Listener {
            name: "test".to_owned(),
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            edge: plan::Edge::default(),
            access_log: plan::ListenerLog::default(),
            protocol: plan::Protocol::Http(http),
        };
        let stats = Arc::new(ListenerStats::build(&listener, 1, None));
        let (stop, draining) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (send_address, address) = mpsc::channel();
        let thread = {
            let (stop, draining) = (Arc::clone(&stop), Arc::clone(&draining));
            let stats = Arc::clone(&stats);
            thread::spawn(move || {
                on_thread();
                let config = rt::Config {
                    engine,
                    ..rt::Config::default()
                };
                let mut runtime = Runtime::new(&config).unwrap();
                runtime.block_on(async {
                    let proxy = accept(service, tls, stats, send_address, draining);
                    rt::select(proxy, until(&stop)).await
                });
            })
        };
        let address = address.recv_timeout(PATIENCE).expect("the proxy to listen");
        Self {
            address,
            clusters,
            stats,
            draining,
            log,
            stop,
            thread: Some(thread),
        }
    }

    pub(crate) fn connect(&self) -> Client {
        Client::to(self.address)
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self, request: &str) -> Response {
        let mut client = self.connect();
        client.send(request.as_bytes());
        client.response()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(
            ended.is_ok() || thread::panicking(),
            "the proxy's thread panicked"
        );
    }
}

async fn accept(
    service: Arc<HttpService>,
    tls: Option<Arc<TlsAcceptor>>,
    stats: Arc<ListenerStats>,
    send_address: mpsc::Sender<SocketAddr>,
    draining: Arc<AtomicBool>,
) {
    let options = ListenOptions {
        reuse_port: false,
        backlog: 128,
        v6_only: false,
    };
    let listener = rt::TcpListener::bind((Ipv4Addr::LOCALHOST, 0).into(), &options).unwrap();
    let worker = Rc::new(Worker::new(0, Arc::default()));
    let http = HttpWorker::new(Rc::clone(&worker));
    let current = Rc::new(Current::new(service));
    send_address.send(listener.local_addr().unwrap()).unwrap();
    rt::spawn({
        let worker = Rc::clone(&worker);
        async move {
            until(&draining).await;
            worker.draining.set(true);
            worker.connections.close_idle();
        }
    });
    loop {
        let stream = listener.accept().await.unwrap();
        let (current, http) = (Rc::clone(&current), Rc::clone(&http));
        let shard = Arc::clone(stats.shard(0));
        let Some(tls) = tls.clone() else {
            worker
                .connections
                .spawn(shard, |it| lb_l7::serve(stream, current, http, it));
            continue;
        };
        worker.connections.spawn(shard, |registration| async move {
            let stream = tls.accept(stream).await.unwrap();
            lb_l7::serve(stream, current, http, registration).await;
        });
    }
}

async fn until(flag: &AtomicBool) {
    while !flag.load(Ordering::Relaxed) {
        rt::sleep(Duration::from_millis(10)).await;
    }
}

struct Sink(Arc<Mutex<Vec<u8>>>);

impl LineSink for Sink {
    /// The oldest lines go when there are too many: keeping all would allocate.
    fn write(&self, mut lines: Vec<u8>) -> Vec<u8> {
        let mut kept = self.0.lock().unwrap();
        if kept.len() + lines.len() > kept.capacity() {
            kept.clear();
        }
        kept.extend_from_slice(&lines);
        lines.clear();
        lines
    }
}

/// A backend whose every connection is handled by a closure on a thread of its own.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Backend {
    /// `handle` gets each connection with its number, from 0.
    pub(crate) fn scripted(handle: impl Fn(Client, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (counter, stopped) = (Arc::clone(&connections), Arc::clone(&stop));
        let handle = Arc::new(handle);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let number = counter.fetch_add(1, Ordering::Relaxed);
                let handle = Arc::clone(&handle);
                thread::spawn(move || handle(Client::new(stream), number));
            }
        });
        Self {
            address,
            connections,
            stop,
        }
    }

    /// A backend that answers every request with what `respond` makes of it.
    pub(crate) fn responding(
        respond: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Self::scripted(move |mut connection, _| {
            while let Some(request) = connection.request() {
                connection.send(&respond(&request));
            }
        })
    }

    /// A backend that answers with the request as it came, head and body.
    pub(crate) fn echo() -> Self {
        Self::responding(|request| ok(&[request.head.as_bytes(), &request.body].concat()))
    }

    /// A backend that answers with `name`.
    pub(crate) fn named(name: &'static str) -> Self {
        Self::responding(move |_| ok(name.as_bytes()))
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
    }
}

/// An address on which nobody listens.
pub(crate) fn refusing() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Closes with a reset.
pub(crate) fn reset(client: Client) {
    let socket = socket2::SockRef::from(&client.stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

/// A 200 with `body`.
pub(crate) fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A request as a backend sees it.
pub(crate) struct Request {
    /// Up to and including the blank line.
    pub(crate) head: String,
    /// Chunks and all.
    pub(crate) body: Vec<u8>,
}

/// A response as a client sees it.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Up to and including the blank line.
    pub(crate) head: String,
    /// Without chunks.
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// One end of a connection, blocking.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).unwrap())
    }

    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// The other end may have gone: what it then answers, or does not, is the test's subject.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
        self.response()
    }

    /// The next response.
    pub(crate) fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    pub(crate) fn response_to(&mut self, method: &str) -> Response {
        let head = self.head().expect("a response");
        let status = head[9..12].parse().unwrap();
        let has_body = method != "HEAD" && !matches!(status, 100..=199 | 204 | 304);
        let body = if !has_body {
            Vec::new()
        } else if field(&head, "transfer-encoding").is_some() {
            self.chunks().expect("a whole body")
        } else if let Some(length) = field(&head, "content-length") {
            self.take(length.parse().unwrap()).expect("a whole body")
        } else {
            self.rest().expect("an end of the stream")
        };
        Response { status, head, body }
    }

    /// The next request, with its body as it comes; `None` at the end of the stream.
    pub(crate) fn request(&mut self) -> Option<Request> {
        let head = self.head().ok()?;
        let body = if field(&head, "transfer-encoding").is_some() {
            self.raw_chunks().ok()?
        } else {
            let length = field(&head, "content-length").unwrap_or("0");
            self.take(length.parse().unwrap()).ok()?
        };
        Some(Request { head, body })
    }

    /// Up to and including the next blank line.
    pub(crate) fn head(&mut self) -> io::Result<String> {
        self.line_end(b"\r\n\r\n")
    }

    fn line_end(&mut self, end: &[u8]) -> io::Result<String> {
        loop {
            if let Some(at) = self
                .buffer
                .windows(end.len())
                .position(|window| window == end)
            {
                let line = self.take(at + end.len())?;
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            self.fill()?;
        }
    }

    pub(crate) fn take(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < len {
            self.fill()?;
        }
        Ok(self.buffer.drain(..len).collect())
    }

    /// A chunked body without trailers, as it comes.
    fn raw_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut raw = Vec::new();
        loop {
            let line = self.line_end(b"\r\n")?;
            let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
            raw.extend(line.into_bytes());
            raw.extend(self.take(size + 2)?);
            if size == 0 {
                return Ok(raw);
            }
        }
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = self.line_end(b"\r\n")?;
            let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
            if size == 0 {
                while self.line_end(b"\r\n")? != "\r\n" {}
                return Ok(body);
            }
            body.extend(self.take(size)?);
            assert_eq!(self.take(2)?, b"\r\n");
        }
    }

    /// Everything up to the end of the stream; an error if it is reset.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.fill() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(std::mem::take(&mut self.buffer));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the other end closes, without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.rest().is_ok_and(|rest| rest.is_empty())
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut room = [0; 64 * 1024];
        match self.stream.read(&mut room) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => {
                self.buffer.extend_from_slice(&room[..len]);
                Ok(())
            }
            // A read with a timeout is not restarted, and the end of a ring that this thread has
            // probed interrupts it.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

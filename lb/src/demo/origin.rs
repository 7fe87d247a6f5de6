//! The demo's origins: small HTTP and TCP servers that name themselves, and the one behind the
//! page that tells how they do.
//!
//! Invariant: an origin that is down refuses connections and has none, as if its process had
//! ended; its address stays its own.
//! Read next: `page.html`.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::rc::Rc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{JoinSet, spawn_local};

use super::{HTTP, TCP};
use crate::control::Status;

const PAGE: &str = include_str!("page.html");

/// All of them, bound but not serving yet.
pub(super) struct Origins {
    pub(super) origins: Vec<Rc<Origin>>,
    pub(super) stats_address: SocketAddr,
    sockets: Vec<(TcpListener, TcpListener)>,
    stats_socket: TcpListener,
}

/// One origin.
pub(super) struct Origin {
    pub(super) name: String,
    pub(super) http_address: SocketAddr,
    pub(super) tcp_address: SocketAddr,
    up: Cell<bool>,
    /// Signalled when `up` changes; two listeners wait for it.
    switched: Notify,
    requests: Cell<u64>,
}

impl Origins {
    /// Binds three origins and the server of statistics to free ports of this machine.
    pub(super) fn bind() -> io::Result<Self> {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let mut origins = Vec::new();
        let mut sockets = Vec::new();
        for number in 1..=3 {
            let (http, tcp) = (bind()?, bind()?);
            origins.push(Rc::new(Origin {
                name: format!("origin-{number}"),
                http_address: http.local_addr()?,
                tcp_address: tcp.local_addr()?,
                up: Cell::new(true),
                switched: Notify::new(),
                requests: Cell::new(0),
            }));
            sockets.push((http, tcp));
        }
        let stats_socket = bind()?;
        let stats_address = stats_socket.local_addr()?;
        Ok(Self {
            origins,
            stats_address,
            sockets,
            stats_socket,
        })
    }

    /// Serves on the control thread. Must be called within a `LocalSet`.
    pub(super) fn serve(self, status: &Rc<Status>) {
        for (origin, (http, tcp)) in self.origins.iter().zip(self.sockets) {
            spawn_local(serve_while_up(Rc::clone(origin), http, converse_http));
            spawn_local(serve_while_up(Rc::clone(origin), tcp, converse_tcp));
        }
        let (status, origins) = (Rc::clone(status), self.origins);
        spawn_local(serve_stats(self.stats_socket, status, Rc::new(origins)));
    }
}

/// Accepts on `socket` while the origin is up, and on a new one of the same address after that.
async fn serve_while_up<F>(
    origin: Rc<Origin>,
    socket: TcpListener,
    converse: fn(TcpStream, Rc<Origin>) -> F,
) where
    F: Future<Output = ()> + 'static,
{
    let Ok(address) = socket.local_addr() else {
        return;
    };
    let mut listener = listen(socket);
    loop {
        let mut connections = JoinSet::new();
        while let (true, Some(open)) = (origin.up.get(), &listener) {
            tokio::select! {
                Ok((stream, _)) = open.accept() => {
                    connections.spawn_local(converse(stream, Rc::clone(&origin)));
                }
                Some(_) = connections.join_next() => {}
                () = origin.switched.notified() => {}
            }
        }
        drop((listener.take(), connections)); // closes the connections too
        while !origin.up.get() {
            origin.switched.notified().await;
        }
        listener = TcpListener::bind(address).ok().and_then(listen);
        if listener.is_none() {
            return; // somebody else has the port now: the origin stays down
        }
    }
}

fn listen(socket: TcpListener) -> Option<tokio::net::TcpListener> {
    socket.set_nonblocking(true).ok()?;
    tokio::net::TcpListener::from_std(socket).ok()
}

async fn converse_http(stream: TcpStream, origin: Rc<Origin>) {
    let answer = service_fn(|request: Request<Incoming>| {
        let response = origin.answer(&request);
        async { Ok::<_, Infallible>(response) }
    });
    // Who breaks off, does.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

impl Origin {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let accept = request
            .headers()
            .get(ACCEPT)
            .map(HeaderValue::as_bytes)
            .unwrap_or_default();
        let from_browser = accept.windows(9).any(|part| part == b"text/html");
        self.requests.set(self.requests.get() + 1);
        let (name, requests) = (&self.name, self.requests.get());
        match request.uri().path() {
            "/" if from_browser => page("text/html; charset=utf-8", PAGE),
            "/whoami" => page_json(&json!({ "origin": name, "requests": requests })),
            _ => page(
                "text/plain; charset=utf-8",
                format!("{name} answers, request {requests}\n"),
            ),
        }
    }
}

/// Greets with the origin's name, then sends back what it gets.
async fn converse_tcp(mut stream: TcpStream, origin: Rc<Origin>) {
    let greeting = format!("{} greets you; what you send comes back\n", origin.name);
    if stream.write_all(greeting.as_bytes()).await.is_err() {
        return;
    }
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// What the page asks for beside `/whoami`.
async fn serve_stats(socket: TcpListener, status: Rc<Status>, origins: Rc<Vec<Rc<Origin>>>) {
    let Some(listener) = listen(socket) else {
        return;
    };
    while let Ok((stream, _)) = listener.accept().await {
        let (status, origins) = (Rc::clone(&status), Rc::clone(&origins));
        spawn_local(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let response = answer_stats(&request, &status, &origins);
                async { Ok::<_, Infallible>(response) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

fn answer_stats(
    request: &Request<Incoming>,
    status: &Status,
    origins: &[Rc<Origin>],
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if path == "/demo/stats" {
        return page_json(&stats(status, origins));
    }
    let find = |name: &str| origins.iter().find(|origin| origin.name == name);
    let switch = match (
        path.strip_prefix("/demo/start/"),
        path.strip_prefix("/demo/stop/"),
    ) {
        (Some(name), _) => find(name).map(|origin| (origin, true)),
        (_, Some(name)) => find(name).map(|origin| (origin, false)),
        _ => None,
    };
    match switch {
        Some((origin, up)) if request.method() == Method::POST => {
            origin.up.set(up);
            origin.switched.notify_waiters();
            page_json(&stats(status, origins))
        }
        _ => {
            let mut response = page("text/plain; charset=utf-8", "not found\n");
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

/// The balancer's own counters of the origins.
fn stats(status: &Status, origins: &[Rc<Origin>]) -> Value {
    let snapshot = status.snapshot();
    let of = |cluster: &str, address: SocketAddr| {
        let cluster = snapshot.clusters.iter().find(|it| it.name == cluster)?;
        cluster.backends().iter().find(|it| it.address == address)
    };
    let origins = origins.iter().map(|origin| {
        let http = of(HTTP, origin.http_address);
        let tcp = of(TCP, origin.tcp_address);
        json!({
            "name": origin.name,
            "up": origin.up.get(),
            "healthy": http.is_some_and(|it| it.is_healthy()),
            "requests": http.map_or(0, |it| it.sum(|shard| shard.exchanges.get())),
            "active": http.map_or(0, |it| it.sum(|shard| shard.exchanges_active.get())),
            "sessions": tcp.map_or(0, |it| it.sum(|shard| shard.connections.get())),
        })
    });
    json!({ "clients": status.connections(), "origins": origins.collect::<Vec<_>>() })
}

fn page(content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn page_json(value: &Value) -> Response<Full<Bytes>> {
    page("application/json", value.to_string())
}

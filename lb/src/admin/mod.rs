//! The admin API: `/readyz`, `/livez`, `/metrics`, `/status` and `/config`, on an address of its
//! own.
//!
//! Invariant: it only reads, and a client that stalls or floods costs at most
//! `CONNECTIONS_MAX` connections of `CONNECTION_MAX` each; the data plane never waits for it.
//! Read next: `pages.rs`.

mod pages;

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::control::Status;

/// Admin connections at once; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 64;

/// How long one admin connection may last. Scrapers open another.
const CONNECTION_MAX: Duration = Duration::from_secs(30);

/// How long a request head may take to arrive.
const HEAD_MAX: Duration = Duration::from_secs(5);

/// Serves the API until the process ends.
pub(crate) async fn serve(listener: TcpListener, status: Rc<Status>) {
    let open = Rc::new(Cell::new(0));
    loop {
        if open.get() >= CONNECTIONS_MAX {
            sleep(Duration::from_millis(10)).await;
            continue;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                let guard = Opened::new(&open);
                let status = Rc::clone(&status);
                tokio::task::spawn_local(async move {
                    // Late or broken, the connection is closed either way.
                    let _ = timeout(CONNECTION_MAX, converse(stream, status)).await;
                    drop(guard);
                });
            }
            // Out of descriptors: the clients of the data plane come first.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(stream: TcpStream, status: Rc<Status>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let response = pages::answer(request.method(), request.uri().path(), &status);
        std::future::ready(Ok::<Response<Full<Bytes>>, Infallible>(response))
    });
    // A client that breaks off is its own business.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

/// One open connection, as long as it lives.
struct Opened(Rc<Cell<usize>>);

impl Opened {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

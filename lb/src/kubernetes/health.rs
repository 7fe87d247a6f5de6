//! What kube-proxy answers beside the traffic: `/healthz` and `/livez` on one address, and the
//! health check port of each Service that has one.
//!
//! Invariant: a port is open as long as a Service has it; what it answers is of this moment.
//! Source: kubernetes/pkg/proxy/healthcheck (behaviour), KEP-3836.
//! Read next: `lb_kube::HealthCheckNodePort` (the answer).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use lb_kube::HealthCheckNodePort;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{self, JoinHandle};
use tokio::time::{sleep, timeout};

use super::options::HealthzAddress;
use crate::control::Status;
use crate::log::log;

/// How long one connection may last.
const CONNECTION_MAX: Duration = Duration::from_secs(30);

/// The health check ports that are open.
#[derive(Default)]
pub(crate) struct HealthServers {
    open: BTreeMap<SocketAddr, Server>,
}

struct Server {
    answers: Rc<RefCell<HealthCheckNodePort>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthServers {
    /// Opens what is new, closes what is gone, and answers what is now so. Must be called within a
    /// `LocalSet`.
    pub(crate) fn set(&mut self, checks: &[HealthCheckNodePort], status: &Rc<Status>) {
        let wanted: BTreeMap<SocketAddr, &HealthCheckNodePort> = checks
            .iter()
            .flat_map(|check| {
                let address =
                    move |ip: &std::net::IpAddr| (SocketAddr::new(*ip, check.port), check);
                check.addresses.iter().map(address)
            })
            .collect();
        self.open.retain(|address, _| wanted.contains_key(address));
        for (address, check) in wanted {
            if let Some(server) = self.open.get(&address) {
                *server.answers.borrow_mut() = check.clone();
                continue;
            }
            match bind(address) {
                Ok(listener) => {
                    let answers = Rc::new(RefCell::new(check.clone()));
                    let (own, status) = (Rc::clone(&answers), Rc::clone(status));
                    let answer = move |_: &str| {
                        let check = own.borrow();
                        response_of(&check, status.live().is_ok())
                    };
                    let task = task::spawn_local(serve(listener, Rc::new(answer)));
                    self.open.insert(address, Server { answers, task });
                    log!(
                        Info,
                        "health check port",
                        service = check.service,
                        address = address
                    );
                }
                Err(error) => log!(
                    Error,
                    "a health check port cannot be opened",
                    service = check.service,
                    address = address,
                    error = error
                ),
            }
        }
    }
}

/// Opens `/healthz` and `/livez`. The address that nobody asked for may be taken (by kube-proxy).
///
/// # Errors
/// The address that was asked for cannot be had.
pub(crate) fn serve_healthz(
    address: Option<HealthzAddress>,
    status: &Rc<Status>,
) -> Result<(), String> {
    let wanted = match address {
        Some(HealthzAddress::Off) => return Ok(()),
        Some(HealthzAddress::Listen(address)) => address,
        None => HealthzAddress::DEFAULT,
    };
    let listener = match bind(wanted) {
        Ok(listener) => listener,
        Err(error) if address.is_none() => {
            log!(
                Warn,
                "nothing answers /healthz",
                address = wanted,
                error = error,
                advice = "--healthz takes another address, or off"
            );
            return Ok(());
        }
        Err(error) => return Err(format!("--healthz {wanted}: {error}")),
    };
    if let Ok(address) = listener.local_addr() {
        log!(Info, "healthz", address = address);
    }
    let status = Rc::clone(status);
    let answer = move |path: &str| healthz(path, &status);
    task::spawn_local(serve(listener, Rc::new(answer)));
    Ok(())
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = std::net::TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

type Answer = dyn Fn(&str) -> Response<Full<Bytes>>;

async fn serve(listener: TcpListener, answer: Rc<Answer>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = Rc::clone(&answer);
                task::spawn_local(async move {
                    let _ = timeout(CONNECTION_MAX, converse(stream, answer)).await;
                });
            }
            // Out of descriptors: the clients of the data plane come first.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(stream: TcpStream, answer: Rc<Answer>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.uri().path());
        std::future::ready(Ok::<_, Infallible>(response))
    });
    // A client that breaks off is its own business.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn response_of(check: &HealthCheckNodePort, healthy: bool) -> Response<Full<Bytes>> {
    let answer = check.answer(healthy);
    let mut response = Response::new(Full::new(answer.body.into()));
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    for (name, value) in answer.headers {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(&value),
        ) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// `/livez` asks whether the process works, `/healthz` also whether this node is to get traffic.
fn healthz(path: &str, status: &Status) -> Response<Full<Bytes>> {
    let eligible = !status.draining.get();
    let healthy = match path {
        "/healthz" => status.live().is_ok() && eligible,
        "/livez" => status.live().is_ok(),
        _ => {
            let mut response = Response::new(Full::new("404 page not found\n".into()));
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        }
    };
    let now = crate::log::rfc3339(lb_core::rt::wall_clock());
    let body = format!(
        "{{\"lastUpdated\": \"{now}\",\"currentTime\": \"{now}\", \"nodeEligible\": {eligible}}}"
    );
    let mut response = Response::new(Full::new(body.into()));
    if !healthy {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

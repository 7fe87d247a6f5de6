//! A client and a backend that speak HTTP/2 by the `h2` crate, each test in a runtime of its own.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use lb_core::plan::{self, BackendProtocol};
use lb_core::rt::EngineKind;

use crate::support::{PATIENCE, Proxy, cluster_plan, http_plan};

/// Runs a test's asynchronous part, but not for ever.
pub(crate) fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("an end") })
}

/// A proxy to backends that are spoken to in HTTP/2.
pub(crate) fn proxy_to_http2(engine: EngineKind, backends: &[SocketAddr]) -> Proxy {
    let cluster = plan::Cluster {
        protocol: BackendProtocol::Http2,
        ..cluster_plan("main", backends)
    };
    Proxy::start(engine, http_plan(), &[cluster])
}

/// A client's connection.
pub(crate) async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    client.ready().await.unwrap()
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) head: Response<()>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

/// Reads a body to its end, giving back its window.
pub(crate) async fn read(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, body.trailers().await?))
}

/// Sends all of a body as the window allows, and its end.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, body: &[u8], trailers: Option<HeaderMap>) {
    let mut rest = Bytes::copy_from_slice(body);
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return; // reset: that is the test's subject
        };
        let piece = rest.split_to(room.min(rest.len()));
        let ends = rest.is_empty() && trailers.is_none();
        let _ = stream.send_data(piece, ends);
    }
    if let Some(trailers) = trailers {
        let _ = stream.send_trailers(trailers);
    } else if body.is_empty() {
        let _ = stream.send_data(Bytes::new(), true);
    }
}

/// One exchange on a connection.
pub(crate) async fn ask(
    client: &SendRequest<Bytes>,
    request: Request<()>,
    body: Option<(&[u8], Option<HeaderMap>)>,
) -> Result<Whole, h2::Error> {
    let mut client = client.clone().ready().await?;
    let (response, mut stream) = client.send_request(request, body.is_none())?;
    let sending = async {
        if let Some((bytes, trailers)) = body {
            send(&mut stream, bytes, trailers).await;
        }
    };
    let receiving = async {
        let (parts, mut body) = response.await?.into_parts();
        let (body, trailers) = read(&mut body).await?;
        Ok(Whole {
            head: Response::from_parts(parts, ()),
            body,
            trailers,
        })
    };
    tokio::join!(sending, receiving).1
}

pub(crate) fn get(path: &str) -> Request<()> {
    let uri = format!("http://test{path}");
    Request::builder().uri(uri).body(()).unwrap()
}

pub(crate) fn post(path: &str) -> http::request::Builder {
    let uri = format!("http://test{path}");
    Request::builder().uri(uri).method("POST")
}

pub(crate) fn trailers(name: &'static str, value: &'static str) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert(name, value.parse().unwrap());
    map
}

/// A backend that speaks HTTP/2; gone with the runtime of the thread that it has.
pub(crate) struct Http2Backend {
    pub(crate) address: SocketAddr,
}

impl Http2Backend {
    /// `handle` serves each request, with the number of its connection.
    pub(crate) fn start<F>(
        builder: h2::server::Builder,
        handle: impl Fn(Request<RecvStream>, SendResponse<Bytes>, usize) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let handle = Arc::new(handle);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                for number in 0.. {
                    let (tcp, _) = listener.accept().await.unwrap();
                    let (handle, builder) = (Arc::clone(&handle), builder.clone());
                    tokio::spawn(async move {
                        let Ok(mut connection) = builder.handshake::<_, Bytes>(tcp).await else {
                            return;
                        };
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            tokio::spawn(handle(request, respond, number));
                        }
                    });
                }
            });
        });
        Self { address }
    }

    /// Answers with the request's body and trailers, and its path, host and number of fields.
    pub(crate) fn echo() -> Self {
        Self::start(
            h2::server::Builder::new(),
            |request, mut respond, number| async move {
                let (parts, mut body) = request.into_parts();
                let mut response = Response::builder()
                    .header("x-path", parts.uri.path())
                    .header("x-connection", number)
                    .header("x-authority", parts.uri.authority().unwrap().as_str());
                for (name, value) in &parts.headers {
                    response = response.header(format!("x-got-{name}"), value);
                }
                let Ok((bytes, trailers)) = read(&mut body).await else {
                    return;
                };
                let ends = bytes.is_empty() && trailers.is_none();
                let response = response.body(()).unwrap();
                let Ok(mut stream) = respond.send_response(response, ends) else {
                    return;
                };
                if !ends {
                    send(&mut stream, &bytes, trailers).await;
                }
            },
        )
    }
}

//! Bodies of streams that are received before a backend is asked, so that another one can be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Response};
use lb_core::plan::{self, BackendProtocol};
use lb_core::rt::EngineKind;

use crate::peers::{Http2Backend, ask, connect, post, read, run, send, trailers};
use crate::support::{Backend, Proxy, cluster_plan, http_plan, ok, on_each_engine};

fn proxy(engine: EngineKind, backends: &[SocketAddr], protocol: BackendProtocol) -> Proxy {
    let mut http = http_plan();
    http.exchanges.request_buffer = 100_000;
    let mut cluster = plan::Cluster {
        protocol,
        ..cluster_plan("main", backends)
    };
    cluster.exchanges.retry_budget = None;
    Proxy::start(engine, http, &[cluster])
}

/// A request that may be repeated, with this body, its length declared or not.
async fn put(
    proxy: &Proxy,
    body: &[u8],
    is_declared: bool,
    end: Option<HeaderMap>,
) -> crate::peers::Whole {
    let client = connect(proxy.address).await;
    let mut request = post("/").method("PUT");
    if is_declared {
        request = request.header("content-length", body.len());
    }
    let request = request.body(()).unwrap();
    ask(&client, request, Some((body, end))).await.unwrap()
}

#[test]
fn a_gathered_body_is_sent_to_another_backend_of_http1() {
    on_each_engine(|engine| {
        let asked = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&asked);
        let ending = Backend::scripted(move |mut connection, _| {
            if connection.request().is_some() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        let echo = Backend::responding(|request| ok(&request.body));
        let backends = [ending.address, echo.address];
        let proxy = proxy(engine, &backends, BackendProtocol::Http1);
        let body: Vec<u8> = (0..50_000_u32).map(|it| it as u8).collect();
        run(async {
            for is_declared in [true, true, false, false] {
                let got = put(&proxy, &body, is_declared, None).await;
                assert_eq!(got.head.status(), 200, "declared: {is_declared}");
                if is_declared {
                    assert!(got.body == body);
                } else {
                    assert!(got.body.ends_with(b"\r\n0\r\n\r\n"), "as chunks");
                    let data = got.body.len() - body.len();
                    assert!(data < 200, "{data} bytes of framing");
                }
            }
        });
        assert!(asked.load(Ordering::Relaxed) > 0);
        let counters = proxy.clusters[0].counters().of(0);
        assert!(counters.retries.get() > 0);
    });
}

#[test]
fn a_gathered_body_is_sent_to_another_backend_of_http2() {
    on_each_engine(|engine| {
        let dying = Http2Backend::start(h2::server::Builder::new(), |request, _, _| async move {
            let _ = read(&mut request.into_body()).await; // and no answer: the stream is reset
        });
        let echo = Http2Backend::echo();
        let backends = [dying.address, echo.address];
        let proxy = proxy(engine, &backends, BackendProtocol::Http2);
        let body: Vec<u8> = (0..50_000_u32).map(|it| it as u8).collect();
        run(async {
            for is_declared in [true, true, false, false] {
                for end in [None, Some(trailers("x-sum", "5"))] {
                    let got = put(&proxy, &body, is_declared, end.clone()).await;
                    assert_eq!(got.head.status(), 200);
                    assert!(got.body == body);
                    assert_eq!(got.trailers, end);
                }
            }
        });
        let counters = proxy.clusters[0].counters().of(0);
        assert!(counters.retries.get() > 0);
    });
}

#[test]
fn a_longer_body_is_passed_on() {
    on_each_engine(|engine| {
        let body = vec![b'x'; 700_000];
        let echo = Http2Backend::echo();
        let http2 = proxy(engine, &[echo.address], BackendProtocol::Http2);
        let echo = Backend::responding(|request| {
            let data = request.body.iter().filter(|it| **it == b'x').count();
            ok(data.to_string().as_bytes())
        });
        let http1 = proxy(engine, &[echo.address], BackendProtocol::Http1);
        run(async {
            for is_declared in [true, false] {
                assert!(put(&http2, &body, is_declared, None).await.body == body);
                let counted = put(&http1, &body, is_declared, None).await;
                assert_eq!(counted.body, b"700000");
            }
        });
    });
}

#[test]
fn messages_of_a_call_are_not_held_up() {
    on_each_engine(|engine| {
        let backend = Http2Backend::start(
            h2::server::Builder::new(),
            |request, mut respond, _| async move {
                let mut body = request.into_body();
                let first = body.data().await.unwrap().unwrap();
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                send(&mut stream, &first, None).await;
            },
        );
        let proxy = proxy(engine, &[backend.address], BackendProtocol::Http2);
        run(async {
            let client = connect(proxy.address).await;
            let call = post("/").header("content-type", "application/grpc");
            let mut client = client.ready().await.unwrap();
            let (response, mut stream) =
                client.send_request(call.body(()).unwrap(), false).unwrap();
            stream
                .send_data(Bytes::from_static(b"first"), false)
                .unwrap();
            let mut body = response.await.unwrap().into_body();
            assert_eq!(read(&mut body).await.unwrap().0, b"first");
        });
    });
}

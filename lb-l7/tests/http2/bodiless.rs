//! Answers without a body, 204 and 304, that do not wait for the request's: the client gets them
//! whole, and both connections of HTTP/2 are used on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use h2::{Reason, SendStream};
use http::Response;

use crate::peers::{Http2Backend, ask, connect, get, post, proxy_to_http2, run};
use crate::support::{Backend, Proxy, ok, on_each_engine};

const STATUSES: [u16; 2] = [204, 304];
const PIECE: &[u8] = b"the first of it";

/// Answers a POST as its path says once the first of its body is here, and reads on until that
/// ends in any way; a GET at once.
fn old() -> Backend {
    Backend::scripted(|mut connection, number| {
        while let Ok(head) = connection.head() {
            if head.starts_with("GET ") {
                connection.send(&ok(number.to_string().as_bytes()));
                continue;
            }
            connection.line_end(PIECE).unwrap();
            let answer = match head.contains("/204") {
                true => "HTTP/1.1 204 No Content\r\nX-Kind: 204\r\n\r\n",
                false => "HTTP/1.1 304 Not Modified\r\nX-Kind: 304\r\nContent-Length: 5\r\n\r\n",
            };
            connection.send(answer.as_bytes());
            while connection.read_some(&mut [0; 4096]) > 0 {}
        }
    })
}

/// The same by HTTP/2; with `resets`, it tells the client that the rest is not needed (RFC 9113
/// section 8.1). Counts the requests whose rest was given up.
fn new(resets: bool, given_up: Arc<AtomicUsize>) -> Http2Backend {
    Http2Backend::start(
        h2::server::Builder::new(),
        move |request, mut respond, number| {
            let given_up = Arc::clone(&given_up);
            async move {
                let (parts, mut body) = request.into_parts();
                let response = Response::builder().header("x-connection", number);
                if parts.method == "GET" {
                    return drop(respond.send_response(response.body(()).unwrap(), true));
                }
                let mut got = Vec::new();
                while got.len() < PIECE.len() {
                    got.extend_from_slice(&body.data().await.unwrap().unwrap());
                }
                let kind = &parts.uri.path()[1..];
                let response = response.status(kind).header("x-kind", kind);
                let sent = respond.send_response(response.body(()).unwrap(), true);
                drop(sent.unwrap());
                if resets {
                    drop(body); // who drops it behind its answer sends RST_STREAM(NO_ERROR)
                    given_up.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                }
                given_up.fetch_add(1, Ordering::Relaxed);
            }
        },
    )
}

/// Waits until the stream is reset, and says why.
async fn reason(stream: &mut SendStream<bytes::Bytes>) -> Reason {
    std::future::poll_fn(|cx| stream.poll_reset(cx))
        .await
        .unwrap()
}

/// Uploads that never end by themselves: each is answered, and given up by NO_ERROR.
async fn check_frames(proxy: &Proxy, what: &str) {
    let client = connect(proxy.address).await;
    for declared in [None, Some(1 << 20)] {
        for status in STATUSES {
            let what = format!("{what}: {status}, {declared:?}");
            let mut request = post(&format!("/{status}"));
            if let Some(declared) = declared {
                request = request.header("content-length", declared);
            }
            let request = request.body(()).unwrap();
            let mut client = client.clone().ready().await.expect(&what);
            let (response, mut stream) = client.send_request(request, false).unwrap();
            stream.send_data(PIECE.into(), false).unwrap();
            let (head, mut body) = response.await.expect(&what).into_parts();
            assert_eq!(head.status, status, "{what}");
            assert_eq!(head.headers["x-kind"], status.to_string(), "{what}");
            assert!(body.data().await.is_none(), "{what}: an end, and no reset");
            assert!(body.trailers().await.expect(&what).is_none(), "{what}");
            assert_eq!(reason(&mut stream).await, Reason::NO_ERROR, "{what}");
            let again = ask(&client, get("/"), None).await.expect(&what);
            assert_eq!(again.head.status(), 200, "{what}: the connection goes on");
        }
    }
}

#[test]
fn a_client_of_http2_is_told_to_stop_without_an_error() {
    on_each_engine(|engine| {
        let backend = old();
        run(check_frames(
            &Proxy::to(engine, &[backend.address]),
            "HTTP/1.1",
        ));
        for resets in [false, true] {
            let given_up = Arc::<AtomicUsize>::default();
            let backend = new(resets, Arc::clone(&given_up));
            let proxy = proxy_to_http2(engine, &[backend.address]);
            run(async {
                check_frames(&proxy, &format!("HTTP/2, resets: {resets}")).await;
                while given_up.load(Ordering::Relaxed) < 4 {
                    tokio::task::yield_now().await;
                }
                let client = connect(proxy.address).await;
                let got = ask(&client, get("/"), None).await.unwrap();
                assert_eq!(got.head.headers()["x-connection"], "0", "the only one");
            });
        }
    });
}

#[test]
fn a_client_of_http1_is_answered_by_a_backend_of_http2() {
    on_each_engine(|engine| {
        for resets in [false, true] {
            let given_up = Arc::<AtomicUsize>::default();
            let backend = new(resets, Arc::clone(&given_up));
            let proxy = proxy_to_http2(engine, &[backend.address]);
            for framing in ["Transfer-Encoding: chunked", "Content-Length: 1000000"] {
                for status in STATUSES {
                    let what = format!("{status}, {framing}, resets: {resets}");
                    let mut client = proxy.connect();
                    let head =
                        format!("POST /{status} HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n");
                    client.send(head.as_bytes());
                    if framing.contains("chunked") {
                        client.send(format!("{:x}\r\n", PIECE.len()).as_bytes());
                    }
                    client.send(PIECE);
                    let got = client.response();
                    assert_eq!(got.status, status, "{what}");
                    assert_eq!(got.field("x-kind"), Some(&*status.to_string()), "{what}");
                    // What is left of the body cannot be told from a request.
                    assert_eq!(got.field("connection"), Some("close"), "{what}");
                    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
                    assert!(client.is_closed(), "{what}");
                    let again = proxy.connect().get("/");
                    assert_eq!(again.status, 200, "{what}");
                    let connection = again.field("x-connection");
                    assert_eq!(connection, Some("0"), "{what}: the only one");
                }
            }
            reaches(&given_up, 4);
        }
    });
}

fn reaches(count: &AtomicUsize, expected: usize) {
    run(async {
        while count.load(Ordering::Relaxed) < expected {
            tokio::task::yield_now().await;
        }
    });
}

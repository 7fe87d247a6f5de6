//! Streams and connections that end before their time, and what the other side learns of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use h2::Reason;
use http::Response;

use crate::peers::{Http2Backend, ask, connect, get, post, proxy_to_http2, run, send};
use crate::support::{Backend, Proxy, ok, on_each_engine};

/// Waits until `count` is `expected`.
async fn reaches(count: &AtomicUsize, expected: usize) {
    while count.load(Ordering::Relaxed) != expected {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_client_that_resets_a_stream_cancels_the_backend() {
    on_each_engine(|engine| {
        let ended = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&ended);
        let old = Backend::scripted(move |mut connection, _| {
            let _ = connection.head();
            assert!(connection.head().is_err(), "the connection ends");
            count.fetch_add(1, Ordering::Relaxed);
        });
        let count = Arc::clone(&ended);
        let new = Http2Backend::start(h2::server::Builder::new(), move |_, mut respond, _| {
            let count = Arc::clone(&count);
            async move {
                let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                assert_eq!(reason.unwrap(), Reason::CANCEL);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let proxies = [
            Proxy::to(engine, &[old.address]),
            proxy_to_http2(engine, &[new.address]),
        ];
        for (nth, proxy) in proxies.iter().enumerate() {
            run(async {
                let mut client = connect(proxy.address).await;
                let (response, mut stream) = client.send_request(get("/"), true).unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                stream.send_reset(Reason::CANCEL);
                drop(response);
                reaches(&ended, nth + 1).await;
            });
        }
    });
}

#[test]
fn a_backend_that_breaks_off_resets_the_stream_alone() {
    on_each_engine(|engine| {
        let old = Backend::responding(|request| match request.head.contains("/broken") {
            true => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".to_vec(),
            false => ok(b"fine"),
        });
        // What follows a broken response is no response: the connection ends with it.
        let old_closes = Backend::scripted(move |mut connection, _| {
            while let Some(request) = connection.request() {
                if request.head.contains("/broken") {
                    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
                    return;
                }
                connection.send(&ok(b"fine"));
            }
        });
        drop(old);
        let new = Http2Backend::start(
            h2::server::Builder::new(),
            |request, mut respond, _| async move {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                if request.uri().path() == "/broken" {
                    let _ = stream.send_data("abc".into(), false);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    stream.send_reset(Reason::INTERNAL_ERROR);
                } else {
                    send(&mut stream, b"fine", None).await;
                }
            },
        );
        for proxy in [
            Proxy::to(engine, &[old_closes.address]),
            proxy_to_http2(engine, &[new.address]),
        ] {
            run(async {
                let client = connect(proxy.address).await;
                let got = ask(&client, get("/broken"), None).await;
                // Nothing has been sent yet if the reset overtakes the rest.
                assert!(got.map_or_else(|it| it.is_reset(), |it| it.head.status() == 502));
                let got = ask(&client, get("/"), None).await.unwrap();
                assert_eq!(got.body, b"fine");
            });
        }
    });
}

#[test]
fn what_a_backend_refuses_is_asked_of_another() {
    on_each_engine(|engine| {
        let refusing =
            Http2Backend::start(h2::server::Builder::new(), |_, mut respond, _| async move {
                respond.send_reset(Reason::REFUSED_STREAM);
            });
        let fine = Http2Backend::echo();
        let proxy = proxy_to_http2(engine, &[refusing.address, fine.address]);
        run(async {
            let client = connect(proxy.address).await;
            for _ in 0..4 {
                // A POST, which may not be repeated for any other reason.
                let request = post("/").header("content-length", "0").body(()).unwrap();
                let got = ask(&client, request, None).await.unwrap();
                assert_eq!(got.head.status(), 200);
            }
        });
    });
}

#[test]
fn a_backend_that_goes_away_is_connected_to_again() {
    on_each_engine(|engine| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            run(async move {
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (tcp, _) = listener.accept().await.unwrap();
                    tokio::spawn(async move {
                        let mut connection = h2::server::handshake(tcp).await.unwrap();
                        while let Some(Ok((_, mut respond))) = connection.accept().await {
                            let _ = respond.send_response(Response::new(()), true);
                            connection.graceful_shutdown();
                        }
                    });
                }
            });
        });
        let proxy = proxy_to_http2(engine, &[address]);
        run(async {
            let client = connect(proxy.address).await;
            for _ in 0..10 {
                let got = ask(&client, post("/").body(()).unwrap(), None)
                    .await
                    .unwrap();
                assert_eq!(got.head.status(), 200);
            }
        });
    });
}

#[test]
fn a_drain_lets_streams_end() {
    on_each_engine(|engine| {
        let backend =
            Http2Backend::start(h2::server::Builder::new(), |_, mut respond, _| async move {
                tokio::time::sleep(Duration::from_millis(2500)).await;
                let _ = respond.send_response(Response::new(()), true);
            });
        let proxy = proxy_to_http2(engine, &[backend.address]);
        run(async {
            let tcp = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
            let (client, connection) = h2::client::handshake(tcp).await.unwrap();
            let connection = tokio::spawn(connection);
            let draining = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                proxy.draining.store(true, Ordering::Relaxed);
            };
            let (got, ()) = tokio::join!(ask(&client, get("/"), None), draining);
            assert_eq!(got.unwrap().head.status(), 200);
            connection.await.unwrap().expect("GOAWAY without an error");
        });
    });
}

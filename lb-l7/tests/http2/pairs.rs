//! Every pairing of HTTP/1.1 and HTTP/2 at the two ends.

use http::{Request, Response};

use crate::peers::{Http2Backend, ask, connect, get, post, proxy_to_http2, run, send, trailers};
use crate::support::{Backend, Proxy, ok, on_each_engine};

const LARGE: usize = 1 << 20;

fn large() -> Vec<u8> {
    (0..LARGE as u32).map(|it| ((it * 7) >> 3) as u8).collect()
}

#[test]
fn a_client_of_http2_is_served_by_a_backend_of_http1() {
    on_each_engine(|engine| {
        let backend = Backend::echo();
        let proxy = Proxy::to(engine, &[backend.address]);
        run(async {
            let client = connect(proxy.address).await;
            let got = ask(&client, get("/a?b"), None).await.unwrap();
            assert_eq!(got.head.status(), 200);
            let text = String::from_utf8(got.body).unwrap();
            assert!(
                text.starts_with("GET /a?b HTTP/1.1\r\nhost: test\r\n"),
                "{text}"
            );
            assert!(text.contains("X-Forwarded-For: 127.0.0.1"), "{text}");
            // With a length, and without.
            let sized = post("/").header("content-length", LARGE).body(()).unwrap();
            let body = large();
            let got = ask(&client, sized, Some((&body, None))).await.unwrap();
            let text = String::from_utf8_lossy(&got.body[..got.body.len().min(400)]);
            assert!(got.body.ends_with(&body), "{} {text:?}", got.body.len());
        });
    });
}

#[test]
fn a_body_without_a_length_becomes_chunks_with_trailers() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| {
            let head = connection.head().unwrap();
            let body = connection.head().unwrap(); // up to the blank line
            connection.send(&ok([head, body].concat().as_bytes()));
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        run(async {
            let client = connect(proxy.address).await;
            let open = post("/").body(()).unwrap();
            let more = Some((&b"hello"[..], Some(trailers("x-sum", "5"))));
            let got = ask(&client, open, more).await.unwrap();
            let text = String::from_utf8(got.body).unwrap();
            assert!(text.contains("Transfer-Encoding: chunked\r\n"), "{text}");
            assert!(
                text.ends_with("\r\n5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n"),
                "{text}"
            );
        });
    });
}

#[test]
fn responses_of_http1_become_frames() {
    on_each_engine(|engine| {
        let backend = Backend::responding(|request| match request.head.split(' ').nth(1) {
            Some("/chunks") => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                3\r\nabc\r\n2;x\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n"
                .to_vec(),
            Some("/hints") => [
                &b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"[..],
                &ok(b"late"),
            ]
            .concat(),
            Some("/none") => b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n".to_vec(),
            Some("/large") => ok(&large()),
            _ if request.head.starts_with("HEAD") => {
                b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n".to_vec()
            }
            _ => ok(b"other"),
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        run(async {
            let client = connect(proxy.address).await;
            let got = ask(&client, get("/chunks"), None).await.unwrap();
            assert_eq!(got.body, b"abcde");
            assert_eq!(got.trailers.unwrap()["x-sum"], "5");
            assert!(got.head.headers().get("transfer-encoding").is_none());
            let got = ask(&client, get("/hints"), None).await.unwrap();
            assert_eq!(got.body, b"late");
            let got = ask(&client, get("/none"), None).await.unwrap();
            assert_eq!((got.head.status().as_u16(), got.body.len()), (204, 0));
            let got = ask(&client, get("/large"), None).await.unwrap();
            assert!(got.body == large());
            let head = Request::builder()
                .method("HEAD")
                .uri("http://test/")
                .body(())
                .unwrap();
            let got = ask(&client, head, None).await.unwrap();
            assert_eq!(got.head.headers()["content-length"], "77");
            assert!(got.body.is_empty());
        });
    });
}

#[test]
fn both_ends_speak_http2() {
    on_each_engine(|engine| {
        let backend = Http2Backend::echo();
        let proxy = proxy_to_http2(engine, &[backend.address]);
        run(async {
            let client = connect(proxy.address).await;
            let got = ask(&client, get("/a"), None).await.unwrap();
            assert_eq!(got.head.headers()["x-path"], "/a");
            assert_eq!(got.head.headers()["x-authority"], "test");
            assert!(got.head.headers().get("x-got-host").is_none());
            let body = large();
            let open = post("/").header("cookie", "a=b").header("cookie", "c=d");
            let more = Some((&body[..], Some(trailers("x-sum", "5"))));
            let got = ask(&client, open.body(()).unwrap(), more).await.unwrap();
            assert!(got.body == body);
            assert_eq!(got.head.headers()["x-got-cookie"], "a=b; c=d");
            assert_eq!(got.trailers.unwrap()["x-sum"], "5");
            assert_eq!(got.head.headers()["x-connection"], "0", "one connection");
        });
    });
}

#[test]
fn many_streams_share_connections() {
    on_each_engine(|engine| {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(10);
        let backend = Http2Backend::start(builder, |_, mut respond, number| async move {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            let response = Response::builder().header("x-connection", number).body(());
            let _ = respond.send_response(response.unwrap(), true);
        });
        let proxy = proxy_to_http2(engine, &[backend.address]);
        run(async {
            let client = connect(proxy.address).await;
            let asked = (0..40).map(|it| {
                let client = client.clone();
                tokio::spawn(async move { ask(&client, get(&format!("/{it}")), None).await })
            });
            let mut used = std::collections::BTreeSet::new();
            for got in asked.collect::<Vec<_>>() {
                let got = got.await.unwrap().unwrap();
                used.insert(
                    got.head.headers()["x-connection"]
                        .to_str()
                        .unwrap()
                        .to_owned(),
                );
            }
            assert!(
                (4..=8).contains(&used.len()),
                "40 streams, 10 a connection: {used:?}"
            );
        });
    });
}

#[test]
fn a_client_of_http1_is_served_by_a_backend_of_http2() {
    on_each_engine(|engine| {
        let backend = Http2Backend::echo();
        let proxy = proxy_to_http2(engine, &[backend.address]);
        let mut client = proxy.connect();
        let got = client.get("/a");
        assert_eq!((got.status, got.field("x-path")), (200, Some("/a")));
        client.send(b"POST /b HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(client.response().text(), "hello");
        client.send(b"POST /c HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(b"5\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 6\r\n\r\n");
        let head = client.head().unwrap();
        assert!(
            head.to_ascii_lowercase()
                .contains("transfer-encoding: chunked"),
            "{head}"
        );
        let rest = client.head().unwrap();
        assert!(
            rest.contains("hello") && rest.ends_with("0\r\nx-sum: 6\r\n\r\n"),
            "{rest}"
        );
        let body = large();
        let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {LARGE}\r\n\r\n");
        let sent = [head.as_bytes(), &body].concat();
        let mut copy = crate::support::Client::to(proxy.address);
        let mut sender = copy.stream.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            std::io::Write::write_all(&mut sender, &sent).unwrap();
        });
        assert!(copy.response().body == body);
        sending.join().unwrap();
    });
}

#[test]
fn an_early_response_ends_the_upload() {
    on_each_engine(|engine| {
        let backend =
            Http2Backend::start(h2::server::Builder::new(), |_, mut respond, _| async move {
                let response = Response::builder().status(413).body(()).unwrap();
                let mut stream = respond.send_response(response, false).unwrap();
                send(&mut stream, b"too much", None).await;
            });
        let proxy = proxy_to_http2(engine, &[backend.address]);
        run(async {
            let client = connect(proxy.address).await;
            let body = vec![b'x'; 4 << 20];
            let got = ask(&client, post("/").body(()).unwrap(), Some((&body, None))).await;
            let got = got.unwrap();
            assert_eq!(
                (got.head.status().as_u16(), &got.body[..]),
                (413, &b"too much"[..])
            );
            let again = ask(&client, get("/"), None).await.unwrap();
            assert_eq!(again.head.status(), 413, "the connection goes on");
        });
    });
}

#[test]
fn failures_of_calls_are_told_as_grpc_statuses() {
    on_each_engine(|engine| {
        let proxy = Proxy::to(engine, &[crate::support::refusing()]);
        run(async {
            let client = connect(proxy.address).await;
            let call = post("/a.B/C").header("content-type", "application/grpc+proto");
            let got = ask(&client, call.body(()).unwrap(), Some((b"\0\0\0\0\0", None))).await;
            let got = got.unwrap();
            assert_eq!((got.head.status().as_u16(), got.body.len()), (200, 0));
            assert_eq!(got.head.headers()["grpc-status"], "14");
            assert_eq!(got.head.headers()["content-type"], "application/grpc");
            let got = ask(&client, get("/"), None).await.unwrap();
            assert_eq!(got.head.status(), 503);
        });
    });
}

#[test]
fn a_websocket_over_a_stream_is_one_over_a_connection_behind() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| {
            let head = connection.head().unwrap().to_ascii_lowercase();
            assert!(head.starts_with("get /chat http/1.1\r\n"), "{head}");
            for field in [
                "upgrade: websocket\r\n",
                "connection: upgrade\r\n",
                "sec-websocket-key: ",
            ] {
                assert!(head.contains(field), "{head}");
            }
            connection.send(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                Connection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhello",
            );
            let line = connection.head().unwrap(); // the client's bytes, as they are
            connection.send(line.as_bytes());
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        run(async {
            let mut client = connect(proxy.address).await;
            while !client.is_extended_connect_protocol_enabled() {
                tokio::task::yield_now().await;
            }
            let mut request = Request::builder()
                .method("CONNECT")
                .uri("http://test/chat")
                .body(())
                .unwrap();
            request
                .extensions_mut()
                .insert(h2::ext::Protocol::from_static("websocket"));
            let (response, mut stream) = client.send_request(request, false).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200);
            assert!(response.headers().get("sec-websocket-accept").is_none());
            stream.send_data("ping\r\n\r\n".into(), false).unwrap();
            let mut body = response.into_body();
            let mut got = Vec::new();
            while !got.ends_with(b"ping\r\n\r\n") {
                got.extend_from_slice(&body.data().await.unwrap().unwrap());
            }
            assert_eq!(got, b"helloping\r\n\r\n");
            stream.send_data("".into(), true).unwrap();
            while let Some(end) = body.data().await {
                assert!(end.expect("an end, and no reset").is_empty());
            }
        });
    });
}

/// A backend that echoes what comes on a WebSocket's stream, or does not take any.
fn websocket_backend(takes: bool) -> Http2Backend {
    let mut builder = h2::server::Builder::new();
    if takes {
        builder.enable_connect_protocol();
    }
    Http2Backend::start(builder, |request, mut respond, _| async move {
        let (parts, mut body) = request.into_parts();
        if parts.method != "CONNECT" {
            assert!(parts.headers.get("upgrade").is_none());
            return drop(respond.send_response(Response::new(()), true));
        }
        let protocol = parts.extensions.get::<h2::ext::Protocol>();
        assert_eq!(protocol.map(h2::ext::Protocol::as_str), Some("websocket"));
        assert_eq!(parts.uri.path(), "/chat");
        assert!(parts.headers.get("sec-websocket-key").is_none());
        assert_eq!(parts.headers["sec-websocket-version"], "13");
        let response = Response::builder().header("sec-websocket-protocol", "chat");
        let mut stream = respond
            .send_response(response.body(()).unwrap(), false)
            .unwrap();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            if !data.is_empty() {
                stream.send_data(data, false).unwrap();
            }
        }
        let _ = stream.send_data("".into(), true);
    })
}

const HANDSHAKE: &[u8] = b"GET /chat HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn a_websocket_over_a_connection_is_one_over_a_stream_behind() {
    on_each_engine(|engine| {
        let backend = websocket_backend(true);
        let proxy = proxy_to_http2(engine, &[backend.address]);
        let mut client = proxy.connect();
        client.send(HANDSHAKE);
        client.send(b"early\r\n\r\n");
        let head = client.head().unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let lower = head.to_ascii_lowercase();
        for field in [
            "\r\nconnection: upgrade\r\n",
            "\r\nupgrade: websocket\r\n",
            "\r\nsec-websocket-protocol: chat\r\n",
        ] {
            assert!(lower.contains(field), "{head}");
        }
        assert!(
            head.contains(": s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
            "{head}"
        );
        assert_eq!(client.head().unwrap(), "early\r\n\r\n");
        client.send(b"late\r\n\r\n");
        assert_eq!(client.head().unwrap(), "late\r\n\r\n");
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut client.stream, &mut rest).unwrap();
        assert!(rest.is_empty());
        // Another protocol than that is not asked for: HTTP/2 knows no upgrade.
        let mut client = proxy.connect();
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
        assert_eq!(client.response().status, 200);
    });
}

#[test]
fn a_websocket_goes_from_stream_to_stream() {
    on_each_engine(|engine| {
        let backend = websocket_backend(true);
        let proxy = proxy_to_http2(engine, &[backend.address]);
        run(async {
            let mut client = connect(proxy.address).await;
            while !client.is_extended_connect_protocol_enabled() {
                tokio::task::yield_now().await;
            }
            let mut request = Request::builder()
                .method("CONNECT")
                .uri("http://test/chat")
                .header("sec-websocket-version", "13")
                .body(())
                .unwrap();
            let protocol = h2::ext::Protocol::from_static("websocket");
            request.extensions_mut().insert(protocol);
            let (response, mut stream) = client.send_request(request, false).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200);
            assert!(response.headers().get("sec-websocket-accept").is_none());
            assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
            let mut body = response.into_body();
            let sent = large();
            let ((), got) = tokio::join!(
                send(&mut stream, &sent, None),
                crate::peers::read(&mut body)
            );
            assert!(got.unwrap().0 == sent);
        });
    });
}

#[test]
fn a_backend_that_takes_no_websockets_is_not_asked_for_one() {
    on_each_engine(|engine| {
        let backend = websocket_backend(false);
        let proxy = proxy_to_http2(engine, &[backend.address]);
        let mut client = proxy.connect();
        client.send(HANDSHAKE);
        let got = client.response();
        assert_eq!(got.status, 502);
        assert!(got.text().contains("no WebSockets"), "{}", got.text());
        assert_eq!(client.get("/").status, 200, "the connection goes on");
    });
}

/// A handshake that is not accepted is answered like any request, on the same stream.
#[test]
fn a_websocket_that_is_refused_is_told_so() {
    on_each_engine(|engine| {
        let old = Backend::responding(|request| {
            let is_asked = request
                .head
                .to_ascii_lowercase()
                .contains("upgrade: websocket");
            assert!(is_asked || request.head.starts_with("GET / "));
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\nX-Why: you\r\n\r\nno!".to_vec()
        });
        let mut builder = h2::server::Builder::new();
        builder.enable_connect_protocol();
        let new = Http2Backend::start(builder, |_, mut respond, _| async move {
            let head = Response::builder().status(403).header("x-why", "you");
            let mut stream = respond
                .send_response(head.body(()).unwrap(), false)
                .unwrap();
            send(&mut stream, b"no!", None).await;
        });
        for proxy in [
            Proxy::to(engine, &[old.address]),
            proxy_to_http2(engine, &[new.address]),
        ] {
            run(async {
                let mut client = connect(proxy.address).await;
                while !client.is_extended_connect_protocol_enabled() {
                    tokio::task::yield_now().await;
                }
                let request = Request::builder().method("CONNECT").uri("http://test/chat");
                let mut request = request.body(()).unwrap();
                let protocol = h2::ext::Protocol::from_static("websocket");
                request.extensions_mut().insert(protocol);
                let (response, _stream) = client.send_request(request, false).unwrap();
                let (head, mut body) = response.await.unwrap().into_parts();
                assert_eq!(
                    (head.status.as_u16(), &head.headers["x-why"]),
                    (403, &"you".parse().unwrap())
                );
                assert_eq!(crate::peers::read(&mut body).await.unwrap().0, b"no!");
                let again = ask(&client, get("/"), None).await.unwrap();
                assert_eq!(again.head.status(), 403, "the connection goes on");
            });
            let mut client = proxy.connect();
            client.send(HANDSHAKE);
            let got = client.response();
            assert_eq!(
                (got.status, got.text(), got.field("x-why")),
                (403, "no!", Some("you"))
            );
            assert_eq!(client.get("/").status, 403, "the connection goes on");
        }
    });
}

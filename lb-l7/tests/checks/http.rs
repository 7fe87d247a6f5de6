//! HTTP: statuses, and everything that is no answer.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use lb_core::plan::HttpCheck;
use lb_core::rt::{TcpStream, sleep};
use lb_l7::check::{CheckError, HttpChecker, Step};

use crate::{LONG, SHORT, head, on_each_engine, refusing, send, serve};

/// A server that reads a request, then sends `pieces`, and waits for the end.
fn answering(pieces: &'static [&'static str]) -> SocketAddr {
    serve(move |stream| async move {
        head(&stream).await;
        for piece in pieces {
            send(&stream, piece.as_bytes()).await;
            sleep(Duration::from_millis(1)).await;
        }
        drop(stream.recv().await);
    })
}

async fn check(address: SocketAddr, check: &HttpCheck) -> Result<(), CheckError> {
    let checker = HttpChecker::new(check, None).unwrap();
    checker.check(address, LONG).await
}

async fn failure(address: SocketAddr) -> String {
    let result = check(address, &HttpCheck::default()).await;
    result.expect_err("a failure").to_string()
}

#[test]
fn the_request_says_what_the_plan_says() {
    on_each_engine(|| async {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let address = serve({
            let seen = Rc::clone(&seen);
            move |stream: TcpStream| {
                let seen = Rc::clone(&seen);
                async move {
                    let head = head(&stream).await;
                    seen.borrow_mut().push(head);
                    send(&stream, b"HTTP/1.1 204 No Content\r\n\r\n").await;
                }
            }
        });
        check(address, &HttpCheck::default()).await.expect("204");
        let other = HttpCheck {
            method: "POST".into(),
            path: "/healthz?full=1".into(),
            host: Some("shop.example".into()),
            ..HttpCheck::default()
        };
        check(address, &other).await.expect("204");
        let rest = "User-Agent: lb-health-check\r\nAccept: */*\r\n";
        assert_eq!(
            *seen.borrow(),
            [
                format!("GET / HTTP/1.1\r\nHost: {address}\r\n{rest}Connection: close\r\n\r\n"),
                format!(
                    "POST /healthz?full=1 HTTP/1.1\r\nHost: shop.example\r\n{rest}\
                     Content-Length: 0\r\nConnection: close\r\n\r\n"
                ),
            ]
        );
    });
}

#[test]
fn the_status_decides() {
    on_each_engine(|| async {
        let ok = answering(&["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"]);
        check(ok, &HttpCheck::default()).await.expect("200");
        let unwell = answering(&["HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"]);
        assert_eq!(failure(unwell).await, "expected status 200-399, got 503");
        let picky = HttpCheck {
            expected: vec!["200".parse().unwrap(), "5xx".parse().unwrap()],
            ..HttpCheck::default()
        };
        check(unwell, &picky).await.expect("503 is expected");
        let elsewhere = answering(&["HTTP/1.0 302 Found\r\nLocation: /login\r\n\r\n"]);
        check(elsewhere, &HttpCheck::default()).await.expect("302");
        let error = check(elsewhere, &picky).await.unwrap_err();
        assert_eq!(error.to_string(), "expected status 200, 500-599, got 302");
    });
}

#[test]
fn a_head_may_come_in_pieces_and_after_interim_ones() {
    on_each_engine(|| async {
        let slow = answering(&[
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early",
            " Hints\r\nLink: </a>\r\n",
            "\r\nHTTP/1.1 20",
            "4 No Content\r\nServer: x\r\n\r",
            "\n",
        ]);
        check(slow, &HttpCheck::default()).await.expect("204");
        let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(40);
        let endless = serve(move |stream| {
            let interim = interim.clone();
            async move {
                head(&stream).await;
                send(&stream, interim.as_bytes()).await;
                drop(stream.recv().await);
            }
        });
        assert_eq!(
            failure(endless).await,
            "expected a final response, got interim ones (1xx) only"
        );
        let switching = answering(&["HTTP/1.1 101 Switching Protocols\r\n\r\n"]);
        assert_eq!(failure(switching).await, "expected status 200-399, got 101");
    });
}

#[test]
fn what_is_no_response_is_a_failure() {
    on_each_engine(|| async {
        for (nonsense, reason) in [
            (
                "SSH-2.0-OpenSSH_9.9\r\n",
                "the HTTP version is not supported",
            ),
            ("HTTP/1.1 99 Low\r\n\r\n", "the status line is malformed"),
            (
                "HTTP/1.1 200 OK\nX: y\n\n",
                "a line of the head does not end in CRLF",
            ),
            (
                "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
                "a header field is malformed",
            ),
        ] {
            let address = serve(move |stream| async move {
                head(&stream).await;
                send(&stream, nonsense.as_bytes()).await;
                drop(stream.recv().await);
            });
            assert_eq!(
                failure(address).await,
                format!("expected an HTTP/1.1 response, but {reason}")
            );
        }
        let endless = serve(|stream| async move {
            head(&stream).await;
            let field = format!("X: {}\r\n", "y".repeat(8000));
            send(
                &stream,
                format!("HTTP/1.1 200 OK\r\n{field}{field}{field}").as_bytes(),
            )
            .await;
            drop(stream.recv().await);
        });
        assert_eq!(
            failure(endless).await,
            "expected an HTTP/1.1 response, but the head is too long"
        );
    });
}

#[test]
fn a_backend_that_leaves_is_a_failure() {
    on_each_engine(|| async {
        for head_start in ["", "HTTP/1.1 200 OK\r\nContent-"] {
            let closing = serve(move |stream| async move {
                head(&stream).await;
                send(&stream, head_start.as_bytes()).await;
            });
            assert_eq!(
                failure(closing).await,
                "the backend closed the connection before it had answered"
            );
        }
        let resetting = serve(|stream| async move {
            head(&stream).await;
            stream.reset();
        });
        let text = failure(resetting).await;
        assert!(
            text.starts_with("the connection broke: Connection reset"),
            "{text}"
        );
        let text = failure(refusing()).await;
        assert!(text.starts_with("connect: Connection refused"), "{text}");
    });
}

#[test]
fn the_limit_covers_everything() {
    on_each_engine(|| async {
        let silent = serve(|stream| async move {
            head(&stream).await;
            drop(stream.recv().await);
        });
        // One byte at a time, each well within the limit.
        let dripping = serve(|stream| async move {
            head(&stream).await;
            send(&stream, b"HTTP/1.1 200 OK\r\n").await;
            while stream
                .send(lb_core::rt::Chunk::from_static(b"x"))
                .await
                .is_ok()
            {
                sleep(Duration::from_millis(10)).await;
            }
        });
        let checker = HttpChecker::new(&HttpCheck::default(), None).unwrap();
        for address in [silent, dripping] {
            let error = checker.check(address, SHORT).await.unwrap_err();
            assert!(
                matches!(error, CheckError::TimedOut { limit, step: Step::Response } if limit == SHORT)
            );
            assert_eq!(error.to_string(), "no complete answer within 100ms");
        }
    });
}

//! The gRPC health service, in the clear and over TLS.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use lb_core::plan::{GrpcCheck, TlsCheck};
use lb_core::rt::{TcpStream, spawn};
use lb_l7::check::{CheckError, GrpcChecker, Step};
use lb_l7::stream::{Stream, TokioStream};

use crate::{Identity, LONG, SHORT, on_each_engine, send, serve};

/// What a server answers: a head, a message, trailers.
#[derive(Clone, Default)]
struct Answer {
    status: u16,
    fields: &'static [(&'static str, &'static str)],
    message: Option<&'static [u8]>,
    trailers: &'static [(&'static str, &'static str)],
}

/// What an answer is made by.
trait Script: Fn(&Request<()>, &[u8]) -> Answer {}
impl<F: Fn(&Request<()>, &[u8]) -> Answer> Script for F {}

const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc")];

fn says(message: &'static [u8]) -> Answer {
    Answer {
        status: 200,
        fields: GRPC,
        message: Some(message),
        trailers: &[("grpc-status", "0")],
    }
}

fn serving() -> Answer {
    says(&[0, 0, 0, 0, 2, 8, 1])
}

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.insert(*name, value.parse().unwrap());
    }
    headers
}

/// Answers every call on `stream` with what `answer` makes of its head and message.
async fn converse(stream: Stream, answer: Rc<dyn Script>) {
    let Ok(mut connection) = h2::server::handshake(TokioStream::new(stream)).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let answer = Rc::clone(&answer);
        spawn(async move {
            let (parts, mut body) = request.into_parts();
            let mut message = Vec::new();
            while let Some(Ok(data)) = body.data().await {
                message.extend_from_slice(&data);
            }
            let answer = answer(&Request::from_parts(parts, ()), &message);
            let mut response = Response::new(());
            *response.status_mut() = answer.status.try_into().unwrap();
            *response.headers_mut() = headers(answer.fields);
            let is_end = answer.message.is_none();
            let mut body = respond.send_response(response, is_end).unwrap();
            if let Some(message) = answer.message {
                body.send_data(Bytes::from_static(message), false).unwrap();
                body.send_trailers(headers(answer.trailers)).unwrap();
            }
        });
    }
    poll_fn(|cx| connection.poll_closed(cx)).await.ok();
}

fn backend(answer: impl Script + 'static) -> SocketAddr {
    let answer: Rc<dyn Script> = Rc::new(answer);
    serve(move |stream| converse(Stream::Plain(stream), Rc::clone(&answer)))
}

async fn check(address: SocketAddr, service: &str) -> Result<(), CheckError> {
    let check = GrpcCheck {
        service: service.to_owned(),
        ..GrpcCheck::default()
    };
    GrpcChecker::new(&check).unwrap().check(address, LONG).await
}

async fn failure(answer: Answer) -> String {
    let address = backend(move |_, _| answer.clone());
    check(address, "").await.expect_err("a failure").to_string()
}

#[test]
fn a_service_that_serves_is_well() {
    on_each_engine(|| async {
        let address = backend(|request, message| {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            assert_eq!(request.headers()["content-type"], "application/grpc");
            assert_eq!(request.headers()["te"], "trailers");
            assert_eq!(request.headers()["grpc-timeout"], "30000m");
            let is_known = message == [0; 5] || message == b"\0\0\0\0\x06\x0A\x04shop";
            if is_known {
                serving()
            } else {
                says(&[0, 0, 0, 0, 2, 8, 3])
            }
        });
        check(address, "").await.expect("the whole");
        check(address, "shop").await.expect("a service");
        let error = check(address, "shoq").await.unwrap_err();
        assert_eq!(error.to_string(), "expected SERVING, got SERVICE_UNKNOWN");
    });
}

#[test]
fn anything_but_serving_is_a_failure() {
    on_each_engine(|| async {
        assert_eq!(
            failure(says(&[0, 0, 0, 0, 2, 8, 2])).await,
            "expected SERVING, got NOT_SERVING"
        );
        assert_eq!(
            failure(says(&[0, 0, 0, 0, 0])).await,
            "expected SERVING, got UNKNOWN"
        );
        let unimplemented = Answer {
            status: 200,
            fields: &[
                ("content-type", "application/grpc+proto"),
                ("grpc-status", "12"),
                ("grpc-message", "unknown service grpc.health.v1.Health"),
            ],
            ..Answer::default()
        };
        assert_eq!(
            failure(unimplemented).await,
            "expected SERVING, got grpc-status 12 (UNIMPLEMENTED): \
             unknown service grpc.health.v1.Health"
        );
        let late = Answer {
            trailers: &[("grpc-status", "14")],
            ..serving()
        };
        assert_eq!(
            failure(late).await,
            "expected SERVING, got grpc-status 14 (UNAVAILABLE)"
        );
    });
}

#[test]
fn what_is_no_grpc_is_a_failure() {
    on_each_engine(|| async {
        let prefix = "expected a gRPC response, got";
        let not_found = Answer {
            status: 404,
            ..Answer::default()
        };
        assert_eq!(
            failure(not_found).await,
            format!("{prefix} HTTP status 404")
        );
        let page = Answer {
            status: 200,
            fields: &[("content-type", "text/html")],
            ..Answer::default()
        };
        assert_eq!(
            failure(page).await,
            format!("{prefix} the content type \"text/html\"")
        );
        let endless = says(&[0; 4000]);
        assert_eq!(
            failure(endless).await,
            format!("{prefix} a message of more than 1024 bytes")
        );
        let other = says(b"\0\0\0\0\x02\x08\xFF");
        assert_eq!(
            failure(other).await,
            format!("{prefix} a message that is not a HealthCheckResponse")
        );
        let silent = Answer {
            trailers: &[],
            ..serving()
        };
        assert_eq!(failure(silent).await, format!("{prefix} no grpc-status"));
        let http1 = serve(|stream: TcpStream| async move {
            drop(stream.recv().await);
            send(
                &stream,
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
            )
            .await;
        });
        let text = check(http1, "").await.unwrap_err().to_string();
        assert!(
            text.starts_with(&format!("{prefix} an HTTP/2 error: ")),
            "{text}"
        );
    });
}

#[test]
fn a_backend_that_leaves_or_hangs_is_a_failure() {
    on_each_engine(|| async {
        let closing = serve(|stream: TcpStream| async move {
            drop(stream.recv().await);
        });
        let error = check(closing, "").await.unwrap_err();
        assert!(matches!(error, CheckError::Lost(_)), "{error}");
        let resetting = serve(|stream: TcpStream| async move {
            drop(stream.recv().await);
            stream.reset();
        });
        let error = check(resetting, "").await.unwrap_err();
        assert!(matches!(error, CheckError::Lost(_)), "{error}");
        let silent = serve(|stream: TcpStream| async move {
            while stream.recv().await.is_ok_and(|chunk| !chunk.is_empty()) {}
        });
        let checker = GrpcChecker::new(&GrpcCheck::default()).unwrap();
        let error = checker.check(silent, SHORT).await.unwrap_err();
        assert!(
            matches!(
                error,
                CheckError::TimedOut {
                    step: Step::Response,
                    ..
                }
            ),
            "{error}"
        );
    });
}

#[test]
fn over_tls_http2_must_be_agreed_on() {
    on_each_engine(|| async {
        let tls = GrpcCheck {
            tls: Some(TlsCheck::default()),
            ..GrpcCheck::default()
        };
        let checker = GrpcChecker::new(&tls).unwrap();
        let answer: Rc<dyn Script> = Rc::new(|_, _| serving());
        let identity = Identity::of(&["a.example"], &[b"h2"]);
        let address = identity.serve({
            let answer = Rc::clone(&answer);
            move |stream| converse(Stream::Tls(stream), Rc::clone(&answer))
        });
        checker
            .check(address, LONG)
            .await
            .expect("a healthy backend");
        let identity = Identity::of(&["a.example"], &[]);
        let address =
            identity.serve(move |stream| converse(Stream::Tls(stream), Rc::clone(&answer)));
        let error = checker.check(address, LONG).await.unwrap_err();
        assert!(matches!(error, CheckError::Alpn), "{error}");
    });
}

#[test]
fn an_authority_that_is_none_is_refused_when_it_is_built() {
    let check = GrpcCheck {
        authority: Some("[[".into()),
        ..GrpcCheck::default()
    };
    assert_eq!(
        GrpcChecker::new(&check).unwrap_err().to_string(),
        "\"[[\" is not a host with an optional port"
    );
}

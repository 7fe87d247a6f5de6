//! TLS: certificates that are good enough or not, and bytes both ways.

use std::future::poll_fn;
use std::net::SocketAddr;

use lb_core::plan::{HttpCheck, TlsCheck, Verify};
use lb_core::rt::{Chunk, TcpStream, join};
use lb_l7::check::{CheckError, HttpChecker, Step};
use lb_l7::stream::Stream;
use lb_l7::tls::{TlsClient, TlsStream};

use crate::{Identity, LONG, SHORT, on_each_engine, send, serve};

async fn answer(stream: TlsStream) {
    let stream = Stream::Tls(stream);
    let request = stream.recv().await.unwrap();
    assert!(request.starts_with(b"GET / HTTP/1.1\r\n"));
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    stream.send(Chunk::from_static(head)).await.unwrap();
    drop(stream.recv().await);
}

fn tls(server_name: Option<&str>, roots: Option<&Identity>) -> TlsCheck {
    TlsCheck {
        server_name: server_name.map(str::to_owned),
        verify: roots.map_or(Verify::Off, |identity| {
            Verify::Roots(vec![identity.certificate.clone()])
        }),
    }
}

async fn check(address: SocketAddr, tls: &TlsCheck) -> Result<(), CheckError> {
    let checker = HttpChecker::new(&HttpCheck::default(), Some(tls)).unwrap();
    checker.check(address, LONG).await
}

async fn failure(address: SocketAddr, tls: &TlsCheck) -> String {
    check(address, tls)
        .await
        .expect_err("a failure")
        .to_string()
}

#[test]
fn any_certificate_will_do_unless_it_is_to_be_verified() {
    on_each_engine(|| async {
        let identity = Identity::of(&["shop.example"], &[]);
        let other = Identity::of(&["shop.example"], &[]);
        let address = identity.serve(answer);
        for good in [
            tls(None, None),
            tls(Some("anything.example"), None),
            tls(Some("shop.example"), Some(&identity)),
        ] {
            check(address, &good).await.expect("a handshake");
        }
        for (bad, reason) in [
            (tls(Some("shop.example"), Some(&other)), "BadSignature"),
            (
                tls(Some("bank.example"), Some(&identity)),
                "not valid for name",
            ),
            (tls(None, Some(&identity)), "not valid for name"),
        ] {
            let text = failure(address, &bad).await;
            assert!(
                text.starts_with("TLS: invalid peer certificate: "),
                "{text}"
            );
            assert!(text.contains(reason), "{text}");
        }
        let by_address = Identity::of(&["127.0.0.1"], &[]);
        let address = by_address.serve(answer);
        check(address, &tls(None, Some(&by_address)))
            .await
            .expect("its address");
    });
}

#[test]
fn a_handshake_that_does_not_end_well_is_a_failure() {
    on_each_engine(|| async {
        let plain = serve(|stream: TcpStream| async move {
            drop(stream.recv().await);
            send(&stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            drop(stream.recv().await);
        });
        let text = failure(plain, &tls(None, None)).await;
        assert!(text.starts_with("TLS: received corrupt message"), "{text}");
        let closing = serve(|stream: TcpStream| async move {
            drop(stream.recv().await);
        });
        assert_eq!(
            failure(closing, &tls(None, None)).await,
            "TLS: the backend closed the connection during the handshake"
        );
        let silent = serve(|stream: TcpStream| async move {
            while stream.recv().await.is_ok_and(|chunk| !chunk.is_empty()) {}
        });
        let checker = HttpChecker::new(&HttpCheck::default(), Some(&tls(None, None))).unwrap();
        let error = checker.check(silent, SHORT).await.unwrap_err();
        assert!(matches!(
            error,
            CheckError::TimedOut {
                step: Step::Handshake,
                ..
            }
        ));
        assert_eq!(
            error.to_string(),
            "no end of the TLS handshake within 100ms"
        );
        // It speaks HTTP/2 only.
        let modern = Identity::of(&["a.example"], &[b"h2"]).serve(answer);
        let text = failure(modern, &tls(None, None)).await;
        assert!(text.contains("NoApplicationProtocol"), "{text}");
    });
}

/// Receives until the other side says that it is done.
async fn all(stream: &TlsStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let chunk = poll_fn(|cx| stream.poll_recv(cx)).await.unwrap();
        if chunk.is_empty() {
            return bytes;
        }
        bytes.extend_from_slice(&chunk);
    }
}

async fn send_all(stream: &TlsStream, bytes: &[u8]) {
    for (number, part) in bytes.chunks(40_000).enumerate() {
        let (first, second) = part.split_at(part.len() / (1 + number % 3));
        let second = (!second.is_empty()).then(|| Chunk::from_vec(second.to_vec()));
        let mut parts = [Some(Chunk::from_vec(first.to_vec())), second];
        poll_fn(|cx| stream.poll_send(cx, &mut parts))
            .await
            .unwrap();
    }
    poll_fn(|cx| stream.poll_shutdown(cx)).await.unwrap();
}

#[test]
fn bytes_pass_both_ways_at_once() {
    const LEN: usize = 3_000_000;
    on_each_engine(|| async {
        let bytes: Vec<u8> = (0..LEN).map(|at| (at * 7 / 5) as u8).collect();
        let identity = Identity::of(&["a.example"], &[]);
        let address = identity.serve(|stream| async move {
            let bytes: Vec<u8> = (0..LEN).map(|at| (at * 7 / 5) as u8).collect();
            let (received, ()) = join(all(&stream), send_all(&stream, &bytes)).await;
            assert!(received == bytes, "what was sent arrives");
        });
        let client = TlsClient::for_check(&tls(None, None), &[]).unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = client.connect(stream, address.ip()).await.unwrap();
        let (received, ()) = join(all(&stream), send_all(&stream, &bytes)).await;
        assert_eq!(received.len(), LEN);
        assert!(received == bytes, "what was sent arrives");
    });
}

#[test]
fn an_end_without_a_word_is_an_error() {
    on_each_engine(|| async {
        let identity = Identity::of(&["a.example"], &[]);
        let address = identity.serve(|stream| async move {
            let mut parts = [Some(Chunk::from_static(b"half a message")), None];
            poll_fn(|cx| stream.poll_send(cx, &mut parts))
                .await
                .unwrap();
            poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
        });
        let client = TlsClient::for_check(&tls(None, None), &[]).unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = client.connect(stream, address.ip()).await.unwrap();
        let first = poll_fn(|cx| stream.poll_recv(cx)).await.unwrap();
        assert_eq!(&*first, b"half a message");
        let error = poll_fn(|cx| stream.poll_recv(cx)).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    });
}

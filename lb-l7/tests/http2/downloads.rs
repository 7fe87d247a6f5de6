//! Long bodies of many streams at once, which share the window of one connection.

use std::sync::{Arc, Barrier};

use crate::peers::{ask, get, run};
use crate::support::{Backend, Proxy, on_each_engine};

const STREAMS: usize = 16;
const BODY: usize = 2 << 20;
/// Room for two large pieces: what one stream was promised, others use up meanwhile.
const CONNECTION_WINDOW: u32 = 128 << 10;

/// What is downloaded from `path`, unlike that of any other.
fn body(path: &str) -> Vec<u8> {
    let seed = path.bytes().fold(7_u32, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(byte.into())
    });
    let bytes = (0..BODY as u32).map(|it| (it.wrapping_mul(seed | 1) >> 11) as u8);
    bytes.collect()
}

/// All heads are there before any body is: each stream waits for its backend while there is room,
/// and all bodies come at once.
fn backend() -> Backend {
    let all = Arc::new(Barrier::new(STREAMS));
    Backend::scripted(move |mut connection, _| {
        while let Some(request) = connection.request() {
            let path = request.head.split(' ').nth(1).unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
            connection.send(head.as_bytes());
            let body = body(path);
            all.wait();
            connection.send(&body);
        }
    })
}

#[test]
fn streams_that_use_up_each_others_window_lose_nothing() {
    on_each_engine(|engine| {
        let backend = backend();
        let proxy = Proxy::to(engine, &[backend.address]);
        run(async {
            let tcp = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
            let (client, connection) = h2::client::Builder::new()
                .initial_connection_window_size(CONNECTION_WINDOW)
                .initial_window_size(BODY as u32)
                .handshake::<_, bytes::Bytes>(tcp)
                .await
                .unwrap();
            tokio::spawn(async move { drop(connection.await) });
            let asked = (0..STREAMS).map(|nth| {
                let client = client.clone();
                tokio::spawn(async move {
                    let path = format!("/{nth}");
                    let got = ask(&client, get(&path), None).await.expect(&path);
                    assert_eq!(got.head.status(), 200, "{path}");
                    assert_eq!(got.body.len(), BODY, "{path}");
                    assert!(got.body == body(&path), "{path}: other bytes");
                })
            });
            for asked in asked.collect::<Vec<_>>() {
                asked.await.unwrap();
            }
        });
    });
}

//! One connection of a client to one backend, with a service between them, on the simulated network.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use lb_core::plan;
use lb_core::rt::{self, Chunk, Config, EngineKind, Runtime, TcpStream};
use lb_l7::HttpService;

use crate::proxy::{Proxy, listen};

/// What reached the two ends.
#[derive(Debug, Default)]
pub struct Seen {
    pub by_backend: Vec<u8>,
    pub by_client: Vec<u8>,
}

/// Sends `request` through `http`, which `finish` completes, to a backend that answers each of its
/// connections with `response` once a head has come.
pub fn ask(
    http: &plan::Http,
    finish: impl FnOnce(HttpService) -> HttpService,
    request: &[u8],
    response: &[u8],
) -> Seen {
    let config = Config {
        engine: EngineKind::Sim,
        ..Config::default()
    };
    let mut runtime = Runtime::new(&config).expect("a simulated runtime");
    let by_backend = Rc::new(RefCell::new(Vec::new()));
    let by_client = runtime.block_on(async {
        let (listener, address) = listen();
        let seen = Rc::clone(&by_backend);
        let response = response.to_vec();
        let accepting = rt::spawn(async move {
            while let Ok(stream) = listener.accept().await {
                rt::spawn(answer(stream, response.clone(), Rc::clone(&seen)));
            }
        });
        let cluster = plan::Cluster::new("c", vec![address.into()]);
        let proxy = Proxy::start_as(http, &cluster, finish);
        let stream = TcpStream::connect(proxy.address).await.expect("a front");
        let client = rt::timeout(Duration::from_secs(300), talk(stream, request)).await;
        proxy.settle().await;
        rt::abort(accepting);
        proxy.end().await;
        client.unwrap_or_default()
    });
    Seen {
        by_backend: by_backend.take(),
        by_client,
    }
}

async fn answer(stream: TcpStream, response: Vec<u8>, seen: Rc<RefCell<Vec<u8>>>) {
    let mut own = Vec::new();
    let mut is_answered = false;
    while let Ok(chunk) = stream.recv().await {
        if chunk.is_empty() {
            return;
        }
        own.extend_from_slice(&chunk);
        seen.borrow_mut().extend_from_slice(&chunk);
        if !is_answered && own.windows(4).any(|it| it == b"\r\n\r\n") {
            is_answered = true;
            if !response.is_empty() {
                let _ = stream.send(Chunk::from_vec(response.clone())).await;
            }
            let _ = stream.shutdown().await;
        }
    }
}

/// All that comes back.
async fn talk(stream: TcpStream, request: &[u8]) -> Vec<u8> {
    if !request.is_empty() {
        let _ = stream.send(Chunk::from_vec(request.to_vec())).await;
    }
    let _ = stream.shutdown().await;
    let mut received = Vec::new();
    while let Ok(chunk) = stream.recv().await {
        if chunk.is_empty() {
            break;
        }
        received.extend_from_slice(&chunk);
    }
    received
}

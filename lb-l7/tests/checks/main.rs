//! Health checks against scripted servers, on every engine that this machine offers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

/// The gRPC health service, in the clear and over TLS.
mod grpc;
/// HTTP: statuses, and everything that is no answer.
mod http;
/// TLS: certificates that are good enough or not, and bytes both ways.
mod tls;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lb_core::rt::{
    Chunk, Config, EngineKind, ListenOptions, Runtime, TcpListener, TcpStream, spawn, timeout,
};
use lb_l7::tls::TlsStream;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::ServerConfig;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);
/// For what is to run into it.
const SHORT: Duration = Duration::from_millis(100);

/// Runs `body` on each engine that this machine offers.
fn on_each_engine<F: Future<Output = ()>>(body: impl Fn() -> F) {
    for engine in [EngineKind::Epoll, EngineKind::Uring] {
        let config = Config {
            engine,
            ..Config::default()
        };
        match Runtime::new(&config) {
            Ok(mut runtime) => runtime.block_on(async {
                let ended = timeout(LONG * 2, body()).await;
                ended.expect("the test to end");
            }),
            Err(error) => eprintln!("skipped on {}: {error}", engine.name()),
        }
    }
}

fn listen() -> (TcpListener, SocketAddr) {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = TcpListener::bind(any, &ListenOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address on which nobody listens.
fn refusing() -> SocketAddr {
    listen().1
}

/// A server whose every connection is handled by `handle`, in a task of its own.
fn serve<F>(handle: impl Fn(TcpStream) -> F + 'static) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
{
    let (listener, address) = listen();
    spawn(async move {
        while let Ok(stream) = listener.accept().await {
            spawn(handle(stream));
        }
    });
    address
}

/// What `stream` receives, up to the blank line at the end of a head.
async fn head(stream: &TcpStream) -> String {
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        let chunk = stream.recv().await.unwrap();
        assert!(!chunk.is_empty(), "a whole head, not {text:?}");
        text.push_str(str::from_utf8(&chunk).unwrap());
    }
    text
}

async fn send(stream: &TcpStream, bytes: &[u8]) {
    // The other end may have gone: what it made of that is the test's subject.
    let _ = stream.send(Chunk::from_vec(bytes.to_vec())).await;
    let _ = stream.flush().await;
}

/// A self-signed certificate for `names`, and how to serve by it.
struct Identity {
    certificate: Vec<u8>,
    config: Arc<ServerConfig>,
}

impl Identity {
    fn of(names: &[&str], alpn: &[&[u8]]) -> Self {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let certificate = made.cert.der().clone();
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.clone()], PrivateKeyDer::Pkcs8(key))
                .unwrap();
        config.enable_secret_extraction = true;
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Self {
            certificate: certificate.to_vec(),
            config: Arc::new(config),
        }
    }

    /// A server whose every connection is handled by `handle`, if its handshake ends well.
    fn serve<F>(&self, handle: impl Fn(TlsStream) -> F + 'static) -> SocketAddr
    where
        F: Future<Output = ()> + 'static,
    {
        let (config, handle) = (Arc::clone(&self.config), Rc::new(handle));
        serve(move |stream| {
            let config = Arc::clone(&config);
            let handle = Rc::clone(&handle);
            async move {
                if let Ok(stream) = TlsStream::accept(stream, config, &mut None).await {
                    handle(stream).await;
                }
            }
        })
    }
}

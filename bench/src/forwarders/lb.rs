//! The forwarder on our own runtime, for both of its engines.
//!
//! Invariant: nothing in here that a user of `lb_core::rt` would not write. Buffers are lent by
//! the runtime, so this file has none. Read next: `lb_core::rt`, or `monoio.rs` for comparison.

use std::io;
use std::net::SocketAddr;

use lb_core::rt::probe::{EngineChoice, probe};
use lb_core::rt::{self, Config, EngineKind, ListenOptions, Runtime, TcpListener, TcpStream};

/// As [`super::Forwarder::serve`].
pub(super) fn serve(
    engine: EngineKind,
    listen: SocketAddr,
    backend: SocketAddr,
    announce: impl FnOnce(SocketAddr),
) -> io::Result<()> {
    // The parent pins the whole process, for all forwarders alike.
    let mut runtime = Runtime::new(&Config {
        engine,
        ..Config::default()
    })?;
    runtime.block_on(async move {
        let options = ListenOptions {
            reuse_port: false,
            backlog: 1024,
            v6_only: false,
        };
        let listener = TcpListener::bind(listen, &options)?;
        announce(listener.local_addr()?);
        loop {
            let client = listener.accept().await?;
            rt::spawn(async move {
                if let Err(error) = relay(client, backend).await {
                    eprintln!("lb: {error}");
                }
            });
        }
    })
}

/// The ring flags that this kernel grants to the `uring` engine, or why it grants no ring.
pub(super) fn ring_flags() -> Result<String, String> {
    probe(EngineChoice::Only(EngineKind::Uring)).map(|probe| probe.flags.to_string())
}

async fn relay(client: TcpStream, backend: SocketAddr) -> io::Result<()> {
    // Accepted and connected streams have TCP_NODELAY already.
    let backend = TcpStream::connect(backend).await?;
    let (out, back) = rt::join(copy(&client, &backend), copy(&backend, &client)).await;
    out.and(back)
}

async fn copy(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    loop {
        let chunk = from.recv().await?;
        if chunk.is_empty() {
            return to.shutdown().await;
        }
        to.send(chunk).await?;
    }
}

//! The forwarder on tokio's current-thread runtime: epoll, written as most Rust proxies are.
//!
//! Invariant: one thread; `spawn_local` is not needed for that and few would use it.
//! Read next: `../ab/mod.rs`, which measures all of them.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};

use super::BUFFER_BYTES;

/// As [`super::Forwarder::serve`].
pub(super) fn serve(
    listen: SocketAddr,
    backend: SocketAddr,
    announce: impl FnOnce(SocketAddr),
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async move {
        let listener = TcpListener::bind(listen).await?;
        announce(listener.local_addr()?);
        loop {
            let (client, _) = listener.accept().await?;
            tokio::spawn(async move {
                if let Err(error) = relay(client, backend).await {
                    eprintln!("tokio: {error}");
                }
            });
        }
    })
}

async fn relay(mut client: TcpStream, backend: SocketAddr) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut backend = TcpStream::connect(backend).await?;
    backend.set_nodelay(true)?;
    let (out, back) = (BUFFER_BYTES, BUFFER_BYTES);
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut backend, out, back).await?;
    Ok(())
}

//! The forwarder on tokio-uring, with its default ring and with the flags that suit it best.
//!
//! Invariant: reads and writes go through the ring; only the half-close is a direct
//! `shutdown(2)`, which is how tokio-uring offers it. Read next: `tokio.rs`.

use std::io;
use std::net::{Shutdown, SocketAddr};

use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::{TcpListener, TcpStream};

use super::BUFFER_BYTES;

/// What `serve` sets when asked for the best flags. DEFER_TASKRUN is not among them: tokio-uring
/// sleeps in epoll on the ring's descriptor and would never run the deferred work.
pub(super) const BEST_FLAGS: &str = "SINGLE_ISSUER|COOP_TASKRUN|TASKRUN_FLAG";

/// As [`super::Forwarder::serve`].
pub(super) fn serve(
    best_flags: bool,
    listen: SocketAddr,
    backend: SocketAddr,
    announce: impl FnOnce(SocketAddr),
) -> io::Result<()> {
    let mut ring = tokio_uring::uring_builder();
    if best_flags {
        ring.setup_single_issuer()
            .setup_coop_taskrun()
            .setup_taskrun_flag();
    }
    tokio_uring::builder()
        .uring_builder(&ring)
        .start(async move {
            let listener = TcpListener::bind(listen)?;
            announce(listener.local_addr()?);
            loop {
                let (client, _) = listener.accept().await?;
                tokio_uring::spawn(async move {
                    if let Err(error) = relay(client, backend).await {
                        eprintln!("tokio-uring: {error}");
                    }
                });
            }
        })
}

async fn relay(client: TcpStream, backend: SocketAddr) -> io::Result<()> {
    client.set_nodelay(true)?;
    let backend = TcpStream::connect(backend).await?;
    backend.set_nodelay(true)?;
    tokio::try_join!(copy(&client, &backend), copy(&backend, &client))?;
    Ok(())
}

/// As tokio-uring's own TCP proxy example, with the half-close carried through.
async fn copy(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let (received, filled) = from.read(buffer).await;
        let count = received?;
        if count == 0 {
            return to.shutdown(Shutdown::Write);
        }
        let (sent, slice) = to.write_all(filled.slice(..count)).await;
        sent?;
        buffer = slice.into_inner();
    }
}

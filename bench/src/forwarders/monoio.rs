//! The forwarder on monoio, with its default ring and with the ring flags that suit it best.
//!
//! Invariant: the io_uring driver or an error, never monoio's quiet fall-back to epoll, which
//! `FusionDriver` would allow. Read next: `tokio_uring.rs`.

use std::io;
use std::net::SocketAddr;

use monoio::io::{
    AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable,
};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};

use super::BUFFER_BYTES;

/// What `serve` sets when asked for the best flags.
pub(super) const BEST_FLAGS: &str = "SINGLE_ISSUER|COOP_TASKRUN|DEFER_TASKRUN";

/// As [`super::Forwarder::serve`].
pub(super) fn serve(
    best_flags: bool,
    listen: SocketAddr,
    backend: SocketAddr,
    announce: impl FnOnce(SocketAddr),
) -> io::Result<()> {
    let mut builder = RuntimeBuilder::<IoUringDriver>::new();
    if best_flags {
        let mut ring = io_uring_06::IoUring::builder();
        ring.setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun();
        builder = builder.uring_builder(ring);
    }
    builder.build()?.block_on(async move {
        let listener = TcpListener::bind(listen)?;
        announce(listener.local_addr()?);
        loop {
            let (client, _) = listener.accept().await?;
            monoio::spawn(async move {
                if let Err(error) = relay(client, backend).await {
                    eprintln!("monoio: {error}");
                }
            });
        }
    })
}

async fn relay(client: TcpStream, backend: SocketAddr) -> io::Result<()> {
    client.set_nodelay(true)?;
    let backend = TcpStream::connect_addr(backend).await?;
    backend.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_backend, to_backend) = backend.into_split();
    monoio::try_join!(copy(from_client, to_backend), copy(from_backend, to_client))?;
    Ok(())
}

/// As `monoio::io::copy`, but for the size of the buffer: that one has 4 KiB.
async fn copy(
    mut from: OwnedReadHalf<TcpStream>,
    mut to: OwnedWriteHalf<TcpStream>,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let (received, filled) = from.read(buffer).await;
        if received? == 0 {
            return to.shutdown().await;
        }
        let (sent, emptied) = to.write_all(filled).await;
        sent?;
        buffer = emptied;
    }
}

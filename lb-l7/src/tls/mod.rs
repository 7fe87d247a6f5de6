//! TLS over the runtime's streams, by `rustls`.
//!
//! Invariant: whatever is decided about certificates is decided in `client.rs`, once, when its
//! configuration is built; a stream only exists after its handshake.
//! Read next: `client.rs` (who is talked to), `stream.rs` (bytes), `roots.rs` (who is trusted).

mod client;
mod facts;
mod roots;
mod stream;

pub use client::{TlsClient, TlsConfigError};
pub use facts::TlsFacts;
pub use roots::{RootsError, roots_from_pem, system_roots};
pub use stream::TlsStream;

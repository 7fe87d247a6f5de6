//! TLS over the runtime's streams, by `rustls`.
//!
//! Invariant: whatever is decided about certificates is decided in `client.rs`, `server.rs` and
//! `names.rs`, when a configuration is built; a stream only exists after its handshake.
//! Read next: `server.rs` (clients), `client.rs` (backends), `stream.rs` (bytes), `roots.rs`.

mod backend_failure;
mod certificate;
mod client;
mod client_auth;
mod duplex;
mod facts;
mod failure;
mod handshake;
mod names;
mod ocsp;
mod pacing;
mod pem;
mod policies;
mod record;
mod replay;
mod roots;
mod server;
mod stream;
mod tickets;
mod x509;

pub use backend_failure::{BackendRefusal, BackendReport, report_backend_failures};
pub(crate) use backend_failure::{HandshakeEnd, alerted, backend_failed};
pub use certificate::{CertificateError, ServerCertificate};
pub use client::{TlsClient, TlsConfigError};
pub use client_auth::ClientCertificate;
pub use facts::TlsFacts;
pub use failure::TlsRefusal;
pub use ocsp::OcspError;
pub use pem::{Found, PemError, chain_from_pem, key_from_pem, revoked_from_pem};
pub use replay::TlsReplay;
pub use roots::{RootsError, roots_from_pem, system_roots};
pub use server::{TlsAcceptor, TlsContext};
pub(crate) use stream::DetachedTls;
pub use stream::TlsStream;
pub use tickets::TicketSecrets;
pub use x509::X509Error;

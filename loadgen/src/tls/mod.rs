//! TLS at both ends of a load test: what clients offer and which sessions they resume, and who
//! origins say they are.
//!
//! Invariant: everything is decided when a configuration is built; the streams themselves are
//! those of `lb-l7`, because a second adapter between `rustls` and the runtime would have to be
//! kept right, too, and a fault that both have still shows against other servers and clients.
//! Read next: `client.rs`, `identity.rs`.

mod client;
mod identity;

pub(crate) use client::{Dialer, Session};
pub use client::{Group, Suite, TlsRequest, Version};
pub use identity::{Identity, IdentityError};

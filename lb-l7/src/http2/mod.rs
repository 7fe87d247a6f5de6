//! HTTP/2 (RFC 9113), to clients and to backends.
//!
//! Invariant: what is in here but `driver.rs` does no I/O: bytes and the time go in, bytes come out.
//! Read next: `core.rs` (a connection's state), `driver.rs` (its I/O), `server.rs`, `client.rs`
//! (the ends), `hpack/mod.rs` (heads on the wire).

mod block;
mod budget;
pub(crate) mod client;
mod core;
mod data;
mod driver;
mod frame;
pub(crate) mod grpc;
pub(crate) mod h2c;
mod head;
pub mod hpack;
mod joining;
mod known;
mod offence;
mod out;
mod receive;
mod replay;
pub(crate) mod server;
mod settings;
pub(crate) mod start;
mod streams;
pub(crate) mod websocket;
mod write;

pub use frame::{ErrorCode, PREFACE};
pub use offence::{Offence, OffenceReport, OffendingPeer, report_offences};
pub use replay::Replay;
pub use websocket::{NoWebSocketReport, report_no_websockets};

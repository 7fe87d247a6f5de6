//! Layer 7 of `lb`: HTTP/1.1 as a strict, allocation-free reverse proxy.
//!
//! The way of a request: `connection.rs` (a client's connection) → `admit.rs` (its bytes become a
//! request, by `http1/request.rs`, `route/`, `action.rs`, `keys.rs`) → `reach.rs`, `pool.rs` (a
//! backend) → `exchange.rs` (both ways, between the two ends of `link.rs`) → `response.rs`,
//! `set_cookie.rs` (the head of the response) → `upload.rs`, `passage.rs` (the bodies, by
//! `http1/body.rs`) → `upgrade.rs` (what follows a switch of protocols) → `respond.rs` (what we answer
//! ourselves). Beside it: `check/` (health checks), over `stream.rs` and `tls/`.
#![forbid(unsafe_code)]

mod access_log;
mod action;
mod admit;
pub mod check;
mod collect;
mod connection;
mod date;
mod exchange;
mod failure;
pub mod http1;
pub mod http2;
mod keys;
mod link;
mod passage;
mod pool;
mod reach;
mod redirect;
mod respond;
mod response;
mod rewrite;
mod rooms;
pub mod route;
mod service;
mod set_cookie;
pub mod stream;
pub mod tls;
mod upgrade;
mod upload;
mod worker;

pub use access_log::{AccessLog, LineSink};
pub use connection::{Peer, serve, serve_client};
pub use failure::{Failure, Side};
pub use service::{BuildError, HEAD_BYTES_MAX, HEAD_ROOM_BYTES, HttpService};
pub use worker::HttpWorker;

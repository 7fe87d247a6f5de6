//! Layer 7 of `lb`: HTTP as a strict, allocation-free reverse proxy.
//!
//! The way of a request: `connection.rs` (a client's connection) → `admit.rs` (its bytes become a
//! request, by `http1/request.rs`, `route/`, `action.rs`, `keys.rs`) → `reach.rs`, `pool.rs` (a
//! backend) → `exchange.rs` (both ways, between the two ends of `link.rs`) → `response.rs`,
//! `set_cookie.rs` (the head of the response) → `upload.rs`, `passage.rs` and `bulk.rs` (the bodies,
//! by `http1/body.rs`) → `upgrade.rs` (after a switch of protocols) → `respond.rs` (what we answer
//! ourselves). Beside it: `check/` (health checks), over `stream.rs` and `tls/`.
#![forbid(unsafe_code)]

mod action;
mod admit;
mod budget;
mod bulk;
pub mod check;
mod collect;
mod connection;
mod date;
mod exchange;
mod failure;
mod gather;
pub mod http1;
pub mod http2;
mod keys;
mod lending;
mod link;
mod log;
mod passage;
mod pool;
mod queue;
mod reach;
mod redirect;
mod request_id;
mod respond;
mod response;
mod rewrite;
mod rooms;
pub mod route;
mod service;
mod set_cookie;
mod slow;
pub mod stream;
pub mod tls;
mod upgrade;
mod upload;
mod waiting;
mod worker;

pub use connection::{Peer, serve, serve_client};
pub use failure::{Failure, Side};
pub use lending::{Message, Workers};
pub use log::{Log, Template};
pub use service::{BuildError, HEAD_BYTES_MAX, HEAD_ROOM_BYTES, HttpService};
pub use worker::HttpWorker;

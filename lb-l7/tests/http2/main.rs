//! HTTP/2 from outside: with clients and backends of the `h2` crate, and byte by byte.
//!
//! Read next: `peers.rs` (the ends), `pairs.rs`, `wire.rs`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod abort;
mod backends;
mod bodiless;
mod calls;
mod conformance;
mod downloads;
mod gather;
mod known;
mod pairs;
mod peers;
#[path = "../proxy/support.rs"]
#[allow(dead_code, reason = "shared with the tests of HTTP/1.1")]
mod support;
mod wire;

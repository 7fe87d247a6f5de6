//! Layer 7 of `lb`: HTTP/1.1 as a strict, allocation-free reverse proxy.
//!
//! The way of a request: `connection.rs` (a client's connection) → `http1/request.rs` (its head)
//! → `route.rs` (which cluster) → `exchange.rs` (a backend, the bytes both ways) → `pool.rs`.
#![forbid(unsafe_code)]

pub mod http1;

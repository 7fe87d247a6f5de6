//! `loadgen` through real sockets, on every engine that this machine offers.
//!
//! - `answers.rs`: what counts as an answer, and as which failure (scripted servers)
//! - `clients.rs`: clients with addresses of their own, and whether they stay with their origins
//! - `datagrams.rs`: UDP, and all that can become of a datagram
//! - `mixed.rs`: requests of several kinds, from a file and from a log; rates that change
//! - `omission.rs`: a stall shows in an open loop's percentiles, as it must
//! - `origin.rs`: our origins, spoken to by hand
//! - `pair.rs`: our generator against our origins
//! - `program.rs`: the program itself: flags, exit status, signals, output
//! - `secure.rs`: TLS, at both ends
//! - `shared.rs`: HTTP/2, gRPC and WebSocket, at both ends
//! - `support.rs`: engines, scripted servers, short runs

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod answers;
mod clients;
mod datagrams;
mod mixed;
mod omission;
mod origin;
mod pair;
mod program;
mod secure;
mod shared;
mod support;

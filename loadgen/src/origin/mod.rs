//! Origin servers: what stands behind a load balancer under test.
//!
//! They share a core with the generator, so they do as little as they can: the answer is made
//! once, a request head seen before is recognised by its bytes, echoed bytes are never copied.
//! Invariant: every answer names its origin, so that the client can count who answered.
//! Read next: `http.rs`, `tcp.rs`.

mod delay;

pub use delay::Delay;

use std::net::SocketAddr;

use lb_core::rt::EngineKind;

use crate::tcp::TcpMode;

/// What to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Addresses for HTTP/1.1; port 0 takes any free port.
    pub http: Vec<SocketAddr>,
    /// Addresses for TCP.
    pub tcp: Vec<SocketAddr>,
    /// Bytes in the body of each HTTP answer.
    pub body: usize,
    /// Time taken for each answer.
    pub delay: Delay,
    /// Name of the origin; numbered if there are several addresses of a kind. Without it, each
    /// address is a name.
    pub name: Option<String>,
    /// What TCP connections are answered.
    pub tcp_mode: TcpMode,
    /// Threads, at least one; each accepts on every address.
    pub threads: usize,
    /// Core of the first thread; the others get the cores after it. `None`: not pinned.
    pub cpu: Option<usize>,
    /// Runtime engine.
    pub engine: EngineKind,
}

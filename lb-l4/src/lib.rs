//! Layer 4: TCP sessions, relayed byte for byte, and health checks by TCP
//! and UDP.
//!
//! Invariant: a session ends on the service (and so the cluster) it began with, whatever the plan
//! does meanwhile.
//! Read next: `tcp/mod.rs`.
#![forbid(unsafe_code)]

mod check;
mod client;
pub mod client_hello;
pub mod limits;
mod log;
mod peek;
pub mod proxy_protocol;
pub mod tcp;
pub mod udp;

pub use check::{CheckError, check_tcp, check_udp};
pub use client::Client;
pub use log::{SessionLog, SessionTemplate};
pub use tcp::{TcpService, serve, serve_admitted};
pub use udp::{UdpListener, UdpService};

//! Layer 4: TCP sessions, relayed byte for byte, and TCP health checks.
//!
//! Invariant: a session ends on the service (and so the cluster) it began with, whatever the plan
//! does meanwhile.
//! Read next: `tcp/mod.rs`.
#![forbid(unsafe_code)]

mod check;
pub mod tcp;
pub mod udp;

pub use check::{CheckError, check_tcp};
pub use tcp::{TcpService, serve};
pub use udp::{UdpListener, UdpService};

//! Layer 4: TCP sessions, relayed byte for byte, and health checks by TCP
//! and UDP.
//!
//! Invariant: a session ends on the service (and so the cluster) it began with, whatever the plan
//! does meanwhile.
//! Read next: `tcp/mod.rs`.
#![forbid(unsafe_code)]

mod check;
pub mod tcp;

pub use check::{CheckError, check_tcp, check_udp};
pub use tcp::{TcpService, serve};

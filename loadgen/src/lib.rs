//! `loadgen`: origin servers, a load generator without coordinated omission, comparison with
//! other load balancers, and reports.
//!
//! A library with one small program (`main.rs`), so that comparisons and tests drive the same
//! engine in-process. Invariant: measuring code never shares a thread with printing code.
//! Read next: `args/mod.rs` (what can be asked for), `run/mod.rs` (the generator), `origin/mod.rs`.
#![forbid(unsafe_code)]

pub mod args;
pub mod compare;
pub mod descriptors;
pub mod faults;
pub mod gate;
mod http1;
mod http2;
pub mod mixed;
pub mod origin;
mod pin;
pub mod report;
pub mod run;
pub mod run_report;
pub mod strategies;
pub mod tcp;
mod testbed;
pub mod tls;
pub mod truth;
pub mod udp;
pub mod units;
mod websocket;

//! The protocol-free heart of `lb`: the runtime, the plan, balancing, snapshots and metrics.
//!
//! Read next: `rt/mod.rs` (how a worker runs), `plan/mod.rs` (what it is told to run).
#![deny(unsafe_code)]

pub mod balance;
pub mod connections;
pub mod lines;
pub mod metrics;
pub mod plan;
pub mod prefixes;
pub mod rate;
pub mod rt;
pub mod snapshot;
pub mod worker;

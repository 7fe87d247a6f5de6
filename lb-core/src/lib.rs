//! The protocol-free heart of `lb`: the runtime, the plan, balancing, snapshots and metrics.
//!
//! Read next: `rt/mod.rs` (how a worker runs), `plan.rs` (what it is told to run).
#![deny(unsafe_code)]

pub mod plan;
pub mod rt;

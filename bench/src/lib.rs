//! The forwarder A/B: the same small TCP forwarder on several runtimes, measured side by side.
//!
//! Invariant: every forwarder does the same system-visible work (see `forwarders/mod.rs`), runs
//! with the same allocator on the same core, and meets the same load; only the runtime differs.
//! The criterion benchmarks stand apart, in `benches/`. Read next: `ab/mod.rs`.
#![forbid(unsafe_code)]

pub mod ab;
pub mod forwarders;

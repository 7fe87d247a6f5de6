//! The load generator.
//!
//! Read next: `summary.rs` (what a run reports).

mod summary;

pub use summary::{
    Balance, Errors, GeneratorHealth, LatencyMicros, LoadMode, LoadPhase, Second, Summary,
};

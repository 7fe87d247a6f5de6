//! The load generator.
//!
//! Read next: `config.rs` (what a run is to do), `summary.rs` (what it reports).

mod config;
mod summary;

pub use config::{Config, HttpRequest, Scheme, TcpRequest, Url};
pub use summary::{
    Balance, Errors, GeneratorHealth, LatencyMicros, LoadMode, LoadPhase, Second, Summary,
};

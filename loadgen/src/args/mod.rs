//! The command line: what the user typed, as close to it as possible, and no I/O.
//!
//! Invariant: nothing below the `try_from`s in here reads flags; they make `origin::Config` and
//! `run::Config`, which are valid.
//! Read next: `run.rs`, `origin.rs`.

mod origin;
mod refuse;
mod run;

pub use origin::OriginArgs;
pub use run::RunArgs;

use clap::{Args, Parser, Subcommand};
use lb_core::rt::EngineKind;
use lb_core::rt::probe::{EngineChoice, probe};

use crate::{compare, faults, mixed, report, strategies, truth};

/// Origins, load generator and comparisons for load balancers.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve requests: HTTP answers of a fixed size, TCP echo or bulk data.
    Origin(OriginArgs),
    /// Load a server and report what it did.
    Run(Box<RunArgs>),
    /// Compare balancers side by side and write a report.
    Compare(compare::Args),
    /// Try the schedulers of lb with several workloads and write a report.
    Strategies(strategies::Args),
    /// Break things behind and beside lb under load and write a report on what clients felt.
    Faults(faults::Args),
    /// Load lb with traffic of every kind while origins restart, and count what fails.
    Mixed(mixed::Args),
    /// Draw the texts and charts of a report again.
    Report(report::Args),
    /// Check the generator against a server of known latencies.
    Truth(truth::Args),
}

/// Threads, cores and engine of either command.
#[derive(Debug, Clone, Args)]
pub struct PlacementArgs {
    /// Threads.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Core to pin the first thread to; the others get the cores after it.
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,
    /// Runtime engine: auto, uring or epoll.
    #[arg(long, value_name = "ENGINE", default_value = "auto", value_parser = parse_engine)]
    pub engine: EngineChoice,
}

impl PlacementArgs {
    fn engine(&self) -> Result<EngineKind, String> {
        probe(self.engine).map(|probe| probe.engine)
    }

    fn threads(&self) -> Result<usize, String> {
        match self.threads {
            0 => Err("--threads 0: at least 1 is needed".into()),
            threads => Ok(threads),
        }
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text
        .parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "write a number from 0 to 1, as in 0.25".into())
}

fn parse_engine(text: &str) -> Result<EngineChoice, String> {
    match (text, text.parse()) {
        ("auto", _) => Ok(EngineChoice::Auto),
        (_, Ok(engine)) => Ok(EngineChoice::Only(engine)),
        _ => Err("write auto, uring or epoll".into()),
    }
}

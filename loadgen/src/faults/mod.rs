//! Faults under load: what clients feel when origins die, hang, slow down, come and go.
//!
//! Invariant: the load is an open loop, so a stall is seen as long as it was.
//! Read next: `script.rs` (what happens), `course.rs` (how).

mod course;
mod script;

use std::path::PathBuf;
use std::time::Duration;

pub use course::faults;

use crate::strategies::{parse_key, parse_word};
use crate::testbed::Mode;
use crate::units::parse_duration;

/// Breaks things behind and beside lb under load and writes a report.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
A scenario is one of all, certificates, kills, restarts, stops, slow, reloads, or a file with an event a line:
  5s kill o-1        # SIGKILL; restart o-1 starts it again
  8s restart o-1
  12s stop o-2       # SIGSTOP; continue o-2
  15s continue o-2
  18s slow o-3       # every answer takes --slow-by longer; recover o-3
  21s recover o-3
  24s remove o-4     # by a change of the configuration; add o-4
  27s add o-4
  30s reload         # the configuration written again, without a change
  33s bad-config     # a configuration that cannot be read, then the old one again
  34s certificate    # another certificate and key; clients come over TLS then
  36s end

Examples:
  loadgen faults --scenario all
  loadgen faults --scenario kills --balance rr,lc --engines uring,epoll --out try")]
pub struct Args {
    /// all, certificates, kills, restarts, stops, slow, reloads, or a file
    #[arg(long, value_name = "NAME|FILE", default_value = "all")]
    pub scenario: String,
    /// Schedulers, by the names that lb takes; each is tried
    #[arg(
        long,
        value_name = "NAMES",
        default_value = "rr",
        value_delimiter = ','
    )]
    #[arg(value_parser = parse_word)]
    pub balance: Vec<String>,
    /// Engines of lb; each is tried
    #[arg(
        long,
        value_name = "NAMES",
        default_value = "uring",
        value_delimiter = ','
    )]
    #[arg(value_parser = parse_word)]
    pub engines: Vec<String>,
    /// http (a choice for each request) or tcp (a choice for each connection)
    #[arg(long, value_name = "NAME", default_value = "http")]
    pub mode: Mode,
    /// Further key of the cluster, as in 'tries=2'; repeatable
    #[arg(long = "key", value_name = "KEY=VALUE", value_parser = parse_key)]
    pub keys: Vec<String>,
    /// Origins
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u16).range(2..=100))]
    pub origins: u16,
    /// Requests due per second
    #[arg(long, value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// Time limit of a request
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Answers that take longer count as delayed
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse_duration)]
    pub delayed_after: Duration,
    /// Extra time of each answer of a slow origin
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = parse_duration)]
    pub slow_by: Duration,
    /// Health checks of lb, every 500 ms: http, tcp (which sees no origin that is stopped: the
    /// kernel accepts for it) or off [default: as the mode]
    #[arg(long, value_name = "CHECK", value_parser = ["http", "tcp", "off"])]
    pub health: Option<String>,
    /// Where to write the report [default: results/DATE-MACHINE-faults]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Our own program [default: lb beside this one]
    #[arg(long, value_name = "PATH")]
    pub lb: Option<PathBuf>,
}

impl Args {
    /// The health check.
    fn health(&self) -> &str {
        self.health.as_deref().unwrap_or_else(|| self.mode.name())
    }
}

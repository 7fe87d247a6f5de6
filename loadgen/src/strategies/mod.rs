//! Schedulers side by side: how evenly each spreads, how fast its answers are, whom it moves.
//!
//! Invariant: a scheduler that `lb` refuses is in the report with what `lb` said.
//! Read next: `course.rs` (the course of it), `workload.rs` (what is done), `keys.rs` (who moves).

mod budget;
mod course;
mod keys;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

pub use course::strategies;
pub use workload::Workload;

pub use crate::testbed::Mode;
use crate::units::parse_duration;

/// Every scheduler of `lb`, by the name that its flag takes.
const ALL: &str = "rr,wrr,lc,wlc,sh,dh,sed,nq,lblc,lblcr,fo,ovf,mh,twos,p2c,ewma,ring,random";

/// Tries the schedulers of lb with several workloads and writes a report.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Needs two cores to itself, and Linux with taskset and setpriv (util-linux). A scheduler that lb
refuses is named and left out. Ctrl-C ends everything that was started.

Examples:
  loadgen strategies
  loadgen strategies --engines uring,epoll --modes http,tcp --budget 2h
  loadgen strategies --balance rr,lc,p2c --workload slow,heavy-tailed --engines uring,epoll
  loadgen strategies --balance mh,ring --affinity client-ip --quick --out try")]
pub struct Args {
    /// Schedulers, by the names that lb takes
    #[arg(long, value_name = "NAMES", default_value = ALL, value_delimiter = ',')]
    #[arg(value_parser = parse_word)]
    pub balance: Vec<String>,
    /// uniform, heavy-tailed, slow, failing, churn, hot
    #[arg(
        long,
        value_name = "NAMES",
        default_value = "uniform,heavy-tailed,slow,failing,churn,hot",
        value_delimiter = ','
    )]
    #[arg(value_parser = Workload::parse)]
    pub workload: Vec<Workload>,
    /// Engines of lb
    #[arg(
        long,
        value_name = "NAMES",
        default_value = "uring",
        value_delimiter = ','
    )]
    #[arg(value_parser = parse_word)]
    pub engines: Vec<String>,
    /// http (a choice for each request), tcp (a choice for each connection)
    #[arg(
        long,
        value_name = "NAMES",
        default_value = "http",
        value_delimiter = ','
    )]
    pub modes: Vec<Mode>,
    /// Affinity of the cluster, as lb takes it
    #[arg(long, value_name = "AFFINITY", value_parser = parse_word)]
    pub affinity: Option<String>,
    /// Further key of the cluster, as in 'bounded_load=on'; repeatable
    #[arg(long = "key", value_name = "KEY=VALUE", value_parser = parse_key)]
    pub keys: Vec<String>,
    /// Origins
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u16).range(2..=100))]
    pub origins: u16,
    /// Workers of lb; with more than one it shares the generator's core
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
    /// Rounds of each scheduler in each workload, of which the report has the medians [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: Option<u16>,
    /// The measured part of a round [default: as long as the budget allows, up to 5s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Time for everything: without --duration, rounds are made as long as it allows, from 1s on
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = parse_duration)]
    pub budget: Duration,
    /// Where to write the report [default: results/DATE-MACHINE-strategies]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Our own program [default: lb beside this one]
    #[arg(long, value_name = "PATH")]
    pub lb: Option<PathBuf>,
    /// One round of a second each (churn: three), for a first look
    #[arg(long)]
    pub quick: bool,
}

/// A word that may stand in a configuration file as it is.
pub(crate) fn parse_word(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_:.%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err("not a name; letters, digits and -_:.% will do".to_owned())
    }
}

/// `KEY=VALUE`, given back as the line `KEY: VALUE`.
pub(crate) fn parse_key(text: &str) -> Result<String, String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("no = in it; write for example bounded_load=on")?;
    Ok(format!("{}: {}", parse_word(key)?, parse_word(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_stand_in_a_file_is_taken() {
        assert_eq!(parse_key("bounded_load=1.5").unwrap(), "bounded_load: 1.5");
        assert_eq!(parse_word("client-ip:60").unwrap(), "client-ip:60");
        for bad in ["", "a b", "a\nb", "{a}", "\"a\""] {
            assert!(parse_word(bad).is_err(), "{bad}");
        }
        assert!(parse_key("a").is_err());
    }
}

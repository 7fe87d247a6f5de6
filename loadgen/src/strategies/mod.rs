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
  loadgen strategies --everywhere uniform,slow,hot --budget 1h
  loadgen strategies --balance rr,lc,p2c --workload slow,heavy-tailed --modes http --engines epoll
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
    /// Workloads that are tried in every mode, on every engine, with every relay; the others are
    /// in the first mode on the first engine only
    #[arg(
        long,
        value_name = "NAMES",
        default_value = "uniform",
        value_delimiter = ','
    )]
    #[arg(value_parser = Workload::parse)]
    pub everywhere: Vec<Workload>,
    /// http (a choice for each request), tcp (a choice for each connection)
    #[arg(
        long,
        value_name = "NAMES",
        default_value = "http,tcp",
        value_delimiter = ','
    )]
    pub modes: Vec<Mode>,
    /// Engines of lb
    #[arg(
        long,
        value_name = "NAMES",
        default_value = "uring,epoll",
        value_delimiter = ','
    )]
    #[arg(value_parser = parse_word)]
    pub engines: Vec<String>,
    /// How lb relays TCP: copy, splice, auto
    #[arg(
        long,
        value_name = "NAMES",
        default_value = "copy,splice",
        value_delimiter = ','
    )]
    #[arg(value_parser = parse_word)]
    pub relays: Vec<String>,
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
    /// Rounds of each scheduler in each workload, of which the report has the medians [default: as
    /// many as the budget allows, up to 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: Option<u16>,
    /// The measured part of a round [default: as long as the budget allows, up to 5s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Time for everything: without --duration, rounds are made as long as it allows, from 1s on
    #[arg(long, value_name = "TIME", default_value = "14m", value_parser = parse_duration)]
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

/// How `lb` works in a part of the rounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ground {
    pub(crate) mode: Mode,
    pub(crate) engine: String,
    pub(crate) relay: Option<String>,
}

impl Args {
    /// Every way to work, the one for all workloads first.
    fn grounds(&self) -> Vec<Ground> {
        let mut grounds = Vec::new();
        for mode in &self.modes {
            for engine in &self.engines {
                let relays: Vec<Option<String>> = match mode {
                    Mode::Http => vec![None],
                    Mode::Tcp => self.relays.iter().cloned().map(Some).collect(),
                };
                grounds.extend(relays.into_iter().map(|relay| Ground {
                    mode: *mode,
                    engine: engine.clone(),
                    relay,
                }));
            }
        }
        grounds
    }

    /// The workloads that are tried on ground number `place`.
    fn workloads_on(&self, place: usize) -> Vec<Workload> {
        let is_there = |workload: &Workload| place == 0 || self.everywhere.contains(workload);
        self.workload.iter().copied().filter(is_there).collect()
    }
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
    fn some_workloads_are_tried_everywhere_and_the_others_on_the_first_ground() {
        use clap::Parser as _;
        let words = ["loadgen", "strategies", "--workload", "slow,uniform"];
        let cli = crate::args::Cli::try_parse_from(words).unwrap();
        let crate::args::Command::Strategies(args) = cli.command else {
            panic!("{words:?}")
        };
        let grounds: Vec<String> = args
            .grounds()
            .iter()
            .map(|g| format!("{} {} {:?}", g.mode.name(), g.engine, g.relay.as_deref()))
            .collect();
        let expected = [
            "http uring None",
            "http epoll None",
            "tcp uring Some(\"copy\")",
            "tcp uring Some(\"splice\")",
            "tcp epoll Some(\"copy\")",
            "tcp epoll Some(\"splice\")",
        ];
        assert_eq!(grounds, expected);
        assert_eq!(args.workloads_on(0), [Workload::Slow, Workload::Uniform]);
        assert_eq!(args.workloads_on(5), [Workload::Uniform]);
    }

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

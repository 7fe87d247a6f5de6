//! What schedulers are tried with: the workloads by name.
//!
//! Invariant: a workload is the same for every scheduler, mode and engine; all origins together
//! can serve about five thirds of what is asked of them, unless the workload is about that.

use std::time::Duration;

use crate::testbed::Mode;

/// Requests that an origin serves at a time.
const SERVERS: usize = 2;
/// The part of what all origins can serve that is asked of them.
const UTILISATION: f64 = 0.6;
/// Connections of a load whose connections last.
const CONNECTIONS: usize = 256;

/// One kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Equal origins, equal requests.
    Uniform,
    /// Requests of which some take very long.
    HeavyTailed,
    /// One origin is slow.
    Slow,
    /// One origin answers half of its requests with an error.
    Failing,
    /// Origins are removed and added.
    Churn,
    /// Some clients come far more often than others.
    Hot,
}

impl Workload {
    /// All, in the order of a report.
    pub const ALL: [Self; 6] = [
        Self::Uniform,
        Self::HeavyTailed,
        Self::Slow,
        Self::Failing,
        Self::Churn,
        Self::Hot,
    ];

    /// The workload called `name`.
    ///
    /// # Errors
    /// When there is none; the text names those there are.
    pub fn parse(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|w| w.name() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("there is no workload {name:?}; there are {names}")
        })
    }

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::HeavyTailed => "heavy-tailed",
            Self::Slow => "slow",
            Self::Failing => "failing",
            Self::Churn => "churn",
            Self::Hot => "hot",
        }
    }

    /// What happens in it, with so many origins.
    pub fn description(self, origins: usize) -> String {
        let last = origin_name(origins - 1);
        match self {
            Self::Uniform => "Every request takes an origin the same time.".to_owned(),
            Self::HeavyTailed => "Service times are heavy-tailed: a Pareto distribution of shape \
                                  1.5, cut at a hundred times its mean."
                .to_owned(),
            Self::Slow => format!("As uniform, but {last} takes ten times as long."),
            Self::Failing => {
                format!("As uniform, but {last} answers half of its requests with an error.")
            }
            Self::Churn => format!(
                "As uniform; after a third of the time {last} is removed, after two thirds {} is \
                 added in its place, each by a change of the configuration.",
                origin_name(origins)
            ),
            Self::Hot => "As uniform; each request comes on a connection of its own, from one of \
                          1,000 clients that come in proportion to rank^-1.1 (Zipf)."
                .to_owned(),
        }
    }

    /// Whether the last origin is unlike the others.
    pub fn has_odd_origin(self) -> bool {
        matches!(self, Self::Slow | Self::Failing)
    }

    /// Whether origins are removed and added.
    pub fn changes(self) -> bool {
        self == Self::Churn
    }

    /// The service of most origins, as options of `loadgen origin`.
    pub(super) fn service(self, mode: Mode) -> String {
        let mean = self.mean(mode).as_millis();
        match self {
            Self::HeavyTailed => format!("--delay pareto:{mean}ms --servers {SERVERS}"),
            _ => format!("--delay fixed:{mean}ms --servers {SERVERS}"),
        }
    }

    /// The service of the odd one.
    pub(super) fn odd_service(self, mode: Mode) -> String {
        let mean = self.mean(mode).as_millis();
        match self {
            Self::Slow => format!("--delay fixed:{}ms --servers {SERVERS}", 10 * mean),
            _ => format!("{} --error-rate 0.5", self.service(mode)),
        }
    }

    /// The load, as options of `loadgen run`; without its times.
    pub(super) fn load(self, mode: Mode, origins: usize) -> String {
        let capacity = (origins * SERVERS) as f64 / self.mean(mode).as_secs_f64();
        let rate = (capacity * UTILISATION).round();
        let clients = match self {
            Self::Hot => "1000:1.1".to_owned(),
            _ => CONNECTIONS.to_string(),
        };
        let new = match (self, mode) {
            (Self::Hot, Mode::Http) => " --new-connections",
            _ => "",
        };
        format!("-c {CONNECTIONS} --rate {rate} --sources {clients} --timeout 2s{new}")
    }

    /// The mean service time: more where each request has a connection, which costs more.
    fn mean(self, mode: Mode) -> Duration {
        if self == Self::Hot || mode == Mode::Tcp {
            Duration::from_millis(12)
        } else {
            Duration::from_millis(4)
        }
    }
}

/// What origin `number`, from 0, calls itself.
pub(super) fn origin_name(number: usize) -> String {
    format!("o-{}", number + 1)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::{origin, run};

    #[test]
    fn every_command_is_understood() {
        for workload in Workload::ALL {
            assert_eq!(Workload::parse(workload.name()), Ok(workload));
            assert!(!workload.description(10).is_empty());
            for (mode, url) in [
                (Mode::Http, "http://127.0.0.1:1/"),
                (Mode::Tcp, "tcp://127.0.0.1:1"),
            ] {
                let command = format!("loadgen run {url} {}", workload.load(mode, 10));
                let Command::Run(args) = Cli::try_parse_from(command.split(' ')).unwrap().command
                else {
                    panic!("{command}")
                };
                run::Config::try_from(&*args).unwrap();
                for service in [workload.service(mode), workload.odd_service(mode)] {
                    let command = format!("loadgen origin --{} 127.0.0.1:1 {service}", mode.name());
                    let Command::Origin(args) =
                        Cli::try_parse_from(command.split(' ')).unwrap().command
                    else {
                        panic!("{command}")
                    };
                    origin::Config::try_from(&args).unwrap();
                }
            }
        }
        assert!(Workload::parse("x").unwrap_err().contains("heavy-tailed"));
    }
}

//! One scenario: origins up, every peer in turn, round after round, origins down.
//!
//! Invariant: within a round the peers run one right after the other (A B C A B C …), so that
//! their figures can be compared as pairs; addresses and configurations stay the same for all
//! rounds. Read `round` (what is done to one peer) next.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use super::comparison::{IDLE_CELLS, cells};
use super::load::{self, LoadCommand, Timing};
use super::peers::{Program, Site};
use super::probe::Connection;
use super::process::Process;
use super::progress::Progress;
use super::round::{Bench, Contender};
use super::scenario::{Scenario, Secure, Subject, Traffic};
use super::{Error, ports};
use crate::report::record::{
    self, Absent, FixedRate, Idle, Load, Outcome, Round, Setup, Work, Workers,
};
use crate::report::{numbers, statistics};

/// The part of the slowest peer's throughput at which latency is measured.
const LATENCY_SHARE: f64 = 0.5;
/// The most clients at a time under load, with room for those that come and go.
const LOAD_CONNECTIONS_MAX: usize = 1_000;

/// What all scenarios have in common.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    /// Those to be compared.
    pub(super) programs: &'a [Program],
    /// Rounds of each.
    pub(super) rounds: usize,
    /// The generator's times and core.
    pub(super) timing: Timing,
    /// The folder that keeps the configurations for the report.
    pub(super) configurations: &'a Path,
    /// How far everything is.
    pub(super) progress: Progress,
    /// Where rounds take place.
    pub(super) bench: Bench<'a>,
}

impl Stage<'_> {
    /// Plays `scenario` with all peers.
    pub(super) fn play(&self, scenario: Scenario) -> Result<record::Scenario, Error> {
        let site = self.site(scenario)?;
        let origin_words = load::origin_words(scenario, site.backends);
        let origins = self.start_origins(scenario, &origin_words, site.backends)?;
        let (contenders, absent) = self.contenders(scenario, &site)?;
        let setups = contenders
            .iter()
            .map(|contender| self.setup(scenario, contender))
            .collect();
        let mut measured = record::Scenario {
            name: scenario.name().to_owned(),
            description: scenario.spec().description.to_owned(),
            work: scenario.spec().work,
            setups,
            origins_command: shown(
                "loadgen",
                &origin_words,
                &self.bench.cores.generator.to_string(),
            ),
            load_command: String::new(),
            load: Vec::new(),
            fixed_rate: None,
            idle: Vec::new(),
            spread: Vec::new(),
            absent,
        };
        match scenario.spec().subject {
            Subject::Load(traffic) => {
                let command = self.load_command(scenario, traffic, &site, None);
                measured.load_command = self.shown_load(&command);
                measured.load = self.load_rounds(scenario, &site, &contenders, &command)?;
                measured.fixed_rate =
                    self.fixed_rate(scenario, traffic, &site, &contenders, &measured.load)?;
            }
            Subject::IdleMemory => {
                measured.idle = self.idle_rounds(scenario, &site, &contenders)?;
            }
            Subject::Spread => {
                measured.spread = self.spread_rounds(scenario, &site, &contenders)?;
            }
        }
        origins.stop();
        Ok(measured)
    }

    /// Free addresses for balancer and origins.
    fn site(&self, scenario: Scenario) -> Result<Site, Error> {
        let ports = ports::free(4).map_err(Error::system("free ports"))?;
        let [listen, admin, first, second] = [0, 1, 2, 3].map(|place| Site::address(ports[place]));
        let connections_max = match scenario.spec().subject {
            Subject::Load(_) | Subject::Spread => LOAD_CONNECTIONS_MAX,
            Subject::IdleMemory => self.bench.idle_connections,
        };
        Ok(Site {
            mode: scenario.spec().mode,
            cpu: self.bench.cores.balancer,
            workers: scenario.spec().workers,
            listen,
            admin,
            backends: [first, second],
            connections_max,
            access_log: scenario.spec().access_log,
            secure: scenario.spec().secure != Secure::No,
            answer_bytes: scenario.spec().answer_bytes,
            speech: scenario.spec().speech,
            http2_to_origins: scenario.spec().http2_to_origins,
        })
    }

    fn start_origins(
        &self,
        scenario: Scenario,
        words: &[String],
        backends: [SocketAddr; 2],
    ) -> Result<Process, Error> {
        let own = std::env::current_exe().map_err(Error::system("its own path"))?;
        let words = [&[own.display().to_string()], words].concat();
        let cpu = self.bench.cores.generator.to_string();
        let works = || {
            let exchange = |at: &SocketAddr| Connection::open_origin(*at, scenario)?.exchange();
            backends.iter().try_for_each(exchange)
        };
        self.bench
            .start_until(&words, &cpu, "origins", works)
            .map_err(Error::Origins)
    }

    /// Those who can take part, and the others. Writes the configurations, for the peers and for
    /// the report.
    fn contenders(
        &self,
        scenario: Scenario,
        site: &Site,
    ) -> Result<(Vec<Contender>, Vec<Absent>), Error> {
        let contender = |program: &Program| {
            let (peer, extension) = (program.peer.name(), program.extension());
            let file = format!("{}.{peer}.{extension}", scenario.name());
            let launch = program.launch(site, &file);
            if let Some(text) = &launch.configuration {
                for folder in [self.bench.folder, self.configurations] {
                    fs::write(folder.join(&file), text).map_err(Error::system(&*file))?;
                }
            }
            Ok::<_, Error>(Contender {
                program: program.clone(),
                launch,
                file,
            })
        };
        let (mut contenders, mut absent) = (Vec::new(), Vec::new());
        for program in self.programs {
            match program.supports(scenario) {
                Ok(()) => contenders.push(contender(program)?),
                Err(reason) => {
                    let name = program.peer.name().to_owned();
                    eprintln!("{}: {name} is left out: {reason}", scenario.name());
                    self.progress.advance(cells(scenario) * self.rounds);
                    absent.push(Absent { name, reason });
                }
            }
        }
        Ok((contenders, absent))
    }

    fn setup(&self, scenario: Scenario, contender: &Contender) -> Setup {
        let cpus = self.bench.cores.of_workers(scenario.spec().workers);
        let launch = &contender.launch;
        let name = contender.program.peer.name();
        let program = contender.program.peer.program();
        Setup {
            peer: name.to_owned(),
            command: shown(program, &launch.words[1..], &cpus),
            configuration: launch
                .configuration
                .is_some()
                .then(|| contender.file.clone()),
        }
    }

    fn load_command(
        &self,
        scenario: Scenario,
        traffic: Traffic,
        site: &Site,
        rate: Option<f64>,
    ) -> LoadCommand {
        LoadCommand::new(scenario, traffic, site.listen, self.timing, rate)
    }

    fn shown_load(&self, command: &LoadCommand) -> String {
        format!("loadgen {}", command.0.join(" "))
    }

    fn load_rounds(
        &self,
        scenario: Scenario,
        site: &Site,
        contenders: &[Contender],
        command: &LoadCommand,
    ) -> Result<Vec<Round<Load>>, Error> {
        let told = |load: &Load| told_load(load, scenario.spec().work);
        self.interleave(scenario.name(), 1, contenders, told, |contender| {
            self.bench.under_load(contender, scenario, site, command)
        })
    }

    fn idle_rounds(
        &self,
        scenario: Scenario,
        site: &Site,
        contenders: &[Contender],
    ) -> Result<Vec<Round<Idle>>, Error> {
        let told = |idle: &Idle| {
            format!(
                "{} for a connection",
                numbers::bytes(idle.bytes_per_connection)
            )
        };
        self.interleave(scenario.name(), IDLE_CELLS, contenders, told, |contender| {
            self.bench.idle(contender, scenario, site)
        })
    }

    fn spread_rounds(
        &self,
        scenario: Scenario,
        site: &Site,
        contenders: &[Contender],
    ) -> Result<Vec<Round<Workers>>, Error> {
        let told = |workers: &Workers| {
            format!(
                "{:?}, max/mean {:.3}",
                workers.connections, workers.max_over_mean
            )
        };
        self.interleave(scenario.name(), 1, contenders, told, |contender| {
            self.bench.spread(contender, scenario, site)
        })
    }

    /// Rounds at a rate that every peer can keep; `None` when none got through `load`, or the
    /// scenario asks for none.
    fn fixed_rate(
        &self,
        scenario: Scenario,
        traffic: Traffic,
        site: &Site,
        contenders: &[Contender],
        load: &[Round<Load>],
    ) -> Result<Option<FixedRate>, Error> {
        let throughputs = contenders.iter().filter_map(|contender| {
            statistics::of_peer(load, contender.program.peer.name(), |load| load.per_s)
        });
        let slowest = throughputs
            .map(|spread| spread.median)
            .min_by(f64::total_cmp);
        let Some(slowest) = slowest.filter(|_| traffic.fixed_rate) else {
            return Ok(None);
        };
        let work_per_answer = scenario.spec().work_per_answer();
        let rate = two_digits(slowest * LATENCY_SHARE / work_per_answer);
        let per_s = rate * work_per_answer;
        eprintln!(
            "{} at {} per second:",
            scenario.name(),
            numbers::plain(per_s)
        );
        let command = self.load_command(scenario, traffic, site, Some(rate));
        Ok(Some(FixedRate {
            per_s,
            load_command: self.shown_load(&command),
            rounds: self.load_rounds(scenario, site, contenders, &command)?,
        }))
    }

    /// All rounds of all contenders, telling of each as it ends; each counts as `cells`.
    fn interleave<Figures>(
        &self,
        what: &str,
        cells: usize,
        contenders: &[Contender],
        told: impl Fn(&Figures) -> String,
        run: impl Fn(&Contender) -> Result<Figures, String>,
    ) -> Result<Vec<Round<Figures>>, Error> {
        let mut rounds = Vec::with_capacity(self.rounds * contenders.len());
        for round in 1..=self.rounds {
            for contender in contenders {
                let peer = contender.program.peer.name().to_owned();
                let progress = self.progress.told();
                eprint!("{progress}{what} {round}/{} {peer}: ", self.rounds);
                // Only so that the line shows while the round runs.
                let _ = std::io::stderr().flush();
                let outcome = run(contender).map_or_else(Outcome::Failed, Outcome::Measured);
                self.progress.advance(cells);
                if self.bench.stop.is_open() {
                    return Err(Error::Interrupted);
                }
                match &outcome {
                    Outcome::Measured(figures) => eprintln!("{}", told(figures)),
                    Outcome::Failed(reason) => eprintln!("failed: {reason}"),
                }
                rounds.push(Round {
                    round,
                    peer,
                    outcome,
                });
            }
        }
        Ok(rounds)
    }
}

fn told_load(load: &Load, work: Work) -> String {
    let note = if load.generator.saturated {
        " (the generator was the bottleneck)"
    } else {
        ""
    };
    format!(
        "{} µs of CPU per {}, {} per second, p99 {}{note}",
        numbers::plain(load.cpu_us),
        work.singular(),
        numbers::plain(load.per_s),
        numbers::microseconds(load.latency.p99_us),
    )
}

/// A command as a reader would type it: pinned, and with the program's name for its path.
fn shown(program: &str, arguments: &[String], cpus: &str) -> String {
    format!("taskset -c {cpus} {program} {}", arguments.join(" "))
}

/// Rounded down to two digits: 48,312 becomes 48,000.
fn two_digits(value: f64) -> f64 {
    let unit = 10_f64.powf((value.log10() - 1.0).floor()).max(1.0);
    ((value / unit).floor() * unit).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_round() {
        let rounded = [48_312.0, 1_999.0, 101.0, 42.7, 0.3].map(two_digits);
        assert_eq!(rounded, [48_000.0, 1_900.0, 100.0, 42.0, 1.0]);
    }

    #[test]
    fn commands_are_shown_without_paths() {
        let words = ["-c", "x.conf"].map(str::to_owned);
        assert_eq!(shown("nginx", &words, "0"), "taskset -c 0 nginx -c x.conf");
    }
}

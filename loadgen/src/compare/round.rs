//! One round: a balancer is started afresh, loaded or filled with idle connections, and ended.
//!
//! Invariant: a round gives figures only when nothing at all went wrong in it; the process it
//! started is gone when it returns. `load` makes the traffic, `accounting` reads the cost.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::accounting;
use super::load::{self, LoadCommand};
use super::metrics;
use super::peers::{ACCESS_LOG, Launch, Program, Site};
use super::place::Cores;
use super::probe::Connection;
use super::process::{Process, wait_until};
use super::scenario::{Scenario, Secure};
use super::window::{Cost, Window};
use crate::gate::Gate;
use crate::report::record::{Idle, Latency, Load, Memory, Work, Workers};
use crate::run::Summary;

/// How long a program may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections at the first reading, so that what a program sets up once is not counted.
pub(crate) const IDLE_BASE: usize = 64;
/// Connections that are spread over workers.
const SPREAD_CONNECTIONS: usize = 1_000;
/// The part of handshakes that may be whole where they were to be resumed: the first of each
/// client, and those for whose ticket there was no time.
const WRONG_HANDSHAKES_MAX: f64 = 0.02;
/// How long memory may settle before it is read.
const SETTLE: Duration = Duration::from_millis(500);

/// Where rounds take place.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    /// Ends every wait.
    pub(crate) stop: &'a Gate,
    /// Where balancer and generator run.
    pub(crate) cores: Cores,
    /// The working directory of everything that is started.
    pub(crate) folder: &'a Path,
    /// Connections that an idle round opens.
    pub(crate) idle_connections: usize,
}

/// A balancer ready to be started in one scenario.
#[derive(Debug, Clone)]
pub(crate) struct Contender {
    /// Which one.
    pub(crate) program: Program,
    /// How it is started.
    pub(crate) launch: Launch,
    /// The name of its configuration file.
    pub(crate) file: String,
}

impl Bench<'_> {
    /// Starts `words` on the cores `cpus` and waits until `works` finds no fault.
    pub(crate) fn start_until(
        &self,
        words: &[String],
        cpus: &str,
        name: &str,
        works: impl Fn() -> io::Result<()>,
    ) -> Result<Process, String> {
        let log = format!("{name}.log");
        let mut process = Process::start(words, cpus, self.folder, &log)
            .map_err(|error| format!("{name} cannot be started: {error}"))?;
        let mut ended = None;
        let mut answer = Err(io::ErrorKind::NotConnected.into());
        let answers = wait_until(self.stop, START_TIMEOUT, || {
            ended = process.ended();
            answer = works();
            ended.is_some() || answer.is_ok()
        });
        match (ended, answer) {
            (Some(how), _) => Err(format!("{name} ended at once: {how}")),
            (None, Ok(())) if answers => Ok(process),
            (None, Ok(())) => Err("interrupted".to_owned()),
            (None, Err(error)) => Err(format!("{name} does not answer: {error}")),
        }
    }

    fn start_balancer(
        &self,
        contender: &Contender,
        scenario: Scenario,
        site: &Site,
    ) -> Result<Process, String> {
        let name = contender.program.peer.name();
        // The log of the round before would be appended to; there need not be one.
        let _ = fs::remove_file(self.folder.join(ACCESS_LOG));
        let cpus = self.cores.of_workers(scenario.spec().workers);
        let works = || Connection::open(site.listen, scenario)?.exchange();
        self.start_until(&contender.launch.words, &cpus, name, works)
    }

    /// A round under load.
    pub(crate) fn under_load(
        &self,
        contender: &Contender,
        scenario: Scenario,
        site: &Site,
        command: &LoadCommand,
    ) -> Result<Load, String> {
        let mut process = self.start_balancer(contender, scenario, site)?;
        let mut window = Window::new(process.id(), self.cores.balancer);
        let summary = load::run(command, &mut window, self.stop)?;
        let cost = window.cost();
        if let Some(how) = process.ended() {
            return Err(format!("it ended under load: {how}"));
        }
        process.stop();
        figures(scenario, &summary, cost)
    }

    /// A round of idle connections.
    pub(crate) fn idle(
        &self,
        contender: &Contender,
        scenario: Scenario,
        site: &Site,
    ) -> Result<Idle, String> {
        let process = self.start_balancer(contender, scenario, site)?;
        let mut connections = Vec::with_capacity(self.idle_connections);
        let base = self.memory_with(&process, &mut connections, IDLE_BASE, scenario, site)?;
        let full = self.memory_with(
            &process,
            &mut connections,
            self.idle_connections,
            scenario,
            site,
        )?;
        for (number, connection) in connections.iter_mut().enumerate() {
            let late = |error| format!("idle connection {number} no longer answers: {error}");
            connection.exchange().map_err(late)?;
        }
        let full_connections = connections.len();
        drop(connections);
        process.stop();
        let growth = full.user_bytes() as f64 - base.user_bytes() as f64;
        Ok(Idle {
            base_connections: IDLE_BASE,
            full_connections,
            base,
            full,
            bytes_per_connection: growth / (full_connections - IDLE_BASE) as f64,
        })
    }

    /// A round of lasting connections over several workers.
    pub(crate) fn spread(
        &self,
        contender: &Contender,
        scenario: Scenario,
        site: &Site,
    ) -> Result<Workers, String> {
        let process = self.start_balancer(contender, scenario, site)?;
        let mut held = Vec::with_capacity(SPREAD_CONNECTIONS);
        self.open_until(&mut held, SPREAD_CONNECTIONS, scenario, site)?;
        wait_until(self.stop, SETTLE, || false);
        let page = metrics::read(site.admin).map_err(|error| format!("its metrics: {error}"))?;
        for (number, connection) in held.iter_mut().enumerate() {
            let late = |error| format!("connection {number} no longer answers: {error}");
            connection.exchange().map_err(late)?;
        }
        drop(held);
        process.stop();
        let connections = metrics::by_worker(&page, "lb_worker_connections");
        let all: u64 = connections.iter().sum();
        if connections.len() != scenario.spec().workers || all < SPREAD_CONNECTIONS as u64 {
            return Err(format!(
                "its metrics do not tell {SPREAD_CONNECTIONS} connections on {} workers: \
                 {connections:?}",
                scenario.spec().workers
            ));
        }
        let mean = all as f64 / connections.len() as f64;
        let most = connections.iter().max().copied().unwrap_or(0);
        Ok(Workers {
            connections,
            max_over_mean: most as f64 / mean,
        })
    }

    /// Opens connections until there are `count`, and reads the balancer's memory then.
    fn memory_with(
        &self,
        process: &Process,
        connections: &mut Vec<Connection>,
        count: usize,
        scenario: Scenario,
        site: &Site,
    ) -> Result<Memory, String> {
        self.open_until(connections, count, scenario, site)?;
        wait_until(self.stop, SETTLE, || false);
        accounting::memory(process.id()).map_err(|error| format!("its memory: {error}"))
    }

    /// Opens connections until there are `count`; each has one exchange.
    fn open_until(
        &self,
        connections: &mut Vec<Connection>,
        count: usize,
        scenario: Scenario,
        site: &Site,
    ) -> Result<(), String> {
        while connections.len() < count {
            if self.stop.is_open() {
                return Err("interrupted".to_owned());
            }
            let open = || {
                let mut connection = Connection::open(site.listen, scenario)?;
                connection.exchange()?;
                io::Result::Ok(connection)
            };
            let number = connections.len();
            connections.push(open().map_err(|error| format!("connection {number}: {error}"))?);
        }
        Ok(())
    }
}

/// The percentiles of a run.
pub(crate) fn latency_of(summary: &Summary) -> Latency {
    let latency = summary.latency_us;
    Latency {
        p50_us: latency.p50,
        p99_us: latency.p99,
        p999_us: latency.p999,
        max_us: latency.max,
    }
}

/// That handshakes were what the scenario is about, whatever the balancer would have liked.
fn check_handshakes(scenario: Scenario, summary: &Summary) -> Result<(), String> {
    let Some(made) = summary.handshakes else {
        return Ok(());
    };
    let all = made.full + made.resumed;
    let (wrong, what) = match scenario.spec().secure {
        Secure::Resumed => (made.full, "were not resumed"),
        Secure::No | Secure::Full => (made.resumed, "were resumed"),
    };
    if wrong as f64 > all as f64 * WRONG_HANDSHAKES_MAX {
        return Err(format!("{wrong} of {all} handshakes {what}"));
    }
    Ok(())
}

fn figures(scenario: Scenario, summary: &Summary, cost: Option<Cost>) -> Result<Load, String> {
    if !summary.is_clean() {
        return Err(load::failures(summary));
    }
    check_handshakes(scenario, summary)?;
    let cost = cost.ok_or("its CPU time could not be read")?;
    let (completed, per_s) = match scenario.spec().work {
        // Answers take so long that many lie across the ends of the window.
        Work::Mebibyte => {
            let mebibytes = summary.streamed_bytes as f64 / (1024.0 * 1024.0);
            (mebibytes, mebibytes / summary.duration_s)
        }
        _ => (summary.completed as f64, summary.rate_per_s),
    };
    Ok(Load {
        completed,
        per_s,
        cpu_us: cost.cpu_s * 1e6 / completed,
        cpu_s: cost.cpu_s,
        user_s: cost.user_s,
        system_s: cost.system_s,
        core_busy_s: cost.core_busy_s,
        stolen_s: cost.stolen_s,
        window_s: summary.duration_s,
        reconnects: summary.reconnects,
        latency: latency_of(summary),
        generator: summary.generator.clone(),
    })
}

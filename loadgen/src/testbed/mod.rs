//! `lb` between some origins, configured by a file that may change under load.
//!
//! Invariant: the file is replaced as a whole, so that `lb` never reads half of one; everything
//! that was started is gone when its owner is dropped.
//! Read next: `../strategies/course.rs` and `../faults/course.rs`, which use it.

mod cluster;

pub use cluster::Mode;
pub(crate) use cluster::{ClusterFile, OVERFLOW_WEIGHT};

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::compare::load::LoadCommand;
use crate::compare::place::{Cores, Folder};
use crate::compare::process::{Process, wait_until};
use crate::compare::round::Bench;
use crate::compare::{Error, metrics, ports, probe};
use crate::gate::Gate;
use crate::tls::Identity;

/// The name of the file, in the working folder.
const FILE_NAME: &str = "lb.yaml";
/// How long a change of the file may take until all workers have it.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Where everything runs.
#[derive(Debug)]
pub(crate) struct Testbed<'a> {
    /// The path of `lb`.
    pub(crate) lb: &'a Path,
    /// The two cores.
    pub(crate) cores: Cores,
    /// The working folder.
    pub(crate) folder: &'a Folder,
    /// Ends every wait.
    pub(crate) stop: &'a Gate,
}

impl Testbed<'_> {
    /// Addresses for `lb`, its admin API and `origins` origins.
    ///
    /// # Errors
    /// When there are not enough free ports.
    pub(crate) fn addresses(&self, origins: usize) -> Result<Vec<SocketAddr>, Error> {
        let ports = ports::free(2 + origins).map_err(Error::system("free ports"))?;
        Ok(ports
            .into_iter()
            .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
            .collect())
    }

    /// Starts one process of origins, called `name` in its log, and waits until they answer.
    ///
    /// # Errors
    /// When they do not.
    pub(crate) fn start_origins(
        &self,
        mode: Mode,
        addresses: &[SocketAddr],
        name: &str,
        options: &str,
    ) -> Result<Process, Error> {
        let own = std::env::current_exe().map_err(Error::system("its own path"))?;
        let listed: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        let mut words = vec![own.display().to_string(), "origin".to_owned()];
        words.push(format!("--{}", mode.name()));
        words.extend(listed);
        words.extend(options.split_whitespace().map(str::to_owned));
        let cpu = self.cores.generator.to_string();
        // That they accept is enough: they may be slow or failing on purpose.
        let works = || {
            addresses
                .iter()
                .try_for_each(|at| probe::connect(*at).map(drop))
        };
        self.bench()
            .start_until(&words, &cpu, name, works)
            .map_err(Error::Origins)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, file: &ClusterFile) -> io::Result<()> {
        self.write_text(&file.text())
    }

    /// The same for a file with other things in it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write_text(&self, text: &str) -> io::Result<()> {
        let path = self.path();
        let next = path.with_extension("next");
        fs::write(&next, text)?;
        fs::rename(next, path)
    }

    /// What `lb check` says against the file, if anything.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub(crate) fn refusal(&self) -> Result<Option<String>, Error> {
        let output = Command::new(self.lb)
            .args(["check", "--config", FILE_NAME])
            .current_dir(self.folder.path())
            .output()
            .map_err(Error::system("lb check"))?;
        if output.status.success() {
            return Ok(None);
        }
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.split_whitespace().collect();
        Ok(Some(lines.join(" ")))
    }

    /// Starts `lb` with the file and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become so.
    pub(crate) fn start_balancer(&self, file: &ClusterFile) -> Result<Process, String> {
        self.start_with(file.admin, file.workers)
    }

    /// The same with whatever stands in the file: where its admin API and how many its workers are.
    ///
    /// # Errors
    /// When it does not become ready.
    pub(crate) fn start_with(&self, admin: SocketAddr, workers: usize) -> Result<Process, String> {
        let words = [&self.lb.display().to_string(), "--config", FILE_NAME].map(str::to_owned);
        let works = || probe::get(admin, "/readyz").map(drop);
        let cpus = self.cores.of_workers(workers);
        self.bench().start_until(&words, &cpus, "lb", works)
    }

    /// Makes a certificate and its key, and puts them in place of those that there are.
    ///
    /// # Errors
    /// When they cannot be made or written.
    pub(crate) fn write_identity(&self) -> Result<(), String> {
        Identity::self_signed(&["localhost", "127.0.0.1"])
            .and_then(|identity| identity.write(self.folder.path(), "site"))
            .map_err(|error| error.to_string())
    }

    /// The same while `lb` runs; waits until all workers have them.
    ///
    /// # Errors
    /// When they are not taken up, or that takes too long.
    pub(crate) fn swap_identity(&self, admin: SocketAddr) -> Result<(), String> {
        self.change(admin, || self.write_identity())
    }

    /// Replaces the file while `lb` runs, and waits until all workers have the change.
    ///
    /// # Errors
    /// When it is refused, or takes too long.
    pub(crate) fn reload(&self, file: &ClusterFile) -> Result<(), String> {
        self.change(file.admin, || {
            self.write(file)
                .map_err(|error| format!("its configuration: {error}"))
        })
    }

    /// Changes what `lb` reads, and waits until all workers have it.
    ///
    /// # Errors
    /// When the change fails or is refused, or takes too long.
    pub(crate) fn change(
        &self,
        admin: SocketAddr,
        change: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), String> {
        let generation = || Generation::read(admin);
        let before = generation().map_err(|error| format!("its metrics: {error}"))?;
        change()?;
        let is_there = || generation().is_ok_and(|now| now.follows(&before));
        if wait_until(self.stop, RELOAD_TIMEOUT, is_there) {
            Ok(())
        } else {
            Err("a change of its configuration does not take effect".to_owned())
        }
    }

    /// Replaces the file by one that `lb` must refuse, waits until it has, and puts `good` back.
    ///
    /// # Errors
    /// When it does not refuse the one or take the other.
    pub(crate) fn spoil(&self, bad: &ClusterFile, good: &ClusterFile) -> Result<(), String> {
        for (file, expected) in [(bad, 0.0), (good, 1.0)] {
            self.write(file)
                .map_err(|error| format!("its configuration: {error}"))?;
            let is_there = || {
                let page = metrics::read(file.admin).unwrap_or_default();
                metrics::value(&page, "lb_config_last_reload_successful") == Some(expected)
            };
            if !wait_until(self.stop, RELOAD_TIMEOUT, is_there) {
                return Err("it does not tell a bad configuration from a good one".to_owned());
            }
        }
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(FILE_NAME)
    }

    fn bench(&self) -> Bench<'_> {
        Bench {
            stop: self.stop,
            cores: self.cores,
            folder: self.folder.path(),
            idle_connections: 0,
        }
    }
}

/// How far `lb` is with its configuration.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Generation {
    published: f64,
    /// Generations by which the slowest worker is behind.
    lag: u64,
}

impl Generation {
    fn read(admin: SocketAddr) -> io::Result<Self> {
        let page = metrics::read(admin)?;
        let published = metrics::value(&page, "lb_config_generation");
        let lags = metrics::by_worker(&page, "lb_worker_config_lag");
        match (published, lags.into_iter().max()) {
            (Some(published), Some(lag)) => Ok(Self { published, lag }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn follows(&self, before: &Self) -> bool {
        self.published > before.published && self.lag == 0
    }
}

/// The words of a `loadgen run` in `mode` against `at`; over TLS with a new connection after some
/// requests, so that certificates matter, and half of the handshakes resumed.
pub(crate) fn load_command(
    mode: Mode,
    is_secure: bool,
    at: SocketAddr,
    options: &str,
) -> LoadCommand {
    let url = match mode {
        Mode::Http if is_secure => {
            format!("https://{at}/ --verify --requests-per-connection 10 --resume 0.5")
        }
        Mode::Http => format!("http://{at}/ --verify"),
        Mode::Tcp => format!("tcp://{at} --who --new-connections"),
    };
    let words = format!("run {url} {options}");
    LoadCommand(words.split_whitespace().map(str::to_owned).collect())
}

//! The measurement: arguments, interleaved rounds, idle connections, then the report.
//!
//! Forwarder and load have a core each. A round runs every forwarder once, A B C…, each as a
//! fresh child process, so a drift of the machine meets all alike. CPU time is that of the whole
//! child, all threads, user and kernel, over a window that begins after the warm-up.
//! Read next: `child.rs` (what is measured), `load.rs` (by what), `report.rs` (what is said).

mod child;
mod load;
mod report;

use std::error::Error;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, value_parser};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};

use crate::forwarders::Forwarder;
use child::{Child, Pages};
use load::{LARGEST_MESSAGE_BYTES, Load, SMALLEST_MESSAGE_BYTES};
use report::{Idle, Report, Round};

/// What a forwarded message costs in CPU time on each runtime, and an idle connection in memory.
#[derive(Debug, Parser)]
#[command(name = "forwarder-ab", args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    measure: Measure,
}

impl Arguments {
    /// Measures and prints, or, in the child processes, serves.
    ///
    /// # Errors
    /// One line for the user, with what to do where that is known.
    pub fn run(self) -> Result<(), Box<dyn Error>> {
        match self.command {
            Some(Command::Serve {
                forwarder,
                listen,
                backend,
                cpu,
                small_pages,
            }) => child::serve(forwarder, listen, backend, cpu, small_pages),
            None => self.measure.run(),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One forwarder, as a child process of the measurement.
    #[command(hide = true)]
    Serve {
        forwarder: Forwarder,
        listen: SocketAddr,
        backend: SocketAddr,
        #[arg(long, default_value_t = 0)]
        cpu: usize,
        #[arg(long)]
        small_pages: bool,
    },
}

#[derive(Debug, Args)]
struct Measure {
    /// Rounds; each runs every forwarder once. The figures are medians over them.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of a measured window, after 1 s of warm-up.
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u64).range(1..))]
    seconds: u64,
    /// Connections, each with one message under way.
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// Size of a message, in bytes; its echo has the same.
    #[arg(long, default_value_t = 64, value_parser = message_bytes)]
    message: usize,
    /// Idle connections over which memory is measured; 0 leaves that out.
    #[arg(long, default_value_t = 2000, value_parser = value_parser!(u32).range(0..=8000))]
    idle: u32,
    /// Only these forwarders, in this order.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<Forwarder>,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Core of the forwarder under test.
    #[arg(long, default_value_t = 0)]
    forwarder_cpu: usize,
    /// Core of the load generator and its echo origin.
    #[arg(long, default_value_t = 1)]
    load_cpu: usize,
}

/// Time before a window: connections open, caches and the frequency of the core settle.
const WARM_UP: Duration = Duration::from_secs(1);
/// Time for a forwarder to finish what follows the last reply, before its memory is read.
const SETTLE: Duration = Duration::from_millis(300);

impl Measure {
    fn run(self) -> Result<(), Box<dyn Error>> {
        child::pin(self.load_cpu)?;
        allow_descriptors(u64::from(self.idle.max(self.connections)) * 2 + 64)?;
        let json = self.json.as_ref().map(File::create).transpose()?;
        let forwarders = self.forwarders();
        let mut report = Report::new(&forwarders, self.connections, self.message);
        for round in 1..=self.rounds {
            for &forwarder in &forwarders {
                progress(&format!("round {round} of {}: {forwarder}", self.rounds));
                report.add_round(forwarder, self.round(forwarder));
            }
        }
        for &forwarder in forwarders.iter().filter(|_| self.idle > 0) {
            progress(&format!("idle connections: {forwarder}"));
            report.add_idle(forwarder, self.idle(forwarder));
        }
        progress("");
        print!("{report}");
        if let Some(file) = json {
            serde_json::to_writer_pretty(file, &report.to_json())?;
        }
        report.into_result()
    }

    /// Those asked for; without `--only`, all that this machine can run.
    fn forwarders(&self) -> Vec<Forwarder> {
        if !self.only.is_empty() {
            return self.only.clone();
        }
        let mut forwarders = Forwarder::ALL.to_vec();
        forwarders.retain(|forwarder| {
            let check = forwarder.check();
            if let Err(reason) = &check {
                println!("SKIPPED {forwarder}: {reason}");
            }
            check.is_ok()
        });
        forwarders
    }

    /// One window of load on a fresh child.
    fn round(&self, forwarder: Forwarder) -> io::Result<Round> {
        let mut load = Load::new(self.message)?;
        let child = Child::start(forwarder, load.origin(), self.forwarder_cpu, Pages::AsSet)?;
        load.open(child.address(), self.connections)?;
        load.run_for(WARM_UP)?;

        let (cpu_before, before) = (child.cpu_time()?, monotonic());
        let messages = load.run_for(Duration::from_secs(self.seconds))?;
        let (cpu_after, after) = (child.cpu_time()?, monotonic());
        Ok(Round {
            messages,
            cpu: cpu_after - cpu_before,
            elapsed: after - before,
        })
    }

    /// Memory per resting connection, after a message as in the rounds, and after one that fills
    /// a relay buffer: a buffer that is held is held in full from then on.
    fn idle(&self, forwarder: Forwarder) -> io::Result<Idle> {
        Ok(Idle {
            after_message: self.idle_bytes(forwarder, self.message)?,
            after_largest: self.idle_bytes(forwarder, LARGEST_MESSAGE_BYTES)?,
        })
    }

    /// Growth of a fresh child's private anonymous memory over `idle` connections, divided by
    /// their number; each has carried two messages both ways.
    fn idle_bytes(&self, forwarder: Forwarder, message_bytes: usize) -> io::Result<f64> {
        let mut load = Load::new(message_bytes)?;
        let child = Child::start(forwarder, load.origin(), self.forwarder_cpu, Pages::Small)?;
        // The first connections pay for what the runtime sets up once.
        load.open(child.address(), 16)?;
        load.echo_once()?;
        std::thread::sleep(SETTLE);
        let before = child.anonymous_bytes()?;

        load.open(child.address(), self.idle)?;
        load.echo_once()?;
        std::thread::sleep(SETTLE);
        let after = child.anonymous_bytes()?;
        Ok(after.saturating_sub(before) as f64 / f64::from(self.idle))
    }
}

/// One line that overwrites the last, if a person is watching.
fn progress(line: &str) {
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[K{line}");
    }
}

fn message_bytes(text: &str) -> Result<usize, String> {
    let range = SMALLEST_MESSAGE_BYTES..=LARGEST_MESSAGE_BYTES;
    match text.parse() {
        Ok(bytes) if range.contains(&bytes) => Ok(bytes),
        _ => Err(format!(
            "a number of bytes from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

/// Raises the soft limit; children inherit it.
fn allow_descriptors(count: u64) -> Result<(), Box<dyn Error>> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < count {
        return Err(format!(
            "needs {count} descriptors, `ulimit -Hn` allows {hard}; lower --idle or --connections"
        )
        .into());
    }
    if soft < count {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

/// CLOCK_MONOTONIC, since its start.
fn monotonic() -> Duration {
    // It exists on every Linux and takes no argument that could be wrong.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .expect("CLOCK_MONOTONIC can be read")
        .into()
}

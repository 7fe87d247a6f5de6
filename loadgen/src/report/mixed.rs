//! The report on mixed traffic while origins restart: what `loadgen mixed` keeps, and its texts.
//!
//! Invariant: a function of `raw.json` alone, like every report; a run is good only if it was carried
//! out to its end and nothing failed in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::record::{self, Kind, Machine, PARTIAL, Settings};
use super::{Error, numbers};
use crate::units::group_digits;

/// The version of the format.
const FORMAT: u32 = 1;

/// Mixed traffic, with one engine after the other.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mixed {
    /// Version of this format.
    pub format: u32,
    /// Always [`Kind::Mixed`].
    pub kind: Kind,
    /// When it began, UTC, as `2026-01-31T12:00:00Z`.
    pub started: String,
    /// The command line that was typed.
    pub command: String,
    /// Where it ran.
    pub machine: Machine,
    /// How long, and on which cores.
    pub settings: Settings,
    /// What `lb` says of its version.
    pub balancer_version: String,
    /// Whether it was interrupted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_partial: bool,
    /// One for each engine.
    pub runs: Vec<Run>,
}

/// One engine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The balancer's engine.
    pub engine: String,
    /// The configuration at the beginning.
    pub configuration: String,
    /// Why it could not be carried out to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What was done to origins, one after the other.
    pub restarts: Vec<Restart>,
    /// What became of each kind of traffic.
    pub loads: Vec<Load>,
    /// Before the first connection.
    pub before: Sample,
    /// Under load, in the order of time.
    pub samples: Vec<Sample>,
    /// When everything should have grown to its size, in seconds.
    pub grown_at_s: u64,
    /// Some seconds after the last connection.
    pub after: Sample,
}

/// One origin away and back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// Seconds from the beginning of the load, when it was taken out or killed.
    pub from_s: u64,
    /// The same, when it was back.
    pub to_s: u64,
    /// Which, and how.
    pub what: String,
}

/// One kind of traffic.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// What it is.
    pub name: String,
    /// Requests (of a WebSocket: messages) answered correctly.
    pub completed: u64,
    /// Failed requests by kind; kinds that did not occur are left out.
    pub errors: BTreeMap<String, u64>,
    /// The seconds of the load in which requests failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_in_s: Vec<u64>,
    /// Requests that were due and never sent or answered.
    pub unanswered: u64,
    /// Connections opened.
    pub connections: u64,
    /// 99th percentile of the latency, from the moment at which a request was due, in microseconds.
    pub p99_us: f64,
    /// The slowest answer, in microseconds.
    pub max_us: f64,
    /// Why there was no such traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// What the balancer held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds from the beginning of the load.
    pub at_s: u64,
    /// Anonymous and shared memory, in KiB.
    pub memory_kib: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

impl Mixed {
    /// A record to be filled.
    pub fn new(started: String, command: String, machine: Machine, settings: Settings) -> Self {
        Self {
            format: FORMAT,
            kind: Kind::Mixed,
            started,
            command,
            machine,
            settings,
            balancer_version: String::new(),
            is_partial: false,
            runs: Vec::new(),
        }
    }

    /// Reads `raw.json` of `folder`.
    ///
    /// # Errors
    /// When there is none, or it is of another version.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let mixed: Self = record::read(folder)?;
        record::check_format(folder, mixed.format, FORMAT)?;
        Ok(mixed)
    }

    /// Writes `raw.json` into `folder`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        record::write(self, folder)
    }

    /// Requests answered, failed requests, and restarts, of all engines.
    pub fn totals(&self) -> [u64; 3] {
        let sum = |of: fn(&Run) -> u64| self.runs.iter().map(of).sum();
        [
            sum(|run| run.loads.iter().map(|load| load.completed).sum()),
            sum(Run::failed),
            sum(|run| run.restarts.len() as u64),
        ]
    }
}

impl Run {
    /// Requests that failed or had no answer.
    pub fn failed(&self) -> u64 {
        self.loads.iter().map(Load::failed).sum()
    }

    /// Whether it came to its end, and no request failed.
    pub fn is_good(&self) -> bool {
        let had_traffic = |load: &Load| load.failure.is_none() && load.completed > 0;
        self.failure.is_none()
            && self.failed() == 0
            && !self.loads.is_empty()
            && self.loads.iter().all(had_traffic)
    }

    /// The first sample at which everything should have grown to its size.
    fn grown(&self) -> Option<&Sample> {
        let mut samples = self.samples.iter();
        samples.find(|sample| sample.at_s >= self.grown_at_s)
    }
}

impl Load {
    /// Requests that failed or had no answer.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum::<u64>() + self.unanswered
    }

    /// It in a line.
    pub fn told(&self) -> String {
        if let Some(failure) = &self.failure {
            return format!("{}: {failure}", self.name);
        }
        let failed = match self.failed() {
            0 => "none failed".to_owned(),
            _ => self.failures(),
        };
        format!(
            "{}: {} answered, {failed}",
            self.name,
            group_digits(self.completed)
        )
    }

    fn failures(&self) -> String {
        let kinds = self.errors.iter();
        let mut kinds: Vec<String> = kinds.map(|(kind, n)| format!("{n} × {kind}")).collect();
        if self.unanswered > 0 {
            kinds.push(format!("{} × unanswered", self.unanswered));
        }
        if !self.failed_in_s.is_empty() {
            let seconds: Vec<String> = self.failed_in_s.iter().map(u64::to_string).collect();
            kinds.push(format!("in second {}", seconds.join(", ")));
        }
        kinds.join(", ")
    }
}

impl Restart {
    /// It in a line.
    pub fn told(&self) -> String {
        format!("{} s to {} s: {}", self.from_s, self.to_s, self.what)
    }
}

/// Writes everything but `raw.json` into `folder`, and the index beside it when it lies in a folder called
/// `results`.
///
/// # Errors
/// When a file cannot be written.
pub fn draw(mixed: &Mixed, folder: &Path) -> Result<(), Error> {
    super::publish(folder, &readme(mixed), &summary(mixed))
}

/// `summary.md`.
fn summary(mixed: &Mixed) -> String {
    let machine = &mixed.machine;
    let mut page = format!(
        "# Mixed traffic while origins restart\n\n{} · {}, {} cores, Linux {} · {}. [How it was \
         measured](README.md) · [raw figures](raw.json)\n\n",
        mixed.started, machine.cpu, machine.cores, machine.kernel, mixed.balancer_version,
    );
    if mixed.is_partial {
        page += PARTIAL;
    }
    for run in &mixed.runs {
        page += &section(run);
    }
    page
}

fn section(run: &Run) -> String {
    let completed: u64 = run.loads.iter().map(|load| load.completed).sum();
    let mut text = format!(
        "## {}\n\n{} requests were answered, **{} failed**, while origins were restarted {} times.\n\n",
        run.engine,
        group_digits(completed),
        group_digits(run.failed()),
        run.restarts.len(),
    );
    if let Some(failure) = &run.failure {
        let _ = writeln!(text, "It could not be carried out to its end: {failure}\n");
    }
    text += "| traffic | answered | failed | connections | p99 | slowest |\n\
             | --- | ---: | ---: | ---: | ---: | ---: |\n";
    for load in &run.loads {
        let failed = match (&load.failure, load.failed()) {
            (Some(failure), _) => failure.clone(),
            (None, 0) => "0".to_owned(),
            (None, _) => load.failures(),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {failed} | {} | {} | {} |",
            load.name,
            group_digits(load.completed),
            group_digits(load.connections),
            numbers::microseconds(load.p99_us),
            numbers::microseconds(load.max_us),
        );
    }
    text += "\n| what `lb` held | memory | descriptors |\n| --- | ---: | ---: |\n";
    let moments = [
        ("before the first connection", Some(&run.before)),
        ("under load, grown to its size", run.grown()),
        ("under load, at the end", run.samples.last()),
        ("after the last connection", Some(&run.after)),
    ];
    for (when, sample) in moments {
        if let Some(sample) = sample {
            let memory = numbers::bytes(sample.memory_kib as f64 * 1024.0);
            let _ = writeln!(text, "| {when} | {memory} | {} |", sample.descriptors);
        }
    }
    text + "\n"
}

/// `README.md`.
fn readme(mixed: &Mixed) -> String {
    let settings = &mixed.settings;
    let mut page = format!(
        "# Mixed traffic while origins restart, {}\n\n[Summary](summary.md) · [raw \
         figures](raw.json)\n\n## How it was measured\n\n- `lb` ({}) with two workers; generator and \
         origins, each a process, on core {}. {} s for each engine.\n{METHOD}\n## Command\n\n\
         ```sh\n{}\n```\n\n## Configurations\n\n",
        mixed.started.split('T').next().unwrap_or_default(),
        mixed.balancer_version,
        settings.generator_cpu,
        settings.duration_s,
        mixed.command,
    );
    for run in &mixed.runs {
        let _ = writeln!(
            page,
            "{}:\n\n```yaml\n{}```\n",
            run.engine, run.configuration
        );
        let _ = writeln!(page, "Restarts, in this order:\n");
        for restart in &run.restarts {
            let _ = writeln!(page, "- {}", restart.told());
        }
        page.push('\n');
    }
    page
}

const METHOD: &str = "\
- All kinds of traffic run at once, each an open loop: requests are due at a fixed rate, and latency
  counts from the moment at which one was due. Every answer is checked byte by byte.
- An origin that restarts in order is taken out of the configuration, told to end (SIGTERM) once all
  workers know, ends when what it had under way is over, is started again at the same address and put
  back. One that is killed (SIGKILL) stays in the configuration, and is away for a second; such origins
  get GETs only, which are safe to send again.
- Connections to origins may be idle for two seconds here, so that all are closed soon after the load.
- This is a test of what fails, not of speed: balancer, generator and origins share the machine.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str) -> Load {
        Load {
            name: name.to_owned(),
            completed: 1234,
            ..Load::default()
        }
    }

    fn run() -> Run {
        let sample = |at_s, memory_kib| Sample {
            at_s,
            memory_kib,
            descriptors: 40 + at_s,
        };
        Run {
            engine: "uring".to_owned(),
            restarts: vec![Restart {
                from_s: 3,
                to_s: 7,
                what: "small-1 ended and came back".to_owned(),
            }],
            loads: vec![load("GET"), load("POST")],
            before: sample(0, 2048),
            samples: vec![sample(5, 4096), sample(10, 5120), sample(15, 6144)],
            grown_at_s: 6,
            after: sample(0, 3072),
            ..Run::default()
        }
    }

    #[test]
    fn a_run_is_good_only_without_any_failure() {
        assert!(run().is_good());
        let failing: [fn(&mut Run); 5] = [
            |run| run.loads[1].unanswered = 1,
            |run| {
                run.loads[0].errors.insert("reset".to_owned(), 1);
            },
            |run| run.loads[0].completed = 0,
            |run| run.failure = Some("it ended".to_owned()),
            |run| run.loads.clear(),
        ];
        for fail in failing {
            let mut run = run();
            fail(&mut run);
            assert!(!run.is_good(), "{run:?}");
        }
    }

    #[test]
    fn the_page_says_what_failed_and_what_was_held() {
        let mut run = run();
        let page = section(&run);
        assert!(
            page.contains("2,468 requests were answered, **0 failed**"),
            "{page}"
        );
        assert!(page.contains("| GET | 1,234 | 0 | 0 |"), "{page}");
        assert!(
            page.contains("grown to its size | 5.00 MiB | 50 |"),
            "{page}"
        );
        assert!(page.contains("at the end | 6.00 MiB | 55 |"), "{page}");
        run.loads[1].errors.insert("reset".to_owned(), 2);
        run.loads[1].failed_in_s = vec![3, 8];
        let page = section(&run);
        let expected = "| POST | 1,234 | 2 × reset, in second 3, 8 |";
        assert!(page.contains(expected), "{page}");
        assert_eq!(
            run.restarts[0].told(),
            "3 s to 7 s: small-1 ended and came back"
        );
    }
}

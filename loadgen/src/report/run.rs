//! The report on one run: what `loadgen run --out` keeps, and what is drawn from it.
//!
//! Invariant: a function of `raw.json` alone, like every report.
//! Read next: `percentiles.rs`, `timeline.rs` (the charts).

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::record::{self, Kind, Machine, PARTIAL};
use super::{Error, numbers, percentiles, timeline};
use crate::run::Summary;
use crate::units::group_digits;

/// The version of the format.
const FORMAT: u32 = 1;

const LATENCY: &str = "latency.svg";
const TIMELINE: &str = "timeline.svg";

/// One run, as it stands in `raw.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// Version of this format.
    pub format: u32,
    /// Always [`Kind::Run`].
    pub kind: Kind,
    /// When it began, UTC, as `2026-01-31T12:00:00Z`.
    pub started: String,
    /// The command line that was typed.
    pub command: String,
    /// Where it ran.
    pub machine: Machine,
    /// Its result.
    pub summary: Summary,
}

impl Run {
    /// A record of `summary`.
    pub fn new(started: String, command: String, machine: Machine, summary: Summary) -> Self {
        Self {
            format: FORMAT,
            kind: Kind::Run,
            started,
            command,
            machine,
            summary,
        }
    }

    /// Reads `raw.json` of `folder`.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let run: Self = record::read(folder)?;
        record::check_format(folder, run.format, FORMAT)?;
        Ok(run)
    }

    /// Writes `raw.json` into `folder`.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        record::write(self, folder)
    }
}

/// Writes everything but `raw.json` into `folder`, and the index beside it when it lies in a
/// folder called `results`.
///
/// # Errors
/// When a file cannot be written.
pub fn draw(run: &Run, folder: &Path) -> Result<(), Error> {
    let summary = &run.summary;
    let title = "Latency by percentile";
    percentiles::draw(&folder.join(LATENCY), title, &summary.histogram)?;
    let title = "Answers over time";
    timeline::draw(&folder.join(TIMELINE), title, &[], &summary.timeline)?;
    super::publish(folder, &readme(run), &page(run))
}

/// `summary.md`.
fn page(run: &Run) -> String {
    let Run {
        summary, machine, ..
    } = run;
    let mut page = format!(
        "# Load on {}\n\n{} · {}, {} cores, Linux {}. [How it was measured](README.md) · \
         [every second](raw.json)\n\n",
        summary.url, run.started, machine.cpu, machine.cores, machine.kernel
    );
    if summary.is_partial {
        page += PARTIAL;
    }
    if summary.generator.saturated {
        let reason = &summary.generator.reason;
        let _ = writeln!(
            page,
            "**The generator was the bottleneck**: {reason}. The figures are its own.\n"
        );
    }
    page += &latencies(summary);
    let _ = writeln!(page, "![Latency by percentile]({LATENCY})\n");
    page += &failures(summary);
    let _ = writeln!(page, "![Answers over time]({TIMELINE})\n");
    page + &origins(summary) + "## All figures\n\n```text\n" + &summary.to_string() + "```\n"
}

fn latencies(summary: &Summary) -> String {
    format!(
        "## Answers\n\n{} requests were answered within {:.1} s, {} each second.\n\n\
         | fastest | p50 | p90 | p99 | p99.9 | slowest | mean |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n| {} |\n\n",
        group_digits(summary.completed),
        summary.duration_s,
        numbers::plain(summary.rate_per_s),
        summary
            .latency_us
            .all()
            .map(numbers::microseconds)
            .join(" | "),
    )
}

fn failures(summary: &Summary) -> String {
    let kinds = summary.errors.by_kind().into_iter();
    let unanswered = ("unanswered", summary.unanswered);
    let rows: String = kinds
        .chain([unanswered])
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| format!("| {kind} | {} |\n", group_digits(count)))
        .collect();
    if rows.is_empty() {
        return "## Failures\n\nNone.\n\n".to_owned();
    }
    format!("## Failures\n\n| kind | requests |\n| --- | ---: |\n{rows}\n")
}

fn origins(summary: &Summary) -> String {
    let all: u64 = summary.per_origin.values().sum();
    let rows: String = summary
        .per_origin
        .iter()
        .map(|(name, count)| {
            let percent = *count as f64 * 100.0 / all.max(1) as f64;
            format!("| {name} | {} | {percent:.1} % |\n", group_digits(*count))
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("## Origins\n\n| origin | answers | share |\n| --- | ---: | ---: |\n{rows}\n")
}

/// `README.md`.
fn readme(run: &Run) -> String {
    format!(
        "# One run, {}\n\n[Summary](summary.md) · [raw figures](raw.json)\n\n\
         ## How it was measured\n\n{METHOD}\n## Command\n\n```sh\n{}\n```\n",
        run.started.split('T').next().unwrap_or_default(),
        run.command,
    )
}

const METHOD: &str = "\
- With a rate, requests are due whatever the answers do, and latency counts from the moment at which
  one was due; without, each connection waits for its answer, and a stall shows once a connection.
- Every answer was checked to its end. What failed is not in the latencies.
- A second's bar is what was answered in it, late answers and failures on top.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn a_run_reads_back_and_its_report_is_drawn_again() {
        let folder = std::env::temp_dir().join(format!("run-report-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let summary = Summary {
            is_partial: true,
            ..sample::summary()
        };
        let started = "2026-01-31T12:00:00Z".to_owned();
        let run = Run::new(
            started,
            "loadgen run".to_owned(),
            sample::record().machine,
            summary,
        );
        run.write(&folder).unwrap();
        let args = crate::report::Args {
            folder: folder.clone(),
            forwarders: None,
            before: None,
        };
        crate::report::report(&args).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let (page, whole) = (read("summary.md"), read("index.html"));
        let [latency, timeline] = [LATENCY, TIMELINE].map(read);
        std::fs::remove_dir_all(&folder).unwrap();
        for words in [
            "**Partial**",
            "| reset | 2 |",
            "| a | 1,000 | 50.0 % |",
            "p99.9",
        ] {
            assert!(page.contains(words), "{words} is missing in {page}");
        }
        assert!(latency.contains("99 %") && timeline.contains("answered per second"));
        assert_eq!(whole.matches("<svg").count(), 2);
    }
}

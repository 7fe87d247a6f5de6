//! `results/README.md`: all reports, newest first, each with its headline.
//!
//! Invariant: the index is a function of the reports in the folder, so it never drifts from
//! them; a folder whose record cannot be read is named, not dropped.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::Error;
use super::faults::record::Faults;
use super::mixed::Mixed;
use super::numbers;
use super::record::{Kind, Machine, Outcome, Record};
use super::run::Run;
use super::strategies::record::Strategies;
use super::trend::{self, Line};
use super::verdict::{self, Unit, Verdict};
use crate::units::group_digits;

const HEAD: &str = "\
# Results

Each folder holds one comparison of `lb` with its peers: how it was measured (`README.md`), tables
and charts (`summary.md`) and every single round (`raw.json`). A published report is never edited;
`loadgen report DIR` only draws its texts and charts from `raw.json` again. Make one with

```sh
cargo build --release && target/release/loadgen compare --scenario all
```

Ratios are CPU time of `lb` divided by that of the better of nginx and HAProxy in the same run: less
than 1 is less CPU. Loopback on one core each; read a report's README for what that leaves out.

![Ratios over all reports](trend.svg)

";

const STRATEGIES_HEAD: &str = "
Schedulers of `lb` under one workload after the other; the column says which of them kept p99 lowest
with one slow origin.

| report | machine | schedulers | best with a slow origin |
| --- | --- | ---: | --- |
";

const FAULTS_HEAD: &str = "
Faults under load; the figures are of the first run in each report.

| report | machine | events | answered | failed | delayed |
| --- | --- | ---: | ---: | ---: | ---: |
";

const MIXED_HEAD: &str = "
Traffic of every kind at once while origins restart, all engines of a report together.

| report | machine | restarts | answered | failed |
| --- | --- | ---: | ---: | ---: |
";

const RUNS_HEAD: &str = "
Single runs of the load generator.

| report | machine | load | answered per second | p50 | p99 | failed |
| --- | --- | --- | ---: | ---: | ---: | ---: |
";

/// What has a column: its head, and the scenario whose first verdict it is.
const COLUMNS: [(&str, &str); 8] = [
    ("HTTP keep-alive", "l7-keepalive"),
    ("HTTP new connections", "l7-new-connections"),
    ("TLS keep-alive", "tls-keepalive-small"),
    ("HTTP/2 to HTTP/1", "h2c-to-http1"),
    ("TCP messages", "l4-small"),
    ("UDP echo", "udp-echo"),
    ("idle HTTP", "idle-memory-http"),
    ("idle TCP", "idle-memory-tcp"),
];

/// Renews the index beside the report in `folder`, when that lies in a folder called `results`.
pub fn update_beside(folder: &Path) -> Result<(), Error> {
    match folder.canonicalize().ok().as_deref().and_then(Path::parent) {
        Some(parent) if parent.ends_with("results") => update(parent),
        _ => Ok(()),
    }
}

/// Writes the index of the reports in `folder`.
pub fn update(folder: &Path) -> Result<(), Error> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::file(folder, e))? {
        let path = entry.map_err(|e| Error::file(folder, e))?.path();
        if path.join(super::record::FILE_NAME).exists() {
            names.extend(
                path.file_name()
                    .map(|name| name.to_string_lossy().into_owned()),
            );
        }
    }
    names.sort_unstable_by_key(|name| Reverse(age(folder, name)));
    let mut page = HEAD.to_owned();
    page += &comparison_heads();
    let [mut schedulers, mut faults, mut mixed, mut runs] = [const { String::new() }; 4];
    let mut comparisons = Vec::new();
    for name in names {
        let path = folder.join(&name);
        match Kind::of(&path) {
            Ok(Kind::Strategies) => schedulers += &strategies_row(&name, Strategies::read(&path)),
            Ok(Kind::Faults) => faults += &faults_row(&name, Faults::read(&path)),
            Ok(Kind::Mixed) => mixed += &mixed_row(&name, Mixed::read(&path)),
            Ok(Kind::Run) => runs += &run_row(&name, Run::read(&path)),
            Ok(Kind::Comparison) | Err(_) => match Record::read(&path) {
                Ok(record) => {
                    page += &row(&name, &record);
                    comparisons.push((name, record));
                }
                Err(error) => page += &unreadable(&name, &error),
            },
        }
    }
    comparisons.reverse();
    draw_trend(folder, &comparisons)?;
    for (head, rows) in [
        (STRATEGIES_HEAD, schedulers),
        (FAULTS_HEAD, faults),
        (MIXED_HEAD, mixed),
        (RUNS_HEAD, runs),
    ] {
        if !rows.is_empty() {
            page += head;
            page += &rows;
        }
    }
    super::write(&folder.join("README.md"), &page)
}

/// When it began, and its name, by which those of one day follow each other (`…-2` after `…`).
fn age(folder: &Path, name: &str) -> (String, String) {
    #[derive(serde::Deserialize)]
    struct Peek {
        started: String,
    }
    let peek = super::record::read::<Peek>(&folder.join(name));
    (
        peek.map(|peek| peek.started).unwrap_or_default(),
        name.to_owned(),
    )
}

fn comparison_heads() -> String {
    let heads = COLUMNS.map(|(head, _)| head).join(" | ");
    let rules = COLUMNS.map(|_| "---:").join(" | ");
    format!("| report | machine | {heads} |\n| --- | --- | {rules} |\n")
}

/// The verdicts of the columns.
fn headlines(record: &Record) -> [Option<Verdict>; COLUMNS.len()] {
    let all = verdict::all(record);
    COLUMNS.map(|(_, scenario)| all.iter().find(|it| it.scenario == scenario).cloned())
}

/// The chart of those that are ratios; `comparisons` are in the order of time.
fn draw_trend(folder: &Path, comparisons: &[(String, Record)]) -> Result<(), Error> {
    let names: Vec<String> = comparisons.iter().map(|(name, _)| name.clone()).collect();
    let by_report: Vec<_> = comparisons.iter().map(|(_, it)| headlines(it)).collect();
    let line = |(place, (name, _)): (usize, &(&'static str, &str))| {
        let ratio = |row: &[Option<Verdict>; COLUMNS.len()]| {
            let verdict = row[place].as_ref().filter(|it| it.unit == Unit::Ratio)?;
            verdict.measured.as_ref().map(|measured| measured.figure)
        };
        let ratios: Vec<Option<f64>> = by_report.iter().map(ratio).collect();
        ratios
            .iter()
            .any(Option::is_some)
            .then_some(Line { name, ratios })
    };
    let lines: Vec<Line> = COLUMNS.iter().enumerate().filter_map(line).collect();
    trend::draw(folder, &names, &lines)
}

fn unreadable(name: &str, error: &Error) -> String {
    format!("| {name} | unreadable: {error} |\n")
}

/// How every row begins: which report, and of which machine.
fn beginning(name: &str, is_partial: bool, machine: &Machine) -> String {
    let partial = if is_partial { ", partial" } else { "" };
    let Machine {
        cpu, cores, kernel, ..
    } = machine;
    format!("| [{name}]({name}/summary.md){partial} | {cpu}, {cores} cores, Linux {kernel} |")
}

fn row(name: &str, record: &Record) -> String {
    let mut text = beginning(name, record.is_partial, &record.machine);
    for verdict in headlines(record) {
        let cell = verdict.map_or_else(|| "–".to_owned(), |verdict| cell(&verdict));
        let _ = write!(text, " {cell} |");
    }
    text + "\n"
}

fn faults_row(name: &str, record: Result<Faults, Error>) -> String {
    let record = match record {
        Ok(record) => record,
        Err(error) => return unreadable(name, &error),
    };
    let first = record.runs.first().map(|run| &run.outcome);
    let figures = match first {
        Some(Outcome::Measured(figures)) => {
            let delayed: u64 = figures.timeline.iter().map(|second| second.delayed).sum();
            let counts = [figures.completed, figures.failed(), delayed];
            counts.map(group_digits).join(" | ")
        }
        _ => "– | – | –".to_owned(),
    };
    let begun = beginning(name, record.is_partial, &record.machine);
    format!("{begun} {} | {figures} |\n", record.events.len())
}

fn mixed_row(name: &str, record: Result<Mixed, Error>) -> String {
    match record {
        Ok(record) => {
            let [answered, failed, restarts] = record.totals().map(group_digits);
            let begun = beginning(name, record.is_partial, &record.machine);
            format!("{begun} {restarts} | {answered} | {failed} |\n")
        }
        Err(error) => unreadable(name, &error),
    }
}

fn run_row(name: &str, run: Result<Run, Error>) -> String {
    let run = match run {
        Ok(run) => run,
        Err(error) => return unreadable(name, &error),
    };
    let summary = &run.summary;
    format!(
        "{} {}, {} connections | {} | {} | {} | {} |\n",
        beginning(name, summary.is_partial, &run.machine),
        summary.url,
        summary.connections,
        numbers::plain(summary.rate_per_s),
        numbers::microseconds(summary.latency_us.p50),
        numbers::microseconds(summary.latency_us.p99),
        summary.errors.total() + summary.unanswered,
    )
}

fn strategies_row(name: &str, record: Result<Strategies, Error>) -> String {
    let record = match record {
        Ok(record) => record,
        Err(error) => return unreadable(name, &error),
    };
    let mut schedulers: Vec<&str> = record.cells.iter().map(|c| &*c.place.balance).collect();
    schedulers.sort_unstable();
    schedulers.dedup();
    let slow = record.cells.iter().filter(|cell| cell.workload == "slow");
    let measured = slow.filter_map(|cell| match &cell.outcome {
        Outcome::Measured(figures) if figures.failed() == 0 => {
            Some((figures.latency.p99_us, &cell.place.balance))
        }
        _ => None,
    });
    let best = measured.min_by(|a, b| a.0.total_cmp(&b.0));
    format!(
        "{} {} | {} |\n",
        beginning(name, record.is_partial, &record.machine),
        schedulers.len(),
        best.map_or_else(
            || "–".to_owned(),
            |(p99, balance)| format!("{balance}, {}", numbers::microseconds(p99))
        ),
    )
}

/// The figure, in bold where the promise is kept.
fn cell(verdict: &Verdict) -> String {
    let Some(measured) = &verdict.measured else {
        return "–".to_owned();
    };
    let figure = match verdict.unit {
        Unit::Ratio => format!("{:.2}", measured.figure),
        Unit::Bytes => numbers::bytes(measured.figure),
    };
    if verdict.kept() == Some(true) {
        format!("**{figure}**")
    } else {
        figure
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn the_index_in_the_repository_is_of_this_form() {
        let index = include_str!("../../../results/README.md");
        assert!(
            index.starts_with(HEAD),
            "`loadgen report` of any report renews it"
        );
    }

    #[test]
    fn the_newest_report_comes_first_and_a_broken_one_is_named() {
        let folder = std::env::temp_dir().join(format!("index-{}", std::process::id()));
        for day in ["2026-01-31", "2026-02-01"] {
            let path = folder.join(format!("{day}-2-core-epyc"));
            fs::create_dir_all(&path).unwrap();
            let mut record = sample::record();
            record.started = format!("{day}T12:00:00Z");
            record.write(&path).unwrap();
        }
        fs::create_dir_all(folder.join("2025-01-01-broken")).unwrap();
        fs::write(folder.join("2025-01-01-broken/raw.json"), "{}").unwrap();
        update(&folder).unwrap();
        let page = fs::read_to_string(folder.join("README.md")).unwrap();
        let has_trend = folder.join(trend::FILE_NAME).is_file();
        fs::remove_dir_all(&folder).unwrap();
        let rows: Vec<&str> = page
            .lines()
            .skip_while(|line| !line.contains("---:"))
            .skip(1)
            .collect();
        assert_eq!(rows.len(), 3, "{page}");
        assert!(rows[0].starts_with("| [2026-02-01-2-core-epyc]("), "{page}");
        assert!(rows[0].contains("| 0.80 | – | – | – |"), "{page}");
        assert!(has_trend, "the chart that the page shows");
        assert!(
            rows[2].starts_with("| 2025-01-01-broken | unreadable:"),
            "{page}"
        );
    }

    #[test]
    fn counts_are_whole_numbers() {
        let sample = sample::record();
        let (command, settings) = ("loadgen mixed".to_owned(), sample.settings);
        let mut mixed = Mixed::new(sample.started, command, sample.machine, settings);
        let load = |completed| crate::report::mixed::Load {
            completed,
            ..Default::default()
        };
        mixed.runs.push(crate::report::mixed::Run {
            loads: vec![load(1200), load(34)],
            ..Default::default()
        });
        let row = mixed_row("one", Ok(mixed));
        assert!(row.ends_with("| 0 | 1,234 | 0 |\n"), "{row}");
    }
}

//! Two comparisons of one machine, the one beside the other: do their ratios agree?
//!
//! Invariant: what a report says of another is in its own record, so that it can be drawn without
//! the other. Read next: `doubts.rs` (whether rounds agree among themselves).

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Error;
use super::record::{FILE_NAME, Record};
use super::statistics;

/// Ratios that differ by more do not agree.
const DIFFERENCE_MAX: f64 = 0.05;

/// The ratios of an earlier comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Before {
    /// The folder's name.
    pub report: String,
    /// When it began, UTC.
    pub started: String,
    /// CPU time of the first of the peers divided by that of each other.
    pub ratios: Vec<Ratio>,
}

/// One ratio of CPU time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The scenario.
    pub scenario: String,
    /// Whose CPU time was divided.
    pub subject: String,
    /// By whose.
    pub peer: String,
    /// The median of the rounds' ratios.
    pub ratio: f64,
}

/// A ratio that both comparisons have.
#[derive(Debug, Clone, PartialEq)]
struct Pair {
    scenario: String,
    subject: String,
    peer: String,
    before: f64,
    now: f64,
}

impl Before {
    /// The report in `folder`.
    ///
    /// # Errors
    /// When there is none.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let record = Record::read(folder)?;
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self {
            report: name.into_owned(),
            ratios: ratios(&record),
            started: record.started,
        })
    }

    /// The newest whole comparison of `record`'s machine in the folder around `out`.
    pub fn beside(record: &Record, out: &Path) -> Option<Self> {
        let around = out.canonicalize().ok()?;
        let entries = fs::read_dir(around.parent()?).ok()?;
        let folders = entries.flatten().map(|entry| entry.path());
        let others = folders.filter(|path| *path != around && path.join(FILE_NAME).exists());
        let fit = others.filter_map(|path| {
            let other = Record::read(&path).ok()?;
            let is_before = other.started < record.started && !other.is_partial;
            let fits = is_before && other.machine == record.machine;
            (fits && !common(&ratios(&other), record).is_empty()).then_some((other.started, path))
        });
        let (_, newest) = fit.max()?;
        Self::read(&newest).ok()
    }
}

/// What a run says at its end: how many ratios agree, and which do not. Empty when there is
/// nothing to compare with.
pub fn told(record: &Record) -> String {
    let Some(before) = &record.before else {
        return String::new();
    };
    let pairs = common(&before.ratios, record);
    let mut text = format!("{}\n", agreement(before, &pairs));
    for pair in pairs.iter().filter(|pair| pair.differs()) {
        let Pair {
            scenario,
            subject,
            peer,
            before,
            now,
        } = pair;
        let percent = pair.difference() * 100.0;
        let _ = writeln!(
            text,
            "  {scenario}: {subject} ÷ {peer} {before:.3} → {now:.3} ({percent:+.1} %)"
        );
    }
    text
}

/// The same as a part of the summary.
pub(super) fn render(record: &Record) -> String {
    let Some(before) = &record.before else {
        return String::new();
    };
    let pairs = common(&before.ratios, record);
    let mut text = format!(
        "## Beside the report before\n\n{}\n\n",
        agreement(before, &pairs)
    );
    if !pairs.iter().any(Pair::differs) {
        return text;
    }
    text +=
        "| scenario | ratio of CPU time | before | now | |\n| --- | --- | ---: | ---: | ---: |\n";
    for pair in pairs.iter().filter(|pair| pair.differs()) {
        let _ = writeln!(
            text,
            "| {} | {} ÷ {} | {:.3} | {:.3} | {:+.1} % |",
            pair.scenario,
            pair.subject,
            pair.peer,
            pair.before,
            pair.now,
            pair.difference() * 100.0
        );
    }
    text + "\nRatios between two that have not changed since tell how well runs repeat; one of a \
            program that has changed may have changed with it.\n\n"
}

fn agreement(before: &Before, pairs: &[Pair]) -> String {
    let differing = pairs.iter().filter(|pair| pair.differs()).count();
    let verdict = if differing == 0 {
        "this run repeats it"
    } else {
        "this run does not repeat it where it says so here"
    };
    format!(
        "Of {} ratios of CPU time, {} agree within {:.0} % with those of {} ({}): {verdict}.",
        pairs.len(),
        pairs.len() - differing,
        DIFFERENCE_MAX * 100.0,
        before.report,
        before.started,
    )
}

/// The ratios between all peers of `record`, the first with each other, and these among
/// themselves.
fn ratios(record: &Record) -> Vec<Ratio> {
    let mut found = Vec::new();
    for scenario in &record.scenarios {
        for (place, subject) in record.peers.iter().enumerate() {
            for peer in &record.peers[place + 1..] {
                let spread =
                    statistics::ratio(&scenario.load, &subject.name, &peer.name, |l| l.cpu_us);
                found.extend(spread.map(|spread| Ratio {
                    scenario: scenario.name.clone(),
                    subject: subject.name.clone(),
                    peer: peer.name.clone(),
                    ratio: spread.median,
                }));
            }
        }
    }
    found
}

/// Those that `record` has, too.
fn common(before: &[Ratio], record: &Record) -> Vec<Pair> {
    let pair = |now: Ratio| {
        let is_same = |other: &&Ratio| {
            let names = |ratio: &Ratio| {
                let Ratio {
                    scenario,
                    subject,
                    peer,
                    ..
                } = ratio;
                [scenario.clone(), subject.clone(), peer.clone()]
            };
            names(other) == names(&now)
        };
        let before = before.iter().find(is_same)?.ratio;
        Some(Pair {
            before,
            now: now.ratio,
            scenario: now.scenario,
            subject: now.subject,
            peer: now.peer,
        })
    };
    ratios(record).into_iter().filter_map(pair).collect()
}

impl Pair {
    fn difference(&self) -> f64 {
        self.now / self.before - 1.0
    }

    fn differs(&self) -> bool {
        self.difference().abs() > DIFFERENCE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Outcome;
    use super::super::sample;
    use super::*;

    fn costs_of_lb(record: &mut Record, cpu_us: f64) {
        let Outcome::Measured(load) = &mut record.scenarios[0].load[0].outcome else {
            unreachable!("the sample went through")
        };
        load.cpu_us = cpu_us;
    }

    #[test]
    fn ratios_that_differ_are_told_and_only_these() {
        let mut record = sample::record();
        record.before = Some(Before {
            report: "first".to_owned(),
            started: record.started.clone(),
            ratios: ratios(&record),
        });
        assert!(told(&record).starts_with("Of 3 ratios of CPU time, 3 agree within 5 %"));
        assert!(!render(&record).contains('|'));

        costs_of_lb(&mut record, 10.4);
        assert!(told(&record).contains("3 agree"), "4 % are none");
        costs_of_lb(&mut record, 11.0);
        let said = told(&record);
        assert!(said.contains("Of 3 ratios of CPU time, 1 agree"), "{said}");
        assert!(
            said.contains("lb ÷ nginx 0.500 → 0.550 (+10.0 %)"),
            "{said}"
        );
        let row = "| l7-keepalive | lb ÷ haproxy | 0.800 | 0.880 | +10.0 % |";
        assert!(render(&record).contains(row), "{}", render(&record));
    }

    #[test]
    fn the_newest_whole_report_of_the_machine_is_the_one_before() {
        let around = std::env::temp_dir().join(format!("repeat-{}", std::process::id()));
        let write = |name: &str, change: &dyn Fn(&mut Record)| {
            let mut record = sample::record();
            change(&mut record);
            fs::create_dir_all(around.join(name)).unwrap();
            record.write(&around.join(name)).unwrap();
        };
        let day = |day: u8| format!("2026-01-{day:02}T12:00:00Z");
        write("older", &|record| record.started = day(1));
        write("newer", &|record| record.started = day(2));
        write("later", &|record| record.started = "2026-02-01".to_owned());
        write("partial", &|record| {
            (record.started, record.is_partial) = (day(3), true);
        });
        write("elsewhere", &|record| {
            (record.started, record.machine.cores) = (day(4), 64);
        });
        write("own", &|_| ());
        let found = Before::beside(&sample::record(), &around.join("own"));
        fs::remove_dir_all(&around).unwrap();
        assert_eq!(found.unwrap().report, "newer");
    }
}

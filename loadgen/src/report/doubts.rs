//! The last part of a summary: what went wrong, who is absent, and which figures to look at twice.
//!
//! Invariant: each failed round stands here with its reason.

use super::record::{Load, Record, Round};
use super::statistics;

/// Absent peers, failed rounds, and rounds whose figures need a second look.
pub(super) fn render(record: &Record) -> String {
    let mut lines: Vec<String> = Vec::new();
    lines.extend(
        record
            .absent
            .iter()
            .map(|a| format!("{} was skipped: {}.", a.name, a.reason)),
    );
    for scenario in &record.scenarios {
        let absent = scenario.absent.iter();
        lines.extend(
            absent.map(|a| format!("{}: {} left out, {}.", scenario.name, a.name, a.reason)),
        );
        lines.extend(failure_lines(&scenario.name, &scenario.idle));
        lines.extend(failure_lines(&scenario.name, &scenario.spread));
    }
    for (name, rounds) in load_series(record) {
        lines.extend(failure_lines(&name, rounds));
    }
    lines.extend(disagreements(record));
    lines.extend(DOUBTS.iter().filter_map(|doubt| doubt.line(record)));
    if lines.is_empty() {
        lines.push("Nothing: every round went through, with no error of any kind.".to_owned());
    }
    format!(
        "## What went wrong, and what limits these figures\n\n- {}\n\n",
        lines.join("\n- ")
    )
}

/// All rounds under load, series by series.
fn load_series(record: &Record) -> impl Iterator<Item = (String, &[Round<Load>])> {
    record.scenarios.iter().flat_map(|scenario| {
        let fixed = scenario.fixed_rate.as_ref();
        let fixed =
            fixed.map(|fixed| (format!("{} at a fixed rate", scenario.name), &*fixed.rounds));
        [(scenario.name.clone(), &*scenario.load)]
            .into_iter()
            .chain(fixed)
    })
}

/// Ratios of which another run may give others, in one line.
fn disagreements(record: &Record) -> Option<String> {
    let subject = record.subject()?;
    let mut places = Vec::new();
    for (name, rounds) in load_series(record) {
        let rivals = record.peers.iter().filter(|peer| peer.name != subject);
        for peer in rivals {
            let ratios = statistics::ratios(rounds, subject, &peer.name, |load| load.cpu_us);
            let disagreement = statistics::disagreement(&ratios);
            if disagreement > DISAGREEMENT_MAX {
                let percent = disagreement * 100.0;
                places.push(format!("{name} against {}, {percent:.0} %", peer.name));
            }
        }
    }
    (!places.is_empty()).then(|| {
        format!(
            "The rounds disagree: the middle half of the ratios of CPU time lies more than 5 % \
             apart, so another run may give others. {}.",
            places.join("; ")
        )
    })
}

/// A reason to look twice at a round that went through.
struct Doubt {
    applies: fn(&Load) -> bool,
    what: &'static str,
}

/// Shares of the window: stolen by the hypervisor, and used by others on the balancer's core.
const STOLEN_SHARE_MAX: f64 = 0.01;
const FOREIGN_SHARE_MAX: f64 = 0.05;
/// Ratios that differ by more do not agree.
const DISAGREEMENT_MAX: f64 = 0.05;

const DOUBTS: [Doubt; 3] = [
    Doubt {
        applies: |load| load.generator.saturated,
        what: "The generator or its core was the bottleneck, so that throughput and latency are \
               its own limits; the CPU time for a unit of work stands",
    },
    Doubt {
        applies: |load| load.stolen_s > STOLEN_SHARE_MAX * load.window_s,
        what: "The hypervisor took more than 1 % of a core",
    },
    Doubt {
        applies: |load| load.core_busy_s - load.cpu_s > FOREIGN_SHARE_MAX * load.window_s,
        what: "The balancer's core spent more than 5 % on something else (another program, or \
               kernel work in nobody's name)",
    },
];

impl Doubt {
    /// Where it applies, in one line; `None` if nowhere.
    fn line(&self, record: &Record) -> Option<String> {
        let places: Vec<String> = load_series(record)
            .filter_map(|(name, rounds)| self.place(&name, rounds))
            .collect();
        (!places.is_empty()).then(|| format!("{}: {}.", self.what, places.join("; ")))
    }

    /// How many of the rounds called `name` it applies to, and whose.
    fn place(&self, name: &str, rounds: &[Round<Load>]) -> Option<String> {
        let measured = || rounds.iter().filter(|round| round.figures().is_some());
        let doubtful = || measured().filter(|round| round.figures().is_some_and(self.applies));
        let (count, all) = (doubtful().count(), measured().count());
        if count == 0 || count == all {
            return (count > 0).then(|| format!("{name}, all {all} rounds"));
        }
        let mut peers: Vec<&str> = doubtful().map(|round| &*round.peer).collect();
        peers.sort_unstable();
        peers.dedup();
        Some(format!(
            "{name}, {count} of {all} rounds ({})",
            peers.join(", ")
        ))
    }
}

fn failure_lines<F>(name: &str, rounds: &[Round<F>]) -> Vec<String> {
    let failed = rounds.iter().filter_map(|round| {
        let reason = round.failure()?.replace('\n', " ");
        Some(format!(
            "{name}, round {} of {} failed: {reason}",
            round.round, round.peer
        ))
    });
    failed.collect()
}

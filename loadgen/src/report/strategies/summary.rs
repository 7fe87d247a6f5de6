//! `summary.md` and `README.md` of a report on schedulers.
//!
//! Invariant: what failed or was refused stands here as plainly as what went well.

use std::fmt::Write as _;

use super::super::charts::Chart;
use super::super::numbers;
use super::super::record::{Outcome, PARTIAL};
use super::lessons;
use super::record::{Cell, Figures, Ground, Keys, Strategies, Workload};
use crate::testbed::OVERFLOW_WEIGHT;

/// `summary.md`.
pub(super) fn render(strategies: &Strategies, charts: &[Chart]) -> String {
    let machine = &strategies.machine;
    let mut page = format!(
        "# Schedulers of lb\n\n{} · {}, {} cores, Linux {} · {} · {} origins, workers: {}, rounds of \
         {} s: {}, of which these are the medians; counts are of all rounds. \
         [How it was measured](README.md) · [every figure](raw.json)\n\n",
        strategies.started,
        machine.cpu,
        machine.cores,
        machine.kernel,
        strategies.balancer_version,
        strategies.origins,
        strategies.workers,
        strategies.settings.duration_s,
        strategies.settings.rounds,
    );
    if strategies.is_partial {
        page += PARTIAL;
    }
    page += &lessons::told(strategies);
    for ground in strategies.grounds() {
        for workload in &strategies.workloads {
            page += &section(strategies, workload, ground);
        }
        page += &keys_section(strategies, ground);
    }
    page += &doubts(strategies);
    page += "## Charts\n\n";
    for chart in charts {
        let _ = writeln!(page, "![{}]({})\n", chart.title, chart.file);
    }
    page
}

fn section(strategies: &Strategies, workload: &Workload, ground: &Ground) -> String {
    let cells = || strategies.cells_of(&workload.name, ground);
    if cells().next().is_none() {
        return String::new();
    }
    let odd = workload.odd_origin.as_deref();
    let mut text = format!(
        "## {}, {ground}\n\n{}\n\n| | answered per second | failed | CPU µs per request \
         | p50 | p99 | p99.9 | max/mean | χ² | clients kept |{}\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |{}\n",
        workload.name,
        workload.description,
        odd.map_or_else(String::new, |odd| format!(" share of {odd} |")),
        odd.map_or("", |_| " ---: |"),
    );
    for cell in cells() {
        text += &line(cell, odd);
    }
    text + "\n" + &shares_table(&cells().collect::<Vec<_>>())
}

fn line(cell: &Cell, odd: Option<&str>) -> String {
    let name = &cell.place.balance;
    let Outcome::Measured(figures) = &cell.outcome else {
        let last = odd.map_or("", |_| " |");
        return format!("| {name} | failed | | | | | | | | |{last}\n");
    };
    let latency = &figures.latency;
    let kept = figures.affinity.map_or_else(
        || "–".to_owned(),
        |affinity| percent(affinity.kept, affinity.kept + affinity.broken),
    );
    format!(
        "| {name} | {} | {} | {} | {} | {} | {} | {:.3} | {} | {kept} |{}\n",
        numbers::plain(figures.per_s),
        percent(figures.failed(), figures.due),
        numbers::plain(figures.cpu_us),
        numbers::microseconds(latency.p50_us),
        numbers::microseconds(latency.p99_us),
        numbers::microseconds(latency.p999_us),
        figures.max_over_mean,
        numbers::plain(figures.chi_square),
        odd.map_or_else(String::new, |odd| format!(
            " {:.1} % |",
            100.0 * figures.share_of(odd)
        )),
    )
}

/// The share of each origin with each scheduler.
fn shares_table(cells: &[&Cell]) -> String {
    let measured = || {
        cells.iter().filter_map(|cell| match &cell.outcome {
            Outcome::Measured(figures) => Some((&cell.place.balance, figures)),
            Outcome::Failed(_) => None,
        })
    };
    let mut names: Vec<&String> = measured().flat_map(|(_, f)| f.shares.keys()).collect();
    names.sort_unstable_by_key(|name| (name.len(), *name));
    names.dedup();
    if names.is_empty() {
        return String::new();
    }
    let mut text = String::from("Share of the answers, in %:\n\n| |");
    for name in &names {
        let _ = write!(text, " {name} |");
    }
    text += "\n| --- |";
    text += &" ---: |".repeat(names.len());
    for (balance, figures) in measured() {
        let _ = write!(text, "\n| {balance} |");
        for name in &names {
            let _ = write!(text, " {:.1} |", 100.0 * figures.share_of(name));
        }
    }
    text + "\n\n"
}

fn keys_section(strategies: &Strategies, ground: &Ground) -> String {
    let cells = || strategies.keys_of(ground);
    let measured = |cell: &super::record::KeysCell| match &cell.outcome {
        Outcome::Measured(keys) => Some(*keys),
        Outcome::Failed(_) => None,
    };
    let Some(first) = cells().find_map(measured) else {
        return String::new();
    };
    let mut text = format!(
        "## Clients moved, {ground}\n\n{} clients, each an address of its own, are asked \
         for their origin one after the other: twice without a change, after one of {} origins \
         was removed, and after another was added. Those of the removed origin have to move.\n\n\
         | | by nothing | by the removal | of these had to | by the addition | of these to the \
         new one |\n| --- | ---: | ---: | ---: | ---: | ---: |\n",
        first.clients, first.origins,
    );
    for cell in cells() {
        text += &match measured(cell) {
            Some(keys) => keys_line(&cell.place.balance, &keys),
            None => format!("| {} | failed | | | | |\n", cell.place.balance),
        };
    }
    text + "\n"
}

fn keys_line(balance: &str, keys: &Keys) -> String {
    let of_all = |count: usize| percent(count as u64, keys.clients as u64);
    format!(
        "| {balance} | {} | {} | {} | {} | {} |\n",
        of_all(keys.moved_by_nothing),
        of_all(keys.moved_by_removal),
        of_all(keys.had_to_move),
        of_all(keys.moved_by_addition),
        of_all(keys.moved_to_the_new_one),
    )
}

fn doubts(strategies: &Strategies) -> String {
    let mut lines: Vec<String> = Vec::new();
    let refused = strategies.refused.iter();
    lines.extend(refused.map(|r| format!("{} was refused by lb: {}", r.name, r.reason)));
    for cell in &strategies.cells {
        let place = &cell.place;
        let name = format!("{}, {}, {}", cell.workload, place.ground, place.balance);
        match &cell.outcome {
            Outcome::Failed(reason) => lines.push(format!("{name} failed: {reason}")),
            Outcome::Measured(figures) => {
                let failed = cell.rounds.iter().filter_map(|round| match round {
                    Outcome::Failed(reason) => Some(format!("{name}, one round failed: {reason}")),
                    Outcome::Measured(_) => None,
                });
                lines.extend(failed);
                lines.extend(trouble(&name, figures));
            }
        }
    }
    for cell in &strategies.keys {
        if let Outcome::Failed(reason) = &cell.outcome {
            lines.push(format!(
                "clients moved, {}, {} failed: {reason}",
                cell.place.ground, cell.place.balance
            ));
        }
    }
    if lines.is_empty() {
        lines.push("Nothing: every request of every run was answered.".to_owned());
    }
    format!(
        "## What went wrong, and what limits these figures\n\n- {}\n\n",
        lines.join("\n- ")
    )
}

/// Failed requests by kind, and a generator at its limits.
fn trouble(name: &str, figures: &Figures) -> Vec<String> {
    let mut lines = Vec::new();
    if figures.failed() > 0 {
        let mut kinds: Vec<String> = figures
            .errors
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        if figures.unanswered > 0 {
            kinds.push(format!("unanswered {}", figures.unanswered));
        }
        lines.push(format!(
            "{name}: of {} requests failed {}",
            figures.due,
            kinds.join(", ")
        ));
    }
    if figures.generator.saturated {
        lines.push(format!(
            "{name}: the generator was the bottleneck, {}",
            figures.generator.reason
        ));
    }
    lines
}

pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        "–".to_owned()
    } else {
        format!("{:.1} %", 100.0 * part as f64 / whole as f64)
    }
}

/// `README.md`.
pub(super) fn readme(strategies: &Strategies) -> String {
    let settings = &strategies.settings;
    let mut page = format!(
        "# Schedulers of lb, {}\n\n[Summary](summary.md) · [raw figures](raw.json)\n\n\
         ## How it was measured\n\n\
         - `lb` ({}) on core {}; generator and {} origins share core {}. Each figure \
         is of runs of {} s after {} s that do not count.\n{}\n\
         ## Command\n\n```sh\n{}\n```\n\nIts loads:\n\n```sh\n",
        strategies.started.split('T').next().unwrap_or_default(),
        strategies.balancer_version,
        settings.balancer_cpu,
        strategies.origins,
        settings.generator_cpu,
        settings.duration_s,
        settings.warmup_s,
        METHOD.replace("{overflow}", &OVERFLOW_WEIGHT.to_string()),
        strategies.command,
    );
    let mut commands: Vec<&str> = Vec::new();
    for cell in &strategies.cells {
        if !commands.contains(&&*cell.load_command) {
            commands.push(&cell.load_command);
        }
    }
    page += &commands.join("\n");
    page + "\n```\n"
}

const METHOD: &str = "\
- Every origin serves two requests at a time and lets others wait, in the order of their coming:
  an origin that gets too much shows in the latency. All origins together could serve a good
  half more than the load.
- The load is an open loop: requests are due at a fixed rate whatever the answers do, and latency
  counts from the moment at which one was due. Clients have addresses of their own.
- **CPU time** is that of all threads of the balancer over the measured window for each request
  that was answered.
- **max/mean** and **χ²** are of the correct answers by origin against an even spread, with all
  origins of the workload; independent random choices give a χ² of about the number of origins.
- **Clients kept**: answers that came from the same origin as the client's answer before.
- Every client connects to the same address. `dh`, `lblc` and `lblcr` go by that address: `dh` has
  one origin for all, the others turn to more when it has too much to do. `fo` has one for all by
  design; `ovf` fills one after the other, here up to {overflow} requests each.
- Schedulers that look at loads (`lc`, `p2c`, `ewma`, …) are at their best where origins differ;
  those that hash are there so that clients stay where they are, and can be no more even than the
  clients are.
";

#[cfg(test)]
pub(super) mod tests {
    use super::super::record::{KeysCell, Place, evenness};
    use super::*;
    use crate::report::record::{Absent, Latency};
    use crate::report::sample;
    use crate::run::{Affinity, GeneratorHealth};

    fn figures() -> Figures {
        let shares = [("o-1".to_owned(), 750), ("o-2".to_owned(), 250)].into();
        let (max_over_mean, chi_square) = evenness(&shares);
        Figures {
            completed: 1000,
            per_s: 500.0,
            due: 1010,
            errors: [("timeout".to_owned(), 10)].into(),
            unanswered: 0,
            cpu_us: 12.0,
            latency: Latency {
                p50_us: 4000.0,
                p99_us: 9000.0,
                p999_us: 12_000.0,
                max_us: 20_000.0,
            },
            shares,
            max_over_mean,
            chi_square,
            affinity: Some(Affinity {
                clients: 10,
                kept: 30,
                broken: 10,
            }),
            generator: GeneratorHealth::default(),
        }
    }

    pub(in super::super) fn strategies() -> Strategies {
        let record = sample::record();
        let mut strategies = Strategies::new(
            record.started,
            "loadgen strategies".to_owned(),
            record.machine,
            record.settings,
            "lb 0.1.0".to_owned(),
            [2, 1],
        );
        let place = |balance: &str| Place {
            ground: Ground {
                mode: "http".to_owned(),
                engine: "uring".to_owned(),
                relay: None,
            },
            balance: balance.to_owned(),
        };
        strategies.workloads.push(Workload {
            name: "slow".to_owned(),
            description: "One is slow.".to_owned(),
            odd_origin: Some("o-2".to_owned()),
        });
        let outcomes = [
            ("rr", Outcome::Measured(figures())),
            ("lc", Outcome::Failed("it fell over".to_owned())),
        ];
        for (balance, outcome) in outcomes {
            strategies.cells.push(Cell {
                rounds: Vec::new(),
                workload: "slow".to_owned(),
                place: place(balance),
                load_command: "loadgen run".to_owned(),
                outcome,
            });
        }
        strategies.keys.push(KeysCell {
            place: place("mh"),
            outcome: Outcome::Measured(Keys {
                clients: 200,
                origins: 10,
                moved_by_nothing: 0,
                moved_by_removal: 22,
                had_to_move: 20,
                moved_by_addition: 19,
                moved_to_the_new_one: 18,
            }),
        });
        strategies.refused.push(Absent {
            name: "xx".to_owned(),
            reason: "no such scheduler".to_owned(),
        });
        strategies
    }

    #[test]
    fn figures_failures_and_refusals_are_on_the_page() {
        let mut strategies = strategies();
        strategies.is_partial = true;
        let page = render(&strategies, &[]);
        for words in [
            "**Partial**",
            "| rr | 500 | 1.0 % | 12.0 | 4.00 ms | 9.00 ms | 12.0 ms | 1.500 | 250 | 75.0 % | 25.0 % |",
            "| rr | 75.0 | 25.0 |",
            "| mh | 0.0 % | 11.0 % | 10.0 % | 9.5 % | 9.0 % |",
            "- slow, http, uring, lc failed: it fell over",
            "- slow, http, uring, rr: of 1010 requests failed timeout 10",
            "- xx was refused by lb: no such scheduler",
        ] {
            assert!(page.contains(words), "{words} is missing in {page}");
        }
        assert!(readme(&strategies).contains("loadgen strategies\n"));
    }

    #[test]
    fn a_record_reads_back_and_its_report_is_drawn_again() {
        let folder = std::env::temp_dir().join(format!("strategies-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        strategies().write(&folder).unwrap();
        super::super::super::report(&crate::report::Args {
            folder: folder.clone(),
            forwarders: None,
            before: None,
        })
        .unwrap();
        let files = [
            "summary.md",
            "README.md",
            "balance.svg",
            "latency.svg",
            "keys.svg",
        ];
        let missing: Vec<&str> = files
            .into_iter()
            .filter(|file| !folder.join(file).is_file())
            .collect();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

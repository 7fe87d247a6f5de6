//! What a reader learns from a report on schedulers: which one for which load.
//!
//! Invariant: every sentence is computed from the record, so none can contradict the tables.
//! Read next: `summary.rs`, which has the tables.

use std::fmt::Write as _;

use super::super::numbers;
use super::super::record::Outcome;
use super::record::{Cell, Figures, Ground, Keys, Strategies, Workload};
use super::summary::percent;

/// So close to the best is as good as it.
const AS_GOOD: f64 = 1.1;
/// So much more than the fewest failures is as little.
const FAILS_AS_LITTLE: f64 = 1.2;
/// Names in a list.
const NAMES_MAX: usize = 6;

/// The section, for the ground that has most workloads.
pub(super) fn told(strategies: &Strategies) -> String {
    let count = |ground: &&Ground| {
        let has = |w: &&Workload| strategies.cells_of(&w.name, ground).next().is_some();
        strategies.workloads.iter().filter(has).count()
    };
    // The first of those that have as many.
    let Some(ground) = strategies.grounds().into_iter().rev().max_by_key(count) else {
        return String::new();
    };
    let mut text = format!("## Which scheduler for which load ({ground})\n\n");
    for workload in &strategies.workloads {
        if let Some(sentence) = of_workload(strategies, workload, ground) {
            let _ = writeln!(text, "- **{}**: {sentence}", workload.name);
        }
    }
    if let Some(sentence) = of_clients(strategies, ground) {
        let _ = writeln!(text, "- **Clients that are to stay**: {sentence}");
    }
    if let Some(sentence) = of_cost(strategies, ground) {
        let _ = writeln!(text, "- **Cost**: {sentence}");
    }
    if let Some(sentence) = of_grounds(strategies) {
        let _ = writeln!(text, "- **Engines and relays**: {sentence}");
    }
    text + "\n"
}

/// The schedulers of a workload with their figures.
fn measured<'a>(
    strategies: &'a Strategies,
    workload: &'a str,
    ground: &'a Ground,
) -> Vec<(&'a str, &'a Figures)> {
    let figures = |cell: &'a Cell| match &cell.outcome {
        Outcome::Measured(figures) => Some((&*cell.place.balance, figures)),
        Outcome::Failed(_) => None,
    };
    let cells = strategies.cells_of(workload, ground);
    cells.filter_map(figures).collect()
}

/// Who fails least and, among these, is fastest; and who is slowest.
fn of_workload(strategies: &Strategies, workload: &Workload, ground: &Ground) -> Option<String> {
    let mut all = measured(strategies, &workload.name, ground);
    let failing = |figures: &Figures| figures.failed() as f64 / figures.due.max(1) as f64;
    let least = all.iter().map(|(_, f)| failing(f)).reduce(f64::min)?;
    // A few failures more are no difference.
    let (mut good, bad): (Vec<_>, Vec<_>) = all
        .drain(..)
        .partition(|(_, figures)| failing(figures) <= least * FAILS_AS_LITTLE + 0.001);
    let p99 = |(_, figures): &(&str, &Figures)| figures.latency.p99_us;
    good.sort_by(|a, b| p99(a).total_cmp(&p99(b)));
    let (best, slowest) = (p99(good.first()?), good.last()?);
    let alike = good.iter().take_while(|it| p99(it) <= best * AS_GOOD);
    let mut text = format!(
        "the lowest p99 is {}, with {}",
        numbers::microseconds(best),
        listed(alike.map(|(name, _)| *name)),
    );
    let times = p99(slowest) / best.max(1e-9);
    if times > AS_GOOD {
        let _ = write!(
            text,
            "; the highest is {}, with {}: {} times as long",
            numbers::microseconds(p99(slowest)),
            slowest.0,
            numbers::plain(times),
        );
    }
    if least > 0.0 {
        let _ = write!(
            text,
            "; with these {:.1} % of the requests fail",
            100.0 * least
        );
    }
    if !bad.is_empty() {
        let more = bad.iter().map(|(_, f)| failing(f)).fold(0.0, f64::max);
        let _ = write!(
            text,
            "; more fail with {} (up to {:.1} %)",
            listed(bad.iter().map(|(name, _)| *name)),
            100.0 * more,
        );
    }
    Some(text + ".")
}

/// Who moves nobody without need.
fn of_clients(strategies: &Strategies, ground: &Ground) -> Option<String> {
    let measured = |cell: &super::record::KeysCell| match &cell.outcome {
        Outcome::Measured(keys) => Some((cell.place.balance.clone(), *keys)),
        Outcome::Failed(_) => None,
    };
    let mut steady: Vec<(String, Keys)> = strategies
        .keys_of(ground)
        .filter_map(measured)
        // A scheduler with one origin for all keeps clients, but balances nothing.
        .filter(|(_, keys)| keys.moved_by_nothing == 0 && keys.had_to_move > 0)
        .filter(|(_, keys)| keys.had_to_move < keys.clients / 2)
        .collect();
    let needless = |keys: &Keys| keys.moved_by_removal - keys.had_to_move;
    steady.sort_by_key(|(_, keys)| needless(keys));
    let (first, least) = steady.first()?;
    let mut text = format!(
        "{first} moves the fewest ({} of the clients at a removal beside those that have to)",
        percent(needless(least) as u64, least.clients as u64),
    );
    let others = steady.iter().skip(1).map(|(name, keys)| {
        let moved = percent(needless(keys) as u64, keys.clients as u64);
        format!("{name} {moved}")
    });
    let others: Vec<String> = others.collect();
    if !others.is_empty() {
        let _ = write!(text, "; then {}", others.join(", "));
    }
    Some(text + "; the others move clients though nothing has changed, or have one origin for all.")
}

/// What choosing costs.
fn of_cost(strategies: &Strategies, ground: &Ground) -> Option<String> {
    let workload = strategies.workloads.first()?;
    let all = measured(strategies, &workload.name, ground);
    let cost = |it: &&(&str, &Figures)| it.1.cpu_us;
    let least = all.iter().min_by(|a, b| cost(a).total_cmp(&cost(b)))?;
    let most = all.iter().max_by(|a, b| cost(a).total_cmp(&cost(b)))?;
    Some(format!(
        "from {} µs of CPU for a request ({}) to {} ({}), in {}.",
        numbers::plain(cost(&least)),
        least.0,
        numbers::plain(cost(&most)),
        most.0,
        workload.name,
    ))
}

/// What engines and relays cost: the median over all schedulers of the workload that was tried on
/// each of them.
fn of_grounds(strategies: &Strategies) -> Option<String> {
    let grounds = strategies.grounds();
    let everywhere = strategies.workloads.iter().find(|workload| {
        let is_there = |ground: &&Ground| !measured(strategies, &workload.name, ground).is_empty();
        grounds.len() > 1 && grounds.iter().all(is_there)
    })?;
    let parts = grounds.iter().filter_map(|ground| {
        let all = measured(strategies, &everywhere.name, ground);
        let costs = all.iter().map(|(_, figures)| figures.cpu_us);
        let middle = super::super::statistics::Spread::of(costs)?.median;
        Some(format!("{} ({ground})", numbers::plain(middle)))
    });
    let parts: Vec<String> = parts.collect();
    Some(format!(
        "µs of CPU for a request, {}, the median over all schedulers: {}.",
        everywhere.name,
        parts.join(", "),
    ))
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let shown = names.len().min(NAMES_MAX);
    let mut text = names[..shown].join(", ");
    if shown < names.len() {
        let _ = write!(text, " and {} more", names.len() - shown);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::strategies;
    use super::*;

    #[test]
    fn sentences_are_computed_from_the_figures() {
        let mut record = strategies();
        let mut fast = record.cells[0].clone();
        let Outcome::Measured(figures) = &mut fast.outcome else {
            panic!("{fast:?}")
        };
        figures.latency.p99_us /= 3.0;
        figures.cpu_us = 15.0;
        fast.place.balance = "lc".to_owned();
        let mut bad = fast.clone();
        if let Outcome::Measured(figures) = &mut bad.outcome {
            figures.errors.insert("reset".to_owned(), 91);
            figures.cpu_us = 14.0;
        }
        bad.place.balance = "sh".to_owned();
        record.cells[1] = fast;
        record.cells.push(bad);
        let text = told(&record);
        for words in [
            "## Which scheduler for which load (http, uring)",
            "- **slow**: the lowest p99 is 3.00 ms, with lc; the highest is 9.00 ms, with rr: 3.00 \
             times as long; with these 1.0 % of the requests fail; more fail with sh (up to 10.0 %).",
            "mh moves the fewest (1.0 % of the clients at a removal beside those that have to);",
            "- **Cost**: from 12.0 µs of CPU for a request (rr) to 15.0 (lc), in slow.",
        ] {
            assert!(text.contains(words), "{words} is missing in {text}");
        }
        assert!(!text.contains("Engines and relays"), "there is one only");
    }
}

//! The charts of a report on schedulers.
//!
//! Invariant: a chart shows only what the summary's tables say too.

use std::path::Path;

use super::super::Error;
use super::super::charts::{Chart, OURS};
use super::super::numbers::Quantity;
use super::super::panels::{self, Bar, Panel, Points, Rows};
use super::super::record::Outcome;
use super::super::statistics::Spread;
use super::record::{Cell, Figures, Keys, Strategies};

const BALANCE: Chart = Chart {
    title: "Balance: the busiest origin against the mean",
    file: "balance.svg",
};
const LATENCY: Chart = Chart {
    title: "Latency by scheduler",
    file: "latency.svg",
};
const CPU: Chart = Chart {
    title: "CPU time for a request",
    file: "cpu.svg",
};
const KEYS: Chart = Chart {
    title: "Clients whose origin changed",
    file: "keys.svg",
};

/// Draws all charts that there are figures for into `folder`.
pub(super) fn draw(strategies: &Strategies, folder: &Path) -> Result<Vec<Chart>, Error> {
    let all = [
        (BALANCE, workload_panels(strategies, balance)),
        (LATENCY, workload_panels(strategies, latency)),
        (CPU, workload_panels(strategies, cpu)),
        (KEYS, keys(strategies)),
    ];
    let mut drawn = Vec::new();
    for (chart, panels) in all {
        if !panels.is_empty() {
            panels::draw(&folder.join(chart.file), chart.title, &panels)?;
            drawn.push(chart);
        }
    }
    Ok(drawn)
}

/// Makes a panel of the figures of schedulers.
type WorkloadPanel = fn(String, &[(&str, &Figures)]) -> Option<Panel>;
/// A number of clients.
type Moved = fn(&Keys) -> usize;

/// A panel for each workload on each ground.
fn workload_panels(strategies: &Strategies, panel: WorkloadPanel) -> Vec<Panel> {
    let mut panels = Vec::new();
    for ground in strategies.grounds() {
        for workload in &strategies.workloads {
            let cells = strategies.cells_of(&workload.name, ground);
            let rows: Vec<(&str, &Figures)> = cells.filter_map(row).collect();
            panels.extend(panel(format!("{} ({ground})", workload.name), &rows));
        }
    }
    panels
}

fn row(cell: &Cell) -> Option<(&str, &Figures)> {
    match &cell.outcome {
        Outcome::Measured(figures) => Some((&cell.place.balance, figures)),
        Outcome::Failed(_) => None,
    }
}

fn balance(title: String, rows: &[(&str, &Figures)]) -> Option<Panel> {
    let bars = rows.iter().map(|(name, f)| bar(name, f.max_over_mean));
    let axis = "busiest origin's answers against the mean (1 is even)".to_owned();
    Panel::of_bars(&title, axis, Quantity::Count, bars.collect())
}

fn cpu(title: String, rows: &[(&str, &Figures)]) -> Option<Panel> {
    let bars = rows.iter().map(|(name, f)| bar(name, f.cpu_us));
    let axis = "CPU µs per request (less is better)".to_owned();
    Panel::of_bars(&title, axis, Quantity::Count, bars.collect())
}

fn latency(title: String, rows: &[(&str, &Figures)]) -> Option<Panel> {
    let points = rows.iter().map(|(name, figures)| Points {
        name: (*name).to_owned(),
        colour: OURS,
        values: [
            figures.latency.p50_us,
            figures.latency.p99_us,
            figures.latency.p999_us,
        ],
    });
    let points: Vec<Points> = points.collect();
    (!points.is_empty()).then(|| Panel {
        title,
        axis: "latency (less is better), logarithmic; p50, p99, p99.9".to_owned(),
        quantity: Quantity::Microseconds,
        rows: Rows::Points(points),
    })
}

fn keys(strategies: &Strategies) -> Vec<Panel> {
    let parts: [(&str, Moved); 3] = [
        ("nothing changed", |keys| keys.moved_by_nothing),
        ("one origin removed", |keys| keys.moved_by_removal),
        ("one origin added", |keys| keys.moved_by_addition),
    ];
    let mut panels = Vec::new();
    for ground in strategies.grounds() {
        for (what, moved) in parts {
            let bars = strategies
                .keys_of(ground)
                .filter_map(|cell| match &cell.outcome {
                    Outcome::Measured(keys) => {
                        let percent = 100.0 * moved(keys) as f64 / keys.clients as f64;
                        Some(bar(&cell.place.balance, percent))
                    }
                    Outcome::Failed(_) => None,
                });
            let axis = "% of clients that changed their origin (less is better)".to_owned();
            let title = format!("{what} ({ground})");
            panels.extend(Panel::of_bars(
                &title,
                axis,
                Quantity::Count,
                bars.collect(),
            ));
        }
    }
    panels
}

fn bar(name: &str, value: f64) -> Bar {
    Bar {
        name: name.to_owned(),
        colour: OURS,
        spread: Spread {
            median: value,
            min: value,
            max: value,
        },
    }
}

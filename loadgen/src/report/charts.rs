//! The charts: what is compared, in which order, in which colours.
//!
//! Invariant: a chart shows only what the summary's tables say too, and bars begin at zero.
//! How bars and points are drawn is in `panels`.

use std::path::Path;

use plotters::style::RGBColor;

use super::Error;
use super::numbers::{self, Quantity};
use super::panels::{Bar, Panel, Points, Rows};
use super::record::{FixedRate, Load, Record, Scenario};
use super::statistics::{self, Spread};

/// A drawn chart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chart {
    /// What it shows.
    pub title: &'static str,
    /// Its file in the report's folder.
    pub file: &'static str,
}

const CPU: Chart = Chart {
    title: "CPU time for a unit of work",
    file: "cpu.svg",
};
const THROUGHPUT: Chart = Chart {
    title: "Throughput on one core",
    file: "throughput.svg",
};
const LATENCY: Chart = Chart {
    title: "Latency at a fixed rate",
    file: "latency.svg",
};
const MEMORY: Chart = Chart {
    title: "Memory of idle connections",
    file: "memory.svg",
};
const SPREAD: Chart = Chart {
    title: "Connections over two workers",
    file: "workers.svg",
};
const FORWARDER_CPU: Chart = Chart {
    title: "One TCP forwarder on several runtimes: CPU time",
    file: "forwarders-cpu.svg",
};
const FORWARDER_MEMORY: Chart = Chart {
    title: "One TCP forwarder on several runtimes: memory of an idle connection",
    file: "forwarders-memory.svg",
};

/// The subject, in both its engines.
pub(super) const OURS: RGBColor = RGBColor(0x1d, 0x6f, 0xd6);
/// Everybody else.
const THEIRS: RGBColor = RGBColor(0x9a, 0xa3, 0xad);

/// Draws all charts that `record` has figures for into `folder`.
pub fn draw(record: &Record, folder: &Path) -> Result<Vec<Chart>, Error> {
    let mut drawn = Vec::new();
    for (chart, panels) in all(record) {
        if !panels.is_empty() {
            super::panels::draw(&folder.join(chart.file), chart.title, &panels)?;
            drawn.push(chart);
        }
    }
    Ok(drawn)
}

fn all(record: &Record) -> [(Chart, Vec<Panel>); 7] {
    let scenarios = || record.scenarios.iter();
    [
        (
            CPU,
            scenarios()
                .filter_map(|scenario| cpu(record, scenario))
                .collect(),
        ),
        (
            THROUGHPUT,
            scenarios()
                .filter_map(|scenario| throughput(record, scenario))
                .collect(),
        ),
        (
            LATENCY,
            scenarios()
                .filter_map(|scenario| latency(record, scenario))
                .collect(),
        ),
        (
            MEMORY,
            scenarios()
                .filter_map(|scenario| memory(record, scenario))
                .collect(),
        ),
        (
            SPREAD,
            scenarios()
                .filter_map(|scenario| spread(record, scenario))
                .collect(),
        ),
        (FORWARDER_CPU, forwarder_cpu(record).into_iter().collect()),
        (
            FORWARDER_MEMORY,
            forwarder_memory(record).into_iter().collect(),
        ),
    ]
}

fn cpu(record: &Record, scenario: &Scenario) -> Option<Panel> {
    let bars = bars(record, |peer| {
        statistics::of_peer(&scenario.load, peer, |load| load.cpu_us)
    });
    let axis = format!("CPU µs per {} (less is better)", scenario.work.singular());
    Panel::of_bars(&scenario.name, axis, Quantity::Count, bars)
}

fn throughput(record: &Record, scenario: &Scenario) -> Option<Panel> {
    let bars = bars(record, |peer| {
        statistics::of_peer(&scenario.load, peer, |load| load.per_s)
    });
    let axis = format!("{} per second (more is better)", scenario.work.plural());
    Panel::of_bars(&scenario.name, axis, Quantity::Count, bars)
}

fn latency(record: &Record, scenario: &Scenario) -> Option<Panel> {
    let fixed = scenario.fixed_rate.as_ref()?;
    let rows: Vec<Points> = record
        .peers
        .iter()
        .filter_map(|p| points(fixed, &p.name))
        .collect();
    let axis = format!(
        "latency (less is better), logarithmic; p50, p99, p99.9 at {} {} a second",
        numbers::plain(fixed.per_s),
        scenario.work.plural(),
    );
    (!rows.is_empty()).then(|| Panel {
        title: scenario.name.clone(),
        axis,
        quantity: Quantity::Microseconds,
        rows: Rows::Points(rows),
    })
}

fn points(fixed: &FixedRate, peer: &str) -> Option<Points> {
    let median = |figure: fn(&Load) -> f64| {
        statistics::of_peer(&fixed.rounds, peer, figure).map(|spread| spread.median)
    };
    let values = [
        median(|load| load.latency.p50_us)?,
        median(|load| load.latency.p99_us)?,
        median(|load| load.latency.p999_us)?,
    ];
    Some(Points {
        name: peer.to_owned(),
        colour: colour(peer),
        values,
    })
}

fn memory(record: &Record, scenario: &Scenario) -> Option<Panel> {
    let bars = bars(record, |peer| {
        statistics::of_peer(&scenario.idle, peer, |idle| idle.bytes_per_connection)
    });
    let axis = "user memory that an idle connection adds (less is better)".to_owned();
    Panel::of_bars(&scenario.name, axis, Quantity::Bytes, bars)
}

fn spread(record: &Record, scenario: &Scenario) -> Option<Panel> {
    let bars = bars(record, |peer| {
        statistics::of_peer(&scenario.spread, peer, |workers| workers.max_over_mean)
    });
    let axis = "busiest worker's connections against the mean (1 is even)".to_owned();
    Panel::of_bars(&scenario.name, axis, Quantity::Count, bars)
}

fn forwarder_cpu(record: &Record) -> Option<Panel> {
    let forwarders = record.forwarders.as_ref()?;
    let bars = forwarders.forwarders.iter().filter_map(|forwarder| {
        let spread = Spread::of(forwarder.cpu_us_per_message.iter().copied())?;
        Some(bar(&forwarder.name, spread))
    });
    let axis = "CPU µs per message (less is better)".to_owned();
    let title = format!(
        "{} connections, {}-byte messages",
        forwarders.connections, forwarders.message_bytes
    );
    Panel::of_bars(&title, axis, Quantity::Count, bars.collect())
}

fn forwarder_memory(record: &Record) -> Option<Panel> {
    let forwarders = record.forwarders.as_ref()?;
    let bars = forwarders.forwarders.iter().filter_map(|forwarder| {
        let spread = Spread::of(forwarder.idle_bytes_per_connection)?;
        Some(bar(&forwarder.name, spread))
    });
    let axis = "user memory that an idle connection adds (less is better)".to_owned();
    Panel::of_bars("idle connections", axis, Quantity::Bytes, bars.collect())
}

fn bars(record: &Record, figure: impl Fn(&str) -> Option<Spread>) -> Vec<Bar> {
    let names = record.peers.iter().map(|peer| peer.name.as_str());
    names
        .filter_map(|name| Some(bar(name, figure(name)?)))
        .collect()
}

fn bar(name: &str, spread: Spread) -> Bar {
    Bar {
        name: name.to_owned(),
        colour: colour(name),
        spread,
    }
}

fn colour(name: &str) -> RGBColor {
    if name == "lb" || name.starts_with("lb-") {
        OURS
    } else {
        THEIRS
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn only_what_was_measured_is_drawn() {
        let panels = all(&sample::record()).map(|(chart, panels)| (chart.file, panels.len()));
        let expected = [
            ("cpu.svg", 1),
            ("throughput.svg", 1),
            ("latency.svg", 1),
            ("memory.svg", 0),
            ("workers.svg", 0),
            ("forwarders-cpu.svg", 0),
            ("forwarders-memory.svg", 0),
        ];
        assert_eq!(panels, expected);
    }

    #[test]
    fn ours_stands_out() {
        assert_eq!(colour("lb-epoll"), OURS);
        assert_eq!(colour("lbx"), THEIRS);
        assert_eq!(colour("nginx"), THEIRS);
    }
}

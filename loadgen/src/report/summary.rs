//! `summary.md`: verdicts first, then each scenario's table, then all that went wrong.
//!
//! Invariant: what was missed, failed or doubtful stands here as plainly as what went well.
//! `doubts` is the last part; `readme` tells how it was measured.

use std::fmt::Write as _;

use super::charts::Chart;
use super::doubts;
use super::forwarders::{Forwarder, Forwarders};
use super::numbers;
use super::record::{FixedRate, Idle, Load, PARTIAL, Peer, Record, Round, Scenario, Work};
use super::repeat;
use super::statistics::{self, Spread};
use super::verdict::{self, Unit, Verdict};

/// The page.
pub fn render(record: &Record, charts: &[Chart]) -> String {
    let mut page = format!(
        "# Summary\n\n{} · {} · {} rounds of {} s each, interleaved. \
         Figures are medians, with the least and the most in brackets. \
         [How it was measured](README.md) · [every round](raw.json)\n\n",
        record.started,
        machine_line(record),
        record.settings.rounds,
        record.settings.duration_s,
    );
    if record.is_partial {
        page += PARTIAL;
    }
    page += &promises(&verdict::all(record));
    for scenario in &record.scenarios {
        page += &section(record, scenario);
    }
    if let Some(forwarders) = &record.forwarders {
        page += &forwarder_section(forwarders);
    }
    page += &repeat::render(record);
    page += &doubts::render(record);
    page += "## Charts\n\n";
    for chart in charts {
        let _ = writeln!(page, "![{}]({})\n", chart.title, chart.file);
    }
    page
}

fn machine_line(record: &Record) -> String {
    let machine = &record.machine;
    format!(
        "{}, {} cores, Linux {}",
        machine.cpu, machine.cores, machine.kernel
    )
}

fn promises(verdicts: &[Verdict]) -> String {
    let mut text = String::from(
        "## What was promised\n\n| what | at most | measured | floor | |\n\
         | --- | ---: | ---: | ---: | --- |\n",
    );
    for verdict in verdicts {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            verdict.promise,
            in_unit(verdict.limit, verdict.unit),
            measured(verdict),
            floor(verdict),
            judgement(verdict),
        );
    }
    text + FLOOR
}

const FLOOR: &str = "
Where a ratio of CPU time is missed, its floor is the balancer's time in the kernel alone divided by
the rival's whole: what the ratio would be if the balancer's own code cost nothing, with the system
calls that it makes.

";

/// What no change of our own code alone could get below, where a promise is missed.
fn floor(verdict: &Verdict) -> String {
    let floor = verdict
        .measured
        .as_ref()
        .and_then(|measured| measured.floor);
    let missed = floor.filter(|_| verdict.kept() == Some(false));
    missed.map_or_else(|| "–".to_owned(), |floor| format!("{floor:.2}"))
}

/// The figure of a verdict, and against whom.
fn measured(verdict: &Verdict) -> String {
    let Some(measured) = &verdict.measured else {
        return "–".to_owned();
    };
    let figure = in_unit(measured.figure, verdict.unit);
    match &measured.against {
        Some(rival) => format!("{figure} ({rival})"),
        None => figure,
    }
}

fn judgement(verdict: &Verdict) -> String {
    let excess = verdict
        .measured
        .as_ref()
        .map(|m| m.figure / verdict.limit - 1.0);
    match (verdict.kept(), excess) {
        (Some(true), _) => "kept".to_owned(),
        (_, Some(excess)) => format!("**missed by {:.0} %**", excess * 100.0),
        (_, None) => "not measured here".to_owned(),
    }
}

fn in_unit(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Ratio => format!("{value:.2}"),
        Unit::Bytes => numbers::bytes(value),
    }
}

fn section(record: &Record, scenario: &Scenario) -> String {
    let mut text = format!("## {}\n\n{}\n\n", scenario.name, scenario.description);
    if !scenario.load.is_empty() {
        text += &load_table(record, scenario);
    }
    if let Some(fixed) = &scenario.fixed_rate {
        text += &latency_table(record, scenario, fixed);
    }
    if !scenario.idle.is_empty() {
        text += &idle_table(record, scenario);
    }
    if !scenario.spread.is_empty() {
        text += &spread_table(record, scenario);
    }
    text
}

fn load_table(record: &Record, scenario: &Scenario) -> String {
    let work = scenario.work;
    let ratio_head = record
        .subject()
        .map_or_else(String::new, |s| format!("{s} ÷ this"));
    let mut text = format!(
        "| | CPU µs per {} | in its code | in the kernel | {ratio_head} | {} per second \
         | of its core | failed rounds |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        work.singular(),
        work.plural(),
    );
    for peer in taking_part(record, scenario) {
        let of = |figure: fn(&Load) -> f64| statistics::of_peer(&scenario.load, &peer.name, figure);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            peer.name,
            spread(of(|load| load.cpu_us), numbers::plain),
            middle(of(Load::user_us), numbers::plain),
            middle(of(Load::kernel_us), numbers::plain),
            ratio_cell(record, &scenario.load, &peer.name, |load| load.cpu_us),
            spread(of(|load| load.per_s), numbers::plain),
            middle(of(|load| 100.0 * load.cpu_s / load.window_s), |v| format!(
                "{v:.0} %"
            )),
            failures(&scenario.load, &peer.name),
        );
    }
    match work {
        Work::Mebibyte => text += &moved_line(record, scenario, "GiB", 1024.0),
        Work::Datagram => text += &moved_line(record, scenario, "thousand datagrams", 1000.0),
        Work::Connection | Work::Handshake | Work::Message | Work::Request => {}
    }
    text + "\n"
}

/// All peers but those that cannot do what the scenario asks for.
fn taking_part<'a>(record: &'a Record, scenario: &'a Scenario) -> impl Iterator<Item = &'a Peer> {
    let is_absent = |name: &str| scenario.absent.iter().any(|absent| absent.name == name);
    let peers = record.peers.iter();
    peers.filter(move |peer| !is_absent(&peer.name))
}

/// The same costs the other way round: what a second of CPU moves, in units of `per_unit` of the
/// scenario's work.
fn moved_line(record: &Record, scenario: &Scenario, unit: &str, per_unit: f64) -> String {
    const US_PER_S: f64 = 1e6;
    let moved = record.peers.iter().filter_map(|peer| {
        let cost = statistics::of_peer(&scenario.load, &peer.name, |load| load.cpu_us)?;
        let units = US_PER_S / cost.median / per_unit;
        Some(format!("{} {} {unit}", peer.name, numbers::plain(units)))
    });
    let moved: Vec<String> = moved.collect();
    format!("\nMoved in one second of CPU time: {}.\n", moved.join(", "))
}

fn latency_table(record: &Record, scenario: &Scenario, fixed: &FixedRate) -> String {
    let work = scenario.work;
    let mut text = format!(
        "Latency at a fixed rate of {} {} a second, from the intended time of sending:\n\n\
         | | p50 | p99 | p99.9 | most | CPU µs per {} | failed rounds |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        numbers::plain(fixed.per_s),
        work.plural(),
        work.singular(),
    );
    for peer in taking_part(record, scenario) {
        let cell = |figure: fn(&Load) -> f64| {
            spread(
                statistics::of_peer(&fixed.rounds, &peer.name, figure),
                numbers::microseconds,
            )
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            peer.name,
            cell(|load| load.latency.p50_us),
            cell(|load| load.latency.p99_us),
            cell(|load| load.latency.p999_us),
            cell(|load| load.latency.max_us),
            spread(
                statistics::of_peer(&fixed.rounds, &peer.name, |load| load.cpu_us),
                numbers::plain
            ),
            failures(&fixed.rounds, &peer.name),
        );
    }
    text + "\n"
}

fn idle_table(record: &Record, scenario: &Scenario) -> String {
    let ratio_head = record
        .subject()
        .map_or_else(String::new, |s| format!("{s} ÷ this"));
    let mut text = format!(
        "| | user memory per connection | {ratio_head} | user memory with {} connections \
         | failed rounds |\n| --- | ---: | ---: | ---: | ---: |\n",
        connections_held(scenario),
    );
    for peer in &record.peers {
        let of = |figure: fn(&Idle) -> f64| statistics::of_peer(&scenario.idle, &peer.name, figure);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            peer.name,
            spread(of(|idle| idle.bytes_per_connection), numbers::bytes),
            ratio_cell(record, &scenario.idle, &peer.name, |idle| idle
                .bytes_per_connection),
            spread(of(|idle| idle.full.user_bytes() as f64), numbers::bytes),
            failures(&scenario.idle, &peer.name),
        );
    }
    text + "\n"
}

fn spread_table(record: &Record, scenario: &Scenario) -> String {
    let mut text = String::from(
        "| | max/mean of connections | connections by worker | failed rounds |\n\
         | --- | ---: | --- | ---: |\n",
    );
    for peer in taking_part(record, scenario) {
        let rounds = scenario.spread.iter().filter(|r| r.peer == peer.name);
        let by_worker = rounds.filter_map(Round::figures).map(|workers| {
            let counts = workers.connections.iter().map(u64::to_string);
            counts.collect::<Vec<_>>().join(" + ")
        });
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            peer.name,
            spread(
                statistics::of_peer(&scenario.spread, &peer.name, |w| w.max_over_mean),
                |value| format!("{value:.3}")
            ),
            by_worker.collect::<Vec<_>>().join(", "),
            failures(&scenario.spread, &peer.name),
        );
    }
    text + "\n"
}

fn connections_held(scenario: &Scenario) -> String {
    let held = scenario
        .idle
        .iter()
        .filter_map(Round::figures)
        .map(|idle| idle.full_connections);
    held.max()
        .map_or_else(|| "all".to_owned(), |held| numbers::plain(held as f64))
}

fn forwarder_section(forwarders: &Forwarders) -> String {
    let mut text = format!(
        "## The runtime: one small TCP forwarder on several\n\n{} rounds, {} connections, \
         messages of {} bytes.\n\n| | version | CPU µs per message | lb-uring ÷ this \
         | messages per second | idle connection |\n| --- | --- | ---: | ---: | ---: | ---: |\n",
        forwarders.rounds, forwarders.connections, forwarders.message_bytes,
    );
    let own = verdict::own_forwarder(forwarders);
    for forwarder in &forwarders.forwarders {
        text += &forwarder_row(forwarder, own);
    }
    text + "\n"
}

fn forwarder_row(forwarder: &Forwarder, own: Option<&Forwarder>) -> String {
    let ratio = own
        .filter(|own| own.name != forwarder.name)
        .and_then(|own| verdict::forwarder_ratio(own, forwarder));
    let memory = forwarder.idle_bytes_per_connection;
    let flags = forwarder.flags.replace('|', " ");
    format!(
        "| {} | {} | {} | {} | {} | {} |\n",
        forwarder.name,
        [&forwarder.version, &*flags].join(" ").trim(),
        spread(
            Spread::of(forwarder.cpu_us_per_message.iter().copied()),
            numbers::plain
        ),
        ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{:.2}", ratio.median)),
        spread(
            Spread::of(forwarder.messages_per_s.iter().copied()),
            numbers::plain
        ),
        memory.map_or_else(|| "–".to_owned(), numbers::bytes),
    )
}

fn ratio_cell<F>(
    record: &Record,
    rounds: &[Round<F>],
    peer: &str,
    figure: fn(&F) -> f64,
) -> String {
    match record.subject() {
        Some(subject) if subject != peer => {
            spread(statistics::ratio(rounds, subject, peer, figure), |v| {
                format!("{v:.2}")
            })
        }
        _ => "–".to_owned(),
    }
}

fn failures<F>(rounds: &[Round<F>], peer: &str) -> String {
    let own = || rounds.iter().filter(|round| round.peer == peer);
    let failed = own().filter(|round| round.failure().is_some()).count();
    format!("{failed} of {}", own().count())
}

fn spread(spread: Option<Spread>, write: impl Fn(f64) -> String) -> String {
    match spread {
        Some(Spread { median, min, max }) => {
            format!("**{}** ({}–{})", write(median), write(min), write(max))
        }
        None => "–".to_owned(),
    }
}

fn middle(spread: Option<Spread>, write: impl Fn(f64) -> String) -> String {
    spread.map_or_else(|| "–".to_owned(), |spread| write(spread.median))
}

#[cfg(test)]
mod tests {
    use super::super::record::{Absent, Outcome, Workers};
    use super::super::sample;
    use super::*;

    #[test]
    fn verdicts_ratios_and_medians_are_on_the_page() {
        let page = render(&sample::record(), &[]);
        assert!(
            page.contains("| 0.65 | 0.80 (haproxy) | 0.72 | **missed by 23 %** |"),
            "{page}"
        );
        assert!(
            page.contains("| lb | **10.0** (10.0–10.0) | 1.00 | 9.00 | – |"),
            "{page}"
        );
        assert!(
            page.contains("| nginx | **20.0** (20.0–20.0) | 2.00 | 18.0 | **0.50** (0.50–0.50) |"),
            "{page}"
        );
        assert!(page.contains("not measured here"), "{page}");
    }

    #[test]
    fn workers_have_their_table_and_absent_peers_are_named() {
        let mut record = sample::record();
        let scenario = &mut record.scenarios[0];
        scenario.load.clear();
        scenario.spread.push(Round {
            round: 1,
            peer: "lb".to_owned(),
            outcome: Outcome::Measured(Workers {
                connections: vec![520, 480],
                max_over_mean: 1.04,
            }),
        });
        for name in ["nginx", "haproxy"] {
            scenario.absent.push(Absent {
                name: name.to_owned(),
                reason: "it does not say".to_owned(),
            });
        }
        let page = render(&record, &[]);
        let row = "| lb | **1.040** (1.040–1.040) | 520 + 480 | 0 of 1 |\n\n";
        assert!(page.contains(row), "{page}");
        assert!(
            page.contains("l7-keepalive: nginx left out, it does not say."),
            "{page}"
        );
    }

    #[test]
    fn nothing_is_hidden() {
        let mut record = sample::record();
        let load = &mut record.scenarios[0].load;
        load[0].outcome = Outcome::Failed("3 requests were not answered by 200".to_owned());
        if let Outcome::Measured(load) = &mut load[1].outcome {
            load.generator.saturated = true;
            load.stolen_s = 1.0;
        }
        let page = render(&record, &[]);
        assert!(page.contains("round 1 of lb failed: 3 requests were not answered by 200"));
        let generator = "stands: l7-keepalive, 1 of 2 rounds (nginx).";
        assert!(page.contains(generator), "{page}");
        let stolen =
            "The hypervisor took more than 1 % of a core: l7-keepalive, 1 of 2 rounds (nginx).";
        assert!(page.contains(stolen), "{page}");
        assert!(!page.contains("something else"), "{page}");
        assert!(
            page.contains("| lb | – | – | – | – | – | – | 1 of 1 |"),
            "{page}"
        );
    }
}

//! The generator against a server whose latencies are known: does it find them?
//!
//! A script (`script.rs`) says what the server (`server.rs`) does; every percentile of an open
//! loop has an exact value then. A closed loop cannot find what a stall costs, as it stops asking
//! meanwhile. Where nothing stalls, both and other tools (`tools.rs`) have to agree.
//! Invariant: what is called right is within `ERROR_MAX` of the exact value.
//! Read next: `script.rs`, and `run/schedule.rs` (why an open loop can).

mod script;
mod server;
mod tools;

use std::fmt;

use lb_core::rt::EngineKind;
use lb_core::rt::probe::{EngineChoice, probe};

use crate::gate::Gate;
use crate::run::{self, Config, LoadMode, Summary};
use script::{QUEUE, SERVICES, STALL, Script, quantile_us};
use tools::TOOLS;

/// By how much a percentile may be off.
const ERROR_MAX: f64 = 0.02;

/// Checks the generator against a server of known latencies.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Core of the generator [default: any]
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,
    /// Let wrk, h2load and oha measure the same server, too, where they are installed
    #[arg(long)]
    pub tools: bool,
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    scripts: Vec<Checked>,
    agreement: Option<Agreement>,
}

/// One script: what both loops found.
#[derive(Debug)]
struct Checked {
    script: &'static Script,
    rows: Vec<Row>,
}

/// A percentile, in microseconds.
#[derive(Debug)]
struct Row {
    name: &'static str,
    exact: f64,
    open: f64,
    closed: f64,
}

/// What a tool found in a closed loop.
#[derive(Debug, Clone, Default)]
struct Figures {
    rate_per_s: Option<f64>,
    mean_us: Option<f64>,
    /// Part of the requests, and what it took at most, in microseconds.
    percentiles_us: Vec<(f64, f64)>,
}

/// Several tools before the same server.
#[derive(Debug)]
struct Agreement {
    exact: Figures,
    /// By tool: figures, or why there are none.
    found: Vec<(&'static str, Result<Figures, String>)>,
}

/// Runs both loops against such servers, which takes some 40 seconds.
///
/// # Errors
/// When a server or the generator does not run, in words.
pub fn check(args: &Args, stop: &Gate) -> Result<Found, String> {
    let engine = probe(EngineChoice::Auto)?.engine;
    let bench = Bench {
        engine,
        cpu: args.cpu,
        stop,
    };
    let mut scripts = Vec::new();
    for script in [&STALL, &QUEUE, &SERVICES] {
        scripts.push(bench.check(script)?);
    }
    let agreement = args.tools.then(|| bench.agreement()).transpose()?;
    Ok(Found { scripts, agreement })
}

/// Where runs take place.
struct Bench<'a> {
    engine: EngineKind,
    cpu: Option<usize>,
    stop: &'a Gate,
}

impl Bench<'_> {
    fn check(&self, script: &'static Script) -> Result<Checked, String> {
        let rate_per_s = script.rate_per_s;
        let open = self.run(script, LoadMode::Open { rate_per_s }, script.connections)?;
        let closed = self.run(script, LoadMode::Closed, script.closed_connections)?;
        let exact = script.latencies();
        let row = |&(name, quantile): &(&'static str, f64)| Row {
            name,
            exact: quantile_us(&exact, quantile),
            open: quantile_of(&open, quantile),
            closed: quantile_of(&closed, quantile),
        };
        Ok(Checked {
            script,
            rows: script.quantiles.iter().map(row).collect(),
        })
    }

    fn run(
        &self,
        script: &'static Script,
        mode: LoadMode,
        connections: usize,
    ) -> Result<Summary, String> {
        let url = url(script)?.parse()?;
        let config = Config {
            mode,
            connections,
            duration: script.duration,
            cpu: self.cpu,
            ..Config::new(url, self.engine)
        };
        let summary = run::run(&config, &mut (), self.stop).map_err(|error| error.to_string())?;
        if summary.is_clean() {
            Ok(summary)
        } else {
            Err(format!("not every request was answered:\n{summary}"))
        }
    }

    /// All tools and the own closed loop, where service times are all there is.
    fn agreement(&self) -> Result<Agreement, String> {
        let script = &SERVICES;
        let own = self.run(script, LoadMode::Closed, script.closed_connections)?;
        let latencies = script.latencies();
        let percentiles = |of: &dyn Fn(f64) -> f64| {
            let quantiles = script.quantiles.iter();
            quantiles.map(|(_, part)| (*part, of(*part))).collect()
        };
        let mean = script.mean_service().as_secs_f64();
        let exact = Figures {
            rate_per_s: Some(script.closed_connections as f64 / mean),
            mean_us: Some(mean * 1e6),
            percentiles_us: percentiles(&|part| quantile_us(&latencies, part)),
        };
        let own = Figures {
            rate_per_s: Some(own.rate_per_s),
            mean_us: Some(own.latency_us.mean),
            percentiles_us: percentiles(&|part| quantile_of(&own, part)),
        };
        let mut found = vec![("loadgen", Ok(own))];
        for tool in &TOOLS {
            if self.stop.is_open() {
                break;
            }
            let url = url(script)?;
            found.push((tool.name, tool.run(script, &url)));
        }
        Ok(Agreement { exact, found })
    }
}

/// Starts a server that plays `script`.
fn url(script: &'static Script) -> Result<String, String> {
    let server = server::start(script).map_err(|error| error.to_string())?;
    Ok(format!("http://{server}/"))
}

fn quantile_of(summary: &Summary, quantile: f64) -> f64 {
    let latency = &summary.latency_us;
    let known = [
        (0.5, latency.p50),
        (0.9, latency.p90),
        (0.99, latency.p99),
        (0.999, latency.p999),
        (1.0, latency.max),
    ];
    let found = known.iter().find(|(part, _)| *part == quantile);
    found.map_or(f64::NAN, |(_, latency)| *latency)
}

impl Row {
    fn error(&self) -> f64 {
        self.open / self.exact - 1.0
    }

    fn is_right(&self) -> bool {
        self.error().abs() <= ERROR_MAX
    }
}

impl Found {
    /// Whether the open loop found every percentile.
    pub fn is_right(&self) -> bool {
        let mut rows = self.scripts.iter().flat_map(|checked| &checked.rows);
        rows.all(Row::is_right)
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Checked { script, rows } in &self.scripts {
            writeln!(f, "{}: a server that {}.", script.name, script.what)?;
            writeln!(
                f,
                "              exact    open loop             closed loop"
            )?;
            for row in rows {
                let verdict = if row.is_right() { "" } else { "  WRONG" };
                writeln!(
                    f,
                    "  {:<6} {:>9.2} ms {:>9.2} ms ({:+.2} %) {:>9.2} ms{}{verdict}",
                    row.name,
                    row.exact / 1e3,
                    row.open / 1e3,
                    row.error() * 100.0,
                    row.closed / 1e3,
                    off_by(row.exact, row.closed),
                )?;
            }
            writeln!(f)?;
        }
        self.agreement.iter().try_for_each(|it| write!(f, "{it}"))
    }
}

/// `, 34 × off`, where it is worth saying.
fn off_by(exact: f64, found: f64) -> String {
    let times = (exact / found).max(found / exact);
    if times < 2.0 {
        return String::new();
    }
    format!(", {times:.0} × off")
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: several tools, each in a closed loop over {} connections.",
            SERVICES.name, SERVICES.closed_connections
        )?;
        write!(f, "             requests/s       mean")?;
        for (name, _) in SERVICES.quantiles {
            write!(f, " {name:>10}")?;
        }
        writeln!(f)?;
        self.exact.write(f, "exact")?;
        for (name, found) in &self.found {
            match found {
                Ok(figures) => figures.write(f, name)?,
                Err(reason) => writeln!(f, "  {name:<10} skipped: {reason}")?,
            }
        }
        Ok(())
    }
}

impl Figures {
    fn write(&self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        let millis = |micros: Option<f64>| {
            micros.map_or_else(|| "–".to_owned(), |us| format!("{:.2} ms", us / 1e3))
        };
        let rate = self.rate_per_s.unwrap_or_default();
        write!(f, "  {name:<10} {rate:>10.1} {:>10}", millis(self.mean_us))?;
        for (_, part) in SERVICES.quantiles {
            let found = self.percentiles_us.iter().find(|(own, _)| own == part);
            write!(f, " {:>10}", millis(found.map(|(_, us)| *us)))?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(open: f64) -> Found {
        Found {
            scripts: vec![Checked {
                script: &STALL,
                rows: vec![Row {
                    name: "p99",
                    exact: 950e3,
                    open,
                    closed: 20.0,
                }],
            }],
            agreement: None,
        }
    }

    #[test]
    fn what_is_off_by_more_than_two_percent_is_wrong() {
        assert!(found(960e3).is_right());
        let told = found(960e3).to_string();
        let row = "p99       950.00 ms    960.00 ms (+1.05 %)      0.02 ms, 47500 × off\n";
        assert!(told.contains(row), "{told}");
        assert!(!found(980e3).is_right());
        assert!(found(980e3).to_string().contains("× off  WRONG"));
    }

    #[test]
    fn a_tool_that_tells_little_has_little_in_its_row() {
        let figures = Figures {
            rate_per_s: Some(413.2),
            mean_us: Some(24_120.0),
            percentiles_us: vec![(0.9, 40_000.0)],
        };
        let agreement = Agreement {
            exact: figures.clone(),
            found: vec![("h2load", Ok(figures)), ("oha", Err("not here".to_owned()))],
        };
        let told = agreement.to_string();
        assert!(
            told.contains("24.12 ms          –   40.00 ms          –"),
            "{told}"
        );
        assert!(told.contains("oha        skipped: not here"), "{told}");
    }
}

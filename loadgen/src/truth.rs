//! The generator against a server whose latencies are known: does it find them?
//!
//! The server answers at once but for one stall, so that every percentile has an exact value. A
//! closed loop cannot find it: it stops asking while the server stalls.
//! Invariant: the server shares nothing with the generator but the machine.
//! Read next: `run/schedule.rs` (why an open loop can).

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use lb_core::rt::probe::{EngineChoice, probe};
use lb_core::rt::{Instant, now_precise};

use crate::gate::Gate;
use crate::run::{self, Config, LatencyMicros, LoadMode};

const STALL_FROM: Duration = Duration::from_secs(1);
const STALL: Duration = Duration::from_secs(1);
const DURATION: Duration = Duration::from_secs(5);
const RATE_PER_S: f64 = 200.0;
/// More than are due within the stall: none waits for another's answer, so nothing has to be
/// worked off after it.
const CONNECTIONS: usize = 250;
const MESSAGE_BYTES: usize = 64;

/// By how much a percentile may be off.
const ERROR_MAX: f64 = 0.02;

/// Checks the generator against a server of known latencies.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Core of the generator [default: any]
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Found {
    open: LatencyMicros,
    closed: LatencyMicros,
}

/// Runs both loops against such a server, which takes some ten seconds.
///
/// # Errors
/// When the server or the generator does not run, in words.
pub fn check(args: &Args, stop: &Gate) -> Result<Found, String> {
    let engine = probe(EngineChoice::Auto)?.engine;
    let latency = |mode| {
        let server = stalling_server().map_err(|error| error.to_string())?;
        let url = format!("tcp://{server}").parse()?;
        let config = Config {
            mode,
            connections: CONNECTIONS,
            duration: DURATION,
            cpu: args.cpu,
            ..Config::new(url, engine)
        };
        let summary = run::run(&config, &mut (), stop).map_err(|error| error.to_string())?;
        Ok::<_, String>(summary.latency_us)
    };
    Ok(Found {
        open: latency(LoadMode::Open {
            rate_per_s: RATE_PER_S,
        })?,
        closed: latency(LoadMode::Closed)?,
    })
}

impl Found {
    /// Whether the open loop found every percentile.
    pub fn is_right(&self) -> bool {
        let mut rows = rows(&self.open).into_iter();
        rows.all(|(_, exact, found)| (found / exact - 1.0).abs() <= ERROR_MAX)
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "A server that answers at once, but stalls for {} s of {} s:",
            STALL.as_secs(),
            DURATION.as_secs()
        )?;
        writeln!(f, "         exact     open loop           closed loop")?;
        let closed = rows(&self.closed);
        for ((name, exact, found), (_, _, omitted)) in rows(&self.open).into_iter().zip(closed) {
            writeln!(
                f,
                "  {name:<6} {:>6.1} ms {:>6.1} ms ({:+.2} %) {:>8.2} ms",
                exact / 1e3,
                found / 1e3,
                (found / exact - 1.0) * 100.0,
                omitted / 1e3
            )?;
        }
        Ok(())
    }
}

/// Percentiles: name, exact value and `latency`'s, in microseconds.
fn rows(latency: &LatencyMicros) -> [(&'static str, f64, f64); 4] {
    [
        ("p90", exact_us(0.9), latency.p90),
        ("p99", exact_us(0.99), latency.p99),
        ("p99.9", exact_us(0.999), latency.p999),
        ("max", exact_us(1.0), latency.max),
    ]
}

/// Requests that are due within the stall wait for its end, each as much less than the one before
/// as it is due later.
fn exact_us(quantile: f64) -> f64 {
    let slower_s = (1.0 - quantile) * DURATION.as_secs_f64();
    (STALL.as_secs_f64() - slower_s) * 1e6
}

/// Echoes at once, but while it stalls, at the end of the stall. Time begins with the first
/// message.
fn stalling_server() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let first: Arc<OnceLock<Instant>> = Arc::default();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let first = Arc::clone(&first);
            thread::spawn(move || echo(stream, &first));
        }
    });
    Ok(address)
}

fn echo(mut stream: TcpStream, first: &OnceLock<Instant>) {
    let mut message = [0; MESSAGE_BYTES];
    let _ = stream.set_nodelay(true);
    while stream.read_exact(&mut message).is_ok() {
        let now = now_precise();
        let since = now.saturating_duration_since(*first.get_or_init(|| now));
        if (STALL_FROM..STALL_FROM + STALL).contains(&since) {
            thread::sleep(STALL_FROM + STALL - since);
        }
        if stream.write_all(&message).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_off_by_more_than_two_percent_is_wrong() {
        let right = LatencyMicros {
            p90: 500e3,
            p99: 950e3,
            p999: 995e3,
            max: 1000e3,
            ..LatencyMicros::default()
        };
        let found = |open| Found {
            open,
            closed: LatencyMicros::default(),
        };
        assert!(found(right).is_right());
        assert!(
            found(right)
                .to_string()
                .contains("p99     950.0 ms  950.0 ms (+0.00 %)")
        );
        let p99 = 980e3;
        assert!(!found(LatencyMicros { p99, ..right }).is_right());
    }
}

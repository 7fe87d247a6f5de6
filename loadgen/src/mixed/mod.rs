//! Traffic of every kind at once, while origins are restarted and killed one after another.
//!
//! Invariant: what a balancer may not lose is all that is asked for: origins that are killed get
//! requests only that are safe to repeat, so any failed request is a fault of `lb`.
//! Read next: `loads.rs` (the traffic), `fleet.rs` (the origins), `course.rs` (both at once).

mod course;
mod fleet;
mod loads;

use std::path::PathBuf;
use std::time::Duration;

pub use course::mixed;

use crate::strategies::parse_word;
use crate::units::parse_duration;

/// Loads lb with traffic of every kind while its origins restart, and counts what fails.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
HTTP/1.1, HTTP/2 and WebSockets, each in the clear and over TLS, gRPC calls and streams, uploads and
downloads, at the same time. One origin after the other is taken out of the configuration, ended with
what it has under way, started again and put back; others, which get nothing but GETs, are killed. The
exit status is 1 if a single request fails.

Examples:
  loadgen mixed --engines uring,epoll
  loadgen mixed -d 60s --every 2s --out try")]
pub struct Args {
    /// How long the load lasts, for each engine
    #[arg(short, long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    pub duration: Duration,
    /// Time between the end of one restart and the next
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    pub every: Duration,
    /// Engines of lb, one after the other
    #[arg(
        long,
        value_name = "NAMES",
        default_value = "uring",
        value_delimiter = ','
    )]
    #[arg(value_parser = parse_word)]
    pub engines: Vec<String>,
    /// Part of the usual rates, which are some 1,500 requests a second, for machines that are busy
    /// with something else; at least 0.1, or WebSockets outlive the time that lb leaves to them
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = parse_pace)]
    pub pace: f64,
    /// Where to write the report [default: results/DATE-MACHINE-mixed]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Our own program [default: lb beside this one]
    #[arg(long, value_name = "PATH")]
    pub lb: Option<PathBuf>,
}

fn parse_pace(text: &str) -> Result<f64, String> {
    let pace: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (0.1..=10.0).contains(&pace) {
        Ok(pace)
    } else {
        Err(format!("`{text}` is not between 0.1 and 10"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_neither_too_slow_nor_too_fast() {
        assert_eq!(parse_pace("0.5"), Ok(0.5));
        for bad in ["0", "0.05", "-1", "11", "x", "NaN"] {
            assert!(parse_pace(bad).unwrap_err().contains(bad));
        }
    }
}

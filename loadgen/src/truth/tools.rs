//! Other load generators before the same scripted server: do they measure what we measure?
//!
//! Invariant: a tool that is not installed is named; what a tool does not tell is absent.
//! Read next: `mod.rs`.

use std::process::Command;

use super::Figures;
use super::script::Script;

/// A load generator of somebody else's, in a closed loop over HTTP/1.1.
#[derive(Debug)]
pub(super) struct Tool {
    pub(super) name: &'static str,
    arguments: fn(connections: usize, seconds: u64) -> Vec<String>,
    parse: fn(&str) -> Figures,
}

pub(super) const TOOLS: [Tool; 3] = [
    Tool {
        name: "wrk",
        arguments: |connections, seconds| {
            words(&format!("-t 1 -c {connections} -d {seconds}s --latency"))
        },
        parse: wrk,
    },
    Tool {
        name: "h2load",
        arguments: |connections, seconds| {
            words(&format!("--h1 -t 1 -c {connections} -D {seconds}"))
        },
        parse: h2load,
    },
    Tool {
        name: "oha",
        arguments: |connections, seconds| {
            words(&format!("-c {connections} -z {seconds}s --no-tui"))
        },
        parse: oha,
    },
];

impl Tool {
    /// What it finds at `url`.
    ///
    /// # Errors
    /// When it is not installed or does not get through, in words.
    pub(super) fn run(&self, script: &Script, url: &str) -> Result<Figures, String> {
        let arguments = (self.arguments)(script.closed_connections, script.duration.as_secs());
        let output = Command::new(self.name).args(arguments).arg(url).output();
        let output = output.map_err(|error| format!("{}: {error}", self.name))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let figures = (self.parse)(&said);
        if !output.status.success() || figures.rate_per_s.is_none() {
            let reason = String::from_utf8_lossy(&output.stderr);
            let reason = reason.lines().last().unwrap_or("it does not tell a rate");
            return Err(format!("{}: {}, {reason}", self.name, output.status));
        }
        Ok(figures)
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// `Latency Distribution`, lines as `50%   10.06ms`, and `Requests/sec:    416.24`.
fn wrk(said: &str) -> Figures {
    Figures {
        rate_per_s: number_after(said, "Requests/sec:"),
        mean_us: after(said, "Latency ").and_then(micros),
        percentiles_us: percentiles(said, "%"),
    }
}

/// `finished in 5.01s, 413.20 req/s, …` and `time for request:  min  max  mean  sd  +/- sd`.
fn h2load(said: &str) -> Figures {
    let rate = after(said, "finished in ").and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let mean = after(said, "time for request:");
    let mean = mean
        .or_else(|| after(said, "request     :"))
        .and_then(|line| micros(line.split_whitespace().nth(2)?));
    Figures {
        rate_per_s: rate,
        mean_us: mean,
        percentiles_us: Vec::new(),
    }
}

/// `Requests/sec: 413.2`, `Average: 24.1 ms`, lines as `50.00% in 10.1 ms`.
fn oha(said: &str) -> Figures {
    Figures {
        rate_per_s: number_after(said, "Requests/sec:"),
        mean_us: after(said, "Average:").and_then(micros),
        percentiles_us: percentiles(said, "% in"),
    }
}

/// Lines that begin with a percentage: the part, and microseconds.
fn percentiles(said: &str, sign: &str) -> Vec<(f64, f64)> {
    let of = |line: &str| {
        let (percent, time) = line.trim().split_once(sign)?;
        Some((percent.trim().parse::<f64>().ok()? / 100.0, micros(time)?))
    };
    said.lines().filter_map(of).collect()
}

/// The rest of the first line that begins with `label`.
fn after<'a>(said: &'a str, label: &str) -> Option<&'a str> {
    said.lines()
        .find_map(|line| line.trim().strip_prefix(label))
}

fn number_after(said: &str, label: &str) -> Option<f64> {
    after(said, label)?.split_whitespace().next()?.parse().ok()
}

/// `10.06ms …`, `24.1 ms`, `0.0241 sec`: microseconds.
fn micros(text: &str) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(end);
    let factor = match unit.split_whitespace().next()? {
        "us" | "µs" => 1.0,
        "ms" => 1e3,
        "s" | "sec" | "secs" => 1e6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_understood() {
        let said = "Running 5s test @ http://127.0.0.1:1/\n  1 threads and 10 connections\n  \
            Thread Stats   Avg      Stdev     Max   +/- Stdev\n    \
            Latency    24.10ms   41.90ms 200.21ms   95.00%\n    \
            Req/Sec   417.22     33.00   510.00     70.00%\n  Latency Distribution\n     \
            50%   10.06ms\n     75%   10.09ms\n     90%   40.11ms\n     99%  200.13ms\n  \
            2087 requests in 5.01s, 91.71KB read\nRequests/sec:    416.24\n\
            Transfer/sec:     18.29KB\n";
        let found = wrk(said);
        assert_eq!(
            (found.rate_per_s, found.mean_us),
            (Some(416.24), Some(24_100.0))
        );
        let p90 = found.percentiles_us.iter().find(|(part, _)| *part == 0.9);
        assert_eq!(p90, Some(&(0.9, 40_110.0)));
    }

    #[test]
    fn what_h2load_says_is_understood() {
        let said = "finished in 5.01s, 413.20 req/s, 18.16KB/s\n\
            requests: 2066 total, 2076 started, 2066 done\n\
            \x20                    min         max         mean         sd        +/- sd\n\
            time for request:    10.03ms    200.22ms     24.12ms     41.97ms    95.01%\n";
        let found = h2load(said);
        assert_eq!(
            (found.rate_per_s, found.mean_us),
            (Some(413.2), Some(24_120.0))
        );
    }

    #[test]
    fn what_oha_says_is_understood() {
        let said = "Summary:\n  Success rate:\t100.00%\n  Total:\t5.0012 sec\n  \
            Average:\t24.1234 ms\n  Requests/sec:\t413.2001\n\n\
            Response time distribution:\n  50.00% in 10.0912 ms\n  99.00% in 0.2001 sec\n";
        let found = oha(said);
        assert_eq!(
            (found.rate_per_s, found.mean_us),
            (Some(413.2001), Some(24_123.4))
        );
        assert_eq!(found.percentiles_us, [(0.5, 10_091.2), (0.99, 200_100.0)]);
    }

    #[test]
    fn a_tool_that_is_not_there_is_named() {
        let tool = Tool {
            name: "no-such-load-generator",
            ..TOOLS[0]
        };
        let error = tool.run(&super::super::script::SERVICES, "http://127.0.0.1:1/");
        assert!(error.unwrap_err().contains("no-such-load-generator"));
    }
}

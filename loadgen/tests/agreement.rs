//! `loadgen run` beside wrk and h2load, before one server whose service time is known.
//!
//! Invariant: bounds are loose, as a test is no benchmark: no tool can be faster than the server,
//! and none is expected to reach more than a tenth of it. `loadgen truth --tools` has the figures.
#![allow(clippy::unwrap_used, reason = "a test program")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use loadgen::run::Summary;

const LOADGEN: &str = env!("CARGO_BIN_EXE_loadgen");

/// Of each answer.
const SERVICE_S: f64 = 0.05;
const CONNECTIONS: f64 = 10.0;
const SECONDS: f64 = 2.0;

struct Origin(Child);

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An origin that takes its time, and its URL.
fn origin() -> (Origin, String) {
    let mut child = Command::new(LOADGEN)
        .args(["origin", "--http", "127.0.0.1:0", "--delay", "fixed:50ms"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    said.read_line(&mut ready).unwrap();
    let address = ready.split("http=").nth(1).unwrap().trim().to_owned();
    (Origin(child), format!("http://{address}/"))
}

/// What `words` print; `None` when the program is not installed, which is a failure where
/// `LB_REQUIRE_PEERS=1`.
fn said_by(words: &[&str]) -> Option<String> {
    match Command::new(words[0]).args(&words[1..]).output() {
        Ok(output) => {
            assert!(output.status.success(), "{words:?}: {output:?}");
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(error) => {
            let required = std::env::var_os("LB_REQUIRE_PEERS").is_some_and(|value| value == "1");
            assert!(!required, "{}: {error}", words[0]);
            eprintln!("skipped: {}: {error}", words[0]);
            None
        }
    }
}

/// The number after, or before, `words` in what was said.
fn number(said: &str, before: &str, after: &str) -> f64 {
    let (_, rest) = said.split_once(before).unwrap_or_else(|| panic!("{said}"));
    let (number, _) = rest.split_once(after).unwrap_or_else(|| panic!("{said}"));
    let number = number.trim().rsplit(' ').next().unwrap_or_default();
    number
        .parse()
        .unwrap_or_else(|_| panic!("{number} in {said}"))
}

/// Requests that a window may hold beyond those that began and ended in it.
fn assert_plausible(who: &str, rate_per_s: f64) {
    let possible = CONNECTIONS / SERVICE_S + CONNECTIONS / SECONDS;
    let range = possible / 10.0..=possible * 1.05;
    assert!(
        range.contains(&rate_per_s),
        "{who}: {rate_per_s} in {range:?}"
    );
}

#[test]
fn no_tool_finds_the_server_faster_than_it_is() {
    let (_origin, url) = origin();
    let own = said_by(&[
        LOADGEN, "run", &url, "-c", "10", "-d", "2s", "--json", "-", "--strict",
    ]);
    let own: Summary = serde_json::from_str(&own.unwrap()).unwrap();
    assert_plausible("loadgen", own.rate_per_s);
    assert!(own.latency_us.min >= SERVICE_S * 1e6 * 0.999, "{own}");

    if let Some(said) = said_by(&["wrk", "-t", "1", "-c", "10", "-d", "2s", &url]) {
        assert_plausible("wrk", number(&said, "Requests/sec:", "\n"));
    }
    if let Some(said) = said_by(&["h2load", "--h1", "-t", "1", "-c", "10", "-D", "2", &url]) {
        assert_plausible("h2load", number(&said, "finished in", " req/s"));
    }
}

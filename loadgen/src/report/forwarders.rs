//! The A/B between runtimes, as `bench`'s `forwarder-ab --json` writes it.
//!
//! Invariant: the n-th entries of all lists come from the same round, so they form pairs.
//! `verdict` judges it, `charts` draws it.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Error;

/// The name under which a report's folder may hold one.
pub const FILE_NAME: &str = "forwarders.json";

/// The same small TCP forwarder on several runtimes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Forwarders {
    /// Rounds of each.
    pub rounds: usize,
    /// Connections under load.
    pub connections: usize,
    /// The length of a message.
    pub message_bytes: usize,
    /// Where it ran, as its own program described it.
    #[serde(default)]
    pub machine: serde_json::Value,
    /// One entry a runtime.
    pub forwarders: Vec<Forwarder>,
}

/// One runtime.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Forwarder {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The ring's flags, or other settings.
    #[serde(default)]
    pub flags: String,
    /// CPU time for a message, in microseconds, by round.
    pub cpu_us_per_message: Vec<f64>,
    /// Messages a second, by round.
    pub messages_per_s: Vec<f64>,
    /// User memory that an idle connection adds, in bytes.
    #[serde(default)]
    pub idle_bytes_per_connection: Option<f64>,
}

impl Forwarders {
    /// Reads what `forwarder-ab --json` wrote.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
        serde_json::from_str(&text).map_err(|e| Error::json(path, e))
    }

    /// Those whose name begins with `prefix`.
    pub fn named<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Forwarder> {
        self.forwarders
            .iter()
            .filter(move |forwarder| forwarder.name.starts_with(prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_bench_writes() {
        let text = r#"{"rounds": 1, "connections": 64, "message_bytes": 64, "machine": {"cpu": "x"},
            "forwarders": [{"name": "lb-uring", "version": "0.1.0", "flags": "DEFER_TASKRUN",
            "cpu_us_per_message": [5.0], "messages_per_s": [1e5],
            "idle_bytes_per_connection": null}]}"#;
        let forwarders: Forwarders = serde_json::from_str(text).unwrap();
        assert_eq!(forwarders.named("lb-").count(), 1);
        assert_eq!(forwarders.named("tokio").count(), 0);
    }
}

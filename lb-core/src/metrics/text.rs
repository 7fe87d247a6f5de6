//! The Prometheus text exposition format, version 0.0.4, as far as it is needed here.
//!
//! Invariant: a family's `# HELP` and `# TYPE` stand once, before all of its samples: the borrow
//! of [`Family`] ends before the next family begins.
//! Read next: `report.rs` (the families).

use std::fmt::{Display, Write};

use super::Histogram;

/// What a family measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; the name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, a sum and a count.
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A page of metrics being written.
#[derive(Debug, Default)]
pub struct Text {
    page: String,
}

impl Text {
    /// Value of the Content-Type header that goes with the page.
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins the family `name`; `help` is one line in plain words.
    pub fn family<'a>(&'a mut self, name: &'a str, kind: Kind, help: &str) -> Family<'a> {
        debug_assert!(is_metric_name(name), "{name:?} is no metric name");
        debug_assert!(
            (kind == Kind::Counter) == name.ends_with("_total"),
            "{name}"
        );
        self.put(format_args!(
            "# HELP {name} {}\n",
            Escaped {
                text: help,
                quotes: false
            }
        ));
        self.put(format_args!("# TYPE {name} {}\n", kind.name()));
        Family { text: self, name }
    }

    /// The page.
    pub fn finish(self) -> String {
        self.page
    }

    fn put(&mut self, part: std::fmt::Arguments<'_>) {
        self.page
            .write_fmt(part)
            .expect("writing to a String does not fail");
    }
}

/// The samples of one family.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut Text,
    name: &'a str,
}

impl Family<'_> {
    /// Writes one sample. `labels` tell it from the others of the family.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, None, value);
    }

    /// Writes the sum of `shards` as one histogram in seconds.
    pub fn histogram<'h>(
        &mut self,
        labels: &[(&str, &str)],
        shards: impl Iterator<Item = &'h Histogram>,
    ) {
        let mut buckets = [0; Histogram::BUCKETS];
        let mut sum_nanos = 0;
        for shard in shards {
            sum_nanos += shard.sum_nanos.get();
            for (bucket, counter) in buckets.iter_mut().zip(&shard.buckets) {
                *bucket += counter.get();
            }
        }
        let mut count: u64 = 0;
        for (index, bucket) in buckets.iter().enumerate() {
            count += bucket;
            let bound = match index {
                Histogram::BOUNDED => String::from("+Inf"),
                _ => Histogram::bound_seconds(index).to_string(),
            };
            self.line("_bucket", labels, Some(&bound), count);
        }
        self.line("_sum", labels, None, sum_nanos as f64 / 1e9);
        self.line("_count", labels, None, count);
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        bound: Option<&str>,
        value: impl Display,
    ) {
        self.text.put(format_args!("{}{suffix}", self.name));
        let mut before = '{';
        for (label, text) in labels
            .iter()
            .copied()
            .chain(bound.map(|bound| ("le", bound)))
        {
            debug_assert!(is_label_name(label), "{label:?} is no label name");
            self.text.put(format_args!(
                "{before}{label}=\"{}\"",
                Escaped { text, quotes: true }
            ));
            before = ',';
        }
        let after = if before == ',' { "}" } else { "" };
        self.text.put(format_args!("{after} {value}\n"));
    }
}

/// Text with backslash and line feed escaped, and in a label value the double quote too.
struct Escaped<'a> {
    text: &'a str,
    quotes: bool,
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for character in self.text.chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '"' if self.quotes => f.write_str("\\\"")?,
                _ => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

fn is_metric_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':')
        && !name.is_empty()
}

fn is_label_name(name: &str) -> bool {
    is_metric_name(name) && !name.contains(':')
}

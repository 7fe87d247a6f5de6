//! The Prometheus text exposition format, version 0.0.4, as far as it is needed here.
//!
//! Invariant: a family's `# HELP` and `# TYPE` stand once, before all of its samples: the borrow
//! of [`Family`] ends before the next family begins.
//! Read next: `report/` (the families).

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

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{BTreeMap, HashSet};
    use std::time::Duration;

    use super::*;

    /// A page as a scraper reads it: samples by their name and sorted labels.
    #[derive(Debug, Default)]
    pub(in super::super) struct Scraped {
        kinds: BTreeMap<String, String>,
        samples: BTreeMap<String, f64>,
    }

    impl Scraped {
        /// The value of `name{label="value",…}`, labels in alphabetical order.
        pub(in super::super) fn value(&self, series: &str) -> f64 {
            let value = self.samples.get(series);
            *value.unwrap_or_else(|| panic!("no {series} among {:#?}", self.samples.keys()))
        }

        pub(in super::super) fn has(&self, series: &str) -> bool {
            self.samples.contains_key(series)
        }
    }

    /// Reads a page and refuses what `promtool check metrics` would.
    pub(in super::super) fn scrape(page: &str) -> Scraped {
        let mut scraped = Scraped::default();
        let mut family = String::new();
        let mut helped = HashSet::new();
        assert!(
            page.is_empty() || page.ends_with('\n'),
            "the last line is cut off"
        );
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help text");
                assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
                family = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a kind");
                assert_eq!(name, family, "TYPE follows HELP");
                let twice = scraped.kinds.insert(name.to_owned(), kind.to_owned());
                assert_eq!(twice, None, "{line}");
            } else {
                let (name, series, value) = sample(line);
                check_name(&scraped.kinds, &family, &name);
                let twice = scraped.samples.insert(series, value);
                assert_eq!(twice, None, "{line} is there twice");
            }
        }
        scraped
    }

    fn check_name(kinds: &BTreeMap<String, String>, family: &str, name: &str) {
        let suffixes: &[&str] = match kinds[family].as_str() {
            "histogram" => &["_bucket", "_sum", "_count"],
            "counter" => {
                assert!(name.ends_with("_total"), "{name}");
                &[""]
            }
            _ => &[""],
        };
        let suffix = name
            .strip_prefix(family)
            .unwrap_or_else(|| panic!("{name} in {family}"));
        assert!(suffixes.contains(&suffix), "{name} in {family}");
    }

    /// The name, the series and the value of a sample line.
    fn sample(line: &str) -> (String, String, f64) {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let end = line.find(|c| !is_name(c)).expect("a name, then more");
        let (name, mut rest) = line.split_at(end);
        let mut labels = BTreeMap::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            loop {
                let (label, after) = rest.split_once("=\"").expect("a label");
                assert!(is_label_name(label), "{line}");
                let (value, after) = label_value(after);
                assert_eq!(labels.insert(label, value), None, "{line}");
                match after.strip_prefix(',') {
                    Some(next) => rest = next,
                    None => {
                        rest = after.strip_prefix('}').expect("the end of the labels");
                        break;
                    }
                }
            }
        }
        let value = rest.strip_prefix(' ').expect("a space before the value");
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}={value:?}"))
            .collect();
        let series = match labels[..] {
            [] => name.to_owned(),
            _ => format!("{name}{{{}}}", labels.join(",")),
        };
        (name.to_owned(), series, value.parse().expect("a number"))
    }

    /// An escaped label value up to its closing quote, and what follows.
    fn label_value(text: &str) -> (String, &str) {
        let mut value = String::new();
        let mut characters = text.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => return (value, &text[at + 1..]),
                '\\' => value.push(match characters.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, escaped @ ('\\' | '"'))) => escaped,
                    other => panic!("no escape: {other:?}"),
                }),
                '\n' => panic!("a bare line feed"),
                _ => value.push(character),
            }
        }
        panic!("no closing quote")
    }

    #[test]
    fn a_page_reads_as_the_format_says() {
        let mut text = Text::default();
        text.family("lb_a_total", Kind::Counter, "Of a.")
            .sample(&[], 3);
        let mut gauge = text.family("lb_b", Kind::Gauge, "Of b.");
        gauge.sample(&[("x", "1"), ("y", "2")], 0.5);
        gauge.sample(&[("x", "1"), ("y", "3")], 7);
        let expected = "# HELP lb_a_total Of a.\n# TYPE lb_a_total counter\nlb_a_total 3\n\
                        # HELP lb_b Of b.\n# TYPE lb_b gauge\n\
                        lb_b{x=\"1\",y=\"2\"} 0.5\nlb_b{x=\"1\",y=\"3\"} 7\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn what_would_break_a_line_is_escaped() {
        let value = "a\"b\\c\nd{},=é";
        let mut text = Text::default();
        text.family("lb_a", Kind::Gauge, "One\nline \\ \"quoted\".")
            .sample(&[("x", value)], 1);
        let page = text.finish();
        assert!(
            page.starts_with("# HELP lb_a One\\nline \\\\ \"quoted\".\n"),
            "{page}"
        );
        assert!(page.contains("{x=\"a\\\"b\\\\c\\nd{},=é\"} 1\n"), "{page}");
        assert_eq!(scrape(&page).value(&format!("lb_a{{x={value:?}}}")), 1.0);
    }

    #[test]
    fn a_histogram_is_cumulative_over_all_shards() {
        let shards = [Histogram::default(), Histogram::default()];
        shards[0].observe(Duration::from_micros(50));
        shards[0].observe(Duration::from_millis(1));
        shards[1].observe(Duration::from_millis(1));
        shards[1].observe(Duration::from_secs(60));
        let mut text = Text::default();
        text.family("lb_t_seconds", Kind::Histogram, "Time.")
            .histogram(&[("of", "a")], shards.iter());
        let page = scrape(&text.finish());
        let bucket = |bound| page.value(&format!("lb_t_seconds_bucket{{le={bound:?},of=\"a\"}}"));
        let bounds = ["0.0000625", "0.0005", "0.001", "16.384", "+Inf"];
        assert_eq!(bounds.map(bucket), [1.0, 1.0, 3.0, 3.0, 4.0]);
        assert_eq!(page.value("lb_t_seconds_count{of=\"a\"}"), 4.0);
        assert_eq!(page.value("lb_t_seconds_sum{of=\"a\"}"), 60.002_05);
    }

    #[test]
    fn names_have_a_form() {
        assert!(
            ["a", "lb_x9", "a:b"]
                .iter()
                .all(|name| is_metric_name(name))
        );
        assert!(
            !["", "9a", "a-b", "a b", "ä"]
                .iter()
                .any(|name| is_metric_name(name))
        );
        assert!(!is_label_name("a:b"));
    }
}

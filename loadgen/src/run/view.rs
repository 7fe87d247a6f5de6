//! What a terminal shows while a run goes on: a few lines that replace themselves each second.
//!
//! Invariant: making the lines reads no clock and writes nothing, so that it can be tested; every
//! line fits in 78 columns. Read next: `progress.rs`, which shows them.

use super::{Second, View};
use crate::units::{format_micros, group_digits};

/// Seconds that the curves show.
const CURVE_SECONDS: usize = 48;
const CURVE: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Origins that have a line; the others are counted.
const ORIGINS_MAX: usize = 12;
const NAME_CHARS: usize = 24;
const BAR_CHARS: usize = 24;
/// Places of a bar that one character is divided into.
const BAR_PARTS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
const WIDTH: usize = 78;

/// How words are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paint {
    Strong,
    Faint,
    Curve,
    Good,
    Bad,
}

/// The lines, and what they remember of earlier seconds.
#[derive(Debug)]
pub(super) struct Screen {
    title: String,
    seconds: u64,
    is_coloured: bool,
    rates: Vec<f64>,
    p99s: Vec<f64>,
}

impl Screen {
    /// For a run called `title` that measures for so many seconds.
    pub(super) const fn new(title: String, seconds: u64, is_coloured: bool) -> Self {
        Self {
            title,
            seconds,
            is_coloured,
            rates: Vec::new(),
            p99s: Vec::new(),
        }
    }

    /// The lines after one more second.
    pub(super) fn lines(&mut self, view: &View<'_>) -> Vec<String> {
        let Second { t, completed, .. } = *view.second;
        self.rates.push(completed as f64);
        self.p99s.push(view.second.p99_us);
        let mut lines = vec![self.heading(t + 1)];
        let rate = format!("{}/s", group_digits(completed));
        lines.push(self.row("rate", &self.curve(&self.rates), &rate));
        let p99 = format_micros(view.second.p99_us);
        lines.push(self.row("p99", &self.curve(&self.p99s), &p99));
        lines.push(self.row("latency", &percentiles(view), ""));
        lines.push(self.errors(view));
        lines.extend(self.origins(view));
        lines
    }

    fn heading(&self, second: u64) -> String {
        let time = format!("{second}/{} s", self.seconds);
        let room = WIDTH - time.chars().count() - 2;
        let title: String = self.title.chars().take(room).collect();
        let gap = " ".repeat(WIDTH - title.chars().count() - time.chars().count());
        format!("{}{gap}{time}", self.painted(Paint::Strong, &title))
    }

    fn row(&self, label: &str, text: &str, value: &str) -> String {
        let label = self.painted(Paint::Faint, &format!("  {label:<9}"));
        if value.is_empty() {
            return format!("{label}{text}");
        }
        format!("{label}{text}  {}", self.painted(Paint::Strong, value))
    }

    /// The last values, each as high as it is beside the highest of them.
    fn curve(&self, values: &[f64]) -> String {
        let shown = &values[values.len().saturating_sub(CURVE_SECONDS)..];
        let most = shown.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let top = CURVE.len() - 1;
        let point = |value: &f64| CURVE[((value / most * top as f64).round() as usize).min(top)];
        self.painted(Paint::Curve, &shown.iter().map(point).collect::<String>())
    }

    fn errors(&self, view: &View<'_>) -> String {
        let kinds = view.errors.by_kind().into_iter();
        let kinds: Vec<String> = kinds
            .filter(|(_, count)| *count > 0)
            .map(|(kind, count)| format!("{kind} {}", group_digits(count)))
            .collect();
        let text = if kinds.is_empty() {
            self.painted(Paint::Good, "none")
        } else {
            let fits: String = kinds.join(", ").chars().take(WIDTH - 11).collect();
            self.painted(Paint::Bad, &fits)
        };
        self.row("errors", &text, "")
    }

    fn origins(&self, view: &View<'_>) -> Vec<String> {
        let all: u64 = view.origins.values().sum();
        let most = view.origins.values().max().copied().unwrap_or(0).max(1);
        let shown = view.origins.iter().take(ORIGINS_MAX).enumerate();
        let mut lines: Vec<String> = shown
            .map(|(place, (name, count))| {
                let label = if place == 0 { "origins" } else { "" };
                let name: String = name.chars().take(NAME_CHARS).collect();
                let percent = *count as f64 * 100.0 / all.max(1) as f64;
                let bar = bar(*count as f64 / most as f64);
                let text = format!("{name:<NAME_CHARS$} {}", self.painted(Paint::Curve, &bar));
                self.row(label, &text, &format!("{percent:>5.1} %"))
            })
            .collect();
        if let Some(more @ 1..) = view.origins.len().checked_sub(ORIGINS_MAX) {
            lines.push(self.row("", &format!("and {more} more"), ""));
        }
        lines
    }

    fn painted(&self, paint: Paint, text: &str) -> String {
        if !self.is_coloured || text.is_empty() {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Strong => 1,
            Paint::Faint => 2,
            Paint::Curve => 36,
            Paint::Good => 32,
            Paint::Bad => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

fn percentiles(view: &View<'_>) -> String {
    let Second { p50_us, p99_us, .. } = *view.second;
    let [p50, p90, p99, p999] = [p50_us, view.p90_us, p99_us, view.p999_us].map(format_micros);
    format!("p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p999}")
}

/// A part of the whole, to an eighth of a character.
fn bar(share: f64) -> String {
    let parts = (share.clamp(0.0, 1.0) * (BAR_CHARS * BAR_PARTS.len()) as f64).round() as usize;
    let (whole, rest) = (parts / BAR_PARTS.len(), parts % BAR_PARTS.len());
    let mut bar = "█".repeat(whole);
    if rest > 0 {
        bar.push(BAR_PARTS[rest]);
    }
    let missing = BAR_CHARS - bar.chars().count();
    bar + &" ".repeat(missing)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Errors;
    use super::*;

    fn lines(screen: &mut Screen, t: u64, completed: u64, errors: Errors) -> Vec<String> {
        let origins: BTreeMap<String, u64> = (0..14)
            .map(|number| (format!("origin-{number:02}"), 100 + number))
            .collect();
        let second = Second {
            t,
            completed,
            p50_us: 120.0,
            p99_us: 1_500.0,
            ..Second::default()
        };
        screen.lines(&View {
            second: &second,
            p90_us: 300.0,
            p999_us: 2_500_000.0,
            errors: &errors,
            origins: &origins,
        })
    }

    #[test]
    fn rate_percentiles_errors_and_origins_are_to_be_seen() {
        let title = "http://127.0.0.1:8080/ ".repeat(9);
        let mut screen = Screen::new(title, 90, false);
        for t in 0..70 {
            lines(&mut screen, t, t * 100, Errors::default());
        }
        let errors = Errors {
            timeout: 12,
            body: 1,
            ..Errors::default()
        };
        let shown = lines(&mut screen, 70, 141_231, errors);
        let page = shown.join("\n");
        for words in [
            "71/90 s",
            "▁█  141,231/s",
            "p50 120.0µs  p90 300.0µs  p99 1.50ms  p99.9 2.50s",
            "timeout 12, body 1",
            "origin-11",
            "and 2 more",
        ] {
            assert!(page.contains(words), "{words} is missing in {page}");
        }
        let widest = shown.iter().map(|line| line.chars().count()).max();
        assert!(widest <= Some(WIDTH + 2), "{widest:?}: {page}");
        assert!(!page.contains('\x1b'));
    }

    #[test]
    fn colours_are_used_where_they_may_be() {
        let mut screen = Screen::new("tcp://a:1".to_owned(), 9, true);
        let shown = lines(&mut screen, 0, 5, Errors::default()).join("\n");
        assert!(shown.contains("\x1b[32mnone\x1b[0m"), "{shown}");
    }

    #[test]
    fn bars_are_as_long_as_what_they_stand_for() {
        assert_eq!(bar(1.0), "█".repeat(BAR_CHARS));
        assert_eq!(bar(0.5).matches('█').count(), BAR_CHARS / 2);
        assert_eq!(bar(0.0).trim(), "");
        assert_eq!(bar(1.0 / 48.0).trim_end(), "▌");
    }
}

//! What a terminal shows while a run goes on: a few lines that replace themselves each second.
//!
//! Invariant: making the lines reads no clock and writes nothing, so that it can be tested; they
//! fit into the terminal, however small it has become. Read next: `progress.rs`, which shows them.

use super::{Second, View};
use crate::units::{format_micros, group_digits};

const CURVE: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Origins that have a line where there is room; the others are counted.
const ORIGINS_MAX: usize = 24;
const NAME_CHARS: usize = 24;
/// Places of a bar that one character is divided into.
const BAR_PARTS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
/// Columns before what a row is about, and those that the last value of a row takes.
const LABEL_CHARS: usize = 11;
const VALUE_CHARS: usize = 16;
/// Lines besides those of the origins, with one for the cursor.
const OTHER_LINES: usize = 6;
const WIDTH_MAX: usize = 118;

/// Columns and rows of the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

impl Size {
    /// Where nothing is known.
    pub(super) const USUAL: Self = Self {
        columns: 80,
        rows: 24,
    };

    /// Columns to use; a line that ends at the last one makes some terminals begin another.
    const fn width(self) -> usize {
        let width = self.columns.saturating_sub(1);
        if width < WIDTH_MAX { width } else { WIDTH_MAX }
    }

    /// Columns for a curve, with a value after it.
    const fn curve(self) -> usize {
        let taken = LABEL_CHARS + VALUE_CHARS;
        let room = self.width().saturating_sub(taken);
        if room > 4 { room } else { 4 }
    }

    /// Columns for an origin's name.
    const fn name(self) -> usize {
        let room = self.width() / 3;
        if room < NAME_CHARS { room } else { NAME_CHARS }
    }

    /// Columns for an origin's bar, after its name and with a value behind it.
    const fn bar(self) -> usize {
        let taken = LABEL_CHARS + self.name() + VALUE_CHARS;
        let room = self.width().saturating_sub(taken);
        if room > 4 { room } else { 4 }
    }

    /// Lines for origins.
    const fn origins(self) -> usize {
        let room = self.rows.saturating_sub(OTHER_LINES);
        if room < ORIGINS_MAX {
            room
        } else {
            ORIGINS_MAX
        }
    }
}

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
    size: Size,
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
            size: Size::USUAL,
            rates: Vec::new(),
            p99s: Vec::new(),
        }
    }

    /// The lines after one more second, on a terminal of this size.
    pub(super) fn lines(&mut self, view: &View<'_>, size: Size) -> Vec<String> {
        self.size = size;
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
        lines.truncate(size.rows.saturating_sub(1).max(1));
        let width = size.width();
        lines.iter().map(|line| cut(line, width)).collect()
    }

    fn heading(&self, second: u64) -> String {
        let time = format!("{second}/{} s", self.seconds);
        let room = self.size.width().saturating_sub(time.chars().count());
        let title: String = self.title.chars().take(room.saturating_sub(2)).collect();
        let gap = " ".repeat(room.saturating_sub(title.chars().count()));
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
        let shown = &values[values.len().saturating_sub(self.size.curve())..];
        let most = shown.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let top = CURVE.len() - 1;
        let point = |value: &f64| CURVE[((value / most * top as f64).round() as usize).min(top)];
        self.painted(Paint::Curve, &shown.iter().map(point).collect::<String>())
    }

    fn errors(&self, view: &View<'_>) -> String {
        let kinds = view.errors.occurred();
        let kinds: Vec<String> = kinds
            .map(|(kind, count)| format!("{kind} {}", group_digits(count)))
            .collect();
        let text = if kinds.is_empty() {
            self.painted(Paint::Good, "none")
        } else {
            self.painted(Paint::Bad, &kinds.join(", "))
        };
        self.row("errors", &text, "")
    }

    fn origins(&self, view: &View<'_>) -> Vec<String> {
        let all: u64 = view.origins.values().sum();
        let most = view.origins.values().max().copied().unwrap_or(0).max(1);
        let rows = self.size.origins();
        // The last line is for how many more there are.
        let is_all = view.origins.len() <= rows;
        let count = if is_all { rows } else { rows.saturating_sub(1) };
        let shown = view.origins.iter().take(count).enumerate();
        let mut lines: Vec<String> = shown
            .map(|(place, (name, count))| {
                let label = if place == 0 { "origins" } else { "" };
                let room = self.size.name();
                let name: String = name.chars().take(room).collect();
                let percent = *count as f64 * 100.0 / all.max(1) as f64;
                let bar = bar(*count as f64 / most as f64, self.size.bar());
                let text = format!("{name:<room$} {}", self.painted(Paint::Curve, &bar));
                self.row(label, &text, &format!("{percent:>5.1} %"))
            })
            .collect();
        if !is_all {
            let more = view.origins.len() - count;
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

/// The beginning of a line, as far as it fits; what paints it takes no room.
fn cut(line: &str, width: usize) -> String {
    let (mut out, mut taken, mut is_escape) = (String::new(), 0, false);
    for letter in line.chars() {
        if letter == '\x1b' {
            is_escape = true;
        }
        if is_escape {
            is_escape = letter != 'm';
            out.push(letter);
        } else if taken < width {
            taken += 1;
            out.push(letter);
        }
    }
    out
}

/// Columns that a line takes.
pub(super) fn columns(line: &str) -> usize {
    let mut is_escape = false;
    let shown = line.chars().filter(|letter| {
        is_escape |= *letter == '\x1b';
        let is_shown = !is_escape;
        is_escape &= *letter != 'm';
        is_shown
    });
    shown.count()
}

/// A part of the whole, to an eighth of a character.
fn bar(share: f64, room: usize) -> String {
    let parts = (share.clamp(0.0, 1.0) * (room * BAR_PARTS.len()) as f64).round() as usize;
    let (whole, rest) = (parts / BAR_PARTS.len(), parts % BAR_PARTS.len());
    let mut bar = "█".repeat(whole);
    if rest > 0 {
        bar.push(BAR_PARTS[rest]);
    }
    let missing = room - bar.chars().count();
    bar + &" ".repeat(missing)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Errors;
    use super::*;

    fn lines(screen: &mut Screen, t: u64, completed: u64, errors: Errors) -> Vec<String> {
        lines_at(Size::USUAL, screen, t, completed, errors)
    }

    fn lines_at(
        size: Size,
        screen: &mut Screen,
        t: u64,
        completed: u64,
        errors: Errors,
    ) -> Vec<String> {
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
        let view = View {
            second: &second,
            p90_us: 300.0,
            p999_us: 2_500_000.0,
            errors: &errors,
            origins: &origins,
        };
        screen.lines(&view, size)
    }

    #[test]
    fn lines_fit_into_terminals_of_any_size() {
        let mut screen = Screen::new("http://127.0.0.1:8080/ ".repeat(9), 90, true);
        let errors = Errors {
            timeout: 1_000_000,
            reset: 1_000_000,
            status_non_2xx: 1_000_000,
            ..Errors::default()
        };
        for t in 0..200 {
            lines(&mut screen, t, t * 100, errors);
        }
        for (columns_of, rows) in [
            (120, 40),
            (80, 24),
            (80, 8),
            (40, 10),
            (10, 3),
            (1, 1),
            (0, 0),
        ] {
            let size = Size {
                columns: columns_of,
                rows,
            };
            let shown = lines_at(size, &mut screen, 200, 141_231, errors);
            let widest = shown.iter().map(|line| columns(line)).max().unwrap();
            assert!(
                widest <= columns_of.saturating_sub(1),
                "{size:?}: {shown:?}"
            );
            assert!(shown.len() < rows.max(2), "{size:?}: {shown:?}");
            let page = shown.join("\n");
            assert_eq!(page.contains("origin-13"), rows >= 24, "{page}");
            assert_eq!(page.contains("more"), (8..24).contains(&rows), "{page}");
        }
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
            "origin-13",
        ] {
            assert!(page.contains(words), "{words} is missing in {page}");
        }
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
        assert_eq!(bar(1.0, 24), "█".repeat(24));
        assert_eq!(bar(0.5, 24).matches('█').count(), 12);
        assert_eq!(bar(0.0, 24).trim(), "");
        assert_eq!(bar(1.0 / 48.0, 24).trim_end(), "▌");
    }
}

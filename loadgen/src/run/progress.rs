//! What a person sees of a run: each second while it goes on, and the result in words.
//!
//! Invariant: on a terminal the lines replace themselves; anywhere else there is one a second.
//! Read next: `view.rs` (what a terminal shows), `summary.rs`.

use std::env;
use std::fmt;
use std::io::{self, IsTerminal, Write};

use super::view::{Screen, Size, columns};
use super::{Config, LoadMode, LoadPhase, Observer, Summary, View};
use crate::units::{format_bytes, format_micros, group_digits};

/// Prints progress to standard error.
#[derive(Debug)]
pub struct Progress {
    seconds: u64,
    /// What a terminal shows; `None` where lines follow each other.
    screen: Option<Screen>,
    /// Columns of each line on the terminal that the next ones replace.
    shown: Vec<usize>,
}

impl Progress {
    /// For a run.
    pub fn new(config: &Config) -> Self {
        let seconds = config.duration.as_secs_f64().ceil() as u64;
        // A terminal that cannot move its cursor says so.
        let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        let is_terminal = io::stderr().is_terminal() && !is_dumb;
        // https://no-color.org
        let is_coloured = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let title = format!(
            "{} · {} · {} connections",
            config.url.text,
            mode_words(config.mode),
            config.connections
        );
        Self {
            seconds,
            screen: is_terminal.then(|| Screen::new(title, seconds, is_coloured)),
            shown: Vec::new(),
        }
    }

    /// Shows `lines` in place of the last ones.
    fn replace(&mut self, lines: &[String]) {
        let mut text = String::new();
        // A terminal that has become narrower shows a line on several rows.
        let width = size().columns.max(1);
        let rows: usize = self
            .shown
            .iter()
            .map(|line| line.div_ceil(width).max(1))
            .sum();
        if rows > 0 {
            text = format!("\x1b[{rows}A\r\x1b[J");
        }
        for line in lines {
            text += line;
            text.push('\n');
        }
        self.shown = lines.iter().map(|line| columns(line)).collect();
        // Nobody reads it any more: no reason to end the run.
        let _ = io::stderr().write_all(text.as_bytes());
        let _ = io::stderr().flush();
    }
}

impl Observer for Progress {
    fn on_phase(&mut self, phase: LoadPhase) {
        if self.screen.is_none() {
            return;
        }
        match phase {
            LoadPhase::Connecting => self.replace(&["connecting …".to_owned()]),
            LoadPhase::WarmUp => self.replace(&["warming up …".to_owned()]),
            LoadPhase::Ended => self.replace(&[]),
            LoadPhase::Measuring => {}
        }
    }

    fn on_view(&mut self, view: &View<'_>) {
        let Some(screen) = &mut self.screen else {
            let second = view.second;
            let _ = writeln!(
                io::stderr(),
                "{:>3}/{} s  {:>9}/s  p50 {}  p99 {}  errors {}",
                second.t + 1,
                self.seconds,
                group_digits(second.completed),
                format_micros(second.p50_us),
                format_micros(second.p99_us),
                group_digits(second.errors),
            );
            return;
        };
        let lines = screen.lines(view, size());
        self.replace(&lines);
    }
}

/// Of the terminal that standard error is.
fn size() -> Size {
    let known = rustix::termios::tcgetwinsize(io::stderr()).ok();
    let known = known.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    known.map_or(Size::USUAL, |size| Size {
        columns: size.ws_col.into(),
        rows: size.ws_row.into(),
    })
}

fn mode_words(mode: LoadMode) -> String {
    match mode {
        LoadMode::Closed => "closed loop".to_owned(),
        LoadMode::Open { rate_per_s } => format!("{rate_per_s} requests/s"),
        LoadMode::Poisson { rate_per_s } => format!("{rate_per_s} requests/s at random"),
        LoadMode::Ramp {
            from_per_s,
            to_per_s,
        } => format!("from {from_per_s} to {to_per_s} requests/s"),
        LoadMode::Steps {
            from_per_s,
            to_per_s,
            steps,
        } => format!("from {from_per_s} to {to_per_s} requests/s in {steps} steps"),
        LoadMode::Replay { speed } => format!("a log, {speed} times as fast"),
    }
}

/// The whole result, for a person.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = mode_words(self.mode);
        let each = if self.new_connections {
            ", a new one for each request"
        } else {
            ""
        };
        writeln!(
            f,
            "{}: {mode}, {} connections{each}, {:.1} s, {} thread{} on {}",
            self.url,
            self.connections,
            self.duration_s,
            self.threads,
            if self.threads == 1 { "" } else { "s" },
            self.engine,
        )?;
        writeln!(
            f,
            "  completed   {}, {}/s, {}/s received",
            group_digits(self.completed),
            group_digits(self.rate_per_s.round() as u64),
            format_bytes(self.bytes_received as f64 / self.duration_s.max(1e-9)),
        )?;
        if self.is_partial {
            writeln!(
                f,
                "  PARTIAL     interrupted; this is what was measured until then"
            )?;
        }
        self.write_latency(f)?;
        self.write_failures(f)?;
        self.write_datagrams(f)?;
        self.write_origins(f)?;
        for (name, kind) in &self.per_kind {
            let (completed, failed) = (group_digits(kind.completed), group_digits(kind.failed));
            writeln!(f, "  {name:<11} completed {completed}, failed {failed}")?;
        }
        let health = &self.generator;
        let lag = health.max_send_lag_us.max(health.max_timer_lag_us);
        writeln!(
            f,
            "  generator   {:.0} % of a core; its cores {:.0} % busy, {:.1} % stolen; timers up to {} late",
            health.cpu_fraction * 100.0,
            health.core_busy_fraction * 100.0,
            health.steal_fraction * 100.0,
            format_micros(lag),
        )?;
        if health.saturated {
            writeln!(
                f,
                "  SATURATED   the generator was the bottleneck: {}",
                health.reason
            )?;
        }
        Ok(())
    }
}

impl Summary {
    fn write_latency(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [min, p50, p90, p99, p999, max, mean] = self.latency_us.all().map(format_micros);
        writeln!(f, "  latency     min {min}  mean {mean}  max {max}")?;
        writeln!(
            f,
            "              p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p999}"
        )
    }

    fn write_failures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<String> = self
            .errors
            .occurred()
            .map(|(kind, count)| format!("{kind} {}", group_digits(count)))
            .collect();
        match kinds.len() {
            0 => writeln!(f, "  errors      none")?,
            _ => writeln!(f, "  errors      {}", kinds.join(", "))?,
        }
        if self.unanswered > 0 {
            let count = group_digits(self.unanswered);
            writeln!(
                f,
                "  unanswered  {count} requests were due and never got an answer"
            )?;
        }
        if self.reconnects > 0 && !self.new_connections {
            writeln!(f, "  reconnects  {}", group_digits(self.reconnects))?;
        }
        if let Some(idle) = self.idle {
            let (held, lost) = (group_digits(idle.held), group_digits(idle.lost));
            writeln!(f, "  idle        {held} connections held, {lost} lost")?;
        }
        if let Some(handshakes) = self.handshakes.filter(|_| self.reconnects > 0) {
            let per_second = |count: u64| count as f64 / self.duration_s.max(1e-9);
            writeln!(
                f,
                "  handshakes  {} full, {}/s; {} resumed, {}/s",
                group_digits(handshakes.full),
                group_digits(per_second(handshakes.full).round() as u64),
                group_digits(handshakes.resumed),
                group_digits(per_second(handshakes.resumed).round() as u64),
            )?;
        }
        Ok(())
    }

    fn write_datagrams(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(datagrams) = &self.datagrams else {
            return Ok(());
        };
        let counts = [
            ("sent", datagrams.sent),
            ("lost", datagrams.lost),
            ("duplicated", datagrams.duplicated),
            ("reordered", datagrams.reordered),
            ("late", datagrams.late),
            ("corrupted", datagrams.corrupted),
        ];
        let counts = counts.map(|(what, count)| format!("{what} {}", group_digits(count)));
        writeln!(f, "  datagrams   {}", counts.join(", "))
    }

    fn write_origins(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers: u64 = self.per_origin.values().sum();
        for (place, (name, count)) in self.per_origin.iter().enumerate() {
            let label = if place == 0 { "origins" } else { "" };
            let percent = *count as f64 * 100.0 / answers as f64;
            writeln!(
                f,
                "  {label:<11} {name}  {}  {percent:.1} %",
                group_digits(*count)
            )?;
        }
        if let Some(balance) = &self.balance {
            writeln!(
                f,
                "              max/mean {:.3}, χ² {:.1} with {} degrees of freedom",
                balance.max_over_mean, balance.chi_square, balance.degrees_of_freedom
            )?;
        }
        if let Some(affinity) = &self.affinity {
            writeln!(
                f,
                "  affinity    {} clients; {} answers from the origin before, {} from another",
                group_digits(affinity.clients),
                group_digits(affinity.kept),
                group_digits(affinity.broken)
            )?;
        }
        Ok(())
    }
}

//! `summary.md` and `README.md` of a report on faults.
//!
//! Invariant: every event has its line, whatever it cost.

use std::fmt::Write as _;

use super::super::numbers;
use super::super::record::{Outcome, PARTIAL};
use super::chart::Timeline;
use super::record::{Faults, Figures, Run};

/// `summary.md`.
pub(super) fn render(faults: &Faults, charts: &[Timeline]) -> String {
    let machine = &faults.machine;
    let mut page = format!(
        "# Faults under load\n\n{} · {}, {} cores, Linux {} · {} · {} origins. \
         [How it was measured](README.md) · [every second](raw.json)\n\n",
        faults.started,
        machine.cpu,
        machine.cores,
        machine.kernel,
        faults.balancer_version,
        faults.origins,
    );
    if faults.is_partial {
        page += PARTIAL;
    }
    for run in &faults.runs {
        page += &section(faults, run);
        let own = charts.iter().filter(|chart| chart.is_of(run));
        for chart in own {
            let _ = writeln!(page, "![{}]({})\n", chart.title, chart.file);
        }
    }
    page
}

fn section(faults: &Faults, run: &Run) -> String {
    let mut text = format!("## {}, {}, {}\n\n", run.balance, run.mode, run.engine);
    let figures = match &run.outcome {
        Outcome::Measured(figures) => figures,
        Outcome::Failed(reason) => return text + &format!("Failed: {reason}\n\n"),
    };
    text += &totals(figures);
    let _ = write!(
        text,
        "| from | event | answered | failed | slower than {:.0} ms | worst second's p99 \
         | disturbed for |\n| ---: | --- | ---: | ---: | ---: | ---: | ---: |\n",
        faults.delayed_after_ms
    );
    let starts = std::iter::once(0).chain(faults.events.iter().map(|event| event.at_s));
    for (at, (what, cost)) in starts.zip(faults.costs(&figures.timeline)) {
        let disturbed = match cost.disturbed_s {
            0 => "–".to_owned(),
            seconds => format!("{seconds} s"),
        };
        let _ = writeln!(
            text,
            "| {at} s | {what} | {} | {} | {} | {} | {disturbed} |",
            cost.completed,
            cost.failed,
            cost.delayed,
            numbers::microseconds(cost.p99_us),
        );
    }
    text + "\n"
}

fn totals(figures: &Figures) -> String {
    let kinds = figures.errors.iter();
    let mut kinds: Vec<String> = kinds.map(|(kind, n)| format!("{n} × {kind}")).collect();
    if figures.unanswered > 0 {
        kinds.push(format!("{} × unanswered", figures.unanswered));
    }
    let failed = match kinds.len() {
        0 => "none failed".to_owned(),
        _ => format!("{} failed ({})", figures.failed(), kinds.join(", ")),
    };
    let generator = if figures.generator.saturated {
        format!(
            " The generator was the bottleneck: {}.",
            figures.generator.reason
        )
    } else {
        String::new()
    };
    format!(
        "{} requests were answered, {failed}; {} µs of CPU for each.{generator}\n\n",
        numbers::plain(figures.completed as f64),
        numbers::plain(figures.cpu_us),
    )
}

/// `README.md`.
pub(super) fn readme(faults: &Faults) -> String {
    let settings = &faults.settings;
    let mut page = format!(
        "# Faults under load, {}\n\n[Summary](summary.md) · [raw figures](raw.json)\n\n\
         ## How it was measured\n\n\
         - `lb` ({}) with one worker on core {}; generator and {} origins, each a process, share \
         core {}.\n{METHOD}\n## Command\n\n```sh\n{}\n```\n\nIts load:\n\n```sh\n{}\n```\n\n\
         ## Events\n\n",
        faults.started.split('T').next().unwrap_or_default(),
        faults.balancer_version,
        settings.balancer_cpu,
        faults.origins,
        settings.generator_cpu,
        faults.command,
        faults.load_command,
    );
    for event in &faults.events {
        let _ = writeln!(page, "- {} s: {}", event.at_s, event.what);
    }
    page += "\n## Configurations\n\n";
    for run in &faults.runs {
        let _ = writeln!(
            page,
            "{}, {}, {}:\n\n```yaml\n{}```\n",
            run.balance, run.mode, run.engine, run.configuration
        );
    }
    page
}

const METHOD: &str = "\
- The load is an open loop: requests are due at a fixed rate whatever the answers do, and latency
  counts from the moment at which one was due.
- An event's line covers the seconds from it to the next one. A request fails when its time limit
  is over, so some failures stand a second later than their cause.
- kill is SIGKILL, stop is SIGSTOP (the kernel goes on accepting for the origin, so a health check
  by TCP does not see it, one by HTTP does), slow makes each
  answer take longer, remove and add change the configuration, bad-config writes one that cannot be
  read and then the old one again.
- **Disturbed for** is the time until the end of the last second, before the next event, in which
  a request failed or was late.
";

#[cfg(test)]
mod tests {
    use super::super::super::record::Latency;
    use super::super::record::Event;
    use super::*;
    use crate::report::sample;
    use crate::run::{GeneratorHealth, Second};

    fn faults() -> Faults {
        let record = sample::record();
        let mut faults = Faults::new(
            record.started,
            "loadgen faults".to_owned(),
            record.machine,
            record.settings,
            "lb 0.1.0".to_owned(),
            4,
        );
        faults.delayed_after_ms = 100.0;
        for (at_s, what) in [(2, "kill o-1"), (4, "restart o-1")] {
            let what = what.to_owned();
            faults.events.push(Event { at_s, what });
        }
        let second = |t, errors, delayed| Second {
            t,
            completed: 100 - errors,
            errors,
            delayed,
            p50_us: 200.0,
            p99_us: 1000.0 * (1 + t) as f64,
        };
        let timeline = vec![
            second(0, 0, 0),
            second(1, 0, 0),
            second(2, 3, 7),
            second(3, 0, 1),
            second(4, 0, 0),
        ];
        let figures = Figures {
            completed: 497,
            errors: [("reset".to_owned(), 3)].into(),
            unanswered: 0,
            latency: Latency {
                p50_us: 200.0,
                p99_us: 3000.0,
                p999_us: 4000.0,
                max_us: 5000.0,
            },
            cpu_us: 20.0,
            timeline,
            generator: GeneratorHealth::default(),
        };
        for (balance, outcome) in [
            ("rr", Outcome::Measured(figures)),
            ("lc", Outcome::Failed("refused".to_owned())),
        ] {
            faults.runs.push(Run {
                mode: "http".to_owned(),
                engine: "uring".to_owned(),
                balance: balance.to_owned(),
                configuration: "listeners:\n".to_owned(),
                outcome,
            });
        }
        faults
    }

    #[test]
    fn each_event_has_its_line_with_what_it_cost() {
        let page = render(&faults(), &[]);
        for words in [
            "497 requests were answered, 3 failed (3 × reset); 20.0 µs of CPU for each.",
            "| 0 s | nothing yet | 200 | 0 | 0 | 2.00 ms | – |",
            "| 2 s | kill o-1 | 197 | 3 | 8 | 4.00 ms | 2 s |",
            "| 4 s | restart o-1 | 100 | 0 | 0 | 5.00 ms | – |",
            "Failed: refused",
        ] {
            assert!(page.contains(words), "{words} is missing in {page}");
        }
        let readme = readme(&faults());
        assert!(readme.contains("- 2 s: kill o-1") && readme.contains("```yaml\nlisteners:"));
    }

    #[test]
    fn a_record_reads_back_and_its_report_is_drawn_again() {
        let folder = std::env::temp_dir().join(format!("faults-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        faults().write(&folder).unwrap();
        let args = crate::report::Args {
            folder: folder.clone(),
            forwarders: None,
            before: None,
        };
        crate::report::report(&args).unwrap();
        let page = std::fs::read_to_string(folder.join("summary.md")).unwrap();
        let svg = std::fs::read_to_string(folder.join("timeline-rr-http-uring.svg")).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(page.contains("](timeline-rr-http-uring.svg)"), "{page}");
        for words in ["kill o-1", "answered per second", "failed"] {
            assert!(svg.contains(words), "{words} is missing in {svg}");
        }
    }
}

//! The chart of each run: answers over time, with a mark at each fault.
//!
//! Read next: `../timeline.rs`, which draws them.

use std::path::Path;

use super::super::Error;
use super::super::record::Outcome;
use super::super::timeline;
use super::record::{Faults, Run};

/// A drawn chart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Timeline {
    /// What it shows.
    pub(super) title: String,
    /// Its file in the report's folder.
    pub(super) file: String,
}

impl Timeline {
    fn new(run: &Run) -> Self {
        let words = [&*run.balance, &*run.mode, &*run.engine];
        Self {
            title: format!("Answers over time: {}", words.join(", ")),
            file: format!("timeline-{}.svg", words.join("-")),
        }
    }

    /// Whether it is the chart of `run`.
    pub(super) fn is_of(&self, run: &Run) -> bool {
        *self == Self::new(run)
    }
}

/// Draws a chart for each run that went through.
pub(super) fn draw(faults: &Faults, folder: &Path) -> Result<Vec<Timeline>, Error> {
    let mut drawn = Vec::new();
    for run in &faults.runs {
        let Outcome::Measured(figures) = &run.outcome else {
            continue;
        };
        let chart = Timeline::new(run);
        let path = folder.join(&chart.file);
        timeline::draw(&path, &chart.title, &faults.events, &figures.timeline)?;
        drawn.push(chart);
    }
    Ok(drawn)
}

//! The report on faults: texts and charts from the record of `loadgen faults`.
//!
//! Invariant: a function of `raw.json` alone, like every report. Read `record` next.

mod chart;
pub mod record;
mod summary;

use std::path::Path;

use super::Error;
use record::Faults;

/// Writes everything but `raw.json` into `folder`, and the index beside it when it lies in a
/// folder called `results`.
///
/// # Errors
/// When a file cannot be written.
pub fn draw(faults: &Faults, folder: &Path) -> Result<(), Error> {
    let charts = chart::draw(faults, folder)?;
    let page = summary::render(faults, &charts);
    super::publish(folder, &summary::readme(faults), &page)
}

//! The report on schedulers: texts and charts from the record of `loadgen strategies`.
//!
//! Invariant: a function of `raw.json` alone, like every report. Read `record` next.

mod charts;
mod lessons;
pub mod record;
mod summary;

use std::path::Path;

use super::Error;
use record::Strategies;

/// Writes everything but `raw.json` into `folder`, and the index beside it when it lies in a
/// folder called `results`.
///
/// # Errors
/// When a file cannot be written.
pub fn draw(strategies: &Strategies, folder: &Path) -> Result<(), Error> {
    let charts = charts::draw(strategies, folder)?;
    let page = summary::render(strategies, &charts);
    super::publish(folder, &summary::readme(strategies), &page)
}

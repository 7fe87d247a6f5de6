//! Reports: from the record of a comparison to a folder that a reader can judge.
//!
//! Invariant: a report is a function of `raw.json` and `configs/` in its folder alone; drawing
//! it again gives the same files. The record is [`record`]; `readme` and `summary` are the
//! texts, `charts` the pictures, `html` all of it as one page, `index` and `trend` the list of all reports.
//! Read `record` next.

mod axis;
pub mod charts;
mod doubts;
pub mod faults;
pub mod forwarders;
pub mod html;
pub mod index;
pub mod mixed;
pub(crate) mod numbers;
mod panels;
mod percentiles;
pub mod readme;
pub mod record;
pub mod repeat;
pub mod run;
#[cfg(test)]
pub(crate) mod sample;
pub mod statistics;
pub mod strategies;
pub mod summary;
mod timeline;
mod trend;
pub mod verdict;

use std::io;
use std::path::{Path, PathBuf};

use faults::record::Faults;
use forwarders::Forwarders;
use mixed::Mixed;
use record::{Kind, Record};
use repeat::Before;
use run::Run;
use strategies::record::Strategies;

/// Draws the texts and charts of a report from its `raw.json` again.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The report's folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Take in the A/B between runtimes, as `forwarder-ab --json FILE` wrote it
    /// [default: DIR/forwarders.json if it is there]
    #[arg(long, value_name = "FILE")]
    pub forwarders: Option<PathBuf>,
    /// Compare its ratios with those of this report of the same machine
    #[arg(long, value_name = "DIR")]
    pub before: Option<PathBuf>,
}

/// Why a report could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what its name promises.
    #[error("{}: {source}", path.display())]
    Json {
        /// Which one.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A record of another version.
    #[error("{} has format {found}, this loadgen reads format {read}", path.display())]
    Format {
        /// Which one.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The format that can be read.
        read: u32,
    },
    /// A chart could not be drawn.
    #[error("{}: {reason}", path.display())]
    Chart {
        /// Which one.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl Error {
    fn file(path: &Path, source: io::Error) -> Self {
        Self::File {
            path: path.to_owned(),
            source,
        }
    }

    fn json(path: &Path, source: serde_json::Error) -> Self {
        Self::Json {
            path: path.to_owned(),
            source,
        }
    }
}

/// Runs `loadgen report`.
///
/// # Errors
/// When the record cannot be read or a file of the report cannot be written.
pub fn report(args: &Args) -> Result<(), Error> {
    match Kind::of(&args.folder)? {
        Kind::Comparison => report_comparison(args),
        Kind::Run => run::draw(&Run::read(&args.folder)?, &args.folder),
        Kind::Mixed => mixed::draw(&Mixed::read(&args.folder)?, &args.folder),
        Kind::Faults => faults::draw(&Faults::read(&args.folder)?, &args.folder),
        Kind::Strategies => strategies::draw(&Strategies::read(&args.folder)?, &args.folder),
    }
}

fn report_comparison(args: &Args) -> Result<(), Error> {
    let mut record = Record::read(&args.folder)?;
    if let Some(path) = args
        .forwarders
        .clone()
        .or_else(|| forwarders_in(&args.folder))
    {
        record.forwarders = Some(Forwarders::read(&path)?);
        record.write(&args.folder)?;
    }
    if let Some(before) = &args.before {
        record.before = Some(Before::read(before)?);
        record.write(&args.folder)?;
        eprint!("{}", repeat::told(&record));
    }
    draw(&record, &args.folder)
}

/// Writes everything but `raw.json` and `configs/` into `folder`, and the index beside it when
/// it lies in a folder called `results`.
///
/// # Errors
/// When a file cannot be written.
pub fn draw(record: &Record, folder: &Path) -> Result<(), Error> {
    let charts = charts::draw(record, folder)?;
    let readme = readme::render(record, folder)?;
    publish(folder, &readme, &summary::render(record, &charts))
}

/// Writes the texts of a report into `folder`, both with their charts as one page, and the index
/// beside it.
fn publish(folder: &Path, readme: &str, summary: &str) -> Result<(), Error> {
    write(&folder.join("summary.md"), summary)?;
    write(&folder.join("README.md"), readme)?;
    let title = folder.file_name().unwrap_or_default().to_string_lossy();
    let page = html::render(&title, &[summary, readme], folder);
    write(&folder.join(html::FILE_NAME), &page)?;
    index::update_beside(folder)
}

fn forwarders_in(folder: &Path) -> Option<PathBuf> {
    let path = folder.join(forwarders::FILE_NAME);
    path.exists().then_some(path)
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(|e| Error::file(path, e))
}

//! `loadgen run --out`: a report on one run.
//!
//! Invariant: the folder is claimed before the run begins, so that no result is without a place.
//! Read next: `report/run.rs`, what is in it.

use std::env;
use std::path::{Path, PathBuf};

use crate::compare::{Error, machine, place};
use crate::report::record::Machine;
use crate::report::run::{Run, draw};
use crate::run::Summary;

/// A report to be written.
#[derive(Debug)]
pub struct RunReport {
    folder: PathBuf,
    started: String,
    machine: Machine,
}

impl RunReport {
    /// Makes `folder`.
    ///
    /// # Errors
    /// When it holds a report already, or cannot be made.
    pub fn begin(folder: &Path) -> Result<Self, Error> {
        let (started, machine) = (machine::utc_now(), machine::describe());
        Ok(Self {
            folder: place::report_folder(Some(folder), &started, &machine, "")?,
            started,
            machine,
        })
    }

    /// Writes the report.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(self, summary: Summary) -> Result<(), Error> {
        let command = command_line(env::args().skip(1));
        let run = Run::new(self.started, command, self.machine, summary);
        run.write(&self.folder)?;
        Ok(draw(&run, &self.folder)?)
    }
}

/// What was typed, without the paths of this machine.
fn command_line(words: impl Iterator<Item = String>) -> String {
    let mut line = "loadgen".to_owned();
    for word in words {
        let path = Path::new(&word);
        let name = path.file_name().filter(|_| path.is_absolute());
        let word = name.map_or_else(|| word.clone(), |name| name.to_string_lossy().into_owned());
        if word.contains([' ', '"', '$', '&', ';', '*', '?']) {
            line += &format!(" '{word}'");
        } else {
            line += &format!(" {word}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_typed_again_and_gives_no_paths_away() {
        let words = [
            "run",
            "http://a/?b=1",
            "-H",
            "A: b",
            "--scenario",
            "/home/me/shop.yaml",
        ];
        let expected = "loadgen run 'http://a/?b=1' -H 'A: b' --scenario shop.yaml";
        assert_eq!(command_line(words.into_iter().map(str::to_owned)), expected);
    }
}

//! What a comparison needs of the machine: two cores and a folder to work in.
//!
//! Invariant: the working folder is gone when its [`Folder`] is dropped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::thread::{CpuSet, sched_getaffinity};

use super::{Error, machine};
use crate::pin;
use crate::report::record::{self, Machine};

/// The core of the balancer and that of generator and origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cores {
    /// The first that this process may use.
    pub(crate) balancer: usize,
    /// The second; the first again where there is no other.
    pub(crate) generator: usize,
}

impl Cores {
    /// Chooses two of those that this process may use, and leaves the first to the balancer.
    ///
    /// # Errors
    /// When the system does not tell or does not let us.
    pub(crate) fn take() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let balancer = cores.next().ok_or(io::ErrorKind::NotFound)?;
        let generator = cores.next().unwrap_or_else(|| {
            eprintln!("warning: there is one core only; balancer and generator share it");
            balancer
        });
        pin::this_thread(generator)?;
        Ok(Self {
            balancer,
            generator,
        })
    }
}

impl Cores {
    /// The cores of a balancer with so many workers, as `taskset -c` takes them: with two it
    /// shares the generator's.
    pub(crate) fn of_workers(self, workers: usize) -> String {
        if workers > 1 && self.generator != self.balancer {
            format!("{},{}", self.balancer, self.generator)
        } else {
            self.balancer.to_string()
        }
    }
}

/// A folder for configurations, logs and temporary files of the peers.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes one below the system's folder for temporary files.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn make() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("loadgen-compare-{}", std::process::id()));
        // nginx as root works as another user, who must be able to enter.
        fs::create_dir_all(path.join("nginx-temp"))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes the folder of a report, which must not hold one yet: `out`, or one below `results` that
/// is called after day, machine and `suffix`.
///
/// # Errors
/// When there is one already, or the folder cannot be made.
pub(crate) fn report_folder(
    out: Option<&Path>,
    started: &str,
    machine: &Machine,
    suffix: &str,
) -> Result<PathBuf, Error> {
    let date = started.split('T').next().unwrap_or(started);
    let name = format!("{date}-{}{suffix}", machine::neutral_name(machine));
    let folder = out.map_or_else(|| PathBuf::from("results").join(name), Path::to_owned);
    if folder.join(record::FILE_NAME).exists() {
        return Err(Error::Exists(folder));
    }
    fs::create_dir_all(&folder).map_err(Error::system(folder.display().to_string()))?;
    Ok(folder)
}

/// Our own program: the one that was named, or the one beside this.
///
/// # Errors
/// When this program does not know where it is.
pub(crate) fn own_balancer(named: Option<&Path>) -> Result<PathBuf, Error> {
    match named {
        // Processes are started in folders of their own.
        Some(path) => Ok(path.canonicalize().unwrap_or_else(|_| path.to_owned())),
        None => std::env::current_exe()
            .map_err(Error::system("its own path"))
            .map(|own| own.with_file_name("lb")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_never_overwritten() {
        let out = std::env::temp_dir().join(format!("exists-{}", std::process::id()));
        let machine = crate::report::sample::record().machine;
        let folder = || report_folder(Some(&out), "2026-01-31T12:00:00Z", &machine, "");
        assert_eq!(folder().unwrap(), out);
        fs::write(out.join(record::FILE_NAME), "{}").unwrap();
        let again = folder();
        fs::remove_dir_all(&out).unwrap();
        assert!(matches!(again, Err(Error::Exists(_))), "{again:?}");
    }

    #[test]
    fn the_folder_goes_with_its_owner() {
        let folder = Folder::make().unwrap();
        let path = folder.path().to_owned();
        assert!(path.is_dir());
        drop(folder);
        assert!(!path.exists());
    }
}

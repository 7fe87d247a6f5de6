//! What a comparison needs of the machine: two cores and a folder to work in.
//!
//! Invariant: the working folder is gone when its [`Folder`] is dropped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::thread::{CpuSet, sched_getaffinity};

use crate::pin;

/// The core of the balancer and that of generator and origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cores {
    /// The first that this process may use.
    pub(super) balancer: usize,
    /// The second; the first again where there is no other.
    pub(super) generator: usize,
}

impl Cores {
    /// Chooses two of those that this process may use, and leaves the first to the balancer.
    ///
    /// # Errors
    /// When the system does not tell or does not let us.
    pub(super) fn take() -> io::Result<Self> {
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
    pub(super) fn of_workers(self, workers: usize) -> String {
        if workers > 1 && self.generator != self.balancer {
            format!("{},{}", self.balancer, self.generator)
        } else {
            self.balancer.to_string()
        }
    }
}

/// A folder for configurations, logs and temporary files of the peers.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes one below the system's folder for temporary files.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn make() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("loadgen-compare-{}", std::process::id()));
        // nginx as root works as another user, who must be able to enter.
        fs::create_dir_all(path.join("nginx-temp"))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_goes_with_its_owner() {
        let folder = Folder::make().unwrap();
        let path = folder.path().to_owned();
        assert!(path.is_dir());
        drop(folder);
        assert!(!path.exists());
    }
}

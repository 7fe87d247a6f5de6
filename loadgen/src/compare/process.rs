//! Child processes that never outlive the comparison.
//!
//! Invariant: a [`Process`] is the leader of its own process group, and dropping it kills the
//! whole group, whether by the normal way, an error, a panic or Ctrl-C (which opens a gate that
//! all waits look at). Should this very program be killed, the kernel terminates its children.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::gate::Gate;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How often a wait looks.
const POLL: Duration = Duration::from_millis(10);
/// How long a process has to end after SIGTERM.
const TERM_TIMEOUT: Duration = Duration::from_secs(3);
/// How much of a log a failure quotes.
const LOG_LINES_QUOTED: usize = 5;

/// Looks at `done` until it is true, for at most `timeout`. False when it never was, or when
/// `stop` was opened.
pub(crate) fn wait_until(stop: &Gate, timeout: Duration, mut done: impl FnMut() -> bool) -> bool {
    for _ in 0..timeout.as_millis() / POLL.as_millis() {
        if stop.is_open() {
            return false;
        }
        if done() {
            return true;
        }
        thread::sleep(POLL);
    }
    done()
}

/// A running program, all of its processes and what it says.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `words`, pinned to the cores `cpus` (`0`, or `0,1`), with `folder` as its working directory; what it
    /// writes goes to the file `log` in there.
    ///
    /// # Errors
    /// When the log cannot be created or `setpriv` and `taskset` are not there.
    pub(crate) fn start(
        words: &[String],
        cpus: &str,
        folder: &Path,
        log: &str,
    ) -> io::Result<Self> {
        let log = folder.join(log);
        let output = File::create(&log)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "taskset", "-c", cpus])
            .args(words)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()?;
        Ok(Self { child, log })
    }

    /// The first of its processes.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended and what it last said, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!("{status}: {}", self.last_words()))
    }

    /// Sends `signal` to the first of its processes.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Asks it to end, and kills what is left.
    pub(crate) fn stop(mut self) {
        // Unlike a requested stop of the comparison, nothing cuts this wait short.
        if kill_process(Pid::from_child(&self.child), Signal::TERM).is_ok() {
            wait_until(&Gate::new(), TERM_TIMEOUT, || {
                !matches!(self.child.try_wait(), Ok(None))
            });
        }
    }

    fn last_words(&self) -> String {
        let mut text = fs::read_to_string(&self.log).unwrap_or_default();
        if let Some(folder) = self.log.parent() {
            // A report is to name no paths of this machine.
            text = text.replace(&folder.display().to_string(), ".");
        }
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        lines[lines.len().saturating_sub(LOG_LINES_QUOTED)..].join("; ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails when the group is empty, which is what we want. The group's number is not
        // reused before the leader has been waited for or while a member lives.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str, log: &str) -> Process {
        let words = ["sh", "-c", script].map(str::to_owned);
        let log = format!("process-{}-{log}", std::process::id());
        Process::start(&words, "0", &std::env::temp_dir(), &log).unwrap()
    }

    fn lives(id: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, tail)| !tail.starts_with('Z'))
    }

    #[test]
    fn a_process_that_ends_by_itself_tells_why() {
        let mut process = start("echo oh no >&2; exit 3", "ends");
        let mut ended = None;
        wait_until(&Gate::new(), Duration::from_secs(10), || {
            ended = process.ended();
            ended.is_some()
        });
        let _ = fs::remove_file(&process.log);
        assert_eq!(ended.as_deref(), Some("exit status: 3: oh no"));
    }

    #[test]
    fn dropping_kills_those_who_ignore_signals_and_their_children() {
        let process = start("trap '' TERM; sleep 1000 & echo $!; wait", "stubborn");
        let log = process.log.clone();
        let said = || fs::read_to_string(&log).unwrap_or_default();
        assert!(wait_until(&Gate::new(), Duration::from_secs(10), || said()
            .ends_with('\n')));
        let (leader, child) = (process.id(), said().trim().parse().unwrap());
        assert!(lives(leader) && lives(child));
        drop(process);
        let _ = fs::remove_file(&log);
        let gone = || !lives(leader) && !lives(child);
        assert!(wait_until(&Gate::new(), Duration::from_secs(10), gone));
    }

    #[test]
    fn a_requested_stop_ends_every_wait() {
        let stop = Gate::new();
        stop.open();
        assert!(!wait_until(&stop, Duration::from_secs(1000), || true));
    }
}

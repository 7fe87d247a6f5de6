//! The end: listeners close, exchanges in flight finish, then the workers and the process end.
//!
//! Invariant: exit code 0, whether all was finished or the deadline cut what was left; only a
//! second signal ends the process otherwise.
//! Read next: `../worker/mod.rs` (a worker's part in it).

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Control, Event};
use crate::log::log;
use crate::worker::WorkerHandle;

/// How long workers may take to end after they were told to cut everything.
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

impl Control {
    pub(super) async fn drain(&mut self, signal: &'static str) -> ExitCode {
        let limit = self.status.settings.borrow().drain_timeout;
        log!(
            Info,
            "draining",
            because = signal,
            at_most_s = limit.as_secs_f64()
        );
        self.status.draining.set(true);
        self.status.workers.iter().for_each(WorkerHandle::drain);
        let mut running = self.status.workers.len();
        let code = match self.workers_end(&mut running, limit).await {
            Ended::All => {
                log!(Info, "drained");
                ExitCode::SUCCESS
            }
            Ended::Deadline => {
                let advice = "raise --drain-timeout if they should have finished";
                let cut = self.status.connections();
                log!(
                    Warn,
                    "connections are cut",
                    connections = cut,
                    advice = advice
                );
                self.status.workers.iter().for_each(WorkerHandle::abort);
                self.workers_end(&mut running, ABORT_TIMEOUT).await;
                ExitCode::SUCCESS
            }
            Ended::Signal(signal) => {
                log!(
                    Warn,
                    "leaving at once",
                    because = signal,
                    connections = self.status.connections()
                );
                ExitCode::FAILURE
            }
        };
        self.status.access_logs.flush();
        code
    }

    async fn workers_end(&mut self, running: &mut usize, limit: Duration) -> Ended {
        let deadline = Instant::now() + limit;
        while *running > 0 {
            match timeout_at(deadline, self.events.recv()).await {
                Ok(Some(Event::WorkerEnded(_))) => *running -= 1,
                Ok(Some(Event::End(signal))) => return Ended::Signal(signal),
                Ok(Some(
                    Event::Loaded(..)
                    | Event::Objects(_)
                    | Event::ObjectNames(..)
                    | Event::TryAgain
                    | Event::Reload(_)
                    | Event::Resolved(..),
                )) => {}
                Ok(None) | Err(_) => return Ended::Deadline,
            }
        }
        Ended::All
    }
}

/// How waiting for the workers ended.
enum Ended {
    All,
    Deadline,
    Signal(&'static str),
}

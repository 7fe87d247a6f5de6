//! The load generator: threads that each drive their share of the connections, and the calling
//! thread, which starts them, adds up what they report, and watches over them.
//!
//! Invariant: the calling thread never touches a connection, so watching costs the load nothing.
//! Read next: `worker.rs` (a thread), `schedule.rs` (when requests are due), `gather.rs` (the
//! sums), `progress.rs` (what a person sees).

mod config;
mod connection;
mod flow;
mod gather;
mod health;
mod http;
mod http2;
mod mix;
mod progress;
mod recorder;
mod replay;
mod schedule;
mod sources;
mod summary;
mod tcp;
mod udp;
mod verify;
mod view;
mod websocket;
mod worker;

pub use config::{Config, DELAYED_AFTER, Grpc, HttpRequest, Scheme, TcpRequest, UdpRequest, Url};
pub use mix::{Cookies, Mix, MixError, Request};
pub use progress::Progress;
pub use replay::{Replay, ReplayError};
pub use sources::{SOURCES_MAX, Sources};
pub use summary::{
    Affinity, Balance, Datagrams, Errors, GeneratorHealth, Handshakes, Idle, LatencyMicros,
    LoadMode, LoadPhase, OfKind, Second, Summary,
};

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::gate::Gate;
use gather::Gathered;
use health::CoreTimes;
use worker::{Event, Job};

/// How often the calling thread looks whether it is to stop.
const STOP_POLL: Duration = Duration::from_millis(50);

/// Watches a run, on the thread that called [`run`].
pub trait Observer {
    /// The run has entered a phase. Measuring a process under load means: read its CPU time when
    /// `Measuring` and when `Ended` comes.
    fn on_phase(&mut self, phase: LoadPhase) {
        let _ = phase;
    }

    /// A second of the measured window is over.
    fn on_second(&mut self, second: &Second) {
        let _ = second;
    }

    /// The same with more to look at, for those who show it.
    fn on_view(&mut self, view: &View<'_>) {
        let _ = view;
    }
}

/// A second that is over, and what the run has come to.
#[derive(Debug, Clone, Copy)]
pub struct View<'run> {
    /// The second.
    pub second: &'run Second,
    /// 90th percentile of the latency of its answers, in µs.
    pub p90_us: f64,
    /// The same, 99.9th.
    pub p999_us: f64,
    /// Failed requests since the window began.
    pub errors: &'run Errors,
    /// Correct answers by origin since then.
    pub origins: &'run BTreeMap<String, u64>,
}

/// Nobody watches.
impl Observer for () {}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The URL's host has no address.
    #[error("{url}: {error}")]
    Resolve {
        /// The URL.
        url: Url,
        /// Why not.
        error: io::Error,
    },
    /// Not one connection could be opened before the start.
    #[error("cannot connect to {address}: {error}; does a server listen there?")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// Why the first attempt failed.
        error: io::Error,
    },
    /// Clients from 127.0.0.0/8 cannot reach it.
    #[error("{address} cannot be reached from 127.0.0.0/8, where --sources come from")]
    Sources {
        /// Where to.
        address: SocketAddr,
    },
    /// A generator thread could not start.
    #[error("cannot start a generator thread: {0}")]
    Start(io::Error),
    /// A generator thread panicked.
    #[error("a generator thread ended unexpectedly")]
    Died,
    /// `stop` was opened before the measured window began.
    #[error("stopped before anything was measured")]
    Stopped,
}

/// Runs a load and reports what came of it. Blocks until it is over, or until `stop` is opened:
/// then the result covers what was measured so far.
///
/// # Errors
/// When there is nothing to report, see [`RunError`]. Failed requests are no error.
pub fn run(config: &Config, observer: &mut dyn Observer, stop: &Gate) -> Result<Summary, RunError> {
    let resolved = config.url.resolve();
    let address = resolved.map_err(|error| RunError::Resolve {
        url: config.url.clone(),
        error,
    })?;
    if config.sources.is_some() && !sources::reaches(address) {
        return Err(RunError::Sources { address });
    }
    let (events, inbox) = channel();
    let (go, cancel) = (Arc::new(Gate::new()), Arc::new(Gate::new()));
    observer.on_phase(LoadPhase::Connecting);
    let mut watch = Watch::new(config, observer);
    let shared = Arc::new(config.clone());
    let threads: io::Result<Vec<JoinHandle<()>>> = (0..config.threads)
        .map(|thread| {
            let job = Job {
                config: Arc::clone(&shared),
                address,
                thread,
                go: Arc::clone(&go),
                cancel: Arc::clone(&cancel),
                events: events.clone(),
            };
            let named = thread::Builder::new().name(format!("generator-{thread}"));
            named.spawn(move || match job.config.url.scheme {
                Scheme::Udp => udp::run(&job),
                _ => worker::run(&job),
            })
        })
        .collect();
    drop(events); // the inbox is to notice when the last thread is gone
    let result = match &threads {
        Ok(_) => watch.follow(&inbox, stop, &go, &cancel, address),
        Err(error) => Err(RunError::Start(error.kind().into())),
    };
    cancel.open();
    for thread in threads.into_iter().flatten() {
        // A panic was printed by its thread, and shows as `Died`.
        let _ = thread.join();
    }
    result.map(|()| watch.summary())
}

/// The calling thread's view of a run.
struct Watch<'run> {
    config: &'run Config,
    observer: &'run mut dyn Observer,
    gathered: Gathered,
    /// Threads that have reached each point.
    connected: usize,
    measuring: usize,
    ended: usize,
    done: usize,
    /// Connections that were opened before the start, and why one was not.
    open: usize,
    connect_error: Option<io::Error>,
    cores_before: Option<CoreTimes>,
    cores_after: Option<CoreTimes>,
}

impl<'run> Watch<'run> {
    fn new(config: &'run Config, observer: &'run mut dyn Observer) -> Self {
        Self {
            config,
            observer,
            gathered: Gathered::new(config.threads),
            connected: 0,
            measuring: 0,
            ended: 0,
            done: 0,
            open: 0,
            connect_error: None,
            cores_before: None,
            cores_after: None,
        }
    }

    /// Takes in what the threads report until all are done.
    fn follow(
        &mut self,
        inbox: &Receiver<Event>,
        stop: &Gate,
        go: &Gate,
        cancel: &Gate,
        address: SocketAddr,
    ) -> Result<(), RunError> {
        while self.done < self.config.threads {
            match inbox.recv_timeout(STOP_POLL) {
                Ok(Event::Failed(error)) => return Err(RunError::Start(error)),
                Ok(event) => self.on_event(event),
                Err(RecvTimeoutError::Disconnected) => return Err(RunError::Died),
                Err(RecvTimeoutError::Timeout) if stop.is_open() => {
                    if self.measuring == 0 {
                        return Err(RunError::Stopped);
                    }
                    cancel.open();
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.connected == self.config.threads && !go.is_open() {
                if let (0, Some(error)) = (self.open, self.connect_error.take()) {
                    return Err(RunError::Connect { address, error });
                }
                self.observer.on_phase(LoadPhase::WarmUp);
                go.open();
            }
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Failed(_) => {}
            Event::Connected { open, error } => {
                self.connected += 1;
                self.open += open;
                self.connect_error = self.connect_error.take().or(error);
            }
            Event::Measuring => {
                self.measuring += 1;
                if self.measuring == 1 {
                    self.cores_before = Some(CoreTimes::read());
                    self.observer.on_phase(LoadPhase::Measuring);
                }
            }
            Event::Second(t, interval) => {
                if let Some(view) = self.gathered.second(t, *interval) {
                    self.observer.on_second(view.second);
                    self.observer.on_view(&view);
                }
            }
            Event::Ended => {
                self.ended += 1;
                if self.ended == self.config.threads {
                    self.cores_after = Some(CoreTimes::read());
                    self.observer.on_phase(LoadPhase::Ended);
                }
            }
            Event::Done(report) => {
                self.done += 1;
                self.gathered.report(*report);
            }
        }
    }

    fn summary(self) -> Summary {
        let cores = self.cores_before.as_ref().zip(self.cores_after.as_ref());
        self.gathered.summary(self.config, cores)
    }
}

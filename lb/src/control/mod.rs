//! The control thread: everything that is not moving a client's bytes.
//!
//! Invariant: one loop takes one event at a time, so a reload, a change of addresses and the end
//! of the process never overlap. Nothing in it waits for a network, a resolver or a slow reader.
//! Read next: `start.rs` (up to the first snapshot), `reload.rs` (each one after).

mod bind;
mod cpus;
mod drain;
mod objects;
mod overdue;
mod reload;
mod signals;
mod start;
mod status;
mod unix;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use lb_core::rt::take_short_turns;
use lb_core::rt::{self, Instant};
use rustix::process::{getpriority_process, setpriority_process};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch::Sender as WatchSender;
use tokio::task::LocalSet;

use self::bind::{Bound, OwnPorts, SocketFiles};
use self::objects::Objects;
pub(crate) use self::start::StartError;
pub(crate) use self::status::Status;
use crate::config::{Draft, Names, Sources};
use crate::kubernetes::Seen;
use crate::log::{self, log};
use crate::resolve::{Resolved, Schedule};

/// What the control loop waits for.
enum Event {
    /// SIGINT or SIGTERM.
    End(&'static str),
    /// A configuration file has changed, or SIGHUP.
    Reload(&'static str),
    /// The folder of Kubernetes objects has changed.
    Objects(Seen),
    /// The host names that objects lead to, resolved.
    ObjectNames(Resolved, LoadNumber),
    /// Listeners that were left out are tried again.
    TryAgain,
    /// The names of a draft that waited for them.
    Loaded(Box<Draft>, Names, LoadNumber),
    /// The names of the running draft, resolved again.
    Resolved(Resolved, LoadNumber),
    WorkerEnded(usize),
}

/// Tells a result that is still wanted from one that a later reload has overtaken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LoadNumber(u64);

struct Control {
    sources: Sources,
    status: Rc<Status>,
    draft: Draft,
    names: Names,
    schedule: Schedule,
    load: LoadNumber,
    bound: Bound,
    /// Kubernetes objects, if they are a source.
    objects: Option<Objects>,
    /// Files that go when their listeners do.
    files: SocketFiles,
    /// Ports of which this process has, or has had, sockets.
    own_ports: OwnPorts,
    /// When the event that is dealt with came.
    event_at: Instant,
    /// The files whose change is a reload.
    watched: WatchSender<Vec<PathBuf>>,
    sender: UnboundedSender<Event>,
    events: UnboundedReceiver<Event>,
}

/// Runs the sources until a signal ends the process. `on_ready` is called once all listeners
/// accept.
pub(crate) fn run(sources: Sources, on_ready: impl FnOnce(&Rc<Status>)) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return StartError::from(format!("cannot start: {error}")).report(),
    };
    let local = LocalSet::new();
    let code = local.block_on(&runtime, async {
        match Control::start(sources).await {
            Ok(mut control) => {
                on_ready(&control.status);
                control.run().await
            }
            Err(error) => error.report(),
        }
    });
    log::flush();
    drop(local);
    // A resolver that hangs must not hold up the end.
    runtime.shutdown_timeout(Duration::ZERO);
    code
}

impl Control {
    async fn run(&mut self) -> ExitCode {
        step_back();
        self.resolve_later();
        overdue::watch(Rc::clone(&self.status));
        while let Some(event) = self.events.recv().await {
            self.event_at = rt::now_precise();
            match event {
                Event::End(signal) => return self.drain(signal).await,
                Event::Reload(why) => {
                    self.reload(why);
                    self.objects_changed(&Seen::everything());
                }
                Event::Objects(seen) => self.objects_changed(&seen),
                Event::ObjectNames(resolved, round) => self.take_object_names(resolved, round),
                Event::TryAgain => self.try_again(),
                Event::Loaded(draft, names, load) if load == self.load => {
                    self.take_up(*draft, names);
                }
                Event::Resolved(resolved, load) if load == self.load => {
                    self.take_names(resolved.logged());
                }
                Event::Loaded(..) | Event::Resolved(..) => {}
                Event::WorkerEnded(index) => {
                    log!(
                        Error,
                        "a worker ended; the process cannot go on",
                        worker = index
                    );
                    return ExitCode::FAILURE;
                }
            }
        }
        ExitCode::FAILURE // not reached: `self` holds a sender
    }
}

/// Building a big plan takes milliseconds, in which a worker on the same CPU would serve nobody: it
/// goes first from now on, and soon. The workers, which have started, keep what they have, as this
/// is one thread's (setpriority(2), "C library/kernel differences").
fn step_back() {
    const NICE: i32 = 10;
    // Refused or unknown to the kernel, it costs some milliseconds of latency during a change.
    let _ = take_short_turns();
    if let Ok(now) = getpriority_process(None) {
        // All it costs is a longer wait for the next generation on a busy CPU.
        let _ = setpriority_process(None, (now + NICE).min(19));
    }
}

/// The channel of the control loop's events.
fn events() -> (UnboundedSender<Event>, UnboundedReceiver<Event>) {
    mpsc::unbounded_channel()
}

//! From sources to a process that accepts connections.
//!
//! Invariant: whatever can be wrong is found before the first worker starts, and ends in lines
//! that say what to do and an exit code: 2 for flags, 1 for everything else.
//! Read next: `bind.rs`, `../worker/mod.rs`.

use std::cell::{Cell, RefCell};
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use lb_core::metrics::ControlMetrics;
use lb_core::plan::Plan;
use lb_core::rt::EngineKind;
use lb_core::rt::probe::{EngineChoice, Probe, probe};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::task;

use super::bind::{Bound, OwnPorts, SocketFiles, advise, bind_new, ports};
use super::objects::{LeftOut, Objects, leave_out};
use super::status::Running;
use super::watch::Watch;
use super::{Control, Event, LoadNumber, Status, cpus, events, signals};
use crate::access_log::{AccessLogs, DefaultLogs};
use crate::admin;
use crate::args::EXIT_USAGE;
use crate::change::Change;
use crate::config::{AdminAddress, Draft, Engine, Names, Place, Problem, Sources};
use crate::log::{self, log};
use crate::resolve::{Schedule, resolve};
use crate::snapshot::{Ground, Snapshot, Transport};
use crate::terminal;
use crate::worker::{
    Peers, Sockets, Start, Starting, WorkerHandle, log_backend_failures, log_http2,
};

/// Why the process does not start.
pub(crate) struct StartError {
    lines: Vec<String>,
    code: u8,
}

impl StartError {
    /// Prints the lines and returns the exit code.
    pub(crate) fn report(self) -> ExitCode {
        log::flush();
        for line in self.lines {
            terminal::complain(&format!("error: {line}\n"));
        }
        ExitCode::from(self.code)
    }
}

impl From<String> for StartError {
    fn from(line: String) -> Self {
        Self {
            lines: vec![line],
            code: 1,
        }
    }
}

impl From<Problem> for StartError {
    fn from(problem: Problem) -> Self {
        Self::from(problem.to_string())
    }
}

impl StartError {
    /// Of sources with mistakes.
    fn of_sources(problems: Vec<Problem>) -> Self {
        let in_flags = problems
            .iter()
            .any(|it| matches!(it.place, Place::Flag { .. }));
        let lines = problems.iter().map(Problem::to_string).collect();
        Self {
            lines,
            code: if in_flags { EXIT_USAGE } else { 1 },
        }
    }
}

impl Control {
    /// Everything up to workers that accept. Must be called within a `LocalSet`.
    pub(super) async fn start(sources: Sources) -> Result<Self, StartError> {
        let (watched, files) = watch::channel(sources.named_by_flags());
        let watch = Watch::new(files); // before reading, so that no change is missed
        let draft = sources.load().map_err(StartError::of_sources)?;
        watched.send_replace(sources.named.borrow().iter().cloned().collect());
        let flags = &sources.kubernetes;
        let mut objects = Objects::read(flags).map_err(|line| StartError {
            lines: vec![line],
            code: EXIT_USAGE,
        })?;
        let (sender, events) = events();
        signals::forward(&sender).map_err(|error| format!("cannot handle signals: {error}"))?;
        let engine = find_engine(draft.settings.engine)?;
        let admin = bind_admin(draft.settings.admin).await?;
        log::start(draft.settings.log_format)
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        log!(
            Info,
            "starting",
            version = env!("CARGO_PKG_VERSION"),
            engine = engine.engine.name(),
            reason = engine.reason,
            open_files_max = raise_open_files()
        );
        draft.log_warnings();
        log_backend_failures();
        log_http2();
        let hosts = draft.host_names().into_iter().map(str::to_owned);
        let names = resolve(hosts.collect(), Names::new()).await.logged();
        let plan = draft.plan(&names);
        let plan = Planned {
            plan,
            objects: objects.as_mut(),
            draft: &draft,
        };
        let (status, bound, files) = start_workers(plan, engine, &sender)?;
        if let Some(objects) = &mut objects {
            objects.start(flags.healthz, &status, &sender)?;
        }
        if let Some(listener) = admin {
            if let Ok(address) = listener.local_addr() {
                log!(Info, "admin API", address = address);
                status.admin_address.set(Some(address));
            }
            task::spawn_local(admin::serve(listener, Rc::clone(&status)));
        }
        forward_changes(watch, sender.clone());
        log!(
            Info,
            "ready",
            listeners = bound.len(),
            workers = status.workers.len()
        );
        Ok(Self {
            sources,
            status,
            objects,
            draft,
            names,
            schedule: Schedule::new(),
            load: LoadNumber(0),
            own_ports: ports(&bound).collect(),
            watched,
            event_at: lb_core::rt::now(),
            bound,
            files,
            sender,
            events,
        })
    }
}

fn find_engine(engine: Engine) -> Result<Probe, String> {
    probe(match engine {
        Engine::Auto => EngineChoice::Auto,
        Engine::Epoll => EngineChoice::Only(EngineKind::Epoll),
        Engine::Uring => EngineChoice::Only(EngineKind::Uring),
    })
}

/// The usual soft limit, 1024, would be two or three hundred clients; the hard limit is what the
/// administrator really means.
fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() {
        raised
    } else {
        limit
    };
    now.current.unwrap_or(u64::MAX)
}

async fn bind_admin(address: AdminAddress) -> Result<Option<TcpListener>, String> {
    let AdminAddress::Listen(address) = address else {
        return Ok(None);
    };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => {
            let advice = advise("admin", Transport::Tcp, address, &error);
            Err(format!("{advice}; --admin takes another address, or off"))
        }
    }
}

/// What the workers begin with.
struct Planned<'a> {
    plan: Plan,
    objects: Option<&'a mut Objects>,
    draft: &'a Draft,
}

fn start_workers(
    planned: Planned<'_>,
    engine: Probe,
    sender: &UnboundedSender<Event>,
) -> Result<(Rc<Status>, Bound, SocketFiles), StartError> {
    let Planned {
        plan,
        mut objects,
        draft,
    } = planned;
    let cpus = cpus::place(draft.settings.workers);
    let workers = cpus.len();
    let (mut plan, mut left_out) = match &mut objects {
        Some(objects) => objects.join(plan, &Plan::default()),
        None => (plan, LeftOut::new()),
    };
    let of_objects = objects.as_deref();
    let optional = |name: &str| of_objects.is_some_and(|objects| objects.has_listener(name));
    let (none, own) = (Bound::new(), OwnPorts::new());
    let new = bind_new(&plan.listeners, &none, &own, workers, &optional)
        .map_err(|error| draft.listener_problem(&error.listener, error.reason))?;
    leave_out(&mut plan, new.left_out, &mut left_out);
    let objects_state = objects.map(|objects| {
        objects.left_out(left_out, sender);
        objects.state()
    });
    let log = DefaultLogs::of(&draft.settings);
    let access_logs = AccessLogs::default();
    access_logs.open(&plan, &log)?;
    let ground = Ground::new(workers, draft.settings.affinity_entries)
        .map_err(|error| format!("cannot have random numbers: {error}"))?;
    let snapshot = Snapshot::build(plan, &ground, &new.bound, (&access_logs, log), None)?;
    log_listeners(&snapshot);
    let change = Arc::new(Change::between(None, &snapshot, Status::FIRST_GENERATION));
    let peers = Arc::<Peers>::default();
    let start = |((index, cpu), sockets): ((usize, Option<usize>), Sockets)| {
        let start = Start {
            index,
            workers,
            engine: engine.engine,
            cpu,
            change: Arc::clone(&change),
            affinity: Arc::clone(&ground.affinity),
            sockets,
            peers: Arc::clone(&peers),
        };
        let sender = sender.clone();
        WorkerHandle::start(start, move || drop(sender.send(Event::WorkerEnded(index))))
    };
    // All at once: setting up a ring takes a moment.
    let starting = cpus.into_iter().enumerate().zip(new.by_worker).map(start);
    let handles: Vec<_> = starting
        .collect::<io::Result<Vec<_>>>()
        .and_then(|starting| starting.into_iter().map(Starting::up).collect())
        .map_err(|error| format!("cannot start the workers: {error}"))?;
    peers.meet(handles.iter().map(WorkerHandle::peer));
    let metrics = ControlMetrics::default();
    metrics.config_generation.set(change.generation);
    metrics.last_reload_successful.set(1);
    let status = Status {
        engine,
        ground,
        running: RefCell::new(Running {
            generation: change.generation,
            snapshot: Arc::new(snapshot),
        }),
        workers: handles,
        metrics,
        settings: RefCell::new(draft.settings.clone()),
        problems: RefCell::default(),
        objects: objects_state,
        draining: Cell::new(false),
        admin_address: Cell::new(None),
        access_logs,
    };
    Ok((Rc::new(status), new.bound, new.files))
}

fn log_listeners(snapshot: &Snapshot) {
    for listener in &snapshot.listeners {
        log!(
            Info,
            "listening",
            listener = listener.stats.name(),
            address = lb_core::rt::shown(listener.bound)
        );
    }
}

/// Sends an event whenever a configuration file has changed.
fn forward_changes(mut watch: Watch, sender: UnboundedSender<Event>) {
    task::spawn_local(async move {
        loop {
            watch.changed().await;
            if sender.send(Event::Reload("file changed")).is_err() {
                return;
            }
        }
    });
}

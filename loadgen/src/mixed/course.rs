//! The course of it: origins and `lb` up, all loads at once, restart after restart, for each engine.
//!
//! Invariant: a run that could not be carried out is no run without failures: it is told, too.
//! Read next: `../report/mixed.rs` (what comes of it).

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::Args;
use super::fleet::Fleet;
use super::loads::{Door, KINDS, Kind};
use crate::compare::accounting;
use crate::compare::load::{self, written};
use crate::compare::peers::{Peer, Site};
use crate::compare::place::{self, Cores, Folder};
use crate::compare::process::{Process, wait_until};
use crate::compare::{Error, machine, ports};
use crate::gate::Gate;
use crate::report::mixed::{Load, Mixed, Restart, Run, Sample, draw};
use crate::report::record::Settings;
use crate::run::{Observer, Second, Summary};
use crate::testbed::Testbed;

/// Workers of `lb`.
const WORKERS: usize = 2;
/// How often memory and descriptors are looked at.
const SAMPLE_EVERY_S: u64 = 5;
/// When everything should have grown to its size, as a part of the run: one in so many.
const GROWN_PART: u32 = 10;
/// How long it may take until connections that nobody uses are closed: they may be idle for 2 s.
const SETTLE: Duration = Duration::from_secs(15);
/// Descriptors that `lb` may keep then beside those of the beginning: pipes for bodies to come.
const KEPT: u64 = 16;

/// Runs `loadgen mixed` until it is done or `stop` is opened; the report's folder, and whether nothing
/// failed.
///
/// # Errors
/// When there is no `lb`, the report cannot be written, or a stop is requested. Requests that fail are no
/// error: they are in the report.
pub fn mixed(args: &Args, stop: &Gate) -> Result<(PathBuf, bool), Error> {
    let lb = place::own_balancer(args.lb.as_deref())?;
    let program = Peer::Lb.find(&lb).map_err(Error::NoPeers)?;
    let cores = Cores::take().map_err(Error::system("a core of its own for the balancer"))?;
    let (started, machine) = (machine::utc_now(), machine::describe());
    let out = place::report_folder(args.out.as_deref(), &started, &machine, "-mixed")?;
    let folder = Folder::make().map_err(Error::system("a working folder"))?;
    let testbed = Testbed {
        lb: &lb,
        cores,
        folder: &folder,
        stop,
    };
    let settings = Settings {
        rounds: 1,
        duration_s: args.duration.as_secs_f64(),
        warmup_s: 0.0,
        balancer_cpu: cores.balancer,
        generator_cpu: cores.generator,
        generator_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut record = Mixed::new(started, command_line(args), machine, settings);
    record.balancer_version = program.version;
    for engine in &args.engines {
        eprintln!("{engine}:");
        record.runs.push(run(args, &testbed, engine)?);
        record.write(&out)?;
    }
    record.is_partial = stop.is_open();
    record.write(&out)?;
    draw(&record, &out)?;
    if record.is_partial {
        return Err(Error::Partial(out));
    }
    let is_good = record.runs.iter().all(Run::is_good);
    Ok((out, is_good))
}

/// The command line, without the paths of this machine.
fn command_line(args: &Args) -> String {
    let mut words = format!(
        "loadgen mixed -d {} --every {} --engines {}",
        written(args.duration),
        written(args.every),
        args.engines.join(","),
    );
    if args.pace != 1.0 {
        words += &format!(" --pace {}", args.pace);
    }
    words
}

/// All of it with one engine.
fn run(args: &Args, testbed: &Testbed<'_>, engine: &str) -> Result<Run, Error> {
    let addresses: Vec<SocketAddr> = ports::free(Fleet::PORTS)
        .map_err(Error::system("free ports"))?
        .into_iter()
        .map(Site::address)
        .collect();
    testbed.write_identity().map_err(Error::Identity)?;
    let mut fleet = Fleet::open(testbed, &addresses, engine)?;
    let mut run = Run {
        engine: engine.to_owned(),
        configuration: fleet.configuration(),
        ..Run::default()
    };
    if let Err(reason) = play(args, testbed, &mut fleet, &mut run) {
        eprintln!("  failed: {reason}");
        run.failure = Some(reason);
    }
    Ok(run)
}

fn play(
    args: &Args,
    testbed: &Testbed<'_>,
    fleet: &mut Fleet<'_>,
    run: &mut Run,
) -> Result<(), String> {
    if let Some(refusal) = testbed.refusal().map_err(|error| error.to_string())? {
        return Err(format!("lb refuses its configuration: {refusal}"));
    }
    let mut balancer = testbed.start_with(fleet.admin(), WORKERS)?;
    run.before = sample(0, balancer.id())?;
    let doors = fleet.doors().to_vec();
    debug_assert_eq!(doors.len(), Door::ALL.len());
    let (samples, second) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    let (loads, told) = thread::scope(|scope| {
        let loads: Vec<_> = KINDS
            .iter()
            .enumerate()
            .map(|(number, kind)| {
                let command =
                    kind.command(&doors, args.pace, args.duration, testbed.cores.generator);
                let (samples, second) = (&samples, &second);
                let (lb, stop) = (balancer.id(), testbed.stop);
                let load = scope.spawn(move || {
                    // One of them looks after the balancer, second by second.
                    let mut watcher = Watcher {
                        samples,
                        second,
                        lb,
                    };
                    let observer: &mut dyn Observer = match number {
                        0 => &mut watcher,
                        _ => &mut (),
                    };
                    load::run(&command, observer, stop)
                });
                (kind, load)
            })
            .collect();
        let are_over = || loads.iter().all(|(_, load)| load.is_finished());
        let told = restart_until(args, testbed, fleet, run, &second, are_over);
        let ended = |(kind, load): (&Kind, thread::ScopedJoinHandle<'_, _>)| {
            let result = load
                .join()
                .unwrap_or_else(|_| Err("it panicked".to_owned()));
            outcome(kind, result)
        };
        (loads.into_iter().map(ended).collect(), told)
    });
    run.loads = loads;
    run.samples = samples.into_inner().unwrap_or_default();
    told?;
    if let Some(how) = balancer.ended() {
        return Err(format!("lb ended under load: {how}"));
    }
    run.grown_at_s = (args.duration / GROWN_PART).as_secs();
    run.after = settled(testbed, &balancer, run.before)?;
    balancer.stop();
    Ok(())
}

/// One restart after the other, until the loads are over.
fn restart_until(
    args: &Args,
    testbed: &Testbed<'_>,
    fleet: &mut Fleet<'_>,
    run: &mut Run,
    second: &AtomicU64,
    are_over: impl Fn() -> bool,
) -> Result<(), String> {
    loop {
        wait_until(testbed.stop, args.every, &are_over);
        if are_over() || testbed.stop.is_open() {
            return Ok(());
        }
        let from_s = second.load(Ordering::Relaxed);
        let what = fleet.restart_next()?;
        let restart = Restart {
            from_s,
            to_s: second.load(Ordering::Relaxed),
            what,
        };
        eprintln!("  {}", restart.told());
        run.restarts.push(restart);
    }
}

/// What became of one load.
fn outcome(kind: &Kind, result: Result<Summary, String>) -> Load {
    let mut load = Load {
        name: kind.name.to_owned(),
        ..Load::default()
    };
    match result {
        Ok(summary) => {
            load.completed = summary.completed;
            let errors = summary.errors.occurred();
            load.errors = errors.map(|(kind, n)| (kind.to_owned(), n)).collect();
            load.unanswered = summary.unanswered;
            let bad = summary.timeline.iter().filter(|second| second.errors > 0);
            load.failed_in_s = bad.map(|second| second.t).collect();
            load.connections = summary.connections as u64 + summary.reconnects;
            load.p99_us = summary.latency_us.p99;
            load.max_us = summary.latency_us.max;
        }
        Err(reason) => load.failure = Some(reason),
    }
    eprintln!("  {}", load.told());
    load
}

/// Reads what the balancer holds, every few seconds.
struct Watcher<'a> {
    samples: &'a Mutex<Vec<Sample>>,
    /// Seconds that are over.
    second: &'a AtomicU64,
    lb: u32,
}

impl Observer for Watcher<'_> {
    fn on_second(&mut self, second: &Second) {
        self.second.store(second.t + 1, Ordering::Relaxed);
        if (second.t + 1).is_multiple_of(SAMPLE_EVERY_S)
            && let Ok(sample) = sample(second.t + 1, self.lb)
            && let Ok(mut samples) = self.samples.lock()
        {
            samples.push(sample);
        }
    }
}

fn sample(at_s: u64, lb: u32) -> Result<Sample, String> {
    let explain = |error: std::io::Error| format!("what lb holds cannot be read: {error}");
    let memory = accounting::memory(lb).map_err(explain)?;
    let descriptors = fs::read_dir(Path::new("/proc").join(lb.to_string()).join("fd"));
    Ok(Sample {
        at_s,
        memory_kib: memory.anonymous_kib + memory.shared_kib,
        descriptors: descriptors.map_err(explain)?.count() as u64,
    })
}

/// What it holds once it has no more descriptors than `before`, or some time later.
fn settled(testbed: &Testbed<'_>, balancer: &Process, before: Sample) -> Result<Sample, String> {
    let now = || sample(0, balancer.id());
    wait_until(testbed.stop, SETTLE, || {
        now().is_ok_and(|now| now.descriptors <= before.descriptors + KEPT)
    });
    now()
}

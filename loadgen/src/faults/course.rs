//! The course of it: origins up, load on, event after event, for each setting of `lb`.
//!
//! Invariant: every run begins with all origins well and the configuration as it was; events are
//! carried out by the thread that watches the load, never by one that makes it.
//! Read next: `../testbed/mod.rs` (what is started), `../report/faults` (what comes of it).

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Args;
use super::script::{Event, NAMED, Script};
use crate::compare::load::{self, LoadCommand, written};
use crate::compare::peers::Peer;
use crate::compare::place::{self, Cores, Folder};
use crate::compare::process::Process;
use crate::compare::round::latency_of;
use crate::compare::window::{Cost, Window};
use crate::compare::{Error, machine};
use crate::gate::Gate;
use crate::report::faults::draw;
use crate::report::faults::record::{self, Faults, Figures, Run};
use crate::report::record::{Outcome, Settings};
use crate::run::{LoadPhase, Observer, Second, Summary};
use crate::testbed::{ClusterFile, Mode, Testbed, load_command};

/// Load that is not measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// Connections of the load.
const CONNECTIONS: usize = 256;

/// Runs `loadgen faults` until it is done or `stop` is opened; returns the report's folder.
///
/// # Errors
/// When there is no `lb` or no such scenario, the report cannot be written, or a stop is
/// requested. Requests that fail are no error: they are in the report.
pub fn faults(args: &Args, stop: &Gate) -> Result<PathBuf, Error> {
    let script = script(args)?;
    let lb = place::own_balancer(args.lb.as_deref())?;
    let program = Peer::Lb.find(&lb).map_err(Error::NoPeers)?;
    let cores = Cores::take().map_err(Error::system("a core of its own for the balancer"))?;
    let machine = machine::describe();
    let mut record = Faults::new(
        machine::utc_now(),
        command_line(args),
        machine,
        settings(&script, cores),
        program.version,
        args.origins.into(),
    );
    record.delayed_after_ms = args.delayed_after.as_secs_f64() * 1e3;
    let (started, machine) = (&record.started, &record.machine);
    let out = place::report_folder(args.out.as_deref(), started, machine, "-faults")?;
    let folder = Folder::make().map_err(Error::system("a working folder"))?;
    let testbed = Testbed {
        lb: &lb,
        cores,
        folder: &folder,
        stop,
    };
    let addresses = testbed.addresses(args.origins.into())?;
    let command = command(args, &script, cores, addresses[0]);
    record.load_command = format!("loadgen {}", command.0.join(" "));
    let events = script.events.iter();
    record.events = events
        .map(|(at_s, event)| record::Event {
            at_s: *at_s,
            what: event.to_string(),
        })
        .collect();
    let course = Course {
        args,
        testbed,
        addresses,
        script,
        command,
    };
    let result = course.run_all(&mut record, &out);
    record.is_partial = stop.is_open() && !record.runs.is_empty();
    if !record.is_partial {
        result?;
    }
    record.write(&out)?;
    draw(&record, &out)?;
    if record.is_partial {
        return Err(Error::Partial(out));
    }
    Ok(out)
}

/// The script that was named, or is in the file that was.
fn script(args: &Args) -> Result<Script, Error> {
    let named = NAMED.iter().find(|(name, _)| *name == args.scenario);
    let text = match named {
        Some((_, text)) => (*text).to_owned(),
        None => fs::read_to_string(Path::new(&args.scenario)).map_err(|source| Error::System {
            what: format!(
                "there is no scenario {:?}; there are {}, or a file",
                args.scenario,
                NAMED.map(|(name, _)| name).join(", ")
            ),
            source,
        })?,
    };
    let refuse = |reason| Error::Scenario(args.scenario.clone(), reason);
    let script = Script::parse(&text, args.origins.into()).map_err(refuse)?;
    if script.is_secure() && args.mode != Mode::Http {
        return Err(refuse("certificate is for --mode http".to_owned()));
    }
    if args.health() == "http" && args.mode != Mode::Http {
        return Err(refuse("--health http is for --mode http".to_owned()));
    }
    Ok(script)
}

fn settings(script: &Script, cores: Cores) -> Settings {
    Settings {
        rounds: 1,
        duration_s: script.end_s as f64,
        warmup_s: WARM_UP.as_secs_f64(),
        balancer_cpu: cores.balancer,
        generator_cpu: cores.generator,
        generator_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// The command line, without the paths of this machine.
fn command_line(args: &Args) -> String {
    let is_named = NAMED.iter().any(|(name, _)| *name == args.scenario);
    let mut words = format!(
        "loadgen faults --scenario {} --balance {} --engines {} --mode {} --origins {} --rate {} \
         --timeout {} --delayed-after {} --slow-by {} --health {}",
        if is_named { &*args.scenario } else { "FILE" },
        args.balance.join(","),
        args.engines.join(","),
        args.mode.name(),
        args.origins,
        args.rate,
        written(args.timeout),
        written(args.delayed_after),
        written(args.slow_by),
        args.health(),
    );
    for key in &args.keys {
        words += &format!(" --key {}", key.replacen(": ", "=", 1));
    }
    words
}

fn command(args: &Args, script: &Script, cores: Cores, at: SocketAddr) -> LoadCommand {
    let options = format!(
        "-c {CONNECTIONS} --rate {} --timeout {} --delayed-after {} --warmup {} -d {}s --cpu {}",
        args.rate,
        written(args.timeout),
        written(args.delayed_after),
        written(WARM_UP),
        script.end_s,
        cores.generator,
    );
    load_command(args.mode, script.is_secure(), at, &options)
}

struct Course<'a> {
    args: &'a Args,
    testbed: Testbed<'a>,
    /// Of `lb`, of its admin API, and of the origins.
    addresses: Vec<SocketAddr>,
    script: Script,
    command: LoadCommand,
}

impl Course<'_> {
    /// Every setting of `lb`, until it is told to stop.
    fn run_all(&self, record: &mut Faults, out: &Path) -> Result<(), Error> {
        for engine in &self.args.engines {
            for balance in &self.args.balance {
                record.runs.push(self.run(engine, balance)?);
                record.write(out)?;
                if self.testbed.stop.is_open() {
                    return Err(Error::Interrupted);
                }
            }
        }
        Ok(())
    }

    /// One setting of `lb`.
    fn run(&self, engine: &str, balance: &str) -> Result<Run, Error> {
        let check = self.args.health();
        let health = (check != "off").then(|| {
            format!("health: {{check: {check}, interval: 500ms, timeout: 500ms, rise: 2, fall: 2}}")
        });
        let file = ClusterFile {
            mode: self.args.mode,
            listen: self.addresses[0],
            admin: self.addresses[1],
            engine: engine.to_owned(),
            workers: 1,
            balance: balance.to_owned(),
            keys: health.into_iter().chain(self.args.keys.clone()).collect(),
            backends: self.addresses[2..].to_vec(),
            relay: None,
            is_secure: self.script.is_secure(),
        };
        if file.is_secure {
            let written = self.testbed.write_identity();
            written.map_err(Error::Identity)?;
        }
        self.testbed
            .write(&file)
            .map_err(Error::system("a configuration for lb"))?;
        eprintln!("{balance}, {engine}:");
        let measured = match self.testbed.refusal()? {
            Some(reason) => Err(format!("lb refuses it: {reason}")),
            None => self.measure(&file)?,
        };
        // What was measured until then is worth keeping.
        if self.testbed.stop.is_open() && measured.is_err() {
            return Err(Error::Interrupted);
        }
        if let Err(reason) = &measured {
            eprintln!("  failed: {reason}");
        }
        Ok(Run {
            mode: file.mode.name().to_owned(),
            engine: file.engine.clone(),
            balance: file.balance.clone(),
            configuration: file.text(),
            outcome: measured.map_or_else(Outcome::Failed, Outcome::Measured),
        })
    }

    fn measure(&self, file: &ClusterFile) -> Result<Result<Figures, String>, Error> {
        let mut scene = Scene::open(self, file)?;
        let balancer = match self.testbed.start_balancer(file) {
            Ok(balancer) => balancer,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut director = Director {
            window: Window::new(balancer.id(), self.testbed.cores.balancer),
            events: self.script.events.clone(),
            scene: &mut scene,
            failure: None,
        };
        let result = load::run(&self.command, &mut director, self.testbed.stop);
        let (cost, failure) = (director.window.cost(), director.failure.take());
        Ok(result.and_then(|summary| self.judge(balancer, &summary, cost, failure)))
    }

    fn judge(
        &self,
        mut balancer: Process,
        summary: &Summary,
        cost: Option<Cost>,
        failure: Option<String>,
    ) -> Result<Figures, String> {
        if let Some(failure) = failure {
            return Err(failure);
        }
        if let Some(how) = balancer.ended() {
            return Err(format!("lb ended under load: {how}"));
        }
        balancer.stop();
        figures(summary, cost)
    }
}

/// What events happen to.
struct Scene<'a> {
    course: &'a Course<'a>,
    /// `None` while one is killed.
    origins: Vec<Option<Process>>,
    /// The configuration as it is now.
    file: ClusterFile,
}

impl<'a> Scene<'a> {
    fn open(course: &'a Course<'a>, file: &ClusterFile) -> Result<Self, Error> {
        let mut scene = Self {
            course,
            origins: Vec::new(),
            file: file.clone(),
        };
        for origin in 0..usize::from(course.args.origins) {
            let process = scene.start(origin)?;
            scene.origins.push(Some(process));
        }
        Ok(scene)
    }

    fn start(&self, origin: usize) -> Result<Process, Error> {
        let name = format!("o-{}", origin + 1);
        let slow_by = written(self.course.args.slow_by);
        let options = format!("--name {name} --slow-by {slow_by}");
        let address = self.course.addresses[2 + origin];
        let testbed = &self.course.testbed;
        testbed.start_origins(self.file.mode, &[address], &name, &options)
    }

    /// Makes `event` happen.
    fn play(&mut self, event: Event) -> Result<(), String> {
        use rustix::process::Signal;
        match event {
            // Dropping a process kills it.
            Event::Kill(origin) => self.origins[origin] = None,
            Event::Restart(origin) => {
                let process = self.start(origin).map_err(|error| error.to_string())?;
                self.origins[origin] = Some(process);
            }
            Event::Stop(origin) => self.signal(origin, Signal::STOP)?,
            Event::Continue(origin) => self.signal(origin, Signal::CONT)?,
            Event::Slow(origin) => self.signal(origin, Signal::USR1)?,
            Event::Recover(origin) => self.signal(origin, Signal::USR2)?,
            Event::Remove(origin) => {
                let removed = self.course.addresses[2 + origin];
                self.file.backends.retain(|backend| *backend != removed);
                self.course.testbed.reload(&self.file)?;
            }
            Event::Add(origin) => {
                self.file.backends.push(self.course.addresses[2 + origin]);
                self.course.testbed.reload(&self.file)?;
            }
            Event::Reload => {
                let written = self.course.testbed.write(&self.file);
                written.map_err(|error| format!("its configuration: {error}"))?;
            }
            Event::Certificate => self.course.testbed.swap_identity(self.file.admin)?,
            Event::BadConfig => {
                let bad = ClusterFile {
                    balance: "[".to_owned(),
                    ..self.file.clone()
                };
                self.course.testbed.spoil(&bad, &self.file)?;
            }
        }
        Ok(())
    }

    fn signal(&self, origin: usize, signal: rustix::process::Signal) -> Result<(), String> {
        let process = self.origins[origin].as_ref();
        let process = process.ok_or_else(|| format!("o-{} is not there", origin + 1))?;
        process
            .signal(signal)
            .map_err(|error| format!("o-{}: {error}", origin + 1))
    }
}

/// Reads the balancer's cost, and makes events happen when their second has come.
struct Director<'a, 'b> {
    window: Window,
    /// Those still to come.
    events: Vec<(u64, Event)>,
    scene: &'a mut Scene<'b>,
    failure: Option<String>,
}

impl Observer for Director<'_, '_> {
    fn on_phase(&mut self, phase: LoadPhase) {
        self.window.on_phase(phase);
    }

    fn on_second(&mut self, second: &Second) {
        eprintln!(
            "  {:>3} s  {} answered, {} failed, {} late",
            second.t + 1,
            second.completed,
            second.errors,
            second.delayed
        );
        while let Some((at, event)) = self.events.first().copied()
            && at <= second.t + 1
        {
            self.events.remove(0);
            eprintln!("  {at:>3} s  {event}");
            if let Err(reason) = self.scene.play(event) {
                self.failure
                    .get_or_insert_with(|| format!("{event}: {reason}"));
            }
        }
    }
}

fn figures(summary: &Summary, cost: Option<Cost>) -> Result<Figures, String> {
    if summary.completed == 0 {
        return Err(load::failures(summary));
    }
    let cost = cost.ok_or("the CPU time of lb could not be read")?;
    let errors = summary.errors.occurred();
    Ok(Figures {
        completed: summary.completed,
        errors: errors
            .map(|(kind, count)| (kind.to_owned(), count))
            .collect(),
        unanswered: summary.unanswered,
        latency: latency_of(summary),
        cpu_us: cost.cpu_s * 1e6 / summary.completed as f64,
        timeline: summary.timeline.clone(),
        generator: summary.generator.clone(),
    })
}

//! The course of it: every scheduler under every workload, then who moves when origins change.
//!
//! Invariant: origins and `lb` are started afresh for each scheduler, so that no queue of one is
//! found by the next; what has been measured is on the disk after each workload.
//! Read next: `../testbed/mod.rs` (what is started), `../report/strategies` (what comes of it).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::budget::settings;
use super::workload::origin_name;
use super::{Args, Ground, Mode, Workload, keys};
use crate::compare::load::{self, LoadCommand, written};
use crate::compare::peers::Peer;
use crate::compare::place::{self, Cores, Folder};
use crate::compare::process::Process;
use crate::compare::round::latency_of;
use crate::compare::window::{Cost, Window};
use crate::compare::{Error, machine};
use crate::gate::Gate;
use crate::report::numbers;
use crate::report::record::{Absent, Outcome};
use crate::report::strategies::draw;
use crate::report::strategies::record::{
    self, Cell, Figures, Keys, KeysCell, Place, Strategies, evenness,
};
use crate::run::{LoadPhase, Observer, Second, Summary};
use crate::testbed::{ClusterFile, Testbed, load_command};

/// A workload in which something changes needs time before, between and after the changes.
pub(super) const CHANGING_MIN: Duration = Duration::from_secs(3);

/// Runs `loadgen strategies` until it is done or `stop` is opened; returns the report's folder.
///
/// # Errors
/// When there is no `lb`, the report cannot be written, or a stop is requested. A scheduler that
/// fails is no error: it is in the report.
pub fn strategies(args: &Args, stop: &Gate) -> Result<PathBuf, Error> {
    let lb = place::own_balancer(args.lb.as_deref())?;
    let program = Peer::Lb.find(&lb).map_err(Error::NoPeers)?;
    let cores = Cores::take().map_err(Error::system("a core of its own for the balancer"))?;
    let machine = machine::describe();
    let record = Strategies::new(
        machine::utc_now(),
        command_line(args),
        machine,
        settings(args, cores),
        program.version,
        [args.origins.into(), args.workers.into()],
    );
    let (started, machine) = (&record.started, &record.machine);
    let out = place::report_folder(args.out.as_deref(), started, machine, "-strategies")?;
    let folder = Folder::make().map_err(Error::system("a working folder"))?;
    let testbed = Testbed {
        lb: &lb,
        cores,
        folder: &folder,
        stop,
    };
    let addresses = testbed.addresses(usize::from(args.origins) + 1)?;
    let mut course = Course {
        args,
        testbed,
        addresses,
        record,
    };
    let result = course.run(&out);
    let record = &mut course.record;
    record.is_partial = matches!(result, Err(Error::Interrupted)) && !record.cells.is_empty();
    if !record.is_partial {
        result?;
    }
    record.write(&out)?;
    draw(record, &out)?;
    if record.is_partial {
        return Err(Error::Partial(out));
    }
    Ok(out)
}

/// The command line, without the paths of this machine.
fn command_line(args: &Args) -> String {
    let names = |workloads: &[Workload]| {
        let names: Vec<&str> = workloads.iter().map(|w| w.name()).collect();
        names.join(",")
    };
    let modes: Vec<&str> = args.modes.iter().map(|mode| mode.name()).collect();
    let mut words = format!(
        "loadgen strategies --balance {} --workload {} --everywhere {} --modes {} --engines {} \
         --relays {} --origins {} --workers {}",
        args.balance.join(","),
        names(&args.workload),
        names(&args.everywhere),
        modes.join(","),
        args.engines.join(","),
        args.relays.join(","),
        args.origins,
        args.workers,
    );
    if let Some(affinity) = &args.affinity {
        words += &format!(" --affinity {affinity}");
    }
    for key in &args.keys {
        words += &format!(" --key {}", key.replacen(": ", "=", 1));
    }
    if let Some(rounds) = args.rounds {
        words += &format!(" --rounds {rounds}");
    }
    if args.duration.is_none() && !args.quick {
        words += &format!(" --budget {}", written(args.budget));
    }
    if let Some(duration) = args.duration {
        words += &format!(" --duration {}", written(duration));
    }
    if args.quick {
        words += " --quick";
    }
    words
}

struct Course<'a> {
    args: &'a Args,
    testbed: Testbed<'a>,
    /// Of `lb`, of its admin API, of all origins and of the one that comes later.
    addresses: Vec<SocketAddr>,
    record: Strategies,
}

impl Course<'_> {
    fn run(&mut self, out: &Path) -> Result<(), Error> {
        for workload in &self.args.workload {
            let odd = usize::from(self.args.origins) - 1;
            self.record.workloads.push(record::Workload {
                name: workload.name().to_owned(),
                description: workload.description(self.args.origins.into()),
                odd_origin: workload.has_odd_origin().then(|| origin_name(odd)),
            });
        }
        let mut has_moved: Vec<Mode> = Vec::new();
        for (place, ground) in self.args.grounds().iter().enumerate() {
            let workloads = self.args.workloads_on(place);
            // Who moves is the same on every engine.
            let is_first = !has_moved.contains(&ground.mode);
            if workloads.is_empty() && !is_first {
                continue;
            }
            let files = self.accepted(ground)?;
            for workload in workloads {
                self.play(workload, &files)?;
                self.record.write(out)?;
            }
            if is_first {
                has_moved.push(ground.mode);
                self.play_keys(ground.mode, &files)?;
                self.record.write(out)?;
            }
        }
        Ok(())
    }

    /// A file for each scheduler that `lb` takes; notes the others.
    fn accepted(&mut self, ground: &Ground) -> Result<Vec<ClusterFile>, Error> {
        let mut accepted = Vec::new();
        for balance in &self.args.balance {
            let affinity = self.args.affinity.iter();
            let affinity = affinity.map(|affinity| format!("affinity: {affinity}"));
            let file = ClusterFile {
                mode: ground.mode,
                listen: self.addresses[0],
                admin: self.addresses[1],
                engine: ground.engine.clone(),
                workers: self.args.workers.into(),
                balance: balance.clone(),
                keys: affinity.chain(self.args.keys.iter().cloned()).collect(),
                backends: self.origins(self.args.origins.into()).to_vec(),
                relay: ground.relay.clone(),
                is_secure: false,
            };
            self.testbed
                .write(&file)
                .map_err(Error::system("a configuration for lb"))?;
            match self.testbed.refusal()? {
                None => accepted.push(file),
                Some(reason) => {
                    eprintln!("{balance} is left out, lb refuses it: {reason}");
                    let name = format!("{balance} ({})", place_of(&file).ground);
                    self.record.refused.push(Absent { name, reason });
                }
            }
        }
        if accepted.is_empty() {
            let names = self.args.balance.join(", ");
            return Err(Error::NoPeers(format!("lb refuses all of {names}")));
        }
        Ok(accepted)
    }

    /// The first `count` of the origins' addresses.
    fn origins(&self, count: usize) -> &[SocketAddr] {
        &self.addresses[2..2 + count]
    }

    /// One workload with all schedulers, in interleaved rounds.
    fn play(&mut self, workload: Workload, files: &[ClusterFile]) -> Result<(), Error> {
        let Some(mode) = files.first().map(|file| file.mode) else {
            return Ok(());
        };
        let command = self.load_command(workload, mode);
        let mut rounds: Vec<Vec<Outcome<Figures>>> = vec![Vec::new(); files.len()];
        for number in 1..=self.record.settings.rounds {
            for (file, rounds) in files.iter().zip(&mut rounds) {
                rounds.push(self.round(number, workload, file, &command)?);
            }
        }
        for (file, rounds) in files.iter().zip(rounds) {
            self.record.cells.push(Cell {
                workload: workload.name().to_owned(),
                place: place_of(file),
                load_command: format!("loadgen {}", command.0.join(" ")),
                outcome: median(&rounds),
                rounds: if rounds.len() > 1 { rounds } else { Vec::new() },
            });
        }
        Ok(())
    }

    /// One round of one scheduler, with fresh origins.
    fn round(
        &self,
        number: usize,
        workload: Workload,
        file: &ClusterFile,
        command: &LoadCommand,
    ) -> Result<Outcome<Figures>, Error> {
        let place = place_of(file);
        eprint!(
            "{} {number}/{} {}, {}: ",
            workload.name(),
            self.record.settings.rounds,
            place.ground,
            place.balance
        );
        let origins = self.start_origins(workload, file.mode)?;
        let measured = self.measure(workload, file, command);
        origins.into_iter().for_each(Process::stop);
        self.check_stop()?;
        match &measured {
            Ok(figures) => eprintln!("{}", told(figures)),
            Err(reason) => eprintln!("failed: {reason}"),
        }
        Ok(measured.map_or_else(Outcome::Failed, Outcome::Measured))
    }

    fn start_origins(&self, workload: Workload, mode: Mode) -> Result<Vec<Process>, Error> {
        let count = usize::from(self.args.origins);
        let service = workload.service(mode);
        let named = |name: &str, service: &str| format!("--name {name} {service}");
        if !workload.has_odd_origin() {
            let all = self.origins(count + 1);
            let options = named("o", &service);
            return Ok(vec![
                self.testbed.start_origins(mode, all, "origins", &options)?,
            ]);
        }
        let (usual, odd) = self.origins(count).split_at(count - 1);
        // One address alone is not numbered.
        let name = if usual.len() == 1 { "o-1" } else { "o" };
        let options = named(name, &service);
        let usual = self
            .testbed
            .start_origins(mode, usual, "origins", &options)?;
        let options = named(&origin_name(count - 1), &workload.odd_service(mode));
        let odd = self
            .testbed
            .start_origins(mode, odd, "odd-origin", &options)?;
        Ok(vec![usual, odd])
    }

    fn load_command(&self, workload: Workload, mode: Mode) -> LoadCommand {
        let settings = &self.record.settings;
        let times = format!(
            " --warmup {} -d {} --cpu {}",
            written(Duration::from_secs_f64(settings.warmup_s)),
            written(self.duration(workload)),
            settings.generator_cpu,
        );
        let options = workload.load(mode, self.args.origins.into()) + &times;
        load_command(mode, false, self.addresses[0], &options)
    }

    fn duration(&self, workload: Workload) -> Duration {
        let duration = Duration::from_secs_f64(self.record.settings.duration_s);
        if workload.changes() {
            duration.max(CHANGING_MIN)
        } else {
            duration
        }
    }

    fn measure(
        &self,
        workload: Workload,
        file: &ClusterFile,
        command: &LoadCommand,
    ) -> Result<Figures, String> {
        self.testbed
            .write(file)
            .map_err(|error| format!("its configuration: {error}"))?;
        let mut process = self.testbed.start_balancer(file)?;
        let third = self.duration(workload).as_secs() / 3;
        let mut failure = None;
        let mut change = |second: u64| {
            let (usual, all) = (file.backends.len(), self.origins(file.backends.len() + 1));
            let backends = match second {
                _ if !workload.changes() => return,
                s if s == third => all[..usual - 1].to_vec(),
                s if s == 2 * third => [&all[..usual - 1], &all[usual..]].concat(),
                _ => return,
            };
            let changed = ClusterFile {
                backends,
                ..file.clone()
            };
            if let Err(reason) = self.testbed.reload(&changed) {
                failure.get_or_insert(reason);
            }
        };
        let mut conductor = Conductor {
            window: Window::new(process.id(), self.record.settings.balancer_cpu),
            change: &mut change,
        };
        let summary = load::run(command, &mut conductor, self.testbed.stop)?;
        let cost = conductor.window.cost();
        if let Some(failure) = failure {
            return Err(failure);
        }
        if let Some(how) = process.ended() {
            return Err(format!("lb ended under load: {how}"));
        }
        process.stop();
        let names = file.backends.len() + usize::from(workload.changes());
        figures(&summary, cost, names)
    }

    /// Who moves, with all schedulers. The origins answer at once.
    fn play_keys(&mut self, mode: Mode, files: &[ClusterFile]) -> Result<(), Error> {
        let count = usize::from(self.args.origins);
        let all = self.origins(count + 1);
        let origins = self
            .testbed
            .start_origins(mode, all, "origins", "--name o")?;
        for file in files {
            let place = place_of(file);
            eprint!("clients moved {}, {}: ", place.ground, place.balance);
            let measured = self.measure_keys(file);
            self.check_stop()?;
            match &measured {
                Ok(keys) => eprintln!(
                    "{} by nothing, {} by a removal, {} by an addition, of {}",
                    keys.moved_by_nothing,
                    keys.moved_by_removal,
                    keys.moved_by_addition,
                    keys.clients
                ),
                Err(reason) => eprintln!("failed: {reason}"),
            }
            self.record.keys.push(KeysCell {
                place,
                outcome: measured.map_or_else(Outcome::Failed, Outcome::Measured),
            });
        }
        origins.stop();
        Ok(())
    }

    fn measure_keys(&self, file: &ClusterFile) -> Result<Keys, String> {
        // Prime, so that schedulers that take turns do not come out even by chance.
        let clients = if self.args.quick { 211 } else { 1009 };
        self.testbed
            .write(file)
            .map_err(|error| format!("its configuration: {error}"))?;
        let process = self.testbed.start_balancer(file)?;
        let ask = || keys::ask(file.mode, file.listen, clients, self.testbed.stop);
        let change = |backends: Vec<SocketAddr>| {
            self.testbed.reload(&ClusterFile {
                backends,
                ..file.clone()
            })
        };
        let usual = file.backends.len();
        let all = self.origins(usual + 1);
        let (first, again) = (ask()?, ask()?);
        change(all[..usual - 1].to_vec())?;
        let without = ask()?;
        change([&all[..usual - 1], &all[usual..]].concat())?;
        let with = ask()?;
        process.stop();
        let (removed, added) = (origin_name(usual - 1), origin_name(usual));
        let maps = [&first, &again, &without, &with];
        Ok(keys::compare(usual, maps, &removed, &added))
    }

    fn check_stop(&self) -> Result<(), Error> {
        if self.testbed.stop.is_open() {
            return Err(Error::Interrupted);
        }
        Ok(())
    }
}

/// The rounds that went through as one; if none did, why the first did not.
fn median(rounds: &[Outcome<Figures>]) -> Outcome<Figures> {
    let measured = rounds.iter().filter_map(|round| match round {
        Outcome::Measured(figures) => Some(figures.clone()),
        Outcome::Failed(_) => None,
    });
    let measured: Vec<Figures> = measured.collect();
    match (Figures::of_rounds(&measured), rounds.first()) {
        (Some(figures), _) => Outcome::Measured(figures),
        (None, Some(first)) => first.clone(),
        (None, None) => Outcome::Failed("there were no rounds".to_owned()),
    }
}

fn place_of(file: &ClusterFile) -> Place {
    Place {
        ground: record::Ground {
            mode: file.mode.name().to_owned(),
            engine: file.engine.clone(),
            relay: file.relay.clone(),
        },
        balance: file.balance.clone(),
    }
}

/// Reads the balancer's cost, and changes something as the seconds go by.
struct Conductor<'a> {
    window: Window,
    /// Called with the number of seconds that are over.
    change: &'a mut dyn FnMut(u64),
}

impl Observer for Conductor<'_> {
    fn on_phase(&mut self, phase: LoadPhase) {
        self.window.on_phase(phase);
    }

    fn on_second(&mut self, second: &Second) {
        (self.change)(second.t + 1);
    }
}

fn figures(summary: &Summary, cost: Option<Cost>, origins: usize) -> Result<Figures, String> {
    if summary.completed == 0 {
        return Err(load::failures(summary));
    }
    let cost = cost.ok_or("the CPU time of lb could not be read")?;
    let shares: BTreeMap<String, u64> = (0..origins)
        .map(|number| {
            let name = origin_name(number);
            let answers = summary.per_origin.get(&name).copied().unwrap_or(0);
            (name, answers)
        })
        .collect();
    let (max_over_mean, chi_square) = evenness(&shares);
    let errors = summary.errors.occurred();
    Ok(Figures {
        completed: summary.completed,
        per_s: summary.rate_per_s,
        due: summary.completed + summary.errors.total() + summary.unanswered,
        errors: errors
            .map(|(kind, count)| (kind.to_owned(), count))
            .collect(),
        unanswered: summary.unanswered,
        cpu_us: cost.cpu_s * 1e6 / summary.completed as f64,
        latency: latency_of(summary),
        shares,
        max_over_mean,
        chi_square,
        affinity: summary.affinity,
        generator: summary.generator.clone(),
    })
}

fn told(figures: &Figures) -> String {
    format!(
        "{} per second, {} failed, p99 {}, max/mean {:.3}",
        numbers::plain(figures.per_s),
        figures.failed(),
        numbers::microseconds(figures.latency.p99_us),
        figures.max_over_mean,
    )
}

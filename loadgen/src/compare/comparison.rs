//! The course of a comparison: which programs are there, then scenario after scenario.
//!
//! Invariant: what has been measured is on the disk after each scenario, and the folder of a
//! report is never written twice. Read `play` (one scenario) next.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::load::{Timing, written};
use super::peers::{IDENTITY, Peer, Program};
use super::place::{self, Cores, Folder};
use super::play::Stage;
use super::progress::Progress;
use super::round::{Bench, IDLE_BASE};
use super::scenario::{Scenario, Subject};
use super::{Args, Error, machine};
use crate::descriptors;
use crate::gate::Gate;
use crate::report::record::{self, Absent, Record, Settings};
use crate::report::repeat::{self, Before};
use crate::report::{self, readme};
use crate::tls::Identity;

/// What is measured when nothing else is asked for.
struct Defaults {
    rounds: u16,
    duration: Duration,
    warmup: Duration,
    /// If descriptors allow.
    idle_connections: usize,
}

const USUAL: Defaults = Defaults {
    rounds: 5,
    duration: Duration::from_secs(3),
    warmup: Duration::from_millis(300),
    idle_connections: 9_000,
};
const QUICK: Defaults = Defaults {
    rounds: 2,
    duration: Duration::from_secs(1),
    warmup: Duration::from_millis(300),
    idle_connections: 1_000,
};

/// All scenarios with three peers are to take a quarter of an hour.
const BUDGET: Duration = Duration::from_mins(14);
/// The shortest round that says something.
const DURATION_MIN: Duration = Duration::from_secs(1);
/// What starting and ending a balancer takes.
const ROUND_OVERHEAD: Duration = Duration::from_millis(400);
/// A round of idle connections takes as long as so many others.
pub(super) const IDLE_CELLS: usize = 3;

/// Descriptors that an idle round leaves alone.
const DESCRIPTORS_SPARE: usize = 200;

/// Runs `loadgen compare` until it is done or `stop` is opened; returns the folder of the report.
///
/// # Errors
/// When there is nothing to compare, the report cannot be written, or a stop is requested. A
/// peer that misbehaves is no error: it is in the report.
pub fn compare(args: &Args, stop: &Gate) -> Result<PathBuf, Error> {
    let cores = Cores::take().map_err(Error::system("a core of its own for the balancer"))?;
    let Plan {
        mut record,
        programs,
        missing,
        out,
    } = match &args.resume {
        Some(folder) => resumed(args, folder)?,
        None => begun(args, cores)?,
    };
    let configurations = out.join(readme::CONFIGURATIONS);
    fs::create_dir_all(&configurations)
        .map_err(Error::system(configurations.display().to_string()))?;
    let folder = Folder::make().map_err(Error::system("a working folder"))?;
    Identity::self_signed(&["localhost", "127.0.0.1"])
        .and_then(|identity| identity.write(folder.path(), IDENTITY))
        .map_err(|error| Error::Identity(error.to_string()))?;
    let cells = missing
        .iter()
        .map(|scenario| cells(*scenario))
        .sum::<usize>();
    let stage = Stage {
        programs: &programs,
        rounds: record.settings.rounds,
        timing: Timing {
            warmup: Duration::from_secs_f64(record.settings.warmup_s),
            duration: Duration::from_secs_f64(record.settings.duration_s),
            cpu: cores.generator,
        },
        configurations: &configurations,
        progress: Progress::new(cells * programs.len() * record.settings.rounds),
        bench: Bench {
            stop,
            cores,
            folder: folder.path(),
            idle_connections: idle_connections(args),
        },
    };
    // Until everything is there, whatever happens.
    record.is_partial = true;
    for scenario in missing {
        match stage.play(scenario) {
            Ok(measured) => record.scenarios.push(measured),
            Err(Error::Interrupted) if !record.scenarios.is_empty() => {
                record.write(&out)?;
                report::draw(&record, &out)?;
                return Err(Error::Resumable(out));
            }
            Err(error) => return Err(error),
        }
        record.write(&out)?;
    }
    record.is_partial = false;
    record.before = match &args.before {
        Some(folder) => Some(Before::read(folder)?),
        None => Before::beside(&record, &out),
    };
    record.write(&out)?;
    report::draw(&record, &out)?;
    eprint!("{}", repeat::told(&record));
    Ok(out)
}

/// What is to be done.
struct Plan {
    record: Record,
    programs: Vec<Program>,
    missing: Vec<Scenario>,
    out: PathBuf,
}

/// A new comparison.
fn begun(args: &Args, cores: Cores) -> Result<Plan, Error> {
    let (now, machine) = (machine::utc_now(), machine::describe());
    let missing: Vec<Scenario> = chosen(args).collect();
    let settings = settings(args, cores, &missing);
    let mut record = Record::new(now, command_line(args), machine, settings);
    record.asked = missing.iter().map(|it| it.name().to_owned()).collect();
    let programs = find_programs(args, &args.peers, &mut record)?;
    let out = place::report_folder(args.out.as_deref(), &record.started, &record.machine, "")?;
    Ok(Plan {
        record,
        programs,
        missing,
        out,
    })
}

/// The rest of one that was interrupted, as it was to be.
fn resumed(args: &Args, folder: &Path) -> Result<Plan, Error> {
    let refuse = |why: &str| Error::Resume {
        folder: folder.to_owned(),
        why: why.to_owned(),
    };
    let mut record = Record::read(folder)?;
    if !record.is_partial {
        return Err(refuse("this comparison is complete"));
    }
    let is_missing = |scenario: &Scenario| {
        let name = scenario.name();
        record.asked.iter().any(|asked| asked == name) && record.scenario(name).is_none()
    };
    let missing: Vec<Scenario> = Scenario::ALL.into_iter().filter(is_missing).collect();
    if record.machine != machine::describe() {
        return Err(refuse("it was begun on another machine, or another kernel"));
    }
    let known = std::mem::take(&mut record.peers);
    record.absent.clear();
    let peers: Result<Vec<Peer>, _> = known.iter().map(|peer| Peer::parse(&peer.name)).collect();
    let programs = find_programs(args, &peers.map_err(|why| refuse(&why))?, &mut record)?;
    if record.peers != known {
        return Err(refuse("the programs are not those that it was begun with"));
    }
    record.resumed.push(machine::utc_now());
    Ok(Plan {
        record,
        programs,
        missing,
        out: folder.to_owned(),
    })
}

/// Rounds that a scenario has for each peer, counted as so many of the usual length.
pub(super) fn cells(scenario: Scenario) -> usize {
    match scenario.spec().subject {
        Subject::Load(traffic) => 1 + usize::from(traffic.fixed_rate),
        Subject::Spread => 1,
        Subject::IdleMemory => IDLE_CELLS,
    }
}

fn defaults(args: &Args) -> Defaults {
    if args.quick { QUICK } else { USUAL }
}

fn settings(args: &Args, cores: Cores, scenarios: &[Scenario]) -> Settings {
    let Defaults {
        duration,
        warmup,
        rounds,
        ..
    } = defaults(args);
    let rounds = usize::from(args.rounds.unwrap_or(rounds));
    let cells = scenarios
        .iter()
        .map(|scenario| cells(*scenario))
        .sum::<usize>();
    let all = (cells * rounds * args.peers.len()).max(1);
    let budget = args.budget.unwrap_or(BUDGET) / u32::try_from(all).unwrap_or(u32::MAX);
    let possible = budget.saturating_sub(warmup + ROUND_OVERHEAD);
    // A tenth of a second is exact enough, and reads well.
    let possible = Duration::from_millis(possible.as_millis() as u64 / 100 * 100);
    let affordable = duration.min(possible).max(DURATION_MIN);
    Settings {
        rounds,
        duration_s: args.duration.unwrap_or(affordable).as_secs_f64(),
        warmup_s: warmup.as_secs_f64(),
        balancer_cpu: cores.balancer,
        generator_cpu: cores.generator,
        generator_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Those of the peers that are installed; the record names the others too.
fn find_programs(args: &Args, peers: &[Peer], record: &mut Record) -> Result<Vec<Program>, Error> {
    let lb = place::own_balancer(args.lb.as_deref())?;
    let mut programs = Vec::new();
    for &peer in peers {
        let name = peer.name().to_owned();
        match peer.find(&lb) {
            Ok(program) => {
                record.peers.push(record::Peer {
                    name,
                    version: program.version.clone(),
                });
                programs.push(program);
            }
            Err(reason) => {
                eprintln!(
                    "{name} is skipped: {reason} ({})",
                    peer.executable(&lb).display()
                );
                record.absent.push(Absent { name, reason });
            }
        }
    }
    if programs.is_empty() {
        let names: Vec<&str> = peers.iter().map(|peer| peer.name()).collect();
        return Err(Error::NoPeers(names.join(", ")));
    }
    Ok(programs)
}

/// The scenarios asked for, each once, in the order of a report.
fn chosen(args: &Args) -> impl Iterator<Item = Scenario> {
    let asked = |scenario: &Scenario| {
        let stands_for = |name: &String| Scenario::parse(name).is_ok_and(|s| s.contains(scenario));
        args.scenario.iter().any(stands_for)
    };
    Scenario::ALL.into_iter().filter(asked)
}

/// As many as wanted, if descriptors allow: a relay needs two for a session.
fn idle_connections(args: &Args) -> usize {
    let descriptors = descriptors::raise_limit();
    let possible = descriptors.saturating_sub(DESCRIPTORS_SPARE) / 2;
    defaults(args)
        .idle_connections
        .min(possible)
        .max(2 * IDLE_BASE)
}

/// The command line, without the paths of this machine.
fn command_line(args: &Args) -> String {
    let peers: Vec<&str> = args.peers.iter().map(|peer| peer.name()).collect();
    let mut words = format!(
        "loadgen compare --scenario {} --peers {}",
        args.scenario.join(","),
        peers.join(",")
    );
    if let Some(rounds) = args.rounds {
        words += &format!(" --rounds {rounds}");
    }
    if let Some(duration) = args.duration {
        words += &format!(" --duration {}", written(duration));
    }
    if let Some(budget) = args.budget {
        words += &format!(" --budget {}", written(budget));
    }
    if args.quick {
        words += " --quick";
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> Args {
        Args {
            scenario: vec![
                "idle-memory".to_owned(),
                "l4-small".to_owned(),
                "l4-small".to_owned(),
            ],
            peers: vec![Peer::Lb, Peer::Nginx],
            rounds: Some(3),
            duration: Some(Duration::from_secs(2)),
            out: Some(PathBuf::from("/secret/place")),
            lb: Some(PathBuf::from("/secret/lb")),
            quick: true,
            budget: None,
            before: None,
            resume: None,
        }
    }

    #[test]
    fn rounds_are_as_long_as_the_budget_allows() {
        let cores = Cores {
            balancer: 0,
            generator: 1,
        };
        let of = |args: &Args, scenarios: &[Scenario]| settings(args, cores, scenarios).duration_s;
        let all = Args {
            rounds: None,
            duration: None,
            quick: false,
            peers: vec![Peer::Lb, Peer::Nginx, Peer::Haproxy],
            ..args()
        };
        assert_eq!(of(&all, &[Scenario::L4Small]), 3.0);
        let everything = of(&all, &Scenario::ALL);
        assert!((1.0..2.0).contains(&everything), "{everything}");
        let hurried = Args {
            budget: Some(Duration::from_secs(1)),
            ..all
        };
        assert_eq!(of(&hurried, &Scenario::ALL), 1.0);
        assert_eq!(of(&args(), &Scenario::ALL), 2.0, "as it was asked for");
    }

    #[test]
    fn scenarios_come_once_and_in_order() {
        let chosen: Vec<Scenario> = chosen(&args()).collect();
        let expected = [
            Scenario::L4Small,
            Scenario::IdleMemoryHttp,
            Scenario::IdleMemoryTls,
            Scenario::IdleMemoryTcp,
        ];
        assert_eq!(chosen, expected);
    }

    #[test]
    fn the_recorded_command_names_no_paths() {
        assert_eq!(
            command_line(&args()),
            "loadgen compare --scenario idle-memory,l4-small,l4-small --peers lb,nginx --rounds 3 \
             --duration 2s --quick"
        );
    }
}

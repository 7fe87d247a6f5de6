//! The course of a comparison: which programs are there, then scenario after scenario.
//!
//! Invariant: what has been measured is on the disk after each scenario, and the folder of a
//! report is never written twice. Read `play` (one scenario) next.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::load::{Timing, written};
use super::peers::{IDENTITY, Program};
use super::place::{self, Cores, Folder};
use super::play::Stage;
use super::round::{Bench, IDLE_BASE};
use super::scenario::Scenario;
use super::{Args, Error, machine};
use crate::descriptors;
use crate::gate::Gate;
use crate::report::record::{Absent, Peer, Record, Settings};
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

/// All scenarios with three peers take a quarter of an hour.
const USUAL: Defaults = Defaults {
    rounds: 5,
    duration: Duration::from_secs(3),
    warmup: Duration::from_millis(500),
    idle_connections: 9_000,
};
const QUICK: Defaults = Defaults {
    rounds: 2,
    duration: Duration::from_secs(1),
    warmup: Duration::from_millis(300),
    idle_connections: 1_000,
};

/// Descriptors that an idle round leaves alone.
const DESCRIPTORS_SPARE: usize = 200;

/// Runs `loadgen compare` until it is done or `stop` is opened; returns the folder of the report.
///
/// # Errors
/// When there is nothing to compare, the report cannot be written, or a stop is requested. A
/// peer that misbehaves is no error: it is in the report.
pub fn compare(args: &Args, stop: &Gate) -> Result<PathBuf, Error> {
    let cores = Cores::take().map_err(Error::system("a core of its own for the balancer"))?;
    let timing = timing(args, cores);
    let settings = settings(args, cores, timing);
    let (now, machine) = (machine::utc_now(), machine::describe());
    let mut record = Record::new(now, command_line(args), machine, settings);
    let programs = find_programs(args, &mut record)?;
    let out = place::report_folder(args.out.as_deref(), &record.started, &record.machine, "")?;
    let configurations = out.join(readme::CONFIGURATIONS);
    fs::create_dir_all(&configurations)
        .map_err(Error::system(configurations.display().to_string()))?;
    let folder = Folder::make().map_err(Error::system("a working folder"))?;
    Identity::self_signed(&["localhost", "127.0.0.1"])
        .and_then(|identity| identity.write(folder.path(), IDENTITY))
        .map_err(|error| Error::Identity(error.to_string()))?;
    let idle_connections = idle_connections(args);
    let stage = Stage {
        programs: &programs,
        rounds: record.settings.rounds,
        timing,
        configurations: &configurations,
        bench: Bench {
            stop,
            cores,
            folder: folder.path(),
            idle_connections,
        },
    };
    for scenario in chosen(args) {
        match stage.play(scenario) {
            Ok(measured) => record.scenarios.push(measured),
            Err(Error::Interrupted) if !record.scenarios.is_empty() => {
                record.is_partial = true;
                break;
            }
            Err(error) => return Err(error),
        }
        record.write(&out)?;
    }
    record.write(&out)?;
    report::draw(&record, &out)?;
    if record.is_partial {
        return Err(Error::Partial(out));
    }
    Ok(out)
}

fn defaults(args: &Args) -> Defaults {
    if args.quick { QUICK } else { USUAL }
}

fn timing(args: &Args, cores: Cores) -> Timing {
    let Defaults {
        duration, warmup, ..
    } = defaults(args);
    Timing {
        warmup,
        duration: args.duration.unwrap_or(duration),
        cpu: cores.generator,
    }
}

fn settings(args: &Args, cores: Cores, timing: Timing) -> Settings {
    Settings {
        rounds: args.rounds.unwrap_or_else(|| defaults(args).rounds).into(),
        duration_s: timing.duration.as_secs_f64(),
        warmup_s: timing.warmup.as_secs_f64(),
        balancer_cpu: cores.balancer,
        generator_cpu: cores.generator,
        generator_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Those of the peers that are installed; the record names the others too.
fn find_programs(args: &Args, record: &mut Record) -> Result<Vec<Program>, Error> {
    let lb = place::own_balancer(args.lb.as_deref())?;
    let mut programs = Vec::new();
    for &peer in &args.peers {
        let name = peer.name().to_owned();
        match peer.find(&lb) {
            Ok(program) => {
                record.peers.push(Peer {
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
        let names: Vec<&str> = args.peers.iter().map(|peer| peer.name()).collect();
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
    if args.quick {
        words += " --quick";
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::peers::Peer;
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
        }
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

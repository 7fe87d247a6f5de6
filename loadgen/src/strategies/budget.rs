//! How many rounds there are and how long they take, within a budget.
//!
//! Invariant: what was asked for by name is never shortened.
//! Read next: `course.rs`.

use std::time::Duration;

use super::Args;
use super::course::CHANGING_MIN;
use crate::compare::place::Cores;
use crate::report::record::Settings;

struct Defaults {
    rounds: usize,
    duration: Duration,
    warmup: Duration,
}

const USUAL: Defaults = Defaults {
    rounds: 3,
    duration: Duration::from_secs(5),
    warmup: Duration::from_secs(1),
};
const QUICK: Defaults = Defaults {
    rounds: 1,
    duration: Duration::from_secs(1),
    warmup: Duration::from_millis(300),
};

/// What asking who moves takes with one scheduler.
const KEYS: Duration = Duration::from_secs(1);
/// What starting and ending origins and balancer takes, by the round.
const ROUND_OVERHEAD: Duration = Duration::from_millis(600);

pub(super) fn settings(args: &Args, cores: Cores) -> Settings {
    let usual = if args.quick { QUICK } else { USUAL };
    let (rounds, duration, warmup) = match args.duration {
        Some(duration) => {
            let rounds = args.rounds.map_or(usual.rounds, usize::from);
            (rounds, duration, usual.warmup)
        }
        None => affordable(args, &usual),
    };
    Settings {
        rounds,
        duration_s: duration.as_secs_f64(),
        warmup_s: warmup.as_secs_f64(),
        balancer_cpu: cores.balancer,
        generator_cpu: cores.generator,
        generator_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// The rounds, the measured part of each and the load before it that the budget allows. Says so
/// when even the fewest and shortest do not fit in.
fn affordable(args: &Args, usual: &Defaults) -> (usize, Duration, Duration) {
    let wanted = args.rounds.map_or(usual.rounds, usize::from);
    let least = args.rounds.map_or(1, usize::from);
    let mut rounds = wanted;
    loop {
        let (duration, warmup) = lengths(args, rounds, usual);
        let needed = time_for(args, rounds, duration, warmup);
        if needed <= args.budget {
            return (rounds, duration, warmup);
        }
        if rounds == least {
            eprintln!(
                "{rounds} rounds of a second each take {:.0} min, which is more than the budget",
                needed.as_secs_f64() / 60.0
            );
            return (rounds, duration, warmup);
        }
        rounds -= 1;
    }
}

/// The measured part of each of so many rounds, and the load before it.
fn lengths(args: &Args, rounds: usize, usual: &Defaults) -> (Duration, Duration) {
    let fixed = time_for(args, rounds, Duration::ZERO, Duration::ZERO);
    let each = args.budget.saturating_sub(fixed) / times(cells(args) * rounds).max(1);
    // The load before is to be short beside what is measured.
    let warmup = usual.warmup.min((each / 4).max(QUICK.warmup));
    let possible =
        Duration::from_millis(each.saturating_sub(warmup).as_millis() as u64 / 100 * 100);
    (usual.duration.min(possible).max(QUICK.duration), warmup)
}

/// Schedulers under workloads, on all grounds.
fn cells(args: &Args) -> usize {
    let on = |place| args.workloads_on(place).len();
    args.balance.len() * (0..args.grounds().len()).map(on).sum::<usize>()
}

/// What everything takes with rounds of this length.
fn time_for(args: &Args, rounds: usize, duration: Duration, warmup: Duration) -> Duration {
    let round = duration + warmup + ROUND_OVERHEAD;
    let changing = |place| {
        args.workloads_on(place)
            .iter()
            .filter(|w| w.changes())
            .count()
    };
    let changing: usize = (0..args.grounds().len()).map(changing).sum();
    let longer = CHANGING_MIN.saturating_sub(duration);
    round * times(cells(args) * rounds)
        + longer * times(changing * args.balance.len() * rounds)
        + KEYS * times(args.balance.len() * args.modes.len())
}

fn times(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn settings_of(words: &str) -> Settings {
        let words = format!("loadgen strategies {words}");
        let cli = Cli::try_parse_from(words.split_whitespace()).unwrap();
        let Command::Strategies(args) = cli.command else {
            panic!("{words}")
        };
        let cores = Cores {
            balancer: 0,
            generator: 1,
        };
        settings(&args, cores)
    }

    #[test]
    fn rounds_are_as_long_as_the_budget_allows() {
        let times = |words: &str| {
            let settings = settings_of(words);
            (settings.rounds, settings.duration_s, settings.warmup_s)
        };
        let few = "--balance rr,lc --workload uniform,slow --modes http --engines uring";
        // Two seconds for who moves; twelve rounds of ten seconds, then of four.
        assert_eq!(times(&format!("{few} --budget 122s")), (3, 5.0, 1.0));
        assert_eq!(times(&format!("{few} --budget 50s")), (3, 2.5, 0.85));
        // Too little for three rounds, then for one.
        assert_eq!(times(&format!("{few} --budget 20s")), (2, 1.2, 0.4125));
        assert_eq!(times(&format!("{few} --budget 1s")), (1, 1.0, 0.3));
        assert_eq!(
            times(&format!("{few} --budget 1s --rounds 2")),
            (2, 1.0, 0.3)
        );
        assert_eq!(
            times(&format!("{few} --duration 9s --budget 1s")),
            (3, 9.0, 1.0)
        );
        assert_eq!(times("--quick --rounds 2"), (2, 1.0, 0.3));
    }
}

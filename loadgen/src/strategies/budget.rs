//! How many rounds there are and how long they take, within a budget.
//!
//! Invariant: what was asked for by name is never shortened.
//! Read next: `course.rs`.

use std::time::Duration;

use super::Args;
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

/// What starting and ending origins and balancer takes, and asking who moves, by the round.
const ROUND_OVERHEAD: Duration = Duration::from_millis(600);

pub(super) fn settings(args: &Args, cores: Cores) -> Settings {
    let usual = if args.quick { QUICK } else { USUAL };
    let rounds = args.rounds.map_or(usual.rounds, usize::from);
    let (duration, warmup) = match args.duration {
        Some(duration) => (duration, usual.warmup),
        None => affordable(args, rounds, &usual),
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

/// The measured part of a round and the load before it that the budget allows. Says so when even
/// the shortest do not fit in.
fn affordable(args: &Args, rounds: usize, usual: &Defaults) -> (Duration, Duration) {
    let grounds = args.balance.len() * args.engines.len() * args.modes.len();
    let all = u32::try_from(grounds * args.workload.len() * rounds).unwrap_or(u32::MAX);
    let each = (args.budget / all.max(1)).saturating_sub(ROUND_OVERHEAD);
    // The load before is to be short beside what is measured.
    let warmup = usual.warmup.min((each / 4).max(QUICK.warmup));
    let possible =
        Duration::from_millis(each.saturating_sub(warmup).as_millis() as u64 / 100 * 100);
    let duration = usual.duration.min(possible).max(QUICK.duration);
    let needed = (duration + warmup + ROUND_OVERHEAD) * all;
    if needed > args.budget {
        eprintln!(
            "{all} rounds of a second each take {:.0} min, which is more than the budget",
            needed.as_secs_f64() / 60.0
        );
    }
    (duration, warmup)
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
        let few = "--balance rr,lc --workload uniform,slow";
        // Twelve rounds of ten seconds, then of four, then of none.
        assert_eq!(times(&format!("{few} --budget 2m")), (3, 5.0, 1.0));
        assert_eq!(times(&format!("{few} --budget 48s")), (3, 2.5, 0.85));
        assert_eq!(times(&format!("{few} --budget 1s")), (3, 1.0, 0.3));
        assert_eq!(
            times(&format!("{few} --duration 9s --budget 1s")),
            (3, 9.0, 1.0)
        );
        assert_eq!(times("--quick --rounds 2"), (2, 1.0, 0.3));
    }
}

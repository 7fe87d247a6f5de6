//! Was the generator itself the bottleneck? CPU time of its threads, its cores, the machine.
//!
//! Invariant: what the kernel does not tell counts as zero, and never as a reason.
//! Read next: `gather.rs`, which judges.

use std::fs;
use std::time::Duration;

/// CPU time of one thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ThreadTimes {
    /// On a core.
    pub(super) running: Duration,
    /// Ready to run, but without a core.
    pub(super) waiting: Duration,
}

impl ThreadTimes {
    /// Those of the calling thread since it began.
    pub(super) fn read() -> Self {
        let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        Self::parse(&text).unwrap_or_default()
    }

    fn parse(text: &str) -> Option<Self> {
        let mut nanos = text.split_whitespace().map_while(|word| word.parse().ok());
        let (running, waiting) = (nanos.next()?, nanos.next()?);
        Some(Self {
            running: Duration::from_nanos(running),
            waiting: Duration::from_nanos(waiting),
        })
    }

    pub(super) const fn since(self, earlier: Self) -> Self {
        Self {
            running: self.running.saturating_sub(earlier.running),
            waiting: self.waiting.saturating_sub(earlier.waiting),
        }
    }
}

/// What the cores of the machine did, in clock ticks since it started.
#[derive(Debug, Clone, Default)]
pub(super) struct CoreTimes {
    all: Ticks,
    /// By number; a core that is offline has none.
    cores: Vec<(usize, Ticks)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Ticks {
    idle: u64,
    stolen: u64,
    total: u64,
}

impl CoreTimes {
    /// Those of now.
    pub(super) fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// See proc_stat(5): user nice system idle iowait irq softirq steal; guest time is in user.
    fn parse(text: &str) -> Self {
        let mut times = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let Some(number) = words.next().and_then(|name| name.strip_prefix("cpu")) else {
                break;
            };
            let mut ticks = [0u64; 8];
            for (tick, word) in ticks.iter_mut().zip(words) {
                *tick = word.parse().unwrap_or(0);
            }
            let ticks = Ticks {
                idle: ticks[3] + ticks[4],
                stolen: ticks[7],
                total: ticks.iter().sum(),
            };
            match number.parse() {
                Ok(number) => times.cores.push((number, ticks)),
                Err(_) => times.all = ticks,
            }
        }
        times
    }

    /// Busy part of the busiest of `cores` since `earlier`, whoever used it; without `cores`, of
    /// the whole machine.
    pub(super) fn busy_fraction(&self, earlier: &Self, cores: Option<&[usize]>) -> f64 {
        let Some(cores) = cores else {
            return self.all.busy_since(earlier.all);
        };
        let of = |times: &Self, core| {
            times
                .cores
                .iter()
                .find(|(number, _)| *number == core)
                .copied()
        };
        let fraction = |core: &usize| Some(of(self, *core)?.1.busy_since(of(earlier, *core)?.1));
        cores.iter().filter_map(fraction).fold(0.0, f64::max)
    }

    /// Part of the machine's time that the hypervisor took since `earlier`.
    pub(super) fn steal_fraction(&self, earlier: &Self) -> f64 {
        fraction(
            self.all.stolen.saturating_sub(earlier.all.stolen),
            self.all.since(earlier.all),
        )
    }
}

impl Ticks {
    const fn since(self, earlier: Self) -> u64 {
        self.total.saturating_sub(earlier.total)
    }

    fn busy_since(self, earlier: Self) -> f64 {
        let total = self.since(earlier);
        fraction(
            total.saturating_sub(self.idle.saturating_sub(earlier.idle)),
            total,
        )
    }
}

fn fraction(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_times_come_from_schedstat() {
        let times = ThreadTimes::parse("1500000000 20000000 77\n").unwrap();
        assert_eq!(times.running, Duration::from_millis(1500));
        assert_eq!(times.waiting, Duration::from_millis(20));
        let later = ThreadTimes::parse("2500000000 20000000 99\n").unwrap();
        assert_eq!(later.since(times).running, Duration::from_secs(1));
        assert_eq!(ThreadTimes::parse(""), None);
    }

    #[test]
    fn fractions_cover_the_time_between_two_readings() {
        let before = CoreTimes::parse(
            "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 50 0 50 400 0 0 0 0 0 0\n\
             cpu1 50 0 50 400 0 0 0 0 0 0\nintr 5 5\ncpu9 1 1 1 1\n",
        );
        let after = CoreTimes::parse(
            "cpu  190 0 190 980 0 0 0 40 0 0\ncpu0 50 0 50 500 0 0 0 0 0 0\n\
             cpu1 140 0 140 380 20 0 0 20 0 0\n",
        );
        assert_eq!(after.busy_fraction(&before, Some(&[0])), 0.0);
        assert_eq!(after.busy_fraction(&before, Some(&[0, 1, 2])), 1.0);
        assert_eq!(after.busy_fraction(&before, None), 220.0 / 400.0);
        assert_eq!(after.steal_fraction(&before), 0.1);
        assert_eq!(before.steal_fraction(&before), 0.0);
    }
}

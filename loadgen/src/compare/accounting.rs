//! What a balancer costs: CPU time and memory of a process with all its children and threads.
//!
//! Invariant: nothing is left out. Children, threads and kernel workers of io_uring count, and
//! the time of threads that have ended. All of it comes from `/proc`; the parsing is pure.

use std::collections::HashMap;
use std::fs;
use std::io;

use rustix::param::clock_ticks_per_second;

use crate::report::record::Memory;

/// CPU time so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CpuTime {
    /// Time on a core by the scheduler's count, in nanoseconds; living threads only.
    pub(crate) run_ns: u64,
    /// `utime`, of ended threads too, in clock ticks.
    pub(crate) user_ticks: u64,
    /// `stime`, of ended threads too, in clock ticks.
    pub(crate) system_ticks: u64,
}

/// How far the ticks may run ahead of the nanoseconds by rounding alone.
const TICK_ROUNDING_S: f64 = 0.05;

impl CpuTime {
    /// What was used since `earlier`, in seconds, by the finest count that is complete.
    ///
    /// The ticks say more than the nanoseconds only when a thread has ended in between and taken
    /// its nanoseconds along, or when the kernel does not count nanoseconds at all.
    pub(crate) fn seconds_since(self, earlier: Self) -> f64 {
        let precise = self.run_ns.saturating_sub(earlier.run_ns) as f64 / 1e9;
        let ticks = self.user_s_since(earlier) + self.system_s_since(earlier);
        if ticks > precise + TICK_ROUNDING_S {
            ticks
        } else {
            precise
        }
    }

    /// User time since `earlier`, in seconds.
    pub(crate) fn user_s_since(self, earlier: Self) -> f64 {
        seconds(self.user_ticks.saturating_sub(earlier.user_ticks))
    }

    /// System time since `earlier`, in seconds.
    pub(crate) fn system_s_since(self, earlier: Self) -> f64 {
        seconds(self.system_ticks.saturating_sub(earlier.system_ticks))
    }
}

/// How busy the machine has been so far, from `/proc/stat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CoreTime {
    /// Ticks in which the one core did anything at all.
    pub(crate) busy_ticks: u64,
    /// Ticks that the hypervisor took from any core.
    pub(crate) stolen_ticks: u64,
}

impl CoreTime {
    /// Seconds that the core was busy since `earlier`.
    pub(crate) fn busy_s_since(self, earlier: Self) -> f64 {
        seconds(self.busy_ticks.saturating_sub(earlier.busy_ticks))
    }

    /// Seconds that were stolen since `earlier`.
    pub(crate) fn stolen_s_since(self, earlier: Self) -> f64 {
        seconds(self.stolen_ticks.saturating_sub(earlier.stolen_ticks))
    }
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / clock_ticks_per_second() as f64
}

/// The CPU time of `root` and everything below it.
///
/// # Errors
/// When `root` is gone or `/proc` cannot be read.
pub(crate) fn cpu_time(root: u32) -> io::Result<CpuTime> {
    let mut total = CpuTime::default();
    for process in tree(root)? {
        total.user_ticks += process.user_ticks;
        total.system_ticks += process.system_ticks;
        total.run_ns += run_ns(process.id);
    }
    Ok(total)
}

/// The time that core `cpu` was busy and that was stolen from the machine.
///
/// # Errors
/// When `/proc/stat` cannot be read or does not know the core.
pub(crate) fn core_time(cpu: usize) -> io::Result<CoreTime> {
    let stat = fs::read_to_string("/proc/stat")?;
    parse_core(&stat, cpu).ok_or_else(|| invalid("/proc/stat"))
}

/// The memory of `root` and everything below it.
///
/// # Errors
/// When `root` is gone or its `smaps_rollup` may not be read.
pub(crate) fn memory(root: u32) -> io::Result<Memory> {
    let mut total = Memory::default();
    for process in tree(root)? {
        let rollup = match fs::read_to_string(format!("/proc/{}/smaps_rollup", process.id)) {
            Ok(rollup) => rollup,
            // A descendant that has ended, or waits to be buried, has no memory.
            Err(error) if process.id != root && is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        total.pss_kib += rollup_kib(&rollup, "Pss");
        total.anonymous_kib += rollup_kib(&rollup, "Pss_Anon");
        total.shared_kib += rollup_kib(&rollup, "Pss_Shmem");
    }
    Ok(total)
}

/// Whether a read failed because the process has ended: there is no such file, or no such process.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// One line of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    id: u32,
    parent: u32,
    /// Of the process and of its children that it has waited for.
    user_ticks: u64,
    system_ticks: u64,
}

/// `root` and all processes that descend from it.
fn tree(root: u32) -> io::Result<Vec<Stat>> {
    let mut all = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path().join("stat");
        // A process that ends while we look is none of ours, or the read of its parent fails.
        let stat = fs::read_to_string(&path)
            .ok()
            .as_deref()
            .and_then(parse_stat);
        all.extend(stat.map(|stat| (stat.id, stat)));
    }
    let descends = |stat: &Stat| {
        let mut ancestor = Some(stat);
        while let Some(stat) = ancestor.filter(|stat| stat.id != root) {
            ancestor = all.get(&stat.parent).filter(|parent| parent.id != stat.id);
        }
        ancestor.is_some()
    };
    let found: Vec<Stat> = all.values().copied().filter(descends).collect();
    if found.is_empty() {
        Err(io::ErrorKind::NotFound.into())
    } else {
        Ok(found)
    }
}

/// The name, in brackets, may hold spaces and brackets itself: count from its end.
fn parse_stat(line: &str) -> Option<Stat> {
    let (head, tail) = line.rsplit_once(") ")?;
    let id = head.split(' ').next()?.parse().ok()?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        id,
        parent: fields.get(1)?.parse().ok()?,
        user_ticks: ticks(11)? + ticks(13)?,
        system_ticks: ticks(12)? + ticks(14)?,
    })
}

/// Nanoseconds on a core of all living threads; 0 where the kernel does not count them.
fn run_ns(process: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
        return 0;
    };
    let of_thread = |path: std::path::PathBuf| {
        let text = fs::read_to_string(path.join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    threads
        .flatten()
        .filter_map(|thread| of_thread(thread.path()))
        .sum()
}

/// Fields of a `cpuN` line: user nice system idle iowait irq softirq steal.
fn parse_core(stat: &str, cpu: usize) -> Option<CoreTime> {
    let ticks_of = |name: &str| -> Option<Vec<u64>> {
        let line = stat
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.split_ascii_whitespace()
            .map(|field| field.parse().ok())
            .collect()
    };
    let core = ticks_of(&format!("cpu{cpu}"))?;
    let busy = [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|index| core.get(*index))
        .sum();
    let stolen = ticks_of("cpu")?.get(7).copied().unwrap_or(0);
    Some(CoreTime {
        busy_ticks: busy,
        stolen_ticks: stolen,
    })
}

fn rollup_kib(rollup: &str, field: &str) -> u64 {
    let value = rollup
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value
        .and_then(|value| value.trim().strip_suffix(" kB")?.trim().parse().ok())
        .unwrap_or(0)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{what} is not as expected"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_confuse_the_fields() {
        let line = "42 (a) b (c) S 7 42 42 0 -1 4194560 110 0 0 0 11 22 33 44 20 0 1 0 100";
        let expected = Stat {
            id: 42,
            parent: 7,
            user_ticks: 44,
            system_ticks: 66,
        };
        assert_eq!(parse_stat(line), Some(expected));
        assert_eq!(parse_stat("42 (cut"), None);
    }

    #[test]
    fn a_core_is_busy_in_all_but_idle_wait_and_stolen_time() {
        let stat = "cpu  10 1 20 500 6 2 3 4 0 0\ncpu0 5 1 10 250 3 1 2 1 0 0\ncpu10 9 9 9 9\n";
        let core = parse_core(stat, 0).unwrap();
        assert_eq!(
            core,
            CoreTime {
                busy_ticks: 19,
                stolen_ticks: 4
            }
        );
        assert_eq!(parse_core(stat, 1), None);
    }

    #[test]
    fn memory_fields_are_not_taken_for_one_another() {
        let rollup = "00-ff ---p 00 00:00 0 [rollup]\nRss:    1760 kB\nPss:     337 kB\n\
                      Pss_Dirty:  116 kB\nPss_Anon:   115 kB\nPss_Shmem:    2 kB\n";
        let figures = ["Pss", "Pss_Anon", "Pss_Shmem", "Swap"].map(|f| rollup_kib(rollup, f));
        assert_eq!(figures, [337, 115, 2, 0]);
    }

    #[test]
    fn the_finer_count_is_used_unless_a_thread_took_it_along() {
        let per_second = clock_ticks_per_second();
        let before = CpuTime::default();
        let usual = CpuTime {
            run_ns: 1_234_567_890,
            user_ticks: per_second,
            system_ticks: 20,
        };
        assert_eq!(usual.seconds_since(before), 1.234_567_89);
        let ended = CpuTime {
            run_ns: 10,
            user_ticks: per_second,
            system_ticks: 0,
        };
        assert_eq!(ended.seconds_since(before), 1.0);
    }

    #[test]
    fn this_process_uses_time_and_memory() {
        let before = cpu_time(std::process::id()).unwrap();
        let core = core_time(0).unwrap();
        let mut sum = 0_u64;
        while cpu_time(std::process::id()).unwrap().seconds_since(before) < 0.01 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(core_time(0).unwrap().busy_ticks >= core.busy_ticks);
        assert!(memory(std::process::id()).unwrap().user_bytes() > 0);
        assert!(cpu_time(u32::MAX).is_err());
    }

    #[test]
    fn a_child_that_waits_to_be_buried_takes_no_memory_and_is_no_error() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let stat = format!("/proc/{}/stat", child.id());
        while !fs::read_to_string(&stat).unwrap().contains(") Z ") {
            std::thread::yield_now();
        }
        assert!(memory(std::process::id()).unwrap().user_bytes() > 0);
        child.wait().unwrap();
    }
}

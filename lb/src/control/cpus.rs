//! How many workers, and on which CPUs.
//!
//! Invariant: a worker is pinned only if the workers fill the CPUs that this process may use;
//! else two processes with one worker each would sit on the same first CPU.
//! Read next: `mod.rs`.

use std::thread::available_parallelism;

use rustix::thread::{CpuSet, sched_getaffinity};

use crate::config::Workers;

/// The CPU of each worker; `None` leaves the choice to the kernel.
pub(crate) fn place(workers: Workers) -> Vec<Option<usize>> {
    // Knows of cgroup quotas too, which the affinity mask does not show.
    let usable = available_parallelism().map_or(1, usize::from);
    assign(workers, usable, &allowed())
}

fn allowed() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else {
        return Vec::new();
    };
    (0..CpuSet::MAX_CPU)
        .filter(|cpu| set.is_set(*cpu))
        .collect()
}

fn assign(workers: Workers, usable: usize, allowed: &[usize]) -> Vec<Option<usize>> {
    let count = match workers {
        Workers::Auto => usable,
        Workers::Count(count) => count,
    };
    let pinned = count == allowed.len();
    (0..count)
        .map(|index| pinned.then(|| allowed[index]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_pinned_if_they_fill_the_cpus() {
        assert_eq!(assign(Workers::Auto, 2, &[4, 6]), [Some(4), Some(6)]);
        assert_eq!(assign(Workers::Count(1), 1, &[3]), [Some(3)]);
        assert_eq!(
            assign(Workers::Auto, 2, &[0, 1, 2, 3]),
            [None, None],
            "a cgroup quota"
        );
        assert_eq!(assign(Workers::Count(1), 2, &[0, 1]), [None]);
        assert_eq!(assign(Workers::Count(3), 2, &[0, 1]), [None, None, None]);
    }
}

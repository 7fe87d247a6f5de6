//! What a balancer used within the measured window of a run.
//!
//! Invariant: both readings are taken at the moments at which the generator begins and ends to
//! count, on the thread that watches over it. Read `accounting` (where the numbers come from).

use super::accounting::{self, CoreTime, CpuTime};
use crate::run::{LoadPhase, Observer};

/// What the balancer had used at one moment.
#[derive(Debug, Clone, Copy)]
struct Reading {
    cpu: CpuTime,
    core: CoreTime,
}

/// What it used between two.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// CPU time of all its processes and threads, in seconds.
    pub(crate) cpu_s: f64,
    /// The same by `utime`.
    pub(crate) user_s: f64,
    /// The same by `stime`.
    pub(crate) system_s: f64,
    /// Seconds that its core was busy with whatever.
    pub(crate) core_busy_s: f64,
    /// Seconds that the hypervisor took.
    pub(crate) stolen_s: f64,
}

/// Reads at both ends of the measured window.
#[derive(Debug)]
pub(crate) struct Window {
    process: u32,
    cpu: usize,
    begin: Option<Reading>,
    end: Option<Reading>,
}

impl Window {
    /// Of the process with this id and its descendants, on core `cpu`.
    pub(crate) fn new(process: u32, cpu: usize) -> Self {
        Self {
            process,
            cpu,
            begin: None,
            end: None,
        }
    }

    /// What was used between the two readings, if both could be taken.
    pub(crate) fn cost(&self) -> Option<Cost> {
        let (begin, end) = self.begin.zip(self.end)?;
        Some(Cost {
            cpu_s: end.cpu.seconds_since(begin.cpu),
            user_s: end.cpu.user_s_since(begin.cpu),
            system_s: end.cpu.system_s_since(begin.cpu),
            core_busy_s: end.core.busy_s_since(begin.core),
            stolen_s: end.core.stolen_s_since(begin.core),
        })
    }

    fn read(&self) -> Option<Reading> {
        let core = accounting::core_time(self.cpu).ok()?;
        let cpu = accounting::cpu_time(self.process).ok()?;
        Some(Reading { cpu, core })
    }
}

impl Observer for Window {
    fn on_phase(&mut self, phase: LoadPhase) {
        match phase {
            LoadPhase::Measuring => self.begin = self.read(),
            LoadPhase::Ended => self.end = self.read(),
            LoadPhase::Connecting | LoadPhase::WarmUp => {}
        }
    }
}

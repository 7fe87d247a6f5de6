//! What is counted of UDP flows beside what they share with TCP sessions.
//!
//! Invariant: as of every counter, one writing thread.
//! Read next: `mod.rs` (the counters of a listener), `report/`.

use super::Counter;

/// UDP counters of one listener on one worker.
#[derive(Debug, Default)]
pub struct FlowCounters {
    /// Datagrams received from clients.
    pub received: Counter,
    /// Datagrams sent to clients.
    pub sent: Counter,
    /// Times that a flow went on to another backend, since its own left the cluster, became
    /// unhealthy, or was not reached.
    pub moved: Counter,
    ended: [Counter; FlowEnd::ALL.len()],
    shed: [Counter; FlowShed::ALL.len()],
}

impl FlowCounters {
    /// Counts a flow that ended.
    #[inline]
    pub fn ended(&self, end: FlowEnd) {
        self.ended[end as usize].increment();
    }

    /// Counts a flow that was not begun.
    #[inline]
    pub fn shed(&self, why: FlowShed) {
        self.shed[why as usize].increment();
    }

    /// Flows that ended in this way.
    pub fn ends(&self, end: FlowEnd) -> u64 {
        self.ended[end as usize].get()
    }

    /// Flows that were not begun for this reason, and whose datagrams were dropped.
    pub fn sheds(&self, why: FlowShed) -> u64 {
        self.shed[why as usize].get()
    }
}

/// Why a UDP flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowEnd {
    /// All of its datagrams were answered, by as many replies as configured.
    Answered,
    /// The process ended, or the listener left the plan.
    Drained,
    /// No datagram came for the idle timeout.
    Idle,
    /// No backend could take it.
    Unavailable,
}

impl FlowEnd {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Answered, Self::Drained, Self::Idle, Self::Unavailable];

    /// As a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Drained => "drained",
            Self::Idle => "idle",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Why a UDP flow was not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowShed {
    /// The process ends, or the listener has left the plan.
    Draining,
    /// The worker has as many flows as it may.
    Flows,
    /// Descriptors, ports or memory ran out.
    Resources,
    /// The source has as many flows as it may.
    Source,
}

impl FlowShed {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Draining, Self::Flows, Self::Resources, Self::Source];

    /// As a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Flows => "flows",
            Self::Resources => "resources",
            Self::Source => "source",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        let counters = FlowCounters::default();
        for (times, end) in FlowEnd::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| counters.ended(end));
            assert_eq!(counters.ends(end), times as u64);
        }
        for (times, why) in FlowShed::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| counters.shed(why));
            assert_eq!(counters.sheds(why), times as u64);
        }
    }
}

//! What a flow has seen, and what follows from it: a pure state machine.
//!
//! Invariant: time is an argument; nothing here knows of sockets.
//! Read next: `flow.rs`, which feeds it.

use std::time::Duration;

use lb_core::plan;
use lb_core::rt::Instant;

/// How long a flow may be silent once its listener drains: as long as a resolver waits for an
/// answer (resolv.conf's default timeout).
const DRAINING_IDLE: Duration = Duration::from_secs(5);

/// A flow's datagrams so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Activity {
    last: Instant,
    requests: u64,
    replies: u64,
}

impl Activity {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            last: now,
            requests: 0,
            replies: 0,
        }
    }

    /// The client sent `count` datagrams.
    pub(super) const fn on_requests(&mut self, now: Instant, count: usize) {
        self.last = now;
        self.requests += count as u64;
    }

    /// The backend sent `count` datagrams.
    pub(super) const fn on_replies(&mut self, now: Instant, count: usize) {
        self.last = now;
        self.replies += count as u64;
    }

    /// How many of the client's next `count` datagrams the flow takes.
    pub(super) fn takes(&self, plan: &plan::Udp, count: usize) -> usize {
        let Some(max) = plan.requests else {
            return count;
        };
        let left = u64::from(max).saturating_sub(self.requests);
        usize::try_from(left).map_or(count, |left| left.min(count))
    }

    /// True if no further datagram of the client is taken.
    pub(super) fn is_full(&self, plan: &plan::Udp) -> bool {
        plan.requests
            .is_some_and(|max| self.requests >= u64::from(max))
    }

    /// True if every datagram of the client has as many replies as the plan says.
    pub(super) fn is_answered(&self, plan: &plan::Udp) -> bool {
        let expected = |replies| self.requests.saturating_mul(u64::from(replies));
        plan.replies
            .is_some_and(|replies| self.requests > 0 && self.replies >= expected(replies))
    }

    /// True if the backend has sent anything.
    pub(super) const fn has_reply(&self) -> bool {
        self.replies > 0
    }

    /// When it is over, unless another datagram comes.
    pub(super) fn ends_at(&self, plan: &plan::Udp, is_draining: bool) -> Instant {
        let idle = plan.idle_timeout;
        self.last
            + if is_draining {
                idle.min(DRAINING_IDLE)
            } else {
                idle
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn plan(requests: Option<u32>, replies: Option<u32>) -> plan::Udp {
        plan::Udp {
            requests,
            replies,
            ..plan::Udp::to("c")
        }
    }

    #[test]
    fn every_datagram_puts_the_end_off() {
        let start = Instant::START;
        let plan = plan(None, None);
        let mut flow = Activity::new(start);
        assert_eq!(flow.ends_at(&plan, false), start + plan.idle_timeout);
        flow.on_requests(start + SECOND, 1);
        assert_eq!(
            flow.ends_at(&plan, false),
            start + SECOND + plan.idle_timeout
        );
        flow.on_replies(start + 2 * SECOND, 1);
        assert_eq!(flow.ends_at(&plan, true), start + 7 * SECOND);
    }

    #[test]
    fn a_short_idle_timeout_stays_short_while_draining() {
        let mut plan = plan(None, None);
        plan.idle_timeout = SECOND;
        let flow = Activity::new(Instant::START);
        assert_eq!(flow.ends_at(&plan, true), Instant::START + SECOND);
    }

    #[test]
    fn replies_are_expected_of_every_request() {
        let (now, plan) = (Instant::START, plan(None, Some(2)));
        let mut flow = Activity::new(now);
        assert!(!flow.is_answered(&plan), "nothing was asked");
        flow.on_requests(now, 2);
        for expected in [false, false, false, true] {
            flow.on_replies(now, 1);
            assert_eq!(flow.is_answered(&plan), expected);
        }
        flow.on_requests(now, 1);
        assert!(!flow.is_answered(&plan));
        assert!(!flow.is_answered(&self::plan(None, None)), "never");
    }

    #[test]
    fn requests_are_limited_to_the_datagram() {
        let (now, plan) = (Instant::START, plan(Some(5), None));
        let mut flow = Activity::new(now);
        assert_eq!(flow.takes(&plan, 3), 3);
        flow.on_requests(now, 3);
        assert!(!flow.is_full(&plan));
        assert_eq!(flow.takes(&plan, 3), 2);
        flow.on_requests(now, 2);
        assert!(flow.is_full(&plan));
        assert_eq!(flow.takes(&plan, 1), 0);
    }
}

//! Time as the runtime sees it: monotonic nanoseconds, virtual on the `sim` engine.
//!
//! Invariant: protocol code reads no other clock, so a test can move time.
//! Read next: `timer.rs`.

use std::ops::Add;
use std::time::{Duration, SystemTime};

use super::{context, sys};

/// A point on the monotonic clock, in nanoseconds; on the `sim` engine since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub(crate) u64);

impl Instant {
    /// The beginning of the clock.
    pub const START: Self = Self(0);

    /// Nanoseconds since an arbitrary point that is the same for all threads.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this, zero if `earlier` is later.
    #[must_use]
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at the end of time, 584 years on.
    fn add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

/// The time at which the current turn of the loop began: no system call, at most one turn old.
/// Outside of a runtime, the clock itself.
#[must_use]
pub fn now() -> Instant {
    context::try_with(|core| core.now.get())
        .map_or_else(|| Instant(sys::monotonic_nanos()), Instant)
}

/// The clock itself (about 20 ns); for measuring. On the `sim` engine the virtual time.
#[must_use]
pub fn now_precise() -> Instant {
    let virtual_now = context::try_with(|core| core.is_virtual.then(|| core.now.get())).flatten();
    Instant(virtual_now.unwrap_or_else(sys::monotonic_nanos))
}

/// Wall-clock time, for log lines and `Date` headers only.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
pub fn wall_clock() -> SystemTime {
    SystemTime::now()
}

//! When a direction of a session copies its bytes, and when it splices them.
//!
//! Invariant: a splice moves any number of bytes for the price of two calls, a copy few bytes for
//! less. So bulk data is spliced, and what comes in small pieces is copied; a change of mind takes
//! several pieces of the other kind, as each change costs more than a piece.
//! Read next: `direction.rs`.

use lb_core::plan::Relay;

/// What makes a direction change its mind.
struct Limits {
    /// A piece of bulk data, in bytes.
    large: usize,
    /// Bytes in large pieces, one after the other, that make a direction splice.
    bulk: u32,
    /// Small pieces, one after the other, that make it copy again.
    small_max: u32,
    /// Bytes copied until the next try, after there was no pipe.
    patience: u32,
}

/// A large piece fills half of a receive buffer.
const USUAL: Limits = Limits {
    large: 8 * 1024,
    bulk: 128 * 1024,
    small_max: 4,
    patience: 1024 * 1024,
};

/// For tests: a few hundred bytes make a direction change its mind, again and again.
const FICKLE: Limits = Limits {
    large: 256,
    bulk: 1024,
    small_max: 2,
    patience: 4096,
};

/// The pace of one direction, and what follows from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    state: State,
    may_copy: bool,
    fickle: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Copies, and splices once this many bytes of bulk data have come.
    Copies { until: u32 },
    /// Copies for good.
    OnlyCopies,
    /// Splices, and copies once this many small pieces have come.
    Splices { until: u32 },
}

impl Pace {
    pub(super) const fn new(relay: Relay, fickle: bool) -> Self {
        let limits = if fickle { FICKLE } else { USUAL };
        Self {
            state: match relay {
                Relay::Auto => State::Copies { until: limits.bulk },
                Relay::Copy => State::OnlyCopies,
                Relay::Splice => State::Splices {
                    until: limits.small_max,
                },
            },
            may_copy: !matches!(relay, Relay::Splice),
            fickle,
        }
    }

    const fn limits(self) -> &'static Limits {
        if self.fickle { &FICKLE } else { &USUAL }
    }

    /// True if the next bytes are to be spliced.
    pub(super) const fn splices(&self) -> bool {
        matches!(self.state, State::Splices { .. })
    }

    /// So many bytes were received to be copied.
    pub(super) fn on_copied(&mut self, bytes: usize) {
        let limits = self.limits();
        let State::Copies { until } = &mut self.state else {
            return;
        };
        // Without choice any bytes bring the next splice nearer.
        if bytes < limits.large && self.may_copy {
            *until = (*until).max(limits.bulk);
            return;
        }
        *until = until.saturating_sub(bytes as u32);
        if *until == 0 {
            self.state = State::Splices {
                until: limits.small_max,
            };
        }
    }

    /// So many bytes were spliced.
    pub(super) const fn on_spliced(&mut self, bytes: usize) {
        let limits = self.limits();
        if let State::Splices { until } = &mut self.state
            && self.may_copy
        {
            *until = if bytes < limits.large {
                *until - 1
            } else {
                limits.small_max
            };
            if *until == 0 {
                self.state = State::Copies { until: limits.bulk };
            }
        }
    }

    /// There is no pipe at the moment.
    pub(super) const fn on_no_pipe(&mut self) {
        self.state = State::Copies {
            until: self.limits().patience,
        };
    }

    /// These sockets cannot be spliced.
    pub(super) const fn on_refused(&mut self) {
        self.state = State::OnlyCopies;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(pace: &mut Pace, piece: usize, count: u32) {
        for _ in 0..count {
            pace.on_copied(piece);
        }
    }

    #[test]
    fn bulk_is_spliced_and_small_pieces_are_copied() {
        let mut pace = Pace::new(Relay::Auto, false);
        copied(&mut pace, 100, 100_000);
        assert!(!pace.splices(), "small pieces, however many");
        copied(&mut pace, 16 * 1024, 8);
        assert!(pace.splices());
        for _ in 0..100 {
            pace.on_spliced(100);
            pace.on_spliced(100_000);
        }
        assert!(pace.splices(), "a small piece now and then");
        for _ in 0..USUAL.small_max {
            pace.on_spliced(100);
        }
        assert!(!pace.splices());
    }

    #[test]
    fn small_pieces_interrupt_a_run() {
        let mut pace = Pace::new(Relay::Auto, false);
        for _ in 0..100 {
            copied(&mut pace, 16 * 1024, 7);
            pace.on_copied(10);
        }
        assert!(!pace.splices());
    }

    #[test]
    fn a_forced_way_is_kept() {
        let mut pace = Pace::new(Relay::Copy, false);
        copied(&mut pace, 1 << 20, 100);
        assert!(!pace.splices());
        let mut pace = Pace::new(Relay::Splice, false);
        for _ in 0..100 {
            pace.on_spliced(1);
        }
        assert!(pace.splices());
    }

    #[test]
    fn without_a_pipe_it_copies_for_a_while() {
        for relay in [Relay::Auto, Relay::Splice] {
            let mut pace = Pace::new(relay, false);
            pace.on_no_pipe();
            assert!(!pace.splices());
            copied(&mut pace, 16 * 1024, 63);
            assert!(!pace.splices(), "{relay:?}");
            copied(&mut pace, 16 * 1024, 1);
            assert!(pace.splices(), "{relay:?}");
        }
        let mut pace = Pace::new(Relay::Splice, false);
        pace.on_refused();
        copied(&mut pace, 1 << 20, 100);
        assert!(!pace.splices(), "for good");
    }
}

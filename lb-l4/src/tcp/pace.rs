//! Whether a direction of a session moves its bytes in chunks, in large ones, or by splices.
//!
//! Invariant: a splice moves any number of bytes for the price of a few calls, a chunk few bytes
//! for less. So bulk data is spliced, or copied in large chunks where it cannot be, and what comes
//! in small pieces is copied; a change of mind takes several pieces of the other kind, as each
//! change costs more than a piece.
//! Read next: `direction.rs`.

use lb_core::plan::Relay;

/// How the next bytes are to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// As the runtime receives them.
    Chunks,
    /// In chunks as large as there are.
    LargeChunks,
    /// Inside of the kernel.
    Splices,
}

/// The pace of one direction, and what follows from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Small pieces until it is no bulk data, or 0, and then bytes until it is.
    small_left: u8,
    /// Only by splices, as far as that can be.
    forced: bool,
    fickle: bool,
    bulk_left: u32,
    /// Bytes until the next splice; `NEVER` without one.
    splice_after: u32,
}

const NEVER: u32 = u32::MAX;

/// What makes a direction change its mind.
struct Limits {
    /// A piece of bulk data, in bytes.
    large: usize,
    /// Bytes in large pieces, one after the other, that are bulk data.
    bulk: u32,
    /// Small pieces, one after the other, that are none.
    small_max: u8,
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

impl Pace {
    pub(super) const fn new(relay: Relay, fickle: bool) -> Self {
        let limits = if fickle { FICKLE } else { USUAL };
        let forced = matches!(relay, Relay::Splice);
        Self {
            small_left: if forced { limits.small_max } else { 0 },
            forced,
            fickle,
            bulk_left: limits.bulk,
            splice_after: if matches!(relay, Relay::Copy) {
                NEVER
            } else {
                0
            },
        }
    }

    /// How the next bytes are to be moved.
    pub(super) const fn way(&self) -> Way {
        match (self.small_left, self.splice_after) {
            (0, _) => Way::Chunks,
            (_, 0) => Way::Splices,
            _ => Way::LargeChunks,
        }
    }

    /// So many bytes came in one piece.
    pub(super) const fn on_piece(&mut self, bytes: usize) {
        let limits = if self.fickle { &FICKLE } else { &USUAL };
        if self.splice_after != NEVER {
            self.splice_after = self.splice_after.saturating_sub(bytes as u32);
        }
        match (self.small_left, bytes < limits.large) {
            (0, true) => self.bulk_left = limits.bulk,
            (0, false) => {
                self.bulk_left = self.bulk_left.saturating_sub(bytes as u32);
                if self.bulk_left == 0 {
                    self.small_left = limits.small_max;
                }
            }
            (_, true) if self.forced => {}
            (_, true) => {
                self.small_left -= 1;
                self.bulk_left = limits.bulk;
            }
            (_, false) => self.small_left = limits.small_max,
        }
    }

    /// There is no pipe at the moment.
    pub(super) const fn on_no_pipe(&mut self) {
        let limits = if self.fickle { &FICKLE } else { &USUAL };
        self.splice_after = limits.patience;
    }

    /// These sockets cannot be spliced.
    pub(super) const fn on_refused(&mut self) {
        self.splice_after = NEVER;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(pace: &mut Pace, bytes: usize, count: u32) {
        for _ in 0..count {
            pace.on_piece(bytes);
        }
    }

    #[test]
    fn bulk_is_spliced_and_small_pieces_are_copied() {
        let mut pace = Pace::new(Relay::Auto, false);
        pieces(&mut pace, 100, 100_000);
        assert_eq!(pace.way(), Way::Chunks, "small pieces, however many");
        pieces(&mut pace, 16 * 1024, 7);
        assert_eq!(pace.way(), Way::Chunks);
        pieces(&mut pace, 16 * 1024, 1);
        assert_eq!(pace.way(), Way::Splices);
        for _ in 0..100 {
            pieces(&mut pace, 100, 2);
            pieces(&mut pace, 100_000, 1);
        }
        assert_eq!(pace.way(), Way::Splices, "a small piece now and then");
        pieces(&mut pace, 100, u32::from(USUAL.small_max));
        assert_eq!(pace.way(), Way::Chunks);
        pieces(&mut pace, 16 * 1024, 7);
        assert_eq!(pace.way(), Way::Chunks, "from the beginning");
    }

    #[test]
    fn small_pieces_interrupt_a_run() {
        let mut pace = Pace::new(Relay::Auto, false);
        for _ in 0..100 {
            pieces(&mut pace, 16 * 1024, 7);
            pieces(&mut pace, 10, 1);
        }
        assert_eq!(pace.way(), Way::Chunks);
    }

    #[test]
    fn a_forced_way_is_kept() {
        let mut pace = Pace::new(Relay::Copy, false);
        pieces(&mut pace, 1 << 20, 100_000);
        assert_eq!(pace.way(), Way::LargeChunks);
        pieces(&mut pace, 100, 100);
        assert_eq!(pace.way(), Way::Chunks);
        let mut pace = Pace::new(Relay::Splice, false);
        pieces(&mut pace, 1, 1000);
        assert_eq!(pace.way(), Way::Splices);
    }

    #[test]
    fn without_a_pipe_it_copies_for_a_while() {
        for relay in [Relay::Auto, Relay::Splice] {
            let mut pace = Pace::new(relay, false);
            pieces(&mut pace, 16 * 1024, 8);
            pace.on_no_pipe();
            pieces(&mut pace, 16 * 1024, 63);
            assert_eq!(pace.way(), Way::LargeChunks, "{relay:?}");
            pieces(&mut pace, 16 * 1024, 1);
            assert_eq!(pace.way(), Way::Splices, "{relay:?}");
            pace.on_refused();
            pieces(&mut pace, 1 << 20, 10_000);
            assert_eq!(pace.way(), Way::LargeChunks, "for good");
        }
    }
}

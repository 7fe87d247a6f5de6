//! What happens to datagrams on their way to an origin, as a bad network would have it.
//!
//! Invariant: what is held back comes after the next one, or after a pause; nothing is held twice.
//! Read next: `udp.rs`, which takes in what is left.

use crate::tcp::SplitMix64;

/// Shares of all datagrams, each from 0 to 1 and at most 1 in sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Impairment {
    /// Never come.
    pub lost: f64,
    /// Come twice.
    pub duplicated: f64,
    /// Come after the one that was sent after them.
    pub reordered: f64,
}

impl Impairment {
    /// All come as they were sent.
    pub const NONE: Self = Self {
        lost: 0.0,
        duplicated: 0.0,
        reordered: 0.0,
    };

    /// The shares together.
    pub fn sum(&self) -> f64 {
        self.lost + self.duplicated + self.reordered
    }

    /// What becomes of one more.
    pub(super) fn draw(&self, random: &mut SplitMix64) -> Way {
        if *self == Self::NONE {
            return Way::Comes;
        }
        let drawn = random.next_unit();
        if drawn <= self.lost {
            Way::Lost
        } else if drawn <= self.lost + self.duplicated {
            Way::ComesTwice
        } else if drawn <= self.sum() {
            Way::ComesLater
        } else {
            Way::Comes
        }
    }
}

/// What becomes of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Comes,
    Lost,
    ComesTwice,
    ComesLater,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_kept() {
        let impairment = Impairment {
            lost: 0.1,
            duplicated: 0.2,
            reordered: 0.3,
        };
        let mut random = SplitMix64::new(1);
        let ways: Vec<Way> = (0..10_000).map(|_| impairment.draw(&mut random)).collect();
        for (way, expected) in [
            (Way::Lost, 1000),
            (Way::ComesTwice, 2000),
            (Way::ComesLater, 3000),
            (Way::Comes, 4000),
        ] {
            let count = ways.iter().filter(|drawn| **drawn == way).count();
            assert!(count.abs_diff(expected) < 200, "{way:?}: {count}");
        }
        assert_eq!(Impairment::NONE.draw(&mut random), Way::Comes);
    }
}

//! Medians, spreads and paired ratios.
//!
//! Invariant: a ratio is taken within a round, between two that ran next to each other, and
//! only then is the median taken: what slows the whole machine for a while cancels out.

use super::record::Round;

/// A median with its spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle value.
    pub median: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
}

impl Spread {
    /// Of `values`; `None` when there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, min, max })
    }
}

/// By how much of their median the middle half of `values` differs: what another run may give.
/// 0 for fewer than two.
pub fn disagreement(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let quarter = sorted.len() / 4;
    let middle = &sorted[quarter..sorted.len() - quarter];
    match Spread::of(middle.iter().copied()) {
        Some(spread) if spread.median > 0.0 => (spread.max - spread.min) / spread.median,
        _ => 0.0,
    }
}

/// Of one figure of one peer over its rounds.
pub fn of_peer<F>(rounds: &[Round<F>], peer: &str, figure: impl Fn(&F) -> f64) -> Option<Spread> {
    let own = rounds.iter().filter(|round| round.peer == peer);
    Spread::of(own.filter_map(Round::figures).map(figure))
}

/// `subject`'s figure divided by `other`'s, round by round; rounds where either failed are out.
pub fn ratio<F>(
    rounds: &[Round<F>],
    subject: &str,
    other: &str,
    figure: impl Fn(&F) -> f64,
) -> Option<Spread> {
    Spread::of(ratios(rounds, subject, other, figure))
}

/// A part of `subject`'s figure divided by the whole of `other`'s, round by round.
pub fn ratio_of_part<F>(
    rounds: &[Round<F>],
    subject: (&str, fn(&F) -> f64),
    other: (&str, fn(&F) -> f64),
) -> Option<Spread> {
    Spread::of(quotients(rounds, subject, other))
}

/// `subject`'s figure divided by `other`'s, one by one.
pub fn ratios<F>(
    rounds: &[Round<F>],
    subject: &str,
    other: &str,
    figure: impl Fn(&F) -> f64,
) -> Vec<f64> {
    quotients(rounds, (subject, &figure), (other, &figure))
}

fn quotients<F>(
    rounds: &[Round<F>],
    (subject, part): (&str, impl Fn(&F) -> f64),
    (other, whole): (&str, impl Fn(&F) -> f64),
) -> Vec<f64> {
    let of = |peer: &str, number: usize| {
        let found = rounds
            .iter()
            .find(|round| round.peer == peer && round.round == number);
        found.and_then(Round::figures)
    };
    let numbers = rounds
        .iter()
        .filter(|round| round.peer == subject)
        .map(|round| round.round);
    numbers
        .filter_map(|number| quotient(part(of(subject, number)?), whole(of(other, number)?)))
        .collect()
}

/// The same for two lists whose n-th entries are of the same round.
pub fn ratio_of_lists(subject: &[f64], other: &[f64]) -> Option<Spread> {
    Spread::of(
        subject
            .iter()
            .zip(other)
            .filter_map(|(a, b)| quotient(*a, *b)),
    )
}

fn quotient(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then_some(a / b)
}

#[cfg(test)]
mod tests {
    use super::super::record::Outcome;
    use super::*;

    #[test]
    fn one_bad_round_is_no_disagreement_and_two_are() {
        assert!(disagreement(&[1.0, 1.01, 0.99, 1.02, 3.0]) < 0.04);
        assert!(disagreement(&[1.0, 1.01, 0.8, 1.2, 1.3]) > 0.1);
        assert_eq!((disagreement(&[]), disagreement(&[2.0])), (0.0, 0.0));
    }

    fn round(round: usize, peer: &str, figure: Option<f64>) -> Round<f64> {
        let outcome = match figure {
            Some(figure) => Outcome::Measured(figure),
            None => Outcome::Failed("broken".to_owned()),
        };
        Round {
            round,
            peer: peer.to_owned(),
            outcome,
        }
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        assert_eq!(
            Spread::of([3.0, 1.0, 2.0]),
            Some(Spread {
                median: 2.0,
                min: 1.0,
                max: 3.0
            })
        );
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was half as fast in round 2; the ratio does not notice.
        let rounds = [
            round(1, "a", Some(1.0)),
            round(1, "b", Some(2.0)),
            round(2, "a", Some(2.0)),
            round(2, "b", Some(4.0)),
            round(3, "a", Some(9.0)),
            round(3, "b", None),
        ];
        let ratio = ratio(&rounds, "a", "b", |f| *f).unwrap();
        assert_eq!(
            ratio,
            Spread {
                median: 0.5,
                min: 0.5,
                max: 0.5
            }
        );
    }

    #[test]
    fn a_peer_that_never_got_through_has_no_ratio() {
        let rounds = [round(1, "a", Some(1.0)), round(1, "b", None)];
        assert_eq!(ratio(&rounds, "a", "b", |f| *f), None);
        assert_eq!(of_peer(&rounds, "b", |f| *f), None);
        assert_eq!(ratio_of_lists(&[1.0], &[0.0]), None);
    }
}

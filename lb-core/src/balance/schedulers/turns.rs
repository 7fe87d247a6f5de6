//! A cycle of turns in which every backend has as many as its weight says, evenly spread.
//!
//! Invariant: the cycle holds exactly the indices of positive weight. Round robin goes along it;
//! Maglev lets the backends choose their slots in its order.
//! Read next: `maglev.rs`.

/// Longest cycle whose turns are exact. Longer ones are scaled to about this many turns, which
/// is off by less than a turn for each backend.
const TURNS_MAX: u64 = 65_536;

/// The turns of backends with these weights.
///
/// The k-th of the w turns of a backend stands at the fraction (k + phase) / w of the cycle.
/// Backends of equal weight divide the phases among themselves in order, so equal weights give
/// 0, 1, 2, … and the weights 5, 1, 1 give 0 1 0 0 0 2 0.
pub(super) fn turns(weights: &[u16]) -> Box<[u16]> {
    let weights = reduced(weights);
    let mut members = vec![0_u64; weights.iter().max().map_or(0, |&most| most as usize + 1)];
    let phases: Vec<u64> = weights
        .iter()
        .map(|&weight| {
            members[weight as usize] += 1;
            members[weight as usize] - 1
        })
        .collect();
    let mut placed = Vec::with_capacity(weights.iter().sum::<u64>() as usize);
    for (index, (&weight, &phase)) in weights.iter().zip(&phases).enumerate() {
        let group = members[weight as usize];
        for turn in 0..weight {
            // (turn + (phase + 1/2) / group) / weight, in units of 2^-32; fits, since
            // group * weight is at most the length of the cycle.
            let place = ((2 * (turn * group + phase) + 1) << 32) / (2 * group * weight);
            placed.push((place, index as u16));
        }
    }
    placed.sort_unstable();
    placed.into_iter().map(|(_, index)| index).collect()
}

/// Small numbers in the proportions of `weights`; positive stays positive.
pub(super) fn reduced(weights: &[u16]) -> Vec<u64> {
    let divisor = weights
        .iter()
        .fold(0, |divisor, &weight| gcd(divisor, u64::from(weight)));
    let exact: Vec<u64> = weights
        .iter()
        .map(|&it| u64::from(it) / divisor.max(1))
        .collect();
    let total: u64 = exact.iter().sum();
    if total <= TURNS_MAX {
        return exact;
    }
    let scaled = |weight: u64| (weight * TURNS_MAX + total / 2) / total;
    exact
        .into_iter()
        .map(|it| scaled(it).max(u64::from(it > 0)))
        .collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(turns: &[u16], backends: usize) -> Vec<u64> {
        let mut counts = vec![0; backends];
        for &index in turns {
            counts[usize::from(index)] += 1;
        }
        counts
    }

    #[test]
    fn equal_weights_take_turns_in_order() {
        assert_eq!(*turns(&[7, 7, 7]), [0, 1, 2]);
    }

    #[test]
    fn a_heavy_backend_is_interleaved_with_the_light_ones() {
        assert_eq!(*turns(&[5, 1, 1]), [0, 1, 0, 0, 0, 2, 0]);
        assert_eq!(*turns(&[2, 4]), [1, 0, 1]);
    }

    #[test]
    fn weight_zero_has_no_turn() {
        assert_eq!(*turns(&[0, 3, 0]), [1]);
        assert!(turns(&[0, 0]).is_empty());
        assert!(turns(&[]).is_empty());
    }

    #[test]
    fn a_cycle_that_would_be_too_long_is_scaled() {
        let weights = [65_535, 65_534, 65_533, 1, 0];
        let turns = turns(&weights);
        let counts = counts(&turns, weights.len());
        assert!(turns.len() as u64 <= TURNS_MAX + weights.len() as u64);
        assert_eq!(counts[3..], [1, 0]);
        for &count in &counts[..3] {
            assert!(count.abs_diff(TURNS_MAX / 3) <= 1, "{counts:?}");
        }
    }

    proptest! {
        // Long cycles take long to make in a debug build.
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_cycle_is_exact(weights in proptest::collection::vec(0_u16..200, 1..40)) {
            let turns = turns(&weights);
            let counts = counts(&turns, weights.len());
            let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
            for (&weight, count) in weights.iter().zip(counts) {
                // count / turns == weight / total, in whole numbers.
                prop_assert_eq!(count * total, u64::from(weight) * turns.len() as u64);
            }
        }

        /// Two turns of a backend are about cycle / weight apart, also over the end of the cycle:
        /// between them every other backend fits in at most one turn more than its share.
        #[test]
        fn turns_are_spread(weights in proptest::collection::vec(1_u16..50, 2..12)) {
            let turns = turns(&weights);
            let counts = counts(&turns, weights.len());
            for (index, &count) in counts.iter().enumerate() {
                let places: Vec<usize> =
                    (0..turns.len()).filter(|&at| usize::from(turns[at]) == index).collect();
                let wrapped = places[0] + turns.len();
                let nexts = places[1..].iter().copied().chain([wrapped]);
                let widest = places.iter().zip(nexts).map(|(&at, next)| next - at).max();
                let share = turns.len().div_ceil(count as usize);
                prop_assert!(widest <= Some(share + weights.len()), "{:?}", turns);
            }
        }

        #[test]
        fn any_weights_give_a_bounded_cycle(
            weights in proptest::collection::vec(any::<u16>(), 0..100),
        ) {
            let turns = turns(&weights);
            prop_assert!(turns.len() as u64 <= TURNS_MAX + weights.len() as u64);
            for (&weight, count) in weights.iter().zip(counts(&turns, weights.len())) {
                prop_assert_eq!(weight > 0, count > 0);
            }
        }
    }
}

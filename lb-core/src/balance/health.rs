//! Rise and fall: when the results of health checks make a backend healthy or unhealthy.
//!
//! Invariant: pure; the state changes after `fall` failures or `rise` successes in a row, and
//! one result of the other kind starts the count again.
//! Read next: `mod.rs` (`Backend::set_healthy`, which a transition leads to).

/// The state of one backend's checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthState {
    healthy: bool,
    /// Results in a row that contradict `healthy`.
    against: u8,
    rise: u8,
    fall: u8,
}

/// A change of health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The backend became unhealthy.
    Down,
    /// The backend became healthy.
    Up,
}

impl HealthState {
    /// Starts from `healthy`; `rise` successes or `fall` failures in a row, each at least 1,
    /// change it.
    pub fn new(healthy: bool, rise: u8, fall: u8) -> Self {
        Self {
            healthy,
            against: 0,
            rise,
            fall,
        }
    }

    /// Takes in the result of a check.
    pub fn on_result(&mut self, ok: bool) -> Option<Transition> {
        if ok == self.healthy {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        if self.against < if ok { self.rise } else { self.fall } {
            return None;
        }
        self.healthy = ok;
        self.against = 0;
        Some(if ok { Transition::Up } else { Transition::Down })
    }

    /// Whether the backend is healthy now.
    pub fn is_healthy(&self) -> bool {
        self.healthy
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feed(state: &mut HealthState, results: &[bool]) -> Vec<Option<Transition>> {
        results.iter().map(|&ok| state.on_result(ok)).collect()
    }

    #[test]
    fn falls_after_fall_failures_in_a_row() {
        let mut state = HealthState::new(true, 2, 3);
        let transitions = feed(
            &mut state,
            &[false, false, true, false, false, false, false],
        );
        let down = Some(Transition::Down);
        assert_eq!(transitions, [None, None, None, None, None, down, None]);
        assert!(!state.is_healthy());
    }

    #[test]
    fn rises_after_rise_successes_in_a_row() {
        let mut state = HealthState::new(false, 2, 3);
        let transitions = feed(&mut state, &[true, false, true, true, true]);
        assert_eq!(transitions, [None, None, None, Some(Transition::Up), None]);
        assert!(state.is_healthy());
    }

    #[test]
    fn one_result_is_enough_when_the_plan_says_so() {
        let mut state = HealthState::new(true, 1, 1);
        let transitions = feed(&mut state, &[false, true]);
        assert_eq!(transitions, [Some(Transition::Down), Some(Transition::Up)]);
    }

    proptest! {
        /// The model looks at the whole history: healthy is what the latest long enough run of
        /// equal results says.
        #[test]
        fn agrees_with_a_look_at_the_history(
            rise in 1_u8..5,
            fall in 1_u8..5,
            start: bool,
            results in proptest::collection::vec(any::<bool>(), 0..60),
        ) {
            let mut state = HealthState::new(start, rise, fall);
            let mut model = start;
            for end in 1..=results.len() {
                let history = &results[..end];
                let last = history[end - 1];
                let run = history.iter().rev().take_while(|&&ok| ok == last).count();
                let before = model;
                if run >= usize::from(if last { rise } else { fall }) {
                    model = last;
                }
                let transition = state.on_result(last);
                prop_assert_eq!(state.is_healthy(), model);
                prop_assert_eq!(transition.is_some(), before != model);
            }
        }
    }
}

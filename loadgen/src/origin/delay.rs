//! How long an origin takes for an answer.

use std::str::FromStr;
use std::time::Duration;

use crate::tcp::SplitMix64;
use crate::units::parse_duration;

const PARETO_SHAPE: f64 = 1.5;
/// The longest, in means.
const PARETO_MOST: f64 = 100.0;

/// Distribution of an origin's service time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// Answers at once.
    None,
    /// Always this long.
    Fixed(Duration),
    /// Exponentially distributed with this mean.
    Exponential(Duration),
    /// Heavy-tailed with this mean: a Pareto distribution of shape 1.5, its infinite tail cut at
    /// a hundred times the mean (which takes 6 % off the mean).
    Pareto(Duration),
}

impl Delay {
    /// One service time; `None` where there is nothing to wait for.
    pub fn draw(self, random: &mut SplitMix64) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::Fixed(delay) => Some(delay),
            Self::Exponential(mean) => Some(mean.mul_f64(-random.next_unit().ln())),
            Self::Pareto(mean) => {
                // The mean of a Pareto distribution is shape / (shape - 1) times its least value.
                let least = (PARETO_SHAPE - 1.0) / PARETO_SHAPE;
                let drawn = least * random.next_unit().powf(-PARETO_SHAPE.recip());
                Some(mean.mul_f64(drawn.min(PARETO_MOST)))
            }
        }
    }
}

impl FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            Some(("fixed", delay)) => parse_duration(delay).map(Self::Fixed),
            Some(("exp", mean)) => parse_duration(mean).map(Self::Exponential),
            Some(("pareto", mean)) => parse_duration(mean).map(Self::Pareto),
            _ => Err(format!(
                "`{text}` is no delay; write none, fixed:5ms, exp:5ms or pareto:5ms"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_read_as_documented() {
        assert_eq!("none".parse(), Ok(Delay::None));
        assert_eq!(
            "fixed:5ms".parse(),
            Ok(Delay::Fixed(Duration::from_millis(5)))
        );
        assert_eq!(
            "exp:1s".parse(),
            Ok(Delay::Exponential(Duration::from_secs(1)))
        );
        for bad in ["", "5ms", "fixed", "fixed:5", "uniform:1ms"] {
            assert!(bad.parse::<Delay>().is_err(), "{bad}");
        }
    }

    #[test]
    fn heavy_tails_are_heavy_and_end() {
        let mut random = SplitMix64::new(7);
        let delay = Delay::Pareto(Duration::from_millis(1));
        let draws: Vec<f64> = (0..100_000)
            .map(|_| delay.draw(&mut random).unwrap().as_secs_f64() * 1e3)
            .collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        assert!((0.85..1.03).contains(&mean), "{mean}");
        let median = draws.iter().filter(|draw| **draw < 0.53).count();
        assert!((45_000..55_000).contains(&median), "{median}");
        assert!(draws.iter().any(|draw| *draw > 50.0));
        assert!(draws.iter().all(|draw| *draw <= 100.001));
    }

    #[test]
    fn exponential_delays_have_the_mean_that_was_asked_for() {
        let mut random = SplitMix64::new(7);
        let delay = Delay::Exponential(Duration::from_millis(5));
        let draws: Vec<f64> = (0..20_000)
            .map(|_| delay.draw(&mut random).unwrap().as_secs_f64())
            .collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        assert!((mean - 0.005).abs() < 0.0002, "{mean}");
        let above_mean = draws.iter().filter(|draw| **draw > 0.005).count();
        assert!((above_mean as f64 / 20_000.0 - (-1f64).exp()).abs() < 0.02);
    }
}

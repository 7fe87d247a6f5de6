//! How long an origin takes for an answer.

use std::str::FromStr;
use std::time::Duration;

use crate::tcp::SplitMix64;
use crate::units::parse_duration;

/// Distribution of an origin's service time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// Answers at once.
    None,
    /// Always this long.
    Fixed(Duration),
    /// Exponentially distributed with this mean.
    Exponential(Duration),
}

impl Delay {
    /// One service time; `None` where there is nothing to wait for.
    pub fn draw(self, random: &mut SplitMix64) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::Fixed(delay) => Some(delay),
            Self::Exponential(mean) => Some(mean.mul_f64(-random.next_unit().ln())),
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
            _ => Err(format!(
                "`{text}` is no delay; write none, fixed:5ms or exp:5ms"
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

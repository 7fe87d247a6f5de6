//! How numbers are written in reports: three digits that matter, thousands set apart.

/// What a number counts, which decides how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quantity {
    /// Bytes.
    Bytes,
    /// Anything that is just counted.
    Count,
    /// Microseconds.
    Microseconds,
}

impl Quantity {
    /// With its unit, to three digits.
    pub(crate) fn text(self, value: f64) -> String {
        match self {
            Self::Bytes => bytes(value),
            Self::Count => plain(value),
            Self::Microseconds => microseconds(value),
        }
    }

    /// The same for the marks of an axis, which are round: `2 KiB` and not `2.00 KiB`.
    pub(crate) fn mark(self, value: f64) -> String {
        let text = self.text(value);
        let (number, unit) = text
            .split_once(' ')
            .map_or((&*text, ""), |(n, _)| (n, &text[n.len()..]));
        let number = match number.split_once('.') {
            Some(_) => number.trim_end_matches('0').trim_end_matches('.'),
            None => number,
        };
        format!("{number}{unit}")
    }

    /// The roundest step between marks that is no less than `least`.
    pub(crate) fn step(self, least: f64) -> f64 {
        if self == Self::Bytes {
            return 2_f64.powf(least.log2().ceil()).max(1.0);
        }
        let power = 10_f64.powf(least.log10().floor());
        let steps = [1.0, 2.0, 5.0].map(|factor| factor * power);
        steps
            .into_iter()
            .find(|step| *step >= least)
            .unwrap_or(power * 10.0)
    }
}

/// `0.75`, `12.3`, `1,234`.
pub(crate) fn plain(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 99.95 {
        thousands(value)
    } else if magnitude >= 9.995 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// `640 B`, `1.25 KiB`, `3.20 MiB`.
pub(crate) fn bytes(value: f64) -> String {
    const KIB: f64 = 1024.0;
    let magnitude = value.abs();
    if magnitude < KIB {
        format!("{value:.0} B")
    } else if magnitude < KIB * KIB {
        format!("{} KiB", plain(value / KIB))
    } else {
        format!("{} MiB", plain(value / (KIB * KIB)))
    }
}

/// `250 µs`, `1.25 ms`, `3.20 s`.
pub(crate) fn microseconds(value: f64) -> String {
    if value < 1e3 {
        format!("{value:.0} µs")
    } else if value < 1e6 {
        format!("{} ms", plain(value / 1e3))
    } else {
        format!("{} s", plain(value / 1e6))
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 {
        format!("-{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_that_matter() {
        let written = [
            0.0,
            0.754,
            9.999,
            12.34,
            99.96,
            1234.5,
            1_234_567.0,
            -1234.5,
        ]
        .map(plain);
        let expected = [
            "0.00",
            "0.75",
            "10.0",
            "12.3",
            "100",
            "1,234",
            "1,234,567",
            "-1,234",
        ];
        assert_eq!(written, expected);
    }

    #[test]
    fn marks_are_round() {
        let marks = [0.0, 5.0, 2.5, 100.0, 2000.0].map(|value| Quantity::Count.mark(value));
        assert_eq!(marks, ["0", "5", "2.5", "100", "2,000"]);
        let marks = [0.0, 512.0, 2048.0, 1536.0].map(|value| Quantity::Bytes.mark(value));
        assert_eq!(marks, ["0 B", "512 B", "2 KiB", "1.5 KiB"]);
        assert_eq!(Quantity::Microseconds.mark(1e4), "10 ms");
    }

    #[test]
    fn steps_are_round_in_their_own_way() {
        let steps = [0.3, 3.9, 5.0, 51.0].map(|least| Quantity::Count.step(least));
        assert_eq!(steps, [0.5, 5.0, 5.0, 100.0]);
        assert_eq!(
            [1.2, 1000.0].map(|least| Quantity::Bytes.step(least)),
            [2.0, 1024.0]
        );
    }

    #[test]
    fn units_follow_the_size() {
        assert_eq!(
            [640.0, 1280.0, 3_355_443.2].map(bytes),
            ["640 B", "1.25 KiB", "3.20 MiB"]
        );
        assert_eq!(
            [250.0, 1250.0, 3.2e6].map(microseconds),
            ["250 µs", "1.25 ms", "3.20 s"]
        );
    }
}

//! How numbers are written in reports: three digits that matter, thousands set apart.

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

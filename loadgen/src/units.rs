//! Durations and sizes as people write them: `250ms`, `10s`, `64`, `16KiB`.
//!
//! Invariant: a number without a unit is bytes for a size and an error for a duration, so that
//! nobody gets milliseconds who meant seconds.

use std::time::Duration;

/// Parses `5ms`, `1.5s`, `2m`, `100us`, `1h`.
///
/// # Errors
/// Says what was wrong and gives an example.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_number(text);
    let second_count = match unit {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "" => {
            return Err(format!(
                "`{text}` has no unit; write for example 500ms, 10s or 2m"
            ));
        }
        _ => {
            return Err(format!(
                "`{unit}` is no unit of time; write for example 500ms, 10s or 2m"
            ));
        }
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("`{text}` is no duration; write for example 10s"))?;
    Duration::try_from_secs_f64(number * second_count)
        .map_err(|_| format!("`{text}` is out of range"))
}

/// Parses `64`, `1k` (1,000), `16KiB` (16,384), `1MB`, `1MiB`, `1GiB`.
///
/// # Errors
/// Says what was wrong and gives an example.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = split_number(text);
    let bytes_per_unit: usize = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "ki" | "kib" => 1 << 10,
        "m" | "mb" => 1_000_000,
        "mi" | "mib" => 1 << 20,
        "g" | "gb" => 1_000_000_000,
        "gi" | "gib" => 1 << 30,
        _ => {
            return Err(format!(
                "`{unit}` is no unit of size; write for example 64, 16KiB, 1MB"
            ));
        }
    };
    let number: usize = number
        .parse()
        .map_err(|_| format!("`{text}` is no size; write for example 16KiB"))?;
    number
        .checked_mul(bytes_per_unit)
        .ok_or_else(|| format!("`{text}` is out of range"))
}

/// Microseconds in the unit that reads best: `85.2µs`, `1.24ms`, `3.05s`.
pub fn format_micros(micros: f64) -> String {
    if micros < 1e3 {
        format!("{micros:.1}µs")
    } else if micros < 1e6 {
        format!("{:.2}ms", micros / 1e3)
    } else {
        format!("{:.2}s", micros / 1e6)
    }
}

/// Bytes in the unit that reads best: `512 B`, `1.5 KiB`, `2.0 GiB`.
pub fn format_bytes(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{value:.0} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// `1234567` as `1,234,567`.
pub fn group_digits(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("100us"), Ok(Duration::from_micros(100)));
        for bad in [
            "10",
            "",
            "s",
            "-1s",
            "10 parsecs",
            "1.2.3s",
            "99999999999999999999h",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_bytes_unless_they_say_otherwise() {
        assert_eq!(parse_bytes("64"), Ok(64));
        assert_eq!(parse_bytes("1k"), Ok(1000));
        assert_eq!(parse_bytes("16KiB"), Ok(16 * 1024));
        assert_eq!(parse_bytes("2MB"), Ok(2_000_000));
        for bad in ["", "x", "-1", "1.5k", "99999999999GiB", "1 furlong"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn figures_are_printed_in_the_unit_that_reads_best() {
        assert_eq!(format_micros(85.24), "85.2µs");
        assert_eq!(format_micros(1240.0), "1.24ms");
        assert_eq!(format_micros(3_050_000.0), "3.05s");
        assert_eq!(format_bytes(512.0), "512 B");
        assert_eq!(format_bytes(1536.0), "1.5 KiB");
    }

    #[test]
    fn digits_are_grouped_by_threes() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(group_digits(number), text);
        }
    }
}

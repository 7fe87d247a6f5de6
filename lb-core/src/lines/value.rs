//! Values as lines of logs have them: times, durations and addresses.
//!
//! Invariant: nothing in here allocates, but for the memory that `out` grows by.
//! Read next: `text.rs`, `template.rs`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{AddressText, DecimalText};
use crate::rt;

/// The months as dates have them.
pub const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// A clock set to before 1970 counts as 1970.
#[must_use]
pub fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The civil date of a day, counted from 1970-01-01: year, month from 1, day from 1.
///
/// The calendar repeats every 400 years, and a year that begins in March has its leap day last.
#[must_use]
pub const fn civil_date(days_since_epoch: u64) -> (u64, u64, u64) {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    const DAYS_FROM_MARCH_YEAR_0: u64 = 719_468;
    let days = days_since_epoch + DAYS_FROM_MARCH_YEAR_0;
    let era = days / DAYS_IN_400_YEARS;
    let day_of_era = days % DAYS_IN_400_YEARS;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months_from_march + 2) / 5 + 1;
    let month = if months_from_march < 10 {
        months_from_march + 3
    } else {
        months_from_march - 9
    };
    let year = era * 400 + year_of_era + (month <= 2) as u64;
    (year, month, day)
}

/// `number` in decimal.
pub fn write_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(DecimalText::of(number).as_slice());
}

/// Seconds with microseconds, as `0.001500`.
pub fn write_seconds(duration: Duration, out: &mut Vec<u8>) {
    write_number(duration.as_secs(), out);
    out.push(b'.');
    padded(u64::from(duration.subsec_micros()), 6, out);
}

/// `number` with zeros in front of it.
fn padded(number: u64, len: usize, out: &mut Vec<u8>) {
    let text = DecimalText::of(number);
    let text = text.as_slice();
    out.extend(std::iter::repeat_n(b'0', len.saturating_sub(text.len())));
    out.extend_from_slice(text);
}

/// An address and its port, IPv6 in brackets.
pub fn write_address(address: SocketAddr, out: &mut Vec<u8>) {
    let is_ipv6 = address.ip().to_canonical().is_ipv6();
    out.extend_from_slice(if is_ipv6 { b"[" } else { b"" });
    out.extend_from_slice(AddressText::of(address.ip()).bare());
    out.extend_from_slice(if is_ipv6 { b"]" } else { b"" });
    out.push(b':');
    write_number(address.port().into(), out);
}

/// The present in seconds since 1970, with milliseconds.
pub fn write_msec(out: &mut Vec<u8>) {
    let now = since_epoch(rt::wall_clock());
    let _ = write!(out, "{}.{:03}", now.as_secs(), now.subsec_millis());
}

/// The present, as `2026-11-21T05:00:00.000Z`.
pub fn write_iso8601(out: &mut Vec<u8>) {
    let now = since_epoch(rt::wall_clock());
    let (year, month, day) = civil_date(now.as_secs() / 86_400);
    let second = now.as_secs() % 86_400;
    for (number, len, separator) in [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (second / 3_600, 2, b':'),
        (second / 60 % 60, 2, b':'),
        (second % 60, 2, b'.'),
        (u64::from(now.subsec_millis()), 3, b'Z'),
    ] {
        padded(number, len, out);
        out.push(separator);
    }
}

/// The present, as `21/Nov/2026:05:00:00 +0000`.
pub fn write_local_time(out: &mut Vec<u8>) {
    let now = since_epoch(rt::wall_clock()).as_secs();
    let (year, month, day) = civil_date(now / 86_400);
    let second = now % 86_400;
    padded(day, 2, out);
    out.push(b'/');
    out.extend_from_slice(MONTHS[month as usize - 1]);
    out.push(b'/');
    padded(year, 4, out);
    for number in [second / 3_600, second / 60 % 60, second % 60] {
        out.push(b':');
        padded(number, 2, out);
    }
    out.extend_from_slice(b" +0000");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_follow_each_other() {
        let mut last = civil_date(0);
        for day in 1..200_000 {
            let next = civil_date(day);
            let same_month = next == (last.0, last.1, last.2 + 1);
            let next_month = next == (last.0, last.1 + 1, 1);
            let next_year = next == (last.0 + 1, 1, 1) && last.1 == 12 && last.2 == 31;
            assert!(same_month || next_month || next_year, "{last:?} {next:?}");
            last = next;
        }
    }

    #[test]
    fn durations_have_microseconds() {
        let mut out = Vec::new();
        write_seconds(Duration::from_micros(1_001_500), &mut out);
        assert_eq!(out, b"1.001500");
    }

    #[test]
    fn addresses_of_ipv6_are_in_brackets() {
        for (address, expected) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("[2001:db8::1]:53", "[2001:db8::1]:53"),
        ] {
            let mut out = Vec::new();
            write_address(address.parse().unwrap(), &mut out);
            assert_eq!(str::from_utf8(&out), Ok(expected));
        }
    }
}

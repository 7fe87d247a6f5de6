//! The Date field (RFC 9110 section 6.6.1), made once a second.
//!
//! Invariant: the text is that of the second in which it is asked for, as far as the runtime's
//! clock goes. Read next: `respond.rs` (a user).

use std::cell::Cell;
use std::time::Duration;

use lb_core::lines::{MONTHS, civil_date, since_epoch};
use lb_core::rt::{self, Instant};

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(crate) type DateText = [u8; 29];

/// The present, as text. One for each worker.
#[derive(Debug, Default)]
pub(crate) struct DateCache {
    text: Cell<DateText>,
    /// When the second ends; zero at first.
    valid_until: Cell<Instant>,
}

impl DateCache {
    /// The present.
    pub(crate) fn text(&self) -> DateText {
        if rt::now() >= self.valid_until.get() {
            self.refresh();
        }
        self.text.get()
    }

    #[cold]
    fn refresh(&self) {
        let now = since_epoch(rt::wall_clock());
        self.text.set(imf_fixdate(now.as_secs()));
        let rest = Duration::from_secs(1) - Duration::from_nanos(u64::from(now.subsec_nanos()));
        self.valid_until.set(rt::now() + rest);
    }
}

pub(crate) fn imf_fixdate(seconds_since_epoch: u64) -> DateText {
    const WEEKDAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
    let (days, second) = (seconds_since_epoch / 86_400, seconds_since_epoch % 86_400);
    let (year, month, day) = civil_date(days);
    let mut text = *b"Ddd, dd Mmm yyyy hh:mm:ss GMT";
    #[expect(clippy::cast_possible_truncation, reason = "below 7 and below 12")]
    let (weekday, month) = (WEEKDAYS[(days % 7) as usize], MONTHS[month as usize - 1]);
    text[..3].copy_from_slice(weekday);
    text[8..11].copy_from_slice(month);
    for (at, pair) in [
        (5, day),
        (12, year / 100 % 100),
        (14, year % 100),
        (17, second / 3_600),
        (20, second / 60 % 60),
        (23, second % 60),
    ] {
        text[at..at + 2].copy_from_slice(&two_digits(pair));
    }
    text
}

/// `number`, below 100, in two digits.
pub(crate) const fn two_digits(number: u64) -> [u8; 2] {
    [b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(str::from_utf8(&imf_fixdate(seconds)), Ok(text));
        }
    }

    #[test]
    fn the_cache_gives_the_present() {
        let cache = DateCache::default();
        let before = since_epoch(rt::wall_clock()).as_secs();
        let text = cache.text();
        let after = since_epoch(rt::wall_clock()).as_secs();
        assert!((before..=after).any(|second| imf_fixdate(second) == text));
    }
}

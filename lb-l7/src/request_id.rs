//! The ids of requests, by which the logs of several programs are joined.
//!
//! Invariant: an id that is passed on is short visible ASCII, and a made one is not repeated.
//! Read next: `http1/request.rs` (who writes it), `log/record.rs`.

use std::cell::Cell;

use lb_core::balance::affinity::random_key;
use lb_core::plan::RequestId;

use crate::http1::head::field_lines;

/// 128 bits in hexadecimal, as nginx's `$request_id`.
pub(crate) type RequestIdText = [u8; 32];

/// The longest id that is taken from a client.
const ID_BYTES_MAX: usize = 128;

/// Makes ids: one for each worker.
#[derive(Debug)]
pub(crate) struct RequestIds {
    state: Cell<[u64; 2]>,
}

impl RequestIds {
    /// Begins anywhere; without random numbers, at the time.
    pub(crate) fn new() -> Self {
        let time = u128::from(lb_core::rt::now_precise().as_nanos());
        let seed = random_key().unwrap_or_else(|_| time.to_le_bytes());
        let [low, high] = [0, 8].map(|at| {
            let mut word = [0; 8];
            word.copy_from_slice(&seed[at..at + 8]);
            u64::from_le_bytes(word)
        });
        Self {
            state: Cell::new([low, high]),
        }
    }

    /// A new id.
    pub(crate) fn next(&self) -> RequestIdText {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let [counter, seed] = self.state.get();
        self.state.set([counter.wrapping_add(1), seed]);
        let words = [
            mix(counter ^ seed.rotate_left(32)),
            mix(counter.wrapping_add(seed)),
        ];
        let mut text = [0; 32];
        for (index, digit) in text.iter_mut().enumerate() {
            let word = words[index / 16];
            *digit = HEX[(word >> (60 - 4 * (index % 16)) & 15) as usize];
        }
        text
    }
}

/// The finalizer of splitmix64: every counter gives another word.
const fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// Whether an id that a client sent is passed on.
pub(crate) fn is_acceptable(id: &[u8], rule: RequestId) -> bool {
    match rule {
        RequestId::Accept => {
            (1..=ID_BYTES_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
        }
        RequestId::Off => true,
        RequestId::Replace => false,
    }
}

/// What the X-Request-ID of a head is, if it has one.
pub(crate) fn request_id_of(lines: &[u8]) -> Option<&[u8]> {
    let mut fields = field_lines(lines);
    let found = fields.find(|(name, _)| name.eq_ignore_ascii_case(b"x-request-id"));
    found.map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_not_repeated() {
        let ids = RequestIds::new();
        let made: HashSet<RequestIdText> = (0..10_000).map(|_| ids.next()).collect();
        assert_eq!(made.len(), 10_000);
        assert!(
            made.iter()
                .flatten()
                .all(|it| b"0123456789abcdef".contains(it))
        );
    }

    #[test]
    fn a_client_may_say_what_a_log_can_hold() {
        for (id, accepted) in [
            ("abc-1", true),
            ("", false),
            ("a b", false),
            ("\u{e4}", false),
        ] {
            assert_eq!(
                is_acceptable(id.as_bytes(), RequestId::Accept),
                accepted,
                "{id}"
            );
        }
        assert!(!is_acceptable(&[b'x'; 129], RequestId::Accept));
        assert!(!is_acceptable(b"abc", RequestId::Replace));
    }
}

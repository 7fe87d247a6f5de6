//! What origins and generator say to each other over TCP: echo, bulk data, and the line `WHO`.
//!
//! Invariant: both sides take bulk data from the same endless pattern, so the generator can check
//! every byte without either side keeping a copy.
//! Read next: `origin/tcp.rs` and `run/tcp.rs`, the two ends.

use std::str::FromStr;
use std::sync::LazyLock;

use crate::units::parse_bytes;

/// A connection that begins with this line is answered with the origin's name and a line feed.
pub const WHO: &[u8] = b"WHO\n";

/// The line that asks a `stream` origin for one answer; it accepts any other too.
pub const GO: &[u8] = b"GO\n";

/// Bytes after which bulk data repeats.
pub const PERIOD: usize = 256 * 1024;

/// What a TCP origin does with what it receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpMode {
    /// Sends back each byte.
    Echo,
    /// Answers each line with so many bytes of the pattern, which begins anew for each answer.
    Stream(usize),
}

impl FromStr for TcpMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "echo" => Ok(Self::Echo),
            Some(("stream", size)) => match parse_bytes(size)? {
                0 => Err("an answer of stream:0 cannot be seen; ask for at least 1 byte".into()),
                size => Ok(Self::Stream(size)),
            },
            _ => Err(format!(
                "`{text}` is no TCP mode; write echo or, for example, stream:1MiB"
            )),
        }
    }
}

/// One period of bulk data.
pub fn pattern() -> &'static [u8] {
    static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| random_bytes(PERIOD));
    &PATTERN
}

/// True if `bytes` are the bulk data that follows after `offset` bytes of an answer.
pub fn follows_pattern(offset: usize, mut bytes: &[u8]) -> bool {
    let mut start = offset % PERIOD;
    while !bytes.is_empty() {
        let length = bytes.len().min(PERIOD - start);
        if bytes[..length] != pattern()[start..start + length] {
            return false;
        }
        bytes = &bytes[length..];
        start = 0;
    }
    true
}

/// Bytes without structure, the same at each call and on each machine.
pub fn random_bytes(length: usize) -> Vec<u8> {
    let mut random = SplitMix64::new(0x6c6f_6164_6765_6e21);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A small pseudo-random generator (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", 2014).
#[derive(Debug, Clone)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// The sequence that belongs to `seed`.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number, each equally likely.
    pub const fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number in (0, 1].
    pub const fn next_unit(&mut self) -> f64 {
        ((self.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_documented() {
        assert_eq!("echo".parse(), Ok(TcpMode::Echo));
        assert_eq!("stream:1MiB".parse(), Ok(TcpMode::Stream(1 << 20)));
        for bad in ["", "stream", "stream:0", "stream:lots", "echo:1"] {
            assert!(bad.parse::<TcpMode>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_pattern_is_recognised_across_its_period_and_nothing_else_is() {
        let mut twice = pattern().to_vec();
        twice.extend_from_slice(pattern());
        assert!(follows_pattern(0, &twice));
        assert!(follows_pattern(PERIOD - 3, &twice[PERIOD - 3..PERIOD + 5]));
        assert!(follows_pattern(5 * PERIOD + 7, &twice[7..99]));
        assert!(!follows_pattern(1, &twice[..64]));
        twice[PERIOD + 2] ^= 1;
        assert!(!follows_pattern(PERIOD - 3, &twice[PERIOD - 3..PERIOD + 5]));
    }

    #[test]
    fn unit_numbers_stay_within_their_bounds_and_average_a_half() {
        let mut random = SplitMix64::new(1);
        let mut sum = 0.0;
        for _ in 0..10_000 {
            let unit = random.next_unit();
            assert!(unit > 0.0 && unit <= 1.0);
            sum += unit;
        }
        assert!((sum / 10_000.0 - 0.5).abs() < 0.02);
    }
}

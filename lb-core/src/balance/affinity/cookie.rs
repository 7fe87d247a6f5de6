//! What an affinity cookie says: which backend, or which session, sealed with a key.
//!
//! Invariant: a value that was not made with the key, whatever its bytes, means nothing; a value
//! tells a client neither addresses nor how many backends there are. Nodes with one key agree.
//! Read next: `lb-l7`, which writes the rest of the `Set-Cookie` line.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::str;
use std::sync::atomic::{AtomicU64, Ordering};

use siphasher::sip::SipHasher24 as Mac64;
use siphasher::sip128::{Hasher128, SipHasher24 as Mac128};

use crate::plan::CookieKey;

/// Length of every cookie value, in bytes.
pub const COOKIE_LEN: usize = 32;

impl CookieKey {
    /// The key that a user's secret stands for. It may have any length; 16 random bytes are best.
    #[must_use]
    pub fn of_secret(secret: &[u8]) -> Self {
        Self(derive(&Self([0; 16]), "secret", secret))
    }
}

/// A key for one use, from which neither `key` nor the key of another use can be told.
fn derive(key: &CookieKey, purpose: &str, name: &[u8]) -> [u8; 16] {
    let mut mac = Mac128::new_with_key(&key.0);
    mac.write_u64(purpose.len() as u64);
    mac.write(purpose.as_bytes());
    mac.write(name);
    mac.finish128().as_bytes()
}

/// The value of an affinity cookie: 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CookieValue([u8; COOKIE_LEN]);

impl CookieValue {
    /// As it is to be written.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; COOKIE_LEN] {
        &self.0
    }

    /// As it is to be written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }

    fn encode(number: u128) -> Self {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        let mut value = [0; COOKIE_LEN];
        for (digits, byte) in value.chunks_exact_mut(2).zip(number.to_be_bytes()) {
            digits[0] = DIGITS[usize::from(byte >> 4)];
            digits[1] = DIGITS[usize::from(byte & 15)];
        }
        Self(value)
    }
}

/// The number in a value, which is written in one way only.
fn decode(value: &[u8]) -> Option<u128> {
    let value: &[u8; COOKIE_LEN] = value.try_into().ok()?;
    let mut number = 0;
    for &digit in value {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        number = number << 4 | u128::from(digit);
    }
    Some(number)
}

/// Cookies that name a backend of one cluster (mode `persistent`), all made in advance.
#[derive(Debug)]
pub struct BackendCookies {
    /// By position among the backends.
    values: Box<[CookieValue]>,
    /// With the position, in order.
    numbers: Box<[(u128, u16)]>,
}

impl BackendCookies {
    /// The cookies of the backends at `addresses`, in the order of the snapshot.
    #[must_use]
    pub fn build(key: &CookieKey, cluster: &str, addresses: &[SocketAddr]) -> Self {
        let key = derive(key, "backend", cluster.as_bytes());
        let mut numbers: Box<[(u128, u16)]> = addresses
            .iter()
            .zip(0..)
            .map(|(&address, position)| (seal(&key, address), position))
            .collect();
        let values = numbers
            .iter()
            .map(|&(number, _)| CookieValue::encode(number))
            .collect();
        numbers.sort_unstable();
        Self { values, numbers }
    }

    /// The cookie of the backend at `position`.
    #[must_use]
    pub fn value_of(&self, position: u16) -> Option<&CookieValue> {
        self.values.get(usize::from(position))
    }

    /// The position of the backend that a cookie names; `None` when it is malformed, was made with
    /// another key or for another cluster, or its backend is not in this snapshot.
    #[must_use]
    pub fn position_of(&self, value: &[u8]) -> Option<u16> {
        let number = decode(value)?;
        let found = self
            .numbers
            .binary_search_by_key(&number, |&(number, _)| number);
        Some(self.numbers[found.ok()?].1)
    }
}

/// The keyed hash of an address.
fn seal(key: &[u8; 16], address: SocketAddr) -> u128 {
    let mut mac = Mac128::new_with_key(key);
    match address.ip() {
        IpAddr::V4(ip) => mac.write(&ip.octets()),
        IpAddr::V6(ip) => mac.write(&ip.octets()),
    }
    mac.write(&address.port().to_be_bytes());
    if let SocketAddr::V6(address) = address {
        mac.write(&address.scope_id().to_be_bytes());
    }
    mac.finish128().as_u128()
}

/// Cookies that name a session of one cluster (mode `balanced`), whose number is then hashed to a
/// backend. Their value is the number and its keyed hash, so that clients cannot choose it.
#[derive(Debug)]
pub struct SessionCookies {
    mac: Mac64,
    numbers: Mac64,
    next: AtomicU64,
}

impl SessionCookies {
    /// The cookies of `cluster`. The numbers given out are those that `random` (of
    /// [`super::random_key`]) leads to; take another for each process and each snapshot.
    #[must_use]
    pub fn new(key: &CookieKey, cluster: &str, random: [u8; 16]) -> Self {
        Self {
            mac: Mac64::new_with_key(&derive(key, "session", cluster.as_bytes())),
            numbers: Mac64::new_with_key(&random),
            next: AtomicU64::new(0),
        }
    }

    /// The number of a new session; evenly spread over all 64-bit numbers.
    #[must_use]
    pub fn open(&self) -> u64 {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        self.numbers.hash(&count.to_be_bytes())
    }

    /// The cookie of a session.
    #[must_use]
    pub fn value_of(&self, session: u64) -> CookieValue {
        CookieValue::encode(u128::from(session) << 64 | u128::from(self.seal(session)))
    }

    /// The session that a cookie names; `None` when it is malformed or was not made with this key
    /// for this cluster.
    #[must_use]
    pub fn session_of(&self, value: &[u8]) -> Option<u64> {
        let number = decode(value)?;
        let session = (number >> 64) as u64;
        (number as u64 == self.seal(session)).then_some(session)
    }

    fn seal(&self, session: u64) -> u64 {
        self.mac.hash(&session.to_be_bytes())
    }
}

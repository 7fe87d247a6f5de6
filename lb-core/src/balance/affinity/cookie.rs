//! What an affinity cookie says: which backend, or which session, sealed with a key.
//!
//! Invariant: a value that was not made with the key, whatever its bytes, means nothing; a value
//! tells a client neither addresses nor how many backends there are. Nodes with one key agree.
//! Read next: `lb-l7`, which writes the rest of the `Set-Cookie` line.

use std::fmt;
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

impl fmt::Debug for SessionCookies {
    /// Not the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCookies").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const KEY: CookieKey = CookieKey(*b"0123456789abcdef");

    fn addresses() -> Vec<SocketAddr> {
        [
            "192.0.2.1:80",
            "192.0.2.1:81",
            "192.0.2.2:80",
            "[2001:db8::1]:80",
        ]
        .map(|it| it.parse().unwrap())
        .to_vec()
    }

    #[test]
    fn a_backend_is_found_by_its_cookie_wherever_it_stands() {
        let cookies = BackendCookies::build(&KEY, "shop", &addresses());
        let mut reversed = addresses();
        reversed.reverse();
        let elsewhere = BackendCookies::build(&KEY, "shop", &reversed);
        for position in 0..4 {
            let value = cookies.value_of(position).unwrap();
            assert_eq!(cookies.position_of(value.as_bytes()), Some(position));
            assert_eq!(elsewhere.position_of(value.as_bytes()), Some(3 - position));
        }
        assert_eq!(cookies.value_of(4), None);
    }

    #[test]
    fn a_cookie_is_of_its_key_cluster_and_address() {
        let cookies = BackendCookies::build(&KEY, "shop", &addresses());
        let others = [
            BackendCookies::build(&CookieKey([0; 16]), "shop", &addresses()),
            BackendCookies::build(&KEY, "blog", &addresses()),
            BackendCookies::build(&KEY, "shop", &["192.0.2.3:80".parse().unwrap()]),
        ];
        for other in others {
            let value = other.value_of(0).unwrap();
            assert_eq!(cookies.position_of(value.as_bytes()), None);
        }
        let distinct: HashSet<_> = (0..4)
            .map(|it| cookies.value_of(it).unwrap().as_str())
            .collect();
        assert_eq!(distinct.len(), 4);
    }

    /// Values outlive us in browsers: another version must make the same.
    #[test]
    fn values_do_not_change_from_version_to_version() {
        let cookies = BackendCookies::build(&KEY, "shop", &addresses());
        assert_eq!(
            cookies.value_of(0).unwrap().as_str(),
            "aa48bca66a301067dd42c494221ed55d"
        );
        assert_eq!(
            cookies.value_of(3).unwrap().as_str(),
            "f85370b3f9970e5f9c781ab95c8d8ad5"
        );
        let sessions = SessionCookies::new(&KEY, "shop", [1; 16]);
        assert_eq!(
            sessions.value_of(0x0123_4567_89ab_cdef).as_str(),
            "0123456789abcdef927c0f71d196654b"
        );
        let key = CookieKey::of_secret(b"of any length at all, even this one");
        let bytes = [
            104, 112, 202, 230, 174, 134, 1, 197, 250, 47, 82, 185, 173, 76, 194, 227,
        ];
        assert_eq!(key.0, bytes);
    }

    #[test]
    fn a_session_comes_back_from_its_cookie_only() {
        let cookies = SessionCookies::new(&KEY, "shop", [1; 16]);
        let session = cookies.open();
        assert_ne!(session, cookies.open());
        let value = cookies.value_of(session);
        assert_eq!(cookies.session_of(value.as_bytes()), Some(session));
        for other in [
            SessionCookies::new(&KEY, "blog", [1; 16]),
            SessionCookies::new(&CookieKey([0; 16]), "shop", [1; 16]),
        ] {
            assert_eq!(other.session_of(value.as_bytes()), None);
        }
        // Another process of the same key understands it, and opens others.
        let restarted = SessionCookies::new(&KEY, "shop", [2; 16]);
        assert_eq!(restarted.session_of(value.as_bytes()), Some(session));
        assert_ne!(restarted.open(), session);
    }

    #[test]
    fn no_digit_of_a_cookie_can_be_changed() {
        let backends = BackendCookies::build(&KEY, "shop", &addresses());
        let sessions = SessionCookies::new(&KEY, "shop", [1; 16]);
        let valid = [
            *backends.value_of(0).unwrap(),
            sessions.value_of(sessions.open()),
        ];
        for value in valid {
            for place in 0..COOKIE_LEN {
                for byte in [b'0', b'f', b'F', b'g', b' ', 0, 255] {
                    let mut changed = *value.as_bytes();
                    if changed[place] != byte {
                        changed[place] = byte;
                        assert_eq!(backends.position_of(&changed), None);
                        assert_eq!(sessions.session_of(&changed), None);
                    }
                }
            }
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        let sessions = SessionCookies::new(&KEY, "shop", *b"fedcba9876543210");
        let printed = format!("{KEY:?} {sessions:?}");
        assert_eq!(printed, "CookieKey(..) SessionCookies { .. }");
    }

    proptest! {
        #[test]
        fn bytes_of_others_mean_nothing(value in proptest::collection::vec(any::<u8>(), 0..70)) {
            let backends = BackendCookies::build(&KEY, "shop", &addresses());
            prop_assert_eq!(backends.position_of(&value), None);
            let sessions = SessionCookies::new(&KEY, "shop", [1; 16]);
            prop_assert_eq!(sessions.session_of(&value), None);
        }

        #[test]
        fn well_formed_values_of_others_mean_nothing(value in "[0-9a-f]{32}") {
            let backends = BackendCookies::build(&KEY, "shop", &addresses());
            prop_assert_eq!(backends.position_of(value.as_bytes()), None);
            let sessions = SessionCookies::new(&KEY, "shop", [1; 16]);
            prop_assert_eq!(sessions.session_of(value.as_bytes()), None);
        }

        #[test]
        fn a_number_is_written_in_one_way(number: u128) {
            let value = CookieValue::encode(number);
            prop_assert_eq!(value.as_str(), format!("{number:032x}"));
            prop_assert_eq!(decode(value.as_bytes()), Some(number));
            prop_assert!(decode(&value.as_bytes()[1..]).is_none());
        }
    }
}

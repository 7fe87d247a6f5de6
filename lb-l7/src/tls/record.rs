//! Records: plaintext to ciphertext and back, straight between received chunks and buffers of the
//! pool (RFC 8446 section 5, RFC 5246 section 6.2).
//!
//! The library makes the handshake and hands over its keys; here it would copy each record twice.
//! Invariant: a number is used once with a key: it is counted before anything else is done with it.
//! Read next: `duplex/` (both directions, and what is not data).

use std::io;
use std::ops::Range;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use aws_lc_rs::error::Unspecified;
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};

/// Bytes before a record's content: its type, the version, the length.
pub(super) const HEADER_LEN: usize = 5;
/// Most bytes of plaintext in a record.
pub(super) const PLAIN_MAX: usize = 1 << 14;
/// Most bytes behind the header (RFC 5246 section 6.2.3).
const CONTENT_MAX: usize = PLAIN_MAX + 2048;
/// Likewise of TLS 1.3 (RFC 8446 section 5.2).
const CONTENT_MAX_13: usize = PLAIN_MAX + 256;
pub(super) const TAG_LEN: usize = 16;
/// What TLS 1.2 sends of the nonce with AES-GCM (RFC 5288 section 3).
const EXPLICIT_LEN: usize = 8;
/// Bytes that no record adds to its plaintext more of.
pub(super) const OVERHEAD_MAX: usize = HEADER_LEN + EXPLICIT_LEN + TAG_LEN;

/// What a record carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    ChangeCipherSpec = 20,
    Alert = 21,
    Handshake = 22,
    Data = 23,
}

impl Kind {
    const fn of(byte: u8) -> Option<Self> {
        match byte {
            20 => Some(Self::ChangeCipherSpec),
            21 => Some(Self::Alert),
            22 => Some(Self::Handshake),
            23 => Some(Self::Data),
            _ => None,
        }
    }
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordError {
    Unexpected,
    BadMac,
    Overflow,
    Illegal,
    Decode,
    Internal,
    /// Nothing: the peer has ended the connection, by this alert.
    Alerted(u8),
}

impl RecordError {
    /// The alert that says so to the peer (RFC 8446 section 6), if there is anything to say.
    pub(super) const fn alert(self) -> Option<u8> {
        match self {
            Self::Unexpected => Some(10),
            Self::BadMac => Some(20),
            Self::Overflow => Some(22),
            Self::Illegal => Some(47),
            Self::Decode => Some(50),
            Self::Internal => Some(80),
            Self::Alerted(_) => None,
        }
    }
}

impl From<RecordError> for io::Error {
    fn from(error: RecordError) -> Self {
        let text = match error {
            RecordError::Alerted(alert) => {
                format!("TLS: the peer has ended it by the alert {alert}")
            }
            error => format!("TLS: a bad record from the peer ({error:?})"),
        };
        Self::new(io::ErrorKind::InvalidData, text)
    }
}

/// How nonces and additional data are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    /// TLS 1.3 with any suite.
    Tls13,
    /// TLS 1.2 with AES-GCM, which sends a part of the nonce.
    Explicit,
    /// TLS 1.2 with ChaCha20-Poly1305 (RFC 7905).
    Implicit,
}

/// One direction's key, and the number of its next record.
#[derive(Debug)]
struct Cipher {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    number: u64,
    scheme: Scheme,
}

impl Cipher {
    fn new(
        (number, secrets): (u64, ConnectionTrafficSecrets),
        version: ProtocolVersion,
    ) -> Option<Self> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return None,
        };
        let scheme = match version {
            ProtocolVersion::TLSv1_3 => Scheme::Tls13,
            _ if algorithm == &CHACHA20_POLY1305 => Scheme::Implicit,
            _ => Scheme::Explicit,
        };
        Some(Self {
            key: LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).ok()?),
            iv: iv.as_ref().try_into().ok()?,
            number,
            scheme,
        })
    }

    /// The initialisation vector with the number of a record.
    fn nonce(&self, number: u64) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, digit) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= digit;
        }
        nonce
    }

    /// Additional data of TLS 1.2 (RFC 5246 section 6.2.3.3).
    fn aad12(number: u64, [kind, major, minor]: [u8; 3], plain_len: usize) -> [u8; 13] {
        let mut aad = [0, 0, 0, 0, 0, 0, 0, 0, kind, major, minor, 0, 0];
        aad[..8].copy_from_slice(&number.to_be_bytes());
        aad[11..].copy_from_slice(&(plain_len as u16).to_be_bytes());
        aad
    }
}

/// Makes records.
#[derive(Debug)]
pub(super) struct Sealer(Cipher);

impl Sealer {
    /// `None` of a suite that is not ours.
    pub(super) fn new(
        secrets: (u64, ConnectionTrafficSecrets),
        version: ProtocolVersion,
    ) -> Option<Self> {
        Cipher::new(secrets, version).map(Self)
    }

    /// Records made with this key.
    pub(super) const fn number(&self) -> u64 {
        self.0.number
    }

    /// Bytes that a record is longer than its plaintext.
    pub(super) const fn overhead(&self) -> usize {
        match self.0.scheme {
            Scheme::Tls13 => HEADER_LEN + 1 + TAG_LEN,
            Scheme::Explicit => OVERHEAD_MAX,
            Scheme::Implicit => HEADER_LEN + TAG_LEN,
        }
    }

    /// Makes a record of `parts`, at most [`PLAIN_MAX`] bytes together, at the start of `room`,
    /// which has space for it; returns its length.
    pub(super) fn seal(
        &mut self,
        kind: Kind,
        parts: [&[u8]; 2],
        room: &mut [u8],
    ) -> Result<usize, Unspecified> {
        self.seal_as(kind as u8, parts, room)
    }

    /// Likewise of a kind that there may not be.
    #[inline]
    pub(super) fn seal_as(
        &mut self,
        kind: u8,
        parts: [&[u8]; 2],
        room: &mut [u8],
    ) -> Result<usize, Unspecified> {
        let plain_len = parts[0].len() + parts[1].len();
        let length = plain_len + self.overhead();
        let room = room.get_mut(..length).ok_or(Unspecified)?;
        let number = self.0.number;
        self.0.number = number.checked_add(1).ok_or(Unspecified)?;
        let nonce = self.0.nonce(number);
        let (header, content) = room.split_at_mut(HEADER_LEN);
        let outer = match self.0.scheme {
            Scheme::Tls13 => Kind::Data as u8,
            Scheme::Explicit | Scheme::Implicit => kind,
        };
        let [high, low] = ((length - HEADER_LEN) as u16).to_be_bytes();
        header.copy_from_slice(&[outer, 3, 3, high, low]);
        let inner = [kind];
        let (content, inner): (_, &[u8]) = match self.0.scheme {
            Scheme::Tls13 => (content, &inner),
            Scheme::Explicit => {
                let (explicit, content) = content.split_at_mut(EXPLICIT_LEN);
                explicit.copy_from_slice(&nonce[4..]);
                (content, &[])
            }
            Scheme::Implicit => (content, &[]),
        };
        let aad12 = Cipher::aad12(number, [kind, 3, 3], plain_len);
        let aad: &[u8] = match self.0.scheme {
            Scheme::Tls13 => header,
            Scheme::Explicit | Scheme::Implicit => &aad12,
        };
        let (out, tail) = content.split_at_mut(plain_len);
        let (nonce, aad) = (Nonce::assume_unique_for_key(nonce), Aad::from(aad));
        let key = &self.0.key;
        if parts[1].is_empty() {
            key.seal_out_of_place_scatter(nonce, aad, parts[0], out, inner, tail)?;
        } else {
            let (first, second) = out.split_at_mut(parts[0].len());
            first.copy_from_slice(parts[0]);
            second.copy_from_slice(parts[1]);
            key.seal_in_place_scatter(nonce, aad, out, inner, tail)?;
        }
        Ok(length)
    }
}

/// Opens records.
#[derive(Debug)]
pub(super) struct Opener(Cipher);

impl Opener {
    /// As [`Sealer::new`].
    pub(super) fn new(
        secrets: (u64, ConnectionTrafficSecrets),
        version: ProtocolVersion,
    ) -> Option<Self> {
        Cipher::new(secrets, version).map(Self)
    }

    /// Length of the record that begins with `bytes`, `None` if there is no whole header.
    pub(super) fn record_len(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
        let Some(&[kind, major, _, high, low]) = bytes.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        if Kind::of(kind).is_none() || major != 3 {
            return Err(RecordError::Unexpected);
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > CONTENT_MAX {
            return Err(RecordError::Overflow);
        }
        Ok(Some(HEADER_LEN + length))
    }

    /// Room that a record of `length` bytes needs to be opened.
    pub(super) const fn room_for(&self, length: usize) -> usize {
        let other = match self.0.scheme {
            Scheme::Tls13 | Scheme::Implicit => HEADER_LEN + TAG_LEN,
            Scheme::Explicit => OVERHEAD_MAX,
        };
        length.saturating_sub(other)
    }

    /// Opens a whole record to the start of `room`, which has space for it; returns what it
    /// carries, and the length of that.
    pub(super) fn open(
        &mut self,
        record: &[u8],
        room: &mut [u8],
    ) -> Result<(Kind, usize), RecordError> {
        let (header, content) = record
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(RecordError::Decode)?;
        let Next { number, nonce, at } = self.next(*header, content)?;
        let (sealed, tag) = content[at..].split_at(content.len() - at - TAG_LEN);
        let room = room.get_mut(..sealed.len()).ok_or(RecordError::Internal)?;
        let aad12 = Cipher::aad12(number, [header[0], header[1], header[2]], sealed.len());
        let aad = Aad::from(self.aad(header, &aad12));
        self.0
            .key
            .open_separate_gather(nonce, aad, sealed, tag, room)
            .map_err(|_| RecordError::BadMac)?;
        self.content_of(header[0], room)
    }

    /// Opens a whole record where it is; returns what it carries, and which part of it that is.
    pub(super) fn open_in_place(
        &mut self,
        record: &mut [u8],
    ) -> Result<(Kind, Range<usize>), RecordError> {
        let (header, content) = record
            .split_first_chunk_mut::<HEADER_LEN>()
            .ok_or(RecordError::Decode)?;
        let Next { number, nonce, at } = self.next(*header, content)?;
        let end = content.len() - TAG_LEN;
        let (sealed, tag) = content.split_at_mut(end);
        let sealed = &mut sealed[at..];
        let aad12 = Cipher::aad12(number, [header[0], header[1], header[2]], sealed.len());
        let aad = Aad::from(self.aad(header, &aad12));
        let plain = self
            .0
            .key
            .open_in_place_separate_tag(nonce, aad, tag, sealed)
            .map_err(|_| RecordError::BadMac)?;
        let (kind, length) = self.content_of(header[0], plain)?;
        let start = HEADER_LEN + at;
        Ok((kind, start..start + length))
    }

    /// What the next record is opened by, which has these bytes; a tag is there.
    #[inline]
    fn next(&mut self, header: [u8; HEADER_LEN], content: &[u8]) -> Result<Next, RecordError> {
        let number = self.0.number;
        self.0.number = number.checked_add(1).ok_or(RecordError::Internal)?;
        let mut nonce = self.0.nonce(number);
        let at = match self.0.scheme {
            Scheme::Tls13 if header[0] != Kind::Data as u8 => return Err(RecordError::Unexpected),
            Scheme::Tls13 if content.len() > CONTENT_MAX_13 => return Err(RecordError::Overflow),
            Scheme::Tls13 | Scheme::Implicit => 0,
            Scheme::Explicit => {
                let explicit = content.first_chunk::<EXPLICIT_LEN>();
                nonce[..4].copy_from_slice(&self.0.iv[..4]);
                nonce[4..].copy_from_slice(explicit.ok_or(RecordError::BadMac)?);
                EXPLICIT_LEN
            }
        };
        if content.len() < at + TAG_LEN {
            return Err(RecordError::BadMac);
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        Ok(Next { number, nonce, at })
    }

    const fn aad<'a>(&self, header: &'a [u8; HEADER_LEN], aad12: &'a [u8; 13]) -> &'a [u8] {
        match self.0.scheme {
            Scheme::Tls13 => header,
            Scheme::Explicit | Scheme::Implicit => aad12,
        }
    }

    /// What an opened record carries, and how much of `plain` that is.
    #[inline]
    fn content_of(&self, outer: u8, plain: &[u8]) -> Result<(Kind, usize), RecordError> {
        let (kind, length) = match self.0.scheme {
            // With its kind and its padding (RFC 8446 section 5.4).
            Scheme::Tls13 if plain.len() > PLAIN_MAX + 1 => return Err(RecordError::Overflow),
            Scheme::Tls13 => {
                let last = plain.iter().rposition(|byte| *byte != 0); // before it is padding
                let last = last.ok_or(RecordError::Unexpected)?;
                (plain[last], last)
            }
            Scheme::Explicit | Scheme::Implicit => (outer, plain.len()),
        };
        if length > PLAIN_MAX {
            return Err(RecordError::Overflow);
        }
        let kind = Kind::of(kind).ok_or(RecordError::Unexpected)?;
        Ok((kind, length))
    }
}

/// What a record is opened by.
struct Next {
    number: u64,
    nonce: Nonce,
    /// Where behind the header the sealed bytes begin.
    at: usize,
}

#[cfg(test)]
mod tests {
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    fn secrets(suite: u8) -> (u64, ConnectionTrafficSecrets) {
        let key = || AeadKey::from([7; 32]);
        let iv = Iv::from([9; 12]);
        let secrets = match suite {
            0 => ConnectionTrafficSecrets::Aes256Gcm { key: key(), iv },
            _ => ConnectionTrafficSecrets::Chacha20Poly1305 { key: key(), iv },
        };
        (3, secrets)
    }

    fn pairs() -> Vec<(Sealer, Opener)> {
        let versions = [ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3];
        let each = versions.into_iter().flat_map(|it| [(it, 0), (it, 1)]);
        each.map(|(version, suite)| {
            let sealer = Sealer::new(secrets(suite), version).unwrap();
            (sealer, Opener::new(secrets(suite), version).unwrap())
        })
        .collect()
    }

    #[test]
    fn what_is_sealed_opens_in_order() {
        for ((mut sealer, mut opener), (_, mut second)) in pairs().into_iter().zip(pairs()) {
            let (mut sealed, mut opened) = (vec![0; 20_000], vec![0; 20_000]);
            let long = vec![5; PLAIN_MAX];
            let cases: [[&[u8]; 2]; 4] =
                [[b"", b""], [b"head", b""], [b"head", b"body"], [&long, b""]];
            for parts in cases {
                let length = sealer.seal(Kind::Data, parts, &mut sealed).unwrap();
                assert_eq!(Opener::record_len(&sealed), Ok(Some(length)));
                assert!(opener.room_for(length) <= PLAIN_MAX + 1);
                let plain = parts.concat();
                let mut own = sealed[..length].to_vec();
                let (kind, range) = second.open_in_place(&mut own).unwrap();
                assert_eq!((kind, &own[range]), (Kind::Data, &plain[..]));
                let opened_as = opener.open(&sealed[..length], &mut opened);
                assert_eq!(opened_as, Ok((Kind::Data, plain.len())));
                assert_eq!(opened[..plain.len()], plain);
            }
            let length = sealer
                .seal(Kind::Alert, [&[1, 0], b""], &mut sealed)
                .unwrap();
            assert_eq!(
                opener.open(&sealed[..length], &mut opened),
                Ok((Kind::Alert, 2))
            );
            // The same record once more has another number.
            let again = opener.open(&sealed[..length], &mut opened);
            assert_eq!(again, Err(RecordError::BadMac));
        }
    }

    #[test]
    fn what_was_changed_does_not_open() {
        for (mut sealer, _) in pairs() {
            let mut sealed = vec![0; 100];
            let length = sealer
                .seal(Kind::Data, [b"secret", b""], &mut sealed)
                .unwrap();
            // The two bytes of the length decide what the record is.
            for at in (0..length).filter(|at| !(3..HEADER_LEN).contains(at)) {
                for (_, mut opener) in pairs() {
                    let mut changed = sealed[..length].to_vec();
                    changed[at] ^= 1;
                    assert!(opener.open(&changed, &mut [0; 100]).is_err(), "{at}");
                    assert!(opener.open(&changed[..at], &mut [0; 100]).is_err(), "{at}");
                }
                for (_, mut opener) in pairs() {
                    let mut changed = sealed[..length].to_vec();
                    changed[at] ^= 1;
                    assert!(opener.open_in_place(&mut changed.clone()).is_err(), "{at}");
                    assert!(opener.open_in_place(&mut changed[..at]).is_err(), "{at}");
                }
            }
        }
    }

    #[test]
    fn headers_are_checked() {
        assert_eq!(Opener::record_len(b"\x17\x03\x03\x00"), Ok(None));
        assert_eq!(Opener::record_len(b"\x17\x03\x03\x01\x02"), Ok(Some(263)));
        assert_eq!(Opener::record_len(b"GET /"), Err(RecordError::Unexpected));
        let long = Opener::record_len(b"\x17\x03\x03\xff\xff");
        assert_eq!(long, Err(RecordError::Overflow));
    }
}

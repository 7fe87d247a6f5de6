//! What origins and generator say to each other over UDP: echoed datagrams, a one-way stream, and
//! the sink's reports on it.
//!
//! Invariant: every datagram names its kind, source, place in the sequence and length, so that
//! loss, duplication, reordering, damage and mix-ups can be told apart, and datagrams that came
//! coalesced can be cut apart again.
//! Read next: `tally.rs` (counting), `../origin/udp.rs` and `../run/udp.rs`, the two ends.

mod tally;

pub use tally::{Arrival, Tally};

use std::net::UdpSocket;

use nix::sys::socket::{setsockopt, sockopt};

use crate::tcp::pattern;

/// Bytes of a header, and so the least that a datagram has.
pub const HEADER_BYTES: usize = 40;
/// Bytes of a report.
pub const REPORT_BYTES: usize = HEADER_BYTES + 4 * 8;
/// The most that a datagram can have (IPv4: 65,535 less the headers of IP and UDP).
pub const DATAGRAM_BYTES_MAX: usize = 65_507;
/// The longest name that an origin can give itself; longer ones are cut.
pub const NAME_BYTES_MAX: usize = 16;

const MAGIC: [u8; 4] = *b"lgU1";
const KIND_AT: usize = 4;
const LENGTH_AT: usize = 6;
const SOURCE_AT: usize = 8;
const SEQUENCE_AT: usize = 16;
const NAME_AT: usize = 24;

/// What a datagram is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Comes back as it was, with the origin's name filled in.
    Echo,
    /// One of a stream that is only counted.
    OneWay,
    /// The same, and the sink is to report on its source.
    OneWayAsking,
    /// The sink's report.
    Report,
}

/// A datagram's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Bytes of the whole datagram.
    pub length: usize,
    /// Who sends the sequence.
    pub source: u64,
    /// Its place in the sequence, from 0; in a report that of the datagram that asked for it.
    pub sequence: u64,
    /// Who answered, filled up with zeros; all zeros in what a client sends.
    pub name: [u8; NAME_BYTES_MAX],
}

impl Kind {
    const ALL: [Self; 4] = [Self::Echo, Self::OneWay, Self::OneWayAsking, Self::Report];

    const fn byte(self) -> u8 {
        match self {
            Self::Echo => b'E',
            Self::OneWay => b'O',
            Self::OneWayAsking => b'A',
            Self::Report => b'R',
        }
    }
}

impl Header {
    /// The header at the beginning of `bytes`; `None` if that is not one of ours.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER_BYTES || bytes[..KIND_AT] != MAGIC {
            return None;
        }
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| kind.byte() == bytes[KIND_AT])?;
        let mut name = [0; NAME_BYTES_MAX];
        name.copy_from_slice(&bytes[NAME_AT..HEADER_BYTES]);
        Some(Self {
            kind,
            length: usize::from(u16::from_be_bytes([bytes[LENGTH_AT], bytes[LENGTH_AT + 1]])),
            source: number(bytes, SOURCE_AT),
            sequence: number(bytes, SEQUENCE_AT),
            name,
        })
    }

    /// Writes it to the beginning of `bytes`, which holds at least [`HEADER_BYTES`].
    pub fn write(&self, bytes: &mut [u8]) {
        let length = u16::try_from(self.length).unwrap_or(u16::MAX);
        bytes[..KIND_AT].copy_from_slice(&MAGIC);
        bytes[KIND_AT] = self.kind.byte();
        bytes[KIND_AT + 1] = 0;
        bytes[LENGTH_AT..SOURCE_AT].copy_from_slice(&length.to_be_bytes());
        bytes[SOURCE_AT..SEQUENCE_AT].copy_from_slice(&self.source.to_be_bytes());
        bytes[SEQUENCE_AT..NAME_AT].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[NAME_AT..HEADER_BYTES].copy_from_slice(&self.name);
    }
}

/// Fills `bytes` with the datagram that `header` begins; its length is that of `bytes`.
pub fn fill(bytes: &mut [u8], header: &Header) {
    header.write(bytes);
    let payload = &mut bytes[HEADER_BYTES..];
    let start = payload_start(header.sequence);
    let length = payload.len();
    payload.copy_from_slice(&pattern()[start..start + length]);
}

/// Whether the bytes behind the header are those that [`fill`] put there.
pub fn is_whole(bytes: &[u8], header: &Header) -> bool {
    let start = payload_start(header.sequence);
    let payload = bytes.get(HEADER_BYTES..).unwrap_or_default();
    bytes.len() == header.length && *payload == pattern()[start..start + payload.len()]
}

/// The datagrams that came as one, cut apart by the lengths in their headers. What is not ours
/// comes as the one piece that it was.
pub fn cut(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = Header::read(rest).map_or(rest.len(), |header| header.length);
        let (piece, after) = rest.split_at(length.clamp(1, rest.len()));
        rest = after;
        Some(piece)
    })
}

/// Room for bursts, so that what is lost is not lost by us: as much as the system gives.
pub fn enlarge_buffer(socket: &UdpSocket) {
    const WANTED_BYTES: usize = 4 << 20;
    // Beyond the system's limit only root may go; others get the limit.
    if setsockopt(socket, sockopt::RcvBufForce, &WANTED_BYTES).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &WANTED_BYTES);
    }
}

/// A name as it stands in a header.
pub fn name_field(name: &str) -> [u8; NAME_BYTES_MAX] {
    let mut field = [0; NAME_BYTES_MAX];
    let length = name.len().min(NAME_BYTES_MAX);
    field[..length].copy_from_slice(&name.as_bytes()[..length]);
    field
}

/// Puts the name of the origin into an echo.
pub fn sign(bytes: &mut [u8], name: &[u8; NAME_BYTES_MAX]) {
    bytes[NAME_AT..HEADER_BYTES].copy_from_slice(name);
}

/// The name in the header of a datagram; `None` if nobody has put one there.
pub fn signature_of(datagram: &[u8]) -> Option<&str> {
    let field = datagram.get(NAME_AT..HEADER_BYTES)?;
    let name = field.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(name)
        .ok()
        .filter(|name| !name.is_empty())
}

/// A sink's report on one source, ready to be sent.
pub fn report(asked: &Header, tally: &Tally, name: &[u8; NAME_BYTES_MAX]) -> [u8; REPORT_BYTES] {
    let mut bytes = [0; REPORT_BYTES];
    let header = Header {
        kind: Kind::Report,
        length: REPORT_BYTES,
        name: *name,
        ..*asked
    };
    header.write(&mut bytes);
    let counts = [
        tally.received(),
        tally.duplicated(),
        tally.reordered(),
        tally.missing(),
    ];
    for (place, count) in bytes[HEADER_BYTES..].chunks_exact_mut(8).zip(counts) {
        place.copy_from_slice(&count.to_be_bytes());
    }
    bytes
}

/// What a sink has counted of one source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Different datagrams.
    pub received: u64,
    /// Copies of such.
    pub duplicated: u64,
    /// Those that came after one that was sent later.
    pub reordered: u64,
    /// Gaps below the highest place in the sequence.
    pub missing: u64,
}

impl Counts {
    /// Those in a report; `None` if it is cut.
    pub fn read(report: &[u8]) -> Option<Self> {
        let counts = report.get(HEADER_BYTES..REPORT_BYTES)?;
        Some(Self {
            received: number(counts, 0),
            duplicated: number(counts, 8),
            reordered: number(counts, 16),
            missing: number(counts, 24),
        })
    }
}

/// Payloads of neighbours in a sequence differ.
const fn payload_start(sequence: u64) -> usize {
    (sequence % 4096) as usize
}

/// The number at `at`, of which there are 8 bytes.
fn number(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: Kind, length: usize) -> Header {
        Header {
            kind,
            length,
            source: 7,
            sequence: 1 << 40,
            name: [0; NAME_BYTES_MAX],
        }
    }

    fn datagram(kind: Kind, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        fill(&mut bytes, &header(kind, length));
        bytes
    }

    #[test]
    fn headers_survive_and_what_is_not_ours_is_told() {
        for kind in Kind::ALL {
            for length in [HEADER_BYTES, 64, DATAGRAM_BYTES_MAX] {
                let bytes = datagram(kind, length);
                let read = Header::read(&bytes).unwrap();
                assert_eq!(read, header(kind, length));
                assert!(is_whole(&bytes, &read));
            }
        }
        assert_eq!(Header::read(b"hello"), None);
        assert_eq!(Header::read(&[0; 100]), None);
        assert_eq!(Header::read(&datagram(Kind::Echo, 64)[..39]), None);
    }

    #[test]
    fn damage_and_mix_ups_show() {
        let mut bytes = datagram(Kind::Echo, 64);
        let read = Header::read(&bytes).unwrap();
        assert!(!is_whole(&bytes[..63], &read));
        let other = Header {
            sequence: read.sequence + 1,
            ..read
        };
        assert!(!is_whole(&bytes, &other));
        bytes[63] ^= 1;
        assert!(!is_whole(&bytes, &read));
    }

    #[test]
    fn coalesced_datagrams_are_cut_apart() {
        let both = [datagram(Kind::OneWay, 50), datagram(Kind::OneWay, 60)].concat();
        let lengths: Vec<usize> = cut(&both).map(<[u8]>::len).collect();
        assert_eq!(lengths, [50, 60]);
        let alien: Vec<&[u8]> = cut(b"hello").collect();
        assert_eq!(alien, [b"hello"]);
        let mut liar = datagram(Kind::OneWay, 50);
        liar[LENGTH_AT..SOURCE_AT].copy_from_slice(&[0, 0]);
        assert_eq!(cut(&liar).map(<[u8]>::len).sum::<usize>(), 50);
    }

    #[test]
    fn names_and_reports_are_read_back() {
        let mut bytes = datagram(Kind::Echo, 64);
        assert_eq!(signature_of(&bytes), None);
        sign(&mut bytes, &name_field("127.0.0.1:8081"));
        let read = Header::read(&bytes).unwrap();
        assert_eq!(signature_of(&bytes), Some("127.0.0.1:8081"));
        assert!(
            is_whole(&bytes, &read),
            "the name is no part of the payload"
        );
        let long = name_field("[2001:db8::1]:65535");
        assert_eq!(long, *b"[2001:db8::1]:65");

        let mut tally = Tally::default();
        for sequence in [0, 1, 4, 3, 3] {
            tally.see(sequence);
        }
        let report = report(&header(Kind::OneWayAsking, 1200), &tally, &long);
        let read = Header::read(&report).unwrap();
        assert_eq!((read.kind, read.length), (Kind::Report, REPORT_BYTES));
        let expected = Counts {
            received: 4,
            duplicated: 1,
            reordered: 1,
            missing: 1,
        };
        assert_eq!(Counts::read(&report), Some(expected));
        assert_eq!(Counts::read(&report[..50]), None);
    }
}

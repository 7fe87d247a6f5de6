//! The static and the dynamic table of HPACK (RFC 7541 section 2.3 and appendix A).
//!
//! Invariant: the entries' size, counted as the RFC does, never exceeds the limit, and the bytes
//! held never exceed twice that.
//! Read next: `decode.rs`, `encode.rs` (each end of a connection has one table for each way).

use std::collections::VecDeque;

/// The overhead that an entry is counted with (RFC 7541 section 4.1).
pub(super) const ENTRY_OVERHEAD: usize = 32;

/// The static table; its first entry has the index 1.
#[rustfmt::skip]
pub(super) const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"),
    (":path", "/index.html"), (":scheme", "http"), (":scheme", "https"), (":status", "200"),
    (":status", "204"), (":status", "206"), (":status", "304"), (":status", "400"),
    (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""),
    ("accept", ""), ("access-control-allow-origin", ""), ("age", ""), ("allow", ""),
    ("authorization", ""), ("cache-control", ""), ("content-disposition", ""),
    ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""),
    ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""),
    ("if-match", ""), ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""),
    ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""), ("location", ""),
    ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""),
    ("vary", ""), ("via", ""), ("www-authenticate", ""),
];

/// The first index of a name in the static table, which is found by its length first.
pub(super) fn static_name(name: &[u8]) -> Option<usize> {
    let (&start, &end) = BY_LENGTH_START
        .get(name.len())
        .zip(BY_LENGTH_START.get(name.len() + 1))?;
    let candidates = &BY_LENGTH[start..end];
    candidates
        .iter()
        .map(|&index| usize::from(index))
        .find(|&index| STATIC[index - 1].0.as_bytes() == name)
}

const NAME_LENGTHS: usize = 29;
/// Where the names of each length start in [`BY_LENGTH`].
const BY_LENGTH_START: [usize; NAME_LENGTHS] = by_length().1;
/// The first index of each name, by the name's length.
const BY_LENGTH: [u8; 61] = by_length().0;

const fn by_length() -> ([u8; 61], [usize; NAME_LENGTHS]) {
    let (mut sorted, mut starts) = ([0; 61], [0; NAME_LENGTHS]);
    let (mut len, mut count) = (0, 0);
    while len + 1 < NAME_LENGTHS {
        starts[len] = count;
        let mut at = 0;
        while at < STATIC.len() {
            if STATIC[at].0.len() == len {
                sorted[count] = at as u8 + 1;
                count += 1;
            }
            at += 1;
        }
        len += 1;
    }
    starts[len] = count;
    (sorted, starts)
}

/// A field of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
    /// What whoever inserted it found out about it.
    pub(super) is_valid: bool,
}

/// The entries that one end has told the other of, the newest first.
#[derive(Debug)]
pub(super) struct DynamicTable {
    /// The names and values; in front there may be some of entries that are gone.
    bytes: Vec<u8>,
    /// The newest last.
    places: VecDeque<Place>,
    size: usize,
    size_max: usize,
    /// How often entries came or went.
    changes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    start: u32,
    name_len: u32,
    value_len: u32,
    is_valid: bool,
}

impl Place {
    const fn len(&self) -> usize {
        self.name_len as usize + self.value_len as usize
    }
}

impl DynamicTable {
    pub(super) const fn new(size_max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            places: VecDeque::new(),
            size: 0,
            size_max,
            changes: 0,
        }
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) const fn size_max(&self) -> usize {
        self.size_max
    }

    /// How often it was changed: an index means the same entry as long as this is the same.
    pub(super) const fn changes(&self) -> u64 {
        self.changes
    }

    /// The entry that is so many newer ones behind the newest.
    pub(super) fn get(&self, age: usize) -> Option<Entry<'_>> {
        let index = self.places.len().checked_sub(age + 1)?;
        let place = self.places.get(index)?;
        let start = place.start as usize;
        let (name, value) =
            self.bytes[start..start + place.len()].split_at(place.name_len as usize);
        Some(Entry {
            name,
            value,
            is_valid: place.is_valid,
        })
    }

    /// Drops what does not fit the new limit.
    pub(super) fn set_size_max(&mut self, size_max: usize) {
        self.size_max = size_max;
        self.changes += 1;
        self.evict(0);
    }

    /// Inserts an entry; what does not fit empties the table (RFC 7541 section 4.4). False then.
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8], is_valid: bool) -> bool {
        let len = name.len() + value.len();
        self.changes += 1;
        self.evict(len + ENTRY_OVERHEAD);
        if len + ENTRY_OVERHEAD > self.size_max {
            return false;
        }
        if self.bytes.len() + len > 2 * self.size_max {
            self.compact();
        }
        self.places.push_back(Place {
            start: self.bytes.len() as u32,
            name_len: name.len() as u32,
            value_len: value.len() as u32,
            is_valid,
        });
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.size += len + ENTRY_OVERHEAD;
        true
    }

    /// Makes room for `size` by dropping the oldest entries.
    fn evict(&mut self, size: usize) {
        while self.size + size > self.size_max
            && let Some(oldest) = self.places.pop_front()
        {
            self.size -= oldest.len() + ENTRY_OVERHEAD;
        }
    }

    fn compact(&mut self) {
        let start = self
            .places
            .front()
            .map_or(self.bytes.len(), |it| it.start as usize);
        self.bytes.drain(..start);
        for place in &mut self.places {
            place.start -= start as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_static_name_is_found_at_its_first_index() {
        for (name, _) in STATIC {
            let first = STATIC.iter().position(|(other, _)| *other == name);
            assert_eq!(
                static_name(name.as_bytes()),
                first.map(|it| it + 1),
                "{name}"
            );
        }
        for unknown in [
            "",
            "x",
            "hast",
            "x-forwarded-for",
            "access-control-allow-methods",
        ] {
            assert_eq!(static_name(unknown.as_bytes()), None);
        }
    }

    #[test]
    fn the_oldest_go_first() {
        let mut table = DynamicTable::new(3 * (ENTRY_OVERHEAD + 2));
        for round in 0..1000_u32 {
            let value = [b'0' + (round % 10) as u8];
            assert!(table.insert(b"n", &value, true));
            assert_eq!(table.get(0).unwrap().value, value);
        }
        assert_eq!(table.len(), 3);
        assert_eq!(table.get(2).unwrap().value, b"7");
        assert_eq!(table.get(3), None);
        assert!(table.bytes.len() <= 6 * (ENTRY_OVERHEAD + 2));
        table.set_size_max(ENTRY_OVERHEAD + 2);
        assert_eq!((table.len(), table.get(0).unwrap().value), (1, &b"9"[..]));
        assert!(!table.insert(b"too", b"long", true));
        assert_eq!(table.len(), 0, "too large an entry empties the table");
    }
}

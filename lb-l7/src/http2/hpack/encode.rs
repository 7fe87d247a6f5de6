//! From fields to a block of HPACK (RFC 7541 section 6).
//!
//! A field goes into the table when it is seen a second time: what differs from message to message
//! never pushes out what does not. Nothing is allocated once the tables have grown.
//! Invariant: what names or proves a user is never put into a table (RFC 7541 section 7.1.3).
//! Read next: `../head.rs` (whose fields they are).

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

use super::TABLE_BYTES;
use super::huffman;
use super::table::{DynamicTable, ENTRY_OVERHEAD, STATIC, static_name};

/// Fields that were seen once and are remembered, by a part of their hash.
const SEEN: usize = 64;
/// Fields longer than this are not put into the table.
const INDEXED_BYTES_MAX: usize = 512;
/// Names longer than this are not looked for.
const NAME_BYTES_MAX: usize = 64;

/// Encodes what is sent to one peer.
#[derive(Debug)]
pub struct Encoder {
    table: DynamicTable,
    /// Of the table's entries, the newest last.
    hashes: VecDeque<u32>,
    seen: [u32; SEEN],
    /// A new size that the peer is to be told of, after the smallest since it was last told.
    resized: Option<usize>,
    uses_huffman: bool,
}

impl Encoder {
    /// For a peer that has said nothing yet. Where bytes are cheap, `uses_huffman` is false.
    #[must_use]
    pub const fn new(uses_huffman: bool) -> Self {
        Self {
            table: DynamicTable::new(TABLE_BYTES),
            hashes: VecDeque::new(),
            seen: [0; SEEN],
            resized: None,
            uses_huffman,
        }
    }

    /// Takes the peer's SETTINGS_HEADER_TABLE_SIZE.
    pub fn set_table_size(&mut self, bytes: u32) {
        let bytes = (bytes as usize).min(TABLE_BYTES);
        if bytes == self.table.size_max() && self.resized.is_none() {
            return;
        }
        let least = self.resized.map_or(bytes, |it| it.min(bytes));
        self.resized = Some(least);
        self.table.set_size_max(bytes);
        self.forget_evicted();
    }

    /// To be called before the first field of each block.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(least) = self.resized.take() {
            if least < self.table.size_max() {
                integer(0x20, 5, least, out);
            }
            integer(0x20, 5, self.table.size_max(), out);
        }
    }

    /// Appends an entry of the static table.
    pub fn indexed(index: usize, out: &mut Vec<u8>) {
        integer(0x80, 7, index, out);
    }

    /// Appends `:status`, of three digits.
    pub fn status(&mut self, status: &[u8], out: &mut Vec<u8>) {
        let known = STATIC[7..14].iter();
        let mut known = known.map(|(_, value)| value.as_bytes());
        match known.position(|value| value == status) {
            Some(at) => out.push(0x88 + at as u8),
            None => {
                self.field(b":status", status, out);
            }
        }
    }

    /// Appends a field that is not worth a place in the table, named as the entry `name` of the
    /// static table is.
    pub fn unindexed(&self, name: usize, value: &[u8], out: &mut Vec<u8>) {
        integer(0, 4, name, out);
        self.text(value, out);
    }

    /// How often the table was changed: what was appended as an entry of it means the same as long
    /// as this is the same.
    #[must_use]
    pub const fn table_changes(&self) -> u64 {
        self.table.changes()
    }

    /// Appends a field, whose name may have capitals. It has been checked. True if it was appended
    /// as an entry of the table.
    pub fn field(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) -> bool {
        let hash = hash(name, value);
        if let Some(age) = self.find(hash, name, value) {
            Self::indexed(STATIC.len() + 1 + age, out);
            return true;
        }
        self.new_field(hash, name, value, out);
        false
    }

    fn new_field(&mut self, hash: u32, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let mut room = [0; NAME_BYTES_MAX];
        let Some(lower) = room.get_mut(..name.len()) else {
            out.push(0);
            return self.lower_text(name, value, out);
        };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        let index = static_name(lower);
        if index.is_some_and(is_secret) {
            integer(0x10, 4, index.unwrap_or_default(), out);
            return self.text(value, out);
        }
        let is_inserted = self.is_worthwhile(hash, name.len() + value.len());
        match (index, is_inserted) {
            (Some(index), true) => integer(0x40, 6, index, out),
            (Some(index), false) => integer(0, 4, index, out),
            (None, is_inserted) => {
                out.push(if is_inserted { 0x40 } else { 0 });
                self.text(lower, out);
            }
        }
        self.text(value, out);
        if is_inserted && self.table.insert(lower, value, true) {
            self.hashes.push_back(hash);
            self.forget_evicted();
        }
    }

    /// Appends a field that must not be put into any table on its way.
    pub fn secret(&self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let lower = name.to_ascii_lowercase();
        match static_name(&lower) {
            Some(index) => integer(0x10, 4, index, out),
            None => {
                out.push(0x10);
                integer(0, 7, lower.len(), out);
                out.extend_from_slice(&lower);
            }
        }
        self.text(value, out);
    }

    /// Whether it was seen before, and not long ago.
    fn is_worthwhile(&mut self, hash: u32, len: usize) -> bool {
        let seen = &mut self.seen[hash as usize % SEEN];
        let was_seen = std::mem::replace(seen, hash) == hash;
        was_seen && len <= INDEXED_BYTES_MAX && len + ENTRY_OVERHEAD <= self.table.size_max()
    }

    fn forget_evicted(&mut self) {
        let gone = self.hashes.len().saturating_sub(self.table.len());
        self.hashes.drain(..gone);
    }

    /// How many entries are newer than the one of this field.
    fn find(&self, hash: u32, name: &[u8], value: &[u8]) -> Option<usize> {
        let (older, newer) = self.hashes.as_slices();
        let of = |hashes: &[u32]| hashes.iter().rposition(|&other| other == hash);
        let place = match of(newer) {
            Some(place) => older.len() + place,
            None => of(older)?,
        };
        let age = self.hashes.len() - 1 - place;
        let entry = self.table.get(age)?;
        let is_same = entry.value == value && entry.name.eq_ignore_ascii_case(name);
        is_same.then_some(age)
    }

    /// A name that is longer than any that is looked for, and its value.
    fn lower_text(&self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        integer(0, 7, name.len(), out);
        out.extend(name.iter().map(u8::to_ascii_lowercase));
        self.text(value, out);
    }

    fn text(&self, text: &[u8], out: &mut Vec<u8>) {
        if self.uses_huffman {
            let len = huffman::encoded_len(text);
            if len < text.len() {
                integer(0x80, 7, len, out);
                return huffman::encode(text, out);
            }
        }
        integer(0, 7, text.len(), out);
        out.extend_from_slice(text);
    }
}

/// Authorization, cookie, proxy-authorization, set-cookie.
const fn is_secret(index: usize) -> bool {
    matches!(index, 23 | 32 | 49 | 55)
}

fn hash(name: &[u8], value: &[u8]) -> u32 {
    let mut hasher = FixedState::with_seed(0).build_hasher();
    hasher.write(name);
    hasher.write(value);
    (hasher.finish() >> 32) as u32 | 1 // 0 stands for nothing seen
}

/// A number behind the bits of `first` that are not its own (RFC 7541 section 5.1).
fn integer(first: u8, bits: u32, value: usize, out: &mut Vec<u8>) {
    let mask = (1_usize << bits) - 1;
    if value < mask {
        return out.push(first | value as u8);
    }
    out.push(first | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::Decoder;
    use super::*;

    type Fields = Vec<(Vec<u8>, Vec<u8>)>;

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Fields {
        let mut fields = Vec::new();
        let decoded = decoder.decode(block, |it| {
            fields.push((it.name.to_vec(), it.value.to_vec()))
        });
        decoded.unwrap();
        fields
    }

    #[test]
    fn a_repeated_field_becomes_one_byte() {
        let mut encoder = Encoder::new(true);
        let mut lengths = Vec::new();
        let mut decoder = Decoder::new();
        for _ in 0..4 {
            let mut block = Vec::new();
            encoder.begin(&mut block);
            encoder.status(b"200", &mut block);
            encoder.field(b"Server", b"something", &mut block);
            lengths.push(block.len());
            assert_eq!(
                decode(&mut decoder, &block)[1],
                (b"server".to_vec(), b"something".to_vec())
            );
        }
        assert!(lengths[1] > 4);
        assert_eq!(lengths[2..], [2, 2]);
    }

    #[test]
    fn secrets_are_never_indexed() {
        let mut encoder = Encoder::new(false);
        for _ in 0..3 {
            let mut block = Vec::new();
            encoder.field(b"Authorization", b"x", &mut block);
            assert_eq!(block, b"\x1f\x08\x01x");
        }
    }

    #[test]
    fn what_was_a_secret_stays_one() {
        let encoder = Encoder::new(false);
        let mut block = Vec::new();
        encoder.secret(b"X-Token", b"x", &mut block);
        encoder.secret(b"Accept", b"y", &mut block);
        assert_eq!(block, b"\x10\x07x-token\x01x\x1f\x04\x01y");
        let mut secrets = 0;
        let decoded = Decoder::new().decode(&block, |it| secrets += u32::from(it.is_secret));
        assert_eq!((decoded, secrets), (Ok(()), 2));
    }

    #[test]
    fn a_smaller_table_is_told_first() {
        let mut encoder = Encoder::new(false);
        let mut decoder = Decoder::new();
        let mut block = Vec::new();
        for _ in 0..3 {
            encoder.field(b"a", b"b", &mut block);
        }
        encoder.set_table_size(0);
        encoder.set_table_size(100_000);
        encoder.begin(&mut block);
        assert!(block.ends_with(b"\x20\x3f\xe1\x1f"));
        let resized = block.len() - 4;
        decode(&mut decoder, &block[..resized]);
        assert_eq!(decode(&mut decoder, &block[resized..]), []);
        let mut block = Vec::new();
        encoder.begin(&mut block);
        encoder.field(b"a", b"b", &mut block);
        assert_eq!(
            decode(&mut decoder, &block),
            [(b"a".to_vec(), b"b".to_vec())]
        );
    }

    proptest! {
        #[test]
        fn both_ends_agree(
            messages in vec(vec((0..40_usize, "[ -~]{0,3}"), 0..12), 0..40),
            sizes in vec(0..6000_u32, 0..40),
            uses_huffman: bool,
        ) {
            let (mut encoder, mut decoder) = (Encoder::new(uses_huffman), Decoder::new());
            for (nth, message) in messages.iter().enumerate() {
                let mut block = Vec::new();
                if let Some(&size) = sizes.get(nth / 3) && nth % 3 == 0 {
                    encoder.set_table_size(size);
                }
                encoder.begin(&mut block);
                let mut expected = Vec::new();
                for (name, value) in message {
                    let name = STATIC.get(14 + name).map_or("x-other", |it| it.0);
                    let value = value.repeat(40);
                    encoder.field(name.to_uppercase().as_bytes(), value.as_bytes(), &mut block);
                    expected.push((name.as_bytes().to_vec(), value.into_bytes()));
                }
                prop_assert_eq!(decode(&mut decoder, &block), expected);
            }
        }
    }
}

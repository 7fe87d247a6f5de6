//! Header blocks (RFC 7541): reading any, writing the few that a load test sends.
//!
//! Invariant: a block is remembered only if it left the dynamic table as it was, and counts as
//! known only while the table still is as it was then.
//! Read next: `wire.rs`.

use std::collections::VecDeque;

use super::frame::Broken;
use super::huffman;

/// Bytes of the dynamic table that everybody may use unasked.
const TABLE_BYTES: usize = 4096;
/// What an entry costs besides its text (RFC 7541 §4.1).
const ENTRY_OVERHEAD: usize = 32;

/// The static table; its first entry has the index 1 (RFC 7541, appendix A).
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
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

/// Appends a reference to entry `index`.
pub(crate) fn indexed(index: usize, out: &mut Vec<u8>) {
    write_integer(index, 7, 0x80, out);
}

/// Appends a field that no table is to keep.
pub(crate) fn literal(name: &str, value: &str, out: &mut Vec<u8>) {
    field(name, value, 4, 0x00, out);
}

fn field(name: &str, value: &str, bits: u32, pattern: u8, out: &mut Vec<u8>) {
    match STATIC.iter().position(|(known, _)| *known == name) {
        Some(index) => write_integer(index + 1, bits, pattern, out),
        None => {
            out.push(pattern);
            write_text(name, out);
        }
    }
    write_text(value, out);
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    write_integer(text.len(), 7, 0, out);
    out.extend_from_slice(text.as_bytes());
}

fn write_integer(value: usize, bits: u32, pattern: u8, out: &mut Vec<u8>) {
    let most = (1 << bits) - 1;
    if value < most {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// The same fields again and again: the first block of a connection has the peer keep them, the
/// later ones refer to them, as those of any browser do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    /// The first block of a connection.
    pub(crate) first: Vec<u8>,
    /// Every later one.
    pub(crate) next: Vec<u8>,
    /// Any, to a peer that keeps less than everybody may expect.
    pub(crate) plain: Vec<u8>,
}

impl Template {
    pub(crate) fn new(fields: &[(String, String)]) -> Self {
        let size = |(name, value): &(String, String)| name.len() + value.len() + ENTRY_OVERHEAD;
        let whole = |(name, value): &(String, String)| {
            let mut table = STATIC.iter();
            table.position(|(n, v)| n == name && v == value && !v.is_empty())
        };
        let kept: Vec<_> = fields
            .iter()
            .filter(|field| whole(field).is_none())
            .collect();
        let fits = kept.iter().map(|field| size(field)).sum::<usize>() <= TABLE_BYTES;
        let (mut first, mut next, mut plain) = (Vec::new(), Vec::new(), Vec::new());
        let mut age = kept.len();
        for field_of in fields {
            let (name, value) = field_of;
            if let Some(index) = whole(field_of) {
                for block in [&mut first, &mut next, &mut plain] {
                    indexed(index + 1, block);
                }
                continue;
            }
            literal(name, value, &mut plain);
            field(name, value, 6, 0x40, &mut first);
            indexed(STATIC.len() + age, &mut next);
            age -= 1;
        }
        if !fits {
            (first, next) = (plain.clone(), plain.clone());
        }
        Self { first, next, plain }
    }
}

/// Reads the blocks of one connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    entries: VecDeque<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
    bytes_max: usize,
    /// Counts the changes of the table.
    version: u64,
}

impl Decoder {
    pub(crate) const fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            bytes_max: TABLE_BYTES,
            version: 0,
        }
    }

    /// Tells the states of the table apart.
    pub(crate) const fn version(&self) -> u64 {
        self.version
    }

    /// Hands each field of `block` to `on`.
    ///
    /// # Errors
    /// When it is no block.
    pub(crate) fn decode(
        &mut self,
        mut block: &[u8],
        mut on: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Broken> {
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = read_integer(&mut block, 7)?;
                let (name, value) = self.entry(index)?;
                on(name, value);
            } else if first & 0xe0 == 0x20 {
                let size = read_integer(&mut block, 5)?;
                if size > TABLE_BYTES {
                    return Err(Broken("a table larger than was allowed"));
                }
                self.bytes_max = size;
                self.version += 1;
                self.shrink(0);
            } else {
                let keeps = first & 0x40 != 0;
                let index = read_integer(&mut block, if keeps { 6 } else { 4 })?;
                let name = match index {
                    0 => read_text(&mut block)?,
                    index => self.entry(index)?.0.to_vec(),
                };
                let value = read_text(&mut block)?;
                on(&name, &value);
                if keeps {
                    self.insert(name, value);
                }
            }
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), Broken> {
        let unknown = Broken("a reference to a field that nobody sent");
        let place = index.checked_sub(1).ok_or(unknown)?;
        if let Some((name, value)) = STATIC.get(place) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let (name, value) = self.entries.get(place - STATIC.len()).ok_or(unknown)?;
        Ok((name, value))
    }

    fn insert(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.version += 1;
        let size = name.len() + value.len() + ENTRY_OVERHEAD;
        self.shrink(size);
        if size <= self.bytes_max {
            self.bytes += size;
            self.entries.push_front((name, value));
        }
    }

    /// Makes room for `more` bytes, or as much as there can be.
    fn shrink(&mut self, more: usize) {
        while self.bytes + more > self.bytes_max {
            let Some((name, value)) = self.entries.pop_back() else {
                return;
            };
            self.bytes -= name.len() + value.len() + ENTRY_OVERHEAD;
        }
    }
}

fn read_integer(block: &mut &[u8], bits: u32) -> Result<usize, Broken> {
    let cut = Broken("a header block is cut");
    let (first, mut rest) = block.split_first().ok_or(cut)?;
    let most = (1_usize << bits) - 1;
    let mut value = usize::from(*first) & most;
    let mut shift = 0;
    while value >= most {
        let (next, after) = rest.split_first().ok_or(cut)?;
        rest = after;
        value += usize::from(next & 0x7f) << shift;
        shift += 7;
        if next & 0x80 == 0 {
            break;
        }
        if shift > 21 {
            return Err(Broken("a number in a header block is too large"));
        }
    }
    *block = rest;
    Ok(value)
}

fn read_text(block: &mut &[u8]) -> Result<Vec<u8>, Broken> {
    let cut = Broken("a header block is cut");
    let is_coded = block.first().ok_or(cut)? & 0x80 != 0;
    let length = read_integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(cut)?;
    *block = rest;
    if !is_coded {
        return Ok(text.to_vec());
    }
    let mut out = Vec::with_capacity(2 * length);
    huffman::decode(text, &mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Broken> {
        let mut fields = Vec::new();
        decoder.decode(block, |name, value| {
            fields.push(format!(
                "{}={}",
                String::from_utf8_lossy(name),
                String::from_utf8_lossy(value)
            ));
        })?;
        Ok(fields)
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
        let pair =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(pair).collect()
    }

    #[test]
    fn the_responses_of_the_rfc_are_read_with_what_was_kept() {
        // RFC 7541, C.6, with a table of 256 bytes.
        let mut decoder = Decoder::new();
        decoder.bytes_max = 256;
        let first = bytes(
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 \
             2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        );
        let got = fields(&mut decoder, &first).unwrap();
        assert_eq!(got[0], ":status=302");
        assert_eq!(got[3], "location=https://www.example.com");
        let second = fields(&mut decoder, &bytes("4883 640e ffc1 c0bf")).unwrap();
        assert_eq!(second[0], ":status=307");
        assert_eq!(second[1..], got[1..]);
        assert_eq!(decoder.bytes, 222);
    }

    #[test]
    fn a_template_says_the_same_each_time() {
        let wanted = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/a"),
            (":authority", "shop.example"),
            ("x-a", "1"),
        ];
        let owned = wanted.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let template = Template::new(&owned);
        let expected = wanted.map(|(name, value)| format!("{name}={value}"));
        let mut decoder = Decoder::new();
        assert_eq!(fields(&mut decoder, &template.first).unwrap(), expected);
        let version = decoder.version();
        assert_eq!(fields(&mut decoder, &template.next).unwrap(), expected);
        assert_eq!(fields(&mut decoder, &template.plain).unwrap(), expected);
        assert_eq!(decoder.version(), version, "nothing more is kept");
        assert!(template.next.len() == wanted.len());
        let long = [("x-long".to_owned(), "x".repeat(5000))];
        let long = Template::new(&long);
        assert_eq!(
            long.first, long.next,
            "what does not fit is not referred to"
        );
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for bad in [
            "80",
            "ff 80 80 80 80",
            "40",
            "00 01",
            "3f ff ff 01",
            "be",
            "00 81 ff 00",
        ] {
            assert!(fields(&mut Decoder::new(), &bytes(bad)).is_err(), "{bad}");
        }
    }
}

//! From a block of HPACK to fields (RFC 7541 section 6).
//!
//! Invariant: nothing is allocated for a field: what is handed out lies in the block, in a table,
//! or in the decoder's scratch. The work for a block is in proportion to its length, unless whoever
//! gets the fields makes it more.
//! Read next: `../head.rs` (who gets the fields).

use super::TABLE_BYTES;
use super::huffman;
use super::table::{DynamicTable, STATIC};

/// Why a block cannot be decoded; the connection's table is out of step then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A text is no Huffman code.
    #[error("a text is no Huffman code")]
    Huffman,
    /// An index points behind the tables, or is 0.
    #[error("an index points nowhere")]
    Index,
    /// A number is larger than any that makes sense.
    #[error("a number is too large")]
    Integer,
    /// The table is resized to more than was allowed, or at a place where it must not be.
    #[error("the table must not be resized so")]
    TableSize,
    /// The block ends within a field.
    #[error("the block ends within a field")]
    Truncated,
}

/// A decoded field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// In lower case, if it is valid.
    pub name: &'a [u8],
    /// Without white space around it, if it is valid.
    pub value: &'a [u8],
    /// Whether name and value are such as RFC 9113 section 8.2.1 allows.
    pub is_valid: bool,
    /// Whether it must not be put into any table on its way (RFC 7541 section 6.2.3).
    pub is_secret: bool,
}

/// The kinds of literals (RFC 7541 section 6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Literal {
    Inserted,
    Plain,
    Secret,
}

/// Decodes what one peer sends.
#[derive(Debug)]
pub struct Decoder {
    table: DynamicTable,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// For a peer that has sent nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            table: DynamicTable::new(TABLE_BYTES),
            name: Vec::new(),
            value: Vec::new(),
        }
    }

    /// How often the table was changed: a block that does not change it means the same as before
    /// while this is the same.
    #[must_use]
    pub const fn table_changes(&self) -> u64 {
        self.table.changes()
    }

    /// Hands each field of `block` to `take`, in order.
    ///
    /// # Errors
    /// See [`DecodeError`]; nothing can be decoded any more then.
    pub fn decode(
        &mut self,
        block: &[u8],
        mut take: impl FnMut(Field<'_>),
    ) -> Result<(), DecodeError> {
        let mut input = Input { rest: block };
        let mut may_resize = true;
        while let Some(&first) = input.rest.first() {
            match first {
                0x80.. => {
                    let index = input.integer(7)?;
                    take(self.indexed(index)?);
                }
                0x40.. => self.literal(&mut input, Literal::Inserted, &mut take)?,
                0x20.. => {
                    let size = input.integer(5)?;
                    if !may_resize || size > TABLE_BYTES {
                        return Err(DecodeError::TableSize);
                    }
                    self.table.set_size_max(size);
                    continue;
                }
                0x10.. => self.literal(&mut input, Literal::Secret, &mut take)?,
                _ => self.literal(&mut input, Literal::Plain, &mut take)?,
            }
            may_resize = false;
        }
        Ok(())
    }

    fn indexed(&self, index: usize) -> Result<Field<'_>, DecodeError> {
        let (name, value, is_valid) = match index.checked_sub(1) {
            None => return Err(DecodeError::Index),
            Some(at) if at < STATIC.len() => {
                (STATIC[at].0.as_bytes(), STATIC[at].1.as_bytes(), true)
            }
            Some(at) => {
                let entry = self.table.get(at - STATIC.len());
                let entry = entry.ok_or(DecodeError::Index)?;
                (entry.name, entry.value, entry.is_valid)
            }
        };
        Ok(Field {
            name,
            value,
            is_valid,
            is_secret: false,
        })
    }

    /// A field that is not an entry of a table.
    fn literal(
        &mut self,
        input: &mut Input<'_>,
        kind: Literal,
        take: &mut impl FnMut(Field<'_>),
    ) -> Result<(), DecodeError> {
        let index = input.integer(if kind == Literal::Inserted { 6 } else { 4 })?;
        let mut name = std::mem::take(&mut self.name);
        let mut value = std::mem::take(&mut self.value);
        let result = self.literal_with(input, index, kind, &mut name, &mut value, take);
        (self.name, self.value) = (name, value);
        result
    }

    fn literal_with(
        &mut self,
        input: &mut Input<'_>,
        index: usize,
        kind: Literal,
        name_room: &mut Vec<u8>,
        value_room: &mut Vec<u8>,
        take: &mut impl FnMut(Field<'_>),
    ) -> Result<(), DecodeError> {
        let name = if index == 0 {
            input.text(name_room)?
        } else {
            // A copy, as inserting may drop the entry that it is named after.
            name_room.clear();
            name_room.extend_from_slice(self.indexed(index)?.name);
            name_room
        };
        let value = input.text(value_room)?;
        let is_valid = is_name(name) && is_value(value);
        take(Field {
            name,
            value,
            is_valid,
            is_secret: kind == Literal::Secret,
        });
        if kind == Literal::Inserted {
            self.table.insert(name, value, is_valid);
        }
        Ok(())
    }
}

/// Whether `name` is a token in lower case, or one with a colon in front (RFC 9113 section 8.2.1).
fn is_name(name: &[u8]) -> bool {
    let token = name.strip_prefix(b":").unwrap_or(name);
    !token.is_empty() && token.iter().all(|&byte| IS_NAME[usize::from(byte)])
}

const IS_NAME: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0_usize);
    while byte < 256 {
        table[byte] = matches!(byte as u8, b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%'
            | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};

/// Whether `value` has no control byte but tabs in it, and no white space around it.
fn is_value(value: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_control = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7F;
    !is_blank(value.first()) && !is_blank(value.last()) && !value.iter().any(is_control)
}

/// What is left of a block.
struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// A number whose first byte has `bits` bits of it (RFC 7541 section 5.1).
    #[inline]
    fn integer(&mut self, bits: u32) -> Result<usize, DecodeError> {
        let (&first, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        let mask = (1_usize << bits) - 1;
        let start = usize::from(first) & mask;
        if start < mask {
            return Ok(start);
        }
        self.long_integer(start)
    }

    fn long_integer(&mut self, start: usize) -> Result<usize, DecodeError> {
        let mut value = start;
        // Three bytes more make two million: more than any index, length or size.
        for shift in [0, 7, 14] {
            let (&byte, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
            self.rest = rest;
            value += usize::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Integer)
    }

    /// A text as it lies in the block, or decoded into `room`.
    fn text<'b>(&mut self, room: &'b mut Vec<u8>) -> Result<&'b [u8], DecodeError>
    where
        'a: 'b,
    {
        let is_huffman = self.rest.first().is_some_and(|&byte| byte >= 0x80);
        let len = self.integer(7)?;
        let (text, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        if !is_huffman {
            return Ok(text);
        }
        room.clear();
        huffman::decode(text, room).map_err(|_| DecodeError::Huffman)?;
        Ok(room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, DecodeError> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut fields = Vec::new();
        decoder.decode(block, |field| {
            assert!(field.is_valid, "{field:?}");
            fields.push((text(field.name), text(field.value)));
        })?;
        Ok(fields)
    }

    fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        fields.iter().map(own).collect()
    }

    #[test]
    fn the_requests_of_the_rfc() {
        // RFC 7541 appendix C.3 and C.4, plain and by Huffman.
        let plain: [&[u8]; 3] = [
            b"\x82\x86\x84\x41\x0fwww.example.com",
            b"\x82\x86\x84\xbe\x58\x08no-cache",
            b"\x82\x87\x85\xbf\x40\x0acustom-key\x0ccustom-value",
        ];
        let huffman: [&[u8]; 3] = [
            b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
            b"\x82\x86\x84\xbe\x58\x86\xa8\xeb\x10\x64\x9c\xbf",
            b"\x82\x87\x85\xbf\x40\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf",
        ];
        let authority = (":authority", "www.example.com");
        let http = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            authority,
        ];
        let mut second = http.to_vec();
        second.push(("cache-control", "no-cache"));
        let third = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            authority,
            ("custom-key", "custom-value"),
        ];
        for blocks in [plain, huffman] {
            let mut decoder = Decoder::new();
            assert_eq!(decode(&mut decoder, blocks[0]), Ok(pairs(&http)));
            assert_eq!(decode(&mut decoder, blocks[1]), Ok(pairs(&second)));
            assert_eq!(decode(&mut decoder, blocks[2]), Ok(pairs(&third)));
            assert_eq!(decoder.table.len(), 3);
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let cases: [(&[u8], DecodeError); 9] = [
            (b"\x80", DecodeError::Index),
            (b"\xbe", DecodeError::Index),
            (b"\xff\xff\xff\xff\xff", DecodeError::Integer),
            (b"\xff", DecodeError::Truncated),
            (b"\x40\x0acustom", DecodeError::Truncated),
            (b"\x00\x81\x00\x01a", DecodeError::Huffman),
            (b"\x3f\xe2\x1f", DecodeError::TableSize),
            (b"\x82\x20", DecodeError::TableSize),
            (b"\x0f\xff\xff\xff\x01", DecodeError::Integer),
        ];
        for (block, error) in cases {
            assert_eq!(decode(&mut Decoder::new(), block), Err(error), "{block:x?}");
        }
        assert_eq!(
            decode(&mut Decoder::new(), b"\x20\x3f\xe1\x1f\x82"),
            Ok(pairs(&[(":method", "GET")]))
        );
    }

    #[test]
    fn names_and_values_are_looked_at() {
        let fields: [(&[u8], &[u8], bool); 9] = [
            (b"x-a", b"b c\td", true),
            (b"x-a", b"", true),
            (b"X-a", b"b", false),
            (b"x a", b"b", false),
            (b"x:a", b"b", false),
            (b"", b"b", false),
            (b"x", b"a\r\nb: c", false),
            (b"x", b" a", false),
            (b"x", b"a\0", false),
        ];
        for (name, value, is_valid) in fields {
            let block = [&[0x40, name.len() as u8], name, &[value.len() as u8], value].concat();
            let mut decoder = Decoder::new();
            let mut seen = Vec::new();
            let both = [&block[..], b"\xbe"].concat();
            decoder
                .decode(&both, |field| seen.push(field.is_valid))
                .unwrap();
            assert_eq!(seen, [is_valid, is_valid], "{name:?}: {value:?}");
        }
    }

    #[test]
    fn an_entry_may_be_named_after_the_one_that_it_drops() {
        let mut decoder = Decoder::new();
        let long = vec![b'v'; 4000];
        let mut block = b"\x40\x04name\x7f\xa1\x1e".to_vec();
        block.extend_from_slice(&long);
        let again = [b"\x7e\x7f\xa1\x1e", &long[..]].concat();
        decode(&mut decoder, &block).unwrap();
        let fields = decode(&mut decoder, &again).unwrap();
        assert_eq!(fields[0].0, "name");
        assert_eq!(decoder.table.len(), 1);
    }
}

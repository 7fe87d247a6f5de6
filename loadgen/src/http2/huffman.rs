//! The Huffman code of header fields (RFC 7541, appendix B), decoded.
//!
//! Invariant: the code is canonical (shorter codes first, equal ones by symbol), so the lengths
//! say everything; codes are read bit by bit, as what is decoded once is remembered.

use super::frame::Broken;

/// Length of the code of each octet, in bits.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

const LENGTH_MAX: usize = 30;

/// What there is of each length.
struct Codes {
    /// The first code of each length.
    first: [u32; LENGTH_MAX + 1],
    /// How many codes have it.
    count: [u32; LENGTH_MAX + 1],
    /// Where their symbols begin in `symbols`.
    start: [usize; LENGTH_MAX + 1],
    symbols: [u8; 256],
}

static CODES: Codes = Codes::new();

impl Codes {
    const fn new() -> Self {
        let mut codes = Self {
            first: [0; LENGTH_MAX + 1],
            count: [0; LENGTH_MAX + 1],
            start: [0; LENGTH_MAX + 1],
            symbols: [0; 256],
        };
        let (mut length, mut code, mut place) = (1, 0, 0);
        while length <= LENGTH_MAX {
            codes.first[length] = code;
            codes.start[length] = place;
            let mut symbol = 0;
            while symbol < 256 {
                if LENGTHS[symbol] as usize == length {
                    codes.symbols[place] = symbol as u8;
                    place += 1;
                    code += 1;
                }
                symbol += 1;
            }
            codes.count[length] = code - codes.first[length];
            code <<= 1;
            length += 1;
        }
        codes
    }
}

/// Appends what `bytes` stand for.
///
/// # Errors
/// When the padding is longer than seven bits, or not of ones.
pub(super) fn decode(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
    let (mut code, mut length) = (0_u32, 0);
    for bit in bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
    {
        code = code << 1 | u32::from(bit);
        length += 1;
        if length > LENGTH_MAX {
            return Err(Broken("a Huffman code that is none"));
        }
        let offset = code.wrapping_sub(CODES.first[length]);
        if offset < CODES.count[length] {
            out.push(CODES.symbols[CODES.start[length] + offset as usize]);
            (code, length) = (0, 0);
        }
    }
    if length > 7 || code != (1 << length) - 1 {
        return Err(Broken("a Huffman code is not padded as it should be"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> Result<Vec<u8>, Broken> {
        let mut out = Vec::new();
        decode(bytes, &mut out).map(|()| out)
    }

    #[test]
    fn the_examples_of_the_rfc_decode() {
        // RFC 7541, C.4.1, C.4.2, C.6.1.
        let host = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(decoded(&host).unwrap(), b"www.example.com");
        let cache = [0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf];
        assert_eq!(decoded(&cache).unwrap(), b"no-cache");
        assert_eq!(decoded(&[0x64, 0x02]).unwrap(), b"302");
        assert_eq!(decoded(&[]).unwrap(), b"");
    }

    #[test]
    fn bad_padding_is_refused() {
        assert!(decoded(&[0x65]).is_err());
        assert!(decoded(&[0xff]).is_err());
        assert!(decoded(&[0xff, 0xff, 0xff, 0xff]).is_err());
    }
}

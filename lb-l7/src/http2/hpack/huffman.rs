//! The Huffman code of HPACK (RFC 7541 appendix B), by tables that the compiler makes.
//!
//! Invariant: what is decoded is exactly what some encoder meant: EOS inside, or padding that is
//! too long or not of ones, is refused (RFC 7541 section 5.2).
//! Read next: `decode.rs`, `encode.rs`.

/// The bits of each symbol's code. The code is canonical, so the codes follow; the last is EOS.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6,
    6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6,
    6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22,
    20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23,
    22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22,
    23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22,
    25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const EOS: u16 = 256;
const BITS_MAX: usize = 30;
/// Codes up to here are found by one look-up. There are none of nine bits.
const FAST_BITS: u32 = 8;

const TABLES: Tables = Tables::build();

struct Tables {
    /// Each symbol's code.
    codes: [u32; 257],
    /// By the next eight bits: the symbol, and its code's bits in the high byte; 0 for longer ones.
    fast: [u16; 256],
    /// By the bits of a code: the first code, the number of codes, the place of the first symbol.
    ranges: [(u32, u32, u16); BITS_MAX + 1],
    /// The symbols in the order of their codes.
    symbols: [u16; 257],
}

impl Tables {
    const fn build() -> Self {
        let mut it = Self {
            codes: [0; 257],
            fast: [0; 256],
            ranges: [(0, 0, 0); BITS_MAX + 1],
            symbols: [0; 257],
        };
        let (mut code, mut bits, mut place) = (0_u32, 1, 0_u16);
        while bits <= BITS_MAX {
            it.ranges[bits] = (code, 0, place);
            let mut symbol = 0;
            while symbol < LENGTHS.len() {
                if LENGTHS[symbol] as usize == bits {
                    it.add(symbol, code, place);
                    it.ranges[bits].1 += 1;
                    code += 1;
                    place += 1;
                }
                symbol += 1;
            }
            code <<= 1;
            bits += 1;
        }
        it
    }

    const fn add(&mut self, symbol: usize, code: u32, place: u16) {
        self.codes[symbol] = code;
        self.symbols[place as usize] = symbol as u16;
        let bits = LENGTHS[symbol] as u32;
        if bits <= FAST_BITS {
            let unused = FAST_BITS - bits;
            let mut at = (code << unused) as usize;
            let end = at + (1 << unused);
            while at < end {
                self.fast[at] = (bits as u16) << 8 | symbol as u16;
                at += 1;
            }
        }
    }
}

/// Text that is no Huffman code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Invalid;

/// Appends the text that `code` stands for to `out`.
pub(super) fn decode(code: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
    let tables = &TABLES;
    let mut rest = code.iter();
    let (mut bits, mut count) = (0_u64, 0_u32);
    loop {
        while count <= 56
            && let Some(byte) = rest.next()
        {
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        let fast = tables.fast[(bits >> 56) as usize];
        let (symbol, len) = if fast == 0 {
            long(bits)
        } else {
            (fast & 0xFF, u32::from(fast >> 8))
        };
        if len > count {
            break;
        }
        if symbol == EOS {
            return Err(Invalid);
        }
        out.push(symbol as u8);
        bits <<= len;
        count -= len;
    }
    let is_padding = count < 8 && (count == 0 || (!bits) >> (64 - count) == 0);
    if is_padding { Ok(()) } else { Err(Invalid) }
}

/// The symbol of a code of more than eight bits, and how many.
fn long(bits: u64) -> (u16, u32) {
    for len in FAST_BITS + 1..=BITS_MAX as u32 {
        let (first, count, place) = TABLES.ranges[len as usize];
        let code = (bits >> (64 - len)) as u32;
        if code.wrapping_sub(first) < count {
            let place = usize::from(place) + (code - first) as usize;
            return (TABLES.symbols[place], len);
        }
    }
    (EOS, BITS_MAX as u32) // not reached: the code is complete
}

/// How many bytes `text` takes in the code.
pub(super) fn encoded_len(text: &[u8]) -> usize {
    let bits: usize = text
        .iter()
        .map(|&byte| usize::from(LENGTHS[usize::from(byte)]))
        .sum();
    bits.div_ceil(8)
}

/// Appends the code of `text` to `out`.
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut count) = (0_u64, 0_u32);
    for &byte in text {
        let len = u32::from(LENGTHS[usize::from(byte)]);
        bits = bits << len | u64::from(TABLES.codes[usize::from(byte)]);
        count += len;
        while count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    if count > 0 {
        let padding = 8 - count;
        out.push((bits << padding) as u8 | ((1 << padding) - 1));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(code: &[u8]) -> Result<Vec<u8>, Invalid> {
        let mut out = Vec::new();
        decode(code, &mut out).map(|()| out)
    }

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 7541 appendix C.4 and C.6.
        let examples: [(&str, &[u8]); 4] = [
            (
                "www.example.com",
                b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
            ),
            ("no-cache", b"\xa8\xeb\x10\x64\x9c\xbf"),
            ("custom-value", b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf"),
            ("302", b"\x64\x02"),
        ];
        for (text, code) in examples {
            assert_eq!(decoded(code).as_deref(), Ok(text.as_bytes()));
            let mut out = Vec::new();
            encode(text.as_bytes(), &mut out);
            assert_eq!(out, code);
            assert_eq!(encoded_len(text.as_bytes()), code.len());
        }
    }

    #[test]
    fn bad_padding_and_eos_are_refused() {
        assert_eq!(decoded(b"\xff\xff\xff\xff"), Err(Invalid), "EOS");
        assert_eq!(decoded(b"\xff"), Err(Invalid), "eight bits of padding");
        assert_eq!(decoded(b"\x00"), Err(Invalid), "padding of zeros");
        assert_eq!(decoded(b"\x07"), Ok(b"0".to_vec()));
        assert_eq!(decoded(b""), Ok(Vec::new()));
        assert_eq!(decoded(b"\x07\xff"), Err(Invalid), "eleven bits of padding");
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text: Vec<u8>) {
            let mut code = Vec::new();
            encode(&text, &mut code);
            prop_assert_eq!(code.len(), encoded_len(&text));
            prop_assert_eq!(decoded(&code), Ok(text));
        }

        #[test]
        fn what_is_decoded_is_what_was_encoded(code: Vec<u8>) {
            if let Ok(text) = decoded(&code) {
                let mut again = Vec::new();
                encode(&text, &mut again);
                prop_assert_eq!(again, code);
            }
        }
    }
}

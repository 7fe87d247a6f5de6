//! CRC-32C (Castagnoli, RFC 3309), which covers a version 2 header on request.
//!
//! Read next: `v2.rs`.

/// The reflected polynomial.
const POLYNOMIAL: u32 = 0x82F6_3B78;

const TABLE: [u32; 256] = table();

/// The checksum of the concatenation of `parts`.
pub(super) fn crc32c(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().copied().flatten();
    let update = |crc: u32, byte: &u8| {
        let index = (crc ^ u32::from(*byte)) as u8;
        TABLE[usize::from(index)] ^ (crc >> 8)
    };
    !bytes.fold(u32::MAX, update)
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            let carry = if crc & 1 == 1 { POLYNOMIAL } else { 0 };
            crc = (crc >> 1) ^ carry;
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720 section B.4.
    #[test]
    fn the_examples_of_the_standard_hold() {
        assert_eq!(crc32c(&[&[0; 32]]), 0x8A91_36AA);
        assert_eq!(crc32c(&[&[0xFF; 32]]), 0x62A8_AB43);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&[&ascending]), 0x46DD_794E);
        assert_eq!(
            crc32c(&[&ascending[..7], &[], &ascending[7..]]),
            0x46DD_794E
        );
        assert_eq!(crc32c(&[b"123456789"]), 0xE306_9283);
    }
}

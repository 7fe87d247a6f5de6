//! What a version 2 header tells beyond addresses: types, lengths and values (section 2.2).
//!
//! Invariant: a [`Tlvs`] was checked whole when its header was read; iterating cannot fail. Types
//! that we do not know are passed over as section 2.2.8 wants it, their values unseen.
//! Read next: `v2.rs`.

use super::HeaderError;

/// One piece of information; lengths are at most what the header's 16 bits allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tlv<'a> {
    /// The application protocol that the client negotiated (section 2.2.1).
    Alpn(&'a [u8]),
    /// The host name that the client asked for by SNI or otherwise (section 2.2.2), UTF-8.
    Authority(&'a str),
    /// CRC-32C of the header (section 2.2.3); it was right.
    Checksum(u32),
    /// The name of the client's network namespace (section 2.2.7): nothing here uses it.
    Namespace(&'a str),
    /// Padding (section 2.2.4).
    Padding(&'a [u8]),
    /// Something we do not know.
    Other {
        /// Its type.
        kind: u8,
        /// Its value.
        value: &'a [u8],
    },
    /// That the client speaks TLS, and how (section 2.2.6).
    Ssl(Ssl<'a>),
    /// Names the connection along the way (section 2.2.5); at most 128 bytes.
    UniqueId(&'a [u8]),
}

/// How a client speaks TLS (section 2.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ssl<'a> {
    /// It came by TLS.
    pub is_tls: bool,
    /// It gave a certificate on this connection.
    pub certificate_on_connection: bool,
    /// It gave a certificate at least once in this TLS session.
    pub certificate_in_session: bool,
    /// The certificate was there and verified.
    pub is_verified: bool,
    /// Such as `TLSv1.3`.
    pub version: Option<&'a str>,
    /// Common Name of the certificate, UTF-8.
    pub common_name: Option<&'a str>,
    /// Such as `ECDHE-RSA-AES128-GCM-SHA256`.
    pub cipher: Option<&'a str>,
    /// Such as `SHA256`: of the signature of our certificate.
    pub signature: Option<&'a str>,
    /// Such as `RSA2048`: of the key of our certificate.
    pub key: Option<&'a str>,
}

impl Tlv<'_> {
    /// Longest unique id (section 2.2.5).
    pub const UNIQUE_ID_MAX: usize = 128;

    pub(super) const ALPN: u8 = 0x01;
    pub(super) const AUTHORITY: u8 = 0x02;
    pub(super) const CHECKSUM: u8 = 0x03;
    pub(super) const PADDING: u8 = 0x04;
    pub(super) const UNIQUE_ID: u8 = 0x05;
    pub(super) const SSL: u8 = 0x20;
    pub(super) const NAMESPACE: u8 = 0x30;
}

/// The TLVs of a header, in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tlvs<'a> {
    rest: &'a [u8],
}

impl<'a> Tlvs<'a> {
    /// Checks all of them.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, HeaderError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (kind, value, behind) = split(rest).ok_or(HeaderError::Tlv)?;
            tlv(kind, value).ok_or(HeaderError::Tlv)?;
            rest = behind;
        }
        Ok(Self { rest: bytes })
    }

    /// As they stand in the header.
    pub(super) const fn bytes(&self) -> &'a [u8] {
        self.rest
    }

    /// Where in the bytes the value of the only checksum is; an error if there are two.
    pub(super) fn checksum_at(&self) -> Result<Option<usize>, HeaderError> {
        let mut rest = self.rest;
        let mut found = None;
        while let Some((kind, value, behind)) = split(rest) {
            if kind == Tlv::CHECKSUM {
                let at = self.rest.len() - behind.len() - value.len();
                if found.replace(at).is_some() {
                    return Err(HeaderError::Tlv);
                }
            }
            rest = behind;
        }
        Ok(found)
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Tlv<'a>;

    fn next(&mut self) -> Option<Tlv<'a>> {
        let (kind, value, behind) = split(self.rest)?;
        self.rest = behind;
        tlv(kind, value)
    }
}

/// Type, value, and what is behind.
fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[kind, high, low], rest) = bytes.split_first_chunk()?;
    let (value, behind) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    Some((kind, value, behind))
}

/// `None` if the value is not what the type asks for.
fn tlv(kind: u8, value: &[u8]) -> Option<Tlv<'_>> {
    Some(match kind {
        Tlv::ALPN => Tlv::Alpn(value),
        Tlv::AUTHORITY => Tlv::Authority(str::from_utf8(value).ok()?),
        Tlv::CHECKSUM => Tlv::Checksum(u32::from_be_bytes(value.try_into().ok()?)),
        Tlv::PADDING => Tlv::Padding(value),
        Tlv::UNIQUE_ID if value.len() > Tlv::UNIQUE_ID_MAX => return None,
        Tlv::UNIQUE_ID => Tlv::UniqueId(value),
        Tlv::SSL => Tlv::Ssl(ssl(value)?),
        Tlv::NAMESPACE => Tlv::Namespace(ascii(value)?),
        _ => Tlv::Other { kind, value },
    })
}

fn ssl(value: &[u8]) -> Option<Ssl<'_>> {
    let (&[client], rest) = value.split_first_chunk()?;
    let (verify, mut rest) = rest.split_first_chunk::<4>()?;
    let mut ssl = Ssl {
        is_tls: client & 0x01 != 0,
        certificate_on_connection: client & 0x02 != 0,
        certificate_in_session: client & 0x04 != 0,
        is_verified: client & 0x06 != 0 && *verify == [0; 4],
        version: None,
        common_name: None,
        cipher: None,
        signature: None,
        key: None,
    };
    while !rest.is_empty() {
        let (kind, value, behind) = split(rest)?;
        match kind {
            0x21 => ssl.version = Some(ascii(value)?),
            0x22 => ssl.common_name = Some(str::from_utf8(value).ok()?),
            0x23 => ssl.cipher = Some(ascii(value)?),
            0x24 => ssl.signature = Some(ascii(value)?),
            0x25 => ssl.key = Some(ascii(value)?),
            _ => {}
        }
        rest = behind;
    }
    Some(ssl)
}

fn ascii(value: &[u8]) -> Option<&str> {
    str::from_utf8(value).ok().filter(|text| text.is_ascii())
}

/// Appends a TLV; the checksum is `v2.rs`'s to write.
pub(super) fn write(tlv: &Tlv<'_>, header: &mut Vec<u8>) {
    match *tlv {
        Tlv::Alpn(value) => write_value(Tlv::ALPN, value, header),
        Tlv::Authority(value) => write_value(Tlv::AUTHORITY, value.as_bytes(), header),
        Tlv::Checksum(_) => {}
        Tlv::Namespace(value) => write_value(Tlv::NAMESPACE, value.as_bytes(), header),
        Tlv::Padding(value) => write_value(Tlv::PADDING, value, header),
        Tlv::Other { kind, value } => write_value(kind, value, header),
        Tlv::Ssl(ssl) => write_ssl(&ssl, header),
        Tlv::UniqueId(value) => write_value(Tlv::UNIQUE_ID, value, header),
    }
}

fn write_ssl(ssl: &Ssl<'_>, header: &mut Vec<u8>) {
    let client = u8::from(ssl.is_tls)
        | u8::from(ssl.certificate_on_connection) << 1
        | u8::from(ssl.certificate_in_session) << 2;
    let mut value = vec![client];
    value.extend(u32::from(!ssl.is_verified).to_be_bytes());
    for (kind, text) in [
        (0x21, ssl.version),
        (0x22, ssl.common_name),
        (0x23, ssl.cipher),
        (0x24, ssl.signature),
        (0x25, ssl.key),
    ] {
        if let Some(text) = text {
            write_value(kind, text.as_bytes(), &mut value);
        }
    }
    write_value(Tlv::SSL, &value, header);
}

pub(super) fn write_value(kind: u8, value: &[u8], header: &mut Vec<u8>) {
    let length = u16::try_from(value.len()).expect("shorter than a header may be");
    header.push(kind);
    header.extend(length.to_be_bytes());
    header.extend(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<Tlv<'_>>, HeaderError> {
        Tlvs::new(bytes).map(Iterator::collect)
    }

    #[test]
    fn tls_is_told_with_its_parts() {
        let ssl = Ssl {
            is_tls: true,
            certificate_on_connection: true,
            certificate_in_session: false,
            is_verified: true,
            version: Some("TLSv1.3"),
            common_name: Some("Zoë"),
            cipher: Some("TLS_AES_128_GCM_SHA256"),
            signature: Some("SHA256"),
            key: Some("EC256"),
        };
        let mut bytes = Vec::new();
        write(&Tlv::Ssl(ssl), &mut bytes);
        assert_eq!(read(&bytes), Ok(vec![Tlv::Ssl(ssl)]));
        assert_eq!(bytes[3], 0x03, "the client's bits");
    }

    #[test]
    fn unknown_types_are_passed_over_unseen() {
        let bytes = [0xE0, 0, 2, 9, 9, 0x30, 0, 3, b'n', b's', b'1', 0x04, 0, 0];
        let expected = vec![
            Tlv::Other {
                kind: 0xE0,
                value: &[9, 9],
            },
            Tlv::Namespace("ns1"),
            Tlv::Padding(&[]),
        ];
        assert_eq!(read(&bytes), Ok(expected));
    }

    #[test]
    fn a_value_that_its_type_does_not_allow_is_refused() {
        let long_id = [&[0x05, 0, 129][..], &[7; 129]].concat();
        let cases: [&[u8]; 10] = [
            &[0x01],
            &[0x01, 0],
            &[0x01, 0, 1],
            &[0x02, 0, 1, 0xFF],
            &[0x03, 0, 3, 1, 2, 3],
            &long_id,
            &[0x20, 0, 4, 1, 0, 0, 0],
            &[0x20, 0, 7, 1, 0, 0, 0, 0, 0x21, 0],
            &[0x20, 0, 9, 1, 0, 0, 0, 0, 0x21, 0, 1, 0xFF],
            &[0x30, 0, 1, 0x80],
        ];
        for bytes in cases {
            assert_eq!(read(bytes), Err(HeaderError::Tlv), "{bytes:?}");
        }
    }
}

//! The fields of a ClientHello (RFC 8446 section 4.1.2) that decide where it goes.
//!
//! Invariant: every length is checked against what is there; extensions that are not ours (GREASE
//! of RFC 8701, padding, what is to be invented) are passed over.
//! Read next: `routes.rs`.

use super::ClientHello;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
/// RFC 9849.
const ENCRYPTED_CLIENT_HELLO: u16 = 0xFE0D;

/// Longest host name (RFC 1035 section 2.3.4).
const NAME_BYTES_MAX: usize = 253;

/// Reads the body of the message; `None` if it is malformed.
pub(super) fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut fields = Fields(body);
    fields.take(2 + 32)?; // version, random
    let session = fields.with_u8_length()?;
    let suites = fields.with_u16_length()?;
    let compressions = fields.with_u8_length()?;
    if session.len() > 32 || suites.is_empty() || suites.len() % 2 != 0 || compressions.is_empty() {
        return None;
    }
    let mut hello = ClientHello::default();
    if fields.is_empty() {
        return Some(hello); // before TLS 1.3 extensions may be missing
    }
    let mut extensions = Fields(fields.with_u16_length()?);
    if !fields.is_empty() {
        return None;
    }
    let mut seen = [false; 3];
    while !extensions.is_empty() {
        let kind = extensions.u16()?;
        let value = extensions.with_u16_length()?;
        let which = match kind {
            SERVER_NAME => 0,
            ALPN => 1,
            ENCRYPTED_CLIENT_HELLO => 2,
            _ => continue,
        };
        // "There MUST NOT be more than one extension of the same type": two readers could take
        // two different ones.
        if std::mem::replace(&mut seen[which], true) {
            return None;
        }
        match kind {
            SERVER_NAME => hello.server_name = Some(server_name(value)?),
            ALPN => hello.protocols = protocols(value)?,
            _ => hello.is_encrypted = value.first() == Some(&0), // 0: outer
        }
    }
    Some(hello)
}

/// RFC 6066 section 3: a list that may have one host name, and no other type was ever defined.
fn server_name(value: &[u8]) -> Option<Box<str>> {
    let mut value = Fields(value);
    let mut list = Fields(value.with_u16_length()?);
    let kind = list.u8()?;
    let name = list.with_u16_length()?;
    if kind != 0 || !list.is_empty() || !value.is_empty() {
        return None;
    }
    // "Without a trailing dot", yet some send it.
    let name = name.strip_suffix(b".").unwrap_or(name);
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.iter().all(allowed) {
        return None;
    }
    let name = str::from_utf8(name).ok()?;
    Some(name.to_ascii_lowercase().into())
}

/// RFC 7301 section 3.1.
fn protocols(value: &[u8]) -> Option<Box<[u8]>> {
    let mut value = Fields(value);
    let list = value.with_u16_length()?;
    if list.is_empty() || !value.is_empty() {
        return None;
    }
    let mut names = Fields(list);
    while !names.is_empty() {
        if names.with_u8_length()?.is_empty() {
            return None;
        }
    }
    Some(list.into())
}

/// What is left to read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn with_u8_length(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    fn with_u16_length(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Sample, with_length};
    use super::super::{HelloError, parse};

    fn with(kind: u16, value: &[u8]) -> Sample {
        Sample {
            others: vec![(kind, value.to_vec())],
            ..Sample::default()
        }
    }

    #[test]
    fn a_name_is_read_in_lower_case_without_its_last_dot() {
        for (sent, read) in [
            ("Shop.EXAMPLE", "shop.example"),
            ("shop.example.", "shop.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("192.0.2.7", "192.0.2.7"),
        ] {
            let hello = parse(&Sample::named(sent).records(9000)).unwrap().unwrap();
            assert_eq!(hello.server_name.as_deref(), Some(read));
        }
    }

    #[test]
    fn without_extensions_nothing_is_asked_for() {
        let mut message = Sample::default().message();
        message.truncate(message.len() - 2);
        message[3] -= 2;
        let record = [&[22, 3, 1], &*with_length(&message)].concat();
        let hello = parse(&record).unwrap().unwrap();
        assert_eq!(
            (hello.server_name.as_deref(), hello.protocols().count()),
            (None, 0)
        );
        let hello = parse(&Sample::default().records(9000)).unwrap().unwrap();
        assert_eq!(hello.server_name, None);
    }

    #[test]
    fn grease_is_passed_over_and_an_outer_hello_is_known() {
        let mut sample = Sample::named("provider.example");
        sample.others = vec![
            (0x0A0A, vec![]),
            (0xFE0D, vec![0, 1, 2, 3]),
            (0xFAFA, vec![0]),
        ];
        let hello = parse(&sample.records(9000)).unwrap().unwrap();
        assert_eq!(hello.server_name.as_deref(), Some("provider.example"));
        assert!(hello.is_encrypted);
    }

    #[test]
    fn what_does_not_fit_its_lengths_is_malformed() {
        let long = [&[0][..], &with_length(&[b'a'; 254])].concat();
        let cases: [(u16, Vec<u8>); 12] = [
            (0, vec![]),
            (0, vec![0, 0]),
            (0, with_length(&[0, 0, 0])),
            (0, with_length(&[1, 0, 1, b'a'])),
            (0, with_length(&[0, 0, 1, b'a', 0, 0, 1, b'b'])),
            (0, [&*with_length(&[0, 0, 1, b'a']), &[0]].concat()),
            (0, with_length(&[0, 0, 3, b'a', b' ', b'b'])),
            (0, with_length(&[0, 0, 2, b'a', 0])),
            (0, with_length(&long)),
            (16, vec![0, 0]),
            (16, with_length(&[0])),
            (16, with_length(&[3, b'h', b'2'])),
        ];
        for (kind, value) in cases {
            let bytes = with(kind, &value).records(9000);
            assert_eq!(
                parse(&bytes),
                Err(HelloError::Malformed),
                "{kind} {value:?}"
            );
        }
        let mut twice = Sample::named("a.example");
        twice.others = vec![(0, with_length(&[0, 0, 1, b'b']))];
        assert_eq!(parse(&twice.records(9000)), Err(HelloError::Malformed));
    }
}

//! TLS records back to the handshake message that they carry (RFC 8446 section 5.1).
//!
//! Invariant: only lengths are looked at until the whole message is there, so that a client that
//! sends it byte by byte costs little; one record is read in place.
//! Read next: `hello.rs`.

use std::borrow::Cow;

use super::HelloError;

/// Longest ClientHello, its records' heads included: what one record may carry. Those of today
/// are below 2 KiB, also with post-quantum keys.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;

/// Bytes before a record's fragment, and before a handshake message's body.
const RECORD_HEAD: usize = 5;
const MESSAGE_HEAD: usize = 4;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// The body of the ClientHello at the start of `bytes`; `None` while it is incomplete.
pub(super) fn handshake(bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, HelloError> {
    let mut message = Cow::Borrowed(&[][..]);
    let mut rest = bytes;
    loop {
        let Some(fragment) = fragment(rest)? else {
            return Ok(None);
        };
        if bytes.len() - rest.len() + RECORD_HEAD + fragment > HELLO_BYTES_MAX {
            return Err(HelloError::TooLong);
        }
        let available = rest.len().saturating_sub(RECORD_HEAD).min(fragment);
        let part = &rest[RECORD_HEAD..RECORD_HEAD + available];
        if message.is_empty() {
            message = Cow::Borrowed(part);
        } else {
            message.to_mut().extend_from_slice(part);
        }
        if let Some(length) = message_length(&message)? {
            // A second message must not follow: the client waits for our answer first.
            match (MESSAGE_HEAD + length).cmp(&message.len()) {
                std::cmp::Ordering::Less => return Err(HelloError::Malformed),
                std::cmp::Ordering::Equal if available == fragment => {
                    return Ok(Some(behind_head(message)));
                }
                _ => {}
            }
        }
        if available < fragment {
            return Ok(None);
        }
        rest = &rest[RECORD_HEAD + fragment..];
    }
}

/// Length of the fragment of the record at the start of `rest`, once its head is there.
fn fragment(rest: &[u8]) -> Result<Option<usize>, HelloError> {
    // As early as can be: a client that speaks first and waits would be left hanging.
    if rest.first().is_some_and(|kind| *kind != HANDSHAKE)
        || rest.get(1).is_some_and(|major| *major != 3)
    {
        return Err(HelloError::NotTls);
    }
    let Some(&[_, _, _, high, low]) = rest.first_chunk() else {
        return Ok(None);
    };
    match usize::from(u16::from_be_bytes([high, low])) {
        // Records without content are forbidden for handshakes; longer ones for all.
        0 => Err(HelloError::Malformed),
        length if length > 1 << 14 => Err(HelloError::Malformed),
        length => Ok(Some(length)),
    }
}

/// What the message's head says about its body.
fn message_length(message: &[u8]) -> Result<Option<usize>, HelloError> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(HelloError::Malformed);
    }
    let Some(&[_, high, middle, low]) = message.first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
    if length + MESSAGE_HEAD + RECORD_HEAD > HELLO_BYTES_MAX {
        return Err(HelloError::TooLong);
    }
    Ok(Some(length))
}

fn behind_head(message: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    match message {
        Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[MESSAGE_HEAD..]),
        Cow::Owned(mut bytes) => {
            bytes.drain(..MESSAGE_HEAD);
            Cow::Owned(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HelloError, parse, tests::Sample};
    use super::HELLO_BYTES_MAX;

    #[test]
    fn what_is_not_tls_is_known_by_its_first_bytes() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"SSH-2.0-OpenSSH\r\n",
            &[0x80, 0x2E, 0x01, 0x03, 0x01], // SSL 2
            &[22, 2],
            &[21, 3, 1, 0, 2, 2, 40], // an alert
            b"G",
        ] {
            assert_eq!(parse(bytes), Err(HelloError::NotTls), "{bytes:?}");
        }
    }

    #[test]
    fn records_that_no_handshake_has_are_refused() {
        for bytes in [
            &[22, 3, 1, 0, 0][..],
            &[22, 3, 1, 0x40, 1],
            &[22, 3, 1, 0, 4, 2],
        ] {
            assert_eq!(parse(bytes), Err(HelloError::Malformed), "{bytes:?}");
        }
        let two = [&Sample::named("a").message()[..], &[1, 0, 0, 0]].concat();
        let record = [&[22, 3, 1], &*super::super::tests::with_length(&two)].concat();
        assert_eq!(parse(&record), Err(HelloError::Malformed));
    }

    #[test]
    fn between_records_there_is_nothing_else() {
        let mut bytes = Sample::named("shop.example").records(40);
        bytes[45] = 23;
        assert_eq!(parse(&bytes), Err(HelloError::NotTls));
    }

    #[test]
    fn what_is_too_long_is_refused_when_its_length_is_known() {
        let length = HELLO_BYTES_MAX as u32 - 8;
        let mut head = vec![22, 3, 1, 0x3F, 0xFB, 1];
        head.extend(&length.to_be_bytes()[1..]);
        assert_eq!(parse(&head), Err(HelloError::TooLong));
        let fitting = (length - 1).to_be_bytes();
        head[6..].copy_from_slice(&fitting[1..]);
        assert_eq!(parse(&head), Ok(None));
    }

    #[test]
    fn many_small_records_count_too() {
        let sample = Sample {
            others: vec![(21, vec![0; 5000])],
            ..Sample::default()
        };
        assert_eq!(parse(&sample.records(1)), Err(HelloError::TooLong));
        assert!(matches!(parse(&sample.records(3)), Ok(Some(_))));
    }
}

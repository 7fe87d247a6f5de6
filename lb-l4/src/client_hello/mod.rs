//! What a TLS client asks for before anything is encrypted: the server name and the application
//! protocols of its ClientHello, by which a connection is routed without being terminated.
//!
//! Invariant: pure functions of bytes. A ClientHello is understood whole or refused with its
//! reason, the same however it was cut into segments and records; more than [`HELLO_BYTES_MAX`]
//! are never asked for. Nothing that is not needed for routing is judged: that is the backend's.
//! Read next: `records.rs`, `hello.rs`, `routes.rs` (where it leads), `receive.rs` (I/O).

mod hello;
mod receive;
mod records;
mod routes;

pub use receive::{ReceiveError, receive, refuse};
pub use records::HELLO_BYTES_MAX;
pub use routes::{NameRoutes, Unrouted};

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// The host name (RFC 6066 section 3) in lower case; of an encrypted ClientHello the outer
    /// one.
    pub server_name: Option<Box<str>>,
    /// Protocols (RFC 7301 section 3.1), as they stand in the extension: lengths and names.
    protocols: Box<[u8]>,
    /// It hides another one (RFC 9849): the server name is that of the provider.
    pub is_encrypted: bool,
}

impl ClientHello {
    /// The application protocols, the client's favourite first.
    pub fn protocols(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.protocols;
        std::iter::from_fn(move || {
            let (&length, behind) = rest.split_first()?;
            let (name, behind) = behind.split_at_checked(length.into())?;
            rest = behind;
            Some(name)
        })
    }
}

/// Why bytes are no ClientHello that we route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// TLS, but the ClientHello's fields do not fit their lengths, or an extension is there twice.
    #[error("the ClientHello is malformed")]
    Malformed,
    /// Some other protocol, SSL 2 included.
    #[error("the client does not speak TLS")]
    NotTls,
    /// Longer than [`HELLO_BYTES_MAX`].
    #[error("the ClientHello is too long")]
    TooLong,
}

/// Reads the ClientHello at the start of `bytes`; `None` while more of it must be received.
///
/// # Errors
/// [`HelloError`] as soon as no continuation could be one.
pub fn parse(bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    match records::handshake(bytes)? {
        Some(message) => hello::parse(&message)
            .ok_or(HelloError::Malformed)
            .map(Some),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a test's client sends; see `message`.
    #[derive(Debug, Clone, Default)]
    pub(super) struct Sample {
        pub(super) name: Option<String>,
        pub(super) protocols: Vec<String>,
        /// Further extensions: types and bodies.
        pub(super) others: Vec<(u16, Vec<u8>)>,
    }

    impl Sample {
        pub(super) fn named(name: &str) -> Self {
            Self {
                name: Some(name.into()),
                ..Self::default()
            }
        }

        fn extensions(&self) -> Vec<(u16, Vec<u8>)> {
            let mut all = self.others.clone();
            if let Some(name) = &self.name {
                all.push((
                    0,
                    with_length(&[&[0], &*with_length(name.as_bytes())].concat()),
                ));
            }
            if !self.protocols.is_empty() {
                let each = |name: &String| [&[name.len() as u8], name.as_bytes()].concat();
                let list: Vec<u8> = self.protocols.iter().flat_map(each).collect();
                all.push((16, with_length(&list)));
            }
            all
        }

        /// The handshake message.
        pub(super) fn message(&self) -> Vec<u8> {
            let mut body = vec![3, 3];
            body.extend([7; 32]);
            body.extend([0, 0, 4, 0x1A, 0x1A, 0x13, 0x01, 1, 0]); // GREASE among the suites
            let extension =
                |(kind, body): &(u16, Vec<u8>)| [&kind.to_be_bytes(), &*with_length(body)].concat();
            let extensions: Vec<u8> = self.extensions().iter().flat_map(extension).collect();
            body.extend(with_length(&extensions));
            let length = (body.len() as u32).to_be_bytes();
            [&[1], &length[1..], &body].concat()
        }

        /// The message in records of `size` bytes.
        pub(super) fn records(&self, size: usize) -> Vec<u8> {
            let record = |part: &[u8]| [&[22, 3, 1], &*with_length(part)].concat();
            self.message().chunks(size).flat_map(record).collect()
        }
    }

    pub(super) fn with_length(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
    }

    fn sample() -> impl Strategy<Value = Sample> {
        let other = (17..60_000_u16, prop::collection::vec(any::<u8>(), 0..200));
        (
            prop::option::of("[a-z0-9-]{1,20}(\\.[a-z0-9]{1,10}){0,3}"),
            prop::collection::vec("[a-z0-9/.]{1,12}", 0..4),
            prop::collection::vec(other, 0..6),
        )
            .prop_map(|(name, protocols, mut others)| {
                others.sort();
                others.dedup_by_key(|(kind, _)| *kind);
                others.retain(|(kind, _)| *kind != 0xFE0D);
                Sample {
                    name,
                    protocols,
                    others,
                }
            })
    }

    proptest! {
        #[test]
        fn it_is_read_however_it_is_cut(
            sample in sample(),
            size in 1..600_usize,
            rest in prop::collection::vec(any::<u8>(), 0..10),
        ) {
            let mut bytes = sample.records(size);
            let length = bytes.len();
            bytes.extend(rest);
            let hello = parse(&bytes).unwrap().unwrap();
            prop_assert_eq!(hello.server_name.as_deref(), sample.name.as_deref());
            let protocols: Vec<_> = hello.protocols().collect();
            let sent: Vec<_> = sample.protocols.iter().map(String::as_bytes).collect();
            prop_assert_eq!(protocols, sent);
            prop_assert!(!hello.is_encrypted);
            for cut in 0..length {
                prop_assert_eq!(parse(&bytes[..cut]), Ok(None), "{} bytes", cut);
            }
        }

        #[test]
        fn any_bytes_are_survived(sample in sample(), at in any::<usize>(), byte in any::<u8>()) {
            let mut bytes = sample.records(100);
            let at = at % bytes.len();
            bytes[at] = byte;
            let whole = parse(&bytes);
            for cut in 0..bytes.len() {
                let answer = parse(&bytes[..cut]);
                prop_assert!(answer == Ok(None) || answer == whole, "{} bytes", cut);
            }
        }
    }
}

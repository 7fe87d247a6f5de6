//! What an authority says of a certificate of ours (RFC 6960), for showing it to clients that ask.
//!
//! Invariant: whatever bytes come, reading ends without a panic. Who has signed it is not looked
//! at: clients do, and we trust our own file.
//! Read next: `certificate.rs` (what it belongs to), `names.rs` (when it is shown).

use std::time::SystemTime;

use super::x509::{Der, SEQUENCE, time};

const ENUMERATED: u8 = 0x0a;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const INTEGER: u8 = 0x02;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, in three places: the response's bytes, its version, and nextUpdate.
const FIRST: u8 = 0xa0;
/// `[0]` of the certificate's status.
const GOOD: u8 = 0x80;
/// `[1]` likewise.
const REVOKED: u8 = 0xa1;
/// 1.3.6.1.5.5.7.48.1.1
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];

/// What is said of one certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ocsp {
    pub(super) status: Status,
    /// Until when; `None`: until something newer is known.
    pub(super) next_update: Option<SystemTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Good,
    Revoked,
    Unknown,
}

/// Why a file is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OcspError {
    /// It is something else, or broken.
    #[error(
        "the OCSP response cannot be read: it has to be one of RFC 6960 in DER, as openssl ocsp \
         -respout FILE writes"
    )]
    Malformed,
    /// The authority had no answer; with its reason's number (RFC 6960 section 4.2.1).
    #[error("the OCSP response says that the authority had no answer (status {0})")]
    NoAnswer(u8),
    /// Nothing is said of the certificate in question.
    #[error("the OCSP response is about another certificate")]
    OtherCertificate,
}

impl Ocsp {
    /// Reads what `der` says of the certificate with this serial number.
    pub(super) fn parse(der: &[u8], serial: &[u8]) -> Result<Self, OcspError> {
        let mut response = Der(wrapped(&mut Der(der), SEQUENCE)?);
        match wrapped(&mut response, ENUMERATED)? {
            [0] => {}
            [status] => return Err(OcspError::NoAnswer(*status)),
            _ => return Err(OcspError::Malformed),
        }
        let mut bytes = Der(wrapped(&mut response, FIRST)?);
        let mut bytes = Der(wrapped(&mut bytes, SEQUENCE)?);
        if wrapped(&mut bytes, OBJECT_IDENTIFIER)? != BASIC {
            return Err(OcspError::Malformed);
        }
        let mut basic = Der(wrapped(&mut bytes, OCTET_STRING)?);
        let mut basic = Der(wrapped(&mut basic, SEQUENCE)?);
        let mut data = Der(wrapped(&mut basic, SEQUENCE)?);
        if data.next_is(FIRST) {
            data.next(); // the version
        }
        data.next().ok_or(OcspError::Malformed)?; // who says it
        wrapped(&mut data, GENERALIZED_TIME)?;
        let mut singles = Der(wrapped(&mut data, SEQUENCE)?);
        while let Some((SEQUENCE, single)) = singles.next() {
            if let Some(found) = Self::of_single(single, serial)? {
                return Ok(found);
            }
        }
        Err(OcspError::OtherCertificate)
    }

    /// What one part of it says, if that is about the certificate.
    fn of_single(single: &[u8], serial: &[u8]) -> Result<Option<Self>, OcspError> {
        let mut single = Der(single);
        let mut id = Der(wrapped(&mut single, SEQUENCE)?);
        wrapped(&mut id, SEQUENCE)?;
        wrapped(&mut id, OCTET_STRING)?;
        wrapped(&mut id, OCTET_STRING)?;
        if wrapped(&mut id, INTEGER)? != serial {
            return Ok(None);
        }
        let status = match single.next() {
            Some((GOOD, _)) => Status::Good,
            Some((REVOKED, _)) => Status::Revoked,
            Some(_) => Status::Unknown,
            None => return Err(OcspError::Malformed),
        };
        wrapped(&mut single, GENERALIZED_TIME)?;
        let next_update = match single.next_is(FIRST) {
            true => {
                let at = Der(wrapped(&mut single, FIRST)?).next();
                Some(time(at).ok_or(OcspError::Malformed)?)
            }
            false => None,
        };
        Ok(Some(Self {
            status,
            next_update,
        }))
    }

    /// Whether it may be shown: clients refuse what is old, as they refuse what is revoked.
    pub(super) fn is_good(&self, now: SystemTime) -> bool {
        self.status == Status::Good && self.next_update.is_none_or(|until| now < until)
    }

    /// Why it is not shown, as the end of a sentence that begins with the certificate.
    pub(super) fn fault(&self, now: SystemTime) -> Option<&'static str> {
        match self.status {
            Status::Revoked => Some("was revoked, says its OCSP response, which is not shown"),
            Status::Unknown => {
                Some("is unknown to its authority, says its OCSP response, which is not shown")
            }
            Status::Good if !self.is_good(now) => {
                Some("has an OCSP response that is too old, and is not shown")
            }
            Status::Good => None,
        }
    }
}

fn wrapped<'a>(der: &mut Der<'a>, tag: u8) -> Result<&'a [u8], OcspError> {
    match der.next() {
        Some((found, content)) if found == tag => Ok(content),
        _ => Err(OcspError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let mut out = vec![tag, 0x82];
        out.extend((content.len() as u16).to_be_bytes());
        out.extend(content);
        out
    }

    fn response(status: &[u8], next_update: &[u8]) -> Vec<u8> {
        let id = der(
            SEQUENCE,
            &[
                &der(SEQUENCE, &[]),
                &der(OCTET_STRING, &[b"name"]),
                &der(OCTET_STRING, &[b"key"]),
                &der(INTEGER, &[&[7, 9]]),
            ],
        );
        let this_update = der(GENERALIZED_TIME, &[b"20240101000000Z"]);
        let single = der(SEQUENCE, &[&id, status, &this_update, next_update]);
        let data = der(
            SEQUENCE,
            &[
                &der(0xa2, &[b"who"]),
                &this_update,
                &der(SEQUENCE, &[&single]),
            ],
        );
        let basic = der(SEQUENCE, &[&data, &der(SEQUENCE, &[]), &der(3, &[])]);
        let bytes = der(
            SEQUENCE,
            &[
                &der(OBJECT_IDENTIFIER, &[BASIC]),
                &der(OCTET_STRING, &[&basic]),
            ],
        );
        der(
            SEQUENCE,
            &[&der(ENUMERATED, &[&[0]]), &der(FIRST, &[&bytes])],
        )
    }

    fn until(text: &[u8]) -> Vec<u8> {
        der(FIRST, &[&der(GENERALIZED_TIME, &[text])])
    }

    #[test]
    fn what_is_good_until_its_end_is_shown() {
        let good = der(GOOD, &[]);
        let parsed = Ocsp::parse(&response(&good, &until(b"20300101000000Z")), &[7, 9]).unwrap();
        let end = parsed.next_update.unwrap();
        assert!(parsed.is_good(SystemTime::UNIX_EPOCH));
        assert_eq!(parsed.fault(SystemTime::UNIX_EPOCH), None);
        assert!(!parsed.is_good(end));
        assert!(parsed.fault(end).unwrap().contains("too old"));
        let endless = Ocsp::parse(&response(&good, &[]), &[7, 9]).unwrap();
        assert!(endless.is_good(end));
        let revoked = response(&der(REVOKED, &[b"when"]), &[]);
        let revoked = Ocsp::parse(&revoked, &[7, 9]).unwrap();
        assert!(!revoked.is_good(end));
        assert!(revoked.fault(end).unwrap().contains("was revoked"));
    }

    #[test]
    fn what_is_of_no_use_is_refused() {
        let good = response(&der(GOOD, &[]), &[]);
        assert_eq!(Ocsp::parse(&good, &[7]), Err(OcspError::OtherCertificate));
        let later = der(SEQUENCE, &[&der(ENUMERATED, &[&[3]])]);
        assert_eq!(Ocsp::parse(&later, &[7]), Err(OcspError::NoAnswer(3)));
        for end in 0..good.len() {
            assert!(Ocsp::parse(&good[..end], &[7, 9]).is_err());
        }
    }

    proptest! {
        #[test]
        fn a_broken_response_is_read_without_a_panic(at: prop::sample::Index, byte: u8) {
            let mut der = response(&der(GOOD, &[]), &until(b"20300101000000Z"));
            let at = at.index(der.len());
            der[at] = byte;
            let _ = Ocsp::parse(&der, &[7, 9]);
        }
    }
}

//! What we want to know of a certificate beyond what its verification tells: names, validity,
//! subject (RFC 5280 section 4.1).
//!
//! Invariant: whatever bytes come, reading ends without a panic; what is not understood is passed
//! over or an error. Nothing is decided about trust here.
//! Read next: `certificate.rs`, `client_auth.rs` (the users).

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

pub(super) const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const OCTET_STRING: u8 = 0x04;
const BOOLEAN: u8 = 0x01;
/// `[0]`, the version.
const VERSION: u8 = 0xa0;
/// `[3]`, the extensions.
const EXTENSIONS: u8 = 0xa3;
/// `[2]` of a subjectAltName, a DNS name.
const DNS_NAME: u8 = 0x82;
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// 1.3.6.1.5.5.7.1.1 (RFC 5280 section 4.2.2.1)
const AUTHORITY_INFORMATION: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 1, 1];
/// 1.3.6.1.5.5.7.48.2
const CA_ISSUERS: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 2];

/// The fields of a certificate that we look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct X509<'a> {
    pub(super) serial: &'a [u8],
    issuer: &'a [u8],
    subject: &'a [u8],
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    alt_names: &'a [u8],
    /// Where its issuer's certificate is to be had, and other things about the issuer.
    authority_information: &'a [u8],
}

/// What is no certificate; names the part that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its {0} is not what RFC 5280 says")]
pub struct X509Error(&'static str);

impl<'a> X509<'a> {
    /// Reads a certificate in DER.
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, X509Error> {
        let mut whole = Der(der);
        let mut certificate = Der(whole.expect(SEQUENCE, "outermost structure")?);
        let mut fields = Der(certificate.expect(SEQUENCE, "tbsCertificate")?);
        if fields.next_is(VERSION) {
            fields.expect(VERSION, "version")?;
        }
        let (_, serial) = fields.next().ok_or(X509Error("serial number"))?;
        fields.expect(SEQUENCE, "signature")?;
        let issuer = fields.expect(SEQUENCE, "issuer")?;
        let mut validity = Der(fields.expect(SEQUENCE, "validity")?);
        let not_before = time(validity.next()).ok_or(X509Error("notBefore"))?;
        let not_after = time(validity.next()).ok_or(X509Error("notAfter"))?;
        let subject = fields.expect(SEQUENCE, "subject")?;
        let (mut alt_names, mut authority_information): (&[u8], &[u8]) = (&[], &[]);
        while let Some((tag, content)) = fields.next() {
            if tag == EXTENSIONS {
                let list = Der(content).expect(SEQUENCE, "extensions")?;
                alt_names = extension(list, SUBJECT_ALT_NAME).unwrap_or_default();
                authority_information = extension(list, AUTHORITY_INFORMATION).unwrap_or_default();
            }
        }
        Ok(Self {
            serial,
            issuer,
            subject,
            not_before,
            not_after,
            alt_names,
            authority_information,
        })
    }

    /// Whether its issuer is the subject of `other`.
    pub(crate) fn is_issued_by(&self, other: &Self) -> bool {
        self.issuer == other.subject
    }

    /// Whether it says where its issuer's certificate is to be had: public authorities do, and
    /// sign by intermediate certificates only.
    pub(crate) fn refers_to_issuer(&self) -> bool {
        memchr::memmem::find(self.authority_information, CA_ISSUERS).is_some()
    }

    /// The DNS names of the subjectAltName, in lower case; those of the common name where there
    /// are none, as it once was.
    pub(crate) fn dns_names(&self) -> Vec<String> {
        let list = Der(self.alt_names).expect(SEQUENCE, "subjectAltName");
        let mut names = Vec::new();
        let mut list = Der(list.unwrap_or_default());
        while let Some((tag, content)) = list.next() {
            if tag == DNS_NAME && content.is_ascii() && !content.is_empty() {
                names.push(String::from_utf8_lossy(content).to_ascii_lowercase());
            }
        }
        if names.is_empty()
            && let Some(name) = common_name(self.subject)
            && name.contains('.')
            && name.bytes().all(|byte| byte.is_ascii_graphic())
        {
            names.push(name.to_ascii_lowercase());
        }
        names
    }

    /// The subject as RFC 4514 writes it, as nginx's `$ssl_client_s_dn`.
    pub(crate) fn subject(&self) -> String {
        distinguished_name(self.subject)
    }

    /// The issuer likewise.
    pub(crate) fn issuer(&self) -> String {
        distinguished_name(self.issuer)
    }

    /// The serial number in hexadecimal, in upper case.
    pub(crate) fn serial(&self) -> String {
        let digits = match self.serial {
            [0, rest @ ..] if !rest.is_empty() => rest, // the sign
            all => all,
        };
        let mut text = String::with_capacity(digits.len() * 2);
        for byte in digits {
            write!(text, "{byte:02X}").expect("writing to a String does not fail");
        }
        text
    }
}

/// What is left to read of DER.
pub(super) struct Der<'a>(pub(super) &'a [u8]);

impl<'a> Der<'a> {
    /// The tag and the content of the next element; `None` at the end, and when it is cut short.
    pub(super) fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = digits
                    .iter()
                    .fold(0, |length: usize, byte| (length << 8) | usize::from(*byte));
                (length, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    pub(super) fn next_is(&self, tag: u8) -> bool {
        self.0.first() == Some(&tag)
    }

    fn expect(&mut self, tag: u8, what: &'static str) -> Result<&'a [u8], X509Error> {
        match self.next() {
            Some((found, content)) if found == tag => Ok(content),
            _ => Err(X509Error(what)),
        }
    }
}

/// The value of an extension in a list of them.
fn extension<'a>(list: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let mut list = Der(list);
    while let Some((SEQUENCE, content)) = list.next() {
        let mut extension = Der(content);
        let (OBJECT_IDENTIFIER, id) = extension.next()? else {
            return None;
        };
        if id == wanted {
            if extension.next_is(BOOLEAN) {
                extension.next();
            }
            return extension.expect(OCTET_STRING, "extension").ok();
        }
    }
    None
}

/// RFC 5280 section 4.1.2.5: `YYMMDDHHMMSSZ` before 2050, `YYYYMMDDHHMMSSZ` from then on.
pub(super) fn time(element: Option<(u8, &[u8])>) -> Option<SystemTime> {
    let (tag, text) = element?;
    let (year_digits, text) = match tag {
        UTC_TIME => text.split_at_checked(2)?,
        GENERALIZED_TIME => text.split_at_checked(4)?,
        _ => return None,
    };
    let [digits @ .., b'Z'] = text else {
        return None;
    };
    if digits.len() != 10 {
        return None;
    }
    let year = match (tag, number(year_digits)?) {
        (UTC_TIME, year @ 0..50) => 2000 + year,
        (UTC_TIME, year) => 1900 + year,
        (_, year) => year,
    };
    let mut pairs = digits.chunks_exact(2).map(number);
    let mut pair = || pairs.next().flatten();
    let (month, day, hour, minute, second) = (pair()?, pair()?, pair()?, pair()?, pair()?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 {
        return None;
    }
    let days = days_since_1970(year, month, day)?;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit()
            .then(|| number * 10 + u64::from(byte - b'0'))
    })
}

/// Of the Gregorian calendar; `None` before 1970.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    // Years begin in March, so that the day that some have more is their last.
    let year = if month <= 2 {
        year.checked_sub(1)?
    } else {
        year
    };
    let month = (month + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year;
    days.checked_sub(719_468)
}

fn common_name(name: &[u8]) -> Option<String> {
    let attributes = attributes(name);
    let mut found = attributes.iter().rev();
    let found = found.find(|(id, _)| *id == [0x55, 0x04, 0x03])?;
    Some(found.1.clone())
}

/// The identifiers and values of a name, in its order.
fn attributes(name: &[u8]) -> Vec<(&[u8], String)> {
    let mut found = Vec::new();
    let mut sets = Der(name);
    while let Some((SET, set)) = sets.next() {
        let mut set = Der(set);
        while let Some((SEQUENCE, pair)) = set.next() {
            let mut pair = Der(pair);
            if let (Some((OBJECT_IDENTIFIER, id)), Some((_, value))) = (pair.next(), pair.next()) {
                found.push((id, String::from_utf8_lossy(value).into_owned()));
            }
        }
    }
    found
}

/// RFC 4514: the last first, with commas between.
pub(super) fn distinguished_name(name: &[u8]) -> String {
    let mut text = String::new();
    for (id, value) in attributes(name).iter().rev() {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&attribute_name(id));
        text.push('=');
        escape(value, &mut text);
    }
    text
}

/// RFC 4514 section 3, and what OpenSSL adds.
fn attribute_name(id: &[u8]) -> String {
    let known = match id {
        [0x55, 0x04, last] => match last {
            3 => "CN",
            4 => "SN",
            5 => "serialNumber",
            6 => "C",
            7 => "L",
            8 => "ST",
            9 => "street",
            10 => "O",
            11 => "OU",
            12 => "title",
            42 => "GN",
            _ => "",
        },
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01] => "emailAddress",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 25] => "DC",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 1] => "UID",
        _ => "",
    };
    if known.is_empty() {
        dotted(id)
    } else {
        known.to_owned()
    }
}

/// An object identifier in numbers.
fn dotted(id: &[u8]) -> String {
    let mut text = String::new();
    let mut number = 0_u64;
    for byte in id {
        number = (number << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            let _ = if text.is_empty() {
                let first = (number / 40).min(2);
                write!(text, "{first}.{}", number - first * 40)
            } else {
                write!(text, ".{number}")
            };
            number = 0;
        }
    }
    text
}

/// What stands in a header: control characters and what is not ASCII as `\XX`.
fn escape(value: &str, text: &mut String) {
    for (position, byte) in value.bytes().enumerate() {
        let at_edge = position == 0 || position + 1 == value.len();
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'#' if position == 0 => text.push_str("\\#"),
            b' ' if at_edge => text.push_str("\\ "),
            0x20..=0x7e => text.push(char::from(byte)),
            _ => write!(text, "\\{byte:02X}").expect("writing to a String does not fail"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn certificate() -> Vec<u8> {
        let names = vec!["Shop.example".to_owned(), "*.shop.example".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2020, 2, 29);
        params.not_after = date_time_ymd(2051, 12, 31);
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Schuhe, Grüße");
        params.distinguished_name.push(DnType::CommonName, "it");
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn fields_are_read() {
        let der = certificate();
        let x509 = X509::parse(&der).unwrap();
        assert_eq!(x509.dns_names(), ["shop.example", "*.shop.example"]);
        let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(seconds(x509.not_before).as_secs(), 1_582_934_400);
        assert_eq!(seconds(x509.not_after).as_secs(), 2_587_593_600);
        let subject = x509.subject();
        assert!(
            subject.contains("O=Schuhe\\, Gr\\C3\\BC\\C3\\9Fe"),
            "{subject}"
        );
        assert!(subject.contains("CN=it"), "{subject}");
        assert_eq!(x509.issuer(), subject);
        assert!(x509.serial().bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[test]
    fn dates_are_checked() {
        let utc = |text: &str| time(Some((UTC_TIME, text.as_bytes())));
        assert!(utc("991231235959Z").is_some());
        for wrong in [
            "",
            "Z",
            "991331235959Z",
            "9912312359Z",
            "99123123595Z",
            "aa1231235959Z",
        ] {
            assert_eq!(utc(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            if let Ok(x509) = X509::parse(&bytes) {
                let _ = (x509.dns_names(), x509.subject(), x509.serial());
            }
        }

        #[test]
        fn a_broken_certificate_is_read_without_a_panic(at: prop::sample::Index, byte: u8) {
            let mut der = certificate();
            let at = at.index(der.len());
            der[at] = byte;
            if let Ok(x509) = X509::parse(&der) {
                let _ = (x509.dns_names(), x509.subject(), x509.serial());
            }
            let _ = X509::parse(&der[..at]);
        }
    }
}

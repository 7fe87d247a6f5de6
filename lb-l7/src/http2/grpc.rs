//! gRPC, as far as a proxy speaks it: our own failures as statuses that its clients understand.
//!
//! Source: "gRPC over HTTP2" (grpc/doc/PROTOCOL-HTTP2.md) and "HTTP to gRPC Status Code Mapping"
//! (grpc/doc/http-grpc-status-mapping.md).
//! Read next: `../respond.rs` (who answers).

use std::time::Duration;

/// Whether a Content-Type is gRPC's: `application/grpc`, with `+proto` or the like, or parameters.
pub(crate) fn is_grpc(content_type: &[u8]) -> bool {
    const NAME: &[u8] = b"application/grpc";
    let Some((name, rest)) = content_type.split_at_checked(NAME.len()) else {
        return false;
    };
    name.eq_ignore_ascii_case(NAME) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// Whether the text of a head that came by HTTP/2, acceptable or not, begins a call.
pub(crate) fn is_call(text: &[u8]) -> bool {
    const NAME: &[u8] = b"\ncontent-type: ";
    let value = memchr::memmem::find(text, NAME).map(|at| &text[at + NAME.len()..]);
    let value = value.and_then(|rest| rest.split(|&byte| byte == b'\r').next());
    value.is_some_and(is_grpc)
}

/// How long a call may take, by its `grpc-timeout`: at most eight digits and a unit.
pub(crate) fn timeout(value: &[u8]) -> Option<Duration> {
    let (&unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits
        .iter()
        .fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// The gRPC status of an answer of ours. The mapping is the one by which clients read HTTP statuses,
/// but for what we know better than they could: a deadline that passed, and what is too long.
pub(crate) const fn status(http: u16) -> u8 {
    const RESOURCE_EXHAUSTED: u8 = 8;
    const INTERNAL: u8 = 13;
    const UNAVAILABLE: u8 = 14;
    match http {
        400 => INTERNAL,
        401 => 16,       // UNAUTHENTICATED
        403 => 7,        // PERMISSION_DENIED
        404 | 501 => 12, // UNIMPLEMENTED
        408 | 504 => 4,  // DEADLINE_EXCEEDED
        413 | 414 | 431 => RESOURCE_EXHAUSTED,
        429 | 502 | 503 => UNAVAILABLE,
        _ => 2, // UNKNOWN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for yes in [
            "application/grpc",
            "application/grpc+proto",
            "Application/gRPC; a=b",
        ] {
            assert!(is_grpc(yes.as_bytes()), "{yes}");
        }
        for no in [
            "",
            "application/grpc-web",
            "application/json",
            "application/grp",
        ] {
            assert!(!is_grpc(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn a_deadline_is_digits_and_a_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("100m", Some(Duration::from_millis(100))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("5", None),
            ("5s", None),
            ("-5S", None),
            ("123456789S", None),
        ] {
            assert_eq!(timeout(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn statuses_are_mapped_as_documented() {
        let pairs = [
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (413, 8),
            (429, 14),
            (431, 8),
            (502, 14),
            (503, 14),
            (504, 4),
        ];
        for (http, grpc) in pairs {
            assert_eq!(status(http), grpc);
        }
    }
}

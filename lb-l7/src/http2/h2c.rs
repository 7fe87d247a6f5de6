//! The way from HTTP/1.1 to HTTP/2 in the clear by `Upgrade: h2c` (RFC 7540 section 3.2, which RFC
//! 9113 leaves to those who have it already).
//!
//! Invariant: the offer ends here: no backend ever sees it, so nobody can talk to one behind our
//! back. What is not exactly as the RFC has it is served as HTTP/1.1.
//! Read next: `server.rs` (the connection that follows), `../connection.rs` (who accepts).

use lb_core::rt::Chunk;

use super::settings::PeerSettings;
use crate::http1::head::{Framing, Version};
use crate::http1::request::RequestHead;

/// Longest body of a request that becomes stream 1: it has to be there before anything else.
const BODY_BYTES_MAX: u64 = 8 * 1024;
/// Most settings in a field; there are nine that mean something.
const SETTINGS_MAX: usize = 32;

/// The answer behind which the connection is one of HTTP/2.
pub(crate) const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";

/// An offer to go on in HTTP/2 that is as it should be.
#[derive(Debug)]
pub(crate) struct Offer {
    /// What was received, from the request's first byte on.
    pub(crate) received: Chunk,
    /// Bytes of the request, with its body.
    pub(crate) request_len: usize,
    /// The client's settings, as in the payload of a SETTINGS frame.
    pub(crate) settings: Vec<u8>,
}

impl Offer {
    /// The settings that the request `head` at the start of `received` offers to go on with, and
    /// the length of all of the request.
    pub(crate) fn read(head: &RequestHead, received: &[u8]) -> Option<(Vec<u8>, usize)> {
        let settings = head.http2_settings(received)?;
        let body = match head.framing {
            Framing::None => 0,
            Framing::Length(len @ 0..=BODY_BYTES_MAX) => len as usize,
            _ => return None,
        };
        let may_follow = head.version == Version::Http11 && head.keep_alive;
        if !may_follow || head.expects_continue() {
            return None;
        }
        let settings = decode(settings)?;
        let is_fine = PeerSettings::new().apply(&settings, false).is_ok();
        is_fine.then_some((settings, head.len() + body))
    }
}

/// The bytes that `text` is the base64url of, without padding (RFC 7540 section 3.2.1).
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    if text.len() > SETTINGS_MAX * 8 {
        return None;
    }
    let (mut out, mut bits, mut count) = (Vec::with_capacity(text.len() * 3 / 4), 0_u32, 0);
    for &byte in text {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    // No digit too many, and no bit behind the last byte.
    (count < 6 && bits == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use lb_core::plan::{Forwarded, RequestId};

    use super::*;
    use crate::http1::request::{RequestRules, parse_request};

    fn offer(method: &str, fields: &str) -> Option<(Vec<u8>, usize)> {
        let rules = RequestRules {
            head_bytes_max: 8000,
            headers_max: 32,
            forwarded: Forwarded::Off,
            request_id: RequestId::Off,
        };
        let text = format!("{method} / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let head = parse_request(text.as_bytes(), &rules).unwrap().unwrap();
        Offer::read(&head, text.as_bytes()).map(|(settings, len)| (settings, len - text.len()))
    }

    const ASKED: &str = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n";

    fn with(settings: &str) -> Option<(Vec<u8>, usize)> {
        offer("GET", &format!("{ASKED}{settings}"))
    }

    #[test]
    fn an_offer_names_its_settings() {
        let curl = with("HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n").unwrap();
        let expected = b"\0\x03\0\0\0\x64\0\x04\x02\0\0\0\0\x02\0\0\0\0";
        assert_eq!(curl, (expected.to_vec(), 0));
        assert_eq!(with("HTTP2-Settings: \r\n"), Some((vec![], 0)));
        let post = format!("{ASKED}HTTP2-Settings: \r\nContent-Length: 5\r\n");
        assert_eq!(offer("POST", &post), Some((vec![], 5)));
        let several = "Connection: HTTP2-Settings, Upgrade\r\nUpgrade: foo, h2c\r\n\
            HTTP2-Settings: \r\n";
        assert!(offer("GET", several).is_some());
    }

    #[test]
    fn what_is_not_exactly_an_offer_is_none() {
        for settings in [
            "",                                             // none
            "HTTP2-Settings: \r\nHTTP2-Settings: \r\n",     // two
            "HTTP2-Settings: AAMAAABk=\r\n",                // padded
            "HTTP2-Settings: AAMAAAB+\r\n",                 // the other alphabet
            "HTTP2-Settings: AAMAAABkA\r\n",                // a digit too many
            "HTTP2-Settings: AAMAAA\r\n",                   // not whole settings
            "HTTP2-Settings: AAT_____\r\n",                 // a window that is too large
            "HTTP2-Settings: \r\nContent-Length: 8193\r\n", // a long body
            "HTTP2-Settings: \r\nTransfer-Encoding: chunked\r\n",
            "HTTP2-Settings: \r\nExpect: 100-continue\r\n",
            "HTTP2-Settings: \r\nConnection: close\r\n",
        ] {
            assert_eq!(with(settings), None, "{settings}");
        }
        for fields in [
            "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n",
            "Connection: HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2\r\nHTTP2-Settings: \r\n",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c-17\r\nHTTP2-Settings: \r\n",
            "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: \r\n",
        ] {
            assert_eq!(offer("GET", fields), None, "{fields}");
        }
        assert!(decode(b"B").is_none() && decode(b"AB").is_none());
        assert_eq!(decode(b"AQ"), Some(vec![1]));
    }
}

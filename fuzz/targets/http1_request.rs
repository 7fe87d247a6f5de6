//! Any bytes as a request head. What is accepted, and what the backend then gets, is held against
//! a plain second reading of the head that shares no code with the parser.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use lb_core::plan::{Forwarded, RequestId};
use lb_core::rt::Buffer;
use lb_l7::http1::head::Framing;
use lb_l7::http1::request::{Client, RequestHead, RequestRules, parse_request, rewrite_request};
use libfuzzer_sys::fuzz_target;

const CLIENT: Client<'static> = Client {
    address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    scheme: "http",
    local: None,
    request_id: None,
    certificate: b"",
};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else {
        return;
    };
    let forwarded = [Forwarded::Append, Forwarded::Off, Forwarded::Replace];
    let rules = RequestRules {
        head_bytes_max: 15 * 1024,
        headers_max: 100,
        forwarded: forwarded[usize::from(choice) % 3],
        request_id: RequestId::Off,
    };
    let Ok(Some(request)) = parse_request(bytes, &rules) else {
        return;
    };
    let head = &bytes[..request.len()];
    is_plain(head);
    comes_in_pieces_too(head, &request, &rules);
    if request.lacks_authority() {
        return; // HTTP/1.0 without Host: the address it came to is needed
    }
    let mut out = Buffer::new();
    if rewrite_request(head, &request, &rules, &CLIENT, None, &mut out).is_err() {
        return; // longer than there is room for
    }
    let sent = out.as_slice();
    is_plain(sent);
    // What we add may be more than a client could have sent.
    let roomier = RequestRules {
        headers_max: rules.headers_max + 8,
        head_bytes_max: sent.len(),
        ..rules
    };
    let again = parse_request(sent, &roomier)
        .expect("we accept what we write")
        .expect("we write whole heads");
    assert_eq!(again.len(), sent.len());
    assert_eq!(again.framing, request.framing);
    assert_eq!(again.path(sent), request.path(head));
    assert_eq!(again.host(sent), request.host(head));
    let host = fields(sent).filter(|(name, _)| name.eq_ignore_ascii_case(b"host"));
    assert_eq!(host.count(), 1);
    assert_eq!(framing(sent), request.framing);
});

/// Up to its last byte a head is incomplete, never accepted or refused.
fn comes_in_pieces_too(head: &[u8], request: &RequestHead, rules: &RequestRules) {
    for len in [head.len() / 3, head.len() / 2, head.len() - 1] {
        let part = parse_request(&head[..len], rules).expect("no reason to refuse it yet");
        assert!(part.is_none(), "{len} of {} bytes accepted", request.len());
    }
}

/// Every line ends in CRLF, and no other control byte but tabs is in it.
fn is_plain(head: &[u8]) {
    assert!(head.ends_with(b"\r\n\r\n"));
    for line in head[..head.len() - 4]
        .split(|&byte| byte == b'\n')
        .rev()
        .skip(1)
    {
        assert_eq!(line.last(), Some(&b'\r'));
    }
    let text = head.iter().filter(|byte| !b"\r\n\t".contains(byte));
    assert!(text.clone().all(|byte| *byte >= b' ' && *byte != 0x7f));
    let crs = head.iter().filter(|&&byte| byte == b'\r').count();
    assert_eq!(crs, head.windows(2).filter(|it| it == b"\r\n").count());
}

/// The fields of a head, values trimmed.
fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = head.split(|&byte| byte == b'\n').skip(1);
    lines.filter_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    })
}

/// As RFC 9112 section 6.3 says, for a request that is not refused.
fn framing(head: &[u8]) -> Framing {
    let of = |wanted: &'static [u8]| {
        fields(head).filter(move |(name, _)| name.eq_ignore_ascii_case(wanted))
    };
    let mut codings = of(b"transfer-encoding");
    let mut lengths = of(b"content-length");
    match (codings.next(), lengths.next()) {
        (None, None) => Framing::None,
        (Some((_, coding)), None) => {
            assert!(coding.eq_ignore_ascii_case(b"chunked"));
            assert!(codings.next().is_none());
            Framing::Chunked
        }
        (None, Some((_, length))) => {
            assert!(lengths.next().is_none());
            let length = std::str::from_utf8(length).expect("digits");
            match length.parse().expect("a number") {
                0 => Framing::None,
                length => Framing::Length(length),
            }
        }
        (Some(_), Some(_)) => panic!("both a length and a coding"),
    }
}

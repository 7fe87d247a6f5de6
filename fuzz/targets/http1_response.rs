//! Any bytes as a response head. What the client gets must mean to it what it meant to us.
#![no_main]

use lb_core::rt::Buffer;
use lb_l7::http1::head::{Framing, HEADERS_MAX};
use lb_l7::http1::response::{
    ClientConnection, ResponseRules, Transfer, parse_response, rewrite_response,
};
use libfuzzer_sys::fuzz_target;

const DATE: &[u8] = b"Tue, 15 Nov 1994 08:12:31 GMT";

fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else {
        return;
    };
    let rules = ResponseRules {
        head_bytes_max: 15 * 1024,
        answers_head: choice & 1 != 0,
    };
    let connection = match choice >> 1 & 3 {
        0 => ClientConnection::Close,
        1 => ClientConnection::Keep,
        _ => ClientConnection::KeepHttp10,
    };
    let Ok(Some(response)) = parse_response(bytes, &rules) else {
        return;
    };
    let head = &bytes[..response.len()];
    assert!((100..1000).contains(&response.status));
    let part = parse_response(&head[..head.len() - 1], &rules);
    assert!(part.expect("no reason to refuse it yet").is_none());
    let mut out = Buffer::new();
    let written = rewrite_response(head, &response, connection, Transfer::AsIs, DATE, &mut out);
    if written.is_err() {
        return; // longer than there is room for
    }
    let sent = out.as_slice();
    if sent.split(|&byte| byte == b'\n').count() > HEADERS_MAX {
        return; // what we add is more than we take
    }
    let again = parse_response(sent, &rules)
        .expect("we accept what we write")
        .expect("we write whole heads");
    assert_eq!(again.len(), sent.len());
    assert_eq!(again.status, response.status);
    assert_eq!(again.framing, response.framing);
    if again.framing != Framing::UntilClose && !again.is_interim() {
        assert_eq!(again.keep_alive, connection != ClientConnection::Close);
    }
});

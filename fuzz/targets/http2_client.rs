//! Any bytes as what a backend sends to a proxy with requests under way. However they are cut, the
//! same comes out of them; what the exchanges get are heads whose lines are those that were meant;
//! and no more is held than the windows allow.
#![no_main]

use lb_l7::http2::Replay;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&cut, frames)) = input.split_first() else {
        return;
    };
    let bytes = [b"\0\0\0\x04\0\0\0\0\0", frames].concat();
    let (mut whole, mut pieces) = (Replay::client(), Replay::client());
    let is_fine = whole.receive(&bytes);
    let size = usize::from(cut) + 1;
    let was_fine = bytes.chunks(size).all(|piece| pieces.receive(piece));
    assert_eq!(is_fine, was_fine);
    assert!(whole.unread() <= 4 * 65_535, "more than the window");
    assert_eq!(whole.unread(), pieces.unread());
    assert_eq!(whole.sent(), pieces.sent());
    whole.read();
    pieces.read();
    assert_eq!(whole.texts().concat(), pieces.texts().concat());
    assert_eq!(whole.sent(), pieces.sent());
    for text in whole.texts() {
        is_plain_if_head(text);
    }
});

/// A head ends once, and has its status where it belongs.
fn is_plain_if_head(text: &[u8]) {
    if !text.starts_with(b"HTTP/1.1 ") || !text.ends_with(b"\r\n\r\n") {
        return; // a piece of a body
    }
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    if line.len() != b"HTTP/1.1 200 \r".len() {
        return; // likewise
    }
    assert!(line[9..12].iter().all(u8::is_ascii_digit), "no status");
    assert_ne!(&line[9..12], b"101");
    let head = &text[..text.len() - 4];
    assert!(!head.windows(4).any(|it| it == b"\r\n\r\n"), "two ends");
}

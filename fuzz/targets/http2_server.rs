//! Any bytes as what a client sends behind its preface. However they are cut, the same comes out of
//! them; what the streams get is text whose lines are those that were meant; and no more is held
//! than the windows allow.
#![no_main]

use lb_l7::http2::{PREFACE, Replay};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&cut, frames)) = input.split_first() else {
        return;
    };
    let bytes = [&PREFACE[..], b"\0\0\0\x04\0\0\0\0\0", frames].concat();
    let (mut whole, mut pieces) = (Replay::default(), Replay::default());
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

/// A head ends once, and has no control byte but in its line ends and tabs.
fn is_plain_if_head(text: &[u8]) {
    let Some(line) = text.split(|&byte| byte == b'\n').next() else {
        return;
    };
    if !line.ends_with(b" HTTP/1.1\r") || !text.ends_with(b"\r\n\r\n") {
        return; // a piece of a body
    }
    let head = &text[..text.len() - 4];
    assert!(!head.windows(4).any(|it| it == b"\r\n\r\n"), "two ends");
}

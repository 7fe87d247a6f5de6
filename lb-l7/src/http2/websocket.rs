//! WebSockets of backends that speak HTTP/2 (RFC 8441): the handshake of HTTP/1.1, which is what the
//! rest of the proxy reads, becomes an extended CONNECT, and what is answered to that becomes 101.
//!
//! Invariant: who asked by HTTP/1.1 gets the proof that it waits for (RFC 6455 section 4.2.2) only
//! when the backend has accepted.
//! Read next: `client.rs` (who asks), `write.rs` (CONNECT), `../upgrade.rs` (what follows).

use std::sync::OnceLock;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use lb_core::rt::Chunk;

use crate::failure::Failure;
use crate::link::BackendStream;

/// What is told of a backend that takes no WebSockets: cluster and backend.
pub type NoWebSocketReport = fn(&str, &str);

static REPORT: OnceLock<NoWebSocketReport> = OnceLock::new();

/// Has backends reported that speak HTTP/2 and do not allow extended CONNECT when a WebSocket is
/// asked for: a client sees but a 502. The first call in a process counts; `report` is called by
/// workers, and so does not wait.
pub fn report_no_websockets(report: NoWebSocketReport) {
    let _ = REPORT.set(report);
}

pub(crate) fn no_websocket(cluster: &str, backend: &str) {
    if let Some(report) = REPORT.get() {
        report(cluster, backend);
    }
}

/// The proof that a handshake was understood.
pub(crate) type Accept = [u8; 28];

/// Has `stream` ask for the WebSocket that `head` is the handshake of; false if that is none.
pub(crate) fn ask(head: &[u8], stream: &dyn BackendStream) -> Result<bool, Failure> {
    match handshake(head) {
        Some(accept) if !stream.ask_websocket(accept) => Err(Failure::BackendNoWebSocket),
        handshake => Ok(handshake.is_some()),
    }
}

/// The proof for the handshake that `head` is; `None` if it asks for something else.
fn handshake(head: &[u8]) -> Option<Accept> {
    let mut lines = head.split(|&byte| byte == b'\n');
    let is_get = lines.next()?.starts_with(b"GET ");
    let (mut is_websocket, mut key) = (false, None);
    for line in lines {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"upgrade") {
            is_websocket = value.eq_ignore_ascii_case(b"websocket");
        } else if name.eq_ignore_ascii_case(b"sec-websocket-key") && key.replace(value).is_some() {
            return None;
        }
    }
    key.filter(|key| is_get && is_websocket && key.len() == 24)
        .map(accept)
}

/// RFC 6455 section 4.2.2.
fn accept(key: &[u8]) -> Accept {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
    let mut text = [b'='; 28];
    for (three, four) in digest.as_ref().chunks(3).zip(text.chunks_mut(4)) {
        let bits = three
            .iter()
            .fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte));
        let bits = bits << (8 * (3 - three.len()));
        for (nth, digit) in four.iter_mut().take(three.len() + 1).enumerate() {
            *digit = DIGITS[(bits >> (18 - 6 * nth)) as usize & 63];
        }
    }
    text
}

/// What a WebSocket's backend has answered, as HTTP/1.1 has it: a success is a switch of protocols.
pub(super) fn answer(text: Chunk, accept: &Accept) -> Chunk {
    const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
        upgrade: websocket\r\nsec-websocket-accept: ";
    if text.get(9) != Some(&b'2') {
        return text;
    }
    let mut out = [SWITCHING, accept, b"\r\n"].concat();
    for line in text.split_inclusive(|&byte| byte == b'\n').skip(1) {
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        let is_dropped = [&b"content-length"[..], b"sec-websocket-accept"];
        if !is_dropped.iter().any(|it| name.eq_ignore_ascii_case(it)) {
            out.extend_from_slice(line);
        }
    }
    Chunk::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    #[test]
    fn the_proof_is_that_of_the_rfc() {
        let head = format!(
            "GET /chat HTTP/1.1\r\nSec-WebSocket-Key: {KEY}\r\n\
            Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        );
        let proof = handshake(head.as_bytes()).unwrap();
        assert_eq!(&proof, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for (from, to) in [
            ("GET", "PUT"),
            ("websocket", "other"),
            (KEY, "short"),
            ("Connection", "Sec-WebSocket-Key"),
            ("Upgrade:", "X:"),
        ] {
            assert!(
                handshake(head.replace(from, to).as_bytes()).is_none(),
                "{to}"
            );
        }
    }

    #[test]
    fn a_success_is_a_switch_of_protocols() {
        let fine = b"HTTP/1.1 200 \r\nContent-Length: 5\r\nsec-websocket-protocol: chat\r\n\r\n";
        let answered = answer(Chunk::from_static(fine), b"0123456789012345678901234567");
        let text = String::from_utf8(answered.to_vec()).unwrap();
        assert_eq!(
            text,
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: 0123456789012345678901234567\r\n\
             sec-websocket-protocol: chat\r\n\r\n"
        );
        let refused = b"HTTP/1.1 403 \r\nContent-Length: 5\r\n\r\n";
        let answered = answer(Chunk::from_static(refused), &[0; 28]);
        assert_eq!(&answered[..], refused);
    }
}

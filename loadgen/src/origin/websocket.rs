//! A WebSocket from the origin's side: every message comes back, frame by frame.
//!
//! Invariant: what is echoed was unmasked; a ping is answered, a farewell returned.
//! Read next: `../websocket.rs`.

use std::io;

use lb_core::rt::{self, Chunk};
use lb_l7::stream::Stream;

use super::http::{Http, reset};
use super::service::Fate;
use crate::websocket::{BINARY, CLOSE, CONTINUATION, Head, PING, PONG};

/// Longer frames end the connection.
const FRAME_BYTES_MAX: u64 = 64 << 20;

/// Serves a connection from its upgrade to its end; `input` is what came after that.
pub(super) async fn serve(http: &Http, stream: &Stream, input: Chunk) -> io::Result<()> {
    let mut bytes = input.to_vec();
    drop(input);
    loop {
        let (mut out, mut taken, mut is_over, mut messages) = (Vec::new(), 0, false, 0);
        while let Some((head, size)) = whole_frame(&bytes[taken..])? {
            let frame = &mut bytes[taken..taken + size];
            taken += size;
            is_over |= head.opcode == CLOSE;
            messages += usize::from(head.is_last && head.opcode < CLOSE);
            echo(head, frame, &mut out)?;
        }
        bytes.drain(..taken);
        for _ in 0..messages {
            let turn = http.turn();
            if let Some(at) = turn.at {
                rt::sleep_until_precise(at).await;
            }
            match turn.fate {
                Fate::Answered => {}
                Fate::Failed => return Ok(()),
                Fate::Reset => return reset(stream),
            }
        }
        if !out.is_empty() {
            stream.send(Chunk::from_vec(out)).await?;
        }
        if is_over {
            return Ok(());
        }
        let received = stream.recv().await?;
        if received.is_empty() {
            return Ok(());
        }
        bytes.extend_from_slice(&received);
    }
}

/// The frame at the front, once it is whole, and its size.
fn whole_frame(bytes: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let Some((start, head)) = Head::read(bytes) else {
        return Ok(None);
    };
    if head.length > FRAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let size = start + head.length as usize;
    Ok((bytes.len() >= size).then_some((head, size)))
}

fn echo(head: Head, frame: &mut [u8], out: &mut Vec<u8>) -> io::Result<()> {
    let opcode = match head.opcode {
        PING => PONG,
        PONG => return Ok(()),
        // Text, too.
        CONTINUATION..=BINARY | CLOSE => head.opcode,
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    let start = frame.len() - head.length as usize;
    let payload = &mut frame[start..];
    if let Some(mask) = head.mask.filter(|mask| *mask != [0; 4]) {
        for (byte, mask) in payload.iter_mut().zip(mask.into_iter().cycle()) {
            *byte ^= mask;
        }
    }
    Head {
        opcode,
        mask: None,
        ..head
    }
    .write(out);
    out.extend_from_slice(payload);
    Ok(())
}

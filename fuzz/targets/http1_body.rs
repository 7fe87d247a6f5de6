//! Any bytes as a chunked body, whole and cut anywhere: the same bytes belong to it, and the data
//! is what a plain second reading finds.
#![no_main]

use lb_l7::http1::body::Body;
use lb_l7::http1::head::Framing;
use libfuzzer_sys::fuzz_target;

const DATA_BYTES_MAX: u64 = 4096;

fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else {
        return;
    };
    let whole = read(&[bytes]);
    let cut = bytes.len() * usize::from(cut) / 256;
    let (first, second) = bytes.split_at(cut);
    let pieces = read(&[first, second]);
    match (&whole, &pieces) {
        (Ok(whole), Ok(pieces)) => assert_eq!(whole, pieces),
        (Err(whole), Err(pieces)) => assert_eq!(whole, pieces),
        _ => panic!("whole: {whole:?}, in pieces: {pieces:?}"),
    }
    let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(whole, read(&bytewise));
    if let Ok(Message {
        taken,
        data,
        done: true,
    }) = &whole
    {
        assert_eq!(data, &plain(&bytes[..*taken]));
    }
});

#[derive(Debug, PartialEq)]
struct Message {
    taken: usize,
    data: Vec<u8>,
    done: bool,
}

fn read(pieces: &[&[u8]]) -> Result<Message, String> {
    let mut body = Body::new(Framing::Chunked, DATA_BYTES_MAX);
    let mut message = Message {
        taken: 0,
        data: Vec::new(),
        done: false,
    };
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() && !body.is_done() {
            let step = body.step(rest).map_err(|error| format!("{error:?}"))?;
            assert!(step.framing + step.data > 0, "no progress");
            let (data, behind) = rest[step.framing..].split_at(step.data);
            message.data.extend_from_slice(data);
            message.taken += step.framing + step.data;
            rest = behind;
        }
    }
    message.done = body.is_done();
    Ok(message)
}

/// The data of a whole, valid chunked body.
fn plain(mut body: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let end = body
            .windows(2)
            .position(|it| it == b"\r\n")
            .expect("a line");
        let digits = body[..end].split(|&byte| byte == b';').next();
        let digits = std::str::from_utf8(digits.expect("a first part")).expect("digits");
        let size = usize::from_str_radix(digits.trim_end(), 16).expect("a size");
        if size == 0 {
            return data;
        }
        data.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 2 + size + 2..];
    }
}

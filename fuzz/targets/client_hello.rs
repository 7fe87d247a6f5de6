//! Any bytes as the start of a TLS connection, whole and cut anywhere: the same is read, in any
//! records.
#![no_main]

use lb_l4::client_hello::{HELLO_BYTES_MAX, HelloError, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [cut, size, bytes @ ..] = input else {
        return;
    };
    let whole = parse(bytes);
    let early = parse(&bytes[..bytes.len() * usize::from(*cut) / 256]);
    assert!(
        early == Ok(None) || early == whole,
        "{early:?}, then {whole:?}"
    );
    // The same bytes as one handshake message, cut into records of another size.
    let records = |size: usize| -> Vec<u8> {
        let record = |part: &[u8]| {
            let length = (part.len() as u16).to_be_bytes();
            [&[22, 3, 1], &length[..], part].concat()
        };
        bytes.chunks(size).flat_map(record).collect()
    };
    if bytes.is_empty() || bytes.len() > HELLO_BYTES_MAX / 2 {
        return;
    }
    let one = parse(&records(bytes.len()));
    let many = parse(&records(1 + usize::from(*size)));
    match (&one, &many) {
        (_, Err(HelloError::TooLong)) => {}
        // What comes in records of its own behind a ClientHello is not looked at.
        (Err(HelloError::Malformed), Ok(Some(_))) => {}
        _ => assert_eq!(one, many),
    }
    if let Ok(Some(hello)) = one {
        assert!(hello.protocols().all(|name| !name.is_empty()));
    }
});

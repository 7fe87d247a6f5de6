//! Any bytes as a PROXY header, whole and cut anywhere: the same is read, and what was read is
//! read again when it is written.
#![no_main]

use lb_l4::proxy_protocol::{Tlv, Version, parse, write_v1, write_v2};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else {
        return;
    };
    let whole = parse(bytes);
    let early = parse(&bytes[..bytes.len() * usize::from(cut) / 256]);
    assert!(
        early == Ok(None) || early == whole,
        "{early:?}, then {whole:?}"
    );
    let Ok(Some(header)) = whole else { return };
    let tlvs: Vec<Tlv<'_>> = header.tlvs.collect();
    let mut written = Vec::new();
    match header.version {
        Version::V1 => write_v1(header.origin, &mut written),
        Version::V2 => {
            // One that is nearly as long as may be has no room for a checksum.
            let checksum = header.length < 16_000;
            write_v2(header.origin, &tlvs, checksum, &mut written);
        }
    }
    let again = parse(&written).expect("a header").expect("a whole one");
    assert_eq!(again.origin, header.origin);
    let told = |tlv: &Tlv<'_>| !matches!(tlv, Tlv::Checksum(_) | Tlv::Ssl(_));
    let before: Vec<_> = tlvs.into_iter().filter(told).collect();
    let after: Vec<_> = again.tlvs.filter(told).collect();
    assert_eq!(before, after);
});

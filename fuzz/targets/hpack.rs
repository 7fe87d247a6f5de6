//! Any fields, in several blocks with tables of changing size: what is encoded is
//! decoded as it was meant; and any bytes are decoded or refused.
#![no_main]

use lb_l7::http2::hpack::{Decoder, Encoder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, rest)) = input.split_first() else {
        return;
    };
    let mut encoder = Encoder::new(choice & 1 == 0);
    let mut decoder = Decoder::new();
    let mut block = Vec::new();
    for field in rest.split(|&byte| byte == 0) {
        let (name, value) = field.split_at(field.len().min(usize::from(choice >> 4)));
        if value.first() == Some(&1) {
            encoder.set_table_size(u32::from(value.get(1).copied().unwrap_or(0)) * 32);
        }
        block.clear();
        encoder.begin(&mut block);
        encoder.field(name, value, &mut block);
        encoder.field(name, value, &mut block);
        let mut count = 0;
        let decoded = decoder.decode(&block, |it| {
            assert!(it.name.eq_ignore_ascii_case(name));
            assert_eq!(it.value, value);
            count += 1;
        });
        assert_eq!((decoded, count), (Ok(()), 2));
    }
    let _ = Decoder::new().decode(rest, |_| {});
});

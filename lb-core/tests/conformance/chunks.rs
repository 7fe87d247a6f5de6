//! Chunks and buffers: views of lent bytes that share, split and go back.

use crate::harness::{Engine, Pattern, pair};
use lb_core::rt::{Buffer, Chunk};
use std::panic::{AssertUnwindSafe, catch_unwind};

on_every_engine!(
    a_chunk_is_small,
    advance_and_truncate_cut,
    cutting_too_much_panics,
    split_to_parts_a_chunk,
    share_is_a_second_owner,
    parts_can_be_dropped_in_any_order,
    a_buffer_takes_what_fits,
    a_cleared_buffer_is_empty,
    a_frozen_buffer_is_a_chunk,
    received_chunks_split_and_share,
    chunks_work_without_a_runtime,
);

fn a_chunk_is_small(_: Engine) {
    assert_eq!(size_of::<Chunk>(), 16);
    assert!(size_of::<Option<Chunk>>() <= 24);
}

/// The same bytes as each kind of chunk: static, on the heap, from the pool.
fn each_kind(text: &'static str) -> [Chunk; 3] {
    let mut buffer = Buffer::new();
    assert!(buffer.push(text.as_bytes()));
    let bytes = text.as_bytes();
    [
        Chunk::from_static(bytes),
        Chunk::from_vec(bytes.to_vec()),
        buffer.freeze(),
    ]
}

fn advance_and_truncate_cut(engine: Engine) {
    engine.run(async {
        for mut chunk in each_kind("0123456789") {
            chunk.advance(2);
            assert_eq!(&*chunk, b"23456789");
            chunk.truncate(5);
            assert_eq!(&*chunk, b"23456");
            chunk.truncate(50);
            assert_eq!(&*chunk, b"23456");
            chunk.advance(0);
            chunk.advance(5);
            assert!(chunk.is_empty());
            chunk.truncate(0);
            assert!(chunk.is_empty());
        }
    });
}

fn cutting_too_much_panics(engine: Engine) {
    engine.run(async {
        for mut chunk in each_kind("0123") {
            chunk.advance(1);
            let beyond = catch_unwind(AssertUnwindSafe(|| chunk.advance(4)));
            assert!(beyond.is_err());
            let beyond = catch_unwind(AssertUnwindSafe(|| drop(chunk.split_to(4))));
            assert!(beyond.is_err());
            assert_eq!(&*chunk, b"123");
        }
    });
}

fn split_to_parts_a_chunk(engine: Engine) {
    engine.run(async {
        for mut chunk in each_kind("0123456789") {
            assert!(chunk.split_to(0).is_empty());
            let mut head = chunk.split_to(4);
            assert_eq!(
                (&*head, &*chunk),
                (b"0123".as_slice(), b"456789".as_slice())
            );
            let first = head.split_to(1);
            head.truncate(2);
            assert_eq!((&*first, &*head), (b"0".as_slice(), b"12".as_slice()));
            let rest = chunk.split_to(6);
            assert!(chunk.is_empty());
            assert_eq!(&*rest, b"456789");
        }
    });
}

fn share_is_a_second_owner(engine: Engine) {
    engine.run(async {
        for mut chunk in each_kind("0123456789") {
            let mut copy = chunk.share();
            let second = copy.share();
            copy.advance(5);
            chunk.truncate(3);
            assert_eq!((&*chunk, &*copy), (b"012".as_slice(), b"56789".as_slice()));
            drop(chunk);
            drop(copy);
            assert_eq!(&*second, b"0123456789");
        }
    });
}

fn parts_can_be_dropped_in_any_order(engine: Engine) {
    engine.run(async {
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            for mut chunk in each_kind("aabbcc") {
                let mut parts = [
                    Some(chunk.split_to(2)),
                    Some(chunk.split_to(2)),
                    Some(chunk),
                ];
                for index in order {
                    parts[index] = None;
                    // A buffer that went back too early would be lent and written now.
                    let mut other = Buffer::new();
                    assert!(other.push(b"xxxxxx"));
                    for (part, expected) in parts.iter().zip(["aa", "bb", "cc"]) {
                        if let Some(part) = part {
                            assert_eq!(&**part, expected.as_bytes());
                        }
                    }
                }
            }
        }
    });
}

fn a_buffer_takes_what_fits(engine: Engine) {
    engine.run(async {
        let mut buffer = Buffer::new();
        assert!(buffer.is_empty());
        assert_eq!(buffer.remaining(), Buffer::CAPACITY);
        let mut pattern = Pattern::new(1);
        assert!(buffer.push(&pattern.make(Buffer::CAPACITY - 10)));
        assert!(!buffer.push(&[0; 11]), "all or nothing");
        assert_eq!(
            (buffer.len(), buffer.remaining()),
            (Buffer::CAPACITY - 10, 10)
        );
        assert!(buffer.push(&pattern.make(10)));
        assert!(!buffer.push(b"x"));
        assert!(buffer.push(b""));
        assert_eq!(buffer.remaining(), 0);
        Pattern::new(1).check(buffer.as_slice());
        let whole = buffer.freeze();
        assert_eq!(whole.len(), Buffer::CAPACITY);
        Pattern::new(1).check(&whole);
    });
}

fn a_cleared_buffer_is_empty(engine: Engine) {
    engine.run(async {
        let mut buffer = Buffer::new();
        assert!(buffer.push(b"old"));
        buffer.clear();
        assert!(buffer.is_empty());
        assert_eq!(buffer.remaining(), Buffer::CAPACITY);
        assert!(buffer.push(b"new"));
        assert_eq!(buffer.as_slice(), b"new");
    });
}

fn a_frozen_buffer_is_a_chunk(engine: Engine) {
    engine.run(async {
        assert!(Buffer::new().freeze().is_empty());
        let mut buffer = Buffer::new();
        assert!(buffer.push(b"frozen"));
        let chunk = buffer.freeze();
        let mut other = Buffer::new();
        assert!(other.push(b"thawed"));
        assert_eq!(
            (&*chunk, other.as_slice()),
            (b"frozen".as_slice(), b"thawed".as_slice())
        );
    });
}

fn received_chunks_split_and_share(engine: Engine) {
    engine.run(async {
        let (client, server) = pair().await;
        let mut pattern = Pattern::new(1);
        let mut check = Pattern::new(1);
        for size in [1, 2, 100, 4_096, 16_384] {
            client
                .send(Chunk::from_vec(pattern.make(size)))
                .await
                .expect("send");
            let mut left = size;
            while left > 0 {
                let mut chunk = server.recv().await.expect("receive");
                assert!(!chunk.is_empty());
                left -= chunk.len();
                let front = chunk.split_to(chunk.len() / 3);
                let back = chunk.share();
                drop(chunk);
                check.check(&front);
                drop(front);
                check.check(&back);
            }
        }
    });
}

/// A buffer asked for on a thread without a runtime comes from the heap.
fn chunks_work_without_a_runtime(_: Engine) {
    for mut chunk in each_kind("somewhere else") {
        let front = chunk.split_to(9);
        assert_eq!(
            (&*front, &*chunk.share()),
            (b"somewhere".as_slice(), b" else".as_slice())
        );
    }
}

//! HPACK, the compression of heads (RFC 7541).
//!
//! Invariant: both ends of a connection keep the same table: every block that was received is
//! decoded to its end, and every one that was encoded is sent, in order.
//! Read next: `decode.rs`, `encode.rs`, `table.rs`, `huffman.rs`.

mod decode;
mod encode;
mod huffman;
mod table;

pub use decode::{DecodeError, Decoder, Field};
pub use encode::Encoder;

/// The size of a dynamic table until its owner says otherwise (RFC 9113 section 6.5.2), and the
/// largest that we use.
pub const TABLE_BYTES: usize = 4096;

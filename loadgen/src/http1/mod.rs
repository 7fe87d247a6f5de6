//! As much of HTTP/1.1 as both ends of a load test need: where a head ends, what it says about
//! the body, where the body ends.
//!
//! Invariant: no allocation for a head whose bytes were seen before on the same thread.
//! Read next: `head.rs`, `body.rs`.

mod body;
mod head;

pub(crate) use body::{BadFraming, Body};
pub(crate) use head::{Heads, Meaning, RequestHead, ResponseHead};

//! HTTP/1.1 as pure functions and small state machines: bytes in, summaries and bytes out.
//!
//! Invariant: nothing in here reads a clock or a socket, and what is accepted is unambiguous:
//! a message that two implementations could frame differently is refused (RFC 9112 section 11.2).
//! Read next: `head.rs` (what both kinds of head share), `request.rs`, `response.rs`, `body.rs`.

pub mod authority;
pub mod body;
pub mod chunked;
pub(crate) mod cuts;
pub(crate) mod fields;
pub mod forward;
pub mod head;
pub(crate) mod phrase;
pub mod request;
pub mod response;
pub(crate) mod target;
pub(crate) mod text;

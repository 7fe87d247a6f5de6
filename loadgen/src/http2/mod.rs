//! As much of HTTP/2 (RFC 9113) as both ends of a load test need.
//!
//! Not the codec of `lb-l7`, on purpose: an instrument that shares its code with what it measures
//! would share its faults, too, and call them right.
//! Invariant: nothing here knows clients or origins; both drive a [`Wire`].
//! Read next: `wire.rs`, `frame.rs`, `hpack.rs`, `outgoing.rs`.

mod drive;
mod frame;
mod hpack;
mod huffman;
mod outgoing;
mod wire;

pub(crate) use drive::{Side, drive};
pub(crate) use frame::{Broken, PREFACE, kind};
pub(crate) use hpack::{Template, indexed, literal};
pub(crate) use outgoing::{End, Outgoing};
pub(crate) use wire::{Event, Wire};

//! Both directions of a connection between two threads: what goes on elsewhere.
//!
//! Invariant: nothing is under way, so nothing is lost and no number is used twice with a key.
//! Read next: `mod.rs`.

use lb_core::rt::Chunk;
use rustls::ProtocolVersion;

use super::{Duplex, Kernel};
use crate::tls::pacing::Pacing;
use crate::tls::record::{Opener, Sealer};

/// What there is of both directions while nothing is under way, for another thread.
pub(in crate::tls) struct Resting {
    sealer: Sealer,
    opener: Opener,
    kernel: Kernel,
    version: ProtocolVersion,
    quiet: u8,
    has_answered: bool,
    pacing: Pacing,
}

impl Resting {
    /// Goes on, on whatever thread.
    pub(in crate::tls) fn resume(self) -> Duplex {
        Duplex {
            sealer: self.sealer,
            opener: self.opener,
            kernel: self.kernel,
            version: self.version,
            input: Chunk::empty(),
            partial: Vec::new(),
            message: Vec::new(),
            control: Vec::new(),
            quiet: self.quiet,
            is_ended: false,
            failure: None,
            has_said_end: false,
            has_answered: self.has_answered,
            pacing: self.pacing,
        }
    }
}

impl Duplex {
    /// All that another thread needs to go on; `None` in the middle of anything, or at the end.
    pub(in crate::tls) fn rest_elsewhere(self) -> Option<Resting> {
        let is_ended = self.is_ended || self.has_said_end || self.failure.is_some();
        let has_bytes = !self.partial.is_empty() || !self.message.is_empty();
        if is_ended || has_bytes || !self.input.is_empty() || !self.control.is_empty() {
            return None;
        }
        Some(Resting {
            sealer: self.sealer,
            opener: self.opener,
            kernel: self.kernel,
            version: self.version,
            quiet: self.quiet,
            has_answered: self.has_answered,
            pacing: self.pacing,
        })
    }
}

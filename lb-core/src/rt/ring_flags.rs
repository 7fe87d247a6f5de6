//! The set-up flags of a ring, and how many of them this kernel takes.
//!
//! Invariant: a ring is made with as many flags as the kernel grants, given up one by one, the
//! newest first.
//! Read next: `uring.rs`.

use std::fmt;
use std::io;

use io_uring::IoUring;

/// Entries of the completion queue; the kernel keeps what does not fit.
const COMPLETIONS: u32 = 8192;

/// Set-up flags of a ring. All are asked for; older kernels refuse some (in brackets: since).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingFlags(u8);

impl RingFlags {
    /// None of them.
    pub const NONE: Self = Self(0);
    const SINGLE_ISSUER: u8 = 1;
    const DEFER_TASKRUN: u8 = 2;
    const COOP_TASKRUN: u8 = 4;
    const SUBMIT_ALL: u8 = 8;
    const NO_SQARRAY: u8 = 16;
    /// Name and first kernel of each, the newest first: the order in which they are given up.
    const NAMES: [(u8, &'static str); 5] = [
        (Self::NO_SQARRAY, "NO_SQARRAY"),       // 6.6
        (Self::DEFER_TASKRUN, "DEFER_TASKRUN"), // 6.1, needs SINGLE_ISSUER
        (Self::SINGLE_ISSUER, "SINGLE_ISSUER"), // 6.0
        (Self::COOP_TASKRUN, "COOP_TASKRUN"),   // 5.19
        (Self::SUBMIT_ALL, "SUBMIT_ALL"),       // 5.18
    ];

    const fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    /// These flags without the one that is given up next; `None` if there is none left.
    #[must_use]
    pub fn weaker(self) -> Option<Self> {
        let next = Self::NAMES.iter().find(|(flag, _)| self.has(*flag))?.0;
        Some(Self(self.0 & !next))
    }

    fn build(self, entries: u32) -> io::Result<IoUring> {
        let mut builder = IoUring::builder();
        builder.setup_clamp().setup_cqsize(COMPLETIONS);
        if self.has(Self::SUBMIT_ALL) {
            builder.setup_submit_all();
        }
        if self.has(Self::SINGLE_ISSUER) {
            builder.setup_single_issuer();
        }
        if self.has(Self::DEFER_TASKRUN) {
            builder.setup_defer_taskrun().setup_taskrun_flag();
        } else if self.has(Self::COOP_TASKRUN) {
            builder.setup_coop_taskrun().setup_taskrun_flag();
        }
        if self.has(Self::NO_SQARRAY) {
            builder.setup_no_sqarray();
        }
        builder.build(entries)
    }

    /// A ring with as many of these flags as the kernel takes.
    pub(crate) fn build_or_weaken(self, entries: u32) -> io::Result<(IoUring, Self)> {
        let mut flags = self;
        loop {
            match flags.build(entries) {
                Ok(ring) => return Ok((ring, flags)),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    flags = flags.weaker().ok_or(error)?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Default for RingFlags {
    /// All of them.
    fn default() -> Self {
        Self(Self::NAMES.iter().fold(0, |all, (flag, _)| all | flag))
    }
}

impl fmt::Display for RingFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Self::NAMES
            .iter()
            .filter(|(flag, _)| self.has(*flag))
            .map(|(_, name)| *name)
            .collect();
        f.write_str(if names.is_empty() {
            "no set-up flags"
        } else {
            ""
        })?;
        f.write_str(&names.join("|"))
    }
}

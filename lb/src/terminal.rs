//! What is said on standard output and standard error, other than log lines.
//!
//! Invariant: a reader that has gone away (`lb check | head -1`) is no reason to panic, as it is
//! for `println!`.
//! Read next: `log.rs` (log lines).

use std::io::{self, Write};

/// Writes text to standard output as it is.
pub(crate) fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    // Nobody is left to tell.
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}

/// Writes text to standard error as it is.
pub(crate) fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

//! Affinity: a client that comes back gets the backend it had.
//!
//! Two ways. By address or header, a shared table remembers the backend for a time. By cookie, the
//! client remembers it for us, and there is no table.
//! Invariant: whatever is remembered is checked against the snapshot in use before it is believed.
//! Read next: `table.rs` (the table), `slots.rs` (what an entry names), `cookie.rs`; for the
//! table's protocol `word.rs`, `bucket.rs`.

mod bucket;
mod cookie;
#[cfg(all(test, loom))]
mod models;
mod slots;
mod sweeper;
mod table;
mod word;

use std::io;

pub use cookie::{BackendCookies, COOKIE_LEN, CookieValue, SessionCookies};
pub use slots::Slots;
pub use sweeper::Sweeper;
pub use table::{AddressMask, AffinityTable, ENTRIES_MAX, Scope};
pub use word::{SLOTS_MAX, SlotId, Tick, Timeout};

/// A key from the operating system's source of randomness; for the control side.
///
/// # Errors
/// When the system has none, which Linux never reports once it has booted.
pub fn random_key() -> io::Result<[u8; 16]> {
    let mut key = [0; 16];
    getrandom::fill(&mut key)?;
    Ok(key)
}

//! Numbers and addresses as text, on the stack.
//!
//! Read next: `lb_core::lines`, `request.rs`, `response.rs` (users).

pub(crate) use lb_core::lines::{AddressText, DecimalText};

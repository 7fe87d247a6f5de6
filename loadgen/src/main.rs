//! The `loadgen` program.
fn main() {}

//! Any operations of clients and backends around an exchange, on the simulated network: nothing
//! panics, nobody gets bytes of others, nothing is left behind, and virtual time comes to an end.
//! What is looked at is in the simulation of `lb-l7`, which runs random operations too.
#![no_main]

#[path = "../../lb-l7/tests/simulation/operations/mod.rs"]
mod operations;
#[allow(dead_code)]
#[path = "../../lb-l7/tests/simulation/proxy.rs"]
mod proxy;
#[allow(dead_code)]
#[path = "../../lb-core/tests/simulation/seeds.rs"]
mod seeds;
#[allow(dead_code)]
#[path = "../../lb-l7/tests/simulation/wire.rs"]
mod wire;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| operations::run(input));

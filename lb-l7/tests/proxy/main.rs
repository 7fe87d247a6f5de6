//! The proxy between real sockets, on every engine that this machine offers.
//!
//! Each test runs once per engine and says by name which one it skipped. Add a test to the module
//! of its subject.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

/// What a backend is chosen by: hash keys, affinity by cookie and header, load.
mod balance;
/// Long bodies.
mod bulk;
/// What a client may rely on: framing, persistence, pipelining, forwarded fields, routing.
mod exchange;
/// Backends that refuse, hang, reset, close early or talk nonsense.
mod faults;
/// What no client may send, and what it is answered.
mod hostile;
/// Clients that leave before they have their response.
mod leaving;
/// Connections to backends, and who waits for one.
mod pool;
/// Requests, right and wrong.
mod requests;
/// Backends that die under load: what is asked again of another, and what must not be.
mod retry;
/// Slow clients, and bodies that are gathered.
mod slow;
/// More of the same, by pieces; what backends must not answer; what reaches a backend.
mod smuggling;
/// A proxy, scripted backends and a plain client.
#[allow(dead_code, reason = "shared with the tests of HTTP/2")]
mod support;
/// Connections that go on in another protocol.
mod upgrade;

//! One suite of behaviours, run on every engine: what holds on one must hold on all three.
//!
//! A behaviour is a function of an `Engine`; `on_every_engine!` makes one test per behaviour and
//! engine, named `module::engine::behaviour`. Read next: `harness.rs`.

// Engines, watchdog, child processes, connected pairs and the byte pattern that streams carry.
#[macro_use]
mod harness;

// Bytes through a healthy connection: order, half-closes, back-pressure, large sends.
mod streams;

// The end of a connection: resets, errors after close, staleness, what a drop loses or keeps.
mod endings;

// Idle connections that go to other threads.
mod moves;

// Futures dropped half way: receive, send, connect, accept, whole tasks, whole runtimes.
mod cancel;

// Connecting and listening: refusal, deadlines, addresses, ports in use.
mod connect;
mod datagrams;

// Readiness, pipes, and bytes that are spliced instead of received.
mod splices;

// Nothing left: no buffers, no descriptors; and nothing left behind after thousands of connections.
mod exhaustion;

// Sleeps, timeouts and deadlines.
mod timers;

// Spawning, aborting, panics, notifications, wakers and handles of other threads.
mod tasks;

// Chunks and buffers: the bytes that the runtime lends.
mod chunks;

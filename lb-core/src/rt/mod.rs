//! The runtime: one thread, one engine, one executor of `!Send` tasks, one timer wheel.
//!
//! Invariant: nothing in here blocks the thread but the one wait of a loop's turn; all engines
//! stand behind the same types, so protocol code is written once.
//! Read next, in this order: `net.rs`, `runtime.rs`, `task.rs`, `timer.rs`, `socket.rs`,
//! `engine.rs`, `uring.rs`, `buffer.rs`, `splice.rs`.

mod buffer;
mod clock;
mod combine;
mod context;
mod detach;
mod engine;
mod epoll;
mod net;
mod notify;
mod options;
mod pages;
mod pipe;
pub mod probe;
mod raw_addr;
mod remote;
mod ring;
mod ring_flags;
mod runtime;
pub mod sim;
mod socket;
mod splice;
mod sys;
mod task;
mod timer;
mod udp;
mod unix;
mod uring;
mod uring_input;
mod uring_output;
mod uring_poll;
pub(crate) mod words;

pub use buffer::{Buffer, Chunk};
pub use clock::{Instant, now, now_precise, wall_clock};
pub use combine::{
    Either, Elapsed, Join, Select, Timeout, join, poll_once, select, timeout, timeout_at, yield_now,
};
pub use detach::Detached;
pub use engine::EngineKind;
pub use net::{Accepted, TcpListener, TcpStream, is_own_shortage};
pub use notify::{Notified, Notify};
pub use options::{OptionError, set_free_bind, set_listen_options, try_backend_options};
pub use pipe::Pipe;
pub use remote::Handle;
pub use ring_flags::RingFlags;
pub use runtime::{Config, Runtime, Stats, stats, turns};
pub use splice::Input;
pub use sys::{ListenOptions, take_short_turns, use_small_pages};
pub use task::{TaskId, abort, panics, spawn, wake_after_turn};
pub use timer::{PreciseSleep, Sleep, TICK, sleep, sleep_until, sleep_until_precise};
pub use udp::{Datagrams, Received, UdpOptions, UdpSocket};
pub use unix::{
    Shown, UNIX_PATH_BYTES_MAX, UNIX_UNNAMED, is_unix, listen_unix, shown, unix_address, unix_path,
};

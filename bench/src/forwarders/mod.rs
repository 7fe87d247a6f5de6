//! The contestants: one TCP forwarder, written once per runtime as its users would write it.
//!
//! Invariant: all do the same work. Accept; set TCP_NODELAY; connect to the one backend; set
//! TCP_NODELAY; relay both ways until both sides ended, carrying the half-close through; one
//! task per connection, one thread, no timers. Runtimes that read into a buffer of the caller
//! get 16 KiB per direction, the size of our own lent buffers, so that all relay bulk alike.
//! Read next: `lb.rs`, then the baselines beside it.

mod lb;
mod monoio;
mod tokio;
mod tokio_uring;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use lb_core::rt::EngineKind;

/// Bytes of a relay buffer, per direction: what `lb_core::rt::Buffer` holds, and a usual size for
/// copy loops (tokio's own default is 8 KiB, monoio's 4 KiB). Small messages do not see it.
const BUFFER_BYTES: usize = lb_core::rt::Buffer::CAPACITY;

/// A runtime, with the settings it runs under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarder {
    /// `lb_core::rt` on io_uring.
    LbUring,
    /// `lb_core::rt` on epoll.
    LbEpoll,
    /// monoio as its documentation starts it.
    Monoio,
    /// monoio with the ring flags that suit it best.
    MonoioFlags,
    /// tokio-uring as its documentation starts it.
    TokioUring,
    /// tokio-uring with the ring flags that suit it best.
    TokioUringFlags,
    /// tokio's current-thread runtime on epoll.
    Tokio,
}

impl Forwarder {
    /// In the order in which a round runs them.
    pub const ALL: [Self; 7] = [
        Self::LbUring,
        Self::LbEpoll,
        Self::Monoio,
        Self::MonoioFlags,
        Self::TokioUring,
        Self::TokioUringFlags,
        Self::Tokio,
    ];

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::LbEpoll => "lb-epoll",
            Self::LbUring => "lb-uring",
            Self::Monoio => "monoio",
            Self::MonoioFlags => "monoio-flags",
            Self::Tokio => "tokio",
            Self::TokioUring => "tokio-uring",
            Self::TokioUringFlags => "tokio-uring-flags",
        }
    }

    /// Version of the runtime, as locked for this build.
    pub fn version(self) -> &'static str {
        match self {
            Self::LbEpoll | Self::LbUring => env!("CARGO_PKG_VERSION"),
            Self::Monoio | Self::MonoioFlags => locked_version("monoio"),
            Self::Tokio => locked_version("tokio"),
            Self::TokioUring | Self::TokioUringFlags => locked_version("tokio-uring"),
        }
    }

    /// The settings that make a difference, in words.
    pub fn flags(self) -> String {
        match self {
            Self::LbEpoll => "epoll".to_owned(),
            Self::LbUring => lb::ring_flags().unwrap_or_default(),
            Self::Monoio | Self::TokioUring => "no ring flags (default)".to_owned(),
            Self::MonoioFlags => monoio::BEST_FLAGS.to_owned(),
            Self::Tokio => "current_thread, epoll".to_owned(),
            Self::TokioUringFlags => tokio_uring::BEST_FLAGS.to_owned(),
        }
    }

    /// Whether it can run here.
    ///
    /// # Errors
    /// Why it cannot: it needs io_uring, which this machine refuses.
    pub fn check(self) -> Result<(), String> {
        match self {
            Self::LbEpoll | Self::Tokio => Ok(()),
            Self::LbUring
            | Self::Monoio
            | Self::MonoioFlags
            | Self::TokioUring
            | Self::TokioUringFlags => lb::ring_flags().map(drop),
        }
    }

    /// Forwards what reaches `listen` to `backend` until the process ends. `announce` learns the
    /// bound address once the listener accepts.
    ///
    /// # Errors
    /// When the runtime cannot start or the address cannot be bound; a failed connection only
    /// ends its own relay.
    pub fn serve(
        self,
        listen: SocketAddr,
        backend: SocketAddr,
        announce: impl FnOnce(SocketAddr),
    ) -> io::Result<()> {
        match self {
            Self::LbEpoll => lb::serve(EngineKind::Epoll, listen, backend, announce),
            Self::LbUring => lb::serve(EngineKind::Uring, listen, backend, announce),
            Self::Monoio => monoio::serve(false, listen, backend, announce),
            Self::MonoioFlags => monoio::serve(true, listen, backend, announce),
            Self::Tokio => tokio::serve(listen, backend, announce),
            Self::TokioUring => tokio_uring::serve(false, listen, backend, announce),
            Self::TokioUringFlags => tokio_uring::serve(true, listen, backend, announce),
        }
    }
}

impl fmt::Display for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Forwarder {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|forwarder| forwarder.name() == name)
            .ok_or_else(|| {
                let names: Vec<_> = Self::ALL.iter().map(|forwarder| forwarder.name()).collect();
                format!("unknown forwarder, known are {}", names.join(", "))
            })
    }
}

/// The version that Cargo.lock holds for `package` (its first, where there are several).
fn locked_version(package: &str) -> &'static str {
    const LOCK: &str = include_str!("../../../Cargo.lock");
    let entry = format!("name = \"{package}\"\nversion = \"");
    LOCK.split_once(&entry)
        .and_then(|(_, rest)| rest.split_once('"'))
        .map_or("unknown", |(version, _)| version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back_and_has_a_version() {
        for forwarder in Forwarder::ALL {
            assert_eq!(forwarder.name().parse(), Ok(forwarder));
            assert_ne!(forwarder.version(), "unknown", "{forwarder}");
        }
        assert!("glommio".parse::<Forwarder>().is_err());
    }
}

//! Which engine this machine offers, found out by doing what a worker will do.
//!
//! Invariant: the probe uses the very set-up, operations and buffer ring that the engine uses, so
//! what it accepts works.

use std::fmt;
use std::io;

use super::EngineKind;
use super::ring_flags::RingFlags;
use super::uring::Uring;

/// What `--engine` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// io_uring where it works, else epoll.
    #[default]
    Auto,
    /// This engine or none.
    Only(EngineKind),
}

/// The engine to run, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The engine.
    pub engine: EngineKind,
    /// Set-up flags that the kernel granted; none on epoll.
    pub flags: RingFlags,
    /// One sentence for the log: why this engine, and what would change it.
    pub reason: String,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "engine {}: {}", self.engine.name(), self.reason)
    }
}

/// Finds the engine to run.
///
/// # Errors
/// When `choice` insists on io_uring and the kernel refuses it; the text says why and what to do.
pub fn probe(choice: EngineChoice) -> Result<Probe, String> {
    let chosen = |reason: &str| Probe {
        engine: EngineKind::Epoll,
        flags: RingFlags::NONE,
        reason: reason.to_owned(),
    };
    if choice == EngineChoice::Only(EngineKind::Epoll) {
        return Ok(chosen("asked for"));
    }
    match Uring::probe() {
        Ok(flags) => Ok(Probe {
            engine: EngineKind::Uring,
            flags,
            reason: format!("io_uring works, with {flags}"),
        }),
        Err(error) => {
            let advice = explain(&error);
            if choice == EngineChoice::Auto {
                return Ok(chosen(&format!("io_uring does not work here: {advice}")));
            }
            Err(format!(
                "--engine uring: io_uring does not work here: {advice}; --engine auto runs on epoll instead"
            ))
        }
    }
}

fn explain(error: &io::Error) -> String {
    let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let disabled = sysctl.map_or(0, |text| text.trim().parse::<u32>().unwrap_or(0));
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if disabled > 0 => format!(
            "sysctl kernel.io_uring_disabled is {disabled}; `sysctl -w kernel.io_uring_disabled=0` allows it"
        ),
        Some(libc::EPERM | libc::EACCES) => "a seccomp profile or policy blocks it (Docker's and \
             containerd's default profiles do); run with a profile that allows io_uring_setup, \
             io_uring_enter and io_uring_register"
            .to_owned(),
        Some(libc::ENOSYS) => "this kernel was built without it, or a sandbox hides it".to_owned(),
        Some(libc::ENOMEM) => {
            "the locked-memory limit is too low; raise it (`ulimit -l`, LimitMEMLOCK=)".to_owned()
        }
        Some(libc::EINVAL) => "the kernel is older than Linux 6.0, which brought multishot \
             receive; a newer kernel brings it"
            .to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoll_is_always_there() {
        let probe = probe(EngineChoice::Only(EngineKind::Epoll)).expect("epoll");
        assert_eq!(probe.engine, EngineKind::Epoll);
        assert_eq!(probe.to_string(), "engine epoll: asked for");
    }

    #[test]
    fn auto_always_finds_one_and_says_why() {
        let probe = probe(EngineChoice::Auto).expect("an engine");
        assert!(!probe.reason.is_empty());
    }

    #[test]
    fn refusals_name_their_cure() {
        for (errno, word) in [
            (libc::ENOSYS, "built without"),
            (libc::ENOMEM, "ulimit -l"),
            (libc::EINVAL, "6.0"),
        ] {
            let text = explain(&io::Error::from_raw_os_error(errno));
            assert!(text.contains(word), "{text}");
        }
    }
}

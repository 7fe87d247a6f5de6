//! Which cores a thread may use.

use std::io;

use rustix::thread::{CpuSet, sched_setaffinity};

/// Pins the calling thread to core `cpu`.
///
/// # Errors
/// When there is no such core or this process may not use it.
pub(crate) fn this_thread(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut own = CpuSet::new();
    own.set(cpu);
    Ok(sched_setaffinity(None, &own)?)
}

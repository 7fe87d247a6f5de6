//! A forwarder in a process of its own, and what the kernel says about that process.
//!
//! Invariant: no child outlives the measurement: dropping [`Child`] kills it, and should the
//! parent be killed first, the kernel kills the child. Read next: `load.rs`.

use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{self, Command, Stdio};
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::{prctl, signal::Signal};
use nix::time::ClockId;
use nix::unistd::Pid;

use crate::forwarders::Forwarder;

/// A running forwarder.
#[derive(Debug)]
pub(super) struct Child {
    process: process::Child,
    address: SocketAddr,
}

impl Child {
    /// Starts `forwarder` on core `cpu` and a free port, and waits until it accepts.
    pub(super) fn start(forwarder: Forwarder, origin: SocketAddr, cpu: usize) -> io::Result<Self> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut process = Command::new(env::current_exe()?)
            .args([
                "serve",
                forwarder.name(),
                &listen.to_string(),
                &origin.to_string(),
            ])
            .args(["--cpu", &cpu.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(output) = process.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        match line.trim().parse() {
            Ok(address) => Ok(Self { process, address }),
            Err(_) => {
                let status = process.wait()?;
                Err(io::Error::other(format!("did not start ({status})")))
            }
        }
    }

    /// Where it accepts.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// CPU time of all its threads since its start, in user space and kernel. Exact but for what
    /// a running thread has used since its last scheduler tick (at most 10 ms).
    pub(super) fn cpu_time(&self) -> io::Result<Duration> {
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(self.process.id().cast_signed()))?;
        Ok(clock.now()?.into())
    }

    /// Its private anonymous memory in RAM: heap, stacks, buffers. Rings, sockets and page
    /// tables are the kernel's and not in it.
    pub(super) fn anonymous_bytes(&self) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.process.id()))?;
        anonymous_bytes(&text)
            .ok_or_else(|| io::Error::other("/proc/PID/smaps_rollup has no line `Anonymous:`"))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Either fails only if the process has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The body of the child process: says its address on standard output, then forwards.
pub(super) fn serve(
    forwarder: Forwarder,
    listen: SocketAddr,
    backend: SocketAddr,
    cpu: Option<usize>,
) -> Result<(), Box<dyn Error>> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if let Some(cpu) = cpu {
        pin(cpu)?;
    }
    forwarder.serve(listen, backend, |address| {
        println!("{address}");
        // Without a reader, nobody measures.
        let _ = io::stdout().flush();
    })?;
    Ok(())
}

/// Binds this thread, and those that it starts from now on, to one core.
pub(super) fn pin(cpu: usize) -> Result<(), Box<dyn Error>> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).map_err(|error| {
        format!("cannot run on core {cpu} ({error}); choose with --forwarder-cpu and --load-cpu")
    })?;
    Ok(())
}

fn anonymous_bytes(smaps_rollup: &str) -> Option<u64> {
    let line = smaps_rollup
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_anonymous_memory_in_bytes() {
        let text = "Private_Dirty:       116 kB\nAnonymous:           120 kB\nSwap:   0 kB\n";
        assert_eq!(anonymous_bytes(text), Some(120 * 1024));
        assert_eq!(anonymous_bytes("AnonHugePages:  0 kB\n"), None);
    }
}

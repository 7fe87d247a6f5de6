//! A thread that writes lines, so that nobody else ever waits for a slow disk or pipe.
//!
//! Invariant: handing lines over never blocks. When the writer is behind by more than its queue
//! holds, lines are dropped and counted.
//! Read next: `log.rs` and `access_log.rs` (its two users).

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use lb_core::lines::LineSink;

/// Batches of lines that may wait for the writer.
const QUEUE_BATCHES: usize = 1024;

/// Buffers that are kept to be filled again: 16 KiB each, a few for each worker.
const SPARE_BUFFERS: usize = 32;

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    File(PathBuf),
    Stderr,
    Stdout,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stderr => f.write_str("stderr"),
            Self::Stdout => f.write_str("stdout"),
        }
    }
}

/// Hands lines to the writing thread, which lives as long as the process. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LineWriter {
    sender: Sender<Message>,
    dropped: Arc<AtomicU64>,
    /// Buffers whose lines have been written.
    spare: Receiver<Vec<u8>>,
}

enum Message {
    /// Whole lines, each with its line feed.
    Lines(Vec<u8>),
    /// Another target, or the same file by its name again.
    Open(Target),
    /// Answered when everything before it has been written.
    Flush(Sender<()>),
}

impl LineWriter {
    /// Opens the target and starts the thread.
    pub(crate) fn start(name: &str, target: &Target) -> io::Result<Self> {
        let output = open(target)?;
        let (sender, receiver) = crossbeam_channel::bounded(QUEUE_BATCHES);
        let (keep, spare) = crossbeam_channel::bounded(SPARE_BUFFERS);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || write_until_closed(&receiver, output, &counter, &keep))?;
        Ok(Self {
            sender,
            dropped,
            spare,
        })
    }

    /// Hands over whole lines.
    pub(crate) fn write(&self, lines: Vec<u8>) {
        if let Err(refused) = self.sender.try_send(Message::Lines(lines)) {
            let Message::Lines(lines) = refused.into_inner() else {
                return;
            };
            self.dropped
                .fetch_add(line_count(&lines), Ordering::Relaxed);
        }
    }

    /// From here on, lines go to `target`; a file is opened anew even if it is the same, for
    /// those who move it away first. Fails, and changes nothing, if it cannot be opened.
    pub(crate) fn reopen(&self, target: &Target) -> io::Result<()> {
        open(target)?;
        // The queue empties as fast as lines are written, so a full one is waited for.
        let message = Message::Open(target.clone());
        let sent = self.sender.send_timeout(message, Duration::from_secs(1));
        sent.map_err(|_| io::Error::other("the writer is stuck"))
    }

    /// Waits until what was handed over is written, at most `timeout`.
    pub(crate) fn flush(&self, timeout: Duration) {
        let (done, written) = crossbeam_channel::bounded(1);
        if self
            .sender
            .send_timeout(Message::Flush(done), timeout)
            .is_ok()
        {
            // Late or never: the caller leaves in either case.
            let _ = written.recv_timeout(timeout);
        }
    }

    /// Lines that were not written.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl LineSink for LineWriter {
    fn write(&self, lines: Vec<u8>) -> Vec<u8> {
        Self::write(self, lines);
        self.spare.try_recv().unwrap_or_default()
    }
}

enum Output {
    File(File),
    Stderr(io::Stderr),
    Stdout(io::Stdout),
}

impl Output {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all(lines),
            Self::Stderr(stderr) => stderr.write_all(lines),
            Self::Stdout(stdout) => stdout.write_all(lines).and_then(|()| stdout.flush()),
        }
    }
}

fn open(target: &Target) -> io::Result<Output> {
    Ok(match target {
        Target::File(path) => {
            Output::File(OpenOptions::new().create(true).append(true).open(path)?)
        }
        Target::Stderr => Output::Stderr(io::stderr()),
        Target::Stdout => Output::Stdout(io::stdout()),
    })
}

fn write_until_closed(
    messages: &Receiver<Message>,
    mut output: Output,
    dropped: &AtomicU64,
    spare: &Sender<Vec<u8>>,
) {
    for message in messages {
        match message {
            Message::Lines(mut lines) => {
                if output.write(&lines).is_err() {
                    dropped.fetch_add(line_count(&lines), Ordering::Relaxed);
                }
                lines.clear();
                drop(spare.try_send(lines)); // enough are kept already if this fails
            }
            // Could be opened a moment ago; if not now, the old target stays.
            Message::Open(target) => output = open(&target).unwrap_or(output),
            // Nobody waits any more if this fails.
            Message::Flush(done) => drop(done.try_send(())),
        }
    }
}

fn line_count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_away_is_written_anew() {
        let folder = std::env::temp_dir().join(format!("lb-line-writer-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (path, moved) = (folder.join("log"), folder.join("log.1"));
        let target = Target::File(path.clone());
        let writer = LineWriter::start("test", &target).unwrap();
        writer.write(b"one\n".to_vec());
        writer.flush(Duration::from_secs(10));
        std::fs::rename(&path, &moved).unwrap();
        writer.reopen(&target).unwrap();
        writer.write(b"two\n".to_vec());
        writer.flush(Duration::from_secs(10));
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "one\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(writer.dropped(), 0);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let writer = LineWriter::start("test", &Target::File("/dev/full".into())).unwrap();
        writer.write(b"one\ntwo\n".to_vec());
        writer.flush(Duration::from_secs(10));
        assert_eq!(writer.dropped(), 2);
    }

    #[test]
    fn a_target_that_cannot_be_opened_is_an_error() {
        assert!(LineWriter::start("test", &Target::File("/no/such/folder/log".into())).is_err());
    }
}

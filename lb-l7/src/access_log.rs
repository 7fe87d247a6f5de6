//! The access log: one JSON object a line, gathered by each worker and handed over in batches.
//!
//! Invariant: a request never waits for its log line; without a log nothing is built for it.
//! Whatever a client sends, a line is one valid JSON object.
//! Read next: `exchange.rs` (who logs).

use std::cell::RefCell;
use std::fmt;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use lb_core::rt;

use crate::date::{civil_date, since_epoch};

/// Takes batches of lines from a worker: a queue to a writing thread.
pub trait LineSink {
    /// Takes whole lines, each with its line feed. Must not block: what does not fit is dropped
    /// and counted by the sink.
    fn write(&self, lines: Vec<u8>);
}

/// The access log of one worker.
pub struct AccessLog {
    sink: Box<dyn LineSink>,
    pending: RefCell<Vec<u8>>,
}

/// A line on its way: what the request says, and by and by how it went.
#[derive(Debug)]
pub(crate) struct Entry {
    client: IpAddr,
    /// The request's fields as JSON members, rendered while its head was at hand.
    request: Vec<u8>,
    pub(crate) backend: Option<String>,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    /// 0 when the client was gone before an answer.
    pub(crate) status: u16,
    /// Bytes sent to the client, heads included.
    pub(crate) sent_bytes: u64,
    pub(crate) duration: Duration,
}

impl AccessLog {
    /// Lines gather up to this, or for a second.
    const BATCH_BYTES: usize = 16 * 1024;

    /// A log whose lines go to `sink`.
    pub fn new(sink: Box<dyn LineSink>) -> Self {
        Self {
            sink,
            pending: RefCell::default(),
        }
    }

    /// Hands over what has gathered.
    pub(crate) fn flush(&self) {
        let lines = std::mem::take(&mut *self.pending.borrow_mut());
        if !lines.is_empty() {
            self.sink.write(lines);
        }
    }

    pub(crate) fn write(&self, entry: &Entry, outcome: Outcome) {
        let mut pending = self.pending.borrow_mut();
        if pending.capacity() == 0 {
            pending.reserve(Self::BATCH_BYTES + 1024);
        }
        entry.render(outcome, &mut pending);
        let full = pending.len() >= Self::BATCH_BYTES;
        drop(pending);
        if full {
            self.flush();
        }
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog")
            .field("pending", &self.pending.borrow().len())
            .finish_non_exhaustive()
    }
}

impl Entry {
    /// Of a request that was understood.
    pub(crate) fn of_request(client: IpAddr, method: &[u8], target: &[u8], host: &[u8]) -> Self {
        let mut request = Vec::with_capacity(64 + target.len() + host.len());
        for (name, value) in [("method", method), ("target", target), ("host", host)] {
            request.extend_from_slice(b",\"");
            request.extend_from_slice(name.as_bytes());
            request.extend_from_slice(b"\":");
            write_json_string(value, &mut request);
        }
        Self {
            client,
            request,
            backend: None,
        }
    }

    /// Of something that was no request.
    pub(crate) const fn of_no_request(client: IpAddr) -> Self {
        Self {
            client,
            request: Vec::new(),
            backend: None,
        }
    }

    fn render(&self, outcome: Outcome, out: &mut Vec<u8>) {
        let now = since_epoch(rt::wall_clock());
        let (year, month, day) = civil_date(now.as_secs() / 86_400);
        let second = now.as_secs() % 86_400;
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        let millis = now.subsec_millis();
        let seconds = outcome.duration.as_secs_f64();
        // Writing to a Vec does not fail.
        let _ = write!(
            out,
            "{{\"time\":\"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.\
             {millis:03}Z\",\"client\":\"{}\"",
            self.client
        );
        out.extend_from_slice(&self.request);
        let _ = write!(
            out,
            ",\"status\":{},\"sent_bytes\":{},\"seconds\":{seconds:.6}",
            outcome.status, outcome.sent_bytes
        );
        if let Some(backend) = &self.backend {
            out.extend_from_slice(b",\"backend\":");
            write_json_string(backend.as_bytes(), out);
        }
        out.extend_from_slice(b"}\n");
    }
}

/// Quotes `value`; bytes beyond printable ASCII become `\u00xx`, as in Latin-1.
fn write_json_string(value: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in value {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            _ => {
                let _ = write!(out, "\\u{byte:04x}");
            }
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    struct Kept(Rc<RefCell<Vec<u8>>>);

    impl LineSink for Kept {
        fn write(&self, lines: Vec<u8>) {
            self.0.borrow_mut().extend(lines);
        }
    }

    #[test]
    fn a_line_is_one_json_object() {
        let kept = Rc::new(RefCell::new(Vec::new()));
        let log = AccessLog::new(Box::new(Kept(Rc::clone(&kept))));
        let client = "192.0.2.1".parse().unwrap();
        let mut entry = Entry::of_request(client, b"GET", b"/a\"b\\", b"h\xe9");
        entry.backend = Some("10.0.0.1:80".to_owned());
        let duration = Duration::from_micros(1500);
        log.write(
            &entry,
            Outcome {
                status: 200,
                sent_bytes: 42,
                duration,
            },
        );
        assert!(kept.borrow().is_empty(), "lines gather first");
        log.flush();
        let line = String::from_utf8(kept.take()).unwrap();
        let (time, rest) = line.split_at(r#"{"time":"2026-11-21T05:00:00.000Z""#.len());
        assert!(
            time.starts_with(r#"{"time":"2"#) && time.ends_with("Z\""),
            "{time}"
        );
        assert_eq!(
            rest,
            concat!(
                r#","client":"192.0.2.1","method":"GET","target":"/a\"b\\","host":"h\u00e9","#,
                r#""status":200,"sent_bytes":42,"seconds":0.001500,"backend":"10.0.0.1:80"}"#,
                "\n"
            )
        );
    }
}

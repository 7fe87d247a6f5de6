//! What happened, counted on the thread on which it happened.
//!
//! Invariant: recording allocates nothing and takes no lock; whole intervals are handed over once
//! a second, and the run's totals are the sums of its intervals.
//! Read next: `gather.rs`, which adds up the threads.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::{Affinity, Datagrams, Errors, Handshakes, OfKind};
use crate::tls::Session;

/// Finest latency that is told apart, and the longest that is recorded (longer ones count as it).
const LATENCY_NS_MIN: u64 = 100;
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
/// Significant digits of a latency.
const DIGITS: u8 = 3;

/// A request that had a free connection and is later than this is a late send.
const LATE_SEND: Duration = Duration::from_millis(1);

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Connect,
    Reset,
    Timeout,
    Short,
    Status,
    BadBody,
    Body,
    Mismatch,
}

/// What happened between two points in time, on one thread or on all.
#[derive(Debug, Clone)]
pub(super) struct Interval {
    /// Latencies in nanoseconds of the requests that completed.
    pub(super) latency_ns: Histogram<u64>,
    /// Bytes received with them.
    pub(super) bytes: u64,
    /// Bytes of bulk answers as they came, their answers complete or not.
    pub(super) streamed: u64,
    /// Completed requests that took longer than the limit for delayed ones.
    pub(super) delayed: u64,
    /// The requests that failed.
    pub(super) errors: Errors,
    /// Who answered how often; one thread's only, as it is not added up.
    pub(super) origins: Vec<(Box<str>, u64)>,
}

impl Interval {
    pub(super) fn new() -> Self {
        let latency_ns = Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, DIGITS)
            .expect("constant bounds are valid");
        Self {
            latency_ns,
            bytes: 0,
            streamed: 0,
            delayed: 0,
            errors: Errors::default(),
            origins: Vec::new(),
        }
    }

    pub(super) fn completed(&self) -> u64 {
        self.latency_ns.len()
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.latency_ns
            .add(&other.latency_ns)
            .expect("all intervals have the same bounds");
        self.bytes += other.bytes;
        self.streamed += other.streamed;
        self.delayed += other.delayed;
        self.errors.add(&other.errors);
    }

    fn clear(&mut self) {
        self.latency_ns.reset();
        self.bytes = 0;
        self.streamed = 0;
        self.delayed = 0;
        self.errors = Errors::default();
    }
}

/// Who answered: an index into the names of the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OriginId(usize);

/// What is counted over the whole window.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Totals {
    /// Origins by name, with their correct answers.
    pub(super) origins: Vec<(Box<str>, u64)>,
    /// Connections opened in place of others.
    pub(super) reconnects: u64,
    /// The handshakes of these.
    pub(super) handshakes: Handshakes,
    /// Requests sent late although a connection was free.
    pub(super) late_sends: u64,
    /// The longest that a request with a free connection was sent after it was due.
    pub(super) send_lag_max: Duration,
    /// Whether clients stayed with their origins.
    pub(super) affinity: Affinity,
    /// What became of requests by their kind, where there are several.
    pub(super) kinds: BTreeMap<String, OfKind>,
    /// What became of datagrams, where such are sent.
    pub(super) datagrams: Option<Datagrams>,
}

/// Counts for one thread.
#[derive(Debug)]
pub(super) struct Recorder {
    current: Interval,
    totals: Totals,
    /// The answers of each origin that have been handed over.
    told: Vec<u64>,
    delayed_after: Duration,
    /// The origin that answered each client last, by the client's number.
    last_origins: Vec<Option<OriginId>>,
}

impl Recorder {
    /// `clients` of them are watched for affinity.
    pub(super) fn new(delayed_after: Duration, clients: usize) -> Self {
        Self {
            current: Interval::new(),
            totals: Totals::default(),
            told: Vec::new(),
            delayed_after,
            last_origins: vec![None; clients],
        }
    }

    /// The identity of the origin with this name.
    pub(super) fn origin(&mut self, name: &str) -> OriginId {
        let origins = &mut self.totals.origins;
        let known = origins.iter().position(|(known, _)| **known == *name);
        OriginId(known.unwrap_or_else(|| {
            origins.push((name.into(), 0));
            origins.len() - 1
        }))
    }

    /// Who that is.
    pub(super) fn origin_name(&self, OriginId(index): OriginId) -> &str {
        &self.totals.origins[index].0
    }

    pub(super) fn complete(&mut self, latency: Duration, bytes: u64, origin: Option<OriginId>) {
        self.complete_many(1, latency, bytes, origin);
    }

    /// `count` answers that took the same, with so many bytes each.
    pub(super) fn complete_many(
        &mut self,
        count: u64,
        latency: Duration,
        bytes: u64,
        origin: Option<OriginId>,
    ) {
        self.current
            .latency_ns
            .saturating_record_n(latency.as_nanos() as u64, count);
        self.current.bytes += bytes * count;
        if latency > self.delayed_after {
            self.current.delayed += count;
        }
        if let Some(OriginId(index)) = origin {
            self.totals.origins[index].1 += count;
        }
    }

    /// Bulk data has arrived.
    pub(super) const fn stream(&mut self, bytes: u64) {
        self.current.streamed += bytes;
    }

    /// The measured window begins: what has arrived of bulk data so far does not count.
    pub(super) const fn begin(&mut self) {
        self.current.streamed = 0;
    }

    /// Client `number` was answered by `origin`.
    pub(super) fn answered(&mut self, number: usize, origin: OriginId) {
        let Some(last) = self.last_origins.get_mut(number) else {
            return;
        };
        let affinity = &mut self.totals.affinity;
        *match *last {
            None => &mut affinity.clients,
            Some(last) if last == origin => &mut affinity.kept,
            Some(_) => &mut affinity.broken,
        } += 1;
        *last = Some(origin);
    }

    /// What became of the datagrams of one more flow.
    pub(super) fn add_datagrams(&mut self, datagrams: &Datagrams) {
        self.totals.datagrams.get_or_insert_default().add(datagrams);
    }

    pub(super) const fn fail(&mut self, failure: Failure) {
        self.fail_many(1, failure);
    }

    pub(super) const fn fail_many(&mut self, count: u64, failure: Failure) {
        let errors = &mut self.current.errors;
        *match failure {
            Failure::Connect => &mut errors.connect,
            Failure::Reset => &mut errors.reset,
            Failure::Timeout => &mut errors.timeout,
            Failure::Short => &mut errors.short,
            Failure::Status => &mut errors.status_non_2xx,
            Failure::BadBody => &mut errors.bad_body,
            Failure::Body => &mut errors.body,
            Failure::Mismatch => &mut errors.mismatch,
        } += count;
    }

    /// One of the kind `name` was answered, or failed.
    pub(super) fn of_kind(&mut self, name: &str, is_good: bool) {
        let kinds = &mut self.totals.kinds;
        if !kinds.contains_key(name) {
            kinds.insert(name.to_owned(), OfKind::default());
        }
        if let Some(kind) = kinds.get_mut(name) {
            let count = if is_good {
                &mut kind.completed
            } else {
                &mut kind.failed
            };
            *count += 1;
        }
    }

    /// A connection was opened, with this handshake if there was one.
    pub(super) const fn reconnect(&mut self, session: Option<Session>) {
        self.totals.reconnects += 1;
        let handshakes = &mut self.totals.handshakes;
        match session {
            None => {}
            Some(Session::Full) => handshakes.full += 1,
            Some(Session::Resumed) => handshakes.resumed += 1,
        }
    }

    /// A request that had a free connection was sent so long after it was due.
    pub(super) fn send_lag(&mut self, lag: Duration) {
        self.totals.late_sends += u64::from(lag > LATE_SEND);
        self.totals.send_lag_max = self.totals.send_lag_max.max(lag);
    }

    /// What happened since the last call.
    pub(super) fn take_interval(&mut self) -> Interval {
        let mut interval = self.current.clone();
        self.current.clear();
        self.told.resize(self.totals.origins.len(), 0);
        for ((name, answers), told) in self.totals.origins.iter().zip(&mut self.told) {
            interval.origins.push((name.clone(), *answers - *told));
            *told = *answers;
        }
        interval
    }

    /// What was counted over the whole window; origins that gave no correct answer left out.
    pub(super) fn take_totals(&mut self) -> Totals {
        let mut totals = std::mem::take(&mut self.totals);
        totals.origins.retain(|(_, answers)| *answers > 0);
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_hold_what_happened_since_the_last_and_add_up() {
        let mut recorder = Recorder::new(Duration::from_secs(1), 2);
        let (a, b) = (recorder.origin("a"), recorder.origin("b"));
        assert_eq!(recorder.origin("a"), a);
        recorder.complete(Duration::from_micros(100), 64, Some(a));
        recorder.fail(Failure::Short);
        let mut all = recorder.take_interval();
        assert_eq!((all.completed(), all.bytes, all.errors.short), (1, 64, 1));
        recorder.complete(Duration::from_millis(5), 64, Some(a));
        recorder.complete(Duration::from_hours(5), 64, None);
        let second = recorder.take_interval();
        assert_eq!((second.completed(), second.errors.total()), (2, 0));
        all.add(&second);
        assert_eq!(
            (all.completed(), all.bytes, all.errors.total()),
            (3, 192, 1)
        );
        let median = all.latency_ns.value_at_quantile(0.5) as f64;
        assert!((median / 5e6 - 1.0).abs() < 0.001, "{median}");
        let longest = all.latency_ns.max() as f64;
        assert!(
            (longest / LATENCY_NS_MAX as f64 - 1.0).abs() < 0.001,
            "{longest}"
        );
        assert_eq!((all.delayed, all.errors.short), (1, 1));
        for origin in [a, a, b, a] {
            recorder.answered(1, origin);
        }
        recorder.answered(2, a);
        let affinity = recorder.totals.affinity;
        assert_eq!(
            (affinity.clients, affinity.kept, affinity.broken),
            (1, 1, 2)
        );
        assert_eq!(recorder.take_totals().origins, [("a".into(), 2)]);
    }

    #[test]
    fn only_what_is_later_than_a_millisecond_is_a_late_send() {
        let mut recorder = Recorder::new(Duration::from_secs(1), 2);
        for micros in [0, 900, 1000, 1001, 7000, 30] {
            recorder.send_lag(Duration::from_micros(micros));
        }
        let totals = recorder.take_totals();
        assert_eq!(
            (totals.late_sends, totals.send_lag_max),
            (2, Duration::from_millis(7))
        );
    }
}

//! What is counted: by worker, by listener, by cluster and by backend.
//!
//! Invariant: every counter has one writing thread, so an increment is a relaxed load and a
//! relaxed store on a cache line that no other worker writes; readers add up the workers' shards.
//! Read next: `report/` (which series are exported), `text.rs` (the Prometheus text format).

mod flows;
mod http2;
mod report;
mod text;
mod tls;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;

pub use flows::{FlowCounters, FlowEnd, FlowShed};
pub use http2::Http2Counters;
pub use report::Report;
pub use text::{Family, Kind, Text};
pub use tls::{BackendTlsCounters, BackendTlsFailure, TlsCounters, TlsFailure};

use crate::plan;

/// A number that only grows, with one writing thread.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. Not a read-modify-write: two writing threads would lose counts.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(amount),
            Ordering::Relaxed,
        );
    }

    /// Adds one.
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// The count; any thread may ask.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// A number that goes up and down, never below zero, with one writing thread.
#[derive(Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces the number.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds one.
    #[inline]
    pub fn increment(&self) {
        self.set(self.get().wrapping_add(1));
    }

    /// Takes one off; each call answers an earlier [`Gauge::increment`].
    #[inline]
    pub fn decrement(&self) {
        debug_assert!(self.get() > 0, "a gauge went below zero");
        self.set(self.get().wrapping_sub(1));
    }

    /// Adds one until the guard is dropped, for a task that may be aborted at any point.
    #[inline]
    pub fn hold(&self) -> GaugeGuard<'_> {
        self.increment();
        GaugeGuard(self)
    }

    /// The number; any thread may ask.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// One unit of a [`Gauge`]; taken off again on drop.
#[derive(Debug)]
pub struct GaugeGuard<'a>(&'a Gauge);

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.decrement();
    }
}

/// How long something took, in buckets that double from 62.5 µs to 16.384 s.
#[derive(Debug, Default)]
pub struct Histogram {
    /// The last bucket takes what is above every bound.
    buckets: [Counter; Self::BUCKETS],
    sum_nanos: Counter,
}

impl Histogram {
    /// Upper bound of the first bucket: 1/16 ms, so that 1 ms is a bound too.
    const FIRST_BOUND_NANOS: u64 = 62_500;
    const BOUNDED: usize = 19;
    const BUCKETS: usize = Self::BOUNDED + 1;

    /// Counts one that took `elapsed`.
    #[inline]
    pub fn observe(&self, elapsed: Duration) {
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[Self::bucket(nanos)].increment();
        self.sum_nanos.add(nanos);
    }

    /// The first bucket whose bound is not below `nanos`.
    #[inline]
    fn bucket(nanos: u64) -> usize {
        let firsts = nanos.div_ceil(Self::FIRST_BOUND_NANOS);
        let doublings = u64::BITS - firsts.saturating_sub(1).leading_zeros();
        (doublings as usize).min(Self::BOUNDED)
    }

    fn bound_seconds(bucket: usize) -> f64 {
        (Self::FIRST_BOUND_NANOS << bucket) as f64 / 1e9
    }
}

/// One `T` for each worker, each on cache lines of its own.
#[derive(Debug)]
pub struct PerWorker<T>(Box<[CachePadded<T>]>);

impl<T: Default> PerWorker<T> {
    /// Shards for workers `0..workers`.
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| CachePadded::default()).collect())
    }
}

impl<T> PerWorker<T> {
    /// The shard that `worker` writes.
    #[inline]
    pub fn of(&self, worker: usize) -> &T {
        &self.0[worker]
    }

    /// Number of shards.
    pub fn workers(&self) -> usize {
        self.0.len()
    }

    /// The shards in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|shard| &**shard)
    }
}

/// Counters of one worker as a whole.
#[derive(Debug, Default)]
#[repr(align(128))] // as wide as `CachePadded`: two lines, for the prefetcher takes pairs
pub struct WorkerMetrics {
    /// Tasks that ended in a panic: a bug, and a connection lost.
    pub task_panics: Counter,
    /// Buffers of the runtime's pool that are lent out.
    pub buffers_in_use: Gauge,
    /// Datagrams that the kernel refused to send.
    pub datagrams_unsent: Counter,
    /// Receives of datagrams that were dropped, as too many waited already.
    pub datagrams_overflowed: Counter,
    /// Generation of the snapshot that the worker runs.
    pub config_generation: Gauge,
    /// Client connections open.
    pub connections: Gauge,
    /// Connections that the worker accepted and handed to another one, which had fewer.
    pub handed_over: Counter,
    /// Connections that other workers have handed to this one and that it has not taken yet. The
    /// only number with several writers.
    coming: AtomicU64,
}

impl WorkerMetrics {
    /// Client connections that the worker has or is about to have.
    #[inline]
    pub fn load(&self) -> u64 {
        self.connections.get() + self.coming.load(Ordering::Relaxed)
    }

    /// Another worker hands a connection to this one.
    pub fn hand(&self) {
        self.coming.fetch_add(1, Ordering::Relaxed);
    }

    /// The worker has taken a connection that was handed to it.
    pub fn taken(&self) {
        self.coming.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counters of one listener on one worker.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ListenerCounters {
    /// Client connections accepted.
    pub accepted: Counter,
    /// Client connections open.
    pub active: Gauge,
    /// Times that accepting paused because descriptors or memory ran out.
    pub accept_pauses: Counter,
    /// Bytes received from clients.
    pub received_bytes: Counter,
    /// Bytes sent to clients.
    pub sent_bytes: Counter,
    /// HTTP exchanges under way.
    pub exchanges_active: Gauge,
    /// HTTP exchanges whose client was gone before it had its response.
    pub exchanges_aborted: Counter,
    /// From the last byte of a request's head to the last byte of its response.
    pub exchange_time: Histogram,
    /// HTTP connections that went on in another protocol.
    pub upgrades: Counter,
    /// Of these, the ones that are open.
    pub upgrades_active: Gauge,
    exchanges: [Counter; StatusClass::ALL.len()],
    sessions: [Counter; SessionEnd::ALL.len()],
    refusals: [Counter; Refusal::ALL.len()],
    /// Of a UDP listener.
    pub flows: FlowCounters,
    /// Of clients that speak HTTP/2.
    pub http2: Http2Counters,
    /// Of an HTTP listener that takes TLS.
    pub tls: TlsCounters,
}

impl ListenerCounters {
    /// Counts a client connection that was closed instead of being served.
    #[cold]
    pub fn refused(&self, refusal: Refusal) {
        self.refusals[refusal as usize].increment();
    }

    /// Client connections refused for this reason.
    pub fn refusals(&self, refusal: Refusal) -> u64 {
        self.refusals[refusal as usize].get()
    }

    /// Counts an exchange that was answered with `status`.
    #[inline]
    pub fn exchange_answered(&self, status: u16) {
        self.exchanges[StatusClass::of(status) as usize].increment();
    }

    /// Counts a session that ended.
    #[inline]
    pub fn session_ended(&self, end: SessionEnd) {
        self.sessions[end as usize].increment();
    }

    /// Exchanges answered with a status of the class.
    pub fn exchanges(&self, class: StatusClass) -> u64 {
        self.exchanges[class as usize].get()
    }

    /// Sessions that ended in this way.
    pub fn sessions(&self, end: SessionEnd) -> u64 {
        self.sessions[end as usize].get()
    }
}

/// The class of an HTTP status (RFC 9110 section 15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusClass {
    /// 1xx; as a final answer only 101, a switch of protocols.
    Informational,
    /// 2xx.
    Successful,
    /// 3xx.
    Redirection,
    /// 4xx.
    ClientError,
    /// 5xx, and what is out of range.
    ServerError,
}

impl StatusClass {
    /// Every class, in the order of the numbers.
    pub const ALL: [Self; 5] = [
        Self::Informational,
        Self::Successful,
        Self::Redirection,
        Self::ClientError,
        Self::ServerError,
    ];

    /// The class of `status`.
    #[inline]
    pub fn of(status: u16) -> Self {
        match status {
            100..=199 => Self::Informational,
            200..=299 => Self::Successful,
            300..=399 => Self::Redirection,
            400..=499 => Self::ClientError,
            _ => Self::ServerError,
        }
    }

    /// As a label: `2xx`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Informational => "1xx",
            Self::Successful => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
        }
    }
}

/// Why a client connection was closed instead of being served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The listener has as many connections as it may have.
    Connections,
    /// The client is on the deny list, or not on the allow list.
    Denied,
    /// No TLS ClientHello, or a malformed one.
    Hello,
    /// No complete ClientHello in time.
    HelloTimeout,
    /// The ClientHello asks for a name or protocol that leads nowhere.
    NoRoute,
    /// No PROXY header, or a malformed one.
    Proxy,
    /// No complete PROXY header in time.
    ProxyTimeout,
    /// The queue for a backend was full.
    QueueFull,
    /// No backend had room before the queue timeout.
    QueueTimeout,
    /// More new connections a second than the listener takes.
    Rate,
    /// The client has as many connections as it may have.
    Source,
    /// The peer is no trusted proxy.
    Untrusted,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 12] = [
        Self::Connections,
        Self::Denied,
        Self::Hello,
        Self::HelloTimeout,
        Self::NoRoute,
        Self::Proxy,
        Self::ProxyTimeout,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::Rate,
        Self::Source,
        Self::Untrusted,
    ];

    /// As a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Denied => "denied",
            Self::Hello => "hello",
            Self::HelloTimeout => "hello_timeout",
            Self::NoRoute => "no_route",
            Self::Proxy => "proxy",
            Self::ProxyTimeout => "proxy_timeout",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::Rate => "rate",
            Self::Source => "source",
            Self::Untrusted => "untrusted",
        }
    }
}

/// Why a TCP session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// The client was gone before a backend was connected.
    Abandoned,
    /// It was cut: the process ended, or its backend had left the plan, and the time for that was up.
    Drained,
    /// It was older than the listener lets sessions become.
    Expired,
    /// Both sides ended their streams.
    Finished,
    /// No byte moved for the idle timeout.
    Idle,
    /// It was refused; [`Refusal`] says why.
    Refused,
    /// One side broke the connection; the other was reset.
    Reset,
    /// Descriptors, ports or memory ran out, so that no backend could be connected.
    Resources,
    /// No backend could be connected.
    Unavailable,
}

impl SessionEnd {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::Abandoned,
        Self::Drained,
        Self::Expired,
        Self::Finished,
        Self::Idle,
        Self::Refused,
        Self::Reset,
        Self::Resources,
        Self::Unavailable,
    ];

    /// As a label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Abandoned => "abandoned",
            Self::Drained => "drained",
            Self::Expired => "expired",
            Self::Finished => "finished",
            Self::Idle => "idle",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Resources => "resources",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The counters of one listener on all workers; they go on as long as a plan has a listener of
/// the name.
#[derive(Debug)]
pub struct ListenerStats {
    name: String,
    kind: ListenerKind,
    has_tls: bool,
    shards: Box<[Arc<ListenerCounters>]>,
}

impl ListenerStats {
    /// Counters for `listener`: those of `previous`, the listener of the same name in the plan
    /// before, or new ones.
    pub fn build(listener: &plan::Listener, workers: usize, previous: Option<&Self>) -> Self {
        let kind = match listener.protocol {
            plan::Protocol::Http(_) => ListenerKind::Http,
            plan::Protocol::Tcp(_) => ListenerKind::Tcp,
            plan::Protocol::Udp(_) => ListenerKind::Udp,
        };
        let shards = previous.map_or_else(
            || (0..workers).map(|_| Arc::default()).collect(),
            |previous| previous.shards.clone(),
        );
        Self {
            name: listener.name.clone(),
            kind,
            has_tls: matches!(
                &listener.protocol,
                plan::Protocol::Http(plan::Http { tls: Some(_), .. })
            ),
            shards,
        }
    }

    /// Name of the listener.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The counters that `worker` writes, for [`crate::connections::Registry::spawn`].
    pub fn shard(&self, worker: usize) -> &Arc<ListenerCounters> {
        &self.shards[worker]
    }

    /// Adds up one number over the workers.
    pub fn sum(&self, number: impl Fn(&ListenerCounters) -> u64) -> u64 {
        self.shards.iter().map(|shard| number(shard)).sum()
    }
}

/// Decides which series a listener exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ListenerKind {
    Http,
    Tcp,
    Udp,
}

/// Counters of one cluster on one worker.
#[derive(Debug, Default)]
pub struct ClusterCounters {
    /// Attempts after the first, for sessions and exchanges alike.
    pub retries: Counter,
    /// Exchanges that asked for a backend.
    pub exchanges: Counter,
    /// Retries that would have been safe, and were not made for want of budget.
    pub retries_denied: Counter,
    /// Exchanges that wait for a connection to a backend.
    pub queued: Gauge,
    /// Exchanges that had to wait for one.
    pub queue_entered: Counter,
    /// Exchanges that waited in vain, or found too many waiting.
    pub queue_failed: Counter,
    /// Sessions and exchanges that found no backend to take them.
    pub unavailable: Counter,
    /// Choices that affinity made.
    pub affinity_kept: Counter,
    /// Choices that affinity left to the scheduler, and remembered.
    pub affinity_chosen: Counter,
    /// From the start of a connection attempt to its success.
    pub connect_time: Histogram,
    /// Handshakes with its backends.
    pub tls: BackendTlsCounters,
}

/// Counters of one backend on one worker.
#[derive(Debug, Default)]
pub struct BackendCounters {
    /// Connections established, health checks not counted.
    pub connections: Counter,
    /// Connections open, idle ones in a pool included.
    pub connections_active: Gauge,
    /// Connections of HTTP being established.
    pub connecting: Gauge,
    /// Of the open ones, idle ones in the pool of HTTP.
    pub connections_idle: Gauge,
    /// Idle ones that another worker gave to this one.
    pub connections_taken: Counter,
    /// Connection attempts that failed or timed out.
    pub connect_failures: Counter,
    /// Exchanges begun.
    pub exchanges: Counter,
    /// Exchanges under way.
    pub exchanges_active: Gauge,
    /// Health checks that succeeded.
    pub checks_succeeded: Counter,
    /// Health checks that failed.
    pub checks_failed: Counter,
}

/// What the control thread counts; it is the one writer.
#[derive(Debug, Default)]
pub struct ControlMetrics {
    /// Generation of the snapshot published last.
    pub config_generation: Gauge,
    /// Changes of the configuration that were taken up.
    pub reloads_succeeded: Counter,
    /// Changes of the configuration that were refused, the running one kept.
    pub reloads_failed: Counter,
    /// 1 when the configuration read last is the one that runs, 0 when it was refused.
    pub last_reload_successful: Gauge,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histograms_bounds_are_inclusive_and_double() {
        let cases = [
            (0, 0),
            (62_500, 0),
            (62_501, 1),
            (125_000, 1),
            (1_000_000, 4),
            (1_000_001, 5),
            (16_384_000_000, 18),
            (16_384_000_001, 19),
            (u64::MAX, 19),
        ];
        for (nanos, bucket) in cases {
            assert_eq!(Histogram::bucket(nanos), bucket, "{nanos} ns");
        }
        assert_eq!(Histogram::bound_seconds(0), 0.000_062_5);
        assert_eq!(Histogram::bound_seconds(4), 0.001);
        assert_eq!(Histogram::bound_seconds(18), 16.384);
    }

    #[test]
    fn a_guard_takes_off_what_it_added() {
        let gauge = Gauge::default();
        let first = gauge.hold();
        let second = gauge.hold();
        assert_eq!(gauge.get(), 2);
        drop(first);
        assert_eq!(gauge.get(), 1);
        drop(second);
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn statuses_fall_into_classes() {
        let classes = [101, 204, 304, 499, 503, 0, 999].map(|it| StatusClass::of(it).name());
        assert_eq!(classes, ["1xx", "2xx", "3xx", "4xx", "5xx", "5xx", "5xx"]);
    }

    #[test]
    fn every_variant_has_a_counter_of_its_own() {
        let counters = ListenerCounters::default();
        for (times, end) in SessionEnd::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| counters.session_ended(end));
        }
        for (times, end) in SessionEnd::ALL.into_iter().enumerate() {
            assert_eq!(counters.sessions(end), times as u64);
        }
        for (index, class) in StatusClass::ALL.into_iter().enumerate() {
            counters.exchange_answered(100 * (index as u16 + 1));
            assert_eq!(counters.exchanges(class), 1);
        }
    }

    #[test]
    fn shards_do_not_share_a_cache_line() {
        assert_eq!(align_of::<ListenerCounters>(), 128);
        assert_eq!(align_of::<WorkerMetrics>(), 128);
        let shards = PerWorker::<Counter>::new(2);
        let address = |worker| std::ptr::from_ref(shards.of(worker)).addr();
        assert!(address(1) - address(0) >= 128);
    }

    #[test]
    fn a_listener_of_the_same_name_keeps_its_counters() {
        let mut listener = plan::Listener {
            name: "web".into(),
            address: "127.0.0.1:80".parse().unwrap(),
            edge: plan::Edge::default(),
            access_log: plan::ListenerLog::default(),
            protocol: plan::Protocol::Http(plan::Http::default()),
        };
        let before = ListenerStats::build(&listener, 2, None);
        before.shard(1).accepted.add(5);
        listener.protocol = plan::Protocol::Tcp(plan::Tcp::to("a"));
        let after = ListenerStats::build(&listener, 2, Some(&before));
        assert_eq!(after.sum(|shard| shard.accepted.get()), 5);
        assert_eq!(after.kind, ListenerKind::Tcp);
    }
}

//! Adds up what the threads report, and judges whether the generator was the bottleneck.
//!
//! Invariant: a second of the timeline is complete only when every thread has reported it.
//! Read next: `summary.rs` (the result).

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::View;
use super::config::Config;
use super::health::{CoreTimes, ThreadTimes};
use super::recorder::{Interval, Totals};
use super::summary::{Balance, GeneratorHealth, Idle, LatencyMicros, LoadMode, Second, Summary};
use super::worker::Report;

/// A thread that used more of its core than this had none left.
const THREAD_FULL: f64 = 0.95;
/// A core that was busier than this had no time left.
const CORE_FULL: f64 = 0.97;
/// With more late sends than this part, the rate was not the one that was asked for.
const LATE_SENDS_MAX: f64 = 0.01;
/// With more of the time stolen than this, every figure is in doubt.
const STEAL_MAX: f64 = 0.05;

/// What was reported so far.
#[derive(Debug)]
pub(super) struct Gathered {
    threads: usize,
    /// Seconds that some thread has not reported yet, with the number of those that have.
    pending: BTreeMap<u64, (usize, Interval)>,
    timeline: Vec<Second>,
    /// Everything within the window.
    window: Interval,
    /// The correct answers in it, by origin.
    origins: BTreeMap<String, u64>,
    /// Everything that counts, the late answers of an open loop included.
    all: Interval,
    totals: Totals,
    unanswered: u64,
    measured: Duration,
    busiest: ThreadTimes,
    cpu: Duration,
    is_partial: bool,
    timer_lag: Duration,
    idle: Idle,
}

impl Gathered {
    pub(super) fn new(threads: usize) -> Self {
        Self {
            threads,
            pending: BTreeMap::new(),
            timeline: Vec::new(),
            window: Interval::new(),
            origins: BTreeMap::new(),
            all: Interval::new(),
            totals: Totals::default(),
            unanswered: 0,
            measured: Duration::ZERO,
            busiest: ThreadTimes::default(),
            cpu: Duration::ZERO,
            is_partial: false,
            timer_lag: Duration::ZERO,
            idle: Idle::default(),
        }
    }

    /// One thread's second; the whole second, if it was the last thread to report it.
    pub(super) fn second(&mut self, t: u64, interval: Interval) -> Option<View<'_>> {
        self.window.add(&interval);
        for (name, count) in &interval.origins {
            match self.origins.get_mut(&**name) {
                Some(sum) => *sum += count,
                None => drop(self.origins.insert(name.to_string(), *count)),
            }
        }
        let (reported, sum) = match self.pending.remove(&t) {
            Some((reported, mut sum)) => {
                sum.add(&interval);
                (reported + 1, sum)
            }
            None => (1, interval),
        };
        if reported < self.threads {
            self.pending.insert(t, (reported, sum));
            return None;
        }
        self.timeline.push(Second {
            t,
            completed: sum.completed(),
            errors: sum.errors.total(),
            delayed: sum.delayed,
            p50_us: micros(&sum.latency_ns, 0.5),
            p99_us: micros(&sum.latency_ns, 0.99),
        });
        Some(View {
            second: self.timeline.last()?,
            p90_us: micros(&sum.latency_ns, 0.9),
            p999_us: micros(&sum.latency_ns, 0.999),
            errors: &self.window.errors,
            origins: &self.origins,
        })
    }

    /// One thread's report at its end.
    pub(super) fn report(&mut self, report: Report) {
        self.all.add(&report.late);
        self.unanswered += report.unanswered;
        self.measured = self.measured.max(report.measured);
        self.cpu += report.times.running;
        self.busiest.running = self.busiest.running.max(report.times.running);
        self.busiest.waiting = self.busiest.waiting.max(report.times.waiting);
        self.totals.add(report.totals);
        self.is_partial |= report.is_partial;
        self.timer_lag = self.timer_lag.max(report.timer_lag);
        self.idle.held += report.idle.held;
        self.idle.lost += report.idle.lost;
    }

    pub(super) fn summary(
        mut self,
        config: &Config,
        cores: Option<(&CoreTimes, &CoreTimes)>,
    ) -> Summary {
        self.all.add(&self.window);
        let seconds = self.measured.as_secs_f64();
        let per_second = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
        let latency = &self.all.latency_ns;
        let mut health = GeneratorHealth {
            cpu_fraction: per_second(self.busiest.running.as_secs_f64()),
            cpu_s: self.cpu.as_secs_f64(),
            wait_fraction: per_second(self.busiest.waiting.as_secs_f64()),
            late_sends: self.totals.late_sends,
            max_send_lag_us: self.totals.send_lag_max.as_secs_f64() * 1e6,
            max_timer_lag_us: self.timer_lag.as_secs_f64() * 1e6,
            ..GeneratorHealth::default()
        };
        if let Some((before, after)) = cores {
            let pinned: Option<Vec<usize>> = config
                .cpu
                .map(|first| (first..first + config.threads).collect());
            health.core_busy_fraction = after.busy_fraction(before, pinned.as_deref());
            health.steal_fraction = after.steal_fraction(before);
        }
        let requests = self.all.completed() + self.all.errors.total() + self.unanswered;
        judge(&mut health, config, requests);
        let per_origin: BTreeMap<String, u64> = self
            .totals
            .origins
            .into_iter()
            .map(|(name, count)| (name.into(), count))
            .collect();
        Summary {
            url: config.url.text.clone(),
            mode: config.mode,
            connections: config.connections,
            threads: config.threads,
            engine: config.engine.name().to_owned(),
            new_connections: config.new_connections,
            is_partial: self.is_partial,
            duration_s: seconds,
            completed: self.all.completed(),
            rate_per_s: per_second(self.window.completed() as f64),
            bytes_received: self.all.bytes,
            errors: self.all.errors,
            unanswered: self.unanswered,
            reconnects: self.totals.reconnects,
            idle: (config.idle > 0).then_some(self.idle),
            handshakes: config
                .url
                .scheme
                .is_secure()
                .then_some(self.totals.handshakes),
            latency_us: latencies(latency),
            histogram: latency
                .iter_recorded()
                .map(|step| (step.value_iterated_to() as f64 / 1e3, step.count_at_value()))
                .collect(),
            balance: balance(&per_origin),
            streamed_bytes: self.window.streamed,
            datagrams: self.totals.datagrams,
            affinity: config
                .sources
                .is_some()
                .then_some(self.totals.affinity)
                .filter(|affinity| affinity.clients > 0),
            per_origin,
            per_kind: self.totals.kinds.into_iter().collect(),
            generator: health,
            timeline: self.timeline,
        }
    }
}

impl Totals {
    fn add(&mut self, other: Self) {
        for (name, count) in other.origins {
            match self.origins.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += count,
                None => self.origins.push((name, count)),
            }
        }
        self.reconnects += other.reconnects;
        self.handshakes.add(&other.handshakes);
        for (name, kind) in other.kinds {
            let sum = self.kinds.entry(name).or_default();
            sum.completed += kind.completed;
            sum.failed += kind.failed;
        }
        self.late_sends += other.late_sends;
        self.send_lag_max = self.send_lag_max.max(other.send_lag_max);
        self.affinity.add(&other.affinity);
        if let Some(datagrams) = other.datagrams {
            self.datagrams.get_or_insert_default().add(&datagrams);
        }
    }
}

fn judge(health: &mut GeneratorHealth, config: &Config, requests: u64) {
    let mut reasons = Vec::new();
    let percent = |fraction: f64| format!("{:.0} %", fraction * 100.0);
    if health.cpu_fraction > THREAD_FULL {
        reasons.push(format!(
            "a generator thread used {} of a core; give it more --threads",
            percent(health.cpu_fraction)
        ));
    } else if health.core_busy_fraction > CORE_FULL {
        let place = if config.cpu.is_some() {
            "its core"
        } else {
            "the machine"
        };
        reasons.push(format!(
            "{place} was {} busy, the generator with {} of a core",
            percent(health.core_busy_fraction),
            percent(health.cpu_fraction)
        ));
    }
    let is_open = config.mode != LoadMode::Closed;
    if is_open && health.late_sends as f64 > requests as f64 * LATE_SENDS_MAX {
        reasons.push(format!(
            "{} of {requests} requests were sent more than 1 ms late although a connection was free",
            health.late_sends
        ));
    }
    if health.steal_fraction > STEAL_MAX {
        reasons.push(format!(
            "the hypervisor took {} of the time",
            percent(health.steal_fraction)
        ));
    }
    health.saturated = !reasons.is_empty();
    health.reason = reasons.join("; ");
}

fn balance(per_origin: &BTreeMap<String, u64>) -> Option<Balance> {
    if per_origin.len() < 2 {
        return None;
    }
    let mean = per_origin.values().sum::<u64>() as f64 / per_origin.len() as f64;
    let busiest = per_origin.values().max().copied().unwrap_or(0);
    Some(Balance {
        max_over_mean: busiest as f64 / mean,
        chi_square: per_origin
            .values()
            .map(|count| (*count as f64 - mean).powi(2) / mean)
            .sum(),
        degrees_of_freedom: per_origin.len() as u64 - 1,
    })
}

fn latencies(latency_ns: &Histogram<u64>) -> LatencyMicros {
    if latency_ns.is_empty() {
        return LatencyMicros::default();
    }
    LatencyMicros {
        min: latency_ns.min() as f64 / 1e3,
        p50: micros(latency_ns, 0.5),
        p90: micros(latency_ns, 0.9),
        p99: micros(latency_ns, 0.99),
        p999: micros(latency_ns, 0.999),
        max: latency_ns.max() as f64 / 1e3,
        mean: latency_ns.mean() / 1e3,
    }
}

fn micros(latency_ns: &Histogram<u64>, quantile: f64) -> f64 {
    latency_ns.value_at_quantile(quantile) as f64 / 1e3
}

//! A generator thread for `udp://`: its flows, in one loop around `epoll_wait(2)`.
//!
//! Invariant: due times and counting are those of every other scheme (`schedule.rs`,
//! `recorder.rs`); only the way to send differs. An open loop sends what is due whatever is
//! under way: there is no connection to wait for.
//! Read next: `flow.rs` (one client).

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use lb_core::rt::{self, Instant};
use rustix::event::{Timespec, epoll};

use super::Idle;
use super::flow::Flow;
use super::health::ThreadTimes;
use super::recorder::{Failure, Recorder};
use super::schedule::Schedule;
use super::sources::{Clients, Sources};
use super::worker::{Event, Job, Report};
use crate::pin;
use crate::tcp::SplitMix64;

const SECOND: Duration = Duration::from_secs(1);
/// How often flows are searched for what has waited too long, and gates are looked at.
const SWEEP: Duration = Duration::from_millis(10);
/// How often a report that does not come is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// A flow that was refused rests this long; a closed loop would spin.
const REST: Duration = Duration::from_millis(10);
/// Descriptors reported at a time.
const EVENTS: usize = 256;

/// Runs a generator thread to its end.
pub(super) fn run(job: &Job) {
    let generator = Generator::open(job);
    let mut generator = match generator {
        Ok(generator) => generator,
        Err(error) => return job.report(Event::Failed(error)),
    };
    let refused = generator.greet();
    job.report(Event::Connected {
        open: if refused.is_some() {
            0
        } else {
            generator.flows.len()
        },
        error: refused,
    });
    while !job.go.is_open() {
        if job.cancel.is_open() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    generator.start();
    if let Some(report) = generator.measure() {
        job.report(Event::Done(Box::new(report)));
    }
}

/// A thread's flows and what it counts.
struct Generator<'job> {
    job: &'job Job,
    flows: Vec<Flow>,
    /// The client that each flow is.
    clients: Vec<usize>,
    epoll: OwnedFd,
    schedule: Schedule,
    recorder: Recorder,
    /// Open loop: when the next datagram is due, and whose it is.
    next_due: Option<Instant>,
    next_flow: usize,
    /// Flows that were refused, with the end of their rest.
    resting: VecDeque<(Instant, usize)>,
    next_sweep: Instant,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// Flows that can be read.
    ready: Vec<epoll::Event>,
}

impl<'job> Generator<'job> {
    fn open(job: &'job Job) -> io::Result<Self> {
        let config = &*job.config;
        if let Some(first) = config.cpu {
            pin::this_thread(first + job.thread)?;
        }
        let mut random = SplitMix64::new(rt::now_precise().as_nanos() ^ (job.thread as u64) << 56);
        let mut chosen = config
            .sources
            .map(|sources| Clients::new(sources, job.thread, config.threads));
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (mut flows, mut clients) = (Vec::new(), Vec::new());
        for _ in (job.thread..config.connections).step_by(config.threads) {
            let client = chosen.as_mut().map(Clients::next);
            let source_address = client.map(Sources::address);
            let flow = Flow::open(job.address, source_address, random.next_u64(), &config.udp)?;
            let data = epoll::EventData::new_u64(flows.len() as u64);
            epoll::add(&epoll, flow.descriptor(), data, epoll::EventFlags::IN)?;
            flows.push(flow);
            clients.push(client.unwrap_or(usize::MAX));
        }
        let watched = config.sources.map_or(0, |sources| sources.count);
        Ok(Self {
            flows,
            clients,
            epoll,
            schedule: job.schedule(),
            recorder: Recorder::new(config.delayed_after, watched),
            next_due: None,
            next_flow: 0,
            resting: VecDeque::new(),
            next_sweep: rt::now_precise(),
            outgoing: Vec::new(),
            incoming: vec![0; usize::from(u16::MAX)],
            ready: Vec::with_capacity(EVENTS),
            job,
        })
    }

    /// Whether anybody is there: one datagram on a socket of its own. No answer within a sweep
    /// says nothing (the sink may be slow), a refusal does.
    fn greet(&mut self) -> Option<io::Error> {
        let config = &self.job.config;
        let mut greet = || {
            let mut flow = Flow::open(self.job.address, None, 0, &config.udp)?;
            let now = rt::now_precise();
            flow.send(1, now, now, &mut self.outgoing)?;
            thread::sleep(SWEEP);
            flow.receive(&mut self.incoming).map(drop)
        };
        match greet() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Some(error),
            _ => None,
        }
    }

    /// Begins the schedule, which must not begin before all threads are ready.
    fn start(&mut self) {
        self.schedule = self.job.schedule();
        if self.schedule.is_open_loop() {
            self.next_due = self.schedule.claim(rt::now_precise()).map(|(due, _)| due);
        } else {
            for flow in 0..self.flows.len() {
                self.fill_window(flow);
            }
        }
    }

    /// Follows the measured window and what comes after it; `None` if the run was cancelled
    /// before it began.
    fn measure(&mut self) -> Option<Report> {
        let (from, end) = (self.schedule.measure_from(), self.schedule.end());
        if !self.run_until(from) {
            return None;
        }
        self.job.report(Event::Measuring);
        let (began, times) = (rt::now_precise(), ThreadTimes::read());
        let (mut is_whole, mut timer_lag) = (true, Duration::ZERO);
        for second in 0.. {
            let until = end.min(from + SECOND * (second + 1));
            is_whole = self.run_until(until);
            timer_lag = timer_lag.max(rt::now_precise().saturating_duration_since(until));
            let interval = Box::new(self.recorder.take_interval());
            self.job.report(Event::Second(u64::from(second), interval));
            if until == end || !is_whole {
                break;
            }
        }
        let times = ThreadTimes::read().since(times);
        let measured = rt::now_precise().saturating_duration_since(began);
        self.job.report(Event::Ended);
        if is_whole {
            self.work_off(end + self.job.config.timeout);
        }
        self.count_datagrams(is_whole);
        Some(Report {
            late: self.recorder.take_interval(),
            totals: self.recorder.take_totals(),
            unanswered: 0,
            measured,
            times,
            is_partial: !is_whole,
            timer_lag,
            idle: Idle::default(),
        })
    }

    fn count_datagrams(&mut self, is_whole: bool) {
        let one_way = self.job.config.udp.one_way;
        for flow in 0..self.flows.len() {
            let datagrams = self.flows[flow].datagrams();
            self.recorder.add_datagrams(&datagrams);
            if one_way && is_whole {
                self.recorder.fail_many(datagrams.lost, Failure::Timeout);
            }
            while let Some(due) = self.flows[flow].give_up()
                && is_whole
                && !one_way
            {
                self.fail(due, Failure::Timeout);
            }
        }
    }

    /// Sends and receives until `until`; false if the run was cancelled before.
    fn run_until(&mut self, until: Instant) -> bool {
        loop {
            let now = rt::now_precise();
            if now >= until {
                return true;
            }
            if !self.turn(now, until) {
                return false;
            }
        }
    }

    /// Waits for what is still to come: answers, and reports on all that was sent.
    fn work_off(&mut self, deadline: Instant) {
        let one_way = self.job.config.udp.one_way;
        let mut ask_at = rt::now_precise() + ASK_AGAIN;
        loop {
            let now = rt::now_precise();
            let is_done = if one_way {
                self.flows.iter().all(Flow::is_reported)
            } else {
                !self.flows.iter().any(Flow::is_waiting)
            };
            if is_done || now >= deadline {
                return;
            }
            if one_way && now >= ask_at {
                ask_at = now + ASK_AGAIN;
                for flow in self.flows.iter_mut().filter(|flow| !flow.is_reported()) {
                    // A refusal is asked again, like silence.
                    let _ = flow.ask(now, &mut self.outgoing);
                }
            }
            if !self.turn(now, deadline.min(now + SWEEP)) {
                return;
            }
        }
    }

    /// Sends what is due, waits for input or what is next, takes the input in; false if the run
    /// was cancelled.
    fn turn(&mut self, now: Instant, until: Instant) -> bool {
        self.send_due(now);
        if now >= self.next_sweep {
            if self.job.cancel.is_open() {
                return false;
            }
            self.sweep(now);
            self.next_sweep = now + SWEEP;
        }
        let wake = until
            .min(self.next_sweep)
            .min(self.next_due.unwrap_or(until));
        let wait = wake.saturating_duration_since(rt::now_precise());
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: wait.min(SWEEP).as_nanos() as i64,
        };
        self.ready.clear();
        let waited = epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.ready),
            Some(&timeout),
        );
        if waited.is_ok() {
            for place in 0..self.ready.len() {
                let flow = self.ready[place].data.u64() as usize;
                self.receive(flow);
            }
        }
        true
    }

    /// Open loop: what is due by `now`, flow after flow.
    fn send_due(&mut self, now: Instant) {
        while let Some(due) = self.next_due.filter(|due| *due <= now) {
            let flow = self.next_flow;
            self.next_flow = (flow + 1) % self.flows.len();
            self.recorder_lag(due, now);
            self.send(flow, 1, due);
            self.next_due = self.schedule.claim(now).map(|(due, _)| due);
        }
    }

    fn recorder_lag(&mut self, due: Instant, now: Instant) {
        if due >= self.schedule.measure_from() {
            self.recorder.send_lag(now.saturating_duration_since(due));
        }
    }

    /// Closed loop: as much as the flow's window has room for.
    fn fill_window(&mut self, flow: usize) {
        let mut room = self.flows[flow].room();
        while room > 0
            && let Some((due, _)) = self.schedule.claim(rt::now_precise())
        {
            match self.send(flow, room, due) {
                Some(sent) => room = room.saturating_sub(sent),
                None => return,
            }
        }
    }

    /// Sends up to `count` datagrams; how many, or `None` if that failed and the flow rests.
    fn send(&mut self, flow: usize, count: usize, due: Instant) -> Option<usize> {
        let now = rt::now_precise();
        match self.flows[flow].send(count, due, now, &mut self.outgoing) {
            Ok(sent) => Some(sent),
            Err(_) => {
                self.fail(due, Failure::Reset);
                self.rest(flow, now);
                None
            }
        }
    }

    fn rest(&mut self, flow: usize, now: Instant) {
        if !self.schedule.is_open_loop() {
            self.resting.push_back((now + REST, flow));
        }
    }

    fn receive(&mut self, flow: usize) {
        let received = self.flows[flow].receive(&mut self.incoming);
        let now = rt::now_precise();
        match received {
            Ok(Some(received)) => {
                if self.schedule.counts(received.due, now) {
                    let origin = received.origin.map(|name| self.recorder.origin(name));
                    let latency = now.saturating_duration_since(received.due);
                    self.recorder.complete_many(
                        received.datagrams,
                        latency,
                        received.bytes,
                        origin,
                    );
                    if let Some(origin) = origin {
                        self.recorder.answered(self.clients[flow], origin);
                    }
                }
                if !self.schedule.is_open_loop() {
                    self.fill_window(flow);
                }
            }
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => {
                // Refused: nobody listens where the oldest one went.
                if let Some(due) = self.flows[flow].give_up() {
                    self.fail(due, Failure::Reset);
                }
                self.rest(flow, now);
            }
        }
    }

    /// Gives up what has waited too long, and wakes flows that have rested.
    fn sweep(&mut self, now: Instant) {
        let timeout = u64::try_from(self.job.config.timeout.as_nanos()).unwrap_or(u64::MAX);
        let is_open_loop = self.schedule.is_open_loop();
        if let Some(since) = now.as_nanos().checked_sub(timeout) {
            let since = Instant::default() + Duration::from_nanos(since);
            for flow in 0..self.flows.len() {
                let mut gave_up = false;
                while let Some(due) = self.flows[flow].expire(since) {
                    gave_up = true;
                    if !self.job.config.udp.one_way {
                        self.fail(due, Failure::Timeout);
                    }
                }
                if gave_up && !is_open_loop {
                    self.fill_window(flow);
                }
            }
        }
        while let Some((_, flow)) = self.resting.pop_front_if(|(end, _)| *end <= now) {
            self.fill_window(flow);
        }
    }

    fn fail(&mut self, due: Instant, failure: Failure) {
        if self.schedule.counts(due, rt::now_precise()) {
            self.recorder.fail(failure);
        }
    }
}

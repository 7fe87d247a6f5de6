//! One generator thread: opens its connections, sends what its schedule says, reports.
//!
//! Invariant: the send loop is the same for every schedule; whatever is counted is counted here,
//! and handed to the controlling thread once a second.
//! Read next: `connection.rs` (a request), `mod.rs` (the controlling thread).

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use lb_core::rt::{self, Either, Instant, Notify, Runtime};

use super::config::Config;
use super::connection::{Client, Connection, Place};
use super::health::ThreadTimes;
use super::recorder::{Failure, Interval, Totals};
use super::schedule::{Arrivals, Pace, Schedule};
use super::{Idle, LoadMode};
use crate::gate::Gate;
use crate::tcp::SplitMix64;

/// Connections that a thread opens at a time, so that a thousand do not overrun a listen queue.
const OPENING_MAX: usize = 128;

const SECOND: Duration = Duration::from_secs(1);

/// What a thread is to do.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) config: Arc<Config>,
    pub(super) address: SocketAddr,
    /// Number of this thread.
    pub(super) thread: usize,
    /// Opens when every thread has its connections.
    pub(super) go: Arc<Gate>,
    /// Opens when the run is to end early.
    pub(super) cancel: Arc<Gate>,
    pub(super) events: Sender<Event>,
}

/// What a thread tells the controlling thread.
#[derive(Debug)]
pub(super) enum Event {
    /// The thread could not start.
    Failed(io::Error),
    /// It has tried to open its connections.
    Connected {
        /// How many are open.
        open: usize,
        /// Why the first one that is not failed.
        error: Option<io::Error>,
    },
    /// The measured window has begun.
    Measuring,
    /// A second of the window is over, or the window itself within one.
    Second(u64, Box<Interval>),
    /// The measured window is over.
    Ended,
    /// The thread is done.
    Done(Box<Report>),
}

/// What a thread counted beyond the seconds of the window.
#[derive(Debug)]
pub(super) struct Report {
    /// Answers that came after the window's end.
    pub(super) late: Interval,
    pub(super) totals: Totals,
    /// Requests due in the window that have neither succeeded nor failed.
    pub(super) unanswered: u64,
    /// Length of the window.
    pub(super) measured: Duration,
    /// CPU time used and waited for within it.
    pub(super) times: ThreadTimes,
    /// The run was interrupted before its end.
    pub(super) is_partial: bool,
    /// The most by which a second of the window ended late on this thread.
    pub(super) timer_lag: Duration,
    /// Connections on which nothing happened.
    pub(super) idle: Idle,
}

/// Runs a generator thread to its end.
pub(super) fn run(job: &Job) {
    let config = rt::Config {
        engine: job.config.engine,
        cpu: job.config.cpu.map(|first| first + job.thread),
        ..rt::Config::default()
    };
    match Runtime::new(&config) {
        Ok(mut runtime) => {
            let ended = runtime.block_on(connect_and_measure(job));
            if let Err(error) = ended {
                job.report(Event::Failed(error));
            }
        }
        Err(error) => job.report(Event::Failed(error)),
    }
}

async fn connect_and_measure(job: &Job) -> io::Result<()> {
    let client = Rc::new(Client::new(&job.config, job.address, job.thread)?);
    let connect = async {
        let connections = Opening::open_all(job, &client).await;
        let idle = Opening::open_each(&client, job.idle_places().collect()).await;
        Idle::of(&idle).await;
        job.report(Event::Connected {
            open: connections
                .iter()
                .filter(|connection| connection.is_open())
                .count(),
            error: client.connect_error.take(),
        });
        job.go.opened().await;
        (connections, idle)
    };
    let connected = rt::select(connect, job.cancel.opened()).await;
    let Either::First((connections, idle)) = connected else {
        return Ok(());
    };
    let worker = Rc::new(Worker::new(job, client));
    for (place, connection) in connections.into_iter().enumerate() {
        rt::spawn(Rc::clone(&worker).send_loop(connection, job.start_of(place)));
    }
    if let Some(mut report) = worker.measure(job).await {
        report.idle = Idle::of(&idle).await;
        job.report(Event::Done(Box::new(report)));
    }
    Ok(())
}

impl Idle {
    async fn of(connections: &[Connection]) -> Self {
        let mut idle = Self::default();
        for connection in connections {
            if connection.is_held().await {
                idle.held += 1;
            } else {
                idle.lost += 1;
            }
        }
        idle
    }
}

impl Job {
    /// This thread's connections on which nothing is to happen.
    fn idle_places(&self) -> impl Iterator<Item = Connection> {
        let Config {
            connections,
            streams,
            threads,
            idle,
            ..
        } = *self.config;
        let places = (self.thread..idle).step_by(threads);
        places.map(move |number| Connection::new((connections + number) * streams, Rc::default()))
    }

    /// How long after the start the connection at `place` of this thread begins.
    fn start_of(&self, place: usize) -> Duration {
        let Config {
            connections,
            streams,
            threads,
            ramp_up,
            ..
        } = *self.config;
        let number = self.thread + place / streams * threads;
        ramp_up.mul_f64(number as f64 / connections as f64)
    }

    pub(super) fn report(&self, event: Event) {
        // The controlling thread hangs up only when it has given up.
        let _ = self.events.send(event);
    }

    /// This thread's share of the schedule, beginning now.
    pub(super) fn schedule(&self) -> Schedule {
        let Config {
            mode,
            threads,
            warm_up,
            duration,
            ..
        } = *self.config;
        let seconds = (warm_up + duration).as_secs_f64();
        let arrivals = match mode {
            LoadMode::Closed => None,
            LoadMode::Open { rate_per_s } => Some(Arrivals::Even { per_s: rate_per_s }),
            LoadMode::Poisson { rate_per_s } => {
                let mut random = SplitMix64::new(self.thread as u64);
                let per_s = rate_per_s / threads as f64;
                Some(Arrivals::Poisson {
                    next_s: -random.next_unit().ln() / per_s,
                    per_s,
                    random,
                })
            }
            LoadMode::Ramp {
                from_per_s,
                to_per_s,
            } => Some(Arrivals::Ramp {
                from: from_per_s,
                to: to_per_s,
                seconds,
            }),
            LoadMode::Steps {
                from_per_s,
                to_per_s,
                steps,
            } => Some(Arrivals::Stairs {
                from: from_per_s,
                to: to_per_s,
                steps,
                seconds,
            }),
            LoadMode::Replay { .. } => {
                let replay = self.config.replay.as_ref();
                Some(Arrivals::Listed(replay.map_or_else(
                    || Arc::from([]),
                    |replay| Arc::clone(&replay.times),
                )))
            }
        };
        let pace = arrivals.map_or(Pace::Closed, |arrivals| Pace::Open {
            arrivals,
            thread: self.thread as u64,
            threads: threads as u64,
        });
        Schedule::new(pace, rt::now_precise(), warm_up, duration)
    }

    /// Waits until `at`; false if the run was cancelled before.
    async fn slept_until(&self, at: Instant) -> bool {
        let slept = rt::select(rt::sleep_until_precise(at), self.cancel.opened()).await;
        slept == Either::First(())
    }
}

/// The connections of a thread while they are being opened.
#[derive(Default)]
struct Opening {
    under_way: Cell<usize>,
    tried: RefCell<Vec<Connection>>,
    one_tried: Notify,
}

impl Opening {
    /// Opens this thread's share of the connections; if each request opens its own, none yet, and
    /// only the first if they are to begin one after the other.
    async fn open_all(job: &Job, client: &Rc<Client>) -> Vec<Connection> {
        let Config {
            connections,
            threads,
            new_connections,
            streams,
            ramp_up,
            ..
        } = *job.config;
        let places = (job.thread..connections)
            .step_by(threads)
            .flat_map(|number| {
                let place = Rc::new(Place::default());
                let shared =
                    move |stream| Connection::new(number * streams + stream, Rc::clone(&place));
                (0..streams).map(shared)
            });
        let mut places: Vec<Connection> = places.collect();
        if new_connections {
            return places;
        }
        let later = places.split_off(if ramp_up.is_zero() {
            places.len()
        } else {
            streams
        });
        let mut connections = Self::open_each(client, places).await;
        connections.extend(later);
        connections
    }

    /// Opens these, or tries to.
    async fn open_each(client: &Rc<Client>, places: Vec<Connection>) -> Vec<Connection> {
        let opening = Rc::new(Self::default());
        for connection in places {
            opening.wait_for_fewer_than(OPENING_MAX).await;
            opening.under_way.set(opening.under_way.get() + 1);
            rt::spawn(Rc::clone(&opening).open(Rc::clone(client), connection));
        }
        opening.wait_for_fewer_than(1).await;
        opening.tried.take()
    }

    async fn wait_for_fewer_than(&self, limit: usize) {
        while self.under_way.get() >= limit {
            self.one_tried.notified().await;
        }
    }

    async fn open(self: Rc<Self>, client: Rc<Client>, mut connection: Connection) {
        // One that fails is tried again when a request is due for it, and counted then.
        let _ = client.open(&mut connection).await;
        connection.begin();
        self.tried.borrow_mut().push(connection);
        self.under_way.set(self.under_way.get() - 1);
        self.one_tried.notify();
    }
}

/// A thread whose schedule runs.
struct Worker {
    client: Rc<Client>,
    schedule: RefCell<Schedule>,
    /// Requests that have succeeded or failed, the warm-up's included.
    finished: Cell<u64>,
    /// Connections for which no further request is due: kept open until the end.
    resting: RefCell<Vec<Connection>>,
}

impl Worker {
    fn new(job: &Job, client: Rc<Client>) -> Self {
        Self {
            client,
            schedule: RefCell::new(job.schedule()),
            finished: Cell::new(0),
            resting: RefCell::new(Vec::new()),
        }
    }

    /// Makes one request after the other on `connection`, which begins after `wait`.
    async fn send_loop(self: Rc<Self>, mut connection: Connection, wait: Duration) {
        if !wait.is_zero() {
            rt::sleep(wait).await;
            // One that fails is tried again when a request is due for it, and counted then.
            let _ = self.client.open(&mut connection).await;
            connection.begin();
        }
        while let Some((due, number)) = self.next_due().await {
            let counts = |now| self.schedule.borrow().counts(due, now);
            let result = self
                .client
                .request(&mut connection, due, number, counts)
                .await;
            self.finished.set(self.finished.get() + 1);
            if let Some(think) = connection
                .think()
                .filter(|_| !self.schedule.borrow().is_open_loop())
            {
                rt::sleep_until_precise(rt::now_precise() + think).await;
            }
            if result == Err(Failure::Connect) && !self.schedule.borrow().is_open_loop() {
                // A closed loop would spin on a server that refuses.
                rt::sleep(rt::TICK).await;
            }
        }
        self.resting.borrow_mut().push(connection);
    }

    /// Claims the next request and waits until it is due.
    async fn next_due(&self) -> Option<(Instant, u64)> {
        let now = rt::now_precise();
        let (due, number) = self.schedule.borrow_mut().claim(now)?;
        if due > now {
            rt::sleep_until_precise(due).await;
            let lag = rt::now_precise().saturating_duration_since(due);
            if due >= self.schedule.borrow().measure_from() {
                self.client.recorder.borrow_mut().send_lag(lag);
            }
        }
        Some((due, number))
    }

    /// Follows the measured window, and an open loop until what was due in it is answered.
    /// `None` if the run was cancelled before the window began.
    async fn measure(&self, job: &Job) -> Option<Report> {
        let (from, end) = {
            let schedule = self.schedule.borrow();
            (schedule.measure_from(), schedule.end())
        };
        if !job.slept_until(from).await {
            return None;
        }
        self.client.recorder.borrow_mut().begin();
        job.report(Event::Measuring);
        let (began, times) = (rt::now_precise(), ThreadTimes::read());
        let (mut is_whole, mut timer_lag) = (true, Duration::ZERO);
        for second in 0.. {
            let until = end.min(from + SECOND * (second + 1));
            is_whole = job.slept_until(until).await;
            timer_lag = timer_lag.max(rt::now_precise().saturating_duration_since(until));
            let interval = self.client.recorder.borrow_mut().take_interval();
            job.report(Event::Second(u64::from(second), Box::new(interval)));
            if until == end || !is_whole {
                break;
            }
        }
        let times = ThreadTimes::read().since(times);
        let measured = rt::now_precise().saturating_duration_since(began);
        job.report(Event::Ended);
        // What was under way when somebody cancelled is neither here nor there.
        let unanswered = if is_whole {
            self.work_off(end + job.config.timeout).await
        } else {
            0
        };
        let mut recorder = self.client.recorder.borrow_mut();
        let (late, totals) = (recorder.take_interval(), recorder.take_totals());
        Some(Report {
            late,
            totals,
            unanswered,
            measured,
            times,
            is_partial: !is_whole,
            timer_lag,
            idle: Idle::default(),
        })
    }

    /// Waits until everything that was due has succeeded or failed, or the time is over; how much
    /// has not.
    async fn work_off(&self, deadline: Instant) -> u64 {
        let due = self.schedule.borrow().due_in_all();
        loop {
            let unanswered = due.saturating_sub(self.finished.get());
            if unanswered == 0 || rt::now() >= deadline {
                return unanswered;
            }
            rt::sleep(rt::TICK).await;
        }
    }
}

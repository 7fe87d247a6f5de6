//! Sleeps, timeouts and deadlines: never early, in order, and gone when dropped.

use crate::harness::{Engine, GRANULARITY, Random, eventually, in_future};
use lb_core::rt::{self, Either, Elapsed, Instant};
use std::cell::{Cell, RefCell};
use std::future::{pending, ready};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

on_every_engine!(
    ten_thousand_timers_fire_in_order_and_none_early,
    cancelled_timers_never_fire,
    a_sleep_lasts_at_least_its_duration,
    a_sleep_into_the_past_is_over,
    a_sleep_of_zero_ends,
    an_endless_sleep_can_be_dropped,
    a_timeout_elapses_on_what_never_ends,
    a_timeout_lets_through_what_ends,
    a_timeout_in_the_past_still_polls_once,
    timeouts_nest,
    a_precise_sleep_is_precise,
    precise_and_coarse_sleeps_mix,
    timers_of_every_length_are_on_time,
    time_does_not_run_backwards,
);

type Fired = Rc<RefCell<Vec<(Instant, Instant)>>>;

/// Sleeps in a task of its own and notes when it should have ended and when it did. On a machine
/// so busy that the task begins too late, it counts from then.
fn note(fired: &Fired, deadline: Instant) {
    let fired = Rc::clone(fired);
    rt::spawn(async move {
        let deadline = deadline.max(in_future(Duration::from_millis(1)));
        rt::sleep_until(deadline).await;
        fired.borrow_mut().push((deadline, rt::now()));
    });
}

fn assert_in_order(fired: &[(Instant, Instant)]) {
    let mut latest = fired[0].0;
    for (deadline, at) in fired {
        assert!(
            at >= deadline,
            "early by {:?}",
            deadline.saturating_duration_since(*at)
        );
        let overtaken = latest.saturating_duration_since(*deadline);
        assert!(
            overtaken <= GRANULARITY,
            "overtaken by one {overtaken:?} later"
        );
        latest = latest.max(*deadline);
    }
}

fn ten_thousand_timers_fire_in_order_and_none_early(engine: Engine) {
    const TIMERS: usize = 10_000;
    engine.run(async move {
        let fired = Fired::default();
        let mut random = Random::new(1);
        for _ in 0..TIMERS {
            note(
                &fired,
                in_future(Duration::from_micros(random.below(700_000))),
            );
        }
        eventually("all timers fire", || fired.borrow().len() == TIMERS).await;
        assert_in_order(&fired.borrow());
        if engine.is_sim() {
            for (deadline, at) in fired.borrow().iter() {
                let late = at.saturating_duration_since(*deadline);
                assert!(late <= GRANULARITY, "late by {late:?}");
            }
        }
    });
}

fn cancelled_timers_never_fire(engine: Engine) {
    const TIMERS: usize = 10_000;
    engine.run(async {
        let (fired, dropped) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let mut random = Random::new(1);
        let mut tasks = Vec::new();
        for _ in 0..TIMERS {
            let (fired, dropped) = (Rc::clone(&fired), Rc::clone(&dropped));
            let pause = Duration::from_micros(random.below(200_000));
            // On a busy machine some are aborted before they begin.
            let guard = CountDrops(dropped);
            tasks.push(rt::spawn(async move {
                rt::sleep(pause).await;
                fired.set(fired.get() + 1);
                drop(guard);
            }));
        }
        rt::sleep(Duration::from_millis(50)).await;
        let before = fired.get();
        for task in tasks {
            rt::abort(task);
        }
        rt::sleep(Duration::from_millis(250)).await;
        // Those that were already due in the turn of the abort may have gone first.
        assert!(fired.get() < TIMERS, "nothing was cancelled");
        assert_eq!(fired.get(), before);
        assert_eq!(dropped.get(), TIMERS);
    });
}

struct CountDrops(Rc<Cell<usize>>);

impl Drop for CountDrops {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

fn a_sleep_lasts_at_least_its_duration(engine: Engine) {
    engine.run(async {
        for millis in [0, 1, 3, 9, 10, 11, 25, 100] {
            let (pause, start) = (Duration::from_millis(millis), rt::now_precise());
            rt::sleep(pause).await;
            let slept = rt::now_precise().saturating_duration_since(start);
            // The sleep begins with the turn's time, which is a little older.
            assert!(
                slept + Duration::from_millis(1) >= pause,
                "{slept:?} instead of {pause:?}"
            );
        }
    });
}

fn a_sleep_into_the_past_is_over(engine: Engine) {
    engine.run(async {
        let past = rt::now();
        rt::sleep(Duration::from_millis(30)).await;
        let start = rt::now();
        for _ in 0..100 {
            rt::sleep_until(past).await;
            rt::sleep_until_precise(past).await;
        }
        if engine.is_sim() {
            assert!(rt::now().saturating_duration_since(start) <= GRANULARITY);
        }
    });
}

fn a_sleep_of_zero_ends(engine: Engine) {
    engine.run(async {
        for _ in 0..20 {
            rt::sleep(Duration::ZERO).await;
            rt::sleep_until_precise(rt::now()).await;
        }
    });
}

fn an_endless_sleep_can_be_dropped(engine: Engine) {
    engine.run(async {
        for endless in [
            Duration::MAX,
            Duration::from_secs(u64::MAX / 4),
            Duration::from_secs(1 << 33),
        ] {
            let wait = rt::sleep(Duration::from_millis(15));
            let first = rt::select(rt::sleep(endless), wait).await;
            assert!(
                matches!(first, Either::Second(())),
                "{endless:?} is over already"
            );
            let never = rt::timeout(endless, rt::sleep(Duration::from_millis(15))).await;
            assert_eq!(never, Ok(()));
        }
    });
}

fn a_timeout_elapses_on_what_never_ends(engine: Engine) {
    engine.run(async {
        let start = rt::now();
        let result = rt::timeout(Duration::from_millis(40), pending::<()>()).await;
        assert_eq!(result, Err(Elapsed));
        assert!(rt::now().saturating_duration_since(start) >= Duration::from_millis(40));
        let deadline = in_future(Duration::from_millis(40));
        assert_eq!(
            rt::timeout_at(deadline, pending::<()>()).await,
            Err(Elapsed)
        );
        assert!(rt::now() >= deadline);
    });
}

fn a_timeout_lets_through_what_ends(engine: Engine) {
    engine.run(async {
        let nap = async {
            rt::sleep(Duration::from_millis(5)).await;
            "rested"
        };
        assert_eq!(
            rt::timeout(Duration::from_secs(3600), nap).await,
            Ok("rested")
        );
        let deadline = in_future(Duration::from_secs(3600));
        assert_eq!(rt::timeout_at(deadline, ready(7)).await, Ok(7));
    });
}

fn a_timeout_in_the_past_still_polls_once(engine: Engine) {
    engine.run(async {
        let past = rt::now();
        rt::sleep(Duration::from_millis(30)).await;
        assert_eq!(rt::timeout_at(past, ready(7)).await, Ok(7));
        assert_eq!(rt::timeout(Duration::ZERO, ready(7)).await, Ok(7));
        assert_eq!(rt::timeout_at(past, pending::<()>()).await, Err(Elapsed));
        assert_eq!(
            rt::timeout(Duration::ZERO, pending::<()>()).await,
            Err(Elapsed)
        );
    });
}

fn timeouts_nest(engine: Engine) {
    engine.run(async {
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(3600));
        let inner = rt::timeout(long, pending::<()>());
        assert_eq!(rt::timeout(short, inner).await, Err(Elapsed));
        let inner = rt::timeout(short, pending::<()>());
        assert_eq!(rt::timeout(long, inner).await, Ok(Err(Elapsed)));
    });
}

/// Much finer than the wheel, where one sleep in ten would be this punctual. On a busy machine
/// nothing is: so half as often as a sleep of the whole thread, in one of ten rounds.
fn a_precise_sleep_is_precise(engine: Engine) {
    const SLEEPS: u64 = 40;
    let durations = || (0..SLEEPS).map(|index| Duration::from_micros(1_700 + 130 * index));
    let is_punctual = |deadline: Instant| {
        let now = rt::now_precise();
        assert!(
            now >= deadline,
            "early by {:?}",
            deadline.saturating_duration_since(now)
        );
        u64::from(now.saturating_duration_since(deadline) <= Duration::from_millis(1))
    };
    engine.run(async move {
        for _ in 0..10 {
            let mut punctual = 0;
            for duration in durations() {
                let deadline = in_future(duration);
                rt::sleep_until_precise(deadline).await;
                punctual += is_punctual(deadline);
            }
            if engine.is_sim() {
                assert_eq!(punctual, SLEEPS);
                return;
            }
            let mut possible = 0;
            for duration in durations() {
                let deadline = rt::now_precise() + duration;
                thread::sleep(duration);
                possible += is_punctual(deadline);
            }
            if punctual >= (possible / 2).max(SLEEPS / 4) {
                return;
            }
            eprintln!("{punctual} of {SLEEPS} were punctual, {possible} of the thread's");
            if possible < SLEEPS / 2 {
                eprintln!("skipped {engine:?}: this machine is too busy to be punctual");
                return;
            }
        }
        panic!("precise sleeps are not");
    });
}

fn precise_and_coarse_sleeps_mix(engine: Engine) {
    engine.run(async {
        let coarse = async {
            for _ in 0..5 {
                rt::sleep(Duration::from_millis(12)).await;
            }
        };
        let precise = async {
            for _ in 0..100 {
                let deadline = in_future(Duration::from_micros(500));
                rt::sleep_until_precise(deadline).await;
                assert!(rt::now() >= deadline);
            }
        };
        let dropped = async {
            for _ in 0..30 {
                let far = in_future(Duration::from_secs(60));
                rt::select(
                    rt::sleep_until_precise(far),
                    rt::sleep(Duration::from_millis(1)),
                )
                .await;
            }
        };
        rt::join(coarse, rt::join(precise, dropped)).await;
    });
}

/// From a millisecond to years, where time costs nothing.
fn timers_of_every_length_are_on_time(engine: Engine) {
    let longest = if engine.is_sim() { 37 } else { 9 };
    engine.run(async move {
        let fired = Fired::default();
        let mut random = Random::new(3);
        let mut timers = 0;
        for power in 0..longest {
            for _ in 0..20 {
                let millis = (1 << power) + random.below(1 << power);
                note(&fired, in_future(Duration::from_millis(millis)));
                timers += 1;
            }
        }
        while fired.borrow().len() < timers {
            let pause = if engine.is_sim() {
                random.below(1 << 33)
            } else {
                20
            };
            rt::sleep(Duration::from_millis(pause)).await;
        }
        assert_in_order(&fired.borrow());
        if engine.is_sim() {
            for (deadline, at) in fired.borrow().iter() {
                let late = at.saturating_duration_since(*deadline);
                assert!(late <= GRANULARITY, "late by {late:?}");
            }
        }
    });
}

fn time_does_not_run_backwards(engine: Engine) {
    engine.run(async {
        let (mut coarse, mut precise) = (rt::now(), rt::now_precise());
        let mut random = Random::new(1);
        for _ in 0..200 {
            let (now, now_precise) = (rt::now(), rt::now_precise());
            assert!(now >= coarse && now_precise >= precise);
            assert!(now_precise >= now, "the turn's time is not in the future");
            (coarse, precise) = (now, now_precise);
            random.pause().await;
        }
        assert!(coarse.as_nanos() > 0);
    });
}

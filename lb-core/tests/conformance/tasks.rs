//! Tasks, notifications, wakers, and other threads that reach a runtime.

use crate::harness::{Engine, eventually, pair, receive};
use lb_core::rt::{self, Chunk, Either, Notify};
use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

on_every_engine!(
    spawned_tasks_run,
    tasks_survive_block_on,
    a_task_spawns_tasks,
    ten_thousand_tasks,
    abort_drops_the_future,
    abort_is_harmless_on_ended_tasks,
    a_task_aborts_itself,
    a_panic_ends_one_task_only,
    yield_now_lets_others_run,
    who_waits_for_a_turn_comes_behind_it,
    a_task_that_always_yields_starves_nobody,
    join_waits_for_both,
    select_drops_the_loser,
    select_prefers_the_first,
    notify_wakes_every_waiter,
    a_notification_is_kept_for_the_next_waiter,
    a_waiter_that_left_takes_no_notification_along,
    a_woken_waiter_that_leaves_passes_its_notification_on,
    a_waker_of_another_thread_wakes_an_idle_runtime,
    many_wakes_from_many_threads,
    wakers_outlive_their_task_and_runtime,
    waking_a_task_twice_polls_it_once,
    a_task_that_wakes_itself_is_polled_again,
    a_handle_spawns_from_another_thread,
    a_handle_of_an_ended_runtime_says_so,
    a_dropped_runtime_drops_its_tasks,
);

/// Tells when it is dropped.
struct Guard(Rc<Cell<usize>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

fn counter() -> Rc<Cell<usize>> {
    Rc::default()
}

fn add_one(count: &Cell<usize>) {
    count.set(count.get() + 1);
}

async fn turns(count: usize) {
    for _ in 0..count {
        rt::yield_now().await;
    }
}

fn spawned_tasks_run(engine: Engine) {
    engine.run(async {
        let order = Rc::new(RefCell::new(Vec::new()));
        for index in 0..10 {
            let order = Rc::clone(&order);
            rt::spawn(async move { order.borrow_mut().push(index) });
        }
        assert!(
            order.borrow().is_empty(),
            "spawn does not run the task itself"
        );
        turns(2).await;
        assert_eq!(*order.borrow(), (0..10).collect::<Vec<_>>());
    });
}

fn tasks_survive_block_on(engine: Engine) {
    let mut runtime = engine.runtime();
    let count = counter();
    let counted = Rc::clone(&count);
    runtime.block_on(async move {
        rt::spawn(async move {
            loop {
                rt::sleep(Duration::from_millis(5)).await;
                add_one(&counted);
            }
        });
    });
    let counted = Rc::clone(&count);
    runtime.block_on(async move {
        eventually("the task goes on", || counted.get() >= 3).await;
    });
    assert_eq!(runtime.block_on(async { 7 }), 7);
}

fn a_task_spawns_tasks(engine: Engine) {
    fn grow(depth: usize, count: &Rc<Cell<usize>>) {
        add_one(count);
        if depth > 0 {
            for _ in 0..2 {
                let count = Rc::clone(count);
                rt::spawn(async move { grow(depth - 1, &count) });
            }
        }
    }
    engine.run(async {
        let count = counter();
        grow(9, &count);
        eventually("all descendants have run", || count.get() == (1 << 10) - 1).await;
    });
}

fn ten_thousand_tasks(engine: Engine) {
    const TASKS: usize = 10_000;
    engine.run(async {
        let (count, dropped) = (counter(), counter());
        for round in 1..=3 {
            for index in 0..TASKS {
                let (count, guard) = (Rc::clone(&count), Guard(Rc::clone(&dropped)));
                rt::spawn(async move {
                    turns(index % 7).await;
                    add_one(&count);
                    drop(guard);
                });
            }
            eventually("all tasks end", || count.get() == round * TASKS).await;
        }
        assert_eq!(dropped.get(), 3 * TASKS);
    });
}

fn abort_drops_the_future(engine: Engine) {
    engine.run(async {
        let dropped = counter();
        for polls in 0..4 {
            let guard = Guard(Rc::clone(&dropped));
            let task = rt::spawn(async move {
                let _guard = guard;
                turns(2).await;
                pending::<()>().await;
            });
            turns(polls).await;
            rt::abort(task);
            turns(2).await;
            assert_eq!(dropped.get(), polls + 1);
        }
    });
}

fn abort_is_harmless_on_ended_tasks(engine: Engine) {
    engine.run(async {
        let count = counter();
        let ended = rt::spawn(async {});
        turns(2).await;
        // New tasks may live in the place of the old one, whose name must not reach them.
        for _ in 0..100 {
            let count = Rc::clone(&count);
            rt::spawn(async move {
                turns(3).await;
                add_one(&count);
            });
        }
        rt::abort(ended);
        rt::abort(ended);
        turns(6).await;
        assert_eq!(count.get(), 100);
    });
}

fn a_task_aborts_itself(engine: Engine) {
    engine.run(async {
        let (before, after, dropped) = (counter(), counter(), counter());
        let own = Rc::new(Cell::new(None));
        let task = {
            let (own, before, after) = (Rc::clone(&own), Rc::clone(&before), Rc::clone(&after));
            let guard = Guard(Rc::clone(&dropped));
            rt::spawn(async move {
                let _guard = guard;
                if let Some(task) = own.get() {
                    rt::abort(task);
                }
                add_one(&before);
                rt::yield_now().await;
                add_one(&after);
            })
        };
        own.set(Some(task));
        turns(4).await;
        assert_eq!((before.get(), after.get(), dropped.get()), (1, 0, 1));
    });
}

fn a_panic_ends_one_task_only(engine: Engine) {
    engine.run(async {
        let (dropped, count) = (counter(), counter());
        let before = rt::panics();
        for index in 0..10 {
            let (guard, count) = (Guard(Rc::clone(&dropped)), Rc::clone(&count));
            rt::spawn(async move {
                let _guard = guard;
                turns(index).await;
                assert!(
                    index % 2 == 0,
                    "an expected panic, to see that it is contained"
                );
                add_one(&count);
            });
        }
        let (client, server) = pair().await;
        rt::spawn(async move {
            let _ = server.recv().await;
            panic!("an expected panic, to see that the stream is closed");
        });
        client
            .send(Chunk::from_static(b"hello"))
            .await
            .expect("send");
        assert!(client.recv().await.expect("a clean end").is_empty());
        eventually("all tasks have ended", || dropped.get() == 10).await;
        assert_eq!(count.get(), 5);
        assert_eq!(rt::panics() - before, 6);
    });
}

fn yield_now_lets_others_run(engine: Engine) {
    engine.run(async {
        let trace = Rc::new(RefCell::new(String::new()));
        for name in ['a', 'b', 'c'] {
            let trace = Rc::clone(&trace);
            rt::spawn(async move {
                for _ in 0..3 {
                    trace.borrow_mut().push(name);
                    rt::yield_now().await;
                }
            });
        }
        turns(10).await;
        assert_eq!(*trace.borrow(), "abcabcabc");
    });
}

fn who_waits_for_a_turn_comes_behind_it(engine: Engine) {
    engine.run(async {
        let before = rt::turns();
        let mut has_waited = false;
        let turns = poll_fn(|cx| {
            if !std::mem::replace(&mut has_waited, true) {
                rt::wake_after_turn(cx);
                rt::wake_after_turn(cx); // once is enough
                return Poll::Pending;
            }
            Poll::Ready(rt::turns() - before)
        });
        assert_eq!(turns.await, 1, "nothing else has woken it");

        // What the turn brings is looked at first.
        let (client, server) = pair().await;
        let trace = Rc::new(RefCell::new(String::new()));
        let receiver = Rc::clone(&trace);
        rt::spawn(async move {
            receive(&server, 1).await;
            receiver.borrow_mut().push('r');
        });
        turns_of_engine(3).await; // it waits
        let sent = client.send(Chunk::from_static(b"x")).await;
        sent.expect("the peer receives");
        for _ in 0..100 {
            turns_of_engine(1).await;
            trace.borrow_mut().push('.');
            if trace.borrow().contains('r') {
                break;
            }
        }
        eventually("it was received", || trace.borrow().contains('r')).await;
        assert!(trace.borrow().ends_with("r.") || trace.borrow().ends_with('r'));
    });
}

async fn turns_of_engine(count: usize) {
    for _ in 0..count {
        let mut has_waited = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut has_waited, true) {
                return Poll::Ready(());
            }
            rt::wake_after_turn(cx);
            Poll::Pending
        })
        .await;
    }
}

fn a_task_that_always_yields_starves_nobody(engine: Engine) {
    engine.run(async {
        let spins = counter();
        let spinning = Rc::clone(&spins);
        rt::spawn(async move {
            loop {
                rt::yield_now().await;
                add_one(&spinning);
            }
        });
        let (client, server) = pair().await;
        for _ in 0..10 {
            client
                .send(Chunk::from_static(b"still there?"))
                .await
                .expect("send");
            assert_eq!(receive(&server, 12).await, b"still there?");
            rt::sleep(Duration::from_millis(3)).await;
        }
        assert!(spins.get() > 100);
    });
}

fn join_waits_for_both(engine: Engine) {
    engine.run(async {
        let slow = async {
            turns(5).await;
            "slow"
        };
        assert_eq!(rt::join(slow, async { "fast" }).await, ("slow", "fast"));
        let nap = async { rt::sleep(Duration::from_millis(20)).await };
        rt::join(nap, rt::join(turns(3), rt::sleep(Duration::from_millis(5)))).await;
    });
}

fn select_drops_the_loser(engine: Engine) {
    engine.run(async {
        let dropped = counter();
        let guard = Guard(Rc::clone(&dropped));
        let loser = async move {
            let _guard = guard;
            pending::<()>().await;
        };
        let Either::Second(winner) = rt::select(loser, async { 7 }).await else {
            panic!("the pending future won")
        };
        assert_eq!((winner, dropped.get()), (7, 1));
    });
}

fn select_prefers_the_first(engine: Engine) {
    engine.run(async {
        for _ in 0..10 {
            let Either::First(first) = rt::select(async { 1 }, async { 2 }).await else {
                panic!("both are ready, the first is polled first")
            };
            assert_eq!(first, 1);
        }
    });
}

fn notify_wakes_every_waiter(engine: Engine) {
    engine.run(async {
        let (notify, woken) = (Rc::new(Notify::new()), counter());
        for round in 1..=3 {
            for _ in 0..20 {
                let (notify, woken) = (Rc::clone(&notify), Rc::clone(&woken));
                rt::spawn(async move {
                    notify.notified().await;
                    add_one(&woken);
                });
            }
            turns(3).await;
            assert_eq!(
                woken.get(),
                (round - 1) * 20,
                "woken without a notification"
            );
            notify.notify();
            turns(3).await;
            assert_eq!(woken.get(), round * 20);
        }
    });
}

fn a_notification_is_kept_for_the_next_waiter(engine: Engine) {
    engine.run(async {
        let notify = Notify::new();
        notify.notify();
        notify.notified().await;
        let none = rt::timeout(Duration::from_millis(20), notify.notified()).await;
        assert!(
            none.is_err(),
            "one notification woke two waiters, one after the other"
        );
        notify.notify();
        notify.notified().await;
    });
}

fn a_waiter_that_left_takes_no_notification_along(engine: Engine) {
    engine.run(async {
        let notify = Notify::new();
        for _ in 0..10 {
            rt::select(notify.notified(), turns(2)).await;
        }
        notify.notify();
        let kept = rt::timeout(Duration::from_millis(50), notify.notified()).await;
        assert!(
            kept.is_ok(),
            "nobody waited, so the notification was to be kept"
        );
    });
}

/// The other branch of a select ends in the very turn of the notification.
fn a_woken_waiter_that_leaves_passes_its_notification_on(engine: Engine) {
    engine.run(async {
        let notify = Notify::new();
        let mut polls = 0;
        let other = poll_fn(|context| {
            polls += 1;
            if polls == 2 {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        });
        let mut both = Box::pin(rt::select(other, notify.notified()));
        assert!(rt::poll_once(both.as_mut()).await.is_none());
        notify.notify();
        assert!(matches!(both.as_mut().await, Either::First(())));
        drop(both);
        let seen = rt::timeout(Duration::from_millis(50), notify.notified()).await;
        assert!(seen.is_ok(), "the notification is lost");
    });
}

/// Ready once `flag` is set; hands its waker to `slot`.
fn flagged(flag: Arc<AtomicBool>, slot: Arc<Mutex<Option<Waker>>>) -> impl Future<Output = ()> {
    poll_fn(move |context| {
        *slot.lock().expect("not poisoned") = Some(context.waker().clone());
        if flag.load(Ordering::SeqCst) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
}

fn a_waker_of_another_thread_wakes_an_idle_runtime(engine: Engine) {
    engine.run(async {
        for pause in [0, 1, 20] {
            let (flag, slot) = (Arc::new(AtomicBool::new(false)), Arc::default());
            let (raise, waker) = (Arc::clone(&flag), Arc::<Mutex<Option<Waker>>>::clone(&slot));
            let other = thread::spawn(move || {
                thread::sleep(Duration::from_millis(pause));
                raise.store(true, Ordering::SeqCst);
                if let Some(waker) = waker.lock().expect("not poisoned").take() {
                    waker.wake();
                }
            });
            flagged(flag, slot).await;
            other.join().expect("the other thread ends");
        }
    });
}

fn many_wakes_from_many_threads(engine: Engine) {
    const WAKES: usize = 2_000;
    engine.run(async {
        let count = Arc::new(AtomicUsize::new(0));
        let mut wakers: Vec<Waker> = Vec::new();
        let done = counter();
        let (share, wakers_of_tasks) = channel();
        for _ in 0..8 {
            let (share, count, done) = (share.clone(), Arc::clone(&count), Rc::clone(&done));
            rt::spawn(async move {
                let mut first = true;
                poll_fn(|context| {
                    if std::mem::take(&mut first) {
                        let _ = share.send(context.waker().clone());
                    }
                    let all = count.load(Ordering::SeqCst) == 3 * WAKES;
                    if all { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
                add_one(&done);
            });
        }
        turns(2).await;
        wakers.extend(wakers_of_tasks.try_iter());
        assert_eq!(wakers.len(), 8);
        for _ in 0..3 {
            let (wakers, count) = (wakers.clone(), Arc::clone(&count));
            thread::spawn(move || {
                for index in 0..WAKES {
                    count.fetch_add(1, Ordering::SeqCst);
                    wakers[index % 8].wake_by_ref();
                }
                // Whoever counted last wakes every task after that.
                for waker in wakers {
                    waker.wake();
                }
            });
        }
        while done.get() < 8 {
            rt::yield_now().await;
        }
    });
}

fn wakers_outlive_their_task_and_runtime(engine: Engine) {
    let (share, wakers) = channel();
    let mut runtime = engine.runtime();
    runtime.block_on(async {
        for ends in [true, false] {
            let share = share.clone();
            rt::spawn(poll_fn(move |context: &mut Context<'_>| {
                let _ = share.send(context.waker().clone());
                if ends { Poll::Ready(()) } else { Poll::Pending }
            }));
        }
        turns(2).await;
        let ended = wakers.recv().expect("the first task ran");
        let count = counter();
        let counted = Rc::clone(&count);
        rt::spawn(poll_fn(move |_| {
            add_one(&counted);
            Poll::<()>::Pending
        }));
        turns(2).await;
        // The waker of a task that has ended must not poll the one that took its place.
        ended.wake_by_ref();
        thread::spawn(move || ended.wake())
            .join()
            .expect("harmless elsewhere");
        turns(3).await;
        assert_eq!(count.get(), 1);
    });
    drop(runtime);
    let orphan = wakers.recv().expect("the second task ran");
    orphan.wake_by_ref();
    let other = thread::spawn(move || {
        orphan.wake_by_ref();
        orphan.wake();
    });
    other.join().expect("harmless elsewhere");
    engine.run(async { turns(3).await });
}

fn waking_a_task_twice_polls_it_once(engine: Engine) {
    engine.run(async {
        let polls = counter();
        let slot: Rc<RefCell<Option<Waker>>> = Rc::default();
        let (counted, kept) = (Rc::clone(&polls), Rc::clone(&slot));
        rt::spawn(poll_fn(move |context| {
            add_one(&counted);
            *kept.borrow_mut() = Some(context.waker().clone());
            Poll::<()>::Pending
        }));
        turns(2).await;
        assert_eq!(polls.get(), 1);
        let waker = slot.borrow().clone().expect("polled once");
        for _ in 0..5 {
            waker.wake_by_ref();
        }
        turns(3).await;
        assert_eq!(polls.get(), 2);
        assert!(waker.will_wake(slot.borrow().as_ref().expect("polled twice")));
    });
}

fn a_task_that_wakes_itself_is_polled_again(engine: Engine) {
    /// Pending a few times, having woken itself during the poll.
    struct Eager(usize);
    impl Future for Eager {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            if self.0 == 0 {
                return Poll::Ready(());
            }
            self.0 -= 1;
            context.waker().wake_by_ref();
            context.waker().wake_by_ref();
            Poll::Pending
        }
    }
    engine.run(async {
        let ended = counter();
        let count = Rc::clone(&ended);
        rt::spawn(async move {
            Eager(100).await;
            add_one(&count);
        });
        Eager(100).await;
        eventually("the task ends, too", || ended.get() == 1).await;
    });
}

fn a_handle_spawns_from_another_thread(engine: Engine) {
    let mut runtime = engine.runtime();
    let handle = runtime.handle();
    let finish = Arc::new(AtomicBool::new(false));
    let slot = Arc::<Mutex<Option<Waker>>>::default();
    let (raise, waker) = (Arc::clone(&finish), Arc::clone(&slot));
    let other = thread::spawn(move || {
        // Long enough for the runtime to be idle.
        thread::sleep(Duration::from_millis(30));
        let ran_on = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..100 {
            let ran_on = Arc::clone(&ran_on);
            let sent = handle.clone().spawn(move || {
                // Neither the future nor what it captures is Send.
                let local = Rc::new(thread::current().id());
                async move {
                    rt::yield_now().await;
                    ran_on.lock().expect("not poisoned").push(*local);
                }
            });
            assert!(sent);
        }
        while ran_on.lock().expect("not poisoned").len() < 100 {
            thread::sleep(Duration::from_millis(1));
        }
        raise.store(true, Ordering::SeqCst);
        waker
            .lock()
            .expect("not poisoned")
            .take()
            .expect("polled")
            .wake();
        ran_on.lock().expect("not poisoned").clone()
    });
    runtime.block_on(flagged(finish, slot));
    let ran_on = other.join().expect("the other thread ends");
    assert!(ran_on.iter().all(|id| *id == thread::current().id()));
}

fn a_handle_of_an_ended_runtime_says_so(engine: Engine) {
    let runtime = engine.runtime();
    let handle = runtime.handle();
    // Accepted, but the runtime ends before it runs: it is dropped, not leaked.
    let (send, receive) = channel::<()>();
    assert!(handle.spawn(move || async move { drop(send) }));
    drop(runtime);
    assert!(receive.recv().is_err(), "what never ran is dropped");
    assert!(!handle.spawn(|| async {}));
    assert!(
        thread::spawn(move || !handle.spawn(|| async {}))
            .join()
            .expect("no panic")
    );
}

fn a_dropped_runtime_drops_its_tasks(engine: Engine) {
    let dropped = counter();
    let mut runtime = engine.runtime();
    let shared = Rc::new(Notify::new());
    runtime.block_on(async {
        for _ in 0..10 {
            let (guard, shared) = (Guard(Rc::clone(&dropped)), Rc::clone(&shared));
            rt::spawn(async move {
                let _guard = guard;
                // Woken by the end of the others, when there is nobody left to run it.
                let _last = NotifyOnDrop(Rc::clone(&shared));
                shared.notified().await;
            });
        }
        turns(2).await;
    });
    let never_polled = Guard(Rc::clone(&dropped));
    runtime.block_on(async {
        rt::spawn(async move { drop(never_polled) });
    });
    drop(runtime);
    assert_eq!(dropped.get(), 11);
}

struct NotifyOnDrop(Rc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify();
    }
}

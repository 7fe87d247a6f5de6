//! Every interleaving, in the C11 memory model, of a few operations on one small bucket.
//!
//! Holds the invariant of `bucket.rs`: what comes back was written for that key's tag, has not
//! expired and is valid for who asks; and concurrent insertions of one key end as one entry.
//! `RUSTFLAGS="--cfg loom" cargo test -p lb-core --lib --target-dir target/loom models` runs them.
//! Read next: `bucket.rs`; `table.rs` for what is too large to be exhausted.

use std::time::Duration;

use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

use super::bucket::{self, Inserted};
use super::word::{SlotId, Tag, Tick, Timeout};
use crate::rt::Instant;
use crate::rt::words::{self, AtomicU64};

const A: Tag = Tag::of(1 << 40);
const B: Tag = Tag::of(2 << 40);
const C: Tag = Tag::of(3 << 40);

/// A slot of the first incarnation.
const fn slot(index: u16) -> SlotId {
    SlotId {
        index,
        incarnation: 0,
    }
}

const ANY: fn(SlotId) -> bool = |_| true;

fn at(seconds: u64) -> Tick {
    Tick::of(Instant::START + Duration::from_secs(seconds))
}

fn seconds(seconds: u64) -> Timeout {
    Timeout::new(Duration::from_secs(seconds))
}

/// A bucket that all threads of a model have.
#[derive(Clone)]
struct Bucket(Arc<Box<[AtomicU64]>>);

impl Bucket {
    fn new(width: usize) -> Self {
        Self(Arc::new(words::zeroed(width)))
    }

    /// Written at `now` for 8 s, so expired at `now` + 10.
    fn insert(&self, tag: Tag, index: u16, now: u64) -> Inserted {
        bucket::insert(&self.0, tag, slot(index), at(now), seconds(8), ANY)
    }

    fn get(&self, tag: Tag, now: u64) -> Option<u16> {
        bucket::get(&self.0, tag, at(now), seconds(8), ANY).map(|it| it.index)
    }

    fn sweep(&self, now: u64) -> usize {
        bucket::sweep(&self.0, at(now))
    }
}

/// Runs `model` in every interleaving.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = None;
    builder.check(model);
}

/// Runs `model` in every interleaving that takes a thread off the processor at most three times,
/// for models that would take hours otherwise.
fn explore_some(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

fn run<T: 'static>(
    bucket: &Bucket,
    work: impl FnOnce(&Bucket) -> T + 'static,
) -> thread::JoinHandle<T> {
    let bucket = bucket.clone();
    thread::spawn(move || work(&bucket))
}

#[test]
fn two_that_insert_one_key_agree() {
    explore(|| {
        let bucket = Bucket::new(2);
        let other = run(&bucket, |it| it.insert(A, 1, 0).slot);
        let mine = bucket.insert(A, 2, 0).slot;
        assert_eq!(other.join().unwrap(), mine);
        assert_eq!(bucket.get(A, 0), Some(mine.index));
        assert_eq!(bucket.sweep(0), 1);
    });
}

#[test]
fn three_that_insert_one_key_agree() {
    explore(|| {
        let bucket = Bucket::new(2);
        let others = [1, 2].map(|index| run(&bucket, move |it| it.insert(A, index, 0).slot));
        let mine = bucket.insert(A, 3, 0).slot;
        assert_eq!(others.map(|it| it.join().unwrap()), [mine; 2]);
        assert_eq!(bucket.sweep(0), 1);
    });
}

/// One's clock says that the first word has expired, the other's that it has not: each takes
/// another word for the same key.
#[test]
fn two_that_insert_one_key_at_two_places_leave_one_entry() {
    explore(|| {
        let bucket = Bucket::new(2);
        bucket.insert(C, 9, 0);
        let other = run(&bucket, |it| it.insert(A, 1, 9).slot.index);
        let mine = bucket.insert(A, 2, 10).slot.index;
        let theirs = other.join().unwrap();
        let left = bucket.get(A, 10).unwrap();
        assert!(left == mine || left == theirs);
        assert!([1, 2].contains(&mine) && [1, 2].contains(&theirs));
        // C may have been left or taken, but there is one entry of A.
        assert_eq!(bucket.sweep(10), 1);
    });
}

#[test]
fn insertions_of_different_keys_do_not_lose_each_other() {
    explore_some(|| {
        let bucket = Bucket::new(3);
        let others =
            [(A, 1), (B, 2)].map(|(tag, index)| run(&bucket, move |it| it.insert(tag, index, 0)));
        let mine = bucket.insert(C, 3, 0);
        let [a, b] = others.map(|it| it.join().unwrap());
        assert_eq!([a.slot, b.slot, mine.slot], [slot(1), slot(2), slot(3)]);
        assert!(!a.evicted && !b.evicted && !mine.evicted);
        assert_eq!(
            [A, B, C].map(|tag| bucket.get(tag, 0)),
            [Some(1), Some(2), Some(3)]
        );
    });
}

/// A's entry is being prolonged while B's takes its place.
#[test]
fn a_reader_gets_its_own_key_while_entries_are_evicted_and_prolonged() {
    explore(|| {
        let bucket = Bucket::new(1);
        bucket.insert(A, 1, 0);
        let evictor = run(&bucket, |it| it.insert(B, 2, 5));
        let user = run(&bucket, |it| it.get(A, 5));
        assert!(bucket.get(B, 5).is_none_or(|it| it == 2));
        assert!(user.join().unwrap().is_none_or(|it| it == 1));
        assert!(evictor.join().unwrap().evicted);
        assert_eq!([A, B].map(|tag| bucket.get(tag, 5)), [None, Some(2)]);
    });
}

#[test]
fn of_a_full_bucket_nobody_evicts_more_than_one() {
    explore(|| {
        let bucket = Bucket::new(2);
        bucket.insert(A, 1, 0);
        bucket.insert(B, 2, 3);
        let other = run(&bucket, |it| it.insert(C, 3, 4));
        let mine = bucket.insert(Tag::of(4 << 40), 4, 4);
        let evicted = [other.join().unwrap(), mine].map(|it| it.evicted);
        assert_eq!(evicted, [true; 2]);
        assert_eq!(
            bucket.get(A, 4),
            None,
            "the nearest to its expiry goes first"
        );
        assert_eq!(bucket.sweep(4), 2);
    });
}

/// The last use and the end of an entry meet: a worker whose clock is a second behind prolongs
/// it, the sweeper clears it, a third asks when it is over.
#[test]
fn an_expired_entry_is_not_returned_whoever_is_at_it() {
    explore(|| {
        let bucket = Bucket::new(2);
        bucket.insert(A, 1, 0);
        let late = run(&bucket, |it| it.get(A, 9));
        let sweeper = run(&bucket, |it| it.sweep(10));
        let seen = bucket.get(A, 10);
        let used = late.join().unwrap();
        sweeper.join().unwrap();
        // It is over at 10 unless its use at 9 came first.
        assert!(seen.is_none() || used == Some(1));
        assert_eq!(bucket.get(A, 30), None);
    });
}

#[test]
fn a_sweep_never_clears_what_was_just_inserted() {
    explore(|| {
        let bucket = Bucket::new(2);
        bucket.insert(A, 1, 0);
        let sweeper = run(&bucket, |it| it.sweep(20));
        let inserted = bucket.insert(A, 2, 20).slot;
        sweeper.join().unwrap();
        assert_eq!(inserted, slot(2));
        assert_eq!(bucket.get(A, 20), Some(2));
    });
}

/// Slot 1 goes to another backend: workers on the old snapshot know its first incarnation, those
/// on the new one its second.
#[test]
fn a_reused_slot_is_not_taken_for_the_backend_that_had_it() {
    explore(|| {
        let bucket = Bucket::new(2);
        bucket.insert(A, 1, 0);
        let is_old = |it: SlotId| it.incarnation == 0;
        let is_new = |it: SlotId| it.incarnation == 1;
        let old = run(&bucket, move |it| {
            bucket::get(&it.0, A, at(5), seconds(8), is_old)
        });
        let reused = SlotId {
            index: 1,
            incarnation: 1,
        };
        let other = run(&bucket, move |it| {
            bucket::insert(
                &it.0,
                A,
                SlotId { index: 2, ..reused },
                at(5),
                seconds(8),
                is_new,
            )
            .slot
        });
        let seen = bucket::get(&bucket.0, A, at(5), seconds(8), is_new);
        assert!(seen.is_none_or(is_new));
        let mine = bucket::insert(&bucket.0, A, reused, at(5), seconds(8), is_new).slot;
        assert!(old.join().unwrap().is_none_or(is_old));
        assert_eq!(other.join().unwrap(), mine);
        assert!(is_new(mine));
        assert_eq!(
            bucket::get(&bucket.0, A, at(5), seconds(8), is_new),
            Some(mine)
        );
        assert_eq!(bucket.sweep(5), 1);
    });
}

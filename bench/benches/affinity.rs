//! The affinity table with a million live entries, in 16 MiB.
//!
//! Guards the budget of 25 ns for a look-up, hashing the address included, and that two threads
//! together do 1.9 times the look-ups of one. A look-up is a random access to 16 MiB, so what it
//! takes is mostly the cache's doing: "1,000 clients" shows our own part, "one after the other" the
//! whole wait, and the others overlap as far as the processor can. Read next: `balance.rs`.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot begin ends with a panic"
)]

use std::cell::RefCell;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use criterion::Criterion;
use lb_core::balance::affinity::{
    AddressMask, AffinityTable, BackendCookies, SessionCookies, SlotId, Slots, Tick, Timeout,
};
use lb_core::plan::CookieKey;
use lb_core::rt::Instant;
use nix::time::{ClockId, clock_gettime};

const ENTRIES: u32 = 1_000_000;
const TIMEOUT: Duration = Duration::from_secs(10_800);

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    look_up(&mut criterion);
    write(&mut criterion);
    threads(&mut criterion);
    cookies(&mut criterion);
    criterion.final_summary();
}

fn look_up(criterion: &mut Criterion) {
    let affinity = Affinity::full();
    let mut group = criterion.benchmark_group("affinity look-up");
    let mut client = 0;
    let clients = affinity.clients;
    group.bench_function("hit", |bencher| {
        bencher.iter(|| affinity.get(v4(next(&mut client, clients))));
    });
    group.bench_function("miss", |bencher| {
        bencher.iter(|| affinity.get(v4(clients + next(&mut client, clients))));
    });
    group.bench_function("miss, IPv6", |bencher| {
        bencher.iter(|| affinity.get(v6(next(&mut client, clients))));
    });
    group.bench_function("hit, one after the other", |bencher| {
        bencher.iter(|| {
            // Which client is next depends on what was found.
            let found = affinity.get(v4(next(&mut client, clients)));
            client += u32::from(found.is_some());
        });
    });
    group.bench_function("hit, 1,000 clients", |bencher| {
        bencher.iter(|| affinity.get(v4(next(&mut client, 1000))));
    });
    group.bench_function("key of an IPv4 address", |bencher| {
        bencher.iter(|| affinity.key(v4(next(&mut client, clients))));
    });
    group.bench_function("key of an IPv6 address", |bencher| {
        bencher.iter(|| affinity.key(v6(next(&mut client, clients))));
    });
    group.finish();
}

fn write(criterion: &mut Criterion) {
    let mut affinity = Affinity::full();
    let mut group = criterion.benchmark_group("affinity write");
    let mut client = 0;
    group.bench_function("hit that prolongs the entry", |bencher| {
        bencher.iter(|| {
            if next(&mut client, affinity.clients) == 0 {
                // After a quarter of the timeout every entry is written again at its next use.
                affinity.now = affinity.now + TIMEOUT / 4;
            }
            affinity.get(v4(client))
        });
    });
    group.bench_function("miss and insert", |bencher| {
        bencher.iter(|| {
            client = client.wrapping_add(1);
            let address = v4(client.wrapping_add(2 * ENTRIES));
            affinity
                .get(address)
                .or_else(|| Some(affinity.insert(address)))
        });
    });
    group.bench_function("sweep of a bucket", |bencher| {
        let (table, now) = (&affinity.table, Tick::of(affinity.now));
        let mut bucket = 0;
        bencher.iter(|| {
            bucket = (bucket + 1) % table.buckets();
            table.sweep(bucket..bucket + 1, now)
        });
    });
    group.finish();
}

/// Two threads beside one, in turns. Counted in processor time of the threads: what others do on
/// this machine meanwhile does not count, that the two hinder each other does.
fn threads(criterion: &mut Criterion) {
    let affinity = Affinity::full();
    let ratios = RefCell::new(Vec::new());
    let mut group = criterion.benchmark_group("affinity threads");
    group.bench_function("two threads together, beside one", |bencher| {
        bencher.iter_custom(|look_ups| {
            let one = affinity.look_ups_of(1, look_ups);
            let two = affinity.look_ups_of(2, look_ups);
            ratios.borrow_mut().push(two / one);
            Duration::from_secs_f64(look_ups as f64 / two)
        });
    });
    group.finish();
    let mut ratios = ratios.into_inner();
    ratios.sort_unstable_by(f64::total_cmp);
    if let Some(median) = ratios.get(ratios.len() / 2) {
        println!("two threads do {median:.2} times the look-ups of one (median)\n");
    }
}

fn cookies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("affinity cookie");
    let key = CookieKey([1; 16]);
    let backends = BackendCookies::build(&key, "bench", &backends(100));
    let mut position = 0;
    group.bench_function("of one in 100 backends", |bencher| {
        bencher.iter(|| {
            position = (position + 1) % 100;
            let value = backends.value_of(position).unwrap();
            backends.position_of(black_box(value.as_bytes()))
        });
    });
    let sessions = SessionCookies::new(&key, "bench", [2; 16]);
    let value = sessions.value_of(sessions.open());
    group.bench_function("of a session", |bencher| {
        bencher.iter(|| sessions.session_of(black_box(value.as_bytes())));
    });
    group.bench_function("of a new session", |bencher| {
        bencher.iter(|| sessions.value_of(sessions.open()));
    });
    group.finish();
}

/// A table, and a cluster of a hundred backends that uses it.
struct Affinity {
    table: AffinityTable,
    slots: Slots,
    now: Instant,
    timeout: Timeout,
    /// How many clients have been inserted, from number 0 on.
    clients: u32,
    /// The client that the next thread begins with.
    start: AtomicU32,
}

impl Affinity {
    /// With a million live entries, after what was evicted.
    fn full() -> Self {
        let table = AffinityTable::new(ENTRIES as usize, [1; 16]);
        assert!(
            table.bytes() <= (16 << 20) + 64,
            "more than 16 MiB and a line"
        );
        let now = Instant::START + TIMEOUT;
        let timeout = Timeout::new(TIMEOUT);
        let slots = Slots::build(None, &table, &backends(100), timeout, now);
        let mut affinity = Self {
            table,
            slots,
            now,
            timeout,
            clients: 0,
            start: AtomicU32::new(0),
        };
        while u64::from(affinity.clients) < u64::from(ENTRIES) + affinity.table.evictions() {
            affinity.insert(v4(affinity.clients));
            affinity.clients += 1;
        }
        let live = affinity.table.sweep(0..usize::MAX, Tick::of(now));
        assert!(live >= ENTRIES as usize, "only {live} live entries");
        affinity
    }

    #[inline]
    fn key(&self, client: IpAddr) -> u64 {
        self.slots
            .scope()
            .key_of_address(client, AddressMask::WHOLE)
    }

    /// The position of the client's backend.
    #[inline]
    fn get(&self, client: IpAddr) -> Option<u16> {
        let valid = |id| self.slots.position_of(id).is_some();
        let now = Tick::of(self.now);
        let id = self.table.get(self.key(client), now, self.timeout, valid)?;
        self.slots.position_of(id)
    }

    fn insert(&self, client: IpAddr) -> u16 {
        let key = self.key(client);
        let valid = |id: SlotId| self.slots.position_of(id).is_some();
        let id = self.slots.id_of((key % 100) as u16).unwrap();
        let now = Tick::of(self.now);
        let id = self.table.insert(key, id, now, self.timeout, valid);
        self.slots.position_of(id).unwrap()
    }

    /// Look-ups a second of so many threads together, each of which does `look_ups`.
    fn look_ups_of(&self, threads: u32, look_ups: u64) -> f64 {
        let barrier = Barrier::new(threads as usize);
        let work = || {
            // Where no run before has just been.
            let mut client = self.start.fetch_add(777_777, Ordering::Relaxed) % self.clients;
            barrier.wait();
            let before = processor_time();
            for _ in 0..look_ups {
                black_box(self.get(v4(next(&mut client, self.clients))));
            }
            look_ups as f64 / (processor_time() - before).as_secs_f64()
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|it| it.join().unwrap()).sum()
        })
    }
}

/// What this thread has used.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}

/// Goes on to the next client below `clients`, round and round.
#[inline]
fn next(client: &mut u32, clients: u32) -> u32 {
    *client = if *client + 1 < clients {
        *client + 1
    } else {
        0
    };
    *client
}

/// The address of a client; neighbours in number are far apart.
#[inline]
fn v4(client: u32) -> IpAddr {
    Ipv4Addr::from_bits(client.wrapping_mul(0x9E37_79B9)).into()
}

#[inline]
fn v6(client: u32) -> IpAddr {
    Ipv6Addr::from_bits((0x2001_0db8 << 96) | u128::from(client.wrapping_mul(0x9E37_79B9))).into()
}

fn backends(count: u16) -> Vec<SocketAddr> {
    let address = |number| SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), number));
    (1..=count).map(address).collect()
}

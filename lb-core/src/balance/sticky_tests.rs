//! Tests of affinity in a choice: table and cookies, over workers, snapshots and failures.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::tests::plan;
use super::*;
use crate::plan::{Condition, CookieAffinity, CookieMode};

const TIMEOUT: Duration = Duration::from_secs(100);

fn at(seconds: u64) -> Instant {
    Instant::START + Duration::from_secs(seconds)
}

/// One cluster through its plans.
struct Site {
    context: Context,
    plan: plan::Cluster,
    cluster: Cluster,
    now: u64,
    worker: usize,
}

impl Site {
    fn new(affinity: Affinity, count: usize) -> Self {
        let mut plan = plan(Balance::RoundRobin, &vec![1; count]);
        plan.affinity = Some(affinity);
        let context = Context::new(1, 2);
        let cluster = Cluster::build(&plan, &context, None);
        Self {
            context,
            plan,
            cluster,
            now: 0,
            worker: 0,
        }
    }

    fn by_address() -> Self {
        Self::new(Affinity::client_address(TIMEOUT), 5)
    }

    fn by_cookie(mode: CookieMode) -> Self {
        let cookie = CookieAffinity {
            mode,
            ..CookieAffinity::new("lb")
        };
        Self::new(Affinity::Cookie(cookie), 5)
    }

    /// Publishes the plan, changed.
    fn publish(&mut self, change: impl FnOnce(&mut plan::Cluster)) {
        change(&mut self.plan);
        self.context.now = at(self.now);
        self.cluster = Cluster::build(&self.plan, &self.context, Some(&self.cluster));
    }

    fn choose<T>(
        &self,
        change: impl FnOnce(&mut Choice<'_>),
        look: impl FnOnce(&Lease<'_>) -> T,
    ) -> T {
        let tried = Tried::default();
        let client = SocketAddr::from(([192, 0, 2, 1], 40_000));
        let mut choice = Choice::new(self.worker, at(self.now), client, &tried);
        change(&mut choice);
        look(&self.cluster.pick(&choice).unwrap())
    }

    /// Where a client goes, and whether affinity led it there.
    fn client(&self, address: &str) -> (u16, Held) {
        let address: IpAddr = address.parse().unwrap();
        self.choose(|it| it.client.set_ip(address), found)
    }

    fn header(&self, value: &[u8]) -> (u16, Held) {
        let hash = self.cluster.hash_of(value);
        self.choose(|it| it.affinity = Some(hash), found)
    }

    /// The same of a cookie, and the cookie after it.
    fn cookie(&self, value: &str) -> (u16, Held, String) {
        let tried = Tried::default();
        let client = SocketAddr::from(([192, 0, 2, 1], 40_000));
        let mut choice = Choice::new(self.worker, at(self.now), client, &tried);
        choice.cookie = Some(value.as_bytes());
        let lease = self.cluster.pick(&choice).unwrap();
        let after = lease.cookie_value().unwrap();
        (
            lease.backend().index,
            lease.affinity(),
            after.as_str().to_owned(),
        )
    }
}

fn found(lease: &Lease<'_>) -> (u16, Held) {
    (lease.backend().index, lease.affinity())
}

#[test]
fn a_client_keeps_its_backend_on_every_worker() {
    let mut site = Site::by_address();
    let (first, held) = site.client("192.0.2.1");
    assert_eq!(held, Held::Chosen);
    for worker in [0, 1, 0] {
        site.worker = worker;
        assert_eq!(site.client("192.0.2.1"), (first, Held::Kept));
    }
    assert_eq!(
        site.client("::ffff:192.0.2.1"),
        (first, Held::Kept),
        "the same client"
    );
    assert_eq!(site.client("192.0.2.2").1, Held::Chosen);
    let counts = [0, 1].map(|it| site.cluster.counters().of(it).affinity_kept.get());
    assert_eq!(counts, [3, 1]);
}

#[test]
fn each_use_prolongs_affinity_and_a_pause_ends_it() {
    let mut site = Site::by_address();
    let (first, _) = site.client("192.0.2.1");
    for now in [90, 180, 270] {
        site.now = now;
        assert_eq!(site.client("192.0.2.1"), (first, Held::Kept));
    }
    site.now = 270 + 120;
    assert_eq!(site.client("192.0.2.1").1, Held::Chosen);
}

#[test]
fn a_network_is_one_client_with_a_prefix() {
    let site = Site::new(
        Affinity::ClientAddress {
            timeout: TIMEOUT,
            ipv4_prefix: 24,
            ipv6_prefix: 64,
        },
        5,
    );
    let (first, _) = site.client("192.0.2.1");
    assert_eq!(site.client("192.0.2.200"), (first, Held::Kept));
    assert_eq!(site.client("192.0.3.1").1, Held::Chosen);
    let (first, _) = site.client("2001:db8::1");
    assert_eq!(site.client("2001:db8::ffff"), (first, Held::Kept));
    assert_eq!(site.client("2001:db8:0:1::1").1, Held::Chosen);
}

#[test]
fn a_backend_that_cannot_be_used_is_replaced_for_good() {
    for broken in 0..4 {
        let mut site = Site::by_address();
        let (first, _) = site.client("192.0.2.1");
        let backend = &site.cluster.backends()[usize::from(first)];
        let mut tried = Tried::default();
        match broken {
            0 => backend.set_healthy(false),
            1 => tried.insert(first),
            2 => site.publish(|plan| {
                plan.backends[usize::from(first)].condition = Condition::Terminating;
            }),
            _ => site.publish(|plan| {
                plan.backends[usize::from(first)].condition = Condition::Serving;
            }),
        }
        let client = SocketAddr::from(([192, 0, 2, 1], 40_000));
        let choice = Choice::new(0, at(0), client, &tried);
        let (second, held) = found(&site.cluster.pick(&choice).unwrap());
        assert_eq!((second == first, held), (false, Held::Chosen), "{broken}");
        site.cluster.backends()[usize::from(first)].set_healthy(true);
        assert_eq!(site.client("192.0.2.1"), (second, Held::Kept), "{broken}");
    }
}

#[test]
fn affinity_outlasts_a_change_of_the_backends() {
    let mut site = Site::by_address();
    let clients: Vec<String> = (1..100).map(|it| format!("192.0.2.{it}")).collect();
    let before: Vec<_> = clients
        .iter()
        .map(|it| site.cluster.backends()[usize::from(site.client(it).0)].id())
        .collect();
    let gone = site.cluster.backends()[0].id();
    site.publish(|plan| {
        plan.backends.remove(0);
        plan.backends.reverse();
        plan.backends
            .push(SocketAddr::from(([127, 0, 0, 9], 1)).into());
    });
    for (client, &before) in clients.iter().zip(&before) {
        let (index, held) = site.client(client);
        let after = site.cluster.backends()[usize::from(index)].id();
        assert_eq!(held == Held::Kept, before != gone);
        assert_eq!(after == before, before != gone);
    }
}

#[test]
fn a_draining_backend_keeps_its_clients_and_gets_no_new_ones() {
    let mut site = Site::by_address();
    let (first, _) = site.client("192.0.2.1");
    let drain: [fn(&mut plan::Backend); 2] =
        [|it| it.condition = Condition::Draining, |it| it.weight = 0];
    for change in drain {
        site.publish(|plan| change(&mut plan.backends[usize::from(first)]));
        assert_eq!(site.client("192.0.2.1"), (first, Held::Kept));
        assert!((10..60).all(|it| site.client(&format!("192.0.2.{it}")).0 != first));
    }
}

#[test]
fn a_serving_backend_keeps_its_clients_only_while_none_is_ready() {
    let mut site = Site::by_address();
    site.publish(|plan| plan.backends[3].condition = Condition::Serving);
    for ready in [0, 1, 2, 4] {
        site.cluster.backends()[ready].set_healthy(false);
    }
    assert_eq!(site.client("192.0.2.1"), (3, Held::Chosen));
    assert_eq!(site.client("192.0.2.1"), (3, Held::Kept));
    site.cluster.backends()[1].set_healthy(true);
    assert_eq!(site.client("192.0.2.1"), (1, Held::Chosen));
}

#[test]
fn clusters_do_not_share_what_they_remember() {
    let site = Site::by_address();
    let mut other = Site::by_address();
    other.context.affinity = Arc::clone(&site.context.affinity);
    other.cluster = Cluster::build(&other.plan, &other.context, None);
    site.client("192.0.2.1");
    assert_eq!(other.client("192.0.2.1").1, Held::Chosen);
}

#[test]
fn a_header_is_recognised_and_its_lack_is_not() {
    let affinity = Affinity::Header {
        name: "x-user".to_owned(),
        timeout: TIMEOUT,
    };
    let site = Site::new(affinity, 5);
    let (first, held) = site.header(b"ada");
    assert_eq!(held, Held::Chosen);
    assert_eq!(site.header(b"ada"), (first, Held::Kept));
    assert_eq!(site.header(b"bob").1, Held::Chosen);
    let turns: Vec<u16> = (0..5).map(|_| site.choose(|_| {}, found).0).collect();
    assert_eq!(
        turns.iter().collect::<std::collections::HashSet<_>>().len(),
        5
    );
    assert_eq!(site.choose(|_| {}, found).1, Held::Without);
}

#[test]
fn a_cookie_leads_back_to_its_backend() {
    let mut site = Site::by_cookie(CookieMode::Persistent);
    let (first, held, cookie) = site.cookie("");
    assert_eq!(held, Held::Chosen);
    assert_eq!(site.cookie(&cookie), (first, Held::Kept, cookie.clone()));
    for forged in ["", "x", &cookie[1..], &cookie.replace(&cookie[..1], "~")] {
        assert_eq!(site.cookie(forged).1, Held::Chosen);
    }
    site.cluster.backends()[usize::from(first)].set_healthy(false);
    let (second, held, other) = site.cookie(&cookie);
    assert_eq!(
        (second == first, held, other == cookie),
        (false, Held::Chosen, false)
    );
    site.cluster.backends()[usize::from(first)].set_healthy(true);
    site.publish(|plan| {
        plan.backends.remove(usize::from(first));
    });
    assert_eq!(site.cookie(&cookie).1, Held::Chosen);
    assert_eq!(site.cookie(&other).1, Held::Kept);
}

#[test]
fn a_session_is_hashed_and_moves_when_it_must() {
    let mut site = Site::by_cookie(CookieMode::Balanced);
    let sessions: Vec<(u16, String)> = (0..1000)
        .map(|_| {
            let (index, held, cookie) = site.cookie("");
            assert_eq!(held, Held::Chosen);
            (index, cookie)
        })
        .collect();
    let of_first = sessions.iter().filter(|(index, _)| *index == 0).count();
    assert!((140..260).contains(&of_first), "{of_first}");
    for (index, cookie) in &sessions {
        assert_eq!(site.cookie(cookie), (*index, Held::Kept, cookie.clone()));
    }
    site.cluster.backends()[0].set_healthy(false);
    for (index, cookie) in &sessions {
        let (now, held, _) = site.cookie(cookie);
        assert_eq!((now == *index, held), (*index != 0, Held::Kept));
    }
    site.cluster.backends()[0].set_healthy(true);
    // A new backend gets its share of the sessions, which a persistent cookie would keep from it.
    site.publish(|plan| {
        plan.backends
            .push(SocketAddr::from(([127, 0, 0, 9], 1)).into())
    });
    let moved = sessions
        .iter()
        .filter(|(_, cookie)| site.cookie(cookie).0 == 5)
        .count();
    assert!((110..230).contains(&moved), "{moved}");
}

#[test]
fn without_a_usable_backend_affinity_holds_on_while_health_is_ignored() {
    let site = Site::by_address();
    let (first, _) = site.client("192.0.2.1");
    for backend in site.cluster.backends() {
        backend.set_healthy(false);
    }
    assert_eq!(site.client("192.0.2.1"), (first, Held::Kept));
}

//! What a backend is chosen by: hash keys, affinity by cookie and header, load.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc;
use std::time::Duration;

use lb_core::plan::{
    self, Affinity, Balance, CookieAffinity, CookieMode, HashKey, Outlier, SameSite,
};
use lb_core::rt::EngineKind;

use crate::support::{Backend, PATIENCE, Proxy, Response, cluster_plan, http_plan, on_each_engine};

/// Backends that answer with their names.
fn named() -> [Backend; 4] {
    ["a", "b", "c", "d"].map(Backend::named)
}

fn start(
    engine: EngineKind,
    backends: &[Backend],
    change: impl FnOnce(&mut plan::Cluster),
) -> Proxy {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let mut cluster = cluster_plan("main", &addresses);
    change(&mut cluster);
    Proxy::start(engine, http_plan(), &[cluster])
}

fn get(proxy: &Proxy, target: &str, fields: &str) -> Response {
    let response = proxy.ask(&format!(
        "GET {target} HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n"
    ));
    assert_eq!(response.status, 200, "{}", response.text());
    response
}

#[test]
fn each_hash_key_leads_requests_that_share_it_to_one_backend() {
    /// A key, and a request that has a value of it.
    type Case = (HashKey, fn(usize) -> (String, String));
    let cases: [Case; 4] = [
        (HashKey::Header("x-user".into()), |value| {
            ("/".into(), format!("X-User: {value}\r\n"))
        }),
        (HashKey::Cookie("id".into()), |value| {
            ("/".into(), format!("Cookie: x=y; id={value}\r\n"))
        }),
        (HashKey::Query("user".into()), |value| {
            (format!("/?x=y&user={value}"), String::new())
        }),
        (HashKey::Uri, |value| (format!("/{value}?x"), String::new())),
    ];
    on_each_engine(|engine| {
        let backends = named();
        for (key, request) in &cases {
            let proxy = start(engine, &backends, |it| {
                it.balance = Balance::Maglev;
                it.hash_key = Some(key.clone());
            });
            let ask = |value| {
                let (target, fields) = request(value);
                get(&proxy, &target, &fields).text().to_owned()
            };
            let first: Vec<String> = (0..32).map(ask).collect();
            let again: Vec<String> = (0..32).map(ask).collect();
            assert_eq!(first, again, "{key:?}");
            let used: HashSet<_> = first.iter().collect();
            assert!(used.len() > 1, "{key:?} leads everywhere");
            // Without the key the client's address is hashed, which is always the same.
            if *key != HashKey::Uri {
                let without: HashSet<_> = (0..4)
                    .map(|_| get(&proxy, "/", "").text().to_owned())
                    .collect();
                assert_eq!(without.len(), 1, "{key:?}");
            }
        }
    });
}

#[test]
fn each_connection_may_be_hashed_by_itself_or_by_where_it_goes() {
    on_each_engine(|engine| {
        let backends = named();
        let proxy = start(engine, &backends, |it| {
            it.balance = Balance::Maglev;
            it.hash_key = Some(HashKey::ClientAddressPort);
        });
        let mut used = HashSet::new();
        for _ in 0..32 {
            let mut client = proxy.connect();
            let names: HashSet<String> = (0..3).map(|_| client.get("/").text().into()).collect();
            assert_eq!(names.len(), 1, "a connection stays");
            used.extend(names);
        }
        assert!(used.len() > 1, "connections spread");
        let proxy = start(engine, &backends, |it| {
            it.balance = Balance::Maglev;
            it.hash_key = Some(HashKey::Destination);
        });
        let used: HashSet<String> = (0..8).map(|_| get(&proxy, "/", "").text().into()).collect();
        assert_eq!(used.len(), 1, "one destination");
    });
}

/// The value of the cookie `lb` that a response sets.
fn set_cookie(response: &Response) -> Option<String> {
    let line = response.field("set-cookie")?;
    let value = line.strip_prefix("lb=").expect("our cookie");
    Some(value.split(';').next().unwrap().to_owned())
}

fn with_cookie(mode: CookieMode) -> impl FnOnce(&mut plan::Cluster) {
    move |cluster| {
        cluster.affinity = Some(Affinity::Cookie(CookieAffinity {
            mode,
            ..CookieAffinity::new("lb")
        }));
    }
}

#[test]
fn a_cookie_leads_back_and_is_set_only_when_it_has_to_be() {
    on_each_engine(|engine| {
        let backends = named();
        for mode in [CookieMode::Persistent, CookieMode::Balanced] {
            let proxy = start(engine, &backends, with_cookie(mode));
            let mut backend_of = HashMap::new();
            for _ in 0..16 {
                let first = get(&proxy, "/", "");
                let value = set_cookie(&first).expect("a cookie for a new client");
                backend_of.insert(value, first.text().to_owned());
            }
            let used: HashSet<_> = backend_of.values().collect();
            assert!(used.len() > 1, "new clients are spread");
            for (value, name) in &backend_of {
                for _ in 0..3 {
                    let response = get(&proxy, "/", &format!("Cookie: a=b; lb={value}\r\n"));
                    assert_eq!(response.text(), name);
                    assert_eq!(set_cookie(&response), None, "it has a good one");
                }
            }
            for bad in ["", "x", &"0".repeat(32), &"f".repeat(33)] {
                let response = get(&proxy, "/", &format!("Cookie: lb={bad}\r\n"));
                assert!(set_cookie(&response).is_some(), "in place of {bad:?}");
            }
        }
    });
}

#[test]
fn the_cookie_says_what_the_plan_says_and_reaches_the_backend() {
    on_each_engine(|engine| {
        let backends = [Backend::echo()];
        let proxy = start(engine, &backends, |it| {
            it.affinity = Some(Affinity::Cookie(CookieAffinity {
                path: "/shop".into(),
                domain: Some("shop.example".into()),
                max_age: Some(Duration::from_secs(3600)),
                same_site: Some(SameSite::Lax),
                ..CookieAffinity::new("lb")
            }));
        });
        let first = get(&proxy, "/shop", "Cookie: a=b\r\n");
        let line = first.field("set-cookie").unwrap();
        let value = set_cookie(&first).unwrap();
        let (start, rest) = line.split_once("; Expires=").unwrap();
        assert_eq!(start, format!("lb={value}"));
        let (date, attributes) = rest.split_once("; ").unwrap();
        assert_eq!((date.len(), &date[25..]), (29, " GMT"));
        assert_eq!(
            attributes,
            "Max-Age=3600; Path=/shop; Domain=shop.example; HttpOnly; SameSite=Lax"
        );
        let second = get(&proxy, "/shop", &format!("Cookie: a=b; lb={value}\r\n"));
        assert!(
            second
                .text()
                .contains(&format!("Cookie: a=b; lb={value}\r\n"))
        );
        assert_eq!(set_cookie(&second), None);
    });
}

#[test]
fn a_client_whose_backend_is_gone_gets_another_and_a_new_cookie() {
    on_each_engine(|engine| {
        let backends = [Backend::named("a"), Backend::named("b")];
        let proxy = start(engine, &backends, with_cookie(CookieMode::Persistent));
        let first = get(&proxy, "/", "");
        let old = set_cookie(&first).unwrap();
        let cluster = &proxy.clusters[0];
        let position = usize::from(first.text() == "b");
        cluster.backends()[position].set_healthy(false);
        let moved = get(&proxy, "/", &format!("Cookie: lb={old}\r\n"));
        assert_ne!(moved.text(), first.text());
        let new = set_cookie(&moved).expect("a new cookie");
        assert_ne!(new, old);
        cluster.backends()[position].set_healthy(true);
        let stays = get(&proxy, "/", &format!("Cookie: lb={new}\r\n"));
        assert_eq!((stays.text(), set_cookie(&stays)), (moved.text(), None));
    });
}

#[test]
fn a_header_leads_back() {
    on_each_engine(|engine| {
        let backends = named();
        let proxy = start(engine, &backends, |it| {
            it.affinity = Some(Affinity::Header {
                name: "x-user".into(),
                timeout: Duration::from_secs(60),
            });
        });
        let ask = |user: usize| {
            let response = get(&proxy, "/", &format!("X-User: {user}\r\n"));
            assert_eq!(response.field("set-cookie"), None);
            response.text().to_owned()
        };
        let first: Vec<String> = (0..16).map(ask).collect();
        let again: Vec<String> = (0..16).rev().map(ask).collect();
        assert!(first.iter().eq(again.iter().rev()));
        let used: HashSet<_> = first.iter().collect();
        assert_eq!(used.len(), 4, "in turns");
    });
}

#[test]
fn the_backend_with_the_fewest_exchanges_under_way_is_asked() {
    on_each_engine(|engine| {
        let (begun, has_begun) = mpsc::channel();
        let slow = |name: &'static str| {
            let begun = begun.clone();
            Backend::scripted(move |mut connection, _| {
                while let Some(request) = connection.request() {
                    if request.head.starts_with("GET /slow") {
                        begun.send(name).unwrap();
                        drop(connection.rest()); // until the proxy closes
                        return;
                    }
                    connection.send(&crate::support::ok(name.as_bytes()));
                }
            })
        };
        let backends = ["a", "b"].map(slow);
        let proxy = start(engine, &backends, |it| {
            it.balance = Balance::LeastConnections;
        });
        let mut waiting = proxy.connect();
        waiting.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        let busy = has_begun.recv_timeout(PATIENCE).unwrap();
        let mut client = proxy.connect();
        for _ in 0..8 {
            assert_ne!(client.get("/").text(), busy);
        }
    });
}

#[test]
fn a_backend_that_answers_with_errors_is_left_out() {
    on_each_engine(|engine| {
        let failing = Backend::responding(|_| {
            b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n".to_vec()
        });
        let backends = [failing, Backend::named("b"), Backend::named("c")];
        let proxy = start(engine, &backends, |it| {
            it.outlier = Some(Outlier {
                failures: Some(3),
                ..Outlier::default()
            });
        });
        let mut client = proxy.connect();
        let failures = (0..60).filter(|_| client.get("/").status == 500).count();
        assert_eq!(failures, 3);
        assert_eq!(proxy.clusters[0].ejected(), 1);
    });
}

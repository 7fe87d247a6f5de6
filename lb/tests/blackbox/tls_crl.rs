//! Lists of revoked certificates that are overdue, or about to be.

use std::time::{Duration, SystemTime};

use rustls::version::{TLS12, TLS13};

use crate::harness::{Folder, on_both_engines, output, wait_until};
use crate::tls::{Authority, client, connect, get};
use crate::tls_clients::{numbered, pair, revoked_until, start, wait_for_failures};

on_both_engines!(
    clients_of_an_overdue_list_are_refused_unless_it_counts_on,
    a_list_becomes_overdue_and_is_renewed,
);

/// From the beginning of 1970 until so long after now.
fn until(after: Duration) -> Duration {
    let now = lb_core::rt::wall_clock().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap() + after
}

fn tls(folder: &Folder, authority: &Authority, end: Duration, more: &str) -> String {
    format!(
        "{}, client_auth: {{ca: '{}', crl: '{}'{more}}}",
        pair(folder, &authority.server(&["shop.example"])),
        folder.write("ca.pem", &authority.pem),
        folder.write("crl.pem", &revoked_until(authority, &[7], end))
    )
}

fn clients_of_an_overdue_list_are_refused_unless_it_counts_on(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let (good, bad) = (numbered(&authority, 6), numbered(&authority, 7));
    let end = Duration::from_secs(1_709_251_200);
    let (lb, address) = start(engine, &folder, &tls(&folder, &authority, end, ""));
    let warning = lb.event("the configuration is odd");
    let warning = warning["warning"].as_str().unwrap();
    assert!(warning.contains("is overdue"), "{warning}");
    assert!(warning.contains("crl_overdue: use"), "{warning}");
    for version in [&TLS12, &TLS13] {
        let good = client(&authority, Some(&good), &[version]);
        get(&mut connect(&good, address, "shop.example")).unwrap_err();
    }
    wait_for_failures(&lb, "client_certificate", 2.0);
    let event = lb.event("a TLS handshake failed");
    let reason = event["reason"].as_str().unwrap();
    assert!(reason.contains("(crl) is overdue"), "{reason}");
    let shown = &lb.config()["plan"]["listeners"][0]["http"]["tls"]["client_auth"];
    assert_eq!(shown["crl_overdue"], "refuse");
    assert_eq!(shown["crls"][0]["overdue"], true);
    assert_eq!(shown["crls"][0]["next_update"], "2024-03-01T00:00:00.000Z");

    let used = tls(&folder, &authority, end, ", crl_overdue: use");
    let (lb, address) = start(engine, &folder, &used);
    for version in [&TLS12, &TLS13] {
        let good = client(&authority, Some(&good), &[version]);
        assert_eq!(
            get(&mut connect(&good, address, "shop.example")).unwrap().0,
            200
        );
        let bad = client(&authority, Some(&bad), &[version]);
        get(&mut connect(&bad, address, "shop.example")).unwrap_err();
    }
    wait_for_failures(&lb, "client_certificate", 2.0);
}

fn a_list_becomes_overdue_and_is_renewed(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let end = until(Duration::from_secs(4));
    let (lb, address) = start(engine, &folder, &tls(&folder, &authority, end, ""));
    let warning = lb.event("the configuration is odd");
    let warning = warning["warning"].as_str().unwrap();
    assert!(warning.contains("overdue"), "{warning}");
    let fresh = || client(&authority, Some(&numbered(&authority, 6)), &[&TLS13]);
    let is_let_in = || get(&mut connect(&fresh(), address, "shop.example")).is_ok();
    wait_until("the list is overdue", || !is_let_in());
    let said = lb.event_where("a list of revoked certificates", |event| {
        let fault = event["is"].as_str();
        fault.is_some_and(|fault| fault.starts_with("is overdue"))
    });
    assert_eq!(said["listener"], "web");
    let series = format!(
        "lb_tls_crl_next_update_seconds{{listener=\"web\",issuer=\"{}\"}}",
        said["issuer"].as_str().unwrap()
    );
    assert_eq!(lb.metric(&series), end.as_secs() as f64);
    // The file is watched.
    let end = until(Duration::from_hours(1000));
    folder.replace("crl.pem", &revoked_until(&authority, &[7], end));
    lb.wait_for_generation(2);
    assert!(is_let_in());
    assert_eq!(lb.metric(&series), end.as_secs() as f64);
}

#[test]
fn a_check_says_what_is_overdue() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let checked = |tls: &str| {
        let yaml = format!(
            "listeners: [{{name: web, address: '127.0.0.1:0', http: {{cluster: c, tls: \
             {{{tls}}}}}}}]\nclusters: {{c: {{backends: ['127.0.0.1:1']}}}}\n"
        );
        let output = output(&["check", "--config", &folder.write("lb.yaml", &yaml)]);
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    let end = until(Duration::from_hours(1));
    let (is_good, said) = checked(&tls(&folder, &authority, end, ""));
    assert!(
        is_good && said.contains("will be overdue within a day"),
        "{said}"
    );
    let end = until(Duration::from_hours(1000));
    let (is_good, said) = checked(&tls(&folder, &authority, end, ""));
    assert!(is_good && !said.contains("overdue, "), "{said}");
    let (is_good, said) = checked(&tls(&folder, &authority, end, ", crl_overdue: maybe"));
    assert!(!is_good && said.contains("maybe"), "{said}");
    let without = format!(
        "{}, client_auth: {{ca: '{}', crl_overdue: use}}",
        pair(&folder, &authority.server(&["shop.example"])),
        folder.write("ca.pem", &authority.pem)
    );
    let (is_good, said) = checked(&without);
    assert!(!is_good && said.contains("there is none"), "{said}");
}

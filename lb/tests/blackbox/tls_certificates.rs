//! Very many certificates.

use std::time::SystemTime;

use rustls::version::TLS13;

use crate::harness::{Folder, Lb};
use crate::tls::{Authority, client, connect, der, echo, get, shown};

/// Not a figure but a bound: what it prints is for whoever wants to know.
#[test]
fn ten_thousand_certificates_are_loaded_and_found() {
    const COUNT: usize = 10_000;
    let (folder, authority) = (Folder::new(), Authority::new());
    let made: Vec<_> = (0..COUNT)
        .map(|at| authority.server(&[&*format!("{at}.example"), &*format!("*.{at}.example")]))
        .collect();
    let mut yaml = format!(
        "clusters: {{c: {{backends: ['{}']}}}}\nlisteners:\n- name: web\n  address: \
         127.0.0.1:0\n  http:\n    cluster: c\n    tls:\n      certificates:\n",
        echo()
    );
    for (at, it) in made.iter().enumerate() {
        let path = folder.write(&format!("{at}.pem"), &(it.certificate.clone() + &it.key));
        yaml += &format!("      - {{certificate: '{path}'}}\n");
    }
    let path = folder.write("lb.yaml", &yaml);
    let start = SystemTime::now();
    let lb = Lb::start("epoll", &["--config", &path]);
    let took = start.elapsed().unwrap();
    let memory = lb.resident_kib();
    eprintln!("{COUNT} certificates: ready after {took:?}, {memory} KiB resident");
    assert!(memory < 400 * 1024, "{memory} KiB");
    let address = lb.listener("web");
    for at in [0, 1, COUNT / 2, COUNT - 1] {
        for name in [format!("{at}.example"), format!("a.{at}.example")] {
            let mut stream = connect(&client(&authority, None, &[&TLS13]), address, &name);
            assert_eq!(get(&mut stream).unwrap().0, 200);
            assert_eq!(shown(&stream), der(&made[at].certificate), "{name}");
        }
    }
}

//! The end of the process.

use std::io::Read;
use std::net::TcpStream;
use std::thread;

use rustix::process::Signal;

use crate::client::{self, Connection};
use crate::harness::{Lb, on_both_engines, wait_until};
use crate::origin::{self, HttpOrigin, Session};

on_both_engines!(
    exchanges_in_flight_finish,
    the_deadline_cuts_what_is_left,
    a_second_signal_leaves_at_once,
    an_idle_process_ends_at_once,
);

fn exchanges_in_flight_finish(engine: &str) {
    let origin = HttpOrigin::start("a");
    let http = format!("web@127.0.0.1:0={}", origin.address);
    let lb = Lb::start(engine, &["--http", &http, "--drain-timeout", "1h"]);
    let (web, admin) = (lb.listener("web"), lb.admin());
    let mut idle = Connection::open(web);
    assert_eq!(idle.get("/").body, "a");
    let in_flight = thread::spawn(move || Connection::open(web).get("/wait"));
    origin.wait_for_waiting();

    lb.signal(Signal::TERM);
    lb.event("draining");
    assert!(idle.is_closed(), "idle connections are closed");
    wait_until("the listener to close", || TcpStream::connect(web).is_err());
    let ready = client::get(admin, "/readyz");
    assert_eq!((ready.status, ready.body.as_str()), (503, "draining\n"));

    origin.release();
    let response = in_flight.join().unwrap();
    assert_eq!((response.status, response.body.as_str()), (200, "a"));
    lb.event("drained");
    assert_eq!(lb.wait().0.code(), Some(0));
}

fn the_deadline_cuts_what_is_left(engine: &str) {
    let tcp = format!("db@127.0.0.1:0={}", origin::tcp("a"));
    let lb = Lb::start(engine, &["--tcp", &tcp, "--drain-timeout", "2s"]);
    let mut session = Session::open(lb.listener("db"));
    assert!(session.echoes());
    lb.signal(Signal::TERM);
    lb.event("draining");
    assert!(session.echoes(), "a session goes on until the deadline");
    let cut = lb.event("connections are cut");
    assert_eq!(cut["connections"], "1");
    wait_until("the cut", || !session.echoes()); // it is said before it is done
    assert_eq!(lb.wait().0.code(), Some(0));
}

fn a_second_signal_leaves_at_once(engine: &str) {
    let tcp = format!("db@127.0.0.1:0={}", origin::tcp("a"));
    let lb = Lb::start(engine, &["--tcp", &tcp, "--drain-timeout", "1h"]);
    let session = Session::open(lb.listener("db"));
    lb.signal(Signal::TERM);
    lb.event("draining");
    lb.signal(Signal::INT);
    lb.event("leaving at once");
    assert_eq!(lb.wait().0.code(), Some(1));
    drop(session);
}

fn an_idle_process_ends_at_once(engine: &str) {
    let origin = HttpOrigin::start("a");
    let http = format!("web@127.0.0.1:0={}", origin.address);
    let lb = Lb::start(engine, &["--http", &http, "--drain-timeout", "1h"]);
    // Connected, and nothing asked yet: there is nothing to wait for.
    let mut silent = TcpStream::connect(lb.listener("web")).unwrap();
    let active = "lb_client_connections_active{listener=\"web\"}";
    wait_until("the connection", || lb.metric(active) == 1.0);
    lb.signal(Signal::INT);
    assert_eq!(lb.wait().0.code(), Some(0));
    assert!(matches!(silent.read(&mut [0]), Ok(0) | Err(_)));
}

//! Random talks through a small relay on a simulated network, faults included: nothing is lost,
//! doubled, reordered or leaked. 256 seeds in an ordinary run; `LB_SIM_SEEDS=N` runs N, and
//! `LB_SIM_SEED=S` the one that failed.
//!
//! Read next: `storm.rs` (one seed), `talk.rs` (what the ends of a connection do).

mod seeds;
mod storm;
mod talk;

use lb_core::rt::{self, ListenOptions, Notify, TaskId, TcpListener, TcpStream};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

#[test]
fn random_talks_survive_a_relay() {
    let splices = storm::run_seeds(start_relay);
    assert_eq!(splices, 0, "this relay only copies");
}

#[test]
fn a_seed_is_a_history() {
    storm::check_determinism(start_relay);
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TRIES: usize = 10;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

fn start_relay(backends: &[SocketAddr]) -> (SocketAddr, TaskId) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = TcpListener::bind(any, &ListenOptions::default()).expect("bind");
    let front = listener.local_addr().expect("address");
    let backends: Rc<[SocketAddr]> = backends.into();
    let accept = async move {
        let mut turn = 0;
        loop {
            match listener.accept().await {
                Ok(client) => {
                    turn += 1;
                    rt::spawn(session(client, Rc::clone(&backends), turn));
                }
                Err(_out_of_descriptors) => rt::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    (front, rt::spawn(accept))
}

async fn session(client: TcpStream, backends: Rc<[SocketAddr]>, turn: usize) {
    for attempt in 0..CONNECT_TRIES {
        let address = backends[(turn + attempt) % backends.len()];
        let connect = TcpStream::connect(address);
        if let Ok(Ok(backend)) = rt::timeout(CONNECT_TIMEOUT, connect).await {
            return relay(client, backend).await;
        }
    }
    client.reset();
}

/// Relays until both directions have ended, or one has failed, or nothing has moved for long.
async fn relay(client: TcpStream, backend: TcpStream) {
    let failed = Notify::new();
    let directions = rt::join(
        direction(&client, &backend, &failed),
        direction(&backend, &client, &failed),
    );
    let whole = rt::select(failed.notified(), directions).await;
    if let rt::Either::First(()) = whole {
        client.reset();
        backend.reset();
    }
}

async fn direction(from: &TcpStream, to: &TcpStream, failed: &Notify) {
    if pass_on(from, to).await.is_none() {
        failed.notify();
        std::future::pending::<()>().await;
    }
}

/// `None` when the direction failed.
async fn pass_on(from: &TcpStream, to: &TcpStream) -> Option<()> {
    loop {
        let chunk = rt::timeout(IDLE_TIMEOUT, from.recv()).await.ok()?.ok()?;
        if chunk.is_empty() {
            return rt::timeout(IDLE_TIMEOUT, to.shutdown()).await.ok()?.ok();
        }
        rt::timeout(IDLE_TIMEOUT, to.send(chunk)).await.ok()?.ok()?;
    }
}

//! An exchange as a list of operations: bytes say what clients and backends send, cut, delay and
//! close, and in which order; the real exchange is between them, on the simulated network.
//!
//! Invariant checked here: no byte of one exchange in another, responses in order, what must not be
//! repeated is not, nothing left behind, and virtual time in which all is over.
//! Shared with the fuzz target `exchange`. Read next: `script.rs` (the bytes), `ends.rs` (who
//! sends), `checks.rs` (what is looked at), `messages.rs` (a parser that shares no code with ours).

mod checks;
mod ends;
mod messages;
mod script;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use lb_core::rt::{self, Config, EngineKind, Runtime, TcpListener, TcpStream, sim};

use crate::proxy::{Proxy, listen};
use ends::{Asked, BackendEnd, ClientEnd, End};
use script::{Operation, Script, Side};

/// Virtual time in which everything is over: longer than all deadlines of a script in a row.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Bytes that a script may have sent, so that each ends soon in real time too.
const BYTES_MAX: usize = 256 << 10;

/// Runs the operations that `input` says; panics where something is wrong.
pub(crate) fn run(input: &[u8]) {
    let Some(script) = Script::read(input) else {
        return;
    };
    let config = Config {
        engine: EngineKind::Sim,
        sim: sim::Settings {
            seed: script.seed,
            faults: script.faults.clone(),
        },
        ..Config::default()
    };
    let mut runtime = Runtime::new(&config).expect("a simulated runtime");
    runtime.block_on(async {
        let over = rt::timeout(LIMIT, play(script)).await;
        assert!(over.is_ok(), "not over after {LIMIT:?}");
        assert_eq!(rt::stats().panics, 0, "something of ours panicked");
    });
}

/// All that a script has at hand.
pub(crate) struct World {
    clients: Vec<ClientEnd>,
    /// By backend, the connections that it has accepted.
    backends: Vec<RefCell<Vec<BackendEnd>>>,
    front: SocketAddr,
    /// Requests sent so far; the number of one is its place here.
    asked: Vec<Asked>,
    bytes: usize,
}

async fn play(script: Script) {
    let listening: Vec<(TcpListener, SocketAddr)> =
        (0..script.backends).map(|_| listen()).collect();
    let addresses: Vec<SocketAddr> = listening.iter().map(|it| it.1).collect();
    let proxy = Proxy::start(&script.http, &script.cluster(&addresses));
    let world = Rc::new(RefCell::new(World {
        clients: Vec::new(),
        backends: addresses.iter().map(|_| RefCell::default()).collect(),
        front: proxy.address,
        asked: Vec::new(),
        bytes: 0,
    }));
    let accepting: Vec<rt::TaskId> = listening
        .into_iter()
        .enumerate()
        .map(|(index, (listener, _))| rt::spawn(accept(Rc::clone(&world), listener, index)))
        .collect();
    for operation in script.operations {
        match operation {
            Operation::Pause(time) => rt::sleep(time).await,
            Operation::Yield => rt::yield_now().await,
            Operation::Drain => proxy.worker.draining.set(true),
            operation => world.borrow_mut().apply(&operation),
        }
    }
    // From here on nobody says anything: deadlines have to end it all.
    proxy.settle().await;
    accepting.into_iter().for_each(rt::abort);
    checks::check(&world.borrow());
    world.borrow().close();
    drop(world);
    proxy.end().await;
}

async fn accept(world: Rc<RefCell<World>>, listener: TcpListener, index: usize) {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let end = End::start(stream);
                let backend = BackendEnd::new(end);
                world.borrow().backends[index].borrow_mut().push(backend);
            }
            Err(_out_of_descriptors) => rt::sleep(Duration::from_millis(20)).await,
        }
    }
}

impl World {
    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Open => self.open(),
            Operation::Ask(client, request) => {
                let number = self.asked.len();
                let client_index = self.client(*client);
                if let Some(index) = client_index
                    && self.spend(request.body)
                {
                    let asked = self.clients[index].ask(number, index, request);
                    self.asked.push(asked);
                }
            }
            Operation::Answer(backend, response) => {
                if self.spend(response.body) {
                    self.answer(*backend, response);
                }
            }
            Operation::Raw(side, bytes) => {
                if let Some(end) = self.end_of(*side) {
                    end.push_raw(bytes);
                    end.is_raw.set(true);
                }
                if let Side::Client(client) = side
                    && let Some(index) = self.client(*client)
                {
                    self.clients[index].is_raw = true;
                }
            }
            Operation::Send(side, most) => self.with(*side, |end| end.release(*most)),
            Operation::Finish(side) => self.with(*side, End::finish),
            Operation::Close(side) => self.with(*side, End::close),
            Operation::Reset(side) => self.with(*side, End::reset),
            Operation::Read(side, reads) => self.with(*side, |end| end.set_reads(*reads)),
            Operation::Pause(_) | Operation::Yield | Operation::Drain => {}
        }
    }

    /// Whether so many bytes more may be sent.
    fn spend(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        self.bytes <= BYTES_MAX
    }

    fn open(&mut self) {
        let end = End::start_later(connect(self.front));
        self.clients.push(ClientEnd::new(end));
    }

    /// The client that a number means; there is none before one was opened.
    fn client(&self, number: u8) -> Option<usize> {
        let count = self.clients.len();
        (count > 0).then(|| usize::from(number) % count)
    }

    fn end_of(&self, side: Side) -> Option<Rc<End>> {
        match side {
            Side::Client(number) => {
                let index = self.client(number)?;
                Some(Rc::clone(&self.clients[index].end))
            }
            Side::Backend(number) => {
                let index = usize::from(number) % self.backends.len();
                let connections = self.backends[index].borrow();
                let mut open = connections.iter().rev().filter(|it| !it.end.is_over());
                let end = open.next()?;
                Some(Rc::clone(&end.end))
            }
        }
    }

    fn with(&self, side: Side, act: impl FnOnce(&End)) {
        if let Some(end) = self.end_of(side) {
            act(&end);
        }
    }

    /// Has a backend answer the first request on any of its connections that has no answer.
    fn answer(&self, number: u8, response: &script::Response) {
        let index = usize::from(number) % self.backends.len();
        let mut connections = self.backends[index].borrow_mut();
        for connection in connections.iter_mut().filter(|it| !it.end.is_over()) {
            if connection.answer(&self.asked, response) {
                return;
            }
        }
    }

    /// Everybody leaves.
    fn close(&self) {
        let clients = self.clients.iter().map(|it| Rc::clone(&it.end));
        let backends = self.backends.iter().flat_map(|it| {
            let connections = it.borrow();
            connections
                .iter()
                .map(|it| Rc::clone(&it.end))
                .collect::<Vec<_>>()
        });
        clients.chain(backends).for_each(|end| end.reset());
    }
}

async fn connect(front: SocketAddr) -> std::io::Result<TcpStream> {
    TcpStream::connect(front).await
}

//! What the HTTP connections of one worker share: idle backend connections, the date, the log.
//!
//! Invariant: it never leaves its thread, so nothing in it is locked.
//! Read next: `connection.rs` (its user), `pool.rs`.

use std::rc::Rc;
use std::time::Duration;

use lb_core::balance::BackendId;
use lb_core::rt;
use lb_core::worker::Worker;

use crate::access_log::AccessLog;
use crate::date::DateCache;
use crate::http2::client::Backends;
use crate::http2::server::Clients;
use crate::pool::Pool;
use crate::rooms::Rooms;

/// The HTTP side of one worker.
#[derive(Debug)]
pub struct HttpWorker {
    pub(crate) worker: Rc<Worker>,
    pub(crate) pool: Pool,
    pub(crate) date: DateCache,
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) rooms: Rooms,
    pub(crate) clients: Clients,
    pub(crate) backends: Backends,
}

impl HttpWorker {
    /// How often idle connections are looked through, and log lines handed over.
    const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

    /// Without idle connections; starts a task on the calling thread's runtime that closes the
    /// ones that grow old. It ends when the last owner of the `HttpWorker` is gone.
    pub fn new(worker: Rc<Worker>, access_log: Option<AccessLog>) -> Rc<Self> {
        let http = Rc::new(Self {
            worker,
            pool: Pool::default(),
            date: DateCache::default(),
            access_log,
            rooms: Rooms::default(),
            clients: Clients::default(),
            backends: Backends::default(),
        });
        let weak = Rc::downgrade(&http);
        rt::spawn(async move {
            loop {
                rt::sleep(Self::SWEEP_INTERVAL).await;
                let Some(http) = weak.upgrade() else { return };
                http.sweep();
            }
        });
        http
    }

    /// Closes idle connections to backends that are `gone` from the plan.
    pub fn close_pools(&self, gone: impl Fn(BackendId) -> bool) {
        self.pool.retain(|backend| !gone(backend));
        self.backends.retain(|backend| !gone(backend));
    }

    /// Number of idle connections to backends.
    pub fn pooled(&self) -> usize {
        self.pool.len() + self.backends.idle()
    }

    /// Hands the log lines over that have gathered; also done every second.
    pub fn flush_access_log(&self) {
        if let Some(log) = &self.access_log {
            log.flush();
        }
    }

    fn sweep(&self) {
        self.pool.sweep(rt::now());
        self.backends.sweep();
        self.flush_access_log();
        if self.worker.draining.get() {
            self.clients.drain();
        }
    }
}

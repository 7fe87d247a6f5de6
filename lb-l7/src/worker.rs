//! What the HTTP connections of one worker share: idle backend connections, the date, the log.
//!
//! Invariant: it never leaves its thread, so nothing in it is locked.
//! Read next: `connection.rs` (its user), `pool.rs`.

use std::rc::Rc;
use std::time::Duration;

use lb_core::balance::BackendId;
use lb_core::rt;
use lb_core::worker::Worker;

use crate::date::DateCache;
use crate::log::Lines;
use crate::pool::Pool;
use crate::request_id::RequestIds;
use crate::rooms::Rooms;

/// The HTTP side of one worker.
#[derive(Debug)]
pub struct HttpWorker {
    pub(crate) worker: Rc<Worker>,
    pub(crate) pool: Pool,
    pub(crate) date: DateCache,
    pub(crate) lines: Lines,
    pub(crate) request_ids: RequestIds,
    pub(crate) rooms: Rooms,
}

impl HttpWorker {
    /// How often idle connections are looked through, and log lines handed over.
    const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

    /// Without idle connections; starts a task on the calling thread's runtime that closes the
    /// ones that grow old. It ends when the last owner of the `HttpWorker` is gone.
    pub fn new(worker: Rc<Worker>) -> Rc<Self> {
        let http = Rc::new(Self {
            worker,
            pool: Pool::default(),
            date: DateCache::default(),
            lines: Lines::default(),
            request_ids: RequestIds::new(),
            rooms: Rooms::default(),
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

    /// Closes idle connections to backends that are not `present` in a new snapshot.
    pub fn retain_pools(&self, present: impl Fn(BackendId) -> bool) {
        self.pool.retain(present);
    }

    /// Number of idle connections to backends.
    pub fn pooled(&self) -> usize {
        self.pool.len()
    }

    /// Hands the log lines over that have gathered; also done every second.
    pub fn flush_access_log(&self) {
        self.lines.flush();
    }

    fn sweep(&self) {
        self.pool.sweep(rt::now());
        self.flush_access_log();
    }
}

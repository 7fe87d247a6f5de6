//! What one worker thread knows of itself; every task of the thread holds it in an `Rc`.
//!
//! Invariant: a `Worker` never leaves its thread, so its counters have one writer.
//! Read next: `connections.rs` (the client connections), `metrics/mod.rs` (the counters).

use std::cell::Cell;
use std::sync::Arc;

use crate::connections::Registry;
use crate::lines::Lines;
use crate::metrics::WorkerMetrics;

/// One worker thread.
#[derive(Debug)]
pub struct Worker {
    /// Position among the workers, from 0; names this worker's shard of every counter.
    pub index: usize,
    /// Counters of the worker as a whole.
    pub metrics: Arc<WorkerMetrics>,
    /// The client connections being served.
    pub connections: Registry,
    /// What is logged of them.
    pub lines: Lines,
    /// Set when the process is asked to end: a connection closes after what it is doing now.
    pub draining: Cell<bool>,
}

impl Worker {
    /// A worker without connections.
    pub fn new(index: usize, metrics: Arc<WorkerMetrics>) -> Self {
        Self {
            index,
            connections: Registry::new(Arc::clone(&metrics)),
            metrics,
            lines: Lines::default(),
            draining: Cell::new(false),
        }
    }
}

//! Request bodies that are received before a backend is asked, so that another one can be asked
//! when it fails, and so that slow clients do not hold connections to backends.
//!
//! Invariant: an exchange holds no more than its listener allows, and all of a worker together no
//! more than [`HELD_MAX`]: what is longer is passed on as it comes.
//! Read next: `upload.rs` (the rest of a body), `reach.rs` (who is asked).

use std::cell::Cell;

use lb_core::rt::Chunk;

use crate::connection::Connection;
use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::waiting::Waiting;

/// Bytes that the exchanges of one worker hold so.
const HELD_MAX: usize = 256 << 20;

/// The bytes that are held by one exchange, counted until it is over.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    bytes: usize,
}

impl Gathered {
    fn add(&mut self, bytes: usize, connection: &Connection) {
        self.bytes += bytes;
        change(&connection.http.gathered, |held| held + bytes);
    }

    /// The exchange is over.
    pub(crate) fn leave(&self, connection: &Connection) {
        change(&connection.http.gathered, |held| held - self.bytes);
    }
}

fn change(held: &Cell<usize>, to: impl FnOnce(usize) -> usize) {
    held.set(to(held.get()));
}

impl Exchange<'_> {
    /// Receives the body if it is short enough; or its start, if that is found out too late. Who
    /// waits for an answer before it has sent all is not held up: gRPC, and who is to be told to
    /// continue.
    pub(crate) async fn gather(&mut self) -> Result<(), Failure> {
        let most = self.service.exchanges.request_buffer as usize;
        let held = self.connection.http.gathered.get();
        if self.request.expects_continue
            || self.request.is_grpc
            || !self.request.upload.may_gather(most)
            || held + most > HELD_MAX
        {
            return Ok(());
        }
        let mut body = self
            .request
            .body_at_hand
            .take()
            .map_or_else(Vec::new, |it| it.to_vec());
        self.request.upload.begin_gathering(self.request.framing);
        while self.request.upload.may_gather(most) && body.len() < most {
            let before = body.len();
            let bytes = self
                .wait(Waiting::RequestBody, None, |it, cx| {
                    let client = &it.connection.client;
                    it.request.upload.poll_gather(client, &mut body, cx)
                })
                .await??;
            self.gathered.add(body.len() - before, self.connection);
            if let Some(record) = &mut self.request.log {
                record.received_bytes += bytes as u64;
            }
            let listener = self.connection.registration.listener();
            listener.received_bytes.add(bytes as u64);
        }
        self.request.body_at_hand = (!body.is_empty()).then(|| Chunk::from_vec(body));
        Ok(())
    }
}

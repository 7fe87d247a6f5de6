//! A TCP origin: echo, or bulk data for each line.
//!
//! Invariant: echoed bytes are the very buffers that were received, never copied; the end of the
//! client's stream is answered with the end of ours.
//! Read next: `../tcp.rs` (the conversation).

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use lb_core::rt::{self, Chunk, TcpListener, TcpStream};

use super::drain::Drain;
use super::service::{Counter, Fate};
use crate::tcp::{TcpMode, WHO, pattern};

/// What all connections of a thread to one address share.
pub(super) struct Tcp {
    /// The name and a line feed.
    name_line: Chunk,
    mode: TcpMode,
    counter: RefCell<Counter>,
}

impl Tcp {
    pub(super) fn new(name: &str, mode: TcpMode, counter: Counter) -> Self {
        Self {
            name_line: Chunk::from_vec(format!("{name}\n").into_bytes()),
            mode,
            counter: RefCell::new(counter),
        }
    }

    /// Serves the listener until the drain begins.
    pub(super) async fn serve(self: Rc<Self>, listener: TcpListener, drain: Rc<Drain>) {
        while let Some(stream) = drain.accept(&listener).await {
            let (tcp, open) = (Rc::clone(&self), drain.open());
            rt::spawn(async move {
                let _open = open;
                // A client that goes away needs no answer, and there is nobody to tell.
                let _ = tcp.serve_connection(&stream).await;
            });
        }
    }

    async fn serve_connection(&self, stream: &TcpStream) -> io::Result<()> {
        let mut input = stream.recv().await?;
        // Only as a whole: the beginning of it may be all that an echo client sends.
        if input.starts_with(WHO) {
            input.advance(WHO.len());
            stream.send(self.name_line.share()).await?;
            if input.is_empty() {
                input = stream.recv().await?;
            }
        }
        while !input.is_empty() {
            match self.mode {
                TcpMode::Echo => {
                    self.take_turn(stream).await?;
                    stream.send(input).await?;
                }
                TcpMode::Stream(bytes) => {
                    for _ in input.iter().filter(|byte| **byte == b'\n') {
                        self.take_turn(stream).await?;
                        send_pattern(stream, bytes).await?;
                    }
                }
            }
            input = stream.recv().await?;
        }
        stream.shutdown().await
    }

    /// Waits until the request is to be answered.
    ///
    /// # Errors
    /// When it is to fail, and with it the connection.
    async fn take_turn(&self, stream: &TcpStream) -> io::Result<()> {
        let turn = self.counter.borrow_mut().turn(rt::now_precise);
        if let Some(at) = turn.at {
            rt::sleep_until_precise(at).await;
        }
        match turn.fate {
            Fate::Answered => return Ok(()),
            Fate::Failed => {}
            Fate::Reset => stream.reset_on_drop(),
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

async fn send_pattern(stream: &TcpStream, mut bytes: usize) -> io::Result<()> {
    while bytes > 0 {
        let mut chunk = Chunk::from_static(pattern());
        chunk.truncate(bytes);
        bytes -= chunk.len();
        stream.send(chunk).await?;
    }
    Ok(())
}

//! The two ends of a proxy: scripted backends, and a plain blocking client.
//!
//! Everything binds port 0 and is gone when it is dropped, so tests run side by side. The tests of
//! the program use them, too.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Longer than anything here takes, shorter than a patient reader of test output.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A backend whose every connection is handled by a closure on a thread of its own.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Backend {
    /// `handle` gets each connection with its number, from 0.
    pub(crate) fn scripted(handle: impl Fn(Client, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (counter, stopped) = (Arc::clone(&connections), Arc::clone(&stop));
        let handle = Arc::new(handle);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let number = counter.fetch_add(1, Ordering::Relaxed);
                let handle = Arc::clone(&handle);
                thread::spawn(move || handle(Client::new(stream), number));
            }
        });
        Self {
            address,
            connections,
            stop,
        }
    }

    /// A backend that answers every request with what `respond` makes of it.
    pub(crate) fn responding(
        respond: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Self::scripted(move |mut connection, _| {
            while let Some(request) = connection.request() {
                connection.send(&respond(&request));
            }
        })
    }

    /// A backend that answers with the request as it came, head and body.
    pub(crate) fn echo() -> Self {
        Self::responding(|request| ok(&[request.head.as_bytes(), &request.body].concat()))
    }

    /// A backend that answers with `name`.
    pub(crate) fn named(name: &'static str) -> Self {
        Self::responding(move |_| ok(name.as_bytes()))
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
    }
}

/// An address on which nobody listens.
pub(crate) fn refusing() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Closes with a reset.
pub(crate) fn reset(client: Client) {
    let socket = socket2::SockRef::from(&client.stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

/// A 200 with `body`.
pub(crate) fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A request as a backend sees it.
pub(crate) struct Request {
    /// Up to and including the blank line.
    pub(crate) head: String,
    /// Chunks and all.
    pub(crate) body: Vec<u8>,
}

/// A response as a client sees it.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Up to and including the blank line.
    pub(crate) head: String,
    /// Without chunks.
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// One end of a connection, blocking.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).unwrap())
    }

    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// The other end may have gone: what it then answers, or does not, is the test's subject.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
        self.response()
    }

    /// The next response.
    pub(crate) fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    pub(crate) fn response_to(&mut self, method: &str) -> Response {
        let head = self.head().expect("a response");
        let status = head[9..12].parse().unwrap();
        let has_body = method != "HEAD" && !matches!(status, 100..=199 | 204 | 304);
        let body = if !has_body {
            Vec::new()
        } else if field(&head, "transfer-encoding").is_some() {
            self.chunks().expect("a whole body")
        } else if let Some(length) = field(&head, "content-length") {
            self.take(length.parse().unwrap()).expect("a whole body")
        } else {
            self.rest().expect("an end of the stream")
        };
        Response { status, head, body }
    }

    /// The next request, with its body as it comes; `None` at the end of the stream.
    pub(crate) fn request(&mut self) -> Option<Request> {
        let head = self.head().ok()?;
        let body = if field(&head, "transfer-encoding").is_some() {
            self.raw_chunks().ok()?
        } else {
            let length = field(&head, "content-length").unwrap_or("0");
            self.take(length.parse().unwrap()).ok()?
        };
        Some(Request { head, body })
    }

    /// Up to and including the next blank line.
    pub(crate) fn head(&mut self) -> io::Result<String> {
        self.line_end(b"\r\n\r\n")
    }

    /// Up to and including `end`.
    pub(crate) fn line_end(&mut self, end: &[u8]) -> io::Result<String> {
        loop {
            if let Some(at) = self
                .buffer
                .windows(end.len())
                .position(|window| window == end)
            {
                let line = self.take(at + end.len())?;
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            self.fill()?;
        }
    }

    pub(crate) fn take(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < len {
            self.fill()?;
        }
        Ok(self.buffer.drain(..len).collect())
    }

    /// What comes next, as much of it as there is and `room` takes; 0 at the end.
    pub(crate) fn read_some(&mut self, room: &mut [u8]) -> usize {
        if self.buffer.is_empty() && self.fill().is_err() {
            return 0;
        }
        let len = room.len().min(self.buffer.len());
        room[..len].copy_from_slice(&self.buffer[..len]);
        self.buffer.drain(..len);
        len
    }

    /// A chunked body without trailers, as it comes.
    fn raw_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut raw = Vec::new();
        loop {
            let line = self.line_end(b"\r\n")?;
            let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
            raw.extend(line.into_bytes());
            raw.extend(self.take(size + 2)?);
            if size == 0 {
                return Ok(raw);
            }
        }
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = self.line_end(b"\r\n")?;
            let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
            if size == 0 {
                while self.line_end(b"\r\n")? != "\r\n" {}
                return Ok(body);
            }
            body.extend(self.take(size)?);
            assert_eq!(self.take(2)?, b"\r\n");
        }
    }

    /// Everything up to the end of the stream; an error if it is reset.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.fill() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(std::mem::take(&mut self.buffer));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the other end closes, without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.rest().is_ok_and(|rest| rest.is_empty())
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut room = [0; 64 * 1024];
        match self.stream.read(&mut room) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => {
                self.buffer.extend_from_slice(&room[..len]);
                Ok(())
            }
            // A read with a timeout is not restarted, and the end of a ring that this thread has
            // probed interrupts it.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

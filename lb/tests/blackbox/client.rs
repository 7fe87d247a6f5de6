//! A small HTTP/1.1 client that believes nothing it has not read.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use crate::harness::DEADLINE;

/// What was answered.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// One request on a connection of its own.
pub(crate) fn get(address: SocketAddr, path: &str) -> Response {
    Connection::open(address).get(path)
}

/// A connection that can carry several requests.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).expect("a connection"))
    }

    pub(crate) fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// From an address of this machine, as 127.0.0.7: each is a client of its own.
    pub(crate) fn open_from(client: Ipv4Addr, address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((client, 0)).into()).unwrap();
        socket.connect(&address.into()).expect("a connection");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// With more header fields, each a line without its end.
    pub(crate) fn get_with(&mut self, path: &str, fields: &[&str]) -> Response {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        self.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: test.example\r\n{fields}\r\n"
        ));
        self.receive()
    }

    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: test.example\r\n\r\n"
        ));
        self.receive()
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.stream
            .get_mut()
            .write_all(text.as_bytes())
            .expect("the request is taken");
    }

    pub(crate) fn receive(&mut self) -> Response {
        self.try_receive().expect("a complete response")
    }

    /// `None` if the connection ends before a response has begun or is complete.
    pub(crate) fn try_receive(&mut self) -> Option<Response> {
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1)?.parse().ok()?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut response = Response {
            status,
            headers,
            body: String::new(),
        };
        let length = response
            .header("content-length")
            .map(|length| length.parse().unwrap());
        response.body = match length {
            None if matches!(status, 204 | 304) => String::new(),
            Some(length) => {
                let mut body = vec![0; length];
                self.stream.read_exact(&mut body).ok()?;
                String::from_utf8(body).unwrap()
            }
            None => self.chunks()?,
        };
        Some(response)
    }

    /// Whether the other side has ended the connection; waits for it.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        matches!(self.stream.read(&mut byte), Ok(0))
    }

    fn chunks(&mut self) -> Option<String> {
        let mut body = String::new();
        loop {
            let size = usize::from_str_radix(&self.line()?, 16).ok()?;
            let mut chunk = vec![0; size];
            self.stream.read_exact(&mut chunk).ok()?;
            self.line()?;
            if size == 0 {
                return Some(body);
            }
            body.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).ok()?;
        Some(line.strip_suffix("\r\n")?.to_owned())
    }
}

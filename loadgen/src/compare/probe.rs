//! One exchange over a blocking socket: is a balancer there, and does it still answer?
//!
//! Invariant: an exchange either comes back whole and right, or it is an error; and none waits
//! longer than [`EXCHANGE_TIMEOUT`].

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use lb_core::rt::Chunk;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};

use super::scenario::{Mode, Scenario, Secure, Speech};
use crate::http2::{Broken, End, Event, Outgoing, PREFACE, Wire, literal};
use crate::tcp::WHO;
use crate::tls::{TlsRequest, Version};
use crate::udp::{self, Header, Kind, NAME_BYTES_MAX};
use crate::websocket::{BINARY, Head as FrameHead, KEY};

/// How long connecting, sending and receiving may each take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for a datagram, which may be lost while a program starts.
const DATAGRAM_TIMEOUT: Duration = Duration::from_millis(200);
/// A head longer than this is not one that our origins send.
const HEAD_BYTES_MAX: usize = 8 * 1024;

const MESSAGE: [u8; 64] = [b'm'; 64];
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const LAST_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// A connection to a balancer.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    speech: Speech,
    /// Bytes that answer a line, where that is what is spoken.
    answer_bytes: usize,
    /// It is a WebSocket.
    is_upgraded: bool,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Udp(UdpSocket),
}

impl Connection {
    /// Connects to an origin of `scenario` at `address`: origins never speak TLS.
    ///
    /// # Errors
    /// When nobody listens there.
    pub(crate) fn open_origin(address: SocketAddr, scenario: Scenario) -> io::Result<Self> {
        Self::with(address, scenario, Secure::No)
    }

    /// Connects to `address`, where `scenario` is played.
    ///
    /// # Errors
    /// When nobody listens there.
    pub(crate) fn open(address: SocketAddr, scenario: Scenario) -> io::Result<Self> {
        Self::with(address, scenario, scenario.spec().secure)
    }

    fn with(address: SocketAddr, scenario: Scenario, secure: Secure) -> io::Result<Self> {
        Ok(Self {
            stream: match (scenario.spec().mode, secure) {
                (Mode::Udp, _) => Stream::Udp(connect_udp(address)?),
                (Mode::Http | Mode::Tcp, Secure::No) => Stream::Tcp(connect(address)?),
                (Mode::Http | Mode::Tcp, _) => Stream::Tls(Box::new(connect_tls(address)?)),
            },
            speech: scenario.spec().speech,
            answer_bytes: scenario.spec().answer_bytes,
            is_upgraded: false,
        })
    }

    /// Sends one request or message and takes the whole of what it is answered.
    ///
    /// # Errors
    /// When the answer is wrong, incomplete or late.
    pub(crate) fn exchange(&mut self) -> io::Result<()> {
        let stream = match &mut self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Tls(stream) => return exchange(stream, REQUEST).map(drop),
            // A sink echoes too what is to be echoed.
            Stream::Udp(socket) => return exchange_datagram(socket),
        };
        match self.speech {
            Speech::Grpc | Speech::Http2 => exchange_http2(stream, self.speech),
            Speech::WebSocket => exchange_websocket(stream, &mut self.is_upgraded),
            Speech::Http => exchange(stream, REQUEST).map(drop),
            Speech::Stream => {
                stream.write_all(b"\n")?;
                skip(stream, self.answer_bytes)
            }
            Speech::Echo | Speech::DatagramEcho | Speech::DatagramStream { .. } => echo(stream),
        }
    }
}

/// The body that an HTTP server answers a request for `path` with.
///
/// # Errors
/// When nobody is there, or the answer is not 200, whole and in time.
pub(crate) fn get(address: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    exchange(&mut connect(address)?, text.as_bytes()).map(|(_, body)| body)
}

/// The name of the origin that a client at `source` gets from an HTTP proxy.
///
/// # Errors
/// When the answer is not a good one with an X-Origin header.
pub(crate) fn origin_over_http(source: IpAddr, address: SocketAddr) -> io::Result<String> {
    let mut stream = connect_from(source, address)?;
    let (head, _) = exchange(&mut stream, LAST_REQUEST)?;
    let mut lines = head.lines();
    let name = lines.find_map(|line| {
        let (field, value) = line.split_once(':')?;
        let is_it = field.eq_ignore_ascii_case("x-origin");
        is_it.then(|| value.trim().to_owned())
    });
    name.ok_or_else(|| invalid("an answer without X-Origin".to_owned()))
}

/// The name of the origin that a client at `source` gets from a TCP relay.
///
/// # Errors
/// When nobody gives one.
pub(crate) fn origin_over_tcp(source: IpAddr, address: SocketAddr) -> io::Result<String> {
    let mut stream = connect_from(source, address)?;
    stream.write_all(WHO)?;
    let mut name = Vec::new();
    let mut piece = [0; 256];
    while name.last() != Some(&b'\n') {
        let count = read_some(&mut stream, &mut piece)?;
        name.extend_from_slice(&piece[..count]);
        if name.len() > HEAD_BYTES_MAX {
            return Err(invalid("an endless name".to_owned()));
        }
    }
    Ok(String::from_utf8_lossy(name.trim_ascii()).into_owned())
}

fn connect_from(source: IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&address.into(), EXCHANGE_TIMEOUT)?;
    prepared(socket.into())
}

/// A connection to `address` on which nothing waits for ever.
///
/// # Errors
/// When nobody listens there.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    prepared(TcpStream::connect_timeout(&address, EXCHANGE_TIMEOUT)?)
}

/// A connection that offers TLS 1.3; its handshake is made by its first exchange.
fn connect_tls(address: SocketAddr) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    static CONFIG: LazyLock<Result<Arc<ClientConfig>, rustls::Error>> = LazyLock::new(|| {
        let request = TlsRequest {
            version: Some(Version::Tls13),
            ..TlsRequest::default()
        };
        request.config().map(Arc::new)
    });
    let config = CONFIG.clone().map_err(io::Error::other)?;
    let name = ServerName::IpAddress(address.ip().into());
    let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(connection, connect(address)?))
}

fn prepared(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_read_timeout(Some(EXCHANGE_TIMEOUT))?;
    stream.set_write_timeout(Some(EXCHANGE_TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn connect_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((address.ip(), 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(DATAGRAM_TIMEOUT))?;
    Ok(socket)
}

fn exchange_datagram(socket: &UdpSocket) -> io::Result<()> {
    let header = Header {
        kind: Kind::Echo,
        length: MESSAGE.len(),
        source: 0,
        sequence: 0,
        name: [0; NAME_BYTES_MAX],
    };
    let (mut datagram, mut answer) = (MESSAGE, [0; 2 * MESSAGE.len()]);
    udp::fill(&mut datagram, &header);
    socket.send(&datagram)?;
    let length = socket.recv(&mut answer)?;
    if udp::is_whole(&answer[..length], &header) {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut answer = [0; MESSAGE.len()];
    stream.write_all(&MESSAGE)?;
    stream.read_exact(&mut answer)?;
    if answer == MESSAGE {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Sends `request`; the head and the body of its answer.
fn exchange(stream: &mut (impl Read + Write), request: &[u8]) -> io::Result<(String, Vec<u8>)> {
    stream.write_all(request)?;
    let mut answer = Vec::with_capacity(512);
    let mut piece = [0; 1024];
    let (head, total) = loop {
        if let Some(lengths) = lengths(&answer)? {
            break lengths;
        }
        let count = read_some(stream, &mut piece)?;
        answer.extend_from_slice(&piece[..count]);
    };
    if answer.len() > total {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let known = answer.len();
    answer.resize(total, 0);
    stream.read_exact(&mut answer[known..])?;
    let body = answer.split_off(head);
    Ok((String::from_utf8_lossy(&answer).into_owned(), body))
}

/// One request over HTTP/2; the only one on its connection.
fn exchange_http2(stream: &mut TcpStream, speech: Speech) -> io::Result<()> {
    let mut wire: Wire<Vec<u8>> = Wire::new(PREFACE);
    let mut block = Vec::new();
    let is_call = speech == Speech::Grpc;
    let (method, kind) = if is_call {
        ("POST", "application/grpc")
    } else {
        ("GET", "text/plain")
    };
    for (name, value) in [
        (":method", method),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "localhost"),
        ("content-type", kind),
        ("te", "trailers"),
    ] {
        literal(name, value, &mut block);
    }
    wire.outgoing.headers(1, &block, !is_call);
    if is_call {
        let message = Chunk::from_static(b"\0\0\0\0\x01m");
        wire.outgoing.body(1, message, End::WithData);
    }
    let read_status = |status: &mut Vec<u8>, name: &[u8], value: &[u8]| {
        if name == b":status" {
            *status = value.to_vec();
        }
    };
    let (mut piece, mut status, mut is_over) = ([0; 4096], Vec::new(), false);
    while !is_over {
        wire.outgoing.pump();
        stream.write_all(&std::mem::take(&mut wire.outgoing.ready))?;
        let count = read_some(stream, &mut piece)?;
        let on_event = |_: &mut Outgoing, _, event: Event<'_, Vec<u8>>, is_end| {
            if let Event::Headers { meaning, .. } = event
                && !meaning.is_empty()
            {
                status = meaning;
            }
            is_over |= is_end;
            Ok(())
        };
        let fed = wire.feed(&piece[..count], read_status, on_event);
        fed.map_err(|Broken(why)| invalid(why.to_owned()))?;
    }
    if status == b"200" {
        return Ok(());
    }
    let status = String::from_utf8_lossy(&status);
    Err(invalid(format!("the answer was {status:?}")))
}

/// One message on a WebSocket, after the upgrade if that has not been.
fn exchange_websocket(stream: &mut TcpStream, is_upgraded: &mut bool) -> io::Result<()> {
    if !*is_upgraded {
        let upgrade = format!(
            "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        stream.write_all(upgrade.as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
            if head.len() > HEAD_BYTES_MAX {
                return Err(invalid("an endless head".to_owned()));
            }
        }
        if !head.starts_with(b"HTTP/1.1 101 ") {
            return Err(invalid("the upgrade was refused".to_owned()));
        }
        *is_upgraded = true;
    }
    let head = FrameHead {
        is_last: true,
        opcode: BINARY,
        length: MESSAGE.len() as u64,
        mask: Some([0; 4]),
    };
    let (mut frame, mut expected) = (Vec::new(), Vec::new());
    head.write(&mut frame);
    FrameHead { mask: None, ..head }.write(&mut expected);
    expected.extend_from_slice(&MESSAGE);
    stream.write_all(&[&*frame, &MESSAGE].concat())?;
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer)?;
    if answer == expected {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

fn skip(stream: &mut TcpStream, mut left: usize) -> io::Result<()> {
    let mut piece = vec![0; 64 * 1024];
    while left > 0 {
        let wanted = left.min(piece.len());
        left -= read_some(stream, &mut piece[..wanted])?;
    }
    Ok(())
}

fn read_some(stream: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    match stream.read(piece)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}

/// The lengths of the head and of head and body together, once the head is there.
fn lengths(answer: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        let is_long = answer.len() > HEAD_BYTES_MAX;
        return if is_long {
            Err(invalid("an endless head".to_owned()))
        } else {
            Ok(None)
        };
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("http/1.1 200") {
        return Err(invalid(format!("the answer was {status:?}")));
    }
    let length = lines.find_map(|line| {
        line.strip_prefix("content-length:")?
            .trim()
            .parse::<usize>()
            .ok()
    });
    let length = length.ok_or_else(|| invalid("an answer without content-length".to_owned()))?;
    Ok(Some((end + 4, end + 4 + length)))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers the first bytes that arrive with `answer`, once per connection.
    fn answering(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let count = stream.read(&mut [0; 1024]).unwrap();
            assert!(count > 0);
            stream.write_all(answer).unwrap();
        });
        address
    }

    fn http(answer: &'static [u8]) -> io::Result<()> {
        Connection::open(answering(answer), Scenario::L7Keepalive)
            .unwrap()
            .exchange()
    }

    #[test]
    fn an_answer_must_be_whole_and_right() {
        assert!(http(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").is_ok());
        let short = http(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell").unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
        let long = http(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello!").unwrap_err();
        assert_eq!(long.kind(), io::ErrorKind::InvalidData);
        let refusal = http(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").unwrap_err();
        assert!(refusal.to_string().contains("502"), "{refusal}");
    }

    #[test]
    fn a_body_is_given_back() {
        let address = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(get(address, "/").unwrap(), b"hello");
    }

    #[test]
    fn a_client_learns_its_origin_either_way() {
        let source: IpAddr = "127.1.2.3".parse().unwrap();
        let http = b"HTTP/1.1 200 OK\r\nx-origin: o-7\r\nContent-Length: 1\r\n\r\nx";
        let name = origin_over_http(source, answering(http)).unwrap();
        assert_eq!(name, "o-7");
        let name = origin_over_tcp(source, answering(b"o-8\n")).unwrap();
        assert_eq!(name, "o-8");
        let nameless = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        let error = origin_over_http(source, nameless).unwrap_err();
        assert!(error.to_string().contains("X-Origin"), "{error}");
    }

    #[test]
    fn a_datagram_must_come_back_and_may_be_signed() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let mut buffer = [0; 100];
            for damage in [0, 1] {
                let (length, client) = server.recv_from(&mut buffer).unwrap();
                udp::sign(&mut buffer, &udp::name_field("blue"));
                buffer[60] ^= damage;
                server.send_to(&buffer[..length], client).unwrap();
            }
        });
        let mut connection = Connection::open(address, Scenario::UdpEcho).unwrap();
        // Patient, for a machine that is busy with everything else.
        if let Stream::Udp(socket) = &connection.stream {
            socket.set_read_timeout(Some(EXCHANGE_TIMEOUT * 4)).unwrap();
        }
        assert!(connection.exchange().is_ok());
        let error = connection.exchange().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        thread.join().unwrap();
    }

    #[test]
    fn an_echo_must_be_the_message() {
        let mut good = Connection::open(answering(&MESSAGE), Scenario::L4Small).unwrap();
        assert!(good.exchange().is_ok());
        let mut bad = Connection::open(answering(&[b'x'; 64]), Scenario::L4Small).unwrap();
        assert_eq!(
            bad.exchange().unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
}

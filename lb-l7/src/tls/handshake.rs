//! A handshake of either side: the library says what comes next, and hands over its keys at the end.
//!
//! Invariant: the memory of a handshake is gone when it ends; what the peer sent behind it is not
//! lost. Read next: `duplex/` (what follows), `server.rs`, `client.rs` (who begins one).

use std::io;

use lb_core::rt::{Chunk, TcpStream};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{CommonState, Error, ExtractedSecrets, PeerIncompatible};

use super::duplex::{Duplex, Kernel};
use super::facts::TlsFacts;
use super::names;
use super::record::{HEADER_LEN, Kind, Opener, TAG_LEN};

/// Most bytes of handshake messages that wait to be complete: certificates of clients are the
/// longest.
const INCOMING_MAX: usize = 128 * 1024;

/// The alert for a version that we do not speak.
const PROTOCOL_VERSION: u8 = 70;
/// The alert for a server name that we do not serve.
const UNRECOGNIZED_NAME: u8 = 112;

/// Either side's connection while its handshake lasts.
pub(super) enum Handshaking {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// What a handshake leaves.
pub(super) struct Finished {
    pub(super) duplex: Duplex,
    pub(super) facts: TlsFacts,
    /// The protocol that was agreed on by ALPN.
    pub(super) alpn: Option<Box<[u8]>>,
    /// Data that came with the end of it.
    pub(super) plain: Option<Chunk>,
}

/// What the handshake wants next.
enum Step {
    /// Bytes of the peer.
    Receive,
    /// Sending what has gathered.
    Send,
    /// Nothing: it is over.
    Done,
    /// To be asked again.
    Again,
    /// Likewise, and the peer will say no more.
    Ended,
}

/// What has come, what is to go, what was read early.
#[derive(Default)]
struct Buffers {
    incoming: Vec<u8>,
    /// How much of that the library may see.
    shown: usize,
    outgoing: Vec<u8>,
    plain: Vec<u8>,
}

impl Buffers {
    /// Shows the library one more record, if a whole one has come. What follows the handshake is
    /// not for it: it would answer a KeyUpdate there with its next data only, and that is ours.
    fn show(&mut self) -> bool {
        match Opener::record_len(&self.incoming[self.shown..]) {
            Ok(Some(length)) if length <= self.incoming.len() - self.shown => {
                self.shown += length;
                true
            }
            Ok(_) => false,
            // It has words for what this is.
            Err(_) => {
                let before = std::mem::replace(&mut self.shown, self.incoming.len());
                before < self.shown
            }
        }
    }

    /// Drops a record that the library has tried to open in vain and wants no more of: early data,
    /// which it skips up to 16 KiB (RFC 8446 section 4.2.10). It does not say so, and would try it
    /// again with each record that follows, and count it again.
    ///
    /// What did not open is left as zeros; what did has at least a byte for its kind.
    fn drop_rejected(&mut self) {
        let shown = &self.incoming[..self.shown];
        let is_one = Opener::record_len(shown) == Ok(Some(self.shown));
        if is_one && shown[0] == Kind::Data as u8 {
            let content = &shown[HEADER_LEN..];
            let sealed = &content[..content.len().saturating_sub(TAG_LEN)];
            if sealed.iter().all(|byte| *byte == 0) {
                self.incoming.drain(..self.shown);
                self.shown = 0;
            }
        }
    }
}

impl Handshaking {
    /// Makes the handshake; `name` takes the server name that a client asks for.
    ///
    /// # Errors
    /// `UnexpectedEof` when the peer closes, what broke the connection, or `InvalidData` with a
    /// `rustls::Error` in it.
    pub(super) async fn run(
        mut self,
        stream: &TcpStream,
        name: &mut Option<Box<str>>,
    ) -> io::Result<Finished> {
        let mut buffers = Buffers::default();
        let mut is_ended = false;
        loop {
            let step = self.step(&mut buffers);
            if let Some(asked) = names::take_asked() {
                *name = Some(asked);
            }
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Ended) => is_ended = true,
                Ok(Step::Done) => break,
                Ok(Step::Send) => {
                    let outgoing = std::mem::take(&mut buffers.outgoing);
                    if !outgoing.is_empty() {
                        stream.send(Chunk::from_vec(outgoing)).await?;
                    }
                }
                Ok(Step::Receive) => {
                    let received = stream.recv().await?;
                    if received.is_empty() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    if buffers.incoming.len() + received.len() > INCOMING_MAX {
                        return Err(invalid(Error::General("a handshake of many bytes".into())));
                    }
                    buffers.incoming.extend_from_slice(&received);
                }
                Err(error) => return Err(self.fail(error, buffers, stream).await),
            }
        }
        let mut facts = self.facts();
        facts.server_name = name.take().map(String::from);
        let common = self.common();
        let alpn = common.alpn_protocol().map(Box::from);
        let mut duplex = self.into_duplex().map_err(invalid)?;
        duplex.is_ended = is_ended;
        if !buffers.incoming.is_empty() {
            duplex.receive(Chunk::from_vec(buffers.incoming));
        }
        let plain = buffers.plain;
        Ok(Finished {
            duplex,
            facts,
            alpn,
            plain: (!plain.is_empty()).then(|| Chunk::from_vec(plain)),
        })
    }

    fn step(&mut self, buffers: &mut Buffers) -> Result<Step, Error> {
        let Buffers {
            incoming,
            shown,
            outgoing,
            plain,
        } = buffers;
        let records = &mut incoming[..*shown];
        let (step, used) = match self {
            Self::Client(connection) => {
                take_step(connection.process_tls_records(records), outgoing, plain)
            }
            Self::Server(connection) => {
                take_step(connection.process_tls_records(records), outgoing, plain)
            }
        };
        incoming.drain(..used); // also of what was wrong: the library counts on it
        *shown -= used;
        match step {
            Ok(Step::Receive) => {
                buffers.drop_rejected();
                Ok(if buffers.show() { Step::Again } else { step? })
            }
            step => step,
        }
    }

    /// Goes on for as long as nothing must be received; what it sends is `to` take in. True when
    /// it is over.
    fn go_on(&mut self, buffers: &mut Buffers, to: &mut Buffers) -> Result<bool, Error> {
        loop {
            match self.step(buffers)? {
                Step::Again | Step::Ended => {}
                Step::Done => return Ok(true),
                Step::Receive => return Ok(false),
                Step::Send => to.incoming.append(&mut buffers.outgoing),
            }
        }
    }

    /// Sends the alert that says what was wrong.
    async fn fail(&mut self, error: Error, mut buffers: Buffers, stream: &TcpStream) -> io::Error {
        buffers.outgoing.clear();
        if error == no_certificate() {
            // The library says access_denied; RFC 6066 section 3 has a word for it.
            buffers.outgoing = vec![21, 3, 3, 0, 2, 2, UNRECOGNIZED_NAME];
        } else if error == PeerIncompatible::SignatureAlgorithmsExtensionRequired.into() {
            // The library looks for the extension before it looks at the version, and says
            // handshake_failure to what is older than the extension.
            buffers.outgoing = vec![21, 3, 1, 0, 2, 2, PROTOCOL_VERSION];
        } else {
            // The alert is what is left to encode. Behind it, the library would look at what it has
            // refused already.
            while self.common().wants_write() {
                if self.step(&mut buffers).is_err() {
                    break;
                }
            }
        }
        if !buffers.outgoing.is_empty() {
            let _ = stream.send(Chunk::from_vec(buffers.outgoing)).await;
            let _ = stream.flush().await;
        }
        invalid(error)
    }

    fn facts(&self) -> TlsFacts {
        match self {
            Self::Client(connection) => TlsFacts::of(connection, false),
            Self::Server(connection) => TlsFacts::of(connection, true),
        }
    }

    fn common(&self) -> &CommonState {
        match self {
            Self::Client(connection) => connection,
            Self::Server(connection) => connection,
        }
    }

    fn into_duplex(self) -> Result<Duplex, Error> {
        let version = self.common().protocol_version();
        let (secrets, kernel) = self.into_kernel()?;
        let duplex = version.and_then(|it| Duplex::new(secrets.tx, secrets.rx, kernel, it));
        duplex.ok_or(Error::HandshakeNotComplete)
    }

    fn into_kernel(self) -> Result<(ExtractedSecrets, Kernel), Error> {
        match self {
            Self::Client(connection) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                Ok((secrets, Kernel::Client(kernel)))
            }
            Self::Server(connection) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                Ok((secrets, Kernel::Server(kernel)))
            }
        }
    }
}

/// Makes the handshake of two ends without a network between them: what is left of the client's
/// and of the server's. `behind` makes what the client sends in one with the end of its handshake.
pub(super) fn join(
    mut client: Handshaking,
    mut server: Handshaking,
    behind: impl FnOnce(&mut Duplex) -> Vec<u8>,
) -> Result<[Duplex; 2], Error> {
    let (mut near, mut far) = (Buffers::default(), Buffers::default());
    while !client.go_on(&mut near, &mut far)? {
        server.go_on(&mut far, &mut near)?;
    }
    let mut client = client.into_duplex()?;
    far.incoming.extend(behind(&mut client));
    if !server.go_on(&mut far, &mut near)? {
        return Err(Error::HandshakeNotComplete);
    }
    let mut server = server.into_duplex()?;
    client.receive(Chunk::from_vec(near.incoming));
    server.receive(Chunk::from_vec(far.incoming));
    Ok([client, server])
}

/// Takes what the library hands out; also how many bytes of the peer are used up.
fn take_step<Data>(
    UnbufferedStatus { discard, state, .. }: UnbufferedStatus<'_, '_, Data>,
    outgoing: &mut Vec<u8>,
    plain: &mut Vec<u8>,
) -> (Result<Step, Error>, usize) {
    let mut used = discard;
    let step = state.and_then(|state| match state {
        ConnectionState::EncodeTlsData(mut data) => {
            encode(&mut data, outgoing).map(|()| Step::Again)
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Step::Send)
        }
        ConnectionState::BlockedHandshake => Ok(Step::Receive),
        ConnectionState::WriteTraffic(_) => Ok(Step::Done),
        ConnectionState::ReadTraffic(mut data) => {
            while let Some(record) = data.next_record() {
                let record = record?;
                used += record.discard;
                plain.extend_from_slice(record.payload);
            }
            Ok(Step::Again)
        }
        // It said so right behind its last message; what it waits for may be on its way.
        ConnectionState::PeerClosed => Ok(Step::Ended),
        // Early data is not offered.
        _ => Err(Error::HandshakeNotComplete),
    });
    (step, used)
}

fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, outgoing: &mut Vec<u8>) -> Result<(), Error> {
    let start = outgoing.len();
    match data.encode(&mut []) {
        Ok(_) => Ok(()),
        Err(EncodeError::InsufficientSize(size)) => {
            outgoing.resize(start + size.required_size, 0);
            let encoded = data.encode(&mut outgoing[start..]);
            encoded.map(drop).map_err(|_| Error::EncryptError)
        }
        Err(EncodeError::AlreadyEncoded) => Err(Error::EncryptError),
    }
}

/// What the library says when no certificate was chosen.
fn no_certificate() -> Error {
    Error::General("no server certificate chain resolved".into())
}

fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

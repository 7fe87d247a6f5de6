//! What health checks ask: servers for HTTPS, gRPC and UDP that can be well or not.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::aws_lc_rs;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// The name in the certificate.
pub(crate) const NAME: &str = "origin.test";

/// A server that answers health checks.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// The certificate as PEM, if it speaks TLS.
    pub(crate) pem: String,
    well: Arc<AtomicBool>,
}

impl Peer {
    pub(crate) fn set_well(&self, well: bool) {
        self.well.store(well, Ordering::SeqCst);
    }

    /// Answers with 204 or 503; its certificate is its own.
    pub(crate) fn https(ip: IpAddr) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![cert.der().clone()],
                signing_key.serialize_der().try_into().unwrap(),
            )
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let peer = Self::new(listener.local_addr().unwrap(), cert.pem());
        let well = Arc::clone(&peer.well);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (config, well) = (Arc::clone(&config), Arc::clone(&well));
                thread::spawn(move || answer_https(stream.unwrap(), config, &well));
            }
        });
        peer
    }

    /// SERVING or NOT_SERVING, whatever the service.
    pub(crate) fn grpc(ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let peer = Self::new(listener.local_addr().unwrap(), String::new());
        let well = Arc::clone(&peer.well);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer_grpc(stream, Arc::clone(&well)));
                }
            });
        });
        peer
    }

    /// `pong` to whatever comes, or nothing.
    pub(crate) fn udp(ip: IpAddr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        let peer = Self::new(socket.local_addr().unwrap(), String::new());
        let well = Arc::clone(&peer.well);
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((count, from)) = socket.recv_from(&mut buffer) {
                if well.load(Ordering::SeqCst) && &buffer[..count] == b"ping" {
                    let _ = socket.send_to(b"pong!", from);
                }
            }
        });
        peer
    }

    fn new(address: SocketAddr, pem: String) -> Self {
        Self {
            address,
            pem,
            well: Arc::new(AtomicBool::new(true)),
        }
    }
}

/// A client that goes away is no failure of the test.
fn answer_https(stream: TcpStream, config: Arc<ServerConfig>, well: &AtomicBool) {
    let Ok(connection) = ServerConnection::new(config) else {
        return;
    };
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
    }
    let status = if well.load(Ordering::SeqCst) {
        204
    } else {
        503
    };
    let response = format!("HTTP/1.1 {status} Said\r\nContent-Length: 0\r\n\r\n");
    let stream = stream.get_mut();
    let _ = stream.write_all(response.as_bytes());
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

async fn answer_grpc(stream: tokio::net::TcpStream, well: Arc<AtomicBool>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let response = http::Response::builder().header("content-type", "application/grpc");
        let Ok(mut body) = respond.send_response(response.body(()).unwrap(), false) else {
            return;
        };
        let status = if well.load(Ordering::SeqCst) { 1 } else { 2 };
        let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 0x08, status]);
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let _ = body.send_data(message, false);
        let _ = body.send_trailers(trailers);
    }
}

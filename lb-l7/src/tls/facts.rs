//! What is known of a client by its TLS handshake, for logs and for header fields.
//!
//! Invariant: nothing in here is secret.
//! Read next: `../connection.rs` (who is told).

/// What a client's handshake agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFacts {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite, by its IANA name.
    pub suite: &'static str,
    /// The name that the client asked for, in lower case.
    pub server_name: Option<String>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// The subject of the certificate that the client proved to own.
    pub client_subject: Option<String>,
}

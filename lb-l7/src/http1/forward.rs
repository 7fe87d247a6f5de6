//! The head that a backend gets for a request: what came but for the cuts, and what we add.
//!
//! Invariant: the path and the authority are the very bytes that the request was routed by, unless a
//! route says otherwise.
//! Read next: `request.rs` (what is known of it), `cuts.rs`.

use std::net::{IpAddr, SocketAddr};

use lb_core::plan::Forwarded;
use lb_core::rt::{Buffer, is_unix};

use super::cuts::HeadWriter;
use super::head::{Framing, HeadError, Version};
use super::request::{Form, RequestHead, RequestRules};
use super::text::{AddressText, DecimalText};

/// Who sent a request, for the X-Forwarded-* fields.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// The client's address.
    pub address: IpAddr,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The address that the client connected to: Host for a request that has none. Only looked
    /// at when [`RequestHead::lacks_authority`].
    pub local: Option<SocketAddr>,
    /// Added as X-Request-ID, if there is one.
    pub request_id: Option<[u8; 32]>,
    /// Field lines about the client's certificate, each with its CRLF.
    pub certificate: &'a [u8],
}

/// Writes the head that the backend gets for the request `head`, of which `request` tells; with
/// `target` instead of its path and query, if there is one.
///
/// # Errors
/// `HeadTooLong` when it does not fit into `out`.
pub fn rewrite_request(
    head: &[u8],
    request: &RequestHead,
    rules: &RequestRules,
    client: &Client<'_>,
    target: Option<&[u8]>,
    out: &mut Buffer,
) -> Result<(), HeadError> {
    let address = AddressText::of(client.address);
    let mut out = HeadWriter::new(out);
    let is_kept = request.form == Form::Origin && request.version == Version::Http11;
    let from = if is_kept && target.is_none() {
        0
    } else {
        write_request_line(head, request, target, &mut out);
        request.fields.start()
    };
    request.cuts.copy(
        head,
        from,
        request.fields.end(),
        address.appended(),
        &mut out,
    );
    if !request.has_host_field {
        write_host(head, request, client, &mut out);
    }
    if let Some(protocols) = request.upgrade {
        out.push(b"Connection: upgrade\r\nUpgrade: ");
        out.push(protocols.of_head(head));
        out.push(b"\r\n");
    }
    if request.framing == Framing::Chunked {
        out.push(b"Transfer-Encoding: chunked\r\n");
    }
    if let Some(id) = &client.request_id {
        out.push(b"X-Request-ID: ");
        out.push(id);
        out.push(b"\r\n");
    }
    if rules.forwarded != Forwarded::Off {
        write_forwarded(head, request, client, &address, &mut out);
    }
    out.push(client.certificate);
    out.finish()
}

fn write_request_line(
    head: &[u8],
    request: &RequestHead,
    target: Option<&[u8]>,
    out: &mut HeadWriter<'_>,
) {
    out.push(request.method_name.of_head(head));
    out.push(b" ");
    if let Some(target) = target {
        out.push(target);
    } else {
        if request.path.is_empty() {
            out.push(request.implied_path());
        }
        out.push(request.resource.of_head(head));
    }
    out.push(b" HTTP/1.1\r\n");
}

fn write_host(head: &[u8], request: &RequestHead, client: &Client<'_>, out: &mut HeadWriter<'_>) {
    out.push(b"Host: ");
    match client.local {
        Some(local) if request.lacks_authority() && is_unix(local.ip()) => out.push(b"localhost"),
        Some(local) if request.lacks_authority() => {
            let (open, close): (&[u8], &[u8]) = if local.ip().to_canonical().is_ipv6() {
                (b"[", b"]:")
            } else {
                (b"", b":")
            };
            out.push(open);
            out.push(AddressText::of(local.ip()).bare());
            out.push(close);
            out.push(DecimalText::of(u64::from(local.port())).as_slice());
        }
        _ => out.push(request.authority.of_head(head)),
    }
    out.push(b"\r\n");
}

fn write_forwarded(
    head: &[u8],
    request: &RequestHead,
    client: &Client<'_>,
    address: &AddressText,
    out: &mut HeadWriter<'_>,
) {
    if !request.has_forwarded_for {
        out.push(b"X-Forwarded-For: ");
        out.push(address.bare());
        out.push(b"\r\n");
    }
    if !request.has_forwarded_proto {
        out.push(b"X-Forwarded-Proto: ");
        out.push(client.scheme.as_bytes());
        out.push(b"\r\n");
    }
    if !request.has_forwarded_host && !request.lacks_authority() {
        out.push(b"X-Forwarded-Host: ");
        out.push(request.authority.of_head(head));
        out.push(b"\r\n");
    }
}

//! The built program, through real sockets, on both engines.
//!
//! Invariant: no test knows a port before it is bound or waits for a fixed time; each waits for
//! what it needs to see, with a deadline that only a failure meets.
//! Read next: `harness.rs` (starting `lb`), then any module: each is one subject.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

/// Servers for health checks to ask.
mod check_peers;
/// A small HTTP client.
mod client;
/// Scripted backends and a plain client, of the tests of the protocol.
#[path = "../../../lb-l7/tests/proxy/ends.rs"]
#[allow(dead_code, reason = "shared with those")]
mod ends;
/// Origins that misbehave, die and come back.
mod fleet;
/// Starting and watching `lb`.
mod harness;
/// HTTP/2 byte by byte.
mod http2_frames;
/// Origins to balance between.
mod origin;
/// Other people's servers.
mod others;
/// Requests, right and wrong, of the tests of the protocol.
#[path = "../../../lb-l7/tests/proxy/requests.rs"]
mod requests;
/// Requests that are right and strange.
mod tricky;

/// Access logs: formats, hostile input, changes while it runs.
mod access_log;
/// `/readyz`, `/livez`, `/metrics`, `/status`, `/config`.
mod admin;
/// Clients and keys that stay where they are.
mod affinity;
/// Autobahn's WebSocket test suite.
mod autobahn;
/// Workers share long-lived connections evenly.
mod balance;
/// `lb check`, and what is said about a bad configuration.
mod check;
/// What reaches a backend, through `lb` and through its peers.
mod compared;
/// Lists, limits and PROXY headers of UDP listeners.
mod datagram_edge;
/// UDP.
mod datagrams;
/// How long is waited for whom.
mod deadlines;
/// `lb demo`.
mod demo;
/// The end of the process.
mod drain;
/// Lists and limits of listeners, and their sockets.
mod edge;
/// What gets past `lb` and its peers.
mod edges;
/// Requests and responses between client and backend, as settings of the built program have it.
mod exchanges;
/// Backends that fail and come back.
mod failures;
/// IPv4, IPv6, and both.
mod families;
/// What is said about bad flags, and about ports that cannot be had.
mod flags;
/// gRPC.
mod grpc;
/// Health checks.
mod health;
/// HTTP/2.
mod http2;
/// Connections of HTTP/2 to backends.
mod http2_backends;
/// Attacks by HTTP/2.
mod http2_ends;
mod http2_floods;
/// What is spoken at either end.
mod http2_pairs;
/// What comes behind the bodies of requests, over HTTP/1.1 and HTTP/2.
mod http2_trailers;
/// Ingresses, as documented and as annotated.
mod ingresses;
/// Clients that give up while their request is being served.
mod leaving;
/// Workers give idle connections to each other.
mod lending;
/// Out of file descriptors.
mod limits;
/// A folder of Kubernetes objects.
mod manifests;
/// Certificates of Ingresses.
mod manifests_tls;
/// Backend connections of a chosen kind, in a network of the test's own.
mod namespace;
/// TLS routed by server name.
mod passthrough;
/// Other people's clients.
mod peers;
/// Connections to backends.
mod pools;
/// The PROXY protocol, in and out.
mod proxy_protocol;
/// Clients and servers from PyPI.
mod python;
/// Changes of the configuration while it runs.
mod reload;
/// Traffic of every kind while backends restart.
mod restarts;
/// Routes of every kind.
mod routes;
/// Every scheduler, with origins that die and come back.
mod schedulers;
/// Kubernetes Services.
mod services;
mod session_log;
/// Clients and backends over TLS.
mod tls;
/// TLS to backends: nginx, and some that misbehave.
mod tls_backends;
/// What certificates can be wrong in; very many of them.
mod tls_certificates;
/// Clients over TLS: their certificates, tickets, limits, what is agreed on.
mod tls_clients;
/// Lists of revoked certificates that are overdue.
mod tls_crl;
/// Clients that send early data.
mod tls_early;
/// Who a client over TLS is said to be.
mod tls_identity;
/// What TLS says on the wire.
mod tls_protocol;
/// Balancing as a user sees it.
mod traffic;
/// What nginx and HAProxy understand of what is passed on.
mod understood;
/// Unix sockets.
mod unix;
/// WebSockets.
mod upgrades;
/// Frames of WebSockets, right and wrong.
mod websocket;

//! Why an exchange fails: what happened, whose fault it is, and what the client is told.
//!
//! Invariant: every failure but a vanished client has a status and a reason to answer with.
//! Read next: `respond.rs` (the answers), `exchange.rs` (where most failures come from).

use crate::http1::chunked::ChunkError;
use crate::http1::head::HeadError;

/// Why an exchange fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// None, really: the route of the request says to answer so.
    Answered(u16),
    /// The backend closed the connection, or broke it, before its response was complete.
    BackendClosed,
    /// The backend's response head is not acceptable.
    BackendHead(HeadError),
    /// The backend's response body is not acceptable.
    BackendBody(ChunkError),
    /// A WebSocket is asked for, and the backend speaks HTTP/2 without RFC 8441.
    BackendNoWebSocket,
    /// The backend said that it did not process the request, which may be sent again.
    BackendRefused,
    /// A pooled connection had been closed by the backend; nothing of a response came, and the
    /// request may be sent again.
    BackendStale,
    /// The backend switched protocols, which nobody had asked it for.
    BackendSwitched,
    /// The backend did not take the request, or did not respond, in time.
    BackendTimeout,
    /// All connections are busy, and none became free in time.
    Busy,
    /// One try took too long; another backend may be faster.
    TryTimeout,
    /// All tries together took too long.
    TotalTimeout,
    /// The backend did not accept a connection; another may.
    BackendUnreachable,
    /// The client's chunks are not acceptable.
    Body(ChunkError),
    /// The client did not send its body in time.
    BodyTimeout,
    /// The declared body is longer than the limit.
    BodyTooLong,
    /// The client broke the connection, or closed it within a request.
    ClientGone,
    /// The client took nothing of the response for too long.
    ClientStuck,
    /// The request head is not acceptable.
    Head(HeadError),
    /// The request head did not come in time.
    HeadTimeout,
    /// No route matches the request.
    NoRoute,
    /// No backend could be connected to.
    Unavailable,
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The backend, or the way to it.
    Backend,
    /// The client, or the way to it.
    Client,
    /// What we were told to run.
    Proxy,
}

impl Failure {
    /// Whose fault it is.
    #[must_use]
    pub const fn side(self) -> Side {
        match self {
            Self::BackendBody(_)
            | Self::BackendClosed
            | Self::BackendHead(_)
            | Self::BackendNoWebSocket
            | Self::BackendRefused
            | Self::BackendStale
            | Self::BackendSwitched
            | Self::BackendTimeout
            | Self::BackendUnreachable
            | Self::Busy
            | Self::TotalTimeout
            | Self::TryTimeout
            | Self::Unavailable => Side::Backend,
            Self::Body(_)
            | Self::BodyTimeout
            | Self::BodyTooLong
            | Self::ClientGone
            | Self::ClientStuck
            | Self::Head(_)
            | Self::HeadTimeout => Side::Client,
            Self::Answered(_) | Self::NoRoute => Side::Proxy,
        }
    }

    /// The status to answer with; `None` when nobody is there to read it.
    #[must_use]
    pub const fn status(self) -> Option<u16> {
        Some(match self {
            Self::ClientGone | Self::ClientStuck => return None,
            Self::Answered(status) => status,
            Self::Head(error) => error.status(),
            Self::Body(ChunkError::TooLong) | Self::BodyTooLong => 413,
            Self::Body(_) => 400,
            Self::NoRoute => 404,
            Self::BodyTimeout | Self::HeadTimeout => 408,
            Self::BackendBody(_)
            | Self::BackendClosed
            | Self::BackendHead(_)
            | Self::BackendNoWebSocket
            | Self::BackendRefused
            | Self::BackendStale
            | Self::BackendSwitched => 502,
            Self::BackendUnreachable | Self::Busy | Self::Unavailable => 503,
            Self::BackendTimeout | Self::TotalTimeout | Self::TryTimeout => 504,
        })
    }

    /// What happened, in a few words for the client.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Answered(_) => "",
            Self::BackendBody(_) => "the backend's response body is malformed",
            Self::BackendClosed | Self::BackendStale => {
                "the backend closed the connection before its response was complete"
            }
            Self::BackendHead(_) => "the backend's response head is malformed",
            Self::BackendNoWebSocket => "the backend takes no WebSockets over HTTP/2",
            Self::BackendRefused => "the backend refused the request",
            Self::BackendSwitched => "the backend switched protocols without being asked to",
            Self::BackendTimeout | Self::TotalTimeout | Self::TryTimeout => {
                "the backend did not respond in time"
            }
            Self::Busy => "all backends are busy",
            Self::Body(ChunkError::TooLong) | Self::BodyTooLong => {
                "the body is longer than allowed"
            }
            Self::Body(ChunkError::Malformed) => "the chunked body is malformed",
            Self::Body(ChunkError::Overhead) => "chunk extensions or trailers are too long",
            Self::BodyTimeout => "the body did not arrive in time",
            Self::ClientGone => "the client closed the connection",
            Self::ClientStuck => "the client does not take the response",
            Self::Head(error) => error.reason(),
            Self::HeadTimeout => "the request head did not arrive in time",
            Self::NoRoute => "no route matches this host and path",
            Self::BackendUnreachable | Self::Unavailable => "no backend is available",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_side_decides_the_kind_of_status() {
        for failure in [
            Failure::BackendClosed,
            Failure::BackendHead(HeadError::Field),
            Failure::BackendBody(ChunkError::Malformed),
            Failure::BackendNoWebSocket,
            Failure::BackendRefused,
            Failure::BackendStale,
            Failure::BackendSwitched,
            Failure::BackendTimeout,
            Failure::BackendUnreachable,
            Failure::Busy,
            Failure::TotalTimeout,
            Failure::TryTimeout,
            Failure::Unavailable,
        ] {
            assert_eq!(failure.side(), Side::Backend);
            assert!(matches!(failure.status(), Some(502..=504)), "{failure:?}");
        }
        for failure in [
            Failure::Body(ChunkError::TooLong),
            Failure::BodyTimeout,
            Failure::BodyTooLong,
            Failure::Head(HeadError::Host),
            Failure::HeadTimeout,
        ] {
            assert_eq!(failure.side(), Side::Client);
            assert!(matches!(failure.status(), Some(400..=499)), "{failure:?}");
        }
        assert_eq!(Failure::ClientGone.status(), None);
    }
}

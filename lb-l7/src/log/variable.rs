//! The variables of access log formats: the names that nginx gives them, and our own beside.
//!
//! Invariant: every name means one thing; a name that is not here is refused with the nearest one.
//! Read next: `template.rs` (who looks them up).

use lb_core::lines::Variables;

/// What a variable stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Variable {
    // Known with the request's head.
    Arg(Box<[u8]>),
    Args,
    ClientAddress,
    ClientPort,
    ConnectionRequests,
    Cookie(Box<[u8]>),
    Field(Box<[u8]>),
    Host,
    Https,
    IsArgs,
    Listener,
    LocalAddress,
    LocalPort,
    Method,
    Protocol,
    Request,
    RequestId,
    Route,
    Scheme,
    Target,
    TlsCipher,
    TlsClient,
    TlsResumed,
    TlsServerName,
    TlsVersion,
    Uri,
    User,
    // Known with the response's head.
    ResponseField(Box<[u8]>),
    // Known at the end.
    Backend,
    BackendAddress,
    BackendStatus,
    BodyBytesSent,
    BytesReceived,
    BytesSent,
    Cluster,
    Completion,
    ConnectTime,
    HeaderTime,
    Msec,
    Never,
    RequestTime,
    ResponseTime,
    Retries,
    Status,
    TimeIso8601,
    TimeLocal,
}

/// Makes a variable of the user's part of a name.
type FromName = fn(&str) -> Variable;

/// When a variable has its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Request,
    Response,
    End,
}

impl Variable {
    /// The names without a part of the user's. Ours are behind those of nginx.
    const NAMES: [(&'static str, Self); 70] = [
        ("args", Self::Args),
        ("body_bytes_sent", Self::BodyBytesSent),
        ("bytes_received", Self::BytesReceived),
        ("bytes_sent", Self::BytesSent),
        ("connection_requests", Self::ConnectionRequests),
        ("document_uri", Self::Uri),
        ("host", Self::Host),
        ("https", Self::Https),
        ("is_args", Self::IsArgs),
        ("msec", Self::Msec),
        ("query_string", Self::Args),
        ("realip_remote_addr", Self::ClientAddress),
        ("remote_addr", Self::ClientAddress),
        ("remote_port", Self::ClientPort),
        ("remote_user", Self::User),
        ("request", Self::Request),
        ("request_completion", Self::Completion),
        ("request_id", Self::RequestId),
        ("request_length", Self::BytesReceived),
        ("request_method", Self::Method),
        ("request_time", Self::RequestTime),
        ("request_uri", Self::Target),
        ("scheme", Self::Scheme),
        ("server_addr", Self::LocalAddress),
        ("server_name", Self::Host),
        ("server_port", Self::LocalPort),
        ("server_protocol", Self::Protocol),
        ("ssl_cipher", Self::TlsCipher),
        ("ssl_client_s_dn", Self::TlsClient),
        ("ssl_protocol", Self::TlsVersion),
        ("ssl_server_name", Self::TlsServerName),
        ("ssl_session_reused", Self::TlsResumed),
        ("status", Self::Status),
        ("time_iso8601", Self::TimeIso8601),
        ("time_local", Self::TimeLocal),
        ("upstream_addr", Self::BackendAddress),
        ("upstream_connect_time", Self::ConnectTime),
        ("upstream_header_time", Self::HeaderTime),
        ("upstream_response_length", Self::BodyBytesSent),
        ("upstream_response_time", Self::ResponseTime),
        ("upstream_status", Self::BackendStatus),
        ("uri", Self::Uri),
        // ingress-nginx
        ("proxy_alternative_upstream_name", Self::Never),
        ("proxy_upstream_name", Self::Cluster),
        ("req_id", Self::RequestId),
        ("the_real_ip", Self::ClientAddress),
        // ours
        ("backend", Self::Backend),
        ("backend_address", Self::BackendAddress),
        ("backend_status", Self::BackendStatus),
        ("body_bytes", Self::BodyBytesSent),
        ("client", Self::ClientAddress),
        ("client_port", Self::ClientPort),
        ("cluster", Self::Cluster),
        ("connect_time", Self::ConnectTime),
        ("header_time", Self::HeaderTime),
        ("listener", Self::Listener),
        ("method", Self::Method),
        ("path", Self::Uri),
        ("protocol", Self::Protocol),
        ("query", Self::Args),
        ("received_bytes", Self::BytesReceived),
        ("response_time", Self::ResponseTime),
        ("retries", Self::Retries),
        ("route", Self::Route),
        ("sent_bytes", Self::BytesSent),
        ("target", Self::Target),
        ("tls_cipher", Self::TlsCipher),
        ("tls_client", Self::TlsClient),
        ("tls_server_name", Self::TlsServerName),
        ("tls_version", Self::TlsVersion),
    ];

    /// Names that go on with one of the user's, in which `_` is `-` where it is a field's.
    const FAMILIES: [(&'static str, FromName); 5] = [
        ("arg_", |name| Self::Arg(name.as_bytes().into())),
        ("cookie_", |name| Self::Cookie(name.as_bytes().into())),
        ("http_", |name| Self::Field(field_name(name))),
        ("sent_http_", |name| Self::ResponseField(field_name(name))),
        ("upstream_http_", |name| {
            Self::ResponseField(field_name(name))
        }),
    ];

    /// Every name, for those who meant another; families by what they begin with.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        let names = Self::NAMES.iter().map(|(name, _)| *name);
        names.chain(Self::FAMILIES.iter().map(|(start, _)| *start))
    }

    pub(crate) const fn stage(&self) -> Stage {
        match self {
            Self::Arg(_)
            | Self::Args
            | Self::ClientAddress
            | Self::ClientPort
            | Self::ConnectionRequests
            | Self::Cookie(_)
            | Self::Field(_)
            | Self::Host
            | Self::Https
            | Self::IsArgs
            | Self::Listener
            | Self::LocalAddress
            | Self::LocalPort
            | Self::Method
            | Self::Protocol
            | Self::Request
            | Self::RequestId
            | Self::Route
            | Self::Scheme
            | Self::Target
            | Self::TlsCipher
            | Self::TlsClient
            | Self::TlsResumed
            | Self::TlsServerName
            | Self::TlsVersion
            | Self::Uri
            | Self::User => Stage::Request,
            Self::ResponseField(_) => Stage::Response,
            _ => Stage::End,
        }
    }
}

impl Variables for Variable {
    fn named(name: &str) -> Option<Self> {
        let family = |(start, make): &(&str, fn(&str) -> Self)| {
            let rest = name.strip_prefix(start).filter(|rest| !rest.is_empty());
            rest.map(make)
        };
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known
            .map(|(_, variable)| variable.clone())
            .or_else(|| Self::FAMILIES.iter().find_map(family))
    }

    fn is_number(&self) -> bool {
        matches!(
            self,
            Self::BackendStatus
                | Self::BodyBytesSent
                | Self::BytesReceived
                | Self::BytesSent
                | Self::ClientPort
                | Self::ConnectionRequests
                | Self::ConnectTime
                | Self::HeaderTime
                | Self::LocalPort
                | Self::Msec
                | Self::RequestTime
                | Self::ResponseTime
                | Self::Retries
                | Self::Status
        )
    }
}

fn field_name(name: &str) -> Box<[u8]> {
    name.replace('_', "-").into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let mut names: Vec<&str> = Variable::names().collect();
        for (name, variable) in &Variable::NAMES {
            assert_eq!(Variable::named(name).as_ref(), Some(variable), "{name}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Variable::names().count());
    }

    #[test]
    fn families_take_a_name() {
        let field = Variable::Field((*b"user-agent").into());
        assert_eq!(Variable::named("http_user_agent"), Some(field));
        let sent = Variable::ResponseField((*b"content-type").into());
        assert_eq!(
            Variable::named("sent_http_content_type"),
            Some(sent.clone())
        );
        assert_eq!(Variable::named("upstream_http_content_type"), Some(sent));
        let cookie = Variable::Cookie((*b"my_id").into());
        assert_eq!(Variable::named("cookie_my_id"), Some(cookie));
        for unknown in ["http_", "statuss", "", "Host"] {
            assert_eq!(Variable::named(unknown), None, "{unknown}");
        }
    }
}

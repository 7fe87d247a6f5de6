//! The variables of session logs: the names that nginx's stream module gives them, and our own beside.
//!
//! Invariant: every name means one thing; a name that is not here is refused with the nearest one.
//! Read next: `record.rs` (their values).

use lb_core::lines::Variables;

/// What a variable stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variable {
    Alpn,
    Backend,
    BackendAddress,
    BytesReceived,
    BytesSent,
    ClientAddress,
    ClientPort,
    Cluster,
    ConnectTime,
    DatagramsReceived,
    DatagramsSent,
    End,
    EndedBy,
    Listener,
    LocalAddress,
    LocalPort,
    Msec,
    Protocol,
    Refusal,
    Retries,
    ServerName,
    SessionTime,
    Status,
    TimeIso8601,
    TimeLocal,
}

impl Variable {
    /// Ours are behind those of nginx.
    const NAMES: [(&'static str, Self); 42] = [
        ("bytes_received", Self::BytesReceived),
        ("bytes_sent", Self::BytesSent),
        ("msec", Self::Msec),
        ("protocol", Self::Protocol),
        ("proxy_protocol_addr", Self::ClientAddress),
        ("proxy_protocol_port", Self::ClientPort),
        ("remote_addr", Self::ClientAddress),
        ("remote_port", Self::ClientPort),
        ("server_addr", Self::LocalAddress),
        ("server_port", Self::LocalPort),
        ("session_time", Self::SessionTime),
        ("ssl_preread_alpn_protocols", Self::Alpn),
        ("ssl_preread_server_name", Self::ServerName),
        ("status", Self::Status),
        ("time_iso8601", Self::TimeIso8601),
        ("time_local", Self::TimeLocal),
        ("upstream_addr", Self::BackendAddress),
        ("upstream_bytes_received", Self::BytesSent),
        ("upstream_bytes_sent", Self::BytesReceived),
        ("upstream_connect_time", Self::ConnectTime),
        ("upstream_session_time", Self::SessionTime),
        // ours
        ("alpn", Self::Alpn),
        ("backend", Self::Backend),
        ("backend_address", Self::BackendAddress),
        ("client", Self::ClientAddress),
        ("client_port", Self::ClientPort),
        ("cluster", Self::Cluster),
        ("connect_time", Self::ConnectTime),
        ("end", Self::End),
        ("ended_by", Self::EndedBy),
        ("listener", Self::Listener),
        ("local_address", Self::LocalAddress),
        ("local_port", Self::LocalPort),
        ("received_bytes", Self::BytesReceived),
        ("received_datagrams", Self::DatagramsReceived),
        ("refusal", Self::Refusal),
        ("retries", Self::Retries),
        ("sent_bytes", Self::BytesSent),
        ("sent_datagrams", Self::DatagramsSent),
        ("server_name", Self::ServerName),
        ("time", Self::TimeIso8601),
        ("tls_server_name", Self::ServerName),
    ];

    /// Every name, for those who meant another.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().map(|(name, _)| *name)
    }
}

impl Variables for Variable {
    fn named(name: &str) -> Option<Self> {
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, variable)| *variable)
    }

    fn is_number(&self) -> bool {
        matches!(
            self,
            Self::BytesReceived
                | Self::BytesSent
                | Self::ClientPort
                | Self::ConnectTime
                | Self::DatagramsReceived
                | Self::DatagramsSent
                | Self::LocalPort
                | Self::Msec
                | Self::Retries
                | Self::SessionTime
                | Self::Status
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let mut names: Vec<&str> = Variable::names().collect();
        for (name, variable) in Variable::NAMES {
            assert_eq!(Variable::named(name), Some(variable), "{name}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Variable::NAMES.len());
        assert_eq!(Variable::named("request"), None);
    }
}

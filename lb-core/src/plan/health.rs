//! Active health checks: what is asked of a backend, how often, and what answer is a good one.
//!
//! Invariant: a valid check can be sent as it stands: its method, path, names and ranges are such
//! that nothing of them can break out of the line that they are written to.
//! Read next: `validate.rs` (the rest of a valid plan), `balance/health.rs` (results to health).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::validate::{Place, Validation};

/// Active health checks of a cluster. They run on the workers; each backend is checked by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What a check does.
    pub check: Check,
    /// Time between the end of a check and the start of the next one of the same backend.
    pub interval: Duration,
    /// By how many percent, up or down, each interval is changed at random, 0 to 50 (as HAProxy's
    /// spread-checks): so the checks of many backends, and of many balancers, do not march in step.
    pub jitter: u8,
    /// A check that takes longer has failed. It covers everything, from connecting on.
    pub timeout: Duration,
    /// Successes in a row that make an unhealthy backend healthy.
    pub rise: u8,
    /// Failures in a row that make a healthy backend unhealthy.
    pub fall: u8,
    /// The port to check instead of the backend's own.
    pub port: Option<u16>,
}

impl Default for Health {
    /// As HAProxy: a dead backend is found within 6 s and trusted again within 4 s.
    fn default() -> Self {
        Self {
            check: Check::Tcp,
            interval: Duration::from_secs(2),
            jitter: 10,
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            port: None,
        }
    }
}

/// What a health check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// The gRPC health service (grpc.health.v1.Health/Check) says SERVING.
    Grpc(GrpcCheck),
    /// A request is answered with an expected status.
    Http(HttpCheck),
    /// As `Http`, over TLS.
    Https(HttpCheck, TlsCheck),
    /// A TCP connection is established and closed.
    Tcp,
    /// A datagram is answered, or at least not refused.
    Udp(UdpCheck),
}

impl Check {
    /// The kind of check, as configuration, logs and the admin API name it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Grpc(_) => "grpc",
            Self::Http(_) => "http",
            Self::Https(..) => "https",
            Self::Tcp => "tcp",
            Self::Udp(_) => "udp",
        }
    }
}

/// An HTTP/1.1 request and what is expected of its response. The body is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    /// The method, in upper case; not CONNECT.
    pub method: String,
    /// Path and query, from its `/` on.
    pub path: String,
    /// The Host field; `None` sends the address that is checked, as kubelet's probes do.
    pub host: Option<String>,
    /// Final statuses that are a success; at least one range.
    pub expected: Vec<StatusRange>,
}

impl Default for HttpCheck {
    /// `GET /`, and any status from 200 to 399, as kubelet's probes and HAProxy have it.
    fn default() -> Self {
        Self {
            method: String::from("GET"),
            path: String::from("/"),
            host: None,
            expected: vec![StatusRange {
                first: 200,
                last: 399,
            }],
        }
    }
}

/// HTTP statuses from `first` to `last`, both included; both are 200 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRange {
    /// The lowest.
    pub first: u16,
    /// The highest, not below `first`.
    pub last: u16,
}

impl StatusRange {
    /// Whether `status` is in the range.
    #[must_use]
    pub const fn contains(self, status: u16) -> bool {
        self.first <= status && status <= self.last
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl FromStr for StatusRange {
    type Err = MalformedStatusRange;

    /// `200`, `200-399`, or `2xx`.
    fn from_str(text: &str) -> Result<Self, MalformedStatusRange> {
        let number = |text: &str| match text.parse::<u16>() {
            Ok(status @ 200..=599) if text.len() == 3 => Some(status),
            _ => None,
        };
        let range = match (text.split_once('-'), text.strip_suffix("xx")) {
            (Some((first, last)), _) => number(first).zip(number(last)),
            (None, Some(class)) => {
                let class = number(&format!("{class}00"));
                class.map(|first| (first, first + 99))
            }
            (None, None) => number(text).map(|status| (status, status)),
        };
        range
            .filter(|(first, last)| first <= last)
            .map(|(first, last)| Self { first, last })
            .ok_or_else(|| MalformedStatusRange {
                text: text.to_owned(),
            })
    }
}

/// What is no range of statuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no range of statuses: write 200, 200-399 or 2xx, from 200 to 599")]
pub struct MalformedStatusRange {
    /// The text given.
    pub text: String,
}

/// How a check speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsCheck {
    /// The name that the certificate must bear, sent as SNI; a DNS name or an IP address. `None`:
    /// no SNI, and the certificate must bear the address that is checked.
    pub server_name: Option<String>,
    /// Whether the certificate is verified.
    pub verify: Verify,
}

/// Whether a backend's certificate is verified by a health check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Verify {
    /// Any certificate will do, as kubelet's probes have it: a check asks whether a backend
    /// works, and the certificates of pods are self-signed more often than not.
    #[default]
    Off,
    /// By these certificates of authorities, in DER; at least one. Whoever makes the plan has
    /// read them: no worker reads a file.
    Roots(Vec<Vec<u8>>),
}

/// A call of grpc.health.v1.Health/Check, as kubelet's gRPC probes make it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GrpcCheck {
    /// The service asked for; empty for the backend as a whole.
    pub service: String,
    /// The `:authority` sent; `None` sends the address that is checked.
    pub authority: Option<String>,
    /// TLS with ALPN `h2`; `None` speaks HTTP/2 in the clear, with prior knowledge.
    pub tls: Option<TlsCheck>,
}

/// A datagram and what must come back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UdpCheck {
    /// What is sent; may be empty, at most [`UdpCheck::BYTES_MAX`] bytes.
    pub send: Vec<u8>,
    /// What the reply must start with, at most [`UdpCheck::BYTES_MAX`] bytes. `None`: silence is
    /// a success, and only an ICMP error within the timeout a failure, as in nginx and HAProxy;
    /// such a check takes as long as its timeout.
    pub expect: Option<Vec<u8>>,
}

impl UdpCheck {
    /// What fits a datagram on every path without fragments.
    pub const BYTES_MAX: usize = 1232;
}

impl Validation<'_> {
    pub(super) fn health(&mut self, place: &Place, health: &Health) {
        self.timeout(place, "health.interval", health.interval);
        self.timeout(place, "health.timeout", health.timeout);
        self.range(place, "health.jitter", health.jitter, (0, 50));
        self.range(place, "health.rise", health.rise, (1, u8::MAX));
        self.range(place, "health.fall", health.fall, (1, u8::MAX));
        if let Some(port) = health.port {
            self.range(place, "health.port", port, (1, u16::MAX));
        }
        match &health.check {
            Check::Grpc(check) => self.grpc_check(place, check),
            Check::Http(check) => self.http_check(place, check),
            Check::Https(check, tls) => {
                self.http_check(place, check);
                self.tls_check(place, tls);
            }
            Check::Tcp => {}
            Check::Udp(check) => self.udp_check(place, check),
        }
    }

    fn http_check(&mut self, place: &Place, check: &HttpCheck) {
        let method = &check.method;
        if method.is_empty()
            || !method.bytes().all(|byte| byte.is_ascii_uppercase())
            || method == "CONNECT"
        {
            let reason = "a method has upper-case letters only, and CONNECT is for proxies";
            self.malformed(place, "health.method", method, reason);
        }
        let path = &check.path;
        if !path.starts_with('/') || !is_visible(path) || path.contains('#') {
            let reason = "a path starts with '/' and has visible ASCII only, no '#'";
            self.malformed(place, "health.path", path, reason);
        }
        if let Some(host) = &check.host {
            self.authority(place, "health.host", host);
        }
        if check.expected.is_empty() {
            let reason = "no status would be a success";
            self.malformed(place, "health.expected", "", reason);
        }
        for range in &check.expected {
            self.range(place, "health.expected", range.first, (200, range.last));
            self.range(place, "health.expected", range.last, (range.first, 599));
        }
    }

    fn grpc_check(&mut self, place: &Place, check: &GrpcCheck) {
        let service = &check.service;
        if !is_visible(service) || service.len() > 255 {
            let reason = "a service has visible ASCII only, at most 255";
            self.malformed(place, "health.service", service, reason);
        }
        if let Some(authority) = &check.authority {
            self.authority(place, "health.host", authority);
        }
        if let Some(tls) = &check.tls {
            self.tls_check(place, tls);
        }
    }

    fn tls_check(&mut self, place: &Place, check: &TlsCheck) {
        if let Some(name) = &check.server_name {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
            if name.is_empty() || name.len() > 253 || !name.bytes().all(allowed) {
                let reason = "it must be a DNS name or an IP address, without a port";
                self.malformed(place, "health.server_name", name, reason);
            }
        }
        if matches!(&check.verify, Verify::Roots(roots) if roots.is_empty()) {
            let reason = "there is no certificate to verify by";
            self.malformed(place, "health.verify", "", reason);
        }
    }

    fn udp_check(&mut self, place: &Place, check: &UdpCheck) {
        let bytes = (0, UdpCheck::BYTES_MAX);
        self.range(place, "health.send", check.send.len(), bytes);
        if let Some(expect) = &check.expect {
            self.range(place, "health.expect", expect.len(), bytes);
        }
    }

    fn authority(&mut self, place: &Place, field: &'static str, authority: &str) {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
        if authority.is_empty() || authority.len() > 255 || !authority.bytes().all(allowed) {
            let reason = "it must be a host or an IP address, with or without a port";
            self.malformed(place, field, authority, reason);
        }
    }
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::super::{Cluster, Plan};
    use super::*;

    /// What is wrong with `health`, as a user reads it.
    fn errors(health: Health) -> Vec<String> {
        let mut cluster = Cluster::new("a", Vec::new());
        cluster.health = Some(health);
        let plan = Plan {
            clusters: vec![cluster.into()],
            ..Plan::default()
        };
        let errors = plan.validate().err().unwrap_or_default();
        errors
            .iter()
            .map(|error| error.to_string().replace("cluster \"a\": ", ""))
            .collect()
    }

    fn check_errors(check: Check) -> Vec<String> {
        errors(Health {
            check,
            ..Health::default()
        })
    }

    fn http(change: impl FnOnce(&mut HttpCheck)) -> Vec<String> {
        let mut check = HttpCheck::default();
        change(&mut check);
        check_errors(Check::Http(check))
    }

    #[test]
    fn defaults_are_valid() {
        for check in [
            Check::Grpc(GrpcCheck::default()),
            Check::Http(HttpCheck::default()),
            Check::Https(HttpCheck::default(), TlsCheck::default()),
            Check::Tcp,
            Check::Udp(UdpCheck::default()),
        ] {
            assert_eq!(check_errors(check), Vec::<String>::new());
        }
    }

    #[test]
    fn numbers_are_bounded() {
        let health = Health {
            jitter: 51,
            port: Some(0),
            ..Health::default()
        };
        assert_eq!(
            errors(health),
            [
                "health.jitter is 51, which must be from 0 to 50",
                "health.port is 0, which must be from 1 to 65535",
            ]
        );
        let check = UdpCheck {
            send: vec![0; 1233],
            expect: Some(vec![0; 1233]),
        };
        assert_eq!(check_errors(Check::Udp(check)).len(), 2);
    }

    #[test]
    fn nothing_breaks_out_of_its_line() {
        assert_eq!(http(|it| it.method = "get".into()).len(), 1);
        assert_eq!(http(|it| it.method = "GET / HTTP".into()).len(), 1);
        assert_eq!(http(|it| it.method = String::new()).len(), 1);
        assert_eq!(http(|it| it.method = "CONNECT".into()).len(), 1);
        assert_eq!(http(|it| it.path = "healthz".into()).len(), 1);
        assert_eq!(http(|it| it.path = "/a b".into()).len(), 1);
        assert_eq!(http(|it| it.path = "/\r\nX: y".into()).len(), 1);
        assert_eq!(http(|it| it.host = Some("a\r\nX: y".into())).len(), 1);
        assert_eq!(http(|it| it.host = Some(String::new())).len(), 1);
        assert_eq!(http(|it| it.host = Some("[::1]:80".into())).len(), 0);
        assert_eq!(http(|it| it.path = "/healthz?full=1".into()).len(), 0);
    }

    #[test]
    fn a_check_that_nothing_passes_is_refused() {
        assert_eq!(
            http(|it| it.expected.clear()),
            ["health.expected \"\" is not valid: no status would be a success"]
        );
        let range = |first, last| StatusRange { first, last };
        assert!(!http(|it| it.expected = vec![range(300, 200)]).is_empty());
        assert!(!http(|it| it.expected = vec![range(100, 200)]).is_empty());
        assert!(!http(|it| it.expected = vec![range(200, 600)]).is_empty());
        let tls = TlsCheck {
            server_name: Some("a b".into()),
            verify: Verify::Roots(Vec::new()),
        };
        let check = GrpcCheck {
            service: "a b".into(),
            authority: Some("a/b".into()),
            tls: Some(tls),
        };
        assert_eq!(check_errors(Check::Grpc(check)).len(), 4);
    }

    #[test]
    fn statuses_are_written_in_three_ways() {
        let range = |first, last| Ok(StatusRange { first, last });
        assert_eq!("204".parse(), range(204, 204));
        assert_eq!("200-399".parse(), range(200, 399));
        assert_eq!("5xx".parse(), range(500, 599));
        for wrong in [
            "", "1xx", "6xx", "20", "0200", "+200", "300-200", "200-", "xx", "200-3xx",
        ] {
            assert!(wrong.parse::<StatusRange>().is_err(), "{wrong}");
        }
        for text in ["204", "200-399"] {
            let range: StatusRange = text.parse().unwrap();
            assert_eq!(range.to_string(), text);
        }
    }
}

//! What valid TLS is: names, ranges, and settings that go together.
//!
//! Invariant: what is refused here could never make a handshake. Whether certificates and keys are
//! what they should be, `lb_l7::tls` says.
//! Read next: `tls.rs` (the types), `validate.rs` (the errors).

use std::collections::HashSet;

use super::validate::{Place, Validation, host_problem};
use super::{
    BackendTls, Certificate, ClientAuth, NamedClientAuth, Rate, TicketKey, TlsServer, TlsSuite,
    TlsVersion, Verify,
};

impl Validation<'_> {
    pub(super) fn tls_server(&mut self, place: &Place, tls: &TlsServer) {
        if tls.certificates.is_empty() {
            let reason = "there is no certificate";
            self.malformed(place, "tls.certificates", "", reason);
        }
        for certificate in tls.certificates.iter() {
            self.certificate(place, "tls.certificates", certificate);
        }
        self.timeout(place, "tls.handshake_timeout", tls.handshake_timeout);
        if let Some(Rate { per_second, burst }) = tls.handshake_rate {
            let range = (1, Rate::PER_SECOND_LIMIT);
            self.range(place, "tls.handshake_rate.per_second", per_second, range);
            self.range(place, "tls.handshake_rate.burst", burst, range);
        }
        self.suites(place, tls);
        if let Some(auth) = &tls.client_auth {
            self.client_auth(place, auth);
        }
        self.client_auth_by_name(place, &tls.client_auth_by_name);
        for TicketKey(key) in &tls.ticket_keys {
            let range = (TicketKey::BYTES_LEAST, TicketKey::BYTES_MAX);
            self.range(place, "tls.ticket_keys", key.len(), range);
        }
    }

    fn client_auth(&mut self, place: &Place, auth: &ClientAuth) {
        let depth = (0, ClientAuth::DEPTH_LIMIT);
        self.range(place, "tls.client_auth.depth", auth.depth, depth);
        if auth.roots.is_empty() {
            let reason = "there is no certificate to verify by";
            self.malformed(place, "tls.client_auth.roots", "", reason);
        }
    }

    fn client_auth_by_name(&mut self, place: &Place, policies: &[NamedClientAuth]) {
        let field = "tls.client_auth_by_name";
        let mut seen = HashSet::new();
        for policy in policies {
            if policy.names.is_empty() {
                self.malformed(place, field, "", "there is no name that it is for");
            }
            for name in &policy.names {
                if let Some(reason) = host_problem(name) {
                    self.malformed(place, field, name, reason);
                } else if !seen.insert(name) {
                    self.malformed(place, field, name, "the name is there twice");
                }
            }
            if let Some(auth) = &policy.auth {
                self.client_auth(place, auth);
            }
        }
    }

    pub(super) fn backend_tls(&mut self, place: &Place, tls: &BackendTls) {
        if let Some(name) = &tls.server_name {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
            if name.is_empty() || name.len() > 253 || !name.bytes().all(allowed) {
                let reason = "it must be a DNS name or an IP address, without a port";
                self.malformed(place, "tls.server_name", name, reason);
            }
        }
        if matches!(&tls.verify, Verify::Roots(roots) if roots.is_empty()) {
            let reason = "there is no certificate to verify by";
            self.malformed(place, "tls.verify", "", reason);
        }
        if let Some(certificate) = &tls.certificate {
            self.certificate(place, "tls.certificate", certificate);
        }
    }

    fn certificate(&mut self, place: &Place, field: &'static str, certificate: &Certificate) {
        if certificate.chain.is_empty() {
            let reason = "there is no certificate in its chain";
            self.malformed(place, field, &certificate.name, reason);
        }
        for name in &certificate.server_names {
            if let Some(reason) = host_problem(name) {
                self.malformed(place, "tls.server_names", name, reason);
            }
        }
    }

    /// With suites for one version only, that must be the only one.
    fn suites(&mut self, place: &Place, tls: &TlsServer) {
        let has = |version| tls.suites.iter().any(|suite| suite.version() == version);
        if tls.suites.is_empty() || has(TlsVersion::V1_3) {
            return;
        }
        if tls.min_version == TlsVersion::V1_3 {
            let value = tls
                .suites
                .first()
                .map_or("", |suite: &TlsSuite| suite.name());
            let reason = "all suites are for TLS 1.2, which is not spoken";
            self.malformed(place, "tls.suites", value, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::{Http, KeyForm, Listener, Plan, PrivateKey, Protocol};
    use super::*;

    fn certificate(names: &[&str]) -> Arc<Certificate> {
        Arc::new(Certificate {
            name: "it.pem".into(),
            server_names: names.iter().map(|name| (*name).to_owned()).collect(),
            chain: vec![vec![1]],
            key: PrivateKey {
                form: KeyForm::Pkcs8,
                der: vec![1],
            },
            ocsp: None,
        })
    }

    fn errors(tls: TlsServer) -> Vec<String> {
        let plan = Plan {
            listeners: vec![Arc::new(Listener {
                name: "l".into(),
                address: "127.0.0.1:0".parse().unwrap(),
                edge: super::super::Edge::default(),
                access_log: super::super::ListenerLog::default(),
                protocol: Protocol::Http(Http {
                    tls: Some(tls),
                    ..Http::default()
                }),
            })],
            ..Plan::default()
        };
        let errors = plan.validate().err().unwrap_or_default();
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_are_valid() {
        let names = ["shop.example", "*.shop.example"];
        let tls = TlsServer::new(vec![certificate(&names), certificate(&[])]);
        assert_eq!(errors(tls), Vec::<String>::new());
    }

    #[test]
    fn what_could_never_work_is_refused() {
        let none = errors(TlsServer::new(Vec::new()));
        assert_eq!(
            none,
            ["listener \"l\": tls.certificates \"\" is not valid: there is no certificate"]
        );
        let mut tls = TlsServer::new(vec![certificate(&["Shop.example", "a.*.example"])]);
        tls.handshake_timeout = Duration::ZERO;
        tls.min_version = TlsVersion::V1_3;
        tls.suites = vec![TlsSuite::RsaAes128];
        tls.ticket_keys = vec![TicketKey(vec![0; 31])];
        tls.client_auth = Some(ClientAuth {
            required: true,
            roots: Arc::default(),
            revoked: Arc::default(),
            overdue: super::super::OverdueCrl::default(),
            depth: 7,
        });
        assert_eq!(errors(tls).len(), 7);
    }

    #[test]
    fn backends_are_checked_too() {
        let mut cluster = super::super::Cluster::new("c", Vec::new());
        cluster.tls = Some(BackendTls {
            verify: Verify::Roots(Vec::new()),
            server_name: Some("a b".into()),
            certificate: Some(certificate(&["A"])),
            ..BackendTls::default()
        });
        let plan = Plan {
            clusters: vec![Arc::new(cluster)],
            ..Plan::default()
        };
        assert_eq!(plan.validate().unwrap_err().len(), 3);
    }
}

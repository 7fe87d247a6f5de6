//! What is answered on the healthCheckNodePort of a Service.
//!
//! Invariant: byte for byte what kube-proxy answers (pkg/proxy/healthcheck/service_health.go).
//! Read next: `service/mod.rs` (which counts the endpoints).

use std::net::IpAddr;

use crate::object::Name;

/// A Service of type LoadBalancer with `externalTrafficPolicy: Local`: the load balancer outside
/// asks this port which nodes have endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheckNodePort {
    /// The Service.
    pub service: Name,
    /// The port.
    pub port: u16,
    /// The addresses to answer on; the unspecified one is all.
    pub addresses: Vec<IpAddr>,
    /// Ready endpoints on this node, each address counted once.
    pub local_endpoints: usize,
}

/// A response, whatever the path asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthAnswer {
    /// 200 or 503.
    pub status: u16,
    /// Header fields.
    pub headers: [(&'static str, String); 3],
    /// The body.
    pub body: String,
}

impl HealthCheckNodePort {
    /// The answer of a process that is `healthy` itself.
    #[must_use]
    pub fn answer(&self, healthy: bool) -> HealthAnswer {
        let Self {
            service,
            local_endpoints: count,
            ..
        } = self;
        let (namespace, name) = (&service.namespace, &service.name);
        let body = format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \
             \"{name}\"\n\t}},\n\t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": \
             {healthy}\n}}"
        );
        let json = "application/json".to_owned();
        HealthAnswer {
            status: if *count > 0 && healthy { 200 } else { 503 },
            headers: [
                ("Content-Type", json),
                ("X-Content-Type-Options", "nosniff".to_owned()),
                ("X-Load-Balancing-Endpoint-Weight", count.to_string()),
            ],
            body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(local_endpoints: usize, healthy: bool) -> HealthAnswer {
        let check = HealthCheckNodePort {
            service: Name::new("ns", "svc"),
            port: 30_100,
            addresses: Vec::new(),
            local_endpoints,
        };
        check.answer(healthy)
    }

    #[test]
    fn the_answer_is_that_of_kube_proxy() {
        let expected = "{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"svc\"\n\
                        \t},\n\t\"localEndpoints\": 1,\n\t\"serviceProxyHealthy\": true\n}";
        let one = answer(1, true);
        assert_eq!((one.status, &*one.body), (200, expected));
        assert_eq!(one.headers[2].1, "1");
        assert_eq!(
            (answer(0, true).status, answer(2, false).status),
            (503, 503)
        );
    }
}

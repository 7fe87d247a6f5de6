//! The configurations of Envoy, Traefik and Caddy, as text.
//!
//! Invariant: they ask for what those of `configuration.rs` ask for: one worker on one core,
//! connections to the origins kept, no access log but where all write one, time limits that no
//! measurement reaches. Paths are relative to the folder that the program is started in.

use std::fmt::Write as _;

use super::peers::{ACCESS_LOG, IDENTITY, Site};
use super::scenario::{Mode, Speech};

/// Envoy's static configuration.
pub(super) fn envoy(site: &Site) -> String {
    let kind = if site.mode == Mode::Udp { "UDP" } else { "TCP" };
    let address = envoy_address(site.listen, kind);
    let filter = match site.mode {
        Mode::Http => envoy_http(site),
        Mode::Tcp => "    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: origins
          cluster: origins
"
        .to_owned(),
        Mode::Udp => "    listener_filters:
    - name: envoy.filters.udp_listener.udp_proxy
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig
        stat_prefix: origins
        matcher:
          on_no_match:
            action:
              name: route
              typed_config:
                \"@type\": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.Route
                cluster: origins
"
        .to_owned(),
    };
    let mut text = format!(
        "static_resources:
  listeners:
  - name: clients
    address: {address}
{filter}  clusters:
  - name: origins
    type: STATIC
    lb_policy: ROUND_ROBIN
    connect_timeout: 5s
    load_assignment:
      cluster_name: origins
      endpoints:
      - lb_endpoints:
"
    );
    for backend in site.backends {
        let address = envoy_address(backend, kind);
        let _ = writeln!(text, "        - endpoint: {{ address: {address} }}");
    }
    if site.http2_to_origins {
        text += "    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }
";
    }
    text
}

fn envoy_address(address: std::net::SocketAddr, protocol: &str) -> String {
    format!(
        "{{ socket_address: {{ protocol: {protocol}, address: {}, port_value: {} }} }}",
        address.ip(),
        address.port()
    )
}

fn envoy_http(site: &Site) -> String {
    let mut text = "    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: clients
          codec_type: AUTO
          generate_request_id: false
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes:
              - match: { prefix: \"/\" }
                route: { cluster: origins, timeout: 0s }
"
    .to_owned();
    if site.speech == Speech::WebSocket {
        text += "          upgrade_configs: [{ upgrade_type: websocket }]\n";
    }
    if site.access_log {
        let _ = write!(
            text,
            "          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {ACCESS_LOG}
"
        );
    }
    if site.secure {
        let _ = write!(
            text,
            "      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates:
            - certificate_chain: {{ filename: {IDENTITY}.crt }}
              private_key: {{ filename: {IDENTITY}.key }}
"
        );
    }
    text
}

/// Traefik's dynamic configuration; the static one is in its [`traefik_arguments`].
pub(super) fn traefik(site: &Site) -> String {
    let (kind, rule) = match site.mode {
        Mode::Http => ("http", "      rule: PathPrefix(`/`)\n"),
        Mode::Tcp => ("tcp", "      rule: HostSNI(`*`)\n"),
        Mode::Udp => ("udp", ""),
    };
    let tls = if site.secure { "      tls: {}\n" } else { "" };
    let mut text = format!(
        "{kind}:
  routers:
    all:
      entryPoints: [clients]
{rule}{tls}      service: origins
  services:
    origins:
      loadBalancer:
        servers:
"
    );
    for backend in site.backends {
        let server = match site.mode {
            Mode::Http if site.http2_to_origins => format!("url: h2c://{backend}"),
            Mode::Http => format!("url: http://{backend}"),
            Mode::Tcp | Mode::Udp => format!("address: {backend}"),
        };
        let _ = writeln!(text, "        - {server}");
    }
    if site.secure {
        let _ = write!(
            text,
            "tls:
  stores:
    default:
      defaultCertificate:
        certFile: {IDENTITY}.crt
        keyFile: {IDENTITY}.key
"
        );
    }
    text
}

/// How Traefik is told where to listen and what else to read.
pub(super) fn traefik_arguments(site: &Site, file: &str) -> String {
    let udp = if site.mode == Mode::Udp { "/udp" } else { "" };
    let mut text = format!(
        "--entrypoints.clients.address={}{udp} --providers.file.filename={file} \
         --providers.file.watch=false --global.checknewversion=false \
         --global.sendanonymoususage=false --log.level=ERROR",
        site.listen
    );
    if site.access_log {
        let _ = write!(text, " --accesslog=true --accesslog.filepath={ACCESS_LOG}");
    }
    text
}

/// Caddy's configuration; it proxies only HTTP.
pub(super) fn caddy(site: &Site) -> String {
    let [first, second] = site.backends;
    let (port, ip) = (site.listen.port(), site.listen.ip());
    let scheme = if site.secure { "https" } else { "http" };
    let tls = if site.secure {
        format!("\ttls {IDENTITY}.crt {IDENTITY}.key\n")
    } else {
        String::new()
    };
    let log = if site.access_log {
        format!("\tlog {{\n\t\toutput file {ACCESS_LOG}\n\t}}\n")
    } else {
        String::new()
    };
    let versions = if site.http2_to_origins {
        "\t\t\tversions h2c 2\n"
    } else {
        ""
    };
    format!(
        "{{
\tadmin off
\tauto_https off
\tservers {{
\t\tprotocols h1 h2 h2c
\t}}
}}

{scheme}://:{port} {{
\tbind {ip}
{tls}{log}\treverse_proxy {first} {second} {{
\t\tlb_policy round_robin
\t\ttransport http {{
\t\t\tkeepalive 10m
\t\t\tkeepalive_idle_conns_per_host 128
{versions}\t\t}}
\t}}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::super::configuration::sample_site;
    use super::*;

    #[test]
    fn they_listen_and_forward_where_they_are_told() {
        for mode in [Mode::Http, Mode::Tcp, Mode::Udp] {
            let site = sample_site(mode);
            let text = envoy(&site);
            assert!(text.contains("port_value: 8000") && text.contains("port_value: 9002"));
            let text = traefik(&site) + &traefik_arguments(&site, "x.yaml");
            assert!(text.contains("address=127.0.0.1:8000") && text.contains("127.0.0.1:9001"));
        }
        let text = caddy(&sample_site(Mode::Http));
        assert!(text.contains("http://:8000 {") && text.contains("127.0.0.1:9001 127.0.0.1:9002"));
        // As many as nginx is told to keep: the 32 that it keeps by itself are fewer than clients.
        assert!(text.contains("keepalive_idle_conns_per_host 128"));
    }

    #[test]
    fn tls_logs_and_http2_are_there_when_they_are_asked_for() {
        let plain = sample_site(Mode::Http);
        let site = Site {
            secure: true,
            access_log: true,
            http2_to_origins: true,
            ..sample_site(Mode::Http)
        };
        for text in [envoy, traefik, caddy] {
            assert!(text(&site).contains("site.key") && !text(&plain).contains("site.key"));
        }
        for text in [envoy, caddy] {
            assert!(text(&site).contains("access.log") && !text(&plain).contains("access.log"));
        }
        assert!(traefik_arguments(&site, "x").contains("filepath=access.log"));
        assert!(envoy(&site).contains("http2_protocol_options"));
        assert!(traefik(&site).contains("h2c://127.0.0.1:9001"));
        assert!(caddy(&site).contains("versions h2c"));
    }
}

//! The configurations of the peers, as text.
//!
//! Invariant: they ask for what `lb` is asked for, in the way their manuals recommend for it:
//! one worker on one core, connections to the origins kept for any number of requests, no
//! access log, TLS as they ship it, time limits that no measurement reaches. Paths are relative to the folder that
//! the program is started in.

use std::fmt::Write as _;
use std::path::Path;

use super::peers::{ACCESS_LOG, IDENTITY, Site};
use super::scenario::{Mode, Speech};

/// Descriptors beside those of clients and their backends.
const DESCRIPTORS_SPARE: usize = 200;

/// What nginx keeps of an answer in memory: `proxy_buffers` of 8 × 4 KiB and a first one.
const NGINX_BUFFERS_BYTES: usize = 9 * 4096;

/// The configuration of nginx; `stream_module` is loaded where TCP is to be relayed.
pub(super) fn nginx(site: &Site, stream_module: Option<&Path>) -> String {
    let mut text = String::new();
    if let (Mode::Tcp | Mode::Udp, Some(module)) = (site.mode, stream_module) {
        let _ = writeln!(text, "load_module {};", module.display());
    }
    let _ = write!(
        text,
        "daemon off;
worker_processes 1;
worker_cpu_affinity {affinity};
worker_rlimit_nofile {descriptors};
pid nginx.pid;
error_log stderr warn;

events {{
    worker_connections {descriptors};
}}

",
        affinity = format_args!("{:b}", 1_u64 << site.cpu),
        descriptors = 2 * site.connections_max + DESCRIPTORS_SPARE,
    );
    text += &match site.mode {
        Mode::Http => nginx_http(site),
        Mode::Tcp | Mode::Udp => nginx_stream(site),
    };
    text
}

fn nginx_http(site: &Site) -> String {
    let [first, second] = site.backends;
    let access_log = if site.access_log { ACCESS_LOG } else { "off" };
    let (secure, identity) = if site.secure {
        let identity = format!(
            "
        ssl_certificate {IDENTITY}.crt;
        ssl_certificate_key {IDENTITY}.key;
        ssl_protocols TLSv1.2 TLSv1.3;
"
        );
        (" ssl", identity)
    } else {
        ("", String::new())
    };
    // What does not fit into its buffers would go through a file.
    let streaming = if site.answer_bytes > NGINX_BUFFERS_BYTES {
        "\n            proxy_max_temp_file_size 0;"
    } else {
        ""
    };
    let pass = match site.speech {
        Speech::Grpc => "grpc_pass grpc://origins;\n            grpc_socket_keepalive on;",
        Speech::WebSocket => {
            "proxy_pass http://origins;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;"
        }
        // Since 1.29.4.
        Speech::Http2 if site.http2_to_origins => {
            "proxy_pass http://origins;
            proxy_http_version 2;"
        }
        _ => {
            "proxy_pass http://origins;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";"
        }
    };
    let http2 = match site.speech {
        Speech::Grpc | Speech::Http2 => " http2",
        _ => "",
    };
    format!(
        "http {{
    access_log {access_log};
    keepalive_timeout 10m;
    keepalive_requests 1000000000;

    client_body_temp_path nginx-temp/client-body;
    proxy_temp_path nginx-temp/proxy;
    fastcgi_temp_path nginx-temp/fastcgi;
    uwsgi_temp_path nginx-temp/uwsgi;
    scgi_temp_path nginx-temp/scgi;

    upstream origins {{
        server {first};
        server {second};
        keepalive 128;
        keepalive_timeout 10m;
        keepalive_requests 1000000000;
    }}

    server {{
        listen {listen}{secure}{http2} backlog=4096;
{identity}
        location / {{
            {pass}{streaming}
        }}
    }}
}}
",
        listen = site.listen,
    )
}

fn nginx_stream(site: &Site) -> String {
    let [first, second] = site.backends;
    let how = if site.mode == Mode::Udp {
        "udp"
    } else {
        "backlog=4096"
    };
    format!(
        "stream {{
    upstream origins {{
        server {first};
        server {second};
    }}

    server {{
        listen {listen} {how};
        proxy_pass origins;
        proxy_timeout 10m;
    }}
}}
",
        listen = site.listen,
    )
}

/// The configuration of HAProxy.
pub(super) fn haproxy(site: &Site) -> String {
    let [first, second] = site.backends;
    let mode = match site.mode {
        Mode::Http => "mode http\n    option http-keep-alive\n    http-reuse always",
        // It is not asked to forward datagrams: it cannot.
        Mode::Tcp | Mode::Udp => "mode tcp",
    };
    // Standard output goes to a file.
    let (log, log_requests) = if site.access_log {
        (
            "\n    log stdout format raw local0",
            "\n    log global\n    option httplog",
        )
    } else {
        ("", "")
    };
    let proto = match site.speech {
        Speech::Grpc | Speech::Http2 => " proto h2",
        _ => "",
    };
    let to_origins = if site.http2_to_origins {
        " proto h2"
    } else {
        ""
    };
    let secure = if site.secure {
        format!(" ssl crt {IDENTITY}.pem")
    } else {
        String::new()
    };
    format!(
        "global
    nbthread 1
    cpu-map 1/1 {cpu}
    maxconn {connections}{log}

defaults
    {mode}{log_requests}
    timeout connect 5s
    timeout client 10m
    timeout server 10m

frontend clients
    bind {listen} backlog 4096{secure}{proto}
    default_backend origins

backend origins
    balance roundrobin
    server first {first}{to_origins}
    server second {second}{to_origins}
",
        cpu = site.cpu,
        connections = site.connections_max + DESCRIPTORS_SPARE / 2,
        listen = site.listen,
    )
}

/// A site for tests.
#[cfg(test)]
pub(super) fn sample_site(mode: Mode) -> Site {
    Site {
        mode,
        cpu: 0,
        workers: 1,
        listen: Site::address(8000),
        admin: Site::address(8001),
        backends: [Site::address(9001), Site::address(9002)],
        connections_max: 1000,
        access_log: false,
        secure: false,
        answer_bytes: 64,
        speech: Speech::Http,
        http2_to_origins: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nginx_speaks_http2_to_origins_where_it_is_asked_to() {
        let to_http1 = Site {
            speech: Speech::Http2,
            ..sample_site(Mode::Http)
        };
        let to_http2 = Site {
            http2_to_origins: true,
            ..to_http1
        };
        let asked = |site: &Site| nginx(site, None).contains("proxy_http_version 2;");
        assert!(asked(&to_http2) && !asked(&to_http1));
    }

    #[test]
    fn nginx_http_golden() {
        let text = nginx(
            &sample_site(Mode::Http),
            Some(Path::new("/modules/stream.so")),
        );
        assert_eq!(text, include_str!("golden/nginx-http.conf"));
    }

    #[test]
    fn nginx_stream_golden() {
        let text = nginx(
            &sample_site(Mode::Tcp),
            Some(Path::new("/modules/stream.so")),
        );
        assert_eq!(text, include_str!("golden/nginx-stream.conf"));
    }

    #[test]
    fn nginx_forwards_datagrams_as_it_relays_bytes() {
        let of = |mode| nginx(&sample_site(mode), None);
        let expected = of(Mode::Tcp).replace("backlog=4096", "udp");
        assert_eq!(of(Mode::Udp), expected);
    }

    #[test]
    fn haproxy_golden() {
        assert_eq!(
            haproxy(&sample_site(Mode::Http)),
            include_str!("golden/haproxy-http.cfg")
        );
        assert_eq!(
            haproxy(&sample_site(Mode::Tcp)),
            include_str!("golden/haproxy-tcp.cfg")
        );
    }

    #[test]
    fn access_logs_are_written_where_they_are_asked_for() {
        let site = Site {
            access_log: true,
            ..sample_site(Mode::Http)
        };
        assert!(nginx(&site, None).contains("access_log access.log;"));
        let text = haproxy(&site);
        assert!(
            text.contains("\n    log stdout format raw local0\n\ndefaults"),
            "{text}"
        );
        assert!(
            text.contains("\n    log global\n    option httplog\n    timeout"),
            "{text}"
        );
    }

    #[test]
    fn clients_come_over_tls_where_they_are_to() {
        let site = Site {
            secure: true,
            answer_bytes: 1 << 20,
            ..sample_site(Mode::Http)
        };
        let text = nginx(&site, None);
        assert!(text.contains("listen 127.0.0.1:8000 ssl backlog=4096;"));
        assert!(text.contains("ssl_certificate_key site.key;"), "{text}");
        assert!(text.contains("proxy_max_temp_file_size 0;"), "{text}");
        assert!(haproxy(&site).contains("backlog 4096 ssl crt site.pem\n"));
    }

    #[test]
    fn http2_is_spoken_where_it_is_to_be() {
        let site = Site {
            speech: Speech::Grpc,
            http2_to_origins: true,
            ..sample_site(Mode::Http)
        };
        let text = haproxy(&site);
        assert!(
            text.contains("bind 127.0.0.1:8000 backlog 4096 proto h2\n"),
            "{text}"
        );
        assert!(
            text.contains("server second 127.0.0.1:9002 proto h2\n"),
            "{text}"
        );
        let text = nginx(&site, None);
        assert!(
            text.contains("listen 127.0.0.1:8000 http2 backlog=4096;"),
            "{text}"
        );
        assert!(text.contains("grpc_pass grpc://origins;"), "{text}");
        let site = Site {
            speech: Speech::WebSocket,
            ..sample_site(Mode::Http)
        };
        assert!(nginx(&site, None).contains("proxy_set_header Upgrade $http_upgrade;"));
    }

    #[test]
    fn the_core_is_the_one_that_was_given() {
        let site = Site {
            cpu: 3,
            ..sample_site(Mode::Tcp)
        };
        assert!(nginx(&site, None).contains("worker_cpu_affinity 1000;"));
        assert!(haproxy(&site).contains("cpu-map 1/1 3\n"));
    }
}

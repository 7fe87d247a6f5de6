//! gRPC: deadlines, failures of ours as statuses, and what is passed on as it is.

use std::time::Duration;

use http::{HeaderMap, Request, Response};
use lb_core::plan::{self, BackendProtocol};

use crate::peers::{Http2Backend, Whole, ask, connect, post, proxy_to_http2, run, send, trailers};
use crate::support::{Backend, PATIENCE, Proxy, cluster_plan, http_plan, on_each_engine, refusing};

const LONG: &str = match str::from_utf8(&[b'x'; 2000]) {
    Ok(text) => text,
    Err(_) => "",
};
const MESSAGE: &[u8] = b"\0\0\0\0\x05hello";

fn call(fields: &[(&str, &str)]) -> Request<()> {
    let mut request = post("/a.B/C")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

fn status(got: &Whole) -> (u16, &str) {
    let status = got.head.headers().get("grpc-status");
    let status = status.map_or("none", |it| it.to_str().unwrap());
    (got.head.status().as_u16(), status)
}

/// Answers nothing.
fn silent() -> Http2Backend {
    Http2Backend::start(h2::server::Builder::new(), |_, respond, _| async move {
        tokio::time::sleep(PATIENCE).await;
        drop(respond);
    })
}

#[test]
fn a_deadline_that_passes_is_told_whoever_has_set_it() {
    on_each_engine(|engine| {
        let backend = silent();
        // The call's own.
        let proxy = proxy_to_http2(engine, &[backend.address]);
        run(async {
            let client = connect(proxy.address).await;
            let call = call(&[("grpc-timeout", "100m")]);
            let got = ask(&client, call, Some((MESSAGE, None))).await.unwrap();
            assert_eq!(status(&got), (200, "4"));
        });
        // Ours, which is shorter.
        let mut cluster = plan::Cluster {
            protocol: BackendProtocol::Http2,
            ..cluster_plan("main", &[backend.address])
        };
        cluster.exchanges.total_timeout = Some(Duration::from_millis(100));
        let proxy = Proxy::start(engine, http_plan(), &[cluster]);
        run(async {
            let client = connect(proxy.address).await;
            let call = call(&[("grpc-timeout", "1H")]);
            let got = ask(&client, call, Some((MESSAGE, None))).await.unwrap();
            assert_eq!(status(&got), (200, "4"));
        });
        // That of a listener.
        let mut http = http_plan();
        http.timeouts.response_head = Duration::from_millis(100);
        let cluster = plan::Cluster {
            protocol: BackendProtocol::Http2,
            ..cluster_plan("main", &[backend.address])
        };
        let proxy = Proxy::start(engine, http, &[cluster]);
        run(async {
            let client = connect(proxy.address).await;
            let got = ask(&client, call(&[]), Some((MESSAGE, None)))
                .await
                .unwrap();
            assert_eq!(status(&got), (200, "4"));
        });
    });
}

#[test]
fn a_deadline_ends_no_stream_that_is_answered() {
    on_each_engine(|engine| {
        let backend = Http2Backend::start(
            h2::server::Builder::new(),
            |request, mut respond, _| async move {
                let timeout = request.headers()["grpc-timeout"].to_str().unwrap();
                assert_eq!(timeout, "200m", "it is passed on");
                let head = Response::builder().header("content-type", "application/grpc");
                let mut stream = respond
                    .send_response(head.body(()).unwrap(), false)
                    .unwrap();
                tokio::time::sleep(Duration::from_millis(500)).await;
                send(&mut stream, MESSAGE, Some(trailers("grpc-status", "0"))).await;
            },
        );
        let proxy = proxy_to_http2(engine, &[backend.address]);
        run(async {
            let client = connect(proxy.address).await;
            let call = call(&[("grpc-timeout", "200m")]);
            let got = ask(&client, call, Some((MESSAGE, None))).await.unwrap();
            assert_eq!((&got.body[..], status(&got)), (MESSAGE, (200, "none")));
            assert_eq!(got.trailers.unwrap()["grpc-status"], "0");
        });
    });
}

#[test]
fn failures_of_ours_are_statuses() {
    on_each_engine(|engine| {
        let ask_one = |proxy: &Proxy, more: &'static [(&'static str, &'static str)]| {
            run(async {
                let client = connect(proxy.address).await;
                let got = ask(&client, call(more), Some((MESSAGE, None)))
                    .await
                    .unwrap();
                assert!(got.body.is_empty() && got.trailers.is_none());
                assert_eq!(got.head.headers()["content-type"], "application/grpc");
                let (http, grpc) = status(&got);
                assert_eq!(http, 200);
                grpc.parse::<u8>().unwrap()
            })
        };
        // No backend.
        assert_eq!(ask_one(&proxy_to_http2(engine, &[refusing()]), &[]), 14);
        // One that breaks off.
        let rude =
            Http2Backend::start(h2::server::Builder::new(), |_, mut respond, _| async move {
                respond.send_reset(h2::Reason::INTERNAL_ERROR);
            });
        assert_eq!(ask_one(&proxy_to_http2(engine, &[rude.address]), &[]), 14);
        // Too long a message, as the body says or comes.
        let mut http = http_plan();
        http.limits.body_bytes_max = Some(5);
        let backend = Http2Backend::echo();
        let cluster = plan::Cluster {
            protocol: BackendProtocol::Http2,
            ..cluster_plan("main", &[backend.address])
        };
        let proxy = Proxy::start(engine, http, &[cluster]);
        assert_eq!(ask_one(&proxy, &[]), 8);
        assert_eq!(ask_one(&proxy, &[("content-length", "10")]), 8);
        // Too long a head, for HTTP/2 and for what the listener takes.
        let mut http = http_plan();
        http.limits.head_bytes_max = 1024;
        http.limits.headers_max = 12;
        let cluster = cluster_plan("main", &[backend.address]);
        let proxy = Proxy::start(engine, http, &[cluster]);
        assert_eq!(ask_one(&proxy, &[("x-long", LONG)]), 8);
        assert_eq!(ask_one(&proxy, &[("x-many", "1"); 12]), 8);
        // A route that answers by itself.
        let mut http = http_plan();
        let answer = |status| plan::RouteAction::Answer { status };
        http.routes = [(403, "/a.B"), (429, "/a.B/D")]
            .map(|(status, path)| plan::Route {
                action: answer(status),
                ..plan::Route::to(None, path, "main")
            })
            .to_vec();
        let cluster = cluster_plan("main", &[backend.address]);
        assert_eq!(ask_one(&Proxy::start(engine, http, &[cluster]), &[]), 7);
        // No route.
        let mut http = http_plan();
        http.default_cluster = None;
        http.routes = vec![plan::Route::to(Some("other"), "/", "main")];
        let cluster = cluster_plan("main", &[backend.address]);
        assert_eq!(ask_one(&Proxy::start(engine, http, &[cluster]), &[]), 12);
    });
}

#[test]
fn nothing_but_a_head_is_passed_on() {
    on_each_engine(|engine| {
        let backend =
            Http2Backend::start(h2::server::Builder::new(), |_, mut respond, _| async move {
                let head = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", "7")
                    .header("grpc-message", "not%20you");
                let _ = respond.send_response(head.body(()).unwrap(), true);
            });
        let proxy = proxy_to_http2(engine, &[backend.address]);
        run(async {
            let client = connect(proxy.address).await;
            let got = ask(&client, call(&[]), Some((MESSAGE, None)))
                .await
                .unwrap();
            assert_eq!(status(&got), (200, "7"));
            assert_eq!(got.head.headers()["grpc-message"], "not%20you");
            assert!(got.body.is_empty() && got.trailers.is_none());
        });
    });
}

/// gRPC-Web is HTTP like any other: trailers are in its body, and failures have statuses of HTTP.
#[test]
fn the_web_kind_is_passed_through() {
    on_each_engine(|engine| {
        let body = b"\0\0\0\0\x05hello\x80\0\0\0\x0fgrpc-status:0\r\n";
        let web = "application/grpc-web+proto";
        let new = Http2Backend::echo();
        let old = Backend::responding(move |request| {
            assert!(request.head.contains("application/grpc-web+proto"));
            crate::support::ok(&request.body)
        });
        for proxy in [
            Proxy::to(engine, &[old.address]),
            proxy_to_http2(engine, &[new.address]),
        ] {
            run(async {
                let client = connect(proxy.address).await;
                let sized = post("/a.B/C").header("content-length", body.len());
                let call = sized.header("content-type", web).header("x-grpc-web", "1");
                let got = ask(&client, call.body(()).unwrap(), Some((body, None))).await;
                let got = got.unwrap();
                assert_eq!((&got.body[..], status(&got)), (&body[..], (200, "none")));
                let kept: Option<&HeaderMap> = got.trailers.as_ref();
                assert!(kept.is_none());
            });
            let head = format!(
                "POST /a.B/C HTTP/1.1\r\nHost: a\r\nContent-Type: {web}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let mut client = proxy.connect();
            client.send(&[head.as_bytes(), body].concat());
            assert_eq!(client.response().body, body);
        }
        let dead = proxy_to_http2(engine, &[refusing()]);
        run(async {
            let client = connect(dead.address).await;
            let call = post("/a.B/C").header("content-type", web);
            let got = ask(&client, call.body(()).unwrap(), Some((body, None))).await;
            assert_eq!(status(&got.unwrap()), (503, "none"));
        });
    });
}

//! What counts as an answer, and what as which failure.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use loadgen::run::{Config, Errors, HttpRequest, LoadMode, RunError, Summary};

use crate::support::{on_each_engine, read_head, run, serve, serve_http, short};

fn http(address: SocketAddr) -> String {
    format!("http://{address}/")
}

fn tcp(address: SocketAddr) -> String {
    format!("tcp://{address}")
}

/// Everything that counts is an answer, and there are some.
fn assert_clean(summary: &Summary) {
    assert!(summary.is_clean(), "{summary}");
}

/// Everything is a failure of one kind, and there are some.
fn assert_only(summary: &Summary, kind: fn(&mut Errors) -> &mut u64) {
    let mut errors = summary.errors;
    assert!(*kind(&mut errors) > 0, "{summary}");
    *kind(&mut errors) = 0;
    assert_eq!(
        (summary.completed, errors),
        (0, Errors::default()),
        "{summary}"
    );
}

#[test]
fn every_way_to_end_a_body_is_understood() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        let url = http(serve_http(answer));
        on_each_engine(|engine| {
            let summary = run(&short(&url, engine));
            assert_clean(&summary);
            assert_eq!(summary.reconnects, 0, "{answer:?}");
            assert_eq!(
                summary.bytes_received,
                summary.completed * answer.len() as u64
            );
        });
    }
}

#[test]
fn a_body_that_its_origin_does_not_send_is_a_failure() {
    let head = "HTTP/1.1 200 OK\r\nX-Origin: blue\r\n";
    let verified = |answer: String, engine| {
        let mut config = short(&http(serve_http(answer)), engine);
        config.http.verify = true;
        run(&config)
    };
    on_each_engine(|engine| {
        for right in [
            "Content-Length: 7\r\n\r\nblue\nbl",
            "Transfer-Encoding: chunked\r\n\r\n3\r\nblu\r\n4\r\ne\nbl\r\n0\r\n\r\n",
        ] {
            assert_clean(&verified(format!("{head}{right}"), engine));
        }
        for wrong in [
            "Content-Length: 7\r\n\r\nblue\ngr",
            "Transfer-Encoding: chunked\r\n\r\n3\r\nblu\r\n4\r\nx\nbl\r\n0\r\n\r\n",
        ] {
            let summary = verified(format!("{head}{wrong}"), engine);
            assert_only(&summary, |errors| &mut errors.body);
        }
        // Whoever says nothing of himself sends what nobody can know.
        let nameless = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nblue\n";
        assert_only(&verified(nameless.to_owned(), engine), |errors| {
            &mut errors.body
        });
    });
}

#[test]
fn an_answer_may_come_in_pieces_or_be_large() {
    let pieces = serve(|mut stream| {
        while read_head(&mut stream).is_some() {
            for part in [
                "HTTP/1.1 200 ",
                "OK\r\nContent-Len",
                "gth: 5\r\n\r",
                "\nhel",
                "lo",
            ] {
                stream.write_all(part.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    let mut large = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n".to_vec();
    large.resize(large.len() + 1_000_000, b'x');
    for url in [http(pieces), http(serve_http(large))] {
        on_each_engine(|engine| assert_clean(&run(&short(&url, engine))));
    }
}

#[test]
fn a_head_request_has_no_body_in_its_answer() {
    let url = http(serve_http("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"));
    on_each_engine(|engine| {
        let head = HttpRequest {
            method: "HEAD".into(),
            ..HttpRequest::default()
        };
        assert_clean(&run(&Config {
            http: head,
            ..short(&url, engine)
        }));
    });
}

#[test]
fn a_connection_that_the_server_closes_is_replaced_without_an_error() {
    for answer in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\n\r\nuntil the end",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    ] {
        let address = serve(move |mut stream| {
            if read_head(&mut stream).is_some() {
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        on_each_engine(|engine| {
            let summary = run(&short(&http(address), engine));
            assert_clean(&summary);
            assert!(summary.reconnects + 2 >= summary.completed, "{summary}");
        });
    }
}

#[test]
fn an_idle_connection_that_the_server_closed_is_replaced_without_an_error() {
    let address = serve(|mut stream| {
        if read_head(&mut stream).is_some() {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .unwrap();
        }
    });
    on_each_engine(|engine| {
        let config = Config {
            mode: LoadMode::Open { rate_per_s: 2.0 },
            connections: 1,
            duration: Duration::from_secs(1),
            ..short(&http(address), engine)
        };
        let summary = run(&config);
        assert_clean(&summary);
        assert_eq!((summary.completed, summary.reconnects), (2, 1), "{summary}");
    });
}

#[test]
fn other_statuses_are_failures_but_keep_the_connection() {
    let url = http(serve_http("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"));
    on_each_engine(|engine| {
        let summary = run(&short(&url, engine));
        assert_only(&summary, |errors| &mut errors.status_non_2xx);
        assert_eq!(summary.reconnects, 0);
    });
}

#[test]
fn malformed_answers_are_failures() {
    for answer in [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more",
        "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n",
    ] {
        let url = http(serve_http(answer));
        on_each_engine(|engine| {
            assert_only(&run(&short(&url, engine)), |errors| &mut errors.bad_body)
        });
    }
}

#[test]
fn a_connection_that_ends_too_early_is_a_failure() {
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
    ] {
        let address = serve(move |mut stream| {
            if read_head(&mut stream).is_some() {
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        on_each_engine(|engine| {
            assert_only(&run(&short(&http(address), engine)), |errors| {
                &mut errors.short
            })
        });
    }
}

#[test]
fn a_reset_is_a_failure() {
    // Closing with the request's last byte unread makes the kernel send a reset.
    let address = serve(|stream| {
        let mut most = [0; 8];
        let _ = std::io::Read::read_exact(&mut &stream, &mut most);
    });
    on_each_engine(|engine| {
        assert_only(&run(&short(&http(address), engine)), |errors| {
            &mut errors.reset
        })
    });
}

#[test]
fn silence_is_a_timeout() {
    let address = serve(|mut stream| while read_head(&mut stream).is_some() {});
    on_each_engine(|engine| {
        let config = Config {
            timeout: Duration::from_millis(30),
            ..short(&http(address), engine)
        };
        assert_only(&run(&config), |errors| &mut errors.timeout);
    });
}

#[test]
fn an_open_loop_counts_what_it_never_got_an_answer_to() {
    let address = serve(|mut stream| while read_head(&mut stream).is_some() {});
    on_each_engine(|engine| {
        let config = Config {
            mode: LoadMode::Open { rate_per_s: 1000.0 },
            connections: 1,
            duration: Duration::from_millis(100),
            timeout: Duration::from_millis(60),
            ..short(&http(address), engine)
        };
        let summary = run(&config);
        assert!(summary.errors.timeout > 0, "{summary}");
        assert_eq!(
            summary.errors.total() + summary.unanswered,
            100,
            "{summary}"
        );
        assert!(!summary.is_clean());
    });
}

#[test]
fn nobody_there_is_told_before_the_start() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1)); // tcpmux: no user may listen there
    on_each_engine(|engine| {
        let config = short(&http(nobody), engine);
        let error = loadgen::run::run(&config, &mut (), &loadgen::gate::Gate::new()).unwrap_err();
        assert!(matches!(error, RunError::Connect { .. }), "{error:?}");
        assert!(error.to_string().contains(&nobody.to_string()), "{error}");
        let config = Config {
            new_connections: true,
            ..config
        };
        assert_only(&run(&config), |errors| &mut errors.connect);
    });
}

#[test]
fn a_wrong_echo_is_a_failure() {
    let address = serve(|mut stream| {
        let mut message = [0; 64];
        while std::io::Read::read_exact(&mut stream, &mut message).is_ok() {
            message[63] ^= 1;
            if stream.write_all(&message).is_err() {
                return;
            }
        }
    });
    on_each_engine(|engine| {
        assert_only(&run(&short(&tcp(address), engine)), |errors| {
            &mut errors.mismatch
        })
    });
}

#[test]
fn an_echo_of_another_message_is_a_failure() {
    let address = serve(|mut stream| {
        let mut first = [0; 64];
        let mut message = [0; 64];
        std::io::Read::read_exact(&mut stream, &mut first).unwrap();
        stream.write_all(&first).unwrap();
        while std::io::Read::read_exact(&mut stream, &mut message).is_ok() {
            if stream.write_all(&first).is_err() {
                return;
            }
        }
    });
    on_each_engine(|engine| {
        let summary = run(&short(&tcp(address), engine));
        assert!(summary.errors.mismatch > 0, "{summary}");
    });
}

#[test]
fn new_connections_are_new_for_each_request() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    let address = serve(move |mut stream| {
        counter.fetch_add(1, Ordering::Relaxed);
        if let Some(head) = read_head(&mut stream) {
            assert!(head.contains("Connection: close\r\n"), "{head}");
            let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer).unwrap();
        }
    });
    on_each_engine(|engine| {
        accepted.store(0, Ordering::Relaxed);
        let config = Config {
            new_connections: true,
            ..short(&http(address), engine)
        };
        let summary = run(&config);
        assert_clean(&summary);
        assert_eq!(summary.reconnects, summary.completed);
        assert!(accepted.load(Ordering::Relaxed) as u64 >= summary.completed);
    });
}

//! A keep-alive request costs no heap allocation: counted, on every engine.
//!
//! The allocator below counts what the proxy's thread allocates; the backend and the client are
//! other threads.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

#[path = "proxy/support.rs"]
#[expect(dead_code, reason = "the other test binary uses the rest")]
mod support;

use support::{Backend, Client, Proxy, Request, cluster_plan, http_plan, ok, on_each_engine};

struct Counting;

thread_local! {
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn count() {
    // A thread that is ending has no flag any more, and is none that is counted.
    if IS_COUNTED.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator unchanged; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One request of each kind, answered.
fn round(client: &mut Client) {
    for request in [
        "GET /a?b HTTP/1.1\r\nHost: a.example\r\nUser-Agent: test\r\nConnection: keep-alive\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n\
         hello",
        "PUT / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\n\r\n",
        "GET /chunked HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET /large HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET /missing HTTP/1.1\r\nHost: a.example\r\n\r\nGET /pipelined HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        client.send(request.as_bytes());
        for _ in request.matches("Host:") {
            assert!(matches!(client.response().status, 200 | 404));
        }
    }
}

fn respond(request: &Request) -> Vec<u8> {
    if request.head.starts_with("GET /chunked") {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n".to_vec()
    } else if request.head.starts_with("GET /large") {
        ok(&[b'x'; 200_000])
    } else {
        ok(&[b'y'; 64])
    }
}

#[test]
fn keep_alive_requests_do_not_allocate() {
    on_each_engine(|engine| {
        let backend = Backend::responding(respond);
        let mut http = http_plan();
        http.routes = vec![lb_core::plan::Route {
            host: Some("*.example".to_owned()),
            path_prefix: "/".to_owned(),
            cluster: "main".to_owned(),
        }];
        http.default_cluster = None;
        let clusters = [cluster_plan("main", &[backend.address])];
        let count_here = || IS_COUNTED.set(true);
        let proxy = Proxy::start_logging(engine, http, &clusters, false, count_here);
        let mut clients = [proxy.connect(), proxy.connect(), proxy.connect()];
        // Queues and tables grow to their size.
        (0..200).for_each(|number| round(&mut clients[number % 3]));
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        assert!(before > 0, "the proxy's thread is counted");
        (0..500).for_each(|number| round(&mut clients[number % 3]));
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert_eq!(allocations, 0, "in 3500 requests on {engine:?}");
    });
}

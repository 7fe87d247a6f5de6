//! Requests that are right and easily taken for something else, each with what a backend has to
//! understand.
//!
//! Read next: `understood.rs` (nginx and HAProxy as the backends), `edges.rs` (and as the edge).

/// What is sent on one connection; then each request that a backend is to understand of it, as
/// `METHOD TARGET HOST|BODY`. `{lb}` is our own address.
pub(crate) type Row = (&'static str, &'static [&'static str]);

pub(crate) const ROWS: &[Row] = &[
    // Request lines.
    ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &["GET / a|"]),
    ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", &["GET / a|"]),
    ("GET / HTTP/1.0\r\n\r\n", &["GET / {lb}|"]),
    (
        "GET /1 HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\nHost: a\r\n\r\n",
        &["GET /1 a|", "GET /2 a|"],
    ),
    (
        "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        &["POST / a|abc"],
    ),
    (
        "GET /1 HTTP/1.0\r\nHost: a\r\n\r\nGET /never HTTP/1.1\r\nHost: a\r\n\r\n",
        &["GET /1 a|"],
    ),
    (
        "GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\nHost: a\r\n\r\n",
        &["GET /1 a|"],
    ),
    // Methods.
    ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", &["HEAD / a|"]),
    ("M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n", &["M-SEARCH / a|"]),
    ("PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n", &["PROPFIND / a|"]),
    ("X / HTTP/1.1\r\nHost: a\r\n\r\n", &["X / a|"]),
    ("get / HTTP/1.1\r\nHost: a\r\n\r\n", &["get / a|"]),
    (
        "!#$%&'*+.^`~9 / HTTP/1.1\r\nHost: a\r\n\r\n",
        &["!#$%&'*+.^`~9 / a|"],
    ),
    ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", &["TRACE / a|"]),
    ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", &["OPTIONS * a|"]),
    ("OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n", &["OPTIONS / a|"]),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        &["GET / a|abc"],
    ),
    (
        "DELETE / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        &["DELETE / a|abc"],
    ),
    // Targets.
    ("GET /a%2Fb HTTP/1.1\r\nHost: a\r\n\r\n", &["GET /a%2Fb a|"]),
    (
        "GET /a%2fb/...;/c HTTP/1.1\r\nHost: a\r\n\r\n",
        &["GET /a%2fb/...;/c a|"],
    ),
    (
        "GET /a/%2e%2e%2fb HTTP/1.1\r\nHost: a\r\n\r\n",
        &["GET /a/%2e%2e%2fb a|"],
    ),
    ("GET //a//b HTTP/1.1\r\nHost: a\r\n\r\n", &["GET //a//b a|"]),
    (
        "GET /a/.../.b/c..;d=e HTTP/1.1\r\nHost: a\r\n\r\n",
        &["GET /a/.../.b/c..;d=e a|"],
    ),
    (
        "GET /?a=../..&b=http://c/ HTTP/1.1\r\nHost: a\r\n\r\n",
        &["GET /?a=../..&b=http://c/ a|"],
    ),
    ("GET /a?? HTTP/1.1\r\nHost: a\r\n\r\n", &["GET /a?? a|"]),
    (
        "GET /http://b/c HTTP/1.1\r\nHost: a\r\n\r\n",
        &["GET /http://b/c a|"],
    ),
    (
        "GET /a|b{c}\"<>^`\\ HTTP/1.1\r\nHost: a\r\n\r\n",
        &["GET /a|b{c}\"<>^`\\ a|"],
    ),
    (
        "GET /a%5C%20b HTTP/1.1\r\nHost: a\r\n\r\n",
        &["GET /a%5C%20b a|"],
    ),
    ("GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", &["GET /%00 a|"]),
    ("GET /100% HTTP/1.1\r\nHost: a\r\n\r\n", &["GET /100% a|"]),
    ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", &["GET /%zz a|"]),
    ("GET /?%zz HTTP/1.1\r\nHost: a\r\n\r\n", &["GET /?%zz a|"]),
    (
        "GET /%0d%0aX:y HTTP/1.1\r\nHost: a\r\n\r\n",
        &["GET /%0d%0aX:y a|"],
    ),
    ("GET /* HTTP/1.1\r\nHost: a\r\n\r\n", &["GET /* a|"]),
    ("GET /a@b:c HTTP/1.1\r\nHost: a\r\n\r\n", &["GET /a@b:c a|"]),
    // The absolute form (RFC 9112 section 3.2.2).
    (
        "GET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n",
        &["GET /b?c a|"],
    ),
    ("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", &["GET / a|"]),
    (
        "GET http://a?b HTTP/1.1\r\nHost: a\r\n\r\n",
        &["GET /?b a|"],
    ),
    (
        "GET HTTP://A:80/ HTTP/1.1\r\nHost: a\r\n\r\n",
        &["GET / a|"],
    ),
    (
        "GET https://a/ HTTP/1.1\r\nHost: a:443\r\n\r\n",
        &["GET / a:443|"],
    ),
    ("GET http://a/ HTTP/1.0\r\n\r\n", &["GET / a|"]),
    // … of OPTIONS for the whole server (section 3.2.4).
    (
        "OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n",
        &["OPTIONS * a|"],
    ),
    // Hosts.
    ("GET / HTTP/1.1\r\nHost:a.\r\n\r\n", &["GET / a.|"]),
    (
        "GET / HTTP/1.1\r\nhOST:\t A.Example \t\r\n\r\n",
        &["GET / A.Example|"],
    ),
    ("GET / HTTP/1.1\r\nHost: a:\r\n\r\n", &["GET / a:|"]),
    (
        "GET / HTTP/1.1\r\nHost: a:00080\r\n\r\n",
        &["GET / a:00080|"],
    ),
    ("GET / HTTP/1.1\r\nHost: a_b~c-\r\n\r\n", &["GET / a_b~c-|"]),
    (
        "GET / HTTP/1.1\r\nHost: 1.2.3.4:5\r\n\r\n",
        &["GET / 1.2.3.4:5|"],
    ),
    (
        "GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n\r\n",
        &["GET / [2001:db8::1]:8080|"],
    ),
    (
        "GET / HTTP/1.1\r\nX: y\r\nHost: last\r\n\r\n",
        &["GET / last|"],
    ),
    // Fields.
    (
        "GET / HTTP/1.1\r\nHost: a\r\nX:\r\nY: \t\r\nZ:\u{e9}\t\u{fc} \r\n\r\n",
        &["GET / a|"],
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\n!#$%&'*+-.^_`|~9: x\r\n\r\n",
        &["GET / a|"],
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nX-Host: b\r\nHost-X: c\r\nX-Forwarded-Host: d\r\n\r\n",
        &["GET / a|"],
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: b, c\r\n\r\n",
        &["GET / a|"],
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Host, X-Forwarded-For, close\r\n\r\n",
        &["GET / a|"],
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: ,, keep-alive ,,\r\nKeep-Alive: 300\r\nTE: chunked\r\n\r\n",
        &["GET / a|"],
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: close\r\nProxy: x\r\nForwarded: host=b\r\n\r\n",
        &["GET / a|"],
    ),
    // Content-Length.
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        &["POST / a|", "GET /2 a|"],
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\t00003\t\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        &["POST / a|abc", "GET /2 a|"],
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\ncONTENT-lENGTH: 35\r\n\r\nGET /x HTTP/1.1\r\nHost: evil-one\r\n\r\n\
         GET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        &[
            "POST / a|GET /x HTTP/1.1\r\nHost: evil-one\r\n\r\n",
            "GET /2 a|",
        ],
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Content-Length\r\nContent-Length: 3\r\n\r\nabc",
        &["POST / a|abc"],
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 3\r\nX-Content-Length: 3\r\n\r\n\
         GET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        &["POST / a|", "GET /2 a|"],
    ),
    // Chunks.
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
         GET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        &["POST / a|", "GET /2 a|"],
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\ntRANSFER-eNCODING:cHuNkEd\r\n\r\n00003\r\nabc\r\nA\r\n0123456789\r\n\
         1\r\n\n\r\n000\r\n\r\n",
        &["POST / a|abc0123456789\n"],
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \tchunked \r\n\r\n3;a\r\nabc\r\n1;b=c;d=\"e; f\"\r\nx\r\n\
         0;last\r\n\r\n",
        &["POST / a|abcx"],
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n3\r\nabc\r\n\
         0\r\nX-T: y\r\nX-U:\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        &["POST / a|abc", "GET /2 a|"],
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n\
         0\r\nX-Content-Length: 9\r\nTransfer: x\r\nHosts: evil\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        &["POST / a|abc", "GET /2 a|"],
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n23\r\n\
         GET /x HTTP/1.1\r\nHost: evil-one\r\n\r\n\r\n0\r\n\r\n",
        &["POST / a|GET /x HTTP/1.1\r\nHost: evil-one\r\n\r\n"],
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\n\r\n",
        &["POST / a|abc"],
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\nX-Transfer-Encoding: chunked\r\n\
         Content-Length: 5\r\n\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        &["POST / a|0\r\n\r\n", "GET /2 a|"],
    ),
    // Expectations and offers.
    (
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
        &["POST / a|abc"],
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nexpect: 100-CONTINUE\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        &["POST / a|abc", "GET /2 a|"],
    ),
    (
        "POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
        &["POST / a|abc"],
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        &["GET / a|"],
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\
         GET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        &["GET / a|", "GET /2 a|"],
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        &["GET / a|", "GET /2 a|"],
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        &["GET / a|"],
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x/1, TLS/1.0\r\n\
         Content-Length: 3\r\n\r\nabc",
        &["POST / a|abc"],
    ),
    // Many in a row.
    (
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nHEAD /2 HTTP/1.1\r\nHost: b\r\n\r\n\
         POST /3 HTTP/1.1\r\nHost: c\r\nContent-Length: 2\r\n\r\n\r\n\
         POST /4 HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n0\r\n0\r\n\r\n\
         PUT /5 HTTP/1.1\r\nHost: e\r\nContent-Length: 5\r\n\r\n0\r\n\r\n\
         \r\nDELETE /6 HTTP/1.1\r\nHost: f\r\n\r\n",
        &[
            "GET /1 a|",
            "HEAD /2 b|",
            "POST /3 c|\r\n",
            "POST /4 d|0",
            "PUT /5 e|0\r\n\r\n",
            "DELETE /6 f|",
        ],
    ),
];

/// Requests that begin well and turn out to be malformed when more of them comes: a backend has got
/// a part of each, and must not take it for all of it.
pub(crate) const BROKEN: &[[&str; 2]] = &[
    [
        "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "3\r\nabcGET /x",
    ],
    [
        "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "0\nGET / HTTP/1.1",
    ],
    [
        "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "-1\r\n",
    ],
    [
        "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        "X: \0\r\n\r\n",
    ],
    [
        "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        "GET / HTTP/1.1\r\n\r\n",
    ],
    [
        "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0;a",
        "\n\r\n",
    ],
];

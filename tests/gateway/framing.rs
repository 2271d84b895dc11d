//! Where a message ends, at both ends of the gateway: lengths, chunks and codings in one strict reading,
//! whatever else the message says.

use crate::bad_input::exact;
use crate::exchange::{H2C, body_of, routes};
use crate::support::http1::request_bytes;
use crate::support::{Gateway, H2Client, RawClient, RawUpstream, Request, Response, Script};

/// `/kept/…` with a cache, `/once/…` for what is done once, `/ws` for sockets, and all the rest, to one upstream.
fn every_way(upstream: &RawUpstream) -> Gateway {
    let text = "defaults: { timeouts: { request: 5s } }\n".to_owned()
        + &routes(&[upstream.address()], "")
        + "  - { name: kept, match: { path: \"/kept/{*rest}\" }, upstream: up, cache: { ttl: 1h } }\n"
        + "  - { name: once, match: { path: \"/once/{*rest}\" }, upstream: up, idempotency: {} }\n"
        + "  - { name: socket, match: { path: /ws, websocket: true }, upstream: up }\n";
    Gateway::with(text).config(H2C).start()
}

/// The number behind the path's last slash.
fn number(request: &Request) -> Option<usize> {
    request.target().rsplit('/').next()?.parse().ok()
}

/// Behind what is not to end the connection: it does.
const LAST: &[u8] = b"GET /api/health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Everything that comes until the gateway closes. Without a FIN, which would be a farewell.
fn said_to(gateway: &Gateway, bytes: &[u8]) -> Vec<u8> {
    let mut client = RawClient::connect(gateway.public());
    // It may close before it has read all.
    let _ = client.try_send(bytes);
    read_all(&mut client)
}

fn read_all(client: &mut RawClient) -> Vec<u8> {
    let mut said = Vec::new();
    while let Ok(byte) = client.try_read_exactly(1) {
        said.extend(byte);
    }
    said
}

/// The statuses of all answers in `bytes`, in order.
fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    text.split("HTTP/1.1 ").skip(1).filter_map(|it| it.get(..3)?.parse().ok()).collect()
}

// ── Requests ────────────────────────────────────────────────────────────────────────────────────

const HIDDEN: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// Bodies whose end two readers could see in different places, or that are no chunks at all.
fn malformed_chunks() -> Vec<(&'static str, Vec<u8>)> {
    let whole: [(&str, &[u8]); 22] = [
        ("an extension that ends in a bare LF", b"2;\nxx\r\n2e\r\n0\r\n\r\n"),
        ("an extension with a bare LF", b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("an extension with a bare CR", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("an extension with a NUL", b"5;a\0b\r\nhello\r\n0\r\n\r\n"),
        ("an empty size line", b"\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("an empty size line after a chunk", b"5\r\nhello\r\n\r\n\r\n"),
        ("only an extension", b"5\r\nhello\r\n;x\r\n\r\n"),
        ("a space after the size", b"5 \r\nhello\r\n0\r\n\r\n"),
        ("a tab before the size", b"\t5\r\nhello\r\n0\r\n\r\n"),
        ("a size that ends in a bare LF", b"5\nhello\r\n0\r\n\r\n"),
        ("a size that ends in a bare CR", b"5\rhello\r\n0\r\n\r\n"),
        ("a size with 0x", b"0x5\r\nhello\r\n0\r\n\r\n"),
        ("a signed size", b"+5\r\nhello\r\n0\r\n\r\n"),
        ("a size of 2^64 + 5", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("data that ends in a bare LF", b"5\r\nhello\n0\r\n\r\n"),
        ("data longer than its size", b"5\r\nhello world\r\n0\r\n\r\n"),
        ("data without an end", b"5\r\nhello0\r\n\r\n"),
        ("something behind the last chunk's size", b"5\r\nhello\r\n0\r\nXX\r\n\r\n"),
        ("a trailer with a NUL", b"5\r\nhello\r\n0\r\nx: \0\r\n\r\n"),
        ("a trailer with a space in its name", b"5\r\nhello\r\n0\r\nX Y: 1\r\n\r\n"),
        ("a trailer that ends in a bare LF", b"5\r\nhello\r\n0\r\nx: y\n\r\n"),
        ("a last line that ends in a bare LF", b"5\r\nhello\r\n0\r\n\n"),
    ];
    let mut all: Vec<_> = whole.into_iter().map(|(name, body)| (name, body.to_vec())).collect();
    // Read leniently, the data end before the request within: then it is the next one.
    let within = [b"2;\nxx\r\n2e\r\n0\r\n\r\n".as_slice(), HIDDEN, b"\r\n0\r\n\r\n"].concat();
    all.push(("a request within the chunks", within));
    all
}

/// What the rest of the request may say, each of which could lead a second reader astray.
fn distractions() -> Vec<(&'static str, String, Vec<u8>)> {
    let long = |bytes: usize| "y".repeat(bytes);
    let chunk_with = |bytes: usize| [b"1;", long(bytes).as_bytes(), b"\r\nx\r\n"].concat();
    let fields = |name: &'static str, text: &str| (name, text.to_owned(), Vec::new());
    vec![
        fields("nothing else", ""),
        fields("Upgrade: websocket", "Upgrade: websocket\r\n"),
        fields(
            "Upgrade: h2c",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        ),
        fields("Upgrade: x", "Connection: Upgrade\r\nUpgrade: x\r\n"),
        fields(
            "a handshake",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        ),
        fields("Expect: 100-continue", "Expect: 100-continue\r\n"),
        fields("TE: trailers", "Connection: TE\r\nTE: trailers\r\n"),
        fields("an idempotency key", "Idempotency-Key: one\r\n"),
        ("a line of 17,000 blanks", format!("X:{}y\r\n", " ".repeat(17_000)), Vec::new()),
        ("a line of 17,000 bytes", format!("X: {}\r\n", long(17_000)), Vec::new()),
        ("a line of 16,000 bytes", format!("X: {}\r\n", long(16_000)), Vec::new()),
        ("a chunk extension of 17,000 bytes", String::new(), chunk_with(17_000)),
        ("chunk extensions of 15,000 bytes", String::new(), [chunk_with(7_500), chunk_with(7_500)].concat()),
    ]
}

#[test]
fn rfc_9112_7_1_a_malformed_chunk_is_refused_whatever_else_the_request_says() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = every_way(&upstream);
    let mut wrong = Vec::new();
    for (path, method) in [("/plain", "POST"), ("/ws", "GET"), ("/once/1", "POST"), ("/kept/1", "GET")] {
        for (distraction, fields, first) in distractions() {
            for (form, body) in malformed_chunks() {
                let head = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{fields}\r\n");
                let said = said_to(&gateway, &[head.as_bytes(), &first, &body, HIDDEN, LAST].concat());
                // Whether a line of 17,000 bytes is too long by itself is another question.
                let finals: Vec<u16> = statuses(&said).into_iter().filter(|it| *it >= 200).collect();
                if !matches!(finals[..], [400 | 431]) {
                    wrong.push(format!("{method} {path}, {distraction}, {form}: {finals:?}"));
                }
            }
        }
    }
    // When the gateway is gone, whatever was on its way has arrived.
    drop(gateway);
    upstream.wait_for_closed(upstream.connections());
    for bytes in upstream.received() {
        match exact::requests(&bytes) {
            Ok(requests) if requests.iter().all(|it| it.cut && it.target != "/smuggled") => {}
            other => wrong.push(format!("arrived: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong[..wrong.len().min(60)].join("\n"));
}

/// A segment ends where it likes.
#[test]
fn rfc_9112_7_1_a_malformed_chunk_is_refused_in_whatever_pieces_it_comes() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = every_way(&upstream);
    let mut wrong = Vec::new();
    for (form, body) in malformed_chunks() {
        for piece in [1, 3] {
            let mut client = RawClient::connect(gateway.public());
            client.send("POST /plain HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nUpgrade: websocket\r\n\r\n");
            let all = [&body[..], HIDDEN, LAST].concat();
            let _ = all.chunks(piece).try_for_each(|it| client.try_send(it));
            let said = statuses(&read_all(&mut client));
            if said != [400] {
                wrong.push(format!("{form}, in pieces of {piece}: {said:?}"));
            }
        }
    }
    drop(gateway);
    upstream.wait_for_closed(upstream.connections());
    for bytes in upstream.received() {
        let requests = exact::requests(&bytes);
        if !requests.as_ref().is_ok_and(|it| it.iter().all(|it| it.cut && it.target == "/plain")) {
            wrong.push(format!("arrived: {requests:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rfc_9112_7_1_what_is_well_formed_passes_whatever_else_the_request_says() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = every_way(&upstream);
    let bodies: [&[u8]; 4] = [
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5;a=b;c=\"d e\"\r\nhello\r\n0;z\r\n\r\n",
        b"005\r\nhello\r\n000\r\nx: y\r\nz:\r\n\r\n",
        b"1\r\nh\r\n4\r\nello\r\n0\r\n\r\n",
    ];
    let mut sent = 0;
    for fields in ["", "Upgrade: websocket\r\n", "Upgrade: h2c\r\n", "Connection: TE\r\nTE: trailers\r\n"] {
        for body in bodies {
            let head = format!("POST /plain HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{fields}\r\n");
            let mut client = RawClient::connect(gateway.public());
            client.send([head.as_bytes(), body, b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
            assert_eq!(client.read_response().status, 200, "{fields:?} {}", body.escape_ascii());
            assert_eq!(client.read_response().status, 200, "the next one");
            sent += 1;
        }
    }
    let requests = upstream.requests();
    assert_eq!(requests.len(), 2 * sent);
    assert!(requests.iter().step_by(2).all(|it| body_of(it) == b"hello"));
}

#[test]
fn rfc_9112_9_3_2_a_good_request_is_served_though_a_bad_one_follows_in_its_segment() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = every_way(&upstream);
    let good: [(&str, &str); 4] = [
        ("chunks", "POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        (
            "chunks with a trailer",
            "POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n",
        ),
        ("a length", "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
        ("no body", "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ];
    let bad: [&str; 6] = [
        "GET  /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /2 HTTP/1.1\r\n\r\n",
        "GET /2 HTTP/1.1\nHost: a\n\n",
        "GET /2 HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
        "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "junk\r\n\r\n",
    ];
    let mut wrong = Vec::new();
    let mut sent = 0;
    for (name, first) in good {
        for second in bad {
            let said = statuses(&said_to(&gateway, &[first.as_bytes(), second.as_bytes(), LAST].concat()));
            sent += 1;
            if said != [200, 400] {
                wrong.push(format!("{name}, then {second:?}: {said:?}"));
            }
        }
    }
    let targets: Vec<_> =
        upstream.requests().iter().map(|it| it.starts_with(b"POST /1 ") || it.starts_with(b"GET /1 ")).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(targets, vec![true; sent]);
}

#[test]
fn rfc_9110_8_6_lengths_with_zeros_in_front_go_on_in_one_form() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = every_way(&upstream);
    let mut client = RawClient::connect(gateway.public());
    let written =
        [("0000000005", "5"), ("010", "10"), ("05", "5"), ("00", "0"), ("000000000000000000000000000003", "3")];
    for (length, meant) in written {
        let body = "x".repeat(meant.parse().unwrap());
        client.send(format!("POST /plain HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"));
        let answer = client.try_read_response("POST");
        assert!(answer.as_ref().is_ok_and(|it| it.status == 200), "{length}: {answer:?}");
        let arrived = exact::requests(upstream.requests().last().unwrap()).unwrap();
        assert_eq!((arrived[0].all("content-length"), arrived[0].body.len()), (vec![meant], body.len()), "{length}");
    }
}

#[test]
fn rfc_9110_5_1_names_that_only_begin_or_end_like_framing_fields_are_fields_like_any_other() {
    let upstream = RawUpstream::start(|_| {
        let head = "HTTP/1.1 200 OK\r\nContent-Length-Hint: 5\r\nTransfer-Encodings: x\r\nX-Content-Length: 7\r\nConnection-Id: 8\r\nTransfer-Encoding: chunked\r\n\r\n";
        Script::new().read_body().send(head).send("4\r\nfine\r\n0\r\n\r\n")
    });
    let gateway = every_way(&upstream);
    let fields = [
        ("Content-Length-Hint", "5"),
        ("X-Content-Length", "7"),
        ("Transfer-Encodings", "x"),
        ("Transfer-Encoding-Hint", "gzip"),
        ("X-Transfer-Encoding", "gzip"),
        ("Connection-Id", "close"),
        ("X-Connection", "close"),
        ("Hosts", "b"),
        ("X-Host-Id", "b"),
        ("TE-X", "gzip"),
        ("Upgrades", "x"),
        ("Expectation", "x"),
    ];
    let mut client = RawClient::connect(gateway.public());
    for (name, value) in fields {
        for framing in ["Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "Content-Length: 2\r\n\r\nhi"] {
            client.send(format!("POST /plain HTTP/1.1\r\nHost: a\r\n{name}: {value}\r\n{framing}"));
            let answer = client.try_read_response("POST").unwrap_or_else(|it| panic!("{name}: {it}"));
            assert_eq!((answer.status, answer.text().as_str()), (200, "fine"), "{name}: {}", answer.text());
            for (told, value) in [
                ("content-length-hint", "5"),
                ("transfer-encodings", "x"),
                ("x-content-length", "7"),
                ("connection-id", "8"),
            ] {
                assert_eq!(answer.header(told), Some(value), "{told} of an answer");
            }
            let last = upstream.requests().pop().unwrap();
            assert_eq!(body_of(&last), b"hi", "{name}");
            let text = String::from_utf8(last).unwrap().to_lowercase();
            assert!(text.contains(&format!("\r\n{}: {value}\r\n", name.to_lowercase())), "{name}: {text}");
        }
    }
    assert_eq!(
        H2Client::connect(gateway.public())
            .request("POST", "/plain", &[("content-length-hint", "5")], b"hi", None)
            .status,
        200
    );
}

/// Upstreams that make environment variables of fields read these as the real ones.
#[test]
fn rfc_9112_6_3_fields_that_upstreams_fold_into_framing_are_taken_away() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = every_way(&upstream);
    let fields = [
        ("Transfer_Encoding", "chunked"),
        ("Content_Length", "9"),
        ("content_length", "9"),
        ("TRANSFER_ENCODING", "chunked"),
        ("Content.Length", "9"),
        ("Transfer.Encoding", "chunked"),
    ];
    let folded = |text: &str| text.to_lowercase().replace(['_', '.'], "-");
    let mut wrong = Vec::new();
    let mut judge = |name: &str, status: u16, requests: Vec<Vec<u8>>| {
        let last = String::from_utf8(requests.last().unwrap().clone()).unwrap();
        let there = last.split("\r\n").filter_map(|it| it.split_once(':')).any(|(it, _)| it.eq_ignore_ascii_case(name));
        let lengths = last.split("\r\n").filter(|it| folded(it).starts_with("content-length:")).count();
        let codings = last.split("\r\n").filter(|it| folded(it).starts_with("transfer-encoding:")).count();
        if status != 200 || there || lengths + codings != 1 {
            wrong.push(format!("{name}: {status}, {last}"));
        }
    };
    for (name, value) in fields {
        for framing in ["Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "Content-Length: 2\r\n\r\nhi"] {
            let mut client = RawClient::connect(gateway.public());
            client.send(format!("POST /plain HTTP/1.1\r\nHost: a\r\n{name}: {value}\r\n{framing}"));
            judge(name, client.read_response().status, upstream.requests());
        }
        let lower = name.to_lowercase();
        let answer = H2Client::connect(gateway.public()).request("POST", "/plain", &[(&lower, value)], b"hi", None);
        judge(&lower, answer.status, upstream.requests());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One byte of data in each chunk, and far more beside it.
fn wordy(chunks: usize, extension: usize) -> Vec<u8> {
    let one = [b"1;", "e".repeat(extension).as_bytes(), b"\r\nx\r\n"].concat();
    [one.repeat(chunks).as_slice(), b"0\r\n\r\n"].concat()
}

#[test]
fn rfc_9112_7_1_1_chunk_extensions_count_and_more_than_16_kib_are_refused() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = every_way(&upstream);
    let cases = [
        (3, 4 << 10, 200),
        (12, 1 << 10, 200),
        (5, 4 << 10, 400),
        (40, 1 << 10, 400),
        (2_000, 16, 400),
        (1, 20 << 10, 400),
    ];
    let mut wrong = Vec::new();
    for path in ["/plain", "/once/1"] {
        for (chunks, extension, want) in cases {
            let head =
                format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
            let said = statuses(&said_to(&gateway, &[head.as_bytes(), &wordy(chunks, extension)].concat()));
            if said != [want] {
                wrong.push(format!("{path}, {chunks} of {extension}: {said:?} instead of {want}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// ── Connection ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn rfc_9110_7_6_1_every_connection_line_of_a_request_counts() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = every_way(&upstream);
    // The lines, and whether the connection stays.
    let cases: [(&str, bool); 12] = [
        ("Connection: x-a\r\nConnection: close", false),
        ("Connection: close\r\nConnection: x-a", false),
        ("Connection: keep-alive\r\nConnection: close", false),
        ("Connection: close\r\nConnection: keep-alive", false),
        ("Connection: keep-alive, close", false),
        ("Connection: x-a, CLOSE", false),
        ("Connection: ,, x-a ,Close ,", false),
        ("connection: x-a\r\nX-B: y\r\nCONNECTION: x-b\r\nConnection:close", false),
        ("Connection: x-a\r\nConnection: x-b", true),
        ("Connection: keep-alive\r\nConnection: x-a", true),
        ("Connection: closed", true),
        ("Connection: x-close", true),
    ];
    let mut wrong = Vec::new();
    for body in ["", "Transfer-Encoding: chunked\r\n"] {
        for (lines, stays) in cases {
            let before = upstream.requests().len();
            let (method, end) = if body.is_empty() { ("GET", "") } else { ("POST", "2\r\nhi\r\n0\r\n\r\n") };
            let first = format!("{method} /1 HTTP/1.1\r\nHost: a\r\n{lines}\r\nX-A: 1\r\nX-B: 1\r\n{body}\r\n{end}");
            let said =
                said_to(&gateway, format!("{first}GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes());
            let answers = statuses(&said).len();
            if answers != 1 + usize::from(stays) {
                wrong.push(format!("{lines:?}: {answers} answers"));
            }
            let requests = upstream.requests();
            let text = String::from_utf8(requests[before].clone()).unwrap().to_lowercase();
            for name in ["x-a", "x-b"] {
                if lines.to_lowercase().contains(name) && text.contains(&format!("\r\n{name}:")) {
                    wrong.push(format!("{lines:?}: {name} arrived"));
                }
            }
            if text.contains("\r\nconnection:") {
                wrong.push(format!("{lines:?}: it arrived"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether it is kept is the server's choice (RFC 9112, section 9.3); how the wish is written must not matter.
#[test]
fn rfc_9112_9_3_an_http_1_0_clients_wish_is_read_from_every_connection_line() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = every_way(&upstream);
    let stays = |lines: &str| {
        let request = format!("GET /1 HTTP/1.0\r\nHost: a\r\n{lines}\r\nGET /2 HTTP/1.0\r\nHost: a\r\n\r\n");
        let said = said_to(&gateway, request.as_bytes());
        String::from_utf8_lossy(&said).matches("\r\n\r\nfine").count() == 2
    };
    let plain = stays("Connection: keep-alive\r\n");
    for lines in [
        "Connection: x-a\r\nConnection: keep-alive\r\n",
        "Connection: keep-alive\r\nConnection: x-a\r\n",
        "Connection: x-a, Keep-Alive\r\n",
        "connection: KEEP-ALIVE\r\n",
    ] {
        assert_eq!(stays(lines), plain, "{lines:?}");
    }
    for lines in [
        "Connection: keep-alive\r\nConnection: close\r\n",
        "Connection: keep-alive, close\r\n",
        "Connection: x-a\r\n",
        "",
    ] {
        assert!(!stays(lines), "{lines:?}");
    }
}

#[test]
fn rfc_9110_7_6_1_every_connection_line_of_an_answer_counts() {
    const LINES: [(&str, bool); 8] = [
        ("Connection: x-a\r\nConnection: close", false),
        ("Connection: close\r\nConnection: x-a", false),
        ("Connection: keep-alive\r\nConnection: close", false),
        ("Connection: keep-alive, x-a, CLOSE", false),
        ("Connection: ,close,", false),
        ("Connection: x-a\r\nConnection: x-b", true),
        ("Connection: keep-alive\r\nConnection: x-a, x-b", true),
        ("Connection: closed", true),
    ];
    for framing in ["content-length: 4\r\n\r\nfine", "transfer-encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n"] {
        for (lines, stays) in LINES {
            // It says that it will close, and leaves that to the gateway.
            let upstream = RawUpstream::start(move |_| {
                Script::new().read_body().send(format!("HTTP/1.1 200 OK\r\n{lines}\r\nX-A: 1\r\nX-B: 1\r\n{framing}"))
            });
            let gateway = every_way(&upstream);
            let mut client = RawClient::connect(gateway.public());
            for path in ["/plain", "/plain", "/once/1", "/kept/1"] {
                client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
                let answer = client.read_response();
                assert_eq!((answer.status, answer.text().as_str()), (200, "fine"), "{lines:?} {path}");
                for name in ["x-a", "x-b"] {
                    let named = lines.contains(name);
                    assert_eq!(answer.header(name).is_some(), !named, "{name} of {lines:?} on {path}");
                }
                assert_ne!(answer.header("connection"), Some("close"), "the client's connection is another");
            }
            assert_eq!(upstream.connections(), if stays { 1 } else { 4 }, "{lines:?}");
        }
    }
}

// ── Answers ─────────────────────────────────────────────────────────────────────────────────────

/// What became of an answer, as clients see it.
#[derive(Debug, PartialEq)]
enum Seen {
    Whole(String),
    BadGateway,
    Cut,
}

fn seen(answer: Result<Response, impl std::fmt::Debug>) -> Seen {
    match answer {
        Ok(answer) if answer.status == 502 => Seen::BadGateway,
        Ok(answer) => Seen::Whole(answer.text()),
        Err(_) => Seen::Cut,
    }
}

/// Asks on every way and with every client; tells what each saw.
fn ask_for(gateway: &Gateway, number: usize) -> Vec<(String, Seen)> {
    let mut all = Vec::new();
    for (method, path, body) in
        [("GET", "/plain", &b""[..]), ("POST", "/plain", b"hi"), ("POST", "/once", b"hi"), ("GET", "/kept", b"")]
    {
        let path = format!("{path}/{number}");
        let key = format!("{number}-{method}");
        let fields = [("idempotency-key", key.as_str())];
        let fields: &[_] = if path.starts_with("/once") { &fields } else { &[] };
        let mut client = RawClient::connect(gateway.public());
        client.send(request_bytes(gateway.public(), method, &path, fields, body));
        all.push((format!("{method} {path}"), seen(client.try_read_response(method))));
        // Again, for what might have been kept.
        let mut client = H2Client::connect(gateway.public());
        all.push((format!("{method} {path} by HTTP/2"), seen(client.try_request(method, &path, fields, body, None))));
    }
    all
}

/// Each of these is sent as an answer's framing and body, and then the upstream says no more.
fn check_answers(answers: &'static [(&'static str, &'static str)], fits: impl Fn(&Seen) -> bool) {
    let upstream = RawUpstream::start(|request| match number(request) {
        Some(number) => {
            let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n";
            Script::new().read_body().send([head, answers[number].1].concat()).finish_sending().await_close()
        }
        None => Script::ok("fine"),
    });
    let gateway = every_way(&upstream);
    let mut wrong = Vec::new();
    for (number, (name, _)) in answers.iter().enumerate() {
        for (way, seen) in ask_for(&gateway, number) {
            if !fits(&seen) {
                wrong.push(format!("{name}: {way}: {seen:?}"));
            }
        }
        let path = format!("/kept/{number}");
        let asked = upstream.requests().iter().filter(|it| it.starts_with(format!("GET {path} ").as_bytes())).count();
        if asked < 2 {
            wrong.push(format!("{name}: it was kept"));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(gateway.get("/plain").text(), "fine");
}

#[test]
fn rfc_9112_8_chunks_without_a_proper_end_are_no_whole_answer_and_are_not_kept() {
    const ANSWERS: [(&str, &str); 20] = [
        ("an empty size line instead of the last chunk", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n\r\n\r\n"),
        ("an extension instead of the last chunk", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n;x\r\n\r\n"),
        ("no last chunk", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        ("half of the last chunk", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0"),
        ("a last chunk without its end", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"),
        ("trailers without an end", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n"),
        ("no chunk at all", "Transfer-Encoding: chunked\r\n\r\n"),
        ("only an empty line", "Transfer-Encoding: chunked\r\n\r\n\r\n"),
        ("a space after the size", "Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n"),
        ("a size that ends in a bare LF", "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n"),
        ("an extension with a bare LF", "Transfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("data that end in a bare LF", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n"),
        ("data longer than their size", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello world\r\n0\r\n\r\n"),
        ("a size with 0x", "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"),
        ("a signed size", "Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n"),
        ("a last chunk that ends in a bare LF", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\n\n"),
        ("something behind the last chunk's size", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nXX\r\n\r\n"),
        ("a trailer with a NUL", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: \0\r\n\r\n"),
        ("a trailer with a space in its name", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx y: 1\r\n\r\n"),
        ("a size of 2^64 + 5", "Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ];
    check_answers(&ANSWERS, |seen| matches!(seen, Seen::BadGateway | Seen::Cut));
}

#[test]
fn rfc_9112_6_3_an_answer_shorter_than_its_length_is_no_whole_answer_and_is_not_kept() {
    const ANSWERS: [(&str, &str); 3] = [
        ("less than its length", "Content-Length: 6\r\n\r\nhello"),
        ("nothing of its length", "Content-Length: 5\r\n\r\n"),
        ("less than its length, which has zeros in front", "Content-Length: 0000006\r\n\r\nhello"),
    ];
    check_answers(&ANSWERS, |seen| matches!(seen, Seen::BadGateway | Seen::Cut));
}

#[test]
fn rfc_9112_6_1_an_answer_in_a_coding_that_is_not_chunked_alone_is_a_502_and_is_not_kept() {
    const ANSWERS: [(&str, &str); 16] = [
        ("gzip, chunked", "Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("gzip until the end", "Transfer-Encoding: gzip\r\n\r\nhello"),
        ("chunked twice", "Transfer-Encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        (
            "chunked in two lines",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "gzip and chunked in two lines",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        ("chunked, gzip", "Transfer-Encoding: chunked, gzip\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("identity", "Transfer-Encoding: identity\r\n\r\nhello"),
        ("identity, chunked", "Transfer-Encoding: identity, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("identity with a length", "Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello"),
        ("an empty one", "Transfer-Encoding:\r\n\r\nhello"),
        ("xchunked", "Transfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("chunkedx", "Transfer-Encoding: chunkedx\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("chunked with a parameter", "Transfer-Encoding: chunked;q=1\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("chunked in quotes", "Transfer-Encoding: \"chunked\"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("chunks and a length", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("a length and chunks", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    ];
    check_answers(&ANSWERS, |seen| *seen == Seen::BadGateway);
}

#[test]
fn rfc_9112_6_1_chunks_of_an_http_1_0_upstream_are_a_502() {
    let upstream = RawUpstream::start(|_| {
        let text = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        Script::new().read_body().send(text).finish_sending().await_close()
    });
    let gateway = every_way(&upstream);
    assert_eq!(gateway.request("POST", "/plain", &[], "hi").status, 502);
    assert_eq!(H2Client::connect(gateway.public()).request("POST", "/plain", &[], b"hi", None).status, 502);
}

#[test]
fn rfc_9110_8_6_an_answer_with_several_or_odd_lengths_is_a_502() {
    const ANSWERS: [(&str, &str); 14] = [
        ("two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        ("a list of two lengths", "Content-Length: 5, 6\r\n\r\nhello"),
        ("a length and an empty one", "Content-Length: 5\r\nContent-Length:\r\n\r\nhello"),
        ("an empty one", "Content-Length:\r\n\r\nhello"),
        ("a sign", "Content-Length: +5\r\n\r\nhello"),
        ("a negative one", "Content-Length: -5\r\n\r\nhello"),
        ("0x", "Content-Length: 0x5\r\n\r\nhello"),
        ("a blank within", "Content-Length: 5 5\r\n\r\nhello"),
        ("a fraction", "Content-Length: 5.0\r\n\r\nhello"),
        ("a parameter", "Content-Length: 5;\r\n\r\nhello"),
        ("quotes", "Content-Length: \"5\"\r\n\r\nhello"),
        ("a list with nothing behind", "Content-Length: 5,\r\n\r\nhello"),
        ("2^64 + 5", "Content-Length: 18446744073709551621\r\n\r\nhello"),
        ("a word", "Content-Length: five\r\n\r\nhello"),
    ];
    check_answers(&ANSWERS, |seen| *seen == Seen::BadGateway);
}

/// The same length said twice may be mended (RFC 9110, section 8.6) or refused, but does not pass as it is; the
/// clients here take nothing but one plain number.
#[test]
fn rfc_9110_8_6_a_length_that_is_said_twice_goes_on_once_or_not_at_all() {
    for field in [
        "Content-Length: 5, 5",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nX: y\r\ncontent-length: 5,5",
    ] {
        let upstream = RawUpstream::start(move |_| {
            Script::new()
                .read_body()
                .send(format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n{field}\r\n\r\nhello"))
                .finish_sending()
                .await_close()
        });
        let gateway = every_way(&upstream);
        for (way, seen) in ask_for(&gateway, 0) {
            assert!([Seen::BadGateway, Seen::Whole("hello".into())].contains(&seen), "{field}: {way}: {seen:?}");
        }
        let mut client = RawClient::connect(gateway.public());
        client.send(request_bytes(gateway.public(), "HEAD", "/plain", &[], b""));
        let head = client.try_read_response("HEAD").unwrap_or_else(|it| panic!("{field}: HEAD: {it}"));
        assert!(
            head.status == 502 || head.headers_named("content-length") == ["5"],
            "{field}: HEAD: {:?}",
            head.headers
        );
    }
}

#[test]
fn rfc_9110_8_6_an_answers_length_with_zeros_in_front_goes_on_in_one_form() {
    for (length, meant) in [("0000000005", "5"), ("010", "10"), ("00", "0")] {
        let body = "x".repeat(meant.parse().unwrap());
        let upstream = {
            let body = body.clone();
            RawUpstream::start(move |request| {
                let body = if request.method() == "HEAD" { "" } else { &body };
                Script::new().read_body().send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"))
            })
        };
        let gateway = every_way(&upstream);
        let mut client = RawClient::connect(gateway.public());
        for (method, path) in
            [("GET", "/plain"), ("POST", "/once/1"), ("GET", "/kept/1"), ("HEAD", "/plain"), ("GET", "/kept/1")]
        {
            let key = if path == "/once/1" { "Idempotency-Key: one\r\nContent-Length: 0\r\n" } else { "" };
            client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{key}\r\n"));
            let answer =
                client.try_read_response(method).unwrap_or_else(|it| panic!("{length}: {method} {path}: {it}"));
            assert_eq!(
                (answer.status, answer.headers_named("content-length")),
                (200, vec![meant]),
                "{length}: {method} {path}"
            );
            assert!(method == "HEAD" || answer.text() == body);
        }
        let answer = H2Client::connect(gateway.public()).get("/plain");
        assert_eq!((answer.status, answer.headers_named("content-length")), (200, vec![meant]), "{length} by HTTP/2");
    }
}

#[test]
fn rfc_9112_7_1_1_chunk_extensions_of_answers_count_too() {
    let upstream = RawUpstream::start(|request| {
        let body = match request.target().as_str() {
            "/plain/few" => wordy(3, 4 << 10),
            _ => wordy(5, 4 << 10),
        };
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
        Script::new().read_body().send([&head[..], body.as_slice()].concat()).await_close()
    });
    let gateway = every_way(&upstream);
    assert_eq!(gateway.get("/plain/few").text(), "xxx");
    let mut client = RawClient::connect(gateway.public());
    client.send("POST /plain/many HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    let answer = seen(client.try_read_response("POST"));
    assert!([Seen::BadGateway, Seen::Cut].contains(&answer), "{answer:?}");
}

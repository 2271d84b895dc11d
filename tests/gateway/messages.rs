//! What a message says beside its body, on its way through: interim answers, `Date`, fields of one connection,
//! conditions, and how an HTTP/1.0 client is told that an answer is not whole.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::Duration;

use http::Response as HttpResponse;

use crate::exchange::{H2C, in_front_of, routes};
use crate::http2::H2Upstream;
use crate::support::http1::{Head, request_bytes};
use crate::support::upstream::{answer_bytes, chunk, chunked_head};
use crate::support::{Gateway, H2Client, RawClient, RawUpstream, Request, Script};

const DATE: &str = "Tue, 15 Nov 1994 08:12:31 GMT";

fn condition(request: &Request, name: &str) -> bool {
    request.header(name).is_some()
}

// ── Interim answers ─────────────────────────────────────────────────────────────────────────────

/// Fields that belong to a connection or to the framing of a body that is not there.
const OF_THE_CONNECTION: [(&str, &str); 12] = [
    ("connection", "x-hop, x-other"),
    ("connection", "keep-alive"),
    ("x-hop", "1"),
    ("x-other", "1"),
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "keep-alive"),
    ("te", "deflate"),
    ("trailer", "x-t"),
    ("upgrade", "x"),
    ("transfer-encoding", "chunked"),
    ("content-length", "5"),
    ("http2-settings", "AAMAAABk"),
];

/// An interim answer in which each of these stands.
fn interim(status: u16, fields: &[(&str, &str)]) -> String {
    let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 {status} Interim\r\nlink: </a.css>\r\n{lines}\r\n")
}

/// The names in a head that was read as bytes: what an interim answer must not say, a careful client does not take.
fn names(raw: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(raw).to_lowercase();
    text.split("\r\n").skip(1).filter_map(|it| it.split_once(':')).map(|it| it.0.to_owned()).collect()
}

fn read_raw_head(client: &mut RawClient) -> Vec<u8> {
    client.take_until(b"\r\n\r\n", 1 << 16).unwrap()
}

#[test]
fn rfc_9110_7_6_1_interim_answers_lose_what_belongs_to_the_upstreams_connection() {
    for status in [103, 100, 102] {
        let upstream = RawUpstream::start(move |_| {
            Script::new().send(interim(status, &OF_THE_CONNECTION)).read_body().send(answer_bytes(200, &[], b"page"))
        });
        let gateway = in_front_of(&upstream, "");
        let mut client = RawClient::connect(gateway.public());
        for _ in 0..2 {
            client.send("POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n");
            let first = read_raw_head(&mut client);
            let code = std::str::from_utf8(&first[9..12]).unwrap();
            assert_eq!(code, status.to_string(), "{}", first.escape_ascii());
            let there = names(&first);
            let wrong: Vec<_> = OF_THE_CONNECTION.iter().filter(|it| there.contains(it.0)).collect();
            assert!(wrong.is_empty(), "{status}: {wrong:?}");
            assert!(status == 100 || there.contains("link"), "what is for the client passes: {there:?}");
            client.send("hi");
            let answer = client.read_response();
            assert_eq!((answer.status, answer.text().as_str()), (200, "page"), "{status}");
        }
        assert_eq!(upstream.connections(), 1);
    }
}

/// Each by itself: one that is taken for framing must not hide that another one passes.
#[test]
fn rfc_9110_7_6_1_each_field_of_a_connection_is_removed_from_early_hints() {
    for (name, value) in OF_THE_CONNECTION {
        let fields = [(name, value), ("connection", "x-hop, x-other")];
        let upstream = RawUpstream::start(move |_| {
            Script::new().send(interim(103, &fields)).send(answer_bytes(200, &[], b"page"))
        });
        let gateway = in_front_of(&upstream, "");
        let mut client = RawClient::connect(gateway.public());
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
            let hints = read_raw_head(&mut client);
            assert!(hints.starts_with(b"HTTP/1.1 103 "), "{name}: {}", hints.escape_ascii());
            assert!(!names(&hints).contains(name), "{name}: {}", hints.escape_ascii());
            assert_eq!(client.read_response().text(), "page", "{name}");
        }
    }
}

#[test]
fn rfc_8297_header_rules_of_the_route_count_for_early_hints_too() {
    let fields = [("x-internal", "10.0.0.1"), ("x-named", "upstream")];
    let upstream = RawUpstream::start(move |_| {
        Script::new().send(interim(103, &fields)).send(answer_bytes(200, &fields, b"page"))
    });
    let gateway = in_front_of(&upstream, "headers: { remove: [x-internal], set: { x-named: gateway } }");
    let mut client = RawClient::connect(gateway.public());
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    let answer = client.read_response();
    assert_eq!((answer.status, answer.header("x-internal"), answer.header("x-named")), (200, None, Some("gateway")));
    let text = String::from_utf8_lossy(&answer.informational[0].raw).to_lowercase();
    assert!(text.contains("link: </a.css>"), "{text}");
    assert!(!text.contains("x-internal") && !text.contains("x-named: upstream"), "{text}");
}

fn links(heads: &[Head]) -> BTreeSet<String> {
    heads.iter().map(|it| String::from_utf8_lossy(&it.raw).to_lowercase()).collect()
}

#[test]
fn rfc_8297_one_client_sees_the_interim_answers_of_one_attempt() {
    // Every attempt breaks off, or all but the last.
    for good in [None, Some(1), Some(2)] {
        let upstream = RawUpstream::start(move |request| {
            let hints = format!("HTTP/1.1 103 Early Hints\r\nlink: </attempt-{}>\r\n\r\n", request.number);
            let script = Script::new().read_body().send(hints);
            if Some(request.number) == good { script.send(answer_bytes(200, &[], b"page")) } else { script.close() }
        });
        for settings in ["", "cache: { ttl: 1h }"] {
            let before = upstream.requests().len();
            let gateway = in_front_of(&upstream, settings);
            let mut client = RawClient::connect(gateway.public());
            client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
            let answer = client.read_response();
            assert!([200, 502].contains(&answer.status), "{}", answer.status);
            assert!(answer.informational.len() <= 1, "{settings}: {:?}", links(&answer.informational));
            assert!(upstream.requests().len() > before);
        }
    }
}

#[test]
fn rfc_9110_10_1_1_one_client_sees_one_100_continue_however_many_attempts_there_are() {
    let upstream = RawUpstream::start(|_| Script::new().send("HTTP/1.1 100 Continue\r\n\r\n").close());
    let gateway = in_front_of(&upstream, "");
    let mut client = RawClient::connect(gateway.public());
    client.send("PUT / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n");
    let first = client.read_head();
    let answer = if first.status == 100 {
        client.send("hi");
        client.read_response()
    } else {
        return assert_eq!(first.status, 502);
    };
    assert_eq!((answer.status, answer.informational.len()), (502, 0));
}

// ── Date ────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn rfc_9110_6_6_1_the_upstreams_date_is_kept_on_every_way() {
    let upstream = RawUpstream::start(|request| {
        let head = format!("HTTP/1.1 200 OK\r\ndate: {DATE}\r\nage: 7\r\n");
        let script = Script::new().read_body();
        let path = request.target();
        match path.rsplit('/').next().unwrap() {
            "chunks" => script.send(head + "transfer-encoding: chunked\r\n\r\n").send("4\r\nfine\r\n0\r\n\r\n"),
            "pieces" => script.send(&head).pause(Duration::from_millis(50)).send("content-length: 4\r\n\r\nfine"),
            "byte-by-byte" => {
                let text = head + "content-length: 4\r\n\r\nfine";
                text.bytes().fold(script, |it, byte| it.send([byte]))
            }
            "end" => script.send(head + "\r\nfine").close(),
            "error" => script.send(head.replace("200 OK", "500 Broken") + "content-length: 4\r\n\r\nfine"),
            _ => script.send(head + "content-length: 4\r\n\r\nfine"),
        }
    });
    let text = routes(&[upstream.address()], "")
        + "  - { name: kept, match: { path: \"/kept/{*rest}\" }, upstream: up, cache: { ttl: 1h } }\n"
        + "  - { name: edited, match: { path: \"/edited/{*rest}\" }, upstream: up, headers: { set: { x-a: b } } }\n"
        + "  - { name: once, match: { path: \"/once/{*rest}\" }, upstream: up, idempotency: {} }\n";
    let gateway = Gateway::with(text).config(H2C).start();
    let mut wrong = Vec::new();
    for way in ["/plain", "/kept", "/edited", "/once"] {
        for shape in ["length", "chunks", "pieces", "byte-by-byte", "end", "error"] {
            for method in ["GET", "POST"] {
                let path = format!("{way}/{shape}");
                let (body, key) = (if method == "POST" { &b"hi"[..] } else { b"" }, [("idempotency-key", shape)]);
                let fields: &[_] = if way == "/once" && method == "POST" { &key } else { &[] };
                let answer = gateway.request(method, &path, fields, body);
                let other = H2Client::connect(gateway.public()).request(method, &path, fields, body, None);
                for (client, answer) in [("HTTP/1", answer), ("HTTP/2", other)] {
                    if answer.text() != "fine" || answer.headers_named("date") != [DATE] {
                        wrong.push(format!(
                            "{method} {path} by {client}: {} {:?}",
                            answer.status,
                            answer.headers_named("date")
                        ));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rfc_9110_6_6_1_the_date_of_an_http2_upstream_is_kept_and_a_missing_one_is_added() {
    for given in [Some(DATE), None] {
        let upstream = H2Upstream::start(move |_, mut respond, _| {
            Box::pin(async move {
                let mut answer = HttpResponse::builder();
                if let Some(date) = given {
                    answer = answer.header("date", date);
                }
                respond.send_response(answer.body(()).unwrap(), true).map(drop)
            })
        });
        let gateway = upstream.gateway("");
        for answer in [gateway.get("/"), H2Client::connect(gateway.public()).get("/")] {
            let dates = answer.headers_named("date");
            assert_eq!(dates.len(), 1);
            assert_eq!(dates == [DATE], given.is_some(), "{dates:?}");
        }
    }
}

#[test]
fn rfc_9110_6_6_1_a_date_is_added_where_there_is_none_and_only_there() {
    let upstream = RawUpstream::start(|request| match request.target().as_str() {
        "/own" => Script::answer(200, &[("date", DATE)], "x"),
        _ => Script::ok("x"),
    });
    let gateway = in_front_of(&upstream, "");
    for (path, own) in [("/own", true), ("/none", false), ("/api/health", false)] {
        for answer in [gateway.get(path), H2Client::connect(gateway.public()).get(path)] {
            let dates = answer.headers_named("date");
            assert_eq!((dates.len(), dates == [DATE]), (1, own), "{path}: {dates:?}");
        }
    }
    // Of a switch of protocols, too.
    let sockets = RawUpstream::start(|_| {
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\ndate: {DATE}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
        Script::new().send(head).await_close()
    });
    let text =
        routes(&[sockets.address()], "") + "  - { name: s, match: { path: /ws, websocket: true }, upstream: up }\n";
    let gateway = Gateway::start(text);
    let mut client = RawClient::connect(gateway.public());
    client.send("GET /ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    let head = client.read_head();
    let dates: Vec<_> =
        head.headers.iter().filter(|it| it.0.eq_ignore_ascii_case("date")).map(|it| it.1.as_str()).collect();
    assert_eq!((head.status, dates), (101, vec![DATE]));
}

// ── Fields of one connection ────────────────────────────────────────────────────────────────────

#[test]
fn rfc_9110_7_6_1_answers_lose_what_belongs_to_the_upstreams_connection() {
    const FIELDS: [(&str, &str); 8] = [
        ("te", "deflate"),
        ("te", "trailers"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABk"),
        ("connection", "x-hop"),
        ("connection", "keep-alive, te"),
    ];
    let mut wrong = Vec::new();
    for field in FIELDS {
        let upstream = RawUpstream::start(move |_| Script::answer(200, &[field, ("x-end", "1")], "fine"));
        let text = routes(&[upstream.address()], "")
            + "  - { name: kept, match: { path: /kept }, upstream: up, cache: { ttl: 1h } }\n"
            + "  - { name: once, match: { path: /once }, upstream: up, idempotency: {} }\n";
        let gateway = Gateway::with(text).config(H2C).start();
        for path in ["/plain", "/kept", "/kept", "/once"] {
            for method in ["GET", "POST"] {
                let key = [("idempotency-key", "one"), ("connection", "keep-alive")];
                let mut client = RawClient::connect(gateway.public());
                client.send(request_bytes(
                    gateway.public(),
                    method,
                    path,
                    &key,
                    if method == "POST" { b"hi" } else { b"" },
                ));
                match client.try_read_response(method) {
                    Ok(answer) if answer.status == 200 && answer.header("x-end") == Some("1") => {
                        let ours = answer.header("connection").is_none_or(|it| it == "keep-alive");
                        if !ours || (field.0 != "connection" && answer.header(field.0).is_some()) {
                            wrong.push(format!("{method} {path}: {field:?} passed"));
                        }
                    }
                    other => wrong.push(format!("{method} {path}: {field:?}: {other:?}")),
                }
                let body = if method == "POST" { &b"hi"[..] } else { b"" };
                match H2Client::connect(gateway.public()).try_request(method, path, &key[..1], body, None) {
                    Ok(answer) if answer.status == 200 && answer.header(field.0).is_none() => {}
                    other => wrong.push(format!("{method} {path} by HTTP/2: {field:?}: {other:?}")),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn rfc_9110_7_6_1_requests_lose_what_belongs_to_the_clients_connection() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = in_front_of(&upstream, "");
    for field in [
        "TE: deflate",
        "TE: trailers, deflate;q=0.5",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Upgrade: x",
        "HTTP2-Settings: AAMAAABk",
    ] {
        for body in ["", "content-length: 2\r\n", "transfer-encoding: chunked\r\n"] {
            let method = if body.is_empty() { "GET" } else { "POST" };
            let end = if body.starts_with('c') {
                "hi"
            } else if body.is_empty() {
                ""
            } else {
                "2\r\nhi\r\n0\r\n\r\n"
            };
            let mut client = RawClient::connect(gateway.public());
            client.send(format!("{method} / HTTP/1.1\r\nhost: x\r\n{field}\r\n{body}\r\n{end}"));
            assert_eq!(client.read_response().text(), "fine", "{field}");
            let name = field.split(':').next().unwrap().to_lowercase();
            assert!(!names(upstream.requests().last().unwrap()).contains(&name), "{field} with {body:?}");
        }
    }
}

// ── HTTP/1.0 ────────────────────────────────────────────────────────────────────────────────────

/// How the connection ended behind the answer's head.
fn end_for_http_1_0(gateway: &Gateway, method: &str, path: &str) -> Result<Vec<u8>, ErrorKind> {
    let mut client = RawClient::connect(gateway.public());
    client.send(format!("{method} {path} HTTP/1.0\r\nhost: x\r\ncontent-length: 0\r\n\r\n"));
    let mut body = Vec::new();
    // A reset may overtake the head.
    let head = client.try_read_head(method).map_err(|it| it.kind())?;
    assert_eq!(
        (head.status, head.raw.to_ascii_lowercase().windows(17).any(|it| it == b"transfer-encoding")),
        (200, false)
    );
    while let Some(piece) = client.try_read_piece().map_err(|it| it.kind())? {
        body.extend(piece);
    }
    Ok(body)
}

/// Without a length and without chunks, only the connection can tell it (RFC 9112, section 8).
#[test]
fn rfc_9112_8_an_http_1_0_client_is_told_by_a_reset_that_an_answer_broke_off() {
    let upstream = RawUpstream::start(|request| {
        let begun = Script::new().read_body().send(chunked_head(200)).send(chunk(b"half"));
        match request.target().as_str() {
            "/fin" | "/kept/fin" => begun.close(),
            "/reset" => begun.pause(Duration::from_millis(50)).reset(),
            "/malformed" => begun.send("xyz\r\n").await_close(),
            "/no-last-chunk" => begun.send("\r\n\r\n").finish_sending().await_close(),
            "/silence" => begun.await_close(),
            "/length" => Script::cut_length(100, "half"),
            "/until-close" => {
                Script::new().read_body().send("HTTP/1.1 200 OK\r\n\r\nhalf").pause(Duration::from_millis(50)).reset()
            }
            "/whole" => begun.send("0\r\n\r\n"),
            _ => Script::until_close(200, "half"),
        }
    });
    let text = routes(&[upstream.address()], "timeouts: { idle: 300ms }")
        + "  - { name: kept, match: { path: \"/kept/{*rest}\" }, upstream: up, cache: { ttl: 1h } }\n";
    let gateway = Gateway::with(text).config(H2C).start();
    let mut wrong = Vec::new();
    for path in ["/fin", "/kept/fin", "/reset", "/malformed", "/no-last-chunk", "/silence", "/until-close"] {
        for method in ["GET", "POST"] {
            let end = end_for_http_1_0(&gateway, method, path);
            if end != Err(ErrorKind::ConnectionReset) {
                wrong.push(format!("{method} {path}: {end:?}"));
            }
        }
    }
    // What is whole ends with a FIN.
    for path in ["/whole", "/end"] {
        for method in ["GET", "POST"] {
            let end = end_for_http_1_0(&gateway, method, path);
            if end.as_deref() != Ok(b"half") {
                wrong.push(format!("{method} {path}: {end:?}"));
            }
        }
    }
    // Where there is a length, that tells it; whatever the end, it does not look whole.
    let cut = end_for_http_1_0(&gateway, "GET", "/length");
    if cut.is_ok() {
        wrong.push(format!("/length: {cut:?}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// ── Conditions ──────────────────────────────────────────────────────────────────────────────────

const LAST_MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// An upstream that heeds conditions, and whose answers must not be kept for others.
fn conditional(control: &'static str) -> RawUpstream {
    RawUpstream::start(move |request| {
        let fields = [("etag", "\"e\""), ("last-modified", LAST_MODIFIED), ("cache-control", control)];
        let tagged = request.header("if-none-match").is_some_and(|it| it.contains("\"e\""));
        let dated = !condition(request, "if-none-match") && condition(request, "if-modified-since");
        match (tagged || dated, request.method().as_str()) {
            (true, _) => Script::answer(304, &fields, ""),
            (_, "HEAD") => Script::new().send(format!(
                "HTTP/1.1 200 OK\r\netag: \"e\"\r\ncache-control: {control}\r\ncontent-length: 4\r\n\r\n"
            )),
            _ => Script::answer(200, &fields, "page"),
        }
    })
}

#[test]
fn rfc_9110_13_1_a_condition_reaches_the_upstream_when_nothing_is_kept() {
    let conditions: [&[(&str, &str)]; 5] = [
        &[("if-none-match", "\"e\"")],
        &[("if-none-match", "W/\"e\"")],
        &[("if-none-match", "\"x\", \"e\"")],
        &[("if-modified-since", LAST_MODIFIED)],
        &[("if-none-match", "\"e\""), ("if-modified-since", LAST_MODIFIED)],
    ];
    let mut wrong = Vec::new();
    for (control, credentials) in
        [("no-store", false), ("private", false), ("no-cache", false), ("max-age=0", false), ("max-age=60", true)]
    {
        let upstream = conditional(control);
        let gateway = in_front_of(&upstream, "cache: {}");
        let mut client = H2Client::connect(gateway.public());
        for condition in conditions {
            let mut fields = condition.to_vec();
            if credentials {
                fields.push(("authorization", "Bearer of-somebody"));
            }
            for (method, by) in [("GET", "HTTP/1"), ("GET", "HTTP/2"), ("HEAD", "HTTP/1")] {
                let answer = match by {
                    "HTTP/1" => gateway.request(method, "/a", &fields, ""),
                    _ => client.request(method, "/a", &fields, b"", None),
                };
                if (answer.status, answer.body.len(), answer.header("etag")) != (304, 0, Some("\"e\"")) {
                    wrong.push(format!(
                        "{control}, {method} by {by} with {condition:?}: {} {}",
                        answer.status,
                        answer.text()
                    ));
                }
            }
        }
        // Without the condition, and with one that does not hold, there is all of it.
        for fields in [&[][..], &[("if-none-match", "\"other\"")]] {
            let answer = gateway.request("GET", "/a", fields, "");
            assert_eq!((answer.status, answer.text().as_str()), (200, "page"), "{control}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rfc_9110_13_2_2_a_condition_is_judged_on_what_an_upstream_sends_that_heeds_none() {
    for control in ["no-store", "private", "max-age=60"] {
        let upstream =
            RawUpstream::start(move |_| Script::answer(200, &[("etag", "\"e\""), ("cache-control", control)], "page"));
        let gateway = in_front_of(&upstream, "cache: {}");
        for _ in 0..2 {
            let answer = gateway.request("GET", "/a", &[("if-none-match", "\"e\"")], "");
            assert_eq!((answer.status, answer.body.len(), answer.header("etag")), (304, 0, Some("\"e\"")), "{control}");
            let other = gateway.request("GET", "/a", &[("if-none-match", "\"other\"")], "");
            assert_eq!((other.status, other.text().as_str()), (200, "page"), "{control}");
        }
    }
}

/// A 304 to one client's condition is no answer for those without it.
#[test]
fn rfc_9111_4_3_3_a_304_to_the_clients_own_condition_is_not_kept_for_others() {
    let upstream = conditional("max-age=60");
    let gateway = in_front_of(&upstream, "cache: {}");
    let first = gateway.request("GET", "/a", &[("if-none-match", "\"e\"")], "");
    assert_eq!((first.status, first.body.len()), (304, 0));
    for _ in 0..2 {
        let plain = gateway.get("/a");
        assert_eq!((plain.status, plain.text().as_str()), (200, "page"));
    }
    let kept = gateway.request("GET", "/a", &[("if-none-match", "\"e\"")], "");
    assert_eq!((kept.status, kept.header("x-cache")), (304, Some("hit")));
}

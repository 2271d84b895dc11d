//! What counts as a failure, and that the ways a request may take tell the same story about it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::Reason;
use http::Response as HttpResponse;
use serde_json::{Value, json};

use crate::exchange::{H2C, in_front_of, routes};
use crate::http2::H2Upstream;
use crate::support::tokens::{SECRET, claims, sign_hs256, with};
use crate::support::{Gateway, H2Client, RawUpstream, Response, Script, eventually, figure, nobody};

// ── Failures ────────────────────────────────────────────────────────────────────────────────────

const ADAPTIVE: &str =
    "rate_limits: [{ per: ip, requests: 100000, every: 1h, adaptive: { floor: 20%, failures: 10%, latency: 10s } }]";

fn factor(gateway: &Gateway) -> Option<f64> {
    figure(gateway, "moongate_rate_limit_factor{limit=\"route/all/ip\",upstream=\"up\"}")
}

/// An answer counts when it is over, which its client may see a moment before.
#[track_caller]
fn comes_to(gateway: &Gateway, endpoint: std::net::SocketAddr, result: &str, count: f64) {
    eventually(&format!("{result}: {count}"), || (counted(gateway, endpoint, result) == count).then_some(()));
}

/// How many of an endpoint's answers counted as this.
fn counted(gateway: &Gateway, endpoint: std::net::SocketAddr, result: &str) -> f64 {
    let series =
        format!("moongate_upstream_requests_total{{endpoint=\"{endpoint}\",result=\"{result}\",upstream=\"up\"}}");
    figure(gateway, &series).unwrap_or(0.0)
}

#[test]
fn s2s_34_an_upstreams_server_errors_are_failures_on_every_way() {
    for (way, settings, method, fields) in [
        ("plain", "", "GET", &[][..]),
        ("with a body", "", "POST", &[]),
        ("cached", "cache: { ttl: 1h }, ", "GET", &[]),
        ("once", "idempotency: {}, ", "POST", &[("idempotency-key", "key")]),
    ] {
        for status in [500, 502, 503, 504, 599] {
            let upstream = RawUpstream::start(move |_| Script::answer(status, &[], "broken"));
            let gateway = in_front_of(&upstream, &format!("{settings}{ADAPTIVE}"));
            assert_eq!(factor(&gateway), Some(1.0));
            let body = if method == "POST" { "hi" } else { "" };
            for _ in 0..10 {
                assert_eq!(gateway.request(method, "/a", fields, body).status, status, "{way}: it passes as it is");
            }
            comes_to(&gateway, upstream.address(), "failure", upstream.requests().len() as f64);
            assert_eq!(counted(&gateway, upstream.address(), "success"), 0.0, "{way} {status}");
        }
    }
}

#[test]
fn s2s_34_adaptive_limits_see_server_errors_and_nothing_else() {
    for (status, struggles) in [(500, true), (503, true), (404, false), (429, false)] {
        let upstream = RawUpstream::start(move |_| Script::answer(status, &[], ""));
        let gateway = in_front_of(&upstream, ADAPTIVE);
        if struggles {
            eventually("less is let through", || {
                gateway.get("/");
                (factor(&gateway) < Some(1.0)).then_some(())
            });
        } else {
            for _ in 0..50 {
                gateway.get("/");
            }
            comes_to(&gateway, upstream.address(), "success", 50.0);
            assert_eq!(counted(&gateway, upstream.address(), "failure"), 0.0, "{status} is the client's matter");
        }
    }
}

#[test]
fn s2s_34_server_errors_of_http2_upstreams_and_refused_handshakes_are_failures() {
    let upstream = H2Upstream::start(|_, mut respond, _| {
        Box::pin(
            async move { respond.send_response(HttpResponse::builder().status(500).body(()).unwrap(), true).map(drop) },
        )
    });
    let gateway = upstream.gateway("");
    for _ in 0..5 {
        assert_eq!(gateway.get("/").status, 500);
    }
    comes_to(&gateway, upstream.address, "failure", 5.0);
    let sockets = RawUpstream::start(|_| Script::answer(500, &[], "broken"));
    let text =
        routes(&[sockets.address()], "") + "  - { name: s, match: { path: /ws, websocket: true }, upstream: up }\n";
    let gateway = Gateway::start(text);
    assert_eq!(crate::support::WsClient::try_connect(gateway.public(), "/ws", &[]).err().unwrap().status, 500);
    comes_to(&gateway, sockets.address(), "failure", 1.0);
}

// ── Another try ─────────────────────────────────────────────────────────────────────────────────

/// Ways for one request: settings of the route, a method, fields, a body.
type Way = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)], &'static [u8]);

const WAYS: [Way; 8] = [
    ("a GET", "", "GET", &[], b""),
    ("a GET for the cache", "cache: { ttl: 1h }", "GET", &[], b""),
    ("a POST", "", "POST", &[], b""),
    ("a POST with a body", "", "POST", &[("content-length", "2")], b"hi"),
    ("a POST that is done once", "idempotency: {}", "POST", &[("idempotency-key", "one")], b""),
    (
        "a POST that is done once, with a body",
        "idempotency: {}",
        "POST",
        &[("idempotency-key", "one"), ("content-length", "2")],
        b"hi",
    ),
    ("a PATCH that is done once", "idempotency: {}", "PATCH", &[("idempotency-key", "one")], b"hi"),
    ("a POST for the cache", "cache: { ttl: 1h, key: [body] }", "POST", &[], b"hi"),
];

fn ask(gateway: &Gateway, by: &str, (_, _, method, fields, body): Way) -> Response {
    match by {
        "HTTP/1" => gateway.request(method, "/a", fields, body),
        _ => H2Client::connect(gateway.public()).request(method, "/a", fields, body, None),
    }
}

#[test]
fn rfc_9113_8_7_a_refused_stream_is_tried_again_on_every_way() {
    let mut wrong = Vec::new();
    // Nothing is told about a body that streams: a gateway that has not kept it can't send it again.
    for way in WAYS.into_iter().filter(|it| it.0 != "a POST with a body") {
        for by in ["HTTP/1", "HTTP/2"] {
            let calls = Arc::new(AtomicUsize::new(0));
            let upstream = H2Upstream::start(move |_, mut respond, _| {
                let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
                Box::pin(async move {
                    if first {
                        respond.send_reset(Reason::REFUSED_STREAM);
                        return Ok(());
                    }
                    respond.send_response(HttpResponse::new(()), false)?.send_data(Bytes::from_static(b"fine"), true)
                })
            });
            let gateway = upstream.gateway(way.1);
            let answer = ask(&gateway, by, way);
            let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
            let heads = upstream.book.heads.lock().unwrap().len();
            if (answer.status, heads, &line["attempts"]) != (200, 2, &2.into()) {
                wrong.push(format!("{} by {by}: {}, {heads} arrived, {line}", way.0, answer.status));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn us_013_a_refused_connection_is_tried_elsewhere_on_every_way() {
    let mut wrong = Vec::new();
    for way in WAYS {
        for by in ["HTTP/1", "HTTP/2"] {
            let upstream = RawUpstream::start(|_| Script::ok("fine"));
            let gateway = Gateway::with(routes(&[nobody(), upstream.address()], way.1)).config(H2C).start();
            // In turn: sooner or later one begins with the endpoint that is not there.
            let mut attempts = BTreeSet::new();
            for path in 0..2 {
                let fields: Vec<_> = way
                    .3
                    .iter()
                    .map(|it| if it.0 == "idempotency-key" { (it.0, ["one", "two"][path]) } else { *it })
                    .collect();
                let target = format!("/{path}");
                let answer = match by {
                    "HTTP/1" => gateway.request(way.2, &target, &fields, way.4),
                    _ => H2Client::connect(gateway.public()).request(way.2, &target, &fields, way.4, None),
                };
                let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
                if answer.status != 200 || line["endpoint"] != upstream.address().to_string() {
                    wrong.push(format!("{} by {by}: {} {line}", way.0, answer.status));
                }
                attempts.insert(line["attempts"].as_u64());
            }
            if !attempts.contains(&Some(2)) || !attempts.is_subset(&BTreeSet::from([Some(1), Some(2)])) {
                wrong.push(format!("{} by {by}: attempts {attempts:?}", way.0));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// ── Who asks ────────────────────────────────────────────────────────────────────────────────────

/// A condition that the cache asks with or takes away must not take away who asked.
#[test]
fn rfc_9110_13_a_condition_changes_nothing_about_who_is_asking() {
    const CONFIG: &str = "
listeners: { public: [{ address: \"127.0.0.1:0\", h2c: true }], admin: { address: \"127.0.0.1:0\" } }
tokens: { issuer: moongate, audience: [tta], hs256_secret: \"${PROXY_JWT_SECRET}\" }
store: { sqlite: { path: moongate.db } }
";
    let upstream = RawUpstream::start(|request| {
        let who = request.header("x-moongate-subject").unwrap_or_default();
        Script::answer(200, &[("etag", "\"e\""), ("cache-control", "no-store")], who)
    });
    let text = format!(
        "version: 1
roles: {{ admin: [\"*\"] }}
upstreams:
  back: {{ discovery: {{ static: [\"{}\"] }} }}
  users: {{ local: auth }}
routes:
  - {{ name: users, match: {{ path: /api/v1/users, methods: [GET] }}, upstream: users, cache: {{}}, \
auth: {{ jwt: {{}}, from: [{{ cookie: t }}, header], roles: [admin] }} }}
  - {{ name: back, match: {{ path: /back }}, upstream: back, cache: {{}}, auth: {{ jwt: {{}}, from: [{{ cookie: t }}, header] }} }}
",
        upstream.address()
    );
    let gateway = Gateway::with(text).config(CONFIG).env("PROXY_JWT_SECRET", SECRET).start();
    let said = with(claims("ada", &["admin"]), json!({ "scope": "users.read" }));
    let token = sign_hs256("{\"alg\":\"HS256\"}", &said.to_string(), SECRET.as_bytes());
    let (cookie, bearer) = (format!("t={token}"), format!("Bearer {token}"));
    for path in ["/api/v1/users", "/back"] {
        for credential in [("cookie", cookie.as_str()), ("authorization", bearer.as_str())] {
            let plain = gateway.request("GET", path, &[credential], "");
            assert_eq!(plain.status, 200, "{path}: {}", plain.text());
            for condition in [
                ("if-none-match", "\"x\""),
                ("if-none-match", "W/\"y\", \"z\""),
                ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
                ("range", "bytes=0-"),
            ] {
                for by in ["HTTP/1", "HTTP/2"] {
                    let answer = match by {
                        "HTTP/1" => gateway.request("GET", path, &[credential, condition], ""),
                        _ => H2Client::connect(gateway.public()).request(
                            "GET",
                            path,
                            &[credential, condition],
                            b"",
                            None,
                        ),
                    };
                    let whole = [200, 206].contains(&answer.status);
                    assert!(
                        whole && answer.body == plain.body,
                        "{path} {} {condition:?} by {by}: {} {}",
                        credential.0,
                        answer.status,
                        answer.text()
                    );
                    let id = answer.header("x-request-id").unwrap_or_default();
                    assert!(!id.is_empty(), "{path}: no request id");
                    assert_eq!(gateway.access_log_for(id)["status"], answer.status);
                }
            }
        }
    }
}

// ── The access log ──────────────────────────────────────────────────────────────────────────────

fn keys(line: &Value) -> BTreeSet<&str> {
    line.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn s2s_40_what_is_done_once_has_the_log_line_of_every_request() {
    let upstream = RawUpstream::start(|_| Script::ok("done"));
    for endpoint in [upstream.address(), nobody()] {
        let text =
            routes(&[endpoint], "") + "  - { name: once, match: { path: /once }, upstream: up, idempotency: {} }\n";
        let gateway = Gateway::with(text).config(H2C).start();
        // Two of each: the second finds a connection that is there already.
        for (number, reused) in [("one", false), ("two", true)] {
            let ask = |path: &str, fields: &[_]| {
                let answer = gateway.request("POST", path, fields, "{}");
                (answer.status, gateway.access_log_for(answer.header("x-request-id").unwrap()))
            };
            let (status, plain) = ask("/plain", &[]);
            let (other, once) = ask("/once", &[("idempotency-key", number)]);
            assert_eq!(status, other);
            assert_eq!(keys(&once), keys(&plain), "{number}: {once}\n{plain}");
            for name in [
                "upstream",
                "endpoint",
                "attempts",
                "status",
                "end",
                "error",
                "bytes_received",
                "bytes_sent",
                "method",
                "http",
            ] {
                assert_eq!(once[name], plain[name], "{name}: {once}\n{plain}");
            }
            assert_eq!(plain["endpoint"], endpoint.to_string());
            if status == 200 {
                // The plain one was first.
                assert_eq!((&plain["reused"], &once["reused"]), (&reused.into(), &true.into()), "{number}");
                let times = ["connect_ms", "first_byte_ms", "duration_ms"].map(|it| once[it].as_f64().unwrap());
                assert!(times.is_sorted(), "{once}");
            }
        }
    }
}

//! What the gateway says itself: one shape, the same fields as on every answer, a closed list of codes.
//! And what it leaves as it is: whatever an upstream says.

use std::process::Command;

use serde_json::{Value, json};

use super::support::*;

const ORIGIN: &str = "http://localhost:5173";
/// On every answer, the gateway's own and others.
const SECURITY: [&str; 4] = ["x-content-type-options", "x-frame-options", "referrer-policy", "content-security-policy"];

/// Asserts everything that is the same on all errors, and returns the error.
#[track_caller]
fn refused(answer: &Response, status: u16, code: &str) -> Value {
    let body = answer.json();
    assert_eq!((answer.status, &body["error"]["code"]), (status, &json!(code)), "{body}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{code}");
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&body), ["error"], "{code}");
    let mut expected = keys(&body["error"]);
    expected.sort_unstable();
    assert_eq!(expected, ["code", "details", "message", "request_id", "suggested_action"], "{code}");
    for text in ["message", "suggested_action"] {
        assert!(!body["error"][text].as_str().unwrap().is_empty(), "{code}: {text}");
    }
    let id = answer.header("x-request-id");
    assert_eq!(body["error"]["request_id"].as_str(), id, "{code}");
    assert!(id.is_some_and(|it| it.len() >= 16), "{code}");
    for name in SECURITY {
        assert!(answer.header(name).is_some(), "{code}: {name}");
    }
    assert_eq!(answer.headers_named("cache-control"), ["no-store"], "{code}");
    assert_eq!(answer.headers_named("date").len(), 1, "{code}");
    assert!(moongate::proxy::error_codes().iter().any(|it| it.code == code && it.status == status), "{code}");
    body["error"].clone()
}

/// The same, asked for by a page of another origin that may read the answer.
#[track_caller]
fn readable(answer: &Response, status: u16, code: &str) -> Value {
    assert_eq!(answer.headers_named("access-control-allow-origin"), [ORIGIN], "{code}");
    assert!(answer.headers_named("vary").contains(&"Origin"), "{code}");
    assert!(answer.header("access-control-expose-headers").unwrap().contains("x-request-id"), "{code}");
    refused(answer, status, code)
}

fn routes(upstreams: &str) -> String {
    let mut text = format!(
        "version: 1\ndefaults: {{ cors: {{ origins: ['http://localhost:*'] }} }}\nupstreams: {{ {upstreams} }}\nroutes:\n"
    );
    text += "  - { name: hello, match: { path: /hello, methods: [GET], accept: [text/plain] }, respond: { body: hello } }\n";
    text
}

fn upstream(name: &str, address: std::net::SocketAddr) -> String {
    format!("{name}: {{ discovery: {{ static: ['{address}'] }} }}")
}

#[test]
fn s2s_37_r2_3_every_refusal_of_a_request_has_one_shape_and_the_fields_of_every_answer() {
    let reached = RawUpstream::start(|_| Script::ok("reached"));
    let routes = routes(&upstream("up", reached.address()))
        + "  - { name: small, match: { path: /small }, upstream: up, body_limit: 4 }\n";
    let gateway = Gateway::start(routes);
    let ask = |method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]| {
        gateway.request(method, path, &[&[("origin", ORIGIN)], fields].concat(), body)
    };
    readable(&ask("GET", "/nowhere", &[], b""), 404, "route_not_found");
    let error = readable(&ask("POST", "/hello", &[("accept", "text/plain")], b""), 405, "method_not_allowed");
    assert_eq!(error["details"], json!({ "allow": "GET, HEAD" }));
    readable(&ask("GET", "/hello", &[("accept", "image/png")], b""), 406, "not_acceptable");
    let error = readable(&ask("POST", "/small", &[], b"too much"), 413, "body_too_large");
    assert_eq!(error["details"], json!({ "limit_bytes": 4 }));
    readable(&ask("GET", "/%zz", &[], b""), 400, "bad_request");
    readable(&ask("GET", "/hello", &[("connection", "authorization")], b""), 400, "bad_request");
    readable(&ask("GET", "/hello", &[("expect", "the unexpected")], b""), 417, "expectation_failed");
    readable(&ask("GET", &format!("/{}", "a".repeat(9000)), &[], b""), 414, "uri_too_long");
    let large = "a".repeat(20_000);
    readable(&ask("GET", "/hello", &[("x-large", &large)], b""), 431, "headers_too_large");
    let mut chunked = RawClient::connect(gateway.public());
    chunked.send(format!(
        "POST /small HTTP/1.1\r\nhost: a\r\norigin: {ORIGIN}\r\ntransfer-encoding: chunked\r\n\r\n8\r\ntoo much\r\n"
    ));
    readable(&chunked.read_response(), 413, "body_too_large");
    for request in reached.requests() {
        assert!(!request.windows(8).any(|it| it == b"too much"), "nothing beyond the limit arrives");
    }
}

#[test]
fn what_never_became_a_request_is_refused_in_the_same_shape() {
    let config = "
listeners:
  public: [{ address: '127.0.0.1:0', limits: { header_timeout: 300ms } }]
  admin: { address: '127.0.0.1:0' }
";
    let gateway = Gateway::with(routes("")).config(config).start();
    let send = |bytes: &str| {
        let mut client = RawClient::connect(gateway.public());
        client.send(bytes);
        let answer = client.read_response();
        client.expect_closed();
        answer
    };
    refused(&send("nonsense\r\n\r\n"), 400, "bad_request");
    refused(&send("GET / HTTP/1.1\r\n\r\n"), 400, "bad_request");
    refused(&send("GET / HTTP/1.1\r\nhost : a\r\n\r\n"), 400, "bad_request");
    refused(&send("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"), 400, "bad_request");
    refused(&send("GET / HTTP/1.1\r\nhos"), 408, "request_timeout");
    let connect = send("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n");
    refused(&connect, 405, "method_not_supported");
}

#[test]
fn r1_3_a_failing_upstream_is_an_error_of_the_gateway_in_the_same_shape() {
    let closing = RawUpstream::start(|_| Script::new().read_body().close());
    let garbled = RawUpstream::start(|_| Script::new().read_body().send("nonsense\r\n\r\n").close());
    let silent = RawUpstream::start(|_| Script::silence());
    let dripping = RawUpstream::start(|_| Script::silence());
    // It takes the connection and never shakes hands.
    let mute = RawUpstream::start(|_| Script::silence());
    let list = [
        format!("mute: {{ discovery: {{ static: ['{}'] }}, tls: {{ sni: mute.example.org }} }}", mute.address()),
        upstream("gone", nobody()),
        upstream("closing", closing.address()),
        upstream("garbled", garbled.address()),
        upstream("silent", silent.address()),
        upstream("dripping", dripping.address()),
        format!(
            "ill: {{ discovery: {{ static: ['{}'] }}, health: {{ tcp: true, every: 50ms, timeout: 40ms, fail_after: 1 }} }}",
            nobody()
        ),
    ];
    let mut text = routes(&list.join(", "));
    for (name, timeouts) in [
        ("gone", ""),
        ("closing", ""),
        ("garbled", ""),
        ("ill", ""),
        ("mute", "connect: 100ms"),
        ("silent", "first_byte: 100ms"),
        ("dripping", "first_byte: 10s, request: 100ms"),
    ] {
        text += &format!(
            "  - {{ name: {name}, match: {{ path: /{name} }}, upstream: {name}, timeouts: {{ {timeouts} }} }}\n"
        );
    }
    let gateway = Gateway::start(text);
    gateway.wait_for_event("endpoint_unhealthy", |it| it["upstream"] == "ill");
    for (path, status, code) in [
        ("/gone", 502, "upstream_unreachable"),
        ("/closing", 502, "upstream_closed"),
        ("/garbled", 502, "upstream_protocol_error"),
        ("/ill", 503, "upstream_unavailable"),
        ("/mute", 504, "upstream_connect_timeout"),
        ("/silent", 504, "upstream_timeout"),
        ("/dripping", 504, "request_deadline"),
    ] {
        let answer = gateway.request("GET", path, &[("origin", ORIGIN)], b"");
        let error = readable(&answer, status, code);
        assert_eq!(answer.header("retry-after"), (status == 503).then_some("1"), "{code}");
        let line = gateway.access_log_for(error["request_id"].as_str().unwrap());
        assert_eq!((&line["error"], &line["status"]), (&json!(code), &json!(status)), "{line}");
    }
    let counted = gateway.admin_get("/metrics").text();
    assert!(counted.contains("moongate_refusals_total{code=\"upstream_unreachable\"} 1"), "{counted}");
}

#[test]
fn s2s_37_what_breaks_in_the_gateway_itself_is_500_in_the_same_shape() {
    let other = nobody();
    let text = routes(&format!("{}, {}", upstream("plain", other), upstream("sealed", other)))
        .replace("sealed: {", "sealed: { tls: { sni: a.test },")
        + "  - { name: plain, match: { path: /plain }, upstream: plain }\n"
        + "  - { name: sealed, match: { path: /sealed }, upstream: sealed }\n";
    let gateway = Gateway::start(text);
    let mut client = RawClient::connect(gateway.public());
    let mut ask = |path: &str| {
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\norigin: {ORIGIN}\r\n\r\n"));
        client.read_response()
    };
    assert_eq!(ask("/hello").status, 200);
    // From here on there is no socket for anything new; what is open stays.
    let limit = |files: &str| {
        let pid = gateway.pid().to_string();
        let done = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={files}:")]).status().unwrap();
        assert!(done.success());
    };
    limit("3");
    let answers = ["/plain", "/sealed"].map(&mut ask);
    limit("1024");
    for (answer, path) in answers.iter().zip(["/plain", "/sealed"]) {
        let error = readable(answer, 500, "internal_error");
        assert_eq!(error["suggested_action"], "tell the operator", "{path}");
        let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
        assert_eq!((&line["status"], &line["error"]), (&json!(500), &json!("internal_error")), "{line}");
        assert!(line["cause"].as_str().is_some_and(|it| it.contains("limit of open files")), "{line}");
    }
    // Nobody else's fault, and over when it is over.
    let failures = figure(
        &gateway,
        &format!("moongate_upstream_requests_total{{endpoint=\"{other}\",result=\"failure\",upstream=\"plain\"}}"),
    );
    assert_eq!(failures, Some(0.0));
    assert_eq!(ask("/plain").status, 502);
}

#[test]
fn refusals_are_the_same_over_http2_and_to_head() {
    let config = "listeners: { public: [{ address: '127.0.0.1:0', h2c: true }], admin: { address: '127.0.0.1:0' } }";
    let gateway = Gateway::with(routes("")).config(config).start();
    let mut client = H2Client::connect(gateway.public());
    let fields = [("origin", ORIGIN)];
    readable(&client.request("GET", "/nowhere", &fields, b"", None), 404, "route_not_found");
    readable(&client.request("DELETE", "/hello", &fields, b"", None), 405, "method_not_allowed");
    readable(&client.request("GET", "/a%2fb", &fields, b"", None), 400, "bad_request");
    let head = gateway.request("HEAD", "/nowhere", &fields, b"");
    assert_eq!((head.status, head.body.len()), (404, 0));
    assert!(head.header("content-length").unwrap().parse::<usize>().unwrap() > 100);
}

#[test]
fn a_connection_goes_on_after_a_refusal_that_leaves_no_doubt() {
    let gateway = Gateway::start(routes(""));
    let mut client = RawClient::connect(gateway.public());
    for _ in 0..3 {
        client.send("POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n12345");
        refused(&client.read_response(), 404, "route_not_found");
    }
    client.send("GET /hello HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(client.read_response().text(), "hello");
}

#[test]
fn what_an_upstream_answers_passes_untouched_errors_too() {
    const BODIES: [(u16, &str, &str); 5] = [
        (200, "application/json", "{ \"a\":  1 }"),
        (404, "text/html", "<h1>nothing here</h1>"),
        (405, "application/problem+json", "{\"title\":\"no\"}"),
        (500, "text/plain", "my own failure"),
        (503, "application/json", "{\"error\":\"mine\"}"),
    ];
    let upstream = RawUpstream::start(|request| {
        let at: usize = request.target()[1..].parse().unwrap();
        let (status, media, body) = BODIES[at];
        let fields = [
            ("content-type", media),
            ("x-own", "kept"),
            ("retry-after", "7"),
            ("cache-control", "max-age=5"),
            ("x-frame-options", "SAMEORIGIN"),
        ];
        Script::answer(status, &fields, body)
    });
    let text = routes(&self::upstream("up", upstream.address()));
    let gateway = Gateway::start(text + "  - { name: all, match: { path: '/{*rest}' }, upstream: up }\n");
    for (at, (status, media, body)) in BODIES.iter().enumerate() {
        let answer = gateway.request("GET", &format!("/{at}"), &[("origin", ORIGIN)], b"");
        assert_eq!((answer.status, answer.text().as_str()), (*status, *body));
        for (name, value) in [
            ("content-type", *media),
            ("x-own", "kept"),
            ("retry-after", "7"),
            ("cache-control", "max-age=5"),
            ("x-frame-options", "SAMEORIGIN"),
            ("access-control-allow-origin", ORIGIN),
        ] {
            assert_eq!(answer.headers_named(name), [value], "{status} {name}");
        }
        let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
        assert_eq!((&line["error"], &line["end"]), (&Value::Null, &json!("done")), "{line}");
    }
}

#[test]
fn s2s_28_a_clients_own_provider_key_reaches_the_upstream_and_nothing_else() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = Gateway::start(crate::exchange::routes(&[upstream.address()], ""));
    let answer = gateway.request("GET", "/", &[("X-Provider-Key", "canary-own-key")], "");
    assert_eq!(answer.body, b"fine");
    let seen = String::from_utf8(upstream.requests()[0].clone()).unwrap().to_ascii_lowercase();
    assert!(seen.contains("\r\nx-provider-key: canary-own-key\r\n"), "{seen}");
    gateway.wait_for_event("request", |_| true);
    assert!(gateway.log_lines().iter().all(|it| !it.text.contains("canary")), "S2S-29");
    assert!(!gateway.admin_get("/metrics").text().contains("canary"));
}

//! Ten traps of the library underneath, each closed and kept closed.

use bytes::Bytes;
use http::Request as HttpRequest;

use crate::exchange::{H2C, body_of, in_front_of, pattern, routes};
use crate::support::upstream::{chunk, last_chunk};
use crate::support::{Ca, Demo, DnsServer, Folder, Gateway, H2Client, RawClient, RawUpstream, Script, Signal};

const WISH: &str = "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Pingora's own tunnel ends when the 101 is there before the empty body has been passed on (#946).
#[test]
fn pingora_rule_1_a_101_that_comes_at_once_does_not_end_its_tunnel() {
    let upstream = RawUpstream::start(|_| {
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nglued";
        Script::new().send(head).read_more(4).send("pong").await_close()
    });
    let text = routes(&[upstream.address()], "").replace("path: \"/{*rest}\"", "path: /ws, websocket: true");
    let gateway = Gateway::start(text);
    for turn in 0..300 {
        let mut client = RawClient::connect(gateway.public());
        client.send(WISH);
        assert_eq!(client.read_head().status, 101);
        assert_eq!(client.read_exactly(5), b"glued", "turn {turn}");
        client.send("ping");
        assert_eq!(client.read_exactly(4), b"pong", "turn {turn}");
    }
}

/// More than is waited for before a request goes on.
static LARGE: [u8; 20_000] = [b'b'; 20_000];

/// An HTTP/2 request whose end comes in an empty frame was ended twice for HTTP/1 (#935).
#[test]
fn pingora_rule_2_no_double_terminator() {
    let upstream = RawUpstream::start(|request| Script::ok(request.target()));
    let gateway = in_front_of(&upstream, "");
    let client = H2Client::connect(gateway.public());
    for turn in 0..20 {
        let mut sender = client.sender();
        let echoed = client.run(async {
            let request = HttpRequest::post(format!("http://x/{turn}")).body(()).unwrap();
            let (answer, mut body) = sender.send_request(request, false).unwrap();
            if turn % 2 == 0 {
                body.send_data(Bytes::from_static(&LARGE), false).unwrap();
            }
            body.send_data(Bytes::new(), true).unwrap();
            answer.await.unwrap().into_body().data().await.unwrap().unwrap()
        });
        assert_eq!(&echoed[..], format!("/{turn}").as_bytes(), "the connection is in step");
    }
    for (turn, request) in upstream.requests().iter().enumerate() {
        // It also sees to it that there is one end.
        assert_eq!(body_of(request), if turn % 2 == 0 { &LARGE[..] } else { b"" });
    }
    assert_eq!(upstream.connections(), 1);
    let bytes = upstream.received().remove(0);
    let ends = bytes.windows(7).filter(|it| it == b"\r\n0\r\n\r\n").count();
    assert!((10..=20).contains(&ends), "what is not there with its head is sent in chunks: {ends}");
}

/// Nothing to pass on for a moment is not the end of a body.
#[test]
fn pingora_rule_3_a_pause_in_a_body_is_not_its_end() {
    let upstream = RawUpstream::start(|_| Script::ok("whole"));
    let gateway = in_front_of(&upstream, "");
    let mut client = RawClient::connect(gateway.public());
    client.send("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send(chunk(b"first"));
    upstream.wait_for_received(|it| it.first().is_some_and(|it| it.ends_with(b"first\r\n")));
    client.send(chunk(b"second"));
    upstream.wait_for_received(|it| it[0].ends_with(b"second\r\n"));
    client.send(last_chunk(&[]));
    assert_eq!(client.read_response().text(), "whole");
    let h2 = H2Client::connect(gateway.public());
    let mut sender = h2.sender();
    h2.run(async {
        let (answer, mut body) = sender.send_request(HttpRequest::post("http://x/").body(()).unwrap(), false).unwrap();
        for piece in ["", "first", "", "", "second"] {
            body.send_data(Bytes::from(piece), false).unwrap();
        }
        body.send_data(Bytes::from_static(b""), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    });
    assert!(upstream.requests().iter().all(|it| body_of(it) == b"firstsecond"));
}

/// The library's own buffer for bodies ends at 64 KiB, and the request then hangs.
#[test]
fn pingora_rule_4_a_body_above_64_kib_does_not_hang() {
    let upstream = RawUpstream::start(|_| Script::ok("taken"));
    let gateway = in_front_of(&upstream, "");
    for size in [65_536, 65_537, 200_000] {
        let body = pattern(size);
        assert_eq!(gateway.request("POST", "/", &[], &body).text(), "taken");
        assert_eq!(H2Client::connect(gateway.public()).request("POST", "/", &[], &body, None).text(), "taken");
        // Nor where a local service answers, which does not read it.
        let mut client = RawClient::connect(gateway.public());
        client.send(format!("GET /api/health HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n"));
        client.send(&body);
        assert_eq!(client.read_response().status, 200);
    }
}

/// The library waits for ever by default.
#[test]
fn pingora_rule_5_no_timeout_is_infinite() {
    for name in ["connect", "first_byte", "request", "idle"] {
        let text = routes(&[crate::support::nobody()], &format!("timeouts: {{ {name}: 0s }}"));
        let refused = Gateway::with(text).start_refused();
        assert_eq!(refused.code, 1);
        assert!(refused.stderr.contains("a timeout of zero"), "{}", refused.stderr);
    }
    let silent = RawUpstream::start(|request| match request.target().as_str() {
        "/half" => Script::new().read_body().send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await_close(),
        _ => Script::silence(),
    });
    let gateway = in_front_of(&silent, "timeouts: { first_byte: 200ms }");
    assert_eq!(gateway.get("/").json()["error"]["code"], "upstream_timeout");
    let gateway = in_front_of(&silent, "timeouts: { request: 200ms }");
    assert_eq!(gateway.get("/").json()["error"]["code"], "request_deadline");
    let gateway = in_front_of(&silent, "timeouts: { idle: 200ms }");
    let mut client = RawClient::connect(gateway.public());
    client.send("GET /half HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(client.try_read_response("GET").is_err(), "cut");
    let mut slow = RawClient::connect(gateway.public());
    slow.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12");
    assert_eq!(slow.read_response().status, 408, "a client has no longer than others");
    // Even what the listener takes by its backlog alone.
    let full = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = routes(&[full.local_addr().unwrap()], "timeouts: { connect: 200ms, first_byte: 200ms }");
    assert_eq!(Gateway::start(text).get("/").status, 504);
}

/// Idle connections live for ever by default, and a header may take as long as it likes.
#[test]
fn pingora_rule_6_idle_connections_and_slow_headers_end() {
    let config = crate::support::gateway::CONFIG.replace(
        "{ address: \"127.0.0.1:0\" }\n  admin",
        "{ address: \"127.0.0.1:0\", limits: { keep_alive: 300ms, header_timeout: 300ms } }\n  admin",
    );
    let gateway = Gateway::with("version: 1\nroutes: []\n").config(config).start();
    let mut idle = RawClient::connect(gateway.public());
    idle.send("GET /api/health HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(idle.read_response().status, 200);
    idle.expect_closed();
    let mut slow = RawClient::connect(gateway.public());
    slow.send("GET / HTTP/1.1\r\nx-begun:");
    assert_eq!(slow.read_response().status, 408);
    slow.expect_closed();
    RawClient::connect(gateway.public()).expect_closed();
}

/// Pooled connections are told apart by less than what they were opened for.
#[test]
fn pingora_rule_7_a_connection_is_not_lent_to_an_upstream_that_would_not_have_trusted_it() {
    let (right, wrong, folder) = (Ca::new("right"), Ca::new("wrong"), Folder::new());
    let (right_pem, wrong_pem) = (folder.write("right.pem", right.pem()), folder.write("wrong.pem", wrong.pem()));
    let upstream = RawUpstream::start_tls(&right.leaf(&["up.test"]), &["http/1.1"], |_| Script::ok("secret"));
    let entry = |name: &str, ca: &std::path::Path| {
        let (address, ca) = (upstream.address(), ca.display());
        format!("  {name}: {{ discovery: {{ static: [\"{address}\"] }}, tls: {{ sni: up.test, ca: \"{ca}\" }} }}\n")
    };
    let text = format!(
        "version: 1\nupstreams:\n{}{}routes:\n  - {{ name: a, match: {{ path: /a }}, upstream: trusting }}\n  \
         - {{ name: b, match: {{ path: /b }}, upstream: doubting }}\n",
        entry("trusting", &right_pem),
        entry("doubting", &wrong_pem),
    );
    let gateway = Gateway::with(&text).config(H2C).start();
    for _ in 0..3 {
        assert_eq!(gateway.get("/a").text(), "secret");
        assert_eq!(gateway.get("/b").status, 502, "it must not ride on the other's connection");
    }
    // The same upstream, with other settings after a reload.
    gateway.write_routes(&text.replace("right.pem", "wrong.pem"));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(gateway.get("/a").status, 502, "nor on that of its former self");
}

/// The library would look a name up on the thread that serves, and a failure there is a panic.
#[test]
fn pingora_rule_8_a_name_is_never_looked_up_while_serving() {
    let dns = DnsServer::start();
    let text = "version: 1\nupstreams:\n  up: { discovery: { static: [\"back-end.example:80\"] } }\n\
                routes: [{ name: all, match: { path: \"/{*rest}\" }, upstream: up }]\n";
    let config = format!("{H2C}resolver: {{ servers: [\"{}\"] }}\n", dns.address());
    let gateway = Gateway::with(text).config(config).start();
    let asked = dns.asked("back-end.example");
    assert!(asked > 0, "before anybody is served");
    assert_eq!(gateway.get("/").status, 503);
    assert!(!gateway.log_tail().contains("panicked"), "{}", gateway.log_tail());
}

/// The library closes its listeners at once, sleeps the whole grace and hears nothing meanwhile.
#[test]
fn pingora_rule_9_a_stop_keeps_serving_a_while_and_hears_the_next_signal() {
    let demo = Demo::start("one");
    let config = format!("{H2C}shutdown: {{ delay: 10m, grace: 10m }}\n");
    let mut gateway = Gateway::with(routes(&[demo.address()], "")).config(config).start();
    let mut waiting = RawClient::connect(gateway.public());
    waiting.send("GET /slow?ms=600000 HTTP/1.1\r\nhost: x\r\n\r\n");
    gateway.sigterm();
    gateway.wait_for_event("draining", |_| true);
    assert_eq!(gateway.get("/health").status, 200, "new connections are still served");
    assert_eq!(gateway.admin_get("/api/v1/health/ready").status, 503);
    gateway.sigterm();
    gateway.wait_for_event("stopped_at_once", |_| true);
    assert_eq!(gateway.wait_exit(), 0);
    // And it does not wait for nobody.
    let config = format!("{H2C}shutdown: {{ delay: 1ms, grace: 10m }}\n");
    let mut gateway = Gateway::with(routes(&[demo.address()], "")).config(config).start();
    gateway.sigterm();
    assert_eq!(gateway.wait_exit(), 0);
}

/// What the library refuses by itself passes no filter and no log of its own accord.
#[test]
fn pingora_rule_10_malformed_requests_are_answered_logged_and_counted_like_others() {
    let gateway = Gateway::start("version: 1\nroutes: []\n");
    let cases = [
        ("NONSENSE\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nhost : x\r\n\r\n", 400, "bad_request"),
        ("CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\n\r\n", 405, "method_not_supported"),
    ];
    for (bytes, status, code) in cases {
        let mut client = RawClient::connect(gateway.public());
        client.send(bytes);
        let answer = client.read_response();
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (status, &code.into()), "{bytes:?}");
        assert!(answer.header("x-request-id").is_some() && answer.header("x-content-type-options").is_some());
        let id = answer.json()["error"]["request_id"].as_str().unwrap().to_owned();
        assert_eq!(gateway.access_log_for(&id)["status"], status, "{bytes:?}");
        client.expect_closed();
    }
    let metrics = gateway.admin_get("/metrics").text();
    let counted =
        |code: &str| metrics.lines().any(|it| it.contains(code) && !it.starts_with('#') && !it.ends_with(" 0"));
    assert!(counted("bad_request") && counted("method_not_supported"), "{metrics}");
}

//! WebSockets over HTTP/2 (RFC 8441): an extended CONNECT goes the way of a handshake over HTTP/1.1, to an upstream that
//! knows nothing of HTTP/2.

use std::net::SocketAddr;

use h2::Reason;
use serde_json::json;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::support::gateway::GatewayBuilder;
use crate::support::http1::try_request;
use crate::support::tokens::{SECRET, claims, now, sign_hs256, with};
use crate::support::websocket_http2::frame;
use crate::support::*;

const CONFIG: &str = "listeners:\n  public:\n    - { address: \"127.0.0.1:0\", h2c: true }\n  admin: { address: \"127.0.0.1:0\" }\n\
     threads: 1\nshutdown: { delay: 1ms, grace: 4s }\n\
     tokens: { issuer: moongate, audience: [tta], hs256_secret: \"${PROXY_JWT_SECRET}\", leeway: 0s }\n";

fn builder(endpoint: SocketAddr, settings: &str) -> GatewayBuilder {
    let routes = format!(
        "version: 1\nupstreams:\n  up: {{ discovery: {{ static: [\"{endpoint}\"] }} }}\nroutes:\n  \
         - {{ name: socket, match: {{ path: /ws, websocket: true }}, upstream: up, {settings} }}\n  \
         - {{ name: plain, match: {{ path: \"/plain/{{*rest}}\" }}, upstream: up }}\n  \
         - {{ name: hello, match: {{ path: /hello, websocket: true }}, respond: {{ body: hello }} }}\n"
    );
    Gateway::with(routes).config(CONFIG).env("PROXY_JWT_SECRET", SECRET)
}

fn gateway(endpoint: SocketAddr, settings: &str) -> Gateway {
    builder(endpoint, settings).start()
}

/// The answer of an upstream that has understood.
fn switched(request: &Request) -> String {
    let accept = derive_accept_key(request.header("sec-websocket-key").unwrap_or_default().as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\r\n"
    )
}

/// Shakes hands, sends these bytes, and says no more.
fn saying(bytes: &'static [u8]) -> RawUpstream {
    RawUpstream::start(move |request| Script::new().send(switched(request)).send(bytes).await_close())
}

fn token(changes: serde_json::Value) -> String {
    sign_hs256("{\"alg\":\"HS256\"}", &with(claims("ada", &["user"]), changes).to_string(), SECRET.as_bytes())
}

fn open_connections(gateway: &Gateway) -> serde_json::Value {
    gateway.admin_get("/admin/connections?kind=websocket").json()
}

// ── The handshake ───────────────────────────────────────────────────────────────────────────────

#[test]
fn rfc_8441_5_1_a_websocket_is_echoed_closed_and_logged_like_any_other() {
    let demo = Demo::start("one");
    let gateway = gateway(demo.address(), "");
    let client = H2Client::connect(gateway.public());
    let mut socket = H2Socket::open(&client, "/ws", &[("sec-websocket-protocol", "chat, other")]);
    assert_eq!((socket.status(), socket.header("sec-websocket-protocol")), (200, Some("chat")));
    for name in ["sec-websocket-accept", "upgrade", "connection", "content-length", "transfer-encoding"] {
        assert_eq!(socket.header(name), None, "{name}");
    }
    socket.send_frame(0x81, b"hello");
    assert_eq!(socket.read_exactly(7), b"\x81\x05hello");
    assert_eq!(open_connections(&gateway)["matching"], 1);
    socket.send_frame(0x88, b"\x03\xe8");
    assert_eq!(socket.read_to_end().unwrap(), b"\x88\x02\x03\xe8", "and the stream ends in good order");
    let id = socket.header("x-request-id").unwrap().to_owned();
    let line = gateway.access_log_for(&id);
    assert_eq!(
        (&line["route"], &line["status"], &line["end"], &line["http"], &line["method"]),
        (&"socket".into(), &200.into(), &"done".into(), &"2".into(), &"GET".into()),
        "{line}"
    );
    assert_eq!(line["bytes_sent"], 11, "{line}");
    // Its connection goes on.
    let mut client = client;
    assert_eq!(client.get("/api/health").status, 200);
}

#[test]
fn rfc_8441_5_the_upstream_gets_a_handshake_of_http1_with_a_key_of_ours() {
    let upstream = saying(b"\x81\x02hi");
    let gateway = gateway(upstream.address(), "");
    let client = H2Client::connect(gateway.public());
    for theirs in [&[][..], &[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]] {
        let mut socket = H2Socket::open(&client, "/ws?a=1", theirs);
        assert_eq!((socket.status(), socket.read_exactly(4)), (200, b"\x81\x02hi".to_vec()));
    }
    let heads: Vec<Request> =
        upstream.requests().into_iter().map(|head| Request { head, connection: 0, turn: 0, number: 0 }).collect();
    let keys: Vec<String> = heads.iter().map(|it| it.header("sec-websocket-key").unwrap()).collect();
    assert!(keys[0] != keys[1] && keys.iter().all(|it| it.len() == 24), "{keys:?}");
    for head in heads {
        assert_eq!((head.method(), head.target()), ("GET".to_owned(), "/ws?a=1".to_owned()));
        let said = |name: &str| head.header(name).unwrap_or_default();
        assert_eq!((said("upgrade"), said("connection")), ("websocket".to_owned(), "upgrade".to_owned()));
        assert_eq!(said("sec-websocket-version"), "13");
        assert_eq!(String::from_utf8_lossy(&head.head).to_lowercase().matches("sec-websocket-key").count(), 1);
        assert!(!said("host").is_empty());
    }
}

#[test]
fn rfc_9220_3_other_protocols_are_501_and_connect_itself_stays_refused() {
    let upstream = saying(b"");
    let gateway = gateway(upstream.address(), "");
    let client = H2Client::connect(gateway.public());
    for protocol in ["connect-udp", "connect-ip", "webtransport", "websockets", "h2c"] {
        let mut answer = H2Socket::ask(&client, protocol, "/ws", &[]).unwrap();
        let id = answer.header("x-request-id").unwrap().to_owned();
        assert_eq!(answer.status(), 501, "{protocol}");
        assert_eq!(answer.error()["code"], "protocol_not_supported");
        let line = gateway.access_log_for(&id);
        assert_eq!((&line["error"], &line["end"]), (&"protocol_not_supported".into(), &"refused".into()));
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn rfc_8441_5_routes_that_take_no_websocket_say_so() {
    let upstream = RawUpstream::start(|_| Script::ok("plain"));
    let gateway = gateway(upstream.address(), "");
    let client = H2Client::connect(gateway.public());
    for (path, status, code) in [("/plain/a", 400, "upgrade_not_allowed"), ("/nowhere", 404, "route_not_found")] {
        let mut answer = H2Socket::open(&client, path, &[]);
        assert_eq!((answer.status(), answer.error()["code"].as_str()), (status, Some(code)), "{path}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn rfc_8441_5_an_upstream_that_has_not_understood_begins_no_websocket() {
    let wrong_key = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x01\x02";
    let no_key = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    for answer in [
        wrong_key,
        no_key,
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\u{1}\u{2}hi",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n\u{1}\u{2}hi\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
    ] {
        let upstream = RawUpstream::start(move |_| Script::new().send(answer).await_close());
        let gateway = gateway(upstream.address(), "");
        let client = H2Client::connect(gateway.public());
        let mut socket = H2Socket::open(&client, "/ws", &[]);
        assert_eq!((socket.status(), &socket.error()["code"]), (502, &"upstream_protocol_error".into()), "{answer}");
        upstream.wait_for_closed(1);
        assert_eq!(open_connections(&gateway)["open"], 0);
    }
}

#[test]
fn rfc_8441_5_what_an_upstream_says_instead_is_passed_on() {
    let upstream = RawUpstream::start(|_| Script::answer(403, &[("x-why", "no")], "not you"));
    let gateway = gateway(upstream.address(), "");
    let client = H2Client::connect(gateway.public());
    let mut socket = H2Socket::open(&client, "/ws", &[]);
    assert_eq!((socket.status(), socket.header("x-why")), (403, Some("no")));
    assert_eq!(socket.read_to_end().unwrap(), b"not you");
}

#[test]
fn rfc_8441_5_an_answer_of_the_gateways_own_begins_no_websocket() {
    let gateway = gateway(nobody(), "");
    let client = H2Client::connect(gateway.public());
    let answer = H2Socket::ask(&client, "websocket", "/hello", &[("sec-websocket-version", "13")]);
    assert!(answer.as_ref().is_ok_and(|it| it.status() >= 400) || answer.is_err_and(|it| it.is_reset()));
}

#[test]
fn rfc_8441_5_a_handshake_that_has_a_body_or_ends_its_stream_is_refused() {
    let upstream = saying(b"");
    let gateway = gateway(upstream.address(), "");
    let client = H2Client::connect(gateway.public());
    for (fields, end) in [(&[("content-length", "0")][..], false), (&[("content-length", "5")], false), (&[], true)] {
        let (answer, _sending) = H2Socket::begin(&client, "websocket", "/ws", fields, end);
        assert_eq!(client.run(answer).unwrap().status(), 400, "{fields:?} {end}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn rfc_8441_3_the_setting_is_announced_over_tls_too() {
    let (demo, ca) = (Demo::start("one"), Ca::new("ca"));
    let leaf = ca.leaf(&["a.example"]);
    let config = CONFIG.replace("h2c: true", "tls: { cert: cert.pem, key: key.pem }");
    let builder = builder(demo.address(), "").config(config).file("cert.pem", &leaf.cert).file("key.pem", &leaf.key);
    let gateway = builder.start();
    let client = H2Client::try_connect_tls(gateway.public(), "a.example", ca.client(&["h2"], None)).unwrap();
    let mut socket = H2Socket::open(&client, "/ws", &[]);
    socket.send_frame(0x82, b"\0\x01");
    assert_eq!((socket.status(), socket.read_exactly(4)), (200, b"\x82\x02\0\x01".to_vec()));
}

// ── Who may ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn rfc_8441_a_websocket_needs_its_token_and_ends_when_that_does() {
    let upstream = saying(b"\x81\x02hi");
    let gateway = gateway(upstream.address(), "auth: { jwt: {} }");
    let client = H2Client::connect(gateway.public());
    let mut refused = H2Socket::open(&client, "/ws", &[]);
    assert_eq!((refused.status(), &refused.error()["code"]), (401, &"unauthorized".into()));
    assert_eq!(upstream.connections(), 0);
    let bearer = format!("Bearer {}", token(json!({ "exp": now() + 4 })));
    let mut socket = H2Socket::open(&client, "/ws", &[("authorization", &bearer)]);
    assert_eq!(socket.read_exactly(4), b"\x81\x02hi");
    assert_eq!(open_connections(&gateway)["connections"][0]["principal"]["subject"], "ada");
    assert_eq!(socket.read_to_end().unwrap(), b"\x88\x02\x03\xf0", "1008");
    gateway.wait_for_event("request", |it| it["end"] == "revoked" && it["route"] == "socket");
    upstream.wait_for_closed(1);
}

#[test]
fn rfc_8441_a_page_of_another_origin_opens_no_websocket_with_a_cookie() {
    let upstream = saying(b"\x81\x02hi");
    let gateway = gateway(upstream.address(), "auth: { jwt: {}, from: [{ cookie: session }] }");
    let client = H2Client::connect(gateway.public());
    let cookie = format!("session={}", token(json!({})));
    let own = client.origin().to_owned();
    for (origin, status) in [("https://evil.example", 403), ("null", 403), (own.as_str(), 200)] {
        let socket = H2Socket::open(&client, "/ws", &[("cookie", &cookie), ("origin", origin)]);
        assert_eq!(socket.status(), status, "{origin}");
    }
}

#[test]
fn rfc_8441_an_operator_ends_one() {
    let upstream = saying(b"\x81\x02hi");
    let gateway = gateway(upstream.address(), "");
    let client = H2Client::connect(gateway.public());
    let mut socket = H2Socket::open(&client, "/ws", &[]);
    assert_eq!(socket.read_exactly(4), b"\x81\x02hi");
    let id = open_connections(&gateway)["connections"][0]["id"].as_str().unwrap().to_owned();
    let answer = try_request(gateway.admin(), "DELETE", &format!("/admin/connections/{id}"), &[], b"").unwrap();
    assert_eq!(answer.status, 204);
    assert_eq!(socket.read_to_end().unwrap(), b"\x88\x02\x03\xe9", "1001");
    gateway.wait_for_event("request", |it| it["end"] == "closed");
}

#[test]
fn us_013_a_stop_is_told_and_ends_with_1001() {
    let demo = Demo::start("one");
    let mut gateway = gateway(demo.address(), "websocket: { shutdown_message: true }");
    let client = H2Client::connect(gateway.public());
    let mut socket = H2Socket::open(&client, "/ws", &[]);
    socket.send_frame(0x81, b"hi");
    assert_eq!(socket.read_exactly(4), b"\x81\x02hi");
    gateway.sigterm();
    let bytes = socket.read_to_end().unwrap();
    let said = String::from_utf8_lossy(&bytes);
    assert!(said.contains("{\"type\":\"server_shutting_down\""), "{said}");
    assert!(bytes.ends_with(b"\x88\x02\x03\xe9"), "{}", bytes.escape_ascii());
    gateway.wait_for_event("request", |it| it["end"] == "drained");
    assert_eq!(gateway.wait_exit(), 0);
}

#[test]
fn us_013_a_client_asks_by_a_subprotocol_to_be_told_of_a_stop() {
    let upstream = saying(b"\x81\x02hi");
    let mut gateway = gateway(upstream.address(), "");
    let client = H2Client::connect(gateway.public());
    let mut socket = H2Socket::open(&client, "/ws", &[("sec-websocket-protocol", "a, moongate.shutdown.v1")]);
    assert_eq!(socket.header("sec-websocket-protocol"), Some("moongate.shutdown.v1"));
    assert_eq!(socket.read_exactly(4), b"\x81\x02hi");
    gateway.sigterm();
    let bytes = socket.read_to_end().unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains("server_shutting_down"), "{}", bytes.escape_ascii());
    assert_eq!(gateway.wait_exit(), 0);
}

#[test]
fn rfc_8441_a_client_that_answers_no_ping_is_gone() {
    let upstream = saying(b"");
    let gateway = gateway(upstream.address(), "websocket: { ping: 100ms }");
    let client = H2Client::connect(gateway.public());
    let mut socket = H2Socket::open(&client, "/ws", &[]);
    assert_eq!(socket.read_exactly(2), b"\x89\x00");
    let reset = socket.read_to_end().unwrap_err();
    assert_eq!(reset.reason(), Some(Reason::CANCEL), "a connection that broke, as RFC 8441, section 5, says it");
    gateway.wait_for_event("request", |it| it["end"] == "client_gone");
    upstream.wait_for_closed(1);
}

// ── Ends ────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn rfc_8441_5_a_client_that_ends_or_resets_its_stream_ends_the_upstreams_connection() {
    let upstream = saying(b"\x81\x02hi");
    let gateway = gateway(upstream.address(), "");
    let client = H2Client::connect(gateway.public());
    let mut socket = H2Socket::open(&client, "/ws", &[]);
    assert_eq!(socket.read_exactly(4), b"\x81\x02hi");
    socket.send_frame(0x81, b"last");
    socket.finish();
    assert_eq!(socket.read_to_end().unwrap(), b"", "an end for an end");
    upstream.wait_for_closed(1);
    assert!(upstream.received()[0].ends_with(&frame(0x81, b"last")), "what was sent before has arrived");
    gateway.wait_for_event("request", |it| it["end"] == "done");
    for (count, reason) in [(2, Reason::CANCEL), (3, Reason::INTERNAL_ERROR)] {
        let mut socket = H2Socket::open(&client, "/ws", &[]);
        assert_eq!(socket.read_exactly(4), b"\x81\x02hi");
        socket.reset(reason);
        upstream.wait_for_closed(count);
        eventually("it is logged", || {
            (gateway.events("request").iter().filter(|it| it["end"] == "client_gone").count() == count - 1)
                .then_some(())
        });
    }
    eventually("nothing is left", || (open_connections(&gateway)["open"] == 0).then_some(()));
}

#[test]
fn rfc_8441_5_an_upstream_that_ends_is_an_end_and_one_that_breaks_a_reset() {
    for (broken, end) in [(false, "done"), (true, "truncated")] {
        let go = Signal::new();
        let upstream = {
            let go = go.clone();
            RawUpstream::start(move |request| {
                let script = Script::new().send(switched(request)).send(b"\x81\x02hi").wait(&go);
                if broken { script.reset() } else { script.close() }
            })
        };
        let gateway = gateway(upstream.address(), "");
        let client = H2Client::connect(gateway.public());
        let mut socket = H2Socket::open(&client, "/ws", &[]);
        assert_eq!(socket.read_exactly(4), b"\x81\x02hi");
        go.give();
        let ended = socket.read_to_end();
        assert_eq!(ended.err().and_then(|it| it.reason()), broken.then_some(Reason::CANCEL));
        gateway.wait_for_event("request", |it| it["end"] == end);
    }
}

#[test]
fn rfc_8441_a_client_that_resets_before_the_upstream_has_answered_leaves_nothing() {
    let go = Signal::new();
    let upstream = {
        let go = go.clone();
        RawUpstream::start(move |request| Script::new().wait(&go).send(switched(request)).await_close())
    };
    let gateway = gateway(upstream.address(), "");
    let client = H2Client::connect(gateway.public());
    let (answer, mut sending) = H2Socket::begin(&client, "websocket", "/ws", &[], false);
    upstream.wait_for_requests(1);
    sending.send_reset(Reason::CANCEL);
    assert!(client.run(answer).is_err());
    gateway.wait_for_event("request", |it| it["end"] == "client_gone");
    go.give();
    upstream.wait_for_closed(1);
    assert_eq!(open_connections(&gateway)["open"], 0);
}

// ── Flow ────────────────────────────────────────────────────────────────────────────────────────

/// Its window opens as it reads, and the others on its connection are not held up.
#[test]
fn rfc_8441_a_slow_client_gets_every_byte_and_holds_up_nobody() {
    const MESSAGES: usize = 400;
    let message = vec![b'x'; 20_000];
    let sent: Vec<u8> = (0..MESSAGES).flat_map(|_| [&[0x82, 126, 0x4e, 0x20][..], &message].concat()).collect();
    let upstream = {
        let sent = sent.clone();
        RawUpstream::start(move |request| match request.header("upgrade") {
            Some(_) => Script::new().send(switched(request)).send(&sent).close(),
            None => Script::ok("plain"),
        })
    };
    let gateway = gateway(upstream.address(), "");
    let mut other = H2Client::connect(gateway.public());
    let client = H2Client::connect(gateway.public());
    let mut socket = H2Socket::open(&client, "/ws", &[]);
    assert_eq!(socket.read_exactly(4), [0x82, 126, 0x4e, 0x20]);
    assert_eq!(other.get("/plain/a").text(), "plain");
    let rest = socket.read_to_end().unwrap();
    assert!(rest.len() == sent.len() - 4 && rest == sent[4..], "{} of {}", rest.len(), sent.len() - 4);
}

#[test]
fn rfc_8441_what_a_client_sends_arrives_however_it_is_cut_and_waits_for_an_upstream_that_does_not_read() {
    let go = Signal::new();
    let upstream = {
        let go = go.clone();
        RawUpstream::start(move |request| {
            let script = Script::new().send(switched(request)).wait(&go);
            script.read_more(1_000_014).send(b"\x81\x02hi").await_close()
        })
    };
    let gateway = gateway(upstream.address(), "");
    let client = H2Client::connect(gateway.public());
    let mut socket = H2Socket::open(&client, "/ws", &[]);
    let bytes = frame(0x82, &vec![b'y'; 1_000_000]);
    socket.send(&bytes[..1]);
    socket.send(b""); // a frame of HTTP/2 without a byte is no end
    socket.send(&bytes[1..]);
    go.give();
    assert_eq!(socket.read_exactly(4), b"\x81\x02hi");
    assert!(upstream.received()[0].ends_with(&bytes));
}

/// Streams of one connection count like connections of their own (R10.1).
#[test]
fn rfc_8441_websockets_of_one_connection_are_bounded_and_end_apart() {
    let demo = Demo::start("one");
    let config = CONFIG.replace("h2c: true", "h2c: true, limits: { per_address: 4 }");
    let gateway = builder(demo.address(), "").config(config).start();
    let client = H2Client::connect(gateway.public());
    let mut sockets = Vec::new();
    let refused = loop {
        match H2Socket::ask(&client, "websocket", "/ws", &[("sec-websocket-version", "13"), ("sec-websocket-key", "x")])
        {
            Ok(socket) if sockets.len() < 20 => sockets.push(socket),
            Ok(_) => panic!("there is no bound"),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.reason(), Some(Reason::REFUSED_STREAM));
    assert!(sockets.len() >= 4, "{}", sockets.len());
    sockets.pop().unwrap().reset(Reason::CANCEL);
    for (number, socket) in sockets.iter_mut().enumerate() {
        socket.send_frame(0x81, &[b'a' + number as u8]);
        assert_eq!(socket.read_exactly(3), [0x81, 1, b'a' + number as u8]);
    }
    eventually("a place is free", || {
        let again = H2Socket::ask(&client, "websocket", "/ws", &[("sec-websocket-version", "13")]);
        again.ok().map(|it| assert_eq!(it.status(), 200))
    });
}

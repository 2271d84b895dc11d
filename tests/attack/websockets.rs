//! WebSockets over HTTP/2 (RFC 8441): nothing gets by way of an extended CONNECT where a handshake over HTTP/1.1 would not
//! get, and nobody wears the gateway out with it.

use std::net::SocketAddr;

use h2::Reason;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::stalled::{GOAWAY, HEADERS, RST_STREAM, frame, hello, open_files, read_frame};
use crate::support::http1::try_request;
use crate::support::tokens::{SECRET, claims, sign_hs256, with};
use crate::support::*;

const DATA: u8 = 0;
const END_HEADERS: u8 = 4;
/// `:status: 200` of HPACK's static table, in one byte.
const OK: u8 = 0x88;

type Field<'a> = (&'a [u8], &'a [u8]);

/// A header block in literals, which can say anything.
fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        for text in [name, value] {
            assert!(text.len() < 127, "one byte holds its length");
        }
        out.extend([&[0, name.len() as u8], *name, &[value.len() as u8], *value].concat());
    }
    out
}

const METHOD: Field<'static> = (b":method", b"CONNECT");
const PROTOCOL: Field<'static> = (b":protocol", b"websocket");
const SCHEME: Field<'static> = (b":scheme", b"http");
const PATH: Field<'static> = (b":path", b"/ws");
const AUTHORITY: Field<'static> = (b":authority", b"a.example");
const VERSION: Field<'static> = (b"sec-websocket-version", b"13");
const WHOLE: [Field<'static>; 6] = [METHOD, PROTOCOL, SCHEME, PATH, AUTHORITY, VERSION];

/// Shakes hands with whoever asks, says `hi`, and takes what comes.
fn upstream() -> RawUpstream {
    RawUpstream::start(|request| {
        let accept = derive_accept_key(request.header("sec-websocket-key").unwrap_or_default().as_bytes());
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\r\n"
        );
        Script::new().send(head).send(b"\x81\x02hi").await_close()
    })
}

fn gateway(endpoint: SocketAddr, settings: &str) -> Gateway {
    let routes = format!(
        "version: 1\nroles: {{ user: [\"*\"], admin: [\"*\"] }}\nupstreams:\n  up: {{ discovery: {{ static: [\"{endpoint}\"] }} }}\nroutes:\n  \
         - {{ name: socket, match: {{ path: /ws, websocket: true }}, upstream: up, {settings} }}\n  \
         - {{ name: plain, match: {{ path: \"/plain/{{*rest}}\" }}, upstream: up }}\n"
    );
    let config = "listeners:\n  public:\n    - { address: \"127.0.0.1:0\", h2c: true }\n  admin: { address: \"127.0.0.1:0\" }\n\
         threads: 1\ntokens: { issuer: moongate, audience: [tta], hs256_secret: \"${PROXY_JWT_SECRET}\", leeway: 0s }\n";
    Gateway::with(routes).config(config).env("PROXY_JWT_SECRET", SECRET).start()
}

fn bearer(changes: Value) -> String {
    let claims = with(claims("ada", &["user"]), changes).to_string();
    format!("Bearer {}", sign_hs256("{\"alg\":\"HS256\"}", &claims, SECRET.as_bytes()))
}

/// What comes of a stream: whether it began, or how it ended.
#[derive(Debug, PartialEq)]
enum Outcome {
    Began,
    Refused,
    Reset,
    ConnectionEnded,
}

fn outcome(client: &mut RawClient, stream: u32) -> Outcome {
    while let Some((kind, of, payload)) = read_frame(client) {
        match kind {
            GOAWAY => return Outcome::ConnectionEnded,
            RST_STREAM if of == stream => return Outcome::Reset,
            HEADERS if of == stream && payload.first() == Some(&OK) => return Outcome::Began,
            HEADERS if of == stream => return Outcome::Refused,
            _ => {}
        }
    }
    Outcome::ConnectionEnded
}

/// `WHOLE` with this in the place of the field of the same name.
fn but(field: Field<'static>) -> Vec<Field<'static>> {
    WHOLE.iter().map(|it| if it.0 == field.0 { field } else { *it }).collect()
}

fn and(field: Field<'static>) -> Vec<Field<'static>> {
    [&WHOLE[..], &[field]].concat()
}

fn without(name: &[u8]) -> Vec<Field<'static>> {
    WHOLE.iter().filter(|it| it.0 != name).copied().collect()
}

#[test]
fn rfc_8441_4_pseudo_fields_that_do_not_belong_together_reach_nobody() {
    let (upstream, cases): (_, Vec<(&str, Vec<Field<'static>>)>) = (
        upstream(),
        vec![
            (":protocol on a GET", but((b":method", b"GET"))),
            (":protocol on a POST", but((b":method", b"POST"))),
            ("connect in small letters", but((b":method", b"connect"))),
            ("no :scheme", without(b":scheme")),
            ("no :path", without(b":path")),
            ("no :authority", without(b":authority")),
            ("no :protocol, but a path", without(b":protocol")),
            ("two :protocol", and(PROTOCOL)),
            ("another :protocol behind", and((b":protocol", b"h2c"))),
            (":protocol behind a field", [&without(b":protocol")[..], &[PROTOCOL]].concat()),
            ("an empty :protocol", but((b":protocol", b""))),
            ("a line break in :protocol", but((b":protocol", b"websocket\r\nx-admin: 1"))),
            ("two protocols in one", but((b":protocol", b"websocket, h2c"))),
            ("a blank in :protocol", but((b":protocol", b"websocket "))),
            ("an unknown protocol", but((b":protocol", b"connect-tcp"))),
            ("an unknown pseudo-field", [&[(&b":upgrade"[..], &b"websocket"[..])], &WHOLE[..]].concat()),
            ("a path in two ways", but((b":path", b"/plain/..%2fws"))),
            ("a path that leaves its route", but((b":path", b"/plain/a"))),
            ("a path that is a URI", but((b":path", b"http://b.example/ws"))),
            ("a path that is *", but((b":path", b"*"))),
            ("Connection", and((b"connection", b"upgrade"))),
            ("Upgrade", and((b"upgrade", b"h2c"))),
            ("Transfer-Encoding", and((b"transfer-encoding", b"chunked"))),
            ("another Host", and((b"host", b"b.example"))),
            ("a name in capitals", and((b"X-Admin", b"1"))),
            ("a length", and((b"content-length", b"5"))),
        ],
    );
    let gateway = gateway(upstream.address(), "");
    let mut wrong = Vec::new();
    for (what, fields) in &cases {
        let mut client = hello(gateway.public(), 65_535);
        client.send(frame(HEADERS, END_HEADERS, 1, &block(fields)));
        if outcome(&mut client, 1) == Outcome::Began {
            wrong.push(*what);
        }
    }
    assert!(wrong.is_empty(), "these began: {wrong:?}");
    assert_eq!(upstream.connections(), 0, "and none of them reached anybody");
    let mut client = hello(gateway.public(), 65_535);
    client.send(frame(HEADERS, END_HEADERS, 1, &block(&WHOLE)));
    assert_eq!(outcome(&mut client, 1), Outcome::Began, "what is whole begins");
}

/// Bytes behind a handshake are a WebSocket's when it has begun, and nobody's else.
#[test]
fn rfc_8441_5_what_is_sent_before_the_answer_never_becomes_a_request() {
    let go_on = Signal::new();
    let waits = go_on.clone();
    let upstream = RawUpstream::start(move |request| match request.target().as_str() {
        "/ws" => Script::new().wait(&waits).send("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"),
        _ => Script::ok("another"),
    });
    let gateway = gateway(upstream.address(), "");
    let mut client = hello(gateway.public(), 65_535);
    client.send(frame(HEADERS, END_HEADERS, 1, &block(&WHOLE)));
    client.send(frame(DATA, 0, 1, b"GET /plain/smuggled HTTP/1.1\r\nhost: a.example\r\n\r\n"));
    upstream.wait_for_requests(1);
    go_on.give();
    assert_eq!(outcome(&mut client, 1), Outcome::Refused);
    // Whatever becomes of the upstream's connection, the next request on it is one of a client.
    assert_eq!(gateway.get("/plain/next").text(), "another");
    let targets: Vec<String> = upstream
        .received()
        .iter()
        .flat_map(|it| String::from_utf8_lossy(it).lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|it| it.ends_with(" HTTP/1.1"))
        .collect();
    assert_eq!(targets, ["GET /ws HTTP/1.1", "GET /plain/next HTTP/1.1"]);
}

#[test]
fn rfc_8441_thousands_of_streams_that_are_reset_at_once_leave_nothing() {
    let upstream = upstream();
    let gateway = gateway(upstream.address(), "");
    let before = open_files(&gateway);
    let handshake = block(&WHOLE);
    let cancel = 8_u32.to_be_bytes();
    let mut begun = 0;
    for _ in 0..10 {
        let mut client = hello(gateway.public(), 65_535);
        for number in 0..500_u32 {
            let stream = number * 2 + 1;
            let both =
                [frame(HEADERS, END_HEADERS, stream, &handshake), frame(RST_STREAM, 0, stream, &cancel)].concat();
            if client.try_send(both).is_err() {
                break; // it has been told to stop
            }
            begun += 1;
        }
        // Others are served meanwhile.
        let good = H2Client::connect(gateway.public());
        let mut socket = H2Socket::open(&good, "/ws", &[]);
        assert_eq!((socket.status(), socket.read_exactly(4)), (200, b"\x81\x02hi".to_vec()));
        socket.reset(Reason::CANCEL);
    }
    assert!(begun >= 1_000, "{begun}");
    eventually("nothing is left of them", || {
        let open = gateway.admin_get("/admin/connections").json()["matching"].as_u64();
        (open == Some(0) && open_files(&gateway) <= before + 4).then_some(())
    });
}

/// Each by both versions of HTTP.
fn both(gateway: &Gateway, fields: &[(&str, &str)]) -> [(u16, String); 2] {
    let code = |body: &[u8]| {
        let error: Value = serde_json::from_slice(body).unwrap_or_default();
        error["error"]["code"].as_str().unwrap_or_default().to_owned()
    };
    let by_http1 = match WsClient::try_connect(gateway.public(), "/ws", fields) {
        Ok(_) => (101, String::new()),
        Err(answer) => (answer.status, code(&answer.body)),
    };
    let client = H2Client::connect(gateway.public());
    let mut socket = H2Socket::open(&client, "/ws", fields);
    let by_http2 = match socket.status() {
        200 => (101, String::new()),
        status => (status, code(&socket.read_to_end().unwrap())),
    };
    [by_http1, by_http2]
}

#[test]
fn rfc_8441_who_may_not_over_http1_may_not_over_http2() {
    let upstream = upstream();
    let gateway = gateway(upstream.address(), "auth: { jwt: {}, from: [header, { cookie: session }], roles: [user] }");
    let (good, other, late) = (bearer(json!({})), bearer(json!({ "roles": ["guest"] })), bearer(json!({ "exp": 1 })));
    let cookie = format!("session={}", good.trim_start_matches("Bearer "));
    let own = format!("http://{}", gateway.public());
    let cases: [(&[(&str, &str)], u16); 9] = [
        (&[], 401),
        (&[("authorization", "Bearer nonsense")], 401),
        (&[("authorization", &late)], 401),
        (&[("authorization", &other)], 403),
        (&[("authorization", &good)], 101),
        (&[("cookie", &cookie), ("origin", "https://evil.example")], 403),
        (&[("cookie", &cookie), ("origin", "null")], 403),
        (&[("cookie", &cookie), ("origin", &own)], 101),
        (&[("x-moongate-user", "ada")], 401),
    ];
    for (fields, status) in cases {
        let [by_http1, by_http2] = both(&gateway, fields);
        assert_eq!(by_http1, by_http2, "{fields:?}");
        assert_eq!(by_http1.0, status, "{fields:?}");
    }
}

#[test]
fn rfc_8441_limits_and_ends_of_callers_reach_them() {
    let upstream = upstream();
    let limits = "auth: { jwt: {} }, rate_limits: [{ per: user, requests: 4, every: 1h }]";
    let gateway = gateway(upstream.address(), limits);
    let token = bearer(json!({}));
    let fields: &[(&str, &str)] = &[("authorization", &token)];
    assert_eq!(both(&gateway, fields).map(|it| it.0), [101, 101]);
    let client = H2Client::connect(gateway.public());
    let mut sockets = [H2Socket::open(&client, "/ws", fields), H2Socket::open(&client, "/ws", fields)];
    assert!(sockets.iter().all(|it| it.status() == 200));
    assert_eq!(both(&gateway, fields), [(429, "rate_limited".to_owned()), (429, "rate_limited".to_owned())]);
    // Whoever ends what somebody has open ends these.
    assert!(sockets.iter_mut().all(|it| it.read_exactly(4) == b"\x81\x02hi"));
    let answer = try_request(gateway.admin(), "DELETE", "/admin/connections?principal=ada", &[], b"").unwrap();
    assert_eq!(answer.status, 200);
    assert!(sockets.iter_mut().all(|it| it.read_to_end().unwrap() == b"\x88\x02\x03\xe9"), "1001");
}

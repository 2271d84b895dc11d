//! Connections that last: they are listed, can be ended, and end when what opened them does not count any more.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::accounts::moongate;
use super::support::gateway::GatewayBuilder;
use super::support::http1::{Response, try_request};
use super::support::tokens::{SECRET, claims, now, sign_hs256, with};
use super::support::upstream::{chunk, chunked_head};
use super::support::*;

const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const PASSWORD: &str = "correct horse battery";
const CONFIG: &str = "\nlisteners:\n  public:\n    - { address: \"127.0.0.1:0\", h2c: true }\n  admin: { address: \"127.0.0.1:0\" }\n\
     threads: 1\ntokens: { issuer: moongate, audience: [tta], hs256_secret: \"${PROXY_JWT_SECRET}\", leeway: 0s }\n";

/// Answers for as long as its client stays: events at `/events`, a WebSocket at `/ws`, a call of gRPC, any other body.
fn upstream() -> RawUpstream {
    RawUpstream::start(|request| match &*request.target() {
        "/ws" => Script::new().send(UPGRADED).send(b"\x81\x02hi").await_close(),
        "/half" => Script::new().read_body().send(EVENTS).send(chunk(b"data: ha")).await_close(),
        it if it.starts_with("/events") => {
            Script::new().read_body().send(EVENTS).send(chunk(b"data: 1\n\n")).await_close()
        }
        _ => Script::new().read_body().send(chunked_head(200)).send(chunk(b"more")).await_close(),
    })
}

fn routes(upstream: &RawUpstream) -> String {
    let auth = "auth: { jwt: {}, api_key: {} }";
    format!(
        "version: 1\nupstreams:\n  up: {{ discovery: {{ static: [\"{}\"] }} }}\n  auth: {{ local: auth }}\nroutes:\n  \
         - {{ name: sign-in, match: {{ path: \"/api/v1/auth/{{*rest}}\" }}, upstream: auth }}\n  \
         - {{ name: events, match: {{ path: \"/events\" }}, upstream: up, {auth} }}\n  \
         - {{ name: half, match: {{ path: \"/half\" }}, upstream: up, {auth} }}\n  \
         - {{ name: kept, match: {{ path: \"/events/kept\" }}, upstream: up, sse: {{}}, {auth} }}\n  \
         - {{ name: socket, match: {{ path: \"/ws\", websocket: true }}, upstream: up, {auth} }}\n  \
         - {{ name: body, match: {{ path: \"/body\" }}, upstream: up, {auth} }}\n  \
         - {{ name: open, match: {{ path: \"/events/open\" }}, upstream: up }}\n",
        upstream.address()
    )
}

fn builder(upstream: &RawUpstream) -> GatewayBuilder {
    Gateway::with(routes(upstream)).config(CONFIG).env("PROXY_JWT_SECRET", SECRET)
}

/// A token of `ada`, with changes.
fn token(changes: Value) -> String {
    let claims = with(claims("ada", &["user"]), changes);
    sign_hs256("{\"alg\":\"HS256\",\"typ\":\"JWT\"}", &claims.to_string(), SECRET.as_bytes())
}

/// A stream that has begun.
#[track_caller]
fn open(gateway: &Gateway, path: &str, credential: &str) -> RawClient {
    let mut client = RawClient::connect(gateway.public());
    let upgrade = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let upgrade = if path == "/ws" { upgrade } else { "" };
    client.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {credential}\r\n{upgrade}\r\n"));
    let head = client.read_head();
    assert!([101, 200].contains(&head.status), "{}", String::from_utf8_lossy(&head.raw));
    match path {
        "/ws" => assert_eq!(client.read_exactly(4), b"\x81\x02hi"),
        "/half" => assert_eq!(client.try_read_piece().unwrap().unwrap(), b"data: ha"),
        "/body" => assert_eq!(client.try_read_piece().unwrap().unwrap(), b"more"),
        _ => assert_eq!(client.try_read_piece().unwrap().unwrap(), b"data: 1\n\n"),
    }
    client
}

fn listed(gateway: &Gateway, query: &str) -> Value {
    let answer = gateway.admin_get(&format!("/admin/connections{query}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn delete(gateway: &Gateway, query: &str) -> Response {
    try_request(gateway.admin(), "DELETE", &format!("/admin/connections{query}"), &[], b"").unwrap()
}

/// The event that a stream ends with, which ends whole behind it.
#[track_caller]
fn last_event(client: &mut RawClient) -> (String, Value) {
    let mut text = String::new();
    while let Some(piece) = client.try_read_piece().expect("it ends whole") {
        text += std::str::from_utf8(&piece).unwrap();
    }
    let data = text.lines().find_map(|it| it.strip_prefix("data: ")).unwrap_or_else(|| panic!("{text:?}"));
    assert!(text.contains("\nretry: ") && text.ends_with("\n\n"), "{text:?}");
    (text.lines().next().unwrap().to_owned(), serde_json::from_str(data).unwrap())
}

#[track_caller]
fn ends_revoked(gateway: &Gateway, path: &str, mut client: RawClient) {
    match path {
        "/ws" => assert_eq!(client.read_until_close(), b"\x88\x02\x03\xf0", "1008"),
        "/events" | "/events/kept" => {
            let (name, data) = last_event(&mut client);
            assert_eq!((&*name, &data["error"]["code"]), ("event: error", &"stream_revoked".into()));
        }
        _ => assert!(client.try_read_piece().is_err(), "cut, not ended"),
    }
    gateway.wait_for_event("request", |it| it["end"] == "revoked" && it["path"] == path);
}

const PATHS: [&str; 5] = ["/events", "/events/kept", "/ws", "/body", "/half"];

#[test]
fn what_lasts_is_listed_with_who_has_opened_it_and_plain_requests_are_not() {
    let upstream = upstream();
    let gateway = builder(&upstream).start();
    gateway.get("/api/health");
    assert_eq!(listed(&gateway, ""), json!({ "connections": [], "matching": 0, "open": 0 }));
    let token = token(json!({ "sub": "ada", "jti": "t1", "sid": "s1" }));
    let socket = open(&gateway, "/ws", &token);
    let _events = open(&gateway, "/events", &token);
    let _open = open(&gateway, "/events/open", "nobody-looks");
    let shown = listed(&gateway, "?principal=ada&kind=websocket");
    assert_eq!((&shown["matching"], &shown["open"]), (&1.into(), &3.into()));
    let one = &shown["connections"][0];
    assert_eq!((&one["route"], &one["kind"], &one["upstream"]), (&"socket".into(), &"websocket".into(), &"up".into()));
    let who = &one["principal"];
    assert_eq!((&who["subject"], &who["tenant"]), (&"ada".into(), &"north".into()));
    assert_eq!((&who["token"], &who["session"]), (&"t1".into(), &"s1".into()));
    assert_eq!(one["bytes_sent"], 4);
    let count = |query: &str| listed(&gateway, query)["matching"].as_u64().unwrap();
    assert_eq!((count("?route=events"), count("?token=t1"), count("?tenant=south")), (1, 2, 0));
    assert_eq!(listed(&gateway, "?limit=1")["connections"].as_array().unwrap().len(), 1);
    let series = |route: &str, kind: &str| {
        figure(&gateway, &format!("moongate_long_lived_connections{{kind=\"{kind}\",route=\"{route}\"}}"))
    };
    assert_eq!((series("socket", "websocket"), series("events", "events")), (Some(1.0), Some(1.0)));
    // A body without a length is one that lasts when it has lasted for a second.
    let _body = open(&gateway, "/body", &token);
    eventually("the body is listed", || (count("?kind=body") == 1).then_some(()));
    drop(socket);
    eventually("the socket is gone", || (count("?kind=websocket") == 0).then_some(()));
    assert_eq!(series("socket", "websocket"), Some(0.0));
    for wrong in ["?kind=nothing", "?who=ada", "?limit=x"] {
        assert_eq!(gateway.admin_get(&format!("/admin/connections{wrong}")).status, 400, "{wrong}");
    }
}

#[test]
fn an_operator_ends_one_or_all_of_somebody() {
    let upstream = upstream();
    let gateway = builder(&upstream).start();
    let (ada, bob) = (token(json!({})), token(json!({ "sub": "bob", "jti": "b" })));
    let mut one = open(&gateway, "/events", &ada);
    let mut socket = open(&gateway, "/ws", &ada);
    let _other = open(&gateway, "/events", &bob);
    let id = listed(&gateway, "?route=events&principal=ada")["connections"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(delete(&gateway, &format!("/{id}")).status, 204);
    assert_eq!(last_event(&mut one).1["error"]["code"], "stream_closed");
    assert_eq!(delete(&gateway, "?principal=ada").json(), json!({ "ended": 1 }));
    assert_eq!(socket.read_until_close(), b"\x88\x02\x03\xe9");
    gateway.wait_for_event("request", |it| it["end"] == "closed" && it["route"] == "socket");
    eventually("only the other one is left", || (listed(&gateway, "")["open"] == 1).then_some(()));
    assert_eq!(delete(&gateway, &format!("/{id}")).status, 404);
    assert_eq!(delete(&gateway, "").status, 400, "everything is never meant by saying nothing");
}

#[test]
fn an_expired_token_ends_what_it_has_opened() {
    let upstream = upstream();
    let gateway = builder(&upstream).start();
    let token = token(json!({ "exp": now() + 6 }));
    let opened: Vec<_> = PATHS.iter().map(|path| (path, open(&gateway, path, &token))).collect();
    for (path, client) in opened {
        ends_revoked(&gateway, path, client);
    }
    let series = figure(&gateway, "moongate_exchange_ends_total{end=\"revoked\"}");
    assert_eq!(series, Some(PATHS.len() as f64));
    upstream.wait_for_closed(PATHS.len());
    assert_eq!(gateway.get("/api/health").status, 200);
}

#[test]
fn a_call_of_grpc_hears_that_its_token_does_not_count_any_more() {
    let upstream = upstream();
    let gateway = builder(&upstream).start();
    let token = token(json!({ "exp": now() + 5 }));
    let fields =
        [("content-type", "application/grpc"), ("te", "trailers"), ("authorization", &*format!("Bearer {token}"))];
    let answer = H2Client::connect(gateway.public()).request("POST", "/body", &fields, b"\0\0\0\0\0", None);
    assert_eq!((answer.status, answer.trailer("grpc-status")), (200, Some("16")));
    gateway.wait_for_event("request", |it| it["end"] == "revoked");
}

/// With `ada` among its users.
fn with_ada(builder: GatewayBuilder) -> Gateway {
    builder.folder().write("conf/gateway.yaml", gateway::CONFIG);
    let added = moongate(builder.folder(), &["users", "add", "ada", "--role", "user"], PASSWORD, &[]);
    assert_eq!(added.code, 0, "{}", added.stderr);
    builder.start()
}

fn post(gateway: &Gateway, path: &str, body: &Value, token: &str) -> Response {
    let bearer = format!("Bearer {token}");
    let fields = [("content-type", "application/json"), ("authorization", &*bearer)];
    gateway.request("POST", path, &fields[..if token.is_empty() { 1 } else { 2 }], body.to_string())
}

fn sign_in(gateway: &Gateway) -> String {
    let answer = post(gateway, "/api/v1/auth/login", &json!({ "username": "ada", "password": PASSWORD }), "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

#[test]
fn r4_3_a_sign_out_ends_what_the_token_has_opened_and_nothing_else() {
    let upstream = upstream();
    let gateway = with_ada(builder(&upstream));
    let (token, other) = (sign_in(&gateway), sign_in(&gateway));
    let opened: Vec<_> = PATHS.iter().map(|path| (path, open(&gateway, path, &token))).collect();
    let mut socket = open(&gateway, "/ws", &other);
    eventually("all are listed", || (listed(&gateway, "")["open"] == 6).then_some(()));
    let began = Instant::now();
    assert_eq!(post(&gateway, "/api/v1/auth/logout", &Value::Null, &token).status, 204);
    for (path, client) in opened {
        ends_revoked(&gateway, path, client);
    }
    assert!(began.elapsed() < DEADLINE);
    assert_eq!(listed(&gateway, "")["open"], 1);
    socket.expect_silence(Duration::from_millis(300));
}

#[test]
fn r4_3_a_stream_that_begins_as_its_token_is_revoked_ends_too() {
    // The upstream answers only when the token does not count any more.
    let answer = Signal::new();
    let slow = {
        let answer = answer.clone();
        RawUpstream::start(move |_| {
            Script::new().read_body().wait(&answer).send(EVENTS).send(chunk(b"data: 1\n\n")).await_close()
        })
    };
    let gateway = with_ada(builder(&slow));
    let token = sign_in(&gateway);
    let mut client = RawClient::connect(gateway.public());
    client.send(format!("GET /events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"));
    slow.wait_for_requests(1);
    assert_eq!(post(&gateway, "/api/v1/auth/logout", &Value::Null, &token).status, 204);
    answer.give();
    assert_eq!(client.read_head().status, 200);
    while client.try_read_piece().is_ok_and(|it| it.is_some()) {}
    gateway.wait_for_event("request", |it| it["end"] == "revoked");
}

#[test]
fn an_api_key_that_is_revoked_ends_what_it_has_opened() {
    let upstream = upstream();
    let builder = builder(&upstream);
    builder.folder().write("conf/gateway.yaml", gateway::CONFIG);
    let made = moongate(builder.folder(), &["keys", "api", "billing", "--role", "service"], "", &[]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let key = made.stdout.split_whitespace().find(|it| it.starts_with("mg_")).unwrap().to_owned();
    let gateway = builder.start();
    let socket = open(&gateway, "/ws", &key);
    let id = key.split('_').nth(1).unwrap();
    assert_eq!(listed(&gateway, "?principal=billing")["connections"][0]["principal"]["token"], id);
    let revoked = moongate(gateway.folder(), &["keys", "revoke", id], "", &[]);
    assert_eq!(revoked.code, 0, "{}", revoked.stderr);
    ends_revoked(&gateway, "/ws", socket);
}

#[test]
fn redis_a_sign_out_at_one_gateway_ends_streams_at_another() {
    let (upstream, redis) = (upstream(), Redis::start());
    let shared = format!("{CONFIG}state: {{ redis: {{ url: \"{}\" }} }}\n", redis.url());
    let one = with_ada(builder(&upstream).config(shared.clone()));
    let other = builder(&upstream).config(shared).start();
    let token = sign_in(&one);
    let (events, socket) = (open(&other, "/events", &token), open(&other, "/ws", &token));
    assert_eq!(post(&one, "/api/v1/auth/logout", &Value::Null, &token).status, 204);
    ends_revoked(&other, "/events", events);
    ends_revoked(&other, "/ws", socket);
}

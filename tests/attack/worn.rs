//! Floods and worn-out work: what a client can ask for is bounded before it begins.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::sites::{api_key, moongate};
use crate::support::http1::try_request;
use crate::support::*;

/// Looks that a body of this length may take: to be judged where it arrived, elsewhere, and for its faults.
fn granted(length: usize) -> f64 {
    (10_000 + 50_000 + 20_000 + (8 + 2) * length) as f64
}

fn looks(gateway: &Gateway) -> f64 {
    figure(gateway, "moongate_schema_looks_total").unwrap_or(0.0)
}

/// The most memory that the process has had, in MiB.
fn memory(gateway: &Gateway) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find(|it| it.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

/// A tree whose every level is one of three kinds, as those of documents are, and that nothing fits at its end.
fn variants(keyword: &str) -> Value {
    let variant = |kind: &str| {
        json!({ "type": "object", "required": ["kind", "children"], "properties": {
            "kind": { "const": kind }, "children": { "type": "array", "items": { "$ref": "#/$defs/node" } } } })
    };
    json!({ "$ref": "#/$defs/node", "$defs": { "node": { keyword: [variant("a"), variant("b"), variant("c")] } } })
}

fn nested(depth: usize, level: impl Fn(Value) -> Value, end: Value) -> Value {
    (0..depth).fold(end, |it, _| level(it))
}

/// Distinct lists of nothing but lists: for a hash that sees only what is in them, they are all the same.
fn lists(most: usize) -> Value {
    let mut all = vec![json!([])];
    let mut at = 0;
    while all.len() < most {
        let (one, two) = (json!([all[at].clone()]), json!([[], all[at].clone()]));
        all.extend([one, two]);
        at += 1;
    }
    Value::Array(all)
}

/// Schemas that make more work with each level, or with each byte, than anybody would think; and bodies for them.
fn kinds() -> Vec<(&'static str, Value, String)> {
    let recursive = |more: Value| with_node(more);
    let tree = |depth| nested(depth, |it| json!({ "kind": "x", "children": [it] }), json!(1)).to_string();
    let chain = |depth| nested(depth, |it| json!({ "a": it }), json!({ "z": 1 })).to_string();
    let arrays = |depth| nested(depth, |it| json!([it]), json!("end")).to_string();
    let node = || json!({ "$ref": "#/$defs/node" });
    vec![
        ("oneOf", variants("oneOf"), tree(12)),
        ("anyOf", variants("anyOf"), tree(30)),
        ("allOf", recursive(json!({ "type": "array", "items": { "allOf": [node(), node(), node()] } })), arrays(60)),
        (
            "not",
            recursive(json!({ "not": { "not": { "type": "array", "items": { "allOf": [node(), node()] } } } })),
            arrays(60),
        ),
        ("contains", recursive(json!({ "type": "array", "contains": node(), "items": node() })), arrays(60)),
        (
            "if",
            recursive(json!({ "if": { "properties": { "a": node() } }, "then": { "properties": { "a": node() } },
            "else": { "properties": { "a": node() } }, "type": "object", "required": ["a"] })),
            chain(60),
        ),
        (
            "dependentSchemas",
            recursive(json!({ "type": "object", "required": ["a"], "dependentSchemas": {
            "a": { "allOf": [{ "properties": { "a": node() } }, { "properties": { "a": node() } }] } } })),
            chain(60),
        ),
        (
            "unevaluatedProperties",
            recursive(json!({ "anyOf": [{ "properties": { "a": node() } }, { "properties": { "b": node() } }],
            "unevaluatedProperties": false })),
            chain(60),
        ),
        (
            "unevaluatedItems",
            recursive(
                json!({ "type": "array", "anyOf": [{ "prefixItems": [node()] }, { "prefixItems": [node(), true] }],
            "unevaluatedItems": node() }),
            ),
            arrays(60),
        ),
        ("uniqueItems", json!({ "uniqueItems": true }), lists(6_000).to_string()),
        (
            "uniqueItems, at every level",
            recursive(json!({ "uniqueItems": true, "items": node() })),
            nested(60, |it| json!([it, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]), json!([])).to_string(),
        ),
        (
            "const",
            recursive(
                json!({ "anyOf": [{ "const": nested(60, |it| json!([it]), json!(0)) }, { "items": node() }, { "items": node() }],
            "type": "array" }),
            ),
            arrays(60),
        ),
        (
            "enum",
            json!({ "items": { "enum": (0..4_000).map(|it| json!({ "n": it })).collect::<Vec<_>>() } }),
            format!("[{}]", vec!["{\"n\":-1}"; 9_000].join(",")),
        ),
        (
            "patternProperties",
            json!({ "patternProperties": { "^(x+x+)+y$": false, "^(x|xx)*z": false } }),
            json!({ "x".repeat(60_000): 1 }).to_string(),
        ),
        ("pattern", json!({ "items": { "pattern": "^(a|a?)+$" } }), json!(["a".repeat(60_000) + "!"]).to_string()),
        (
            "propertyNames",
            json!({ "propertyNames": { "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$" } }),
            json!({ "a".repeat(60_000): 1 }).to_string(),
        ),
        ("depth", json!({ "items": true }), arrays(65)),
        (
            "many errors",
            json!({ "items": { "type": "string", "minimum": 5, "enum": ["a"], "const": "b" } }),
            format!("[{}]", vec!["1"; 60_000].join(",")),
        ),
    ]
}

fn with_node(node: Value) -> Value {
    json!({ "$ref": "#/$defs/node", "$defs": { "node": node } })
}

#[test]
fn s2s_38_what_checking_a_body_costs_is_not_for_the_client_to_say() {
    let kinds = kinds();
    let routes: String = (0..kinds.len())
        .map(|it| {
            format!(
                "  - {{ name: r{it}, match: {{ path: /{it} }}, respond: {{}}, schema: {{ request: {it}.json }} }}\n"
            )
        })
        .collect();
    let mut builder = Gateway::with(format!("version: 1\nroutes:\n{routes}"));
    for (number, (_, schema, _)) in kinds.iter().enumerate() {
        builder = builder.file(&format!("{number}.json"), schema.to_string());
    }
    let gateway = builder.start();
    assert_eq!(gateway.get("/0").status, 200);
    let before = memory(&gateway);
    for (number, (kind, _, body)) in kinds.iter().enumerate() {
        let looked = looks(&gateway);
        let headers = [("content-type", "application/json")];
        let answer = gateway.request("POST", &format!("/{number}"), &headers, body);
        assert!([200, 400].contains(&answer.status), "{kind}: {}", answer.text());
        if answer.status == 400 {
            let faults = answer.json()["error"]["details"]["faults"].as_array().unwrap().len();
            assert!((1..=20).contains(&faults), "{kind}: {faults} faults");
        }
        let took = looks(&gateway) - looked;
        assert!(took <= granted(body.len()), "{kind}: {took} looks for {} bytes", body.len());
    }
    let more = memory(&gateway) - before;
    assert!(more < 128, "{more} MiB more");
    assert_eq!(gateway.get("/0").status, 200);
}

#[test]
fn s2s_38_a_body_that_fits_is_taken_however_its_schema_is_written() {
    let node = json!({ "kind": "a", "children": [{ "kind": "b", "children": [] }, { "kind": "c", "children": [] }] });
    let body = nested(12, |it| json!({ "kind": "b", "children": [it] }), node);
    let text = "version: 1\nroutes: [{ name: r, match: { path: /r }, respond: {}, schema: { request: s.json } }]";
    let gateway = Gateway::with(text).file("s.json", variants("oneOf").to_string()).start();
    let answer = gateway.request("POST", "/r", &[("content-type", "application/json")], body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(figure(&gateway, "moongate_schema_checks_total{result=\"fits\"}"), Some(1.0));
}

#[test]
fn patterns_that_take_longer_than_their_text_are_refused_when_the_files_are_read() {
    let text = "version: 1\nroutes: [{ name: r, match: { path: /r }, respond: {}, schema: { request: s.json } }]";
    for schema in [
        json!({ "pattern": "(?=.*x)(a|a?)+$" }),
        json!({ "properties": { "a": { "pattern": "(a+)\\1" } } }),
        json!({ "patternProperties": { "(?<!x)y": true } }),
        json!({ "pattern": "(((a{1,1000}){1,1000}){1,1000})" }),
    ] {
        let refused = Gateway::with(text).file("s.json", schema.to_string()).start_refused();
        assert_eq!(refused.code, 1, "{schema}");
        for word in ["s.json", "pattern", "routes.yaml", "look-around"] {
            assert!(refused.stderr.contains(word), "{word} for {schema}: {}", refused.stderr);
        }
    }
}

const PASSWORD: &str = "correct horse battery";

/// A gateway where ada may sign in, that believes a proxy on this machine about who calls.
fn signing_in() -> Gateway {
    let text = "version: 1\nupstreams: { auth: { local: auth } }\nroutes: [{ name: auth, match: { path: \"/api/v1/auth/{*rest}\" }, upstream: auth }]";
    let config = format!(
        "{}trusted_proxies: [\"127.0.0.0/8\"]\ntokens: {{ hs256_secret: \"${{PROXY_JWT_SECRET}}\" }}\n",
        gateway::CONFIG.trim_start()
    );
    let builder = Gateway::with(text).config(&config).env("PROXY_JWT_SECRET", tokens::SECRET);
    builder.folder().write("gateway.yaml", &config);
    moongate(builder.folder(), &["users", "add", "ada", "--role", "user", "--config", "gateway.yaml"], PASSWORD);
    builder.start()
}

fn sign_in(gateway: SocketAddr, from: &str, name: &str, password: &str) -> u16 {
    let body = json!({ "username": name, "password": password }).to_string();
    let headers = [("content-type", "application/json"), ("x-forwarded-for", from)];
    try_request(gateway, "POST", "/api/v1/auth/login", &headers, body.as_bytes()).map_or(0, |it| it.status)
}

#[test]
fn r4_3_a_flood_of_sign_ins_keeps_no_other_network_out_and_locks_no_owner_out() {
    let gateway = signing_in();
    let address = gateway.public();
    let (over, busy) = (AtomicBool::new(false), AtomicUsize::new(0));
    // More than there are places: without shares, nobody else would get one.
    let cores = std::thread::available_parallelism().unwrap().get();
    std::thread::scope(|scope| {
        for number in 0..cores + 90 {
            let (over, busy) = (&over, &busy);
            scope.spawn(move || {
                let mut attempt = 0;
                while !over.load(Ordering::Relaxed) {
                    attempt += 1;
                    let status =
                        sign_in(address, "203.0.113.7", &format!("nobody-{number}-{attempt}"), "wrong password");
                    assert!([401, 503].contains(&status), "{status}");
                    busy.fetch_add(usize::from(status == 503), Ordering::Relaxed);
                }
            });
        }
        // The flood is on: it has more under way than its share.
        while busy.load(Ordering::Relaxed) < 20 {
            std::thread::yield_now();
        }
        let elsewhere: Vec<u16> = (0..5).map(|_| sign_in(address, "198.51.100.1", "ada", PASSWORD)).collect();
        // Behind the same address she may be told to come again, but nobody counts that against her.
        let beside: Vec<u16> = (0..30).map(|_| sign_in(address, "203.0.113.7", "ada", PASSWORD)).collect();
        over.store(true, Ordering::Relaxed);
        assert_eq!(elsewhere, [200; 5]);
        assert!(beside.iter().all(|it| [200, 503].contains(it)), "{beside:?}");
    });
    assert_eq!(sign_in(address, "203.0.113.7", "ada", PASSWORD), 200);
}

#[test]
fn r4_3_guesses_at_an_account_from_everywhere_keep_its_owner_in() {
    let gateway = signing_in();
    let address = gateway.public();
    assert_eq!(sign_in(address, "198.51.100.1", "ada", PASSWORD), 200);
    let guess = |from: String| sign_in(address, &from, "ada", "wrong password");
    let mut places = (0..).map(|it| format!("203.{}.{}.7", it / 250, it % 250));
    let stopped_after = places.by_ref().position(|it| guess(it) == 429).unwrap();
    assert!((100..200).contains(&stopped_after), "{stopped_after}");
    eventually("a new place has to wait, though the password is right", || {
        (guess(places.next()?) == 429 && sign_in(address, "192.0.2.200", "ada", PASSWORD) == 429).then_some(())
    });
    assert_eq!(sign_in(address, "198.51.100.1", "ada", PASSWORD), 200, "where she signed in before she still does");
}

#[test]
fn r7_2_api_keys_that_are_made_up_drive_out_none_that_is_good() {
    let text = "version: 1\nroutes: [{ name: r, match: { path: /r }, respond: {}, auth: { api_key: {} } }]";
    let config = format!("{}tokens: {{ records_life: 1h }}\n", gateway::CONFIG.trim_start());
    let builder = Gateway::with(text).config(&config);
    builder.folder().write("gateway.yaml", &config);
    let good = api_key(builder.folder(), "good", &["--role", "user"]);
    let gateway = builder.start();
    let ask = |key: &str| gateway.request("GET", "/r", &[("x-api-key", key)], b"").status;
    assert_eq!((ask(&good), ask(&good)), (200, 200));
    let looked_up = || figure(&gateway, "moongate_api_key_looks_total{from=\"looked_up\"}").unwrap();
    let before = looked_up();
    const FLOOD: usize = 24_000;
    std::thread::scope(|scope| {
        for part in 0..8 {
            let public = gateway.public();
            scope.spawn(move || {
                let mut client = RawClient::connect(public);
                for batch in 0..FLOOD / 8 / 100 {
                    let key = |it| format!("mg_{part:04x}{batch:06x}{it:06x}_{}", "0".repeat(64));
                    let one = |it| format!("GET /r HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\n\r\n", key(it));
                    client.send((0..100).map(one).collect::<String>());
                    (0..100).for_each(|_| assert_eq!(client.read_response().status, 401));
                }
            });
        }
    });
    let asked = looked_up() - before;
    assert!(asked >= FLOOD as f64, "every one was new: {asked}");
    assert_eq!(ask(&good), 200);
    assert_eq!(looked_up() - before, asked, "the good one was remembered all the while");
}

#[test]
fn half_sent_heads_wear_the_admin_listener_out_no_more_than_a_public_one() {
    let config = "listeners:\n  public: [{ address: \"127.0.0.1:0\" }]\n  admin: { address: \"127.0.0.1:0\", connections: 8, header_timeout: 1s }\n";
    let gateway = Gateway::with("{ version: 1, routes: [] }").config(config).start();
    let mut half: Vec<RawClient> = (0..8).map(|_| RawClient::connect(gateway.admin())).collect();
    half.iter_mut().for_each(|it| it.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n"));
    // The ninth finds no place, and the public side does not notice.
    let mut ninth = RawClient::connect(gateway.admin());
    ninth.expect_closed();
    assert_eq!(gateway.get("/api/health").status, 200);
    for mut client in half {
        let answer = client.read_response();
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (408, &json!("request_timeout")));
        client.expect_closed();
    }
    eventually("the places are given back", || {
        try_request(gateway.admin(), "GET", "/metrics", &[], b"").ok().filter(|it| it.status == 200)
    });
    let refused = figure(&gateway, "moongate_connections_refused_total{listener=\"admin\",reason=\"connections\"}");
    assert!(refused.is_some_and(|it| it >= 1.0), "{refused:?}");
}

// ── What is kept for idempotent requests ────────────────────────────────────────────────────────

const PATIENT: &str = "timeouts: { first_byte: 10m, request: 20m, idle: 20m }";

/// A gateway with little room in its memory, that believes a proxy on this machine about who calls.
fn little_room(upstream: &RawUpstream) -> Gateway {
    let text = format!(
        "version: 1\nupstreams:\n  up: {{ discovery: {{ static: [\"{}\"] }} }}\n  auth: {{ local: auth }}\nroutes:\n  - \
         {{ name: token, match: {{ path: /api/v1/session/token }}, upstream: auth }}\n  - {{ name: orders, match: {{ path: \
         \"/orders/{{*rest}}\" }}, upstream: up, idempotency: {{}}, {PATIENT} }}\n",
        upstream.address()
    );
    let config = format!(
        "{}trusted_proxies: [\"127.0.0.0/8\"]\ntokens: {{ hs256_secret: \"${{PROXY_JWT_SECRET}}\" }}\nstate: {{ memory: {{ \
         bytes_max: 1MiB }} }}\n",
        gateway::CONFIG.trim_start()
    );
    Gateway::with(text).config(config).env("PROXY_JWT_SECRET", tokens::SECRET).start()
}

fn order(gateway: SocketAddr, from: &str, path: &str, key: &str) -> Response {
    let headers = [("x-forwarded-for", from), ("idempotency-key", key)];
    try_request(gateway, "POST", path, &headers, b"{}").unwrap()
}

/// Sends what is kept until the first is refused; how many were done before it.
fn fill(gateway: SocketAddr, from: &str) -> usize {
    let refused = |it: &usize| {
        let answer = order(gateway, from, "/orders/large", &format!("{from}-{it}"));
        assert!([200, 503].contains(&answer.status), "{}", answer.text());
        if answer.status == 503 {
            assert_eq!(answer.json()["error"]["code"], "idempotency_full");
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
        answer.status == 503
    };
    (0..2_000).find(refused).expect("there is a bound")
}

#[test]
fn s2s_13_what_strangers_have_kept_makes_nobodys_request_run_twice() {
    let go_on = Signal::new();
    let upstream = RawUpstream::start({
        let go_on = go_on.clone();
        move |it| match it.target().as_str() {
            "/orders/huge" => Script::new().read_body().send(upstream::answer_bytes(200, &[], &[b'x'; 1_000_000])),
            "/orders/large" => Script::new().read_body().send(upstream::answer_bytes(200, &[], &[b'x'; 20_000])),
            "/orders/slow" => {
                Script::new().read_body().wait(&go_on).send(upstream::answer_bytes(200, &[], &[b'x'; 1_500]))
            }
            _ => Script::new().read_body().send(upstream::answer_bytes(200, &[], b"done")),
        }
    });
    let gateway = little_room(&upstream);
    let public = gateway.public();
    let done = |path: &str| upstream.requests().iter().filter(|it| it.starts_with(path.as_bytes())).count();

    // More than the share of one network is not kept, and not done again.
    assert_eq!(order(public, "203.0.113.1", "/orders/huge", "huge").status, 200);
    let again = order(public, "203.0.113.1", "/orders/huge", "huge");
    assert_eq!((again.status, &again.json()["error"]["code"]), (409, &json!("idempotency_not_kept")));
    assert_eq!(done("POST /orders/huge"), 1);

    // One network fills its share, and others notice nothing.
    let first = std::thread::spawn(move || order(public, "198.51.100.1", "/orders/slow", "slow").status);
    eventually("the slow one is under way", || (done("POST /orders/slow") == 1).then_some(()));
    assert!(fill(public, "203.0.113.1") > 0);
    let replayed = |it: &Response| (it.status, it.header("idempotency-replayed").is_some());
    assert_eq!(replayed(&order(public, "198.51.100.1", "/orders/small", "small")), (200, false));
    assert_eq!(replayed(&order(public, "198.51.100.1", "/orders/small", "small")), (200, true));

    // Many networks fill everything. Then what was under way is done once all the same.
    let filled = (2..100).find(|it| fill(public, &format!("203.0.113.{it}")) == 0);
    assert!(filled.is_some(), "all of them together have a bound");
    go_on.give();
    assert_eq!(first.join().unwrap(), 200);
    for _ in 0..3 {
        let again = order(public, "198.51.100.1", "/orders/slow", "slow");
        assert_eq!((again.status, &again.json()["error"]["code"]), (409, &json!("idempotency_not_kept")));
    }
    assert_eq!(done("POST /orders/slow"), 1);
    assert_eq!(replayed(&order(public, "198.51.100.1", "/orders/small", "small")), (200, true));

    // Nonces have a room of their own.
    let body = json!({ "clientId": "a", "nonce": "3f0c9a1e-5b7d-4c22-86aa-10f4be9d7c55" }).to_string();
    let headers = [("content-type", "application/json"), ("x-client-version", "1.0.0")];
    let token = gateway.request("POST", "/api/v1/session/token", &headers, body);
    assert_eq!(token.status, 200, "{}", token.text());
    let full = |room: &str| figure(&gateway, &format!("moongate_state_full_total{{room=\"{room}\"}}")).unwrap();
    assert!(full("network") > 0.0 && full("idempotency") > 0.0);
    assert_eq!(full("other"), 0.0);
    assert!(figure(&gateway, "moongate_idempotency_unkept_total").unwrap() >= 2.0);
}

#[test]
fn s2s_13_requests_that_go_on_without_their_clients_have_a_bound() {
    const OF_ONE_NETWORK: usize = 64;
    let go_on = Signal::new();
    let upstream = RawUpstream::start({
        let go_on = go_on.clone();
        move |_| Script::new().read_body().wait(&go_on).send(upstream::answer_bytes(200, &[], b"done"))
    });
    let gateway = little_room(&upstream);
    let public = gateway.public();
    let orphans = || figure(&gateway, "moongate_idempotency_orphans").unwrap_or(0.0);
    for number in 0..OF_ONE_NETWORK {
        let key = format!("left-{number}");
        let headers = [("x-forwarded-for", "203.0.113.1"), ("idempotency-key", &key)];
        let mut client = RawClient::connect(public);
        client.send(http1::request_bytes(public, "POST", "/orders/x", &headers, b"{}"));
        upstream.wait_for_requests(number + 1);
        client.reset();
        eventually("its client has left", || (orphans() == (number + 1) as f64).then_some(()));
    }
    let refused = order(public, "203.0.113.1", "/orders/x", "one-more");
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("idempotency_full")));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(figure(&gateway, "moongate_idempotency_orphans_refused_total"), Some(1.0));
    assert_eq!(upstream.requests().len(), OF_ONE_NETWORK, "the one more was not forwarded");

    let elsewhere = std::thread::spawn(move || order(public, "198.51.100.1", "/orders/x", "mine").status);
    upstream.wait_for_requests(OF_ONE_NETWORK + 1);
    go_on.give();
    assert_eq!(elsewhere.join().unwrap(), 200, "another network does not notice");
    eventually("all of them have ended", || (orphans() == 0.0).then_some(()));
    assert_eq!(order(public, "203.0.113.1", "/orders/x", "one-more").status, 200);
    let kept = order(public, "203.0.113.1", "/orders/x", "left-0");
    assert_eq!((kept.status, kept.header("idempotency-replayed")), (200, Some("true")));
    assert_eq!(upstream.requests().len(), OF_ONE_NETWORK + 2, "each was done once");
}

#[test]
fn s2s_13_another_part_or_another_condition_is_another_request() {
    let upstream = RawUpstream::start(|_| Script::new().read_body().send(upstream::answer_bytes(200, &[], b"done")));
    let gateway = little_room(&upstream);
    let put = |key: &str, field: (&str, &str)| {
        let answer = gateway.request("PUT", "/orders/x", &[("idempotency-key", key), field], "{}");
        (answer.status, answer.header("idempotency-replayed").is_some())
    };
    for (field, one, other) in [
        ("content-range", "bytes 0-1/4", "bytes 2-3/4"),
        ("if-match", "\"1\"", "\"2\""),
        ("if-none-match", "*", "\"1\""),
        ("if-unmodified-since", "Sat, 01 Jan 2000 00:00:00 GMT", "Sun, 02 Jan 2000 00:00:00 GMT"),
        ("upload-offset", "0", "2"),
        ("soapaction", "add", "remove"),
    ] {
        let before = upstream.requests().len();
        assert_eq!(put(field, (field, one)), (200, false), "{field}");
        assert_eq!(put(field, (field, one)), (200, true), "{field}");
        assert_eq!(put(field, (field, other)), (422, false), "{field}");
        assert_eq!(upstream.requests().len(), before + 1, "{field}");
    }
}

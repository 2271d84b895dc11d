//! Claims of identity and of the way here, by every spelling: nobody but a trusted proxy is believed.

use http::Request as HttpRequest;
use serde_json::Value;

use crate::support::gateway::CONFIG;
use crate::support::tokens::{SECRET, token};
use crate::support::upstream::{answer_bytes, chunk};
use crate::support::*;

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Both kinds of plain-text HTTP, a secret for tokens, and whatever is said besides.
fn config(more: &str) -> String {
    format!(
        "listeners: {{ public: [{{ address: \"127.0.0.1:0\", h2c: true }}], admin: {{ address: \"127.0.0.1:0\" }} }}\n\
         tokens: {{ issuer: moongate, audience: [tta], hs256_secret: \"${{PROXY_JWT_SECRET}}\" }}\n{more}\n"
    )
}

const TRUSTED: &str = "trusted_proxies: [127.0.0.0/8]";

fn start(routes: &str, upstream: &RawUpstream, more: &str) -> Gateway {
    let address = upstream.address();
    let head = format!(
        "version: 1\nupstreams:\n  up: {{ discovery: {{ static: [\"{address}\"] }} }}\n  \
         echo: {{ local: echo, settings: {{ upstream: up }} }}\n"
    );
    Gateway::with(head + routes).config(config(more)).env("PROXY_JWT_SECRET", SECRET).start()
}

/// The head of the last request that arrived, as text in small letters.
fn last_seen(upstream: &RawUpstream) -> String {
    String::from_utf8_lossy(upstream.requests().last().unwrap()).to_ascii_lowercase()
}

/// Whether a head has this field, in this very line.
#[track_caller]
fn has(head: &str, line: &str) {
    assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} is not in {head}");
}

// ── What the gateway says can't be taken away ───────────────────────────────────────────────────

/// The routes stand for all ways that a request may take.
const WAYS: &str = "
routes:
  - { name: plain, match: { path: \"/plain/{*rest}\" }, upstream: up, auth: { jwt: {} } }
  - { name: edits, match: { path: \"/edits/{*rest}\" }, upstream: up, auth: { jwt: {} }, rewrite: { headers: { set: { x-added: \"yes\" } } } }
  - { name: moved, match: { path: \"/moved/{*rest}\" }, upstream: up, auth: { jwt: {} }, rewrite: { path: \"/x/{rest}\", host: inner.example } }
  - { name: once, match: { path: /once }, upstream: up, auth: { jwt: {} }, idempotency: {}, rewrite: { headers: { set: { x-added: \"yes\" } } } }
  - { name: kept, match: { path: \"/kept/{*rest}\" }, upstream: up, auth: { jwt: {} }, cache: { ttl: 1h, per: user }, rewrite: { headers: { set: { x-added: \"yes\" } } } }
  - { name: local, match: { path: /local }, upstream: echo, auth: { jwt: {} }, rewrite: { headers: { set: { x-added: \"yes\" } } } }
  - { name: ws, match: { path: /ws, websocket: true }, upstream: up, auth: { jwt: {} }, rewrite: { headers: { set: { x-added: \"yes\" } } } }
";

const NAMED: &str = "X-Moongate-Subject, X-Moongate-Roles, X-Moongate-Auth-Method, X-Added, X-Mine, X.Moongate.Tenant";

#[test]
fn r4_2_what_a_clients_connection_names_takes_nothing_of_the_gateways_away_on_any_way() {
    let upstream = RawUpstream::start(|request| match request.header("upgrade") {
        Some(_) => Script::new().send(SWITCHED).await_close(),
        None => Script::ok("fine"),
    });
    let gateway = start(WAYS, &upstream, "");
    let bearer = format!("authorization: Bearer {}", token("ada", &["player"]));
    let chunked = format!("transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", String::from_utf8_lossy(&chunk(b"hi")));
    let large = format!("content-length: 100000\r\n\r\n{}", "x".repeat(100_000));
    let socket =
        "upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let plain = "\r\n";
    for (way, request, connection, rest, adds) in [
        ("a plain request", "GET /plain/a", "", plain, false),
        ("header edits", "GET /edits/a", "", plain, true),
        ("another path and host", "GET /moved/a", "", plain, false),
        ("an idempotent request", "POST /once", "", "idempotency-key: k1\r\ncontent-length: 2\r\n\r\nhi", true),
        ("an idempotent request in chunks", "POST /once", "", &format!("idempotency-key: k2\r\n{chunked}"), true),
        ("a cached response", "GET /kept/a", "", plain, true),
        ("a body in chunks", "POST /edits/a", "", &chunked, true),
        ("a local service", "GET /local", "", plain, true),
        ("a large body", "POST /edits/b", "", &large, true),
        ("an expectation", "POST /edits/c", "", "expect: 100-continue\r\ncontent-length: 2\r\n\r\nhi", true),
        ("a WebSocket", "GET /ws", "Upgrade, ", socket, true),
    ] {
        let before = upstream.requests().len();
        let mut client = RawClient::connect(gateway.public());
        client.send(format!(
            "{request} HTTP/1.1\r\nhost: x\r\n{bearer}\r\nconnection: {connection}{NAMED}\r\nx-mine: 1\r\nx-moongate-subject: eve\r\n{rest}"
        ));
        let mut status = client.read_head().status;
        if status == 100 {
            status = client.read_head().status;
        }
        assert!([200, 101].contains(&status), "{way}: {status}");
        upstream.wait_for_requests(before + 1);
        let seen = last_seen(&upstream);
        for line in ["x-moongate-subject: ada", "x-moongate-roles: player", "x-moongate-tenant: north"] {
            has(&seen, line);
        }
        if adds {
            has(&seen, "x-added: yes");
        }
        assert!(!seen.contains("x-mine") && !seen.contains("eve"), "{way}: {seen}");
    }
}

#[test]
fn rfc_9110_7_6_1_a_cached_response_is_that_of_the_request_which_the_upstream_got() {
    let upstream = RawUpstream::start(|request| {
        let lang = request.header("x-lang").unwrap_or_else(|| "none".to_owned());
        Script::answer(200, &[("vary", "x-lang"), ("cache-control", "max-age=60")], lang)
    });
    let routes = "routes: [{ name: all, match: { path: \"/{*rest}\" }, upstream: up, cache: {} }]";
    let gateway = start(routes, &upstream, "");
    let ask = |fields: &[(&str, &str)]| gateway.request("GET", "/a", fields, "").text();
    assert_eq!(ask(&[("connection", "close, X-Lang"), ("x-lang", "de")]), "none");
    assert_eq!(ask(&[("x-lang", "de")]), "de");
    assert_eq!(ask(&[("x-lang", "de")]), "de");
    assert_eq!(ask(&[]), "none");
    assert_eq!(upstream.requests().len(), 2);
}

// ── What nobody may put in ──────────────────────────────────────────────────────────────────────

/// Names that upstreams believe, of which each stands for a family.
const CLAIMS: [&str; 68] = [
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Scheme",
    "X-Forwarded-Ssl",
    "X-Forwarded-Server",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Access-Token",
    "X-Forwarded-Client-Cert",
    "X-Forwarded-Tls-Client-Cert",
    "X-Forwarded-Uri",
    "X-Forwarded-Method",
    "Forwarded",
    "X-Real-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Original-URL",
    "X-Original-Host",
    "X-Rewrite-URL",
    "X-Override-URL",
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "X-Host",
    "X-Scheme",
    "X-Script-Name",
    "Remote-User",
    "X-Remote-User",
    "X-Auth-Request-Email",
    "X-WebAuth-User",
    "X-Authenticated-User",
    "X-Consumer-Username",
    "SSL-Client-Cert",
    "X-SSL-Client-Verify",
    "Client-Cert",
    "X-Middleware-Subrequest",
    "Proxy",
    "WL-Proxy-Client-IP",
    "WL-Proxy-Client-Cert",
    "Proxy-Client-IP",
    "SM_USER",
    "SM-Universalid",
    "iv-user",
    "iv-groups",
    "OAM_REMOTE_USER",
    "OIDC_CLAIM_sub",
    "OIDC-Claim-Email",
    "Shib-Session-ID",
    "MELLON_uid",
    "eppn",
    "X-Credential-Identifier",
    "X-Vouch-User",
    "Tailscale-User-Login",
    "X-Jwt-Sub",
    "X-Auth-User",
    "X-Auth-Username",
    "X-Forward-For",
    "HTTP_X_FORWARDED_FOR",
    "X-Cert-Subject",
    "Akamai-Client-IP",
    "Incap-Client-IP",
];

/// As it is, and as servers could read it that fold names.
fn spellings(name: &str) -> Vec<String> {
    let mut spellings = vec![name.to_owned(), name.to_ascii_uppercase()];
    if name.contains('-') {
        spellings.extend(['_', '.', '~', '!', '|'].map(|it| name.replace('-', &it.to_string())));
        spellings.push(name.replacen('-', "_", 1));
    }
    spellings
}

#[test]
fn r4_2_fields_that_nobody_vouches_for_reach_no_upstream_in_any_spelling_over_either_version() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let routes = "routes: [{ name: all, match: { path: \"/{*rest}\" }, upstream: up }]";
    let gateway = start(routes, &upstream, "");
    let mut http2 = H2Client::connect(gateway.public());
    let own = ["X-Moongate-Subject", "X-Moongate-Roles", "X-Moongate-Anything"];
    for name in CLAIMS.iter().chain(&own).flat_map(|it| spellings(it)) {
        let small = name.to_ascii_lowercase();
        assert_eq!(gateway.request("GET", "/a", &[(&name, "evil"), ("x-ordinary", "stays")], "").status, 200, "{name}");
        has(&last_seen(&upstream), "x-ordinary: stays");
        assert!(!last_seen(&upstream).contains("evil"), "{name}: {}", last_seen(&upstream));
        assert_eq!(http2.request("GET", "/a", &[(&small, "evil")], b"", None).status, 200, "{name}");
        assert!(!last_seen(&upstream).contains("evil"), "{name} over HTTP/2: {}", last_seen(&upstream));
    }
}

#[test]
fn r4_2_trailers_claim_nothing_either() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let routes = "routes: [{ name: all, match: { path: \"/{*rest}\" }, upstream: up }]";
    let gateway = start(routes, &upstream, "");
    for name in CLAIMS.iter().chain(&["X-Moongate-Subject"]).flat_map(|it| spellings(it)) {
        let mut client = RawClient::connect(gateway.public());
        client.send(format!(
            "POST /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{name}: evil\r\nx-sum: 1\r\n\r\n"
        ));
        assert_eq!(client.read_response().status, 200, "{name}");
    }
    let received = String::from_utf8_lossy(&upstream.received().concat()).into_owned();
    assert!(received.contains("x-sum: 1") && !received.contains("evil"), "{received}");
}

#[test]
fn r4_2_what_an_operator_sets_has_no_second_spelling_of_a_clients() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let routes = "routes: [{ name: all, match: { path: \"/{*rest}\" }, upstream: up, \
                  rewrite: { headers: { set: { x-tenant: north }, remove: [x-debug] } } }]";
    let gateway = start(routes, &upstream, "");
    for name in ["X-Tenant", "X_Tenant", "X.Tenant", "X-Debug", "x_debug", "X~Debug"] {
        gateway.request("GET", "/a", &[(name, "evil")], "");
        has(&last_seen(&upstream), "x-tenant: north");
        assert!(!last_seen(&upstream).contains("evil"), "{name}: {}", last_seen(&upstream));
    }
}

#[test]
fn trailers_undo_nothing_that_a_route_sets_or_removes_and_show_no_credentials() {
    let upstream = RawUpstream::start(|_| Script::new().read_body().send(answer_bytes(200, &[], b"fine")));
    let routes = "routes: [{ name: all, match: { path: \"/{*rest}\" }, upstream: up, \
                  rewrite: { headers: { set: { x-level: low }, add: { x-more: a }, remove: [x-debug] } } }]";
    let gateway = start(routes, &upstream, "");
    let names = ["X-Level", "X_Level", "x.level", "X-More", "X-Debug", "X_Debug", "x_api_key", "X-User-Id", "X-Pin"];
    let more = ["content_type", "Content-Language", "if_match", "transfer.encoding", "SM_USER", "x_request_id"];
    let lines: String = names.iter().chain(&more).map(|it| format!("{it}: evil\r\n")).collect();
    let mut client = RawClient::connect(gateway.public());
    client.send(format!(
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{lines}x-sum: 1\r\n\r\n"
    ));
    assert_eq!(client.read_response().status, 200);
    let small: Vec<String> = names.iter().chain(&more).map(|it| it.to_ascii_lowercase()).collect();
    let mut trailers: Vec<(&str, &str)> = small.iter().map(|it| (it.as_str(), "evil")).collect();
    trailers.push(("x-two", "1"));
    assert_eq!(H2Client::connect(gateway.public()).request("POST", "/a", &[], b"hi", Some(&trailers)).status, 200);
    let seen = String::from_utf8_lossy(&upstream.received().concat()).to_ascii_lowercase();
    assert!(
        seen.contains("x-sum: 1")
            && seen.contains("x-two: 1")
            && seen.contains("x-level: low")
            && !seen.contains("evil"),
        "{seen}"
    );
}

#[test]
fn trailers_of_answers_undo_nothing_that_a_route_says_of_them() {
    let trailers = "X-Level: evil\r\nx_level: evil\r\nX-Debug: evil\r\nx-auth-user: evil\r\ncontent_type: evil\r\nx-sum: 1\r\n\
         x-account-plan: mine\r\n";
    let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{trailers}\r\n");
    let upstream = RawUpstream::start(move |_| Script::new().send(&answer));
    let routes = "routes: [{ name: all, match: { path: \"/{*rest}\" }, upstream: up, \
                  headers: { set: { x-level: low }, remove: [x-debug] } }]";
    let gateway = start(routes, &upstream, "");
    let mut client = RawClient::connect(gateway.public());
    client.send("GET /a HTTP/1.1\r\nhost: x\r\nte: trailers\r\nconnection: close, te\r\n\r\n");
    let seen = String::from_utf8_lossy(&client.read_until_close()).to_ascii_lowercase();
    let answer = H2Client::connect(gateway.public()).get("/a");
    assert_eq!((answer.header("x-level"), answer.trailer("x-sum")), (Some("low"), Some("1")), "{answer:?}");
    assert_eq!(answer.trailer("x-account-plan"), Some("mine"), "an answer's words prove nobody: {answer:?}");
    assert!(!format!("{answer:?}").contains("evil"), "{answer:?}");
    assert!(seen.contains("x-sum: 1") && seen.contains("x-level: low") && !seen.contains("evil"), "{seen}");
}

#[test]
fn echo_shows_nothing_that_the_environment_brings_whatever_it_is_called() {
    let routes = "version: 1\nupstreams: { e: { local: echo } }\nroutes:\n  - { name: all, match: { path: \"/{*rest}\" }, \
                  upstream: e, rewrite: { headers: { set: { X-Partner: \"${HUNT}\", x-plain: shown }, \
                  add: { x-pw: \"a ${HUNT}\" } } } }\n";
    let gateway =
        Gateway::with(routes).config(config("")).env("PROXY_JWT_SECRET", SECRET).env("HUNT", "hunter2").start();
    let seen = gateway.request("GET", "/a", &[("x-mine", "mine")], "");
    let fields = &seen.json()["headers"];
    assert!(!seen.text().contains("hunter2"), "{}", seen.text());
    for (name, value) in [("x-partner", "(hidden)"), ("x-pw", "(hidden)"), ("x-plain", "shown"), ("x-mine", "mine")] {
        assert_eq!(fields[name][0], value, "{fields}");
    }
}

#[test]
fn trusted_proxies_say_what_others_may_not_and_operators_extend_the_list() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let routes = "routes: [{ name: all, match: { path: \"/{*rest}\" }, upstream: up }]";
    let fields = "trusted_fields: { more: [x-acme-*], anybody: [x-http-method-override] }";
    let stranger = start(routes, &upstream, fields);
    let sent = [
        ("X-Acme-User", "ada"),
        ("X_Acme_User", "eve"),
        ("X-HTTP-Method-Override", "PUT"),
        ("X-Forwarded-User", "ada"),
    ];
    stranger.request("GET", "/a", &sent, "");
    let seen = last_seen(&upstream);
    has(&seen, "x-http-method-override: put");
    assert!(!seen.contains(": ada") && !seen.contains("eve"), "{seen}");

    let proxied = start(routes, &upstream, &format!("{TRUSTED}\n{fields}"));
    proxied.request("GET", "/a", &sent, "");
    let seen = last_seen(&upstream);
    for line in ["x-acme-user: ada", "x-forwarded-user: ada", "x-http-method-override: put"] {
        has(&seen, line);
    }
    // A proxy that sets the one spelling passes the others on as its client sent them.
    assert!(!seen.contains("eve"), "{seen}");
    proxied.request("GET", "/a", &[("X-Moongate-Subject", "eve"), ("X-Real-IP", "6.6.6.6")], "");
    assert!(!last_seen(&upstream).contains("eve") && !last_seen(&upstream).contains("6.6.6.6"));
}

#[test]
fn the_page_lists_what_is_taken_away() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIG.md")).unwrap();
    let section = page.split("### What only trusted proxies may say").nth(1).unwrap().split("```").next().unwrap();
    let rows = section.lines().filter(|it| it.starts_with("| ") && it.contains('`'));
    let listed: Vec<&str> = rows.flat_map(|it| it.split('`').skip(1).step_by(2)).collect();
    assert!(listed.len() > 50, "{listed:?}");
    for name in &listed {
        let name = name.replace('*', "x");
        assert!(moongate::http::claim(&name.parse().unwrap()).is_some(), "{name} is not taken away");
    }
    for name in CLAIMS {
        let small = name.to_ascii_lowercase();
        assert!(listed.iter().any(|it| moongate::http::takes(it, small.as_bytes())), "{name} is not listed");
    }
}

// ── Who is believed, and about what ─────────────────────────────────────────────────────────────

const ROUTES: &str = "
routes:
  - { name: all, match: { path: \"/{*rest}\" }, upstream: up }
  - { name: shop, match: { path: \"/{*rest}\", hosts: [shop.example.org] }, upstream: up }
  - { name: secure, match: { path: /by-scheme, headers: { x-forwarded-proto: https } }, respond: { body: https } }
  - { name: clear, match: { path: /by-scheme, headers: { x-forwarded-proto: http } }, respond: { body: http } }
  - { name: neither, match: { path: /by-scheme }, respond: { body: nothing said } }
  - { name: old, match: { path: /old }, redirect: { to: /new } }
  - { name: away, match: { path: /away }, redirect: { to: \"https://other.example/new\" } }
";

fn route_of(gateway: &Gateway, answer: &Response) -> Value {
    gateway.access_log_for(answer.header("x-request-id").unwrap())
}

#[test]
fn s2s_32_the_word_of_a_trusted_proxy_counts_everywhere() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = start(ROUTES, &upstream, TRUSTED);
    let said = [
        ("Host", "inner:8080"),
        ("X-Forwarded-For", "2001:db8::7"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "Shop.example.org:443"),
        ("X-Forwarded-Port", "443"),
        ("X-Forwarded-Prefix", "/app/"),
        ("X-Real-IP", "6.6.6.6"),
    ];
    let answer = gateway.request("GET", "/a", &said, "");
    assert!(answer.header("strict-transport-security").is_some(), "the client came by https");
    let seen = last_seen(&upstream);
    for line in [
        "host: shop.example.org",
        "x-forwarded-for: 2001:db8::7",
        "x-forwarded-proto: https",
        "x-forwarded-host: shop.example.org",
        "x-forwarded-port: 443",
        "x-forwarded-prefix: /app",
        "forwarded: for=\"[2001:db8::7]\";proto=https;host=\"shop.example.org\"",
    ] {
        has(&seen, line);
    }
    assert!(!seen.contains("inner") && !seen.contains("6.6.6.6"), "{seen}");
    let line = route_of(&gateway, &answer);
    let told = ["route", "host", "client"].map(|it| line[it].as_str().unwrap_or_default());
    assert_eq!(told, ["shop", "shop.example.org", "2001:db8::7"], "{line}");

    let said = [("X-Forwarded-Proto", "https"), ("X-Forwarded-Prefix", "/app/")];
    assert_eq!(gateway.request("GET", "/by-scheme", &said, "").text(), "https");
    assert_eq!(gateway.request("GET", "/old?a=1", &said, "").header("location"), Some("/app/new?a=1"));
    assert_eq!(gateway.request("GET", "/away", &said, "").header("location"), Some("https://other.example/new"));
    // In the clear to the proxy is in the clear.
    let clear = gateway.request("GET", "/by-scheme", &[("X-Forwarded-Proto", "http")], "");
    assert_eq!((clear.text().as_str(), clear.header("strict-transport-security")), ("http", None));
}

#[test]
fn rfc_7239_forwarded_of_a_trusted_proxy_counts_where_it_says_nothing_else() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = start(ROUTES, &upstream, TRUSTED);
    let forwarded = "for=evil;proto=http;host=evil.example, For=\"[2001:db8::7]:80\";Proto=HTTPS;host=\"shop.example.org\", for=127.0.0.2";
    let answer = gateway.request("GET", "/a", &[("Forwarded", forwarded)], "");
    assert!(answer.header("strict-transport-security").is_some());
    has(&last_seen(&upstream), "forwarded: for=\"[2001:db8::7]\";proto=https;host=\"shop.example.org\"");
    assert_eq!(route_of(&gateway, &answer)["route"], "shop");
    assert_eq!(gateway.request("GET", "/by-scheme", &[("Forwarded", "proto=https")], "").text(), "https");
    // Most proxies write the other fields, and pass on what their client said in this one.
    let answer = gateway.request("GET", "/a", &[("Forwarded", forwarded), ("X-Forwarded-For", "192.0.2.7")], "");
    assert_eq!(answer.header("strict-transport-security"), None);
    has(&last_seen(&upstream), "x-forwarded-for: 192.0.2.7");
    assert_eq!(route_of(&gateway, &answer)["route"], "all");
    // What is malformed says nothing.
    let answer = gateway.request("GET", "/a", &[("Forwarded", "for=192.0.2.7;proto=https;host=\"shop")], "");
    assert_eq!((answer.status, answer.header("strict-transport-security")), (200, None));
}

#[test]
fn of_several_proxies_the_one_that_the_client_came_to_is_heard() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = start(ROUTES, &upstream, TRUSTED);
    for (addresses, schemes, hosts, client, scheme, host) in [
        // What stands before the client's hop is what the client made up.
        (
            "6.6.6.6, 192.0.2.7, 127.0.0.2",
            "https, http, http",
            "evil, a.example, b.example",
            "192.0.2.7",
            "http",
            "a.example",
        ),
        ("192.0.2.7,,127.0.0.2, ", "https, http", "a.example, b.example", "192.0.2.7", "https", "a.example"),
        ("192.0.2.7, 127.0.0.2", "https", "a.example", "192.0.2.7", "https", "a.example"),
        ("192.0.2.7", "http, https", "evil, a.example", "192.0.2.7", "https", "a.example"),
        ("", "http, https", "evil, a.example", "127.0.0.1", "https", "a.example"),
        ("192.0.2.7", "gopher", "a b", "192.0.2.7", "http", "x"),
        ("192.0.2.7", "", "http://evil/", "192.0.2.7", "http", "x"),
    ] {
        let fields = [
            ("host", "x"),
            ("x-forwarded-for", addresses),
            ("x-forwarded-proto", schemes),
            ("x-forwarded-host", hosts),
        ];
        gateway.request("GET", "/a", &fields, "");
        let seen = last_seen(&upstream);
        has(&seen, &format!("forwarded: for={client};proto={scheme};host=\"{host}\""));
        has(&seen, &format!("host: {host}"));
    }
    // Where a browser would go elsewhere, no prefix counts.
    for prefix in
        ["//evil.example", "https://evil.example", "/a/../..", "evil", "/a?b", "/a%2f", "/\\evil.example", "/"]
    {
        let answer = gateway.request("GET", "/old", &[("x-forwarded-prefix", prefix)], "");
        assert_eq!(answer.header("location"), Some("/new"), "{prefix}");
    }
}

#[test]
fn what_a_stranger_says_of_its_way_counts_for_nothing() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = start(ROUTES, &upstream, "trusted_proxies: [192.0.2.0/24]");
    let said = [
        ("Host", "x"),
        ("Forwarded", "for=192.0.2.1;proto=https;host=shop.example.org"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "shop.example.org"),
        ("X-Forwarded-Port", "443"),
        ("X-Forwarded-Prefix", "/app"),
    ];
    let answer = gateway.request("GET", "/a", &said, "");
    assert_eq!(answer.header("strict-transport-security"), None);
    let line = route_of(&gateway, &answer);
    assert_eq!((&line["route"], &line["host"], &line["client"]), (&"all".into(), &"x".into(), &"127.0.0.1".into()));
    let seen = last_seen(&upstream);
    has(&seen, "forwarded: for=127.0.0.1;proto=http;host=\"x\"");
    assert!(!seen.contains("x-forwarded-port") && !seen.contains("x-forwarded-prefix"), "{seen}");
    for proto in ["http", "https"] {
        for name in spellings("X-Forwarded-Proto") {
            let answer = gateway.request("GET", "/by-scheme", &[(&name, proto)], "");
            assert_eq!(answer.text(), "nothing said", "{name}: {proto}");
        }
    }
    assert_eq!(gateway.request("GET", "/old", &said, "").header("location"), Some("/new"));
}

#[test]
fn responses_for_the_clients_of_one_proxy_are_not_for_those_of_another() {
    let upstream = RawUpstream::start(|request| {
        let said = |name| request.header(name).unwrap_or_default();
        let links =
            format!("{}|{}|{}", said("x-forwarded-proto"), said("x-forwarded-port"), said("x-forwarded-prefix"));
        Script::answer(200, &[("cache-control", "max-age=60")], links)
    });
    let routes = "routes: [{ name: all, match: { path: \"/{*rest}\" }, upstream: up, cache: {} }]";
    let gateway = start(routes, &upstream, TRUSTED);
    let [https, port, a, b] = [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", "8443"),
        ("x-forwarded-prefix", "/a"),
        ("x-forwarded-prefix", "/b"),
    ];
    for _ in 0..2 {
        for (fields, links) in [
            (&[][..], "http||"),
            (&[https], "https||"),
            (&[a], "http||/a"),
            (&[b], "http||/b"),
            (&[port], "http|8443|"),
        ] {
            assert_eq!(gateway.request("GET", "/x", fields, "").text(), links);
        }
    }
    assert_eq!(upstream.requests().len(), 5, "and each is kept");
}

// ── One host, and none of a stranger's in what we say ───────────────────────────────────────────

#[test]
fn rfc_3986_6_2_one_host_has_one_form_for_routes_cache_and_upstream() {
    let upstream = RawUpstream::start(|_| Script::answer(200, &[("cache-control", "max-age=60")], "kept"));
    let routes =
        "routes: [{ name: app, match: { path: \"/{*rest}\", hosts: [app.example] }, upstream: up, cache: {} }]";
    let gateway = start(routes, &upstream, "");
    for host in ["app.example", "APP.example", "app.example:80", "app.example.", "App.Example.:0080", "app.example:"] {
        let answer = gateway.request("GET", "/a", &[("host", host)], "");
        assert_eq!((answer.status, answer.text().as_str()), (200, "kept"), "{host}");
        assert_eq!(route_of(&gateway, &answer)["host"], "app.example", "{host}");
    }
    let over_http2 = H2Client::connect(gateway.public());
    for (authority, host) in [("APP.example", Some("app.example")), ("app.example:80", None), ("app.example.", None)] {
        let mut request = HttpRequest::builder().uri(format!("http://{authority}/a"));
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let (request, sender) = (request.body(()).unwrap(), over_http2.sender());
        let status = over_http2.run(async move {
            let mut sender = sender.ready().await.unwrap();
            sender.send_request(request, true).unwrap().0.await.unwrap().status()
        });
        assert_eq!(status, 200, "{authority} {host:?}");
    }
    for target in ["http://app.example/a", "http://APP.example:80/a", "HTTP://app.example./a"] {
        let mut client = RawClient::connect(gateway.public());
        client.send(format!("GET {target} HTTP/1.1\r\nhost: app.example\r\n\r\n"));
        assert_eq!(client.read_response().status, 200, "{target}");
    }
    assert_eq!(upstream.requests().len(), 1, "one host has one entry");
    has(&last_seen(&upstream), "host: app.example");
    assert_eq!(gateway.request("GET", "/a", &[("host", "app.example:81")], "").status, 200);
    has(&last_seen(&upstream), "host: app.example:81");
}

#[test]
fn rfc_9112_3_2_2_the_authority_of_an_absolute_target_is_the_host() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let routes = "routes: [{ name: app, match: { path: \"/{*rest}\", hosts: [app.example] }, upstream: up }]";
    let gateway = start(routes, &upstream, "");
    for request in [
        "GET http://app.example/x HTTP/1.0\r\n\r\n",
        "GET http://app.example?a=1 HTTP/1.1\r\nhost: app.example\r\n\r\n",
        "GET http://app.example?a=1 HTTP/1.0\r\n\r\n",
        "GET HTTP://App.example:80/x HTTP/1.0\r\nhost: app.example\r\n\r\n",
    ] {
        let mut client = RawClient::connect(gateway.public());
        client.send(request);
        assert_eq!(client.read_response().status, 200, "{request:?}");
        has(&last_seen(&upstream), "x-forwarded-host: app.example");
    }
    assert!(last_seen(&upstream).starts_with("get /x http/1.1\r\n"));
}

#[test]
fn no_answer_repeats_a_host_that_anybody_can_name() {
    let routes = |hosts: &str| {
        format!(
            "version: 1\nupstreams: {{ auth: {{ local: auth }} }}\nroutes:\n  \
             - {{ name: keys, match: {{ path: \"/.well-known/{{*rest}}\"{hosts} }}, upstream: auth }}\n"
        )
    };
    let place = |hosts: &str, more: &str, fields: &[(&str, &str)]| {
        let config = format!("{CONFIG}tokens: {{ hs256_secret: \"${{PROXY_JWT_SECRET}}\" }}\n{more}\n");
        let gateway = Gateway::with(routes(hosts)).config(config).env("PROXY_JWT_SECRET", SECRET).start();
        let answer = gateway.request("GET", "/.well-known/openid-configuration", fields, "");
        assert!(!answer.text().contains("evil"), "{}", answer.text());
        answer.json()["jwks_uri"].as_str().unwrap_or_default().to_owned()
    };
    let evil = [("host", "evil.example")];
    assert_eq!(place("", "", &evil), "/.well-known/jwks.json");
    let claimed = [("host", "x"), ("x-forwarded-host", "evil.example"), ("x-forwarded-proto", "https")];
    assert_eq!(place("", "", &claimed), "/.well-known/jwks.json");
    // Even a proxy that is trusted only passes on what its client said.
    assert_eq!(place("", TRUSTED, &claimed), "/.well-known/jwks.json");
    let public = "public_url: https://api.example.org/";
    assert_eq!(place("", public, &evil), "https://api.example.org/.well-known/jwks.json");
    // A route that lists its hosts has verified that it is one of them.
    let listed = ", hosts: [gw.example]";
    assert_eq!(place(listed, "", &[("host", "GW.example:80")]), "http://gw.example/.well-known/jwks.json");
    let by_proxy = [("host", "x"), ("x-forwarded-host", "gw.example"), ("x-forwarded-proto", "https")];
    assert_eq!(place(listed, TRUSTED, &by_proxy), "https://gw.example/.well-known/jwks.json");
    assert_eq!(place(", hosts: [\"*.example\"]", "", &[("host", "x.example")]), "/.well-known/jwks.json");
}

// ── Credentials that are read in two ways ───────────────────────────────────────────────────────

#[test]
fn r4_2_a_credential_in_the_query_has_one_name_however_it_is_encoded() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let routes =
        "routes: [{ name: all, match: { path: \"/{*rest}\" }, upstream: up, auth: { jwt: {}, from: [{ query: t }] } }]";
    let gateway = start(routes, &upstream, "");
    let (ada, eve) = (token("ada", &[]), token("eve", &[]));
    for query in [format!("t={ada}"), format!("%74={ada}"), format!("a=1&t={ada}&b=2"), format!("a=1;%74={ada}")] {
        assert_eq!(gateway.get(&format!("/x?{query}")).status, 200, "{query}");
        let seen = last_seen(&upstream);
        has(&seen, "x-moongate-subject: ada");
        assert!(!seen.contains(&ada[..30].to_ascii_lowercase()), "{seen}");
    }
    let before = upstream.requests().len();
    for query in [
        format!("t={ada}&t={eve}"),
        format!("t={ada}&%74={eve}"),
        format!("%74={eve}&t={ada}"),
        format!("t={ada};t={eve}"),
        format!("t={ada}&a=1;%74={eve}"),
    ] {
        let answer = gateway.get(&format!("/x?{query}"));
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
    }
    assert_eq!(upstream.requests().len(), before);
}

#[test]
fn a_cookie_is_used_by_pages_of_this_very_origin_alone() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let routes = "routes: [{ name: all, match: { path: \"/{*rest}\" }, upstream: up, auth: { jwt: {}, from: [{ cookie: s }] } }]";
    let cookie = format!("s={}", token("ada", &[]));
    let status = |gateway: &Gateway, fields: &[(&str, &str)]| {
        let fields = [&[("cookie", cookie.as_str())], fields].concat();
        gateway.request("POST", "/x", &fields, "hi").status
    };
    let direct = start(routes, &upstream, "");
    let host = ("host", "app.example");
    for (origins, may) in [
        (&["http://app.example"][..], 200),
        (&[], 200),
        (&["https://app.example"], 403),
        (&["http://app.example:81"], 403),
        (&["http://evil.example"], 403),
        (&["http://app.example", "http://evil.example"], 403),
        (&["http://evil.example", "http://app.example"], 403),
        (&["http://app.example", "http://app.example"], 403),
        (&["null"], 403),
        (&["app.example"], 403),
    ] {
        let fields: Vec<(&str, &str)> = origins.iter().map(|it| ("origin", *it)).chain([host]).collect();
        assert_eq!(status(&direct, &fields), may, "{origins:?}");
    }
    // Nor without an Origin, by a page that says it is of another site.
    for (site, may) in [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)] {
        assert_eq!(status(&direct, &[host, ("sec-fetch-site", site)]), may, "{site}");
    }
    // Nor by what a stranger says of the scheme.
    assert_eq!(status(&direct, &[host, ("x-forwarded-proto", "https"), ("origin", "https://app.example")]), 403);

    let proxied = start(routes, &upstream, TRUSTED);
    let https = ("x-forwarded-proto", "https");
    assert_eq!(status(&proxied, &[host, https, ("origin", "https://app.example")]), 200);
    assert_eq!(status(&proxied, &[host, https, ("origin", "http://app.example")]), 403);
    let port = ("x-forwarded-port", "8443");
    assert_eq!(status(&proxied, &[host, https, port, ("origin", "https://app.example:8443")]), 200);
}

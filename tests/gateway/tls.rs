//! TLS on listeners and towards upstreams: names, protocols, certificates that change while it runs.

use std::net::SocketAddr;

use crate::exchange::{body_of, pattern, routes};
use crate::support::upstream::answer_bytes;
use crate::support::{Ca, Folder, Gateway, H2Client, RawClient, RawUpstream, Script, WsClient};

const ROUTES: &str = "version: 1\nroutes: [{ name: all, match: { path: \"/{*rest}\" }, respond: { body: hello } }]\n";

fn listener(tls: &str) -> String {
    format!(
        "listeners:\n  public:\n    - address: \"127.0.0.1:0\"\n      tls: {tls}\n  \
         admin: {{ address: \"127.0.0.1:0\" }}\n"
    )
}

fn plain_tls() -> String {
    listener("{ cert: one/cert.pem, key: one/key.pem }")
}

#[track_caller]
fn get_tls(client: &mut RawClient, path: &str) -> String {
    client.send(format!("GET {path} HTTP/1.1\r\nhost: one.test\r\n\r\n"));
    client.read_response().text()
}

#[test]
fn the_name_that_a_client_asks_for_chooses_the_certificate() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let builder = Gateway::with(ROUTES).config(listener(
        "{ cert: one/cert.pem, key: one/key.pem, certificates: [{ cert: two/cert.pem, key: two/key.pem }] }",
    ));
    one.write_leaf(builder.folder(), "one", &["one.test"]);
    two.write_leaf(builder.folder(), "two", &["two.test", "*.two.test"]);
    let gateway = builder.start();
    // Each client trusts one authority only, so an answer says which certificate was shown.
    for (ca, name, shown) in [
        (&one, "one.test", true),
        (&two, "two.test", true),
        (&two, "sub.two.test", true),
        (&one, "two.test", false),
        (&two, "one.test", false),
    ] {
        let client = RawClient::try_connect_tls(gateway.public(), name, ca.client(&[], None));
        assert_eq!(client.is_ok(), shown, "{name}");
        if let Ok(mut client) = client {
            assert_eq!(get_tls(&mut client, "/"), "hello");
        }
    }
}

#[test]
fn an_exact_name_comes_before_a_wildcard_whatever_the_order() {
    let (wild, exact) = (Ca::new("wild"), Ca::new("exact"));
    let leaves = [(&wild, "wild", &["*.example.test", "example.test"][..]), (&exact, "exact", &["API.example.test"])];
    for (first, second) in [("wild", "exact"), ("exact", "wild")] {
        for hosts in ["", ", hosts: [\"*.example.test\", example.test]"] {
            // The first one of a listener has no list of its own.
            let own = if second == "wild" { hosts } else { "" };
            let second = format!("{{ cert: {second}/cert.pem, key: {second}/key.pem{own} }}");
            let tls = format!("{{ cert: {first}/cert.pem, key: {first}/key.pem, certificates: [{second}] }}");
            let builder = Gateway::with(ROUTES).config(listener(&tls));
            for (ca, name, names) in leaves {
                ca.write_leaf(builder.folder(), name, names);
            }
            let gateway = builder.start();
            for (ca, name, shown) in [
                (&exact, "api.example.test", true),
                (&wild, "api.example.test", false),
                (&wild, "www.example.test", true),
                (&wild, "example.test", true),
                (&exact, "www.example.test", false),
            ] {
                let client = RawClient::try_connect_tls(gateway.public(), name, ca.client(&[], None));
                assert_eq!(client.is_ok(), shown, "{name}, {first} first, {hosts}");
            }
        }
    }
}

#[test]
fn alpn_chooses_http2_or_http1() {
    let ca = Ca::new("one");
    let builder = Gateway::with(ROUTES).config(plain_tls());
    ca.write_leaf(builder.folder(), "one", &["one.test"]);
    let gateway = builder.start();
    let address = gateway.public();
    let mut h2 = H2Client::try_connect_tls(address, "one.test", ca.client(&["h2", "http/1.1"], None)).unwrap();
    assert_eq!(h2.get("/").text(), "hello");
    for offered in [&["http/1.1"][..], &[]] {
        let mut client = RawClient::try_connect_tls(address, "one.test", ca.client(offered, None)).unwrap();
        assert_eq!(get_tls(&mut client, "/"), "hello", "{offered:?}");
        assert_eq!(get_tls(&mut client, "/"), "hello", "{offered:?}, kept alive");
    }
    let nothing_common = RawClient::try_connect_tls(address, "one.test", ca.client(&["spdy/3"], None));
    assert!(nothing_common.is_err());
    // Plain text on the TLS port is nothing that is answered.
    let mut plain = RawClient::connect(address);
    plain.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(!plain.read_until_close().starts_with(b"HTTP"));
}

#[test]
fn certificates_are_reloaded_while_open_connections_live_on() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let builder = Gateway::with(ROUTES).config(plain_tls());
    old.write_leaf(builder.folder(), "one", &["one.test"]);
    let gateway = builder.start();
    let connect = |ca: &Ca| RawClient::try_connect_tls(gateway.public(), "one.test", ca.client(&[], None));
    let mut open = connect(&old).unwrap();
    assert_eq!(get_tls(&mut open, "/"), "hello");
    assert!(connect(&new).is_err());

    new.write_leaf(gateway.folder(), "one", &["one.test"]);
    let answer = gateway.reload();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(get_tls(&mut connect(&new).unwrap(), "/"), "hello");
    assert!(connect(&old).is_err(), "new connections see the new certificate only");
    assert_eq!(get_tls(&mut open, "/"), "hello", "the old connection lives on");

    // A bad file keeps what was there, and says so.
    gateway.folder().write("one/cert.pem", "not a certificate");
    for _ in 0..2 {
        let answer = gateway.reload();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.text().contains("one/cert.pem holds no certificate"), "{}", answer.text());
    }
    assert_eq!(get_tls(&mut connect(&new).unwrap(), "/"), "hello");
}

#[test]
fn plain_text_http2_is_spoken_only_where_the_listener_says_so() {
    let config = r#"
listeners:
  public:
    - { address: "127.0.0.1:0" }
    - { address: "127.0.0.1:0", h2c: true }
  admin: { address: "127.0.0.1:0" }
"#;
    let gateway = Gateway::with(ROUTES).config(config).start();
    let second = gateway.wait_for_event("listening", |it| it["listener"] == "public-2");
    let h2c: SocketAddr = second["address"].as_str().unwrap().parse().unwrap();
    assert_eq!(H2Client::connect(h2c).get("/").text(), "hello");
    assert_eq!(crate::support::get(h2c, "/").text(), "hello", "HTTP/1 beside it");
    let mut client = RawClient::connect(gateway.public());
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let answer = String::from_utf8_lossy(&client.read_until_close()).into_owned();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

// ── Upstreams behind TLS ────────────────────────────────────────────────────────────────────────

fn to_tls(upstream: &RawUpstream, folder: &Folder, ca: &Ca, settings: &str) -> String {
    let file = folder.write("upstream-ca.pem", ca.pem());
    routes(&[upstream.address()], "body_limit: 64MiB")
        .replace("up: {", &format!("up: {{ tls: {{ sni: up.test, ca: {:?} }}, {settings}", file.display().to_string()))
}

#[test]
fn a_full_exchange_passes_to_an_upstream_behind_tls() {
    let (ca, folder) = (Ca::new("upstreams"), Folder::new());
    let leaf = ca.leaf(&["up.test"]);
    let upstream = RawUpstream::start_tls(&leaf, &["http/1.1"], |request| match request.target().as_str() {
        "/early" => Script::new().send(answer_bytes(413, &[], b"no")).close(),
        "/big" => Script::answer(200, &[], pattern(3 << 20)),
        _ => Script::ok("secret"),
    });
    let gateway = Gateway::start(to_tls(&upstream, &folder, &ca, ""));
    let body = pattern(3 << 20);
    for _ in 0..2 {
        assert_eq!(gateway.get("/").text(), "secret");
        assert_eq!(gateway.request("POST", "/", &[], &body).text(), "secret");
        assert!(gateway.get("/big").body == body);
    }
    let requests = upstream.requests();
    assert!(body_of(&requests[1]) == body && body_of(&requests[4]) == body);
    assert!(upstream.connections() <= 2, "connections are kept, one for each worker");
    assert_eq!(gateway.request("POST", "/early", &[], pattern(100)).status, 413);
}

#[test]
fn an_upstream_that_cannot_prove_its_name_gets_nothing() {
    let (ca, other, folder) = (Ca::new("upstreams"), Ca::new("others"), Folder::new());
    for leaf in [ca.leaf(&["wrong.test"]), other.leaf(&["up.test"])] {
        let upstream = RawUpstream::start_tls(&leaf, &["http/1.1"], |_| Script::ok("secret"));
        let gateway = Gateway::start(to_tls(&upstream, &folder, &ca, ""));
        let answer = gateway.get("/");
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (502, &"upstream_unreachable".into()));
        assert!(upstream.requests().is_empty());
    }
}

#[test]
fn a_websocket_passes_between_tls_on_both_sides() {
    let (ca, folder) = (Ca::new("all"), Folder::new());
    let leaf = ca.leaf(&["up.test"]);
    let upstream = RawUpstream::start_tls(&leaf, &["http/1.1"], |_| {
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\x01glued";
        Script::new().send(head).read_more(4).send("pong").await_close()
    });
    let text = to_tls(&upstream, &folder, &ca, "").replace("path: \"/{*rest}\"", "path: /ws, websocket: true");
    let builder = Gateway::with(text).config(plain_tls());
    ca.write_leaf(builder.folder(), "one", &["one.test"]);
    let gateway = builder.start();
    let mut client = RawClient::try_connect_tls(gateway.public(), "one.test", ca.client(&[], None)).unwrap();
    client.send("GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n");
    client.send("sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    assert_eq!(client.read_head().status, 101);
    assert_eq!(client.read_exactly(6), b"\x01glued");
    client.send("ping");
    assert_eq!(client.read_exactly(4), b"pong");
    drop(client);
    upstream.wait_for_closed(1);
}

#[test]
fn s2s_30_s2s_31_s2s_32_browsers_are_told_to_be_careful() {
    let ca = Ca::new("one");
    let routes = "version: 1\nroutes:\n  - { name: json, match: { path: /json }, respond: { body: '{}', content_type: application/json } }\n  - { name: page, match: { path: /page }, respond: { body: hello, content_type: text/html } }\n";
    let builder = Gateway::with(routes).config(plain_tls());
    ca.write_leaf(builder.folder(), "one", &["one.test"]);
    let gateway = builder.start();
    let mut client = RawClient::try_connect_tls(gateway.public(), "one.test", ca.client(&[], None)).unwrap();
    // The gateway's own error is no exception.
    for (path, status, no_store) in [("/json", 200, true), ("/page", 200, true), ("/nowhere", 404, true)] {
        client.send(format!("GET {path} HTTP/1.1\r\nhost: one.test\r\n\r\n"));
        let answer = client.read_response();
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.header("cache-control"), no_store.then_some("no-store"), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        let scripts = policy.split(';').find(|it| it.trim().starts_with("script-src")).unwrap();
        assert!(!scripts.contains("unsafe-inline") && !scripts.contains('*'), "{policy}");
        let age = answer.header("strict-transport-security").unwrap().split(';').next().unwrap();
        assert!(age.strip_prefix("max-age=").unwrap().parse::<u64>().unwrap() >= 31_536_000, "{age}");
        let told = |name: &str| answer.header(name).unwrap_or_default().to_owned();
        assert_eq!((told("x-content-type-options"), told("x-frame-options")), ("nosniff".into(), "DENY".into()));
        assert_eq!(told("referrer-policy"), "no-referrer");
    }
}

//! Which request goes where, and what reaches the upstream: byte for byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::support::*;

/// An upstream that answers with its name; the request is on its book.
fn named(name: &'static str) -> RawUpstream {
    RawUpstream::start(move |_| Script::ok(name))
}

/// `routes.yaml` over upstreams by name.
fn file(upstreams: &[(&str, &RawUpstream)], rest: &str) -> String {
    let mut text = String::from("version: 1\nupstreams:\n");
    for (name, upstream) in upstreams {
        text += &format!("  {name}: {{ discovery: {{ static: [\"{}\"] }} }}\n", upstream.address());
    }
    text + rest
}

/// Routes that answer with their own names.
fn answering(matches: &[(&str, &str)]) -> String {
    let mut text = String::from("version: 1\nroutes:\n");
    for (name, r#match) in matches {
        text += &format!("  - {{ name: {name}, match: {{ {match} }}, respond: {{ body: {name} }} }}\n");
    }
    text
}

/// The first line of the request that the upstream got last.
fn last_line(upstream: &RawUpstream) -> String {
    let requests = upstream.requests();
    let text = String::from_utf8(requests.last().unwrap().clone()).unwrap();
    text.lines().next().unwrap().to_owned()
}

/// A field of the request that the upstream got last.
fn last_field(upstream: &RawUpstream, name: &str) -> Option<String> {
    let head = upstream.requests().last().unwrap().clone();
    Request { head, connection: 0, turn: 0, number: 0 }.header(name)
}

/// Sends exactly these bytes on a connection of its own; what they must not do is reach anybody.
fn send_raw(gateway: &Gateway, bytes: impl AsRef<[u8]>) -> Response {
    let mut client = RawClient::connect(gateway.public());
    client.send(bytes);
    client.read_response()
}

#[test]
fn r1_1_routes_by_path() {
    let (players, narratives) = (named("players"), named("narratives"));
    let routes = "routes:
  - { name: players, match: { path: '/api/v1/players/{*rest}' }, upstream: players }
  - { name: narratives, match: { path: '/api/v1/narratives/{id}/scenes' }, upstream: narratives }
";
    let gateway = Gateway::start(file(&[("players", &players), ("narratives", &narratives)], routes));
    assert_eq!(gateway.get("/api/v1/players/7/characters?page=2").text(), "players");
    assert_eq!(last_line(&players), "GET /api/v1/players/7/characters?page=2 HTTP/1.1");
    assert_eq!(gateway.get("/api/v1/players").text(), "players", "{{*rest}} also takes nothing");
    assert_eq!(gateway.get("/api/v1/narratives/3/scenes").text(), "narratives");
    for path in ["/api/v1/narratives/3", "/api/v1/narratives//scenes", "/api/v1/narratives/3/4/scenes", "/"] {
        assert_eq!(gateway.get(path).status, 404, "{path}");
    }
    assert_eq!((players.requests().len(), narratives.requests().len()), (2, 1));
}

#[test]
fn r1_2_requests_are_spread_over_the_endpoints_by_weight() {
    let counts: [Arc<AtomicUsize>; 2] = Default::default();
    let counting = |count: &Arc<AtomicUsize>| {
        let count = count.clone();
        RawUpstream::start(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Script::ok("")
        })
    };
    let (one, two) = (counting(&counts[0]), counting(&counts[1]));
    let gateway = Gateway::start(format!(
        "version: 1
upstreams:
  both: {{ discovery: {{ static: [{{ address: '{}', weight: 3 }}, '{}'] }} }}
routes: [{{ name: all, match: {{ path: '/{{*rest}}' }}, upstream: both }}]
",
        one.address(),
        two.address()
    ));
    for _ in 0..40 {
        assert_eq!(gateway.get("/").status, 200);
    }
    assert_eq!(counts.map(|it| it.load(Ordering::Relaxed)), [30, 10]);
}

#[test]
fn hosts_match_exactly_by_wildcard_or_any_whatever_case_and_port() {
    let gateway = Gateway::start(answering(&[
        ("any", "path: /x"),
        ("below", "path: /x, hosts: ['*.example.org']"),
        ("deeper", "path: /x, hosts: ['*.eu.example.org']"),
        ("exact", "path: /x, hosts: [api.example.org, example.net]"),
    ]));
    for (host, route) in [
        ("api.example.org", "exact"),
        ("API.Example.ORG:8443", "exact"),
        ("example.net", "exact"),
        ("www.example.org", "below"),
        ("a.b.example.org", "below"),
        ("a.eu.example.org", "deeper"),
        ("example.org", "any"),
        ("evilexample.org", "any"),
        ("127.0.0.1", "any"),
    ] {
        assert_eq!(gateway.request("GET", "/x", &[("host", host)], b"").text(), route, "{host}");
    }
}

#[test]
fn hosts_match_over_http2_by_authority() {
    let config = "listeners: { public: [{ address: '127.0.0.1:0', h2c: true }], admin: { address: '127.0.0.1:0' } }";
    let routes = answering(&[("any", "path: /x"), ("local", "path: /x, hosts: [127.0.0.1]")]);
    let gateway = Gateway::with(routes).config(config).start();
    let mut client = H2Client::connect(gateway.public());
    assert_eq!(client.get("/x").text(), "local");
}

#[test]
fn the_most_specific_route_wins_whatever_the_order_in_the_file() {
    let mut routes = vec![
        ("everything", "path: '/{*rest}'"),
        ("below", "path: '/a/{*rest}'"),
        ("named", "path: '/a/{name}'"),
        ("literal", "path: /a/b"),
        ("with-method", "path: /a/b, methods: [GET]"),
        ("with-header", "path: /a/b, headers: { x-tier: gold }"),
        ("with-two", "path: /a/b, headers: { x-tier: gold, x-beta: { present: true } }"),
    ];
    for order in 0..2 {
        let gateway = Gateway::start(answering(&routes));
        let ask = |method: &str, path: &str, fields: &[(&str, &str)]| gateway.request(method, path, fields, b"").text();
        assert_eq!(ask("GET", "/", &[]), "everything", "order {order}");
        assert_eq!(ask("GET", "/a/b/c", &[]), "below", "order {order}");
        assert_eq!(ask("GET", "/a/c", &[]), "named", "order {order}");
        assert_eq!(ask("DELETE", "/a/b", &[]), "literal", "order {order}");
        assert_eq!(ask("GET", "/a/b", &[]), "with-method", "order {order}");
        assert_eq!(ask("GET", "/a/b", &[("x-tier", "gold")]), "with-header", "order {order}");
        assert_eq!(ask("GET", "/a/b", &[("x-tier", "gold"), ("x-beta", "")]), "with-two", "order {order}");
        routes.reverse();
    }
}

#[test]
fn routes_that_can_not_be_told_apart_are_an_error_at_check() {
    let routes = answering(&[("one", "path: '/same/{x}'"), ("two", "path: '/same/{y}'")]);
    let refused = Gateway::with(routes).start_refused();
    assert_eq!(refused.code, 1);
    let message = "routes `one` and `two` can take the same request, and neither is more specific";
    assert!(refused.stderr.contains(message), "{}", refused.stderr);
    assert!(refused.stderr.contains("routes.yaml:4:"), "{}", refused.stderr);
}

#[test]
fn r2_1_resources_are_found_by_their_paths_and_reached_by_their_methods() {
    let (players, narratives) = (named("players"), named("narratives"));
    let routes = "routes:
  - { name: players, match: { path: /api/v1/players }, upstream: players }
  - { name: player, match: { path: '/api/v1/players/{id}' }, upstream: players }
  - { name: scenes, match: { path: '/api/v1/narratives/{id}/scenes/{scene}' }, upstream: narratives }
";
    let gateway = Gateway::start(file(&[("players", &players), ("narratives", &narratives)], routes));
    for (method, target, body) in [
        ("GET", "/api/v1/players?page=2&sort=name", ""),
        ("POST", "/api/v1/players", "{\"name\":\"ada\"}"),
        ("GET", "/api/v1/players/7", ""),
        ("PUT", "/api/v1/players/7", "{\"name\":\"eve\"}"),
        ("PATCH", "/api/v1/players/b%20c", "{}"),
        ("DELETE", "/api/v1/players/7", ""),
        ("POST", "/api/v1/narratives/3/scenes/4", "{\"n\":1}"),
    ] {
        let upstream = if target.contains("players") { &players } else { &narratives };
        let before = upstream.requests().len();
        let answer = gateway.request(method, target, &[("content-type", "application/json")], body);
        assert_eq!(answer.status, 200, "{method} {target}");
        assert_eq!(upstream.requests().len(), before + 1, "{method} {target}");
        assert_eq!(last_line(upstream), format!("{method} {target} HTTP/1.1"));
        assert!(upstream.requests().last().unwrap().ends_with(body.as_bytes()), "{method} {target}");
    }
    for nothing in ["/api/v1/player", "/api/v1/players/7/x", "/api/v1/narratives/3/scenes", "/players/7"] {
        assert_eq!(gateway.get(nothing).status, 404, "{nothing}");
    }
    assert_eq!((players.requests().len(), narratives.requests().len()), (6, 1));
}

#[test]
fn r2_2_methods_choose_the_route_and_the_rest_is_405_with_allow() {
    let gateway = Gateway::start(answering(&[
        ("read", "path: '/players/{id}', methods: [GET]"),
        ("write", "path: '/players/{id}', methods: [PUT, PATCH, DELETE]"),
        ("create", "path: /players, methods: [POST]"),
    ]));
    for (method, path, route) in [
        ("GET", "/players/7", "read"),
        ("PUT", "/players/7", "write"),
        ("PATCH", "/players/7", "write"),
        ("DELETE", "/players/7", "write"),
        ("POST", "/players", "create"),
    ] {
        assert_eq!(gateway.request(method, path, &[], b"").text(), route, "{method}");
    }
    let head = gateway.request("HEAD", "/players/7", &[], b"");
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("4"), 0));
    for (method, path, allow) in [
        ("POST", "/players/7", "DELETE, GET, HEAD, PATCH, PUT"),
        ("OPTIONS", "/players", "POST"),
        ("get", "/players", "POST"),
    ] {
        let refused = gateway.request(method, path, &[], b"");
        assert_eq!((refused.status, refused.header("allow")), (405, Some(allow)), "{method}");
        assert_eq!(refused.json()["error"]["code"], "method_not_allowed");
        assert_eq!(refused.json()["error"]["details"]["allow"], allow);
    }
}

#[test]
fn header_and_query_predicates_must_hold() {
    let gateway = Gateway::start(answering(&[
        ("plain", "path: /x"),
        ("paged", "path: /z"),
        ("gold", "path: /x, headers: { X-Tier: gold }"),
        ("agent", "path: /z, headers: { user-agent: { prefix: curl/ } }, query: { page: { prefix: '2' } }"),
        ("page", "path: /z, query: { page: '2' }"),
        ("debug", "path: /d, query: { debug: { present: true } }"),
        ("undebugged", "path: /d"),
        ("old", "path: /y, headers: { x-new: { present: false } }"),
    ]));
    for (path, field, route) in [
        ("/x", ("x-tier", "silver"), "plain"),
        ("/x", ("X-TIER", "gold"), "gold"),
        ("/z?page=22", ("user-agent", "curl/8.0"), "agent"),
        ("/z?page=2", ("a", "b"), "page"),
        ("/z?a=b&p%61ge=2", ("a", "b"), "page"),
        ("/z?page=3&page=2", ("a", "b"), "paged"),
        ("/d?debug", ("a", "b"), "debug"),
        ("/d?bug", ("a", "b"), "undebugged"),
        ("/y", ("a", "b"), "old"),
    ] {
        assert_eq!(gateway.request("GET", path, &[field], b"").text(), route, "{path} {field:?}");
    }
    assert_eq!(gateway.request("GET", "/y", &[("x-new", "")], b"").status, 404);
}

#[test]
fn r2_4_versions_stand_in_the_path() {
    let (one, two) = (named("one"), named("two"));
    let routes = "routes:
  - { name: v1, match: { path: '/api/v1/players/{*rest}' }, upstream: one, rewrite: { path: '/players/{rest}' } }
  - { name: v2, match: { path: '/api/v2/players/{*rest}' }, upstream: two, rewrite: { path: '/players/{rest}' } }
";
    let gateway = Gateway::start(file(&[("one", &one), ("two", &two)], routes));
    assert_eq!(gateway.get("/api/v1/players/7").text(), "one");
    assert_eq!(gateway.get("/api/v2/players/7").text(), "two");
    assert_eq!(gateway.get("/api/v3/players/7").status, 404);
    assert_eq!(
        (last_line(&one), last_line(&two)),
        ("GET /players/7 HTTP/1.1".into(), "GET /players/7 HTTP/1.1".into())
    );
}

#[test]
fn r2_5_accept_chooses_the_route_and_the_rest_is_406() {
    let gateway = Gateway::start(answering(&[
        ("json", "path: /x, accept: [application/json]"),
        ("html", "path: /x, accept: [text/html]"),
    ]));
    for (accept, route) in [
        ("application/json", "json"),
        ("text/html;q=0.5, application/json;q=0.4", "html"),
        ("text/*, application/json;q=0.9", "html"),
        ("*/*;q=0.1, application/json", "json"),
    ] {
        assert_eq!(gateway.request("GET", "/x", &[("accept", accept)], b"").text(), route, "{accept}");
    }
    for accept in ["image/png", "application/json;q=0, text/html;q=0"] {
        let refused = gateway.request("GET", "/x", &[("accept", accept)], b"");
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (406, &"not_acceptable".into()), "{accept}");
    }
    assert_eq!(gateway.get("/x").status, 200, "no Accept accepts all");
}

#[test]
fn the_path_is_normalised_once_and_the_same_bytes_are_matched_and_sent() {
    let (upstream, private) = (named("public"), named("private"));
    let routes = "routes:
  - { name: all, match: { path: '/{*rest}' }, upstream: upstream }
  - { name: private, match: { path: '/private/{*rest}' }, upstream: private }
";
    let gateway = Gateway::start(file(&[("upstream", &upstream), ("private", &private)], routes));
    for (sent, received) in [
        ("/a/./b/../c", "/a/c"),
        ("//a///b", "/a/b"),
        ("/%61%2Db%7E", "/a-b~"),
        ("/a%c3%a9", "/a%C3%A9"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a%20b;v=1", "/a%20b;v=1"),
        ("/a?b=%2f../%61//c", "/a?b=%2f../%61//c"),
        ("/", "/"),
    ] {
        assert_eq!(gateway.get(sent).text(), "public", "{sent}");
        assert_eq!(last_line(&upstream), format!("GET {received} HTTP/1.1"), "{sent}");
    }
    for sent in ["/private/x", "/x/../private/x", "//private/x", "/%70rivate/x", "/x/%2e%2E/private/x", "/./private/x"]
    {
        assert_eq!(gateway.get(sent).text(), "private", "{sent}");
        assert_eq!(last_line(&private), "GET /private/x HTTP/1.1", "{sent}");
    }
}

#[test]
fn what_can_be_read_in_two_ways_gets_400_and_reaches_nobody() {
    let upstream = named("reached");
    let gateway = Gateway::start(file(
        &[("all", &upstream)],
        "routes: [{ name: all, match: { path: '/{*rest}' }, upstream: all }]",
    ));
    for target in [
        "/a%2fb",
        "/a%2Fb",
        "/a%5cb",
        "/a\\b",
        "/a%00",
        "/a%0d%0ax:y",
        "/%",
        "/%zz",
        "/%4",
        "/..",
        "/a/../../b",
        "/%2e%2e/a",
        "/a/..;x/b",
        "/a#b",
        "/a?b#c",
    ] {
        let refused = send_raw(&gateway, format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert_eq!(refused.status, 400, "{target}: {}", refused.text());
        assert_eq!(refused.json()["error"]["code"], "bad_request");
    }
    assert_eq!(upstream.connections(), 0);
    assert_eq!(gateway.get("/a").text(), "reached");
}

#[test]
fn an_absolute_target_is_sent_on_as_a_path() {
    let upstream = named("reached");
    let gateway = Gateway::start(file(
        &[("all", &upstream)],
        "routes: [{ name: all, match: { path: '/a/{*rest}', hosts: [api.example.org] }, upstream: all }]",
    ));
    let target = "http://api.example.org/x/../a/b?c";
    let answer = send_raw(&gateway, format!("GET {target} HTTP/1.1\r\nhost: api.example.org\r\n\r\n"));
    assert_eq!(answer.text(), "reached");
    assert_eq!(last_line(&upstream), "GET /a/b?c HTTP/1.1");
}

#[test]
fn rewrites_change_path_host_and_fields_and_keep_the_query() {
    let upstream = named("reached");
    let routes = "routes:
  - name: rewritten
    match: { path: '/api/{version}/players/{*rest}' }
    upstream: all
    rewrite:
      path: '/{version}-players/{rest}'
      host: players.internal:8080
      headers:
        set: { x-api: moongate, x-replaced: new }
        add: { x-added: two }
        remove: [X-Debug]
";
    let gateway = Gateway::start(file(&[("all", &upstream)], routes));
    let fields =
        [("host", "api.example.org"), ("x-replaced", "old"), ("x-added", "one"), ("x-debug", "1"), ("x-kept", "k")];
    assert_eq!(gateway.request("GET", "/api/v1/players/7/a%20b?x=%2F", &fields, b"").text(), "reached");
    assert_eq!(last_line(&upstream), "GET /v1-players/7/a%20b?x=%2F HTTP/1.1");
    for (name, value) in [
        ("host", Some("players.internal:8080")),
        ("x-forwarded-host", Some("api.example.org")),
        ("x-api", Some("moongate")),
        ("x-replaced", Some("new")),
        ("x-debug", None),
        ("x-kept", Some("k")),
    ] {
        assert_eq!(last_field(&upstream, name).as_deref(), value, "{name}");
    }
    let text = String::from_utf8(upstream.requests().remove(0)).unwrap().to_ascii_lowercase();
    assert!(text.contains("x-added: one\r\n") && text.contains("x-added: two\r\n"), "{text}");
}

#[test]
fn redirects_fill_in_captures_and_keep_the_query() {
    let routes = "version: 1
routes:
  - { name: moved, match: { path: '/old/{*rest}' }, redirect: { to: '/new/{rest}' } }
  - { name: away, match: { path: '/away/{id}' }, redirect: { to: 'https://example.org/p/{id}?from=gate', status: 302 } }
";
    let gateway = Gateway::start(routes);
    for (path, status, place) in [
        ("/old/a/b", 308, "/new/a/b"),
        ("/old/a?x=1&y=%2F", 308, "/new/a?x=1&y=%2F"),
        ("/away/7", 302, "https://example.org/p/7?from=gate"),
        ("/away/7?x=1", 302, "https://example.org/p/7?from=gate&x=1"),
    ] {
        let answer = gateway.get(path);
        assert_eq!((answer.status, answer.header("location")), (status, Some(place)), "{path}");
        assert_eq!((answer.header("content-length"), answer.body.len()), (Some("0"), 0));
    }
    assert_eq!(gateway.request("POST", "/old/a", &[], b"body").status, 308);
    let away = gateway.get("/old/%2fevil.example");
    assert_eq!(away.status, 400, "what is captured never makes another host");
}

#[test]
fn answers_are_given_at_once_with_status_type_and_body() {
    let routes = "version: 1
routes:
  - { name: text, match: { path: /text }, respond: { body: 'Grüße' } }
  - { name: json, match: { path: /json }, respond: { status: 418, body: '{}', content_type: application/json } }
  - { name: empty, match: { path: /empty }, respond: { status: 204 } }
  - { name: unchanged, match: { path: /unchanged }, respond: { status: 304 } }
";
    let gateway = Gateway::start(routes);
    let text = gateway.get("/text");
    assert_eq!((text.status, text.text().as_str()), (200, "Grüße"));
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    let json = gateway.get("/json");
    assert_eq!((json.status, json.header("content-type")), (418, Some("application/json")));
    for (path, status) in [("/empty", 204), ("/unchanged", 304)] {
        let mut client = RawClient::connect(gateway.public());
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\nGET /text HTTP/1.1\r\nhost: a\r\n\r\n"));
        let bare = client.read_response();
        assert_eq!((bare.status, bare.header("content-length")), (status, None), "{path}");
        assert_eq!(client.read_response().text(), "Grüße", "the connection is in step behind {path}");
    }
    let mut client = RawClient::connect(gateway.public());
    client.send("HEAD /text HTTP/1.1\r\nhost: a\r\n\r\nPOST /text HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabcGET /json HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(client.read_response_to("HEAD").header("content-length"), Some("7"));
    assert_eq!(client.read_response().status, 200, "a body that nobody wants is drained");
    assert_eq!(client.read_response().status, 418);
}

#[test]
fn answers_have_their_fields_set_added_and_removed() {
    let upstream = RawUpstream::start(|_| {
        Script::answer(
            200,
            &[("server", "demo"), ("x-level", "upstream"), ("x-more", "one"), ("x-secret", "1")],
            "body",
        )
    });
    let routes = "defaults: { headers: { set: { X-Level: defaults, x-default: d }, remove: [server] } }
policies:
  strict: { headers: { set: { x-level: policy }, remove: [x-secret] } }
routes:
  - name: edited
    match: { path: /edited }
    use: [strict]
    upstream: all
    headers: { set: { x-level: route }, add: { x-more: two } }
  - { name: plain, match: { path: /plain }, upstream: all }
  - { name: own, match: { path: /own }, upstream: all, headers: { security: 'off', remove: [x-default], set: { server: mine } } }
";
    let gateway = Gateway::start(file(&[("all", &upstream)], routes));
    let answer = gateway.get("/edited");
    assert_eq!(answer.headers_named("x-level"), ["route"]);
    assert_eq!(answer.headers_named("x-more"), ["one", "two"]);
    assert_eq!((answer.header("server"), answer.header("x-secret")), (None, None));
    assert_eq!(answer.header("x-default"), Some("d"));
    let answer = gateway.get("/plain");
    assert_eq!((answer.headers_named("x-level"), answer.header("x-secret")), (vec!["defaults"], Some("1")));
    assert_eq!(answer.header("x-frame-options"), Some("DENY"));
    let answer = gateway.get("/own");
    assert_eq!((answer.header("server"), answer.header("x-default")), (Some("mine"), None), "the later word wins");
    assert_eq!(answer.header("x-frame-options"), None);
}

/// S2S-9: a preflight announces another method than its own, and carries neither credentials nor fields.
#[test]
fn s2s_9_preflights_are_answered_for_the_route_that_they_are_about() {
    let upstream = named("reached");
    let routes = "defaults: { cors: { origins: ['http://localhost:*'], max_age: 5m } }
routes:
  - { name: write, match: { path: '/players/{id}', methods: [PUT, DELETE] }, upstream: all }
  - { name: text, match: { path: /text, methods: [GET] }, respond: { body: text } }
";
    let gateway = Gateway::start(file(&[("all", &upstream)], routes));
    let ask = |path: &str, origin: &str, method: &str| {
        let fields =
            [("origin", origin), ("access-control-request-method", method), ("access-control-request-headers", "x-a")];
        gateway.request("OPTIONS", path, &fields, b"")
    };
    for (path, method, methods) in [("/players/7", "PUT", "PUT, DELETE"), ("/text", "GET", "GET")] {
        let answer = ask(path, "http://localhost:5173", method);
        assert_eq!(answer.status, 204, "{path}");
        for (name, value) in [
            ("access-control-allow-origin", "http://localhost:5173"),
            ("access-control-allow-methods", methods),
            ("access-control-allow-headers", "x-a"),
            ("access-control-max-age", "300"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path} {name}");
        }
    }
    let stranger = ask("/players/7", "https://evil.example", "PUT");
    assert_eq!(stranger.header("access-control-allow-origin"), None);
    assert_eq!(ask("/players/7", "http://localhost:5173", "POST").status, 405);
    assert_eq!(upstream.connections(), 0);
    let real = gateway.request("PUT", "/players/7", &[("origin", "http://localhost:5173")], b"x");
    assert_eq!((real.status, real.header("access-control-allow-origin")), (200, Some("http://localhost:5173")));
}

#[test]
fn a_query_of_the_rewrite_and_that_of_the_client_become_one() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let routes = format!(
        "version: 1\nupstreams: {{ up: {{ discovery: {{ static: [\"{}\"] }} }} }}\nroutes:\n  \
         - {{ name: item, match: {{ path: \"/items/{{id}}\" }}, upstream: up, rewrite: {{ path: \"/item?id={{id}}\" }} }}\n  \
         - {{ name: moved, match: {{ path: \"/moved/{{id}}\" }}, redirect: {{ to: \"/item?id={{id}}\" }} }}\n",
        upstream.address()
    );
    let gateway = Gateway::start(routes);
    for (query, joined) in [("?page=2", "&page=2"), ("", ""), ("?", ""), ("?id=13&a=b?c", "&id=13&a=b?c")] {
        assert_eq!(gateway.get(&format!("/items/12{query}")).status, 200);
        let seen = String::from_utf8(upstream.requests().pop().unwrap()).unwrap();
        assert!(seen.starts_with(&format!("GET /item?id=12{joined} HTTP/1.1\r\n")), "{query}: {seen}");
        let moved = gateway.get(&format!("/moved/12{query}"));
        assert_eq!(moved.header("location"), Some(&*format!("/item?id=12{joined}")), "{query}");
    }
}

#[test]
fn explain_says_what_becomes_of_a_path_with_parameters() {
    let folder = Folder::new();
    folder.write("conf/gateway.yaml", crate::support::gateway::CONFIG);
    folder.write(
        "routes.yaml",
        "version: 1\nroutes:\n  \
         - { name: secret, match: { path: /secret }, respond: {}, auth: { jwt: {} } }\n  \
         - { name: open, match: { path: \"/{*rest}\" }, respond: {} }\n",
    );
    let explain = |url: &str| {
        let out = crate::accounts::moongate(&folder, &["explain", "GET", url], "", &[]);
        out.stdout
    };
    assert!(explain("/secret;x").contains("400 bad_request"));
    assert!(!explain("/other;x").contains("400 bad_request"));
}

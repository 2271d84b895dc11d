//! The language of routes, as people write it every day: several paths, only hosts, schemes and listeners, values that are
//! filled in, and the fewest lines for what everybody needs.

use std::net::SocketAddr;

use crate::exchange::H2C;
use crate::support::http1::request_bytes;
use crate::support::{Ca, Gateway, H2Client, RawClient, RawUpstream, Request, Script, eventually};

fn routes(upstream: SocketAddr, routes: &[&str]) -> String {
    let list: String = routes.iter().map(|it| format!("  - {{ {it} }}\n")).collect();
    format!("version: 1\nupstreams: {{ app: {{ discovery: {{ static: [\"{upstream}\"] }} }} }}\nroutes:\n{list}")
}

/// Says which target and which of these fields arrived.
fn telling() -> RawUpstream {
    RawUpstream::start(|it: &Request| {
        let names = ["host", "x-a", "x-b", "x-c", "x-d", "cookie", "authorization"];
        let fields = names.iter().filter_map(|name| Some(format!("{name}={}", it.header(name)?)));
        let told: Vec<_> = [it.target()].into_iter().chain(fields).collect();
        Script::answer(200, &[("cache-control", "max-age=60")], told.join("|"))
    })
}

fn location(answer: &crate::support::Response) -> (u16, String) {
    (answer.status, answer.header("location").unwrap_or_default().to_owned())
}

#[test]
fn a_route_takes_several_paths_and_fills_in_what_they_capture() {
    let upstream = telling();
    let gateway = Gateway::start(routes(
        upstream.address(),
        &[
            "name: app, match: { paths: [\"/\", \"/players/{id}\", \"/{kind}/of/{id}\"] }, upstream: app, rewrite: { path: \"/got/{id}/{kind}\" }",
            "name: other, match: { path: \"/players/{id}/notes\" }, respond: { body: notes }",
        ],
    ));
    let target = |path| gateway.get(path).text().split('|').next().unwrap().to_owned();
    assert_eq!(target("/players/7"), "/got/7");
    assert_eq!(target("/notes/of/8"), "/got/8/notes");
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!((gateway.get("/players/7/notes").text(), gateway.get("/x").status), ("notes".to_owned(), 404));
    let text = |refused: crate::support::Response| {
        assert_eq!(refused.status, 422, "{}", refused.text());
        refused.text()
    };
    for (route, expected) in [
        ("name: a, match: { path: /a, paths: [/b] }, upstream: app", "`path` stands beside it"),
        ("name: a, match: {}, upstream: app", "it does not say which requests are meant"),
        ("name: a, match: { paths: [/a, \"/b/:id\"] }, upstream: app", "captures nothing here"),
        (
            "name: a, match: { paths: [\"/a/{id}\"] }, upstream: app, rewrite: { path: \"/{di}\" }",
            "the path captures no `di`",
        ),
    ] {
        gateway.write_routes(&routes(upstream.address(), &[route]));
        let found = text(gateway.reload());
        assert!(found.contains(expected), "{route}: {found}");
    }
    // Two routes clash if any of their paths do.
    gateway.write_routes(&routes(
        upstream.address(),
        &["name: a, match: { paths: [/x, /y] }, upstream: app", "name: b, match: { paths: [/z, /y] }, upstream: app"],
    ));
    assert!(text(gateway.reload()).contains("neither is more specific"));
}

#[test]
fn a_route_may_say_nothing_but_its_hosts() {
    let upstream = telling();
    let gateway = Gateway::start(routes(
        upstream.address(),
        &[
            "name: one, match: { hosts: [one.test] }, respond: { body: one }",
            "name: tenants, match: { hosts: [\"{tenant}.app.test\"] }, upstream: app, rewrite: { path: \"/of/{host.tenant}/{rest}\", headers: { set: { x-a: \"{host.tenant}\" } } }",
            "name: below, match: { hosts: [\"*.app.test\"] }, respond: { body: below }",
            "name: any, match: { hosts: [\"*\"] }, respond: { body: any }",
        ],
    ));
    let get = |host, path| gateway.request("GET", path, &[("host", host)], b"").text();
    assert_eq!(get("one.test", "/x/y"), "one");
    assert_eq!(get("ONE.test:80", "/"), "one");
    assert_eq!(get("acme.app.test", "/x"), "/of/acme/x|host=acme.app.test|x-a=acme");
    assert_eq!(get("a.acme.app.test", "/x"), "below");
    assert_eq!(get("other.test", "/x"), "any");
    for (hosts, expected) in
        [("[\"*\", a.test]", "it takes any host"), ("[\"a.{x}.test\"]", "one label is captured, at the beginning")]
    {
        gateway.write_routes(&routes(
            upstream.address(),
            &[&format!("name: a, match: {{ hosts: {hosts} }}, upstream: app")],
        ));
        let refused = gateway.reload();
        assert!(refused.status == 422 && refused.text().contains(expected), "{hosts}: {}", refused.text());
    }
}

const TWO: &str = "listeners:\n  public:\n    - { address: \"127.0.0.1:0\" }\n    - { address: \"127.0.0.1:0\", tls: { cert: tls/cert.pem, key: tls/key.pem } }\n  admin: { address: \"127.0.0.1:0\" }\n";

#[test]
fn scheme_and_listener_part_routes_and_plain_ones_are_sent_to_tls() {
    let upstream = telling();
    let ca = Ca::new("test");
    let text = routes(
        upstream.address(),
        &[
            "name: app, match: { hosts: [app.test] , scheme: https }, upstream: app",
            "name: second, match: { path: /second, listener: public-2 }, respond: { body: second }",
            "name: plain, match: { scheme: http, hosts: [\"*\"] }, redirect: https",
        ],
    );
    let builder = Gateway::with(text).config(TWO);
    ca.write_leaf(builder.folder(), "tls", &["app.test"]);
    let gateway = builder.start();
    let get = |path: &str| gateway.request("GET", path, &[("host", "APP.test:8080")], b"");
    assert_eq!(location(&get("/a%20b?c=d")), (308, "https://app.test/a%20b?c=d".to_owned()));
    assert_eq!(location(&get("/second")), (308, "https://app.test/second".to_owned()));
    let tls =
        eventually("the second listener", || gateway.listening().iter().find(|it| it.0 == "public-2").map(|it| it.1));
    let over_tls = |path: &str| {
        let mut client = RawClient::try_connect_tls(tls, "app.test", ca.client(&["http/1.1"], None)).unwrap();
        client.send(request_bytes(tls, "GET", path, &[("host", "app.test")], b""));
        client.read_response()
    };
    let answer = over_tls("/x");
    assert!(answer.text().starts_with("/x|"), "{}", answer.text());
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"), "for this host alone");
    assert_eq!(over_tls("/second").status, 200, "the host's own route is more specific");
    for (route, expected) in [
        ("name: a, match: { path: /a }, redirect: https", "in a circle"),
        ("name: a, match: { path: /a, scheme: ftp }, upstream: app", "ftp"),
    ] {
        gateway.write_routes(&routes(upstream.address(), &[route]));
        let refused = gateway.reload();
        assert!(refused.status == 422 && refused.text().contains(expected), "{route}: {}", refused.text());
    }
}

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[test]
fn one_route_takes_plain_requests_and_sockets() {
    let upstream = RawUpstream::start(|it| match it.header("upgrade") {
        Some(_) => Script::new().send(SWITCHED).await_close(),
        None => Script::ok("plain"),
    });
    let gateway = Gateway::with(routes(
        upstream.address(),
        &[
            "name: app, match: { path: \"/{*rest}\", websocket: allow }, upstream: app",
            "name: not, match: { path: /not }, upstream: app",
        ],
    ))
    .config(H2C)
    .start();
    assert_eq!(gateway.get("/x").text(), "plain");
    assert_eq!(H2Client::connect(gateway.public()).get("/x").text(), "plain");
    let handshake = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let refused = gateway.request("GET", "/not", &handshake, b"");
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (400, Some("upgrade_not_allowed")));
    let mut client = RawClient::connect(gateway.public());
    client.send(request_bytes(gateway.public(), "GET", "/socket", &handshake, b""));
    assert_eq!(client.read_head().status, 101);
}

#[test]
fn values_are_filled_in_from_a_closed_list() {
    let upstream = telling();
    let address = upstream.address();
    let text = format!(
        "version: 1\ndefaults:\n  request_headers: {{ set: {{ x-a: \"{{client_ip}}\", x-b: \"d\" }}, remove: [x-c] }}\n  \
         headers: {{ set: {{ x-id: \"{{request_id}}\", x-from: \"{{scheme}}://{{host}}\" }} }}\n\
         policies:\n  p: {{ request_headers: {{ set: {{ x-b: \"{{path.id}} at {{host}}\" }} }} }}\n\
         upstreams: {{ app: {{ discovery: {{ static: [\"{address}\"] }} }} }}\nroutes:\n  \
         - {{ name: a, match: {{ path: \"/a/{{id}}\" }}, use: [p], upstream: app, rewrite: {{ path: \"/b/{{path.id}}\", headers: {{ set: {{ x-d: \"{{path.id}}/{{principal.sub}}!\" }} }} }}, headers: {{ set: {{ x-path: \"{{path.id}}\" }} }} }}\n  \
         - {{ name: moved, match: {{ path: \"/moved/{{*rest}}\" }}, redirect: {{ to: \"{{scheme}}://{{host}}:8443/{{path.rest}}?id={{request_id}}\", status: 302 }} }}\n  \
         - {{ name: plain, match: {{ path: /plain }}, upstream: app }}\n"
    );
    let gateway = Gateway::start(text.clone());
    let fields = [("host", "App.test:80"), ("x-a", "forged"), ("X_A", "forged"), ("x-c", "gone")];
    let answer = gateway.request("GET", "/a/7%2Fx", &fields, b"");
    assert_eq!(answer.status, 400, "an encoded slash is one in two");
    let answer = gateway.request("GET", "/a/7", &fields, b"");
    assert_eq!(answer.text(), "/b/7|host=app.test|x-a=127.0.0.1|x-b=7 at app.test|x-d=7/!");
    assert_eq!(answer.header("x-id"), answer.header("x-request-id"));
    assert_eq!((answer.header("x-from"), answer.header("x-path")), (Some("http://app.test"), Some("7")));
    let plain = gateway.request("GET", "/plain", &fields, b"");
    assert_eq!(plain.text(), "/plain|host=app.test|x-a=127.0.0.1|x-b=d");
    let missing = gateway.request("GET", "/nowhere", &fields, b"");
    assert_eq!(missing.header("x-id"), missing.header("x-request-id"));
    let moved = gateway.request("GET", "/moved/a/b?c=d", &fields, b"");
    let id = moved.header("x-request-id").unwrap();
    assert_eq!(location(&moved), (302, format!("http://app.test:8443/a/b?id={id}&c=d")));
    // What a value says is not told again, since it may be a secret.
    for (from, to, expected) in [
        ("x-a: \"{client_ip}\"", "x-a: \"{client}\"", "nothing fills in"),
        ("x-a: \"{client_ip}\"", "x-a: \"$remote_addr\"", "nothing fills in"),
        ("x-path: \"{path.id}\"", "x-path: \"{id}\"", "nothing fills in"),
        ("x-path: \"{path.id}\"", "x-path: \"{path.di}\"", "the path captures no"),
        ("use: [p], ", "", ""),
        ("name: plain, match", "name: plain, use: [p], match", "the path captures no"),
        ("{host}:8443", "{user}:8443", "neither a path nor an address"),
    ] {
        let changed = text.replace(from, to);
        assert_ne!(changed, text, "{from}");
        gateway.write_routes(&changed);
        let reloaded = gateway.reload();
        let status = if expected.is_empty() { 200 } else { 422 };
        assert_eq!(reloaded.status, status, "{to}: {}", reloaded.text());
        assert!(reloaded.text().contains(expected), "{to}: {}", reloaded.text());
    }
}

/// What an upstream's own pages need is left to them; APIs and the gateway's own answers are closed.
#[test]
fn security_fields_leave_pages_working_unless_the_operator_says_strict() {
    let upstream = RawUpstream::start(|it| {
        let media = if it.target().contains("page") { "text/html; charset=utf-8" } else { "application/json" };
        Script::answer(200, &[("content-type", media)], "x")
    });
    let gateway = Gateway::start(routes(
        upstream.address(),
        &[
            "name: standard, match: { path: \"/standard/{*rest}\" }, upstream: app",
            "name: strict, match: { path: \"/strict/{*rest}\" }, upstream: app, headers: { security: strict }",
            "name: off, match: { path: \"/off/{*rest}\" }, upstream: app, headers: { security: \"off\" }",
        ],
    ));
    let fields = |path: &str| {
        let answer = gateway.get(path);
        ["content-security-policy", "x-frame-options", "cache-control", "x-content-type-options"]
            .map(|it| answer.header(it).map(|it| it.split(';').next().unwrap().to_owned()).unwrap_or_default())
    };
    assert_eq!(fields("/standard/page"), ["", "SAMEORIGIN", "", "nosniff"]);
    let closed = ["default-src 'self'", "DENY", "no-store", "nosniff"];
    for path in ["/standard/api", "/strict/page", "/strict/api", "/nowhere"] {
        assert_eq!(fields(path), closed, "{path}");
    }
    assert_eq!(fields("/off/page"), ["", "", "", ""]);
}

#[test]
fn the_cache_may_ignore_cookies() {
    let upstream = telling();
    let gateway = Gateway::start(routes(
        upstream.address(),
        &["name: a, match: { path: \"/{*rest}\" }, upstream: app, cache: { ttl: 60s, ignore_cookies: [seen, _ga*] }"],
    ));
    let get = |cookie: &str| gateway.request("GET", "/x", &[("cookie", cookie)], b"");
    let first = get("_ga=1; seen=yes");
    assert!(!first.text().contains("cookie"), "{}", first.text());
    assert!(get("_ga_X=2;seen=no").header("age").is_some(), "it is the same for all");
    let own = get("_ga=1; session=me");
    assert!(own.text().contains("cookie=session=me") && own.header("age").is_none(), "{}", own.text());
    gateway.write_routes(&routes(
        upstream.address(),
        &["name: a, match: { path: /a }, upstream: app, cache: { ignore_cookies: [\"a b\"] }"],
    ));
    assert!(gateway.reload().text().contains("not a cookie's name"));
}

#[test]
fn explain_and_the_admin_pages_say_all_of_it() {
    let upstream = telling();
    let gateway = Gateway::start(routes(
        upstream.address(),
        &[
            "name: app, match: { paths: [/a, /b], hosts: [app.test], scheme: https, listener: public, websocket: allow }, upstream: app, compress: [gzip]",
            "name: plain, match: { scheme: http, hosts: [\"*\"] }, redirect: https",
        ],
    ));
    let shown = gateway.admin_get("/admin/routes").json();
    let found = |name: &str| shown["routes"].as_array().unwrap().iter().find(|it| it["name"] == name).unwrap().clone();
    let app = found("app");
    assert_eq!(app["match"]["paths"], serde_json::json!(["/a", "/b"]));
    assert_eq!((&app["match"]["scheme"], &app["match"]["websocket"]), (&"https".into(), &"allow".into()));
    assert_eq!(found("plain")["action"], serde_json::json!({ "redirect": "https" }));
    let run = |url: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_moongate"))
            .args(["explain", "--routes", "routes.yaml", "GET", url])
            .current_dir(gateway.folder().path())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let told = run("https://app.test/b");
    assert!(told.contains("route      app") && told.contains("path       /b") && told.contains("compress"), "{told}");
    let told = run("http://app.test/b");
    assert!(told.contains("route      plain") && told.contains("redirect https"), "{told}");
    assert!(told.contains("scheme is not https"), "{told}");
}

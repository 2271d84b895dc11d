//! What `check` says to somebody who comes from another gateway, or is new to YAML: each hint is one that passes.

use super::silence::{CONFIG, FILES, ROUTES, check, moongate, refused};
use super::support::*;

const STATIC: &str = "discovery: { static: [\"127.0.0.1:9\"] }";

/// A route with one line of its own, which is the seventh.
fn route(line: &str) -> String {
    format!(
        "version: 1\nupstreams: {{ u: {{ {STATIC} }} }}\nroutes:\n  - name: a\n    match: {{ path: /a }}\n    upstream: u\n    \
         {line}\n"
    )
}

/// A route with a match of its own, in the fifth line.
fn matching(written: &str) -> String {
    route("body_limit: 10M").replace("match: { path: /a }", &format!("match: {written}"))
}

/// An upstream, in the third line.
fn upstream(written: &str) -> String {
    format!("version: 1\nupstreams:\n  u: {written}\nroutes:\n  - {{ name: a, match: {{ path: /a }}, upstream: u }}\n")
}

/// There is one fault, and what its hint shows between the first backticks passes in the place of what was written.
#[track_caller]
fn mended(folder: &Folder, form: impl Fn(&str) -> String, written: &str, ours: &str) {
    let told = check(folder, CONFIG, &form(written));
    assert!(told.len() == 1 && told[0].text.contains(&format!("`{ours}`")), "{written}: {told:#?}");
    let told = check(folder, CONFIG, &form(ours));
    assert!(told.is_empty(), "{ours}: {told:#?}");
}

#[test]
fn the_form_that_a_hint_shows_passes() {
    let folder = Folder::new();
    mended(&folder, upstream, "http://127.0.0.1:9/x", "{ discovery: { static: [\"127.0.0.1:9\"] } }");
    for (key, written, ours) in [
        ("tls", "true", "{ sni: api.example.org }"),
        ("health", "true", "{ http: /health }"),
        ("health", "/ready", "{ http: /ready }"),
        ("retries", "2", "{ attempts: 2 }"),
        ("health", "{ http: /h, expect: 200-299 }", "[200, 204]"),
        ("keep_alive", "{ idle: 0 }", "30s"),
    ] {
        let form = |text: &str| {
            let text = match ours {
                "[200, 204]" if text == ours => format!("{{ http: /h, expect: {text} }}"),
                "30s" if text == ours => format!("{{ idle: {text} }}"),
                _ => text.to_owned(),
            };
            upstream(&format!("{{ {STATIC}, {key}: {text} }}"))
        };
        mended(&folder, form, written, ours);
    }
    for (key, written, ours) in [
        ("auth", "jwt", "{ jwt: {} }"),
        ("auth", "true", "{ jwt: {} }"),
        ("auth", "api_key", "{ api_key: {} }"),
        ("timeouts", "20s", "{ request: 20s }"),
        ("timeouts", "20", "{ request: 30s }"),
    ] {
        mended(&folder, |text| route(&format!("{key}: {text}")), written, ours);
    }
    mended(&folder, |text| route(&format!("auth: {{ api_key: {text} }}")), "true", "{}");
    mended(&folder, |text| ROUTES.replace("version: 1", &format!("version: {text}")), "'1.0'", "1");
    mended(&folder, |text| matching(&format!("{{ path: {text} }}")), "/café", "/caf%C3%A9");
    let config = |address: &str| CONFIG.replacen("\"127.0.0.1:0\"", address, 1);
    refused(&folder, &config("8082"), ROUTES, &[(3, &["write it as `\"0.0.0.0:8082\"`"])]);
    assert!(check(&folder, &config("\"0.0.0.0:8082\""), ROUTES).is_empty());
}

#[test]
fn names_and_types_are_told_and_only_values_are_hidden() {
    let folder = Folder::new();
    for (routes, line, told) in [
        (matching("{ path: /a, query: { debug: true } }"), 5, "expected a text or a mapping, found true or false"),
        (matching("{ path: /a, headers: { x-a: { regex: \"canary\" } } }"), 5, "unknown key `regex`"),
        (
            route("rewrite: { headers: { set: { content-length: \"9\" } } }"),
            7,
            "`content-length` belongs to the connection or frames the message | leave it out",
        ),
        (route("rewrite: { headers: { set: { Host: b.test } } }"), 7, "`host` belongs to the connection"),
        (route("rewrite: { headers: { set: { x-a: \"%REQ(x)%\" } } }"), 7, "are filled in"),
        (route("rewrite: { headers: { set: { x-a: \"$(headers.x)\" } } }"), 7, "are filled in"),
        (route("rewrite: { headers: { set: { x-a: \"${request_id}\" } } }"), 7, "leave it out: upstreams and clients"),
    ] {
        refused(&folder, CONFIG, &routes, &[(line, &[told])]);
        let (_, human, _) = moongate(&folder, &[&["check"][..], &FILES].concat());
        assert!(!human.contains("canary"), "{human}");
    }
    // What stands in a brace where a secret is due may be the secret.
    let told = check(&folder, CONFIG, &matching("{ path: /a, headers: { x-a: { hunter-2: 1 } } }"));
    assert!(told.len() == 1 && !told[0].text.contains("hunter"), "{told:?}");
}

#[test]
fn what_other_gateways_call_a_thing_has_its_name_here() {
    let folder = Folder::new();
    let tls = |word: &str| upstream(&format!("{{ {STATIC}, {word} }}"));
    for (routes, line, ours) in [
        (tls("protocol: https"), 3, "`tls: { sni: NAME }`"),
        (tls("protocol: h2"), 3, "`http2`"),
        (tls("protocol: grpc"), 3, "`http2`"),
        (tls("balance: least_conn"), 3, "`least_request`"),
        (tls("tls: { sni: a.test, verify: false }"), 3, "always verified"),
        (tls("health: { http: /h, interval: 5s }"), 3, "`every: 5s`"),
        (tls("servers: [x]"), 3, "`discovery: { static: [\"127.0.0.1:9101\"] }`"),
        (route("client_max_body_size: 10m"), 7, "`body_limit: 10M`"),
        (route("proxy_read_timeout: 10s"), 7, "`timeouts: { first_byte: 30s }`"),
        (route("service: u"), 7, "`upstream: app`"),
        (route("proxy_pass: http://u"), 7, "`upstream: app`"),
        (route("rate_limits: [{ per: consumer, requests: 1, every: 1s }]"), 7, "`user`"),
        (route("rate_limits: [{ per: everybody, requests: 1, every: 1s }]"), 7, "ip, user, key, tenant, route, header"),
        (route("auth: { jwt: {}, from: [{ header: x }] }"), 7, "cookie, query"),
        (route("auth: { jwt: { from: [header] } }"), 7, "it belongs beside `jwt`"),
        (route("").replace("upstream: u", "upstream: http://127.0.0.1:9"), 6, "static: [\"127.0.0.1:9\"]"),
        (route("use: [nope]"), 7, "there are no policies"),
    ] {
        refused(&folder, CONFIG, &routes, &[(line, &[ours])]);
    }
    for (theirs, ours) in [("prefix", "`path: \"/a/{*rest}\"`"), ("location", "`path: /a`")] {
        let told = check(&folder, CONFIG, &matching(&format!("{{ {theirs}: /a }}")));
        assert!(told.iter().any(|it| it.text.contains(ours)), "{theirs}: {told:?}");
    }
    let listener = CONFIG.replacen(" }", ", tls: { certificate: a.pem, private_key: b.pem } }", 1);
    let told = check(&folder, &listener, ROUTES);
    for ours in ["`certificate` | write `cert`", "`private_key` | write `key`"] {
        assert!(told.iter().any(|it| it.text.contains(ours)), "{ours}: {told:?}");
    }
}

#[test]
fn the_hint_is_about_the_line_that_is_wrong() {
    let folder = Folder::new();
    let text = |lines: &str| format!("version: 1\nroutes:\n  - name: a\n{lines}    respond: {{}}\n");
    for (lines, line, hint) in [
        ("    match:\n      path: /foo/{*rest}\n      hosts: [*.example.org]\n", 6, "`\"*.example.org\"`"),
        ("    match: {\n      path: /foo/{*rest} }\n", 5, "`\"/foo/{*rest}\"`"),
        ("    match: { path: {id}/foo }\n", 4, "`\"{id}/foo\"`"),
        ("    match:\n      path: {id}/foo\n", 5, "`\"{id}/foo\"`"),
        ("    match: { path: /a }\n    upstream:\ta\n", 5, "not a tab"),
    ] {
        refused(&folder, CONFIG, &text(lines), &[(line, &["not YAML", hint])]);
    }
    for (text, line, hint) in [
        ("version: 1\nroutes:\n  -name: a\n   match: {}\n", 4, "as in `- name: a`"),
        ("version: 1\nroutes: [\n", 3, "line 2 opens a `[`"),
        (
            "version: 1\nroutes:\n  - { name: a, match: { path: /a }, respond: { body: a: b } }\n",
            3,
            "a text with a colon",
        ),
        ("", 1, "write at least `version: 1`"),
    ] {
        refused(&folder, CONFIG, text, &[(line, &[hint])]);
    }
    refused(&folder, "", ROUTES, &[(1, &["write `{}`"])]);
    let (code, _, stderr) = moongate(&folder, &["check", "--config", "none.yaml", "--routes", "routes.yaml"]);
    assert!(code == 1 && stderr.contains("--config") && stderr.contains("--routes"), "{stderr}");
}

#[test]
fn what_works_and_can_t_be_meant_is_a_warning() {
    let folder = Folder::new();
    let no_key = CONFIG.split("tokens:").next().unwrap().to_owned();
    let two = format!("version: 1\nupstreams: {{ u: {{ {STATIC} }}, v: {{ {STATIC} }}, e: {{ local: auth }} }}\n");
    let unused = two.clone() + "policies: { p: {} }\nroutes:\n  - { name: a, match: { path: /a }, upstream: e }\n";
    for (config, routes, expected) in [
        (CONFIG, route("body_limit: 0"), &["every request with a body"][..]),
        (CONFIG, route("timeouts: { first_byte: 60s, request: 5s }"), &["`request: 1m`"]),
        (CONFIG, route("timeouts: { first_byte: 60s }"), &["`request: 1m`"]),
        (CONFIG, matching("{ path: /a, headers: { x-y: \"*\" } }"), &["`{ present: true }`"]),
        (CONFIG, route("auth: { jwt: {}, permissions: [lamps.light] }"), &["no role permits `lamps.light` but"]),
        (&no_key, route("auth: { jwt: {} }"), &["no key that could verify one"]),
        (&no_key, route("auth: { service_token: {} }"), &["no key that could verify one"]),
        (&no_key, unused.clone(), &["upstream `u`", "nobody can sign in", "upstream `v`", "policy `p`"]),
        (&format!("{CONFIG}trusted_proxies: [0.0.0.0/0]\n"), ROUTES.to_owned(), &["everybody is a trusted proxy"]),
    ] {
        let told = check(&folder, config, &routes);
        let said = |part: &&str| told.iter().any(|it| it.severity == "warning" && it.text.contains(part));
        assert!(told.len() == expected.len() && expected.iter().all(said), "{expected:?}: {told:#?}");
    }
    for sound in ["timeouts: { request: 5s }", "auth: { api_key: {} }", "auth: { jwt: {}, permissions: [notes.read] }"]
    {
        assert!(check(&folder, CONFIG, &route(sound)).is_empty(), "{sound}");
    }
}

#[test]
fn a_route_that_is_the_begin_of_the_path_is_nearly_the_one() {
    let folder = Folder::new();
    folder.write("gateway.yaml", CONFIG);
    folder.write("routes.yaml", "version: 1\nroutes: [{ name: users, match: { path: /users }, respond: {} }]\n");
    let explain = |path: &str| moongate(&folder, &[&["explain", "GET", path][..], &FILES].concat()).1;
    assert!(explain("/users/7").contains("users  /users  the path goes on: write `/users/{*rest}`"));
    assert!(!explain("/players/7").contains("nearly"));
}

/// A client learns what is looked for and where; and if there is no key, that it is none of its faults.
#[test]
fn a_401_names_the_places_where_credentials_are_looked_for() {
    let gateway = Gateway::with(
        "version: 1\nroutes:\n  - { name: a, match: { path: /a }, respond: {}, auth: { jwt: {}, api_key: {} } }\n  \
         - { name: b, match: { path: /b }, respond: {}, auth: { jwt: {}, from: [{ cookie: session }] } }\n",
    )
    .start();
    let message = |path: &str, field: (&str, &str)| {
        let answer = gateway.request("GET", path, &[field], b"");
        assert_eq!(answer.status, 401);
        answer.json()["error"]["message"].as_str().unwrap().to_owned()
    };
    for field in [("authorization", "Basic YTpi"), ("authorization", "abc"), ("apikey", "abc")] {
        let told = message("/a", field);
        assert!(told.contains("`Authorization: Bearer ...`") && told.contains("`X-API-Key: ...`"), "{told}");
    }
    assert!(message("/b", ("authorization", "Bearer abc")).contains("in the cookie `session`"));
}

#[test]
fn networks_are_not_blocked_and_the_answer_says_so() {
    let gateway = Gateway::with("version: 1\nroutes: []\n").start();
    let answer = request(gateway.admin(), "PUT", "/admin/blocks/203.0.113.0/24", &[], b"");
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("networks can't be blocked"), "{}", answer.text());
}

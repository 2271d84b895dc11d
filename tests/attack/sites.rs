//! The gateway's administration against other sites, rebinding, and principals of tenants and of other issuers.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::http1::try_request;
use crate::support::tokens::*;
use crate::support::*;

/// What the command `moongate` says in this folder.
#[track_caller]
pub fn moongate(folder: &Folder, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moongate"));
    command.args(arguments).current_dir(folder.path()).env_clear().env("PROXY_JWT_SECRET", SECRET);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes()); // it need not read it
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A new API key.
#[track_caller]
pub fn api_key(folder: &Folder, name: &str, more: &[&str]) -> String {
    let mut arguments = vec!["keys", "api", name, "--config", "gateway.yaml"];
    arguments.extend(more);
    let said = moongate(folder, &arguments, "");
    let key = said.split_whitespace().find(|it| it.starts_with("mg_"));
    key.unwrap_or_else(|| panic!("no key in: {said}")).to_owned()
}

const NOTHING: &str = "{ version: 1, routes: [] }";

#[track_caller]
fn refused(answer: &Response, status: u16, code: &str) {
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (status, &json!(code)), "{}", answer.text());
}

/// Sends this very head, with this `Host`.
fn with_host(address: SocketAddr, method: &str, path: &str, host: &str) -> Response {
    let mut client = RawClient::connect(address);
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"));
    client.read_response_to(method)
}

#[test]
fn a_name_that_was_bound_anew_to_the_loopback_address_opens_nothing() {
    let config = "listeners: { public: [{ address: \"127.0.0.1:0\" }], admin: { address: \"127.0.0.1:0\", hosts: [admin.example] } }";
    let gateway = Gateway::with(NOTHING).config(config).start();
    let generation = || gateway.admin_get("/admin/config").json()["generation"].clone();
    let before = generation();
    for host in ["evil.example", "evil.example:9090", "127.0.0.1.evil.example", "localhost.evil.example"] {
        for (method, path) in
            [("GET", "/admin/config"), ("GET", "/metrics"), ("GET", "/api/v1/health/ready"), ("POST", "/admin/reload")]
        {
            refused(&with_host(gateway.admin(), method, path, host), 421, "host_not_served");
        }
    }
    let mut absolute = RawClient::connect(gateway.admin());
    absolute.send("GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(absolute.read_response().status >= 400, "the target's authority is the host");
    assert_eq!(generation(), before);
    // Probes and operators call by address, as localhost, or by a name that is listed.
    for host in ["127.0.0.1:9090", "127.0.0.1", "10.0.0.7:9090", "[::1]:9090", "localhost", "Admin.example:9090"] {
        assert_eq!(with_host(gateway.admin(), "GET", "/api/v1/health/ready", host).status, 200, "{host}");
    }
    let mut old = RawClient::connect(gateway.admin());
    old.send("GET /api/v1/health/live HTTP/1.0\r\n\r\n");
    assert_eq!(old.read_response().status, 200, "a load balancer's check without a host");
}

#[test]
fn pages_of_other_sites_reach_no_page_and_do_no_deed() {
    let gateway = Gateway::start(NOTHING);
    let own = format!("http://{}", gateway.admin());
    let ask = |method: &str, path: &str, field: (&str, &str), body: &str| {
        let headers = [field, ("content-type", "application/json")];
        try_request(gateway.admin(), method, path, &headers, body.as_bytes()).unwrap()
    };
    for field in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("origin", "http://localhost:1"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        for (method, path, body) in [
            ("GET", "/admin/config", ""),
            ("GET", "/metrics", ""),
            ("POST", "/admin/reload", ""),
            ("POST", "/admin/cache/purge", "{\"all\":true}"),
            ("PUT", "/admin/blocks/203.0.113.9", ""),
            ("DELETE", "/admin/blocks/203.0.113.9", ""),
            ("OPTIONS", "/admin/reload", ""),
        ] {
            refused(&ask(method, path, field, body), 403, "foreign_origin");
        }
    }
    assert_eq!(gateway.admin_get("/admin/blocks").json()["blocks"], json!([]));
    assert_eq!(ask("POST", "/admin/reload", ("origin", &own), "").status, 200);
    assert_eq!(ask("GET", "/admin/config", ("sec-fetch-site", "none"), "").status, 200);
}

#[test]
fn a_body_that_a_form_can_send_is_not_taken() {
    let gateway = Gateway::start(NOTHING);
    for media_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""] {
        let headers = [("content-type", media_type)];
        let purge = try_request(gateway.admin(), "POST", "/admin/cache/purge", &headers, b"{\"all\":true}").unwrap();
        refused(&purge, 415, "unsupported_media_type");
        let block = try_request(gateway.admin(), "PUT", "/admin/blocks/203.0.113.9", &headers, b"{}").unwrap();
        refused(&block, 415, "unsupported_media_type");
    }
    let headers = [("content-type", "Application/JSON; charset=utf-8")];
    let purge = try_request(gateway.admin(), "POST", "/admin/cache/purge", &headers, b"{\"all\":true}").unwrap();
    assert_eq!(purge.status, 200);
}

#[test]
fn s2s_30_admin_answers_are_like_all_others() {
    let gateway = Gateway::start(NOTHING);
    for (method, path, status, code, allow) in [
        ("GET", "/admin/config", 200, None, None),
        ("GET", "/metrics", 200, None, None),
        ("HEAD", "/api/v1/health/live", 200, None, None),
        ("POST", "/admin/config", 405, Some("method_not_allowed"), Some("GET,HEAD")),
        ("GET", "/admin/reload", 405, Some("method_not_allowed"), Some("POST")),
        ("GET", "/nowhere", 404, Some("route_not_found"), None),
        ("DELETE", "/admin/blocks/203.0.113.9", 404, Some("not_blocked"), None),
    ] {
        let mut client = RawClient::connect(gateway.admin());
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", gateway.admin()));
        let answer = client.read_response_to(method);
        assert_eq!((answer.status, answer.header("allow")), (status, allow), "{method} {path}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{method} {path}");
        }
        let id = answer.header("x-request-id").unwrap_or_else(|| panic!("no id on {method} {path}"));
        if let Some(code) = code {
            refused(&answer, status, code);
            assert_eq!(answer.json()["error"]["request_id"], id);
        }
        let line = gateway.access_log_for(id);
        assert_eq!(
            (&line["event"], &line["method"], &line["path"], &line["status"], &line["error"]),
            (&json!("admin_request"), &json!(method), &json!(path), &json!(status), &json!(code))
        );
    }
}

/// A gateway whose admin listener is away from loopback, and the address at which it can be reached.
fn away(builder: GatewayBuilder) -> (Gateway, SocketAddr) {
    let config = "listeners:\n  public: [{ address: \"127.0.0.1:0\" }]\n  admin: { address: \"0.0.0.0:0\" }\n\
                  tokens: { hs256_secret: \"${PROXY_JWT_SECRET}\", trust: [{ name: clinic, issuer: \"https://clinic.example\", \
                  jwks: clinic.json, algorithms: [ES256], roles: [admin] }] }\n";
    let gateway = builder.config(config).env("PROXY_JWT_SECRET", SECRET).start();
    let address = SocketAddr::from(([127, 0, 0, 1], gateway.admin().port()));
    (gateway, address)
}

const DEEDS: [(&str, &str); 5] = [
    ("GET", "/metrics"),
    ("GET", "/admin/config"),
    ("POST", "/admin/reload"),
    ("POST", "/admin/cache/purge"),
    ("PUT", "/admin/blocks/203.0.113.9"),
];

#[test]
fn the_gateway_is_administered_by_its_own_people_without_a_tenant_within_their_scopes() {
    let clinic = Signer::es256("k");
    let builder = Gateway::with(NOTHING).file("clinic.json", json!({ "keys": [clinic.jwk] }).to_string());
    let (_gateway, admin) = away(builder);
    let ours = |changes: Value| {
        let said = with(with(claims("ada", &["admin"]), json!({ "tenant": null, "scope": null })), changes);
        sign_hs256("{\"alg\":\"HS256\"}", &said.to_string(), SECRET.as_bytes())
    };
    let ask = |(method, path): (&str, &str), token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", &*bearer), ("content-type", "application/json")];
        let body = if path.ends_with("purge") { "{\"all\":true}" } else { "" };
        try_request(admin, method, path, &headers, body.as_bytes()).unwrap()
    };
    let foreign =
        with(claims("dr", &["admin"]), json!({ "iss": "https://clinic.example", "tenant": null, "scope": null }));
    for (who, token) in [
        ("a tenant's admin", ours(json!({ "tenant": "acme" }))),
        ("a tenant's operator", ours(json!({ "tenant": "acme", "roles": ["operator"] }))),
        ("an admin's token for reading only", ours(json!({ "scope": "read.only" }))),
        ("another issuer's admin, though the role is listed", clinic.sign(&foreign)),
        ("a user", ours(json!({ "roles": ["user"] }))),
    ] {
        for deed in DEEDS {
            let answer = ask(deed, &token);
            assert_eq!((answer.status, &answer.json()["error"]["code"]), (403, &json!("forbidden")), "{who} {deed:?}");
        }
    }
    for deed in DEEDS {
        assert!(ask(deed, &ours(json!({}))).status < 300, "{deed:?}");
    }
    let metrics_alone = ours(json!({ "scope": "metrics.read" }));
    let opened: Vec<bool> = DEEDS.iter().map(|it| ask(*it, &metrics_alone).status == 200).collect();
    assert_eq!(opened, [true, false, false, false, false]);
}

#[test]
fn an_api_key_opens_the_admin_pages_that_its_roles_permit() {
    let routes = "version: 1\nroles: { operator: [chat.use], watcher: [metrics.read], reader: [admin.read, metrics.read] }\nroutes: []";
    let builder = Gateway::with(routes).file("clinic.json", json!({ "keys": [Signer::es256("k").jwk] }).to_string());
    builder.folder().write("gateway.yaml", "{}");
    builder.folder().write("routes.yaml", routes); // says what roles there are
    let key = |name: &str, more: &[&str]| api_key(builder.folder(), name, more);
    let operator = key("ops", &["--role", "operator"]);
    let watcher = key("prometheus", &["--role", "watcher"]);
    let reader = key("reader", &["--role", "reader"]);
    let scoped = key("scoped", &["--role", "operator", "--scope", "metrics.read"]);
    let tenant = key("acme", &["--role", "operator", "--tenant", "acme"]);
    let (_gateway, admin) = away(builder);
    let opened = |key: &str| -> Vec<u16> {
        let asked = [("GET", "/metrics"), ("GET", "/admin/config"), ("POST", "/admin/reload")].iter();
        asked
            .map(|(method, path)| try_request(admin, method, path, &[("x-api-key", key)], b"").unwrap().status)
            .collect()
    };
    assert_eq!(opened(&operator), [200, 200, 200]);
    assert_eq!(opened(&watcher), [200, 403, 403]);
    assert_eq!(opened(&reader), [200, 200, 403]);
    assert_eq!(opened(&scoped), [200, 403, 403]);
    assert_eq!(opened(&tenant), [403, 403, 403]);
    let wrong = format!("{}0", &operator[..operator.len() - 1]);
    assert_eq!(opened(&wrong), if wrong == operator { [200; 3] } else { [401; 3] });
    // As Prometheus sends it.
    let bearer = format!("Bearer {operator}");
    assert_eq!(try_request(admin, "GET", "/metrics", &[("authorization", &bearer)], b"").unwrap().status, 200);
    let both = [("authorization", &*bearer), ("x-api-key", &*operator)];
    assert_eq!(try_request(admin, "GET", "/metrics", &both, b"").unwrap().status, 401, "two could be two people");
}

const USERS: &str = "version: 1
upstreams: { auth: { local: auth } }
routes:
  - { name: users, match: { path: \"/api/v1/users\" }, upstream: auth, auth: { jwt: {}, api_key: {} } }
  - { name: user, match: { path: \"/api/v1/users/{id}\" }, upstream: auth, auth: { jwt: {}, api_key: {} } }
  - { name: who, match: { path: /admins }, respond: {}, auth: { jwt: {}, roles: [admin] } }
";

/// A gateway with the users of `ROUTES`, that trusts two issuers: one may give no role, one every role of ours.
fn with_users(users: &[&[&str]]) -> (Gateway, Signer) {
    let clinic = Signer::es256("k");
    let keys = json!({ "keys": [clinic.jwk] }).to_string();
    let config = format!(
        "{}tokens: {{ hs256_secret: \"${{PROXY_JWT_SECRET}}\", trust: [\
         {{ name: mute, issuer: \"https://mute.example\", jwks: clinic.json, algorithms: [ES256] }}, \
         {{ name: loud, issuer: \"https://loud.example\", jwks: clinic.json, algorithms: [ES256], roles: [admin] }}] }}\n",
        gateway::CONFIG.trim_start()
    );
    let builder = Gateway::with(USERS).config(&config).env("PROXY_JWT_SECRET", SECRET).file("clinic.json", keys);
    builder.folder().write("gateway.yaml", &config);
    for user in users {
        let mut arguments = vec!["users", "add", "--config", "gateway.yaml", "--generate"];
        arguments.extend(*user);
        moongate(builder.folder(), &arguments, "");
    }
    (builder.start(), clinic)
}

fn send(gateway: &Gateway, method: &str, path: &str, token: &str, body: &Value) -> Response {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", &*bearer), ("content-type", "application/json")];
    gateway.request(method, path, &headers, if body.is_null() { String::new() } else { body.to_string() })
}

fn new_user(name: &str, roles: &[&str]) -> Value {
    json!({ "username": name, "password": "correct horse battery", "roles": roles })
}

#[test]
fn r4_5_a_trusted_issuer_gives_no_role_that_is_not_listed_and_makes_no_admin() {
    let (gateway, signer) = with_users(&[]);
    let of = |issuer: &str| {
        signer.sign(&with(claims("x", &["admin"]), json!({ "iss": issuer, "tenant": null, "scope": null })))
    };
    let (mute, loud) = (of("https://mute.example"), of("https://loud.example"));
    assert_eq!(send(&gateway, "GET", "/admins", &mute, &Value::Null).status, 403, "the role was not listed");
    assert_eq!(send(&gateway, "GET", "/admins", &loud, &Value::Null).status, 200);
    for token in [&mute, &loud] {
        refused(&send(&gateway, "POST", "/api/v1/users", token, &new_user("eve", &["admin"])), 403, "forbidden");
        refused(&send(&gateway, "GET", "/api/v1/users", token, &Value::Null), 403, "forbidden");
    }
    assert!(!moongate(gateway.folder(), &["users", "list", "--config", "gateway.yaml"], "").contains("eve"));
}

#[test]
fn us_009_a_tenants_admin_gives_no_role_beyond_their_own_and_touches_nobody_who_has_one() {
    let (gateway, _) = with_users(&[
        &["ops", "--role", "operator", "--tenant", "acme"],
        &["bob", "--role", "user", "--tenant", "acme"],
        &["eve", "--role", "user", "--tenant", "other"],
    ]);
    // Here an admin's roles do not permit everything, and so not what other roles are there for.
    let roles = "roles: { admin: [users.manage], user: [chat.send], operator: ['metrics.*'], service: [usage.write], \
                 clinician: ['notes.*'] }";
    gateway.folder().write("routes.yaml", format!("{USERS}\n{roles}\n"));
    assert_eq!(gateway.reload().status, 200);
    let token = |changes: Value| {
        let said = with(with(claims("boss", &["admin", "user"]), json!({ "tenant": "acme", "scope": null })), changes);
        sign_hs256("{\"alg\":\"HS256\"}", &said.to_string(), SECRET.as_bytes())
    };
    let (boss, root) = (token(json!({})), token(json!({ "tenant": null })));
    let list = send(&gateway, "GET", "/api/v1/users", &root, &Value::Null).json();
    let id = |name: &str| {
        let users = list["users"].as_array().unwrap();
        let user = users.iter().find(|it| it["username"] == name).unwrap();
        format!("/api/v1/users/{}", user["id"].as_str().unwrap())
    };
    for roles in [&["operator"][..], &["user", "service"], &["clinician"]] {
        refused(&send(&gateway, "POST", "/api/v1/users", &boss, &new_user("new", roles)), 403, "forbidden");
        refused(&send(&gateway, "PATCH", &id("bob"), &boss, &json!({ "roles": roles })), 403, "forbidden");
    }
    // Whoever sets a password is whom they like.
    for change in [json!({ "password": "correct horse battery" }), json!({ "active": false }), json!({ "roles": [] })] {
        refused(&send(&gateway, "PATCH", &id("ops"), &boss, &change), 403, "forbidden");
    }
    refused(&send(&gateway, "PATCH", &id("eve"), &boss, &json!({ "active": false })), 404, "not_found");
    let created = send(&gateway, "POST", "/api/v1/users", &boss, &new_user("new", &["admin"]));
    assert_eq!((created.status, &created.json()["tenant"]), (201, &json!("acme")), "an admin of the same tenant");
    assert_eq!(send(&gateway, "PATCH", &id("bob"), &boss, &json!({ "active": false })).status, 200);
    assert_eq!(send(&gateway, "PATCH", &id("ops"), &root, &json!({ "roles": ["user"] })).status, 200);
    // A credential with scopes is for these alone.
    let reader = token(json!({ "scope": "users.read" }));
    assert_eq!(send(&gateway, "GET", &id("bob"), &reader, &Value::Null).status, 200);
    refused(&send(&gateway, "PATCH", &id("bob"), &reader, &json!({ "active": true })), 403, "forbidden");
    let other = token(json!({ "scope": "read.only" }));
    refused(&send(&gateway, "GET", &id("bob"), &other, &Value::Null), 403, "forbidden");
}

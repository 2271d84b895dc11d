//! The local service `auth`: session tokens, sign-in, refresh, sign-out, users, keys.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde_json::{Value, json};

use super::accounts::moongate;
use super::support::gateway::GatewayBuilder;
use super::support::http1::Response;
use super::support::*;

pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
const PASSWORD: &str = "correct horse battery";

pub const ROUTES: &str = r#"
version: 1
upstreams:
  auth: { local: auth }
routes:
  - { name: tokens, match: { path: "/api/v1/session/token" }, upstream: auth }
  - { name: auth, match: { path: "/api/v1/auth/{*rest}" }, upstream: auth }
  - { name: users, match: { path: "/api/v1/users" }, upstream: auth }
  - { name: user, match: { path: "/api/v1/users/{id}" }, upstream: auth }
  - { name: well-known, match: { path: "/.well-known/{*rest}" }, upstream: auth }
"#;

pub fn config(more: &str) -> String {
    format!("{}\ntokens: {{ hs256_secret: \"${{PROXY_JWT_SECRET}}\" }}\n{more}\n", gateway::CONFIG)
}

pub fn builder(more: &str) -> GatewayBuilder {
    Gateway::with(ROUTES).config(config(more)).env("PROXY_JWT_SECRET", SECRET)
}

/// Users that are there before the gateway starts.
#[track_caller]
fn with_users(builder: GatewayBuilder, users: &[(&str, &str)]) -> Gateway {
    builder.folder().write("conf/gateway.yaml", gateway::CONFIG);
    for (name, role) in users {
        let added = moongate(builder.folder(), &["users", "add", name, "--role", role], PASSWORD, &[]);
        assert_eq!(added.code, 0, "{}", added.stderr);
    }
    builder.start()
}

#[track_caller]
fn gateway(users: &[(&str, &str)]) -> Gateway {
    with_users(builder(""), users)
}

pub fn uuid() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("00000000-0000-4000-8000-{:012x}", NEXT.fetch_add(1, Ordering::Relaxed))
}

#[track_caller]
fn post(gateway: &Gateway, path: &str, body: &Value) -> Response {
    post_as(gateway, path, body, None)
}

#[track_caller]
fn post_as(gateway: &Gateway, path: &str, body: &Value, token: Option<&str>) -> Response {
    send(gateway, "POST", path, body, token)
}

#[track_caller]
fn send(gateway: &Gateway, method: &str, path: &str, body: &Value, token: Option<&str>) -> Response {
    let bearer = format!("Bearer {}", token.unwrap_or_default());
    let mut fields = vec![("content-type", "application/json")];
    if token.is_some() {
        fields.push(("authorization", &*bearer));
    }
    gateway.request(method, path, &fields, if body.is_null() { String::new() } else { body.to_string() })
}

#[track_caller]
fn ask_token(gateway: &Gateway, body: &Value) -> Response {
    let fields = [("content-type", "application/json"), ("x-client-version", "web/1.0")];
    gateway.request("POST", "/api/v1/session/token", &fields, body.to_string())
}

#[track_caller]
pub fn json_of(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or_else(|_| panic!("{}", response.text()))
}

#[track_caller]
pub fn refused(response: &Response, status: u16, code: &str) -> Value {
    let body = json_of(response);
    assert_eq!((response.status, body["error"]["code"].as_str()), (status, Some(code)), "{body}");
    assert_eq!(body["error"]["request_id"].as_str(), response.header("x-request-id"), "{body}");
    let keys: Vec<&String> = body["error"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["code", "message", "details", "request_id", "suggested_action"]);
    body["error"].clone()
}

#[track_caller]
fn login(gateway: &Gateway, name: &str) -> Value {
    let answer = post(gateway, "/api/v1/auth/login", &json!({ "username": name, "password": PASSWORD }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    json_of(&answer)
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

pub fn claims(token: &str) -> Value {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

// ── PX-1 ─────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn px_1_a_session_token_is_signed_with_the_secret_and_lives_five_minutes() {
    let gateway = gateway(&[]);
    let answer = ask_token(&gateway, &json!({ "clientId": "browser-7", "nonce": uuid() }));
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let body = json_of(&answer);
    assert_eq!((body["expiresInSec"].as_u64(), body.as_object().unwrap().len()), (Some(300), 2));
    let mut rules = Validation::new(Algorithm::HS256);
    rules.set_audience(&["tta"]);
    rules.set_issuer(&["moongate"]);
    let key = DecodingKey::from_secret(SECRET.as_bytes());
    let claims = decode::<Value>(text(&body, "token"), &key, &rules).unwrap().claims;
    assert_eq!((&claims["sub"], &claims["roles"]), (&"client:browser-7".into(), &json!([])));
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 300);
    assert!(claims["jti"].is_string() && claims["nbf"].is_u64());
}

#[test]
fn px_1_a_nonce_works_once() {
    let gateway = gateway(&[]);
    let nonce = "3f0c9a1e-5b7d-4c22-86aa-10f4be9d7c55";
    assert_eq!(ask_token(&gateway, &json!({ "clientId": "a", "nonce": nonce })).status, 200);
    for (client, again) in [("a", nonce.to_owned()), ("b", nonce.to_owned()), ("a", nonce.to_uppercase())] {
        let answer = ask_token(&gateway, &json!({ "clientId": client, "nonce": again }));
        refused(&answer, 401, "nonce_used");
        assert!(answer.header("www-authenticate").is_some());
    }
    assert_eq!(ask_token(&gateway, &json!({ "clientId": "a", "nonce": uuid() })).status, 200);
}

#[test]
fn px_1_of_many_with_one_nonce_one_gets_a_token() {
    let gateway = gateway(&[]);
    let body = json!({ "clientId": "a", "nonce": uuid() });
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let asks: Vec<_> = (0..16).map(|_| scope.spawn(|| ask_token(&gateway, &body).status)).collect();
        asks.into_iter().map(|it| it.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|it| **it == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|it| **it == 401).count(), 15, "{statuses:?}");
}

#[test]
fn px_1_every_bad_input_is_a_400_that_names_the_field() {
    let gateway = gateway(&[]);
    let good = json!({ "clientId": "a", "nonce": uuid() }).to_string();
    let nonce = uuid();
    let version = ("x-client-version", "web/1.0");
    let media = ("content-type", "application/json");
    let long = "x".repeat(129);
    for (field, fields, body) in [
        ("X-Client-Version", &[media][..], good.clone()),
        ("X-Client-Version", &[media, ("x-client-version", "a b")], good.clone()),
        ("Content-Type", &[version], good.clone()),
        ("Content-Type", &[version, ("content-type", "text/plain")], good.clone()),
        ("body", &[version, media], "{".to_owned()),
        ("body", &[version, media], "[]".to_owned()),
        ("body", &[version, media], format!("{{\"clientId\":\"{}\"}}", "x".repeat(20_000))),
        ("clientId", &[version, media], json!({ "nonce": nonce }).to_string()),
        ("clientId", &[version, media], json!({ "clientId": 7, "nonce": nonce }).to_string()),
        ("clientId", &[version, media], json!({ "clientId": "", "nonce": nonce }).to_string()),
        ("clientId", &[version, media], json!({ "clientId": long, "nonce": nonce }).to_string()),
        ("nonce", &[version, media], json!({ "clientId": "a" }).to_string()),
        ("nonce", &[version, media], json!({ "clientId": "a", "nonce": "1" }).to_string()),
    ] {
        let answer = gateway.request("POST", "/api/v1/session/token", fields, &body);
        let error = refused(&answer, 400, "invalid_request");
        assert_eq!(error["details"]["field"], field, "{body:.200}");
    }
    let answer = gateway.get("/api/v1/session/token");
    refused(&answer, 405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("POST"));
    // None of them used the nonce up.
    assert_eq!(ask_token(&gateway, &json!({ "clientId": "a", "nonce": nonce })).status, 200);
}

#[test]
fn px_1_without_the_state_no_token_is_given() {
    let mut redis = Redis::start();
    let more = format!("state: {{ redis: {{ url: '{}' }} }}", redis.url());
    let gateway = with_users(builder(&more), &[]);
    let nonce = uuid();
    assert_eq!(ask_token(&gateway, &json!({ "clientId": "a", "nonce": nonce })).status, 200);
    redis.stop();
    let answer = ask_token(&gateway, &json!({ "clientId": "a", "nonce": uuid() }));
    refused(&answer, 503, "state_unavailable");
    assert!(answer.header("retry-after").is_some());
}

#[test]
fn px_1_session_tokens_are_good_for_what_the_operator_says() {
    let more = "auth: { session_token: { roles: [guest], scopes: [chat, bench] } }";
    let gateway = with_users(builder(more), &[]);
    let body = json_of(&ask_token(&gateway, &json!({ "clientId": "a", "nonce": uuid() })));
    let claims = claims(text(&body, "token"));
    assert_eq!((&claims["roles"], &claims["scope"]), (&json!(["guest"]), &"chat bench".into()));
}

#[test]
fn px_1_too_many_get_429_with_retry_after() {
    let limited = ROUTES.replace(
        "match: { path: \"/api/v1/session/token\" }",
        "match: { path: \"/api/v1/session/token\" }, rate_limits: [{ per: ip, requests: 30, every: 1m, burst: 3 }]",
    );
    let gateway = Gateway::with(limited).config(config("")).env("PROXY_JWT_SECRET", SECRET).start();
    let ask = || ask_token(&gateway, &json!({ "clientId": "a", "nonce": uuid() }));
    for _ in 0..3 {
        assert_eq!(ask().status, 200);
    }
    let answer = ask();
    assert_eq!(answer.status, 429, "{}", answer.text());
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
}

// ── Sign-in ──────────────────────────────────────────────────────────────────────────────────────

#[test]
fn r4_1_a_sign_in_gives_an_access_token_and_a_refresh_token() {
    let gateway = gateway(&[("ada", "clinician")]);
    let tokens = login(&gateway, "ada");
    assert_eq!((&tokens["token_type"], tokens["expires_in"].as_u64()), (&"Bearer".into(), Some(300)));
    let claims = claims(text(&tokens, "access_token"));
    assert_eq!(
        (&claims["roles"], &claims["iss"], &claims["aud"]),
        (&json!(["clinician"]), &"moongate".into(), &json!(["tta"]))
    );
    assert_eq!(text(&tokens, "refresh_token").len(), 43, "256 bits");
    let on_disk: Vec<u8> = std::fs::read_dir(gateway.folder().path().join("data"))
        .unwrap()
        .flat_map(|it| std::fs::read(it.unwrap().path()).unwrap())
        .collect();
    let refresh = text(&tokens, "refresh_token").as_bytes();
    assert!(!on_disk.windows(refresh.len()).any(|it| it == refresh), "the token itself is not kept");
}

#[test]
fn r4_1_a_wrong_password_an_unknown_and_a_disabled_user_are_the_same() {
    let gateway = gateway(&[("ada", "user"), ("bob", "user")]);
    let disabled = moongate(gateway.folder(), &["users", "disable", "bob"], "", &[]);
    assert_eq!(disabled.code, 0);
    let try_it = |name: &str, password: &str| {
        let body = json!({ "username": name, "password": password });
        refused(&post(&gateway, "/api/v1/auth/login", &body), 401, "invalid_credentials")["message"].clone()
    };
    let said = [try_it("ada", "wrong password"), try_it("nobody", PASSWORD), try_it("bob", PASSWORD)];
    assert!(said.iter().all(|it| *it == said[0]), "{said:?}");
    let answer = post(&gateway, "/api/v1/auth/login", &json!({ "username": "ada" }));
    assert_eq!(refused(&answer, 400, "invalid_request")["details"]["field"], "password");
}

#[test]
fn r4_1_guessing_passwords_is_stopped() {
    let gateway = gateway(&[("ada", "user"), ("bob", "user")]);
    let guess = json!({ "username": "ada", "password": "a wrong guess" });
    for _ in 0..10 {
        refused(&post(&gateway, "/api/v1/auth/login", &guess), 401, "invalid_credentials");
    }
    let answer = post(&gateway, "/api/v1/auth/login", &guess);
    refused(&answer, 429, "too_many_attempts");
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=31).contains(&wait), "{wait}");
    let right = json!({ "username": "ada", "password": PASSWORD });
    refused(&post(&gateway, "/api/v1/auth/login", &right), 429, "too_many_attempts");
    login(&gateway, "bob");
}

#[test]
fn r4_3_a_refresh_token_rotates() {
    let gateway = gateway(&[("ada", "user")]);
    let first = login(&gateway, "ada");
    let refresh = |token: &str| post(&gateway, "/api/v1/auth/refresh", &json!({ "refresh_token": token }));
    let second = json_of(&refresh(text(&first, "refresh_token")));
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    let (one, two) = (claims(text(&first, "access_token")), claims(text(&second, "access_token")));
    assert_eq!((&one["sid"], &one["sub"]), (&two["sid"], &two["sub"]));
    assert_ne!(one["jti"], two["jti"]);
    assert_eq!(refresh(text(&second, "refresh_token")).status, 200);
    refused(&refresh("never-seen"), 401, "invalid_token");
}

#[test]
fn r4_3_a_refresh_token_that_is_used_twice_ends_its_family() {
    let gateway = gateway(&[("ada", "admin")]);
    let (first, other) = (login(&gateway, "ada"), login(&gateway, "ada"));
    let refresh = |token: &str| post(&gateway, "/api/v1/auth/refresh", &json!({ "refresh_token": token }));
    let second = json_of(&refresh(text(&first, "refresh_token")));
    let users = |token: &str| send(&gateway, "GET", "/api/v1/users", &Value::Null, Some(token));
    assert_eq!(users(text(&second, "access_token")).status, 200);
    refused(&refresh(text(&first, "refresh_token")), 401, "invalid_token");
    refused(&refresh(text(&second, "refresh_token")), 401, "invalid_token");
    for tokens in [&first, &second] {
        refused(&users(text(tokens, "access_token")), 401, "invalid_token");
    }
    assert_eq!(users(text(&other, "access_token")).status, 200, "another sign-in goes on");
}

#[test]
fn r4_3_of_two_refreshes_at_once_one_wins_and_both_lose_in_the_end() {
    let gateway = gateway(&[("ada", "user")]);
    let tokens = login(&gateway, "ada");
    let body = json!({ "refresh_token": tokens["refresh_token"] });
    let answers: Vec<Response> = std::thread::scope(|scope| {
        let asks: Vec<_> = (0..8).map(|_| scope.spawn(|| post(&gateway, "/api/v1/auth/refresh", &body))).collect();
        asks.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let won: Vec<&Response> = answers.iter().filter(|it| it.status == 200).collect();
    assert_eq!(won.len(), 1);
    let next = json!({ "refresh_token": json_of(won[0])["refresh_token"] });
    refused(&post(&gateway, "/api/v1/auth/refresh", &next), 401, "invalid_token");
}

#[test]
fn r4_3_a_sign_out_bites_at_the_next_request() {
    let gateway = gateway(&[("ada", "admin")]);
    let tokens = login(&gateway, "ada");
    let access = text(&tokens, "access_token");
    let users = || send(&gateway, "GET", "/api/v1/users", &Value::Null, Some(access));
    assert_eq!(users().status, 200);
    let out = post_as(&gateway, "/api/v1/auth/logout", &Value::Null, Some(access));
    assert_eq!((out.status, out.body.len()), (204, 0));
    refused(&users(), 401, "invalid_token");
    let refresh = json!({ "refresh_token": tokens["refresh_token"] });
    refused(&post(&gateway, "/api/v1/auth/refresh", &refresh), 401, "invalid_token");
    refused(&post(&gateway, "/api/v1/auth/logout", &json!({})), 400, "invalid_request");

    let tokens = login(&gateway, "ada");
    let refresh = json!({ "refresh_token": tokens["refresh_token"] });
    assert_eq!(post(&gateway, "/api/v1/auth/logout", &refresh).status, 204, "the refresh token will do");
    let access = text(&tokens, "access_token");
    refused(&send(&gateway, "GET", "/api/v1/users", &Value::Null, Some(access)), 401, "invalid_token");
}

#[test]
fn r4_3_what_was_revoked_stays_so_after_a_restart() {
    let mut gateway = gateway(&[("ada", "admin")]);
    let tokens = login(&gateway, "ada");
    let access = text(&tokens, "access_token").to_owned();
    assert_eq!(post_as(&gateway, "/api/v1/auth/logout", &Value::Null, Some(&access)).status, 204);
    let data = gateway.folder().path().join("data");
    let fresh = builder("");
    gateway.sigterm();
    gateway.wait_exit();
    let copy = fresh.folder().path().join("data");
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(data).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    let gateway = fresh.start();
    refused(&send(&gateway, "GET", "/api/v1/users", &Value::Null, Some(&access)), 401, "invalid_token");
    login(&gateway, "ada");
}

// ── Users ────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn us_009_3_a_role_that_nobody_has_is_given_to_nobody() {
    let gateway = gateway(&[("root", "admin")]);
    let admin = login(&gateway, "root");
    let admin = text(&admin, "access_token");
    let create = |name: &str, role: &str| {
        let body = json!({ "username": name, "password": PASSWORD, "roles": ["user", role] });
        post_as(&gateway, "/api/v1/users", &body, Some(admin))
    };
    let why = |answer: &Response| {
        let error = refused(answer, 400, "invalid_request");
        assert_eq!(error["details"]["field"], "roles");
        error["details"]["why"].as_str().unwrap().to_owned()
    };
    let misspelt = "has `operater`, and there is no such role: did you mean `operator`?";
    assert_eq!(why(&create("eve", "operater")), misspelt);
    assert!(why(&create("eve", "wizard")).contains("list others under `roles` in routes.yaml"));
    let eve = json_of(&create("eve", "operator"));
    let path = format!("/api/v1/users/{}", eve["id"].as_str().unwrap());
    let change = |roles: Value| send(&gateway, "PATCH", &path, &json!({ "roles": roles }), Some(admin));
    assert_eq!(why(&change(json!(["operater"]))), misspelt);
    assert_eq!(json_of(&send(&gateway, "GET", &path, &Value::Null, Some(admin)))["roles"], json!(["user", "operator"]));
    // What there is is what the configuration says that serves.
    gateway.write_routes(&format!("{ROUTES}roles: {{ admin: ['*'], wizard: [magic.do] }}\n"));
    eventually("the new roles", || (change(json!(["wizard"])).status == 200).then_some(()));
    assert!(why(&change(json!(["operator"]))).contains("there is no such role"));
}

#[test]
fn us_009_3_an_admin_creates_a_user() {
    let gateway = gateway(&[("root", "admin")]);
    let admin = login(&gateway, "root");
    let admin = text(&admin, "access_token");
    let body = json!({ "username": "bob", "password": PASSWORD, "roles": ["operator"], "tenant": "north" });
    let answer = post_as(&gateway, "/api/v1/users", &body, Some(admin));
    assert_eq!(answer.status, 201, "{}", answer.text());
    let user = json_of(&answer);
    assert_eq!(
        (&user["username"], &user["roles"], &user["active"]),
        (&"bob".into(), &json!(["operator"]), &true.into())
    );
    assert!(!answer.text().contains("password") && !answer.text().contains("argon2"));
    let claims = claims(text(&login(&gateway, "bob"), "access_token"));
    assert_eq!((&claims["roles"], &claims["tenant"]), (&json!(["operator"]), &"north".into()));
    refused(&post_as(&gateway, "/api/v1/users", &body, Some(admin)), 409, "name_taken");
    for (field, body) in [
        ("username", json!({ "username": "a:b", "password": PASSWORD })),
        ("password", json!({ "username": "eve", "password": "short" })),
        ("roles", json!({ "username": "eve", "password": PASSWORD, "roles": ["a b"] })),
        ("roles", json!({ "username": "eve", "password": PASSWORD, "roles": ["user", "operater"] })),
        ("tenant", json!({ "username": "eve", "password": PASSWORD, "tenant": "a b" })),
    ] {
        let error = refused(&post_as(&gateway, "/api/v1/users", &body, Some(admin)), 400, "invalid_request");
        assert_eq!(error["details"]["field"], field);
    }
    let list = json_of(&send(&gateway, "GET", "/api/v1/users?limit=1", &Value::Null, Some(admin)));
    assert_eq!((list["users"].as_array().unwrap().len(), &list["next"]), (1, &"bob".into()));
    let list = json_of(&send(&gateway, "GET", "/api/v1/users?limit=5&after=bob", &Value::Null, Some(admin)));
    assert_eq!((&list["users"][0]["username"], &list["next"]), (&"root".into(), &Value::Null));
}

#[test]
fn us_009_1_who_is_no_admin_is_told_which_role_is_needed() {
    let gateway = gateway(&[("ada", "user")]);
    let token = login(&gateway, "ada");
    let token = text(&token, "access_token");
    for (method, path) in [("GET", "/api/v1/users"), ("POST", "/api/v1/users"), ("PATCH", "/api/v1/users/x")] {
        let answer = send(&gateway, method, path, &json!({}), Some(token));
        let error = refused(&answer, 403, "forbidden");
        assert_eq!(error["message"], "Insufficient permissions. Required role: admin.");
        let answer = send(&gateway, method, path, &json!({}), None);
        refused(&answer, 401, "invalid_token");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"moongate\", error=\"invalid_token\""));
    }
}

#[test]
fn us_009_4_new_roles_bite_at_the_next_request() {
    let gateway = gateway(&[("root", "admin"), ("ada", "admin")]);
    let (root, ada) = (login(&gateway, "root"), login(&gateway, "ada"));
    let (root, old) = (text(&root, "access_token"), text(&ada, "access_token"));
    let users = |token: &str| send(&gateway, "GET", "/api/v1/users", &Value::Null, Some(token));
    assert_eq!(users(old).status, 200);
    let id = claims(old)["sub"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/users/{id}");
    let changed = send(&gateway, "PATCH", &path, &json!({ "roles": ["user"] }), Some(root));
    assert_eq!((changed.status, &json_of(&changed)["roles"]), (200, &json!(["user"])));
    refused(&users(old), 401, "invalid_token");
    // Who comes back has the new roles at once, in the very same second.
    let refreshed = post(&gateway, "/api/v1/auth/refresh", &json!({ "refresh_token": ada["refresh_token"] }));
    let new = json_of(&refreshed);
    refused(&users(text(&new, "access_token")), 403, "forbidden");
    assert_eq!(users(root).status, 200);

    let disabled = send(&gateway, "PATCH", &path, &json!({ "active": false }), Some(root));
    assert_eq!(disabled.status, 200);
    refused(&users(text(&new, "access_token")), 401, "invalid_token");
    let refresh = json!({ "refresh_token": new["refresh_token"] });
    refused(&post(&gateway, "/api/v1/auth/refresh", &refresh), 401, "invalid_token");
    refused(&send(&gateway, "PATCH", &path, &json!({}), Some(root)), 400, "invalid_request");
    refused(&send(&gateway, "PATCH", "/api/v1/users/nobody", &json!({ "active": true }), Some(root)), 404, "not_found");
}

/// Another process changes the user: the gateway hears of it from the store.
#[test]
fn us_009_4_a_change_at_the_command_line_reaches_the_gateway() {
    let gateway = gateway(&[("ada", "admin")]);
    let tokens = login(&gateway, "ada");
    let access = text(&tokens, "access_token");
    let users = || send(&gateway, "GET", "/api/v1/users", &Value::Null, Some(access));
    assert_eq!(users().status, 200);
    assert_eq!(moongate(gateway.folder(), &["users", "disable", "ada"], "", &[]).code, 0);
    eventually("the token counts no more", || (users().status == 401).then_some(()));
}

/// Two gateways on one Redis and one PostgreSQL: what one takes back, the other refuses at once.
#[test]
fn r4_3_gateways_tell_each_other() {
    let (redis, mut server) = (Redis::start(), Postgres::start());
    let store = format!("store: {{ postgres: {{ url: '{}' }} }}", server.database());
    let more = format!("state: {{ redis: {{ url: '{}' }} }}\n{store}", redis.url());
    let first = builder(&more);
    first.folder().write("conf/gateway.yaml", format!("{}\n{store}", gateway::CONFIG));
    let added = moongate(first.folder(), &["users", "add", "ada", "--role", "admin"], PASSWORD, &[]);
    assert_eq!(added.code, 0, "{}", added.stderr);
    let (first, second) = (first.start(), builder(&more).start());
    let tokens = login(&first, "ada");
    let access = text(&tokens, "access_token");
    let users = |gateway: &Gateway| send(gateway, "GET", "/api/v1/users", &Value::Null, Some(access));
    assert_eq!((users(&first).status, users(&second).status), (200, 200));
    assert_eq!(post_as(&second, "/api/v1/auth/logout", &Value::Null, Some(access)).status, 204);
    refused(&users(&second), 401, "invalid_token");
    eventually("the other gateway knows", || (users(&first).status == 401).then_some(()));
    server.stop();
    let body = json!({ "username": "ada", "password": PASSWORD });
    let answer = post(&first, "/api/v1/auth/login", &body);
    refused(&answer, 503, "store_unavailable");
}

#[test]
fn an_admin_of_a_tenant_sees_nobody_else() {
    let builder = builder("");
    builder.folder().write("conf/gateway.yaml", gateway::CONFIG);
    for (name, tenant) in [("north-admin", "north"), ("north-user", "north"), ("south-user", "south")] {
        let arguments = ["users", "add", name, "--role", "admin", "--tenant", tenant];
        assert_eq!(moongate(builder.folder(), &arguments, PASSWORD, &[]).code, 0);
    }
    let gateway = builder.start();
    let (admin, other) = (login(&gateway, "north-admin"), login(&gateway, "south-user"));
    let admin = text(&admin, "access_token");
    let list = json_of(&send(&gateway, "GET", "/api/v1/users", &Value::Null, Some(admin)));
    assert_eq!(list["users"].as_array().unwrap().len(), 2, "{list}");
    let other = claims(text(&other, "access_token"));
    let path = format!("/api/v1/users/{}", text(&other, "sub"));
    refused(&send(&gateway, "GET", &path, &Value::Null, Some(admin)), 404, "not_found");
    refused(&send(&gateway, "PATCH", &path, &json!({ "active": false }), Some(admin)), 404, "not_found");
    let body = json!({ "username": "eve", "password": PASSWORD, "tenant": "south" });
    refused(&post_as(&gateway, "/api/v1/users", &body, Some(admin)), 400, "invalid_request");
}

/// What is beyond them is judged by what roles permit.
#[test]
fn us_009_an_admin_of_a_tenant_gives_roles_that_permit_no_more_than_their_own() {
    for (roles, gives, refuses) in [
        ("", &["user", "admin", "operator"][..], &[][..]),
        ("roles: { admin: [users.manage, 'chat.*'], user: [chat.send], boss: ['*'] }\n", &["user", "admin"], &["boss"]),
    ] {
        let builder = Gateway::with(format!("{ROUTES}{roles}")).config(config("")).env("PROXY_JWT_SECRET", SECRET);
        builder.folder().write("conf/gateway.yaml", gateway::CONFIG);
        let arguments = ["users", "add", "chief", "--role", "admin", "--tenant", "north"];
        assert_eq!(moongate(builder.folder(), &arguments, PASSWORD, &[]).code, 0);
        let gateway = builder.start();
        let session = login(&gateway, "chief");
        let create = |role: &str| {
            let body = json!({ "username": format!("a-{role}"), "password": PASSWORD, "roles": [role] });
            post_as(&gateway, "/api/v1/users", &body, Some(text(&session, "access_token")))
        };
        for role in gives {
            let created = create(role);
            assert_eq!(created.status, 201, "{role}: {}", created.text());
        }
        for role in refuses {
            refused(&create(role), 403, "forbidden");
        }
    }
}

/// The filters of a route prove who is calling; the service takes their word.
#[test]
fn us_009_the_principal_of_the_route_s_filters_is_the_one_that_counts() {
    let guarded = ROUTES.replace(
        "match: { path: \"/api/v1/users\" }",
        "match: { path: \"/api/v1/users\" }, auth: { jwt: {}, api_key: {}, forward: false, roles: [admin] }",
    );
    let builder = Gateway::with(guarded).config(config("")).env("PROXY_JWT_SECRET", SECRET);
    builder.folder().write("conf/gateway.yaml", gateway::CONFIG);
    let said = moongate(builder.folder(), &["keys", "api", "provisioning", "--role", "admin"], "", &[]).stdout;
    let key = said.lines().last().unwrap().to_owned();
    let said = moongate(builder.folder(), &["keys", "api", "billing", "--role", "service"], "", &[]).stdout;
    let weak = said.lines().last().unwrap().to_owned();
    let gateway = with_users(builder, &[("ada", "admin"), ("bob", "user")]);
    let users = |credential: &str| send(&gateway, "GET", "/api/v1/users", &Value::Null, Some(credential)).status;
    let (ada, bob) = (login(&gateway, "ada"), login(&gateway, "bob"));
    assert_eq!(users(text(&ada, "access_token")), 200);
    assert_eq!(users(text(&bob, "access_token")), 403);
    assert_eq!((users(&key), users(&weak), users("mg_0000_nothing-of-the-kind")), (200, 403, 401));
    let revoked = moongate(gateway.folder(), &["keys", "revoke", key.split('_').nth(1).unwrap()], "", &[]);
    assert_eq!(revoked.code, 0, "{}", revoked.stderr);
    eventually("the key counts no more", || (users(&key) == 401).then_some(()));
}

// ── Keys ─────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn r4_1_tokens_of_an_asymmetric_key_are_verified_by_what_is_published() {
    let builder = builder("");
    let out = ["keys", "new", "--algorithm", "ES256", "--out", "es256.pem"];
    let kid = moongate(builder.folder(), &out, "", &[]).stdout.trim().to_owned();
    let config =
        config("").replace("tokens: {", "tokens: { signing_key: es256.pem, issuer: \"https://gw.example.org\",");
    let gateway = with_users(builder.config(config), &[("ada", "user")]);
    let answer = gateway.get("/.well-known/jwks.json");
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("public, max-age=300")));
    let jwks = json_of(&answer);
    let key = &jwks["keys"][0];
    assert_eq!((jwks["keys"].as_array().unwrap().len(), text(key, "kid"), text(key, "alg")), (1, &*kid, "ES256"));
    assert!(!answer.text().contains("\"d\""), "public halves only");
    let metadata = json_of(&gateway.get("/.well-known/openid-configuration"));
    assert_eq!(metadata["issuer"], "https://gw.example.org");
    assert_eq!(metadata["jwks_uri"], "https://gw.example.org/.well-known/jwks.json");
    assert_eq!(metadata["id_token_signing_alg_values_supported"], json!(["ES256"]));
    let tokens = login(&gateway, "ada");
    let mut rules = Validation::new(Algorithm::ES256);
    rules.set_audience(&["tta"]);
    let key = DecodingKey::from_jwk(&serde_json::from_value(key.clone()).unwrap()).unwrap();
    let token = decode::<Value>(text(&tokens, "access_token"), &key, &rules).unwrap();
    assert_eq!(token.header.kid.as_deref(), Some(&*kid));
    // Clients that share the secret still get theirs (PX-1).
    let session = json_of(&ask_token(&gateway, &json!({ "clientId": "a", "nonce": uuid() })));
    assert_eq!(jsonwebtoken::decode_header(text(&session, "token")).unwrap().alg, Algorithm::HS256);
}

#[test]
fn without_any_key_nobody_gets_a_token() {
    let gateway = with_users(Gateway::with(ROUTES), &[("ada", "user")]);
    let nonce = uuid();
    for _ in 0..2 {
        let answer = ask_token(&gateway, &json!({ "clientId": "a", "nonce": nonce }));
        refused(&answer, 503, "no_signing_key");
    }
    let body = json!({ "username": "ada", "password": PASSWORD });
    refused(&post(&gateway, "/api/v1/auth/login", &body), 503, "no_signing_key");
}

/// Marked secrets go in; nothing of them comes out but where it was asked for.
#[test]
fn s2s_29_passwords_and_tokens_are_in_no_log_and_no_metric() {
    let gateway = gateway(&[("ada", "user")]);
    let tokens = login(&gateway, "ada");
    let wrong = json!({ "username": "ada", "password": "canary-password" });
    post(&gateway, "/api/v1/auth/login", &wrong);
    post(&gateway, "/api/v1/auth/refresh", &json!({ "refresh_token": "canary-refresh" }));
    let refreshed = post(&gateway, "/api/v1/auth/refresh", &json!({ "refresh_token": tokens["refresh_token"] }));
    let id = refreshed.header("x-request-id").unwrap().to_owned();
    gateway.access_log_for(&id);
    let mut seen = gateway.admin_get("/metrics").text();
    seen.extend(gateway.log_lines().into_iter().map(|it| it.text));
    let secrets = [PASSWORD, "canary", SECRET, text(&tokens, "access_token"), text(&tokens, "refresh_token")];
    assert!(secrets.iter().all(|it| !seen.contains(it)));
    assert!(seen.contains("moongate_password_hash_duration_seconds_count 2"), "the search itself works");
}

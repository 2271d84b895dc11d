//! The access log says who called, and of a refusal why.

use serde_json::{Value, json};

use crate::accounts::moongate;
use crate::support::tokens::*;
use crate::support::*;

const CONFIG: &str = "
listeners: { public: [{ address: \"127.0.0.1:0\" }], admin: { address: \"127.0.0.1:0\" } }
tokens: { issuer: moongate, audience: [tta], hs256_secret: \"${PROXY_JWT_SECRET}\" }
store: { sqlite: { path: moongate.db } }
";

const ROUTES: &str = "
version: 1
defaults: { auth: { jwt: {}, service_token: {}, api_key: {} } }
routes:
  - { name: mine, match: { path: /mine }, respond: { body: hello } }
  - { name: maybe, match: { path: /maybe }, respond: { body: hello }, auth: { jwt: {}, optional: true } }
  - { name: role, match: { path: /role }, respond: { body: hello }, auth: { jwt: {}, roles: [operator] } }
  - { name: permission, match: { path: /permission }, respond: { body: hello }, auth: { jwt: {}, permissions: [plugins.manage] } }
  - { name: scope, match: { path: /scope }, respond: { body: hello }, auth: { jwt: {}, scopes: [bench] } }
  - { name: page, match: { path: /page }, respond: { body: hello }, auth: { jwt: {}, from: [{ cookie: at }] } }
  - { name: open, match: { path: /open }, respond: { body: hello }, auth: { open: true } }
  - name: few
    match: { path: /few }
    respond: { body: hello }
    auth: { open: true }
    rate_limits: [{ per: route, requests: 1000, every: 1s }, { per: ip, name: hourly, requests: 1, every: 1h }]
";

/// The gateway, and an API key.
fn start() -> (Gateway, String) {
    let builder = Gateway::with(ROUTES).config(CONFIG).env("PROXY_JWT_SECRET", SECRET);
    builder.folder().write("conf/gateway.yaml", CONFIG);
    let arguments = ["keys", "api", "billing", "--role", "service", "--tenant", "south"];
    let made = moongate(builder.folder(), &arguments, "", &[("PROXY_JWT_SECRET", SECRET)]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let key = made.stdout.split_whitespace().find(|it| it.starts_with("mg_")).unwrap().to_owned();
    (builder.start(), key)
}

/// The answer, and its line in the log.
#[track_caller]
fn line(gateway: &Gateway, method: &str, path: &str, fields: &[(&str, &str)]) -> (Response, Value) {
    let answer = gateway.request(method, path, fields, b"");
    let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
    assert_eq!(line["status"], answer.status, "{line}");
    (answer, line)
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn signed(claims: &Value) -> String {
    bearer(&sign_hs256("{\"alg\":\"HS256\"}", &claims.to_string(), SECRET.as_bytes()))
}

#[test]
fn s2s_40_the_access_log_says_who_called_in_which_way_and_for_whom() {
    let (gateway, key) = start();
    let ada = bearer(&token("ada", &["user"]));
    let odd = signed(&with(claims("a\"d\\a", &["user"]), json!({ "tenant": null })));
    let service = bearer(&token("meter", &["service"]));
    for (path, field, value, said) in [
        ("/mine", "authorization", &ada, ["ada", "jwt", "north"]),
        ("/maybe", "authorization", &ada, ["ada", "jwt", "north"]),
        ("/mine", "authorization", &odd, ["a\"d\\a", "jwt", ""]),
        ("/mine", "authorization", &service, ["meter", "service_token", "north"]),
        ("/mine", "x-api-key", &key, ["billing", "api_key", "south"]),
    ] {
        let (answer, line) = line(&gateway, "GET", path, &[(field, value)]);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let of = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        assert_eq!([of("principal"), of("auth"), of("tenant")], said, "{line}");
        assert_eq!(line["tenant"].is_null(), said[2].is_empty(), "{line}");
    }
    // Of nobody nothing is said: neither where no credential is asked for nor where none came.
    for (path, fields) in [("/open", &[("authorization", &*ada)][..]), ("/maybe", &[]), ("/mine", &[])] {
        let (_, line) = line(&gateway, "GET", path, fields);
        assert!(["principal", "auth", "tenant"].iter().all(|it| line[it].is_null()), "{line}");
    }
}

#[test]
fn s2s_40_the_access_log_says_why_a_caller_may_not_in_the_word_that_the_caller_got() {
    let (gateway, _) = start();
    let ada = bearer(&token("ada", &["user"]));
    let old = signed(&with(claims("ada", &["user"]), json!({ "exp": now() - 3600, "iat": now() - 7200, "nbf": null })));
    let cookie = format!("at={}", token("ada", &["user"]));
    for (method, path, fields, status, reason) in [
        ("GET", "/mine", &[][..], 401, "missing"),
        ("GET", "/mine", &[("authorization", &*old)], 401, "expired"),
        ("GET", "/role", &[("authorization", &*ada)], 403, "missing_role"),
        ("GET", "/permission", &[("authorization", &*ada)], 403, "missing_permission"),
        ("GET", "/scope", &[("authorization", &*ada)], 403, "missing_scope"),
        ("POST", "/page", &[("cookie", &*cookie), ("origin", "https://evil.example")], 403, "other_origin"),
    ] {
        let (answer, line) = line(&gateway, method, path, fields);
        assert_eq!((answer.status, line["reason"].as_str()), (status, Some(reason)), "{line}");
        assert_eq!(answer.json()["error"]["details"]["reason"], reason);
        // Whose credential it was is known where it was a good one.
        assert_eq!(line["principal"] == "ada", status == 403 && reason != "other_origin", "{line}");
    }
}

#[test]
fn s2s_40_the_access_log_names_the_limit_that_refused() {
    let (gateway, _) = start();
    let (first, passed) = line(&gateway, "GET", "/few", &[]);
    assert_eq!((first.status, &passed["limit"], &passed["reason"]), (200, &Value::Null, &Value::Null), "{passed}");
    let (second, refused) = line(&gateway, "GET", "/few", &[]);
    assert_eq!((second.status, &refused["limit"]), (429, &json!("hourly")), "{refused}");
}

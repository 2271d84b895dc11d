//! Sign-in at a provider of identities: the npm package `oidc-provider`, and a browser's steps.

use serde_json::{Value, json};

use super::accounts::moongate;
use super::support::gateway::GatewayBuilder;
use super::support::http1::Response;
use super::support::oidc::{CLIENT_SECRET, REDIRECT};
use super::support::*;
use super::tokens::{builder, claims, json_of, refused};

fn provider(issuer: &str, more: &str) -> String {
    format!(
        "auth:\n  oidc:\n    idp:\n      issuer: '{issuer}'\n      client_id: moongate\n      \
         client_secret: \"${{OIDC_SECRET}}\"\n      redirect_uri: '{REDIRECT}'\n      \
         roles: [clinician, user]\n      default_roles: [user]\n{more}"
    )
}

fn gateway_for(issuer: &str, more: &str) -> GatewayBuilder {
    builder(&provider(issuer, more)).env("OIDC_SECRET", CLIENT_SECRET)
}

/// The first half: where the browser is sent, and the cookie that it gets.
#[track_caller]
fn begin(gateway: &Gateway) -> (String, String) {
    let answer = gateway.get("/api/v1/auth/oidc/idp/login");
    assert_eq!((answer.status, answer.header("cache-control")), (302, Some("no-store")), "{}", answer.text());
    let cookie = answer.header("set-cookie").unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    (answer.header("location").unwrap().to_owned(), cookie)
}

#[track_caller]
fn come_back(gateway: &Gateway, path: &str, cookie: &str) -> Response {
    gateway.request("GET", path, &[("cookie", cookie)], "")
}

#[track_caller]
fn sign_in(gateway: &Gateway, name: &str) -> Value {
    let (to, cookie) = begin(gateway);
    let back = Browser::default().sign_in(&to, name);
    let answer = come_back(gateway, &back, &cookie);
    assert_eq!(answer.status, 200, "{}", answer.text());
    json_of(&answer)
}

#[test]
fn r4_5_somebody_signs_in_at_a_provider() {
    let server = OidcServer::start();
    let gateway = gateway_for(&server.issuer(), "      tenant: north\n").start();
    let (to, cookie) = begin(&gateway);
    for part in ["response_type=code", "code_challenge_method=S256", "scope=openid", "client_id=moongate"] {
        assert!(to.contains(part), "{to}");
    }
    let back = Browser::default().sign_in(&to, "ada+clinician");
    let answer = come_back(&gateway, &back, &cookie);
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{}", answer.text());
    let tokens = json_of(&answer);
    let first = claims(tokens["access_token"].as_str().unwrap());
    assert_eq!((&first["sub"], &first["roles"]), (&"idp:ada+clinician".into(), &json!(["clinician"])));
    assert_eq!((&first["tenant"], &first["iss"]), (&"north".into(), &"moongate".into()));
    let refresh = json!({ "refresh_token": tokens["refresh_token"] }).to_string();
    let fields = [("content-type", "application/json")];
    assert_eq!(gateway.request("POST", "/api/v1/auth/refresh", &fields, refresh).status, 200);

    // Roles that may not be given are not; who has none left gets those for everybody.
    let claims_of = |name: &str| claims(sign_in(&gateway, name)["access_token"].as_str().unwrap());
    assert_eq!(claims_of("bob+admin")["roles"], json!(["user"]));
    assert_eq!(claims_of("eve")["roles"], json!(["user"]));
    assert_eq!(claims_of("ada+clinician")["sub"], first["sub"], "the same person the second time");
}

#[test]
fn r4_5_an_answer_is_good_once_and_for_the_browser_that_asked() {
    let server = OidcServer::start();
    let gateway = gateway_for(&server.issuer(), "").start();
    let (to, cookie) = begin(&gateway);
    let back = Browser::default().sign_in(&to, "ada");
    // Another browser takes the answer: refused, and used up.
    let (_, other) = begin(&gateway);
    refused(&come_back(&gateway, &back, &other), 401, "sign_in_failed");
    refused(&come_back(&gateway, &back, &cookie), 401, "sign_in_failed");

    let (to, cookie) = begin(&gateway);
    let back = Browser::default().sign_in(&to, "ada");
    assert_eq!(come_back(&gateway, &back, &cookie).status, 200);
    refused(&come_back(&gateway, &back, &cookie), 401, "sign_in_failed");

    // A code of one sign-in in the answer of another: the verifier is not its own.
    let (first, _) = begin(&gateway);
    let stolen = Browser::default().sign_in(&first, "ada");
    let (second, cookie) = begin(&gateway);
    let own = Browser::default().sign_in(&second, "eve");
    let part = |path: &str, name: &str| {
        let query = path.split_once('?').unwrap().1;
        query.split('&').find_map(|it| it.strip_prefix(&format!("{name}=")).map(str::to_owned)).unwrap()
    };
    let mixed = own.replace(&part(&own, "code"), &part(&stolen, "code"));
    refused(&come_back(&gateway, &mixed, &cookie), 401, "sign_in_failed");

    // RFC 9207: the answer says that it is another provider's.
    let (to, cookie) = begin(&gateway);
    let back = Browser::default().sign_in(&to, "ada");
    let elsewhere = back.replace(&part(&back, "iss"), "https%3A%2F%2Felsewhere.example");
    refused(&come_back(&gateway, &elsewhere, &cookie), 401, "sign_in_failed");

    let (_, cookie) = begin(&gateway);
    refused(&come_back(&gateway, "/api/v1/auth/oidc/idp/callback?code=x", &cookie), 400, "invalid_request");
    let forged = "/api/v1/auth/oidc/idp/callback?code=x&state=forged";
    refused(&come_back(&gateway, forged, &cookie), 401, "sign_in_failed");
    refused(&gateway.get("/api/v1/auth/oidc/nobody/login"), 404, "not_found");
}

#[test]
fn r4_5_who_is_disabled_here_does_not_come_in_by_a_provider() {
    let server = OidcServer::start();
    let builder = gateway_for(&server.issuer(), "");
    builder.folder().write("conf/gateway.yaml", gateway::CONFIG);
    let gateway = builder.start();
    sign_in(&gateway, "ada");
    let disabled = moongate(gateway.folder(), &["users", "disable", "idp:ada"], "", &[]);
    assert_eq!(disabled.code, 0, "{}", disabled.stderr);
    let (to, cookie) = begin(&gateway);
    let back = Browser::default().sign_in(&to, "ada");
    refused(&come_back(&gateway, &back, &cookie), 401, "sign_in_failed");
    let body = json!({ "username": "idp:ada", "password": "" }).to_string();
    let answer = gateway.request("POST", "/api/v1/auth/login", &[("content-type", "application/json")], body);
    refused(&answer, 400, "invalid_request");
}

#[test]
fn r4_5_a_provider_that_is_down_or_does_not_know_us_lets_nobody_in() {
    let (reserved, address) = upstream::reserve("127.0.0.1:0".parse().unwrap());
    let gateway = gateway_for(&format!("http://{address}"), "").start();
    refused(&gateway.get("/api/v1/auth/oidc/idp/login"), 502, "provider_failed");
    drop(reserved);

    let server = OidcServer::start();
    let gateway = gateway_for(&server.issuer(), "").env("OIDC_SECRET", "not the secret").start();
    let (to, cookie) = begin(&gateway);
    let back = Browser::default().sign_in(&to, "ada");
    refused(&come_back(&gateway, &back, &cookie), 401, "sign_in_failed");
    let log: Vec<String> = gateway.log_lines().into_iter().map(|it| it.text).collect();
    assert!(log.iter().all(|it| !it.contains("not the secret") && !it.contains("code=")), "{log:?}");

    // It says that it is somebody else.
    let other = server.issuer().replace("127.0.0.1", "localhost");
    let gateway = gateway_for(&other, "").start();
    refused(&gateway.get("/api/v1/auth/oidc/idp/login"), 502, "provider_failed");
}

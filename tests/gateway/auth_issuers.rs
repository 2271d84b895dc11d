//! Tokens of other issuers: their keys come and go, and so do they.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::tokens::*;
use crate::support::*;

/// An issuer's server: shows keys, and can be broken.
struct Issuer {
    server: RawUpstream,
    shown: Arc<Mutex<Shown>>,
}

#[derive(Clone)]
enum Shown {
    Keys(Vec<Value>),
    Text(Vec<u8>),
    Redirect(String),
    Nothing,
}

impl Issuer {
    fn start(keys: &[&Signer]) -> Self {
        let shown = Arc::new(Mutex::new(Shown::Nothing));
        let state = shown.clone();
        let server = RawUpstream::start(move |_| match state.lock().unwrap().clone() {
            Shown::Keys(keys) => {
                let body = json!({ "keys": keys }).to_string();
                Script::answer(200, &[("content-type", "application/json"), ("cache-control", "max-age=3600")], body)
            }
            Shown::Text(text) => Script::answer(200, &[], text),
            Shown::Redirect(place) => Script::answer(302, &[("location", &place)], ""),
            Shown::Nothing => Script::new().close(),
        });
        let issuer = Self { server, shown };
        issuer.shows(keys);
        issuer
    }

    fn shows(&self, keys: &[&Signer]) {
        self.show(Shown::Keys(keys.iter().map(|it| it.jwk.clone()).collect()));
    }

    fn show(&self, what: Shown) {
        *self.shown.lock().unwrap() = what;
    }

    fn url(&self) -> String {
        format!("http://{}/jwks", self.server.address())
    }

    fn asked(&self) -> usize {
        self.server.requests().len()
    }
}

fn config(trust: &str) -> String {
    format!("{}tokens: {{ hs256_secret: \"${{PROXY_JWT_SECRET}}\", trust: [{trust}] }}\n", gateway::CONFIG.trim_start())
}

fn start(config: String) -> GatewayAsked {
    let text = "version: 1
routes:
  - { name: all, match: { path: /all }, respond: {}, auth: { jwt: {} } }
  - { name: own, match: { path: /own }, respond: {}, auth: { jwt: { trust: [own] } } }
  - { name: clinic, match: { path: /clinic }, respond: {}, auth: { jwt: { trust: [clinic] } } }
  - { name: clinician, match: { path: /clinician }, respond: {}, auth: { jwt: {}, roles: [clinician] } }
";
    GatewayAsked(Gateway::with(text).config(config).env("PROXY_JWT_SECRET", SECRET).start())
}

struct GatewayAsked(Gateway);

impl GatewayAsked {
    fn ask(&self, path: &str, token: &str) -> (u16, Value) {
        let answer = self.0.request("GET", path, &[("authorization", &format!("Bearer {token}"))], b"");
        let reason =
            if answer.status == 200 { Value::Null } else { answer.json()["error"]["details"]["reason"].clone() };
        (answer.status, reason)
    }
}

const CLINIC: &str = "https://id.clinic.example";

fn foreign(subject: &str) -> Value {
    with(claims(subject, &[]), json!({ "iss": CLINIC, "groups": { "of": ["clinician", "admin"] }, "roles": null }))
}

fn clinic(issuer: &Issuer, more: &str) -> String {
    let url = issuer.url();
    format!(
        "{{ name: clinic, issuer: \"{CLINIC}\", jwks: \"{url}\", roles_claim: /groups/of, roles: [clinician], {more} }}"
    )
}

const OK: (u16, Value) = (200, Value::Null);

#[test]
fn r4_5_tokens_of_a_trusted_issuer_count_where_it_does() {
    let (rsa, ec) = (Signer::rsa("r"), Signer::es256("e"));
    let issuer = Issuer::start(&[&rsa, &ec]);
    let gateway = start(config(&clinic(&issuer, "")));
    for signer in [&rsa, &ec] {
        let token = signer.sign(&foreign("dr-ada"));
        assert_eq!(gateway.ask("/all", &token), OK);
        assert_eq!(gateway.ask("/clinic", &token), OK);
        assert_eq!(gateway.ask("/clinician", &token), OK);
        assert_eq!(gateway.ask("/own", &token), (401, json!("untrusted")));
    }
    assert_eq!(gateway.ask("/own", &token("ada", &[])), OK);
    assert_eq!(gateway.ask("/clinic", &token("ada", &[])), (401, json!("untrusted")));
    // One fetch served them all.
    assert_eq!(issuer.asked(), 1);
    assert_eq!(figure(&gateway.0, "moongate_issuer_keys{issuer=\"clinic\"}"), Some(2.0));
}

#[test]
fn r4_5_an_issuer_vouches_for_its_own_only() {
    let clinic_key = Signer::es256("k");
    let partner_key = Signer::es256("k");
    let issuer = Issuer::start(&[&clinic_key]);
    let partner = "{ name: partner, issuer: \"https://partner.example\", jwks: partner.json, algorithms: [ES256] }";
    let text = "version: 1\nroutes: [{ name: all, match: { path: /all }, respond: {}, auth: { jwt: {} } }]";
    let builder = Gateway::with(text)
        .config(config(&format!("{}, {partner}", clinic(&issuer, ""))))
        .env("PROXY_JWT_SECRET", SECRET)
        .file("partner.json", json!({ "keys": [partner_key.jwk] }).to_string());
    let gateway = GatewayAsked(builder.start());
    let partners = |subject: &str| with(foreign(subject), json!({ "iss": "https://partner.example" }));
    assert_eq!(gateway.ask("/all", &clinic_key.sign(&foreign("a"))), OK);
    assert_eq!(gateway.ask("/all", &partner_key.sign(&partners("a"))), OK);
    // Each under the other's name, though even the keys' names are the same.
    assert_eq!(gateway.ask("/all", &partner_key.sign(&foreign("a"))), (401, json!("signature")));
    assert_eq!(gateway.ask("/all", &clinic_key.sign(&partners("a"))), (401, json!("signature")));
    assert_eq!(gateway.ask("/all", &clinic_key.sign(&claims("a", &["admin"]))).0, 401);
    // Another key in the file counts as soon as it is there.
    let next = Signer::es256("n");
    gateway.0.folder().write("partner.json", json!({ "keys": [next.jwk] }).to_string());
    assert_eq!(gateway.0.reload().status, 200);
    assert_eq!(gateway.ask("/all", &next.sign(&partners("a"))), OK);
    assert_eq!(gateway.ask("/all", &partner_key.sign(&partners("a"))), (401, json!("key")));
}

#[test]
fn r4_5_a_new_key_is_fetched_when_a_token_names_it() {
    let (old, new) = (Signer::es256("old"), Signer::es256("new"));
    let issuer = Issuer::start(&[&old]);
    let gateway = start(config(&clinic(&issuer, "refetch_after: 100ms")));
    assert_eq!(gateway.ask("/all", &old.sign(&foreign("a"))), OK);
    issuer.shows(&[&old, &new]);
    eventually("the new key counts", || (gateway.ask("/all", &new.sign(&foreign("a"))) == OK).then_some(()));
    assert_eq!(gateway.ask("/all", &old.sign(&foreign("a"))), OK);
    // A key that is taken away takes its tokens along, those that are known included.
    issuer.shows(&[&new]);
    let other = Signer::es256("never");
    eventually("the old key is gone", || {
        let _ = gateway.ask("/all", &other.sign(&foreign("a"))); // asks for a fetch
        (gateway.ask("/all", &old.sign(&foreign("a"))).0 == 401).then_some(())
    });
    assert_eq!(gateway.ask("/all", &new.sign(&foreign("a"))), OK);
}

#[test]
fn r4_5_a_new_key_under_the_old_name_or_under_none_is_fetched_and_the_old_one_ends() {
    let nameless = |kid: &str| {
        let mut key = Signer::es256(kid);
        key.jwk.as_object_mut().unwrap().remove("kid");
        key
    };
    for (old, new) in [(Signer::es256("k"), Signer::es256("k")), (nameless("a"), nameless("b"))] {
        let sign = |key: &Signer| {
            let header = with(json!({ "alg": "ES256", "kid": key.jwk["kid"] }), json!({}));
            key.sign_raw(&header.to_string(), &foreign("a").to_string())
        };
        let issuer = Issuer::start(&[&old]);
        let gateway = start(config(&clinic(&issuer, "refetch_after: 100ms")));
        assert_eq!(gateway.ask("/all", &sign(&old)), OK);
        issuer.shows(&[&new]); // and has said that the old set is good for an hour
        eventually("the new key counts", || (gateway.ask("/all", &sign(&new)) == OK).then_some(()));
        assert_eq!(gateway.ask("/all", &sign(&old)), (401, json!("signature")));
    }
}

#[test]
fn r4_5_bad_signatures_do_not_make_a_flood_of_fetches() {
    let (key, other) = (Signer::es256("k"), Signer::es256("k"));
    let issuer = Issuer::start(&[&key]);
    let gateway = start(config(&clinic(&issuer, "refetch_after: 1h")));
    assert_eq!(gateway.ask("/all", &key.sign(&foreign("a"))), OK);
    for number in 0..50 {
        assert_eq!(gateway.ask("/all", &other.sign(&foreign(&format!("a{number}")))), (401, json!("signature")));
    }
    assert_eq!(issuer.asked(), 1);
}

#[test]
fn r4_5_unknown_keys_do_not_make_a_flood_of_fetches() {
    let key = Signer::es256("k");
    let issuer = Issuer::start(&[&key]);
    let gateway = start(config(&clinic(&issuer, "refetch_after: 1h")));
    assert_eq!(gateway.ask("/all", &key.sign(&foreign("a"))), OK);
    for number in 0..50 {
        let stranger = key
            .sign_raw(&json!({ "alg": "ES256", "kid": format!("x{number}") }).to_string(), &foreign("a").to_string());
        assert_eq!(gateway.ask("/all", &stranger), (401, json!("key")));
    }
    assert_eq!(issuer.asked(), 1);
}

#[test]
fn r4_5_an_issuer_that_is_down_keeps_nobody_out_whose_key_is_known() {
    let key = Signer::rsa("k");
    let issuer = Issuer::start(&[&key]);
    let gateway = start(config(&clinic(&issuer, "refetch_after: 100ms")));
    assert_eq!(gateway.ask("/all", &key.sign(&foreign("a"))), OK);
    issuer.show(Shown::Nothing);
    let unknown = key.sign_raw("{\"alg\":\"RS256\",\"kid\":\"x\"}", &foreign("a").to_string());
    eventually("a fetch fails", || {
        assert_eq!(gateway.ask("/all", &unknown), (401, json!("key")));
        figure(&gateway.0, "moongate_issuer_key_fetches_total{issuer=\"clinic\",result=\"failed\"}")
            .filter(|it| *it > 0.0)
    });
    assert_eq!(gateway.ask("/all", &key.sign(&foreign("b"))), OK);
    gateway.0.wait_for_event("issuer_keys_failed", |it| it["issuer"] == "clinic");
}

#[test]
fn r4_5_nobody_gets_in_on_keys_that_can_not_be_had() {
    let key = Signer::es256("k");
    let issuer = Issuer::start(&[&key]);
    let token = key.sign(&foreign("a"));
    let elsewhere = Issuer::start(&[&key]);
    for broken in [
        Shown::Nothing,
        Shown::Text(b"<html>".to_vec()),
        Shown::Text(json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0", "kid": "k" }] }).to_string().into_bytes()),
        Shown::Text(vec![b' '; 300_000]),
        Shown::Redirect(elsewhere.url()),
    ] {
        issuer.show(broken);
        let gateway = start(config(&clinic(&issuer, "refetch_after: 100ms")));
        let answer = gateway.0.request("GET", "/all", &[("authorization", &format!("Bearer {token}"))], b"");
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("identity_unavailable")));
        assert!(answer.header("retry-after").is_some());
        // Our own tokens do not depend on others.
        assert_eq!(gateway.ask("/all", &crate::support::tokens::token("ada", &[])), OK);
        // When it comes back, so do its users.
        issuer.shows(&[&key]);
        eventually("the keys are there", || (gateway.ask("/all", &token) == OK).then_some(()));
    }
    assert_eq!(elsewhere.asked(), 0);
}

#[test]
fn r4_5_keys_over_tls_come_from_a_server_that_is_vouched_for() {
    let (key, ca) = (Signer::ed25519("k"), Ca::new("issuers"));
    let body = json!({ "keys": [key.jwk] }).to_string();
    let server = RawUpstream::start_tls(&ca.leaf(&["localhost"]), &["http/1.1"], move |_| Script::ok(&body));
    let url = format!("https://localhost:{}/jwks", server.address().port());
    let token = key.sign(&foreign("a"));
    for (ca_file, status) in [(Ca::new("others").pem(), 503), (ca.pem(), 200)] {
        let trust = format!("{{ name: clinic, issuer: \"{CLINIC}\", jwks: \"{url}\", ca: ca.pem }}");
        let text = "version: 1\nroutes: [{ name: all, match: { path: /all }, respond: {}, auth: { jwt: {} } }]";
        let builder =
            Gateway::with(text).config(config(&trust)).env("PROXY_JWT_SECRET", SECRET).file("ca.pem", ca_file);
        assert_eq!(GatewayAsked(builder.start()).ask("/all", &token).0, status);
    }
}

#[test]
fn r4_5_keys_grow_stale() {
    let key = Signer::es256("k");
    let issuer = Issuer::start(&[&key]);
    let gateway = start(config(&clinic(&issuer, "refetch_after: 1h, stale: 1s")));
    assert_eq!(gateway.ask("/all", &key.sign(&foreign("a"))), OK);
    issuer.show(Shown::Nothing);
    // A token that is not remembered, each time.
    let mut number = 0;
    eventually("old keys do not count for ever", || {
        number += 1;
        (gateway.ask("/all", &key.sign(&foreign(&format!("a{number}")))).0 == 503).then_some(())
    });
}

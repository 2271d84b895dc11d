//! Two users, tenants, issuers, hosts and routes after each other's answers.
//!
//! A table: pairs who must share nothing, times features that keep anything. Each pair goes after each feature, in
//! one gateway and through two that share their state.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::support::gateway::GatewayBuilder;
use crate::support::tokens::{SECRET, Signer, claims, sign_hs256, with};
use crate::support::upstream::answer_bytes;
use crate::support::*;

const FOREIGN: &str = "https://id.example";
const BODY: &str = r#"{"ack_id":"ack-1"}"#;

// ── Who asks, and for what ──────────────────────────────────────────────────────────────────────

/// Somebody who asks for something.
#[derive(Clone, Debug)]
struct Asking {
    host: &'static str,
    target: &'static str,
    fields: Vec<(&'static str, String)>,
    body: &'static str,
}

impl Asking {
    fn new(fields: &[(&'static str, &str)]) -> Self {
        let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self { host: "a.test", target: "/x", fields, body: BODY }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Differ {
    /// In who they are, and the gateway knows it.
    Principal,
    /// Likewise, but within one tenant, whose members share what is the tenant's.
    Member,
    /// In credentials that nobody has verified.
    Claim,
    /// In what they ask for.
    Target,
    /// In the body that they send.
    Body,
}

/// Two who must not get each other's answers.
#[derive(Debug)]
struct Pair {
    what: String,
    differ: Differ,
    one: Asking,
    other: Asking,
}

impl Pair {
    fn new(what: &str, differ: Differ, one: Asking, other: Asking) -> Self {
        Self { what: what.to_owned(), differ, one, other }
    }

    /// The part of the routes where they ask.
    fn side(&self) -> &'static str {
        if matches!(self.differ, Differ::Principal | Differ::Member) { "known" } else { "open" }
    }
}

/// What proves principals on one gateway.
struct Proofs {
    foreign: Signer,
    /// API keys by the names that tests give them.
    keys: BTreeMap<&'static str, String>,
}

impl Proofs {
    fn bearer(&self, changes: Value) -> Asking {
        let claims = with(claims("alice", &["user"]), changes);
        let token = if claims["iss"] == FOREIGN {
            self.foreign.sign(&claims)
        } else {
            sign_hs256("{\"alg\":\"HS256\",\"typ\":\"JWT\"}", &claims.to_string(), SECRET.as_bytes())
        };
        Asking::new(&[("authorization", &format!("Bearer {token}"))])
    }

    /// One pair after the other: nobody is in two, so that no count and no key of one is another's.
    fn principals(&self) -> Vec<Pair> {
        use Differ::{Member, Principal};
        let of = |changes: Value| self.bearer(changes);
        let pair = |what: &str, differ, one: Value, other: Value| Pair::new(what, differ, of(one), of(other));
        let mut pairs = vec![
            pair("two users", Member, json!({ "sub": "u1" }), json!({ "sub": "u2" })),
            pair(
                "two users of no tenant",
                Principal,
                json!({ "sub": "u3", "tenant": null }),
                json!({ "sub": "u4", "tenant": null }),
            ),
            pair(
                "two tenants",
                Principal,
                json!({ "sub": "t", "tenant": "t1" }),
                json!({ "sub": "t", "tenant": "t2" }),
            ),
            pair(
                "a tenant and none",
                Principal,
                json!({ "sub": "n", "tenant": "n1" }),
                json!({ "sub": "n", "tenant": null }),
            ),
            pair(
                "two issuers with one subject and no tenant",
                Principal,
                json!({ "sub": "i", "tenant": null }),
                json!({ "sub": "i", "tenant": null, "iss": FOREIGN }),
            ),
            pair(
                "two issuers with one subject and one tenant",
                Principal,
                json!({ "sub": "j", "tenant": "j" }),
                json!({ "sub": "j", "tenant": "j", "iss": FOREIGN }),
            ),
            pair(
                "a user and a service of one name",
                Member,
                json!({ "sub": "k", "tenant": "k" }),
                json!({ "sub": "k", "tenant": "k", "roles": ["service"] }),
            ),
        ];
        let key = |name: &str, more: &[(&'static str, &str)]| {
            Some(Asking::new(&[&[("x-api-key", self.keys.get(name)?.as_str())], more].concat()))
        };
        let mut keys = |what: &str, one: Option<Asking>, other: Option<Asking>| {
            pairs.extend(one.zip(other).map(|(one, other)| Pair::new(what, Principal, one, other)));
        };
        keys("two API keys of one name", key("plain", &[]), key("plain again", &[]));
        keys("two API keys of one name in two tenants", key("north", &[]), key("south", &[]));
        let relay = |who| key("relay", &[("x-patient-id", who)]);
        keys("a service that carries the credentials of two", relay("anne"), relay("ben"));
        pairs
    }
}

fn claims_of_nobody_verified() -> Vec<Pair> {
    let fields = [
        ("authorization", "Bearer alice", "Bearer bob"),
        ("proxy-authorization", "Basic YWxpY2U6", "Basic Ym9iOg=="),
        ("cookie", "session=alice", "session=bob"),
        ("x-api-key", "alice", "bob"),
        ("x-session-id", "alice", "bob"),
        ("x-org", "alice", "bob"),
        ("x-customer", "alice", "bob"),
        ("x-patient-id", "alice", "bob"),
        ("x-email", "alice@a.test", "bob@a.test"),
        ("x-member", "alice", "bob"),
        ("x-role", "admin", "user"),
        ("ocp-apim-subscription-key", "alice", "bob"),
        ("x-pin", "1", "2"),
        ("x-access-code", "1", "2"),
        ("dpop", "alice", "bob"),
        ("x-encounter-id", "1", "2"),
        ("x-student", "alice", "bob"),
    ];
    let mut pairs: Vec<Pair> = fields
        .iter()
        .map(|(name, one, other)| {
            Pair::new(name, Differ::Claim, Asking::new(&[(name, one)]), Asking::new(&[(name, other)]))
        })
        .collect();
    let cookie = |more: &[(&'static str, &str)]| Asking::new(&[&[("cookie", "session=alice")], more].concat());
    pairs.push(Pair::new(
        "a second credential",
        Differ::Claim,
        cookie(&[]),
        cookie(&[("authorization", "Bearer bob")]),
    ));
    pairs.push(Pair::new("a credential and none", Differ::Claim, cookie(&[]), Asking::new(&[])));
    let query = |target| Asking { target, ..Asking::new(&[]) };
    pairs.push(Pair::new("a token in the query", Differ::Claim, query("/x?token=alice"), query("/x?token=bob")));
    pairs
}

fn things() -> Vec<Pair> {
    let plain = || Asking::new(&[]);
    let of = |fields: &[(&'static str, &str)]| Asking::new(fields);
    let pair = |what, differ, other| Pair::new(what, differ, plain(), other);
    vec![
        pair("two hosts", Differ::Target, Asking { host: "b.test", ..plain() }),
        pair("two routes", Differ::Target, of(&[("x-version", "2")])),
        pair("two paths", Differ::Target, Asking { target: "/y", ..plain() }),
        pair("two queries", Differ::Target, Asking { target: "/x?b=2&a=1", ..plain() }),
        pair("two bodies", Differ::Body, Asking { body: r#"{"ack_id":"ack-1","b":2}"#, ..plain() }),
        pair("two codings of a body", Differ::Body, of(&[("content-encoding", "gzip")])),
        pair("two types of a body", Differ::Body, of(&[("content-type", "text/plain")])),
        Pair::new(
            "a second type of a body",
            Differ::Body,
            of(&[("content-type", "application/json")]),
            of(&[("content-type", "application/json"), ("content-type", "text/plain")]),
        ),
    ]
}

// ── What keeps anything ─────────────────────────────────────────────────────────────────────────

struct Feature {
    name: &'static str,
    settings: &'static str,
    method: &'static str,
    /// Whether it sees bodies.
    bodies: bool,
    /// Whether members of a tenant share it by the operator's word.
    of_tenant: bool,
}

const FEATURES: [Feature; 9] = {
    const fn feature(name: &'static str, settings: &'static str, method: &'static str) -> Feature {
        Feature { name, settings, method, bodies: method.len() == 4, of_tenant: false }
    }
    [
        feature("idempotency", "idempotency: {}", "POST"),
        feature("idempotency-streams", "idempotency: { streams: record, required: true }", "POST"),
        Feature { of_tenant: true, ..feature("idempotency-body", "idempotency: { from: [body.ack_id] }", "POST") },
        feature("cache", "cache: {}", "GET"),
        feature("cache-ttl", "cache: { ttl: 1h, stale_while_revalidate: 1h, stale_if_error: 1h }", "GET"),
        feature("cache-user", "cache: { ttl: 1h, per: user }", "GET"),
        Feature { of_tenant: true, ..feature("cache-tenant", "cache: { ttl: 1h, per: tenant }", "GET") },
        feature("cache-vary", "cache: { ttl: 1h, vary: [authorization, cookie] }", "GET"),
        feature("cache-body", "cache: { ttl: 1h, key: [body] }", "POST"),
    ]
};

impl Feature {
    fn concerns(&self, pair: &Pair) -> bool {
        match pair.differ {
            Differ::Member => !self.of_tenant,
            Differ::Body => self.bodies,
            _ => true,
        }
    }
}

fn routes(upstream: &RawUpstream, features: &[Feature]) -> String {
    let mut text =
        format!("version: 1\nupstreams:\n  up: {{ discovery: {{ static: [\"{}\"] }} }}\nroutes:\n", upstream.address());
    for Feature { name, settings, .. } in features {
        text += &format!(
            "  - {{ name: {name}-open, match: {{ path: \"/{name}/open/{{*rest}}\" }}, upstream: up, {settings} }}\n  \
             - {{ name: {name}-open-2, match: {{ path: \"/{name}/open/{{*rest}}\", headers: {{ x-version: \"2\" }} }}, \
             upstream: up, {settings} }}\n  \
             - {{ name: {name}-known, match: {{ path: \"/{name}/known/{{*rest}}\" }}, upstream: up, \
             auth: {{ jwt: {{}}, api_key: {{}} }}, {settings} }}\n"
        );
    }
    text
}

/// A gateway that trusts a second issuer, with these routes.
fn prepared(routes: String, foreign: &Signer, more: &str) -> GatewayBuilder {
    let trust = format!("{{ name: foreign, issuer: \"{FOREIGN}\", jwks: foreign.json, algorithms: [ES256] }}");
    let config = format!(
        "{}{more}\ntokens: {{ hs256_secret: \"${{PROXY_JWT_SECRET}}\", trust: [{trust}] }}\n",
        gateway::CONFIG.trim_start()
    );
    let builder = Gateway::with(routes).config(config).env("PROXY_JWT_SECRET", SECRET);
    builder.folder().write("conf/gateway.yaml", gateway::CONFIG); // for the commands
    builder.file("foreign.json", json!({ "keys": [foreign.jwk] }).to_string())
}

#[track_caller]
fn moongate(folder: &Folder, arguments: &[&str], input: &str) -> String {
    use std::io::Write;
    let mut command = Command::new(env!("CARGO_BIN_EXE_moongate"));
    command.args(arguments).current_dir(folder.path()).env_clear().env("PROXY_JWT_SECRET", SECRET);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn api_keys(folder: &Folder) -> BTreeMap<&'static str, String> {
    let names: [(&str, &[&str]); 5] = [
        ("plain", &["plain"]),
        ("plain again", &["plain"]),
        ("north", &["partner", "--tenant", "north"]),
        ("south", &["partner", "--tenant", "south"]),
        ("relay", &["relay"]),
    ];
    let made = names.iter().map(|(name, arguments)| {
        let said = moongate(folder, &[&["keys", "api"], *arguments, &["--role", "service"]].concat(), "");
        (*name, said.split_whitespace().find(|it| it.starts_with("mg_")).unwrap().to_owned())
    });
    made.collect()
}

/// Answers everybody anew, and lets everybody keep it.
fn numbering() -> RawUpstream {
    RawUpstream::start(|it| {
        let body = format!("answer {}", it.number);
        Script::new().read_body().send(answer_bytes(200, &[("cache-control", "max-age=60")], body.as_bytes()))
    })
}

#[track_caller]
fn ask(gateway: &Gateway, feature: &Feature, pair: &Pair, asking: &Asking) -> Response {
    // One target and one key for both, but others for each pair and feature.
    let slug = pair.what.replace(|it: char| !it.is_ascii_alphanumeric(), "-");
    let path = format!("/{}/{}/{slug}{}", feature.name, pair.side(), asking.target);
    let key = format!("{}/{slug}", feature.name);
    let mut fields = vec![("host", asking.host), ("idempotency-key", &*key)];
    fields.extend(asking.fields.iter().map(|(name, value)| (*name, value.as_str())));
    if feature.bodies && !fields.iter().any(|it| it.0 == "content-type") {
        fields.push(("content-type", "application/json"));
    }
    let body = if feature.bodies { asking.body.replace("ack-1", &slug) } else { String::new() };
    gateway.request(feature.method, &path, &fields, body)
}

fn kept(answer: &Response) -> bool {
    answer.header("idempotency-replayed").is_some() || answer.header("x-cache") == Some("hit")
}

/// Every pair after every feature: one asks one gateway, the other one the other gateway.
fn nobody_gets_anothers_answer(gateways: [&Gateway; 2], pairs: &[Pair]) {
    let mut wrong = Vec::new();
    for feature in &FEATURES {
        let mut again_kept = 0;
        for pair in pairs.iter().filter(|it| feature.concerns(it)) {
            let first = ask(gateways[0], feature, pair, &pair.one);
            let other = ask(gateways[1], feature, pair, &pair.other);
            let again = ask(gateways[0], feature, pair, &pair.one);
            let refused = other.status == 422 && other.json()["error"]["code"] == "idempotency_mismatch";
            let sound = first.status == 200
                && !kept(&first)
                && (refused || (other.status == 200 && !kept(&other) && other.body != first.body))
                && again.status == 200
                && kept(&again) == (again.body == first.body);
            again_kept += u32::from(kept(&again));
            if !sound {
                let seen =
                    [&first, &other, &again].map(|it| (it.status, it.text().chars().take(60).collect::<String>()));
                wrong.push(format!("{}, {}: {seen:?}", feature.name, pair.what));
            }
        }
        assert!(again_kept > 0, "{} keeps nothing: it is not put to the test", feature.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_pair_gets_each_others_answers_from_one_gateway() {
    let upstream = numbering();
    let foreign = Signer::es256("f");
    let builder = prepared(routes(&upstream, &FEATURES), &foreign, "");
    let keys = api_keys(builder.folder());
    let gateway = builder.start();
    let pairs = [Proofs { foreign, keys }.principals(), claims_of_nobody_verified(), things()]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>();
    assert!(pairs.len() > 25);
    nobody_gets_anothers_answer([&gateway, &gateway], &pairs);
}

#[test]
fn no_pair_gets_each_others_answers_through_a_shared_state() {
    let (redis, upstream, foreign) = (Redis::start(), numbering(), Signer::es256("f"));
    let more = format!("state: {{ redis: {{ url: \"{}\" }} }}", redis.url());
    let gateways = [(); 2].map(|()| prepared(routes(&upstream, &FEATURES), &foreign, &more).start());
    let proofs = Proofs { foreign, keys: BTreeMap::new() };
    let pairs = [proofs.principals(), claims_of_nobody_verified(), things()].into_iter().flatten().collect::<Vec<_>>();
    nobody_gets_anothers_answer(gateways.each_ref(), &pairs);
}

/// Whoever terminates TLS or proves callers in front of the gateway says so in fields; and some say that the request
/// means another one.
#[test]
fn no_two_callers_of_a_trusted_proxy_get_each_others_answers() {
    let fields = [
        "X-Amzn-Mtls-Clientcert",
        "X-Amzn-Mtls-Clientcert-Serial-Number",
        "X-ARR-ClientCert",
        "X-SSL-Client-Serial",
        "SSL-Client-Fingerprint",
        "X-Client-Verify",
        "X-Amzn-Oidc-Data",
        "Remote-Ident",
        "X-Pomerium-Claim-Aud",
        "X-Forwarded-Access",
        "X-Forwarded-User",
        "SM_USER",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "X-Host",
        "X-Script-Name",
        "X-Forwarded-Path",
        "X-Envoy-Original-Path",
        "X-Acme-Serial",
    ];
    let upstream = RawUpstream::start(|it| {
        let body = format!("answer {}", it.number);
        Script::new().read_body().send(answer_bytes(200, &[], body.as_bytes()))
    });
    let more = "trusted_proxies: [127.0.0.0/8]\ntrusted_fields: { more: [x-acme-*], anybody: [x-host] }\n";
    let settings = ["cache: { ttl: 1h }", "cache: { ttl: 1h, per: user }", "idempotency: {}"];
    for (number, settings) in settings.iter().enumerate() {
        let routes = format!(
            "version: 1\nupstreams:\n  up: {{ discovery: {{ static: [\"{}\"] }} }}\nroutes:\n  \
             - {{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: up, {settings} }}\n",
            upstream.address()
        );
        let gateway = Gateway::with(routes).config(format!("{}{more}", gateway::CONFIG.trim_start())).start();
        let method = if number == 2 { "POST" } else { "GET" };
        let ask = |field: &str, who: &str, address: &str| {
            let path = format!("/{field}");
            let fields = [("idempotency-key", field), ("cf-connecting-ip", address), (field, who)];
            gateway.request(method, &path, &fields, "")
        };
        for field in fields {
            let (alice, bob) = (ask(field, "alice", "192.0.2.1"), ask(field, "bob", "192.0.2.1"));
            assert_eq!(alice.status, 200, "{settings}, {field}");
            assert!(bob.body != alice.body && !kept(&bob), "{settings}, {field}: {}", bob.text());
        }
        // The same caller at another address is the same.
        let again = ask("X-Original-URL", "alice", "192.0.2.2");
        assert!(kept(&again), "{settings}: {}", again.text());
    }
}

// ── While an answer is on its way ───────────────────────────────────────────────────────────────

/// Nobody waits for another one's answer: the upstream hears of both, or the second is refused, while the first is
/// still under way.
#[test]
fn no_pair_is_joined_while_an_answer_is_on_its_way() {
    let gate = Arc::new(Mutex::new(Signal::new()));
    let behind = gate.clone();
    let upstream = RawUpstream::start(move |it| {
        let open = behind.lock().unwrap().clone();
        let body = format!("answer {}", it.number);
        let script = Script::new().read_body().wait(&open);
        script.send(answer_bytes(200, &[("cache-control", "max-age=60")], body.as_bytes()))
    });
    let foreign = Signer::es256("f");
    let gateway = prepared(routes(&upstream, &FEATURES), &foreign, "").start();
    let proofs = Proofs { foreign, keys: BTreeMap::new() };
    let pairs = [proofs.principals(), claims_of_nobody_verified(), things()].into_iter().flatten().collect::<Vec<_>>();
    for feature in &FEATURES {
        for pair in pairs.iter().filter(|it| feature.concerns(it)) {
            *gate.lock().unwrap() = Signal::new();
            let before = upstream.requests().len();
            thread::scope(|scope| {
                let one = scope.spawn(|| ask(&gateway, feature, pair, &pair.one));
                eventually("the first is under way", || {
                    assert!(!one.is_finished(), "{}, {}: it was not asked", feature.name, pair.what);
                    (upstream.requests().len() == before + 1).then_some(())
                });
                let other = scope.spawn(|| {
                    let answer = ask(&gateway, feature, pair, &pair.other);
                    (answer.status == 422).then(|| gate.lock().unwrap().give()); // or nobody would
                    answer
                });
                eventually("the second is heard of, or refused", || {
                    (other.is_finished() || upstream.requests().len() == before + 2).then_some(())
                });
                gate.lock().unwrap().give();
                let (one, other) = (one.join().unwrap(), other.join().unwrap());
                assert!(one.status == 200 && one.body != other.body, "{}, {}", feature.name, pair.what);
            });
        }
    }
}

// ── Counts, revocations, blocks ─────────────────────────────────────────────────────────────────

#[test]
fn nobody_uses_up_anothers_allowance() {
    let limits = ["user", "key", "tenant"].map(|per| Feature {
        name: per,
        settings: Box::leak(format!("rate_limits: [{{ per: {per}, requests: 1, every: 1h }}]").into_boxed_str()),
        method: "GET",
        bodies: false,
        of_tenant: per == "tenant",
    });
    let redis = Redis::start();
    for more in [String::new(), format!("state: {{ redis: {{ url: \"{}\" }} }}", redis.url())] {
        let (upstream, foreign) = (numbering(), Signer::es256("f"));
        let builder = prepared(routes(&upstream, &limits), &foreign, &more);
        let keys = api_keys(builder.folder());
        let gateway = builder.start();
        let pairs = Proofs { foreign, keys }.principals();
        for limit in &limits {
            // Whom a service acts for is not verified: it can't be given allowances that way.
            let pairs = pairs.iter().filter(|it| limit.concerns(it) && !it.what.starts_with("a service that carries"));
            for pair in pairs {
                let statuses = [&pair.one, &pair.one, &pair.other, &pair.other];
                let statuses = statuses.map(|it| ask(&gateway, limit, pair, it).status);
                assert_eq!(statuses, [200, 429, 200, 429], "per {}, {}, {more}", limit.name, pair.what);
            }
        }
    }
}

#[test]
fn what_is_revoked_of_one_is_not_revoked_of_others() {
    let foreign = Signer::es256("f");
    let routes = "version: 1\nupstreams: { auth: { local: auth } }\nroutes:\n  \
        - { name: auth, match: { path: \"/api/v1/auth/{*rest}\" }, upstream: auth }\n  \
        - { name: all, match: { path: /all }, respond: {}, auth: { jwt: {} } }\n";
    let builder = prepared(routes.to_owned(), &foreign, "");
    let password = "correct horse battery";
    for (name, tenant) in [("ada", "north"), ("bob", "south")] {
        moongate(builder.folder(), &["users", "add", name, "--role", "user", "--tenant", tenant], password);
    }
    let gateway = builder.start();
    let login = |name: &str| {
        let body = json!({ "username": name, "password": password }).to_string();
        let answer = gateway.request("POST", "/api/v1/auth/login", &[("content-type", "application/json")], body);
        answer.json()["access_token"].as_str().unwrap().to_owned()
    };
    let status =
        |token: &str| gateway.request("GET", "/all", &[("authorization", &format!("Bearer {token}"))], "").status;
    let (ada, bob) = (login("ada"), login("bob"));
    // Somebody of another issuer, all of whose names are those of ada.
    let told = with(tokens::said_by(&ada).1, json!({ "iss": FOREIGN }));
    let other = foreign.sign(&told);
    assert_eq!([&ada, &bob, &other].map(|it| status(it)), [200, 200, 200]);
    let out = gateway.request("POST", "/api/v1/auth/logout", &[("authorization", &format!("Bearer {ada}"))], "");
    assert_eq!(out.status, 204, "{}", out.text());
    assert_eq!([&ada, &bob, &other].map(|it| status(it)), [401, 200, 200]);
    // All tokens of one subject.
    let ada = login("ada");
    assert_eq!(status(&ada), 200, "a new sign-in is another one");
    moongate(gateway.folder(), &["users", "disable", "ada"], "");
    eventually("what the command revoked is heard of", || (status(&ada) == 401).then_some(()));
    assert_eq!([&bob, &other].map(|it| status(it)), [200, 200]);
}

/// What is remembered of an account is for our own tokens of it.
#[test]
fn another_issuers_subject_has_not_the_roles_of_our_account_of_that_name() {
    let foreign = Signer::es256("f");
    let routes = "version: 1\nupstreams: { auth: { local: auth } }\nroutes:\n  \
        - { name: auth, match: { path: \"/api/v1/auth/{*rest}\" }, upstream: auth }\n  \
        - { name: all, match: { path: /all }, respond: {}, auth: { jwt: {}, roles_from: account, roles: [clinician] } }\n";
    let builder = prepared(routes.to_owned(), &foreign, "");
    let password = "correct horse battery";
    moongate(builder.folder(), &["users", "add", "ada", "--role", "clinician"], password);
    let gateway = builder.start();
    let body = json!({ "username": "ada", "password": password }).to_string();
    let answer = gateway.request("POST", "/api/v1/auth/login", &[("content-type", "application/json")], body);
    let ada = answer.json()["access_token"].as_str().unwrap().to_owned();
    let other = foreign.sign(&with(tokens::said_by(&ada).1, json!({ "iss": FOREIGN, "roles": ["user"] })));
    let status =
        |token: &str| gateway.request("GET", "/all", &[("authorization", &format!("Bearer {token}"))], "").status;
    for _ in 0..2 {
        assert_eq!([&ada, &other].map(|it| status(it)), [200, 403]);
    }
}

#[test]
fn the_id_of_an_api_key_is_nothing_without_its_own_secret() {
    let (upstream, foreign) = (numbering(), Signer::es256("f"));
    let features =
        [Feature { name: "plain", settings: "body_limit: 1KiB", method: "GET", bodies: false, of_tenant: false }];
    let builder = prepared(routes(&upstream, &features), &foreign, "");
    let keys = api_keys(builder.folder());
    let gateway = builder.start();
    let status = |key: &str| gateway.request("GET", "/plain/known/x", &[("x-api-key", key)], "").status;
    let (north, south) = (&keys["north"], &keys["south"]);
    let parts = |key: &str| {
        key.strip_prefix("mg_").unwrap().split_once('_').map(|(id, it)| (id.to_owned(), it.to_owned())).unwrap()
    };
    let swapped = format!("mg_{}_{}", parts(north).0, parts(south).1);
    for _ in 0..2 {
        // Whatever is remembered of either by then.
        assert_eq!([north, south, &swapped].map(|it| status(it)), [200, 200, 401]);
    }
}

#[test]
fn a_block_is_for_the_network_that_earned_it() {
    let routes = "version: 1\nroutes: [{ name: hi, match: { path: /hi }, respond: { body: hi } }]\n";
    let guard = "trusted_proxies: [127.0.0.1/32]\nguard: { errors: { count: 10, every: 1m } }\n";
    let gateway = Gateway::with(routes).config(format!("{}{guard}", gateway::CONFIG.trim_start())).start();
    let from = |client: &str, path: &str| gateway.request("GET", path, &[("x-forwarded-for", client)], "").status;
    (0..30).for_each(|_| assert!(from("203.0.113.9", "/nowhere") >= 400));
    assert_eq!(from("203.0.113.9", "/hi"), 429);
    // A client's own word about the way behind the proxy makes it nobody else, and nobody else it.
    assert_eq!(from("203.0.113.9, 203.0.113.9", "/hi"), 429);
    assert_eq!([from("203.0.113.10", "/hi"), from("203.0.113.9, 203.0.113.10", "/hi")], [200, 200]);
}

// ── Schemes ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn what_came_in_the_clear_is_not_what_came_by_tls() {
    let upstream = numbering();
    let ca = Ca::new("one");
    let config = "listeners:\n  public:\n    - address: \"127.0.0.1:0\"\n    - address: \"127.0.0.1:0\"\n      \
        tls: { cert: one/cert.pem, key: one/key.pem }\n  admin: { address: \"127.0.0.1:0\" }\n";
    let builder = Gateway::with(routes(&upstream, &FEATURES[..4])).config(config);
    // The part with `auth` is not asked here, and has no keys to verify with.
    let builder = builder.env("PROXY_JWT_SECRET", SECRET);
    ca.write_leaf(builder.folder(), "one", &["one.test"]);
    let gateway = builder.start();
    let public = eventually("both listen", || {
        let public: Vec<_> = gateway.listening().into_iter().filter(|it| it.0 != "admin").collect();
        (public.len() == 2).then_some(public)
    });
    let head = |method: &str, path: &str| {
        format!("{method} {path} HTTP/1.1\r\nhost: one.test\r\nidempotency-key: k\r\ncontent-length: 0\r\n\r\n")
    };
    let mut clear = RawClient::connect(public[0].1);
    let mut secure = RawClient::try_connect_tls(public[1].1, "one.test", ca.client(&[], None)).unwrap();
    for (method, path) in [("POST", "/idempotency/open/x"), ("GET", "/cache/open/x")] {
        clear.send(head(method, path));
        let first = clear.read_response();
        secure.send(head(method, path));
        let other = secure.read_response();
        clear.send(head(method, path));
        let again = clear.read_response();
        assert!(first.status == 200 && !kept(&other) && other.body != first.body, "{path}: {}", other.text());
        assert!(kept(&again) && again.body == first.body, "{path}");
    }
}

//! Who is calling: tokens honest and forged, API keys, where they may stand, and what upstreams are told.

use serde_json::{Value, json};

use crate::accounts::moongate;
use crate::support::tokens::*;
use crate::support::*;

const CONFIG: &str = "
listeners: { public: [{ address: \"127.0.0.1:0\" }], admin: { address: \"127.0.0.1:0\" } }
tokens: { issuer: moongate, audience: [tta], hs256_secret: \"${PROXY_JWT_SECRET}\", signing_key: key.pem }
store: { sqlite: { path: moongate.db } }
";

/// A gateway with a secret and this signing key, in front of an upstream that echoes what it was sent.
struct Stage {
    gateway: Gateway,
    signer: Signer,
    _upstream: Demo,
}

fn routes(upstream: std::net::SocketAddr, routes: &str) -> String {
    format!("version: 1\nupstreams: {{ up: {{ discovery: {{ static: [\"{upstream}\"] }} }} }}\nroutes:\n{routes}\n")
}

impl Stage {
    fn new(auth: &str) -> Self {
        Self::prepared(auth, |_| {})
    }

    fn prepared(auth: &str, prepare: impl FnOnce(&Folder)) -> Self {
        let upstream = Demo::start("up");
        let signer = Signer::es256("ignored");
        let text = routes(
            upstream.address(),
            &format!("  - {{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: up, auth: {auth} }}"),
        );
        let builder = Gateway::with(text).config(CONFIG).env("PROXY_JWT_SECRET", SECRET).file("key.pem", &signer.pem);
        builder.folder().write("conf/gateway.yaml", CONFIG); // for the commands
        prepare(builder.folder());
        Self { gateway: builder.start(), signer, _upstream: upstream }
    }

    fn ask(&self, fields: &[(&str, &str)]) -> Response {
        self.gateway.request("GET", "/echo", fields, b"")
    }

    fn bearer(&self, token: &str) -> Response {
        self.ask(&[("authorization", &format!("Bearer {token}"))])
    }

    /// The name of the key that signs, as it is published.
    fn kid(&self) -> String {
        let jwk = json!({ "crv": "P-256", "kty": "EC", "x": self.signer.jwk["x"], "y": self.signer.jwk["y"] });
        base64url(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, jwk.to_string().as_bytes()))
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "ES256", "kid": self.kid() });
        self.signer.sign_raw(&header.to_string(), &claims.to_string())
    }
}

/// The refusal has every field, says why in both places, and nothing of the token.
#[track_caller]
fn refused(answer: &Response, reason: &str) {
    let error = &answer.json()["error"];
    assert_eq!((answer.status, error["code"].as_str()), (401, Some("unauthorized")), "{}", answer.text());
    assert_eq!(error["details"]["reason"], reason);
    for field in ["message", "request_id", "suggested_action"] {
        assert!(error[field].as_str().is_some_and(|it| !it.is_empty()), "{field}");
    }
    let challenge = answer.header("www-authenticate").unwrap();
    if reason == "missing" {
        assert_eq!(challenge, "Bearer realm=\"moongate\"");
    } else {
        let message = error["message"].as_str().unwrap();
        let expected = format!("Bearer realm=\"moongate\", error=\"invalid_token\", error_description=\"{message}\"");
        assert_eq!(challenge, expected);
    }
}

#[test]
fn r4_2_our_own_tokens_pass_and_upstreams_are_told_whose_they_are() {
    let stage = Stage::new("{ jwt: {} }");
    refused(&stage.ask(&[]), "missing");
    refused(&stage.ask(&[("authorization", "Basic YTpi")]), "missing");
    for token in [stage.sign(&claims("ada", &["user", "clinician"])), token("ada", &["user", "clinician"])] {
        // The second time it is known.
        for _ in 0..2 {
            let answer = stage.ask(&[
                ("authorization", &format!("Bearer {token}")),
                ("x-moongate-subject", "root"),
                ("X_Moongate_Roles", "admin"),
                ("x-moongate-new", "x"),
            ]);
            assert_eq!(answer.status, 200, "{}", answer.text());
            let told = &answer.json()["headers"];
            for (name, value) in [
                ("x-moongate-subject", "ada"),
                ("x-moongate-tenant", "north"),
                ("x-moongate-roles", "user,clinician"),
                ("x-moongate-scopes", "read"),
                ("x-moongate-auth-method", "jwt"),
            ] {
                assert_eq!(told[name], value, "{name}");
            }
            assert!(told.get("x_moongate_roles").is_none() && told.get("x-moongate-new").is_none(), "{told}");
            // What is signed says the same, with the key that is published, and is no access token.
            let token = told["x-moongate-identity"].as_str().unwrap();
            let (header, said) = said_by(token);
            assert_eq!((&header["kid"], &header["typ"]), (&json!(stage.kid()), &json!("moongate-identity+jwt")));
            assert_eq!(
                (&said["sub"], &said["tenant"], &said["amr"]),
                (&json!("ada"), &json!("north"), &json!(["jwt"]))
            );
            assert!(said["exp"].as_u64().unwrap() <= now() + 61);
            refused(&stage.bearer(token), "type");
        }
    }
    assert!(figure(&stage.gateway, "moongate_tokens_total{result=\"known\"}").unwrap() >= 2.0);
    assert_eq!(figure(&stage.gateway, "moongate_tokens_total{result=\"verified\"}"), Some(2.0));
}

#[test]
fn r4_2_whatever_a_client_says_of_itself_is_forgotten_where_nobody_is_asked_too() {
    let upstream = Demo::start("up");
    let text = routes(upstream.address(), "  - { name: all, match: { path: \"/{*rest}\" }, upstream: up }");
    let gateway = Gateway::start(text);
    let fields = [("X-Moongate-Subject", "root"), ("x_moongate-tenant", "a"), ("x-moongate-identity", "b")];
    let told = gateway.request("GET", "/echo", &fields, b"").json()["headers"].clone();
    assert!(told.as_object().unwrap().keys().all(|it| !it.replace('_', "-").starts_with("x-moongate")), "{told}");
}

#[test]
fn px_1_a_token_of_the_secret_counts_under_whatever_name_its_maker_gave_the_secret() {
    let stage = Stage::new("{ jwt: {} }");
    let text = claims("ada", &["user"]).to_string();
    let sign = |kid: &str, secret: &[u8]| sign_hs256(&json!({ "alg": "HS256", "kid": kid }).to_string(), &text, secret);
    assert_eq!(stage.bearer(&sign("legacy-2024", SECRET.as_bytes())).status, 200);
    assert_eq!(stage.bearer(&sign("legacy-2024", b"another secret of at least 32 bytes")).status, 401);
    // The name of a key stays that key's.
    assert_eq!(stage.bearer(&sign(&stage.kid(), SECRET.as_bytes())).status, 401);
}

#[test]
fn r4_2_forged_tokens_are_refused_and_told_why() {
    let stage = Stage::new("{ jwt: {} }");
    let good = claims("ada", &["admin"]);
    let text = good.to_string();
    let kid = stage.kid();
    let header = |changes: Value| with(json!({ "alg": "ES256", "kid": kid }), changes).to_string();
    let es256 = |changes: Value| stage.signer.sign_raw(&header(changes), &text);
    let hs256 = |header: &str, secret: &[u8]| sign_hs256(header, &text, secret);
    let unsigned = |header: &str| format!("{}.{}.", base64url(header), base64url(&text));
    let other = Signer::es256(&kid);
    let mine = stage.sign(&good);
    let (head, rest) = mine.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let said = |changes: Value| stage.sign(&with(good.clone(), changes));
    let twice = text.replacen('{', "{\"sub\":\"root\",", 1);
    let secret = SECRET.as_bytes();
    let point = {
        let part = |it: &str| {
            use base64::Engine;
            base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(stage.signer.jwk[it].as_str().unwrap()).unwrap()
        };
        [&[4][..], &part("x"), &part("y")].concat()
    };
    for (reason, token) in [
        // The algorithm is the key's, whatever the header says.
        ("algorithm", unsigned("{\"alg\":\"none\"}")),
        ("algorithm", unsigned("{\"alg\":\"nOnE\"}")),
        ("algorithm", unsigned("{\"typ\":\"JWT\"}")),
        ("algorithm", hs256(&header(json!({ "alg": "HS256" })), &point)),
        ("algorithm", hs256(&header(json!({ "alg": "HS256" })), stage.signer.pem.as_bytes())),
        ("signature", hs256("{\"alg\":\"HS256\"}", &point)),
        ("signature", hs256("{\"alg\":\"HS256\"}", b"")),
        ("signature", hs256("{\"alg\":\"HS256\"}", &secret[..31])),
        ("algorithm", hs256("{\"alg\":\"HS384\"}", secret)),
        ("algorithm", stage.signer.sign_raw("{\"alg\":\"RS256\"}", &text)),
        // No key but ours.
        ("signature", other.sign(&good)),
        ("own_key", es256(json!({ "jwk": other.jwk }))),
        ("own_key", es256(json!({ "jku": "http://127.0.0.1:1/jwks" }))),
        ("own_key", es256(json!({ "x5u": "http://127.0.0.1:1/cert" }))),
        ("own_key", es256(json!({ "x5c": ["AAAA"] }))),
        ("key", es256(json!({ "kid": "../../../../dev/null" }))),
        ("key", es256(json!({ "kid": "key.pem" }))),
        ("key", es256(json!({ "kid": "" }))),
        ("malformed", es256(json!({ "kid": ["a"] }))),
        // One form, one meaning.
        ("duplicate", stage.sign(&json!({})).replace(base64url("{}").as_str(), &base64url(&twice))),
        ("duplicate", stage.signer.sign_raw(&header(json!({})).replacen('{', "{\"alg\":\"none\",", 1), &text)),
        ("not_canonical", format!("{mine}=")),
        ("not_canonical", format!("{head}.{body}=.{signature}")),
        ("not_canonical", format!("{mine}+")),
        ("not_three_parts", format!("{head}.{body}")),
        ("not_three_parts", format!("{mine}.{signature}")),
        ("not_three_parts", "nonsense".to_owned()),
        ("not_three_parts", String::new()),
        ("signature", format!("{head}.{body}.{}", &signature[..40])),
        ("signature", format!("{head}.{body}.{}", base64url([0; 64]))),
        ("signature", format!("{head}.{}.{signature}", base64url(text.replace("ada", "eve")))),
        ("not_json", stage.signer.sign_raw(&header(json!({})), "[]")),
        ("not_json", stage.signer.sign_raw("\"ES256\"", &text)),
        ("critical", es256(json!({ "crit": ["exp"], "exp": 1 }))),
        ("critical", es256(json!({ "zip": "DEF" }))),
        ("type", es256(json!({ "typ": "refresh+jwt" }))),
        ("too_long", "a".repeat(9_000)),
        // Whose, for whom, and when.
        ("issuer", said(json!({ "iss": "https://evil.example" }))),
        ("issuer", said(json!({ "iss": null }))),
        ("audience", said(json!({ "aud": ["other"] }))),
        ("audience", said(json!({ "aud": null }))),
        ("expired", said(json!({ "exp": now() - 31 }))),
        ("endless", said(json!({ "exp": null }))),
        ("malformed", said(json!({ "exp": "never" }))),
        ("early", said(json!({ "nbf": now() + 300 }))),
        ("early", said(json!({ "iat": now() + 300 }))),
        ("malformed", said(json!({ "sub": null }))),
        ("malformed", said(json!({ "sub": "ada\u{0}" }))),
        ("malformed", said(json!({ "roles": { "admin": true } }))),
    ] {
        let answer = stage.bearer(&token);
        assert_eq!(answer.status, 401, "{reason}: {token}");
        refused(&answer, reason);
        // One word for programs; people are told which member is meant.
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        let named = ["kid", "exp", "sub", "roles"].iter().any(|it| message.contains(it));
        assert!(reason != "malformed" || named, "{message}");
    }
    // After all that the good one still passes, and nothing of any token is in the log.
    assert_eq!(stage.bearer(&mine).status, 200);
    assert!(!stage.gateway.log_tail().contains(signature));
}

#[test]
fn r4_2_leeway_is_small_and_can_be_none() {
    let signer = Signer::ed25519("k");
    let config = "listeners: { public: [{ address: \"127.0.0.1:0\" }], admin: { address: \"127.0.0.1:0\" } }\n\
                  tokens: { hs256_secret: \"${PROXY_JWT_SECRET}\", leeway: 0s }\n";
    let text = "version: 1\nroutes: [{ name: all, match: { path: / }, respond: {}, auth: { jwt: {} } }]";
    let gateway = Gateway::with(text).config(config).env("PROXY_JWT_SECRET", SECRET).start();
    let ask = |changes: Value| {
        let claims = with(claims("ada", &[]), changes).to_string();
        let token = sign_hs256("{\"alg\":\"HS256\"}", &claims, SECRET.as_bytes());
        gateway.request("GET", "/", &[("authorization", &format!("Bearer {token}"))], b"").status
    };
    assert_eq!(ask(json!({})), 200);
    assert_eq!(ask(json!({ "exp": now() })), 401);
    // Where neither issuer nor audience is configured, a token need not name any.
    assert_eq!(ask(json!({ "iss": null, "aud": null })), 200);
    assert_eq!(ask(json!({ "aud": "other" })), 401);
    let stranger = signer.sign(&claims("ada", &[]));
    assert_eq!(gateway.request("GET", "/", &[("authorization", &format!("Bearer {stranger}"))], b"").status, 401);
}

#[test]
fn r4_2_more_than_one_credential_is_one_too_many() {
    let auth = "{ jwt: {}, api_key: {}, from: [header, { cookie: session }, { query: access_token }] }";
    let stage = Stage::new(auth);
    let token = token("ada", &[]);
    let bearer = format!("Bearer {token}");
    let cookie = format!("session={token}");
    for fields in [
        vec![("authorization", &*bearer), ("authorization", &*bearer)],
        vec![("authorization", &*bearer), ("x-api-key", "mg_a_0123456789abcdef")],
        vec![("authorization", &*bearer), ("cookie", &*cookie)],
        vec![("cookie", &*cookie), ("cookie", &*cookie)],
    ] {
        let answer = stage.ask(&fields);
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!("ambiguous_credentials")));
    }
    let both = stage.gateway.request("GET", &format!("/echo?access_token={token}"), &[("cookie", &cookie)], b"");
    assert_eq!(both.status, 400);
    assert_eq!(stage.ask(&[("cookie", &cookie)]).status, 200);
}

#[test]
fn r3_1_a_token_in_the_query_opens_a_socket_and_goes_no_further() {
    let upstream = Demo::start("up");
    let auth = "auth: { jwt: {}, from: [header, { cookie: session }, { query: access_token }] }";
    let text = routes(
        upstream.address(),
        &format!(
            "  - {{ name: ws, match: {{ path: /ws, websocket: true }}, upstream: up, {auth} }}\n  \
             - {{ name: rest, match: {{ path: \"/{{*rest}}\" }}, upstream: up, {auth} }}"
        ),
    );
    let config =
        CONFIG.replace(", signing_key: key.pem", "").replace("127.0.0.1:0\" }]", "127.0.0.1:0\", h2c: true }]");
    let gateway = Gateway::with(text).config(config).env("PROXY_JWT_SECRET", SECRET).start();
    let token = token("ada", &[]);
    let over_http2 = H2Client::connect(gateway.public()).get(&format!("/echo?access_token={token}"));
    let over_http2 = over_http2.json();
    assert_eq!(
        (&over_http2["query"], &over_http2["headers"]["host"]),
        (&json!(""), &json!(gateway.public().to_string()))
    );
    let echo = gateway.get(&format!("/echo?a=1&access_token={token}&b=2"));
    assert_eq!((echo.status, &echo.json()["query"]), (200, &json!("a=1&b=2")), "{}", echo.text());
    let log = gateway.access_log_for(echo.header("x-request-id").unwrap());
    assert!(!log.to_string().contains(&token[..20]));

    let mut socket = WsClient::connect(gateway.public(), &format!("/ws?access_token={token}"), &[]);
    socket.send_text("hello");
    assert_eq!(socket.read(), Message::text("hello"));
    // A page of another origin has the user's cookie, but not the right to use it.
    let cookie = format!("session={token}");
    let own = format!("http://{}", gateway.public());
    for (origin, opens) in [("https://evil.example", false), ("null", false), (&*own, true)] {
        let opened = WsClient::try_connect(gateway.public(), "/ws", &[("cookie", &cookie), ("origin", origin)]);
        assert_eq!(opened.is_ok(), opens, "{origin}");
        if let Err(answer) = opened {
            assert_eq!(answer.status, 403);
        }
    }
    let forged = gateway.request("POST", "/echo", &[("cookie", &cookie), ("origin", "https://evil.example")], b"x");
    assert_eq!(forged.status, 403);
}

#[test]
fn r3_1_without_a_token_the_upstream_hears_nothing() {
    let upstream = RawUpstream::start(|_| Script::ok("never"));
    let text = routes(
        upstream.address(),
        "  - { name: ws, match: { path: /ws, websocket: true }, upstream: up, auth: { jwt: {} } }\n  \
         - { name: sse, match: { path: \"/{*rest}\" }, upstream: up, auth: { jwt: {} } }",
    );
    let config = CONFIG.replace(", signing_key: key.pem", "");
    let gateway = Gateway::with(text).config(config).env("PROXY_JWT_SECRET", SECRET).start();
    for fields in [vec![], vec![("authorization", "Bearer a.b.c")]] {
        let answer = WsClient::try_connect(gateway.public(), "/ws", &fields).err().unwrap();
        assert_eq!(answer.status, 401);
        assert!(answer.header("www-authenticate").is_some());
        let mut fields = fields;
        fields.push(("accept", "text/event-stream"));
        assert_eq!(gateway.request("GET", "/sse", &fields, b"").status, 401);
        // Its body is not waited for, and the connection can go on.
        let mut client = RawClient::connect(gateway.public());
        client.send("POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n");
        assert_eq!(client.read_response().status, 401);
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn r4_2_large_tokens_and_fields_cost_an_answer_and_no_more() {
    let stage = Stage::new("{ jwt: {} }");
    // The longest token that is looked at, one more, the longest value of a field with `Bearer` before it, one more.
    for (length, status) in [(8_192, 401), (8_193, 401), (16_377, 401), (16_378, 431), (20_000, 431)] {
        assert_eq!(stage.bearer(&"a".repeat(length)).status, status, "{length}");
    }
    let deep = format!("{}1{}", "{\"a\":".repeat(1_000), "}".repeat(1_000));
    refused(&stage.bearer(&stage.signer.sign_raw("{\"alg\":\"ES256\"}", &deep)), "not_json");
    let many = claims("ada", &(0..100).map(|_| "r").collect::<Vec<_>>());
    assert_eq!(stage.bearer(&stage.sign(&many)).status, 200);
    let roles: Vec<String> = (0..100).map(|it| it.to_string()).collect();
    let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
    refused(&stage.bearer(&stage.sign(&claims("ada", &roles))), "malformed");
}

#[test]
fn r4_2_keys_change_over_while_it_runs_and_lose_nobody() {
    let stage = Stage::new("{ jwt: {} }");
    let old = stage.sign(&claims("ada", &[]));
    assert_eq!(stage.bearer(&old).status, 200);
    let new = Signer::ed25519("n");
    stage.gateway.folder().write("new.pem", &new.pem);
    let both = CONFIG.replace("signing_key: key.pem", "signing_key: new.pem, verification_keys: [key.pem]");
    stage.gateway.folder().write("gateway.yaml", &both);
    let reloaded = stage.gateway.reload();
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
    let signed = new.sign_raw("{\"alg\":\"EdDSA\"}", &claims("eve", &[]).to_string());
    assert_eq!((stage.bearer(&old).status, stage.bearer(&signed).status), (200, 200));
    stage.gateway.folder().write("gateway.yaml", CONFIG.replace("key.pem", "new.pem"));
    assert_eq!(stage.gateway.reload().status, 200);
    refused(&stage.bearer(&old), "key");
    assert_eq!(stage.bearer(&signed).status, 200);
    // A key that can't be read keeps the old ones.
    stage.gateway.folder().write("new.pem", "nonsense");
    assert_eq!(stage.gateway.reload().status, 422);
    assert_eq!(stage.bearer(&signed).status, 200);
}

#[test]
fn r4_2_the_credential_stays_here_where_the_route_says_so() {
    let stage = Stage::new("{ jwt: {}, from: [header, { cookie: session }], forward: false }");
    let token = token("ada", &[]);
    let told = stage.bearer(&token).json()["headers"].clone();
    assert!(told.get("authorization").is_none() && told["x-moongate-subject"] == "ada", "{told}");
    let told = stage.ask(&[("cookie", &format!("a=1; session={token}; b=2"))]).json()["headers"].clone();
    assert_eq!(told["cookie"], "a=1; b=2");
}

#[test]
fn r4_2_who_may_come_as_nobody_still_may_not_come_with_a_bad_token() {
    let stage = Stage::new("{ jwt: {}, optional: true }");
    assert!(stage.ask(&[]).json()["headers"].get("x-moongate-subject").is_none());
    assert_eq!(stage.bearer(&token("ada", &[])).json()["headers"]["x-moongate-subject"], "ada");
    refused(&stage.bearer("a.b.c"), "not_canonical");
}

#[test]
fn r7_2_services_have_tokens_and_keys_of_their_own() {
    let mut key = String::new();
    let stage = Stage::prepared("{ service_token: {}, api_key: {} }", |folder| {
        let arguments =
            ["keys", "api", "billing", "--role", "service", "--role", "user", "--scope", "bench", "--tenant", "north"];
        let output = moongate(folder, &arguments, "", &[("PROXY_JWT_SECRET", SECRET)]);
        assert_eq!(output.code, 0, "{}", output.stderr);
        key = output.stdout.split_whitespace().find(|it| it.starts_with("mg_")).unwrap().to_owned();
    });
    refused(&stage.bearer(&token("ada", &["user", "admin"])), "not_a_service");
    let told = stage.bearer(&token("billing", &["service"])).json()["headers"].clone();
    assert_eq!(told["x-moongate-auth-method"], "service_token");

    for fields in [[("x-api-key", key.clone())], [("authorization", format!("Bearer {key}"))]] {
        let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
        for _ in 0..2 {
            let answer = stage.ask(&fields);
            assert_eq!(answer.status, 200, "{}", answer.text());
            let told = &answer.json()["headers"];
            assert_eq!(
                (&told["x-moongate-subject"], &told["x-moongate-auth-method"]),
                (&json!("billing"), &json!("api_key"))
            );
            assert_eq!(told["x-moongate-roles"], "service,user");
            assert_eq!((&told["x-moongate-tenant"], &told["x-moongate-scopes"]), (&json!("north"), &json!("bench")));
        }
    }
    assert_eq!(figure(&stage.gateway, "moongate_api_key_looks_total{from=\"looked_up\"}"), Some(1.0));
    let other_end = if key.ends_with('0') { "1" } else { "0" };
    let id = key.split('_').nth(1).unwrap();
    for bad in [
        format!("{}{other_end}", &key[..key.len() - 1]),
        format!("mg_{id}_"),
        format!("mg_0000000000000000_{}", key.rsplit('_').next().unwrap()),
        "mg_".to_owned(),
        String::new(),
    ] {
        refused(&stage.ask(&[("x-api-key", &bad)]), "api_key");
    }
    let secret = key.rsplit('_').next().unwrap();
    assert!(!stage.gateway.log_lines().iter().any(|it| it.text.contains(secret)));
}

#[test]
fn explain_shows_who_may_call() {
    let folder = Folder::new();
    folder.write("gateway.yaml", gateway::CONFIG);
    let text = "version: 1
policies:
  clinical: { auth: { jwt: {}, roles: [clinician, admin], permissions: [notes.read] } }
routes:
  - { name: a, match: { path: /a }, use: [clinical], respond: {} }
  - { name: b, match: { path: /b }, use: [clinical], respond: {}, auth: { api_key: {} } }
";
    folder.write("routes.yaml", text);
    let steps = |url: &str| {
        let arguments =
            ["explain", "GET", url, "--config", "gateway.yaml", "--routes", "routes.yaml", "--format", "json"];
        let output = moongate(&folder, &arguments, "", &[]);
        assert_eq!(output.code, 0, "{}", output.stderr);
        let shown: Value = serde_json::from_str(&output.stdout).unwrap();
        let steps = shown["route"]["steps"].as_array().or(shown["steps"].as_array()).unwrap().clone();
        steps.into_iter().find(|it| it["step"] == "auth").unwrap()["settings"].clone()
    };
    let clinical = json!({ "jwt": {}, "roles": ["clinician", "admin"], "permissions": ["notes.read"] });
    assert_eq!(steps("http://x/a"), clinical);
    // As a whole, not the halves of two.
    assert_eq!(steps("http://x/b"), json!({ "api_key": {} }));
    folder.write(
        "routes.yaml",
        text.replace("[notes.read]", "[notes.raed]").replace("jwt: {}", "jwt: { trust: [clinci] }"),
    );
    let output = moongate(&folder, &["check", "--config", "gateway.yaml", "--routes", "routes.yaml"], "", &[]);
    assert_eq!(output.code, 1);
    for part in ["routes.yaml:3:", "no issuer `clinci`"] {
        assert!(output.stderr.contains(part), "{part} is missing in {}", output.stderr);
    }
}

#[test]
fn s2s_34_each_api_key_has_a_limit_of_its_own() {
    let mut keys = Vec::new();
    let settings = "{ api_key: {} }, rate_limits: [{ per: key, requests: 2, every: 1h }]";
    let stage = Stage::prepared(settings, |folder| {
        for name in ["one", "two"] {
            let output =
                moongate(folder, &["keys", "api", name, "--role", "service"], "", &[("PROXY_JWT_SECRET", SECRET)]);
            assert_eq!(output.code, 0, "{}", output.stderr);
            keys.push(output.stdout.split_whitespace().find(|it| it.starts_with("mg_")).unwrap().to_owned());
        }
    });
    for key in &keys {
        let answers: Vec<Response> = (0..3).map(|_| stage.ask(&[("x-api-key", key)])).collect();
        assert_eq!(answers.iter().map(|it| it.status).collect::<Vec<_>>(), [200, 200, 429]);
        assert_eq!(answers[2].header("x-ratelimit-limit"), Some("2"));
        assert!(answers[2].header("retry-after").is_some());
    }
}

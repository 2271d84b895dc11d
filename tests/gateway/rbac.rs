//! Who may do what: roles, permissions, scopes, and what happens when that can't be told.

use std::ops::Deref;
use std::time::Duration;

use moongate::store::{NewUser, Place, Store, UserChange};
use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection, Executor};

use crate::support::files::yaml_path;
use crate::support::tokens::*;
use crate::support::*;

const CONFIG: &str = "
listeners: { public: [{ address: \"127.0.0.1:0\" }], admin: { address: \"127.0.0.1:0\" } }
tokens: { issuer: moongate, audience: [tta], hs256_secret: \"${PROXY_JWT_SECRET}\", records_life: 200ms }
store: { sqlite: { path: moongate.db } }
";

const ROUTES: &str = "version: 1
upstreams: { back: { discovery: { static: [\"BACK\"] } } }
roles:
  user: [chat.use]
  operator: [chat.use, plugins.*, sessions.*, metrics.read]
  admin: [\"*\"]
  service: [usage.write]
policies:
  signed_in: { auth: { jwt: {} } }
routes:
  - { name: chat, match: { path: /api/v1/chat }, upstream: back, auth: { jwt: {}, permissions: [chat.use] } }
  - { name: plugins, match: { path: /api/v1/plugins }, upstream: back, auth: { jwt: {}, roles: [operator, admin] } }
  - { name: sessions, match: { path: /api/v1/sessions }, upstream: back, auth: { jwt: {}, permissions: [sessions.read, metrics.read] } }
  - { name: users, match: { path: /api/v1/users }, upstream: back, auth: { jwt: {}, permissions: [users.write] } }
  - { name: bench, match: { path: /api/v1/bench }, upstream: back, auth: { jwt: {}, scopes: [bench] } }
  - { name: usage, match: { path: /api/v1/usage }, upstream: back, auth: { jwt: {}, permissions: [usage.write], roles_from: account } }
";

/// A gateway, and the service that it stands in front of: whoever may not do a thing is kept from a real one.
struct Stage {
    gateway: Gateway,
    upstream: RawUpstream,
}

impl Deref for Stage {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.gateway
    }
}

impl Stage {
    fn routes(&self) -> String {
        ROUTES.replace("BACK", &self.upstream.address().to_string())
    }

    /// For whom requests have arrived, in their order.
    fn served(&self) -> Vec<String> {
        let of = |head: Vec<u8>| Request { head, connection: 0, turn: 0, number: 0 }.header("x-moongate-subject");
        self.upstream.requests().into_iter().map(|it| of(it).unwrap_or_default()).collect()
    }
}

fn start() -> Stage {
    let upstream = RawUpstream::start(|_| Script::ok("done"));
    let routes = ROUTES.replace("BACK", &upstream.address().to_string());
    Stage { gateway: Gateway::with(routes).config(CONFIG).env("PROXY_JWT_SECRET", SECRET).start(), upstream }
}

fn ask(gateway: &Gateway, path: &str, token: &str) -> Response {
    gateway.request("GET", path, &[("authorization", &format!("Bearer {token}"))], b"")
}

#[test]
fn us_009_1_three_roles_may_what_they_may() {
    let gateway = start();
    let operator = "Insufficient permissions. Required role: operator.";
    let admin = "Insufficient permissions. Required role: admin.";
    let none: Option<&str> = None;
    for (role, may) in [
        ("user", [none, Some(operator), Some(operator), Some(admin)]),
        ("operator", [none, none, none, Some(admin)]),
        ("admin", [none; 4]),
    ] {
        let token = token(role, &[role]);
        for (path, refused) in ["chat", "plugins", "sessions", "users"].iter().zip(may) {
            let answer = ask(&gateway, &format!("/api/v1/{path}"), &token);
            let Some(sentence) = refused else {
                assert_eq!(answer.status, 200, "{role} {path}: {}", answer.text());
                continue;
            };
            let error = &answer.json()["error"];
            assert_eq!((answer.status, error["code"].as_str()), (403, Some("forbidden")), "{role} {path}");
            assert_eq!(error["message"], sentence, "{role} {path}");
        }
    }
    assert_eq!(gateway.served(), ["user", "operator", "operator", "operator", "admin", "admin", "admin", "admin"]);
    // What exactly is missing is there, too.
    let details = ask(&gateway, "/api/v1/sessions", &token("ada", &["user"])).json()["error"]["details"].clone();
    assert_eq!(details["missing_permissions"], json!(["sessions.read", "metrics.read"]));
    let details = ask(&gateway, "/api/v1/plugins", &token("ada", &["user"])).json()["error"]["details"].clone();
    assert_eq!(details["required_roles"], json!(["operator", "admin"]));
}

#[test]
fn r4_4_unknown_roles_and_none_permit_nothing() {
    let gateway = start();
    for roles in [&[][..], &["root"], &["Admin"], &["ADMIN", "administrator"], &["admin "], &["user,admin"], &["*"]] {
        for path in ["chat", "plugins", "sessions", "users"] {
            assert_eq!(ask(&gateway, &format!("/api/v1/{path}"), &token("eve", roles)).status, 403, "{roles:?} {path}");
        }
    }
    assert_eq!(gateway.upstream.connections(), 0);
}

#[test]
fn px_5_a_scope_is_the_tokens_own() {
    let gateway = start();
    let scoped = |scope: Value| {
        let claims = with(claims("ada", &["admin"]), json!({ "scope": scope })).to_string();
        ask(&gateway, "/api/v1/bench", &sign_hs256("{\"alg\":\"HS256\"}", &claims, SECRET.as_bytes()))
    };
    assert_eq!(scoped(json!("read bench")).status, 200);
    for scope in [json!("read"), json!("benchmark"), json!(""), Value::Null] {
        let answer = scoped(scope);
        assert_eq!(answer.status, 403);
        let challenge = "Bearer realm=\"moongate\", error=\"insufficient_scope\", scope=\"bench\"";
        assert_eq!(answer.header("www-authenticate"), Some(challenge));
    }
    assert_eq!(gateway.served(), ["ada"], "once, with the scope");
}

#[test]
fn r4_4_roles_change_with_the_file() {
    let gateway = start();
    let token = token("ada", &["user"]);
    assert_eq!(ask(&gateway, "/api/v1/users", &token).status, 403);
    gateway.write_routes(&gateway.routes().replace("user: [chat.use]", "user: [users.write]"));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(ask(&gateway, "/api/v1/users", &token).status, 200);
    assert_eq!(ask(&gateway, "/api/v1/chat", &token).status, 403);
    gateway.write_routes(&gateway.routes().replace("permissions: [chat.use]", "permissions: [chat.sue]"));
    let refused = gateway.reload();
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("did you mean `chat.use`?"), "{}", refused.text());
}

/// The store of a gateway, used beside it.
struct Records {
    runtime: tokio::runtime::Runtime,
    store: Store,
    file: std::path::PathBuf,
}

impl Records {
    fn of(gateway: &Gateway) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let file = gateway.folder().path().join("moongate.db");
        let store = Store::new(Place::Sqlite(file.clone()), runtime.handle().clone());
        Self { runtime, store, file }
    }

    fn add(&self, id: &str, roles: &[&str]) {
        let user = NewUser {
            id: id.to_owned(),
            name: id.to_owned(),
            password_hash: None,
            roles: roles.iter().map(|it| it.to_string()).collect(),
            tenant: Some("north".to_owned()),
        };
        self.runtime.block_on(self.store.add_user(user)).unwrap();
    }

    fn change(&self, id: &str, change: UserChange) {
        let life = Duration::from_secs(300);
        self.runtime.block_on(self.store.change_user(id, change, life)).unwrap();
    }

    fn execute(&self, text: &'static str) {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&self.file);
        self.runtime.block_on(async {
            let mut connection = options.connect().await.unwrap();
            connection.execute(text).await.unwrap();
            connection.close().await.unwrap();
        });
    }
}

/// Task W4-D's matrix: allowed, denied, invalid, unknown, nobody, and every error on the way.
#[test]
fn cp2_d_the_usage_endpoint_takes_whom_the_store_knows_now() {
    let gateway = start();
    let records = Records::of(&gateway);
    for (id, roles) in
        [("meter", &["service"][..]), ("ada", &["user"]), ("odd", &["unheard-of"]), ("bare", &[]), ("root", &["admin"])]
    {
        records.add(id, roles);
    }
    records.add("gone", &["service"]);
    records.change("gone", UserChange { active: Some(false), ..UserChange::default() });
    let usage = |token: &str| {
        let answer = ask(&gateway, "/api/v1/usage", token);
        let code = if answer.status == 200 { Value::Null } else { answer.json()["error"]["code"].clone() };
        (answer.status, code.as_str().unwrap_or_default().to_owned())
    };
    let is = |status: u16, code: &str| (status, code.to_owned());
    // What the token says of roles does not count here: the account does.
    for (who, said, outcome) in [
        ("meter", &["user"][..], is(200, "")),
        ("root", &[], is(200, "")),
        ("ada", &["admin"], is(403, "forbidden")),
        ("odd", &["admin"], is(403, "forbidden")),
        ("bare", &["admin"], is(403, "forbidden")),
        ("gone", &["admin"], is(401, "unauthorized")),
        ("nobody", &["admin"], is(401, "unauthorized")),
    ] {
        for _ in 0..2 {
            assert_eq!(usage(&token(who, said)), outcome, "{who}");
        }
    }
    let forged = sign_hs256(
        "{\"alg\":\"HS256\"}",
        &claims("meter", &["service"]).to_string(),
        b"not the secret of this gateway",
    );
    assert_eq!(usage(&forged), is(401, "unauthorized"));
    assert_eq!(gateway.get("/api/v1/usage").status, 401);
    assert_eq!(gateway.served(), ["meter", "meter", "root", "root"], "nobody else reached it");
    // A role that is taken away is gone as soon as the record has been remembered long enough.
    records.execute("UPDATE users SET roles = '[\"user\"]' WHERE id = 'meter'");
    eventually("a change counts", || (usage(&token("meter", &[])) == is(403, "forbidden")).then_some(()));
    // A store that can't answer lets nobody in, and says so; those that it is not asked about it keeps from nothing.
    records.execute("ALTER TABLE users RENAME TO hidden");
    for who in ["root", "meter", "never-seen"] {
        eventually("nobody gets in", || {
            (usage(&token(who, &["admin"])) == is(503, "identity_unavailable")).then_some(())
        });
    }
    assert_eq!(ask(&gateway, "/api/v1/chat", &token("ada", &["user"])).status, 200);
    records.execute("ALTER TABLE hidden RENAME TO users");
    eventually("it is back", || (usage(&token("root", &[])).0 == 200).then_some(()));
    let strangers: Vec<_> =
        gateway.served().into_iter().filter(|it| !["meter", "root", "ada"].contains(&&**it)).collect();
    assert_eq!((strangers, gateway.served().iter().filter(|it| **it == "ada").count()), (vec![], 1));
}

#[test]
fn us_009_4_what_the_store_takes_back_is_refused_at_once_or_soon() {
    let gateway = start();
    let records = Records::of(&gateway);
    records.add("ada", &["operator"]);
    let token = token("ada", &["operator"]);
    assert_eq!(ask(&gateway, "/api/v1/plugins", &token).status, 200);
    records.change("ada", UserChange { roles: Some(vec!["user".to_owned()]), ..UserChange::default() });
    eventually("the old token is void", || {
        let answer = ask(&gateway, "/api/v1/plugins", &token);
        (answer.status == 401 && answer.json()["error"]["details"]["reason"] == "revoked").then_some(())
    });
    // It stays so when the gateway starts again.
    let folder = gateway.folder().path().join("moongate.db");
    let again = Gateway::with(gateway.routes())
        .config(CONFIG.replace("moongate.db", &yaml_path(&folder)))
        .env("PROXY_JWT_SECRET", SECRET)
        .start();
    assert_eq!(ask(&again, "/api/v1/plugins", &token).status, 401);
}

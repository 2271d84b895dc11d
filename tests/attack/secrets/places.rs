//! Every place for a secret, and files with a canary in each.

use moongate::config::{GatewayFile, routes_schema};
use moongate::pipeline::Filters;
use moongate::services::ServiceRegistry;
use moongate::yaml::schema_of;
use serde_json::Value;

/// Both files, with a canary in every place. A secret stands as `‹key›`, for the tests to write in many ways.
pub(super) const GATEWAY: &str = r#"
listeners: { public: [{ address: "127.0.0.1:0" }], admin: { address: "127.0.0.1:0" } }
tokens: { ‹hs256_secret›, ‹previous_hs256_secret›, ‹identity_secret› }
secrets: { ‹key› }
store:
  postgres:
    ‹url›
state: { redis: { ‹url› } }
auth:
  oidc:
    clinic:
      issuer: "https://clinic.example.org"
      client_id: moongate
      ‹client_secret›
      redirect_uri: "https://app.example.org/api/v1/auth/oidc/clinic/callback"
guard: { webhook: { ‹url›, ‹authorization› } }
alerts: { health: { ‹url›, ‹authorization› } }
"#;

pub(super) const ROUTES: &str = r#"
version: 1
defaults:
  headers: { set: { ‹x-default› }, add: { ‹x-default-too› } }
  request_headers: { set: { ‹x-request› }, add: { ‹x-request-too› } }
policies:
  partner:
    headers:
      set:
        ‹x-partner›
      add: { ‹x-partner-too› }
upstreams:
  app:
    discovery: { static: ["127.0.0.1:9"] }
    tls: { sni: app.example.org, ‹client_key› }
    sticky: { cookie: app, ‹key› }
routes:
  - name: app
    match: { path: "/{*rest}", headers: { ‹x-origin› }, query: { ‹q› } }
    upstream: app
    use: [partner]
    rewrite: { headers: { set: { ‹authorization›, ‹x-plain› }, add: { ‹cookie› } } }
    headers: { set: { ‹x-answer› }, add: { ‹x-answer-too› } }
  - name: rules
    match:
      path: /rules
      headers: { x-exact: { ‹exact› }, x-prefix: { ‹prefix› } }
      query: { exact: { ‹exact› }, prefix: { ‹prefix› } }
    respond: { body: ok }
"#;

/// The value of a secret in its sound form: as long as secrets have to be, and a URL where one is due.
pub(super) fn value(key: &str, number: usize) -> String {
    let canary = format!("canary-{key}-{number}-0123456789abcdef0123456789abcdef");
    match (key, number) {
        ("url", 4) => format!("postgres://{canary}:{canary}@127.0.0.1:9/{canary}"),
        ("url", 5) => format!("redis://{canary}:{canary}@127.0.0.1:9/0"),
        ("url", _) => format!("https://{canary}:{canary}@127.0.0.1:9/{canary}?token={canary}"),
        _ => canary,
    }
}

/// A text with each secret written by `write`, from its key, its value and its number.
pub(super) fn written(text: &str, mut write: impl FnMut(&str, &str, usize) -> String) -> String {
    let mut out = String::new();
    for (number, piece) in text.split('‹').enumerate() {
        match piece.split_once('›') {
            Some((key, rest)) => out += &(write(key, &value(key, number - 1), number - 1) + rest),
            None => out += piece,
        }
    }
    out
}

/// As a sound file has it.
pub(super) fn plain(key: &str, value: &str, _: usize) -> String {
    format!("{key}: \"{value}\"")
}

/// How many secrets a text has.
pub(super) fn count(text: &str) -> usize {
    text.matches('‹').count()
}

fn routes() -> Value {
    routes_schema(&Filters::none(), &ServiceRegistry::standard())
}

/// Every place for a secret: a path with `*` for names that are free and for elements.
fn places(root: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    if path.matches('/').count() > 12 {
        return;
    }
    if let Some(reference) = schema["$ref"].as_str() {
        return places(root, root.pointer(&reference[1..]).unwrap(), path, found);
    }
    if schema["writeOnly"] == true && !found.iter().any(|it| it == path) {
        found.push(path.to_owned());
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        places(root, property, &format!("{path}/{name}"), found);
    }
    for under in ["additionalProperties", "items"] {
        if schema[under].is_object() {
            places(root, &schema[under], &format!("{path}/*"), found);
        }
    }
    for under in ["anyOf", "oneOf", "allOf"] {
        schema[under].as_array().into_iter().flatten().for_each(|it| places(root, it, path, found));
    }
}

/// Where the canaries of a file are.
fn canaries(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.contains("canary-") => found.push(path.to_owned()),
        Value::Array(list) => list.iter().for_each(|it| canaries(it, &format!("{path}/*"), found)),
        Value::Object(map) => map.iter().for_each(|(key, it)| canaries(it, &format!("{path}/{key}"), found)),
        _ => {}
    }
}

fn is_at(place: &str, canary: &str) -> bool {
    let (place, canary) = (place.split('/'), canary.split('/'));
    place.clone().count() == canary.clone().count() && place.zip(canary).all(|(a, b)| a == "*" || a == b)
}

#[test]
fn every_place_that_the_schemas_have_for_a_secret_has_its_canary() {
    for (text, schema) in [(GATEWAY, schema_of::<GatewayFile>()), (ROUTES, routes())] {
        let file: Value = serde_yaml::from_str(&written(text, plain)).unwrap();
        let (mut wanted, mut there) = (Vec::new(), Vec::new());
        places(&schema, &schema, "", &mut wanted);
        canaries(&file, "", &mut there);
        assert!(wanted.len() >= 9, "{wanted:?}");
        for place in &wanted {
            // A route has what defaults and policies have, and a policy what defaults have: one of the three will do.
            let same = ["/defaults", "/policies/*", "/routes/*"].map(|it| {
                let rest = ["/defaults", "/policies/*", "/routes/*"].iter().find_map(|it| place.strip_prefix(it));
                rest.map_or(place.clone(), |rest| format!("{it}{rest}"))
            });
            let found = there.iter().any(|it| is_at(place, it) || same.iter().any(|place| is_at(place, it)));
            assert!(found, "a new place for a secret: put a canary at {place}");
        }
    }
}

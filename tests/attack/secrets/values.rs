//! Values that the environment or the store brings in: they go where they are due, and are shown nowhere.

use serde_json::{Value, json};

use super::moongate;
use crate::support::{Folder, Gateway, RawUpstream, Script, gateway, nobody};

const KEY: (&str, &str) = ("SECRET_KEY", "canary-sealing-key-that-nobody-could-guess");
const ENVIRONMENT: [(&str, &str); 5] = [
    KEY,
    ("UPSTREAM_TOKEN", "canary-token"),
    ("ORIGIN", "canary-origin"),
    ("GREETING", "canary-greeting"),
    ("ALLOWED", "https://canary-allowed.example.org"),
];

const ROUTES: &str = r#"
version: 1
upstreams: { app: { discovery: { static: ["ADDRESS"] } } }
policies: { partner: { headers: { set: { x-cdn: "secret:cdn", x-level: policy } } } }
routes:
  - name: app
    match: { path: "/app/{*rest}", headers: { x-origin-verify: "${ORIGIN}" } }
    upstream: app
    use: [partner]
    cors: { origins: ["${ALLOWED}"] }
    rewrite:
      path: "/${GREETING}/{rest}"
      headers:
        set:
          authorization: "Bearer ${UPSTREAM_TOKEN}"
          x-up: "secret:up"
          x-bearer: "Bearer secret:up"
          x-default: "${NOWHERE:-canary-default}"
          x-plain: plain
        add: { cookie: "canary-literal" }
  - { name: hello, match: { path: /hello, query: { token: canary-parameter } }, respond: { body: "${GREETING}" } }
"#;

/// Writes both files and puts two secrets into the store.
fn prepare(folder: &Folder, routes: &str) {
    folder.write("conf/gateway.yaml", format!("{}store: {{}}\n", gateway::CONFIG.trim_start()));
    folder.write("routes.yaml", routes);
    for name in ["up", "cdn"] {
        assert!(moongate(folder, &["secrets", "put", name], &format!("canary-stored-{name}\n"), &[KEY]).content);
    }
}

#[test]
fn values_of_environment_and_store_reach_the_upstream_and_no_page_or_command() {
    let upstream = RawUpstream::start(|_| Script::ok("ok"));
    let routes = ROUTES.replace("ADDRESS", &upstream.address().to_string());
    let config = format!("{}store: {{}}\ntelemetry: {{ log: {{ level: debug }} }}\n", gateway::CONFIG.trim_start());
    let mut builder = Gateway::with(routes.as_str()).config(config);
    for (name, value) in ENVIRONMENT {
        builder = builder.env(name, value);
    }
    prepare(builder.folder(), &routes);
    let gateway = builder.start();
    let answer = gateway.request("GET", "/app/x", &[("x-origin-verify", "canary-origin")], b"");
    assert_eq!((answer.status, answer.header("x-cdn")), (200, Some("canary-stored-cdn")));
    let got = String::from_utf8(upstream.requests().concat()).unwrap();
    for due in [
        "GET /canary-greeting/x ",
        "Bearer canary-token\r\n",
        "canary-stored-up\r\n",
        "Bearer canary-stored-up\r\n",
        "canary-default\r\n",
        "canary-literal\r\n",
    ] {
        assert!(got.contains(due), "{due}\n{got}");
    }
    assert_eq!(gateway.request("GET", "/app/x", &[("x-origin-verify", "other")], b"").status, 404);
    assert_eq!(gateway.get("/hello?token=canary-parameter").text(), "canary-greeting");

    let page = gateway.admin_get("/admin/routes").json();
    let steps = |name: &str| {
        let steps = page["routes"][0]["steps"].as_array().unwrap();
        steps.iter().find(|it| it["step"] == name).unwrap()["settings"].clone()
    };
    // As it was written, without what variables fall back to; of a field that carries credentials, not even that.
    let set = json!({ "authorization": "_REDACTED_", "x-up": "secret:up", "x-bearer": "Bearer secret:up",
        "x-default": "${NOWHERE}", "x-plain": "plain" });
    assert_eq!(steps("rewrite")["headers"]["set"], set);
    assert_eq!(steps("rewrite")["path"], "/${GREETING}/{rest}");
    assert_eq!(steps("cors")["origins"], json!(["${ALLOWED}"]));
    assert_eq!(steps("response_headers")["set"], json!({ "x-cdn": "secret:cdn", "x-level": "policy" }));
    assert_eq!(page["routes"][0]["match"]["headers"]["x-origin-verify"], "${ORIGIN}");
    assert_eq!(page["routes"][1]["match"]["query"]["token"], "_REDACTED_");
    for page in ["/metrics", "/admin/config", "/admin/upstreams", "/admin/limits", "/admin/requests", "/admin/blocks"] {
        gateway.admin_get(page);
    }
}

#[test]
fn no_command_shows_what_environment_and_store_bring_in() {
    let folder = Folder::new();
    prepare(&folder, &ROUTES.replace("ADDRESS", &nobody().to_string()));
    let run = |arguments: &[&str]| moongate(&folder, arguments, "", &ENVIRONMENT);
    assert!(run(&["check"]).content);
    for format in ["human", "json"] {
        assert!(run(&["routes", "--format", format]).text.contains("${ORIGIN}"));
        let explain = |target: &str| run(&["explain", "GET", target, "--format", format]);
        // The route that takes it, and one that nearly does.
        let told = explain("/app/x").text;
        assert!(told.contains("header x-origin-verify missing"), "{told}");
        assert!(explain("/hello").text.contains("query parameter token missing"));
        let other = ["explain", "GET", "/app/x", "--format", format, "-H", "x-origin-verify: other"];
        assert!(run(&other).text.contains("header x-origin-verify is not `${ORIGIN}`"));
        assert!(run(&["secrets", "list", "--format", format]).text.contains("cdn"));
        for what in ["users", "keys"] {
            assert!(run(&[what, "list", "--format", format]).content);
        }
    }
    for file in ["config", "routes"] {
        assert!(run(&["schema", file]).content);
    }
}

#[test]
fn a_secret_that_is_not_there_and_one_where_none_may_stand_are_faults_at_their_places() {
    let folder = Folder::new();
    let sound = ROUTES.replace("ADDRESS", &nobody().to_string());
    prepare(&folder, &sound);
    let faults = |routes: &str, environment: &[(&str, &str)]| -> Vec<(String, String, String)> {
        folder.write("routes.yaml", routes);
        let said = moongate(&folder, &["check", "--format", "json"], "", environment).text;
        let list = said.lines().take_while(|it| !it.contains("faults in") && !it.contains("fault in"));
        let faults: Vec<Value> = serde_json::from_str(&list.collect::<String>()).unwrap();
        let text = |it: &Value, key: &str| it[key].as_str().unwrap_or_default().to_owned();
        faults.iter().map(|it| (text(it, "path"), text(it, "message"), text(it, "help"))).collect()
    };
    let told = faults(&sound.replace("x-up: \"secret:up\"", "x-up: \"secret:pu\""), &ENVIRONMENT);
    let path = "/routes/0/rewrite/headers/set/x-up".to_owned();
    assert_eq!(told, [(path, "there is no secret `pu`".to_owned(), "did you mean `secret:up`?".to_owned())]);
    let told = faults(&sound.replace("/${GREETING}/{rest}", "secret:up"), &ENVIRONMENT);
    assert_eq!((&*told[0].0, &*told[0].1), ("/routes/0/rewrite/path", "no secret can stand here"));
    assert!(told[0].2.contains("header fields"), "{told:?}");
    // Where it would go out as it is written.
    for value in
        ["sid=secret:up", "token=secret:up", "Basic  secret:up", "a=1; b=secret:up", "'secret:up'", "x,secret:up"]
    {
        let told = faults(&sound.replace("x-up: \"secret:up\"", &format!("x-up: \"{value}\"")), &ENVIRONMENT);
        let (path, message, help) = told.first().unwrap_or_else(|| panic!("{value} is sound"));
        let expected = ("/routes/0/rewrite/headers/set/x-up", "no secret can stand in the middle of a value");
        assert_eq!((path.as_str(), message.as_str()), expected, "{value}");
        assert!(help.contains("Bearer secret:NAME"), "{help}");
    }
    for value in ["my-secret:up", "secret: up", "nosecret:up"] {
        let told = faults(&sound.replace("x-up: \"secret:up\"", &format!("x-up: \"{value}\"")), &ENVIRONMENT);
        assert!(told.is_empty(), "{value}: {told:?}");
    }
    // Without the key to the store: every place that needs it says so.
    let told = faults(&sound, &ENVIRONMENT[1..]);
    assert_eq!(told.iter().filter(|it| it.1.contains("no key for secrets: set SECRET_KEY")).count(), 3, "{told:?}");
}

#[test]
fn texts_from_the_environment_are_read_as_the_type_that_is_due() {
    let config = "
listeners: { public: [{ address: \"127.0.0.1:0\", h2c: \"${H2C}\" }], admin: { address: \"127.0.0.1:${PORT:-0}\" } }
threads: \"${T:-2}\"
mocks: ${MOCKS:-false}
shutdown: { grace: \"${GRACE}s\" }
";
    let routes = r#"
version: ${VERSION:-1}
defaults: { body_limit: "${LIMIT}", timeouts: { request: "${REQUEST:-5s}" } }
routes:
  - name: a
    match: { path: / }
    respond:
      status: "${STATUS}"
      body: ${BODY}
    rate_limits: [{ per: ip, requests: "${REQUESTS:-2}", every: 1h }]
"#;
    let mut builder = Gateway::with(routes).config(config);
    let environment = [("H2C", "true"), ("GRACE", "3"), ("LIMIT", "4096"), ("STATUS", "201"), ("BODY", "12")];
    for (name, value) in environment {
        builder = builder.env(name, value);
    }
    let gateway = builder.start();
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.text()), (201, "12".to_owned()), "a number is a text where a text is due");
    assert_eq!(gateway.get("/").status, 201);
    assert_eq!(gateway.get("/").status, 429);
    let limits = gateway.admin_get("/admin/limits").json();
    assert_eq!(limits["upstream_connections"]["threads"], 2);
    assert_eq!(limits["request_body_bytes"]["largest"], 4096);

    // What does not fit says so, and not what it is.
    let folder = Folder::new();
    folder.write("conf/gateway.yaml", config);
    folder.write("routes.yaml", "{ version: 1, routes: [] }");
    let environment = [("H2C", "canary-h2c"), ("GRACE", "canary-grace"), ("T", "canary-threads")];
    let said = moongate(&folder, &["check"], "", &environment);
    for fault in ["expected true or false, found a text", "the environment brings in an unknown word", "not a duration"]
    {
        assert!(!said.content && said.text.contains(fault), "{fault}\n{}", said.text);
    }
}

#[test]
fn the_published_schema_lets_variables_stand_for_every_scalar() {
    let folder = Folder::new();
    let schema =
        |file: &str| -> Value { serde_json::from_str(&moongate(&folder, &["schema", file], "", &[]).text).unwrap() };
    let config = json!({
        "threads": "${T:-2}", "mocks": "${MOCKS}", "mode": "${MODE:-dev}", "shutdown": { "grace": "${GRACE}s" },
        "tokens": { "hs256_secret": "secret:jwt", "remembered": "${N:-1}", "access_life": "${LIFE:-5m}" },
    });
    assert!(jsonschema::is_valid(&schema("config"), &config));
    let routes = |ttl: &str| {
        json!({ "version": 1, "routes": [{
            "name": "a", "match": { "path": "/" }, "cache": { "ttl": ttl }, "body_limit": "${LIMIT}",
            "respond": { "status": "${STATUS:-200}" },
        }] })
    };
    let schema = schema("routes");
    assert!(jsonschema::is_valid(&schema, &routes("${TTL}s")));
    assert!(!jsonschema::is_valid(&schema, &routes("soon")));
}

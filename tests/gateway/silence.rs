//! What is configured and can't work is a fault at `check`, at its own line and with a way out; and `run` says the same.

use std::process::Command;

use serde_json::Value;

use super::support::*;

pub(super) const CONFIG: &str = "listeners:\n  public:\n    - { address: \"127.0.0.1:0\" }\n  admin: { address: \"127.0.0.1:0\" }\n\
     tokens: { hs256_secret: \"0123456789abcdef0123456789abcdef\" }\n";
pub(super) const ROUTES: &str = "version: 1\nroutes: []\n";

/// A fault or a warning, as `check --format json` shows it.
#[derive(Debug)]
pub(super) struct Told {
    file: String,
    pub(super) line: u64,
    pub(super) severity: String,
    /// Message and help.
    pub(super) text: String,
}

/// The exit code of a command and what it says to programs.
#[track_caller]
pub(super) fn moongate(folder: &Folder, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moongate"));
    let output = command.args(arguments).current_dir(folder.path()).env_clear().output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

pub(super) const FILES: [&str; 4] = ["--config", "gateway.yaml", "--routes", "routes.yaml"];

#[track_caller]
pub(super) fn check(folder: &Folder, config: &str, routes: &str) -> Vec<Told> {
    folder.write("gateway.yaml", config);
    folder.write("routes.yaml", routes);
    let (code, stdout, _) = moongate(folder, &[&["check", "--format", "json"][..], &FILES].concat());
    let list: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    let told = |it: &Value| Told {
        file: it["file"].as_str().unwrap().to_owned(),
        line: it["line"].as_u64().unwrap(),
        severity: it["severity"].as_str().unwrap().to_owned(),
        text: format!("{} | {}", it["message"].as_str().unwrap(), it["help"].as_str().unwrap_or_default()),
    };
    let list: Vec<Told> = list.iter().map(told).collect();
    assert_eq!(code != 0, list.iter().any(|it| it.severity == "error"), "{list:?}");
    list
}

/// `check` tells of just this, each at its line; and a start is refused in the same words.
#[track_caller]
pub(super) fn refused(folder: &Folder, config: &str, routes: &str, expected: &[(u64, &[&str])]) {
    let told = check(folder, config, routes);
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, (line, parts)) in told.iter().zip(expected) {
        assert!(told.line == *line && parts.iter().all(|it| told.text.contains(it)), "{told:?}, not {line} {parts:?}");
    }
    let (code, _, stderr) = moongate(folder, &[&["run"][..], &FILES].concat());
    assert_eq!(code, 1, "{stderr}");
    for told in told {
        let message = told.text.split(" | ").next().unwrap();
        assert!(stderr.contains(message) && stderr.contains(&format!("{}:{}:", told.file, told.line)), "{stderr}");
    }
}

fn tls(rest: &str) -> String {
    format!(
        "listeners:\n  public:\n    - address: \"127.0.0.1:0\"\n      tls:\n        cert: a.pem\n        key: a.key\n{rest}  \
         admin: {{ address: \"127.0.0.1:0\" }}\n"
    )
}

/// A certificate of its own signing, valid from one year's beginning to another's.
fn certificate(from: i32, to: i32) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(to, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn a_certificate_that_can_t_be_used_is_a_fault_at_its_own_line() {
    let folder = Folder::new();
    let (cert, key) = certificate(2020, 2090);
    let (_, stranger) = certificate(2020, 2090);
    refused(&folder, &tls(""), ROUTES, &[(5, &["cannot read a.pem"]), (6, &["cannot read a.key"])]);
    folder.write("a.pem", &cert);
    folder.write("a.key", &stranger);
    refused(&folder, &tls(""), ROUTES, &[(6, &["a.key is not that of the certificate in a.pem"])]);
    folder.write("a.pem", &key);
    folder.write("a.key", &cert);
    let swapped: [(u64, &[&str]); 2] =
        [(5, &["no certificate", "it holds a private key"]), (6, &["it holds a certificate"])];
    refused(&folder, &tls(""), ROUTES, &swapped);
    for (from, to, words) in [(2001, 2002, "ended at 2002-01-01T00:00:00Z"), (2089, 2090, "begins at 2089-01-01")] {
        let (cert, key) = certificate(from, to);
        folder.write("a.pem", cert);
        folder.write("a.key", key);
        refused(&folder, &tls(""), ROUTES, &[(5, &[words])]);
    }
    folder.write("a.pem", &cert);
    folder.write("a.key", &key);
    let more = "        certificates: [{ cert: b.pem, key: a.key }]\n        client_ca: c.pem\n";
    refused(&folder, &tls(more), ROUTES, &[(7, &["cannot read b.pem"]), (8, &["cannot read c.pem"])]);
    let more = "        certificates:\n          - { cert: a.pem, key: a.key, hosts: [a.test, b.test] }\n";
    let told = check(&folder, &tls(more), ROUTES);
    assert!(told.len() == 1 && told[0].severity == "warning" && told[0].text.contains("does not bear"), "{told:?}");
}

#[test]
fn one_address_twice_is_a_fault_where_it_is_written_again() {
    let folder = Folder::new();
    let listeners = |public: &[&str], admin: &str| {
        let lines: String = public.iter().map(|it| format!("    - {{ address: \"{it}\" }}\n")).collect();
        format!("listeners:\n  public:\n{lines}{admin}")
    };
    let admin = "  admin: { address: \"127.0.0.1:18443\" }\n";
    let taken: &[&str] = &["is listened on already", "a port of its own"];
    refused(&folder, &listeners(&["127.0.0.1:18080", "127.0.0.1:18080"], admin), ROUTES, &[(4, taken)]);
    refused(&folder, &listeners(&["0.0.0.0:18080", "127.0.0.1:18080"], admin), ROUTES, &[(4, taken)]);
    refused(&folder, &listeners(&["[::]:18443"], admin), ROUTES, &[(4, taken)]);
    refused(&folder, &listeners(&["0.0.0.0:9090"], ""), ROUTES, &[(3, taken)]);
    assert!(check(&folder, &listeners(&["127.0.0.1:0", "127.0.0.1:0"], ""), ROUTES).is_empty());
    for (written, meant) in
        [("8080", "0.0.0.0:8080"), (":8080", "0.0.0.0:8080"), ("http://localhost:80/", "127.0.0.1:80")]
    {
        refused(&folder, &listeners(&[written], admin), ROUTES, &[(3, &[&format!("write it as {meant}")])]);
    }
}

#[test]
fn s2s_4_roles_and_permissions_that_nobody_can_have_are_faults_in_both_files_and_at_the_command_line() {
    let folder = Folder::new();
    let routes = |auth: &str| {
        format!("version: 1\nroutes:\n  - name: a\n    match: {{ path: /a }}\n    respond: {{}}\n    auth: {auth}\n")
    };
    let faults: [(u64, &[&str]); 2] =
        [(6, &["no role `amdin`", "did you mean `admin`?"]), (6, &["`nots.read`", "did you mean `notes.read`?"])];
    refused(&folder, CONFIG, &routes("{ jwt: {}, roles: [amdin], permissions: [nots.read] }"), &faults);
    refused(
        &folder,
        CONFIG,
        &routes("{ jwt: {}, roles: [wizard] }"),
        &[(6, &["no role `wizard`", "known here: admin"])],
    );
    let given = format!("{CONFIG}auth: {{ session_token: {{ roles: [guest] }} }}\n");
    assert!(check(&folder, &given, &routes("{ jwt: {}, roles: [guest] }")).is_empty());
    refused(&folder, &given, &routes("{ jwt: {}, roles: [gest] }"), &[(6, &["did you mean `guest`?"])]);
    let written = format!("{}roles: {{ guests: [a.read] }}\n", routes("{ jwt: {}, permissions: [a.read] }"));
    refused(&folder, &given, &written, &[(6, &["no role `guest`", "did you mean `guests`?"])]);

    folder.write("gateway.yaml", &given);
    folder.write("routes.yaml", ROUTES);
    let add = |role: &str| {
        let words = ["users", "add", "ada", "--generate", "--role", role];
        moongate(&folder, &[&words[..], &FILES].concat())
    };
    let (code, stdout, stderr) = add("amdin");
    assert_eq!((code, &*stdout), (1, ""));
    assert_eq!(stderr, "there is no role `amdin`: did you mean `admin`?\n");
    assert_eq!(add("guest").0, 0);
    folder.write("routes.yaml", "version: 1\nroles: { nurse: [] }\nroutes: []\n");
    let change = |words: &[&str]| moongate(&folder, &[&["users", "roles", "ada"][..], words, &FILES].concat());
    assert_eq!(change(&["--role", "nurse"]).0, 0);
    let key = moongate(&folder, &[&["keys", "api", "billing", "--role", "nurze"][..], &FILES].concat());
    assert!(key.0 == 1 && key.2.contains("did you mean `nurse`?"), "{key:?}");
    // What would take all roles away has to be said.
    let (code, _, stderr) = change(&[]);
    assert!(code == 2 && stderr.contains("--role") && stderr.contains("--none"), "{stderr}");
    assert_eq!(change(&["--role", "nurse", "--none"]).0, 2);
    assert_eq!(change(&["--none"]).1, "user `ada` is active, roles: none\n");
}

#[test]
fn patterns_and_variables_of_other_gateways_are_faults_that_show_the_form_here() {
    let folder = Folder::new();
    let with = |path: &str, rest: &str| {
        format!(
            "version: 1\nupstreams: {{ u: {{ discovery: {{ static: [\"127.0.0.1:9\"] }} }} }}\nroutes:\n  - name: a\n    \
             match: {{ path: '{path}' }}\n    {rest}\n"
        )
    };
    for (theirs, ours) in [
        ("/users/:id", "write `/users/{id}`"),
        ("/users/<id>", "write `/users/{id}`"),
        ("/users/(.*)", "write `/users/{*rest}`"),
        ("^/a/.*$", "write `/a/{*rest}`"),
        ("/a/*", "write `/a/{*rest}`"),
        ("/u/{id:[0-9]+}", "write `/u/{id}`"),
        ("https://x.org/a", "write `path: \"/a\"`, and `hosts: [\"x.org\"]` beside it"),
    ] {
        // What the template needs is captured by the form that is shown, so it is not blamed.
        let routes = with(theirs, "respond: {}");
        refused(&folder, CONFIG, &routes, &[(5, &[ours])]);
    }
    refused(
        &folder,
        CONFIG,
        &with("/u/:id", "{ upstream: u, rewrite: { path: \"/{id}\" } }")
            .replace("{ upstream: u, rewrite: { path: \"/{id}\" } }", "upstream: u\n    rewrite: { path: \"/{id}\" }"),
        &[(5, &["write `/u/{id}`"])],
    );
    for (rest, theirs, ours) in [
        ("redirect: { to: \"https://$host/d\" }", "`$host`", "as a path alone"),
        ("redirect: { to: \"/d/$1\" }", "`$1`", "write `{id}`"),
        ("redirect: { to: \"/d/:id\" }", "`:id`", "write `{id}`"),
        ("redirect: { to: \"/d/$${id}\" }", "`${id}`", "write `{id}`"),
        ("respond: { body: \"you are {id}\" }", "`{id}`", "as it is written"),
        ("respond: { body: $remote_addr }", "`$remote_addr`", "as it is written"),
    ] {
        refused(&folder, CONFIG, &with("/u/{id}", rest), &[(6, &["nothing fills in", theirs, ours])]);
    }
    let headers = "upstream: u\n    rewrite:\n      headers:\n        set:\n          a: \"{id}\"\n          b: $remote_addr\n          \
                   c: '{\"a\": 1}'\n          d: Bearer x$1y\n";
    // The values of fields may be secrets: what of them is not on the list of braces is not repeated.
    let faults: [(u64, &[&str]); 2] = [(10, &["nothing fills in"]), (11, &["nothing fills in"])];
    refused(&folder, CONFIG, &with("/u/{id}", headers), &faults);
    let literal = "respond: { body: \"costs $5, body{color:red} ${1}\" }".replace("${1}", "");
    for path in ["/Patient/$everything", "/v1/notes:batch", "/Users(5)", "/~ada"] {
        let told = check(&folder, CONFIG, &with(path, &literal));
        assert!(told.iter().all(|it| it.text.contains("no route leads to upstream `u`")), "{path}: {told:?}");
    }
}

#[test]
fn a_text_that_is_not_yaml_gets_the_hint_that_mends_it() {
    let folder = Folder::new();
    for (text, line, hint) in [
        ("version: 1\nroutes:\n  - match: { path: /a/{*rest} }\n", 3, "needs quotes: `\"/a/{*rest}\"`"),
        ("version: 1\nroutes:\n  - name: a\n\tmatch: {}\n", 3, "indent with spaces"),
        ("version: 1\nroutes:\n  - name: a\n   match: {}\n", 4, "lines up"),
        ("version: 1\nroutes:\n  - name: a\n      match: {}\n", 4, "lines up"),
        ("version: 1\nroutes:\n  - match: { path: \"/a }\n", 3, "close it with another `\"`"),
        ("version: 1\nroutes:\n  - match: { path: /a\n    name: b\n", 4, "line 3 opens a `{`"),
        ("version: 1\nroutes:\n  - match: { hosts: [*.example.org] }\n", 3, "`\"*.example.org\"`"),
        ("version: 1\nroutes:\n  - name:a\n    match: {}\n", 4, "`name: …`"),
    ] {
        refused(&folder, CONFIG, text, &[(line, &["not YAML", hint])]);
    }
}

#[test]
fn values_are_read_in_every_common_spelling_or_the_hint_mends_them() {
    let folder = Folder::new();
    let with = |settings: &str| {
        format!(
            "version: 1\ndefaults:\n  {settings}\nroutes:\n  - {{ name: a, match: {{ path: /a }}, respond: {{}} }}\n"
        )
    };
    for settings in [
        "timeouts: { request: 1h30m, idle: 5 minutes, connect: 2 s }",
        "body_limit: 500k",
        "body_limit: 10M",
        "body_limit: 10m",
        "body_limit: 10MB",
        "body_limit: 10 MiB",
        "body_limit: 4096",
    ] {
        assert!(check(&folder, CONFIG, &with(settings)).is_empty(), "{settings}");
    }
    for (settings, hint) in [
        ("timeouts: { request: 60 }", "write `60s` or `60ms`"),
        ("timeouts: { request: \"60\" }", "write `60s` or `60ms`"),
        ("content_types: application/json", "`[application/json]`"),
        ("cors: { origins: \"*\" }", "`[\"*\"]`"),
        ("auth: true", "write `{ jwt: {} }`"),
        ("rate_limits: { per: ip, requests: 1, every: 1s }", "with a dash"),
    ] {
        refused(&folder, CONFIG, &with(settings), &[(3, &[hint])]);
    }
    refused(&folder, CONFIG, "version: 2\nroutes: []\n", &[(1, &["write `1`"])]);
    refused(&folder, CONFIG, "routes: []\n", &[(1, &["write `version: 1`"])]);
    let route = |r#match: &str, rest: &str| format!("version: 1\nroutes:\n  - {{ name: a, match: {{ path: /a{match} }}, respond: {{}}{rest} }}\n", match = r#match);
    refused(&folder, CONFIG, &route(", methods: GET", ""), &[(3, &["`[GET]`"])]);
    refused(&folder, CONFIG, &route(", hosts: [\"http://example.org\"]", ""), &[(3, &["write `example.org`"])]);
    refused(&folder, CONFIG, &route("", ", websocket: true"), &[(3, &["it belongs under `match`"])]);
    let key = route("", ", auth: { api_key: { foo: 1 } }");
    refused(&folder, CONFIG, &key, &[(3, &["unknown key `foo`", "nothing can stand here"])]);
}

/// Whatever is wrong with one value, its neighbours, its route, its file: the others are told, too.
#[test]
fn no_fault_hides_another() {
    let folder = Folder::new();
    let config = "listeners:\n  public:\n    - { address: nonsense, limits: { connections: 0 } }\n  admin: { address: \"127.0.0.1:0\" }\n\
                  threads: many\nshutdown: { grace: 30 }\ntokens:\n  leeway: 99h\n  trust:\n    - { name: clinic }\n";
    let routes = "\
version: 2
defaults: { timeouts: { request: 0s } }
upstreams:
  one: { discovery: { static: [nowhere] }, balance: fast }
routes:
  - match: { path: /users/:id, methods: [get] }
    upstream: noe
  - name: b
    upstream: two
    rewrite: { path: \"/{id}\" }
    auth: { jwt: 5, roles: [amdin] }
  - { name: 5, match: { path: 5, hosts: [\"http://a.b\"] }, redirect: { status: 200 } }
";
    let told = check(&folder, config, routes);
    let lines = |file: &str| told.iter().filter(|it| it.file == file).map(|it| it.line).collect::<Vec<_>>();
    assert_eq!(lines("gateway.yaml"), [3, 3, 5, 6, 8, 10, 10], "{told:#?}");
    assert_eq!(lines("routes.yaml"), [1, 2, 4, 4, 6, 6, 6, 7, 8, 9, 11, 11, 12, 12, 12, 12, 12], "{told:#?}");
}

#[test]
fn us_014_own_routes_stand_in_the_place_of_built_in_ones_which_can_be_switched_off() {
    let own = "version: 1\nroutes:\n  - { name: health, match: { path: /api/health }, respond: { body: mine } }\n  \
               - { name: metrics, match: { path: /api/metrics, methods: [GET, POST] }, respond: { body: own } }\n";
    let gateway = Gateway::start(own);
    assert_eq!((gateway.get("/api/health").text(), gateway.get("/api/metrics").text()), ("mine".into(), "own".into()));
    // What takes no GET, or not always, stands beside it.
    let beside = own
        .replace("/api/health }", "/api/health, methods: [POST] }")
        .replace("POST] }", "POST], query: { own: \"1\" } }");
    gateway.write_routes(&beside);
    let status = |path: &str, expected: u16| {
        eventually("the new routes", || (gateway.get(path).status == expected).then_some(()));
    };
    eventually("the new routes", || gateway.get("/api/health").text().contains("status").then_some(()));
    assert!(gateway.get("/api/metrics").text().contains("requests"));
    assert_eq!(gateway.get("/api/metrics?own=1").text(), "own");
    gateway.write_routes("version: 1\nbuilt_in: { health: false, metrics: false }\nroutes: []\n");
    status("/api/health", 404);
    status("/api/metrics", 404);
    let folder = Folder::new();
    let named = own.replace("name: metrics", "name: moongate-health").replace("/api/health", "/x");
    refused(&folder, CONFIG, &named, &[(4, &["of the gateway's own has this name"])]);
}

/// Half a certificate is no reason to leave sound routes unread, nor to leave clients without one.
#[test]
fn a_half_written_certificate_keeps_the_last_good_one_and_nothing_else_from_being_loaded() {
    let routes = |word: &str| {
        format!("version: 1\nroutes:\n  - {{ name: a, match: {{ path: /a }}, respond: {{ body: {word} }} }}\n")
    };
    let ca = Ca::new("one");
    let more = "        certificates: [{ cert: two/cert.pem, key: two/key.pem }]\n";
    let config = tls(more).replace("a.pem", "one/cert.pem").replace("a.key", "one/key.pem");
    let builder = Gateway::with(routes("old")).config(config);
    ca.write_leaf(builder.folder(), "one", &["one.test"]);
    ca.write_leaf(builder.folder(), "two", &["two.test"]);
    let gateway = builder.start();
    let ask = |name: &str| {
        let mut client = RawClient::try_connect_tls(gateway.public(), name, ca.client(&[], None)).unwrap();
        client.send(format!("GET /a HTTP/1.1\r\nhost: {name}\r\n\r\n"));
        client.read_response().text()
    };
    let cert = std::fs::read_to_string(gateway.folder().path().join("one/cert.pem")).unwrap();
    gateway.folder().write("one/cert.pem", &cert[..cert.len() / 2]);
    gateway.folder().write("routes.yaml", routes("new"));
    let answer = gateway.reload();
    assert_eq!(answer.status, 200, "{}", answer.text());
    eventually("the new routes", || (ask("one.test") == "new").then_some(()));
    assert_eq!(ask("two.test"), "new");
    let event = gateway.wait_for_event("certificate_kept", |_| true);
    assert!(event["error"].as_str().unwrap().contains("one/cert.pem"), "{event}");
    let kept = || gateway.admin_get("/metrics").text().contains("moongate_tls_certificates_kept 1\n");
    assert!(kept());
    // What is whole is taken, whatever is wrong with the other and with the routes.
    ca.write_leaf(gateway.folder(), "two", &["new.test"]);
    gateway.folder().write("routes.yaml", "version: 1\nroutes: nonsense\n");
    assert_eq!(gateway.reload().status, 422);
    assert_eq!(ask("new.test"), "new");
    gateway.folder().write("one/cert.pem", &cert);
    gateway.folder().write("routes.yaml", routes("newer"));
    assert_eq!(gateway.reload().status, 200);
    assert!(!kept());
}

#[test]
fn check_warns_of_an_open_way_to_an_upstream_that_is_protected_elsewhere() {
    let folder = Folder::new();
    let routes = |open: &str| {
        format!(
            "version: 1\nupstreams:\n  u: {{ discovery: {{ static: [\"127.0.0.1:9\"] }} }}\n  v: {{ discovery: {{ static: [\"127.0.0.1:8\"] }} }}\n  w: {{ discovery: {{ static: [\"127.0.0.1:7\", \"127.0.0.1:9\"] }} }}\nroutes:\n  \
             - {{ name: admin, match: {{ path: \"/admin/{{*rest}}\" }}, upstream: u, auth: {{ jwt: {{}} }} }}\n  - {open}\n  - {{ name: v, match: {{ path: /v }}, upstream: v }}\n  - {{ name: w, match: {{ path: /w }}, upstream: w }}\n"
        )
    };
    let told = check(&folder, CONFIG, &routes("{ name: all, match: { path: \"/{*rest}\" }, upstream: u }"));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].severity == "warning" && told[0].line == 8, "{told:?}");
    assert!(told[0].text.contains("`all`") && told[0].text.contains("`admin`"), "{told:?}");
    let (code, stdout, _) = moongate(&folder, &[&["check"][..], &FILES].concat());
    assert!(
        code == 0 && stdout.starts_with("warning: ") && stdout.ends_with("are sound: 4 routes, 3 upstreams\n"),
        "{stdout}"
    );
    for open in [
        "{ name: all, match: { path: \"/{*rest}\" }, upstream: w }",
        "{ name: all, match: { path: \"/{*rest}\" }, upstream: u, auth: { jwt: {}, optional: true } }",
        "{ name: all, match: { path: \"/{a}/{b}\" }, upstream: u }",
        "{ name: all, match: { path: \"/{a}\" }, upstream: w }",
    ] {
        let told = check(&folder, CONFIG, &routes(open));
        assert!(
            told.len() == 1 && told[0].text.contains("`all`") && told[0].text.contains("`admin`"),
            "{open} {told:?}"
        );
    }
    for sound in [
        "{ name: all, match: { path: \"/admin/{id}\" }, upstream: u }",
        "{ name: all, match: { path: \"/open/{id}\" }, upstream: u }",
        "{ name: all, match: { path: \"/{*rest}\" }, upstream: u, auth: { api_key: {} } }",
        "{ name: all, match: { path: \"/{*rest}\" }, upstream: v }",
        "{ name: all, match: { path: \"/open/{*rest}\" }, upstream: u }",
        "{ name: all, match: { path: \"/open\" }, upstream: u }",
    ] {
        assert!(check(&folder, CONFIG, &routes(sound)).is_empty(), "{sound}");
    }
}

/// A routes.yaml whose only route has these further settings.
fn with(settings: &str) -> String {
    format!(
        "version: 1\nroutes:\n  - name: a\n    match: {{ path: /a }}\n    respond: {{ body: ok }}\n    {settings}\n"
    )
}

#[test]
fn what_stands_for_nothing_here_is_a_fault() {
    let folder = Folder::new();
    let methods = with("").replace("path: /a", "path: /a, methods: [\"*\"]");
    refused(&folder, CONFIG, &methods, &[(4, &["`*` stands for no other method", "leave `methods` out"])]);
    let path = with("").replace("path: /a", "path: \"/users/$\"");
    refused(&folder, CONFIG, &path, &[(4, &["is a regular expression", "write `/users/`"])]);
    for edits in ["headers: { remove: [\"X-*\"] }", "headers: { set: { \"x-*\": a } }"] {
        refused(&folder, CONFIG, &with(edits), &[(6, &["an asterisk stands for no other letters", "whole name"])]);
    }
    for list in ["roles", "permissions", "scopes"] {
        let empty = with(&format!("auth: {{ jwt: {{}}, {list}: [] }}"));
        refused(&folder, CONFIG, &empty, &[(6, &["the list must not be empty"])]);
    }
    // Operations of FHIR begin with a dollar sign, and end with none.
    let sound = with("").replace("path: /a", "path: \"/Patient/$everything\"");
    assert!(check(&folder, CONFIG, &sound).is_empty());
}

#[test]
fn what_this_machine_can_not_do_is_a_fault_at_check_as_at_the_start() {
    let folder = Folder::new();
    // An address for documentation (RFC 5737) is no machine's.
    let elsewhere = CONFIG.replace("\"127.0.0.1:0\" }\n  admin", "\"192.0.2.1:8080\" }\n  admin");
    refused(
        &folder,
        &elsewhere,
        ROUTES,
        &[(3, &["no interface of this machine has the address 192.0.2.1", "0.0.0.0"])],
    );
    refused(
        &folder,
        &format!("{CONFIG}threads: 100000\n"),
        ROUTES,
        &[(6, &["more than 1024 worker threads", "`auto`"])],
    );
    folder.write("file", "no folder");
    let store = format!("{CONFIG}store: {{ sqlite: {{ path: file/below/moongate.db }} }}\n");
    refused(&folder, &store, ROUTES, &[(6, &["`file` is no folder", "another file"])]);
}

#[test]
fn a_certificate_and_a_key_that_nobody_takes_are_refused_in_words() {
    let folder = Folder::new();
    for (cert, key, words) in [
        (include_str!("unfit/v1.pem"), include_str!("unfit/v1.key"), ["X.509 version 1", "version 3"]),
        (include_str!("unfit/short.pem"), include_str!("unfit/short.key"), ["a length that can't be used", "2048"]),
    ] {
        folder.write("a.pem", cert);
        folder.write("a.key", key);
        let told = check(&folder, &tls(""), ROUTES);
        let [told] = &told[..] else { panic!("{told:?}") };
        assert!(words.iter().all(|it| told.text.contains(it)) && !told.text.contains("Other("), "{told:?}");
        // Towards an upstream, too.
        let routes = "version: 1\nupstreams:\n  a:\n    discovery: { static: [\"127.0.0.1:9\"] }\n    \
                      tls: { sni: a.test, client_cert: a.pem, client_key: a.key }\n\
                      routes: [{ name: a, match: { path: /a }, upstream: a }]\n";
        let told = check(&folder, CONFIG, routes);
        let [told] = &told[..] else { panic!("{told:?}") };
        assert!(words.iter().all(|it| told.text.contains(it)), "{told:?}");
    }
}

#[test]
fn an_admin_listener_away_from_loopback_is_warned_of_at_check_and_at_the_start() {
    let config = CONFIG.replace("admin: { address: \"127.0.0.1:0\" }", "admin: { address: \"0.0.0.0:0\" }");
    let told = check(&Folder::new(), &config, ROUTES);
    let [told] = &told[..] else { panic!("{told:?}") };
    assert!((told.line, &*told.severity) == (4, "warning") && told.text.contains("plain text"), "{told:?}");
    let gateway = Gateway::with(ROUTES).config(&config).start();
    gateway.wait_for_event("config_warning", |it| it["line"] == 4);
}

#[test]
fn s2s_16_a_peer_that_is_no_trusted_proxy_and_forwards_is_told_of_once() {
    let gateway = Gateway::start(with(""));
    for _ in 0..2 {
        for field in [("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=192.0.2.7")] {
            assert_eq!(gateway.request("GET", "/a", &[field], b"").status, 200);
        }
    }
    gateway.wait_for_event("forwarded_ignored", |_| true);
    let told = gateway.events("forwarded_ignored");
    assert!(matches!(&told[..], [it] if it["client"] == "127.0.0.1" && it["level"] == "warn"), "{told:?}");
}

#[test]
fn r6_3_nobody_is_said_to_be_healthy_before_the_first_check() {
    // It takes connections, and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let gateway = Gateway::start(format!(
        "version: 1\nupstreams:\n  back: {{ discovery: {{ static: [\"{address}\"] }}, health: {{ http: /health, timeout: 60s, every: 61s }} }}\n\
         routes:\n  - {{ name: a, match: {{ path: /a }}, upstream: back }}\n"
    ));
    let series = format!("moongate_endpoint_healthy{{endpoint=\"{address}\",upstream=\"back\"}}");
    eventually("nothing is said of it", || figure(&gateway, &series).is_none().then_some(()));
    let endpoint = gateway.admin_get("/admin/upstreams").json()["upstreams"][0]["endpoints"][0].clone();
    assert_eq!((&endpoint["pending"], &endpoint["health"]), (&Value::Bool(true), &Value::from("unknown")));
    assert!(endpoint["since"].as_str().unwrap().ends_with('Z'), "one format for times: {endpoint}");
}

#[test]
fn the_admin_listener_logs_paths_without_what_looks_like_a_credential() {
    let gateway = Gateway::start(with(""));
    assert_eq!(gateway.admin_get("/admin/nothing/sk-live-canary-path/x").status, 404);
    gateway.wait_for_event("admin_request", |it| it["path"] == "/admin/nothing/_REDACTED_/x");
}

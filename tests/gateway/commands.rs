//! The command line: what each command prints, where, and with which exit code.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::support::*;

/// What a command left behind.
struct Output {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Runs moongate in `folder` with nothing of this environment.
#[track_caller]
fn moongate_with(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moongate"));
    let environment = environment.iter().copied();
    let output = command.args(arguments).current_dir(folder).env_clear().envs(environment).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Output { code: output.status.code().unwrap(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

#[track_caller]
fn moongate(folder: &Path, arguments: &[&str]) -> Output {
    moongate_with(folder, arguments, &[])
}

/// A folder with both files where commands look for them by default.
fn folder(routes: &str) -> Folder {
    let folder = Folder::new();
    folder.write("conf/gateway.yaml", gateway::CONFIG);
    folder.write("routes.yaml", routes);
    folder
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn faulty() -> PathBuf {
    repository().join("tests/config/faulty")
}

const FAULTY: [&str; 5] = ["check", "--config", "gateway.yaml", "--routes", "routes.yaml"];

const ROUTES: &str = r#"
version: 1
defaults: { timeouts: { request: 20s } }
policies:
  patient: { timeouts: { first_byte: 15s } }
upstreams:
  players:
    discovery: { static: [{ address: "127.0.0.1:9101", weight: 2 }, "127.0.0.1:9102"] }
    balance: least_request
routes:
  - name: player
    match: { path: "/players/{id}", hosts: [api.example.org], methods: [GET, PUT] }
    use: [patient]
    upstream: players
    rewrite: { path: "/v1/{id}", headers: { set: { x-api-version: "1" } } }
    cors: { origins: ["https://app.example.org"] }
  - name: beta
    match: { path: "/players/{id}", methods: [GET], headers: { x-tier: gold, x-off: { present: false } }, query: { page: { prefix: "1" } } }
    upstream: players
  - name: page
    match: { path: "/page", accept: [text/html] }
    respond: { body: hello }
  - name: old
    match: { path: "/old" }
    redirect: { to: /page, status: 301 }
"#;

/// Every fault of both files at once, each with file, line, column, the line itself and a way out.
#[test]
fn check_shows_every_fault_of_both_files_at_once() {
    let checked = moongate(&faulty(), &FAULTY);
    assert_eq!((checked.code, &*checked.stdout), (1, ""));
    let expected = faulty().join("check.expected");
    if std::env::var_os("MOONGATE_REFRESH").is_some() {
        std::fs::write(&expected, &checked.stderr).unwrap();
    }
    assert_eq!(checked.stderr, std::fs::read_to_string(expected).unwrap());
}

#[test]
fn check_tells_programs_the_same_faults_on_standard_output() {
    let human = moongate(&faulty(), &FAULTY).stderr;
    let checked = moongate(&faulty(), &[&FAULTY[..], &["--format", "json"]].concat());
    assert_eq!(checked.code, 1);
    let faults: Vec<Value> = serde_json::from_str(&checked.stdout).unwrap();
    assert!(faults.len() >= 15, "{faults:#?}");
    for fault in &faults {
        let text = |key: &str| fault[key].as_str().unwrap();
        let place = format!(" --> {}:{}:{}", text("file"), fault["line"], fault["column"]);
        assert!(human.contains(&place) && human.contains(text("message")), "{fault}");
    }
    let summary = format!("{} faults in gateway.yaml, routes.yaml\n", faults.len());
    assert_eq!(checked.stderr, summary, "one clear message");
    assert!(human.ends_with(&summary));
}

#[test]
fn check_of_sound_files_says_so_and_exits_with_0() {
    let folder = folder(ROUTES);
    let checked = moongate(folder.path(), &["check"]);
    assert_eq!((checked.code, &*checked.stderr), (0, ""));
    assert_eq!(checked.stdout, "conf/gateway.yaml and routes.yaml are sound: 4 routes, 1 upstream\n");
    let checked = moongate(folder.path(), &["check", "--format", "json"]);
    assert_eq!((checked.code, &*checked.stdout, &*checked.stderr), (0, "[]\n", ""));
}

#[test]
fn the_shipped_files_are_sound() {
    let checked = moongate(&repository(), &["check"]);
    assert_eq!(checked.code, 0, "{}", checked.stderr);
}

#[test]
fn files_are_named_by_argument_then_environment_then_by_custom() {
    let folder = folder(ROUTES);
    folder.write("other.yaml", "version: 1\nroutes: []\n");
    folder.write("process.yaml", "threads: 1\n");
    let environment = [("MOONGATE_CONFIG", "process.yaml"), ("MOONGATE_ROUTES", "other.yaml")];
    let said = |arguments: &[&str], environment: &[(&str, &str)]| {
        let checked = moongate_with(folder.path(), arguments, environment);
        checked.stdout.split(" are sound").next().unwrap().to_owned()
    };
    assert_eq!(said(&["check"], &[]), "conf/gateway.yaml and routes.yaml");
    assert_eq!(said(&["check"], &environment), "process.yaml and other.yaml");
    assert_eq!(said(&["check", "--routes", "routes.yaml"], &environment), "process.yaml and routes.yaml");
}

#[test]
fn exit_codes_are_0_done_1_refused_2_wrong_usage() {
    let folder = folder(ROUTES);
    let code = |arguments: &[&str]| moongate(folder.path(), arguments).code;
    for done in
        [&["check"][..], &["routes"], &["explain", "GET", "/"], &["schema", "config"], &["--version"], &["--help"]]
    {
        assert_eq!(code(done), 0, "{done:?}");
    }
    for refused in [
        &["check", "--routes", "missing.yaml"][..],
        &["routes", "--routes", "missing.yaml"],
        &["explain", "GET", "/../x"],
        &["explain", "GET", "no-url"],
        &["explain", "G T", "/"],
        &["explain", "GET", "/", "-H", "nonsense"],
        &["run", "--routes", "missing.yaml"],
    ] {
        let output = moongate(folder.path(), refused);
        assert_eq!((output.code, &*output.stdout), (1, ""), "{refused:?}");
        assert!(!output.stderr.is_empty(), "{refused:?}");
    }
    for wrong in [&[][..], &["nonsense"], &["check", "--nonsense"], &["explain", "GET"], &["schema", "nonsense"]] {
        let output = moongate(folder.path(), wrong);
        assert_eq!((output.code, &*output.stdout), (2, ""), "{wrong:?}");
        assert!(
            output.stderr.contains("Usage: moongate") || output.stderr.contains("try '--help'"),
            "{wrong:?}: {}",
            output.stderr
        );
    }
}

#[test]
fn a_file_that_is_not_there_is_one_clear_message() {
    let folder = folder(ROUTES);
    let checked = moongate(folder.path(), &["check", "--routes", "missing.yaml"]);
    assert!(checked.stderr.starts_with("error: cannot be read: No such file or directory"), "{}", checked.stderr);
    assert!(checked.stderr.contains("missing.yaml"));
}

#[test]
fn version_is_the_package_s() {
    let version = moongate(Path::new("/"), &["--version"]);
    assert_eq!(version.stdout, format!("moongate {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn routes_shows_the_compiled_table() {
    let shown = moongate(folder(ROUTES).path(), &["routes"]).stdout;
    let expected = "\
ROUTE             METHODS  HOSTS            PATH           WHEN                             GOES TO
player            GET,PUT  api.example.org  /players/{id}  always                           upstream players
beta              GET      any              /players/{id}  no x-off, x-tier=gold, ?page=1*  upstream players
page              any      any              /page          accept text/html                 answer 200
old               any      any              /old           always                           redirect /page
moongate-health   GET      any              /api/health    always                           upstream moongate-health
moongate-metrics  GET      any              /api/metrics   always                           upstream moongate-metrics
";
    assert_eq!(shown, expected);
}

#[test]
fn routes_tells_programs_everything_that_is_compiled() {
    let shown = moongate(folder(ROUTES).path(), &["routes", "--format", "json"]).stdout;
    let routes: Vec<Value> = serde_json::from_str(&shown).unwrap();
    let names: Vec<_> = routes.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["player", "beta", "page", "old", "moongate-health", "moongate-metrics"]);
    assert_eq!(routes[0]["match"]["path"], "/players/{id}");
    assert_eq!(routes[0]["action"], json!({ "upstream": "players" }));
    assert_eq!(routes[0]["timeouts"], json!({ "connect": "2s", "first_byte": "15s", "request": "20s", "idle": "1m" }));
    assert_eq!(routes[3]["action"], json!({ "redirect": { "to": "/page", "status": 301 } }));
}

#[test]
fn explain_tells_the_route_its_steps_its_endpoints_and_who_nearly_took_it() {
    let arguments = ["explain", "GET", "https://api.example.org/a/../players/%37?page=2", "-H", "x-tier: gold"];
    let told = moongate(folder(ROUTES).path(), &arguments).stdout;
    let expected = r#"GET /players/7?page=2 on api.example.org

route      player
path       /players/{id}
captured   id = 7
methods    GET, PUT
hosts      api.example.org
policies   patient
goes to    upstream players

steps, in order
  1. request_id
  2. trace_context
  3. cors              {"origins":["https://app.example.org"],"credentials":false}
  4. forwarded
  5. rewrite           {"path":"/v1/{id}","headers":{"set":{"x-api-version":"1"}}}
  6. security_headers  "standard"

timeouts   connect 2s, first_byte 15s, request 20s, idle 1m
body       at most 256KiB

upstream   players, least_request
  127.0.0.1:9101 weight 2
  127.0.0.1:9102 weight 1

nearly
  beta  /players/{id}  query parameter page does not start with `1`
"#;
    assert_eq!(told, expected);
}

#[test]
fn explain_tells_why_no_route_takes_a_request() {
    let folder = folder(ROUTES);
    let explain = |arguments: &[&str]| moongate(folder.path(), &[&["explain"], arguments].concat()).stdout;
    let told = explain(&["DELETE", "http://api.example.org/players/7"]);
    assert!(told.contains("\nno route   the gateway answers 405, Allow: GET, HEAD, PUT\n"), "{told}");
    assert!(told.contains("player  /players/{id}  method DELETE not in [GET, PUT]"), "{told}");
    let told = explain(&["GET", "/page", "-H", "Accept: image/png"]);
    assert!(told.contains("\nno route   the gateway answers 406\n"), "{told}");
    assert!(told.contains("page  /page  header accept admits none of [text/html]"), "{told}");
    let told = explain(&["GET", "/players/7", "-H", "Host: other.example.org"]);
    assert!(told.contains("\nno route   the gateway answers 404\n"), "{told}");
    assert!(told.contains("host is other.example.org, not api.example.org"), "{told}");
    assert!(told.contains("header x-tier missing"), "{told}");
    let told = explain(&["GET", "/api/health"]);
    assert!(told.contains("upstream   moongate-health: the local service `health`, in this process"), "{told}");
    let told = moongate(folder.path(), &["explain", "GET", "/a%2Fb"]).stderr;
    assert_eq!(told, "the gateway answers 400: encoded slash or backslash\n");
}

#[test]
fn explain_of_a_preflight_tells_the_route_that_it_is_about() {
    let origin = ["-H", "Origin: https://app.example.org", "-H", "Access-Control-Request-Method: PUT"];
    let arguments = [&["explain", "OPTIONS", "http://api.example.org/players/7"][..], &origin].concat();
    let told = moongate(folder(ROUTES).path(), &arguments).stdout;
    assert!(told.contains("\nroute      player\n"), "{told}");
}

#[test]
fn explain_tells_programs_the_same() {
    let arguments = ["explain", "PUT", "http://api.example.org/players/7", "--format", "json"];
    let told: Value = serde_json::from_str(&moongate(folder(ROUTES).path(), &arguments).stdout).unwrap();
    assert_eq!(told["request"], json!({ "method": "PUT", "host": "api.example.org", "target": "/players/7" }));
    assert_eq!(told["match"]["outcome"]["found"]["params"], json!({ "id": "7" }));
    assert_eq!(told["match"]["near"][0]["route"], "beta");
    assert_eq!(told["match"]["near"][0]["reasons"][0], "method PUT not in [GET]");
    let steps: Vec<_> = told["route"]["steps"].as_array().unwrap().iter().map(|it| &it["step"]).collect();
    assert_eq!(steps, ["request_id", "trace_context", "cors", "forwarded", "rewrite", "security_headers"]);
    assert_eq!(told["upstream"]["balance"], "least_request");
    assert_eq!(told["upstream"]["endpoints"][0], json!({ "address": "127.0.0.1:9101", "weight": 2 }));
}

/// What is not running is not there: no command opens a socket.
#[test]
fn commands_that_look_do_not_touch_the_network() {
    let upstream = RawUpstream::start(|_| Script::ok(""));
    let routes = format!(
        "{{ version: 1, upstreams: {{ a: {{ discovery: {{ static: [\"{}\"] }}, health: {{ tcp: true }} }} }}, \
         routes: [{{ name: a, match: {{ path: / }}, upstream: a }}] }}",
        upstream.address()
    );
    let folder = folder(&routes);
    for arguments in [&["check"][..], &["routes"], &["explain", "GET", "/"]] {
        assert_eq!(moongate(folder.path(), arguments).code, 0);
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn schema_is_what_is_committed() {
    for (name, file) in [("config", "gateway.json"), ("routes", "routes.json")] {
        let committed = std::fs::read_to_string(repository().join("docs/schema").join(file)).unwrap_or_default();
        let printed = moongate(Path::new("/"), &["schema", name]).stdout;
        assert!(printed == committed, "docs/schema/{file} is stale: run `make schema` and commit what it changes");
    }
}

#[test]
fn help_offers_nothing_that_is_refused() {
    let folder = folder(ROUTES);
    let help = moongate(folder.path(), &["run", "--help"]);
    assert!(help.code == 0 && help.stdout.contains("--routes") && !help.stdout.contains("upgrade"), "{}", help.stdout);
    let refused = moongate(folder.path(), &["run", "--upgrade"]);
    assert!(refused.code == 1 && refused.stderr.contains("start without --upgrade"), "{}", refused.stderr);
}

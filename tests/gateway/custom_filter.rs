//! `examples/custom_filter.rs`, a gateway with a filter of its own: in a binary of its own, over sockets.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::support::{Folder, Gateway, RawUpstream, Script, gateway, nobody};

const ROUTES: &str = "version: 1
defaults: { filters: { client_version: { minimum: 2 } }, rate_limits: [{ per: ip, requests: 3, every: 1h }] }
upstreams: { app: { discovery: { static: [\"ADDRESS\"] } } }
routes:
  - { name: app, match: { path: \"/{*rest}\" }, upstream: app, filters: { client_version: { minimum: 3 } } }
  - { name: old, match: { path: /old }, respond: { body: old } }
";

/// Cargo puts examples beside the binary.
fn example() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_moongate")).with_file_name("examples").join("custom_filter");
    assert!(path.exists(), "{} is not there: `cargo build --examples` makes it", path.display());
    path
}

/// What a command of this binary leaves behind with these routes: exit code, standard output, standard error.
fn command(binary: impl AsRef<Path>, routes: &str, arguments: &[&str]) -> (i32, String, String) {
    let folder = Folder::new();
    folder.write("conf/gateway.yaml", gateway::CONFIG);
    folder.write("routes.yaml", routes.replace("ADDRESS", &nobody().to_string()));
    let done = Command::new(binary.as_ref()).args(arguments).current_dir(folder.path()).env_clear().output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (done.status.code().unwrap(), text(&done.stdout), text(&done.stderr))
}

#[test]
fn a_filter_of_ones_own_refuses_and_passes_and_sees_responses() {
    let upstream = RawUpstream::start(|_| Script::ok("served"));
    let routes = ROUTES.replace("ADDRESS", &upstream.address().to_string());
    let gateway = Gateway::with(routes).binary(example()).start();
    let answer = gateway.request("GET", "/a", &[("x-client-version", "2")], b"");
    assert_eq!((answer.status, answer.text()), (426, "update this app\n".to_owned()));
    assert_eq!(answer.header("x-client-version-needed"), Some("3"));
    // It leaves as every other answer does.
    assert!(answer.header("x-request-id").is_some() && answer.header("x-frame-options") == Some("DENY"));
    assert_eq!(upstream.requests().len(), 0);
    let answer = gateway.request("GET", "/a", &[("x-client-version", "3")], b"");
    assert_eq!((answer.status, answer.text()), (200, "served".to_owned()));
    assert_eq!(answer.header("x-client-version-needed"), Some("3"));
    // A route without a block of its own has that of `defaults`.
    let answer = gateway.request("GET", "/old", &[("x-client-version", "2")], b"");
    assert_eq!((answer.status, answer.text()), (200, "old".to_owned()));
    // It stands behind the limits: whoever is refused by them is not asked for a version.
    assert_eq!(gateway.request("GET", "/a", &[], b"").status, 429);
}

#[test]
fn every_command_knows_it() {
    assert_eq!(command(example(), ROUTES, &["check"]).0, 0);
    let told = command(example(), ROUTES, &["explain", "GET", "/a", "--format", "json"]).1;
    let told: Value = serde_json::from_str(&told).unwrap();
    let steps = told["route"]["steps"].as_array().unwrap();
    let names: Vec<_> = steps.iter().map(|it| it["step"].as_str().unwrap()).collect();
    let expected = ["request_id", "trace_context", "rate_limits", "client_version", "forwarded", "security_headers"];
    assert_eq!(names, expected);
    assert_eq!(steps[3]["settings"], json!({ "minimum": 3 }));
    let schema: Value = serde_json::from_str(&command(example(), ROUTES, &["schema", "routes"]).1).unwrap();
    let blocks = &schema["$defs"]["FiltersConfig"]["properties"];
    assert_eq!(blocks["client_version"]["description"], "Tells old clients to update.");
}

#[test]
fn a_fault_in_its_block_has_a_place() {
    for (block, place, message) in [
        ("{ client_version: { minimun: 3 } }", "5:91", "unknown key `minimun`"),
        ("{ client_version: { minimum: 0 } }", "5:100", "must be at least 1"),
        ("{ client_versoin: { minimum: 3 } }", "5:73", "unknown key `client_versoin`"),
    ] {
        let routes = ROUTES.replace("{ client_version: { minimum: 3 } }", block);
        let told = command(example(), &routes, &["check"]).2;
        assert!(told.contains(message) && told.contains(&format!("routes.yaml:{place}")), "{told}");
    }
}

#[test]
fn the_shipped_binary_has_no_such_filter() {
    let told = command(env!("CARGO_BIN_EXE_moongate"), ROUTES, &["check"]).2;
    assert!(told.contains("unknown key `client_version`"), "{told}");
}

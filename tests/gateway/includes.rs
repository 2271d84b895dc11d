//! `routes.yaml` in several files.

use serde_json::Value;

use crate::support::{Gateway, Response, eventually};

const MAIN: &str = "version: 1\ninclude: [teams/a.yaml, \"more/*.yaml\"]\npolicies: { p: { timeouts: { request: 1m } } }\nroutes:\n  - { name: own, match: { path: /own }, respond: { body: own } }\n";

fn respond(name: &str) -> String {
    format!("routes:\n  - {{ name: {name}, match: {{ path: /{name} }}, use: [p], respond: {{ body: {name} }} }}\n")
}

fn gateway() -> Gateway {
    Gateway::with(MAIN)
        .file(
            "teams/a.yaml",
            format!("version: 1\ninclude: [deep/b.yaml]\nupstreams: {{ here: {{ local: health }} }}\n{}", respond("a")),
        )
        .file("teams/deep/b.yaml", respond("b"))
        .file("more/2.yaml", respond("two"))
        .file("more/1.yaml", "routes:\n  - { name: one, match: { path: /one }, upstream: here }\n")
        .start()
}

/// File, line, column and message of each fault.
fn faults(refused: &Response) -> Vec<(String, u64, u64, String)> {
    assert_eq!(refused.status, 422, "{}", refused.text());
    let json = refused.json();
    let text = |it: &Value| it.as_str().unwrap().to_owned();
    let list = json["error"]["details"]["faults"].as_array().unwrap().clone();
    list.iter()
        .map(|it| {
            (text(&it["file"]), it["line"].as_u64().unwrap(), it["column"].as_u64().unwrap(), text(&it["message"]))
        })
        .collect()
}

#[test]
fn files_that_are_included_count_as_if_they_stood_there() {
    let gateway = gateway();
    for name in ["own", "a", "b", "two"] {
        assert_eq!(gateway.get(&format!("/{name}")).text(), name);
    }
    assert_eq!(gateway.get("/one").status, 200, "an upstream of one file serves a route of another");
    // They are watched like the file itself.
    gateway.folder().write("teams/deep/b.yaml", respond("c"));
    eventually("the change serves", || (gateway.get("/c").text() == "c").then_some(()));
    assert_eq!(gateway.get("/b").status, 404);
}

#[test]
fn faults_are_told_in_the_file_where_they_stand() {
    let gateway = gateway();
    let reload = |file: &str, text: &str| {
        gateway.folder().write(file, text);
        faults(&gateway.reload())
    };
    let found = reload("teams/deep/b.yaml", "routes:\n  - name: b\n    match: { path: /b }\n    upstraem: here\n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found.iter().all(|it| it.0.ends_with("teams/deep/b.yaml")), "{found:?}");
    assert!(found.iter().any(|it| (it.1, it.2) == (4, 5) && it.3.contains("upstraem")), "{found:?}");
    let found =
        reload("teams/deep/b.yaml", "# nothing\n\nroutes:\n  - { name: b, match: { path: /b }, upstream: nowhere }\n");
    assert_eq!((found[0].1, found[0].3.as_str()), (4, "no upstream `nowhere`"), "{found:?}");
    // A text that is none, and one that has what it may not have.
    let found = reload("teams/deep/b.yaml", "routes: [\n");
    assert!(found[0].0.ends_with("b.yaml") && found[0].3.starts_with("not YAML"), "{found:?}");
    let found = reload("teams/deep/b.yaml", "defaults: { body_limit: 1KiB }\n");
    assert_eq!(
        (found[0].1, found[0].2, found[0].3.as_str()),
        (1, 1, "`defaults` can't stand in an included file"),
        "{found:?}"
    );
    // Names are unique over all files.
    let found = reload("teams/deep/b.yaml", "upstreams:\n  here: { local: health }\n");
    assert_eq!((found[0].1, found[0].2, found[0].3.as_str()), (2, 3, "two upstreams are called `here`"), "{found:?}");
    let found = reload("teams/deep/b.yaml", &respond("own").replace("/own", "/other"));
    assert!(found[0].0.ends_with("b.yaml") && found[0].3 == "two routes are called `own`", "{found:?}");
    // The same line in two files is two faults.
    gateway.folder().write("more/2.yaml", "routes:\n  - { name: x, match: { path: /x }, upstream: nowhere }\n");
    let found = reload("teams/deep/b.yaml", "routes:\n  - { name: y, match: { path: /y }, upstream: nowhere }\n");
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(gateway.get("/b").text(), "b", "what served serves on");
}

#[test]
fn circles_and_missing_files_are_faults_where_they_are_named() {
    let gateway = gateway();
    let reload = |file: &str, text: &str| {
        gateway.folder().write(file, text);
        faults(&gateway.reload())
    };
    let found = reload("teams/deep/b.yaml", "include: [../a.yaml]\n");
    assert!(found[0].0.ends_with("b.yaml") && (found[0].1, found[0].2) == (1, 11), "{found:?}");
    assert!(found[0].3.contains("includes this file, or is it"), "{found:?}");
    let found = reload("teams/deep/b.yaml", "include:\n  - missing.yaml\n");
    assert!((found[0].1, found[0].2) == (2, 5) && found[0].3.contains("can't be read"), "{found:?}");
    let found = reload("teams/deep/b.yaml", "include: [../../more/1.yaml]\n");
    assert!(found[0].3.contains("is included twice") && found[0].0.ends_with("routes.yaml"), "{found:?}");
    gateway.folder().write("teams/deep/b.yaml", respond("b"));
    assert_eq!(gateway.reload().status, 200);
}

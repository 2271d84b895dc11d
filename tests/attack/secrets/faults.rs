//! Whatever is wrong, and wherever on the line: what is said about it shows no secret.

use serde_json::Value;

use super::moongate;
use super::places::{GATEWAY, ROUTES, count, plain, written};
use crate::support::{Folder, Gateway, gateway};

/// A way to write a secret wrongly: from its key and its value.
type Wrong = fn(&str, &str) -> String;

/// Faults that leave the rest of the file to be read: all secrets at once can have them.
const LESSER: [(&str, Wrong); 18] = [
    ("a stranger beside it", |key, value| format!("{key}: \"{value}\", nonsense: \"{value}\"")),
    ("a list", |key, value| format!("{key}: [\"{value}\"]")),
    ("a mapping", |key, value| format!("{key}: {{ \"{value}\": {{ inner: \"{value}\" }} }}")),
    ("without quotes in a brace", |key, value| format!("{key}: {{{}}}", value.replace([':', '?', '/'], "_"))),
    ("a mapping with it twice", |key, value| format!("{key}: {{ \"{value}\": 1, \"{value}\": 2 }}")),
    ("a key that is a list", |key, value| format!("{key}: {{ [\"{value}\"]: 1 }}")),
    ("misspelt, a mapping with it twice", |key, value| format!("{key}x: {{ \"{value}\": 1, \"{value}\": 2 }}")),
    ("a default over two lines", |key, value| format!("{key}: [\"${{NOWHERE:-a\n          {value}}}\", \"{value}\"]")),
    ("misspelt", |key, value| format!("{key}x: \"{value}\"")),
    ("misspelt otherwise", |key, value| format!("{}: \"{value}\"", &key[1..])),
    ("twice", |key, value| format!("{key}: \"{value}\", {key}: \"{value}\"")),
    ("a tag", |key, value| format!("{key}: !odd \"{value}\"")),
    ("an anchor", |key, value| format!("{key}: &canary-anchor [\"{value}\"]")),
    ("no variable beside it", |key, value| format!("{key}: \"${{NOWHERE}}{value}\"")),
    ("a default", |key, value| format!("{key}: [\"${{NOWHERE:-{value}}}\"]")),
    ("a variable that does not end", |key, value| format!("{key}: \"${{NOWHERE:-{value}\"")),
    ("an unknown secret", |key, value| format!("{key}: \"secret:none {value}\"")),
    ("from the environment", |key, _| format!("{key}: [\"${{CANARY}}\"]")),
];

/// Faults after which nothing is read: one secret after the other has them.
const FATAL: [(&str, Wrong); 6] = [
    ("a brace", |key, value| format!("{key}: {{{value}")),
    ("an alias", |key, value| format!("{key}: *{value}")),
    ("a quote", |key, value| format!("{key}: \"{value}")),
    ("a letter that nothing begins with", |key, value| format!("{key}: @{value}")),
    ("a second line", |key, value| format!("{key}: \"begin\n\t{value}")),
    ("a block", |key, value| format!("{key}: |\n\t  {value}\n {value}: [")),
];

/// In block style a line is one entry, and a comment can follow.
fn in_blocks(text: &str) -> String {
    text.lines().map(|line| format!("{line} # canary-comment\n")).collect()
}

fn check(gateway: &str, routes: &str) -> bool {
    let folder = Folder::new();
    folder.write("conf/gateway.yaml", gateway);
    folder.write("routes.yaml", routes);
    let environment = [("CANARY", "canary-from-the-environment")];
    let said = moongate(&folder, &["check"], "", &environment);
    let list = moongate(&folder, &["check", "--format", "json"], "", &environment);
    assert_eq!(said.content, list.content);
    said.content
}

#[test]
fn no_lesser_fault_shows_a_secret() {
    let (gateway, routes) = (written(GATEWAY, plain), written(ROUTES, plain));
    for (name, wrong) in LESSER {
        let faulty = written(GATEWAY, |key, value, _| wrong(key, value));
        assert!(!check(&faulty, &routes), "{name} is a fault");
        check(&gateway, &written(ROUTES, |key, value, _| wrong(key, value)));
    }
}

#[test]
fn no_fault_of_the_syntax_shows_a_secret() {
    let (gateway, routes) = (written(GATEWAY, plain), written(ROUTES, plain));
    for (name, wrong) in FATAL {
        for number in 0..count(GATEWAY) {
            let one = |key: &str, value: &str, it: usize| {
                if it == number { wrong(key, value) } else { plain(key, value, it) }
            };
            assert!(!check(&written(GATEWAY, one), &routes), "{name}, {number}");
        }
        for number in 0..count(ROUTES) {
            let one = |key: &str, value: &str, it: usize| {
                if it == number { wrong(key, value) } else { plain(key, value, it) }
            };
            assert!(!check(&gateway, &written(ROUTES, one)), "{name}, {number}");
        }
    }
}

#[test]
fn a_fault_behind_a_secret_and_before_a_comment_shows_neither() {
    let faulty = written(GATEWAY, plain).replace(" }\n", ", nonsense: 1 }\n");
    assert!(!check(&in_blocks(&faulty), &in_blocks(&written(ROUTES, plain).replace("version: 1", "version: 2"))));
}

#[test]
fn a_refused_reload_shows_no_secret_to_caller_log_or_page() {
    let sound = gateway::CONFIG.trim_start();
    let running = Gateway::with("{ version: 1, routes: [] }").config(sound).start();
    for tail in [
        "tokens: { hs256_secret: \"canary-0123456789abcdef0123456789abcdef\", leeway: 99h }\n",
        "tokens: { hs256_secret: canary-0123456789abcdef0123456789abcdef, leeway: soon }\n",
        "tokens: { hs256_secret: \"canary-short\" }\n",
        "tokens:\n  leeway: 99h\n  hs256_secret: |\n    canary-0123456789abcdef\n    canary-0123456789abcdef\n",
        "tokens: { leeway: 99h, hs256_secret: {canary-0123456789abcdef0123456789abcdef}\n",
        "state: { redis: { url: \"canary://user:canary-pass@host\", timeout: never } }\n",
    ] {
        running.folder().write("gateway.yaml", format!("{sound}{tail}"));
        let answer = running.reload();
        assert_eq!(answer.status, 422, "{tail}");
        let told = answer.text();
        assert!(!told.contains("canary-"), "{tail}\n{told}");
        let faults = answer.json()["error"]["details"]["faults"].clone();
        assert!(
            faults.as_array().is_some_and(|it| it.iter().all(|it| it["line"].as_u64().is_some_and(|it| it > 4))),
            "{told}"
        );
        let page: Value = running.admin_get("/admin/config").json();
        assert_eq!(page["last_error"]["faults"], faults);
    }
    // The log and the pages are searched as they are read, here as in every other test.
    running.wait_for_event("reload_refused", |it| it["detail"].as_str().is_some_and(|it| it.contains("timeout")));
}

#[test]
fn a_line_is_shown_as_far_as_it_is_harmless() {
    let folder = Folder::new();
    let sound = gateway::CONFIG.trim_start();
    folder.write("routes.yaml", "{ version: 1, routes: [] }");
    for (tail, shown) in [
        ("tokens: { hs256_secret: \"canary-1\", leeway: 99h }", "tokens: { hs256_secret: **********, leeway: 99h }"),
        ("threads: \"${T:-canary-2}\"", "threads: \"${T:-********}\""),
        ("guard: { webhook: { url: \"${URL}\", every: 1 } }", "guard: { webhook: { url: *${URL}*, every: * } }"),
        (
            "auth: { oidc: { idp: { issuer: \"https://canary-3:x@host\" } } }",
            "issuer: \"https://**********@host\" } } }",
        ),
        ("tokens: { issuer: moongate, hs256_secret: @canary-4 }", "tokens: { issuer: moongate, hs256_secret***"),
        ("listeners: { admin: { adress: \"127.0.0.1:1\" } }", "listeners: { admin: { adress: \"127.0.0.1:1\" } }"),
    ] {
        let whole = if tail.starts_with("listeners") { tail.to_owned() } else { format!("{sound}{tail}\n") };
        folder.write("conf/gateway.yaml", whole);
        let said = moongate(&folder, &["check"], "", &[("URL", "canary-5")]);
        assert!(!said.content && said.text.contains(shown), "{shown}\n{}", said.text);
    }
}

#[test]
fn an_ordinary_slip_is_shown_with_its_line_and_its_words() {
    let folder = Folder::new();
    folder.write("conf/gateway.yaml", gateway::CONFIG.trim_start());
    for (routes, line, words) in [
        ("version: 1\nroutes: all\n", "routes: all", "expected a list, found a text"),
        (
            "version: 1\nroutes:\n  - { name: a, match: { path: /a, metods: [GET] }, respond: { body: ok } }\n",
            "- { name: a, match: { path: /a, metods: [GET] }, respond: { body: ok } }",
            "unknown key `metods`",
        ),
        (
            "version: 1\nroutes:\n  - name: a\n    match: { path: /a }\n    upstream: plyers\n",
            "    upstream: plyers",
            "`plyers`",
        ),
        (
            "version: 1\nroutes:\n  - name: a\n    match: { path: /a }\n    colour: red\n    respond: { body: ok }\n",
            "    colour: ***",
            "unknown key `colour`",
        ),
        // Not YAML, and no secret can stand there.
        (
            "version: 1\nroutes:\n  - name: a\n    match: { path: /a/{*rest} }\n",
            "    match: { path: /a/{*rest} }",
            "`\"/a/{*rest}\"`",
        ),
    ] {
        folder.write("routes.yaml", routes);
        let said = moongate(&folder, &["check"], "", &[]);
        assert!(!said.content && said.text.contains(line) && said.text.contains(words), "{line}\n{}", said.text);
    }
}

#[test]
fn a_key_in_the_place_of_its_file_is_not_shown() {
    let folder = Folder::new();
    folder.write("routes.yaml", "{ version: 1, routes: [] }");
    let pem = |kind: &str| format!("-----BEGIN {kind}-----\\ncanary-0123456789\\n-----END {kind}-----\\n");
    let (cert, key) = (pem("CERTIFICATE"), pem("PRIVATE KEY"));
    let admin = "admin: { address: \"127.0.0.1:0\" }";
    for (config, shown) in [
        (
            format!(
                "listeners: {{ public: [{{ address: \"127.0.0.1:0\", tls: {{ cert: \"{cert}\", key: \"{key}\" }} }}], {admin} }}\n"
            ),
            "cannot read",
        ),
        (
            format!(
                "listeners: {{ public: [{{ address: \"127.0.0.1:0\" }}], {admin} }}\ntokens: {{ signing_key: \"{key}\" }}\n"
            ),
            "can not be read",
        ),
    ] {
        folder.write("conf/gateway.yaml", config);
        for format in ["human", "json"] {
            let said = moongate(&folder, &["check", "--format", format], "", &[]);
            assert!(!said.content && !said.text.contains("PRIVATE KEY"), "{}", said.text);
            assert!(said.text.contains(shown) && said.text.contains("No such file"), "{}", said.text);
        }
        let said = moongate(&folder, &["run"], "", &[]);
        assert!(!said.content && !said.text.contains("PRIVATE KEY"), "{}", said.text);
    }
}

//! The commands that keep users, keys and secrets, and what the configuration makes of secrets.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::support::*;

const KEY: &str = "the-first-key-that-nobody-could-guess";
const OTHER_KEY: &str = "another-key-that-nobody-could-guess-too";

pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs moongate in `folder` with this on standard input, and nothing of this environment.
#[track_caller]
pub fn moongate(folder: &Folder, arguments: &[&str], input: &str, environment: &[(&str, &str)]) -> Output {
    run(Command::new(env!("CARGO_BIN_EXE_moongate")).args(arguments), folder, input, environment)
}

#[track_caller]
fn run(command: &mut Command, folder: &Folder, input: &str, environment: &[(&str, &str)]) -> Output {
    command.current_dir(folder.path()).env_clear().envs(environment.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that fails early does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Output { code: output.status.code().unwrap(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("conf/gateway.yaml", gateway::CONFIG);
    folder.write("routes.yaml", "{ version: 1, routes: [] }");
    folder
}

#[track_caller]
fn done(output: Output) -> String {
    assert_eq!((output.code, &*output.stderr), (0, ""), "{}", output.stdout);
    output.stdout
}

#[track_caller]
fn refused(output: Output) -> String {
    assert_eq!((output.code, &*output.stdout), (1, ""), "{}", output.stderr);
    output.stderr
}

#[track_caller]
fn listed(folder: &Folder, what: &str) -> Vec<Value> {
    serde_json::from_str(&done(moongate(folder, &[what, "list", "--format", "json"], "", &[]))).unwrap()
}

fn on_disk(folder: &Folder) -> Vec<u8> {
    let files = std::fs::read_dir(folder.path().join("data")).unwrap();
    files.flat_map(|it| std::fs::read(it.unwrap().path()).unwrap()).collect()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|it| it == text.as_bytes())
}

#[test]
fn us_009_users_are_added_listed_changed_and_disabled() {
    let folder = folder();
    let add = ["users", "add", "ada", "--role", "user", "--role", "clinician", "--tenant", "north"];
    let said = done(moongate(&folder, &add, "correct horse\n", &[]));
    assert!(said.starts_with("user `ada` added, id ") && said.ends_with("roles: user, clinician\n"), "{said}");
    let said = refused(moongate(&folder, &add, "correct horse\n", &[]));
    assert_eq!(said, "there is a user `ada` already\n");
    let users = listed(&folder, "users");
    assert_eq!((users.len(), &users[0]["name"], &users[0]["tenant"]), (1, &"ada".into(), &"north".into()));
    let said = done(moongate(&folder, &["users", "roles", "ada", "--role", "admin"], "", &[]));
    assert_eq!(said, "user `ada` is active, roles: admin\n");
    let said = done(moongate(&folder, &["users", "disable", "ada"], "", &[]));
    assert_eq!(said, "user `ada` is disabled, roles: admin\n");
    assert_eq!(listed(&folder, "users")[0]["active"], false);
    let table = done(moongate(&folder, &["users", "list"], "", &[]));
    assert!(table.starts_with("USER  ROLES  TENANT  STATE     CHANGED"), "{table}");
    let said = refused(moongate(&folder, &["users", "disable", "bob"], "", &[]));
    assert_eq!(said, "there is no user `bob`; see: moongate users list\n");
}

#[test]
fn a_password_comes_from_standard_input_or_is_made_and_shown_once() {
    let folder = folder();
    let said = refused(moongate(&folder, &["users", "add", "ada"], "", &[]));
    assert!(said.starts_with("no password on standard input"), "{said}");
    let said = refused(moongate(&folder, &["users", "add", "ada"], "short\n", &[]));
    assert_eq!(said, "a password has at least 8 characters\n");
    let said = done(moongate(&folder, &["users", "add", "ada", "--generate"], "", &[]));
    let password = said.lines().last().unwrap().strip_prefix("password, shown this once: ").unwrap();
    assert_eq!(password.len(), 23);
    done(moongate(&folder, &["users", "password", "ada"], "correct horse battery\n", &[]));
    let bytes = on_disk(&folder);
    assert!(contains(&bytes, "$argon2id$v=19$m=19456,t=2,p=1$"));
    assert!(!contains(&bytes, password) && !contains(&bytes, "correct horse"));
    let wrong = moongate(&folder, &["users", "add", "clinic:7", "--generate"], "", &[]);
    assert!(refused(wrong).starts_with("`clinic:7` is not a name for a user"));
}

#[test]
fn r4_1_a_new_key_signs_is_for_its_owner_alone_and_never_over_another() {
    let folder = folder();
    for algorithm in ["EdDSA", "ES256", "RS256"] {
        let out = format!("{algorithm}.pem");
        let arguments = ["keys", "new", "--algorithm", algorithm, "--out", &out];
        let kid = done(moongate(&folder, &arguments, "", &[]));
        assert_eq!(kid.trim().len(), 43, "a thumbprint (RFC 7638): {kid}");
        let file = folder.path().join(&out);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let before = std::fs::read(&file).unwrap();
        assert!(before.starts_with(b"-----BEGIN PRIVATE KEY-----\n"));
        let said = refused(moongate(&folder, &arguments, "", &[]));
        assert!(said.contains("File exists"), "{said}");
        assert_eq!(std::fs::read(&file).unwrap(), before);
        let config = format!("{}\ntokens: {{ signing_key: {out} }}\n", gateway::CONFIG);
        folder.write("conf/gateway.yaml", config);
        done(moongate(&folder, &["check"], "", &[]));
    }
}

#[test]
fn an_api_key_is_shown_once_and_kept_as_a_hash() {
    let folder = folder();
    let arguments = ["keys", "api", "billing", "--role", "service", "--scope", "bench", "--expires", "90d"];
    let said = done(moongate(&folder, &arguments, "", &[]));
    let key = said.lines().last().unwrap();
    let parts: Vec<&str> = key.split('_').collect();
    assert_eq!((parts.len(), parts[0], parts[2].len()), (3, "mg", 64));
    assert!(!contains(&on_disk(&folder), parts[2]));
    let keys = listed(&folder, "keys");
    assert_eq!((&keys[0]["id"], &keys[0]["state"]), (&parts[1].into(), &"active".into()));
    assert_eq!((&keys[0]["roles"][0], &keys[0]["scopes"][0]), (&"service".into(), &"bench".into()));
    done(moongate(&folder, &["keys", "revoke", parts[1]], "", &[]));
    assert_eq!(listed(&folder, "keys")[0]["state"], "revoked");
    let said = refused(moongate(&folder, &["keys", "revoke", "nothing"], "", &[]));
    assert_eq!(said, "there is no API key nothing; see: moongate keys list\n");
    let said = refused(moongate(&folder, &["keys", "api", "x", "--expires", "soon"], "", &[]));
    assert!(said.starts_with("--expires soon: not a duration"), "{said}");
}

#[test]
fn us_016_1_a_secret_is_nowhere_in_the_file_and_nothing_shows_it() {
    let folder = folder();
    let environment = [("SECRET_KEY", KEY)];
    let mut said = done(moongate(&folder, &["secrets", "put", "slack/token"], "canary-3f9d\n", &environment));
    assert_eq!(said, "secret `slack/token` is kept; write it as secret:slack/token\n");
    let entries = listed(&folder, "secrets");
    assert_eq!((entries.len(), &entries[0]["name"]), (1, &"slack/token".into()));
    said += &done(moongate(&folder, &["secrets", "list"], "", &[]));
    assert!(!said.contains("canary"));
    let bytes = on_disk(&folder);
    assert!(contains(&bytes, "slack/token"), "the search itself works");
    assert!(!contains(&bytes, "canary") && !contains(&bytes, KEY));
    done(moongate(&folder, &["secrets", "remove", "slack/token"], "", &[]));
    assert_eq!(listed(&folder, "secrets").len(), 0);
}

#[test]
fn us_016_3_rotation_says_how_many() {
    let folder = folder();
    let (old, new) = ([("SECRET_KEY", KEY)], [("SECRET_KEY", OTHER_KEY), ("OLD_SECRET_KEY", KEY)]);
    for name in ["one", "two", "three"] {
        done(moongate(&folder, &["secrets", "put", name], name, &old));
    }
    let said = refused(moongate(&folder, &["secrets", "put", "four"], "x", &new));
    assert!(said.contains("was sealed with another key") && said.contains("moongate secrets rotate"), "{said}");
    let said = done(moongate(&folder, &["secrets", "rotate"], "", &new));
    assert_eq!(said, "3 secrets re-encrypted with the new key\n");
    let said = done(moongate(&folder, &["secrets", "rotate"], "", &new));
    assert_eq!(said, "0 secrets re-encrypted with the new key\n");
    done(moongate(&folder, &["secrets", "put", "four"], "x", &new));
    let said = refused(moongate(&folder, &["secrets", "put", "five"], "x", &old));
    assert!(said.contains("was sealed with another key"), "{said}");
    folder.write("old.key", OTHER_KEY);
    let arguments = ["secrets", "rotate", "--old-key-file", "old.key"];
    let said = done(moongate(&folder, &arguments, "", &old));
    assert_eq!(said, "4 secrets re-encrypted with the new key\n");
}

#[test]
fn without_a_key_or_with_a_short_one_nothing_is_kept() {
    let folder = folder();
    let put = ["secrets", "put", "one"];
    let said = refused(moongate(&folder, &put, "x", &[]));
    assert_eq!(said, "no key for secrets: set SECRET_KEY, or secrets.key_file in gateway.yaml\n");
    let said = refused(moongate(&folder, &put, "x", &[("SECRET_KEY", "short")]));
    assert!(said.starts_with("the key for secrets is shorter than 32 characters"), "{said}");
    let said = refused(moongate(&folder, &["secrets", "rotate"], "", &[("SECRET_KEY", KEY)]));
    assert_eq!(said, "no old key: set OLD_SECRET_KEY, or give --old-key-file\n");
}

const WITH_SECRET: &str = "tokens: { hs256_secret: 'secret:jwt' }";

#[test]
fn us_016_a_secret_stands_where_the_configuration_names_it() {
    let folder = folder();
    let environment = [("SECRET_KEY", KEY)];
    let config = format!("{}\n{WITH_SECRET}\n", gateway::CONFIG);
    folder.write("conf/gateway.yaml", &config);
    let check = ["check", "--format", "json"];
    let faults = |output: Output| -> Vec<Value> { serde_json::from_str(&output.stdout).unwrap() };
    let fault = &faults(moongate(&folder, &check, "", &environment))[0];
    assert_eq!((&fault["path"], &fault["line"]), (&"/tokens/hs256_secret".into(), &7.into()));
    assert_eq!(fault["message"], "there is no secret `jwt`");
    assert_eq!(fault["help"], "keep it first: moongate secrets put jwt");
    assert!(!folder.path().join("data").exists(), "to look leaves nothing behind");

    done(moongate(&folder, &["secrets", "put", "jwt"], "canary-0123456789abcdef0123456789\n", &environment));
    done(moongate(&folder, &["check"], "", &environment));
    folder.write("conf/gateway.yaml", config.replace("secret:jwt", "secret:jtw"));
    let fault = &faults(moongate(&folder, &check, "", &environment))[0];
    assert_eq!(fault["help"], "did you mean `secret:jwt`?");
    folder.write("conf/gateway.yaml", &config);
    let fault = &faults(moongate(&folder, &check, "", &[("SECRET_KEY", OTHER_KEY)]))[0];
    let message = fault["message"].as_str().unwrap();
    assert!(message.starts_with("the secret `jwt` can't be had: the secret `jwt` was sealed with another key"));
    let fault = &faults(moongate(&folder, &check, "", &[]))[0];
    assert!(fault["message"].as_str().unwrap().contains("no key for secrets"));

    // Too short for a token's secret: what is said about it does not quote it.
    done(moongate(&folder, &["secrets", "put", "jwt"], "canary-9\n", &environment));
    let output = moongate(&folder, &check, "", &environment);
    assert!(output.stdout.contains("less than 32 bytes"), "{}", output.stdout);
    assert!(!output.stdout.contains("canary"), "{}", output.stdout);
}

#[test]
fn what_opens_the_store_is_not_kept_in_it_and_no_secret_stands_where_none_is_due() {
    let folder = folder();
    let config = format!("{}\nstore: {{ postgres: {{ url: 'secret:db' }} }}\n", gateway::CONFIG);
    folder.write("conf/gateway.yaml", config);
    let said = refused(moongate(&folder, &["check"], "", &[("SECRET_KEY", KEY)]));
    assert!(said.contains("what opens the store can't be kept in it"), "{said}");

    // Where no secret can stand the words would go out as they are: that is a fault, unless they can't be a name.
    let answer = |body: &str| {
        format!("{{ version: 1, routes: [{{ name: a, match: {{ path: / }}, respond: {{ body: '{body}' }} }}] }}")
    };
    let refused = Gateway::with(answer("secret:sauce")).start_refused();
    assert!(
        refused.stderr.contains("no secret can stand here") && refused.stderr.contains("1:72"),
        "{}",
        refused.stderr
    );
    assert_eq!(Gateway::start(answer("secret: sauce")).get("/").text(), "secret: sauce");
}

#[test]
fn us_016_2_a_running_gateway_shows_no_secret() {
    let config = format!("{}\n{WITH_SECRET}\nstore: {{}}\n", gateway::CONFIG);
    let builder = Gateway::with("{ version: 1, routes: [] }").config(config).env("SECRET_KEY", KEY);
    builder.folder().write("conf/gateway.yaml", gateway::CONFIG);
    let value = "canary-0123456789abcdef0123456789";
    done(moongate(builder.folder(), &["secrets", "put", "jwt"], value, &[("SECRET_KEY", KEY)]));
    let gateway = builder.start();
    for page in ["/admin/config", "/admin/routes", "/admin/upstreams", "/metrics"] {
        assert!(!gateway.admin_get(page).text().contains("canary"), "{page}");
    }
    assert!(gateway.log_lines().iter().all(|it| !it.text.contains("canary")));
}

/// A limit on the size of files stands for a full disk: the write fails in the middle.
#[test]
fn a_full_disk_is_told_and_leaves_nothing_half_done() {
    let folder = folder();
    done(moongate(&folder, &["users", "add", "ada", "--generate"], "", &[]));
    let size = std::fs::metadata(folder.path().join("data/moongate.db")).unwrap().len();
    let add = |name: &str, blocks: u64| {
        // The signal is ignored, so that the write itself fails.
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" users add {name} --generate");
        let shell = Path::new("/bin/sh");
        run(Command::new(shell).args(["-c", &script, env!("CARGO_BIN_EXE_moongate")]), &folder, "", &[])
    };
    let said = refused(add("bob", 1));
    assert!(said.starts_with("the store is not available: "), "{said}");
    assert_eq!(listed(&folder, "users").len(), 1, "nothing half done");
    done(add("bob", size / 512 + 1024));
    assert_eq!(listed(&folder, "users").len(), 2);
}

#[test]
fn the_same_commands_work_on_postgresql() {
    let mut server = Postgres::start();
    let folder = folder();
    let config = format!("{}\nstore: {{ postgres: {{ url: '${{DATABASE_URL}}' }} }}\n", gateway::CONFIG);
    folder.write("conf/gateway.yaml", config);
    let url = server.database();
    let environment = [("DATABASE_URL", &*url), ("SECRET_KEY", KEY)];
    done(moongate(&folder, &["users", "add", "ada", "--generate"], "", &environment));
    let table = done(moongate(&folder, &["users", "list"], "", &environment));
    assert!(table.contains("ada"), "{table}");
    done(moongate(&folder, &["secrets", "put", "one"], "x", &environment));
    server.stop();
    let said = refused(moongate(&folder, &["users", "list"], "", &environment));
    assert!(said.contains("refused"), "{said}");
}

//! Faulty files and what is reported about them, over types that look like the real ones.

use std::collections::BTreeMap;

use proptest::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{At, ByteSize, Diagnostics, Part, Percent, Period};

use super::*;

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    /// The version of the format.
    #[serde(default)]
    version: u8,
    #[serde(default)]
    upstreams: BTreeMap<String, Upstream>,
    #[serde(default)]
    policies: BTreeMap<String, Policy>,
    #[serde(default)]
    routes: Vec<Route>,
    #[serde(default)]
    state: Option<State>,
}

#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Upstream {
    discovery: Option<Discovery>,
    balance: Balance,
    health: Option<Health>,
    local: Option<String>,
    retries: Option<Retries>,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Discovery {
    /// Listed here.
    Static(Vec<Endpoint>),
    /// They register themselves.
    Registry(Empty),
    /// By name.
    Dns(Dns),
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum State {
    Memory {},
    Redis { url: String },
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Empty {}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Dns {
    name: String,
    port: u16,
    every: Option<Period>,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
enum Endpoint {
    Address(String),
    Full(FullEndpoint),
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FullEndpoint {
    address: String,
    #[serde(default)]
    weight: Option<u32>,
}

#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Balance {
    /// In turn.
    #[default]
    RoundRobin,
    /// The fastest.
    PeakEwma,
    ConsistentHash,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Health {
    http: String,
    every: Period,
    #[serde(default)]
    fail_after: Option<u32>,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Retries {
    #[schemars(range(min = 1, max = 10))]
    attempts: u32,
    budget: Option<Percent>,
    #[serde(default)]
    on: Vec<On>,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
enum On {
    Status(u16),
    Word(Word),
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Word {
    ConnectFailure,
    Timeout,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Policy {
    roles: Vec<String>,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Route {
    name: String,
    #[serde(rename = "match")]
    matching: Match,
    #[serde(default)]
    upstream: Option<String>,
    #[serde(default)]
    body_limit: Option<ByteSize>,
    #[serde(default)]
    even: Option<Even>,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Match {
    path: String,
    #[serde(default)]
    methods: Vec<Method>,
    #[serde(default)]
    websocket: bool,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Method {
    Get,
    Post,
}

/// Refuses in its own code what the schema lets through.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "u32")]
#[schemars(with = "u32")]
struct Even(u32);

impl TryFrom<u32> for Even {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        if number.is_multiple_of(2) { Ok(Self(number)) } else { Err(format!("{number} is odd")) }
    }
}

const WHOLE: &str = r#"# everything there is
version: 1
upstreams:
  players:
    discovery:
      static:
        - { address: "127.0.0.1:9101", weight: 2 }
        - 127.0.0.1:9102
    balance: peak_ewma
    health: { http: /health, every: 2s }
    retries: { attempts: 2, on: [connect_failure, 502, 503], budget: 20% }
  narratives: &base
    discovery: { registry: {} }
    balance: consistent_hash
  legacy:
    discovery: { dns: { name: "localhost", port: 9103, every: 10s } }
  other: { <<: *base, balance: round_robin }
  generate: { local: "${LOCAL:-generate}" }
policies:
  signed_in: { roles: [admin] }
state: { redis: { url: "${REDIS_URL}" } }
routes:
  - name: players
    match: { path: "/api/{*rest}", methods: [GET, POST] }
    upstream: players
    body_limit: 4096
  - name: plain
    match:
      path: /x
      websocket: ${WEBSOCKET:-true}
    even: 4
"#;

fn environment(name: &str) -> Option<String> {
    match name {
        "REDIS_URL" => Some("redis://user:hunter2@host".to_owned()),
        "WORD" => Some("hunter2".to_owned()),
        "NUMBER" => Some("12".to_owned()),
        _ => None,
    }
}

/// What a room would do: names must resolve, a route needs an upstream.
fn compile(file: &File, diagnostics: &mut Diagnostics) {
    let routes = At::ROOT.key("routes");
    for (index, route) in file.routes.iter().enumerate() {
        let at = routes.index(index);
        match &route.upstream {
            None => diagnostics.error(&at, "no upstream").help("write `upstream`"),
            Some(name) if !file.upstreams.contains_key(name) => {
                let diagnostic = diagnostics.error(&at.key("upstream"), format!("unknown `{name}`"));
                diagnostic.suggest(name, file.upstreams.keys().map(String::as_str));
            }
            Some(_) => {}
        }
    }
    let upstreams = At::ROOT.key("upstreams");
    for (name, upstream) in &file.upstreams {
        if upstream.discovery.is_none() && upstream.local.is_none() {
            diagnostics.error(&upstreams.key(name), "needs `discovery` or `local`");
        }
    }
}

fn faults(text: &str) -> Faults {
    let mut document = match Document::parse("routes.yaml", text, &schema_of::<File>(), &environment) {
        Ok(document) => document,
        Err(faults) => return faults,
    };
    let mut diagnostics = Diagnostics::default();
    let file: Option<File> = document.load(&mut diagnostics);
    if let Some(file) = file {
        compile(&file, &mut diagnostics);
    }
    document.place(&diagnostics)
}

/// Each line of `expected`: `line:column message | help`; fragments are enough.
#[track_caller]
fn check(text: &str, expected: &[(usize, usize, &str, &str)]) {
    let faults = faults(text);
    let shown = faults.render(false);
    assert_eq!(faults.len(), expected.len(), "{shown}");
    for (fault, (line, column, message, help)) in faults.iter().zip(expected) {
        assert_eq!((fault.line, fault.column), (*line, *column), "{shown}");
        assert!(fault.message.contains(message), "{message}\n{shown}");
        let told = fault.help.as_deref().unwrap_or_default();
        assert!(told.contains(help) && (told.is_empty() == help.is_empty()), "{help}\n{shown}");
    }
}

#[test]
fn a_whole_file_loads_with_nothing_to_tell() {
    let mut document = Document::parse("routes.yaml", WHOLE, &schema_of::<File>(), &environment).unwrap();
    let mut diagnostics = Diagnostics::default();
    let file: File = document.load(&mut diagnostics).unwrap();
    assert!(diagnostics.is_empty(), "{}", document.place(&diagnostics));
    assert_eq!(file.upstreams["generate"].local.as_deref(), Some("generate"));
    assert!(matches!(file.upstreams["other"].balance, Balance::RoundRobin));
    assert!(matches!(file.upstreams["other"].discovery, Some(Discovery::Registry(_))));
    assert!(file.routes[1].matching.websocket);
    assert!(matches!(file.state, Some(State::Redis { url }) if url.contains("hunter2")));
    assert!(!format!("{document:?}").contains("hunter2"));
}

#[test]
fn unknown_keys_are_told_at_the_key() {
    check("verison: 1", &[(1, 1, "unknown key `verison`", "did you mean `version`?")]);
    check("zebra: 1", &[(1, 1, "unknown key `zebra`", "known here: version, upstreams")]);
    check("upstreams:\n  a: { local: x, helth: {} }\n", &[(2, 18, "unknown key `helth`", "`health`")]);
    // That the route has no upstream now is not reported: it follows.
    check(
        "routes:\n  - name: a\n    match: { path: /, metods: [GET] }\n    upstraem: b\n",
        &[(3, 23, "`metods`", "`methods`"), (4, 5, "`upstraem`", "`upstream`")],
    );
}

#[test]
fn wrong_types_are_told_in_plain_words() {
    check("routes: all", &[(1, 9, "expected a list, found a text", "with a dash")]);
    check("upstreams: [a]", &[(1, 12, "expected a mapping, found a list", "")]);
    check("version: one", &[(1, 10, "expected a whole number, found a text", "")]);
    check("version: '1'", &[(1, 10, "expected a whole number, found a text", "without quotes")]);
    check("version: 1.5", &[(1, 10, "expected a whole number, found a number", "")]);
    check("upstreams:\n  a:\n    local: 5\n", &[(3, 12, "expected a text, found a whole", "quotes")]);
    check("[]", &[(1, 1, "expected a mapping, found a list", "`version: 1`")]);
    check("just text", &[(1, 1, "expected a mapping, found a text", "`version: 1`")]);
    check("routes: 5", &[(1, 9, "expected a list, found a whole number", "between `[` and `]`")]);
    check("routes:\n  name: a\n", &[(2, 3, "expected a list, found a mapping", "with a dash")]);
    check("state:\n", &[]);
    check(
        "upstreams:\n  a:\n  b: {}\n",
        &[(2, 3, "expected a mapping, found nothing", "indent"), (3, 6, "needs `discovery`", "")],
    );
    check("version:\n", &[(1, 1, "expected a whole number, found nothing", "")]);
}

#[test]
fn missing_keys_are_told_where_they_should_be() {
    check("upstreams:\n  a:\n    local: x\n    health: { http: / }\n", &[(4, 5, "missing key `every`", "")]);
    check("routes:\n  - name: a\n", &[(2, 5, "missing key `match`", ""), (2, 5, "no upstream", "write `upstream`")]);
    check("policies:\n  open: {}\n", &[(2, 3, "missing key `roles`", "")]);
}

#[test]
fn unknown_words_get_a_suggestion() {
    check(
        "upstreams:\n  a: { local: x, balance: peak_ewam }\n",
        &[(2, 27, "unknown word `peak_ewam`", "did you mean `peak_ewma`?")],
    );
    check("upstreams:\n  a: { local: x, balance: best }\n", &[(2, 27, "unknown word `best`", "known here: ")]);
    check(
        "routes:\n- { name: a, match: { path: /, methods: [GET, PSOT] }, upstream: a }\nupstreams: { a: { local: x } }",
        &[(2, 47, "unknown word `PSOT`", "`POST`")],
    );
    check(
        "upstreams:\n  a: { local: x, retries: { attempts: 1, on: [502, conect_failure, [], 99999] } }\n",
        &[
            (2, 52, "unknown word `conect_failure`", "`connect_failure`"),
            (2, 68, "expected a whole number or a text, found a list", ""),
            (2, 72, "must be at most 65535", ""),
        ],
    );
}

#[test]
fn quantities_and_ranges_say_what_is_expected() {
    check(
        "upstreams:\n  a:\n    local: x\n    health: { http: /, every: 5 sekonds }\n",
        &[(4, 31, "not a duration such as 500ms", "")],
    );
    check(
        "upstreams:\n  a:\n    local: x\n    health: { http: /, every: 5 }\n",
        &[(4, 31, "expected a duration such as 500ms", "write `5s` or `5ms`")],
    );
    check(
        "upstreams:\n  a:\n    local: x\n    retries: { attempts: 11, budget: 200% }\n",
        &[(4, 26, "must be at most 10", ""), (4, 38, "not a share such as 20%", "")],
    );
    check("upstreams: { a: { local: x, retries: { attempts: 5000000000 } } }", &[(1, 50, "must be at most 10", "")]);
    check(
        "upstreams: { a: { local: x } }\nroutes: [{ name: a, match: { path: / }, upstream: a, body_limit: 1TB }]",
        &[(2, 66, "not a size in bytes", "")],
    );
}

#[test]
fn the_branch_that_was_meant_is_explained() {
    check(
        "upstreams:\n  a: { discovery: { statik: [] } }\n",
        &[(2, 21, "unknown key `statik`", "did you mean `static`?")],
    );
    check("upstreams:\n  a: { discovery: {} }\n", &[(2, 19, "one of `static`, `registry`, `dns`", "")]);
    check(
        "upstreams:\n  a: { discovery: { registry: {}, static: [] } }\n",
        &[(2, 35, "`static` next to `registry`", "")],
    );
    check(
        "upstreams:\n  a: { discovery: { dns: { name: x, prot: 1 } } }\n",
        &[(2, 21, "missing key `port`", ""), (2, 37, "unknown key `prot`", "`port`")],
    );
    check("upstreams:\n  a: { discovery: registry }\n", &[(2, 19, "unknown word `registry`", "mapping")]);
    check("upstreams:\n  a: { discovery: 5 }\n", &[(2, 19, "expected a mapping, found a whole", "`{ static: ... }`")]);
    check(
        "upstreams:\n  a: { discovery: { static: [x, { addres: y }, 7, { address: z, weight: heavy }] } }\n",
        &[
            (2, 33, "missing key `address`", ""),
            (2, 35, "unknown key `addres`", "`address`"),
            (2, 48, "expected a text or a mapping, found a whole number", "quotes"),
            (2, 73, "expected a whole number, found a text", ""),
        ],
    );
    check("state: { redis: { ulr: x } }", &[(1, 10, "missing key `url`", ""), (1, 19, "unknown key `ulr`", "`url`")]);
}

#[test]
fn several_faults_are_told_at_once_and_the_rest_is_still_checked() {
    let text = "\
version: 300
upstreams:
  players: { local: x, balance: fast }
  broken: 5
routes:
  - name: one
  - name: two
    match: { path: / }
    upstream: plaiers
  - just text
  - name: three
    match: { path: / }
    upstream: broken
  - name: four
    match: { path: / }
";
    check(
        text,
        &[
            (1, 10, "must be at most 255", ""),
            (3, 33, "unknown word `fast`", "known here"),
            (4, 11, "expected a mapping, found a whole number", "known in it: "),
            (6, 5, "missing key `match`", ""),
            // What is missing hides nothing else that is wrong with the route.
            (6, 5, "no upstream", "write `upstream`"),
            // Elements were cut before this one and the last: their places are still right.
            (9, 15, "unknown `plaiers`", "did you mean `players`?"),
            (10, 5, "expected a mapping, found a text", "`{ name: ..., match: ... }`"),
            (14, 5, "no upstream", "write `upstream`"),
        ],
    );
}

#[test]
fn what_the_types_own_code_refuses_has_a_place_too() {
    let text = "\
upstreams: { a: { local: x } }
routes:
  - { name: a, match: { path: / }, upstream: a, even: 2 }
  - { name: b, match: { path: / }, upstream: a, even: 3 }
  - { name: c, match: { path: / }, upstream: a, even: 3 }
  - { name: d, match: { path: / }, upstream: b, even: 5000000000 }
";
    check(
        text,
        &[(4, 55, "3 is odd", ""), (5, 55, "3 is odd", ""), (6, 46, "unknown `b`", "`a`"), (6, 55, "5000000000", "")],
    );
}

#[test]
fn a_fault_in_a_value_that_is_needed_hides_nothing_beside_it() {
    check(
        "routes:\n  - { name: 5, match: { path: [], methods: [PSOT] }, upstream: a, even: 3 }\n",
        &[
            (2, 13, "expected a text, found a whole number", "quotes"),
            (2, 31, "expected a text, found a list", ""),
            (2, 45, "unknown word `PSOT`", "`POST`"),
            (2, 64, "unknown `a`", ""),
            (2, 73, "3 is odd", ""),
        ],
    );
}

#[test]
fn a_variable_that_nothing_fills_in_is_told_and_its_text_is_not_repeated() {
    check("state: { redis: { url: $REDIS_URL } }", &[(1, 24, "without braces", "`\"${NAME}\"`")]);
    check("upstreams:\n  \"${A}\": { local: x }\n", &[(2, 3, "a variable in a name", "values only")]);
    check("upstreams: { a: { local: \"$lower $5 a$B $$ $5\" } }", &[]);
}

#[test]
fn what_is_not_yaml_has_a_place() {
    check("", &[(1, 1, "empty", "write `{}`")]);
    check("# only words\n", &[(1, 1, "empty", "write `{}`")]);
    check("a: [1\nb: 2\n", &[(2, 2, "not YAML", "line 1 opens a `[`")]);
    check("version: 1\n\troutes: []\n", &[(1, 10, "not YAML", "tabs")]);
    check("version: 1\n---\nversion: 2\n", &[(2, 1, "second document", "`---`")]);
    check("version: *one\n", &[(1, 10, "not YAML", "`\"*one\"`")]);
    check("version: &a [*a]\n", &[(1, 14, "an alias inside of what it stands for", "")]);
    check("state: { redis: { url: ${REDIS_URL} } }", &[(1, 25, "not YAML", "in quotes")]);
}

#[test]
fn odd_keys_and_tags_do_not_hide_the_rest() {
    check(
        "version: 1\nversion: 2\nversion: 3\nzebra: 1\n",
        &[
            (2, 1, "`version` is there twice", "line 1"),
            (3, 1, "`version` is there twice", "line 1"),
            (4, 1, "unknown key", "known"),
        ],
    );
    check(
        "upstreams:\n  1: { local: x, b: 1 }\n",
        &[(2, 3, "a key must be a text", "`\"1\"`"), (2, 18, "unknown key `b`", "known here")],
    );
    check("[a]: 1\nversion: x\n", &[(1, 1, "a key must be a text", ""), (2, 10, "expected", "")]);
    check("version: !odd 1\n", &[(1, 15, "a tag", "leave")]);
    check("version: !!int '1'\n", &[]);
}

#[test]
fn merged_values_are_told_where_they_are_written() {
    let text = "\
upstreams:
  a: &a
    local: x
    balance: fast
  b:
    <<: *a
    helth: {}
";
    check(
        text,
        &[(4, 14, "unknown word `fast`", ""), (7, 5, "unknown key `helth`", "`health`")].map(
            |(line, column, message, help)| (line, column, message, if help.is_empty() { "known here" } else { help }),
        ),
    );
    check("upstreams:\n  a: { <<: 5 }\n", &[(2, 12, "only a mapping can be merged", "`<<: *name`")]);
}

#[test]
fn the_environment_is_filled_in_and_what_is_missing_told() {
    check(
        "upstreams:\n  a: { local: \"x-${MISSING}\" }\n",
        &[(2, 18, "the environment has no `MISSING`", "set it, or write a default")],
    );
    check("version: ${NUMBER}", &[]);
    check("version: \"${NUMBER}\"", &[]);
    check("upstreams:\n  a:\n    local: ${NUMBER}\n", &[]);
    check("version: \"${NO_NUMBER:-two}\"", &[(1, 10, "expected a whole number, found a text", "")]);
    check("version: ${NUMBER:-x", &[(1, 10, "without its `}`", "`$${`")]);
    check("upstreams:\n  a:\n    local: |\n      one\n      two ${MISSING}\n", &[(5, 11, "no `MISSING`", "default")]);
}

#[test]
fn a_value_from_the_environment_is_never_shown() {
    let text = "\
upstreams:
  a: { local: x, balance: \"${WORD}\" }
routes:
  - { name: a, match: { path: / }, upstream: \"${WORD}\" }
  - { name: b, match: { path: / }, upstream: \"${REDIS_URL}/x\" }
  - { name: c, match: { path: / }, upstream: a, body_limit: \"${WORD}\" }
";
    let faults = faults(text);
    assert_eq!(faults.len(), 4, "{faults}");
    let json = serde_json::to_string(&faults).unwrap();
    assert!(!faults.to_string().contains("hunter2") && !json.contains("hunter2"), "{faults}");
}

#[test]
fn a_word_of_a_secret_is_hidden_in_a_rooms_message_about_it() {
    let text = "state: { redis: { url: \"${REDIS_URL}\" } }\n";
    let mut document = Document::parse("gateway.yaml", text, &schema_of::<File>(), &environment).unwrap();
    let mut diagnostics = Diagnostics::default();
    document.load::<File>(&mut diagnostics).unwrap();
    let message = "no host called user:hunter2@host is known".to_owned();
    diagnostics.push("/state/redis/url".to_owned(), Part::Value, message);
    let faults = document.place(&diagnostics);
    assert_eq!(faults.iter().next().unwrap().message, "no ... called ... is known");
}

#[test]
fn what_is_too_large_or_too_deep_is_refused_before_it_is_expanded() {
    let deep = |depth: usize| format!("a: {}{}", "[".repeat(depth), "]".repeat(depth));
    check(&deep(64), &[(1, 67, "nested more than 64", "")]);
    check(&deep(100_000), &[(1, 259, "nested more than 64", "")]);
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..20 {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    let faults = faults(&bomb);
    assert!(faults.iter().next().unwrap().message.contains("too large"), "{faults}");
    let text = format!("version: {}", "1".repeat(5 << 20));
    check(&text, &[(1, 1, "larger than 4 MiB", "")]);
}

#[test]
fn columns_count_characters_and_line_ends_do_not_matter() {
    check("upstreams:\r\n  ä: { local: \"öö\", helth: 1 }\r\n", &[(2, 21, "unknown key", "`health`")]);
    check("\u{feff}zebra: 1\n", &[(1, 1, "unknown key", "known")]);
}

#[test]
fn a_file_is_shown_as_rustc_would() {
    let text = "upstreams:\n  a: { local: x, helth: {} }\nversion: one\n";
    let expected = "\
error: unknown key `helth`
 --> routes.yaml:2:18
  |
2 |   a: { local: x, helth: {} }
  |                  ^^^^^
  |
  = help: did you mean `health`?

error: expected a whole number, found a text
 --> routes.yaml:3:10
  |
3 | version: one
  |          ^^^

2 faults in routes.yaml";
    assert_eq!(faults(text).to_string(), expected);
}

#[test]
fn the_schema_is_stable_and_names_itself() {
    let schema = schema_of::<File>();
    let keys: Vec<&String> = schema.as_object().unwrap().keys().collect();
    assert_eq!(keys[..2], ["$schema", "title"]);
    assert_eq!(schema["title"], "File");
    let definitions: Vec<&String> = schema["$defs"].as_object().unwrap().keys().collect();
    assert!(definitions.is_sorted());
    assert_eq!(schema.to_string(), schema_of::<File>().to_string());
}

#[test]
fn a_file_that_is_not_there_or_not_text_is_a_fault() {
    let directory = std::env::temp_dir().join(format!("moongate-{}", fastrand::u64(..)));
    std::fs::create_dir(&directory).unwrap();
    let path = directory.join("routes.yaml");
    let missing = Document::read(&path, &schema_of::<File>(), &environment).unwrap_err();
    assert!(missing.iter().next().unwrap().message.contains("cannot be read"));
    std::fs::write(&path, b"version: 1\nname: \xff\n").unwrap();
    let garbled = Document::read(&path, &schema_of::<File>(), &environment).unwrap_err();
    let fault = garbled.iter().next().unwrap();
    assert_eq!((fault.line, fault.column), (2, 7));
    std::fs::remove_dir_all(&directory).unwrap();
}

/// A valid file with pieces removed, repeated and replaced.
fn mutated() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(""),
        Just(" "),
        Just("\t"),
        Just("\n"),
        Just("- "),
        Just(": "),
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just("*base"),
        Just("&x "),
        Just("<<: "),
        Just("!t "),
        Just("${"),
        Just("\""),
        Just("'"),
        Just("5"),
        Just("null"),
        Just("ä"),
        Just("? "),
        Just("| "),
        Just("---\n"),
        Just(".inf"),
        Just("\u{0}"),
        Just("%YAML"),
        Just("1: "),
    ];
    let cut = (0..WHOLE.len(), 0..12usize, piece);
    proptest::collection::vec(cut, 1..6).prop_map(|cuts| {
        let mut text: Vec<char> = WHOLE.chars().collect();
        for (at, length, piece) in cuts {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, piece.chars());
        }
        text.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn no_text_makes_it_panic(text in "(\\PC|[\\n\\t :{}\\[\\]&*!|>'\"%@`#,?-]){0,120}") {
        let _ = faults(&text).render(false);
    }

    #[test]
    fn no_change_of_a_valid_file_makes_it_panic(text in mutated()) {
        let faults = faults(&text);
        let _ = faults.render(true);
        for fault in faults.iter() {
            prop_assert!(fault.line >= 1 && fault.column >= 1);
        }
    }
}

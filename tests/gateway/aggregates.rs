//! One request, several upstreams, one answer (R1.5).

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::accounts::moongate;
use crate::support::upstream::answer_bytes;
use crate::support::*;

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

/// A route `dashboard` of `player`, which is required, and `story`, which is not.
fn routes(player: SocketAddr, story: SocketAddr, more: &str) -> String {
    format!(
        "version: 1
upstreams:
  players: {{ discovery: {{ static: [\"{player}\"] }} }}
  stories: {{ discovery: {{ static: [\"{story}\"] }} }}
routes:
  - name: dashboard
    match: {{ path: \"/api/v1/dashboard/{{player}}\", methods: [GET] }}
    aggregate:
      player: {{ upstream: players, path: \"/players/{{player}}\", required: true, timeout: 2s }}
      story: {{ upstream: stories, path: \"/stories?player={{player}}\", timeout: 300ms, max: 1KiB }}
{more}
"
    )
}

fn players() -> RawUpstream {
    RawUpstream::start(|_| Script::answer(200, JSON, r#"{"id": 7, "exact": 12345678901234567890.10}"#))
}

/// The answer where the story's upstream behaves so.
#[track_caller]
fn with_story(behaviour: impl Fn(&Request) -> Script + Send + Sync + 'static) -> (Response, Value) {
    let (player, story) = (players(), RawUpstream::start(behaviour));
    let gateway = Gateway::start(routes(player.address(), story.address(), ""));
    let answer = gateway.get("/api/v1/dashboard/7");
    let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
    let result = line["parts"]["story"]["result"].as_str().unwrap_or_default().to_owned();
    let labels = format!("part=\"story\",result=\"{result}\",route=\"dashboard\"");
    assert_eq!(figure(&gateway, &format!("moongate_aggregate_parts_total{{{labels}}}")), Some(1.0), "{line}");
    (answer, line)
}

#[test]
fn r1_5_the_parts_are_asked_at_once_and_merged_as_they_were_written() {
    let both = [Signal::new(), Signal::new()];
    let [asked_player, asked_story] = both.clone();
    // Neither answers before the other was asked: one after the other would take for ever.
    let (a, b) = (asked_player.clone(), asked_story.clone());
    let player = RawUpstream::start(move |_| {
        let body = r#" {"id": 7, "exact": 12345678901234567890.10, "b": 1, "a": 2}"#;
        Script::new().give(&a).wait(&b).send(answer_bytes(200, JSON, body.as_bytes()))
    });
    let (a, b) = (asked_player, asked_story);
    let story =
        RawUpstream::start(move |_| Script::new().give(&b).wait(&a).send(answer_bytes(200, JSON, b"[1,null]\n")));
    let text = routes(player.address(), story.address(), "").replace("300ms", "9s").replace("2s", "9s");
    let gateway = Gateway::start(text);
    let fields = [("authorization", "Bearer x"), ("cookie", "a=1"), ("if-none-match", "\"a\""), ("range", "bytes=0-1")];
    let answer = gateway.request("GET", "/api/v1/dashboard/7?page=2", &fields, b"");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let exact = r#"{"player":{"id": 7, "exact": 12345678901234567890.10, "b": 1, "a": 2},"story":[1,null],"_meta":{"partial":false,"failed":{}}}"#;
    assert_eq!(answer.text(), exact);
    let seen = |it: &RawUpstream| String::from_utf8(it.requests().remove(0)).unwrap().to_lowercase();
    let (player, story) = (seen(&player), seen(&story));
    assert!(
        player.starts_with("get /players/7 http/1.1\r\n") && story.starts_with("get /stories?player=7 http/1.1\r\n")
    );
    let id = answer.header("x-request-id").unwrap();
    for seen in [player, story] {
        assert!(seen.contains("authorization: bearer x\r\n") && seen.contains("cookie: a=1\r\n"), "{seen}");
        assert!(seen.contains(&format!("x-request-id: {id}")), "{seen}");
        assert!(!seen.contains("if-none-match") && !seen.contains("range:"), "{seen}");
    }
    let line = gateway.access_log_for(id);
    assert_eq!((&line["upstream"], &line["parts"]["player"]["result"]), (&json!("aggregate"), &json!("ok")), "{line}");
}

#[test]
fn r1_5_an_optional_part_that_is_missing_is_null_and_said_in_the_metadata() {
    let long = format!("\"{}\"", "x".repeat(2_000));
    type Behaviour = Box<dyn Fn(&Request) -> Script + Send + Sync>;
    let cases: Vec<(&str, Behaviour)> = vec![
        ("timeout", Box::new(|_| Script::silence())),
        (
            "timeout",
            Box::new(|_| {
                Script::new()
                    .send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n[1,")
                    .await_close()
            }),
        ),
        ("broken_off", Box::new(|_| Script::cut_length(100, "[1,"))),
        ("broken_off", Box::new(|_| Script::new().send("no HTTP at all\r\n\r\n"))),
        ("not_json", Box::new(|_| Script::answer(200, &[("content-type", "text/html")], "[1]"))),
        ("not_json", Box::new(|_| Script::answer(200, JSON, "[1,"))),
        ("not_json", Box::new(|_| Script::answer(200, JSON, "[1] [2]"))),
        ("not_json", Box::new(|_| Script::answer(200, JSON, "\"\u{0}\""))),
        ("not_json", Box::new(|_| Script::answer(200, JSON, ""))),
        ("not_json", Box::new(|_| Script::answer(200, &[JSON[0], ("content-encoding", "gzip")], "[1]"))),
        ("too_large", Box::new(move |_| Script::answer(200, JSON, &long))),
        ("status", Box::new(|_| Script::answer(503, JSON, "{}"))),
        ("status", Box::new(|_| Script::answer(302, &[("location", "/")], ""))),
    ];
    for (reason, behaviour) in cases {
        let (answer, line) = with_story(behaviour);
        let body = answer.json();
        assert_eq!((answer.status, &body["player"]["id"], &body["story"]), (200, &json!(7), &Value::Null), "{reason}");
        assert_eq!(
            (&body["_meta"]["partial"], &body["_meta"]["failed"]["story"]["reason"]),
            (&json!(true), &json!(reason))
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"), "half an answer is not kept");
        assert_eq!(line["parts"]["player"]["result"], "ok");
        assert_eq!(body["_meta"]["failed"]["story"]["status"].is_u64(), reason == "status", "{body}");
    }
}

#[test]
fn r1_5_without_a_required_part_there_is_no_answer_but_the_one_that_says_why() {
    let story = RawUpstream::start(|_| Script::answer(200, JSON, "[]"));
    let ask = |player: SocketAddr| {
        let gateway = Gateway::start(routes(player, story.address(), "").replace("2s", "500ms"));
        gateway.get("/api/v1/dashboard/7")
    };
    let missing = RawUpstream::start(|_| Script::answer(404, JSON, r#"{"no": "such player"}"#));
    let answer = ask(missing.address());
    assert_eq!((answer.status, answer.json()), (404, json!({ "no": "such player" })), "the part's own answer");
    let code = |answer: &Response| answer.json()["error"]["code"].as_str().unwrap().to_owned();
    let answer = ask(nobody());
    assert_eq!((answer.status, code(&answer).as_str()), (502, "upstream_unreachable"));
    let html = RawUpstream::start(|_| Script::ok("<html>"));
    let answer = ask(html.address());
    assert_eq!((answer.status, code(&answer).as_str()), (502, "upstream_protocol_error"));
    let silent = RawUpstream::start(|_| Script::silence());
    assert_eq!(ask(silent.address()).status, 504);
}

#[test]
fn r1_5_a_client_that_leaves_ends_the_parts() {
    let [player, story] = [(); 2].map(|()| RawUpstream::start(|_| Script::new().await_close()));
    let text = routes(player.address(), story.address(), "").replace("2s", "20s").replace("300ms", "20s");
    let gateway = Gateway::start(text);
    let mut client = RawClient::connect(gateway.public());
    client.send("GET /api/v1/dashboard/7 HTTP/1.1\r\nhost: a\r\n\r\n");
    player.wait_for_requests(1);
    story.wait_for_requests(1);
    drop(client);
    player.wait_for_closed(1);
    story.wait_for_closed(1);
}

#[test]
fn r1_5_an_aggregated_answer_is_cached_whole_and_never_in_part() {
    let failing = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let fails = failing.clone();
    let story = RawUpstream::start(move |_| {
        let status = if fails.load(std::sync::atomic::Ordering::SeqCst) { 500 } else { 200 };
        Script::answer(status, JSON, "[]")
    });
    let player = players();
    let gateway = Gateway::start(routes(player.address(), story.address(), "    cache: { ttl: 1h }"));
    let get = || gateway.get("/api/v1/dashboard/7").header("x-cache").unwrap().to_owned();
    assert_eq!([get(), get()], ["miss", "miss"]);
    failing.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!([get(), get()], ["miss", "hit"]);
    let head = gateway.request("HEAD", "/api/v1/dashboard/7", &[], b"");
    assert_eq!((head.status, head.header("x-cache")), (200, Some("hit")));
}

#[test]
fn r1_5_aggregates_are_explained_and_faults_say_what_to_do() {
    let folder = Folder::new();
    folder.write("gateway.yaml", gateway::CONFIG);
    let [one, two] = [1, 2].map(|it| SocketAddr::from(([127, 0, 0, 1], it)));
    folder.write("routes.yaml", routes(one, two, ""));
    let files = ["--config", "gateway.yaml", "--routes", "routes.yaml"];
    let explain = ["explain", "GET", "/api/v1/dashboard/7"];
    let run = moongate(&folder, &[&explain[..], &files[..]].concat(), "", &[]);
    assert!(run.stdout.contains("aggregate player of players (required), story of stories"), "{}", run.stdout);
    folder.write(
        "routes.yaml",
        "version: 1
upstreams: { a: { discovery: { static: [\"127.0.0.1:1\"] } } }
routes:
  - { name: one, match: { path: /1 }, aggregate: { a: { upstream: a, path: /x } } }
  - { name: two, match: { path: /2, methods: [GET] }, aggregate: {} }
  - name: three
    match: { path: \"/3/{id}\", methods: [GET] }
    rewrite: { path: /x }
    aggregate:
      _meta: { upstream: a, path: /x }
      b: { upstream: none, path: x }
      c: { upstream: a, path: \"/{ids}\", timeout: 0s }
      d: { upstream: a, path: /x, max: 1GiB }
",
    );
    let run = moongate(&folder, &[&["check"][..], &files[..]].concat(), "", &[]);
    assert_eq!(run.code, 1);
    for said in [
        "several upstreams can answer GET together",
        "an answer has 1 to 16 parts",
        "the parts have paths of their own",
        "not a name for a part",
        "no upstream `none`",
        "a path begins with a slash",
        "the path captures no `ids`",
        "nothing is that quick",
        "not within 1 byte and 16MiB",
    ] {
        assert!(run.stderr.contains(said), "{said}\n{}", run.stderr);
    }
}

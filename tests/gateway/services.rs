//! Local services that call upstreams, and their settings: shown with `echo`.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};

use crate::http2::H2Upstream;
use crate::support::tokens::{SECRET, token};
use crate::support::upstream::{chunk, chunked_head};
use crate::support::*;

/// Routes `/` to the upstream `echo`; `upstreams` are written one a line.
fn routes(upstreams: &[&str], route: &str) -> String {
    let upstreams: String = upstreams.iter().map(|it| format!("  {it}\n")).collect();
    format!(
        "version: 1\nupstreams:\n{upstreams}routes:\n  \
         - {{ name: seen, match: {{ path: \"/{{*rest}}\" }}, upstream: echo, {route} }}\n"
    )
}

fn fixed(name: &str, addresses: &[SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(|it| format!("{:?}", it.to_string())).collect();
    format!("{name}: {{ discovery: {{ static: [{}] }} }}", addresses.join(", "))
}

const ECHO: &str = "echo: { local: echo }";
const ASKING: &str = "echo: { local: echo, settings: { upstream: back } }";

fn code(answer: &Response) -> (u16, String) {
    (answer.status, answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn echo_tells_what_arrived_and_hides_credentials() {
    let rewrite = "rewrite: { path: \"/inner/{rest}\", headers: { set: { x-added: \"1\" } } }";
    let gateway = Gateway::start(routes(&[ECHO], rewrite));
    let fields = [("authorization", "Bearer sesame"), ("cookie", "a=sesame"), ("x-a", "1"), ("x-api-key", "sesame")];
    let answer = gateway.request("POST", "/a?b=c", &fields, b"12345");
    let told = answer.json();
    assert_eq!(answer.status, 200);
    assert_eq!((&told["method"], &told["path"], &told["query"]), (&json!("POST"), &json!("/inner/a"), &json!("b=c")));
    assert_eq!((&told["body_bytes"], &told["upstream"], &told["route"]), (&json!(5), &Value::Null, &json!("seen")));
    assert_eq!(told["request_id"].as_str(), answer.header("x-request-id"));
    let headers = &told["headers"];
    assert_eq!((&headers["x-a"], &headers["x-added"]), (&json!(["1"]), &json!(["1"])));
    assert_eq!(headers["x-forwarded-for"], json!(["127.0.0.1"]));
    assert!(!answer.text().contains("sesame"), "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(gateway.access_log_for(answer.header("x-request-id").unwrap())["route"], "seen");
}

#[test]
fn a_service_refuses_as_the_gateway_does() {
    let gateway = Gateway::start(routes(&["echo: { local: echo, settings: { max_body: 4B } }"], ""));
    assert_eq!(gateway.request("POST", "/", &[], b"1234").status, 200);
    let answer = gateway.request("POST", "/", &[], b"12345");
    assert_eq!(code(&answer), (413, "body_too_large".to_owned()));
    assert_eq!(answer.json()["error"]["details"]["limit_bytes"], 4);
    let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
    assert_eq!((&line["error"], &line["end"]), (&json!("body_too_large"), &json!("refused")));
}

#[test]
fn a_called_upstream_learns_who_asks() {
    let upstream = RawUpstream::start(|_| Script::new().read_body().send(upstream::answer_bytes(404, &[], b"gone")));
    let config = format!("{}threads: 1\ntokens: {{ hs256_secret: \"${{PROXY_JWT_SECRET}}\" }}\n", gateway::CONFIG);
    let text = routes(&[ASKING, &fixed("back", &[upstream.address()])], "auth: { jwt: {} }");
    let gateway = Gateway::with(text).config(config).env("PROXY_JWT_SECRET", SECRET).start();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let bearer = format!("Bearer {}", token("ada", &["player"]));
    let fields = [
        ("host", "api.example.org"),
        ("authorization", &*bearer),
        ("traceparent", parent),
        ("x-moongate-subject", "forged"),
    ];
    let answer = gateway.request("PUT", "/a?b", &fields, b"body");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let expected = json!({ "name": "back", "status": 404, "body_bytes": 4, "whole": true });
    assert_eq!(answer.json()["upstream"], expected);
    let requests = upstream.requests();
    let asked = Request { head: requests[0].clone(), connection: 0, turn: 0, number: 0 };
    assert_eq!((asked.method(), asked.target()), ("PUT".to_owned(), "/a?b".to_owned()));
    let said = |name: &str| asked.header(name).unwrap_or_default();
    assert_eq!(Some(&*said("x-request-id")), answer.header("x-request-id"));
    assert_eq!((said("x-moongate-subject"), said("x-moongate-roles")), ("ada".to_owned(), "player".to_owned()));
    assert!(said("traceparent").starts_with(&parent[..36]) && said("traceparent") != parent);
    assert_eq!((said("x-forwarded-host"), said("content-length")), ("api.example.org".to_owned(), "4".to_owned()));
    assert!(String::from_utf8_lossy(&requests[0]).ends_with("body"));
    // The connection serves again.
    assert_eq!(gateway.request("GET", "/", &fields, b"").status, 200);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn calls_are_tried_again_and_fail_as_those_of_clients() {
    let well = RawUpstream::start(|request| match request.number {
        0 => Script::ok("served"),
        _ => Script::new().read_body().close(),
    });
    let one = Gateway::start(routes(&[ASKING, &fixed("back", &[nobody(), well.address()])], ""));
    // What never arrived goes elsewhere, whatever its method, with its body.
    let answer = one.request("POST", "/", &[], b"body");
    assert_eq!((answer.status, &answer.json()["upstream"]["status"]), (200, &json!(200)), "{}", answer.text());
    let none = Gateway::start(routes(&[ASKING, &fixed("back", &[nobody()])], ""));
    assert_eq!(code(&none.get("/")), (502, "upstream_unreachable".to_owned()));
    // What may have arrived is not sent again, unless that does no harm.
    let breaks = Gateway::start(routes(&[ASKING, &fixed("back", &[well.address()])], ""));
    let before = well.requests().len();
    assert_eq!(code(&breaks.request("POST", "/", &[], b"x")), (502, "upstream_closed".to_owned()));
    assert_eq!(well.requests().len(), before + 1);
    assert_eq!(code(&breaks.get("/")), (502, "upstream_closed".to_owned()));
    assert_eq!(well.requests().len(), before + 1 + 1, "nor to the endpoint that failed");
}

#[test]
fn an_upstream_of_http2_is_called_as_well() {
    let upstream = H2Upstream::answering(b"answer".to_vec(), &[]);
    let back = fixed("back", &[upstream.address]).replace("{ discovery", "{ protocol: http2, discovery");
    let answer = Gateway::start(routes(&[ASKING, &back], "")).request("POST", "/a", &[("host", "a.test")], b"body");
    assert_eq!(answer.json()["upstream"]["body_bytes"], 6, "{}", answer.text());
    let heads = upstream.book.heads.lock().unwrap();
    assert_eq!((heads[0].method.as_str(), heads[0].uri.path()), ("POST", "/a"));
    assert_eq!(heads[0].headers["x-request-id"], answer.header("x-request-id").unwrap());
    assert_eq!(upstream.book.bodies.lock().unwrap()[0].0, b"body");
}

#[test]
fn the_routes_time_bounds_a_call() {
    let silent = RawUpstream::start(|_| Script::silence());
    let text = routes(&[ASKING, &fixed("back", &[silent.address()])], "timeouts: { first_byte: 200ms }");
    assert_eq!(code(&Gateway::start(text).get("/")), (504, "upstream_timeout".to_owned()));
}

#[test]
fn a_called_upstreams_body_streams() {
    // It never ends: whoever waited for the whole of it would wait in vain.
    let upstream = RawUpstream::start(|_| Script::new().send(chunked_head(200)).send(chunk(b"123456")).await_close());
    let echo = "echo: { local: echo, settings: { upstream: back, max_body: 5B } }";
    let gateway = Gateway::start(routes(&[echo, &fixed("back", &[upstream.address()])], ""));
    let told = gateway.get("/").json();
    assert_eq!(told["upstream"], json!({ "name": "back", "status": 200, "body_bytes": 6, "whole": false }));
    // What is not read to its end is closed.
    upstream.wait_for_closed(1);
}

#[test]
fn services_call_one_another_but_not_in_circles() {
    let chain = |last: usize| -> Vec<String> {
        let mut chain = vec!["echo: { local: echo, settings: { upstream: s1 } }".to_owned()];
        chain.extend((1..last).map(|it| format!("s{it}: {{ local: echo, settings: {{ upstream: s{} }} }}", it + 1)));
        chain.push(format!("s{last}: {{ local: echo }}"));
        chain
    };
    let start = |chain: &[String]| Gateway::start(routes(&chain.iter().map(String::as_str).collect::<Vec<_>>(), ""));
    assert_eq!(start(&chain(8)).get("/").status, 200);
    assert_eq!(code(&start(&chain(9)).get("/")), (508, "call_loop".to_owned()));
    let circle = Gateway::start(routes(&["echo: { local: echo, settings: { upstream: echo } }"], ""));
    assert_eq!(code(&circle.get("/")), (508, "call_loop".to_owned()));
    assert_eq!(circle.wait_for_event("call_loop", |_| true)["upstream"], "echo");
}

#[test]
fn faults_in_settings_have_a_place() {
    let folder = Folder::new();
    folder.write("conf/gateway.yaml", gateway::CONFIG);
    for (upstream, at, message) in [
        ("echo: { local: echo, settings: { max_bodi: 1B } }", "max_bodi", "unknown key `max_bodi`"),
        ("echo: { local: echo, settings: { max_body: lots } }", "lots", "a size in bytes"),
        ("echo: { local: echo, settings: { upstream: bakc } }", "bakc", "no upstream `bakc`"),
        ("echo: { local: echo, settings: 7 }", "7", "expected a mapping"),
        ("echo: { local: health, settings: { max_body: 1B } }", "max_body", "unknown key `max_body`"),
        ("echo: { local: files }", "files }", "the settings of `files`: missing field `root`"),
        ("echo: { local: files, settings: { root: conf, indx: a } }", "indx", "unknown key `indx`"),
        ("echo: { files: { root: conf, indx: a } }", "indx", "unknown key `indx`"),
        ("echo: { files: { root: nowhere } }", "nowhere", "no folder `nowhere`"),
        ("echo: { files: { root: conf }, settings: {} }", "settings", "only a local service has settings"),
    ] {
        folder.write("routes.yaml", routes(&[upstream, &fixed("back", &[nobody()])], ""));
        let place = format!("routes.yaml:3:{}\n", 3 + upstream.find(at).unwrap());
        let check = Command::new(env!("CARGO_BIN_EXE_moongate")).arg("check").current_dir(folder.path()).output();
        let told = String::from_utf8(check.unwrap().stderr).unwrap();
        assert!(told.contains(message) && told.contains(&place), "{upstream}\n{told}");
        assert_eq!(told.matches("error:").count(), 1, "{told}");
    }
}

#[test]
fn a_reload_changes_settings() {
    let upstream = RawUpstream::start(|_| Script::ok("served"));
    let back = fixed("back", &[upstream.address()]);
    let gateway = Gateway::start(routes(&[ECHO, &back], ""));
    assert_eq!(gateway.get("/").json()["upstream"], Value::Null);
    gateway.replace_routes(&routes(&[ASKING, &back], ""));
    let reloaded = gateway.wait_for_event("reloaded", |_| true);
    assert_eq!(reloaded["upstreams"], "echo");
    assert_eq!(gateway.get("/").json()["upstream"]["status"], 200);
    // What does not compile leaves what served.
    gateway.replace_routes(&routes(&[ECHO], "").replace("local: echo", "local: echo, settings: { upstream: gone }"));
    gateway.wait_for_event("reload_refused", |_| true);
    assert_eq!(gateway.get("/").json()["upstream"]["status"], 200);
}

#[test]
fn an_idempotent_request_calls_upstreams_too() {
    let upstream = RawUpstream::start(|_| Script::ok("served"));
    let text = routes(&[ASKING, &fixed("back", &[upstream.address()])], "idempotency: {}");
    let gateway = Gateway::start(text);
    let key = [("idempotency-key", "2f1c9b1e-4c5a-4d55-9a3c-0d8f6f0f7a11")];
    let first = gateway.request("POST", "/", &key, b"x");
    assert_eq!((first.status, &first.json()["upstream"]["status"]), (200, &json!(200)), "{}", first.text());
    assert_eq!(gateway.request("POST", "/", &key, b"x").body, first.body);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn the_schema_knows_the_settings_of_each_service() {
    let schema = Command::new(env!("CARGO_BIN_EXE_moongate")).args(["schema", "routes"]).output().unwrap();
    let schema: Value = serde_json::from_slice(&schema.stdout).unwrap();
    let rules = schema["$defs"]["UpstreamConfig"]["allOf"].as_array().unwrap();
    let of = |name: &str| rules.iter().find(|it| it["if"]["properties"]["local"]["const"] == name).unwrap();
    assert_eq!(of("echo")["then"]["properties"]["settings"]["$ref"], "#/$defs/EchoConfig");
    assert_eq!(of("health")["then"]["properties"]["settings"]["properties"], json!({}));
}

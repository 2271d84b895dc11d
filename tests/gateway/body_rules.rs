//! What request bodies must be: their media type, their shape, their size.

use serde_json::json;

use crate::exchange::{H2C, routes};
use crate::support::{Gateway, RawUpstream, Response, Script};

const SCHEMA: &str = r#"{
    "type": "object",
    "required": ["input"],
    "properties": { "input": { "type": "string", "minLength": 1 }, "top": { "type": "integer", "maximum": 10 } },
    "additionalProperties": false
}"#;

fn start(upstream: &RawUpstream, settings: &str) -> Gateway {
    let routes = routes(&[upstream.address()], settings);
    Gateway::with(routes).config(H2C).file("input.json", SCHEMA).start()
}

fn post(gateway: &Gateway, media_type: &str, body: &str) -> Response {
    gateway.request("POST", "/generate", &[("Content-Type", media_type)], body)
}

#[test]
fn s2s_38_a_missing_field_gets_400_with_its_pointer() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = start(&upstream, "schema: { request: input.json }");
    assert_eq!(post(&gateway, "application/json", r#"{"input":"hi"}"#).body, b"fine");
    for (body, faults) in [
        ("{}", json!([{ "pointer": "/input", "rule": "it is missing" }])),
        (r#"{"input":7}"#, json!([{ "pointer": "/input", "rule": "/properties/input/type" }])),
        (
            r#"{"input":"","top":11}"#,
            json!([
                { "pointer": "/input", "rule": "/properties/input/minLength" },
                { "pointer": "/top", "rule": "/properties/top/maximum" },
            ]),
        ),
        (r#"{"input":"a","more":1}"#, json!([{ "pointer": "", "rule": "/additionalProperties" }])),
        ("{", json!([{ "pointer": "", "rule": "not JSON at line 1, column 1" }])),
        ("", json!([{ "pointer": "", "rule": "a body is missing" }])),
        (
            r#"{"input":"what is checked","\u0069nput":7}"#,
            json!([{ "pointer": "", "rule": "a name is there twice at line 1, column 42" }]),
        ),
    ] {
        let answer = post(&gateway, "application/json", body);
        assert_eq!(answer.status, 400, "{body}");
        let error = &answer.json()["error"];
        assert_eq!((&error["code"], &error["details"]["faults"]), (&json!("invalid_body"), &faults), "{body}");
    }
    assert_eq!(upstream.requests().len(), 1, "nothing of it arrived");
    assert_eq!(gateway.get("/generate").body, b"fine", "of a GET nobody expects a body");
}

#[test]
fn s2s_46_what_was_sent_is_not_told_again_by_an_error_or_the_log() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = start(&upstream, "schema: { request: input.json }");
    let answer = post(&gateway, "application/json", r#"{"input":["my darkest secret"]}"#);
    assert_eq!(answer.status, 400);
    assert!(!answer.text().contains("darkest"));
    gateway.wait_for_event("request", |it| it["status"] == 400);
    assert!(gateway.log_lines().iter().all(|it| !it.text.contains("darkest")));
}

#[test]
fn another_media_type_gets_415() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = start(&upstream, "schema: { request: input.json }");
    let answer = post(&gateway, "text/plain", r#"{"input":"hi"}"#);
    assert_eq!(answer.status, 415);
    assert_eq!(answer.json()["error"]["details"]["accepted"], "application/json, application/*+json");
    assert_eq!(post(&gateway, "application/ld+json", r#"{"input":"hi"}"#).status, 200);
    assert_eq!(gateway.request("POST", "/", &[], "{}").status, 415, "none at all");

    let images = start(&upstream, "content_types: [\"image/*\"]");
    assert_eq!(post(&images, "image/png", "png").status, 200);
    assert_eq!(post(&images, "application/json", "{}").status, 415);
    assert_eq!(images.get("/").status, 200, "there is no body");
}

#[test]
fn s2s_39_a_held_body_is_bounded_declared_or_in_chunks() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = start(&upstream, "schema: { request: input.json }, body_limit: 1KiB");
    let large = format!(r#"{{"input":"{}"}}"#, "x".repeat(2000));
    assert_eq!(post(&gateway, "application/json", &large).status, 413);
    let mut client = crate::support::RawClient::connect(gateway.public());
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(format!("{:x}\r\n{large}\r\n", large.len()));
    assert_eq!(client.read_response().status, 413);
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn a_schema_that_changes_is_followed_and_a_broken_one_is_a_fault() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = start(&upstream, "schema: { request: input.json }");
    assert_eq!(post(&gateway, "application/json", r#"{"other":1}"#).status, 400);
    gateway.folder().write("input.json", "{}");
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(post(&gateway, "application/json", r#"{"other":1}"#).status, 200);
    gateway.folder().write("input.json", "{ \"type\": \"nonsense\" }");
    let refused = gateway.reload();
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("input.json"), "{}", refused.text());
    assert_eq!(post(&gateway, "application/json", r#"{"other":1}"#).status, 200, "the old one goes on");
}

/// What applies to one value is bounded before there is a body: no look at it would end that.
#[test]
fn s2s_38_a_schema_whose_work_nothing_bounds_is_a_fault_that_names_the_place() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = start(&upstream, "schema: { request: input.json }");
    let tower = |fan: usize, depth: usize, leaf: serde_json::Value| {
        let floor = |it: usize| json!({ "allOf": vec![json!({ "$ref": format!("#/$defs/a{}", it + 1) }); fan] });
        let mut floors: serde_json::Map<_, _> = (0..depth).map(|it| (format!("a{it}"), floor(it))).collect();
        floors.insert(format!("a{depth}"), leaf);
        json!({ "$defs": floors, "$ref": "#/$defs/a0" }).to_string()
    };
    let endless = r##"{ "properties": { "a": { "not": { "$ref": "#/properties/a" } } } }"##.to_owned();
    for (schema, said) in [
        (tower(2, 30, json!(true)), "more than 10000 schemas to the same value"),
        (tower(2, 30, json!({ "minLength": 3 })), "more than 10000 schemas to the same value"),
        (tower(4, 10, json!({ "type": "string" })), "more than 10000 schemas to the same value"),
        (tower(1, 100, json!(true)), "through more than 64 schemas"),
        (endless, "#/properties/a applies itself to the same value"),
    ] {
        gateway.folder().write("input.json", &schema);
        let refused = gateway.reload();
        assert_eq!(refused.status, 422, "{schema}");
        assert!(refused.text().contains(said) && refused.text().contains("input.json, #/"), "{}", refused.text());
    }
    // What comes near the bound is checked, and says where bodies fail.
    for leaf in [json!({ "type": "string" }), json!({ "minLength": 3 }), json!(true)] {
        gateway.folder().write("input.json", tower(4, 5, leaf.clone()));
        assert_eq!(gateway.reload().status, 200);
        let answer = post(&gateway, "application/json", "1");
        let fits = leaf.get("type").is_none();
        assert_eq!(answer.status == 200, fits, "{leaf}: {}", answer.text());
    }
}

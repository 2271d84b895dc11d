//! Media types are the same in whatever case they are written, whatever parameters stand behind them, and are never
//! taken for another one that only begins alike (RFC 9110, section 8.3.1).

use crate::exchange::{H2C, in_front_of, routes};
use crate::support::upstream::{answer_bytes, chunk, last_chunk};
use crate::support::{Gateway, H2Client, RawClient, RawUpstream, Response, Script, Signal};

const EVENT_STREAMS: [&str; 7] = [
    "text/event-stream",
    "Text/Event-Stream",
    "TEXT/EVENT-STREAM",
    "text/event-stream;charset=utf-8",
    "Text/Event-Stream; charset=\"UTF-8\"",
    "text/Event-Stream \t; charset=utf-8",
    "text/EVENT-stream;",
];

const NO_EVENT_STREAMS: [&str; 4] =
    ["text/event-streams", "text/event-stream+json", "application/text/event-stream", "text/event"];

const JSONS: [&str; 4] =
    ["application/json", "Application/JSON", "APPLICATION/JSON; Charset=UTF-8", "application/Json ;charset=utf-8"];

const NO_JSONS: [&str; 3] = ["application/jsonp", "application/json5; charset=utf-8", "text/application/json"];

fn code(answer: &Response) -> String {
    let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    json["error"]["code"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn rfc_9110_8_3_1_an_event_stream_outlasts_the_requests_limit_however_its_type_is_written() {
    for written in EVENT_STREAMS {
        let go_on = Signal::new();
        let upstream = {
            let go_on = go_on.clone();
            RawUpstream::start(move |request| {
                if request.target() == "/slow" {
                    return Script::silence();
                }
                let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {written}\r\ntransfer-encoding: chunked\r\n\r\n");
                let script = Script::new().read_body().send(head).send(chunk(b"data: 1\n\n"));
                script.wait(&go_on).send(chunk(b"data: 2\n\n")).send(last_chunk(&[]))
            })
        };
        let gateway = in_front_of(&upstream, "timeouts: { request: 300ms, first_byte: 5s, idle: 10s }");
        let mut client = RawClient::connect(gateway.public());
        client.send("GET /events HTTP/1.1\r\nhost: x\r\n\r\n");
        assert_eq!(client.read_head().status, 200);
        assert_eq!(client.try_read_piece().unwrap().unwrap(), b"data: 1\n\n");
        // A request that began later meets the limit.
        assert_eq!(gateway.get("/slow").status, 504);
        go_on.give();
        let second = client.try_read_piece().unwrap_or_else(|it| panic!("{written}: {it}"));
        assert_eq!(
            (second.as_deref(), client.try_read_piece().unwrap()),
            (Some(&b"data: 2\n\n"[..]), None),
            "{written}"
        );
    }
}

#[test]
fn rfc_9110_8_3_1_an_event_stream_is_never_kept_and_what_only_begins_like_one_is() {
    let mut wrong = Vec::new();
    for (types, kept) in [(&EVENT_STREAMS[..], false), (&NO_EVENT_STREAMS, true)] {
        for written in types {
            let fields = [("content-type", *written), ("cache-control", "max-age=60")];
            let upstream = RawUpstream::start(move |it| Script::answer(200, &fields, it.number.to_string()));
            let gateway = in_front_of(&upstream, "cache: { ttl: 1h }");
            let bodies = [gateway.get("/a").text(), gateway.get("/a").text()];
            if (bodies[0] == bodies[1]) != kept {
                wrong.push(format!("{written}: {bodies:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rfc_9110_12_5_1_a_stream_under_a_key_is_refused_however_accept_asks_for_it() {
    let upstream = RawUpstream::start(|_| Script::ok("done"));
    let gateway = in_front_of(&upstream, "idempotency: {}");
    let mut wrong = Vec::new();
    let lists = [
        "application/json, text/event-stream",
        "application/json;q=0.5 , Text/Event-Stream;q=0.9",
        "text/event-stream,application/json",
    ];
    for accept in EVENT_STREAMS.iter().chain(&lists) {
        let answer = gateway.request("POST", "/a", &[("idempotency-key", accept), ("accept", accept)], "{}");
        if answer.status != 400 || code(&answer) != "idempotency_key" {
            wrong.push(format!("{accept}: {}", answer.status));
        }
    }
    for (number, accept) in NO_EVENT_STREAMS.iter().enumerate() {
        let key = number.to_string();
        let answer = gateway.request("POST", "/a", &[("idempotency-key", &key), ("accept", accept)], "{}");
        if answer.status != 200 {
            wrong.push(format!("{accept}: {}", answer.status));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rfc_9110_8_3_1_a_stream_that_comes_unasked_under_a_key_is_not_kept_however_its_type_is_written() {
    for written in EVENT_STREAMS {
        let upstream = RawUpstream::start(move |it| {
            Script::new().read_body().send(answer_bytes(
                200,
                &[("content-type", written)],
                format!("data: {}\n\n", it.number).as_bytes(),
            ))
        });
        let gateway = in_front_of(&upstream, "idempotency: {}");
        let ask = || gateway.request("POST", "/a", &[("idempotency-key", "one")], "{}");
        assert_eq!(ask().text(), "data: 0\n\n", "{written}: it passes");
        let again = ask();
        assert_eq!((again.status, code(&again).as_str()), (409, "idempotency_not_kept"), "{written}");
        assert_eq!(upstream.requests().len(), 1, "{written}");
    }
}

#[test]
fn rfc_9110_12_5_1_routes_that_name_media_types_are_found_in_every_case() {
    let upstream = RawUpstream::start(|request| Script::ok(request.target()));
    let text = format!(
        "version: 1\nupstreams:\n  up: {{ discovery: {{ static: [\"{}\"] }} }}\nroutes:\n  \
         - {{ name: json, match: {{ path: /a, accept: [Application/JSON] }}, upstream: up, rewrite: {{ path: /json }} }}\n  \
         - {{ name: text, match: {{ path: /a, accept: [\"text/*\"] }}, upstream: up, rewrite: {{ path: /text }} }}\n",
        upstream.address()
    );
    let gateway = Gateway::with(text).config(H2C).start();
    for (accept, path) in [
        ("application/json", "/json"),
        ("APPLICATION/JSON", "/json"),
        ("Application/Json; charset=utf-8", "/json"),
        ("Application/*", "/json"),
        ("TEXT/HTML", "/text"),
        ("Text/Plain, Application/JSON;q=0.1", "/text"),
        ("TEXT/HTML;Q=0.1, Application/JSON", "/json"),
    ] {
        assert_eq!(gateway.request("GET", "/a", &[("accept", accept)], "").text(), path, "{accept}");
        assert_eq!(
            H2Client::connect(gateway.public()).request("GET", "/a", &[("accept", accept)], b"", None).text(),
            path
        );
    }
    assert_eq!(gateway.request("GET", "/a", &[("accept", "application/jsonp")], "").status, 406);
}

#[test]
fn rfc_9110_8_3_1_bodies_are_taken_by_type_and_shape_however_their_type_is_written() {
    const SCHEMA: &str = r#"{ "type": "object", "required": ["input"] }"#;
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    for settings in
        ["schema: { request: input.json }", "content_types: [application/json]", "content_types: [Application/JSON]"]
    {
        let text = routes(&[upstream.address()], settings);
        let gateway = Gateway::with(text).config(H2C).file("input.json", SCHEMA).start();
        let post = |written: &str| gateway.request("POST", "/a", &[("content-type", written)], r#"{"input":1}"#);
        for written in JSONS {
            assert_eq!(post(written).text(), "fine", "{settings}: {written}");
        }
        for written in NO_JSONS {
            let answer = post(written);
            assert_eq!(
                (answer.status, code(&answer).as_str()),
                (415, "unsupported_media_type"),
                "{settings}: {written}"
            );
        }
    }
}

/// Answers that say nothing about caching are not to be kept by anybody, whatever they are.
#[test]
fn s2s_30_answers_are_marked_no_store_whatever_their_type_is_and_however_it_is_written() {
    let mut wrong = Vec::new();
    for written in JSONS.into_iter().chain(["application/jsonp", "text/plain", "image/png", "application/fhir+json"]) {
        let fields = [("content-type", written)];
        let upstream = RawUpstream::start(move |_| Script::answer(200, &fields, "{}"));
        let gateway = in_front_of(&upstream, "headers: { security: strict }");
        for answer in [gateway.get("/a"), H2Client::connect(gateway.public()).get("/a")] {
            if answer.headers_named("cache-control") != ["no-store"] {
                wrong.push(format!("{written}: {:?}", answer.header("cache-control")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rfc_9110_8_3_1_cached_posts_are_compared_as_json_however_their_type_is_written() {
    let upstream = RawUpstream::start(|it| {
        Script::new().read_body().send(answer_bytes(200, &[], it.number.to_string().as_bytes()))
    });
    let gateway = in_front_of(&upstream, "cache: { ttl: 1h, key: [body] }");
    let ask = |written: &str, body: &str| gateway.request("POST", "/a", &[("content-type", written)], body).text();
    for written in JSONS {
        // The same but for blanks and order.
        assert_eq!(ask(written, r#"{"a":1,"b":2}"#), ask(written, r#"{ "b": 2, "a": 1 }"#), "{written}");
    }
    assert_ne!(ask("text/plain", "{ }"), ask("text/plain", "{}"), "plain text is compared as it is");
}

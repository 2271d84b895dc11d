//! Event streams whose route says how they are kept: heartbeats, the idle limit, the marker of a whole stream, a stop.

use std::time::Duration;

use crate::exchange::{H2C, in_front_of, routes};
use crate::support::upstream::{chunk, last_chunk};
use crate::support::*;

const EVENTS: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: Text/Event-Stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";

fn client(gateway: &Gateway) -> RawClient {
    let mut client = RawClient::connect(gateway.public());
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(client.read_head().status, 200);
    client
}

/// All that comes, and whether it ended whole.
fn rest(client: &mut RawClient) -> (String, bool) {
    let mut text = String::new();
    loop {
        match client.try_read_piece() {
            Ok(Some(piece)) => text += std::str::from_utf8(&piece).unwrap(),
            Ok(None) => return (text, true),
            Err(_) => return (text, false),
        }
    }
}

#[track_caller]
fn error_in(text: &str) -> serde_json::Value {
    let (_, event) = text.split_once("event: error\nretry: ").unwrap_or_else(|| panic!("{text:?}"));
    let data = event.lines().find_map(|it| it.strip_prefix("data: ")).unwrap();
    assert!(text.ends_with("}\n\n"), "nothing behind it: {text:?}");
    serde_json::from_str::<serde_json::Value>(data).unwrap()["error"].clone()
}

#[test]
fn s2s_20_a_quiet_stream_has_heartbeats_between_its_events_alone() {
    let (go_on, done) = (Signal::new(), Signal::new());
    let upstream = {
        let (go_on, done) = (go_on.clone(), done.clone());
        RawUpstream::start(move |_| {
            let script = Script::new().read_body().send(EVENTS).send(chunk(b"data: 1\n\ndata: tw"));
            script.wait(&go_on).send(chunk(b"o\n\n")).wait(&done).send(last_chunk(&[]))
        })
    };
    let gateway = in_front_of(&upstream, "sse: { heartbeat: 50ms, idle: 1h }");
    let mut client = client(&gateway);
    assert_eq!(client.try_read_piece().unwrap().unwrap(), b"data: 1\n\n", "an event passes whole, or not yet");
    for _ in 0..3 {
        assert_eq!(client.try_read_piece().unwrap().unwrap(), b": heartbeat\n\n");
    }
    go_on.give();
    let mut text = String::new();
    while !text.contains("data") {
        text += std::str::from_utf8(&client.try_read_piece().unwrap().unwrap()).unwrap();
    }
    assert_eq!(text.replace(": heartbeat\n\n", ""), "data: two\n\n");
    done.give();
    let (text, whole) = rest(&mut client);
    assert!(whole && text.replace(": heartbeat\n\n", "").is_empty(), "{text:?}");
}

#[test]
fn s2s_20_heartbeats_begin_before_the_first_event_over_http2_too() {
    let done = Signal::new();
    let upstream = {
        let done = done.clone();
        RawUpstream::start(move |_| {
            Script::new()
                .read_body()
                .send(EVENTS)
                .wait(&done)
                .send(chunk(b"\xef\xbb\xbfdata: 1\n\n"))
                .send(last_chunk(&[]))
        })
    };
    let gateway = in_front_of(&upstream, "sse: { heartbeat: 50ms }");
    let h2 = H2Client::connect(gateway.public());
    let mut sender = h2.sender();
    let text = h2.run(async {
        let request = http::Request::get("http://x/").body(()).unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        let first = body.data().await.unwrap().unwrap();
        done.give();
        let mut text = first.to_vec();
        while let Some(piece) = body.data().await {
            text.extend_from_slice(&piece.unwrap());
        }
        String::from_utf8(text).unwrap()
    });
    assert!(text.starts_with(": heartbeat\n\n") && text.ends_with("data: 1\n\n"), "{text:?}");
    assert_eq!(text.replace(": heartbeat\n\n", ""), "data: 1\n\n", "and no byte order mark in the middle");
}

#[test]
fn s2s_22_a_silent_upstream_ends_the_stream_with_an_error_event() {
    let upstream =
        RawUpstream::start(|_| Script::new().read_body().send(EVENTS).send(chunk(b"data: 1\n\nda")).await_close());
    // Heartbeats do not count: it is the upstream that has to say something.
    let gateway = in_front_of(&upstream, "timeouts: { idle: 1h }, sse: { heartbeat: 40ms, idle: 300ms }");
    let mut client = client(&gateway);
    let (text, whole) = rest(&mut client);
    assert!(text.starts_with("data: 1\n\n: heartbeat\n\n") && !whole, "{text:?}");
    let error = error_in(&text);
    assert_eq!(error["code"], "stream_idle");
    let line = gateway.wait_for_event("request", |it| it["end"] == "truncated");
    assert_eq!(error["request_id"], line["request_id"]);
    upstream.wait_for_closed(1);
}

#[test]
fn a_stream_without_its_marker_is_an_error_and_never_a_clean_end() {
    let ends: [(&str, &[&[u8]], bool); 6] = [
        ("/done", &[b"data: 1\n\n", b"data: [DONE]\n\n"], true),
        ("/unclosed", &[b"data: 1\n\n", b"data: [DONE]\n"], true),
        ("/without", &[b"data: 1\n\n"], false),
        ("/half", &[b"data: 1\n\n", b"data: [DO"], false),
        ("/within", &[b"data: say [DONE]\n\n"], false),
        ("/empty", &[], false),
    ];
    let upstream = RawUpstream::start(move |request| {
        let pieces = ends.iter().find(|it| it.0 == request.target()).unwrap().1;
        let script = Script::new().read_body().send(EVENTS);
        pieces.iter().fold(script, |script, piece| script.send(chunk(piece))).send(last_chunk(&[]))
    });
    let gateway = in_front_of(&upstream, "sse: { terminal: \"[DONE]\" }");
    for (path, pieces, clean) in ends {
        let mut client = RawClient::connect(gateway.public());
        client.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"));
        client.read_head();
        let (text, whole) = rest(&mut client);
        assert_eq!(whole, clean, "{path} {text:?}");
        if clean {
            assert_eq!(text.as_bytes(), pieces.concat(), "{path}");
        } else {
            assert_eq!(error_in(&text)["code"], "stream_unterminated", "{path}");
            assert!(!text.contains("data: [DO"), "half an event is none: {text:?}");
        }
    }
    let series = figure(&gateway, "moongate_streams_unterminated_total{route=\"all\"}");
    assert_eq!(series, Some(4.0));
    let truncated = || gateway.events("request").iter().filter(|it| it["end"] == "truncated").count();
    eventually("all four are in the log", || (truncated() == 4).then_some(()));
}

#[test]
fn a_stream_that_breaks_off_says_so_in_an_event() {
    let upstream =
        RawUpstream::start(|_| Script::new().read_body().send(EVENTS).send(chunk(b"data: 1\n\ndata")).close());
    let gateway = in_front_of(&upstream, "sse: {}");
    let (text, whole) = rest(&mut client(&gateway));
    assert!(text.starts_with("data: 1\n\nevent: error\n") && !whole, "{text:?}");
    assert_eq!(error_in(&text)["code"], "stream_truncated");
}

#[test]
fn what_is_no_stream_of_events_or_is_encoded_passes_as_it_comes() {
    let length = "content-length: 9\r\n\r\ndata: 1\n\n";
    let heads = [
        ("/json", format!("content-type: application/json\r\n{length}")),
        ("/packed", format!("content-type: text/event-stream\r\ncontent-encoding: gzip\r\n{length}")),
        ("/failed", format!("content-type: text/event-stream\r\n{length}")),
    ];
    let upstream = RawUpstream::start(move |request| {
        let (path, head) = heads.iter().find(|it| it.0 == request.target()).unwrap();
        let status = if *path == "/failed" { "500 Internal Server Error" } else { "200 OK" };
        Script::new().read_body().send(format!("HTTP/1.1 {status}\r\n{head}"))
    });
    let gateway = in_front_of(&upstream, "sse: { heartbeat: 1ms, terminal: \"[DONE]\" }");
    for path in ["/json", "/packed", "/failed"] {
        let answer = gateway.get(path);
        assert_eq!((answer.text(), answer.header("content-length")), ("data: 1\n\n".to_owned(), Some("9")), "{path}");
    }
    let request = String::from_utf8(upstream.requests().remove(0)).unwrap().to_lowercase();
    assert!(request.contains("accept-encoding: identity\r\n"), "events can be told apart in no encoding: {request}");
}

#[test]
fn us_013_a_stream_hears_that_the_server_is_shutting_down() {
    let upstream =
        RawUpstream::start(|_| Script::new().read_body().send(EVENTS).send(chunk(b"data: 1\n\nda")).await_close());
    let stopping = format!("{H2C}shutdown: {{ delay: 1ms, grace: 2s }}\n");
    let mut gateway = Gateway::with(routes(&[upstream.address()], "sse: {}")).config(stopping).start();
    let mut client = client(&gateway);
    assert_eq!(client.try_read_piece().unwrap().unwrap(), b"data: 1\n\n");
    gateway.sigterm();
    let (text, whole) = rest(&mut client);
    assert!(whole && text.starts_with("event: server_shutting_down\nretry: 1000\ndata: {"), "{text:?}");
    assert_eq!(gateway.wait_exit(), 0);
    assert!(gateway.events("request").iter().any(|it| it["end"] == "drained"));
}

#[test]
fn sse_says_at_check_what_can_not_be_kept() {
    let text = routes(&[nobody()], "sse: { heartbeat: 0s, terminal: \"a\\nb\" }");
    let refused = Gateway::with(text).start_refused();
    for part in ["a time of zero", "not what a line of an event could say"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    let text = routes(&[nobody()], "websocket: { ping: 0s }");
    let refused = Gateway::with(text).start_refused();
    for part in ["a time of zero", "this route takes no WebSockets"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
}

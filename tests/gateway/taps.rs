//! Taps on text, by `examples/tap_filter.rs`: each thing that a tap can do, on bodies, events and messages, both ways.

use std::fmt::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use tokio_tungstenite::tungstenite::{self, Error};

use crate::exchange::H2C;
use crate::support::http1::request_bytes;
use crate::support::upstream::{answer_bytes, chunk, last_chunk};
use crate::support::{Gateway, H2Client, Message, RawClient, RawUpstream, Request, Response, Script, Signal, WsClient};

/// Cargo puts examples beside the binary.
fn example() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_moongate")).with_file_name("examples").join("tap_filter");
    assert!(path.exists(), "{} is not there: `cargo build --examples` makes it", path.display());
    path
}

/// What each action is in the filter's block.
const ACTIONS: [(&str, &str); 6] = [
    ("observe", ""),
    ("hold", "hold: secret"),
    ("forget", "hold: secret, forget: two"),
    ("replace", "hide: secret"),
    ("append", "notice: the end"),
    ("end", "stop: secret, last: stopped"),
];

/// A route for each way to see and each action, `/SEE/ACTION/..`, on responses alone and, behind `/both`, on requests, too.
fn routes(upstream: SocketAddr, more: &str) -> String {
    let mut text =
        format!("version: 1\nupstreams: {{ app: {{ discovery: {{ static: [\"{upstream}\"] }} }} }}\nroutes:\n");
    for see in ["body", "event", "message", "piece"] {
        for (action, block) in ACTIONS {
            for (prefix, only) in [("", true), ("/both", false)] {
                let block = format!("see: {see}, only_responses: {only}, limit: 1000, {block}");
                let route = route(&format!("{prefix}/{see}/{action}/{{*rest}}"), &block, "");
                writeln!(text, "{route}").unwrap();
            }
        }
    }
    text + more
}

fn route(path: &str, block: &str, settings: &str) -> String {
    let name = path.replace(['/', '{', '}', '*'], "-");
    let name = name.trim_matches('-');
    format!(
        "  - {{ name: {name}, match: {{ path: \"{path}\" }}, upstream: app, filters: {{ words: {{ {block} }} }}{settings} }}"
    )
}

fn gateway(upstream: SocketAddr, more: &str) -> Gateway {
    let routes = routes(upstream, more) + &websocket_routes();
    Gateway::with(routes).config(H2C).binary(example()).start()
}

fn websocket_routes() -> String {
    let mut text = String::new();
    for (action, block) in ACTIONS {
        for (direction, only) in [("down", true), ("up", false)] {
            let block = format!("see: message, only_responses: {only}, limit: 1000, {block}");
            let name = format!("ws-{direction}-{action}");
            writeln!(
                text,
                "  - {{ name: {name}, match: {{ path: \"/ws/{direction}/{action}\", websocket: true }}, upstream: app, \
                 filters: {{ words: {{ {block} }} }} }}"
            )
            .unwrap();
        }
    }
    text
}

const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const TEXT: &str = "one secret two";
/// Line ends of all kinds, and a comment.
const STREAM: &str = "data: one\r\n\r\n: beat\ndata: a\rdata: secret\r\rdata: two\n\n";

/// Answers by the last word of the path.
fn upstream() -> RawUpstream {
    let fields = [("etag", "\"x\""), ("content-md5", "x"), ("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT")];
    RawUpstream::start(move |it| match it.target().rsplit('/').next().unwrap() {
        "length" => Script::answer(200, &fields, TEXT),
        "chunked" => Script::chunked(200, &[b"one sec", b"ret ", b"two"], &[("x-trailer", "1")]),
        "events" => events(STREAM.as_bytes().chunks(1)),
        "large" => Script::ok("x".repeat(3000)),
        "gzip" => Script::answer(200, &[("content-encoding", "gzip")], TEXT),
        "deflate" => Script::answer(200, &[("content-encoding", "deflate")], TEXT),
        "part" => Script::answer(206, &[("content-range", "bytes 0-13/20")], TEXT),
        "broken" => Script::cut_chunked(&[b"one "]),
        "plain" => Script::ok("plain"),
        other => panic!("{other}"),
    })
}

fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Script {
    let script = Script::new().read_body().send(EVENTS);
    pieces.fold(script, |script, it| script.send(chunk(it))).send(last_chunk(&[]))
}

fn end_of(gateway: &Gateway, answer: &Response) -> String {
    let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
    line["end"].as_str().unwrap().to_owned()
}

fn code(answer: &Response) -> String {
    answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn responses_are_observed_held_replaced_appended_to_and_ended() {
    let upstream = upstream();
    let gateway = gateway(upstream.address(), "");
    let mut http2 = H2Client::connect(gateway.public());
    let all = "one secret two";
    let hidden = "one *** two";
    let appended = "one secret twothe end";
    let events_hidden = STREAM.replace("secret", "***");
    let events_appended = format!("{STREAM}data: the end\n\n");
    let events_ended = "data: one\r\n\r\n: beat\ndata: stopped\n\n";
    let mut wrong = Vec::new();
    for (path, expected, changed, end) in [
        ("/body/observe/length", all, false, "done"),
        ("/body/observe/chunked", all, false, "done"),
        ("/body/hold/length", all, false, "done"),
        ("/body/forget/length", "", true, "done"),
        ("/body/replace/length", hidden, true, "done"),
        ("/body/replace/chunked", hidden, true, "done"),
        ("/body/append/length", appended, true, "done"),
        ("/body/append/chunked", appended, true, "done"),
        ("/body/end/length", "stopped", true, "stopped"),
        ("/body/end/chunked", "stopped", true, "stopped"),
        ("/message/replace/chunked", hidden, true, "done"),
        ("/piece/observe/length", all, true, "done"),
        ("/piece/replace/length", hidden, true, "done"),
        ("/piece/append/chunked", appended, true, "done"),
        ("/piece/hold/length", all, true, "done"),
        ("/piece/end/length", "stopped", true, "stopped"),
        ("/event/observe/events", STREAM, true, "done"),
        ("/event/hold/events", STREAM, true, "done"),
        ("/event/forget/events", "data: one\r\n\r\n: beat\n", true, "done"),
        ("/event/replace/events", &events_hidden, true, "done"),
        ("/event/append/events", &events_appended, true, "done"),
        ("/event/end/events", events_ended, true, "stopped"),
        ("/body/replace/events", &events_hidden, true, "done"),
    ] {
        for answer in [gateway.get(path), http2.get(path)] {
            let text = answer.text();
            if (answer.status, &*text) != (200, expected) {
                wrong.push(format!("{path}: {} {text:?}, not {expected:?}", answer.status));
            }
            if path.ends_with("length") {
                let fields = ["etag", "content-md5"].map(|it| answer.header(it).is_some());
                if fields != [!changed; 2] {
                    wrong.push(format!("{path}: {:?}", answer.headers));
                }
            }
            // What is held as a whole has a length, unless trailers follow.
            let whole = path.starts_with("/body") && !path.ends_with("chunked");
            let length = answer.header("content-length");
            if length != whole.then(|| expected.len().to_string()).as_deref() {
                wrong.push(format!("{path}: content-length {length:?}"));
            }
            let ended = end_of(&gateway, &answer);
            if ended != end {
                wrong.push(format!("{path}: the log says {ended}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let metrics = gateway.admin_get("/metrics").text();
    assert!(metrics.contains("moongate_exchange_ends_total{end=\"stopped\"} 8"), "{metrics}");
}

/// `HEAD` and 304 say of a body what can be said of it.
#[test]
fn a_head_says_nothing_that_a_tap_may_make_untrue() {
    let upstream = upstream();
    let gateway = gateway(upstream.address(), "");
    let mut client = RawClient::connect(gateway.public());
    client.send(request_bytes(gateway.public(), "HEAD", "/body/replace/length", &[], b""));
    let answer = client.read_response_to("HEAD");
    assert_eq!((answer.status, answer.header("content-length"), answer.header("etag")), (200, None, None));
    assert!(answer.header("last-modified").is_some());
}

#[test]
fn taps_are_told_how_much_they_saw_and_that_it_ended() {
    let upstream = upstream();
    let gateway = gateway(upstream.address(), "");
    for (path, units, bytes) in [
        ("/body/observe/chunked", 1, TEXT.len()),
        // It came byte by byte: the LF behind the empty line's CR was not waited for.
        ("/event/observe/events", 3, STREAM.len() - ": beat\n".len() - 1),
    ] {
        let answer = gateway.get(path);
        let id = answer.header("x-request-id").unwrap();
        let told = gateway.wait_for_event("tapped", |it| it["request_id"] == id);
        assert_eq!((&told["units"], &told["bytes"], &told["how"]), (&units.into(), &bytes.into(), &"ended".into()));
    }
}

/// Nothing of what is held goes out, heartbeats do, and what is behind it waits for the verdict only.
#[test]
fn an_event_that_is_held_waits_and_a_heartbeat_does_not() {
    let (go, seen) = (Signal::new(), Signal::new());
    let (wait, show) = (go.clone(), seen.clone());
    let upstream = RawUpstream::start(move |_| {
        Script::new()
            .read_body()
            .send(EVENTS)
            .send(chunk(b"data: one\n\ndata: secret\n\n: beat\n"))
            .give(&show)
            .wait(&wait)
            .send(chunk(b"data: two\n\n"))
            .await_close()
    });
    let gateway = gateway(upstream.address(), "");
    let mut client = RawClient::connect(gateway.public());
    client.send(request_bytes(gateway.public(), "GET", "/event/hold/x", &[], b""));
    client.read_head();
    let mut text = Vec::new();
    while !text.ends_with(b": beat\n") {
        text.extend(client.try_read_piece().unwrap().unwrap());
    }
    assert_eq!(text, b"data: one\n\n: beat\n");
    go.give();
    text.clear();
    while !text.ends_with(b"two\n\n") {
        text.extend(client.try_read_piece().unwrap().unwrap());
    }
    assert_eq!(text, b"data: secret\n\ndata: two\n\n");
    drop(client);
    upstream.wait_for_closed(1);
}

#[test]
fn what_ends_a_stream_cancels_its_upstream_and_keeps_the_clients_connection() {
    let upstream = RawUpstream::start(|it| match it.target().as_str() {
        "/event/end/x" => Script::new().read_body().send(EVENTS).send(chunk(b"data: secret\n\n")).await_close(),
        _ => Script::ok("plain"),
    });
    let gateway = gateway(upstream.address(), "");
    let mut client = RawClient::connect(gateway.public());
    let ask = |path| request_bytes(gateway.public(), "GET", path, &[("connection", "keep-alive")], b"");
    client.send(ask("/event/end/x"));
    let answer = client.read_response();
    assert_eq!(answer.text(), "data: stopped\n\n");
    upstream.wait_for_closed(1);
    client.send(ask("/body/observe/x"));
    assert_eq!(client.read_response().text(), "plain");
}

#[test]
fn what_a_tap_can_not_look_through_does_not_pass() {
    let more = route("/small/{*rest}", "see: event, only_responses: true, limit: 20", "")
        + "\n"
        + &route("/held/{*rest}", "see: event, hold: data, limit: 20", "")
        + "\n";
    let upstream = upstream();
    let gateway = gateway(upstream.address(), &more);
    let mut http2 = H2Client::connect(gateway.public());
    // Nothing has gone out: the client is told.
    for (path, expected) in [
        ("/body/observe/large", "response_too_large"),
        ("/body/observe/gzip", "upstream_protocol_error"),
        ("/event/observe/deflate", "upstream_protocol_error"),
        ("/piece/observe/part", "upstream_protocol_error"),
        ("/body/observe/broken", "upstream_closed"),
    ] {
        for answer in [gateway.get(path), http2.get(path)] {
            assert_eq!((answer.status, code(&answer).as_str()), (502, expected), "{path}");
        }
    }
    // Something has: the answer is cut, and never looks whole.
    for path in ["/small/events", "/held/events"] {
        let cut = crate::support::http1::try_request(gateway.public(), "GET", path, &[], b"");
        assert!(cut.is_err(), "{cut:?}");
        assert!(http2.try_request("GET", path, &[], b"", None).is_err());
        gateway.wait_for_event("request", |it| it["path"] == path && it["end"] == "truncated");
    }
    gateway.wait_for_event("tapped", |it| it["how"] == "too large" && it["direction"] == "response");
}

#[test]
fn upstreams_are_asked_for_the_whole_text_as_it_is() {
    let upstream = upstream();
    let plain = "  - { name: plain, match: { path: /plain }, upstream: app }\n";
    let gateway = gateway(upstream.address(), plain);
    let fields = [("accept-encoding", "gzip, br"), ("range", "bytes=0-3"), ("if-range", "\"x\"")];
    assert_eq!(gateway.request("GET", "/body/observe/length", &fields, b"").text(), TEXT);
    gateway.request("GET", "/plain", &fields, b"");
    let asked: Vec<_> = upstream.requests().iter().map(|it| String::from_utf8_lossy(it).into_owned()).collect();
    assert!(asked[0].contains("accept-encoding: identity\r\n") && !asked[0].contains("range:"), "{}", asked[0]);
    assert!(asked[1].contains("accept-encoding: gzip, br\r\n") && asked[1].contains("if-range: "), "{}", asked[1]);
}

/// What the upstream's side got of a request: its head in lower case, and its body without chunks.
fn arrived(request: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(request);
    let (head, mut body) = text.split_once("\r\n\r\n").unwrap();
    let head = head.to_lowercase();
    if !head.contains("transfer-encoding: chunked") {
        return (head, body.to_owned());
    }
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        whole += &rest[..size];
        body = rest.get(size + 2..).unwrap_or_default();
    }
    (head, whole)
}

fn chunked_request(address: SocketAddr, path: &str, pieces: &[&[u8]]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: {address}\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunks: Vec<u8> = pieces.iter().flat_map(|it| chunk(it)).collect();
    [head.as_bytes(), &chunks, &last_chunk(&[])].concat()
}

#[test]
fn requests_are_observed_held_replaced_appended_to_and_ended() {
    let upstream = upstream();
    let gateway = gateway(upstream.address(), "");
    let public = gateway.public();
    let mut http2 = H2Client::connect(public);
    let mut count = 0;
    for see in ["body", "piece"] {
        for (action, expected) in [
            ("observe", Some(TEXT)),
            ("hold", Some(TEXT)),
            ("forget", Some("")),
            ("replace", Some("one *** two")),
            ("append", Some("one secret twothe end")),
            ("end", None),
        ] {
            let path = format!("/both/{see}/{action}/plain");
            let mut chunked = RawClient::connect(public);
            let pieces: &[&[u8]] = if see == "body" { &[b"one sec", b"ret ", b"two"] } else { &[TEXT.as_bytes()] };
            let fields = [("content-digest", "x")];
            let answers = [
                gateway.request("POST", &path, &fields, TEXT),
                {
                    chunked.send(chunked_request(public, &path, pieces));
                    chunked.read_response()
                },
                http2.request("POST", &path, &fields, TEXT.as_bytes(), None),
            ];
            for (way, answer) in answers.iter().enumerate() {
                let Some(expected) = expected else {
                    assert_eq!((answer.status, code(answer).as_str()), (403, "content_stopped"), "{path}");
                    assert_eq!(end_of(&gateway, answer), "stopped");
                    continue;
                };
                assert_eq!(answer.status, 200, "{path} {way}: {}", answer.text());
                let (head, body) = arrived(&upstream.requests()[count]);
                count += 1;
                assert_eq!(body, expected, "{path} {way}: {head}");
                if action == "replace" {
                    assert!(!head.contains("content-digest"), "{head}");
                }
                let length = head.contains(&format!("content-length: {}", expected.len()));
                assert!(length || head.contains("chunked") || expected.is_empty(), "{path} {way}: {head}");
            }
        }
        if see == "body" {
            assert_eq!(upstream.requests().len(), count, "what is stopped goes nowhere");
        }
    }
}

#[test]
fn a_request_that_a_tap_can_not_look_through_is_refused() {
    let upstream = upstream();
    let gateway = gateway(upstream.address(), "");
    let large = "x".repeat(1001);
    for path in ["/both/body/observe/plain", "/both/message/observe/plain"] {
        let answer = gateway.request("POST", path, &[], &large);
        assert_eq!((answer.status, code(&answer).as_str()), (413, "body_too_large"));
        assert_eq!(answer.json()["error"]["details"]["limit_bytes"], 1000);
        let answer = gateway.request("POST", path, &[("content-encoding", "deflate")], "x");
        assert_eq!((answer.status, code(&answer).as_str()), (415, "unsupported_media_type"));
    }
    assert_eq!(upstream.requests().len(), 0);
    assert_eq!(gateway.request("POST", "/both/piece/observe/plain", &[], &large).status, 200);
}

/// A piece that goes on is on its way before the next one comes; one that is stopped leaves half a request behind.
#[test]
fn pieces_of_a_request_go_on_as_they_come() {
    let upstream = RawUpstream::start(|_| Script::ok("plain"));
    let gateway = gateway(upstream.address(), "");
    let public = gateway.public();
    let mut client = RawClient::connect(public);
    client.send(format!("POST /both/piece/end/x HTTP/1.1\r\nhost: {public}\r\ntransfer-encoding: chunked\r\n\r\n"));
    client.send(chunk(b"one "));
    upstream.wait_for_received(|it| String::from_utf8_lossy(&it.concat()).contains("one "));
    client.send(chunk(b"secret"));
    let answer = client.read_response();
    assert_eq!((answer.status, code(&answer).as_str()), (403, "content_stopped"));
    upstream.wait_for_closed(1);
    let got = upstream.received().concat();
    assert!(
        !got.ends_with(b"0\r\n\r\n") && !String::from_utf8_lossy(&got).contains("secret"),
        "{}",
        got.escape_ascii()
    );
}

/// What is kept is what the upstream said: taps see it each time it is given.
#[test]
fn what_is_given_again_is_tapped_again() {
    let more = route("/kept/{*rest}", "hide: secret, only_responses: true", ", cache: { ttl: 1h }")
        + "\n"
        + &route("/once/{*rest}", "hide: secret", ", idempotency: {}")
        + "\n";
    let upstream = upstream();
    let gateway = gateway(upstream.address(), &more);
    for _ in 0..2 {
        let answer = gateway.get("/kept/length");
        assert_eq!((answer.text().as_str(), answer.header("etag")), ("one *** two", None));
    }
    for replayed in [None, Some("true")] {
        let answer = gateway.request("POST", "/once/length", &[("idempotency-key", "a")], "my secret");
        assert_eq!((answer.text().as_str(), answer.header("idempotency-replayed")), ("one *** two", replayed));
    }
    let requests = upstream.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(arrived(&requests[1]).1, "my ***");
}

/// Says every message again, closes when it is asked to, and remembers.
struct Echo {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Message>>>,
}

impl Echo {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let book = received.clone();
        thread::spawn(move || {
            for socket in listener.incoming() {
                let book = book.clone();
                thread::spawn(move || {
                    let Ok(mut socket) = tungstenite::accept(socket.unwrap()) else { return };
                    while let Ok(message) = socket.read() {
                        book.lock().unwrap().push(message.clone());
                        let sent = match &message {
                            Message::Text(text) if text.as_str() == "close" => socket.close(None),
                            Message::Text(_) | Message::Binary(_) => socket.send(message),
                            _ => Ok(()),
                        };
                        if sent.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, received }
    }

    /// Messages so far, once a close frame was among them.
    fn until_close(&self) -> Vec<Message> {
        crate::support::eventually("a close frame", || {
            self.received.lock().unwrap().iter().any(Message::is_close).then_some(())
        });
        std::mem::take(&mut *self.received.lock().unwrap())
    }
}

fn shown(messages: &[Message]) -> Vec<String> {
    let show = |it: &Message| match it {
        Message::Text(text) => text.to_string(),
        Message::Binary(bytes) => format!("{} bytes", bytes.len()),
        Message::Close(frame) => format!("close {}", frame.as_ref().map_or(0, |it| u16::from(it.code))),
        other => format!("{other:?}"),
    };
    messages.iter().map(show).collect()
}

/// All that comes until the connection ends.
fn read_all(client: &mut WsClient) -> Vec<Message> {
    let mut messages = Vec::new();
    loop {
        match client.try_read() {
            Ok(message) => messages.push(message),
            Err(Error::ConnectionClosed) => return messages,
            Err(error) => panic!("not closed by the book: {error}, behind {messages:?}"),
        }
    }
}

#[test]
fn messages_are_observed_held_replaced_appended_to_and_ended_both_ways() {
    let upstream = Echo::start();
    let gateway = gateway(upstream.address, "");
    for (action, expected) in [
        ("observe", &["one", "3 bytes", "a secret", "two", "close 1000"][..]),
        ("hold", &["one", "3 bytes", "a secret", "two", "close 1000"]),
        ("forget", &["one", "3 bytes", "close 1000"]),
        ("replace", &["one", "3 bytes", "a ***", "two", "close 1000"]),
        ("append", &["one", "3 bytes", "a secret", "two", "the end", "close 1000"]),
        ("end", &["one", "3 bytes", "stopped", "close 1008"]),
    ] {
        for direction in ["down", "up"] {
            let path = format!("/ws/{direction}/{action}");
            let mut client = WsClient::connect(gateway.public(), &path, &[]);
            let id = crate::support::http1::field(&client.headers, "x-request-id").unwrap().to_owned();
            for message in
                [Message::text("one"), Message::binary("xyz"), Message::text("a secret"), Message::text("two")]
            {
                let _ = client.send_if_open(message);
            }
            let mut expected = expected.to_vec();
            let got = if direction == "down" {
                let _ = client.send_if_open(Message::text("close"));
                read_all(&mut client)
            } else {
                if action != "end" {
                    let _ = client.close_with(1000);
                }
                let seen = read_all(&mut client);
                if action == "end" {
                    assert_eq!(shown(&seen).last().unwrap(), "close 1008", "{path}: {seen:?}");
                }
                upstream.until_close()
            };
            let mut got = shown(&got);
            if direction == "down" && action != "end" {
                // The server's own close carries no code.
                assert_eq!(got.pop().as_deref(), Some("close 0"), "{path}: {got:?}");
                expected.pop();
            }
            assert_eq!(got, expected, "{path}");
            upstream.received.lock().unwrap().clear();
            let line = gateway.access_log_for(&id);
            assert_eq!(line["end"], if action == "end" { "stopped" } else { "done" }, "{path}: {line}");
        }
    }
}

#[test]
fn a_message_that_is_too_long_closes_both_sides() {
    let upstream = Echo::start();
    let gateway = gateway(upstream.address, "");
    let mut client = WsClient::connect(gateway.public(), "/ws/up/observe", &[]);
    client.send_text(&"x".repeat(1000));
    assert_eq!(client.read().len(), 1000);
    client.send_text(&"x".repeat(1001));
    assert_eq!(shown(&read_all(&mut client)), ["close 1009"]);
    assert_eq!(shown(&upstream.until_close()).last().unwrap(), "close 1009");
    gateway.wait_for_event("tapped", |it| it["how"] == "too large" && it["direction"] == "request");
    gateway.wait_for_event("request", |it| it["path"] == "/ws/up/observe" && it["end"] == "stopped");
}

/// Fragments, a ping in between, cut anywhere; and a handshake without extensions.
#[test]
fn rfc_6455_5_4_a_message_in_fragments_is_one_message() {
    let mut frames = b"\x01\x05a sec\x89\x01p\x00\x02re\x80\x01t".to_vec();
    frames.extend(b"\x82\x02\xff\xfe\x88\x02\x03\xe8");
    let upstream = RawUpstream::start(move |_: &Request| {
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        frames.iter().fold(Script::new().send(head), |script, it| script.send([*it])).await_close()
    });
    let gateway = gateway(upstream.address(), "");
    let mut client = RawClient::connect(gateway.public());
    client.send(
        "GET /ws/down/replace HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\
         sec-websocket-extensions: permessage-deflate\r\n\r\n",
    );
    assert_eq!(client.read_head().status, 101);
    let expected = b"\x89\x01p\x81\x05a ***\x82\x02\xff\xfe\x88\x02\x03\xe8";
    assert_eq!(client.read_exactly(expected.len()), expected);
    let asked = String::from_utf8_lossy(&upstream.received()[0]).to_lowercase();
    assert!(asked.contains("upgrade: websocket") && !asked.contains("extensions"), "{asked}");
}

#[test]
fn what_is_no_websocket_is_closed_and_does_not_pass() {
    let upstream = RawUpstream::start(|it: &Request| {
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n";
        if it.target().ends_with("replace") {
            return Script::new()
                .send(format!("{head}sec-websocket-extensions: permessage-deflate\r\n\r\n"))
                .await_close();
        }
        Script::new().send(format!("{head}\r\n")).send(b"\xc1\x01x").await_close()
    });
    let gateway = gateway(upstream.address(), "");
    let ask = |path: &str| {
        let mut client = RawClient::connect(gateway.public());
        client.send(format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n"
        ));
        client
    };
    let mut client = ask("/ws/down/observe");
    assert_eq!(client.read_head().status, 101);
    assert_eq!(client.read_exactly(4), b"\x88\x02\x03\xea");
    assert_eq!(code(&ask("/ws/down/replace").read_response()), "upstream_protocol_error");
}

fn gzipped(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    std::io::Write::write_all(&mut encoder, text).unwrap();
    encoder.finish().unwrap()
}

/// What comes in a coding all the same is read, and goes on as the text that it is.
#[test]
fn what_is_compressed_is_seen_as_text() {
    let brotli = {
        let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 19);
        std::io::Write::write_all(&mut encoder, TEXT.as_bytes()).unwrap();
        encoder.into_inner()
    };
    let packed = [
        ("gzip", [gzipped(b"one sec"), gzipped(b"ret two")].concat()),
        ("br", brotli),
        ("zstd", zstd::encode_all(TEXT.as_bytes(), 3).unwrap()),
    ];
    let answers = packed.clone();
    let upstream = RawUpstream::start(move |it| match it.target().rsplit('/').next().unwrap() {
        "plain" => Script::ok("plain"),
        coding => {
            let body = &answers.iter().find(|it| it.0 == coding).unwrap().1;
            Script::answer(200, &[("content-encoding", coding), ("etag", "\"x\"")], body)
        }
    });
    let gateway = gateway(upstream.address(), "");
    let mut http2 = H2Client::connect(gateway.public());
    for (coding, body) in packed {
        for see in ["body", "piece"] {
            let path = format!("/{see}/replace/{coding}");
            for answer in [gateway.get(&path), http2.get(&path)] {
                assert_eq!((answer.status, answer.text().as_str()), (200, "one *** two"), "{path}");
                assert_eq!((answer.header("content-encoding"), answer.header("etag")), (None, None), "{path}");
            }
            let head = gateway.request("HEAD", &path, &[], b"");
            assert_eq!((head.header("content-encoding"), head.header("content-length")), (None, None), "{path}");
            let path = format!("/both/{see}/replace/plain");
            assert_eq!(gateway.request("POST", &path, &[("content-encoding", coding)], &body).text(), "plain");
            let (head, text) = arrived(upstream.requests().last().unwrap());
            assert_eq!(text, "one *** two", "{path} in {coding}");
            assert!(!head.contains("content-encoding"), "{head}");
        }
    }
}

#[test]
fn what_unfolds_too_far_or_not_at_all_ends_in_an_error() {
    let bomb = gzipped(&vec![b'x'; 32 << 20]);
    let (whole, cut) = (bomb.clone(), gzipped(TEXT.as_bytes()));
    let cut = cut[..cut.len() - 4].to_vec();
    let broken = cut.clone();
    let upstream = RawUpstream::start(move |it| match it.target().rsplit('/').next().unwrap() {
        "bomb" => Script::answer(200, &[("content-encoding", "gzip")], &whole),
        "cut" => Script::answer(200, &[("content-encoding", "gzip")], &broken),
        _ => Script::ok("plain"),
    });
    let gateway = gateway(upstream.address(), "");
    for (path, expected) in
        [("/body/observe/bomb", "response_too_large"), ("/body/observe/cut", "upstream_protocol_error")]
    {
        let answer = gateway.get(path);
        assert_eq!((answer.status, code(&answer).as_str()), (502, expected), "{path}");
    }
    for path in ["/piece/observe/bomb", "/piece/observe/cut"] {
        let cut = crate::support::http1::try_request(gateway.public(), "GET", path, &[], b"");
        assert!(cut.is_err(), "{cut:?}");
        gateway.wait_for_event("request", |it| it["path"] == path && it["end"] == "truncated");
    }
    let before = upstream.requests().len();
    for see in ["body", "piece"] {
        let path = format!("/both/{see}/observe/plain");
        let post = |body: &[u8]| gateway.request("POST", &path, &[("content-encoding", "gzip")], body);
        let (large, broken) = (post(&bomb), post(&cut));
        assert_eq!((large.status, code(&large).as_str()), (413, "body_too_large"), "{path}");
        assert_eq!((broken.status, code(&broken).as_str()), (400, "bad_request"), "{path}");
    }
    let whole = |it: &&Vec<u8>| it.ends_with(b"0\r\n\r\n");
    let arrived = upstream.requests()[before..].iter().filter(whole).count();
    assert_eq!(arrived, 0, "an upstream got the end of a body that has none");
    let decoders = || crate::support::figure(&gateway, "moongate_decoders_active");
    crate::support::eventually("no decoder is left over", || (decoders() == Some(0.0)).then_some(()));
}

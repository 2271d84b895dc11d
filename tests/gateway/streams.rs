//! Streams: events and sockets pass as they come, end when they should, and outlive reloads.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use http::Request as HttpRequest;

use crate::exchange::{H2C, in_front_of, routes};
use crate::support::http1::RawClient;
use crate::support::upstream::{chunk, chunked_head, last_chunk};
use crate::support::{DEADLINE, Demo, Gateway, H2Client, Message, RawUpstream, Script, Signal, WsClient};

const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const WISH: &str = "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// As soon as it may be: half of the grace is for those who say goodbye.
const SHORT_STOP: &str = "shutdown: { delay: 1ms, grace: 2s }\n";

/// A route for WebSockets at `/ws` and one for all the rest, to one upstream.
fn with_sockets(endpoint: SocketAddr, settings: &str) -> String {
    routes(&[endpoint], "")
        + &format!("  - {{ name: socket, match: {{ path: /ws, websocket: true }}, upstream: up, {settings} }}\n")
}

fn in_progress(demo: &Demo) -> u64 {
    crate::support::get(demo.address(), "/health").json()["in_progress"].as_u64().unwrap()
}

#[track_caller]
fn wait_until_idle(demo: &Demo) {
    let end = Instant::now() + DEADLINE;
    while in_progress(demo) > 0 {
        assert!(Instant::now() < end, "the upstream still works for somebody who left");
    }
}

#[track_caller]
fn wait_until_busy(demo: &Demo) {
    let end = Instant::now() + DEADLINE;
    while in_progress(demo) == 0 {
        assert!(Instant::now() < end, "the request does not arrive");
    }
}

/// Whether nothing but the end comes; it may come in an empty frame.
async fn ends_whole(body: &mut h2::RecvStream) -> bool {
    while let Some(piece) = body.data().await {
        if !piece.is_ok_and(|it| it.is_empty()) {
            return false;
        }
    }
    true
}

/// An upstream that sends an event each time it is told to.
fn paced(first: &Signal, second: &Signal) -> RawUpstream {
    let (first, second) = (first.clone(), second.clone());
    RawUpstream::start(move |_| {
        let script = Script::new().read_body().send(EVENTS).send(chunk(b"data: 1\n\n"));
        script.wait(&first).send(chunk(b"data: 2\n\n")).wait(&second).send(last_chunk(&[]))
    })
}

#[test]
fn events_pass_one_by_one_as_they_come() {
    let (first, second) = (Signal::new(), Signal::new());
    let upstream = paced(&first, &second);
    let gateway = in_front_of(&upstream, "");
    let mut client = RawClient::connect(gateway.public());
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    let head = client.read_head();
    assert!(String::from_utf8_lossy(&head.raw).contains("text/event-stream"));
    // The upstream says nothing more until the client has what it said.
    assert_eq!(client.try_read_piece().unwrap().unwrap(), b"data: 1\n\n");
    first.give();
    assert_eq!(client.try_read_piece().unwrap().unwrap(), b"data: 2\n\n");
    second.give();
    assert_eq!(client.try_read_piece().unwrap(), None, "a whole end");
    client.send("GET /api/health HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(client.read_response().status, 200, "and the connection goes on");
}

#[test]
fn events_pass_one_by_one_over_http2() {
    let (first, second) = (Signal::new(), Signal::new());
    let upstream = paced(&first, &second);
    let gateway = in_front_of(&upstream, "");
    let client = H2Client::connect(gateway.public());
    let mut sender = client.sender();
    client.run(async {
        let request = HttpRequest::get("http://x/").body(()).unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(&body.data().await.unwrap().unwrap()[..], b"data: 1\n\n");
        first.give();
        assert_eq!(&body.data().await.unwrap().unwrap()[..], b"data: 2\n\n");
        second.give();
        assert!(ends_whole(&mut body).await);
    });
}

#[test]
fn any_streamed_body_passes_as_it_comes() {
    let go_on = Signal::new();
    let upstream = {
        let go_on = go_on.clone();
        RawUpstream::start(move |_| {
            let script = Script::new().read_body().send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none");
            script.wait(&go_on).send("two")
        })
    };
    let gateway = in_front_of(&upstream, "");
    let mut client = RawClient::connect(gateway.public());
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    client.read_head();
    assert_eq!(client.try_read_piece().unwrap().unwrap(), b"one");
    go_on.give();
    assert_eq!(client.try_read_piece().unwrap().unwrap(), b"two");
}

#[test]
fn s2s_21_a_client_that_leaves_cancels_the_upstream_call_at_once() {
    let demo = Demo::start("one");
    let gateway = Gateway::with(routes(&[demo.address()], "")).config(H2C).start();
    let slow = ["/slow?ms=600000", "/sse?events=1000&every_ms=600000"];
    for target in slow {
        // By FIN, by RST, and by a reset of its stream.
        for way in ["fin", "rst"] {
            let mut client = RawClient::connect(gateway.public());
            client.send(format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n"));
            wait_until_busy(&demo);
            match way {
                "rst" => client.reset(),
                _ => drop(client),
            }
            wait_until_idle(&demo);
        }
        let client = H2Client::connect(gateway.public());
        let mut sender = client.sender();
        client.run(async {
            let request = HttpRequest::get(format!("http://x{target}")).body(()).unwrap();
            let (answer, mut stream) = sender.send_request(request, true).unwrap();
            // Sent by the connection's own task, on another thread.
            wait_until_busy(&demo);
            stream.send_reset(h2::Reason::CANCEL);
            drop(answer);
            wait_until_idle(&demo);
        });
    }
    // Streams count their requests as ended by their clients.
    assert!(gateway.wait_for_event("request", |it| it["end"] == "client_gone").is_object());
}

#[test]
fn an_upstream_that_stops_sending_ends_the_stream_after_its_idle_limit() {
    let upstream =
        RawUpstream::start(|_| Script::new().read_body().send(EVENTS).send(chunk(b"data: 1\n\n")).await_close());
    // The request's own limit is shorter, and does not count for a stream.
    let gateway = in_front_of(&upstream, "timeouts: { request: 50ms, first_byte: 5s, idle: 300ms }");
    let mut client = RawClient::connect(gateway.public());
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    let head = client.read_head();
    assert_eq!(head.status, 200);
    assert!(client.try_read_piece().unwrap().is_some());
    assert!(client.try_read_piece().is_err(), "cut, not ended");
    upstream.wait_for_closed(1);
}

// ── WebSockets ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_websocket_passes_messages_in_both_directions() {
    let demo = Demo::start("one");
    let gateway = Gateway::start(with_sockets(demo.address(), ""));
    let mut socket = WsClient::connect(gateway.public(), "/ws", &[("sec-websocket-protocol", "chat, other")]);
    assert!(socket.headers.iter().any(|it| it.0 == "sec-websocket-protocol" && it.1 == "chat"));
    for size in [0, 1, 125, 126, 65_535, 65_536, 1_000_000] {
        let message = crate::exchange::pattern(size);
        socket.send_binary(&message);
        assert!(socket.read() == Message::binary(message), "{size} bytes");
    }
    socket.send(Message::Ping(b"you".to_vec().into()));
    assert_eq!(socket.read(), Message::Pong(b"you".to_vec().into()));
    socket.close(1000, "done");
    wait_until_idle(&demo);
}

#[test]
fn a_websockets_client_that_vanishes_ends_the_upstreams_side() {
    let demo = Demo::start("one");
    let gateway = Gateway::start(with_sockets(demo.address(), ""));
    let mut client = RawClient::connect(gateway.public());
    client.send(WISH);
    assert_eq!(client.read_head().status, 101);
    client.reset();
    wait_until_idle(&demo);
}

#[test]
fn frames_glued_to_the_101_and_frames_after_it_arrive() {
    let upstream = RawUpstream::start(|_| {
        let glued = [UPGRADED.as_bytes(), b"\x81\x02hi"].concat();
        Script::new().send(glued).read_more(8).send(b"\x81\x03you").await_close()
    });
    let gateway = Gateway::start(with_sockets(upstream.address(), ""));
    for _ in 0..50 {
        let mut client = RawClient::connect(gateway.public());
        client.send(WISH);
        assert_eq!(client.read_head().status, 101);
        assert_eq!(client.read_exactly(4), b"\x81\x02hi");
        client.send(b"\x81\x82\0\0\0\0ab");
        assert_eq!(client.read_exactly(5), b"\x81\x03you");
    }
    assert!(upstream.requests().iter().all(|it| it.ends_with(b"\r\n\r\n\x81\x82\0\0\0\0ab")));
}

#[test]
fn a_no_to_an_upgrade_is_an_ordinary_answer() {
    let upstream = RawUpstream::start(|_| Script::answer(403, &[("x-why", "no")], "not you"));
    let gateway = Gateway::start(with_sockets(upstream.address(), ""));
    let answer = WsClient::try_connect(gateway.public(), "/ws", &[]).err().unwrap();
    assert_eq!((answer.status, answer.header("x-why")), (403, Some("no")));
    let mut client = RawClient::connect(gateway.public());
    for _ in 0..2 {
        client.send(WISH);
        assert_eq!(client.read_response().text(), "not you");
    }
}

#[test]
fn every_filter_runs_on_an_upgrade() {
    let upstream = RawUpstream::start(|_| Script::new().send(UPGRADED).await_close());
    let settings = "rewrite: { path: /inner, headers: { set: { x-added: \"yes\" }, remove: [x-secret] } }, \
                    headers: { set: { x-answer: \"edited\" } }";
    let gateway = Gateway::start(with_sockets(upstream.address(), settings));
    let mut client = RawClient::connect(gateway.public());
    client.send(WISH.replace("host: x\r\n", "host: x\r\nx-secret: s\r\nx-forwarded-for: 6.6.6.6\r\n"));
    let head = client.read_head();
    let field = |name: &str| crate::support::http1::field(&head.headers, name).map(str::to_owned);
    assert_eq!(field("x-answer").as_deref(), Some("edited"));
    assert!(field("x-request-id").is_some());
    let request = String::from_utf8(upstream.requests().remove(0)).unwrap().to_lowercase();
    assert!(request.starts_with("get /inner http/1.1\r\n"), "{request}");
    for there in ["x-added: yes\r\n", "x-forwarded-for: 127.0.0.1\r\n", "traceparent: ", "upgrade: websocket\r\n"] {
        assert!(request.contains(there), "{there} {request}");
    }
    assert!(!request.contains("x-secret"), "{request}");
}

#[test]
fn a_websocket_has_an_idle_limit_of_its_own() {
    let demo = Demo::start("one");
    let text = with_sockets(demo.address(), "")
        + "  - { name: brief, match: { path: /brief, websocket: true }, upstream: up, \
           rewrite: { path: /ws }, timeouts: { idle: 300ms } }\n"
        + "defaults: { timeouts: { request: 400ms, first_byte: 400ms, idle: 300ms } }\n";
    let gateway = Gateway::start(text);
    let mut lasting = WsClient::connect(gateway.public(), "/ws", &[]);
    let mut brief = WsClient::connect(gateway.public(), "/brief", &[]);
    // The limits of ordinary requests pass, and then the brief socket's own.
    assert_eq!(gateway.get("/slow?ms=600000").status, 504);
    assert!(brief.try_read().is_err(), "cut after its own limit");
    lasting.send_text("still here");
    assert_eq!(lasting.read(), Message::text("still here"));
}

#[test]
fn a_reload_touches_neither_stream_nor_socket() {
    let demo = Demo::start("one");
    let (first, second) = (Signal::new(), Signal::new());
    let upstream = paced(&first, &second);
    let text = with_sockets(demo.address(), "").replace(
        "upstreams:\n",
        &format!("upstreams:\n  events: {{ discovery: {{ static: [\"{}\"] }} }}\n", upstream.address()),
    ) + "  - { name: events, match: { path: /events }, upstream: events }\n";
    let gateway = Gateway::start(text);
    let mut socket = WsClient::connect(gateway.public(), "/ws", &[]);
    let mut events = RawClient::connect(gateway.public());
    events.send("GET /events HTTP/1.1\r\nhost: x\r\n\r\n");
    events.read_head();
    assert!(events.try_read_piece().unwrap().is_some());
    // Their routes and upstreams are gone from the new file.
    gateway.write_routes("version: 1\nroutes: [{ name: other, match: { path: /other }, respond: { body: new } }]\n");
    let answer = gateway.reload();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(gateway.get("/events").status, 404, "the new routes serve");
    socket.send_text("old times");
    assert_eq!(socket.read(), Message::text("old times"));
    first.give();
    assert_eq!(events.try_read_piece().unwrap().unwrap(), b"data: 2\n\n");
    second.give();
    assert_eq!(events.try_read_piece().unwrap(), None);
}

#[test]
fn a_thousand_of_a_thousand_handshakes_succeed() {
    let demo = Demo::start("one");
    let gateway = Gateway::start(with_sockets(demo.address(), ""));
    let address = gateway.public();
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            thread::spawn(move || {
                for turn in 0..125 {
                    let mut socket = WsClient::connect(address, "/ws", &[]);
                    let text = format!("{thread}/{turn}");
                    socket.send_text(&text);
                    assert_eq!(socket.read(), Message::text(text));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    wait_until_idle(&demo);
}

// ── A stop ──────────────────────────────────────────────────────────────────────────────────────

fn stopping(text: String) -> Gateway {
    Gateway::with(text).config(format!("{H2C}{SHORT_STOP}")).start()
}

#[test]
fn at_a_stop_both_sides_of_a_websocket_are_told() {
    let upstream = RawUpstream::start(|_| Script::new().send(UPGRADED).send(b"\x81\x02hi").read_more(8).await_close());
    let mut gateway = stopping(with_sockets(upstream.address(), ""));
    let mut client = RawClient::connect(gateway.public());
    client.send(WISH);
    client.read_head();
    assert_eq!(client.read_exactly(4), b"\x81\x02hi");
    client.send(b"\x81\x82\0\0\0\0ab");
    upstream.wait_for_received(|it| it[0].ends_with(b"ab"));
    gateway.sigterm();
    assert_eq!(client.read_until_close(), b"\x88\x02\x03\xe9", "going away");
    drop(client);
    upstream.wait_for_closed(1);
    let received = upstream.received().remove(0);
    let farewell = &received[received.len() - 8..];
    assert_eq!(farewell[..2], *b"\x88\x82");
    assert_eq!([farewell[6] ^ farewell[2], farewell[7] ^ farewell[3]], [0x03, 0xe9]);
    assert_eq!(gateway.wait_exit(), 0);
    assert!(gateway.events("request").iter().any(|it| it["end"] == "drained"), "{}", gateway.log_tail());
}

#[test]
fn at_a_stop_a_websocket_client_by_the_book_sees_1001() {
    let demo = Demo::start("one");
    let mut gateway = stopping(with_sockets(demo.address(), ""));
    let mut socket = WsClient::connect(gateway.public(), "/ws", &[]);
    socket.send_text("hi");
    socket.read();
    gateway.sigterm();
    match socket.read() {
        Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1001),
        other => panic!("{other:?}"),
    }
    assert_eq!(gateway.wait_exit(), 0);
}

#[test]
fn at_a_stop_no_word_of_ours_gets_into_the_middle_of_a_frame() {
    let upstream = RawUpstream::start(|_| Script::new().send(UPGRADED).send(b"\x81\x05he").await_close());
    let mut gateway = stopping(with_sockets(upstream.address(), ""));
    let mut client = RawClient::connect(gateway.public());
    client.send(WISH);
    client.read_head();
    assert_eq!(client.read_exactly(4), b"\x81\x05he");
    client.send(b"\x81\x85\0\0");
    upstream.wait_for_received(|it| it[0].ends_with(b"\x81\x85\0\0"));
    gateway.sigterm();
    client.expect_closed();
    upstream.wait_for_closed(1);
    assert!(upstream.received()[0].ends_with(b"\r\n\r\n\x81\x85\0\0"), "nor to the upstream");
    assert_eq!(gateway.wait_exit(), 0);
}

#[test]
fn at_a_stop_an_event_stream_ends_whole() {
    let upstream =
        RawUpstream::start(|_| Script::new().read_body().send(EVENTS).send(chunk(b"data: 1\n\n")).await_close());
    let mut gateway = stopping(routes(&[upstream.address()], ""));
    let mut client = RawClient::connect(gateway.public());
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    client.read_head();
    assert!(client.try_read_piece().unwrap().is_some());
    let h2 = H2Client::connect(gateway.public());
    let mut sender = h2.sender();
    let mut body = h2.run(async {
        let (answer, _) = sender.send_request(HttpRequest::get("http://x/").body(()).unwrap(), true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert!(body.data().await.unwrap().is_ok());
        body
    });
    gateway.sigterm();
    assert_eq!(client.try_read_piece().unwrap(), None, "a last chunk");
    assert!(h2.run(ends_whole(&mut body)), "no reset");
    client.expect_closed();
    drop((body, sender, h2));
    upstream.wait_for_closed(2);
    assert_eq!(gateway.wait_exit(), 0);
}

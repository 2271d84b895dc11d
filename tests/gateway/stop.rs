//! The stop: what is under way ends well, and then the process does (US-013).

use std::io::{Read, Write};

use super::support::http1::{connect, request_bytes};
use super::support::upstream::{answer_bytes, chunk};
use super::support::*;

fn config(delay: &str, grace: &str) -> String {
    format!(
        "listeners:\n  public: [{{ address: \"127.0.0.1:0\", h2c: true }}]\n  admin: {{ address: \"127.0.0.1:0\" }}\n\
         shutdown: {{ delay: {delay}, grace: {grace} }}\n"
    )
}

fn routes(upstream: std::net::SocketAddr) -> String {
    format!(
        "version: 1\nupstreams:\n  back: {{ discovery: {{ static: [\"{upstream}\"] }} }}\nroutes:\n  \
         - {{ name: up, match: {{ path: \"/{{*rest}}\" }}, upstream: back }}\n  \
         - {{ name: ws, match: {{ path: /ws, websocket: true }}, upstream: back }}\n  \
         - {{ name: hello, match: {{ path: /hello }}, respond: {{ body: hello }} }}\n"
    )
}

/// An upstream that answers when it is let, and says when it was asked.
fn held() -> (RawUpstream, Signal, Signal) {
    let (arrived, release) = (Signal::new(), Signal::new());
    let (here, go) = (arrived.clone(), release.clone());
    let upstream = RawUpstream::start(move |_| {
        Script::new().read_body().give(&here).wait(&go).send(answer_bytes(200, &[], b"whole"))
    });
    (upstream, arrived, release)
}

fn ask(gateway: &Gateway, path: &str) -> RawClient {
    let mut client = RawClient::connect(gateway.public());
    client.send(request_bytes(gateway.public(), "GET", path, &[("connection", "keep-alive")], b""));
    client
}

/// Waits until nobody new is let in.
#[track_caller]
fn wait_until_refused(gateway: &Gateway) {
    eventually("new connections are refused", || RawClient::try_connect(gateway.public()).is_err().then_some(()));
}

#[test]
fn us_013_ready_says_no_at_once_while_new_connections_are_still_served() {
    let mut gateway = Gateway::with(routes(nobody())).config(config("1h", "1h")).start();
    assert_eq!(gateway.admin_get("/api/v1/health/ready").status, 200);
    gateway.sigterm();
    gateway.wait_for_event("draining", |_| true);
    let ready = gateway.admin_get("/api/v1/health/ready");
    assert_eq!(
        (ready.status, &ready.json()["status"], &ready.json()["reason"]),
        (503, &"not_ready".into(), &"draining".into())
    );
    assert_eq!(gateway.admin_get("/api/v1/health/live").status, 200, "it is not to be killed");
    for _ in 0..3 {
        // And told that it is the last answer of this connection.
        let answer = gateway.request("GET", "/hello", &[("connection", "keep-alive")], b"");
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    }
    assert!(gateway.process().running());
    gateway.sigterm();
    assert_eq!(gateway.wait_exit(), 0, "the second signal stops at once");
}

#[test]
fn us_013_requests_in_flight_finish_and_then_it_exits() {
    let (upstream, arrived, release) = held();
    let mut gateway = Gateway::with(routes(upstream.address())).config(config("200ms", "1h")).start();
    let mut idle = ask(&gateway, "/hello");
    assert_eq!(idle.read_response().status, 200);
    let mut busy = ask(&gateway, "/slow");
    assert!(arrived.wait());
    gateway.sigterm();
    wait_until_refused(&gateway);
    idle.expect_closed();
    assert!(gateway.process().running(), "somebody still waits");
    assert_eq!(gateway.admin_get("/api/v1/health/ready").status, 503);
    release.give();
    let answer = busy.read_response();
    assert_eq!((answer.status, answer.text().as_str(), answer.header("connection")), (200, "whole", Some("close")));
    busy.expect_closed();
    // Far sooner than the grace of an hour.
    assert_eq!(gateway.wait_exit(), 0);
    assert_eq!(gateway.access_log_for(answer.header("x-request-id").unwrap())["status"], 200);
    gateway.wait_for_event("stopped", |_| true);
}

#[test]
fn us_013_an_upload_under_way_is_taken_to_its_end() {
    let upstream = RawUpstream::start(|_| Script::ok("got it"));
    let mut gateway = Gateway::with(routes(upstream.address())).config(config("0s", "1h")).start();
    let mut client = RawClient::connect(gateway.public());
    client.send("POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345");
    upstream.wait_for_requests(1);
    gateway.sigterm();
    wait_until_refused(&gateway);
    client.send("67890");
    assert_eq!(client.read_response().text(), "got it");
    assert_eq!(gateway.wait_exit(), 0);
}

#[test]
fn us_013_what_outlasts_the_grace_is_cut_and_the_exit_is_clean() {
    let (upstream, arrived, _release) = held();
    let mut gateway = Gateway::with(routes(upstream.address())).config(config("0s", "500ms")).start();
    let mut client = ask(&gateway, "/slow");
    assert!(arrived.wait());
    gateway.sigterm();
    assert_eq!(client.read_until_close(), b"", "no half of an answer");
    assert_eq!(gateway.wait_exit(), 0);
    assert_eq!(gateway.events("connections_cut")[0]["connections"], 1);
    let lines = gateway.events("request");
    assert_eq!((lines.len(), &lines[0]["end"], &lines[0]["route"]), (1, &"drained".into(), &"up".into()));
}

#[test]
fn us_013_an_event_stream_ends_whole_at_the_end_of_the_grace() {
    let upstream = RawUpstream::start(|_| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        Script::new().send(head).send(chunk(b"data: 1\n\n")).await_close()
    });
    let mut gateway = Gateway::with(routes(upstream.address())).config(config("0s", "2s")).start();
    let mut client = ask(&gateway, "/events");
    assert_eq!(client.read_head().status, 200);
    assert_eq!(client.try_read_piece().unwrap().unwrap(), b"data: 1\n\n");
    gateway.sigterm();
    assert_eq!(client.try_read_piece().unwrap(), None, "the last chunk is there: the client may come back elsewhere");
    client.expect_closed();
    upstream.wait_for_closed(1);
    assert_eq!(gateway.wait_exit(), 0);
    assert_eq!(gateway.events("request")[0]["end"], "drained");
    assert!(gateway.events("connections_cut").is_empty());
}

#[test]
fn us_013_a_websocket_is_closed_at_the_end_of_the_grace() {
    let demo = Demo::start("one");
    let mut gateway = Gateway::with(routes(demo.address())).config(config("0s", "2s")).start();
    let mut socket = WsClient::connect(gateway.public(), "/ws", &[]);
    socket.send_text("before");
    assert_eq!(socket.read(), Message::text("before"));
    gateway.sigterm();
    wait_until_refused(&gateway);
    // By the book: it goes away (RFC 6455, section 7.4.1).
    match socket.read() {
        Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1001),
        other => panic!("{other:?}"),
    }
    assert_eq!(gateway.wait_exit(), 0);
    assert_eq!(gateway.events("request")[0]["end"], "drained");
}

#[test]
fn us_013_a_websocket_works_until_the_grace_is_over() {
    let demo = Demo::start("one");
    let mut gateway = Gateway::with(routes(demo.address())).config(config("0s", "1h")).start();
    let mut socket = WsClient::connect(gateway.public(), "/ws", &[]);
    gateway.sigterm();
    wait_until_refused(&gateway);
    socket.send_text("still here");
    assert_eq!(socket.read(), Message::text("still here"));
    socket.close(1000, "done");
    assert_eq!(gateway.wait_exit(), 0, "as soon as the last one has gone");
}

#[test]
fn a_second_signal_stops_at_once() {
    for second in ["TERM", "INT"] {
        let (upstream, arrived, _release) = held();
        let mut gateway = Gateway::with(routes(upstream.address())).config(config("0s", "1h")).start();
        let mut client = ask(&gateway, "/slow");
        assert!(arrived.wait());
        gateway.sigterm();
        wait_until_refused(&gateway);
        assert!(gateway.process().running());
        gateway.process().signal(second);
        assert_eq!(client.read_until_close(), b"");
        assert_eq!(gateway.wait_exit(), 0);
        assert_eq!(gateway.events("stopped_at_once").len(), 1);
    }
}

#[test]
fn a_reload_wished_for_while_stopping_cuts_nobody_off() {
    let (upstream, arrived, release) = held();
    let mut gateway = Gateway::with(routes(upstream.address())).config(config("0s", "1h")).start();
    let mut client = ask(&gateway, "/slow");
    assert!(arrived.wait());
    gateway.sigterm();
    wait_until_refused(&gateway);
    gateway.sighup();
    gateway.wait_for_event("reload_refused", |_| true);
    assert_eq!(gateway.admin_get("/api/v1/health/ready").status, 503);
    release.give();
    assert_eq!(client.read_response().text(), "whole");
    assert_eq!(gateway.wait_exit(), 0);
    assert!(gateway.events("reloaded").is_empty() && gateway.events("connections_cut").is_empty());
}

#[test]
fn an_interrupt_stops_without_the_delay() {
    let (upstream, arrived, release) = held();
    let mut gateway = Gateway::with(routes(upstream.address())).config(config("1h", "1h")).start();
    let mut client = ask(&gateway, "/slow");
    assert!(arrived.wait());
    gateway.process().signal("INT");
    wait_until_refused(&gateway);
    release.give();
    assert_eq!(client.read_response().text(), "whole");
    assert_eq!(gateway.wait_exit(), 0);
}

#[test]
fn a_signal_right_after_it_listens_is_a_stop_and_no_crash() {
    for signal in ["TERM", "INT"] {
        let mut gateway = Gateway::with(routes(nobody())).config(config("0s", "1h")).start();
        gateway.process().signal(signal);
        assert_eq!(gateway.wait_exit(), 0);
    }
}

#[test]
fn http2_clients_are_told_to_go_away_and_finish_what_they_began() {
    let (upstream, arrived, release) = held();
    let mut gateway = Gateway::with(routes(upstream.address())).config(config("0s", "1h")).start();
    let mut wire = connect(gateway.public()).unwrap();
    wire.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    wire.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap(); // SETTINGS
    // HEADERS with END_STREAM and END_HEADERS: GET, http, /slow, x
    let fields = b"\x82\x86\x04\x05/slow\x01\x01x";
    wire.write_all(&[0, 0, fields.len() as u8, 1, 5, 0, 0, 0, 1]).unwrap();
    wire.write_all(fields).unwrap();
    assert!(arrived.wait());
    gateway.sigterm();
    let mut told = false;
    let (mut body, mut ended) = (Vec::new(), false);
    while let Some((kind, flags, stream, payload)) = frame(&mut wire) {
        match kind {
            4 if flags == 0 => wire.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).unwrap(),
            6 if flags == 0 => {
                wire.write_all(&[0, 0, 8, 6, 1, 0, 0, 0, 0]).unwrap();
                wire.write_all(&payload).unwrap();
            }
            7 => {
                assert_eq!(&payload[4..8], &[0; 4], "no error");
                told = true;
                release.give();
            }
            0 | 1 => {
                assert_eq!(stream, 1);
                if kind == 0 {
                    body.extend(payload);
                }
                ended |= flags & 1 == 1;
            }
            3 => panic!("the stream was reset: {payload:?}"),
            _ => {}
        }
    }
    assert!(told && ended, "told: {told}, ended: {ended}");
    assert_eq!(body, b"whole");
    assert_eq!(gateway.wait_exit(), 0);
}

/// The next frame: type, flags, stream, payload; nothing at the end of the connection.
fn frame(wire: &mut impl Read) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    match wire.read_exact(&mut head) {
        Err(error) if http1::closed(&error) => return None,
        outcome => outcome.unwrap(),
    }
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; length];
    wire.read_exact(&mut payload).unwrap();
    Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}

#[test]
fn a_failure_told_during_the_stop_ends_its_connection_too() {
    let arrived = Signal::new();
    let here = arrived.clone();
    let release = Signal::new();
    let go = release.clone();
    let upstream = RawUpstream::start(move |_| Script::new().read_body().give(&here).wait(&go).close());
    let mut gateway = Gateway::with(routes(upstream.address())).config(config("0s", "1h")).start();
    let mut client = RawClient::connect(gateway.public());
    client.send(request_bytes(gateway.public(), "POST", "/slow", &[("connection", "keep-alive")], b"x"));
    assert!(arrived.wait());
    gateway.sigterm();
    wait_until_refused(&gateway);
    release.give();
    let answer = client.read_response();
    assert_eq!((answer.status, answer.header("connection")), (502, Some("close")));
    assert_eq!(gateway.wait_exit(), 0);
}

#[test]
fn connections_without_a_request_do_not_keep_it_from_stopping() {
    let mut gateway = Gateway::with(routes(nobody())).config(config("0s", "1h")).start();
    let mut http2 = H2Client::connect(gateway.public());
    assert_eq!(http2.get("/hello").text(), "hello");
    let mut kept = ask(&gateway, "/hello");
    assert_eq!(kept.read_response().status, 200);
    let mut fresh = RawClient::connect(gateway.public());
    let mut begun = RawClient::connect(gateway.public());
    begun.send("GET /hello HTTP/1.1\r\nhost:");
    eventually("all four are there", || (figure(&gateway, OPEN) == Some(4.0)).then_some(()));
    gateway.sigterm();
    for client in [&mut kept, &mut fresh] {
        client.expect_closed();
    }
    assert_eq!(gateway.wait_exit(), 0);
    begun.read_until_close();
    assert!(http2.try_request("GET", "/hello", &[], b"", None).is_err());
}

const OPEN: &str = "moongate_connections_open{listener=\"public\"}";

//! WebSockets whose route says how they are kept: clients that are gone are noticed, and those that stay hear of a stop.

use std::net::SocketAddr;

use crate::exchange::H2C;
use crate::support::*;

const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const WISH: &str = "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const STOP: &str = "shutdown: { delay: 1ms, grace: 4s }\n";

fn gateway(endpoint: SocketAddr, settings: &str) -> Gateway {
    let routes = format!(
        "version: 1\nupstreams:\n  up: {{ discovery: {{ static: [\"{endpoint}\"] }} }}\nroutes:\n  \
         - {{ name: socket, match: {{ path: /ws, websocket: true }}, upstream: up, websocket: {settings} }}\n"
    );
    Gateway::with(routes).config(format!("{H2C}{STOP}")).start()
}

fn raw(gateway: &Gateway) -> RawClient {
    let mut client = RawClient::connect(gateway.public());
    client.send(WISH);
    assert_eq!(client.read_head().status, 101);
    client
}

#[test]
fn a_client_that_answers_no_ping_is_gone() {
    let upstream = RawUpstream::start(|_| Script::new().send(UPGRADED).await_close());
    let gateway = gateway(upstream.address(), "{ ping: 100ms }");
    let mut client = raw(&gateway);
    assert_eq!(client.read_exactly(2), b"\x89\x00");
    client.expect_closed();
    gateway.wait_for_event("request", |it| it["end"] == "client_gone");
    upstream.wait_for_closed(1);
}

#[test]
fn a_client_that_answers_pings_stays() {
    let demo = Demo::start("one");
    let gateway = gateway(demo.address(), "{ ping: 50ms }");
    let mut socket = WsClient::connect(gateway.public(), "/ws", &[]);
    for _ in 0..6 {
        assert!(matches!(socket.read(), Message::Ping(_)), "it answers by itself with the next read");
    }
    socket.send_text("still here");
    loop {
        match socket.read() {
            Message::Ping(_) => {}
            other => break assert_eq!(other, Message::text("still here")),
        }
    }
}

#[test]
fn no_ping_gets_into_the_middle_of_a_frame() {
    let go_on = Signal::new();
    let upstream = {
        let go_on = go_on.clone();
        RawUpstream::start(move |_| {
            Script::new().send(UPGRADED).send(b"\x01\x05he").wait(&go_on).send(b"llo").await_close()
        })
    };
    let gateway = gateway(upstream.address(), "{ ping: 60ms }");
    let mut client = raw(&gateway);
    assert_eq!(client.read_exactly(4), b"\x01\x05he");
    client.expect_silence(std::time::Duration::from_millis(300));
    go_on.give();
    // Between the fragments of a message it may stand.
    assert_eq!(client.read_exactly(5), b"llo\x89\x00");
}

#[test]
fn us_013_clients_that_want_to_know_hear_of_a_stop_when_it_begins() {
    let demo = Demo::start("one");
    let mut gateway = gateway(demo.address(), "{ shutdown_message: true }");
    let mut socket = WsClient::connect(gateway.public(), "/ws", &[]);
    gateway.sigterm();
    let Message::Text(text) = socket.read() else { panic!("no text") };
    let message: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&message["type"], &message["error"]["code"]),
        (&"server_shutting_down".into(), &"server_shutting_down".into())
    );
    // There is time to finish what it was about.
    socket.send_text("last words");
    assert_eq!(socket.read(), Message::text("last words"));
    match socket.read() {
        Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1001),
        other => panic!("{other:?}"),
    }
    assert_eq!(gateway.wait_exit(), 0);
}

#[test]
fn us_013_the_message_waits_for_the_end_of_another() {
    let go_on = Signal::new();
    let upstream = {
        let go_on = go_on.clone();
        RawUpstream::start(move |_| {
            let script = Script::new().send(UPGRADED).send(b"\x01\x02he");
            script.wait(&go_on).send(b"\x89\x00\x80\x03llo").await_close()
        })
    };
    let mut gateway = gateway(upstream.address(), "{ shutdown_message: true }");
    let mut client = raw(&gateway);
    assert_eq!(client.read_exactly(4), b"\x01\x02he");
    gateway.sigterm();
    gateway.wait_for_event("draining", |_| true);
    go_on.give();
    let bytes = client.read_until_close();
    assert!(bytes.starts_with(b"\x89\x00\x80\x03llo\x81"), "{}", bytes.escape_ascii());
    assert!(bytes.ends_with(b"\x88\x02\x03\xe9"), "{}", bytes.escape_ascii());
    assert_eq!(gateway.wait_exit(), 0);
}

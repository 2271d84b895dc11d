//! **Slow clients**: whoever sends or takes its bytes too slowly is cut at a total deadline, and
//! nobody else waits for it meanwhile. One worker thread, so that waiting would show.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use super::bad_input::http2;
use super::support::*;

/// Everything that could hide a total deadline is far beyond it.
fn config(listener: &str) -> String {
    format!(
        "listeners:
  public:
    - {{ address: \"127.0.0.1:0\"{listener} }}
  admin: {{ address: \"127.0.0.1:0\" }}
threads: 1
"
    )
}

fn routes(upstream: &RawUpstream, timeouts: &str) -> String {
    let address = upstream.address();
    let body = "x".repeat(1 << 20);
    format!(
        "version: 1
defaults: {{ timeouts: {timeouts} }}
upstreams:
  up: {{ discovery: {{ static: [\"{address}\"] }} }}
routes:
  - {{ name: fine, match: {{ path: /fine }}, respond: {{ body: fine }} }}
  - {{ name: large, match: {{ path: /large }}, respond: {{ body: {body} }} }}
  - {{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: up }}
"
    )
}

const FAST: &str = "{ request: 1s, idle: 60s, first_byte: 60s }";
const PATIENT: &str = "{ request: 60s, idle: 60s, first_byte: 60s }";

/// Sends `first`, then `piece` again and again until the gateway has had enough; what it said.
/// Another client is served meanwhile.
fn drip(gateway: &Gateway, first: &[u8], piece: &'static [u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(gateway.public()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.write_all(first).unwrap();
    let mut writer = socket.try_clone().unwrap();
    let dripping = thread::spawn(move || {
        // Faster than one a second, so that a deadline that begins anew with each byte never comes.
        while writer.write_all(piece).is_ok() {
            thread::park_timeout(Duration::from_millis(20));
        }
    });
    assert_eq!(gateway.get("/fine").text(), "fine");
    let said = read_to_end(&mut socket);
    // So that the writer ends even if the gateway would still read.
    let _ = socket.shutdown(std::net::Shutdown::Both);
    dripping.join().unwrap();
    said
}

fn read_to_end(socket: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let mut room = [0; 4096];
    loop {
        match socket.read(&mut room) {
            Ok(0) => return said,
            Ok(count) => said.extend_from_slice(&room[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return said,
            Err(error) => panic!("it is still open: {error}, after '{}'", said.escape_ascii()),
        }
    }
}

fn nothing_arrives() -> RawUpstream {
    RawUpstream::start(|_| Script::silence())
}

#[test]
fn slow_clients_a_header_byte_by_byte_is_cut() {
    let upstream = nothing_arrives();
    let config = config(", limits: { header_timeout: 500ms, keep_alive: 60s }");
    let gateway = Gateway::with(routes(&upstream, PATIENT)).config(config).start();
    let firsts: [&[u8]; 4] =
        [b"GET", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"POST / HTTP/1.1\r\nHost: a\r\nX: "];
    for first in firsts {
        let said = drip(&gateway, first, b"a");
        assert!(said.starts_with(b"HTTP/1.1 408 "), "{}", said.escape_ascii());
        gateway.wait_for_event("request", |it| it["status"] == 408);
    }
    // The second request of a connection has no more time than the first.
    let said = drip(&gateway, b"GET /fine HTTP/1.1\r\nHost: a\r\n\r\nGET /fine HTTP/1.1\r\nX: ", b"a");
    assert!(
        said.starts_with(b"HTTP/1.1 200 ") && said.windows(12).any(|it| it == b"HTTP/1.1 408"),
        "{}",
        said.escape_ascii()
    );
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn slow_clients_who_say_nothing_are_let_go() {
    let upstream = nothing_arrives();
    let config = config(", h2c: true, limits: { header_timeout: 300ms, keep_alive: 300ms }");
    let gateway = Gateway::with(routes(&upstream, PATIENT)).config(config).start();
    let begun: [&[u8]; 3] = [b"", b"PRI * HT", b"\r\n"];
    for first in begun {
        let mut client = RawClient::connect(gateway.public());
        client.send(first);
        client.read_until_close();
    }
    // Idle after a request, by HTTP/1 and HTTP/2.
    let mut client = RawClient::connect(gateway.public());
    client.send("GET /fine HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_response().status, 200);
    client.expect_closed();
    let mut client = RawClient::connect(gateway.public());
    client.send([http2::hello(b""), http2::get(1, "/fine")].concat());
    assert_eq!(http2::end_of(&mut client, 1), http2::End::Status(200));
    client.read_until_close();
    let mut client = RawClient::connect(gateway.public());
    client.send(http2::hello(b""));
    client.read_until_close();
    assert_eq!(gateway.get("/fine").status, 200);
}

#[test]
fn slow_clients_a_body_byte_by_byte_is_cut() {
    let upstream = nothing_arrives();
    let gateway = Gateway::with(routes(&upstream, FAST)).config(config("")).start();
    let length = &b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"[..];
    let chunked = &b"POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"[..];
    for (path, first, piece) in [("/length", length, &b"a"[..]), ("/chunked", chunked, b"1\r\na\r\n")] {
        let said = drip(&gateway, first, piece);
        assert!(said.starts_with(b"HTTP/1.1 408 "), "{}", said.escape_ascii());
        let line = gateway.wait_for_event("request", |it| it["path"] == path);
        assert_eq!((&line["end"], &line["status"]), (&"client_timeout".into(), &408.into()), "{line}");
    }
    // The upstream was let go, and never took half for whole.
    upstream.wait_for_closed(2);
    for bytes in upstream.received() {
        assert!(super::bad_input::exact::requests(&bytes).unwrap()[0].cut);
    }
}

#[test]
fn slow_clients_a_body_byte_by_byte_is_cut_in_http2() {
    let upstream = nothing_arrives();
    let gateway = Gateway::with(routes(&upstream, FAST)).config(config(", h2c: true")).start();
    let mut client = RawClient::connect(gateway.public());
    client.send([http2::hello(b""), http2::post(1, "/slow")].concat());
    for _ in 0..5 {
        client.send(http2::data(1, b"a"));
    }
    assert_eq!(gateway.get("/fine").text(), "fine");
    assert!(matches!(http2::end_of(&mut client, 1), http2::End::Status(408) | http2::End::Reset));
    let line = gateway.wait_for_event("request", |it| it["path"] == "/slow");
    assert_eq!(line["end"], "client_timeout", "{line}");
    upstream.wait_for_closed(1);
}

#[test]
fn slow_clients_a_header_that_is_never_continued_ends_the_http2_connection() {
    let upstream = nothing_arrives();
    let config = config(", h2c: true, limits: { header_timeout: 500ms, keep_alive: 500ms }");
    let gateway = Gateway::with(routes(&upstream, PATIENT)).config(config).start();
    let mut client = RawClient::connect(gateway.public());
    client.send([http2::hello(b""), http2::begun(1)].concat());
    client.read_until_close();
    let piece: &'static [u8] = Box::leak(http2::continued(1).into_boxed_slice());
    drip(&gateway, &[http2::hello(b""), http2::begun(1)].concat(), piece);
    assert_eq!(upstream.connections(), 0);
}

/// 64 MiB, more than any socket's buffer.
fn torrent() -> RawUpstream {
    RawUpstream::start(|_| {
        let mut script =
            Script::new().read_body().send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 64 << 20));
        for _ in 0..64 {
            script = script.send(vec![b'x'; 1 << 20]);
        }
        script
    })
}

#[test]
fn slow_clients_who_never_read_are_cut() {
    let upstream = torrent();
    let config = config(", h2c: true");
    let gateway = Gateway::with(routes(&upstream, FAST)).config(config).start();
    let mut first = RawClient::connect(gateway.public());
    first.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut second = RawClient::connect(gateway.public());
    second.send([http2::hello(b""), http2::get(1, "/two")].concat());
    upstream.wait_for_requests(2);
    assert_eq!(gateway.get("/fine").text(), "fine");
    for path in ["/one", "/two"] {
        let line = gateway.wait_for_event("request", |it| it["path"] == path);
        assert_eq!((&line["end"], &line["status"]), (&"client_timeout".into(), &200.into()), "{line}");
    }
    upstream.wait_for_closed(2);
    // What is left of the first answer ends with a cut, not as if it were whole.
    let cut = first.try_read_response("GET");
    assert!(cut.is_err());
    assert!(matches!(http2::end_of(&mut second, 1), http2::End::Status(200) | http2::End::Closed));
}

#[test]
fn slow_clients_who_never_read_our_own_answers_are_cut() {
    let upstream = nothing_arrives();
    let gateway = Gateway::with(routes(&upstream, FAST)).config(config(", h2c: true")).start();
    let mut client = RawClient::connect(gateway.public());
    // A window of one byte: nothing but heads gets through.
    let window = [0, 4, 0, 0, 0, 1];
    client.send([http2::hello(&window), http2::get(1, "/large")].concat());
    assert_eq!(gateway.get("/fine").text(), "fine");
    let line = gateway.wait_for_event("request", |it| it["path"] == "/large");
    assert_eq!(line["end"], "client_timeout", "{line}");
    // HTTP/1: so many answers, one behind the other, that no buffer holds them.
    let mut client = RawClient::connect(gateway.public());
    client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n".repeat(32));
    let cut = |it: &serde_json::Value| it["path"] == "/large" && it["http"] == "1.1" && it["end"] == "client_timeout";
    gateway.wait_for_event("request", cut);
}

#[test]
fn slow_clients_whose_tls_handshake_never_ends_are_cut() {
    let upstream = nothing_arrives();
    let builder = Gateway::with(routes(&upstream, PATIENT));
    let ca = Ca::new("Test CA");
    ca.write_leaf(builder.folder(), "tls", &["localhost"]);
    let config = config(
        ", tls: { cert: tls/cert.pem, key: tls/key.pem }, limits: { handshake_timeout: 500ms, header_timeout: 500ms, keep_alive: 60s }",
    );
    let gateway = builder.config(config).start();
    let fine = || {
        let client = RawClient::try_connect_tls(gateway.public(), "localhost", ca.client(&["http/1.1"], None));
        let mut client = client.unwrap();
        client.send("GET /fine HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert_eq!(client.read_response().text(), "fine");
    };
    // Nothing, and a hello that announces 512 bytes and never has them.
    for first in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut client = RawClient::connect(gateway.public());
        client.send(first);
        fine();
        client.read_until_close();
    }
    // After the handshake the time for the header runs.
    let mut client = RawClient::try_connect_tls(gateway.public(), "localhost", ca.client(&["http/1.1"], None)).unwrap();
    client.send("GET / HT");
    fine();
    assert_eq!(client.read_response().status, 408);
    assert_eq!(upstream.connections(), 0);
}

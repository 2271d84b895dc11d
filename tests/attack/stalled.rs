//! Clients that take nothing, ask for nothing, or only pretend to do something: what each of them holds is bounded.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::process::Command;

use crate::support::http1::try_request;
use crate::support::*;

pub(super) const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET` with this path, in HPACK without indices of its own.
fn get(stream: u32, path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x01, 0x01, b'x', 0x04, path.len() as u8];
    block.extend_from_slice(path.as_bytes());
    frame(HEADERS, 5, stream, &block)
}

/// A connection of HTTP/2 whose streams have this window.
pub(super) fn hello(address: SocketAddr, window: u32) -> RawClient {
    let mut client = RawClient::connect(address);
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    client.send([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &settings)].concat());
    client
}

/// The next frame: its kind, stream and payload; `None` at the end.
pub(super) fn read_frame(client: &mut RawClient) -> Option<(u8, u32, Vec<u8>)> {
    let head = client.try_read_exactly(9).ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], stream, client.try_read_exactly(length).ok()?))
}

fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[payload.len() - 4..].try_into().unwrap())
}

pub(super) fn open_files(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count()
}

/// What the gateway has read of this file so far, in bytes: its descriptors' files are read by position, so the process
/// is asked.
fn read_bytes(gateway: &Gateway) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", gateway.pid())).unwrap();
    io.lines().find_map(|it| it.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

const FILES: &str = "version: 1\nupstreams: { f: { files: { root: pub } } }\nroutes:\n  - { name: f, match: { path: \"/{*rest}\" }, upstream: f }\n  - { name: ok, match: { path: /ok }, respond: { body: ok } }\n";

fn listener(limits: &str) -> String {
    format!(
        "listeners:\n  public: [{{ address: \"127.0.0.1:0\", h2c: true, limits: {{ {limits} }} }}]\n  admin: {{ address: \"127.0.0.1:0\" }}\n"
    )
}

fn with_file(config: &str, length: usize) -> GatewayBuilder {
    let builder = Gateway::with(FILES).config(config);
    std::fs::create_dir_all(builder.folder().path().join("pub")).unwrap();
    builder.file("pub/big.bin", vec![b'x'; length])
}

#[test]
fn requests_of_one_address_are_bounded_over_http2_as_over_http1() {
    const MOST: usize = 40;
    let gateway = with_file(&listener(&format!("per_address: {MOST}")), 1 << 20).start();
    let before = open_files(&gateway);
    let mut clients: Vec<RawClient> = (0..4).map(|_| hello(gateway.public(), 0)).collect();
    let (mut answered, mut refused) = (0, 0);
    for client in &mut clients {
        (0..30).for_each(|it| client.send(get(1 + 2 * it, "/big.bin")));
        let mut streams = HashSet::new();
        while streams.len() < 30 {
            let (kind, stream, payload) = read_frame(client).unwrap();
            match kind {
                HEADERS if streams.insert(stream) => answered += 1,
                RST_STREAM if streams.insert(stream) => {
                    assert_eq!(code(&payload), REFUSED_STREAM);
                    refused += 1;
                }
                _ => {}
            }
        }
    }
    // The first of each connection stands in the connection's own place.
    assert_eq!((answered, refused), (MOST + 4, 120 - MOST - 4));
    assert!(open_files(&gateway) - before <= MOST + 4 + 8, "{} files", open_files(&gateway) - before);
    let series = "moongate_http2_requests_refused_total{listener=\"public\",reason=\"per_address\"}";
    assert_eq!(figure(&gateway, series), Some(refused as f64));
    drop(clients);
    eventually("the places are given back", || {
        let mut client = hello(gateway.public(), 1 << 20);
        (0..30).for_each(|it| client.send(get(1 + 2 * it, "/ok")));
        let mut heads = 0;
        while heads < 30 {
            match read_frame(&mut client)? {
                (HEADERS, ..) => heads += 1,
                (RST_STREAM, ..) => return None,
                _ => {}
            }
        }
        Some(())
    });
}

#[test]
fn a_file_is_not_read_for_a_stream_that_takes_nothing() {
    let gateway = with_file(&listener("per_address: 0"), 4 << 20).start();
    let before = read_bytes(&gateway);
    let mut client = hello(gateway.public(), 0);
    (0..100).for_each(|it| client.send(get(1 + 2 * it, "/big.bin")));
    let mut heads = 0;
    while heads < 100 {
        heads += usize::from(read_frame(&mut client).unwrap().0 == HEADERS);
    }
    // Another request has passed the same threads since.
    assert_eq!(gateway.get("/ok").status, 200);
    let read = read_bytes(&gateway) - before;
    assert!(read < 1 << 20, "{read} bytes were read");
    // One of them opens its window, byte by byte at first, and gets all of it.
    let open = |client: &mut RawClient, stream: u32, by: u32| {
        client.send(frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes()));
    };
    (0..3).for_each(|_| open(&mut client, 1, 1));
    let mut taken = 0;
    while taken < 3 {
        if let (0, 1, piece) = read_frame(&mut client).unwrap() {
            taken += piece.len();
        }
    }
    open(&mut client, 1, 8 << 20);
    open(&mut client, 0, 8 << 20);
    while taken < 4 << 20 {
        if let (0, 1, piece) = read_frame(&mut client).unwrap() {
            taken += piece.len();
        }
    }
    assert_eq!(taken, 4 << 20);
}

/// Starts the gateway with a limit of open files, as `ulimit -n` sets it.
fn limited(builder: GatewayBuilder, limit: &str) -> Gateway {
    let script = builder.folder().path().join("limited");
    let binary = env!("CARGO_BIN_EXE_moongate");
    std::fs::write(&script, format!("#!/bin/sh\nulimit {limit}\nexec {binary} \"$@\"\n")).unwrap();
    assert!(Command::new("chmod").arg("+x").arg(&script).status().unwrap().success());
    builder.binary(script).start()
}

#[test]
fn stalled_streams_leave_descriptors_for_others_and_for_operators() {
    let gateway = limited(with_file(&listener("connections: 10000"), 1 << 20), "-n 400");
    let told = gateway.wait_for_event("open_files", |it| it["level"] == "warn");
    assert_eq!(told["limit"], 400, "{told}");
    let mut clients: Vec<RawClient> = (0..6).map(|_| hello(gateway.public(), 0)).collect();
    for client in &mut clients {
        (0..100).for_each(|it| client.send(get(1 + 2 * it, "/big.bin")));
        let mut streams = HashSet::new();
        while streams.len() < 100 {
            let (kind, stream, _) = read_frame(client).unwrap();
            if kind == HEADERS || kind == RST_STREAM {
                streams.insert(stream);
            }
        }
    }
    assert!(open_files(&gateway) < 400 - 50, "{} open", open_files(&gateway));
    assert_eq!(gateway.admin_get("/metrics").status, 200);
    let other = std::net::IpAddr::from([127, 0, 0, 7]);
    assert_eq!(asked_from(other, gateway.public(), "/ok"), 200);
    assert!(gateway.events("accept_failed").is_empty());
}

/// A request from another address of this machine.
fn asked_from(address: std::net::IpAddr, to: SocketAddr, path: &str) -> u16 {
    use std::io::{Read, Write};
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(address, 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let mut stream = std::net::TcpStream::from(socket);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer[9..12].parse().unwrap()
}

#[test]
fn the_soft_limit_of_open_files_is_raised_to_the_hard_one() {
    let gateway = limited(with_file(&listener("connections: 100"), 1), "-S -n 300");
    let told = gateway.wait_for_event("open_files", |_| true);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.pid())).unwrap();
    let line = limits.lines().find(|it| it.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = line.split_whitespace().filter(|it| it.parse::<u64>().is_ok()).collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
    assert_eq!((told["level"].as_str(), told["limit"].to_string()), (Some("info"), numbers[1].to_owned()));
}

#[test]
fn control_frames_that_move_no_request_end_their_connection() {
    let gateway = with_file(&listener(""), 1).start();
    let kinds: [(&str, Vec<u8>); 4] = [
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
    ];
    for (ended, (kind, frame)) in kinds.iter().enumerate() {
        let mut client = hello(gateway.public(), 1 << 20);
        client.send(get(1, "/ok"));
        client.send(frame.repeat(2_500));
        let goaway = std::iter::from_fn(|| read_frame(&mut client)).find(|it| it.0 == GOAWAY);
        let (.., payload) = goaway.unwrap_or_else(|| panic!("{kind}: no GOAWAY"));
        assert_eq!(u32::from_be_bytes(payload[4..8].try_into().unwrap()), ENHANCE_YOUR_CALM, "{kind}");
        eventually("it is counted", || {
            figure(&gateway, "moongate_http2_floods_total{listener=\"public\"}").filter(|it| *it == (ended + 1) as f64)
        });
    }
}

#[test]
fn frames_that_come_with_requests_are_no_flood() {
    let gateway = with_file(&listener(""), 1).start();
    let mut client = hello(gateway.public(), 1 << 20);
    for number in 0..2_000 {
        let stream = 1 + 2 * number;
        client.send([get(stream, "/ok"), frame(PING, 0, 0, &[1; 8]), frame(PRIORITY, 0, stream, &[0; 5])].concat());
        while !matches!(read_frame(&mut client).unwrap(), (HEADERS, it, _) if it == stream) {}
    }
}

fn admin(limits: &str) -> Gateway {
    let config = format!(
        "listeners:\n  public: [{{ address: \"127.0.0.1:0\" }}]\n  admin: {{ address: \"127.0.0.1:0\", {limits} }}\n"
    );
    Gateway::with("{ version: 1, routes: [] }").config(&config).start()
}

#[test]
fn idle_connections_keep_no_probe_out_of_the_admin_listener() {
    for limits in ["connections: 16, per_address: 0", "connections: 256, per_address: 16"] {
        let gateway = admin(limits);
        let live = "GET /api/v1/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let mut idle: Vec<RawClient> = (0..40).map(|_| RawClient::connect(gateway.admin())).collect();
        for client in &mut idle {
            let _ = client.try_send(live).and_then(|()| client.try_read_response("GET"));
        }
        for _ in 0..40 {
            let answer = try_request(gateway.admin(), "GET", "/api/v1/health/live", &[], b"");
            assert_eq!(answer.map(|it| it.status).ok(), Some(200), "{limits}");
        }
    }
}

#[test]
fn who_is_refused_by_the_admin_listener_holds_no_place_there() {
    let gateway = admin("connections: 16");
    for (request, status) in [
        ("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (
            "POST /admin/reload HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nContent-Length: 0\r\n\r\n",
            403,
        ),
    ] {
        let mut client = RawClient::connect(gateway.admin());
        client.send(request);
        let answer = client.read_response();
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")), "{request}");
        client.expect_closed();
    }
}

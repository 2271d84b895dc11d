//! **Patience**: what makes progress goes on, however little of it at a time and however long it takes; what does
//! not is cut. Time is the subject here: the slow part of each transfer lasts longer than every limit of the route,
//! and in it a little passes many times within the shortest.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request as HttpRequest, Response as HttpResponse};
use socket2::{Domain, Socket, Type};

use crate::exchange::{H2C, body_of, routes};
use crate::http2::H2Upstream;
use crate::support::http1::PATIENCE;
use crate::support::upstream::{chunk, chunked_head, last_chunk};
use crate::support::{Demo, Gateway, H2Client, Message, RawClient, RawUpstream, Script, WsClient};

/// Longer than `request`, and thrice `idle`.
const SLOW: Duration = Duration::from_millis(3_300);
const LIMITS: &str = "timeouts: { idle: 1s, request: 2s }, body_limit: 64MiB";
const TICK: Duration = Duration::from_millis(50);
const A_LITTLE: usize = 16 << 10;
/// More than all buffers on the way, far more than what passes while it is slow.
const LARGE: usize = 12 << 20;
/// The same for HTTP/2, whose windows hold back more, and which takes a turn for each of them.
const LARGE_IN_WINDOWS: usize = 6 << 20;
const HANDSHAKE: &str = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Whoever is too slow twice is blocked.
fn guarded(endpoint: SocketAddr) -> Gateway {
    let text = routes(&[endpoint], LIMITS)
        + &format!(
            "  - {{ name: s, match: {{ path: \"/ws/{{*rest}}\", websocket: true }}, upstream: up, {LIMITS} }}\n"
        );
    let guard = "guard: { slow: { count: 2, every: 1h }, block: { first: 1h, longest: 1h } }\n";
    Gateway::with(text).config(format!("{H2C}{guard}")).start()
}

#[track_caller]
fn nobody_was_blocked(gateway: &Gateway) {
    let blocks = gateway.admin_get("/admin/blocks").text();
    assert!(!blocks.contains("127.0.0.1"), "{blocks}");
    assert_eq!(gateway.get("/api/health").status, 200);
}

/// A connection whose kernel takes little in advance, so that what is acknowledged is what was read, nearly.
fn narrow(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.connect_timeout(&address.into(), PATIENCE).unwrap();
    let socket = TcpStream::from(socket);
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Reads a little each tick, and after a while all the rest: up to the end, or to this many bytes.
fn read_slowly(socket: &mut TcpStream, mut enough: impl FnMut(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let (mut all, mut room) = (Vec::new(), vec![0; 1 << 20]);
    let end = Instant::now() + SLOW;
    while !enough(&all) {
        let slow = Instant::now() < end;
        let count = socket.read(&mut room[..if slow { A_LITTLE } else { 1 << 20 }])?;
        if count == 0 {
            break;
        }
        all.extend_from_slice(&room[..count]);
        if slow {
            thread::park_timeout(TICK);
        }
    }
    Ok(all)
}

/// What stands before one binary message of this length (RFC 6455, section 5.2); a client's is masked with zeros.
fn frame_head(masked: bool) -> Vec<u8> {
    let mut head = vec![0x82, if masked { 0xff } else { 0x7f }];
    head.extend((LARGE as u64).to_be_bytes());
    head.extend(vec![0; if masked { 4 } else { 0 }]);
    head
}

/// How many bytes follow the head, without those of chunks.
fn body_length(answer: &[u8]) -> usize {
    let end = answer.windows(4).position(|it| it == b"\r\n\r\n").map_or(answer.len(), |it| it + 4);
    answer[end..].iter().filter(|it| **it == b'x').count()
}

// ── Downloads ───────────────────────────────────────────────────────────────────────────────────

/// How many bytes a target asks for: `/shape?bytes`.
fn asked(target: &str) -> usize {
    target.split_once('?').map_or(LARGE, |it| it.1.parse().unwrap())
}

/// Sends much at once, in the shape and the size that the target names.
fn torrent() -> RawUpstream {
    RawUpstream::start(|request| {
        let target = request.target();
        let body = vec![b'x'; asked(&target)];
        let script = Script::new().read_body();
        let events = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        match target.split(['/', '?']).nth(1).unwrap() {
            "length" => script.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len())).send(body),
            "chunks" => script.send(chunked_head(200)).send(chunk(&body)).send(last_chunk(&[])),
            "events" => script.send(events).send(chunk(&body)).send(last_chunk(&[])),
            "end" => script.send("HTTP/1.1 200 OK\r\n\r\n").send(body).close(),
            _ => script.send(SWITCHED).send(frame_head(false)).send(body).await_close(),
        }
    })
}

#[test]
fn s2s_20_a_download_that_is_taken_slowly_goes_on_to_its_end() {
    let upstream = torrent();
    let gateway = guarded(upstream.address());
    let address = gateway.public();
    let paths = ["/length", "/chunks", "/events", "/end", "/ws/socket"];
    let mut transfers: Vec<_> = paths
        .into_iter()
        .map(|path| {
            let ask = move || {
                let mut socket = narrow(address);
                let fields = if path.contains("ws") { HANDSHAKE } else { "connection: close\r\n" };
                write!(socket, "GET {path} HTTP/1.1\r\nhost: x\r\n{fields}\r\n").unwrap();
                // A socket has no end: what was sent is all.
                let all = read_slowly(&mut socket, |all| {
                    path.contains("ws") && all.len() > LARGE && body_length(all) >= LARGE
                });
                all.map(|it| body_length(&it)).map_err(|it| it.to_string())
            };
            (path.to_owned(), thread::spawn(ask))
        })
        .collect();
    for path in ["/length", "/events"] {
        let target = format!("{path}?{LARGE_IN_WINDOWS}");
        transfers.push((target.clone(), thread::spawn(move || take_slowly_by_http2(address, &target))));
    }
    let outcomes: Vec<_> = transfers.into_iter().map(|(target, it)| (it.join().unwrap(), target)).collect();
    let wrong: Vec<_> = outcomes.iter().filter(|it| it.0 != Ok(asked(&it.1))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for path in ["/length", "/chunks", "/events", "/end"] {
        let line = gateway.wait_for_event("request", |it| it["path"] == path);
        assert_eq!(line["end"], "done", "{line}");
    }
    nobody_was_blocked(&gateway);
}

/// The window opens a little each tick.
fn take_slowly_by_http2(address: SocketAddr, target: &str) -> Result<usize, String> {
    let client = H2Client::connect(address);
    let mut sender = client.sender();
    client.run(async {
        let request = HttpRequest::get(format!("http://x{target}")).body(()).unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        let mut stream = answer.await.map_err(|it| it.to_string())?.into_body();
        let (mut length, end) = (0, Instant::now() + SLOW);
        while let Some(piece) = stream.data().await {
            let mut left = piece.map_err(|it| format!("after {length}: {it}"))?.len();
            length += left;
            while left > 0 {
                let now = left.min(A_LITTLE);
                let _ = stream.flow_control().release_capacity(now);
                left -= now;
                if Instant::now() < end {
                    tokio::time::sleep(TICK).await;
                }
            }
        }
        Ok(length)
    })
}

#[test]
fn s2s_20_a_download_that_comes_slowly_goes_on_to_its_end() {
    const PIECES: usize = 70;
    let piece = vec![b'x'; 1_000];
    let upstream = {
        let piece = piece.clone();
        RawUpstream::start(move |request| {
            let chunks = request.target() == "/chunks";
            let script = Script::new().read_body();
            let mut script = match chunks {
                true => script.send(chunked_head(200)),
                false => script.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", PIECES * 1_000)),
            };
            for _ in 0..PIECES {
                script = script.send(if chunks { chunk(&piece) } else { piece.clone() }).pause(TICK);
            }
            if chunks { script.send(last_chunk(&[])) } else { script }
        })
    };
    let grpc = H2Upstream::start(move |_, mut respond, _| {
        let piece = Bytes::from(piece.clone());
        Box::pin(async move {
            let answer = HttpResponse::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut stream = respond.send_response(answer, false)?;
            for _ in 0..PIECES {
                stream.send_data(piece.clone(), false)?;
                tokio::time::sleep(TICK).await;
            }
            let status = HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                http::HeaderValue::from_static("0"),
            )]);
            stream.send_trailers(status)
        })
    });
    let (gateway, of_grpc) = (guarded(upstream.address()), grpc.gateway(LIMITS));
    thread::scope(|scope| {
        for path in ["/length", "/chunks"] {
            let gateway = &gateway;
            scope.spawn(move || {
                assert_eq!(gateway.request("POST", path, &[], "x").body.len(), PIECES * 1_000, "{path}")
            });
            scope.spawn(move || {
                assert_eq!(H2Client::connect(gateway.public()).get(path).body.len(), PIECES * 1_000, "{path} by HTTP/2")
            });
        }
        scope.spawn(|| {
            let fields = [("content-type", "application/grpc"), ("te", "trailers")];
            let answer =
                H2Client::connect(of_grpc.public()).request("POST", "/pkg.Service/Watch", &fields, b"\0\0\0\0\0", None);
            assert_eq!((answer.body.len(), answer.trailer("grpc-status")), (PIECES * 1_000, Some("0")));
        });
    });
    nobody_was_blocked(&gateway);
}

#[test]
fn s2s_20_a_download_of_which_nothing_is_taken_any_more_is_cut() {
    let upstream = torrent();
    let gateway = Gateway::with(
        routes(&[upstream.address()], LIMITS)
            + &format!(
                "  - {{ name: s, match: {{ path: \"/ws/{{*rest}}\", websocket: true }}, upstream: up, {LIMITS} }}\n"
            ),
    )
    .config(H2C)
    .start();
    let mut held = Vec::new();
    let paths = ["/length", "/chunks", "/events", "/ws/socket"];
    for path in paths {
        let mut socket = narrow(gateway.public());
        let fields = if path.contains("ws") { HANDSHAKE } else { "" };
        write!(socket, "GET {path} HTTP/1.1\r\nhost: x\r\n{fields}\r\n").unwrap();
        // It begins well.
        socket.read_exact(&mut vec![0; 4 * A_LITTLE]).unwrap();
        held.push(socket);
    }
    for path in paths {
        let line = gateway.wait_for_event("request", |it| it["path"] == path);
        assert_eq!(line["end"], "client_timeout", "{line}");
    }
    upstream.wait_for_closed(paths.len());
    for (path, mut socket) in paths.iter().zip(held) {
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest); // a reset is one way to be cut
        assert!(rest.len() < LARGE && !rest.ends_with(b"0\r\n\r\n"), "{path}: it looks whole");
    }
}

// ── Uploads ─────────────────────────────────────────────────────────────────────────────────────

/// An upstream that reads a little each tick, then all the rest, and tells how much it was; `/ws/…` gets its 101
/// first. With `never`, it reads the head and no more.
fn slow_reader(never: bool) -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // Those who are let in have the same.
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(64).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for socket in listener.incoming() {
            thread::spawn(move || read_and_tell(socket.unwrap(), never));
        }
    });
    address
}

fn read_and_tell(mut socket: TcpStream, never: bool) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if !matches!(socket.read(&mut byte), Ok(1)) {
            return;
        }
        head.push(byte[0]);
    }
    let socket_wanted = head.starts_with(b"GET /ws/");
    if socket_wanted {
        socket.write_all(SWITCHED.as_bytes()).unwrap();
    }
    if never {
        // Held open beyond every limit of the route.
        thread::park_timeout(PATIENCE);
        return;
    }
    let x = |bytes: &[u8]| bytes.iter().filter(|it| **it == b'x').count();
    let want = asked(String::from_utf8_lossy(&head).split(' ').nth(1).unwrap());
    let all = read_slowly(&mut socket, |all| all.len() >= want && x(all) >= want);
    let length = all.map_or(0, |it| x(&it));
    let text = length.to_string();
    let answer = match socket_wanted {
        true => format!("{text}!"),
        false => format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}", text.len()),
    };
    let _ = socket.write_all(answer.as_bytes());
    let _ = socket.shutdown(std::net::Shutdown::Write);
    let _ = io::copy(&mut socket, &mut io::sink());
}

#[test]
fn s2s_39_an_upload_that_is_taken_slowly_goes_on_to_its_end() {
    let gateway = guarded(slow_reader(false));
    let address = gateway.public();
    let body = || vec![b'x'; LARGE];
    let length = thread::spawn(move || {
        let mut client = RawClient::connect(address);
        client.send(format!("POST /length HTTP/1.1\r\nhost: y\r\ncontent-length: {LARGE}\r\n\r\n"));
        client
            .try_send(body())
            .and_then(|()| client.try_read_response("POST"))
            .map(|it| it.text())
            .map_err(|it| it.to_string())
    });
    let chunks = thread::spawn(move || {
        let mut client = RawClient::connect(address);
        client.send("POST /chunks HTTP/1.1\r\nhost: y\r\ntransfer-encoding: chunked\r\n\r\n");
        let framed = [chunk(&body()), last_chunk(&[])].concat();
        client
            .try_send(framed)
            .and_then(|()| client.try_read_response("POST"))
            .map(|it| it.text())
            .map_err(|it| it.to_string())
    });
    let http2 = thread::spawn(move || {
        let target = format!("/http2?{LARGE_IN_WINDOWS}");
        let answer = H2Client::connect(address).try_request("POST", &target, &[], &vec![b'x'; LARGE_IN_WINDOWS], None);
        answer.map(|it| it.text()).map_err(|it| it.to_string())
    });
    let socket = thread::spawn(move || {
        let mut client = RawClient::connect(address);
        client.send(format!("GET /ws/up HTTP/1.1\r\nhost: y\r\n{HANDSHAKE}\r\n"));
        assert_eq!(client.read_head().status, 101);
        let frame = [frame_head(true), body()].concat();
        let answer = client.try_send(frame).and_then(|()| client.take_until(b"!", 1_000));
        answer.map(|it| String::from_utf8_lossy(&it).trim_end_matches('!').to_owned()).map_err(|it| it.to_string())
    });
    let outcomes = [
        ("length", length, LARGE),
        ("chunks", chunks, LARGE),
        ("HTTP/2", http2, LARGE_IN_WINDOWS),
        ("socket", socket, LARGE),
    ];
    let outcomes = outcomes.map(|(name, it, want)| (name, it.join().unwrap(), want.to_string()));
    let wrong: Vec<_> = outcomes.iter().filter(|it| it.1.as_ref() != Ok(&it.2)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    nobody_was_blocked(&gateway);
}

#[test]
fn s2s_39_an_upload_that_comes_slowly_goes_on_to_its_end() {
    const PIECES: usize = 70;
    let upstream = RawUpstream::start(|_| Script::ok("taken"));
    let gateway = guarded(upstream.address());
    let piece = vec![b'x'; 1_000];
    thread::scope(|scope| {
        for chunks in [false, true] {
            let (gateway, piece) = (&gateway, &piece);
            scope.spawn(move || {
                let mut client = RawClient::connect(gateway.public());
                let framing = if chunks {
                    "transfer-encoding: chunked".to_owned()
                } else {
                    format!("content-length: {}", PIECES * 1_000)
                };
                client.send(format!("POST /{chunks} HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n"));
                for _ in 0..PIECES {
                    client.send(if chunks { chunk(piece) } else { piece.clone() });
                    thread::park_timeout(TICK);
                }
                client.send(if chunks { last_chunk(&[]) } else { Vec::new() });
                assert_eq!(client.read_response().text(), "taken", "chunks: {chunks}");
            });
        }
        let (gateway, piece) = (&gateway, &piece);
        scope.spawn(move || {
            let client = H2Client::connect(gateway.public());
            let mut sender = client.sender();
            let status = client.run(async {
                let request = HttpRequest::post("http://x/http2").body(()).unwrap();
                let (answer, mut body) = sender.send_request(request, false).unwrap();
                for _ in 0..PIECES {
                    body.send_data(Bytes::from(piece.clone()), false).unwrap();
                    tokio::time::sleep(TICK).await;
                }
                body.send_data(Bytes::new(), true).unwrap();
                answer.await.unwrap().status().as_u16()
            });
            assert_eq!(status, 200, "by HTTP/2");
        });
    });
    assert!(upstream.requests().iter().all(|it| body_of(it).len() == PIECES * 1_000));
    nobody_was_blocked(&gateway);
}

#[test]
fn s2s_39_an_upload_of_which_nothing_is_taken_any_more_is_cut() {
    let gateway = guarded(slow_reader(true));
    let mut client = RawClient::connect(gateway.public());
    client.send(format!("POST /stuck HTTP/1.1\r\nhost: x\r\ncontent-length: {LARGE}\r\n\r\n"));
    // It may be told to stop by a closed connection.
    let _ = client.try_send(vec![b'x'; LARGE]);
    let line = gateway.wait_for_event("request", |it| it["path"] == "/stuck");
    assert_eq!((&line["status"], &line["end"]), (&504.into(), &"upstream_error".into()), "{line}");
    // The client did nothing wrong.
    nobody_was_blocked(&gateway);
}

#[test]
fn s2s_39_an_upload_of_which_nothing_comes_any_more_is_cut() {
    let upstream = RawUpstream::start(|_| Script::ok("never"));
    let gateway = Gateway::with(routes(&[upstream.address()], LIMITS)).config(H2C).start();
    let mut client = RawClient::connect(gateway.public());
    client.send("POST /stuck HTTP/1.1\r\nhost: x\r\ncontent-length: 10000\r\n\r\n12345");
    assert_eq!(client.read_response().status, 408);
    let line = gateway.wait_for_event("request", |it| it["path"] == "/stuck");
    assert_eq!(line["end"], "client_timeout", "{line}");
}

// ── Sockets ─────────────────────────────────────────────────────────────────────────────────────

/// What a busy time took is given back in a quiet one; nobody notices, whichever side speaks first after it.
#[test]
fn us_006_a_socket_that_has_gone_quiet_speaks_again() {
    let demo = Demo::start("one");
    let text = routes(&[demo.address()], "")
        + "  - { name: s, match: { path: /ws, websocket: true }, upstream: up, timeouts: { idle: 1m } }\n  \
        - { name: brief, match: { path: /brief }, upstream: up, rewrite: { path: /slow }, timeouts: { first_byte: 1s, request: 1s, idle: 1s } }\n";
    let gateway = Gateway::with(text).config(H2C).start();
    let mut sockets: Vec<_> = (0..50).map(|_| WsClient::connect(gateway.public(), "/ws", &[])).collect();
    for round in 0..3_u8 {
        for (number, socket) in sockets.iter_mut().enumerate() {
            for size in [60_000, 1, 60_000, 200_000, 0] {
                let message = vec![round ^ number as u8; size];
                socket.send_binary(&message);
                assert!(socket.read() == Message::binary(message), "{size} bytes in round {round}");
            }
        }
        // Quiet for as long as another route's limits take.
        assert_eq!(gateway.get("/brief?ms=600000").status, 504);
    }
    for mut socket in sockets {
        socket.send_text("still here");
        assert_eq!(socket.read(), Message::text("still here"));
        socket.close(1000, "done");
    }
}

//! The exchange: bodies and answers of every shape, in both directions, and what is tried again.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::support::http1::{connect, request_bytes};
use crate::support::upstream::{answer_bytes, chunk, last_chunk};
use crate::support::{Gateway, H2Client, RawClient, RawUpstream, Script, Signal};

const MEGABYTE: usize = 1 << 20;

/// Both kinds of plain-text HTTP on the public listener.
pub const H2C: &str = r#"
listeners:
  public:
    - { address: "127.0.0.1:0", h2c: true }
  admin: { address: "127.0.0.1:0" }
threads: 1
"#;

/// One route to everything, one upstream with these endpoints, and further settings of the route.
pub fn routes(endpoints: &[SocketAddr], settings: &str) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|it| format!("\"{it}\"")).collect();
    format!(
        "version: 1\nupstreams:\n  up: {{ discovery: {{ static: [{}] }} }}\nroutes:\n  \
         - {{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: up, {settings} }}\n",
        endpoints.join(", ")
    )
}

pub fn in_front_of(upstream: &RawUpstream, settings: &str) -> Gateway {
    Gateway::with(routes(&[upstream.address()], settings)).config(H2C).start()
}

/// Bytes in which a lost, doubled or swapped piece shows.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|it| (it.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// `bytes` in chunks of different sizes, with the last one.
fn chunks_of(bytes: &[u8]) -> Vec<u8> {
    let mut framed = Vec::new();
    let (mut rest, mut size) = (bytes, 1);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(size.min(rest.len()));
        framed.extend(chunk(now));
        (rest, size) = (later, (size * 7) % 70_001 + 1);
    }
    framed.extend(last_chunk(&[]));
    framed
}

/// The body of a request as an upstream got it, whatever its framing; fails on bytes to spare.
#[track_caller]
pub fn body_of(request: &[u8]) -> Vec<u8> {
    let end = request.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    let mut rest = &request[end..];
    if !head.contains("\r\ntransfer-encoding: chunked\r\n") {
        return rest.to_vec();
    }
    let mut body = Vec::new();
    loop {
        let at = rest.windows(2).position(|it| it == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..at]).unwrap(), 16).unwrap();
        if size == 0 {
            let whole = rest.starts_with(b"0\r\n") && rest.ends_with(b"\r\n\r\n") || rest == b"0\r\n\r\n";
            let ends = rest.windows(4).filter(|it| it == b"\r\n\r\n").count();
            assert!(whole && ends == 1, "the end is not one last chunk");
            return body;
        }
        body.extend(&rest[at + 2..at + 2 + size]);
        rest = &rest[at + 4 + size..];
    }
}

// ── Requests ────────────────────────────────────────────────────────────────────────────────────

#[test]
fn request_bodies_of_any_size_and_shape_arrive_whole_on_one_connection() {
    let upstream = RawUpstream::start(|_| Script::ok("got it"));
    let gateway = in_front_of(&upstream, "body_limit: 64MiB");
    let mut client = RawClient::connect(gateway.public());
    let mut sent = Vec::new();
    for size in [0, 1, 65_535, 65_536, 65_537, 10 * MEGABYTE, 3] {
        let body = pattern(size);
        client.send(format!("POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n"));
        client.send(&body);
        assert_eq!(client.read_response().text(), "got it", "{size} bytes with their length");
        client.send("PUT /b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
        client.send(chunks_of(&body));
        assert_eq!(client.read_response().text(), "got it", "{size} bytes in chunks");
        sent.extend([body.clone(), body]);
    }
    let received: Vec<_> = upstream.requests().iter().map(|it| body_of(it)).collect();
    assert!(received == sent, "{:?}", received.iter().map(Vec::len).collect::<Vec<_>>());
    assert_eq!(upstream.connections(), 1, "every one left the upstream's connection clean");
}

#[test]
fn a_body_of_no_chunks_is_ended_once_and_the_next_request_is_read() {
    let upstream = RawUpstream::start(|request| Script::ok(request.target()));
    let gateway = in_front_of(&upstream, "");
    let mut client = RawClient::connect(gateway.public());
    for target in ["/one", "/two", "/three"] {
        client.send(format!("POST {target} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"));
        assert_eq!(client.read_response().text(), target);
    }
    assert_eq!(upstream.connections(), 1);
    assert!(upstream.requests().iter().all(|it| body_of(it).is_empty()));
}

/// Answers with the very chunks that come, while they come.
fn echo_upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut socket = listener.accept().unwrap().0;
        let mut piece = vec![0; 64 << 10];
        let mut head = Vec::new();
        let end = loop {
            let count = socket.read(&mut piece).unwrap();
            head.extend(&piece[..count]);
            if let Some(at) = head.windows(4).position(|it| it == b"\r\n\r\n") {
                break at + 4;
            }
        };
        socket.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        socket.write_all(&head[end..]).unwrap();
        // One thread for both: an upstream that stops reading until its answer is taken.
        loop {
            match socket.read(&mut piece) {
                Ok(count) if count > 0 => socket.write_all(&piece[..count]).unwrap(),
                _ => return,
            }
        }
    });
    address
}

#[test]
fn both_directions_flow_at_once() {
    let gateway = Gateway::start(routes(&[echo_upstream()], "body_limit: 64MiB"));
    let mut client = RawClient::connect(gateway.public());
    client.send("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    assert_eq!(client.read_head().status, 200, "an answer while the request has only begun");
    for turn in 0..20_u8 {
        client.send(chunk(&[turn; 100]));
        let mut echo = Vec::new();
        while echo.len() < 100 {
            echo.extend(client.try_read_piece().unwrap().unwrap());
        }
        assert_eq!(echo, [turn; 100]);
    }
    client.send(last_chunk(&[]));
    assert_eq!(client.try_read_piece().unwrap(), None);
}

#[test]
fn twelve_megabytes_are_echoed_while_they_are_sent() {
    let gateway = Gateway::start(routes(&[echo_upstream()], "body_limit: 64MiB"));
    let body = pattern(12 * MEGABYTE);
    let socket = connect(gateway.public()).unwrap();
    let mut sending = socket.try_clone().unwrap();
    let framed = chunks_of(&body);
    let sender = thread::spawn(move || {
        sending.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        sending.write_all(&framed).unwrap();
    });
    let mut received = Vec::new();
    let mut piece = vec![0; 64 << 10];
    let mut reading = &socket;
    while !received.ends_with(b"\r\n0\r\n\r\n") {
        let count = reading.read(&mut piece).unwrap();
        assert!(count > 0, "cut after {} bytes", received.len());
        received.extend(&piece[..count]);
    }
    sender.join().unwrap();
    let end = received.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
    assert!(String::from_utf8_lossy(&received[..end]).contains("ransfer-") && received.starts_with(b"HTTP/1.1 200"));
    let mut as_request = b"X\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    as_request.extend(&received[end + 4..]);
    assert!(body_of(&as_request) == body);
}

#[test]
fn s2s_39_a_declared_body_above_the_limit_never_reaches_the_upstream() {
    let upstream = RawUpstream::start(|_| Script::ok("taken"));
    let gateway = in_front_of(&upstream, "body_limit: 1000B");
    let mut client = RawClient::connect(gateway.public());
    client.send(request_bytes(gateway.public(), "POST", "/", &[("connection", "keep-alive")], &[b'x'; 1000]));
    assert_eq!(client.read_response().text(), "taken", "exactly at the limit");
    client.send(request_bytes(gateway.public(), "POST", "/", &[("connection", "keep-alive")], &[b'x'; 1001]));
    let refused = client.read_response();
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (413, &"body_too_large".into()));
    client.send(request_bytes(gateway.public(), "POST", "/", &[("connection", "keep-alive")], b"small"));
    assert_eq!(client.read_response().text(), "taken", "the connection goes on");
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn s2s_39_a_chunked_body_above_the_limit_is_stopped_before_the_excess() {
    let upstream = RawUpstream::start(|_| Script::ok("taken"));
    let gateway = in_front_of(&upstream, "body_limit: 1000B");
    let send = |size: usize| {
        let mut client = RawClient::connect(gateway.public());
        client.send("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
        client.send(chunk(&vec![b'a'; 1000]));
        if size > 1000 {
            client.send(chunk(&vec![1; size - 1000]));
        }
        client.send(last_chunk(&[]));
        client.read_response().status
    };
    assert_eq!(send(1000), 200);
    assert_eq!(send(1001), 413);
    assert_eq!(send(100_000), 413);
    assert!(upstream.received().iter().all(|it| !it.contains(&1)), "none of the excess arrived");
    let mut h2 = H2Client::connect(gateway.public());
    assert_eq!(h2.request("POST", "/", &[], &[b'a'; 1000], None).status, 200);
    assert_eq!(h2.request("POST", "/", &[], &[1; 1001], None).status, 413);
}

#[test]
fn expect_continue_is_relayed_and_the_connection_lives_on() {
    let upstream = RawUpstream::start(|_| Script::continue_then(Script::ok("thanks")));
    let gateway = in_front_of(&upstream, "");
    let mut client = RawClient::connect(gateway.public());
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
        assert_eq!(client.read_head().status, 100, "before any of the body");
        client.send("hello");
        let answer = client.read_response();
        assert_eq!((answer.text().as_str(), answer.header("connection")), ("thanks", None));
    }
    assert!(upstream.requests().iter().all(|it| body_of(it) == b"hello"));
}

#[test]
fn a_no_instead_of_100_continue_reaches_the_client_before_its_body() {
    for status in [417, 413] {
        let upstream = RawUpstream::start(move |_| Script::new().send(answer_bytes(status, &[], b"no")).await_close());
        let gateway = in_front_of(&upstream, "");
        let mut client = RawClient::connect(gateway.public());
        client.send("POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
        let answer = client.read_response();
        assert_eq!((answer.status, answer.text().as_str()), (status, "no"));
        assert!(answer.informational.is_empty());
        assert_eq!(answer.header("connection"), Some("close"), "nobody knows whether the body follows");
        client.expect_closed();
    }
    let nobody_asked = RawUpstream::start(|_| Script::ok("unreachable"));
    let gateway = in_front_of(&nobody_asked, "body_limit: 3B");
    let mut client = RawClient::connect(gateway.public());
    client.send("POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(client.read_response().status, 413);
    assert_eq!(nobody_asked.connections(), 0);
}

#[test]
fn an_answer_before_the_requests_end_reaches_the_client() {
    // Whatever the upstream does to its connection afterwards.
    let early = answer_bytes(413, &[], b"too much");
    for ending in ["close", "reset", "keep"] {
        let early = early.clone();
        let upstream = RawUpstream::start(move |_| {
            let script = Script::new().read_more(10_000).send(&early);
            match ending {
                "close" => script.close(),
                "reset" => script.reset(),
                _ => script.await_close(),
            }
        });
        let gateway = in_front_of(&upstream, "body_limit: 64MiB");
        // A short rest: it is read, and the connection survives.
        let mut client = RawClient::connect(gateway.public());
        client.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 20000\r\n\r\n");
        client.send([b'x'; 10_000]);
        let answer = client.read_response();
        assert_eq!((answer.status, answer.text().as_str()), (413, "too much"), "{ending}");
        if answer.header("connection") == Some("keep-alive") {
            client.send([b'x'; 10_000]);
            client.send("GET /api/health HTTP/1.1\r\nhost: x\r\n\r\n");
            assert_eq!(client.read_response().status, 200, "{ending}: the next request on the connection");
        } else {
            client.expect_closed();
        }
        assert!(upstream.received().iter().all(|it| !it.windows(4).any(|it| it == b"heal")));
    }
}

#[test]
fn a_connection_with_half_a_body_on_it_is_not_used_again() {
    let upstream = RawUpstream::start(|request| match request.target().as_str() {
        "/early" => Script::new().read_more(10).send(answer_bytes(413, &[], b"enough")),
        _ => Script::ok("mine"),
    });
    let gateway = in_front_of(&upstream, "");
    for turn in 0..3 {
        let mut client = RawClient::connect(gateway.public());
        client.send("POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n0123456789");
        assert_eq!(client.read_response().text(), "enough");
        assert_eq!(gateway.get("/next").text(), "mine", "turn {turn}");
    }
    for bytes in upstream.received().iter().filter(|it| it.starts_with(b"POST")) {
        let text = String::from_utf8_lossy(bytes);
        assert!(!text.contains("GET /next"), "the next request stands where a body was awaited: {text}");
    }
}

#[test]
fn a_client_that_goes_on_sending_still_reads_the_early_answer() {
    let upstream =
        RawUpstream::start(|_| Script::new().read_more(10_000).send(answer_bytes(413, &[], b"enough")).close());
    let gateway = in_front_of(&upstream, "body_limit: 64MiB");
    let socket = connect(gateway.public()).unwrap();
    let mut sending = socket.try_clone().unwrap();
    let sender = thread::spawn(move || {
        let _ = sending.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 30000000\r\n\r\n");
        // It may be told to stop by a closed connection.
        let _ = sending.write_all(&pattern(30_000_000));
    });
    let (mut received, mut piece) = (Vec::new(), [0; 4096]);
    while !received.ends_with(b"enough") {
        let count = (&socket).read(&mut piece).unwrap();
        assert!(count > 0, "cut after {}", received.escape_ascii());
        received.extend(&piece[..count]);
    }
    assert!(received.starts_with(b"HTTP/1.1 413 "));
    drop(socket.shutdown(Shutdown::Both));
    sender.join().unwrap();
}

#[test]
fn a_half_closed_client_gets_what_is_there_and_counts_as_gone_otherwise() {
    let answered = Signal::new();
    let upstream = {
        let answered = answered.clone();
        RawUpstream::start(move |_| Script::new().read_body().give(&answered).await_close())
    };
    let gateway = in_front_of(&upstream, "");
    // As nginx and Pingora do: a client's FIN cancels the call, for nobody can tell it from a farewell.
    let mut client = RawClient::connect(gateway.public());
    client.send("GET /slow HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answered.wait());
    client.finish_sending();
    upstream.wait_for_closed(1);
    client.expect_closed();
    // What the gateway answers by itself is there at once.
    let mut client = RawClient::connect(gateway.public());
    client.send("GET /api/health HTTP/1.1\r\nhost: x\r\n\r\n");
    client.finish_sending();
    assert_eq!(client.read_response().status, 200);
    client.expect_closed();
}

#[test]
fn a_client_that_leaves_in_its_body_is_no_whole_request() {
    let upstream = RawUpstream::start(|_| Script::ok("never"));
    let gateway = in_front_of(&upstream, "");
    for framing in ["content-length: 10\r\n\r\n12345", "transfer-encoding: chunked\r\n\r\n5\r\n12345\r\n"] {
        let mut client = RawClient::connect(gateway.public());
        client.send(format!("POST / HTTP/1.1\r\nhost: x\r\n{framing}"));
        client.finish_sending();
        client.expect_closed();
    }
    upstream.wait_for_closed(upstream.connections());
    assert_eq!(upstream.failures().len(), upstream.connections(), "each saw a body that broke off");
}

// ── Answers ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn early_hints_pass_before_the_answer() {
    let upstream = RawUpstream::start(|_| Script::early_hints_then("</a.css>; rel=preload", Script::ok("page")));
    let gateway = in_front_of(&upstream, "");
    let mut client = RawClient::connect(gateway.public());
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        let answer = client.read_response();
        assert_eq!((answer.status, answer.text().as_str()), (200, "page"));
        assert_eq!(answer.informational.len(), 1);
        let hints = &answer.informational[0];
        assert_eq!(hints.status, 103);
        assert!(String::from_utf8_lossy(&hints.raw).to_lowercase().contains("link: </a.css>; rel=preload"));
    }
    // HTTP/1.0 does not know interim answers, and Pingora can't send them over HTTP/2.
    let mut old = RawClient::connect(gateway.public());
    old.send("GET / HTTP/1.0\r\nhost: x\r\n\r\n");
    assert!(old.read_response().informational.is_empty());
    assert_eq!(H2Client::connect(gateway.public()).get("/").text(), "page");
}

#[test]
fn answers_without_a_body_leave_the_connection_in_step() {
    let upstream = RawUpstream::start(|request| match request.target().as_str() {
        "/head" => Script::new().send("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"),
        "/head-chunked" => Script::new().send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        "/204" => Script::answer(204, &[("x-is", "204")], ""),
        "/304" => Script::new().send("HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\ncontent-length: 55\r\n\r\n"),
        _ => Script::ok(""),
    });
    let gateway = in_front_of(&upstream, "");
    let mut client = RawClient::connect(gateway.public());
    let mut ask = |method: &str, target: &str| {
        client.send(format!("{method} {target} HTTP/1.1\r\nhost: x\r\n\r\n"));
        client.read_response_to(method)
    };
    for _ in 0..2 {
        let head = ask("HEAD", "/head");
        assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("1234"), 0));
        assert_eq!(ask("HEAD", "/head-chunked").status, 200);
        let none = ask("GET", "/204");
        assert_eq!((none.status, none.header("x-is"), none.header("content-length")), (204, Some("204"), None));
        let same = ask("GET", "/304");
        assert_eq!((same.status, same.header("etag"), same.header("content-length")), (304, Some("\"a\""), Some("55")));
        assert_eq!(ask("GET", "/empty").header("content-length"), Some("0"));
    }
    assert_eq!(upstream.connections(), 1);
    let mut h2 = H2Client::connect(gateway.public());
    assert_eq!(h2.request("HEAD", "/head", &[], b"", None).header("content-length"), Some("1234"));
    assert_eq!(h2.get("/304").status, 304);
    assert_eq!(h2.get("/204").status, 204);
}

#[test]
fn a_204_with_a_length_loses_it_and_nothing_else() {
    let upstream =
        RawUpstream::start(|_| Script::new().send("HTTP/1.1 204 No Content\r\ncontent-length: 0\r\nx-a: b\r\n\r\n"));
    let gateway = in_front_of(&upstream, "");
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.header("content-length"), answer.header("x-a")), (204, None, Some("b")));
}

#[test]
fn chunked_answers_arrive_whole_and_chunked() {
    let upstream = RawUpstream::start(|_| Script::chunked(200, &[b"one ", b"two ", b"three"], &[("x-t", "lost")]));
    let gateway = in_front_of(&upstream, "");
    let mut client = RawClient::connect(gateway.public());
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        let answer = client.read_response();
        assert_eq!((answer.text().as_str(), answer.header("transfer-encoding")), ("one two three", Some("chunked")));
    }
    assert_eq!(H2Client::connect(gateway.public()).get("/").text(), "one two three");
    // To HTTP/1.0 there are no chunks: the end is the connection's.
    let mut old = RawClient::connect(gateway.public());
    old.send("GET / HTTP/1.0\r\nhost: x\r\nconnection: keep-alive\r\n\r\n");
    let answer = old.read_response();
    assert_eq!((answer.text().as_str(), answer.header("transfer-encoding")), ("one two three", None));
    assert_eq!(answer.header("connection"), Some("close"));
}

#[test]
fn an_answer_that_ends_with_its_connection_arrives_whole() {
    let upstream = RawUpstream::start(|_| Script::until_close(200, pattern(300_000)));
    let gateway = in_front_of(&upstream, "");
    let mut client = RawClient::connect(gateway.public());
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        let answer = client.read_response();
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
        assert!(answer.body == pattern(300_000));
    }
    let mut old = RawClient::connect(gateway.public());
    old.send("GET / HTTP/1.0\r\nhost: x\r\n\r\n");
    let answer = old.read_response();
    assert!(answer.body == pattern(300_000) && answer.header("transfer-encoding").is_none());
    assert!(H2Client::connect(gateway.public()).get("/").body == pattern(300_000));
}

#[test]
fn nobody_takes_half_an_answer_for_a_whole_one() {
    for chunked in [false, true] {
        let upstream = RawUpstream::start(move |_| match chunked {
            true => Script::cut_chunked(&[b"half"]),
            false => Script::cut_length(100, "half"),
        });
        let gateway = in_front_of(&upstream, "");
        let mut client = RawClient::connect(gateway.public());
        client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        assert_eq!(client.read_head().status, 200);
        assert_eq!(client.try_read_piece().unwrap().unwrap(), b"half");
        let end = client.try_read_piece();
        assert!(end.is_err(), "chunked {chunked}: it looks whole: {end:?}");
        let reset = H2Client::connect(gateway.public()).try_request("GET", "/", &[], b"", None);
        assert!(reset.as_ref().is_err_and(h2::Error::is_reset), "chunked {chunked}: {reset:?}");
        let line = gateway.wait_for_event("request", |it| it["end"] == "truncated");
        assert_eq!(line["status"], 200);
    }
}

#[test]
fn a_big_answer_waits_for_a_slow_reader_and_arrives_whole() {
    let body = pattern(20 * MEGABYTE);
    let upstream = {
        let body = body.clone();
        RawUpstream::start(move |_| Script::ok(&body))
    };
    let gateway = in_front_of(&upstream, "");
    assert!(gateway.get("/").body == body);
    // By HTTP/2 it takes a turn for each small window: less will do.
    let some = H2Client::connect(gateway.public());
    let mut sender = some.sender();
    some.run(async {
        let request = http::Request::get("http://x/").body(()).unwrap();
        let mut stream = sender.send_request(request, true).unwrap().0.await.unwrap().into_body();
        let mut received = Vec::new();
        while received.len() < 4 * MEGABYTE {
            let piece = stream.data().await.unwrap().unwrap();
            stream.flow_control().release_capacity(piece.len()).unwrap();
            received.extend(piece);
        }
        assert!(body.starts_with(&received));
    });
}

#[test]
fn a_101_that_nobody_asked_for_is_a_502() {
    let upstream = RawUpstream::start(|_| {
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        Script::new().read_body().send(head).await_close()
    });
    let gateway = in_front_of(&upstream, "");
    let answer = gateway.get("/");
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (502, &"upstream_protocol_error".into()));
    // Nor may a client talk its way into a tunnel where the route has no WebSockets.
    let wish = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "x")];
    assert_eq!(gateway.request("GET", "/", &wish, b"").status, 400);
    let requests = upstream.requests();
    assert!(requests.iter().all(|it| !String::from_utf8_lossy(it).to_lowercase().contains("upgrade:")));
}

#[test]
fn an_answer_that_makes_no_sense_is_a_502() {
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n12345",
        "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n12345",
        "garbage\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
    ];
    for text in answers {
        let upstream = RawUpstream::start(move |_| Script::new().read_body().send(text).close());
        let gateway = in_front_of(&upstream, "");
        let answer = gateway.request("POST", "/", &[], "x");
        assert_eq!(answer.status, 502, "{text:?}: {}", answer.text());
    }
}

// ── Connections ─────────────────────────────────────────────────────────────────────────────────

#[test]
fn connections_are_kept_in_both_directions() {
    let upstream = RawUpstream::start(|_| Script::ok("x"));
    let gateway = in_front_of(&upstream, "");
    let mut client = RawClient::connect(gateway.public());
    for _ in 0..10 {
        client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        assert_eq!(client.read_response().header("connection"), None); // HTTP/1.1 keeps without a word
    }
    client.send("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert_eq!(client.read_response().header("connection"), Some("close"));
    client.expect_closed();
    // A client's wish is about its own connection: the upstream's is kept.
    let mut old = RawClient::connect(gateway.public());
    old.send("GET / HTTP/1.0\r\nhost: x\r\n\r\n");
    assert_eq!(old.read_response().text(), "x");
    old.expect_closed();
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn an_upstream_that_closes_after_each_answer_is_connected_anew() {
    let upstream = RawUpstream::start(|_| {
        Script::new().read_body().send(answer_bytes(200, &[("connection", "close")], b"bye")).close()
    });
    let gateway = in_front_of(&upstream, "");
    let mut client = RawClient::connect(gateway.public());
    for _ in 0..5 {
        client.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx");
        let answer = client.read_response();
        assert_eq!((answer.text().as_str(), answer.header("connection")), ("bye", None));
    }
    assert_eq!(upstream.connections(), 5);
}

#[test]
fn an_answers_head_does_not_wait_for_its_body() {
    let go_on = Signal::new();
    let word = go_on.clone();
    let upstream = RawUpstream::start(move |_| {
        Script::new().read_body().send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").wait(&word).send("hello")
    });
    let gateway = in_front_of(&upstream, "");
    let mut client = RawClient::connect(gateway.public());
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(client.read_head().status, 200, "before there is any body");
    go_on.give();
    assert_eq!(client.read_exactly(5), b"hello");
}

#[test]
fn what_upstreams_are_told_of_the_host_is_what_the_client_said_over_either_version() {
    let upstream = RawUpstream::start(|_| Script::ok(""));
    let settings = "rewrite: { path: '/x/{rest}', host: other.example }";
    let gateway = in_front_of(&upstream, settings);
    H2Client::connect(gateway.public()).get("/a");
    gateway.request("GET", "/a", &[("x_forwarded_host", "evil"), ("X_Real_IP", "evil")], "");
    let host = gateway.public();
    for request in upstream.requests() {
        let text = String::from_utf8(request).unwrap();
        assert!(text.starts_with("GET /x/a HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("\r\nhost: other.example\r\n"), "{text}");
        assert!(text.contains(&format!("\r\nx-forwarded-host: {host}\r\n")), "{text}");
        assert!(text.contains(&format!(";host=\"{host}\"\r\n")), "{text}");
        assert!(!text.contains("evil"), "{text}");
    }
    assert_eq!(upstream.requests().len(), 2);
}

/// Requests that our codec reads, those that Pingora reads, and those that go from one to the other, in whatever
/// pieces they come.
#[test]
fn requests_of_every_kind_follow_one_another_on_a_connection() {
    let upstream = RawUpstream::start(|request| match request.target().as_str() {
        "/none" => Script::answer(204, &[], ""),
        target if target.starts_with("/chunked") => Script::chunked(200, &[target.as_bytes(), b"!"], &[]),
        target => Script::ok(target),
    });
    let gateway = in_front_of(&upstream, "");
    let large = "y".repeat(20_000);
    let requests = [
        ("GET", "/plain", "\r\n"),
        ("POST", "/by-chunks", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        ("GET", "/chunked", "\r\n"),
        ("POST", "/small", "content-length: 3\r\n\r\nabc"),
        ("GET", "/trailers", "connection: te\r\nte: trailers\r\n\r\n"),
        ("HEAD", "/head", "\r\n"),
        ("POST", "/chunked/small", "content-length: 3\r\n\r\nabc"),
        ("PUT", "/large", &format!("content-length: 20000\r\n\r\n{large}")),
        ("GET", "/none", "\r\n"),
        ("PUT", "/chunked/large", &format!("content-length: 20000\r\n\r\n{large}")),
        ("GET", "/last", "connection: close\r\n\r\n"),
    ];
    let bytes: String =
        requests.iter().map(|(how, what, rest)| format!("{how} {what} HTTP/1.1\r\nhost: x\r\n{rest}")).collect();
    for piece in [1 << 20, 4_096, 1_000, 97, 7] {
        let mut client = RawClient::connect(gateway.public());
        bytes.as_bytes().chunks(piece).for_each(|it| client.send(it));
        for (method, target, _) in &requests {
            let answer = client.read_response_to(method);
            let text = match *target {
                "/none" | "/head" => String::new(),
                target if target.starts_with("/chunked") => format!("{target}!"),
                target => target.to_owned(),
            };
            assert_eq!(answer.text(), text, "{method} {target}, in pieces of {piece}");
        }
        client.expect_closed();
    }
    let seen = upstream.requests();
    assert_eq!((seen.len(), upstream.failures()), (5 * requests.len(), Vec::new()));
    for (number, request) in seen.iter().enumerate() {
        let (_, target, rest) = requests[number % requests.len()];
        let body = if rest.len() > 20_000 {
            large.as_str()
        } else if rest.contains("abc") {
            "abc"
        } else {
            ""
        };
        let head = request.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
        assert!(request.starts_with(requests[number % requests.len()].0.as_bytes()), "{number} {target}");
        if !target.contains("by-chunks") {
            assert_eq!(&request[head..], body.as_bytes(), "{target}");
        }
    }
}

#[test]
fn five_pipelined_requests_get_five_answers_in_order() {
    let upstream = RawUpstream::start(|request| Script::ok(request.target()));
    let gateway = in_front_of(&upstream, "");
    let mut client = RawClient::connect(gateway.public());
    let mut all = String::new();
    for number in 0..5 {
        let body = if number == 2 { "content-length: 3\r\n\r\nabc" } else { "\r\n" };
        let method = if number == 2 { "POST" } else { "GET" };
        all += &format!("{method} /{number} HTTP/1.1\r\nhost: x\r\n{body}");
    }
    client.send(all);
    for number in 0..5 {
        assert_eq!(client.read_response().text(), format!("/{number}"));
    }
}

#[test]
fn a_pooled_connection_that_went_stale_is_not_noticed_by_anybody() {
    // Closes every connection after one answer without having said so.
    let upstream = RawUpstream::start(|_| Script::ok("fresh").close());
    let gateway = in_front_of(&upstream, "");
    for turn in 0..5 {
        assert_eq!(gateway.get("/").text(), "fresh", "turn {turn}");
        upstream.wait_for_closed(turn + 1);
        assert_eq!(gateway.request("PUT", "/", &[], "body").text(), "fresh");
        upstream.wait_for_closed(turn + 2);
    }
}

#[test]
fn a_connection_that_dies_under_the_next_request_costs_an_idempotent_one_nothing() {
    // The second request on every connection is read and not answered.
    let upstream = RawUpstream::start(|request| match request.turn {
        0 => Script::ok("fresh"),
        _ => Script::new().close(),
    });
    let gateway = in_front_of(&upstream, "");
    for _ in 0..6 {
        assert_eq!(gateway.get("/").text(), "fresh");
    }
}

#[test]
fn what_may_have_reached_an_upstream_is_repeated_only_if_it_is_idempotent() {
    let upstream = RawUpstream::start(|_| Script::new().read_body().close());
    let gateway = in_front_of(&upstream, "");
    let lost = gateway.request("POST", "/", &[], "pay");
    assert_eq!((lost.status, &lost.json()["error"]["code"]), (502, &"upstream_closed".into()));
    assert_eq!(upstream.requests().len(), 1, "a payment is made once");
    assert_eq!(gateway.request("POST", "/empty", &[("content-length", "0")], "").status, 502);
    assert_eq!(upstream.requests().len(), 2, "even without a body");
    assert_eq!(gateway.request("PATCH", "/", &[], "").status, 502);
    assert_eq!(upstream.requests().len(), 3);
    assert_eq!(gateway.get("/").status, 502);
    assert_eq!(upstream.requests().len(), 4, "nothing goes again to the endpoint that failed");
    let two = RawUpstream::start(|_| Script::ok("two"));
    let gateway = Gateway::start(routes(&[upstream.address(), two.address()], ""));
    assert!((0..4).all(|_| gateway.get("/").text() == "two"), "a GET goes to another one");
}

#[test]
fn an_idempotent_request_goes_to_an_endpoint_that_answers() {
    let broken = RawUpstream::start(|_| Script::new().read_body().close());
    let sound = RawUpstream::start(|_| Script::ok("sound"));
    let endpoints = [broken.address(), sound.address()];
    let gateway = Gateway::start(routes(&endpoints, ""));
    for _ in 0..8 {
        for method in ["GET", "DELETE", "OPTIONS"] {
            assert_eq!(gateway.request(method, "/", &[], "").text(), "sound", "{method}");
        }
    }
    assert!(broken.connections() > 0, "it was asked");
}

#[test]
fn a_post_goes_to_another_endpoint_while_it_cannot_have_reached_one() {
    let sound = RawUpstream::start(|_| Script::ok("sound"));
    let endpoints = [crate::support::nobody(), sound.address()];
    let gateway = Gateway::start(routes(&endpoints, ""));
    for _ in 0..8 {
        assert_eq!(gateway.request("POST", "/", &[], "body").text(), "sound");
    }
    assert!(sound.requests().iter().all(|it| body_of(it) == b"body"));
}

// ── Local services ──────────────────────────────────────────────────────────────────────────────

#[test]
fn s2s_7_a_local_service_answers_like_any_upstream() {
    let gateway = Gateway::with("version: 1\nroutes: []\n").config(H2C).start();
    let mut client = RawClient::connect(gateway.public());
    for _ in 0..3 {
        client.send("GET /api/health HTTP/1.1\r\nhost: x\r\n\r\n");
        let answer = client.read_response();
        assert_eq!((answer.status, &answer.json()["status"]), (200, &"ok".into()));
        assert_eq!(answer.header("connection"), None);
        assert_eq!(answer.header("content-length").unwrap(), answer.body.len().to_string());
        client.send("HEAD /api/health HTTP/1.1\r\nhost: x\r\n\r\n");
        let head = client.read_response_to("HEAD");
        assert_eq!((head.status, head.body.len()), (200, 0));
    }
    let mut h2 = H2Client::connect(gateway.public());
    let answer = h2.get("/api/health");
    assert_eq!((answer.status, &answer.json()["status"]), (200, &"ok".into()));
    assert!(answer.header("x-request-id").is_some() && answer.header("date").is_some());
    assert_eq!(h2.request("HEAD", "/api/health", &[], b"", None).status, 200);
    assert!(h2.get("/api/metrics").json().is_object());
}

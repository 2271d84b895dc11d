//! Malformed HTTP/2, written frame by frame: the h2 crate would not send it.

use super::*;

/// A header block in literals without indexing or Huffman: longer than it could be, and able to say anything.
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            if text.len() < 127 {
                out.push(text.len() as u8);
            } else {
                out.push(127);
                let mut left = text.len() - 127;
                while left >= 128 {
                    out.push(left as u8 | 128);
                    left >>= 7;
                }
                out.push(left as u8);
            }
            out.extend_from_slice(text);
        }
    }
    out
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Preface and settings of a client.
pub fn hello(settings: &[u8]) -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, settings)[..]].concat()
}

/// A request without a body; also for [`crate::slow_clients`].
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&head(path.as_bytes())))
}

/// A request whose body never comes.
pub fn post(stream: u32, path: &str) -> Vec<u8> {
    let mut fields = head(path.as_bytes());
    fields[0].1 = b"POST";
    frame(HEADERS, END_HEADERS, stream, &block(&fields))
}

pub fn data(stream: u32, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, 0, stream, bytes)
}

/// A header that is not finished yet.
pub fn begun(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM, stream, &block(&head(b"/never")))
}

pub fn continued(stream: u32) -> Vec<u8> {
    frame(CONTINUATION, 0, stream, &block(&[(b"x", b"y")]))
}

pub fn head(path: &[u8]) -> Vec<(&[u8], &[u8])> {
    vec![(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.example"), (b":path", path)]
}

/// How a stream ended.
#[derive(Debug, PartialEq)]
pub enum End {
    Status(u16),
    Reset,
    Closed,
}

/// Reads until this stream or the connection ends. Answers are read for their status alone: it is an
/// indexed field or a literal with the indexed name `:status` (RFC 7541, appendix A).
pub fn end_of(client: &mut RawClient, stream: u32) -> End {
    let mut status = None;
    loop {
        let Ok(head) = client.try_read_exactly(9) else { return status.map_or(End::Closed, End::Status) };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Ok(payload) = client.try_read_exactly(length) else { return End::Closed };
        let (kind, flags) = (head[3], head[4]);
        let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match kind {
            GOAWAY if payload[4..8] != [0; 4] => return End::Closed,
            RST_STREAM if of == stream => return status.map_or(End::Reset, End::Status),
            HEADERS if of == stream => status = Some(status_of(&payload)),
            _ => {}
        }
        if of == stream && (kind == HEADERS || kind == DATA) && flags & END_STREAM != 0 {
            return End::Status(status.unwrap_or_default());
        }
    }
}

pub fn status_of(block: &[u8]) -> u16 {
    match block[0] {
        0x88 => 200,
        0x8c => 400,
        0x8d => 404,
        // A literal: three digits, plain or in Huffman's code (RFC 7541, appendix B).
        _ if block[1] & 0x80 == 0 => block[2..5].iter().fold(0, |it, digit| it * 10 + u16::from(digit - b'0')),
        _ => {
            let bits: String = block[2..5].iter().map(|it| format!("{it:08b}")).collect();
            let (mut at, mut status) = (0, 0);
            for _ in 0..3 {
                let short = &bits[at..at + 5] < "00011";
                let code = u16::from_str_radix(&bits[at..at + if short { 5 } else { 6 }], 2).unwrap();
                at += if short { 5 } else { 6 };
                status = status * 10 + if short { code } else { code - 0b011001 + 3 };
            }
            status
        }
    }
}

fn h2c(upstream: &RawUpstream) -> Gateway {
    let config = super::CONFIG_H2C;
    Gateway::with(routes(upstream)).config(config).start()
}

pub type Field<'a> = (&'a [u8], &'a [u8]);

/// A good head with these fields instead of those of the same name, and without those that have no value.
fn with(changes: &[(&'static [u8], Option<&'static [u8]>)]) -> Vec<Field<'static>> {
    let mut fields: Vec<Field<'static>> = head(b"/case");
    for (name, value) in changes {
        let place = fields.iter().position(|it| it.0 == *name && name.starts_with(b":"));
        match (place, value) {
            (Some(place), Some(value)) => fields[place].1 = value,
            (Some(place), None) => drop(fields.remove(place)),
            (None, Some(value)) => fields.push((name, value)),
            (None, None) => {}
        }
    }
    fields
}

fn heads() -> Vec<(&'static str, Vec<Field<'static>>)> {
    let one = |name: &'static [u8], value: &'static [u8]| with(&[(name, Some(value))]);
    let none = |name: &'static [u8]| with(&[(name, None)]);
    let first = |field: Field<'static>| [vec![field], head(b"/case")].concat();
    let last = |field: Field<'static>| [head(b"/case"), vec![field]].concat();
    vec![
        ("no :method", none(b":method")),
        ("no :path", none(b":path")),
        ("no :scheme", none(b":scheme")),
        ("no :authority and no host", none(b":authority")),
        ("an empty :path", one(b":path", b"")),
        ("a :path without a slash", one(b":path", b"case")),
        (":path *", one(b":path", b"*")),
        ("a :path that is a URL", one(b":path", b"http://b.example/case")),
        ("a :path with a space", one(b":path", b"/case HTTP/1.1")),
        ("a :path with CR LF", one(b":path", b"/case HTTP/1.1\r\nX: y")),
        ("a :path with a NUL", one(b":path", b"/ca\0se")),
        ("a :path with a byte beyond ASCII", one(b":path", b"/ca\xffse")),
        ("a :path above the root", one(b":path", b"/../case")),
        ("a :path with an encoded slash", one(b":path", b"/ca%2fse")),
        ("an empty :method", one(b":method", b"")),
        ("a :method with a space", one(b":method", b"GET /hidden HTTP/1.1")),
        ("a :method with CR LF", one(b":method", b"GET\r\nX: y")),
        ("a long :method", one(b":method", b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")),
        ("an :authority with userinfo", one(b":authority", b"user@a.example")),
        ("an :authority with a path", one(b":authority", b"a.example/x")),
        ("an :authority with a bad port", one(b":authority", b"a.example:99999")),
        ("an :authority with CR LF", one(b":authority", b"a.example\r\nX: y")),
        ("an empty :authority", one(b":authority", b"")),
        ("two :method", last((b":method", b"GET"))),
        ("two :path", last((b":path", b"/case"))),
        ("two :authority", last((b":authority", b"b.example"))),
        ("an unknown pseudo-header", last((b":hidden", b"x"))),
        ("an answer's pseudo-header", last((b":status", b"200"))),
        (":protocol without extended CONNECT", last((b":protocol", b"websocket"))),
        ("a pseudo-header after a field", first((b"x", b"y"))),
        ("another host", last((b"host", b"b.example"))),
        ("two hosts", [head(b"/case"), vec![(b"host", b"a.example"), (b"host", b"a.example")]].concat()),
        ("a host with a slash", with(&[(b":authority", None), (b"host", Some(b"a/b"))])),
        ("a name in capitals", last((b"X-Case", b"y"))),
        ("an empty name", last((b"", b"y"))),
        ("a name with a space", last((b"x y", b"z"))),
        ("a name with a colon", last((b"x:y", b"z"))),
        ("a name with CR LF", last((b"x\r\ny", b"z"))),
        ("a name with a NUL", last((b"x\0", b"z"))),
        ("a value with CR LF", last((b"x", b"a\r\nX-Injected: b"))),
        ("a value with LF", last((b"x", b"a\nb"))),
        ("a value with CR", last((b"x", b"a\rb"))),
        ("a value with a NUL", last((b"x", b"a\0b"))),
        ("a value with DEL", last((b"x", b"a\x7fb"))),
        ("connection", last((b"connection", b"close"))),
        ("transfer-encoding", last((b"transfer-encoding", b"chunked"))),
        ("keep-alive", last((b"keep-alive", b"5"))),
        ("proxy-connection", last((b"proxy-connection", b"close"))),
        ("upgrade", last((b"upgrade", b"h2c"))),
        ("te that is not trailers", last((b"te", b"gzip"))),
        ("a length without a body", last((b"content-length", b"5"))),
        ("a signed length", last((b"content-length", b"+0"))),
        ("a length that is none", last((b"content-length", b"x"))),
        ("an empty length", last((b"content-length", b""))),
        ("two lengths", [head(b"/case"), vec![(b"content-length", b"0"), (b"content-length", b"0")]].concat()),
        ("a list of lengths", last((b"content-length", b"0, 0"))),
        ("an expectation of another kind", last((b"expect", b"junk"))),
        ("CONNECT", vec![(b":method", b"CONNECT"), (b":authority", b"a.example:80")]),
        ("CONNECT with a path", one(b":method", b"CONNECT")),
    ]
}

#[test]
fn bad_input_http2_nothing_of_a_malformed_head_arrives() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    // One thread, so that the log's lines are in order.
    let config = format!("{CONFIG_H2C}threads: 1\n");
    let gateway = Gateway::with(routes(&upstream)).config(config).start();
    let mut wrong = Vec::new();
    let mut answered = 0;
    for (name, fields) in heads() {
        let mut client = RawClient::connect(gateway.public());
        client.send([hello(b""), frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&fields))].concat());
        let end = end_of(&mut client, 1);
        let refused = match end {
            End::Status(status) => (400..500).contains(&status),
            End::Reset | End::Closed => true,
        };
        answered += usize::from(matches!(end, End::Status(_)));
        if !refused || upstream.connections() > 0 {
            wrong.push(format!(
                "{name}: {end:?}, {:?}",
                upstream.requests().last().map(|it| it.escape_ascii().to_string())
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut client = RawClient::connect(gateway.public());
    client.send([hello(b""), get(1, "/marker")].concat());
    assert_eq!(end_of(&mut client, 1), End::Status(200));
    assert_eq!(upstream.requests().len(), 1);
    // What was refused is in the log, once each.
    gateway.wait_for_event("request", |it| it["path"] == "/marker");
    let told = gateway.events("request").into_iter().filter(|it| it["error"].is_string() && it["http"] == "2").count();
    assert_eq!(told, answered);
}

#[test]
fn bad_input_http2_a_length_that_the_data_do_not_keep_is_cut() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = h2c(&upstream);
    for (name, length, body) in [("more", &b"3"[..], &b"hello"[..]), ("less", b"8", b"hello"), ("some", b"0", b"hello")]
    {
        let mut fields: Vec<Field<'_>> = head(b"/case");
        fields[0].1 = b"POST";
        fields.push((b"content-length", length));
        let mut client = RawClient::connect(gateway.public());
        let head = frame(HEADERS, END_HEADERS, 1, &block(&fields));
        client.send([hello(b""), head, frame(DATA, END_STREAM, 1, body)].concat());
        let end = end_of(&mut client, 1);
        assert!(matches!(end, End::Reset | End::Closed | End::Status(400)), "{name}: {end:?}");
    }
    drop(gateway);
    upstream.wait_for_closed(upstream.connections());
    for bytes in upstream.received() {
        assert!(exact::requests(&bytes).unwrap().iter().all(|it| it.cut), "{}", bytes.escape_ascii());
    }
}

/// They make the request malformed (RFC 9113, section 8.1), but h2 drops them before anybody sees them: so the stream goes
/// on, without them.
#[test]
fn bad_input_http2_pseudo_fields_of_trailers_go_no_further() {
    for name in [&b":path"[..], b":method", b":status", b":authority"] {
        let upstream = RawUpstream::start(|_| Script::ok("fine"));
        let gateway = h2c(&upstream);
        let mut fields: Vec<Field<'_>> = head(b"/case");
        fields[0].1 = b"POST";
        let trailers = block(&[(name, if name == b":status" { b"201" } else { b"/smuggled" }), (b"x-good", b"1")]);
        let bytes = [
            hello(b""),
            frame(HEADERS, END_HEADERS, 1, &block(&fields)),
            data(1, b"hello"),
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &trailers),
        ];
        let mut client = RawClient::connect(gateway.public());
        client.send(bytes.concat());
        let end = end_of(&mut client, 1);
        assert!(matches!(end, End::Status(200 | 400) | End::Reset | End::Closed), "{end:?}");
        for bytes in upstream.received() {
            let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
            // Not the status by its digits: ids of traces have any three of them in a row.
            let name = std::str::from_utf8(name).unwrap();
            assert!(!text.contains("smuggled") && !text.contains(name), "{text}");
        }
    }
}

#[test]
fn bad_input_http2_header_lists_have_a_bound() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = h2c(&upstream);
    let value = [b'a'; 8_000];
    let fat: Vec<Field<'_>> = (0..10).map(|_| (&b"x"[..], &value[..])).collect();
    let block = block(&[head(b"/case"), fat].concat());
    let mut client = RawClient::connect(gateway.public());
    let mut pieces = block.chunks(16_000);
    let _ = client.try_send([hello(b""), frame(HEADERS, END_STREAM, 1, pieces.next().unwrap())].concat());
    for piece in pieces {
        let _ = client.try_send(frame(CONTINUATION, 0, 1, piece));
    }
    let _ = client.try_send(frame(CONTINUATION, END_HEADERS, 1, b""));
    let end = end_of(&mut client, 1);
    assert!(matches!(end, End::Reset | End::Closed | End::Status(431)), "{end:?}");
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn bad_input_http2_a_flood_of_continuations_is_cut() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = h2c(&upstream);
    let mut client = RawClient::connect(gateway.public());
    client.send([hello(b""), begun(1)].concat());
    // As many as fit into 64 MiB, were they taken; the end is a reset or a refused write.
    let flood = continued(1).repeat(4096);
    let taken = (0..1024).take_while(|_| client.try_send(&flood).is_ok()).count();
    assert!(taken < 1024, "it takes any number");
    assert_eq!(gateway.get("/marker").status, 200);
}

#[test]
fn bad_input_http2_rapid_resets_are_cut() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = h2c(&upstream);
    let mut client = RawClient::connect(gateway.public());
    client.send(hello(b""));
    let pairs = 20_000u32;
    let cut = (0..pairs).any(|it| {
        let stream = it * 2 + 1;
        client.try_send([get(stream, "/reset"), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()).is_err()
    });
    assert!(cut || end_of(&mut client, pairs * 2 + 1) == End::Closed, "it takes any number");
    assert_eq!(gateway.get("/marker").status, 200);
    assert!(upstream.requests().len() < pairs as usize / 2, "{}", upstream.requests().len());
}

#[test]
fn bad_input_http2_frames_that_are_none_end_the_connection() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = h2c(&upstream);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("data before its stream", frame(DATA, END_STREAM, 1, b"x")),
        ("headers on stream 0", frame(HEADERS, END_STREAM | END_HEADERS, 0, &block(&head(b"/case")))),
        ("headers on an even stream", frame(HEADERS, END_STREAM | END_HEADERS, 2, &block(&head(b"/case")))),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &block(&head(b"/case")))),
        ("another frame amid a head", [begun(1), frame(DATA, 0, 1, b"x")].concat()),
        ("a frame larger than agreed", frame(DATA, 0, 1, &[0; 20_000])),
        ("settings of a bad length", frame(SETTINGS, 0, 0, &[0; 5])),
        ("a header block that is none", frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff; 40])),
        ("a push", frame(5, END_HEADERS, 1, &[0, 0, 0, 2])),
        ("HTTP/1 after the preface", b"GET /hidden HTTP/1.1\r\nHost: a.example\r\n\r\n".to_vec()),
    ];
    for (name, bytes) in cases {
        let mut client = RawClient::connect(gateway.public());
        let _ = client.try_send([hello(b""), bytes].concat());
        let end = end_of(&mut client, 1);
        assert!(matches!(end, End::Closed | End::Reset), "{name}: {end:?}");
    }
    assert_eq!(upstream.connections(), 0);
}

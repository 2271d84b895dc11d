//! HTTP/2 clients: those that behave are served, a mistake of one stream is that stream's own, and refusals have our
//! shape. The frames are written by hand, because the h2 crate sends neither mistakes nor many small frames at once.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Request as HttpRequest;
use serde_json::Value;

use crate::bad_input::http2::{
    DATA, END_HEADERS, END_STREAM, Field, GOAWAY, HEADERS, RST_STREAM, SETTINGS, block, data, frame, get, head, hello,
    post, status_of,
};
use crate::exchange::{H2C, body_of, in_front_of, routes};
use crate::support::upstream::answer_bytes;
use crate::support::{Gateway, H2Client, RawClient, RawUpstream, Script, Signal, figure};

const PROTOCOL_ERROR: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Whole,
    Reset(u32),
}

#[derive(Debug, Default)]
struct Stream {
    status: u16,
    body: Vec<u8>,
    end: Option<End>,
}

/// All that a connection has said.
#[derive(Debug, Default)]
struct Heard {
    streams: BTreeMap<u32, Stream>,
    /// The connection's own error.
    goaway: Option<u32>,
    closed: bool,
}

impl Heard {
    fn end(&self, stream: u32) -> Option<End> {
        self.streams.get(&stream)?.end
    }

    fn status(&self, stream: u32) -> u16 {
        self.streams.get(&stream).map_or(0, |it| it.status)
    }

    /// Reads on until this stream has ended, or the connection.
    fn until_end_of(&mut self, client: &mut RawClient, stream: u32) -> &Stream {
        while self.end(stream).is_none() && !self.closed {
            self.read_frame(client);
        }
        self.streams.entry(stream).or_default()
    }

    fn read_frame(&mut self, client: &mut RawClient) {
        let Ok(head) = client.try_read_exactly(9) else { return self.closed = true };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Ok(payload) = client.try_read_exactly(length) else { return self.closed = true };
        let word = |at: usize| u32::from_be_bytes([payload[at], payload[at + 1], payload[at + 2], payload[at + 3]]);
        let (kind, flags) = (head[3], head[4]);
        let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match kind {
            GOAWAY if word(4) != 0 => self.goaway = Some(word(4)),
            RST_STREAM => self.streams.entry(of).or_default().end = Some(End::Reset(word(0))),
            HEADERS => {
                let stream = self.streams.entry(of).or_default();
                if stream.status == 0 {
                    stream.status = status_of(&payload);
                }
            }
            DATA => self.streams.entry(of).or_default().body.extend(&payload),
            _ => {}
        }
        if (kind == HEADERS || kind == DATA) && flags & END_STREAM != 0 {
            self.streams.entry(of).or_default().end = Some(End::Whole);
        }
    }
}

// Small frames cost the h2 crate more than their bytes (it counts each as 256), and it keeps a budget for those that were
// not read yet; none of these tests needs more than 256 KiB of it.

// ── Clients that behave ─────────────────────────────────────────────────────────────────────────

/// A body in so many frames of this size.
fn posted(stream: u32, path: &str, frames: usize, size: usize) -> Vec<u8> {
    let mut all = post(stream, path);
    all.extend(data(stream, &vec![b'x'; size]).repeat(frames - 1));
    all.extend(frame(DATA, END_STREAM, stream, &vec![b'x'; size]));
    all
}

#[test]
fn rfc_9113_6_1_a_body_of_many_small_frames_is_taken_and_nobody_beside_it_is_lost() {
    let mut wrong = Vec::new();
    for (frames, size) in [(140, 20), (500, 5), (1_000, 64), (60, 1_000)] {
        let arrived = Signal::new();
        let upstream = {
            let arrived = arrived.clone();
            RawUpstream::start(move |request| match request.target().as_str() {
                "/slow" => Script::new().wait(&arrived).send(answer_bytes(200, &[], b"slow")),
                _ => Script::new().read_body().send(answer_bytes(200, &[], b"posted")).give(&arrived),
            })
        };
        let gateway = in_front_of(&upstream, "");
        let mut client = RawClient::connect(gateway.public());
        client.send([hello(b""), get(1, "/slow"), posted(3, "/post", frames, size)].concat());
        let mut heard = Heard::default();
        heard.until_end_of(&mut client, 3);
        heard.until_end_of(&mut client, 1);
        let told = (heard.status(1), heard.end(1), heard.status(3), heard.end(3));
        if told != (200, Some(End::Whole), 200, Some(End::Whole)) {
            wrong.push(format!("{frames} of {size}: {told:?}, GOAWAY {:?}", heard.goaway));
            continue;
        }
        let post = upstream.requests().into_iter().find(|it| it.starts_with(b"POST")).unwrap();
        assert_eq!(body_of(&post).len(), frames * size);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Some clients lose an answer when their stream is reset behind it, without an error too.
#[test]
fn rfc_9113_8_1_an_answer_before_a_small_body_is_followed_by_no_reset() {
    let gateway = Gateway::with(PRIVATE).config(format!("{H2C}{SECRETIVE}")).start();
    let mut client = RawClient::connect(gateway.public());
    let mut heard = Heard::default();
    client.send([hello(b""), post(1, "/private")].concat());
    let answer = heard.until_end_of(&mut client, 1);
    assert_eq!((answer.status, answer.end), (401, Some(End::Whole)));
    // The body comes when the answer is out; the rest of the connection's frames shows that nothing was in between.
    client.send([frame(DATA, END_STREAM, 1, b"xxxxx"), get(3, "/open")].concat());
    assert_eq!(heard.until_end_of(&mut client, 3).status, 200);
    assert_eq!((heard.status(1), heard.end(1)), (401, Some(End::Whole)));
}

#[test]
fn rfc_9113_8_1_who_sends_a_large_body_behind_the_answer_is_told_to_stop() {
    let gateway = Gateway::with(PRIVATE).config(format!("{H2C}{SECRETIVE}")).start();
    let mut client = RawClient::connect(gateway.public());
    let mut heard = Heard::default();
    client.send([hello(b""), post(1, "/private")].concat());
    assert_eq!(heard.until_end_of(&mut client, 1).status, 401);
    // Of what the settings allow, a client may make use once it has acknowledged them.
    client.send([frame(SETTINGS, 1, 0, b""), data(1, &[b'x'; 16 * 1024]).repeat(5)].concat());
    while heard.end(1) == Some(End::Whole) && !heard.closed {
        heard.read_frame(&mut client);
    }
    assert_eq!((heard.end(1), heard.goaway), (Some(End::Reset(0)), None), "no error: the answer counts");
}

const PRIVATE: &str = "version: 1
routes:
  - { name: private, match: { path: /private }, respond: { body: hello }, auth: { jwt: {} } }
  - { name: open, match: { path: /open }, respond: { body: hello } }
";
const SECRETIVE: &str = "tokens: { hs256_secret: 0123456789abcdef0123456789abcdef }\n";

#[test]
fn rfc_9113_6_1_many_streams_of_small_frames_share_a_connection() {
    let upstream = RawUpstream::start(|_| Script::ok("posted"));
    let gateway = in_front_of(&upstream, "");
    let mut client = RawClient::connect(gateway.public());
    let streams: Vec<u32> = (0..10).map(|it| it * 2 + 1).collect();
    let mut all = hello(b"");
    streams.iter().for_each(|stream| all.extend(post(*stream, "/post")));
    // A chat's words: in turn, one a frame.
    for _ in 0..100 {
        streams.iter().for_each(|stream| all.extend(data(*stream, b"a few words")));
    }
    streams.iter().for_each(|stream| all.extend(frame(DATA, END_STREAM, *stream, b"")));
    client.send(all);
    let mut heard = Heard::default();
    for stream in streams {
        heard.until_end_of(&mut client, stream);
        let told = (heard.status(stream), heard.end(stream));
        assert_eq!(told, (200, Some(End::Whole)), "stream {stream}, GOAWAY {:?}", heard.goaway);
    }
    assert!(upstream.requests().iter().all(|it| body_of(it).len() == 1_100));
}

/// The frames of a gRPC client that streams: each message is small and comes by itself.
#[test]
fn rfc_9113_6_1_small_frames_one_by_one_are_taken_while_the_upstream_is_slow() {
    let go_on = Signal::new();
    let upstream = {
        let go_on = go_on.clone();
        RawUpstream::start(move |_| Script::new().wait(&go_on).read_body().send(answer_bytes(200, &[], b"posted")))
    };
    let gateway = in_front_of(&upstream, "");
    let mut client = RawClient::connect(gateway.public());
    client.send([hello(b""), post(1, "/post")].concat());
    upstream.wait_for_requests(1);
    // Nobody reads it yet.
    for _ in 0..1_000 {
        client.send(data(1, b"twenty bytes of data"));
    }
    client.send(frame(DATA, END_STREAM, 1, b""));
    go_on.give();
    let mut heard = Heard::default();
    heard.until_end_of(&mut client, 1);
    assert_eq!((heard.status(1), heard.end(1)), (200, Some(End::Whole)), "GOAWAY {:?}", heard.goaway);
    assert_eq!(body_of(&upstream.requests()[0]).len(), 20_000);
}

// ── Mistakes of one stream ──────────────────────────────────────────────────────────────────────

fn with(field: Field<'static>) -> Vec<Field<'static>> {
    [head(b"/case"), vec![field]].concat()
}

/// Heads that are malformed by RFC 9113, sections 8.2 and 8.3, and that the h2 crate lets a server survive.
fn malformed() -> Vec<(&'static str, Vec<Field<'static>>)> {
    let without = |name: &[u8]| head(b"/case").into_iter().filter(|it| it.0 != name).collect::<Vec<_>>();
    vec![
        ("connection", with((b"connection", b"close"))),
        ("transfer-encoding", with((b"transfer-encoding", b"chunked"))),
        ("keep-alive", with((b"keep-alive", b"5"))),
        ("proxy-connection", with((b"proxy-connection", b"close"))),
        ("upgrade", with((b"upgrade", b"h2c"))),
        ("te that is not trailers", with((b"te", b"gzip"))),
        ("two :method", with((b":method", b"GET"))),
        ("two :path", with((b":path", b"/case"))),
        ("an answer's pseudo-field", with((b":status", b"200"))),
        ("a pseudo-field behind a field", [vec![(&b"x"[..], &b"y"[..])], head(b"/case")].concat()),
        ("no :method", without(b":method")),
        ("no :path", without(b":path")),
        ("no :scheme", without(b":scheme")),
        ("a length without a body", with((b"content-length", b"5"))),
        ("two hosts", [head(b"/case"), vec![(&b"host"[..], &b"a.example"[..]), (b"host", b"a.example")]].concat()),
    ]
}

/// What RFC 9113, section 8.1.1, would make an error of the stream, too, and the h2 crate makes one of the connection: its
/// decoder turns names and values into the `http` crate's own while it decompresses, and what does not become one leaves the
/// decoder as an error, upon which it sends GOAWAY with PROTOCOL_ERROR. Nothing outside of the crate gets to see the frame. A decoder
/// that has stopped in the middle would also be out of step with the client's table, so that nothing could be made of it later.
fn undecodable() -> Vec<(&'static str, Vec<Field<'static>>)> {
    vec![
        ("a name in capitals", with((b"X-Case", b"y"))),
        ("LF in a value", with((b"x", b"a\nb"))),
        ("CR LF in a value", with((b"x", b"a\r\nx-injected: b"))),
        ("a NUL in a value", with((b"x", b"a\0b"))),
        ("an unknown pseudo-field", with((b":hidden", b"x"))),
        ("an empty name", with((b"", b"y"))),
        ("a name with a space", with((b"x y", b"z"))),
    ]
}

/// An upstream that answers `/slow` when it is told to, and all others at once.
fn patient(go_on: &Signal) -> RawUpstream {
    let go_on = go_on.clone();
    RawUpstream::start(move |request| match request.target().as_str() {
        "/slow" => Script::new().wait(&go_on).send(answer_bytes(200, &[], b"slow")),
        _ => Script::ok("fine"),
    })
}

#[test]
fn rfc_9113_8_1_1_a_malformed_request_is_an_error_of_its_stream() {
    let mut wrong = Vec::new();
    for (name, fields) in malformed() {
        let go_on = Signal::new();
        let upstream = patient(&go_on);
        let gateway = in_front_of(&upstream, "");
        let mut client = RawClient::connect(gateway.public());
        client.send([hello(b""), get(1, "/slow")].concat());
        upstream.wait_for_requests(1);
        client.send(frame(HEADERS, END_STREAM | END_HEADERS, 3, &block(&fields)));
        let mut heard = Heard::default();
        heard.until_end_of(&mut client, 3);
        let refused = heard.end(3) == Some(End::Reset(PROTOCOL_ERROR)) || heard.status(3) == 400;
        go_on.give();
        client.try_send(get(5, "/next")).ok();
        heard.until_end_of(&mut client, 1);
        heard.until_end_of(&mut client, 5);
        let others = [1, 5].map(|it| (heard.status(it), heard.end(it)));
        if !refused || others != [(200, Some(End::Whole)); 2] {
            wrong.push(format!(
                "{name}: {:?} {}, beside it {others:?}, GOAWAY {:?}",
                heard.end(3),
                heard.status(3),
                heard.goaway
            ));
        }
        let arrived = upstream.requests();
        if arrived.iter().any(|it| it.starts_with(b"GET /case")) {
            wrong.push(format!("{name}: it arrived"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Where the crate leaves no choice, nothing of it arrives, the connection says so, and the next one is served.
#[test]
fn rfc_9113_8_1_1_what_can_not_be_decoded_ends_the_connection_and_nothing_of_it_arrives() {
    let mut wrong = Vec::new();
    for (name, fields) in undecodable() {
        let go_on = Signal::new();
        let upstream = patient(&go_on);
        let gateway = in_front_of(&upstream, "");
        let mut client = RawClient::connect(gateway.public());
        client.send([hello(b""), get(1, "/slow")].concat());
        upstream.wait_for_requests(1);
        client.send(frame(HEADERS, END_STREAM | END_HEADERS, 3, &block(&fields)));
        let mut heard = Heard::default();
        heard.until_end_of(&mut client, 3);
        let survived = !heard.closed && heard.end(3).is_some() && heard.goaway.is_none();
        if !survived && heard.goaway.is_none() {
            wrong.push(format!("{name}: it closed without a word"));
        }
        if heard.status(3) == 200 {
            wrong.push(format!("{name}: it was served"));
        }
        go_on.give();
        if survived {
            heard.until_end_of(&mut client, 1);
            if (heard.status(1), heard.end(1)) != (200, Some(End::Whole)) {
                wrong.push(format!("{name}: the one beside it was lost: {heard:?}"));
            }
        } else {
            // The one beside it has its line all the same.
            gateway.wait_for_event("request", |it| it["path"] == "/slow");
        }
        assert_eq!(gateway.get("/next").text(), "fine");
        if upstream.requests().iter().any(|it| it.starts_with(b"GET /case")) {
            wrong.push(format!("{name}: it arrived"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// More or less than was announced is that stream's mistake, too.
#[test]
fn rfc_9113_8_1_1_a_body_that_is_not_as_long_as_it_says_is_an_error_of_its_stream() {
    let mut wrong = Vec::new();
    for (name, length) in [("more", &b"3"[..]), ("less", b"8")] {
        let go_on = Signal::new();
        let upstream = patient(&go_on);
        let gateway = in_front_of(&upstream, "");
        let mut client = RawClient::connect(gateway.public());
        client.send([hello(b""), get(1, "/slow")].concat());
        upstream.wait_for_requests(1);
        let mut fields = [head(b"/case"), vec![(&b"content-length"[..], length)]].concat();
        fields[0].1 = b"POST";
        client.send([frame(HEADERS, END_HEADERS, 3, &block(&fields)), frame(DATA, END_STREAM, 3, b"hello")].concat());
        let mut heard = Heard::default();
        heard.until_end_of(&mut client, 3);
        let refused = matches!(heard.end(3), Some(End::Reset(_))) || heard.status(3) == 400;
        go_on.give();
        heard.until_end_of(&mut client, 1);
        if !refused || (heard.status(1), heard.end(1)) != (200, Some(End::Whole)) {
            wrong.push(format!("{name}: {heard:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// ── Hosts and refusals ──────────────────────────────────────────────────────────────────────────

fn hosted(authority: Option<&'static [u8]>, host: Option<&'static [u8]>) -> Vec<Field<'static>> {
    let mut fields: Vec<Field<'static>> = vec![(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/case")];
    if let Some(authority) = authority {
        fields.push((b":authority", authority));
    }
    if let Some(host) = host {
        fields.push((b"host", host));
    }
    fields
}

fn ask(gateway: &Gateway, fields: &[Field<'_>]) -> Heard {
    let mut client = RawClient::connect(gateway.public());
    client.send([hello(b""), frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(fields))].concat());
    let mut heard = Heard::default();
    heard.until_end_of(&mut client, 1);
    heard
}

#[test]
fn rfc_9113_8_3_1_authority_and_host_are_the_same_but_for_case_the_last_dot_and_the_default_port() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let text =
        routes(&[upstream.address()], "").replace("path: \"/{*rest}\"", "path: \"/{*rest}\", hosts: [api.example.org]");
    let gateway = Gateway::with(text).config(H2C).start();
    type Name = Option<&'static [u8]>;
    let same: [(Name, Name); 11] = [
        (Some(b"api.example.org"), Some(b"api.example.org.")),
        (Some(b"api.example.org.:80"), Some(b"api.example.org")),
        (Some(b"api.example.org"), Some(b"API.example.org")),
        (Some(b"API.EXAMPLE.ORG"), Some(b"api.example.org")),
        (Some(b"api.example.org:80"), Some(b"api.example.org")),
        (Some(b"api.example.org"), Some(b"api.example.org:80")),
        (Some(b"Api.Example.Org:80"), Some(b"api.example.ORG")),
        (Some(b"api.example.org"), Some(b"api.example.org")),
        (Some(b"API.example.org"), None),
        (None, Some(b"API.example.org:80")),
        (Some(b"api.example.org:80"), Some(b"api.example.org:80")),
    ];
    let mut wrong = Vec::new();
    for (number, (authority, host)) in same.into_iter().enumerate() {
        let heard = ask(&gateway, &hosted(authority, host));
        let names = [authority, host].map(|it| it.map(|it| it.escape_ascii().to_string()));
        if (heard.status(1), heard.end(1)) != (200, Some(End::Whole)) {
            wrong.push(format!("{names:?}: {heard:?}"));
            continue;
        }
        let text = String::from_utf8(upstream.requests().pop().unwrap()).unwrap().to_lowercase();
        let hosts: Vec<_> = text.split("\r\n").filter_map(|it| it.strip_prefix("host: ")).collect();
        if !matches!(hosts[..], ["api.example.org" | "api.example.org:80"]) {
            wrong.push(format!("{number} {names:?}: the upstream was told {hosts:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The answer has the shape of every refusal, its line in the log, and is counted.
fn judge(gateway: &Gateway, heard: &Heard, want: u16) -> Result<String, String> {
    let stream = heard.streams.get(&1).ok_or("nothing")?;
    if (stream.status, stream.end) != (want, Some(End::Whole)) {
        return Err(format!("{} {:?}, GOAWAY {:?}", stream.status, stream.end, heard.goaway));
    }
    let body: Value = serde_json::from_slice(&stream.body)
        .map_err(|it| format!("{it}: {:?}", String::from_utf8_lossy(&stream.body)))?;
    let error = &body["error"];
    let complete = ["code", "message", "suggested_action", "request_id"]
        .iter()
        .all(|it| error[it].as_str().is_some_and(|it| !it.is_empty()));
    if !complete || error.get("details").is_none() {
        return Err(format!("not an error of ours: {error}"));
    }
    let line = gateway.access_log_for(error["request_id"].as_str().unwrap());
    if (&line["status"], &line["error"], &line["end"], &line["http"])
        != (&want.into(), &error["code"], &"refused".into(), &"2".into())
    {
        return Err(format!("the log says {line}"));
    }
    Ok(error["code"].as_str().unwrap().to_owned())
}

#[test]
fn s2s_42_refusals_of_http2_requests_have_our_shape_a_line_and_a_count() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = in_front_of(&upstream, "");
    let changed = |name: &'static [u8], value: &'static [u8]| -> Vec<Field<'static>> {
        head(b"/case").into_iter().map(|it| if it.0 == name { (name, value) } else { it }).collect()
    };
    let cases: Vec<(&str, Vec<Field<'static>>, u16)> = vec![
        ("another host", hosted(Some(b"a.example"), Some(b"b.example")), 400),
        ("another port", hosted(Some(b"a.example:81"), Some(b"a.example")), 400),
        ("userinfo", hosted(Some(b"user@a.example"), None), 400),
        ("userinfo with a password", hosted(Some(b"user:pw@a.example"), Some(b"a.example")), 400),
        ("a bad port", hosted(Some(b"a.example:99999"), None), 400),
        ("neither authority nor host", hosted(None, None), 400),
        ("a host with a slash", hosted(None, Some(b"a/b")), 400),
        ("a path above the root", changed(b":path", b"/../case"), 400),
        ("a path with an encoded slash", changed(b":path", b"/ca%2fse"), 400),
        ("CONNECT", vec![(b":method", b"CONNECT"), (b":authority", b"a.example:80")], 405),
        ("CONNECT without a port", vec![(b":method", b"CONNECT"), (b":authority", b"a.example")], 405),
        ("an expectation of another kind", with((b"expect", b"junk")), 417),
    ];
    let mut wrong = Vec::new();
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    for (name, fields, want) in &cases {
        match judge(&gateway, &ask(&gateway, fields), *want) {
            Ok(code) => *counts.entry(code).or_default() += 1.0,
            Err(what) => wrong.push(format!("{name}: {what}")),
        }
    }
    for (code, count) in &counts {
        let counted = figure(&gateway, &format!("moongate_refusals_total{{code=\"{code}\"}}"));
        if counted != Some(*count) {
            wrong.push(format!("{code} was counted {counted:?} times, not {count}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(upstream.connections(), 0);
    // One line each, and each is a request.
    let text = gateway.admin_get("/metrics").text();
    let ours =
        text.lines().filter(|it| it.starts_with("moongate_requests_total{class=\"4xx\"") && it.contains("\"none\""));
    let requests: f64 = ours.map(|it| it.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum();
    assert_eq!((gateway.events("request").len(), requests as usize), (cases.len(), cases.len()));
}

#[test]
fn rfc_9110_15_5_6_connect_is_told_what_is_allowed_by_nobody_else_than_the_gateway() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = in_front_of(&upstream, "");
    let client = H2Client::connect(gateway.public());
    let mut sender = client.sender();
    let (head, body) = client.run(async {
        let request = HttpRequest::builder().method("CONNECT").uri("a.example:80").body(()).unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        let (head, mut stream) = answer.await.unwrap().into_parts();
        let mut body = Vec::new();
        while let Some(piece) = stream.data().await {
            let piece: Bytes = piece.unwrap();
            let _ = stream.flow_control().release_capacity(piece.len());
            body.extend(piece);
        }
        (head, body)
    });
    let error = serde_json::from_slice::<Value>(&body).unwrap_or_default()["error"].clone();
    assert_eq!((head.status.as_u16(), error["code"].as_str()), (405, Some("method_not_supported")));
    let told = |name: &str| head.headers.get(name).map(|it| it.to_str().unwrap().to_owned());
    assert_eq!(told("content-type").as_deref(), Some("application/json"));
    assert_eq!(told("x-request-id").as_deref(), error["request_id"].as_str());
    assert!(told("allow").is_some_and(|it| it.contains("GET") && !it.contains("CONNECT")), "{:?}", told("allow"));
    assert!(told("server").is_none_or(|it| !it.to_lowercase().contains("pingora")), "{:?}", told("server"));
    // The connection lives on.
    let mut client = client;
    assert_eq!(client.get("/next").text(), "fine");
}

/// A cookie may come in pieces, and is the same one: the repetition of an idempotent request, and what arrives.
#[test]
fn rfc_9113_8_2_3_a_cookie_in_pieces_is_one_field_behind_the_gateway() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = Gateway::with(routes(&[upstream.address()], "idempotency: {}")).config(H2C).start();
    let mut client = H2Client::connect(gateway.public());
    for (crumbs, replayed) in [(&["a=1", "b=2"][..], None), (&["a=1; b=2"], Some("true"))] {
        let crumbs = crumbs.iter().map(|it| ("cookie", *it));
        let fields: Vec<(&str, &str)> = crumbs.chain([("idempotency-key", "k1")]).collect();
        let answer = client.request("POST", "/x", &fields, b"hi", None);
        assert_eq!((answer.status, answer.header("idempotency-replayed")), (200, replayed), "{}", answer.text());
    }
    let arrived = upstream.requests();
    assert_eq!(arrived.len(), 1);
    let text = String::from_utf8(arrived[0].clone()).unwrap().to_lowercase();
    assert!(text.contains("\r\ncookie: a=1; b=2\r\n") && text.matches("\r\ncookie:").count() == 1, "{text}");
}

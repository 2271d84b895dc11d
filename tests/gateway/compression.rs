//! Answers that are compressed on their way out: for whom, in which coding, and what never is.

use std::io::{Read, Write};

use crate::exchange::H2C;
use crate::support::http1::{request_bytes, try_request};
use crate::support::upstream::{chunk, last_chunk};
use crate::support::{Gateway, H2Client, RawClient, RawUpstream, Response, Script, Signal, eventually, figure};

fn routes(upstream: std::net::SocketAddr, settings: &str) -> String {
    format!(
        "version: 1\nupstreams: {{ app: {{ discovery: {{ static: [\"{upstream}\"] }} }} }}\nroutes:\n  \
         - {{ name: app, match: {{ path: \"/{{*rest}}\" }}, upstream: app, {settings} }}\n  \
         - {{ name: plain, match: {{ path: /plain }}, upstream: app }}\n"
    )
}

fn gateway(upstream: &RawUpstream, settings: &str) -> Gateway {
    Gateway::with(routes(upstream.address(), settings)).config(H2C).start()
}

/// 64 KiB of JSON, and a little.
fn json() -> Vec<u8> {
    let lines: Vec<String> = (0..2200).map(|it| format!("{{\"id\": {it}, \"name\": \"player\"}}")).collect();
    format!("[{}]", lines.join(",")).into_bytes()
}

fn decoded(answer: &Response) -> Vec<u8> {
    let mut text = Vec::new();
    match answer.header("content-encoding") {
        Some("gzip") => drop(flate2::read::MultiGzDecoder::new(&answer.body[..]).read_to_end(&mut text).unwrap()),
        Some("br") => drop(brotli::Decompressor::new(&answer.body[..], 4096).read_to_end(&mut text).unwrap()),
        Some("zstd") => text = zstd::decode_all(&answer.body[..]).unwrap(),
        None => text.clone_from(&answer.body),
        other => panic!("{other:?}"),
    }
    text
}

fn ask(gateway: &Gateway, path: &str, accepted: &str) -> Response {
    gateway.request("GET", path, &[("accept-encoding", accepted)], b"")
}

const JSON: [(&str, &str); 3] =
    [("content-type", "application/json; charset=utf-8"), ("etag", "\"x\""), ("content-digest", "sha-256=:x:")];

#[test]
fn rfc_9110_12_5_3_answers_are_compressed_as_clients_like_it() {
    let upstream = RawUpstream::start(|it| match it.target().as_str() {
        "/chunked" => Script::new()
            .read_body()
            .send("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n")
            .send(chunk(&json()))
            .send(last_chunk(&[("x-trailer", "1"), ("repr-digest", "sha-256=:x:")])),
        _ => Script::answer(200, &[&JSON[..], &[("accept-ranges", "bytes"), ("vary", "origin")]].concat(), json()),
    });
    let gateway = gateway(&upstream, "compress: [br, zstd, gzip]");
    let mut http2 = H2Client::connect(gateway.public());
    for (accepted, expected) in [
        ("gzip, br, zstd", Some("br")),
        ("gzip, zstd;q=0.9", Some("gzip")),
        ("zstd, gzip;q=0.1", Some("zstd")),
        ("*", Some("br")),
        ("br;q=0, *;q=0.5", Some("zstd")),
        ("identity", None),
        ("deflate", None),
        ("identity;q=1, gzip;q=0.5", None),
    ] {
        let fields = [("accept-encoding", accepted)];
        for answer in [ask(&gateway, "/length", accepted), http2.request("GET", "/length", &fields, b"", None)] {
            assert_eq!((answer.status, answer.header("content-encoding")), (200, expected), "{accepted}");
            assert_eq!(decoded(&answer), json(), "{accepted}");
            let vary = answer.headers_named("vary").join(", ").to_lowercase();
            assert_eq!(vary, "origin, accept-encoding", "{accepted}");
            let gone = ["content-length", "accept-ranges", "content-digest"].map(|it| answer.header(it).is_none());
            assert_eq!(gone, [expected.is_some(); 3], "{accepted}: {:?}", answer.headers);
            assert_eq!(answer.header("etag"), Some(if expected.is_some() { "W/\"x\"" } else { "\"x\"" }));
            assert!(expected.is_none() || answer.body.len() * 4 < json().len(), "{accepted}: {}", answer.body.len());
        }
        let fields = [("accept-encoding", accepted), ("te", "trailers"), ("connection", "te, close")];
        let chunked = gateway.request("GET", "/chunked", &fields, b"");
        assert_eq!((chunked.header("content-encoding"), decoded(&chunked)), (expected, json()), "{accepted}");
        assert_eq!(chunked.trailer("x-trailer"), Some("1"));
        assert_eq!(chunked.trailer("repr-digest").is_none(), expected.is_some(), "it is of other bytes");
    }
    assert_eq!(gateway.get("/length").header("content-encoding"), None, "who names none gets none");
    let plain = ask(&gateway, "/plain", "gzip");
    assert_eq!((plain.header("content-encoding"), plain.header("etag")), (None, Some("\"x\"")));
    let count = |coding: &str| figure(&gateway, &format!("moongate_compressed_responses_total{{coding=\"{coding}\"}}"));
    assert_eq!(["br", "zstd", "gzip"].map(count), [Some(6.0), Some(6.0), Some(3.0)]);
    let bytes = |kind: &str| figure(&gateway, &format!("moongate_compression_{kind}_bytes_total{{coding=\"br\"}}"));
    assert!(bytes("input").unwrap() > 4.0 * bytes("output").unwrap());
    eventually("nothing is under way", || (figure(&gateway, "moongate_compression_active") == Some(0.0)).then_some(()));
}

#[test]
fn a_head_says_what_its_get_would_say() {
    let upstream = RawUpstream::start(|it| match (it.method().as_str(), it.header("if-none-match")) {
        (_, Some(_)) => Script::answer(304, &[("etag", "\"x\"")], ""),
        ("HEAD", _) => Script::new()
            .send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\netag: \"x\"\r\ncontent-length: 70000\r\n\r\n"),
        _ => Script::answer(200, &JSON, json()),
    });
    let gateway = gateway(&upstream, "compress: [gzip]");
    let ask = |method, fields: &[(&str, &str)]| gateway.request(method, "/", fields, b"");
    let head = ask("HEAD", &[("accept-encoding", "gzip")]);
    let names = ["content-encoding", "etag", "vary", "content-length"];
    let get = ask("GET", &[("accept-encoding", "gzip")]);
    assert_eq!(names.map(|it| head.header(it)), names.map(|it| get.header(it)));
    assert_eq!(head.header("content-encoding"), Some("gzip"));
    let head = ask("HEAD", &[]);
    assert_eq!(names.map(|it| head.header(it)), [None, Some("\"x\""), Some("Accept-Encoding"), Some("70000")]);
    // What the client has may be compressed: it must not hold for a part of what is not.
    let known = ask("GET", &[("accept-encoding", "gzip"), ("if-none-match", "W/\"x\"")]);
    assert_eq!(
        (known.status, known.header("etag"), known.header("vary")),
        (304, Some("W/\"x\""), Some("Accept-Encoding"))
    );
    let known = ask("GET", &[("if-none-match", "\"x\"")]);
    assert_eq!((known.status, known.header("etag")), (304, Some("\"x\"")));
}

#[test]
fn what_must_stay_as_it_is_stays_as_it_is() {
    let upstream = RawUpstream::start(|it| {
        let json = ("content-type", "application/json");
        let answer = |status, fields: &[(&str, &str)]| Script::answer(status, fields, "x".repeat(3000));
        match it.target().as_str() {
            "/small" => Script::answer(200, &[json], "{}"),
            "/image" => answer(200, &[("content-type", "image/png")]),
            "/untyped" => answer(200, &[]),
            "/packed" => answer(200, &[json, ("content-encoding", "br")]),
            "/no-transform" => answer(200, &[json, ("cache-control", "max-age=1, no-transform")]),
            "/part" => answer(206, &[json, ("content-range", "bytes 0-2999/9000")]),
            "/none" => Script::answer(204, &[json], ""),
            "/events" => answer(200, &[("content-type", "text/event-stream")]),
            "/grpc" => answer(200, &[("content-type", "application/grpc")]),
            _ => answer(200, &[json]),
        }
    });
    let gateway = gateway(&upstream, "compress: [gzip], sse: {}");
    for path in ["/small", "/image", "/untyped", "/packed", "/no-transform", "/part", "/none", "/events", "/grpc"] {
        let answer = ask(&gateway, path, "gzip");
        assert_ne!(answer.header("content-encoding"), Some("gzip"), "{path}");
        assert_eq!(answer.header("vary"), None, "{path}: it is the same for all");
    }
    assert_eq!(ask(&gateway, "/json", "gzip").header("content-encoding"), Some("gzip"));
    let forbidden = [("accept-encoding", "gzip"), ("cache-control", "no-transform")];
    assert_eq!(gateway.request("GET", "/json", &forbidden, b"").header("content-encoding"), None);
}

/// What an upstream has sent does not wait for what it has not.
#[test]
fn a_stream_is_compressed_piece_by_piece() {
    let go = Signal::new();
    let wait = go.clone();
    let upstream = RawUpstream::start(move |_| {
        Script::new()
            .read_body()
            .send("HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n")
            .send(chunk(b"{\"progress\": 1}\n"))
            .wait(&wait)
            .send(chunk(b"{\"progress\": 2}\n"))
            .send(last_chunk(&[]))
    });
    let gateway = gateway(&upstream, "compress: [br, zstd, gzip]");
    for coding in ["gzip", "br", "zstd"] {
        let mut client = RawClient::connect(gateway.public());
        client.send(request_bytes(gateway.public(), "GET", "/", &[("accept-encoding", coding)], b""));
        assert!(String::from_utf8(client.read_head().raw).unwrap().to_lowercase().contains(coding));
        let mut decoder: Box<dyn Decode> = match coding {
            "gzip" => Box::new(flate2::write::GzDecoder::new(Vec::new())),
            "br" => Box::new(brotli::DecompressorWriter::new(Vec::new(), 4096)),
            _ => Box::new(zstd::stream::write::Decoder::new(Vec::new()).unwrap()),
        };
        let mut text = Vec::new();
        while !text.starts_with(b"{\"progress\": 1}\n") {
            text.extend(decoder.decode(&client.try_read_piece().unwrap().unwrap()));
        }
        if coding == "gzip" {
            go.give(); // the other two follow at once, and come out whole all the same
        }
        while let Some(piece) = client.try_read_piece().unwrap() {
            text.extend(decoder.decode(&piece));
        }
        assert_eq!(text, b"{\"progress\": 1}\n{\"progress\": 2}\n", "{coding}");
    }
}

/// A decoder that gives what it has.
trait Decode {
    fn decode(&mut self, piece: &[u8]) -> Vec<u8>;
}

macro_rules! decode {
    ($($decoder:ty),+) => { $(
        impl Decode for $decoder {
            fn decode(&mut self, piece: &[u8]) -> Vec<u8> {
                self.write_all(piece).unwrap();
                self.flush().unwrap();
                std::mem::take(self.get_mut())
            }
        }
    )+ };
}

decode!(
    flate2::write::GzDecoder<Vec<u8>>,
    brotli::DecompressorWriter<Vec<u8>>,
    zstd::stream::write::Decoder<'static, Vec<u8>>
);

#[test]
fn an_answer_that_breaks_off_never_looks_whole() {
    let upstream = RawUpstream::start(|_| {
        Script::new()
            .read_body()
            .send("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n")
            .send(chunk(&json()))
            .close()
    });
    let gateway = gateway(&upstream, "compress: [gzip]");
    let cut = try_request(gateway.public(), "GET", "/", &[("accept-encoding", "gzip")], b"");
    assert!(cut.is_err(), "{cut:?}");
    gateway.wait_for_event("request", |it| it["end"] == "truncated");
}

/// One form is kept, whoever came first; and the upstream is asked for that one.
#[test]
fn the_cache_keeps_one_form_for_all() {
    let upstream = RawUpstream::start(|_| {
        Script::answer(200, &[("content-type", "application/json"), ("cache-control", "max-age=60")], json())
    });
    let gateway = gateway(&upstream, "cache: { ttl: 60s }, compress: [br, gzip]");
    for accepted in ["gzip", "br", "identity", "gzip"] {
        let answer = ask(&gateway, "/kept", accepted);
        let expected = Some(accepted).filter(|it| *it != "identity");
        assert_eq!((answer.header("content-encoding"), decoded(&answer)), (expected, json()), "{accepted}");
    }
    assert_eq!(upstream.requests().len(), 1);
    let asked = String::from_utf8_lossy(&upstream.requests()[0]).to_lowercase();
    assert!(asked.contains("accept-encoding: identity\r\n"), "{asked}");
}

/// Without a cache, an upstream that compresses by itself may.
#[test]
fn an_upstream_may_compress_by_itself() {
    let upstream = RawUpstream::start(|it| match it.header("accept-encoding").as_deref() {
        Some("br, gzip") => {
            Script::answer(200, &[("content-type", "text/plain"), ("content-encoding", "br")], "packed")
        }
        other => panic!("{other:?}"),
    });
    let gateway = gateway(&upstream, "compress: [gzip]");
    let answer = ask(&gateway, "/", "br, gzip");
    assert_eq!((answer.header("content-encoding"), answer.text().as_str()), (Some("br"), "packed"));
}

#[test]
fn an_idempotent_request_s_answer_is_compressed_for_each_client() {
    let upstream = RawUpstream::start(|_| Script::answer(201, &[("content-type", "application/json")], json()));
    let gateway = gateway(&upstream, "idempotency: { ttl: 1h }, compress: [br, gzip]");
    for (accepted, replayed) in [("gzip", None), ("br", Some("true")), ("identity", Some("true"))] {
        let fields = [("idempotency-key", "one"), ("accept-encoding", accepted)];
        let answer = gateway.request("POST", "/", &fields, b"x");
        let expected = Some(accepted).filter(|it| *it != "identity");
        assert_eq!((answer.status, answer.header("content-encoding")), (201, expected), "{accepted}");
        assert_eq!((answer.header("idempotency-replayed"), decoded(&answer)), (replayed, json()), "{accepted}");
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn details_and_defaults_count_and_an_empty_list_takes_them_back() {
    let upstream =
        RawUpstream::start(|_| Script::answer(200, &[("content-type", "application/x-story")], "x".repeat(100)));
    let address = upstream.address();
    let routes = format!(
        "version: 1\ndefaults: {{ compress: {{ codings: [gzip], types: [application/x-story], min_size: 100, levels: {{ gzip: 9 }} }} }}\n\
         upstreams: {{ app: {{ discovery: {{ static: [\"{address}\"] }} }} }}\nroutes:\n  \
         - {{ name: on, match: {{ path: /on }}, upstream: app }}\n  \
         - {{ name: off, match: {{ path: /off }}, upstream: app, compress: [] }}\n"
    );
    let gateway = Gateway::start(routes);
    assert_eq!(ask(&gateway, "/on", "gzip").header("content-encoding"), Some("gzip"));
    assert_eq!(ask(&gateway, "/off", "gzip").header("content-encoding"), None);
    let shown = gateway.admin_get("/admin/routes").text();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let steps = |name: &str| {
        let route = shown["routes"].as_array().unwrap().iter().find(|it| it["name"] == name).unwrap();
        route["steps"].to_string()
    };
    assert!(steps("on").contains("compress") && !steps("off").contains("compress"), "{shown}");
    gateway.write_routes(&routes_with_faults(&address.to_string()));
    let refused = gateway.reload();
    assert_eq!(refused.status, 422);
    let text = refused.text();
    for expected in ["event streams are never compressed", "must be at most 9", "stands there twice", "deflate"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert_eq!(ask(&gateway, "/on", "gzip").header("content-encoding"), Some("gzip"));
}

fn routes_with_faults(upstream: &str) -> String {
    format!(
        "version: 1\nupstreams: {{ app: {{ discovery: {{ static: [\"{upstream}\"] }} }} }}\nroutes:\n  \
         - {{ name: a, match: {{ path: /a }}, upstream: app, compress: [gzip, gzip] }}\n  \
         - {{ name: b, match: {{ path: /b }}, upstream: app, compress: {{ codings: [gzip], types: [text/event-stream], levels: {{ gzip: 10 }} }} }}\n  \
         - {{ name: c, match: {{ path: /c }}, upstream: app, compress: [deflate] }}\n"
    )
}

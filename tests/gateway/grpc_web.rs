//! gRPC-Web: what browsers call, over both kinds of HTTP, in front of an upstream that speaks gRPC.

use std::collections::BTreeMap;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request as HttpRequest, Response as HttpResponse};
use serde_json::{Value, json};

use crate::exchange::{H2C, in_front_of, routes};
use crate::http2::H2Upstream;
use crate::support::http1::request_bytes;
use crate::support::tokens::{SECRET, token};
use crate::support::{
    Folder, Gateway, H2Client, Process, RawClient, RawUpstream, Response, Script, Signal, eventually, figure, nobody,
    npm,
};

const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text+proto";
const PATH: &str = "/pkg.Service/Call";

fn message(text: &str) -> Vec<u8> {
    let mut message = vec![0];
    message.extend((text.len() as u32).to_be_bytes());
    message.extend(text.as_bytes());
    message
}

/// Messages and the fields of the last frame.
type Read = (Vec<String>, Option<BTreeMap<String, String>>);

/// Reads an answer as clients do; fails on bytes to spare, and on anything behind the trailers.
#[track_caller]
fn read(body: &[u8]) -> Read {
    let (mut messages, mut trailers, mut rest) = (Vec::new(), None, body);
    while !rest.is_empty() {
        assert!(trailers.is_none(), "{rest:?} behind the trailers");
        let (prefix, behind) = rest.split_at(5);
        let (now, later) = behind.split_at(u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize);
        let text = String::from_utf8(now.to_vec()).unwrap();
        match prefix[0] {
            0 => messages.push(text),
            0x80 => {
                assert!(text.is_empty() || text.ends_with("\r\n"), "{text:?}");
                let lines = text.split_terminator("\r\n").map(|it| it.split_once(": ").unwrap());
                trailers = Some(lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
            }
            flag => panic!("a flag {flag}"),
        }
        rest = later;
    }
    (messages, trailers)
}

/// Base64 whose pieces are padded each by itself.
#[track_caller]
fn decoded(text: &[u8]) -> Vec<u8> {
    text.chunks(4).flat_map(|it| STANDARD.decode(it).unwrap()).collect()
}

/// Answers each request with its own body and these trailers.
fn echo(trailers: &'static [(&'static str, &'static str)]) -> H2Upstream {
    H2Upstream::start(move |request, mut respond, book| {
        Box::pin(async move {
            let content_type = request.headers()["content-type"].clone();
            let mut body = request.into_body();
            let mut all = Vec::new();
            while let Some(piece) = body.data().await {
                let piece = piece?;
                body.flow_control().release_capacity(piece.len())?;
                all.extend(piece);
            }
            book.bodies.lock().unwrap().push((all.clone(), None));
            let head = HttpResponse::builder().header("content-type", content_type).header("x-initial", "1");
            let mut stream = respond.send_response(head.body(()).unwrap(), false)?;
            if !all.is_empty() {
                stream.send_data(all.into(), false)?;
            }
            let pairs =
                trailers.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
            stream.send_trailers(pairs.collect())
        })
    })
}

fn over_http1(gateway: &Gateway, fields: &[(&str, &str)], body: &[u8]) -> Response {
    gateway.request("POST", PATH, fields, body)
}

fn over_http2(gateway: &Gateway, fields: &[(&str, &str)], body: &[u8]) -> Response {
    H2Client::connect(gateway.public()).request("POST", PATH, fields, body, None)
}

type Ask = fn(&Gateway, &[(&str, &str)], &[u8]) -> Response;
const ASKS: [(&str, Ask); 2] = [("HTTP/1.1", over_http1), ("HTTP/2", over_http2)];

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_call_reaches_a_grpc_upstream_and_its_trailers_are_the_last_frame() {
    let trailers = &[("grpc-status", "0"), ("grpc-message", "fine"), ("x-custom", "a b")];
    let upstream = echo(trailers);
    let gateway = upstream.gateway("grpc_web: true");
    for (name, ask) in ASKS {
        for (written, called, answered) in [
            ("application/grpc-web", "application/grpc", "application/grpc-web+proto"),
            (BINARY, "application/grpc+proto", BINARY),
            ("application/grpc-web+json", "application/grpc+json", "application/grpc-web+json"),
        ] {
            let fields = [("content-type", written), ("x-grpc-web", "1"), ("x-user-agent", "grpc-web-javascript/0.1")];
            let answer = ask(&gateway, &fields, &[message("hello"), message("")].concat());
            assert_eq!((answer.status, answer.header("content-type")), (200, Some(answered)), "{name}");
            assert_eq!((answer.header("x-initial"), answer.trailers.len()), (Some("1"), 0), "{name}");
            let (messages, last) = read(&answer.body);
            assert_eq!((messages, last), (vec!["hello".to_owned(), String::new()], Some(map(trailers))), "{name}");
            let head = upstream.book.heads.lock().unwrap().pop().unwrap();
            let said = |field: &str| head.headers.get(field).map(|it| it.to_str().unwrap().to_owned());
            assert_eq!((said("content-type").as_deref(), said("te").as_deref()), (Some(called), Some("trailers")));
            assert_eq!((head.method.as_str(), head.uri.path()), ("POST", PATH), "{name}");
            let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
            assert_eq!((&line["grpc_status"], &line["status"], &line["end"]), (&0.into(), &200.into(), &"done".into()));
        }
    }
    let counted = || figure(&gateway, "moongate_grpc_calls_total{grpc_status=\"0\",route=\"all\"}");
    eventually("they are counted", || (counted() == Some(6.0)).then_some(()));
}

#[test]
fn text_is_read_however_it_is_padded_and_answered_as_the_client_accepts() {
    let upstream = echo(&[("grpc-status", "0")]);
    let gateway = upstream.gateway("grpc_web: true");
    let whole = [message("a"), message("bc")].concat();
    let once = STANDARD.encode(&whole);
    let by_message = STANDARD.encode(message("a")) + &STANDARD.encode(message("bc"));
    let by_byte: String = whole.iter().map(|it| STANDARD.encode([*it])).collect();
    for (name, ask) in ASKS {
        for text in [&once, &by_message, &by_byte] {
            for (accept, is_text) in [(Some(TEXT), true), (None, true), (Some("*/*"), true), (Some(BINARY), false)] {
                let mut fields = vec![("content-type", TEXT)];
                fields.extend(accept.map(|it| ("accept", it)));
                let answer = ask(&gateway, &fields, text.as_bytes());
                let expected = if is_text { TEXT } else { BINARY };
                assert_eq!((answer.status, answer.header("content-type")), (200, Some(expected)), "{name} {accept:?}");
                let body = if is_text { decoded(&answer.body) } else { answer.body };
                let expected = (vec!["a".to_owned(), "bc".to_owned()], Some(map(&[("grpc-status", "0")])));
                assert_eq!(read(&body), expected, "{name} {accept:?}");
            }
        }
    }
    assert!(upstream.book.bodies.lock().unwrap().iter().all(|it| it.0 == whole));
}

/// The second message is sent only when the client has the first.
#[test]
fn each_message_of_a_stream_arrives_when_it_is_sent() {
    for (written, text) in [(BINARY, false), (TEXT, true)] {
        let go = Signal::new();
        let waits = go.clone();
        let upstream = H2Upstream::start(move |request, mut respond, _| {
            let waits = waits.clone();
            Box::pin(async move {
                drop(request);
                let head = HttpResponse::builder().header("content-type", "application/grpc");
                let mut stream = respond.send_response(head.body(()).unwrap(), false)?;
                stream.send_data(message("first!").into(), false)?;
                tokio::task::spawn_blocking(move || waits.wait()).await.unwrap();
                stream.send_data(message("second").into(), false)?;
                stream.send_trailers(HeaderMap::from_iter([(
                    http::HeaderName::from_static("grpc-status"),
                    "0".parse().unwrap(),
                )]))
            })
        });
        let gateway = upstream.gateway("grpc_web: true");
        let mut client = RawClient::connect(gateway.public());
        let call = message("go");
        let body = if text { STANDARD.encode(&call).into_bytes() } else { call };
        client.send(request_bytes(gateway.public(), "POST", PATH, &[("content-type", written)], &body));
        assert_eq!(client.read_head().status, 200);
        let mut all = Vec::new();
        let expected = message("first!");
        let read_body = |all: &[u8]| if text { decoded(&all[..all.len() / 4 * 4]) } else { all.to_vec() };
        while read_body(&all) != expected {
            all.extend(client.try_read_piece().unwrap().expect("more is to come"));
        }
        go.give();
        while let Some(piece) = client.try_read_piece().unwrap() {
            all.extend(piece);
        }
        let expected = (vec!["first!".to_owned(), "second".to_owned()], Some(map(&[("grpc-status", "0")])));
        assert_eq!(read(&read_body(&all)), expected);
    }
}

#[test]
fn an_answer_that_is_all_trailers_stays_in_its_head() {
    let upstream = H2Upstream::start(|_, mut respond, _| {
        Box::pin(async move {
            let head = HttpResponse::builder().header("content-type", "application/grpc");
            let head = head.header("grpc-status", "5").header("grpc-message", "no such");
            respond.send_response(head.body(()).unwrap(), true).map(drop)
        })
    });
    let gateway = upstream.gateway("grpc_web: true, cors: { origins: [\"https://app.example\"] }");
    for (name, ask) in ASKS {
        let fields = [("content-type", BINARY), ("origin", "https://app.example")];
        let answer = ask(&gateway, &fields, &message("x"));
        let said = (answer.status, answer.header("grpc-status"), answer.header("grpc-message"), answer.body.len());
        assert_eq!(said, (200, Some("5"), Some("no such"), 0), "{name}");
        assert_eq!(answer.header("content-type"), Some(BINARY), "{name}");
        let exposed = answer.header("access-control-expose-headers").unwrap();
        assert!(exposed.contains("grpc-status, grpc-message, grpc-status-details-bin"), "{exposed}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
        let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
        assert_eq!(line["grpc_status"], 5, "{line}");
    }
}

#[test]
fn a_browsers_preflight_is_answered_before_anybody_is_asked_who_they_are() {
    let text = routes(&[nobody()], "grpc_web: true, auth: { jwt: {} }, cors: { origins: [\"https://app.example\"] }");
    let config =
        format!("{H2C}tokens: {{ issuer: moongate, audience: [tta], hs256_secret: \"${{PROXY_JWT_SECRET}}\" }}\n");
    let gateway = Gateway::with(text).config(config).env("PROXY_JWT_SECRET", SECRET).start();
    let wanted = "authorization,content-type,grpc-timeout,x-grpc-web,x-user-agent";
    let fields = [
        ("origin", "https://app.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", wanted),
    ];
    let answer = gateway.request("OPTIONS", PATH, &fields, "");
    assert_eq!((answer.status, answer.header("access-control-allow-headers")), (204, Some(wanted)));
    // And what is refused, pages may read.
    let answer = over_http1(&gateway, &[("content-type", BINARY), ("origin", "https://app.example")], &message("x"));
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("16")));
    assert!(answer.header("access-control-expose-headers").unwrap().contains("grpc-status"));
}

/// What the gateway itself says is said in gRPC's words, in the form that the client reads.
#[test]
fn s2s_41_refusals_are_grpcs_own_in_either_form() {
    let silent = RawUpstream::start(|_| Script::silence());
    let route = |name: &str, upstream: &str, settings: &str| {
        format!(
            "  - {{ name: {name}, match: {{ path: \"/{name}/{{*rest}}\" }}, upstream: {upstream}, grpc_web: true, {settings} }}\n"
        )
    };
    let text = format!(
        "version: 1\nroles: {{ admin: [\"*\"] }}\nupstreams:\n  dead: {{ discovery: {{ static: [\"{}\"] }} }}\n  silent: {{ discovery: {{ static: [\"{}\"] }} }}\nroutes:\n",
        nobody(),
        silent.address()
    ) + &route("signed", "dead", "auth: { jwt: {}, roles: [admin] }")
        + &route("small", "silent", "body_limit: 3B")
        + &route("rare", "dead", "rate_limits: [{ per: ip, requests: 1, every: 1h }]")
        + &route("dead", "dead", "")
        + &route("slow", "silent", "timeouts: { first_byte: 200ms }");
    let config =
        format!("{H2C}tokens: {{ issuer: moongate, audience: [tta], hs256_secret: \"${{PROXY_JWT_SECRET}}\" }}\n");
    let gateway = Gateway::with(text).config(config).env("PROXY_JWT_SECRET", SECRET).start();
    gateway.request("POST", "/rare/first", &[], "");
    let bearer = format!("Bearer {}", token("ada", &["user"]));
    let none: &[(&str, &str)] = &[];
    for (path, more, status, code) in [
        ("/signed/Call", none, "16", "unauthorized"),
        ("/signed/Call", &[("authorization", bearer.as_str())], "7", "forbidden"),
        ("/nowhere/Call", none, "12", "route_not_found"),
        ("/small/Call", none, "8", "body_too_large"),
        ("/rare/Call", none, "8", "rate_limited"),
        ("/dead/Call", none, "14", "upstream_unreachable"),
        ("/slow/Call", none, "4", "upstream_timeout"),
        ("/slow/Call", &[("grpc-timeout", "50m")], "4", "call_deadline"),
        ("/dead/Call", &[("grpc-timeout", "soon")], "3", "bad_request"),
    ] {
        for written in [BINARY, TEXT] {
            let body = if written == TEXT { STANDARD.encode(message("x")).into_bytes() } else { message("x") };
            let fields = [&[("content-type", written)], more].concat();
            for (name, answer) in [
                ("HTTP/1.1", gateway.request("POST", path, &fields, &body)),
                ("HTTP/2", H2Client::connect(gateway.public()).request("POST", path, &fields, &body, None)),
            ] {
                let said =
                    (answer.status, answer.header("grpc-status"), answer.header("content-type"), answer.body.len());
                assert_eq!(said, (200, Some(status), Some(written), 0), "{name} {path} {}", answer.text());
                assert!(answer.header("grpc-message").is_some_and(|it| !it.is_empty()));
                let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
                let number: u64 = status.parse().unwrap();
                assert_eq!((&line["error"], &line["grpc_status"]), (&code.into(), &number.into()), "{line}");
            }
        }
    }
}

/// An upstream that sends one message and no end, and notes how its stream is reset.
fn silent_after_one_message() -> H2Upstream {
    H2Upstream::start(|request, mut respond, book| {
        Box::pin(async move {
            drop(request);
            let head = HttpResponse::builder().header("content-type", "application/grpc");
            let mut stream = respond.send_response(head.body(()).unwrap(), false)?;
            stream.send_data(message("first").into(), false)?;
            let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await?;
            book.resets.lock().unwrap().push(Some(reason));
            Ok(())
        })
    })
}

#[test]
fn a_stream_that_outlasts_its_deadline_ends_with_the_status_in_its_last_frame() {
    let upstream = silent_after_one_message();
    let gateway = upstream.gateway("grpc_web: true");
    for (number, (_, ask)) in ASKS.into_iter().enumerate() {
        let answer = ask(&gateway, &[("content-type", BINARY), ("grpc-timeout", "400m")], &message("x"));
        let (messages, last) = read(&answer.body);
        let last = last.unwrap();
        assert_eq!((answer.status, messages, last["grpc-status"].as_str()), (200, vec!["first".to_owned()], "4"));
        let resets = || upstream.book.resets.lock().unwrap().len();
        eventually("the upstream's stream is cancelled", || (resets() == number + 1).then_some(()));
    }
    assert!(upstream.book.resets.lock().unwrap().iter().all(|it| *it == Some(Reason::CANCEL)));
}

#[test]
fn what_is_no_call_is_refused_and_never_ends_at_the_upstream() {
    let upstream = echo(&[("grpc-status", "0")]);
    let gateway = upstream.gateway("grpc_web: true, body_limit: 100B");
    let long = message(&"x".repeat(200));
    let cases: [(&str, Vec<u8>, &str, &str); 7] = [
        (TEXT, b"AAA$".to_vec(), "3", "bad_request"),
        (TEXT, b"AAAAA".to_vec(), "3", "bad_request"),
        (TEXT, STANDARD.encode(b"\0\0\0\0\x09short").into_bytes(), "3", "bad_request"),
        (BINARY, b"\0\0\0\0\x09short".to_vec(), "3", "bad_request"),
        (BINARY, b"\x80\0\0\0\0".to_vec(), "3", "bad_request"),
        (BINARY, long.clone(), "8", "body_too_large"),
        (TEXT, STANDARD.encode(&long).into_bytes(), "8", "body_too_large"),
    ];
    for (name, ask) in ASKS {
        for (written, body, status, code) in &cases {
            let answer = ask(&gateway, &[("content-type", written)], body);
            let said = (answer.status, answer.header("grpc-status"), answer.header("content-type"));
            assert_eq!(said, (200, Some(*status), Some(*written)), "{name} {body:?}");
            let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
            assert_eq!(&line["error"], code, "{name} {line}");
        }
    }
    assert!(upstream.book.bodies.lock().unwrap().is_empty(), "none of them was whole");
    // The limit is for the call, not for its text: 100 bytes are 136 characters.
    let fits = STANDARD.encode(message(&"x".repeat(95)));
    let answer = over_http1(&gateway, &[("content-type", TEXT)], fits.as_bytes());
    assert_eq!((answer.status, read(&decoded(&answer.body)).0.len()), (200, 1));
}

/// Answers gRPC in pieces, over HTTP/1.1.
fn answers(pieces: &'static [&'static [u8]], trailers: &'static [(&'static str, &'static str)]) -> RawUpstream {
    RawUpstream::start(move |_| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut script = Script::new().read_body().send(head);
        for piece in pieces {
            script = script.send(crate::support::upstream::chunk(piece));
        }
        script.send(crate::support::upstream::last_chunk(trailers))
    })
}

#[test]
fn an_upstream_that_sends_what_is_no_message_can_end_no_call_in_good_order() {
    let ok = &[("grpc-status", "0")];
    const WRONG: [&[&[u8]]; 3] = [&[b"\x80\0\0\0\x10grpc-status: 0\r\n"], &[b"\0\0\0\0\x09short"], &[b"\0\0\0"]];
    for pieces in WRONG {
        let upstream = answers(pieces, ok);
        let gateway = in_front_of(&upstream, "grpc_web: true");
        let mut client = RawClient::connect(gateway.public());
        client.send(request_bytes(gateway.public(), "POST", PATH, &[("content-type", BINARY)], &message("x")));
        assert!(client.try_read_response("POST").is_err(), "{pieces:?} looks whole");
        let line = gateway.wait_for_event("request", |_| true);
        assert_eq!(line["end"], "truncated", "{line}");
    }
    // One that says nothing of how it went has failed.
    let upstream = answers(&[b"\0\0\0\0\x02ok"], &[]);
    let gateway = in_front_of(&upstream, "grpc_web: true");
    let answer = over_http1(&gateway, &[("content-type", BINARY)], &message("x"));
    assert_eq!(read(&answer.body).1.unwrap()["grpc-status"], "13");
}

#[test]
fn trailers_that_prove_somebody_stay_behind_in_the_last_frame_too() {
    let upstream =
        answers(&[b"\0\0\0\0\x02ok"], &[("grpc-status", "0"), ("set-cookie", "a=b"), ("x-moongate-user", "eve")]);
    let gateway = in_front_of(&upstream, "grpc_web: true");
    let answer = over_http1(&gateway, &[("content-type", BINARY)], &message("x"));
    let (_, last) = read(&answer.body);
    assert_eq!(last.unwrap().keys().map(String::as_str).collect::<Vec<_>>(), ["grpc-status"]);
}

#[test]
fn a_client_that_leaves_ends_its_call_at_the_upstream() {
    let upstream = silent_after_one_message();
    let gateway = upstream.gateway("grpc_web: true");
    let mut client = RawClient::connect(gateway.public());
    client.send(request_bytes(gateway.public(), "POST", PATH, &[("content-type", BINARY)], &message("x")));
    assert_eq!(client.read_head().status, 200);
    client.reset();
    let resets = || upstream.book.resets.lock().unwrap().clone();
    eventually("the upstream's stream is cancelled", || (resets() == [Some(Reason::CANCEL)]).then_some(()));
    let line = gateway.wait_for_event("request", |_| true);
    assert_eq!(line["end"], "client_gone", "{line}");
}

/// The request's messages go on as they come, too: HTTP/2 lets a client wait for answers between them.
#[test]
fn a_client_that_sends_on_is_heard_before_its_end() {
    let upstream = H2Upstream::start(|request, mut respond, _| {
        Box::pin(async move {
            let mut body = request.into_body();
            let head = HttpResponse::builder().header("content-type", "application/grpc");
            let mut stream = respond.send_response(head.body(()).unwrap(), false)?;
            while let Some(piece) = body.data().await {
                stream.send_data(piece?, false)?;
            }
            stream.send_trailers(HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                "0".parse().unwrap(),
            )]))
        })
    });
    let gateway = upstream.gateway("grpc_web: true");
    let client = H2Client::connect(gateway.public());
    let mut sender = client.sender();
    client.run(async {
        let request = HttpRequest::post(format!("http://x{PATH}")).header("content-type", TEXT).body(()).unwrap();
        let (answer, mut stream) = sender.send_request(request, false).unwrap();
        let mut body = answer.await.unwrap().into_body();
        for text in ["one", "three"] {
            stream.send_data(Bytes::from(STANDARD.encode(message(text))), false).unwrap();
            let piece = body.data().await.unwrap().unwrap();
            assert_eq!(read(&decoded(&piece)).0, [text]);
        }
        stream.send_data(Bytes::new(), true).unwrap();
        let last = body.data().await.unwrap().unwrap();
        assert_eq!(read(&decoded(&last)).1, Some(map(&[("grpc-status", "0")])));
        assert!(body.trailers().await.unwrap().is_none());
    });
}

#[test]
fn other_requests_and_other_answers_pass_as_they_are() {
    let upstream = RawUpstream::start(|request| {
        let content_type = request.header("content-type").unwrap_or_default();
        let te = request.header("te").unwrap_or_default();
        Script::answer(503, &[("content-type", "text/plain")], format!("{content_type} {te}"))
    });
    // Without the setting nothing is changed; with it, what is no call is none.
    for (settings, written, said) in [
        ("", BINARY, "application/grpc-web+proto "),
        ("grpc_web: false", TEXT, "application/grpc-web-text+proto "),
        ("grpc_web: true", "application/json", "application/json "),
        // An upstream's own words are nobody else's business: clients map the status by themselves.
        ("grpc_web: true", BINARY, "application/grpc+proto "),
    ] {
        let gateway = in_front_of(&upstream, settings);
        let answer = over_http1(&gateway, &[("content-type", written)], &message("x"));
        assert_eq!((answer.status, answer.text().as_str()), (503, said), "{settings}");
        assert_eq!(answer.header("content-type"), Some("text/plain"));
    }
    // Over the web or not, a call of gRPC is the same to the same route.
    let upstream = echo(&[("grpc-status", "0")]);
    let gateway = upstream.gateway("grpc_web: true");
    let fields = [("content-type", "application/grpc"), ("te", "trailers")];
    let answer = over_http2(&gateway, &fields, &message("x"));
    assert_eq!((answer.body, answer.trailers), (message("x"), vec![("grpc-status".to_owned(), "0".to_owned())]));
    let line = gateway.access_log_for(field(&answer.headers, "x-request-id"));
    assert_eq!(line["grpc_status"], 0, "{line}");
}

fn field<'a>(fields: &'a [(String, String)], name: &str) -> &'a str {
    crate::support::http1::field(fields, name).unwrap_or_default()
}

/// Both clients that pages have, `@connectrpc/connect-web` and `grpc-web`, in front of a real server of gRPC.
#[test]
fn the_clients_of_pages_understand_what_a_grpc_server_says() {
    let folder = npm::installed("grpc_web", &["echo.mjs", "server.mjs", "client.mjs"]);
    let node = |file: &str| {
        let mut node = Command::new("node");
        node.arg(file).current_dir(&folder);
        node
    };
    let server = Process::start("grpc", node("server.mjs"));
    let text = format!(
        "version: 1\nupstreams: {{ up: {{ protocol: http2, discovery: {{ static: [\"{}\"] }} }} }}\nroutes:\n  \
         - {{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: up, grpc_web: true }}\n  \
         - {{ name: signed, match: {{ path: \"/signed/{{*rest}}\" }}, upstream: up, grpc_web: true, auth: {{ jwt: {{}} }} }}\n",
        server.address_of("grpc")
    );
    let config =
        format!("{H2C}tokens: {{ issuer: moongate, audience: [tta], hs256_secret: \"${{PROXY_JWT_SECRET}}\" }}\n");
    let gateway = Gateway::with(text).config(config).env("PROXY_JWT_SECRET", SECRET).start();
    let output = node("client.mjs").arg(format!("http://{}", gateway.public())).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let fail = json!({ "code": 5, "message": "no such word: x" });
    assert_eq!(
        said["connect"],
        json!({
            "initial": "first", "custom": "last", "say": "you said hello", "repeat": [1, 2, 3], "fail": fail,
            "broken": { "words": [1, 2], "code": 15, "message": "it broke: 100 %" }, "late": 4, "refused": 16,
        })
    );
    let expected = json!({ "say": "you said hello", "fail": fail, "late": 4, "refused": 16 });
    assert_eq!(said["binary"], expected);
    let mut text = expected;
    text["repeat"] = json!([1, 2, 3]);
    assert_eq!(said["text"], text);
}

#[test]
fn explain_shows_that_a_route_takes_calls_of_pages_and_one_of_it_can_do_without() {
    let folder = Folder::new();
    folder.write("gateway.yaml", crate::support::gateway::CONFIG);
    let text = "version: 1
defaults: { grpc_web: true }
routes:
  - { name: a, match: { path: /a }, respond: {} }
  - { name: b, match: { path: /b }, respond: {}, grpc_web: false }
";
    folder.write("routes.yaml", text);
    for (url, shown) in [("http://x/a", true), ("http://x/b", false)] {
        let arguments = ["explain", "POST", url, "--config", "gateway.yaml", "--routes", "routes.yaml"];
        let output = crate::accounts::moongate(&folder, &arguments, "", &[]);
        assert_eq!((output.code, output.stdout.contains("grpc_web")), (0, shown), "{}", output.stdout);
    }
}

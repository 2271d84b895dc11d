//! What RFC 9111 says of storing and validating, and what answers say about caching (S2S-30).

use crate::cache::{numbered, numbered_answer, seen};
use crate::exchange::{H2C, in_front_of, routes};
use crate::support::upstream::answer_bytes;
use crate::support::waiting::{eventually, figure};
use crate::support::{Gateway, H2Client, RawClient, RawUpstream, Request, Response, Script, Signal};

#[track_caller]
fn check(answer: &Response, cache: &str, body: &str) {
    assert_eq!(seen(answer), (cache.to_owned(), body.to_owned()), "{answer:?}");
}

/// Answers with a version that is stale at once, and each condition with this 304.
fn origin(
    stored: &'static [(&'static str, &'static str)],
    confirmed: &'static [(&'static str, &'static str)],
) -> RawUpstream {
    RawUpstream::start(move |it| {
        if it.header("if-none-match").is_some() || it.header("if-modified-since").is_some() {
            return Script::new().send(answer_bytes(304, confirmed, b""));
        }
        let fields = [&[("cache-control", "max-age=60"), ("age", "60")], stored].concat();
        numbered_answer(it, &fields)
    })
}

// ── Validation ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn rfc_9111_4_3_4_a_304_that_names_another_version_is_asked_again_without_a_condition() {
    const OLD: (&str, &str) = ("last-modified", "Sat, 05 Nov 1994 08:49:37 GMT");
    let cases: [(&'static [_], &'static [_]); 4] = [
        (&[("etag", "\"v1\"")], &[("etag", "\"v2\"")]),
        (&[("etag", "\"v1-gzip\"")], &[("etag", "\"v1\"")]),
        (&[("etag", "W/\"v1\"")], &[("etag", "\"v1\"")]),
        (&[OLD], &[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")]),
    ];
    for (stored, confirmed) in cases {
        let upstream = origin(stored, confirmed);
        let gateway = in_front_of(&upstream, "cache: {}");
        check(&gateway.get("/a"), "miss", "/a 0");
        for number in [2, 4] {
            let answer = gateway.get("/a");
            assert_eq!((answer.status, answer.text()), (200, format!("/a {number}")), "{stored:?} {confirmed:?}");
            assert_eq!(answer.header(stored[0].0), Some(stored[0].1));
        }
        let asked = upstream.requests();
        let conditional = asked.iter().filter(|it| String::from_utf8_lossy(it).contains("\r\nif-")).count();
        assert_eq!((asked.len(), conditional), (5, 2), "{stored:?}");
    }
}

#[test]
fn rfc_9111_4_3_4_a_weak_name_is_not_made_a_strong_one() {
    let upstream = origin(&[("etag", "\"v1\"")], &[("etag", "W/\"v1\""), ("x-new", "1")]);
    let gateway = in_front_of(&upstream, "cache: {}");
    check(&gateway.get("/a"), "miss", "/a 0");
    let confirmed = gateway.get("/a");
    check(&confirmed, "revalidated", "/a 0");
    assert_eq!((confirmed.header("etag"), confirmed.header("x-new")), (Some("\"v1\""), Some("1")));

    let upstream =
        RawUpstream::start(|it| numbered_answer(it, &[("cache-control", "max-age=60"), ("etag", "W/\"v1\"")]));
    let gateway = in_front_of(&upstream, "cache: {}");
    gateway.get("/a");
    let part = gateway.request("GET", "/a", &[("range", "bytes=0-0"), ("if-range", "\"v1\"")], "");
    assert_eq!((part.status, part.text()), (200, "/a 0".to_owned()), "parts need a strong one");
}

#[test]
fn rfc_9111_5_2_what_is_no_directive_but_names_one_that_forbids_is_not_stored() {
    for value in [
        "private; max-age=60",
        "no-store; max-age=0",
        "no-cache; no-store",
        "private;",
        "max-age=60 private",
        "\"no-store\"",
        "no-store.",
    ] {
        let fields: &'static [_] = Box::leak(Box::new([("cache-control", value)]));
        let upstream = numbered(fields);
        let gateway = in_front_of(&upstream, "cache: { ttl: 1h }");
        assert_eq!(gateway.get("/a").status, 200);
        let second = gateway.get("/a");
        assert_eq!((second.text(), upstream.requests().len()), ("/a 1".to_owned(), 2), "{value}");
    }
}

#[test]
fn a_refresh_in_the_background_asks_again_too() {
    let upstream = RawUpstream::start(|it| match it.number {
        1 => Script::new().send(answer_bytes(304, &[("etag", "\"v2\"")], b"")),
        0 => numbered_answer(it, &[("cache-control", "max-age=60"), ("age", "60"), ("etag", "\"v1\"")]),
        _ => numbered_answer(it, &[("cache-control", "max-age=60"), ("etag", "\"v2\"")]),
    });
    let gateway = in_front_of(&upstream, "cache: { stale_while_revalidate: 1h }");
    check(&gateway.get("/a"), "miss", "/a 0");
    gateway.get("/a");
    eventually("the new version", || (seen(&gateway.get("/a")) == ("hit".into(), "/a 2".into())).then_some(()));
    assert_eq!(upstream.requests().len(), 3);
}

#[test]
fn rfc_9111_4_3_2_what_does_not_say_when_it_was_changed_is_no_newer_than_its_date() {
    let upstream =
        numbered(&[("cache-control", "max-age=60"), ("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("etag", "\"v\"")]);
    let gateway = in_front_of(&upstream, "cache: { ttl: 20000d }");
    gateway.get("/a");
    let since = |date: &str| gateway.request("GET", "/a", &[("if-modified-since", date)], "").status;
    assert_eq!(since("Sun, 06 Nov 1994 08:49:37 GMT"), 304);
    assert_eq!(since("sun, 06 NOV 1994 08:49:38 gmt"), 304);
    assert_eq!(since("Sun, 06 Nov 1994 08:49:36 GMT"), 200);
    let other = [("if-modified-since", "Sun, 06 Nov 1994 08:49:38 GMT"), ("if-none-match", "\"w\"")];
    assert_eq!(gateway.request("GET", "/a", &other, "").status, 200, "If-None-Match alone counts");
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn rfc_9111_a_clients_condition_reaches_the_upstream_where_nothing_is_kept() {
    for fields in
        [&[("cache-control", "no-store")][..], &[("cache-control", "private")], &[("cache-control", "max-age=60")]]
    {
        let fields: &'static [_] = Box::leak([fields, &[("etag", "\"e\"")]].concat().into_boxed_slice());
        let upstream = RawUpstream::start(move |it| match it.header("if-none-match").as_deref() {
            Some("\"e\"") => Script::new().send(answer_bytes(304, fields, b"")),
            _ => numbered_answer(it, fields),
        });
        let gateway = in_front_of(&upstream, "cache: {}");
        let known = gateway.request("GET", "/a", &[("if-none-match", "\"e\""), ("authorization", "Basic YQ==")], "");
        assert_eq!((known.status, known.header("etag")), (304, Some("\"e\"")), "{fields:?}");
        let other = gateway.request("GET", "/a", &[("if-none-match", "\"other\"")], "");
        assert_eq!((other.status, other.text()), (200, "/a 1".to_owned()), "{fields:?}");
    }
}

// ── Storing ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn rfc_9111_4_2_dates_are_read_in_any_case() {
    let upstream = numbered(&[("expires", "THU, 18 AUG 2050 10:00:00 gMT")]);
    let gateway = in_front_of(&upstream, "cache: {}");
    check(&gateway.get("/a"), "miss", "/a 0");
    check(&gateway.get("/a"), "hit", "/a 0");
}

/// Answers with the status that the path names.
fn with_status(it: &Request, fields: &[(&str, &str)]) -> Script {
    let status = it.target().trim_start_matches('/').parse().unwrap();
    Script::answer(status, fields, it.number.to_string())
}

#[test]
fn rfc_9111_3_any_final_status_is_stored_that_says_how_long_and_errors_by_the_routes_word() {
    let upstream = RawUpstream::start(|it| with_status(it, &[("cache-control", "max-age=60")]));
    let bare = in_front_of(&upstream, "cache: {}");
    let errors = in_front_of(&upstream, "cache: { errors: true }");
    let stored = |gateway: &Gateway, status: u16| {
        let answers = [(); 2].map(|()| gateway.get(&format!("/{status}")));
        assert!(answers.iter().all(|it| it.status == status), "{status}");
        answers[1].header("x-cache") == Some("hit")
    };
    for status in [200, 201, 202, 203, 299, 302, 307, 404, 410] {
        assert!(stored(&bare, status) && stored(&errors, status), "{status}");
    }
    for status in [400, 403, 418, 499, 500, 503, 599] {
        assert!(!stored(&bare, status) && stored(&errors, status), "{status}");
    }
    let silent = RawUpstream::start(|it| with_status(it, &[]));
    let gateway = in_front_of(&silent, "cache: { errors: true, ttl: 1m }");
    assert!(stored(&gateway, 200) && !stored(&gateway, 404) && !stored(&gateway, 500), "a ttl is for what went well");
}

#[test]
fn rfc_9111_4_2_2_a_lifetime_is_guessed_where_the_route_wants_it() {
    let upstream = numbered(&[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")]);
    let guessing = in_front_of(&upstream, "cache: { heuristic: 1h }");
    check(&guessing.get("/a"), "miss", "/a 0");
    let again = guessing.get("/a");
    check(&again, "hit", "/a 0");
    assert_eq!(again.header("cache-status"), Some("moongate; hit; ttl=3600"));
    let plain = in_front_of(&upstream, "cache: {}");
    check(&plain.get("/a"), "miss", "/a 1");
    check(&plain.get("/a"), "miss", "/a 2");
}

#[test]
fn the_key_is_made_of_what_the_upstream_gets() {
    let upstream = RawUpstream::start(|it| {
        let fields = [("cache-control", "max-age=60"), ("vary", "x-lang")];
        let language = it.header("x-lang").unwrap_or_else(|| "none".to_owned());
        Script::new().send(answer_bytes(200, &fields, language.as_bytes()))
    });
    let gateway = in_front_of(&upstream, "cache: {}");
    let ask = |fields: &[(&str, &str)]| gateway.request("GET", "/a", fields, "");
    let hidden = [("x-lang", "de"), ("connection", "close, X-Lang")];
    check(&ask(&hidden), "miss", "none");
    check(&ask(&[("x-lang", "de")]), "miss", "de");
    check(&ask(&[]), "hit", "none");
    check(&ask(&hidden), "hit", "none");

    // What the gateway says of each client in another way is nobody else's.
    for field in ["X-Forwarded-For", "Forwarded", "x-request-id", "accept, traceparent"] {
        let fields: &'static [_] = Box::leak(Box::new([("cache-control", "max-age=60"), ("vary", field)]));
        let upstream = numbered(fields);
        let gateway = in_front_of(&upstream, "cache: {}");
        check(&gateway.get("/a"), "miss", "/a 0");
        check(&gateway.get("/a"), "miss", "/a 1");
    }
}

#[test]
fn a_route_says_which_fields_are_nobodys_credentials() {
    let upstream = numbered(&[("cache-control", "max-age=60")]);
    let gateway = in_front_of(&upstream, "cache: { impersonal: [X-Role], vary: [x-org] }");
    let ask = |fields: &[(&str, &str)]| gateway.request("GET", "/a", fields, "");
    check(&ask(&[("x-role", "button")]), "miss", "/a 0");
    check(&ask(&[("x-role", "link")]), "hit", "/a 0");
    check(&ask(&[("x-org", "north")]), "miss", "/a 1");
    check(&ask(&[("x-org", "north")]), "hit", "/a 1");
    check(&ask(&[("x-member", "7")]), "miss", "/a 2");
    check(&ask(&[("x-member", "7")]), "miss", "/a 3");
}

#[test]
fn what_is_read_at_once_counts_as_what_it_is_long() {
    const AT_ONCE: usize = 30;
    let body = vec![b'x'; 64 << 10];
    let go_on = Signal::new();
    let held = go_on.clone();
    let upstream = RawUpstream::start(move |_| {
        let head = format!("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: {}\r\n\r\n", body.len());
        Script::new().send(head).send(&body[..1]).wait(&held).send(&body[1..])
    });
    let config = format!("{H2C}cache: {{ memory: 16MiB, max_object: 1MiB }}\n");
    let gateway = Gateway::with(routes(&[upstream.address()], "cache: {}")).config(config).start();
    let mut clients: Vec<RawClient> = (0..AT_ONCE)
        .map(|number| {
            let mut client = RawClient::connect(gateway.public());
            client.send(format!("GET /{number} HTTP/1.1\r\nhost: h\r\n\r\n"));
            assert_eq!(client.read_head().status, 200);
            client
        })
        .collect();
    go_on.give();
    for client in &mut clients {
        while client.try_read_piece().unwrap().is_some() {}
    }
    eventually("all of them are stored", || {
        (figure(&gateway, "moongate_cache_stored_total") == Some(AT_ONCE as f64)).then_some(())
    });
}

// ── What clients receive ────────────────────────────────────────────────────────────────────────

#[test]
fn what_the_upstream_said_about_caching_stands() {
    let upstream = numbered(&[("expires", "Thu, 18 Aug 2050 10:00:00 GMT")]);
    for settings in ["cache: {}", "cache: { ttl: 1m }", "cache: { per: user }", ""] {
        let gateway = in_front_of(&upstream, settings);
        for _ in 0..2 {
            let answer = gateway.get("/a");
            assert_eq!(answer.header("cache-control"), None, "{settings}");
            assert_eq!(answer.header("expires"), Some("Thu, 18 Aug 2050 10:00:00 GMT"));
        }
    }
}

const SECURITY: [&str; 4] = ["x-content-type-options", "x-frame-options", "referrer-policy", "content-security-policy"];

#[test]
fn s2s_30_every_answer_is_marked_no_store_unless_it_says_otherwise() {
    let upstream = RawUpstream::start(|it| with_status(it, &[("content-type", "text/plain")]));
    let gateway = in_front_of(&upstream, "");
    for status in [200, 201, 204, 206, 302, 400, 401, 404, 418, 429, 500, 503] {
        for answer in
            [gateway.get(&format!("/{status}")), H2Client::connect(gateway.public()).get(&format!("/{status}"))]
        {
            assert_eq!((answer.status, answer.headers_named("cache-control")), (status, vec!["no-store"]));
            SECURITY.iter().for_each(|it| assert!(answer.header(it).is_some(), "{status}: {it}"));
        }
    }
    // It speaks of what the client has already, by what was said of that.
    assert_eq!(gateway.get("/304").header("cache-control"), None);
    for said in ["max-age=60", "no-cache", "private"] {
        let fields: &'static [_] = Box::leak(Box::new([("cache-control", said)]));
        let upstream = numbered(fields);
        let gateway = in_front_of(&upstream, "");
        assert_eq!(gateway.get("/a").headers_named("cache-control"), [said]);
    }
}

/// Whatever goes wrong, on each public listener: what never became a request, too.
#[test]
fn s2s_30_s2s_31_every_answer_of_every_public_listener_has_the_security_fields() {
    let upstream = numbered(&[]);
    let config = "listeners:\n  public:\n    - { address: \"127.0.0.1:0\" }\n    - { address: \"127.0.0.1:0\" }\n  \
        admin: { address: \"127.0.0.1:0\" }\n";
    let text = format!(
        "version: 1\nupstreams:\n  up: {{ discovery: {{ static: [\"{}\"] }} }}\n  \
         gone: {{ discovery: {{ static: [\"{}\"] }} }}\nroutes:\n  \
         - {{ name: a, match: {{ path: /a, methods: [GET] }}, upstream: up }}\n  \
         - {{ name: gone, match: {{ path: /gone }}, upstream: gone }}\n  \
         - {{ name: post, match: {{ path: /post, methods: [POST] }}, upstream: up, body_limit: 1KiB }}\n  \
         - {{ name: text, match: {{ path: /text }}, respond: {{ body: hi }} }}\n  \
         - {{ name: moved, match: {{ path: /moved }}, redirect: {{ to: /a }} }}\n",
        upstream.address(),
        crate::support::nobody()
    );
    let gateway = Gateway::with(text).config(config).start();
    let public = eventually("both listen", || {
        let public: Vec<_> = gateway.listening().into_iter().filter(|it| it.0 != "admin").collect();
        (public.len() == 2).then_some(public)
    });
    let large = format!("POST /post HTTP/1.1\r\nhost: h\r\ncontent-length: 2048\r\n\r\n{}", "x".repeat(2048));
    let cases = [
        ("GET /a HTTP/1.1\r\nhost: h\r\n\r\n", 200),
        ("GET /text HTTP/1.1\r\nhost: h\r\n\r\n", 200),
        ("GET /moved HTTP/1.1\r\nhost: h\r\n\r\n", 308),
        ("GET /nowhere HTTP/1.1\r\nhost: h\r\n\r\n", 404),
        ("DELETE /a HTTP/1.1\r\nhost: h\r\n\r\n", 405),
        ("GET /gone HTTP/1.1\r\nhost: h\r\n\r\n", 502),
        (&*large, 413),
        ("GET /a HTTP/1.1\r\n\r\n", 400),
        ("GET /a HTTP/1.1\r\nhost: h\r\nx y: 1\r\n\r\n", 400),
        ("GET /a HTTP/1.1\r\nhost: h\r\ncontent-length: x\r\n\r\n", 400),
        ("GET /api/health HTTP/1.1\r\nhost: h\r\n\r\n", 200),
        ("OPTIONS * HTTP/1.1\r\nhost: h\r\n\r\n", 404),
    ];
    for (_, address) in public {
        for (request, status) in cases {
            let mut client = RawClient::connect(address);
            client.send(request);
            let answer = client.read_response();
            assert_eq!(answer.status, status, "{request:.60}");
            assert_eq!(answer.headers_named("cache-control"), ["no-store"], "{request:.60}");
            SECURITY.iter().for_each(|it| assert!(answer.header(it).is_some(), "{request:.60}: {it}"));
        }
    }
}

//! Cached responses as clients see them: what is kept, how long, and what becomes of it when it is stale.

use std::collections::BTreeSet;
use std::thread;

use crate::exchange::{H2C, in_front_of, pattern, routes};
use crate::support::http1::request;
use crate::support::upstream::{Request, answer_bytes, chunk, chunked_head, last_chunk};
use crate::support::waiting::{eventually, figure};
use crate::support::{Gateway, H2Client, RawClient, RawUpstream, Response, Script, Signal};

/// An upstream whose every answer has these fields, and its number as the body.
pub fn numbered(fields: &'static [(&'static str, &'static str)]) -> RawUpstream {
    RawUpstream::start(move |it| numbered_answer(it, fields))
}

pub fn numbered_answer(it: &Request, fields: &[(&str, &str)]) -> Script {
    let body = format!("{} {}", it.target(), it.number);
    Script::new().read_body().send(answer_bytes(200, fields, body.as_bytes()))
}

/// What the cache did, and the body.
pub fn seen(answer: &Response) -> (String, String) {
    (answer.header("x-cache").unwrap_or("-").to_owned(), answer.text())
}

#[track_caller]
fn check(answer: &Response, cache: &str, body: &str) {
    assert_eq!(seen(answer), (cache.to_owned(), body.to_owned()), "{answer:?}");
}

#[test]
fn s2s_12_clients_see_hit_and_miss() {
    let upstream = numbered(&[("cache-control", "max-age=60"), ("x-own", "1")]);
    let gateway = in_front_of(&upstream, "cache: {}");
    let first = gateway.get("/a");
    check(&first, "miss", "/a 0");
    assert_eq!(first.header("cache-status"), Some("moongate; fwd=uri-miss; stored"));
    assert_eq!(first.header("age"), None);
    let again = gateway.get("/a");
    check(&again, "hit", "/a 0");
    assert!(again.header("cache-status").unwrap().starts_with("moongate; hit; ttl="), "{again:?}");
    assert_eq!((again.header("age"), again.header("x-own")), (Some("0"), Some("1")));
    assert_ne!(again.header("x-request-id"), first.header("x-request-id"), "an answer has an id of its own");
    for field in ["x-content-type-options", "content-security-policy", "date"] {
        assert!(again.header(field).is_some(), "hits leave by the same way out: {field}");
    }
    check(&gateway.get("/a?x=1"), "miss", "/a?x=1 1");
    check(&gateway.request("POST", "/a", &[], ""), "bypass", "/a 2");
    assert_eq!(figure(&gateway, "moongate_cache_requests_total{result=\"hit\"}"), Some(1.0));
    assert_eq!(figure(&gateway, "moongate_cache_requests_total{result=\"miss\"}"), Some(2.0));
    let limits = gateway.admin_get("/admin/limits").json();
    assert_eq!((limits["cache"]["hits"].as_u64(), limits["cache"]["misses"].as_u64()), (Some(1), Some(2)));
}

#[test]
fn without_a_cache_section_nothing_is_kept_or_told() {
    let upstream = numbered(&[("cache-control", "public, max-age=60")]);
    let gateway = in_front_of(&upstream, "");
    check(&gateway.get("/a"), "-", "/a 0");
    check(&gateway.get("/a"), "-", "/a 1");
}

#[test]
fn rfc_9111_head_is_answered_from_what_get_has_kept() {
    let upstream = numbered(&[("cache-control", "max-age=60")]);
    let gateway = in_front_of(&upstream, "cache: {}");
    gateway.get("/a");
    let head = gateway.request("HEAD", "/a", &[], "");
    assert_eq!((head.header("x-cache"), head.header("content-length")), (Some("hit"), Some("4")));
    let mut client = RawClient::connect(gateway.public());
    client.send(format!("HEAD /a HTTP/1.1\r\nhost: {0}\r\n\r\nGET /a HTTP/1.1\r\nhost: {0}\r\n\r\n", gateway.public()));
    assert_eq!(client.read_response_to("HEAD").header("x-cache"), Some("hit"));
    assert_eq!(client.read_response().text(), "/a 0", "the connection goes on");
    let miss = gateway.request("HEAD", "/b", &[], "");
    assert_eq!(miss.header("x-cache"), Some("miss"));
    check(&gateway.get("/b"), "miss", "/b 2");
}

#[test]
fn rfc_9111_http2_and_chunked_answers_are_kept_like_others() {
    let upstream = RawUpstream::start(|_| {
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncache-control: max-age=60\r\n\r\n";
        Script::new().send(head).send(chunk(b"one ")).send(chunk(b"two")).send(last_chunk(&[]))
    });
    let gateway = in_front_of(&upstream, "cache: {}");
    check(&gateway.get("/a"), "miss", "one two");
    let again = gateway.get("/a");
    check(&again, "hit", "one two");
    assert_eq!(again.header("content-length"), Some("7"));
    let _ = chunked_head(200);
    let over_http2 = H2Client::connect(gateway.public()).get("/a");
    assert_eq!((over_http2.header("x-cache"), over_http2.text()), (Some("hit"), "one two".to_owned()));
}

#[test]
fn rfc_9111_what_must_not_be_kept_is_not() {
    for fields in [
        &[("cache-control", "no-store, max-age=60")][..],
        &[("cache-control", "private, max-age=60")],
        &[("cache-control", "max-age=60"), ("set-cookie", "id=1")],
        &[("cache-control", "max-age=60"), ("vary", "*")],
        &[("cache-control", "max-age=0")],
        &[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")],
        &[("content-type", "text/event-stream"), ("cache-control", "max-age=60")],
        &[],
    ] {
        let upstream = numbered(Box::leak(fields.to_vec().into_boxed_slice()));
        let gateway = in_front_of(&upstream, "cache: {}");
        check(&gateway.get("/a"), "miss", "/a 0");
        let again = gateway.get("/a");
        check(&again, "miss", "/a 1");
        assert_eq!(again.header("cache-status"), Some("moongate; fwd=uri-miss"), "{fields:?}");
    }
}

#[test]
fn s2s_14_the_ttl_comes_from_the_environment() {
    let upstream = numbered(&[]);
    let text = routes(&[upstream.address()], "cache: { ttl: \"${CACHE_TTL_SECONDS:-300}s\" }");
    let gateway = Gateway::with(text.clone()).config(H2C).env("CACHE_TTL_SECONDS", "77").start();
    gateway.get("/a");
    assert_eq!(gateway.get("/a").header("cache-status"), Some("moongate; hit; ttl=77"));
    let gateway = Gateway::with(text.clone()).config(H2C).start();
    gateway.get("/a");
    assert_eq!(gateway.get("/a").header("cache-status"), Some("moongate; hit; ttl=300"));
    let gateway = Gateway::with(text).config(H2C).env("CACHE_TTL_SECONDS", "0").start();
    gateway.get("/a");
    assert_eq!(gateway.get("/a").header("x-cache"), Some("miss"), "0 is: not at all");
}

#[test]
fn rfc_9111_an_answer_is_stale_when_its_lifetime_is_over() {
    let upstream = numbered(&[("cache-control", "max-age=60"), ("age", "60"), ("etag", "\"a\"")]);
    let gateway = in_front_of(&upstream, "cache: {}");
    check(&gateway.get("/a"), "miss", "/a 0");
    check(&gateway.get("/a"), "miss", "/a 1");
    assert_eq!(gateway.get("/a").header("cache-status"), Some("moongate; fwd=stale; stored"));
}

#[test]
fn rfc_9213_the_targeted_field_is_the_gateways() {
    let upstream = numbered(&[("cache-control", "no-store"), ("cdn-cache-control", "max-age=60")]);
    let gateway = in_front_of(&upstream, "cache: {}");
    gateway.get("/a");
    let again = gateway.get("/a");
    check(&again, "hit", "/a 0");
    assert_eq!(again.header("cache-control"), Some("no-store"), "clients are told what is meant for them");
}

#[test]
fn rfc_9111_variants_are_kept_apart() {
    let upstream = RawUpstream::start(|it| {
        let language = it.header("accept-language").unwrap_or_default();
        let fields = [("cache-control", "max-age=60"), ("vary", "Accept-Language")];
        Script::new().send(answer_bytes(200, &fields, language.as_bytes()))
    });
    let gateway = in_front_of(&upstream, "cache: {}");
    let ask = |language: &str| gateway.request("GET", "/a", &[("ACCEPT-language", language)], "");
    check(&ask("de"), "miss", "de");
    check(&ask("en"), "miss", "en");
    check(&ask("de"), "hit", "de");
    check(&ask("en"), "hit", "en");
    check(&gateway.get("/a"), "miss", "");
    assert_eq!(ask("fr").header("cache-status"), Some("moongate; fwd=vary-miss; stored"));
}

#[test]
fn rfc_9111_packed_answers_are_not_given_to_those_who_cannot_unpack() {
    let upstream = RawUpstream::start(|it| {
        let fields: &[_] = match it.header("accept-encoding") {
            Some(_) => &[("cache-control", "max-age=60"), ("content-encoding", "gzip")],
            None => &[("cache-control", "max-age=60")],
        };
        Script::new().send(answer_bytes(200, fields, it.number.to_string().as_bytes()))
    });
    let gateway = in_front_of(&upstream, "cache: {}");
    let packed = || gateway.request("GET", "/a", &[("accept-encoding", "gzip")], "");
    check(&packed(), "miss", "0");
    check(&packed(), "hit", "0");
    check(&gateway.get("/a"), "miss", "1");
    check(&gateway.get("/a"), "hit", "1");
    check(&packed(), "hit", "0");
}

#[test]
fn rfc_9110_clients_that_have_it_already_get_a_304() {
    let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
    let upstream = numbered(&[
        ("cache-control", "max-age=60"),
        ("etag", "\"v\""),
        ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ]);
    let gateway = in_front_of(&upstream, "cache: {}");
    // The first one asks on a condition, and the upstream heeds none: what is kept is the whole answer, what it gets is
    // a 304.
    let first = gateway.request("GET", "/a", &[("if-none-match", "\"v\"")], "");
    assert_eq!((first.status, first.header("x-cache")), (304, Some("miss")));
    assert!(String::from_utf8_lossy(&upstream.requests()[0]).contains("if-none-match"));
    for (name, value) in [("if-none-match", "W/\"v\""), ("if-modified-since", modified)] {
        let known = gateway.request("GET", "/a", &[(name, value)], "");
        assert_eq!((known.status, known.header("x-cache"), known.header("etag")), (304, Some("hit"), Some("\"v\"")));
        assert!(known.body.is_empty() && known.header("content-type").is_none());
    }
    check(&gateway.request("GET", "/a", &[("if-none-match", "\"w\"")], ""), "hit", "/a 0");
    check(&gateway.request("GET", "/a", &[("if-match", "\"w\"")], ""), "bypass", "/a 1");
}

#[test]
fn rfc_9110_parts_are_cut_from_what_is_kept_whole() {
    let body = pattern(100_000);
    let whole = body.clone();
    let upstream = RawUpstream::start(move |it| match it.header("range") {
        None => Script::new().send(answer_bytes(200, &[("cache-control", "max-age=60"), ("etag", "\"v\"")], &whole)),
        Some(_) => Script::new().send(answer_bytes(206, &[("content-range", "bytes 0-3/100000")], &whole[..4])),
    });
    let gateway = in_front_of(&upstream, "cache: {}");
    let ask = |fields: &[(&str, &str)]| gateway.request("GET", "/a", fields, "");
    let miss = ask(&[("range", "bytes=0-3")]);
    assert_eq!((miss.status, miss.header("cache-status")), (206, Some("moongate; fwd=partial")));
    assert_eq!(gateway.get("/a").body, body);
    let part = ask(&[("range", "bytes=10-19")]);
    assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 10-19/100000")));
    assert_eq!((&part.body[..], part.header("x-cache")), (&body[10..20], Some("hit")));
    assert_eq!(ask(&[("range", "bytes=-5")]).body, &body[99_995..]);
    let beyond = ask(&[("range", "bytes=100000-")]);
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */100000")));
    assert_eq!(ask(&[("range", "bytes=0-1,5-6")]).status, 200, "several parts: the whole");
    assert_eq!(ask(&[("range", "bytes=0-1"), ("if-range", "\"v\"")]).status, 206);
    assert_eq!(ask(&[("range", "bytes=0-1"), ("if-range", "\"old\"")]).status, 200);
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn rfc_9111_what_still_holds_is_confirmed_and_fresh_again() {
    let upstream = RawUpstream::start(|it| match it.header("if-none-match").as_deref() {
        Some("\"v\"") => Script::new().send(answer_bytes(
            304,
            &[("cache-control", "max-age=60"), ("x-new", "1"), ("etag", "\"v\"")],
            b"",
        )),
        _ => numbered_answer(it, &[("cache-control", "max-age=60"), ("age", "99"), ("etag", "\"v\"")]),
    });
    let gateway = in_front_of(&upstream, "cache: {}");
    check(&gateway.get("/a"), "miss", "/a 0");
    let confirmed = gateway.request("GET", "/a", &[("if-none-match", "\"other\"")], "");
    check(&confirmed, "revalidated", "/a 0");
    assert_eq!(confirmed.header("x-new"), Some("1"));
    let status = confirmed.header("cache-status").unwrap();
    assert!(status.starts_with("moongate; fwd=stale; fwd-status=304; ttl="), "{status}");
    check(&gateway.get("/a"), "hit", "/a 0");
    // What the client wants newer is asked for as well.
    check(&gateway.request("GET", "/a", &[("cache-control", "no-cache")], ""), "revalidated", "/a 0");
    assert_eq!(upstream.requests().len(), 3);
}

#[test]
fn rfc_9111_a_304_about_something_else_confirms_nothing() {
    let upstream = RawUpstream::start(|it| match it.number {
        1 => Script::new().send(answer_bytes(304, &[("etag", "\"other\"")], b"")),
        _ => numbered_answer(it, &[("cache-control", "max-age=60"), ("age", "99"), ("etag", "\"v\"")]),
    });
    let gateway = in_front_of(&upstream, "cache: {}");
    check(&gateway.get("/a"), "miss", "/a 0");
    check(&gateway.get("/a"), "miss", "/a 2");
    assert_eq!(upstream.requests().len(), 3, "asked again, without a condition");
}

#[test]
fn rfc_9111_clients_may_refuse_the_cache_or_the_upstream() {
    let upstream = numbered(&[("cache-control", "max-age=60")]);
    let gateway = in_front_of(&upstream, "cache: {}");
    let ask = |wish: &str| gateway.request("GET", "/a", &[("cache-control", wish)], "");
    let unkept = ask("only-if-cached");
    assert_eq!((unkept.status, unkept.json()["error"]["code"].as_str()), (504, Some("not_cached")));
    check(&ask("no-store"), "bypass", "/a 0");
    check(&ask("no-cache"), "miss", "/a 1");
    check(&ask("only-if-cached"), "hit", "/a 1");
    check(&ask("max-age=30"), "hit", "/a 1");
}

#[test]
fn rfc_5861_a_stale_answer_is_given_while_a_new_one_is_fetched() {
    let go_on = Signal::new();
    let held = go_on.clone();
    let upstream = RawUpstream::start(move |it| match it.number {
        0 => numbered_answer(it, &[("cache-control", "max-age=60, stale-while-revalidate=60"), ("age", "70")]),
        _ => Script::new().wait(&held).send(answer_bytes(200, &[("cache-control", "max-age=60")], b"new")),
    });
    let gateway = in_front_of(&upstream, "cache: {}");
    check(&gateway.get("/a"), "miss", "/a 0");
    let stale = gateway.get("/a");
    check(&stale, "stale", "/a 0");
    assert!(stale.header("cache-status").unwrap().starts_with("moongate; hit; ttl=-1"), "{stale:?}");
    check(&gateway.get("/a"), "stale", "/a 0");
    go_on.give();
    let new = eventually("the new answer", || Some(gateway.get("/a")).filter(|it| it.header("x-cache") == Some("hit")));
    assert_eq!(new.text(), "new");
    assert_eq!(upstream.requests().len(), 2, "one fetch for all that came meanwhile");
}

#[test]
fn rfc_5861_a_stale_answer_is_given_when_the_upstream_fails() {
    for failure in 0..3 {
        let upstream = RawUpstream::start(move |it| match (it.number, failure) {
            (0, _) => numbered_answer(it, &[("cache-control", "max-age=60, stale-if-error=600"), ("age", "70")]),
            (_, 0) => Script::new().send(answer_bytes(503, &[], b"later")),
            (_, 1) => Script::new().close(),
            _ => Script::new().send(answer_bytes(404, &[], b"gone")),
        });
        let gateway = in_front_of(&upstream, "cache: {}");
        check(&gateway.get("/a"), "miss", "/a 0");
        let second = gateway.get("/a");
        if failure == 2 {
            assert_eq!((second.status, second.header("x-cache")), (404, Some("miss")), "404 is no failure");
            continue;
        }
        check(&second, "stale", "/a 0");
    }
}

#[test]
fn rfc_5861_a_stale_answer_outlives_its_upstream() {
    let upstream = numbered(&[("cache-control", "max-age=60"), ("age", "70"), ("etag", "\"v\"")]);
    let gateway = in_front_of(&upstream, "cache: { stale_if_error: 1h }");
    check(&gateway.get("/a"), "miss", "/a 0");
    drop(upstream);
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let public = gateway.public();
            thread::spawn(move || request(public, "GET", "/a", &[], b""))
        })
        .collect();
    clients.into_iter().for_each(|it| check(&it.join().unwrap(), "stale", "/a 0"));
    assert_eq!(gateway.get("/b").status, 502);
    let strict = numbered(&[("cache-control", "max-age=60, must-revalidate"), ("age", "70"), ("etag", "\"v\"")]);
    let gateway = in_front_of(&strict, "cache: { stale_if_error: 1h }");
    check(&gateway.get("/a"), "miss", "/a 0");
    drop(strict);
    assert_eq!(gateway.get("/a").status, 502, "must-revalidate");
}

#[test]
fn a_hundred_requests_at_once_are_one_for_the_upstream() {
    let go_on = Signal::new();
    let held = go_on.clone();
    let upstream = RawUpstream::start(move |it| {
        let fields = [("cache-control", "max-age=60")];
        Script::new().wait(&held).send(answer_bytes(200, &fields, it.number.to_string().as_bytes()))
    });
    let gateway = in_front_of(&upstream, "cache: {}");
    let public = gateway.public();
    let clients: Vec<_> = (0..100).map(|_| thread::spawn(move || request(public, "GET", "/a", &[], b""))).collect();
    eventually("all of them are under way", || {
        figure(&gateway, "moongate_requests_in_flight").filter(|it| *it >= 100.0)
    });
    go_on.give();
    let answers: Vec<Response> = clients.into_iter().map(|it| it.join().unwrap()).collect();
    assert!(answers.iter().all(|it| it.text() == "0"));
    assert_eq!(upstream.requests().len(), 1);
    assert_eq!(answers.iter().filter(|it| it.header("x-cache") == Some("miss")).count(), 1);
    let collapsed = figure(&gateway, "moongate_cache_collapsed_total").unwrap();
    assert_eq!(collapsed, 99.0);
}

#[test]
fn nobody_waits_for_an_answer_that_is_not_kept() {
    let (arrived, go_on) = (Signal::new(), Signal::new());
    let (told, held) = (arrived.clone(), go_on.clone());
    let upstream = RawUpstream::start(move |it| match it.number {
        // Its head says that it is nobody else's; its body takes its time.
        0 => Script::new()
            .give(&told)
            .send("HTTP/1.1 200 OK\r\ncache-control: no-store\r\ncontent-length: 4\r\n\r\n")
            .wait(&held)
            .send("slow"),
        _ => numbered_answer(it, &[("cache-control", "no-store")]),
    });
    let gateway = in_front_of(&upstream, "cache: { collapse: 1h }");
    let mut first = RawClient::connect(gateway.public());
    first.send("GET /a HTTP/1.1\r\nhost: h\r\n\r\n");
    assert!(arrived.wait());
    let second = gateway.request("GET", "/a", &[("host", "h")], "");
    assert_eq!((second.header("x-cache"), second.text()), (Some("miss"), "/a 1".to_owned()));
    go_on.give();
    assert_eq!(first.read_response().text(), "slow");
}

#[test]
fn half_an_answer_is_never_kept() {
    let upstream = RawUpstream::start(|it| match it.number {
        0 => {
            Script::new().send("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 9\r\n\r\nhalf").close()
        }
        _ => numbered_answer(it, &[("cache-control", "max-age=60")]),
    });
    let gateway = in_front_of(&upstream, "cache: {}");
    let mut client = RawClient::connect(gateway.public());
    client.send("GET /a HTTP/1.1\r\nhost: h\r\n\r\n");
    assert!(client.try_read_response("GET").is_err());
    check(&gateway.request("GET", "/a", &[("host", "h")], ""), "miss", "/a 1");
    check(&gateway.request("GET", "/a", &[("host", "h")], ""), "hit", "/a 1");
}

#[test]
fn a_client_that_leaves_holds_nobody_up() {
    let arrived = Signal::new();
    let told = arrived.clone();
    let upstream = RawUpstream::start(move |it| match it.number {
        0 => Script::new().give(&told).await_close(),
        _ => numbered_answer(it, &[("cache-control", "max-age=60"), ("vary", "accept-language")]),
    });
    let gateway = in_front_of(&upstream, "cache: { collapse: 1h }");
    let mut leader = RawClient::connect(gateway.public());
    leader.send("GET /a HTTP/1.1\r\nhost: h\r\n\r\n");
    assert!(arrived.wait());
    let public = gateway.public();
    let ask = move |language: &'static str| {
        let fields = [("host", "h"), ("accept-language", language)];
        thread::spawn(move || request(public, "GET", "/a", &fields, b"").text())
    };
    let followers: Vec<_> = (0..20).map(|number| ask(["de", "en"][number % 2])).collect();
    eventually("all are under way", || figure(&gateway, "moongate_requests_in_flight").filter(|it| *it >= 21.0));
    leader.reset();
    let answers: BTreeSet<String> = followers.into_iter().map(|it| it.join().unwrap()).collect();
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), ["/a 1", "/a 2"], "one of them leads, for each variant");
    assert_eq!(upstream.requests().len(), 3);
}

#[test]
fn large_answers_pass_and_are_not_kept() {
    let body = pattern(300_000);
    let sent = body.clone();
    let upstream = RawUpstream::start(move |it| {
        let fields = [("cache-control", "max-age=60")];
        if it.target() == "/chunked" {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncache-control: max-age=60\r\n\r\n";
            return Script::new().send(head).send(chunk(&sent)).send(last_chunk(&[]));
        }
        Script::new().send(answer_bytes(200, &fields, &sent))
    });
    let gateway = in_front_of(&upstream, "cache: { max_object: 256KiB }");
    for path in ["/known", "/chunked"] {
        for _ in 0..2 {
            let answer = gateway.get(path);
            assert_eq!(answer.header("x-cache"), Some("miss"));
            assert!(answer.body == body);
        }
    }
}

#[test]
fn memory_is_bounded() {
    let body = pattern(10_000);
    let upstream =
        RawUpstream::start(move |_| Script::new().send(answer_bytes(200, &[("cache-control", "max-age=60")], &body)));
    let config = format!("{H2C}cache: {{ memory: 256KiB, max_object: 16KiB }}\n");
    let gateway = Gateway::with(routes(&[upstream.address()], "cache: {}")).config(config).start();
    let mut client = RawClient::connect(gateway.public());
    for number in 0..200 {
        client.send(format!("GET /{number} HTTP/1.1\r\nhost: h\r\n\r\n"));
        assert_eq!(client.read_response().body.len(), 10_000);
    }
    let cache = &gateway.admin_get("/admin/limits").json()["cache"];
    assert!(cache["bytes"].as_u64().unwrap() <= 256 << 10, "{cache}");
    assert!(cache["objects"].as_u64().unwrap() >= 10 && cache["evicted"].as_u64().unwrap() > 100, "{cache}");
}

#[test]
fn s2s_11_the_same_input_has_the_same_answer() {
    let upstream = numbered(&[("content-type", "application/json")]);
    let gateway = in_front_of(&upstream, "cache: { key: [body], ttl: 5m }");
    let ask = |path: &str, media: &str, body: &str| gateway.request("POST", path, &[("content-type", media)], body);
    let json = "application/json";
    check(&ask("/g", json, r#"{"prompt":"a","n":1}"#), "miss", "/g 0");
    let again = ask("/g", json, "{ \"n\" : 1, \"prompt\" : \"a\" }");
    check(&again, "hit", "/g 0");
    assert_eq!(again.header("cache-control"), Some("no-store"), "S2S-30 holds for the client");
    check(&ask("/g", json, r#"{"prompt":"b","n":1}"#), "miss", "/g 1");
    check(&ask("/g?x", json, r#"{"prompt":"a","n":1}"#), "miss", "/g?x 2");
    check(&ask("/g", "text/plain", r#"{"prompt":"a","n":1}"#), "miss", "/g 3");
    check(&gateway.get("/g"), "bypass", "/g 4");
    check(&gateway.request("POST", "/g", &[], ""), "miss", "/g 5");
    check(&gateway.request("POST", "/g", &[], ""), "hit", "/g 5");
    // The upstream got the bodies that it is judged by.
    assert!(upstream.requests()[1].ends_with(br#"{"prompt":"b","n":1}"#));
}

#[test]
fn s2s_11_another_request_with_the_same_input_is_a_hit() {
    let upstream = numbered(&[]);
    let gateway = in_front_of(&upstream, "cache: { key: [body], ttl: 5m }, idempotency: {}");
    let ask = |key: &str| gateway.request("POST", "/g", &[("idempotency-key", key)], "same");
    check(&ask("one"), "miss", "/g 0");
    check(&ask("two"), "hit", "/g 0");
    let replay = ask("two");
    assert_eq!((replay.header("idempotency-replayed"), replay.text()), (Some("true"), "/g 0".to_owned()));
}

#[test]
fn clients_may_keep_what_is_everybodys_if_they_ask_each_time() {
    let upstream = numbered(&[("content-type", "application/json"), ("etag", "\"v\"")]);
    let gateway = in_front_of(&upstream, "cache: { ttl: 1m }");
    for _ in 0..2 {
        assert_eq!(gateway.get("/a").header("cache-control"), Some("no-cache"));
    }
    let personal = in_front_of(&upstream, "cache: { ttl: 1m, vary: [authorization] }");
    assert_eq!(personal.get("/a").header("cache-control"), Some("no-store"), "S2S-30");
}

//! Cached responses and other people: whose they are (R9.2), who makes them useless (R9.4), and where else they lie
//! (R9.1).

use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

use crate::cache::{numbered, numbered_answer, seen};
use crate::exchange::{H2C, in_front_of, routes};
use crate::support::http1::{request, try_request};
use crate::support::redis::Redis;
use crate::support::upstream::answer_bytes;
use crate::support::waiting::{eventually, figure};
use crate::support::{Gateway, RawUpstream, Response, Script, Signal};

#[track_caller]
fn check(answer: &Response, cache: &str, body: &str) {
    assert_eq!(seen(answer), (cache.to_owned(), body.to_owned()), "{answer:?}");
}

/// An upstream that answers everybody personally, and says nothing of it.
fn personal(fields: &'static [(&'static str, &'static str)]) -> RawUpstream {
    RawUpstream::start(move |it| {
        let who: Vec<_> = SECRETS.iter().filter_map(|name| it.header(name)).collect();
        Script::new().read_body().send(answer_bytes(200, fields, format!("for {}", who.join(" ")).as_bytes()))
    })
}

const SECRETS: [&str; 8] =
    ["authorization", "cookie", "x-api-key", "api-key", "x-auth-token", "x-session-id", "x-csrf-token", "x-account"];

#[test]
fn r9_2_answers_never_cross_users() {
    let settings = [
        "cache: { ttl: 1m }",
        "cache: {}",
        "cache: { ttl: 1m, vary: [authorization] }",
        "cache: { ttl: 1m, vary: [cookie, x-api-key] }",
        "cache: { ttl: 1m, per: user }",
        "cache: { ttl: 1m, per: tenant }",
        "cache: { ttl: 1m, per: user, vary: [authorization], set_cookie: strip }",
        "cache: { ttl: 1m, stale_while_revalidate: 1h, stale_if_error: 1h }",
    ];
    for settings in settings {
        let upstream = personal(&[("cache-control", "max-age=60, must-revalidate")]);
        let gateway = in_front_of(&upstream, settings);
        for name in SECRETS {
            // Anonymous first, so that something is kept; then others, in any spelling, twice each.
            assert_eq!(gateway.get("/a").text(), "for ", "{settings} {name}");
            for who in ["anne", "ben", "Anne", "anne, ben", "anne"] {
                let answer = gateway.request("GET", "/a", &[(&name.to_uppercase(), who)], "");
                assert_eq!(answer.text(), format!("for {who}"), "{settings} {name}");
            }
        }
        let both = |who: &str| gateway.request("GET", "/a", &[("authorization", "same"), ("cookie", who)], "").text();
        assert_eq!((both("anne"), both("ben")), ("for same anne".to_owned(), "for same ben".to_owned()), "{settings}");
    }
}

#[test]
fn r9_2_no_trick_with_vary_gives_away_what_is_anothers() {
    // The answer parts by a field once, and forgets to say so later.
    let upstream = RawUpstream::start(|it| {
        let fields: &[_] = match it.number {
            0 => &[("cache-control", "max-age=60"), ("vary", "x-who")],
            _ => &[("cache-control", "max-age=60")],
        };
        let who = it.header("x-who").unwrap_or_default();
        Script::new().send(answer_bytes(200, fields, who.as_bytes()))
    });
    let gateway = in_front_of(&upstream, "cache: {}");
    for who in ["anne", "ben", "cleo", "anne", "ben"] {
        assert_eq!(gateway.request("GET", "/a", &[("X-Who", who)], "").text(), who);
    }
    // Two fields that look like one, and one that looks like two.
    let upstream = RawUpstream::start(|it| {
        let head = String::from_utf8_lossy(&it.head);
        let who: Vec<_> = head.split("\r\n").filter_map(|it| it.strip_prefix("cookie: ")).collect();
        let fields = [("cache-control", "public, max-age=60"), ("vary", "Cookie")];
        Script::new().send(answer_bytes(200, &fields, who.join("|").as_bytes()))
    });
    let gateway = in_front_of(&upstream, "cache: {}");
    let ask = |fields: &[(&str, &str)]| gateway.request("GET", "/a", fields, "").text();
    assert_eq!(ask(&[("cookie", "a"), ("cookie", "b")]), ask(&[("cookie", "a"), ("cookie", "b")]));
    assert_eq!(ask(&[("cookie", "a,b")]), "a,b");
    assert_eq!(ask(&[("cookie", "a")]), "a");
    assert_eq!(ask(&[("cookie", "A")]), "A");
}

#[test]
fn r9_2_hosts_queries_and_paths_are_never_mixed_up() {
    let upstream = RawUpstream::start(|it| {
        let body = format!("{} {}", it.header("host").unwrap_or_default(), it.target());
        Script::new().send(answer_bytes(200, &[("cache-control", "max-age=60")], body.as_bytes()))
    });
    let gateway = in_front_of(&upstream, "cache: {}");
    for _ in 0..2 {
        for (host, path) in [
            ("a.example", "/x?u=1&v=2"),
            ("a.example", "/x?v=2&u=1"),
            ("b.example", "/x?u=1&v=2"),
            ("a.example", "/X?u=1&v=2"),
            ("a.example", "/x%3Fu=1&v=2"),
            ("a.exampl", "/e/x"),
            ("a.example", "/x"),
            ("a.example", "/x?"),
        ] {
            let answer = gateway.request("GET", path, &[("host", host)], "");
            assert!(answer.text().starts_with(host), "{}", answer.text());
            assert_eq!(answer.text().split_once(' ').unwrap().1.to_ascii_lowercase(), path.to_ascii_lowercase());
        }
    }
}

#[test]
fn r9_2_two_hosts_that_are_rewritten_to_one_are_still_two() {
    let upstream = RawUpstream::start(|it| {
        let who = it.header("x-forwarded-host").unwrap_or_default();
        Script::new().send(answer_bytes(200, &[("cache-control", "max-age=60")], who.as_bytes()))
    });
    let gateway = in_front_of(&upstream, "rewrite: { path: /same, host: inner }, cache: {}");
    for _ in 0..2 {
        for (host, path) in [("a.example", "/x"), ("b.example", "/x"), ("a.example", "/y")] {
            assert_eq!(gateway.request("GET", path, &[("host", host)], "").text(), host);
        }
    }
    assert_eq!(upstream.requests().len(), 3);
}

#[test]
fn r9_2_those_who_wait_get_only_what_is_theirs() {
    for settings in ["cache: { ttl: 1m }", "cache: { ttl: 1m, vary: [authorization] }", "cache: { per: user, ttl: 1m }"]
    {
        let go_on = Signal::new();
        let held = go_on.clone();
        let upstream = RawUpstream::start(move |it| {
            let who = it.header("authorization").unwrap_or_default();
            Script::new().wait(&held).send(answer_bytes(200, &[("cache-control", "max-age=60")], who.as_bytes()))
        });
        let gateway = in_front_of(&upstream, settings);
        let public = gateway.public();
        let clients: Vec<_> = (0..20)
            .map(|number| {
                let who = format!("user-{}", number % 5);
                let ask = move || (request(public, "GET", "/a", &[("authorization", &who)], b"").text(), who);
                thread::spawn(ask)
            })
            .collect();
        eventually("all of them are under way", || {
            figure(&gateway, "moongate_requests_in_flight").filter(|it| *it >= 20.0)
        });
        go_on.give();
        for client in clients {
            let (body, who) = client.join().unwrap();
            assert_eq!(body, who, "{settings}");
        }
    }
}

#[test]
fn rfc_9111_answers_to_credentials_are_everybodys_if_they_say_so() {
    let upstream = numbered(&[("cache-control", "public, max-age=60")]);
    let gateway = in_front_of(&upstream, "cache: {}");
    let ask = |who: &str| gateway.request("GET", "/a", &[("authorization", who)], "");
    check(&ask("anne"), "miss", "/a 0");
    check(&ask("ben"), "hit", "/a 0");
    check(&gateway.get("/a"), "hit", "/a 0");
    let stripped = numbered(&[("cache-control", "max-age=60"), ("set-cookie", "id=1")]);
    let gateway = in_front_of(&stripped, "cache: { per: public, set_cookie: strip }");
    assert_eq!(gateway.get("/a").header("set-cookie"), Some("id=1"));
    let again = gateway.request("GET", "/a", &[("cookie", "id=2")], "");
    assert_eq!((again.header("x-cache"), again.header("set-cookie")), (Some("hit"), None));
}

#[test]
fn r9_2_a_credential_in_the_key_gives_each_its_own() {
    let upstream = personal(&[("cache-control", "max-age=60")]);
    let gateway = in_front_of(&upstream, "cache: { vary: [authorization] }");
    let ask = |who: &str| gateway.request("GET", "/a", &[("authorization", who)], "");
    check(&ask("anne"), "miss", "for anne");
    check(&ask("ben"), "miss", "for ben");
    check(&ask("anne"), "hit", "for anne");
    check(&ask("ben"), "hit", "for ben");
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A token of our own for somebody.
fn bearer(subject: &str, tenant: Option<&str>, scope: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut claims = json!({
        "iss": "moongate", "aud": ["tta"], "sub": subject, "roles": ["user"], "scope": scope,
        "jti": format!("{subject}-{}", fastrand::u64(..)), "iat": now, "nbf": now, "exp": now + 600,
    });
    if let Some(tenant) = tenant {
        claims["tenant"] = tenant.into();
    }
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    format!("Bearer {}", encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap())
}

fn signed_in(upstream: &RawUpstream, settings: &str) -> Gateway {
    let config = format!("{H2C}tokens: {{ hs256_secret: \"{SECRET}\" }}\n");
    let text = routes(&[upstream.address()], &format!("auth: {{ jwt: {{ trust: [own] }} }}, {settings}"));
    Gateway::with(text).config(config).start()
}

#[test]
fn r9_2_users_and_tenants_have_answers_of_their_own() {
    let upstream = numbered(&[("cache-control", "private, max-age=60")]);
    let gateway = signed_in(&upstream, "cache: { per: user }");
    let ask = |bearer: &str, path: &str| gateway.request("GET", path, &[("authorization", bearer)], "");
    let anne = || bearer("anne", Some("clinic"), "");
    check(&ask(&anne(), "/a"), "miss", "/a 0");
    // Another token of the same person: the answer is the person's.
    check(&ask(&anne(), "/a"), "hit", "/a 0");
    for (number, other) in [
        bearer("ben", Some("clinic"), ""),
        bearer("anne", Some("praxis"), ""),
        bearer("anne", None, ""),
        bearer("anne", Some("clinic"), "notes.read"),
        bearer("Anne", Some("clinic"), ""),
    ]
    .into_iter()
    .enumerate()
    {
        check(&ask(&other, "/a"), "miss", &format!("/a {}", number + 1));
    }
    assert_eq!(ask("Bearer nonsense", "/a").status, 401, "what is kept is behind the door, too");
    assert_eq!(gateway.get("/a").status, 401);

    let shared = numbered(&[("cache-control", "max-age=60")]);
    let gateway = signed_in(&shared, "cache: { per: tenant }");
    let ask = |bearer: &str| gateway.request("GET", "/a", &[("authorization", bearer)], "");
    check(&ask(&anne()), "miss", "/a 0");
    check(&ask(&bearer("ben", Some("clinic"), "")), "hit", "/a 0");
    check(&ask(&bearer("anne", Some("praxis"), "")), "miss", "/a 1");
    check(&ask(&bearer("anne", None, "")), "bypass", "/a 2");
    check(&ask(&bearer("ben", None, "")), "bypass", "/a 3");
}

#[test]
fn r9_2_what_signed_in_people_get_is_theirs_unless_somebody_says_otherwise() {
    let upstream = numbered(&[("cache-control", "max-age=60")]);
    for (settings, shared) in [("cache: {}", false), ("cache: { ttl: 1m }", false), ("cache: { per: public }", true)] {
        let gateway = signed_in(&upstream, settings);
        let ask = |who: &str| gateway.request("GET", "/a", &[("authorization", &bearer(who, None, ""))], "").text();
        assert_eq!(ask("anne") == ask("ben"), shared, "{settings}");
    }
    // `vary: [authorization]`, though the gateway keeps the token to itself and upstreams never see it.
    let gateway = signed_in(&upstream, "cache: { vary: [authorization] }");
    let ask = |bearer: &str| gateway.request("GET", "/a", &[("authorization", bearer)], "").text();
    let (anne, ben) = (bearer("anne", None, ""), bearer("ben", None, ""));
    assert_eq!(ask(&anne), ask(&anne));
    assert_ne!(ask(&anne), ask(&ben));
}

fn purge(gateway: &Gateway, what: &str) -> serde_json::Value {
    let answer = try_request(
        gateway.admin(),
        "POST",
        "/admin/cache/purge",
        &[("content-type", "application/json")],
        what.as_bytes(),
    )
    .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Two routes with tags over one upstream.
fn tagged(upstream: &RawUpstream) -> String {
    format!(
        "version: 1\nupstreams:\n  up: {{ discovery: {{ static: [\"{}\"] }} }}\nroutes:\n  \
         - {{ name: players, match: {{ path: \"/players/{{id}}/{{*rest}}\" }}, upstream: up, \
              cache: {{ ttl: 1h, tags: [\"player:{{path.id}}\", all-players] }} }}\n  \
         - {{ name: other, match: {{ path: \"/{{*rest}}\" }}, upstream: up, cache: {{ ttl: 1h }} }}\n  \
         - {{ name: uncached, match: {{ path: \"/{{*rest}}\", methods: [POST] }}, upstream: up }}\n",
        upstream.address()
    )
}

#[test]
fn r9_4_what_is_purged_is_chosen_by_what_it_depends_on() {
    let upstream = numbered(&[]);
    let gateway = Gateway::with(tagged(&upstream)).config(H2C).start();
    let all = ["/players/7/a", "/players/7/b", "/players/8/a", "/x/1", "/x/2?q"];
    for (what, purged) in [
        (r#"{"tag":"player:7"}"#, &[0, 1][..]),
        (r#"{"tag":"all-players"}"#, &[0, 1, 2]),
        (r#"{"route":"other"}"#, &[3, 4]),
        (r#"{"key":"/x/2?q"}"#, &[4]),
        (r#"{"key":"http://H/x/1"}"#, &[3]),
        (r#"{"key":"other.host/x/1"}"#, &[]),
        (r#"{"prefix":"/players/7"}"#, &[0, 1]),
        (r#"{"prefix":"h/x"}"#, &[3, 4]),
        (r#"{"all":true}"#, &[0, 1, 2, 3, 4]),
        (r#"{"tag":"player:9"}"#, &[]),
    ] {
        let ask = |path: &str| gateway.request("GET", path, &[("host", "h")], "");
        all.iter().for_each(|it| drop(ask(it)));
        let answer = purge(&gateway, what);
        assert_eq!(
            (answer["purged"].as_u64(), &answer["everywhere"]),
            (Some(purged.len() as u64), &true.into()),
            "{what}"
        );
        for (number, path) in all.iter().enumerate() {
            let expected = if purged.contains(&number) { "miss" } else { "hit" };
            assert_eq!(ask(path).header("x-cache"), Some(expected), "{what} {path}");
        }
    }
    for wrong in ["", "{}", r#"{"all":false}"#, r#"{"tag":"a","route":"b"}"#, r#""all""#, r#"{"tag":7}"#] {
        let answer = try_request(
            gateway.admin(),
            "POST",
            "/admin/cache/purge",
            &[("content-type", "application/json")],
            wrong.as_bytes(),
        )
        .unwrap();
        assert_eq!(answer.status, 400, "{wrong}");
    }
}

#[test]
fn r9_4_what_was_asked_for_before_a_purge_is_not_kept_after_it() {
    let (arrived, go_on) = (Signal::new(), Signal::new());
    let (told, held) = (arrived.clone(), go_on.clone());
    let upstream = RawUpstream::start(move |it| match it.number {
        0 => Script::new().give(&told).wait(&held).send(answer_bytes(200, &[], b"old")),
        _ => numbered_answer(it, &[]),
    });
    let gateway = Gateway::with(tagged(&upstream)).config(H2C).start();
    let public = gateway.public();
    let under_way = thread::spawn(move || request(public, "GET", "/players/7/a", &[], b"").text());
    assert!(arrived.wait());
    purge(&gateway, r#"{"tag":"player:7"}"#);
    go_on.give();
    assert_eq!(under_way.join().unwrap(), "old");
    check(&gateway.get("/players/7/a"), "miss", "/players/7/a 1");
}

#[test]
fn rfc_9111_a_change_makes_what_is_kept_useless() {
    let upstream = RawUpstream::start(|it| match it.method().as_str() {
        "GET" => numbered_answer(it, &[]),
        _ if it.target().ends_with("fails") => Script::new().read_body().send(answer_bytes(400, &[], b"")),
        _ => Script::new().read_body().send(answer_bytes(
            201,
            &[("location", "/x/new"), ("content-location", "http://elsewhere/x/far")],
            b"",
        )),
    });
    let gateway = Gateway::with(tagged(&upstream)).config(H2C).start();
    let cached = |path: &str| gateway.request("GET", path, &[("host", "h")], "").header("x-cache").map(str::to_owned);
    let all = ["/x/1", "/x/new", "/x/far", "/x/fails", "/players/7/a", "/players/7/b", "/players/8/a"];
    for (method, path, useless) in [
        ("POST", "/x/1", &["/x/1", "/x/new"][..]),
        ("DELETE", "/x/fails", &[]),
        ("PUT", "/players/7/a", &["/x/new", "/players/7/a", "/players/7/b", "/players/8/a"]),
        ("OPTIONS", "/x/1", &[]),
    ] {
        all.iter().for_each(|it| drop(cached(it)));
        gateway.request(method, path, &[("host", "h")], "");
        for path in all {
            let expected = if useless.contains(&path) { "miss" } else { "hit" };
            assert_eq!(cached(path).as_deref(), Some(expected), "{method} {path}");
        }
    }
}

#[test]
fn s2s_15_the_cache_is_cleared_in_dev_mode_alone() {
    let upstream = numbered(&[("cache-control", "max-age=60")]);
    let text = routes(&[upstream.address()], "cache: {}").replace("/{*rest}", "/x/{*rest}");
    for dev in [
        Gateway::with(text.clone()).env("MOONGATE_MODE", "dev").config(H2C),
        Gateway::with(text.clone()).config(format!("{H2C}mode: dev\n")),
    ] {
        let gateway = dev.start();
        gateway.get("/x/a");
        assert_eq!(gateway.get("/x/a").header("x-cache"), Some("hit"));
        assert_eq!(gateway.request("POST", "/api/cache/clear", &[], "").status, 204);
        assert_eq!(gateway.get("/x/a").header("x-cache"), Some("miss"));
    }
    let gateway = Gateway::with(text).config(H2C).start();
    assert_eq!(gateway.request("POST", "/api/cache/clear", &[], "").status, 404);
}

fn with_redis(redis: &Redis, text: &str) -> Gateway {
    let config = format!("{H2C}state: {{ redis: {{ url: \"{}\" }} }}\n", redis.url());
    Gateway::with(text.to_owned()).config(config).start()
}

fn written(gateway: &Gateway, count: f64) {
    eventually("it lies in Redis", || {
        figure(gateway, "moongate_cache_shared_total{result=\"written\"}").filter(|it| *it >= count)
    });
}

#[test]
fn r9_1_a_restarted_gateway_is_warm_from_redis() {
    let redis = Redis::start();
    let upstream = RawUpstream::start(|it| {
        let fields = [("cache-control", "max-age=60"), ("vary", "accept-language"), ("etag", "\"v\"")];
        numbered_answer(it, if it.target() == "/varied" { &fields } else { &fields[..1] })
    });
    let text = routes(&[upstream.address()], "cache: {}");
    let gateway = with_redis(&redis, &text);
    let ask = |gateway: &Gateway, path: &str, language: &str| {
        gateway.request("GET", path, &[("host", "h"), ("accept-language", language)], "")
    };
    ask(&gateway, "/plain", "de");
    ask(&gateway, "/varied", "de");
    written(&gateway, 3.0);
    drop(gateway);
    let restarted = with_redis(&redis, &text);
    eventually("Redis is reached", || figure(&restarted, "moongate_state_up").filter(|it| *it == 1.0));
    let warm = ask(&restarted, "/plain", "de");
    assert_eq!((warm.header("x-cache"), warm.text()), (Some("hit"), "/plain 0".to_owned()));
    let warm = ask(&restarted, "/varied", "de");
    assert_eq!((warm.header("x-cache"), warm.header("etag")), (Some("hit"), Some("\"v\"")));
    assert_eq!(ask(&restarted, "/varied", "en").header("x-cache"), Some("miss"));
    // What is damaged is as good as nothing.
    let keys: Vec<String> = redis.ask(&["KEYS", "*cache:a:*"]);
    for key in keys {
        redis.ask::<()>(&["SETRANGE", &key, "40", "damaged"]);
    }
    drop(restarted);
    let third = with_redis(&redis, &text);
    assert_eq!(ask(&third, "/plain", "de").header("x-cache"), Some("miss"));
}

#[test]
fn r9_4_a_purge_and_a_change_reach_the_other_gateways() {
    let redis = Redis::start();
    let upstream = numbered(&[]);
    let text = tagged(&upstream);
    let (left, right) = (with_redis(&redis, &text), with_redis(&redis, &text));
    for gateway in [&left, &right] {
        eventually("Redis is reached", || figure(gateway, "moongate_state_up").filter(|it| *it == 1.0));
    }
    let ask = |gateway: &Gateway, path: &str| gateway.request("GET", path, &[("host", "h")], "");
    let first = ask(&left, "/players/7/a").text();
    written(&left, 1.0);
    let shared = ask(&right, "/players/7/a");
    assert_eq!((shared.header("x-cache"), shared.text()), (Some("hit"), first), "gateways have each other's");
    purge(&left, r#"{"tag":"player:7"}"#);
    let second = eventually("the other one forgets", || {
        Some(ask(&right, "/players/7/a")).filter(|it| it.header("x-cache") == Some("miss"))
    });
    written(&right, 1.0);
    assert_eq!(ask(&left, "/players/7/a").text(), second.text(), "what was purged does not come back");
    right.request("POST", "/players/7/a", &[("host", "h")], "");
    eventually("a change reaches the other one", || {
        Some(ask(&left, "/players/7/a")).filter(|it| it.text() != second.text())
    });
}

#[test]
fn r9_1_without_redis_there_is_the_memory() {
    let mut redis = Redis::start();
    let upstream = numbered(&[("cache-control", "max-age=60")]);
    let gateway = with_redis(&redis, &routes(&[upstream.address()], "cache: {}"));
    redis.pause();
    check(&gateway.get("/a"), "miss", "/a 0");
    check(&gateway.get("/a"), "hit", "/a 0");
    redis.resume();
    redis.stop();
    check(&gateway.get("/b"), "miss", "/b 1");
    check(&gateway.get("/b"), "hit", "/b 1");
    let purged = purge(&gateway, r#"{"key":"/b"}"#);
    assert_eq!((&purged["purged"], &purged["everywhere"]), (&1.into(), &false.into()));
    check(&gateway.get("/b"), "miss", "/b 2");
}

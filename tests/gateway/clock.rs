//! Bad weather for clocks: the system's is set back and forth while the gateway runs (Debian's `faketime`).

use std::path::PathBuf;

use serde_json::json;

use crate::support::tokens::*;
use crate::support::*;

const CONFIG: &str = "
listeners: { public: [{ address: \"127.0.0.1:0\" }], admin: { address: \"127.0.0.1:0\" } }
tokens: { issuer: moongate, audience: [tta], hs256_secret: \"${PROXY_JWT_SECRET}\" }
";

/// The library that tells a process another time.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().filter_map(Result::ok);
    let libraries = folders.map(|it| it.path().join("faketime/libfaketimeMT.so.1"));
    libraries.into_iter().find(|it| it.exists()).expect("libfaketime; scripts/setup.sh test installs it")
}

#[test]
fn a_clock_that_is_set_back_lets_nothing_in() {
    let upstream = Demo::start("up");
    let routes = format!(
        "version: 1\nupstreams: {{ up: {{ discovery: {{ static: [\"{}\"] }} }} }}\nroutes:\n  \
         - {{ name: me, match: {{ path: /me }}, upstream: up, auth: {{ jwt: {{}} }}, rewrite: {{ path: /echo }} }}\n  \
         - {{ name: few, match: {{ path: /few }}, upstream: up, rewrite: {{ path: /echo }}, \
              rate_limits: [{{ per: ip, requests: 2, every: 1h }}] }}\n",
        upstream.address()
    );
    let builder = Gateway::with(routes).config(CONFIG).env("PROXY_JWT_SECRET", SECRET);
    let time = builder.folder().write("time", "+0");
    let gateway = builder
        .env("LD_PRELOAD", library().to_str().unwrap())
        .env("FAKETIME_TIMESTAMP_FILE", time.to_str().unwrap())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start();
    let set = |offset: &str| std::fs::write(&time, offset).unwrap();
    let header = "{\"alg\":\"HS256\",\"typ\":\"JWT\"}";
    let token = |from: u64, until: u64| {
        let claims = with(claims("ada", &["user"]), json!({ "iat": from, "nbf": from, "exp": until }));
        format!("Bearer {}", sign_hs256(header, &claims.to_string(), SECRET.as_bytes()))
    };
    let now = now();
    let (good, ended) = (token(now - 10, now + 7_200), token(now - 7_200, now - 1_800));
    let me = |token: &str| gateway.request("GET", "/me", &[("authorization", token)], b"").status;
    let few = || gateway.get("/few").status;

    assert_eq!((me(&good), me(&ended)), (200, 401));
    assert_eq!((few(), few(), few()), (200, 200, 429));

    // An hour back: a token that has ended does not come to life, and a limit is not whole again.
    set("-3600");
    assert_eq!((me(&ended), few()), (401, 429), "at once");
    let told = gateway.wait_for_event("clock_set_back", |_| true);
    assert!((3_590.0..3_610.0).contains(&told["seconds"].as_f64().unwrap()), "{told}");
    assert_eq!((me(&good), me(&ended), few()), (200, 401, 429), "when it was noticed");

    // Forth again, and farther: tokens end by it, limits are counted by a clock that nobody sets.
    set("+0");
    assert_eq!((me(&good), me(&ended), few()), (200, 401, 429));
    set("+10800");
    assert_eq!((me(&good), me(&ended), few()), (401, 401, 429));
}

#[test]
fn a_clock_that_steps_moves_no_endpoint_and_closes_no_breaker() {
    let (one, broken) = (Demo::start("up"), RawUpstream::start(|_| Script::answer(503, &[], "")));
    let routes = format!(
        "version: 1
upstreams:
  up: {{ discovery: {{ registry: {{}} }}, sticky: {{ header: x-session, ttl: 1h, key: 0123456789abcdef }} }}
  broken: {{ discovery: {{ static: [\"{}\"] }}, breaker: {{ open_after: 1, retry_after: 1h }} }}
routes:
  - {{ name: broken, match: {{ path: /broken }}, upstream: broken }}
  - {{ name: up, match: {{ path: \"/{{*rest}}\" }}, upstream: up }}
",
        broken.address()
    );
    let builder = Gateway::with(routes).config(
        "listeners: { public: [{ address: \"127.0.0.1:0\" }], admin: { address: \"127.0.0.1:0\" } }
registry: { open: true }
",
    );
    let time = builder.folder().write("time", "+0");
    let gateway = builder
        .env("LD_PRELOAD", library().to_str().unwrap())
        .env("FAKETIME_TIMESTAMP_FILE", time.to_str().unwrap())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start();
    let body = json!({ "address": one.address(), "ttl": "1h" }).to_string();
    let register = || {
        let fields = [("content-type", "application/json")];
        http1::request(gateway.admin(), "PUT", "/admin/registry/up/one", &fields, &body).status
    };
    assert_eq!(register(), 201);
    let asks = || gateway.request("GET", "/echo", &[("x-session", "ada")], b"").status;
    eventually("it serves", || (asks() == 200).then_some(()));
    assert_eq!(gateway.get("/broken").status, 503);
    let is_open = || gateway.get("/broken").json()["error"]["code"] == "breaker_open";
    assert!(is_open());
    for offset in ["+7200", "-7200", "+0", "+86400"] {
        std::fs::write(&time, offset).unwrap();
        for _ in 0..5 {
            assert_eq!((asks(), is_open()), (200, true), "{offset}");
        }
        assert_eq!(register(), 200, "{offset}: it is still there");
    }
    assert_eq!(broken.requests().len(), 1, "no probe before its time");
    assert!(gateway.events("instance_expired").is_empty());
}

//! Why an endpoint can't be reached, told to operators in plain words: in the request's line of the log, on
//! `/admin/upstreams`, and as the reason of a failed check. And who is asked for in a check.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;

use crate::support::{Ca, Gateway, GatewayBuilder, RawUpstream, Request, Script, eventually, nobody};

fn behind(endpoint: SocketAddr, settings: &str) -> GatewayBuilder {
    Gateway::with(format!(
        "version: 1\nupstreams:\n  back: {{ discovery: {{ static: [\"{endpoint}\"] }}, {settings} }}\nroutes:\n  \
         - {{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: back, timeouts: {{ connect: 300ms }} }}\n"
    ))
}

fn endpoint(gateway: &Gateway) -> Value {
    let all = gateway.admin_get("/admin/upstreams").json();
    let back = all["upstreams"].as_array().unwrap().iter().find(|it| it["name"] == "back").unwrap().clone();
    back["endpoints"][0].clone()
}

/// Takes every connection, reads what comes, says this, and closes if told to.
fn says(text: &'static str, closes: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut held = Vec::new();
        while let Ok((mut socket, _)) = listener.accept() {
            let _ = socket.read(&mut [0; 4096]);
            let _ = socket.write_all(text.as_bytes());
            if !closes {
                held.push(socket);
            }
        }
    });
    address
}

/// Asks once, and holds what the log and the admin page say against the words.
#[track_caller]
fn told(gateway: &Gateway, status: u16, code: &str, words: &str) {
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str().unwrap()), (status, code), "{words}");
    assert!(!answer.text().contains(words), "what is behind the gateway is no client's business");
    let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
    assert_eq!(line["error"], code);
    assert!(line["cause"].as_str().is_some_and(|it| it.contains(words)), "{words}: {line}");
    let failure = endpoint(gateway)["connect_failure"].clone();
    assert_eq!(failure["reason"], line["cause"]);
    assert!(failure["at"].as_str().is_some_and(|it| it > "2024-"), "{failure}");
}

#[test]
fn r1_3_why_an_endpoint_in_the_clear_can_not_be_reached_stands_in_the_log_and_on_the_page() {
    told(&behind(nobody(), "").start(), 502, "upstream_unreachable", "refuses the connection");
    let http2 = behind(nobody(), "protocol: http2").start();
    told(&http2, 502, "upstream_unreachable", "refuses the connection");
}

#[test]
fn r1_3_why_tls_to_an_endpoint_fails_stands_in_the_log_and_on_the_page() {
    let (ca, other) = (Ca::new("one"), Ca::new("two"));
    let endpoint = RawUpstream::start_tls(&ca.leaf(&["back.test"]), &[], |_| Script::ok("secret"));
    let tls = |sni: &str, ca: &str| format!("tls: {{ sni: {sni}, ca: {ca} }}");
    let start =
        |address, tls: String| behind(address, &tls).file("ca.pem", ca.pem()).file("other.pem", other.pem()).start();
    let unreachable = |address, tls: String, words: &str| {
        told(&start(address, tls), 502, "upstream_unreachable", words);
    };
    unreachable(endpoint.address(), tls("wrong.test", "ca.pem"), "does not bear the name in `tls.sni`");
    unreachable(endpoint.address(), tls("back.test", "other.pem"), "an authority that is not trusted here");
    let clear = says("HTTP/1.1 400 Bad Request\r\n\r\n", true);
    unreachable(clear, tls("back.test", "ca.pem"), "no TLS: it may be an endpoint in the clear");
    unreachable(says("", true), tls("back.test", "ca.pem"), "ends the connection during the TLS handshake");
    let http1 = RawUpstream::start_tls(&ca.leaf(&["back.test"]), &["http/1.1"], |_| Script::ok("secret"));
    let http2 = format!("protocol: http2, {}", tls("back.test", "ca.pem"));
    unreachable(http1.address(), http2, "it does not speak what `protocol` says");
    let silent = start(says("", false), tls("back.test", "ca.pem"));
    told(&silent, 504, "upstream_connect_timeout", "connection and TLS handshake within 300ms");
    assert!(endpoint.requests().is_empty() && http1.requests().is_empty(), "nothing was sent to any of them");
}

#[test]
fn r1_3_why_an_endpoint_that_takes_the_connection_gives_no_answer_is_told_too() {
    let closes = || says("", true);
    told(&behind(closes(), "").start(), 502, "upstream_closed", "does it want `tls`?");
    told(&behind(closes(), "protocol: http2").start(), 502, "upstream_closed", "does it speak HTTP/2?");
    let garbage = says("\x15\x03\x01 garbage\r\n\r\n", false);
    told(&behind(garbage, "").start(), 502, "upstream_protocol_error", "not HTTP/1.1");
    let mute = Gateway::with(format!(
        "version: 1\nupstreams:\n  back: {{ discovery: {{ static: [\"{}\"] }} }}\nroutes:\n  \
         - {{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: back, timeouts: {{ first_byte: 50ms }} }}\n",
        says("", false)
    ));
    told(&mute.start(), 504, "upstream_timeout", "does not begin to answer within 50ms");
}

#[test]
fn r1_3_after_another_attempt_the_log_names_the_endpoint_that_the_cause_is_about() {
    let (dead, upstream) = (nobody(), RawUpstream::start(|_| Script::ok("here")));
    let gateway = Gateway::start(format!(
        "version: 1\nupstreams:\n  back: {{ discovery: {{ static: [\"{dead}\", \"{}\"] }} }}\nroutes:\n  \
         - {{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: back }}\n",
        upstream.address()
    ));
    // Each of the two has its turn, and one of them only takes requests.
    let lines = [(); 2].map(|()| {
        let answer = gateway.get("/");
        assert_eq!(answer.status, 200, "{}", answer.text());
        gateway.access_log_for(answer.header("x-request-id").unwrap())
    });
    let again = lines.iter().find(|it| it["attempts"] == 2).unwrap_or_else(|| panic!("{lines:?}"));
    assert_eq!(again["endpoint"], upstream.address().to_string(), "{again}");
    assert_eq!(again["failed_endpoint"], dead.to_string(), "{again}");
    assert!(again["cause"].as_str().unwrap().contains("refuses the connection"), "{again}");
    let once = lines.iter().find(|it| it["attempts"] == 1).unwrap();
    assert!(once["failed_endpoint"].is_null() && once["cause"].is_null(), "{once}");
}

#[test]
fn r6_3_why_a_check_fails_is_told_in_words_and_forgotten_with_the_next_that_passes() {
    let ca = Ca::new("one");
    let ill = Arc::new(AtomicBool::new(true));
    let here = ill.clone();
    let upstream = RawUpstream::start_tls(&ca.leaf(&["back.test"]), &[], move |_| match here.load(Ordering::Relaxed) {
        true => Script::answer(503, &[], ""),
        false => Script::ok("well"),
    });
    let health = "health: { http: /health, every: 100ms, timeout: 90ms, fail_after: 1 }";
    let start = |address: SocketAddr, more: &str| behind(address, more).file("ca.pem", ca.pem()).start();
    let reason = |gateway: &Gateway| {
        let line = gateway.wait_for_event("endpoint_unhealthy", |_| true);
        let reason = line["reason"].as_str().unwrap().to_owned();
        assert!(!reason.contains("Peer") && !reason.contains('{'), "{reason}");
        reason
    };
    let wrong = start(upstream.address(), &format!("tls: {{ sni: wrong.test, ca: ca.pem }}, {health}"));
    assert_eq!(reason(&wrong), "its certificate does not bear the name in `tls.sni`");
    for probe in ["http: /health", "tcp: true"] {
        let health = format!("health: {{ {probe}, every: 100ms, timeout: 90ms }}");
        let refused = start(nobody(), &health);
        assert_eq!(reason(&refused), "it refuses the connection: nothing listens there", "{probe}");
    }
    let silent = start(says("", false), health);
    assert_eq!(reason(&silent), "it does not answer within 90ms");
    let garbage = start(says("garbage\r\n\r\n", true), health);
    assert_eq!(reason(&garbage), "what it answers is not HTTP/1.1");

    let gateway = start(upstream.address(), &format!("tls: {{ sni: back.test, ca: ca.pem }}, {health}"));
    assert_eq!(reason(&gateway), "it answered with status 503");
    assert_eq!(endpoint(&gateway)["last_error"], "it answered with status 503");
    ill.store(false, Ordering::Relaxed);
    let well = eventually("it is well again", || Some(endpoint(&gateway)).filter(|it| it["health"] == "healthy"));
    assert_eq!((&well["last_error"], &well["connect_failure"]), (&Value::Null, &Value::Null), "{well}");
}

#[test]
fn r6_3_a_check_asks_for_the_host_that_is_written_or_for_the_endpoints_own_name() {
    let ca = Ca::new("one");
    let host_asked = |upstream: &RawUpstream| {
        upstream.wait_for_requests(1);
        let head = upstream.requests().remove(0);
        Request { head, connection: 0, turn: 0, number: 0 }.header("host").unwrap()
    };
    let check = |host: &str| format!("health: {{ http: /health, every: 1h{host} }}");
    let clear = || RawUpstream::start(|_| Script::ok("well"));
    let (written, plain) = (clear(), clear());
    let _one = behind(written.address(), &check(", host: \"shop.example.org:8080\"")).start();
    assert_eq!(host_asked(&written), "shop.example.org:8080");
    let _two = behind(plain.address(), &check("")).start();
    assert_eq!(host_asked(&plain), "back");
    for (host, asked) in [("", "back.test"), (", host: other.test", "other.test")] {
        let upstream = RawUpstream::start_tls(&ca.leaf(&["back.test"]), &[], |_| Script::ok("well"));
        let tls = format!("tls: {{ sni: back.test, ca: ca.pem }}, {}", check(host));
        let _gateway = behind(upstream.address(), &tls).file("ca.pem", ca.pem()).start();
        assert_eq!(host_asked(&upstream), asked);
    }
    for (wrong, at) in [("http: /, host: \"https://a.test\"", "host"), ("tcp: true, host: a.test", "host")] {
        let refused = behind(plain.address(), &format!("health: {{ {wrong} }}")).start_refused();
        assert!(refused.code == 1 && refused.stderr.contains(at), "{wrong}: {}", refused.stderr);
    }
}

//! Sticky sessions (CP2-A): the four scenarios of W4-A, by cookie and by header, and what must not suffer from them.

use std::time::Duration;

use crate::resilience::Backend;
use crate::support::*;

/// Two back ends and a gateway with `sticky` in front of them.
struct Sessions {
    backends: [Backend; 2],
    gateway: Gateway,
}

impl Sessions {
    fn start(sticky: &str, more: &str, key: &str) -> Self {
        let backends = [Backend::start("one"), Backend::start("two")];
        let gateway = gateway(&backends, sticky, more, key);
        Self { backends, gateway }
    }

    fn of_cookie() -> Self {
        Self::start("{ cookie: sticky, ttl: 1m, key: \"${STICKY_SESSION_KEY}\" }", "", KEY)
    }

    /// Requests that went to their session's endpoint, and those that had none.
    fn counts(&self) -> (f64, f64) {
        counts(&self.gateway)
    }
}

const KEY: &str = "0123456789abcdef0123456789abcdef";
const OTHER_KEY: &str = "fedcba9876543210fedcba9876543210";

fn gateway(backends: &[Backend; 2], sticky: &str, more: &str, key: &str) -> Gateway {
    let [one, two] = backends.each_ref().map(|it| it.upstream.address());
    let text = format!(
        "version: 1
upstreams:
  backend:
    discovery: {{ static: [\"{one}\", \"{two}\"] }}
    sticky: {sticky}
routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: backend{more} }}]
"
    );
    Gateway::with(text).env("STICKY_SESSION_KEY", key).start()
}

fn counts(gateway: &Gateway) -> (f64, f64) {
    let of = |name: &str| figure(gateway, &format!("{name}{{upstream=\"backend\"}}")).unwrap();
    (of("sticky_hits_total"), of("sticky_miss_total"))
}

/// The pair that a client sends back.
fn pair(answer: &Response) -> Option<String> {
    Some(answer.header("set-cookie")?.split(';').next().unwrap().to_owned())
}

fn get(gateway: &Gateway, field: &str, value: &str) -> Response {
    gateway.request("GET", "/", &[(field, value)], b"")
}

#[test]
fn cp2_a_cold_start_then_warm_by_cookie() {
    let sessions = Sessions::of_cookie();
    let first = sessions.gateway.get("/");
    assert_eq!(sessions.counts(), (0.0, 1.0), "cold start: a miss");
    let line = first.header("set-cookie").unwrap();
    assert!(line.ends_with("; Path=/; Max-Age=60; HttpOnly; SameSite=Lax"), "{line}");
    for backend in &sessions.backends {
        assert!(!line.contains(&backend.upstream.address().port().to_string()), "{line}");
    }
    let cookie = pair(&first).unwrap();
    for number in 1..=6 {
        let answer = get(&sessions.gateway, "Cookie", &cookie);
        assert_eq!(answer.text(), first.text(), "warm: the same endpoint");
        assert_eq!(answer.header("set-cookie"), None, "nothing new to remember");
        assert_eq!(sessions.counts(), (f64::from(number), 1.0));
    }
}

#[test]
fn cp2_a_cold_start_then_warm_by_header() {
    let sticky = "{ header: x-session-id, key: \"${STICKY_SESSION_KEY}\" }";
    let sessions = Sessions::start(sticky, "", KEY);
    let firsts: Vec<String> = (0..8).map(|it| get(&sessions.gateway, "X-Session-Id", &it.to_string()).text()).collect();
    assert_eq!(sessions.counts(), (0.0, 8.0));
    for (number, first) in firsts.iter().enumerate() {
        let answer = get(&sessions.gateway, "X-Session-Id", &number.to_string());
        assert_eq!(&answer.text(), first);
        assert_eq!(answer.header("set-cookie"), None);
    }
    assert_eq!(sessions.counts(), (8.0, 8.0));
    assert_eq!(figure(&sessions.gateway, "moongate_sticky_sessions{upstream=\"backend\"}"), Some(8.0));
    // Another gateway with the same key chooses the same, though nobody told it.
    let other = gateway(&sessions.backends, sticky, "", KEY);
    let others: Vec<String> = (0..8).map(|it| get(&other, "X-Session-Id", &it.to_string()).text()).collect();
    assert_eq!(others, firsts);
    // Without the field there is no session.
    sessions.gateway.get("/");
    assert_eq!(sessions.counts(), (8.0, 8.0));
}

#[test]
fn cp2_a_after_its_ttl_a_session_begins_anew() {
    for (sticky, field) in [("cookie: sticky", "Cookie"), ("header: x-session-id", "X-Session-Id")] {
        let sticky = format!("{{ {sticky}, ttl: \"${{STICKY_TTL_MS:-150}}ms\", key: \"${{STICKY_SESSION_KEY}}\" }}");
        let sessions = Sessions::start(&sticky, "", KEY);
        let first = get(&sessions.gateway, field, "mine");
        let value = pair(&first).unwrap_or_else(|| "mine".to_owned());
        assert_eq!(sessions.counts(), (0.0, 1.0));
        let (mut asked, mut value) = (0.0, value);
        eventually("the session has ended", || {
            let_pass(Duration::from_millis(160));
            let answer = get(&sessions.gateway, field, &value);
            asked += 1.0;
            value = pair(&answer).unwrap_or_else(|| value.clone());
            let (hits, misses) = sessions.counts();
            assert_eq!(hits + misses, asked + 1.0);
            (misses > 1.0).then_some(())
        });
    }
}

#[test]
fn cp2_a_another_key_begins_all_sessions_anew() {
    let sessions = Sessions::of_cookie();
    let cookie = pair(&sessions.gateway.get("/")).unwrap();
    let sticky = "{ cookie: sticky, ttl: 1m, key: \"${STICKY_SESSION_KEY}\" }";
    let same = gateway(&sessions.backends, sticky, "", KEY);
    assert_eq!(get(&same, "Cookie", &cookie).header("set-cookie"), None);
    assert_eq!(counts(&same), (1.0, 0.0), "gateways with one key share sessions, and a restart keeps them");
    let rotated = gateway(&sessions.backends, sticky, "", OTHER_KEY);
    let answer = get(&rotated, "Cookie", &cookie);
    assert_eq!(counts(&rotated), (0.0, 1.0));
    let renewed = pair(&answer).unwrap();
    assert_ne!(renewed, cookie);
    assert_eq!(get(&rotated, "Cookie", &renewed).text(), answer.text());
    assert_eq!(counts(&rotated), (1.0, 1.0));
}

#[test]
fn cp2_a_a_dead_endpoints_sessions_move_and_the_others_stay() {
    let sessions = Sessions::of_cookie();
    let mut cookies: [Option<String>; 2] = [None, None];
    while cookies.iter().any(Option::is_none) {
        let answer = sessions.gateway.get("/");
        let of = usize::from(answer.text() == "two");
        cookies[of] = pair(&answer);
    }
    let [one, two] = cookies.map(Option::unwrap);
    let Sessions { backends: [dead, _alive], gateway } = sessions;
    drop(dead);
    let moved = get(&gateway, "Cookie", &one);
    assert_eq!((moved.status, moved.text().as_str()), (200, "two"), "it costs no request");
    let moved = pair(&moved).expect("where it is now");
    assert_eq!(get(&gateway, "Cookie", &two).text(), "two");
    let (hits, _) = counts(&gateway);
    assert_eq!(get(&gateway, "Cookie", &moved).text(), "two");
    assert_eq!(counts(&gateway).0, hits + 1.0);
}

#[test]
fn cp2_a_idempotent_requests_are_the_same_with_and_without_the_cookie() {
    let sticky = "{ cookie: sticky, key: \"${STICKY_SESSION_KEY}\" }";
    let sessions = Sessions::start(sticky, ", idempotency: {}", KEY);
    let post = |cookie: &str| {
        sessions.gateway.request("POST", "/", &[("Idempotency-Key", "order-7"), ("Cookie", cookie)], b"{}")
    };
    let first = post("theme=dark");
    let cookie = pair(&first).unwrap();
    let again = post(&format!("theme=dark; {cookie}"));
    assert_eq!((again.status, again.header("idempotency-replayed")), (200, Some("true")));
    assert_eq!(again.header("set-cookie"), None, "no stored answer has somebody's session");
    let asked: usize = sessions.backends.iter().map(Backend::asked).sum();
    assert_eq!(asked, 1);
}

#[test]
fn cp2_a_what_makes_no_sense_is_refused() {
    for (sticky, message) in [
        ("{}", "does not say what names a session"),
        ("{ cookie: a, header: b }", "not both"),
        ("{ cookie: \"a b\" }", "is not the name of a cookie"),
        ("{ cookie: a, ttl: 0s }", "longer than nothing"),
        ("{ cookie: a, key: short }", "shorter than 16 characters"),
    ] {
        let text = format!(
            "version: 1\nupstreams: {{ backend: {{ discovery: {{ static: [\"127.0.0.1:1\"] }}, sticky: {sticky} }} }}\nroutes: [{{ name: all, match: {{ path: / }}, upstream: backend }}]\n"
        );
        let refused = Gateway::with(text).start_refused();
        assert!(refused.stderr.contains(message), "{sticky}: {}", refused.stderr);
    }
}

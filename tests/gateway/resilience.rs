//! Upstreams that fail: the breaker (US-015), endpoints that are left out, retries within a budget, and balancing that
//! goes by keys and by latency.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;

use crate::support::*;

/// Answers with the status that it was told, and counts.
pub struct Backend {
    pub upstream: RawUpstream,
    failing: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Backend {
    pub fn start(name: &'static str) -> Self {
        let (failing, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (fails, counts) = (failing.clone(), asked.clone());
        let upstream = RawUpstream::start(move |_| {
            counts.fetch_add(1, Ordering::SeqCst);
            let status = if fails.load(Ordering::SeqCst) { 503 } else { 200 };
            Script::answer(status, &[("x-backend", name)], name)
        });
        Self { upstream, failing, asked }
    }

    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// One upstream `backend` with these settings and endpoints, and a route to it.
pub fn gateway(upstream: &str, endpoints: &[SocketAddr]) -> Gateway {
    let list: Vec<String> = endpoints.iter().map(|it| format!("\"{it}\"")).collect();
    Gateway::start(format!(
        "version: 1
upstreams:
  backend:
    discovery: {{ static: [{}] }}
{upstream}
routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: backend }}]
",
        list.join(", ")
    ))
}

pub fn upstream(gateway: &Gateway) -> Value {
    let page: Value = serde_json::from_str(&gateway.admin_get("/admin/upstreams").text()).unwrap();
    page["upstreams"].as_array().unwrap().iter().find(|it| it["name"] == "backend").unwrap().clone()
}

#[test]
fn us_015_an_upstream_that_fails_gets_nothing_then_a_probe_that_decides() {
    let backend = Backend::start("one");
    backend.fail(true);
    let gateway =
        gateway("    breaker: { open_after: 5, within: 60s, retry_after: 400ms }", &[backend.upstream.address()]);
    for _ in 0..5 {
        assert_eq!(gateway.get("/").text(), "one", "the upstream's own answer passes");
    }
    let refused = gateway.get("/");
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (503, Some("breaker_open")));
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(backend.asked(), 5, "nothing is sent while it is open");
    assert_eq!(figure(&gateway, "csp_circuit_breaker_state{upstream=\"backend\"}"), Some(2.0));
    assert_eq!(upstream(&gateway)["breaker"], "open");
    gateway.wait_for_event("breaker_open", |it| it["upstream"] == "backend");
    // The probe fails, and it is open again; a probe that succeeds closes it.
    eventually("a probe is sent", || {
        gateway.get("/");
        (backend.asked() == 6).then_some(())
    });
    assert_eq!(gateway.get("/").json()["error"]["code"], "breaker_open");
    backend.fail(false);
    eventually("it works again", || (gateway.get("/").status == 200).then_some(()));
    assert_eq!(figure(&gateway, "moongate_breaker_state{upstream=\"backend\"}"), Some(0.0));
    gateway.wait_for_event("breaker_closed", |it| it["upstream"] == "backend");
}

#[test]
fn an_endpoint_that_fails_in_a_row_is_left_out_and_comes_back() {
    let (bad, good) = (Backend::start("bad"), Backend::start("good"));
    bad.fail(true);
    let settings = "    outliers: { consecutive_5xx: 3, eject_for: 300ms, max_ejected: 50% }";
    let gateway = gateway(settings, &[bad.upstream.address(), good.upstream.address()]);
    gateway.reload();
    let ejected = |gateway: &Gateway| {
        let upstream = upstream(gateway);
        upstream["endpoints"].as_array().unwrap().iter().filter(|it| it["ejected"] == true).count()
    };
    eventually("it is left out", || {
        gateway.get("/");
        (ejected(&gateway) == 1).then_some(())
    });
    let event = gateway.wait_for_event("endpoint_ejected", |_| true);
    assert_eq!(event["endpoint"], bad.upstream.address().to_string());
    assert!(figure(&gateway, "moongate_endpoint_ejections_total{upstream=\"backend\"}").unwrap() >= 1.0);
    // Never more than the part that may be: the good one serves on when it fails, too.
    bad.fail(false);
    eventually("it comes back", || (gateway.get("/").text() == "bad").then_some(()));
    gateway.wait_for_event("endpoint_readmitted", |_| true);
}

#[test]
fn a_status_is_retried_elsewhere_where_that_is_safe() {
    let (bad, good) = (Backend::start("bad"), Backend::start("good"));
    bad.fail(true);
    let settings = "    retries: { attempts: 2, on: [connect_failure, 503], budget: 100%, keyed: true, report: true }";
    let gateway = gateway(settings, &[bad.upstream.address(), good.upstream.address()]);
    for _ in 0..6 {
        assert_eq!(gateway.get("/").text(), "good");
    }
    assert!(bad.asked() >= 2, "it was tried");
    let attempts: Vec<String> =
        (0..4).map(|_| gateway.get("/").header("x-moongate-attempts").unwrap().to_owned()).collect();
    assert!(attempts.contains(&"2".to_owned()), "{attempts:?}");
    // What is not idempotent is sent once, unless the upstream takes a key for it.
    let posts: Vec<u16> = (0..4).map(|_| gateway.request("POST", "/", &[], b"x").status).collect();
    assert_eq!(posts.iter().filter(|it| **it == 503).count(), 2, "{posts:?}");
    for _ in 0..4 {
        assert_eq!(gateway.request("POST", "/", &[("idempotency-key", "\"k\"")], b"x").status, 200);
    }
    // All fail: the client gets the last answer, and nobody is asked twice.
    good.fail(true);
    let before = bad.asked() + good.asked();
    assert_eq!(gateway.get("/").status, 503);
    assert_eq!(bad.asked() + good.asked() - before, 2);
}

#[test]
fn a_total_outage_is_not_multiplied() {
    let (one, two) = (Backend::start("one"), Backend::start("two"));
    one.fail(true);
    two.fail(true);
    let settings = "    retries: { attempts: 3, on: [503], backoff: 1ms }";
    let gateway = gateway(settings, &[one.upstream.address(), two.upstream.address()]);
    const REQUESTS: usize = 400;
    for _ in 0..REQUESTS {
        assert_eq!(gateway.get("/").status, 503);
    }
    let retries = one.asked() + two.asked() - REQUESTS;
    // A fifth of what was sent, and 3 a second over 10 seconds, twice if the window turned meanwhile.
    assert!((30..=REQUESTS / 4 + 60 + 30).contains(&retries), "{retries}");
    let over = figure(&gateway, "moongate_upstream_retries_total{result=\"over_budget\",upstream=\"backend\"}");
    assert!(over.unwrap() > 0.0);
}

#[test]
fn a_retry_after_that_is_long_ends_the_retries() {
    let bad = RawUpstream::start(|_| Script::answer(503, &[("retry-after", "60")], "later"));
    let good = Backend::start("good");
    let gateway = gateway("    retries: { on: [503], budget: 100% }", &[bad.address(), good.upstream.address()]);
    let answers: Vec<String> = (0..4).map(|_| gateway.get("/").text()).collect();
    assert_eq!(answers.iter().filter(|it| *it == "later").count(), 2, "{answers:?}");
}

#[test]
fn the_same_key_gets_the_same_endpoint_while_others_come_and_go() {
    let backends = ["a", "b", "c", "d"].map(Backend::start);
    let addresses = backends.each_ref().map(|it| it.upstream.address());
    for (on, field) in [("{ header: x-session }", "x-session"), ("{ cookie: sid }", "cookie")] {
        let settings = format!("    balance: consistent_hash\n    hash_on: {on}");
        let ask = |gateway: &Gateway, number: usize| {
            let value = if field == "cookie" { format!("a=b; sid={number}") } else { number.to_string() };
            gateway.request("GET", "/", &[(field, &value)], b"").text()
        };
        let gateway = gateway(&settings, &addresses);
        let first: Vec<String> = (0..40).map(|it| ask(&gateway, it)).collect();
        let again: Vec<String> = (0..40).map(|it| ask(&gateway, it)).collect();
        assert_eq!(first, again);
        assert!(["a", "b", "c", "d"].iter().all(|it| first.iter().any(|name| name == it)), "{first:?}");
        let fewer = self::gateway(&settings, &addresses[..3]);
        for (number, before) in first.iter().enumerate() {
            let after = ask(&fewer, number);
            assert!(before == "d" || *before == after, "{number} moved from {before} to {after}");
        }
    }
}

#[test]
fn a_key_of_the_path_and_of_the_address() {
    let backends = ["a", "b", "c"].map(Backend::start);
    let addresses: Vec<String> = backends.iter().map(|it| format!("\"{}\"", it.upstream.address())).collect();
    let addresses = addresses.join(", ");
    let gateway = Gateway::start(format!(
        "version: 1
upstreams:
  by_path: {{ discovery: {{ static: [{addresses}] }}, balance: consistent_hash, hash_on: {{ path: session }} }}
  by_ip: {{ discovery: {{ static: [{addresses}] }}, balance: consistent_hash, hash_on: {{ ip: true }} }}
routes:
  - {{ name: path, match: {{ path: \"/s/{{session}}/{{*rest}}\" }}, upstream: by_path, rewrite: {{ path: \"/{{rest}}\" }} }}
  - {{ name: ip, match: {{ path: \"/ip\" }}, upstream: by_ip }}
"
    ));
    let mut seen = std::collections::BTreeSet::new();
    for session in 0..20 {
        let one = gateway.get(&format!("/s/{session}/x")).text();
        assert_eq!(one, gateway.get(&format!("/s/{session}/y")).text());
        seen.insert(one);
    }
    assert_eq!(seen.len(), 3);
    let one = gateway.get("/ip").text();
    assert!((0..5).all(|_| gateway.get("/ip").text() == one));
}

#[test]
fn r9_5_requests_go_where_answers_come_sooner() {
    let quick = Backend::start("quick");
    let slow = RawUpstream::start(|_| {
        Script::new().pause(std::time::Duration::from_millis(150)).send(upstream::answer_bytes(200, &[], b"slow"))
    });
    let gateway = gateway("    balance: peak_ewma", &[quick.upstream.address(), slow.address()]);
    let answers: Vec<String> = (0..40).map(|_| gateway.get("/").text()).collect();
    let slow = answers.iter().filter(|it| *it == "slow").count();
    assert!((1..=4).contains(&slow), "{slow} of 40 went to the slow one");
}

#[test]
fn what_makes_no_sense_is_a_fault() {
    for (settings, message) in [
        ("    balance: consistent_hash", "needs to know what to hash"),
        ("    hash_on: { ip: true }", "only `balance: consistent_hash` looks at this"),
        ("    balance: consistent_hash\n    hash_on: { ip: false }", "that hashes nothing"),
        ("    breaker: { open_after: 0 }", "open_after"),
        ("    outliers: { eject_for: 0s }", "longer than nothing"),
        ("    retries: { attempts: 0 }", "attempts"),
        ("    retries: { on: [404] }", "404 is not an upstream's failure"),
    ] {
        let text = format!(
            "version: 1
upstreams:
  backend:
    discovery: {{ static: [\"127.0.0.1:1\"] }}
{settings}
routes: [{{ name: all, match: {{ path: \"/\" }}, upstream: backend }}]
"
        );
        let refused = Gateway::with(text).start_refused();
        assert!(refused.stderr.contains(message), "{settings}: {}", refused.stderr);
    }
}

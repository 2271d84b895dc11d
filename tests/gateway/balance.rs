//! Endpoints that are new, and endpoints of which too few are healthy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::resilience::{Backend, gateway, upstream};
use crate::support::*;

const CHECKS: &str = "    health: { http: /health, every: 50ms, timeout: 40ms, fail_after: 1 }";

fn routes(endpoints: &[&Backend], settings: &str) -> String {
    let list: Vec<String> = endpoints.iter().map(|it| format!("\"{}\"", it.upstream.address())).collect();
    format!(
        "version: 1
upstreams:
  backend:
    discovery: {{ static: [{}] }}
{settings}
routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: backend }}]
",
        list.join(", ")
    )
}

fn shown(gateway: &Gateway, key: &str) -> Vec<Value> {
    upstream(gateway)["endpoints"].as_array().unwrap().iter().map(|it| it[key].clone()).collect()
}

/// Fails its checks while it is sick, and answers everything else with its name.
struct Checked {
    upstream: RawUpstream,
    sick: Arc<AtomicBool>,
}

impl Checked {
    fn start(name: &'static str) -> Self {
        let sick = Arc::new(AtomicBool::new(true));
        let is_sick = sick.clone();
        let upstream = RawUpstream::start(move |request| {
            let fails = request.target() == "/health" && is_sick.load(Ordering::SeqCst);
            Script::answer(if fails { 503 } else { 200 }, &[], name)
        });
        Self { upstream, sick }
    }
}

#[test]
fn a_new_endpoint_starts_slowly() {
    let (known, new) = (Backend::start("known"), Backend::start("new"));
    let settings = "    slow_start: 10h";
    let gateway = gateway(settings, &[known.upstream.address()]);
    assert_eq!(shown(&gateway, "slow_start"), [Value::Bool(false)], "who was there at the start is not new");
    gateway.write_routes(&routes(&[&known, &new], settings));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(shown(&gateway, "slow_start"), [Value::Bool(false), Value::Bool(true)]);
    for _ in 0..300 {
        assert_eq!(gateway.get("/").status, 200);
    }
    // A tenth of its half is 15.
    assert!((1..=45).contains(&new.asked()), "{} of 300", new.asked());
    // With nobody else there it gets all.
    gateway.write_routes(&routes(&[&new], settings));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(gateway.get("/").text(), "new");
}

#[test]
fn with_too_few_healthy_endpoints_all_get_requests_and_it_is_said() {
    let checked = ["one", "two"].map(Checked::start);
    let addresses = checked.each_ref().map(|it| it.upstream.address());
    let gateway = gateway(&format!("{CHECKS}\n    panic: 50%"), &addresses);
    gateway.wait_for_event("upstream_panic", |it| it["upstream"] == "backend");
    eventually("both are unhealthy", || (shown(&gateway, "health") == ["unhealthy", "unhealthy"]).then_some(()));
    let answers: Vec<String> = (0..4).map(|_| gateway.get("/").text()).collect();
    assert_eq!(answers.iter().filter(|it| *it == "one").count(), 2, "{answers:?}");
    assert_eq!(upstream(&gateway)["panic"], true);
    assert_eq!(figure(&gateway, "moongate_upstream_panic{upstream=\"backend\"}"), Some(1.0));
    // Half of them is enough.
    checked[1].sick.store(false, Ordering::SeqCst);
    gateway.wait_for_event("upstream_panic_over", |it| it["eligible"] == 1);
    assert!((0..4).all(|_| gateway.get("/").text() == "two"));
    assert_eq!(upstream(&gateway)["panic"], false);
}

#[test]
fn without_a_threshold_nobody_unhealthy_gets_requests() {
    let checked = Checked::start("one");
    let gateway = gateway(CHECKS, &[checked.upstream.address()]);
    gateway.wait_for_event("endpoint_unhealthy", |_| true);
    assert_eq!(gateway.get("/").status, 503);
    assert!(checked.upstream.requests().iter().all(|it| it.starts_with(b"GET /health")));
}

#[test]
fn thresholds_and_slow_starts_that_make_no_sense_are_faults() {
    let none = Backend::start("none");
    for (settings, message) in [
        ("    panic: 50%", "without checks, all endpoints count as healthy"),
        ("    slow_start: 0s", "longer than nothing"),
    ] {
        let refused = Gateway::with(routes(&[&none], settings)).start_refused();
        assert!(refused.stderr.contains(message), "{settings}: {}", refused.stderr);
    }
}

//! US-015 for each endpoint: the one that fails again and again is left out, then one request decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::resilience::{Backend, gateway, upstream};
use crate::support::*;

fn gauge(gateway: &Gateway, endpoint: &Backend) -> Option<f64> {
    let address = endpoint.upstream.address();
    figure(gateway, &format!("moongate_endpoint_breaker_state{{endpoint=\"{address}\",upstream=\"backend\"}}"))
}

fn breakers(gateway: &Gateway) -> Vec<Value> {
    upstream(gateway)["endpoints"].as_array().unwrap().iter().map(|it| it["breaker"].clone()).collect()
}

fn until_open(gateway: &Gateway) {
    eventually("the endpoint's breaker opens", || {
        gateway.get("/");
        (!gateway.events("endpoint_breaker_open").is_empty()).then_some(())
    });
}

#[test]
fn us_015_1_the_endpoint_that_fails_is_left_out_and_the_others_serve() {
    let (bad, good) = (Backend::start("bad"), Backend::start("good"));
    bad.fail(true);
    let settings = "    breaker: { open_after: 5, within: 60s, retry_after: 1h, per: endpoint }";
    let gateway = gateway(settings, &[bad.upstream.address(), good.upstream.address()]);
    until_open(&gateway);
    assert_eq!(bad.asked(), 5, "five in a row, though the other one's successes lie between");
    for _ in 0..20 {
        assert_eq!(gateway.get("/").text(), "good");
    }
    assert_eq!(bad.asked(), 5);
    assert_eq!((gauge(&gateway, &bad), gauge(&gateway, &good)), (Some(2.0), Some(0.0)));
    assert_eq!(breakers(&gateway), [json!("open"), json!("closed")]);
    assert_eq!(upstream(&gateway)["breaker"], Value::Null, "the upstream has none");
    let event = gateway.wait_for_event("endpoint_breaker_open", |_| true);
    assert_eq!((&event["endpoint"], &event["time"]), (&json!(bad.upstream.address().to_string()), &json!("1h")));
    // A reload that changes something else forgets nothing; one that changes the breaker begins anew.
    let routes = |settings: &str| {
        format!(
            "version: 1
upstreams: {{ backend: {{ discovery: {{ static: [\"{}\", \"{}\"] }}, {settings} }} }}
routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: backend }}]
",
            bad.upstream.address(),
            good.upstream.address()
        )
    };
    gateway.write_routes(&routes("breaker: { retry_after: 1h, per: endpoint }, keep_alive: { idle: 7s }"));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(breakers(&gateway), [json!("open"), json!("closed")]);
    gateway.write_routes(&routes("breaker: { retry_after: 2h, per: endpoint }"));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!((breakers(&gateway), gauge(&gateway, &bad)), (vec![json!("closed"), json!("closed")], Some(0.0)));
    gateway.write_routes(&routes("breaker: {}"));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!((breakers(&gateway), gauge(&gateway, &bad)), (vec![Value::Null, Value::Null], None));
}

#[test]
fn us_015_2_one_request_probes_the_endpoint_and_the_others_go_elsewhere_meanwhile() {
    let (failing, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (probed, answer) = (Signal::new(), Signal::new());
    let bad = {
        let (failing, asked, probed, answer) = (failing.clone(), asked.clone(), probed.clone(), answer.clone());
        RawUpstream::start(move |_| {
            asked.fetch_add(1, Ordering::SeqCst);
            if failing.load(Ordering::SeqCst) {
                return Script::answer(503, &[], "bad");
            }
            Script::new().give(&probed).wait(&answer).send(upstream::answer_bytes(200, &[], b"bad"))
        })
    };
    let good = Backend::start("good");
    let settings = "    breaker: { open_after: 2, retry_after: 3s, per: endpoint }";
    let gateway = gateway(settings, &[bad.address(), good.upstream.address()]);
    until_open(&gateway);
    failing.store(false, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let probe = scope.spawn(|| {
            eventually("a probe is sent", || {
                let text = gateway.get("/").text();
                (text == "bad" && asked.load(Ordering::SeqCst) > 2).then_some(())
            });
        });
        assert!(probed.wait());
        assert_eq!(breakers(&gateway)[0], "half_open");
        for _ in 0..10 {
            assert_eq!(gateway.get("/").text(), "good");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 3, "one probe and no more");
        answer.give();
        probe.join().unwrap();
    });
    gateway.wait_for_event("endpoint_breaker_closed", |it| it["endpoint"] == bad.address().to_string());
    eventually("it serves as before", || (gateway.get("/").text() == "bad").then_some(()));
}

#[test]
fn us_015_2_a_probe_that_fails_opens_it_again() {
    let (bad, good) = (Backend::start("bad"), Backend::start("good"));
    bad.fail(true);
    let settings = "    breaker: { open_after: 2, retry_after: 200ms, per: endpoint }";
    let gateway = gateway(settings, &[bad.upstream.address(), good.upstream.address()]);
    eventually("it opens again and again", || {
        gateway.get("/");
        (gateway.events("endpoint_breaker_open").len() == 3).then_some(())
    });
    assert_eq!(gateway.events("endpoint_breaker_half_open").len(), 2);
    assert_eq!(bad.asked(), 4, "two failures, and two probes");
}

#[test]
fn us_015_where_all_are_open_the_answer_is_at_once_and_says_when_to_come_back() {
    let only = Backend::start("only");
    only.fail(true);
    let gateway =
        gateway("    breaker: { open_after: 3, retry_after: 50s, per: endpoint }", &[only.upstream.address()]);
    until_open(&gateway);
    let refused = gateway.get("/");
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (503, Some("breaker_open")));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((30..=50).contains(&wait), "{wait}");
    assert_eq!(only.asked(), 3);
}

#[test]
fn us_015_both_kinds_stand_beside_one_another() {
    let (bad, good) = (Backend::start("bad"), Backend::start("good"));
    bad.fail(true);
    let settings = "    breaker: { open_after: 3, retry_after: 1h, per: both }";
    let gateway = gateway(settings, &[bad.upstream.address(), good.upstream.address()]);
    until_open(&gateway);
    assert_eq!(upstream(&gateway)["breaker"], "closed", "one endpoint is not the upstream");
    good.fail(true);
    eventually("the upstream's opens too", || gateway.get("/").text().contains("breaker_open").then_some(()));
    assert_eq!(figure(&gateway, "csp_circuit_breaker_state{upstream=\"backend\"}"), Some(2.0));
}

#[test]
fn us_015_2_a_probe_is_not_wasted_while_no_endpoint_could_take_it() {
    let (failing, sick) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (fails, is_sick) = (failing.clone(), sick.clone());
    let only = RawUpstream::start(move |request| {
        let of_check = request.target() == "/health";
        let bad = if of_check { is_sick.load(Ordering::SeqCst) } else { fails.load(Ordering::SeqCst) };
        Script::answer(if bad { 503 } else { 200 }, &[], "only")
    });
    let settings = "    breaker: { open_after: 2, retry_after: 1s }
    health: { http: /health, every: 200ms, timeout: 190ms, fail_after: 1 }";
    let gateway = gateway(settings, &[only.address()]);
    gateway.wait_for_event("endpoint_healthy", |_| true);
    (0..2).for_each(|_| assert_eq!(gateway.get("/").text(), "only"));
    sick.store(true, Ordering::SeqCst);
    gateway.wait_for_event("endpoint_unhealthy", |_| true);
    let_pass(std::time::Duration::from_secs(1));
    for _ in 0..5 {
        let refused = gateway.get("/");
        assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (503, Some("breaker_open")));
    }
    assert_eq!(gateway.events("breaker_half_open").len(), 0, "nobody is there to be probed");
    failing.store(false, Ordering::SeqCst);
    sick.store(false, Ordering::SeqCst);
    eventually("the endpoint is back", || (gateway.events("endpoint_healthy").len() == 2).then_some(()));
    assert_eq!(gateway.get("/").status, 200, "the first request is the probe, at once");
    assert_eq!(gateway.events("breaker_half_open").len(), 1);
}

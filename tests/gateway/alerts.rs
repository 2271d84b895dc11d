//! R6.3: each change of health goes to a webhook, in order, again where that helps, and never at anybody's cost.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::accounts::moongate;
use crate::resilience::Backend;
use crate::support::*;

const CHECKED: &str = "health: { http: /health, every: 200ms, timeout: 190ms, fail_after: 1 }";
/// To take an alert.
const TAKEN: &str = "HTTP/1.1 204 No Content\r\n\r\n";

fn routes(endpoints: &[std::net::SocketAddr], settings: &str) -> String {
    let list: Vec<String> = endpoints.iter().map(|it| format!("\"{it}\"")).collect();
    format!(
        "version: 1
upstreams: {{ backend: {{ discovery: {{ static: [{}] }}, {settings} }} }}
routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: backend }}]
",
        list.join(", ")
    )
}

fn with_webhook(routes: String, receiver: &RawUpstream, rest: &str) -> GatewayBuilder {
    let url = format!("http://{}/canary-path", receiver.address());
    let config = format!("{}\nalerts: {{ health: {{ url: \"{url}\"{rest} }} }}\n", gateway::CONFIG);
    Gateway::with(routes).config(config)
}

/// What the receiver has got so far, as head and body.
fn alerts(receiver: &RawUpstream) -> Vec<(String, Value)> {
    let split = |it: &Vec<u8>| {
        let text = String::from_utf8(it.clone()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.to_lowercase(), serde_json::from_str(body).ok()?))
    };
    receiver.requests().iter().filter_map(split).collect()
}

fn count(gateway: &Gateway, result: &str) -> f64 {
    figure(gateway, &format!("moongate_alerts_total{{result=\"{result}\",webhook=\"health\"}}")).unwrap_or(0.0)
}

#[test]
fn r6_3_each_change_reaches_the_webhook_in_order_with_a_secret_that_nothing_shows() {
    let receiver = RawUpstream::start(|_| Script::new().read_body().send(TAKEN));
    let backend = Backend::start("one");
    let key = [("SECRET_KEY", "a-key-that-nobody-could-ever-guess-of-all")];
    let config =
        routes(&[backend.upstream.address()], &format!("{CHECKED}, breaker: {{ open_after: 2, retry_after: 1h }}"));
    let builder = with_webhook(config, &receiver, ", authorization: \"secret:pager\"").env(key[0].0, key[0].1);
    builder.folder().write("conf/gateway.yaml", gateway::CONFIG);
    let put = moongate(builder.folder(), &["secrets", "put", "pager"], "Bearer canary-pager", &key);
    assert_eq!(put.code, 0, "{}", put.stderr);
    let gateway = builder.start();
    gateway.wait_for_event("endpoint_healthy", |_| true);
    // The breaker hears of requests, the check of itself.
    backend.fail(true);
    let address = backend.upstream.address().to_string();
    let told = eventually("the endpoint is unhealthy", || {
        alerts(&receiver).into_iter().find(|it| it.1["event"] == "endpoint_unhealthy")
    });
    let (head, alert) = told;
    assert!(head.starts_with("post /canary-path ") && head.contains("authorization: bearer canary-pager"), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!((&alert["upstream"], &alert["endpoint"]), (&json!("backend"), &json!(address)));
    assert_eq!((&alert["reason"], &alert["eligible"]), (&json!("it answered with status 503"), &json!(0)));
    assert_eq!(alert["message"], "the endpoint gets no more requests");
    assert!(alert["at"].as_str().unwrap().ends_with('Z') && alert.get("dependency").is_none(), "{alert}");
    backend.fail(false);
    eventually("it is healthy again", || {
        let events: Vec<Value> = alerts(&receiver).into_iter().map(|it| it.1["event"].clone()).collect();
        (events == ["endpoint_healthy", "endpoint_unhealthy", "endpoint_healthy"]).then_some(())
    });
    eventually("all count", || (count(&gateway, "delivered") == 3.0).then_some(()));
    assert_eq!((count(&gateway, "retried"), count(&gateway, "lost")), (0.0, 0.0));
    assert_eq!(figure(&gateway, "moongate_alerts_waiting{webhook=\"health\"}"), Some(0.0));
    assert!(gateway.log_lines().iter().all(|it| !it.text.contains("canary")));
}

#[test]
fn r6_3_breakers_ejections_and_dependencies_are_alerts_too() {
    let receiver = RawUpstream::start(|_| Script::new().read_body().send(TAKEN));
    let [a, b, c] = ["a", "b", "c"].map(Backend::start);
    a.fail(true);
    let (a, b, c) = (a.upstream.address(), b.upstream.address(), c.upstream.address());
    let text = format!(
        "version: 1
upstreams:
  one: {{ discovery: {{ static: [\"{a}\", \"{b}\"] }}, outliers: {{ consecutive_5xx: 2, eject_for: 1h }} }}
  two: {{ discovery: {{ static: [\"{a}\"] }}, breaker: {{ open_after: 2, retry_after: 1h, per: both }} }}
  three: {{ discovery: {{ static: [\"{c}\"] }}, depends_on: [two] }}
routes:
  - {{ name: one, match: {{ path: /one }}, upstream: one }}
  - {{ name: two, match: {{ path: /two }}, upstream: two }}
  - {{ name: three, match: {{ path: /three }}, upstream: three }}
"
    );
    let gateway = with_webhook(text, &receiver, "").start();
    (0..4).for_each(|_| drop(gateway.get("/one")));
    (0..3).for_each(|_| drop(gateway.get("/two")));
    assert_eq!(gateway.get("/three").json()["error"]["code"], "dependency_unavailable");
    let told = eventually("all are told", || {
        Some(alerts(&receiver)).filter(|it| it.len() >= 4).map(|it| it.into_iter().map(|it| it.1).collect::<Vec<_>>())
    });
    let find = |event: &str| told.iter().find(|it| it["event"] == event).unwrap_or_else(|| panic!("{event}: {told:?}"));
    let ejected = find("endpoint_ejected");
    assert_eq!((&ejected["endpoint"], &ejected["seconds"]), (&json!(a.to_string()), &json!(3600.0)));
    assert_eq!(ejected["reason"], "it failed 2 requests in a row");
    assert_eq!(find("breaker_open")["upstream"], "two");
    assert_eq!(find("endpoint_breaker_open")["endpoint"], a.to_string());
    assert_eq!(
        (&find("dependency_down")["upstream"], &find("dependency_down")["dependency"]),
        (&json!("three"), &json!("two"))
    );
}

#[test]
fn r6_3_endpoints_that_come_and_go_are_told_of_together_however_they_flap() {
    let receiver = RawUpstream::start(|_| Script::new().read_body().send(TAKEN));
    let text = "version: 1
upstreams: { backend: { discovery: { static: [\"127.0.0.1:1\"], registry: {} } } }
routes: [{ name: all, match: { path: \"/{*rest}\" }, upstream: backend }]
";
    let url = format!("http://{}/", receiver.address());
    let config =
        format!("{}\nregistry: {{ open: true }}\nalerts: {{ health: {{ url: \"{url}\" }} }}\n", gateway::CONFIG);
    let gateway = Gateway::with(text).config(config).start();
    let call = |method: &str, address: &str| {
        let body = if method == "PUT" { json!({ "address": address, "ttl": "1h" }).to_string() } else { String::new() };
        let path = format!("/admin/registry/backend/{}", address.replace(':', "-"));
        let fields = [("content-type", "application/json")];
        http1::try_request(gateway.admin(), method, &path, &fields, body).unwrap().status
    };
    let known = |count: usize| {
        eventually("it is taken in", || {
            let endpoints = crate::resilience::upstream(&gateway)["endpoints"].as_array().unwrap().len();
            (endpoints == count).then_some(())
        });
    };
    for _ in 0..5 {
        assert_eq!(call("PUT", "127.0.0.1:2"), 201);
        known(2);
        assert_eq!(call("DELETE", "127.0.0.1:2"), 204);
        known(1);
    }
    assert_eq!(call("PUT", "127.0.0.1:3"), 201);
    known(2);
    let told = eventually("all of it is told", || {
        let told: Vec<Value> = alerts(&receiver).into_iter().map(|it| it.1).collect();
        let sum = |key: &str| told.iter().map(|it| it[key].as_u64().unwrap()).sum::<u64>();
        (!told.is_empty() && (sum("additions"), sum("removals")) == (6, 5)).then_some(told)
    });
    // A machine that is slow may take two such times for it; what was there from the beginning is no news.
    assert!(told.len() <= 3, "{told:?}");
    assert!(told.iter().all(|it| it["event"] == "endpoints_changed" && it["upstream"] == "backend"), "{told:?}");
    let named = |key: &str| told.iter().flat_map(|it| it[key].as_array().unwrap()).cloned().collect::<Vec<_>>();
    assert!(named("added").contains(&json!("127.0.0.1:2")) && named("added").contains(&json!("127.0.0.1:3")));
    assert!(!named("added").contains(&json!("127.0.0.1:1")), "{told:?}");
    assert!(named("removed").iter().all(|it| it == "127.0.0.1:2"), "{told:?}");
}

#[test]
fn r6_3_what_the_receiver_does_not_take_now_is_sent_again_as_the_same_alert() {
    let asked = AtomicUsize::new(0);
    let receiver = RawUpstream::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Script::answer(503, &[("retry-after", "1")], ""),
        1 => Script::new().read_body().reset(),
        _ => Script::new().read_body().send(TAKEN),
    });
    let backend = Backend::start("one");
    let gateway = with_webhook(routes(&[backend.upstream.address()], CHECKED), &receiver, "").start();
    eventually("it is delivered", || (count(&gateway, "delivered") == 1.0).then_some(()));
    assert_eq!((count(&gateway, "retried"), count(&gateway, "lost")), (2.0, 0.0));
    let told = alerts(&receiver);
    assert_eq!(told.len(), 3);
    let keys: Vec<&str> =
        told.iter().map(|it| it.0.split("idempotency-key: ").nth(1).unwrap().lines().next().unwrap()).collect();
    assert!(keys[0].len() > 16 && keys.iter().all(|it| *it == keys[0]), "{keys:?}");
    assert!(told.iter().all(|it| it.1 == told[0].1));
}

#[test]
fn r6_3_what_the_receiver_finds_wrong_is_given_up_at_once_and_the_next_goes_on() {
    let asked = AtomicUsize::new(0);
    let receiver = RawUpstream::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Script::answer(400, &[], "no"),
        _ => Script::new().read_body().send(TAKEN),
    });
    let backend = Backend::start("one");
    let gateway = with_webhook(routes(&[backend.upstream.address()], CHECKED), &receiver, "").start();
    let event = gateway.wait_for_event("webhook_failed", |_| true);
    assert_eq!((&event["webhook"], &event["alert"]), (&json!("health"), &json!("endpoint_healthy")));
    assert_eq!(event["reason"], "it answered with status 400");
    assert_eq!((count(&gateway, "lost"), count(&gateway, "retried")), (1.0, 0.0));
    backend.fail(true);
    eventually("the next is delivered", || (count(&gateway, "delivered") == 1.0).then_some(()));
    assert_eq!(alerts(&receiver)[1].1["event"], "endpoint_unhealthy");
    assert!(gateway.log_lines().iter().all(|it| !it.text.contains("canary-path")), "the URL may be a secret");
}

#[test]
fn r6_3_a_receiver_that_never_answers_costs_nobody_anything_and_what_waits_is_bounded() {
    let receiver = RawUpstream::start(|_| Script::new().read_body().await_close());
    let good = Backend::start("good");
    // Each is found dead by its first check: more changes than may wait.
    let dead = |from: u8| -> String {
        let all = (0..700_u16).map(|it| format!("\"127.{from}.{}.{}:9\"", it / 250 + 1, it % 250 + 1));
        all.collect::<Vec<_>>().join(", ")
    };
    let text = format!(
        "version: 1
upstreams:
  good: {{ discovery: {{ static: [\"{}\"] }} }}
  one: {{ discovery: {{ static: [{}] }}, health: {{ tcp: true, every: 1h }} }}
  two: {{ discovery: {{ static: [{}] }}, health: {{ tcp: true, every: 1h }} }}
routes:
  - {{ name: good, match: {{ path: /good }}, upstream: good }}
  - {{ name: one, match: {{ path: /one }}, upstream: one }}
  - {{ name: two, match: {{ path: /two }}, upstream: two }}
",
        good.upstream.address(),
        dead(71),
        dead(72)
    );
    let gateway = with_webhook(text, &receiver, "").start();
    let changed = |upstream: &str| {
        let series = format!("moongate_health_changes_total{{event=\"endpoint_unhealthy\",upstream=\"{upstream}\"}}");
        figure(&gateway, &series).unwrap_or(0.0)
    };
    eventually("all are found dead", || (changed("one") + changed("two") == 1400.0).then_some(()));
    let waiting = figure(&gateway, "moongate_alerts_waiting{webhook=\"health\"}").unwrap();
    assert!(waiting <= 1025.0, "{waiting}: those that wait, and the one under way");
    let limits = gateway.admin_get("/admin/limits").json();
    assert_eq!(limits["alerts"]["waiting_max"], 1024);
    assert!(limits["alerts"]["waiting"]["health"].as_u64().unwrap() >= 1000);
    assert!(count(&gateway, "lost") >= 1400.0 - 1026.0, "{}", count(&gateway, "lost"));
    assert_eq!(gateway.get("/good").text(), "good");
}

#[test]
fn a_webhook_that_is_no_url_is_a_fault() {
    let config = format!("{}\nalerts: {{ health: {{ url: \"pager\" }} }}\n", gateway::CONFIG);
    let refused = Gateway::with("{ version: 1, routes: [] }").config(config).start_refused();
    assert!(refused.stderr.contains("not a URL"), "{}", refused.stderr);
}

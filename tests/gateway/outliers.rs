//! Endpoints that stand out by what they do: by failures in a row, by their share, by latency. They are left out, for
//! longer each time, and never more than may be.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::resilience::{Backend, gateway, upstream};
use crate::support::*;

/// Fails three requests of four, but never four in a row.
fn flaky(name: &'static str) -> RawUpstream {
    let asked = AtomicUsize::new(0);
    RawUpstream::start(move |_| {
        let status = if asked.fetch_add(1, Ordering::SeqCst) % 4 == 3 { 200 } else { 500 };
        Script::answer(status, &[], name)
    })
}

fn slow(name: &'static str) -> RawUpstream {
    RawUpstream::start(move |_| {
        Script::new().pause(Duration::from_millis(150)).send(upstream::answer_bytes(200, &[], name.as_bytes()))
    })
}

fn ejected(gateway: &Gateway) -> Vec<String> {
    let upstream = upstream(gateway);
    let out = upstream["endpoints"].as_array().unwrap().iter().filter(|it| it["ejected"] == true);
    out.map(|it| it["address"].as_str().unwrap().to_owned()).collect()
}

/// Asks until an endpoint is left out, and returns the line of the log that says so.
#[track_caller]
fn until_ejected(gateway: &Gateway) -> Value {
    eventually("an endpoint is left out", || {
        gateway.get("/");
        gateway.events("endpoint_ejected").into_iter().next()
    })
}

#[test]
fn r6_3_an_endpoint_that_fails_too_large_a_share_is_left_out_though_never_in_a_row() {
    let (bad, good) = (flaky("bad"), Backend::start("good"));
    let settings =
        "    outliers: { consecutive_5xx: 5, error_rate: { over: 50%, requests: 8, within: 500ms }, eject_for: 1h }";
    let gateway = gateway(settings, &[bad.address(), good.upstream.address()]);
    let event = until_ejected(&gateway);
    assert_eq!(event["endpoint"], bad.address().to_string());
    let reason = event["reason"].as_str().unwrap();
    assert!(reason.starts_with("it failed ") && reason.ends_with(" requests within 500ms"), "{reason}");
    assert_eq!(event["time"], "1h");
    assert_eq!(ejected(&gateway), [bad.address().to_string()]);
    let shown = upstream(&gateway)["endpoints"][0]["ejection"].clone();
    assert_eq!(shown["reason"], reason);
    // Both are RFC 3339; an hour later, minutes and seconds are the same.
    let (at, until) = (shown["at"].as_str().unwrap(), shown["until"].as_str().unwrap());
    assert!(until > at && until[13..] == at[13..], "{shown}");
    for _ in 0..10 {
        assert_eq!(gateway.get("/").text(), "good");
    }
    // Without `outliers` nothing is held against it any more.
    gateway.write_routes(&format!(
        "version: 1
upstreams: {{ backend: {{ discovery: {{ static: [\"{}\", \"{}\"] }} }} }}
routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: backend }}]
",
        bad.address(),
        good.upstream.address()
    ));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(ejected(&gateway).len(), 0);
    eventually("it gets requests", || (gateway.get("/").text() == "bad").then_some(()));
    let series = "moongate_health_changes_total{event=\"endpoint_ejected\",upstream=\"backend\"}";
    assert_eq!(figure(&gateway, series), Some(1.0));
}

#[test]
fn r6_3_an_endpoint_that_is_much_slower_than_its_peers_is_left_out() {
    let (slow, one, two) = (slow("slow"), Backend::start("one"), Backend::start("two"));
    let settings = "    outliers: { latency: { factor: 3, requests: 4, within: 1s, at_least: 20ms }, eject_for: 1h, max_ejected: 40% }";
    let gateway = gateway(settings, &[slow.address(), one.upstream.address(), two.upstream.address()]);
    let event = until_ejected(&gateway);
    assert_eq!(event["endpoint"], slow.address().to_string());
    let reason = event["reason"].as_str().unwrap();
    assert!(reason.contains("times those of its peers"), "{reason}");
    let answers: Vec<String> = (0..10).map(|_| gateway.get("/").text()).collect();
    assert!(!answers.contains(&"slow".to_owned()), "{answers:?}");
}

#[test]
fn where_all_stand_out_no_more_are_left_out_than_may_be() {
    let backends = ["a", "b", "c"].map(flaky);
    let addresses = backends.each_ref().map(RawUpstream::address);
    let settings =
        "    outliers: { error_rate: { over: 20%, requests: 4, within: 200ms }, eject_for: 1h, max_ejected: 67% }";
    let gateway = gateway(settings, &addresses);
    eventually("two are left out", || {
        gateway.get("/");
        (ejected(&gateway).len() == 2).then_some(())
    });
    // The third goes on serving, over more windows than it takes to be judged again.
    let before = gateway.events("endpoint_ejected").len();
    for _ in 0..60 {
        gateway.get("/");
        assert_eq!(ejected(&gateway).len(), 2);
    }
    assert_eq!(gateway.events("endpoint_ejected").len(), before);
}

#[test]
fn who_fails_again_as_soon_as_it_is_let_in_is_left_out_for_longer() {
    let (bad, good) = (Backend::start("bad"), Backend::start("good"));
    bad.fail(true);
    let settings = "    outliers: { consecutive_5xx: 2, eject_for: 300ms }";
    let gateway = gateway(settings, &[bad.upstream.address(), good.upstream.address()]);
    let times = eventually("it is left out for longer and longer", || {
        gateway.get("/");
        let times: Vec<String> =
            gateway.events("endpoint_ejected").iter().map(|it| it["time"].as_str().unwrap().to_owned()).collect();
        times.contains(&"900ms".to_owned()).then_some(times)
    });
    assert_eq!(times[..2], ["300ms", "600ms"]);
    // It is told that it is let in, even if nobody asks for anything any more.
    bad.fail(false);
    eventually("all are told", || {
        (gateway.events("endpoint_readmitted").len() == gateway.events("endpoint_ejected").len()).then_some(())
    });
    assert_eq!(ejected(&gateway).len(), 0);
}

#[test]
fn outliers_that_make_no_sense_are_faults() {
    for (settings, message) in [
        ("error_rate: { over: 100% }", "no share is over 100%"),
        ("error_rate: { requests: 0 }", "requests"),
        ("error_rate: { within: 1ms }", "1ms is too short"),
        ("latency: { factor: 1 }", "is not slower"),
        ("latency: { within: 0s }", "is too short"),
        ("latency: { facter: 3 }", "factor"),
    ] {
        let text = format!(
            "version: 1
upstreams: {{ backend: {{ discovery: {{ static: [\"127.0.0.1:1\"] }}, outliers: {{ {settings} }} }} }}
routes: [{{ name: all, match: {{ path: \"/\" }}, upstream: backend }}]
"
        );
        let refused = Gateway::with(text).start_refused();
        assert!(refused.stderr.contains(message), "{settings}: {}", refused.stderr);
    }
}

//! The maintenance switch.

use crate::support::gateway::CONFIG;
use crate::support::http1::request;
use crate::support::{Gateway, RawUpstream, Redis, Response, Script, eventually, figure};

fn routes(upstream: &RawUpstream) -> String {
    format!(
        "version: 1\nupstreams: {{ app: {{ discovery: {{ static: [\"{}\"] }} }} }}\nroutes:\n  \
         - {{ name: app, match: {{ path: \"/{{*rest}}\" }}, upstream: app, cors: {{ origins: [\"https://app.test\"] }} }}\n  \
         - {{ name: status, match: {{ path: /status }}, upstream: app, maintenance: ignore }}\n",
        upstream.address()
    )
}

fn put(gateway: &Gateway, body: &str) -> Response {
    request(gateway.admin(), "PUT", "/admin/maintenance", &[("content-type", "application/json")], body)
}

fn delete(gateway: &Gateway) -> u16 {
    request(gateway.admin(), "DELETE", "/admin/maintenance", &[], "").status
}

#[test]
fn one_call_turns_clients_away_and_one_lets_them_in_again() {
    let upstream = RawUpstream::start(|_| Script::ok("here"));
    let gateway = Gateway::start(routes(&upstream));
    let shown = || gateway.admin_get("/admin/maintenance").json()["maintenance"].clone();
    assert!(shown().is_null());
    assert_eq!(figure(&gateway, "moongate_maintenance"), Some(0.0));
    assert_eq!(delete(&gateway), 204, "it is off, as it shall be");
    let begun = put(&gateway, r#"{"message": "back at noon"}"#);
    assert_eq!((begun.status, begun.json()["maintenance"]["message"].as_str()), (200, Some("back at noon")));
    let refused = gateway.request("GET", "/x", &[("origin", "https://app.test")], "");
    let error = &refused.json()["error"];
    assert_eq!((refused.status, error["code"].as_str()), (503, Some("maintenance")));
    assert_eq!((error["message"].as_str(), refused.header("retry-after")), (Some("back at noon"), Some("60")));
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://app.test"));
    assert_eq!(gateway.get("/status").text(), "here");
    assert_eq!(gateway.get("/api/health").status, 200, "who probes it goes on sending clients here");
    assert_eq!(shown()["message"], "back at noon");
    assert_eq!(gateway.admin_get("/admin/config").json()["maintenance"]["message"], "back at noon");
    assert_eq!(figure(&gateway, "moongate_maintenance"), Some(1.0));
    gateway.wait_for_event("maintenance_began", |it| it["message"] == "back at noon");
    // It can be said anew, and with a time.
    put(&gateway, r#"{"message": "back at one", "retry_after": "10m"}"#);
    let refused = gateway.get("/x");
    assert_eq!(
        (refused.header("retry-after"), refused.json()["error"]["message"].as_str()),
        (Some("600"), Some("back at one"))
    );
    assert_eq!(delete(&gateway), 204);
    assert_eq!(gateway.get("/x").text(), "here");
    gateway.wait_for_event("maintenance_ended", |_| true);
    let routes = gateway.admin_get("/admin/routes").json();
    let status = routes["routes"].as_array().unwrap().iter().find(|it| it["name"] == "status").unwrap();
    assert_eq!(status["maintenance"], "ignore");
}

#[test]
fn a_notice_that_can_not_be_shown_is_refused() {
    let upstream = RawUpstream::start(|_| Script::ok("here"));
    let gateway = Gateway::start(routes(&upstream));
    let long = format!("{{\"message\": \"{}\"}}", "x".repeat(501));
    for body in [
        "nonsense",
        "{\"massage\": \"x\"}",
        "{\"message\": \"\"}",
        "{\"message\": \"a\\nb\"}",
        "{\"retry_after\": \"0s\"}",
        &long,
    ] {
        let refused = put(&gateway, body);
        assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (400, Some("invalid_body")), "{body}");
    }
    assert_eq!(gateway.get("/x").status, 200);
    assert_eq!(put(&gateway, "").status, 200);
    assert_eq!(gateway.get("/x").status, 503);
}

/// All gateways on one Redis are in it together, also one that begins meanwhile; one that can't tell the others changes nothing.
#[test]
fn gateways_that_share_their_state_share_the_switch() {
    let mut redis = Redis::start();
    let upstream = RawUpstream::start(|_| Script::ok("here"));
    let config = format!("{CONFIG}state: {{ redis: {{ url: \"{}\" }} }}\n", redis.url());
    let start = || Gateway::with(routes(&upstream)).config(&*config).start();
    let (one, two) = (start(), start());
    assert_eq!(put(&one, r#"{"message": "moved"}"#).status, 200);
    eventually("the other one hears of it", || (two.get("/x").status == 503).then_some(()));
    drop(one);
    let three = start();
    assert_eq!(three.get("/x").json()["error"]["message"], "moved", "a new one knows from its first request on");
    assert_eq!(delete(&three), 204);
    eventually("it is over everywhere", || (two.get("/x").status == 200).then_some(()));
    redis.stop();
    eventually("it can't be told", || (put(&two, "").json()["error"]["code"] == "state_unavailable").then_some(()));
    assert_eq!(two.get("/x").status, 200);
}

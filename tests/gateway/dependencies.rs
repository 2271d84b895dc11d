//! R6.5: an upstream's health is no better than that of those it depends on.

use serde_json::{Value, json};

use crate::resilience::Backend;
use crate::support::*;

/// `stories` depend on `players`, and those on `narratives`.
struct House {
    narratives: Backend,
    players: Backend,
    stories: Backend,
}

impl House {
    fn start() -> Self {
        let [narratives, players, stories] = ["narratives", "players", "stories"].map(Backend::start);
        Self { narratives, players, stories }
    }

    fn routes(&self, narratives: &str, players: &str, stories: &str) -> String {
        let upstream = |name: &str, backend: &Backend, settings: &str| {
            let address = backend.upstream.address();
            format!("  {name}: {{ discovery: {{ static: [\"{address}\"] }}, {settings} }}\n")
        };
        let route = |name: &str| format!("  - {{ name: {name}, match: {{ path: \"/{name}\" }}, upstream: {name} }}\n");
        format!(
            "version: 1\nupstreams:\n{}{}{}routes:\n{}{}{}",
            upstream("narratives", &self.narratives, narratives),
            upstream("players", &self.players, players),
            upstream("stories", &self.stories, stories),
            route("narratives"),
            route("players"),
            route("stories")
        )
    }
}

const CHECKED: &str = "health: { http: /health, every: 200ms, timeout: 190ms, fail_after: 1 }";

fn shown(gateway: &Gateway, name: &str) -> Value {
    let page: Value = gateway.admin_get("/admin/upstreams").json();
    page["upstreams"].as_array().unwrap().iter().find(|it| it["name"] == name).unwrap().clone()
}

/// The dependency that a request was refused for.
fn refused_for(gateway: &Gateway, path: &str) -> Option<String> {
    let answer = gateway.get(path);
    if answer.status != 503 {
        return None;
    }
    assert_eq!(answer.json()["error"]["code"], "dependency_unavailable");
    assert!(answer.header("retry-after").is_some());
    Some(answer.json()["error"]["details"]["dependency"].as_str().unwrap().to_owned())
}

fn gauge(gateway: &Gateway, name: &str) -> Option<f64> {
    figure(gateway, &format!("moongate_upstream_dependencies_up{{upstream=\"{name}\"}}"))
}

#[test]
fn r6_5_health_cascades_to_those_that_depend_on_it_and_to_theirs() {
    let house = House::start();
    let gateway = Gateway::start(house.routes(CHECKED, "depends_on: [narratives]", "depends_on: [players]"));
    gateway.wait_for_event("endpoint_healthy", |it| it["upstream"] == "narratives");
    assert_eq!([gateway.get("/players").text(), gateway.get("/stories").text()], ["players", "stories"]);
    assert_eq!(gateway.admin_get("/api/v1/health/ready").json(), json!({ "status": "ready" }));
    assert_eq!((gauge(&gateway, "players"), gauge(&gateway, "narratives")), (Some(1.0), None));

    house.narratives.fail(true);
    // It is told before anybody asks.
    for upstream in ["players", "stories"] {
        let event = gateway.wait_for_event("dependency_down", |it| it["upstream"] == upstream);
        assert_eq!(event["dependency"], "narratives", "the cause, and not what depends on it");
        assert_eq!(event["reason"], "no endpoint of `narratives` gets requests");
        assert_eq!(gauge(&gateway, upstream), Some(0.0));
        let series = format!("moongate_health_changes_total{{event=\"dependency_down\",upstream=\"{upstream}\"}}");
        assert_eq!(figure(&gateway, &series), Some(1.0));
    }
    let before = (house.players.asked(), house.stories.asked());
    for path in ["/players", "/stories"] {
        assert_eq!(refused_for(&gateway, path).as_deref(), Some("narratives"));
    }
    assert_eq!((house.players.asked(), house.stories.asked()), before, "nothing is sent in vain");
    let players = shown(&gateway, "players");
    assert_eq!(players["depends_on"], json!([{ "upstream": "narratives", "available": false }]));
    assert_eq!((&players["blocked_by"], &players["eligible"]), (&json!("narratives"), &json!(1)));
    let both = json!([{ "upstream": "players", "available": true }, { "upstream": "narratives", "available": false }]);
    assert_eq!(shown(&gateway, "stories")["depends_on"], both);
    // The gateway stays: others can be served, and all gateways would go at once.
    let ready = gateway.admin_get("/api/v1/health/ready");
    assert_eq!((ready.status, &ready.json()["upstreams_down"]), (200, &json!(3)));

    house.narratives.fail(false);
    for upstream in ["players", "stories"] {
        gateway.wait_for_event("dependency_up", |it| it["upstream"] == upstream);
    }
    assert_eq!([gateway.get("/players").text(), gateway.get("/stories").text()], ["players", "stories"]);
    assert_eq!(shown(&gateway, "players")["blocked_by"], Value::Null);
}

#[test]
fn r6_5_an_open_breaker_of_a_dependency_counts_until_it_waits_for_its_probe() {
    let house = House::start();
    house.narratives.fail(true);
    let breaker = "breaker: { open_after: 2, retry_after: 2s }";
    let gateway = Gateway::start(house.routes(breaker, "depends_on: [narratives]", "depends_on: []"));
    assert_eq!(gateway.get("/players").text(), "players", "it has not failed yet");
    (0..2).for_each(|_| assert_eq!(gateway.get("/narratives").text(), "narratives"));
    let refused = gateway.get("/players");
    assert_eq!(refused.json()["error"]["details"]["dependency"], "narratives");
    let event = gateway.wait_for_event("dependency_down", |_| true);
    assert_eq!(event["reason"], "the breaker of `narratives` is open");
    let line = gateway.access_log_for(refused.header("x-request-id").unwrap());
    assert_eq!(line["cause"], "`narratives` is down, which it depends on");
    // Nobody asks it any more, so nobody would find out that it works again: its probe may come through others.
    eventually("it is asked again", || (gateway.get("/players").status == 200).then_some(()));
    gateway.wait_for_event("dependency_up", |_| true);
}

#[test]
fn r6_5_a_reload_changes_what_counts() {
    let house = House::start();
    house.narratives.fail(true);
    let gateway = Gateway::start(house.routes(CHECKED, "depends_on: [narratives]", "depends_on: []"));
    gateway.wait_for_event("dependency_down", |it| it["upstream"] == "players");
    gateway.write_routes(&house.routes(CHECKED, "depends_on: []", "depends_on: [narratives]"));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(gateway.get("/players").text(), "players");
    assert_eq!(refused_for(&gateway, "/stories").as_deref(), Some("narratives"));
    assert_eq!((gauge(&gateway, "players"), gauge(&gateway, "stories")), (None, Some(0.0)));
    // An upstream that did not change looks at what its dependency has become.
    let other = Backend::start("other");
    let moved = House { narratives: other, players: house.players, stories: house.stories };
    gateway.write_routes(&moved.routes(CHECKED, "depends_on: []", "depends_on: [narratives]"));
    assert_eq!(gateway.reload().status, 200);
    eventually("it is there again", || (gateway.get("/stories").status == 200).then_some(()));
}

#[test]
fn r6_5_circles_and_names_that_are_none_are_faults() {
    let house = House::start();
    for (players, stories, message) in [
        ("depends_on: [stories]", "depends_on: [players]", "in a circle: players → stories → players"),
        ("depends_on: [players]", "depends_on: []", "in a circle: players → players"),
        ("depends_on: [naratives]", "depends_on: []", "did you mean `narratives`?"),
    ] {
        let refused = Gateway::with(house.routes(CHECKED, players, stories)).start_refused();
        assert!(refused.stderr.contains(message), "{}", refused.stderr);
    }
    let local = "version: 1
upstreams: { echo: { local: echo, depends_on: [other] }, other: { local: echo } }
routes: [{ name: all, match: { path: / }, upstream: echo }]
";
    let refused = Gateway::with(local).start_refused();
    assert!(refused.stderr.contains("a local service has no `depends_on`"), "{}", refused.stderr);
}

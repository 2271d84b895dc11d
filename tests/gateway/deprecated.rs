//! Routes on their way out: what clients are told, and who still calls.

use crate::accounts::moongate;
use crate::exchange::in_front_of;
use crate::support::tokens::*;
use crate::support::*;

const CONFIG: &str = "
listeners: { public: [{ address: \"127.0.0.1:0\" }], admin: { address: \"127.0.0.1:0\" } }
tokens: { issuer: moongate, audience: [tta], hs256_secret: \"${PROXY_JWT_SECRET}\" }
store: { sqlite: { path: moongate.db } }
";

#[test]
fn rfc_9745_and_rfc_8594_clients_are_told_in_every_response() {
    let upstream = RawUpstream::start(|it| match it.target().as_str() {
        "/missing" => Script::answer(404, &[("deprecation", "@1"), ("link", "</a>; rel=next")], "no"),
        _ => Script::ok("yes"),
    });
    let gateway = in_front_of(
        &upstream,
        "deprecated: { since: 2026-01-01, sunset: \"2099-01-01T12:00:00Z\", link: \"https://docs.example/v2\" }",
    );
    for (path, status) in [("/", 200), ("/missing", 404)] {
        let answer = gateway.get(path);
        assert_eq!(answer.status, status);
        assert_eq!(answer.headers_named("deprecation"), ["@1767225600"], "the operator's word is the one");
        assert_eq!(answer.header("sunset"), Some("Thu, 01 Jan 2099 12:00:00 GMT"));
        let links = answer.headers_named("link");
        assert!(links.contains(&"<https://docs.example/v2>; rel=\"deprecation\""), "{links:?}");
        assert!(links.contains(&"<https://docs.example/v2>; rel=\"sunset\""), "{links:?}");
        assert!(status == 200 || links.contains(&"</a>; rel=next"), "{links:?}");
    }
    assert_eq!(
        figure(&gateway, "moongate_deprecated_requests_total{principal=\"\",route=\"all\",tenant=\"\"}"),
        Some(2.0)
    );
}

#[test]
fn r2_4_it_is_counted_and_told_who_still_calls_and_the_count_outlives_a_reload() {
    let routes = |path: &str, more: &str| {
        format!(
            "version: 1
policies: {{ old: {{ deprecated: {{ since: 2020-01-01, sunset: 2021-01-01 }} }} }}
routes:
  - {{ name: old, match: {{ path: {path} }}, {more} auth: {{ jwt: {{}} }}, respond: {{ body: x }} }}
"
        )
    };
    let gateway = Gateway::with(routes("/old", "use: [old],")).config(CONFIG).env("PROXY_JWT_SECRET", SECRET).start();
    let ask = |path: &str, name: &str| {
        let token = format!("Bearer {}", token(name, &["user"]));
        gateway.request("GET", path, &[("authorization", &*token)], b"")
    };
    let count = |name: &str| {
        let labels = format!("principal=\"{name}\",route=\"old\",tenant=\"north\"");
        figure(&gateway, &format!("moongate_deprecated_requests_total{{{labels}}}"))
    };
    assert_eq!(ask("/old", "ada").status, 200, "after the sunset it is served all the same");
    assert_eq!(gateway.get("/old").status, 401);
    assert_eq!([ask("/old", "ada").status, ask("/old", "ben").status], [200, 200]);
    assert_eq!([count("ada"), count("ben")], [Some(2.0), Some(1.0)]);
    let told = gateway.wait_for_event("deprecated_call", |it| it["principal"] == "ben");
    assert_eq!((&told["route"], &told["after_sunset"]), (&"old".into(), &true.into()));
    let of_ada = gateway.events("deprecated_call").into_iter().filter(|it| it["principal"] == "ada").count();
    assert_eq!(of_ada, 1, "once an hour");
    gateway.write_routes(&routes("/older", "use: [old],"));
    assert_eq!(gateway.reload().status, 200);
    ask("/older", "ada");
    assert_eq!(count("ada"), Some(3.0));
    // Deprecated no longer: the series go, once nobody holds the old configuration.
    gateway.write_routes(&routes("/old", ""));
    assert_eq!(gateway.reload().status, 200);
    eventually("its series are gone", || count("ada").is_none().then_some(()));
}

#[test]
fn r2_4_dates_that_make_no_sense_are_faults_and_a_past_sunset_is_a_warning() {
    let folder = Folder::new();
    folder.write("gateway.yaml", CONFIG);
    let arguments = ["check", "--config", "gateway.yaml", "--routes", "routes.yaml"];
    let check = |settings: &str| {
        folder.write(
            "routes.yaml",
            format!(
                "version: 1\nroutes: [{{ name: a, match: {{ path: /a }}, respond: {{ body: x }}, deprecated: {settings} }}]\n"
            ),
        );
        moongate(&folder, &arguments, "", &[("PROXY_JWT_SECRET", SECRET)])
    };
    for (settings, said) in [
        ("{ since: 2026-02-30 }", "`2026-02-30` is not a date"),
        ("{ since: soon }", "`soon` is not a date"),
        ("{ since: 2026-01-01, sunset: 2025-01-01 }", "the sunset comes before the route is deprecated"),
        ("{ since: 2026-01-01, link: docs/v2 }", "not the address of a page"),
        ("{ since: 2026-01-01, link: \"javascript:alert(1)\" }", "not the address of a page"),
        ("{ sunset: 2026-01-01 }", "since"),
    ] {
        let run = check(settings);
        assert!(run.code == 1 && run.stderr.contains(said), "{settings}: {}\n{}", run.stdout, run.stderr);
    }
    let run = check("{ since: 2020-01-01, sunset: 2021-01-01 }");
    assert!(
        run.code == 0 && run.stdout.contains("the sunset has passed, and route `a` is still served"),
        "{}",
        run.stdout
    );
}

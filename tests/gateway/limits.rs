//! Rate limits, each gateway for itself: who is counted, what answers say, what a reload keeps, and what
//! adaptive limits do. Those that gateways share are in `limits_shared`.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

use crate::support::gateway::CONFIG;
use crate::support::{Demo, Gateway, GatewayBuilder, RawClient, Response, eventually, figure, let_pass};

/// Whoever connects is a proxy that tells whom it speaks for.
pub fn trusting(routes: impl Into<String>) -> GatewayBuilder {
    Gateway::with(routes).config(format!("{CONFIG}trusted_proxies: [\"127.0.0.0/8\"]\n"))
}

/// One route `/` that answers by itself, with these lines as its settings.
pub fn route(settings: &str) -> String {
    format!(
        "version: 1\nroutes:\n  - name: r\n    match: {{ path: /, methods: [GET] }}\n    respond: {{ body: ok }}\n    {settings}\n"
    )
}

pub fn ask_from(gateway: &Gateway, ip: &str) -> Response {
    gateway.request("GET", "/", &[("X-Forwarded-For", ip)], "")
}

/// The figures of the `X-RateLimit` fields: limit, remaining, reset.
#[track_caller]
fn told(answer: &Response) -> (u64, u64, u64) {
    let of = |name: &str| {
        let value = answer.header(name).unwrap_or_else(|| panic!("{name} is missing: {answer:?}"));
        value.parse().unwrap()
    };
    (of("x-ratelimit-limit"), of("x-ratelimit-remaining"), of("x-ratelimit-reset"))
}

#[track_caller]
fn refused(answer: &Response) -> u64 {
    assert_eq!(answer.status, 429, "{}", answer.text());
    answer.header("retry-after").expect("retry-after").parse().unwrap()
}

#[test]
fn s2s_33_sixty_a_minute_per_ip() {
    let gateway = trusting(route("rate_limits: [{ per: ip, requests: 60, every: 1m }]")).start();
    let begin = Instant::now();
    let passed = (0..1_000).take_while(|_| ask_from(&gateway, "192.0.2.1").status == 200).count();
    let came_back = begin.elapsed().as_secs() as usize;
    assert!((60..=60 + came_back).contains(&passed), "{passed} passed, {came_back} came back");
    // Somebody else has an allowance of their own; a network of IPv6 has one.
    assert_eq!(ask_from(&gateway, "192.0.2.2").status, 200);
    let (_, first, _) = told(&ask_from(&gateway, "2001:db8:0:1::1"));
    let (_, same, _) = told(&ask_from(&gateway, "2001:db8:0:1:ffff::9"));
    let (_, other, _) = told(&ask_from(&gateway, "2001:db8:0:2::1"));
    assert_eq!((first, same, other), (59, 58, 59));
}

#[test]
fn a_refusal_says_in_all_its_fields_when_the_next_request_passes() {
    let limits = "rate_limits: [{ per: ip, requests: 2, every: 1h }, { per: route, requests: 1, every: 1h, burst: 2 }]";
    let gateway = Gateway::start(route(limits));
    let more = |answer: &Response| {
        let field = answer.header("ratelimit").unwrap().to_owned();
        field.split(";t=").nth(1).unwrap().parse::<u64>().unwrap()
    };
    let answers = [(); 3].map(|()| gateway.get("/"));
    assert_eq!(answers.each_ref().map(|it| it.status), [200, 200, 429]);
    let wait = refused(&answers[2]);
    // The route's allowance is the one that comes back last: it speaks, and everything says the same.
    assert!((3_590..=3_600).contains(&wait), "{wait}");
    assert!(answers[2].header("ratelimit").unwrap().starts_with("\"route\";r=0;t="), "{:?}", answers[2]);
    assert_eq!((more(&answers[2]), answers[2].json()["error"]["details"]["retry_after"].as_u64()), (wait, Some(wait)));
    let (_, remaining, reset) = told(&answers[1]);
    assert!(remaining == 0 && (3_590..=3_600).contains(&more(&answers[1])) && reset > 7_000, "{:?}", answers[1]);
}

#[test]
fn s2s_35_r5_3_retry_after() {
    let gateway = Gateway::start(route("rate_limits: [{ per: ip, requests: 2, every: 1h }]"));
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(gateway.get("/").status, 200);
    let answer = gateway.get("/");
    let wait = refused(&answer);
    assert!((1_790..=1_800).contains(&wait), "{wait}");
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "rate_limited");
    assert_eq!(error["details"], serde_json::json!({ "limit": 2, "retry_after": wait }));
    assert_eq!(error["request_id"].as_str(), answer.header("x-request-id"));
    assert!(error["suggested_action"].as_str().unwrap().contains("Retry-After"));
    assert_eq!(figure(&gateway, "moongate_rate_limited_total{limit=\"route/r/ip\"}"), Some(1.0));
    assert_eq!(figure(&gateway, "moongate_refusals_total{code=\"rate_limited\"}"), Some(1.0));
}

#[test]
fn s2s_10_headers_are_on_every_answer() {
    let demo = Demo::start("one");
    let gateway = Gateway::start(format!(
        "version: 1\ndefaults: {{ rate_limits: [{{ per: ip, requests: 4, every: 1h }}] }}\n\
         upstreams:\n  demo: {{ discovery: {{ static: [\"{}\"] }} }}\n\
         routes:\n  - {{ name: demo, match: {{ path: '/{{*rest}}' }}, upstream: demo, body_limit: 10B }}\n",
        demo.address()
    ));
    let first = gateway.get("/echo");
    let (limit, remaining, reset) = told(&first);
    assert_eq!((limit, remaining), (4, 3));
    assert!((899..=900).contains(&reset), "{reset}");
    assert_eq!(first.header("ratelimit").unwrap(), format!("\"ip\";r=3;t={reset}"));
    assert_eq!(first.header("ratelimit-policy"), Some("\"ip\";q=4;w=3600"));
    // What an upstream failed at, what a later step refuses, and what the limit itself refuses.
    let failed = gateway.get("/status/503");
    assert_eq!((failed.status, told(&failed).1), (503, 2));
    let large = gateway.request("POST", "/echo", &[], "more than ten bytes");
    assert_eq!((large.status, told(&large).1), (413, 1));
    assert_eq!(gateway.get("/echo").status, 200);
    let last = gateway.get("/echo");
    assert_eq!((refused(&last), told(&last).1), (900, 0));
    // What nobody counts says nothing.
    assert_eq!(gateway.get("/api/health").header("x-ratelimit-limit"), None);
}

#[test]
fn decision_3_the_tightest_limit_speaks() {
    let limits =
        "rate_limits: [{ per: ip, requests: 100, every: 1h }, { per: { header: X-Client }, requests: 2, every: 1h }]";
    let gateway = Gateway::start(route(limits));
    let ask = |client: &str| gateway.request("GET", "/", &[("x-client", client)], "");
    let first = ask("a");
    assert_eq!(told(&first).0, 2);
    assert_eq!(told(&first).1, 1);
    assert_eq!(first.header("ratelimit-policy"), Some("\"ip\";q=100;w=3600, \"x-client\";q=2;w=3600"));
    assert_eq!(ask("a").status, 200);
    for _ in 0..50 {
        assert_eq!(told(&ask("a")).0, 2, "the one that refuses speaks");
    }
    // Fifty refusals ate nothing of the other limit: with 96 others it is used up, not earlier.
    let others = (0..98).filter(|number| ask(&format!("b{number}")).status == 200).count();
    assert_eq!(others, 98);
    let last = ask("c");
    assert_eq!((refused(&last), told(&last).0), (36, 100));
    // Which ate nothing of the client's own.
    let text = gateway.admin_get("/admin/limits").json();
    assert_eq!(text["rate_limits"]["limits"][0]["limit"], "route/r/ip");
    assert_eq!(text["rate_limits"]["limits"][0]["refused"], 1);
    assert_eq!(text["rate_limits"]["limits"][1]["refused"], 50);
    assert_eq!(text["rate_limits"]["limits"][1]["keys"], 99, "{text}");
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The `Authorization` of somebody.
fn bearer(subject: &str, tenant: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({ "iss": "moongate", "aud": "tta", "sub": subject, "tenant": tenant, "exp": now + 3600 });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    format!("Bearer {}", encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap())
}

fn asking_for_tokens(limits: &str) -> Gateway {
    let config =
        format!("{CONFIG}trusted_proxies: [\"127.0.0.0/8\"]\ntokens: {{ hs256_secret: \"${{PROXY_JWT_SECRET}}\" }}\n");
    let routes = route(&format!("auth: {{ jwt: {{}} }}\n    rate_limits: {limits}"));
    Gateway::with(routes).config(config).env("PROXY_JWT_SECRET", SECRET).start()
}

fn ask_as(gateway: &Gateway, bearer: &str, ip: &str) -> Response {
    gateway.request("GET", "/", &[("authorization", bearer), ("x-forwarded-for", ip)], "")
}

#[test]
fn r5_1_per_user() {
    let gateway = asking_for_tokens("[{ per: user, requests: 2, every: 1h }, { per: tenant, requests: 3, every: 1h }]");
    let (ada, same, bob) = (bearer("ada", "a"), bearer("ada", "b"), bearer("bob", "a"));
    // Wherever they come from, and with whatever token.
    assert_eq!(ask_as(&gateway, &ada, "192.0.2.1").status, 200);
    assert_eq!(ask_as(&gateway, &bearer("ada", "a"), "192.0.2.2").status, 200);
    assert_eq!(refused(&ask_as(&gateway, &ada, "192.0.2.3")), 1_800);
    // Somebody else of the same name, and somebody else of the same tenant.
    assert_eq!(ask_as(&gateway, &same, "192.0.2.1").status, 200);
    assert_eq!(ask_as(&gateway, &bob, "192.0.2.1").status, 200);
    let full = ask_as(&gateway, &bob, "192.0.2.1");
    assert_eq!((refused(&full), told(&full).0), (1_200, 3), "the tenant's is used up");
    assert_eq!(full.header("ratelimit-policy"), Some("\"user\";q=2;w=3600, \"tenant\";q=3;w=3600"));
}

#[test]
fn guessing_credentials_is_counted_and_a_refused_user_costs_the_address_nothing() {
    let gateway = asking_for_tokens("[{ per: user, requests: 1, every: 1h }, { per: ip, requests: 5, every: 1h }]");
    let ada = bearer("ada", "a");
    assert_eq!(ask_as(&gateway, &ada, "192.0.2.1").status, 200);
    for _ in 0..20 {
        assert_eq!(ask_as(&gateway, &ada, "192.0.2.1").status, 429);
    }
    let guess = || ask_as(&gateway, "Bearer nonsense", "192.0.2.1");
    let answers: Vec<_> = (0..5).map(|_| guess().status).collect();
    assert_eq!(answers, [401, 401, 401, 401, 429]);
    assert_eq!(ask_as(&gateway, &bearer("bob", "a"), "192.0.2.1").status, 429, "not even with the right one");
}

#[test]
fn a_field_that_a_later_step_takes_away_is_given_its_count_back() {
    let limits =
        "[{ per: { header: authorization }, requests: 3, every: 1h }, { per: tenant, requests: 1, every: 1h }]";
    let gateway = asking_for_tokens(limits);
    let (ada, bob) = (bearer("ada", "a"), bearer("bob", "b"));
    assert_eq!(ask_as(&gateway, &ada, "192.0.2.1").status, 200);
    for _ in 0..9 {
        assert_eq!(told(&ask_as(&gateway, &ada, "192.0.2.1")).0, 1, "the tenant's limit refuses, not the field's");
    }
    assert_eq!(ask_as(&gateway, &bob, "192.0.2.1").status, 200);
}

#[test]
fn a_refused_request_waits_for_the_longest() {
    let limits = "rate_limits: [{ per: ip, requests: 1, every: 1m }, { per: route, requests: 1, every: 1h }]";
    let gateway = Gateway::start(route(limits));
    assert_eq!(gateway.get("/").status, 200);
    let wait = refused(&gateway.get("/"));
    assert!(wait > 3_500, "{wait}");
}

#[test]
fn limits_count_where_they_are_written() {
    let gateway = trusting(
        "version: 1\n\
         defaults: { rate_limits: [{ per: ip, requests: 3, every: 1h }] }\n\
         policies: { shared: { rate_limits: [{ per: ip, requests: 2, every: 1h }] } }\n\
         routes:\n\
         - { name: a, match: { path: /a }, respond: {} }\n\
         - { name: b, match: { path: /b }, respond: {} }\n\
         - { name: c, match: { path: /c }, use: [shared], respond: {} }\n\
         - { name: d, match: { path: /d }, use: [shared], respond: {} }\n\
         - { name: own, match: { path: /own }, respond: {}, rate_limits: [{ per: ip, requests: 1, every: 1h }] }\n\
         - { name: free, match: { path: /free }, respond: {}, rate_limits: [{ per: ip, unlimited: true }] }\n",
    )
    .start();
    let asks = |paths: &[&str]| paths.iter().map(|it| gateway.get(it).status).collect::<Vec<_>>();
    assert_eq!(asks(&["/a", "/b", "/a", "/b", "/a"]), [200, 200, 200, 429, 429]);
    assert_eq!(asks(&["/c", "/d", "/c", "/d"]), [200, 200, 429, 429]);
    assert_eq!(asks(&["/own", "/own"]), [200, 429]);
    assert_eq!(asks(&["/free"; 20]), [200; 20]);
    assert_eq!(gateway.get("/free").header("x-ratelimit-limit"), None);
    assert_eq!(asks(&["/api/health"; 5]), [200; 5]);
}

#[test]
fn whoever_leaves_the_field_out_is_counted_by_address() {
    let gateway = trusting(route("rate_limits: [{ per: { header: x-client }, requests: 1, every: 1h }]")).start();
    assert_eq!(ask_from(&gateway, "192.0.2.1").status, 200);
    assert_eq!(ask_from(&gateway, "192.0.2.1").status, 429);
    assert_eq!(ask_from(&gateway, "192.0.2.2").status, 200);
}

#[test]
fn a_preflight_is_not_counted() {
    let gateway = Gateway::start(route(
        "cors: { origins: ['http://a.example'] }\n    rate_limits: [{ per: ip, requests: 1, every: 1h }]",
    ));
    let preflight = [("Origin", "http://a.example"), ("Access-Control-Request-Method", "GET")];
    for _ in 0..5 {
        assert_eq!(gateway.request("OPTIONS", "/", &preflight, "").status, 204);
    }
    let first = gateway.request("GET", "/", &[("Origin", "http://a.example")], "");
    assert_eq!(first.status, 200);
    // The page may read the fields, those of a refusal too.
    let refused = gateway.request("GET", "/", &[("Origin", "http://a.example")], "");
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (429, Some("http://a.example")));
    assert!(refused.header("access-control-expose-headers").unwrap().contains("x-ratelimit-remaining"));
}

#[test]
fn limits_survive_a_reload() {
    let limits = |requests: u32, more: &str| {
        route(&format!("rate_limits: [{{ per: ip, requests: {requests}, every: 1h }}]{more}"))
    };
    let gateway = Gateway::start(limits(2, ""));
    assert_eq!((gateway.get("/").status, gateway.get("/").status), (200, 200));
    gateway.write_routes(&limits(2, "\n    headers: { set: { x-new: '1' } }"));
    assert_eq!(gateway.reload().status, 200);
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.header("x-new")), (429, Some("1")));
    // A larger limit: what came before still counts, and comes back faster.
    gateway.write_routes(&limits(3_600_000, ""));
    assert_eq!(gateway.reload().status, 200);
    eventually("a millisecond passes", || (gateway.get("/").status == 200).then_some(()));
    assert_eq!(figure(&gateway, "moongate_rate_limited_total{limit=\"route/r/ip\"}").unwrap().min(1.0), 1.0);
}

#[test]
fn every_fault_of_a_limit_is_told_with_its_place() {
    let gateway = Gateway::start(route(""));
    gateway.write_routes(&route("rate_limits: [{ per: ip }, { per: ips, requests: 1, every: 1s }, { per: user, requests: 1, every: 1s, burts: 2 }]"));
    let answer = gateway.reload();
    let text = answer.text();
    assert_eq!(answer.status, 422, "{text}");
    let faults = answer.json()["error"]["details"]["faults"].clone();
    let places: Vec<_> =
        faults.as_array().unwrap().iter().map(|it| (&it["line"], &it["column"], &it["path"])).collect();
    let expected = [
        (json!(6), json!(19), json!("/routes/0/rate_limits/0")),
        (json!(6), json!(39), json!("/routes/0/rate_limits/1/per")),
        (json!(6), json!(107), json!("/routes/0/rate_limits/2/burts")),
    ];
    assert_eq!(places, expected.iter().map(|it| (&it.0, &it.1, &it.2)).collect::<Vec<_>>(), "{text}");
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn a_flood_of_addresses_is_bounded() {
    let config = format!("{CONFIG}trusted_proxies: [\"127.0.0.0/8\"]\nstate: {{ memory: {{ keys_max: 1000 }} }}\n");
    let gateway = Gateway::with(route("rate_limits: [{ per: ip, requests: 1, every: 1h }]")).config(config).start();
    assert_eq!(ask_from(&gateway, "198.51.100.1").status, 200);
    let mut client = RawClient::connect(gateway.public());
    for number in 0..4_000_u32 {
        let ip = std::net::Ipv4Addr::from(0x0a00_0000 + number);
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {ip}\r\n\r\n"));
        assert_eq!(client.read_response().status, 200);
    }
    let counters = &gateway.admin_get("/admin/limits").json()["rate_limits"]["counters"];
    let of = |name: &str| counters[name].as_u64().unwrap();
    assert!(of("keys") <= of("keys_max") && of("keys_max") == 1_000, "{counters}");
    assert!(of("evicted") >= 3_000 && of("bytes") < 200_000, "{counters}");
    let evicted = figure(&gateway, "moongate_rate_limit_counters_evicted_total").unwrap();
    assert_eq!(evicted as u64, of("evicted"));
}

#[test]
fn r5_4_limits_follow_the_health_of_the_upstream() {
    let (mut one, two) = (Demo::start("one"), Demo::start("two"));
    let gateway = Gateway::start(format!(
        "version: 1\nupstreams:\n  demo:\n    discovery: {{ static: [\"{}\", \"{}\"] }}\n    \
         health: {{ http: /health, every: 50ms, timeout: 40ms, fail_after: 2, jitter: 0% }}\n\
         routes:\n  - name: r\n    match: {{ path: '/{{*rest}}' }}\n    upstream: demo\n    \
         rate_limits: [{{ per: ip, requests: 1000, every: 1h, adaptive: {{ floor: 20%, latency: 20ms }} }}]\n",
        one.address(),
        two.address()
    ));
    let factor = || figure(&gateway, "moongate_rate_limit_factor{limit=\"route/r/ip\",upstream=\"demo\"}");
    assert_eq!(factor(), Some(1.0));
    assert_eq!(told(&gateway.get("/echo")).0, 1_000);
    one.stop();
    eventually("half of the endpoints, half of the limit", || (factor() == Some(0.5)).then_some(()));
    assert_eq!(told(&gateway.get("/echo")).0, 500);
    gateway.wait_for_event("rate_limit_adapted", |it| it["percent"] == 50.0 && it["upstream"] == "demo");
    one.restart();
    // Slow answers: down to the floor.
    eventually("the floor", || {
        gateway.get("/slow?ms=60");
        (factor() == Some(0.2)).then_some(())
    });
    assert_eq!(told(&gateway.get("/echo")).0, 200);
    let limits = gateway.admin_get("/admin/limits").json();
    assert_eq!(limits["rate_limits"]["limits"][0]["factors"]["demo"], 0.2);
    // And back, when nothing is slow any more.
    eventually("more than the floor", || (factor() > Some(0.2)).then_some(()));
}

#[test]
fn a_limit_of_many_a_second_lets_a_steady_client_through() {
    let gateway = Gateway::start(route("rate_limits: [{ per: ip, requests: 50, every: 100ms, burst: 5 }]"));
    let mut client = RawClient::connect(gateway.public());
    let mut ask = || {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.read_response().status == 200
    };
    // Each 2 ms one comes back. Who lets that much pass between an answer and the next request is never refused,
    // however much longer a busy machine makes it.
    for number in 0..100 {
        assert!(ask(), "the {number}th");
        let_pass(Duration::from_millis(2));
    }
    // Who does not is: a burst, and one each 2 ms, never more.
    let begin = Instant::now();
    let passed = (0..1_000).filter(|_| ask()).count() as u128;
    let most = 5 + begin.elapsed().as_millis() / 2 + 1;
    assert!(passed <= most, "{passed} of {most}");
}

#[test]
fn s2s_49_a_word_in_the_body_triggers_429_where_mocks_are_on() {
    let routes = "version: 1\nupstreams: { up: { local: health } }\nroutes: [{ name: all, match: { path: /x }, upstream: up }]\n";
    let start =
        |mocks: &str| Gateway::with(routes).config(format!("{}{mocks}", crate::support::gateway::CONFIG)).start();
    let ask = |gateway: &Gateway| gateway.request("POST", "/x", &[], r#"{"input":"please TRIGGER_RATE_LIMIT now"}"#);
    let answer = ask(&start("mocks: true\n"));
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
    assert_eq!(answer.json()["error"]["code"], "rate_limited");
    assert_eq!(ask(&start("")).status, 200);
}

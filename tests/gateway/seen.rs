//! What can be seen from outside: ids, traces, one line for every request, metrics, probes, pages.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::support::http1::{request_bytes, try_request};
use super::support::*;

const TRUSTING: &str = r#"
listeners:
  public: [{ address: "127.0.0.1:0" }]
  admin: { address: "127.0.0.1:0" }
trusted_proxies: ["127.0.0.0/8"]
"#;

/// `/up/…` to this upstream, and the ways in which the gateway answers by itself.
fn routes(upstream: std::net::SocketAddr) -> String {
    format!(
        "version: 1\nupstreams:\n  back: {{ discovery: {{ static: [\"{upstream}\"] }} }}\n  \
         dead: {{ discovery: {{ static: [\"{}\"] }} }}\nroutes:\n  \
         - {{ name: up, match: {{ path: \"/up/{{*rest}}\" }}, upstream: back, body_limit: 10B }}\n  \
         - {{ name: dead, match: {{ path: /dead }}, upstream: dead }}\n  \
         - {{ name: hello, match: {{ path: /hello, methods: [GET] }}, respond: {{ body: hello }} }}\n  \
         - {{ name: moved, match: {{ path: /moved }}, redirect: {{ to: /hello }} }}\n",
        nobody()
    )
}

fn echo() -> RawUpstream {
    RawUpstream::start(|request| {
        let named = |name: &str| request.header(name).unwrap_or_default();
        let text = json!({ "id": named("x-request-id"), "parent": named("traceparent"), "state": named("tracestate") });
        Script::ok(text.to_string())
    })
}

// ── Ids and traces ──────────────────────────────────────────────────────────────────────────────

#[test]
fn r10_1_s2s_43_a_strangers_request_id_is_replaced_everywhere() {
    let upstream = echo();
    let gateway = Gateway::start(routes(upstream.address()));
    let answer = gateway.request("GET", "/up/1", &[("x-request-id", "chosen-by-me")], b"");
    let id = answer.header("x-request-id").unwrap().to_owned();
    // A UUID of version 4 (RFC 9562, section 5.4), which nobody can guess from another one.
    let parts: Vec<&str> = id.split('-').collect();
    assert_eq!(parts.iter().map(|it| it.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{id}");
    assert!(parts.concat().bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f')), "{id}");
    assert!(parts[2].starts_with('4') && parts[3].starts_with(['8', '9', 'a', 'b']), "{id}");
    assert_eq!(answer.json()["id"], id, "the upstream is told the same");
    assert_eq!(gateway.access_log_for(&id)["route"], "up");
    assert_eq!(answer.headers_named("x-request-id").len(), 1);
    // Refusals carry it too, and each request has one of its own.
    let refusal = gateway.request("GET", "/nowhere", &[("x-request-id", "chosen-by-me")], b"");
    let other = refusal.header("x-request-id").unwrap();
    assert_eq!(refusal.json()["error"]["request_id"], other);
    assert_ne!(other, id);
}

#[test]
fn r10_1_a_trusted_proxys_request_id_is_taken_over() {
    let upstream = echo();
    let gateway = Gateway::with(routes(upstream.address())).config(TRUSTING).start();
    let answer = gateway.request("GET", "/up/1", &[("x-request-id", "from-the-proxy-1")], b"");
    assert_eq!(answer.header("x-request-id"), Some("from-the-proxy-1"));
    assert_eq!(answer.json()["id"], "from-the-proxy-1");
    assert_eq!(gateway.access_log_for("from-the-proxy-1")["status"], 200);
    // What could break a log line or fill it is nobody's id.
    for bad in ["with spaces in it", "quote\"d", &"x".repeat(1000)] {
        let answer = gateway.request("GET", "/up/1", &[("x-request-id", bad)], b"");
        assert_ne!(answer.header("x-request-id"), Some(bad));
        assert_eq!(answer.json()["id"], answer.header("x-request-id").unwrap());
    }
}

#[test]
fn r10_1_a_trace_is_continued_with_its_state() {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let upstream = echo();
    let gateway = Gateway::start(routes(upstream.address()));
    let headers = [("traceparent", PARENT), ("tracestate", "congo=t61rcWkgMzE")];
    let answer = gateway.request("GET", "/up/1", &headers, b"");
    let (told, line) = (answer.json(), gateway.access_log_for(answer.header("x-request-id").unwrap()));
    let parent = told["parent"].as_str().unwrap();
    assert_eq!(&parent[..36], &PARENT[..36], "the same trace");
    assert_ne!(&parent[36..52], &PARENT[36..52], "a span of our own");
    assert_eq!(told["state"], "congo=t61rcWkgMzE");
    assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(line["span_id"], parent[36..52]);

    // What is not a trace begins a new one, without the state of the old (section 4.3).
    for bad in ["nonsense", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"] {
        let told = gateway.request("GET", "/up/1", &[("traceparent", bad), headers[1]], b"").json();
        let parent = told["parent"].as_str().unwrap();
        assert!(parent.len() == 55 && !parent.contains(&"0".repeat(32)) && parent != bad, "{parent}");
        assert_eq!(told["state"], "");
    }
    let begun = gateway.get("/up/1").json();
    // Sampled, and random: level 2, section 2.2.3.
    assert!(begun["parent"].as_str().unwrap().ends_with("-03"));
}

#[test]
fn r10_1_flags_go_on_as_far_as_they_have_a_meaning() {
    let upstream = echo();
    let gateway = Gateway::start(routes(upstream.address()));
    for (sent, goes_on) in [("00", "00"), ("01", "01"), ("02", "02"), ("03", "03"), ("fc", "00"), ("ff", "03")] {
        let parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{sent}");
        let told = gateway.request("GET", "/up/1", &[("traceparent", &parent)], b"").json();
        let told = told["parent"].as_str().unwrap();
        assert_eq!((&told[..36], &told[53..]), (&parent[..36], goes_on), "{sent}");
    }
}

#[test]
fn r10_1_a_trace_state_that_is_not_well_formed_is_dropped_whole_and_its_trace_goes_on() {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let upstream = RawUpstream::start(|request| {
        let head = String::from_utf8_lossy(&request.head).to_ascii_lowercase();
        let lines: Vec<_> = head.lines().filter_map(|it| it.strip_prefix("tracestate: ")).collect();
        let parent = request.header("traceparent").unwrap_or_default();
        Script::ok(json!({ "state": lines, "parent": parent }).to_string())
    });
    let gateway = Gateway::start(routes(upstream.address()));
    let ask = |lines: &[&str]| {
        let mut fields = vec![("traceparent", PARENT)];
        fields.extend(lines.iter().map(|it| ("tracestate", *it)));
        let told = gateway.request("GET", "/up/1", &fields, b"").json();
        assert_eq!(&told["parent"].as_str().unwrap()[..36], &PARENT[..36], "{lines:?}");
        told["state"].as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let members = |count: usize| (0..count).map(|it| format!("k{it}=1")).collect::<Vec<_>>().join(",");
    for good in [
        &["foo=1,bar=2"][..],
        &["a=1", "b=2 3"],
        &["0a@b/c*d-e_f=~"],
        &[&members(32)],
        &[&format!("{}=1", "k".repeat(256))],
    ] {
        assert_eq!(ask(good), good, "well-formed");
    }
    for wrong in [
        "foo =1",
        "FOO=1",
        "foo",
        "foo=",
        "=1",
        "foo=a=b",
        "foo=1,foo=2",
        &members(33),
        &format!("{}=1", "k".repeat(257)),
    ] {
        assert_eq!(ask(&[wrong]), Vec::<String>::new(), "{wrong}");
        assert_eq!(ask(&["bar=1", wrong]), Vec::<String>::new(), "{wrong}");
    }
}

// ── The access log ──────────────────────────────────────────────────────────────────────────────

#[test]
fn s2s_40_an_access_log_line_tells_everything_about_a_request() {
    let upstream = RawUpstream::start(|_| Script::ok("12345"));
    let gateway = Gateway::start(routes(upstream.address()));
    let answer = gateway.request("POST", "/up/a%20b?token=hidden", &[("x-secret", "hidden")], "1234567");
    let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
    for (name, value) in [
        ("level", json!("info")),
        ("event", json!("request")),
        ("method", json!("POST")),
        ("path", json!("/up/a%20b")),
        ("host", json!(gateway.public().to_string())),
        ("http", json!("1.1")),
        ("listener", json!("public")),
        ("route", json!("up")),
        ("upstream", json!("back")),
        ("endpoint", json!(upstream.address().to_string())),
        ("attempts", json!(1)),
        ("reused", json!(false)),
        ("client", json!("127.0.0.1")),
        ("status", json!(200)),
        ("end", json!("done")),
        ("bytes_received", json!(7)),
        ("bytes_sent", json!(5)),
    ] {
        assert_eq!(line[name], value, "{name} in {line}");
    }
    let timestamp = line["timestamp"].as_str().unwrap();
    assert!(timestamp.len() == 24 && timestamp.ends_with('Z') && timestamp.as_bytes()[10] == b'T', "{timestamp}");
    assert_eq!((line["trace_id"].as_str().unwrap().len(), line["span_id"].as_str().unwrap().len()), (32, 16));
    // Each milestone is the time since the request's head, so they come in order.
    let times = ["connect_ms", "first_byte_ms", "duration_ms"].map(|it| line[it].as_f64().unwrap());
    assert!(times.is_sorted(), "{line}");
    assert!(!line.to_string().contains("hidden"), "what may be a secret is not logged: {line}");
}

#[test]
fn r10_2_errors_are_told_in_detail_and_nothing_of_what_was_sent() {
    let upstream = RawUpstream::start(|_| Script::default().send("hidden nonsense\r\nhidden: hidden\r\n\r\n").close());
    let config = format!("{}telemetry: {{ log: {{ level: debug }} }}\n", super::support::gateway::CONFIG);
    let gateway = Gateway::with(routes(upstream.address())).config(config).start();
    let secrets = [("authorization", "Bearer hidden"), ("cookie", "a=hidden"), ("x-api-key", "hidden")];
    for (path, body, code) in [
        ("/up/a?token=hidden", "hidden", "upstream_protocol_error"),
        ("/up/a?token=hidden", "hidden and too long", "body_too_large"),
        ("/dead?token=hidden", "hidden", "upstream_unreachable"),
        ("/nowhere?token=hidden", "hidden", "route_not_found"),
    ] {
        let answer = gateway.request("POST", path, &secrets, body);
        let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
        assert_eq!(line["error"], code, "{line}");
        assert!(line["trace_id"].is_string() && line["end"].is_string(), "{line}");
    }
    let mut client = RawClient::connect(gateway.public());
    client.send("GET /hidden HTTP/1.1\r\nHost: a\r\nhidden hidden: hidden\r\n\r\n");
    assert_eq!(client.read_response().status, 400);
    gateway.wait_for_event("request", |it| it["error"] == "bad_request");
    for line in gateway.log_lines() {
        assert!(!line.text.contains("hidden"), "what was sent is in the log: {}", line.text);
    }
}

#[test]
fn s2s_42_every_request_has_one_line_of_json_refusals_and_malformed_ones_too() {
    let upstream = echo();
    let timeouts = "limits: { header_timeout: 500ms }";
    let config = format!(
        "listeners:\n  public: [{{ address: \"127.0.0.1:0\", {timeouts} }}]\n  admin: {{ address: \"127.0.0.1:0\" }}\n"
    );
    let gateway = Gateway::with(routes(upstream.address())).config(config).start();
    let host = gateway.public().to_string();
    let expected = [
        ("GET /up/1 HTTP/1.1\r\nhost: HOST\r\n\r\n", 200, "up", ""),
        ("GET /hello HTTP/1.1\r\nhost: HOST\r\n\r\n", 200, "hello", ""),
        ("GET /moved HTTP/1.1\r\nhost: HOST\r\n\r\n", 308, "moved", ""),
        ("GET /nowhere HTTP/1.1\r\nhost: HOST\r\n\r\n", 404, "", "route_not_found"),
        ("POST /hello HTTP/1.1\r\nhost: HOST\r\ncontent-length: 0\r\n\r\n", 405, "", "method_not_allowed"),
        ("POST /up/1 HTTP/1.1\r\nhost: HOST\r\ncontent-length: 11\r\n\r\n12345678901", 413, "up", "body_too_large"),
        ("GET /dead HTTP/1.1\r\nhost: HOST\r\n\r\n", 502, "dead", "upstream_unreachable"),
        ("GET /up/1 HTTP/1.1\r\n\r\n", 400, "", "bad_request"),
        ("GET /up/1 HTTP/1.1\r\nhost: HOST\r\nno colon here\r\n\r\n", 400, "", "bad_request"),
        ("GET /up/1 HTTP/1.1\r\nhost: HOST\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400, "", "bad_request"),
        ("GET /up/1 HTTP/1.1\r\nhost: HOST\r\n", 408, "", "request_timeout"),
    ];
    for (number, (bytes, status, route, code)) in expected.iter().enumerate() {
        let mut client = RawClient::connect(gateway.public());
        client.send(bytes.replace("HOST", &host));
        let answer = client.read_response();
        assert_eq!(answer.status, *status, "{bytes}");
        let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
        assert_eq!((&line["event"], &line["status"]), (&json!("request"), &json!(status)), "{line}");
        assert_eq!((&line["route"], line["error"].as_str().unwrap_or_default()), (&json!(route), *code), "{line}");
        for name in ["level", "timestamp", "trace_id", "bytes_received", "bytes_sent", "duration_ms", "end"] {
            assert!(!line[name].is_null(), "no {name}: {line}");
        }
        assert_eq!(gateway.events("request").len(), number + 1, "one line each: {bytes}");
    }
    let all: f64 =
        series(&gateway).iter().filter(|it| it.0.starts_with("moongate_requests_total{")).map(|it| it.1).sum();
    assert_eq!(all as usize, expected.len(), "and each is counted");
}

// ── Metrics ─────────────────────────────────────────────────────────────────────────────────────

/// Every series on `/metrics` with its value; panics where the text is not what Prometheus reads.
#[track_caller]
fn series(gateway: &Gateway) -> BTreeMap<String, f64> {
    let answer = gateway.admin_get("/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let (mut types, mut series) = (BTreeMap::new(), BTreeMap::new());
    let mut helped = BTreeSet::new();
    let text = answer.text();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            assert!(helped.insert(help.split(' ').next().unwrap().to_owned()), "twice: {line}");
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("neither comment nor sample: {line}"));
        let family = name.split('{').next().unwrap();
        assert!(family.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_'), "{line}");
        let parts = ["_bucket", "_sum", "_count"].iter().find_map(|it| family.strip_suffix(it));
        let histogram = parts.filter(|it| types.get(*it).is_some_and(|it| it == "histogram"));
        assert!(types.contains_key(histogram.unwrap_or(family)), "a sample without a type: {line}");
        if let Some(labels) = name.strip_prefix(family).filter(|it| !it.is_empty()) {
            let labels =
                labels.strip_prefix('{').and_then(|it| it.strip_suffix('}')).unwrap_or_else(|| panic!("{line}"));
            assert!(labels.split("\",").all(|it| it.contains("=\"")), "{line}");
        }
        assert!(series.insert(name.to_owned(), value.parse().unwrap()).is_none(), "twice: {line}");
    }
    assert_eq!(types.keys().cloned().collect::<BTreeSet<_>>(), helped);
    series
}

#[test]
fn us_012_metrics_are_valid_prometheus_text_with_at_least_ten_of_our_own() {
    let upstream = echo();
    let gateway = Gateway::start(routes(upstream.address()));
    gateway.get("/up/1");
    gateway.get("/nowhere");
    let counted = eventually("both are counted", || {
        let all = series(&gateway);
        let refused = all.get("moongate_refusals_total{code=\"route_not_found\"}") == Some(&1.0);
        // A request is under way until its line is written.
        (refused && all.get("moongate_requests_in_flight") == Some(&0.0)).then_some(all)
    });
    let names: BTreeSet<_> = counted.keys().map(|it| it.split('{').next().unwrap()).collect();
    let ours: BTreeSet<_> = names.iter().filter(|it| it.starts_with("moongate_")).collect();
    assert!(ours.len() >= 10, "{ours:?}");
    for name in [
        "moongate_requests_total{class=\"2xx\",code=\"200\",route=\"up\"}",
        "moongate_requests_total{class=\"4xx\",code=\"404\",route=\"none\"}",
        "moongate_request_duration_seconds_bucket{route=\"up\",le=\"+Inf\"}",
        "moongate_request_duration_seconds_count{route=\"up\"}",
        "moongate_exchange_ends_total{end=\"done\"}",
        "moongate_config_reloads_total{result=\"ok\"}",
    ] {
        assert_eq!(counted.get(name), Some(&1.0), "{name}");
    }
    let endpoint = upstream.address();
    let of_endpoint = format!("{{endpoint=\"{endpoint}\",result=\"success\",upstream=\"back\"}}");
    assert_eq!(counted[&format!("moongate_upstream_requests_total{of_endpoint}")], 1.0);
    for name in ["moongate_requests_in_flight", "moongate_streams_open", "moongate_log_lines_dropped_total"] {
        assert_eq!(counted.get(name), Some(&0.0), "{name}");
    }
    assert!(counted.contains_key("moongate_connections_total{listener=\"public\"}"));
}

#[test]
fn r10_3_whatever_clients_ask_for_the_series_do_not_grow() {
    let upstream = echo();
    let gateway = Gateway::start(routes(upstream.address()));
    gateway.get("/up/first");
    gateway.get("/nowhere");
    gateway.request("GET", "/hello", &[("host", "a.test")], b"");
    gateway.request("BREW", "/hello", &[], b"");
    let before = eventually("all four are counted", || {
        let all = series(&gateway);
        let count: f64 = all.iter().filter(|it| it.0.starts_with("moongate_requests_total")).map(|it| it.1).sum();
        (count == 4.0).then_some(all)
    });
    let mut client = RawClient::connect(gateway.public());
    for round in 0..100 {
        let mut batch = Vec::new();
        for number in 0..100 {
            let (target, host) = match number % 4 {
                0 => (format!("/up/{round}-{number}"), "b.test".to_owned()),
                1 => (format!("/nowhere/{round}/{number}"), "b.test".to_owned()),
                2 => ("/hello".to_owned(), format!("{round}.{number}.test")),
                _ => (format!("/hello?q={round}-{number}"), "b.test".to_owned()),
            };
            let method = if number % 8 == 3 { format!("M{round}X{number}") } else { "GET".to_owned() };
            let headers = [("host", host.as_str()), ("connection", "keep-alive")];
            batch.extend(request_bytes(gateway.public(), &method, &target, &headers, b""));
        }
        client.send(batch);
        for _ in 0..100 {
            client.read_response();
        }
    }
    let after = eventually("all are counted", || {
        let all = series(&gateway);
        let count: f64 = all.iter().filter(|it| it.0.starts_with("moongate_requests_total")).map(|it| it.1).sum();
        (count == 10_004.0).then_some(all)
    });
    let grown: Vec<_> = after.keys().filter(|it| !before.contains_key(*it)).collect();
    assert!(grown.is_empty(), "{grown:?}");
}

#[test]
fn r10_3_routes_beyond_a_thousand_share_their_series() {
    let route =
        |number| format!("  - {{ name: r{number:04}, match: {{ path: /r{number} }}, respond: {{ body: x }} }}\n");
    let many = |count| format!("version: 1\nroutes:\n{}", (0..count).map(route).collect::<String>());
    let gateway = Gateway::start(many(1100));
    let labels = |gateway: &Gateway| -> BTreeSet<String> {
        let all = series(gateway);
        let ours = all.keys().filter_map(|it| it.strip_prefix("moongate_request_duration_seconds_count{route=\""));
        ours.map(|it| it.trim_end_matches("\"}").to_owned()).collect()
    };
    assert_eq!(gateway.get("/r5").status, 200);
    assert_eq!(gateway.get("/r1099").status, 200);
    assert_eq!(gateway.get("/nowhere").status, 404);
    // All of them from one look: a page of a thousand routes takes its time on a busy machine.
    eventually("they are counted where they belong", || {
        let all = gateway.admin_get("/metrics").text();
        let counted = |class: &str, code: u16, route: &str| {
            let line = format!("moongate_requests_total{{class=\"{class}\",code=\"{code}\",route=\"{route}\"}} 1");
            all.lines().any(|it| it == line)
        };
        (counted("2xx", 200, "r0005") && counted("2xx", 200, "other") && counted("4xx", 404, "none")).then_some(())
    });
    let shown = labels(&gateway);
    assert!(shown.len() <= 1002 && shown.contains("other") && shown.contains("none"), "{}", shown.len());
    assert!(!shown.contains("r1099"));
    // Routes that are gone take their series with them, while somebody looks at them.
    gateway.write_routes(&many(10));
    eventually("the series are gone", || (labels(&gateway).len() <= 13).then_some(()));
}

/// Written with three decimals at most.
fn short(figure: &f64) -> bool {
    figure.to_string().split_once('.').is_none_or(|(_, decimals)| decimals.len() <= 3)
}

#[test]
fn times_are_shown_with_three_decimals_wherever_they_stand() {
    let upstream = RawUpstream::start(|_| Script::ok("here"));
    let gateway = Gateway::start(routes(upstream.address()));
    for _ in 0..20 {
        assert_eq!(gateway.get("/up/1").status, 200);
        let mut client = RawClient::connect(gateway.public());
        client.send("GET /up/1 HTTP/1.1\r\n\r\n");
        assert_eq!(client.read_response().status, 400);
        let mut client = RawClient::connect(gateway.public());
        client.send("no head of HTTP\r\n\r\n"); // its line is written by another hand
        assert_eq!(client.read_response().status, 400);
        assert_eq!(gateway.admin_get("/admin/config").status, 200);
    }
    gateway.wait_for_event("admin_request", |_| true);
    let lines = ["request", "admin_request"].map(|it| gateway.events(it)).concat();
    let lengths: Vec<f64> = lines.iter().map(|it| it["duration_ms"].as_f64().unwrap()).collect();
    assert!(lengths.len() > 60 && lengths.iter().all(short), "{lengths:?}");
    let upstreams = gateway.admin_get("/admin/upstreams").json();
    let back = upstreams["upstreams"].as_array().unwrap().iter().find(|it| it["name"] == "back").unwrap();
    let latency = back["endpoints"][0]["latency_ms"].as_f64().unwrap();
    assert!(latency > 0.0 && short(&latency), "{latency}");
}

#[test]
fn s2s_6_s2s_44_s2s_45_api_metrics_tells_totals_streams_errors_and_percentiles() {
    let demo = Demo::start("one");
    let gateway = Gateway::start(format!(
        "version: 1\nupstreams:\n  demo: {{ discovery: {{ static: [\"{}\"] }} }}\nroutes:\n  \
         - {{ name: all, match: {{ path: \"/demo/{{*rest}}\" }}, upstream: demo, rewrite: {{ path: \"/{{rest}}\" }} }}\n",
        demo.address()
    ));
    for _ in 0..3 {
        assert_eq!(gateway.get("/demo/echo").status, 200);
    }
    gateway.get("/nowhere");
    let mut stream = RawClient::connect(gateway.public());
    stream.send(request_bytes(gateway.public(), "GET", "/demo/sse?events=100&every_ms=60000", &[], b""));
    assert_eq!(stream.read_head().status, 200);
    let seen = eventually("all is counted", || {
        let answer = gateway.get("/api/metrics");
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        let seen = answer.json();
        // Under way are the stream and the call that asks; a request counts when its line is written.
        let counted = seen["requests"]["by_class"]["4xx"] == 1
            && seen["streams"]["open"] == 1
            && seen["requests"]["in_flight"] == 2
            && seen["requests"]["by_class"]["2xx"].as_u64().unwrap() >= 3;
        counted.then_some(seen)
    });
    assert!(seen["requests"]["total"].as_u64().unwrap() >= 4);
    assert_eq!((&seen["streams"]["total"], &seen["errors"]["route_not_found"]), (&json!(1), &json!(1)));
    let percentiles = ["p50", "p95", "p99"].map(|it| seen["latency_ms"][it].as_f64().unwrap());
    assert!(percentiles[0] > 0.0 && percentiles.is_sorted(), "{percentiles:?}");
    assert!(percentiles.iter().all(short), "{percentiles:?}");
    drop(stream);
    eventually("the stream is over", || (gateway.get("/api/metrics").json()["streams"]["open"] == 0).then_some(()));
    // The same on the operators' side.
    assert_eq!(gateway.admin_get("/admin/requests").json()["streams"]["total"], 1);
}

#[test]
fn s2s_7_api_health_is_200_with_a_timestamp() {
    let gateway = Gateway::start(routes(nobody()));
    let answer = gateway.get("/api/health");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.json()["status"], "ok");
    let timestamp = answer.json()["timestamp"].as_str().unwrap().to_owned();
    assert!(timestamp.len() == 24 && timestamp.starts_with("20") && timestamp.ends_with('Z'), "{timestamp}");
}

// ── Probes ──────────────────────────────────────────────────────────────────────────────────────

#[test]
fn us_014_probes_say_how_it_is() {
    let gateway = Gateway::start(routes(nobody()));
    let live = gateway.admin_get("/api/v1/health/live");
    assert_eq!((live.status, live.json()), (200, json!({ "status": "ok" })));
    let ready = eventually("ready", || Some(gateway.admin_get("/api/v1/health/ready")).filter(|it| it.status == 200));
    assert_eq!(ready.json(), json!({ "status": "ready" }));
    let startup = gateway.admin_get("/api/v1/health/startup");
    assert_eq!((startup.status, &startup.json()["status"]), (200, &json!("started")));
    assert!(startup.json()["startup_duration_ms"].as_u64().unwrap() > 0);
}

#[test]
fn us_014_2_not_ready_while_nobody_else_can_be_let_in() {
    let config = "listeners:\n  public: [{ address: \"127.0.0.1:0\", limits: { connections: 2 } }]\n  admin: { address: \"127.0.0.1:0\" }\n";
    let gateway = Gateway::with(routes(nobody())).config(config).start();
    let mut clients = [RawClient::connect(gateway.public()), RawClient::connect(gateway.public())];
    for client in &mut clients {
        client.send(request_bytes(gateway.public(), "GET", "/hello", &[("connection", "keep-alive")], b""));
        assert_eq!(client.read_response().status, 200);
    }
    let ready = gateway.admin_get("/api/v1/health/ready");
    let body =
        json!({ "status": "not_ready", "reason": "connections_full", "open_connections": 2, "max_connections": 2 });
    assert_eq!((ready.status, ready.json()), (503, body));
    drop(clients);
    eventually("ready again", || (gateway.admin_get("/api/v1/health/ready").status == 200).then_some(()));
}

// ── The admin pages, and who may read them ──────────────────────────────────────────────────────

#[test]
fn admin_pages_show_what_serves_and_what_bounds_it() {
    let upstream = echo();
    let gateway = Gateway::start(routes(upstream.address()));
    let mut client = RawClient::connect(gateway.public());
    client.send(request_bytes(gateway.public(), "GET", "/hello", &[("connection", "keep-alive")], b""));
    client.read_response();

    let limits = gateway.admin_get("/admin/limits").json();
    assert_eq!((&limits["connections"]["open"], &limits["connections"]["max"]), (&json!(1), &json!(10_000)));
    assert_eq!(limits["connections"]["refused"]["per_address"], 0);
    let listener = &limits["listeners"][0];
    assert_eq!((&listener["listener"], &listener["open"]), (&json!("public"), &json!(1)));
    assert_eq!(
        (&listener["limits"]["connections"], &listener["limits"]["keep_alive"]),
        (&json!(10_000), &json!("75s"))
    );
    assert_eq!(limits["request_body_bytes"]["smallest"], 10);
    assert_eq!((&limits["metrics"]["routes"], &limits["metrics"]["routes_max"]), (&json!(6), &json!(1000)));
    assert_eq!(limits["log"]["lines_dropped"], 0);
    assert!(limits["upstream_connections"]["idle_max_per_thread"].as_u64().unwrap() > 0);
    assert_eq!(limits["shutdown"]["grace"], "30s");

    // A request is under way until its line is written, which is after the client has its answer.
    eventually("the request is over", || {
        let requests = gateway.admin_get("/admin/requests").json()["requests"].clone();
        (requests["in_flight"] == 0 && requests["total"] == 1).then_some(())
    });
    let table = gateway.admin_get("/admin/routes").json();
    let names: Vec<_> = table["routes"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert!(["up", "dead", "hello", "moved"].iter().all(|it| names.contains(it)), "{names:?}");
    let config = gateway.admin_get("/admin/config").json();
    assert_eq!((&config["generation"], &config["hash"].as_str().unwrap().len()), (&json!(1), &16));
    let nowhere = gateway.admin_get("/admin/nowhere");
    assert_eq!((nowhere.status, &nowhere.json()["error"]["code"]), (404, &json!("route_not_found")));
    // None of it is on the public side.
    for page in ["/metrics", "/admin/config", "/api/v1/health/ready"] {
        assert_eq!(gateway.get(page).status, 404);
    }
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn token(claims: &Value, secret: &str) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

#[test]
fn away_from_loopback_the_admin_pages_ask_for_a_token() {
    // 0.0.0.0 is not loopback, though it can be reached from there.
    let config = "listeners:\n  public: [{ address: \"127.0.0.1:0\" }]\n  admin: { address: \"0.0.0.0:0\" }\n\
                  tokens: { hs256_secret: \"${PROXY_JWT_SECRET}\" }\n";
    let gateway = Gateway::with(routes(nobody())).config(config).env("PROXY_JWT_SECRET", SECRET).start();
    let admin = std::net::SocketAddr::from(([127, 0, 0, 1], gateway.admin().port()));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let ask = |method: &str, path: &str, field: Option<String>| {
        let headers: Vec<_> = field.iter().map(|it| ("authorization", it.as_str())).collect();
        try_request(admin, method, path, &headers, b"").unwrap()
    };
    let pages = ["/metrics", "/admin/config", "/admin/routes", "/admin/upstreams", "/admin/limits", "/admin/requests"];
    for page in pages {
        let answer = ask("GET", page, None);
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (401, &json!("unauthorized")), "{page}");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"));
    }
    assert_eq!(ask("POST", "/admin/reload", None).status, 401);
    for probe in ["live", "ready", "startup"] {
        assert_eq!(ask("GET", &format!("/api/v1/health/{probe}"), None).status, 200, "{probe}");
    }

    let claims = |roles: Value, exp: u64| json!({ "sub": "someone", "roles": roles, "exp": exp });
    let good = claims(json!(["admin"]), now + 3600);
    let unsigned = {
        // {"alg":"none","typ":"JWT"}, the good token's claims, no signature.
        let signed = token(&good, SECRET);
        format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", signed.split('.').nth(1).unwrap())
    };
    let other_algorithm = {
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        encode(&Header::new(Algorithm::HS512), &good, &key).unwrap()
    };
    for (why, token) in [
        ("the algorithm is none", unsigned),
        ("another algorithm", other_algorithm),
        ("it is over", token(&claims(json!(["admin"]), now - 3600), SECRET)),
        ("it never ends", token(&json!({ "sub": "someone", "roles": ["admin"] }), SECRET)),
        ("it is not yet valid", {
            let mut early = good.clone();
            early["nbf"] = json!(now + 3600);
            token(&early, SECRET)
        }),
        ("another secret", token(&good, "ffffffffffffffffffffffffffffffff")),
        ("nonsense", "a.b.c".to_owned()),
    ] {
        assert_eq!(ask("GET", "/admin/config", Some(format!("Bearer {token}"))).status, 401, "{why}");
    }
    let good = token(&good, SECRET);
    assert_eq!(ask("GET", "/admin/config", Some(format!("Basic {good}"))).status, 401);
    for roles in [json!([]), json!(["user"]), json!(["administrator"])] {
        let weak = token(&claims(roles, now + 3600), SECRET);
        let answer = ask("GET", "/admin/config", Some(format!("Bearer {weak}")));
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (403, &json!("forbidden")));
    }
    for role in ["admin", "operator"] {
        let token = token(&claims(json!([role]), now + 3600), SECRET);
        for page in pages {
            assert_eq!(ask("GET", page, Some(format!("Bearer {token}"))).status, 200, "{page}");
        }
    }
    assert_eq!(ask("POST", "/admin/reload", Some(format!("bearer {good}"))).status, 200);
    // The secret itself is nowhere to be read.
    let everything = gateway.log_tail() + &ask("GET", "/admin/config", Some(format!("Bearer {good}"))).text();
    assert!(!everything.contains(SECRET));
}

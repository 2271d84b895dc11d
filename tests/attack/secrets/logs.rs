//! What requests bring along and the log must not keep.

use crate::support::{Gateway, H2Client, RawUpstream, Script, http1::try_request};

const CONFIG: &str = "
listeners:
  public: [{ address: \"127.0.0.1:0\", h2c: true }]
  admin: { address: \"127.0.0.1:0\" }
telemetry: { log: { level: debug } }
";

fn in_front_of(upstream: &RawUpstream) -> Gateway {
    let routes = format!(
        "{{ version: 1, upstreams: {{ app: {{ discovery: {{ static: [\"{}\"] }} }} }}, \
         routes: [{{ name: app, match: {{ path: \"/v1/{{*rest}}\" }}, upstream: app, cache: {{}} }}] }}",
        upstream.address()
    );
    Gateway::with(routes).config(CONFIG).start()
}

/// The path of a request's line in the log; the log itself is searched for canaries.
#[track_caller]
fn logged(gateway: &Gateway, target: &str) -> String {
    let answer = gateway.get(target);
    let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
    line["path"].as_str().unwrap().to_owned()
}

#[test]
fn a_path_with_a_key_is_logged_without_it_and_goes_upstream_as_it_is() {
    let upstream = RawUpstream::start(|_| Script::ok("ok"));
    let gateway = in_front_of(&upstream);
    for (target, path) in [
        ("/v1/keys/sk-live-4f-canary-1/x", "/v1/keys/_REDACTED_/x"),
        ("/v1/keys/SK_LIVE_canary-2", "/v1/keys/_REDACTED_"),
        ("/v1/keys/%73k-live-canary-3", "/v1/keys/_REDACTED_"),
        ("/v1/t/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.canary-4", "/v1/t/_REDACTED_"),
        ("/v1/k/mg_k1_canary-5-0123456789abcdef", "/v1/k/_REDACTED_"),
        ("/v1/x=1&api%5Fkey=canary-6/y", "/v1/x=1&api_key=_REDACTED_/y"),
        ("/v1/fetch/https://ada:canary-7@host/x", "/v1/fetch/https:/_REDACTED_/x"),
        ("/nowhere/ghp_canary-8-0123456789", "/nowhere/_REDACTED_"),
        ("/v1/players/2f1c0a52-5b7e-4a8e-9a53-0d9f5f0c7a11", "/v1/players/2f1c0a52-5b7e-4a8e-9a53-0d9f5f0c7a11"),
    ] {
        assert_eq!(logged(&gateway, target), path);
    }
    let got = String::from_utf8_lossy(&upstream.requests().concat()).into_owned();
    assert!(got.contains("GET /v1/keys/sk-live-4f-canary-1/x "), "what is logged is not what is sent: {got}");
}

#[test]
fn whatever_becomes_of_a_request_its_credentials_are_in_no_line() {
    let upstream = RawUpstream::start(|_| Script::ok("ok"));
    let gateway = in_front_of(&upstream);
    let fields = [
        ("authorization", "Bearer canary-bearer"),
        ("cookie", "session=canary-cookie"),
        ("x-api-key", "canary-key"),
        ("referer", "https://app.example.org/?token=canary-referer"),
    ];
    let target =
        "/v1/sk-live-canary-path?api_key=canary-query&X-Amz-Signature=canary-signature&next=%2F%3Fcode%3Dcanary-code";
    for (method, target) in
        [("GET", target), ("POST", target), ("GET", "/nowhere?token=canary-token"), ("BREW", target)]
    {
        let answer = gateway.request(method, target, &fields, b"canary-body");
        gateway.access_log_for(answer.header("x-request-id").unwrap());
    }
    let mut client = H2Client::connect(gateway.public());
    let answer = client.get(target);
    gateway.access_log_for(answer.header("x-request-id").unwrap());
    // Refused before there is a request.
    let answer = gateway.request("GET", "/v1/%00sk-live-canary-malformed", &fields, b"");
    assert_eq!(answer.status, 400);
    assert!(!answer.text().contains("canary-"), "{}", answer.text());
    // An operator's purge names a target.
    let what = br#"{"key": "/v1/sk-live-canary-purged?api_key=canary-purged"}"#;
    let answer =
        try_request(gateway.admin(), "POST", "/admin/cache/purge", &[("content-type", "application/json")], what);
    assert_eq!(answer.unwrap().status, 200);
    let line = gateway.wait_for_event("cache_purged", |_| true);
    assert_eq!(line["what"], "Key(\"/v1/_REDACTED_?api_key=_REDACTED_\")");
    for page in ["/metrics", "/admin/requests", "/admin/upstreams", "/admin/limits"] {
        gateway.admin_get(page);
    }
}

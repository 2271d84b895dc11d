//! What the gateway itself says to gRPC clients, they hear in their own words: HTTP 200, `grpc-status` and
//! `grpc-message` in an answer that is all trailers.

use crate::exchange::H2C;
use crate::support::tokens::{SECRET, token};
use crate::support::{Gateway, H2Client, RawUpstream, Response, Script, eventually, figure, nobody};

const TYPES: [&str; 5] = [
    "application/grpc",
    "application/grpc+proto",
    "application/grpc+json",
    "Application/GRPC",
    "application/grpc; charset=utf-8",
];

/// A path, what it is called with, and what it comes to: as HTTP, as a code of ours, as a gRPC status.
type Refusal = (&'static str, &'static [(&'static str, &'static str)], u16, &'static str, &'static str);

const REFUSALS: [Refusal; 10] = [
    ("/keyed/Call", &[], 400, "idempotency_key", "3"),
    ("/signed/Call", &[], 401, "unauthorized", "16"),
    ("/signed/Call", &[("authorization", "Bearer nonsense")], 401, "unauthorized", "16"),
    ("/nowhere/Call", &[], 404, "route_not_found", "12"),
    ("/small/Call", &[("content-length", "5")], 413, "body_too_large", "8"),
    ("/rare/Call", &[], 429, "rate_limited", "8"),
    ("/dead/Call", &[], 502, "upstream_unreachable", "14"),
    ("/garbage/Call", &[], 502, "upstream_protocol_error", "14"),
    ("/ill/Call", &[], 503, "upstream_unavailable", "14"),
    ("/silent/Call", &[], 504, "upstream_timeout", "4"),
];

struct Stage {
    gateway: Gateway,
    _upstreams: [RawUpstream; 2],
}

fn stage() -> Stage {
    let garbage = RawUpstream::start(|_| Script::new().read_body().send("garbage\r\n\r\n").close());
    let silent = RawUpstream::start(|_| Script::silence());
    let config =
        format!("{H2C}tokens: {{ issuer: moongate, audience: [tta], hs256_secret: \"${{PROXY_JWT_SECRET}}\" }}\n");
    let route = |name: &str, upstream: &str, settings: &str| {
        format!("  - {{ name: {name}, match: {{ path: \"/{name}/{{*rest}}\" }}, upstream: {upstream}, {settings} }}\n")
    };
    let text = format!(
        "version: 1\nroles: {{ admin: [\"*\"] }}\nupstreams:\n  garbage: {{ discovery: {{ static: [\"{}\"] }} }}\n  silent: {{ discovery: {{ static: [\"{}\"] }} }}\n  \
         dead: {{ discovery: {{ static: [\"{}\"] }} }}\n  \
         ill: {{ discovery: {{ static: [\"{}\"] }}, health: {{ tcp: true, every: 50ms, timeout: 40ms, fail_after: 1 }} }}\nroutes:\n",
        garbage.address(),
        silent.address(),
        nobody(),
        nobody(),
    ) + &route("keyed", "dead", "idempotency: { required: true }")
        + &route("signed", "dead", "auth: { jwt: {}, roles: [admin] }")
        + &route("small", "dead", "body_limit: 3B")
        + &route("rare", "dead", "rate_limits: [{ per: ip, requests: 1, every: 1h }]")
        + &route("dead", "dead", "")
        + &route("garbage", "garbage", "")
        + &route("ill", "ill", "")
        + &route("silent", "silent", "timeouts: { first_byte: 200ms }");
    let gateway = Gateway::with(text).config(config).env("PROXY_JWT_SECRET", SECRET).start();
    gateway.request("POST", "/rare/first", &[], "");
    eventually("the ill one is known to be ill", || {
        (gateway.request("POST", "/ill/first", &[], "").status == 503).then_some(())
    });
    Stage { gateway, _upstreams: [garbage, silent] }
}

/// Percent-encoding takes away what fields and gRPC could not carry.
fn is_message(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|it| matches!(it, b' '..=b'~'))
}

fn judge(answer: &Response, want: &str) -> Result<(), String> {
    let said = (answer.status, answer.header("grpc-status"), answer.body.len(), answer.trailers.len());
    // All trailers: they are the head, and nothing follows.
    if said != (200, Some(want), 0, 0) {
        return Err(format!("{said:?} {}", answer.text()));
    }
    if !answer.header("grpc-message").is_some_and(is_message) {
        return Err(format!("the message {:?}", answer.header("grpc-message")));
    }
    if !answer.header("content-type").is_some_and(|it| it.starts_with("application/grpc")) {
        return Err(format!("the type {:?}", answer.header("content-type")));
    }
    Ok(())
}

#[test]
fn s2s_41_refusals_of_grpc_requests_are_grpcs_own() {
    let stage = stage();
    let mut wrong = Vec::new();
    for (path, fields, _, code, status) in REFUSALS {
        for written in TYPES {
            let fields = [&[("content-type", written), ("te", "trailers")], fields].concat();
            let answer = H2Client::connect(stage.gateway.public()).request("POST", path, &fields, b"\0\0\0\0\0", None);
            if let Err(what) = judge(&answer, status) {
                wrong.push(format!("{path} {written}: {what}"));
                continue;
            }
            // Whatever the words, it is in the log and counted by its code.
            let line = stage.gateway.access_log_for(answer.header("x-request-id").unwrap_or_default());
            if line["error"] != code {
                wrong.push(format!("{path} {written}: the log says {line}"));
            }
        }
        let counted =
            figure(&stage.gateway, &format!("moongate_refusals_total{{code=\"{code}\"}}")).unwrap_or_default();
        if counted < TYPES.len() as f64 {
            wrong.push(format!("{path}: {code} was counted {counted} times"));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn s2s_41_a_grpc_request_of_somebody_who_may_not_is_told_so() {
    let stage = stage();
    let bearer = format!("Bearer {}", token("ada", &["user"]));
    let fields = [("content-type", "application/grpc"), ("te", "trailers"), ("authorization", bearer.as_str())];
    let answer =
        H2Client::connect(stage.gateway.public()).request("POST", "/signed/Call", &fields, b"\0\0\0\0\0", None);
    judge(&answer, "7").unwrap();
}

#[test]
fn s2s_41_all_others_get_http_and_json_as_ever() {
    let stage = stage();
    let types = ["application/json", "application/x-grpc", "text/application/grpc", "application/grp"];
    for (path, fields, status, code, _) in REFUSALS {
        for written in types {
            let fields = [&[("content-type", written)], fields].concat();
            let answer = H2Client::connect(stage.gateway.public()).request("POST", path, &fields, b"12345", None);
            let error = answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned();
            assert_eq!((answer.status, error.as_str()), (status, code), "{path} {written}");
            assert_eq!(answer.header("grpc-status"), None);
        }
    }
}

/// An upstream's own words are nobody else's business.
#[test]
fn s2s_41_an_upstreams_own_errors_pass_to_grpc_clients_as_they_are() {
    let upstream = RawUpstream::start(|_| Script::answer(503, &[("content-type", "text/plain")], "later"));
    let gateway = crate::exchange::in_front_of(&upstream, "");
    let fields = [("content-type", "application/grpc"), ("te", "trailers")];
    let answer = H2Client::connect(gateway.public()).request("POST", "/pkg.Service/Call", &fields, b"\0\0\0\0\0", None);
    assert_eq!((answer.status, answer.text().as_str(), answer.header("grpc-status")), (503, "later", None));
}

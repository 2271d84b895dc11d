//! Pages of other origins: whose word counts about who may read an answer.

use std::net::SocketAddr;

use crate::support::{Gateway, H2Client, RawUpstream, Response, Script};

/// Allows whoever asks, with credentials, as many frameworks do when they are told to "enable CORS".
fn reflecting() -> RawUpstream {
    RawUpstream::start(|request| {
        let origin = request.header("origin").unwrap_or_default();
        let fields = [
            ("access-control-allow-origin", origin.as_str()),
            ("access-control-allow-credentials", "true"),
            ("Access-Control-Expose-Headers", "x-secret"),
            ("access-control-allow-methods", "DELETE"),
            ("access-control-allow-private-network", "true"),
            ("cache-control", "max-age=60"),
            ("x-secret", "1"),
        ];
        Script::answer(200, &fields, "page")
    })
}

fn in_front_of(endpoint: SocketAddr, settings: &str) -> Gateway {
    let text = crate::exchange::routes(&[endpoint], settings);
    Gateway::with(text).config(crate::exchange::H2C).start()
}

fn said(answer: &Response) -> Vec<(String, String)> {
    let mut fields: Vec<_> = answer.headers.clone();
    fields.retain(|it| it.0.to_ascii_lowercase().starts_with("access-control-"));
    fields.iter_mut().for_each(|it| it.0.make_ascii_lowercase());
    fields.sort();
    fields
}

#[test]
fn s2s_9_with_cors_on_a_route_the_upstreams_own_word_about_origins_does_not_count() {
    let upstream = reflecting();
    for more in ["", ", cache: { ttl: 1h }"] {
        let settings = format!("cors: {{ origins: [\"https://app.example\"], credentials: true }}{more}");
        let gateway = in_front_of(upstream.address(), &settings);
        for _ in 0..2 {
            for origin in ["https://evil.example", "null", "https://app.example.evil.example"] {
                let answer = gateway.request("GET", "/", &[("origin", origin)], b"");
                assert_eq!((answer.text().as_str(), said(&answer)), ("page", vec![]), "{origin} {more}");
            }
            assert_eq!(said(&gateway.get("/")), vec![], "no page at all");
            let own = gateway.request("GET", "/", &[("origin", "https://app.example")], b"");
            let own = said(&own);
            let value = |name: &str| own.iter().filter(|it| it.0 == name).map(|it| it.1.as_str()).collect::<Vec<_>>();
            assert_eq!(value("access-control-allow-origin"), ["https://app.example"], "{own:?}");
            assert_eq!(value("access-control-allow-credentials"), ["true"], "{own:?}");
            assert!(!value("access-control-expose-headers").concat().contains("x-secret"), "{own:?}");
            assert_eq!(own.len(), 3, "{own:?}");
        }
    }
}

#[test]
fn s2s_9_the_operators_word_about_such_a_field_is_the_last_one() {
    let upstream = reflecting();
    let settings =
        "cors: { origins: [\"https://app.example\"] }, headers: { set: { access-control-expose-headers: \"x-mine\" } }";
    let gateway = in_front_of(upstream.address(), settings);
    let answer = gateway.request("GET", "/", &[("origin", "https://app.example")], b"");
    assert_eq!(answer.headers_named("access-control-expose-headers"), ["x-mine"]);
}

#[test]
fn s2s_9_without_cors_the_upstreams_own_word_passes_as_it_is() {
    let upstream = reflecting();
    let gateway = in_front_of(upstream.address(), "");
    let answer =
        H2Client::connect(gateway.public()).request("GET", "/", &[("origin", "https://any.example")], b"", None);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://any.example"));
    assert_eq!(said(&answer).len(), 5);
}

//! What becomes of an upstream's response on its way back: errors in our shape, paths that clients can use, limits of
//! size, and what depends on `Accept`.

use crate::accounts::moongate;
use crate::exchange::in_front_of;
use crate::support::upstream::{answer_bytes, chunk, chunked_head, last_chunk};
use crate::support::*;

fn failing(status: u16) -> RawUpstream {
    RawUpstream::start(move |_| {
        let fields = [
            ("content-type", "text/html"),
            ("etag", "\"a\""),
            ("retry-after", "7"),
            ("x-own", "1"),
            ("cache-control", "max-age=60"),
        ];
        Script::new().read_body().send(answer_bytes(status, &fields, b"<h1>Traceback</h1>"))
    })
}

#[test]
fn r2_3_errors_of_upstreams_pass_or_are_wrapped_as_the_route_says() {
    for status in [404, 409, 500, 503] {
        let upstream = failing(status);
        let passed = in_front_of(&upstream, "").get("/");
        assert_eq!((passed.status, passed.text().as_str()), (status, "<h1>Traceback</h1>"));
        let gateway = in_front_of(&upstream, "upstream_errors: wrap");
        let answer = gateway.get("/");
        assert_eq!((answer.status, answer.header("content-type")), (status, Some("application/json")));
        let error = &answer.json()["error"];
        assert_eq!(
            (&error["code"], &error["details"]["status"]),
            (&"upstream_error".into(), &status.into()),
            "{error}"
        );
        assert_eq!(error["request_id"].as_str(), answer.header("x-request-id"));
        assert_eq!(
            (answer.header("retry-after"), answer.header("x-own"), answer.header("etag")),
            (Some("7"), Some("1"), None)
        );
        let head = gateway.request("HEAD", "/", &[], b"");
        assert_eq!((head.status, head.header("content-type")), (status, Some("application/json")));
        assert_eq!(gateway.access_log_for(answer.header("x-request-id").unwrap())["end"], "done");
        assert_eq!(H2Client::connect(gateway.public()).get("/").json()["error"]["code"], "upstream_error");
    }
}

#[test]
fn r2_3_wrapped_errors_are_not_cached_and_replays_are_wrapped_again() {
    let upstream = failing(404);
    let gateway = in_front_of(&upstream, "upstream_errors: wrap, cache: { ttl: 1h }");
    assert_eq!(
        [gateway.get("/").header("x-cache"), gateway.get("/").header("x-cache")].map(|it| it.map(str::to_owned)),
        [Some("miss".to_owned()), Some("miss".to_owned())]
    );
    let upstream = failing(409);
    let gateway = in_front_of(&upstream, "upstream_errors: wrap, idempotency: {}");
    let ask = || gateway.request("POST", "/", &[("idempotency-key", "a")], b"{}");
    let (first, again) = (ask(), ask());
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    for answer in [&first, &again] {
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (409, &"upstream_error".into()));
        assert_eq!(answer.json()["error"]["request_id"].as_str(), answer.header("x-request-id"), "its own");
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn locations_and_paths_of_cookies_are_written_back_where_the_path_was() {
    let upstream = RawUpstream::start(|it| {
        let host = it.header("host").unwrap();
        let fields = match it.target().as_str() {
            "/players/old" => vec![
                ("location", "/players/new?x=1".to_owned()),
                ("set-cookie", "a=1; Path=/players; HttpOnly".to_owned()),
            ],
            "/players/abs" => {
                vec![("location", format!("http://{host}/players/new")), ("cache-control", "max-age=60".to_owned())]
            }
            _ => vec![
                ("location", "https://elsewhere.example/players/new".to_owned()),
                ("set-cookie", "a=1; Path=/".to_owned()),
            ],
        };
        let fields: Vec<(&str, &str)> = fields.iter().map(|it| (it.0, it.1.as_str())).collect();
        Script::answer(301, &fields, "")
    });
    let text = |more: &str| {
        format!(
            "version: 1
upstreams: {{ up: {{ discovery: {{ static: [\"{}\"] }} }} }}
routes:
  - name: all
    match: {{ path: \"/api/v1/players/{{*rest}}\" }}
    rewrite: {{ path: \"/players/{{rest}}\"{more} }}
    upstream: up
    cache: {{}}
",
            upstream.address()
        )
    };
    let gateway = Gateway::start(text(""));
    let get = |name: &str| gateway.get(&format!("/api/v1/players/{name}"));
    let old = get("old");
    assert_eq!(old.header("location"), Some("/api/v1/players/new?x=1"));
    assert_eq!(old.header("set-cookie"), Some("a=1; Path=/api/v1/players; HttpOnly"));
    let first = get("abs");
    assert_eq!((first.header("x-cache"), first.header("location")), (Some("miss"), Some("/api/v1/players/new")));
    let hit = get("abs");
    assert_eq!((hit.header("x-cache"), hit.header("location")), (Some("hit"), Some("/api/v1/players/new")));
    let other = get("other");
    assert_eq!(other.header("location"), Some("https://elsewhere.example/players/new"));
    assert_eq!(
        other.header("set-cookie"),
        Some("a=1; Path=/"),
        "what the upstream says of all its paths is not about these"
    );
    let gateway = Gateway::start(text(", back: false"));
    assert_eq!(gateway.get("/api/v1/players/old").header("location"), Some("/players/new?x=1"));
}

#[test]
fn a_response_that_is_larger_than_the_limit_is_refused_or_cut_and_streams_have_none() {
    let upstream = RawUpstream::start(|it| match it.target().as_str() {
        "/small" => Script::ok(vec![b'x'; 1024]),
        "/large" => Script::ok(vec![b'x'; 1025]),
        "/chunked" => Script::new()
            .send(chunked_head(200))
            .send(chunk(&[b'x'; 1000]))
            .send(chunk(&[b'y'; 1000]))
            .send(last_chunk(&[])),
        _ => Script::new()
            .send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            .send(vec![b':'; 4000])
            .send("\n\n")
            .close(),
    });
    let gateway = in_front_of(&upstream, "response_limit: 1KiB");
    assert_eq!(gateway.get("/small").body.len(), 1024);
    let answer = gateway.get("/large");
    let error = &answer.json()["error"];
    assert_eq!(
        (answer.status, &error["code"], &error["details"]["limit_bytes"]),
        (502, &"response_too_large".into(), &1024.into())
    );
    let head = gateway.request("HEAD", "/large", &[], b"");
    assert_eq!((head.status, head.header("content-length")), (200, Some("1025")), "a head has no body");
    let mut client = RawClient::connect(gateway.public());
    client.send("GET /chunked HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let received = String::from_utf8(client.read_until_close()).unwrap();
    assert!(!received.ends_with("0\r\n\r\n"), "nobody takes it for whole: {received}");
    assert!(gateway.get("/events").body.len() > 4000);
}

#[test]
fn r2_5_what_depends_on_accept_says_so() {
    let gateway = Gateway::start(
        "version: 1
routes:
  - { name: json, match: { path: /export, accept: [application/json] }, respond: { body: '{}', content_type: application/json } }
  - { name: text, match: { path: /export, accept: [\"text/*\"] }, respond: { body: x } }
  - { name: plain, match: { path: /plain }, respond: { body: x } }
",
    );
    let get = |path: &str, accept: &str| gateway.request("GET", path, &[("accept", accept)], b"");
    let (json, text) = (get("/export", "application/json"), get("/export", "application/json;q=0.4, text/plain"));
    assert_eq!([&json, &text].map(|it| it.text()), ["{}", "x"]);
    let varies = |it: &Response| it.headers_named("vary").iter().any(|it| it.eq_ignore_ascii_case("accept"));
    assert!(varies(&json) && varies(&text) && !varies(&get("/plain", "text/plain")));
    assert_eq!(get("/export", "image/png").status, 406);
}

#[test]
fn r2_1_check_warns_of_public_paths_without_a_version_or_with_verbs_unless_it_is_told_not_to() {
    let folder = Folder::new();
    folder.write("gateway.yaml", gateway::CONFIG);
    let check = |route: &str| {
        folder.write(
            "routes.yaml",
            format!("version: 1\nupstreams: {{ a: {{ discovery: {{ static: [\"127.0.0.1:1\"] }} }} }}\nroutes: [{{ name: r, upstream: a, {route} }}]\n"),
        );
        let run = moongate(&folder, &["check", "--config", "gateway.yaml", "--routes", "routes.yaml"], "", &[]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.stdout
    };
    for (path, said) in [
        ("/api/players", "the path of route `r` has no version"),
        ("/api/v1/getPlayers", "`getPlayers` says `get`, as a method does"),
        ("/api/v1/players/{id}/delete", "`delete` says `delete`"),
        ("/api/v1/Players", "`Players` has capital letters"),
    ] {
        let printed = check(&format!("match: {{ path: \"{path}\" }}"));
        assert!(printed.contains("warning") && printed.contains(said), "{path}: {printed}");
        let silent = check(&format!("match: {{ path: \"{path}\" }}, lint: false"));
        assert!(!silent.contains("warning"), "{silent}");
    }
    for path in ["/api/v1/players/{id}/characters", "/api/{*rest}", "/api/{version}/players", "/players", "/getaway"] {
        let printed = check(&format!("match: {{ path: \"{path}\" }}"));
        assert!(!printed.contains("warning"), "{path}: {printed}");
    }
}

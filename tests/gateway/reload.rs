//! Changing what serves while it serves: files, signals, calls; what is refused; what lives on.

use std::io::{Read, Write};
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use super::support::http1::request_bytes;
use super::support::upstream::{chunk, chunked_head, last_chunk};
use super::support::*;

/// One worker, so that which upstream connection is used is not a matter of luck.
const ONE_THREAD: &str = r#"
listeners:
  public: [{ address: "127.0.0.1:0" }]
  admin: { address: "127.0.0.1:0" }
threads: 1
"#;

/// Routes that answer at once: `name: body`.
fn answers(routes: &[(&str, &str)]) -> String {
    let route = |(name, body): &(&str, &str)| {
        format!("  - {{ name: {name}, match: {{ path: /{name} }}, respond: {{ body: \"{body}\" }} }}\n")
    };
    format!("version: 1\nroutes:\n{}", routes.iter().map(route).collect::<String>())
}

/// `/up/…` to this upstream, and a route that only tells one file from another.
fn proxied(upstream: &RawUpstream, mark: &str) -> String {
    format!(
        "version: 1\nupstreams:\n  back: {{ discovery: {{ static: [\"{}\"] }} }}\nroutes:\n  \
         - {{ name: up, match: {{ path: \"/up/{{*rest}}\" }}, upstream: back }}\n  \
         - {{ name: mark, match: {{ path: /mark }}, respond: {{ body: \"{mark}\" }} }}\n",
        upstream.address()
    )
}

fn generation(gateway: &Gateway) -> u64 {
    gateway.admin_get("/admin/config").json()["generation"].as_u64().unwrap()
}

#[track_caller]
fn wait_for_body(gateway: &Gateway, path: &str, body: &str) {
    eventually(body, || (gateway.get(path).text() == body).then_some(()));
}

#[test]
fn reload_on_a_write_in_place() {
    let gateway = Gateway::start(answers(&[("one", "old")]));
    gateway.write_routes(&answers(&[("one", "new")]));
    wait_for_body(&gateway, "/one", "new");
    assert_eq!(generation(&gateway), 2);
}

#[test]
fn reload_on_a_rename_over_the_file() {
    let gateway = Gateway::start(answers(&[("one", "old")]));
    for text in ["new", "newer"] {
        gateway.replace_routes(&answers(&[("one", text)]));
        wait_for_body(&gateway, "/one", text);
    }
    assert_eq!(generation(&gateway), 3);
}

#[test]
fn reload_on_kubernetes_swap_of_a_symlink() {
    // As a ConfigMap is mounted: routes.yaml -> ..data/routes.yaml, ..data -> ..1, swapped as a whole.
    let builder = Gateway::with(answers(&[("one", "old")]));
    let root = builder.folder().path().to_owned();
    builder.folder().write("..1/routes.yaml", "");
    symlink("..1", root.join("..data")).unwrap();
    symlink("..data/routes.yaml", root.join("routes.yaml")).unwrap();
    let gateway = builder.start();
    assert_eq!(gateway.get("/one").text(), "old");
    for (number, text) in [(2, "new"), (3, "newer")] {
        gateway.folder().write(&format!("..{number}/routes.yaml"), answers(&[("one", text)]));
        symlink(format!("..{number}"), root.join("..fresh")).unwrap();
        std::fs::rename(root.join("..fresh"), root.join("..data")).unwrap();
        std::fs::remove_dir_all(root.join(format!("..{}", number - 1))).unwrap();
        wait_for_body(&gateway, "/one", text);
    }
}

#[test]
fn reload_on_sighup_though_nothing_changed() {
    let gateway = Gateway::start(answers(&[("one", "old")]));
    gateway.sighup();
    let event = gateway.wait_for_event("reloaded", |_| true);
    assert_eq!((&event["generation"], &event["added"], &event["changed"]), (&json!(2), &json!(""), &json!("")));
    assert_eq!(gateway.get("/one").text(), "old");
}

#[test]
fn reload_by_call_tells_what_it_changed() {
    let gateway = Gateway::start(answers(&[("kept", "1"), ("changed", "1"), ("gone", "1")]));
    gateway.write_routes(&answers(&[("kept", "1"), ("changed", "2"), ("fresh", "1")]));
    // Whichever comes first, the call or the file's own event: what changed is told once in the log.
    let _ = gateway.reload();
    let told = gateway.wait_for_event("reloaded", |it| it["added"] != "");
    assert_eq!(
        (&told["added"], &told["changed"], &told["removed"]),
        (&json!("fresh"), &json!("changed"), &json!("gone"))
    );
    assert_eq!((gateway.get("/fresh").status, gateway.get("/gone").status), (200, 404));

    let answer = gateway.reload();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (body, none) = (answer.json(), json!([]));
    assert_eq!((&body["added"], &body["changed"], &body["removed"]), (&none, &none, &none));
}

#[test]
fn reload_answer_lists_added_changed_and_removed_routes() {
    let before = [("kept", "1"), ("changed", "1"), ("gone", "1")];
    let after = [("kept", "1"), ("changed", "2"), ("fresh", "1")];
    let gateway = Gateway::with(answers(&before)).config(ONE_THREAD).start();
    // Whoever comes first reports the change, the call or the file's own event, which waits for a moment of quiet; the
    // other one finds nothing more to report. That holds each time; and the call is first at last.
    let body = eventually("the call is first", || {
        gateway.write_routes(&answers(&after));
        let body = gateway.reload().json();
        let reported = gateway.wait_for_event("reloaded", |it| it["added"] == "fresh");
        assert_eq!((&reported["changed"], &reported["removed"]), (&json!("changed"), &json!("gone")));
        assert!(body["generation"].as_u64() >= reported["generation"].as_u64(), "{body} {reported}");
        if body["added"] == json!(["fresh"]) {
            return Some(body);
        }
        for list in ["added", "changed", "removed"] {
            assert_eq!(body[list], json!([]), "twice: {body}");
        }
        gateway.write_routes(&answers(&before));
        gateway.reload();
        wait_for_body(&gateway, "/changed", "1");
        None
    });
    assert_eq!(body["changed"], json!(["changed"]));
    assert_eq!(body["removed"], json!(["gone"]));
    assert_eq!(body["generation"], generation(&gateway));
}

#[test]
fn a_file_event_without_other_content_is_no_reload() {
    let config = format!("{ONE_THREAD}telemetry: {{ log: {{ level: debug }} }}\n");
    let gateway = Gateway::with(answers(&[("one", "old")])).config(config).start();
    gateway.write_routes(&answers(&[("one", "new")]));
    wait_for_body(&gateway, "/one", "new");
    let before = generation(&gateway);
    let needless = || gateway.events("reload_needless").len();
    for _ in 0..3 {
        let known = needless();
        gateway.replace_routes(&answers(&[("one", "new")]));
        eventually("the event was looked into", || (needless() > known).then_some(()));
    }
    gateway.replace_routes(&answers(&[("one", "newer")]));
    wait_for_body(&gateway, "/one", "newer");
    assert_eq!(generation(&gateway), before + 1);
    gateway.wait_for_event("reloaded", |it| it["generation"] == before + 1);
    assert_eq!(gateway.events("reloaded").len() as u64, before);
}

#[test]
fn a_bad_file_keeps_the_old_snapshot_and_says_so_everywhere() {
    let gateway = Gateway::start(answers(&[("one", "old")]));
    assert_eq!(figure(&gateway, "moongate_config_last_reload_success"), Some(1.0));
    assert_eq!(gateway.admin_get("/admin/config").json()["last_error"], Value::Null);

    let bad = answers(&[("one", "new")]).replace("respond", "respnod").replace("match: {", "match: { methds: [GET],");
    gateway.replace_routes(&bad);
    let answer = gateway.reload();
    assert_eq!(answer.status, 422);
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "invalid_configuration");
    let faults = error["details"]["faults"].as_array().unwrap();
    assert!(faults.len() >= 2, "every fault at once: {faults:?}");
    for fault in faults {
        assert!(fault["file"].as_str().unwrap().ends_with("routes.yaml"), "{fault}");
        assert_eq!(fault["line"], 3, "{fault}");
        assert!(fault["column"].as_u64().unwrap() > 1, "{fault}");
    }
    let event = gateway.wait_for_event("reload_refused", |_| true);
    assert_eq!(event["level"], "error");
    assert!(event["detail"].as_str().unwrap().contains("respnod"), "{event}");
    assert_eq!(figure(&gateway, "moongate_config_last_reload_success"), Some(0.0));
    let config = gateway.admin_get("/admin/config").json();
    assert_eq!(config["generation"], 1);
    assert!(!config["last_error"]["faults"].as_array().unwrap().is_empty());
    assert_eq!(gateway.get("/one").text(), "old");

    // And back again, by the file's event alone.
    gateway.replace_routes(&answers(&[("one", "newer")]));
    wait_for_body(&gateway, "/one", "newer");
    assert_eq!(figure(&gateway, "moongate_config_last_reload_success"), Some(1.0));
    assert_eq!(gateway.admin_get("/admin/config").json()["last_error"], Value::Null);
    // Whoever asked is told, and whoever watched the file may have come first.
    assert!(gateway.events("reload_refused").len() <= 2, "a refusal is told once to each");
}

#[test]
fn a_bad_file_is_refused_on_sighup_too() {
    let gateway = Gateway::start(answers(&[("one", "old")]));
    gateway.replace_routes("version: 1\nroutes: nonsense\n");
    gateway.wait_for_event("reload_refused", |_| true);
    gateway.sighup();
    // Asked for, so told again.
    eventually("the second refusal", || (gateway.events("reload_refused").len() == 2).then_some(()));
    assert_eq!(gateway.get("/one").text(), "old");
    assert_eq!(figure(&gateway, "moongate_config_reloads_total{result=\"refused\"}"), Some(2.0));
}

#[test]
fn a_file_that_is_gone_keeps_the_old_snapshot() {
    let gateway = Gateway::start(answers(&[("one", "old")]));
    std::fs::remove_file(gateway.folder().path().join("routes.yaml")).unwrap();
    gateway.wait_for_event("reload_refused", |_| true);
    assert_eq!(gateway.get("/one").text(), "old");
    gateway.write_routes(&answers(&[("one", "new")]));
    wait_for_body(&gateway, "/one", "new");
}

#[test]
fn a_changed_listener_address_is_refused_with_the_reason() {
    let gateway = Gateway::start(answers(&[("one", "old")]));
    let other = gateway::CONFIG.replacen("127.0.0.1:0", "127.0.0.2:0", 1);
    gateway.folder().write("gateway.yaml", other);
    gateway.write_routes(&answers(&[("one", "new")]));
    let answer = gateway.reload();
    assert_eq!(answer.status, 422);
    let body = answer.json();
    let faults = body["error"]["details"]["faults"].as_array().unwrap();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0]["file"].as_str().unwrap().ends_with("gateway.yaml"));
    assert_eq!(faults[0]["path"], "/listeners/public/0/address");
    let (message, help) = (faults[0]["message"].as_str().unwrap(), faults[0]["help"].as_str().unwrap());
    assert!(message.contains("address can't change while the process runs") && help.contains("restart"), "{body}");
    assert_eq!(gateway.get("/one").text(), "old", "both files or neither");
}

#[test]
fn an_unchanged_upstream_keeps_connections_health_and_counters() {
    let upstream = RawUpstream::start(|_| Script::ok("hello"));
    let gateway = Gateway::with(proxied(&upstream, "old")).config(ONE_THREAD).start();
    let endpoint = |gateway: &Gateway| {
        let all = gateway.admin_get("/admin/upstreams").json();
        let back = all["upstreams"].as_array().unwrap().iter().find(|it| it["name"] == "back").cloned().unwrap();
        back["endpoints"][0].clone()
    };
    assert_eq!(gateway.get("/up/1").text(), "hello");
    let since = endpoint(&gateway)["since"].clone();
    gateway.write_routes(&proxied(&upstream, "new"));
    wait_for_body(&gateway, "/mark", "new");
    assert_eq!(gateway.reload().json()["upstreams"], json!([]));
    assert_eq!(gateway.get("/up/2").text(), "hello");
    assert_eq!(upstream.connections(), 1, "the connection outlived the reloads");
    // Counted when it has ended, which is after the client has read the answer.
    let now = eventually("two requests", || Some(endpoint(&gateway)).filter(|it| it["requests"] == 2));
    assert_eq!(now["since"], since);
}

#[test]
fn an_endpoint_found_dead_is_still_known_to_be_after_a_reload() {
    let (live, dead) = (RawUpstream::start(|_| Script::ok("hello")), nobody());
    let routes = |mark: &str| {
        format!(
            "version: 1\nupstreams:\n  back:\n    discovery: {{ static: [\"{dead}\", \"{}\"] }}\n    \
             health: {{ tcp: true, every: 1h }}\nroutes:\n  \
             - {{ name: up, match: {{ path: /up }}, upstream: back }}\n  \
             - {{ name: mark, match: {{ path: /mark }}, respond: {{ body: \"{mark}\" }} }}\n",
            live.address()
        )
    };
    let gateway = Gateway::start(routes("old"));
    gateway.wait_for_event("endpoint_unhealthy", |it| it["endpoint"] == dead.to_string());
    gateway.write_routes(&routes("new"));
    wait_for_body(&gateway, "/mark", "new");
    let all = gateway.admin_get("/admin/upstreams").json();
    let back = all["upstreams"].as_array().unwrap().iter().find(|it| it["name"] == "back").unwrap();
    assert_eq!((&back["endpoints"][0]["health"], &back["eligible"]), (&json!("unhealthy"), &json!(1)));
    assert_eq!(gateway.events("endpoint_unhealthy").len(), 1);
}

#[test]
fn a_request_under_way_keeps_the_snapshot_that_it_began_with() {
    let (release, arrived) = (Signal::new(), Signal::new());
    let (go, here) = (release.clone(), arrived.clone());
    let upstream = RawUpstream::start(move |_| {
        Script::new().read_body().give(&here).wait(&go).send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate")
    });
    let with_header = |value: &str| {
        proxied(&upstream, value)
            .replace("upstream: back }", &format!("upstream: back, headers: {{ set: {{ x-version: {value} }} }} }}"))
    };
    let gateway = Gateway::start(with_header("old"));
    let mut client = RawClient::connect(gateway.public());
    client.send(request_bytes(gateway.public(), "GET", "/up/slow", &[], b""));
    assert!(arrived.wait());
    // The route's upstream goes away altogether.
    gateway.write_routes(&answers(&[("mark", "new")]));
    wait_for_body(&gateway, "/mark", "new");
    assert_eq!(gateway.get("/up/slow").status, 404);
    release.give();
    let answer = client.read_response();
    assert_eq!((answer.text().as_str(), answer.header("x-version")), ("late", Some("old")));
}

#[test]
fn an_event_stream_outlives_the_route_that_it_came_by() {
    let (release, done) = (Signal::new(), Signal::new());
    let (go, end) = (release.clone(), done.clone());
    let upstream = RawUpstream::start(move |_| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let first = Script::new().send(head).send(chunk(b"data: 1\n\n")).wait(&go);
        first.send(chunk(b"data: 2\n\n")).wait(&end).send(last_chunk(&[]))
    });
    let gateway = Gateway::start(proxied(&upstream, "old"));
    let mut client = RawClient::connect(gateway.public());
    client.send(request_bytes(gateway.public(), "GET", "/up/events", &[], b""));
    assert_eq!(client.read_head().status, 200);
    assert_eq!(client.try_read_piece().unwrap().unwrap(), b"data: 1\n\n");
    gateway.write_routes(&answers(&[("mark", "new")]));
    wait_for_body(&gateway, "/mark", "new");
    release.give();
    assert_eq!(client.try_read_piece().unwrap().unwrap(), b"data: 2\n\n");
    done.give();
    assert_eq!(client.try_read_piece().unwrap(), None);
}

#[test]
fn a_websocket_outlives_the_route_that_it_came_by() {
    let demo = Demo::start("one");
    let socket_route = |mark: &str| {
        format!(
            "version: 1\nupstreams:\n  demo: {{ discovery: {{ static: [\"{}\"] }} }}\nroutes:\n  \
             - {{ name: ws, match: {{ path: /ws, websocket: true }}, upstream: demo }}\n  \
             - {{ name: mark, match: {{ path: /mark }}, respond: {{ body: \"{mark}\" }} }}\n",
            demo.address()
        )
    };
    let gateway = Gateway::start(socket_route("1"));
    let mut socket = WsClient::connect(gateway.public(), "/ws", &[]);
    socket.send_text("before");
    assert_eq!(socket.read(), Message::text("before"));
    gateway.write_routes(&socket_route("2"));
    wait_for_body(&gateway, "/mark", "2");
    socket.send_text("between");
    assert_eq!(socket.read(), Message::text("between"));
    gateway.write_routes(&answers(&[("mark", "3")]));
    wait_for_body(&gateway, "/mark", "3");
    socket.send_text("after");
    assert_eq!(socket.read(), Message::text("after"));
    socket.close(1000, "done");
}

#[test]
fn renewed_certificates_are_taken_up_by_their_files_alone_and_bad_ones_are_not() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let config =
        gateway::CONFIG.replacen("\"127.0.0.1:0\" }", "\"127.0.0.1:0\", tls: { cert: cert.pem, key: key.pem } }", 1);
    let (first, second) = (old.leaf(&["here.test"]), new.leaf(&["here.test"]));
    let gateway = Gateway::with(answers(&[("one", "hello")]))
        .config(config)
        .file("cert.pem", first.cert)
        .file("key.pem", first.key)
        .start();
    let trusts = |ca: &Ca| RawClient::try_connect_tls(gateway.public(), "here.test", ca.client(&[], None));
    let mut before = trusts(&old).unwrap();

    gateway.folder().replace("cert.pem", "nonsense");
    let kept = gateway.wait_for_event("certificate_kept", |_| true);
    assert!(kept["error"].as_str().unwrap().contains("cert.pem"), "{kept}");
    assert!(trusts(&old).is_ok(), "the old one stays in use");

    gateway.folder().replace("key.pem", second.key);
    gateway.folder().replace("cert.pem", second.cert);
    eventually("the new one is shown", || trusts(&new).ok());
    assert!(trusts(&old).is_err());
    before.send(request_bytes(gateway.public(), "GET", "/one", &[], b""));
    assert_eq!(before.read_response().text(), "hello", "open connections notice nothing");
}

#[test]
fn clients_go_on_resuming_their_tls_sessions_after_a_reload() {
    let ca = Ca::new("one");
    let leaf = ca.leaf(&["here.test"]);
    let config =
        gateway::CONFIG.replacen("\"127.0.0.1:0\" }", "\"127.0.0.1:0\", tls: { cert: cert.pem, key: key.pem } }", 1);
    let routes = answers(&[("one", "hello")]);
    let gateway = Gateway::with(routes).config(config).file("cert.pem", leaf.cert).file("key.pem", leaf.key).start();
    // One configuration, because it holds the tickets.
    let client = ca.client(&[], None);
    let connect = || {
        let name = rustls::pki_types::ServerName::try_from("here.test").unwrap();
        let session = rustls::ClientConnection::new(client.clone(), name).unwrap();
        let mut wire = rustls::StreamOwned::new(session, http1::connect(gateway.public()).unwrap());
        wire.write_all(&request_bytes(gateway.public(), "GET", "/one", &[], b"")).unwrap();
        // To its end, for the tickets come with the answer.
        let _ = wire.read_to_end(&mut Vec::new());
        wire.conn.handshake_kind().unwrap()
    };
    assert_eq!(connect(), rustls::HandshakeKind::Full);
    assert_eq!(connect(), rustls::HandshakeKind::Resumed);
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(connect(), rustls::HandshakeKind::Resumed);
}

#[test]
fn a_changed_authority_of_an_upstream_is_noticed_without_a_change_of_the_routes() {
    let (right, wrong) = (Ca::new("right"), Ca::new("wrong"));
    let upstream = RawUpstream::start_tls(&right.leaf(&["back.test"]), &[], |_| Script::ok("hello"));
    let routes = format!(
        "version: 1\nupstreams:\n  back: {{ discovery: {{ static: [\"{}\"] }}, tls: {{ sni: back.test, ca: ca.pem }} }}\n\
         routes:\n  - {{ name: up, match: {{ path: /up }}, upstream: back }}\n",
        upstream.address()
    );
    let gateway = Gateway::with(routes).file("ca.pem", wrong.pem()).start();
    assert_eq!(gateway.get("/up").status, 502);
    gateway.folder().replace("ca.pem", right.pem());
    wait_for_body(&gateway, "/up", "hello");
    assert_eq!(gateway.wait_for_event("reloaded", |_| true)["upstreams"], "back");
}

#[test]
fn a_file_that_a_reload_brought_in_is_watched_too() {
    let (right, wrong) = (Ca::new("right"), Ca::new("wrong"));
    let upstream = RawUpstream::start_tls(&right.leaf(&["back.test"]), &[], |_| Script::ok("hello"));
    let routes = format!(
        "version: 1\nupstreams:\n  back: {{ discovery: {{ static: [\"{}\"] }}, tls: {{ sni: back.test, ca: late/ca.pem }} }}\n\
         routes:\n  - {{ name: up, match: {{ path: /up }}, upstream: back }}\n",
        upstream.address()
    );
    let gateway = Gateway::start(answers(&[("one", "old")]));
    gateway.folder().write("late/ca.pem", wrong.pem());
    gateway.write_routes(&routes);
    eventually("502", || (gateway.get("/up").status == 502).then_some(()));
    gateway.folder().replace("late/ca.pem", right.pem());
    wait_for_body(&gateway, "/up", "hello");
}

#[test]
fn reloads_by_all_ways_at_once_end_with_the_last_file() {
    let upstream = RawUpstream::start(|_| Script::ok("hello"));
    let gateway = Gateway::start(proxied(&upstream, "0"));
    for round in 1..=20 {
        gateway.write_routes(&proxied(&upstream, &round.to_string()));
        gateway.sighup();
        assert_eq!(gateway.reload().status, 200);
        assert_eq!(gateway.get("/mark").text(), round.to_string());
        assert_eq!(gateway.get("/up/1").text(), "hello");
    }
    let config = gateway.admin_get("/admin/config").json();
    assert_eq!(config["last_error"], Value::Null);
}

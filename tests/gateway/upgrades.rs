//! Which requests become something else than HTTP, and what those that may not are told.

use std::process::Command;

use crate::bad_input::exact;
use crate::exchange::H2C;
use crate::support::http1::field;
use crate::support::{Folder, Gateway, RawClient, RawUpstream, Script, WsClient, figure, gateway};

const KEYS: &str = "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Routes of every kind, of which only `/ws` takes handshakes.
fn text(upstream: std::net::SocketAddr) -> String {
    format!(
        "version: 1
upstreams:
  up: {{ discovery: {{ static: [\"{upstream}\"] }} }}
  health: {{ local: health }}
routes:
  - {{ name: plain, match: {{ path: \"/plain/{{*rest}}\" }}, upstream: up }}
  - {{ name: kept, match: {{ path: /kept }}, upstream: up, cache: {{ ttl: 1h }} }}
  - {{ name: once, match: {{ path: /once }}, upstream: up, idempotency: {{}} }}
  - {{ name: local, match: {{ path: /local }}, upstream: health }}
  - {{ name: hello, match: {{ path: /hello }}, respond: {{ body: hello }} }}
  - {{ name: moved, match: {{ path: /moved }}, redirect: {{ to: /hello }} }}
  - {{ name: socket, match: {{ path: /ws, websocket: true }}, upstream: up }}
  - {{ name: both, match: {{ path: /both, websocket: true }}, upstream: up }}
  - {{ name: both-plain, match: {{ path: /both }}, upstream: up }}
"
    )
}

/// Answers what it was asked for; a handshake gets its 101 where it says so, and then an echo of five bytes.
fn echo() -> RawUpstream {
    RawUpstream::start(|request| match request.header("upgrade") {
        Some(_) => Script::new().read_body().send(SWITCHED).await_close(),
        None => Script::ok("plain"),
    })
}

// ── Where none is taken ─────────────────────────────────────────────────────────────────────────

#[test]
fn rfc_6455_4_2_2_a_handshake_on_a_route_that_takes_none_is_refused_and_told_which_key_would() {
    let upstream = echo();
    let gateway = Gateway::with(text(upstream.address())).config(H2C).start();
    let mut wrong = Vec::new();
    let mut refused = 0.0;
    for path in ["/plain/a", "/kept", "/once", "/local", "/hello", "/moved", "/api/health"] {
        for fields in [
            "connection: Upgrade\r\nupgrade: websocket\r\n",
            "Connection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\n",
            "connection: keep-alive\r\nconnection: UPGRADE\r\nupgrade: WEBSOCKET\r\n",
        ] {
            let mut client = RawClient::connect(gateway.public());
            client.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n{fields}{KEYS}\r\n"));
            let answer = client.read_response();
            let error = serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap_or_default()["error"].clone();
            if (answer.status, error["code"].as_str()) != (400, Some("upgrade_not_allowed")) {
                wrong.push(format!("{path}, {fields:?}: {} {}", answer.status, answer.text()));
                continue;
            }
            refused += 1.0;
            if !error["details"].to_string().contains("match.websocket") {
                wrong.push(format!("{path}: the details name no key: {error}"));
            }
            let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
            if (line["error"].as_str(), line["end"].as_str()) != (Some("upgrade_not_allowed"), Some("refused")) {
                wrong.push(format!("{path}: the log says {line}"));
            }
        }
    }
    if upstream.connections() > 0 {
        wrong.push(format!("{} arrived", upstream.requests().len()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(figure(&gateway, "moongate_refusals_total{code=\"upgrade_not_allowed\"}"), Some(refused));
    // Where there is nothing at all, that is what is said.
    assert_eq!(WsClient::try_connect(gateway.public(), "/nowhere", &[]).err().unwrap().status, 404);
    // And where they are taken, they are.
    for path in ["/ws", "/both"] {
        let mut client = RawClient::connect(gateway.public());
        client
            .send(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n{KEYS}\r\n"));
        assert_eq!(client.read_head().status, 101, "{path}");
    }
}

/// What is not HTTP is not offered but needed: an answer to the request would not be what the client waits for.
#[test]
fn rfc_9110_7_8_a_protocol_that_a_route_does_not_name_is_refused_and_told_which_key_would() {
    let upstream = echo();
    let gateway = Gateway::with(text(upstream.address())).config(H2C).start();
    for (method, protocol, setting) in [
        ("GET", "tcp", "upgrade"),
        ("POST", "tcp", "upgrade"),
        ("GET", "websockets", "upgrade"),
        ("GET", "h2c, tcp", "upgrade"),
        ("GET", "websocket, x", "match.websocket"),
        ("GET", "x, WebSocket", "match.websocket"),
        ("POST", "websocket", "match.websocket"),
    ] {
        for path in ["/plain/a", "/both", "/hello"] {
            let mut client = RawClient::connect(gateway.public());
            client.send(format!(
                "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n{KEYS}\r\n"
            ));
            let answer = client.read_response();
            assert_eq!(answer.status, 400, "{method} {path} {protocol}: {}", answer.text());
            let error = &answer.json()["error"];
            assert_eq!(error["code"], "upgrade_not_allowed", "{error}");
            assert_eq!(
                (&error["details"]["protocol"], &error["details"]["setting"]),
                (&protocol.into(), &setting.into())
            );
        }
    }
    assert_eq!(upstream.requests().len(), 0, "nothing of it arrived");
}

/// A client may offer another HTTP, and gets what it asked for (RFC 9110, section 7.8).
#[test]
fn rfc_9110_7_8_an_offer_of_another_http_is_passed_over() {
    let upstream = echo();
    let gateway = Gateway::with(text(upstream.address())).config(H2C).start();
    for fields in [
        "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
        "connection: Upgrade\r\nupgrade: TLS/1.0\r\n",
        "connection: Upgrade\r\nupgrade: h2c, HTTP/3.0\r\n",
    ] {
        for path in ["/plain/a", "/both"] {
            let mut client = RawClient::connect(gateway.public());
            client.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n{fields}\r\n"));
            let answer = client.read_response();
            assert_eq!((answer.status, answer.text().as_str()), (200, "plain"), "{path} {fields:?}");
        }
    }
    for request in upstream.requests() {
        let text = String::from_utf8(request).unwrap().to_lowercase();
        assert!(
            !text.contains("\r\nupgrade:") && !text.contains("\r\nconnection:") && !text.contains("http2-settings"),
            "{text}"
        );
    }
}

#[test]
fn rfc_6455_4_2_2_explain_tells_that_a_route_takes_no_handshakes() {
    let folder = Folder::new();
    folder.write("conf/gateway.yaml", gateway::CONFIG);
    folder.write("routes.yaml", text(crate::support::nobody()));
    let explain = |path: &str, fields: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moongate"));
        command.args(["explain", "GET", path]).args(fields.iter().flat_map(|it| ["-H", it]));
        let output = command.current_dir(folder.path()).env_clear().output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for path in ["/plain/a", "/hello", "/local"] {
        for fields in [&["upgrade: websocket"][..], &["Upgrade: WebSocket", "Connection: upgrade"]] {
            let told = explain(path, fields);
            assert!(
                told.contains("upgrade_not_allowed") && told.contains("match.websocket"),
                "{path} {fields:?}: {told}"
            );
        }
        assert!(!explain(path, &[]).contains("upgrade_not_allowed"));
    }
    let told = explain("/plain/a", &["upgrade: tcp"]);
    assert!(told.contains("upgrade_not_allowed") && told.contains("`upgrade`"), "{told}");
    assert!(!explain("/plain/a", &["upgrade: h2c"]).contains("upgrade_not_allowed"));
    let told = explain("/ws", &["upgrade: websocket"]);
    assert!(told.contains("route      socket\n") && !told.contains("upgrade_not_allowed"), "{told}");
}

// ── What is none ────────────────────────────────────────────────────────────────────────────────

#[test]
fn rfc_9110_7_8_upgrade_counts_only_if_connection_names_it() {
    let upstream = echo();
    let gateway = Gateway::with(text(upstream.address())).config(H2C).start();
    let mut wrong = Vec::new();
    let requests = [
        ("no Connection", "GET", "1.1", "upgrade: websocket\r\n"),
        ("Connection: keep-alive", "GET", "1.1", "connection: keep-alive\r\nupgrade: websocket\r\n"),
        ("Connection: x-upgrade", "GET", "1.1", "connection: x-upgrade\r\nupgrade: websocket\r\n"),
        ("Connection: upgraded", "GET", "1.1", "connection: upgraded\r\nupgrade: websocket\r\n"),
        ("no Upgrade", "GET", "1.1", "connection: upgrade\r\n"),
        // RFC 9110, section 7.8: a server must ignore it there.
        ("HTTP/1.0", "GET", "1.0", "connection: upgrade\r\nupgrade: websocket\r\n"),
        // RFC 6455, section 4.1: a handshake is a GET.
        ("POST", "POST", "1.1", "connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\n"),
    ];
    for (name, method, version, fields) in requests {
        // One route takes nothing but handshakes, beside the other there is one for ordinary requests.
        for (path, want) in [("/ws", 404), ("/both", 200)] {
            let before = upstream.requests().len();
            let mut client = RawClient::connect(gateway.public());
            client.send(format!("{method} {path} HTTP/{version}\r\nhost: x\r\n{fields}{KEYS}\r\n"));
            let answer = client.try_read_response(method);
            // A POST that asks for an upgrade may also be told that it is none.
            let fits = answer.as_ref().is_ok_and(|it| it.status == want || (method == "POST" && it.status == 400));
            if !fits {
                wrong.push(format!("{name} on {path}: {answer:?}"));
            }
            for request in &upstream.requests()[before..] {
                let text = String::from_utf8_lossy(request).to_lowercase();
                if text.contains("\r\nupgrade:") || text.contains("\r\nconnection:") {
                    wrong.push(format!("{name} on {path}: {text}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rfc_9110_7_6_1_a_handshake_may_name_upgrade_in_any_line_of_connection() {
    let upstream = echo();
    let gateway = Gateway::with(text(upstream.address())).config(H2C).start();
    for fields in [
        "connection: keep-alive, Upgrade\r\n",
        "connection: keep-alive\r\nconnection: upgrade\r\n",
        "connection: x-a\r\nx-a: 1\r\nConnection: ,UPGRADE,\r\n",
    ] {
        let mut client = RawClient::connect(gateway.public());
        client.send(format!("GET /ws HTTP/1.1\r\nhost: x\r\n{fields}upgrade: websocket\r\n{KEYS}\r\n"));
        assert_eq!(client.read_head().status, 101, "{fields:?}");
        let text = String::from_utf8(upstream.requests().pop().unwrap()).unwrap().to_lowercase();
        assert!(!text.contains("\r\nx-a:"), "{text}");
        assert!(text.contains("\r\nconnection: upgrade\r\n") && text.contains("\r\nupgrade: websocket\r\n"), "{text}");
    }
}

// ── Bodies ──────────────────────────────────────────────────────────────────────────────────────

#[test]
fn rfc_9110_7_8_the_body_of_an_upgrade_request_is_forwarded_or_refused_and_never_lost() {
    let bodies = [
        ("a length", "content-length: 5\r\n\r\nhello"),
        ("chunks", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("chunks in pieces", "transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
    ];
    let mut wrong = Vec::new();
    for (name, body) in bodies {
        for (agrees, path) in [(true, "/ws"), (false, "/ws")] {
            let upstream = RawUpstream::start(move |_| {
                let script = Script::new().read_body();
                if agrees {
                    script.send(SWITCHED).await_close()
                } else {
                    script.send("HTTP/1.1 403 No\r\ncontent-length: 2\r\n\r\nno")
                }
            });
            let gateway = Gateway::with(text(upstream.address())).config(H2C).start();
            let mut client = RawClient::connect(gateway.public());
            client.send(format!(
                "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n{KEYS}{body}"
            ));
            let head = match client.try_read_head("GET") {
                Ok(head) => head,
                Err(error) => {
                    wrong.push(format!("{name}, {agrees}: {error}; the upstream: {:?}", upstream.failures()));
                    continue;
                }
            };
            let arrived: Vec<_> = upstream.received().iter().map(|it| exact::requests(it)).collect();
            let whole = matches!(&arrived[..], [Ok(requests)] if requests.len() == 1 && requests[0].body == b"hello" && !requests[0].cut);
            let fits = match head.status {
                400 => arrived.is_empty(),
                101 => agrees && whole,
                403 => !agrees && whole,
                _ => false,
            };
            if !fits {
                wrong.push(format!("{name}, {agrees}: {}, arrived: {arrived:?}", head.status));
            }
            if head.status == 400 {
                let closes = field(&head.headers, "connection") == Some("close");
                if !closes {
                    // Then the body must have been read: what follows is the next request.
                    while client.try_read_piece().unwrap().is_some() {}
                    client.send("GET /hello HTTP/1.1\r\nhost: x\r\n\r\n");
                    assert_eq!(client.read_response().text(), "hello", "{name}");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Nor is one taken for the first bytes of the tunnel.
#[test]
fn rfc_9110_7_8_a_body_hides_no_request_from_an_upstream_that_declines_the_upgrade() {
    let upstream = RawUpstream::start(|request| match request.header("upgrade") {
        Some(_) => Script::answer(403, &[], "no"),
        None => Script::ok("plain"),
    });
    let gateway = Gateway::with(text(upstream.address())).config(H2C).start();
    let hidden = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    for path in ["/ws", "/both", "/plain/a"] {
        for framing in [
            format!("content-length: {}\r\n\r\n{hidden}", hidden.len()),
            format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len()),
            format!("\r\n{hidden}"),
        ] {
            let mut client = RawClient::connect(gateway.public());
            client.send(format!(
                "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n{KEYS}{framing}"
            ));
            client.finish_sending();
            client.read_until_close();
        }
    }
    drop(gateway);
    upstream.wait_for_closed(upstream.connections());
    for bytes in upstream.received() {
        let requests = exact::requests(&bytes).unwrap();
        // Without a body it is the client's own next request, on a connection that stayed HTTP: there is no such route.
        assert!(requests.iter().all(|it| it.target != "/smuggled"), "{}", bytes.escape_ascii());
    }
}

/// What a 101 says about the upstream's own connection stays there, but for the upgrade itself.
#[test]
fn rfc_9110_7_6_1_a_switch_loses_what_belongs_to_the_upstreams_connection() {
    let upstream = RawUpstream::start(|_| {
        let fields = "connection: x-hop\r\nconnection: keep-alive, Upgrade\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nproxy-connection: x\r\nte: deflate\r\nx-end: 1\r\n";
        Script::new().send(SWITCHED.replace("connection: Upgrade\r\n", fields)).await_close()
    });
    let gateway = Gateway::with(text(upstream.address())).config(H2C).start();
    let mut client = RawClient::connect(gateway.public());
    client.send(format!("GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n{KEYS}\r\n"));
    let head = client.read_head();
    assert_eq!((head.status, field(&head.headers, "x-end")), (101, Some("1")));
    let connection: Vec<_> = head
        .headers
        .iter()
        .filter(|it| it.0.eq_ignore_ascii_case("connection"))
        .map(|it| it.1.to_lowercase())
        .collect();
    assert_eq!(connection, ["upgrade"]);
    for name in ["x-hop", "keep-alive", "proxy-connection", "te"] {
        assert_eq!(field(&head.headers, name), None, "{name}");
    }
}

// ── Other protocols ─────────────────────────────────────────────────────────────────────────────

#[test]
fn rfc_9110_7_8_a_route_may_name_further_protocols_and_nothing_is_said_in_them() {
    let switched = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: tcp\r\n\r\n";
    let upstream = RawUpstream::start(move |request| match request.header("upgrade") {
        Some(_) => Script::new().send(switched).read_more(5).send("world").await_close(),
        None => Script::ok("plain"),
    });
    let routes = format!(
        "version: 1\nupstreams: {{ up: {{ discovery: {{ static: [\"{}\"] }} }} }}\nroutes:\n  \
         - {{ name: attach, match: {{ path: /attach }}, upstream: up, upgrade: [tcp] }}\n  \
         - {{ name: other, match: {{ path: /other }}, upstream: up }}\n",
        upstream.address()
    );
    let mut gateway = Gateway::with(routes).config(format!("{H2C}shutdown: {{ delay: 0s, grace: 1s }}\n")).start();
    let asks = |method: &str, path: &str, protocols: &str| {
        let mut client = RawClient::connect(gateway.public());
        client.send(format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: {protocols}\r\n\r\n"
        ));
        client
    };
    for (path, protocols, setting) in [
        ("/attach", "tcp, h2c", "upgrade"),
        ("/attach", "tcp/2", "upgrade"),
        ("/attach", "x", "upgrade"),
        ("/other", "tcp", "upgrade"),
        ("/attach", "websocket", "match.websocket"),
    ] {
        let answer = asks("GET", path, protocols).read_response();
        assert_eq!(
            (answer.status, &answer.json()["error"]["details"]["setting"]),
            (400, &setting.into()),
            "{protocols}"
        );
    }
    assert_eq!(asks("GET", "/attach", "h2c").read_response().text(), "plain");
    let mut tunnels: Vec<RawClient> = [("POST", "tcp"), ("GET", "TCP")]
        .into_iter()
        .map(|(method, protocol)| {
            let mut client = asks(method, "/attach", protocol);
            let head = client.read_head();
            assert_eq!((head.status, field(&head.headers, "upgrade")), (101, Some("tcp")));
            client.send("hello");
            assert_eq!(client.read_exactly(5), b"world");
            client
        })
        .collect();
    // At the stop, no word of another protocol is put between what they say.
    gateway.sigterm();
    for client in &mut tunnels {
        assert_eq!(client.read_until_close(), b"");
    }
    assert_eq!(gateway.wait_exit(), 0);
}

#[test]
fn rfc_9110_7_8_protocols_that_would_pass_every_filter_are_faults() {
    for (protocol, says) in [
        ("h2c", "never passes"),
        ("H2C", "never passes"),
        ("HTTP/2.0", "never passes"),
        ("TLS/1.0", "never passes"),
        ("websocket", "no further protocol"),
        ("a b", "not the name of a protocol"),
    ] {
        let routes = format!(
            "version: 1\nupstreams: {{ up: {{ discovery: {{ static: [\"127.0.0.1:1\"] }} }} }}\nroutes:\n  \
             - {{ name: a, match: {{ path: /a }}, upstream: up, upgrade: [\"{protocol}\"] }}\n"
        );
        let refused = Gateway::with(routes).start_refused();
        assert!(refused.code == 1 && refused.stderr.contains(says), "{protocol}: {}", refused.stderr);
    }
}

#[test]
fn rfc_9110_7_8_an_upstream_changes_to_what_was_asked_for_or_not_at_all() {
    let upstream = RawUpstream::start(|_| {
        let switched = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n";
        Script::new().send(switched).await_close()
    });
    let routes = format!(
        "version: 1\nupstreams: {{ up: {{ discovery: {{ static: [\"{}\"] }} }} }}\nroutes:\n  \
         - {{ name: attach, match: {{ path: /attach }}, upstream: up, upgrade: [tcp] }}\n  \
         - {{ name: ws, match: {{ path: /ws, websocket: true }}, upstream: up }}\n",
        upstream.address()
    );
    let gateway = Gateway::start(routes);
    for (path, fields) in [("/attach", "upgrade: tcp\r\n"), ("/ws", &*format!("upgrade: websocket\r\n{KEYS}"))] {
        let mut client = RawClient::connect(gateway.public());
        client.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\n{fields}\r\n"));
        assert_eq!(client.read_response().status, 502, "{path}");
    }
}

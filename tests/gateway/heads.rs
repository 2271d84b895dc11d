//! What heads may be: how large, and which host they are for.

use std::thread;

use crate::exchange::{H2C, routes};
use crate::support::{Gateway, H2Client, RawClient, RawUpstream, Script};

/// Nobody is cut for being slow here: what is refused is refused for its size.
fn patient(upstream: &RawUpstream) -> Gateway {
    let config = "listeners:\n  public: [{ address: \"127.0.0.1:0\", h2c: true, limits: { header_timeout: 1m } }]\n  admin: { address: \"127.0.0.1:0\" }\n";
    Gateway::with(routes(&[upstream.address()], "")).config(config).start()
}

/// How much of a process is in memory, in KiB: now, or the most it ever was.
fn memory(gateway: &Gateway, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix(what)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

const HEAD: &str = "GET / HTTP/1.1\r\nHost: a\r\n";

/// More than a head may be, in different places, and never an end.
fn endless() -> Vec<(&'static str, Vec<u8>)> {
    let filled =
        |head: &str, piece: &str| [head.as_bytes(), piece.repeat((70 << 10) / piece.len()).as_bytes()].concat();
    vec![
        ("a value", filled(&format!("{HEAD}X: "), "a")),
        ("blanks before a value", filled(&format!("{HEAD}X:"), " ")),
        ("a name", filled(HEAD, "a")),
        ("short fields", filled(HEAD, "x: y\r\n")),
        ("long fields", filled(HEAD, &format!("x: {}\r\n", "y".repeat(5_000)))),
        ("fields of a POST", filled("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX: ", "a")),
    ]
}

#[test]
fn rfc_6585_5_a_head_is_refused_when_it_has_passed_its_limit_whether_or_not_it_ends() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = patient(&upstream);
    let mut wrong = Vec::new();
    let asking: Vec<_> = endless()
        .into_iter()
        .map(|(name, bytes)| {
            let address = gateway.public();
            let ask = move || {
                let mut client = RawClient::connect(address);
                // It may close before it has read all.
                let _ = client.try_send(bytes);
                client
                    .try_read_response("GET")
                    .map(|it| (it.status, it.json()["error"]["code"].as_str().unwrap_or_default().to_owned()))
            };
            (name, thread::spawn(ask))
        })
        .collect();
    for (name, it) in asking {
        match it.join().unwrap() {
            Ok((431, code)) if code == "headers_too_large" => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(upstream.connections(), 0);
    assert_eq!(gateway.get("/").text(), "fine");
}

#[test]
fn rfc_6585_5_two_hundred_heads_of_a_megabyte_are_refused_and_hold_no_memory() {
    const CLIENTS: usize = 200;
    const GROWTH_KIB: u64 = 40 << 10;
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = patient(&upstream);
    assert_eq!(gateway.get("/").text(), "fine");
    let before = memory(&gateway, "VmRSS");
    let field = [HEAD.as_bytes(), b"X: ", &vec![b'a'; 1 << 20]].concat();
    let clients: Vec<_> = (0..CLIENTS).map(|_| RawClient::connect(gateway.public())).collect();
    let statuses: Vec<_> = thread::scope(|scope| {
        let asking: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                let field = &field;
                scope.spawn(move || {
                    let _ = client.try_send(field);
                    client.try_read_response("GET").map(|it| it.status).map_err(|it| it.kind())
                })
            })
            .collect();
        asking.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let most = memory(&gateway, "VmHWM");
    let others: Vec<_> = statuses.iter().filter(|it| **it != Ok(431)).collect();
    assert!(others.is_empty(), "{} of {CLIENTS} were told something else: {others:?}", others.len());
    assert!(most < before + GROWTH_KIB, "{before} KiB, and then {most} KiB");
    assert_eq!(upstream.requests().len(), 1);
}

// ── Hosts ───────────────────────────────────────────────────────────────────────────────────────

/// A host in one form: without case, and without the port that its scheme means anyway.
fn plain(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    host.strip_suffix(":80").unwrap_or(&host).to_owned()
}

#[test]
fn rfc_9112_3_2_2_an_absolute_target_may_name_its_host_in_any_case_and_with_the_default_port() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let text = routes(&[upstream.address()], "").replace("path: \"/{*rest}\"", "path: \"/{*rest}\", hosts: [gw.test]");
    let gateway = Gateway::with(text).config(H2C).start();
    let mut wrong = Vec::new();
    for (target, host) in [
        ("http://GW.test/x", "gw.test"),
        ("http://gw.test/x", "GW.TEST"),
        ("HTTP://gw.test/x", "gw.test"),
        ("http://gw.test:80/x", "gw.test"),
        ("http://gw.test/x", "gw.test:80"),
        ("http://Gw.Test:80/x", "gW.tEST"),
        ("http://gw.test:80/x", "gw.test:80"),
        ("http://gw.test:/x", "gw.test"),
        ("http://gw.test/x", "gw.test"),
        ("/x", "GW.test"),
        ("/x", "gw.test:80"),
    ] {
        for rest in ["\r\n", "Content-Length: 0\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] {
            let method = if rest == "\r\n" { "GET" } else { "POST" };
            let mut client = RawClient::connect(gateway.public());
            client.send(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{rest}"));
            let answer = client.read_response();
            if answer.status != 200 {
                wrong.push(format!("{method} {target}, {host}: {}", answer.status));
                continue;
            }
            let arrived = crate::bad_input::exact::requests(upstream.requests().last().unwrap()).unwrap();
            let hosts: Vec<_> = arrived[0].all("host").into_iter().map(plain).collect();
            if (arrived[0].target.as_str(), hosts) != ("/x", vec!["gw.test".to_owned()]) {
                wrong.push(format!("{method} {target}, {host}: {arrived:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rfc_9112_3_2_2_an_absolute_target_for_another_host_is_refused() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = Gateway::with(routes(&[upstream.address()], "")).config(H2C).start();
    for (target, host) in [
        ("http://gw.test:81/x", "gw.test"),
        ("http://gw.test:443/x", "gw.test"),
        ("http://gw.test/x", "gw.test:8080"),
        ("http://gw.test/x", "gw.tests"),
        ("http://a.gw.test/x", "gw.test"),
        ("http://gw.test:080/x", "gw.test:81"),
    ] {
        let mut client = RawClient::connect(gateway.public());
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.read_response().status, 400, "{target}, {host}");
    }
    assert_eq!(upstream.connections(), 0);
    assert_eq!(H2Client::connect(gateway.public()).get("/x").text(), "fine");
}

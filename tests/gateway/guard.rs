//! Floods of connections, requests and errors, and slow clients, lead to blocks (R5.5).

use std::io::Read;
use std::net::TcpStream;

use crate::exchange::H2C;
use crate::support::http1::request;
use crate::support::waiting::{eventually, figure};
use crate::support::{Gateway, RawClient, RawUpstream, Response, Script};

const ROUTES: &str = "version: 1\nroutes:\n  - { name: hi, match: { path: /hi }, respond: { body: hi } }\n";

/// Clients tell their address as behind a proxy, so that one machine can be many.
fn start(guard: &str) -> Gateway {
    let config = format!("{H2C}\ntrusted_proxies: [127.0.0.1/32]\nguard: {guard}\n");
    Gateway::with(ROUTES).config(config).start()
}

fn get_as(gateway: &Gateway, client: &str, path: &str) -> Response {
    gateway.request("GET", path, &[("X-Forwarded-For", client)], "")
}

fn code(answer: &Response) -> String {
    answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn r5_5_a_flood_of_requests_leads_to_a_block_an_event_and_a_webhook() {
    let alerts = RawUpstream::start(|_| Script::new().read_body().send("HTTP/1.1 204 No Content\r\n\r\n"));
    let webhook = format!("{{ url: \"http://{}/alert\", authorization: \"Bearer canary-secret\" }}", alerts.address());
    let gateway = start(&format!("{{ requests: {{ count: 20, every: 1m }}, webhook: {webhook} }}"));
    let answers: Vec<Response> = (0..40).map(|_| get_as(&gateway, "203.0.113.9", "/hi")).collect();
    let passed = answers.iter().filter(|it| it.status == 200).count();
    // The estimate may be too high, and never too low; the exact half is exact.
    assert!((10..=21).contains(&passed), "{passed}");
    let refused = answers.last().unwrap();
    assert_eq!((refused.status, code(refused).as_str()), (429, "address_blocked"));
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() <= 60);
    assert_eq!(get_as(&gateway, "203.0.113.10", "/hi").status, 200, "others go on");

    let event = gateway.wait_for_event("address_blocked", |_| true);
    assert_eq!((event["client"].as_str(), event["reason"].as_str()), (Some("203.0.113.9"), Some("request_flood")));
    let told = eventually("the whole alert", || {
        let text = String::from_utf8(alerts.requests().first()?.clone()).unwrap();
        text.contains("request_flood").then_some(text)
    });
    assert!(told.starts_with("POST /alert ") && told.contains("\"address\":\"203.0.113.9\""), "{told}");
    assert!(told.contains("Bearer canary-secret"));
    assert!(gateway.log_lines().iter().all(|it| !it.text.contains("canary-secret")));
    assert_eq!(figure(&gateway, "moongate_guard_blocks_total{reason=\"request_flood\"}"), Some(1.0));
    assert_eq!(figure(&gateway, "moongate_guard_blocked"), Some(1.0));
}

#[test]
fn r5_5_a_flood_of_errors_and_slow_clients_are_offences_too() {
    let gateway = start("{ errors: { count: 10, every: 1m } }");
    (0..30).for_each(|_| drop(get_as(&gateway, "203.0.113.9", "/nowhere")));
    let answer = get_as(&gateway, "203.0.113.9", "/hi");
    assert_eq!((answer.status, code(&answer).as_str()), (429, "address_blocked"));
    (0..30).for_each(|_| assert_eq!(get_as(&gateway, "203.0.113.10", "/hi").status, 200));

    let limits = "limits: { header_timeout: 100ms }";
    let config = H2C.replacen("h2c: true", &format!("h2c: true, {limits}"), 1);
    let config = format!("{config}\nguard: {{ slow: {{ count: 2, every: 1m }} }}\n");
    let slow = Gateway::with(ROUTES).config(config).start();
    for _ in 0..3 {
        let mut client = RawClient::connect(slow.public());
        client.send("GET /hi HTTP/1.1\r\n");
        client.read_until_close();
    }
    let event = slow.wait_for_event("address_blocked", |_| true);
    assert_eq!((event["client"].as_str(), event["reason"].as_str()), (Some("127.0.0.1"), Some("slow_client")));
}

#[test]
fn r5_5_a_blocked_peer_is_turned_away_before_a_byte_is_read() {
    let config = format!("{H2C}\nguard: {{ connections: {{ count: 6, every: 1m }} }}\n");
    let gateway = Gateway::with(ROUTES).config(config).start();
    // The one that is open already says it is blocked, once.
    let mut open = RawClient::connect(gateway.public());
    open.send("GET /hi HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(open.read_response().status, 200);
    eventually("the block", || {
        drop(TcpStream::connect(gateway.public()));
        (!gateway.events("address_blocked").is_empty()).then_some(())
    });
    let mut refused = TcpStream::connect(gateway.public()).unwrap();
    let read = refused.read(&mut [0; 1]);
    assert!(read.is_err() || read.is_ok_and(|it| it == 0), "nothing is said");
    open.send("GET /hi HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(open.read_response().status, 429);
    open.expect_closed();
    assert!(figure(&gateway, "moongate_guard_turned_away_total{stage=\"connection\"}").unwrap() >= 1.0);
    assert_eq!(figure(&gateway, "moongate_guard_turned_away_total{stage=\"request\"}"), Some(1.0));
}

#[test]
fn operators_list_add_and_lift_blocks() {
    let gateway = start("{ allow: [203.0.113.128/25] }");
    let ask = |method: &str, address: &str, body: &str| {
        let json = [("content-type", "application/json")];
        request(gateway.admin(), method, &format!("/admin/blocks/{address}"), &json, body)
    };
    assert_eq!(ask("PUT", "203.0.113.9", r#"{"time":"5m","reason":"by hand"}"#).status, 201);
    assert_eq!(ask("PUT", "2001:db8::1", "").status, 201);
    assert_eq!(ask("PUT", "203.0.113.200", "").status, 201);
    assert_eq!(get_as(&gateway, "203.0.113.9", "/hi").status, 429);
    assert_eq!(get_as(&gateway, "2001:db8::2", "/hi").status, 429, "the whole network of a customer");
    assert_eq!(get_as(&gateway, "203.0.113.200", "/hi").status, 200, "the operator's list wins");
    let list = gateway.admin_get("/admin/blocks").json();
    let shown: Vec<_> = list["blocks"].as_array().unwrap().iter().map(|it| it["address"].as_str().unwrap()).collect();
    assert!(shown.contains(&"203.0.113.9") && shown.contains(&"2001:db8::"), "{shown:?}");
    assert_eq!(ask("DELETE", "203.0.113.9", "").status, 204);
    assert_eq!(get_as(&gateway, "203.0.113.9", "/hi").status, 200);
    assert_eq!(ask("DELETE", "203.0.113.9", "").status, 404);
    for (address, body) in [("nobody", ""), ("203.0.113.9", "{"), ("203.0.113.9", r#"{"time":"0s"}"#)] {
        assert_eq!(ask("PUT", address, body).status, 400, "{address} {body}");
    }
}

#[test]
fn a_block_ends_by_itself_and_the_next_is_longer() {
    let gateway = start("{ errors: { count: 2, every: 1m }, block: { first: 100ms, longest: 1h } }");
    let offend = || while get_as(&gateway, "203.0.113.9", "/nowhere").status == 404 {};
    offend();
    gateway.wait_for_event("address_unblocked", |it| it["by"] == "time");
    offend();
    gateway.wait_for_event("address_blocked", |it| it["strikes"] == 2);
}

#[test]
fn many_addresses_leave_the_guard_as_small_as_it_was() {
    // A sketch of fixed size counts everybody; only suspects take room, and they are bounded.
    let gateway = start("{ requests: { count: 1000, every: 1s } }");
    let mut client = RawClient::connect(gateway.public());
    for batch in 0..20_u32 {
        let requests: String = (0..100_u32)
            .map(|it| {
                let address = std::net::Ipv4Addr::from(0x0a00_0000 + batch * 100 + it);
                format!("GET /hi HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {address}\r\n\r\n")
            })
            .collect();
        client.send(requests);
        (0..100).for_each(|_| assert_eq!(client.read_response().status, 200));
    }
    assert_eq!(gateway.admin_get("/admin/limits").json()["guard"]["addresses"], 0);
}

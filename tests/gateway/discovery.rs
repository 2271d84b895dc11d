//! Endpoints that come and go without a reload: names in DNS, files. R1.4: discovered without anybody's doing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;

use crate::support::dns::{Record, Zone};
use crate::support::*;

const NAME: &str = "backend.internal";

fn config(dns: &DnsServer) -> String {
    let listeners = "listeners: { public: [{ address: \"127.0.0.1:0\" }], admin: { address: \"127.0.0.1:0\" } }";
    format!("{listeners}\nresolver: {{ servers: [\"{}\"], timeout: 300ms }}\n", dns.address())
}

fn routes(discovery: &str) -> String {
    format!(
        "version: 1
upstreams: {{ backend: {{ discovery: {discovery} }} }}
routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: backend }}]
"
    )
}

fn served_by(gateway: &Gateway) -> String {
    let answer = gateway.get("/echo");
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_str::<Value>(&answer.text()).unwrap()["name"].as_str().unwrap().to_owned()
}

fn upstream(gateway: &Gateway) -> Value {
    let page: Value = serde_json::from_str(&gateway.admin_get("/admin/upstreams").text()).unwrap();
    page["upstreams"].as_array().unwrap().iter().find(|it| it["name"] == "backend").unwrap().clone()
}

/// Two back ends on the same port of two addresses, as names in DNS have them.
fn two() -> (Demo, Demo) {
    let one = Demo::start("one");
    let two = Demo::start_at("two", SocketAddr::from(([127, 0, 0, 2], one.address().port())));
    (one, two)
}

#[test]
fn a_name_stands_where_an_address_may() {
    let (one, dns) = (Demo::start("one"), DnsServer::start());
    dns.addresses(NAME, 60, &["127.0.0.1"]);
    let port = one.address().port();
    for discovery in [
        format!("{{ static: [\"{NAME}:{port}\"] }}"),
        format!("{{ static: [{{ address: \"{NAME}:{port}\", weight: 3, zone: a }}] }}"),
        format!("{{ dns: {{ name: {NAME}, port: {port} }} }}"),
    ] {
        let gateway = Gateway::with(routes(&discovery)).config(config(&dns)).start();
        assert_eq!(served_by(&gateway), "one", "the first request already: {discovery}");
        let upstream = upstream(&gateway);
        assert_eq!(upstream["discovery"][0]["source"], format!("dns {NAME}:{port}"));
        assert_eq!(upstream["endpoints"][0]["address"], format!("127.0.0.1:{port}"));
        let weight = if discovery.contains("weight") { 3 } else { 1 };
        assert_eq!(upstream["endpoints"][0]["weight"], weight);
    }
}

#[test]
fn r1_4_a_change_in_dns_is_followed_and_costs_no_request() {
    let ((one, two), dns) = (two(), DnsServer::start());
    dns.addresses(NAME, 1, &["127.0.0.1"]);
    let discovery = format!("{{ dns: {{ name: {NAME}, port: {} }} }}", one.address().port());
    let gateway = Arc::new(Gateway::with(routes(&discovery)).config(config(&dns)).start());
    let ended = Arc::new(AtomicBool::new(false));
    let client = {
        let (gateway, ended) = (gateway.clone(), ended.clone());
        thread::spawn(move || {
            let mut requests = 0;
            while !ended.load(Ordering::Relaxed) {
                served_by(&gateway);
                requests += 1;
            }
            requests
        })
    };
    dns.addresses(NAME, 1, &["127.0.0.2"]);
    eventually("the new address serves", || (served_by(&gateway) == "two").then_some(()));
    drop(one);
    dns.addresses(NAME, 1, &["127.0.0.1", "127.0.0.2"]);
    eventually("both are known", || (upstream(&gateway)["endpoints"].as_array().unwrap().len() == 2).then_some(()));
    ended.store(true, Ordering::Relaxed);
    assert!(client.join().unwrap() > 0);
    assert!(!gateway.events("endpoint_removed").is_empty());
    drop(two);
}

#[test]
fn the_last_good_answer_serves_while_the_resolver_fails() {
    let (one, dns) = (Demo::start("one"), DnsServer::start());
    dns.addresses(NAME, 1, &["127.0.0.1"]);
    let discovery = format!("{{ dns: {{ name: {NAME}, port: {}, every: 1s }} }}", one.address().port());
    let gateway = Gateway::with(routes(&discovery)).config(config(&dns)).start();
    for (zone, reason) in [
        (Zone::Failing, ""),
        (Zone::Empty, "the name has no such record"),
        (Zone::Nowhere, "there is no such name"),
        (Zone::Silent, ""),
    ] {
        dns.set(NAME, zone.clone());
        let error = eventually("the failure is told", || {
            let error = upstream(&gateway)["discovery"][0]["error"].as_str().map(str::to_owned);
            error.filter(|it| it.contains(reason))
        });
        assert!(!error.contains("NetError"), "plain words: {error}");
        assert_eq!(served_by(&gateway), "one", "{zone:?}");
        assert!(upstream(&gateway)["discovery"][0]["confirmed"].as_str().is_some_and(|it| it.ends_with('Z')));
        dns.addresses(NAME, 1, &["127.0.0.1"]);
        eventually("it recovers", || upstream(&gateway)["discovery"][0]["error"].is_null().then_some(()));
    }
    assert!(!gateway.events("discovery_failed").is_empty());
    assert!(!gateway.events("discovery_recovered").is_empty());
}

#[test]
fn srv_brings_ports_and_weights_of_the_best_priority() {
    let (one, two, dns) = (Demo::start("one"), Demo::start("two"), DnsServer::start());
    let service = |priority, weight, of: SocketAddr, host: &str| Record::Service {
        priority,
        weight,
        port: of.port(),
        host: host.to_owned(),
    };
    let records = vec![
        service(10, 5, one.address(), "a.internal"),
        service(10, 0, two.address(), "b.internal"),
        service(20, 9, one.address(), "spare.internal"),
        service(10, 1, one.address(), "lost.internal"),
    ];
    dns.set("_http._tcp.players.internal", Zone::Records(60, records));
    for host in ["a.internal", "b.internal", "spare.internal"] {
        dns.addresses(host, 60, &["127.0.0.1"]);
    }
    let gateway = Gateway::with(routes("{ srv: { name: _http._tcp.players.internal } }")).config(config(&dns)).start();
    let endpoints = upstream(&gateway)["endpoints"].clone();
    let mut weights: Vec<(String, u64)> = endpoints
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["address"].as_str().unwrap().to_owned(), it["weight"].as_u64().unwrap()))
        .collect();
    weights.sort_by_key(|it| it.1);
    assert_eq!(weights, [(two.address().to_string(), 1), (one.address().to_string(), 5)]);
    assert!(["one", "two"].contains(&served_by(&gateway).as_str()));
}

#[test]
fn a_name_that_never_answers_holds_nobody_else_up() {
    let (one, dns) = (Demo::start("one"), DnsServer::start());
    dns.set(NAME, Zone::Silent);
    let text = format!(
        "version: 1
upstreams:
  backend: {{ discovery: {{ dns: {{ name: {NAME}, port: 1 }} }} }}
  other: {{ discovery: {{ static: [\"{}\"] }} }}
routes:
  - {{ name: lost, match: {{ path: /lost }}, upstream: backend }}
  - {{ name: other, match: {{ path: \"/{{*rest}}\" }}, upstream: other }}
",
        one.address()
    );
    let gateway = Gateway::with(&text).config(config(&dns)).start();
    assert_eq!(served_by(&gateway), "one");
    let answer = gateway.get("/lost");
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("upstream_unavailable")));
    // A reload does not wait for it again and again, and a name that comes to life is served.
    assert_eq!(gateway.reload().status, 200);
    dns.addresses(NAME, 1, &["127.0.0.1"]);
    eventually("the name is known", || (upstream(&gateway)["endpoints"].as_array().unwrap().len() == 1).then_some(()));
}

#[test]
fn a_file_of_endpoints_is_followed_and_a_fault_in_it_changes_nothing() {
    let (one, two) = (Demo::start("one"), Demo::start("two"));
    let text = routes("{ file: endpoints.yaml }");
    let gateway = Gateway::with(text).file("endpoints.yaml", format!("- {}\n", one.address())).start();
    assert_eq!(served_by(&gateway), "one");
    gateway.folder().write("endpoints.yaml", format!("- {}\n- {{ address: \"", two.address()));
    eventually("the fault is told", || upstream(&gateway)["discovery"][0]["error"].as_str().map(str::to_owned));
    assert_eq!(served_by(&gateway), "one");
    gateway.folder().replace("endpoints.yaml", format!("[{{ \"address\": \"{}\", \"zone\": \"b\" }}]", two.address()));
    eventually("the new list serves", || (served_by(&gateway) == "two").then_some(()));
    assert_eq!(upstream(&gateway)["endpoints"][0]["zone"], "b");
}

#[test]
fn endpoints_that_are_found_are_checked_like_those_that_are_listed() {
    let ((one, two), dns) = (two(), DnsServer::start());
    dns.addresses(NAME, 1, &["127.0.0.1"]);
    let text = format!(
        "version: 1
upstreams:
  backend:
    discovery: {{ dns: {{ name: {NAME}, port: {} }} }}
    health: {{ http: /health, every: 50ms, timeout: 45ms, fail_after: 1, pass_after: 1 }}
routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: backend }}]
",
        one.address().port()
    );
    let gateway = Gateway::with(text).config(config(&dns)).start();
    dns.addresses(NAME, 1, &["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    let health = |address: &str| {
        let upstream = upstream(&gateway);
        let endpoints = upstream["endpoints"].as_array().unwrap();
        let found = endpoints.iter().find(|it| it["address"].as_str().unwrap().starts_with(address));
        found.map(|it| it["health"].as_str().unwrap().to_owned())
    };
    eventually("the one that came is checked", || health("127.0.0.2:").filter(|it| it == "healthy"));
    eventually("nobody is there", || health("127.0.0.3:").filter(|it| it == "unhealthy"));
    dns.addresses(NAME, 1, &["127.0.0.2"]);
    eventually("the others are gone", || {
        (upstream(&gateway)["endpoints"].as_array().unwrap().len() == 1).then_some(())
    });
    let series = format!("moongate_endpoint_healthy{{endpoint=\"{}\",upstream=\"backend\"}}", one.address());
    assert!(figure(&gateway, &series).is_none(), "its series goes with it");
    // On a busy machine a check may take longer than it has.
    eventually("the one that stays serves", || (gateway.get("/echo").status == 200).then_some(()));
    drop(two);
}

#[test]
fn what_is_no_address_is_a_fault_that_shows_one() {
    for (wrong, right) in [
        ("http://backend:80", "backend.internal:9101"),
        ("backend", "backend.internal:9101"),
        ("127.0.0:80", "backend.internal:9101"),
    ] {
        let refused = Gateway::with(routes(&format!("{{ static: [\"{wrong}\"] }}"))).start_refused();
        assert!(refused.stderr.contains("is not an address with a port"), "{}", refused.stderr);
        assert!(refused.stderr.contains(right), "{}", refused.stderr);
    }
    for (discovery, message) in [
        ("{}", "there is no endpoint"),
        ("{ dns: { name: \"http://x\", port: 80 } }", "is not a name in DNS"),
        ("{ srv: { name: \"a b\" } }", "is not a name in DNS"),
        ("{ dns: { name: x, port: 80, every: 1ms } }", "too short"),
        ("{ registry: { service: \"a/b\" } }", "is no name that a service can register as"),
    ] {
        let refused = Gateway::with(routes(discovery)).start_refused();
        assert!(refused.stderr.contains(message), "{discovery}: {}", refused.stderr);
    }
}

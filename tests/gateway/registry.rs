//! Services that register themselves: who may, who hears of it, and what becomes of those that fall silent (R1.4, R6.1).

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::http1::try_request;
use crate::support::process::Process;
use crate::support::redis::Redis;
use crate::support::tokens::*;
use crate::support::upstream::reserve;
use crate::support::*;

const ROUTES: &str = "version: 1
roles: { service: [registry.write], reader: [admin.read] }
upstreams: { players: { discovery: { registry: {} } } }
routes: [{ name: all, match: { path: \"/{*rest}\" }, upstream: players }]
";
const LISTENERS: &str = "listeners: { public: [{ address: \"127.0.0.1:0\" }], admin: { address: \"127.0.0.1:0\" } }\n";
const OPEN: &str = "registry: { open: true }\n";

fn open() -> Gateway {
    Gateway::with(ROUTES).config(format!("{LISTENERS}{OPEN}")).start()
}

fn put(admin: SocketAddr, instance: &str, body: &Value, token: Option<&str>) -> Response {
    let bearer = token.map(|it| format!("Bearer {it}"));
    let mut fields = vec![("content-type", "application/json")];
    fields.extend(bearer.as_deref().map(|it| ("authorization", it)));
    try_request(admin, "PUT", &format!("/admin/registry/{instance}"), &fields, body.to_string()).unwrap()
}

fn delete(gateway: &Gateway, instance: &str) -> u16 {
    try_request(gateway.admin(), "DELETE", &format!("/admin/registry/{instance}"), &[], b"").unwrap().status
}

fn listed(gateway: &Gateway) -> Value {
    gateway.admin_get("/admin/registry").json()["services"].clone()
}

#[test]
fn r1_4_an_instance_registers_serves_and_leaves() {
    let (gateway, one) = (open(), Demo::start("one"));
    assert_eq!(gateway.get("/echo").status, 503, "nobody is there");
    let body = json!({ "address": one.address(), "weight": 3, "zone": "a", "metadata": { "v": 1 }, "ttl": "15s" });
    let answer = put(gateway.admin(), "players/one", &body, None);
    assert_eq!((answer.status, &answer.json()["renew_every"]), (201, &json!("5s")), "{}", answer.text());
    assert!(answer.json()["expires_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(put(gateway.admin(), "players/one", &body, None).status, 200, "renewed");
    eventually("it serves", || (gateway.get("/echo").status == 200).then_some(()));
    let shown = &listed(&gateway)["players"][0];
    assert_eq!((&shown["instance"], &shown["weight"], &shown["zone"]), (&json!("one"), &json!(3), &json!("a")));
    assert_eq!((&shown["healthy"], &shown["metadata"]["v"]), (&json!(true), &json!(1)));
    assert_eq!(figure(&gateway, "moongate_registry_instances"), Some(1.0));
    assert_eq!([delete(&gateway, "players/one"), delete(&gateway, "players/one")], [204, 204]);
    eventually("it is gone", || (gateway.get("/echo").status == 503).then_some(()));
    assert_eq!(listed(&gateway), json!({}));
}

#[test]
fn one_that_falls_silent_ends_by_itself() {
    let (gateway, one) = (open(), Demo::start("one"));
    let body = json!({ "address": one.address(), "ttl": "1s" });
    assert_eq!(put(gateway.admin(), "players/one", &body, None).status, 201);
    eventually("it ends", || (listed(&gateway) == json!({})).then_some(()));
    gateway.wait_for_event("instance_expired", |it| it["instance"] == "one");
    eventually("it gets nothing", || (gateway.get("/echo").status == 503).then_some(()));
}

#[test]
fn whoever_registers_needs_the_permission_on_loopback_too() {
    let config = format!(
        "{LISTENERS}tokens: {{ issuer: moongate, audience: [tta], hs256_secret: \"${{PROXY_JWT_SECRET}}\" }}\n"
    );
    let gateway = Gateway::with(ROUTES).config(config).env("PROXY_JWT_SECRET", SECRET).start();
    let body = json!({ "address": "127.0.0.1:9" });
    let scoped = |scope: &str| {
        let claims = with(claims("players", &["service"]), json!({ "scope": scope, "tenant": null }));
        sign_hs256(r#"{"alg":"HS256"}"#, &claims.to_string(), SECRET.as_bytes())
    };
    let of = |roles: &[&str]| {
        let claims = with(claims("somebody", roles), json!({ "tenant": null, "scope": null }));
        sign_hs256(r#"{"alg":"HS256"}"#, &claims.to_string(), SECRET.as_bytes())
    };
    let ask = |token: Option<&str>, instance: &str| put(gateway.admin(), instance, &body, token).status;
    assert_eq!(ask(None, "players/one"), 401);
    assert_eq!(ask(Some(&of(&["reader"])), "players/one"), 403);
    let answer = put(gateway.admin(), "players/one", &body, Some(&of(&["service"])));
    assert_eq!(answer.status, 201, "{}", answer.text());
    // One that is bound to a service registers that one and no other.
    let bound = scoped("registry.write service:players");
    assert_eq!([ask(Some(&bound), "players/two"), ask(Some(&bound), "narratives/two")], [201, 403]);
    assert_eq!(ask(Some(&scoped("metrics.read")), "players/three"), 403);
    // To look is open on loopback, as all pages are.
    assert_eq!(listed(&gateway)["players"].as_array().unwrap().len(), 2);
}

#[test]
fn gateways_on_one_redis_see_the_same_and_a_restarted_one_at_once() {
    let (redis, one) = (Redis::start(), Demo::start("one"));
    let config = format!("{LISTENERS}{OPEN}state: {{ redis: {{ url: \"{}\" }} }}\n", redis.url());
    let start = || Gateway::with(ROUTES).config(&config).start();
    let (first, second) = (start(), start());
    let body = json!({ "address": one.address(), "ttl": "60s" });
    assert_eq!(put(first.admin(), "players/one", &body, None).status, 201);
    eventually("the other one serves", || (second.get("/echo").status == 200).then_some(()));
    let third = start();
    assert_eq!(third.get("/echo").status, 200, "the first request already");
    assert_eq!(delete(&third, "players/one"), 204);
    eventually("all know", || [&first, &second].iter().all(|it| it.get("/echo").status == 503).then_some(()));
}

#[test]
fn a_registry_that_is_out_of_reach_takes_nobody_away() {
    let (mut redis, one) = (Redis::start(), Demo::start("one"));
    let config = format!("{LISTENERS}{OPEN}state: {{ redis: {{ url: \"{}\" }} }}\n", redis.url());
    let gateway = Gateway::with(ROUTES).config(&config).start();
    let body = json!({ "address": one.address(), "ttl": "1s" });
    assert_eq!(put(gateway.admin(), "players/one", &body, None).status, 201);
    eventually("it serves", || (gateway.get("/echo").status == 200).then_some(()));
    redis.stop();
    let refused = eventually("renewing is refused", || {
        let answer = put(gateway.admin(), "players/one", &body, None);
        (answer.status == 503).then_some(answer)
    });
    assert_eq!(refused.json()["error"]["code"], "state_unavailable");
    // Longer than its TTL, counted in renewals that fail.
    for _ in 0..20 {
        assert_eq!(put(gateway.admin(), "players/one", &body, None).status, 503);
        assert_eq!(gateway.get("/echo").status, 200);
    }
    redis.restart();
    eventually("it is renewed again", || (put(gateway.admin(), "players/one", &body, None).status < 300).then_some(()));
    assert_eq!(gateway.get("/echo").status, 200);
}

#[test]
fn what_makes_no_sense_is_refused_and_the_number_is_bounded() {
    let gateway = open();
    for (instance, body) in [
        ("players/one", json!({})),
        ("players/one", json!({ "address": "127.0.0.1" })),
        ("players/one", json!({ "address": "http://127.0.0.1:1" })),
        ("players/one", json!({ "address": "127.0.0.1:0" })),
        ("players/one", json!({ "address": "127.0.0.1:1", "ttl": "1ms" })),
        ("players/one", json!({ "address": "127.0.0.1:1", "ttl": "30d" })),
        ("players/one", json!({ "address": "127.0.0.1:1", "weight": 0 })),
        ("players/one", json!({ "address": "127.0.0.1:1", "wieght": 1 })),
        ("players/one", json!({ "address": "127.0.0.1:1", "metadata": { "x": "y".repeat(5_000) } })),
        ("players/-one", json!({ "address": "127.0.0.1:1" })),
        ("players/a%2Fb", json!({ "address": "127.0.0.1:1" })),
        ("players/..", json!({ "address": "127.0.0.1:1" })),
    ] {
        let status = put(gateway.admin(), instance, &body, None).status;
        assert!((400..=404).contains(&status), "{instance} {body}: {status}");
    }
    for number in 0..1000_u32 {
        let body =
            json!({ "address": SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 80)), "ttl": "1h" });
        assert_eq!(put(gateway.admin(), &format!("many/{number}"), &body, None).status, 201);
    }
    let full = put(gateway.admin(), "many/more", &json!({ "address": "127.0.0.1:1" }), None);
    assert_eq!((full.status, &full.json()["error"]["code"]), (409, &json!("registry_full")));
    let renewed = put(gateway.admin(), "many/0", &json!({ "address": "127.0.0.1:1" }), None);
    assert_eq!(renewed.status, 200, "those that are there may stay");
}

/// All gateways were gone for longer than their instances lived.
#[test]
fn names_that_nobody_stands_behind_any_more_take_no_place() {
    let redis = Redis::start();
    let names: Vec<String> = (0..1000).map(|it| format!("\"i{it}\"")).collect();
    let index = format!("{{\"players\":[{}]}}", names.join(","));
    redis.ask::<String>(&["SET", "moongate:registry:index", &index]);
    let config = format!(
        "{}\nregistry: {{ open: true }}\nstate: {{ redis: {{ url: \"{}\" }} }}\n",
        gateway::CONFIG,
        redis.url()
    );
    let gateway = Gateway::with("version: 1\nroutes: []\n").config(config).start();
    let body = json!({ "address": "127.0.0.1:1", "ttl": "1h" });
    eventually("there is room", || (put(gateway.admin(), "players/new", &body, None).status == 201).then_some(()));
    eventually("the index has it alone", || {
        let index: String = redis.ask(&["GET", "moongate:registry:index"]);
        (index == "{\"players\":[\"new\"]}").then_some(())
    });
}

#[test]
fn a_command_is_registered_while_it_answers_and_leaves_first() {
    let gateway = open();
    let (reserved, address) = reserve(SocketAddr::from(([127, 0, 0, 1], 0)));
    drop(reserved);
    let (admin, place) = (format!("http://{}", gateway.admin()), address.to_string());
    let folder = Folder::new();
    let binary = env!("CARGO_BIN_EXE_moongate");
    let arguments = [
        "register",
        "--gateway",
        &admin,
        "--service",
        "players",
        "--address",
        &place,
        "--ttl",
        "15s",
        "--drain",
        "1ms",
        "--",
        binary,
        "demo-backend",
        "--listen",
        &place,
        "--name",
        "one",
    ];
    let mut process = Process::moongate(folder.path(), &arguments, &[]);
    eventually("it serves", || (gateway.get("/echo").status == 200).then_some(()));
    let name = format!("127.0.0.1-{}", address.port());
    assert_eq!(listed(&gateway)["players"][0]["instance"], name);
    process.signal("TERM");
    assert_eq!(process.wait_exit(), 0, "the command's own code");
    assert_eq!(listed(&gateway), json!({}));
    // One that ends by itself leaves, too, and its code comes back.
    let arguments = [
        "register",
        "--gateway",
        &admin,
        "--service",
        "players",
        "--address",
        &place,
        "--drain",
        "1ms",
        "--",
        "sh",
        "-c",
        "exit 7",
    ];
    assert_eq!(Process::moongate(folder.path(), &arguments, &[]).wait_exit(), 7);
    let arguments = ["register", "--gateway", &admin, "--service", "a/b", "--address", &place, "--", "true"];
    assert_eq!(Process::moongate(folder.path(), &arguments, &[]).wait_exit(), 1);
}

//! Endpoints in the gateway's own zone come first, and the others take what those can't.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::resilience::upstream;
use crate::support::*;

const LISTENERS: &str = "listeners: { public: [{ address: \"127.0.0.1:0\" }], admin: { address: \"127.0.0.1:0\" } }\n";
const CHECKS: &str = "health: { http: /health, every: 50ms, timeout: 49ms, fail_after: 3 }";
const PREFER: &str = "zones: { prefer: same }";

/// An endpoint in a zone, which fails its checks while it is sick, everything else while it is broken, and answers with its
/// zone.
struct Site {
    upstream: RawUpstream,
    zone: &'static str,
    sick: Arc<AtomicBool>,
    broken: Arc<AtomicBool>,
}

impl Site {
    fn start(zone: &'static str) -> Self {
        let (sick, broken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (is_sick, is_broken) = (sick.clone(), broken.clone());
        let upstream = RawUpstream::start(move |request| {
            let fails = if request.target() == "/health" { &is_sick } else { &is_broken };
            Script::answer(if fails.load(Ordering::SeqCst) { 503 } else { 200 }, &[], zone)
        });
        Self { upstream, zone, sick, broken }
    }

    fn sicken(&self, sick: bool) {
        self.sick.store(sick, Ordering::SeqCst);
    }
}

/// An endpoint without a zone is one in the zone `none`.
fn routes(sites: &[&Site], settings: &[&str]) -> String {
    let mut text = "version: 1\nupstreams:\n  backend:\n    discovery:\n      static:\n".to_owned();
    for Site { upstream, zone, .. } in sites {
        let zone = if *zone == "none" { String::new() } else { format!(", zone: {zone}") };
        writeln!(text, "        - {{ address: \"{}\"{zone} }}", upstream.address()).unwrap();
    }
    for line in settings {
        writeln!(text, "    {line}").unwrap();
    }
    text + "routes: [{ name: all, match: { path: \"/{*rest}\" }, upstream: backend }]\n"
}

/// A gateway in the zone `a`, which prefers it.
fn gateway(sites: &[&Site], settings: &[&str]) -> Gateway {
    let builder = Gateway::with(routes(sites, &[&[PREFER], settings].concat()));
    builder.config(format!("{LISTENERS}zone: \"${{ZONE}}\"\n")).env("ZONE", "a").start()
}

/// How often each zone answered.
fn answers(gateway: &Gateway, requests: usize) -> HashMap<String, usize> {
    let mut zones = HashMap::new();
    for _ in 0..requests {
        let answer = gateway.get("/");
        assert_eq!(answer.status, 200, "{}", answer.text());
        *zones.entry(answer.text()).or_default() += 1;
    }
    zones
}

fn only(zone: &str, requests: usize) -> HashMap<String, usize> {
    HashMap::from([(zone.to_owned(), requests)])
}

fn share_becomes(gateway: &Gateway, share: f64) {
    let shown = || upstream(gateway)["zones"]["own_share"].as_f64();
    eventually(&format!("the share is {share}"), || (shown() == Some(share)).then_some(()));
}

fn sent(gateway: &Gateway, zone: &str) -> Option<f64> {
    figure(gateway, &format!("moongate_upstream_zone_requests_total{{upstream=\"backend\",zone=\"{zone}\"}}"))
}

#[test]
fn endpoints_in_the_gateways_own_zone_get_all_whatever_the_balance() {
    let sites = ["b", "a", "none"].map(Site::start);
    for balance in [
        &["balance: round_robin"][..],
        &["balance: random"],
        &["balance: least_request"],
        &["balance: peak_ewma"],
        &["balance: consistent_hash", "hash_on: { ip: true }"],
    ] {
        let gateway = gateway(&sites.each_ref(), balance);
        assert_eq!(answers(&gateway, 12), only("a", 12), "{balance:?}");
        assert_eq!((sent(&gateway, "own"), sent(&gateway, "other")), (Some(12.0), Some(0.0)), "{balance:?}");
        assert_eq!(upstream(&gateway)["zones"], json!({ "own": "a", "own_share": 1.0 }));
        assert_eq!(upstream(&gateway)["endpoints"][0]["zone"], "b");
    }
}

#[test]
fn what_the_own_zone_can_not_take_goes_to_the_others_in_proportion_and_comes_back() {
    let sites = ["a", "a", "a", "a", "b", "b"].map(Site::start);
    for balance in [
        &["balance: round_robin"][..],
        &["balance: random"],
        &["balance: least_request"],
        &["balance: peak_ewma"],
        &["balance: consistent_hash", "hash_on: { header: x-absent }"],
    ] {
        let gateway = gateway(&sites.each_ref(), &[balance, &[CHECKS]].concat());
        sites[0].sicken(true);
        gateway.wait_for_event("endpoint_unhealthy", |_| true);
        share_becomes(&gateway, 1.0);
        assert_eq!(answers(&gateway, 10), only("a", 10), "three of four can take it: {balance:?}");
        sites[1].sicken(true);
        share_becomes(&gateway, 0.7);
        let seen = answers(&gateway, 50);
        assert!((34..=36).contains(&seen["a"]), "{balance:?}: {seen:?}");
        assert!(
            (0.699..0.701).contains(&figure(&gateway, "moongate_upstream_zone_share{upstream=\"backend\"}").unwrap())
        );
        sites.iter().for_each(|it| it.sicken(false));
        share_becomes(&gateway, 1.0);
        assert_eq!(answers(&gateway, 10), only("a", 10), "{balance:?}");
    }
}

#[test]
fn both_endpoints_of_a_zone_take_turns_while_requests_go_over_to_the_other() {
    let sites = ["a", "a", "b", "b"].map(Site::start);
    let gateway = gateway(&sites.each_ref(), &[CHECKS]);
    sites[0].sicken(true);
    share_becomes(&gateway, 0.7);
    answers(&gateway, 40);
    let requests = |it: &Site| it.upstream.requests().iter().filter(|it| it.starts_with(b"GET / ")).count();
    let counts = [&sites[2], &sites[3]].map(requests);
    assert!(counts[0].abs_diff(counts[1]) <= 1, "one of them is skipped: {counts:?}");
}

#[test]
fn a_key_goes_to_one_endpoint_while_requests_go_over_to_other_zones() {
    let sites = ["a", "a", "b"].map(Site::start);
    let gateway = gateway(&sites.each_ref(), &["balance: consistent_hash", "hash_on: { header: x-key }", CHECKS]);
    sites[1].sicken(true);
    share_becomes(&gateway, 0.7);
    let ask = |key: usize| gateway.request("GET", "/", &[("x-key", &key.to_string())], b"").text();
    let [first, second] = [0, 1].map(|_| (0..100).map(ask).collect::<Vec<_>>());
    assert_eq!(first, second);
    let own = first.iter().filter(|it| *it == "a").count();
    assert!((50..=90).contains(&own), "{own} of 100");
}

#[test]
fn a_zone_that_is_dead_costs_nothing_and_takes_over_when_it_is_back() {
    let sites = ["a", "b", "c"].map(Site::start);
    let gateway = gateway(&sites.each_ref(), &[CHECKS]);
    sites[0].sicken(true);
    share_becomes(&gateway, 0.0);
    assert_eq!(answers(&gateway, 10), HashMap::from([("b".to_owned(), 5), ("c".to_owned(), 5)]));
    gateway.wait_for_event("zone_share", |it| it["share"] == 0.0);
    sites[0].sicken(false);
    share_becomes(&gateway, 1.0);
    assert_eq!(answers(&gateway, 10), only("a", 10));
    // And the other way round: the own zone serves whatever becomes of the others.
    sites[1..].iter().for_each(|it| it.sicken(true));
    eventually("they are out", || (upstream(&gateway)["eligible"] == 1).then_some(()));
    assert_eq!(answers(&gateway, 10), only("a", 10));
}

#[test]
fn who_refuses_connections_is_no_reason_to_stay_in_the_zone() {
    let (own, other) = (Site::start("a"), Site::start("b"));
    let gateway = gateway(&[&own, &other], &[]);
    let (zone, address) = (own.zone, own.upstream.address());
    drop(own);
    assert_eq!(answers(&gateway, 20), only("b", 20), "{zone} at {address} is gone");
}

#[test]
fn who_is_left_out_or_has_an_open_breaker_counts_as_not_there() {
    let eject = "outliers: { consecutive_5xx: 2, eject_for: 2s, max_ejected: 50% }";
    let open = "breaker: { open_after: 2, retry_after: 2s, per: endpoint }";
    for (settings, event) in [(eject, "endpoint_ejected"), (open, "endpoint_breaker_open")] {
        let (own, other) = (Site::start("a"), Site::start("b"));
        let gateway = gateway(&[&own, &other], &[settings]);
        own.broken.store(true, Ordering::SeqCst);
        for _ in 0..2 {
            assert_eq!(gateway.get("/").status, 503);
        }
        assert_eq!(answers(&gateway, 5), only("b", 5), "{settings}");
        gateway.wait_for_event(event, |_| true);
        share_becomes(&gateway, 0.0);
        own.broken.store(false, Ordering::SeqCst);
        share_becomes(&gateway, 1.0);
        eventually("it serves as before", || (gateway.get("/").text() == "a").then_some(()));
    }
}

#[test]
fn cp2_a_a_session_stays_with_its_endpoint_whatever_its_zone() {
    let (own, other) = (Site::start("a"), Site::start("b"));
    let sticky = "sticky: { cookie: s, key: 0123456789abcdef0123456789abcdef }";
    let gateway = gateway(&[&own, &other], &[CHECKS, sticky]);
    own.sicken(true);
    share_becomes(&gateway, 0.0);
    let answer = gateway.get("/");
    let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(answer.text(), "b");
    own.sicken(false);
    share_becomes(&gateway, 1.0);
    for _ in 0..5 {
        assert_eq!(gateway.request("GET", "/", &[("cookie", &cookie)], b"").text(), "b", "the session's");
        assert_eq!(gateway.get("/").text(), "a", "a new one's");
    }
    assert_eq!(sent(&gateway, "other"), Some(6.0), "sessions count where they go");
}

#[test]
fn an_endpoint_of_the_zone_that_starts_slowly_is_relieved_by_the_others() {
    let (own, other) = (Site::start("a"), Site::start("b"));
    let gateway = gateway(&[&other], &["slow_start: 10h"]);
    assert_eq!(answers(&gateway, 5), only("b", 5), "nobody is in the own zone");
    gateway.write_routes(&routes(&[&own, &other], &[PREFER, "slow_start: 10h"]));
    assert_eq!(gateway.reload().status, 200);
    let seen = answers(&gateway, 200);
    assert!((1..=60).contains(&seen["a"]), "a tenth is 20: {seen:?}");
    // With nobody else there it gets all.
    gateway.write_routes(&routes(&[&own], &[PREFER, "slow_start: 10h"]));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(answers(&gateway, 10), only("a", 10));
}

#[test]
fn in_a_panic_zones_do_not_count() {
    let (own, other) = (Site::start("a"), Site::start("b"));
    let gateway = gateway(&[&own, &other], &[CHECKS, "panic: 60%"]);
    own.sicken(true);
    gateway.wait_for_event("upstream_panic", |_| true);
    let share = || figure(&gateway, "moongate_upstream_zone_share{upstream=\"backend\"}");
    assert_eq!(share(), None, "there is none while zones do not count");
    assert_eq!(answers(&gateway, 10), HashMap::from([("a".to_owned(), 5), ("b".to_owned(), 5)]));
    assert_eq!(upstream(&gateway)["zones"], json!({ "own": "a", "own_share": Value::Null }));
    own.sicken(false);
    gateway.wait_for_event("upstream_panic_over", |_| true);
    assert!(share().is_some());
    assert_eq!(answers(&gateway, 10), only("a", 10));
}

#[test]
fn a_reload_moves_endpoints_between_zones_and_takes_the_preference_away() {
    let (own, other) = (Site::start("a"), Site::start("b"));
    let gateway = gateway(&[&own, &other], &[]);
    assert_eq!(answers(&gateway, 4), only("a", 4));
    let (own, other) = (Site { zone: "b", ..own }, Site { zone: "a", ..other });
    gateway.write_routes(&routes(&[&own, &other], &[PREFER]));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(answers(&gateway, 4), only("b", 4), "it answers with its former zone");
    assert_eq!(sent(&gateway, "own"), Some(8.0));
    gateway.write_routes(&routes(&[&own, &other], &[]));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(answers(&gateway, 4), HashMap::from([("a".to_owned(), 2), ("b".to_owned(), 2)]));
    assert_eq!(sent(&gateway, "own"), None, "its series went with it");
    assert_eq!(figure(&gateway, "moongate_upstream_zone_share{upstream=\"backend\"}"), None);
    assert_eq!(upstream(&gateway)["zones"], Value::Null);
    gateway.write_routes(&routes(&[&own, &other], &[PREFER]));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(answers(&gateway, 4), only("b", 4));
}

#[test]
fn a_gateway_without_a_zone_has_none_to_prefer_and_says_so() {
    let (site, other) = (Site::start("a"), Site::start("b"));
    let text = routes(&[&site, &other], &[PREFER]);
    for zone in ["", "zone: \"\"\n"] {
        let gateway = Gateway::with(&text).config(format!("{LISTENERS}{zone}")).start();
        let warning = gateway.wait_for_event("config_warning", |_| true).to_string();
        assert!(warning.contains("does not know which zone it is in"), "{warning}");
        assert_eq!(answers(&gateway, 4), HashMap::from([("a".to_owned(), 2), ("b".to_owned(), 2)]));
        assert_eq!(upstream(&gateway)["zones"], Value::Null);
    }
    let told = Gateway::with(&text).config(LISTENERS).env("MOONGATE_ZONE", "b").start();
    assert_eq!(answers(&told, 4), only("b", 4));
    let wrong = routes(&[&site], &["zones: { prefer: nearest }"]);
    let refused = Gateway::with(wrong).config(format!("{LISTENERS}zone: a\n")).start_refused();
    assert!(refused.stderr.contains("nearest"), "{}", refused.stderr);
    let gateway = Gateway::with(&text).config(format!("{LISTENERS}zone: a\n")).start();
    gateway.folder().write("gateway.yaml", format!("{LISTENERS}zone: b\n"));
    let answer = gateway.reload();
    assert!(answer.status >= 400 && answer.text().contains("restart"), "{} {}", answer.status, answer.text());
}

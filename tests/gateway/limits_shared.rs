//! Rate limits that gateways count together in a real Redis, in good and in bad weather.

use std::time::{Duration, Instant};

use crate::limits::{ask_from, route};
use crate::support::gateway::CONFIG;
use crate::support::{Gateway, GatewayBuilder, RawClient, Redis, eventually, figure, let_pass};

fn with(redis: &Redis, routes: String) -> GatewayBuilder {
    with_patience(redis, routes, "250ms")
}

fn with_patience(redis: &Redis, routes: String, timeout: &str) -> GatewayBuilder {
    let state = format!("state: {{ redis: {{ url: \"${{REDIS_URL}}\", timeout: {timeout} }} }}\n");
    let config = format!("{CONFIG}trusted_proxies: [\"127.0.0.0/8\"]\n{state}");
    Gateway::with(routes).config(config).env("REDIS_URL", redis.url())
}

fn fallback(gateway: &Gateway) -> bool {
    figure(gateway, "moongate_rate_limit_local_fallback") == Some(1.0)
}

/// How many of so many requests pass, on one connection.
fn passed(gateway: &Gateway, ip: &str, requests: usize) -> usize {
    let mut client = RawClient::connect(gateway.public());
    let ask = |_: &usize| {
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {ip}\r\n\r\n"));
        client.read_response().status == 200
    };
    (0..requests).filter(ask).count()
}

/// As [`passed`], all of them in one segment.
fn passed_at_once(gateway: &Gateway, ip: &str, requests: usize) -> usize {
    let mut client = RawClient::connect(gateway.public());
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {ip}\r\n\r\n").repeat(requests));
    (0..requests).filter(|_| client.read_response().status == 200).count()
}

/// Longer than a lease may be spent.
const LIFE: Duration = Duration::from_millis(250);

#[test]
fn redis_limits_are_exact_across_two_gateways() {
    let redis = Redis::start();
    let limits = || route("rate_limits: [{ per: ip, requests: 100, every: 1h }]");
    let (one, two) = (with(&redis, limits()).start(), with(&redis, limits()).start());
    let mut sum = 0;
    for _ in 0..20 {
        sum += passed(&one, "192.0.2.1", 10) + passed(&two, "192.0.2.1", 10);
    }
    // What one of them has leased is not lost: it spends it, or gives it back when it asks again.
    let more = || passed(&one, "192.0.2.1", 1) + passed(&two, "192.0.2.1", 1);
    if sum < 100 {
        eventually("all that is left", || {
            sum += more();
            (sum >= 100).then_some(())
        });
    }
    assert_eq!(sum, 100);
    assert_eq!(more(), 0);
    assert_eq!(passed(&two, "192.0.2.2", 1), 1);
    let answer = ask_from(&two, "192.0.2.1");
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(answer.status == 429 && (1..=36).contains(&wait), "{wait}");
    // No address is to be found in Redis, and nothing stays for good.
    let keys: Vec<String> = redis.ask(&["KEYS", "*"]);
    assert_eq!(keys.len(), 2);
    assert!(keys.iter().all(|it| it.starts_with("moongate:limit:") && !it.contains("192.0")), "{keys:?}");
    assert!(keys.iter().all(|it| redis.ask::<i64>(&["PTTL", it]) > 0));
}

#[test]
fn what_a_gateway_leased_and_did_not_spend_comes_back() {
    let redis = Redis::start();
    let limits = || route("rate_limits: [{ per: ip, requests: 400, every: 24h }]");
    let (one, two) = (with(&redis, limits()).start(), with(&redis, limits()).start());
    let leased = || one.admin_get("/admin/limits").json()["rate_limits"]["shared"]["leased"].as_u64().unwrap() as usize;
    // Leases grow while they are spent within their life. So few are asked for at once that some of one are left.
    let mut first = 0;
    let left = eventually("a lease that is not spent", || {
        first += passed_at_once(&one, "192.0.2.1", 5);
        Some(leased()).filter(|it| *it > 0)
    });
    // Two spends everything else, and is refused in the end.
    let rest = passed(&two, "192.0.2.1", 450);
    assert_eq!(first + left + rest, 400);
    // However late, they are not lost: a lease that is over is given back, and what Redis then has is this.
    let_pass(LIFE);
    let calls = redis.calls("evalsha");
    assert_eq!(passed(&one, "192.0.2.1", 50), left);
    assert!(redis.calls("evalsha") > calls, "the lease was over");
    assert_eq!(leased(), 0);
}

#[test]
fn two_gateways_at_once_never_let_more_through() {
    let redis = Redis::start();
    let limits = || route("rate_limits: [{ per: ip, requests: 400, every: 24h }]");
    let gateways = [with(&redis, limits()).start(), with(&redis, limits()).start()];
    let sum: usize = std::thread::scope(|scope| {
        let clients = (0..6).map(|number| {
            let gateway = &gateways[number % 2];
            scope.spawn(move || passed(gateway, "192.0.2.1", 200))
        });
        let clients: Vec<_> = clients.collect();
        clients.into_iter().map(|it| it.join().unwrap()).sum()
    });
    // Missing is at most what both have leased and not spent: an eighth of the burst each.
    assert!((300..=400).contains(&sum), "{sum}");
}

#[test]
fn a_hot_key_costs_far_less_than_a_call_a_request() {
    let redis = Redis::start();
    let gateway = with(&redis, route("rate_limits: [{ per: ip, requests: 100000, every: 1m }]")).start();
    let before = redis.calls("evalsha");
    assert_eq!(passed(&gateway, "192.0.2.1", 2_000), 2_000);
    let calls = redis.calls("evalsha") - before;
    assert!((1..=200).contains(&calls), "{calls} calls for 2000 requests");
    // Refusals are remembered, too.
    let gateway = with(&redis, route("rate_limits: [{ per: route, requests: 1, every: 1h }]")).start();
    assert_eq!(passed(&gateway, "192.0.2.1", 1), 1);
    let (before, begin) = (redis.calls("evalsha"), Instant::now());
    assert_eq!(passed(&gateway, "192.0.2.1", 1_000), 0);
    let calls = redis.calls("evalsha") - before;
    assert!(calls <= 2 + begin.elapsed().as_secs(), "{calls} calls for 1000 refusals");
    // Of many that come at once one asks, and the others wait for its answer. From another address: what the first
    // one has used is not whole again before a second is over.
    let limits = route("rate_limits: [{ per: ip, requests: 2, every: 1h }]");
    let gateway = with_patience(&redis, limits, "5s").start();
    let mut tries = 0;
    let (sum, leases) = eventually("forty that wait for one answer", || {
        tries += 1;
        forty_that_wait(&redis, &gateway, &format!("192.0.2.{}", 100 + tries))
    });
    assert_eq!(sum, 2);
    assert!(leases <= 4.0, "{leases} calls for 40 requests at once");
}

/// How many of forty requests pass that all come before Redis answers the first one, and how often it was called.
/// Nothing if the machine was so busy that one of them had waited for too long when it did.
fn forty_that_wait(redis: &Redis, gateway: &Gateway, ip: &str) -> Option<(usize, f64)> {
    let counted = |name: &str| figure(gateway, name).unwrap_or_default();
    let given_up = || counted("moongate_rate_limit_local_fallback_total");
    let leases = || counted("moongate_rate_limit_leases_total");
    let before = (given_up(), leases());
    redis.pause();
    let sum = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..40).map(|_| scope.spawn(|| passed(gateway, ip, 1))).collect();
        eventually("all have come", || {
            (counted("moongate_requests_in_flight") >= 40.0 || given_up() > before.0).then_some(())
        });
        redis.resume();
        clients.into_iter().map(|it| it.join().unwrap()).sum()
    });
    (given_up() == before.0).then(|| (sum, leases() - before.1))
}

#[test]
fn several_limits_are_all_or_none_in_redis_too() {
    let redis = Redis::start();
    let limits =
        "rate_limits: [{ per: ip, requests: 5, every: 1h }, { per: { header: x-client }, requests: 2, every: 1h }]";
    let gateway = with(&redis, route(limits)).start();
    let ask = |client: &str| gateway.request("GET", "/", &[("x-client", client)], "").status;
    assert_eq!([ask("a"), ask("a"), ask("a"), ask("a"), ask("a"), ask("a")], [200, 200, 429, 429, 429, 429]);
    assert_eq!([ask("b"), ask("b"), ask("c"), ask("c")], [200, 200, 200, 429]);
}

#[test]
fn without_redis_each_gateway_counts_alone_and_comes_back() {
    let mut redis = Redis::start();
    let gateway = with(&redis, route("rate_limits: [{ per: ip, requests: 3, every: 1h }]")).start();
    assert_eq!(passed(&gateway, "192.0.2.1", 5), 3);
    assert!(!fallback(&gateway));
    redis.stop();
    // A new count begins here, with the same limit.
    let status = || ask_from(&gateway, "192.0.2.2").status;
    eventually("the limit holds", || (status() == 429).then_some(()));
    eventually("the gauge", || fallback(&gateway).then_some(()));
    assert_eq!(passed(&gateway, "192.0.2.3", 10), 3);
    gateway.wait_for_event("rate_limits_local", |it| it["level"] == "warn");
    assert!(figure(&gateway, "moongate_rate_limit_local_fallback_total").unwrap() >= 1.0);
    assert_eq!(gateway.admin_get("/admin/limits").json()["rate_limits"]["shared"]["local"], true);

    redis.restart();
    eventually("shared again", || {
        ask_from(&gateway, "192.0.2.4");
        (!fallback(&gateway)).then_some(())
    });
    gateway.wait_for_event("rate_limits_shared", |_| true);
    assert_eq!(passed(&gateway, "192.0.2.5", 5), 3);
    assert_eq!(redis.ask::<Vec<String>>(&["KEYS", "moongate:limit:*"]).len(), 2);
}

#[test]
fn without_redis_a_limit_may_also_let_all_through_or_none() {
    let mut redis = Redis::start();
    let limits = |what: &str| format!("rate_limits: [{{ per: ip, requests: 1, every: 1h, on_state_error: {what} }}]");
    let (open, shut) = (with(&redis, route(&limits("allow"))).start(), with(&redis, route(&limits("deny"))).start());
    assert_eq!((passed(&open, "192.0.2.1", 2), ask_from(&shut, "192.0.2.2").status), (1, 200));
    redis.stop();
    eventually("all pass", || (passed(&open, "192.0.2.3", 5) == 5).then_some(()));
    let answer = eventually("none passes", || Some(ask_from(&shut, "192.0.2.4")).filter(|it| it.status == 503));
    assert_eq!(answer.json()["error"]["code"], "state_unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

/// Asks from several sides while the weather changes; every request has to get an answer of its own.
fn under_load(gateway: &Gateway, weather: impl FnOnce()) {
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = |number: usize| {
            let over = &over;
            scope.spawn(move || {
                let mut client = RawClient::connect(gateway.public());
                for round in 0_usize.. {
                    if over.load(std::sync::atomic::Ordering::Relaxed) {
                        return;
                    }
                    // A hot key, and ones that are never seen again.
                    let last = if round.is_multiple_of(2) { 1 } else { round / 2 % 200 };
                    let ip = format!("10.{number}.{}.{last}", round / 400 % 250);
                    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {ip}\r\n\r\n"));
                    let status = client.read_response().status;
                    assert!([200, 429].contains(&status), "{status}");
                }
            })
        };
        let clients: Vec<_> = (0..4).map(asking).collect();
        weather();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        clients.into_iter().for_each(|it| it.join().unwrap());
    });
}

#[test]
fn bad_weather_under_load_costs_no_request() {
    let mut redis = Redis::start();
    let gateway = with(&redis, route("rate_limits: [{ per: ip, requests: 50, every: 1s }]")).start();
    let local = |wanted: bool| eventually("counting changes sides", || (fallback(&gateway) == wanted).then_some(()));
    under_load(&gateway, || {
        // It is gone, and comes back empty.
        redis.stop();
        local(true);
        redis.restart();
        local(false);
        // It hangs.
        redis.pause();
        local(true);
        redis.resume();
        local(false);
        // It is full: it says no to everything that writes.
        redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
        local(true);
        redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
        local(false);
        // It no longer lets us use scripts.
        redis.ask::<()>(&["ACL", "SETUSER", "default", "-evalsha", "-eval"]);
        local(true);
        redis.ask::<()>(&["ACL", "SETUSER", "default", "+evalsha", "+eval"]);
        local(false);
    });
    let shared = &gateway.admin_get("/admin/limits").json()["rate_limits"]["shared"];
    assert!(shared["keys"].as_u64().unwrap() <= shared["keys_max"].as_u64().unwrap(), "{shared}");
}

#[test]
fn a_clock_that_was_set_back_blocks_nobody() {
    let redis = Redis::start();
    let gateway = with(&redis, route("rate_limits: [{ per: route, requests: 10, every: 1s }]")).start();
    assert_eq!(passed(&gateway, "192.0.2.1", 1), 1);
    // As if it had been written by a clock that was a year ahead.
    let keys: Vec<String> = redis.ask(&["KEYS", "moongate:limit:*"]);
    redis.ask::<()>(&["SET", &keys[0], "9999999999999999", "PX", "60000"]);
    eventually("it is let through again", || (passed(&gateway, "192.0.2.1", 1) == 1).then_some(()));
    assert_eq!(figure(&gateway, "moongate_rate_limit_local_fallback_total").unwrap_or_default(), 0.0);
}

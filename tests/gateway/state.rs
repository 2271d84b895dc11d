//! One suite for both homes of short-lived values: memory and Redis. And what Redis in bad weather
//! means for those who ask.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use moongate::base::{At, Diagnostics};
use moongate::state::{Backend, Insert, Received, Records, State, Unavailable};
use tokio::runtime::Runtime;

use crate::support::{Gateway, Redis, eventually, figure};

const LIFE: Duration = Duration::from_secs(60);

/// A state, and the runtime beside the requests that it lives on.
struct Home {
    side: Runtime,
    state: State,
}

impl Home {
    fn open(yaml: &str) -> Self {
        let side = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut diagnostics = Diagnostics::default();
        let backend = Backend::compile(&serde_yaml::from_str(yaml).unwrap(), &At::ROOT, &mut diagnostics);
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        let state = State::open(&backend, side.handle());
        Self { side, state }
    }

    fn of(redis: &Redis) -> Self {
        Self::open(&format!("redis: {{ url: \"{}\", timeout: 250ms }}", redis.url()))
    }

    /// Asks from a runtime of one thread, as a worker does.
    fn ask<T>(&self, asking: impl Future<Output = T>) -> T {
        let worker = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        worker.block_on(asking)
    }

    fn records(&self) -> &dyn Records {
        &*self.state.records
    }

    fn available(&self) -> Option<()> {
        self.ask(self.records().read("test:any")).ok().map(|_| ())
    }
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// What has to hold for both.
fn conforms(home: &Home) {
    home.ask(async {
        let records = home.records();
        assert_eq!(records.read("test:a").await, Ok(None));
        assert_eq!(records.insert_if_absent("test:a", bytes("1"), LIFE).await, Ok(Insert::Inserted));
        assert_eq!(records.insert_if_absent("test:a", bytes("2"), LIFE).await, Ok(Insert::Exists(bytes("1"))));
        assert_eq!(records.read("test:a").await, Ok(Some(bytes("1"))));
        assert_eq!(records.read("test:aa").await, Ok(None));

        assert_eq!(records.compare_and_swap("test:a", b"2", bytes("3"), LIFE).await, Ok(false));
        assert_eq!(records.compare_and_swap("test:a", b"1", bytes("3"), LIFE).await, Ok(true));
        assert_eq!(records.compare_and_swap("test:none", b"", bytes("3"), LIFE).await, Ok(false));
        assert_eq!(records.compare_and_delete("test:a", b"1").await, Ok(false));
        assert_eq!(records.read("test:a").await, Ok(Some(bytes("3"))));
        assert_eq!(records.compare_and_delete("test:a", b"3").await, Ok(true));
        assert_eq!(records.compare_and_delete("test:a", b"3").await, Ok(false));

        // What is claimed, settled and extended.
        let network = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(records.claim("test:c", bytes("1"), LIFE, network).await, Ok(Insert::Inserted));
        assert_eq!(records.claim("test:c", bytes("2"), LIFE, network).await, Ok(Insert::Exists(bytes("1"))));
        assert_eq!(records.extend("test:c", b"2", LIFE).await, Ok(false));
        assert_eq!(records.extend("test:c", b"1", LIFE).await, Ok(true));
        assert_eq!(records.extend("test:none", b"1", LIFE).await, Ok(false));
        assert_eq!(records.settle("test:c", bytes("3"), LIFE, network).await, Ok(()));
        assert_eq!(records.read("test:c").await, Ok(Some(bytes("3"))));

        // Any bytes, none at all, and an overwritten value.
        let odd = Bytes::from_static(b"\r\n\0\xff$-1");
        records.write("test:odd \r\n\u{e9}", odd.clone(), LIFE).await.unwrap();
        assert_eq!(records.read("test:odd \r\n\u{e9}").await, Ok(Some(odd)));
        records.write("test:b", Bytes::new(), LIFE).await.unwrap();
        assert_eq!(records.insert_if_absent("test:b", bytes("x"), LIFE).await, Ok(Insert::Exists(Bytes::new())));
        records.write("test:b", bytes("y"), LIFE).await.unwrap();
        assert_eq!(records.read("test:b").await, Ok(Some(bytes("y"))));
        records.delete("test:b").await.unwrap();
        records.delete("test:b").await.unwrap();
        assert_eq!(records.read("test:b").await, Ok(None));

        // A life ends, even one of nothing or of a thousand years' begin; each write begins it anew.
        records.write("test:short", bytes("1"), Duration::from_millis(40)).await.unwrap();
        records.write("test:long", bytes("1"), Duration::MAX).await.unwrap();
        records.write("test:none", bytes("1"), Duration::ZERO).await.unwrap();
        records.write("test:kept", bytes("1"), Duration::from_millis(1)).await.unwrap();
        records.write("test:kept", bytes("2"), LIFE).await.unwrap();
    });
    for gone in ["test:short", "test:none"] {
        eventually("the life ends", || home.ask(home.records().read(gone)).unwrap().is_none().then_some(()));
    }
    home.ask(async {
        let records = home.records();
        assert_eq!(records.insert_if_absent("test:short", bytes("2"), LIFE).await, Ok(Insert::Inserted));
        assert_eq!(records.read("test:long").await, Ok(Some(bytes("1"))));
        assert_eq!(records.read("test:kept").await, Ok(Some(bytes("2"))));
    });
}

/// Of many who claim or swap at once, one wins.
fn one_wins(home: &Home) {
    const THREADS: usize = 8;
    let wins = std::thread::scope(|scope| {
        let contend = |number: usize| {
            home.ask(async move {
                let mut won = 0;
                for round in 0..50 {
                    let (key, mine) = (format!("test:race:{round}"), Bytes::from(number.to_string()));
                    won += usize::from(home.records().insert_if_absent(&key, mine, LIFE).await == Ok(Insert::Inserted));
                }
                won
            })
        };
        let threads: Vec<_> = (0..THREADS).map(|number| scope.spawn(move || contend(number))).collect();
        threads.into_iter().map(|it| it.join().unwrap()).sum::<usize>()
    });
    assert_eq!(wins, 50);
}

#[test]
fn values_in_memory_keep_the_contract() {
    let home = Home::open("memory: {}");
    conforms(&home);
    one_wins(&home);
}

#[test]
fn values_in_redis_keep_the_contract() {
    let redis = Redis::start();
    let home = Home::of(&redis);
    conforms(&home);
    one_wins(&home);
    // Nothing stays for good, and nothing is outside our prefix.
    let keys: Vec<String> = redis.ask(&["KEYS", "*"]);
    assert!(keys.iter().all(|it| it.starts_with("moongate:test:")), "{keys:?}");
    for key in keys {
        assert!(redis.ask::<i64>(&["PTTL", &key]) > 0, "{key}");
    }
    // Scripts that Redis has forgotten are told again.
    redis.ask::<()>(&["SCRIPT", "FLUSH"]);
    assert_eq!(home.ask(home.records().insert_if_absent("test:flushed", bytes("1"), LIFE)), Ok(Insert::Inserted));
}

#[test]
fn gateways_share_what_is_in_redis_and_hear_each_other() {
    let redis = Redis::start();
    let (one, two) = (Home::of(&redis), Home::of(&redis));
    assert_eq!(one.ask(one.records().insert_if_absent("test:a", bytes("1"), LIFE)), Ok(Insert::Inserted));
    assert_eq!(two.ask(two.records().insert_if_absent("test:a", bytes("2"), LIFE)), Ok(Insert::Exists(bytes("1"))));

    let (mut here, mut there) = (one.state.pubsub.subscribe("tokens"), two.state.pubsub.subscribe("tokens"));
    let mut elsewhere = two.state.pubsub.subscribe("cache");
    one.ask(one.state.pubsub.publish("tokens", bytes("first"))).unwrap();
    one.ask(one.state.pubsub.publish("cache", bytes("other"))).unwrap();
    one.ask(one.state.pubsub.publish("tokens", bytes("second"))).unwrap();
    for listener in [&mut here, &mut there] {
        // Our own are heard once, although Redis gives them back.
        assert_eq!(one.ask(listener.next()), Some(Received::Message(bytes("first"))));
        assert_eq!(one.ask(listener.next()), Some(Received::Message(bytes("second"))));
    }
    assert_eq!(one.ask(elsewhere.next()), Some(Received::Message(bytes("other"))));
}

#[test]
fn a_redis_that_is_gone_fails_calls_at_once_and_comes_back_by_itself() {
    let mut redis = Redis::start();
    let home = Home::of(&redis);
    let mut messages = home.state.pubsub.subscribe("tokens");
    home.ask(home.records().write("test:a", bytes("1"), LIFE)).unwrap();
    redis.stop();
    eventually("calls fail", || home.available().is_none().then_some(()));
    for _ in 0..1_000 {
        // Without having waited for anything once.
        assert_eq!(home.records().read("test:a").now_or_never(), Some(Err(Unavailable)));
    }
    // Those in this gateway hear a notice all the same.
    assert_eq!(home.ask(home.state.pubsub.publish("tokens", bytes("1"))), Err(Unavailable));
    assert_eq!(home.ask(messages.next()), Some(Received::Message(bytes("1"))));

    redis.restart();
    eventually("calls succeed again", || home.available());
    assert_eq!(home.ask(home.records().read("test:a")), Ok(None));
    // What others said meanwhile can't be known.
    assert_eq!(home.ask(messages.next()), Some(Received::Lagged));
    let other = Home::of(&redis);
    other.ask(other.state.pubsub.publish("tokens", bytes("2"))).unwrap();
    assert_eq!(home.ask(messages.next()), Some(Received::Message(bytes("2"))));
}

#[test]
fn a_redis_that_hangs_is_given_up_and_taken_back() {
    let redis = Redis::start();
    let home = Home::of(&redis);
    redis.pause();
    assert_eq!(home.ask(home.records().write("test:a", bytes("1"), LIFE)), Err(Unavailable));
    // From the first call without an answer on, none waits for anything: one that hangs gets no other connection.
    for _ in 0..200 {
        assert_eq!(home.records().read("test:a").now_or_never(), Some(Err(Unavailable)));
    }
    redis.resume();
    eventually("calls succeed again", || home.available());
}

#[test]
fn a_redis_that_says_no_is_unavailable_for_what_it_refuses() {
    let redis = Redis::start();
    let home = Home::of(&redis);
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(home.ask(home.records().write("test:a", bytes("1"), LIFE)), Err(Unavailable));
    assert_eq!(home.ask(home.records().insert_if_absent("test:a", bytes("1"), LIFE)), Err(Unavailable));
    // Reading goes on: the connection is sound.
    assert_eq!(home.ask(home.records().read("test:a")), Ok(None));
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    home.ask(home.records().write("test:a", bytes("1"), LIFE)).unwrap();
}

#[test]
fn a_redis_that_was_never_there_does_not_hinder_the_start() {
    let mut redis = Redis::start();
    redis.stop();
    let home = Home::of(&redis);
    assert_eq!(home.ask(home.records().read("test:a")), Err(Unavailable));
    redis.restart();
    eventually("calls succeed", || home.available());
    drop(home.side);
}

const ROUTES: &str = "version: 1\n";

fn config(state: &str) -> String {
    format!("{}state: {state}\n", crate::support::gateway::CONFIG)
}

#[test]
fn the_gateway_tells_whether_its_state_is_there() {
    let mut redis = Redis::start();
    let config = config("{ redis: { url: \"${REDIS_URL}\" } }");
    let gateway = Gateway::with(ROUTES).config(config).env("REDIS_URL", redis.url()).start();
    assert_eq!(figure(&gateway, "moongate_state_up"), Some(1.0));
    assert_eq!(gateway.admin_get("/admin/limits").json()["state"]["up"], true);
    redis.stop();
    gateway.wait_for_event("state_unavailable", |it| it["backend"] == "redis");
    eventually("the gauge", || (figure(&gateway, "moongate_state_up") == Some(0.0)).then_some(()));
    redis.restart();
    gateway.wait_for_event("state_available", |_| true);
    eventually("the gauge", || (figure(&gateway, "moongate_state_up") == Some(1.0)).then_some(()));
}

#[test]
fn the_place_of_the_state_can_not_change_while_the_process_runs() {
    let gateway = Gateway::with(ROUTES).config(config("{ memory: {} }")).start();
    gateway.folder().write("gateway.yaml", config("{ memory: { entries_max: 5 } }"));
    let answer = gateway.reload();
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(answer.text().contains("state can't change while the process runs"), "{}", answer.text());
}

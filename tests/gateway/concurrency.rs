//! Upstreams that work on so many requests at once: who waits, who is served first, and who is shed (R5.2).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::resilience::upstream;
use crate::support::http1::request_bytes;
use crate::support::upstream::{answer_bytes, chunk, last_chunk};
use crate::support::*;

/// Holds each request until its path is let go.
struct Held {
    upstream: RawUpstream,
    gates: Arc<Mutex<HashMap<String, Signal>>>,
}

impl Held {
    fn start() -> Self {
        let gates: Arc<Mutex<HashMap<String, Signal>>> = Arc::default();
        let of_path = gates.clone();
        let upstream = RawUpstream::start(move |request| {
            let gate = of_path.lock().unwrap().entry(request.target()).or_default().clone();
            Script::new().read_body().wait(&gate).send(answer_bytes(200, &[], request.target().as_bytes()))
        });
        Self { upstream, gates }
    }

    fn let_go(&self, path: &str) {
        self.gates.lock().unwrap().entry(path.to_owned()).or_default().give();
    }

    /// The paths that came, in order.
    fn came(&self) -> Vec<String> {
        let word = |it: &Vec<u8>| String::from_utf8_lossy(it).split(' ').nth(1).unwrap().to_owned();
        self.upstream.requests().iter().map(word).collect()
    }

    fn gateway(&self, settings: &str) -> Gateway {
        Gateway::start(self.routes(settings))
    }

    fn routes(&self, settings: &str) -> String {
        let route = |name: &str| {
            format!(
                "  - {{ name: {name}, match: {{ path: \"/{name}/{{x}}\" }}, upstream: backend, priority: {name} }}\n"
            )
        };
        format!(
            "version: 1
upstreams:
  backend:
    discovery: {{ static: [\"{}\"] }}
{settings}
routes:
{}{}{}",
            self.upstream.address(),
            route("therapeutic"),
            route("normal"),
            route("background"),
        )
    }
}

/// Sends a request and does not wait for its answer.
fn ask(gateway: &Gateway, path: &str) -> RawClient {
    let mut wire = RawClient::connect(gateway.public());
    wire.send(request_bytes(gateway.public(), "GET", path, &[], b""));
    wire
}

fn shown(gateway: &Gateway, key: &str) -> u64 {
    upstream(gateway)["concurrency"][key].as_u64().unwrap()
}

fn wait_for(gateway: &Gateway, key: &str, count: u64) {
    eventually(&format!("{key}: {count}"), || (shown(gateway, key) == count).then_some(()));
}

fn is_shed(answer: &Response) {
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("upstream_overloaded")));
    assert!(answer.header("retry-after").is_some());
}

#[test]
fn r5_2_what_is_more_than_the_upstream_works_on_waits_and_therapeutic_comes_first() {
    let backend = Held::start();
    let gateway = backend.gateway("    concurrency: { max: 1, queue: 10, queue_timeout: 60s }");
    let mut wires = vec![ask(&gateway, "/normal/held")];
    backend.upstream.wait_for_requests(1);
    for (waiting, path) in ["/background/1", "/normal/1", "/normal/2", "/therapeutic/1"].into_iter().enumerate() {
        wires.push(ask(&gateway, path));
        wait_for(&gateway, "waiting", waiting as u64 + 1);
    }
    assert_eq!(backend.came(), ["/normal/held"], "one at a time");
    assert_eq!(figure(&gateway, "moongate_upstream_concurrency_waiting{upstream=\"backend\"}"), Some(4.0));
    assert_eq!(figure(&gateway, "moongate_upstream_concurrency_in_use{upstream=\"backend\"}"), Some(1.0));
    let expected = ["/normal/held", "/therapeutic/1", "/normal/1", "/normal/2", "/background/1"];
    for (served, path) in expected.iter().enumerate() {
        backend.upstream.wait_for_requests(served + 1);
        backend.let_go(path);
    }
    let answers: Vec<String> = wires.iter_mut().map(|it| it.read_response().text()).collect();
    assert_eq!(answers, ["/normal/held", "/background/1", "/normal/1", "/normal/2", "/therapeutic/1"]);
    assert_eq!(backend.came(), expected);
    wait_for(&gateway, "in_use", 0);
    let queued = gateway.wait_for_event("request", |it| it["path"] == "/therapeutic/1");
    assert!(queued["queued_ms"].as_f64().is_some_and(|it| it > 0.0), "{queued}");
}

#[test]
fn r5_2_a_full_queue_sheds_the_least_important() {
    let backend = Held::start();
    let gateway = backend.gateway("    concurrency: { max: 1, queue: 1, queue_timeout: 60s }");
    let mut held = ask(&gateway, "/normal/held");
    backend.upstream.wait_for_requests(1);
    let mut background = ask(&gateway, "/background/1");
    wait_for(&gateway, "waiting", 1);
    is_shed(&gateway.get("/background/2"));
    let mut normal = ask(&gateway, "/normal/1");
    is_shed(&background.read_response());
    let mut therapeutic = ask(&gateway, "/therapeutic/1");
    is_shed(&normal.read_response());
    is_shed(&gateway.get("/therapeutic/2"));
    for path in ["/normal/held", "/therapeutic/1"] {
        backend.let_go(path);
    }
    assert_eq!((held.read_response().status, therapeutic.read_response().text()), (200, "/therapeutic/1".to_owned()));
    let shed = |class: &str| {
        let series = format!("moongate_upstream_shed_total{{priority=\"{class}\",upstream=\"backend\"}}");
        figure(&gateway, &series).unwrap()
    };
    assert_eq!([shed("background"), shed("normal"), shed("therapeutic")], [2.0, 1.0, 1.0]);
    assert_eq!(shown(&gateway, "shed"), 4);
    assert_eq!(upstream(&gateway)["breaker"], Value::Null);
}

#[test]
fn without_a_queue_what_is_too_much_is_shed_at_once_and_a_bad_turn_is_no_failure() {
    let backend = Held::start();
    let gateway = backend.gateway("    concurrency: { max: 2, queue: 0 }\n    breaker: { open_after: 1 }");
    let mut held = [ask(&gateway, "/normal/1"), ask(&gateway, "/normal/1")];
    backend.upstream.wait_for_requests(2);
    (0..3).for_each(|_| is_shed(&gateway.get("/therapeutic/1")));
    assert_eq!(upstream(&gateway)["breaker"], "closed", "the upstream did nothing wrong");
    backend.let_go("/normal/1");
    assert!(held.iter_mut().all(|it| it.read_response().status == 200));
    backend.let_go("/therapeutic/1");
    eventually("there is room again", || (gateway.get("/therapeutic/1").status == 200).then_some(()));
}

#[test]
fn nobody_waits_for_longer_than_the_queue_allows_and_who_leaves_makes_room() {
    let backend = Held::start();
    let gateway = backend.gateway("    concurrency: { max: 1, queue: 1, queue_timeout: 150ms }");
    let mut held = ask(&gateway, "/normal/held");
    backend.upstream.wait_for_requests(1);
    is_shed(&gateway.get("/normal/late"));
    assert_eq!(shown(&gateway, "waiting"), 0);
    gateway.write_routes(&backend.routes("    concurrency: { max: 1, queue: 1, queue_timeout: 60s }"));
    assert_eq!(gateway.reload().status, 200);
    let gone = ask(&gateway, "/normal/gone");
    wait_for(&gateway, "waiting", 1);
    drop(gone);
    wait_for(&gateway, "waiting", 0);
    let mut stays = ask(&gateway, "/normal/stays");
    wait_for(&gateway, "waiting", 1);
    ["/normal/held", "/normal/stays"].iter().for_each(|it| backend.let_go(it));
    assert_eq!((held.read_response().status, stays.read_response().text()), (200, "/normal/stays".to_owned()));
    assert_eq!(backend.came(), ["/normal/held", "/normal/stays"], "who left was never sent");
}

#[test]
fn a_reload_keeps_count_and_a_higher_limit_lets_in_who_waits() {
    let backend = Held::start();
    let gateway = backend.gateway("    concurrency: { max: 1, queue: 5, queue_timeout: 60s }");
    let mut wires = vec![ask(&gateway, "/normal/1")];
    backend.upstream.wait_for_requests(1);
    wires.extend([ask(&gateway, "/normal/2"), ask(&gateway, "/normal/3")]);
    wait_for(&gateway, "waiting", 2);
    gateway.write_routes(&backend.routes("    concurrency: { max: 2, queue: 5, queue_timeout: 60s }"));
    assert_eq!(gateway.reload().status, 200);
    backend.upstream.wait_for_requests(2);
    assert_eq!((shown(&gateway, "in_use"), shown(&gateway, "waiting")), (2, 1));
    // Without a limit those who wait are served all the same.
    gateway.write_routes(&backend.routes(""));
    assert_eq!(gateway.reload().status, 200);
    ["/normal/1", "/normal/2", "/normal/3"].iter().for_each(|it| backend.let_go(it));
    assert!(wires.iter_mut().all(|it| it.read_response().status == 200));
    assert_eq!(figure(&gateway, "moongate_upstream_concurrency_limit{upstream=\"backend\"}"), None);
}

#[test]
fn a_body_counts_to_its_end_and_a_stream_to_its_head() {
    let ends = Signal::new();
    let waits = ends.clone();
    let backend = RawUpstream::start(move |request| {
        let kind = if request.target() == "/stream" { "text/event-stream" } else { "text/plain" };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
        Script::new().read_body().send(head).send(chunk(b"data: 1\n\n")).wait(&waits).send(last_chunk(&[]))
    });
    let gateway = crate::resilience::gateway("    concurrency: { max: 1, queue: 0 }", &[backend.address()]);
    let mut stream = ask(&gateway, "/stream");
    assert_eq!(stream.read_head().status, 200);
    assert!(stream.try_read_piece().unwrap().is_some());
    wait_for(&gateway, "in_use", 0);
    let mut body = ask(&gateway, "/body");
    assert_eq!(body.read_head().status, 200);
    assert!(body.try_read_piece().unwrap().is_some());
    assert_eq!(shown(&gateway, "in_use"), 1);
    is_shed(&gateway.get("/more"));
    ends.give();
    while body.try_read_piece().unwrap().is_some() {}
    wait_for(&gateway, "in_use", 0);
}

#[test]
fn a_request_that_is_sent_again_keeps_its_place() {
    let (bad, good) = (nobody(), RawUpstream::start(|_| Script::ok("good")));
    let gateway = crate::resilience::gateway("    concurrency: { max: 1, queue: 0 }", &[bad, good.address()]);
    for _ in 0..10 {
        assert_eq!(gateway.get("/").text(), "good");
    }
    wait_for(&gateway, "in_use", 0);
}

#[test]
fn an_adaptive_limit_is_shown_and_holds() {
    let backend = Held::start();
    let gateway = backend.gateway("    concurrency: { max: adaptive, queue: 0 }");
    assert_eq!(upstream(&gateway)["concurrency"]["adaptive"], true);
    let limit = shown(&gateway, "limit");
    let mut wires: Vec<RawClient> = (0..limit).map(|_| ask(&gateway, "/normal/1")).collect();
    backend.upstream.wait_for_requests(limit as usize);
    is_shed(&gateway.get("/normal/2"));
    backend.let_go("/normal/1");
    assert!(wires.iter_mut().all(|it| it.read_response().status == 200));
    assert_eq!(
        figure(&gateway, "moongate_upstream_concurrency_limit{upstream=\"backend\"}"),
        Some(shown(&gateway, "limit") as f64)
    );
}

/// Works on so many requests at once, each for some time, and lets the others wait: a machine that is loaded.
fn loaded(at_once: usize, time: Duration) -> RawUpstream {
    let room = Arc::new((Mutex::new(at_once), Condvar::new()));
    RawUpstream::start(move |_| {
        let (free, more) = &*room;
        let mut places = more.wait_while(free.lock().unwrap(), |it| *it == 0).unwrap();
        *places -= 1;
        drop(places);
        let_pass(time);
        *free.lock().unwrap() += 1;
        more.notify_one();
        Script::ok("done")
    })
}

/// R5.2: the limit comes near what the upstream can do, and what is too much is shed, the least important first.
#[test]
fn r5_2_an_adaptive_limit_finds_what_an_upstream_can_do_and_sheds_the_least_important() {
    const AT_ONCE: usize = 4;
    let backend = loaded(AT_ONCE, Duration::from_millis(25));
    let routes = |name: &str| {
        format!("  - {{ name: {name}, match: {{ path: \"/{name}\" }}, upstream: backend, priority: {name} }}\n")
    };
    let gateway = Gateway::start(format!(
        "version: 1\nupstreams:\n  backend:\n    discovery: {{ static: [\"{}\"] }}\n    \
         concurrency: {{ max: adaptive, queue: 4, queue_timeout: 9s }}\nroutes:\n{}{}",
        backend.address(),
        routes("therapeutic"),
        routes("background")
    ));
    let first = shown(&gateway, "limit");
    assert!(first > 3 * AT_ONCE as u64, "{first} is more than it can do");
    // What an answer takes while there is little to do: a window has ten of them at least.
    for _ in 0..25 {
        assert_eq!(gateway.get("/therapeutic").status, 200);
    }
    let ended = AtomicBool::new(false);
    let counts = |path: &'static str| {
        let (mut served, mut shed) = (0, 0);
        while !ended.load(Ordering::Relaxed) {
            let answer = gateway.get(path);
            match answer.status {
                200 => served += 1,
                _ => {
                    is_shed(&answer);
                    shed += 1;
                    let_pass(Duration::from_millis(10)); // as somebody who comes back later
                }
            }
        }
        (served, shed)
    };
    thread::scope(|scope| {
        // As many of importance as fit, and far more of none.
        let important: Vec<_> = (0..3).map(|_| scope.spawn(|| counts("/therapeutic"))).collect();
        let others: Vec<_> = (0..30).map(|_| scope.spawn(|| counts("/background"))).collect();
        let limit = || shown(&gateway, "limit");
        eventually("the limit comes near what the upstream can do", || {
            (limit() <= 3 * AT_ONCE as u64 && limit() >= AT_ONCE as u64).then_some(())
        });
        let_pass(Duration::from_millis(500));
        ended.store(true, Ordering::Relaxed);
        let sum = |them: Vec<thread::ScopedJoinHandle<'_, (u32, u32)>>| {
            them.into_iter().map(|it| it.join().unwrap()).fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1))
        };
        let (important, others) = (sum(important), sum(others));
        assert_eq!(important.1, 0, "none of importance was shed: {important:?} {others:?}");
        assert!(important.0 > 0 && others.1 > 0, "{important:?} {others:?}");
    });
    wait_for(&gateway, "in_use", 0);
    wait_for(&gateway, "waiting", 0);
}

#[test]
fn limits_that_make_no_sense_are_refused_at_check() {
    let backend = Held::start();
    for (settings, fault) in [
        ("concurrency: { max: 0 }", "must be from 1 to 1000000"),
        ("concurrency: { max: 5, queue: 10001 }", "must be at most 10000"),
        ("concurrency: { max: 5, queue_timeout: 0s }", "must be longer than nothing"),
        ("hedge: { after: 0s }", "must be at least 1ms"),
        ("hedge: { after: p42 }", "p42"),
    ] {
        let refused = Gateway::with(backend.routes(&format!("    {settings}"))).start_refused();
        assert!(refused.stderr.contains(fault), "{settings}: {}", refused.stderr);
    }
}

//! Requests whose answer is late go to a second endpoint as well (R9.5).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::resilience::{Backend, gateway, upstream};
use crate::support::http1::request_bytes;
use crate::support::upstream::answer_bytes;
use crate::support::*;

/// Answers nothing until it is told to, or until the other side closes; then with its name.
struct Stuck {
    upstream: RawUpstream,
    asked: Arc<AtomicUsize>,
    gate: Signal,
}

impl Stuck {
    fn start(status: u16) -> Self {
        let (asked, gate) = (Arc::new(AtomicUsize::new(0)), Signal::new());
        let (counts, waits) = (asked.clone(), gate.clone());
        let upstream = RawUpstream::start(move |_| {
            counts.fetch_add(1, Ordering::SeqCst);
            Script::new().read_body().wait(&waits).send(answer_bytes(status, &[], b"stuck"))
        });
        Self { upstream, asked, gate }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn hedges(gateway: &Gateway, result: &str) -> f64 {
    let series = format!("moongate_upstream_hedges_total{{result=\"{result}\",upstream=\"backend\"}}");
    figure(gateway, &series).unwrap()
}

const HEDGE: &str = "    hedge: { after: 20ms, budget: shared }\n    retries: { report: true }";

#[test]
fn r9_5_a_late_answer_is_asked_of_a_second_endpoint_and_the_first_is_let_go() {
    let (stuck, quick) = (Stuck::start(200), Backend::start("quick"));
    let gateway = gateway(HEDGE, &[stuck.upstream.address(), quick.upstream.address()]);
    let answers: Vec<Response> = (0..6).map(|_| gateway.get("/")).collect();
    assert!(answers.iter().all(|it| it.status == 200 && it.text() == "quick"));
    assert!(stuck.asked() >= 1, "round robin begins with each in turn");
    let twice = answers.iter().filter(|it| it.header("x-moongate-attempts") == Some("2")).count();
    assert_eq!(twice, stuck.asked(), "who got the stuck one was sent twice");
    assert_eq!(hedges(&gateway, "won") as usize, twice);
    // Nothing stays open behind a lost race.
    stuck.gate.give();
    stuck.upstream.wait_for_closed(stuck.upstream.connections());
    let line = gateway.wait_for_event("request", |it| it["attempts"] == 2);
    assert_eq!(line["endpoint"], quick.upstream.address().to_string());
    eventually("nothing is in flight", || {
        let page = upstream(&gateway);
        page["endpoints"].as_array().unwrap().iter().all(|it| it["in_flight"] == 0).then_some(())
    });
    assert_eq!(upstream(&gateway)["hedge_after_ms"], 20.0);
}

#[test]
fn only_what_is_safe_is_sent_twice() {
    let (one, two) = (Stuck::start(200), Stuck::start(200));
    let gateway = gateway(HEDGE, &[one.upstream.address(), two.upstream.address()]);
    let mut wires: Vec<RawClient> = [("POST", ""), ("PUT", "x"), ("DELETE", "")]
        .into_iter()
        .map(|(method, body)| {
            let mut wire = RawClient::connect(gateway.public());
            wire.send(request_bytes(gateway.public(), method, "/", &[], body.as_bytes()));
            wire
        })
        .collect();
    eventually("each was sent", || (one.asked() + two.asked() == 3).then_some(()));
    let_pass(Duration::from_millis(100));
    assert_eq!(one.asked() + two.asked(), 3, "and none twice");
    [&one, &two].iter().for_each(|it| it.gate.give());
    assert!(wires.iter_mut().all(|it| it.read_response().status == 200));
    assert_eq!((hedges(&gateway, "won"), hedges(&gateway, "lost")), (0.0, 0.0));
}

#[test]
fn a_failure_never_wins_and_the_first_answer_is_still_waited_for() {
    let (stuck, bad) = (Stuck::start(200), Backend::start("bad"));
    bad.fail(true);
    let gateway = gateway(
        &format!("{HEDGE}\n    outliers: {{ consecutive_5xx: 100 }}"),
        &[stuck.upstream.address(), bad.upstream.address()],
    );
    let mut wire = RawClient::connect(gateway.public());
    eventually("the first goes to the one that is stuck", || {
        if stuck.asked() == 0 {
            wire = RawClient::connect(gateway.public());
            wire.send(request_bytes(gateway.public(), "GET", "/", &[], b""));
            eventually("it is sent", || (stuck.asked() + bad.asked() > 0).then_some(()));
        }
        (stuck.asked() == 1).then_some(())
    });
    eventually("the second failed", || (bad.asked() >= 1).then_some(()));
    stuck.gate.give();
    assert_eq!(wire.read_response().text(), "stuck");
    eventually("it lost", || (hedges(&gateway, "lost") == 1.0).then_some(()));
}

#[test]
fn hedges_are_paid_from_the_budget_of_retries() {
    let (one, two) = (Stuck::start(200), Stuck::start(200));
    let settings = "    hedge: { after: 5ms }\n    retries: { budget: 0% }";
    let gateway = gateway(settings, &[one.upstream.address(), two.upstream.address()]);
    let mut wires: Vec<RawClient> = (0..60)
        .map(|_| {
            let mut wire = RawClient::connect(gateway.public());
            wire.send(request_bytes(gateway.public(), "GET", "/", &[], b""));
            wire
        })
        .collect();
    // The floor is 3 a second over 10 seconds; it slides while a busy machine takes its time.
    let denied = "moongate_upstream_retries_total{result=\"over_budget\",upstream=\"backend\"}";
    eventually("the budget is used up", || figure(&gateway, denied).filter(|it| *it >= 10.0));
    let sent = one.asked() + two.asked();
    assert!(sent < 110, "a total outage multiplies nothing: {sent} for 60");
    [&one, &two].iter().for_each(|it| it.gate.give());
    assert!(wires.iter_mut().all(|it| it.read_response().status == 200));
}

#[test]
fn the_time_comes_from_what_most_answers_took() {
    let (one, two) = (Backend::start("one"), Backend::start("two"));
    let gateway = gateway("    hedge: { after: p95 }", &[one.upstream.address(), two.upstream.address()]);
    assert!(upstream(&gateway)["hedge_after_ms"].is_null(), "nothing is known yet");
    (0..100).for_each(|_| assert_eq!(gateway.get("/").status, 200));
    assert!(upstream(&gateway)["hedge_after_ms"].as_f64().is_some_and(|it| it >= 1.0));
}
